//! One crawl of an app at a time, across all processes that share the database.
//!
//! SQLite: an exclusive lock on a file beside the database, which the operating system gives back when a process ends,
//! however it ends. The file says when the next request may be sent, so that the call rate holds over a hand-over.
//!
//! PostgreSQL: a row that says until when its holder may go on, by the server's clock. The holder renews it while it
//! works, and every transaction of a crawl ends by finding the row's fence as it was when the lease was taken: whoever
//! was taken for dead, and is not, writes nothing. Given up, the row stays taken until the next request may be sent.

use std::fmt;
use std::fs::{File, OpenOptions, TryLockError};
use std::io::{Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, fchown};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::time::Instant;
use tracing::warn;

use super::engine::{Engine, Store, beside, query, query_as, query_scalar, reading};
use super::error::{Attempted as _, StoreError};
use super::server::Server;
use crate::model::SdkAppId;

const POLL: Duration = Duration::from_millis(200);

/// How long a lease in PostgreSQL outlives its last renewal.
const TIME_TO_LIVE: Duration = Duration::from_secs(30);
/// It is renewed at most so often …
const RENEW_AFTER: Duration = Duration::from_secs(5);
/// … and, while the API or a pause is waited for, at least so often.
const RENEW_EVERY: Duration = Duration::from_secs(8);
/// A server that does not answer in this time is asked again; its network may have gone without a word.
const ANSWER_WITHIN: Duration = Duration::from_secs(6);

/// The right to crawl an app. Given up when dropped, in PostgreSQL only by running out; [`Lease::release`] also leaves
/// word for the next holder.
#[derive(Debug)]
pub struct Lease {
    hold: Hold,
    not_before: Option<DateTime<Utc>>,
}

#[derive(Debug)]
enum Hold {
    File(FileLock),
    Row(Row),
}

/// A lease in PostgreSQL.
struct Row {
    server: Server,
    fence: Fence,
    /// By this process' own steady clock.
    renewed: Mutex<Instant>,
}

/// Which taking of an app's lease it was: each has a greater number than all before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fence {
    pub(super) app: SdkAppId,
    pub(super) number: i64,
}

impl fmt::Debug for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.fence.fmt(f)
    }
}

/// Who may crawl an app at present.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeaseHolder {
    pub host: String,
    /// In SQLite known only of crawls.
    pub since: Option<DateTime<Utc>>,
}

// The server's clock, in unix milliseconds.
macro_rules! by_its_clock {
    ($before:literal, $after:literal) => {
        concat!($before, "CAST(floor(extract(epoch FROM clock_timestamp()) * 1000) AS BIGINT)", $after)
    };
}

const STANDING: &str =
    by_its_clock!("SELECT holder IS NULL, expires_at - ", " FROM lease WHERE sdk_app_id = $1");
// One's own word in the row: an earlier attempt took it, and the connection broke before that was known.
const TAKE: &str = concat!(
    by_its_clock!("WITH clock AS (SELECT ", " AS now)"),
    "
INSERT INTO lease AS l (sdk_app_id, fence, holder, host, taken_at, expires_at)
SELECT $1, 1, $2, $3, clock.now, clock.now + $4 FROM clock
ON CONFLICT (sdk_app_id) DO UPDATE SET
    fence = l.fence + 1, holder = excluded.holder, host = excluded.host, taken_at = excluded.taken_at,
    expires_at = excluded.expires_at
WHERE l.expires_at <= excluded.taken_at OR l.holder = excluded.holder
RETURNING fence"
);
const RENEW: &str = by_its_clock!(
    "UPDATE lease SET expires_at = $3 + ",
    " WHERE sdk_app_id = $1 AND fence = $2 AND holder IS NOT NULL"
);
const GIVE_UP: &str = by_its_clock!(
    "UPDATE lease SET holder = NULL, expires_at = $3 + ",
    " WHERE sdk_app_id = $1 AND fence = $2 AND holder IS NOT NULL"
);
const HOLDER: &str = by_its_clock!(
    "SELECT host, taken_at FROM lease WHERE sdk_app_id = $1 AND holder IS NOT NULL AND expires_at > ",
    ""
);
const LEASED: &str =
    by_its_clock!("SELECT sdk_app_id FROM lease WHERE holder IS NOT NULL AND expires_at > ", "");
const RUNNING_SINCE: &str = "
SELECT c.host, c.started_at FROM crawl c JOIN app a ON a.app_id = c.app_id
WHERE a.sdk_app_id = $1 AND c.status = 'running' ORDER BY c.crawl_id DESC LIMIT 1";

impl Lease {
    /// When the last holder's call rate allows the next request.
    #[must_use]
    pub fn not_before(&self) -> Option<DateTime<Utc>> {
        self.not_before
    }

    /// Keeps the lease for another while. To be called whenever the work has come a step further; it costs nothing when
    /// it was renewed just now.
    pub async fn renew(&self) -> Result<(), StoreError> {
        let Hold::Row(row) = &self.hold else { return Ok(()) };
        if row.since_renewal() < RENEW_AFTER {
            return Ok(());
        }
        match row.renew().await {
            Err(lost @ StoreError::LeaseLost { .. }) => Err(lost),
            // Nobody can have taken it over yet.
            Err(error) if error.is_passing() && row.since_renewal() < TIME_TO_LIVE => {
                warn!(%error, "cannot renew the lease; it still holds");
                Ok(())
            }
            renewed => renewed,
        }
    }

    /// Runs something, and keeps the lease meanwhile, however long it takes. What runs is abandoned if the lease was
    /// lost all the same.
    pub async fn keeping<T>(&self, run: impl Future<Output = T>) -> Result<T, StoreError> {
        let renewing = async {
            loop {
                tokio::time::sleep(RENEW_EVERY).await;
                if let Err(lost) = self.renew().await {
                    break lost;
                }
            }
        };
        tokio::select! {
            biased;
            outcome = run => Ok(outcome),
            lost = renewing => Err(lost),
        }
    }

    /// Gives the lease up; nobody may send a request until `pause` after `now`.
    pub async fn release(self, now: DateTime<Utc>, pause: Duration) {
        // Without word of it the next holder may be throttled once, which its retry mends, or waits until the lease
        // runs out by itself.
        match self.hold {
            Hold::File(mut lock) => {
                let _ = lock.write(&(now + pause).timestamp_millis().to_string());
            }
            Hold::Row(row) => {
                if let Err(error) = row.update(GIVE_UP, pause).await {
                    warn!(%error, "the lease was not given up and will run out");
                }
            }
        }
    }

    /// Gives the lease up when no request was sent: what the last holder left word of still stands.
    pub async fn give_back(self) {
        if matches!(self.hold, Hold::Row(_)) {
            self.release(DateTime::UNIX_EPOCH, Duration::ZERO).await;
        }
    }

    /// What a transaction in PostgreSQL has to find unchanged.
    pub(super) fn fence(&self) -> Option<Fence> {
        match &self.hold {
            Hold::File(_) => None,
            Hold::Row(row) => Some(row.fence),
        }
    }

    /// Notes a renewal that was part of another transaction.
    pub(super) fn was_renewed(&self) {
        if let Hold::Row(row) = &self.hold {
            row.was_renewed();
        }
    }
}

impl Row {
    fn since_renewal(&self) -> Duration {
        self.renewed.lock().unwrap_or_else(PoisonError::into_inner).elapsed()
    }

    fn was_renewed(&self) {
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    async fn renew(&self) -> Result<(), StoreError> {
        let asked = Instant::now();
        self.update(RENEW, TIME_TO_LIVE).await?;
        *self.renewed.lock().unwrap_or_else(PoisonError::into_inner) = asked;
        Ok(())
    }

    /// Sets when the lease runs out, from now on, if it is still this one's.
    async fn update(&self, statement: &'static str, lasting: Duration) -> Result<(), StoreError> {
        let Fence { app, number } = self.fence;
        let update = async || {
            let mut tx = self.server.begin_for_lease().await?;
            let done =
                query(statement).bind(app.get()).bind(number).bind(millis(lasting)).execute(&mut *tx).await?;
            tx.commit().await?;
            Ok(done.rows_affected())
        };
        let updated = tokio::time::timeout(ANSWER_WITHIN, update()).await;
        match updated.unwrap_or(Err(sqlx::Error::PoolTimedOut)).attempted("renew the lease of an app")? {
            0 => Err(StoreError::LeaseLost { app }),
            _ => Ok(()),
        }
    }
}

/// Renews a lease as the last statement of a transaction, which must not be committed if it was lost. Last, because
/// until the commit it keeps others from looking whether they may take it.
pub(super) async fn confirm(
    tx: &mut sqlx::Transaction<'_, sqlx::Postgres>,
    lease: &Lease,
) -> Result<(), StoreError> {
    let Some(Fence { app, number }) = lease.fence() else { return Ok(()) };
    let done = query(RENEW)
        .bind(app.get())
        .bind(number)
        .bind(millis(TIME_TO_LIVE))
        .execute(&mut **tx)
        .await
        .attempted("renew the lease of an app")?;
    if done.rows_affected() == 0 {
        return Err(StoreError::LeaseLost { app });
    }
    lease.was_renewed();
    Ok(())
}

impl Store {
    /// Takes the lease of an app, or `None` if another process, or another task of this one, holds it.
    pub async fn try_lease(&self, app: SdkAppId) -> Result<Option<Lease>, StoreError> {
        match &self.engine {
            Engine::Sqlite(file) => {
                let path = beside(&file.path, &format!("app-{app}.lock"));
                let Some(mut lock) = FileLock::try_take(&path, &file.path)? else { return Ok(None) };
                let not_before = lock.read().trim().parse().ok().and_then(DateTime::from_timestamp_millis);
                Ok(Some(Lease { hold: Hold::File(lock), not_before }))
            }
            Engine::Postgres(server) => {
                let row = self.try_take_row(server, app).await?;
                Ok(row.map(|row| Lease { hold: Hold::Row(row), not_before: None }))
            }
        }
    }

    async fn try_take_row(&self, server: &Server, app: SdkAppId) -> Result<Option<Row>, StoreError> {
        const DOING: &str = "take the lease of an app";
        let word = format!("{:016x}", rand::random::<u64>());
        loop {
            // Only looked at as long as it is another's: taking in vain would write.
            let standing: Option<(bool, i64)> =
                reading!(self, on => query_as(STANDING).bind(app.get()).fetch_optional(on).await)
                    .attempted(DOING)?;
            match standing {
                Some((given_up, left)) if left > 0 => {
                    if !given_up {
                        return Ok(None);
                    }
                    // Nobody's, but too early for a request.
                    tokio::time::sleep(Duration::from_millis(left.cast_unsigned())).await;
                }
                _ => {
                    let asked = Instant::now();
                    let taken: Option<i64> = server.take_lease(app, &word).await.attempted(DOING)?;
                    if let Some(number) = taken {
                        let fence = Fence { app, number };
                        return Ok(Some(Row { server: server.clone(), fence, renewed: Mutex::new(asked) }));
                    }
                }
            }
        }
    }

    /// Takes the lease of an app, waiting for it. `on_wait` is called before each of many short waits, with the number
    /// of those before.
    pub async fn lease(&self, app: SdkAppId, mut on_wait: impl FnMut(u64)) -> Result<Lease, StoreError> {
        let mut waits = 0;
        loop {
            if let Some(lease) = self.try_lease(app).await? {
                return Ok(lease);
            }
            on_wait(waits);
            waits += 1;
            tokio::time::sleep(POLL).await;
        }
    }

    /// Who holds the lease of an app.
    pub async fn lease_holder(&self, app: SdkAppId) -> Result<Option<LeaseHolder>, StoreError> {
        const DOING: &str = "read who crawls an app";
        let statement = match &self.engine {
            Engine::Sqlite(file) if !is_locked(&beside(&file.path, &format!("app-{app}.lock")))? => {
                return Ok(None);
            }
            Engine::Sqlite(_) => RUNNING_SINCE,
            Engine::Postgres(_) => HOLDER,
        };
        let holder: Option<(String, i64)> =
            reading!(self, on => query_as(statement).bind(app.get()).fetch_optional(on).await)
                .attempted(DOING)?;
        Ok(match (holder, &self.engine) {
            (Some((host, since)), _) => {
                Some(LeaseHolder { host, since: DateTime::from_timestamp_millis(since) })
            }
            // Whoever holds a file's lock is on this machine.
            (None, Engine::Sqlite(_)) => Some(LeaseHolder { host: this_host(), since: None }),
            (None, Engine::Postgres(_)) => None,
        })
    }

    /// Of which of these apps somebody holds the lease.
    pub async fn leased(&self, apps: &[SdkAppId]) -> Result<Vec<SdkAppId>, StoreError> {
        let leased: Vec<i64> = match &self.engine {
            Engine::Sqlite(file) => {
                let lock = |app: &SdkAppId| beside(&file.path, &format!("app-{app}.lock"));
                // One that may not be looked at is somebody's.
                let is_leased = |app: &&SdkAppId| is_locked(&lock(app)).unwrap_or(true);
                return Ok(apps.iter().filter(is_leased).copied().collect());
            }
            Engine::Postgres(_) => reading!(self, on => query_scalar(LEASED).fetch_all(on).await)
                .attempted("read which apps are being crawled")?,
        };
        Ok(apps.iter().filter(|app| leased.contains(&app.get())).copied().collect())
    }
}

impl Server {
    async fn take_lease(&self, app: SdkAppId, word: &str) -> Result<Option<i64>, sqlx::Error> {
        let mut retries = super::server::Retries::default();
        let take = async || {
            let mut tx = self.begin().await?;
            let taken = query_scalar(TAKE)
                .bind(app.get())
                .bind(word)
                .bind(this_host())
                .bind(millis(TIME_TO_LIVE))
                .fetch_optional(&mut *tx)
                .await?;
            tx.commit().await?;
            Ok(taken)
        };
        loop {
            match take().await {
                Err(error) if retries.again(&error).await => {}
                taken => break taken,
            }
        }
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}

fn this_host() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    if name.trim().is_empty() { "unknown".to_owned() } else { name.trim().to_owned() }
}

/// Whether somebody has a file locked.
fn is_locked(path: &Path) -> Result<bool, StoreError> {
    let lock_error = |source| StoreError::Lock { path: path.to_owned(), source };
    let file = match File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(false),
        file => file.map_err(lock_error)?,
    };
    match file.try_lock_shared() {
        Ok(()) => Ok(false),
        Err(TryLockError::WouldBlock) => Ok(true),
        Err(TryLockError::Error(source)) => Err(lock_error(source)),
    }
}

/// An exclusive lock on a file, as long as this lives.
#[derive(Debug)]
pub(super) struct FileLock {
    file: File,
    path: PathBuf,
}

impl FileLock {
    /// `None` if another process, or another part of this one, has it.
    pub(super) fn try_take(path: &Path, database: &Path) -> Result<Option<Self>, StoreError> {
        let lock_error = |source| StoreError::Lock { path: path.to_owned(), source };
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create(true)
            .truncate(false)
            .open(path)
            .map_err(lock_error)?;
        share_owner(&file, database);
        match file.try_lock() {
            Ok(()) => Ok(Some(Self { file, path: path.to_owned() })),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(source)) => Err(lock_error(source)),
        }
    }

    pub(super) async fn take(path: &Path, database: &Path) -> Result<Self, StoreError> {
        loop {
            if let Some(lock) = Self::try_take(path, database)? {
                return Ok(lock);
            }
            tokio::time::sleep(POLL).await;
        }
    }

    fn read(&mut self) -> String {
        let mut text = String::new();
        // An unreadable note is like none.
        let _ = (&self.file).take(64).read_to_string(&mut text);
        text
    }

    fn write(&mut self, text: &str) -> Result<(), StoreError> {
        self.file
            .rewind()
            .and_then(|()| self.file.set_len(0))
            .and_then(|()| self.file.write_all(text.as_bytes()))
            .map_err(|source| StoreError::Lock { path: self.path.clone(), source })
    }
}

/// Gives a file to the owner of the database: what root makes beside it, the service could not open.
pub(super) fn share_owner(file: &File, database: &Path) {
    let (Ok(database), Ok(own)) = (std::fs::metadata(database), file.metadata()) else { return };
    if (own.uid(), own.gid()) != (database.uid(), database.gid()) {
        // Only root may; for others the file is their own, and that is as good.
        let _ = fchown(file, Some(database.uid()), Some(database.gid()));
    }
}
