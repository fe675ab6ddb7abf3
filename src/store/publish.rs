//! A copy of the SQLite file for readers, who need read access to that one file and nothing else.

use std::ffi::OsString;
use std::fs::{self, File};
use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use sqlx::sqlite::{SqliteConnectOptions, SqliteConnection, SqliteJournalMode, SqliteSynchronous};
use sqlx::{AssertSqlSafe, ConnectOptions as _, Connection as _};

use super::engine::{Attempted as _, Engine, SqliteFile, Store, StoreError, beside, query};
use super::lease::{FileLock, share_owner};

/// Identifies a copy in the header of the file. No other file is ever replaced.
const APPLICATION_ID: i32 = 0x5447_5350;

const COPY: &str = "VACUUM INTO $1";

/// A copy that was made.
#[derive(Clone, Copy, Debug)]
pub struct Published {
    pub bytes: u64,
    pub took: Duration,
}

impl Store {
    /// Writes a snapshot of the database to `to` and replaces an earlier copy by a rename. A reader that has the earlier copy
    /// open continues to read it. `None` if another process is making a copy.
    ///
    /// Reads over its own connection, so that no transaction waits for it. If the future is dropped, a partial copy stays
    /// under another name until the next call removes it.
    pub async fn publish(&self, to: &Path) -> Result<Option<Published>, StoreError> {
        let Engine::Sqlite(file) = &self.engine else { return Err(StoreError::NoFile) };
        let publish_error = |doing, source| StoreError::Publish { doing, path: to.to_owned(), source };
        let Some(_lock) = FileLock::try_take(&beside(&file.path, "publish.lock"), &file.path)? else {
            return Ok(None);
        };
        if let Some(folder) = to.parent().filter(|folder| !folder.as_os_str().is_empty()) {
            fs::create_dir_all(folder).map_err(|source| publish_error("make the folder of", source))?;
        }
        if !may_be_replaced(to, &file.path).map_err(|source| publish_error("look at", source))? {
            return Err(StoreError::NotACopy { path: to.to_owned() });
        }
        let began = Instant::now();
        let part = part_of(to);
        if is_the_database(&part, &file.path)
            .map_err(|source| publish_error("look at the part of", source))?
        {
            return Err(StoreError::NotACopy { path: part });
        }
        let published = copy(file, &part, to).await;
        if published.is_err() {
            let _ = fs::remove_file(&part);
        }
        let bytes = published?;
        Ok(Some(Published { bytes, took: began.elapsed() }))
    }
}

async fn copy(file: &SqliteFile, part: &Path, to: &Path) -> Result<u64, StoreError> {
    const DOING: &str = "copy the database";
    let publish_error = |doing, source| StoreError::Publish { doing, path: to.to_owned(), source };
    remove_if_there(part).map_err(|source| publish_error("remove what is left of an earlier", source))?;
    let name = part.to_str().ok_or_else(|| {
        let source = std::io::Error::new(std::io::ErrorKind::InvalidFilename, "its name is not UTF-8");
        publish_error("write", source)
    })?;

    let mut reader: SqliteConnection = file.readers.connect_options().connect().await.attempted(DOING)?;
    query(COPY).bind(name.to_owned()).execute(&mut reader).await.attempted(DOING)?;
    reader.close().await.attempted(DOING)?;

    let options = SqliteConnectOptions::new().filename(part).journal_mode(SqliteJournalMode::Delete);
    let mut copy = options.synchronous(SqliteSynchronous::Full).connect().await.attempted(DOING)?;
    let mark = AssertSqlSafe(format!("PRAGMA application_id = {APPLICATION_ID}"));
    query(mark).execute(&mut copy).await.attempted(DOING)?;
    copy.close().await.attempted(DOING)?;

    let (part, target, database) = (part.to_owned(), to.to_owned(), file.path.clone());
    // Syncing many gigabytes can take long.
    let moving = tokio::task::spawn_blocking(move || move_into_place(&part, &target, &database));
    let moved = moving.await.unwrap_or_else(|panic| Err(std::io::Error::other(panic)));
    moved.map_err(|source| publish_error("move into its place", source))
}

fn move_into_place(part: &Path, to: &Path, database: &Path) -> std::io::Result<u64> {
    let copy = File::open(part)?;
    share_owner(&copy, database);
    copy.sync_all()?;
    let bytes = copy.metadata()?.len();
    fs::rename(part, to)?;
    let folder = to.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()?;
    Ok(bytes)
}

/// Returns the name of the partial copy. No user chooses such a name, because a file of that name is removed.
fn part_of(to: &Path) -> PathBuf {
    let mut name = OsString::from(".");
    name.push(to.file_name().unwrap_or_default());
    name.push(".tim-group-sync-part");
    to.with_file_name(name)
}

fn is_the_database(path: &Path, database: &Path) -> std::io::Result<bool> {
    match (fs::metadata(path), fs::metadata(database)?) {
        (Ok(there), live) => Ok((there.dev(), there.ino()) == (live.dev(), live.ino())),
        (Err(error), _) if error.kind() == std::io::ErrorKind::NotFound => Ok(false),
        (Err(error), _) => Err(error),
    }
}

/// Returns true if there is no file, or an earlier copy that is not used as the database.
fn may_be_replaced(to: &Path, database: &Path) -> std::io::Result<bool> {
    if is_the_database(to, database)? {
        return Ok(false);
    }
    let mut header = Vec::new();
    match File::open(to) {
        Ok(file) => file.take(100).read_to_end(&mut header)?,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(true),
        Err(error) => return Err(error),
    };
    let mark = header.get(68..72);
    Ok(header.starts_with(b"SQLite format 3\0") && mark == Some(&APPLICATION_ID.to_be_bytes()[..]))
}

fn remove_if_there(path: &Path) -> std::io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
