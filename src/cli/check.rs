//! `check`: a line for each thing that has to hold, and what to do where it does not.

use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use clap::Args;
use serde::Serialize;
use tokio::time::Instant;

use super::exit::{Exit, Failure};
use super::setup::{Setup, location};
use super::text;
use crate::config::{App, Config, Environment};
use crate::model::ReasonCode;
use crate::pace::{Pacer, Patience, RetryPolicy};
use crate::pages::Caller;
use crate::store::{DatabaseUrl, Lease, Store, StoreError};

/// How long a passing failure is retried: `check` is run by people who wait for it.
const RETRY_FOR: Duration = Duration::from_secs(15);
/// How long to wait for a crawl that is under way.
const WAIT_FOR_LEASE: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct Check {
    /// Check the configuration file alone: no environment, no database, no API
    #[arg(long)]
    no_environment: bool,
    /// Print the configuration in effect and where each value comes from, secrets masked
    #[arg(long)]
    show_config: bool,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
}

/// What was looked at and how it stands.
#[derive(Serialize)]
struct Finding {
    #[serde(skip)]
    exit: Exit,
    /// `ok`, `busy` or `FAIL`.
    outcome: &'static str,
    /// The configuration, the database, or an app.
    what: String,
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
}

impl Check {
    pub(super) async fn run(self, setup: &Setup) -> Result<Exit, Failure> {
        let config = if self.no_environment {
            setup.read(&Environment::unknown())?
        } else {
            setup.config_for_command()?
        };
        if self.show_config {
            config.settings.iter().for_each(|setting| println!("{setting}"));
            return Ok(Exit::Done);
        }
        let file = setup.locate()?;
        let apps = format!("{}, {} app(s)", file.display(), config.apps.len());
        let mut findings = vec![Finding::new(Exit::Done, "configuration", apps)];
        if !self.no_environment {
            let (database, store) = check_database(setup, &config).await?;
            findings.push(database);
            for app in &config.apps {
                findings.push(check_app(setup, app, store.as_ref()).await?);
            }
        }
        if self.json {
            println!(
                "{}",
                serde_json::to_string_pretty(&findings).map_err(|error| Failure::new(Exit::Failed, error))?
            );
        } else {
            findings.iter().for_each(print);
        }
        Ok(Exit::worst(findings.iter().map(|finding| finding.exit)))
    }
}

fn print(finding: &Finding) {
    println!("{:<5} {:<14} {}", finding.outcome, finding.what, finding.text);
    if !finding.next_runs.is_empty() {
        println!("{:<5} {:<14} next runs: {}", "", "", finding.next_runs.join(", "));
    }
}

/// Looks at the database without making one: what root makes here, the service's user could not write.
async fn check_database(setup: &Setup, config: &Config) -> Result<(Finding, Option<Store>), Failure> {
    let location = location(config)?;
    if let DatabaseUrl::Sqlite(path) = &location
        && !path.exists()
    {
        return Ok((check_folder(path), None));
    }
    let looked = async {
        let store = setup.opened(Store::open_existing(&location).await?);
        let tables = match store.check_migrated().await {
            Err(StoreError::NotMigrated) if config.database.auto_migrate => {
                store.check_migratable().await.map(|()| false)
            }
            tables => tables.map(|()| true),
        };
        Ok::<_, StoreError>((store, tables))
    };
    let finding = |exit, text: String| Finding::new(exit, "database", format!("{location}{text}"));
    match looked.await {
        Ok((store, Ok(true))) => Ok((finding(Exit::Done, ", tables up to date".to_owned()), Some(store))),
        Ok((_, Ok(false))) => {
            let text = ", tables are brought up to date at the next start".to_owned();
            // Without tables there is no lease to take, and nobody who could hold it.
            Ok((finding(Exit::Done, text), None))
        }
        Ok((_, Err(error))) | Err(error) => {
            let failure = Failure::from(error);
            Ok((finding(failure.exit, format!(": {:#}", failure.error)), None))
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

async fn check_app(setup: &Setup, app: &App, store: Option<&Store>) -> Result<Finding, Failure> {
    let client = match setup.client(app) {
        Ok(client) => client,
        Err(failure) => return Ok(Finding::new(failure.exit, &app.name, format!("{:#}", failure.error))),
    };
    let lease = match store {
        Some(store) => {
            let waiting = |waits| {
                if waits == 0 {
                    eprintln!("{} is being crawled; waiting up to {} s", app.name, WAIT_FOR_LEASE.as_secs());
                }
            };
            let waited = tokio::time::timeout(WAIT_FOR_LEASE, store.lease(app.sdk_app_id, waiting)).await;
            let Ok(lease) = waited else {
                let text = "is being crawled right now, so its credentials were not tried".to_owned();
                return Ok(Finding::new(Exit::Busy, &app.name, text));
            };
            Some(lease?)
        }
        None => None,
    };
    let wait = lease.as_ref().and_then(Lease::not_before).map(|at| (at - setup.clock.now()).to_std());
    let first_turn = wait.and_then(Result::ok).unwrap_or_default().min(app.request_interval);
    let pacer = Pacer::new(app.request_interval, Instant::now() + first_turn);
    let patience = Patience::new(RetryPolicy::lasting(RETRY_FOR));
    let mut caller = Caller::new(&client, &pacer, patience, |_| ());
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
        Err(lost) => {
            let failure = Failure::from(lost);
            (failure.exit, format!("its credentials were not tried: {:#}", failure.error))
        }
        Ok(Ok(total)) => {
            let total = total.map_or_else(|| "an unknown number of".to_owned(), text::number);
            (Exit::Done, format!("the API accepts the credentials; the app has {total} groups"))
        }
        Ok(Err(error)) if error.reason_code() == ReasonCode::Refused => (Exit::Config, error.to_string()),
        Ok(Err(error)) => (Exit::Failed, error.to_string()),
    };
    Ok(Finding { next_runs: next_runs(setup, app), ..Finding::new(exit, &app.name, text) })
}

fn next_runs(setup: &Setup, app: &App) -> Vec<String> {
    let ticks = &app.schedule.ticks;
    let text = |at: DateTime<Utc>| at.with_timezone(&ticks.timezone()).format("%F %T %Z").to_string();
    ticks.upcoming(setup.clock.now(), 5).into_iter().map(text).collect()
}
