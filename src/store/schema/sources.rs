//! The migrations of both engines, and the schema names in them.

use sqlx::migrate::{MigrateError, Migrator};

use crate::store::engine::{Schema, StoreError};

pub(in crate::store) static SQLITE_MIGRATIONS: Migrator = sqlx_macros::migrate!("migrations/sqlite");
pub(super) static POSTGRES_MIGRATIONS: Migrator = sqlx_macros::migrate!("migrations/postgres");

/// Creates the table that records migrations. It has the form of sqlx, so that the tools of sqlx
/// can read it.
pub(super) const CREATE_SQLITE_RECORD: &str = "CREATE TABLE IF NOT EXISTS _sqlx_migrations (
    version BIGINT PRIMARY KEY,
    description TEXT NOT NULL,
    installed_on TIMESTAMP NOT NULL DEFAULT CURRENT_TIMESTAMP,
    success BOOLEAN NOT NULL,
    checksum BLOB NOT NULL,
    execution_time BIGINT NOT NULL
);
";
pub(super) const CREATE_POSTGRES_RECORD: &str = "CREATE TABLE IF NOT EXISTS tim_private._sqlx_migrations (
    version BIGINT PRIMARY KEY,
    description TEXT NOT NULL,
    installed_on TIMESTAMPTZ NOT NULL DEFAULT now(),
    success BOOLEAN NOT NULL,
    checksum BYTEA NOT NULL,
    execution_time BIGINT NOT NULL
);
";

/// The public views.
pub(super) const VIEWS: [&str; 15] = [
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
    "group_spans",
    "monthly_counts",
    "group_details",
    "app_statistics",
];

/// Checks that an SQLite database can be upgraded to this version. `applied` contains the versions
/// and checksums of its applied migrations.
pub(in crate::store) fn check_sqlite_migrations(applied: &[(i64, Vec<u8>)]) -> Result<(), StoreError> {
    for (version, checksum) in applied {
        let version = *version;
        match SQLITE_MIGRATIONS.iter().find(|migration| migration.version == version) {
            None => return Err(StoreError::Newer { version }),
            Some(migration) if *migration.checksum == **checksum => {}
            Some(_) => {
                let source = Box::new(MigrateError::VersionMismatch(version));
                return Err(StoreError::Migrate { source });
            }
        }
    }
    Ok(())
}

/// Returns the newest version among migrations.
pub(super) fn newest_version(migrations: &Migrator) -> i64 {
    migrations.iter().map(|migration| migration.version).max().unwrap_or(0)
}

/// Replaces the default schema names in the SQL of a migration with the configured ones.
pub(super) fn with_schema_names(sql: &str, schema: &Schema) -> String {
    // The blank before ` tim.` keeps other names that end in "tim." unchanged.
    sql.replace("tim_private.", &format!("{}.", quoted(&schema.private())))
        .replace(" tim.", &format!(" {}.", quoted(schema.public())))
}

/// Returns a name as a quoted SQL identifier.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

#[cfg(test)]
mod tests {
    use sqlx::migrate::Migration;

    use super::*;

    #[test]
    fn both_engines_have_the_same_migrations() {
        let names = |migrator: &Migrator| {
            let name = |migration: &Migration| (migration.version, migration.description.to_string());
            migrator.iter().map(name).collect::<Vec<_>>()
        };
        assert_eq!(names(&SQLITE_MIGRATIONS), names(&POSTGRES_MIGRATIONS));
    }

    /// The released migrations, with the first 16 bytes of the SHA-384 of their SQL. A database
    /// records the checksums of its migrations, and a program with other checksums refuses it.
    /// Therefore a released file never changes, not even in a comment. A release adds lines here.
    const RELEASED: [(&Migrator, i64, &str); 6] = [
        (&SQLITE_MIGRATIONS, 1, "ef5dd87af376eda30bf01dbeb2086035"),
        (&SQLITE_MIGRATIONS, 2, "5e43b87b1b54064064a74bd8803c457e"),
        (&SQLITE_MIGRATIONS, 3, "66183bb68a98636ffe171160e5739255"),
        (&POSTGRES_MIGRATIONS, 1, "bf78ce8d05dc04ec280630a0b264006a"),
        (&POSTGRES_MIGRATIONS, 2, "5e43b87b1b54064064a74bd8803c457e"),
        (&POSTGRES_MIGRATIONS, 3, "75013ab9fde423690f8e7dd642f9d591"),
    ];

    #[test]
    fn released_migrations_do_not_change() {
        for (migrations, version, released) in RELEASED {
            let embedded = migrations.iter().find(|migration| migration.version == version);
            let checksum = &embedded.expect("a released migration stays").checksum;
            let start = checksum.first_chunk().expect("a checksum has 48 bytes");
            let checksum = format!("{:032x}", u128::from_be_bytes(*start));
            assert_eq!(checksum, released, "migration {version} was released: add a new one instead");
        }
    }
}
