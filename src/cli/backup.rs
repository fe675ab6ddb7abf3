//! `backup`: writes a checked copy of an SQLite database. The service may be running.

use std::io::{self, Write};
use std::path::PathBuf;

use clap::Args;
use serde_json::json;

use super::exit::{Exit, Failure};
use super::output::Output;
use super::setup::{Setup, database_location};
use super::text;
use crate::store::{Contents, DatabaseLocation, Store};

#[derive(Debug, Args)]
pub(super) struct Backup {
    /// The file to write. It appears when it is complete and checked
    #[arg(value_name = "FILE")]
    file: PathBuf,
    /// Replace FILE if it is an earlier backup
    #[arg(long)]
    replace: bool,
    #[command(flatten)]
    pub(super) output: Output,
}

impl Backup {
    pub(super) async fn run(self, setup: &Setup) -> Result<Exit, Failure> {
        let config = setup.config_for_command()?;
        let location = database_location(&config)?;
        if let DatabaseLocation::Postgres(database) = &location {
            return Err(database.backup_by_server().into());
        }
        let store = setup.close_at_end(Store::open_to_read(&location).await?);
        let made = store.backup(&self.file, self.replace).await?;
        let file = self.file.display();
        let result = json!({
            "database": location.to_string(), "file": file.to_string(), "bytes": made.bytes, "contents": made.contents,
        });
        self.output.print(Exit::Done, result, |out| {
            write!(out, "{location}: backed up to {file}, {}: ", text::count(made.bytes, "byte"))?;
            describe(out, &made.contents)
        })
    }
}

/// Writes the apps and the last crawl of a backup, and a line break.
pub(super) fn describe(out: &mut dyn Write, contents: &Contents) -> io::Result<()> {
    let apps: Vec<String> = contents
        .apps
        .iter()
        .map(|app| format!("{} with {}", app.name, text::count(app.live_groups, "live group")))
        .collect();
    let apps = if apps.is_empty() { "no app".to_owned() } else { apps.join(", ") };
    match contents.last_crawl {
        Some((crawl, ended)) => {
            writeln!(out, "{apps}; the last crawl, {crawl}, ended at {}", text::time(ended))
        }
        None => writeln!(out, "{apps}; no crawl has ended"),
    }
}
