//! Settings of one app's crawls, and the request for a single crawl.

use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use crate::model::{GroupType, LocalDay, Trigger};
use crate::pace::RetryPolicy;
use crate::policy::DeletionPolicy;
use crate::store::AppIdentity;

/// Settings of one app's crawls.
#[derive(Clone, Debug)]
pub struct CrawlSettings {
    pub identity: AppIdentity,
    /// Each type gets a pass, in this order. Without types, one unfiltered pass lists everything, and no types are stored.
    pub group_types: Vec<GroupType>,
    /// Groups per page.
    pub page_limit: u32,
    /// Least time between two requests.
    pub request_interval: Duration,
    pub retry: RetryPolicy,
    pub deletion: DeletionPolicy,
    /// The time zone that decides where a day of the daily counts begins.
    pub timezone: Tz,
    /// The name of this machine.
    pub host: String,
}

impl CrawlSettings {
    /// Whether `get_group_info` is asked about the types of groups, and its answers are stored.
    #[must_use]
    pub fn confirms_types(&self) -> bool {
        self.deletion.confirm && !self.group_types.is_empty()
    }

    /// The day of the daily counts that a moment belongs to.
    #[must_use]
    pub fn day(&self, at: DateTime<Utc>) -> LocalDay {
        LocalDay::new(at, self.timezone)
    }
}

/// Why a crawl is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrawlRequest {
    pub trigger: Trigger,
    /// The tick of the schedule that the crawl serves.
    pub due_at: Option<DateTime<Utc>>,
}

/// What to do if another crawl of the app is under way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenBusy {
    Wait,
    GiveUp,
}
