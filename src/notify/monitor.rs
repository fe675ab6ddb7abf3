//! Determines which notifications are due, and claims them.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tracing::{debug, warn};

use super::conditions::{Condition, DebounceTimers, of_apps, of_database};
use super::message::{ConditionState, Event};
use super::outbox::{Finished, Item, OUTBOX_CAPACITY, Outbox};
use super::sender::{MakeReceiver, Observer, Outcome};
use super::states::{Claim, ClaimPlanner, ConditionKey, Holds, ProcessRows, delivered_change};
use crate::clock::Clock;
use crate::daemon::{Apps, Database, Health};
use crate::model::{CrawlId, with_causes};
use crate::store::{AppOverview, NotificationChange, NotificationRow, Store, StoreError, this_host};

/// The time limit for reading the state of the apps. A database that takes longer counts as
/// unavailable.
const READ_TIMEOUT: Duration = Duration::from_secs(20);
/// The time limit for recording claims. On SQLite they may wait for a transaction of a crawl.
const WRITE_TIMEOUT: Duration = Duration::from_secs(60);

/// Checks the conditions of the apps and of the database, at intervals and whenever a crawl has
/// ended.
pub(super) struct Monitor {
    pub(super) outbox: Arc<Outbox>,
    /// The current receiver of notifications. `None` if none is configured.
    pub(super) receiver: watch::Receiver<Option<MakeReceiver>>,
    pub(super) observer: Arc<dyn Observer>,
    pub(super) clock: Clock,
    pub(super) health: Health,
    /// The interval between two checks.
    pub(super) interval: Duration,
    /// The random token of this process.
    pub(super) process: String,
    /// The last notifications about the conditions of this process.
    pub(super) own_rows: ProcessRows,
    /// Why the last changes could not be recorded. `None` if they were.
    pub(super) write_problem: Option<String>,
    pub(super) timers: DebounceTimers,
}

/// For each app: its name, its last crawl, and whether its credentials are refused. If one of these
/// changes, the conditions are checked at once.
type WatchedState = Vec<(String, Option<CrawlId>, bool)>;

impl Monitor {
    /// Checks the conditions while a receiver is configured. Never returns.
    pub(super) async fn run(mut self) {
        let mut receiver = self.receiver.clone();
        let mut apps = self.health.apps();
        let mut database = self.health.database();
        loop {
            if receiver.wait_for(Option::is_some).await.is_err() {
                return std::future::pending().await;
            }
            let checked = watched_state(&apps.borrow_and_update());
            // Marks the current value as seen, so that `changed` waits for a later one.
            let _ = database.borrow_and_update();
            self.check().await;
            let outbox = Arc::clone(&self.outbox);
            tokio::select! {
                () = sleep(self.interval) => {}
                () = outbox.wait_for_finished() => {}
                Ok(_) = apps.wait_for(|apps| watched_state(apps) != checked) => {}
                Ok(()) = database.changed() => {}
                Ok(()) = receiver.changed() => {}
            }
        }
    }

    /// Checks all conditions. Claims the notifications that are due, and records those that were
    /// delivered or given up.
    async fn check(&mut self) {
        let now = self.clock.now();
        let store = self.health.database().borrow().store().cloned();
        let state = match &store {
            Some(store) => read_state(store).await,
            None => Err(self.reason_not_open()),
        };
        let problem = state.as_ref().err().or(self.write_problem.as_ref()).cloned();
        let problem = problem.or_else(|| problem_of_apps(&self.health.apps().borrow()));
        self.check_database(problem.as_deref(), now);
        let (Some(store), Ok((overviews, notifications))) = (store, state) else { return };
        self.check_apps(&store, &overviews, &notifications, now).await;
    }

    /// Returns why the database is not open, as a phrase for a message.
    fn reason_not_open(&self) -> String {
        match &*self.health.database().borrow() {
            Database::Unavailable { error } => with_causes(error),
            Database::Opening | Database::Open(_) => "it is not open yet".to_owned(),
        }
    }

    /// Claims and sends the notifications about the database. Their claims are kept in memory,
    /// because the database may be unavailable.
    fn check_database(&mut self, problem: Option<&str>, now: DateTime<Utc>) {
        let ended = self.outbox.finished().into_iter().filter(|finished| finished.item.key.app.is_none());
        for Finished { item, at } in ended {
            let recorded = [(item.key, item.state)].into();
            self.own_rows.apply(&delivered_change(item.row, at));
            self.outbox.forget_finished(&recorded);
        }
        let (key, condition) = of_database(problem, &this_host(), &mut self.timers, now);
        let holds = [(key, condition.holds)].into();
        let in_flight = self.outbox.in_flight();
        let planner = ClaimPlanner { process: &self.process, now };
        for claim in planner.claims(self.own_rows.rows(), &holds, &in_flight) {
            self.own_rows.apply(&claim.change);
            self.send(&claim, &condition, now);
        }
    }

    /// Claims and sends the notifications about the apps.
    async fn check_apps(
        &mut self,
        store: &Store,
        overviews: &[AppOverview],
        notifications: &[NotificationRow],
        now: DateTime<Utc>,
    ) {
        let apps = self.health.apps().borrow().clone();
        let conditions = of_apps(&apps, overviews, notifications, &mut self.timers, now);
        let holds: BTreeMap<ConditionKey, Holds> =
            conditions.iter().map(|(key, condition)| (*key, condition.holds)).collect();
        let planner = ClaimPlanner { process: &self.process, now };
        let claims = planner.claims(notifications, &holds, &self.outbox.in_flight());
        let mut ended = self.outbox.finished();
        ended.retain(|finished| finished.item.key.app.is_some());
        let recorded = ended.iter().map(|Finished { item, at }| delivered_change(item.row.clone(), *at));
        let changes: Vec<NotificationChange> =
            recorded.chain(claims.iter().map(|claim| claim.change.clone())).collect();
        if changes.is_empty() {
            self.write_problem = None;
            return;
        }
        let took_effect = match record_changes(store, &changes).await {
            Ok(took_effect) => took_effect,
            Err(problem) => {
                debug!("cannot record which notifications are sent: {problem}");
                self.write_problem = Some(problem);
                return;
            }
        };
        self.write_problem = None;
        let recorded: BTreeSet<(ConditionKey, ConditionState)> =
            ended.iter().map(|Finished { item, .. }| (item.key, item.state)).collect();
        self.outbox.forget_finished(&recorded);
        // The first `ended.len()` changes recorded finished notifications. The claims follow.
        for (claim, took_effect) in claims.iter().zip(took_effect.into_iter().skip(ended.len())) {
            if took_effect && let Some(condition) = conditions.get(&claim.key) {
                self.send(claim, condition, now);
            }
        }
    }

    /// Adds the notification of a recorded claim to the outbox. Does nothing if the claim is only
    /// renewed.
    fn send(&self, claim: &Claim, condition: &Condition, now: DateTime<Utc>) {
        let NotificationChange::Claim { new: row, .. } = &claim.change else { return };
        if claim.is_renewal {
            return;
        }
        let Claim { key, state, .. } = *claim;
        let notification = condition.notification((key.event, state), row.begun_at, now);
        let dropped = self.outbox.add(Item { key, state, row: row.clone(), notification }, now);
        if let Some(Item { notification, .. }) = dropped {
            let (event, app): (Event, _) = (notification.event, notification.app.as_deref());
            self.observer.on_notification(event, Outcome::Dropped);
            warn!(
                event = event.as_str(),
                app, "dropped the oldest of {OUTBOX_CAPACITY} notifications that wait for the receiver"
            );
        }
    }
}

/// Reads the state of the apps and the last notifications. The error is a phrase, without a full
/// stop, for use in a message.
async fn read_state(store: &Store) -> Result<(Vec<AppOverview>, Vec<NotificationRow>), String> {
    let reading = async {
        // The notifications are read before the state. In the opposite order, another process could
        // send the end of a condition between the two reads. Then the older state would still show
        // the condition, and this process would send its beginning again.
        let notifications = store.notifications().await?;
        Ok::<_, StoreError>((store.overview().await?, notifications))
    };
    match timeout(READ_TIMEOUT, reading).await {
        Ok(read) => read.map_err(|error| with_causes(&error)),
        Err(_) => Err(format!("no answer within {} s", READ_TIMEOUT.as_secs())),
    }
}

/// Records changes. The error is a phrase, as in `read_state`.
async fn record_changes(store: &Store, changes: &[NotificationChange]) -> Result<Vec<bool>, String> {
    match timeout(WRITE_TIMEOUT, store.record_notifications(changes)).await {
        Ok(recorded) => recorded.map_err(|error| with_causes(&error)),
        Err(_) => Err(format!("no answer to a change within {} s", WRITE_TIMEOUT.as_secs())),
    }
}

/// Returns why the crawls of an app cannot write to the database, for example because the disk is
/// full.
fn problem_of_apps(apps: &Apps) -> Option<String> {
    apps.values().find_map(|state| state.database_problem.clone())
}

fn watched_state(apps: &Apps) -> WatchedState {
    apps.iter()
        .map(|(app, state)| {
            (app.clone(), state.last_report.as_ref().map(|report| report.crawl), state.refused)
        })
        .collect()
}
