//! People read the SQLite file with programs of their own, as users who may read it and nothing else: while the program
//! works, after it stopped, and after it was killed. The reader here is SQLite's own shell.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use tempfile::TempDir;
use tim_group_sync::simulator::{At, KEY, Settings, Simulator};
use tim_group_sync::store::{DatabaseUrl, Store};
use tokio::time::timeout;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tim-group-sync");
const READ: &str = "SELECT count(*) FROM crawls;";

/// A database, and a folder that only its owner writes to.
struct DatabaseFolder {
    folder: TempDir,
}

impl DatabaseFolder {
    fn new() -> Self {
        let folder = Self { folder: tempfile::tempdir().unwrap() };
        folder.allow(0o755, 0o644);
        folder
    }

    fn file(&self) -> PathBuf {
        self.folder.path().join("groups.db")
    }

    /// What the owner may do counts where the tests are not root's, and the reader is the owner, too.
    fn allow(&self, folder: u32, files: u32) {
        let chmod =
            |path, mode| std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
        chmod(self.folder.path().to_owned(), 0o755);
        for name in self.files() {
            chmod(self.folder.path().join(name), files);
        }
        chmod(self.folder.path().to_owned(), folder);
    }

    fn files(&self) -> Vec<String> {
        let entries = self.folder.path().read_dir().unwrap();
        let mut names: Vec<String> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.retain(|name| name.starts_with("groups.db") && !name.contains("lock"));
        names.sort();
        names
    }

    async fn open(&self) -> Store {
        let store = Store::open(&DatabaseUrl::Sqlite(self.file())).await.unwrap();
        store.migrate().await.unwrap();
        store
    }

    /// Begins to read as someone who can change neither the file nor its folder.
    fn reader(&self) -> Reader {
        self.allow(0o555, 0o444);
        let mut command = if std::fs::metadata("/proc/self").is_ok_and(|me| me.uid() == 0) {
            let mut command = Command::new("setpriv");
            command.args(["--reuid", "nobody", "--regid", "nogroup", "--clear-groups", "sqlite3"]);
            command
        } else {
            Command::new("sqlite3")
        };
        let piped = command.arg("-bail").arg(self.file()).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut shell = piped.stderr(Stdio::piped()).spawn().expect("tests/run installs the sqlite3 shell");
        let (asked, answers) = (shell.stdin.take(), BufReader::new(shell.stdout.take().unwrap()));
        Reader { shell, asked, answers }
    }

    /// Reads once.
    fn read(&self) -> String {
        let read = self.reader().asks(READ);
        self.allow(0o755, 0o644);
        let (reader, answer) = read.unwrap_or_else(|error| panic!("{error}; there are {:?}", self.files()));
        reader.leaves();
        answer
    }
}

/// A shell with the file open.
struct Reader {
    shell: Child,
    asked: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Reader {
    fn asks(mut self, sql: &str) -> Result<(Self, String), String> {
        writeln!(self.asked.as_mut().unwrap(), "{sql}").unwrap();
        let mut answer = String::new();
        if self.answers.read_line(&mut answer).unwrap() == 0 {
            let error = self.shell.wait_with_output().unwrap().stderr;
            return Err(String::from_utf8(error).unwrap());
        }
        Ok((self, answer.trim_end().to_owned()))
    }

    fn leaves(mut self) {
        drop(self.asked.take());
        assert!(self.shell.wait().unwrap().success());
    }
}

#[tokio::test]
#[ignore = "needs the sqlite3 shell: tests/run"]
async fn someone_who_may_only_read_reads_while_the_program_works_and_after_it_stopped() {
    let folder = DatabaseFolder::new();
    let store = folder.open().await;
    assert_eq!(folder.read(), "0");
    store.close().await;
    assert_eq!(folder.files(), ["groups.db"]);
    assert_eq!(folder.read(), "0");
}

#[tokio::test]
#[ignore = "needs the sqlite3 shell: tests/run"]
async fn a_reader_keeps_neither_the_program_from_stopping_nor_others_from_reading_after_it() {
    let folder = DatabaseFolder::new();
    let store = folder.open().await;
    let (reader, _) = folder.reader().asks(READ).unwrap();
    folder.allow(0o755, 0o644);
    timeout(Duration::from_secs(2), store.close()).await.unwrap();
    assert_eq!(folder.read(), "0");
    reader.leaves();
    assert_eq!(folder.read(), "0");
}

#[tokio::test]
#[ignore = "needs the sqlite3 shell: tests/run"]
async fn a_second_program_leaves_the_file_as_the_first_needs_it() {
    let folder = DatabaseFolder::new();
    let store = folder.open().await;
    timeout(Duration::from_secs(2), folder.open().await.close()).await.unwrap();
    assert_eq!(folder.files(), ["groups.db", "groups.db-shm", "groups.db-wal"]);
    store.check_migrated().await.unwrap();
    assert_eq!(folder.read(), "0");
}

#[tokio::test]
#[ignore = "needs the sqlite3 shell: tests/run"]
async fn the_program_starts_beside_a_reader_who_has_the_file_open() {
    let folder = DatabaseFolder::new();
    folder.open().await.close().await;
    let (reader, _) = folder.reader().asks(READ).unwrap();
    folder.allow(0o755, 0o644);
    let store = timeout(Duration::from_secs(2), folder.open()).await.unwrap();
    let (reader, answer) = reader.asks(READ).unwrap();
    assert_eq!(answer, "0");
    reader.leaves();
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the sqlite3 shell: tests/run"]
async fn the_program_waits_at_its_start_for_a_reader_in_the_middle_of_a_transaction() {
    let folder = DatabaseFolder::new();
    folder.open().await.close().await;
    let (reader, _) = folder.reader().asks(&format!("BEGIN; {READ}")).unwrap();
    folder.allow(0o755, 0o644);
    let url = DatabaseUrl::Sqlite(folder.file());
    let opening = tokio::spawn(async move { Store::open(&url).await });
    reader.asks(&format!("{READ} COMMIT;")).unwrap().0.leaves();
    opening.await.unwrap().unwrap().close().await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the sqlite3 shell: tests/run"]
async fn someone_who_may_only_read_reads_after_the_program_was_killed_and_after_a_command_that_failed() {
    let folder = DatabaseFolder::new();
    let api = Simulator::start(Settings::default()).await.unwrap();
    let held = api.hold(At::Request(1));
    std::fs::write(folder.folder.path().join("app.key"), KEY).unwrap();
    let config = format!(
        "[database]\nurl = \"sqlite:groups.db\"\n\
         [apps.prod]\nsdk_app_id = 1400000000\nsecret_key_file = \"app.key\"\nbase_url = \"{}\"\n",
        api.base_url()
    );
    std::fs::write(folder.folder.path().join("config.toml"), config).unwrap();
    let program = |arguments: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command
            .args(arguments)
            .env_clear()
            .env("TIM_GROUP_SYNC_CONFIG", folder.folder.path().join("config.toml"));
        command.stderr(Stdio::null());
        command
    };
    let mut crawl = program(&["crawl"]).spawn().unwrap();
    held.reached().await;
    crawl.kill().unwrap();
    crawl.wait().unwrap();
    assert_eq!(folder.files(), ["groups.db", "groups.db-shm", "groups.db-wal"]);
    assert_eq!(folder.read(), "1");

    assert_eq!(program(&["approve", "--crawl", "17"]).status().unwrap().code(), Some(1));
    assert_eq!(folder.files(), ["groups.db"]);
    assert_eq!(folder.read(), "1");
}
