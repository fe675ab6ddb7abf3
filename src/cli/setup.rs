//! From the configuration to the parts of the program: the only place that hands each part its settings.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::timeout;
use tracing::warn;

use super::exit::{Exit, Failure};
use super::owner::become_owner;
use crate::clock::Clock;
use crate::config::{self, App, Config, Environment, Home, LogFormat, Origin, PasswordRead};
use crate::crawl::{CrawlSettings, Crawler};
use crate::pace::RetryPolicy;
use crate::publish::Publication;
use crate::store::{AppIdentity, DatabaseUrl, PostgresDatabase, Store, StoreError};
use crate::telemetry;
use crate::tencent::region::Region;
use crate::tencent::{Client, ClientSettings};

/// As long may it take to close a database.
const CLOSING: Duration = Duration::from_secs(5);

/// What every command but `demo` and `simulate` starts from.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    file: Option<PathBuf>,
    pub(super) environment: Environment,
    pub(super) clock: Clock,
    opened: Arc<Mutex<Vec<Store>>>,
}

impl Setup {
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        Self { file, environment: Environment::of_process(), clock: Clock::system(), opened: Arc::default() }
    }

    /// Reads the configuration and starts logging as it says.
    pub(super) fn config(&self) -> Result<Config, Failure> {
        let config = self.read(&self.environment)?;
        telemetry::init(&config.log.level, format(config.log.format));
        Ok(config)
    }

    /// Reads the configuration for a command that people run by hand: only what they must know is logged, as text.
    pub(super) fn config_for_command(&self) -> Result<Config, Failure> {
        let config = self.read(&self.environment)?;
        let chosen = config
            .settings
            .iter()
            .any(|setting| setting.key == "log.level" && !matches!(setting.origin, Origin::Default));
        telemetry::init(if chosen { &config.log.level } else { "warn" }, format(config.log.format));
        Ok(config)
    }

    /// Where the configuration is.
    pub(super) fn locate(&self) -> Result<PathBuf, Failure> {
        Ok(Config::locate(self.file.as_deref(), &self.environment)?)
    }

    /// Where the configuration is to be.
    pub(super) fn home(&self) -> Result<Home, Failure> {
        Config::home(self.file.as_deref(), &self.environment)
            .map_err(|error| Failure::new(Exit::Usage, error))
    }

    /// What a command line has to say so that it finds the same configuration.
    pub(super) fn config_argument(&self) -> String {
        self.file.as_ref().map_or_else(String::new, |file| format!(" --config {}", file.display()))
    }

    pub(super) fn read(&self, environment: &Environment) -> Result<Config, Failure> {
        Ok(Config::load(&self.locate()?, environment)?)
    }

    /// Makes root the owner of the configuration's SQLite file. This has to come before there is a second thread.
    pub(super) fn become_owner(&self) -> Result<(), Failure> {
        match self.read(&self.environment) {
            Ok(Config {
                database: config::Database { url: config::DatabaseUrl::Sqlite(path), .. }, ..
            }) => become_owner(&path),
            // The command itself will tell what is wrong with the configuration.
            _ => Ok(()),
        }
    }

    /// The configuration's database, opened for writing, with its tables up to date.
    pub(super) async fn store(&self, config: &Config) -> Result<Store, Failure> {
        Ok(self.opened(open(&location(config)?, config).await?))
    }

    /// Remembers a database that a command works with, so that it is closed however the command ends.
    pub(super) fn opened(&self, store: Store) -> Store {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner).push(store.clone());
        store
    }

    /// Closes what the command opened. A server that does not answer any more is not waited for.
    pub(super) async fn close_databases(&self) {
        let opened = std::mem::take(&mut *self.opened.lock().unwrap_or_else(PoisonError::into_inner));
        for store in opened {
            let _ = timeout(CLOSING, store.close()).await;
        }
    }

    /// The crawler of an app.
    pub(super) fn crawler(&self, config: &Config, app: &App, client: Client, store: &Store) -> Crawler {
        let settings = CrawlSettings {
            identity: AppIdentity { sdk_app_id: app.sdk_app_id, name: app.name.clone() },
            group_types: app.group_types.clone(),
            page_limit: app.page_limit,
            request_interval: app.request_interval,
            retry: RetryPolicy::lasting(app.retry_for),
            deletion: app.deletion.clone(),
            timezone: app.schedule.ticks.timezone(),
            host: host(),
        };
        Crawler::new(settings, client, store.clone(), self.clock.clone()).with_retention(config.retention)
    }

    /// The client of an app, its key read from its file.
    pub(super) fn client(&self, app: &App) -> Result<Client, Failure> {
        let (client, warnings) = self.client_and_warnings(app)?;
        warnings.iter().for_each(|warning| warn!(app = app.name, "{warning}"));
        Ok(client)
    }

    /// The same, for whoever tells of what is odd about the key's file in their own way.
    pub(super) fn client_and_warnings(&self, app: &App) -> Result<(Client, Vec<String>), Failure> {
        let read = app.read_secret_key()?;
        let settings = ClientSettings {
            sdk_app_id: app.sdk_app_id,
            identifier: app.identifier.clone(),
            secret_key: read.key,
            base_url: app.api.base_url.clone(),
            region_hint: region_hint(app),
            request_timeout: app.request_timeout,
            clock: self.clock.clone(),
        };
        let client = Client::new(settings).map_err(|error| Failure::new(Exit::Failed, error))?;
        Ok((client, read.warnings))
    }
}

/// The copy for readers, if there is to be one.
pub(super) fn publication(config: &Config) -> Option<Publication> {
    let path = config.database.publish.clone()?;
    Some(Publication { path, interval: config.database.publish_interval })
}

/// Opens a database for writing, with its tables up to date.
pub(super) async fn open(location: &DatabaseUrl, config: &Config) -> Result<Store, StoreError> {
    let store = Store::open(location).await?;
    let migrated =
        if config.database.auto_migrate { store.migrate().await } else { store.check_migrated().await };
    if migrated.is_err() {
        store.close().await;
    }
    migrated.map(|()| store)
}

/// The database's place in the store's own terms.
pub(super) fn location(config: &Config) -> Result<DatabaseUrl, Failure> {
    let (location, warnings) = location_and_warnings(config)?;
    warnings.iter().for_each(|warning| warn!("{warning}"));
    Ok(location)
}

/// The same, for whoever tells of what is odd about the password's file in their own way.
pub(super) fn location_and_warnings(config: &Config) -> Result<(DatabaseUrl, Vec<String>), Failure> {
    let url = match &config.database.url {
        config::DatabaseUrl::Sqlite(path) => return Ok((DatabaseUrl::Sqlite(path.clone()), Vec::new())),
        config::DatabaseUrl::Postgres(url) => url,
    };
    let database = PostgresDatabase::new(url.expose())?
        .schema(&config.database.schema)?
        .reader_role(config.database.reader_role.as_deref());
    let read = config.database.read_password().map_err(|error| Failure::new(Exit::Config, error))?;
    Ok(match read {
        Some(PasswordRead { password, warnings }) => {
            (DatabaseUrl::Postgres(database.password(&password)), warnings)
        }
        None => (DatabaseUrl::Postgres(database), Vec::new()),
    })
}

/// The apps that a command is for.
pub(super) fn selected<'a>(config: &'a Config, name: Option<&str>) -> Result<Vec<&'a App>, Failure> {
    let apps: Vec<&App> = config.apps.iter().filter(|app| name.is_none_or(|name| app.name == name)).collect();
    if apps.is_empty() {
        let names: Vec<&str> = config.apps.iter().map(|app| app.name.as_str()).collect();
        let name = name.unwrap_or_default();
        let error = anyhow::anyhow!("no app is called {name:?}; the configuration has {}", names.join(", "));
        return Err(Failure::new(Exit::Usage, error));
    }
    Ok(apps)
}

/// The configured data centre and the others, for an error that says the app is not there.
fn region_hint(app: &App) -> String {
    let Some(configured) = app.api.region else {
        return format!("base_url is {}", app.api.base_url);
    };
    let others: Vec<&str> =
        Region::ALL.iter().filter(|(_, region)| *region != configured).map(|(name, _)| *name).collect();
    format!(
        "region is {configured:?}, the others are {}",
        others.join(", "),
        configured = configured.to_string()
    )
}

fn host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

fn format(format: LogFormat) -> telemetry::Format {
    match format {
        LogFormat::Auto => telemetry::Format::Auto,
        LogFormat::Text => telemetry::Format::Text,
        LogFormat::Json => telemetry::Format::Json,
    }
}
