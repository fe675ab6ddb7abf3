//! `check`: checks the configuration, the database and the credentials, and prints how to solve
//! each problem.

use std::time::Duration;

use clap::Args;

use super::checks::{self, Finding};
use super::exit::{Exit, Failure};
use super::output::Output;
use super::probe;
use super::setup::Setup;
use crate::config::{Config, ConfigProblems, Environment, Setting};

#[derive(Debug, Args)]
pub(super) struct Check {
    /// Check the configuration file alone: no environment, no database, no API
    #[arg(long)]
    no_environment: bool,
    /// Print the configuration in effect and where each value comes from, with secrets masked
    #[arg(long)]
    show_config: bool,
    /// After the checks, test undocumented behaviour of the API with read-only requests, and print
    /// a table of the results, without group ids and secrets. The results of the checks go to
    /// stderr
    #[arg(long, conflicts_with_all = ["no_environment", "show_config"])]
    probe: bool,
    /// Time between the two requests with the same `Next`
    #[arg(long, value_name = "TIME", requires = "probe", hide = true, default_value = "1m",
        value_parser = humantime::parse_duration)]
    probe_wait: Duration,
    #[command(flatten)]
    pub(super) output: Output,
}

impl Check {
    pub(super) async fn run(self, setup: &Setup) -> Result<Exit, Failure> {
        if self.show_config {
            let settings = self.read(setup)?.settings;
            let shown: Vec<_> = settings.iter().map(setting_as_json).collect();
            return self.output.print(Exit::Done, shown, |out| {
                settings.iter().try_for_each(|setting| writeln!(out, "{setting}"))
            });
        }
        let findings = match self.read(setup) {
            Ok(config) if self.no_environment => vec![checks::of_config(setup, &config)?],
            Ok(config) if self.probe => {
                return probe::run(setup, &config, self.probe_wait, self.output).await;
            }
            Ok(config) => checks::run_checks(setup, &config).await?.0,
            Err(failure) => of_problems(failure)?,
        };
        let exit = checks::worst(&findings);
        let error = checks::error_of(&findings);
        self.output.print_with_error_in_text((exit, error), &findings, |out| checks::print(out, &findings))
    }

    fn read(&self, setup: &Setup) -> Result<Config, Failure> {
        if self.no_environment { setup.read(&Environment::unknown()) } else { setup.config_for_command() }
    }
}

fn setting_as_json(Setting { key, value, origin }: &Setting) -> serde_json::Value {
    serde_json::json!({ "key": key, "value": value, "origin": origin.to_string() })
}

/// Returns a finding for each problem of the configuration. Returns any other failure unchanged.
fn of_problems(failure: Failure) -> Result<Vec<Finding>, Failure> {
    let Some(problems) = failure.error.downcast_ref::<ConfigProblems>() else { return Err(failure) };
    let finding =
        |problem: &crate::config::Problem| Finding::new(failure.exit, "configuration", problem.to_string());
    Ok(problems.problems().iter().map(finding).collect())
}
