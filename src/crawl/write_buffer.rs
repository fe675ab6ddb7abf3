//! New and changed ids of the lists on their way to the database.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;

use super::context::CrawlContext;
use super::error::Interrupted;
use super::tally::PassTally;
use crate::model::{GroupIds, TypeId};

/// Bytes of id text, some 200,000 ids, that the buffers of all crawls of this process may have together. A buffer that has its
/// share is written. The ids are spread over the whole table, so that a batch of twice the size costs little more.
const TOTAL_BYTES: usize = 4 * 1024 * 1024;
/// The least share of a buffer. It has about as many ids as a page.
const MIN_SHARE: usize = 192 * 1024;
/// The number of buffers in this process.
static BUFFERS: AtomicUsize = AtomicUsize::new(0);
/// Age of the oldest id at which the buffer is written. In a baseline, where all groups are new, size alone decides.
const FULL_AGE: Duration = Duration::from_secs(10);

/// Ids that wait to be written. Reused for all passes: reallocating megabytes on changing threads fragments the allocator's
/// arenas.
pub(super) struct WriteBuffer {
    /// To be written under the type of the pass.
    pub(super) changed: GroupIds,
    /// New ids beyond what the counts allow, to be written once the list has ended.
    pub(super) unexpected: GroupIds,
    /// Missing groups that were listed under another type than the known one. Only their `missing_since` is cleared.
    pub(super) returned_elsewhere: GroupIds,
    /// When the newest of these ids was listed.
    pub(super) listed_at: DateTime<Utc>,
    since: Option<Instant>,
}

impl WriteBuffer {
    pub(super) fn new() -> Self {
        BUFFERS.fetch_add(1, Ordering::Relaxed);
        Self {
            changed: GroupIds::default(),
            unexpected: GroupIds::default(),
            returned_elsewhere: GroupIds::default(),
            listed_at: DateTime::default(),
            since: None,
        }
    }

    /// Whether the buffer has to be written before the next page.
    pub(super) fn is_full(&mut self, in_baseline: bool) -> bool {
        let bytes = self.changed.text_len() + self.returned_elsewhere.text_len();
        if bytes == 0 {
            return false;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        let share = (TOTAL_BYTES / BUFFERS.load(Ordering::Relaxed).max(1)).max(MIN_SHARE);
        bytes >= share || (!in_baseline && since.elapsed() >= FULL_AGE)
    }

    /// Decides about the unexpected ids at the end of a pass: they are written if its list is complete.
    pub(super) fn end_pass(&mut self, is_complete: bool) {
        if is_complete {
            self.changed.append(&mut self.unexpected);
        }
        self.unexpected.clear();
    }

    /// Writes the changed ids as listed by this pass, and adds what that changed to the tally.
    pub(super) async fn write(
        &mut self,
        context: &CrawlContext<'_>,
        tally: &mut PassTally,
    ) -> Result<(), Interrupted> {
        let plan = &tally.plan;
        for (type_id, in_baseline, ids) in [
            (plan.type_id, plan.in_baseline, &mut self.changed),
            // The unknown type leaves the known types as they are.
            (TypeId::UNKNOWN, false, &mut self.returned_elsewhere),
        ] {
            if !ids.is_empty() {
                let written = context.write_listed(type_id, in_baseline, self.listed_at, ids).await?;
                tally.first_listed += written.first_listed;
                tally.gained += written.first_listed + written.reappeared;
                ids.clear();
            }
        }
        self.since = None;
        Ok(())
    }
}

impl Drop for WriteBuffer {
    fn drop(&mut self) {
        BUFFERS.fetch_sub(1, Ordering::Relaxed);
    }
}
