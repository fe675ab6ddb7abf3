//! Decides which conditions hold, and writes the text about them. No I/O.

use std::collections::BTreeMap;

use chrono::{DateTime, SecondsFormat, TimeDelta, Utc};
use indicatif::HumanCount;

use super::message::{ConditionState, Event, Notification, quoted};
use super::states::{ConditionKey, Holds, is_end_delivered};
use crate::daemon::{AppState, Apps, LATE_TICKS, MAX_COUNTED_TICKS, is_quota_near};
use crate::model::{CrawlStatus, SdkAppId, plural};
use crate::store::{AppOverview, Crawl, HeldDeletions, NotificationRow, Stamp};

/// The debounce time: how long an app must be late, or the database unavailable, before a
/// notification is sent. The alert rules use the same time. The catch-up crawls after a start of
/// the service, or a restart of the database, usually take less.
const DEBOUNCE: TimeDelta = TimeDelta::minutes(10);
/// The maximum number of crawls that a text names.
const MAX_NAMED: usize = 3;

/// A condition, whether or not it holds.
#[derive(Clone, Debug)]
pub(super) struct Condition {
    pub(super) holds: Holds,
    app: Option<(String, SdkAppId)>,
    /// The text of notifications while the condition holds.
    text: String,
    /// The text of the notification that it has ended.
    ended: &'static str,
    command: Option<String>,
    crawl_id: Option<i64>,
}

impl Condition {
    /// Returns the notification of a state. `begun_at` is when the condition was first noticed, in
    /// unix milliseconds.
    pub(super) fn notification(
        &self,
        (event, state): (Event, ConditionState),
        begun_at: i64,
        now: DateTime<Utc>,
    ) -> Notification {
        let subject = self.app.as_ref().map_or_else(String::new, |(app, _)| format!("App {app}: "));
        let begun = DateTime::from_timestamp_millis(begun_at).map_or_else(String::new, time);
        let text = match state {
            ConditionState::Begins => format!("{subject}{}", self.text),
            ConditionState::Lasts => format!("{subject}{} This has lasted since {begun}.", self.text),
            ConditionState::Ends => {
                format!("{subject}{} The problem was first noticed at {begun}.", self.ended)
            }
        };
        let is_over = state == ConditionState::Ends;
        Notification {
            event,
            state,
            app: self.app.as_ref().map(|(app, _)| app.clone()),
            sdk_app_id: self.app.as_ref().map(|(_, id)| *id),
            at: now,
            text,
            command: self.command.clone().filter(|_| !is_over),
            crawl_id: self.crawl_id.filter(|_| !is_over),
        }
    }
}

/// For each condition that holds, since when this process has observed it without interruption.
#[derive(Debug, Default)]
pub(super) struct DebounceTimers(BTreeMap<ConditionKey, DateTime<Utc>>);

impl DebounceTimers {
    /// Records whether a condition holds. Returns since when it has held, or `None` if it does not.
    fn update(&mut self, key: ConditionKey, holds: bool, now: DateTime<Utc>) -> Option<DateTime<Utc>> {
        if !holds {
            self.0.remove(&key);
            return None;
        }
        let since = self.0.entry(key).or_insert(now);
        // The clock may have been set back.
        *since = now.min(*since);
        Some(*since)
    }

    /// Records whether a condition holds, and returns it with its debounce state.
    fn holds(&mut self, key: ConditionKey, holds: bool, now: DateTime<Utc>) -> Holds {
        match self.update(key, holds, now) {
            Some(since) => Holds::Yes { is_debounced: now - since >= DEBOUNCE },
            None => Holds::No,
        }
    }
}

/// Returns the conditions of all configured apps. `overviews` is their state in the database, and
/// `notifications` are the rows of the last notifications.
pub(super) fn of_apps(
    apps: &Apps,
    overviews: &[AppOverview],
    notifications: &[NotificationRow],
    timers: &mut DebounceTimers,
    now: DateTime<Utc>,
) -> BTreeMap<ConditionKey, Condition> {
    let mut conditions = BTreeMap::new();
    for (name, state) in apps {
        let id = state.sdk_app_id;
        let overview = overviews.iter().find(|overview| overview.sdk_app_id == id.get());
        let app = App { name, id, state, overview, now };
        let key = |event| ConditionKey { app: Some(id), event };
        let is_open = |row: &&NotificationRow| {
            ConditionKey::of(row) == Some(key(Event::Refused)) && !is_end_delivered(row)
        };
        let row = notifications.iter().find(is_open);
        let refused = app.refused(key(Event::Refused), row, timers);
        let mut late = app.late(key(Event::Late), timers);
        if matches!(refused.holds, Holds::Yes { .. }) {
            // No crawl can be complete while the credentials are refused.
            late.holds = Holds::Unknown;
        }
        conditions.insert(key(Event::Refused), refused);
        conditions.insert(key(Event::Late), late);
        conditions.insert(key(Event::Withheld), app.withheld());
        conditions.insert(key(Event::Quota), app.quota());
    }
    conditions
}

/// Returns the condition that the database cannot be used. It holds if there is a `problem`.
pub(super) fn of_database(
    problem: Option<&str>,
    host: &str,
    timers: &mut DebounceTimers,
    now: DateTime<Utc>,
) -> (ConditionKey, Condition) {
    let key = ConditionKey { app: None, event: Event::Database };
    let text = format!(
        "The service on {host} cannot use its database, so it crawls no app: {}.",
        quoted(problem.unwrap_or_default())
    );
    let condition = Condition {
        holds: timers.holds(key, problem.is_some(), now),
        app: None,
        text,
        ended: "The database can be used again.",
        command: Some("tim-group-sync check".to_owned()),
        crawl_id: None,
    };
    (key, condition)
}

/// The state of an app, from the daemon and from the database.
struct App<'a> {
    name: &'a str,
    id: SdkAppId,
    state: &'a AppState,
    overview: Option<&'a AppOverview>,
    now: DateTime<Utc>,
}

impl App<'_> {
    fn condition(&self, holds: Holds, text: String, ended: &'static str) -> Condition {
        let app = Some((self.name.to_owned(), self.id));
        Condition { holds, app, text, ended, command: None, crawl_id: None }
    }

    /// Returns the condition that deletions wait for a decision.
    fn withheld(&self) -> Condition {
        let held = self.overview.map(|overview| overview.held.as_slice()).unwrap_or_default();
        // Groups whose deletion a person undid are held too, but no decision about them is needed.
        let waiting = |held: &HeldDeletions| held.held_count - held.undone_count;
        let crawls: Vec<&HeldDeletions> = held.iter().filter(|held| waiting(held) > 0).collect();
        let Some(newest) = crawls.first() else {
            let holds = if self.overview.is_some() { Holds::No } else { Holds::Unknown };
            return self.condition(holds, String::new(), "no deletion is withheld any more.");
        };
        let groups: i64 = crawls.iter().map(|held| waiting(held)).sum();
        let confirmed: i64 = crawls.iter().map(|held| held.confirmed_count).sum();
        let ids: Vec<String> = crawls.iter().take(MAX_NAMED).map(|held| held.crawl_id.to_string()).collect();
        let more = if crawls.len() > MAX_NAMED { " and earlier ones" } else { "" };
        let reason = newest.reason.as_deref();
        let reason = reason
            .map_or_else(String::new, |reason| format!(" Crawl {}: {}.", newest.crawl_id, quoted(reason)));
        let text = format!(
            "the deletion of {} waits for a decision ({} confirmed by the API), withheld by {} {}{more}.{reason}",
            count(groups, "group"),
            HumanCount(confirmed.try_into().unwrap_or_default()),
            plural(crawls.len() as u64, "crawl"),
            ids.join(", "),
        );
        Condition {
            command: Some(format!("tim-group-sync approve --crawl {}", newest.crawl_id)),
            crawl_id: Some(newest.crawl_id),
            ..self.condition(Holds::Yes { is_debounced: true }, text, "")
        }
    }

    /// Returns the condition that the credentials are refused. It holds in two cases:
    /// - The newest crawl of any process was refused.
    /// - This process has no accepted key, and no process has crawled the app since.
    ///
    /// It ends once a crawl has listed groups. `row` is the row of the last notification, unless
    /// that was about the end of the condition.
    fn refused(
        &self,
        key: ConditionKey,
        row: Option<&NotificationRow>,
        timers: &mut DebounceTimers,
    ) -> Condition {
        let last = self.overview.and_then(|overview| overview.last_crawl.as_ref());
        let is_refused = self.overview.is_some_and(AppOverview::is_refused);
        let accepted_at = self.accepted_at();
        let refused_here = timers.update(key, self.state.refused, self.now);
        let is_refused_here = refused_here.is_some_and(|since| accepted_at.is_none_or(|at| at <= since));
        let begun_at = row.and_then(|row| DateTime::from_timestamp_millis(row.begun_at));
        let holds = match begun_at {
            _ if is_refused || is_refused_here => Holds::Yes { is_debounced: true },
            Some(begun_at) if accepted_at.is_none_or(|at| at <= begun_at) => Holds::Unknown,
            _ => Holds::No,
        };
        let key_problem = self.state.key_problem.as_deref();
        let reason = key_problem.or(last.filter(|_| is_refused).and_then(|crawl| crawl.reason.as_deref()));
        let reason = reason.map_or_else(String::new, |reason| format!(": {}", quoted(reason)));
        let problem =
            if key_problem.is_some() { "the key cannot be used" } else { "the API refuses the credentials" };
        let text = format!("{problem}{reason}. The app is not crawled until this is corrected.");
        Condition {
            command: Some("tim-group-sync check".to_owned()),
            crawl_id: last.filter(|_| is_refused).map(|crawl| crawl.crawl_id),
            ..self.condition(holds, text, "the API accepts the credentials again.")
        }
    }

    /// Returns the end of the last crawl in which the API accepted the credentials.
    fn accepted_at(&self) -> Option<DateTime<Utc>> {
        let overview = self.overview?;
        let is_incomplete = |crawl: &&Crawl| crawl.status == CrawlStatus::Incomplete.as_str();
        let incomplete = overview.last_crawl.as_ref().filter(is_incomplete).and_then(Crawl::finished);
        overview.last_complete_crawl.as_ref().and_then(Crawl::finished).max(incomplete)
    }

    /// Returns the condition that no crawl was complete for [`LATE_TICKS`] ticks.
    fn late(&self, key: ConditionKey, timers: &mut DebounceTimers) -> Condition {
        let complete = self.overview.and_then(|overview| overview.last_complete_crawl.as_ref());
        let first = self.overview.and_then(|overview| overview.first_crawl_started_at);
        let Some(from) = complete.map(|crawl| crawl.started_at).or(first).and_then(Stamp::time) else {
            return self.condition(Holds::Unknown, String::new(), "");
        };
        let ticks = self.state.schedule.passed(from, self.now, MAX_COUNTED_TICKS);
        let holds = timers.holds(key, ticks >= LATE_TICKS, self.now);
        let at_least = if ticks == MAX_COUNTED_TICKS as u64 { "at least " } else { "" };
        let last = complete.and_then(Crawl::finished).map_or_else(
            || "No crawl has been complete yet.".to_owned(),
            |at| format!("The last complete crawl ended at {}.", time(at)),
        );
        let failed = self
            .overview
            .and_then(|overview| overview.last_crawl.as_ref())
            .filter(|crawl| crawl.status != CrawlStatus::Complete.as_str() && crawl.reason.is_some());
        let reason = failed.map_or_else(String::new, |crawl| {
            format!(
                " The last crawl was {}: {}.",
                crawl.status,
                quoted(crawl.reason.as_deref().unwrap_or_default())
            )
        });
        let text = format!(
            "no complete crawl for {at_least}{}, so its groups and counts are out of date. {last}{reason}",
            count(i64::try_from(ticks).unwrap_or(i64::MAX), "tick")
        );
        Condition {
            command: Some("tim-group-sync status".to_owned()),
            crawl_id: failed.map(|crawl| crawl.crawl_id),
            ..self.condition(holds, text, "a crawl is complete again.")
        }
    }

    /// Returns the condition that the peak of the month is near `group_quota`.
    fn quota(&self) -> Condition {
        let ended = "the peak of the month is below 80 % of group_quota again.";
        let Some(quota) = self.state.group_quota else {
            return self.condition(Holds::No, String::new(), "group_quota is no longer set.");
        };
        let month_peak = self.overview.and_then(|overview| overview.month_peak);
        let Some(peak) = month_peak.and_then(|peak| u64::try_from(peak).ok()) else {
            return self.condition(Holds::Unknown, String::new(), ended);
        };
        let percent = peak.saturating_mul(100) / quota.max(1);
        let is_near = is_quota_near(month_peak, Some(quota));
        let text = format!(
            "{} at the peak of this month, {percent} % of group_quota ({}).",
            count(i64::try_from(peak).unwrap_or(i64::MAX), "group"),
            HumanCount(quota)
        );
        let holds = if is_near { Holds::Yes { is_debounced: true } } else { Holds::No };
        self.condition(holds, text, ended)
    }
}

fn count(count: i64, noun: &str) -> String {
    let count = u64::try_from(count).unwrap_or_default();
    format!("{} {}", HumanCount(count), plural(count, noun))
}

fn time(time: DateTime<Utc>) -> String {
    time.to_rfc3339_opts(SecondsFormat::Secs, true)
}
