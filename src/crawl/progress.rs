//! How far a crawl has come, for whoever watches: a progress bar, a log line, systemd's status.

use tokio::sync::watch;

use crate::model::GroupType;
pub use crate::pages::RetryPause;

/// A crawl under way.
#[derive(Clone, Debug, Default)]
pub struct Progress {
    pub step: Step,
    /// Groups of the whole app, by its own count.
    pub total: Option<u64>,
    /// Different ids listed so far.
    pub listed: u64,
    pub requests: u64,
    /// A pause before another attempt.
    pub waiting: Option<RetryPause>,
    /// Waits for its turn to write: with SQLite one app writes at a time.
    pub queued: bool,
}

/// What a crawl is doing.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Step {
    /// No crawl is under way.
    #[default]
    Idle,
    /// Another process, or another task, crawls the app.
    WaitingForLease,
    /// Counts the app and reads what is known of it.
    Starting,
    /// Lists a type; `None` for all types at once.
    Listing { group_type: Option<GroupType>, listed: u64, total: Option<u64> },
    /// Asks again what was listed as empty, and counts once more.
    Checking,
    /// Asks about groups that the lists leave in doubt.
    Asking { asked: u64, of: u64 },
    /// Writes the crawl's end, by chunks of the groups that it marks.
    Concluding { marked: u64, to_mark: u64 },
}

/// Shows that a long read goes on.
pub(super) struct SignsOfLife {
    progress: watch::Sender<Progress>,
    groups: u32,
}

impl SignsOfLife {
    const EVERY: u32 = 100_000;

    pub(super) fn of(progress: &watch::Sender<Progress>) -> Self {
        Self { progress: progress.clone(), groups: 0 }
    }

    /// Counts a group.
    pub(super) fn count(&mut self) {
        self.groups += 1;
        if self.groups == Self::EVERY {
            self.groups = 0;
            self.progress.send_modify(|_| ());
        }
    }
}
