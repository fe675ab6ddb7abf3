//! Connecting to a PostgreSQL server, and beginning transactions on it.
//!
//! A pooler in transaction mode may give each transaction another server connection. So no state is kept in a session: every
//! statement runs in a transaction, which begins by setting its `search_path`, and no prepared statement outlives it.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::postgres::{PgConnectOptions, PgConnection, PgPool, PgPoolOptions, PgSslMode};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _, Postgres, Transaction};
use tracing::log::LevelFilter;

use super::error::StoreError;
use super::statement::query_as;
use crate::model::is_schema_name;

/// A crawl holds a connection only while it reads or writes, and waits for the API most of the time. Ten connections serve
/// fifty apps, and leave room for other clients under PostgreSQL's default of 100.
const CONNECTIONS: u32 = 10;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long a transaction waits for a connection. Many apps may queue with a bulk write each.
const QUEUE_TIMEOUT: Duration = Duration::from_secs(30);
/// Leases have their own connections. Queued behind the bulk writes of many first loads, they would expire. A renewal takes
/// milliseconds: one connection serves fifty apps, and the second one is for a server that answers late.
const LEASE_CONNECTIONS: u32 = 2;
/// Short enough for a second attempt before a lease expires, long enough for a new connection to a busy server.
const LEASE_QUEUE_TIMEOUT: Duration = Duration::from_secs(5);
const IDLE_TIMEOUT: Duration = Duration::from_secs(5 * 60);
/// Slower statements are logged. Writing 50,000 groups may take seconds on a slow disk.
const SLOW_STATEMENT: Duration = Duration::from_secs(30);
/// The oldest supported version, as `server_version_num`.
const OLDEST_VERSION: i64 = 14_00_00;
const DEFAULT_SCHEMA: &str = "tim";

/// The connection settings of a PostgreSQL database. Its `Display` and `Debug` omit the password.
#[derive(Clone)]
pub struct PostgresDatabase {
    options: Box<PgConnectOptions>,
    pub(in crate::store) schema: Schema,
    pub(in crate::store) reader_role: Option<String>,
}

/// The name of the schema of the public views. The schema of the tables is named after it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::store) struct Schema(String);

impl Schema {
    fn new(name: &str) -> Option<Self> {
        is_schema_name(name).then(|| Self(name.to_owned()))
    }

    /// Returns the schema of the public views.
    pub(in crate::store) fn public(&self) -> &str {
        &self.0
    }

    /// Returns the schema of the tables.
    pub(in crate::store) fn private(&self) -> String {
        format!("{}_private", self.0)
    }
}

impl PostgresDatabase {
    /// Parses a `postgres://` URL. What it lacks comes from the environment (PGPASSWORD and others) and from `.pgpass`.
    /// Hosts other than loopback must present a valid certificate, unless the URL or PGSSLMODE sets another mode.
    pub fn new(url: &str) -> Result<Self, StoreError> {
        let options = PgConnectOptions::from_str(url).map_err(|source| StoreError::InvalidUrl { source })?;
        let parameters = url.split_once('?').map_or("", |(_, parameters)| parameters);
        let says_how = std::env::var_os("PGSSLMODE").is_some()
            || parameters
                .split('&')
                .any(|pair| pair.starts_with("sslmode=") || pair.starts_with("ssl-mode="));
        let options =
            if says_how || is_local(&options) { options } else { options.ssl_mode(PgSslMode::VerifyFull) };
        let options = options
            // Poolers refuse this start-up parameter. It is not needed: no stored number has a fraction.
            .extra_float_digits(None)
            .log_statements(LevelFilter::Trace)
            .log_slow_statements(LevelFilter::Warn, SLOW_STATEMENT);
        let options = match options.get_application_name() {
            Some(_) => options,
            None => options.application_name("tim-group-sync"),
        };
        let schema = Schema(DEFAULT_SCHEMA.to_owned());
        Ok(Self { options: Box::new(options), schema, reader_role: None })
    }

    /// Sets the password, which takes precedence over the URL and the environment.
    #[must_use]
    pub fn password(self, password: &SecretString) -> Self {
        Self { options: Box::new(self.options.password(password.expose_secret())), ..self }
    }

    /// Sets the schema of the views: a lower-case name of at most 55 bytes. The tables are in `<schema>_private`.
    pub fn schema(self, name: &str) -> Result<Self, StoreError> {
        let schema = Schema::new(name).ok_or_else(|| StoreError::InvalidSchema { name: name.to_owned() })?;
        Ok(Self { schema, ..self })
    }

    /// Returns the error that says how such a database is backed up and restored: by the server's own programs.
    #[must_use]
    pub fn backup_by_server(&self) -> StoreError {
        StoreError::BackupByServer { public: self.schema.public().to_owned(), private: self.schema.private() }
    }

    /// Sets the role that is granted SELECT on the views after every migration.
    #[must_use]
    pub fn reader_role(self, role: Option<&str>) -> Self {
        Self { reader_role: role.map(str::to_owned), ..self }
    }
}

impl fmt::Display for PostgresDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let options = &self.options;
        write!(f, "postgres://{}@", options.get_username())?;
        match options.get_socket() {
            Some(folder) => write!(f, "{}", folder.display())?,
            None => write!(f, "{}:{}", options.get_host(), options.get_port())?,
        }
        write!(f, "/{}", options.get_database().unwrap_or(options.get_username()))
    }
}

impl fmt::Debug for PostgresDatabase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Returns true if connections to the server do not leave this host.
fn is_local(options: &PgConnectOptions) -> bool {
    let host = options.get_host();
    let address = host.trim_start_matches('[').trim_end_matches(']').parse::<IpAddr>();
    options.get_socket().is_some()
        || host.starts_with('/')
        || host == "localhost"
        || address.is_ok_and(|address| address.is_loopback())
}

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::store) enum Intent {
    Write,
    Read,
}

/// An open server. Clones share their connections.
#[derive(Clone)]
pub(in crate::store) struct Server {
    pool: PgPool,
    leases: PgPool,
    begin: Arc<str>,
    begin_to_read: Arc<str>,
    pub(in crate::store) database: Arc<PostgresDatabase>,
    pub(in crate::store) intent: Intent,
}

impl fmt::Debug for Server {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.database.fmt(f)
    }
}

const ABOUT: &str = "
SELECT CAST(current_setting('server_version_num') AS BIGINT), current_setting('server_version'),
       current_setting('transaction_read_only') = 'on'";

impl Server {
    /// Connects once to check the server's version and mode. The pools connect when they are needed.
    pub(in crate::store) async fn connect(
        database: &PostgresDatabase,
        intent: Intent,
    ) -> Result<Self, StoreError> {
        let open_error = |source| {
            let at = database.to_string();
            if is_about_tls(&source) {
                StoreError::Insecure { at, source }
            } else {
                StoreError::Open { at, source }
            }
        };
        let about = async {
            let mut connection: PgConnection = database.options.connect().await?;
            let mut transaction = connection.begin().await?;
            let about: (i64, String, bool) = query_as(ABOUT).fetch_one(&mut *transaction).await?;
            transaction.commit().await?;
            connection.close().await?;
            Ok(about)
        };
        let (number, version, read_only) = match tokio::time::timeout(CONNECT_TIMEOUT, about).await {
            Ok(about) => about.map_err(open_error)?,
            Err(_) => return Err(open_error(sqlx::Error::PoolTimedOut)),
        };
        if !is_new_enough(number) {
            return Err(StoreError::TooOld { at: database.to_string(), version });
        }
        if read_only && intent == Intent::Write {
            return Err(StoreError::ReadOnly { at: database.to_string() });
        }
        let pool = |connections, queue_timeout| {
            PgPoolOptions::new()
                .max_connections(connections)
                .acquire_timeout(queue_timeout)
                .idle_timeout(IDLE_TIMEOUT)
                .connect_lazy_with((*database.options).clone())
        };
        let schema = &database.schema;
        let place = format!("SET LOCAL search_path TO \"{}\", \"{}\"", schema.private(), schema.public());
        Ok(Self {
            pool: pool(CONNECTIONS, QUEUE_TIMEOUT),
            leases: pool(LEASE_CONNECTIONS, LEASE_QUEUE_TIMEOUT),
            begin: format!("BEGIN; {place}").into(),
            begin_to_read: format!("BEGIN READ ONLY; {place}").into(),
            database: Arc::new(database.clone()),
            intent,
        })
    }

    /// Begins a transaction that may write. The schemas are on its search path.
    pub(in crate::store) async fn begin(&self) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        begin_on(&self.pool, &self.begin).await
    }

    /// Begins a read-only transaction.
    pub(in crate::store) async fn begin_to_read(
        &self,
    ) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        begin_on(&self.pool, &self.begin_to_read).await
    }

    /// Opens a connection of its own, on which a long transaction is open. `begin` is BEGIN with its options.
    pub(in crate::store) async fn begin_alone(&self, begin: &str) -> Result<PgConnection, sqlx::Error> {
        let schema = &self.database.schema;
        let place = format!("SET LOCAL search_path TO \"{}\", \"{}\"", schema.private(), schema.public());
        let options = (*self.database.options).clone().disable_statement_logging();
        let mut connection: PgConnection = options.connect().await?;
        // The schema names are validated and quoted.
        let limits = "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0";
        let statements = AssertSqlSafe(format!("{begin}; {place}; {limits}"));
        sqlx::raw_sql(statements).execute(&mut connection).await?;
        Ok(connection)
    }

    /// Begins a transaction that renews or releases a lease, on a connection that no bulk write uses.
    pub(in crate::store) async fn begin_for_lease(
        &self,
    ) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
        begin_on(&self.leases, &self.begin).await
    }

    pub(in crate::store) async fn close(&self) {
        self.pool.close().await;
        self.leases.close().await;
    }
}

/// Returns true if the server has no TLS or its certificate was refused.
fn is_about_tls(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Tls(_) => true,
        // What rustls refuses during the handshake is reported as an I/O error.
        sqlx::Error::Io(error) => matches!(error.get_ref(), Some(cause) if cause.is::<rustls::Error>()),
        _ => false,
    }
}

/// Returns true if this `server_version_num` is supported.
fn is_new_enough(number: i64) -> bool {
    number >= OLDEST_VERSION
}

/// Begins a transaction in a task of its own, which completes even if the caller is dropped. sqlx 0.9.0 records that a
/// transaction is open only when the server has answered. If the future were dropped before, the connection would return to
/// the pool inside an open transaction, and the next transaction would start inside it.
async fn begin_on(
    pool: &PgPool,
    statement: &Arc<str>,
) -> Result<Transaction<'static, Postgres>, sqlx::Error> {
    // The schema names in it are validated and quoted.
    let (pool, statement) = (pool.clone(), AssertSqlSafe(Arc::clone(statement)));
    match tokio::spawn(async move { pool.begin_with(statement).await }).await {
        Ok(begun) => begun,
        Err(error) if error.is_panic() => std::panic::resume_unwind(error.into_panic()),
        // The runtime is shutting down.
        Err(_) => Err(sqlx::Error::PoolClosed),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn database(url: &str) -> PostgresDatabase {
        PostgresDatabase::new(url).unwrap()
    }

    #[test]
    fn other_hosts_than_loopback_must_prove_who_they_are() {
        let mode = |url: &str| database(url).options.get_ssl_mode();
        for far in ["postgres://u@db.example/d", "postgres://u@10.0.0.1/d", "postgres://u@[2001:db8::1]/d"] {
            assert!(matches!(mode(far), PgSslMode::VerifyFull), "{far}");
        }
        for near in ["localhost/d", "127.0.0.1/d", "[::1]/d", "%2Frun/d", "db.example/d?host=/run/postgresql"]
        {
            assert!(matches!(mode(&format!("postgres://u@{near}")), PgSslMode::Prefer), "{near}");
        }
        assert!(matches!(mode("postgres://u@db.example/d?sslmode=require"), PgSslMode::Require));
        assert!(matches!(mode("postgres://u@db.example/d?a=b&ssl-mode=disable"), PgSslMode::Disable));
    }

    #[test]
    fn a_password_shows_nowhere() {
        let database = database("postgres://u:geheim@db.example:5433/d?sslmode=disable")
            .password(&SecretString::from("noch geheimer"));
        assert_eq!(database.to_string(), "postgres://u@db.example:5433/d");
        assert_eq!(format!("{database:?}"), "postgres://u@db.example:5433/d");
        let error = PostgresDatabase::new("postgres://u:geheim@db.example:port/d").unwrap_err();
        assert!(!format!("{error:?} {error}").contains("geheim"), "{error:?}");
    }

    #[test]
    fn servers_before_version_14_are_too_old() {
        for old in [9_06_24, 10_00_23, 13_00_00, 13_00_22, 13_99_99] {
            assert!(!is_new_enough(old), "{old}");
        }
        for new in [14_00_00, 14_00_19, 18_00_00] {
            assert!(is_new_enough(new), "{new}");
        }
    }

    #[test]
    fn a_schema_is_a_plain_name_with_room_for_its_private_twin() {
        for bad in ["", "Tim", "a b", "a\"b", "1a", "pg_tim", "ä", &"x".repeat(56)] {
            assert_eq!(Schema::new(bad), None, "{bad:?}");
        }
        assert_eq!(Schema::new("order").unwrap().private(), "order_private");
    }
}
