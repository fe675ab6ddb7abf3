//! The daemon: crawls each app when it is due.
//!
//! Each app has its own loop (`app_loop`). So no app waits for another one, and no app is crawled
//! twice at the same time. The daemon starts even if the database and the API are unreachable: a
//! task opens the database with retries (`database`), and each loop waits for it. The caller
//! provides the list of apps ([`AppPlan`]) at the start and whenever it changes.
//!
//! The loops write the state of their apps to the `board`. The HTTP listeners, the systemd status
//! line (`report`) and the `watchdog` read it through [`Health`].

mod app_loop;
mod board;
mod condition;
mod database;
mod health;
mod next_crawl;
mod plan;
mod report;
mod watchdog;

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::watch;
use tokio_util::sync::DropGuard;
use tracing::info;

use self::app_loop::AppLoop;
use self::board::StatusBoard;
pub use self::board::{AppState, Apps, Phase};
pub use self::condition::{Condition, LATE_TICKS, MAX_COUNTED_TICKS, is_quota_near, is_refused};
pub use self::database::{Database, OpenAttempt, Opening, maintain_database};
pub use self::health::Health;
pub use self::next_crawl::{HISTORY_LENGTH, next_crawl_by_history, overdue_by_history};
pub use self::plan::{AppPlan, MakeWorkers, Workers, WorkersError};
use crate::alarm::Alarm;
use crate::clock::Clock;
use crate::lifecycle::{Lifecycle, Systemd};
use crate::model::SdkAppId;

/// The loops of all apps. They run until the process stops or the `Daemon` is dropped.
#[derive(Debug)]
pub struct Daemon {
    clock: Clock,
    lifecycle: Lifecycle,
    board: StatusBoard,
    database: watch::Receiver<Database>,
    configured: watch::Sender<Vec<SdkAppId>>,
    refused_reload: watch::Sender<Option<String>>,
    loops: BTreeMap<String, RunningLoop>,
}

/// The loop of one app. Dropping it stops the loop, which records a running crawl as cancelled.
#[derive(Debug)]
struct RunningLoop {
    sdk_app_id: SdkAppId,
    plan: watch::Sender<Arc<AppPlan>>,
    _stop: DropGuard,
}

impl Daemon {
    /// Creates a daemon without apps, and starts its reports to systemd.
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
            board: StatusBoard::new(),
            database,
            configured: watch::Sender::new(Vec::new()),
            refused_reload: watch::Sender::new(None),
            loops: BTreeMap::new(),
        };
        let stop = lifecycle.stop().soft();
        lifecycle.supervise("status", report::report(daemon.health(), systemd, stop.clone()));
        let (database, configured) = (daemon.database.clone(), daemon.configured.subscribe());
        lifecycle
            .supervise("the list of apps", database::record_configured(database, configured, stop.clone()));
        daemon
    }

    #[must_use]
    pub fn health(&self) -> Health {
        Health::new(self.board.subscribe(), self.database.clone(), self.refused_reload.subscribe())
    }

    /// Replaces the list of apps. An app that remains gets its new plan after its running crawl.
    /// The loop of a removed app stops, and records a running crawl as cancelled.
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
            info!(app, "no longer configured: stopping its crawls");
            self.board.remove(&app);
        }
    }

    /// Records why a changed configuration was refused. [`Self::apply`] clears the record.
    pub fn refuse_reload(&self, why: String) {
        self.refused_reload.send_replace(Some(why));
    }

    fn start(&mut self, plan: AppPlan, alarm: Alarm) -> RunningLoop {
        let stop = self.lifecycle.stop().child();
        let entry = self.board.add(&plan.name, plan.sdk_app_id, plan.schedule.clone());
        entry.update(|state| state.group_quota = plan.group_quota);
        let name = format!("the crawls of {}", plan.name);
        let sdk_app_id = plan.sdk_app_id;
        let plan = watch::Sender::new(Arc::new(plan));
        let requests = self.lifecycle.crawl_requests();
        let (plans, database) = (plan.subscribe(), self.database.clone());
        let app_loop =
            AppLoop::new(plans, database, alarm, entry, self.clock.clone(), stop.clone(), requests);
        self.lifecycle.supervise_until(name, &stop, app_loop.run());
        RunningLoop { sdk_app_id, plan, _stop: stop.soft().clone().drop_guard() }
    }
}
