//! Copies of the entire history into an empty database of either engine.

use std::collections::BTreeMap;
use std::fs;

use harness::crawl::{Engine, Harness};
use harness::schema::fill_every_column;
use harness::store::{Location, TestDatabase};
use harness::store_tests;
use harness::{crawl_tests, store};
use tim_group_sync::store::{DatabaseLocation, Store, StoreError};

store_tests! {
    every_table_and_column_of_the_database_is_copied_or_listed_as_not_copied,
}

crawl_tests! {
    a_copy_on_the_same_engine_is_equal_and_can_be_crawled,
    a_copy_that_fails_leaves_nothing,
    a_database_that_is_not_empty_is_not_copied_into,
}

/// Tables that are not copied: those of SQLite and sqlx, and those that belong to one database.
const NOT_COPIED: [&str; 5] = ["_sqlx_migrations", "sqlite_sequence", "storage", "lease", "app.chunk_ends"];

/// Returns all tables of the database with their columns.
async fn columns(db: &TestDatabase) -> BTreeMap<String, Vec<String>> {
    let sql = match &db.location {
        Location::Sqlite(_) => {
            "SELECT m.name, c.name FROM sqlite_schema m JOIN pragma_table_info(m.name) c WHERE m.type = 'table'"
        }
        Location::Postgres(_) => {
            "SELECT CAST(c.relname AS TEXT), CAST(a.attname AS TEXT) FROM pg_class c
             JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
             WHERE c.relnamespace = 'tim_private'::regnamespace AND c.relkind = 'r'"
        }
    };
    let mut columns: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for row in db.rows(sql).await {
        columns.entry(row[0].clone()).or_default().push(row[1].clone());
    }
    columns.values_mut().for_each(|columns| columns.sort());
    columns
}

async fn every_table_and_column_of_the_database_is_copied_or_listed_as_not_copied(db: &TestDatabase) {
    let mut copied: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for (table, columns) in Store::copied_columns() {
        copied.insert(table.to_owned(), columns.iter().map(ToString::to_string).collect());
    }
    copied.values_mut().for_each(|columns| columns.sort());
    let mut existing = columns(db).await;
    existing.retain(|table, _| !NOT_COPIED.contains(&table.as_str()));
    for (table, columns) in &mut existing {
        columns.retain(|column| !NOT_COPIED.contains(&format!("{table}.{column}").as_str()));
    }
    assert_eq!(existing, copied);
}

/// Returns the sorted rows of all copied tables.
async fn all_rows(db: &TestDatabase) -> BTreeMap<&'static str, Vec<String>> {
    let mut all = BTreeMap::new();
    for (table, columns) in Store::copied_columns() {
        let sql = format!("SELECT {columns} FROM {table}", columns = columns.join(", "));
        let mut rows = db.lines(&sql).await;
        rows.sort();
        all.insert(table, rows);
    }
    all
}

/// Crawls a history with meaningful values in every column, and with an id that a file format could
/// misread.
async fn crawl_history(harness: Harness) -> Harness {
    let harness = fill_every_column(harness).await;
    harness.create("Public", "tab\\t back\\slash \\N 陌生人 'quoted'");
    harness.crawl().await;
    harness
}

/// Returns an empty target for a copy: a path without a file, or an empty database.
async fn empty_target(engine: Engine) -> (TestDatabase, DatabaseLocation) {
    let db = match engine {
        Engine::Sqlite => TestDatabase::sqlite().await,
        Engine::Postgres => TestDatabase::postgres().await.empty_like().await,
    };
    let url = db.store_location();
    if let DatabaseLocation::Sqlite(file) = &url {
        db.store.close().await;
        for name in fs::read_dir(file.parent().unwrap()).unwrap() {
            fs::remove_file(name.unwrap().path()).unwrap();
        }
    }
    (db, url)
}

async fn assert_copied(harness: &Harness, engine: Engine) {
    let (copy, url) = empty_target(engine).await;
    let mut shown = Vec::new();
    let copied = harness.store.copy_to(&url, |progress| shown.push((progress.done, progress.total))).await;
    let copied = copied.unwrap();
    let before = all_rows(&harness.db).await;
    assert_eq!(all_rows(&copy).await, before);
    for table in &copied.tables {
        assert_eq!(table.rows, before[table.table].len() as u64, "{}", table.table);
        assert!(
            table.rows > 0 || ["group_question", "notification"].contains(&table.table),
            "{} has no rows",
            table.table
        );
    }
    let (done, total) = *shown.last().unwrap();
    assert_eq!(done, total);
    copy.assert_consistent().await;

    // The next crawl continues with greater ids.
    let store = Store::open(&url).await.unwrap();
    let (event, crawl) =
        (copy.value("SELECT max(event_id) FROM group_event").await, "SELECT max(crawl_id) FROM crawl");
    let crawl: i64 = copy.value(crawl).await.parse().unwrap();
    harness.create("Public", "after-the-copy");
    let report = harness.crawl_into(&store).await;
    assert!(report.crawl.0 > crawl, "{} after {crawl}", report.crawl);
    assert_eq!((report.events.appeared, report.first_listed), (1, 1));
    let next = "SELECT event_id FROM group_event WHERE group_id = 'after-the-copy'";
    let next: i64 = copy.value(next).await.parse().unwrap();
    assert!(next > event.parse().unwrap(), "{next} after {event}");
    copy.assert_consistent().await;
    store.close().await;
}

async fn a_copy_on_the_same_engine_is_equal_and_can_be_crawled(harness: Harness) {
    let engine = harness.engine;
    let harness = crawl_history(harness).await;
    assert_copied(&harness, engine).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_history_moves_from_sqlite_to_postgresql() {
    let harness = crawl_history(Harness::on(Engine::Sqlite).await).await;
    assert_copied(&harness, Engine::Postgres).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_history_moves_from_postgresql_to_sqlite() {
    let harness = crawl_history(Harness::on(Engine::Postgres).await).await;
    assert_copied(&harness, Engine::Sqlite).await;
}

async fn a_copy_that_fails_leaves_nothing(harness: Harness) {
    let engine = harness.engine;
    let harness = crawl_history(harness).await;
    // The last table cannot be read completely.
    let broken = "ALTER TABLE group_event RENAME COLUMN kind TO kinds";
    let (copy, url) = empty_target(engine).await;
    TestDatabase::execute(&harness.db.store_location(), broken).await;
    harness.store.copy_to(&url, |_| ()).await.unwrap_err();
    TestDatabase::execute(&harness.db.store_location(), &broken.replace("kind TO kinds", "kinds TO kind"))
        .await;
    match &url {
        DatabaseLocation::Sqlite(file) => {
            let left: Vec<_> = fs::read_dir(file.parent().unwrap()).unwrap().collect();
            assert!(left.is_empty(), "{left:?}");
        }
        DatabaseLocation::Postgres(_) => {
            for table in ["app", "crawl", "group_row", "group_event"] {
                assert_eq!(copy.value(&format!("SELECT count(*) FROM {table}")).await, "0", "{table}");
            }
        }
    }
    harness.store.copy_to(&url, |_| ()).await.unwrap();
    assert_eq!(all_rows(&copy).await, all_rows(&harness.db).await);
}

async fn a_database_that_is_not_empty_is_not_copied_into(harness: Harness) {
    harness.create("Public", "a");
    harness.crawl().await;
    let other = match harness.engine {
        Engine::Sqlite => TestDatabase::sqlite().await,
        Engine::Postgres => TestDatabase::postgres().await,
    };
    let leased = store::LeasedApp::after_baseline(&other, &["theirs"], &[]).await;
    let before = all_rows(&other).await;
    let refused = harness.store.copy_to(&other.store_location(), |_| ()).await.unwrap_err();
    assert!(matches!(refused, StoreError::NotEmpty { .. }), "{refused}");
    // A database cannot be copied into itself either.
    let refused = harness.store.copy_to(&harness.db.store_location(), |_| ()).await.unwrap_err();
    assert!(matches!(refused, StoreError::NotEmpty { .. }), "{refused}");
    assert_eq!(all_rows(&other).await, before);
    drop(leased);
}
