//! Copies a database into an unfinished file, and sets the kind of the copy.

use std::path::Path;

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};

use super::part::UnfinishedFile;
use crate::store::engine::{SqliteFile, StoreError, WithAction as _, query};

const COPY: &str = "VACUUM INTO $1";
/// A copy is in another storage, so ids assigned in it continue with a gap.
const FORGET_STORAGE: &str = "
INSERT INTO storage (only_row, identity) VALUES (1, '')
ON CONFLICT (only_row) DO UPDATE SET identity = excluded.identity";

/// The kind of a copy, stored in the header of the file. Only a file of the
/// same kind is ever replaced by a copy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum CopyKind {
    /// No copy, but a database that the program uses.
    Database,
    Published,
    Backup,
}

impl CopyKind {
    /// Returns SQLite's `application_id` for this kind.
    fn number(self) -> i32 {
        match self {
            Self::Database => 0,
            Self::Published => 0x5447_5350,
            Self::Backup => 0x5447_5342,
        }
    }

    /// Returns true if `header`, the first 100 bytes of a file, is that of an SQLite database of
    /// this kind.
    pub(super) fn is_in(self, header: &[u8]) -> bool {
        header.starts_with(SQLITE_HEADER) && header.get(68..72) == Some(&self.number().to_be_bytes()[..])
    }
}

const SQLITE_HEADER: &[u8] = b"SQLite format 3\0";

/// Writes a snapshot of the database into an unfinished file. Reads through a separate connection,
/// so that no transaction waits for it.
pub(super) async fn copy_into(
    part: &UnfinishedFile,
    database: &SqliteFile,
    action: &'static str,
) -> Result<(), StoreError> {
    let path = part.path().to_str().ok_or(sqlx::Error::Io(std::io::ErrorKind::InvalidFilename.into()));
    let path = path.with_action(action)?.to_owned();
    // Copying a large database would be logged as slow.
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
    let number = AssertSqlSafe(format!("PRAGMA application_id = {}", kind.number()));
    query(number).execute(&mut *copy).await.with_action(action)?;
    query(FORGET_STORAGE).execute(copy).await.with_action(action)?;
    Ok(())
}
