//! Switches from root to the owner of an SQLite file before the file is opened. Files that are
//! created beside it then belong to the service and not to root.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use rustix::process::geteuid;
use rustix::thread::{set_thread_gid, set_thread_groups, set_thread_uid};
use rustix::{process::Gid, process::Uid};

use super::exit::{Exit, Failure};
use super::output::message;

/// Switches the calling thread from root to the owner of a file, or of its nearest existing folder
/// if the file does not exist. Does nothing if the user is not root, or if the owner is root.
///
/// The switch is permanent. Threads that exist already keep the old user, so this must happen while
/// the process has only one thread.
pub(super) fn become_owner(database: &Path) -> Result<(), Failure> {
    let metadata = |path| Some((path, std::fs::metadata(path).ok()?));
    let Some((found, metadata)) = database.ancestors().find_map(metadata) else { return Ok(()) };
    let (uid, gid) = (metadata.uid(), metadata.gid());
    if !geteuid().is_root() || uid == 0 {
        return Ok(());
    }
    // A user without a name is written `#UID`, which `sudo -u` accepts.
    let user = uzers::get_user_by_uid(uid);
    let name =
        user.as_ref().map_or_else(|| format!("#{uid}"), |user| user.name().to_string_lossy().into_owned());
    // The user's supplementary groups may be needed to read the configuration.
    let groups = user.as_ref().and_then(|user| uzers::get_user_groups(user.name(), gid)).unwrap_or_default();
    let groups: Vec<u32> = groups.iter().map(uzers::Group::gid).collect();
    become_user(uid, gid, &groups).map_err(|error| {
        let error = anyhow::Error::from(error).context(format!(
            "cannot change to user {name}, who owns {}; run the command as that user: sudo -u \
             '{name}' tim-group-sync …",
            found.display()
        ));
        Failure::new(Exit::Failed, error)
    })?;
    message(format_args!("continuing as user {name}, who owns {}", found.display()));
    Ok(())
}

fn become_user(uid: u32, gid: u32, groups: &[u32]) -> io::Result<()> {
    let groups: Vec<Gid> = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    set_thread_groups(&groups)?;
    set_thread_gid(Gid::from_raw(gid))?;
    set_thread_uid(Uid::from_raw(uid))?;
    Ok(())
}
