//! One crawl of one app: acquires the lease, reads the lists, decides about the unlisted groups,
//! and records the result.
//!
//! Start with [`Crawler::crawl`]. `listing` reads the lists, and `conclusion` decides about the
//! groups that the lists do not contain. The data flows as follows: `read_lists` → `Lists`,
//! `conclude` → `Conclusion` → `CrawlOutcome`, which the store records as a `Closing`.

mod clock_skew;
mod conclusion;
mod confirmer;
mod context;
mod crawler;
mod details;
mod dry_run;
mod error;
mod listing;
mod observer;
mod page_diff;
mod pass;
mod progress;
mod purge;
mod report;
mod resolved_types;
mod settings;
mod statistics;
mod tally;
mod uncertain_types;
mod write_buffer;

pub use self::clock_skew::CLOCK_SKEW_WARNING;
pub use self::crawler::Crawler;
pub use self::dry_run::{ChangeKind, PlannedChange};
pub use self::error::CrawlError;
pub use self::observer::Observer;
pub use self::progress::{Progress, RetryPause, Step};
pub use self::report::{CrawlReport, DryRun};
pub use self::settings::{CrawlRequest, CrawlSettings, WhenBusy};
pub use crate::pages::RequestOutcome;
