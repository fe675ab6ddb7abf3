//! Statements and the values they bind.
//!
//! No statement is kept prepared on the server. Behind a transaction-mode pooler the next
//! transaction may run on another server connection, where a prepared statement would not exist.

use sqlx::database::HasStatementCache;
use sqlx::error::BoxDynError;
use sqlx::postgres::PgArguments;
use sqlx::query::{Query, QueryAs, QueryScalar};
use sqlx::sqlite::SqliteArguments;
use sqlx::{Arguments as _, Database, FromRow, SqlSafeStr};

/// The SQL of a statement: the same text for both engines, or one text for each.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) enum Statement {
    Shared(&'static str),
    PerEngine { sqlite: &'static str, postgres: &'static str },
}

impl From<&'static str> for Statement {
    fn from(sql: &'static str) -> Self {
        Self::Shared(sql)
    }
}

impl Statement {
    pub(super) fn for_sqlite(self) -> &'static str {
        match self {
            Self::Shared(sql) | Self::PerEngine { sqlite: sql, .. } => sql,
        }
    }

    pub(super) fn for_postgres(self) -> &'static str {
        match self {
            Self::Shared(sql) | Self::PerEngine { postgres: sql, .. } => sql,
        }
    }
}

/// A value to bind.
#[derive(Clone, Copy, Debug)]
pub(in crate::store) enum Value<'a> {
    Integer(Option<i64>),
    Text(Option<&'a str>),
    Boolean(bool),
    /// Group ids. SQLite receives them as one JSON text, PostgreSQL as an array.
    Ids(&'a [&'a str]),
}

impl From<i64> for Value<'_> {
    fn from(number: i64) -> Self {
        Self::Integer(Some(number))
    }
}

impl From<Option<i64>> for Value<'_> {
    fn from(number: Option<i64>) -> Self {
        Self::Integer(number)
    }
}

impl<'a> From<&'a str> for Value<'a> {
    fn from(text: &'a str) -> Self {
        Self::Text(Some(text))
    }
}

impl<'a> From<&'a String> for Value<'a> {
    fn from(text: &'a String) -> Self {
        Self::Text(Some(text))
    }
}

impl<'a> From<Option<&'a str>> for Value<'a> {
    fn from(text: Option<&'a str>) -> Self {
        Self::Text(text)
    }
}

impl From<bool> for Value<'_> {
    fn from(flag: bool) -> Self {
        Self::Boolean(flag)
    }
}

impl<'a> From<&'a [&'a str]> for Value<'a> {
    fn from(ids: &'a [&'a str]) -> Self {
        Self::Ids(ids)
    }
}

impl<'a> From<&'a Vec<&'a str>> for Value<'a> {
    fn from(ids: &'a Vec<&'a str>) -> Self {
        Self::Ids(ids)
    }
}

/// Builds the array of values that a statement binds, in order.
macro_rules! values {
    ($($value:expr),* $(,)?) => {
        [$(crate::store::engine::Value::from($value)),*]
    };
}
pub(in crate::store) use values;

pub(super) fn sqlite_arguments(values: &[Value<'_>]) -> Result<SqliteArguments, sqlx::Error> {
    let mut arguments = SqliteArguments::default();
    for value in values {
        let added = match *value {
            Value::Integer(number) => arguments.add(number),
            Value::Text(text) => arguments.add(text.map(str::to_owned)),
            Value::Boolean(flag) => arguments.add(flag),
            Value::Ids(ids) => {
                serde_json::to_string(ids).map_err(BoxDynError::from).and_then(|ids| arguments.add(ids))
            }
        };
        added.map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

pub(super) fn postgres_arguments(values: &[Value<'_>]) -> Result<PgArguments, sqlx::Error> {
    let mut arguments = PgArguments::default();
    for value in values {
        let added = match *value {
            Value::Integer(number) => arguments.add(number),
            Value::Text(text) => arguments.add(text),
            Value::Boolean(flag) => arguments.add(flag),
            Value::Ids(ids) => arguments.add(ids),
        };
        added.map_err(sqlx::Error::Encode)?;
    }
    Ok(arguments)
}

/// Returns how many ids a statement binds.
pub(super) fn bound_ids(values: &[Value<'_>]) -> u64 {
    values.iter().map(|value| if let Value::Ids(ids) = value { ids.len() as u64 } else { 0 }).sum()
}

/// Builds an unprepared statement for one engine.
pub(in crate::store) fn query<DB: Database + HasStatementCache>(
    sql: impl SqlSafeStr,
) -> Query<'static, DB, DB::Arguments> {
    #[expect(clippy::disallowed_methods, reason = "the one place that makes statements")]
    sqlx::query(sql).persistent(false)
}

/// Builds an unprepared statement whose rows become values of a type.
pub(in crate::store) fn query_as<DB: Database + HasStatementCache, O: for<'r> FromRow<'r, DB::Row>>(
    sql: impl SqlSafeStr,
) -> QueryAs<'static, DB, O, DB::Arguments> {
    #[expect(clippy::disallowed_methods, reason = "the one place that makes statements")]
    sqlx::query_as(sql).persistent(false)
}

/// Builds an unprepared statement whose rows have one column.
pub(in crate::store) fn query_scalar<DB: Database + HasStatementCache, O>(
    sql: impl SqlSafeStr,
) -> QueryScalar<'static, DB, O, DB::Arguments>
where
    (O,): for<'r> FromRow<'r, DB::Row>,
{
    #[expect(clippy::disallowed_methods, reason = "the one place that makes statements")]
    sqlx::query_scalar(sql).persistent(false)
}
