//! How far a crawl has come, for whoever watches: a progress bar, a log line, systemd's status.

use crate::model::GroupType;
pub use crate::pages::Waiting;

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
    pub waiting: Option<Waiting>,
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
    /// Writes the crawl's end.
    Concluding,
}
