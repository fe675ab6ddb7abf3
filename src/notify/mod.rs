//! Sends notifications about conditions that need a person's attention. A receiver gets one HTTP
//! POST when a condition begins, one a day while it lasts, and one when it ends.
//!
//! - `conditions` decides which conditions hold, from the daemon's board and the database.
//! - `states` decides which notifications are due. The table `notification` records the earlier
//!   ones, so that restarts and replicas do not repeat them.
//! - `monitor` claims due notifications in that table, and adds them to the `outbox`.
//! - `sender` takes notifications from the outbox and delivers them, with retries.
//! - `message` builds the requests, and `answer` evaluates the answers.
//!
//! Monitor and sender are one task. No crawl waits for it. A stop request drops it.

mod answer;
mod conditions;
mod message;
mod monitor;
mod outbox;
mod sender;
mod states;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;

use self::conditions::DebounceTimers;
pub use self::message::{ConditionState, Event, Notification, SIGNATURE_HEADER};
use self::monitor::Monitor;
pub use self::outbox::OUTBOX_CAPACITY;
use self::outbox::Outbox;
pub use self::sender::{DeliveryError, MakeReceiver, Observer, Outcome, Receiver};
use self::sender::{Pauses, Sender};
use self::states::ProcessRows;
pub use self::states::{CLAIM_EXPIRES_AFTER, REPEAT_AFTER};
use crate::clock::Clock;
use crate::daemon::Health;
use crate::lifecycle::Lifecycle;
use crate::pace::RetryPolicy;

/// The times of the notifications. Tests shorten them.
#[derive(Clone, Copy, Debug)]
pub struct Timing {
    /// The interval between two checks of the conditions.
    pub interval: Duration,
    /// The minimum time between two attempts to send. The robots of all three vendors accept at
    /// least 20 messages a minute.
    pub between_attempts: Duration,
    /// How long one notification is retried. A condition that lasts causes another notification
    /// after a day.
    pub retry: RetryPolicy,
}

impl Default for Timing {
    fn default() -> Self {
        Self {
            interval: Duration::from_secs(30),
            between_attempts: Duration::from_secs(3),
            retry: RetryPolicy {
                first_pause: Duration::from_secs(1),
                longest_pause: Duration::from_secs(600),
                retry_for: Duration::from_hours(24),
            },
        }
    }
}

/// The notifications of this process.
pub struct Notifications {
    receiver: watch::Sender<Option<MakeReceiver>>,
}

impl fmt::Debug for Notifications {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Notifications").finish_non_exhaustive()
    }
}

impl Notifications {
    /// Starts the task that checks the conditions and sends notifications. It does nothing while
    /// there is no receiver.
    pub fn start(
        receiver: Option<MakeReceiver>,
        timing: Timing,
        observer: Arc<dyn Observer>,
        clock: &Clock,
        health: &Health,
        lifecycle: &Lifecycle,
    ) -> Self {
        let receiver = watch::Sender::new(receiver);
        let outbox = Arc::new(Outbox::default());
        let sender = Sender {
            outbox: Arc::clone(&outbox),
            receiver: receiver.subscribe(),
            observer: Arc::clone(&observer),
            clock: clock.clone(),
            pauses: Pauses { between: timing.between_attempts, retry: timing.retry },
        };
        let monitor = Monitor {
            outbox,
            receiver: receiver.subscribe(),
            observer,
            clock: clock.clone(),
            health: health.clone(),
            interval: timing.interval,
            process: format!("{:032x}", rand::random::<u128>()),
            own_rows: ProcessRows::default(),
            write_problem: None,
            timers: DebounceTimers::default(),
        };
        let stop = lifecycle.stop().soft().clone();
        lifecycle.supervise("the notifications", async move {
            tokio::select! {
                biased;
                () = stop.cancelled() => {}
                ((), ()) = async { tokio::join!(monitor.run(), sender.run()) } => {}
            }
        });
        Self { receiver }
    }

    /// Replaces the receiver. A notification that waits for its next attempt is sent at once.
    pub fn replace_receiver(&self, receiver: Option<MakeReceiver>) {
        self.receiver.send_replace(receiver);
    }
}
