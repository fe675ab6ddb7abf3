//! Runs every command of the documentation against a simulated API, in a temporary folder.
//!
//! `NOT_RUN` lists the commands that a test cannot run, each with the reason. docs_in_chinese.rs
//! checks that the Chinese pages have the same blocks, so only those of the English pages are run.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use chrono::TimeDelta;
use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;
use tim_group_sync::clock::Clock;
use tim_group_sync::policy::DeletionPolicy;
use tim_group_sync::simulator::{KEY, Settings, Simulator};

use crate::docs::{Block, Page, pages};
use harness::crawl::{Engine, Harness};
use harness::store::TestDatabase;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tim-group-sync");

/// Prefixes of commands that are not run, and why.
const NOT_RUN: [(&str, &str); 29] = [
    ("cargo install ", "builds everything from scratch and writes to the user's ~/.cargo"),
    ("cargo build ", "builds everything from scratch"),
    ("cargo bench ", "takes minutes and the entire machine"),
    ("benches/at-rest", "takes minutes and the entire machine"),
    ("benches/soak", "takes a quarter of an hour"),
    ("PROPTEST_CASES=", "takes minutes"),
    ("HISTORY_STEPS=", "takes minutes"),
    ("CUTS=", "takes minutes"),
    ("FAULTY_CRAWLS=", "takes hours"),
    ("packaging/build ", "makes a release build; tests/systemd/run does it"),
    ("apt install ", "changes the system; tests/systemd/run does it in a container"),
    ("dnf install ", "changes the system, and needs another system than Debian"),
    ("podman ", "needs a container engine and an image from a registry"),
    ("install -", "writes to /usr and /etc; tests/systemd/run does it in a container"),
    ("mv /etc/", "changes /etc; tests/systemd/run does it in a container"),
    ("chown root:", "needs root; tests/systemd/run does it in a container"),
    ("mkdir -p /etc/", "writes to /etc"),
    ("cp /usr/share/doc/", "exists once the package is installed, and writes to /etc"),
    ("systemd-sysusers", "creates users; tests/systemd/run does it in a container"),
    ("systemd-run ", "needs systemd; tests/systemd/run does it in a container"),
    ("systemctl ", "needs systemd; tests/systemd/run does it in a container"),
    (
        "tim-group-sync copy --to postgres://",
        "needs a server of that name; tests/core/store/transfer.rs does it",
    ),
    (
        "tim-group-sync copy --to sqlite:/var/",
        "writes below /var; tests/core/store/transfer.rs does it elsewhere",
    ),
    ("runuser ", "needs the user of the service; tests/core/cli/notify.rs sends to a receiver"),
    ("usermod ", "needs the users of the service and of the proxy"),
    ("pg_dump ", "needs a server; tests/engines/restored.rs does it"),
    ("pg_restore ", "needs a server; tests/engines/restored.rs does it"),
    ("tim-group-sync man >/usr/", "writes to /usr"),
    ("tim-group-sync completions bash >/etc/", "writes to /etc"),
];

/// Prefixes of commands that are replaced by an equivalent: `init` without prompts, or another
/// address.
const REPLACEMENTS: [(&str, &str); 3] = [
    (
        "tim-group-sync init",
        "rm -rf first; tim-group-sync --config first/config.toml init --sdk-app-id 1400000000 --base-url {api} --secret-key-file prod.key",
    ),
    // With -f, curl fails on an HTTP error.
    ("curl -s ", "curl -sf "),
    ("tim-group-sync simulate", "tim-group-sync simulate --listen {address}:8787"),
];

/// Folders of an installed program, and their replacements.
const FOLDERS: [(&str, &str); 1] = [("/var/lib/tim-group-sync/", "./")];

/// Commands that run until they are stopped, and what they print when they are ready.
const READY: [(&str, &str); 2] = [("run", "\"started\""), ("simulate", "configuration:")];

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs curl and the sqlite3 shell: tests/run"]
async fn every_command_of_the_pages_succeeds() {
    let database = Database::with_17_crawls().await;
    let mut runs = tokio::task::JoinSet::new();
    let shown = pages().into_iter().filter(|page| !page.is_translation());
    for (number, page) in shown.enumerate() {
        let sandbox = Sandbox::new(number, &database).await;
        runs.spawn_blocking(move || sandbox.run_commands(&page));
    }
    let mut not_run = BTreeSet::new();
    for used in runs.join_all().await {
        not_run.extend(used);
    }
    let listed: BTreeSet<&str> = NOT_RUN.iter().map(|(beginning, _)| *beginning).collect();
    assert_eq!(not_run, listed, "NOT_RUN lists commands that no page shows");
}

#[test]
fn every_command_and_option_that_a_sentence_names_exists() {
    let help = |arguments: &[&str]| {
        let output = Command::new(PROGRAM).args(arguments).arg("--help").output().unwrap();
        (output.status.success(), String::from_utf8(output.stdout).unwrap())
    };
    for page in pages() {
        let prose: String = page.text.split("```").step_by(2).collect();
        for named in prose.split('`').skip(1).step_by(2) {
            let Some(arguments) = named.strip_prefix("tim-group-sync ") else { continue };
            let words: Vec<&str> = arguments.split_whitespace().collect();
            let Some(verb) = words.iter().find(|word| word.starts_with(|c: char| c.is_ascii_lowercase()))
            else {
                continue;
            };
            let (is_command, text) = help(&[verb]);
            assert!(is_command, "{}: {named}", page.path);
            for option in words.iter().filter(|word| word.starts_with("--")) {
                assert!(text.contains(option), "{}: {named}", page.path);
            }
        }
    }
}

/// An SQLite file with 17 crawls of the app `prod`. The last one's deletions are withheld.
struct Database {
    folder: TempDir,
    groups: Vec<(String, String)>,
}

impl Database {
    async fn with_17_crawls() -> Self {
        let mut harness = Harness::on(Engine::Sqlite).await;
        harness.page_limit = 10_000;
        harness.deletion = DeletionPolicy { max_fraction: 0.2, min_groups: 100, ..DeletionPolicy::default() };
        // One crawl an hour; the last one is now.
        harness.clock.set(Clock::system().now() - TimeDelta::hours(18));
        harness.create("Public", "@TGS#2J4SZEAEL");
        harness.api.create_many("Private", 400);
        harness.crawl().await;
        harness.api.retype("@TGS#2J4SZEAEL", "Private");
        for _ in 2..=16 {
            harness.crawl().await;
        }
        harness.api.dissolve_some(200);
        let report = harness.crawl().await;
        assert_eq!((report.crawl.0, report.withheld), (17, 200), "{report:?}");
        let folder = tempfile::tempdir().unwrap();
        let copy = format!("VACUUM INTO '{}'", folder.path().join("groups.db").display());
        TestDatabase::execute(&harness.db.store_location(), &copy).await;
        Self { folder, groups: harness.api.truth().into_iter().collect() }
    }
}

/// A temporary folder for one page, with a configuration, a key, a database, and a simulated API.
struct Sandbox {
    folder: TempDir,
    /// A loopback address of this page, for the ports that the pages name.
    address: String,
    api: Simulator,
}

impl Sandbox {
    async fn new(number: usize, database: &Database) -> Self {
        use std::os::unix::fs::PermissionsExt as _;
        let api = Simulator::start(Settings::default()).await.unwrap();
        database.groups.iter().for_each(|(id, group_type)| api.create(group_type, id));
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let process = std::process::id();
        let address = format!("127.{}.{}.{}", 1 + (process >> 8) % 250, process % 256, 1 + number);
        let config = format!(
            "[database]\nurl = \"sqlite:groups.db\"\n[metrics]\nlisten = \"{address}:9878\"\n[dashboard]\nlisten = \"{address}:9879\"\n\
             [apps.prod]\nsdk_app_id = 1400000000\nsecret_key_file = \"prod.key\"\nbase_url = \"{}\"\nrequest_interval = \"0s\"\n",
            api.base_url()
        );
        std::fs::write(path("config.toml"), config).unwrap();
        std::fs::write(path("prod.key"), KEY).unwrap();
        std::fs::set_permissions(path("prod.key"), std::fs::Permissions::from_mode(0o600)).unwrap();
        std::fs::copy(database.folder.path().join("groups.db"), path("groups.db")).unwrap();
        Self { folder, address, api }
    }

    /// Runs the commands of a page in order, and returns the prefixes in `NOT_RUN` that it skipped.
    fn run_commands(&self, page: &Page) -> BTreeSet<&'static str> {
        let mut not_run = BTreeSet::new();
        let mut servers = Vec::new();
        for block in page.blocks() {
            for command in commands(&block) {
                if let Some((beginning, _)) =
                    NOT_RUN.iter().find(|(beginning, _)| command.starts_with(beginning))
                {
                    not_run.insert(*beginning);
                    continue;
                }
                let command = self.replacement(&command);
                match READY.iter().find(|(verb, _)| is_verb(&command, verb)) {
                    Some((_, ready)) => servers.push(self.start(&block.at, &command, ready)),
                    None => self.run(&block.at, &command),
                }
            }
        }
        servers.into_iter().for_each(Server::stop);
        not_run
    }

    fn replacement(&self, command: &str) -> String {
        let mut command = command.to_owned();
        for (beginning, replacement) in REPLACEMENTS {
            if let Some(rest) = command.strip_prefix(beginning) {
                command =
                    replacement.replace("{address}", &self.address).replace("{api}", &self.api.base_url())
                        + rest;
            }
        }
        for (folder, own) in FOLDERS {
            command = command.replace(folder, own);
        }
        for port in [":9878", ":9879"] {
            let own = format!("{}{port}", self.address);
            command =
                command.replace(&format!("127.0.0.1{port}"), &own).replace(&format!("localhost{port}"), &own);
        }
        command
    }

    /// Returns a shell with this program on its path, which is killed after a minute.
    fn shell(&self, command: &str) -> Command {
        let mut path = Path::new(PROGRAM).parent().unwrap().as_os_str().to_owned();
        path.push(":");
        path.push(std::env::var_os("PATH").unwrap());
        let mut shell = Command::new("timeout");
        shell.args(["--kill-after=5", "60", "sh", "-euc", command]).current_dir(self.folder.path());
        shell.env_clear().env("PATH", path);
        shell
            .env("HOME", self.folder.path())
            .env("TIM_GROUP_SYNC_CONFIG", self.folder.path().join("config.toml"));
        shell.stdin(Stdio::null());
        shell
    }

    fn run(&self, at: &str, command: &str) {
        let output = self.shell(command).output().unwrap();
        let output_text = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{at}: {command}\n{}\n{output_text}", output.status);
    }

    fn start(&self, at: &str, command: &str, ready: &str) -> Server {
        let command = format!("exec {} 2>&1", command.trim_end_matches('&'));
        let mut process = self.shell(&command).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut server = Server { what: format!("{at}: {command}"), process, lines };
        let mut output_lines = Vec::new();
        let mut is_ready = false;
        while !is_ready && let Some(line) = server.lines.next() {
            output_lines.push(line.unwrap());
            is_ready = output_lines.last().is_some_and(|line| line.contains(ready));
        }
        assert!(is_ready, "{}\nended without printing {ready:?}\n{}", server.what, output_lines.join("\n"));
        server
    }
}

/// A command that runs until it is stopped.
struct Server {
    what: String,
    process: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Server {
    fn stop(mut self) {
        kill_process(Pid::from_child(&self.process), Signal::TERM).unwrap();
        let rest: Vec<String> = self.lines.by_ref().map(Result::unwrap).collect();
        let status = self.process.wait().unwrap();
        assert!(status.success(), "{}\n{status}\n{}", self.what, rest.join("\n"));
    }
}

/// Returns true if a command runs this program with the subcommand `verb`.
fn is_verb(command: &str, verb: &str) -> bool {
    command.starts_with("tim-group-sync") && command.split_whitespace().any(|word| word == verb)
}

/// Returns the commands of a block, each with its continuation lines and here-document.
fn commands(block: &Block) -> Vec<String> {
    let lines: Vec<&str> = match block.info.as_str() {
        "sh" => block.text.lines().collect(),
        "console" => block.text.lines().filter_map(|line| line.strip_prefix("$ ")).collect(),
        _ => return Vec::new(),
    };
    let mut commands: Vec<String> = Vec::new();
    let mut open: Option<String> = None;
    for line in lines {
        let is_continued = open.is_some() || commands.last().is_some_and(|command| command.ends_with('\\'));
        match commands.last_mut().filter(|_| is_continued) {
            Some(command) => command.extend(["\n", line]),
            None if line.trim().is_empty() || line.starts_with('#') => continue,
            None => commands.push(line.to_owned()),
        }
        open = match open {
            Some(mark) => Some(mark).filter(|mark| line != mark),
            None => line.split_once("<<").map(|(_, mark)| {
                mark.split_whitespace().next().unwrap_or_default().trim_matches(['\'', '"', '-']).to_owned()
            }),
        };
    }
    // Comments after a command are removed.
    commands
        .into_iter()
        .map(|command| command.split("  # ").next().unwrap_or_default().trim_end().to_owned())
        .collect()
}
