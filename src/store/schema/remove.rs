//! Removes the database of an earlier demo.

use std::io::ErrorKind;
use std::path::Path;

use super::rights::{has_migration_record, run_sql};
use super::sources::{VIEWS, quoted};
use crate::store::engine::{
    DatabaseLocation, Engine, InUseLock, Store, StoreError, WithAction as _, query_as,
};

/// Returns two numbers: the relations in both schemas, and those relations that this program did
/// not create although `DROP SCHEMA … CASCADE` would remove them. These are relations in the public
/// schema other than its views, and views in other schemas that depend on either schema.
const COUNT_RELATIONS: &str = "
SELECT count(*), count(*) FILTER (WHERE n.nspname = $1 AND NOT (c.relkind = 'v' AND c.relname = ANY ($3)))
    + (SELECT count(*) FROM pg_catalog.pg_depend d
       JOIN pg_catalog.pg_class used ON used.oid = d.refobjid AND d.refclassid = 'pg_catalog.pg_class'::regclass
       JOIN pg_catalog.pg_namespace here ON here.oid = used.relnamespace AND here.nspname IN ($1, $2)
       JOIN pg_catalog.pg_rewrite rule ON rule.oid = d.objid AND d.classid = 'pg_catalog.pg_rewrite'::regclass
       JOIN pg_catalog.pg_class view ON view.oid = rule.ev_class
       JOIN pg_catalog.pg_namespace there ON there.oid = view.relnamespace AND there.nspname NOT IN ($1, $2))
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN ($1, $2)";
/// Counts the apps with another name and the crawls of other hosts.
const COUNT_FOREIGN_ROWS: &str = "
SELECT (SELECT count(*) FROM app WHERE name <> $1) + (SELECT count(*) FROM crawl WHERE host <> $2)";
/// Counts the other demos that are connected to this database. The name of a demo's sessions
/// contains its process id.
const COUNT_OTHER_DEMOS: &str = "
SELECT count(*) FROM pg_catalog.pg_stat_activity
WHERE datname = current_database() AND application_name LIKE $1 || '%'
    AND application_name <> current_setting('application_name')";
/// Counts the objects of an SQLite file, without the table that records migrations.
const COUNT_OBJECTS: &str = "SELECT count(*) FROM sqlite_master WHERE tbl_name <> '_sqlx_migrations'";
/// Counts the rows of apps and groups. Used if the views do not exist yet.
const COUNT_ROWS: &str = "SELECT (SELECT count(*) FROM app) + (SELECT count(*) FROM group_row)";

impl Store {
    /// Removes an SQLite file and its side files if it contains nothing, or only this app with
    /// crawls of this host. Otherwise removes nothing and returns false. Returns true if the file
    /// does not exist. Fails if a process has the file open for writing.
    pub async fn remove_file_of(path: &Path, app: &str, host: &str) -> Result<bool, StoreError> {
        if !path.exists() {
            return Ok(true);
        }
        let _lock = InUseLock::lock_exclusive(path)?;
        let Ok(store) = Self::open_to_read(&DatabaseLocation::Sqlite(path.to_owned())).await else {
            return Ok(false);
        };
        let is_removable = match store.app_statuses().await {
            Ok(apps) => apps.iter().all(|found| {
                found.app == app && found.last_crawl.as_ref().is_none_or(|crawl| crawl.host == host)
            }),
            // The views do not exist, because the migrations were interrupted.
            Err(_) => store.is_zero(COUNT_OBJECTS).await || store.is_zero(COUNT_ROWS).await,
        };
        store.close().await;
        if is_removable {
            for suffix in ["", "-wal", "-shm"] {
                let mut file = path.as_os_str().to_owned();
                file.push(suffix);
                match std::fs::remove_file(&file) {
                    Err(source) if source.kind() != ErrorKind::NotFound => {
                        return Err(StoreError::Remove { path: file.into(), source });
                    }
                    _ => {}
                }
            }
        }
        Ok(is_removable)
    }

    /// Returns true if a counting query succeeds and returns 0.
    async fn is_zero(&self, counting_query: &'static str) -> bool {
        self.fetch_one("count what is in the file", counting_query, &[])
            .await
            .is_ok_and(|(count,): (i64,)| count == 0)
    }

    /// Returns whether another demo is connected to the PostgreSQL database. The sessions of demos
    /// have names with this prefix.
    pub async fn is_used_by_another_demo(&self, prefix: &str) -> Result<bool, StoreError> {
        const ACTION: &str = "look for other demos";
        let Engine::Postgres(server) = &self.engine else { return Ok(false) };
        let mut tx = server.begin_read_only().await.with_action(ACTION)?;
        let (others,): (i64,) =
            tx.fetch_one(query_as(COUNT_OTHER_DEMOS).bind(prefix)).await.with_action(ACTION)?;
        tx.commit().await.with_action(ACTION)?;
        Ok(others > 0)
    }

    /// Removes both schemas of a PostgreSQL database if they contain only this app and crawls of
    /// this host. Otherwise removes nothing and returns false. Returns true if the schemas do not
    /// exist.
    pub async fn remove_schemas_of(&self, app: &str, host: &str) -> Result<bool, StoreError> {
        const ACTION: &str = "remove the tables of an earlier demo";
        // The caller removes the file of an SQLite database.
        let Engine::Postgres(server) = &self.engine else { return Ok(false) };
        let schema = &server.database.schema;
        let mut tx = server.begin().await.with_action(ACTION)?;
        let counting = query_as(COUNT_RELATIONS)
            .bind(schema.public())
            .bind(schema.private())
            .bind(VIEWS.map(str::to_owned).to_vec());
        let (relations, foreign_relations): (i64, i64) = tx.fetch_one(counting).await.with_action(ACTION)?;
        if relations == 0 {
            return Ok(true);
        }
        if foreign_relations > 0 || !has_migration_record(&mut tx, schema).await? {
            return Ok(false);
        }
        let (foreign_rows,): (i64,) =
            tx.fetch_one(query_as(COUNT_FOREIGN_ROWS).bind(app).bind(host)).await.with_action(ACTION)?;
        if foreign_rows > 0 {
            return Ok(false);
        }
        let (public, private) = (quoted(schema.public()), quoted(&schema.private()));
        run_sql(&mut tx, format!("DROP SCHEMA {public}, {private} CASCADE"), ACTION).await?;
        tx.commit().await.with_action(ACTION)?;
        Ok(true)
    }
}
