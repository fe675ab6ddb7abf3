//! A pool of connections to a PostgreSQL server, and transactions on them. Every wait has a limit.
//!
//! The pool of sqlx pings a returned connection without a limit, so a connection that no longer
//! answers would occupy its place in the pool forever. In this pool a connection becomes idle only
//! after the server has answered COMMIT or ROLLBACK. In all other cases its socket is closed: after
//! a connection error, after an exceeded limit, and after a cancelled statement.

use std::io;
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::stream::{BoxStream, StreamExt as _, unfold};
use sqlx::postgres::{PgArguments, PgConnection, PgRow, Postgres};
use sqlx::query::{Query, QueryAs};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, FromRow};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, sleep, timeout};

use super::connect::PostgresDatabase;
use super::limits::{Limits, is_timeout, millis, no_answer_error, within};

/// How long a connection may be idle before it is closed.
const IDLE_TIMEOUT: Duration = Duration::from_mins(5);
/// A connection older than this is closed instead of becoming idle, so that a change of the
/// server's address takes effect.
const MAX_LIFETIME: Duration = Duration::from_mins(30);
/// The limit for notifying the server that a connection closes.
const CLOSE_TIMEOUT: Duration = Duration::from_millis(500);
/// How often expired idle connections are closed.
const REAP_INTERVAL: Duration = Duration::from_mins(1);

/// A pool of connections. Clones share them.
#[derive(Clone)]
pub(super) struct Connections {
    shared: Arc<Shared>,
}

/// The state that all clones of a pool share.
struct Shared {
    database: Arc<PostgresDatabase>,
    limits: Limits,
    /// How long a transaction waits for a free slot.
    queue_timeout: Duration,
    /// One permit for each connection that may be in use at the same time.
    slots: Arc<Semaphore>,
    /// A stack: the connection that was used last is used next.
    idle: Mutex<Vec<IdleConnection>>,
}

struct IdleConnection {
    connection: PgConnection,
    opened_at: Instant,
    idle_since: Instant,
}

/// A connection in use. When dropped, its socket is closed.
struct UsedConnection {
    connection: PgConnection,
    opened_at: Instant,
    shared: Arc<Shared>,
    _slot: OwnedSemaphorePermit,
}

impl Connections {
    /// Creates a pool of at most `size` connections, which are opened on demand. A transaction
    /// waits for a free connection for at most `queue_timeout`.
    pub(super) fn new(database: &Arc<PostgresDatabase>, size: usize, queue_timeout: Duration) -> Self {
        let shared = Arc::new(Shared {
            database: Arc::clone(database),
            limits: database.limits,
            queue_timeout,
            slots: Arc::new(Semaphore::new(size)),
            idle: Mutex::default(),
        });
        tokio::spawn(reap(Arc::downgrade(&shared)));
        Self { shared }
    }

    /// Adds an open connection to the idle ones.
    pub(super) fn add_idle(&self, connection: PgConnection) {
        let now = Instant::now();
        self.shared.lock_idle().push(IdleConnection { connection, opened_at: now, idle_since: now });
    }

    /// Begins a transaction with this BEGIN statement. Replaces an idle connection that does not
    /// answer with a new one.
    pub(super) async fn begin(&self, begin_statement: &Arc<str>) -> Result<PgTransaction, sqlx::Error> {
        let shared = &self.shared;
        let slot = match timeout(shared.queue_timeout, Arc::clone(&shared.slots).acquire_owned()).await {
            Ok(Ok(slot)) => slot,
            Ok(Err(_closed)) => return Err(sqlx::Error::PoolClosed),
            Err(_) => return Err(sqlx::Error::PoolTimedOut),
        };
        while let Some(IdleConnection { mut connection, opened_at, .. }) = shared.take_idle() {
            let begun = begin_on(&mut connection, begin_statement, shared.limits.round_trip).await;
            match begun {
                Ok(()) => return Ok(shared.transaction(connection, opened_at, slot)),
                // The other idle connections have probably failed as well.
                Err(error) if is_timeout(&error) => shared.lock_idle().clear(),
                Err(_) => {}
            }
        }
        let mut connection = shared.database.open_connection().await?;
        // Behind a pooler, BEGIN on a new connection may wait until a server connection is free.
        begin_on(&mut connection, begin_statement, shared.limits.statement).await?;
        Ok(shared.transaction(connection, Instant::now(), slot))
    }

    /// Closes the idle connections.
    pub(super) async fn close_idle(&self) {
        let idle = std::mem::take(&mut *self.shared.lock_idle());
        join_all(idle.into_iter().map(|idle| close(idle.connection))).await;
    }

    /// Closes the idle connections now, and each connection in use when its transaction ends. Does
    /// not wait for the connections in use.
    pub(super) async fn close(&self) {
        self.shared.slots.close();
        self.close_idle().await;
    }
}

impl Shared {
    fn lock_idle(&self) -> std::sync::MutexGuard<'_, Vec<IdleConnection>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn take_idle(&self) -> Option<IdleConnection> {
        self.lock_idle().pop()
    }

    fn transaction(
        self: &Arc<Self>,
        connection: PgConnection,
        opened_at: Instant,
        slot: OwnedSemaphorePermit,
    ) -> PgTransaction {
        let used = UsedConnection { connection, opened_at, shared: Arc::clone(self), _slot: slot };
        PgTransaction { used, limits: self.limits, expected_rows: 0, is_reusable: true }
    }
}

impl UsedConnection {
    /// Returns the connection to the pool, or closes it.
    async fn return_to_pool(self) {
        let Self { connection, opened_at, shared, _slot } = self;
        if shared.slots.is_closed() || opened_at.elapsed() > MAX_LIFETIME {
            close(connection).await;
        } else {
            shared.lock_idle().push(IdleConnection { connection, opened_at, idle_since: Instant::now() });
        }
    }
}

/// Closes expired idle connections periodically until the pool is dropped.
async fn reap(shared: Weak<Shared>) {
    loop {
        sleep(REAP_INTERVAL).await;
        let Some(pool) = shared.upgrade() else { return };
        let expired = {
            let mut idle = pool.lock_idle();
            let (expired, kept) = std::mem::take(&mut *idle)
                .into_iter()
                .partition::<Vec<_>, _>(|idle| idle.idle_since.elapsed() > IDLE_TIMEOUT);
            *idle = kept;
            expired
        };
        // This task must not keep the pool alive while it closes connections and sleeps.
        drop(pool);
        join_all(expired.into_iter().map(|idle| close(idle.connection))).await;
    }
}

/// Notifies the server and closes a connection.
async fn close(connection: PgConnection) {
    let _ = timeout(CLOSE_TIMEOUT, connection.close()).await;
}

/// Begins a transaction on a connection, within a time limit.
async fn begin_on(
    connection: &mut PgConnection,
    begin_statement: &Arc<str>,
    limit: Duration,
) -> Result<(), sqlx::Error> {
    // The schema names in the statement are validated and quoted.
    let begin = sqlx::raw_sql(AssertSqlSafe(Arc::clone(begin_statement)));
    within(limit, connection.execute(begin)).await.map(|_| ())
}

/// An open transaction. If it is dropped, or its connection fails, the connection is closed and the
/// server rolls the transaction back.
pub(in crate::store) struct PgTransaction {
    used: UsedConnection,
    limits: Limits,
    /// The number of rows that a statement may affect, in addition to the ids that it binds. Set by
    /// [`Self::expect_rows`].
    expected_rows: u64,
    /// Whether the connection may return to the pool. False while a statement runs, after a
    /// cancelled statement, and after an error of the connection.
    is_reusable: bool,
}

impl PgTransaction {
    /// Runs a statement that binds `id_count` ids. Returns the number of rows that it changed.
    pub(in crate::store) async fn execute(
        &mut self,
        query: Query<'_, Postgres, PgArguments>,
        id_count: u64,
    ) -> Result<u64, sqlx::Error> {
        let limit = self.limits.for_rows(self.expected_rows + id_count);
        self.is_reusable = false;
        let answer = within(limit, query.execute(&mut self.used.connection)).await;
        self.record_answer(answer).map(|done| done.rows_affected())
    }

    /// Runs a query that binds `id_count` ids. Returns all rows.
    pub(in crate::store) async fn fetch_all<R: for<'r> FromRow<'r, PgRow> + Send + Unpin>(
        &mut self,
        query: QueryAs<'_, Postgres, R, PgArguments>,
        id_count: u64,
    ) -> Result<Vec<R>, sqlx::Error> {
        let limit = self.limits.for_rows(self.expected_rows + id_count);
        self.is_reusable = false;
        let answer = within(limit, query.fetch_all(&mut self.used.connection)).await;
        self.record_answer(answer)
    }

    /// Returns the row of a query that has at most one row.
    pub(in crate::store) async fn fetch_optional<R: for<'r> FromRow<'r, PgRow> + Send + Unpin>(
        &mut self,
        query: QueryAs<'_, Postgres, R, PgArguments>,
    ) -> Result<Option<R>, sqlx::Error> {
        Ok(self.fetch_all(query, 0).await?.pop())
    }

    /// Returns the row of a query that always has one row, such as an aggregate.
    pub(in crate::store) async fn fetch_one<R: for<'r> FromRow<'r, PgRow> + Send + Unpin>(
        &mut self,
        query: QueryAs<'_, Postgres, R, PgArguments>,
    ) -> Result<R, sqlx::Error> {
        self.fetch_optional(query).await?.ok_or(sqlx::Error::RowNotFound)
    }

    /// Runs SQL without bound values. All names in it must be validated or quoted. Returns its
    /// rows.
    pub(in crate::store) async fn run_sql(&mut self, sql: String) -> Result<Vec<PgRow>, sqlx::Error> {
        let limit = self.limits.for_rows(self.expected_rows);
        self.is_reusable = false;
        let rows = self.used.connection.fetch_all(sqlx::raw_sql(AssertSqlSafe(sql)));
        let answer = within(limit, rows).await;
        self.record_answer(answer)
    }

    /// Returns the rows of a query as a stream. The limit applies to the wait for each row.
    /// `scanned_rows` is the number of table rows that the server may read for one returned row.
    pub(in crate::store) fn fetch<'t>(
        &'t mut self,
        query: Query<'t, Postgres, PgArguments>,
        scanned_rows: u64,
    ) -> BoxStream<'t, Result<PgRow, sqlx::Error>> {
        let limit = self.limits.for_scan(scanned_rows);
        let Self { used, is_reusable, .. } = self;
        *is_reusable = false;
        let rows = query.fetch(&mut used.connection);
        // Only the end of the stream makes the connection reusable. If the caller drops the stream
        // earlier, the server still sends rows.
        let bounded = unfold(Some((rows, is_reusable)), move |unfinished| async move {
            let (mut rows, is_reusable) = unfinished?;
            match timeout(limit, rows.next()).await {
                Ok(Some(Ok(row))) => Some((Ok(row), Some((rows, is_reusable)))),
                Ok(Some(Err(error))) => Some((Err(error), None)),
                Ok(None) => {
                    *is_reusable = true;
                    None
                }
                Err(_) => Some((Err(no_answer_error(limit)), None)),
            }
        });
        bounded.boxed()
    }

    /// Raises the limits of the following statements to the time that `rows` rows need.
    pub(in crate::store) async fn expect_rows(&mut self, rows: u64) -> Result<(), sqlx::Error> {
        self.expected_rows = rows;
        // As in [`Limits::server_settings`], the server's limit is never less than three
        // statements.
        let server_timeout = millis(self.limits.for_rows(rows).max(self.limits.statement * 3));
        self.run_sql(format!("SET LOCAL statement_timeout = {server_timeout}")).await.map(|_| ())
    }

    pub(in crate::store) async fn commit(self) -> Result<(), sqlx::Error> {
        let limit = self.limits.statement;
        self.end("COMMIT", limit).await
    }

    pub(super) async fn rollback(self) -> Result<(), sqlx::Error> {
        let limit = self.limits.round_trip;
        self.end("ROLLBACK", limit).await
    }

    /// Ends the transaction with `statement`, and returns the connection to the pool. Fails if the
    /// connection is not reusable.
    async fn end(mut self, statement: &'static str, limit: Duration) -> Result<(), sqlx::Error> {
        if !self.is_reusable {
            // Dropping the connection makes the server roll the transaction back.
            return Err(sqlx::Error::Io(io::Error::from(io::ErrorKind::NotConnected)));
        }
        within(limit, self.used.connection.execute(sqlx::raw_sql(statement))).await?;
        self.used.return_to_pool().await;
        Ok(())
    }

    /// Records whether the connection may return to the pool after this answer, and returns the
    /// answer.
    fn record_answer<T>(&mut self, answer: Result<T, sqlx::Error>) -> Result<T, sqlx::Error> {
        self.is_reusable = match &answer {
            Ok(_) => true,
            // 25006: the server has become a standby. A new connection may reach the new primary.
            Err(sqlx::Error::Database(error)) => error.code().as_deref() != Some("25006"),
            Err(_) => false,
        };
        answer
    }
}
