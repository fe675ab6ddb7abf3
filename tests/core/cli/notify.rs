//! `notify --test`, `check` and the service with `[notify]`: outcomes, exit codes, and no secret in
//! any output.

use harness::cli::{CliHarness, CommandOutput, get, start_with_metrics};
use harness::program::Service;
use harness::receiver::{Reply, SECRET, TOKEN, TestReceiver};
use rustix::process::Signal;
use tim_group_sync::config::{Config, Environment};
use tim_group_sync::notify::Receiver;

const USAGE: i32 = 2;
const CONFIG: i32 = 78;

/// A configuration with a receiver of notifications, and with a secret if the format uses one.
struct NotifyHarness {
    cli: CliHarness,
    receiver: TestReceiver,
}

impl NotifyHarness {
    async fn new(format: &str) -> Self {
        let harness = Self { cli: CliHarness::new().await, receiver: TestReceiver::start().await };
        harness.write_secret("notify-url", &harness.receiver.url());
        harness.write_secret("notify-secret", SECRET);
        harness.configure(format);
        harness
    }

    fn configure(&self, format: &str) {
        let secret =
            if ["slack", "wecom"].contains(&format) { "" } else { "secret_file = \"notify-secret\"\n" };
        self.cli.configure(&format!("[notify]\nurl_file = \"notify-url\"\nformat = \"{format}\"\n{secret}"));
    }

    fn write_secret(&self, file: &str, content: &str) {
        use std::os::unix::fs::PermissionsExt as _;
        let path = self.cli.path(file);
        std::fs::write(&path, format!("{content}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
    }

    /// Runs a command with log level trace. Checks its exit code, and that it shows no secret.
    async fn run(&self, arguments: &[&str], code: i32) -> CommandOutput {
        let mut command = self.cli.command(arguments);
        command.env("TIM_GROUP_SYNC_LOG", "trace");
        let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let ended = CommandOutput::from(output);
        assert_eq!(ended.code, Some(code), "{arguments:?}: {ended:?}");
        assert_no_secret(&format!("{ended:?}"));
        ended
    }

    async fn test(&self, code: i32) -> CommandOutput {
        self.run(&["notify", "--test"], code).await
    }
}

fn assert_no_secret(text: &str) {
    // The address of the receiver is not a secret, although it is a part of the secret URL.
    assert!(!text.contains(TOKEN) && !text.contains(SECRET) && !text.contains("/hook/"), "{text}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_test_notification_reaches_a_receiver_of_every_format() {
    for (format, answer) in [
        ("json", ""),
        ("slack", "ok"),
        ("wecom", r#"{"errcode":0,"errmsg":"ok"}"#),
        ("dingtalk", r#"{"errcode":0,"errmsg":"ok"}"#),
        ("feishu", r#"{"code":0,"msg":"success"}"#),
    ] {
        let harness = NotifyHarness::new(format).await;
        harness.receiver.reply(Reply::ok(answer));
        let ended = harness.test(0).await;
        assert_eq!(ended.stdout, format!("the {format} receiver accepted the test notification\n"));
        let posts = harness.receiver.posts();
        assert_eq!(posts.len(), 1, "{format}");
        assert!(posts[0].body.contains("This is a test. Notifications reach this place."), "{posts:?}");
        if format == "json" {
            assert_eq!(posts[0].state(), "test begins");
        }
    }
    let harness = NotifyHarness::new("json").await;
    let result = harness.run(&["notify", "--test", "--json"], 0).await.result();
    assert_eq!(result, serde_json::json!({ "delivered": true, "format": "json" }));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_test_notification_exits_78_and_names_the_remedy() {
    for (format, status, answer, advice) in [
        ("json", 404, "", "the URL in url_file is no longer valid, or the secret is wrong"),
        ("json", 302, "", "it redirects, which is not followed"),
        ("slack", 403, "invalid_token", "(invalid_token)"),
        (
            "wecom",
            200,
            r#"{"errcode":93000,"errmsg":"invalid webhook url"}"#,
            "is not the URL of an active robot",
        ),
        (
            "dingtalk",
            200,
            r#"{"errcode":310000,"errmsg":"keywords not in content"}"#,
            "add tim-group-sync to the keywords",
        ),
        (
            "feishu",
            200,
            r#"{"code":19021,"msg":"sign match fail"}"#,
            "check secret_file, and this machine's clock",
        ),
    ] {
        let harness = NotifyHarness::new(format).await;
        harness.receiver.reply(Reply::Status(status, answer.to_owned()));
        let ended = harness.test(CONFIG).await;
        assert!(ended.stderr.contains("the test notification was not delivered"), "{ended:?}");
        assert!(ended.stderr.contains(advice), "{ended:?}");
        assert_eq!(harness.receiver.posts().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_cannot_accept_the_test_now_exits_1() {
    for (format, reply, why) in [
        (
            "json",
            Reply::Status(500, format!("oops {TOKEN}")),
            "HTTP 500: it has an internal error (oops (hidden))",
        ),
        ("json", Reply::Close, "the receiver cannot be reached: "),
        ("slack", Reply::Status(429, String::new()), "HTTP 429: its rate limit was exceeded"),
        (
            "wecom",
            Reply::ok(r#"{"errcode":45009,"errmsg":"api freq out of limit"}"#),
            "code 45009: its rate limit was exceeded",
        ),
        ("feishu", Reply::ok("<html>"), "without a result"),
    ] {
        let harness = NotifyHarness::new(format).await;
        harness.receiver.reply(reply);
        let ended = harness.test(1).await;
        assert!(ended.stderr.contains(why), "{ended:?}");
    }
    let harness = NotifyHarness::new("json").await;
    let closed = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    harness.write_secret("notify-url", &format!("http://{closed}/hook/{TOKEN}"));
    let ended = harness.test(1).await;
    assert!(ended.stderr.contains("Connection refused"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_receiver_that_is_not_configured_correctly_exits_78() {
    let harness = NotifyHarness::new("json").await;
    for (url, why) in [
        (
            format!("http://example.com/hook/{TOKEN}"),
            "does not begin with https://; plain http:// is only for this machine",
        ),
        (TOKEN.to_owned(), "is not a URL: relative URL without a base"),
        (format!("https://example.com/hook/{TOKEN} {TOKEN}"), "contains white space"),
        (String::new(), "is empty"),
    ] {
        harness.write_secret("notify-url", &url);
        let ended = harness.test(CONFIG).await;
        assert!(ended.stderr.contains(why), "{why}: {ended:?}");
        let checked = harness.run(&["check"], CONFIG).await;
        assert!(checked.stdout.contains("FAIL  notify") && checked.stdout.contains(why), "{checked:?}");
    }
    std::fs::remove_file(harness.cli.path("notify-url")).unwrap();
    let ended = harness.test(CONFIG).await;
    assert!(ended.stderr.contains("put only the secret into this file"), "{ended:?}");
    harness.cli.configure("");
    let ended = harness.test(CONFIG).await;
    assert!(
        ended.stderr.contains("the configuration has no section [notify]; add it with url_file"),
        "{ended:?}"
    );
    harness.run(&["notify"], USAGE).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_mistake_in_the_section_is_reported_without_its_secrets() {
    let harness = NotifyHarness::new("json").await;
    let url = harness.receiver.url();
    for (lines, problem) in [
        (format!("url_file = \"{url}\""), "must be the path of a file, but is a URL; the value is not shown"),
        (format!("url = \"{url}\""), "unknown key. Known here: url_file, format, secret_file"),
        (format!("url_file = \"a\"\nsecret = \"{SECRET}\""), "write secret_file = "),
        ("format = \"json\"".to_owned(), "notify.url_file: is missing"),
        (
            "url_file = \"a\"\nformat = \"lark\"".to_owned(),
            "must be one of json, slack, wecom, dingtalk, feishu",
        ),
        (
            "url_file = \"a\"\nformat = \"slack\"\nsecret_file = \"b\"".to_owned(),
            "is not used by the format slack: its receivers verify no secret",
        ),
    ] {
        harness.cli.configure(&format!("[notify]\n{lines}\n"));
        let ended = harness.run(&["check"], CONFIG).await;
        assert!(ended.stdout.contains(problem), "{problem}: {ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn check_reports_that_the_receiver_is_usable_and_sends_nothing() {
    let harness = NotifyHarness::new("dingtalk").await;
    let ended = harness.run(&["check"], 0).await;
    let expected = "ok    notify         the URL of the dingtalk receiver is valid, with a secret; nothing was sent: try it with \
                    `tim-group-sync notify --test`";
    assert!(ended.stdout.contains(expected), "{ended:?}");
    let shown = harness.run(&["check", "--show-config"], 0).await;
    assert!(shown.stdout.contains("notify.format = \"dingtalk\""), "{shown:?}");
    std::fs::set_permissions(
        harness.cli.path("notify-url"),
        std::os::unix::fs::PermissionsExt::from_mode(0o644),
    )
    .unwrap();
    let ended = harness.run(&["check"], 0).await;
    assert!(ended.stdout.contains("warn  notify         users other than its owner can read"), "{ended:?}");
    assert!(harness.receiver.posts().is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_service_notifies_and_shows_no_secret_of_the_receiver() {
    let harness = NotifyHarness::new("json").await;
    harness.cli.serve_metrics();
    harness.cli.api.create_many("Public", 3);
    harness.cli.write_key(&"f".repeat(64));
    harness.receiver.reply(Reply::Status(500, format!("{TOKEN} {SECRET}")));
    let mut command = harness.cli.command(&["run"]);
    command.env("TIM_GROUP_SYNC_LOG", "trace");
    let (service, metrics) = start_with_metrics(command).await;
    let service = service.wait_for_log("HTTP 500").await;
    harness.receiver.reply(Reply::ok(""));
    let service = service.wait_for_log("notification delivered").await;
    let post = harness.receiver.wait_for_accepted(1).await;
    assert_eq!(post.state(), "refused begins");
    let (_, _, page) = get(&metrics, "/metrics").await;
    let delivered = "tim_group_sync_notifications_total{event=\"refused\",outcome=\"delivered\"} 1\n";
    assert!(page.contains(delivered), "{page}");
    // A reload replaces the receiver.
    let slack = TestReceiver::start().await;
    harness.write_secret("notify-url", &slack.url());
    harness.configure("slack");
    harness.cli.serve_metrics();
    harness.cli.write_key(tim_group_sync::simulator::KEY);
    service.signal(Signal::HUP);
    let service = service.wait_for_log("crawl complete").await;
    let post = slack.wait_for_accepted(1).await;
    assert!(post.json()["text"].as_str().unwrap().contains("the API accepts the credentials again"));
    let (_, _, ready) = get(&metrics, "/readyz").await;
    service.signal(Signal::TERM);
    let service = service.wait_for_log("stopped").await;
    for text in [service.log(), &page, &ready] {
        assert_no_secret(text);
    }
    assert_eq!(service.wait_for_exit().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_unusable_receiver_is_logged_and_does_not_prevent_crawls() {
    let harness = NotifyHarness::new("json").await;
    harness.cli.api.create_many("Public", 3);
    std::fs::remove_file(harness.cli.path("notify-url")).unwrap();
    let service = Service::spawn(harness.cli.command(&["run"]));
    let service =
        service.wait_for_log("no notification can be sent until this is corrected: cannot read ").await;
    let service = service.wait_for_log("crawl complete").await;
    assert_eq!(service.stop().await, Some(0));
}

#[tokio::test]
async fn no_debug_output_shows_the_url_or_the_secret() {
    let harness = NotifyHarness::new("json").await;
    let environment = Environment::new([("HOME", "/home/u")]);
    let config = Config::load(&harness.cli.path("config.toml"), &environment).unwrap();
    let notify = config.notify.as_ref().unwrap();
    let read = notify.read().unwrap();
    let receiver = Receiver::new(&read.url, "notify-url", notify.format, read.secret.clone()).unwrap();
    assert_no_secret(&format!("{config:?} {read:?} {receiver:?}"));
}
