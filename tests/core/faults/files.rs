//! Faults of an SQLite database's files while the program uses them: moved, deleted and replaced
//! files, a removed lock file, concurrent commands, and no folder for temporary files.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use harness::campaign::number;
use harness::cli::{CliHarness, get, rows, start_with_metrics};
use harness::crawl::{Engine, Harness, ON_COMMAND, outcome};
use harness::program::{Service, program};
use harness::store::{Location, TestDatabase};
use rand::RngExt as _;
use rustix::process::Signal;
use tim_group_sync::crawl::{CrawlError, WhenBusy};
use tim_group_sync::simulator::At;
use tim_group_sync::store::{DatabaseLocation, StoreError};
use tokio_util::sync::CancellationToken;

/// A running service after one crawl of five groups, with `copy.db`, a copy of its database at that
/// time.
struct Served {
    cli: CliHarness,
    service: Service,
    address: String,
}

impl Served {
    async fn new() -> Self {
        let cli = CliHarness::new().await;
        cli.api.create_many("Public", 5);
        cli.configure("[schedule]\ncron = \"0 0 1 1 *\"\n");
        cli.serve_metrics();
        let (service, address) = start_with_metrics(cli.command(&["run"])).await;
        let service = service.wait_for_log("crawl complete").await;
        let copy = format!("VACUUM INTO '{}'", cli.path("copy.db").display());
        TestDatabase::execute(&DatabaseLocation::Sqlite(cli.path("groups.db")), &copy).await;
        Self { cli, service, address }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.cli.path(name)
    }

    /// Returns the status and the first line of `/readyz`.
    async fn readiness(&self) -> String {
        let (status, _, body) = get(&self.address, "/readyz").await;
        format!("{status}: {}", body.lines().next().unwrap())
    }

    /// Waits until the service is ready. `/readyz` may reuse an earlier result for half a second.
    async fn wait_until_ready(&self) {
        let waiting = async {
            while self.readiness().await != "200 OK: ready" {
                tokio::task::yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waiting).await.expect("ready again");
    }

    async fn wait_for_log(self, text: &str) -> Self {
        Self { service: self.service.wait_for_log(text).await, ..self }
    }

    /// Creates a group, and waits until the service has crawled again.
    async fn crawl_again(self) -> Self {
        self.cli.api.create_many("Public", 1);
        self.service.signal(Signal::USR1);
        self.wait_for_log("crawl complete").await
    }

    /// Stops the service. Asserts that its file is intact and contains these crawls and this many
    /// groups.
    async fn stop_and_assert(self, crawls: &str, groups: &str) {
        assert_eq!(self.service.stop().await, Some(0));
        let file = self.cli.path("groups.db");
        assert_eq!(value(&file, "PRAGMA integrity_check").await, "ok");
        assert_eq!(value(&file, "SELECT group_concat(status, ' ') FROM crawls").await, crawls);
        assert_eq!(value(&file, "SELECT count(*) FROM live_groups").await, groups);
    }
}

/// Returns the first value of the first row.
async fn value(file: &Path, sql: &str) -> String {
    rows(file, sql).await[0][0].clone()
}

/// Returns the sorted names of the database's files, without lock files.
fn files(folder: &Path) -> Vec<String> {
    let names = folder.read_dir().unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> =
        names.filter(|name| name.starts_with("groups.db") && !name.contains("lock")).collect();
    names.sort();
    names
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_moved_is_unavailable_until_it_is_moved_back() {
    let served = Served::new().await;
    fs::rename(served.path("groups.db"), served.path("elsewhere.db")).unwrap();
    let ready = served.readiness().await;
    assert!(ready.starts_with("503") && ready.contains("was moved or deleted while it was open"), "{ready}");
    let served = served.wait_for_log("waiting for the database").await;
    assert!(!served.path("groups.db").exists());
    fs::rename(served.path("elsewhere.db"), served.path("groups.db")).unwrap();
    let served = served.wait_for_log("the database is open").await;
    served.wait_until_ready().await;
    served.crawl_again().await.stop_and_assert("complete complete", "6").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_is_deleted_is_not_created_again_and_a_backup_in_its_place_is_opened() {
    let served = Served::new().await.crawl_again().await;
    fs::remove_file(served.path("groups.db")).unwrap();
    assert!(served.readiness().await.starts_with("503"));
    let served = served.wait_for_log("waiting for the database").await;
    assert!(served.readiness().await.starts_with("503"));
    assert!(!served.path("groups.db").exists());
    fs::rename(served.path("copy.db"), served.path("groups.db")).unwrap();
    let served = served.wait_for_log("the database is open").await;
    served.wait_until_ready().await;
    served.crawl_again().await.stop_and_assert("complete complete", "7").await;
}

/// SQLite would apply the write-ahead log of the replaced file to the new one, and damage it.
#[tokio::test(flavor = "multi_thread")]
async fn a_database_that_replaces_an_open_one_is_opened_without_the_old_write_ahead_log() {
    let served = Served::new().await.crawl_again().await.crawl_again().await;
    assert_ne!(fs::metadata(served.path("groups.db-wal")).unwrap().len(), 0);
    fs::rename(served.path("copy.db"), served.path("groups.db")).unwrap();
    let ready = served.readiness().await;
    assert!(ready.starts_with("503") && ready.contains("was replaced while it was open"), "{ready}");
    let served = served.wait_for_log("the database is open").await;
    served.wait_until_ready().await;
    assert_eq!(value(&served.path("groups.db"), "SELECT count(*) FROM live_groups").await, "5");
    served.crawl_again().await.stop_and_assert("complete complete", "8").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crawl_whose_database_is_deleted_is_not_complete_and_is_repeated_with_the_next_file() {
    let served = Served::new().await;
    let second_request = served.cli.api.requests().last().unwrap().number + 2;
    let held = served.cli.api.hold(At::Request(second_request));
    served.service.signal(Signal::USR1);
    held.reached().await;
    fs::remove_file(served.path("groups.db")).unwrap();
    assert!(served.readiness().await.starts_with("503"));
    held.release();
    let served = served.wait_for_log("cannot write to the database").await;
    assert!(!served.path("groups.db").exists());
    fs::rename(served.path("copy.db"), served.path("groups.db")).unwrap();
    let served = served.wait_for_log("crawl complete").await;
    served.stop_and_assert("complete complete", "5").await;
}

/// Two processes crawl an app at once because the lock file was removed. The first one is fenced
/// and writes nothing more.
#[tokio::test]
async fn a_crawl_whose_lock_file_is_removed_writes_nothing_once_another_one_has_begun() {
    const REQUESTS: u64 = 5;
    for request in 1..=REQUESTS {
        let harness = Harness::on(Engine::Sqlite).await;
        harness.create("Public", "a b c d");
        harness.create("Private", "e");
        assert_eq!(outcome(&harness.crawl().await), "complete");
        assert_eq!(harness.requests_so_far(), REQUESTS);
        harness.dissolve("a");
        harness.create("Public", "f");
        let (first, second) = (harness.new_crawler(), harness.new_crawler());
        let never = CancellationToken::new();
        let held = harness.api.hold(At::Request(harness.request(request)));
        let removing = async {
            held.reached().await;
            let Location::Sqlite(folder) = &harness.db.location else { unreachable!("it is on SQLite") };
            fs::remove_file(folder.path().join("groups.db.app-1400000000.lock")).unwrap();
            let report = second.crawl(ON_COMMAND, WhenBusy::GiveUp, &never).await.unwrap();
            assert_eq!(outcome(&report), "complete", "request {request}");
            held.release();
        };
        let (fenced, ()) = tokio::join!(first.crawl(ON_COMMAND, WhenBusy::GiveUp, &never), removing);
        assert!(
            matches!(fenced, Err(CrawlError::Store(StoreError::Fenced { .. }))),
            "request {request}: {fenced:?}"
        );
        harness.assert_table_matches_api().await;
        harness.assert_invariants().await;
        let crawls = harness.lines("SELECT status FROM crawls ORDER BY crawl_id").await;
        assert_eq!(crawls, ["complete", "failed", "complete"], "request {request}");
        harness.crawl().await;
        harness.assert_table_matches_api().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn concurrent_commands_wait_for_each_other() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 5);
    assert_eq!(cli.run(&["crawl"]).await.code, Some(0));
    let commands = number("CONCURRENT_COMMANDS", 1_000, 60);
    let mut running = tokio::task::JoinSet::new();
    let mut ended = 0;
    for n in 0..commands {
        let mut command = match n % 3 {
            0 => cli.command(&["migrate"]),
            1 => cli.command(&["status"]),
            _ => cli.command(&["approve", "--crawl", "17"]),
        };
        running.spawn_blocking(move || command.output().unwrap());
        while running.len() >= 8 || (n + 1 == commands && !running.is_empty()) {
            let output = running.join_next().await.unwrap().unwrap();
            let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(
                output.status.code() != Some(75) && !stderr.contains("is locked"),
                "{:?}: {stderr}",
                output.status
            );
            ended += 1;
        }
    }
    assert_eq!(ended, commands);
    assert_eq!(value(&cli.path("groups.db"), "PRAGMA integrity_check").await, "ok");
}

/// Kills a command at a random moment, also while it opens or closes the database.
#[tokio::test(flavor = "multi_thread")]
async fn a_kill_at_any_moment_of_a_command_leaves_no_rollback_journal_and_every_side_file() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 5);
    assert_eq!(cli.run(&["crawl"]).await.code, Some(0));
    let began = Instant::now();
    assert_eq!(cli.run(&["migrate"]).await.code, Some(0));
    let (took, mut random) = (began.elapsed(), rand::rng());
    for _ in 0..number("KILLED_COMMANDS", 1_000, 25) {
        let mut command = cli.command(&["migrate"]);
        let mut child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        tokio::time::sleep(took.mul_f64(random.random_range(0.0..1.2))).await;
        child.kill().unwrap();
        child.wait().unwrap();
        assert_eq!(files(cli.folder.path()), ["groups.db", "groups.db-shm", "groups.db-wal"]);
    }
    assert_eq!(cli.run(&["crawl"]).await.code, Some(0));
    assert_eq!(value(&cli.path("groups.db"), "PRAGMA integrity_check").await, "ok");
}

/// A script that runs a command with only the folder of the database writable, as in a container
/// with a read-only root.
const READ_ONLY_ROOT: &str = "
data=$1; shift
for folder in /tmp /var/tmp /usr/tmp /dev/shm; do ! [ -d $folder ] || mount --bind $folder $folder; done
mount --bind \"$data\" \"$data\"
for folder in /tmp /var/tmp /usr/tmp /dev/shm; do ! [ -d $folder ] || mount -o remount,bind,ro $folder; done
cd /tmp
exec \"$@\"";

async fn run_on_a_read_only_root(cli: &CliHarness, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new("unshare");
    if !rustix::process::geteuid().is_root() {
        command.args(["--user", "--map-root-user"]);
    }
    command.args(["--mount", "sh", "-euc", READ_ONLY_ROOT, "sh"]).arg(cli.folder.path()).arg(program());
    command.args(arguments).env_clear().env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
    command.env("TIM_GROUP_SYNC_CONFIG", cli.path("config.toml"));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    (output.status.code(), String::from_utf8([output.stdout, output.stderr].concat()).unwrap())
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs unshare and the right to mount: tests/run"]
async fn a_program_without_a_folder_for_temporary_files_keeps_them_beside_its_database() {
    let cli = CliHarness::new().await;
    let (code, output) = run_on_a_read_only_root(&cli, &["check"]).await;
    assert_eq!(code, Some(0), "{output}");
    for round in 0..3 {
        cli.api.truth().keys().for_each(|group| assert!(cli.api.dissolve(group), "{group}"));
        cli.api.create_many("Public", 2_000);
        let (code, output) = run_on_a_read_only_root(&cli, &["crawl"]).await;
        assert_eq!(code, Some(0), "round {round}: {output}");
    }
    let gone =
        value(&cli.path("groups.db"), "SELECT count(*) FROM groups WHERE deleted_at IS NOT NULL").await;
    assert_eq!(gone, "4000");
}

#[tokio::test]
async fn check_reports_that_no_temporary_file_can_be_created() {
    let cli = CliHarness::new().await;
    assert_eq!(cli.run(&["crawl"]).await.code, Some(0));
    // File permissions do not bind root.
    let is_root = rustix::process::geteuid().is_root();
    let mode = |path: &Path, mode| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    for name in files(cli.folder.path()) {
        mode(&cli.path(&name), 0o666);
    }
    if is_root {
        chown(cli.path("app.key"), Some(65534), Some(65534)).unwrap();
        for lock in ["app-1400000000", "in-use"] {
            chown(cli.path(&format!("groups.db.{lock}.lock")), Some(65534), Some(65534)).unwrap();
        }
    }
    mode(cli.folder.path(), 0o555);
    let mut command = Command::new(if is_root { "setpriv" } else { "env" });
    if is_root {
        command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]);
    }
    command.arg(program()).arg("check").env("TIM_GROUP_SYNC_CONFIG", cli.path("config.toml"));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    mode(cli.folder.path(), 0o755);
    let stdout = String::from_utf8(output.stdout).unwrap();
    assert!(
        output.status.code() == Some(1) && stdout.contains("no temporary file can be created in"),
        "{stdout}"
    );
}
