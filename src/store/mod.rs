//! Stores apps, groups, events, counts and crawls in SQL. Has no access to the API.
//!
//! - `engine`: one interface to both databases: opening, transactions, retries, fencing
//! - `schema`: creates and upgrades the tables, checks rights, prints the SQL
//! - `lease`: allows one crawl of an app at a time, across processes
//! - `write`: the operations that change the tables; `read`: those that only read
//! - `bulk`: statements on thousands of ids, with a separate text for each engine
//! - `snapshot`: complete SQLite files: the copy for readers, backups, and their restoration
//! - `transfer`: copies all rows into an empty database of either engine
//!
//! Most other statements have one text that both engines accept (`$1`, `ON CONFLICT`, `RETURNING`).
//! Times are unix milliseconds.

mod app;
mod bulk;
mod engine;
mod lease;
mod read;
mod schema;
mod snapshot;
mod transfer;
mod write;

pub use app::{AppId, AppIdentity};
pub use bulk::ListedBatch;
pub use engine::{DatabaseLocation, Limits, PasswordSource, PostgresDatabase, Store, StoreError};
pub use lease::{Lease, LeaseHolder, this_host};
pub use read::{
    AppCount, AppOverview, AppStatus, CountChange, Crawl, CrawlHistory, DailyCount, DetailsOverview,
    DueDetails, EventsAfter, Group, GroupEvent, HeldDeletions, HeldType, HostTypes, KeysetPage, KnownGroup,
    LastEnds, RecentCrawl, Stamp, StoredStatistics, TypeCount, TypeOverview, TypeState, TypeStatus, Withheld,
};
pub use snapshot::{BackedUpApp, BackupMade, Contents, Published, Restored};
pub use transfer::{Copied, CopyProgress, TableCopied};
pub use write::{
    AgeLimits, AnsweredDetails, Approval, Closing, CrawlDeletions, CrawlEvents, DetailsHolder,
    HistoryChanges, KnownApp, NewCrawl, NotificationChange, NotificationRow, PassRecord, Purged, Reason,
    RowCounts, WrittenCounts,
};
