//! The configuration: read from TOML, checked as a whole, every mistake reported with its line, rule and remedy.
//!
//! What stands in a [`Config`] is lawful; nobody checks it again. Secrets are not in it, only the files that hold
//! them, with one exception: the database URL of the environment may carry a password, which is never shown.

mod database_url;
mod document;
mod environment;
mod problems;
mod secrets;
mod sections;
#[cfg(test)]
mod tests;
mod values;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use reqwest::Url;

use crate::model::{GroupType, SdkAppId};
use crate::schedule::Schedule as Ticks;
use crate::tencent::client::is_loopback;
use crate::tencent::region::Region;

pub use database_url::{DatabaseUrl, PostgresUrl};
pub use document::{Origin, Setting};
pub use environment::{Environment, Home, NoConfigFile, NoHome};
pub use problems::{ConfigProblems, Mistake, Problem};
pub use secrets::{PasswordRead, SecretFile, SecretFileError, SecretKeyRead, UNUSUAL_KEY};
pub use sections::{APP_NAME, is_app_name};

/// A whole, lawful configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub database: Database,
    /// Where `/metrics`, `/healthz` and `/readyz` are served; `None` is off.
    pub metrics: Option<SocketAddr>,
    /// Where the page is served; `None` is off. Other than loopback only if the file allows it.
    pub dashboard: Option<SocketAddr>,
    pub log: Log,
    pub retention: Retention,
    /// In the order of the file, at least one, each with a name and an SDKAppID of its own.
    pub apps: Vec<App>,
    /// Every value in effect and where it came from, for people.
    pub settings: Vec<Setting>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    pub url: DatabaseUrl,
    /// PostgreSQL only; see [`Database::read_password`].
    pub password_file: Option<SecretFile>,
    /// PostgreSQL only: a plain lower-case name.
    pub schema: String,
    /// PostgreSQL only.
    pub reader_role: Option<String>,
    pub auto_migrate: bool,
    /// SQLite only: where the copy for readers is.
    pub publish: Option<PathBuf>,
    pub publish_interval: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A level or a filter of `tracing_subscriber`.
    pub level: String,
    pub format: LogFormat,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogFormat {
    /// Text on a terminal and in the journal, JSON elsewhere.
    Auto,
    Text,
    Json,
}

/// For how many days rows are kept; `None` is for ever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    pub deleted_groups: Option<u32>,
    pub events: Option<u32>,
    pub counts: Option<u32>,
}

/// One SDKAppID and how it is crawled.
#[derive(Clone, Debug, PartialEq)]
pub struct App {
    pub name: String,
    pub sdk_app_id: SdkAppId,
    /// The administrator account that signs.
    pub identifier: String,
    /// See [`App::read_secret_key`].
    pub secret_key_file: SecretFile,
    pub api: Endpoint,
    /// Distinct, at most 60; empty for one unfiltered pass.
    pub group_types: Vec<GroupType>,
    pub page_limit: u32,
    pub request_interval: Duration,
    pub request_timeout: Duration,
    pub retry_for: Duration,
    pub schedule: Schedule,
    pub deletion: Deletion,
}

/// Where an app's API is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Scheme, host and port.
    pub base_url: Url,
    /// `None` if the file gives the URL itself.
    pub region: Option<Region>,
}

impl Endpoint {
    /// Whether requests stay on this machine, where the vendor's rate does not hold.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.base_url)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// When, in which time zone.
    pub ticks: Ticks,
    pub catch_up: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct Deletion {
    pub mode: DeletionMode,
    pub max_fraction: f64,
    pub min_groups: u64,
    pub max_shortfall: f64,
    /// Whether each vanished group is asked about first.
    pub confirm: bool,
    /// What holds for these types instead of `max_fraction`.
    pub max_fraction_by_type: BTreeMap<GroupType, f64>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeletionMode {
    Apply,
    Review,
}

impl Config {
    /// Reads and checks a file.
    pub fn load(file: &Path, env: &Environment) -> Result<Self, ConfigProblems> {
        let problem = |rule| {
            let mistake = Mistake::new(rule, "Name another with --config");
            ConfigProblems::new(vec![Problem::new(
                &file.display().to_string(),
                None,
                String::new(),
                None,
                mistake,
            )])
        };
        let bytes = std::fs::read(file).map_err(|error| problem(format!("cannot be read: {error}")))?;
        let text = String::from_utf8(bytes).map_err(|_| problem("is not UTF-8 text".to_owned()))?;
        Self::parse(&text, file, env)
    }

    /// Checks a file's text. Relative paths in it count from the folder of `file`.
    pub fn parse(text: &str, file: &Path, env: &Environment) -> Result<Self, ConfigProblems> {
        sections::read(text, file, env)
    }
}
