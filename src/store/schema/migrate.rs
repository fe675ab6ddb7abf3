//! Creates and upgrades the tables on both engines.
//!
//! SQLite's migrations run through sqlx, under a lock file.
//!
//! PostgreSQL's migrations run in one transaction of this module. sqlx would take a session-level
//! advisory lock, and a pooler may give the session to another client. Instead, the row that
//! records a migration is inserted before the statements of the migration run. If two programs
//! start at the same time, the insert of the second one waits until the first one has committed,
//! and then fails. The next attempt of the second program finds the migration applied.
//!
//! A migration locks the tables that it changes. While it waits for a lock, all later readers wait
//! behind it. So it waits for at most half a second, and tries again after a pause in which the
//! readers run.

use std::collections::BTreeMap;
use std::time::Duration;

use sqlx::migrate::{MigrateError, Migration};
use tokio::time::sleep;
use tracing::{info, warn};

use super::rights::{Rights, check_reader_role, check_rights, grant_views, has_migration_record, run_sql};
use super::sources::{
    CREATE_POSTGRES_RECORD, POSTGRES_MIGRATIONS, SQLITE_MIGRATIONS, newest_version, quoted, with_schema_names,
};
use crate::store::engine::{
    Engine, PgTransaction, Schema, Server, SqliteFile, Store, StoreError, TransactionRetry, WithAction as _,
    beside, query, query_as,
};
use crate::store::lease::FileLock;

const ACTION: &str = "bring the database's tables up to date";

const APPLIED_VERSIONS: &str = "SELECT version FROM _sqlx_migrations WHERE success ORDER BY version";
const RECORD_APPLIED: &str = "
INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES ($1, $2, TRUE, $3, 0)";
const APPLIED_WITH_CHECKSUMS: &str = "SELECT version, checksum FROM _sqlx_migrations WHERE success";

/// Limits the wait for a lock to 500 ms, because readers wait behind the migration.
const LOCK_TIMEOUT: &str = "SET LOCAL lock_timeout = 500";
/// The pause before a migration tries again to lock the tables.
const LOCK_PAUSE: Duration = Duration::from_secs(5);
/// A migration has the time limit of a statement on this many rows, because it may rewrite the
/// largest table.
const MIGRATED_ROWS: u64 = 20_000_000;
/// Describes the sessions that have the tables or views locked.
const BLOCKING_SESSIONS: &str = "
SELECT string_agg(DISTINCT 'process ' || a.pid || ' of ' || coalesce(a.usename, '?') || ', ' || coalesce(nullif(a.application_name, ''), '?'), '; ')
FROM pg_catalog.pg_locks l JOIN pg_catalog.pg_class c ON c.oid = l.relation
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace JOIN pg_catalog.pg_stat_activity a ON a.pid = l.pid
WHERE l.granted AND l.pid <> pg_backend_pid() AND n.nspname IN ($1, $2)";

/// The maximum number of further attempts after an object was found to exist already. A process
/// that migrates at the same time causes at most a few such conflicts. A conflict that persists has
/// another cause, such as another program's table of the same name.
const MAX_CREATION_CONFLICTS: u32 = 5;

impl Store {
    /// Creates or upgrades the tables. Does nothing if they are up to date.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        match &self.engine {
            Engine::Sqlite(file) => migrate_sqlite(file).await,
            Engine::Postgres(server) => {
                let mut retry = TransactionRetry::within(server.limits().statement);
                let mut conflicts = 0;
                let mut has_waited = false;
                loop {
                    match migrate_postgres(server).await {
                        Err(StoreError::Query { source, .. }) if is_lock_timeout(&source) => {
                            if !has_waited {
                                warn_about_blocking_sessions(server).await;
                            }
                            has_waited = true;
                            sleep(LOCK_PAUSE).await;
                        }
                        Err(StoreError::Query { source, .. })
                            if conflicts < MAX_CREATION_CONFLICTS && is_creation_conflict(&source) =>
                        {
                            conflicts += 1;
                        }
                        Err(StoreError::Query { source, .. }) if retry.pause_before_retry(&source).await => {}
                        result => {
                            if has_waited && result.is_ok() {
                                info!("the database's tables are up to date");
                            }
                            break result;
                        }
                    }
                }
            }
        }
    }

    /// Checks that all migrations of this program are applied, and none of a newer program.
    pub async fn check_migrated(&self) -> Result<(), StoreError> {
        if let Engine::Postgres(server) = &self.engine {
            check_rights(server).await?;
        }
        let newest_known = match &self.engine {
            Engine::Sqlite(_) => newest_version(&SQLITE_MIGRATIONS),
            Engine::Postgres(_) => newest_version(&POSTGRES_MIGRATIONS),
        };
        match applied_versions(self).await?.last() {
            Some(&version) if version > newest_known => Err(StoreError::Newer { version }),
            Some(&version) if version == newest_known => Ok(()),
            Some(&version) => Err(StoreError::Older { version, newest: newest_known }),
            None => Err(StoreError::NotMigrated),
        }
    }

    /// Checks that the connection's role has the rights to create or upgrade the tables. Changes
    /// nothing.
    pub async fn check_migratable(&self) -> Result<(), StoreError> {
        const ACTION: &str = "read what the database's role may do";
        let Engine::Postgres(server) = &self.engine else { return Ok(()) };
        let schema = &server.database.schema;
        let mut tx = server.begin_read_only().await.with_action(ACTION)?;
        Rights::read(&mut tx, schema).await?.require_migration_rights(schema)?;
        if let Some(role) = &server.database.reader_role {
            check_reader_role(&mut tx, role).await?;
        }
        tx.commit().await.with_action(ACTION)
    }
}

/// Returns the versions of the applied migrations in ascending order. Empty if this program's
/// tables do not exist.
pub(super) async fn applied_versions(store: &Store) -> Result<Vec<i64>, StoreError> {
    match store.fetch_all("read which migrations were applied", APPLIED_VERSIONS, &[]).await {
        Ok(applied) => Ok(applied.into_iter().map(|(version,)| version).collect()),
        // The table that records migrations does not exist. SQLite: a generic SQL error (1).
        // PostgreSQL: undefined table (42P01).
        Err(StoreError::Query { source: sqlx::Error::Database(error), .. })
            if error.code().is_some_and(|code| code == "1" || code == "42P01") =>
        {
            Ok(Vec::new())
        }
        Err(error) => Err(error),
    }
}

async fn migrate_sqlite(file: &SqliteFile) -> Result<(), StoreError> {
    // Two programs may start at the same time with an empty file. SQLite has no lock that covers
    // all migrations.
    let lock_path = beside(&file.path, "migrate.lock");
    let _lock = FileLock::take(&lock_path, &file.path, "brings the database's tables up to date").await?;
    SQLITE_MIGRATIONS.run(file.writer()?).await.map_err(|error| match error {
        MigrateError::VersionMissing(version) => StoreError::Newer { version },
        error => StoreError::Migrate { source: Box::new(error) },
    })
}

/// Returns true if another program has created the same object at the same time. The other program
/// has committed by then, so the next attempt finds the object.
fn is_creation_conflict(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    // Two transactions changed the same catalogue row.
    let is_catalogue_conflict = error.message().contains("concurrently updated");
    // A key (23505), schema (42P06), table (42P07) or type (42710) exists.
    let exists = error.code().is_some_and(|code| matches!(&*code, "23505" | "42P06" | "42P07" | "42710"));
    exists || is_catalogue_conflict
}

/// Returns true if the lock of a table was not free in time.
fn is_lock_timeout(error: &sqlx::Error) -> bool {
    matches!(error, sqlx::Error::Database(error) if error.code().as_deref() == Some("55P03"))
}

/// Logs that a migration waits, and which sessions it waits for.
async fn warn_about_blocking_sessions(server: &Server) {
    let sessions = blocking_sessions(server).await.ok().flatten();
    let sessions = sessions.unwrap_or_else(|| "another session".to_owned());
    warn!(
        "the migration waits until no session uses the tables ({sessions}); it tries again every {} \
         s, and readers do not wait for it",
        LOCK_PAUSE.as_secs()
    );
}

async fn blocking_sessions(server: &Server) -> Result<Option<String>, sqlx::Error> {
    let schema = &server.database.schema;
    let mut tx = server.begin_read_only().await?;
    let select = query_as(BLOCKING_SESSIONS).bind(schema.public()).bind(schema.private());
    let (sessions,): (Option<String>,) = tx.fetch_one(select).await?;
    tx.commit().await?;
    Ok(sessions)
}

async fn migrate_postgres(server: &Server) -> Result<(), StoreError> {
    let schema = &server.database.schema;
    let mut tx = server.begin().await.with_action(ACTION)?;
    let pending = pending_migrations(&mut tx, schema).await?;
    // First, so that the start of the service reports the mistake before migrations take their time.
    if let Some(role) = &server.database.reader_role {
        check_reader_role(&mut tx, role).await?;
    }
    if !pending.is_empty() {
        tx.expect_rows(MIGRATED_ROWS).await.with_action(ACTION)?;
        run_sql(&mut tx, LOCK_TIMEOUT.to_owned(), ACTION).await?;
        let rights = Rights::read(&mut tx, schema).await?;
        for absent_schema in rights.require_migration_rights(schema)? {
            run_sql(&mut tx, format!("CREATE SCHEMA {}", quoted(&absent_schema)), ACTION).await?;
        }
        run_sql(&mut tx, with_schema_names(CREATE_POSTGRES_RECORD, schema), ACTION).await?;
    }
    for migration in pending {
        let record = query(RECORD_APPLIED)
            .bind(migration.version)
            .bind(&*migration.description)
            .bind(&*migration.checksum);
        tx.execute(record, 0).await.with_action(ACTION)?;
        run_sql(&mut tx, with_schema_names(migration.sql.as_str(), schema), ACTION).await?;
    }
    if let Some(role) = &server.database.reader_role {
        grant_views(&mut tx, schema, role).await?;
    }
    tx.commit().await.with_action(ACTION)
}

/// Returns the migrations of this program that the database lacks. Fails if a newer program has
/// migrated the database, or if an applied migration differs from this program's.
pub(super) async fn pending_migrations(
    tx: &mut PgTransaction,
    schema: &Schema,
) -> Result<Vec<&'static Migration>, StoreError> {
    let applied = applied_checksums(tx, schema).await?;
    let newest_known = newest_version(&POSTGRES_MIGRATIONS);
    if let Some((&version, _)) = applied.last_key_value().filter(|(version, _)| **version > newest_known) {
        return Err(StoreError::Newer { version });
    }
    let mut pending = Vec::new();
    for migration in POSTGRES_MIGRATIONS.iter() {
        match applied.get(&migration.version) {
            None => pending.push(migration),
            Some(checksum) if *checksum == *migration.checksum => {}
            Some(_) => {
                let source = Box::new(MigrateError::VersionMismatch(migration.version));
                return Err(StoreError::Migrate { source });
            }
        }
    }
    Ok(pending)
}

/// Returns the checksums of the applied migrations by version.
async fn applied_checksums(
    tx: &mut PgTransaction,
    schema: &Schema,
) -> Result<BTreeMap<i64, Vec<u8>>, StoreError> {
    if !has_migration_record(tx, schema).await? {
        return Ok(BTreeMap::new());
    }
    let rights = Rights::read(tx, schema).await?;
    rights.require_usage(&schema.private())?;
    let applied: Vec<(i64, Vec<u8>)> =
        tx.fetch_all(query_as(APPLIED_WITH_CHECKSUMS), 0).await.with_action(ACTION)?;
    Ok(applied.into_iter().collect())
}
