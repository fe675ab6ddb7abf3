//! `check`: a line for each thing that has to hold, and what to do where it does not.

use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Args;
use serde::Serialize;
use tokio::time::Instant;

use super::exit::{Exit, Failure};
use super::output::Output;
use super::probe;
use super::setup::{Setup, location_and_warnings};
use super::text;
use crate::config::{App, Config, ConfigProblems, Environment, Setting};
use crate::model::ReasonCode;
use crate::pace::{Pacer, RetryBudget, RetryPolicy};
use crate::pages::Caller;
use crate::store::{DatabaseUrl, Lease, Store, StoreError};
use crate::tencent::{ApiError, Client};

/// How long a passing failure is retried: `check` is run by people who wait for it.
pub(super) const RETRY_FOR: Duration = Duration::from_secs(15);
/// How long to wait for a crawl that is under way.
pub(super) const WAIT_FOR_LEASE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct Check {
    /// Check the configuration file alone: no environment, no database, no API
    #[arg(long)]
    no_environment: bool,
    /// Print the configuration in effect and where each value comes from, secrets masked
    #[arg(long)]
    show_config: bool,
    /// Then ask the API, read-only, what its documentation leaves open, and print the answers as a table without
    /// group ids or secrets. The checks go to stderr
    #[arg(long, conflicts_with_all = ["no_environment", "show_config"])]
    probe: bool,
    /// Time between the two uses of one `Next`
    #[arg(long, value_name = "TIME", requires = "probe", hide = true, default_value = "1m",
        value_parser = humantime::parse_duration)]
    probe_wait: Duration,
    #[command(flatten)]
    pub(super) output: Output,
}

/// What was looked at and how it stands.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    #[serde(skip)]
    exit: Exit,
    /// `ok`, `warn`, `busy` or `FAIL`.
    outcome: &'static str,
    /// The configuration, the database, or an app.
    what: String,
    /// Where it does not hold, with what to do.
    text: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    next_runs: Vec<String>,
}

impl Finding {
    fn new(exit: Exit, what: &str, text: String) -> Self {
        let outcome = match exit {
            Exit::Done => "ok",
            Exit::Busy => "busy",
            _ => "FAIL",
        };
        Self { exit, outcome, what: what.to_owned(), text, next_runs: Vec::new() }
    }

    /// Something that holds, and that someone should know of all the same.
    fn warning(what: &str, text: String) -> Self {
        Self { outcome: "warn", ..Self::new(Exit::Done, what, text) }
    }

    /// Whether this is about `what` and does not hold.
    pub(super) fn is_failure_of(&self, what: &str) -> bool {
        self.what == what && self.exit != Exit::Done
    }

    fn of_failure(what: &str, failure: &Failure) -> Self {
        Self::new(failure.exit, what, failure.causes().join(": "))
    }
}

impl Check {
    pub(super) async fn run(self, setup: &Setup) -> Result<Exit, Failure> {
        if self.show_config {
            let settings = self.read(setup)?.settings;
            let shown: Vec<_> = settings.iter().map(setting_as_json).collect();
            return self.output.print(Exit::Done, shown, |out| {
                settings.iter().try_for_each(|setting| writeln!(out, "{setting}"))
            });
        }
        let findings = match self.read(setup) {
            Ok(config) if self.no_environment => vec![of_config(setup, &config)?],
            Ok(config) if self.probe => {
                return probe::run(setup, &config, self.probe_wait, self.output).await;
            }
            Ok(config) => examine(setup, &config).await?.0,
            Err(failure) => of_problems(failure)?,
        };
        let exit = worst(&findings);
        self.output.print(exit, &findings, |out| print(out, &findings))
    }

    fn read(&self, setup: &Setup) -> Result<Config, Failure> {
        if self.no_environment { setup.read(&Environment::unknown()) } else { setup.config_for_command() }
    }
}

fn setting_as_json(Setting { key, value, origin }: &Setting) -> serde_json::Value {
    serde_json::json!({ "key": key, "value": value, "origin": origin.to_string() })
}

/// A line for each problem of the configuration. Where there is none at all, that is the failure.
fn of_problems(failure: Failure) -> Result<Vec<Finding>, Failure> {
    let Some(problems) = failure.error.downcast_ref::<ConfigProblems>() else { return Err(failure) };
    let finding =
        |problem: &crate::config::Problem| Finding::new(failure.exit, "configuration", problem.to_string());
    Ok(problems.problems().iter().map(finding).collect())
}

fn of_config(setup: &Setup, config: &Config) -> Result<Finding, Failure> {
    let apps: Vec<&str> = config.apps.iter().map(|app| app.name.as_str()).collect();
    let text = format!("{}, with {}", setup.locate()?.display(), apps.join(", "));
    Ok(Finding::new(Exit::Done, "configuration", text))
}

/// Checks everything that a crawl needs. Returns the database too, if it can be used.
pub(super) async fn examine(
    setup: &Setup,
    config: &Config,
) -> Result<(Vec<Finding>, Option<Store>), Failure> {
    let mut findings = vec![of_config(setup, config)?];
    let store = check_database(setup, config, &mut findings).await;
    for app in &config.apps {
        let what = app.name.as_str();
        let mut finding = match setup.client_and_warnings(app) {
            Ok((client, warnings)) => {
                findings.extend(warnings.into_iter().map(|warning| Finding::warning(what, warning)));
                check_app(setup, app, &client, store.as_ref()).await
            }
            Err(failure) => Finding::of_failure(what, &failure),
        };
        finding.next_runs = next_runs(setup, app);
        findings.push(finding);
    }
    Ok((findings, store))
}

pub(super) fn worst(findings: &[Finding]) -> Exit {
    Exit::worst(findings.iter().map(|finding| finding.exit))
}

pub(super) fn print(out: &mut dyn std::io::Write, findings: &[Finding]) -> std::io::Result<()> {
    for Finding { outcome, what, text, next_runs, .. } in findings {
        writeln!(out, "{outcome:<5} {what:<14} {text}")?;
        if !next_runs.is_empty() {
            writeln!(out, "{:<5} {:<14} next runs: {}", "", "", next_runs.join(", "))?;
        }
    }
    Ok(())
}

/// Looks at the database without making one: what root makes here, the service's user could not write.
async fn check_database(setup: &Setup, config: &Config, findings: &mut Vec<Finding>) -> Option<Store> {
    let (location, warnings) = match location_and_warnings(config) {
        Ok(found) => found,
        Err(failure) => {
            findings.push(Finding::of_failure("database", &failure));
            return None;
        }
    };
    findings.extend(warnings.into_iter().map(|warning| Finding::warning("database", warning)));
    if let DatabaseUrl::Sqlite(path) = &location
        && !path.exists()
    {
        findings.push(check_folder(path));
        return None;
    }
    let opened = async {
        let store = setup.opened(Store::open_existing(&location).await?);
        let tables = match store.check_migrated().await {
            Err(StoreError::NotMigrated) if config.database.auto_migrate => {
                store.check_migratable().await.map(|()| false)
            }
            tables => tables.map(|()| true),
        };
        Ok::<_, StoreError>((store, tables))
    };
    let holds = |text: &str| Finding::new(Exit::Done, "database", format!("{location}, {text}"));
    match opened.await {
        Ok((store, Ok(true))) => {
            findings.push(holds("tables up to date"));
            Some(store)
        }
        Ok((_, Ok(false))) => {
            findings.push(holds("tables are brought up to date at the next start"));
            // Without tables there is no lease to take, and nobody who could hold it.
            None
        }
        Ok((_, Err(error))) | Err(error) => {
            findings.push(Finding::of_failure("database", &Failure::from(error)));
            None
        }
    }
}

fn check_folder(database: &Path) -> Finding {
    let mut folder = database.parent().unwrap_or(Path::new("/"));
    if folder.as_os_str().is_empty() {
        folder = Path::new(".");
    }
    while !folder.exists() {
        folder = folder.parent().unwrap_or(Path::new("/"));
    }
    match try_to_write(folder) {
        Ok(()) => {
            Finding::new(Exit::Done, "database", format!("{}, made at the first crawl", database.display()))
        }
        Err(error) => {
            let text = format!(
                "{} cannot be made: {} is not writable ({error}); \
                 set database.url to another place, or run as the user who owns it",
                database.display(),
                folder.display()
            );
            Finding::new(Exit::Failed, "database", text)
        }
    }
}

/// Whether a file can be made in a folder.
fn try_to_write(folder: &Path) -> std::io::Result<()> {
    let path = folder.join(format!(".tim-group-sync-check-{}", std::process::id()));
    std::fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
    std::fs::remove_file(path)
}

/// Asks the API one thing, in turn with whoever else asks it.
async fn check_app(setup: &Setup, app: &App, client: &Client, store: Option<&Store>) -> Finding {
    let not_tried = |failure: &Failure| {
        let text = format!("its credentials were not tried: {}", failure.causes().join(": "));
        Finding::new(failure.exit, &app.name, text)
    };
    let lease = match store {
        Some(store) => {
            let waiting = |waits| {
                if waits == 0 {
                    eprintln!("{} is being crawled; waiting up to {} s", app.name, WAIT_FOR_LEASE.as_secs());
                }
            };
            let waited = tokio::time::timeout(WAIT_FOR_LEASE, store.lease(app.sdk_app_id, waiting)).await;
            match waited {
                Err(_) => {
                    let text = "is being crawled right now, so its credentials were not tried; \
                                `tim-group-sync status` says how that goes";
                    return Finding::new(Exit::Busy, &app.name, text.to_owned());
                }
                Ok(Err(error)) => return not_tried(&error.into()),
                Ok(Ok(lease)) => Some(lease),
            }
        }
        None => None,
    };
    let wait = lease.as_ref().and_then(Lease::not_before).map(|at| (at - setup.clock.now()).to_std());
    let first_turn = wait.and_then(Result::ok).unwrap_or_default().min(app.request_interval);
    let pacer = Pacer::new(app.request_interval, Instant::now() + first_turn);
    let retries = RetryBudget::new(RetryPolicy::lasting(RETRY_FOR.min(app.retry_for)));
    let mut caller = Caller::new(client, &pacer, retries, |_| ());
    let counted = match lease {
        Some(lease) => {
            // A request and its retries may take longer than a lease lasts.
            let counted = lease.keeping(caller.count_app()).await;
            lease.release(setup.clock.now(), app.request_interval).await;
            counted
        }
        None => Ok(caller.count_app().await),
    };
    let (exit, text) = match counted {
        Err(lost) => return not_tried(&lost.into()),
        Ok(Ok(total)) => {
            let total = total.map_or_else(|| "an unknown number of".to_owned(), text::number);
            (Exit::Done, format!("the API accepts the credentials; the app has {total} groups"))
        }
        Ok(Err(error)) if error.reason_code() == ReasonCode::Refused => (Exit::Config, error.to_string()),
        Ok(Err(error)) => (Exit::Failed, format!("{error}{}", api_advice(&error, app))),
    };
    Finding::new(exit, &app.name, text)
}

/// What to do about an API that does not answer as it should, where the error itself does not say it.
fn api_advice(error: &ApiError, app: &App) -> String {
    let host = app.api.base_url.host_str().unwrap_or_default();
    match error.reason_code() {
        _ if matches!(error, ApiError::Untrusted { .. }) => String::new(),
        ReasonCode::Timeout | ReasonCode::Network => {
            format!("; see whether this machine reaches {host} (firewall, HTTPS_PROXY), then check again")
        }
        ReasonCode::Throttled => {
            "; another program calls the API as this app, so check again in a minute".to_owned()
        }
        ReasonCode::MalformedAnswer => {
            format!("; something else than the API may have answered for {host}: a proxy, or base_url")
        }
        _ => "; check again in a minute, and if it stays, ask Tencent Cloud's support with this code"
            .to_owned(),
    }
}

fn next_runs(setup: &Setup, app: &App) -> Vec<String> {
    let ticks = &app.schedule.ticks;
    let text = |at: DateTime<Utc>| at.with_timezone(&ticks.timezone()).format("%F %T %Z").to_string();
    ticks.upcoming(setup.clock.now(), 5).into_iter().map(text).collect()
}
