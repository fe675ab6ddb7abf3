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

/// The built program.
pub fn program() -> &'static str {
    static PROGRAM: LazyLock<String> = LazyLock::new(|| {
        // cargo names it, unless somebody starts the test binary by hand.
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
    /// How often groups came and went.
    pub round: u32,
}

impl ProgramHarness {
    /// With these lines about its app.
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

    /// With these sections more in its configuration.
    pub fn configure(&self, sections: &str) {
        let file = self.folder.path().join("config.toml");
        let config = std::fs::read_to_string(&file).unwrap();
        std::fs::write(file, config + sections).unwrap();
    }

    pub fn write_secret(&self, file: &str, secret: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let file = self.folder.path().join(file);
        std::fs::write(&file, secret).unwrap();
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Starts a crawl, which gives up if the lease is taken.
    pub fn start(&self) -> Child {
        self.start_by(&[])
    }

    /// The same as the last arguments of another program.
    pub fn start_by(&self, by: &[&str]) -> Child {
        self.spawn(&mut self.words(&[by, &[program(), "crawl", "--no-wait"]].concat()))
    }

    /// One of its commands, with nothing in its environment but where the configuration and the database are.
    pub fn command(&self, arguments: &[&str]) -> Command {
        self.words(&[&[program()], arguments].concat())
    }

    fn words(&self, words: &[&str]) -> Command {
        let url = match &self.harness.db.location {
            Location::Sqlite(folder) => format!("sqlite:{}", folder.path().join("groups.db").display()),
            Location::Postgres(database) => database.url.clone(),
        };
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).current_dir(self.folder.path()).env_clear();
        command.env("TIM_GROUP_SYNC_CONFIG", self.folder.path().join("config.toml"));
        command.env("TIM_GROUP_SYNC_DATABASE_URL", url);
        command
    }

    pub fn spawn(&self, command: &mut Command) -> Child {
        // The program goes by the machine's clock, and so must the API that judges its signatures.
        self.harness.begin_watching();
        self.harness.clock.set(Clock::system().now());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs one of its commands to the end.
    pub async fn run(&self, arguments: &[&str]) -> Ended {
        self.end(&mut self.command(arguments)).await
    }

    pub async fn end(&self, command: &mut Command) -> Ended {
        Ended::from(end_of(self.spawn(command)).await)
    }

    /// All groups and events in the views, which must not block.
    pub async fn visible_state(&self) -> (Vec<String>, Vec<String>) {
        let reading = async { (self.harness.table().await, self.harness.events().await) };
        tokio::time::timeout(Duration::from_secs(10), reading).await.expect("readers wait for nobody")
    }

    pub async fn crawl_and_assert_table(&mut self) {
        let ended = end_of(self.start()).await;
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        self.harness.clock.set(self.harness.clock.now().max(Clock::system().now()));
        self.harness.assert_invariants().await;
        self.harness.assert_table_matches_api().await;
    }
}

/// Of a crawl that finds nothing gone. The last is the closing count.
pub const REQUESTS: u64 = 7;
/// A crawl that finds groups gone asks about them: first those of Public, then those of Private.
pub const REQUESTS_WITH_QUESTIONS: u64 = REQUESTS + 2;

/// A schedule whose tick is so far off that the service crawls only at its start or on a signal.
pub const ONCE_A_YEAR: &str =
    "[schedule]\ncron = \"0 0 1 1 *\"\n[metrics]\nlisten = \"\"\n[dashboard]\nlisten = \"\"\n";

impl ProgramHarness {
    /// With seven and four groups at the API.
    pub fn with_groups(harness: Harness) -> Self {
        let program = Self::new(harness, "page_limit = 3\ngroup_types = [\"Public\", \"Private\"]\n");
        (0..7).for_each(|n| program.harness.create("Public", &format!("public-{n}")));
        (0..4).for_each(|n| program.harness.create("Private", &format!("private-{n}")));
        program
    }

    /// With seven and four groups that were crawled once.
    pub async fn crawled_once(harness: Harness) -> Self {
        let mut program = Self::with_groups(harness);
        program.crawl_and_assert_table().await;
        assert_eq!(program.harness.requests_so_far(), REQUESTS);
        program
    }

    /// Dissolves one group of each type and creates another.
    pub fn churn(&mut self) {
        let n = self.round;
        self.round += 1;
        self.harness.dissolve(&format!("public-{n} private-{n}"));
        self.harness.create("Public", &format!("public-{}", n + 7));
        self.harness.create("Private", &format!("private-{}", n + 4));
    }

    /// Asserts that the crawl after a kill closes the killed one and brings the table up to date.
    pub async fn recovers(&mut self) {
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
    /// The service, which has crawled once and waits to be told to crawl again.
    pub async fn served(&self) -> Service {
        self.configure(ONCE_A_YEAR);
        Service::start(self).says("crawl complete").await
    }

    /// Makes the service crawl once for each of its requests, with this disturbance before the request is answered. A
    /// disturbance while the crawl reads the table may fail that crawl, but not the next.
    pub async fn survives(&mut self, trouble: impl AsyncFn()) {
        let mut service = self.served().await;
        for request in 1..=REQUESTS_WITH_QUESTIONS {
            self.churn();
            let held = self.harness.api.hold(At::Request(self.harness.request(request)));
            service.signal(Signal::USR1);
            service.until(held.reached()).await;
            trouble().await;
            held.release();
            let crawled = service.ends_a_crawl().await;
            self.harness.clock.set(self.harness.clock.now().max(Clock::system().now()));
            self.harness.assert_invariants().await;
            if !crawled {
                service.signal(Signal::USR1);
                service = service.says("crawl complete").await;
            }
            self.harness.assert_table_matches_api().await;
        }
        assert_eq!(service.stop().await, Some(0));
        let new = "SELECT count(*) FROM group_events WHERE event = 'appeared'";
        assert_eq!(self.harness.value(new).await, (2 * self.round).to_string());
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Ended {
    pub code: Option<i32>,
    /// What it wrote, results and messages.
    pub said: String,
}

impl From<Output> for Ended {
    fn from(output: Output) -> Self {
        let said = String::from_utf8([output.stdout, output.stderr].concat()).unwrap();
        Self { code: output.status.code(), said }
    }
}

pub async fn end_of(child: Child) -> Output {
    tokio::task::spawn_blocking(move || child.wait_with_output().unwrap()).await.unwrap()
}

/// Sends SIGKILL and waits for the end of the process.
pub fn kill(mut child: Child) {
    child.kill().unwrap();
    assert_eq!(child.wait().unwrap().code(), None);
}

/// The service, with its log lines. It ends with this.
pub struct Service {
    process: Child,
    lines: UnboundedReceiver<String>,
    /// What it has said until now.
    log: String,
}

impl Service {
    /// How long to wait for a log line.
    const PATIENCE: Duration = Duration::from_secs(60);

    pub fn start(program: &ProgramHarness) -> Self {
        Self::of(program.spawn(&mut program.command(&["run"])))
    }

    /// What this command starts: the service, or another one with log lines.
    pub fn by(mut command: Command) -> Self {
        Self::of(command.stderr(Stdio::piped()).spawn().unwrap())
    }

    pub fn of(mut process: Child) -> Self {
        let log = BufReader::new(process.stderr.take().unwrap());
        let (sender, lines) = unbounded_channel();
        // Ends with the process, whoever listens.
        std::thread::spawn(move || log.lines().map_while(Result::ok).try_for_each(|line| sender.send(line)));
        Self { process, lines, log: String::new() }
    }

    /// Waits for a line with this text.
    pub async fn says(mut self, text: &str) -> Self {
        self.says_one_of(&[text]).await;
        self
    }

    /// Waits for a line with this text, and returns it.
    pub async fn says_line(mut self, text: &str) -> (Self, String) {
        let line = self.says_one_of(&[text]).await;
        (self, line)
    }

    /// Waits for the end of a crawl, and tells whether it is complete.
    pub async fn ends_a_crawl(&mut self) -> bool {
        self.says_one_of(&["crawl complete", "crawl failed"]).await.contains("crawl complete")
    }

    async fn says_one_of(&mut self, texts: &[&str]) -> String {
        let listening = async {
            while let Some(line) = self.lines.recv().await {
                self.log.extend([&line, "\n"]);
                if texts.iter().any(|text| line.contains(text)) {
                    return Some(line);
                }
            }
            None
        };
        let found = tokio::time::timeout(Self::PATIENCE, listening).await.ok().flatten();
        found.unwrap_or_else(|| panic!("the service did not say {texts:?}:\n{}", self.log))
    }

    /// Waits for what the service is about to bring about.
    pub async fn until(&mut self, event: impl Future<Output = ()>) {
        if tokio::time::timeout(Self::PATIENCE, event).await.is_err() {
            let said: Vec<String> = std::iter::from_fn(|| self.lines.try_recv().ok()).collect();
            panic!("the service did not do it:\n{}{}", self.log, said.join("\n"));
        }
    }

    /// All that it has said until the line that was waited for last.
    pub fn log(&self) -> &str {
        &self.log
    }

    pub fn signal(&self, signal: Signal) {
        kill_process(Pid::from_child(&self.process), signal).unwrap();
    }

    pub fn kill(self) {
        drop(self);
    }

    /// Tells it to stop, and returns the code it ends with.
    pub async fn stop(self) -> Option<i32> {
        self.signal(Signal::TERM);
        self.ends().await
    }

    /// Waits for its end, and returns the code.
    pub async fn ends(mut self) -> Option<i32> {
        let ending = async {
            while let Some(line) = self.lines.recv().await {
                self.log.extend([&line, "\n"]);
            }
        };
        let in_time = tokio::time::timeout(Self::PATIENCE, ending).await.is_ok();
        assert!(in_time, "the service did not end:\n{}", self.log);
        self.process.wait().unwrap().code()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        // Fails if it has ended by itself.
        let _ = self.process.kill();
        self.process.wait().unwrap();
    }
}
