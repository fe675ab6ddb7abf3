//! The data that `status` shows of an app.

use chrono::{DateTime, Utc};
use serde::Serialize;

use crate::store::{AppStatus, LeaseHolder, Stamp};

pub(super) type Time = DateTime<Utc>;

/// The status of an app, with values that are not stored in the database.
#[derive(Serialize)]
pub(super) struct AppReport {
    #[serde(flatten)]
    pub(super) status: AppStatus,
    pub(super) next_crawl_at: Option<Stamp>,
    /// Due time of a crawl that no service has started.
    pub(super) overdue_since: Option<Stamp>,
    /// Whether a process holds the app's lease.
    pub(super) crawled_now: bool,
    pub(super) lease_holder: Option<LeaseHolder>,
}
