//! Keeps apps, groups, events, counts and crawls in SQL. Does not know the API.
//!
//! - `engine`: both databases behind one interface: opening, transactions as values, retries, fencing
//! - `schema`: creates and upgrades the tables, checks rights, prints the SQL
//! - `lease`: one crawl of an app at a time, across processes
//! - `write`: what changes the tables, `read`: what only reads them
//! - `bulk`: the statements on thousands of ids, whose texts differ by engine
//! - `snapshot`: complete SQLite files: the copy for readers, backups, putting a backup back
//! - `transfer`: copies all rows into an empty database of either engine
//!
//! All other statements have one text, in the SQL that SQLite and PostgreSQL share (`$1`, `ON CONFLICT`, `RETURNING`; times
//! are unix milliseconds).

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
pub use bulk::Batch;
pub use engine::{DatabaseUrl, Limits, PasswordSource, PostgresDatabase, Store, StoreError};
pub use lease::{Lease, LeaseHolder, this_host};
pub use read::{
    AppCount, AppOverview, AppStatus, Below, Crawl, DailyCount, EndedBefore, EventsAfter, Group, GroupEvent,
    HeldDeletions, HostTypes, KnownGroup, Past, Stamp, TypeCount, TypeOverview, TypeState, TypeStatus,
    Withheld,
};
pub use snapshot::{BackedUpApp, BackupMade, Contents, Published, Restored};
pub use transfer::{Copied, CopyProgress, TableCopied};
pub use write::{
    AgeLimits, Approval, Closing, CrawlEvents, HeldCrawl, HistoryChanges, Holdings, KnownApp, NewCrawl,
    PassRecord, Purged, Reason, Written,
};
