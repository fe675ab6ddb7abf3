//! `run`: the daemon.

use std::future::ready;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{error, info, warn};

use super::exit::{Exit, Failure};
use super::setup::{Setup, database_location, open, publication, receiver, receiver_and_warnings};
use super::text;
use crate::alarm::AlarmClock;
use crate::clock::Clock;
use crate::config::{self, App, Config, Setting};
use crate::daemon::{
    AppPlan, Daemon, Database, OpenAttempt, Opening, Workers, WorkersError, maintain_database,
};
use crate::lifecycle::{Ending, Lifecycle, Systemd};
use crate::metrics::Metrics;
use crate::notify::{self, Notifications, Timing};
use crate::publish;
use crate::telemetry;
use crate::tencent::Client;
use crate::web::{AllowedHosts, Listener, dashboard, health};

/// Maximum time that the start waits for the database before READY. A server that answers reports a
/// wrong configuration within this time, even on a busy machine. A server that refuses connections
/// delays the start by milliseconds, and a silent one by the limit of a connection, which is 5 s.
const DATABASE_CHECK_TIMEOUT: Duration = Duration::from_secs(10);
/// Time after the end of the reload loop at which the program stops waiting for the database to
/// close.
const STOP_DEADLINE: Duration = Duration::from_millis(4_800);
/// The minimum time for closing the database, even if [`STOP_DEADLINE`] is near.
const MIN_CLOSING_TIME: Duration = Duration::from_millis(300);
/// Prefixes of the settings that take effect only at a start.
const RESTART_ONLY_SETTINGS: [&str; 4] = ["database.", "metrics.", "dashboard.", "log.format"];

#[derive(Debug, Args)]
pub(super) struct Run {}

impl Run {
    pub(super) async fn run(self, setup: &Setup, lifecycle: &Lifecycle) -> Result<Exit, Failure> {
        let config = Arc::new(setup.config()?);
        let systemd = Systemd::from_environment();
        // All checks that can refuse the start are made before the first task starts, so that a
        // refused start logs only its reason. Failures that require a change of the configuration
        // (exit code 78) must occur before READY.
        let listeners = Listeners::bind(&config).await?;
        require_a_readable_key(&config)?;
        let (location, opened) = (database_location(&config)?, Arc::clone(&config));
        let open_database = move |opening| -> OpenAttempt {
            let (location, config) = (location.clone(), Arc::clone(&opened));
            Box::pin(async move { open(&location, &config, opening).await })
        };
        let first_attempt = fail_fast_on_database_config(open_database(Opening::First), lifecycle).await?;
        let alarm_clock = AlarmClock::start().await.map_err(|error| Failure::new(Exit::Failed, error))?;
        let database = maintain_database(lifecycle, first_attempt, open_database);
        let mut daemon = Daemon::new(&setup.clock, lifecycle, systemd, database.clone());
        let metrics = Arc::new(Metrics::new(&setup.clock));
        listeners.serve(&daemon, &metrics, lifecycle, &setup.clock);
        daemon.apply(plans(setup, &config, &metrics), |_| alarm_clock.alarm());
        if let Some(publication) = publication(&config) {
            publish::start(publication, &setup.clock, &daemon.health(), lifecycle);
        }
        warn_if_receiver_unusable(&config).await;
        let notifications = Notifications::start(
            receiver(&config),
            Timing::default(),
            Arc::clone(&metrics) as Arc<dyn notify::Observer>,
            &setup.clock,
            &daemon.health(),
            lifecycle,
        );
        info!(apps = config.apps.len(), version = env!("CARGO_PKG_VERSION"), "started");
        systemd.ready();

        let reloading = Reloading {
            setup,
            at_start: &config,
            systemd,
            alarm_clock: &alarm_clock,
            metrics: &metrics,
            notifications: &notifications,
            database: database.clone(),
        };
        reloading.serve(Arc::clone(&config), lifecycle, &mut daemon).await;
        let requested = Instant::now();
        let ending = lifecycle.ended(systemd).await;
        let left = STOP_DEADLINE.saturating_sub(requested.elapsed()).max(MIN_CLOSING_TIME);
        let store = database.borrow().store().cloned();
        // Closing has a timeout, because a connection whose transaction was dropped may still wait
        // for its server.
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
                anyhow::anyhow!("{task} ended unexpectedly; see the log above"),
            )),
            Ending::Abandoned(tasks) => Err(Failure::new(
                Exit::Failed,
                anyhow::anyhow!("{} did not end in time", text::count(tasks as u64, "task")),
            )),
        }
    }
}

struct Reloading<'a> {
    setup: &'a Setup,
    /// The configuration that the database and the listeners were started with.
    at_start: &'a Config,
    systemd: Systemd,
    alarm_clock: &'a AlarmClock,
    metrics: &'a Metrics,
    notifications: &'a Notifications,
    database: watch::Receiver<Database>,
}

impl Reloading<'_> {
    /// Reloads the configuration at every SIGHUP, until a stop is requested.
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
                Ok(new) => {
                    self.reconnect().await;
                    warn_if_receiver_unusable(&new).await;
                    self.notifications.replace_receiver(receiver(&new));
                    config = self.apply(&config, new, daemon);
                }
                Err(failure) => {
                    let problems = failure.error.to_string();
                    problems.lines().for_each(|problem| error!("configuration: {problem}"));
                    error!(
                        "the configuration was not reloaded: the previous one remains in effect; \
                         run `tim-group-sync check --no-environment`, then reload again"
                    );
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

    /// Makes the store open new connections with the current content of the password file. Keeps the
    /// current connections if the file cannot be read.
    async fn reconnect(&self) {
        if let Err(error) = self.at_start.database.read_password() {
            error!("the database's password cannot be read, so no new connection can be opened: {error}");
            return;
        }
        let store = self.database.borrow().store().cloned();
        if let Some(store) = store {
            store.close_idle_connections().await;
        }
    }

    fn apply(&self, before: &Config, new: Config, daemon: &mut Daemon) -> Arc<Config> {
        let new = Arc::new(new);
        telemetry::set_filter(&new.log.level);
        let restart_only = restart_only_changes(&self.at_start.settings, &new.settings);
        if !restart_only.is_empty() {
            warn!("changed settings that need a restart to take effect: {}", restart_only.join(", "));
        }
        let names = |chosen: Vec<&App>| {
            let names: Vec<&str> = chosen.iter().map(|app| app.name.as_str()).collect();
            names.join(", ")
        };
        let find_in = |apps: &[App], app: &App| apps.iter().find(|other| other.name == app.name).cloned();
        let added = new.apps.iter().filter(|app| find_in(&before.apps, app).is_none()).collect();
        let removed = before.apps.iter().filter(|app| find_in(&new.apps, app).is_none()).collect();
        let changed = new
            .apps
            .iter()
            .filter(|app| {
                let previous = find_in(&before.apps, app);
                previous.is_some_and(|previous| previous != **app || before.retention != new.retention)
            })
            .collect();
        // Applied before the log line is written, because a reader of the line may request a crawl
        // at once.
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

/// Returns the keys of [`RESTART_ONLY_SETTINGS`] that differ.
fn restart_only_changes(before: &[Setting], now: &[Setting]) -> Vec<String> {
    let is_restart_only =
        |setting: &&Setting| RESTART_ONLY_SETTINGS.iter().any(|prefix| setting.key.starts_with(prefix));
    let differs = |setting: &Setting, others: &[Setting]| {
        !others.iter().any(|other| other.key == setting.key && other.value == setting.value)
    };
    let mut keys: Vec<String> = now
        .iter()
        .filter(is_restart_only)
        .filter(|setting| differs(setting, before))
        .chain(before.iter().filter(is_restart_only).filter(|setting| differs(setting, now)))
        .map(|setting| setting.key.clone())
        .collect();
    keys.sort_unstable();
    keys.dedup();
    keys
}

/// Returns the plans of all apps. The key of an app is read when its crawler is created.
fn plans(setup: &Setup, config: &Arc<Config>, metrics: &Metrics) -> Vec<AppPlan> {
    let plan = |app: &App| {
        let (setup, config, own) = (setup.clone(), Arc::clone(config), app.clone());
        let observer = metrics.app(&app.name);
        AppPlan {
            name: app.name.clone(),
            sdk_app_id: app.sdk_app_id,
            schedule: app.schedule.ticks.clone(),
            catch_up: app.schedule.catch_up,
            group_quota: app.group_quota,
            workers: Box::new(move |store| {
                let settings = setup.client_settings(&own);
                let settings =
                    settings.map_err(|failure| WorkersError::Key(format!("{:#}", failure.error)))?;
                let client =
                    || Client::new(settings.clone()).map_err(|error| WorkersError::Client(error.to_string()));
                let crawler = setup.crawler(&config, &own, client()?, store);
                let details = match config.details {
                    Some(policy) => Some(setup.details_refresher(policy, &own, client()?, store)),
                    None => None,
                };
                Ok(Workers {
                    crawler: crawler.with_observer(Arc::clone(&observer)),
                    details: details.map(|details| details.with_observer(Arc::clone(&observer))),
                })
            }),
        }
    };
    config.apps.iter().map(plan).collect()
}

/// Logs warnings about the files of `[notify]`. Unusable files are no reason not to crawl: they are
/// read again for each notification.
async fn warn_if_receiver_unusable(config: &Config) {
    let Some(notify) = config.notify.clone() else { return };
    let created = tokio::task::spawn_blocking(move || receiver_and_warnings(&notify)).await;
    match created {
        Ok(Ok((_, warnings))) => warnings.iter().for_each(|warning| warn!("{warning}")),
        Ok(Err(why)) => error!("no notification can be sent until this is corrected: {why}"),
        Err(error) => error!("no notification can be sent: {error}"),
    }
}

/// Fails if no app has a readable key. One readable key is enough to start.
fn require_a_readable_key(config: &Config) -> Result<(), Failure> {
    let mut failure = None;
    for app in &config.apps {
        match app.read_secret_key() {
            Ok(_) => return Ok(()),
            Err(error) => failure = Some(error),
        }
    }
    failure.map_or(Ok(()), |error| Err(error.into()))
}

/// Fails if the database rejects its configuration within [`DATABASE_CHECK_TIMEOUT`]. An
/// unreachable database is no failure, because the daemon waits for it. Returns the attempt, which
/// may still be pending.
async fn fail_fast_on_database_config(
    mut attempt: OpenAttempt,
    lifecycle: &Lifecycle,
) -> Result<OpenAttempt, Failure> {
    let opened = tokio::select! {
        biased;
        () = lifecycle.stop().soft().cancelled() => return Ok(attempt),
        opened = tokio::time::timeout(DATABASE_CHECK_TIMEOUT, &mut attempt) => opened,
    };
    match opened {
        Ok(Err(error)) if error.is_configuration() => Err(Failure::new(Exit::Config, error)),
        Ok(opened) => Ok(Box::pin(ready(opened))),
        Err(_) => Ok(attempt),
    }
}

/// The configured listeners, which accept connections once they are served.
struct Listeners {
    metrics: Option<(Listener, AllowedHosts)>,
    dashboard: Option<(Listener, AllowedHosts)>,
}

impl Listeners {
    async fn bind(config: &Config) -> Result<Self, Failure> {
        let bind = async |key, listener: Option<&config::Listener>| {
            let Some(config::Listener { address, allowed_hosts }) = listener else { return Ok(None) };
            let hosts = AllowedHosts::of(address, allowed_hosts);
            let bound = Listener::bind(key, address.clone()).await;
            bound.map(|bound| Some((bound, hosts))).map_err(|error| Failure::new(Exit::Config, error))
        };
        Ok(Self {
            metrics: bind("metrics.listen", config.metrics.as_ref()).await?,
            dashboard: bind("dashboard.listen", config.dashboard.as_ref()).await?,
        })
    }

    fn serve(self, daemon: &Daemon, metrics: &Arc<Metrics>, lifecycle: &Lifecycle, clock: &Clock) {
        let stop = lifecycle.stop().soft();
        if let Some((listener, hosts)) = self.metrics {
            info!(address = %listener.address(), "serving /metrics, /healthz and /readyz");
            warn_if_remote("metrics.listen", &listener);
            let pages = health::routes(daemon.health(), Arc::clone(metrics));
            lifecycle.supervise("the metrics listener", listener.serve(pages, hosts, stop.clone()));
        }
        if let Some((listener, hosts)) = self.dashboard {
            info!(address = %listener.address(), "serving the dashboard");
            warn_if_remote("dashboard.listen", &listener);
            let health = daemon.health();
            let pages = dashboard::routes(health.database(), health.apps(), clock.clone());
            lifecycle.supervise("the dashboard", listener.serve(pages, hosts, stop.clone()));
        }
    }
}

fn warn_if_remote(key: &str, listener: &Listener) {
    let address = listener.address();
    if !address.is_local() {
        warn!(
            %address,
            "{key} is not a loopback address, and this listener has neither a login nor TLS: \
             everyone who reaches it can read it; restrict it with a firewall, or use a Unix \
             socket (unix:PATH) behind a reverse proxy"
        );
    }
}
