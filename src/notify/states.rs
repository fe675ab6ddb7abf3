//! Decides which notifications are due. No I/O.
//!
//! Each condition of an app has at most one row, which records the last notification about it. A
//! process claims a notification in the row before it sends it, and marks it delivered afterwards.
//! The state in the row is first *begins*, then *lasts* once a day, and finally *ends*. The row is
//! kept after the end. A claim is a compare-and-swap: it takes effect only if the row is still as
//! the process read it. So a process that read the row before the end cannot claim a second
//! beginning.
//!
//! A claim belongs to the process that made it until the notification is delivered. If the claim is
//! not renewed for [`CLAIM_EXPIRES_AFTER`], its process has probably ended, and another process may
//! take it over.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};

use super::message::{ConditionState, Event};
use crate::model::SdkAppId;
use crate::store::{NotificationChange, NotificationRow};

/// The time between two notifications of a condition that lasts.
pub const REPEAT_AFTER: TimeDelta = TimeDelta::days(1);
/// The age at which the claim of an undelivered notification is renewed.
const RENEW_CLAIM_AFTER: TimeDelta = TimeDelta::minutes(5);
/// The age at which another process takes over the claim of an undelivered notification.
pub const CLAIM_EXPIRES_AFTER: TimeDelta = TimeDelta::minutes(15);

/// Identifies a condition. `app` is `None` for a condition of the process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ConditionKey {
    pub(super) app: Option<SdkAppId>,
    pub(super) event: Event,
}

impl ConditionKey {
    /// Returns the key of a row. Returns `None` if the row has an event of another program version.
    pub(super) fn of(row: &NotificationRow) -> Option<Self> {
        let event = Event::CONDITIONS.into_iter().find(|event| event.as_str() == row.event)?;
        Some(Self { app: SdkAppId::new(row.sdk_app_id), event })
    }
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    Yes {
        /// Whether it has held long enough for a notification.
        is_debounced: bool,
    },
    No,
    /// Nothing proves that it holds or that it has ended.
    Unknown,
}

/// The notifications that this process has claimed and not yet recorded as delivered.
pub(super) type InFlight = BTreeSet<(ConditionKey, ConditionState)>;

/// A claim that has to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) key: ConditionKey,
    pub(super) state: ConditionState,
    pub(super) change: NotificationChange,
    /// True if the claim only extends an earlier one, so that nothing is sent.
    pub(super) is_renewal: bool,
}

/// Decides which notifications one process claims.
#[derive(Clone, Copy, Debug)]
pub(super) struct ClaimPlanner<'a> {
    /// The random token of this process.
    pub(super) process: &'a str,
    pub(super) now: DateTime<Utc>,
}

impl ClaimPlanner<'_> {
    /// Returns the claims to record. `rows` are the rows of the conditions in `holds`: either of
    /// all apps, or of this process.
    pub(super) fn claims(
        &self,
        rows: &[NotificationRow],
        holds: &BTreeMap<ConditionKey, Holds>,
        in_flight: &InFlight,
    ) -> Vec<Claim> {
        let rows: BTreeMap<ConditionKey, &NotificationRow> =
            rows.iter().filter_map(|row| Some((ConditionKey::of(row)?, row))).collect();
        holds
            .iter()
            .filter_map(|(key, holds)| match rows.get(key) {
                Some(row) => self.claim_for_row(*key, row, *holds, in_flight),
                None if *holds == (Holds::Yes { is_debounced: true }) => {
                    Some(self.claim_beginning(*key, None))
                }
                None => None,
            })
            .collect()
    }

    /// Returns the claim for a condition that has a row.
    fn claim_for_row(
        &self,
        key: ConditionKey,
        row: &NotificationRow,
        holds: Holds,
        in_flight: &InFlight,
    ) -> Option<Claim> {
        // A state of another version counts as the beginning.
        let state = ConditionState::ALL.into_iter().find(|state| state.as_str() == row.state);
        let state = state.unwrap_or(ConditionState::Begins);
        if let Some(delivered_at) = row.delivered_at {
            return match holds {
                Holds::Yes { is_debounced: true } if state == ConditionState::Ends => {
                    Some(self.claim_beginning(key, Some(row)))
                }
                _ if state == ConditionState::Ends => None,
                Holds::No => Some(self.claim_state(key, row, ConditionState::Ends)),
                Holds::Yes { .. } if self.age(delivered_at) >= REPEAT_AFTER => {
                    Some(self.claim_state(key, row, ConditionState::Lasts))
                }
                _ => None,
            };
        }
        if in_flight.contains(&(key, state)) {
            if state != ConditionState::Ends && holds == Holds::No {
                return Some(self.claim_state(key, row, ConditionState::Ends));
            }
            let is_old = self.age(row.claimed_at) >= RENEW_CLAIM_AFTER;
            return is_old.then(|| Claim { is_renewal: true, ..self.claim_state(key, row, state) });
        }
        // A claim of this process that is not in flight was recorded although its result was lost.
        let is_abandoned = row.claimed_by == self.process || self.age(row.claimed_at) >= CLAIM_EXPIRES_AFTER;
        if !is_abandoned {
            return None;
        }
        match (state, holds) {
            (ConditionState::Ends, Holds::Yes { is_debounced: true }) => {
                Some(self.claim_beginning(key, Some(row)))
            }
            (ConditionState::Ends, _) | (_, Holds::No) => {
                Some(self.claim_state(key, row, ConditionState::Ends))
            }
            (state, Holds::Yes { .. }) => Some(self.claim_state(key, row, state)),
            (_, Holds::Unknown) => None,
        }
    }

    /// Returns the absolute difference between now and a time. A time in the future counts as well,
    /// because the clock may have been set back.
    fn age(&self, millis: i64) -> TimeDelta {
        TimeDelta::milliseconds(self.now.timestamp_millis().saturating_sub(millis)).abs()
    }

    /// Returns a claim for the beginning of a condition. `previous` is its row, if it has one.
    fn claim_beginning(&self, key: ConditionKey, previous: Option<&NotificationRow>) -> Claim {
        self.new_claim(key, ConditionState::Begins, self.now.timestamp_millis(), previous)
    }

    /// Returns a claim for a state of a condition that has a row. Keeps the time at which the
    /// condition began.
    fn claim_state(&self, key: ConditionKey, row: &NotificationRow, state: ConditionState) -> Claim {
        self.new_claim(key, state, row.begun_at, Some(row))
    }

    fn new_claim(
        &self,
        key: ConditionKey,
        state: ConditionState,
        begun_at: i64,
        previous: Option<&NotificationRow>,
    ) -> Claim {
        let new = NotificationRow {
            sdk_app_id: key.app.map_or(0, SdkAppId::get),
            event: key.event.as_str().to_owned(),
            state: state.as_str().to_owned(),
            begun_at,
            claimed_at: self.now.timestamp_millis(),
            claimed_by: self.process.to_owned(),
            delivered_at: None,
        };
        let change = NotificationChange::Claim { previous: previous.cloned(), new };
        Claim { key, state, change, is_renewal: false }
    }
}

/// Returns the change that records that a notification was delivered or given up.
pub(super) fn delivered_change(row: NotificationRow, at: DateTime<Utc>) -> NotificationChange {
    NotificationChange::Deliver { row, at: at.timestamp_millis() }
}

/// Returns whether the notification about the end of the condition was delivered.
pub(super) fn is_end_delivered(row: &NotificationRow) -> bool {
    row.state == ConditionState::Ends.as_str() && row.delivered_at.is_some()
}

/// The last notifications about the conditions of this process. They are kept in memory, because no
/// other process sends them.
#[derive(Debug, Default)]
pub(super) struct ProcessRows(Vec<NotificationRow>);

impl ProcessRows {
    pub(super) fn rows(&self) -> &[NotificationRow] {
        &self.0
    }

    /// Applies a change, as the store does for the rows of the apps.
    pub(super) fn apply(&mut self, change: &NotificationChange) {
        match change {
            NotificationChange::Claim { new, .. } => {
                self.0.retain(|row| row.event != new.event);
                self.0.push(new.clone());
            }
            NotificationChange::Deliver { row, at } => self
                .0
                .iter_mut()
                .filter(|own| own.event == row.event && own.state == row.state)
                .for_each(|own| own.delivered_at = Some(*at)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DEBOUNCED: Holds = Holds::Yes { is_debounced: true };

    fn start() -> DateTime<Utc> {
        "2026-03-10T09:00:00Z".parse().unwrap()
    }

    /// Stands in for the database: the row of one condition that several processes check.
    #[derive(Default)]
    struct Rows(ProcessRows);

    impl Rows {
        /// Checks the condition on behalf of a process. Records its claim, and returns the state of
        /// the notification that it sends.
        fn check(
            &mut self,
            process: &str,
            minutes: i64,
            holds: Holds,
            in_flight: &[ConditionState],
        ) -> Option<ConditionState> {
            let now = start() + TimeDelta::minutes(minutes);
            let key = ConditionKey { app: None, event: Event::Withheld };
            let in_flight = in_flight.iter().map(|state| (key, *state)).collect();
            let holds = [(key, holds)].into();
            let claims = ClaimPlanner { process, now }.claims(self.0.rows(), &holds, &in_flight);
            let claim = claims.first()?;
            self.0.apply(&claim.change);
            (!claim.is_renewal).then_some(claim.state)
        }

        fn deliver(&mut self, minutes: i64, state: ConditionState) {
            let row = self.0.rows()[0].clone();
            let row = NotificationRow { state: state.as_str().to_owned(), ..row };
            self.0.apply(&delivered_change(row, start() + TimeDelta::minutes(minutes)));
        }
    }

    #[test]
    fn a_notification_is_sent_when_a_condition_begins_once_a_day_and_when_it_ends() {
        let mut rows = Rows::default();
        assert_eq!(rows.check("a", 0, Holds::No, &[]), None);
        assert_eq!(rows.check("a", 1, Holds::Yes { is_debounced: false }, &[]), None);
        assert_eq!(rows.check("a", 2, DEBOUNCED, &[]), Some(ConditionState::Begins));
        rows.deliver(3, ConditionState::Begins);
        assert_eq!(rows.check("a", 24 * 60 + 2, DEBOUNCED, &[]), None);
        assert_eq!(rows.check("a", 24 * 60 + 3, DEBOUNCED, &[]), Some(ConditionState::Lasts));
        rows.deliver(24 * 60 + 4, ConditionState::Lasts);
        assert_eq!(rows.check("a", 24 * 60 + 5, Holds::Unknown, &[]), None);
        assert_eq!(rows.check("a", 24 * 60 + 6, Holds::No, &[]), Some(ConditionState::Ends));
        rows.deliver(24 * 60 + 7, ConditionState::Ends);
        assert_eq!(rows.check("a", 24 * 60 + 8, Holds::No, &[]), None);
        assert_eq!(rows.check("a", 24 * 60 + 9, DEBOUNCED, &[]), Some(ConditionState::Begins));
    }

    #[test]
    fn no_process_repeats_the_notification_of_another_one() {
        let mut rows = Rows::default();
        assert_eq!(rows.check("a", 0, DEBOUNCED, &[]), Some(ConditionState::Begins));
        assert_eq!(rows.check("b", 1, DEBOUNCED, &[]), None);
        rows.deliver(2, ConditionState::Begins);
        assert_eq!(rows.check("b", 3, DEBOUNCED, &[]), None);
        assert_eq!(rows.check("b", 4, Holds::No, &[]), Some(ConditionState::Ends));
        assert_eq!(rows.check("a", 5, Holds::No, &[]), None);
    }

    #[test]
    fn a_process_with_an_old_state_of_the_condition_cannot_claim_a_new_beginning() {
        let mut rows = Rows::default();
        assert_eq!(rows.check("a", 0, DEBOUNCED, &[]), Some(ConditionState::Begins));
        rows.deliver(1, ConditionState::Begins);
        let old = rows.0.rows().to_vec();
        assert_eq!(rows.check("a", 2, Holds::No, &[]), Some(ConditionState::Ends));
        rows.deliver(3, ConditionState::Ends);
        // The store compares the row that the other process has read with the stored one.
        assert_ne!(old, rows.0.rows());
        assert_eq!(rows.0.rows().len(), 1);
    }

    #[test]
    fn an_expired_claim_is_taken_over_and_a_renewed_one_is_not() {
        let mut rows = Rows::default();
        assert_eq!(rows.check("a", 0, DEBOUNCED, &[]), Some(ConditionState::Begins));
        assert_eq!(rows.check("a", 10, DEBOUNCED, &[ConditionState::Begins]), None);
        assert_eq!(rows.check("b", 24, DEBOUNCED, &[]), None);
        assert_eq!(rows.check("b", 25, DEBOUNCED, &[]), Some(ConditionState::Begins));
        assert_eq!(rows.check("a", 26, DEBOUNCED, &[]), None);
        assert_eq!(rows.check("c", 60, Holds::Unknown, &[]), None);
        assert_eq!(rows.check("c", 61, Holds::No, &[]), Some(ConditionState::Ends));
        assert_eq!(rows.check("d", 90, Holds::Unknown, &[]), Some(ConditionState::Ends));
    }

    #[test]
    fn the_end_follows_an_undelivered_beginning_from_the_same_process_only() {
        let mut rows = Rows::default();
        assert_eq!(rows.check("a", 0, DEBOUNCED, &[]), Some(ConditionState::Begins));
        assert_eq!(rows.check("b", 1, Holds::No, &[]), None);
        assert_eq!(rows.check("a", 2, Holds::No, &[ConditionState::Begins]), Some(ConditionState::Ends));
        assert_eq!(rows.check("a", 3, DEBOUNCED, &[ConditionState::Begins, ConditionState::Ends]), None);
        // The beginning is delivered. The end is not.
        let row = NotificationRow { state: "begins".to_owned(), ..rows.0.rows()[0].clone() };
        rows.0.apply(&delivered_change(row, start()));
        assert_eq!(rows.check("a", 4, DEBOUNCED, &[ConditionState::Ends]), None);
        rows.deliver(5, ConditionState::Ends);
        assert_eq!(rows.check("a", 6, DEBOUNCED, &[]), Some(ConditionState::Begins));
    }

    #[test]
    fn a_claim_whose_result_was_lost_is_made_again_at_once() {
        let mut rows = Rows::default();
        assert_eq!(rows.check("a", 0, DEBOUNCED, &[]), Some(ConditionState::Begins));
        assert_eq!(rows.check("a", 1, DEBOUNCED, &[]), Some(ConditionState::Begins));
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_end_the_daily_notifications() {
        let mut rows = Rows::default();
        assert_eq!(rows.check("a", 60 * 24 * 365, DEBOUNCED, &[]), Some(ConditionState::Begins));
        rows.deliver(60 * 24 * 365, ConditionState::Begins);
        assert_eq!(rows.check("a", 0, DEBOUNCED, &[]), Some(ConditionState::Lasts));
    }
}
