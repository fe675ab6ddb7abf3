//! Creates crawlers, API clients, databases and notification receivers from the configuration. All
//! commands with a configuration get them from here.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::time::timeout;
use tracing::warn;

use super::exit::{Exit, Failure};
use super::owner::become_owner;
use crate::clock::Clock;
use crate::config::{self, App, Config, Environment, LogFormat, NewConfigLocation, Origin};
use crate::crawl::{CrawlSettings, Crawler};
use crate::daemon::Opening;
use crate::details::{DetailsRefresher, DetailsSettings};
use crate::model::with_causes;
use crate::notify::{MakeReceiver, Receiver};
use crate::pace::RetryPolicy;
use crate::policy::DetailsPolicy;
use crate::publish::Publication;
use crate::store::{AppIdentity, DatabaseLocation, PostgresDatabase, Store, StoreError, this_host};
use crate::telemetry;
use crate::tencent::region::Region;
use crate::tencent::{Client, ClientSettings};

/// The total time for retries of the requests for details between two writes.
const DETAILS_RETRY_FOR: Duration = Duration::from_secs(10);
/// The maximum time for closing a database.
const CLOSE_TIMEOUT: Duration = Duration::from_secs(5);

/// The context of every command except `demo` and `simulate`.
#[derive(Clone, Debug)]
pub(super) struct Setup {
    file: Option<PathBuf>,
    pub(super) environment: Environment,
    pub(super) clock: Clock,
    /// The databases that are closed at the end of the command.
    open_databases: Arc<Mutex<Vec<Store>>>,
}

impl Setup {
    pub(super) fn new(file: Option<PathBuf>) -> Self {
        Self {
            file,
            environment: Environment::of_process(),
            clock: Clock::system(),
            open_databases: Arc::default(),
        }
    }

    /// Reads the configuration and starts logging with its settings.
    pub(super) fn config(&self) -> Result<Config, Failure> {
        let config = self.read(&self.environment)?;
        telemetry::init(&config.log.level, format(config.log.format));
        Ok(config)
    }

    /// Reads the configuration for an interactive command. The log level is `warn`, unless the
    /// configuration sets one.
    pub(super) fn config_for_command(&self) -> Result<Config, Failure> {
        let config = self.read(&self.environment)?;
        let is_level_set = config
            .settings
            .iter()
            .any(|setting| setting.key == "log.level" && !matches!(setting.origin, Origin::Default));
        telemetry::init(if is_level_set { &config.log.level } else { "warn" }, format(config.log.format));
        Ok(config)
    }

    pub(super) fn locate(&self) -> Result<PathBuf, Failure> {
        Ok(Config::locate(self.file.as_deref(), &self.environment)?)
    }

    /// Returns where `init` creates a configuration.
    pub(super) fn new_config_location(&self) -> Result<NewConfigLocation, Failure> {
        Config::new_location(self.file.as_deref(), &self.environment)
            .map_err(|error| Failure::new(Exit::Usage, error))
    }

    /// Returns the `--config` argument, with a leading space, with which other commands find the
    /// same configuration.
    pub(super) fn config_argument(&self) -> String {
        self.file.as_ref().map_or_else(String::new, |file| format!(" --config {}", file.display()))
    }

    pub(super) fn read(&self, environment: &Environment) -> Result<Config, Failure> {
        Ok(Config::load(&self.locate()?, environment)?)
    }

    /// If the user is root, changes to the owner of the configuration's SQLite file. Must be called
    /// before a second thread exists.
    pub(super) fn become_owner(&self) -> Result<(), Failure> {
        match self.read(&self.environment) {
            Ok(Config {
                database: config::Database { url: config::DatabaseUrl::Sqlite(path), .. }, ..
            }) => become_owner(&path),
            // The command itself reports an invalid configuration.
            _ => Ok(()),
        }
    }

    /// Opens the configured database for writing. With `auto_migrate`, brings its tables up to
    /// date.
    pub(super) async fn store(&self, config: &Config) -> Result<Store, Failure> {
        Ok(self.close_at_end(open(&database_location(config)?, config, Opening::First).await?))
    }

    /// Registers a database to be closed at the end of the command, even if the command fails.
    pub(super) fn close_at_end(&self, store: Store) -> Store {
        self.open_databases.lock().unwrap_or_else(PoisonError::into_inner).push(store.clone());
        store
    }

    /// Closes the databases that the command opened. Gives up after [`CLOSE_TIMEOUT`] if a server
    /// does not answer.
    pub(super) async fn close_databases(&self) {
        let opened = std::mem::take(&mut *self.open_databases.lock().unwrap_or_else(PoisonError::into_inner));
        for store in opened {
            let _ = timeout(CLOSE_TIMEOUT, store.close()).await;
        }
    }

    pub(super) fn crawler(&self, config: &Config, app: &App, client: Client, store: &Store) -> Crawler {
        let settings = CrawlSettings {
            identity: AppIdentity { sdk_app_id: app.sdk_app_id, name: app.name.clone() },
            group_types: app.group_types.clone(),
            page_limit: app.page_limit,
            request_interval: app.request_interval,
            retry: RetryPolicy::lasting(app.retry_for),
            deletion: app.deletion.clone(),
            details: config.details,
            timezone: app.schedule.ticks.timezone(),
            host: this_host(),
        };
        Crawler::new(settings, client, store.clone(), self.clock.clone())
            .with_retention(config.retention)
            .with_statistics(app.statistics)
    }

    /// Creates the refresher of an app's details.
    pub(super) fn details_refresher(
        &self,
        policy: DetailsPolicy,
        app: &App,
        client: Client,
        store: &Store,
    ) -> DetailsRefresher {
        let settings = DetailsSettings {
            sdk_app_id: app.sdk_app_id,
            app: app.name.clone(),
            host: this_host(),
            policy,
            retry: RetryPolicy::lasting(DETAILS_RETRY_FOR),
        };
        DetailsRefresher::new(settings, client, store.clone(), self.clock.clone())
    }

    /// Creates the client of an app. Reads its key and logs warnings about the key's file.
    pub(super) fn client(&self, app: &App) -> Result<Client, Failure> {
        let settings = self.client_settings(app)?;
        Client::new(settings).map_err(|error| Failure::new(Exit::Failed, error))
    }

    /// Creates the client of an app. Returns the warnings about the key's file.
    pub(super) fn client_and_warnings(&self, app: &App) -> Result<(Client, Vec<String>), Failure> {
        let (settings, warnings) = self.client_settings_and_warnings(app)?;
        let client = Client::new(settings).map_err(|error| Failure::new(Exit::Failed, error))?;
        Ok((client, warnings))
    }

    /// Returns the settings of the clients of an app. Reads the app's key and logs warnings about
    /// the key's file.
    pub(super) fn client_settings(&self, app: &App) -> Result<ClientSettings, Failure> {
        let (settings, warnings) = self.client_settings_and_warnings(app)?;
        warnings.iter().for_each(|warning| warn!(app = app.name, "{warning}"));
        Ok(settings)
    }

    fn client_settings_and_warnings(&self, app: &App) -> Result<(ClientSettings, Vec<String>), Failure> {
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
        Ok((settings, read.warnings))
    }
}

/// Returns the settings of the copy for readers, if one is configured.
pub(super) fn publication(config: &Config) -> Option<Publication> {
    let path = config.database.publish.clone()?;
    Some(Publication { path, interval: config.database.publish_interval })
}

/// Returns a function that creates the receiver of notifications, if one is configured. Each call
/// reads the files again.
pub(super) fn receiver(config: &Config) -> Option<MakeReceiver> {
    let notify = config.notify.clone()?;
    Some(Arc::new(move || receiver_and_warnings(&notify).map(|(receiver, _)| receiver)))
}

/// Creates the receiver of notifications. Returns the warnings about its files. The error is a
/// sentence without secrets.
pub(super) fn receiver_and_warnings(notify: &config::Notify) -> Result<(Receiver, Vec<String>), String> {
    let read = notify.read().map_err(|error| with_causes(&error))?;
    let url_file = notify.url_file.path.display().to_string();
    let receiver = Receiver::new(&read.url, &url_file, notify.format, read.secret)?;
    Ok((receiver, read.warnings))
}

/// Opens a database for writing. Migrates it, or with `auto_migrate = false` checks that it is
/// migrated.
pub(super) async fn open(
    location: &DatabaseLocation,
    config: &Config,
    opening: Opening,
) -> Result<Store, StoreError> {
    let store = match opening {
        Opening::First => Store::open(location).await?,
        Opening::Again => Store::open_existing(location).await?,
    };
    let migrated =
        if config.database.auto_migrate { store.migrate().await } else { store.check_migrated().await };
    let ready = match migrated {
        Ok(()) => store.move_ids_past_rows().await,
        Err(error) => Err(error),
    };
    if ready.is_err() {
        store.close().await;
    }
    ready.map(|()| store)
}

/// Returns the configured location of the database. Reads the password, and logs warnings about
/// the password's file.
pub(super) fn database_location(config: &Config) -> Result<DatabaseLocation, Failure> {
    let (location, warnings) = location_and_warnings(config)?;
    warnings.iter().for_each(|warning| warn!("{warning}"));
    Ok(location)
}

/// Returns the configured location of the database. Reads the password, and returns warnings about
/// the password's file.
pub(super) fn location_and_warnings(config: &Config) -> Result<(DatabaseLocation, Vec<String>), Failure> {
    let mut location = location_from_url(&config.database.url, &config.database.schema)?;
    let mut warnings = Vec::new();
    if let DatabaseLocation::Postgres(database) = &mut location {
        *database = database.clone().reader_role(config.database.reader_role.as_deref());
        let read = config.database.read_password().map_err(|error| Failure::new(Exit::Config, error))?;
        if let Some(read) = read {
            let own = config.database.clone();
            // The password is read again for each connection, because it may be rotated.
            *database = database.clone().password_from(Arc::new(move || match own.read_password() {
                Ok(Some(read)) => Ok(read.password),
                Ok(None) => Err("no database.password_file is configured".to_owned()),
                Err(error) => Err(error.to_string()),
            }));
            warnings = read.warnings;
        }
    }
    Ok((location, warnings))
}

/// Converts a URL to a location. The schema is that of the views in PostgreSQL.
pub(super) fn location_from_url(
    url: &config::DatabaseUrl,
    schema: &str,
) -> Result<DatabaseLocation, StoreError> {
    Ok(match url {
        config::DatabaseUrl::Sqlite(path) => DatabaseLocation::Sqlite(path.clone()),
        config::DatabaseUrl::Postgres(url) => {
            DatabaseLocation::Postgres(PostgresDatabase::new(url.expose())?.schema(schema)?)
        }
    })
}

/// Returns the app with this name, or all apps if there is no name.
pub(super) fn selected<'a>(config: &'a Config, name: Option<&str>) -> Result<Vec<&'a App>, Failure> {
    let apps: Vec<&App> = config.apps.iter().filter(|app| name.is_none_or(|name| app.name == name)).collect();
    if apps.is_empty() {
        let names: Vec<&str> = config.apps.iter().map(|app| app.name.as_str()).collect();
        let name = name.unwrap_or_default();
        let error = anyhow::anyhow!("no app is named {name:?}; the configuration has {}", names.join(", "));
        return Err(Failure::new(Exit::Usage, error));
    }
    Ok(apps)
}

/// Returns the hint for the error that the API does not know the SDKAppID. It names the configured
/// data centre and the others.
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

fn format(format: LogFormat) -> telemetry::Format {
    match format {
        LogFormat::Auto => telemetry::Format::Auto,
        LogFormat::Text => telemetry::Format::Text,
        LogFormat::Json => telemetry::Format::Json,
    }
}
