//! The program itself in trouble: killed with SIGKILL at every request and inside the transaction that concludes a crawl,
//! with a disk that is full, with a file that it may not write.

use std::process::{Child, Command, Output, Stdio};

use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::sqlite::SqliteConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _};
use tempfile::TempDir;
use tim_group_sync::clock::Clock;
use tim_group_sync::simulator::{At, KEY};

use crate::support::{Engine, World, on_every_engine};
use crate::support_engines::{Bench, Place};

on_every_engine! {
    a_program_killed_at_any_request_is_made_up_for_by_the_next,
    a_program_killed_while_it_concludes_has_concluded_nothing,
}

const PROGRAM: &str = env!("CARGO_BIN_EXE_tim-group-sync");
const REQUESTS: u64 = 7;

/// The program, configured for the API and the database of a world.
struct Installed {
    world: World,
    folder: TempDir,
    round: u32,
}

impl Installed {
    /// With seven and four groups, crawled once.
    async fn crawled_once(world: World) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let folder = tempfile::tempdir().unwrap();
        let key = folder.path().join("app.key");
        std::fs::write(&key, KEY).unwrap();
        std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o600)).unwrap();
        let config = format!(
            "[apps.prod]\nsdk_app_id = 1400000000\nsecret_key_file = \"app.key\"\nbase_url = \"{}\"\n\
             request_interval = \"0s\"\npage_limit = 3\ngroup_types = [\"Public\", \"Private\"]\n\
             [deletion]\nmax_fraction = 1.0\n",
            world.api.base_url()
        );
        std::fs::write(folder.path().join("config.toml"), config).unwrap();
        (0..7).for_each(|n| world.create("Public", &format!("public-{n}")));
        (0..4).for_each(|n| world.create("Private", &format!("private-{n}")));
        let mut installed = Self { world, folder, round: 0 };
        installed.crawl_to_the_truth().await;
        assert_eq!(installed.world.requests_so_far(), REQUESTS);
        installed
    }

    /// One group of each type goes, and one comes.
    fn churn(&mut self) {
        let n = self.round;
        self.round += 1;
        self.world.dissolve(&format!("public-{n} private-{n}"));
        self.world.create("Public", &format!("public-{}", n + 7));
        self.world.create("Private", &format!("private-{}", n + 4));
    }

    fn start(&self) -> Child {
        self.start_by(&[])
    }

    /// Starts the program as the last argument of another one.
    fn start_by(&self, by: &[&str]) -> Child {
        // The program goes by the machine's clock, and so must the API that judges its signatures.
        self.world.begin_watching();
        self.world.clock.set(Clock::system().now());
        let url = match &self.world.bench.place {
            Place::Sqlite(folder) => format!("sqlite:{}", folder.path().join("groups.db").display()),
            Place::Postgres(database) => database.url.clone(),
        };
        // Whoever holds the lease yet would make it give up.
        let words = [by, &[PROGRAM, "crawl", "--no-wait"]].concat();
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).current_dir(self.folder.path()).env_clear();
        command.env("TIM_GROUP_SYNC_CONFIG", self.folder.path().join("config.toml"));
        command.env("TIM_GROUP_SYNC_DATABASE_URL", url);
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    async fn crawl_to_the_truth(&mut self) {
        let ended = end_of(self.start()).await;
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        self.world.clock.set(self.world.clock.now().max(Clock::system().now()));
        self.world.assert_invariants().await;
        self.world.assert_table_is_the_truth().await;
    }

    /// What a crawl finds that comes after a kill.
    async fn is_made_up_for(&mut self) {
        self.world.bench.let_leases_run_out().await;
        let last = "SELECT status FROM crawls ORDER BY crawl_id DESC LIMIT 1";
        assert_eq!(self.world.value(last).await, "running");
        self.world.clock.set(self.world.clock.now().max(Clock::system().now()));
        self.world.assert_rows_are_sound().await;
        let killed = self.world.value("SELECT max(crawl_id) FROM crawls").await;
        self.churn();
        self.crawl_to_the_truth().await;
        let closed = format!("SELECT status, reason_code, vanished FROM crawls WHERE crawl_id = {killed}");
        assert_eq!(self.world.lines(&closed).await, ["failed process_ended 0"]);
        let new = "SELECT count(*) FROM group_events WHERE event = 'appeared'";
        assert_eq!(self.world.value(new).await, (2 * self.round).to_string());
        if let Place::Sqlite(_) = self.world.bench.place {
            assert_eq!(self.world.value("PRAGMA integrity_check").await, "ok");
        }
    }
}

async fn end_of(child: Child) -> Output {
    tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap()
}

/// SIGKILL; returns when the process is no more.
fn kill(mut child: Child) {
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().code(), None);
}

async fn a_program_killed_at_any_request_is_made_up_for_by_the_next(world: World) {
    let mut installed = Installed::crawled_once(world).await;
    for request in 1..=REQUESTS {
        installed.churn();
        let held = installed.world.api.hold(At::Request(installed.world.request(request)));
        let child = installed.start();
        held.reached().await;
        kill(child);
        drop(held);
        installed.is_made_up_for().await;
    }
}

async fn a_program_killed_while_it_concludes_has_concluded_nothing(world: World) {
    let mut installed = Installed::crawled_once(world).await;
    installed.churn();
    // By the closing count everything that was listed is written.
    let held = installed.world.api.hold(At::Request(installed.world.request(REQUESTS)));
    let child = installed.start();
    held.reached().await;
    match &installed.world.bench.place {
        Place::Sqlite(folder) => {
            // The first group that is marked deleted takes for ever, in the middle of the transaction.
            let url = installed.world.bench.url();
            let endless = "CREATE VIEW endless AS WITH RECURSIVE c (x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT x FROM c;
                           CREATE TRIGGER endlessly AFTER UPDATE ON group_row BEGIN SELECT count(*) FROM endless; END";
            Bench::execute(&url, endless).await;
            drop(held);
            let file = SqliteConnectOptions::new().filename(folder.path().join("groups.db"));
            let mut other = file.busy_timeout(std::time::Duration::ZERO).connect().await.unwrap();
            while other.execute("BEGIN IMMEDIATE").await.is_ok() {
                other.execute("ROLLBACK").await.unwrap();
                tokio::task::yield_now().await;
            }
            kill(child);
            other.close().await.unwrap();
            Bench::execute(&url, "DROP TRIGGER endlessly; DROP VIEW endless").await;
        }
        Place::Postgres(database) => {
            let options = database.url.parse::<PgConnectOptions>().unwrap();
            let mut other: PgConnection = options.connect().await.unwrap();
            other.execute("BEGIN; LOCK TABLE tim_private.group_row IN SHARE MODE").await.unwrap();
            drop(held);
            let waiting = "SELECT count(*) FROM pg_locks
                           WHERE NOT granted AND relation = 'tim_private.group_row'::regclass";
            while installed.world.value(waiting).await == "0" {
                tokio::task::yield_now().await;
            }
            kill(child);
            other.close().await.unwrap();
        }
    }
    installed.is_made_up_for().await;
}

/// What becomes of a SQLite file does not depend on where the file ends that may not grow: files may have so many KiB.
#[tokio::test]
async fn a_program_whose_disk_is_full_loses_nothing_and_goes_on_when_there_is_room() {
    let mut installed = Installed::crawled_once(World::on(Engine::Sqlite).await).await;
    let (mut failures, mut room) = (0, 64);
    loop {
        // Enough to outgrow what there is, and something that has to be marked.
        installed.churn();
        for n in 0..500 {
            installed.world.create("Public", &format!("room-for-{room}-{n:0>100}"));
        }
        // Each of these files has to fit: the database, its log, and the log's index.
        let limited = format!("trap '' XFSZ; ulimit -f {}; exec \"$@\"", 2 * room);
        let ended = end_of(installed.start_by(&["sh", "-c", &limited, "sh"])).await;
        installed.world.clock.set(installed.world.clock.now().max(Clock::system().now()));
        installed.world.assert_rows_are_sound().await;
        assert_eq!(installed.world.value("PRAGMA integrity_check").await, "ok", "{room} KiB");
        if ended.status.success() {
            break;
        }
        let said = String::from_utf8([ended.stdout, ended.stderr].concat()).unwrap();
        assert!(ended.status.code() == Some(1) && said.contains("is full or broken"), "{room} KiB: {said}");
        (failures, room) = (failures + 1, 2 * room);
        installed.crawl_to_the_truth().await;
    }
    assert!(failures > 2, "{failures}");
    installed.crawl_to_the_truth().await;
}

#[tokio::test]
async fn a_program_that_may_not_write_its_file_says_so_and_changes_nothing() {
    use std::os::unix::fs::{PermissionsExt as _, chown};
    let mut installed = Installed::crawled_once(World::on(Engine::Sqlite).await).await;
    let Place::Sqlite(folder) = &installed.world.bench.place else { unreachable!("it is on SQLite") };
    let folder = folder.path().to_owned();
    let may = |folder_mode, file_mode| {
        let file = folder.join("groups.db");
        std::fs::set_permissions(file, std::fs::Permissions::from_mode(file_mode)).unwrap();
        std::fs::set_permissions(&folder, std::fs::Permissions::from_mode(folder_mode)).unwrap();
    };
    // What is not allowed is allowed to root all the same.
    let is_root = rustix::process::geteuid().is_root();
    let as_nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];
    if is_root {
        for folder in [&folder, installed.folder.path()] {
            for path in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
                chown(path, Some(65534), Some(65534)).unwrap();
            }
            chown(folder, Some(65534), Some(65534)).unwrap();
        }
    }
    let before = installed.world.table().await;
    installed.churn();
    may(0o500, 0o400);
    let ended = end_of(installed.start_by(if is_root { &as_nobody } else { &[] })).await;
    may(0o700, 0o600);
    let said = String::from_utf8([ended.stdout, ended.stderr].concat()).unwrap();
    assert!(!ended.status.success() && said.contains("may not be written"), "{:?}: {said}", ended.status);
    assert_eq!(installed.world.table().await, before);
    installed.crawl_to_the_truth().await;
}
