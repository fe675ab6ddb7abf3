//! Retention: removes old rows after a crawl, while the crawl still holds the app's lease.

use chrono::{DateTime, TimeDelta, Utc};
use tracing::{info, warn};

use super::context::CrawlContext;
use crate::model::{CrawlId, with_causes};
use crate::policy::Retention;
use crate::store::{AgeLimits, Purged, StoreError};

/// Removes old rows once a day: after the first crawl of the day that reached its end. If the purge
/// is interrupted, it continues after the first such crawl of the next day. A failure is
/// only logged, because the crawl has already been recorded.
pub(super) async fn purge(
    context: &CrawlContext<'_>,
    retention: Retention,
    crawl: CrawlId,
    now: DateTime<Utc>,
) {
    // By default, all rows are kept forever.
    if retention == Retention::default() {
        return;
    }
    let purging = context.lease.run_while_held(Box::pin(purge_once_a_day(context, retention, crawl, now)));
    let purged = match context.unless_stopped(purging).await {
        Ok(purged) => purged.flatten(),
        Err(_stopped) => return,
    };
    match purged {
        Ok(Purged { groups: 0, events: 0, counts: 0 }) => {}
        Ok(Purged { groups, events, counts }) => {
            info!(crawl_id = crawl.0, groups, events, counts, "removed rows older than their retention");
        }
        Err(error) => {
            let why = with_causes(&error);
            warn!(
                crawl_id = crawl.0,
                "cannot remove all rows older than their retention; the first crawl of the next \
                 day continues: {why}"
            );
        }
    }
}

async fn purge_once_a_day(
    context: &CrawlContext<'_>,
    retention: Retention,
    crawl: CrawlId,
    now: DateTime<Utc>,
) -> Result<Purged, StoreError> {
    let day = |at: DateTime<Utc>| context.settings.day(at);
    let last_ends = context.store.last_ends_before(context.app, crawl).await?;
    if last_ends.ended.map(day) == Some(day(now)) {
        return Ok(Purged::default());
    }
    // The current time is limited to one day after the last complete crawl, so that a wrong clock
    // does not remove recent rows.
    let Some(completed) = last_ends.completed else { return Ok(Purged::default()) };
    let now = now.min(completed + TimeDelta::days(1));
    let before = |days: u32| now - TimeDelta::days(days.into());
    let limits = AgeLimits {
        deleted_groups: retention.deleted_groups.map(before),
        events: retention.events.map(before),
        counts: retention.counts.map(before).map(|before| (before, day(before).date)),
    };
    let on_batch = || context.report_progress();
    context.store.purge(context.lease, (context.app, crawl), &limits, on_batch).await
}
