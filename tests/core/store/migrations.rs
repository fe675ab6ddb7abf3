//! Migrations: of an empty database, of earlier versions, and by two programs at once.

#![deny(dead_code)]

use harness::postgres::{PostgresServer, ServerDatabase};
use harness::store::{LeasedApp, Location, TestDatabase, at, group_types, sdk_app_id};
use harness::store_tests;
use tim_group_sync::store::{AppIdentity, DatabaseLocation, Store, StoreError};

store_tests![
    a_database_without_tables_is_distinguished_from_a_newer_one,
    tables_of_every_earlier_version_are_migrated_with_their_rows,
    the_printed_sql_creates_the_same_tables,
    two_programs_can_migrate_an_empty_database_at_the_same_time,
];

/// Returns a store on an empty database of the same engine.
async fn empty_store(db: &TestDatabase) -> (Store, DatabaseLocation, Option<ServerDatabase>) {
    match &db.location {
        Location::Sqlite(folder) => {
            let url = DatabaseLocation::Sqlite(folder.path().join("other.db"));
            (Store::open(&url).await.unwrap(), url, None)
        }
        Location::Postgres(_) => {
            let database =
                PostgresServer::shared().await.empty_database().await.through_same_pooler(&db.location);
            let url = database.store_location();
            (Store::open(&url).await.unwrap(), url, Some(database))
        }
    }
}

async fn a_database_without_tables_is_distinguished_from_a_newer_one(db: &TestDatabase) {
    let (store, url, _keep) = empty_store(db).await;
    assert!(matches!(store.check_migrated().await, Err(StoreError::NotMigrated)));
    store.migrate().await.unwrap();
    store.migrate().await.unwrap();
    store.check_migrated().await.unwrap();
    TestDatabase::execute(&url, "INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES (9001, 'x', TRUE, '', 0)")
        .await;
    assert!(matches!(store.check_migrated().await, Err(StoreError::Newer { version: 9001 })));
    let refused = store.migrate().await;
    assert!(matches!(refused, Err(StoreError::Newer { version: 9001 })), "{refused:?}");
}

async fn tables_of_every_earlier_version_are_migrated_with_their_rows(db: &TestDatabase) {
    const APP: &str = "INSERT INTO app (app_id, sdk_app_id, name) VALUES (1, 1400000000, 'prod')";
    const TYPE: &str = "INSERT INTO type_state (app_id, type_id, configured, live_count, baseline_crawl_id, concluded_crawl_id, concluded_at)
                        VALUES (1, 1, 1, 1, 1, 1, 1772326800000)";
    const CRAWL: &str = "INSERT INTO crawl (crawl_id, app_id, trigger, started_at, finished_at, status, appeared, host, version, group_types)
                         VALUES (1, 1, 'command', 1772326800000, 1772326801000, 'complete', 0, 'host', '0.1.0', 'Public')";
    const GROUP: &str =
        "INSERT INTO group_row (app_id, group_id, type_id, in_baseline, first_seen_at, last_seen_at)
                         VALUES (1, 'a', 1, TRUE, 1772326800000, 1772326800000)";

    let printed = Store::migration_sql(&db.store_location());
    let mut earlier = 0;
    // Each migration begins with a heading. An earlier version has the tables of the text before a
    // later heading.
    while let Some(end) = printed.find(&format!("\n-- {:04} ", earlier + 2)) {
        earlier += 1;
        let old = db.empty_like().await;
        TestDatabase::execute(&old.store_location(), &format!("{}\nCOMMIT;", &printed[..end])).await;
        for row in [APP, TYPE, CRAWL, GROUP] {
            TestDatabase::execute(&old.store_location(), row).await;
        }
        let older = old.store.check_migrated().await.unwrap_err();
        assert!(matches!(older, StoreError::Older { version, newest: 3 } if version == earlier), "{older:?}");
        let sentence = format!("of an older version of this program (version {earlier} of 3)");
        assert!(older.to_string().contains(&sentence), "{older}");
        old.store.check_migratable().await.unwrap();
        old.store.migrate().await.unwrap();
        old.store.check_migrated().await.unwrap();

        if let Location::Postgres(_) = old.location {
            // The row above has an explicit id, so the sequence must be advanced.
            TestDatabase::execute(
                &old.store_location(),
                "ALTER TABLE crawl ALTER COLUMN crawl_id RESTART WITH 2",
            )
            .await;
        }
        let leased = LeasedApp::on(&old).await;
        let crawl = leased.open(at(2, 0)).await;
        leased.list(crawl, leased.public, at(2, 0), &["a", "b"]).await;
        leased.complete(crawl, at(2, 0), at(2, 1), &[leased.public]).await;
        let recorded = "SELECT crawl_id, status, group_types, undeleted FROM crawl ORDER BY crawl_id";
        assert_eq!(old.lines(recorded).await, ["1|complete|Public|0", "2|complete|Private,Public|0"]);
        let groups = "SELECT group_id, group_type, first_seen_at, deleted_at FROM groups ORDER BY group_id";
        let expected = ["a|Public|2026-03-01T01:00:00Z|NULL", "b|Public|2026-03-01T02:00:00Z|NULL"];
        assert_eq!(old.lines(groups).await, expected);
        old.assert_consistent().await;
        old.store.close().await;
    }
    assert_eq!(earlier, 2);
}

async fn the_printed_sql_creates_the_same_tables(db: &TestDatabase) {
    let (store, url, _keep) = empty_store(db).await;
    TestDatabase::execute(&url, &Store::migration_sql(&url)).await;
    store.check_migrated().await.unwrap();
    store.migrate().await.unwrap();
    let identity = AppIdentity { sdk_app_id: sdk_app_id(), name: "prod".to_owned() };
    store.register_app(&identity, &group_types(&["Public"])).await.unwrap();
    assert_eq!(store.app_statuses().await.unwrap().len(), 1);
    store.close().await;
}

async fn two_programs_can_migrate_an_empty_database_at_the_same_time(db: &TestDatabase) {
    let (first, url, _keep) = empty_store(db).await;
    let mut stores = vec![first];
    for _ in 0..5 {
        stores.push(Store::open(&url).await.unwrap());
    }
    let starts = stores.iter().map(|store| async move {
        store.migrate().await?;
        store.check_migrated().await
    });
    for started in futures_util::future::join_all(starts).await {
        started.unwrap();
    }
    for store in stores {
        store.close().await;
    }
}
