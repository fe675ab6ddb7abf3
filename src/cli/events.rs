//! `events`: prints the changes of an app's groups after an event_id, for pipes and cron jobs.
//! Needs only the database.

use std::io::{self, ErrorKind, Write};
use std::time::Duration;

use clap::{Args, ValueEnum};
use serde::Serialize;
use tokio::signal::unix::{SignalKind, signal};
use tokio::time::sleep;

use super::approve::refused;
use super::exit::{Exit, Failure};
use super::setup::{Setup, database_location};
use crate::escape;
use crate::model::SdkAppId;
use crate::store::{EventsAfter, GroupEvent, KnownApp, Store};

/// Interval at which `--follow` polls for new events.
const FOLLOW_INTERVAL: Duration = Duration::from_secs(2);
/// Maximum of `--limit`.
const MAX_LIMIT: i64 = 100_000;

#[derive(Debug, Args)]
pub(super) struct Events {
    /// The app, by its name or its SDKAppID
    #[arg(long, value_name = "NAME")]
    app: String,
    /// Print the events after this event_id; 0 starts with the oldest
    #[arg(long, value_name = "ID", default_value_t = 0, value_parser = clap::value_parser!(i64).range(0..))]
    after: i64,
    /// Print at most this many events; with --follow, read this many at a time
    #[arg(long, value_name = "N", default_value_t = 1000, value_parser = clap::value_parser!(i64).range(1..=MAX_LIMIT))]
    limit: i64,
    /// Wait for new events and print them, until interrupted
    #[arg(long)]
    follow: bool,
    /// One JSON object a line, or CSV with a header
    #[arg(long, value_enum, default_value_t = Format::Jsonl)]
    format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Format {
    Jsonl,
    Csv,
}

/// One line of the output: the columns of the view `group_events`.
#[derive(Serialize)]
struct Line<'a> {
    sdk_app_id: i64,
    app: &'a str,
    event_id: i64,
    occurred_at: String,
    group_id: &'a str,
    event: &'a str,
    old_type: Option<&'a str>,
    new_type: Option<&'a str>,
    crawl_id: i64,
}

impl Events {
    pub(super) async fn run(self, setup: &Setup) -> Result<Exit, Failure> {
        let config = setup.config_for_command()?;
        let store = Store::open_to_read(&database_location(&config)?).await?;
        store.check_migrated().await?;
        let app = self.find(store.find_apps(&self.app).await?)?;
        if !self.follow {
            return self
                .print_after(&store, &app, self.after, self.format == Format::Csv)
                .await
                .map(|_| Exit::Done);
        }
        let cannot_wait = |error: io::Error| {
            Failure::new(Exit::Failed, anyhow::Error::from(error).context("cannot wait for signals"))
        };
        let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot_wait)?;
        let mut terminate = signal(SignalKind::terminate()).map_err(cannot_wait)?;
        tokio::select! {
            ended = self.follow(&store, &app) => ended.map(|()| Exit::Done),
            _ = interrupt.recv() => Ok(Exit::Done),
            _ = terminate.recv() => Ok(Exit::Done),
        }
    }

    /// Prints events, and polls for new ones, until the reader closes stdout.
    async fn follow(&self, store: &Store, app: &KnownApp) -> Result<(), Failure> {
        let mut after = self.after;
        let mut with_header = self.format == Format::Csv;
        loop {
            match self.print_after(store, app, after, with_header).await? {
                Printed::Closed => return Ok(()),
                Printed::UpTo { last, full } => {
                    after = last.unwrap_or(after);
                    with_header = false;
                    if !full {
                        sleep(FOLLOW_INTERVAL).await;
                    }
                }
            }
        }
    }

    async fn print_after(
        &self,
        store: &Store,
        app: &KnownApp,
        after: i64,
        with_header: bool,
    ) -> Result<Printed, Failure> {
        let events = match store.events_after(app.id(), after, self.limit).await? {
            EventsAfter::Events(events) => events,
            EventsAfter::Removed { continue_after } => {
                return Err(refused(format!(
                    "{}: retention has removed events after {after}, so that changes are lost to \
                     this reader; `--after {continue_after}` continues with the oldest event that \
                     remains",
                    app.name
                )));
            }
        };
        let full = i64::try_from(events.len()).is_ok_and(|events| events == self.limit);
        let last = events.last().map(|event| event.event_id);
        match self.write(&mut io::stdout().lock(), app, &events, with_header) {
            Ok(()) => Ok(Printed::UpTo { last, full }),
            Err(error) if error.kind() == ErrorKind::BrokenPipe => Ok(Printed::Closed),
            Err(error) => {
                let error = anyhow::Error::from(error).context("cannot write to stdout");
                Err(Failure::new(Exit::Failed, error))
            }
        }
    }

    fn write(
        &self,
        out: &mut impl Write,
        app: &KnownApp,
        events: &[GroupEvent],
        with_header: bool,
    ) -> io::Result<()> {
        let lines = events.iter().map(|event| Line::new(app, event));
        match self.format {
            Format::Jsonl => {
                for line in lines {
                    writeln!(out, "{}", escape::json(&serde_json::to_string(&line)?))?;
                }
            }
            Format::Csv => {
                let mut csv = csv::WriterBuilder::new().has_headers(false).from_writer(&mut *out);
                if with_header {
                    csv.write_record(Line::COLUMNS).map_err(io::Error::from)?;
                }
                for line in lines {
                    csv.serialize(line).map_err(io::Error::from)?;
                }
                csv.flush()?;
            }
        }
        out.flush()
    }

    /// Returns the app if exactly one has this name or SDKAppID.
    fn find(&self, mut found: Vec<KnownApp>) -> Result<KnownApp, Failure> {
        match (found.pop(), found.is_empty()) {
            (Some(app), true) => Ok(app),
            (Some(app), false) => {
                found.push(app);
                let ids = found.iter().filter_map(KnownApp::sdk_app_id).map(|id| id.to_string());
                Err(refused(format!(
                    "several apps are called {}: name one by its SDKAppID ({})",
                    self.app,
                    ids.collect::<Vec<_>>().join(", ")
                )))
            }
            (None, _) => Err(refused(format!(
                "the database has no app {:?}; `tim-group-sync status` lists the apps",
                self.app
            ))),
        }
    }
}

/// The result of printing a batch of events.
enum Printed {
    /// The reader has closed stdout.
    Closed,
    UpTo {
        last: Option<i64>,
        /// The batch reached the limit, so more events may follow.
        full: bool,
    },
}

impl<'a> Line<'a> {
    /// The names of the fields, in their order.
    const COLUMNS: [&'static str; 9] = [
        "sdk_app_id",
        "app",
        "event_id",
        "occurred_at",
        "group_id",
        "event",
        "old_type",
        "new_type",
        "crawl_id",
    ];

    fn new(app: &'a KnownApp, event: &'a GroupEvent) -> Self {
        Self {
            sdk_app_id: app.sdk_app_id().map_or(0, SdkAppId::get),
            app: &app.name,
            event_id: event.event_id,
            occurred_at: event.occurred_at.to_string(),
            group_id: &event.group_id,
            event: &event.event,
            old_type: event.old_type.as_deref(),
            new_type: event.new_type.as_deref(),
            crawl_id: event.crawl_id,
        }
    }
}
