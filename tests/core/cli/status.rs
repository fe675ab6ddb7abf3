//! What `status` shows of few and of many apps.

use harness::cli::CliHarness;
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};

fn app(name: &str, id: u64) -> String {
    format!(
        "[apps.{name}]\nsdk_app_id = {id}\nsecret_key_file = \"app.key\"\nbase_url = \"http://127.0.0.1:9\"\n"
    )
}

/// Returns a harness with `prod`, which was crawled, and further apps, which were not.
async fn with_apps(more: u64) -> CliHarness {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 1234);
    cli.configure(&(1..=more).map(|n| app(&format!("app-{n:02}"), 1_400_000_000 + n)).collect::<String>());
    assert_eq!(cli.run(&["crawl", "--app", "prod"]).await.code, Some(0));
    cli
}

#[tokio::test(flavor = "multi_thread")]
async fn fifty_apps_have_a_line_each_of_at_most_80_columns() {
    let cli = with_apps(49).await;
    let ended = cli.run(&["status"]).await;
    let lines: Vec<&str> = ended.stdout.lines().collect();
    assert!(lines.len() <= 55, "{}", ended.stdout);
    assert!(lines.iter().all(|line| line.chars().count() <= 80), "{}", ended.stdout);
    let prod = lines.iter().find(|line| line.contains(" prod ")).unwrap();
    assert!(prod.matches("1,234").count() == 2 && prod.contains("up to date"), "{prod}");
    let other = lines.iter().find(|line| line.contains(" app-07 ")).unwrap();
    assert!(other.contains("none yet") && other.contains("never crawled"), "{other}");
    let footer = "0 of 50 apps need attention. Details of one: tim-group-sync status --app NAME";
    assert!(ended.stdout.contains(footer), "{}", ended.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn withheld_deletions_show_in_the_line_of_their_app() {
    let cli = with_apps(3).await;
    cli.api.dissolve_some(1000);
    assert_eq!(cli.run(&["crawl", "--app", "prod"]).await.code, Some(3));
    let ended = cli.run(&["status"]).await;
    assert!(ended.stdout.contains("1,000 withheld"), "{}", ended.stdout);
    assert!(ended.stdout.contains("1 of 4 apps needs attention."), "{}", ended.stdout);
}

#[tokio::test(flavor = "multi_thread")]
async fn one_app_is_shown_in_detail_beside_the_total_count_of_the_api() {
    let cli = with_apps(49).await;
    let ended = cli.run(&["status", "--app", "prod"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(!ended.stdout.contains("app-07"), "{}", ended.stdout);
    let all = ended.stdout.lines().find(|line| line.contains("│ all")).unwrap();
    assert_eq!(all.matches("1,234").count(), 2, "live and TotalCount: {all}");
    assert!(ended.stdout.contains("TotalCount") && ended.stdout.contains("last complete crawl  crawl 1"));
    let json = cli.run(&["status", "--app", "prod", "--json"]).await.result();
    assert_eq!(json.as_array().unwrap().len(), 1);
    let unknown = cli.run(&["status", "--app", "prd"]).await;
    assert_eq!(unknown.code, Some(1), "{unknown:?}");
    assert!(unknown.stderr.contains("has an app \"prd\""), "{unknown:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_json_has_the_names_of_the_dashboards_json_and_its_earlier_names() {
    let cli = with_apps(0).await;
    let app = &cli.run(&["status", "--json"]).await.result()[0];
    for name in ["live_count", "total_count"] {
        assert_eq!(app[name], 1234, "{name}: {app}");
        assert_eq!(app["types"][0][name], 1234, "{name}: {app}");
    }
    assert_eq!((&app["missing_count"], &app["held_count"]), (&0.into(), &0.into()));
    assert_eq!(app["last_complete_crawl_at"], app["last_complete_crawl"]["finished_at"]);
    let of_type = &app["types"][0];
    assert_eq!(
        (&of_type["live"], &of_type["missing"], &of_type["deleted"]),
        (&1234.into(), &0.into(), &0.into())
    );
    assert_eq!(of_type["configured"], true);
}

#[tokio::test(flavor = "multi_thread")]
async fn max_age_can_depend_on_the_schedule() {
    let cli = with_apps(0).await;
    let healthy = async |cron: &str| {
        cli.configure(&format!("[apps.prod.schedule]\ncron = \"{cron}\"\n"));
        cli.run(&["status", "--max-age", "schedule"]).await
    };
    // A crawl of five hours ago.
    rewind(&cli, 5).await;
    let hourly = healthy("0 * * * *").await;
    assert_eq!(hourly.code, Some(1), "{hourly:?}");
    assert!(hourly.stderr.contains("no complete crawl for 3 ticks of the schedule: prod"), "{hourly:?}");
    assert_eq!(healthy("0 0 * * *").await.code, Some(0));
    let wrong = cli.run(&["status", "--max-age", "shedule"]).await;
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
}

/// Sets the times of all crawls back.
async fn rewind(cli: &CliHarness, hours: i64) {
    let by = hours * 3_600_000;
    let sql = format!("UPDATE crawl SET started_at = started_at - {by}, finished_at = finished_at - {by}");
    let options = sqlx::sqlite::SqliteConnectOptions::new().filename(cli.path("groups.db"));
    let mut connection = options.connect().await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut connection).await.unwrap();
    connection.close().await.unwrap();
}
