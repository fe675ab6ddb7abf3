//! Settings of one app's crawls, and the request for a single crawl.

use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;

use crate::model::{GroupType, LocalDay, Trigger};
use crate::pace::RetryPolicy;
use crate::pages::InfoSettings;
use crate::policy::{DeletionPolicy, DetailsPolicy, INFO_REQUESTS_PER_SECOND};
use crate::store::AppIdentity;
use crate::tencent::Fields;

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
    /// Whether and how the details of groups are kept. With `None` a crawl removes stored details.
    pub details: Option<DetailsPolicy>,
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

    /// Returns the maximum rate of the crawl's lookups. Another process may request details during
    /// the crawl, so their rate is subtracted.
    #[must_use]
    pub fn lookups_per_second(&self) -> u32 {
        let details = self.details.map_or(0, |details| details.requests_per_second);
        INFO_REQUESTS_PER_SECOND.saturating_sub(details).max(1)
    }

    /// Returns how the crawl calls `get_group_info`. If details are kept, the lookups request them
    /// too.
    #[must_use]
    pub fn info(&self) -> InfoSettings {
        InfoSettings {
            interval: Duration::from_secs(1) / self.lookups_per_second(),
            fields: if self.details.is_some() { Fields::Details } else { Fields::Type },
        }
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
