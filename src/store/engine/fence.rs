//! The fencing token of a lease in PostgreSQL.

use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

use super::error::StoreError;
use super::statement::values;
use super::tx::Tx;
use crate::model::SdkAppId;

/// How long a lease outlives its last renewal.
pub(in crate::store) const TIME_TO_LIVE: Duration = Duration::from_secs(30);

/// Renews the lease and returns the transaction's number, which tells later whether it was committed.
const CONFIRM: &str = "
UPDATE lease SET expires_at = $3 + CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS BIGINT)
WHERE sdk_app_id = $1 AND fence = $2 AND holder IS NOT NULL
RETURNING CAST(pg_current_xact_id() AS TEXT)";

/// Identifies one acquisition of an app's lease. Each acquisition has a greater number than all before.
///
/// Every transaction of the holder ends by finding the number unchanged. A holder whose lease has expired and was taken by
/// another process is fenced: its next commit fails.
#[derive(Debug)]
pub(in crate::store) struct Fence {
    pub(in crate::store) app: SdkAppId,
    pub(in crate::store) number: i64,
    /// When the lease was renewed last, by this process' monotonic clock.
    renewed: Mutex<Instant>,
}

impl Fence {
    pub(in crate::store) fn new(app: SdkAppId, number: i64, renewed: Instant) -> Self {
        Self { app, number, renewed: Mutex::new(renewed) }
    }

    pub(in crate::store) fn since_renewal(&self) -> Duration {
        self.renewed.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    pub(in crate::store) fn set_renewed(&self, at: Instant) {
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = at;
    }

    /// Renews the lease as the last statement of a transaction and returns the transaction's number. Fails if the lease was
    /// lost: then the transaction must not be committed. It is the last statement because until the commit it blocks other
    /// processes from looking at the lease.
    pub(super) async fn confirm(&self, tx: &mut Tx) -> Result<String, StoreError> {
        let asked = Instant::now();
        let lasting = i64::try_from(TIME_TO_LIVE.as_millis()).unwrap_or(i64::MAX);
        let row: Option<(String,)> =
            tx.fetch_optional(CONFIRM, &values![self.app.get(), self.number, lasting]).await?;
        let Some((number,)) = row else { return Err(StoreError::LeaseLost { app: self.app }) };
        self.set_renewed(asked);
        Ok(number)
    }
}
