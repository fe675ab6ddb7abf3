//! The condition of an app: one word for its state, from the database and from this process. The
//! dashboard and the metrics use the rules of this file, so they cannot disagree.

use chrono::{DateTime, Utc};
use serde::Serialize;

use super::board::{AppState, Phase};
use super::watchdog::MAX_STALL;
use crate::model::CrawlStatus;
use crate::store::{AppOverview, Stamp};

/// An app is late after this number of ticks without a complete crawl. The alert rule
/// `TimGroupSyncNoCompleteCrawl` has the same number: one failed crawl is retried before the next
/// tick, and a second one may coincide with an interruption of the API.
pub const LATE_TICKS: u64 = 3;
/// A crawl is retrying after this number of consecutive failed attempts at a request. Single
/// failed attempts are normal.
const RETRYING_ATTEMPTS: u32 = 3;
/// The maximum number of ticks without a complete crawl that are counted. It bounds the time that
/// counting takes.
pub const MAX_COUNTED_TICKS: usize = 100;

/// The condition of an app. If several conditions apply, the first one in this order counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Condition {
    NotConfigured,
    /// Deletions wait for a person.
    Withheld,
    KeyUnreadable,
    /// The API refuses the credentials.
    Refused,
    /// This process cannot write to the database.
    DatabaseProblem,
    /// The last crawl failed, or the HTTP client for the API cannot be created.
    Failed,
    /// There was no complete crawl for [`LATE_TICKS`] ticks, or a crawl that is due does not start.
    Late,
    /// The last crawl was incomplete.
    Incomplete,
    /// The running crawl repeats a request that fails.
    Retrying,
    /// The greatest `TotalCount` of the month has reached 80 % of the quota.
    QuotaNear,
    /// The last crawl was stopped.
    Cancelled,
    /// No crawl has ended.
    #[default]
    NeverCrawled,
    UpToDate,
}

impl Condition {
    /// Returns the condition of an app. `overview` is its state in the database, `state` its
    /// state in this process.
    #[must_use]
    pub fn of(overview: Option<&AppOverview>, state: Option<&AppState>, now: DateTime<Utc>) -> Self {
        if overview.is_some_and(|overview| !overview.configured) {
            return Self::NotConfigured;
        }
        let last_crawl = overview.and_then(|overview| overview.last_crawl.as_ref());
        let last_is = |status: CrawlStatus| last_crawl.is_some_and(|crawl| crawl.status == status.as_str());
        let quota = state.and_then(|state| state.group_quota);
        let conditions = [
            (overview.is_some_and(|overview| overview.held_groups() > 0), Self::Withheld),
            (state.is_some_and(|state| state.key_problem.is_some()), Self::KeyUnreadable),
            (is_refused(overview, state), Self::Refused),
            (state.is_some_and(|state| state.database_problem.is_some()), Self::DatabaseProblem),
            (state.is_some_and(|state| state.client_problem.is_some()), Self::Failed),
            (last_is(CrawlStatus::Failed), Self::Failed),
            (is_late(overview, state, now), Self::Late),
            (last_is(CrawlStatus::Incomplete), Self::Incomplete),
            (state.is_some_and(is_retrying), Self::Retrying),
            (is_quota_near(overview.and_then(|overview| overview.month_peak), quota), Self::QuotaNear),
            (last_is(CrawlStatus::Cancelled), Self::Cancelled),
            (last_crawl.is_none(), Self::NeverCrawled),
        ];
        conditions.into_iter().find(|(applies, _)| *applies).map_or(Self::UpToDate, |(_, found)| found)
    }

    /// Returns true if a person has to look at the app.
    #[must_use]
    pub fn needs_attention(self) -> bool {
        !matches!(self, Self::NotConfigured | Self::Cancelled | Self::NeverCrawled | Self::UpToDate)
    }
}

impl AppState {
    /// Returns when the next crawl starts. While a crawl runs, ticks that have passed are skipped,
    /// so the result is after `now`.
    #[must_use]
    pub fn next_crawl_at(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        match self.phase {
            Phase::Crawling { .. } if self.next_at <= Some(now) => self.schedule.next_after(now),
            _ => self.next_at,
        }
    }

    /// Returns when a crawl was due, if it has not started although more than `MAX_STALL` (15
    /// minutes) has passed since.
    #[must_use]
    pub fn overdue_since(&self, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        let is_crawling = matches!(self.phase, Phase::Crawling { .. });
        let is_overdue = |due: &DateTime<Utc>| (now - *due).to_std().is_ok_and(|late| late > MAX_STALL);
        self.next_at.filter(is_overdue).filter(|_| !is_crawling)
    }

    /// Returns the number of ticks since the app's last complete crawl began, or since its first
    /// crawl began if none was complete. At most [`MAX_COUNTED_TICKS`]. `None` if the app was never
    /// crawled.
    #[must_use]
    pub fn ticks_since_complete_crawl(&self, overview: &AppOverview, now: DateTime<Utc>) -> Option<u64> {
        let complete = overview.last_complete_crawl.as_ref().map(|crawl| crawl.started_at);
        let since = complete.or(overview.first_crawl_started_at).and_then(Stamp::time)?;
        Some(self.schedule.passed(since, now, MAX_COUNTED_TICKS))
    }
}

/// Returns true if the API refuses the credentials, for this process or for the one that made the
/// last crawl.
#[must_use]
pub fn is_refused(overview: Option<&AppOverview>, state: Option<&AppState>) -> bool {
    state.is_some_and(|state| state.refused) || overview.is_some_and(AppOverview::is_refused)
}

fn is_late(overview: Option<&AppOverview>, state: Option<&AppState>, now: DateTime<Utc>) -> bool {
    let Some(state) = state else { return false };
    let ticks = overview.and_then(|overview| state.ticks_since_complete_crawl(overview, now));
    ticks >= Some(LATE_TICKS) || state.overdue_since(now).is_some()
}

fn is_retrying(state: &AppState) -> bool {
    matches!(&state.phase, Phase::Crawling { progress, .. } if progress.failed_attempts >= RETRYING_ATTEMPTS)
}

/// Returns true if the month's peak is at least 80 % of the quota. The alert rule
/// `TimGroupSyncQuotaNear` has the same limit.
#[must_use]
pub fn is_quota_near(peak: Option<i64>, quota: Option<u64>) -> bool {
    let (Some(peak), Some(quota)) = (peak, quota) else { return false };
    u128::try_from(peak).is_ok_and(|peak| peak * 5 >= u128::from(quota) * 4)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crawl::Progress;
    use crate::daemon::board::StatusBoard;
    use crate::model::SdkAppId;
    use crate::schedule::Schedule;

    fn at(time: &str) -> DateTime<Utc> {
        format!("2026-03-10T{time}:00Z").parse().unwrap()
    }

    fn state(update: impl FnOnce(&mut AppState)) -> AppState {
        let mut board = StatusBoard::new();
        let entry = board.add(
            "prod",
            SdkAppId::new(1_400_000_000).unwrap(),
            Schedule::parse("@hourly", chrono_tz::UTC).unwrap(),
        );
        entry.set_waiting_until(at("09:00"));
        entry.update(update);
        board.subscribe().borrow()["prod"].clone()
    }

    #[tokio::test]
    async fn the_worst_condition_of_a_process_counts() {
        let of = |state: &AppState, now| Condition::of(None, Some(state), at(now));
        let mut app = state(|_| ());
        assert_eq!(of(&app, "09:15"), Condition::NeverCrawled);
        assert_eq!(of(&app, "09:16"), Condition::Late);
        app.database_problem = Some("read-only".to_owned());
        assert_eq!(of(&app, "09:16"), Condition::DatabaseProblem);
        app.refused = true;
        assert_eq!(of(&app, "09:16"), Condition::Refused);
        app.key_problem = Some("no such file".to_owned());
        assert_eq!(of(&app, "09:16"), Condition::KeyUnreadable);
    }

    #[tokio::test]
    async fn an_app_is_retrying_from_the_third_failed_attempt() {
        for (failed_attempts, expected) in [(2, Condition::NeverCrawled), (3, Condition::Retrying)] {
            let progress = Progress { failed_attempts, ..Progress::default() };
            let app = state(|state| state.phase = Phase::Crawling { since: at("09:00"), progress });
            assert_eq!(Condition::of(None, Some(&app), at("10:30")), expected);
        }
    }

    #[tokio::test]
    async fn while_a_crawl_runs_the_next_one_is_never_in_the_past() {
        let since = at("09:00");
        let crawling = |state: &mut AppState| {
            state.phase = Phase::Crawling { since, progress: Progress::default() };
            state.next_at = Some(at("10:00"));
        };
        let app = state(crawling);
        assert_eq!(app.next_crawl_at(at("09:30")), Some(at("10:00")));
        assert_eq!(app.next_crawl_at(at("10:00")), Some(at("11:00")));
        assert_eq!(app.overdue_since(at("10:30")), None);
        let waiting = state(|_| ());
        assert_eq!(waiting.next_crawl_at(at("09:20")), Some(at("09:00")), "the loop hangs");
        assert_eq!(waiting.overdue_since(at("09:20")), Some(at("09:00")));
    }

    #[test]
    fn a_quota_is_near_from_80_percent() {
        for (peak, quota, near) in [
            (Some(79_999), Some(100_000), false),
            (Some(80_000), Some(100_000), true),
            (Some(1), None, false),
            (None, Some(100), false),
            (Some(i64::MAX), Some(u64::MAX), false),
            (Some(0), Some(1), false),
        ] {
            assert_eq!(is_quota_near(peak, quota), near, "{peak:?} of {quota:?}");
        }
    }
}
