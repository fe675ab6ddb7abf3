//! Connects to a PostgreSQL server, and begins transactions on it.
//!
//! A pooler in transaction mode may use another server connection for each transaction. So no state
//! is kept in a session. Every statement runs in a transaction that begins by setting its
//! `search_path`, and no prepared statement outlives its transaction.

use std::fmt;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use sqlx::postgres::PgConnection;
use sqlx::{AssertSqlSafe, Executor as _};
use tracing::warn;

use super::connect::PostgresDatabase;
use super::connections::{Connections, PgTransaction};
use super::error::StoreError;
use super::limits::{Limits, within};
use super::statement::query_as;

/// The maximum number of connections, besides those for leases. Ten serve fifty apps, because a
/// crawl waits for the API most of the time. PostgreSQL allows 100 connections by default, so other
/// clients have enough.
const CONNECTIONS: usize = 10;
/// The number of connections that only leases use. If renewals shared the other connections, they
/// would wait behind bulk writes and come too late. One connection serves fifty apps, because a
/// renewal takes milliseconds. The second is for a slow server.
const LEASE_CONNECTIONS: usize = 2;
/// The oldest supported version, as `server_version_num`.
const OLDEST_VERSION: i64 = 14_00_00;
/// The first version that records the collation version of a database, as `server_version_num`.
const FIRST_WITH_COLLATION_VERSION: i64 = 15_00_00;

/// What a server is opened for. A standby server can only be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Intent {
    Write,
    Read,
}

/// A future that begins a transaction. Boxed, because every operation contains one, and the future
/// that opens a connection is large.
type BeginFuture<'a> = BoxFuture<'a, Result<PgTransaction, sqlx::Error>>;

/// An open server. Clones share their connections.
#[derive(Clone)]
pub(in crate::store) struct Server {
    connections: Connections,
    /// The pool for leases, see [`LEASE_CONNECTIONS`].
    lease_connections: Connections,
    /// BEGIN, with the settings of every transaction.
    begin_statement: Arc<str>,
    begin_read_only_statement: Arc<str>,
    pub(in crate::store) database: Arc<PostgresDatabase>,
    pub(in crate::store) intent: Intent,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.database.fmt(f)
    }
}

const SELECT_PROPERTIES: &str = "
SELECT CAST(current_setting('server_version_num') AS BIGINT) AS version_number, current_setting('server_version') AS version,
       current_setting('transaction_read_only') = 'on' AS read_only, current_setting('server_encoding') AS encoding,
       version() LIKE '%linux%' AS runs_linux";
/// Returns the database's name if its collation version differs from the operating system's. Then
/// indexes on text may have the wrong order.
const SELECT_CHANGED_COLLATION: &str = "
SELECT CAST(datname AS TEXT) FROM pg_catalog.pg_database
WHERE datname = current_database() AND datcollversion <> pg_catalog.pg_database_collation_actual_version(oid)";

/// The properties of a server and its database.
#[derive(sqlx_macros::FromRow)]
struct ServerProperties {
    /// `server_version_num`, for example 150004 for version 15.4.
    version_number: i64,
    version: String,
    /// True on a standby, or if transactions are read-only by default.
    read_only: bool,
    encoding: String,
    runs_linux: bool,
}

impl Server {
    /// Connects once to check the server's version, encoding and mode. Further connections are
    /// opened on demand.
    pub(in crate::store) async fn connect(
        database: &PostgresDatabase,
        intent: Intent,
    ) -> Result<Self, StoreError> {
        let open_error = |source| {
            let at = database.to_string();
            if is_tls_error(&source) {
                StoreError::Insecure { at, source }
            } else {
                StoreError::Open { at, source }
            }
        };
        let mut connection = database.open_connection().await.map_err(open_error)?;
        let at = database.to_string();
        let properties = read_properties(&mut connection, &at);
        let properties = within(database.limits.statement, properties).await.map_err(open_error)?;
        if !is_new_enough(properties.version_number) {
            return Err(StoreError::TooOld { at, version: properties.version });
        }
        if properties.encoding != "UTF8" {
            return Err(StoreError::Encoding { at, encoding: properties.encoding });
        }
        if properties.read_only && intent == Intent::Write {
            return Err(StoreError::ReadOnly { at });
        }
        let database = Arc::new(database.clone());
        let limits = database.limits;
        let schema = &database.schema;
        let settings = format!(
            "; SET LOCAL search_path TO \"{}\", \"{}\"{}",
            schema.private(),
            schema.public(),
            limits.server_settings(properties.runs_linux)
        );
        let connections = Connections::new(&database, CONNECTIONS, limits.queue);
        connections.add_idle(connection);
        Ok(Self {
            connections,
            lease_connections: Connections::new(&database, LEASE_CONNECTIONS, limits.renewal_limit()),
            begin_statement: format!("BEGIN{settings}").into(),
            begin_read_only_statement: format!("BEGIN READ ONLY{settings}").into(),
            database,
            intent,
        })
    }

    pub(in crate::store) fn limits(&self) -> Limits {
        self.database.limits
    }

    /// Begins a transaction that may write. Both schemas are on its search path.
    pub(in crate::store) fn begin(&self) -> BeginFuture<'_> {
        Box::pin(self.connections.begin(&self.begin_statement))
    }

    pub(in crate::store) fn begin_read_only(&self) -> BeginFuture<'_> {
        Box::pin(self.connections.begin(&self.begin_read_only_statement))
    }

    /// Opens a separate connection and begins a long transaction, in which the server limits
    /// neither statements nor pauses. `begin` is a BEGIN statement with its options.
    pub(in crate::store) async fn begin_on_own_connection(
        &self,
        begin: &str,
    ) -> Result<PgConnection, sqlx::Error> {
        let schema = &self.database.schema;
        let search_path =
            format!("SET LOCAL search_path TO \"{}\", \"{}\"", schema.private(), schema.public());
        let mut connection = self.database.open_without_log().await?;
        // The schema names are validated and quoted.
        let no_limits = "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0";
        let statements = AssertSqlSafe(format!("{begin}; {search_path}; {no_limits}"));
        within(self.limits().statement, connection.execute(sqlx::raw_sql(statements))).await?;
        Ok(connection)
    }

    /// Begins a transaction for a lease, on a connection that bulk writes do not use.
    pub(in crate::store) fn begin_for_lease(&self) -> BeginFuture<'_> {
        Box::pin(self.lease_connections.begin(&self.begin_statement))
    }

    /// Closes the idle connections of both pools.
    pub(in crate::store) async fn close_idle_connections(&self) {
        tokio::join!(self.connections.close_idle(), self.lease_connections.close_idle());
    }

    pub(in crate::store) async fn close(&self) {
        tokio::join!(self.connections.close(), self.lease_connections.close());
    }
}

/// Returns the properties of a server. Logs a warning if the collation version differs from the
/// operating system's.
async fn read_properties(connection: &mut PgConnection, at: &str) -> Result<ServerProperties, sqlx::Error> {
    // A statement is sent in several messages. Behind a pooler they are certain to reach the same
    // server connection only within a transaction.
    connection.execute(sqlx::raw_sql("BEGIN")).await?;
    let properties: ServerProperties = query_as(SELECT_PROPERTIES).fetch_one(&mut *connection).await?;
    if properties.version_number >= FIRST_WITH_COLLATION_VERSION {
        let changed: Option<(String,)> =
            query_as(SELECT_CHANGED_COLLATION).fetch_optional(&mut *connection).await?;
        if let Some((name,)) = changed {
            warn!(
                "{at}: the server's operating system sorts text differently than when the database \
                 was created; the tables of this program do not depend on that; as an \
                 administrator, rebuild the indexes of other programs, then run: ALTER DATABASE \
                 \"{name}\" REFRESH COLLATION VERSION"
            );
        }
    }
    connection.execute(sqlx::raw_sql("COMMIT")).await?;
    Ok(properties)
}

/// Returns true if the server does not offer TLS or its certificate was rejected.
fn is_tls_error(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Tls(_) => true,
        // A certificate that rustls rejects during the handshake is reported as an I/O error.
        sqlx::Error::Io(error) => matches!(error.get_ref(), Some(cause) if cause.is::<rustls::Error>()),
        _ => false,
    }
}

fn is_new_enough(version_number: i64) -> bool {
    version_number >= OLDEST_VERSION
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_before_version_14_are_too_old() {
        for old in [9_06_24, 10_00_23, 13_00_00, 13_00_22, 13_99_99] {
            assert!(!is_new_enough(old), "{old}");
        }
        for new in [14_00_00, 14_00_19, 18_00_00] {
            assert!(is_new_enough(new), "{new}");
        }
    }
}
