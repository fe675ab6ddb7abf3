//! The environment of the process, as a value that tests can create.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};

/// Environment variables, and whether the user is root.
#[derive(Clone)]
pub struct Environment {
    variables: BTreeMap<String, String>,
    pub(super) is_root: bool,
    /// False for [`Environment::unknown`].
    is_known: bool,
}

impl Environment {
    /// Returns the environment of this process, without variables that are not UTF-8.
    #[must_use]
    pub fn of_process() -> Self {
        let variables = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)));
        Self { is_root: runs_as_root(), ..Self::new(variables) }
    }

    /// Returns the environment of an ordinary user with these variables.
    pub fn new<N: Into<String>, V: Into<String>>(variables: impl IntoIterator<Item = (N, V)>) -> Self {
        let variables = variables.into_iter().map(|(name, value)| (name.into(), value.into())).collect();
        Self { variables, is_root: false, is_known: true }
    }

    /// Returns an environment for checking a file independently of this process. No variable
    /// overrides the file. A path that depends on a variable contains the variable's name.
    #[must_use]
    pub fn unknown() -> Self {
        Self { variables: BTreeMap::new(), is_root: false, is_known: false }
    }

    /// Returns the environment of root with the same variables. Root has no personal configuration
    /// file.
    #[must_use]
    pub fn as_root(self) -> Self {
        Self { is_root: true, ..self }
    }

    /// Returns the value of a variable, or `None` if it is not set or empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.variables.get(name).map(String::as_str).filter(|value| !value.is_empty())
    }

    /// Returns the folder in a variable, or `None` if it is not an absolute path. Of several
    /// folders, which systemd separates by colons, returns the first.
    pub(super) fn directory(&self, name: &str) -> Option<PathBuf> {
        if !self.is_known {
            return Some(PathBuf::from(format!("${name}")));
        }
        let path = Path::new(self.get(name)?.split(':').next()?);
        path.is_absolute().then(|| path.to_owned())
    }

    /// Returns an XDG base directory, or its default in the home folder.
    fn xdg(&self, name: &str, default_in_home: &str) -> Option<PathBuf> {
        self.directory(name).or_else(|| Some(self.directory("HOME")?.join(default_in_home)))
    }

    /// Returns the path of an ordinary user's configuration.
    pub(super) fn user_config(&self) -> Option<PathBuf> {
        Some(self.xdg("XDG_CONFIG_HOME", ".config")?.join("tim-group-sync/config.toml"))
    }

    /// Returns the default path of the database.
    pub(super) fn default_database(&self) -> Option<PathBuf> {
        let state = self.directory("STATE_DIRECTORY").map(|folder| folder.join("groups.db"));
        state.or_else(|| self.home_database())
    }

    /// Returns the path of an ordinary user's database.
    pub(super) fn home_database(&self) -> Option<PathBuf> {
        Some(self.xdg("XDG_DATA_HOME", ".local/share")?.join("tim-group-sync/groups.db"))
    }
}

/// Writes only the names, because values may be secrets.
impl fmt::Debug for Environment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.variables.keys()).finish()
    }
}

/// Returns whether the effective user, who owns `/proc/self`, is root. Returns false where there is
/// no `/proc`.
fn runs_as_root() -> bool {
    use std::os::unix::fs::MetadataExt as _;
    std::fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0)
}
