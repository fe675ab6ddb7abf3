//! Reads and validates the configuration, a TOML file. Every mistake is reported with its line, the
//! violated rule and the remedy.
//!
//! A [`Config`] is valid by construction, so its users do not check it again. It contains the paths
//! of secrets, not the secrets themselves. The only exception is the database URL from the
//! environment, which may have a password. `Debug` and `Display` mask it.

mod database_url;
mod document;
mod environment;
mod locations;
mod model;
mod problems;
mod regular_file;
mod secrets;
mod sections;
#[cfg(test)]
mod tests;
mod values;

use std::io::{ErrorKind, Read as _};
use std::path::Path;

pub use self::database_url::{DatabaseUrl, PostgresUrl};
pub use self::document::{Origin, Setting};
pub use self::environment::Environment;
pub use self::locations::{NewConfigLocation, NoConfigFile, NoConfigLocation};
pub use self::model::{App, Config, Database, Endpoint, Listener, Log, LogFormat, Notify, Schedule};
pub use self::problems::{ConfigProblems, Mistake, Problem};
pub use self::secrets::{
    NotifySecretsRead, PasswordRead, SecretFile, SecretFileError, SecretKeyRead, UNUSUAL_KEY,
    invalid_key_content,
};
pub use self::sections::{APP_NAME_RULE, is_app_name};
pub use self::values::did_you_mean;

impl Config {
    /// Reads and validates a file.
    pub fn load(file: &Path, env: &Environment) -> Result<Self, ConfigProblems> {
        let problem = |rule: String, fix: &str| {
            let name = file.display().to_string();
            ConfigProblems::new(vec![Problem::new(&name, None, String::new(), None, Mistake::new(rule, fix))])
        };
        let mut bytes = Vec::new();
        let read = regular_file::open(file).and_then(|mut opened| opened.read_to_end(&mut bytes));
        read.map_err(|error| {
            let fix = match error.kind() {
                ErrorKind::NotFound => {
                    "Write it with `tim-group-sync init`, or name another file with --config"
                }
                ErrorKind::PermissionDenied => {
                    "Run the command as a user who may read the file, such as root"
                }
                ErrorKind::InvalidInput => "Name a file with --config",
                _ => "Check the file and its file system",
            };
            problem(format!("cannot be read: {error}"), fix)
        })?;
        let is_utf16 = bytes.starts_with(&[0xff, 0xfe]) || bytes.starts_with(&[0xfe, 0xff]);
        let text = String::from_utf8(bytes).map_err(|_| {
            let encoding = if is_utf16 { "is UTF-16 text, not UTF-8" } else { "is not UTF-8 text" };
            problem(encoding.to_owned(), "Save it as UTF-8 in your editor")
        })?;
        Self::parse(&text, file, env)
    }

    /// Validates the text of a file. Relative paths in it are relative to the folder of `file`.
    pub fn parse(text: &str, file: &Path, env: &Environment) -> Result<Self, ConfigProblems> {
        sections::read(text, file, env)
    }
}
