//! Reads secrets from files. Errors contain the path of a file, but never its content.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use secrecy::{ExposeSecret as _, SecretString};

use super::regular_file;
use crate::escape;
use crate::tencent::usersig::SecretKey;

/// The maximum size of a file with a secret. All keys and passwords are shorter.
const MAX_BYTES: u64 = 4096;

/// A file that contains one secret.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SecretFile {
    pub path: PathBuf,
    /// Whether systemd provides the file. The mode of such a file is not checked, because systemd
    /// protects it by other means.
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

/// The secrets of `[notify]`, with warnings about their files.
#[derive(Debug)]
pub struct NotifySecretsRead {
    pub url: SecretString,
    pub secret: Option<SecretString>,
    pub warnings: Vec<String>,
}

/// Why a secret could not be read from a file.
#[derive(Debug, thiserror::Error)]
pub enum SecretFileError {
    #[error("cannot read {}{}", path.display(), advice(source, *is_credential))]
    Unreadable { path: PathBuf, is_credential: bool, source: io::Error },
    #[error(
        "{} is a credential, but CREDENTIALS_DIRECTORY is not set: systemd provides credentials \
         only to the service itself (LoadCredential=); run `systemctl kill -s USR1 tim-group-sync` \
         to make the service crawl now, or set {setting} to the path of a file that this user can \
         read",
        path.display()
    )]
    NoCredentials { path: PathBuf, setting: String },
    #[error("{} is empty; it must contain only the secret", path.display())]
    Empty { path: PathBuf },
    #[error("{} is longer than 4 KiB, so it is not a key, password or URL; name a file that contains \
             only the secret", path.display())]
    TooLong { path: PathBuf },
    #[error("{} is not UTF-8 text; save it as UTF-8, and put only the secret into it", path.display())]
    NotText { path: PathBuf },
    #[error("{} contains {what}; it must contain only the secret, on one line", path.display())]
    NotOnlySecret { path: PathBuf, what: &'static str },
}

const BYTE_ORDER_MARK: char = '\u{feff}';

/// Returns what a text contains that cannot be part of a key: quotes, white space, or invisible
/// characters. Editors and copied text add them.
#[must_use]
pub fn invalid_key_content(text: &str) -> Option<&'static str> {
    let is_quote = |c| matches!(c, '"' | '\'' | '`' | '\u{2018}'..='\u{201f}' | '\u{ab}' | '\u{bb}');
    if text.contains(is_quote) {
        Some("quotes")
    } else if text.contains(char::is_whitespace) {
        Some("white space")
    } else if escape::has_unsafe(text) {
        Some("invisible characters")
    } else {
        None
    }
}

/// A warning about a key that does not have the usual form. The caller prepends the location of the
/// key.
pub const UNUSUAL_KEY: &str = "does not contain 64 hexadecimal digits, as the key of an IM app \
                               does; the SecretKey of a Tencent Cloud API key (CAM) is a different \
                               key: find the app's key in the console under IM, application, basic \
                               configuration, key";

impl SecretFile {
    /// Reads an app's key. `setting` is the key of the configuration, or the option, that names the
    /// file.
    pub fn read_key(&self, setting: &str) -> Result<SecretKeyRead, SecretFileError> {
        let (text, mut warnings) = self.read(setting)?;
        if let Some(what) = invalid_key_content(text.expose_secret()) {
            return Err(SecretFileError::NotOnlySecret { path: self.path.clone(), what });
        }
        let key = SecretKey::new(text.expose_secret());
        if !key.has_usual_form() {
            warnings.push(format!("{} {UNUSUAL_KEY}", self.path.display()));
        }
        Ok(SecretKeyRead { key, warnings })
    }

    /// Reads the password of a database. Fails if it contains a control character. `setting` is the
    /// key of the configuration, or the option, that names the file.
    pub fn read_password(&self, setting: &str) -> Result<PasswordRead, SecretFileError> {
        let (password, warnings) = self.read(setting)?;
        if password.expose_secret().contains(char::is_control) {
            let what = "a line break or another control character";
            return Err(SecretFileError::NotOnlySecret { path: self.path.clone(), what });
        }
        Ok(PasswordRead { password, warnings })
    }

    /// Reads a secret, and fails if it contains white space. Also returns warnings about the file.
    /// `setting` is the key of the configuration that names the file.
    pub(super) fn read_without_white_space(
        &self,
        setting: &str,
    ) -> Result<(SecretString, Vec<String>), SecretFileError> {
        let (text, warnings) = self.read(setting)?;
        if text.expose_secret().contains(char::is_whitespace) {
            return Err(SecretFileError::NotOnlySecret { path: self.path.clone(), what: "white space" });
        }
        Ok((text, warnings))
    }

    /// Reads the secret, without a line break at its end. Also returns warnings about the file.
    /// `setting` is the key of the configuration, or the option, that names the file.
    pub(super) fn read(&self, setting: &str) -> Result<(SecretString, Vec<String>), SecretFileError> {
        let path = || self.path.clone();
        if self.path.starts_with("$CREDENTIALS_DIRECTORY") {
            return Err(SecretFileError::NoCredentials { path: path(), setting: setting.to_owned() });
        }
        let is_credential = self.is_credential;
        let unreadable = |source| SecretFileError::Unreadable { path: path(), is_credential, source };
        let file = regular_file::open(&self.path).map_err(unreadable)?;
        let warning = if is_credential { None } else { warning_about_mode(&file, &self.path) };
        let mut bytes = Vec::with_capacity(4097);
        file.take(MAX_BYTES + 1).read_to_end(&mut bytes).map_err(unreadable)?;
        if bytes.len() as u64 > MAX_BYTES {
            return Err(SecretFileError::TooLong { path: path() });
        }
        let mut text = String::from_utf8(bytes).map_err(|_| SecretFileError::NotText { path: path() })?;
        if text.starts_with(BYTE_ORDER_MARK) {
            let what = "an invisible byte order mark (BOM) at its beginning";
            return Err(SecretFileError::NotOnlySecret { path: path(), what });
        }
        let line =
            text.strip_suffix('\n').map_or(text.as_str(), |line| line.strip_suffix('\r').unwrap_or(line));
        text.truncate(line.len());
        if text.trim().is_empty() {
            return Err(SecretFileError::Empty { path: path() });
        }
        Ok((SecretString::from(text), warning.into_iter().collect()))
    }
}

fn advice(error: &io::Error, is_credential: bool) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound if is_credential => "; check the LoadCredential= of the service's unit",
        io::ErrorKind::PermissionDenied if is_credential => "; run this as the user of the service's unit",
        io::ErrorKind::NotFound => "; put only the secret into this file, and chmod 600 it",
        io::ErrorKind::PermissionDenied => "; chown it to the user who runs this program, and chmod 600 it",
        io::ErrorKind::InvalidInput => "; put only the secret into a regular file",
        _ => "",
    }
}

/// Returns a warning if users other than the owner may read the file.
fn warning_about_mode(file: &File, path: &Path) -> Option<String> {
    use std::os::unix::fs::PermissionsExt as _;
    let mode = file.metadata().ok()?.permissions().mode() & 0o777;
    let path = path.display();
    (mode & 0o077 != 0)
        .then(|| format!("users other than its owner can read {path} (mode {mode:04o}): chmod 600 {path}"))
}
