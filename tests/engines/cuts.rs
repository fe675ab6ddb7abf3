//! Cut connections to the server, silent or closed, and lease holders that die. Limits are a tenth
//! of the real ones, except where the program itself runs.

use std::time::Duration;

use harness::campaign;
use harness::crawl::{Engine, Harness};
use harness::network::{ConnectionState, Cut, Network};
use harness::postgres::PostgresServer;
use harness::program::{ONCE_A_YEAR, ProgramHarness, REQUESTS, Service};
use harness::store::{LeasedApp, Location, TestDatabase, at, sdk_app_id};
use rustix::process::Signal;
use tim_group_sync::simulator::At;
use tim_group_sync::store::{Limits, StoreError, WrittenCounts};
use tokio::time::{Instant, timeout};

/// The real limits are divided by this number.
pub(crate) const LIMITS_DIVISOR: u32 = 10;
/// Maximum time until work continues after a cut has ended, and until a lease is taken over after
/// its last renewal.
pub(crate) const MAX_RECOVERY: Duration = Duration::from_secs(6);

/// Returns a database with short limits and the network between it and its stores.
async fn database_behind_network() -> Option<(TestDatabase, Network)> {
    let server = PostgresServer::shared().await;
    let Some(folder) = server.socket_folder() else {
        harness::skip("connections to a named server cannot be cut, because its socket is not known");
        return None;
    };
    let network = Network::in_front_of(folder);
    let mut database = server.database().await;
    database.pooler = Some(network.folder().to_owned());
    database.limits = Limits::default().divided_by(LIMITS_DIVISOR);
    Some((TestDatabase::on_postgres(database).await, network))
}

/// Returns the same database with direct connections, as another process has.
async fn directly_connected(db: &TestDatabase) -> TestDatabase {
    let Location::Postgres(database) = &db.location else { panic!("this test needs PostgreSQL") };
    TestDatabase::on_postgres(database.direct()).await
}

async fn within_max_recovery<T>(run: impl Future<Output = T>) -> T {
    timeout(MAX_RECOVERY, run).await.expect("the recovery takes too long")
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_transaction_that_is_cut_at_any_statement_is_committed_once() {
    let statements =
        ["BEGIN", "INSERT INTO group_event", "INSERT INTO group_row", "UPDATE lease", "COMMIT\0"];
    for state in [ConnectionState::Closed, ConnectionState::Silent] {
        let Some((db, network)) = database_behind_network().await else { return };
        let leased = LeasedApp::after_baseline(&db, &["a"], &[]).await;
        let crawl = leased.open(at(2, 0)).await;
        let mut number = 0;
        for statement in statements {
            for arrives in [false, true] {
                number += 1;
                network.cut_at(statement, arrives, state);
                let id = format!("x{number}");
                let ids = [id.as_str()];
                let written = within_max_recovery(leased.list(crawl, leased.public, at(2, 1), &ids)).await;
                let once = WrittenCounts { first_listed: 1, appeared: 1, ..WrittenCounts::default() };
                assert_eq!(written, once, "{statement} {arrives} {state:?}");
            }
        }
        let events = db.value("SELECT count(*) FROM group_event WHERE kind = 'a'").await;
        assert_eq!(events, number.to_string());
        leased.complete(crawl, at(2, 0), at(2, 2), &[leased.public]).await;
        db.assert_consistent().await;
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn idle_connections_that_have_fallen_silent_are_replaced_in_time() {
    let Some((db, network)) = database_behind_network().await else { return };
    let leased = LeasedApp::after_baseline(&db, &["a"], &[]).await;
    let many = (0..8).map(|_| db.store.app_statuses());
    futures_util::future::join_all(many).await;
    network.cut(Cut::All, ConnectionState::Silent);
    network.restore();
    let statuses = within_max_recovery(db.store.app_statuses()).await.unwrap();
    assert_eq!(statuses.len(), 1);
    leased.lease.renew().await.unwrap();
    network.cut(Cut::All, ConnectionState::Silent);
    timeout(Duration::from_secs(2), db.store.close()).await.expect("closing waits for silent connections");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_holder_without_its_database_stops_before_another_process_has_its_lease() {
    for state in [ConnectionState::Silent, ConnectionState::Closed] {
        let Some((db, network)) = database_behind_network().await else { return };
        let other = directly_connected(&db).await;
        let lease = db.store.try_lease(sdk_app_id()).await.unwrap().unwrap();
        network.cut(Cut::All, state);
        let cut = Instant::now();
        let working = async {
            let ended = lease.run_while_held(std::future::pending::<()>()).await;
            (ended, Instant::now())
        };
        let waiting = async {
            let lease = other.store.lease(sdk_app_id(), |_| ()).await.unwrap();
            (lease, Instant::now())
        };
        let ((ended, stopped), (_lease, taken)) = tokio::join!(working, waiting);
        assert!(matches!(ended, Err(StoreError::LeaseExpired { .. })), "{ended:?}");
        assert!(stopped <= taken, "both holders worked for {:?}", stopped - taken);
        assert!(taken - cut <= MAX_RECOVERY, "{:?}", taken - cut);
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn work_that_resumes_after_its_lease_has_expired_is_aborted() {
    let db = TestDatabase::postgres().await;
    let lease = db.store.try_lease(sdk_app_id()).await.unwrap().unwrap();
    let mut steps = 0;
    // Simulates a suspended process: time passes, and then the work is ready at once.
    let work = async {
        while steps < 100 {
            steps += 1;
            tokio::task::yield_now().await;
            if steps == 1 {
                tokio::time::pause();
                tokio::time::advance(Duration::from_secs(31)).await;
                tokio::time::resume();
            }
        }
    };
    let ended = lease.run_while_held(work).await;
    assert!(matches!(ended, Err(StoreError::LeaseExpired { .. })), "{ended:?}");
    assert_eq!(steps, 1);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_holder_that_dies_inside_a_transaction_blocks_the_next_one_for_a_limited_time() {
    // `UPDATE lease`, the last statement before the commit, locks the lease's row. The other
    // statements lock groups.
    for statement in ["INSERT INTO group_row", "UPDATE lease", "COMMIT\0"] {
        let Some((db, network)) = database_behind_network().await else { return };
        let leased = LeasedApp::after_baseline(&db, &["a"], &[]).await;
        let crawl = leased.open(at(2, 0)).await;
        network.cut_at(statement, statement != "COMMIT\0", ConnectionState::Silent);
        let died = Instant::now();
        let dying = timeout(Duration::from_millis(300), leased.list(crawl, leased.public, at(2, 1), &["b"]));
        assert!(dying.await.is_err(), "the connection was not cut");
        network.cut(Cut::All, ConnectionState::Silent);

        let other = directly_connected(&db).await;
        let lease = within_max_recovery(other.store.lease(sdk_app_id(), |_| ())).await.unwrap();
        let LeasedApp { app, public, private, .. } = leased;
        let next = LeasedApp { db: &other, app, public, private, lease };
        let crawl = next.open(at(3, 0)).await;
        next.list(crawl, next.public, at(3, 1), &["b"]).await;
        assert!(died.elapsed() <= MAX_RECOVERY, "{statement}: {:?}", died.elapsed());
        next.complete(crawl, at(3, 0), at(3, 2), &[next.public]).await;
        db.assert_consistent().await;
    }
}

/// Returns a program that reaches its database through a network. Its limits are the real ones.
async fn program_behind_a_network() -> Option<(ProgramHarness, Network, String)> {
    let server = PostgresServer::shared().await;
    let Some(folder) = server.socket_folder() else {
        harness::skip("connections to a named server cannot be cut, because its socket is not known");
        return None;
    };
    let network = Network::in_front_of(folder);
    let program = ProgramHarness::with_groups(Harness::on(Engine::Postgres).await);
    program.configure(ONCE_A_YEAR);
    let Location::Postgres(database) = &program.harness.db.location else { panic!("it is on PostgreSQL") };
    let url = database.url_through(&network);
    Some((program, network, url))
}

fn service_through(program: &ProgramHarness, url: &str) -> Service {
    let mut command = program.command(&["run"]);
    command.env("TIM_GROUP_SYNC_DATABASE_URL", url);
    Service::from_process(program.spawn(&mut command))
}

async fn assert_stops_in_time(service: Service, state: &str) {
    let requested = Instant::now();
    let code = service.stop().await;
    assert!(requested.elapsed() <= Duration::from_secs(5), "{state}: {:?}", requested.elapsed());
    // Code 1 is allowed, because a task that waits for the server may have been abandoned.
    assert!(matches!(code, Some(0 | 1)), "{state}: {code:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_service_with_a_silent_server_stops_within_five_seconds_in_every_state() {
    let Some((program, network, url)) = program_behind_a_network().await else { return };
    network.cut(Cut::All, ConnectionState::Silent);
    let opening = service_through(&program, &url).wait_for_log("waiting for the database").await;
    assert_stops_in_time(opening, "opening the database").await;

    network.restore();
    let idle = service_through(&program, &url).wait_for_log("crawl complete").await;
    network.cut(Cut::All, ConnectionState::Silent);
    assert_stops_in_time(idle, "waiting for a tick").await;

    for request in [2, REQUESTS] {
        network.restore();
        let mut crawling = service_through(&program, &url).wait_for_log("scheduled").await;
        program.harness.create("Public", &format!("during-{request}"));
        let held = program.harness.api.hold(At::Request(program.harness.request(request)));
        crawling.signal(Signal::USR1);
        crawling.wait_for(held.reached()).await;
        network.cut(Cut::All, ConnectionState::Silent);
        held.release();
        tokio::time::sleep(Duration::from_millis(500)).await;
        assert_stops_in_time(crawling, "in a crawl").await;
        network.close_silent();
        program.harness.db.expire_leases().await;
    }

    network.restore();
    let _lease = program.harness.store.try_lease(program.harness.credentials.sdk_app_id).await.unwrap();
    let waiting = service_through(&program, &url).wait_for_log("scheduled").await;
    waiting.signal(Signal::USR1);
    let waiting = waiting.wait_for_log("waiting until it has finished").await;
    network.cut(Cut::All, ConnectionState::Silent);
    assert_stops_in_time(waiting, "waiting for the lease").await;
}

/// Suspends a process (SIGSTOP) inside a transaction that has locked its lease. The limits are the
/// real ones.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_service_that_is_suspended_inside_a_transaction_is_replaced_within_a_minute() {
    if !campaign::is_full() {
        harness::skip("at the real limits this takes a minute; tests/run does it");
        return;
    }
    let Some((program, network, url)) = program_behind_a_network().await else { return };
    let frozen = service_through(&program, &url).wait_for_log("crawl complete").await;
    program.harness.create("Public", "new");
    // The commit of the transaction that opens the crawl does not arrive.
    network.cut_at("COMMIT\0", false, ConnectionState::Silent);
    frozen.signal(Signal::USR1);
    let busy = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND state = 'idle in transaction'";
    while program.harness.value(busy).await == "0" {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    frozen.signal(Signal::STOP);
    let stopped = Instant::now();
    let next = Service::start(&program).wait_for_log("scheduled").await;
    next.signal(Signal::USR1);
    let next = next.wait_for_log("crawl complete").await;
    assert!(stopped.elapsed() <= Duration::from_secs(60), "{:?}", stopped.elapsed());
    frozen.signal(Signal::CONT);
    frozen.signal(Signal::USR1);
    let frozen = frozen.wait_for_log("crawl complete").await;
    assert_eq!((frozen.stop().await, next.stop().await), (Some(0), Some(0)));
    program.harness.clock.set(program.harness.clock.now().max(tim_group_sync::clock::Clock::system().now()));
    program.harness.assert_invariants().await;
    program.harness.assert_table_matches_api().await;
}
