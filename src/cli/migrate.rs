//! `migrate`: applies the migrations of the database, or prints them.

use clap::Args;

use super::exit::{Exit, Failure};
use super::output::{Output, to_stdout};
use super::setup::{Setup, location};
use crate::store::Store;

#[derive(Debug, Args)]
pub(super) struct Migrate {
    /// Print the SQL for a database administrator instead, and change nothing
    #[arg(long, conflicts_with = "json")]
    print: bool,
    #[command(flatten)]
    pub(super) output: Output,
}

impl Migrate {
    pub(super) async fn run(self, setup: &Setup) -> Result<Exit, Failure> {
        let config = setup.config_for_command()?;
        let location = location(&config)?;
        if self.print {
            to_stdout(|out| write!(out, "{}", Store::migration_sql(&location)))?;
            return Ok(Exit::Done);
        }
        let store = setup.opened(Store::open(&location).await?);
        store.migrate().await?;
        let result = serde_json::json!({ "database": location.to_string(), "up_to_date": true });
        self.output.print(Exit::Done, result, |out| writeln!(out, "{location}: the tables are up to date"))
    }
}
