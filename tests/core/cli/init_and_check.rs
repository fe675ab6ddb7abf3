//! `init`, `check`, JSON output, completions, the manual page, and commands that run as root.

use std::fs::{File, Permissions};
use std::io::{Read as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use harness::cli::{CliHarness, CommandOutput};
use harness::program::program;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::OFlags;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{LocalModes, tcgetattr};
use tim_group_sync::simulator::{At, Fault, KEY};
use tim_group_sync::tencent::usersig::{SecretKey, verify};

/// A folder without a configuration, with a key, and a simulated API with some groups.
async fn without_configuration() -> CliHarness {
    let cli = CliHarness::new().await;
    std::fs::remove_file(cli.path("config.toml")).unwrap();
    std::fs::rename(cli.path("app.key"), cli.path("given.key")).unwrap();
    cli.api.create_many("Public", 30);
    cli
}

fn mode(file: &Path) -> u32 {
    std::fs::metadata(file).unwrap().permissions().mode() & 0o777
}

#[tokio::test(flavor = "multi_thread")]
async fn init_writes_a_configuration_and_a_key_that_check_and_crawl_accept() {
    let cli = without_configuration().await;
    let url = cli.api.base_url();
    let arguments =
        ["init", "--sdk-app-id", "1400000000", "--base-url", &url, "--secret-key-file", "given.key"];
    let ended = cli.run(&arguments).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("ok    prod           the API accepts the credentials"), "{ended:?}");
    assert!(ended.stdout.contains("tim-group-sync crawl"), "{ended:?}");
    assert_eq!((mode(&cli.path("prod.key")), mode(&cli.path("config.toml"))), (0o600, 0o644));
    assert_eq!(std::fs::read_to_string(cli.path("prod.key")).unwrap(), format!("{KEY}\n"));
    let config = std::fs::read_to_string(cli.path("config.toml")).unwrap();
    assert!(!config.contains(KEY) && config.lines().count() < 25, "{config}");
    // The configuration keeps the usual interval between requests, which the API here does not
    // need.
    let config = config.replace("[apps.prod]\n", "[apps.prod]\nrequest_interval = \"0s\"\n");
    assert!(config.contains("request_interval"), "{config}");
    std::fs::write(cli.path("config.toml"), config).unwrap();
    for command in ["check", "crawl", "status"] {
        let ended = cli.run(&[command]).await;
        assert!(ended.code == Some(0) && ended.stdout.contains("30"), "{ended:?}");
    }
    assert_eq!(cli.query("SELECT app, live_count FROM app_status").await, "prod 30");
}

#[tokio::test(flavor = "multi_thread")]
async fn init_reports_its_files_and_has_the_exit_code_of_check_if_the_key_is_wrong() {
    let cli = without_configuration().await;
    std::fs::write(cli.path("given.key"), "AKIDnotanimkey").unwrap();
    std::fs::set_permissions(cli.path("given.key"), Permissions::from_mode(0o644)).unwrap();
    let url = cli.api.base_url();
    let arguments = [
        "init",
        "--json",
        "--name",
        "shop",
        "--identifier",
        "boss",
        "--sdk-app-id",
        "1400000000",
        "--base-url",
        &url,
        "--secret-key-file",
        "given.key",
        "--database",
        "sqlite:shop.db",
    ];
    let ended = cli.run(&arguments).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    for warning in ["64 hexadecimal digits", "users other than its owner can read"] {
        assert!(ended.stderr.contains(warning), "{ended:?}");
    }
    let result = ended.result();
    assert_eq!(result["secret_key_file"], cli.path("shop.key").to_str().unwrap());
    let findings = result["findings"].as_array().unwrap();
    let of_app: Vec<_> = findings.iter().filter(|finding| finding["what"] == "shop").collect();
    assert_eq!((&of_app[0]["outcome"], &of_app[1]["outcome"]), (&"warn".into(), &"FAIL".into()));
    assert!(
        !ended.stdout.contains("AKIDnotanimkey") && !ended.stderr.contains("AKIDnotanimkey"),
        "{ended:?}"
    );
    // The files are kept, so that the user can correct one of them and try again.
    let config = std::fs::read_to_string(cli.path("config.toml")).unwrap();
    assert!(config.contains("identifier = \"boss\"") && config.contains("\"sqlite:shop.db\""), "{config}");
    assert_eq!(mode(&cli.path("shop.key")), 0o600);
}

#[tokio::test(flavor = "multi_thread")]
async fn init_overwrites_no_file_and_writes_no_invalid_configuration() {
    let cli = without_configuration().await;
    let url = cli.api.base_url();
    let all = ["--sdk-app-id", "1400000000", "--base-url", &url, "--secret-key-file", "given.key"];
    let refused = async |arguments: &[&str], code: i32, sentence: &str| {
        let before: Vec<_> =
            std::fs::read_dir(cli.folder.path()).unwrap().map(|e| e.unwrap().path()).collect();
        let ended = cli.run(&[&["init"], arguments].concat()).await;
        assert!(ended.code == Some(code) && ended.stderr.contains(sentence), "{sentence}: {ended:?}");
        let after: Vec<_> =
            std::fs::read_dir(cli.folder.path()).unwrap().map(|e| e.unwrap().path()).collect();
        assert_eq!(before, after);
    };
    refused(&["--sdk-app-id", "many"], 2, "an SDKAppID is a number such as 1400000000").await;
    refused(&["--sdk-app-id", "-1"], 2, "").await;
    refused(&["--region", "mars"], 2, "china, singapore, seoul").await;
    refused(&["--region", "tokio"], 2, "a similar value exists: 'tokyo'").await;
    refused(&["--region", "SINGAPORE"], 2, "missing --sdk-app-id, --secret-key-file").await;
    refused(&[], 2, "missing --sdk-app-id, --region, --secret-key-file").await;
    refused(&["--sdk-app-id", "1"], 2, "missing --region, --secret-key-file").await;
    refused(&[&all[..4], &["--secret-key-file", "none.key"]].concat(), 78, "cannot read none.key").await;
    refused(&[&all[..], &["--name", "A b"]].concat(), 2, "the name of an app has").await;
    refused(
        &[&all[..], &["--database", "postgres://u:geheim@h/d"]].concat(),
        2,
        "must not contain a password",
    )
    .await;
    let remote = ["--sdk-app-id", "1", "--base-url", "http://example.com", "--secret-key-file", "given.key"];
    refused(&remote, 2, "must be https").await;
    std::fs::write(cli.path("given.key"), "two words").unwrap();
    refused(&all, 78, "white space").await;

    cli.write_key(KEY);
    std::fs::rename(cli.path("app.key"), cli.path("given.key")).unwrap();
    std::fs::write(cli.path("prod.key"), "precious").unwrap();
    refused(&all, 1, "prod.key exists, and init does not overwrite it").await;
    std::fs::write(cli.path("config.toml"), "precious").unwrap();
    refused(&all, 1, "config.toml exists, and init does not overwrite it").await;
    for existing in ["prod.key", "config.toml"] {
        assert_eq!(std::fs::read_to_string(cli.path(existing)).unwrap(), "precious");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn init_keeps_a_key_file_that_is_already_at_its_path() {
    let cli = without_configuration().await;
    std::fs::rename(cli.path("given.key"), cli.path("prod.key")).unwrap();
    let url = cli.api.base_url();
    let arguments = ["init", "--sdk-app-id", "1400000000", "--base-url", &url, "--secret-key-file"];
    let ended = cli.run(&[&arguments[..], &["prod.key"]].concat()).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert_eq!(std::fs::read_to_string(cli.path("prod.key")).unwrap(), format!("{KEY}\n"));
}

/// The program on a pseudoterminal, which the test reads and writes.
struct TerminalSession {
    terminal: File,
    program: Child,
    output: String,
    /// The length of the text that was already matched.
    matched: usize,
}

impl TerminalSession {
    fn start(cli: &CliHarness, arguments: &[&str]) -> Self {
        let terminal = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
        grantpt(&terminal).unwrap();
        unlockpt(&terminal).unwrap();
        let name = ptsname(&terminal, Vec::new()).unwrap();
        let end = rustix::fs::open(&name, OFlags::RDWR | OFlags::NOCTTY, rustix::fs::Mode::empty()).unwrap();
        let end = || Stdio::from(end.try_clone().unwrap());
        let mut command = Command::new("setsid");
        command.args(["--ctty", "--wait", program()]).args(arguments);
        command.current_dir(cli.folder.path()).env_clear();
        command.env("PATH", "/usr/bin:/bin").env("TIM_GROUP_SYNC_CONFIG", cli.path("config.toml"));
        let program = command.stdin(end()).stdout(end()).stderr(end()).spawn().unwrap();
        Self { terminal: File::from(terminal), program, output: String::new(), matched: 0 }
    }

    /// Reads until this text appears.
    fn read_until(&mut self, text: &str) {
        loop {
            if let Some(at) = self.output[self.matched..].find(text) {
                self.matched += at + text.len();
                return;
            }
            assert!(self.read_more(), "{text:?} did not appear: {}", self.output);
        }
    }

    /// Reads more output. Returns false at its end.
    fn read_more(&mut self) -> bool {
        let timeout = Timespec { tv_sec: 60, tv_nsec: 0 };
        let ready = poll(&mut [PollFd::new(&self.terminal, PollFlags::IN)], Some(&timeout)).unwrap();
        assert_eq!(ready, 1, "timed out waiting for output: {}", self.output);
        let mut some = [0; 4096];
        // When the program closes its side of a pseudoterminal, reading fails.
        let read = self.terminal.read(&mut some).unwrap_or(0);
        self.output.push_str(&String::from_utf8_lossy(&some[..read]));
        read > 0
    }

    fn type_text(&mut self, text: &str) {
        self.terminal.write_all(text.as_bytes()).unwrap();
    }

    fn wait_for_exit(mut self) -> (Option<i32>, String) {
        while self.read_more() {}
        (self.program.wait().unwrap().code(), self.output)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn init_prompts_on_a_terminal_and_does_not_show_the_key() {
    let cli = without_configuration().await;
    let url = cli.api.base_url();
    tokio::task::spawn_blocking(move || {
        let mut session = TerminalSession::start(&cli, &["init", "--base-url", &url]);
        session.read_until("SDKAppID");
        session.type_text("fourteen\n");
        session.read_until("is a number such as 1400000000");
        session.read_until("SDKAppID");
        session.type_text("1400000000\n");
        session.read_until("it is not shown");
        session.type_text("too short\n");
        session.read_until("a key contains no white space");
        session.read_until("it is not shown");
        session.type_text("AKIDnotanimkey\n");
        session.read_until("64 hexadecimal digits");
        session.read_until("[y/N]");
        session.type_text("\n");
        session.read_until("it is not shown");
        session.type_text(&format!("{KEY}\n"));
        let (code, output) = session.wait_for_exit();
        assert_eq!(code, Some(0), "{output}");
        assert!(output.contains("the API accepts the credentials; the app has 30 groups"), "{output}");
        for typed in [KEY, "too short", "AKIDnotanimkey"] {
            assert!(!output.contains(typed), "{output}");
        }
        assert_eq!(std::fs::read_to_string(cli.path("prod.key")).unwrap(), format!("{KEY}\n"));
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn an_aborted_init_writes_no_files_and_restores_the_terminals_echo() {
    let cli = without_configuration().await;
    tokio::task::spawn_blocking(move || {
        let mut session = TerminalSession::start(&cli, &["init", "--sdk-app-id", "1400000000"]);
        session.read_until("Data centre");
        session.type_text("mars\n");
        session.read_until("must be one of china, singapore");
        session.type_text("singapur\n");
        session.read_until("Did you mean \"singapore\"?");
        session.type_text("Singapore\n");
        session.read_until("it is not shown");
        session.type_text(&KEY[..20]);
        session.type_text("\u{3}");
        let terminal = session.terminal.try_clone().unwrap();
        let (code, output) = session.wait_for_exit();
        assert!(code == Some(2) && output.contains("nothing was written"), "{output}");
        assert!(tcgetattr(&terminal).unwrap().local_modes.contains(LocalModes::ECHO));
        assert!(!output.contains(&KEY[..20]), "{output}");
        assert!(!cli.path("config.toml").exists() && !cli.path("prod.key").exists());
        let mut session = TerminalSession::start(&cli, &["init"]);
        session.read_until("SDKAppID");
        session.type_text("\u{4}");
        let (code, output) = session.wait_for_exit();
        assert!(code == Some(2) && output.contains("nothing was written"), "{output}");
    })
    .await
    .unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn every_failed_check_names_the_remedy() {
    let cli = CliHarness::new().await;
    let finding = async |what: &str, code: i32| {
        let ended = cli.run(&["check", "--json"]).await;
        assert_eq!(ended.code, Some(code), "{ended:?}");
        let findings = ended.result();
        let of_what = findings.as_array().unwrap().iter().rfind(|finding| finding["what"] == what).cloned();
        of_what.unwrap_or_else(|| panic!("{findings}"))["text"].as_str().unwrap().to_owned()
    };
    cli.configure("page_limit = 0\nregoin = \"china\"\n");
    assert!(
        finding("configuration", 78).await.contains("apps.prod.regoin: unknown key. Did you mean region?")
    );
    let text = cli.run(&["check"]).await.stdout;
    assert_eq!(text.lines().filter(|line| line.starts_with("FAIL  configuration")).count(), 2, "{text}");

    cli.configure("retry_for = \"0s\"\n");
    let lines = std::fs::read_to_string(cli.path("config.toml")).unwrap();
    std::fs::write(cli.path("config.toml"), lines.replace("retry_for = \"1s\"\n", "")).unwrap();
    for (fault, code, advice) in [
        (Fault::Reset, 1, "check DNS, the firewall and HTTPS_PROXY"),
        (Fault::Status(503), 1, "the API at 127.0.0.1 answered with HTTP status 503"),
        (Fault::HtmlWith200, 1, "check `base_url` and any proxy or captive portal"),
        (Fault::ErrorCode(60011), 1, "find out what else calls the API for this SDKAppID"),
        (Fault::ErrorCode(60002), 1, "check `base_url`"),
        (Fault::ErrorCode(60999), 1, "report its code to Tencent Cloud's support"),
        (Fault::ErrorCode(60021), 78, "add this host's address to the app's IP allow-list"),
        (Fault::ErrorCode(70016), 78, "check `sdk_app_id` and the data centre"),
    ] {
        cli.api.script(At::Every, fault.clone());
        let text = finding("prod", code).await;
        assert!(text.contains(advice), "{fault:?}: {text}");
        cli.api.clear_faults();
    }
    std::fs::remove_file(cli.path("app.key")).unwrap();
    assert!(finding("prod", 78).await.contains("put only the secret into this file, and chmod 600 it"));
    cli.write_key(KEY);
    std::fs::write(cli.path("groups.db"), "no database, but as long as the head of one would be".repeat(9))
        .unwrap();
    assert!(finding("database", 1).await.contains("restore a backup"));
    std::fs::remove_file(cli.path("groups.db")).unwrap();
    std::fs::write(cli.path("password"), "geheim").unwrap();
    let lines = std::fs::read_to_string(cli.path("config.toml")).unwrap();
    let server = "url = \"postgres://nobody@localhost:1/none\"\npassword_file = \"password\"";
    std::fs::write(cli.path("config.toml"), lines.replace("url = \"sqlite:groups.db\"", server)).unwrap();
    assert!(finding("database", 75).await.contains("check whether the server runs"));
    std::fs::remove_file(cli.path("password")).unwrap();
    assert!(finding("database", 78).await.contains("password; put only the secret into this file"));
}

#[tokio::test(flavor = "multi_thread")]
async fn check_warns_about_a_key_that_others_can_read_and_succeeds() {
    let cli = CliHarness::new().await;
    std::fs::set_permissions(cli.path("app.key"), Permissions::from_mode(0o640)).unwrap();
    let ended = cli.run(&["check"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    let warning = ended.stdout.lines().find(|line| line.starts_with("warn")).unwrap();
    assert!(warning.contains("(mode 0640): chmod 600"), "{warning}");
    // Other commands print the warning on stderr.
    assert!(cli.run(&["crawl"]).await.stderr.contains("(mode 0640): chmod 600"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_configuration_can_be_checked_without_key_database_and_network() {
    let cli = CliHarness::new().await;
    std::fs::remove_file(cli.path("app.key")).unwrap();
    cli.api.script(At::Every, Fault::ErrorCode(60002));
    let ended = cli.run(&["check", "--no-environment"]).await;
    assert_eq!((ended.code, ended.stdout.lines().count()), (Some(0), 1), "{ended:?}");
    let shown = cli.run(&["check", "--show-config", "--json"]).await.result();
    let origin = |key: &str| {
        let settings = shown.as_array().unwrap();
        settings.iter().find(|setting| setting["key"] == key).unwrap()["origin"].as_str().unwrap().to_owned()
    };
    let config = std::fs::read_to_string(cli.path("config.toml")).unwrap();
    let line = 1 + config.lines().position(|line| line.starts_with("sdk_app_id")).unwrap();
    assert!(origin("apps.prod.sdk_app_id").ends_with(&format!("config.toml:{line}")));
    assert_eq!(origin("schedule.cron"), "default");
    cli.configure("page_limit = 0\n");
    assert_eq!(cli.run(&["check", "--no-environment"]).await.code, Some(78));
}

#[tokio::test(flavor = "multi_thread")]
async fn every_json_document_has_a_code_a_result_and_an_error() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 400);
    let document = async |arguments: &[&str], code: i32| {
        let ended = cli.run(&[arguments, &["--json"]].concat()).await;
        let document: serde_json::Value =
            serde_json::from_str(&ended.stdout).unwrap_or_else(|_| panic!("{arguments:?}: {ended:?}"));
        let keys: Vec<_> = document.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(keys, ["error", "exit_code", "result"], "{arguments:?}");
        assert_eq!(
            (ended.code, document["exit_code"].as_i64()),
            (Some(code), Some(code.into())),
            "{ended:?}"
        );
        document
    };
    let absent = document(&["status"], 75).await;
    assert!(absent["error"].as_str().unwrap().contains("there is no database"), "{absent}");
    assert!(absent["result"].is_null());
    assert_eq!(document(&["migrate"], 0).await["result"]["up_to_date"], true);
    let unknown = document(&["status", "--max-age", "1h"], 1).await;
    assert_eq!(unknown["result"][0]["app"], "prod");
    assert_eq!(unknown["error"], "no complete crawl within 1h: prod");
    assert_eq!(document(&["crawl"], 0).await["result"][0]["sdk_app_id"], 1_400_000_000);
    cli.api.dissolve_some(300);
    assert_eq!(document(&["crawl", "--dry-run"], 3).await["result"][0]["deletions"], "withheld");
    let crawl = document(&["crawl"], 3).await;
    assert_eq!(crawl["result"][0]["withheld"], 300);
    assert!(crawl["error"].as_str().unwrap().starts_with("prod: Public would shrink"), "{crawl}");
    let withheld = &document(&["status"], 0).await["result"][0]["withheld"];
    let withheld = &withheld[0];
    for (name, value) in
        [("crawl_id", 2), ("groups", 300), ("confirmed", 300), ("held_count", 300), ("confirmed_count", 300)]
    {
        assert_eq!(withheld[name], value, "{name}: {withheld}");
    }
    let approved = document(&["approve", "--crawl", "2"], 0).await;
    let settled = (&approved["result"]["groups"], &approved["result"]["confirmed"], &approved["error"]);
    assert_eq!(settled, (&300.into(), &300.into(), &serde_json::Value::Null));
    assert_eq!(document(&["undelete", "--crawl", "2", "--dry-run"], 0).await["result"]["groups"], 300);
    assert!(
        document(&["approve", "--crawl", "2"], 1).await["error"].as_str().unwrap().contains("nothing to")
    );
    let status = document(&["status"], 0).await;
    assert_eq!(status["result"][0]["types"][0]["configured"], true, "{status}");
    let check = document(&["check"], 0).await;
    assert_eq!((&check["result"][1]["outcome"], &check["error"]), (&"ok".into(), &serde_json::Value::Null));
    cli.api.script(At::Every, Fault::ErrorCode(60021));
    for command in ["check", "crawl"] {
        let refused = document(&[command], 78).await;
        assert!(
            refused["error"].as_str().unwrap().starts_with("prod: the API answered error 60021"),
            "{refused}"
        );
    }
    cli.api.clear_faults();
    let signed = document(&["usersig", "--app", "prod"], 0).await;
    let usersig = signed["result"]["usersig"].as_str().unwrap();
    assert!(verify(usersig, &SecretKey::new(KEY), 0).is_ok(), "{signed}");
    cli.configure("page_limit = 0\n");
    let invalid = document(&["crawl"], 78).await;
    assert!(invalid["error"].as_str().unwrap().contains("apps.prod.page_limit"), "{invalid}");
}

#[tokio::test(flavor = "multi_thread")]
async fn status_names_the_crawl_with_withheld_deletions_even_after_later_crawls() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 400);
    cli.run(&["crawl"]).await;
    cli.api.dissolve_some(300);
    cli.run(&["crawl"]).await;
    assert_eq!(cli.run(&["crawl"]).await.code, Some(0));
    let status = cli.run(&["status"]).await.stdout;
    assert!(status.contains("300 deletions of crawl 2") && status.contains("approve --crawl 2"), "{status}");
    cli.run(&["approve", "--crawl", "2"]).await;
    assert!(!cli.run(&["status"]).await.stdout.contains("approve"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_closed_pipe_on_stdout_is_not_a_failure() {
    let cli = CliHarness::new().await;
    let mut program = cli.command(&["man"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(program.stdout.take());
    let ended = tokio::task::spawn_blocking(move || {
        let mut stderr = String::new();
        program.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        (program.wait().unwrap().code(), stderr)
    });
    assert_eq!(ended.await.unwrap(), (Some(0), String::new()));
}

#[tokio::test(flavor = "multi_thread")]
async fn bash_completes_commands_and_options() {
    let cli = CliHarness::new().await;
    let script = cli.run(&["completions", "bash"]).await.stdout;
    std::fs::write(cli.path("completions"), script).unwrap();
    let complete = |line: &str, word: &str| {
        let words: Vec<&str> = line.split(' ').collect();
        let asking = format!(
            "set -eu; source ./completions; COMP_WORDS=({line} '{word}'); COMP_CWORD={}; \
             _tim__group__sync tim-group-sync '{word}' '{}'; printf '%s\\n' \"${{COMPREPLY[@]}}\"",
            words.len(),
            words[words.len() - 1]
        );
        let output =
            Command::new("bash").args(["-c", &asking]).current_dir(cli.folder.path()).output().unwrap();
        let ended = CommandOutput::from(output);
        assert!(ended.code == Some(0) && ended.stderr.is_empty(), "{ended:?}");
        ended.stdout
    };
    assert_eq!(complete("tim-group-sync", "cr"), "crawl\n");
    assert!(complete("tim-group-sync crawl", "--").contains("--dry-run\n"));
    assert_eq!(complete("tim-group-sync init --region", "sili"), "silicon-valley\n");
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        let script = cli.run(&["completions", shell]).await;
        assert!(script.code == Some(0) && script.stdout.contains("undelete"), "{shell}: {script:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs groff: tests/run"]
async fn the_manual_page_has_every_command_and_is_formatted_without_a_warning() {
    let cli = CliHarness::new().await;
    let page = cli.run(&["man"]).await;
    assert_eq!(page.code, Some(0), "{page:?}");
    std::fs::write(cli.path("page.1"), &page.stdout).unwrap();
    // All warnings of groff except those of category `break`, about lines that cannot be adjusted.
    let groff = ["-man", "-Tutf8", "-ww", "-Wbreak", "-rLL=100n", "-P-cbou", "page.1"];
    let output = Command::new("groff").args(groff).current_dir(cli.folder.path()).output();
    let formatted = CommandOutput::from(output.expect("groff is installed by tests/run"));
    assert!(formatted.code == Some(0) && formatted.stderr.is_empty(), "{formatted:?}");
    let help = cli.run(&["--help"]).await.stdout;
    let commands = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let commands: Vec<&str> = commands.map_while(|line| line.split_whitespace().next()).collect();
    assert!(commands.len() > 10, "{help}");
    for command in commands.into_iter().filter(|command| *command != "help") {
        assert!(page.stdout.contains(&format!("\n.SS {command}\n")), "{command}");
    }
    for text in ["--max-age", "EXIT STATUS", "TIM_GROUP_SYNC_DATABASE_URL", "SIGUSR1", "~/.zfunc"] {
        assert!(formatted.stdout.contains(text), "{text}: {}", formatted.stdout);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn as_root_the_program_becomes_the_owner_of_the_database_and_leaves_no_files_of_root() {
    const NOBODY: u32 = 65534;
    let cli = CliHarness::new().await;
    if !rustix::process::geteuid().is_root() {
        println!("NOT TESTED: that root becomes the database's owner, because this user is not root");
        return;
    }
    cli.api.create_many("Public", 400);
    std::os::unix::fs::chown(cli.folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    std::os::unix::fs::chown(cli.path("app.key"), Some(NOBODY), Some(NOBODY)).unwrap();
    let commands: [&[&str]; 8] = [
        &["check"],
        &["crawl"],
        &["check"],
        &["status"],
        &["migrate"],
        &["crawl", "--dry-run"],
        &["approve", "--crawl", "2"],
        &["undelete", "--crawl", "2"],
    ];
    for (n, command) in commands.into_iter().enumerate() {
        if n == 6 {
            cli.api.dissolve_some(300);
            assert_eq!(cli.run(&["crawl"]).await.code, Some(3));
        }
        let ended = cli.run(command).await;
        assert_eq!(ended.code, Some(0), "{command:?}: {ended:?}");
        assert!(ended.stderr.contains("continuing as user nobody, who owns"), "{command:?}: {ended:?}");
        for entry in std::fs::read_dir(cli.folder.path()).unwrap() {
            let path = entry.unwrap().path();
            let is_of_program = path.file_name().unwrap().to_str().unwrap().starts_with("groups.db");
            let owner = std::fs::metadata(&path).unwrap().uid();
            assert!(!is_of_program || owner == NOBODY, "{command:?}: {} is of {owner}", path.display());
        }
    }
    // Root can read this key, but the service runs as the owner of the database and cannot.
    std::os::unix::fs::chown(cli.path("app.key"), Some(0), Some(0)).unwrap();
    let refused = cli.run(&["check"]).await;
    assert!(
        refused.code == Some(78) && refused.stdout.contains("chown it to the user who runs"),
        "{refused:?}"
    );
}
