//! `crawl`: crawls every app once.

use std::collections::HashMap;
use std::io::Write;
use std::sync::Arc;

use clap::Args;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

use super::empty_database::{TemporaryFolder, empty_database};
use super::exit::{Exit, Failure};
use super::output::Output;
use super::setup::{Setup, database_location, publication, selected};
use super::{progress, text};
use crate::config::{App, Config};
use crate::crawl::{ChangeKind, CrawlError, CrawlReport, CrawlRequest, Crawler, DryRun, WhenBusy};
use crate::escape::one_line;
use crate::lifecycle::{Lifecycle, Stop};
use crate::model::{CrawlStatus, SdkAppId, Trigger};
use crate::store::{DatabaseLocation, Reason, Store, StoreError};
use crate::tencent::Client;

#[derive(Debug, Args)]
pub(super) struct CrawlArgs {
    /// Crawl this app only
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
    /// Do not wait if another process is crawling the app: exit 75
    #[arg(long)]
    no_wait: bool,
    /// Make the same requests, report what would appear, vanish, reappear and be retyped, and write
    /// nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub(super) output: Output,
}

impl CrawlArgs {
    pub(super) async fn run(self, setup: &Setup, lifecycle: &Lifecycle) -> Result<Exit, Failure> {
        let stop = lifecycle.stop();
        tokio::select! {
            biased;
            ended = self.crawl(setup, lifecycle) => ended,
            () = stop.hard().cancelled() => {
                let error = anyhow::anyhow!("interrupted; the next crawl will record this one as failed");
                Err(Failure::new(exit_unless_stopped(lifecycle, Exit::Failed), error))
            }
        }
    }

    async fn crawl(&self, setup: &Setup, lifecycle: &Lifecycle) -> Result<Exit, Failure> {
        let config = setup.config_for_command()?;
        let apps = selected(&config, self.app.as_deref())?;
        let mut clients: Vec<_> = apps.into_iter().map(|app| (app, client(setup, app))).collect();
        if clients.iter().all(|(_, client)| client.is_err())
            && let Some((_, Err(failure))) = clients.pop()
        {
            clients.into_iter().filter_map(|(_, client)| client.err()).for_each(|failure| failure.print());
            return Err(failure);
        }
        let opening = async {
            if self.dry_run {
                return open_for_dry_run(setup, &database_location(&config)?).await;
            }
            let store = setup.store(&config).await?;
            let configured: Vec<_> = config.apps.iter().map(|app| app.sdk_app_id).collect();
            store.set_configured(&configured).await?;
            Ok::<_, Failure>((store, None))
        };
        let (store, _temporary) = tokio::select! {
            opened = opening => opened?,
            () = lifecycle.stop().soft().cancelled() => {
                let error = anyhow::anyhow!("stopped before the database was open; nothing was crawled");
                return Err(Failure::new(exit_unless_stopped(lifecycle, Exit::Failed), error));
            }
        };
        let attempts: Vec<Attempt> =
            clients.into_iter().map(|(app, client)| attempt(setup, &config, app, client, &store)).collect();
        let when_busy = if self.no_wait { WhenBusy::GiveUp } else { WhenBusy::Wait };
        if self.dry_run {
            let results = dry_run_all(attempts, when_busy, lifecycle.stop()).await;
            let exit = exit_of_all(&results, Exit::of_dry_run);
            let is_stopped = lifecycle.stopped_by().is_some();
            let error =
                error_of_all(&results, is_stopped, Exit::of_dry_run, |dry_run| dry_run.reason.as_ref());
            return self.output.print_with_error_in_text(
                (exit_unless_stopped(lifecycle, exit), error),
                dry_runs_as_json(&config, &results),
                |out| results.iter().try_for_each(|(app, result)| print_dry_run(out, app, result)),
            );
        }
        let results = crawl_all(attempts, when_busy, lifecycle.stop()).await;
        if let Some(publication) = publication(&config) {
            tokio::select! {
                () = publication.publish_if_due(&store, &setup.clock) => {}
                () = lifecycle.stop().soft().cancelled() => {}
            }
        }
        let exit = exit_of_all(&results, Exit::of_crawl);
        let is_stopped = lifecycle.stopped_by().is_some();
        let error = error_of_all(&results, is_stopped, Exit::of_crawl, |report| report.reason.as_ref());
        let ended = (exit_unless_stopped(lifecycle, exit), error);
        self.output.print_with_error_in_text(ended, crawls_as_json(&config, &results), |out| {
            results.iter().try_for_each(|(app, result)| writeln!(out, "{}", summary(app, result)))
        })
    }
}

/// Returns the exit code: that of the signal if one stopped the command, otherwise `exit`.
fn exit_unless_stopped(lifecycle: &Lifecycle, exit: Exit) -> Exit {
    lifecycle.stopped_by().map_or(exit, Exit::Stopped)
}

/// An app's crawler, or the failure to create it. An app whose key cannot be read does not prevent
/// the crawls of others.
pub(super) struct Attempt {
    app: String,
    crawler: Result<Arc<Crawler>, Failure>,
}

impl From<Arc<Crawler>> for Attempt {
    fn from(crawler: Arc<Crawler>) -> Self {
        Self { app: crawler.identity().name.clone(), crawler: Ok(crawler) }
    }
}

fn client(setup: &Setup, app: &App) -> Result<Client, Failure> {
    let of_app = |Failure { exit, error }| {
        Failure::new(exit, error.context(format!("app {} cannot be crawled", app.name)))
    };
    setup.client(app).map_err(of_app)
}

fn attempt(
    setup: &Setup,
    config: &Config,
    app: &App,
    client: Result<Client, Failure>,
    store: &Store,
) -> Attempt {
    let crawler = client.map(|client| Arc::new(setup.crawler(config, app, client, store)));
    Attempt { app: app.name.clone(), crawler }
}

/// The result for one app: a report, or why the app was not crawled.
pub(super) type AppResult<R> = Result<R, Failure>;

pub(super) fn exit_of_all<R>(results: &[(String, AppResult<R>)], exit: impl Fn(&R) -> Exit) -> Exit {
    let exit = |result: &AppResult<R>| result.as_ref().map_or_else(|failure| failure.exit, &exit);
    Exit::worst(results.iter().map(|(_, result)| exit(result)))
}

/// Returns why apps were not crawled successfully, in one sentence, or `None` if all were. If a
/// signal stopped the command (`is_stopped`), a crawl with a reason is not successful even if its
/// exit code is 0.
fn error_of_all<'o, R>(
    results: &'o [(String, AppResult<R>)],
    is_stopped: bool,
    exit: impl Fn(&R) -> Exit,
    reason: impl Fn(&'o R) -> Option<&'o Reason>,
) -> Option<String> {
    let why = |(app, result): &'o (String, AppResult<R>)| match result {
        Ok(report) if exit(report) == Exit::Done && !(is_stopped && reason(report).is_some()) => None,
        Ok(report) => {
            Some(format!("{app}: {}", reason(report).map_or("no reason was recorded", |reason| &reason.text)))
        }
        Err(failure) => Some(format!("{app}: {}", failure.causes().join(": "))),
    };
    let failed: Vec<String> = results.iter().filter_map(why).collect();
    (!failed.is_empty()).then(|| failed.join("; "))
}

/// Crawls all apps at the same time and shows their progress.
pub(super) async fn crawl_all(
    attempts: Vec<Attempt>,
    when_busy: WhenBusy,
    stop: &Stop,
) -> Vec<(String, AppResult<CrawlReport>)> {
    let crawl = |crawler: Arc<Crawler>, stop: CancellationToken| async move {
        let request = CrawlRequest { trigger: Trigger::Command, due_at: None };
        crawler.crawl(request, when_busy, &stop).await
    };
    run_all(attempts, crawl, stop).await
}

/// Makes a dry run of all apps at the same time and shows their progress.
async fn dry_run_all(
    attempts: Vec<Attempt>,
    when_busy: WhenBusy,
    stop: &Stop,
) -> Vec<(String, AppResult<DryRun>)> {
    let dry_run = |crawler: Arc<Crawler>, stop: CancellationToken| async move {
        crawler.dry_run(when_busy, &stop).await
    };
    run_all(attempts, dry_run, stop).await
}

/// Runs `crawl` for every app that has a crawler, and returns the results in the order of the
/// attempts.
async fn run_all<R: Send + 'static, F: Future<Output = Result<R, CrawlError>> + Send + 'static>(
    attempts: Vec<Attempt>,
    crawl: impl Fn(Arc<Crawler>, CancellationToken) -> F,
    stop: &Stop,
) -> Vec<(String, AppResult<R>)> {
    let mut crawls = JoinSet::new();
    let mut indexes = HashMap::new();
    let mut progresses = Vec::new();
    let mut results: Vec<(String, Option<AppResult<R>>)> = Vec::new();
    for (index, Attempt { app, crawler }) in attempts.into_iter().enumerate() {
        let result = match crawler {
            Ok(crawler) => {
                progresses.push((app.clone(), crawler.progress()));
                let task = crawls.spawn(crawl(crawler, stop.soft().clone()));
                indexes.insert(task.id(), index);
                None
            }
            Err(failure) => Some(Err(failure)),
        };
        results.push((app, result));
    }
    let all_ended = async {
        while let Some(ended) = crawls.join_next_with_id().await {
            let (id, result) = match ended {
                Ok((id, result)) => (id, result.map_err(Failure::from)),
                Err(panic) => (panic.id(), Err(Failure::new(Exit::Failed, panic))),
            };
            if let Some((_, slot)) = indexes.get(&id).and_then(|index| results.get_mut(*index)) {
                *slot = Some(result);
            }
        }
    };
    tokio::select! {
        () = all_ended => {}
        () = progress::show(progresses) => {}
    }
    results.into_iter().filter_map(|(app, result)| Some((app, result?))).collect()
}

/// Returns a summary of a crawl, with its reason on a second line if it has one.
pub(super) fn summary(app: &str, result: &AppResult<CrawlReport>) -> String {
    let report = match result {
        Ok(report) => report,
        Err(failure) => return not_crawled(app, failure),
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
        (i64::try_from(report.lookups.spared).unwrap_or(i64::MAX), "not listed but existing"),
        (i64::try_from(report.lookups.unlearned).unwrap_or(i64::MAX), "asked about without a usable answer"),
        (i64::try_from(report.lookups.unasked).unwrap_or(i64::MAX), "not asked about yet"),
    ]
    .into_iter()
    .filter(|(groups, _)| *groups > 0)
    .map(|(groups, what)| format!("{} {what}", text::number(groups)))
    .collect();
    let baseline = report.first_listed.saturating_sub(events.appeared.unsigned_abs());
    if baseline > 0 {
        changes.insert(0, format!("{} listed for the first time", text::number(baseline)));
    }
    let changes = if changes.is_empty() { "nothing changed".to_owned() } else { changes.join(", ") };
    let reason = match (&report.reason, report.status) {
        (Some(reason), _) => format!("\n  because: {}", one_line(&reason.text)),
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

fn not_crawled(app: &str, failure: &Failure) -> String {
    format!("{app}: not crawled: {}", failure.causes().join(": "))
}

fn sdk_app_id(config: &Config, name: &str) -> Option<SdkAppId> {
    config.apps.iter().find(|app| app.name == name).map(|app| app.sdk_app_id)
}

fn crawls_as_json(config: &Config, results: &[(String, AppResult<CrawlReport>)]) -> Vec<serde_json::Value> {
    results
        .iter()
        .map(|(app, result)| match result {
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
                "asked": report.lookups.asked,
                "confirmed": report.lookups.confirmed,
                "spared": report.lookups.spared,
                "unlearned": report.lookups.unlearned,
                "unasked": report.lookups.unasked,
            }),
            Err(failure) => serde_json::json!({
                "app": app, "sdk_app_id": sdk_app_id(config, app), "status": null,
                "reason": failure.causes().join(": "),
            }),
        })
        .collect()
}

/// Opens the database for a dry run, which writes nothing but the lease. On PostgreSQL the lease is
/// a row, so the connection must be writable. Before the first crawl there are no tables. Then the
/// dry run uses an empty temporary database, which exists as long as the returned folder.
async fn open_for_dry_run(
    setup: &Setup,
    location: &DatabaseLocation,
) -> Result<(Store, Option<TemporaryFolder>), Failure> {
    let opened = match location {
        DatabaseLocation::Sqlite(_) => Store::open_to_read(location).await,
        DatabaseLocation::Postgres(_) => Store::open_existing(location).await,
    };
    let tables = match opened {
        Ok(store) => setup.close_at_end(store.clone()).check_migrated().await.map(|()| store),
        Err(error) => Err(error),
    };
    match tables {
        Ok(store) => Ok((store, None)),
        Err(StoreError::Absent { .. } | StoreError::NotMigrated) => {
            let (store, folder) = empty_database().await?;
            Ok((store, Some(folder)))
        }
        Err(error) => Err(error.into()),
    }
}

/// Prints a line for each group that would change, and then a summary. Groups of a baseline have no
/// line; the summary counts them.
fn print_dry_run(out: &mut dyn Write, app: &str, result: &AppResult<DryRun>) -> std::io::Result<()> {
    let dry_run = match result {
        Ok(dry_run) => dry_run,
        Err(failure) => return writeln!(out, "{}", not_crawled(app, failure)),
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
        change.groups.iter().try_for_each(|id| writeln!(out, "{app}: {kind} {} ({types})", one_line(id)))?;
    }
    for (groups, what) in [
        (dry_run.lookups.spared, "not listed but existing"),
        (dry_run.lookups.unlearned, "asked about without a usable answer"),
        (dry_run.lookups.unasked, "not asked about"),
    ] {
        if groups > 0 {
            changes.push(format!("{} {what}", text::number(groups)));
        }
    }
    let changes = if changes.is_empty() { "nothing would change".to_owned() } else { changes.join(", ") };
    let reason = dry_run.reason.as_ref();
    let reason = reason.map(|reason| format!("\n  because: {}", one_line(&reason.text)));
    writeln!(
        out,
        "{app}: dry run, the crawl would be {}: {} listed, {changes}; {}, nothing was written{}",
        dry_run.status,
        text::count(dry_run.listed, "group"),
        text::count(dry_run.requests, "request"),
        reason.unwrap_or_default()
    )
}

fn dry_runs_as_json(config: &Config, results: &[(String, AppResult<DryRun>)]) -> Vec<serde_json::Value> {
    let change = |change: &crate::crawl::PlannedChange| {
        serde_json::json!({
            "change": change.kind.as_str(),
            "old_type": change.old_type,
            "new_type": change.new_type,
            "group_ids": change.groups.iter().collect::<Vec<_>>(),
        })
    };
    results
        .iter()
        .map(|(app, result)| match result {
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
                "asked": dry_run.lookups.asked,
                "confirmed": dry_run.lookups.confirmed,
                "spared": dry_run.lookups.spared,
                "unlearned": dry_run.lookups.unlearned,
                "unasked": dry_run.lookups.unasked,
                "changes": dry_run.changes.iter().map(change).collect::<Vec<_>>(),
            }),
            Err(failure) => serde_json::json!({
                "app": app, "sdk_app_id": sdk_app_id(config, app), "dry_run": true, "status": null,
                "reason": failure.causes().join(": "),
            }),
        })
        .collect()
}
