//! The API's own statistics of an app, which are fetched once a day after a crawl.

use std::time::Duration;

use chrono::TimeDelta;
use chrono_tz::Tz;
use harness::crawl::{Harness, ON_COMMAND, format_time, outcome};
use harness::crawl_tests;
use harness::log::capture_log;
use tim_group_sync::clock::Clock;
use tim_group_sync::crawl::WhenBusy;
use tim_group_sync::policy::Retention;
use tim_group_sync::simulator::{At, Call, Fault};
use tokio_util::sync::CancellationToken;

crawl_tests! {
    by_default_no_statistics_are_fetched,
    the_first_fetch_stores_30_days_and_later_ones_happen_once_a_day_of_beijing,
    the_view_has_the_apps_history_beside_the_live_groups_of_the_same_day_in_beijing,
    a_fetch_is_repeated_after_hours_while_the_previous_day_is_not_reported,
    only_new_and_changed_days_are_written,
    a_figure_that_is_missing_or_invalid_is_null_and_replaces_no_known_figure,
    days_of_the_future_and_of_long_ago_are_not_stored,
    a_refusal_is_logged_once_and_the_crawl_is_complete,
    a_failed_fetch_changes_nothing_and_a_later_crawl_tries_again,
    a_fetch_follows_only_a_crawl_that_reached_its_end,
    a_stop_ends_a_fetch_at_once,
    a_dry_run_fetches_no_statistics,
    an_answer_with_statistics_updates_the_clock_skew,
    retention_removes_days_with_the_daily_counts_and_they_do_not_return,
}

/// Returns the number of `getappinfo` requests so far.
fn fetches(harness: &Harness) -> usize {
    harness.api.requests().iter().filter(|request| request.call == Call::Statistics).count()
}

fn with_statistics(mut harness: Harness) -> Harness {
    harness.statistics = true;
    harness.create("Public", "a b c d");
    harness
}

/// Makes a crawl an hour after this time.
async fn crawl_after(harness: &Harness, time: &str) {
    harness.clock.set(time.parse().unwrap());
    assert_eq!(outcome(&harness.crawl().await), "complete");
}

/// Scripts the `Result` of all answers from now on.
fn report(harness: &Harness, result: &str) {
    let body = format!(r#"{{"ErrorCode":0,"ErrorInfo":"OK","Result":{result}}}"#);
    harness.clear_faults_and_actions();
    harness.api.script(At::Statistics, Fault::Body(body));
}

/// Returns the figures of each day.
async fn figures(harness: &Harness) -> Vec<String> {
    let sql = "SELECT day, groups, groups_created, groups_dissolved, groups_active, callbacks_sent, callbacks_answered
               FROM app_statistics ORDER BY day";
    harness.lines(sql).await
}

async fn by_default_no_statistics_are_fetched(harness: Harness) {
    harness.create("Public", "a");
    harness.crawl().await;
    assert_eq!((fetches(&harness), figures(&harness).await), (0, vec![]));
}

async fn the_first_fetch_stores_30_days_and_later_ones_happen_once_a_day_of_beijing(harness: Harness) {
    let harness = with_statistics(harness);
    crawl_after(&harness, "2026-03-01T08:00:00Z").await;
    let days = "SELECT count(*), min(day), max(day) FROM app_statistics";
    assert_eq!(harness.lines(days).await, ["30 2026-01-30 2026-02-28"]);
    crawl_after(&harness, "2026-03-01T14:00:00Z").await;
    assert_eq!(fetches(&harness), 1, "the previous day is stored, and the day has not ended in Beijing");
    crawl_after(&harness, "2026-03-01T15:00:00Z").await;
    assert_eq!(fetches(&harness), 2, "a new day has begun in Beijing");
    assert_eq!(harness.lines(days).await, ["31 2026-01-30 2026-03-01"]);
    // Another process reads from the database that the statistics of this day were fetched.
    harness.prepare_crawl();
    let stop = CancellationToken::new();
    harness.new_crawler().crawl(ON_COMMAND, WhenBusy::GiveUp, &stop).await.unwrap();
    assert_eq!(fetches(&harness), 2);
}

async fn the_view_has_the_apps_history_beside_the_live_groups_of_the_same_day_in_beijing(harness: Harness) {
    for timezone in [Tz::UTC, Tz::Asia__Shanghai, Tz::America__Los_Angeles, Tz::Pacific__Auckland] {
        let mut harness = with_statistics(harness.fresh().await);
        harness.timezone = timezone;
        crawl_after(&harness, "2026-03-01T08:00:00Z").await;
        harness.dissolve("a b");
        harness.create("Private", "e");
        crawl_after(&harness, "2026-03-01T14:30:00Z").await; // 23:30 in Beijing
        harness.clock.set("2026-03-01T16:00:00Z".parse().unwrap()); // 2 March in Beijing
        harness.create("Public", "f g");
        crawl_after(&harness, "2026-03-01T16:00:00Z").await;
        let last = crawl_after(&harness, "2026-03-02T16:00:00Z");
        last.await;
        let sql = "SELECT day, groups, groups_created, groups_dissolved, groups_active, callbacks_sent,
                          callbacks_answered, live_groups FROM app_statistics WHERE day >= '2026-02-28' ORDER BY day";
        assert_eq!(
            harness.lines(sql).await,
            ["2026-02-28 0 0 0 0 0 0 NULL", "2026-03-01 3 5 2 0 7 7 3", "2026-03-02 5 2 0 0 2 2 5"],
            "{timezone}"
        );
        let app = "SELECT DISTINCT sdk_app_id, app FROM app_statistics";
        assert_eq!(harness.lines(app).await, ["1400000000 prod"]);
    }
}

async fn a_fetch_is_repeated_after_hours_while_the_previous_day_is_not_reported(harness: Harness) {
    let harness = with_statistics(harness);
    report(&harness, r#"[{"Date":"20260227","GroupAllGroupNum":"4"}]"#);
    crawl_after(&harness, "2026-03-01T00:00:00Z").await;
    crawl_after(&harness, "2026-03-01T02:00:00Z").await;
    assert_eq!(fetches(&harness), 1);
    report(&harness, r#"[{"Date":"20260228","GroupAllGroupNum":"5"}]"#);
    crawl_after(&harness, "2026-03-01T04:00:00Z").await;
    crawl_after(&harness, "2026-03-01T08:00:00Z").await;
    assert_eq!(fetches(&harness), 2);
    let days = figures(&harness).await;
    assert_eq!(days, ["2026-02-27 4 NULL NULL NULL NULL NULL", "2026-02-28 5 NULL NULL NULL NULL NULL"]);
}

async fn only_new_and_changed_days_are_written(harness: Harness) {
    let harness = with_statistics(harness);
    let fetched = async || {
        let rows = "SELECT day, groups, fetched_at FROM app_statistics ORDER BY day";
        harness.lines(rows).await
    };
    let day = |day: u32, groups: u32| format!(r#"{{"Date":"202602{day}","GroupAllGroupNum":"{groups}"}}"#);
    report(&harness, &format!("[{},{}]", day(26, 4), day(27, 5)));
    crawl_after(&harness, "2026-02-28T00:00:00Z").await;
    let first = fetched().await;
    report(&harness, &format!("[{},{},{}]", day(26, 4), day(27, 6), day(28, 7)));
    crawl_after(&harness, "2026-03-01T00:00:00Z").await;
    let second = fetched().await;
    assert_eq!((second.len(), &second[0]), (3, &first[0]), "the unchanged day keeps its time");
    let now = format_time(harness.clock.now())[..13].to_owned();
    assert!(second[1].starts_with(&format!("2026-02-27 6 {now}")), "{second:?}");
    assert!(second[2].starts_with(&format!("2026-02-28 7 {now}")), "{second:?}");
}

async fn a_figure_that_is_missing_or_invalid_is_null_and_replaces_no_known_figure(harness: Harness) {
    let harness = with_statistics(harness);
    harness.api.script(At::Statistics, Fault::NoStatistic("CallBackRsp".to_owned()));
    crawl_after(&harness, "2026-03-01T16:00:00Z").await;
    assert_eq!(figures(&harness).await.last().unwrap(), "2026-03-01 4 4 0 0 4 NULL");
    report(
        &harness,
        r#"[{"Date":20260301,"GroupAllGroupNum":-1,"GroupNewGroupNum":"9","GroupDestroyGroupNum":null,
             "CallBackReq":99999999999999999999,"CallBackRsp":3,"New":[{}]},
            {"Date":"20260302","GroupSendMsgGroupNum":"12","GroupAllGroupNum":"many"},
            {"Date":"20260228"}, {"Date":"2 March","GroupAllGroupNum":"1"}, {"GroupAllGroupNum":"1"}]"#,
    );
    crawl_after(&harness, "2026-03-02T16:00:00Z").await;
    let days = figures(&harness).await.split_off(30 - 1);
    assert_eq!(days, ["2026-03-01 4 9 0 0 4 3", "2026-03-02 NULL NULL NULL 12 NULL NULL"]);
}

async fn days_of_the_future_and_of_long_ago_are_not_stored(harness: Harness) {
    let harness = with_statistics(harness);
    let dates = ["00010101", "20250227", "20250301", "20260301", "20260302", "99991231"];
    let days = dates.map(|date| format!(r#"{{"Date":"{date}","GroupAllGroupNum":"1"}}"#));
    report(&harness, &format!("[{}]", days.join(",")));
    crawl_after(&harness, "2026-03-01T08:00:00Z").await;
    let stored = harness.lines("SELECT day FROM app_statistics ORDER BY day").await;
    assert_eq!(stored, ["2025-03-01", "2026-03-01"]);
}

async fn a_refusal_is_logged_once_and_the_crawl_is_complete(harness: Harness) {
    let harness = with_statistics(harness);
    let (log, _guard) = capture_log();
    let logged = |level: &str, text: &str| {
        let log = log.text();
        log.lines().filter(|line| line.contains(level) && line.contains(text)).count()
    };
    let (failed, again) = ("cannot fetch the app's statistics", "statistics can be fetched again");
    harness.api.script(At::Statistics, Fault::ErrorCode(60006));
    for _ in 0..3 {
        assert_eq!(outcome(&harness.crawl().await), "complete");
    }
    assert_eq!(fetches(&harness), 3, "each attempt is one request");
    assert_eq!((logged(" WARN ", failed), logged("DEBUG ", failed)), (1, 2));
    harness.api.clear_faults();
    harness.api.script(At::Statistics, Fault::ErrorCode(10007));
    harness.crawl().await;
    assert_eq!(logged(" WARN ", failed), 2, "another error code is logged as another problem");
    assert_eq!((logged(" INFO ", again), figures(&harness).await.len()), (0, 0));
    harness.api.clear_faults();
    harness.crawl().await;
    harness.crawl().await;
    assert_eq!((logged(" INFO ", again), figures(&harness).await.len()), (1, 30));
    assert!(!log.text().contains(harness.signature(0).expose()));
}

async fn a_failed_fetch_changes_nothing_and_a_later_crawl_tries_again(harness: Harness) {
    for fault in [
        Fault::Timeout,
        Fault::Reset,
        Fault::TruncatedBody,
        Fault::NotJson,
        Fault::HtmlWith200,
        Fault::OversizedBody,
        Fault::Redirect,
        Fault::Status(502),
        Fault::ErrorCode(10002),
        Fault::ErrorCode(60011),
        Fault::Body(r#"{"ErrorCode":0}"#.to_owned()),
    ] {
        let mut harness = with_statistics(harness.fresh().await);
        harness.request_timeout = Duration::from_secs(1);
        harness.api.script(At::Statistics, fault.clone());
        assert_eq!(outcome(&harness.crawl().await), "complete", "{fault:?}");
        assert_eq!((fetches(&harness), figures(&harness).await.len()), (1, 0), "{fault:?}");
        harness.api.clear_faults();
        // A few minutes later it is too early.
        let later = harness.clock.now() - Duration::from_mins(45);
        crawl_after(&harness, &later.to_rfc3339()).await;
        assert_eq!(fetches(&harness), 1, "{fault:?}");
        harness.crawl().await;
        assert_eq!((fetches(&harness), figures(&harness).await.len()), (2, 30), "{fault:?}");
    }
    // An answer without days is a success.
    let harness = with_statistics(harness.fresh().await);
    report(&harness, "[]");
    harness.crawl().await;
    harness.crawl().await;
    assert_eq!((fetches(&harness), figures(&harness).await.len()), (1, 0));
}

async fn a_fetch_follows_only_a_crawl_that_reached_its_end(harness: Harness) {
    let harness = with_statistics(harness);
    harness.fault_at_request(2, Fault::ErrorCode(60021));
    assert_eq!(outcome(&harness.crawl().await), "failed refused 60021");
    assert_eq!(fetches(&harness), 0);
    harness.fault_from_request(1, Fault::TotalCount(100));
    assert_eq!(outcome(&harness.crawl().await), "incomplete short_listing");
    assert_eq!(fetches(&harness), 1);
}

async fn a_stop_ends_a_fetch_at_once(harness: Harness) {
    let harness = with_statistics(harness);
    let held = harness.api.hold(At::Statistics);
    harness.prepare_crawl();
    let (crawler, stop) = (harness.crawler(), CancellationToken::new());
    let stopping = async {
        held.reached().await;
        stop.cancel();
        Clock::system().now()
    };
    let crawling = crawler.crawl(ON_COMMAND, WhenBusy::GiveUp, &stop);
    let (report, stopped_at) = tokio::join!(crawling, stopping);
    assert!((Clock::system().now() - stopped_at).num_seconds() < 2);
    assert_eq!(outcome(&report.unwrap()), "complete");
    drop(held);
    harness.crawl().await;
    assert_eq!((fetches(&harness), figures(&harness).await.len()), (2, 30));
}

async fn an_answer_with_statistics_updates_the_clock_skew(harness: Harness) {
    let client = harness.client();
    harness.api.set_date_offset(TimeDelta::minutes(-7));
    client.app_statistics().await.unwrap();
    assert_eq!(client.clock_skew().map(|skew| skew.num_minutes()), Some(7));
}

async fn a_dry_run_fetches_no_statistics(harness: Harness) {
    let harness = with_statistics(harness);
    harness.dry_run().await;
    assert_eq!(fetches(&harness), 0);
}

async fn retention_removes_days_with_the_daily_counts_and_they_do_not_return(harness: Harness) {
    let mut harness = with_statistics(harness);
    let days = "SELECT count(*), min(day), max(day) FROM app_statistics";
    crawl_after(&harness, "2026-03-01T08:00:00Z").await;
    assert_eq!(harness.lines(days).await, ["30 2026-01-30 2026-02-28"]);
    harness.retention = Retention { counts: Some(7), ..Retention::default() };
    let removed = "SELECT purged_counts FROM crawls ORDER BY crawl_id DESC LIMIT 1";
    crawl_after(&harness, "2026-03-02T08:00:00Z").await;
    assert_eq!(harness.lines(days).await, ["7 2026-02-23 2026-03-01"]);
    assert_eq!(harness.value(removed).await, "24");
    crawl_after(&harness, "2026-03-03T08:00:00Z").await;
    assert_eq!(harness.lines(days).await, ["7 2026-02-24 2026-03-02"]);
    assert_eq!(harness.value(removed).await, "1");
}
