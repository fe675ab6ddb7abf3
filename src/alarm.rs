//! Wakes a task at a time of day. This is the only file that uses tokio-cron-scheduler.
//!
//! The scheduler polls the machine's wall clock. So an alarm also works after the machine was
//! suspended or its clock was set, unlike a timer. The scheduler gets only one-shot jobs, without
//! cron expressions and time zones, because it has these limitations:
//! - It keeps the UTC offset of the time when a job was added.
//! - It starts a job although its previous run has not ended.
//! - It may run a job once more after its shutdown.
//! - It can lose an activation.
//!
//! A wake-up is therefore only a hint: the woken task reads the clock, acts if it is due, and sets
//! the next alarm.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, SubsecRound as _, TimeDelta, Utc};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;
use tokio_cron_scheduler::job::JobId;
use tokio_cron_scheduler::{Job, JobScheduler, JobSchedulerError};

use crate::clock::Clock;

/// The maximum time of one [`Alarm::wait`].
const MAX_WAIT: Duration = Duration::from_secs(20);

/// The scheduler usually answers in microseconds. If one of its internal tasks has died, it never
/// answers.
const SCHEDULER_TIMEOUT: Duration = Duration::from_secs(1);

/// The alarm scheduler could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start the alarm scheduler")]
pub struct AlarmError(#[from] JobSchedulerError);

/// The scheduler of all alarms of the process. Alarms work until [`AlarmClock::stop`].
pub struct AlarmClock {
    scheduler: JobScheduler,
}

impl AlarmClock {
    pub async fn start() -> Result<Self, AlarmError> {
        let scheduler = JobScheduler::new().await?;
        scheduler.start().await?;
        Ok(Self { scheduler })
    }

    /// Creates an alarm that is not set yet.
    #[must_use]
    pub fn alarm(&self) -> Alarm {
        Alarm::new(Some(self.scheduler.clone()))
    }

    /// Stops the scheduler. The scheduler may still trigger an alarm once, so the tasks that wait
    /// for alarms must be stopped first.
    pub async fn stop(mut self) {
        if let Err(error) = self.scheduler.shutdown().await {
            tracing::warn!(%error, "cannot stop the alarm scheduler");
        }
    }
}

impl fmt::Debug for AlarmClock {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AlarmClock").finish_non_exhaustive()
    }
}

/// Why [`Alarm::wait`] returned.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Wake {
    /// The alarm was triggered. It is no longer set.
    Alarm,
    /// 20 seconds passed without an alarm. An alarm whose time is past is late or lost.
    Timeout,
}

/// Wakes one task at one time. Setting the alarm again replaces the time.
pub struct Alarm {
    /// `None` for an alarm that only a [`ManualTrigger`] triggers.
    scheduler: Option<JobScheduler>,
    job: Option<JobId>,
    due: watch::Sender<Option<DateTime<Utc>>>,
    triggered: mpsc::Receiver<()>,
    trigger: mpsc::Sender<()>,
}

impl Alarm {
    fn new(scheduler: Option<JobScheduler>) -> Self {
        // With a capacity of 1, several pending triggers count as one.
        let (trigger, triggered) = mpsc::channel(1);
        Self { scheduler, job: None, due: watch::Sender::new(None), triggered, trigger }
    }

    /// Creates an alarm for tests, which only the [`ManualTrigger`] triggers.
    #[must_use]
    pub fn manual() -> (Self, ManualTrigger) {
        let alarm = Self::new(None);
        let trigger = ManualTrigger { due: alarm.due.subscribe(), trigger: alarm.trigger.clone() };
        (alarm, trigger)
    }

    /// Sets the alarm to `due`. It is triggered at `due` or up to a second later, or immediately if
    /// `due` is past. Does nothing if the alarm is already set to `due`.
    ///
    /// If the scheduler fails, a warning is logged, and [`Self::wait`] returns only with
    /// [`Wake::Timeout`].
    pub async fn set(&mut self, due: DateTime<Utc>) {
        if self.due.send_replace(Some(due)) == Some(due) {
            return;
        }
        let _stale = self.triggered.try_recv();
        let Some(scheduler) = &self.scheduler else { return };
        let replace = async {
            if let Some(earlier) = self.job.take() {
                scheduler.remove(&earlier).await?;
            }
            let trigger = self.trigger.clone();
            // The scheduler polls the machine's clock, so the delay is computed from it.
            let delay = delay(Clock::system().now(), due);
            scheduler.add(Job::new_one_shot(delay, move |_, _| send(&trigger))?).await
        };
        match timeout(SCHEDULER_TIMEOUT, replace).await {
            Ok(Ok(job)) => self.job = Some(job),
            Ok(Err(error)) => self.fail_to_set(&format!("{error}")),
            Err(_) => self.fail_to_set("no answer"),
        }
    }

    /// Waits for the alarm, at most 20 s, so that a lost alarm only delays the task. Cancel-safe.
    pub async fn wait(&mut self) -> Wake {
        // The channel cannot close, because `self` has a sender.
        if timeout(MAX_WAIT, self.triggered.recv()).await.is_err() {
            return Wake::Timeout;
        }
        // The job is not removed here: the scheduler removes a one-shot job by itself, and a
        // removal here would race with it.
        self.job = None;
        self.due.send_replace(None);
        Wake::Alarm
    }

    /// Logs that the alarm could not be set, and marks it as not set.
    fn fail_to_set(&mut self, reason: &str) {
        tracing::warn!(reason, "cannot set an alarm; checking the time every 20 s instead");
        self.due.send_replace(None);
    }
}

impl fmt::Debug for Alarm {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Alarm").field("due", &*self.due.borrow()).finish_non_exhaustive()
    }
}

/// Triggers an [`Alarm::manual`], and returns the time to which the alarm is set.
#[derive(Debug)]
pub struct ManualTrigger {
    due: watch::Receiver<Option<DateTime<Utc>>>,
    trigger: mpsc::Sender<()>,
}

impl ManualTrigger {
    pub fn fire(&self) {
        send(&self.trigger);
    }

    /// Waits until the alarm is set, and returns its time.
    ///
    /// # Panics
    /// If the alarm was dropped.
    pub async fn due(&mut self) -> DateTime<Utc> {
        let set = self.due.wait_for(Option::is_some).await.expect("the alarm exists");
        set.expect("`wait_for` returned a time")
    }
}

fn send(trigger: &mpsc::Sender<()>) {
    // Full: a trigger is already pending. Closed: the alarm was dropped.
    let _full_or_closed = trigger.try_send(());
}

/// Returns the delay of a one-shot job. The scheduler truncates `now` + delay to a second, and runs
/// the job at its first poll in that second or later. Therefore the time and the delay are rounded
/// up, so that no alarm is triggered before `due`.
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
        fn a_job_runs_at_the_due_time_or_less_than_two_seconds_later(
            now in 0..4_000_000_i64,
            due in 0..4_000_000_i64,
        ) {
            let [now, due] = [now, due].map(|millis| DateTime::from_timestamp_millis(millis).unwrap());
            let runs_at = (now + delay(now, due)).trunc_subsecs(0);
            prop_assert!(runs_at >= due || due <= now);
            prop_assert!(runs_at < due.max(now) + TimeDelta::seconds(2));
        }
    }

    #[tokio::test]
    async fn an_alarm_for_now_is_triggered_and_not_early() {
        let clock = AlarmClock::start().await.unwrap();
        let mut alarm = clock.alarm();
        let due = Clock::system().now() + TimeDelta::milliseconds(1);
        alarm.set(due).await;
        assert_eq!(alarm.wait().await, Wake::Alarm);
        assert!(due <= Clock::system().now());
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
    async fn waiting_without_an_alarm_times_out() {
        let (mut alarm, _trigger) = Alarm::manual();
        let start = tokio::time::Instant::now();
        assert_eq!(alarm.wait().await, Wake::Timeout);
        assert_eq!(start.elapsed(), MAX_WAIT);
    }

    #[tokio::test(start_paused = true)]
    async fn pending_triggers_count_as_one_and_setting_the_alarm_discards_them() {
        let (mut alarm, mut trigger) = Alarm::manual();
        let due = DateTime::UNIX_EPOCH;
        alarm.set(due).await;
        assert_eq!(trigger.due().await, due);
        trigger.fire();
        trigger.fire();
        assert_eq!(alarm.wait().await, Wake::Alarm);
        assert_eq!(alarm.wait().await, Wake::Timeout);
        trigger.fire();
        alarm.set(due).await;
        assert_eq!(alarm.wait().await, Wake::Timeout);
    }
}
