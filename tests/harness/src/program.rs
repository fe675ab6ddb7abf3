//! The program as a process, configured for the API and the database of a world.

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

use crate::crawl::World;
use crate::store::Place;

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

/// A world with a folder in which the program's configuration is.
pub struct Installed {
    pub world: World,
    pub folder: TempDir,
    /// How often groups came and went.
    pub round: u32,
}

impl Installed {
    /// With these lines about its app.
    pub fn new(world: World, app: &str) -> Self {
        let installed = Self { world, folder: tempfile::tempdir().unwrap(), round: 0 };
        installed.write_secret("app.key", KEY);
        let config = format!(
            "[apps.prod]\nsdk_app_id = 1400000000\nsecret_key_file = \"app.key\"\nbase_url = \"{}\"\n\
             request_interval = \"0s\"\n{app}[deletion]\nmax_fraction = 1.0\n",
            installed.world.api.base_url()
        );
        std::fs::write(installed.folder.path().join("config.toml"), config).unwrap();
        installed
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

    /// Makes a crawl, which gives up if somebody holds the lease yet.
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
        let url = match &self.world.bench.place {
            Place::Sqlite(folder) => format!("sqlite:{}", folder.path().join("groups.db").display()),
            Place::Postgres(database) => database.url.clone(),
        };
        let mut command = Command::new(words[0]);
        command.args(&words[1..]).current_dir(self.folder.path()).env_clear();
        command.env("TIM_GROUP_SYNC_CONFIG", self.folder.path().join("config.toml"));
        command.env("TIM_GROUP_SYNC_DATABASE_URL", url);
        command
    }

    pub fn spawn(&self, command: &mut Command) -> Child {
        // The program goes by the machine's clock, and so must the API that judges its signatures.
        self.world.begin_watching();
        self.world.clock.set(Clock::system().now());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
    }

    /// Runs one of its commands to the end.
    pub async fn run(&self, arguments: &[&str]) -> Ended {
        self.end(&mut self.command(arguments)).await
    }

    pub async fn end(&self, command: &mut Command) -> Ended {
        Ended::from(end_of(self.spawn(command)).await)
    }

    /// Every group and event, as views show them to whoever does not want to wait.
    pub async fn as_people_see_it(&self) -> (Vec<String>, Vec<String>) {
        let reading = async { (self.world.table().await, self.world.events().await) };
        tokio::time::timeout(Duration::from_secs(10), reading).await.expect("readers wait for nobody")
    }

    pub async fn crawl_to_the_truth(&mut self) {
        let ended = end_of(self.start()).await;
        assert_eq!(ended.status.code(), Some(0), "{ended:?}");
        self.world.clock.set(self.world.clock.now().max(Clock::system().now()));
        self.world.assert_invariants().await;
        self.world.assert_table_is_the_truth().await;
    }
}

/// Of a crawl that finds nothing gone. The last is the closing count.
pub const REQUESTS: u64 = 7;
/// A crawl that finds groups gone asks about them: first those of Public, then those of Private.
pub const REQUESTS_WITH_QUESTIONS: u64 = REQUESTS + 2;

/// With a tick so far off that what the service crawls, it crawls because it starts or is told to.
pub const ONCE_A_YEAR: &str =
    "[schedule]\ncron = \"0 0 1 1 *\"\n[metrics]\nlisten = \"\"\n[dashboard]\nlisten = \"\"\n";

impl Installed {
    /// With seven and four groups.
    pub fn with_groups(world: World) -> Self {
        let installed = Self::new(world, "page_limit = 3\ngroup_types = [\"Public\", \"Private\"]\n");
        (0..7).for_each(|n| installed.world.create("Public", &format!("public-{n}")));
        (0..4).for_each(|n| installed.world.create("Private", &format!("private-{n}")));
        installed
    }

    /// The same, crawled once.
    pub async fn crawled_once(world: World) -> Self {
        let mut installed = Self::with_groups(world);
        installed.crawl_to_the_truth().await;
        assert_eq!(installed.world.requests_so_far(), REQUESTS);
        installed
    }

    /// One group of each type goes, and one comes.
    pub fn churn(&mut self) {
        let n = self.round;
        self.round += 1;
        self.world.dissolve(&format!("public-{n} private-{n}"));
        self.world.create("Public", &format!("public-{}", n + 7));
        self.world.create("Private", &format!("private-{}", n + 4));
    }

    /// What a crawl finds that comes after a kill.
    pub async fn is_made_up_for(&mut self) {
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

impl Installed {
    /// The service, which has crawled once and waits to be told to crawl again.
    pub async fn served(&self) -> Service {
        self.configure(ONCE_A_YEAR);
        Service::start(self).says("crawl complete").await
    }

    /// Lets the service crawl once for each of its requests, with this trouble before the request is answered. Trouble while
    /// it reads the table may cost it that crawl, but not the next.
    pub async fn survives(&mut self, trouble: impl AsyncFn()) {
        let mut service = self.served().await;
        for request in 1..=REQUESTS_WITH_QUESTIONS {
            self.churn();
            let held = self.world.api.hold(At::Request(self.world.request(request)));
            service.signal(Signal::USR1);
            service.until(held.reached()).await;
            trouble().await;
            held.release();
            let crawled = service.ends_a_crawl().await;
            self.world.clock.set(self.world.clock.now().max(Clock::system().now()));
            self.world.assert_invariants().await;
            if !crawled {
                service.signal(Signal::USR1);
                service = service.says("crawl complete").await;
            }
            self.world.assert_table_is_the_truth().await;
        }
        assert_eq!(service.stop().await, Some(0));
        let new = "SELECT count(*) FROM group_events WHERE event = 'appeared'";
        assert_eq!(self.world.value(new).await, (2 * self.round).to_string());
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

/// SIGKILL; returns when the process is no more.
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
    /// Longer than anything takes that it says.
    const PATIENCE: Duration = Duration::from_secs(60);

    pub fn start(installed: &Installed) -> Self {
        Self::of(installed.spawn(&mut installed.command(&["run"])))
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
