//! When a failed transaction is worth running again.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

/// The retries of one transaction, with exponential back-off.
#[derive(Debug)]
pub(in crate::store) struct TransactionRetry {
    made: u32,
    /// How long after the first failure a retry may still start.
    time: Duration,
    first_failure: Option<Instant>,
}

impl TransactionRetry {
    /// Retries after errors that the server answered. Their pauses add up to six seconds.
    const MAX: u32 = 7;
    const FIRST_PAUSE: Duration = Duration::from_millis(50);
    const MAX_PAUSE: Duration = Duration::from_millis(3_200);

    /// Retries for this long after the first failure: enough for a server's restart or failover, and less than a lease
    /// lasts.
    pub(in crate::store) fn within(time: Duration) -> Self {
        Self { made: 0, time, first_failure: None }
    }

    /// Returns true if the transaction should run again, after a pause that doubles with each retry.
    pub(in crate::store) async fn again(&mut self, error: &sqlx::Error) -> bool {
        let failing_since = *self.first_failure.get_or_insert_with(Instant::now);
        let is_away = matches!(error, sqlx::Error::Io(_));
        if !is_transient(error)
            || (self.made >= Self::MAX && !is_away)
            || failing_since.elapsed() >= self.time
        {
            return false;
        }
        let pause = Self::MAX_PAUSE.min(Self::FIRST_PAUSE * 2u32.pow(self.made.min(Self::MAX)));
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
        // Serialization failure, deadlock, shutdown, crash, start-up, a lock that was not free in time, a session that the
        // server ended while this process was suspended, too many connections, and the connection class (08).
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            let transient = ["40001", "40P01", "57P01", "57P02", "57P03", "55P03", "25P03", "25P04", "53300"];
            transient.contains(&&*code) || code.starts_with("08")
        }),
        _ => false,
    }
}
