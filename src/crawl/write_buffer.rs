//! The write buffer: collects new and changed ids of the lists, and writes them in large batches.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::context::CrawlContext;
use super::error::Interrupted;
use super::tally::PassTally;
use crate::model::{GroupIds, TypeId};

/// The number of bytes of ids that the buffers of all crawls of this process may have together:
/// about 200,000 ids. A buffer is written when it reaches its share. Large batches are cheaper: the
/// ids of a batch are spread over the entire table, so twice the ids cost little more.
const TOTAL_BYTES: usize = 4 * 1024 * 1024;
/// The minimum share of a buffer, in bytes: about as many ids as a page has.
const MIN_SHARE: usize = 192 * 1024;
/// The number of buffers in this process.
static BUFFERS: AtomicUsize = AtomicUsize::new(0);
/// The age of the oldest id at which the buffer is written. It does not apply in a baseline, where
/// all groups are new.
const FULL_AGE: Duration = Duration::from_secs(10);

/// Ids that are to be written. The buffer is reused for all passes, because reallocating megabytes
/// on changing threads fragments the allocator's arenas.
pub(super) struct WriteBuffer {
    /// Ids to write under the type of the pass.
    pub(super) changed: GroupIds,
    /// New ids that exceed the counts, see `page_diff`. They are written only if the list is
    /// complete.
    pub(super) unexpected: GroupIds,
    /// Missing groups that were listed under another type than the stored one. For these only
    /// `missing_since` is cleared.
    pub(super) returned_elsewhere: GroupIds,
    /// When the newest of these ids was listed.
    pub(super) listed_at: DateTime<Utc>,
    /// When the buffer was first found to have ids. `None` if it is empty.
    oldest_since: Option<Instant>,
}

impl WriteBuffer {
    pub(super) fn new() -> Self {
        BUFFERS.fetch_add(1, Ordering::Relaxed);
        Self {
            changed: GroupIds::default(),
            unexpected: GroupIds::default(),
            returned_elsewhere: GroupIds::default(),
            listed_at: DateTime::default(),
            oldest_since: None,
        }
    }

    /// Returns whether the buffer has to be written before the next page.
    pub(super) fn is_full(&mut self, in_baseline: bool) -> bool {
        let bytes = self.changed.text_len() + self.returned_elsewhere.text_len();
        if bytes == 0 {
            return false;
        }
        let oldest_since = *self.oldest_since.get_or_insert_with(Instant::now);
        let share = (TOTAL_BYTES / BUFFERS.load(Ordering::Relaxed).max(1)).max(MIN_SHARE);
        bytes >= share || (!in_baseline && oldest_since.elapsed() >= FULL_AGE)
    }

    /// Ends a pass. Keeps the unexpected ids for the next write if the list is complete, and drops
    /// them otherwise.
    pub(super) fn end_pass(&mut self, is_complete: bool) {
        if is_complete {
            self.changed.append(&mut self.unexpected);
        }
        self.unexpected.clear();
    }

    /// Writes the buffered ids as listed by this pass, and adds the numbers of new groups to the
    /// tally.
    pub(super) async fn write(
        &mut self,
        context: &CrawlContext<'_>,
        tally: &mut PassTally,
    ) -> Result<(), Interrupted> {
        let plan = &tally.plan;
        for (type_id, in_baseline, ids) in [
            (plan.type_id, plan.in_baseline, &mut self.changed),
            // The unknown type does not change the stored types.
            (TypeId::UNKNOWN, false, &mut self.returned_elsewhere),
        ] {
            if !ids.is_empty() {
                let written = context.write_listed(type_id, in_baseline, self.listed_at, ids).await?;
                tally.first_listed += written.first_listed;
                tally.added_live += written.first_listed + written.reappeared;
                ids.clear();
            }
        }
        self.oldest_since = None;
        Ok(())
    }
}

impl Drop for WriteBuffer {
    fn drop(&mut self) {
        BUFFERS.fetch_sub(1, Ordering::Relaxed);
    }
}
