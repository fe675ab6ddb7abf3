//! The data types of a validated configuration.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;

use super::database_url::DatabaseUrl;
use super::document::Setting;
use super::secrets::{NotifySecretsRead, PasswordRead, SecretFile, SecretFileError, SecretKeyRead};
use crate::http::is_loopback;
use crate::model::{GroupType, ListenAddress, SdkAppId};
use crate::policy::{DeletionPolicy, DetailsPolicy, NotificationFormat, Retention};
use crate::schedule::Schedule as Ticks;
use crate::tencent::region::Region;

/// A validated configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub database: Database,
    /// The listener of `/metrics`, `/healthz` and `/readyz`. `None` disables them.
    pub metrics: Option<Listener>,
    /// The listener of the dashboard. `None` disables it. Other machines can reach it only with
    /// `allow_remote = true`.
    pub dashboard: Option<Listener>,
    pub log: Log,
    pub retention: Retention,
    /// `None` if the details of groups are not kept.
    pub details: Option<DetailsPolicy>,
    /// The receiver of notifications. `None` without `[notify]`.
    pub notify: Option<Notify>,
    /// The apps in the order of the file, at least one. Names and SDKAppIDs are unique.
    pub apps: Vec<App>,
    /// Every effective value and its origin, for `check --show-config`.
    pub settings: Vec<Setting>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listener {
    pub address: ListenAddress,
    /// The host names that requests may use besides `localhost` and IP addresses, in lower case.
    pub allowed_hosts: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Database {
    pub url: DatabaseUrl,
    /// PostgreSQL only; see [`Database::read_password`].
    pub password_file: Option<SecretFile>,
    /// PostgreSQL only: the schema of the views. Valid in SQL without quotes.
    pub schema: String,
    /// PostgreSQL only: the role that gets read access to the views.
    pub reader_role: Option<String>,
    pub auto_migrate: bool,
    /// SQLite only: the path of the copy for readers.
    pub publish: Option<PathBuf>,
    /// The minimum time between two copies.
    pub publish_interval: Duration,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Log {
    /// A level, or a filter in the syntax of `tracing_subscriber`.
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

/// Where notifications are sent. The files are read again before each attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notify {
    /// See [`Notify::read`].
    pub url_file: SecretFile,
    pub format: NotificationFormat,
    /// Present only for formats whose receivers verify a secret.
    pub secret_file: Option<SecretFile>,
}

/// An app and the settings of its crawls.
#[derive(Clone, Debug, PartialEq)]
pub struct App {
    pub name: String,
    pub sdk_app_id: SdkAppId,
    /// The administrator account that signs requests.
    pub identifier: String,
    /// See [`App::read_secret_key`].
    pub secret_key_file: SecretFile,
    pub api: Endpoint,
    /// At most 60 distinct types. If empty, one unfiltered pass is made.
    pub group_types: Vec<GroupType>,
    pub page_limit: u32,
    pub request_interval: Duration,
    pub request_timeout: Duration,
    pub retry_for: Duration,
    /// The maximum number of groups that the app may have, exported for alerts. `None` if not
    /// configured.
    pub group_quota: Option<u64>,
    /// Whether the API's own statistics of the app are fetched once a day.
    pub statistics: bool,
    pub schedule: Schedule,
    pub deletion: DeletionPolicy,
}

/// The address of an app's API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Scheme, host and port.
    pub base_url: Url,
    /// `None` if the file sets `base_url`.
    pub region: Option<Region>,
}

impl Endpoint {
    /// Returns whether the API is on this machine, so that it is a simulator without the API's rate
    /// limit.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.base_url)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The cron expression and its time zone.
    pub ticks: Ticks,
    pub catch_up: bool,
}

impl App {
    /// Reads the app's key from its file. Each call reads the file again.
    pub fn read_secret_key(&self) -> Result<SecretKeyRead, SecretFileError> {
        self.secret_key_file.read_key(&format!("apps.{}.secret_key_file", self.name))
    }
}

impl Database {
    /// Reads the password of a PostgreSQL database from its file. Returns `None` if there is no
    /// `password_file`, or if the URL has a password, which only the URL from the environment can
    /// have.
    pub fn read_password(&self) -> Result<Option<PasswordRead>, SecretFileError> {
        match (&self.url, &self.password_file) {
            (DatabaseUrl::Postgres(url), Some(file)) if !url.has_password() => {
                file.read_password("database.password_file").map(Some)
            }
            _ => Ok(None),
        }
    }
}

impl Notify {
    /// Reads the URL and the secret from their files.
    pub fn read(&self) -> Result<NotifySecretsRead, SecretFileError> {
        let (url, mut warnings) = self.url_file.read_without_white_space("notify.url_file")?;
        let secret = self.secret_file.as_ref();
        let secret = secret.map(|file| file.read_without_white_space("notify.secret_file")).transpose()?;
        let secret = secret.map(|(secret, more)| {
            warnings.extend(more);
            secret
        });
        Ok(NotifySecretsRead { url, secret, warnings })
    }
}
