//! Limits for the difference between this machine's clock and the API's.

use std::time::Duration;

use chrono::TimeDelta;

/// A larger difference is logged and shown.
pub const CLOCK_SKEW_WARNING: TimeDelta = TimeDelta::minutes(5);

/// A larger difference fails a crawl, because its times would be stored for good.
pub(super) const MAX_CLOCK_SKEW: TimeDelta = TimeDelta::hours(1);

/// The size of a difference, to the second.
pub(super) fn format_skew(skew: TimeDelta) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(skew.num_seconds().unsigned_abs()))
}
