//! What can go wrong with the database, and whether waiting may mend it.

use std::path::PathBuf;

use crate::model::CrawlId;

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open the database {at}")]
    Open { at: String, source: sqlx::Error },
    #[error("there is no database {at} yet; `tim-group-sync crawl` and `tim-group-sync run` make one")]
    Absent { at: String },
    #[error("cannot create the folder {} for the database", .path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("cannot bring the database's tables up to date")]
    Migrate { source: Box<sqlx::migrate::MigrateError> },
    #[error(
        "the database was set up by a newer version of this program (it has migration {version}); run that version, or restore a backup from before"
    )]
    Newer { version: i64 },
    #[error(
        "the database has no tables of this program yet; run `tim-group-sync migrate`, or set database.auto_migrate = true"
    )]
    NotMigrated,
    #[error("cannot {doing}")]
    Query { doing: &'static str, source: sqlx::Error },
    #[error("crawl {crawl} was closed by another process meanwhile; nothing of its end was written")]
    Superseded { crawl: CrawlId },
    #[error("cannot use the lock file {}", .path.display())]
    Lock { path: PathBuf, source: std::io::Error },
}

impl StoreError {
    /// Whether the database is out of reach or busy, rather than wrong: the same may work later.
    #[must_use]
    pub fn is_passing(&self) -> bool {
        match self {
            Self::Open { source, .. } | Self::Query { source, .. } => is_passing(source),
            Self::Migrate { source } => {
                matches!(source.as_ref(), sqlx::migrate::MigrateError::Execute(error) if is_passing(error))
            }
            _ => false,
        }
    }
}

fn is_passing(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed | sqlx::Error::Tls(_) => {
            true
        }
        // SQLite: busy (5), locked (6) and their extended codes. PostgreSQL: connection, resources, operator, retry.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| match code.parse::<u32>() {
            Ok(sqlite) if code.len() < 5 => matches!(sqlite & 0xff, 5 | 6),
            _ => ["08", "53", "57", "40"].iter().any(|class| code.starts_with(class)),
        }),
        _ => false,
    }
}

/// Adds what was attempted to a driver's error.
pub(super) trait Attempted<T> {
    fn attempted(self, doing: &'static str) -> Result<T, StoreError>;
}

impl<T> Attempted<T> for Result<T, sqlx::Error> {
    fn attempted(self, doing: &'static str) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Query { doing, source })
    }
}
