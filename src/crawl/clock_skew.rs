//! Limits for the difference between this machine's clock and the API's.

use std::time::Duration;

use chrono::TimeDelta;

/// The difference above which a warning is logged and shown.
pub const CLOCK_SKEW_WARNING: TimeDelta = TimeDelta::minutes(5);

/// The difference above which a crawl fails, because it would store wrong times permanently.
pub(super) const MAX_CLOCK_SKEW: TimeDelta = TimeDelta::hours(1);

/// Formats the absolute value of a difference, in whole seconds.
pub(super) fn format_skew(skew: TimeDelta) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(skew.num_seconds().unsigned_abs()))
}
