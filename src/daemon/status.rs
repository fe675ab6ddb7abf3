//! How the apps stand, for all who want to know: the listeners, systemd's status line and its watchdog.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::database::Database;
use super::health::Health;
use super::text;
use crate::crawl::{CrawlReport, Progress, Step};
use crate::lifecycle::Systemd;
use crate::model::{CrawlStatus, GroupType, ReasonCode};
use crate::schedule::Schedule;

/// The longest that a loop at work is silent for, beyond the pace of its requests: a request's time-out of up to a
/// minute, and a chunk of a transaction to a busy database.
const SILENCE: Duration = Duration::from_secs(180);
/// How long it may wait for its turn to write before it gives that up: with SQLite one app writes at a time.
const QUEUE: Duration = Duration::from_secs(600);
/// A status line stands at least this long.
const STATUS_STANDS: Duration = Duration::from_secs(1);
/// How often the watchdog's question is asked if nothing happens and systemd does not say.
const LOOK_AGAIN: Duration = Duration::from_secs(30);
/// More apps than this that crawl at once are told by their number.
const NAMED: usize = 3;

/// All apps by name.
pub type Apps = BTreeMap<String, AppState>;

/// How one app stands.
#[derive(Clone, Debug)]
pub struct AppState {
    pub phase: Phase,
    pub schedule: Schedule,
    /// When the next crawl begins, as far as it is known now.
    pub next_at: Option<DateTime<Utc>>,
    /// The last crawl since the start of this process.
    pub last: Option<CrawlReport>,
    /// Ticks that passed without a crawl of their own since the start of this process.
    pub skipped_ticks: u64,
    /// The API refuses the app's credentials, or there are none because the key cannot be read.
    pub refused: bool,
    /// Why the key cannot be read. If it could before, the app is crawled with that one.
    pub key_trouble: Option<String>,
    /// What is wrong with the database.
    pub trouble: Option<String>,
    /// Which of the loops that had this name.
    number: u64,
    heard_at: Instant,
    request_interval: Duration,
}

/// What an app's loop is doing.
#[derive(Clone, Debug)]
pub enum Phase {
    /// Needs the database, which is not there yet.
    WaitingForDatabase,
    /// Reads when the app was crawled last.
    Starting,
    Waiting,
    Crawling {
        since: DateTime<Utc>,
        progress: Progress,
    },
}

/// One app's entry, for its loop to write. Each entry is also a sign of life.
pub(super) struct Entry {
    board: watch::Sender<Apps>,
    app: String,
    number: u64,
}

impl Entry {
    /// The entry of an app's loop, which has a number of its own: another one of the same name may still be stopping.
    pub(super) fn new(board: watch::Sender<Apps>, app: &str, schedule: Schedule, number: u64) -> Self {
        let state = AppState {
            phase: Phase::WaitingForDatabase,
            schedule,
            next_at: None,
            last: None,
            skipped_ticks: 0,
            refused: false,
            key_trouble: None,
            trouble: None,
            number,
            heard_at: Instant::now(),
            request_interval: Duration::ZERO,
        };
        board.send_modify(|apps| {
            apps.insert(app.to_owned(), state);
        });
        Self { board, app: app.to_owned(), number }
    }

    pub(super) fn app(&self) -> &str {
        &self.app
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut AppState)) {
        self.board.send_modify(|apps| {
            if let Some(state) = apps.get_mut(&self.app).filter(|state| state.number == self.number) {
                state.heard_at = Instant::now();
                change(state);
            }
        });
    }

    pub(super) fn is_refused(&self) -> bool {
        self.board.borrow().get(&self.app).is_some_and(|state| state.refused)
    }

    pub(super) fn starts(&self) {
        self.change(|state| state.phase = Phase::Starting);
    }

    pub(super) fn key_is_read(&self, request_interval: Duration) {
        self.change(|state| {
            state.request_interval = request_interval;
            if state.key_trouble.take().is_some() {
                state.refused = false;
            }
        });
    }

    /// Notes why the key cannot be read, and returns whether that is news.
    pub(super) fn key_is_not_read(&self, why: &str, is_needed: bool) -> bool {
        let mut is_news = false;
        self.change(|state| {
            is_news = state.key_trouble.as_deref() != Some(why);
            state.key_trouble = Some(why.to_owned());
            state.refused |= is_needed;
        });
        is_news
    }

    pub(super) fn wait_until(&self, next: DateTime<Utc>) {
        self.change(|state| {
            state.phase = Phase::Waiting;
            state.next_at = Some(next);
        });
    }

    pub(super) fn crawl_since(&self, since: DateTime<Utc>, next_at: Option<DateTime<Utc>>) {
        self.change(|state| {
            state.phase = Phase::Crawling { since, progress: Progress::default() };
            state.next_at = next_at;
        });
    }

    pub(super) fn crawl_progress(&self, now: Progress) {
        self.change(|state| {
            if let Phase::Crawling { progress, .. } = &mut state.phase {
                *progress = now;
            }
        });
    }

    pub(super) fn crawled(&self, report: CrawlReport) {
        self.change(|state| {
            // A crawl that failed for another reason says nothing about the credentials.
            state.refused = match report.reason.as_ref().map(|reason| reason.code) {
                Some(ReasonCode::Refused) => true,
                _ if matches!(report.status, CrawlStatus::Complete | CrawlStatus::Incomplete) => false,
                _ => state.refused,
            };
            state.last = Some(report);
        });
    }
}

/// Tells systemd how the apps stand, whenever that changes, and that they live, as long as all do.
pub(super) async fn report(mut health: Health, systemd: Systemd, stop: CancellationToken) {
    let look_again = systemd.watchdog_interval().unwrap_or(LOOK_AGAIN);
    let work = async {
        let mut told = String::new();
        let mut silent = None;
        loop {
            health.mark_seen();
            let line = status_line(&health);
            if line != told {
                systemd.status(&line);
                told = line;
            }
            let now_silent = silent_part(&health, Instant::now());
            match &now_silent {
                None => systemd.watchdog(),
                Some(part) if now_silent != silent => {
                    error!(
                        part,
                        "no sign of life from this part; systemd's watchdog is not told that all is well"
                    );
                }
                Some(_) => {}
            }
            silent = now_silent;
            sleep(STATUS_STANDS.min(look_again)).await;
            tokio::select! {
                () = health.changed() => {}
                () = sleep(look_again) => {}
            }
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = work => {}
    }
}

/// An app, or the database, that should have shown a sign of life by now.
fn silent_part(health: &Health, now: Instant) -> Option<String> {
    let is_silent = |until: Option<Instant>| until.is_some_and(|until| now > until);
    if is_silent(health.database().borrow().silent_until()) {
        return Some("the database".to_owned());
    }
    let apps = health.apps();
    let apps = apps.borrow();
    apps.iter().find(|(_, state)| is_silent(state.silent_until())).map(|(app, _)| app.clone())
}

impl AppState {
    /// What someone should see to, or wait for, each a sentence.
    pub(super) fn troubles(&self, app: &str) -> impl Iterator<Item = String> {
        let key = self.key_trouble.as_ref().map(|why| format!("the key of {app} cannot be used: {why}"));
        let refused = (self.refused && key.is_none()).then(|| {
            let why = self.last.as_ref().and_then(|last| last.reason.as_ref());
            let why = why.filter(|reason| reason.code == ReasonCode::Refused);
            let why = why.map_or_else(String::new, |reason| format!(": {}", reason.text));
            format!("the API refuses the credentials of {app}{why}")
        });
        let database = self.trouble.as_ref().map(|why| format!("the database fails {app}: {why}"));
        key.into_iter().chain(refused).chain(database)
    }

    /// When this app must have shown the next sign of life; `None` if it waits for the database, which has its own.
    fn silent_until(&self) -> Option<Instant> {
        let progress = match &self.phase {
            Phase::WaitingForDatabase => return None,
            Phase::Waiting => return Some(self.heard_at + SILENCE),
            Phase::Starting => return Some(self.heard_at + SILENCE + QUEUE),
            Phase::Crawling { progress, .. } => progress,
        };
        let from =
            progress.waiting.as_ref().map_or(self.heard_at, |waiting| waiting.until.max(self.heard_at));
        let is_queued = progress.queued || matches!(progress.step, Step::Idle | Step::Starting);
        let queue = if is_queued { QUEUE } else { Duration::ZERO };
        Some(from + self.request_interval + SILENCE + queue)
    }
}

/// The line that `systemctl status` shows.
fn status_line(health: &Health) -> String {
    let mut sentences = vec![match &*health.database().borrow() {
        Database::Opening { .. } => "opening the database".to_owned(),
        Database::Away { .. } => "started, but without a database".to_owned(),
        Database::Open(_) => crawling(&health.apps().borrow()),
    }];
    let mut troubles = health.troubles();
    if troubles.len() > NAMED {
        let more = troubles.split_off(NAMED).len();
        troubles.push(format!("and {more} more troubles"));
    }
    sentences.extend(troubles);
    sentences.join("; ")
}

/// What the apps are doing.
fn crawling(apps: &Apps) -> String {
    let crawling: Vec<String> = apps
        .iter()
        .filter_map(|(app, state)| match &state.phase {
            Phase::Crawling { progress, .. } => Some(doing(app, progress)),
            _ => None,
        })
        .collect();
    match crawling.len() {
        0 => idle(apps),
        1..=NAMED => crawling.join(", "),
        many => format!("crawling {many} of {} apps", apps.len()),
    }
}

fn idle(apps: &Apps) -> String {
    let next = apps.iter().filter_map(|(app, state)| Some((state.next_at?, app))).min();
    match next {
        Some((at, app)) => format!("idle; next crawl of {app} at {}", text(at)),
        None => "starting".to_owned(),
    }
}

fn doing(app: &str, progress: &Progress) -> String {
    if let Some(waiting) = &progress.waiting {
        return format!("crawling {app}: pausing before another attempt ({})", waiting.why);
    }
    match &progress.step {
        Step::Idle | Step::Starting => format!("crawling {app}"),
        Step::WaitingForLease => format!("waiting for another process to finish crawling {app}"),
        Step::Listing { group_type, listed, total } => {
            let group_type = group_type.as_ref().map_or("all types", GroupType::as_str);
            let listed = short(*listed);
            match total {
                Some(total) => format!("crawling {app}: {group_type} {listed} of {}", short(*total)),
                None => format!("crawling {app}: {group_type} {listed}"),
            }
        }
        Step::Checking => format!("crawling {app}: checking"),
        Step::Asking { asked, of } => {
            format!("crawling {app}: asking about {} groups, {} so far", short(*of), short(*asked))
        }
        Step::Concluding { to_mark: 0, .. } => format!("crawling {app}: concluding"),
        Step::Concluding { marked, to_mark } => {
            format!("crawling {app}: concluding, {} of {} groups marked", short(*marked), short(*to_mark))
        }
    }
}

/// A number of groups in at most four characters, or as many as the world's groups need.
fn short(groups: u64) -> String {
    match groups {
        0..1_000 => groups.to_string(),
        1_000..1_000_000 => format!("{}k", groups / 1_000),
        1_000_000..10_000_000 => format!("{}.{}M", groups / 1_000_000, groups / 100_000 % 10),
        _ => format!("{}M", groups / 1_000_000),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crawl::RetryPause;

    /// A daemon with these apps and no database, which no loop needs here.
    struct Stage {
        entries: Vec<Entry>,
        database: watch::Sender<Database>,
        refused_reload: watch::Sender<Option<String>>,
        health: Health,
    }

    impl Stage {
        async fn with(names: &[&str]) -> Self {
            let board = watch::Sender::new(Apps::new());
            let entries: Vec<Entry> = (1..)
                .zip(names)
                .map(|(number, app)| Entry::new(board.clone(), app, hourly(), number))
                .collect();
            entries.iter().for_each(Entry::starts);
            let memory = crate::store::DatabaseUrl::Sqlite(":memory:".into());
            let store = crate::store::Store::open(&memory).await.unwrap();
            let database = watch::Sender::new(Database::Open(store));
            let refused_reload = watch::Sender::new(None);
            let health = Health::new(board.subscribe(), database.subscribe(), refused_reload.subscribe());
            Self { entries, database, refused_reload, health }
        }

        fn line(&self) -> String {
            status_line(&self.health)
        }

        fn silent_for(&self, seconds: u64) -> Option<String> {
            silent_part(&self.health, Instant::now() + Duration::from_secs(seconds))
        }
    }

    fn hourly() -> Schedule {
        Schedule::parse("@hourly", chrono_tz::UTC).unwrap()
    }

    fn ten() -> DateTime<Utc> {
        "2026-11-23T10:00:00Z".parse().unwrap()
    }

    fn listing(listed: u64, total: Option<u64>) -> Progress {
        let group_type = GroupType::new("Public");
        Progress { step: Step::Listing { group_type, listed, total }, ..Progress::default() }
    }

    #[tokio::test]
    async fn the_status_line_says_what_is_going_on() {
        let stage = Stage::with(&["prod", "test"]).await;
        let entries = &stage.entries;
        assert_eq!(stage.line(), "starting");
        entries[0].wait_until(ten());
        entries[1].wait_until(ten() + chrono::TimeDelta::minutes(5));
        assert_eq!(stage.line(), "idle; next crawl of prod at 2026-11-23T10:00:00Z");
        entries[0].crawl_since(ten(), None);
        entries[0].crawl_progress(listing(340_999, Some(1_290_000)));
        assert_eq!(stage.line(), "crawling prod: Public 340k of 1.2M");
        entries[1].crawl_since(ten(), None);
        entries[1].crawl_progress(listing(999, None));
        assert_eq!(stage.line(), "crawling prod: Public 340k of 1.2M, crawling test: Public 999");
        let concluding = Step::Concluding { marked: 20_000, to_mark: 90_000 };
        entries[0].crawl_progress(Progress { step: concluding, ..Progress::default() });
        assert!(stage.line().starts_with("crawling prod: concluding, 20k of 90k groups marked, "));
        entries[1].wait_until(ten());
        entries[1].change(|state| state.refused = true);
        entries[0].wait_until(ten());
        entries[0].change(|state| state.trouble = Some("cannot register an app".to_owned()));
        assert_eq!(
            stage.line(),
            "idle; next crawl of prod at 2026-11-23T10:00:00Z; the database fails prod: cannot register an app; \
             the API refuses the credentials of test"
        );
        stage.database.send_replace(Database::Opening { since: Instant::now() });
        assert!(stage.line().starts_with("opening the database"), "{}", stage.line());
        stage.refused_reload.send_replace(Some("the configuration is not lawful".to_owned()));
        assert!(stage.line().contains("; the configuration is not lawful; "), "{}", stage.line());
    }

    #[tokio::test]
    async fn many_crawls_or_troubles_at_once_are_told_by_their_number() {
        let stage = Stage::with(&["a", "b", "c", "d", "e"]).await;
        stage.entries[..4].iter().for_each(|entry| entry.crawl_since(ten(), None));
        assert_eq!(stage.line(), "crawling 4 of 5 apps");
        stage.entries.iter().for_each(|entry| entry.change(|state| state.refused = true));
        assert!(stage.line().ends_with("the credentials of c; and 2 more troubles"), "{}", stage.line());
    }

    #[tokio::test]
    async fn an_unreadable_key_is_news_once_and_a_readable_one_ends_the_refusal() {
        let stage = Stage::with(&["prod"]).await;
        let entry = &stage.entries[0];
        assert!(entry.key_is_not_read("cannot read prod.key", true));
        assert!(!entry.key_is_not_read("cannot read prod.key", true) && entry.is_refused());
        assert_eq!(stage.health.troubles(), ["the key of prod cannot be used: cannot read prod.key"]);
        entry.key_is_read(Duration::from_secs(1));
        assert!(!entry.is_refused() && stage.health.troubles().is_empty());
    }

    #[tokio::test]
    async fn a_loop_that_was_replaced_writes_nothing_more() {
        let stage = Stage::with(&["prod"]).await;
        let old = &stage.entries[0];
        let new = Entry::new(old.board.clone(), "prod", hourly(), 2);
        new.wait_until(ten());
        old.crawl_since(ten(), None);
        assert_eq!(stage.line(), "idle; next crawl of prod at 2026-11-23T10:00:00Z");
    }

    #[tokio::test]
    async fn an_app_is_silent_once_it_has_nothing_left_to_wait_for() {
        let stage = Stage::with(&["prod", "test"]).await;
        tokio::time::pause();
        let entries = &stage.entries;
        let silent_for = |seconds| stage.silent_for(seconds);
        entries.iter().for_each(|entry| entry.key_is_read(Duration::from_secs(1)));
        let prod = Some("prod".to_owned());
        entries[1].change(|state| state.phase = Phase::WaitingForDatabase);
        assert_eq!(
            (silent_for(780), silent_for(781)),
            (None, prod.clone()),
            "starting, behind other apps' writes"
        );
        entries[0].wait_until(ten());
        assert_eq!((silent_for(180), silent_for(181)), (None, prod.clone()), "waiting for a tick");
        entries[0].crawl_since(ten(), None);
        entries[0].crawl_progress(listing(1, None));
        assert_eq!(
            (silent_for(181), silent_for(182)),
            (None, prod.clone()),
            "waiting for a page, and its turn"
        );
        let waiting = RetryPause { until: Instant::now() + Duration::from_secs(60), why: String::new() };
        entries[0].crawl_progress(Progress { waiting: Some(waiting), ..listing(1, None) });
        assert_eq!((silent_for(241), silent_for(242)), (None, prod.clone()), "pausing for a minute");
        entries[0].crawl_progress(Progress { queued: true, ..listing(1, None) });
        assert_eq!((silent_for(781), silent_for(782)), (None, prod.clone()), "waiting for its turn to write");
        let concluding = Step::Concluding { marked: 20_000, to_mark: 90_000 };
        entries[0].crawl_progress(Progress { step: concluding, ..Progress::default() });
        assert_eq!(
            (silent_for(181), silent_for(182)),
            (None, prod.clone()),
            "a chunk of the concluding transaction"
        );
        entries[0].crawl_progress(Progress { step: Step::WaitingForLease, ..Progress::default() });
        assert_eq!(
            (silent_for(181), silent_for(182)),
            (None, prod),
            "a look at whether the other one is done"
        );
    }

    #[tokio::test]
    async fn an_attempt_at_the_database_may_last_an_hour_and_apps_wait_for_it_as_long_as_it_takes() {
        let stage = Stage::with(&["prod"]).await;
        tokio::time::pause();
        stage.entries[0].change(|state| state.phase = Phase::WaitingForDatabase);
        assert_eq!(stage.silent_for(86_400), None);
        stage.database.send_replace(Database::Opening { since: Instant::now() });
        assert_eq!(
            (stage.silent_for(3_600), stage.silent_for(3_630)),
            (None, Some("the database".to_owned()))
        );
    }

    /// The environment belongs to the whole process, so a child of its own speaks to the socket.
    #[test]
    fn systemd_hears_that_all_is_well_until_an_app_falls_silent() {
        const CHILD: &str = "TIM_GROUP_SYNC_TEST_CHILD";
        if std::env::var_os(CHILD).is_some() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            runtime.unwrap().block_on(async {
                let stage = Stage::with(&["prod"]).await;
                tokio::time::pause();
                stage.entries[0].crawl_since(ten(), None);
                stage.entries[0].crawl_progress(listing(7, None));
                let reporting =
                    report(stage.health.clone(), Systemd::from_environment(), CancellationToken::new());
                tokio::time::timeout(Duration::from_secs(3600), reporting).await.unwrap_err();
            });
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let test = concat!(module_path!(), "::systemd_hears_that_all_is_well_until_an_app_falls_silent");
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test.split_once("::").unwrap().1])
            .env(CHILD, "1")
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "60000000")
            .env_remove("WATCHDOG_PID")
            .output()
            .unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        let mut message = [0; 256];
        let heard: Vec<String> = std::iter::from_fn(|| {
            let length = socket.recv(&mut message).ok()?;
            Some(String::from_utf8_lossy(&message[..length]).trim_end().to_owned())
        })
        .collect();
        // One every 31 seconds, for three minutes of an hour.
        let mut expected = vec!["STATUS=crawling prod: Public 7"];
        expected.extend(["WATCHDOG=1"; 6]);
        assert_eq!(heard, expected);
    }
}
