//! Reads all tables of a database in one snapshot.

use futures_util::TryStreamExt as _;
use futures_util::stream::BoxStream;
use sqlx::postgres::PgConnection;
use sqlx::sqlite::SqliteConnection;
use sqlx::{AssertSqlSafe, ConnectOptions as _};

use super::rows::{RowCells, cells_from_postgres, cells_from_sqlite};
use super::tables::Table;
use crate::store::engine::{Engine, Store, StoreError, WithAction as _, query, query_scalar};

/// The number of rows in a batch.
const BATCH_ROWS: usize = 500;

/// A connection with an open transaction.
pub(super) enum Connection {
    Sqlite(SqliteConnection),
    Postgres(PgConnection),
}

/// Receives the rows of a table in batches.
pub(super) trait Sink {
    async fn receive(&mut self, rows: &[RowCells]) -> Result<(), StoreError>;
}

impl Connection {
    /// Opens a snapshot of the database: a read transaction that does not see later commits.
    pub(super) async fn snapshot(store: &Store) -> Result<Self, StoreError> {
        const ACTION: &str = "read the database";
        match &store.engine {
            Engine::Sqlite(file) => {
                // The driver would log the reading of a table as a slow statement, because it takes
                // as long as writing the rows to the target.
                let options = (*file.readers()?.connect_options()).clone().disable_statement_logging();
                let mut connection: SqliteConnection = options.connect().await.with_action(ACTION)?;
                query("BEGIN").execute(&mut connection).await.with_action(ACTION)?;
                Ok(Self::Sqlite(connection))
            }
            Engine::Postgres(server) => {
                let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY";
                Ok(Self::Postgres(server.begin_on_own_connection(begin).await.with_action(ACTION)?))
            }
        }
    }

    /// Counts the rows of a table.
    pub(super) async fn count(&mut self, table: &Table) -> Result<u64, StoreError> {
        let sql = AssertSqlSafe(table.count());
        let rows: Result<i64, sqlx::Error> = match self {
            Self::Sqlite(connection) => query_scalar(sql).fetch_one(connection).await,
            Self::Postgres(connection) => query_scalar(sql).fetch_one(connection).await,
        };
        Ok(rows.with_action("count the rows of a table")?.cast_unsigned())
    }

    /// Reads all rows of a table, and passes them to `sink` in batches.
    pub(super) async fn read(&mut self, table: &Table, sink: &mut impl Sink) -> Result<(), StoreError> {
        let sql = AssertSqlSafe(table.select());
        match self {
            Self::Sqlite(connection) => {
                receive_all(query(sql).fetch(connection), cells_from_sqlite, sink).await
            }
            Self::Postgres(connection) => {
                receive_all(query(sql).fetch(connection), cells_from_postgres, sink).await
            }
        }
    }
}

/// Passes rows to `sink` in batches. The last batch may be empty.
async fn receive_all<R>(
    mut rows: BoxStream<'_, Result<R, sqlx::Error>>,
    to_cells: fn(&R) -> Result<RowCells, sqlx::Error>,
    sink: &mut impl Sink,
) -> Result<(), StoreError> {
    const ACTION: &str = "read the rows of a table";
    let mut batch = Vec::with_capacity(BATCH_ROWS);
    while let Some(row) = rows.try_next().await.with_action(ACTION)? {
        batch.push(to_cells(&row).with_action(ACTION)?);
        if batch.len() == BATCH_ROWS {
            sink.receive(&batch).await?;
            batch.clear();
        }
    }
    sink.receive(&batch).await
}
