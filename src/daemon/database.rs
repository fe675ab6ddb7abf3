//! The database, as long as it takes: a daemon starts without it, says so, and works once it is there.

use std::future::pending;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

use crate::lifecycle::Lifecycle;
use crate::model::{SdkAppId, with_causes};
use crate::store::{Store, StoreError};

/// Pauses between attempts to open the database.
const PAUSES: [Duration; 3] = [Duration::from_secs(1), Duration::from_secs(5), Duration::from_secs(10)];
const LONGEST_PAUSE: Duration = Duration::from_secs(20);
/// The longest that an attempt is silent for: it may bring large tables up to date, a statement at a time.
const OPENING: Duration = Duration::from_secs(3600);

/// The database as the daemon has it.
#[derive(Clone, Debug)]
pub enum Database {
    /// It is being opened, and its tables brought up to date.
    Opening { since: Instant },
    /// It could not be opened and is tried again.
    Away { error: Arc<StoreError>, since: Instant },
    /// It was opened. Whether it answers now is for its user to see.
    Open(Store),
}

impl Database {
    #[must_use]
    pub fn store(&self) -> Option<&Store> {
        match self {
            Self::Open(store) => Some(store),
            Self::Opening { .. } | Self::Away { .. } => None,
        }
    }

    /// What is wrong with it, as a sentence.
    #[must_use]
    pub fn trouble(&self) -> Option<String> {
        match self {
            Self::Away { error, .. } => Some(format!("waiting for the database: {}", with_causes(error))),
            Self::Opening { .. } | Self::Open(_) => None,
        }
    }

    /// When the next sign of life has to be there.
    pub(super) fn silent_until(&self) -> Option<Instant> {
        match self {
            Self::Opening { since } | Self::Away { since, .. } => Some(*since + LONGEST_PAUSE + OPENING),
            Self::Open(_) => None,
        }
    }
}

/// Opens the database in a task of its own, trying again for as long as it fails.
pub fn keep_database<F>(
    lifecycle: &Lifecycle,
    open: impl Fn() -> F + Send + Sync + 'static,
) -> watch::Receiver<Database>
where
    F: Future<Output = Result<Store, StoreError>> + Send,
{
    let database = watch::Sender::new(Database::Opening { since: Instant::now() });
    let opened = database.subscribe();
    let stop = lifecycle.stop().soft().clone();
    lifecycle.supervise("the database", async move {
        tokio::select! {
            biased;
            () = stop.cancelled() => {}
            () = async { open_at_last(&database, open).await; pending().await } => {}
        }
    });
    opened
}

async fn open_at_last<F: Future<Output = Result<Store, StoreError>>>(
    database: &watch::Sender<Database>,
    open: impl Fn() -> F,
) {
    let mut pauses = PAUSES.into_iter();
    let mut told = String::new();
    loop {
        let error = match open().await {
            Ok(store) => {
                if !told.is_empty() {
                    info!("the database is there");
                }
                database.send_replace(Database::Open(store));
                return;
            }
            Err(error) => Arc::new(error),
        };
        let why = with_causes(&error);
        if why == told {
            debug!("still waiting for the database: {why}");
        } else if error.is_passing() {
            warn!("waiting for the database: {why}");
        } else {
            error!("waiting for the database, but someone has to see to it: {why}");
        }
        told = why;
        database.send_replace(Database::Away { error, since: Instant::now() });
        sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
    }
}

/// Waits for the database; `None` if nobody opens it any more.
pub(super) async fn opened(database: &mut watch::Receiver<Database>) -> Option<Store> {
    database.wait_for(|database| database.store().is_some()).await.ok()?.store().cloned()
}

/// Tells the database which apps are configured, whenever that changes, for as long as it takes.
pub(super) async fn record_configured(
    mut database: watch::Receiver<Database>,
    mut configured: watch::Receiver<Vec<SdkAppId>>,
    stop: CancellationToken,
) {
    let work = async {
        loop {
            // Whoever sends either has gone down with the process.
            if configured.changed().await.is_err() {
                break;
            }
            let Some(store) = opened(&mut database).await else { break };
            let mut pauses = PAUSES.into_iter();
            loop {
                let apps = configured.borrow_and_update().clone();
                match store.set_configured(&apps).await {
                    Ok(()) => break,
                    Err(error) => debug!("cannot record which apps are configured: {}", with_causes(&error)),
                }
                sleep(pauses.next().unwrap_or(LONGEST_PAUSE)).await;
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
