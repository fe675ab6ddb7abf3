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
/// process has opened a crawl of the app, or closed the holder's crawl. Crawl ids only grow. The
/// token costs no write, because a crawl records its start in any case.
#[derive(Debug)]
pub(in crate::store) struct NewestCrawl {
    app: SdkAppId,
    last_known: Mutex<LastKnown>,
}

#[derive(Clone, Copy, Debug)]
enum LastKnown {
    /// The newest crawl of the app, which has ended. 0 if there was none.
    Ended(i64),
    /// The holder's own crawl, which is running.
    Running(i64),
}

impl NewestCrawl {
    pub(in crate::store) fn new(app: SdkAppId, newest: Option<CrawlId>) -> Self {
        Self { app, last_known: Mutex::new(LastKnown::Ended(newest.map_or(0, |crawl| crawl.0))) }
    }

    /// Records that the holder opened a crawl.
    pub(in crate::store) fn record_opened(&self, crawl: CrawlId) {
        *self.lock_last_known() = LastKnown::Running(crawl.0);
    }

    /// Records that the holder closed a crawl: its own, or one that a killed process left open.
    pub(in crate::store) fn record_closed(&self, crawl: CrawlId) {
        let mut last_known = self.lock_last_known();
        if matches!(*last_known, LastKnown::Running(own) if own == crawl.0) {
            *last_known = LastKnown::Ended(crawl.0);
        }
    }

    fn lock_last_known(&self) -> MutexGuard<'_, LastKnown> {
        self.last_known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Fails if another process has opened a crawl of the app, or closed the holder's crawl. In a
    /// transaction that writes, the result stays valid until the transaction ends.
    pub(super) async fn check(&self, tx: &mut Tx) -> Result<(), StoreError> {
        let newest: Option<(i64, bool)> = tx.fetch_optional(NEWEST_CRAWL, &values![self.app.get()]).await?;
        let is_valid = match *self.lock_last_known() {
            // No newer crawl was opened. `forget` may have removed older ones.
            LastKnown::Ended(known) => newest.is_none_or(|(crawl, _is_running)| crawl <= known),
            // The holder's crawl is the newest and still running.
            LastKnown::Running(own) => newest == Some((own, true)),
        };
        if is_valid { Ok(()) } else { Err(StoreError::Fenced { app: self.app }) }
    }
}
