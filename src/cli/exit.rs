//! Exit codes, and errors with their causes.

use std::process::ExitCode;

use tracing::{Level, error};

use crate::config::{ConfigProblems, NoConfigFile, SecretFileError};
use crate::crawl::{CrawlError, CrawlReport, DryRun};
use crate::escape::one_line;
use crate::model::{CrawlStatus, Deletions, ReasonCode};
use crate::signals::StopSignal;
use crate::store::{Reason, StoreError};
use crate::telemetry;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Done,
    Failed,
    Usage,
    /// A crawl is complete, but its deletions wait for approval.
    Withheld,
    /// A crawl is incomplete.
    Incomplete,
    /// Another process is crawling the app, or the database is unreachable. A later attempt may
    /// succeed.
    Busy,
    /// The configuration or the credentials are wrong and must be changed.
    Config,
    /// A signal stopped the command.
    Stopped(StopSignal),
}

impl Exit {
    pub(super) fn code(self) -> u8 {
        match self {
            Self::Done => 0,
            Self::Failed => 1,
            Self::Usage => 2,
            Self::Withheld => 3,
            Self::Incomplete => 4,
            Self::Busy => 75,
            Self::Config => 78,
            Self::Stopped(signal) => signal.exit_code(),
        }
    }

    /// Returns the exit code of a command for several apps: the most severe one.
    pub(super) fn worst(exits: impl IntoIterator<Item = Self>) -> Self {
        let rank = |exit: &Self| match exit {
            Self::Stopped(_) => 7,
            Self::Config => 6,
            Self::Failed => 5,
            Self::Incomplete => 4,
            Self::Busy => 3,
            Self::Withheld => 2,
            Self::Usage => 1,
            Self::Done => 0,
        };
        exits.into_iter().max_by_key(rank).unwrap_or(Self::Done)
    }

    pub(super) fn of_crawl(report: &CrawlReport) -> Self {
        Self::of_ended(report.status, report.deletions, report.reason.as_ref())
    }

    pub(super) fn of_dry_run(dry_run: &DryRun) -> Self {
        Self::of_ended(dry_run.status, dry_run.deletions, dry_run.reason.as_ref())
    }

    fn of_ended(status: CrawlStatus, deletions: Option<Deletions>, reason: Option<&Reason>) -> Self {
        match status {
            CrawlStatus::Complete if deletions == Some(Deletions::Withheld) => Self::Withheld,
            // `crawl` replaces the exit code of a cancelled crawl with that of the signal.
            CrawlStatus::Complete | CrawlStatus::Cancelled => Self::Done,
            CrawlStatus::Incomplete => Self::Incomplete,
            _ if reason.is_some_and(|reason| reason.code == ReasonCode::Refused) => Self::Config,
            _ => Self::Failed,
        }
    }

    fn of_crawl_error(error: &CrawlError) -> Self {
        match error {
            CrawlError::Busy { .. } => Self::Busy,
            CrawlError::Store(error) => Self::of_store(error),
            CrawlError::TickAlreadyCrawled { .. } | CrawlError::Stopped => Self::Failed,
        }
    }

    fn of_store(error: &StoreError) -> Self {
        match error {
            StoreError::Absent { .. } | StoreError::Missing { .. } | StoreError::Displaced { .. } => {
                Self::Busy
            }
            StoreError::BackupByServer { .. } => Self::Usage,
            error if error.is_transient() => Self::Busy,
            error if error.is_configuration() => Self::Config,
            _ => Self::Failed,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        exit.code().into()
    }
}

#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    pub(super) error: anyhow::Error,
}

impl Failure {
    pub(super) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into() }
    }

    /// Prints the error and its causes, each on a line. In the journal each line has the priority
    /// of an error.
    pub(super) fn print(&self) {
        let text = format!("error: {}", self.causes().join("\n  because: "));
        telemetry::write_message(Level::ERROR, &text);
    }

    /// Logs the failure of the service as an error, or prints it if logging has not started.
    pub(super) fn log(&self) {
        if telemetry::has_started() {
            error!("{}", self.causes().join(": "));
        } else {
            self.print();
        }
    }

    /// Returns the messages of the error and its causes. Each is one line, except configuration
    /// errors, which have a line for each problem.
    pub(super) fn causes(&self) -> Vec<String> {
        let mut causes: Vec<String> = Vec::new();
        let message = |cause: &(dyn std::error::Error + 'static)| {
            let text = cause.to_string();
            let has_lines = cause.is::<ConfigProblems>() || cause.is::<NoConfigFile>();
            if has_lines { text } else { one_line(&text).into_owned() }
        };
        for cause in self.error.chain().map(message) {
            // Some errors already end with the message of their cause.
            if !causes.last().is_some_and(|message| message.ends_with(&cause)) {
                causes.push(cause);
            }
        }
        causes
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::new(Exit::of_store(&error), error)
    }
}

impl From<CrawlError> for Failure {
    fn from(error: CrawlError) -> Self {
        Self::new(Exit::of_crawl_error(&error), error)
    }
}

impl From<ConfigProblems> for Failure {
    fn from(problems: ConfigProblems) -> Self {
        Self::new(Exit::Config, problems)
    }
}

impl From<NoConfigFile> for Failure {
    fn from(error: NoConfigFile) -> Self {
        Self::new(Exit::Config, error)
    }
}

impl From<SecretFileError> for Failure {
    fn from(error: SecretFileError) -> Self {
        Self::new(Exit::Config, error)
    }
}

impl From<anyhow::Error> for Failure {
    fn from(error: anyhow::Error) -> Self {
        Self { exit: Exit::Failed, error }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::new(Exit::Failed, error)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_exit_code_for_several_apps_is_the_most_severe_one() {
        assert_eq!(Exit::worst([]), Exit::Done);
        assert_eq!(Exit::worst([Exit::Done, Exit::Withheld, Exit::Busy]), Exit::Busy);
        assert_eq!(Exit::worst([Exit::Incomplete, Exit::Busy]), Exit::Incomplete);
        assert_eq!(Exit::worst([Exit::Incomplete, Exit::Failed, Exit::Config]), Exit::Config);
        let stopped = Exit::Stopped(StopSignal::Terminate);
        assert_eq!(Exit::worst([Exit::Config, stopped]), stopped);
    }
}
