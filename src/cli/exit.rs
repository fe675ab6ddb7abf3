//! Exit codes, and errors with their causes.

use std::process::ExitCode;

use crate::config::{ConfigProblems, NoConfigFile, SecretFileError};
use crate::crawl::{CrawlError, CrawlReport, DryRun};
use crate::model::{CrawlStatus, Deletions, ReasonCode};
use crate::store::{Reason, StoreError};

/// An exit code of the program.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    Done,
    Failed,
    Usage,
    /// A crawl is complete, but its deletions wait for approval.
    Withheld,
    /// A crawl is incomplete.
    Incomplete,
    /// The app is being crawled, or the database is unreachable. A later attempt may succeed.
    Busy,
    /// The configuration or the credentials are wrong and must be changed.
    Config,
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
        }
    }

    /// Returns the exit code of a command for several apps: the most severe one.
    pub(super) fn worst(exits: impl IntoIterator<Item = Self>) -> Self {
        let rank = |exit: &Self| match exit {
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

    pub(super) fn of_crawl(outcome: &Result<CrawlReport, CrawlError>) -> Self {
        match outcome {
            Ok(report) => Self::of_ended(report.status, report.deletions, report.reason.as_ref()),
            Err(error) => Self::of_crawl_error(error),
        }
    }

    pub(super) fn of_dry_run(outcome: &Result<DryRun, CrawlError>) -> Self {
        match outcome {
            Ok(dry_run) => Self::of_ended(dry_run.status, dry_run.deletions, dry_run.reason.as_ref()),
            Err(error) => Self::of_crawl_error(error),
        }
    }

    fn of_ended(status: CrawlStatus, deletions: Option<Deletions>, reason: Option<&Reason>) -> Self {
        match status {
            CrawlStatus::Complete if deletions == Some(Deletions::Withheld) => Self::Withheld,
            // The user stopped it.
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
            CrawlError::Served { .. } | CrawlError::Stopped => Self::Failed,
        }
    }

    fn of_store(error: &StoreError) -> Self {
        match error {
            StoreError::Absent { .. } => Self::Busy,
            error if error.is_passing() => Self::Busy,
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

/// Why a command failed, and its exit code.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    pub(super) error: anyhow::Error,
}

impl Failure {
    pub(super) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Self {
        Self { exit, error: error.into() }
    }

    /// Prints the error and its causes, each on a line.
    pub(super) fn print(&self) {
        let causes = self.causes();
        let Some((error, because)) = causes.split_first() else { return };
        eprintln!("error: {error}");
        because.iter().for_each(|cause| eprintln!("  because: {cause}"));
    }

    /// Returns the messages of the error and its causes.
    pub(super) fn causes(&self) -> Vec<String> {
        let mut causes: Vec<String> = Vec::new();
        for cause in self.error.chain().map(ToString::to_string) {
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
    }
}
