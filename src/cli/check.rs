//! `check`: a line for each thing that has to hold, and what to do where it does not.

use std::path::Path;
use std::time::Duration;

use clap::Args;

use super::exit::{Exit, Failure};
use super::setup::{Setup, location};
use super::text;
use crate::config::{App, Config, Environment};
use crate::pace::{Pacer, Patience, RetryPolicy};
use crate::pages::Caller;
use crate::schedule::Schedule;
use crate::store::{DatabaseUrl, Lease, Store, StoreError};
use crate::tencent::ApiError;
use tokio::time::Instant;

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
        println!("ok    configuration  {}, {} app(s)", file.display(), config.apps.len());
        if self.no_environment {
            return Ok(Exit::Done);
        }
        let (mut exits, store) = check_database(&config).await?;
        for app in &config.apps {
            exits.push(check_app(setup, app, store.as_ref()).await?);
        }
        if let Some(store) = store {
            store.close().await;
        }
        Ok(Exit::worst(exits))
    }
}

/// Looks at the database without making one: what root makes here, the service's user could not write.
async fn check_database(config: &Config) -> Result<(Vec<Exit>, Option<Store>), Failure> {
    let location = location(config)?;
    if let DatabaseUrl::Sqlite(path) = &location
        && !path.exists()
    {
        return Ok((vec![check_folder(path)], None));
    }
    let looked = async {
        let store = Store::open_existing(&location).await?;
        let tables = store.check_migrated().await;
        Ok::<_, StoreError>((store, tables))
    };
    let failed = |failure: &Failure| println!("FAIL  database       {location}: {:#}", failure.error);
    match looked.await {
        Ok((store, Ok(()))) => {
            println!("ok    database       {location}, tables up to date");
            Ok((vec![Exit::Done], Some(store)))
        }
        Ok((store, Err(StoreError::NotMigrated))) if config.database.auto_migrate => {
            println!("ok    database       {location}, tables are brought up to date at the next start");
            Ok((vec![Exit::Done], Some(store)))
        }
        Ok((_, Err(error))) | Err(error) => {
            let failure = Failure::from(error);
            failed(&failure);
            Ok((vec![failure.exit], None))
        }
    }
}

fn check_folder(database: &Path) -> Exit {
    let mut folder = database.parent().unwrap_or(Path::new("/"));
    if folder.as_os_str().is_empty() {
        folder = Path::new(".");
    }
    while !folder.exists() {
        folder = folder.parent().unwrap_or(Path::new("/"));
    }
    match tempfile_in(folder) {
        Ok(()) => {
            println!("ok    database       {}, made at the first crawl", database.display());
            Exit::Done
        }
        Err(error) => {
            println!(
                "FAIL  database       {} cannot be made: {} is not writable ({error}); \
                 set database.url to another place, or run as the user who owns it",
                database.display(),
                folder.display()
            );
            Exit::Failed
        }
    }
}

/// Whether a file can be made in a folder.
fn tempfile_in(folder: &Path) -> std::io::Result<()> {
    let path = folder.join(format!(".tim-group-sync-check-{}", std::process::id()));
    std::fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
    std::fs::remove_file(path)
}

async fn check_app(setup: &Setup, app: &App, store: Option<&Store>) -> Result<Exit, Failure> {
    let name = &app.name;
    let client = match setup.client(app) {
        Ok(client) => client,
        Err(failure) => {
            println!("FAIL  {name:<14} {:#}", failure.error);
            return Ok(failure.exit);
        }
    };
    let lease = match store {
        Some(store) => {
            let waiting =
                || eprintln!("{name} is being crawled; waiting up to {} s", WAIT_FOR_LEASE.as_secs());
            let waited = tokio::time::timeout(WAIT_FOR_LEASE, store.lease(app.sdk_app_id, waiting)).await;
            let Ok(lease) = waited else {
                println!("busy  {name:<14} is being crawled right now, so its credentials were not tried");
                return Ok(Exit::Busy);
            };
            Some(lease?)
        }
        None => None,
    };
    let wait = lease.as_ref().and_then(Lease::not_before).map(|at| (at - setup.clock.now()).to_std());
    let first_turn = wait.and_then(Result::ok).unwrap_or_default().min(app.request_interval);
    let pacer = Pacer::new(app.request_interval, Instant::now() + first_turn);
    let patience = Patience::new(RetryPolicy::lasting(RETRY_FOR));
    let counted = Caller::new(&client, &pacer, patience, |_| ()).count_app().await;
    if let Some(lease) = lease {
        lease.release(setup.clock.now(), app.request_interval).await;
    }
    let exit = report_credentials(app, counted);
    print_next_runs(setup, app);
    Ok(exit)
}

fn report_credentials(app: &App, counted: Result<Option<u64>, ApiError>) -> Exit {
    let name = &app.name;
    match counted {
        Ok(total) => {
            let total = total.map_or_else(|| "an unknown number of".to_owned(), text::number);
            println!("ok    {name:<14} the API accepts the credentials; the app has {total} groups");
            Exit::Done
        }
        Err(error) => {
            println!("FAIL  {name:<14} {error}");
            let refused = error.reason_code() == crate::model::ReasonCode::Refused;
            if refused { Exit::Config } else { Exit::Failed }
        }
    }
}

fn print_next_runs(setup: &Setup, app: &App) {
    // The configuration has parsed the pattern already.
    let Ok(schedule) = Schedule::parse(&app.schedule.cron, app.schedule.timezone) else { return };
    let runs: Vec<String> = schedule
        .upcoming(setup.clock.now(), 5)
        .into_iter()
        .map(|at| at.with_timezone(&app.schedule.timezone).format("%F %T %Z").to_string())
        .collect();
    println!("      {:<14} next runs: {}", "", runs.join(", "));
}
