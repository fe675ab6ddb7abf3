//! The operations that change the tables.

mod apps;
mod close;
mod details;
mod forget;
mod ids;
mod listed;
mod lookup_history;
mod notifications;
mod open;
mod orphans;
mod purge;
mod retention;
mod settle;
mod statistics;
mod tally;

pub use close::{Closing, CrawlEvents, PassRecord, Reason};
pub use details::{AnsweredDetails, DetailsHolder};
pub use forget::{KnownApp, RowCounts};
pub(super) use ids::MOVE_SEQUENCES;
pub use listed::WrittenCounts;
pub use lookup_history::HistoryChanges;
pub use notifications::{NotificationChange, NotificationRow};
pub use open::NewCrawl;
pub use retention::{AgeLimits, Purged};
pub use settle::{Approval, CrawlDeletions};
