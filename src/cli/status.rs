//! `status`: shows the state of each app from the database. Needs neither the API nor a key.

use std::io::{self, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::time::Duration;

use clap::Args;
use serde::Serialize;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::exit::{Exit, Failure};
use super::output::Output;
use super::setup::{Setup, location};
use super::text;
use crate::config::Config;
use crate::crawl::CLOCK_SKEW_WARNING;
use crate::daemon::{HISTORY_LENGTH, next_crawl_by_history};
use crate::model::SdkAppId;
use crate::store::{AppStatus, Below, Crawl, HostTypes, LeaseHolder, Stamp, Store, StoreError, Withheld};

/// Timeout for the answer of the daemon, which itself waits up to two seconds for the database.
const DAEMON_TIMEOUT: Duration = Duration::from_secs(3);
/// The maximum size of the daemon's answer in bytes.
const MAX_DAEMON_ANSWER: u64 = 64 * 1024;

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
        let now = setup.clock.now();
        let store = Store::open_to_read(&location(&config)?).await?;
        store.check_migrated().await?;
        let mut statuses = store.app_statuses().await?;
        let is_known = |id: i64| statuses.iter().any(|status| status.sdk_app_id == id);
        let unknown: Vec<_> = config.apps.iter().filter(|app| !is_known(app.sdk_app_id.get())).collect();
        statuses.extend(unknown.into_iter().map(|app| AppStatus::never_crawled(&app.name, app.sdk_app_id)));
        let mut apps = Vec::new();
        for status in statuses {
            let lease_holder = match SdkAppId::new(status.sdk_app_id) {
                // A lock file that this user may not read must not hide the rest of the status.
                Some(app) => store.lease_holder(app).await.unwrap_or_default(),
                None => None,
            };
            apps.push(Shown {
                next_crawl_at: next_crawl(&store, &config, &status, now).await?,
                crawled_now: lease_holder.is_some(),
                lease_holder,
                status,
            });
        }
        let problems = problems_of_daemon(config.metrics).await.unwrap_or_default();
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
fn stale(config: &Config, apps: &[Shown], max_age: Duration, now: Time) -> Vec<String> {
    apps.iter()
        .map(|app| &app.status)
        .filter(|app| is_configured(config, app) && !is_fresh(app, max_age, now))
        .map(|app| app.app.clone())
        .collect()
}

/// Returns the problems that the daemon reports, or `None` if no daemon answers on the configured address.
///
/// The request is written by hand: it is one line of HTTP/1.0 to this machine, and an HTTP client would use its proxy settings
/// and load CA certificates.
async fn problems_of_daemon(listener: Option<SocketAddr>) -> Option<Vec<String>> {
    let mut address = listener?;
    match address.ip() {
        IpAddr::V4(all) if all.is_unspecified() => address.set_ip(Ipv4Addr::LOCALHOST.into()),
        IpAddr::V6(all) if all.is_unspecified() => address.set_ip(Ipv6Addr::LOCALHOST.into()),
        _ => {}
    }
    let asking = async {
        let mut connection = TcpStream::connect(address).await?.take(MAX_DAEMON_ANSWER);
        let request = format!("GET /readyz HTTP/1.0\r\nHost: {address}\r\n\r\n");
        connection.get_mut().write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        connection.read_to_string(&mut answer).await?;
        Ok::<_, io::Error>(answer)
    };
    let answer = timeout(DAEMON_TIMEOUT, asking).await.ok()?.ok()?;
    let (_, lines) = answer.split_once("\r\n\r\n")?;
    Some(lines.lines().filter(|line| *line != "ready").map(str::to_owned).collect())
}

/// The status of an app, with values that are not in the database.
#[derive(Serialize)]
struct Shown {
    #[serde(flatten)]
    status: AppStatus,
    next_crawl_at: Option<Stamp>,
    /// Whether a process holds the app's lease.
    crawled_now: bool,
    lease_holder: Option<LeaseHolder>,
}

type Time = chrono::DateTime<chrono::Utc>;

/// Returns whether an app is in this configuration. The mark in the database may be from a process with another one.
fn is_configured(config: &Config, status: &AppStatus) -> bool {
    config.apps.iter().any(|app| app.sdk_app_id.get() == status.sdk_app_id)
}

fn is_fresh(app: &AppStatus, max_age: Duration, now: Time) -> bool {
    let finished = app.last_complete_crawl.as_ref().and_then(Crawl::finished);
    finished.is_some_and(|finished| (now - finished).to_std().unwrap_or_default() <= max_age)
}

/// Returns when the daemon crawls the app next, as the dashboard shows it.
async fn next_crawl(
    store: &Store,
    config: &Config,
    status: &AppStatus,
    now: Time,
) -> Result<Option<Stamp>, StoreError> {
    let app = config.apps.iter().find(|app| app.sdk_app_id.get() == status.sdk_app_id);
    let Some(app) = app else { return Ok(None) };
    let crawls = match store.app_called(app.sdk_app_id).await? {
        Some((id, _)) => store.crawls(id, Below { before: i64::MAX, limit: HISTORY_LENGTH }).await?,
        None => Vec::new(),
    };
    let next = next_crawl_by_history(&app.schedule.ticks, &crawls, now);
    Ok(next.map(|time| Stamp(time.timestamp_millis())))
}

fn print_app(
    out: &mut dyn Write,
    Shown { status: app, next_crawl_at, lease_holder, .. }: &Shown,
    now: Time,
) -> std::io::Result<()> {
    let note = if app.configured { "" } else { "  no longer configured" };
    writeln!(out, "{} (SDKAppID {}){note}", app.app, app.sdk_app_id)?;
    let rows: Vec<Vec<String>> = app
        .types
        .iter()
        .filter(|kind| kind.configured != 0 || kind.live + kind.deleted > 0)
        .map(|kind| {
            let name = kind.group_type.clone().unwrap_or_else(|| "(unknown)".to_owned());
            vec![name, text::number(kind.live), text::number(kind.missing), text::number(kind.deleted)]
        })
        .collect();
    if !rows.is_empty() {
        writeln!(out, "{}", text::table(&["group type", "live", "missing", "deleted"], &rows))?;
    }
    print_last_crawls(out, app, now)?;
    for Withheld { crawl_id, groups, confirmed } in &app.withheld {
        writeln!(
            out,
            "  withheld             {} of crawl {crawl_id}, {} of them confirmed by get_group_info: \
             `tim-group-sync approve --crawl {crawl_id}` applies them, with --confirmed only those, with --dry-run it lists them",
            text::count(*groups, "deletion"),
            text::number(*confirmed)
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
            "  replicas crawl different group types: {}. Give them the same group_types",
            hosts.join("; ")
        )?;
    }
    if let Some(next) = next_crawl_at.and_then(Stamp::time) {
        writeln!(out, "  next crawl           {}", text::time(next))?;
    }
    writeln!(out)
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
        // The recorded reason asks for an approval, which has happened since.
        Some(_) if crawl.deletions.as_deref() == Some("approved") => {
            writeln!(out, "                       it withheld deletions, which were approved")
        }
        Some(reason) => writeln!(out, "                       because: {reason}"),
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
                "  left open            crawl {}{since}; its process ended, the next crawl closes it",
                crawl.crawl_id
            )?;
        }
    }
    if let Some(LeaseHolder { host, since }) = lease_holder {
        let since = since
            .map_or_else(String::new, |at| format!(" since {} ({})", text::time(at), text::ago(at, now)));
        writeln!(out, "  lease                held by {host}{since}")?;
    }
    Ok(())
}

/// Prints how many groups the last crawl left undecided, and whether its clock was wrong.
fn print_undecided(out: &mut dyn Write, crawl: &Crawl) -> std::io::Result<()> {
    let waiting = crawl.unasked + crawl.unlearned;
    if waiting > 0 {
        writeln!(
            out,
            "  undecided            {} not listed: {} not asked about yet, {} without a usable answer; the next crawl asks \
             get_group_info",
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
            crawl.host
        )?;
    }
    Ok(())
}

fn describe_types(HostTypes { host, group_types }: &HostTypes) -> String {
    if group_types.is_empty() {
        return format!("{host} all types in one pass (group_types = [])");
    }
    format!("{host} {}", group_types.join(", "))
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
