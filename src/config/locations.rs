//! The locations in which configuration files are searched and created.

use std::fmt;
use std::path::{Path, PathBuf};

use super::environment::Environment;
use super::model::Config;

/// The error that no configuration file exists in the default locations.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NoConfigFile {
    pub looked_at: Vec<PathBuf>,
}

impl fmt::Display for NoConfigFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let places: Vec<_> = self.looked_at.iter().map(|path| path.display().to_string()).collect();
        write!(
            f,
            "no configuration file: looked at {}\n\
             `tim-group-sync init` writes one; \
             name another file with --config FILE or TIM_GROUP_SYNC_CONFIG; \
             or try `tim-group-sync demo`, which needs no configuration\n\
             the shortest configuration is:\n{SHORTEST}",
            places.join(" and ")
        )
    }
}

impl std::error::Error for NoConfigFile {}

/// The shortest valid configuration, as the error shows it.
pub(super) const SHORTEST: &str = "    [apps.prod]\n    \
    sdk_app_id = 1400000000\n    \
    secret_key_file = \"/etc/tim-group-sync/prod.key\"  # a file that contains only the app's key";

/// The locations of a new configuration and of its database.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewConfigLocation {
    pub config: PathBuf,
    /// The value of `database.url` in the new file.
    pub database_url: String,
    /// Whether this is the configuration of the system service, which only root can write.
    pub is_system: bool,
}

/// The error that the location of a new configuration is unknown.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither XDG_CONFIG_HOME nor HOME is set; name the file to write with --config FILE")]
pub struct NoConfigLocation;

const SYSTEM_CONFIG: &str = "/etc/tim-group-sync/config.toml";
/// The database of the system service, in its state directory.
const SYSTEM_DATABASE: &str = "/var/lib/tim-group-sync/groups.db";

impl Config {
    /// Returns where to create a configuration so that other commands find it.
    pub fn new_location(
        explicit: Option<&Path>,
        env: &Environment,
    ) -> Result<NewConfigLocation, NoConfigLocation> {
        let named = explicit.or_else(|| env.get("TIM_GROUP_SYNC_CONFIG").map(Path::new));
        let user_config = env.user_config();
        let config = match named {
            Some(named) => named.to_owned(),
            None if env.is_root => PathBuf::from(SYSTEM_CONFIG),
            None => user_config.clone().ok_or(NoConfigLocation)?,
        };
        let is_system = config == Path::new(SYSTEM_CONFIG);
        // A relative path is resolved against the folder of the configuration.
        let beside_config = || PathBuf::from("groups.db");
        let database = match (is_system, user_config == Some(config.clone())) {
            (true, _) => PathBuf::from(SYSTEM_DATABASE),
            (false, true) => env.home_database().unwrap_or_else(beside_config),
            (false, false) => beside_config(),
        };
        Ok(NewConfigLocation { config, database_url: format!("sqlite:{}", database.display()), is_system })
    }

    /// Returns the configuration file to read: the named one, or else the first existing file in
    /// the default locations.
    pub fn locate(explicit: Option<&Path>, env: &Environment) -> Result<PathBuf, NoConfigFile> {
        let named = explicit.or_else(|| env.get("TIM_GROUP_SYNC_CONFIG").map(Path::new));
        if let Some(named) = named {
            return Ok(named.to_owned());
        }
        let user_config = if env.is_root { None } else { env.user_config() };
        let looked_at: Vec<_> = user_config.into_iter().chain([PathBuf::from(SYSTEM_CONFIG)]).collect();
        // A file that cannot be accessed counts as existing, so that reading it reports the reason.
        let exists = |path: &&PathBuf| path.try_exists().unwrap_or(true);
        let found = looked_at.iter().find(exists).cloned();
        found.ok_or(NoConfigFile { looked_at })
    }
}
