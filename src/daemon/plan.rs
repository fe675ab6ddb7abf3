//! The settings of each app's loop, which the caller of the daemon provides.

use std::fmt;

use crate::crawl::Crawler;
use crate::details::DetailsRefresher;
use crate::model::SdkAppId;
use crate::schedule::Schedule;
use crate::store::Store;

pub struct AppPlan {
    pub name: String,
    pub sdk_app_id: SdkAppId,
    pub schedule: Schedule,
    /// Whether the app is crawled at the start if it was never crawled, or if a tick was missed
    /// while no daemon ran.
    pub catch_up: bool,
    /// The number of groups that the app may have (`group_quota`).
    pub group_quota: Option<u64>,
    pub crawler: MakeCrawler,
    pub details: MakeDetailsRefresher,
}

/// Reads an app's key from its file and creates the app's crawler. May block. The error is a
/// sentence.
pub type MakeCrawler = Box<dyn Fn(&Store) -> Result<Crawler, String> + Send + Sync>;

/// Reads an app's key from its file and creates the refresher of its details, or returns `None` if
/// they are not kept. May block. The error is a sentence.
pub type MakeDetailsRefresher = Box<dyn Fn(&Store) -> Result<Option<DetailsRefresher>, String> + Send + Sync>;

impl fmt::Debug for AppPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppPlan")
            .field("name", &self.name)
            .field("schedule", &self.schedule)
            .finish_non_exhaustive()
    }
}
