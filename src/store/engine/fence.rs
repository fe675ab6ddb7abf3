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

/// Renews the lease. Returns the transaction's number, which tells later whether it was committed, and the storage.
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
const CONFIRM_WITHOUT_STORAGE: &str = confirm!("''");

/// Identifies one acquisition of an app's lease. Each acquisition has a greater number than all before.
///
/// Every transaction of the holder ends by finding the number unchanged. A holder whose lease has expired and was taken by
/// another process is fenced: its next commit fails.
#[derive(Debug)]
pub(in crate::store) struct Fence {
    pub(in crate::store) app: SdkAppId,
    pub(in crate::store) number: i64,
    /// The storage on which the lease was taken. After a failover it is another one.
    pub(in crate::store) storage: PostgresStorage,
    /// When the last successful renewal was sent, by this process' monotonic clock.
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

    /// Returns when the lease was renewed last.
    pub(in crate::store) fn renewed(&self) -> Instant {
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Records that a renewal that was sent at this time has succeeded.
    pub(in crate::store) fn set_renewed(&self, at: Instant) {
        let mut renewed = self.renewed.lock().unwrap_or_else(PoisonError::into_inner);
        *renewed = at.max(*renewed);
    }

    /// Fails if the server writes to another storage than the one on which the lease was taken.
    pub(super) async fn require_same_server(&self, server: &Server) -> Result<(), StoreError> {
        if !self.storage.is_known() || PostgresStorage::of(server).await? == self.storage {
            return Ok(());
        }
        Err(StoreError::ServerReplaced { app: self.app })
    }

    /// Renews the lease as the last statement of a transaction and returns the transaction's number. Fails if the lease was
    /// lost, or if the server was replaced by one that may lack earlier transactions of the holder: then the transaction must
    /// not be committed. It is the last statement because until the commit it blocks the renewals. The lease counts as
    /// renewed only after the commit.
    pub(super) async fn confirm(&self, tx: &mut Tx, time_to_live: Duration) -> Result<String, StoreError> {
        let lasting = i64::try_from(time_to_live.as_millis()).unwrap_or(i64::MAX);
        let statement = if self.storage.is_known() { CONFIRM } else { CONFIRM_WITHOUT_STORAGE };
        let row: Option<(String, String)> =
            tx.fetch_optional(statement, &values![self.app.get(), self.number, lasting]).await?;
        let Some((number, storage)) = row else { return Err(StoreError::LeaseLost { app: self.app }) };
        if storage != self.storage.as_str() {
            return Err(StoreError::ServerReplaced { app: self.app });
        }
        Ok(number)
    }
}
