//! PostgreSQL servers that restart, have a replica, cut connections, lose the answer to a commit,
//! or lack a trusted certificate.

use harness::crawl::{Engine, Harness, ON_COMMAND};
use harness::network::{ConnectionState, Network};
use harness::postgres::{DedicatedServer, PostgresServer};
use harness::store::{LeasedApp, TestDatabase, at, day, sdk_app_id};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use tim_group_sync::crawl::WhenBusy;
use tim_group_sync::model::{CrawlStatus, Verdict};
use tim_group_sync::reconcile::Confirmation;
use tim_group_sync::simulator::At;
use tim_group_sync::store::{
    Approval, CrawlEvents, DatabaseLocation, Limits, PostgresDatabase, Store, StoreError, WrittenCounts,
};
use tokio::net::{TcpListener, UnixStream};
use tokio_util::sync::CancellationToken;

async fn open(url: &str) -> Result<Store, StoreError> {
    Store::open(&DatabaseLocation::Postgres(PostgresDatabase::new(url).unwrap())).await
}

fn is_insecure(outcome: &Result<Store, StoreError>) -> bool {
    matches!(outcome, Err(error @ StoreError::Insecure { .. }) if error.is_configuration())
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_server_must_have_a_trusted_certificate_for_its_name() {
    let authority = KeyPair::generate().unwrap();
    let mut of_authority = CertificateParams::default();
    of_authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority = CertifiedIssuer::self_signed(of_authority, authority).unwrap();
    let key = KeyPair::generate().unwrap();
    let of_server = CertificateParams::new(vec!["localhost".to_owned()]).unwrap();
    let certificate = of_server.signed_by(&key, &authority).unwrap();
    let Some(server) = DedicatedServer::with_certificate(&certificate.pem(), &key.serialize_pem()) else {
        return;
    };
    let folder = tempfile::tempdir().unwrap();
    let trusted = folder.path().join("ca.pem");
    std::fs::write(&trusted, authority.pem()).unwrap();
    let (port, trusted) = (server.port(), trusted.display());

    let url =
        |host: &str, parameters: &str| format!("postgres://postgres@{host}:{port}/postgres?{parameters}");
    let verified =
        open(&url("localhost", &format!("sslmode=verify-full&sslrootcert={trusted}"))).await.unwrap();
    verified.migrate().await.unwrap();
    verified.close().await;
    let unknown = open(&url("localhost", "sslmode=verify-full")).await;
    assert!(is_insecure(&unknown), "{unknown:?}");
    let other_name = open(&url("127.0.0.1", &format!("sslmode=verify-full&sslrootcert={trusted}"))).await;
    assert!(is_insecure(&other_name), "{other_name:?}");
    // Encryption without verification is enough for `sslmode=require`, and by default on loopback.
    for without_verification in ["sslmode=require", ""] {
        open(&url("127.0.0.1", without_verification)).await.unwrap().close().await;
    }
    // This server refuses connections without TLS.
    let plain = open(&url("localhost", "sslmode=disable")).await.unwrap_err();
    assert!(plain.is_configuration(), "{plain:?}");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_server_without_tls_is_refused_if_the_url_requires_tls() {
    let Some(server) = DedicatedServer::start() else { return };
    // A TCP proxy for a server that listens on a socket only and does not use TLS on it.
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let socket = server.folder.join(".s.PGSQL.5432");
    let proxy = tokio::spawn(async move {
        loop {
            let (mut client, _) = listener.accept().await.unwrap();
            let mut server = UnixStream::connect(&socket).await.unwrap();
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut client, &mut server).await });
        }
    });
    let url = format!("postgres://postgres@localhost:{port}/postgres");
    open(&url).await.unwrap().close().await;
    for sslmode in ["require", "verify-ca", "verify-full"] {
        let refused = open(&format!("{url}?sslmode={sslmode}")).await;
        assert!(is_insecure(&refused), "{sslmode}: {refused:?}");
    }
    proxy.abort();
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_crawl_survives_a_restart_of_the_server_or_fails_and_the_next_one_recovers() {
    let Some(server) = DedicatedServer::start() else { return };
    let harness =
        Harness::with_database(TestDatabase::on_postgres(server.database().await).await, Engine::Postgres)
            .await;
    harness.create("Public", "a b c d");
    harness.crawl().await;
    for n in [1, 3, 5] {
        harness.api.dissolve_some(1);
        harness.create("Public", &format!("x{n} y{n} z{n}"));
        let held = harness.api.hold(At::Request(harness.request(n)));
        harness.prepare_crawl();
        let (crawler, stop) = (harness.crawler(), CancellationToken::new());
        let restarting = async {
            held.reached().await;
            server.crash().await;
            held.release();
            server.restart().await;
        };
        let (crawled, ()) = tokio::join!(crawler.crawl(ON_COMMAND, WhenBusy::GiveUp, &stop), restarting);
        match crawled {
            Ok(report) => assert!(
                matches!(report.status, CrawlStatus::Complete | CrawlStatus::Failed),
                "{n}: {report:?}"
            ),
            Err(error) => println!("{n}: {error:?}"),
        }
        // The test expires a lease that could not be released.
        server.execute("UPDATE tim_private.lease SET expires_at = 0").await;
        harness.crawl().await;
        harness.assert_table_matches_api().await;
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_crawl_survives_cut_connections() {
    let harness = Harness::on(Engine::Postgres).await;
    harness.create("Public", "a b c d");
    harness.crawl().await;
    for n in 1..=5 {
        harness.api.dissolve_some(1);
        harness.create("Public", &format!("x{n} y{n}"));
        let held = harness.api.hold(At::Request(harness.request(n)));
        harness.prepare_crawl();
        let (crawler, stop) = (harness.crawler(), CancellationToken::new());
        let cutting = async {
            held.reached().await;
            let all = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                       WHERE datname = current_database() AND pid <> pg_backend_pid()";
            TestDatabase::execute(&harness.db.store_location(), all).await;
            held.release();
        };
        let (crawled, ()) = tokio::join!(crawler.crawl(ON_COMMAND, WhenBusy::GiveUp, &stop), cutting);
        assert_eq!(crawled.unwrap().status, CrawlStatus::Complete, "{n}");
        harness.assert_invariants().await;
        harness.assert_table_matches_api().await;
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_replica_can_be_read_and_is_never_written() {
    let Some(server) = DedicatedServer::start() else { return };
    let db = TestDatabase::on_postgres(server.database().await).await;
    let leased = LeasedApp::after_baseline(&db, &["a", "b"], &[]).await;
    let Some(replica) = server.replica().await else { return };
    let reader = Store::open_to_read(&replica).await.unwrap();
    reader.check_migrated().await.unwrap();
    let live = async || reader.app_statuses().await.unwrap()[0].types[0].of_type.live_count;
    assert_eq!(live().await, 2);
    assert!(reader.lease_holder(sdk_app_id()).await.unwrap().is_some());

    let crawl = leased.open(at(2, 0)).await;
    leased.list(crawl, leased.public, at(2, 1), &["c"]).await;
    leased.complete(crawl, at(2, 0), at(2, 2), &[leased.public]).await;
    while live().await != 3 {
        tokio::time::sleep(std::time::Duration::from_millis(2)).await;
    }
    for refused in [Store::open(&replica).await, Store::open_existing(&replica).await] {
        let refused = refused.unwrap_err();
        assert!(matches!(refused, StoreError::ReadOnly { .. }) && refused.is_transient(), "{refused:?}");
    }
    let refused = reader.set_configured(&[]).await.unwrap_err();
    assert!(matches!(refused, StoreError::Query { .. }) && refused.is_transient(), "{refused:?}");
    reader.close().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_transaction_whose_commit_is_not_answered_is_done_once() {
    for state in [ConnectionState::Closed, ConnectionState::Silent] {
        commit_without_an_answer(state).await;
    }
}

async fn commit_without_an_answer(state: ConnectionState) {
    let server = PostgresServer::shared().await;
    let Some(folder) = server.socket_folder() else {
        harness::skip("connections to a named server cannot be cut, because its socket is not known");
        return;
    };
    let network = Network::in_front_of(folder);
    let mut database = server.database().await;
    database.pooler = Some(network.folder().to_owned());
    database.limits = Limits::default().divided_by(10);
    let db = TestDatabase::on_postgres(database).await;
    let leased = LeasedApp::after_baseline(&db, &["a", "b", "c"], &[]).await;
    let lose_a_commit = || network.cut_at("COMMIT\0", true, state);

    lose_a_commit();
    let crawl = leased.open(at(2, 0)).await;
    assert_eq!(
        db.lines("SELECT crawl_id, status FROM crawl ORDER BY crawl_id").await,
        ["1|complete", &format!("{crawl}|running")]
    );
    lose_a_commit();
    let written = leased.list(crawl, leased.public, at(2, 1), &["a", "d"]).await;
    assert_eq!(written, WrittenCounts { first_listed: 1, appeared: 1, ..WrittenCounts::default() });
    let gone = leased.settle(&[(leased.public, Verdict::Exact)], &["b"]).await;
    lose_a_commit();
    let events = leased.close(crawl, at(2, 0), at(2, 2), &gone).await.unwrap();
    assert_eq!(events, CrawlEvents { appeared: 1, vanished: 1, ..CrawlEvents::default() });
    let expected = [format!("appeared|d|NULL|Public|{crawl}"), format!("vanished|b|Public|NULL|{crawl}")];
    assert_eq!(leased.events().await, expected);
    assert_eq!(
        db.lines("SELECT appeared, vanished FROM daily_counts WHERE group_type = 'Public'").await,
        ["1|1"]
    );
    // The crawl was closed once by this call. Another call finds it closed.
    let again = leased.close(crawl, at(2, 0), at(2, 2), &gone).await;
    assert!(matches!(again, Err(StoreError::CrawlAlreadyClosed { .. })), "{again:?}");

    let crawl = leased.open(at(3, 0)).await;
    let mut withheld = leased.settle(&[(leased.public, Verdict::Exact)], &["c"]).await;
    withheld.withhold(&[leased.public], Confirmation::Off, true);
    leased.close(crawl, at(3, 0), at(3, 1), &withheld).await.unwrap();
    let held = db.store.crawl_deletions(crawl).await.unwrap().unwrap();
    lose_a_commit();
    let approved =
        db.store.approve(&leased.lease, &held, (crawl, Approval::All), at(4, 0), day()).await.unwrap();
    assert_eq!(approved, 1);
    assert_eq!(db.value("SELECT vanished FROM daily_counts WHERE group_type = 'Public'").await, "2");
    db.assert_consistent().await;

    let LeasedApp { lease, .. } = leased;
    lease.release_unused().await;
    lose_a_commit();
    let lease =
        db.store.try_lease(sdk_app_id()).await.unwrap().expect("the row names this store as the holder");
    assert!(db.store.try_lease(sdk_app_id()).await.unwrap().is_none());
    lease.release_unused().await;
}
