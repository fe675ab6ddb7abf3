//! The condition of an app in the JSON, and its times, its quota and its recent history.

use std::time::Duration;

use harness::crawl::Harness;
use harness::crawl_tests;
use harness::daemon::{AppSpec, Daemon, DaemonHarness, PROD};
use harness::dashboard::Dashboard;
use serde_json::{Value, json};
use tim_group_sync::daemon::{HISTORY_LENGTH, Phase, next_crawl_by_history};
use tim_group_sync::policy::{DeletionPolicy, DetailsPolicy};
use tim_group_sync::schedule::Schedule;
use tim_group_sync::simulator::{At, Fault};
use tim_group_sync::store::KeysetPage;

crawl_tests![
    the_recent_crawls_are_listed_oldest_first,
    counts_are_compared_with_the_day_before_and_the_week_before,
    a_first_list_is_no_change,
    a_first_list_that_did_not_reach_its_end_is_no_change,
    held_groups_are_a_part_of_the_missing_ones_and_are_counted_by_type,
    the_groups_that_a_crawl_holds_have_pages,
    a_search_counts_the_groups_that_follow_its_page,
    the_peak_of_the_month_equals_its_view,
    the_number_of_groups_with_details_is_shown,
];

const APP: &str = "/api/apps/1400000000";

async fn the_recent_crawls_are_listed_oldest_first(mut harness: Harness) {
    harness.create("Public", "a b c d");
    harness.crawl().await;
    harness.fault_from_request(1, Fault::ErrorCode(70009));
    harness.crawl().await;
    harness.api.clear_faults();
    harness.deletion = DeletionPolicy { max_fraction: 0.1, min_groups: 1, ..DeletionPolicy::default() };
    harness.dissolve("a b");
    harness.crawl().await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    let app = dashboard.first_app().await;
    let crawls: Vec<Value> = app["recent_crawls"].as_array().unwrap().clone();
    let seen: Vec<String> = crawls
        .iter()
        .map(|crawl| format!("{} {} {}", crawl["crawl_id"], crawl["status"], crawl["deletions"]))
        .collect();
    assert_eq!(seen, ["1 \"complete\" \"none\"", "2 \"failed\" null", "3 \"complete\" \"withheld\""]);
    let listed = dashboard.json(&format!("{APP}/crawls?limit=1")).await["crawls"][0].clone();
    assert_eq!(crawls[2]["started_at"], listed["started_at"]);
    for _ in 4..=26 {
        harness.crawl().await;
    }
    let app = dashboard.first_app().await;
    let crawls = app["recent_crawls"].as_array().unwrap();
    assert_eq!((crawls.len(), &crawls[0]["crawl_id"], &crawls[23]["crawl_id"]), (24, &3.into(), &26.into()));
}

async fn counts_are_compared_with_the_day_before_and_the_week_before(harness: Harness) {
    harness.create("Public", "a b c");
    harness.create("Private", "p");
    harness.crawl().await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    let app = dashboard.first_app().await;
    assert_eq!(
        (&app["change_since_yesterday"], &app["change_since_last_week"]),
        (&Value::Null, &Value::Null),
        "the first day has no day before"
    );
    harness.move_clock_by_hours(6 * 24);
    harness.dissolve("a");
    harness.crawl().await;
    harness.move_clock_by_hours(24);
    harness.create("Public", "d e f");
    harness.dissolve("b");
    harness.crawl().await;
    let app = dashboard.first_app().await;
    let change = |name: &str| app[name].clone();
    assert_eq!(
        change("change_since_yesterday"),
        json!({ "since": "2026-03-07", "live_count": 2, "total_count": 2, "vanished": 1 })
    );
    assert_eq!(
        change("change_since_last_week"),
        json!({ "since": "2026-03-01", "live_count": 1, "total_count": 1, "vanished": 2 })
    );
    harness.move_clock_by_hours(10 * 24);
    harness.crawl().await;
    let app = dashboard.first_app().await;
    assert_eq!(app["change_since_yesterday"]["since"], "2026-03-08", "the newest day that has counts");
    assert_eq!(app["change_since_last_week"]["since"], "2026-03-08");
}

async fn a_first_list_is_no_change(mut harness: Harness) {
    harness.group_types = harness::crawl::group_types(&["Public"]);
    harness.create("Public", "a");
    harness.crawl().await;
    harness.move_clock_by_hours(24);
    harness.group_types = harness::crawl::group_types(&["Private", "Public"]);
    harness.create("Private", "p q r");
    harness.create("Public", "b");
    harness.crawl().await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    let app = dashboard.first_app().await;
    assert_eq!((&app["live_count"], &app["change_since_yesterday"]["live_count"]), (&5.into(), &1.into()));
    assert_eq!(app["change_since_yesterday"]["total_count"], 4, "TotalCount counts all types");
}

async fn a_first_list_that_did_not_reach_its_end_is_no_change(harness: Harness) {
    harness.create("Public", "a");
    harness.create("Private", "p q r s t");
    harness.fault_from_request(4, Fault::ErrorCode(10002));
    harness.crawl().await;
    harness.api.clear_faults();
    harness.move_clock_by_hours(24);
    harness.crawl().await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    let app = dashboard.first_app().await;
    let days = harness.rows("SELECT day, live_groups FROM daily_counts WHERE group_type = 'Private'").await;
    assert_eq!(days, [["2026-03-01", "3"], ["2026-03-02", "5"]]);
    assert_eq!((&app["live_count"], &app["change_since_yesterday"]["live_count"]), (&6.into(), &0.into()));
}

async fn held_groups_are_a_part_of_the_missing_ones_and_are_counted_by_type(mut harness: Harness) {
    harness.create("Public", "a b c d");
    harness.create("Private", "p q r");
    harness.crawl().await;
    harness.deletion = DeletionPolicy { max_fraction: 0.1, min_groups: 1, ..DeletionPolicy::default() };
    harness.dissolve("a b c p");
    harness.crawl().await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    let app = dashboard.first_app().await;
    assert_eq!((&app["condition"], &app["needs_attention"]), (&"withheld".into(), &true.into()));
    assert_eq!((&app["missing_count"], &app["held_count"]), (&4.into(), &4.into()));
    let [held] = &app["withheld"].as_array().unwrap()[..] else { panic!("{app}") };
    assert_eq!((&held["held_count"], &held["withheld"]), (&4.into(), &4.into()));
    assert_eq!(
        held["types"],
        json!([
            { "group_type": "Public", "sdk_name": "Public", "name_zh": "陌生人社交群", "held_count": 3, "live_count": 4 },
            { "group_type": "Private", "sdk_name": "Work", "name_zh": "好友工作群", "held_count": 1, "live_count": 3 },
        ])
    );
}

async fn the_groups_that_a_crawl_holds_have_pages(mut harness: Harness) {
    harness.create("Public", "a b c d e f");
    harness.crawl().await;
    harness.deletion = DeletionPolicy { max_fraction: 0.1, min_groups: 1, ..DeletionPolicy::default() };
    harness.dissolve("a b c");
    harness.crawl().await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    let page = async |parameters: &str| {
        let answer = dashboard.json(&format!("{APP}/groups?{parameters}")).await;
        let ids: Vec<Value> =
            answer["groups"].as_array().unwrap().iter().map(|group| group["group_id"].clone()).collect();
        (json!(ids), answer["next_after"].clone())
    };
    assert_eq!(page("held_by=2&limit=2").await, (json!(["a", "b"]), json!("b")));
    assert_eq!(page("held_by=2&limit=2&after=b").await, (json!(["c"]), Value::Null));
    assert_eq!(page("held_by=1").await, (json!([]), Value::Null));
    for (parameters, why) in [
        ("held_by=2&prefix=a", "send either prefix or held_by"),
        ("held_by=x", "held_by must be a number from 1 to 9223372036854775807, not \"x\""),
    ] {
        let answer = dashboard.get(&format!("{APP}/groups?{parameters}")).await;
        assert_eq!((answer.status, answer.error().as_str()), (400, why), "{parameters}");
    }
}

async fn a_search_counts_the_groups_that_follow_its_page(harness: Harness) {
    harness.create("Public", "x1 x2 x3 x4 x5 y");
    harness.api.create_many("Private", 3);
    harness.crawl().await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    let more = async |parameters: &str| {
        dashboard.json(&format!("{APP}/groups?{parameters}")).await["more_count"].clone()
    };
    assert_eq!(more("prefix=x&limit=2").await, 3);
    assert_eq!(more("prefix=x&limit=2&after=x2").await, 1);
    assert_eq!(more("prefix=x&limit=5").await, 0);
    assert_eq!(more("prefix=x").await, 0);
    assert_eq!(more("limit=2").await, Value::Null, "without a prefix nothing is counted");
}

async fn the_peak_of_the_month_equals_its_view(harness: Harness) {
    harness.create("Public", "a b c d");
    harness.crawl().await;
    harness.dissolve("a b");
    harness.crawl().await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    let peak = harness.rows("SELECT peak_total_count FROM monthly_counts WHERE group_type = 'all'").await;
    let app = dashboard.first_app().await;
    assert_eq!((app["month_peak_groups"].to_string(), &app["total_count"]), (peak[0][0].clone(), &2.into()));
    assert_eq!(app["group_quota"], Value::Null, "no process has the configuration of the app");
}

async fn the_number_of_groups_with_details_is_shown(mut harness: Harness) {
    harness.create("Public", "a b c");
    harness.crawl().await;
    let dashboard = Dashboard::for_store(&harness.store).await;
    assert_eq!(dashboard.first_app().await["details"], Value::Null);
    harness.details = Some(DetailsPolicy { refresh: Duration::from_hours(24), requests_per_second: 40 });
    harness.details_refresher().refresh_due().await.unwrap();
    let details = dashboard.first_app().await["details"].clone();
    assert_eq!((&details["groups"], &details["fresh_groups"]), (&3.into(), &3.into()));
    assert!(details["oldest_as_of"].is_string() && details["counted_at"].is_string(), "{details}");
}

async fn condition(harness: &DaemonHarness, daemon: &Daemon) -> Value {
    let dashboard = Dashboard::for_daemon(&harness.store, daemon.apps.clone(), &harness.clock).await;
    dashboard.first_app().await["condition"].clone()
}

#[tokio::test]
async fn an_app_is_up_to_date_until_three_ticks_pass_without_a_complete_crawl() {
    let harness = DaemonHarness::new().await;
    let mut daemon = harness.start_crawled().await;
    let earlier_requests = harness.api.requests().len() as u64;
    let gate = harness.api.hold(At::Request(earlier_requests + 1));
    harness.set_clock("09:00:00");
    daemon.trigger.fire();
    gate.reached().await;
    assert_eq!(condition(&harness, &daemon).await, "up_to_date", "a crawl runs, and is in time");
    harness.set_clock("11:00:00");
    let dashboard = Dashboard::for_daemon(&harness.store, daemon.apps.clone(), &harness.clock).await;
    let app = dashboard.first_app().await;
    assert_eq!((&app["condition"], &app["ticks_since_complete_crawl"]), (&"late".into(), &3.into()));
    assert_eq!(app["next_crawl_at"], "2026-03-10T12:00:00Z", "ticks that pass during a crawl are skipped");
    gate.release();
    daemon.wait_for_crawls(2).await;
}

#[tokio::test]
async fn an_app_that_was_never_crawled_is_not_up_to_date() {
    let harness = DaemonHarness::new().await;
    let mut daemon = harness.start(&PROD);
    daemon.wait_for_next_crawl_at("09:00:00").await;
    let dashboard = Dashboard::for_daemon(&harness.store, daemon.apps.clone(), &harness.clock).await;
    let app = dashboard.first_app().await;
    assert_eq!((&app["condition"], &app["needs_attention"]), (&"never_crawled".into(), &false.into()));
    assert_eq!(app["next_crawl_at"], "2026-03-10T09:00:00Z");
    assert_eq!(app["ticks_since_complete_crawl"], Value::Null);
}

#[tokio::test]
async fn a_crawl_that_repeats_a_failing_request_is_retrying() {
    let harness = DaemonHarness::new().await;
    let mut daemon = harness.start_crawled().await;
    let earlier_requests = harness.api.requests().len() as u64;
    harness.api.script(At::Every, Fault::Status(503));
    let fourth = harness.api.hold(At::Request(earlier_requests + 4));
    harness.set_clock("09:00:00");
    daemon.trigger.fire();
    fourth.reached().await;
    let dashboard = Dashboard::for_daemon(&harness.store, daemon.apps.clone(), &harness.clock).await;
    let app = dashboard.first_app().await;
    assert_eq!((&app["condition"], &app["needs_attention"]), (&"retrying".into(), &true.into()));
    assert_eq!(app["running_crawl"]["failed_attempts"], 3);
    let failure = app["running_crawl"]["last_failure"].as_str().unwrap();
    assert!(failure.starts_with("the API at 127.0.0.1 answered with HTTP status 503"), "{failure}");
    harness.api.clear_faults();
    fourth.release();
    daemon.wait_for_crawls(2).await;
    assert_eq!(condition(&harness, &daemon).await, "up_to_date");
}

#[tokio::test]
async fn a_peak_of_80_percent_of_the_quota_needs_attention() {
    let harness = DaemonHarness::new().await;
    for (quota, condition) in [(7, "up_to_date"), (6, "quota_near")] {
        let mut daemon = harness.start(&AppSpec { catch_up: true, group_quota: Some(quota), ..PROD });
        daemon.wait_until("the crawl made", |state| matches!(state.phase, Phase::Waiting)).await;
        let dashboard = Dashboard::for_daemon(&harness.store, daemon.apps.clone(), &harness.clock).await;
        let app = dashboard.first_app().await;
        assert_eq!(
            (&app["condition"], &app["month_peak_groups"], &app["group_quota"]),
            (&condition.into(), &5.into(), &quota.into())
        );
        daemon.stop().await;
    }
}

/// Asserts that the dashboard and the `status` command show the same next crawl.
async fn assert_next_crawls_agree(harness: &DaemonHarness, daemon: &Daemon, expected: &str) {
    let dashboard = Dashboard::for_daemon(&harness.store, daemon.apps.clone(), &harness.clock).await;
    let app = dashboard.first_app().await;
    let id = tim_group_sync::model::SdkAppId::new(PROD.sdk_app_id).unwrap();
    let (id, _) = harness.store.find_app_and_name(id).await.unwrap().unwrap();
    let page = KeysetPage { before: i64::MAX, limit: HISTORY_LENGTH };
    let crawls = harness.store.crawls(id, page).await.unwrap();
    let schedule = Schedule::parse(PROD.cron, chrono_tz::UTC).unwrap();
    let by_history = next_crawl_by_history(&schedule, &crawls, harness.clock.now()).unwrap();
    assert_eq!(app["next_crawl_at"], expected);
    assert_eq!(by_history.format("%Y-%m-%dT%H:%M:%SZ").to_string(), expected);
}

#[tokio::test]
async fn the_next_crawl_of_a_refused_app_is_the_same_for_the_page_and_for_status() {
    let harness = DaemonHarness::new().await;
    let mut daemon = harness.start(&AppSpec { catch_up: true, wrong_key: true, ..PROD });
    daemon.wait_for_crawl_status("failed").await;
    assert_next_crawls_agree(&harness, &daemon, "2026-03-10T08:50:00Z").await;
    harness.set_clock("08:45:00");
    assert_next_crawls_agree(&harness, &daemon, "2026-03-10T08:50:00Z").await;
}

#[tokio::test]
async fn the_next_crawl_of_a_failed_app_is_the_same_for_the_page_and_for_status() {
    let harness = DaemonHarness::new().await;
    harness.api.script(At::Every, Fault::ErrorCode(10002));
    let retry_for = Duration::from_millis(50);
    let mut daemon = harness.start(&AppSpec { catch_up: true, retry_for, ..PROD });
    daemon.wait_for_crawl_status("failed").await;
    assert_next_crawls_agree(&harness, &daemon, "2026-03-10T08:21:00Z").await;
    harness.set_clock("08:21:00");
    daemon.trigger.fire();
    daemon.wait_for_crawls(2).await;
    assert_next_crawls_agree(&harness, &daemon, "2026-03-10T08:23:00Z").await;
    harness.set_clock("09:00:00");
    let gate = harness.api.hold(At::Request(harness.api.requests().len() as u64 + 1));
    daemon.trigger.fire();
    gate.reached().await;
    harness.set_clock("10:10:00");
    assert_next_crawls_agree(&harness, &daemon, "2026-03-10T11:00:00Z").await;
    gate.release();
    daemon.wait_for_crawls(3).await;
}
