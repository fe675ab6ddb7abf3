//! Copies a database into an unfinished file, and sets the kind of the copy.

use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};

use super::unfinished::UnfinishedFile;
use crate::store::engine::{SqliteFile, StoreError, WithAction as _, query};

const COPY: &str = "VACUUM INTO $1";
/// Clears the recorded storage, so that the ids assigned in a copy continue with a gap. See
/// `write/ids.rs`.
const CLEAR_STORAGE: &str = "
INSERT INTO storage (only_row, identity) VALUES (1, '')
ON CONFLICT (only_row) DO UPDATE SET identity = excluded.identity";

/// The kind of a copy, stored in the header of the file. A copy replaces only a file of the same
/// kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CopyKind {
    /// Not a copy, but a database that the program uses.
    Database,
    Published,
    Backup,
}

impl CopyKind {
    /// Returns SQLite's `application_id` for this kind.
    fn application_id(self) -> i32 {
        match self {
            Self::Database => 0,
            // "TGSP" and "TGSB" in ASCII.
            Self::Published => 0x5447_5350,
            Self::Backup => 0x5447_5342,
        }
    }

    /// Returns true if `header` is the header of an SQLite database of this kind. `header` contains
    /// the first 100 bytes of a file.
    pub(super) fn matches_header(self, header: &[u8]) -> bool {
        header.starts_with(SQLITE_HEADER)
            // The `application_id` is at offset 68.
            && header.get(68..72) == Some(&self.application_id().to_be_bytes()[..])
    }
}

const SQLITE_HEADER: &[u8] = b"SQLite format 3\0";

/// Writes a snapshot of the database into an unfinished file. Uses a separate connection, so that
/// no other transaction waits for the copy.
pub(super) async fn copy_into(
    unfinished: &UnfinishedFile,
    database: &SqliteFile,
    action: &'static str,
) -> Result<(), StoreError> {
    let path = unfinished.path().to_str().ok_or(sqlx::Error::Io(std::io::ErrorKind::InvalidFilename.into()));
    let path = path.with_action(action)?.to_owned();
    // The driver would log the copy of a large database as a slow statement.
    let options = (*database.readers()?.connect_options()).clone().disable_statement_logging();
    let mut reader: SqliteConnection = options.connect().await.with_action(action)?;
    query(COPY).bind(path).execute(&mut reader).await.with_action(action)?;
    reader.close().await.with_action(action)
}

/// Opens a copy without WAL mode, so that it needs no side files when it is complete.
pub(super) async fn open(path: &Path, action: &'static str) -> Result<SqliteConnection, StoreError> {
    let options = SqliteConnectOptions::new()
        .filename(path)
        .create_if_missing(false)
        .journal_mode(SqliteJournalMode::Delete)
        .synchronous(SqliteSynchronous::Full)
        .pragma("trusted_schema", "OFF")
        .disable_statement_logging();
    options.connect().await.with_action(action)
}

/// Sets the kind of a copy, and clears its recorded storage.
pub(super) async fn set_kind(
    copy: &mut SqliteConnection,
    kind: CopyKind,
    action: &'static str,
) -> Result<(), StoreError> {
    let set_application_id = AssertSqlSafe(format!("PRAGMA application_id = {}", kind.application_id()));
    query(set_application_id).execute(&mut *copy).await.with_action(action)?;
    query(CLEAR_STORAGE).execute(copy).await.with_action(action)?;
    Ok(())
}
