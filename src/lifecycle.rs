//! The lifecycle of the process: signals, graceful shutdown, supervised tasks, and notifications to
//! systemd.
//!
//! Shutdown has two stages. The first SIGTERM or SIGINT requests a soft stop: tasks finish their
//! current work. A second signal, or the end of four seconds, forces a hard stop, which also
//! interrupts transactions.
//!
//! A dedicated thread receives the signals. Another thread exits the process if the shutdown takes
//! longer than allowed. So a stop works even if every thread of the runtime is blocked, for example
//! on a full log pipe.
//!
//! If a supervised task ends without a stop request, the entire process fails and systemd restarts
//! it. Otherwise the daemon could run for months without that task.

use std::future::{Future, pending};
use std::io;
use std::process::{self, ExitCode};
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::escape::one_line;
pub use crate::signals::Signal;
use crate::signals::{Role, Signals, StopSignal};

/// Time between the soft and the hard stop. Together with [`ABANDON_AFTER`] it stays below five
/// seconds, the limit for a shutdown.
const HARD_STOP_AFTER: Duration = Duration::from_secs(4);

/// Time after the hard stop at which the process stops waiting for its tasks.
const ABANDON_AFTER: Duration = Duration::from_millis(500);

/// Time between the first stop signal and the exit of a process whose shutdown hangs. An orderly
/// shutdown takes less time.
const FORCED_EXIT_AFTER: Duration = Duration::from_millis(4_900);

/// Time between the second stop signal and the exit of a process whose shutdown hangs. It exceeds
/// `ABANDON_AFTER`, so that an orderly exit comes first.
const FORCED_EXIT_AFTER_SECOND: Duration = Duration::from_millis(800);

/// The two stages of shutdown, as cancellation tokens. A hard stop implies a soft one.
#[derive(Clone, Debug)]
pub struct Stop {
    soft: CancellationToken,
    hard: CancellationToken,
}

impl Stop {
    #[must_use]
    pub fn new() -> Self {
        let hard = CancellationToken::new();
        Self { soft: hard.child_token(), hard }
    }

    /// Returns the token of the soft stop: finish the current work and start nothing new.
    #[must_use]
    pub fn soft(&self) -> &CancellationToken {
        &self.soft
    }

    /// Returns the token of the hard stop: drop the current work. Transactions roll back.
    #[must_use]
    pub fn hard(&self) -> &CancellationToken {
        &self.hard
    }

    /// Returns the tokens of a part of the process. A stop of the process also stops the part.
    /// Cancelling the part's soft token stops only the part.
    #[must_use]
    pub fn child(&self) -> Self {
        Self { soft: self.soft.child_token(), hard: self.hard.clone() }
    }
}

impl Default for Stop {
    fn default() -> Self {
        Self::new()
    }
}

/// How the process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// A stop was requested and all tasks ended.
    Requested,
    /// This task ended without a request, or panicked.
    TaskDied(String),
    /// A stop was requested, but this number of tasks did not end in time.
    Abandoned(usize),
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Requested => Self::SUCCESS,
            Ending::TaskDied(_) | Ending::Abandoned(_) => Self::FAILURE,
        }
    }
}

#[expect(clippy::disallowed_methods, reason = "the shutdown hangs, so no orderly exit is possible")]
fn exit(code: u8) -> ! {
    process::exit(code.into())
}

/// The lifecycle of the process. Clones share its state.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    stop: Stop,
    crawl_now: watch::Sender<()>,
    reload: watch::Sender<()>,
    tasks: TaskTracker,
    died: Arc<OnceLock<String>>,
    stopped_by: Arc<OnceLock<StopSignal>>,
}

impl Lifecycle {
    /// Creates a lifecycle, and starts a thread that performs the actions of signals.
    pub fn install(mut signals: Signals) -> io::Result<Self> {
        let lifecycle = Self::without_signals();
        let (receiving, role) = (lifecycle.clone(), signals.role());
        thread::Builder::new().name("signals".to_owned()).spawn(move || {
            loop {
                let (signal, stopped_by) = signals.wait();
                if let Some(by) = stopped_by {
                    receiving.exit_if_shutdown_hangs(by, role);
                }
                receiving.signal(signal);
            }
        })?;
        Ok(lifecycle)
    }

    /// Records the signal, and starts a thread that exits the process if the shutdown hangs.
    fn exit_if_shutdown_hangs(&self, by: StopSignal, role: Role) {
        let is_first = self.stopped_by.set(by).is_ok();
        let after = if is_first { FORCED_EXIT_AFTER } else { FORCED_EXIT_AFTER_SECOND };
        let code = match role {
            Role::Service => 1,
            Role::Command => by.exit_code(),
        };
        let exiting = thread::Builder::new().name("forced exit".to_owned()).spawn(move || {
            thread::sleep(after);
            exit(code);
        });
        if exiting.is_err() && !is_first {
            // If no thread can be started, the second signal ends the process at once.
            exit(code);
        }
    }

    /// Creates a lifecycle that reacts only to [`Lifecycle::signal`].
    ///
    /// # Panics
    /// Panics outside a tokio runtime, because it spawns the task that forces the hard stop.
    #[must_use]
    pub fn without_signals() -> Self {
        let stop = Stop::new();
        let Stop { soft, hard } = stop.clone();
        tokio::spawn(async move {
            soft.cancelled().await;
            sleep(HARD_STOP_AFTER).await;
            hard.cancel();
        });
        let [crawl_now, reload] = std::array::from_fn(|_| watch::Sender::new(()));
        Self {
            stop,
            crawl_now,
            reload,
            tasks: TaskTracker::new(),
            died: Arc::default(),
            stopped_by: Arc::default(),
        }
    }

    /// Returns the shutdown tokens, for tasks that react to them.
    #[must_use]
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// Returns the signal that requested the stop, if one did.
    #[must_use]
    pub fn stopped_by(&self) -> Option<StopSignal> {
        self.stopped_by.get().copied()
    }

    /// Subscribes to SIGUSR1, which requests a crawl of every app.
    #[must_use]
    pub fn crawl_requests(&self) -> SignalRequests {
        SignalRequests(self.crawl_now.subscribe())
    }

    /// Subscribes to SIGHUP, which requests a reload of the configuration.
    #[must_use]
    pub fn reload_requests(&self) -> SignalRequests {
        SignalRequests(self.reload.subscribe())
    }

    /// Performs the action that a signal requests. Logs it afterwards, because writing a log line
    /// can block.
    pub fn signal(&self, signal: Signal) {
        match signal {
            Signal::Stop if !self.stop.soft.is_cancelled() => {
                self.stop.soft.cancel();
                tracing::info!("stopping: finishing current work first; a second signal interrupts it");
            }
            Signal::Stop => {
                self.stop.hard.cancel();
                tracing::warn!("stopping now: interrupting current work");
            }
            Signal::CrawlNow => {
                self.crawl_now.send_replace(());
                tracing::info!("crawl of every app requested (SIGUSR1)");
            }
            Signal::Reload => {
                self.reload.send_replace(());
                tracing::info!("reload of the configuration requested (SIGHUP)");
            }
        }
    }

    /// Spawns a task that runs until the process stops. If it panics, or ends without a request to
    /// stop, the process fails.
    pub fn supervise<F>(&self, name: impl Into<String>, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.supervise_until(name, &self.stop, task);
    }

    /// Spawns a task that may also end when `stop` is requested. `stop` comes from [`Stop::child`].
    pub fn supervise_until<F>(&self, name: impl Into<String>, stop: &Stop, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let guard = TaskGuard {
            name: name.into(),
            task_stop: stop.soft.clone(),
            process_stop: self.stop.soft.clone(),
            died: Arc::clone(&self.died),
            has_returned: false,
        };
        self.tasks.spawn(async move {
            let mut guard = guard;
            task.await;
            guard.has_returned = true;
        });
    }

    /// Waits until a stop is requested or a supervised task dies. Then waits for all tasks to end,
    /// for at most five seconds.
    pub async fn ended(&self, systemd: Systemd) -> Ending {
        self.stop.soft.cancelled().await;
        systemd.stopping();
        self.tasks.close();
        let deadline = async {
            self.stop.hard.cancelled().await;
            sleep(ABANDON_AFTER).await;
        };
        tokio::select! {
            biased;
            () = self.tasks.wait() => {}
            () = deadline => {}
        }
        match self.died.get() {
            Some(name) => Ending::TaskDied(name.clone()),
            None if self.tasks.is_empty() => Ending::Requested,
            None => {
                let left = self.tasks.len();
                tracing::error!(
                    left,
                    "tasks did not end after the hard stop; exiting without waiting for them (a \
                     usual cause is a database that does not answer)"
                );
                Ending::Abandoned(left)
            }
        }
    }
}

/// Dropped when its task ends. Stops the process if the task panicked or ended without a request.
#[derive(Debug)]
struct TaskGuard {
    name: String,
    /// The soft stop of the task.
    task_stop: CancellationToken,
    /// The soft stop of the process.
    process_stop: CancellationToken,
    died: Arc<OnceLock<String>>,
    /// False if the runtime drops the task before it returns. Then the process ends for another
    /// reason, and the task has not failed.
    has_returned: bool,
}

impl Drop for TaskGuard {
    fn drop(&mut self) {
        let ended_early = self.has_returned && !self.task_stop.is_cancelled();
        if !ended_early && !thread::panicking() {
            return;
        }
        tracing::error!(
            task = self.name,
            "a task ended unexpectedly: stopping, so that the service manager restarts the process"
        );
        // Only the first task is recorded. Later ones may have ended as a consequence.
        let _first = self.died.set(std::mem::take(&mut self.name));
        self.process_stop.cancel();
    }
}

/// A subscription to the requests of one signal. Signals between two calls of
/// [`SignalRequests::next`] count as one.
#[derive(Debug)]
pub struct SignalRequests(watch::Receiver<()>);

impl SignalRequests {
    /// Waits for the next request. Cancel-safe.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // The lifecycle was dropped: there will be no further request.
            pending::<()>().await;
        }
    }
}

/// Notifications to systemd, see sd_notify(3). Without `NOTIFY_SOCKET` they do nothing.
#[derive(Clone, Copy, Debug)]
pub struct Systemd {
    enabled: bool,
    watchdog_interval: Option<Duration>,
}

impl Systemd {
    #[must_use]
    pub fn from_environment() -> Self {
        let enabled = std::env::var_os("NOTIFY_SOCKET").is_some();
        // Half of systemd's timeout, as sd_watchdog_enabled(3) recommends.
        Self { enabled, watchdog_interval: sd_notify::watchdog_enabled().map(|limit| limit / 2) }
    }

    /// Reports that the start or a reload is complete.
    pub fn ready(self) {
        self.notify(&[NotifyState::Ready]);
    }

    /// Reports that a reload begins. [`Systemd::ready`] must follow, even if the reload fails.
    pub fn reloading(self) {
        match NotifyState::monotonic_usec_now() {
            // systemd requires both values in one message.
            Ok(now) => self.notify(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "cannot notify systemd of a reload: no monotonic clock"),
        }
    }

    pub fn stopping(self) {
        self.notify(&[NotifyState::Stopping]);
    }

    /// Sets the status line of `systemctl status`.
    pub fn status(self, line: &str) {
        // A line break would start another assignment in the message.
        self.notify(&[NotifyState::Status(&one_line(line))]);
    }

    /// Pings the watchdog. The caller must have checked that work makes progress.
    pub fn watchdog(self) {
        if self.watchdog_interval.is_some() {
            self.notify(&[NotifyState::Watchdog]);
        }
    }

    /// Returns the maximum time between two calls of [`Systemd::watchdog`], or `None` if the
    /// watchdog is off.
    #[must_use]
    pub fn watchdog_interval(self) -> Option<Duration> {
        self.watchdog_interval
    }

    fn notify(self, states: &[NotifyState<'_>]) {
        if self.enabled
            && let Err(error) = sd_notify::notify(states)
        {
            let states: Vec<String> = states.iter().map(ToString::to_string).collect();
            tracing::warn!(%error, states = states.join(" "), "cannot notify systemd");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;

    use tokio::time::Instant;

    use super::*;

    const QUIET: Systemd = Systemd { enabled: false, watchdog_interval: None };

    #[tokio::test]
    async fn the_first_signal_requests_a_soft_stop_and_the_second_a_hard_one() {
        let lifecycle = Lifecycle::without_signals();
        let stop = lifecycle.stop();
        assert!(!stop.soft().is_cancelled());
        lifecycle.signal(Signal::Stop);
        assert!(stop.soft().is_cancelled() && !stop.hard().is_cancelled());
        lifecycle.signal(Signal::Stop);
        assert!(stop.hard().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_hard_stop_follows_a_soft_one_after_four_seconds() {
        let lifecycle = Lifecycle::without_signals();
        let requested = Instant::now();
        lifecycle.signal(Signal::Stop);
        lifecycle.stop().hard().cancelled().await;
        assert_eq!(requested.elapsed(), Duration::from_secs(4));
    }

    #[tokio::test]
    async fn a_stop_is_clean_if_all_tasks_end() {
        let lifecycle = Lifecycle::without_signals();
        for name in ["prod", "test"] {
            let stop = lifecycle.stop().clone();
            lifecycle.supervise(name, async move { stop.soft().cancelled().await });
        }
        lifecycle.signal(Signal::Stop);
        assert_eq!(lifecycle.ended(QUIET).await, Ending::Requested);
    }

    #[tokio::test]
    async fn a_task_that_ends_without_a_request_stops_the_process() {
        let lifecycle = Lifecycle::without_signals();
        let stop = lifecycle.stop().clone();
        lifecycle.supervise("metrics", async move { stop.soft().cancelled().await });
        lifecycle.supervise("prod", async {});
        assert_eq!(lifecycle.ended(QUIET).await, Ending::TaskDied("prod".to_owned()));
    }

    #[tokio::test]
    async fn a_task_that_panics_makes_the_process_fail_even_during_shutdown() {
        let lifecycle = Lifecycle::without_signals();
        lifecycle.supervise("prod", async { panic!("intended panic") });
        assert_eq!(lifecycle.ended(QUIET).await, Ending::TaskDied("prod".to_owned()));

        let lifecycle = Lifecycle::without_signals();
        let stop = lifecycle.stop().clone();
        lifecycle.supervise("prod", async move {
            stop.soft().cancelled().await;
            panic!("intended panic")
        });
        lifecycle.signal(Signal::Stop);
        assert_eq!(lifecycle.ended(QUIET).await, Ending::TaskDied("prod".to_owned()));
    }

    #[test]
    fn a_task_that_the_runtime_drops_does_not_count_as_dead() {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let lifecycle = runtime.block_on(async {
            let lifecycle = Lifecycle::without_signals();
            lifecycle.supervise("prod", pending());
            tokio::task::yield_now().await;
            lifecycle
        });
        drop(runtime);
        assert_eq!(lifecycle.died.get(), None);
        assert!(!lifecycle.stop().soft().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_never_ends_is_abandoned_within_five_seconds() {
        let lifecycle = Lifecycle::without_signals();
        lifecycle.supervise("prod", pending());
        let requested = Instant::now();
        lifecycle.signal(Signal::Stop);
        assert_eq!(lifecycle.ended(QUIET).await, Ending::Abandoned(1));
        assert!(requested.elapsed() < Duration::from_secs(5));
    }

    #[tokio::test]
    async fn every_subscriber_gets_a_request_and_several_requests_count_as_one() {
        let lifecycle = Lifecycle::without_signals();
        let mut subscribers = [lifecycle.crawl_requests(), lifecycle.crawl_requests()];
        lifecycle.signal(Signal::CrawlNow);
        lifecycle.signal(Signal::CrawlNow);
        for requests in &mut subscribers {
            requests.next().await;
            let again = tokio::select! { biased; () = requests.next() => true, () = async {} => false };
            assert!(!again);
        }
    }

    #[tokio::test]
    async fn a_reload_is_received_once_and_stops_nothing() {
        let lifecycle = Lifecycle::without_signals();
        let mut requests = lifecycle.reload_requests();
        lifecycle.signal(Signal::Reload);
        lifecycle.signal(Signal::Reload);
        requests.next().await;
        let again = tokio::select! { biased; () = requests.next() => true, () = async {} => false };
        assert!(!again && !lifecycle.stop().soft().is_cancelled());
    }

    #[tokio::test]
    async fn the_stop_of_a_part_leaves_the_process_running_unless_the_part_panics() {
        let lifecycle = Lifecycle::without_signals();
        let (ends, panics) = (lifecycle.stop().child(), lifecycle.stop().child());
        let ended = Arc::new(tokio::sync::Notify::new());
        let (stop, notify) = (ends.clone(), Arc::clone(&ended));
        lifecycle.supervise_until("removed", &ends, async move {
            stop.soft().cancelled().await;
            notify.notify_one();
        });
        ends.soft().cancel();
        ended.notified().await;
        assert!(!lifecycle.stop().soft().is_cancelled());
        let stop = panics.clone();
        lifecycle.supervise_until("broken", &panics, async move {
            stop.soft().cancelled().await;
            panic!("intended panic")
        });
        panics.soft().cancel();
        assert_eq!(lifecycle.ended(QUIET).await, Ending::TaskDied("broken".to_owned()));
    }

    #[tokio::test]
    async fn a_part_stops_with_the_process() {
        let lifecycle = Lifecycle::without_signals();
        let part = lifecycle.stop().child();
        lifecycle.signal(Signal::Stop);
        assert!(part.soft().is_cancelled() && !part.hard().is_cancelled());
        lifecycle.signal(Signal::Stop);
        assert!(part.hard().is_cancelled());
    }

    /// Environment variables belong to the entire process, so the test runs itself again in a child
    /// process.
    #[test]
    fn systemd_gets_the_documented_messages() {
        const CHILD: &str = "TIM_GROUP_SYNC_TEST_CHILD";
        if std::env::var_os(CHILD).is_some() {
            let systemd = Systemd::from_environment();
            assert_eq!(systemd.watchdog_interval(), Some(Duration::from_secs(30)));
            systemd.ready();
            systemd.reloading();
            systemd.status("crawling prod\nMAINPID=1");
            systemd.watchdog();
            systemd.stopping();
            return;
        }
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("notify");
        let socket = UnixDatagram::bind(&path).unwrap();
        socket.set_nonblocking(true).unwrap();
        let child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "lifecycle::tests::systemd_gets_the_documented_messages"])
            .env(CHILD, "1")
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "60000000")
            .env_remove("WATCHDOG_PID")
            .output()
            .unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        let expected =
            ["READY=1", "RELOADING=1", "STATUS=crawling prod\\nMAINPID=1", "WATCHDOG=1", "STOPPING=1"];
        for expected in expected {
            let mut message = [0; 256];
            let length = socket.recv(&mut message).unwrap();
            let message = String::from_utf8_lossy(&message[..length]).trim_end().to_owned();
            match message.split_once("\nMONOTONIC_USEC=") {
                Some((first, usec)) => {
                    assert!(first == expected && usec.parse::<u64>().is_ok(), "{message}");
                }
                None => assert!(message == expected && expected != "RELOADING=1", "{message}"),
            }
        }
    }
}
