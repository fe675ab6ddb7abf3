//! When a failed transaction is worth running again.

use std::time::Duration;

use tracing::warn;

/// The retries of one transaction, with exponential back-off.
#[derive(Debug, Default)]
pub(in crate::store) struct TransactionRetry {
    made: u32,
}

impl TransactionRetry {
    /// Retries of one transaction. Their pauses add up to six seconds: enough for a server's restart or failover, and less
    /// than a lease lasts.
    const MAX: u32 = 7;
    const FIRST_PAUSE: Duration = Duration::from_millis(50);

    /// Returns true if the transaction should run again, after a pause that doubles with each retry.
    pub(in crate::store) async fn again(&mut self, error: &sqlx::Error) -> bool {
        if self.made == Self::MAX || !is_transient(error) {
            return false;
        }
        let pause = Self::FIRST_PAUSE * 2u32.pow(self.made);
        self.made += 1;
        warn!(%error, pause = %humantime::format_duration(pause), "retrying a database transaction");
        tokio::time::sleep(pause).await;
        true
    }
}

/// Returns true if the same transaction may succeed when it runs again within seconds.
fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        // Serialization failure, deadlock, shutdown, crash, start-up, and the connection class (08).
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            matches!(&*code, "40001" | "40P01" | "57P01" | "57P02" | "57P03") || code.starts_with("08")
        }),
        _ => false,
    }
}
