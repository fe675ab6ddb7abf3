//! `status`: shows the state of each app from the database. Needs neither the API nor a key.

mod report;
mod table;

use std::io::Write;
use std::time::Duration;

use chrono::TimeDelta;
use clap::Args;

use self::report::{AppReport, Time};
use super::exit::{Exit, Failure};
use super::output::{Output, message};
use super::service::service_problems;
use super::setup::{Setup, database_location};
use super::text;
use crate::config::{self, Config};
use crate::crawl::CLOCK_SKEW_WARNING;
use crate::daemon::{
    HISTORY_LENGTH, LATE_TICKS, MAX_COUNTED_TICKS, next_crawl_by_history, overdue_by_history,
};
use crate::escape::one_line;
use crate::model::SdkAppId;
use crate::store::{
    AppStatus, Crawl, HeldDeletions, HostTypes, KeysetPage, LeaseHolder, Stamp, Store, StoreError, Withheld,
};

/// Maximum difference between the clocks of two hosts. A crawl that ended further in the future has
/// a wrong time.
const MAX_FUTURE: TimeDelta = TimeDelta::minutes(1);
/// The maximum number of apps that are shown in detail. More apps have a line each, so that they
/// fit a screen.
const MAX_IN_DETAIL: usize = 3;

#[derive(Debug, Args)]
pub(super) struct Status {
    /// Exit 1 if the last complete crawl of any configured app ended longer ago than this, or, with
    /// "schedule", if three ticks of the app's schedule have passed since it began
    #[arg(long, value_name = "TIME|schedule", value_parser = MaxAge::parse)]
    max_age: Option<MaxAge>,
    /// Show only this app
    #[arg(long, value_name = "NAME")]
    app: Option<String>,
    #[command(flatten)]
    pub(super) output: Output,
}

/// How old the last complete crawl of an app may be.
#[derive(Clone, Copy, Debug)]
enum MaxAge {
    Time(Duration),
    /// Fewer than [`LATE_TICKS`] ticks have passed since it began.
    Schedule,
}

impl MaxAge {
    fn parse(text: &str) -> Result<Self, humantime::DurationError> {
        if text == "schedule" {
            return Ok(Self::Schedule);
        }
        humantime::parse_duration(text).map(Self::Time)
    }

    fn describe(self) -> String {
        match self {
            Self::Time(time) => format!("within {}", humantime::format_duration(time)),
            Self::Schedule => format!("for {LATE_TICKS} ticks of the schedule"),
        }
    }

    fn is_exceeded(self, app: &config::App, last: &Crawl, finished: Time, now: Time) -> bool {
        match self {
            Self::Time(max_age) => (now - finished).to_std().unwrap_or_default() > max_age,
            Self::Schedule => {
                let began = last.started_at.time().unwrap_or(finished);
                app.schedule.ticks.passed(began, now, MAX_COUNTED_TICKS) >= LATE_TICKS
            }
        }
    }
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
        if let Some(name) = &self.app {
            statuses.retain(|status| status.app == *name);
            if statuses.is_empty() {
                let error = anyhow::anyhow!(
                    "neither the database nor the configuration has an app {name:?}; `tim-group-sync status` shows \
                     their apps"
                );
                return Err(Failure::new(Exit::Failed, error));
            }
        }
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
        let problems = service_problems(config.metrics.as_ref()).await;
        if self.output.is_json() {
            problems.iter().for_each(|problem| message(format_args!("daemon: {problem}")));
        }
        let text = |out: &mut dyn Write| {
            if apps.len() > MAX_IN_DETAIL {
                table::print(out, &apps, now)?;
            } else {
                apps.iter().try_for_each(|app| print_app(out, app, now))?;
            }
            problems.iter().try_for_each(|problem| writeln!(out, "daemon: {problem}"))
        };
        let stale = self.max_age.map_or_else(Vec::new, |max_age| stale(&config, &apps, max_age, now));
        if let (Some(max_age), false) = (self.max_age, stale.is_empty()) {
            let error = format!("no complete crawl {}: {}", max_age.describe(), stale.join(", "));
            return self.output.print_with_error_on_stderr((Exit::Failed, error), &apps, text);
        }
        self.output.print(Exit::Done, &apps, text)
    }
}

/// Returns the configured apps whose last complete crawl is older than `max_age`.
fn stale(config: &Config, apps: &[AppReport], max_age: MaxAge, now: Time) -> Vec<String> {
    apps.iter()
        .map(|app| &app.status)
        .filter_map(|status| Some((status, find_app(config, status)?)))
        .filter_map(|(status, app)| {
            Some(format!("{}{}", status.app, why_stale((app, status), max_age, now)?))
        })
        .collect()
}

/// Returns a suffix for the app's name in the error, or `None` if its last complete crawl is recent
/// enough. A crawl that ended in the future does not count.
fn why_stale((app, status): (&config::App, &AppStatus), max_age: MaxAge, now: Time) -> Option<String> {
    let last = status.last_complete_crawl.as_ref();
    let Some((last, finished)) = last.and_then(|crawl| Some((crawl, crawl.finished()?))) else {
        return Some(String::new());
    };
    if finished - now > MAX_FUTURE {
        let finished = text::time(finished);
        return Some(format!(" (its time {finished} is in the future: a clock is or was wrong)"));
    }
    max_age.is_exceeded(app, last, finished, now).then(String::new)
}

/// Returns an app's part of this configuration. `configured` in the database is not used, because a
/// process with another configuration may have written it.
fn find_app<'a>(config: &'a Config, status: &AppStatus) -> Option<&'a config::App> {
    config.apps.iter().find(|app| app.sdk_app_id.get() == status.sdk_app_id)
}

/// Returns when the daemon crawls the app next, as the dashboard shows it, and the due time of an
/// overdue crawl.
async fn next_crawl(
    store: &Store,
    config: &Config,
    status: &AppStatus,
    now: Time,
) -> Result<(Option<Stamp>, Option<Stamp>), StoreError> {
    let Some(app) = find_app(config, status) else { return Ok((None, None)) };
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
    print_groups(out, app)?;
    print_last_crawls(out, app, now)?;
    for Withheld { held: HeldDeletions { crawl_id, held_count, confirmed_count, .. }, .. } in &app.withheld {
        writeln!(
            out,
            "  withheld             {} of crawl {crawl_id}, {} of them confirmed by get_group_info\n  \
             {:20} list them: tim-group-sync approve --crawl {crawl_id} --dry-run\n  \
             {:20} apply them: tim-group-sync approve --crawl {crawl_id} [--confirmed]",
            text::count(*held_count, "deletion"),
            text::number(*confirmed_count),
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

/// Prints the number of groups of each type and of the app, beside the API's TotalCount.
fn print_groups(out: &mut dyn Write, app: &AppStatus) -> std::io::Result<()> {
    let row = |name: &str, counts: [i64; 3], total: Option<i64>| {
        let [live, missing, deleted] = counts.map(text::number);
        let total = total.map_or_else(|| "?".to_owned(), text::number);
        vec![name.to_owned(), live, total, missing, deleted]
    };
    let mut rows: Vec<Vec<String>> = app
        .types
        .iter()
        .map(|row| &row.of_type)
        .filter(|of_type| of_type.configured || of_type.live_count + of_type.deleted_count > 0)
        .map(|of_type| {
            let counts = [of_type.live_count, of_type.missing_count, of_type.deleted_count];
            row(of_type.group_type.as_deref().unwrap_or("(unknown)"), counts, of_type.total_count)
        })
        .collect();
    if rows.is_empty() {
        return Ok(());
    }
    rows.push(row("all", [app.live_count, app.missing_count, app.deleted_count], app.total_count));
    writeln!(out, "{}", text::table(&["group type", "live", "TotalCount", "missing", "deleted"], &rows))
}

/// Prints for how many live groups the details are known, if details are kept.
fn print_details(out: &mut dyn Write, app: &AppStatus, now: Time) -> std::io::Result<()> {
    let Some(details) = &app.details else { return Ok(()) };
    let oldest = details.oldest_as_of.and_then(Stamp::time);
    let oldest = oldest.map_or_else(String::new, |at| format!("; oldest fetched {}", text::ago(at, now)));
    writeln!(
        out,
        "  details              stored for {} of {}; fetched within details.refresh for {}{oldest}",
        text::number(details.groups),
        text::count(app.live_count, "live group"),
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
