//! The fencing token of a lease on SQLite: the newest crawl of the app.

use std::sync::{Mutex, MutexGuard, PoisonError};

use super::error::StoreError;
use super::statement::values;
use super::tx::Tx;
use crate::model::{CrawlId, SdkAppId};

/// Returns the id of the app's newest crawl, and whether it is running.
pub(in crate::store) const NEWEST_CRAWL: &str = "
SELECT c.crawl_id, c.status = 'running' FROM crawl c JOIN app a ON a.app_id = c.app_id
WHERE a.sdk_app_id = $1 ORDER BY c.crawl_id DESC LIMIT 1";

/// The fencing token: the app's newest crawl when the lease was taken, or the crawl that the holder
/// has opened since.
///
/// A lease on SQLite is a lock on a file. If the file is removed, another process can lock a new
/// file and work on the same app. So every transaction of a holder first checks that no other
/// process has opened a crawl of the app, or closed the holder's. Crawl ids only grow. The token
/// costs no write, because a crawl records its start in any case.
#[derive(Debug)]
pub(in crate::store) struct NewestCrawl {
    app: SdkAppId,
    known: Mutex<Known>,
}

#[derive(Clone, Copy, Debug)]
enum Known {
    /// The newest crawl of the app, which has ended. 0 if there was none.
    Ended(i64),
    /// The holder's own crawl, which is running.
    Running(i64),
}

impl NewestCrawl {
    pub(in crate::store) fn new(app: SdkAppId, newest: Option<CrawlId>) -> Self {
        Self { app, known: Mutex::new(Known::Ended(newest.map_or(0, |crawl| crawl.0))) }
    }

    /// Records that the holder opened a crawl.
    pub(in crate::store) fn opened(&self, crawl: CrawlId) {
        *self.known() = Known::Running(crawl.0);
    }

    /// Records that the holder closed a crawl: its own, or that of a process that was killed.
    pub(in crate::store) fn closed(&self, crawl: CrawlId) {
        let mut known = self.known();
        if matches!(*known, Known::Running(own) if own == crawl.0) {
            *known = Known::Ended(crawl.0);
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails if another process has opened a crawl of the app, or closed the holder's. In a
    /// transaction that writes, the result stays valid until the transaction ends.
    pub(super) async fn check(&self, tx: &mut Tx) -> Result<(), StoreError> {
        let newest: Option<(i64, bool)> = tx.fetch_optional(NEWEST_CRAWL, &values![self.app.get()]).await?;
        let is_valid = match *self.known() {
            Known::Ended(known) => newest.is_none_or(|(crawl, _)| crawl <= known),
            Known::Running(own) => newest == Some((own, true)),
        };
        if is_valid { Ok(()) } else { Err(StoreError::Fenced { app: self.app }) }
    }
}
