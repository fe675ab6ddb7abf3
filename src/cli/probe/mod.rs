//! `check --probe`: tests undocumented behaviour of the real API with read-only requests. List
//! requests are sent under the app's lease and at its rate. The printed table contains no ids,
//! names or secrets, so that it can be published.

mod questions;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout};

use self::questions::{ProbeResult, Row};
use super::checks::{self, Finding, RETRY_FOR, WAIT_FOR_LEASE};
use super::exit::{Exit, Failure};
use super::output::{Output, message};
use super::setup::Setup;
use super::text;
use crate::config::{App, Config};
use crate::model::GroupType;
use crate::pace::{Pacer, RetryBudget, RetryPolicy};
use crate::store::{Lease, Store};
use crate::tencent::probe::{Call, Entry, Listed, RawAnswer, UnknownId};
use crate::tencent::wire::ListRequest;
use crate::tencent::{ApiError, Client};

/// The page size. It is small, so that a list of a few hundred groups has a second page.
const LIMIT: u32 = 100;
/// Interval between two `get_group_info` requests. The API allows 200 a second.
const INFO_INTERVAL: Duration = Duration::from_millis(100);
/// The two group types with different names in the SDKs and in the REST API.
const ALIASES: [(&str, &str); 2] = [("Work", "Private"), ("Meeting", "ChatRoom")];

/// A row of the JSON list. Apps have numbers, because their names are confidential.
#[derive(Serialize)]
struct NumberedRow<'a> {
    app: usize,
    #[serde(flatten)]
    row: &'a Row,
}

/// Makes the checks of `check` and prints their results to stderr. Then probes the API for each app
/// that passed them. `wait` is the pause before a `Next` is used a second time.
pub(super) async fn run(
    setup: &Setup,
    config: &Config,
    wait: Duration,
    output: Output,
) -> Result<Exit, Failure> {
    let (findings, store) = checks::run_checks(setup, config).await?;
    // A closed stderr is not an error: the exit code still shows the result.
    let _ = checks::print(&mut io::stderr().lock(), &findings);
    let mut tables = Vec::new();
    for app in &config.apps {
        let mut rows = vec![version_and_region(app)];
        rows.extend(probe_if_checked(setup, app, &findings, store.as_ref(), wait).await);
        tables.push(rows);
    }
    let numbered: Vec<NumberedRow<'_>> = (1..)
        .zip(&tables)
        .flat_map(|(app, rows)| rows.iter().map(move |row| NumberedRow { app, row }))
        .collect();
    output.print(checks::worst(&findings), numbered, |out| {
        tables.iter().try_for_each(|rows| {
            let cells: Vec<Vec<String>> = rows.iter().map(Row::cells).collect();
            writeln!(out, "{}", text::table(&["question", "answer", "detail"], &cells))
        })
    })
}

fn version_and_region(app: &App) -> Row {
    let region = app.api.region.map_or_else(|| "set by base_url".to_owned(), |region| region.to_string());
    let version = concat!(env!("CARGO_PKG_NAME"), " ", env!("CARGO_PKG_VERSION"));
    Row::new("program and region", format!("{version}, region {region}"), "")
}

async fn probe_if_checked(
    setup: &Setup,
    app: &App,
    findings: &[Finding],
    store: Option<&Store>,
    wait: Duration,
) -> Vec<Row> {
    if findings.iter().any(|finding| finding.is_failure_of(&app.name)) {
        return vec![Row::not_asked("all questions", "the check of this app did not succeed")];
    }
    let Ok((client, _)) = setup.client_and_warnings(app) else {
        return vec![Row::not_asked("all questions", "the key can no longer be read")];
    };
    let lease = match store {
        None => None,
        Some(store) => match timeout(WAIT_FOR_LEASE, store.lease(app.sdk_app_id, |_| ())).await {
            Ok(Ok(lease)) => Some(lease),
            Ok(Err(_)) => {
                return vec![Row::not_asked("all questions", "the app's lease cannot be acquired")];
            }
            Err(_) => {
                return vec![Row::not_asked("all questions", "another process is crawling the app")];
            }
        },
    };
    let mut prober = Prober::new(setup, app, &client, lease.as_ref());
    let probe = prober.probe(&app.group_types, wait);
    let Some(lease) = lease else { return probe.await };
    let rows = lease.run_while_held(probe).await;
    lease.release(setup.clock.now(), app.request_interval).await;
    rows.unwrap_or_else(|_| vec![Row::not_asked("all questions", "the app's lease expired")])
}

/// Makes the requests for one app.
struct Prober<'a> {
    setup: &'a Setup,
    app: &'a App,
    client: &'a Client,
    list_pacer: Pacer,
    info_pacer: Pacer,
    retries: RetryBudget,
    statistics: AnswerStatistics,
}

/// Statistics over all answers of one app.
#[derive(Default)]
struct AnswerStatistics {
    /// The number of answers by HTTP status.
    statuses: BTreeMap<u16, u32>,
    list_fields: BTreeSet<String>,
    list_entry_fields: BTreeSet<String>,
    info_fields: BTreeSet<String>,
    info_entry_fields: BTreeSet<String>,
    /// The `Date` header of the first answer, and the time of its arrival.
    date: Option<(Option<String>, DateTime<Utc>)>,
}

impl AnswerStatistics {
    fn record(&mut self, answer: &RawAnswer, received_at: DateTime<Utc>) {
        *self.statuses.entry(answer.status).or_default() += 1;
        let (fields, entry_fields) = match answer.call {
            Call::List => (&mut self.list_fields, &mut self.list_entry_fields),
            Call::Info => (&mut self.info_fields, &mut self.info_entry_fields),
        };
        fields.extend(answer.fields());
        entry_fields.extend(answer.entry_fields());
        self.date.get_or_insert_with(|| (answer.date.clone(), received_at));
    }

    fn rows(&self) -> Vec<Row> {
        vec![
            questions::unknown_fields(Call::List, &self.list_fields),
            questions::unknown_entry_fields(Call::List, &self.list_entry_fields),
            questions::unknown_fields(Call::Info, &self.info_fields),
            questions::unknown_entry_fields(Call::Info, &self.info_entry_fields),
            questions::statuses(&self.statuses),
            questions::date(self.date.as_ref().map(|(date, at)| (date.as_deref(), *at))),
        ]
    }
}

/// A group type with its first page, or the reason why there is none.
type FirstPage = (GroupType, ProbeResult<Listed>);

impl<'a> Prober<'a> {
    fn new(setup: &'a Setup, app: &'a App, client: &'a Client, lease: Option<&Lease>) -> Self {
        // The check has just sent a request, and the lease records when the next one may be sent.
        // Without a lease that time is unknown, so the first request waits for a full interval.
        let pause = lease.map_or(app.request_interval, |lease| lease.pause(setup.clock.now()));
        let wait = pause.min(app.request_interval);
        Self {
            setup,
            app,
            client,
            list_pacer: Pacer::new(app.request_interval, Instant::now() + wait),
            info_pacer: Pacer::new(INFO_INTERVAL, Instant::now()),
            retries: RetryBudget::new(RetryPolicy::lasting(RETRY_FOR.min(app.retry_for))),
            statistics: AnswerStatistics::default(),
        }
    }

    async fn probe(&mut self, configured: &[GroupType], wait: Duration) -> Vec<Row> {
        let interval = humantime::format_duration(self.app.request_interval);
        message(format_args!("app {}: probing the API, one list request every {interval}", self.app.name));
        let unfiltered = self.list(None, 0).await;
        let mut by_type = Vec::new();
        for group_type in types_to_list(configured) {
            let page = self.list(Some(group_type.as_str()), 0).await;
            by_type.push((group_type, page));
        }
        let mut rows = self.ask_about_unknown_ids().await;
        rows.extend(self.ask_about_listed_groups(&by_type).await);
        rows.push(questions::filter(&unfiltered, &by_type));
        for (alias, name) in ALIASES {
            let listed = self.list(Some(alias), 0).await;
            rows.push(questions::alias((alias, &listed), (name, page_of(&by_type, name)), &unfiltered));
        }
        rows.push(self.compare_order(&unfiltered, &by_type).await);
        rows.push(self.reuse_cursor(&unfiltered, &by_type, wait).await);
        rows.extend(self.statistics.rows());
        rows
    }

    async fn ask_about_unknown_ids(&mut self) -> Vec<Row> {
        let mut rows = Vec::new();
        for form in UnknownId::ALL {
            let id = form.random();
            let answer = self.group_info(&[&id]).await;
            rows.push(questions::unknown_id(form, &id, &answer));
            if form == UnknownId::Default {
                rows.push(questions::top_level("one unknown id", &answer));
            }
        }
        rows
    }

    async fn ask_about_listed_groups(&mut self, by_type: &[FirstPage]) -> Vec<Row> {
        let listed =
            |page: &ProbeResult<Listed>| page.as_ref().ok().and_then(|page| page.ids.first().cloned());
        let ids: Vec<String> = by_type.iter().filter_map(|(_, page)| listed(page)).collect();
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let Some(first) = ids.first() else {
            let mut rows: Vec<Row> = by_type
                .iter()
                .map(|(group_type, page)| questions::listed_group(group_type, page, &Ok(Vec::new())))
                .collect();
            rows.push(Row::not_asked(questions::TOP_LEVEL_LISTED, "no list has a group"));
            return rows;
        };
        let answer = self.group_info(&ids).await;
        let entries: ProbeResult<Vec<Entry>> = questions::entries(&answer);
        let mut rows: Vec<Row> = by_type
            .iter()
            .map(|(group_type, page)| questions::listed_group(group_type, page, &entries))
            .collect();
        rows.push(questions::top_level("listed groups", &answer));
        let mixed = self.group_info(&[first, &UnknownId::Default.random()]).await;
        rows.push(questions::top_level("a listed group and an unknown id", &mixed));
        rows
    }

    /// Requests the longest first page again, and compares the order of its ids.
    async fn compare_order(&mut self, unfiltered: &ProbeResult<Listed>, by_type: &[FirstPage]) -> Row {
        let longest = first_pages(unfiltered, by_type).max_by_key(|(_, page)| page.ids.len());
        match longest {
            Some((group_type, first)) if first.ids.len() > 1 => {
                let second = self.list(group_type, 0).await;
                questions::order(first, &second)
            }
            _ => Row::not_asked(questions::ORDER, "no first page has two groups"),
        }
    }

    /// Uses the `Next` of a first page twice, with a pause of `wait` in between.
    async fn reuse_cursor(
        &mut self,
        unfiltered: &ProbeResult<Listed>,
        by_type: &[FirstPage],
        wait: Duration,
    ) -> Row {
        let mut continued = first_pages(unfiltered, by_type)
            .filter_map(|(group_type, page)| Some((group_type, page.next.filter(|next| *next != 0)?)));
        let Some((group_type, next)) = continued.next() else {
            let why = format!("no list has a second page at a Limit of {LIMIT}");
            return Row::not_asked(questions::NEXT, &why);
        };
        let first = self.list(group_type, next).await;
        let waited = humantime::format_duration(wait).to_string();
        if first.is_ok() {
            message(format_args!("waiting {waited} before using the same Next again"));
            sleep(wait).await;
        }
        let second = match &first {
            Ok(_) => self.list(group_type, next).await,
            Err(why) => Err(why.clone()),
        };
        questions::next_again(&first, &second, &waited)
    }

    /// Requests one page.
    async fn list(&mut self, group_type: Option<&str>, next: u64) -> ProbeResult<Listed> {
        let request = ListRequest { limit: LIMIT, next, group_type: group_type.map(str::to_owned) };
        let client = self.client;
        let send = || client.list_raw(&request);
        let answer = self.retries.request(
            &self.list_pacer,
            |_| transient_as_error(send()),
            ApiError::disposition,
            |_| (),
        );
        let answer = answer.await.map_err(|error| questions::reason(&error))?;
        self.statistics.record(&answer, self.setup.clock.now());
        questions::page(&answer)
    }

    /// Requests the types of single groups.
    async fn group_info(&mut self, ids: &[&str]) -> ProbeResult<RawAnswer> {
        let client = self.client;
        let send = || client.group_info_raw(ids);
        let answer = self.retries.request(
            &self.info_pacer,
            |_| transient_as_error(send()),
            ApiError::disposition,
            |_| (),
        );
        let answer = answer.await.map_err(|error| questions::reason(&error))?;
        self.statistics.record(&answer, self.setup.clock.now());
        Ok(answer)
    }
}

/// Turns an answer with a transient error code into an error, so that the request is retried.
async fn transient_as_error(
    answer: impl Future<Output = Result<RawAnswer, ApiError>>,
) -> Result<RawAnswer, ApiError> {
    let answer = answer.await?;
    answer.transient_failure().map_or(Ok(answer), Err)
}

/// Returns the configured types, or the documented ones if none are configured, and the REST names
/// of [`ALIASES`].
fn types_to_list(configured: &[GroupType]) -> Vec<GroupType> {
    let mut types = if configured.is_empty() { GroupType::documented() } else { configured.to_vec() };
    for name in ALIASES.iter().filter_map(|(_, name)| GroupType::new(name)) {
        if !types.contains(&name) {
            types.push(name);
        }
    }
    types
}

fn page_of<'a>(by_type: &'a [FirstPage], name: &str) -> Option<&'a Listed> {
    by_type
        .iter()
        .find(|(group_type, _)| group_type.as_str() == name)
        .and_then(|(_, page)| page.as_ref().ok())
}

/// Returns the first pages that were listed, those of single types first.
fn first_pages<'a>(
    unfiltered: &'a ProbeResult<Listed>,
    by_type: &'a [FirstPage],
) -> impl Iterator<Item = (Option<&'a str>, &'a Listed)> {
    let of_types = by_type
        .iter()
        .filter_map(|(group_type, page)| Some((Some(group_type.as_str()), page.as_ref().ok()?)));
    of_types.chain(unfiltered.as_ref().ok().map(|page| (None, page)))
}
