//! Decides whether a failed transaction runs again.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

/// The retries of one transaction, with exponential back-off.
#[derive(Debug)]
pub(in crate::store) struct TransactionRetry {
    retries_made: u32,
    /// How long after the first failure a retry may start.
    retry_for: Duration,
    first_failure: Option<Instant>,
}

impl TransactionRetry {
    /// The maximum number of retries after an error that the server reported. Their pauses add up
    /// to about six seconds. Retries after a connection error are limited only by `retry_for`.
    const MAX_RETRIES: u32 = 7;
    /// The pause before the first retry. It doubles with each further retry.
    const FIRST_PAUSE: Duration = Duration::from_millis(50);
    /// The longest pause before a retry.
    const MAX_PAUSE: Duration = Duration::from_millis(3_200);

    /// Creates the retries of a transaction. A retry may start within `retry_for` after the first
    /// failure. Callers choose a `retry_for` that is longer than a failover and shorter than a
    /// lease.
    pub(in crate::store) fn within(retry_for: Duration) -> Self {
        Self { retries_made: 0, retry_for, first_failure: None }
    }

    /// Returns true after a pause if the transaction should run again, and false at once if not.
    pub(in crate::store) async fn pause_before_retry(&mut self, error: &sqlx::Error) -> bool {
        let failing_since = *self.first_failure.get_or_insert_with(Instant::now);
        let is_connection_error = matches!(error, sqlx::Error::Io(_));
        let has_retries_left = is_connection_error || self.retries_made < Self::MAX_RETRIES;
        if !is_transient(error) || !has_retries_left || failing_since.elapsed() >= self.retry_for {
            return false;
        }
        let pause =
            Self::MAX_PAUSE.min(Self::FIRST_PAUSE * 2u32.pow(self.retries_made.min(Self::MAX_RETRIES)));
        self.retries_made += 1;
        warn!(%error, pause = %humantime::format_duration(pause), "retrying a database transaction");
        tokio::time::sleep(pause).await;
        true
    }
}

/// Returns true if the same transaction may succeed within seconds.
fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) => true,
        // Serialization failure, deadlock, shutdown, crash, start-up, lock timeout,
        // idle-in-transaction timeout and transaction timeout (after this process was suspended),
        // too many connections. Class 08: connection errors.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            let transient = ["40001", "40P01", "57P01", "57P02", "57P03", "55P03", "25P03", "25P04", "53300"];
            transient.contains(&&*code) || code.starts_with("08")
        }),
        _ => false,
    }
}
