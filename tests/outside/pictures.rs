//! Renders the images of the documentation into target/pictures. `tests/pictures` copies them to
//! docs/images.

use std::sync::Arc;
use std::time::Duration;

use chrono::{TimeDelta, Timelike as _};
use harness::browser::{Browser, DESKTOP, PHONE, UserProfile};
use harness::crawl::{Engine, Harness, ON_COMMAND};
use harness::dashboard::Dashboard;
use tim_group_sync::alarm::Alarm;
use tim_group_sync::clock::Clock;
use tim_group_sync::crawl::WhenBusy;
use tim_group_sync::daemon::{AppPlan, Daemon, Database};
use tim_group_sync::lifecycle::{Lifecycle, Systemd};
use tim_group_sync::model::GroupType;
use tim_group_sync::policy::DeletionPolicy;
use tim_group_sync::schedule::Schedule;
use tim_group_sync::simulator::{At, Fault};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

const DAYS: u32 = 45;
const SHANGHAI: UserProfile =
    UserProfile { language: "zh-CN", timezone: "Asia/Shanghai", dark: true, ..DESKTOP };

fn save(name: &str, picture: &[u8]) {
    let folder = harness::root().join("target/pictures");
    std::fs::create_dir_all(&folder).unwrap();
    std::fs::write(folder.join(name), picture).unwrap();
}

/// Makes daily crawls of six weeks with growth, a weekly rhythm and one failure. The last crawl
/// withholds deletions, because 1,200 groups were dissolved at once.
async fn crawl_six_weeks(harness: &mut Harness) {
    harness.page_limit = 10_000;
    // The screenshots show the last crawl while one of its requests is held.
    harness.request_timeout = Duration::from_secs(600);
    harness.group_types = GroupType::documented();
    let now = Clock::system().now();
    let start = now.with_minute(0).unwrap().with_second(0).unwrap() - TimeDelta::days(DAYS.into());
    for (group_type, groups) in [
        ("Public", 9_000),
        ("Private", 6_400),
        ("ChatRoom", 3_600),
        ("AVChatRoom", 2_300),
        ("BChatRoom", 12),
        ("Community", 800),
    ] {
        harness.api.create_many(group_type, groups);
    }
    let none = CancellationToken::new();
    for (day, date) in (0..DAYS as usize).zip(0_i64..) {
        harness.clock.set(start + TimeDelta::days(date));
        let weekend = if day % 7 < 2 { 2 } else { 1 };
        harness.api.create_many("Public", (70 + day) / weekend);
        harness.api.create_many("Private", (50 + day * 2) / weekend);
        harness.api.create_many("ChatRoom", 30 / weekend);
        harness.api.create_many("AVChatRoom", 60);
        harness.api.dissolve_some((90 + day * 37 % 80) / weekend);
        if day == 30 {
            harness.api.script(At::Every, Fault::ErrorCode(60020));
        }
        harness.crawler().crawl(ON_COMMAND, WhenBusy::GiveUp, &none).await.unwrap();
        harness.api.clear_faults();
    }
    harness.clock.set(start + TimeDelta::days(DAYS.into()) - TimeDelta::hours(2));
    let public = harness.api.truth().into_iter().find(|(_, of)| of == "Public").unwrap().0;
    harness.api.retype(&public, "Community");
    harness.crawler().crawl(ON_COMMAND, WhenBusy::GiveUp, &none).await.unwrap();
    harness.deletion = DeletionPolicy { max_fraction: 0.1, min_groups: 100, ..DeletionPolicy::default() };
    let rooms: Vec<String> =
        harness.api.truth().into_iter().filter(|(_, of)| of == "ChatRoom").map(|(id, _)| id).collect();
    rooms.iter().take(1_200).for_each(|id| assert!(harness.api.dissolve(id)));
    harness.clock.set(start + TimeDelta::days(DAYS.into()) - TimeDelta::hours(1));
    harness.crawler().crawl(ON_COMMAND, WhenBusy::GiveUp, &none).await.unwrap();
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn images_of_the_dashboard() {
    let mut harness = Harness::on(Engine::Sqlite).await;
    crawl_six_weeks(&mut harness).await;
    let harness = Arc::new(harness);
    let lifecycle = Lifecycle::without_signals();
    let database = watch::Sender::new(Database::Open(harness.store.clone()));
    let mut daemon =
        Daemon::new(&harness.clock, &lifecycle, Systemd::from_environment(), database.subscribe());
    let apps = daemon.health().apps();
    let last_request = harness.api.requests().len() as u64;
    harness.clock.set(Clock::system().now());
    let crawled = Arc::clone(&harness);
    let plan = AppPlan {
        name: "prod".to_owned(),
        sdk_app_id: harness.credentials.sdk_app_id,
        schedule: Schedule::parse("0 * * * *", chrono_tz::UTC).unwrap(),
        catch_up: true,
        group_quota: None,
        workers: Box::new(move |_| Ok(crawled.new_crawler().into())),
    };
    let third = harness.api.hold(At::Request(last_request + 4));
    let mut triggers = Vec::new();
    daemon.apply(vec![plan], |_| {
        let (alarm, trigger) = Alarm::manual();
        triggers.push(trigger);
        alarm
    });
    third.reached().await;
    let dashboard = Dashboard::for_daemon(&harness.store, apps, &harness.clock).await;
    let mut browser = Browser::start().await;
    for (name, user) in [
        ("dashboard.png", DESKTOP),
        ("dashboard-zh.png", SHANGHAI),
        ("dashboard-phone.png", UserProfile { height: 1500, scale: 2.0, ..PHONE }),
    ] {
        browser.open(&dashboard.url(), user).await;
        browser
            .wait_until("document.querySelector('canvas') && document.querySelector('.events tbody tr')")
            .await;
        browser.click(".ranges [data-range='90']").await;
        browser
            .wait_until("document.querySelector('.ranges [data-range=\"90\"]').ariaPressed === 'true'")
            .await;
        browser.wait_until("document.querySelector('.running .doing')?.textContent.includes(' ')").await;
        save(name, &browser.screenshot(name != "dashboard-phone.png").await);
    }
    third.release();
}

#[tokio::test]
#[ignore = "needs Chromium: tests/run"]
async fn an_image_of_the_demo() {
    let folder = tempfile::tempdir().unwrap();
    let mut demo = tokio::process::Command::new(env!("CARGO_BIN_EXE_tim-group-sync"));
    let output = demo.arg("demo").current_dir(folder.path()).output().await.unwrap();
    assert!(output.status.success(), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap().replace('&', "&amp;").replace('<', "&lt;");
    let page = folder.path().join("terminal.html");
    let html = format!(
        "<!doctype html><meta charset=utf-8><body style='margin:0;background:#12161c'><pre style='margin:0;padding:20px;color:#e6eaef;\
         font:14px/1.45 \"DejaVu Sans Mono\",monospace;width:max-content'><span style='color:#7dd6a4'>$</span> tim-group-sync demo\n{text}</pre>"
    );
    std::fs::write(&page, html).unwrap();
    let mut browser = Browser::start().await;
    browser.open(&format!("file://{}", page.display()), UserProfile { width: 1100, ..DESKTOP }).await;
    browser.wait_until("document.querySelector('pre')").await;
    save("demo.png", &browser.screenshot(true).await);
}
