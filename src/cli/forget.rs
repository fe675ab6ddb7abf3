//! `forget`: removes an app that is no longer configured. Needs only the database: neither the API
//! nor a key.

use std::io::{BufRead as _, IsTerminal as _};

use clap::Args;
use serde_json::json;

use super::approve::refused;
use super::exit::{Exit, Failure};
use super::output::{Output, message, prompt};
use super::setup::{Setup, database_location};
use super::text;
use crate::config::Config;
use crate::model::SdkAppId;
use crate::store::{KnownApp, Store};

#[derive(Debug, Args)]
pub(super) struct Forget {
    /// The app's name in the database, or its SDKAppID
    #[arg(long, value_name = "NAME")]
    app: String,
    /// Do not ask for confirmation
    #[arg(long)]
    yes: bool,
    /// Show what would be removed, and change nothing
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    pub(super) output: Output,
}

impl Forget {
    pub(super) async fn run(self, setup: &Setup) -> Result<Exit, Failure> {
        let config = setup.config_for_command()?;
        let store = setup.close_at_end(Store::open_existing(&database_location(&config)?).await?);
        store.check_migrated().await?;
        let (app, sdk_app_id) = self.find(&config, store.find_apps(&self.app).await?)?;
        let row_counts = store.row_counts(app.id()).await?;
        let name = &app.name;
        let summary = format!(
            "{name} (SDKAppID {sdk_app_id}): {}, {}, {}, {} of counts",
            text::count(row_counts.groups, "group"),
            text::count(row_counts.events, "event"),
            text::count(row_counts.crawls, "crawl"),
            text::count(row_counts.days, "day")
        );
        if !self.dry_run {
            if !self.yes && !confirmed(&summary)? {
                return Err(refused(format!("{name} was not removed")));
            }
            let waiting = |waits| {
                if waits == 0 {
                    message(format_args!("{name} is being crawled; waiting for the crawl to finish"));
                }
            };
            let lease = store.lease(sdk_app_id, waiting).await?;
            let forgotten = lease.run_while_held(store.forget(&lease, app.id(), |_| ())).await.flatten();
            // No request was sent, so the earliest time of the next one does not change.
            lease.release_unused().await;
            forgotten?;
        }
        let result = json!({
            "app": name, "sdk_app_id": sdk_app_id, "dry_run": self.dry_run, "groups": row_counts.groups,
            "events": row_counts.events, "crawls": row_counts.crawls, "days": row_counts.days,
        });
        let removed = if self.dry_run { "" } else { ": removed" };
        self.output.print(Exit::Done, result, |out| writeln!(out, "{summary}{removed}"))
    }

    /// Returns the app to remove: of the apps with this name or SDKAppID that are not in this
    /// configuration, the one that was registered last. `app.configured` in the database is not
    /// used, because it may be outdated.
    fn find(&self, config: &Config, found: Vec<KnownApp>) -> Result<(KnownApp, SdkAppId), Failure> {
        let name = &self.app;
        let is_configured =
            |app: &KnownApp| config.apps.iter().any(|c| Some(c.sdk_app_id) == app.sdk_app_id());
        let (configured, mut removable): (Vec<_>, Vec<_>) = found.into_iter().partition(is_configured);
        let app = match removable.pop() {
            Some(app) => app,
            None if configured.is_empty() => {
                return Err(refused(format!(
                    "the database has no app {name:?}; `tim-group-sync status` shows its apps"
                )));
            }
            None => {
                return Err(refused(format!(
                    "{name:?} is configured and would be crawled again; first remove its section \
                     from the configuration, and reload or stop the service"
                )));
            }
        };
        match app.sdk_app_id() {
            Some(sdk_app_id) => Ok((app, sdk_app_id)),
            None => Err(refused(format!("the database has no valid SDKAppID for {name:?}"))),
        }
    }
}

/// Asks for confirmation on the terminal. Fails if stdin is not a terminal.
fn confirmed(what: &str) -> Result<bool, Failure> {
    if !std::io::stdin().is_terminal() {
        let error = anyhow::anyhow!("{what}: this cannot be undone, so confirm it with --yes");
        return Err(Failure::new(Exit::Usage, error));
    }
    prompt(&format!("{what}\nRemove all of it? This cannot be undone. [y/N] "));
    let mut answer = String::new();
    std::io::stdin().lock().read_line(&mut answer)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}
