//! The checks of `check` and `init`: the configuration, the database, and the credentials of each
//! app.

use std::path::Path;
use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use serde::Serialize;
use tokio::time::Instant;

use super::exit::{Exit, Failure};
use super::output::message;
use super::setup::{Setup, location_and_warnings, receiver_and_warnings};
use super::text;
use crate::config::{self, App, Config};
use crate::escape::one_line;
use crate::model::{ReasonCode, with_causes};
use crate::pace::{Pacer, RetryBudget, RetryPolicy};
use crate::pages::{Caller, InfoSettings};
use crate::store::{DatabaseLocation, Store, StoreError};
use crate::tencent::{ApiError, Client};

/// How long a transient failure is retried. The time is short, because the user waits for the
/// result.
pub(super) const RETRY_FOR: Duration = Duration::from_secs(15);
/// Maximum pause after a request that was made without a lease.
const MAX_PAUSE: Duration = Duration::from_secs(2);
/// How long a check waits for the end of a running crawl.
pub(super) const WAIT_FOR_LEASE: Duration = Duration::from_secs(10);

/// The result of one check.
#[derive(Debug, Serialize)]
pub(super) struct Finding {
    #[serde(skip)]
    exit: Exit,
    /// `ok`, `warn`, `busy` or `FAIL`, as it is printed.
    outcome: &'static str,
    /// What was checked: `configuration`, `database`, or the name of an app.
    what: String,
    /// Details. Those of a failure include what to do.
    text: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    next_runs: Vec<DateTime<Tz>>,
}

impl Finding {
    pub(super) fn new(exit: Exit, what: &str, text: String) -> Self {
        let outcome = match exit {
            Exit::Done => "ok",
            Exit::Busy => "busy",
            _ => "FAIL",
        };
        Self { exit, outcome, what: what.to_owned(), text, next_runs: Vec::new() }
    }

    /// Creates the finding of a successful check with a warning.
    fn warning(what: &str, text: String) -> Self {
        Self { outcome: "warn", ..Self::new(Exit::Done, what, text) }
    }

    /// Returns true if this is a failed check of `what`.
    pub(super) fn is_failure_of(&self, what: &str) -> bool {
        self.what == what && self.exit != Exit::Done
    }

    fn of_failure(what: &str, failure: &Failure) -> Self {
        Self::new(failure.exit, what, failure.causes().join(": "))
    }
}

/// Returns the finding for a valid configuration.
pub(super) fn of_config(setup: &Setup, config: &Config) -> Result<Finding, Failure> {
    let apps: Vec<&str> = config.apps.iter().map(|app| app.name.as_str()).collect();
    let text = format!("{}, apps: {}", setup.locate()?.display(), apps.join(", "));
    Ok(Finding::new(Exit::Done, "configuration", text))
}

/// Checks everything that a crawl needs. Also returns the database, if the lease of an app can be
/// taken in it.
pub(super) async fn run_checks(
    setup: &Setup,
    config: &Config,
) -> Result<(Vec<Finding>, Option<Store>), Failure> {
    let mut findings = vec![of_config(setup, config)?];
    let store = check_database(setup, config, &mut findings).await;
    for app in &config.apps {
        let what = app.name.as_str();
        let mut finding = match setup.client_and_warnings(app) {
            Ok((client, warnings)) => {
                findings.extend(warnings.into_iter().map(|warning| Finding::warning(what, warning)));
                check_app(setup, app, &client, store.as_ref()).await
            }
            Err(failure) => Finding::of_failure(what, &failure),
        };
        finding.next_runs = next_runs(setup, app);
        findings.push(finding);
    }
    if let Some(notify) = &config.notify {
        check_receiver(notify, &mut findings);
    }
    Ok((findings, store))
}

pub(super) fn worst(findings: &[Finding]) -> Exit {
    Exit::worst(findings.iter().map(|finding| finding.exit))
}

/// Returns the failed checks in one sentence, or `None` if there are none.
pub(super) fn error_of(findings: &[Finding]) -> Option<String> {
    let failed = findings.iter().filter(|finding| finding.exit != Exit::Done);
    let failed: Vec<String> = failed.map(|Finding { what, text, .. }| format!("{what}: {text}")).collect();
    (!failed.is_empty()).then(|| failed.join("; "))
}

pub(super) fn print(out: &mut dyn std::io::Write, findings: &[Finding]) -> std::io::Result<()> {
    for Finding { outcome, what, text, next_runs, .. } in findings {
        writeln!(out, "{outcome:<5} {what:<14} {}", one_line(text))?;
        if !next_runs.is_empty() {
            let times: Vec<String> = next_runs.iter().map(|at| at.format("%F %T %Z").to_string()).collect();
            writeln!(out, "{:<5} {:<14} next runs: {}", "", "", times.join(", "))?;
        }
    }
    Ok(())
}

/// Checks the database, and returns it if the lease of an app can be taken in it. Does not create
/// it, because the service's user could not write to a file that root created.
async fn check_database(setup: &Setup, config: &Config, findings: &mut Vec<Finding>) -> Option<Store> {
    let (location, warnings) = match location_and_warnings(config) {
        Ok(found) => found,
        Err(failure) => {
            findings.push(Finding::of_failure("database", &failure));
            return None;
        }
    };
    findings.extend(warnings.into_iter().map(|warning| Finding::warning("database", warning)));
    if matches!(location, DatabaseLocation::Postgres(_))
        && config.database.password_file.is_none()
        && std::env::var_os("PGPASSWORD").is_some()
    {
        let text = "the password comes from PGPASSWORD of this command; the service has its own environment: set \
                    database.password_file, which both read";
        findings.push(Finding::warning("database", text.to_owned()));
    }
    if let DatabaseLocation::Sqlite(path) = &location
        && !path.exists()
    {
        findings.push(check_folder(path));
        return None;
    }
    let opened = async {
        let store = setup.close_at_end(Store::open_existing(&location).await?);
        let tables = match store.check_migrated().await {
            Err(StoreError::NotMigrated | StoreError::Older { .. }) if config.database.auto_migrate => {
                store.check_migratable().await.map(|()| false)
            }
            tables => tables.map(|()| true),
        };
        Ok::<_, StoreError>((store, tables))
    };
    let ok = |text: &str| Finding::new(Exit::Done, "database", format!("{location}, {text}"));
    let opened = opened.await;
    if let (DatabaseLocation::Sqlite(path), Ok(_)) = (&location, &opened)
        && let Some(finding) = check_temporary_files(path)
    {
        findings.push(finding);
        return None;
    }
    match opened {
        Ok((store, Ok(true))) => {
            findings.push(ok("tables up to date"));
            Some(store)
        }
        Ok((store, Ok(false))) => {
            findings.push(ok("tables will be brought up to date at the next start"));
            // On SQLite a lease is a file. On PostgreSQL it is a row, for which there may be no
            // table yet.
            matches!(location, DatabaseLocation::Sqlite(_)).then_some(store)
        }
        Ok((_, Err(error))) | Err(error) => {
            findings.push(Finding::of_failure("database", &Failure::from(error)));
            None
        }
    }
}

/// Returns a finding if no temporary file can be created in the folder of the database. Large
/// transactions need one.
fn check_temporary_files(database: &Path) -> Option<Finding> {
    let database = database.canonicalize().ok()?;
    let folder = database.parent()?;
    let error = try_to_write(folder).err()?;
    let text = format!(
        "{}: no temporary file can be created in {} ({error}), which crawls with many changes \
         need; make the folder writable for the service's user",
        database.display(),
        folder.display()
    );
    Some(Finding::new(Exit::Failed, "database", text))
}

fn check_folder(database: &Path) -> Finding {
    let mut folder = folder_of(database);
    while !folder.exists() {
        folder = folder.parent().unwrap_or(Path::new("/"));
    }
    match try_to_write(folder) {
        Ok(()) => {
            let text = format!("{}, will be created by the first crawl", database.display());
            Finding::new(Exit::Done, "database", text)
        }
        Err(error) => {
            let text = format!(
                "cannot create {}: {} is not writable ({error}); \
                 set database.url to another path, or run as the user who owns the folder",
                database.display(),
                folder.display()
            );
            Finding::new(Exit::Failed, "database", text)
        }
    }
}

fn folder_of(file: &Path) -> &Path {
    file.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Creates and removes a file in a folder.
fn try_to_write(folder: &Path) -> std::io::Result<()> {
    let path = folder.join(format!(".tim-group-sync-check-{}", std::process::id()));
    std::fs::OpenOptions::new().write(true).create_new(true).open(&path)?;
    std::fs::remove_file(path)
}

/// Checks an app's credentials with one request, under the app's lease and at its request rate.
async fn check_app(setup: &Setup, app: &App, client: &Client, store: Option<&Store>) -> Finding {
    let not_checked = |failure: &Failure| {
        let text = format!("credentials not checked: {}", failure.causes().join(": "));
        Finding::new(failure.exit, &app.name, text)
    };
    let lease = match store {
        Some(store) => {
            let waiting = |waits| {
                if waits == 0 {
                    message(format_args!(
                        "{} is being crawled; waiting up to {} s",
                        app.name,
                        WAIT_FOR_LEASE.as_secs()
                    ));
                }
            };
            let waited = tokio::time::timeout(WAIT_FOR_LEASE, store.lease(app.sdk_app_id, waiting)).await;
            match waited {
                Err(_) => {
                    let text = "credentials not checked: the app is being crawled; see `tim-group-sync \
                         status`";
                    return Finding::new(Exit::Busy, &app.name, text.to_owned());
                }
                Ok(Err(error)) => return not_checked(&error.into()),
                Ok(Ok(lease)) => Some(lease),
            }
        }
        None => None,
    };
    let wait = lease.as_ref().map(|lease| lease.pause(setup.clock.now())).unwrap_or_default();
    let wait = wait.min(app.request_interval);
    let pacer = Pacer::new(app.request_interval, Instant::now() + wait);
    let retries = RetryBudget::new(RetryPolicy::lasting(RETRY_FOR.min(app.retry_for)));
    let mut caller = Caller::new(client, &pacer, retries, InfoSettings::default(), |_| ());
    let counted = if let Some(lease) = lease {
        // Renews the lease meanwhile, because a request with its retries may take longer than a
        // lease lasts.
        let counted = lease.run_while_held(caller.count_app()).await;
        lease.release(setup.clock.now(), app.request_interval).await;
        counted
    } else {
        let counted = caller.count_app().await;
        // Without a lease, the time of this request is not recorded. The pause keeps the next
        // process from sending a request too early.
        tokio::time::sleep(app.request_interval.min(MAX_PAUSE)).await;
        Ok(counted)
    };
    let (exit, text) = match counted {
        Err(lost) => return not_checked(&lost.into()),
        Ok(Ok(total)) => {
            let groups =
                total.map_or_else(|| "an unknown number of groups".to_owned(), |n| text::count(n, "group"));
            (Exit::Done, format!("the API accepts the credentials; the app has {groups}"))
        }
        Ok(Err(error)) if error.reason_code() == ReasonCode::Refused => (Exit::Config, with_causes(&error)),
        Ok(Err(error)) => (Exit::Failed, format!("{}{}", with_causes(&error), error_suffix(&error, app))),
    };
    Finding::new(exit, &app.name, text)
}

/// Returns a suffix for the message of an API error: advice for a code without known advice, or the
/// host for an answer that is not the API's.
fn error_suffix(error: &ApiError, app: &App) -> String {
    match error {
        ApiError::Answered { advice: None, .. } => {
            "; check again in a minute; if the error persists, report its code to Tencent Cloud's \
             support"
                .to_owned()
        }
        ApiError::Malformed { .. } | ApiError::TooLarge { .. } => {
            format!(" (the host is {})", app.api.base_url.host_str().unwrap_or_default())
        }
        _ => String::new(),
    }
}

/// Checks the files of `[notify]`. Sends nothing.
fn check_receiver(notify: &config::Notify, findings: &mut Vec<Finding>) {
    const WHAT: &str = "notify";
    match receiver_and_warnings(notify) {
        Ok((_, warnings)) => {
            findings.extend(warnings.into_iter().map(|warning| Finding::warning(WHAT, warning)));
            let signed = if notify.secret_file.is_some() { "with" } else { "without" };
            let text = format!(
                "the URL of the {} receiver is valid, {signed} a secret; nothing was sent: try it with \
                 `tim-group-sync notify --test`",
                notify.format
            );
            findings.push(Finding::new(Exit::Done, WHAT, text));
        }
        Err(why) => findings.push(Finding::new(Exit::Config, WHAT, why)),
    }
}

/// Returns the next five ticks in the time zone of the schedule.
fn next_runs(setup: &Setup, app: &App) -> Vec<DateTime<Tz>> {
    let ticks = &app.schedule.ticks;
    let local = |at: DateTime<Utc>| at.with_timezone(&ticks.timezone());
    ticks.upcoming(setup.clock.now(), 5).into_iter().map(local).collect()
}
