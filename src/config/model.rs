//! The types of a validated configuration.

use std::path::PathBuf;
use std::time::Duration;

use reqwest::Url;
use secrecy::ExposeSecret as _;

use super::database_url::DatabaseUrl;
use super::document::Setting;
use super::secrets::{PasswordRead, SecretFile, SecretFileError, SecretKeyRead};
use crate::model::{GroupType, ListenAddress, SdkAppId};
use crate::policy::{DeletionPolicy, Retention};
use crate::schedule::Schedule as Ticks;
use crate::tencent::client::is_loopback;
use crate::tencent::region::Region;

/// A validated configuration.
#[derive(Clone, Debug, PartialEq)]
pub struct Config {
    pub database: Database,
    /// The listener of `/metrics`, `/healthz` and `/readyz`. `None` turns them off.
    pub metrics: Option<Listener>,
    /// The listener of the dashboard. `None` turns it off. Other machines can reach it only with `allow_remote = true`.
    pub dashboard: Option<Listener>,
    pub log: Log,
    pub retention: Retention,
    /// In the order of the file. There is at least one; names and SDKAppIDs are unique.
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
    /// PostgreSQL only: a name that needs no quotes in SQL.
    pub schema: String,
    /// PostgreSQL only.
    pub reader_role: Option<String>,
    pub auto_migrate: bool,
    /// SQLite only: the path of the copy for readers.
    pub publish: Option<PathBuf>,
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

/// One SDKAppID and how it is crawled.
#[derive(Clone, Debug, PartialEq)]
pub struct App {
    pub name: String,
    pub sdk_app_id: SdkAppId,
    /// The administrator account that signs requests.
    pub identifier: String,
    /// See [`App::read_secret_key`].
    pub secret_key_file: SecretFile,
    pub api: Endpoint,
    /// Distinct, at most 60. If empty, one unfiltered pass is made.
    pub group_types: Vec<GroupType>,
    pub page_limit: u32,
    pub request_interval: Duration,
    pub request_timeout: Duration,
    pub retry_for: Duration,
    /// The number of groups that the app may have, by contract or by choice. `None`: no alert.
    pub group_quota: Option<u64>,
    pub schedule: Schedule,
    pub deletion: DeletionPolicy,
}

/// The address of an app's API.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Endpoint {
    /// Scheme, host and port.
    pub base_url: Url,
    /// `None` if the file has `base_url`.
    pub region: Option<Region>,
}

impl Endpoint {
    /// Returns whether requests stay on this machine, where the API's rate limit does not apply.
    #[must_use]
    pub fn is_loopback(&self) -> bool {
        is_loopback(&self.base_url)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Schedule {
    /// The cron expression in its time zone.
    pub ticks: Ticks,
    pub catch_up: bool,
}

impl App {
    /// Reads the app's key. A later call returns the key that the file contains then.
    pub fn read_secret_key(&self) -> Result<SecretKeyRead, SecretFileError> {
        self.secret_key_file.read_key()
    }
}

impl Database {
    /// Reads the password of a PostgreSQL database. Returns `None` if there is no `password_file`, or if the URL carries a
    /// password, as only the URL of the environment can.
    pub fn read_password(&self) -> Result<Option<PasswordRead>, SecretFileError> {
        match (&self.url, &self.password_file) {
            (DatabaseUrl::Postgres(url), Some(file)) if !url.has_password() => {
                let (password, warnings) = file.read()?;
                if password.expose_secret().contains(char::is_control) {
                    let what = "a line break or another control character";
                    return Err(SecretFileError::NotAlone { path: file.path.clone(), what });
                }
                Ok(Some(PasswordRead { password, warnings }))
            }
            _ => Ok(None),
        }
    }
}
