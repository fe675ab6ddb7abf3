//! Opens the lock files beside an SQLite database.
//!
//! The folder may belong to another user, who can create any file under the name of a lock file. So
//! a symbolic link is never followed, and the owner is changed only for a file that this process
//! has just created. Only the owner can access a lock file, because every user who can open a file
//! can lock it.

use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, fchown};
use std::path::Path;

use rustix::fs::OFlags;

/// With this flag, opening a symbolic link fails.
#[expect(clippy::cast_possible_wrap, reason = "flags of open(2) are a C int")]
pub(in crate::store) const NO_FOLLOW: i32 = OFlags::NOFOLLOW.bits() as i32;

/// Opens a lock file. If it does not exist, creates it for the owner of the database.
pub(in crate::store) fn open(path: &Path, database: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(NO_FOLLOW);
    let file = match options.clone().create_new(true).mode(0o600).open(path) {
        Ok(new_file) => {
            set_owner_like(&new_file, database);
            return Ok(new_file);
        }
        Err(error) if error.kind() == ErrorKind::AlreadyExists => options.open(path)?,
        Err(error) => return Err(error),
    };
    let metadata = file.metadata()?;
    // A file with a second hard link has another purpose.
    if !metadata.is_file() || metadata.nlink() > 1 {
        return Err(io::Error::other(
            "it is not a lock file: it is not a regular file, or has a second name",
        ));
    }
    Ok(file)
}

/// Gives a file the owner of the database, because the service could not open a file of root. Must
/// be called only for a file that this process has just created.
pub(in crate::store) fn set_owner_like(file: &File, database: &Path) {
    let (Ok(database), Ok(file_now)) = (std::fs::metadata(database), file.metadata()) else { return };
    if (file_now.uid(), file_now.gid()) != (database.uid(), database.gid()) {
        // Only root can change the owner. Other users own the file, which is sufficient.
        let _ = fchown(file, Some(database.uid()), Some(database.gid()));
    }
}
