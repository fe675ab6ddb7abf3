//! Keeps the ids of events and crawls growing when the database is restored, copied or failed over.
//!
//! Readers follow the events of an app with `event_id > N`. A restored database lacks its newest
//! rows, and would assign their ids again. Then readers would miss the new events. So the database
//! records the storage in which ids were assigned last (`Store::storage_identity`). If the storage
//! has changed, ids continue above all that may have been assigned before.

use chrono::{DateTime, Utc};
use tracing::{info, warn};

use crate::store::engine::{Engine, FencingToken, Statement, Store, StoreError, Tx, values};
use crate::store::lease::Lease;

/// Returns the stored identity, and 1 if this program wrote the row, or 0 if it was restored.
const STORED: Statement = Statement::PerEngine {
    sqlite: "SELECT identity, 1 FROM storage",
    postgres: "SELECT identity, CAST(CASE WHEN CAST(xmin AS TEXT) = written_by THEN 1 ELSE 0 END AS BIGINT) FROM storage",
};
/// Records the storage. On PostgreSQL, changes nothing if another process has recorded the same
/// storage meanwhile.
const RECORD: Statement = Statement::PerEngine {
    sqlite: "
INSERT INTO storage (only_row, identity) VALUES (1, ?1)
ON CONFLICT (only_row) DO UPDATE SET identity = excluded.identity",
    postgres: "
INSERT INTO storage AS s (only_row, identity, written_by)
VALUES (1, $1, CAST(CAST(pg_current_xact_id() AS xid) AS TEXT))
ON CONFLICT (only_row) DO UPDATE SET identity = excluded.identity, written_by = excluded.written_by
WHERE s.identity <> excluded.identity OR CAST(s.xmin AS TEXT) <> s.written_by",
};

/// The margin for event ids that were assigned and lost with their rows. It matters only if the
/// clock is behind as well.
const EVENTS_LOST: i64 = 1_000_000;
/// The margin for crawl ids that were assigned and lost with their rows.
const CRAWLS_LOST: i64 = 10_000;

/// Moves the sequence of an id column to at least $1, and by at least the margin $2.
macro_rules! skip_ids {
    ($table:literal, $column:literal) => {
        Statement::PerEngine {
            // `ADD_SEQUENCE` runs first, so that the row exists.
            sqlite: concat!("UPDATE sqlite_sequence SET seq = max(seq + ?2, ?1) WHERE name = '", $table, "'"),
            postgres: concat!(
                "SELECT setval(given.sequence, greatest($1, $2 + coalesce(pg_sequence_last_value(given.sequence), 0),
                $2 + coalesce((SELECT max(", $column, ") FROM ", $table, "), 0)))
FROM (SELECT CAST(pg_get_serial_sequence('", $table, "', '", $column, "') AS regclass) AS sequence) AS given"
            ),
        }
    };
}
const SKIP_EVENT_IDS: Statement = skip_ids!("group_event", "event_id");
const SKIP_CRAWL_IDS: Statement = skip_ids!("crawl", "crawl_id");
/// SQLite only: adds the row of a sequence, which AUTOINCREMENT creates with the first insert.
const ADD_SEQUENCE: &str = "
INSERT INTO sqlite_sequence (name, seq) SELECT $1, 0 WHERE NOT EXISTS (SELECT 1 FROM sqlite_sequence WHERE name = $1)";

/// PostgreSQL only: selects the sequences that are behind the ids in their tables, with the
/// greatest id of each table.
macro_rules! behind_rows {
    ($select:literal) => {
        concat!(
            "SELECT ",
            $select,
            "
FROM (SELECT 'app' AS name, CAST(pg_get_serial_sequence('app', 'app_id') AS regclass) AS sequence,
             (SELECT max(app_id) FROM app) AS greatest
      UNION ALL SELECT 'group_type', CAST(pg_get_serial_sequence('group_type', 'type_id') AS regclass),
             (SELECT max(type_id) FROM group_type WHERE type_id > 6)
      UNION ALL SELECT 'past_span', CAST(pg_get_serial_sequence('past_span', 'span_id') AS regclass),
             (SELECT max(span_id) FROM past_span)
      UNION ALL SELECT 'crawl', CAST(pg_get_serial_sequence('crawl', 'crawl_id') AS regclass),
             (SELECT max(crawl_id) FROM crawl)
      UNION ALL SELECT 'group_event', CAST(pg_get_serial_sequence('group_event', 'event_id') AS regclass),
             (SELECT max(event_id) FROM group_event)) AS identities
WHERE greatest > coalesce(pg_sequence_last_value(sequence), 0)"
        )
    };
}
const BEHIND_ROWS: &str = behind_rows!("name, greatest");
/// Moves these sequences to the greatest id. Returns each table with that id.
pub(in crate::store) const MOVE_SEQUENCES: &str = behind_rows!("name, setval(sequence, greatest)");

impl Store {
    /// Returns the identity of the storage to which the holder of a lease writes.
    fn storage_identity(&self, lease: &Lease) -> Result<String, StoreError> {
        match &self.engine {
            Engine::Sqlite(file) => file.identity(),
            // Every commit under the lease checks that the storage is still this one.
            Engine::Postgres(_) => Ok(match lease.token() {
                FencingToken::Row(fence) => fence.storage.to_string(),
                FencingToken::Crawl(_) => String::new(),
            }),
        }
    }

    /// Moves each sequence that is behind the ids in its table to the greatest id, and logs it.
    /// Rows that were restored or replicated without their sequences cause this. It cannot happen
    /// in SQLite.
    pub async fn move_ids_past_rows(&self) -> Result<(), StoreError> {
        const ACTION: &str = "compare the id sequences with their tables";
        if let Engine::Sqlite(_) = self.engine {
            return Ok(());
        }
        let behind: Vec<(String, i64)> = self.fetch_all(ACTION, BEHIND_ROWS, &[]).await?;
        if behind.is_empty() {
            return Ok(());
        }
        let mut write = self.write(ACTION, None);
        loop {
            let mut tx = write.begin().await?;
            let moved = lock_and_move_past_rows(&mut tx).await;
            if let Some(done) = write.end(tx, moved).await {
                return done;
            }
        }
    }

    /// Ensures that new ids are greater than all that readers may have seen. The lease of an app
    /// must be held. Writes nothing if the storage has not changed.
    pub(super) async fn continue_ids(&self, lease: &Lease, at: DateTime<Utc>) -> Result<(), StoreError> {
        const ACTION: &str = "record the storage of the database";
        let identity = self.storage_identity(lease)?;
        let stored: Option<(String, i64)> = self.fetch_optional(ACTION, STORED, &[]).await?;
        if matches!(&stored, Some((stored, 1)) if *stored == identity) {
            return Ok(());
        }
        let mut write = self.write(ACTION, Some(lease.token()));
        loop {
            let mut tx = write.begin().await?;
            let recorded = record_storage(&mut tx, &identity, at).await;
            if let Some(done) = write.end(tx, recorded).await {
                return done;
            }
        }
    }
}

async fn record_storage(tx: &mut Tx, identity: &str, at: DateTime<Utc>) -> Result<(), StoreError> {
    let stored: Option<(String, i64)> = tx.fetch_optional(STORED, &[]).await?;
    if tx.execute(RECORD, &values![identity]).await? == 0 {
        return Ok(());
    }
    if stored.is_none() {
        // A new database. A copy has a row.
        return Ok(());
    }
    if tx.is_postgres() {
        move_past_rows(tx).await?;
    } else {
        for table in ["group_event", "crawl"] {
            tx.execute(ADD_SEQUENCE, &values![table]).await?;
        }
    }
    // The time since 1970 is greater than every id assigned before: there is less than one event
    // per microsecond and one crawl per millisecond. Both numbers are exact in JavaScript until the
    // year 2255.
    tx.execute(SKIP_EVENT_IDS, &values![at.timestamp_micros(), EVENTS_LOST]).await?;
    tx.execute(SKIP_CRAWL_IDS, &values![at.timestamp_millis(), CRAWLS_LOST]).await?;
    info!(
        "the database was restored, copied or failed over: ids of events and crawls continue with \
         a gap, so that no id is assigned twice"
    );
    Ok(())
}

async fn lock_and_move_past_rows(tx: &mut Tx) -> Result<(), StoreError> {
    // With the lock, the second of two concurrent processes finds nothing to move. `record_storage`
    // does not need it, because it has locked the row of the table.
    tx.execute("LOCK TABLE storage IN SHARE ROW EXCLUSIVE MODE", &[]).await?;
    move_past_rows(tx).await
}

async fn move_past_rows(tx: &mut Tx) -> Result<(), StoreError> {
    let moved: Vec<(String, i64)> = tx.fetch_all(MOVE_SEQUENCES, &[]).await?;
    for (table, greatest) in moved {
        warn!("the id sequence of the table {table} was behind its rows, and was moved to {greatest}");
    }
    Ok(())
}
