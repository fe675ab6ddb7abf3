//! `migrate`: applies the database migrations, or prints their SQL.

use clap::Args;

use super::exit::{Exit, Failure};
use super::output::{Output, message, to_stdout};
use super::setup::{Setup, database_location};
use crate::model::with_causes;
use crate::store::{DatabaseLocation, Store, StoreError};

#[derive(Debug, Args)]
pub(super) struct Migrate {
    /// Print the SQL of the pending migrations, for a database administrator, and change nothing
    #[arg(long, conflicts_with = "json")]
    print: bool,
    #[command(flatten)]
    pub(super) output: Output,
}

impl Migrate {
    pub(super) async fn run(self, setup: &Setup) -> Result<Exit, Failure> {
        let config = setup.config_for_command()?;
        let location = database_location(&config)?;
        if self.print {
            let sql = pending_sql(setup, &location).await?;
            to_stdout(|out| write!(out, "{sql}"))?;
            return Ok(Exit::Done);
        }
        let store = setup.close_at_end(Store::open(&location).await?);
        store.migrate().await?;
        let result = serde_json::json!({ "database": location.to_string(), "up_to_date": true });
        self.output.print(Exit::Done, result, |out| writeln!(out, "{location}: the tables are up to date"))
    }
}

/// Returns the SQL of the pending migrations. For a database that cannot be opened, returns the SQL
/// of all migrations, because the administrator may create the database with it.
async fn pending_sql(setup: &Setup, location: &DatabaseLocation) -> Result<String, Failure> {
    match Store::open_to_read(location).await {
        Ok(store) => Ok(setup.close_at_end(store).pending_sql().await?),
        Err(StoreError::Absent { .. }) => Ok(Store::migration_sql(location)),
        Err(error @ StoreError::Open { .. }) => {
            let why = with_causes(&error);
            message(format_args!(
                "the SQL is for a database without tables, because this one could not be read: \
                 {why}"
            ));
            Ok(Store::migration_sql(location))
        }
        Err(error) => Err(error.into()),
    }
}
