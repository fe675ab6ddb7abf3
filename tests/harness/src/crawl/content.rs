//! The content of the database, as readers of the views see it.

use std::collections::BTreeMap;

use super::Harness;
use crate::store::{Location, TestDatabase};

impl Harness {
    /// Runs a query on a read-only connection. Returns every value as text.
    pub async fn rows(&self, sql: &str) -> Vec<Vec<String>> {
        self.db.rows(sql).await
    }

    /// Runs a query. Returns one line for each row.
    pub async fn lines(&self, sql: &str) -> Vec<String> {
        self.rows(sql).await.iter().map(|row| row.join(" ")).collect()
    }

    /// Runs a query that returns a single value.
    pub async fn value(&self, sql: &str) -> String {
        let mut rows = self.rows(sql).await;
        assert!(rows.len() == 1 && rows[0].len() == 1, "{sql}: {rows:?}");
        rows.remove(0).remove(0)
    }

    /// Returns every group: id, type, and `deleted` or `missing` if it is.
    pub async fn table(&self) -> Vec<String> {
        let sql = "SELECT group_id, group_type, deleted_at, missing_since FROM groups ORDER BY group_id";
        let line = |row: &Vec<String>| {
            let deleted = if row[2] == "NULL" { "" } else { " deleted" };
            let missing = if row[3] == "NULL" { "" } else { " missing" };
            format!("{} {}{deleted}{missing}", row[0], row[1])
        };
        self.rows(sql).await.iter().map(line).collect()
    }

    /// Returns every event: crawl, group, kind, old and new type.
    pub async fn events(&self) -> Vec<String> {
        let sql = "SELECT crawl_id, group_id, event, old_type, new_type FROM group_events ORDER BY crawl_id, group_id";
        let line = |row: &Vec<String>| format!("{} {} {} {}>{}", row[0], row[1], row[2], row[3], row[4]);
        self.rows(sql).await.iter().map(line).collect()
    }

    pub async fn live(&self) -> BTreeMap<String, String> {
        let rows = self.rows("SELECT group_id, group_type FROM live_groups").await;
        rows.into_iter().map(|mut row| (row.remove(0), row.remove(0))).collect()
    }

    /// Asserts that the live groups and their types equal those of the API, and that none is
    /// missing.
    pub async fn assert_table_matches_api(&self) {
        assert_eq!(self.live().await, self.api.truth());
        assert_eq!(self.value("SELECT missing_count FROM app_status").await, "0");
    }

    /// Adds triggers that refuse to insert or update a group and to insert an event.
    pub async fn forbid_changes_to_groups(&self) {
        let refusal = match self.db.location {
            Location::Sqlite(_) => "BEGIN SELECT RAISE(ABORT, 'a group was written'); END",
            Location::Postgres(_) => {
                let refuse =
                    "CREATE OR REPLACE FUNCTION tim_private.refuse() RETURNS trigger LANGUAGE plpgsql
                              AS $$ BEGIN RAISE EXCEPTION 'a group was written'; END $$";
                self.alter([refuse.to_owned()]).await;
                "FOR EACH ROW EXECUTE FUNCTION tim_private.refuse()"
            }
        };
        let triggers = FORBIDDEN_WRITES.map(|(table, verb)| {
            format!("CREATE TRIGGER no_{verb}_{table} BEFORE {verb} ON {table} {refusal}")
        });
        self.alter(triggers).await;
    }

    pub async fn allow_changes_to_groups(&self) {
        let of = |table| match self.db.location {
            Location::Sqlite(_) => String::new(),
            Location::Postgres(_) => format!(" ON {table}"),
        };
        self.alter(
            FORBIDDEN_WRITES.map(|(table, verb)| format!("DROP TRIGGER no_{verb}_{table}{}", of(table))),
        )
        .await;
    }

    async fn alter(&self, statements: impl IntoIterator<Item = String>) {
        for statement in statements {
            TestDatabase::execute(&self.db.store_location(), &statement).await;
        }
    }
}

const FORBIDDEN_WRITES: [(&str, &str); 3] =
    [("group_row", "INSERT"), ("group_row", "UPDATE"), ("group_event", "INSERT")];
