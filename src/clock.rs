//! The wall clock, which tests can set. Pauses and rate limits use tokio's monotonic clock instead.

use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use chrono::{DateTime, SubsecRound as _, Utc};

/// A source of the time in whole milliseconds, the precision that both databases store.
#[derive(Clone, Debug, Default)]
pub struct Clock {
    set_to: Option<Arc<AtomicI64>>,
}

impl Clock {
    /// Returns the machine's clock.
    #[must_use]
    pub fn system() -> Self {
        Self { set_to: None }
    }

    /// Returns a clock that shows this time until [`Clock::set`] changes it.
    #[must_use]
    pub fn fixed_at(time: DateTime<Utc>) -> Self {
        Self { set_to: Some(Arc::new(AtomicI64::new(time.timestamp_millis()))) }
    }

    /// Sets a fixed clock and all its clones, forwards or backwards. Has no effect on the machine's clock.
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
