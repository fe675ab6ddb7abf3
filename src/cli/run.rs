//! `run`: the daemon, until it is told to stop.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tracing::{error, info, warn};

use super::exit::{Exit, Failure};
use super::setup::{Setup, location, open};
use crate::alarm::AlarmClock;
use crate::config::{App, Config, Origin};
use crate::daemon::{self, AppPlan};
use crate::lifecycle::{Ending, Lifecycle, Systemd};
use crate::store::{DatabaseUrl, Store};
use crate::tencent::Client;

/// Pauses between attempts to reach the database at the start. They stay below half of the unit's WatchdogSec.
const DATABASE_PAUSES: [Duration; 3] =
    [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(10)];
const LONGEST_PAUSE: Duration = Duration::from_secs(20);

#[derive(Debug, Args)]
pub(super) struct Run {}

impl Run {
    pub(super) async fn run(self, setup: &Setup) -> Result<Exit, Failure> {
        let config = setup.config()?;
        warn_of_missing_listeners(&config);
        let lifecycle = Lifecycle::install()?;
        let systemd = Systemd::from_environment();
        // Exit 78 is for a start that only a person can mend, so what can need one comes before READY.
        let clients = clients(setup, &config)?;
        let location = location(&config)?;
        let Some(store) = wait_for_database(&location, &config, &lifecycle, systemd).await? else {
            return Ok(Exit::Done);
        };
        let configured: Vec<_> = config.apps.iter().map(|app| app.sdk_app_id).collect();
        store.set_configured(&configured).await?;
        let alarm_clock = AlarmClock::start().await.map_err(|error| Failure::new(Exit::Failed, error))?;
        let plans: Vec<AppPlan> = clients
            .into_iter()
            .map(|(app, client)| AppPlan {
                crawler: Arc::new(setup.crawler(&config, app, client, &store)),
                schedule: app.schedule.ticks.clone(),
                catch_up: app.schedule.catch_up,
                alarm: alarm_clock.alarm(),
            })
            .collect();
        info!(apps = plans.len(), version = env!("CARGO_PKG_VERSION"), "started");
        let _states = daemon::start(plans, &setup.clock, &lifecycle, systemd);
        systemd.ready();
        let ending = lifecycle.ended(systemd).await;
        alarm_clock.stop().await;
        // A connection whose transaction was dropped may wait for its server; nobody has to wait with it.
        let _ = tokio::time::timeout(Duration::from_millis(300), store.close()).await;
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

/// The apps whose keys can be read. One without does not keep the others from being crawled.
fn clients<'a>(setup: &Setup, config: &'a Config) -> Result<Vec<(&'a App, Client)>, Failure> {
    let mut clients = Vec::new();
    let mut last_failure = None;
    for app in &config.apps {
        match setup.client(app) {
            Ok(client) => clients.push((app, client)),
            Err(failure) => {
                error!(app = app.name, "this app is not crawled until the next start: {:#}", failure.error);
                last_failure = Some(failure);
            }
        }
    }
    match last_failure {
        Some(failure) if clients.is_empty() => Err(failure),
        _ => Ok(clients),
    }
}

/// Opens the database and brings its tables up to date, waiting while it is out of reach. `None` if told to stop.
async fn wait_for_database(
    location: &DatabaseUrl,
    config: &Config,
    lifecycle: &Lifecycle,
    systemd: Systemd,
) -> Result<Option<Store>, Failure> {
    let mut pauses = DATABASE_PAUSES.into_iter().chain(std::iter::repeat(LONGEST_PAUSE));
    let mut waited = false;
    loop {
        let opened = tokio::select! {
            opened = open(location, config) => opened,
            () = lifecycle.stop().soft().cancelled() => return Ok(None),
        };
        let error = match opened {
            Ok(store) => return Ok(Some(store)),
            Err(error) if error.is_passing() => error,
            // After READY 78 would keep systemd from ever trying again.
            Err(error) if waited => return Err(Failure::new(Exit::Failed, error)),
            Err(error) => return Err(error.into()),
        };
        waited = true;
        let pause = pauses.next().unwrap_or(LONGEST_PAUSE);
        let chain = format!("{:#}", anyhow::Error::from(error));
        warn!(pause_s = pause.as_secs(), "waiting for the database: {chain}");
        // The service is up and does what it can: systemd shall not restart it for want of a database.
        systemd.ready();
        systemd.status(&format!("waiting for the database: {chain}"));
        systemd.watchdog();
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = lifecycle.stop().soft().cancelled() => return Ok(None),
        }
    }
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
