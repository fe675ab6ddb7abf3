//! Behaviour of the store that only PostgreSQL has: expiring leases, retried transactions, rights,
//! roles, schemas.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use harness::crawl::{Engine, Harness};
use harness::postgres::{PostgresServer, ServerDatabase};
use harness::store::{LeasedApp, Location, TestDatabase, at, day, group_types, sdk_app_id};
use secrecy::SecretString;
use sqlx::error::DatabaseError;
use sqlx::postgres::{PgConnectOptions, PgConnection};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Executor as _};
use tim_group_sync::clock::Clock;
use tim_group_sync::crawl::{CrawlError, CrawlRequest, WhenBusy};
use tim_group_sync::model::{CrawlId, SdkAppId, Trigger, Verdict};
use tim_group_sync::reconcile::Confirmation;
use tim_group_sync::simulator::At;
use tim_group_sync::store::{
    AppId, AppIdentity, Approval, DatabaseLocation, NewCrawl, PostgresDatabase, Store, StoreError,
};
use tokio_util::sync::CancellationToken;

fn database(db: &TestDatabase) -> &ServerDatabase {
    match &db.location {
        Location::Postgres(database) => database,
        Location::Sqlite(_) => panic!("this test needs PostgreSQL"),
    }
}

async fn execute(db: &TestDatabase, sql: &str) {
    TestDatabase::execute(&db.store_location(), sql).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_lease_that_is_not_renewed_can_be_taken_by_another_process() {
    let db = TestDatabase::postgres().await;
    let other = db.open_another_store().await;
    let killed = db.store.try_lease(sdk_app_id()).await.unwrap().unwrap();
    drop(killed);
    assert!(other.try_lease(sdk_app_id()).await.unwrap().is_none());
    let left = "SELECT round((expires_at - extract(epoch FROM now()) * 1000) / 10000) FROM lease";
    assert_eq!(db.value(left).await, "3", "the lease lasts for more than ten seconds");
    db.expire_leases().await;
    assert!(other.try_lease(sdk_app_id()).await.unwrap().is_some());
    assert_eq!(db.value("SELECT fence FROM lease").await, "2");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_lease_can_be_renewed_until_another_process_takes_it() {
    let db = TestDatabase::postgres().await;
    let lease = db.store.try_lease(sdk_app_id()).await.unwrap().unwrap();
    db.expire_leases().await;
    // The lease was just taken, so it need not be renewed.
    lease.renew().await.unwrap();
    assert_eq!(db.value("SELECT expires_at FROM lease").await, "0");
    advance_time(6).await;
    // The lease has expired, but no other process took it.
    lease.renew().await.unwrap();
    assert_ne!(db.value("SELECT expires_at FROM lease").await, "0");
    db.expire_leases().await;
    let other = db.store.try_lease(sdk_app_id()).await.unwrap().unwrap();
    advance_time(6).await;
    assert!(matches!(lease.renew().await, Err(StoreError::LeaseLost { .. })));
    // Releasing a lost lease does not release the lease of its new holder.
    lease.release(Clock::system().now(), Duration::ZERO).await;
    assert!(db.store.try_lease(sdk_app_id()).await.unwrap().is_none());
    other.release_unused().await;
    assert!(db.store.try_lease(sdk_app_id()).await.unwrap().is_some());
}

/// Locks a table against changes until the connection is closed.
async fn lock_table(db: &TestDatabase, table: &str) -> PgConnection {
    let mut locking = database(db).url.parse::<PgConnectOptions>().unwrap().connect().await.unwrap();
    let lock = format!("BEGIN; LOCK TABLE tim_private.{table} IN EXCLUSIVE MODE");
    sqlx::raw_sql(AssertSqlSafe(lock)).execute(&mut locking).await.unwrap();
    locking
}

/// Waits until this number of connections wait for a lock.
async fn wait_for_blocked_connections(db: &TestDatabase, connections: &str) {
    let waiting = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    while db.value(waiting).await != connections {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Awaits a future that would never complete if the tested rule were broken.
async fn with_timeout<T>(run: impl Future<Output = T>) -> T {
    tokio::time::timeout(Duration::from_secs(20), run).await.expect("the future does not complete")
}

/// Advances tokio's clock. The server's clock does not change.
async fn advance_time(seconds: u64) {
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(seconds)).await;
    tokio::time::resume();
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_lease_is_renewed_and_released_while_every_connection_writes() {
    let db = TestDatabase::postgres().await;
    let lease = db.store.try_lease(sdk_app_id()).await.unwrap().unwrap();
    db.expire_leases().await;
    let locking = lock_table(&db, "app").await;
    let writes = (0..20).map(|number| {
        let app =
            AppIdentity { sdk_app_id: SdkAppId::new(number + 1).unwrap(), name: format!("app{number}") };
        let store = db.store.clone();
        tokio::spawn(async move { store.register_app(&app, &[]).await.map(drop) })
    });
    let writes: Vec<_> = writes.collect();
    wait_for_blocked_connections(&db, "10").await;
    advance_time(6).await;
    let renewal_and_release = async {
        lease.renew().await.unwrap();
        assert_ne!(db.value("SELECT expires_at FROM lease").await, "0");
        lease.release_unused().await;
        assert_eq!(db.value("SELECT count(holder) FROM lease").await, "0");
    };
    with_timeout(renewal_and_release).await;
    locking.close().await.unwrap();
    for write in writes {
        write.await.unwrap().unwrap();
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_long_approval_renews_its_lease() {
    let db = TestDatabase::postgres().await;
    let leased = LeasedApp::after_baseline(&db, &["a", "b"], &[]).await;
    let crawl = leased.open(at(2, 0)).await;
    let mut withheld = leased.settle(&[(leased.public, Verdict::Exact)], &["a"]).await;
    withheld.withhold(&[leased.public], Confirmation::Off, true);
    leased.close(crawl, at(2, 0), at(2, 1), &withheld).await.unwrap();
    let held = db.store.crawl_deletions(crawl).await.unwrap().unwrap();

    db.expire_leases().await;
    let locking = lock_table(&db, "group_event").await;
    let approving = leased.lease.run_while_held(db.store.approve(
        &leased.lease,
        &held,
        (crawl, Approval::All),
        at(3, 0),
        day(),
    ));
    let meanwhile = async {
        wait_for_blocked_connections(&db, "1").await;
        advance_time(9).await;
        while db.value("SELECT expires_at FROM lease").await == "0" {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        assert!(db.store.try_lease(sdk_app_id()).await.unwrap().is_none());
        locking.close().await.unwrap();
    };
    let (approved, ()) = with_timeout(Box::pin(async { tokio::join!(approving, meanwhile) })).await;
    assert_eq!(approved.unwrap().unwrap(), 1);
    assert!(db.store.try_lease(sdk_app_id()).await.unwrap().is_none());
    db.assert_consistent().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn work_under_a_lease_is_aborted_once_another_process_has_the_lease() {
    let db = TestDatabase::postgres().await;
    let lease = db.store.try_lease(sdk_app_id()).await.unwrap().unwrap();
    db.expire_leases().await;
    let _other = db.store.try_lease(sdk_app_id()).await.unwrap().unwrap();
    let endless = lease.run_while_held(std::future::pending::<()>());
    let (outcome, ()) = with_timeout(async { tokio::join!(endless, advance_time(9)) }).await;
    assert!(is_lease_lost(&outcome), "{outcome:?}");
}

fn is_lease_lost<T>(outcome: &Result<T, StoreError>) -> bool {
    matches!(outcome, Err(StoreError::LeaseLost { app }) if *app == sdk_app_id())
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_crawl_whose_lease_was_lost_writes_nothing_more() {
    let db = TestDatabase::postgres().await;
    let slow = LeasedApp::after_baseline(&db, &["a", "b"], &[]).await;
    let crawl = slow.open(at(2, 0)).await;
    let gone = slow.settle(&[(slow.public, Verdict::Exact)], &["a"]).await;
    db.expire_leases().await;
    let quick = LeasedApp::on(&db).await;
    let before = db.lines("SELECT * FROM group_row ORDER BY group_id").await;

    assert!(is_lease_lost(&slow.try_list(crawl, slow.public, false, at(2, 1), &["c"]).await));
    assert!(is_lease_lost(&db.store.end_baseline(&slow.lease, slow.app, slow.private, crawl).await));
    assert!(is_lease_lost(&slow.close(crawl, at(2, 0), at(2, 2), &gone).await));
    assert_eq!(db.lines("SELECT * FROM group_row ORDER BY group_id").await, before);
    let status = format!("SELECT status FROM crawl WHERE crawl_id = {crawl}");
    assert_eq!(db.value(&status).await, "running");

    // The next crawl continues as after a kill.
    let next = quick.open(at(3, 0)).await;
    assert_eq!(db.value(&status).await, "failed");
    quick.complete(next, at(3, 0), at(3, 1), &[quick.public]).await;
    db.assert_consistent().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_running_crawl_stops_when_its_lease_is_lost() {
    let harness = Harness::on(Engine::Postgres).await;
    let db = &harness.db;
    harness.api.create_many("Public", 10);
    let held = harness.api.hold(At::Request(2));
    let crawler = harness.crawler();
    let request = CrawlRequest { trigger: Trigger::Command, due_at: None };
    let stop = CancellationToken::new();
    let crawling = crawler.crawl(request, WhenBusy::GiveUp, &stop);
    let taking_over = async {
        held.reached().await;
        assert!(db.store.try_lease(sdk_app_id()).await.unwrap().is_none());
        db.expire_leases().await;
        let lease = db.store.try_lease(sdk_app_id()).await.unwrap().unwrap();
        held.release();
        lease
    };
    let (crawled, _lease) = tokio::join!(crawling, taking_over);
    assert!(matches!(crawled, Err(CrawlError::Store(StoreError::LeaseLost { .. }))), "{crawled:?}");
    assert_eq!(db.value("SELECT count(*) FROM group_row").await, "0");
    assert_eq!(db.value("SELECT status FROM crawl").await, "running");
}

/// Makes the first `times` insertions of groups fail with this SQL.
async fn fail_insertions(db: &TestDatabase, times: u32, raise_sql: &str) {
    execute(
        db,
        &format!(
            "CREATE SEQUENCE tim_private.attempts;
             CREATE FUNCTION tim_private.fail() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN IF nextval('tim_private.attempts') <= {times} THEN {raise_sql}; END IF; RETURN NULL; END $$;
             CREATE TRIGGER fail AFTER INSERT ON group_row FOR EACH STATEMENT EXECUTE FUNCTION tim_private.fail()"
        ),
    )
    .await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_transaction_is_retried_after_a_transient_error() {
    for raise_sql in [
        "RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'",
        "RAISE EXCEPTION 'deadlock' USING ERRCODE = '40P01'",
        "RAISE EXCEPTION 'going down' USING ERRCODE = '57P01'",
        "RAISE EXCEPTION 'no connection' USING ERRCODE = '08006'",
        "PERFORM pg_terminate_backend(pg_backend_pid())",
    ] {
        let db = TestDatabase::postgres().await;
        let leased = LeasedApp::after_baseline(&db, &[], &[]).await;
        let crawl = leased.open(at(2, 0)).await;
        fail_insertions(&db, 2, raise_sql).await;
        let written = leased.list(crawl, leased.public, at(2, 1), &["a", "b"]).await;
        assert_eq!((written.first_listed, written.appeared), (2, 2), "{raise_sql}");
        leased.complete(crawl, at(2, 0), at(2, 2), &[leased.public]).await;
        db.assert_consistent().await;
        assert_eq!(db.value("SELECT last_value FROM tim_private.attempts").await, "3", "{raise_sql}");
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_transaction_that_fails_repeatedly_or_permanently_is_an_error() {
    for (raise_sql, attempts, transient) in [
        ("RAISE EXCEPTION 'conflict' USING ERRCODE = '40001'", "8", true),
        ("RAISE EXCEPTION 'too slow' USING ERRCODE = '57014'", "1", true),
        ("RAISE EXCEPTION 'wrong' USING ERRCODE = '23514'", "1", false),
    ] {
        let db = TestDatabase::postgres().await;
        let leased = LeasedApp::after_baseline(&db, &[], &[]).await;
        let crawl = leased.open(at(2, 0)).await;
        fail_insertions(&db, 1000, raise_sql).await;
        let error = leased.try_list(crawl, leased.public, false, at(2, 1), &["a"]).await.unwrap_err();
        assert_eq!(error.is_transient(), transient, "{error:?}");
        assert_eq!(db.value("SELECT last_value FROM tim_private.attempts").await, attempts);
        assert_eq!(db.value("SELECT count(*) FROM group_event").await, "0");
        db.assert_consistent().await;
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn connections_that_broke_while_idle_are_replaced() {
    let db = TestDatabase::postgres().await;
    let leased = LeasedApp::after_baseline(&db, &["a"], &[]).await;
    for hour in 2..6 {
        execute(
            &db,
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE datname = current_database() AND pid <> pg_backend_pid()",
        )
        .await;
        assert_eq!(db.store.app_statuses().await.unwrap().len(), 1);
        let crawl = leased.open(at(hour, 0)).await;
        leased.complete(crawl, at(hour, 0), at(hour, 1), &[leased.public]).await;
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn the_schema_can_be_named_and_one_database_can_have_two() {
    let db = TestDatabase::postgres().await;
    let url = DatabaseLocation::Postgres(database(&db).settings().schema("order").unwrap());
    let store = Store::open(&url).await.unwrap();
    assert!(matches!(store.check_migrated().await, Err(StoreError::NotMigrated)));
    store.migrate().await.unwrap();
    store.check_migrated().await.unwrap();
    let app = |name: &str| AppIdentity { sdk_app_id: sdk_app_id(), name: name.to_owned() };
    store.register_app(&app("here"), &group_types(&["Public"])).await.unwrap();
    db.store.register_app(&app("there"), &group_types(&["Public"])).await.unwrap();
    assert_eq!(db.value("SELECT app FROM \"order\".app_status").await, "here");
    assert_eq!(db.value("SELECT name FROM order_private.app").await, "here");
    assert_eq!(db.value("SELECT app FROM tim.app_status").await, "there");
    store.close().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn every_view_and_every_column_has_a_comment() {
    let db = TestDatabase::postgres().await;
    let without_comment = "SELECT c.relname, a.attname FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum >= 0
                  WHERE c.relnamespace = 'tim'::regnamespace AND c.relkind = 'v' AND col_description(c.oid, a.attnum) IS NULL
                  UNION ALL
                  SELECT c.relname, '' FROM pg_class c
                  WHERE c.relnamespace = 'tim'::regnamespace AND c.relkind = 'v' AND obj_description(c.oid) IS NULL";
    assert_eq!(db.lines(without_comment).await, [""; 0]);
    let views = "SELECT count(*) FROM pg_class WHERE relnamespace = 'tim'::regnamespace AND relkind = 'v'";
    assert_eq!(db.value(views).await, "15");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn views_use_the_types_of_postgresql() {
    let db = TestDatabase::postgres().await;
    let unexpected = "SELECT table_name, column_name, data_type FROM information_schema.columns WHERE table_schema = 'tim'
                 AND data_type <> CASE
                     WHEN column_name LIKE '%\\_at' OR column_name IN ('missing_since', 'running_since', 'as_of', 'live_from', 'live_until',
                         'complete_from') THEN 'timestamp with time zone'
                     WHEN column_name IN ('configured', 'held', 'in_baseline')
                       OR column_name = 'confirmed' AND table_name <> 'crawls' THEN 'boolean'
                     WHEN column_name = 'day' THEN 'date'
                     WHEN column_name IN ('sdk_app_id', 'crawl_id', 'event_id', 'requests', 'groups_listed', 'live_groups',
                         'appeared', 'vanished', 'reappeared', 'retyped', 'withheld', 'error_code', 'undeleted', 'spared',
                         'live_before', 'net_growth', 'lifetime_seconds', 'crawls', 'complete', 'incomplete', 'failed', 'cancelled',
                         'asked', 'confirmed', 'unlearned', 'unasked', 'withheld_confirmed', 'snapshots', 'complete_crawls',
                         'groups', 'groups_created', 'groups_dissolved', 'groups_active', 'callbacks_sent', 'callbacks_answered')
                       OR column_name LIKE '%count%' AND column_name <> 'average_total_count' OR column_name LIKE 'purged%' THEN 'bigint'
                     WHEN column_name LIKE '%\\_seconds' OR column_name IN ('success_rate', 'average_total_count') THEN 'double precision'
                     ELSE 'text' END";
    assert_eq!(db.lines(unexpected).await, [""; 0]);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_column_of_another_collation_is_joined_with_collate_c() {
    let db = TestDatabase::postgres().await;
    let _leased = LeasedApp::after_baseline(&db, &["B", "a", "é"], &[]).await;
    let own = "CREATE TABLE public.plain (group_id text); INSERT INTO public.plain VALUES ('a'), ('B'), ('z');
               CREATE TABLE public.own (group_id text COLLATE \"POSIX\"); INSERT INTO public.own SELECT * FROM public.plain";
    execute(&db, own).await;
    let join = |own: &str, on: &str| {
        format!("SELECT g.group_id FROM tim.groups g JOIN {own} ON {own}.group_id {on} ORDER BY g.group_id")
    };
    // A column with the collation of the database needs no COLLATE clause.
    assert_eq!(db.lines(&join("public.plain", "= g.group_id")).await, ["B", "a"]);
    let mut connection = database(&db).url.parse::<PgConnectOptions>().unwrap().connect().await.unwrap();
    for on in ["= g.group_id", "< g.group_id"] {
        let refused = sqlx::raw_sql(AssertSqlSafe(join("public.own", on))).execute(&mut connection).await;
        let refused = refused.unwrap_err().to_string();
        assert!(refused.contains("collation"), "{refused}");
    }
    assert_eq!(db.lines(&join("public.own", "= g.group_id COLLATE \"C\"")).await, ["B", "a"]);
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_reader_sees_the_views_and_nothing_else() {
    let server = PostgresServer::shared().await;
    let db = TestDatabase::postgres().await;
    let leased = LeasedApp::after_baseline(&db, &["a"], &[]).await;
    drop(leased);
    let role = format!("reader_{}", database(&db).name);
    let settings = database(&db).settings().reader_role(Some(&role));
    let store = Store::open(&DatabaseLocation::Postgres(settings)).await.unwrap();
    let refused = store.migrate().await.unwrap_err();
    assert!(matches!(refused, StoreError::NoSuchRole { .. }), "{refused:?}");
    assert!(refused.to_string().contains(&format!("CREATE ROLE \"{role}\"")), "{refused}");

    // The commands of the documentation.
    server
        .administer(&format!(
            "CREATE ROLE {role} LOGIN; ALTER ROLE {role} SET statement_timeout = '30s';
             ALTER ROLE {role} SET default_transaction_read_only = on"
        ))
        .await;
    store.migrate().await.unwrap();
    store.migrate().await.unwrap();
    store.close().await;
    let url = server.url_as(&role, &database(&db).name);
    let mut reader = url.parse::<PgConnectOptions>().unwrap().connect().await.unwrap();
    for view in [
        "groups",
        "live_groups",
        "group_events",
        "app_counts",
        "type_counts",
        "daily_counts",
        "crawls",
        "app_status",
        "type_status",
    ] {
        reader.execute(AssertSqlSafe(format!("SELECT * FROM tim.{view}"))).await.unwrap();
    }
    // The read-only setting prevents mistakes. Only the rights are enforced.
    reader.execute("SET default_transaction_read_only = off").await.unwrap();
    for forbidden in [
        "SELECT * FROM tim_private.group_row",
        "SELECT * FROM tim_private._sqlx_migrations",
        "DELETE FROM tim_private.group_row",
        "CREATE TABLE tim.mine (x int)",
    ] {
        let error = reader.execute(AssertSqlSafe(forbidden.to_owned())).await.unwrap_err();
        let code = error.as_database_error().and_then(DatabaseError::code).unwrap_or_default();
        assert_eq!(code, "42501", "{forbidden}: {error}");
    }
    drop(reader);
    TestDatabase::execute(&db.store_location(), &format!("DROP OWNED BY {role}; DROP ROLE {role}")).await;
}

/// Creates a role with this name that may log in, and an empty database. Returns the role's URL of
/// it.
async fn role_on_empty_database(role: &str) -> (ServerDatabase, DatabaseLocation) {
    let server = PostgresServer::shared().await;
    let database = server.empty_database().await;
    server.administer(&format!("CREATE ROLE {role} LOGIN")).await;
    let url =
        DatabaseLocation::Postgres(PostgresDatabase::new(&server.url_as(role, &database.name)).unwrap());
    (database, url)
}

fn missing_grant(error: &StoreError) -> String {
    let StoreError::Rights { grant } = error else { panic!("{error:?}") };
    assert!(error.is_configuration() && !error.is_transient());
    grant.clone()
}

#[tokio::test]
async fn the_missing_grant_is_named_if_tables_cannot_be_created() {
    let role = format!("maker_{}", std::process::id());
    let (database, url) = role_on_empty_database(&role).await;
    let store = Store::open(&url).await.unwrap();
    let grant = missing_grant(&store.migrate().await.unwrap_err());
    assert_eq!(grant, format!("GRANT CREATE ON DATABASE \"{}\" TO \"{role}\"", database.name));
    assert_eq!(missing_grant(&store.check_migratable().await.unwrap_err()), grant);
    // No table or schema was created.
    assert!(matches!(store.check_migrated().await, Err(StoreError::NotMigrated)));
    TestDatabase::execute(&database.store_location(), &grant).await;
    store.check_migratable().await.unwrap();
    assert!(matches!(store.check_migrated().await, Err(StoreError::NotMigrated)));
    store.migrate().await.unwrap();
    store.check_migrated().await.unwrap();
    store.close().await;
    TestDatabase::execute(
        &database.store_location(),
        &format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}"),
    )
    .await;
}

#[tokio::test]
async fn the_missing_grant_is_named_if_another_role_created_the_schemas() {
    let role = format!("guest_{}", std::process::id());
    let (database, url) = role_on_empty_database(&role).await;
    TestDatabase::execute(&database.store_location(), "CREATE SCHEMA tim; CREATE SCHEMA tim_private").await;
    let store = Store::open(&url).await.unwrap();
    assert!(matches!(store.check_migrated().await, Err(StoreError::NotMigrated)));
    let grant = missing_grant(&store.check_migratable().await.unwrap_err());
    assert_eq!(grant, format!("GRANT USAGE, CREATE ON SCHEMA \"tim\", \"tim_private\" TO \"{role}\""));
    TestDatabase::execute(&database.store_location(), &grant).await;
    store.check_migratable().await.unwrap();
    store.migrate().await.unwrap();
    store.check_migrated().await.unwrap();
    store.close().await;
    TestDatabase::execute(
        &database.store_location(),
        &format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}"),
    )
    .await;
}

#[tokio::test]
async fn only_the_owner_of_the_tables_can_migrate_them() {
    let role = format!("tenant_{}", std::process::id());
    let (database, url) = role_on_empty_database(&role).await;
    let owner = Store::open(&database.store_location()).await.unwrap();
    owner.migrate().await.unwrap();
    owner.close().await;
    let newest = "DELETE FROM _sqlx_migrations WHERE version = (SELECT max(version) FROM _sqlx_migrations)";
    let rights = format!(
        "GRANT ALL ON SCHEMA tim, tim_private TO {role};
         GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA tim_private TO {role};
         GRANT SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA tim_private TO {role}"
    );
    TestDatabase::execute(&database.store_location(), &format!("{newest}; {rights}")).await;
    let store = Store::open(&url).await.unwrap();
    assert!(matches!(store.check_migrated().await, Err(StoreError::Older { .. })));
    for refused in [store.check_migratable().await, store.migrate().await] {
        let refused = refused.unwrap_err();
        assert!(matches!(refused, StoreError::OtherOwner { .. }), "{refused:?}");
        assert!(refused.is_configuration() && refused.to_string().contains(&role), "{refused}");
    }
    store.close().await;
    TestDatabase::execute(
        &database.store_location(),
        &format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}"),
    )
    .await;
}

#[tokio::test]
async fn the_missing_grant_is_named_if_another_role_created_the_tables() {
    let role = format!("worker_{}", std::process::id());
    let (database, url) = role_on_empty_database(&role).await;
    let owner = Store::open(&database.store_location()).await.unwrap();
    owner.migrate().await.unwrap();
    owner.close().await;
    let store = Store::open(&url).await.unwrap();
    let mut grants = Vec::new();
    while let Err(error) = store.check_migrated().await {
        let grant = missing_grant(&error);
        TestDatabase::execute(&database.store_location(), &grant).await;
        grants.push(grant);
    }
    assert_eq!(
        grants,
        [
            format!("GRANT USAGE ON SCHEMA \"tim_private\" TO \"{role}\""),
            format!(
                "GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA \"tim_private\" TO \"{role}\""
            ),
            format!("GRANT SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA \"tim_private\" TO \"{role}\""),
        ]
    );
    // No migration is pending, so migrating needs no more rights.
    store.migrate().await.unwrap();
    let app = AppIdentity { sdk_app_id: sdk_app_id(), name: "prod".to_owned() };
    store.register_app(&app, &group_types(&["Own"])).await.unwrap();
    assert!(store.try_lease(sdk_app_id()).await.unwrap().is_some());
    store.close().await;
    TestDatabase::execute(
        &database.store_location(),
        &format!("DROP OWNED BY {role} CASCADE; DROP ROLE {role}"),
    )
    .await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_read_only_database_is_refused_for_writing() {
    let db = TestDatabase::postgres().await;
    execute(&db, &format!("ALTER DATABASE {} SET default_transaction_read_only = on", database(&db).name))
        .await;
    let refused = Store::open(&db.store_location()).await.unwrap_err();
    assert!(matches!(refused, StoreError::ReadOnly { .. }) && refused.is_transient(), "{refused:?}");
    let reader = Store::open_to_read(&db.store_location()).await.unwrap();
    reader.check_migrated().await.unwrap();
    assert!(reader.app_statuses().await.unwrap().is_empty());
    reader.close().await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn an_unreachable_server_is_a_transient_error_and_a_wrong_address_is_not() {
    let open =
        async |url: &str| Store::open(&DatabaseLocation::Postgres(PostgresDatabase::new(url).unwrap())).await;
    for unreachable in ["postgres://u:geheim@127.0.0.1:1/d", "postgres://u:geheim@localhost/d?host=/nowhere"]
    {
        let error = open(unreachable).await.unwrap_err();
        assert!(error.is_transient() && !error.is_configuration(), "{error:?}");
        assert!(!format!("{error:?} {error}").contains("geheim"), "{error:?}");
    }
    let server = PostgresServer::shared().await;
    let error = open(&server.url("no_such_database")).await.unwrap_err();
    assert!(error.is_configuration() && !error.is_transient(), "{error:?}");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_password_is_required_and_never_shown() {
    let server = PostgresServer::shared().await;
    if !server.is_started_by_tests() {
        harness::skip("whether a named server requires passwords is not known");
        return;
    }
    let db = TestDatabase::postgres().await;
    let role = format!("guarded_{}", database(&db).name);
    server
        .administer(&format!(
            "DO $$ BEGIN CREATE ROLE locked; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
             CREATE ROLE {role} LOGIN PASSWORD 'geheim' IN ROLE locked"
        ))
        .await;
    let settings = PostgresDatabase::new(&server.url_as(&role, &database(&db).name)).unwrap();
    let wrong = settings.clone().password_from(Arc::new(|| Ok::<_, String>(SecretString::from("falsch"))));
    let refused = Store::open(&DatabaseLocation::Postgres(wrong)).await.unwrap_err();
    assert!(refused.is_configuration() && !refused.is_transient(), "{refused:?}");
    let right = DatabaseLocation::Postgres(
        settings.password_from(Arc::new(|| Ok::<_, String>(SecretString::from("geheim")))),
    );
    let store = Store::open(&right).await.unwrap();
    assert!(!format!("{store:?} {right:?} {right} {refused:?} {refused}").contains("geheim"));
    store.close().await;
    server.administer(&format!("DROP ROLE {role}")).await;
}

/// The server's clock cannot be set here. Instead, the test moves the expiry of a lease into the
/// future: the same row results if the holder dies and then the clock is set back by an hour.
#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn after_the_servers_clock_was_set_back_a_lease_still_expires_within_30_seconds() {
    let db = TestDatabase::postgres().await;
    let dead = db.store.try_lease(sdk_app_id()).await.unwrap().unwrap();
    drop(dead);
    let hour_later = "UPDATE lease SET expires_at = expires_at + 3600000, taken_at = taken_at + 3600000";
    execute(&db, hour_later).await;
    assert_eq!(db.store.lease_holder(sdk_app_id()).await.unwrap(), None, "no lease can last that long");
    assert_eq!(db.store.leased_apps(&[sdk_app_id()]).await.unwrap(), []);
    assert!(with_timeout(db.store.try_lease(sdk_app_id())).await.unwrap().is_none());
    let left = "SELECT (expires_at - extract(epoch FROM now()) * 1000) BETWEEN 20000 AND 30000 FROM lease";
    assert_eq!(db.value(left).await, "1");
    assert!(db.store.lease_holder(sdk_app_id()).await.unwrap().is_some());
    db.expire_leases().await;
    let next = db.store.try_lease(sdk_app_id()).await.unwrap().unwrap();

    // The next holder gets the pause that the previous holder has recorded. `try_lease` neither
    // waits for it nor shortens it.
    next.release(Clock::system().now(), Duration::from_secs(3600)).await;
    let taken = with_timeout(db.store.try_lease(sdk_app_id())).await.unwrap().expect("it is free");
    assert!(taken.pause(Clock::system().now()) > Duration::from_secs(3590));
    taken.release_unused().await;
    let kept = db.store.try_lease(sdk_app_id()).await.unwrap().unwrap();
    assert!(
        kept.pause(Clock::system().now()) > Duration::from_secs(3580),
        "a lease that was released unused keeps its recorded pause"
    );
}

/// A restore or a replication without the sequences leaves identity columns behind their rows.
#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_crawl_id_that_exists_already_is_an_error_and_not_a_tick_that_was_crawled() {
    let db = TestDatabase::postgres().await;
    let leased = LeasedApp::after_baseline(&db, &["a"], &[]).await;
    execute(&db, "ALTER TABLE crawl ALTER COLUMN crawl_id RESTART WITH 1").await;
    let new = NewCrawl {
        app: leased.app,
        trigger: Trigger::Schedule,
        due_at: Some(at(2, 0)),
        started_at: at(2, 0),
        host: "test".to_owned(),
        group_types: group_types(&["Public"]),
    };
    let refused = db.store.open_crawl(&leased.lease, &new, day()).await.unwrap_err();
    assert!(matches!(refused, StoreError::Query { .. }) && !refused.is_transient(), "{refused:?}");
    assert_eq!(db.value("SELECT count(*) FROM crawl").await, "1");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_crawl_after_a_lease_that_was_not_released_waits_for_one_request_interval() {
    let db = TestDatabase::postgres().await;
    drop(db.store.try_lease(sdk_app_id()).await.unwrap().unwrap());
    db.expire_leases().await;
    let taken = db.store.try_lease(sdk_app_id()).await.unwrap().unwrap();
    assert!(taken.pause(Clock::system().now()) > Duration::from_secs(20), "the last request is not known");
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_password_is_read_again_for_each_new_connection() {
    let server = PostgresServer::shared().await;
    if !server.is_started_by_tests() {
        harness::skip("whether a named server requires passwords is not known");
        return;
    }
    let db = TestDatabase::postgres().await;
    let role = format!("rotating_{}", database(&db).name);
    let locked = "DO $$ BEGIN CREATE ROLE locked; EXCEPTION WHEN duplicate_object OR unique_violation THEN NULL; END $$";
    server.administer(locked).await;
    server.administer(&format!("CREATE ROLE {role} LOGIN SUPERUSER PASSWORD 'first' IN ROLE locked")).await;
    let password = Arc::new(Mutex::new("first".to_owned()));
    let source = {
        let password = Arc::clone(&password);
        Arc::new(move || Ok::<_, String>(SecretString::from(password.lock().unwrap().clone())))
    };
    let settings = PostgresDatabase::new(&server.url_as(&role, &database(&db).name)).unwrap();
    let store = Store::open(&DatabaseLocation::Postgres(settings.password_from(source))).await.unwrap();
    server.administer(&format!("ALTER ROLE {role} PASSWORD 'second'")).await;
    *password.lock().unwrap() = "second".to_owned();
    store.close_idle_connections().await;
    store.app_statuses().await.unwrap();
    "third".clone_into(&mut password.lock().unwrap());
    store.close_idle_connections().await;
    let refused = store.app_statuses().await.unwrap_err();
    assert!(refused.to_string().contains("check the user in database.url, and the password"), "{refused}");
    store.close().await;
    server.administer(&format!("DROP ROLE {role}")).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_database_that_does_not_store_utf8_is_refused_with_the_reason() {
    let server = PostgresServer::shared().await;
    let name = format!("latin_{}", std::process::id());
    server
        .administer(&format!("CREATE DATABASE {name} ENCODING 'LATIN1' LOCALE 'C' TEMPLATE template0"))
        .await;
    let settings = PostgresDatabase::new(&server.url(&name)).unwrap();
    let refused = Store::open(&DatabaseLocation::Postgres(settings)).await.unwrap_err();
    assert!(refused.is_configuration() && !refused.is_transient(), "{refused:?}");
    assert!(refused.to_string().contains("stores text as LATIN1, and group ids need UTF8"), "{refused}");
    server.administer(&format!("DROP DATABASE {name}")).await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn the_error_names_a_server_that_has_no_free_connection() {
    let server = PostgresServer::shared().await;
    let db = TestDatabase::postgres().await;
    let role = format!("crowded_{}", database(&db).name);
    server.administer(&format!("CREATE ROLE {role} LOGIN CONNECTION LIMIT 0")).await;
    let settings = PostgresDatabase::new(&server.url_as(&role, &database(&db).name)).unwrap();
    let refused = Store::open(&DatabaseLocation::Postgres(settings)).await.unwrap_err();
    assert!(refused.is_transient() && !refused.is_configuration(), "{refused:?}");
    assert!(
        refused.to_string().contains("the server has no free connection: raise max_connections"),
        "{refused}"
    );
    server.administer(&format!("DROP ROLE {role}")).await;
}

/// Makes the newest migration pending, and removes the views that it created.
async fn undo_newest_migration(db: &TestDatabase) {
    execute(
        db,
        "DO $$ DECLARE name text; BEGIN
             FOR name IN SELECT viewname FROM pg_views WHERE schemaname = 'tim' LOOP
                 EXECUTE format('DROP VIEW IF EXISTS tim.%I CASCADE', name);
             END LOOP; END $$;
         DELETE FROM _sqlx_migrations WHERE version = (SELECT max(version) FROM _sqlx_migrations)",
    )
    .await;
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_migration_leaves_the_queue_for_a_lock_and_is_applied_once_the_lock_is_free() {
    let db = TestDatabase::postgres().await;
    undo_newest_migration(&db).await;
    let mut other = database(&db).url.parse::<PgConnectOptions>().unwrap().connect().await.unwrap();
    other.execute("BEGIN; LOCK TABLE tim_private._sqlx_migrations IN SHARE MODE").await.unwrap();
    let migrating = tokio::spawn({
        let store = db.store.clone();
        async move { store.migrate().await }
    });
    wait_for_blocked_connections(&db, "1").await;
    // The migration leaves the queue although the lock is not free.
    with_timeout(wait_for_blocked_connections(&db, "0")).await;
    assert!(!migrating.is_finished());
    other.close().await.unwrap();
    while !migrating.is_finished() {
        advance_time(1).await;
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    migrating.await.unwrap().unwrap();
    db.store.check_migrated().await.unwrap();
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn only_pending_migrations_are_printed() {
    let db = TestDatabase::postgres().await;
    assert_eq!(db.store.pending_sql().await.unwrap(), "-- Nothing to apply: the tables are up to date.\n");
    undo_newest_migration(&db).await;
    let pending = db.store.pending_sql().await.unwrap();
    assert!(!pending.contains("-- 0001 ") && pending.contains("-- 0003 "), "{pending}");
    execute(&db, &pending).await;
    db.store.check_migrated().await.unwrap();
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn an_unchanged_crawl_of_many_groups_writes_almost_nothing() {
    let ids: Vec<String> = (0..20_000).map(|n| format!("@TGS#{n:06}")).collect();
    let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
    let db = TestDatabase::postgres().await;
    let leased = LeasedApp::after_baseline(&db, &ids, &[]).await;
    execute(&db, "CHECKPOINT").await;
    let rows = "SELECT n_tup_upd FROM pg_stat_user_tables WHERE relname = 'group_row'";
    let before = db.value(rows).await;
    let crawl: CrawlId = leased.open(at(2, 0)).await;
    let mut read = 0;
    db.store.gather_live(leased.app, || (), |(), _, _, _| read += 1).await.unwrap();
    leased.complete(crawl, at(2, 0), at(2, 1), &[leased.public]).await;
    assert_eq!(read, 20_000);
    assert_eq!(db.value(rows).await, before);
}

/// Fills the table. Of ten groups, one is deleted, two are missing, and one of these is held.
async fn fill(db: &TestDatabase, app: AppId, groups: u32, types: u32) {
    let app = app.0;
    let row = "INSERT INTO group_row (app_id, type_id, first_seen_at, last_seen_at, deleted_at, missing_since, held_crawl_id,
                   in_baseline, group_id)";
    let state = "INSERT INTO type_state (app_id, type_id, live_count, missing_count, deleted_count)";
    execute(
        db,
        &format!(
            "{row} SELECT {app}, 1 + i % {types}, 0, 0, CASE i % 10 WHEN 0 THEN 5 END,
                          CASE WHEN i % 10 IN (1, 2) THEN 5 END, CASE i % 10 WHEN 2 THEN 1 END, true, '@TGS#' || i
             FROM generate_series(1, {groups}) i;
             DELETE FROM type_state WHERE app_id = {app};
             {state} SELECT app_id, type_id, count(*) FILTER (WHERE deleted_at IS NULL), count(missing_since), count(deleted_at)
             FROM group_row WHERE app_id = {app} GROUP BY 1, 2"
        ),
    )
    .await;
}

async fn assert_every_live_group_is_read_once(db: &TestDatabase, app: AppId) {
    let mut read = Vec::new();
    let gathering = db.store.gather_live(
        app,
        || (),
        |(), type_id, id, mark| {
            read.push(format!("{id} {} {} {}", type_id.0, mark.missing, mark.held));
        },
    );
    gathering.await.unwrap();
    let live = format!(
        "SELECT group_id || ' ' || type_id || ' ' || (missing_since IS NOT NULL) || ' ' || (held_crawl_id IS NOT NULL)
         FROM group_row WHERE app_id = {} AND deleted_at IS NULL",
        app.0
    );
    let mut live = db.lines(&live).await;
    read.sort();
    live.sort();
    assert!(read == live, "{} read, {} live", read.len(), live.len());
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn every_live_group_is_read_once_with_every_query_plan() {
    let db = TestDatabase::postgres().await;
    let identity =
        |number| AppIdentity { sdk_app_id: SdkAppId::new(number).unwrap(), name: format!("app-{number}") };
    let (large, _) = db.store.register_app(&identity(1), &[]).await.unwrap();
    let (small, _) = db.store.register_app(&identity(2), &[]).await.unwrap();
    let (many_types, _) = db.store.register_app(&identity(3), &[]).await.unwrap();
    // The apps share the table. Each must read only its own groups.
    for part in [small, large, many_types] {
        fill(&db, part, if part == large { 160_000 } else { 500 }, if part == many_types { 70 } else { 6 })
            .await;
    }
    for app in [large, small, many_types] {
        assert_every_live_group_is_read_once(&db, app).await;
    }
}

#[tokio::test]
#[ignore = "needs PostgreSQL: tests/run"]
async fn a_query_returns_its_connection_to_the_pool() {
    let db = TestDatabase::postgres().await;
    let session = async || db.store.query_as_text("SELECT pg_backend_pid()::text AS pid").await.unwrap();
    assert_eq!(session().await, session().await);
}
