//! Opens the database in the background: the daemon starts without it and works as soon as it is open.

use std::future::pending;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::lifecycle::Lifecycle;
use crate::model::{SdkAppId, with_causes};
use crate::store::{Store, StoreError};

/// Pauses between the first attempts to open the database. All later ones last [`MAX_PAUSE`].
const FIRST_PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(10)];
const MAX_PAUSE: Duration = Duration::from_secs(20);

/// The state of the daemon's database.
#[derive(Clone, Debug)]
pub enum Database {
    /// It is being opened and migrated.
    Opening,
    /// The last attempt to open it failed. There will be another one.
    Away { error: Arc<StoreError> },
    /// It was opened. It may still be unreachable now.
    Open(Store),
}

impl Database {
    #[must_use]
    pub fn store(&self) -> Option<&Store> {
        match self {
            Self::Open(store) => Some(store),
            Self::Opening | Self::Away { .. } => None,
        }
    }

    /// Returns why the database is not open, as a sentence.
    #[must_use]
    pub fn problem(&self) -> Option<String> {
        match self {
            Self::Away { error } => Some(format!("waiting for the database: {}", with_causes(error))),
            Self::Opening | Self::Open(_) => None,
        }
    }
}

/// An attempt to open the database.
pub type OpenAttempt = Pin<Box<dyn Future<Output = Result<Store, StoreError>> + Send>>;

/// Starts a task that opens the database and retries until it succeeds. `first` is the first attempt, which may have been
/// polled before.
pub fn keep_database(
    lifecycle: &Lifecycle,
    first: OpenAttempt,
    open: impl Fn() -> OpenAttempt + Send + Sync + 'static,
) -> watch::Receiver<Database> {
    let database = watch::Sender::new(Database::Opening);
    let opened = database.subscribe();
    let stop = lifecycle.stop().soft().clone();
    lifecycle.supervise("the database", async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = async { open_with_retries(&database, first, open).await; pending().await } => {}
        }
    });
    opened
}

async fn open_with_retries(
    database: &watch::Sender<Database>,
    mut attempt: OpenAttempt,
    open: impl Fn() -> OpenAttempt,
) {
    let mut pauses = FIRST_PAUSES.into_iter();
    let mut logged = String::new();
    loop {
        let error = match attempt.await {
            Ok(store) => {
                if !logged.is_empty() {
                    info!("the database is open");
                }
                database.send_replace(Database::Open(store));
                return;
            }
            Err(error) => Arc::new(error),
        };
        let why = with_causes(&error);
        if why == logged {
            debug!("still waiting for the database: {why}");
        } else if error.is_passing() {
            warn!("waiting for the database: {why}");
        } else {
            error!("waiting for the database, which needs attention: {why}");
        }
        logged = why;
        database.send_replace(Database::Away { error });
        sleep(pauses.next().unwrap_or(MAX_PAUSE)).await;
        attempt = open();
    }
}

/// Waits until the database is open. Returns `None` if the task that opens it has ended.
pub(super) async fn opened(database: &mut watch::Receiver<Database>) -> Option<Store> {
    database.wait_for(|database| database.store().is_some()).await.ok()?.store().cloned()
}

/// Writes the list of configured apps to the database whenever it changes, and retries until it succeeds.
pub(super) async fn record_configured(
    mut database: watch::Receiver<Database>,
    mut configured: watch::Receiver<Vec<SdkAppId>>,
    stop: CancellationToken,
) {
    let work = async {
        loop {
            // An error means that the sender is gone, so the process is ending.
            if configured.changed().await.is_err() {
                break;
            }
            let Some(store) = opened(&mut database).await else { break };
            let mut pauses = FIRST_PAUSES.into_iter();
            loop {
                let apps = configured.borrow_and_update().clone();
                match store.set_configured(&apps).await {
                    Ok(()) => break,
                    Err(error) => debug!("cannot record which apps are configured: {}", with_causes(&error)),
                }
                sleep(pauses.next().unwrap_or(MAX_PAUSE)).await;
            }
        }
        pending::<()>().await;
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => {}
        () = work => {}
    }
}
