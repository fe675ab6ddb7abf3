//! The program as a process, configured for the API and the database of a harness.

use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tim_group_sync::clock::Clock;
use tim_group_sync::simulator::{At, KEY};
use tokio::sync::mpsc::{UnboundedReceiver, unbounded_channel};

use crate::crawl::Harness;
use crate::store::Location;

/// Returns the path of the built program.
pub fn program() -> &'static str {
    static PROGRAM: LazyLock<String> = LazyLock::new(|| {
        // cargo sets the variable. It is absent if the test binary is started directly.
        std::env::var("CARGO_BIN_EXE_tim-group-sync").unwrap_or_else(|_| {
            let tests = std::env::current_exe().unwrap();
            tests.parent().and_then(Path::parent).unwrap().join("tim-group-sync").display().to_string()
        })
    });
    &PROGRAM
}

/// A harness with a folder that holds the configuration of the program.
pub struct ProgramHarness {
    pub harness: Harness,
    pub folder: TempDir,
    /// The number of calls of [`ProgramHarness::churn`].
    pub round: u32,
}

impl ProgramHarness {
    /// Writes a configuration with these lines in the app's section.
    pub fn new(harness: Harness, app: &str) -> Self {
        let program = Self { harness, folder: tempfile::tempdir().unwrap(), round: 0 };
        program.write_secret("app.key", KEY);
        let config = format!(
            "[apps.prod]\nsdk_app_id = 1400000000\nsecret_key_file = \"app.key\"\nbase_url = \"{}\"\n\
             request_interval = \"0s\"\n{app}[deletion]\nmax_fraction = 1.0\n",
            program.harness.api.base_url()
        );
        std::fs::write(program.folder.path().join("config.toml"), config).unwrap();
        program
    }

    /// Adds sections to the configuration.
    pub fn configure(&self, sections: &str) {
        let file = self.folder.path().join("config.toml");
        let config = std::fs::read_to_string(&file).unwrap();
        std::fs::write(file, config + sections).unwrap();
    }

    /// Replaces the page limit of [`Self::with_groups`].
    pub fn set_page_limit(&self, page_limit: u32) {
        let file = self.folder.path().join("config.toml");
        let config = std::fs::read_to_string(&file).unwrap();
        assert!(config.contains("page_limit = 3\n"), "{config}");
        let page_limit = format!("page_limit = {page_limit}\n");
        std::fs::write(file, config.replace("page_limit = 3\n", &page_limit)).unwrap();
    }

    pub fn write_secret(&self, file: &str, secret: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let file = self.folder.path().join(file);
        std::fs::write(&file, secret).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Starts a crawl, which gives up if the lease is taken.
    pub fn start(&self) -> Child {
        self.start_with(&[])
    }

    /// Starts a crawl through another command, to which the program and its arguments are appended.
    pub fn start_with(&self, wrapper: &[&str]) -> Child {
        self.spawn(&mut self.command_line(&[wrapper, &[program(), "crawl", "--no-wait"]].concat()))
    }

    /// Returns a command of the program. Its environment has only the locations of the
    /// configuration and the database.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.command_line(&[&[program()], arguments].concat())
    }

    fn command_line(&self, arguments: &[&str]) -> Command {
        let url = match &self.harness.db.location {
            Location::Sqlite(folder) => format!("sqlite:{}", folder.path().join("groups.db").display()),
            Location::Postgres(database) => database.url.clone(),
        };
        let mut command = Command::new(arguments[0]);
        command.args(&arguments[1..]).current_dir(self.folder.path()).env_clear();
        command.env("TIM_GROUP_SYNC_CONFIG", self.folder.path().join("config.toml"));
        command.env("TIM_GROUP_SYNC_DATABASE_URL", url);
        command
    }

    pub fn spawn(&self, command: &mut Command) -> Child {
        // The program uses the system clock, so the API must use it too when it checks signatures.
        self.harness.prepare_crawl();
        self.harness.clock.set(Clock::system().now());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs a command and waits until it ends.
    pub async fn run(&self, arguments: &[&str]) -> CombinedOutput {
        self.run_command(&mut self.command(arguments)).await
    }

    pub async fn run_command(&self, command: &mut Command) -> CombinedOutput {
        CombinedOutput::from(wait_for_output(self.spawn(command)).await)
    }

    /// Returns all groups and events of the views. Fails if a reader blocks.
    pub async fn visible_state(&self) -> (Vec<String>, Vec<String>) {
        let reading = async { (self.harness.table().await, self.harness.events().await) };
        tokio::time::timeout(Duration::from_secs(10), reading).await.expect("readers do not block")
    }

    pub async fn crawl_and_assert_table(&mut self) {
        let ended = wait_for_output(self.start()).await;
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        self.harness.clock.set(self.harness.clock.now().max(Clock::system().now()));
        self.harness.assert_invariants().await;
        self.harness.assert_table_matches_api().await;
    }
}

/// The number of requests of a crawl without candidates. The last one is the closing count.
pub const REQUESTS: u64 = 7;
/// The number of requests of a crawl with candidates of both types: one more `get_group_info`
/// request for each type.
pub const REQUESTS_WITH_CANDIDATES: u64 = REQUESTS + 2;

/// A schedule with one tick a year, so that the service crawls only at its start or on a signal.
pub const ONCE_A_YEAR: &str =
    "[schedule]\ncron = \"0 0 1 1 *\"\n[metrics]\nlisten = \"\"\n[dashboard]\nlisten = \"\"\n";

impl ProgramHarness {
    /// Creates seven groups of Public and four of Private.
    pub fn with_groups(harness: Harness) -> Self {
        let program = Self::new(harness, "page_limit = 3\ngroup_types = [\"Public\", \"Private\"]\n");
        (0..7).for_each(|n| program.harness.create("Public", &format!("public-{n}")));
        (0..4).for_each(|n| program.harness.create("Private", &format!("private-{n}")));
        program
    }

    /// Creates seven groups of Public and four of Private, and crawls once.
    pub async fn crawled_once(harness: Harness) -> Self {
        let mut program = Self::with_groups(harness);
        program.crawl_and_assert_table().await;
        assert_eq!(program.harness.requests_so_far(), REQUESTS);
        program
    }

    /// Dissolves one group of each type and creates another one.
    pub fn churn(&mut self) {
        let n = self.round;
        self.round += 1;
        self.harness.dissolve(&format!("public-{n} private-{n}"));
        self.harness.create("Public", &format!("public-{}", n + 7));
        self.harness.create("Private", &format!("private-{}", n + 4));
    }

    /// Asserts that the crawl after a kill closes the killed one and brings the table up to date.
    pub async fn assert_recovery(&mut self) {
        self.harness.db.expire_leases().await;
        let last = "SELECT status FROM crawls ORDER BY crawl_id DESC LIMIT 1";
        assert_eq!(self.harness.value(last).await, "running");
        self.harness.clock.set(self.harness.clock.now().max(Clock::system().now()));
        self.harness.assert_rows_are_consistent().await;
        let killed = self.harness.value("SELECT max(crawl_id) FROM crawls").await;
        self.churn();
        self.crawl_and_assert_table().await;
        let closed = format!("SELECT status, reason_code, vanished FROM crawls WHERE crawl_id = {killed}");
        assert_eq!(self.harness.lines(&closed).await, ["failed process_ended 0"]);
        let new = "SELECT count(*) FROM group_events WHERE event = 'appeared'";
        assert_eq!(self.harness.value(new).await, (2 * self.round).to_string());
        if let Location::Sqlite(_) = self.harness.db.location {
            assert_eq!(self.harness.value("PRAGMA integrity_check").await, "ok");
        }
    }
}

impl ProgramHarness {
    /// Starts the service and waits until it has crawled once.
    pub async fn start_service(&self) -> Service {
        self.configure(ONCE_A_YEAR);
        Service::start(self).wait_for_log("crawl complete").await
    }

    /// Runs one crawl of the service for each request of a crawl, and disturbs the crawl before
    /// that request is answered. The disturbance may fail that crawl, but not the next one.
    pub async fn assert_service_survives(&mut self, disturb: impl AsyncFn()) {
        let mut service = self.start_service().await;
        for request in 1..=REQUESTS_WITH_CANDIDATES {
            self.churn();
            let held = self.harness.api.hold(At::Request(self.harness.request(request)));
            service.signal(Signal::USR1);
            service.wait_for(held.reached()).await;
            disturb().await;
            held.release();
            let crawled = service.wait_for_crawl_end().await;
            self.harness.clock.set(self.harness.clock.now().max(Clock::system().now()));
            self.harness.assert_invariants().await;
            if !crawled {
                service.signal(Signal::USR1);
                service = service.wait_for_log("crawl complete").await;
            }
            self.harness.assert_table_matches_api().await;
        }
        assert_eq!(service.stop().await, Some(0));
        let new = "SELECT count(*) FROM group_events WHERE event = 'appeared'";
        assert_eq!(self.harness.value(new).await, (2 * self.round).to_string());
    }
}

/// Exit code and output of a command.
#[derive(Debug)]
pub struct CombinedOutput {
    pub code: Option<i32>,
    /// stdout, followed by stderr.
    pub output: String,
}

impl From<Output> for CombinedOutput {
    fn from(output: Output) -> Self {
        let text = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        Self { code: output.status.code(), output: text }
    }
}

/// Waits for the end of a process and returns its output. Fails the test and names the command if the
/// process does not end.
pub async fn wait_for_output(child: Child) -> Output {
    const LIMIT: Duration = Duration::from_secs(300);
    let pid = child.id();
    let ended = tokio::task::spawn_blocking(move || child.wait_with_output().unwrap());
    if let Ok(output) = tokio::time::timeout(LIMIT, ended).await {
        return output.unwrap();
    }
    let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
    let _ = kill_process(Pid::from_raw(pid.cast_signed()).unwrap(), Signal::KILL);
    panic!("the process did not end within {LIMIT:?}: {}", command.replace('\0', " "));
}

/// Sends SIGKILL and waits for the end of the process.
pub fn kill(mut child: Child) {
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().code(), None);
}

/// A running service and its log lines. Dropping it kills the process.
pub struct Service {
    process: Child,
    lines: UnboundedReceiver<String>,
    /// All lines read so far.
    log: String,
}

impl Service {
    /// Maximum time to wait for a log line or an event.
    const TIMEOUT: Duration = Duration::from_secs(60);

    pub fn start(program: &ProgramHarness) -> Self {
        Self::from_process(program.spawn(&mut program.command(&["run"])))
    }

    /// Starts a process that logs to stderr: the service or another program.
    pub fn spawn(mut command: Command) -> Self {
        Self::from_process(command.stderr(Stdio::piped()).spawn().unwrap())
    }

    pub fn from_process(mut process: Child) -> Self {
        let log = BufReader::new(process.stderr.take().unwrap());
        let (sender, lines) = unbounded_channel();
        // The thread ends when the process closes its stderr.
        std::thread::spawn(move || log.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { process, lines, log: String::new() }
    }

    /// Waits for a log line that contains this text.
    pub async fn wait_for_log(mut self, text: &str) -> Self {
        self.wait_for_any_log(&[text]).await;
        self
    }

    /// Waits for a log line that contains this text. Also returns the line.
    pub async fn wait_for_log_line(mut self, text: &str) -> (Self, String) {
        let line = self.wait_for_any_log(&[text]).await;
        (self, line)
    }

    /// Waits for the end of a crawl. Returns true if it is complete.
    pub async fn wait_for_crawl_end(&mut self) -> bool {
        self.wait_for_any_log(&["crawl complete", "crawl failed"]).await.contains("crawl complete")
    }

    async fn wait_for_any_log(&mut self, texts: &[&str]) -> String {
        let reading = async {
            while let Some(line) = self.lines.recv().await {
                self.log.extend([&line, "\n"]);
                if texts.iter().any(|text| line.contains(text)) {
                    return Some(line);
                }
            }
            None
        };
        let found = tokio::time::timeout(Self::TIMEOUT, reading).await.ok().flatten();
        found.unwrap_or_else(|| panic!("the service did not log {texts:?}:\n{}", self.log))
    }

    /// Waits for an event that the service causes.
    pub async fn wait_for(&mut self, event: impl Future<Output = ()>) {
        if tokio::time::timeout(Self::TIMEOUT, event).await.is_err() {
            let unread: Vec<String> = std::iter::from_fn(|| self.lines.try_recv().ok()).collect();
            panic!("the expected event did not happen:\n{}{}", self.log, unread.join("\n"));
        }
    }

    /// Returns all log lines up to the last one that was waited for.
    pub fn log(&self) -> &str {
        &self.log
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    pub fn kill(self) {
        drop(self);
    }

    /// Stops the service. Returns its exit code.
    pub async fn stop(self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.wait_for_exit().await
    }

    /// Waits until the service ends. Returns its exit code.
    pub async fn wait_for_exit(mut self) -> Option<i32> {
        let ending = async {
            while let Some(line) = self.lines.recv().await {
                self.log.extend([&line, "\n"]);
            }
        };
        let in_time = tokio::time::timeout(Self::TIMEOUT, ending).await.is_ok();
        assert!(in_time, "the service did not end:\n{}", self.log);
        self.process.wait().unwrap().code()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Fails if the process has already ended.
        let _ = self.process.kill();
        self.process.wait().unwrap();
    }
}
