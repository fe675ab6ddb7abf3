//! Views that evaluate several crawls: growth, lifetimes, daily statistics of crawls, and withheld
//! deletions. Queries for one group must not read the others.

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use harness::crawl::{Harness, ON_COMMAND, format_time, outcome};
use harness::crawl_tests;
use harness::store::{Location, TestDatabase};
use harness::store_tests;
use tim_group_sync::clock::Clock;
use tim_group_sync::crawl::WhenBusy;
use tim_group_sync::model::SdkAppId;
use tim_group_sync::simulator::{At, Fault};
use tim_group_sync::store::AppIdentity;
use tokio_util::sync::CancellationToken;

crawl_tests! {
    a_baseline_does_not_count_as_growth_and_later_days_do,
    growth_includes_changes_without_an_event_of_the_day,
    days_without_a_crawl_have_no_row_and_the_next_day_has_their_growth,
    a_lifetime_lasts_from_first_seen_at_to_deleted_at,
    groups_of_a_baseline_have_no_lifetime,
    crawls_are_counted_by_day_in_the_schedules_time_zone,
    a_running_crawl_is_in_the_status_and_in_no_daily_counts,
    the_status_has_the_newest_total_counts_by_type_and_of_the_app,
    withheld_deletions_are_counted_until_they_are_settled,
}

store_tests! {
    a_group_and_its_history_are_found_by_an_index_on_the_id,
    events_since_a_time_are_found_without_reading_the_older_ones,
    the_newest_events_are_found_without_reading_and_sorting_the_others,
}

/// Returns one line for each day and type: day of March, type, live groups, live groups before,
/// growth.
async fn growth(harness: &Harness) -> Vec<String> {
    let sql = "SELECT day, group_type, live_groups, live_before, net_growth FROM daily_counts ORDER BY day, group_type";
    harness.lines(sql).await.into_iter().map(|line| line.replace("2026-03-", "")).collect()
}

async fn a_baseline_does_not_count_as_growth_and_later_days_do(harness: Harness) {
    harness.create("Public", "a b c d");
    harness.fault_at_request(3, Fault::ErrorCode(10004));
    // The crawl listed some groups, but the baseline continues.
    assert_eq!(outcome(&harness.crawl().await), "failed api_error 10004");
    harness.move_clock_by_hours(24);
    harness.crawl().await;
    assert_eq!(harness.value("SELECT count(*) FROM daily_counts WHERE net_growth IS NOT NULL").await, "0");

    harness.move_clock_by_hours(24);
    harness.create("Public", "e f");
    harness.create("Private", "p");
    harness.crawl().await;
    harness.dissolve("a b c");
    harness.crawl().await;
    let newest = growth(&harness).await.split_off(4);
    assert_eq!(newest, ["03 Private 1 0 1", "03 Public 3 4 -1"]);
    let sql =
        "SELECT sum(appeared), sum(vanished), sum(net_growth) FROM daily_counts WHERE day >= '2026-03-03'";
    assert_eq!(harness.lines(sql).await, ["3 3 0"]);
}

async fn growth_includes_changes_without_an_event_of_the_day(harness: Harness) {
    harness.create("Public", "a b c");
    harness.crawl().await;
    harness.move_clock_by_hours(24);
    harness.dissolve("a");
    let deleting = harness.crawl().await;
    harness.api.retype("b", "Private");
    harness.crawl().await;
    harness.move_clock_by_hours(24);
    harness.undelete(deleting.crawl).await;
    let days = growth(&harness).await;
    assert_eq!(days[2..], ["02 Private 1 0 1", "02 Public 1 3 -2", "03 Public 2 1 1"]);
}

async fn days_without_a_crawl_have_no_row_and_the_next_day_has_their_growth(harness: Harness) {
    harness.create("Public", "a");
    harness.crawl().await;
    harness.move_clock_by_hours(5 * 24);
    harness.create("Public", "b c");
    harness.crawl().await;
    let public = growth(&harness).await.into_iter().filter(|line| line.contains("Public"));
    assert_eq!(public.collect::<Vec<_>>(), ["01 Public 1 NULL NULL", "06 Public 3 1 2"]);
}

async fn a_lifetime_lasts_from_first_seen_at_to_deleted_at(harness: Harness) {
    harness.crawl().await;
    harness.create("Public", "short long");
    harness.crawl().await;
    harness.dissolve("short");
    let report = harness.crawl().await;
    let first_seen = harness.value("SELECT first_seen_at FROM groups WHERE group_id = 'short'").await;
    let seconds = (report.finished_at - first_seen.parse::<DateTime<Utc>>().unwrap()).num_seconds();
    let row = "SELECT group_type, first_seen_at, deleted_at, lifetime_seconds FROM group_lifetimes WHERE group_id =";
    assert_eq!(
        harness.lines(&format!("{row} 'short'")).await,
        [format!("Public {first_seen} {} {seconds}", format_time(report.finished_at))]
    );

    // The lifetime of a live group ends now, by the database's clock.
    let long = harness.rows(&format!("{row} 'long'")).await.remove(0);
    let now = long[1].parse::<DateTime<Utc>>().unwrap().timestamp() + long[3].parse::<i64>().unwrap();
    assert!((Clock::system().now().timestamp() - now).abs() < 60, "{long:?}");
    assert_eq!(long[2], "NULL");
}

async fn groups_of_a_baseline_have_no_lifetime(harness: Harness) {
    harness.create("Public", "old older");
    harness.crawl().await;
    harness.create("Public", "new");
    harness.dissolve("older");
    harness.crawl().await;
    assert_eq!(harness.lines("SELECT group_id FROM group_lifetimes").await, ["new"]);
}

async fn crawls_are_counted_by_day_in_the_schedules_time_zone(mut harness: Harness) {
    harness.timezone = Tz::Asia__Shanghai; // UTC+8: the first crawl is at 17:00 local time
    harness.create("Public", "a b c d e");
    let first = harness.crawl().await;
    harness.fault_at_request(1, Fault::ErrorCode(60021));
    assert_eq!(outcome(&harness.crawl().await), "failed refused 60021");
    let stopped = CancellationToken::new();
    stopped.cancel();
    assert_eq!(outcome(&harness.crawl_until_cancelled(&stopped).await), "cancelled cancelled");
    harness.move_clock_by_hours(5); // a new day in Shanghai, the same day in UTC
    harness.fault_at_request(2, Fault::EarlyEnd);
    harness.crawl().await;
    let days = "SELECT day, crawls, complete, incomplete, failed, cancelled FROM daily_crawls ORDER BY day";
    assert_eq!(harness.lines(days).await, ["2026-03-01 3 1 0 1 1", "2026-03-02 1 0 1 0 0"]);
    let rate = "SELECT count(*) FROM daily_crawls WHERE day = '2026-03-01' AND success_rate = 0.5";
    assert_eq!(harness.value(rate).await, "1");
    let seconds = (first.finished_at - first.started_at).num_seconds();
    let longest = format!(
        "SELECT count(*) FROM daily_crawls d WHERE d.day = '2026-03-01' AND d.longest_seconds = {seconds} AND d.total_seconds =
         (SELECT sum(c.duration_seconds) FROM crawls c WHERE c.day = d.day)
         AND d.requests = (SELECT sum(c.requests) FROM crawls c WHERE c.day = d.day)"
    );
    assert_eq!(harness.value(&longest).await, "1");
    // The days equal those of `daily_counts`.
    let others = "SELECT day FROM daily_crawls WHERE day NOT IN (SELECT day FROM daily_counts)";
    assert_eq!(harness.lines(others).await, [""; 0]);
}

async fn a_running_crawl_is_in_the_status_and_in_no_daily_counts(harness: Harness) {
    harness.create("Public", "a");
    let first = harness.crawl().await;
    let (status, days) =
        ("SELECT last_crawl_at, running_since FROM app_status", "SELECT crawls FROM daily_crawls");
    let ended = format_time(first.finished_at);
    assert_eq!(harness.lines(status).await, [format!("{ended} NULL")]);

    let held = harness.api.hold(At::Request(harness.request(2)));
    harness.prepare_crawl();
    let (crawler, stop) = (harness.crawler(), CancellationToken::new());
    let looking = async {
        held.reached().await;
        let started = harness.value("SELECT started_at FROM crawls WHERE status = 'running'").await;
        assert_eq!(harness.lines(status).await, [format!("{ended} {started}")]);
        assert_eq!(harness.lines(days).await, ["1"]);
        let open = "SELECT day, duration_seconds FROM crawls WHERE status = 'running'";
        assert_eq!(harness.lines(open).await, ["NULL NULL"]);
        held.release();
    };
    let (report, ()) = tokio::join!(crawler.crawl(ON_COMMAND, WhenBusy::GiveUp, &stop), looking);
    assert_eq!(harness.lines(status).await, [format!("{} NULL", format_time(report.unwrap().finished_at))]);
    assert_eq!(harness.lines(days).await, ["2"]);
}

async fn the_status_has_the_newest_total_counts_by_type_and_of_the_app(harness: Harness) {
    let by_type = "SELECT group_type, total_count, missing_count FROM type_status ORDER BY group_type";
    let of_app = "SELECT total_count FROM app_status";
    harness.create("Public", "a b");
    harness.crawl().await;
    assert_eq!(harness.lines(by_type).await, ["Private 0 0", "Public 2 0"]);
    harness.create("Private", "c");
    harness.crawl().await;
    assert_eq!(harness.lines(by_type).await, ["Private 1 0", "Public 2 0"]);
    assert_eq!(harness.value(of_app).await, "3");
    // A crawl without a TotalCount keeps the known one.
    harness.fault_at_request(1, Fault::ErrorCode(60021));
    harness.crawl().await;
    assert_eq!(harness.lines(by_type).await, ["Private 1 0", "Public 2 0"]);
    assert_eq!(harness.value(of_app).await, "3");
}

async fn withheld_deletions_are_counted_until_they_are_settled(mut harness: Harness) {
    let waiting = "SELECT crawl_id, withheld, held_count FROM crawls WHERE held_count > 0";
    let in_all = "SELECT held_count, missing_count FROM app_status";
    harness.create("Public", "a b c d");
    harness.crawl().await;
    harness.deletion.review = true;
    harness.dissolve("a b c");
    let report = harness.crawl().await;
    assert_eq!(harness.lines(waiting).await, ["2 3 3"]);
    harness.create("Public", "a");
    harness.crawl().await;
    assert_eq!(harness.lines(waiting).await, ["2 3 2"], "one of them was listed again");
    assert_eq!(harness.lines(in_all).await, ["2 2"]);
    harness.approve(report.crawl).await;
    assert_eq!(harness.lines(waiting).await, [""; 0]);
    assert_eq!(harness.lines(in_all).await, ["0 0"]);
    assert_eq!(harness.value("SELECT withheld FROM crawls WHERE crawl_id = 2").await, "3");
}

/// Returns the query plan that the engine would choose for large tables.
async fn plan(db: &TestDatabase, sql: &str) -> String {
    match &db.location {
        Location::Sqlite(_) => {
            let steps = db.rows(&format!("EXPLAIN QUERY PLAN {sql}")).await;
            steps.into_iter().map(|mut step| step.remove(3)).collect::<Vec<_>>().join("\n")
        }
        // Sequential scans and sorts are disabled, so the plan has them only if there is no other
        // way.
        Location::Postgres(_) => db
            .lines(&format!("SET enable_seqscan = off; SET enable_sort = off; EXPLAIN {sql}"))
            .await
            .join("\n"),
    }
}

async fn a_group_and_its_history_are_found_by_an_index_on_the_id(db: &TestDatabase) {
    for view in ["groups", "live_groups", "group_lifetimes", "group_events"] {
        for app in ["", " AND app = 'prod'", " AND sdk_app_id = 1400000000"] {
            let plan = plan(db, &format!("SELECT * FROM {view} WHERE group_id = 'a'{app}")).await;
            let found = match &db.location {
                Location::Sqlite(_) => plan.contains("group_id=?)") || plan.contains("(group_id=?"),
                Location::Postgres(_) => {
                    plan.lines().any(|line| line.contains("Index Cond") && line.contains("group_id = 'a'"))
                }
            };
            assert!(found, "{view}{app}:\n{plan}");
        }
    }
}

async fn events_since_a_time_are_found_without_reading_the_older_ones(db: &TestDatabase) {
    let since = plan(db, "SELECT * FROM group_events WHERE occurred_at >= '2026-03-01T00:00:00Z'").await;
    assert!(since.contains("group_event_by_time"), "{since}");
}

async fn the_newest_events_are_found_without_reading_and_sorting_the_others(db: &TestDatabase) {
    let app = AppIdentity { sdk_app_id: SdkAppId::new(1_400_000_000).unwrap(), name: "prod".to_owned() };
    db.store.register_app(&app, &[]).await.unwrap();
    // Closing the store must not write statistics. With them the planner would see a single app,
    // and no need to sort.
    db.store.close().await;
    let of_app = match db.location {
        Location::Sqlite(_) => {
            "SELECT * FROM group_events WHERE sdk_app_id = 1400000000 ORDER BY event_id DESC LIMIT 9"
        }
        // The planner cannot know that the view joins a single app.
        Location::Postgres(_) => "SELECT * FROM group_event WHERE app_id = 1 ORDER BY event_id DESC LIMIT 9",
    };
    let of_all = plan(db, "SELECT * FROM group_events ORDER BY event_id DESC LIMIT 9").await;
    let of_app = plan(db, of_app).await;
    assert!(of_app.contains("group_event_by_app"), "{of_app}");
    for newest in [of_app, of_all] {
        assert!(!newest.contains("TEMP B-TREE") && !newest.contains("Sort"), "{newest}");
    }
}
