//! What the caller of the daemon provides for each app.

use std::fmt;

use crate::crawl::Crawler;
use crate::model::SdkAppId;
use crate::schedule::Schedule;
use crate::store::Store;

/// An app to crawl, and how.
pub struct AppPlan {
    pub name: String,
    pub sdk_app_id: SdkAppId,
    pub schedule: Schedule,
    /// Whether a new app, or one whose tick was missed while no daemon ran, is crawled at start.
    pub catch_up: bool,
    /// The number of groups that the app may have (`group_quota`).
    pub group_quota: Option<u64>,
    pub crawler: MakeCrawler,
}

/// Creates the crawler of an app with the key that is in its file at that moment. The error is a sentence. It may block.
pub type MakeCrawler = Box<dyn Fn(&Store) -> Result<Crawler, String> + Send + Sync>;

impl fmt::Debug for AppPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppPlan")
            .field("name", &self.name)
            .field("schedule", &self.schedule)
            .finish_non_exhaustive()
    }
}
