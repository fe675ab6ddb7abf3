//! Renders the page in every state of an app into target/pictures/states, for a person to look at:
//! wide and narrow, light and dark, in both languages. Each picture is also checked by the rules of
//! accessibility.

use chrono::{DateTime, TimeDelta, Timelike as _, Utc};
use harness::browser::{Browser, DESKTOP, PHONE, UserProfile};
use harness::daemon::{AppSpec, Daemon, DaemonHarness, PROD};
use harness::dashboard::Dashboard;
use tim_group_sync::clock::Clock;
use tim_group_sync::daemon::Phase;
use tim_group_sync::simulator::{At, Fault, HeldRequests, Simulator};

use crate::fifty::FiftyApps;

const USERS: [(&str, UserProfile); 4] = [
    ("desktop", DESKTOP),
    ("desktop-dark-zh", UserProfile { dark: true, language: "zh-CN", ..DESKTOP }),
    ("phone", PHONE),
    ("phone-dark-zh", UserProfile { dark: true, language: "zh-CN", ..PHONE }),
];

/// Returns the start of the current hour. The browser shows times relative to the machine's clock.
fn this_hour() -> DateTime<Utc> {
    let now = Clock::system().now();
    now.with_minute(0).unwrap().with_second(0).unwrap().with_nanosecond(0).unwrap()
}

async fn harness_at(time: DateTime<Utc>) -> DaemonHarness {
    let harness = DaemonHarness::without_tables(Clock::fixed_at(time)).await;
    harness.store.migrate().await.unwrap();
    harness
}

async fn render(harness: &DaemonHarness, daemon: &Daemon, name: &str, ready: &str) {
    let dashboard = Dashboard::for_daemon(&harness.store, daemon.apps.clone(), &harness.clock).await;
    let mut browser = Browser::start().await;
    for (user, profile) in USERS {
        browser.open(&dashboard.url(), profile).await;
        browser.wait_until(ready).await;
        let folder = harness::root().join("target/pictures/states");
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(format!("{name}-{user}.png")), browser.screenshot(true).await).unwrap();
        browser.assert_clean(&dashboard).await;
        browser.assert_accessible().await;
    }
}

const LIVE: &str = "document.querySelector('canvas') && document.querySelector('.crawls tbody tr') \
                    && document.querySelector('.types tbody tr')";
const CHARTS: &str = "document.querySelectorAll('canvas').length === 2 && document.querySelector('.crawls tbody tr') \
                      && document.querySelector('.types tbody tr')";

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn the_first_day() {
    let harness = harness_at(this_hour() - TimeDelta::minutes(40)).await;
    let mut daemon = harness.start_crawled().await;
    harness.api.create_many("Public", 3);
    harness.clock.set(this_hour());
    daemon.trigger.fire();
    daemon.wait_for_crawls(2).await;
    render(&harness, &daemon, "first-day", CHARTS).await;
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn before_the_first_crawl() {
    let harness = harness_at(this_hour()).await;
    let mut daemon = harness.start(&PROD);
    daemon.wait_until("waiting", |state| matches!(state.phase, Phase::Waiting)).await;
    render(
        &harness,
        &daemon,
        "never-crawled",
        "document.querySelector('.tiles dd') && document.querySelector('.crawls .empty')",
    )
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn two_weeks_with_failures_and_a_quota_that_is_near() {
    let days: u8 = 14;
    let start = this_hour() - TimeDelta::days(days.into());
    let harness = harness_at(start).await;
    let spec = AppSpec { catch_up: true, group_quota: Some(140), ..PROD };
    let mut daemon = harness.start(&spec);
    daemon.wait_for_crawls(1).await;
    for day in 1..=i64::from(days) {
        harness.api.create_many("Public", 10);
        harness.api.dissolve_some(2);
        if day == 9 {
            harness.api.script(At::Every, Fault::ErrorCode(10002));
        }
        harness.clock.set(start + TimeDelta::days(day));
        daemon.trigger.fire();
        daemon.wait_for_crawls(day + 1).await;
        harness.api.clear_faults();
    }
    render(&harness, &daemon, "quota-near", CHARTS).await;
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn withheld_deletions() {
    let harness = harness_at(this_hour() - TimeDelta::hours(1)).await;
    harness.api.create_many("Public", 500);
    let mut daemon = harness.start_crawled().await;
    harness.api.dissolve_some(200);
    harness.clock.set(this_hour());
    daemon.trigger.fire();
    daemon.wait_for_crawls(2).await;
    render(&harness, &daemon, "withheld", LIVE).await;
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_crawl_that_is_retrying() {
    let harness = harness_at(this_hour() - TimeDelta::hours(1)).await;
    let mut daemon = harness.start_crawled().await;
    let _held = start_retrying_crawl(&harness, &harness.api, &daemon).await;
    daemon.wait_until("crawling", |state| matches!(state.phase, Phase::Crawling { .. })).await;
    render(&harness, &daemon, "retrying", LIVE).await;
}

/// Starts a crawl. Its first request fails three times, and the fourth attempt is held.
async fn start_retrying_crawl(harness: &DaemonHarness, api: &Simulator, daemon: &Daemon) -> HeldRequests {
    let earlier_requests = api.requests().len() as u64;
    api.script(At::Every, Fault::Status(503));
    let fourth = api.hold(At::Request(earlier_requests + 4));
    harness.clock.set(this_hour());
    daemon.trigger.fire();
    fourth.reached().await;
    fourth
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_late_app() {
    let harness = harness_at(this_hour() - TimeDelta::hours(5)).await;
    let daemon = harness.start_crawled().await;
    let first = harness.api.hold(At::Request(harness.api.requests().len() as u64 + 1));
    harness.clock.set(this_hour() - TimeDelta::hours(4));
    daemon.trigger.fire();
    first.reached().await;
    harness.clock.set(this_hour());
    render(&harness, &daemon, "late", LIVE).await;
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn a_refused_app() {
    let harness = harness_at(this_hour()).await;
    let mut daemon = harness.start(&AppSpec { catch_up: true, wrong_key: true, ..PROD });
    daemon.wait_for_crawl_status("failed").await;
    render(
        &harness,
        &daemon,
        "refused",
        "document.querySelector('.crawls tbody tr') && document.querySelector('.alert')",
    )
    .await;
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn fifty_apps_in_every_state() {
    let harness = harness_at(this_hour() - TimeDelta::hours(1)).await;
    let mut fifty = FiftyApps::start(&harness, |number, spec, api| {
        api.create_many("Public", if number == 11 { 500 } else { number * 7 });
        if number == 7 {
            api.script(At::Every, Fault::ErrorCode(10002));
        }
        if number == 17 {
            (spec.catch_up, spec.cron) = (false, "0 0 1 1 *");
        }
        spec.wrong_key = number % 16 == 3;
        spec.group_quota = (number % 10 == 9).then_some(if number == 29 { 250 } else { 1000 });
    })
    .await;
    fifty.apis[11].dissolve_some(200);
    harness.clock.set(this_hour());
    fifty.triggers["app-11"].fire();
    fifty
        .wait_for(|apps| {
            let report = apps["app-11"].last_report.as_ref();
            report.is_some_and(|report| report.crawl.0 > 49) && matches!(apps["app-11"].phase, Phase::Waiting)
        })
        .await;
    let api = &fifty.apis[13];
    api.script(At::Every, Fault::Status(503));
    let fourth = api.hold(At::Request(api.requests().len() as u64 + 4));
    fifty.triggers["app-13"].fire();
    fourth.reached().await;
    render(&harness, &fifty.daemon, "fifty", "document.querySelectorAll('.apps tbody tr').length === 50")
        .await;
}
