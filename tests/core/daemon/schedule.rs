//! When the daemon crawls: ticks, missed ticks, crawls on request, retries, stops and steps of the
//! clock.

use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use harness::daemon::{AppSpec, DaemonHarness, PROD, apply, at, clock_at_08_20};
use tim_group_sync::alarm::AlarmClock;
use tim_group_sync::clock::Clock;
use tim_group_sync::daemon::{HISTORY_LENGTH, Phase, next_crawl_by_history};
use tim_group_sync::lifecycle::{Ending, Signal, Systemd};
use tim_group_sync::model::SdkAppId;
use tim_group_sync::schedule::Schedule;
use tim_group_sync::simulator::{At, Fault, Settings, Simulator};
use tim_group_sync::store::KeysetPage;

#[tokio::test]
async fn at_its_start_the_daemon_crawls_an_app_that_was_never_crawled() {
    let harness = DaemonHarness::new().await;
    let mut daemon = harness.start(&AppSpec { catch_up: true, ..PROD });
    daemon.wait_for_crawls(1).await;
    assert_eq!(harness.crawls().await, ["catch_up 08:00 complete"]);
    daemon.wait_for_next_crawl_at("09:00:00").await;
    assert_eq!(daemon.stop().await, Ending::Requested);
}

#[tokio::test]
async fn ticks_missed_while_no_daemon_ran_are_caught_up_once() {
    let harness = DaemonHarness::new().await;
    harness.start_crawled().await.stop().await;
    harness.set_clock("11:30:00");
    let mut daemon = harness.start(&AppSpec { catch_up: true, ..PROD });
    daemon.wait_for_crawls(2).await;
    assert_eq!(harness.crawls().await, ["catch_up 08:00 complete", "catch_up 11:00 complete"]);
    daemon.wait_for_next_crawl_at("12:00:00").await;
    assert_eq!(daemon.skipped_ticks(), 0, "no daemon ran that could have skipped them");
}

#[tokio::test]
async fn nothing_is_caught_up_without_a_missed_tick_or_if_catch_up_is_off() {
    let harness = DaemonHarness::new().await;
    let mut unwanted = harness.start(&PROD);
    unwanted.wait_for_next_crawl_at("09:00:00").await;
    unwanted.stop().await;
    assert!(harness.crawls().await.is_empty());

    harness.start_crawled().await.stop().await;
    harness.set_clock("08:59:59");
    let mut daemon = harness.start(&AppSpec { catch_up: true, ..PROD });
    daemon.wait_for_next_crawl_at("09:00:00").await;
    assert_eq!(harness.crawls().await.len(), 1);
}

#[tokio::test]
async fn a_tick_is_crawled_and_recorded() {
    let harness = DaemonHarness::new().await;
    let mut daemon = harness.start(&PROD);
    for (crawls, (now, next)) in
        (1..).zip([("09:00:00", "10:00:00"), ("10:00:00", "11:00:00"), ("11:00:01", "12:00:00")])
    {
        harness.set_clock(now);
        daemon.trigger.fire();
        daemon.wait_for_crawls(crawls).await;
        daemon.wait_for_next_crawl_at(next).await;
    }
    assert_eq!(
        harness.crawls().await,
        ["schedule 09:00 complete", "schedule 10:00 complete", "schedule 11:00 complete"]
    );
    assert_eq!((daemon.skipped_ticks(), harness.logged("woken late")), (0, 0));
}

#[tokio::test]
async fn an_alarm_that_fires_too_early_is_set_again() {
    let harness = DaemonHarness::new().await;
    let mut daemon = harness.start(&PROD);
    daemon.wait_for_next_crawl_at("09:00:00").await;
    harness.set_clock("08:59:59");
    daemon.trigger_without_crawl().await;
    daemon.wait_for_next_crawl_at("09:00:00").await;
    assert!(harness.crawls().await.is_empty());
}

#[tokio::test]
async fn after_a_suspend_only_the_newest_tick_is_crawled_and_the_others_are_reported_as_skipped() {
    let harness = DaemonHarness::new().await;
    let mut daemon = harness.start(&PROD);
    daemon.wait_for_next_crawl_at("09:00:00").await;
    harness.set_clock("12:30:00");
    daemon.trigger.fire();
    daemon.wait_for_crawls(1).await;
    daemon.wait_for_next_crawl_at("13:00:00").await;
    assert_eq!(harness.crawls().await, ["schedule 12:00 complete"]);
    assert_eq!((daemon.skipped_ticks(), harness.logged("woken late")), (3, 1));
}

#[tokio::test]
async fn a_lost_alarm_does_not_stop_the_schedule() {
    let harness = DaemonHarness::new().await;
    let mut daemon = harness.start(&PROD);
    daemon.wait_for_next_crawl_at("09:00:00").await;
    harness.set_clock("09:01:01");
    // The alarm does not fire. The loop reads the clock every 20 seconds.
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(21)).await;
    tokio::time::resume();
    daemon.wait_for_crawls(1).await;
    assert_eq!(harness.crawls().await, ["schedule 09:00 complete"]);
    assert_eq!(harness.logged("woken late"), 1);
}

#[tokio::test]
async fn alarms_during_a_crawl_start_no_other_crawl() {
    let harness = DaemonHarness::new().await;
    let mut daemon = harness.start(&PROD);
    daemon.wait_for_next_crawl_at("09:00:00").await;
    let held = harness.api.hold(At::Request(2));
    harness.set_clock("09:00:00");
    daemon.trigger.fire();
    held.reached().await;
    daemon.wait_until("crawling", |state| matches!(state.phase, Phase::Crawling { .. })).await;
    daemon.trigger.fire();
    daemon.trigger.fire();
    held.release();
    daemon.wait_for_next_crawl_at("10:00:00").await;
    daemon.trigger_without_crawl().await;
    assert_eq!(harness.crawls().await, ["schedule 09:00 complete"]);
}

#[tokio::test]
async fn a_crawl_longer_than_its_period_skips_ticks_and_counts_them() {
    let harness = DaemonHarness::new().await;
    let mut daemon = harness.start(&PROD);
    daemon.wait_for_next_crawl_at("09:00:00").await;
    let held = harness.api.hold(At::Request(2));
    harness.set_clock("09:00:00");
    daemon.trigger.fire();
    held.reached().await;
    harness.set_clock("11:00:00");
    held.release();
    daemon.wait_for_next_crawl_at("12:00:00").await;
    assert_eq!(harness.crawls().await, ["schedule 09:00 complete"]);
    assert_eq!((daemon.skipped_ticks(), harness.logged("ticks=2")), (2, 1));
}

#[tokio::test]
async fn a_signal_starts_a_crawl_and_does_not_change_the_schedule() {
    let harness = DaemonHarness::new().await;
    let mut daemon = harness.start(&PROD);
    daemon.wait_for_next_crawl_at("09:00:00").await;
    daemon.lifecycle.signal(Signal::CrawlNow);
    daemon.wait_for_crawls(1).await;
    daemon.wait_for_next_crawl_at("09:00:00").await;
    harness.set_clock("09:00:00");
    daemon.trigger.fire();
    daemon.wait_for_crawls(2).await;
    assert_eq!(harness.crawls().await, ["signal  complete", "schedule 09:00 complete"]);
}

/// Returns the app's next crawl as the `status` command computes it.
async fn next_crawl_in_status(harness: &DaemonHarness) -> Option<DateTime<Utc>> {
    let app = SdkAppId::new(PROD.sdk_app_id).unwrap();
    let (app, _) = harness.store.find_app_and_name(app).await.unwrap().unwrap();
    let page = KeysetPage { before: i64::MAX, limit: HISTORY_LENGTH };
    let crawls = harness.store.crawls(app, page).await.unwrap();
    let schedule = Schedule::parse(PROD.cron, chrono_tz::UTC).unwrap();
    next_crawl_by_history(&schedule, &crawls, harness.clock.now())
}

#[tokio::test]
async fn a_failed_crawl_is_retried_with_growing_pauses_until_it_succeeds() {
    let harness = DaemonHarness::new().await;
    harness.api.script(At::Every, Fault::ErrorCode(10003));
    let mut daemon = harness.start(&AppSpec { catch_up: true, ..PROD });
    for (crawls, again) in (1..).zip(["08:21:00", "08:23:00", "08:27:00"]) {
        daemon.wait_for_crawls(crawls).await;
        daemon.wait_for_next_crawl_at(again).await;
        assert_eq!(next_crawl_in_status(&harness).await, Some(at(again)));
        harness.set_clock(again);
        if crawls == 3 {
            harness.api.clear_faults();
        }
        daemon.trigger.fire();
    }
    daemon.wait_for_crawls(4).await;
    daemon.wait_for_next_crawl_at("09:00:00").await;
    assert_eq!(
        harness.crawls().await,
        ["catch_up 08:00 failed", "catch_up  failed", "catch_up  failed", "catch_up  complete"]
    );
}

#[tokio::test]
async fn a_tick_before_the_next_retry_is_crawled_and_resets_the_pauses() {
    let harness = DaemonHarness::new().await;
    harness.api.script(At::Every, Fault::ErrorCode(10003));
    harness.set_clock("08:57:30");
    let mut daemon = harness.start(&AppSpec { catch_up: true, ..PROD });
    for (crawls, next) in (1..).zip(["08:58:30", "09:00:00", "09:01:00"]) {
        daemon.wait_for_crawls(crawls).await;
        daemon.wait_for_next_crawl_at(next).await;
        assert_eq!(next_crawl_in_status(&harness).await, Some(at(next)));
        harness.set_clock(next);
        daemon.trigger.fire();
    }
    daemon.wait_for_crawls(4).await;
    assert_eq!(harness.crawls().await[2], "schedule 09:00 failed");
}

#[tokio::test]
async fn an_incomplete_crawl_waits_for_the_next_tick() {
    let harness = DaemonHarness::new().await;
    harness.api.create_many("Public", 20);
    harness.api.script(At::Type("Public".to_owned()), Fault::EarlyEnd);
    let mut daemon = harness.start(&AppSpec { catch_up: true, ..PROD });
    daemon.wait_for_crawls(1).await;
    daemon.wait_for_next_crawl_at("09:00:00").await;
    assert_eq!(harness.crawls().await, ["catch_up 08:00 incomplete"]);
}

#[tokio::test]
async fn a_refused_app_is_retried_slowly_and_does_not_delay_the_others() {
    let harness = DaemonHarness::new().await;
    let other_api = Simulator::start(Settings {
        sdk_app_id: SdkAppId::new(1_400_000_001).unwrap(),
        clock: harness.clock.clone(),
        ..Settings::default()
    })
    .await
    .unwrap();
    let often = AppSpec { cron: "*/10 * * * *", catch_up: true, ..PROD };
    let bad = AppSpec { app: "bad", sdk_app_id: 1_400_000_001, wrong_key: true, ..often };
    let [mut bad, mut good] = harness
        .start_all([("bad", harness.plan(&other_api, &bad)), ("prod", harness.plan(&harness.api, &often))]);

    good.wait_for_next_crawl_at("08:30:00").await;
    bad.wait_for_next_crawl_at("08:50:00").await;
    assert!(bad.refused() && !good.refused());
    harness.set_clock("08:30:00");
    good.trigger.fire();
    good.wait_for_next_crawl_at("08:40:00").await;
    bad.trigger_without_crawl().await;
    assert_eq!(harness.crawls().await.last().unwrap(), "schedule 08:30 complete");

    harness.set_clock("08:50:00");
    bad.trigger.fire();
    bad.wait_for_next_crawl_at("09:20:00").await;
    assert_eq!(harness.crawls().await.last().unwrap(), "schedule 08:50 failed bad");
    assert_eq!(bad.skipped_ticks(), 2);
}

#[tokio::test]
async fn credentials_that_are_accepted_again_are_no_longer_refused() {
    let harness = DaemonHarness::new().await;
    harness.api.script(At::Every, Fault::ErrorCode(60021));
    let mut daemon = harness.start(&AppSpec { catch_up: true, ..PROD });
    daemon.wait_for_next_crawl_at("08:50:00").await;
    assert!(daemon.refused());
    assert_eq!(next_crawl_in_status(&harness).await, Some(at("08:50:00")));
    harness.api.clear_faults();
    daemon.lifecycle.signal(Signal::CrawlNow);
    daemon.wait_for_next_crawl_at("09:00:00").await;
    assert!(!daemon.refused());
    assert_eq!(next_crawl_in_status(&harness).await, Some(at("09:00:00")));
}

#[tokio::test]
async fn an_app_whose_crawl_hangs_does_not_delay_the_others() {
    let harness = DaemonHarness::new().await;
    let hanging_api = Simulator::start(Settings {
        sdk_app_id: SdkAppId::new(1_400_000_001).unwrap(),
        clock: harness.clock.clone(),
        ..Settings::default()
    })
    .await
    .unwrap();
    let held = hanging_api.hold(At::Every);
    let spec = AppSpec { catch_up: true, ..PROD };
    let hanging = AppSpec { app: "hanging", sdk_app_id: 1_400_000_001, ..spec };
    let [_hanging, mut daemon] = harness.start_all([
        ("hanging", harness.plan(&hanging_api, &hanging)),
        ("prod", harness.plan(&harness.api, &spec)),
    ]);
    held.reached().await;
    daemon.wait_for_next_crawl_at("09:00:00").await;
    harness.set_clock("09:00:00");
    daemon.trigger.fire();
    daemon.wait_for_next_crawl_at("10:00:00").await;
    assert_eq!(daemon.stop().await, Ending::Requested);
}

#[tokio::test]
async fn a_stop_cancels_a_running_crawl() {
    let harness = DaemonHarness::new().await;
    let held = harness.api.hold(At::Request(3));
    let daemon = harness.start(&AppSpec { catch_up: true, ..PROD });
    held.reached().await;
    daemon.lifecycle.signal(Signal::Stop);
    held.release();
    assert_eq!(daemon.lifecycle.ended(Systemd::from_environment()).await, Ending::Requested);
    assert_eq!(harness.crawls().await, ["catch_up 08:00 cancelled"]);
    assert_eq!(harness.logged("retrying"), 0);
}

#[tokio::test]
async fn the_daemon_waits_for_a_database_that_is_unreachable_at_its_start() {
    let harness = DaemonHarness::without_tables(clock_at_08_20()).await;
    let mut daemon = harness.start(&AppSpec { catch_up: true, ..PROD });
    for next in ["08:20:05", "08:20:15", "08:20:35"] {
        daemon.wait_for_next_crawl_at(next).await;
        daemon
            .wait_until("the state", |state| {
                state.database_problem.as_ref().is_some_and(|text| text.contains("no such table"))
            })
            .await;
        harness.set_clock(next);
        if next == "08:20:35" {
            harness.store.migrate().await.unwrap();
        }
        daemon.trigger.fire();
    }
    daemon.wait_for_crawls(1).await;
    assert_eq!(harness.crawls().await, ["catch_up 08:00 complete"]);
    assert_eq!(
        (
            harness.logged("cannot write to the database"),
            harness.logged("writing to the database works again")
        ),
        (1, 1)
    );
}

#[tokio::test]
async fn a_crawl_requested_while_the_database_is_unreachable_runs_once_it_is_reachable() {
    let harness = DaemonHarness::without_tables(clock_at_08_20()).await;
    let mut daemon = harness.start(&PROD);
    daemon.wait_for_next_crawl_at("08:20:05").await;
    daemon.lifecycle.signal(Signal::CrawlNow);
    daemon.wait_for_next_crawl_at("08:20:05").await;
    daemon.trigger_without_crawl().await;
    harness.store.migrate().await.unwrap();
    harness.set_clock("08:20:05");
    daemon.trigger.fire();
    daemon.wait_for_crawls(1).await;
    assert_eq!(harness.crawls().await, ["signal  complete"]);
}

#[tokio::test]
async fn a_crawl_that_fails_in_the_database_is_retried() {
    let harness = DaemonHarness::new().await;
    // A folder prevents the lock file from being created.
    let lock = harness.folder.path().join("groups.db.app-1400000000.lock");
    std::fs::create_dir(&lock).unwrap();
    let mut daemon = harness.start(&AppSpec { catch_up: true, ..PROD });
    daemon.wait_for_next_crawl_at("08:21:00").await;
    harness.set_clock("08:21:00");
    daemon.trigger.fire();
    daemon.wait_for_next_crawl_at("08:23:00").await;
    assert_eq!(harness.logged("cannot use the lock file"), 1, "a state is logged once");
    std::fs::remove_dir(&lock).unwrap();
    harness.set_clock("08:23:00");
    daemon.trigger.fire();
    daemon.wait_for_crawls(1).await;
    daemon.wait_until("no database problem", |state| state.database_problem.is_none()).await;
    daemon.wait_for_next_crawl_at("09:00:00").await;
}

#[tokio::test]
async fn a_tick_that_another_replica_has_crawled_is_not_crawled_again() {
    let harness = DaemonHarness::new().await;
    let (mut first, mut second) = (harness.start(&PROD), harness.start(&PROD));
    first.wait_for_next_crawl_at("09:00:00").await;
    second.wait_for_next_crawl_at("09:00:00").await;
    harness.set_clock("09:00:00");
    first.trigger.fire();
    first.wait_for_crawls(1).await;
    second.trigger.fire();
    second.wait_for_next_crawl_at("10:00:00").await;
    assert_eq!(harness.crawls().await, ["schedule 09:00 complete"]);
    assert_eq!((second.skipped_ticks(), harness.logged("WARN"), harness.logged("ERROR")), (0, 0, 0));
}

#[tokio::test]
async fn a_clock_set_back_by_a_day_neither_stops_nor_floods_the_schedule() {
    let harness = DaemonHarness::new().await;
    let mut daemon = harness.start_crawled().await;
    harness.set_clock("09:00:00");
    daemon.trigger.fire();
    daemon.wait_for_crawls(2).await;

    let yesterday = |time| at(time) - TimeDelta::days(1);
    harness.clock.set(yesterday("08:30:00"));
    daemon.trigger.fire();
    daemon
        .wait_until("the next crawl at the new time", |state| state.next_at == Some(yesterday("09:00:00")))
        .await;
    assert_eq!(harness.logged("the clock was set back"), 1);
    harness.clock.set(yesterday("09:00:00"));
    daemon.trigger.fire();
    daemon.wait_for_crawls(3).await;
    daemon.wait_until("waiting for the next", |state| state.next_at == Some(yesterday("10:00:00"))).await;

    // The clock is corrected. The tick at 09:00 occurs a second time and is crawled again. The tick
    // at 10:00 is new.
    for (crawls, now) in [(4, "09:00:00"), (5, "10:00:00")] {
        harness.set_clock(now);
        daemon.trigger.fire();
        daemon.wait_for_crawls(crawls).await;
    }
    assert_eq!(
        harness.crawls().await[1..],
        ["schedule 09:00 complete", "schedule  complete", "schedule  complete", "schedule 10:00 complete"]
    );
}

#[tokio::test]
async fn a_daemon_whose_clock_is_before_the_last_crawl_follows_the_schedule() {
    let harness = DaemonHarness::new().await;
    harness.start_crawled().await.stop().await;
    harness.set_clock("05:30:00");
    let mut daemon = harness.start(&AppSpec { catch_up: true, ..PROD });
    daemon.wait_for_next_crawl_at("06:00:00").await;
    harness.set_clock("06:00:00");
    daemon.trigger.fire();
    daemon.wait_for_crawls(2).await;
    daemon.wait_for_next_crawl_at("07:00:00").await;
    assert_eq!(harness.crawls().await[1], "schedule  complete");
}

#[tokio::test]
async fn a_panic_in_an_apps_task_ends_the_process() {
    let harness = DaemonHarness::new().await;
    // Three times this duration overflows. The configuration does not allow such a value.
    let daemon = harness.start(&AppSpec { catch_up: true, retry_for: Duration::MAX, ..PROD });
    let ending = daemon.lifecycle.ended(Systemd::from_environment()).await;
    assert_eq!(ending, Ending::TaskDied("the crawls of prod".to_owned()));
}

#[tokio::test]
async fn with_real_alarms_and_real_time_every_tick_is_crawled() {
    let harness = DaemonHarness::without_tables(Clock::system()).await;
    harness.store.migrate().await.unwrap();
    let plan = harness.plan(&harness.api, &AppSpec { cron: "* * * * * *", ..PROD });
    let alarm_clock = AlarmClock::start().await.unwrap();
    // The app that was started with a manual alarm is replaced by one with a real alarm.
    let mut daemon = harness.start(&PROD);
    apply(&daemon.handle, Vec::new());
    daemon.handle.lock().unwrap().apply(vec![plan], |_| alarm_clock.alarm());
    daemon
        .wait_until("two ticks crawled", |state| {
            state.last_report.as_ref().is_some_and(|last| last.crawl.0 >= 2)
        })
        .await;
    assert_eq!(daemon.stop().await, Ending::Requested);
    alarm_clock.stop().await;
    let (_, ticks) =
        harness.store.query_as_text("SELECT count(DISTINCT due_at), count(*) FROM crawls").await.unwrap();
    assert_eq!(ticks[0][0], ticks[0][1]);
    assert_eq!(harness.logged("woken late"), 0);
}
