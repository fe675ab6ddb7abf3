//! The command line: what can be asked for, and how it ends. Results go to stdout, everything else to stderr.

#![expect(clippy::print_stdout, clippy::print_stderr, reason = "printing is what this module is for")]

mod approve;
mod check;
mod crawl;
mod demo;
mod exit;
mod forget;
mod migrate;
mod progress;
mod run;
mod setup;
mod simulate;
mod status;
mod text;
mod undelete;
mod usersig;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use self::exit::{Exit, Failure};
use self::setup::Setup;

/// Keeps the groups of Tencent Cloud IM apps in SQL.
#[derive(Debug, Parser)]
#[command(name = "tim-group-sync", version, propagate_version = true, max_term_width = 100)]
struct Cli {
    /// Configuration file. Without it: TIM_GROUP_SYNC_CONFIG, then $XDG_CONFIG_HOME/tim-group-sync/config.toml (not for
    /// root), then /etc/tim-group-sync/config.toml
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Show everything with a simulated API: no account, no network, no configuration
    Demo(demo::Demo),
    /// Crawl every app on its schedule, until stopped
    Run(run::Run),
    /// Crawl every app once, now
    #[command(alias = "sync")]
    Crawl(crawl::CrawlArgs),
    /// Apply the deletions that a crawl withheld
    Approve(approve::Approve),
    /// Make live again what a crawl marked deleted
    Undelete(undelete::Undelete),
    /// Remove an app that is no longer configured
    Forget(forget::Forget),
    /// Check the configuration, the database and the credentials
    Check(check::Check),
    /// Show each app's groups and how its last crawls went
    Status(status::Status),
    /// Print a UserSig for the vendor's online API debugger
    Usersig(usersig::PrintUserSig),
    /// Serve a simulated API
    Simulate(simulate::Simulate),
    /// Bring the database's tables up to date
    Migrate(migrate::Migrate),
}

/// The program.
#[must_use]
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; clap knows where each goes.
            let _ = error.print();
            return if error.use_stderr() { Exit::Usage.into() } else { Exit::Done.into() };
        }
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("error: cannot start the runtime: {error}");
            return Exit::Failed.into();
        }
    };
    let exit = match runtime.block_on(cli.run()) {
        Ok(exit) => exit,
        Err(failure) => {
            failure.print();
            failure.exit
        }
    };
    // A name look-up under way would keep the process for as long as it takes.
    runtime.shutdown_background();
    exit.into()
}

impl Cli {
    async fn run(self) -> Result<Exit, Failure> {
        let setup = Setup::new(self.config);
        let ended = self.command.run(&setup).await;
        setup.close_databases().await;
        ended
    }
}

impl Command {
    async fn run(self, setup: &Setup) -> Result<Exit, Failure> {
        match self {
            Self::Demo(demo) => demo.run().await,
            Self::Run(run) => run.run(setup).await,
            Self::Crawl(crawl) => crawl.run(setup).await,
            Self::Approve(approve) => approve.run(setup).await,
            Self::Undelete(undelete) => undelete.run(setup).await,
            Self::Forget(forget) => forget.run(setup).await,
            Self::Check(check) => check.run(setup).await,
            Self::Status(status) => status.run(setup).await,
            Self::Usersig(usersig) => usersig.run(setup),
            Self::Simulate(simulate) => simulate.run().await,
            Self::Migrate(migrate) => migrate.run(setup).await,
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
