//! `status`: shows the state of each app from the database. Needs neither the API nor a key.

use std::io::Write;
use std::time::Duration;

use chrono::TimeDelta;
use clap::Args;
use serde::Serialize;

use super::exit::{Exit, Failure};
use super::output::{Output, message};
use super::service::ask_service;
use super::setup::{Setup, database_location};
use super::text;
use crate::config::Config;
use crate::crawl::CLOCK_SKEW_WARNING;
use crate::daemon::{HISTORY_LENGTH, next_crawl_by_history, overdue_by_history};
use crate::escape::one_line;
use crate::model::SdkAppId;
use crate::store::{
    AppStatus, Crawl, HostTypes, KeysetPage, LeaseHolder, Stamp, Store, StoreError, Withheld,
};

/// Maximum difference between the clocks of two hosts. A crawl that ended further in the future has
/// a wrong time.
const MAX_FUTURE: TimeDelta = TimeDelta::minutes(1);

#[derive(Debug, Args)]
pub(super) struct Status {
    /// Exit 1 if the last complete crawl of any configured app ended longer ago than this
    #[arg(long, value_name = "TIME", value_parser = humantime::parse_duration)]
    max_age: Option<Duration>,
    #[command(flatten)]
    pub(super) output: Output,
}

impl Status {
    pub(super) async fn run(self, setup: &Setup) -> Result<Exit, Failure> {
        let config = setup.config_for_command()?;
        let store = Store::open_to_read(&database_location(&config)?).await?;
        store.check_migrated().await?;
        let mut statuses = store.app_statuses().await?;
        let is_known = |id: i64| statuses.iter().any(|status| status.sdk_app_id == id);
        let unknown: Vec<_> = config.apps.iter().filter(|app| !is_known(app.sdk_app_id.get())).collect();
        statuses.extend(unknown.into_iter().map(|app| AppStatus::never_crawled(&app.name, app.sdk_app_id)));
        // The clock is read after the database, so that no crawl ended after `now`.
        let now = setup.clock.now();
        let mut apps = Vec::new();
        for status in statuses {
            let lease_holder = match SdkAppId::new(status.sdk_app_id) {
                // If this user may not read the lock file, the rest of the status is still shown.
                Some(app) => store.lease_holder(app).await.unwrap_or_default(),
                None => None,
            };
            let (next_crawl_at, overdue_since) = next_crawl(&store, &config, &status, now).await?;
            apps.push(AppReport {
                next_crawl_at,
                overdue_since: overdue_since.filter(|_| lease_holder.is_none()),
                crawled_now: lease_holder.is_some(),
                lease_holder,
                status,
            });
        }
        let problems = ask_service(config.metrics.as_ref()).await;
        if self.output.is_json() {
            problems.iter().for_each(|problem| message(format_args!("daemon: {problem}")));
        }
        let text = |out: &mut dyn Write| {
            apps.iter().try_for_each(|app| print_app(out, app, now))?;
            problems.iter().try_for_each(|problem| writeln!(out, "daemon: {problem}"))
        };
        let stale = self.max_age.map_or_else(Vec::new, |max_age| stale(&config, &apps, max_age, now));
        if let (Some(max_age), false) = (self.max_age, stale.is_empty()) {
            let within = humantime::format_duration(max_age);
            let error = format!("no complete crawl within {within}: {}", stale.join(", "));
            return self.output.print_with_error((Exit::Failed, error), &apps, text);
        }
        self.output.print(Exit::Done, &apps, text)
    }
}

/// Returns the configured apps whose last complete crawl is older than `max_age`.
fn stale(config: &Config, apps: &[AppReport], max_age: Duration, now: Time) -> Vec<String> {
    apps.iter()
        .map(|app| &app.status)
        .filter(|app| is_configured(config, app))
        .filter_map(|app| Some(format!("{}{}", app.app, why_stale(app, max_age, now)?)))
        .collect()
}

/// Returns a suffix for the app's name in the error, or `None` if its last complete crawl is recent
/// enough. A crawl that ended in the future does not count.
fn why_stale(app: &AppStatus, max_age: Duration, now: Time) -> Option<String> {
    let Some(finished) = app.last_complete_crawl.as_ref().and_then(Crawl::finished) else {
        return Some(String::new());
    };
    if finished - now > MAX_FUTURE {
        let finished = text::time(finished);
        return Some(format!(" (its time {finished} is in the future: a clock is or was wrong)"));
    }
    let age = (now - finished).to_std().unwrap_or_default();
    (age > max_age).then(String::new)
}

/// The status of an app, with values that are not stored in the database.
#[derive(Serialize)]
struct AppReport {
    #[serde(flatten)]
    status: AppStatus,
    next_crawl_at: Option<Stamp>,
    /// Due time of a crawl that no service has started.
    overdue_since: Option<Stamp>,
    /// Whether a process holds the app's lease.
    crawled_now: bool,
    lease_holder: Option<LeaseHolder>,
}

type Time = chrono::DateTime<chrono::Utc>;

/// Returns true if an app is in this configuration. `configured` in the database is not used,
/// because a process with another configuration may have written it.
fn is_configured(config: &Config, status: &AppStatus) -> bool {
    config.apps.iter().any(|app| app.sdk_app_id.get() == status.sdk_app_id)
}

/// Returns when the daemon crawls the app next, as the dashboard shows it, and the due time of an
/// overdue crawl.
async fn next_crawl(
    store: &Store,
    config: &Config,
    status: &AppStatus,
    now: Time,
) -> Result<(Option<Stamp>, Option<Stamp>), StoreError> {
    let app = config.apps.iter().find(|app| app.sdk_app_id.get() == status.sdk_app_id);
    let Some(app) = app else { return Ok((None, None)) };
    let crawls = match store.find_app_and_name(app.sdk_app_id).await? {
        Some((id, _)) => store.crawls(id, KeysetPage { before: i64::MAX, limit: HISTORY_LENGTH }).await?,
        None => Vec::new(),
    };
    let stamp = |time: Time| Stamp(time.timestamp_millis());
    let next = next_crawl_by_history(&app.schedule.ticks, &crawls, now);
    let overdue = overdue_by_history(&app.schedule.ticks, &crawls, now);
    Ok((next.map(stamp), overdue.map(stamp)))
}

fn print_app(
    out: &mut dyn Write,
    AppReport { status: app, next_crawl_at, overdue_since, lease_holder, .. }: &AppReport,
    now: Time,
) -> std::io::Result<()> {
    let note = if app.configured { "" } else { "  no longer configured" };
    writeln!(out, "{} (SDKAppID {}){note}", app.app, app.sdk_app_id)?;
    let rows: Vec<Vec<String>> = app
        .types
        .iter()
        .filter(|row| row.configured || row.live + row.deleted > 0)
        .map(|row| {
            let name = row.group_type.clone().unwrap_or_else(|| "(unknown)".to_owned());
            vec![name, text::number(row.live), text::number(row.missing), text::number(row.deleted)]
        })
        .collect();
    if !rows.is_empty() {
        writeln!(out, "{}", text::table(&["group type", "live", "missing", "deleted"], &rows))?;
    }
    print_last_crawls(out, app, now)?;
    for Withheld { crawl_id, groups, confirmed } in &app.withheld {
        writeln!(
            out,
            "  withheld             {} of crawl {crawl_id}, {} of them confirmed by get_group_info\n  \
             {:20} list them: tim-group-sync approve --crawl {crawl_id} --dry-run\n  \
             {:20} apply them: tim-group-sync approve --crawl {crawl_id} [--confirmed]",
            text::count(*groups, "deletion"),
            text::number(*confirmed),
            "",
            "",
        )?;
    }
    if let Some(crawl) = &app.last_crawl {
        print_undecided(out, crawl)?;
    }
    print_running_crawl(out, app, lease_holder.as_ref(), now)?;
    if !app.differing_group_types.is_empty() {
        let hosts: Vec<String> = app.differing_group_types.iter().map(describe_types).collect();
        writeln!(
            out,
            "  hosts are configured with different group types: {}. Use the same group_types on \
             all hosts",
            hosts.join("; ")
        )?;
    }
    print_details(out, app, now)?;
    if let Some(due) = overdue_since.and_then(Stamp::time) {
        let (at, ago) = (text::time(due), text::ago(due, now));
        writeln!(
            out,
            "  overdue              the crawl of {at} ({ago}) was not started: check whether the \
             service runs"
        )?;
    }
    if let Some(next) = next_crawl_at.and_then(Stamp::time) {
        writeln!(out, "  next crawl           {}", text::time(next))?;
    }
    writeln!(out)
}

/// Prints for how many live groups the details are known, if details are kept.
fn print_details(out: &mut dyn Write, app: &AppStatus, now: Time) -> std::io::Result<()> {
    let Some(details) = &app.details else { return Ok(()) };
    let live: i64 = app.types.iter().map(|of_type| of_type.live).sum();
    let oldest = details.oldest_as_of.and_then(Stamp::time);
    let oldest = oldest.map_or_else(String::new, |at| format!("; oldest fetched {}", text::ago(at, now)));
    writeln!(
        out,
        "  details              stored for {} of {}; fetched within details.refresh for {}{oldest}",
        text::number(details.groups),
        text::count(live, "live group"),
        text::number(details.fresh_groups)
    )
}

fn print_last_crawls(out: &mut dyn Write, app: &AppStatus, now: Time) -> std::io::Result<()> {
    match &app.last_complete_crawl {
        Some(crawl) => writeln!(out, "  last complete crawl  {}", describe_crawl(crawl, now))?,
        None => writeln!(out, "  last complete crawl  none yet")?,
    }
    let Some(crawl) = &app.last_crawl else { return Ok(()) };
    if crawl.status == "complete" && crawl.reason.is_none() {
        return Ok(());
    }
    writeln!(out, "  last crawl           {}", describe_crawl(crawl, now))?;
    match &crawl.reason {
        // The recorded reason asks for an approval that was given later.
        Some(_) if crawl.deletions.as_deref() == Some("approved") => {
            writeln!(out, "                       it withheld deletions, which were approved")
        }
        Some(reason) => writeln!(out, "                       because: {}", one_line(reason)),
        None => Ok(()),
    }
}

fn print_running_crawl(
    out: &mut dyn Write,
    app: &AppStatus,
    lease_holder: Option<&LeaseHolder>,
    now: Time,
) -> std::io::Result<()> {
    if let Some(crawl) = &app.running_crawl {
        let since = crawl
            .started_at
            .time()
            .map_or_else(String::new, |at| format!(", started {}", text::ago(at, now)));
        if lease_holder.is_some() {
            writeln!(out, "  running              crawl {}{since}", crawl.crawl_id)?;
        } else {
            writeln!(
                out,
                "  left open            crawl {}{since}; its process ended, and the next crawl \
                 closes it",
                crawl.crawl_id
            )?;
        }
    }
    if let Some(LeaseHolder { host, since }) = lease_holder {
        let since = since
            .map_or_else(String::new, |at| format!(" since {} ({})", text::time(at), text::ago(at, now)));
        writeln!(out, "  lease                held by {}{since}", one_line(host))?;
    }
    Ok(())
}

/// Prints how many groups the last crawl left undecided, and a warning if its clock was wrong.
fn print_undecided(out: &mut dyn Write, crawl: &Crawl) -> std::io::Result<()> {
    let waiting = crawl.unasked + crawl.unlearned;
    if waiting > 0 {
        writeln!(
            out,
            "  undecided            {} not listed: {} not asked about yet, {} without a usable \
             answer; the next crawl asks get_group_info",
            text::count(waiting, "group"),
            text::number(crawl.unasked),
            text::number(crawl.unlearned)
        )?;
    }
    if let Some(seconds) = crawl.clock_skew.filter(|seconds| seconds.abs() > CLOCK_SKEW_WARNING.num_seconds())
    {
        let by = humantime::format_duration(Duration::from_secs(seconds.unsigned_abs()));
        let side = if seconds > 0 { "ahead of" } else { "behind" };
        writeln!(
            out,
            "  clock                the clock of {} is {by} {side} the API's: correct it",
            one_line(&crawl.host)
        )?;
    }
    Ok(())
}

fn describe_types(HostTypes { host, group_types }: &HostTypes) -> String {
    let host = one_line(host);
    if group_types.is_empty() {
        return format!("{host} all types in one pass (group_types = [])");
    }
    format!("{host} {}", one_line(&group_types.join(", ")))
}

fn describe_crawl(crawl: &Crawl, now: Time) -> String {
    let when = crawl
        .finished()
        .map_or_else(String::new, |at| format!(", {} ({})", text::time(at), text::ago(at, now)));
    format!(
        "crawl {} {}{when}, {} listed",
        crawl.crawl_id,
        crawl.status,
        text::count(crawl.groups_listed, "group")
    )
}
