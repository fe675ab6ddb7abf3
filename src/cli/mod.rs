//! The command line. Results go to stdout, everything else to stderr.

mod approve;
mod backup;
mod check;
mod checks;
mod completions;
mod copy;
mod crawl;
mod demo;
mod empty_database;
mod events;
mod exit;
mod forget;
mod hidden;
mod init;
mod man;
mod migrate;
mod notify;
mod output;
mod owner;
mod probe;
mod progress;
mod restore;
mod run;
mod service;
mod setup;
mod simulate;
mod status;
mod text;
mod undelete;
mod usersig;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};
use tracing::Level;

use self::exit::{Exit, Failure};
use self::output::Output;
use self::setup::Setup;
use crate::lifecycle::Lifecycle;
use crate::signals::{Role, Signals, ignore_file_size_signal};
use crate::telemetry;

/// Keeps the groups of Tencent Cloud IM apps in an SQL database.
#[derive(Debug, Parser)]
#[command(name = "tim-group-sync", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    /// Configuration file. Without it: TIM_GROUP_SYNC_CONFIG, then
    /// $XDG_CONFIG_HOME/tim-group-sync/config.toml (not for root), then
    /// /etc/tim-group-sync/config.toml
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Crawl a simulated API; needs no account, no network and no configuration
    Demo(demo::Demo),
    /// Write a configuration and a key file from options or answers, and check them
    Init(init::Init),
    /// Crawl every app on its schedule, until stopped
    Run(run::Run),
    /// Crawl every app once, now
    #[command(alias = "sync")]
    Crawl(crawl::CrawlArgs),
    /// Apply the deletions that a crawl withheld
    Approve(approve::Approve),
    /// Undo the deletions of a crawl
    Undelete(undelete::Undelete),
    /// Remove an app that is no longer configured
    Forget(forget::Forget),
    /// Write a checked copy of an SQLite database, also while the service runs
    Backup(backup::Backup),
    /// Replace an SQLite database with a backup
    Restore(restore::Restore),
    /// Copy all rows into an empty database, from SQLite to PostgreSQL or back
    Copy(copy::Copy),
    /// Check the configuration, the database and the credentials
    Check(check::Check),
    /// Show the groups and the last crawls of each app
    Status(status::Status),
    /// Print the changes of an app's groups after a cursor
    Events(events::Events),
    /// Send a test notification to the receiver of [notify]
    Notify(notify::Notify),
    /// Print a UserSig for the vendor's online API debugger
    Usersig(usersig::PrintUserSig),
    /// Serve a simulated API
    Simulate(simulate::Simulate),
    /// Create the database's tables, or bring them up to date
    Migrate(migrate::Migrate),
    /// Print the completions of a shell
    Completions(completions::Completions),
    /// Print the manual page
    Man(man::Man),
}

/// Parses the command line and runs the command.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            if error.use_stderr() && telemetry::is_journal() {
                telemetry::write_message(Level::ERROR, &error.to_string());
            } else {
                // clap prints help and version to stdout, errors to stderr.
                let _ = error.print();
            }
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    let (output, role) = (cli.command.output(), cli.command.role());
    // The handlers are installed first, because until then a signal kills the process.
    let installed = ignore_file_size_signal().and_then(|()| role.map(Signals::install).transpose());
    let ended = installed.map_err(cannot_handle_signals).and_then(|signals| cli.run(signals));
    let exit = match ended {
        Ok(exit) => exit,
        Err(failure) => {
            if role == Some(Role::Service) {
                failure.log();
            } else {
                output.print_failure(&failure);
            }
            failure.exit
        }
    };
    exit.into()
}

fn cannot_handle_signals(error: std::io::Error) -> Failure {
    Failure::new(Exit::Failed, anyhow::Error::from(error).context("cannot install the signal handlers"))
}

impl Cli {
    fn run(mut self, signals: Option<Signals>) -> Result<Exit, Failure> {
        let setup = Setup::new(self.config);
        // Runs before the runtime starts its threads, because the user can be changed only while
        // there is one thread.
        if let Command::Init(init) = &mut self.command {
            init.write(&setup)?;
        }
        if let Command::Restore(restore) = &mut self.command {
            restore.open()?;
        }
        if let Command::Copy(copy) = &mut self.command {
            copy.read_password()?;
        }
        if self.command.needs_database() {
            setup.become_owner()?;
        }
        if let Command::Copy(copy) = &self.command {
            copy.become_owner()?;
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .enable_all()
            .build()
            .map_err(|error| anyhow::Error::from(error).context("cannot start the runtime"))?;
        let ended = runtime.block_on(async {
            let ended = self.command.run(&setup, signals).await;
            setup.close_databases().await;
            ended
        });
        // Does not wait for blocking tasks, because a DNS lookup could delay the exit.
        runtime.shutdown_background();
        ended
    }
}

impl Command {
    /// Runs the command. `signals` are those of its [`Self::role`].
    async fn run(self, setup: &Setup, signals: Option<Signals>) -> Result<Exit, Failure> {
        let lifecycle = || {
            let signals = signals.expect("the handlers are installed for every command with a role");
            Lifecycle::install(signals).map_err(cannot_handle_signals)
        };
        match self {
            Self::Demo(demo) => demo.run(&lifecycle()?).await,
            Self::Init(init) => init.check(setup).await,
            Self::Run(run) => run.run(setup, &lifecycle()?).await,
            Self::Crawl(crawl) => crawl.run(setup, &lifecycle()?).await,
            Self::Approve(approve) => approve.run(setup).await,
            Self::Undelete(undelete) => undelete.run(setup).await,
            Self::Forget(forget) => forget.run(setup).await,
            Self::Backup(backup) => backup.run(setup).await,
            Self::Restore(restore) => restore.run(setup).await,
            Self::Copy(copy) => copy.run(setup).await,
            Self::Check(check) => check.run(setup).await,
            Self::Status(status) => status.run(setup).await,
            Self::Events(events) => events.run(setup).await,
            Self::Notify(notify) => notify.run(setup).await,
            Self::Usersig(usersig) => usersig.run(setup),
            Self::Simulate(simulate) => simulate.run(&lifecycle()?).await,
            Self::Migrate(migrate) => migrate.run(setup).await,
            Self::Completions(completions) => completions.run(),
            Self::Man(man) => man.run(),
        }
    }

    /// Returns the role of a command that handles signals. Other commands keep the default actions,
    /// so that Ctrl-C also works while they wait for an answer on the terminal.
    fn role(&self) -> Option<Role> {
        match self {
            Self::Run(_) => Some(Role::Service),
            Self::Crawl(_) | Self::Demo(_) | Self::Simulate(_) => Some(Role::Command),
            _ => None,
        }
    }

    /// Returns true if the command uses the configured database.
    fn needs_database(&self) -> bool {
        match self {
            Self::Init(_)
            | Self::Run(_)
            | Self::Crawl(_)
            | Self::Approve(_)
            | Self::Undelete(_)
            | Self::Forget(_)
            | Self::Backup(_)
            | Self::Restore(_)
            | Self::Copy(_)
            | Self::Check(_)
            | Self::Status(_)
            | Self::Events(_)
            | Self::Migrate(_) => true,
            Self::Demo(_)
            | Self::Notify(_)
            | Self::Usersig(_)
            | Self::Simulate(_)
            | Self::Completions(_)
            | Self::Man(_) => false,
        }
    }

    /// Returns how to print the command's result. Commands without `--json` print text.
    fn output(&self) -> Output {
        match self {
            Self::Init(init) => init.output,
            Self::Crawl(crawl) => crawl.output,
            Self::Approve(approve) => approve.output,
            Self::Undelete(undelete) => undelete.output,
            Self::Forget(forget) => forget.output,
            Self::Backup(backup) => backup.output,
            Self::Restore(restore) => restore.output,
            Self::Copy(copy) => copy.output,
            Self::Check(check) => check.output,
            Self::Status(status) => status.output,
            Self::Notify(notify) => notify.output,
            Self::Usersig(usersig) => usersig.output,
            Self::Migrate(migrate) => migrate.output,
            Self::Demo(_)
            | Self::Run(_)
            | Self::Events(_)
            | Self::Simulate(_)
            | Self::Completions(_)
            | Self::Man(_) => Output::default(),
        }
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_definition_of_the_command_line_is_consistent() {
        Cli::command().debug_assert();
    }
}
