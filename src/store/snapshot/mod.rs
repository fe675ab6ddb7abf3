//! Writes complete SQLite files: the copy for readers, backups, and a restored database.
//!
//! Each file is written under a temporary name in the folder of its target, synced, and renamed. So
//! a file under the target's name is always complete.

mod backup;
mod contents;
mod copy;
mod publish;
mod restore;
mod unfinished;

pub use backup::BackupMade;
pub use contents::{BackedUpApp, Contents};
pub use publish::Published;
pub use restore::Restored;
pub(super) use unfinished::{Replacing, UnfinishedFile};
