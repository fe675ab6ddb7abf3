//! Errors of the database, classified by whether a later attempt may succeed.

use std::path::PathBuf;

use crate::model::{CrawlId, SdkAppId};

/// A failure of the store.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    #[error("cannot open the database {at}{}", advice(.source))]
    Open { at: String, source: sqlx::Error },
    #[error("the database's URL cannot be used; write it as postgres://USER@HOST:PORT/DATABASE")]
    InvalidUrl { source: sqlx::Error },
    #[error(
        "the database's schema cannot be called {name:?}: it must be a plain lower-case name of at \
         most 55 bytes"
    )]
    InvalidSchema { name: String },
    #[error(
        "cannot open a secure connection to the database {at}; hosts other than loopback must \
         present a certificate that the system trusts, unless the URL sets another rule \
         (?sslrootcert=FILE, ?sslmode=require)"
    )]
    Insecure { at: String, source: sqlx::Error },
    #[error("the database {at} is PostgreSQL {version}; this program needs version 14 or later")]
    TooOld { at: String, version: String },
    #[error(
        "the database {at} is read-only: it is a standby server, or its transactions are \
         read-only; set database.url to the primary server"
    )]
    ReadOnly { at: String },
    #[error(
        "the database {at} stores text as {encoding}, and group ids need UTF8; create another \
         database: CREATE DATABASE name ENCODING 'UTF8' TEMPLATE template0"
    )]
    Encoding { at: String, encoding: String },
    #[error(
        "the database's tables are of an older version of this program (version {version} of \
         {newest}); run `tim-group-sync migrate`, or set database.auto_migrate = true"
    )]
    Older { version: i64, newest: i64 },
    #[error("the database's role lacks a right; as an administrator, run: {grant}")]
    Rights { grant: String },
    #[error(
        "the database's tables belong to {owner:?} and have to be upgraded; run `tim-group-sync \
         migrate` once as that role, or make {role:?} a member of it"
    )]
    OtherOwner { owner: String, role: String },
    #[error("there is no role {role:?} to grant the views to; as an administrator, run: {create}")]
    NoSuchRole { role: String, create: String },
    #[error(
        "there is no database {at} yet; `tim-group-sync crawl` and `tim-group-sync run` create it. \
         If the service has already run, it uses another database: set the same database.url"
    )]
    Absent { at: String },
    #[error("cannot create the folder {} for the database; create it for this program's user, or set database.url", .path.display())]
    Folder { path: PathBuf, source: std::io::Error },
    #[error("cannot open the database's file {}; check who owns the file and its folder", .path.display())]
    File { path: PathBuf, source: std::io::Error },
    #[error("cannot remove the database's file {}; check who owns its folder, and remove it", .path.display())]
    Remove { path: PathBuf, source: std::io::Error },
    #[error(
        "the database's file {} was moved or deleted while it was open, and nothing is written \
         until it is back: put the file back, or restore a backup",
        .path.display()
    )]
    Missing { path: PathBuf, source: std::io::Error },
    #[error(
        "the database's file {} was replaced while it was open, and nothing more is written to the \
         earlier file; a service opens the new file by itself, a command has to be started again",
        .path.display()
    )]
    Displaced { path: PathBuf },
    #[error(
        "the -wal and -shm files beside {} belong to the earlier file of that name, and a reader \
         uses them; stop the reader (`fuser {}-shm` names it)",
        .path.display(),
        .path.display()
    )]
    SideFilesInUse { path: PathBuf },
    #[error(
        "cannot bring the database's tables up to date; the failed migration was rolled back{}",
        migration_advice(.source)
    )]
    Migrate { source: Box<sqlx::migrate::MigrateError> },
    #[error(
        "the database was set up by a newer version of this program (it has migration {version}); \
         run that version, or restore an older backup"
    )]
    Newer { version: i64 },
    #[error(
        "the database has no tables of this program yet; run `tim-group-sync migrate`, or set \
         database.auto_migrate = true"
    )]
    NotMigrated,
    #[error("cannot {action}{}", advice(.source))]
    Query { action: &'static str, source: sqlx::Error },
    #[error(
        "another process has closed crawl {crawl}, so this process did not write its result; check \
         whether this host was suspended or cut off from the database"
    )]
    CrawlAlreadyClosed { crawl: CrawlId },
    #[error(
        "lost the lease of app {app} to another process, because it was not renewed within 30 s; \
         this process writes nothing more for the app. Check whether this host was suspended or \
         cut off from the database"
    )]
    LeaseLost { app: SdkAppId },
    #[error(
        "a PostgreSQL database is backed up with `pg_dump --format=custom --schema={public} \
         --schema={private} --file=FILE` and restored with `pg_restore --clean --if-exists \
         --single-transaction`; docs/operations.md has the steps"
    )]
    BackupByServer { public: String, private: String },
    #[error("{} exists already{}", .path.display(), if *.replace {
        ", is not a backup of this program, and is not replaced; name another file"
    } else {
        "; name another file, or add --replace if it is an earlier backup"
    })]
    BackupExists { path: PathBuf, replace: bool },
    #[error("another process is writing the backup {}", .path.display())]
    BackupBusy { path: PathBuf },
    #[error(
        "cannot {action} the backup {}; check who owns it and its folder (a command that root runs \
         continues as the owner of the database)",
        .path.display()
    )]
    Backup { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error("{} {why}", .path.display())]
    UnusableBackup { path: PathBuf, why: String },
    #[error(
        "the database {at} is not empty, so nothing was copied; name a file that does not exist \
         yet, or a PostgreSQL database in which the schemas have no rows (`DROP SCHEMA … CASCADE` \
         removes those of an earlier attempt)"
    )]
    NotEmpty { at: String },
    #[error("cannot write the file {}; its folder must exist and be writable", .path.display())]
    CopyFile { path: PathBuf, source: std::io::Error },
    #[error(
        "the copied rows of the table {table} differ from the original, and the copy was \
         discarded; check the disk for errors"
    )]
    CopyDiffers { table: &'static str },
    #[error(
        "the database {} is open in another process: stop the service and all other commands first", .path.display()
    )]
    InUse { path: PathBuf },
    #[error("the database {} is being restored; try again when that is done", .path.display())]
    BeingRestored { path: PathBuf },
    #[error(
        "app {app}: the database server was replaced during the crawl, by a failover or a restore; \
         nothing more was written, and the next crawl starts from the data of the new server"
    )]
    ServerReplaced { app: SdkAppId },
    #[error(
        "the lease of app {app} could not be renewed in time, so another process may take it, and \
         this process stops its work on the app; check whether the database server and the network \
         to it work, and whether this host was suspended"
    )]
    LeaseExpired { app: SdkAppId },
    #[error(
        "cannot use the lock file {}; check who owns the file and its folder, and do not use a \
         network file system",
        .path.display()
    )]
    Lock { path: PathBuf, source: std::io::Error },
    #[error(
        "the lock file {} was removed while this process had it locked, so that it no longer keeps \
         other processes away; never remove lock files",
        .path.display()
    )]
    LockRemoved { path: PathBuf },
    #[error(
        "another process works on app {app} although this process has its lock, so this process \
         writes nothing more for the app; check whether the lock file beside the database was \
         removed"
    )]
    Fenced { app: SdkAppId },
    #[error("only an SQLite database can be published as a file; give readers of PostgreSQL a role")]
    PublishNeedsSqlite,
    #[error(
        "cannot {action} the published copy {}; its folder must exist and be writable (crawls \
         continue)",
        .path.display()
    )]
    Publish { action: &'static str, path: PathBuf, source: std::io::Error },
    #[error(
        "{} is not a copy that this program made, so it is not replaced; set another file in \
         database.publish, or remove this one",
        .path.display()
    )]
    NotACopy { path: PathBuf },
}

impl StoreError {
    pub(in crate::store) fn is_unique_violation(&self) -> bool {
        matches!(self, Self::Query { source: sqlx::Error::Database(error), .. } if error.is_unique_violation())
    }

    /// Returns true if the same operation may succeed later, for example because the database was
    /// unreachable or busy.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        match self {
            Self::Open { source, .. } | Self::Query { source, .. } => is_transient(source),
            Self::Migrate { source } => {
                matches!(source.as_ref(), sqlx::migrate::MigrateError::Execute(error) if is_transient(error))
            }
            // After a failover the old primary may answer until the host name resolves to the new
            // primary.
            Self::ReadOnly { .. }
            | Self::LeaseLost { .. }
            | Self::LeaseExpired { .. }
            | Self::LockRemoved { .. }
            | Self::Fenced { .. }
            | Self::ServerReplaced { .. }
            | Self::InUse { .. }
            | Self::BackupBusy { .. }
            | Self::BeingRestored { .. } => true,
            _ => false,
        }
    }

    /// Returns true if only a change of the configuration or of the database can solve the problem.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::InvalidUrl { .. }
            | Self::InvalidSchema { .. }
            | Self::Insecure { .. }
            | Self::TooOld { .. }
            | Self::Rights { .. }
            | Self::OtherOwner { .. }
            | Self::NoSuchRole { .. }
            | Self::Encoding { .. }
            | Self::Newer { .. }
            | Self::Older { .. }
            | Self::NotMigrated => true,
            // PostgreSQL's classes 28 (rejected credentials) and 3D (the database does not exist).
            Self::Open { source: sqlx::Error::Database(error), .. } => {
                error.code().is_some_and(|code| code.starts_with("28") || code.starts_with("3D"))
            }
            _ => false,
        }
    }
}

fn is_transient(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_) | sqlx::Error::PoolTimedOut | sqlx::Error::WorkerCrashed | sqlx::Error::Tls(_) => {
            true
        }
        // Codes of PostgreSQL have five characters, and those of SQLite are shorter numbers whose
        // lowest byte is the primary code.
        //
        // - SQLite: busy (5), locked (6).
        // - PostgreSQL: the classes connection exception (08), insufficient resources (53),
        //   operator intervention (57) and transaction rollback (40); and 25006, a read-only
        //   transaction on a primary that has become a standby.
        sqlx::Error::Database(error) => error.code().is_some_and(|code| match code.parse::<u32>() {
            Ok(sqlite_code) if code.len() < 5 => matches!(sqlite_code & 0xff, 5 | 6),
            _ => code == "25006" || ["08", "53", "57", "40"].iter().any(|class| code.starts_with(class)),
        }),
        _ => false,
    }
}

/// SQLite's extended code `SQLITE_IOERR_GETTEMPPATH`: there is no folder for temporary files.
const NO_TEMPORARY_FOLDER: u32 = 6410;

/// Returns advice to append to a driver's error, or an empty text. Codes are told apart as in
/// [`is_transient`].
fn advice(error: &sqlx::Error) -> &'static str {
    let error = match error {
        sqlx::Error::Database(error) => error,
        sqlx::Error::Io(_) => {
            return "; check whether the server runs, and whether this host reaches it at database.url";
        }
        _ => return "",
    };
    let Some(code) = error.code() else { return "" };
    match code.parse::<u32>() {
        // SQLite: busy (5), locked (6), read-only (8), I/O error (10), corrupt (11), full (13),
        // cannot open (14), not a database (26).
        Ok(sqlite_code) if code.len() < 5 => match sqlite_code & 0xff {
            8 => {
                "; this user may not write the database's file: run this program as the service's \
                 user, or chown and chmod the file, its folder and the files beside it (-wal, -shm)"
            }
            5 | 6 => "; another program has the database locked",
            14 => "; check who owns the file, its folder and the files beside it",
            10 if sqlite_code == NO_TEMPORARY_FOLDER => {
                "; there is no folder for temporary files: make the folder of the database's file \
                 writable"
            }
            10 | 13 => {
                "; the disk of the database's file is full or broken, or the file is at the limit \
                 of this process (ulimit -f): make room, or check the disk"
            }
            11 | 26 => {
                "; the database's file is damaged, or was put beside the -wal file of another one: \
                 stop the service, keep a copy of the file and of its -wal, and restore a backup \
                 with `tim-group-sync restore`, which removes a leftover -wal (`sqlite3 FILE \
                 .recover` saves what can be read)"
            }
            _ => "",
        },
        _ if code == "53300" => {
            "; the server has no free connection: raise max_connections, or close connections of \
             other programs (this program uses up to 12)"
        }
        _ if code == "53100" => "; the server's disk is full: make room",
        _ if code == "42P07" => "; another program has a table of the same name: set another database.schema",
        _ if code.starts_with("28") => {
            "; check the user in database.url, and the password in database.password_file, \
             PGPASSWORD or ~/.pgpass"
        }
        _ if code.starts_with("3D") => "; check the database's name in database.url, or create the database",
        _ => "",
    }
}

fn migration_advice(error: &sqlx::migrate::MigrateError) -> &'static str {
    let driver_advice = match error {
        sqlx::migrate::MigrateError::Execute(source)
        | sqlx::migrate::MigrateError::ExecuteMigration(source, _) => advice(source),
        _ => "",
    };
    if driver_advice.is_empty() {
        " (if another program has tables of the same names, set another database.url)"
    } else {
        driver_advice
    }
}

/// Adds the name of the failed operation to a driver's error.
pub(in crate::store) trait WithAction<T> {
    fn with_action(self, action: &'static str) -> Result<T, StoreError>;
}

impl<T> WithAction<T> for Result<T, sqlx::Error> {
    fn with_action(self, action: &'static str) -> Result<T, StoreError> {
        self.map_err(|source| StoreError::Query { action, source })
    }
}
