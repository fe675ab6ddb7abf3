//! `undelete`: undoes the deletions of a crawl. Needs only the database: neither the API nor a key.

use clap::Args;
use serde_json::json;

use super::approve::{day, find, refused};
use super::exit::{Exit, Failure};
use super::output::{Output, message};
use super::setup::{Setup, database_location};
use super::text;
use crate::escape::one_line;
use crate::model::{CrawlId, CrawlStatus};
use crate::store::{CrawlDeletions, Store};

#[derive(Debug, Args)]
pub(super) struct Undelete {
    /// The crawl whose deletions were wrong
    #[arg(long, value_name = "ID")]
    crawl: i64,
    /// List the groups that would be live again, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub(super) output: Output,
}

impl Undelete {
    pub(super) async fn run(self, setup: &Setup) -> Result<Exit, Failure> {
        let config = setup.config_for_command()?;
        let store = setup.close_at_end(Store::open_existing(&database_location(&config)?).await?);
        store.check_migrated().await?;
        let crawl = CrawlId(self.crawl);
        let (deletions, sdk_app_id) = find(&store, crawl).await?;
        if deletions.status == CrawlStatus::Running.as_str()
            && store.lease_holder(sdk_app_id).await?.is_some()
        {
            return Err(refused(format!(
                "crawl {crawl} of {} is still running; it marks groups deleted only at its end, so \
                 try again then",
                deletions.app
            )));
        }
        // A running crawl has not read the deleted groups, so the command waits for its end.
        let waiting = |waits| {
            if waits == 0 {
                message(format_args!("{} is being crawled; waiting for the crawl to finish", deletions.app));
            }
        };
        let lease = store.lease(sdk_app_id, waiting).await?;
        let undoing = async {
            // Reads the crawl again under the lease: now no other process can change it.
            let (deletions, _) = find(&store, crawl).await?;
            if let Some(refusal) = refusal(&deletions, crawl) {
                return Err(refused(refusal));
            }
            // The ids are read only if they are printed, because there may be millions.
            let groups = if self.dry_run || self.output.is_json() {
                Some(store.deleted_groups(&deletions, crawl).await?)
            } else {
                None
            };
            let now = setup.clock.now();
            let undone = match &groups {
                Some(groups) if self.dry_run => groups.len() as u64,
                _ => store.undelete(&lease, &deletions, crawl, now, day(&config, sdk_app_id, now)).await?,
            };
            Ok((deletions, groups, undone))
        };
        // Renews the lease meanwhile, because undoing millions of deletions may take longer than a
        // lease lasts.
        let undone = lease.run_while_held(undoing).await.map_err(Failure::from).flatten();
        lease.release_unused().await;
        let (deletions, groups, undone) = undone?;
        if undone == 0 {
            return Err(refused(nothing_left(&deletions, crawl)));
        }
        let result = json!({
            "app": deletions.app, "sdk_app_id": sdk_app_id, "crawl_id": crawl, "dry_run": self.dry_run,
            "groups": undone, "group_ids": groups,
        });
        let count = text::count(undone, "group");
        let exit = self.output.print(Exit::Done, result, |out| {
            if !self.dry_run {
                return writeln!(
                    out,
                    "{}: {count} live again, missing and held until the API lists them or someone \
                     runs `tim-group-sync approve --crawl {crawl}`",
                    deletions.app,
                );
            }
            groups.iter().flatten().try_for_each(|group| writeln!(out, "{}", one_line(group)))
        })?;
        if self.dry_run {
            message(format_args!("{count} would be live again"));
        }
        Ok(exit)
    }
}

fn refusal(deletions: &CrawlDeletions, crawl: CrawlId) -> Option<String> {
    if deletions.status == CrawlStatus::Running.as_str() {
        return Some(format!(
            "crawl {crawl} of {} was interrupted and deleted nothing; the next crawl closes it",
            deletions.app
        ));
    }
    (deletions.vanished == 0).then(|| {
        format!(
            "crawl {crawl} of {} marked no group deleted; the column crawls.vanished shows which \
             crawls did",
            deletions.app
        )
    })
}

fn nothing_left(deletions: &CrawlDeletions, crawl: CrawlId) -> String {
    if deletions.undeleted == 0 {
        return format!(
            "nothing to undo: the groups that crawl {crawl} marked deleted have been listed again \
             since, or removed by retention"
        );
    }
    format!(
        "nothing to undo: the deletions of crawl {crawl} are already undone ({})",
        text::count(deletions.undeleted, "group")
    )
}
