//! How the process lives and ends: signals, the two stages of stopping, supervised tasks, and words to systemd.
//!
//! The first SIGTERM or SIGINT asks everyone to finish (soft); a second one, or four seconds, interrupts even
//! transactions (hard). A supervised task that ends without being asked takes the process down with a failure, so
//! that systemd starts it again: better no daemon for five seconds than half a daemon for a month.

use std::future::{Future, pending};
use std::io;
use std::process::ExitCode;
use std::sync::{Arc, OnceLock};
use std::thread;
use std::time::Duration;

use sd_notify::NotifyState;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

/// From asking to interrupting. With [`LAST_WORDS`] it stays below the five seconds a stop may take.
const PATIENCE: Duration = Duration::from_secs(4);

/// From interrupting to leaving whoever still has not ended.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// The two stages of stopping, for those who have to stop. Hard implies soft.
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

    /// Cancelled: finish what is in hand, begin nothing new.
    #[must_use]
    pub fn soft(&self) -> &CancellationToken {
        &self.soft
    }

    /// Cancelled: drop what is in hand; transactions roll back.
    #[must_use]
    pub fn hard(&self) -> &CancellationToken {
        &self.hard
    }

    /// One that may also be cancelled, softly, without the process.
    #[must_use]
    pub fn part(&self) -> Self {
        Self { soft: self.soft.child_token(), hard: self.hard.clone() }
    }
}

impl Default for Stop {
    fn default() -> Self {
        Self::new()
    }
}

/// What a signal asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT.
    Stop,
    /// SIGUSR1.
    CrawlNow,
    /// SIGHUP.
    Reload,
}

/// How the process ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was asked to, and everyone finished.
    Asked,
    /// The named task died.
    TaskDied(String),
    /// It was asked to, but so many tasks did not end even when interrupted.
    Abandoned(usize),
}

impl From<Ending> for ExitCode {
    fn from(ending: Ending) -> Self {
        match ending {
            Ending::Asked => Self::SUCCESS,
            Ending::TaskDied(_) | Ending::Abandoned(_) => Self::FAILURE,
        }
    }
}

/// The life of the process; clones share it.
#[derive(Clone, Debug)]
pub struct Lifecycle {
    stop: Stop,
    crawl_now: watch::Sender<()>,
    reload: watch::Sender<()>,
    tasks: TaskTracker,
    died: Arc<OnceLock<String>>,
}

impl Lifecycle {
    /// A life that listens to the process's signals.
    pub fn install() -> io::Result<Self> {
        let lifecycle = Self::deaf();
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut crawl_now = signal(SignalKind::user_defined1())?;
        let mut reload = signal(SignalKind::hangup())?;
        let listening = lifecycle.clone();
        tokio::spawn(async move {
            loop {
                listening.signal(tokio::select! {
                    _ = terminate.recv() => Signal::Stop,
                    _ = interrupt.recv() => Signal::Stop,
                    _ = crawl_now.recv() => Signal::CrawlNow,
                    _ = reload.recv() => Signal::Reload,
                });
            }
        });
        Ok(lifecycle)
    }

    /// A life that hears only [`Lifecycle::signal`].
    ///
    /// # Panics
    /// Outside a tokio runtime: a task keeps the time between the two stages.
    #[must_use]
    pub fn deaf() -> Self {
        let stop = Stop::new();
        let Stop { soft, hard } = stop.clone();
        tokio::spawn(async move {
            soft.cancelled().await;
            sleep(PATIENCE).await;
            hard.cancel();
        });
        let [crawl_now, reload] = std::array::from_fn(|_| watch::Sender::new(()));
        Self { stop, crawl_now, reload, tasks: TaskTracker::new(), died: Arc::default() }
    }

    /// The stages of stopping, to hand to those who have to stop.
    #[must_use]
    pub fn stop(&self) -> &Stop {
        &self.stop
    }

    /// What `SIGUSR1` asks for, from now on.
    #[must_use]
    pub fn crawl_requests(&self) -> Requests {
        Requests(self.crawl_now.subscribe())
    }

    /// What `SIGHUP` asks for, from now on.
    #[must_use]
    pub fn reload_requests(&self) -> Requests {
        Requests(self.reload.subscribe())
    }

    /// Does what a signal asks for.
    pub fn signal(&self, signal: Signal) {
        match signal {
            Signal::Stop if !self.stop.soft.is_cancelled() => {
                tracing::info!("stopping: what is in hand is finished first; a second signal interrupts it");
                self.stop.soft.cancel();
            }
            Signal::Stop => {
                tracing::warn!("stopping at once: what is in hand is interrupted");
                self.stop.hard.cancel();
            }
            Signal::CrawlNow => {
                tracing::info!("asked to crawl every app now");
                self.crawl_now.send_replace(());
            }
            Signal::Reload => {
                tracing::info!("asked to read the configuration again");
                self.reload.send_replace(());
            }
        }
    }

    /// Runs a task for as long as the process lives. If it ends before anyone asked to stop, or panics, the whole
    /// process ends as failed.
    pub fn supervise<F>(&self, name: impl Into<String>, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        self.supervise_part(name, &self.stop, task);
    }

    /// Runs a task that may also end once its own [`Stop::part`] is asked to.
    pub fn supervise_part<F>(&self, name: impl Into<String>, part: &Stop, task: F)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let guard = Guard {
            name: name.into(),
            asked: part.soft.clone(),
            process: self.stop.soft.clone(),
            died: Arc::clone(&self.died),
        };
        self.tasks.spawn(async move {
            let _guard = guard;
            task.await;
        });
    }

    /// Waits until the process is asked to stop or a supervised task dies, and then for all of them to end, but no
    /// longer than five seconds.
    pub async fn ended(&self, systemd: Systemd) -> Ending {
        self.stop.soft.cancelled().await;
        systemd.stopping();
        self.tasks.close();
        let too_late = async {
            self.stop.hard.cancelled().await;
            sleep(LAST_WORDS).await;
        };
        tokio::select! {
            biased;
            () = self.tasks.wait() => {}
            () = too_late => {}
        }
        match self.died.get() {
            Some(name) => Ending::TaskDied(name.clone()),
            None if self.tasks.is_empty() => Ending::Asked,
            None => {
                let left = self.tasks.len();
                tracing::error!(left, "tasks did not end when interrupted; leaving them");
                Ending::Abandoned(left)
            }
        }
    }
}

/// Goes down with its task, and takes the process along if nobody asked for that.
#[derive(Debug)]
struct Guard {
    name: String,
    asked: CancellationToken,
    process: CancellationToken,
    died: Arc<OnceLock<String>>,
}

impl Drop for Guard {
    fn drop(&mut self) {
        if self.asked.is_cancelled() && !thread::panicking() {
            return;
        }
        tracing::error!(task = self.name, "a task died: ending, to be started again");
        // Only the first death is a cause; the others may follow from it.
        let _first = self.died.set(std::mem::take(&mut self.name));
        self.process.cancel();
    }
}

/// One listener's view of a signal that asks for something. Requests that come while it is busy are one request.
#[derive(Debug)]
pub struct Requests(watch::Receiver<()>);

impl Requests {
    /// Waits for the next request. Nothing is lost if the future is dropped.
    pub async fn next(&mut self) {
        if self.0.changed().await.is_err() {
            // The life is gone, so nobody will ever ask.
            pending::<()>().await;
        }
    }
}

/// Words to the service manager. Without systemd (no `NOTIFY_SOCKET`) they go nowhere.
#[derive(Clone, Copy, Debug)]
pub struct Systemd {
    listens: bool,
    watchdog_interval: Option<Duration>,
}

impl Systemd {
    #[must_use]
    pub fn from_environment() -> Self {
        let listens = std::env::var_os("NOTIFY_SOCKET").is_some();
        // Half the time that systemd waits, as sd_watchdog_enabled(3) advises.
        Self { listens, watchdog_interval: sd_notify::watchdog_enabled().map(|limit| limit / 2) }
    }

    /// Started, or done with reloading: configuration and listeners stand.
    pub fn ready(self) {
        self.tell(&[NotifyState::Ready]);
    }

    /// Reads its configuration again; [`Systemd::ready`] has to follow, however that goes.
    pub fn reloading(self) {
        match NotifyState::monotonic_usec_now() {
            // systemd compares the time with that of its own signal, and wants both in one message.
            Ok(now) => self.tell(&[NotifyState::Reloading, now]),
            Err(error) => tracing::warn!(%error, "the clock that systemd goes by cannot be read"),
        }
    }

    pub fn stopping(self) {
        self.tell(&[NotifyState::Stopping]);
    }

    /// The line that `systemctl status` shows.
    pub fn status(self, line: &str) {
        // A line break would end the message and begin another.
        self.tell(&[NotifyState::Status(&line.replace(char::is_control, " "))]);
    }

    /// Says that the work goes on. Call it where work is done, not from a timer that turns while the work hangs.
    pub fn watchdog(self) {
        if self.watchdog_interval.is_some() {
            self.tell(&[NotifyState::Watchdog]);
        }
    }

    /// How long to wait at most between two [`Systemd::watchdog`]; `None` if nobody watches.
    #[must_use]
    pub fn watchdog_interval(self) -> Option<Duration> {
        self.watchdog_interval
    }

    fn tell(self, states: &[NotifyState<'_>]) {
        if self.listens
            && let Err(error) = sd_notify::notify(states)
        {
            let states: Vec<String> = states.iter().map(ToString::to_string).collect();
            tracing::warn!(%error, states = states.join(" "), "systemd does not listen");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;
    use std::process::Command;

    use tokio::time::Instant;

    use super::*;

    const QUIET: Systemd = Systemd { listens: false, watchdog_interval: None };

    #[tokio::test]
    async fn the_first_signal_asks_and_the_second_interrupts() {
        let life = Lifecycle::deaf();
        let stop = life.stop();
        assert!(!stop.soft().is_cancelled());
        life.signal(Signal::Stop);
        assert!(stop.soft().is_cancelled() && !stop.hard().is_cancelled());
        life.signal(Signal::Stop);
        assert!(stop.hard().is_cancelled());
    }

    #[tokio::test(start_paused = true)]
    async fn asking_turns_into_interrupting_after_four_seconds() {
        let life = Lifecycle::deaf();
        let asked = Instant::now();
        life.signal(Signal::Stop);
        life.stop().hard().cancelled().await;
        assert_eq!(asked.elapsed(), Duration::from_secs(4));
    }

    #[tokio::test]
    async fn a_stop_that_everyone_follows_ends_well() {
        let life = Lifecycle::deaf();
        for name in ["prod", "test"] {
            let stop = life.stop().clone();
            life.supervise(name, async move { stop.soft().cancelled().await });
        }
        life.signal(Signal::Stop);
        assert_eq!(life.ended(QUIET).await, Ending::Asked);
    }

    #[tokio::test]
    async fn a_task_that_returns_unasked_takes_the_process_down() {
        let life = Lifecycle::deaf();
        let stop = life.stop().clone();
        life.supervise("metrics", async move { stop.soft().cancelled().await });
        life.supervise("prod", async {});
        assert_eq!(life.ended(QUIET).await, Ending::TaskDied("prod".to_owned()));
    }

    #[tokio::test]
    async fn a_task_that_panics_takes_the_process_down_even_while_stopping() {
        let life = Lifecycle::deaf();
        life.supervise("prod", async { panic!("a test wants this panic") });
        assert_eq!(life.ended(QUIET).await, Ending::TaskDied("prod".to_owned()));

        let life = Lifecycle::deaf();
        let stop = life.stop().clone();
        life.supervise("prod", async move {
            stop.soft().cancelled().await;
            panic!("a test wants this panic")
        });
        life.signal(Signal::Stop);
        assert_eq!(life.ended(QUIET).await, Ending::TaskDied("prod".to_owned()));
    }

    #[tokio::test(start_paused = true)]
    async fn a_task_that_never_ends_is_left_within_five_seconds() {
        let life = Lifecycle::deaf();
        life.supervise("prod", pending());
        let asked = Instant::now();
        life.signal(Signal::Stop);
        assert_eq!(life.ended(QUIET).await, Ending::Abandoned(1));
        assert!(asked.elapsed() < Duration::from_secs(5));
    }

    #[tokio::test]
    async fn every_listener_hears_a_request_to_crawl_and_several_at_once_are_one() {
        let life = Lifecycle::deaf();
        let mut listeners = [life.crawl_requests(), life.crawl_requests()];
        life.signal(Signal::CrawlNow);
        life.signal(Signal::CrawlNow);
        for requests in &mut listeners {
            requests.next().await;
            let again = tokio::select! { biased; () = requests.next() => true, () = async {} => false };
            assert!(!again);
        }
    }

    #[tokio::test]
    async fn a_reload_is_heard_once_and_stops_nothing() {
        let life = Lifecycle::deaf();
        let mut requests = life.reload_requests();
        life.signal(Signal::Reload);
        life.signal(Signal::Reload);
        requests.next().await;
        let again = tokio::select! { biased; () = requests.next() => true, () = async {} => false };
        assert!(!again && !life.stop().soft().is_cancelled());
    }

    #[tokio::test]
    async fn a_part_that_is_asked_to_end_takes_nobody_along_unless_it_panics() {
        let life = Lifecycle::deaf();
        let (ends, panics) = (life.stop().part(), life.stop().part());
        let ended = Arc::new(tokio::sync::Notify::new());
        let (stop, word) = (ends.clone(), Arc::clone(&ended));
        life.supervise_part("removed", &ends, async move {
            stop.soft().cancelled().await;
            word.notify_one();
        });
        ends.soft().cancel();
        ended.notified().await;
        assert!(!life.stop().soft().is_cancelled());
        let stop = panics.clone();
        life.supervise_part("broken", &panics, async move {
            stop.soft().cancelled().await;
            panic!("a test wants this panic")
        });
        panics.soft().cancel();
        assert_eq!(life.ended(QUIET).await, Ending::TaskDied("broken".to_owned()));
    }

    #[tokio::test]
    async fn a_part_is_asked_to_end_with_the_process() {
        let life = Lifecycle::deaf();
        let part = life.stop().part();
        life.signal(Signal::Stop);
        assert!(part.soft().is_cancelled() && !part.hard().is_cancelled());
        life.signal(Signal::Stop);
        assert!(part.hard().is_cancelled());
    }

    /// The environment belongs to the whole process, so a child of its own speaks to the socket.
    #[test]
    fn systemd_hears_plain_lines() {
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
            .args(["--exact", "lifecycle::tests::systemd_hears_plain_lines"])
            .env(CHILD, "1")
            .env("NOTIFY_SOCKET", &path)
            .env("WATCHDOG_USEC", "60000000")
            .env_remove("WATCHDOG_PID")
            .output()
            .unwrap();
        assert!(child.status.success(), "{}", String::from_utf8_lossy(&child.stdout));
        let expected =
            ["READY=1", "RELOADING=1", "STATUS=crawling prod MAINPID=1", "WATCHDOG=1", "STOPPING=1"];
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
