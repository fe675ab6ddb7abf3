//! A temporary empty database, for a dry run before the first crawl.

use std::fs::{DirBuilder, remove_dir_all};
use std::io;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::PathBuf;

use super::exit::{Exit, Failure};
use crate::store::{DatabaseLocation, Store};

/// A folder in the system's temporary folder, which is removed when dropped.
pub(super) struct TemporaryFolder(PathBuf);

impl Drop for TemporaryFolder {
    fn drop(&mut self) {
        // A folder that remains contains only empty tables.
        let _ = remove_dir_all(&self.0);
    }
}

/// Creates an SQLite database with empty tables. It exists as long as the folder.
pub(super) async fn empty_database() -> Result<(Store, TemporaryFolder), Failure> {
    let folder = create_folder().map_err(|error| {
        let temporary = std::env::temp_dir();
        let error = anyhow::Error::from(error).context(format!(
            "cannot create a temporary database in {}, which a dry run before the first crawl \
             needs; set TMPDIR to a folder that this user can write to",
            temporary.display()
        ));
        Failure::new(Exit::Failed, error)
    })?;
    let store = Store::open(&DatabaseLocation::Sqlite(folder.0.join("empty.db"))).await?;
    store.migrate().await?;
    Ok((store, folder))
}

/// Creates a folder that only this user can access. Fails if it exists.
fn create_folder() -> io::Result<TemporaryFolder> {
    let name = format!("tim-group-sync-dry-run-{}-{:08x}", std::process::id(), rand::random::<u32>());
    let path = std::env::temp_dir().join(name);
    DirBuilder::new().mode(0o700).create(&path)?;
    Ok(TemporaryFolder(path))
}
