//! Stores or removes the details of groups at the end of a crawl, while the crawl still holds the
//! app's lease. A failure is only logged, because the crawl has already been recorded.

use chrono::{DateTime, Utc};
use tracing::{info, warn};

use super::context::CrawlContext;
use crate::model::{GroupDetails, plural, with_causes};

/// The details of the groups that a crawl looked up.
#[derive(Debug, Default)]
pub(super) struct LookedUpDetails {
    /// The time before the first lookup. All details are at least as new.
    pub(super) at: DateTime<Utc>,
    pub(super) groups: Vec<(String, GroupDetails)>,
}

/// Stores the details that the crawl received when it looked groups up.
pub(super) async fn keep_details(
    context: &CrawlContext<'_>,
    LookedUpDetails { at, groups: details }: &LookedUpDetails,
) {
    if details.is_empty() {
        return;
    }
    let writing = context.store.write_details_of_crawl(context.lease, context.app, *at, details);
    let written = context.lease.run_while_held(Box::pin(writing)).await;
    if let Err(error) = written.flatten() {
        let (groups, why) = (details.len() as u64, with_causes(&error));
        warn!("cannot store the details of {groups} {}: {why}", plural(groups, "group"));
    }
}

/// Removes all details of the app, after `[details]` was removed from the configuration.
pub(super) async fn remove_details(context: &CrawlContext<'_>) {
    let removing = async {
        if !context.store.has_details(context.app).await? {
            return Ok(0);
        }
        let on_batch = || context.report_progress();
        context.store.remove_details(context.lease, context.app, on_batch).await
    };
    let removing = context.lease.run_while_held(Box::pin(removing));
    match context.unless_stopped(removing).await.map(Result::flatten) {
        // `Ok(0)`: there was nothing to remove. `Err`: a stop was requested.
        Ok(Ok(0)) | Err(_) => {}
        Ok(Ok(groups)) => {
            info!(groups, "removed the details of groups, because the configuration has no [details]");
        }
        Ok(Err(error)) => {
            let why = with_causes(&error);
            warn!("cannot remove the details of groups; the next crawl tries again: {why}");
        }
    }
}
