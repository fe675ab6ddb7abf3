//! Receives the signals of the process.
//!
//! [`Signals::install`] installs the handlers. It starts no thread, because a command may still
//! have to change its user, which requires a single thread. Signals stay pending until
//! [`Signals::wait`] is called, in a dedicated thread.

use std::future::pending;
use std::io;

use tokio::runtime::{self, Runtime};
use tokio::signal::unix::{self, SignalKind, signal};

/// The action that a signal requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Signal {
    /// SIGTERM or SIGINT, and SIGHUP for commands.
    Stop,
    /// SIGUSR1.
    CrawlNow,
    /// SIGHUP for the service.
    Reload,
}

/// The signal that requested the stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum StopSignal {
    /// SIGHUP: the terminal was closed.
    Hangup,
    Interrupt,
    Terminate,
}

impl StopSignal {
    /// Returns the exit code of a command that this signal stopped, as shells report it: 128 and
    /// the signal's number.
    #[must_use]
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Hangup => 129,
            Self::Interrupt => 130,
            Self::Terminate => 143,
        }
    }
}

/// What runs in this process. It decides the meaning of SIGHUP and the exit code of a forced exit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// SIGHUP reloads the configuration.
    Service,
    /// SIGHUP stops the command, because its terminal is gone. A command whose parent ignores
    /// SIGHUP, as nohup(1) does, ignores it too.
    Command,
}

/// Handlers of the process's signals. A signal that arrives before [`Signals::wait`] stays pending.
#[derive(Debug)]
pub struct Signals {
    role: Role,
    /// A current-thread runtime, which starts no thread. Its only task waits for signals.
    runtime: Runtime,
    terminate: unix::Signal,
    interrupt: unix::Signal,
    crawl_now: unix::Signal,
    hangup: Option<unix::Signal>,
}

impl Signals {
    /// Installs the handlers without starting a thread. Must be called first, because until then a
    /// signal kills the process.
    pub fn install(role: Role) -> io::Result<Self> {
        let runtime = signal_runtime()?;
        let context = runtime.enter();
        let terminate = signal(SignalKind::terminate())?;
        let interrupt = signal(SignalKind::interrupt())?;
        let crawl_now = signal(SignalKind::user_defined1())?;
        let hangup = if role == Role::Command && is_hangup_ignored() {
            None
        } else {
            Some(signal(SignalKind::hangup())?)
        };
        drop(context);
        Ok(Self { role, runtime, terminate, interrupt, crawl_now, hangup })
    }

    #[must_use]
    pub fn role(&self) -> Role {
        self.role
    }

    /// Waits for the next signal and returns its action. Blocks the thread.
    pub fn wait(&mut self) -> (Signal, Option<StopSignal>) {
        let Self { role, runtime, terminate, interrupt, crawl_now, hangup } = self;
        let hung_up = async {
            match hangup {
                Some(hangup) => hangup.recv().await,
                None => pending().await,
            }
        };
        runtime.block_on(async {
            tokio::select! {
                _ = terminate.recv() => (Signal::Stop, Some(StopSignal::Terminate)),
                _ = interrupt.recv() => (Signal::Stop, Some(StopSignal::Interrupt)),
                _ = crawl_now.recv() => (Signal::CrawlNow, None),
                _ = hung_up => match role {
                    Role::Service => (Signal::Reload, None),
                    Role::Command => (Signal::Stop, Some(StopSignal::Hangup)),
                },
            }
        })
    }
}

/// Makes writes beyond the file size limit (`RLIMIT_FSIZE`) fail with an error. By default SIGXFSZ
/// kills the process. Starts no thread.
pub fn ignore_file_size_signal() -> io::Result<()> {
    let runtime = signal_runtime()?;
    let _context = runtime.enter();
    // The handler stays installed after the stream is dropped.
    let _handler = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?;
    Ok(())
}

fn signal_runtime() -> io::Result<Runtime> {
    runtime::Builder::new_current_thread().enable_io().build()
}

/// Returns whether this process has inherited an ignored SIGHUP. proc_pid_status(5) documents the
/// mask of ignored signals.
fn is_hangup_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let mask = mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & 1 != 0)
}

#[cfg(test)]
mod tests {
    use rustix::process::{Pid, Signal as Number, getpid, kill_process};

    use super::*;

    /// Handlers belong to the process, so one test covers all signals. The tests of the program
    /// cover the file size limit.
    #[test]
    fn signals_that_arrive_before_the_first_wait_are_kept_for_it() {
        let mut signals = Signals::install(Role::Command).unwrap();
        let me: Pid = getpid();
        for (number, expected) in [
            (Number::USR1, (Signal::CrawlNow, None)),
            (Number::TERM, (Signal::Stop, Some(StopSignal::Terminate))),
            (Number::INT, (Signal::Stop, Some(StopSignal::Interrupt))),
        ] {
            kill_process(me, number).unwrap();
            assert_eq!(signals.wait(), expected);
        }
        signals.role = Role::Service;
        signals.hangup = signals.hangup.or_else(|| {
            let _context = signals.runtime.enter();
            Some(signal(SignalKind::hangup()).unwrap())
        });
        kill_process(me, Number::HUP).unwrap();
        assert_eq!(signals.wait(), (Signal::Reload, None));
    }

    #[test]
    fn a_command_that_a_signal_stops_exits_as_shells_report_it() {
        let codes =
            [StopSignal::Hangup, StopSignal::Interrupt, StopSignal::Terminate].map(StopSignal::exit_code);
        assert_eq!(codes, [129, 130, 143]);
    }
}
