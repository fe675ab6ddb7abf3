//! The data sources of the JSON API's handlers.

use std::sync::Arc;

use tokio::sync::{Semaphore, watch};

use super::error::RequestError;
use crate::clock::Clock;
use crate::daemon::{Apps, Database};
use crate::store::Store;

/// The maximum number of requests that query the database at a time. It leaves connections for the
/// crawls.
const MAX_QUERIES: usize = 3;

/// The database, and the state of the apps in this process.
#[derive(Clone, Debug)]
pub(super) struct Sources {
    database: watch::Receiver<Database>,
    pub(super) apps: watch::Receiver<Apps>,
    pub(super) clock: Clock,
    pub(super) query_permits: Arc<Semaphore>,
}

impl Sources {
    pub(super) fn new(
        database: watch::Receiver<Database>,
        apps: watch::Receiver<Apps>,
        clock: Clock,
    ) -> Self {
        Self { database, apps, clock, query_permits: Arc::new(Semaphore::new(MAX_QUERIES)) }
    }

    /// Returns a read-only handle to the database, or an error if it is not open.
    pub(super) fn store(&self) -> Result<Store, RequestError> {
        self.database.borrow().store().map(Store::only_reading).ok_or(RequestError::NoDatabase)
    }
}
