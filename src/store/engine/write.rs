//! Transactions that write: retries, fencing, and the handling of a commit whose result was lost.
//!
//! The body of a transaction is a plain function that takes a [`Tx`]. It runs in this loop:
//!
//! ```ignore
//! let mut write = store.write("close a crawl", Some(lease.token()));
//! loop {
//!     let mut tx = write.begin().await?;
//!     let outcome = conclude(&mut tx, &closing).await;
//!     if let Some(done) = write.end(tx, outcome).await { return done; }
//! }
//! ```
//!
//! The body may run more than once, each time in a new transaction. When it runs again, no earlier
//! attempt was committed. The body must not carry state from one attempt to the next.

use std::time::Duration;

use tokio::time::Instant;
use tracing::warn;

use super::database::{Engine, Store};
use super::error::{StoreError, WithAction as _};
use super::fence::Fence;
use super::newest_crawl::NewestCrawl;
use super::postgres::Server;
use super::retry::TransactionRetry;
use super::sqlite::{SqliteFile, WRITER_TIMEOUT, is_busy};
use super::statement::query_as;
use super::tx::{EngineTx, Tx};

const TRANSACTION_NUMBER: &str = "SELECT CAST(pg_current_xact_id() AS TEXT)";
/// Returns `committed`, `aborted`, `in progress`, or NULL for an old transaction.
const TRANSACTION_STATUS: &str = "SELECT pg_xact_status(CAST(CAST($1 AS TEXT) AS xid8))";

/// The pause between two queries of the status of a transaction.
const POLL_INTERVAL: Duration = Duration::from_millis(100);

/// One transaction that writes, with all its attempts.
pub(in crate::store) struct Write<'a> {
    engine: &'a Engine,
    action: &'static str,
    token: Option<FencingToken<'a>>,
    retry: TransactionRetry,
}

/// The fencing token of a lease. It makes a transaction fail if its process has lost the lease.
#[derive(Clone, Copy)]
pub(in crate::store) enum FencingToken<'a> {
    /// On SQLite.
    Crawl(&'a NewestCrawl),
    /// On PostgreSQL.
    Row(&'a Fence),
}

impl Store {
    /// Starts a transaction that writes. `action` names it in errors, as a verb phrase. With a
    /// fencing token, the transaction is committed only while the lease is held.
    pub(in crate::store) fn write<'a>(
        &'a self,
        action: &'static str,
        token: Option<FencingToken<'a>>,
    ) -> Write<'a> {
        let retry = TransactionRetry::within(self.engine.limits().statement);
        Write { engine: &self.engine, action, token, retry }
    }
}

impl Write<'_> {
    /// Begins an attempt.
    pub(in crate::store) async fn begin(&mut self) -> Result<Tx, StoreError> {
        let engine_tx = match self.engine {
            Engine::Sqlite(file) => return self.begin_on_sqlite(file).await,
            Engine::Postgres(server) => loop {
                match server.begin().await {
                    Err(error) if self.retry.pause_before_retry(&error).await => {}
                    begun => break begun.map(EngineTx::Postgres),
                }
            },
        };
        engine_tx.map(|engine_tx| Tx { action: self.action, engine_tx }).with_action(self.action)
    }

    async fn begin_on_sqlite(&self, file: &SqliteFile) -> Result<Tx, StoreError> {
        let deadline = Instant::now() + WRITER_TIMEOUT;
        let mut was_logged = false;
        let begun = loop {
            // IMMEDIATE takes the write lock at once. A deferred transaction that reads first would
            // fail at its first write if another process had written in between.
            match file.writer()?.begin_with("BEGIN IMMEDIATE").await {
                Err(error) if is_busy(&error) && Instant::now() < deadline => {
                    if !was_logged {
                        warn!("waiting for another process that writes to {}: {error}", file.path.display());
                    }
                    was_logged = true;
                }
                begun => break begun,
            }
        };
        // The wait for the connection may have taken minutes.
        file.check_in_place()?;
        let mut tx = begun
            .map(|tx| Tx { action: self.action, engine_tx: EngineTx::Sqlite(tx) })
            .with_action(self.action)?;
        if let Some(FencingToken::Crawl(newest)) = self.token {
            newest.check(&mut tx).await?;
        }
        Ok(tx)
    }

    /// Ends an attempt: commits if the body succeeded, rolls back otherwise. Returns the result of
    /// the transaction, or `None` if the body must run again.
    pub(in crate::store) async fn end<T>(
        &mut self,
        mut tx: Tx,
        body_result: Result<T, StoreError>,
    ) -> Option<Result<T, StoreError>> {
        let value = match body_result {
            Ok(value) => value,
            Err(error) => return self.roll_back(tx, error).await,
        };
        let server = match self.engine {
            Engine::Postgres(server) => server,
            Engine::Sqlite(file) => {
                // A commit to a file that was moved or deleted would be lost.
                if let Err(displaced) = file.check_in_place() {
                    return self.roll_back(tx, displaced).await;
                }
                return Some(tx.commit().await.with_action(self.action).map(|()| value));
            }
        };
        let renewal_sent_at = Instant::now();
        let transaction_number = match self.run_last_statement(&mut tx).await {
            Ok(transaction_number) => transaction_number,
            Err(error) => return self.roll_back(tx, error).await,
        };
        if let Err(error) = tx.commit().await {
            if !self.retry.pause_before_retry(&error).await {
                return Some(Err(error).with_action(self.action));
            }
            // The answer to COMMIT may have been lost after the server committed.
            match was_committed(server, &transaction_number, &mut self.retry).await {
                Some(true) => {}
                Some(false) => return None,
                None => return Some(Err(error).with_action(self.action)),
            }
            // On another storage, the same number may belong to another transaction.
            if let Some(FencingToken::Row(fence)) = self.token
                && let Err(replaced) = fence.require_same_server(server).await
            {
                return Some(Err(replaced));
            }
        }
        if let Some(FencingToken::Row(fence)) = self.token {
            fence.record_renewal(renewal_sent_at);
        }
        Some(Ok(value))
    }

    /// Runs the last statement of a transaction on PostgreSQL. It returns the transaction's number,
    /// and renews the lease if the transaction has a fencing token.
    async fn run_last_statement(&self, tx: &mut Tx) -> Result<String, StoreError> {
        match self.token {
            Some(FencingToken::Row(fence)) => fence.renew_in(tx, self.engine.limits().lease).await,
            _ => tx.fetch_one(TRANSACTION_NUMBER, &[]).await.map(|(number,)| number),
        }
    }

    /// Rolls a failed attempt back. Returns `None` if the body must run again, or the error.
    async fn roll_back<T>(&mut self, tx: Tx, error: StoreError) -> Option<Result<T, StoreError>> {
        // If the rollback fails, the connection is broken, and the pool discards it.
        tx.rollback().await;
        match &error {
            StoreError::Query { source, .. }
                if matches!(self.engine, Engine::Postgres(_))
                    && self.retry.pause_before_retry(source).await =>
            {
                None
            }
            _ => Some(Err(error)),
        }
    }
}

impl Tx {
    async fn commit(self) -> Result<(), sqlx::Error> {
        match self.engine_tx {
            EngineTx::Sqlite(tx) => tx.commit().await,
            EngineTx::Postgres(tx) => tx.commit().await,
        }
    }

    async fn rollback(self) {
        let _ = match self.engine_tx {
            EngineTx::Sqlite(tx) => tx.rollback().await,
            EngineTx::Postgres(tx) => tx.rollback().await,
        };
    }
}

/// Asks the server whether a transaction whose COMMIT failed or got no answer was committed.
/// Returns `None` if the server does not know.
async fn was_committed(
    server: &Server,
    transaction_number: &str,
    retry: &mut TransactionRetry,
) -> Option<bool> {
    // The server ends the session of the broken connection, and so the transaction, within this
    // time.
    let deadline = Instant::now() + server.limits().abandoned_session_limit();
    loop {
        match transaction_status(server, transaction_number).await {
            Ok(status) => match status.as_deref() {
                Some("committed") => return Some(true),
                Some("aborted") => return Some(false),
                Some("in progress") if Instant::now() < deadline => {
                    tokio::time::sleep(POLL_INTERVAL).await;
                }
                _ => return None,
            },
            // 22023: the server has never assigned this number, so the transaction is lost.
            Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("22023") => {
                return Some(false);
            }
            Err(error) if retry.pause_before_retry(&error).await => {}
            Err(_) => return None,
        }
    }
}

async fn transaction_status(
    server: &Server,
    transaction_number: &str,
) -> Result<Option<String>, sqlx::Error> {
    let mut tx = server.begin_read_only().await?;
    let (status,): (Option<String>,) =
        tx.fetch_one(query_as(TRANSACTION_STATUS).bind(transaction_number)).await?;
    tx.commit().await?;
    Ok(status)
}
