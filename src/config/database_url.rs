//! The URL of the database. Only the driver receives the password in it.

use std::fmt;
use std::path::{Path, PathBuf};

use reqwest::Url;

use super::document::ParseResult;
use super::problems::Mistake;
use super::values::{did_you_mean, path};

/// The configured database. `Debug` and `Display` mask a password.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DatabaseUrl {
    Sqlite(PathBuf),
    Postgres(PostgresUrl),
}

/// The URL of a PostgreSQL database. Only [`PostgresUrl::expose`] returns a password in it.
#[derive(Clone, PartialEq, Eq)]
pub struct PostgresUrl(Url);

impl DatabaseUrl {
    /// Parses `sqlite:PATH` or `postgres://…`. A relative path is resolved against `folder`.
    /// Messages of mistakes do not contain the URL.
    pub fn parse(text: &str, folder: &Path) -> Result<Self, Mistake> {
        if let Some(rest) = text.strip_prefix("sqlite:") {
            let rest = rest.strip_prefix("//").unwrap_or(rest);
            let fix = "Write for example \"sqlite:groups.db\" or \
                 \"sqlite:/var/lib/tim-group-sync/groups.db\"";
            return match rest {
                "" | ":memory:" => {
                    Err(Mistake::new("must name a file: a database in memory would be lost", fix))
                }
                _ if rest.contains('?') => Err(Mistake::new("must be a path without options", fix)),
                _ => path(rest, folder).map(Self::Sqlite),
            };
        }
        if text.starts_with("postgres://") || text.starts_with("postgresql://") {
            return postgres(text).map(|url| Self::Postgres(PostgresUrl(url)));
        }
        let fix = "Write for example \"sqlite:groups.db\" or \"postgres://user@host:5432/db\"";
        Err(Mistake::new("must begin with sqlite: or postgres://", fix))
    }
}

/// The parameters of the URL that sqlx supports. Others are rejected, because sqlx would log them
/// with their values, for example a misspelt `password`.
const POSTGRES_PARAMETERS: [&str; 18] = [
    "sslmode",
    "ssl-mode",
    "sslrootcert",
    "ssl-root-cert",
    "ssl-ca",
    "sslcert",
    "ssl-cert",
    "sslkey",
    "ssl-key",
    "statement-cache-capacity",
    "host",
    "hostaddr",
    "port",
    "dbname",
    "user",
    "password",
    "application_name",
    "options",
];

fn postgres(text: &str) -> ParseResult<Url> {
    let url = Url::parse(text).map_err(|error| {
        Mistake::new(format!("is not a URL: {error}"), "Write for example \"postgres://user@host:5432/db\"")
    })?;
    for (name, value) in url.query_pairs() {
        if !POSTGRES_PARAMETERS.contains(&&*name) && !name.starts_with("options[") {
            let fix = did_you_mean(&name, POSTGRES_PARAMETERS);
            return Err(Mistake::new("has an unknown parameter", fix));
        }
        let modes = ["disable", "allow", "prefer", "require", "verify-ca", "verify-full"];
        if matches!(&*name, "sslmode" | "ssl-mode") && !modes.contains(&&*value) {
            return Err(Mistake::new(format!("sslmode must be one of {}", modes.join(", ")), ""));
        }
    }
    Ok(url)
}

impl PostgresUrl {
    /// Returns the URL for the driver, including its password, if it has one.
    #[must_use]
    pub fn expose(&self) -> &str {
        self.0.as_str()
    }

    #[must_use]
    pub fn has_password(&self) -> bool {
        self.0.password().is_some() || self.0.query_pairs().any(|(name, _)| name == "password")
    }
}

impl fmt::Display for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.has_password() {
            return f.write_str(self.0.as_str());
        }
        let mut masked = self.0.clone();
        // This fails for a URL without a host, which has no password in this position.
        masked.set_password(self.0.password().map(|_| "***")).ok();
        let mask = |(name, value)| if name == "password" { (name, "***".into()) } else { (name, value) };
        let pairs: Vec<_> = self.0.query_pairs().map(mask).collect();
        masked.set_query(None);
        if !pairs.is_empty() {
            masked.query_pairs_mut().extend_pairs(pairs);
        }
        f.write_str(masked.as_str())
    }
}

impl fmt::Debug for PostgresUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{self}\"")
    }
}

impl fmt::Display for DatabaseUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Sqlite(path) => write!(f, "sqlite:{}", path.display()),
            Self::Postgres(url) => url.fmt(f),
        }
    }
}
