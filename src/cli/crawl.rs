//! `crawl`: crawls every app once.

use std::io::Write;
use std::sync::Arc;

use clap::Args;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::exit::{Exit, Failure};
use super::output::Output;
use super::setup::{Setup, location, publication, selected};
use super::{progress, text};
use crate::config::Config;
use crate::crawl::{ChangeKind, CrawlError, CrawlReport, CrawlRequest, Crawler, DryRun, WhenBusy};
use crate::lifecycle::{Lifecycle, Stop};
use crate::model::{CrawlStatus, SdkAppId, Trigger, with_causes};
use crate::store::{DatabaseUrl, Store};

#[derive(Debug, Args)]
pub(super) struct CrawlArgs {
    /// Crawl this app only
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
    /// Do not wait if another process is crawling the app: exit 75
    #[arg(long)]
    no_wait: bool,
    /// Make the same requests, report what would appear, vanish, reappear and be retyped, and write nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub(super) output: Output,
}

impl CrawlArgs {
    pub(super) async fn run(self, setup: &Setup) -> Result<Exit, Failure> {
        let config = setup.config_for_command()?;
        let mut clients = Vec::new();
        for app in selected(&config, self.app.as_deref())? {
            clients.push((app, setup.client(app)?));
        }
        let store = if self.dry_run {
            setup.opened(open_for_dry_run(&location(&config)?).await?)
        } else {
            let store = setup.store(&config).await?;
            let configured: Vec<_> = config.apps.iter().map(|app| app.sdk_app_id).collect();
            store.set_configured(&configured).await?;
            store
        };
        let crawlers: Vec<_> = clients
            .into_iter()
            .map(|(app, client)| Arc::new(setup.crawler(&config, app, client, &store)))
            .collect();
        let lifecycle = Lifecycle::install()?;
        let when_busy = if self.no_wait { WhenBusy::GiveUp } else { WhenBusy::Wait };
        if self.dry_run {
            let outcomes = dry_run_all(&crawlers, when_busy, lifecycle.stop()).await?;
            let exit = Exit::worst(outcomes.iter().map(|(_, outcome)| Exit::of_dry_run(outcome)));
            return self.output.print(exit, dry_runs_as_json(&config, &outcomes), |out| {
                outcomes.iter().try_for_each(|(app, outcome)| print_dry_run(out, app, outcome))
            });
        }
        let outcomes = crawl_all(&crawlers, when_busy, lifecycle.stop()).await?;
        if let Some(publication) = publication(&config) {
            tokio::select! {
                () = publication.publish_if_due(&store, &setup.clock) => {}
                () = lifecycle.stop().soft().cancelled() => {}
            }
        }
        let exit = Exit::worst(outcomes.iter().map(|(_, outcome)| Exit::of_crawl(outcome)));
        self.output.print(exit, as_json(&config, &outcomes), |out| {
            outcomes.iter().try_for_each(|(app, outcome)| writeln!(out, "{}", sentence(app, outcome)))
        })
    }
}

type CrawlResult = Result<CrawlReport, CrawlError>;

/// Crawls all apps at the same time and shows their progress.
pub(super) async fn crawl_all(
    crawlers: &[Arc<Crawler>],
    when_busy: WhenBusy,
    stop: &Stop,
) -> Result<Vec<(String, CrawlResult)>, Failure> {
    let crawl = |crawler: Arc<Crawler>, stop: CancellationToken| async move {
        let occasion = CrawlRequest { trigger: Trigger::Command, due_at: None };
        crawler.crawl(occasion, when_busy, &stop).await
    };
    all(crawlers, crawl, stop).await
}

/// Makes a dry run of all apps at the same time and shows their progress.
async fn dry_run_all(
    crawlers: &[Arc<Crawler>],
    when_busy: WhenBusy,
    stop: &Stop,
) -> Result<Vec<(String, Result<DryRun, CrawlError>)>, Failure> {
    let dry_run = |crawler: Arc<Crawler>, stop: CancellationToken| async move {
        crawler.dry_run(when_busy, &stop).await
    };
    all(crawlers, dry_run, stop).await
}

async fn all<T: Send + 'static, F: Future<Output = T> + Send + 'static>(
    crawlers: &[Arc<Crawler>],
    crawl: impl Fn(Arc<Crawler>, CancellationToken) -> F,
    stop: &Stop,
) -> Result<Vec<(String, T)>, Failure> {
    let mut crawls = JoinSet::new();
    for (index, crawler) in crawlers.iter().enumerate() {
        let crawling = crawl(Arc::clone(crawler), stop.soft().clone());
        crawls.spawn(async move { (index, crawling.await) });
    }
    let shown =
        crawlers.iter().map(|crawler| (crawler.identity().name.clone(), crawler.progress())).collect();
    let mut ended = Vec::new();
    let all_ended = async {
        while let Some(crawl) = crawls.join_next().await {
            ended.push(crawl.map_err(|panic| Failure::new(Exit::Failed, panic))?);
        }
        Ok::<(), Failure>(())
    };
    tokio::select! {
        all = all_ended => all?,
        () = progress::show(shown) => {}
        () = stop.hard().cancelled() => {
            let error = anyhow::anyhow!("interrupted; the next crawl will record this one as failed");
            return Err(Failure::new(Exit::Failed, error));
        }
    }
    ended.sort_by_key(|(index, _)| *index);
    let name = |index: usize| crawlers[index].identity().name.clone();
    Ok(ended.into_iter().map(|(index, outcome)| (name(index), outcome)).collect())
}

/// Summarises a crawl: what it did and, on a second line, why it is not simply complete.
pub(super) fn sentence(app: &str, outcome: &CrawlResult) -> String {
    let report = match outcome {
        Ok(report) => report,
        Err(error) => return format!("{app}: not crawled: {}", with_causes(error)),
    };
    let took = (report.finished_at - report.started_at).to_std().unwrap_or_default();
    let took = humantime::format_duration(std::time::Duration::from_millis(
        u64::try_from(took.as_millis()).unwrap_or(u64::MAX),
    ));
    let events = &report.events;
    let mut changes: Vec<String> = [
        (events.appeared, "appeared"),
        (events.vanished, "vanished"),
        (events.reappeared, "reappeared"),
        (events.retyped, "retyped"),
        (i64::try_from(report.missing).unwrap_or(i64::MAX), "missing"),
        (i64::try_from(report.withheld).unwrap_or(i64::MAX), "withheld"),
        (i64::try_from(report.asked.spared).unwrap_or(i64::MAX), "not listed but existing"),
        (i64::try_from(report.asked.unlearned).unwrap_or(i64::MAX), "asked about without a usable answer"),
        (i64::try_from(report.asked.unasked).unwrap_or(i64::MAX), "not asked about yet"),
    ]
    .into_iter()
    .filter(|(groups, _)| *groups > 0)
    .map(|(groups, what)| format!("{} {what}", text::number(groups)))
    .collect();
    let first = report.first_listed.saturating_sub(events.appeared.unsigned_abs());
    if first > 0 {
        changes.insert(0, format!("{} listed for the first time", text::number(first)));
    }
    let changes = if changes.is_empty() { "nothing changed".to_owned() } else { changes.join(", ") };
    let reason = match (&report.reason, report.status) {
        (Some(reason), _) => format!("\n  because: {}", reason.text),
        (None, CrawlStatus::Complete) => String::new(),
        (None, _) => "\n  no reason was recorded".to_owned(),
    };
    format!(
        "{app}: crawl {} {}: {} listed, {changes}; {} in {took}{reason}",
        report.crawl,
        report.status,
        text::count(report.listed, "group"),
        text::count(report.requests, "request"),
    )
}

fn sdk_app_id(config: &Config, name: &str) -> Option<SdkAppId> {
    config.apps.iter().find(|app| app.name == name).map(|app| app.sdk_app_id)
}

fn as_json(config: &Config, outcomes: &[(String, CrawlResult)]) -> Vec<serde_json::Value> {
    outcomes
        .iter()
        .map(|(app, outcome)| match outcome {
            Ok(report) => serde_json::json!({
                "app": app,
                "sdk_app_id": sdk_app_id(config, app),
                "crawl_id": report.crawl,
                "status": report.status,
                "deletions": report.deletions,
                "reason_code": report.reason.as_ref().map(|reason| reason.code),
                "error_code": report.reason.as_ref().and_then(|reason| reason.error_code),
                "reason": report.reason.as_ref().map(|reason| &reason.text),
                "started_at": report.started_at,
                "finished_at": report.finished_at,
                "requests": report.requests,
                "groups_listed": report.listed,
                "first_listed": report.first_listed,
                "appeared": report.events.appeared,
                "vanished": report.events.vanished,
                "reappeared": report.events.reappeared,
                "retyped": report.events.retyped,
                "missing": report.missing,
                "withheld": report.withheld,
                "withheld_confirmed": report.withheld_confirmed,
                "asked": report.asked.asked,
                "confirmed": report.asked.confirmed,
                "spared": report.asked.spared,
                "unlearned": report.asked.unlearned,
                "unasked": report.asked.unasked,
            }),
            Err(error) => serde_json::json!({
                "app": app, "sdk_app_id": sdk_app_id(config, app), "status": null, "reason": with_causes(error),
            }),
        })
        .collect()
}

/// Opens the database for a dry run, which changes nothing but the lease. On PostgreSQL the lease is a row, so the connection
/// must be writable.
async fn open_for_dry_run(location: &DatabaseUrl) -> Result<Store, Failure> {
    let store = match location {
        DatabaseUrl::Sqlite(_) => Store::open_to_read(location).await?,
        DatabaseUrl::Postgres(_) => Store::open_existing(location).await?,
    };
    store.check_migrated().await?;
    Ok(store)
}

/// Prints a line for each group that would change, except groups of a first list, and then a summary.
fn print_dry_run(
    out: &mut dyn Write,
    app: &str,
    outcome: &Result<DryRun, CrawlError>,
) -> std::io::Result<()> {
    let dry_run = match outcome {
        Ok(dry_run) => dry_run,
        Err(error) => return writeln!(out, "{app}: not crawled: {}", with_causes(error)),
    };
    let mut changes: Vec<String> = Vec::new();
    for change in &dry_run.changes {
        let (old, new) = (change.old_type.as_deref(), change.new_type.as_deref());
        let types = match (old, new) {
            (Some(old), Some(new)) if old != new => format!("{old} to {new}"),
            (old, new) => new.or(old).unwrap_or("type unknown").to_owned(),
        };
        let groups = text::number(change.groups.len() as u64);
        if change.kind == ChangeKind::Baseline {
            changes.push(format!("{groups} listed for the first time ({types})"));
            continue;
        }
        changes.push(format!("{groups} {} ({types})", change.kind.as_str()));
        let kind = change.kind.as_str();
        change.groups.iter().try_for_each(|id| writeln!(out, "{app}: {kind} {id} ({types})"))?;
    }
    for (groups, what) in [
        (dry_run.asked.spared, "not listed but existing"),
        (dry_run.asked.unlearned, "asked about without a usable answer"),
        (dry_run.asked.unasked, "not asked about"),
    ] {
        if groups > 0 {
            changes.push(format!("{} {what}", text::number(groups)));
        }
    }
    let changes = if changes.is_empty() { "nothing would change".to_owned() } else { changes.join(", ") };
    let reason = dry_run.reason.as_ref().map(|reason| format!("\n  because: {}", reason.text));
    writeln!(
        out,
        "{app}: dry run, the crawl would be {}: {} listed, {changes}; {}, nothing was written{}",
        dry_run.status,
        text::count(dry_run.listed, "group"),
        text::count(dry_run.requests, "request"),
        reason.unwrap_or_default()
    )
}

fn dry_runs_as_json(
    config: &Config,
    outcomes: &[(String, Result<DryRun, CrawlError>)],
) -> Vec<serde_json::Value> {
    let change = |change: &crate::crawl::PlannedChange| {
        serde_json::json!({
            "change": change.kind.as_str(),
            "old_type": change.old_type,
            "new_type": change.new_type,
            "group_ids": change.groups.iter().collect::<Vec<_>>(),
        })
    };
    outcomes
        .iter()
        .map(|(app, outcome)| match outcome {
            Ok(dry_run) => serde_json::json!({
                "app": app,
                "sdk_app_id": sdk_app_id(config, app),
                "dry_run": true,
                "status": dry_run.status,
                "deletions": dry_run.deletions,
                "reason_code": dry_run.reason.as_ref().map(|reason| reason.code),
                "error_code": dry_run.reason.as_ref().and_then(|reason| reason.error_code),
                "reason": dry_run.reason.as_ref().map(|reason| &reason.text),
                "requests": dry_run.requests,
                "groups_listed": dry_run.listed,
                "total_count": dry_run.total,
                "asked": dry_run.asked.asked,
                "confirmed": dry_run.asked.confirmed,
                "spared": dry_run.asked.spared,
                "unlearned": dry_run.asked.unlearned,
                "unasked": dry_run.asked.unasked,
                "changes": dry_run.changes.iter().map(change).collect::<Vec<_>>(),
            }),
            Err(error) => serde_json::json!({
                "app": app, "sdk_app_id": sdk_app_id(config, app), "dry_run": true, "status": null,
                "reason": with_causes(error),
            }),
        })
        .collect()
}
