//! The progress of a crawl, for the progress bar, the status line and the watchdog.

use tokio::sync::watch;

use crate::model::GroupType;
pub use crate::pages::RetryPause;

/// The progress of a crawl under way.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    pub step: Step,
    /// The app's TotalCount.
    pub total: Option<u64>,
    /// Different ids listed so far.
    pub listed: u64,
    pub requests: u64,
    /// The pause before the current retry.
    pub waiting: Option<RetryPause>,
    /// The crawl waits for a write transaction. On SQLite one app writes at a time.
    pub queued: bool,
}

/// The current step of a crawl.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Step {
    /// No crawl is under way.
    #[default]
    Idle,
    /// Waits for another crawl of the app to release the lease.
    WaitingForLease,
    /// Counts the app and reads its known groups.
    Starting,
    /// Lists a type; `None` lists all types at once.
    Listing { group_type: Option<GroupType>, listed: u64, total: Option<u64> },
    /// Lists emptied types once more, and counts the app again.
    Checking,
    /// Asks `get_group_info` about single groups.
    Asking { asked: u64, of: u64 },
    /// Writes the conclusion of the crawl.
    Concluding { marked: u64, to_mark: u64 },
}

/// Publishes progress at intervals during a long read, so that the watchdog sees it.
pub(super) struct ReadProgress {
    progress: watch::Sender<Progress>,
    groups: u32,
}

impl ReadProgress {
    /// Groups between two updates.
    const INTERVAL: u32 = 100_000;

    pub(super) fn new(progress: &watch::Sender<Progress>) -> Self {
        Self { progress: progress.clone(), groups: 0 }
    }

    /// Counts a group that was read.
    pub(super) fn count(&mut self) {
        self.groups += 1;
        if self.groups == Self::INTERVAL {
            self.groups = 0;
            self.progress.send_modify(|_| ());
        }
    }
}
