//! Apps that are added, removed and changed while the daemon runs, and many apps at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use harness::daemon::{AppSpec, DaemonHarness, PROD};
use harness::postgres::DedicatedServer;
use tim_group_sync::crawl::Step;
use tim_group_sync::daemon::{
    AppPlan, AppState, Database, OpenAttempt, Opening, Phase, WorkersError, maintain_database,
};
use tim_group_sync::lifecycle::{Ending, Lifecycle, Signal};
use tim_group_sync::model::SdkAppId;
use tim_group_sync::simulator::{At, Fault};
use tim_group_sync::store::{Limits, Store, StoreError};

const CAUGHT_UP: AppSpec = AppSpec { catch_up: true, ..PROD };
const OTHER: AppSpec = AppSpec { app: "other", sdk_app_id: 1_400_000_001, ..CAUGHT_UP };

/// Returns a plan whose key is readable only while the flag is true.
fn with_key_file(harness: &DaemonHarness, spec: &AppSpec) -> (AppPlan, Arc<AtomicBool>) {
    failing_until_set(harness, spec, WorkersError::Key("cannot read prod.key".to_owned()))
}

/// Returns a plan whose workers cannot be created until the flag is true.
fn failing_until_set(
    harness: &DaemonHarness,
    spec: &AppSpec,
    error: WorkersError,
) -> (AppPlan, Arc<AtomicBool>) {
    let plan = harness.plan(&harness.api, spec);
    let (works, make) = (Arc::new(AtomicBool::new(false)), plan.workers);
    let is_working = Arc::clone(&works);
    let workers = Box::new(
        move |store: &_| {
            if is_working.load(Ordering::SeqCst) { make(store) } else { Err(error.clone()) }
        },
    );
    (AppPlan { workers, ..plan }, works)
}

#[tokio::test]
async fn an_added_app_is_crawled_and_a_removed_one_is_not() {
    let harness = DaemonHarness::new().await;
    let api = harness.api_of(&OTHER).await;
    let mut prod = harness.start_crawled().await;
    let mut other =
        prod.add_app([harness.plan(&harness.api, &CAUGHT_UP), harness.plan(&api, &OTHER)], OTHER.app);
    other.wait_for_crawls(2).await;
    prod.wait_for_next_crawl_at("09:00:00").await;

    prod.replace_plans([harness.plan(&harness.api, &CAUGHT_UP)]);
    prod.lifecycle.signal(Signal::CrawlNow);
    prod.wait_for_crawls(3).await;
    assert!(!prod.apps.borrow().contains_key("other"));
    assert_eq!(
        harness.crawls().await,
        ["catch_up 08:00 complete", "catch_up 08:00 complete other", "signal  complete"]
    );
    assert_eq!(prod.stop().await, Ending::Requested);
}

#[tokio::test]
async fn the_database_records_which_apps_are_configured() {
    let harness = DaemonHarness::new().await;
    let api = harness.api_of(&OTHER).await;
    let mut prod = harness.start_crawled().await;
    let mut other =
        prod.add_app([harness.plan(&harness.api, &CAUGHT_UP), harness.plan(&api, &OTHER)], OTHER.app);
    other.wait_for_crawls(2).await;
    let configured = async || {
        let (_, rows) =
            harness.store.query_as_text("SELECT app FROM app_status WHERE configured = 1").await.unwrap();
        rows.concat().join(" ")
    };
    assert_eq!(configured().await, "prod other");
    prod.replace_plans([harness.plan(&harness.api, &CAUGHT_UP)]);
    while configured().await != "prod" {
        tokio::task::yield_now().await;
    }
    prod.wait_until("in the configuration", |_| true).await;
}

#[tokio::test]
async fn a_changed_schedule_applies_to_future_ticks_only() {
    let harness = DaemonHarness::new().await;
    let mut daemon = harness.start(&PROD);
    daemon.wait_for_next_crawl_at("09:00:00").await;
    harness.set_clock("08:40:00");
    daemon.replace_plans([harness.plan(&harness.api, &AppSpec { cron: "30,45 * * * *", ..PROD })]);
    daemon.wait_for_next_crawl_at("08:45:00").await;
    harness.set_clock("08:45:00");
    daemon.trigger.fire();
    daemon.wait_for_crawls(1).await;
    daemon.wait_for_next_crawl_at("09:30:00").await;
    assert_eq!(harness.crawls().await, ["schedule 08:45 complete"]);
    assert_eq!(daemon.skipped_ticks(), 0);
}

#[tokio::test]
async fn a_running_crawl_keeps_its_settings_and_the_next_one_has_the_new_ones() {
    let harness = DaemonHarness::new().await;
    harness.api.create_many("Private", 2);
    let held = harness.api.hold(At::Request(2));
    let mut daemon = harness.start(&CAUGHT_UP);
    held.reached().await;
    let private = AppSpec { group_type: "Private", cron: "30 * * * *", ..CAUGHT_UP };
    daemon.replace_plans([harness.plan(&harness.api, &private)]);
    held.release();
    daemon.wait_for_next_crawl_at("08:30:00").await;
    harness.set_clock("08:30:00");
    daemon.trigger.fire();
    daemon.wait_for_crawls(2).await;
    let passes = "SELECT crawl_id, group_type FROM type_counts ORDER BY crawl_id";
    let (_, passes) = harness.store.query_as_text(passes).await.unwrap();
    assert_eq!(passes, [["1", "Public"], ["2", "Private"]]);
}

#[tokio::test]
async fn removing_an_app_cancels_its_crawl_and_the_app_can_be_added_again_at_once() {
    let harness = DaemonHarness::new().await;
    let api = harness.api_of(&OTHER).await;
    let held = harness.api.hold(At::Request(3));
    let [prod, mut other] = harness
        .start_all([("prod", harness.plan(&harness.api, &CAUGHT_UP)), ("other", harness.plan(&api, &OTHER))]);
    held.reached().await;
    other.wait_for_crawl_status("complete").await;
    other.replace_plans([harness.plan(&api, &OTHER)]);
    let mut again =
        other.add_app([harness.plan(&harness.api, &CAUGHT_UP), harness.plan(&api, &OTHER)], "prod");
    held.release();
    again.wait_for_crawl_status("complete").await;
    let mut crawls = harness.crawls().await;
    crawls.retain(|crawl| !crawl.ends_with("other"));
    assert_eq!(crawls, ["catch_up 08:00 cancelled", "catch_up 08:00 complete"]);
    assert_eq!(harness.logged("a task ended unexpectedly"), 0);
    assert_eq!(prod.stop().await, Ending::Requested);
}

#[tokio::test]
async fn an_app_with_an_unreadable_key_is_refused_and_the_key_is_retried() {
    let harness = DaemonHarness::new().await;
    let api = harness.api_of(&OTHER).await;
    let (plan, readable) = with_key_file(&harness, &CAUGHT_UP);
    let [mut prod, mut other] = harness.start_all([("prod", plan), ("other", harness.plan(&api, &OTHER))]);
    other.wait_for_crawl_status("complete").await;
    for again in ["08:21:00", "08:23:00"] {
        prod.wait_for_next_crawl_at(again).await;
        assert!(prod.refused());
        assert_eq!(prod.problems(), ["app prod: the key cannot be used: cannot read prod.key"]);
        harness.set_clock(again);
        readable.store(again == "08:23:00", Ordering::SeqCst);
        prod.trigger.fire();
    }
    prod.wait_for_crawl_status("complete").await;
    prod.wait_for_next_crawl_at("09:00:00").await;
    assert!(!prod.refused() && prod.problems().is_empty());
    assert_eq!(harness.logged("the app's key cannot be used"), 1, "a state is logged once");
}

#[tokio::test]
async fn an_http_client_that_cannot_be_created_is_not_reported_as_a_bad_key() {
    let harness = DaemonHarness::new().await;
    let no_client = WorkersError::Client("cannot create the HTTP client: no CA certificates".to_owned());
    let (plan, works) = failing_until_set(&harness, &CAUGHT_UP, no_client);
    let [mut prod] = harness.start_all([("prod", plan)]);
    prod.wait_for_next_crawl_at("08:21:00").await;
    assert_eq!(prod.problems(), ["app prod: cannot create the HTTP client: no CA certificates"]);
    assert!(!prod.refused());
    assert_eq!([harness.logged("app's key"), harness.logged("the API cannot be called")], [0, 1]);
    works.store(true, Ordering::SeqCst);
    harness.set_clock("08:21:00");
    prod.trigger.fire();
    prod.wait_for_crawl_status("complete").await;
    assert!(prod.problems().is_empty());
}

#[tokio::test]
async fn a_reload_retries_an_unreadable_key_at_once() {
    let harness = DaemonHarness::new().await;
    let (plan, _) = with_key_file(&harness, &CAUGHT_UP);
    let [mut prod] = harness.start_all([("prod", plan)]);
    prod.wait_for_next_crawl_at("08:21:00").await;
    prod.replace_plans([harness.plan(&harness.api, &CAUGHT_UP)]);
    prod.wait_for_crawls(1).await;
    assert_eq!(harness.crawls().await, ["catch_up 08:00 complete"]);
    assert!(!prod.refused());
}

#[tokio::test]
async fn an_app_keeps_its_key_if_a_reload_cannot_read_the_new_one_and_gets_it_later() {
    let harness = DaemonHarness::new().await;
    let mut prod = harness.start_crawled().await;
    let private = AppSpec { group_type: "Private", ..CAUGHT_UP };
    let (plan, readable) = with_key_file(&harness, &private);
    prod.replace_plans([plan]);
    prod.wait_until("a problem with the key", |state| state.key_problem.is_some()).await;
    assert!(!prod.refused());
    for (crawls, now) in [(2, "09:00:00"), (3, "10:00:00")] {
        readable.store(crawls == 3, Ordering::SeqCst);
        harness.set_clock(now);
        prod.trigger.fire();
        prod.wait_for_crawls(crawls).await;
    }
    assert!(prod.problems().is_empty());
    let passes = "SELECT crawl_id, group_type FROM type_counts ORDER BY crawl_id";
    let (_, passes) = harness.store.query_as_text(passes).await.unwrap();
    assert_eq!(passes, [["1", "Public"], ["2", "Public"], ["3", "Private"]]);
}

#[tokio::test]
async fn a_refused_key_is_read_again_from_its_file_at_the_next_attempt() {
    let harness = DaemonHarness::new().await;
    let plan = harness.plan(&harness.api, &CAUGHT_UP);
    let wrong = harness.workers(&harness.api, &AppSpec { wrong_key: true, ..CAUGHT_UP });
    let (right, replaced) = (plan.workers, Arc::new(AtomicBool::new(false)));
    let is_replaced = Arc::clone(&replaced);
    let workers = Box::new(
        move |store: &_| {
            if is_replaced.load(Ordering::SeqCst) { right(store) } else { wrong(store) }
        },
    );
    let [mut prod] = harness.start_all([("prod", AppPlan { workers, ..plan })]);
    prod.wait_for_next_crawl_at("08:50:00").await;
    assert!(prod.refused());
    assert!(
        prod.problems()[0].starts_with("app prod: the API refuses the credentials: "),
        "{:?}",
        prod.problems()
    );
    replaced.store(true, Ordering::SeqCst);
    harness.set_clock("08:50:00");
    prod.trigger.fire();
    prod.wait_for_crawl_status("complete").await;
    assert!(!prod.refused() && prod.problems().is_empty());
}

#[tokio::test]
async fn a_refused_reload_is_a_problem_until_one_succeeds() {
    let harness = DaemonHarness::new().await;
    let mut prod = harness.start(&PROD);
    prod.wait_for_next_crawl_at("09:00:00").await;
    prod.handle.lock().unwrap().refuse_reload("the configuration was not reloaded".to_owned());
    assert_eq!(prod.problems(), ["the configuration was not reloaded"]);
    prod.replace_plans([harness.plan(&harness.api, &PROD)]);
    assert!(prod.problems().is_empty());
}

#[tokio::test]
async fn fifty_apps_are_crawled_independently_even_if_some_of_them_fail() {
    let harness = DaemonHarness::new().await;
    let names: [&'static str; 50] = std::array::from_fn(|n| &*format!("app{n}").leak());
    let mut apis = Vec::new();
    let mut apps = Vec::new();
    for (sdk_app_id, app) in (1_400_001_000..).zip(names) {
        let spec = AppSpec { app, sdk_app_id, wrong_key: app == "app10", ..CAUGHT_UP };
        let api = harness.api_of(&spec).await;
        let mut plan = harness.plan(&api, &spec);
        match app {
            "app20" => {
                plan.workers = Box::new(|_| Err(WorkersError::Key("cannot read app20.key".to_owned())));
            }
            "app30" => api.script(At::Every, Fault::ErrorCode(10003)),
            _ => {}
        }
        apps.push((app, plan));
        apis.push(api);
    }
    let hanging = apis[40].hold(At::Every);
    let apps: [(&'static str, AppPlan); 50] = apps.try_into().unwrap();
    let mut daemons = harness.start_all(apps);
    hanging.reached().await;
    let failing_apps = ["app10", "app20", "app30", "app40"];
    for (time, next) in [("08:20:00", "09:00:00"), ("09:00:00", "10:00:00")] {
        harness.set_clock(time);
        daemons.iter().for_each(|daemon| daemon.trigger.fire());
        for daemon in daemons.iter_mut().filter(|daemon| !failing_apps.contains(&daemon.app)) {
            daemon.wait_for_next_crawl_at(next).await;
            daemon.wait_for_crawl_status("complete").await;
        }
    }
    let [refused, unreadable, failing, hanging_app] =
        failing_apps.map(|app| daemons[0].apps.borrow().get(app).unwrap().clone());
    assert!(refused.refused && unreadable.refused && unreadable.key_problem.is_some());
    assert!(failing.last_report.is_some_and(|report| report.status.as_str() == "failed"));
    assert!(matches!(hanging_app.phase, Phase::Crawling { .. }));
    let complete = "SELECT count(DISTINCT app), count(*) FROM crawls WHERE status = 'complete'";
    let (_, complete) = harness.store.query_as_text(complete).await.unwrap();
    assert_eq!(complete, [["46", "92"]]);
    drop(hanging);
    let [first, ..] = daemons;
    assert_eq!(first.stop().await, Ending::Requested);
}

#[tokio::test]
async fn an_app_that_waits_too_long_for_another_process_is_reported_until_it_continues() {
    let harness = DaemonHarness::new().await;
    let sdk_app_id = SdkAppId::new(PROD.sdk_app_id).unwrap();
    let lease = harness.store.lease(sdk_app_id, |_| ()).await.unwrap();
    let mut daemon = harness.start(&AppSpec { catch_up: true, ..PROD });
    let waits = |state: &AppState| matches!(&state.phase, Phase::Crawling { progress, .. } if progress.step == Step::WaitingForLease);
    daemon.wait_until("waiting for its lease", waits).await;
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(16 * 60)).await;
    tokio::time::resume();
    let stall =
        "app prod: no progress for 16 minutes while waiting for another process to finish crawling it";
    assert_eq!(daemon.problems(), [stall]);
    assert_eq!(harness.logged("app prod: no progress for 15 minutes"), 1);
    drop(lease);
    daemon.wait_for_crawls(1).await;
    assert!(daemon.problems().is_empty());
    tokio::time::pause();
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!(harness.logged("the app makes progress again"), 1);
}

#[tokio::test]
async fn opening_the_database_is_retried_until_it_succeeds() {
    let harness = DaemonHarness::new().await;
    let (life, store) = (Lifecycle::without_signals(), harness.store.clone());
    let attempts = std::sync::atomic::AtomicU32::new(0);
    tokio::time::pause();
    let open = move |_: Opening| -> OpenAttempt {
        let (attempt, store) = (attempts.fetch_add(1, Ordering::SeqCst), store.clone());
        Box::pin(async move {
            match attempt {
                0..5 => Err(StoreError::Absent { at: "sqlite:/away/groups.db".to_owned() }),
                _ => Ok(store),
            }
        })
    };
    let mut database = maintain_database(&life, open(Opening::First), open);
    let began = tokio::time::Instant::now();
    database.wait_for(|database| database.problem().is_some()).await.unwrap();
    let problem = database.borrow().problem().unwrap();
    assert!(problem.starts_with("waiting for the database: there is no database sqlite:/away/"), "{problem}");
    database.wait_for(|database| matches!(database, Database::Open(_))).await.unwrap();
    assert_eq!(began.elapsed().as_secs(), 1 + 5 + 10 + 20 + 20);
    assert_eq!((harness.logged("which needs attention"), harness.logged("the database is open")), (1, 1));
    life.signal(Signal::Stop);
    assert_eq!(life.ended(tim_group_sync::lifecycle::Systemd::from_environment()).await, Ending::Requested);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn an_unreachable_database_is_a_problem_until_it_can_be_reached_again() {
    let Some(server) = DedicatedServer::start() else { return };
    let mut harness = DaemonHarness::new().await;
    let mut database = server.database().await;
    database.limits = Limits::default().divided_by(10);
    harness.store = Store::open(&database.store_location()).await.unwrap();
    let mut daemon = harness.start_crawled().await;
    server.crash().await;
    harness.set_clock("09:00:00");
    daemon.trigger.fire();
    daemon.wait_for_next_crawl_at("09:00:05").await;
    assert!(
        daemon.problems()[0].starts_with("app prod: cannot write to the database: cannot "),
        "{:?}",
        daemon.problems()
    );
    server.restart().await;
    harness.set_clock("10:00:00");
    daemon.trigger.fire();
    daemon.wait_for_next_crawl_at("11:00:00").await;
    assert!(daemon.problems().is_empty());
    assert_eq!(harness.crawls().await, ["catch_up 08:00 complete", "schedule 10:00 complete"]);
    assert_eq!(
        (
            harness.logged("cannot write to the database"),
            harness.logged("writing to the database works again")
        ),
        (1, 1)
    );
}
