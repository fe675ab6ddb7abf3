//! Keeps apps, groups, events, counts and crawls in SQL. Knows nothing of the API.
//!
//! Statements are written once, in the SQL that SQLite and PostgreSQL share (`$1` binds, `ON CONFLICT`, `excluded`,
//! `RETURNING`; times are unix milliseconds). The handful that work on thousands of group ids at once differ on
//! purpose and live in `sqlite` and `postgres`, as functions of the same names.

mod apps;
mod crawls;
mod engine;
mod error;
mod gauges;
mod groups;
mod history;
mod lease;
mod migrations;
mod overview;
mod postgres;
mod publish;
mod purge;
mod questions;
mod server;
mod settle;
mod sqlite;
mod status;

pub use apps::{AppId, AppIdentity, TypeState};
pub use crawls::{Closing, CrawlEvents, NewCrawl, PassRecord, Past, Reason};
pub use engine::{DatabaseUrl, Store};
pub use error::StoreError;
pub use gauges::{AppGauges, TypeGauges};
pub use groups::{Batch, KnownGroup, Written};
pub use history::{AppCount, Below, Crawl, DailyCount, Group, GroupEvent, Stamp, TypeCount};
pub use lease::{Lease, LeaseHolder};
pub use overview::{AppOverview, HeldDeletions, TypeOverview};
pub use publish::Published;
pub use purge::{AgeLimits, EndedBefore, Holdings, KnownApp, Purged};
pub use questions::HistoryChanges;
pub use server::PostgresDatabase;
pub use settle::{Approval, HeldCrawl};
pub use status::{AppStatus, HostTypes, TypeStatus, Withheld};
