//! How the apps stand, for all who want to know: metrics, systemd's status line and its watchdog.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::text;
use crate::crawl::{CrawlReport, Progress, Step};
use crate::lifecycle::Systemd;
use crate::model::{CrawlStatus, GroupType, ReasonCode};

/// The longest that a loop at work is silent for, beyond the pace of its requests: a request's time-out of up to a
/// minute, and a page to a busy database.
const SILENCE: Duration = Duration::from_secs(180);
/// The end of a crawl is one transaction, without a sign of life until it stands.
const CONCLUDING: Duration = Duration::from_secs(600);
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
    /// When the next crawl begins, as far as it is known now.
    pub next_at: Option<DateTime<Utc>>,
    /// The last crawl since the start of this process.
    pub last: Option<CrawlReport>,
    /// Ticks that passed without a crawl of their own since the start of this process.
    pub skipped_ticks: u64,
    /// The API refuses the app's credentials.
    pub refused: bool,
    /// What is wrong with the database.
    pub trouble: Option<String>,
    heard_at: Instant,
    request_interval: Duration,
}

/// What an app's loop is doing.
#[derive(Clone, Debug)]
pub enum Phase {
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
}

impl Entry {
    pub(super) fn new(board: watch::Sender<Apps>, app: &str, request_interval: Duration) -> Self {
        let state = AppState {
            phase: Phase::Starting,
            next_at: None,
            last: None,
            skipped_ticks: 0,
            refused: false,
            trouble: None,
            heard_at: Instant::now(),
            request_interval,
        };
        board.send_modify(|apps| {
            apps.insert(app.to_owned(), state);
        });
        Self { board, app: app.to_owned() }
    }

    pub(super) fn app(&self) -> &str {
        &self.app
    }

    pub(super) fn change(&self, change: impl FnOnce(&mut AppState)) {
        self.board.send_modify(|apps| {
            if let Some(state) = apps.get_mut(&self.app) {
                state.heard_at = Instant::now();
                change(state);
            }
        });
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
pub(super) async fn report(mut apps: watch::Receiver<Apps>, systemd: Systemd, stop: CancellationToken) {
    let look_again = systemd.watchdog_interval().unwrap_or(LOOK_AGAIN);
    let work = async {
        let mut told = String::new();
        let mut silent = None;
        loop {
            let (line, now_silent) = {
                let apps = apps.borrow_and_update();
                (status_line(&apps), silent_app(&apps, Instant::now()).map(str::to_owned))
            };
            if line != told {
                systemd.status(&line);
                told = line;
            }
            match &now_silent {
                None => systemd.watchdog(),
                Some(app) if now_silent != silent => {
                    error!(
                        app,
                        "no sign of life from this app's loop; systemd's watchdog is not told that all is well"
                    );
                }
                Some(_) => {}
            }
            silent = now_silent;
            sleep(STATUS_STANDS.min(look_again)).await;
            tokio::select! {
                changed = apps.changed() => if changed.is_err() { break },
                () = sleep(look_again) => {}
            }
        }
        // Without an app there is nothing to say.
        std::future::pending::<()>().await;
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = work => {}
    }
}

/// An app that should have shown a sign of life by now.
fn silent_app(apps: &Apps, now: Instant) -> Option<&str> {
    let is_silent = |state: &AppState| state.silent_until().is_some_and(|until| now > until);
    apps.iter().find(|(_, state)| is_silent(state)).map(|(app, _)| app.as_str())
}

impl AppState {
    /// When this app must have shown the next sign of life; `None` if it waits for somebody else.
    fn silent_until(&self) -> Option<Instant> {
        let Phase::Crawling { progress, .. } = &self.phase else { return Some(self.heard_at + SILENCE) };
        let from =
            progress.waiting.as_ref().map_or(self.heard_at, |waiting| waiting.until.max(self.heard_at));
        match progress.step {
            Step::WaitingForLease => None,
            Step::Concluding => Some(from + CONCLUDING),
            _ => Some(from + self.request_interval + SILENCE),
        }
    }
}

/// The line that `systemctl status` shows.
fn status_line(apps: &Apps) -> String {
    let crawling: Vec<String> = apps
        .iter()
        .filter_map(|(app, state)| match &state.phase {
            Phase::Crawling { progress, .. } => Some(doing(app, progress)),
            _ => None,
        })
        .collect();
    let mut line = match crawling.len() {
        0 => idle(apps),
        1..=NAMED => crawling.join(", "),
        many => format!("crawling {many} of {} apps", apps.len()),
    };
    if let Some((app, trouble)) = apps.iter().find_map(|(app, state)| Some((app, state.trouble.as_ref()?))) {
        line = format!("{line}; the database fails {app}: {trouble}");
    }
    let refused: Vec<&str> =
        apps.iter().filter(|(_, state)| state.refused).map(|(app, _)| app.as_str()).collect();
    match refused.len() {
        0 => line,
        1..=NAMED => format!("{line}; the API refuses the credentials of {}", refused.join(", ")),
        many => format!("{line}; the API refuses the credentials of {many} apps"),
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
        Step::Concluding => format!("crawling {app}: concluding"),
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
    use crate::crawl::Waiting;

    fn apps(names: &[&str]) -> (watch::Sender<Apps>, Vec<Entry>) {
        let board = watch::Sender::new(Apps::new());
        let entries =
            names.iter().map(|app| Entry::new(board.clone(), app, Duration::from_secs(1))).collect();
        (board, entries)
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
        let (board, entries) = apps(&["prod", "test"]);
        let line = || status_line(&board.borrow());
        assert_eq!(line(), "starting");
        entries[0].wait_until(ten());
        entries[1].wait_until(ten() + chrono::TimeDelta::minutes(5));
        assert_eq!(line(), "idle; next crawl of prod at 2026-11-23T10:00:00Z");
        entries[0].crawl_since(ten(), None);
        entries[0].crawl_progress(listing(340_999, Some(1_290_000)));
        assert_eq!(line(), "crawling prod: Public 340k of 1.2M");
        entries[1].crawl_since(ten(), None);
        entries[1].crawl_progress(listing(999, None));
        assert_eq!(line(), "crawling prod: Public 340k of 1.2M, crawling test: Public 999");
        entries[1].wait_until(ten());
        entries[1].change(|state| state.refused = true);
        entries[0].wait_until(ten());
        entries[0].change(|state| state.trouble = Some("cannot register an app".to_owned()));
        assert_eq!(
            line(),
            "idle; next crawl of prod at 2026-11-23T10:00:00Z; the database fails prod: cannot register an app; \
             the API refuses the credentials of test"
        );
    }

    #[tokio::test]
    async fn many_crawls_at_once_are_told_by_their_number() {
        let (board, entries) = apps(&["a", "b", "c", "d", "e"]);
        entries[..4].iter().for_each(|entry| entry.crawl_since(ten(), None));
        assert_eq!(status_line(&board.borrow()), "crawling 4 of 5 apps");
    }

    #[tokio::test(start_paused = true)]
    async fn an_app_is_silent_once_it_has_nothing_left_to_wait_for() {
        let (board, entries) = apps(&["prod", "test"]);
        let silent_for = |seconds| {
            silent_app(&board.borrow(), Instant::now() + Duration::from_secs(seconds)).map(str::to_owned)
        };
        let prod = Some("prod".to_owned());
        entries[1].crawl_since(ten(), None);
        entries[1].crawl_progress(Progress { step: Step::WaitingForLease, ..Progress::default() });
        assert_eq!((silent_for(180), silent_for(181)), (None, prod.clone()), "waiting for a tick");
        entries[0].crawl_since(ten(), None);
        assert_eq!(
            (silent_for(181), silent_for(182)),
            (None, prod.clone()),
            "waiting for a page, and its turn"
        );
        let waiting = Waiting { until: Instant::now() + Duration::from_secs(60), why: String::new() };
        entries[0].crawl_progress(Progress { waiting: Some(waiting), ..listing(1, None) });
        assert_eq!((silent_for(241), silent_for(242)), (None, prod.clone()), "pausing for a minute");
        entries[0].crawl_progress(Progress { step: Step::Concluding, ..Progress::default() });
        assert_eq!((silent_for(600), silent_for(601)), (None, prod), "concluding");
        entries[0].crawl_progress(Progress { step: Step::WaitingForLease, ..Progress::default() });
        assert_eq!(silent_for(86_400), None, "another process may crawl for as long as it likes");
    }

    /// The environment belongs to the whole process, so a child of its own speaks to the socket.
    #[test]
    fn systemd_hears_that_all_is_well_until_an_app_falls_silent() {
        const CHILD: &str = "TIM_GROUP_SYNC_TEST_CHILD";
        if std::env::var_os(CHILD).is_some() {
            let runtime =
                tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build();
            runtime.unwrap().block_on(async {
                let (board, entries) = apps(&["prod"]);
                entries[0].crawl_since(ten(), None);
                let reporting =
                    report(board.subscribe(), Systemd::from_environment(), CancellationToken::new());
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
        let mut expected = vec!["STATUS=crawling prod"];
        expected.extend(["WATCHDOG=1"; 6]);
        assert_eq!(heard, expected);
    }
}
