//! The progress of a crawl, published to the progress bar, the status line and the watchdog.

use tokio::sync::watch;

use crate::model::GroupType;
pub use crate::pages::RetryPause;

/// The progress of the current crawl.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    pub step: Step,
    /// The app's `TotalCount`.
    pub total: Option<u64>,
    /// The number of distinct ids listed so far.
    pub listed: u64,
    /// The number of requests sent so far, with retries.
    pub requests: u64,
    /// The current pause before a retry.
    pub waiting: Option<RetryPause>,
    /// The number of consecutive attempts that failed and are retried. 0 after an answer.
    pub failed_attempts: u32,
    /// Why the last of these attempts failed.
    pub last_failure: Option<String>,
}

/// The current step of a crawl.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Step {
    /// No crawl is running.
    #[default]
    Idle,
    /// Waiting for another crawl of the app to release the lease.
    WaitingForLease,
    /// Requesting the app's `TotalCount` and reading its known groups.
    Starting,
    /// Listing a group type, or all types at once for `None`.
    Listing { group_type: Option<GroupType>, listed: u64, total: Option<u64> },
    /// Requesting the lists of emptied types and the app's `TotalCount` again.
    Checking,
    /// Looking up single groups with `get_group_info`. `looked_up` of `total` groups are done.
    LookingUp { looked_up: u64, total: u64 },
    /// Recording the end of the crawl. `marked` of `to_mark` groups have been marked.
    Concluding { marked: u64, to_mark: u64 },
}

/// Publishes the unchanged progress at intervals during a long read, which restarts the watchdog's
/// time limit.
pub(super) struct ReadProgress {
    progress: watch::Sender<Progress>,
    /// The number of groups read since the last update.
    groups: u32,
}

impl ReadProgress {
    /// The number of groups between two updates.
    const INTERVAL: u32 = 100_000;

    pub(super) fn new(progress: &watch::Sender<Progress>) -> Self {
        Self { progress: progress.clone(), groups: 0 }
    }

    /// Counts a group that was read, and publishes progress after every [`Self::INTERVAL`] groups.
    pub(super) fn count(&mut self) {
        self.groups += 1;
        if self.groups == Self::INTERVAL {
            self.groups = 0;
            self.progress.send_modify(|_| ());
        }
    }
}
