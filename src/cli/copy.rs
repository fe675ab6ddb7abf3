//! `copy`: copies the entire history into an empty database of either engine.

use std::io::{self, IsTerminal as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;
use tokio::time::Instant;
use tracing::warn;

use super::exit::{Exit, Failure};
use super::output::{Output, message};
use super::owner::become_owner;
use super::setup::{Setup, database_location};
use super::text;
use crate::config::{self, Config, PasswordRead, SecretFile};
use crate::store::{CopyProgress, DatabaseLocation, Lease, Store};

/// Interval between two lines of progress if stderr is not a terminal.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

#[derive(Debug, Args)]
pub(super) struct Copy {
    /// The empty database: sqlite:PATH of a file that does not exist yet, or
    /// postgres://USER@HOST:PORT/DATABASE
    #[arg(long, value_name = "URL")]
    to: String,
    /// File with the password of a PostgreSQL server. Without it: PGPASSWORD or ~/.pgpass
    #[arg(long, value_name = "FILE")]
    password_file: Option<PathBuf>,
    /// The password of the target, as [`Self::read_password`] has read it.
    #[arg(skip)]
    password: Option<PasswordRead>,
    #[command(flatten)]
    pub(super) output: Output,
}

impl Copy {
    /// Parses the URL of the target. It must not contain a password, because other users can read
    /// the command line.
    fn target(&self) -> Result<config::DatabaseUrl, Failure> {
        let refused = |why: String| Failure::new(Exit::Usage, anyhow::anyhow!("the URL of --to {why}"));
        let folder = std::env::current_dir()?;
        let url =
            config::DatabaseUrl::parse(&self.to, &folder).map_err(|mistake| refused(mistake.to_string()))?;
        match &url {
            config::DatabaseUrl::Postgres(url) if url.has_password() => Err(refused(
                "must not contain a password: put it into a file and name that with --password-file"
                    .to_owned(),
            )),
            _ => Ok(url),
        }
    }

    /// Reads the password of a PostgreSQL server from its file. Must be called before the user is
    /// changed: only root can read a private file of root.
    pub(super) fn read_password(&mut self) -> Result<(), Failure> {
        let Some(path) = self.password_file.clone() else { return Ok(()) };
        if let config::DatabaseUrl::Postgres(_) = self.target()? {
            let file = SecretFile { path, is_credential: false };
            let read = file.read_password("--password-file");
            self.password = Some(read.map_err(|error| Failure::new(Exit::Config, error))?);
        }
        Ok(())
    }

    /// If the user is root and the target is a file, changes to the owner of its folder.
    pub(super) fn become_owner(&self) -> Result<(), Failure> {
        match self.target()? {
            config::DatabaseUrl::Sqlite(path) => become_owner(&path),
            config::DatabaseUrl::Postgres(_) => Ok(()),
        }
    }

    pub(super) async fn run(self, setup: &Setup) -> Result<Exit, Failure> {
        let config = setup.config_for_command()?;
        let source = database_location(&config)?;
        let database =
            config::Database { url: self.target()?, password_file: None, ..config.database.clone() };
        let mut target = database_location(&Config { database, ..config.clone() })?;
        if let (DatabaseLocation::Postgres(server), Some(read)) = (&mut target, &self.password) {
            read.warnings.iter().for_each(|warning| warn!("{warning}"));
            let password = read.password.clone();
            *server = server.clone().password_from(Arc::new(move || Ok(password.clone())));
        }
        let store = setup.close_at_end(Store::open_existing(&source).await?);
        store.check_migrated().await?;
        // While the leases are held, no crawl can change the rows that are read.
        let waiting =
            |app| message(format_args!("SDKAppID {app} is being crawled; waiting for the crawl to finish"));
        let leases = store.lease_all(waiting).await?;
        let mut display = ProgressDisplay::new();
        let copying = Box::pin(store.copy_to(&target, |progress| display.show(progress)));
        let copied = Lease::run_while_all_held(&leases, copying).await.flatten();
        display.bar.finish_and_clear();
        for lease in leases {
            lease.release_unused().await;
        }
        let copied = copied?;
        let rows: u64 = copied.tables.iter().map(|table| table.rows).sum();
        let seconds = copied.took.as_secs_f64();
        let result = json!({
            "from": source.to_string(), "to": target.to_string(), "rows": rows, "tables": copied.tables,
            "seconds": seconds,
        });
        self.output.print(Exit::Done, result, |out| {
            writeln!(
                out,
                "{source}: {} copied to {target} and compared, in {seconds:.1} s",
                text::count(rows, "row")
            )?;
            writeln!(
                out,
                "later crawls still write to {source}: set database.url to the copy, and restart \
                 the service"
            )
        })
    }
}

/// The progress of a copy: a bar on a terminal, a line every [`LINE_INTERVAL`] elsewhere.
struct ProgressDisplay {
    bar: ProgressBar,
    last_line_at: Instant,
}

impl ProgressDisplay {
    fn new() -> Self {
        let style = ProgressStyle::with_template("{bar:30} {percent}%, {eta} left  {msg}")
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("━╸─");
        let bar = if io::stderr().is_terminal() { ProgressBar::new(1) } else { ProgressBar::hidden() };
        Self { bar: bar.with_style(style), last_line_at: Instant::now() }
    }

    fn show(&mut self, progress: CopyProgress) {
        let CopyProgress { table, verifying, done, total } = progress;
        let step = if verifying { "comparing" } else { "copying" };
        self.bar.set_length(total);
        self.bar.set_position(done);
        self.bar.set_message(format!("{step} {table}"));
        if self.bar.is_hidden() && self.last_line_at.elapsed() >= LINE_INTERVAL {
            message(format_args!("{step} {table}: {} of the work done", percent(done, total)));
            self.last_line_at = Instant::now();
        }
    }
}

fn percent(done: u64, total: u64) -> String {
    format!("{} %", (done * 100).checked_div(total).unwrap_or(100))
}
