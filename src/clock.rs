//! The wall clock, which tests can set. Pauses and rate limits use tokio's monotonic clock instead.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, SubsecRound as _, Utc};

/// A source of the current time. Times are truncated to milliseconds, the precision in which the
/// databases store them.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    /// The time of a fixed clock, in unix milliseconds. `None` for the machine's clock.
    fixed_millis: Option<Arc<AtomicI64>>,
}

impl Clock {
    /// Returns the machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self { fixed_millis: None }
    }

    /// Returns a clock that always returns this time, until [`Clock::set`] changes it.
    #[must_use]
    pub fn fixed_at(time: DateTime<Utc>) -> Self {
        Self { fixed_millis: Some(Arc::new(AtomicI64::new(time.timestamp_millis()))) }
    }

    /// Sets the time of a fixed clock and of all its clones. Does nothing for the machine's clock.
    pub fn set(&self, time: DateTime<Utc>) {
        if let Some(fixed_millis) = &self.fixed_millis {
            fixed_millis.store(time.timestamp_millis(), Ordering::SeqCst);
        }
    }

    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.fixed_millis
            .as_ref()
            .and_then(|millis| DateTime::from_timestamp_millis(millis.load(Ordering::SeqCst)))
            .unwrap_or_else(machine_time)
    }
}

#[expect(clippy::disallowed_methods, reason = "the only place that reads the machine's clock")]
fn machine_time() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(3)
}
