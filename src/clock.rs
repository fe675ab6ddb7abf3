//! The wall clock, so that tests can set it. Pauses and pacing do not come from here but from tokio's monotonic time.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, SubsecRound as _, Utc};

/// Tells the time, in whole milliseconds: what both databases keep.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    set_to: Option<Arc<AtomicI64>>,
}

impl Clock {
    /// The machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self { set_to: None }
    }

    /// A clock that stands still until [`Clock::set`].
    #[must_use]
    pub fn standing_at(time: DateTime<Utc>) -> Self {
        Self { set_to: Some(Arc::new(AtomicI64::new(time.timestamp_millis()))) }
    }

    /// Sets a standing clock and all its clones, forward or back. Does nothing to the machine's clock.
    pub fn set(&self, time: DateTime<Utc>) {
        if let Some(set_to) = &self.set_to {
            set_to.store(time.timestamp_millis(), Ordering::SeqCst);
        }
    }

    #[must_use]
    pub fn now(&self) -> DateTime<Utc> {
        self.set_to
            .as_ref()
            .and_then(|millis| DateTime::from_timestamp_millis(millis.load(Ordering::SeqCst)))
            .unwrap_or_else(machine_time)
    }
}

#[expect(clippy::disallowed_methods, reason = "the one place that reads the machine's clock")]
fn machine_time() -> DateTime<Utc> {
    Utc::now().trunc_subsecs(3)
}
