//! The rights of the connection's role in PostgreSQL, and the GRANT statement for a missing right.

use std::collections::BTreeMap;

use super::sources::{VIEWS, quoted};
use crate::store::engine::{Intent, PgTransaction, Schema, Server, StoreError, WithAction as _, query_as};

const ACTION: &str = "read what the database's role may do";

/// Returns the existing schemas, and whether the role may use them and create objects in them.
const SELECT_SCHEMAS: &str = "
SELECT CAST(nspname AS TEXT), has_schema_privilege(oid, 'USAGE'), has_schema_privilege(oid, 'CREATE')
FROM pg_catalog.pg_namespace WHERE nspname IN ($1, $2)";
/// Returns whether the role may create schemas, the name of the database, and the name of the role.
const SELECT_ROLE: &str = "
SELECT has_database_privilege(current_database(), 'CREATE'), CAST(current_database() AS TEXT), CAST(current_user AS TEXT)";
/// Returns the owner of the tables, if the role does not have that owner's rights. Only the owner
/// of a table can alter the table; no GRANT permits that.
const SELECT_OTHER_OWNER: &str = "
SELECT CAST(pg_get_userbyid(c.relowner) AS TEXT)
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind IN ('r', 'p') AND NOT pg_has_role(c.relowner, 'USAGE') ORDER BY 1 LIMIT 1";
const COUNT_RECORD_TABLES: &str = "
SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = '_sqlx_migrations'";
/// Counts the tables that the role cannot read, and those that it cannot write. The program does
/// not write the table that records migrations, except to migrate.
const COUNT_TABLES_WITHOUT_RIGHT: &str = "
SELECT count(*) FILTER (WHERE NOT has_table_privilege(c.oid, 'SELECT')),
       count(*) FILTER (WHERE NOT (has_table_privilege(c.oid, 'INSERT') AND has_table_privilege(c.oid, 'UPDATE')
                                   AND has_table_privilege(c.oid, 'DELETE')) AND c.relname <> '_sqlx_migrations')
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind IN ('r', 'p')";
/// Counts the sequences that the role cannot read or set. The program does both if a sequence is
/// behind the ids in its table, or if the storage has changed.
const COUNT_SEQUENCES_WITHOUT_RIGHT: &str = "
SELECT count(*) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind = 'S'
  AND NOT (has_sequence_privilege(c.oid, 'SELECT') AND has_sequence_privilege(c.oid, 'UPDATE'))";
const COUNT_ROLES: &str = "SELECT count(*) FROM pg_catalog.pg_roles WHERE rolname = $1";
/// Returns the views that a role cannot read yet. Other views are not granted again: if two
/// programs repeat a GRANT at the same time, one of them fails.
const SELECT_UNREADABLE_VIEWS: &str = "
SELECT CAST(c.relname AS TEXT) FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relkind = 'v' AND c.relname = ANY ($3) AND NOT has_table_privilege($2, c.oid, 'SELECT')
ORDER BY c.relname";
const MAY_USE_SCHEMA: &str = "SELECT has_schema_privilege($1, $2, 'USAGE')";

/// Runs SQL whose names are all validated or quoted. `action` names the purpose in errors.
pub(super) async fn run_sql(
    tx: &mut PgTransaction,
    sql: String,
    action: &'static str,
) -> Result<(), StoreError> {
    tx.run_sql(sql).await.with_action(action).map(|_| ())
}

/// Returns true if the table that records migrations exists. Needs no rights on the schema.
pub(super) async fn has_migration_record(
    tx: &mut PgTransaction,
    schema: &Schema,
) -> Result<bool, StoreError> {
    let (record_tables,): (i64,) =
        tx.fetch_one(query_as(COUNT_RECORD_TABLES).bind(schema.private())).await.with_action(ACTION)?;
    Ok(record_tables > 0)
}

/// The rights that migrations need.
pub(super) struct Rights {
    role: String,
    database: String,
    may_create_schemas: bool,
    /// The rights on the existing schemas, by the name of the schema.
    schemas: BTreeMap<String, SchemaRights>,
    /// The owner of the tables, if this role lacks that owner's rights.
    other_owner: Option<String>,
}

/// What the role may do in a schema.
#[derive(Clone, Copy)]
struct SchemaRights {
    may_use: bool,
    may_create: bool,
}

impl Rights {
    pub(super) async fn read(tx: &mut PgTransaction, schema: &Schema) -> Result<Self, StoreError> {
        let select = query_as(SELECT_SCHEMAS).bind(schema.public()).bind(schema.private());
        let schemas: Vec<(String, bool, bool)> = tx.fetch_all(select, 0).await.with_action(ACTION)?;
        let (may_create_schemas, database, role): (bool, String, String) =
            tx.fetch_one(query_as(SELECT_ROLE)).await.with_action(ACTION)?;
        let other_owner: Option<(String,)> = tx
            .fetch_optional(query_as(SELECT_OTHER_OWNER).bind(schema.private()))
            .await
            .with_action(ACTION)?;
        let other_owner = other_owner.map(|(owner,)| owner);
        let schemas = schemas
            .into_iter()
            .map(|(name, may_use, may_create)| (name, SchemaRights { may_use, may_create }))
            .collect();
        Ok(Self { role, database, may_create_schemas, schemas, other_owner })
    }

    /// Returns an error with the GRANT statement for these privileges.
    fn missing_right_error(&self, privileges: &str) -> StoreError {
        StoreError::Rights { grant: format!("GRANT {privileges} TO {}", quoted(&self.role)) }
    }

    /// Returns the schemas that have to be created before the tables. Fails if a right is missing.
    pub(super) fn require_migration_rights(&self, schema: &Schema) -> Result<Vec<String>, StoreError> {
        if let Some(owner) = &self.other_owner {
            return Err(StoreError::OtherOwner { owner: owner.clone(), role: self.role.clone() });
        }
        let (mut absent, mut without_rights) = (Vec::new(), Vec::new());
        for name in [schema.public().to_owned(), schema.private()] {
            match self.schemas.get(&name) {
                Some(SchemaRights { may_use: true, may_create: true }) => {}
                Some(_) => without_rights.push(quoted(&name)),
                None => absent.push(name),
            }
        }
        if !without_rights.is_empty() {
            return Err(
                self.missing_right_error(&format!("USAGE, CREATE ON SCHEMA {}", without_rights.join(", ")))
            );
        }
        if !absent.is_empty() && !self.may_create_schemas {
            return Err(self.missing_right_error(&format!("CREATE ON DATABASE {}", quoted(&self.database))));
        }
        Ok(absent)
    }

    /// Fails if the schema exists and the role may not use it.
    pub(super) fn require_usage(&self, name: &str) -> Result<(), StoreError> {
        match self.schemas.get(name) {
            Some(SchemaRights { may_use: false, .. }) => {
                Err(self.missing_right_error(&format!("USAGE ON SCHEMA {}", quoted(name))))
            }
            _ => Ok(()),
        }
    }
}

/// Checks that the role has the rights that the program needs on the tables, which another role may
/// own.
pub(super) async fn check_rights(server: &Server) -> Result<(), StoreError> {
    let schema = &server.database.schema;
    let mut tx = server.begin_read_only().await.with_action(ACTION)?;
    if !has_migration_record(&mut tx, schema).await? {
        return Err(StoreError::NotMigrated);
    }
    let rights = Rights::read(&mut tx, schema).await?;
    rights.require_usage(&schema.private())?;
    let (unreadable, unwritable): (i64, i64) = tx
        .fetch_one(query_as(COUNT_TABLES_WITHOUT_RIGHT).bind(schema.private()))
        .await
        .with_action(ACTION)?;
    let tables = format!("ON ALL TABLES IN SCHEMA {}", quoted(&schema.private()));
    if server.intent == Intent::Write && (unreadable, unwritable) != (0, 0) {
        return Err(rights.missing_right_error(&format!("SELECT, INSERT, UPDATE, DELETE {tables}")));
    }
    if unreadable > 0 {
        return Err(rights.missing_right_error(&format!("SELECT {tables}")));
    }
    if server.intent == Intent::Write {
        check_sequences(&mut tx, schema, &rights).await?;
    }
    Ok(())
}

async fn check_sequences(tx: &mut PgTransaction, schema: &Schema, rights: &Rights) -> Result<(), StoreError> {
    let sequences = query_as(COUNT_SEQUENCES_WITHOUT_RIGHT).bind(schema.private());
    let (without_right,): (i64,) = tx.fetch_one(sequences).await.with_action(ACTION)?;
    if without_right > 0 {
        let sequences = format!("ON ALL SEQUENCES IN SCHEMA {}", quoted(&schema.private()));
        return Err(rights.missing_right_error(&format!("SELECT, UPDATE {sequences}")));
    }
    Ok(())
}

/// Fails if the role that should read the views does not exist.
pub(super) async fn check_reader_role(tx: &mut PgTransaction, role: &str) -> Result<(), StoreError> {
    let (roles,): (i64,) = tx.fetch_one(query_as(COUNT_ROLES).bind(role)).await.with_action(ACTION)?;
    if roles == 0 {
        return Err(StoreError::NoSuchRole {
            role: role.to_owned(),
            create: format!("CREATE ROLE {} NOLOGIN", quoted(role)),
        });
    }
    Ok(())
}

/// Grants a role SELECT on the views that it cannot read yet.
pub(super) async fn grant_views(
    tx: &mut PgTransaction,
    schema: &Schema,
    role: &str,
) -> Result<(), StoreError> {
    const ACTION: &str = "grant the views to the role of the readers";
    let may_use = query_as(MAY_USE_SCHEMA).bind(role).bind(schema.public());
    let (may_use,): (bool,) = tx.fetch_one(may_use).await.with_action(ACTION)?;
    if !may_use {
        let grant_usage = format!("GRANT USAGE ON SCHEMA {} TO {}", quoted(schema.public()), quoted(role));
        run_sql(tx, grant_usage, ACTION).await?;
    }
    let unreadable = query_as(SELECT_UNREADABLE_VIEWS)
        .bind(schema.public())
        .bind(role)
        .bind(VIEWS.map(str::to_owned).to_vec());
    let views: Vec<(String,)> = tx.fetch_all(unreadable, 0).await.with_action(ACTION)?;
    if !views.is_empty() {
        let grant_select = grant_select(schema, role, views.iter().map(|(view,)| view.as_str()));
        run_sql(tx, grant_select, ACTION).await?;
    }
    Ok(())
}

/// Returns the statement that grants a role SELECT on views.
pub(super) fn grant_select<'a>(schema: &Schema, role: &str, views: impl Iterator<Item = &'a str>) -> String {
    let views: Vec<String> =
        views.map(|view| format!("{}.{}", quoted(schema.public()), quoted(view))).collect();
    format!("GRANT SELECT ON {} TO {}", views.join(", "), quoted(role))
}
