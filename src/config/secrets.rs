//! Reads secrets from files. Errors contain the path of the file, never its content.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};

use super::regular_file;
use crate::tencent::usersig::SecretKey;

/// Longer than any key or password. A longer file is not a secret's.
const MAX_BYTES: u64 = 4096;

/// A file that holds one secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretFile {
    pub path: PathBuf,
    /// Whether systemd provides the file. Then it is protected by other means than its mode.
    pub is_credential: bool,
}

/// An app's key, with warnings about its file.
#[derive(Debug)]
pub struct SecretKeyRead {
    pub key: SecretKey,
    pub warnings: Vec<String>,
}

/// The database's password, with warnings about its file.
#[derive(Debug)]
pub struct PasswordRead {
    pub password: SecretString,
    pub warnings: Vec<String>,
}

/// Why a secret could not be read from a file.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    #[error("cannot read {}{}", path.display(), what_to_do(source, *is_credential))]
    Unreadable { path: PathBuf, is_credential: bool, source: io::Error },
    #[error(
        "{} is a credential, and CREDENTIALS_DIRECTORY is not set: systemd provides credentials only to the service itself \
         (LoadCredential=); run `systemctl kill -s USR1 tim-group-sync` to make the service crawl now, \
         or name the key by a path that this user can read",
        path.display()
    )]
    NoCredentials { path: PathBuf },
    #[error("{} is empty; it must contain the secret alone", path.display())]
    Empty { path: PathBuf },
    #[error("{} is longer than 4 KiB, which no key or password is; name the file that contains the secret alone", path.display())]
    TooLong { path: PathBuf },
    #[error("{} is not UTF-8 text; name the file that contains the secret alone", path.display())]
    NotText { path: PathBuf },
    #[error("{} contains {what}; it must contain the secret alone, on one line", path.display())]
    NotAlone { path: PathBuf, what: &'static str },
}

/// The rest of a warning that begins with the place of a key which does not look like an IM app's.
pub const UNUSUAL_KEY: &str = "does not contain 64 hexadecimal digits as the key of an IM app does; the SecretKey of a Tencent \
    Cloud API key (CAM) is a different key: find the app's in the console under IM, application, basic configuration, key";

impl SecretFile {
    /// Reads an app's key.
    pub fn read_key(&self) -> Result<SecretKeyRead, SecretFileError> {
        let (text, mut warnings) = self.read()?;
        if text.expose_secret().contains(char::is_whitespace) {
            return Err(SecretFileError::NotAlone { path: self.path.clone(), what: "white space" });
        }
        let key = SecretKey::new(text.expose_secret());
        if !key.looks_usual() {
            warnings.push(format!("{} {UNUSUAL_KEY}", self.path.display()));
        }
        Ok(SecretKeyRead { key, warnings })
    }

    pub(super) fn read(&self) -> Result<(SecretString, Vec<String>), SecretFileError> {
        let path = || self.path.clone();
        if self.path.starts_with("$CREDENTIALS_DIRECTORY") {
            return Err(SecretFileError::NoCredentials { path: path() });
        }
        let is_credential = self.is_credential;
        let unreadable = |source| SecretFileError::Unreadable { path: path(), is_credential, source };
        let file = regular_file::open(&self.path).map_err(unreadable)?;
        let warnings = if is_credential { None } else { lax_mode(&file, &self.path) };
        let mut bytes = Vec::with_capacity(4097);
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(SecretFileError::TooLong { path: path() });
        }
        let mut text = String::from_utf8(bytes).map_err(|_| SecretFileError::NotText { path: path() })?;
        let line =
            text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
        text.truncate(line.len());
        if text.trim().is_empty() {
            return Err(SecretFileError::Empty { path: path() });
        }
        Ok((SecretString::from(text), warnings.into_iter().collect()))
    }
}

fn what_to_do(error: &io::Error, is_credential: bool) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound if is_credential => "; check the LoadCredential= of the service's unit",
        io::ErrorKind::PermissionDenied if is_credential => "; run this as the user of the service's unit",
        io::ErrorKind::NotFound => "; put the secret alone into this file, and chmod 600 it",
        io::ErrorKind::PermissionDenied => "; chown it to the user who runs this program, and chmod 600 it",
        io::ErrorKind::InvalidInput => "; put the secret alone into a regular file",
        _ => "",
    }
}

/// Returns a warning if users other than the owner may read the file.
fn lax_mode(file: &File, path: &Path) -> Option<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = file.metadata().ok()?.permissions().mode() & 0o777;
    let path = path.display();
    (mode & 0o077 != 0)
        .then(|| format!("{path} can be read by others than its owner (mode {mode:04o}): chmod 600 {path}"))
}
