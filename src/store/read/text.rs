//! Runs a query and returns its rows as text, for people to read.

use sqlx::{Column as _, ColumnIndex, Decode, Row, Type};

use crate::store::engine::{Engine, Store, StoreError, WithAction as _};

/// The names of the columns, and the values of each row.
type Texts = (Vec<String>, Vec<Vec<String>>);

impl Store {
    /// Runs a read-only query. Returns the names of its columns and its rows as text, with NULL as
    /// an empty text. If the query has no rows, the names are empty.
    pub async fn query_as_text(&self, sql: &'static str) -> Result<Texts, StoreError> {
        const ACTION: &str = "run a query";
        let result = match &self.engine {
            Engine::Sqlite(file) => {
                let rows = sqlx::raw_sql(sql).fetch_all(file.readers()?).await;
                rows.and_then(|rows| as_texts(&rows))
            }
            Engine::Postgres(server) => {
                let mut tx = server.begin_read_only().await.with_action(ACTION)?;
                let rows = tx.run_sql(sql.to_owned()).await.with_action(ACTION)?;
                tx.commit().await.with_action(ACTION)?;
                as_texts(&rows)
            }
        };
        result.with_action(ACTION)
    }
}

/// Converts rows to text.
fn as_texts<R: Row>(rows: &[R]) -> Result<Texts, sqlx::Error>
where
    usize: ColumnIndex<R>,
    String: for<'r> Decode<'r, R::Database> + Type<R::Database>,
{
    let header =
        rows.first().map(|row| row.columns().iter().map(|column| column.name().to_owned()).collect());
    let mut texts = Vec::with_capacity(rows.len());
    for row in rows {
        let mut cells = Vec::with_capacity(row.len());
        for index in 0..row.len() {
            let cell: Option<String> = row.try_get_unchecked(index)?;
            cells.push(cell.unwrap_or_default());
        }
        texts.push(cells);
    }
    Ok((header.unwrap_or_default(), texts))
}
