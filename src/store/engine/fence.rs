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

/// Builds the statement that renews the lease. It returns the transaction's number and the storage.
/// The number identifies the transaction if the result of its commit is lost.
macro_rules! renew_lease {
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
const RENEW: &str = renew_lease!(storage_identity!());
/// Renews the lease on a server that does not reveal the identity of its storage.
const RENEW_WITHOUT_STORAGE: &str = renew_lease!("''");

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
    last_renewal: Mutex<Instant>,
}

impl Fence {
    pub(in crate::store) fn new(
        app: SdkAppId,
        number: i64,
        storage: PostgresStorage,
        last_renewal: Instant,
    ) -> Self {
        Self { app, number, storage, last_renewal: Mutex::new(last_renewal) }
    }

    /// Returns when the last successful renewal was sent.
    pub(in crate::store) fn last_renewal(&self) -> Instant {
        *self.last_renewal.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that the renewal sent at `sent_at` has succeeded.
    pub(in crate::store) fn record_renewal(&self, sent_at: Instant) {
        let mut last_renewal = self.last_renewal.lock().unwrap_or_else(PoisonError::into_inner);
        *last_renewal = sent_at.max(*last_renewal);
    }

    /// Fails if the server's storage is not the one on which the lease was taken.
    pub(super) async fn require_same_server(&self, server: &Server) -> Result<(), StoreError> {
        if !self.storage.is_known() || PostgresStorage::read_from(server).await? == self.storage {
            return Ok(());
        }
        Err(StoreError::ServerReplaced { app: self.app })
    }

    /// Renews the lease within a transaction, and returns the transaction's number. Fails if the
    /// lease was lost. Also fails if the storage has changed, because it may lack earlier
    /// transactions of the holder. After a failure the transaction must not be committed.
    ///
    /// This must be the last statement of the transaction, because it blocks other renewals until
    /// the commit. The lease counts as renewed only after the commit.
    pub(super) async fn renew_in(&self, tx: &mut Tx, time_to_live: Duration) -> Result<String, StoreError> {
        let time_to_live_millis = i64::try_from(time_to_live.as_millis()).unwrap_or(i64::MAX);
        let statement = if self.storage.is_known() { RENEW } else { RENEW_WITHOUT_STORAGE };
        let row: Option<(String, String)> =
            tx.fetch_optional(statement, &values![self.app.get(), self.number, time_to_live_millis]).await?;
        let Some((transaction_number, storage)) = row else {
            return Err(StoreError::LeaseLost { app: self.app });
        };
        if storage != self.storage.as_str() {
            return Err(StoreError::ServerReplaced { app: self.app });
        }
        Ok(transaction_number)
    }
}
