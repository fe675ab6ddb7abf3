//! Creates and upgrades the tables on both engines.
//!
//! SQLite's migrations run through sqlx, under a lock file. PostgreSQL's run in one transaction: sqlx would take an advisory
//! lock of the session, which a pooler gives to another client. The row that records a migration is written before its
//! statements run. Of two programs that start at once the second waits for the first at that row's key, fails on it, and
//! finds everything done when it tries again.

use std::collections::BTreeMap;

use sqlx::migrate::MigrateError;
use sqlx::{Postgres, Transaction};

use super::rights::{Rights, check_rights, check_role, grant_views, has_record, run};
use super::sources::{POSTGRES_MIGRATIONS, POSTGRES_RECORD, SQLITE_MIGRATIONS, newest, placed, quoted};
use crate::store::engine::{
    Attempted as _, Engine, Schema, Server, SqliteFile, Store, StoreError, TransactionRetry, beside, query,
    query_as,
};
use crate::store::lease::FileLock;

const DOING: &str = "bring the database's tables up to date";

const APPLIED: &str = "SELECT version FROM _sqlx_migrations WHERE success ORDER BY version";
const RECORD_APPLIED: &str = "
INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES ($1, $2, TRUE, $3, 0)";
const APPLIED_WITH_CHECKSUMS: &str = "SELECT version, checksum FROM _sqlx_migrations WHERE success";

/// Lost races after which another cause is assumed, such as a table of the same name from another program.
const MAX_RACES: u32 = 5;

impl Store {
    /// Creates or upgrades the tables. Does nothing if they are up to date.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        match &self.engine {
            Engine::Sqlite(file) => migrate_sqlite(file).await,
            Engine::Postgres(server) => {
                let mut retry = TransactionRetry::default();
                let mut races = 0;
                loop {
                    match migrate_postgres(server).await {
                        Err(StoreError::Query { source, .. })
                            if races < MAX_RACES && lost_a_race(&source) =>
                        {
                            races += 1;
                        }
                        Err(StoreError::Query { source, .. }) if retry.again(&source).await => {}
                        outcome => break outcome,
                    }
                }
            }
        }
    }

    /// Checks that all migrations of this program are applied and none of a newer one.
    pub async fn check_migrated(&self) -> Result<(), StoreError> {
        if let Engine::Postgres(server) = &self.engine {
            check_rights(server).await?;
        }
        let applied: Vec<(i64,)> =
            match self.fetch_all("read which migrations were applied", APPLIED, &[]).await {
                Ok(applied) => applied,
                Err(StoreError::Query { source: sqlx::Error::Database(_), .. }) => {
                    return Err(StoreError::NotMigrated);
                }
                Err(error) => return Err(error),
            };
        let known = match &self.engine {
            Engine::Sqlite(_) => newest(&SQLITE_MIGRATIONS),
            Engine::Postgres(_) => newest(&POSTGRES_MIGRATIONS),
        };
        match applied.last() {
            Some(&(version,)) if version > known => Err(StoreError::Newer { version }),
            Some(&(version,)) if version == known => Ok(()),
            _ => Err(StoreError::NotMigrated),
        }
    }

    /// Checks that the tables could be created or upgraded here, and changes nothing.
    pub async fn check_migratable(&self) -> Result<(), StoreError> {
        const DOING: &str = "read what the database's role may do";
        let Engine::Postgres(server) = &self.engine else { return Ok(()) };
        let schema = &server.database.schema;
        let mut tx = server.begin_to_read().await.attempted(DOING)?;
        Rights::of(&mut tx, schema).await?.to_migrate(schema)?;
        if let Some(role) = &server.database.reader_role {
            check_role(&mut tx, role).await?;
        }
        tx.commit().await.attempted(DOING)
    }
}

async fn migrate_sqlite(file: &SqliteFile) -> Result<(), StoreError> {
    // SQLite has no lock for this, and two programs may start at once on an empty file.
    let _lock = FileLock::take(&beside(&file.path, "migrate.lock"), &file.path).await?;
    SQLITE_MIGRATIONS.run(&file.writer).await.map_err(|error| match error {
        MigrateError::VersionMissing(version) => StoreError::Newer { version },
        error => StoreError::Migrate { source: Box::new(error) },
    })
}

/// Returns true if another program created the same object at the same time. It has committed by then, so that the next
/// attempt finds the work done.
fn lost_a_race(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    // A key, schema, table, type or sequence that exists now, or a catalogue row that two transactions changed.
    let concurrently = error.message().contains("concurrently updated");
    error.code().is_some_and(|code| matches!(&*code, "23505" | "42P06" | "42P07" | "42710")) || concurrently
}

async fn migrate_postgres(server: &Server) -> Result<(), StoreError> {
    let schema = &server.database.schema;
    let mut tx = server.begin().await.attempted(DOING)?;
    let applied = applied_to(&mut tx, schema).await?;
    let known = newest(&POSTGRES_MIGRATIONS);
    if let Some((&version, _)) = applied.last_key_value().filter(|(version, _)| **version > known) {
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
    if !pending.is_empty() {
        for absent in Rights::of(&mut tx, schema).await?.to_migrate(schema)? {
            run(&mut tx, format!("CREATE SCHEMA {}", quoted(&absent))).await?;
        }
        run(&mut tx, placed(POSTGRES_RECORD, schema)).await?;
    }
    for migration in pending {
        query(RECORD_APPLIED)
            .bind(migration.version)
            .bind(&*migration.description)
            .bind(&*migration.checksum)
            .execute(&mut *tx)
            .await
            .attempted(DOING)?;
        run(&mut tx, placed(migration.sql.as_str(), schema)).await?;
    }
    if let Some(role) = &server.database.reader_role {
        grant_views(&mut tx, schema, role).await?;
    }
    tx.commit().await.attempted(DOING)
}

/// Returns the applied migrations with their checksums.
async fn applied_to(
    tx: &mut Transaction<'_, Postgres>,
    schema: &Schema,
) -> Result<BTreeMap<i64, Vec<u8>>, StoreError> {
    if !has_record(tx, schema).await? {
        return Ok(BTreeMap::new());
    }
    let rights = Rights::of(tx, schema).await?;
    rights.to_use(&schema.private())?;
    let applied: Vec<(i64, Vec<u8>)> =
        query_as(APPLIED_WITH_CHECKSUMS).fetch_all(&mut **tx).await.attempted(DOING)?;
    Ok(applied.into_iter().collect())
}
