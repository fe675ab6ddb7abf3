//! Allows one crawl of an app at a time, across all processes that share the database.
//!
//! SQLite: an exclusive lock on a file beside the database. The operating system releases it when
//! the process ends. The file contains the earliest time of the next request, so that the call rate
//! holds across processes. If the file is removed, two processes can hold a lock. Therefore every
//! transaction checks a fencing token: no other process has opened a crawl of the app.
//!
//! PostgreSQL: a row that expires by the server's clock. The holder renews it while it works. Each
//! acquisition has a fencing token, which every transaction of the holder checks before it commits:
//! a holder whose lease another process has taken is fenced. In a released row, the time of expiry is the
//! earliest time of the next request.

mod file;
mod row;

use std::future::pending;
use std::path::PathBuf;
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::future::select_all;
use serde::Serialize;

use super::engine::{
    Engine, FencingToken, NEWEST_CRAWL, NewestCrawl, SqliteFile, Store, StoreError, beside, values,
};
use crate::model::{CrawlId, SdkAppId};
pub(super) use file::FileLock;
use row::RowLease;

/// The pause between two attempts to take a lease.
const POLL_INTERVAL: Duration = Duration::from_millis(200);
/// The interval at which [`Lease::run_while_held`] checks a lock file. A lease of PostgreSQL is
/// renewed equally often.
const FILE_CHECK_INTERVAL: Duration = Duration::from_secs(8);

/// The right to crawl an app. Callers end it with [`Lease::release`], which records when the next
/// holder may send its first request. If it is dropped instead, a file lock is released at once,
/// and a row expires.
#[derive(Debug)]
pub struct Lease {
    kind: LeaseKind,
}

#[derive(Debug)]
enum LeaseKind {
    File {
        lock: FileLock,
        newest_crawl: NewestCrawl,
        /// The earliest time of the first request, as the previous holder recorded it.
        first_request_at: Option<DateTime<Utc>>,
    },
    Row(RowLease),
}

/// The process that holds the lease of an app.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct LeaseHolder {
    pub host: String,
    /// When the holder took the lease. With SQLite, when the running crawl started, or `None` if no
    /// crawl is running.
    pub since: Option<DateTime<Utc>>,
}

const SELECT_RUNNING_CRAWL: &str = "
SELECT c.host, c.started_at FROM crawl c JOIN app a ON a.app_id = c.app_id
WHERE a.sdk_app_id = $1 AND c.status = 'running' ORDER BY c.crawl_id DESC LIMIT 1";

impl Lease {
    /// Returns how long the first request must wait, so that the call rate holds across holders.
    /// Callers wait at most for their own request interval, because the clock of the previous
    /// holder may have been wrong.
    #[must_use]
    pub fn pause(&self, now: DateTime<Utc>) -> Duration {
        match &self.kind {
            LeaseKind::File { first_request_at, .. } => {
                first_request_at.and_then(|at| (at - now).to_std().ok()).unwrap_or_default()
            }
            LeaseKind::Row(row) => row.pause(),
        }
    }

    /// Renews the lease. Does nothing shortly after the last renewal.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another process has taken the lease,
    /// [`StoreError::LockRemoved`] if another process could take it, or a database error if the
    /// renewal failed.
    pub async fn renew(&self) -> Result<(), StoreError> {
        match &self.kind {
            LeaseKind::File { lock, .. } => lock.check_in_place(),
            LeaseKind::Row(row) => row.renew_if_old().await,
        }
    }

    /// Runs a future, and renews the lease until the future ends. Drops the future if the lease is
    /// lost or has expired.
    ///
    /// # Errors
    /// [`StoreError::LeaseLost`] if another process has taken the lease,
    /// [`StoreError::LeaseExpired`] if it could not be renewed in time, and
    /// [`StoreError::LockRemoved`] if the lock file was removed or replaced.
    pub async fn run_while_held<T>(&self, work: impl Future<Output = T>) -> Result<T, StoreError> {
        tokio::select! {
            // The lease is polled first, because no request may be sent after it has expired.
            biased;
            lost = self.until_lost() => Err(lost),
            output = work => Ok(output),
        }
    }

    /// Renews the lease until it is lost or has expired. Returns the reason.
    async fn until_lost(&self) -> StoreError {
        match &self.kind {
            LeaseKind::Row(row) => row.renew_until_lost().await,
            LeaseKind::File { .. } => loop {
                tokio::time::sleep(FILE_CHECK_INTERVAL).await;
                if let Err(lost) = self.renew().await {
                    break lost;
                }
            },
        }
    }

    /// Runs a future, and renews several leases until the future ends. Drops the future if one of
    /// the leases is lost or has expired.
    ///
    /// # Errors
    /// As [`Lease::run_while_held`].
    pub async fn run_while_all_held<T>(
        leases: &[Self],
        work: impl Future<Output = T>,
    ) -> Result<T, StoreError> {
        let any_lost = async {
            // `select_all` panics without futures.
            if leases.is_empty() {
                return pending().await;
            }
            select_all(leases.iter().map(|lease| Box::pin(lease.until_lost()))).await.0
        };
        tokio::select! {
            // As in `run_while_held`.
            biased;
            lost = any_lost => Err(lost),
            output = work => Ok(output),
        }
    }

    /// Releases the lease. The next holder may send its first request at `now` plus `pause`.
    pub async fn release(self, now: DateTime<Utc>, pause: Duration) {
        match self.kind {
            // A failure is ignored. Then the API may throttle the next holder once, whose retry
            // succeeds.
            LeaseKind::File { mut lock, .. } => {
                let _ = lock.write(&(now + pause).timestamp_millis().to_string());
            }
            LeaseKind::Row(row) => row.release(pause).await,
        }
    }

    /// Releases the lease of a holder that sent no request. The earliest time of the next request
    /// does not change.
    pub async fn release_unused(self) {
        if let LeaseKind::Row(row) = self.kind {
            row.release(row.pause()).await;
        }
    }

    /// Returns the fencing token, which every transaction of the holder checks.
    pub(super) fn token(&self) -> FencingToken<'_> {
        match &self.kind {
            LeaseKind::File { newest_crawl, .. } => FencingToken::Crawl(newest_crawl),
            LeaseKind::Row(row) => FencingToken::Row(&row.fence),
        }
    }

    /// Records that the holder opened a crawl, see [`NewestCrawl`].
    pub(super) fn record_opened(&self, crawl: CrawlId) {
        if let LeaseKind::File { newest_crawl, .. } = &self.kind {
            newest_crawl.record_opened(crawl);
        }
    }

    /// Records that a crawl was closed, see [`NewestCrawl`].
    pub(super) fn record_closed(&self, crawl: CrawlId) {
        if let LeaseKind::File { newest_crawl, .. } = &self.kind {
            newest_crawl.record_closed(crawl);
        }
    }
}

impl Store {
    /// Takes the lease of an app. Returns `None` if another process, or another task of this
    /// process, holds it.
    ///
    /// # Errors
    /// If the lock file or the database cannot be used.
    pub async fn try_lease(&self, app: SdkAppId) -> Result<Option<Lease>, StoreError> {
        match &self.engine {
            Engine::Sqlite(file) => {
                let Some(mut lock) = FileLock::try_take(&lock_file(file, app), &file.path)? else {
                    return Ok(None);
                };
                let first_request_at =
                    lock.read().trim().parse().ok().and_then(DateTime::from_timestamp_millis);
                let newest: Option<(i64, bool)> = self
                    .fetch_optional("take the lease of an app", NEWEST_CRAWL, &values![app.get()])
                    .await?;
                let newest_crawl = NewestCrawl::new(app, newest.map(|(crawl, _is_running)| CrawlId(crawl)));
                Ok(Some(Lease { kind: LeaseKind::File { lock, newest_crawl, first_request_at } }))
            }
            Engine::Postgres(server) => {
                let row = RowLease::try_take(self, server, app, &this_host()).await?;
                Ok(row.map(|row| Lease { kind: LeaseKind::Row(row) }))
            }
        }
    }

    /// Takes the lease of an app, and waits while another process holds it. Before each pause,
    /// `on_wait` receives the number of earlier pauses.
    ///
    /// # Errors
    /// As [`Store::try_lease`].
    pub async fn lease(&self, app: SdkAppId, mut on_wait: impl FnMut(u64)) -> Result<Lease, StoreError> {
        let mut waits = 0;
        loop {
            if let Some(lease) = self.try_lease(app).await? {
                return Ok(lease);
            }
            on_wait(waits);
            waits += 1;
            tokio::time::sleep(POLL_INTERVAL).await;
        }
    }

    /// Returns which process holds the lease of an app.
    ///
    /// # Errors
    /// If the lock file or the database cannot be read.
    pub async fn lease_holder(&self, app: SdkAppId) -> Result<Option<LeaseHolder>, StoreError> {
        let (statement, is_file_locked) = match &self.engine {
            Engine::Sqlite(file) => (SELECT_RUNNING_CRAWL, file::is_locked(&lock_file(file, app))?),
            Engine::Postgres(_) => (row::SELECT_HOLDER, None),
        };
        if is_file_locked == Some(false) {
            return Ok(None);
        }
        // `is_file_locked` is `None` on PostgreSQL, and if this user may not open the lock file.
        // Then a row that the statement returns shows that there is a holder.
        let values = values![app.get(), row::millis(self.engine.limits().lease)];
        // `SELECT_RUNNING_CRAWL` has only one parameter.
        let values = if statement == row::SELECT_HOLDER { &values[..] } else { &values[..1] };
        let holder: Option<(String, i64)> =
            self.fetch_optional("read which process crawls an app", statement, values).await?;
        Ok(match holder {
            Some((host, since)) => Some(LeaseHolder { host, since: DateTime::from_timestamp_millis(since) }),
            // A process that holds a file lock runs on this host.
            None => is_file_locked.map(|_| LeaseHolder { host: this_host(), since: None }),
        })
    }

    /// Describes the process that holds the lease of an app, for a log line.
    #[must_use]
    pub fn describe_holder(&self, app: SdkAppId) -> String {
        match &self.engine {
            Engine::Sqlite(file) => {
                let lock = lock_file(file, app);
                format!("{}, which has locked {},", file::describe_holder(&lock), lock.display())
            }
            Engine::Postgres(_) => "another process".to_owned(),
        }
    }

    /// Returns those of `apps` whose lease a process holds.
    ///
    /// # Errors
    /// If the database cannot be read.
    pub async fn leased_apps(&self, apps: &[SdkAppId]) -> Result<Vec<SdkAppId>, StoreError> {
        if let Engine::Sqlite(_) = &self.engine {
            let mut leased = Vec::new();
            for app in apps {
                match self.lease_holder(*app).await {
                    Ok(None) => {}
                    // If the lock file cannot be used, the app counts as leased, because no process
                    // can crawl it.
                    Ok(Some(_)) | Err(StoreError::Lock { .. }) => leased.push(*app),
                    Err(error) => return Err(error),
                }
            }
            return Ok(leased);
        }
        let time_to_live = row::millis(self.engine.limits().lease);
        let leased: Vec<(i64,)> = self
            .fetch_all("read which apps are being crawled", row::SELECT_LEASED, &values![time_to_live])
            .await?;
        Ok(apps.iter().filter(|app| leased.contains(&(app.get(),))).copied().collect())
    }
}

fn lock_file(file: &SqliteFile, app: SdkAppId) -> PathBuf {
    beside(&file.path, &format!("app-{app}.lock"))
}

/// Returns the name of this host, which leases and crawls record.
#[must_use]
pub fn this_host() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}
