//! Opens the database in the background, so that the daemon can start without it.
//!
//! If an SQLite file is moved, deleted or replaced while it is open, it is *displaced*. The daemon
//! then waits until a file is at its path again, and opens that file. It never creates a file in
//! place of a missing one.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::lifecycle::Lifecycle;
use crate::model::{SdkAppId, with_causes};
use crate::store::{Store, StoreError};

/// Pauses after the first failed attempts to use the database. All later pauses last [`MAX_PAUSE`].
const FIRST_PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(10)];
/// Pause after each later attempt.
const MAX_PAUSE: Duration = Duration::from_secs(20);
/// Interval of the checks that an SQLite file is still at its path. Queries and transactions check
/// it too.
const CHECK_INTERVAL: Duration = Duration::from_secs(5);

#[derive(Clone, Debug)]
pub enum Database {
    /// The database is being opened and migrated.
    Opening,
    /// The last attempt to open the database failed. Another one follows.
    Unavailable { error: Arc<StoreError> },
    /// The database was opened. It may have become unreachable since.
    Open(Store),
}

impl Database {
    #[must_use]
    pub fn store(&self) -> Option<&Store> {
        match self {
            Self::Open(store) => Some(store),
            Self::Opening | Self::Unavailable { .. } => None,
        }
    }

    /// Returns why the database is not open, as a sentence.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        match self {
            Self::Unavailable { error } => Some(format!("waiting for the database: {}", with_causes(error))),
            Self::Opening | Self::Open(_) => None,
        }
    }
}

/// Which database the daemon opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Opening {
    /// The database at the start. An SQLite file is created if it does not exist.
    First,
    /// A file at the path of one that was moved, deleted or replaced. It must exist.
    Again,
}

pub type OpenAttempt = Pin<Box<dyn Future<Output = Result<Store, StoreError>> + Send>>;

/// Starts a task that opens the database and retries until it succeeds. If the file is displaced,
/// the task opens the next file at its path. `first` is the first attempt to open the database,
/// which the caller may have polled already.
pub fn maintain_database(
    lifecycle: &Lifecycle,
    first: OpenAttempt,
    open: impl Fn(Opening) -> OpenAttempt + Send + Sync + 'static,
) -> watch::Receiver<Database> {
    let database = watch::Sender::new(Database::Opening);
    let opened = database.subscribe();
    let stop = lifecycle.stop().soft().clone();
    lifecycle.supervise("the database", async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = keep_open(&database, first, open) => {}
        }
    });
    opened
}

async fn keep_open(
    database: &watch::Sender<Database>,
    first: OpenAttempt,
    open: impl Fn(Opening) -> OpenAttempt,
) {
    let mut store = open_with_retries(database, first, || open(Opening::First), String::new()).await;
    loop {
        let displaced = wait_until_displaced(&store).await;
        let why = with_causes(&displaced);
        error!("waiting for the database, which needs attention: {why}");
        database.send_replace(Database::Unavailable { error: Arc::new(displaced) });
        let retry = || open_again(store.clone(), open(Opening::Again));
        let next = open_with_retries(database, retry(), retry, why).await;
        store = next;
    }
}

/// Abandons a displaced file, and opens the file at its path.
fn open_again(displaced: Store, open: OpenAttempt) -> OpenAttempt {
    Box::pin(async move {
        displaced.abandon().await?;
        open.await
    })
}

async fn wait_until_displaced(store: &Store) -> StoreError {
    loop {
        if let Err(displaced) = store.check_in_place() {
            return displaced;
        }
        // Ends early if a query or a transaction detects the displacement first.
        let _ = timeout(CHECK_INTERVAL, store.displaced()).await;
    }
}

/// Awaits the attempt, and makes further ones until one succeeds. `logged` is the problem that was
/// logged last, or empty if none was.
async fn open_with_retries(
    database: &watch::Sender<Database>,
    mut attempt: OpenAttempt,
    open: impl Fn() -> OpenAttempt,
    mut logged: String,
) -> Store {
    let mut pauses = FIRST_PAUSES.into_iter();
    loop {
        let error = match attempt.await {
            Ok(store) => {
                database.send_replace(Database::Open(store.clone()));
                if !logged.is_empty() {
                    info!("the database is open");
                }
                return store;
            }
            Err(error) => Arc::new(error),
        };
        let why = with_causes(&error);
        if why == logged {
            debug!("still waiting for the database: {why}");
        } else if error.is_transient() {
            warn!("waiting for the database: {why}");
        } else {
            error!("waiting for the database, which needs attention: {why}");
        }
        logged = why;
        database.send_replace(Database::Unavailable { error });
        sleep(pauses.next().unwrap_or(MAX_PAUSE)).await;
        attempt = open();
    }
}

/// Waits until the database is open. Returns `None` if the task that opens it has ended.
pub(super) async fn wait_until_open(database: &mut watch::Receiver<Database>) -> Option<Store> {
    database.wait_for(|database| database.store().is_some()).await.ok()?.store().cloned()
}

/// Writes the list of configured apps to the database whenever the list changes or a database is
/// opened, and retries until it succeeds.
pub(super) async fn record_configured(
    mut database: watch::Receiver<Database>,
    mut configured: watch::Receiver<Vec<SdkAppId>>,
    stop: CancellationToken,
) {
    let work = async {
        // There is no list before the first change. An error means that the sender was dropped, so
        // the process is ending.
        let mut changed = configured.changed().await;
        while changed.is_ok() {
            let mut pauses = FIRST_PAUSES.into_iter();
            while let Some(store) = wait_until_open(&mut database).await {
                let apps = configured.borrow_and_update().clone();
                match store.set_configured(&apps).await {
                    Ok(()) => break,
                    Err(error) => debug!("cannot record which apps are configured: {}", with_causes(&error)),
                }
                sleep(pauses.next().unwrap_or(MAX_PAUSE)).await;
            }
            changed = tokio::select! {
                changed = configured.changed() => changed,
                Ok(()) = database.changed() => Ok(()),
            };
        }
        pending::<()>().await;
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = work => {}
    }
}
