//! The fencing token of a lease in PostgreSQL.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::error::StoreError;
use super::postgres::Server;
use super::statement::values;
use super::storage::{PostgresStorage, storage_identity};
use super::tx::Tx;
use crate::model::SdkAppId;

/// Builds the statement that renews the lease. It returns the transaction's number, which
/// identifies the transaction after a lost commit, and the storage.
macro_rules! confirm {
    ($storage:expr) => {
        concat!(
            "
UPDATE lease SET expires_at = $3 + CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS BIGINT)
WHERE sdk_app_id = $1 AND fence = $2 AND holder IS NOT NULL
RETURNING CAST(pg_current_xact_id() AS TEXT), ",
            $storage
        )
    };
}
const CONFIRM: &str = confirm!(storage_identity!());
/// Renews the lease on a server that does not reveal the identity of its storage.
const CONFIRM_WITHOUT_STORAGE: &str = confirm!("''");

/// The fencing token of one acquisition of an app's lease. Each acquisition has a greater number
/// than all earlier ones.
///
/// Every transaction of the holder ends with a check that the number is unchanged. A holder whose
/// lease has expired and was taken by another process is fenced: its next commit fails.
#[derive(Debug)]
pub(in crate::store) struct Fence {
    pub(in crate::store) app: SdkAppId,
    pub(in crate::store) number: i64,
    /// The storage on which the lease was taken. A failover changes the storage.
    pub(in crate::store) storage: PostgresStorage,
    /// When the last successful renewal was sent, by this process's monotonic clock.
    renewed: Mutex<Instant>,
}

impl Fence {
    pub(in crate::store) fn new(
        app: SdkAppId,
        number: i64,
        storage: PostgresStorage,
        renewed: Instant,
    ) -> Self {
        Self { app, number, storage, renewed: Mutex::new(renewed) }
    }

    /// Returns when the last successful renewal was sent.
    pub(in crate::store) fn renewed(&self) -> Instant {
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a renewal sent at this time has succeeded.
    pub(in crate::store) fn set_renewed(&self, at: Instant) {
        let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        *renewed = at.max(*renewed);
    }

    /// Fails if the server's storage is not the one on which the lease was taken.
    pub(super) async fn require_same_server(&self, server: &Server) -> Result<(), StoreError> {
        if !self.storage.is_known() || PostgresStorage::of(server).await? == self.storage {
            return Ok(());
        }
        Err(StoreError::ServerReplaced { app: self.app })
    }

    /// Renews the lease and returns the transaction's number. Fails if the lease was lost, or if
    /// the storage has changed and may lack earlier transactions of the holder. After a failure the
    /// transaction must not be committed.
    ///
    /// This must be the last statement of the transaction, because it blocks other renewals until
    /// the commit. The lease counts as renewed only after the commit.
    pub(super) async fn confirm(&self, tx: &mut Tx, time_to_live: Duration) -> Result<String, StoreError> {
        let millis = i64::try_from(time_to_live.as_millis()).unwrap_or(i64::MAX);
        let statement = if self.storage.is_known() { CONFIRM } else { CONFIRM_WITHOUT_STORAGE };
        let row: Option<(String, String)> =
            tx.fetch_optional(statement, &values![self.app.get(), self.number, millis]).await?;
        let Some((transaction, storage)) = row else { return Err(StoreError::LeaseLost { app: self.app }) };
        if storage != self.storage.as_str() {
            return Err(StoreError::ServerReplaced { app: self.app });
        }
        Ok(transaction)
    }
}
