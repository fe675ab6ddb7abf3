//! Identifies the storage that a PostgreSQL server writes to.
//!
//! The storage is another one after a failover to a replica, a point-in-time recovery, and a restore into another cluster or
//! database. It then may lack transactions that were committed before.

use std::fmt;

use super::error::{Attempted as _, StoreError};
use super::postgres::Server;
use super::statement::query_as;

/// The cluster, the timeline of its write-ahead log, and the database. A promoted replica begins a new timeline.
macro_rules! storage_identity {
    () => {
        "(SELECT CAST(system_identifier AS TEXT) FROM pg_control_system())
            || '/' || left(pg_walfile_name(pg_current_wal_lsn()), 8)
            || '/' || (SELECT CAST(oid AS TEXT) FROM pg_database WHERE datname = current_database())"
    };
}
pub(super) use storage_identity;

const IDENTITY: &str = concat!("SELECT ", storage_identity!());

/// An identity, or an empty text where the server does not tell it: some managed services forbid these functions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct PostgresStorage(String);

impl PostgresStorage {
    pub(in crate::store) async fn of(server: &Server) -> Result<Self, StoreError> {
        match read(server).await {
            Ok(identity) => Ok(Self(identity)),
            // No such function, no right to call it, or not supported.
            Err(sqlx::Error::Database(error))
                if error
                    .code()
                    .is_some_and(|code| ["42", "0A", "55"].iter().any(|c| code.starts_with(c))) =>
            {
                Ok(Self(String::new()))
            }
            Err(error) => Err(error).attempted("read the identity of the server"),
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

async fn read(server: &Server) -> Result<String, sqlx::Error> {
    let mut tx = server.begin_to_read().await?;
    let (identity,): (String,) = tx.fetch_one(query_as(IDENTITY)).await?;
    tx.commit().await?;
    Ok(identity)
}
