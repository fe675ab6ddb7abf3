//! Complete SQLite files: the copy for readers, backups, and putting a backup back.
//!
//! Each is written under another name in the folder of its target, synced, and renamed. So a file of the target's name is
//! always complete.

mod backup;
mod contents;
mod copy;
mod part;
mod publish;
mod restore;

pub use backup::BackupMade;
pub use contents::{BackedUpApp, Contents};
pub(super) use part::{Part, Replacing};
pub use publish::Published;
pub use restore::Restored;
