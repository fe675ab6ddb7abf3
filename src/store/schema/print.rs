//! Prints the SQL of pending migrations, for a database administrator who applies it by hand.

use std::fmt::Write as _;

use sqlx::migrate::Migration;

use super::migrate::{applied_versions, pending_migrations};
use super::rights::grant_select;
use super::sources::{
    CREATE_POSTGRES_RECORD, CREATE_SQLITE_RECORD, POSTGRES_MIGRATIONS, SQLITE_MIGRATIONS, VIEWS, quoted,
    with_schema_names,
};
use crate::store::engine::{DatabaseLocation, Engine, PostgresDatabase, Store, StoreError, WithAction as _};

const UP_TO_DATE: &str = "-- Nothing to apply: the tables are up to date.\n";

impl Store {
    /// Returns the SQL of all migrations, for a database in which none was applied.
    #[must_use]
    pub fn migration_sql(location: &DatabaseLocation) -> String {
        match location {
            DatabaseLocation::Sqlite(_) => sqlite_sql(SQLITE_MIGRATIONS.iter()),
            DatabaseLocation::Postgres(database) => postgres_sql(database, POSTGRES_MIGRATIONS.iter()),
        }
    }

    /// Returns the SQL of the migrations that this database lacks.
    ///
    /// # Errors
    /// If the database cannot be read, or was set up by a newer version of this program.
    pub async fn pending_sql(&self) -> Result<String, StoreError> {
        match &self.engine {
            Engine::Sqlite(_) => {
                let applied = applied_versions(self).await?;
                let pending =
                    SQLITE_MIGRATIONS.iter().filter(|migration| !applied.contains(&migration.version));
                let pending: Vec<_> = pending.collect();
                Ok(if pending.is_empty() { UP_TO_DATE.to_owned() } else { sqlite_sql(pending.into_iter()) })
            }
            Engine::Postgres(server) => {
                const ACTION: &str = "read which migrations were applied";
                let database = &server.database;
                let mut tx = server.begin_read_only().await.with_action(ACTION)?;
                let pending = pending_migrations(&mut tx, &database.schema).await?;
                tx.commit().await.with_action(ACTION)?;
                Ok(if pending.is_empty() {
                    UP_TO_DATE.to_owned()
                } else {
                    postgres_sql(database, pending.into_iter())
                })
            }
        }
    }
}

fn sqlite_sql<'a>(migrations: impl Iterator<Item = &'a Migration>) -> String {
    let mut sql = format!("BEGIN;\n{CREATE_SQLITE_RECORD}");
    for migration in migrations {
        let record = record_statement(migration, "_sqlx_migrations", |checksum| format!("x'{checksum}'"));
        sql.extend([&heading(migration), migration.sql.as_str(), &record]);
    }
    sql + "COMMIT;\n"
}

fn postgres_sql<'a>(database: &PostgresDatabase, migrations: impl Iterator<Item = &'a Migration>) -> String {
    let schema = &database.schema;
    let (public, private) = (quoted(schema.public()), quoted(&schema.private()));
    let mut sql = format!(
        "-- Run this as the role that is to own the tables. If the service connects as another role, it needs:\n\
         -- GRANT USAGE ON SCHEMA {public}, {private} TO the_service;\n\
         -- GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA {private} TO the_service;\n\
         -- GRANT SELECT, UPDATE ON ALL SEQUENCES IN SCHEMA {private} TO the_service;\n\
         BEGIN;\nCREATE SCHEMA IF NOT EXISTS {public};\nCREATE SCHEMA IF NOT EXISTS {private};\n\
         SET LOCAL search_path TO {private}, {public};\n{}",
        with_schema_names(CREATE_POSTGRES_RECORD, schema)
    );
    for migration in migrations {
        let table = format!("{private}._sqlx_migrations");
        let record = record_statement(migration, &table, |checksum| format!("'\\x{checksum}'"));
        sql.extend([heading(migration), with_schema_names(migration.sql.as_str(), schema), record]);
    }
    if let Some(role) = &database.reader_role {
        let grant_select = grant_select(schema, role, VIEWS.into_iter());
        sql.extend([format!("\nGRANT USAGE ON SCHEMA {public} TO {};\n{grant_select};\n", quoted(role))]);
    }
    sql + "COMMIT;\n"
}

/// Returns the comment before the statements of a migration.
fn heading(migration: &Migration) -> String {
    format!("\n-- {:04} {}\n", migration.version, migration.description)
}

/// Returns the statement that records a migration as applied. `as_literal` turns the hexadecimal
/// checksum into a binary literal of the engine.
fn record_statement(migration: &Migration, table: &str, as_literal: fn(&str) -> String) -> String {
    let mut checksum = String::new();
    for byte in migration.checksum.iter() {
        // Writing to a String cannot fail.
        let _ = write!(checksum, "{byte:02x}");
    }
    format!(
        "\nINSERT INTO {table} (version, description, success, checksum, execution_time)\nVALUES ({}, '{}', TRUE, {}, 0);\n",
        migration.version,
        migration.description.replace('\'', "''"),
        as_literal(&checksum),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_in_a_migration_is_in_the_configured_schema() {
        let database = PostgresDatabase::new("postgres://u@localhost/d").unwrap().schema("other").unwrap();
        let sql = Store::migration_sql(&DatabaseLocation::Postgres(database));
        let statements = sql.lines().filter(|line| !line.starts_with("--"));
        for line in statements {
            assert!(!line.contains("tim.") && !line.contains("tim_private"), "{line}");
        }
        assert!(
            sql.contains("CREATE VIEW \"other\".groups")
                && sql.contains("JOIN \"other_private\".base_groups")
        );
    }

    #[test]
    fn the_printed_sql_records_the_migrations() {
        let sqlite = Store::migration_sql(&DatabaseLocation::Sqlite("x".into()));
        assert!(sqlite.contains("INSERT INTO _sqlx_migrations"), "{sqlite}");
    }
}
