//! Failover during a crawl: the primary is lost and its standby is promoted. One address leads to
//! the current primary, like a virtual IP address.

use std::collections::BTreeMap;
use std::time::Duration;

use harness::crawl::{Engine, Harness, ON_COMMAND};
use harness::network::{ConnectionState, Cut, Network};
use harness::postgres::DedicatedServer;
use harness::store::TestDatabase;
use tim_group_sync::crawl::WhenBusy;
use tim_group_sync::model::CrawlStatus;
use tim_group_sync::simulator::At;
use tim_group_sync::store::Limits;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

use crate::cuts::{LIMITS_DIVISOR, MAX_RECOVERY};

/// How transactions reach the standby.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Replication {
    /// The primary acknowledges a commit after the standby has it.
    Synchronous,
    /// The latest transactions do not reach the standby.
    LosesLatest,
}

/// Crawls until a crawl is complete, as the daemon does, and returns how long that took.
async fn crawl_until_complete(harness: &Harness) -> Duration {
    let (since, stop) = (Instant::now(), CancellationToken::new());
    loop {
        let crawled = harness.crawler().crawl(ON_COMMAND, WhenBusy::Wait, &stop).await;
        if crawled.is_ok_and(|report| report.status == CrawlStatus::Complete) {
            return since.elapsed();
        }
        sleep(Duration::from_secs(5) / LIMITS_DIVISOR).await;
    }
}

/// Returns the visible events by their ids.
async fn events(harness: &Harness) -> BTreeMap<i64, Vec<String>> {
    let sql = "SELECT event_id, event, group_id, crawl_id FROM group_events";
    let rows = harness.db.rows(sql).await;
    rows.into_iter().map(|row| (row[0].parse().unwrap(), row[1..].to_vec())).collect()
}

async fn fail_over(replication: Replication, at_request: u64) {
    let Some(server) = DedicatedServer::start() else { return };
    let network = Network::in_front_of(&server.folder);
    let database = server.database_behind(&network, Limits::default().divided_by(LIMITS_DIVISOR)).await;
    let harness = Harness::with_database(TestDatabase::on_postgres(database).await, Engine::Postgres).await;
    harness.api.create_many("Public", 12);
    harness.create("Private", "a b c");
    harness.crawl().await;
    if server.replica().await.is_none() {
        return;
    }
    match replication {
        Replication::Synchronous => {
            server.execute("ALTER SYSTEM SET synchronous_standby_names = '*'").await;
            server.execute("SELECT pg_reload_conf()").await;
        }
        Replication::LosesLatest => {}
    }
    harness.create("Public", "before");
    assert_eq!(harness.crawl().await.status, CrawlStatus::Complete);
    if replication == Replication::LosesLatest {
        server.execute_on_replica("ALTER SYSTEM SET primary_conninfo = ''").await;
        server.execute_on_replica("SELECT pg_reload_conf()").await;
        // The standby does not receive this crawl.
        harness.create("Public", "lost");
        assert_eq!(harness.crawl().await.status, CrawlStatus::Complete);
    }

    let before = events(&harness).await;
    harness.prepare_crawl();
    harness.create("Public", "during");
    harness.api.dissolve_some(1);
    let held = harness.api.hold(At::Request(harness.request(at_request)));
    let (crawler, stop) = (harness.crawler(), CancellationToken::new());
    let failing = async {
        held.reached().await;
        network.cut(Cut::All, ConnectionState::Silent);
        server.crash().await;
        held.release();
        server.promote_replica().await;
        network.forward_to(&server.replica_folder());
        network.restore();
        Instant::now()
    };
    let (crawled, promoted) = tokio::join!(crawler.crawl(ON_COMMAND, WhenBusy::GiveUp, &stop), failing);
    if let Ok(report) = crawled {
        assert!(matches!(report.status, CrawlStatus::Complete | CrawlStatus::Failed), "{report:?}");
    }
    crawl_until_complete(&harness).await;
    assert!(promoted.elapsed() <= MAX_RECOVERY, "{replication:?} {at_request}: {:?}", promoted.elapsed());
    harness.assert_table_matches_api().await;
    // No id is reused: each event is the one that readers saw under its id, or its id is greater
    // than all ids that they saw.
    let last = *before.keys().next_back().unwrap();
    for (id, event) in events(&harness).await {
        assert!(id > last || before.get(&id) == Some(&event), "{replication:?} {at_request}: {id} {event:?}");
    }
    // Readers saw events of the lost transactions, so the history across the failover is not
    // compared.
    if replication == Replication::Synchronous {
        harness.assert_invariants().await;
    } else {
        harness.db.assert_consistent().await;
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn after_a_failover_to_a_synchronous_standby_nothing_is_lost_or_done_twice() {
    for at_request in [1, 4, 7] {
        fail_over(Replication::Synchronous, at_request).await;
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn after_a_failover_that_lost_the_last_transactions_the_next_crawl_brings_the_tables_up_to_date() {
    for at_request in [1, 4, 7] {
        fail_over(Replication::LosesLatest, at_request).await;
    }
}
