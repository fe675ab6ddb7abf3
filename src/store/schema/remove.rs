//! Removes the schemas of an earlier demo.

use super::rights::{has_record, run};
use super::sources::{VIEWS, quoted};
use crate::store::engine::{Attempted as _, Engine, Store, StoreError, query_as};

/// Counts the relations in both schemas. Also counts relations that this program did not create and
/// that `DROP SCHEMA … CASCADE` would remove: those in the public schema other than its views, and
/// views in other schemas that depend on either schema.
const RELATIONS: &str = "
SELECT count(*), count(*) FILTER (WHERE n.nspname = $1 AND NOT (c.relkind = 'v' AND c.relname = ANY ($3)))
    + (SELECT count(*) FROM pg_catalog.pg_depend d
       JOIN pg_catalog.pg_class used ON used.oid = d.refobjid AND d.refclassid = 'pg_catalog.pg_class'::regclass
       JOIN pg_catalog.pg_namespace here ON here.oid = used.relnamespace AND here.nspname IN ($1, $2)
       JOIN pg_catalog.pg_rewrite rule ON rule.oid = d.objid AND d.classid = 'pg_catalog.pg_rewrite'::regclass
       JOIN pg_catalog.pg_class view ON view.oid = rule.ev_class
       JOIN pg_catalog.pg_namespace there ON there.oid = view.relnamespace AND there.nspname NOT IN ($1, $2))
FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname IN ($1, $2)";
/// Counts the apps with another name and the crawls of other hosts.
const FOREIGN_ROWS: &str = "
SELECT (SELECT count(*) FROM app WHERE name <> $1) + (SELECT count(*) FROM crawl WHERE host <> $2)";

impl Store {
    /// Removes both schemas of a PostgreSQL database if they contain only this app and crawls of
    /// this host. Otherwise removes nothing and returns false. Returns true if the schemas do not
    /// exist.
    pub async fn remove_schemas_of(&self, app: &str, host: &str) -> Result<bool, StoreError> {
        const DOING: &str = "remove the tables of an earlier demo";
        // The caller removes the file of an SQLite database.
        let Engine::Postgres(server) = &self.engine else { return Ok(false) };
        let schema = &server.database.schema;
        let mut tx = server.begin().await.attempted(DOING)?;
        let counting = query_as(RELATIONS)
            .bind(schema.public())
            .bind(schema.private())
            .bind(VIEWS.map(str::to_owned).to_vec());
        let (relations, others): (i64, i64) = tx.fetch_one(counting).await.attempted(DOING)?;
        if relations == 0 {
            return Ok(true);
        }
        if others > 0 || !has_record(&mut tx, schema).await? {
            return Ok(false);
        }
        let (others,): (i64,) =
            tx.fetch_one(query_as(FOREIGN_ROWS).bind(app).bind(host)).await.attempted(DOING)?;
        if others > 0 {
            return Ok(false);
        }
        let (public, private) = (quoted(schema.public()), quoted(&schema.private()));
        run(&mut tx, format!("DROP SCHEMA {public}, {private} CASCADE")).await?;
        tx.commit().await.attempted(DOING)?;
        Ok(true)
    }
}
