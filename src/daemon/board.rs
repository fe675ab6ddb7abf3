//! The current state of every app: the task that crawls an app writes it, and the HTTP listeners,
//! the systemd status line and the watchdog read it.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, SecondsFormat, Utc};
use tokio::sync::watch;
use tokio::time::Instant;

use super::plan::WorkersError;
use crate::crawl::{CrawlReport, Progress, Step};
use crate::model::{CrawlStatus, ReasonCode, SdkAppId};
use crate::schedule::Schedule;

/// The configured apps by name.
pub type Apps = BTreeMap<String, AppState>;

#[derive(Clone, Debug)]
pub struct AppState {
    pub phase: Phase,
    pub sdk_app_id: SdkAppId,
    pub schedule: Schedule,
    /// The planned start of the next crawl. `None` until the loop of the app has computed it for
    /// the first time.
    pub next_at: Option<DateTime<Utc>>,
    /// The report of the last crawl by this process.
    pub last_report: Option<CrawlReport>,
    /// The number of ticks that were skipped since the start of this process, because a crawl was
    /// running, a retry was pending, or the machine was suspended.
    pub skipped_ticks: u64,
    /// Whether the API refuses the app's credentials, or the key cannot be read and there is no
    /// earlier key.
    pub refused: bool,
    /// Why the key cannot be read. If an earlier key was read, it stays in use.
    pub key_problem: Option<String>,
    /// Why the HTTP client for the API cannot be created. If an earlier one was created, it stays in
    /// use.
    pub client_problem: Option<String>,
    /// Why the last access to the database failed.
    pub database_problem: Option<String>,
    /// When the loop of the app last changed this state or updated the crawl's progress.
    pub(super) alive_at: Instant,
    /// When the app last made progress. Waiting for another process to finish crawling is no
    /// progress.
    pub(super) progressed_at: Instant,
    /// The number of groups that the app may have.
    pub group_quota: Option<u64>,
    pub(super) request_interval: Duration,
    /// The generation of the [`BoardEntry`] that may update this state. Each call of
    /// [`StatusBoard::add`] creates a new generation, so entries of replaced loops have no effect.
    generation: u64,
}

impl AppState {
    /// Ends the refusal if an unreadable key was its reason.
    fn forget_key_problem(&mut self) {
        if self.key_problem.take().is_some() {
            self.refused = false;
        }
    }

    /// Returns the time since the app last made progress.
    #[must_use]
    pub fn since_progress(&self) -> Duration {
        self.progressed_at.elapsed()
    }
}

/// What the loop of an app is doing.
#[derive(Clone, Debug)]
pub enum Phase {
    WaitingForDatabase,
    /// Reads the key, and reads from the database when the app was last crawled.
    Starting,
    /// Waits for the next tick, a retry or a request.
    Waiting,
    Crawling {
        since: DateTime<Utc>,
        progress: Progress,
    },
}

#[derive(Debug)]
pub(super) struct StatusBoard {
    apps: watch::Sender<Apps>,
    /// The generation of the newest entry.
    generation: u64,
}

impl StatusBoard {
    pub(super) fn new() -> Self {
        Self { apps: watch::Sender::new(Apps::new()), generation: 0 }
    }

    pub(super) fn subscribe(&self) -> watch::Receiver<Apps> {
        self.apps.subscribe()
    }

    /// Adds an app, or replaces the app of the same name. The replaced app's loop may still be
    /// stopping. Updates through its entry are ignored.
    pub(super) fn add(&mut self, app: &str, sdk_app_id: SdkAppId, schedule: Schedule) -> BoardEntry {
        self.generation += 1;
        let state = AppState {
            phase: Phase::WaitingForDatabase,
            sdk_app_id,
            schedule,
            next_at: None,
            last_report: None,
            skipped_ticks: 0,
            refused: false,
            key_problem: None,
            client_problem: None,
            database_problem: None,
            alive_at: Instant::now(),
            progressed_at: Instant::now(),
            group_quota: None,
            request_interval: Duration::ZERO,
            generation: self.generation,
        };
        self.apps.send_modify(|apps| {
            apps.insert(app.to_owned(), state);
        });
        BoardEntry { apps: self.apps.clone(), app: app.to_owned(), generation: self.generation }
    }

    pub(super) fn remove(&self, app: &str) {
        self.apps.send_modify(|apps| {
            apps.remove(app);
        });
    }
}

/// Write access to the state of one app, for its loop.
pub(super) struct BoardEntry {
    apps: watch::Sender<Apps>,
    app: String,
    generation: u64,
}

impl BoardEntry {
    pub(super) fn app(&self) -> &str {
        &self.app
    }

    pub(super) fn update(&self, update: impl FnOnce(&mut AppState)) {
        self.apps.send_modify(|apps| {
            let state = apps.get_mut(&self.app);
            if let Some(state) = state.filter(|state| state.generation == self.generation) {
                state.alive_at = Instant::now();
                state.progressed_at = state.alive_at;
                update(state);
            }
        });
    }

    /// Returns whether crawls fail until the credentials or the HTTP client's certificates are
    /// corrected.
    pub(super) fn needs_correction(&self) -> bool {
        let apps = self.apps.borrow();
        apps.get(&self.app).is_some_and(|state| state.refused || state.client_problem.is_some())
    }

    pub(super) fn set_waiting_for_database(&self) {
        self.update(|state| state.phase = Phase::WaitingForDatabase);
    }

    pub(super) fn set_starting(&self) {
        self.update(|state| state.phase = Phase::Starting);
    }

    /// Records that the key was read and the HTTP client was created. An app that was refused
    /// because of an unreadable key is no longer refused.
    pub(super) fn set_workers_created(&self, request_interval: Duration) {
        self.update(|state| {
            state.request_interval = request_interval;
            state.client_problem = None;
            state.forget_key_problem();
        });
    }

    /// Records why the workers cannot be created. Returns true if the reason changed. If the key is
    /// unreadable and there is no earlier key, the app counts as refused.
    pub(super) fn set_workers_error(&self, error: &WorkersError, has_earlier_key: bool) -> bool {
        let mut changed = false;
        self.update(|state| match error {
            WorkersError::Key(why) => {
                changed = state.key_problem.replace(why.clone()).as_ref() != Some(why);
                state.client_problem = None;
                state.refused |= !has_earlier_key;
            }
            WorkersError::Client(why) => {
                changed = state.client_problem.replace(why.clone()).as_ref() != Some(why);
                state.forget_key_problem();
            }
        });
        changed
    }

    pub(super) fn set_waiting_until(&self, next: DateTime<Utc>) {
        self.update(|state| {
            state.phase = Phase::Waiting;
            state.next_at = Some(next);
        });
    }

    pub(super) fn on_crawl_started(&self, since: DateTime<Utc>, next_at: Option<DateTime<Utc>>) {
        self.update(|state| {
            state.phase = Phase::Crawling { since, progress: Progress::default() };
            state.next_at = next_at;
        });
    }

    pub(super) fn on_crawl_progressed(&self, new: Progress) {
        self.apps.send_modify(|apps| {
            let state = apps.get_mut(&self.app);
            let Some(state) = state.filter(|state| state.generation == self.generation) else { return };
            state.alive_at = Instant::now();
            let Phase::Crawling { progress, .. } = &mut state.phase else { return };
            let still_waits = progress.step == Step::WaitingForLease && new.step == Step::WaitingForLease;
            if !still_waits {
                state.progressed_at = state.alive_at;
            }
            *progress = new;
        });
    }

    pub(super) fn on_crawl_ended(&self, report: CrawlReport) {
        self.update(|state| {
            state.refused = match report.reason.as_ref().map(|reason| reason.code) {
                Some(ReasonCode::Refused) => true,
                _ if matches!(report.status, CrawlStatus::Complete | CrawlStatus::Incomplete) => false,
                // A crawl that failed for another reason proves nothing about the credentials.
                _ => state.refused,
            };
            state.last_report = Some(report);
        });
    }
}

/// Formats a time for log lines and the status line, to the second.
pub(super) fn format_time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> SdkAppId {
        SdkAppId::new(1_400_000_000).unwrap()
    }

    fn hourly() -> Schedule {
        Schedule::parse("@hourly", chrono_tz::UTC).unwrap()
    }

    #[tokio::test]
    async fn a_change_of_the_key_problem_is_reported_once_and_reading_the_key_ends_the_refusal() {
        let mut board = StatusBoard::new();
        let entry = board.add("prod", id(), hourly());
        let unreadable = WorkersError::Key("cannot read prod.key".to_owned());
        assert!(entry.set_workers_error(&unreadable, false));
        assert!(!entry.set_workers_error(&unreadable, false));
        assert!(board.subscribe().borrow()["prod"].refused && entry.needs_correction());
        entry.set_workers_created(Duration::from_secs(1));
        assert!(!board.subscribe().borrow()["prod"].refused && !entry.needs_correction());
        assert_eq!(board.subscribe().borrow()["prod"].key_problem, None);
    }

    #[tokio::test]
    async fn an_http_client_that_cannot_be_created_is_no_problem_of_the_key() {
        let mut board = StatusBoard::new();
        let entry = board.add("prod", id(), hourly());
        let no_client = WorkersError::Client("no CA certificates".to_owned());
        assert!(entry.set_workers_error(&WorkersError::Key("cannot read prod.key".to_owned()), false));
        assert!(entry.set_workers_error(&no_client, false));
        assert!(!entry.set_workers_error(&no_client, false));
        let state = board.subscribe().borrow()["prod"].clone();
        assert!(state.key_problem.is_none() && !state.refused && entry.needs_correction());
        assert_eq!(state.client_problem.as_deref(), Some("no CA certificates"));
        entry.set_workers_created(Duration::from_secs(1));
        assert!(!entry.needs_correction());
    }

    #[tokio::test]
    async fn the_entry_of_a_replaced_loop_has_no_effect() {
        let mut board = StatusBoard::new();
        let old = board.add("prod", id(), hourly());
        let new = board.add("prod", id(), hourly());
        new.set_waiting_until(DateTime::UNIX_EPOCH);
        old.on_crawl_started(DateTime::UNIX_EPOCH, None);
        assert!(matches!(board.subscribe().borrow()["prod"].phase, Phase::Waiting));
    }
}
