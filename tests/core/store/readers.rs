//! Other users read the SQLite file with their own programs, here SQLite's shell. They have only
//! read permission for the file and its side files. They can read while the program runs, after it
//! has stopped, and after it was killed.

use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::PathBuf;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::time::Duration;

use harness::program::Service;
use rustix::process::Signal;
use tempfile::TempDir;
use tim_group_sync::simulator::{At, KEY, Settings, Simulator};
use tim_group_sync::store::{DatabaseLocation, Store};
use tokio::time::timeout;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tim-group-sync");
const READ: &str = "SELECT count(*) FROM crawls;";
const ALL_FILES: [&str; 3] = ["groups.db", "groups.db-shm", "groups.db-wal"];

/// A folder with the database, which only its owner may write.
struct DatabaseFolder {
    folder: TempDir,
}

impl DatabaseFolder {
    fn new() -> Self {
        let folder = Self { folder: tempfile::tempdir().unwrap() };
        folder.allow(0o755, 0o644);
        folder
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn file(&self) -> PathBuf {
        self.path("groups.db")
    }

    /// Sets the modes of the folder and its files. Unless the tests run as root, the reader is the
    /// owner, so the owner's permissions apply.
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
        let store = Store::open(&DatabaseLocation::Sqlite(self.file())).await.unwrap();
        store.migrate().await.unwrap();
        store
    }

    /// Opens the file as a user without write permission for the file and its folder.
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
        let mut shell =
            piped.stderr(Stdio::piped()).spawn().expect("the sqlite3 shell is installed by tests/run");
        let (input, answers) = (shell.stdin.take(), BufReader::new(shell.stdout.take().unwrap()));
        Reader { shell, input, answers }
    }

    /// Opens the file and runs one query.
    fn read(&self) -> String {
        let read = self.reader().query(READ);
        self.allow(0o755, 0o644);
        let (reader, answer) = read.unwrap_or_else(|error| panic!("{error}; there are {:?}", self.files()));
        reader.close();
        answer
    }
}

/// An sqlite3 shell that has the file open.
struct Reader {
    shell: Child,
    input: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
}

impl Reader {
    fn query(mut self, sql: &str) -> Result<(Self, String), String> {
        writeln!(self.input.as_mut().unwrap(), "{sql}").unwrap();
        let mut answer = String::new();
        if self.answers.read_line(&mut answer).unwrap() == 0 {
            let error = self.shell.wait_with_output().unwrap().stderr;
            return Err(String::from_utf8(error).unwrap());
        }
        Ok((self, answer.trim_end().to_owned()))
    }

    fn close(mut self) {
        drop(self.input.take());
        assert!(self.shell.wait().unwrap().success());
    }
}

/// A program that crawls into the folder's database.
struct CrawlingProgram {
    folder: DatabaseFolder,
    api: Simulator,
}

impl CrawlingProgram {
    async fn new() -> Self {
        let (folder, api) = (DatabaseFolder::new(), Simulator::start(Settings::default()).await.unwrap());
        std::fs::write(folder.path("app.key"), KEY).unwrap();
        let config = format!(
            "[database]\nurl = \"sqlite:groups.db\"\n[metrics]\nlisten = \"\"\n[dashboard]\nlisten = \"\"\n\
             [apps.prod]\nsdk_app_id = 1400000000\nsecret_key_file = \"app.key\"\nbase_url = \"{}\"\n\
             request_interval = \"0s\"\n",
            api.base_url()
        );
        std::fs::write(folder.path("config.toml"), config).unwrap();
        Self { folder, api }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        command.args(arguments).env_clear().env("TIM_GROUP_SYNC_CONFIG", self.folder.path("config.toml"));
        command
    }

    /// Runs a command to its end and returns its exit code.
    async fn run(&self, arguments: &[&str]) -> Option<i32> {
        let mut command = self.command(arguments);
        command.stderr(Stdio::null());
        tokio::task::spawn_blocking(move || command.status().unwrap().code()).await.unwrap()
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the sqlite3 shell: tests/run"]
async fn a_reader_without_write_access_reads_while_the_service_runs_after_it_stopped_and_after_a_kill() {
    let program = CrawlingProgram::new().await;
    let service = Service::spawn(program.command(&["run"])).wait_for_log("crawl complete").await;
    assert_eq!(program.folder.read(), "1");
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(program.folder.files(), ALL_FILES);
    assert_eq!(std::fs::metadata(program.folder.path("groups.db-wal")).unwrap().len(), 0);
    assert_eq!(program.folder.read(), "1");

    let service = Service::spawn(program.command(&["run"])).wait_for_log("started").await;
    let held = program.api.hold(At::Requests(1..=u64::MAX));
    service.signal(Signal::USR1);
    held.reached().await;
    service.kill();
    assert_eq!(program.folder.files(), ALL_FILES);
    assert_eq!(program.folder.read(), "2");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the sqlite3 shell: tests/run"]
async fn a_reader_without_write_access_reads_after_every_command() {
    let program = CrawlingProgram::new().await;
    let commands: [(&[&str], i32, &str); 4] = [
        (&["crawl"], 0, "1"),
        (&["migrate"], 0, "1"),
        (&["approve", "--crawl", "17"], 1, "1"),
        (&["crawl"], 0, "2"),
    ];
    for (arguments, code, crawls_made) in commands {
        assert_eq!(program.run(arguments).await, Some(code), "{arguments:?}");
        assert_eq!(program.folder.files(), ALL_FILES, "{arguments:?}");
        assert_eq!(program.folder.read(), crawls_made, "{arguments:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs the sqlite3 shell: tests/run"]
async fn a_reader_in_a_transaction_does_not_prevent_starting_crawling_and_stopping() {
    let program = CrawlingProgram::new().await;
    assert_eq!(program.run(&["crawl"]).await, Some(0));
    let (reader, _) = program.folder.reader().query(&format!("BEGIN; {READ}")).unwrap();
    program.folder.allow(0o755, 0o644);
    let service = Service::spawn(program.command(&["run"])).wait_for_log("started").await;
    service.signal(Signal::USR1);
    let service = service.wait_for_log("crawl complete").await;
    let (reader, answer) = reader.query(READ).unwrap();
    assert_eq!(answer, "1", "the transaction reads a snapshot");
    let service = {
        service.signal(Signal::TERM);
        service.wait_for_log("a reader has a transaction open, so the newest changes stay in").await
    };
    assert_eq!(service.wait_for_exit().await, Some(0));
    assert_eq!(program.folder.read(), "2");
    reader.close();
    assert_eq!(program.folder.read(), "2");
}

#[tokio::test]
#[ignore = "needs the sqlite3 shell: tests/run"]
async fn a_second_program_that_ends_does_not_remove_the_side_files() {
    let folder = DatabaseFolder::new();
    let store = folder.open().await;
    timeout(Duration::from_secs(2), folder.open().await.close()).await.unwrap();
    assert_eq!(folder.files(), ALL_FILES);
    store.check_migrated().await.unwrap();
    assert_eq!(folder.read(), "0");
}
