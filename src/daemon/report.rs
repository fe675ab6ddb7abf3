//! Reports the state of the daemon to systemd, and logs stalled apps.

use std::collections::BTreeMap;
use std::time::Duration;

use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{error, info, warn};

use super::board::{Apps, Phase, format_time};
use super::database::Database;
use super::health::Health;
use super::watchdog::{Stall, stalls};
use crate::crawl::{Progress, Step};
use crate::lifecycle::Systemd;
use crate::model::{GroupType, plural};

/// The minimum time between two status lines.
const STATUS_INTERVAL: Duration = Duration::from_secs(1);
/// The interval of watchdog checks while no state changes, if systemd sets no `WatchdogSec`.
const CHECK_INTERVAL: Duration = Duration::from_secs(30);
/// Maximum number of crawls, and of problems, that the status line names.
const MAX_NAMED: usize = 3;

/// Sends a status line whenever the state changes, and a watchdog ping at intervals unless an app
/// hangs.
pub(super) async fn report(mut health: Health, systemd: Systemd, stop: CancellationToken) {
    let check_interval = systemd.watchdog_interval().unwrap_or(CHECK_INTERVAL);
    let work = async {
        let mut sent_line = String::new();
        let mut reported = BTreeMap::new();
        loop {
            health.mark_seen();
            let line = status_line(&health);
            if line != sent_line {
                systemd.status(&line);
                sent_line = line;
            }
            let stalls = stalls(&health.apps().borrow(), Instant::now());
            if !stalls.iter().any(|stall| stall.is_hung) {
                systemd.watchdog();
            }
            log_stalls(&mut reported, stalls);
            sleep(STATUS_INTERVAL.min(check_interval)).await;
            tokio::select! {
                () = health.changed() => {}
                () = sleep(check_interval) => {}
            }
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = work => {}
    }
}

/// Logs when an app begins to stall, when a stall becomes a hang, and when an app makes progress
/// again. `reported` maps each stalled app to whether it is hung.
fn log_stalls(reported: &mut BTreeMap<String, bool>, stalls: Vec<Stall>) {
    reported.retain(|app, _| {
        let is_stalled = stalls.iter().any(|stall| stall.app == *app);
        if !is_stalled {
            info!(app, "the app makes progress again");
        }
        is_stalled
    });
    for stall in stalls {
        let app = &stall.app;
        if reported.get(app) == Some(&stall.is_hung) {
            continue;
        }
        if stall.is_hung {
            error!(app, "{stall}; withholding the watchdog ping, so that systemd restarts the service");
        } else if stall.waits_for_lease {
            warn!(app, "{stall}; `tim-group-sync status` shows which host holds the lease");
        } else {
            error!(app, "{stall}");
        }
        reported.insert(stall.app, stall.is_hung);
    }
}

/// Returns the line that `systemctl status` shows.
fn status_line(health: &Health) -> String {
    let mut sentences = vec![match &*health.database().borrow() {
        Database::Opening => "opening the database".to_owned(),
        Database::Unavailable { .. } => "started, but without a database".to_owned(),
        Database::Open(_) => activity(&health.apps().borrow()),
    }];
    let mut problems = health.problems();
    if problems.len() > MAX_NAMED {
        let more = problems.split_off(MAX_NAMED).len();
        let noun = if more == 1 { "problem" } else { "problems" };
        problems.push(format!("and {more} more {noun}"));
    }
    sentences.extend(problems);
    sentences.join("; ")
}

fn activity(apps: &Apps) -> String {
    let crawls: Vec<String> = apps
        .iter()
        .filter_map(|(app, state)| match &state.phase {
            Phase::Crawling { progress, .. } => Some(crawl_activity(app, progress)),
            _ => None,
        })
        .collect();
    match crawls.len() {
        0 => next_crawl(apps),
        1..=MAX_NAMED => crawls.join(", "),
        many => format!("crawling {many} of {} apps", apps.len()),
    }
}

fn next_crawl(apps: &Apps) -> String {
    let next = apps.iter().filter_map(|(app, state)| Some((state.next_at?, app))).min();
    match next {
        Some((at, app)) => format!("idle; next crawl of {app} at {}", format_time(at)),
        None => "starting".to_owned(),
    }
}

fn crawl_activity(app: &str, progress: &Progress) -> String {
    if let Some(waiting) = &progress.waiting {
        return format!("crawling {app}: pausing before a retry ({})", waiting.why);
    }
    match &progress.step {
        Step::Idle | Step::Starting => format!("crawling {app}"),
        Step::WaitingForLease => format!("waiting for another process to finish crawling {app}"),
        Step::Listing { group_type, listed, total } => {
            let group_type = group_type.as_ref().map_or("all types", GroupType::as_str);
            let listed = abbreviate(*listed);
            match total {
                Some(total) => format!("crawling {app}: {group_type} {listed} of {}", abbreviate(*total)),
                None => format!("crawling {app}: {group_type} {listed}"),
            }
        }
        Step::Checking => format!("crawling {app}: checking the lists"),
        Step::LookingUp { looked_up, total } => {
            format!(
                "crawling {app}: looked up {} of {} {}",
                abbreviate(*looked_up),
                abbreviate(*total),
                plural(*total, "group")
            )
        }
        Step::Concluding { to_mark: 0, .. } => format!("crawling {app}: writing the result"),
        Step::Concluding { marked, to_mark } => {
            format!(
                "crawling {app}: writing the result, {} of {} {} marked",
                abbreviate(*marked),
                abbreviate(*to_mark),
                plural(*to_mark, "group")
            )
        }
    }
}

/// Abbreviates a number of groups: 999, 340k, 1.2M.
fn abbreviate(groups: u64) -> String {
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
    use crate::daemon::board::{BoardEntry, StatusBoard};
    use crate::model::SdkAppId;
    use crate::schedule::Schedule;
    use chrono::{DateTime, TimeDelta, Utc};
    use tokio::sync::watch;

    /// A daemon with entries for apps, but without their loops.
    struct TestDaemon {
        entries: Vec<BoardEntry>,
        database: watch::Sender<Database>,
        refused_reload: watch::Sender<Option<String>>,
        health: Health,
    }

    impl TestDaemon {
        async fn with(apps: &[&str]) -> Self {
            let mut board = StatusBoard::new();
            let hourly = Schedule::parse("@hourly", chrono_tz::UTC).unwrap();
            let id = SdkAppId::new(1_400_000_000).unwrap();
            let entries: Vec<BoardEntry> =
                apps.iter().map(|app| board.add(app, id, hourly.clone())).collect();
            let folder = tempfile::tempdir().unwrap();
            let file = crate::store::DatabaseLocation::Sqlite(folder.path().join("groups.db"));
            let store = crate::store::Store::open(&file).await.unwrap();
            let database = watch::Sender::new(Database::Open(store));
            let refused_reload = watch::Sender::new(None);
            let health = Health::new(board.subscribe(), database.subscribe(), refused_reload.subscribe());
            Self { entries, database, refused_reload, health }
        }

        fn line(&self) -> String {
            status_line(&self.health)
        }
    }

    fn ten() -> DateTime<Utc> {
        "2026-11-23T10:00:00Z".parse().unwrap()
    }

    fn listing(listed: u64, total: Option<u64>) -> Progress {
        let group_type = GroupType::new("Public");
        Progress { step: Step::Listing { group_type, listed, total }, ..Progress::default() }
    }

    #[tokio::test]
    async fn the_status_line_names_crawls_the_next_crawl_and_problems() {
        let daemon = TestDaemon::with(&["prod", "test"]).await;
        let entries = &daemon.entries;
        assert_eq!(daemon.line(), "starting");
        entries[0].set_waiting_until(ten());
        entries[1].set_waiting_until(ten() + TimeDelta::minutes(5));
        assert_eq!(daemon.line(), "idle; next crawl of prod at 2026-11-23T10:00:00Z");
        entries[0].on_crawl_started(ten(), None);
        entries[0].on_crawl_progressed(listing(340_999, Some(1_290_000)));
        assert_eq!(daemon.line(), "crawling prod: Public 340k of 1.2M");
        entries[1].on_crawl_started(ten(), None);
        entries[1].on_crawl_progressed(listing(999, None));
        assert_eq!(daemon.line(), "crawling prod: Public 340k of 1.2M, crawling test: Public 999");
        let concluding = Step::Concluding { marked: 20_000, to_mark: 90_000 };
        entries[0].on_crawl_progressed(Progress { step: concluding, ..Progress::default() });
        assert!(daemon.line().starts_with("crawling prod: writing the result, 20k of 90k groups marked, "));
        entries[1].set_waiting_until(ten());
        entries[1].update(|state| state.refused = true);
        entries[0].set_waiting_until(ten());
        entries[0].update(|state| state.database_problem = Some("cannot register an app".to_owned()));
        assert_eq!(
            daemon.line(),
            "idle; next crawl of prod at 2026-11-23T10:00:00Z; app prod: cannot write to the \
             database: cannot register an app; app test: the API refuses the credentials"
        );
        daemon.database.send_replace(Database::Opening);
        assert!(daemon.line().starts_with("opening the database"), "{}", daemon.line());
        daemon.refused_reload.send_replace(Some("the configuration is invalid".to_owned()));
        assert!(daemon.line().contains("; the configuration is invalid; "), "{}", daemon.line());
    }

    #[tokio::test]
    async fn the_status_line_counts_crawls_and_problems_if_there_are_many() {
        let daemon = TestDaemon::with(&["a", "b", "c", "d", "e"]).await;
        daemon.entries[..4].iter().for_each(|entry| entry.on_crawl_started(ten(), None));
        assert_eq!(daemon.line(), "crawling 4 of 5 apps");
        daemon.entries.iter().for_each(|entry| entry.update(|state| state.refused = true));
        let end = "app c: the API refuses the credentials; and 2 more problems";
        assert!(daemon.line().ends_with(end), "{}", daemon.line());
    }

    /// Runs the report in a child process, because an environment variable of the process names the
    /// socket.
    #[test]
    fn systemd_gets_watchdog_pings_until_an_app_stalls() {
        const CHILD: &str = "TIM_GROUP_SYNC_TEST_CHILD";
        if std::env::var_os(CHILD).is_some() {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
            runtime.unwrap().block_on(async {
                let daemon = TestDaemon::with(&["prod"]).await;
                tokio::time::pause();
                daemon.entries[0].on_crawl_started(ten(), None);
                daemon.entries[0].on_crawl_progressed(listing(7, None));
                let reporting =
                    report(daemon.health.clone(), Systemd::from_environment(), CancellationToken::new());
                // The socket holds ten messages.
                tokio::time::timeout(Duration::from_secs(1_210), reporting).await.unwrap_err();
            });
            return;
        }
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("notify");
        let socket = std::os::unix::net::UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let test = concat!(module_path!(), "::systemd_gets_watchdog_pings_until_an_app_stalls");
        let child = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", test.split_once("::").unwrap().1])
            .env(CHILD, "1")
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "400000000")
            .env_remove("WATCHDOG_PID")
            .output()
            .unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        let mut message = [0; 256];
        let received: Vec<String> = std::iter::from_fn(|| {
            let length = socket.recv(&mut message).ok()?;
            Some(String::from_utf8_lossy(&message[..length]).trim_end().to_owned())
        })
        .collect();
        // A check every 201 s: half of `WATCHDOG_USEC`, plus `STATUS_INTERVAL`. Five checks pass
        // before the app has stalled for 15 minutes. Then the status line names the cause.
        let mut expected = vec!["STATUS=crawling prod: Public 7"];
        expected.extend(["WATCHDOG=1"; 5]);
        let stalled = "STATUS=crawling prod: Public 7; app prod: no progress for 16 minutes while listing \
             groups";
        expected.push(stalled);
        assert_eq!(received[..7], expected);
        assert!(received[7..].iter().all(|message| message.starts_with("STATUS=")), "{received:?}");
    }
}
