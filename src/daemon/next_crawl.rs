//! Computes when the next crawl of an app starts: at the next tick of its schedule, or at a retry
//! after a failed crawl.
//!
//! The loop of an app uses [`next_crawl`]; the dashboard, the metrics and the status line show its
//! result. The `status` command runs without the daemon, so [`next_crawl_by_history`] computes the
//! same time from the crawls in the database.

use chrono::{DateTime, TimeDelta, Utc};

use super::watchdog::MAX_STALL;
use crate::model::{CrawlStatus, ReasonCode, Trigger};
use crate::schedule::Schedule;
use crate::store::Crawl;

/// Pauses after failed crawls. After refused credentials the pause is always the longest one.
pub(super) const CRAWL_BACKOFF: Backoff =
    Backoff { first: TimeDelta::minutes(1), max: TimeDelta::minutes(30) };

/// Pauses after crawls that failed because of the database. The first pause is short: the failure
/// was recorded, so the database is reachable again.
pub(super) const DATABASE_CRAWL_BACKOFF: Backoff =
    Backoff { first: TimeDelta::seconds(5), max: TimeDelta::minutes(30) };

/// The number of crawls that [`next_crawl_by_history`] needs. After more failures the pause does
/// not grow any more.
pub const HISTORY_LENGTH: i64 = 10;

/// Exponentially growing pauses.
#[derive(Clone, Copy)]
pub(super) struct Backoff {
    pub(super) first: TimeDelta,
    pub(super) max: TimeDelta,
}

impl Backoff {
    /// Returns the pause after this number of consecutive failures.
    pub(super) fn after(self, failures: u32) -> TimeDelta {
        // The exponent is bounded against overflow: 2^10 exceeds all maxima here.
        self.max.min(self.first * (1 << failures.saturating_sub(1).min(10)))
    }
}

/// Returns the pauses after a failed crawl with this reason.
pub(super) fn backoff_after(reason: Option<ReasonCode>) -> Backoff {
    match reason {
        Some(ReasonCode::Database) => DATABASE_CRAWL_BACKOFF,
        _ => CRAWL_BACKOFF,
    }
}

/// The time of a scheduled retry.
#[derive(Clone, Copy)]
pub(super) struct RetryTime {
    pub(super) at: DateTime<Utc>,
    /// If true, no tick starts a crawl before the retry.
    pub(super) delays_ticks: bool,
}

/// Returns the start of the next crawl. Ticks until `handled_until` are ignored. Returns `None` if
/// there is neither a retry nor a further tick.
pub(super) fn next_crawl(
    schedule: &Schedule,
    handled_until: DateTime<Utc>,
    retry: Option<RetryTime>,
) -> Option<DateTime<Utc>> {
    let tick = schedule.next_after(handled_until);
    match retry {
        Some(retry) if retry.delays_ticks => Some(retry.at),
        Some(retry) => Some(tick.map_or(retry.at, |tick| tick.min(retry.at))),
        None => tick,
    }
}

/// Returns when a running daemon starts the next crawl of an app. `crawls` are the app's
/// [`HISTORY_LENGTH`] newest crawls, in descending order.
#[must_use]
pub fn next_crawl_by_history(
    schedule: &Schedule,
    crawls: &[Crawl],
    now: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    // A retry in the past is due: the daemon is crawling at this moment, or it is not running.
    let retry = retry_by_history(schedule, crawls, now).filter(|retry| retry.at > now);
    next_crawl(schedule, now, retry)
}

/// Returns the due time of the next crawl if no daemon has started it within `MAX_STALL`. Returns
/// `None` also if no daemon has ever crawled the app. `crawls` are those of
/// [`next_crawl_by_history`].
#[must_use]
pub fn overdue_by_history(
    schedule: &Schedule,
    crawls: &[Crawl],
    now: DateTime<Utc>,
) -> Option<DateTime<Utc>> {
    let last = crawls.iter().find(|crawl| crawl.trigger != Trigger::Command.as_str())?;
    // Ticks that passed during a crawl are skipped.
    let handled = last.finished().or(last.started_at.time())?;
    let due = next_crawl(schedule, handled, retry_by_history(schedule, crawls, now))?;
    (now - due).to_std().is_ok_and(|overdue| overdue > MAX_STALL).then_some(due)
}

fn retry_by_history(schedule: &Schedule, crawls: &[Crawl], now: DateTime<Utc>) -> Option<RetryTime> {
    let has_failed = |crawl: &Crawl| crawl.status == CrawlStatus::Failed.as_str();
    // The daemon ignores the crawls of the `crawl` command.
    let by_daemon =
        |crawl: &&Crawl| crawl.trigger != Trigger::Command.as_str() && crawl.finished_at.is_some();
    let last = crawls.iter().find(by_daemon).filter(|last| has_failed(last))?;
    let is_refused = last.reason_code.as_deref() == Some(ReasonCode::Refused.as_str());
    let pause = if is_refused {
        CRAWL_BACKOFF.max
    } else {
        // Each tick and each request restarts the backoff. A retry has the trigger of the crawl
        // that failed first.
        let tick = schedule.latest_due(None, now);
        let is_in_same_series = |crawl: &&Crawl| {
            has_failed(crawl) && crawl.trigger == last.trigger && crawl.started_at.time() >= tick
        };
        let failures = crawls.iter().filter(by_daemon).take_while(is_in_same_series).count();
        let is_database = last.reason_code.as_deref() == Some(ReasonCode::Database.as_str());
        let backoff = backoff_after(is_database.then_some(ReasonCode::Database));
        backoff.after(u32::try_from(failures).unwrap_or(u32::MAX).max(1))
    };
    Some(RetryTime { at: last.finished()? + pause, delays_ticks: is_refused })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_half_an_hour() {
        let minutes: Vec<i64> = (1..=7).map(|failures| CRAWL_BACKOFF.after(failures).num_minutes()).collect();
        assert_eq!(minutes, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(CRAWL_BACKOFF.after(u32::MAX), CRAWL_BACKOFF.max);
    }
}
