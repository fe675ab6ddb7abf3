//! `restore`: replaces an SQLite database with a backup.

use std::fs::File;
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::backup::describe;
use super::exit::{Exit, Failure};
use super::output::Output;
use super::setup::{Setup, database_location};
use crate::model::SdkAppId;
use crate::store::{DatabaseLocation, Store};

#[derive(Debug, Args)]
pub(super) struct Restore {
    /// The backup
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Do not keep the database that is replaced
    #[arg(long)]
    discard: bool,
    #[arg(skip)]
    opened: Option<File>,
    #[command(flatten)]
    pub(super) output: Output,
}

impl Restore {
    /// Opens the backup while the process may still be root. The command continues as the owner of
    /// the database, who may not be permitted to read it.
    pub(super) fn open(&mut self) -> Result<(), Failure> {
        let opened = File::open(&self.file).map_err(|error| {
            let error = anyhow::Error::from(error).context(format!("cannot read {}", self.file.display()));
            Failure::new(Exit::Failed, error)
        });
        self.opened = Some(opened?);
        Ok(())
    }

    pub(super) async fn run(mut self, setup: &Setup) -> Result<Exit, Failure> {
        let config = setup.config_for_command()?;
        let location = database_location(&config)?;
        let database = match &location {
            DatabaseLocation::Sqlite(path) => path,
            DatabaseLocation::Postgres(database) => return Err(database.backup_by_server().into()),
        };
        if self.opened.is_none() {
            self.open()?;
        }
        let Some(backup) = self.opened.take() else { return Ok(Exit::Failed) };
        let configured: Vec<SdkAppId> = config.apps.iter().map(|app| app.sdk_app_id).collect();
        let now = setup.clock.now();
        let restored =
            Store::restore((&self.file, backup), database, &configured, !self.discard, now).await?;
        let file = self.file.display();
        let kept = restored.kept.as_ref().map(|kept| kept.display().to_string());
        let result = json!({
            "database": location.to_string(), "file": file.to_string(), "bytes": restored.bytes,
            "contents": restored.contents, "kept": kept,
        });
        self.output.print(Exit::Done, result, |out| {
            write!(out, "{location}: restored from {file}: ")?;
            describe(out, &restored.contents)?;
            match kept {
                Some(kept) => writeln!(out, "the replaced database is kept as {kept}"),
                None => Ok(()),
            }
        })
    }
}
