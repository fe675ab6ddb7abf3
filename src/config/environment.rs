//! What the configuration needs to know of the process it serves, handed in so that a test can make it up.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

use super::Config;

/// Environment variables, and who runs the program.
#[derive(Clone)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    is_root: bool,
    is_known: bool,
}

impl Environment {
    /// The environment of this process. Variables that are not UTF-8 are left out.
    #[must_use]
    pub fn of_process() -> Self {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self { is_root: runs_as_root(), ..Self::new(variables) }
    }

    /// An ordinary user's environment with these variables.
    pub fn new<N: Into<String>, V: Into<String>>(variables: impl IntoIterator<Item = (N, V)>) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { variables, is_root: false, is_known: true }
    }

    /// For a look at the file alone: nothing overrides it, and a path that needs a variable keeps the variable's name.
    #[must_use]
    pub fn unknown() -> Self {
        Self { variables: BTreeMap::new(), is_root: false, is_known: false }
    }

    /// The same variables for root, who has no configuration of their own.
    #[must_use]
    pub fn as_root(self) -> Self {
        Self { is_root: true, ..self }
    }

    /// A variable that is set to something.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// A variable that names a folder by its whole path; systemd lists several with colons, and the first counts.
    pub(super) fn directory(&self, name: &str) -> Option<PathBuf> {
        if !self.is_known {
            return Some(PathBuf::from(format!("${name}")));
        }
        let path = Path::new(self.get(name)?.split(':').next()?);
        path.is_absolute().then(|| path.to_owned())
    }

    /// A folder of the XDG base directories, or its customary place in the home folder.
    fn xdg(&self, name: &str, at_home: &str) -> Option<PathBuf> {
        self.directory(name).or_else(|| Some(self.directory("HOME")?.join(at_home)))
    }

    /// An ordinary user's configuration.
    fn own_config(&self) -> Option<PathBuf> {
        Some(self.xdg("XDG_CONFIG_HOME", ".config")?.join("tim-group-sync/config.toml"))
    }

    /// Where the database is if nobody says.
    pub(super) fn default_database(&self) -> Option<PathBuf> {
        let state = self.directory("STATE_DIRECTORY").map(|folder| folder.join("groups.db"));
        state.or_else(|| self.home_database())
    }

    fn home_database(&self) -> Option<PathBuf> {
        Some(self.xdg("XDG_DATA_HOME", ".local/share")?.join("tim-group-sync/groups.db"))
    }
}

/// Shows names only: values may be secrets.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

/// The owner of `/proc/self` is the effective user; where there is no such thing, nobody is taken for root.
fn runs_as_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}

/// There is no configuration in any of the customary places.
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
             name one with --config FILE or TIM_GROUP_SYNC_CONFIG; \
             or try `tim-group-sync demo`, which needs none\n\
             the shortest one is:\n{SHORTEST}",
            places.join(" and ")
        )
    }
}

impl std::error::Error for NoConfigFile {}

pub(super) const SHORTEST: &str = "    [apps.prod]\n    \
    sdk_app_id = 1400000000\n    \
    secret_key_file = \"/etc/tim-group-sync/prod.key\"  # this file holds the app's key alone";

/// Where a new configuration belongs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Home {
    pub config: PathBuf,
    /// The database's URL as it is written there.
    pub database_url: String,
    /// The service's, which is root's to write.
    pub is_system: bool,
}

/// Nobody says where a configuration belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("neither XDG_CONFIG_HOME nor HOME is set; name the file to write with --config FILE")]
pub struct NoHome;

const SYSTEM_CONFIG: &str = "/etc/tim-group-sync/config.toml";
/// What the service has as its state directory.
const SYSTEM_DATABASE: &str = "/var/lib/tim-group-sync/groups.db";

impl Config {
    /// Where a configuration is to be written, so that it is the one that is read then.
    pub fn home(explicit: Option<&Path>, env: &Environment) -> Result<Home, NoHome> {
        let named = explicit.or_else(|| env.get("TIM_GROUP_SYNC_CONFIG").map(Path::new));
        let own = env.own_config();
        let config = match named {
            Some(named) => named.to_owned(),
            None if env.is_root => PathBuf::from(SYSTEM_CONFIG),
            None => own.clone().ok_or(NoHome)?,
        };
        let is_system = config == Path::new(SYSTEM_CONFIG);
        // A relative path counts from the configuration.
        let beside = || PathBuf::from("groups.db");
        let database = match (is_system, own == Some(config.clone())) {
            (true, _) => PathBuf::from(SYSTEM_DATABASE),
            (false, true) => env.home_database().unwrap_or_else(beside),
            (false, false) => beside(),
        };
        Ok(Home { config, database_url: format!("sqlite:{}", database.display()), is_system })
    }

    /// The configuration file to read: the one that is named, else the first of the customary ones that is there.
    pub fn locate(explicit: Option<&Path>, env: &Environment) -> Result<PathBuf, NoConfigFile> {
        let named = explicit.or_else(|| env.get("TIM_GROUP_SYNC_CONFIG").map(Path::new));
        if let Some(named) = named {
            return Ok(named.to_owned());
        }
        let own = if env.is_root { None } else { env.own_config() };
        let looked_at: Vec<_> = own.into_iter().chain([PathBuf::from(SYSTEM_CONFIG)]).collect();
        // A file that may not be looked at is there: reading it says why it cannot be read.
        let is_there = |path: &&PathBuf| path.try_exists().unwrap_or(true);
        let found = looked_at.iter().find(is_there).cloned();
        found.ok_or(NoConfigFile { looked_at })
    }
}
