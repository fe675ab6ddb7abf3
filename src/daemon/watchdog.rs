//! The watchdog rule: an app that is being crawled makes progress within [`MAX_STALL`] and its request interval.
//!
//! An app that waits for its next tick or for the database is not watched. Its loop is a supervised task: if it ends, the
//! process ends.

use std::time::Duration;

use tokio::time::Instant;

use super::board::{Apps, Phase};

/// The limit of the watchdog rule. The longest wait of a working crawl is for its turn to write, which on SQLite lasts up to
/// ten minutes. A request that times out and the pause before its retry take up to a minute each.
const MAX_STALL: Duration = Duration::from_mins(15);

/// Returns an app that breaks the watchdog rule, and the time since its last progress.
pub(super) fn stalled_app(apps: &Apps, now: Instant) -> Option<(String, Duration)> {
    apps.iter().find_map(|(app, state)| {
        let is_watched = matches!(state.phase, Phase::Starting | Phase::Crawling { .. });
        let stalled_for = now.saturating_duration_since(state.changed_at);
        (is_watched && stalled_for > MAX_STALL + state.request_interval).then(|| (app.clone(), stalled_for))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crawl::{Progress, Step};
    use crate::daemon::board::StatusBoard;
    use crate::schedule::Schedule;
    use chrono::DateTime;

    const EPOCH: DateTime<chrono::Utc> = DateTime::UNIX_EPOCH;

    #[tokio::test(start_paused = true)]
    async fn an_app_that_is_crawled_stalls_after_fifteen_minutes_without_progress() {
        let mut board = StatusBoard::new();
        let entry = board.add("prod", Schedule::parse("@hourly", chrono_tz::UTC).unwrap());
        let apps = board.subscribe();
        let stalled_after = |seconds| {
            let stalled = stalled_app(&apps.borrow(), Instant::now() + Duration::from_secs(seconds));
            stalled.map(|(app, time)| format!("{app} {}", time.as_secs()))
        };
        let day = 86_400;
        assert_eq!(stalled_after(day), None, "waiting for the database");
        entry.starting();
        assert_eq!((stalled_after(900), stalled_after(901)), (None, Some("prod 901".to_owned())));
        entry.key_read(Duration::from_secs(3600));
        assert_eq!((stalled_after(4500), stalled_after(4501)), (None, Some("prod 4501".to_owned())));
        entry.key_read(Duration::from_secs(1));
        entry.waiting_until(EPOCH);
        assert_eq!(stalled_after(day), None, "waiting for a tick");
        entry.crawl_started(EPOCH, None);
        // A request of a minute, a pause of a minute, and ten minutes in the queue of writers.
        assert_eq!((stalled_after(60 + 60 + 600), stalled_after(902)), (None, Some("prod 902".to_owned())));
        tokio::time::advance(Duration::from_secs(900)).await;
        for step in [Step::WaitingForLease, Step::Checking, Step::Concluding { marked: 1, to_mark: 2 }] {
            entry.crawl_progressed(Progress { step, ..Progress::default() });
            assert_eq!(stalled_after(901), None, "progress restarts the time");
            assert_eq!(stalled_after(902), Some("prod 902".to_owned()));
        }
    }
}
