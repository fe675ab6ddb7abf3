//! How an app is to be crawled, and what one crawl is for.

use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use crate::model::{GroupType, Trigger};
use crate::pace::RetryPolicy;
use crate::policy::DeletionPolicy;
use crate::store::AppIdentity;

/// How an app is to be crawled.
#[derive(Clone, Debug)]
pub struct CrawlSettings {
    pub identity: AppIdentity,
    /// A pass each, in this order. None: one pass over everything, and no types.
    pub group_types: Vec<GroupType>,
    /// Groups a page.
    pub page_limit: u32,
    /// Least time between two requests.
    pub request_interval: Duration,
    pub retry: RetryPolicy,
    pub deletion: DeletionPolicy,
    /// Whose days the daily counts are of.
    pub timezone: Tz,
    /// The name of this machine.
    pub host: String,
}

/// What a crawl is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occasion {
    pub trigger: Trigger,
    /// The tick of the schedule it serves.
    pub due_at: Option<DateTime<Utc>>,
}

/// What to do when the app is being crawled already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenBusy {
    Wait,
    GiveUp,
}
