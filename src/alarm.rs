//! The wake-up clock: the only place that knows tokio-cron-scheduler, which here does nothing but wake.
//!
//! It polls the machine's wall clock, so it sees suspends and steps of the clock, which a timer does not. It
//! never sees a pattern or a zone, and runs nothing: on its own it would shift with daylight saving, start a
//! job beside the one still running and once more after its shutdown, and it can lose an activation. So a wake
//! is a hint without content. Whoever is woken looks at the clock, acts if it is time, and sets the next alarm.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_cron_scheduler::job::JobId;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};

use crate::clock::Clock;

/// How long [`Alarm::woken`] trusts the wake-up clock before it has its caller look at the time anyway. Less than
/// half the unit's `WatchdogSec`, so that an idle loop can tell systemd each time that it lives.
const LOOK_AGAIN_AFTER: Duration = Duration::from_secs(20);

/// The scheduler answers in microseconds; but if one of its inner tasks has died, it never answers at all.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

#[derive(Debug, thiserror::Error)]
#[error("cannot start the wake-up clock")]
pub struct AlarmError(#[from] JobSchedulerError);

/// One for the process. Its alarms work until [`AlarmClock::stop`].
pub struct AlarmClock {
    scheduler: JobScheduler,
}

impl AlarmClock {
    pub async fn start() -> Result<Self, AlarmError> {
        let scheduler = JobScheduler::new().await?;
        scheduler.start().await?;
        Ok(Self { scheduler })
    }

    /// An alarm of one's own, not yet set.
    #[must_use]
    pub fn alarm(&self) -> Alarm {
        Alarm::new(Some(self.scheduler.clone()))
    }

    /// Stops waking. The scheduler only takes note of it and may wake once more, which nobody then hears: stop
    /// those who wait first.
    pub async fn stop(mut self) {
        if let Err(error) = self.scheduler.shutdown().await {
            tracing::warn!(%error, "the wake-up clock did not stop");
        }
    }
}

impl fmt::Debug for AlarmClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlarmClock").finish_non_exhaustive()
    }
}

/// Why [`Alarm::woken`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Woken {
    /// The alarm rang: it should be time, and the alarm is no longer set.
    Rung,
    /// A while passed without a ring. If it is past the time, the ring was late or lost.
    LookAgain,
}

/// Wakes one waiter at one time; setting it again replaces the time.
pub struct Alarm {
    /// `None` if it is rung by hand.
    scheduler: Option<JobScheduler>,
    job: Option<JobId>,
    due: watch::Sender<Option<DateTime<Utc>>>,
    rings: mpsc::Receiver<()>,
    bell: mpsc::Sender<()>,
}

impl Alarm {
    fn new(scheduler: Option<JobScheduler>) -> Self {
        // One slot: rings that nobody has heard yet are one ring.
        let (bell, rings) = mpsc::channel(1);
        Self { scheduler, job: None, due: watch::Sender::new(None), rings, bell }
    }

    /// An alarm without a clock, for tests: it rings when the [`Hand`] does.
    #[must_use]
    pub fn by_hand() -> (Self, Hand) {
        let alarm = Self::new(None);
        let hand = Hand { due: alarm.due.subscribe(), bell: alarm.bell.clone() };
        (alarm, hand)
    }

    /// Rings at `due` or up to a second after it, at once if that is past. Cheap if it is already set so.
    ///
    /// If the scheduler fails, that is logged, and [`Self::woken`] goes on with its own looks at the time.
    pub async fn set(&mut self, due: DateTime<Utc>) {
        if self.due.send_replace(Some(due)) == Some(due) {
            return;
        }
        let _unheard = self.rings.try_recv();
        let Some(scheduler) = &self.scheduler else { return };
        let replace = async {
            if let Some(earlier) = self.job.take() {
                scheduler.remove(&earlier).await?;
            }
            let bell = self.bell.clone();
            // The machine's clock and no other: that is the one the scheduler polls.
            let delay = delay(Clock::system().now(), due);
            scheduler.add(Job::new_one_shot(delay, move |_, _| ring(&bell))?).await
        };
        match timeout(ANSWER_WITHIN, replace).await {
            Ok(Ok(job)) => self.job = Some(job),
            Ok(Err(error)) => self.unset(&format!("{error}")),
            Err(_) => self.unset("no answer"),
        }
    }

    /// Waits for the ring, but never longer than 20 s: one lost ring must not end the schedule. Nothing is lost if
    /// the future is dropped.
    pub async fn woken(&mut self) -> Woken {
        // The channel cannot close: the alarm holds a sender itself.
        if timeout(LOOK_AGAIN_AFTER, self.rings.recv()).await.is_err() {
            return Woken::LookAgain;
        }
        // The scheduler drops a one-shot job itself; removing it again would race with that.
        self.job = None;
        self.due.send_replace(None);
        Woken::Rung
    }

    fn unset(&mut self, reason: &str) {
        tracing::warn!(reason, "the wake-up clock took no alarm; looking at the time now and then instead");
        self.due.send_replace(None);
    }
}

impl fmt::Debug for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alarm").field("due", &*self.due.borrow()).finish_non_exhaustive()
    }
}

/// Rings an [`Alarm::by_hand`] and sees for when it is set.
#[derive(Debug)]
pub struct Hand {
    due: watch::Receiver<Option<DateTime<Utc>>>,
    bell: mpsc::Sender<()>,
}

impl Hand {
    pub fn ring(&self) {
        ring(&self.bell);
    }

    /// Waits until the alarm is set, and tells for when.
    ///
    /// # Panics
    /// If the alarm is gone.
    pub async fn due(&mut self) -> DateTime<Utc> {
        let set = self.due.wait_for(Option::is_some).await.expect("the alarm is still there");
        set.expect("it was waited for")
    }
}

fn ring(bell: &mpsc::Sender<()>) {
    // Full: a ring already waits to be heard. Closed: the alarm was dropped.
    let _full_or_closed = bell.try_send(());
}

/// The scheduler keeps the second in which `now` + delay falls and rings at a poll in it or later. Both roundings
/// go up, as a ring before `due` would wake for nothing, and again at each poll.
fn delay(now: DateTime<Utc>, due: DateTime<Utc>) -> Duration {
    let second = (due + TimeDelta::nanoseconds(999_999_999)).trunc_subsecs(0);
    let millis = (second - now).num_milliseconds().max(0).cast_unsigned();
    Duration::from_secs(millis.div_ceil(1000))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_second_that_the_scheduler_keeps_is_never_before_the_due_time_nor_two_after(
            now in 0..4_000_000_i64,
            due in 0..4_000_000_i64,
        ) {
            let [now, due] = [now, due].map(|millis| DateTime::from_timestamp_millis(millis).unwrap());
            let kept = (now + delay(now, due)).trunc_subsecs(0);
            prop_assert!(kept >= due || due <= now);
            prop_assert!(kept < due.max(now) + TimeDelta::seconds(2));
        }
    }

    #[tokio::test]
    async fn an_alarm_set_for_now_rings_and_not_early() {
        let clock = AlarmClock::start().await.unwrap();
        let mut alarm = clock.alarm();
        let due = Clock::system().now() + TimeDelta::milliseconds(1);
        alarm.set(due).await;
        assert_eq!(alarm.woken().await, Woken::Rung);
        assert!(Clock::system().now() >= due);
        clock.stop().await;
    }

    #[tokio::test]
    async fn setting_an_alarm_again_replaces_it() {
        let mut clock = AlarmClock::start().await.unwrap();
        let mut alarm = clock.alarm();
        let now = Clock::system().now();
        for hours in [1, 5, 3] {
            alarm.set(now + TimeDelta::hours(hours)).await;
        }
        let next = clock.scheduler.time_till_next_job().await.unwrap().unwrap();
        assert!((Duration::from_hours(2)..Duration::from_hours(4)).contains(&next), "{next:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_ring_the_waiter_looks_at_the_time_again_soon() {
        let (mut alarm, _hand) = Alarm::by_hand();
        let start = tokio::time::Instant::now();
        assert_eq!(alarm.woken().await, Woken::LookAgain);
        assert_eq!(start.elapsed(), LOOK_AGAIN_AFTER);
    }

    #[tokio::test(start_paused = true)]
    async fn rings_that_nobody_heard_are_one_ring_and_none_once_the_alarm_is_set_anew() {
        let (mut alarm, mut hand) = Alarm::by_hand();
        let due = DateTime::UNIX_EPOCH;
        alarm.set(due).await;
        assert_eq!(hand.due().await, due);
        hand.ring();
        hand.ring();
        assert_eq!(alarm.woken().await, Woken::Rung);
        assert_eq!(alarm.woken().await, Woken::LookAgain);
        hand.ring();
        alarm.set(due).await;
        assert_eq!(alarm.woken().await, Woken::LookAgain);
    }
}
