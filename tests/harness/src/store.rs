//! [`TestDatabase`]: a store on either engine, and a connection to its database that bypasses the
//! store.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::Duration;

use chrono::{DateTime, NaiveDate, Utc};
use reqwest::Url;
use sqlx::postgres::{PgConnectOptions, PgPool, PgPoolOptions, PgRow};
use sqlx::sqlite::{SqliteConnectOptions, SqlitePool, SqlitePoolOptions, SqliteRow};
use sqlx::{
    AssertSqlSafe, Column as _, ConnectOptions as _, Connection as _, Row, TypeInfo as _, ValueRef as _,
};
use tempfile::TempDir;
use tim_group_sync::clock::Clock;
use tim_group_sync::model::{
    Counts, CrawlId, CrawlStatus, GroupIds, GroupType, LocalDay, ReasonCode, SdkAppId, Trigger, TypeId,
    Verdict,
};
use tim_group_sync::pace::{Pacer, RetryBudget, RetryPolicy};
use tim_group_sync::pages::{Caller, EndOfList, InfoSettings, Paginator};
use tim_group_sync::reconcile::{Absences, Candidates, Confirmation, Settlement, TotalsEvidence};
use tim_group_sync::roll::Unlisted;
use tim_group_sync::simulator::{Settings, Simulator};
use tim_group_sync::store::{
    AppId, AppIdentity, Closing, CrawlEvents, DatabaseLocation, Lease, ListedBatch, NewCrawl, Reason, Store,
    StoreError, WrittenCounts,
};
use tim_group_sync::tencent::{Client, ClientSettings};
use tim_group_sync::verdict::{Evidence, FinishedPass, Recheck, judge};
use tokio::sync::OnceCell;

use crate::postgres::{Pooler, PostgresServer, ServerDatabase};

/// Declares tests of the store for SQLite, for PostgreSQL, and for PostgreSQL through pgbouncer.
/// Each is an `async fn(&TestDatabase)`. Plain `cargo test` ignores those that need a server. The
/// database must be consistent after each test.
#[macro_export]
macro_rules! store_tests {
    ($($test:ident),+ $(,)?) => {
        mod on_sqlite {
            $(#[tokio::test]
            async fn $test() {
                let db = $crate::store::TestDatabase::sqlite().await;
                super::$test(&db).await;
                db.assert_consistent().await;
            })+
        }
        mod on_pgbouncer {
            /// Runs all tests one after another through a pooler in transaction mode.
            #[tokio::test]
            #[ignore = "needs PostgreSQL and pgbouncer: tests/run"]
            async fn every_test() {
                let Some(pooler) = $crate::postgres::Pooler::start().await else { return };
                $({
                    println!("{}", stringify!($test));
                    let db = $crate::store::TestDatabase::through(&pooler).await;
                    Box::pin(super::$test(&db)).await;
                    db.assert_consistent().await;
                    db.store.close().await;
                })+
            }
        }
        mod on_postgres {
            $(#[tokio::test]
            #[ignore = "needs PostgreSQL: tests/run"]
            async fn $test() {
                let db = $crate::store::TestDatabase::postgres().await;
                super::$test(&db).await;
                db.assert_consistent().await;
            })+
        }
    };
}

/// A store with its own database, and a read-only connection that bypasses the store.
pub struct TestDatabase {
    pub store: Store,
    reader: Reader,
    pub location: Location,
}

/// A connection that cannot write.
enum Reader {
    Sqlite(SqlitePool),
    Postgres(PgPool),
}

pub enum Location {
    Sqlite(TempDir),
    Postgres(ServerDatabase),
}

impl TestDatabase {
    pub async fn sqlite() -> Self {
        static MIGRATED: OnceCell<Vec<u8>> = OnceCell::const_new();
        let migrated = MIGRATED.get_or_init(async || {
            let db = Self::on_sqlite(tempfile::tempdir().unwrap()).await;
            db.store.migrate().await.unwrap();
            db.store.close().await;
            std::fs::read(match &db.location {
                Location::Sqlite(folder) => sqlite_file(folder),
                Location::Postgres(_) => unreachable!(),
            })
            .unwrap()
        });
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(sqlite_file(&folder), migrated.await).unwrap();
        Self::on_sqlite(folder).await
    }

    async fn on_sqlite(folder: TempDir) -> Self {
        let store = Store::open(&DatabaseLocation::Sqlite(sqlite_file(&folder))).await.unwrap();
        let read_only = SqliteConnectOptions::new().filename(sqlite_file(&folder)).read_only(true);
        let reader = SqlitePoolOptions::new().max_connections(1).connect_lazy_with(read_only);
        Self { store, reader: Reader::Sqlite(reader), location: Location::Sqlite(folder) }
    }

    /// Opens a database in another folder, to which other processes write. The store is read-only.
    pub async fn at(file: &Path) -> Self {
        let store = Store::open_to_read(&DatabaseLocation::Sqlite(file.to_owned())).await.unwrap();
        let read_only = SqliteConnectOptions::new().filename(file).read_only(true);
        let reader = SqlitePoolOptions::new().max_connections(1).connect_lazy_with(read_only);
        Self {
            store,
            reader: Reader::Sqlite(reader),
            location: Location::Sqlite(tempfile::tempdir().unwrap()),
        }
    }

    pub async fn postgres() -> Self {
        Self::on_postgres(PostgresServer::shared().await.database().await).await
    }

    pub async fn through(pooler: &Pooler) -> Self {
        Self::on_postgres(pooler.database().await).await
    }

    pub async fn on_postgres(database: ServerDatabase) -> Self {
        let store = Store::open(&database.store_location()).await.unwrap();
        let read_only = [("search_path", "tim_private,tim"), ("default_transaction_read_only", "on")];
        let options = database.url.parse::<PgConnectOptions>().unwrap().options(read_only);
        let reader = PgPoolOptions::new().max_connections(1).connect_lazy_with(options);
        Self { store, reader: Reader::Postgres(reader), location: Location::Postgres(database) }
    }

    /// Returns an empty database on the same engine, through the same pooler if there is one.
    pub async fn empty_like(&self) -> Self {
        match &self.location {
            Location::Sqlite(_) => Self::on_sqlite(tempfile::tempdir().unwrap()).await,
            location @ Location::Postgres(_) => {
                let database = PostgresServer::shared().await.empty_database().await;
                Self::on_postgres(database.through_same_pooler(location)).await
            }
        }
    }

    /// Expires all leases, and waits until the transaction of a dropped crawl is committed or
    /// rolled back. On SQLite a lease ends with its holder.
    pub async fn expire_leases(&self) {
        if let Location::Sqlite(_) = self.location {
            // Waits for the write lock: a dropped transaction holds it until the thread of its
            // connection has rolled it back.
            Self::execute(&self.store_location(), "BEGIN IMMEDIATE; COMMIT").await;
        }
        if let Location::Postgres(_) = self.location {
            let busy = "SELECT count(*) FROM pg_stat_activity
                        WHERE datname = current_database() AND pid <> pg_backend_pid() AND state <> 'idle'";
            while self.value(busy).await != "0" {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
            Self::execute(&self.store_location(), "UPDATE lease SET expires_at = 0").await;
        }
    }

    pub fn store_location(&self) -> DatabaseLocation {
        match &self.location {
            Location::Sqlite(folder) => DatabaseLocation::Sqlite(sqlite_file(folder)),
            Location::Postgres(database) => database.store_location(),
        }
    }

    /// Opens another store, as another process would.
    pub async fn open_another_store(&self) -> Store {
        Store::open(&self.store_location()).await.unwrap()
    }

    /// Runs a query. Returns text in the same form on both engines: `NULL`, 0 and 1 for booleans,
    /// RFC 3339 for times.
    pub async fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        let query = sqlx::raw_sql(AssertSqlSafe(sql.to_owned()));
        let rows = match &self.reader {
            Reader::Sqlite(reader) => {
                query.fetch_all(reader).await.map(|rows| rows.iter().map(sqlite_texts).collect())
            }
            Reader::Postgres(reader) => {
                query.fetch_all(reader).await.map(|rows| rows.iter().map(postgres_texts).collect())
            }
        };
        rows.unwrap_or_else(|error: sqlx::Error| panic!("{sql}: {error}"))
    }

    /// Runs a query. Returns one line for each row, with `|` between the columns.
    pub async fn lines(&self, sql: &str) -> Vec<String> {
        self.rows(sql).await.into_iter().map(|row| row.join("|")).collect()
    }

    /// Runs SQL in a new SQLite file.
    pub async fn execute_in_new(file: &Path, sql: &str) {
        let options = SqliteConnectOptions::new().filename(file).create_if_missing(true);
        let mut connection = options.connect().await.unwrap();
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await.unwrap();
        connection.close().await.unwrap();
    }

    /// Runs SQL on a new connection, without a store.
    pub async fn execute(location: &DatabaseLocation, sql: &str) {
        let result = match location {
            DatabaseLocation::Sqlite(path) => {
                let mut connection = SqliteConnectOptions::new().filename(path).connect().await.unwrap();
                let result = sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&mut connection).await;
                connection.close().await.unwrap();
                result.map(drop)
            }
            DatabaseLocation::Postgres(_) => {
                let server = PostgresServer::shared().await;
                let name = location.to_string().rsplit('/').next().unwrap().to_owned();
                server.execute(&name, &format!("SET search_path TO tim_private, tim; {sql}")).await
            }
        };
        result.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    /// Returns the only value of a query.
    pub async fn value(&self, sql: &str) -> String {
        let rows = self.rows(sql).await;
        assert_eq!((rows.len(), rows[0].len()), (1, 1), "{sql}: {rows:?}");
        rows[0][0].clone()
    }

    /// Returns the columns of a view, in order.
    pub async fn columns(&self, view: &str) -> Vec<String> {
        let sql = match &self.location {
            Location::Sqlite(_) => format!("SELECT name FROM pragma_table_info('{view}') ORDER BY cid"),
            Location::Postgres(_) => format!(
                "SELECT attname::text FROM pg_attribute WHERE attrelid = 'tim.{view}'::regclass AND attnum > 0 ORDER BY attnum"
            ),
        };
        self.lines(&sql).await
    }

    /// Asserts the invariants that hold between any two transactions.
    pub async fn assert_consistent(&self) {
        let maintained = "SELECT app_id, type_id, live_count, missing_count, deleted_count FROM type_state
                    WHERE live_count <> 0 OR missing_count <> 0 OR deleted_count <> 0 ORDER BY 1, 2";
        let counted = "SELECT app_id, type_id, sum(CASE WHEN deleted_at IS NULL THEN 1 ELSE 0 END),
                              sum(CASE WHEN deleted_at IS NULL AND missing_since IS NOT NULL THEN 1 ELSE 0 END),
                              sum(CASE WHEN deleted_at IS NOT NULL THEN 1 ELSE 0 END)
                       FROM group_row GROUP BY app_id, type_id ORDER BY 1, 2";
        self.assert_same(maintained, counted, "the maintained totals equal the counted groups").await;

        // Once retention has removed rows, the counts of the remaining ones differ.
        let purged = "SELECT coalesce(sum(purged_groups + purged_events + purged_counts), 0) FROM crawl";
        let nothing_purged = self.value(purged).await == "0";
        if nothing_purged {
            self.assert_events_and_counts_agree().await;
        }

        for (contradiction, needs_all_events, sql) in CONTRADICTIONS {
            if nothing_purged || !needs_all_events {
                let groups = self.lines(sql).await;
                assert!(groups.is_empty(), "{contradiction}: {groups:?}");
            }
        }
    }

    async fn assert_events_and_counts_agree(&self) {
        let maintained =
            "SELECT crawl_id, sum(appeared), sum(vanished), sum(reappeared), sum(retyped) FROM crawl_change
                    GROUP BY crawl_id HAVING sum(appeared + vanished + reappeared + retyped) <> 0 ORDER BY 1";
        let counted = "SELECT crawl_id, sum(CASE WHEN kind = 'a' THEN 1 ELSE 0 END), sum(CASE WHEN kind = 'v' THEN 1 ELSE 0 END),
                              sum(CASE WHEN kind = 'r' THEN 1 ELSE 0 END), sum(CASE WHEN kind = 't' THEN 1 ELSE 0 END)
                       FROM group_event WHERE kind <> 'u' GROUP BY crawl_id ORDER BY 1";
        self.assert_same(maintained, counted, "a crawl's counts equal its events").await;

        let counted = "SELECT crawl_id, appeared, vanished, reappeared, retyped FROM crawl
                       WHERE status <> 'running' AND appeared + vanished + reappeared + retyped <> 0 ORDER BY 1";
        let maintained = "SELECT c.crawl_id, sum(k.appeared), sum(k.vanished), sum(k.reappeared), sum(k.retyped)
                    FROM crawl_change k JOIN crawl c ON c.crawl_id = k.crawl_id AND c.status <> 'running'
                    GROUP BY c.crawl_id HAVING sum(k.appeared + k.vanished + k.reappeared + k.retyped) <> 0 ORDER BY 1";
        self.assert_same(counted, maintained, "a closed crawl states its changes").await;

        let by_day =
            "SELECT app_id, sum(appeared), sum(vanished), sum(reappeared), sum(retyped) FROM daily_count
                      GROUP BY app_id HAVING sum(appeared + vanished + reappeared + retyped) <> 0 ORDER BY 1";
        let by_crawl = "SELECT app_id, sum(appeared), sum(vanished), sum(reappeared), sum(retyped) FROM crawl
                        WHERE status <> 'running'
                        GROUP BY app_id HAVING sum(appeared + vanished + reappeared + retyped) <> 0 ORDER BY 1";
        self.assert_same(by_day, by_crawl, "the days add up to the crawls").await;
    }

    /// Compares two queries in one statement. After a kill, a commit may still complete between two
    /// statements.
    async fn assert_same(&self, one: &str, other: &str, what: &str) {
        let both = format!(
            "SELECT 1 AS side, one.* FROM ({one}) AS one UNION ALL SELECT 2, other.* FROM ({other}) AS other ORDER BY 1, 2, 3"
        );
        let (mut sides, rows) = ([Vec::new(), Vec::new()], self.rows(&both).await);
        for row in rows {
            sides[usize::from(row[0] == "2")].push(row[1..].to_vec());
        }
        assert_eq!(sides[0], sides[1], "{what}");
    }
}

/// Queries for rows in an impossible state: a description of the state, true if the query is
/// correct only while retention has removed nothing, and the query.
const CONTRADICTIONS: [(&str, bool, &str); 9] = [
    ("deleted and missing", false, "SELECT group_id FROM group_row WHERE deleted_at IS NOT NULL AND missing_since IS NOT NULL"),
    ("deleted and held", false, "SELECT group_id FROM group_row WHERE deleted_at IS NOT NULL AND held_crawl_id IS NOT NULL"),
    ("held and not missing", false, "SELECT group_id FROM group_row WHERE held_crawl_id IS NOT NULL AND missing_since IS NULL"),
    ("seen last before it was seen first", false, "SELECT group_id FROM group_row WHERE last_seen_at < first_seen_at"),
    (
        "of an app or a type that does not exist",
        false,
        "SELECT group_id FROM group_row WHERE app_id NOT IN (SELECT app_id FROM app)
            OR type_id NOT IN (SELECT type_id FROM group_type)",
    ),
    (
        "deleted, but its last event is not that it vanished, or the other way round",
        true,
        "SELECT g.group_id FROM group_row g LEFT JOIN group_event e ON e.event_id =
            (SELECT max(l.event_id) FROM group_event l WHERE l.app_id = g.app_id AND l.group_id = g.group_id)
         WHERE (g.deleted_at IS NOT NULL) <> (coalesce(e.kind, '') = 'v')",
    ),
    (
        "outside its type's first list, but its first event is not that it appeared",
        true,
        "SELECT g.group_id FROM group_row g LEFT JOIN group_event e ON e.event_id =
            (SELECT min(f.event_id) FROM group_event f WHERE f.app_id = g.app_id AND f.group_id = g.group_id)
         WHERE NOT CAST(g.in_baseline AS BOOLEAN) AND coalesce(e.kind, '') <> 'a'",
    ),
    (
        "in an event, but not in the table",
        true,
        "SELECT e.group_id FROM group_event e LEFT JOIN group_row g ON g.app_id = e.app_id AND g.group_id = e.group_id
         WHERE g.group_id IS NULL",
    ),
    (
        "in an event of a crawl that does not exist",
        false,
        "SELECT group_id FROM group_event WHERE crawl_id NOT IN (SELECT crawl_id FROM crawl)",
    ),
];

fn sqlite_file(folder: &TempDir) -> PathBuf {
    folder.path().join("groups.db")
}

fn sqlite_texts(row: &SqliteRow) -> Vec<String> {
    let text = |at| row.try_get_unchecked::<Option<String>, _>(at).unwrap().unwrap_or("NULL".to_owned());
    (0..row.len()).map(text).collect()
}

fn postgres_texts(row: &PgRow) -> Vec<String> {
    let text = |at: usize| {
        let value = row.try_get_raw(at).unwrap();
        if value.is_null() {
            return "NULL".to_owned();
        }
        let text = value.as_str().unwrap();
        match row.column(at).type_info().name() {
            "BOOL" => if text == "t" { "1" } else { "0" }.to_owned(),
            "TIMESTAMPTZ" => {
                let at = DateTime::parse_from_str(text, "%Y-%m-%d %H:%M:%S%.f%#z").unwrap();
                at.with_timezone(&Utc).format("%Y-%m-%dT%H:%M:%SZ").to_string()
            }
            _ => text.to_owned(),
        }
    };
    (0..row.len()).map(text).collect()
}

/// Returns a time on the day of the store's tests.
pub fn at(hour: u32, minute: u32) -> DateTime<Utc> {
    day().date.and_hms_opt(hour, minute, 0).unwrap().and_utc()
}

pub fn day() -> LocalDay {
    LocalDay { date: NaiveDate::from_ymd_opt(2026, 3, 1).unwrap(), timezone: "UTC" }
}

pub fn group_types(names: &[&str]) -> Vec<GroupType> {
    names.iter().map(|name| GroupType::new(name).unwrap()).collect()
}

/// An app with the types Public and Private, and its lease.
pub struct LeasedApp<'a> {
    pub db: &'a TestDatabase,
    pub app: AppId,
    pub public: TypeId,
    pub private: TypeId,
    pub lease: Lease,
}

pub const APP: i64 = 1_400_000_000;

pub fn sdk_app_id() -> SdkAppId {
    SdkAppId::new(APP).unwrap()
}

impl<'a> LeasedApp<'a> {
    pub async fn on(db: &'a TestDatabase) -> Self {
        let identity = AppIdentity { sdk_app_id: sdk_app_id(), name: "prod".to_owned() };
        let (app, types) =
            db.store.register_app(&identity, &group_types(&["Public", "Private"])).await.unwrap();
        let lease = db.store.try_lease(sdk_app_id()).await.unwrap().expect("the lease is free");
        let [public, private] = ["Public", "Private"].map(|name| types[&GroupType::new(name).unwrap()]);
        Self { db, app, public, private, lease }
    }

    /// Registers the app and makes a crawl that lists these groups as the baseline of each type.
    pub async fn after_baseline(db: &'a TestDatabase, public: &[&str], private: &[&str]) -> Self {
        let leased = Self::on(db).await;
        let crawl = leased.open(at(1, 0)).await;
        for (type_id, ids) in [(leased.public, public), (leased.private, private)] {
            leased.list_baseline(crawl, type_id, at(1, 1), ids).await;
            db.store.end_baseline(&leased.lease, leased.app, type_id, crawl).await.unwrap();
        }
        leased.complete(crawl, at(1, 0), at(1, 2), &[leased.public, leased.private]).await;
        leased
    }

    pub async fn open(&self, started_at: DateTime<Utc>) -> CrawlId {
        self.try_open(started_at, None).await.expect("no crawl has this tick")
    }

    pub async fn try_open(
        &self,
        started_at: DateTime<Utc>,
        due_at: Option<DateTime<Utc>>,
    ) -> Option<CrawlId> {
        let new = NewCrawl {
            app: self.app,
            trigger: if due_at.is_some() { Trigger::Schedule } else { Trigger::Command },
            due_at,
            started_at,
            host: "test".to_owned(),
            group_types: group_types(&["Public", "Private"]),
        };
        self.db.store.open_crawl(&self.lease, &new, day()).await.unwrap()
    }

    /// Opens and closes a crawl of this host, configured with these types.
    pub async fn crawl_on(&self, host: &str, hour: u32, types: &[&str]) {
        let new = NewCrawl {
            app: self.app,
            trigger: Trigger::Command,
            due_at: None,
            started_at: at(hour, 0),
            host: host.to_owned(),
            group_types: group_types(types),
        };
        let crawl = self.db.store.open_crawl(&self.lease, &new, day()).await.unwrap().unwrap();
        self.complete(crawl, at(hour, 0), at(hour, 1), &[]).await;
    }

    pub async fn list(
        &self,
        crawl: CrawlId,
        type_id: TypeId,
        at: DateTime<Utc>,
        ids: &[&str],
    ) -> WrittenCounts {
        self.try_list(crawl, type_id, false, at, ids).await.unwrap()
    }

    pub async fn list_baseline(
        &self,
        crawl: CrawlId,
        type_id: TypeId,
        at: DateTime<Utc>,
        ids: &[&str],
    ) -> WrittenCounts {
        self.try_list(crawl, type_id, true, at, ids).await.unwrap()
    }

    pub async fn try_list(
        &self,
        crawl: CrawlId,
        type_id: TypeId,
        in_baseline: bool,
        at: DateTime<Utc>,
        ids: &[&str],
    ) -> Result<WrittenCounts, StoreError> {
        let ids: GroupIds = ids.iter().copied().collect();
        let batch = ListedBatch { app: self.app, crawl, type_id, in_baseline, at, ids: &ids };
        self.db.store.write_listed(&self.lease, &batch, || ()).await
    }

    /// Closes a crawl that listed every live group of these types.
    pub async fn complete(
        &self,
        crawl: CrawlId,
        started_at: DateTime<Utc>,
        finished_at: DateTime<Utc>,
        types: &[TypeId],
    ) -> CrawlEvents {
        let passes: Vec<_> = types.iter().map(|type_id| (*type_id, Verdict::Exact)).collect();
        let settlement = self.settle(&passes, &[]).await;
        self.close(crawl, started_at, finished_at, &settlement).await.unwrap()
    }

    /// Closes a complete crawl.
    pub async fn close(
        &self,
        crawl: CrawlId,
        started_at: DateTime<Utc>,
        finished_at: DateTime<Utc>,
        settlement: &Settlement,
    ) -> Result<CrawlEvents, StoreError> {
        let closing = self.closing(crawl, started_at, finished_at, settlement);
        self.db.store.close_crawl(&self.lease, &closing, |_| ()).await
    }

    pub fn closing<'s>(
        &self,
        crawl: CrawlId,
        started_at: DateTime<Utc>,
        finished_at: DateTime<Utc>,
        settlement: &'s Settlement,
    ) -> Closing<'s> {
        Closing {
            crawl,
            app: self.app,
            started_at,
            finished_at,
            day: day(),
            status: CrawlStatus::Complete,
            reason: None,
            requests: 4,
            total_at_start: Some(7),
            total_at_end: Some(8),
            leftover: Some(0),
            listed: 6,
            passes: &[],
            settlement,
            next_needs_unfiltered_pass: false,
            clock_skew: None,
            history: None,
        }
    }

    pub async fn fail(&self, crawl: CrawlId, started_at: DateTime<Utc>, finished_at: DateTime<Utc>) {
        let nothing = Settlement::nothing();
        let reason =
            Reason { code: ReasonCode::Timeout, error_code: None, text: "no answer within 10s".to_owned() };
        let closing = Closing {
            status: CrawlStatus::Failed,
            reason: Some(reason),
            ..self.closing(crawl, started_at, finished_at, &nothing)
        };
        self.db.store.close_crawl(&self.lease, &closing, |_| ()).await.unwrap();
    }

    /// Returns the settlement of passes with these verdicts that listed no group.
    pub async fn settle_all(&self, passes: &[(TypeId, Verdict)]) -> Settlement {
        let mut ids = Vec::new();
        self.db.store.gather_live(self.app, || (), |(), _, id, _| ids.push(id.to_owned())).await.unwrap();
        let ids: BTreeSet<&str> = ids.iter().map(String::as_str).collect();
        self.settle_unlisted(passes, &ids).await
    }

    /// Returns the settlement of passes with these verdicts that listed every live group except
    /// these.
    pub async fn settle(&self, passes: &[(TypeId, Verdict)], unlisted: &[&str]) -> Settlement {
        self.settle_unlisted(passes, &unlisted.iter().copied().collect()).await
    }

    async fn settle_unlisted(&self, passes: &[(TypeId, Verdict)], unlisted: &BTreeSet<&str>) -> Settlement {
        let mut finished = Vec::new();
        for (type_id, verdict) in passes {
            let mut counts = Counts::default();
            let total_counts: &[u64] = match verdict {
                Verdict::Exact => &[9],
                Verdict::Moving => &[8, 9],
                other => panic!("a {other} pass settles nothing"),
            };
            total_counts.iter().for_each(|count| counts.add(Some(*count)));
            finished.push(FinishedPass {
                type_id: *type_id,
                end: end_of_list().await,
                counts,
                distinct: 9,
                repeats: 0,
                first_listed: 0,
                in_baseline: false,
                unusable: 0,
                recheck: Recheck::NotNeeded,
            });
        }
        let judgement = judge(Evidence {
            passes: finished,
            total_at_start: Some(9),
            total_at_end: Some(9),
            distinct: 9,
            max_shortfall: 0.0,
        });
        for (judged, (_, verdict)) in judgement.passes.iter().zip(passes) {
            assert_eq!(judged.verdict, *verdict);
        }
        let absences = Absences::of(&judgement, TotalsEvidence::Inconclusive);
        let mut absent = Vec::new();
        let gathering = self.db.store.gather_live(
            self.app,
            || (),
            |(), type_id, id, mark| {
                if unlisted.contains(id) {
                    absent.push((type_id, id.to_owned(), mark));
                }
            },
        );
        gathering.await.unwrap();
        assert_eq!(absent.len(), unlisted.len(), "only live groups can be unlisted");
        let mut counts: BTreeMap<TypeId, Unlisted> = BTreeMap::new();
        absent.iter().for_each(|(type_id, ..)| counts.entry(*type_id).or_default().groups += 1);
        let types: Vec<TypeId> = passes.iter().map(|(type_id, _)| *type_id).collect();
        let mut candidates = Candidates::new(&absences);
        for (type_id, id, mark) in &absent {
            candidates.consider(*type_id, id, *mark);
        }
        candidates.settle(Confirmation::Off, &types, &counts)
    }

    /// Returns the rows of the view: id, type, first and last seen, deleted, missing, held, in
    /// baseline. Times are hours and minutes.
    pub async fn groups(&self) -> Vec<String> {
        self.db
            .lines(
                "SELECT group_id, group_type, first_seen_at, last_seen_at, deleted_at, missing_since, held, in_baseline
                 FROM groups ORDER BY group_id",
            )
            .await
            .into_iter()
            .map(|line| line.replace("2026-03-01T", "").replace(":00Z", ""))
            .collect()
    }

    /// Returns the events of the view: event, id, old and new type, crawl.
    pub async fn events(&self) -> Vec<String> {
        self.db
            .lines("SELECT event, group_id, old_type, new_type, crawl_id FROM group_events ORDER BY event_id")
            .await
    }
}

/// Reads an empty list of a simulated server, and returns the proof that its end was reached.
async fn end_of_list() -> EndOfList {
    let settings = Settings::default();
    let api = Simulator::start(settings.clone()).await.unwrap();
    let client = Client::new(ClientSettings {
        sdk_app_id: settings.sdk_app_id,
        identifier: settings.identifier,
        secret_key: settings.secret_key,
        base_url: Url::parse(&api.base_url()).unwrap(),
        region_hint: "china".to_owned(),
        request_timeout: Duration::from_secs(5),
        clock: Clock::system(),
    })
    .unwrap();
    let pacer = Pacer::new(Duration::ZERO, tokio::time::Instant::now());
    let retry_budget = RetryBudget::new(RetryPolicy::lasting(Duration::from_secs(5)));
    let mut caller = Caller::new(&client, &pacer, retry_budget, InfoSettings::default(), |_| ());
    Paginator::of(None, 10, None)
        .fetch_next(&mut caller)
        .await
        .unwrap()
        .end
        .expect("an empty list ends at once")
}
