//! Decides which notifications are due. No I/O.
//!
//! Each condition of an app has at most one row that records what people were last told about it.
//! A notification is claimed in its row before it is sent, and marked delivered afterwards. Its
//! state goes from *begins*, over *lasts* once a day, to *ends*. The row stays, so that a process that
//! read the condition before it ended cannot claim a new beginning.
//!
//! A claim that is not delivered belongs to the process that made it. Another process takes it over
//! only if the claim was not renewed for [`CLAIM_EXPIRES_AFTER`], because then its process has
//! probably ended.

use std::collections::{BTreeMap, BTreeSet};

use chrono::{DateTime, TimeDelta, Utc};

use super::message::{Event, State};
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
pub(super) struct Key {
    pub(super) app: Option<SdkAppId>,
    pub(super) event: Event,
}

impl Key {
    /// Returns the key of a row. `None` if another version wrote the row.
    pub(super) fn of(row: &NotificationRow) -> Option<Self> {
        let event = Event::CONDITIONS.into_iter().find(|event| event.as_str() == row.event)?;
        Some(Self { app: SdkAppId::new(row.sdk_app_id), event })
    }
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Holds {
    /// It holds. `is_ripe`: for long enough to tell people.
    Yes {
        is_ripe: bool,
    },
    No,
    /// Nothing proves that it holds or that it has ended.
    Unknown,
}

/// The notifications that this process has claimed and not yet recorded as delivered.
pub(super) type InFlight = BTreeSet<(Key, State)>;

/// A claim that has to be recorded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) key: Key,
    pub(super) state: State,
    pub(super) change: NotificationChange,
    /// True if the claim only extends an earlier one, so that nothing is sent.
    pub(super) is_renewal: bool,
}

/// Decides about claims on behalf of one process.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decider<'a> {
    /// The random token of this process.
    pub(super) process: &'a str,
    pub(super) now: DateTime<Utc>,
}

impl Decider<'_> {
    /// Returns the claims for all conditions. `rows` are those of the same scope: all apps, or the
    /// process.
    pub(super) fn claims(
        &self,
        rows: &[NotificationRow],
        holds: &BTreeMap<Key, Holds>,
        in_flight: &InFlight,
    ) -> Vec<Claim> {
        let rows: BTreeMap<Key, &NotificationRow> =
            rows.iter().filter_map(|row| Some((Key::of(row)?, row))).collect();
        holds
            .iter()
            .filter_map(|(key, holds)| match rows.get(key) {
                Some(row) => self.next(*key, row, *holds, in_flight),
                None if *holds == (Holds::Yes { is_ripe: true }) => Some(self.begin(*key, None)),
                None => None,
            })
            .collect()
    }

    /// Returns the claim for a condition that people were told about.
    fn next(&self, key: Key, row: &NotificationRow, holds: Holds, in_flight: &InFlight) -> Option<Claim> {
        // A state of another version counts as the beginning.
        let state = State::ALL.into_iter().find(|state| state.as_str() == row.state);
        let state = state.unwrap_or(State::Begins);
        if let Some(delivered_at) = row.delivered_at {
            return match holds {
                Holds::Yes { is_ripe: true } if state == State::Ends => Some(self.begin(key, Some(row))),
                _ if state == State::Ends => None,
                Holds::No => Some(self.follow(key, row, State::Ends)),
                Holds::Yes { .. } if self.age(delivered_at) >= REPEAT_AFTER => {
                    Some(self.follow(key, row, State::Lasts))
                }
                _ => None,
            };
        }
        if in_flight.contains(&(key, state)) {
            if state != State::Ends && holds == Holds::No {
                return Some(self.follow(key, row, State::Ends));
            }
            let is_old = self.age(row.claimed_at) >= RENEW_CLAIM_AFTER;
            return is_old.then(|| Claim { is_renewal: true, ..self.follow(key, row, state) });
        }
        // A claim of this process that is not in flight was recorded although its result was lost.
        let is_abandoned = row.claimed_by == self.process || self.age(row.claimed_at) >= CLAIM_EXPIRES_AFTER;
        if !is_abandoned {
            return None;
        }
        match (state, holds) {
            (State::Ends, Holds::Yes { is_ripe: true }) => Some(self.begin(key, Some(row))),
            (State::Ends, _) | (_, Holds::No) => Some(self.follow(key, row, State::Ends)),
            (state, Holds::Yes { .. }) => Some(self.follow(key, row, state)),
            (_, Holds::Unknown) => None,
        }
    }

    /// Returns the age of a time. The clock may have been set back, so a time in the future counts
    /// as well.
    fn age(&self, millis: i64) -> TimeDelta {
        TimeDelta::milliseconds(self.now.timestamp_millis().saturating_sub(millis)).abs()
    }

    fn begin(&self, key: Key, previous: Option<&NotificationRow>) -> Claim {
        self.claim(key, State::Begins, self.now.timestamp_millis(), previous)
    }

    fn follow(&self, key: Key, row: &NotificationRow, state: State) -> Claim {
        self.claim(key, state, row.begun_at, Some(row))
    }

    fn claim(&self, key: Key, state: State, begun_at: i64, previous: Option<&NotificationRow>) -> Claim {
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

/// Returns the change that records the result of a notification: it was delivered, or it was given
/// up.
pub(super) fn finished(row: NotificationRow, at: DateTime<Utc>) -> NotificationChange {
    NotificationChange::Deliver { row, at: at.timestamp_millis() }
}

/// Returns whether people were told that the condition has ended.
pub(super) fn has_ended(row: &NotificationRow) -> bool {
    row.state == State::Ends.as_str() && row.delivered_at.is_some()
}

/// What people were told about the conditions of this process, which no other process tells.
#[derive(Debug, Default)]
pub(super) struct ProcessRows(Vec<NotificationRow>);

impl ProcessRows {
    pub(super) fn rows(&self) -> &[NotificationRow] {
        &self.0
    }

    /// Makes a change, as the store does for the rows of the apps.
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

    const RIPE: Holds = Holds::Yes { is_ripe: true };

    fn start() -> DateTime<Utc> {
        "2026-03-10T09:00:00Z".parse().unwrap()
    }

    /// Rows as a database keeps them, for one condition that several processes look at.
    #[derive(Default)]
    struct Rows(ProcessRows);

    impl Rows {
        /// Decides, records the claim, and returns the state that is sent.
        fn look(&mut self, process: &str, minutes: i64, holds: Holds, in_flight: &[State]) -> Option<State> {
            let now = start() + TimeDelta::minutes(minutes);
            let key = Key { app: None, event: Event::Withheld };
            let in_flight = in_flight.iter().map(|state| (key, *state)).collect();
            let holds = [(key, holds)].into();
            let claims = Decider { process, now }.claims(self.0.rows(), &holds, &in_flight);
            let claim = claims.first()?;
            self.0.apply(&claim.change);
            (!claim.is_renewal).then_some(claim.state)
        }

        fn deliver(&mut self, minutes: i64, state: State) {
            let row = self.0.rows()[0].clone();
            let row = NotificationRow { state: state.as_str().to_owned(), ..row };
            self.0.apply(&finished(row, start() + TimeDelta::minutes(minutes)));
        }
    }

    #[test]
    fn a_condition_is_told_when_it_begins_once_a_day_and_when_it_ends() {
        let mut rows = Rows::default();
        assert_eq!(rows.look("a", 0, Holds::No, &[]), None);
        assert_eq!(rows.look("a", 1, Holds::Yes { is_ripe: false }, &[]), None);
        assert_eq!(rows.look("a", 2, RIPE, &[]), Some(State::Begins));
        rows.deliver(3, State::Begins);
        assert_eq!(rows.look("a", 24 * 60 + 2, RIPE, &[]), None);
        assert_eq!(rows.look("a", 24 * 60 + 3, RIPE, &[]), Some(State::Lasts));
        rows.deliver(24 * 60 + 4, State::Lasts);
        assert_eq!(rows.look("a", 24 * 60 + 5, Holds::Unknown, &[]), None);
        assert_eq!(rows.look("a", 24 * 60 + 6, Holds::No, &[]), Some(State::Ends));
        rows.deliver(24 * 60 + 7, State::Ends);
        assert_eq!(rows.look("a", 24 * 60 + 8, Holds::No, &[]), None);
        assert_eq!(rows.look("a", 24 * 60 + 9, RIPE, &[]), Some(State::Begins));
    }

    #[test]
    fn what_one_process_has_told_no_other_process_repeats() {
        let mut rows = Rows::default();
        assert_eq!(rows.look("a", 0, RIPE, &[]), Some(State::Begins));
        assert_eq!(rows.look("b", 1, RIPE, &[]), None);
        rows.deliver(2, State::Begins);
        assert_eq!(rows.look("b", 3, RIPE, &[]), None);
        assert_eq!(rows.look("b", 4, Holds::No, &[]), Some(State::Ends));
        assert_eq!(rows.look("a", 5, Holds::No, &[]), None);
    }

    #[test]
    fn a_process_with_an_old_state_of_the_condition_cannot_claim_a_new_beginning() {
        let mut rows = Rows::default();
        assert_eq!(rows.look("a", 0, RIPE, &[]), Some(State::Begins));
        rows.deliver(1, State::Begins);
        let old = rows.0.rows().to_vec();
        assert_eq!(rows.look("a", 2, Holds::No, &[]), Some(State::Ends));
        rows.deliver(3, State::Ends);
        // The store compares the row that the other process has read with the stored one.
        assert_ne!(old, rows.0.rows());
        assert_eq!(rows.0.rows().len(), 1);
    }

    #[test]
    fn the_claim_of_a_process_that_ended_is_taken_over_and_a_renewed_one_is_not() {
        let mut rows = Rows::default();
        assert_eq!(rows.look("a", 0, RIPE, &[]), Some(State::Begins));
        assert_eq!(rows.look("a", 10, RIPE, &[State::Begins]), None);
        assert_eq!(rows.look("b", 24, RIPE, &[]), None);
        assert_eq!(rows.look("b", 25, RIPE, &[]), Some(State::Begins));
        assert_eq!(rows.look("a", 26, RIPE, &[]), None);
        assert_eq!(rows.look("c", 60, Holds::Unknown, &[]), None);
        assert_eq!(rows.look("c", 61, Holds::No, &[]), Some(State::Ends));
        assert_eq!(rows.look("d", 90, Holds::Unknown, &[]), Some(State::Ends));
    }

    #[test]
    fn the_end_follows_an_undelivered_beginning_from_the_same_process_only() {
        let mut rows = Rows::default();
        assert_eq!(rows.look("a", 0, RIPE, &[]), Some(State::Begins));
        assert_eq!(rows.look("b", 1, Holds::No, &[]), None);
        assert_eq!(rows.look("a", 2, Holds::No, &[State::Begins]), Some(State::Ends));
        assert_eq!(rows.look("a", 3, RIPE, &[State::Begins, State::Ends]), None);
        // The beginning is delivered. The end is not.
        let row = NotificationRow { state: "begins".to_owned(), ..rows.0.rows()[0].clone() };
        rows.0.apply(&finished(row, start()));
        assert_eq!(rows.look("a", 4, RIPE, &[State::Ends]), None);
        rows.deliver(5, State::Ends);
        assert_eq!(rows.look("a", 6, RIPE, &[]), Some(State::Begins));
    }

    #[test]
    fn a_claim_whose_result_was_lost_is_made_again_at_once() {
        let mut rows = Rows::default();
        assert_eq!(rows.look("a", 0, RIPE, &[]), Some(State::Begins));
        assert_eq!(rows.look("a", 1, RIPE, &[]), Some(State::Begins));
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_end_the_repetitions() {
        let mut rows = Rows::default();
        assert_eq!(rows.look("a", 60 * 24 * 365, RIPE, &[]), Some(State::Begins));
        rows.deliver(60 * 24 * 365, State::Begins);
        assert_eq!(rows.look("a", 0, RIPE, &[]), Some(State::Lasts));
    }
}
