//! `crawl` of several apps: a failing app does not prevent the crawls of others, and each message
//! names its app.

use harness::cli::CliHarness;
use tim_group_sync::simulator::{At, Fault, KEY, Settings, Simulator};

/// Returns the configuration section of an app with its own API.
fn app(name: &str, sdk_app_id: i64, api: &Simulator) -> String {
    format!(
        "[apps.{name}]\nsdk_app_id = {sdk_app_id}\nsecret_key_file = \"{name}.key\"\nbase_url = \"{}\"\n\
         request_interval = \"0s\"\nrequest_timeout = \"2s\"\nretry_for = \"1s\"\n",
        api.base_url()
    )
}

async fn api_of(sdk_app_id: i64) -> Simulator {
    let sdk_app_id = tim_group_sync::model::SdkAppId::new(sdk_app_id).unwrap();
    let api = Simulator::start(Settings { sdk_app_id, ..Settings::default() }).await.unwrap();
    api.create_many("Public", 2);
    api
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_whose_key_is_missing_does_not_prevent_the_crawls_of_others() {
    let cli = CliHarness::new().await;
    let others = [api_of(1_400_000_001).await, api_of(1_400_000_002).await];
    let sections = app("first", 1_400_000_001, &others[0]) + &app("second", 1_400_000_002, &others[1]);
    cli.configure(&sections);
    std::fs::write(cli.path("second.key"), KEY).unwrap();
    let ended = cli.run(&["crawl"]).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert!(lines[0].starts_with("prod: crawl "), "{ended:?}");
    assert!(
        lines[1].starts_with("first: not crawled: app first cannot be crawled: cannot read "),
        "{ended:?}"
    );
    assert!(lines[2].starts_with("second: crawl "), "{ended:?}");
    assert_eq!(
        cli.query("SELECT app, status FROM crawls ORDER BY app").await,
        "prod complete\nsecond complete"
    );
    let document = cli.run(&["crawl", "--json"]).await.result();
    assert_eq!(document[1]["app"], "first");
    assert!(document[1]["status"].is_null() && document[1]["reason"].as_str().unwrap().contains("first.key"));
    let dry = cli.run(&["crawl", "--dry-run"]).await;
    assert_eq!(dry.code, Some(78), "{dry:?}");
    assert!(
        dry.stdout.contains("first: not crawled: ") && dry.stdout.contains("second: dry run, "),
        "{dry:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn if_no_app_has_a_key_the_errors_name_each_app_and_no_database_is_created() {
    let cli = CliHarness::new().await;
    let other = api_of(1_400_000_001).await;
    cli.configure(&app("other", 1_400_000_001, &other));
    std::fs::remove_file(cli.path("app.key")).unwrap();
    let ended = cli.run(&["crawl"]).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    for expected in ["app prod cannot be crawled", "app.key", "app other cannot be crawled", "other.key"] {
        assert!(ended.stderr.contains(expected), "{ended:?}");
    }
    assert!(!cli.path("groups.db").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_exit_code_is_that_of_the_most_severe_failure() {
    let cli = CliHarness::new().await;
    let other = api_of(1_400_000_001).await;
    cli.configure(&app("other", 1_400_000_001, &other));
    std::fs::write(cli.path("other.key"), KEY).unwrap();
    other.script(At::Every, Fault::ErrorCode(70402));
    let ended = cli.run(&["crawl"]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stdout.contains("prod: crawl ") && ended.stdout.contains("other: crawl "), "{ended:?}");
    std::fs::remove_file(cli.path("app.key")).unwrap();
    assert_eq!(cli.run(&["crawl"]).await.code, Some(78));
}
