//! Fetches the API's own statistics of an app once a day, after a crawl, while the crawl still
//! holds the app's lease.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Days, NaiveDate, TimeDelta, Utc};
use chrono_tz::Tz;
use tracing::{debug, info, warn};

use super::context::CrawlContext;
use crate::model::{AppStatistics, LocalDay, ReasonCode, with_causes};
use crate::pages::Caller;
use crate::policy::Retention;
use crate::store::{StoreError, StoredStatistics};
use crate::tencent::ApiError;

/// The time limit of a fetch. The API's own timeout is 3 s. A crawl is already recorded when its
/// fetch begins, but the app's lease is held until the fetch ends.
const TIME_LIMIT: Duration = Duration::from_secs(5);
/// The minimum time between two successful fetches of one day. The second one is made only if the
/// API has not reported the previous day yet.
const REFETCH_AFTER: TimeDelta = TimeDelta::hours(3);
/// The minimum time after a failed fetch. It is shorter than an hour, so that each hourly crawl
/// tries again.
const RETRY_AFTER: TimeDelta = TimeDelta::minutes(30);
/// The age from which on reported days are ignored. The API documents 30 days. The limit bounds the
/// number of rows that an answer can add.
const MAX_DAYS: u64 = 366;

/// Why a fetch failed.
#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl FetchError {
    /// Returns the kind of the failure. Consecutive failures of one kind are logged as one warning.
    fn kind(&self) -> FailureKind {
        match self {
            Self::Api(error) => (Some(error.reason_code()), error.code()),
            Self::Store(_) => (None, None),
        }
    }
}

type FailureKind = (Option<ReasonCode>, Option<i64>);

/// The last failed fetch of this process. It is empty after a successful fetch.
#[derive(Debug, Default)]
pub(super) struct LastFailure(Mutex<Option<(FailureKind, DateTime<Utc>)>>);

impl LastFailure {
    fn failed_at(&self) -> Option<DateTime<Utc>> {
        self.lock().as_ref().map(|(_, failed_at)| *failed_at)
    }

    /// Records a failure. Logs a warning if it differs from the previous one.
    fn record(&self, error: &FetchError, at: DateTime<Utc>) {
        let previous = self.lock().replace((error.kind(), at));
        let error_code = error.kind().1;
        let why = with_causes(error);
        if previous.is_some_and(|(kind, _)| kind == error.kind()) {
            debug!(error_code, "cannot fetch the app's statistics: {why}");
        } else {
            warn!(
                error_code,
                "cannot fetch the app's statistics (getappinfo); crawls are not affected, and a \
                 later crawl tries again; to turn them off, set statistics = false: {why}"
            );
        }
    }

    fn clear(&self) {
        if self.lock().take().is_some() {
            info!("the app's statistics can be fetched again");
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(FailureKind, DateTime<Utc>)>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Fetches the statistics if they are due, and stores them. Makes at most one request. A failure is
/// only logged, because the crawl has already been recorded. A stop request ends the fetch at once.
pub(super) async fn fetch_statistics(
    context: &CrawlContext<'_>,
    caller: &Caller<'_>,
    retention: Retention,
    last_failure: &LastFailure,
) {
    let now = context.clock.now();
    if last_failure
        .failed_at()
        .is_some_and(|failed_at| (TimeDelta::zero()..RETRY_AFTER).contains(&(now - failed_at)))
    {
        return;
    }
    let fetching = context.lease.run_while_held(Box::pin(fetch_if_due(context, caller, retention, now)));
    let Ok(fetched) = context.unless_stopped(fetching).await else { return };
    match fetched.map_err(FetchError::from).flatten() {
        Ok(Fetch::NotDue) => {}
        Ok(Fetch::Stored { days, changed }) => {
            last_failure.clear();
            debug!(days, changed, "fetched the app's statistics");
        }
        Err(error) => last_failure.record(&error, now),
    }
}

enum Fetch {
    NotDue,
    /// The number of days in the answer, and the number of new or changed rows.
    Stored {
        days: usize,
        changed: u64,
    },
}

async fn fetch_if_due(
    context: &CrawlContext<'_>,
    caller: &Caller<'_>,
    retention: Retention,
    now: DateTime<Utc>,
) -> Result<Fetch, FetchError> {
    let today = beijing_day(now);
    let yesterday = today.pred_opt().unwrap_or(today);
    let stored = context.store.stored_statistics(context.app, yesterday).await?;
    if !is_due(stored, now) {
        return Ok(Fetch::NotDue);
    }
    context.report_progress();
    let answer = tokio::time::timeout(TIME_LIMIT, caller.app_statistics()).await;
    let answer =
        answer.unwrap_or_else(|_| Err(ApiError::Timeout { host: caller.host(), after: TIME_LIMIT }))?;
    context.report_progress();
    let first = first_kept_day(context, retention, now);
    let (kept, ignored): (Vec<AppStatistics>, Vec<AppStatistics>) =
        answer.into_iter().partition(|statistics| (first..=today).contains(&statistics.day));
    if !ignored.is_empty() {
        debug!(days = ignored.len(), "ignoring days of getappinfo that are too old or in the future");
    }
    let changed = context.store.write_statistics(context.lease, context.app, &kept, now).await?;
    Ok(Fetch::Stored { days: kept.len(), changed })
}

/// Returns whether the statistics are due: no fetch of the current day in Beijing succeeded, or the
/// last one did not contain the previous day and was [`REFETCH_AFTER`] ago.
fn is_due(stored: StoredStatistics, now: DateTime<Utc>) -> bool {
    let Some(last_fetch) = stored.last_fetch else { return true };
    beijing_day(last_fetch) != beijing_day(now) || (!stored.has_day && now - last_fetch >= REFETCH_AFTER)
}

/// Returns the first day that is stored. Older days would be removed by the next purge.
fn first_kept_day(context: &CrawlContext<'_>, retention: Retention, now: DateTime<Utc>) -> NaiveDate {
    let oldest = beijing_day(now).checked_sub_days(Days::new(MAX_DAYS)).unwrap_or(NaiveDate::MIN);
    let purged_before =
        retention.counts.map(|days| context.settings.day(now - TimeDelta::days(days.into())).date);
    purged_before.map_or(oldest, |purged_before| purged_before.max(oldest))
}

/// Returns the day in Beijing. The API's statistics are by these days.
fn beijing_day(at: DateTime<Utc>) -> NaiveDate {
    LocalDay::new(at, Tz::Asia__Shanghai).date
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_due_at(now: &str, last_fetch: Option<&str>, has_day: bool) -> bool {
        let time = |text: &str| text.parse::<DateTime<Utc>>().unwrap();
        is_due(StoredStatistics { last_fetch: last_fetch.map(time), has_day }, time(now))
    }

    #[test]
    fn statistics_are_due_once_a_day_of_beijing_and_again_while_the_previous_day_is_not_reported() {
        let last = Some("2026-03-01T16:00:00Z"); // midnight in Beijing
        assert!(is_due_at("2026-03-01T16:00:00Z", None, false));
        assert!(!is_due_at("2026-03-02T15:59:59Z", last, true));
        assert!(is_due_at("2026-03-02T16:00:00Z", last, true));
        assert!(!is_due_at("2026-03-01T18:59:59Z", last, false));
        assert!(is_due_at("2026-03-01T19:00:00Z", last, false));
    }

    #[test]
    fn a_clock_that_was_set_back_does_not_delay_the_next_fetch_beyond_a_day() {
        let future = Some("2026-05-01T00:00:00Z");
        assert!(is_due_at("2026-03-01T00:00:00Z", future, true));
    }
}
