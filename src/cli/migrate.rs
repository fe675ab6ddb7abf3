//! `migrate`: the database's tables, now and by hand.

use clap::Args;

use super::exit::{Exit, Failure};
use super::setup::{Setup, location};
use crate::store::Store;

#[derive(Debug, Args)]
pub(super) struct Migrate {
    /// Print the SQL for a database administrator instead, and change nothing
    #[arg(long)]
    print: bool,
    /// Print the result as JSON
    #[arg(long, conflicts_with = "print")]
    json: bool,
}

impl Migrate {
    pub(super) async fn run(self, setup: &Setup) -> Result<Exit, Failure> {
        let config = setup.config_for_command()?;
        let location = location(&config)?;
        if self.print {
            print!("{}", Store::migration_sql(&location));
            return Ok(Exit::Done);
        }
        let store = setup.opened(Store::open(&location).await?);
        store.migrate().await?;
        if self.json {
            println!("{}", serde_json::json!({ "database": location.to_string(), "up_to_date": true }));
        } else {
            println!("{location}: the tables are up to date");
        }
        Ok(Exit::Done)
    }
}
