//! The watchdog rule: every app makes progress within [`MAX_STALL`] plus its request interval.
//!
//! The rule covers all phases: the wait for the database, the start of the app's loop, the wait for
//! another process to finish crawling the app, each step of a crawl, and the wait for the next
//! tick. A loop that waits for a tick reads the clock every 20 seconds, which counts as progress
//! until the tick is due.
//!
//! The log, `/readyz`, the status line, `status` and the metrics report each app that breaks the
//! rule. The ping of systemd's watchdog is withheld only if a restart may help: the database was
//! opened, and the loop has not even updated the app's state within the limit. A loop that waits
//! for a lease updates the state.

use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

use super::board::{AppState, Apps, Phase, format_time};
use crate::crawl::Step;
use crate::model::plural;

/// The limit of the watchdog rule. A working crawl waits longest for the connection that writes to
/// SQLite, up to ten minutes. A request timeout and the pause before its retry take up to a minute
/// each.
pub(super) const MAX_STALL: Duration = Duration::from_mins(15);

/// An app that breaks the watchdog rule. Its `Display` is a sentence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Stall {
    pub(super) app: String,
    duration: Duration,
    activity: String,
    /// Whether a restart of the service may help.
    pub(super) is_hung: bool,
    /// Whether another process crawls the app meanwhile.
    pub(super) waits_for_lease: bool,
}

impl fmt::Display for Stall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let minutes = self.duration.as_secs() / 60;
        let noun = plural(minutes, "minute");
        write!(f, "app {}: no progress for {minutes} {noun} while {}", self.app, self.activity)
    }
}

/// Returns the apps that break the watchdog rule.
pub(super) fn stalls(apps: &Apps, now: Instant) -> Vec<Stall> {
    let stall = |(app, state): (&String, &AppState)| {
        let limit = MAX_STALL + state.request_interval;
        let duration = now.saturating_duration_since(state.progressed_at);
        let is_alive = now.saturating_duration_since(state.alive_at) <= limit;
        let has_database = !matches!(state.phase, Phase::WaitingForDatabase);
        (duration > limit).then(|| Stall {
            app: app.clone(),
            duration,
            activity: activity(state),
            is_hung: !is_alive && has_database,
            waits_for_lease: step(state) == Some(&Step::WaitingForLease),
        })
    };
    apps.iter().filter_map(stall).collect()
}

fn step(state: &AppState) -> Option<&Step> {
    match &state.phase {
        Phase::Crawling { progress, .. } => Some(&progress.step),
        Phase::WaitingForDatabase | Phase::Starting | Phase::Waiting => None,
    }
}

fn activity(state: &AppState) -> String {
    let activity = match (&state.phase, step(state)) {
        (Phase::WaitingForDatabase, _) => "waiting for the database",
        (Phase::Starting, _) => "reading its key and the time of its last crawl",
        (_, Some(Step::WaitingForLease)) => "waiting for another process to finish crawling it",
        (_, Some(Step::Listing { .. })) => "listing groups",
        (_, Some(Step::Checking)) => "checking the lists",
        (_, Some(Step::LookingUp { .. })) => "looking up groups",
        (_, Some(Step::Concluding { .. })) => "recording the end of its crawl",
        (_, Some(Step::Idle | Step::Starting)) => "starting a crawl",
        (Phase::Waiting | Phase::Crawling { .. }, None) => {
            let next = state.next_at.map_or_else(String::new, |at| format!(" of {}", format_time(at)));
            return format!("waiting for the crawl{next}");
        }
    };
    activity.to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crawl::Progress;
    use crate::daemon::board::{BoardEntry, StatusBoard};
    use crate::model::SdkAppId;
    use crate::schedule::Schedule;
    use chrono::DateTime;

    const EPOCH: DateTime<chrono::Utc> = DateTime::UNIX_EPOCH;
    const LIMIT: Duration = Duration::from_secs(901);

    fn board() -> (BoardEntry, tokio::sync::watch::Receiver<Apps>) {
        let mut board = StatusBoard::new();
        let id = SdkAppId::new(1_400_000_000).unwrap();
        let entry = board.add("prod", id, Schedule::parse("@hourly", chrono_tz::UTC).unwrap());
        entry.set_workers_created(Duration::from_secs(1));
        (entry, board.subscribe())
    }

    fn at(step: Step) -> Progress {
        Progress { step, ..Progress::default() }
    }

    /// Returns the stall of the only app after this time without a change, and whether the app is
    /// hung.
    fn stall_after(apps: &tokio::sync::watch::Receiver<Apps>, time: Duration) -> Option<(String, bool)> {
        let stalls = stalls(&apps.borrow(), Instant::now() + time);
        stalls.first().map(|stall| (stall.to_string(), stall.is_hung))
    }

    #[tokio::test(start_paused = true)]
    async fn an_app_stalls_in_every_state_after_fifteen_minutes_and_its_request_interval() {
        type Enter = fn(&BoardEntry);
        let states: [(&str, bool, Enter); 8] = [
            ("waiting for the database", false, |_| ()),
            ("reading its key and the time of its last crawl", true, BoardEntry::set_starting),
            ("waiting for the crawl of 1970-01-01T00:00:00Z", true, |entry| entry.set_waiting_until(EPOCH)),
            ("starting a crawl", true, |entry| entry.on_crawl_started(EPOCH, None)),
            ("waiting for another process to finish crawling it", true, |entry| {
                entry.on_crawl_started(EPOCH, None);
                entry.on_crawl_progressed(at(Step::WaitingForLease));
            }),
            ("listing groups", true, |entry| {
                entry.on_crawl_started(EPOCH, None);
                entry.on_crawl_progressed(at(Step::Listing { group_type: None, listed: 1, total: None }));
            }),
            ("checking the lists", true, |entry| {
                entry.on_crawl_started(EPOCH, None);
                entry.on_crawl_progressed(at(Step::Checking));
            }),
            ("recording the end of its crawl", true, |entry| {
                entry.on_crawl_started(EPOCH, None);
                entry.on_crawl_progressed(at(Step::Concluding { marked: 1, to_mark: 2 }));
            }),
        ];
        for (activity, is_hung, enter) in states {
            let (entry, apps) = board();
            enter(&entry);
            assert_eq!(stall_after(&apps, LIMIT), None, "{activity}");
            let sentence = format!("app prod: no progress for 15 minutes while {activity}");
            assert_eq!(stall_after(&apps, LIMIT + Duration::from_secs(1)), Some((sentence, is_hung)));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn progress_restarts_the_time() {
        let (entry, apps) = board();
        entry.on_crawl_started(EPOCH, None);
        for step in [Step::Starting, Step::Checking, Step::Concluding { marked: 1, to_mark: 2 }] {
            tokio::time::advance(LIMIT).await;
            assert_eq!(stall_after(&apps, Duration::ZERO), None);
            entry.on_crawl_progressed(at(step));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_app_that_keeps_asking_for_its_lease_is_reported_but_not_hung() {
        let (entry, apps) = board();
        entry.on_crawl_started(EPOCH, None);
        for _ in 0..100 {
            entry.on_crawl_progressed(at(Step::WaitingForLease));
            tokio::time::advance(Duration::from_secs(10)).await;
        }
        let (sentence, is_hung) = stall_after(&apps, Duration::ZERO).unwrap();
        assert_eq!(
            (sentence.as_str(), is_hung),
            (
                "app prod: no progress for 16 minutes while waiting for another process to finish \
                 crawling it",
                false
            )
        );
        entry.on_crawl_progressed(at(Step::Starting));
        assert_eq!(stall_after(&apps, Duration::ZERO), None);
    }

    #[tokio::test(start_paused = true)]
    async fn a_long_request_interval_extends_the_limit() {
        let (entry, apps) = board();
        entry.set_workers_created(Duration::from_secs(3600));
        entry.on_crawl_started(EPOCH, None);
        assert_eq!(stall_after(&apps, Duration::from_secs(4500)), None);
        assert!(stall_after(&apps, Duration::from_secs(4501)).is_some());
    }
}
