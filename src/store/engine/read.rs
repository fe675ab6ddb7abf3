//! Single queries, each in a read-only transaction of its own.

use super::database::{Engine, Store};
use super::error::{StoreError, WithAction as _};
use super::postgres::Server;
use super::retry::TransactionRetry;
use super::statement::{Statement, Value, bound_ids, postgres_arguments, sqlite_arguments};
use super::tx::Row;

impl Store {
    /// Returns all rows of a query. On PostgreSQL the query runs again after a transient failure.
    pub(in crate::store) async fn fetch_all<R: Row>(
        &self,
        action: &'static str,
        statement: impl Into<Statement> + Send,
        values: &[Value<'_>],
    ) -> Result<Vec<R>, StoreError> {
        let statement = statement.into();
        let rows = match &self.engine {
            Engine::Sqlite(file) => match sqlite_arguments(values) {
                Ok(arguments) => {
                    let query = sqlx::query_as_with(statement.for_sqlite(), arguments).persistent(false);
                    let rows = query.fetch_all(file.readers()?).await;
                    if rows.is_err() {
                        // A displaced file is reported as the cause of any error.
                        file.check_in_place()?;
                    }
                    rows
                }
                Err(error) => Err(error),
            },
            Engine::Postgres(server) => {
                let mut retry = TransactionRetry::within(server.limits().statement);
                loop {
                    match fetch_from(server, statement.for_postgres(), values).await {
                        Err(error) if retry.pause_before_retry(&error).await => {}
                        rows => break rows,
                    }
                }
            }
        };
        rows.with_action(action)
    }

    /// Returns the row of a query, or `None`. The query has at most one row.
    pub(in crate::store) async fn fetch_optional<R: Row>(
        &self,
        action: &'static str,
        statement: impl Into<Statement> + Send,
        values: &[Value<'_>],
    ) -> Result<Option<R>, StoreError> {
        Ok(self.fetch_all(action, statement, values).await?.pop())
    }

    /// Returns the row of a query that always has one row, such as an aggregate.
    pub(in crate::store) async fn fetch_one<R: Row>(
        &self,
        action: &'static str,
        statement: impl Into<Statement> + Send,
        values: &[Value<'_>],
    ) -> Result<R, StoreError> {
        let row = self.fetch_optional(action, statement, values).await?;
        row.ok_or(sqlx::Error::RowNotFound).with_action(action)
    }
}

async fn fetch_from<R: Row>(
    server: &Server,
    sql: &'static str,
    values: &[Value<'_>],
) -> Result<Vec<R>, sqlx::Error> {
    let arguments = postgres_arguments(values)?;
    let mut tx = server.begin_read_only().await?;
    let rows = tx.fetch_all(sqlx::query_as_with(sql, arguments).persistent(false), bound_ids(values)).await?;
    tx.commit().await?;
    Ok(rows)
}
