//! `run`: the daemon, until it is told to stop.

use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::exit::{Exit, Failure};
use super::setup::{Setup, location, open, publication};
use crate::alarm::AlarmClock;
use crate::config::{App, Config, Setting};
use crate::daemon::{AppPlan, Daemon, Database, keep_database};
use crate::lifecycle::{Ending, Lifecycle, Systemd};
use crate::metrics::Metrics;
use crate::publish;
use crate::telemetry;
use crate::web::{Hosts, Listener, dashboard, health};

/// How long READY waits for the database: long enough for one that is there to say what is wrong with the configuration.
const FIRST_ANSWER: Duration = Duration::from_millis(500);
/// By then the database is closed or left as it is …
const STOPPED_AFTER: Duration = Duration::from_millis(4_800);
/// … even if everything else took its time.
const LEAVING: Duration = Duration::from_millis(300);
/// Sections, or keys, that are read at the start and never again.
const FIXED: [&str; 4] = ["database.", "metrics.", "dashboard.", "log.format"];

#[derive(Debug, Args)]
pub(super) struct Run {}

impl Run {
    pub(super) async fn run(self, setup: &Setup) -> Result<Exit, Failure> {
        let config = Arc::new(setup.config()?);
        let lifecycle = Lifecycle::install()?;
        let systemd = Systemd::from_environment();
        let alarm_clock = AlarmClock::start().await.map_err(|error| Failure::new(Exit::Failed, error))?;
        let (place, opened) = (location(&config)?, Arc::clone(&config));
        let database = keep_database(&lifecycle, move || {
            let (place, config) = (place.clone(), Arc::clone(&opened));
            async move { open(&place, &config).await }
        });
        let mut daemon = Daemon::new(&setup.clock, &lifecycle, systemd, database.clone());
        let metrics = Arc::new(Metrics::new(&setup.clock));
        // Exit 78 is for a start that only a person can mend, so what can need one comes before READY.
        listen(&config, &daemon, &metrics, &lifecycle).await?;
        see_to_keys(&config)?;
        see_to_database(database.clone(), &lifecycle).await?;
        daemon.apply(plans(setup, &config, &metrics), |_| alarm_clock.alarm());
        if let Some(publication) = publication(&config) {
            publish::start(publication, &setup.clock, &daemon.health(), &lifecycle);
        }
        info!(apps = config.apps.len(), version = env!("CARGO_PKG_VERSION"), "started");
        systemd.ready();

        let reloading =
            Reloading { setup, at_start: &config, systemd, alarm_clock: &alarm_clock, metrics: &metrics };
        reloading.serve(Arc::clone(&config), &lifecycle, &mut daemon).await;
        let asked = Instant::now();
        let ending = lifecycle.ended(systemd).await;
        let left = STOPPED_AFTER.saturating_sub(asked.elapsed()).max(LEAVING);
        let store = database.borrow().store().cloned();
        // A connection whose transaction was dropped may wait for its server; nobody has to wait with it.
        let _ = tokio::time::timeout(left, async {
            alarm_clock.stop().await;
            if let Some(store) = store {
                store.close().await;
            }
        })
        .await;
        info!("stopped");
        match ending {
            Ending::Requested => Ok(Exit::Done),
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

/// What a reload needs.
struct Reloading<'a> {
    setup: &'a Setup,
    /// The configuration that database and listeners are of.
    at_start: &'a Config,
    systemd: Systemd,
    alarm_clock: &'a AlarmClock,
    metrics: &'a Metrics,
}

impl Reloading<'_> {
    /// Reads the configuration again whenever SIGHUP asks for it, until the stop.
    async fn serve(&self, mut config: Arc<Config>, lifecycle: &Lifecycle, daemon: &mut Daemon) {
        let mut requests = lifecycle.reload_requests();
        loop {
            tokio::select! {
                biased;
                () = lifecycle.stop().soft().cancelled() => return,
                () = requests.next() => {}
            }
            self.systemd.reloading();
            match self.setup.read(&self.setup.environment) {
                Ok(new) => config = self.take_over(&config, new, daemon),
                Err(failure) => {
                    let problems = failure.error.to_string();
                    problems.lines().for_each(|problem| error!("configuration: {problem}"));
                    error!("the configuration was not reloaded: the one before stays in effect");
                    let first = problems.lines().next().unwrap_or_default();
                    let more = match problems.lines().count() {
                        0 | 1 => String::new(),
                        lines => format!(" (and {} more, see the log)", lines - 1),
                    };
                    daemon.refuse_reload(format!("the configuration was not reloaded: {first}{more}"));
                }
            }
            self.systemd.ready();
        }
    }

    fn take_over(&self, before: &Config, new: Config, daemon: &mut Daemon) -> Arc<Config> {
        let new = Arc::new(new);
        telemetry::set_filter(&new.log.level);
        let fixed = changed_settings(&self.at_start.settings, &new.settings);
        if !fixed.is_empty() {
            warn!("changed, but taken over only by a restart: {}", fixed.join(", "));
        }
        let names = |chosen: Vec<&App>| {
            let names: Vec<&str> = chosen.iter().map(|app| app.name.as_str()).collect();
            names.join(", ")
        };
        let other = |apps: &[App], app: &App| apps.iter().find(|other| other.name == app.name).cloned();
        let added = new.apps.iter().filter(|app| other(&before.apps, app).is_none()).collect();
        let removed = before.apps.iter().filter(|app| other(&new.apps, app).is_none()).collect();
        let changed = new
            .apps
            .iter()
            .filter(|app| {
                let before_it = other(&before.apps, app);
                before_it.is_some_and(|old| old != **app || before.retention != new.retention)
            })
            .collect();
        // Applied before it is said: whoever reads the line may ask for a crawl at once.
        daemon.apply(plans(self.setup, &new, self.metrics), |_| self.alarm_clock.alarm());
        info!(
            apps = new.apps.len(),
            added = names(added),
            removed = names(removed),
            changed = names(changed),
            "configuration reloaded"
        );
        new
    }
}

/// The keys of settings that differ and are not read again.
fn changed_settings(before: &[Setting], now: &[Setting]) -> Vec<String> {
    let is_fixed = |setting: &&Setting| FIXED.iter().any(|fixed| setting.key.starts_with(fixed));
    let differs = |setting: &Setting, others: &[Setting]| {
        !others.iter().any(|other| other.key == setting.key && other.value == setting.value)
    };
    let mut keys: Vec<String> = now
        .iter()
        .filter(is_fixed)
        .filter(|setting| differs(setting, before))
        .chain(before.iter().filter(is_fixed).filter(|setting| differs(setting, now)))
        .map(|setting| setting.key.clone())
        .collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// What is crawled, and how. Each plan reads its key when its crawler is made.
fn plans(setup: &Setup, config: &Arc<Config>, metrics: &Metrics) -> Vec<AppPlan> {
    let plan = |app: &App| {
        let (setup, config, own) = (setup.clone(), Arc::clone(config), app.clone());
        let observer = metrics.app(&app.name);
        AppPlan {
            name: app.name.clone(),
            sdk_app_id: app.sdk_app_id,
            schedule: app.schedule.ticks.clone(),
            catch_up: app.schedule.catch_up,
            crawler: Box::new(move |store| {
                let client = setup.client(&own).map_err(|failure| format!("{:#}", failure.error))?;
                Ok(setup.crawler(&config, &own, client, store).with_observer(Arc::clone(&observer)))
            }),
        }
    };
    config.apps.iter().map(plan).collect()
}

/// Fails if no app's key can be read. One without does not keep the others from being crawled.
fn see_to_keys(config: &Config) -> Result<(), Failure> {
    let mut failure = None;
    for app in &config.apps {
        match app.read_secret_key() {
            Ok(_) => return Ok(()),
            Err(error) => failure = Some(error),
        }
    }
    failure.map_or(Ok(()), |error| Err(error.into()))
}

/// Fails if the database says at once that its configuration is wrong. One that is away is waited for later.
async fn see_to_database(
    mut database: watch::Receiver<Database>,
    lifecycle: &Lifecycle,
) -> Result<(), Failure> {
    let answer = database.wait_for(|database| !matches!(database, Database::Opening { .. }));
    let answer = tokio::select! {
        biased;
        () = lifecycle.stop().soft().cancelled() => return Ok(()),
        answer = tokio::time::timeout(FIRST_ANSWER, answer) => answer,
    };
    match answer {
        Ok(Ok(answer)) => match &*answer {
            Database::Away { error, .. } if error.is_configuration() => {
                Err(Failure::new(Exit::Config, Arc::clone(error)))
            }
            _ => Ok(()),
        },
        _ => Ok(()),
    }
}

/// Opens the listeners that are configured.
async fn listen(
    config: &Config,
    daemon: &Daemon,
    metrics: &Arc<Metrics>,
    lifecycle: &Lifecycle,
) -> Result<(), Failure> {
    let failed = |error| Failure::new(Exit::Config, error);
    if let Some(address) = config.metrics {
        let listener = Listener::bind("metrics.listen", address).await.map_err(failed)?;
        info!(address = %listener.address(), "serving /metrics, /healthz and /readyz");
        let pages = health::pages(daemon.health(), Arc::clone(metrics));
        let stop = lifecycle.stop().soft().clone();
        lifecycle.supervise("the metrics listener", listener.serve(pages, Hosts::of(address), stop));
    }
    if let Some(address) = config.dashboard {
        let listener = Listener::bind("dashboard.listen", address).await.map_err(failed)?;
        info!(address = %listener.address(), "serving the dashboard");
        let health = daemon.health();
        let pages = dashboard::pages(health.database(), health.apps());
        let stop = lifecycle.stop().soft().clone();
        lifecycle.supervise("the dashboard", listener.serve(pages, Hosts::of(address), stop));
    }
    Ok(())
}
