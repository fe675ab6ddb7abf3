//! The operations that read the tables and change nothing.

mod before_crawl;
mod details;
mod feed;
mod history;
mod lists;
mod live;
mod lookup;
mod overview;
mod status;
mod text;

pub use before_crawl::{CrawlHistory, LastEnds, StoredStatistics, TypeState};
pub use details::DueDetails;
pub use feed::EventsAfter;
pub use history::{CountChange, RecentCrawl};
pub use lists::{AppCount, Crawl, DailyCount, Group, GroupEvent, KeysetPage, Stamp, TypeCount};
pub use lookup::KnownGroup;
pub use overview::{AppOverview, DetailsOverview, HeldDeletions, HeldType, TypeOverview};
pub use status::{AppStatus, HostTypes, TypeStatus, Withheld};
