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
    pub workers: MakeWorkers,
}

/// Reads an app's key from its file and creates what calls the API for the app. May block.
pub type MakeWorkers = Box<dyn Fn(&Store) -> Result<Workers, WorkersError> + Send + Sync>;

/// What calls the API for one app.
pub struct Workers {
    pub crawler: Crawler,
    /// `None` if the details of groups are not kept.
    pub details: Option<DetailsRefresher>,
}

impl fmt::Debug for Workers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Workers").finish_non_exhaustive()
    }
}

impl From<Crawler> for Workers {
    fn from(crawler: Crawler) -> Self {
        Self { crawler, details: None }
    }
}

/// Why the [`Workers`] of an app cannot be created.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WorkersError {
    #[error("{0}")]
    Key(String),
    /// The HTTP client cannot be created. The key is readable.
    #[error("{0}")]
    Client(String),
}

impl fmt::Debug for AppPlan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AppPlan")
            .field("name", &self.name)
            .field("schedule", &self.schedule)
            .finish_non_exhaustive()
    }
}
