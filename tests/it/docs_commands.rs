//! Every command that the pages show is run, as a reader would run it, against a simulated API and in a folder of its own.
//!
//! What a test cannot do is listed here with the reason, and nothing else is left out. README.zh-CN.md has the same blocks as
//! README.md, which another test sees to, so its commands are run as those of README.md.

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
use crate::support::{Engine, World};
use crate::support_engines::Bench;

const PROGRAM: &str = env!("CARGO_BIN_EXE_tim-group-sync");

/// Beginnings of commands that are not run, and why.
const ELSEWHERE: [(&str, &str); 21] = [
    ("cargo install ", "builds everything anew and writes to the user's ~/.cargo"),
    ("cargo build ", "builds everything anew"),
    ("cargo bench ", "takes minutes, and the whole machine"),
    ("benches/at-rest", "takes minutes, and the whole machine"),
    ("PROPTEST_CASES=", "minutes of the tests beside this one"),
    ("HISTORY_STEPS=", "minutes of the tests beside this one"),
    ("FAULTY_CRAWLS=", "hours of the tests beside this one"),
    ("packaging/build ", "makes a release build; tests/systemd/run does it"),
    ("apt install ", "changes the system; tests/systemd/run does it in a system of its own"),
    ("dnf install ", "changes the system, and needs another one than Debian"),
    ("podman ", "needs a container engine and an image from a registry"),
    ("install -", "writes to /usr and /etc; tests/systemd/run does it in a system of its own"),
    ("mv /etc/", "changes /etc; tests/systemd/run does it in a system of its own"),
    ("chown root:", "needs root; tests/systemd/run does it in a system of its own"),
    ("mkdir -p /etc/", "writes to /etc"),
    ("cp /usr/share/doc/", "is there once the package is, and writes to /etc"),
    ("systemd-sysusers", "makes users; tests/systemd/run does it in a system of its own"),
    ("systemd-run ", "needs systemd; tests/systemd/run does it in a system of its own"),
    ("systemctl ", "needs systemd; tests/systemd/run does it in a system of its own"),
    ("tim-group-sync man >/usr/", "writes to /usr"),
    ("tim-group-sync completions bash >/etc/", "writes to /etc"),
];

/// What is run instead of a command's beginning, where that is the same thing: built already, asked
/// without a terminal, or at an address of its own.
const IN_ITS_STEAD: [(&str, &str); 4] = [
    ("cargo run -- ", "tim-group-sync "),
    (
        "tim-group-sync init",
        "rm -rf first; tim-group-sync --config first/config.toml init --sdk-app-id 1400000000 --base-url {api} --secret-key-file prod.key",
    ),
    // An answer of an error is a failure.
    ("curl -s ", "curl -sf "),
    ("tim-group-sync simulate", "tim-group-sync simulate --listen {address}:8787"),
];

/// Folders of a system where the program is installed, and what stands for them.
const FOLDERS: [(&str, &str); 2] = [("/var/lib/tim-group-sync/", "./"), ("/var/backups/", "./backup-of-")];

/// What a command that goes on until it is stopped says when it is ready.
const READY: [(&str, &str); 2] = [("run", "\"started\""), ("simulate", "configuration:")];

#[tokio::test(flavor = "multi_thread")]
async fn every_command_of_the_pages_does_what_it_is_shown_for() {
    let database = Database::with_a_history().await;
    let mut runs = tokio::task::JoinSet::new();
    let shown = pages().into_iter().filter(|page| page.path != "README.zh-CN.md");
    for (number, page) in shown.enumerate() {
        let shop = Workshop::new(number, &database).await;
        runs.spawn_blocking(move || shop.try_out(&page));
    }
    let mut elsewhere = BTreeSet::new();
    for used in runs.join_all().await {
        elsewhere.extend(used);
    }
    let listed: BTreeSet<&str> = ELSEWHERE.iter().map(|(beginning, _)| *beginning).collect();
    assert_eq!(elsewhere, listed, "commands that no page shows need no reason");
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
    async fn with_a_history() -> Self {
        let mut world = World::on(Engine::Sqlite).await;
        world.page_limit = 10_000;
        world.guard = DeletionPolicy { max_fraction: 0.2, min_groups: 100, ..DeletionPolicy::default() };
        // A crawl an hour, and the last one just now.
        world.clock.set(Clock::system().now() - TimeDelta::hours(18));
        world.create("Public", "@TGS#2J4SZEAEL");
        world.api.create_many("Private", 400);
        world.crawl().await;
        world.api.retype("@TGS#2J4SZEAEL", "Private");
        for _ in 2..=16 {
            world.crawl().await;
        }
        world.api.dissolve_some(200);
        let report = world.crawl().await;
        assert_eq!((report.crawl.0, report.withheld), (17, 200), "{report:?}");
        let folder = tempfile::tempdir().unwrap();
        let copy = format!("VACUUM INTO '{}'", folder.path().join("groups.db").display());
        Bench::execute(&world.bench.url(), &copy).await;
        Self { folder, groups: world.api.truth().into_iter().collect() }
    }
}

/// A folder of one page, with a configuration, a key, a database, and the API that is configured.
struct Workshop {
    folder: TempDir,
    /// A loopback address of its own, for the ports that the pages name.
    address: String,
    api: Simulator,
}

impl Workshop {
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

    /// Runs the commands of a page in their order; returns which reasons it needed not to run some.
    fn try_out(&self, page: &Page) -> BTreeSet<&'static str> {
        let mut elsewhere = BTreeSet::new();
        let mut servers = Vec::new();
        for block in page.blocks() {
            for command in commands(&block) {
                if let Some((beginning, _)) =
                    ELSEWHERE.iter().find(|(beginning, _)| command.starts_with(beginning))
                {
                    elsewhere.insert(*beginning);
                    continue;
                }
                let command = self.in_its_stead(&command);
                match READY.iter().find(|(verb, _)| is_verb(&command, verb)) {
                    Some((_, ready)) => servers.push(self.start(&block.at, &command, ready)),
                    None => self.run(&block.at, &command),
                }
            }
        }
        servers.into_iter().for_each(Server::stop);
        elsewhere
    }

    fn in_its_stead(&self, command: &str) -> String {
        let mut command = command.to_owned();
        for (beginning, instead) in IN_ITS_STEAD {
            if let Some(rest) = command.strip_prefix(beginning) {
                command =
                    instead.replace("{address}", &self.address).replace("{api}", &self.api.base_url()) + rest;
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

    /// A shell with this program on its path, that ends after a minute, however it goes.
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
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{at}: {command}\n{}\n{said}", output.status);
    }

    fn start(&self, at: &str, command: &str, ready: &str) -> Server {
        let command = format!("exec {} 2>&1", command.trim_end_matches('&'));
        let mut process = self.shell(&command).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let mut server = Server { what: format!("{at}: {command}"), process, lines };
        let mut said = Vec::new();
        let mut is_ready = false;
        while !is_ready && let Some(line) = server.lines.next() {
            said.push(line.unwrap());
            is_ready = said.last().is_some_and(|line| line.contains(ready));
        }
        assert!(is_ready, "{}\nended without saying {ready:?}\n{}", server.what, said.join("\n"));
        server
    }
}

/// A command that goes on until it is stopped.
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

/// Whether the program is asked for something that goes on until it is stopped.
fn is_verb(command: &str, verb: &str) -> bool {
    command.starts_with("tim-group-sync") && command.split_whitespace().any(|word| word == verb)
}

/// The commands of a block, each with its continuation lines and what is between the marks of a here-document.
fn commands(block: &Block) -> Vec<String> {
    let lines: Vec<&str> = match block.info.as_str() {
        "sh" => block.text.lines().collect(),
        "console" => block.text.lines().filter_map(|line| line.strip_prefix("$ ")).collect(),
        _ => return Vec::new(),
    };
    let mut commands: Vec<String> = Vec::new();
    let mut open: Option<String> = None;
    for line in lines {
        let goes_on = open.is_some() || commands.last().is_some_and(|command| command.ends_with('\\'));
        match commands.last_mut().filter(|_| goes_on) {
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
    // What follows a command on its line is for the reader.
    commands
        .into_iter()
        .map(|command| command.split("  # ").next().unwrap_or_default().trim_end().to_owned())
        .collect()
}
