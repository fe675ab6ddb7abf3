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
    /// The types to list, one pass each, in this order. If empty, one unfiltered pass lists all
    /// groups, and their types are not stored.
    pub group_types: Vec<GroupType>,
    /// The number of groups per page.
    pub page_limit: u32,
    /// The minimum time between two list requests.
    pub request_interval: Duration,
    pub retry: RetryPolicy,
    pub deletion: DeletionPolicy,
    /// The time zone of the days in the daily counts.
    pub timezone: Tz,
    /// The name of this machine.
    pub host: String,
}

impl CrawlSettings {
    /// Returns whether the types that `get_group_info` returns are used and stored.
    #[must_use]
    pub fn confirms_types(&self) -> bool {
        self.deletion.confirm && !self.group_types.is_empty()
    }

    /// Returns the day of the daily counts to which a time belongs.
    #[must_use]
    pub fn day(&self, at: DateTime<Utc>) -> LocalDay {
        LocalDay::new(at, self.timezone)
    }
}

/// Why a crawl is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CrawlRequest {
    pub trigger: Trigger,
    /// The tick of the schedule for which the crawl is made.
    pub due_at: Option<DateTime<Utc>>,
}

/// What to do if another process holds the app's lease.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenBusy {
    Wait,
    GiveUp,
}
