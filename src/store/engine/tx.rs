//! A transaction on either engine, as a value that is passed to plain functions.

use sqlx::postgres::PgRow;
use sqlx::sqlite::{Sqlite, SqliteRow};
use sqlx::{FromRow, Transaction};

use super::connections::PgTransaction;
use super::error::{StoreError, WithAction as _};
use super::statement::{Statement, Value, bound_ids, postgres_arguments, sqlite_arguments};

/// A type into which a row of either engine is converted: a tuple, or a struct with
/// `#[derive(FromRow)]`.
pub(in crate::store) trait Row:
    for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin
{
}

impl<T> Row for T where T: for<'r> FromRow<'r, SqliteRow> + for<'r> FromRow<'r, PgRow> + Send + Unpin {}

/// An open transaction. It is rolled back if it is dropped before the commit.
pub(in crate::store) struct Tx {
    /// The purpose of the transaction, as a verb phrase for error messages.
    pub(super) action: &'static str,
    pub(super) engine_tx: EngineTx,
}

pub(super) enum EngineTx {
    Sqlite(Transaction<'static, Sqlite>),
    Postgres(PgTransaction),
}

impl Tx {
    pub(in crate::store) fn is_postgres(&self) -> bool {
        matches!(self.engine_tx, EngineTx::Postgres(_))
    }

    /// Raises the time limits of the following statements by the time that `rows` rows need. Needed
    /// before a statement that affects many rows without binding their ids. Ids that a statement
    /// binds raise only the program's own limit, not the server's. Does nothing on SQLite.
    pub(in crate::store) async fn expect_rows(&mut self, rows: u64) -> Result<(), StoreError> {
        match &mut self.engine_tx {
            EngineTx::Sqlite(_) => Ok(()),
            EngineTx::Postgres(tx) => tx.expect_rows(rows).await.with_action(self.action),
        }
    }

    /// Runs a statement. Returns the number of rows that it changed.
    pub(in crate::store) async fn execute(
        &mut self,
        statement: impl Into<Statement> + Send,
        values: &[Value<'_>],
    ) -> Result<u64, StoreError> {
        let statement = statement.into();
        let rows = match &mut self.engine_tx {
            EngineTx::Sqlite(tx) => match sqlite_arguments(values) {
                Ok(arguments) => {
                    let query = sqlx::query_with(statement.for_sqlite(), arguments).persistent(false);
                    query.execute(&mut **tx).await.map(|done| done.rows_affected())
                }
                Err(error) => Err(error),
            },
            EngineTx::Postgres(tx) => match postgres_arguments(values) {
                Ok(arguments) => {
                    let query = sqlx::query_with(statement.for_postgres(), arguments).persistent(false);
                    tx.execute(query, bound_ids(values)).await
                }
                Err(error) => Err(error),
            },
        };
        rows.with_action(self.action)
    }

    /// Returns all rows of a query.
    pub(in crate::store) async fn fetch_all<R: Row>(
        &mut self,
        statement: impl Into<Statement> + Send,
        values: &[Value<'_>],
    ) -> Result<Vec<R>, StoreError> {
        let statement = statement.into();
        let rows = match &mut self.engine_tx {
            EngineTx::Sqlite(tx) => match sqlite_arguments(values) {
                Ok(arguments) => {
                    let query = sqlx::query_as_with(statement.for_sqlite(), arguments).persistent(false);
                    query.fetch_all(&mut **tx).await
                }
                Err(error) => Err(error),
            },
            EngineTx::Postgres(tx) => match postgres_arguments(values) {
                Ok(arguments) => {
                    let query = sqlx::query_as_with(statement.for_postgres(), arguments).persistent(false);
                    tx.fetch_all(query, bound_ids(values)).await
                }
                Err(error) => Err(error),
            },
        };
        rows.with_action(self.action)
    }

    /// Returns the row of a query, or `None`. The query has at most one row.
    pub(in crate::store) async fn fetch_optional<R: Row>(
        &mut self,
        statement: impl Into<Statement> + Send,
        values: &[Value<'_>],
    ) -> Result<Option<R>, StoreError> {
        Ok(self.fetch_all(statement, values).await?.pop())
    }

    /// Returns the row of a query that always has one row, such as an aggregate.
    pub(in crate::store) async fn fetch_one<R: Row>(
        &mut self,
        statement: impl Into<Statement> + Send,
        values: &[Value<'_>],
    ) -> Result<R, StoreError> {
        let row = self.fetch_optional(statement, values).await?;
        row.ok_or(sqlx::Error::RowNotFound).with_action(self.action)
    }
}
