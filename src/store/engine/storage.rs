//! Identifies the storage to which a PostgreSQL server writes.
//!
//! The storage changes with a failover to a standby, a point-in-time recovery, and a restore into
//! another cluster or database. The new storage may lack transactions that were committed before.

use std::fmt;

use super::error::{StoreError, WithAction as _};
use super::postgres::Server;
use super::statement::query_as;

/// Returns the cluster, the timeline of its write-ahead log, and the database. A promoted standby
/// begins a new timeline.
macro_rules! storage_identity {
    () => {
        "(SELECT CAST(system_identifier AS TEXT) FROM pg_control_system())
            || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8)
            || '/' || (SELECT CAST(oid AS TEXT) FROM pg_database WHERE datname = current_database())"
    };
}
pub(super) use storage_identity;

const IDENTITY: &str = concat!("SELECT ", storage_identity!());

/// The identity of a storage. Empty if the server does not reveal it, because some managed services
/// forbid these functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct PostgresStorage(String);

impl PostgresStorage {
    pub(in crate::store) async fn read_from(server: &Server) -> Result<Self, StoreError> {
        match read_identity(server).await {
            Ok(identity) => Ok(Self(identity)),
            // Classes of SQLSTATE: a function is missing or forbidden (42), not supported (0A), or
            // unavailable on a standby (55).
            Err(sqlx::Error::Database(error))
                if error
                    .code()
                    .is_some_and(|code| ["42", "0A", "55"].iter().any(|class| code.starts_with(class))) =>
            {
                Ok(Self(String::new()))
            }
            Err(error) => Err(error).with_action("read the identity of the server"),
        }
    }

    pub(super) fn is_known(&self) -> bool {
        !self.0.is_empty()
    }

    pub(super) fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for PostgresStorage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

async fn read_identity(server: &Server) -> Result<String, sqlx::Error> {
    let mut tx = server.begin_read_only().await?;
    let (identity,): (String,) = tx.fetch_one(query_as(IDENTITY)).await?;
    tx.commit().await?;
    Ok(identity)
}
