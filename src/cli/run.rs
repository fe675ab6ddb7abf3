//! `run`: the daemon, until it is told to stop.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tracing::{info, warn};

use super::exit::{Exit, Failure};
use super::setup::{Setup, location};
use crate::alarm::AlarmClock;
use crate::config::{Config, Origin};
use crate::daemon::{self, AppPlan};
use crate::lifecycle::{Ending, Lifecycle, Systemd};
use crate::schedule::Schedule;
use crate::store::{Store, StoreError};

/// Pauses between attempts to reach the database at the start, the last one for ever.
const DATABASE_PAUSES: [Duration; 4] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(15), Duration::from_secs(60)];

#[derive(Debug, Args)]
pub(super) struct Run {}

impl Run {
    pub(super) async fn run(self, setup: &Setup) -> Result<Exit, Failure> {
        let config = setup.config()?;
        warn_of_missing_listeners(&config);
        let lifecycle = Lifecycle::install()?;
        let systemd = Systemd::from_environment();
        // What cannot mend itself ends the start; a database that is away is waited for.
        let Some(store) = wait_for_database(&config, &lifecycle, systemd).await? else {
            return Ok(Exit::Done);
        };
        let configured: Vec<_> = config.apps.iter().map(|app| app.sdk_app_id).collect();
        store.set_configured(&configured).await?;
        let alarm_clock = AlarmClock::start().await.map_err(|error| Failure::new(Exit::Failed, error))?;
        let mut plans = Vec::new();
        for app in &config.apps {
            let schedule = Schedule::parse(&app.schedule.cron, app.schedule.timezone)
                .map_err(|error| Failure::new(Exit::Config, error))?;
            // One app without a readable key does not keep the others from being crawled.
            match setup.crawler(app, &store) {
                Ok(crawler) => plans.push(AppPlan {
                    crawler: Arc::new(crawler),
                    schedule,
                    catch_up: app.schedule.catch_up,
                    alarm: alarm_clock.alarm(),
                }),
                Err(failure) if config.apps.len() > 1 => {
                    tracing::error!(
                        app = app.name,
                        "this app is not crawled until the next start: {:#}",
                        failure.error
                    );
                }
                Err(failure) => return Err(failure),
            }
        }
        if plans.is_empty() {
            let error = anyhow::anyhow!("no app has a key that can be read; see the log above");
            return Err(Failure::new(Exit::Config, error));
        }
        info!(apps = plans.len(), version = env!("CARGO_PKG_VERSION"), "started");
        let _states = daemon::start(plans, &setup.clock, &lifecycle, systemd);
        systemd.ready();
        let ending = lifecycle.ended(systemd).await;
        alarm_clock.stop().await;
        store.close().await;
        info!("stopped");
        match ending {
            Ending::Asked => Ok(Exit::Done),
            Ending::TaskDied(task) => Err(Failure::new(
                Exit::Failed,
                anyhow::anyhow!("{task} ended without being asked; see the log above"),
            )),
            Ending::Abandoned(tasks) => Err(Failure::new(
                Exit::Failed,
                anyhow::anyhow!("{tasks} tasks did not end in time and were abandoned"),
            )),
        }
    }
}

/// Opens the database and brings its tables up to date, waiting while it is out of reach. `None` if told to stop.
async fn wait_for_database(
    config: &Config,
    lifecycle: &Lifecycle,
    systemd: Systemd,
) -> Result<Option<Store>, Failure> {
    for attempt in 0.. {
        let error = match open(config).await {
            Ok(store) => return Ok(Some(store)),
            Err(Attempt::Lasting(failure)) => return Err(failure),
            Err(Attempt::Passing(error)) => error,
        };
        let pause = DATABASE_PAUSES[DATABASE_PAUSES.len().min(attempt + 1) - 1];
        let chain = format!("{:#}", anyhow::Error::from(error));
        warn!(pause_s = pause.as_secs(), "waiting for the database: {chain}");
        systemd.status(&format!("waiting for the database: {chain}"));
        systemd.watchdog();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = lifecycle.stop().soft().cancelled() => return Ok(None),
        }
    }
    Ok(None)
}

enum Attempt {
    Passing(StoreError),
    Lasting(Failure),
}

async fn open(config: &Config) -> Result<Store, Attempt> {
    let location = location(config).map_err(Attempt::Lasting)?;
    let opened = async {
        let store = Store::open(&location).await?;
        if config.database.auto_migrate {
            store.migrate().await?;
        } else {
            store.check_migrated().await?;
        }
        Ok(store)
    };
    opened.await.map_err(|error: StoreError| {
        if error.is_passing() { Attempt::Passing(error) } else { Attempt::Lasting(error.into()) }
    })
}

/// This version has no listeners: whoever asks for one explicitly has to know.
fn warn_of_missing_listeners(config: &Config) {
    for key in ["metrics.listen", "dashboard.listen"] {
        let asked_for = config.settings.iter().any(|setting| {
            setting.key == key && !matches!(setting.origin, Origin::Default) && setting.value != "\"\""
        });
        if asked_for {
            warn!("{key} is set, but this version serves neither metrics nor a dashboard");
        }
    }
}
