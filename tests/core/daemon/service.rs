//! The daemon as a service: signals, notifications to systemd, and unavailable resources.

use std::os::unix::net::UnixDatagram;
use std::process::Command;
use std::time::Duration;

use harness::cli::CliHarness;
use harness::postgres::{PostgresServer, ServerDatabase};
use harness::program::Service;
use rustix::process::Signal;
use tim_group_sync::simulator::{At, HeldRequests, KEY, Settings, Simulator};

/// The receiver of a service's notifications, in place of systemd.
struct Manager {
    socket: UnixDatagram,
    received: Vec<String>,
}

impl Manager {
    /// Makes the daemon of this command send its notifications here.
    fn of(cli: &CliHarness, command: &mut Command) -> Self {
        let path = cli.path("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        command.env("NOTIFY_SOCKET", path);
        Self { socket, received: Vec::new() }
    }

    /// Waits for a notification that contains this text, and removes it.
    async fn wait_for(mut self, text: &'static str) -> Self {
        tokio::task::spawn_blocking(move || {
            loop {
                if let Some(at) = self.received.iter().position(|message| message.contains(text)) {
                    self.received.remove(at);
                    return self;
                }
                let mut message = [0; 4096];
                let length = self.socket.recv(&mut message).unwrap_or_else(|error| {
                    panic!("no notification {text:?} ({error}), only {:?}", self.received);
                });
                self.received.push(String::from_utf8_lossy(&message[..length]).trim_end().to_owned());
            }
        })
        .await
        .unwrap()
    }
}

/// Returns a configuration section of another app with its own simulated API.
fn another_app(name: &str, sdk_app_id: i64, api: &Simulator) -> String {
    format!(
        "[apps.{name}]\nsdk_app_id = {sdk_app_id}\nsecret_key_file = \"{name}.key\"\nbase_url = \"{}\"\n\
         request_interval = \"0s\"\nretry_for = \"1s\"\n",
        api.base_url()
    )
}

async fn api_of(sdk_app_id: i64) -> Simulator {
    let sdk_app_id = tim_group_sync::model::SdkAppId::new(sdk_app_id).unwrap();
    let api = Simulator::start(Settings { sdk_app_id, ..Settings::default() }).await.unwrap();
    api.create_many("Public", 2);
    api
}

fn on_server(cli: &CliHarness, database: &ServerDatabase) -> Command {
    let mut command = cli.command(&["run"]);
    command.env("TIM_GROUP_SYNC_DATABASE_URL", &database.url);
    command
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_adds_apps_and_notifies_systemd_of_its_start_and_its_end() {
    let cli = CliHarness::new().await;
    let mut command = cli.command(&["run"]);
    let manager = Manager::of(&cli, &mut command);
    let daemon = Service::spawn(command).wait_for_log("crawl complete").await;
    let manager = manager.wait_for("READY=1").await;
    let api = api_of(1_400_000_001).await;
    std::fs::write(cli.path("other.key"), KEY).unwrap();
    cli.configure(&another_app("other", 1_400_000_001, &api));
    daemon.signal(Signal::HUP);
    let daemon = daemon.wait_for_log("configuration reloaded").await.wait_for_log("crawl complete").await;
    let manager = manager.wait_for("RELOADING=1\nMONOTONIC_USEC=").await.wait_for("READY=1").await;
    assert_eq!(daemon.stop().await, Some(0));
    manager.wait_for("STOPPING=1").await;
    assert_eq!(
        cli.query("SELECT app, status FROM crawls ORDER BY crawl_id").await,
        "prod complete\nother complete"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_of_an_invalid_file_reports_every_mistake_and_changes_nothing() {
    let cli = CliHarness::new().await;
    let mut command = cli.command(&["run"]);
    let manager = Manager::of(&cli, &mut command);
    let daemon = Service::spawn(command).wait_for_log("crawl complete").await;
    let manager = manager.wait_for("READY=1").await;
    cli.configure("page_limit = 0\nregoin = \"china\"\n");
    daemon.signal(Signal::HUP);
    let daemon = daemon.wait_for_log("apps.prod.page_limit").await.wait_for_log("apps.prod.regoin").await;
    let daemon = daemon.wait_for_log("was not reloaded").await;
    let manager = manager.wait_for("RELOADING=1").await.wait_for("READY=1").await;
    let manager = manager.wait_for("; the configuration was not reloaded: ").await;
    daemon.signal(Signal::USR1);
    let daemon = daemon.wait_for_log("crawl complete").await;
    cli.configure("");
    daemon.signal(Signal::HUP);
    let daemon = daemon.wait_for_log("configuration reloaded").await;
    assert_eq!(daemon.stop().await, Some(0));
    drop(manager);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_names_the_changes_that_need_a_restart() {
    let cli = CliHarness::new().await;
    let daemon = cli.service().wait_for_log("crawl complete").await;
    let text = std::fs::read_to_string(cli.path("config.toml")).unwrap();
    let text = text.replace("groups.db\"", "others.db\"\nauto_migrate = false\n[log]\nformat = \"text\"");
    std::fs::write(cli.path("config.toml"), text).unwrap();
    daemon.signal(Signal::HUP);
    let daemon = daemon.wait_for_log("changed settings that need a restart to take effect: database.auto_migrate, database.url, log.format").await;
    assert_eq!(daemon.stop().await, Some(0));
    assert!(!cli.path("others.db").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_changes_the_log_level() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 3);
    cli.configure("[log]\nlevel = \"error\"\n");
    let held = cli.api.hold(At::Request(2));
    let daemon = cli.service();
    held.reached().await;
    cli.configure("[log]\nlevel = \"info\"\n");
    daemon.signal(Signal::HUP);
    let daemon = daemon.wait_for_log("configuration reloaded").await;
    held.release();
    let daemon = daemon.wait_for_log("crawl complete").await;
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_daemon_without_its_database_is_ready_for_systemd_reports_the_problem_and_recovers() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 3);
    // A file prevents the folder from being created.
    std::fs::write(cli.path("data"), "").unwrap();
    let text = std::fs::read_to_string(cli.path("config.toml")).unwrap();
    std::fs::write(cli.path("config.toml"), text.replace("sqlite:groups.db", "sqlite:data/groups.db"))
        .unwrap();
    let mut command = cli.command(&["run"]);
    let manager = Manager::of(&cli, &mut command);
    let daemon = Service::spawn(command).wait_for_log("waiting for the database").await;
    let manager = manager.wait_for("READY=1").await;
    let manager =
        manager.wait_for("STATUS=started, but without a database; waiting for the database: ").await;
    std::fs::remove_file(cli.path("data")).unwrap();
    let daemon = daemon.wait_for_log("the database is open").await.wait_for_log("crawl complete").await;
    assert!(cli.path("data/groups.db").exists());
    assert_eq!(daemon.stop().await, Some(0));
    drop(manager);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_without_its_key_file_does_not_delay_the_others_and_is_added_by_a_reload() {
    let cli = CliHarness::new().await;
    let api = api_of(1_400_000_001).await;
    cli.configure(&another_app("other", 1_400_000_001, &api));
    let daemon = cli.service().wait_for_log("crawl complete").await;
    assert_eq!(cli.query("SELECT app FROM crawls").await, "prod");
    std::fs::write(cli.path("other.key"), KEY).unwrap();
    daemon.signal(Signal::HUP);
    let daemon = daemon.wait_for_log("configuration reloaded").await.wait_for_log("crawl complete").await;
    assert_eq!(daemon.stop().await, Some(0));
    assert_eq!(cli.query("SELECT app FROM crawls ORDER BY crawl_id").await, "prod\nother");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_start_that_needs_a_configuration_change_exits_with_78() {
    let cli = CliHarness::new().await;
    std::fs::remove_file(cli.path("app.key")).unwrap();
    let ended = cli.run(&["run"]).await;
    assert!(ended.code == Some(78) && ended.stderr.contains("app.key"), "{ended:?}");

    cli.write_key(KEY);
    let server = PostgresServer::shared().await;
    let mut command = cli.command(&["run"]);
    command.env("TIM_GROUP_SYNC_DATABASE_URL", server.url("there_is_no_such_database"));
    let output = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
    assert_eq!(output.status.code(), Some(78), "{}", String::from_utf8_lossy(&output.stderr));
}

/// Sets a request timeout that is long enough for another process to start.
fn allow_slow_answers(cli: &CliHarness) {
    let config = std::fs::read_to_string(cli.path("config.toml")).unwrap();
    let patient = config.replace("request_timeout = \"2s\"", "request_timeout = \"60s\"");
    assert_ne!(config, patient);
    std::fs::write(cli.path("config.toml"), patient).unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: tests/run"]
async fn if_a_replica_is_killed_during_a_crawl_the_other_one_crawls_without_losing_anything() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 3);
    allow_slow_answers(&cli);
    let server = PostgresServer::shared().await;
    let database = server.database().await;
    let held = cli.api.hold(At::Request(3));
    let first = Service::spawn(on_server(&cli, &database));
    held.reached().await;
    let second =
        Service::spawn(on_server(&cli, &database)).wait_for_log("another process is crawling this app").await;
    let mut status = cli.command(&["status"]);
    status.env("TIM_GROUP_SYNC_DATABASE_URL", &database.url);
    let status = tokio::task::spawn_blocking(move || status.output().unwrap()).await.unwrap();
    let shown = String::from_utf8(status.stdout).unwrap();
    assert!(shown.contains("lease                held by "), "{shown}");

    first.kill();
    held.release();
    // A lease lasts for 30 seconds from its last renewal. The test expires it.
    let sql = "UPDATE tim_private.lease SET expires_at = 0";
    server.execute(&database.name, sql).await.unwrap();
    let second = second.wait_for_log("crawl complete").await;
    assert_eq!(second.stop().await, Some(0));
    let assertions = "DO $$ BEGIN
        ASSERT (SELECT string_agg(status || ' ' || coalesce(reason_code, '-'), ', ' ORDER BY crawl_id) FROM tim.crawls)
            = 'failed process_ended, complete -';
        ASSERT (SELECT count(*) FROM tim.live_groups) = 3; END $$";
    server.execute(&database.name, assertions).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: tests/run"]
async fn two_replicas_share_the_apps_by_their_leases() {
    let cli = CliHarness::new().await;
    let api = api_of(1_400_000_001).await;
    std::fs::write(cli.path("other.key"), KEY).unwrap();
    cli.configure(&another_app("other", 1_400_000_001, &api));
    allow_slow_answers(&cli);
    let server = PostgresServer::shared().await;
    let database = server.database().await;
    // One request of each app is held, so both replicas crawl at the same time.
    let held = [cli.api.hold(At::Request(2)), api.hold(At::Request(2))];
    let first = Service::spawn(on_server(&cli, &database));
    held[0].reached().await;
    held[1].reached().await;
    let second =
        Service::spawn(on_server(&cli, &database)).wait_for_log("another process is crawling this app").await;
    let second = second.wait_for_log("another process is crawling this app").await;
    held.into_iter().for_each(HeldRequests::release);
    let first = first.wait_for_log("crawl complete").await.wait_for_log("crawl complete").await;
    for daemon in [first, second] {
        assert_eq!(daemon.stop().await, Some(0));
    }
    // Each app's tick was crawled once, by either replica.
    let assertion = "DO $$ BEGIN
        ASSERT (SELECT string_agg(app || ' ' || status, ', ' ORDER BY app) FROM tim.crawls) = 'other complete, prod complete';
        END $$";
    server.execute(&database.name, assertion).await.unwrap();
}
