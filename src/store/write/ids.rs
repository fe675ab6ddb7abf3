//! Keeps the ids of events and crawls growing when the database is restored, copied or failed over.
//!
//! Readers follow the events of an app with `event_id > N`. A restored database lacks its newest
//! rows, and would assign their ids again. Then readers would miss the new events. So the database
//! records the storage in which ids were assigned last (`Store::storage_identity`): an SQLite file,
//! or the data of one PostgreSQL cluster. If the storage has changed, ids continue above all ids
//! that may have been assigned before.

use chrono::{DateTime, Utc};
use tracing::{info, warn};

use crate::store::engine::{Engine, FencingToken, Statement, Store, StoreError, Tx, values};
use crate::store::lease::Lease;

/// Returns the recorded identity, and 1 if this program wrote the row, or 0 if the row was restored
/// from a dump. A restored row has another `xmin`.
const RECORDED_STORAGE: Statement = Statement::PerEngine {
    sqlite: "SELECT identity, 1 FROM storage",
    postgres: "SELECT identity, CAST(CASE WHEN CAST(xmin AS TEXT) = written_by THEN 1 ELSE 0 END AS BIGINT) FROM storage",
};
/// Records the storage. On PostgreSQL, changes nothing if another process has recorded the same
/// storage meanwhile.
const RECORD_STORAGE: Statement = Statement::PerEngine {
    sqlite: "
INSERT INTO storage (only_row, identity) VALUES (1, ?1)
ON CONFLICT (only_row) DO UPDATE SET identity = excluded.identity",
    postgres: "
INSERT INTO storage AS s (only_row, identity, written_by)
VALUES (1, $1, CAST(CAST(pg_current_xact_id() AS xid) AS TEXT))
ON CONFLICT (only_row) DO UPDATE SET identity = excluded.identity, written_by = excluded.written_by
WHERE s.identity <> excluded.identity OR CAST(s.xmin AS TEXT) <> s.written_by",
};

/// The assumed maximum number of event ids that were assigned and lost with their rows. It matters
/// only if the clock is slow: otherwise the ids continue above the clock.
const MAX_LOST_EVENTS: i64 = 1_000_000;
/// As [`MAX_LOST_EVENTS`], for crawl ids.
const MAX_LOST_CRAWLS: i64 = 10_000;

/// Moves the sequence of an id column to at least `$1`, and by at least `$2`.
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

/// PostgreSQL only: builds a query for the sequences that are behind the ids in their tables.
/// `greatest` is the greatest id in the table. The sequence has not assigned
/// the ids of the built-in group types, which are up to 6.
macro_rules! sequences_behind_rows {
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
const SEQUENCES_BEHIND_ROWS: &str = sequences_behind_rows!("name, greatest");
/// Moves the sequences that are behind to the greatest id. Returns each table with that id.
pub(in crate::store) const MOVE_SEQUENCES: &str = sequences_behind_rows!("name, setval(sequence, greatest)");

impl Store {
    /// Returns the identity of the storage to which the holder of a lease writes.
    fn storage_identity(&self, lease: &Lease) -> Result<String, StoreError> {
        match &self.engine {
            Engine::Sqlite(file) => file.identity(),
            // Every commit under the lease checks that the storage is still this one.
            Engine::Postgres(_) => Ok(match lease.token() {
                FencingToken::Row(fence) => fence.storage.to_string(),
                // A lease on PostgreSQL never has this token.
                FencingToken::Crawl(_) => String::new(),
            }),
        }
    }

    /// Moves each id sequence that is behind the ids in its table to the greatest id, and logs the
    /// move. A sequence is behind if rows were restored or replicated without it. That cannot
    /// happen in SQLite.
    pub async fn move_ids_past_rows(&self) -> Result<(), StoreError> {
        const ACTION: &str = "compare the id sequences with their tables";
        if let Engine::Sqlite(_) = self.engine {
            return Ok(());
        }
        let behind: Vec<(String, i64)> = self.fetch_all(ACTION, SEQUENCES_BEHIND_ROWS, &[]).await?;
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

    /// Ensures that new ids are greater than all ids that readers may have seen. Writes nothing if
    /// the storage has not changed. Works under the lease of any app.
    pub(super) async fn continue_ids(&self, lease: &Lease, at: DateTime<Utc>) -> Result<(), StoreError> {
        const ACTION: &str = "record the storage of the database";
        let identity = self.storage_identity(lease)?;
        let recorded: Option<(String, i64)> = self.fetch_optional(ACTION, RECORDED_STORAGE, &[]).await?;
        let is_same_storage = matches!(&recorded, Some((recorded, 1)) if *recorded == identity);
        if is_same_storage {
            return Ok(());
        }
        let mut write = self.write(ACTION, Some(lease.token()));
        loop {
            let mut tx = write.begin().await?;
            let continued = record_storage_and_skip_ids(&mut tx, &identity, at).await;
            if let Some(done) = write.end(tx, continued).await {
                return done;
            }
        }
    }
}

async fn record_storage_and_skip_ids(
    tx: &mut Tx,
    identity: &str,
    at: DateTime<Utc>,
) -> Result<(), StoreError> {
    let recorded: Option<(String, i64)> = tx.fetch_optional(RECORDED_STORAGE, &[]).await?;
    if tx.execute(RECORD_STORAGE, &values![identity]).await? == 0 {
        // Another process was first.
        return Ok(());
    }
    if recorded.is_none() {
        // The database is new. A copied database has a row with an empty identity.
        return Ok(());
    }
    if tx.is_postgres() {
        move_past_rows(tx).await?;
    } else {
        for table in ["group_event", "crawl"] {
            tx.execute(ADD_SEQUENCE, &values![table]).await?;
        }
    }
    // The microseconds since 1970 exceed every event id assigned before, because there is less than
    // one event per microsecond. The same holds for crawls and milliseconds. JavaScript represents
    // both numbers exactly until the year 2255.
    tx.execute(SKIP_EVENT_IDS, &values![at.timestamp_micros(), MAX_LOST_EVENTS]).await?;
    tx.execute(SKIP_CRAWL_IDS, &values![at.timestamp_millis(), MAX_LOST_CRAWLS]).await?;
    info!(
        "the database was restored, copied or failed over: ids of events and crawls continue with \
         a gap, so that no id is assigned twice"
    );
    Ok(())
}

async fn lock_and_move_past_rows(tx: &mut Tx) -> Result<(), StoreError> {
    // With the lock, the second of two concurrent processes finds nothing to move.
    // `record_storage_and_skip_ids` needs no lock, because it has locked the row of the table.
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
