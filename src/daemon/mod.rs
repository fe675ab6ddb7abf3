//! Crawls each app when it is due: one loop an app, so that no app waits for another and none is crawled twice at once.
//!
//! Nothing has to be reachable for the daemon to stand: a task of its own opens the database, for as long as that takes,
//! and each loop waits for it. The caller says which apps there are, at the start and whenever that changes.

mod app_loop;
mod database;
mod health;
mod status;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use tokio::sync::watch;
use tokio_util::sync::DropGuard;
use tracing::info;

use self::app_loop::AppLoop;
pub use self::database::{Database, keep_database};
pub use self::health::Health;
use self::status::Entry;
pub use self::status::{AppState, Apps, Phase};
use crate::alarm::Alarm;
use crate::clock::Clock;
use crate::crawl::Crawler;
use crate::lifecycle::{Lifecycle, Systemd};
use crate::model::SdkAppId;
use crate::schedule::Schedule;
use crate::store::Store;

/// One app to crawl, and how.
pub struct AppPlan {
    pub name: String,
    pub sdk_app_id: SdkAppId,
    pub schedule: Schedule,
    /// Whether an app that was never crawled, or whose tick was missed while no daemon ran, is crawled at start.
    pub catch_up: bool,
    pub crawler: MakeCrawler,
}

/// Makes the app's crawler with the key that is in its file then; the error is a sentence. It may block.
pub type MakeCrawler = Box<dyn Fn(&Store) -> Result<Crawler, String> + Send + Sync>;

impl fmt::Debug for AppPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppPlan")
            .field("name", &self.name)
            .field("schedule", &self.schedule)
            .finish_non_exhaustive()
    }
}

/// The loops of all apps, and one task that tells systemd about them. They run until the process stops or this is dropped.
#[derive(Debug)]
pub struct Daemon {
    clock: Clock,
    lifecycle: Lifecycle,
    board: watch::Sender<Apps>,
    database: watch::Receiver<Database>,
    configured: watch::Sender<Vec<SdkAppId>>,
    refused_reload: watch::Sender<Option<String>>,
    loops: BTreeMap<String, Running>,
    started: u64,
}

/// The loop of one app. Dropped, it ends: a crawl under way is recorded as cancelled.
#[derive(Debug)]
struct Running {
    sdk_app_id: SdkAppId,
    plan: watch::Sender<Arc<AppPlan>>,
    _stop: DropGuard,
}

impl Daemon {
    /// A daemon without apps.
    #[must_use]
    pub fn new(
        clock: &Clock,
        lifecycle: &Lifecycle,
        systemd: Systemd,
        database: watch::Receiver<Database>,
    ) -> Self {
        let daemon = Self {
            clock: clock.clone(),
            lifecycle: lifecycle.clone(),
            board: watch::Sender::new(Apps::new()),
            database,
            configured: watch::Sender::new(Vec::new()),
            refused_reload: watch::Sender::new(None),
            loops: BTreeMap::new(),
            started: 0,
        };
        let stop = lifecycle.stop().soft();
        lifecycle.supervise("status", status::report(daemon.health(), systemd, stop.clone()));
        let (database, configured) = (daemon.database.clone(), daemon.configured.subscribe());
        lifecycle
            .supervise("the list of apps", database::record_configured(database, configured, stop.clone()));
        daemon
    }

    /// How it stands, for all who want to know.
    #[must_use]
    pub fn health(&self) -> Health {
        Health::new(self.board.subscribe(), self.database.clone(), self.refused_reload.subscribe())
    }

    /// Crawls these apps from now on, and no others. One that is known goes over to its new plan once its crawl under
    /// way has ended; one that is gone is stopped as if the process were.
    pub fn apply(&mut self, plans: Vec<AppPlan>, mut alarm: impl FnMut(&str) -> Alarm) {
        self.configured.send_replace(plans.iter().map(|plan| plan.sdk_app_id).collect());
        self.refused_reload.send_replace(None);
        let mut before = std::mem::take(&mut self.loops);
        for plan in plans {
            let name = plan.name.clone();
            let running = match before.remove(&name) {
                Some(running) if running.sdk_app_id == plan.sdk_app_id => {
                    running.plan.send_replace(Arc::new(plan));
                    running
                }
                _ => self.start(plan, alarm(&name)),
            };
            self.loops.insert(name, running);
        }
        for app in before.into_keys() {
            info!(app, "no longer configured: a crawl of it under way is stopped");
            self.board.send_modify(|apps| {
                apps.remove(&app);
            });
        }
    }

    /// Notes why a changed configuration was not taken over.
    pub fn refuse_reload(&self, why: String) {
        self.refused_reload.send_replace(Some(why));
    }

    fn start(&mut self, plan: AppPlan, alarm: Alarm) -> Running {
        self.started += 1;
        let stop = self.lifecycle.stop().child();
        let entry = Entry::new(self.board.clone(), &plan.name, plan.schedule.clone(), self.started);
        let name = format!("the crawls of {}", plan.name);
        let sdk_app_id = plan.sdk_app_id;
        let plan = watch::Sender::new(Arc::new(plan));
        let requests = self.lifecycle.crawl_requests();
        let (plans, database) = (plan.subscribe(), self.database.clone());
        let app_loop =
            AppLoop::new(plans, database, alarm, entry, self.clock.clone(), stop.clone(), requests);
        self.lifecycle.supervise_until(name, &stop, app_loop.run());
        Running { sdk_app_id, plan, _stop: stop.soft().clone().drop_guard() }
    }
}

/// Growing pauses between attempts.
#[derive(Clone, Copy)]
struct Pauses {
    first: TimeDelta,
    longest: TimeDelta,
}

impl Pauses {
    /// The pause after so many failures.
    fn after(self, failures: u32) -> TimeDelta {
        // 2^10 is beyond any longest pause here.
        self.longest.min(self.first * (1 << failures.saturating_sub(1).min(10)))
    }
}

fn text(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
