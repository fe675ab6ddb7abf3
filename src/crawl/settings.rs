//! How an app is to be crawled, and what one crawl is for.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use crate::model::{GroupType, Trigger};
use crate::pace::RetryPolicy;
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
    /// `deletion.max_shortfall`.
    pub max_shortfall: f64,
    /// When deletions are withheld.
    pub guard: GuardPolicy,
    /// Whose days the daily counts are of.
    pub timezone: Tz,
    /// The name of this machine.
    pub host: String,
}

/// `[deletion]`, by the names of types.
#[derive(Clone, Debug, PartialEq)]
pub struct GuardPolicy {
    /// `mode = "review"`.
    pub review: bool,
    pub max_fraction: f64,
    pub min_groups: u64,
    pub max_fraction_by_type: BTreeMap<GroupType, f64>,
    /// `get_group_info` decides about each group that the lists lack; otherwise the lists alone.
    pub confirm: bool,
}

impl Default for GuardPolicy {
    /// Asks about each group, and withholds every loss.
    fn default() -> Self {
        Self {
            review: false,
            max_fraction: 0.0,
            min_groups: 0,
            max_fraction_by_type: BTreeMap::new(),
            confirm: true,
        }
    }
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
