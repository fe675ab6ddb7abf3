//! The connection settings of a PostgreSQL server: URL, password, certificate, schema and limits.

use std::borrow::Cow;
use std::fmt;
use std::net::IpAddr;
use std::str::FromStr as _;
use std::sync::Arc;
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use sqlx::ConnectOptions as _;
use sqlx::postgres::{PgConnectOptions, PgConnection, PgSslMode};
use tracing::log::LevelFilter;

use super::error::StoreError;
use super::limits::{Limits, within};
use crate::model::is_schema_name;

/// Statements slower than this are logged as warnings. Writing 50,000 groups may take seconds on a
/// slow disk.
const SLOW_STATEMENT: Duration = Duration::from_secs(15);
const DEFAULT_SCHEMA: &str = "tim";

/// Reads the password. Called for each new connection, so that a rotated password takes effect
/// without a restart.
pub type PasswordSource = Arc<dyn Fn() -> Result<SecretString, String> + Send + Sync>;

/// The connection settings of a PostgreSQL database. Its `Display` and `Debug` omit the password.
#[derive(Clone)]
pub struct PostgresDatabase {
    /// The URL as configured. It may contain a password.
    url: Arc<SecretString>,
    /// The options at startup, for display and for the name of the sessions, without the password.
    /// All other options are parsed again for each connection, because `.pgpass` may have changed.
    options: Box<PgConnectOptions>,
    /// Takes precedence over a password in the URL, the environment and `.pgpass`.
    password_source: Option<PasswordSource>,
    pub(super) limits: Limits,
    pub(in crate::store) schema: Schema,
    pub(in crate::store) reader_role: Option<String>,
}

/// The name of the schema of the public views. The tables are in `<name>_private`.
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
    /// Parses a `postgres://` URL. Missing settings come from the environment (such as PGPASSWORD)
    /// and `.pgpass`. Hosts other than loopback must present a valid certificate, unless the URL or
    /// PGSSLMODE sets another mode.
    pub fn new(url: &str) -> Result<Self, StoreError> {
        let options =
            connect_options(url, Pgpass::Ignore).map_err(|source| StoreError::InvalidUrl { source })?;
        Ok(Self {
            url: Arc::new(SecretString::from(url)),
            options: Box::new(options),
            password_source: None,
            limits: Limits::default(),
            schema: Schema(DEFAULT_SCHEMA.to_owned()),
            reader_role: None,
        })
    }

    /// Sets the source of the password. It takes precedence over the URL and the environment.
    #[must_use]
    pub fn password_from(self, source: PasswordSource) -> Self {
        Self { password_source: Some(source), ..self }
    }

    /// Sets the limits of all waits. All processes that share the database must use the same
    /// limits.
    #[must_use]
    pub fn limits(self, limits: Limits) -> Self {
        Self { limits, ..self }
    }

    /// Sets the schema of the views: a lower-case name of at most 55 bytes. The tables are in
    /// `<schema>_private`.
    pub fn schema(self, name: &str) -> Result<Self, StoreError> {
        let schema = Schema::new(name).ok_or_else(|| StoreError::InvalidSchema { name: name.to_owned() })?;
        Ok(Self { schema, ..self })
    }

    /// Returns the error that names the server's own programs for backups of this database.
    #[must_use]
    pub fn backup_by_server(&self) -> StoreError {
        StoreError::BackupByServer { public: self.schema.public().to_owned(), private: self.schema.private() }
    }

    /// Sets the role that [`Store::migrate`](crate::store::Store::migrate) grants SELECT on the
    /// views, also if no migration is pending.
    #[must_use]
    pub fn reader_role(self, role: Option<&str>) -> Self {
        Self { reader_role: role.map(str::to_owned), ..self }
    }

    /// Sets the name of the sessions (`application_name`).
    #[must_use]
    pub fn session_name(self, name: &str) -> Self {
        Self { options: Box::new(self.options.application_name(name)), ..self }
    }

    /// Opens a connection. Reads the password and `.pgpass` again.
    pub(super) async fn open_connection(&self) -> Result<PgConnection, sqlx::Error> {
        self.open(|options| options).await
    }

    /// Opens a connection that logs no statements, not even slow ones.
    pub(super) async fn open_without_log(&self) -> Result<PgConnection, sqlx::Error> {
        self.open(sqlx::ConnectOptions::disable_statement_logging).await
    }

    /// Opens a connection whose options `adjust` has changed.
    async fn open(
        &self,
        adjust: fn(PgConnectOptions) -> PgConnectOptions,
    ) -> Result<PgConnection, sqlx::Error> {
        let (url, password_source) = (Arc::clone(&self.url), self.password_source.clone());
        let session_name = self.options.get_application_name().map(str::to_owned);
        let read_options = move || -> Result<PgConnectOptions, sqlx::Error> {
            let pgpass = if password_source.is_some() { Pgpass::Ignore } else { Pgpass::Read };
            let options = connect_options(url.expose_secret(), pgpass)?;
            let options = match session_name {
                Some(name) => options.application_name(&name),
                None => options,
            };
            let Some(read_password) = password_source else { return Ok(options) };
            let password = read_password().map_err(|why| sqlx::Error::Configuration(why.into()))?;
            Ok(options.password(password.expose_secret()))
        };
        let connecting = async {
            // `read_options` reads files, which blocks the thread.
            let options =
                tokio::task::spawn_blocking(read_options).await.map_err(|_| sqlx::Error::PoolClosed)??;
            adjust(options).connect().await
        };
        within(self.limits.connect, connecting).await
    }
}

/// Whether `.pgpass` is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pgpass {
    Read,
    /// The password is not needed, or comes from another source. sqlx would warn about a `.pgpass`
    /// that this user cannot open.
    Ignore,
}

/// Returns the connection settings of a URL, completed from the environment and, with
/// [`Pgpass::Read`], from `.pgpass`. With [`Pgpass::Ignore`] the password is empty.
fn connect_options(url: &str, pgpass: Pgpass) -> Result<PgConnectOptions, sqlx::Error> {
    let completed = match pgpass {
        Pgpass::Read => Cow::Borrowed(url),
        // sqlx reads `.pgpass` only if there is no password.
        Pgpass::Ignore => {
            let separator = if url.contains('?') { '&' } else { '?' };
            Cow::Owned(format!("{url}{separator}password="))
        }
    };
    let options = PgConnectOptions::from_str(&completed)?;
    let parameters = url.split_once('?').map_or("", |(_, parameters)| parameters);
    let sets_ssl_mode = std::env::var_os("PGSSLMODE").is_some()
        || parameters.split('&').any(|pair| pair.starts_with("sslmode=") || pair.starts_with("ssl-mode="));
    let options =
        if sets_ssl_mode || is_local(&options) { options } else { options.ssl_mode(PgSslMode::VerifyFull) };
    let options = options
        // Poolers reject this start-up parameter. All stored numbers are integers, so it is not
        // needed.
        .extra_float_digits(None)
        .log_statements(LevelFilter::Trace)
        .log_slow_statements(LevelFilter::Warn, SLOW_STATEMENT);
    Ok(match options.get_application_name() {
        Some(_) => options,
        None => options.application_name("tim-group-sync"),
    })
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

#[cfg(test)]
mod tests {
    use super::*;

    fn database(url: &str) -> PostgresDatabase {
        PostgresDatabase::new(url).unwrap()
    }

    #[test]
    fn hosts_other_than_loopback_must_present_a_valid_certificate() {
        let mode = |url: &str| database(url).options.get_ssl_mode();
        for remote in ["postgres://u@db.example/d", "postgres://u@10.0.0.1/d", "postgres://u@[2001:db8::1]/d"]
        {
            assert!(matches!(mode(remote), PgSslMode::VerifyFull), "{remote}");
        }
        for local in
            ["localhost/d", "127.0.0.1/d", "[::1]/d", "%2Frun/d", "db.example/d?host=/run/postgresql"]
        {
            assert!(matches!(mode(&format!("postgres://u@{local}")), PgSslMode::Prefer), "{local}");
        }
        assert!(matches!(mode("postgres://u@db.example/d?sslmode=require"), PgSslMode::Require));
        assert!(matches!(mode("postgres://u@db.example/d?a=b&ssl-mode=disable"), PgSslMode::Disable));
    }

    #[test]
    fn a_password_shows_nowhere() {
        let database = database("postgres://u:s3cret@db.example:5433/d?sslmode=disable")
            .password_from(Arc::new(|| Ok(SecretString::from("another s3cret"))));
        assert_eq!(database.to_string(), "postgres://u@db.example:5433/d");
        assert_eq!(format!("{database:?}"), "postgres://u@db.example:5433/d");
        let error = PostgresDatabase::new("postgres://u:s3cret@db.example:port/d").unwrap_err();
        assert!(!format!("{error:?} {error}").contains("s3cret"), "{error:?}");
    }

    #[test]
    fn a_schema_is_a_plain_name_with_room_for_the_suffix_of_the_private_schema() {
        for bad in ["", "Tim", "a b", "a\"b", "1a", "pg_tim", "ä", &"x".repeat(56)] {
            assert_eq!(Schema::new(bad), None, "{bad:?}");
        }
        assert_eq!(Schema::new("order").unwrap().private(), "order_private");
    }
}
