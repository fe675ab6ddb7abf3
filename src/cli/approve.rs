//! `approve`: applies the deletions that a crawl withheld. Needs only the database: neither the API
//! nor a key.

use chrono::{DateTime, Utc};
use clap::Args;
use serde_json::json;

use super::exit::{Exit, Failure};
use super::output::{Output, message};
use super::setup::{Setup, database_location};
use super::text;
use crate::config::Config;
use crate::escape::one_line;
use crate::model::{CrawlId, LocalDay, SdkAppId};
use crate::store::{Approval, CrawlDeletions, Store};

#[derive(Debug, Args)]
pub(super) struct Approve {
    /// The crawl whose deletions were withheld
    #[arg(long, value_name = "ID")]
    crawl: i64,
    /// Only apply the deletions that get_group_info has confirmed
    #[arg(long)]
    confirmed: bool,
    /// List the groups that would be marked deleted, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub(super) output: Output,
}

impl Approve {
    pub(super) async fn run(self, setup: &Setup) -> Result<Exit, Failure> {
        let config = setup.config_for_command()?;
        let store = setup.close_at_end(Store::open_existing(&database_location(&config)?).await?);
        store.check_migrated().await?;
        let crawl = CrawlId(self.crawl);
        let (deletions, sdk_app_id) = find(&store, crawl).await?;
        if deletions.withheld == 0 {
            return Err(refused(format!(
                "crawl {crawl} of {} withheld no deletions; `tim-group-sync status` names the \
                 crawls that did",
                deletions.app
            )));
        }
        let approval = if self.confirmed { Approval::Confirmed } else { Approval::All };
        // A running crawl has read the withheld groups as live, so the approval waits for its end.
        let waiting = |waits| {
            if waits == 0 {
                message(format_args!("{} is being crawled; waiting for the crawl to finish", deletions.app));
            }
        };
        let lease = store.lease(sdk_app_id, waiting).await?;
        let approving = async {
            let groups = store.held_groups(&deletions, crawl, approval).await?;
            if !groups.is_empty() && !self.dry_run {
                let now = setup.clock.now();
                store
                    .approve(&lease, &deletions, (crawl, approval), now, day(&config, sdk_app_id, now))
                    .await?;
            }
            Ok(groups)
        };
        // Renews the lease meanwhile, because an approval of millions of groups may take longer
        // than a lease lasts.
        let approved = lease.run_while_held(approving).await.flatten();
        lease.release_unused().await;
        let groups = approved?;
        if groups.is_empty() && self.confirmed {
            return Err(refused(format!(
                "nothing to approve: no withheld deletion of crawl {crawl} is confirmed; `approve \
                 --crawl {crawl} --dry-run` lists the withheld ones"
            )));
        }
        if groups.is_empty() {
            return Err(refused(format!(
                "nothing to approve: the deletions that crawl {crawl} withheld are already \
                 approved, or their groups were listed again"
            )));
        }
        let confirmed = groups.iter().filter(|(_, confirmed)| *confirmed).count();
        let ids: Vec<&str> = groups.iter().map(|(id, _)| id.as_str()).collect();
        let result = json!({
            "app": deletions.app, "sdk_app_id": sdk_app_id, "crawl_id": crawl, "dry_run": self.dry_run,
            "groups": groups.len(), "confirmed": confirmed, "group_ids": ids,
        });
        let count = text::count(groups.len() as u64, "group");
        let of_them = format!("{} of them confirmed by get_group_info", text::number(confirmed as u64));
        let exit = self.output.print(Exit::Done, result, |out| {
            if !self.dry_run {
                return writeln!(out, "{}: {count} marked deleted, {of_them}", deletions.app);
            }
            ids.iter().try_for_each(|group| writeln!(out, "{}", one_line(group)))
        })?;
        if self.dry_run {
            message(format_args!("{count} would be marked deleted, {of_them}"));
        }
        Ok(exit)
    }
}

/// Returns the crawl with this id, and its app.
pub(super) async fn find(store: &Store, crawl: CrawlId) -> Result<(CrawlDeletions, SdkAppId), Failure> {
    let Some(deletions) = store.crawl_deletions(crawl).await? else {
        return Err(refused(format!(
            "there is no crawl {crawl}; `tim-group-sync status` shows the last ones"
        )));
    };
    match deletions.sdk_app_id() {
        Some(sdk_app_id) => Ok((deletions, sdk_app_id)),
        None => Err(refused(format!("the database has no valid SDKAppID for crawl {crawl}"))),
    }
}

pub(super) fn refused(text: String) -> Failure {
    Failure::new(Exit::Failed, anyhow::Error::msg(text))
}

/// Returns the day of `now` in the time zone of the app's schedule, or in UTC if the app is not
/// configured.
pub(super) fn day(config: &Config, app: SdkAppId, now: DateTime<Utc>) -> LocalDay {
    let configured = config.apps.iter().find(|configured| configured.sdk_app_id == app);
    let timezone = configured.map_or(chrono_tz::UTC, |app| app.schedule.ticks.timezone());
    LocalDay::new(now, timezone)
}
