//! The program as users and scripts see it: commands, output, exit codes.

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;
use tim_group_sync::simulator::{KEY, Settings, Simulator};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

use crate::program::{Service, program};

/// A folder with a configuration and a key, and the simulated API that the configuration names.
pub struct CliHarness {
    pub api: Simulator,
    pub folder: TempDir,
}

impl CliHarness {
    pub async fn new() -> Self {
        let api = Simulator::start(Settings::default()).await.unwrap();
        let cli = Self { api, folder: tempfile::tempdir().unwrap() };
        cli.write_key(KEY);
        cli.configure("");
        cli
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    pub fn write_key(&self, key: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::write(self.path("app.key"), format!("{key}\n")).unwrap();
        std::fs::set_permissions(self.path("app.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Writes the configuration, with these lines added to the app's section.
    pub fn configure(&self, lines: &str) {
        let text = format!(
            "[database]\nurl = \"sqlite:groups.db\"\n[metrics]\nlisten = \"\"\n[dashboard]\nlisten = \"\"\n\
             [apps.prod]\nsdk_app_id = 1400000000\nsecret_key_file = \"app.key\"\nbase_url = \"{}\"\nrequest_interval = \"0s\"\nrequest_timeout = \"2s\"\nretry_for = \"1s\"\n{lines}",
            self.api.base_url()
        );
        std::fs::write(self.path("config.toml"), text).unwrap();
    }

    pub fn service(&self) -> Service {
        Service::spawn(self.command(&["run"]))
    }

    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(program());
        command.args(arguments).current_dir(self.folder.path()).env_clear();
        command.env("TIM_GROUP_SYNC_CONFIG", self.path("config.toml"));
        command
    }

    pub async fn run(&self, arguments: &[&str]) -> CommandOutput {
        let mut command = self.command(arguments);
        // The simulated API runs on this runtime, so the runtime must not be blocked.
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        CommandOutput::from(output)
    }

    pub async fn query(&self, sql: &str) -> String {
        let (database, sql) = (self.path("groups.db"), sql.to_owned());
        rows(&database, &sql).await.iter().map(|row| row.join(" ")).collect::<Vec<_>>().join("\n")
    }
}

/// Exit code and output of a command.
#[derive(Debug)]
pub struct CommandOutput {
    pub code: Option<i32>,
    pub stdout: String,
    pub stderr: String,
}

impl CommandOutput {
    /// Returns `result` of the JSON document that the command printed. Checks that its `exit_code`
    /// is the actual one.
    pub fn result(&self) -> serde_json::Value {
        let mut document: serde_json::Value = serde_json::from_str(&self.stdout).unwrap();
        assert_eq!(document["exit_code"].as_i64(), self.code.map(i64::from), "{self:?}");
        document["result"].take()
    }
}

impl From<Output> for CommandOutput {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// Runs a query on an SQLite file.
pub async fn rows(database: &Path, sql: &str) -> Vec<Vec<String>> {
    use sqlx::{AssertSqlSafe, Row as _};
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(database).read_only(true);
    let pool = sqlx::SqlitePool::connect_with(options).await.unwrap();
    let rows = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).fetch_all(&pool).await.unwrap();
    let text = |row: &sqlx::sqlite::SqliteRow, column| {
        row.try_get_unchecked::<Option<String>, _>(column).unwrap().unwrap_or_default()
    };
    let rows = rows.iter().map(|row| (0..row.len()).map(|column| text(row, column)).collect()).collect();
    pool.close().await;
    rows
}

impl CliHarness {
    /// Changes the configuration so that metrics are served on a port that the system chooses.
    pub fn serve_metrics(&self) {
        let config = std::fs::read_to_string(self.path("config.toml")).unwrap();
        let config = config.replace("[metrics]\nlisten = \"\"", "[metrics]\nlisten = \"127.0.0.1:0\"");
        assert!(config.contains("127.0.0.1:0"), "{config}");
        std::fs::write(self.path("config.toml"), config).unwrap();
    }
}

/// Starts the daemon. Also returns the address at which it serves its metrics.
pub async fn start_with_metrics(command: Command) -> (Service, String) {
    let (daemon, line) = Service::spawn(command).wait_for_log_line("serving /metrics").await;
    let line: serde_json::Value = serde_json::from_str(&line).unwrap();
    (daemon, line["address"].as_str().unwrap().to_owned())
}

/// Sends a GET request. Returns status, headers and body of the answer.
pub async fn get(address: &str, path: &str) -> (String, String, String) {
    let mut connection = TcpStream::connect(address).await.unwrap();
    let request = format!("GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n");
    connection.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    connection.read_to_string(&mut answer).await.unwrap();
    let (head, body) = answer.split_once("\r\n\r\n").unwrap();
    let (first, head) = head.split_once("\r\n").unwrap();
    let status = first.split_once(' ').unwrap().1;
    (status.to_owned(), head.to_ascii_lowercase(), body.to_owned())
}
