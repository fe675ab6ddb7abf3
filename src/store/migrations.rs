//! Brings the tables up to date, on both engines, and says what is missing where that cannot be done.
//!
//! SQLite's migrations run through sqlx, under a lock file. PostgreSQL's run in one transaction of our own: sqlx would
//! take a session's advisory lock, which a pooler hands to somebody else. The row that records a migration is written
//! before its statements, so that of two programs that start at once the second waits for the first at that row's key,
//! fails on it, and finds everything done when it looks again.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use sqlx::migrate::{MigrateError, Migration, Migrator};
use sqlx::{AssertSqlSafe, Postgres, Transaction};

use super::engine::{DatabaseUrl, Engine, SqliteFile, Store, beside, query, query_as, query_scalar, reading};
use super::error::{Attempted as _, StoreError};
use super::lease::FileLock;
use super::server::{Intent, PostgresDatabase, Retries, Schema, Server};

static SQLITE_MIGRATIONS: Migrator = sqlx::migrate!("migrations/sqlite");
static POSTGRES_MIGRATIONS: Migrator = sqlx::migrate!("migrations/postgres");

const APPLIED: &str = "SELECT version FROM _sqlx_migrations WHERE success ORDER BY version";

/// As sqlx makes it, so that its tools understand it too.
const SQLITE_RECORD: &str = "CREATE TABLE IF NOT EXISTS _sqlx_migrations (
    version BIGINT PRIMARY KEY,
    description TEXT NOT NULL,
    installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    success BOOLEAN NOT NULL,
    checksum BLOB NOT NULL,
    execution_time BIGINT NOT NULL
);
";
const POSTGRES_RECORD: &str = "CREATE TABLE IF NOT EXISTS tim_private._sqlx_migrations (
    version BIGINT PRIMARY KEY,
    description TEXT NOT NULL,
    installed_on TIMESTAMPTZ NOT NULL DEFAULT now(),
    success BOOLEAN NOT NULL,
    checksum BYTEA NOT NULL,
    execution_time BIGINT NOT NULL
);
";
const RECORD_APPLIED: &str = "
INSERT INTO _sqlx_migrations (version, description, success, checksum, execution_time) VALUES ($1, $2, TRUE, $3, 0)";

/// The schemas that are there, and whether this role may use them and create in them.
const SCHEMAS: &str = "
SELECT CAST(nspname AS TEXT), has_schema_privilege(oid, 'USAGE'), has_schema_privilege(oid, 'CREATE')
FROM pg_catalog.pg_namespace WHERE nspname IN ($1, $2)";
const MAY_CREATE_SCHEMA: &str = "
SELECT has_database_privilege(current_database(), 'CREATE'), CAST(current_database() AS TEXT), CAST(current_user AS TEXT)";
/// Only who owns a table can change it; there is no right to grant.
const OTHER_OWNER: &str = "
SELECT CAST(pg_get_userbyid(c.relowner) AS TEXT)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT pg_has_role(c.relowner, 'USAGE') ORDER BY 1 LIMIT 1";
const HAS_RECORD: &str = "
SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = '_sqlx_migrations'";
/// What is in both schemas, and what of it no migration made, or what elsewhere would go with it.
const RELATIONS: &str = "
SELECT count(*), count(*) FILTER (WHERE n.nspname = $1 AND NOT (c.relkind = 'v' AND c.relname = ANY ($3)))
    + (SELECT count(*) FROM pg_catalog.pg_depend d
       JOIN pg_catalog.pg_class used ON used.oid = d.refobjid AND d.refclassid = 'pg_catalog.pg_class'::regclass
       JOIN pg_catalog.pg_namespace here ON here.oid = used.relnamespace AND here.nspname IN ($1, $2)
       JOIN pg_catalog.pg_rewrite rule ON rule.oid = d.objid AND d.classid = 'pg_catalog.pg_rewrite'::regclass
       JOIN pg_catalog.pg_class view ON view.oid = rule.ev_class
       JOIN pg_catalog.pg_namespace there ON there.oid = view.relnamespace AND there.nspname NOT IN ($1, $2))
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN ($1, $2)";
/// Answered by the tables of every version.
const OF_OTHERS: &str = "
SELECT (SELECT count(*) FROM app WHERE name <> $1) + (SELECT count(*) FROM crawl WHERE host <> $2)";
const APPLIED_WITH_CHECKSUMS: &str = "SELECT version, checksum FROM _sqlx_migrations WHERE success";
const TABLES_WITHOUT_RIGHT: &str = "
SELECT count(*) FILTER (WHERE NOT has_table_privilege(c.oid, 'SELECT')),
       count(*) FILTER (WHERE NOT (has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE')
                                   AND has_table_privilege(c.oid, 'DELETE')) AND c.relname <> '_sqlx_migrations')
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind IN ('r', 'p')";
const ROLE_EXISTS: &str = "SELECT count(*) FROM pg_catalog.pg_roles WHERE rolname = $1";
/// Views that a role cannot read yet. Granting again what was granted would make two programs that start at once get in
/// each other's way.
const UNREADABLE_VIEWS: &str = "
SELECT CAST(c.relname AS TEXT) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind = 'v' AND c.relname = ANY ($3) AND NOT has_table_privilege($2, c.oid, 'SELECT')
ORDER BY c.relname";
const MAY_USE_SCHEMA: &str = "SELECT has_schema_privilege($1, $2, 'USAGE')";

const DOING: &str = "bring the database's tables up to date";

/// Lost races after which something else must be wrong, such as a table of the same name that is not ours.
const MOST_RACES: u32 = 5;

/// What people read.
const VIEWS: [&str; 11] = [
    "groups",
    "live_groups",
    "group_events",
    "app_counts",
    "type_counts",
    "daily_counts",
    "crawls",
    "app_status",
    "type_status",
    "group_lifetimes",
    "daily_crawls",
];

impl Store {
    /// Brings the tables up to date; does nothing if they are.
    pub async fn migrate(&self) -> Result<(), StoreError> {
        match &self.engine {
            Engine::Sqlite(file) => migrate_sqlite(file).await,
            Engine::Postgres(server) => {
                let mut retries = Retries::default();
                let mut races = 0;
                loop {
                    match migrate_postgres(server).await {
                        Err(StoreError::Query { source, .. })
                            if races < MOST_RACES && lost_a_race(&source) =>
                        {
                            races += 1;
                        }
                        Err(StoreError::Query { source, .. }) if retries.again(&source).await => {}
                        outcome => break outcome,
                    }
                }
            }
        }
    }

    /// Whether all tables are there, none newer than this program knows.
    pub async fn check_migrated(&self) -> Result<(), StoreError> {
        if let Engine::Postgres(server) = &self.engine {
            check_rights(server).await?;
        }
        let applied: Vec<i64> = match reading!(self, on => query_scalar(APPLIED).fetch_all(on).await) {
            Ok(applied) => applied,
            Err(sqlx::Error::Database(_)) => return Err(StoreError::NotMigrated),
            Err(source) => {
                return Err(StoreError::Query { doing: "read which migrations were applied", source });
            }
        };
        let known = match &self.engine {
            Engine::Sqlite(_) => newest(&SQLITE_MIGRATIONS),
            Engine::Postgres(_) => newest(&POSTGRES_MIGRATIONS),
        };
        match applied.last() {
            Some(&version) if version > known => Err(StoreError::Newer { version }),
            Some(&version) if version == known => Ok(()),
            _ => Err(StoreError::NotMigrated),
        }
    }

    /// Whether the tables could be made or brought up to date here. Nothing is.
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

    /// Removes the two schemas of a server's database if all that is in them is of this app and was crawled by this host;
    /// `false`, and nothing is removed, if anything else is, or is built on them. Schemas that are not there are removed
    /// already.
    pub async fn remove_schemas_of(&self, app: &str, host: &str) -> Result<bool, StoreError> {
        const DOING: &str = "remove the tables of an earlier demo";
        // An SQLite file is removed as a file.
        let Engine::Postgres(server) = &self.engine else { return Ok(false) };
        let schema = &server.database.schema;
        let mut tx = server.begin().await.attempted(DOING)?;
        let (relations, others): (i64, i64) = query_as(RELATIONS)
            .bind(schema.public())
            .bind(schema.private())
            .bind(VIEWS.map(str::to_owned).to_vec())
            .fetch_one(&mut *tx)
            .await
            .attempted(DOING)?;
        if relations == 0 {
            return Ok(true);
        }
        if others > 0 || !has_record(&mut tx, schema).await? {
            return Ok(false);
        }
        let others: i64 =
            query_scalar(OF_OTHERS).bind(app).bind(host).fetch_one(&mut *tx).await.attempted(DOING)?;
        if others > 0 {
            return Ok(false);
        }
        let (public, private) = (quoted(schema.public()), quoted(&schema.private()));
        run(&mut tx, format!("DROP SCHEMA {public}, {private} CASCADE")).await?;
        tx.commit().await.attempted(DOING)?;
        Ok(true)
    }

    /// The SQL of all migrations, for a database administrator who applies them by hand to a database without any.
    #[must_use]
    pub fn migration_sql(url: &DatabaseUrl) -> String {
        match url {
            DatabaseUrl::Sqlite(_) => {
                let record = |migration: &Migration| recorded(migration, "_sqlx_migrations", "x'", "'");
                let mut sql = format!("BEGIN;\n{SQLITE_RECORD}");
                for migration in SQLITE_MIGRATIONS.iter() {
                    sql.extend([&heading(migration), migration.sql.as_str(), &record(migration)]);
                }
                sql + "COMMIT;\n"
            }
            DatabaseUrl::Postgres(database) => print_postgres(database),
        }
    }
}

fn newest(migrations: &Migrator) -> i64 {
    migrations.iter().map(|migration| migration.version).max().unwrap_or(0)
}

fn heading(migration: &Migration) -> String {
    format!("\n-- {:04} {}\n", migration.version, migration.description)
}

/// The statement that records a migration as applied, with its checksum in the engine's own notation.
fn recorded(migration: &Migration, table: &str, before: &str, after: &str) -> String {
    let mut checksum = String::new();
    for byte in migration.checksum.iter() {
        // Writing to a String cannot fail.
        let _ = write!(checksum, "{byte:02x}");
    }
    format!(
        "\nINSERT INTO {table} (version, description, success, checksum, execution_time)\nVALUES ({}, '{}', TRUE, {before}{checksum}{after}, 0);\n",
        migration.version,
        migration.description.replace('\'', "''"),
    )
}

async fn migrate_sqlite(file: &SqliteFile) -> Result<(), StoreError> {
    // SQLite has no lock for this, and two programs may start at once on an empty file.
    let _lock = FileLock::take(&beside(&file.path, "migrate.lock"), &file.path).await?;
    SQLITE_MIGRATIONS.run(&file.writer).await.map_err(|error| match error {
        MigrateError::VersionMissing(version) => StoreError::Newer { version },
        error => StoreError::Migrate { source: Box::new(error) },
    })
}

/// Whether another program was creating the same thing at the same time. It has committed when one learns of it, so
/// that the next time finds it done.
fn lost_a_race(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    // A key, a schema, a table, a type or sequence that exists by now, or a catalogue row that two changed at once.
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

/// Runs SQL of our own, with nothing in it but names that were checked or quoted.
async fn run(tx: &mut Transaction<'_, Postgres>, sql: String) -> Result<(), StoreError> {
    sqlx::raw_sql(AssertSqlSafe(sql)).execute(&mut **tx).await.attempted(DOING)?;
    Ok(())
}

/// The migrations applied so far, with their checksums.
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

/// Whether some migration was applied; visible to every role.
async fn has_record(tx: &mut Transaction<'_, Postgres>, schema: &Schema) -> Result<bool, StoreError> {
    let records: i64 =
        query_scalar(HAS_RECORD).bind(schema.private()).fetch_one(&mut **tx).await.attempted(DOING)?;
    Ok(records > 0)
}

/// What this role may do.
struct Rights {
    role: String,
    database: String,
    may_create_schemas: bool,
    /// By name, those that exist: whether they may be used, and created in.
    schemas: BTreeMap<String, (bool, bool)>,
    /// Who made the tables, if it was somebody else, whose rights this role does not have.
    other_owner: Option<String>,
}

impl Rights {
    async fn of(tx: &mut Transaction<'_, Postgres>, schema: &Schema) -> Result<Self, StoreError> {
        let schemas: Vec<(String, bool, bool)> = query_as(SCHEMAS)
            .bind(schema.public())
            .bind(schema.private())
            .fetch_all(&mut **tx)
            .await
            .attempted(DOING)?;
        let (may_create_schemas, database, role): (bool, String, String) =
            query_as(MAY_CREATE_SCHEMA).fetch_one(&mut **tx).await.attempted(DOING)?;
        let other_owner: Option<String> = query_scalar(OTHER_OWNER)
            .bind(schema.private())
            .fetch_optional(&mut **tx)
            .await
            .attempted(DOING)?;
        let schemas = schemas.into_iter().map(|(name, using, creating)| (name, (using, creating))).collect();
        Ok(Self { role, database, may_create_schemas, schemas, other_owner })
    }

    fn missing(&self, what: &str) -> StoreError {
        StoreError::Rights { grant: format!("GRANT {what} TO {}", quoted(&self.role)) }
    }

    /// The schemas that have to be made before the tables can be, or what keeps this role from it.
    fn to_migrate(&self, schema: &Schema) -> Result<Vec<String>, StoreError> {
        if let Some(owner) = &self.other_owner {
            return Err(StoreError::OtherOwner { owner: owner.clone(), role: self.role.clone() });
        }
        let (mut absent, mut closed) = (Vec::new(), Vec::new());
        for name in [schema.public().to_owned(), schema.private()] {
            match self.schemas.get(&name) {
                Some((true, true)) => {}
                Some(_) => closed.push(quoted(&name)),
                None => absent.push(name),
            }
        }
        if !closed.is_empty() {
            return Err(self.missing(&format!("USAGE, CREATE ON SCHEMA {}", closed.join(", "))));
        }
        if !absent.is_empty() && !self.may_create_schemas {
            return Err(self.missing(&format!("CREATE ON DATABASE {}", quoted(&self.database))));
        }
        Ok(absent)
    }

    fn to_use(&self, name: &str) -> Result<(), StoreError> {
        match self.schemas.get(name) {
            Some((false, _)) => Err(self.missing(&format!("USAGE ON SCHEMA {}", quoted(name)))),
            _ => Ok(()),
        }
    }
}

/// Whether the role can do its work on tables that somebody else may have made.
async fn check_rights(server: &Server) -> Result<(), StoreError> {
    let schema = &server.database.schema;
    let mut tx = server.begin_to_read().await.attempted("read what the database's role may do")?;
    if !has_record(&mut tx, schema).await? {
        return Err(StoreError::NotMigrated);
    }
    let rights = Rights::of(&mut tx, schema).await?;
    rights.to_use(&schema.private())?;
    let (unreadable, unwritable): (i64, i64) =
        query_as(TABLES_WITHOUT_RIGHT).bind(schema.private()).fetch_one(&mut *tx).await.attempted(DOING)?;
    let tables = format!("ON ALL TABLES IN SCHEMA {}", quoted(&schema.private()));
    if server.intent == Intent::Write && (unreadable, unwritable) != (0, 0) {
        return Err(rights.missing(&format!("SELECT, INSERT, UPDATE, DELETE {tables}")));
    }
    if unreadable > 0 {
        return Err(rights.missing(&format!("SELECT {tables}")));
    }
    Ok(())
}

async fn check_role(tx: &mut Transaction<'_, Postgres>, role: &str) -> Result<(), StoreError> {
    let roles: i64 = query_scalar(ROLE_EXISTS).bind(role).fetch_one(&mut **tx).await.attempted(DOING)?;
    if roles == 0 {
        return Err(StoreError::NoSuchRole {
            role: role.to_owned(),
            create: format!("CREATE ROLE {} NOLOGIN", quoted(role)),
        });
    }
    Ok(())
}

async fn grant_views(
    tx: &mut Transaction<'_, Postgres>,
    schema: &Schema,
    role: &str,
) -> Result<(), StoreError> {
    check_role(tx, role).await?;
    let may_use: bool = query_scalar(MAY_USE_SCHEMA)
        .bind(role)
        .bind(schema.public())
        .fetch_one(&mut **tx)
        .await
        .attempted(DOING)?;
    if !may_use {
        run(tx, format!("GRANT USAGE ON SCHEMA {} TO {}", quoted(schema.public()), quoted(role))).await?;
    }
    let views: Vec<String> = query_scalar(UNREADABLE_VIEWS)
        .bind(schema.public())
        .bind(role)
        .bind(VIEWS.map(str::to_owned).to_vec())
        .fetch_all(&mut **tx)
        .await
        .attempted(DOING)?;
    if !views.is_empty() {
        run(tx, grant_select(schema, role, views.iter().map(String::as_str))).await?;
    }
    Ok(())
}

fn grant_select<'a>(schema: &Schema, role: &str, views: impl Iterator<Item = &'a str>) -> String {
    let views: Vec<String> =
        views.map(|view| format!("{}.{}", quoted(schema.public()), quoted(view))).collect();
    format!("GRANT SELECT ON {} TO {}", views.join(", "), quoted(role))
}

fn print_postgres(database: &PostgresDatabase) -> String {
    let schema = &database.schema;
    let (public, private) = (quoted(schema.public()), quoted(&schema.private()));
    let mut sql = format!(
        "-- Run this as the role that is to own the tables. If the service connects as another, it needs:\n\
         -- GRANT USAGE ON SCHEMA {public}, {private} TO the_service;\n\
         -- GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {private} TO the_service;\n\
         BEGIN;\nCREATE SCHEMA IF NOT EXISTS {public};\nCREATE SCHEMA IF NOT EXISTS {private};\n{}",
        placed(POSTGRES_RECORD, schema)
    );
    for migration in POSTGRES_MIGRATIONS.iter() {
        let table = format!("{private}._sqlx_migrations");
        let record = recorded(migration, &table, "'\\x", "'");
        sql.extend([heading(migration), placed(migration.sql.as_str(), schema), record]);
    }
    if let Some(role) = &database.reader_role {
        let select = grant_select(schema, role, VIEWS.into_iter());
        sql.extend([format!("\nGRANT USAGE ON SCHEMA {public} TO {};\n{select};\n", quoted(role))]);
    }
    sql + "COMMIT;\n"
}

/// The SQL of a migration, which names the default schemas throughout, with the configured ones.
fn placed(sql: &str, schema: &Schema) -> String {
    sql.replace("tim_private.", &format!("{}.", quoted(&schema.private())))
        .replace(" tim.", &format!(" {}.", quoted(schema.public())))
}

fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_engines_have_the_same_migrations() {
        let names = |migrator: &Migrator| {
            migrator.iter().map(|m| (m.version, m.description.to_string())).collect::<Vec<_>>()
        };
        assert_eq!(names(&SQLITE_MIGRATIONS), names(&POSTGRES_MIGRATIONS));
    }

    #[test]
    fn every_name_in_a_migration_moves_to_the_configured_schema() {
        let database = PostgresDatabase::new("postgres://u@localhost/d").unwrap().schema("other").unwrap();
        let sql = Store::migration_sql(&DatabaseUrl::Postgres(database));
        let statements = sql.lines().filter(|line| !line.starts_with("--"));
        for line in statements {
            assert!(!line.contains("tim.") && !line.contains("tim_private"), "{line}");
        }
        assert!(
            sql.contains("CREATE VIEW \"other\".groups") && sql.contains("FROM \"other_private\".group_row")
        );
    }

    #[test]
    fn the_sql_for_an_administrator_says_what_it_did() {
        let sqlite = Store::migration_sql(&DatabaseUrl::Sqlite("x".into()));
        assert!(sqlite.contains("INSERT INTO _sqlx_migrations"), "{sqlite}");
    }
}
