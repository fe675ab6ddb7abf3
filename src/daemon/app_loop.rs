//! The loop of one app: waits until a crawl is due, crawls, and computes when the next crawl is
//! due.
//!
//! The loop wakes up for its alarm, SIGUSR1, a new plan, a reopened database and a stop. Its rules:
//! - Each tick of the schedule starts at most one crawl. The tick is the crawl's `due_at`, which is
//!   unique in the database. Ticks that pass during a crawl are skipped. If several ticks pass
//!   during a suspend of the machine, one crawl serves the newest tick and the others are skipped.
//! - A failed crawl is retried with exponential backoff until the next tick. After refused
//!   credentials the pause is half an hour, no tick starts a crawl before the retry, and the key is
//!   read from its file again.
//! - If the clock is set back, the loop computes the next tick from the new time, so it is at most
//!   one period away. Ticks between the new and the old time are crawled a second time. Their
//!   `due_at` already exists in the database, so the second crawls are recorded without a `due_at`.
//!   Then nothing prevents several replicas from crawling the same tick.
//! - All waits, including the pauses before retries, are alarms at a time of day. So they end at
//!   the right time even after a suspend or a step of the clock.
//! - If the database is opened again after its file was moved, deleted or replaced, the loop reads
//!   when the app was last crawled and catches up, as at its start.
//! - A new plan takes effect between crawls. If its key cannot be read or its HTTP client cannot be
//!   created, the crawler of the previous plan stays in use, and both are tried again before each
//!   crawl.

use std::error::Error;
use std::ops::ControlFlow;
use std::panic;
use std::pin::pin;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use super::board::{BoardEntry, format_time};
use super::database::{Database, wait_until_open};
use super::next_crawl::{Backoff, CRAWL_BACKOFF, RetryTime, backoff_after, next_crawl};
use super::plan::{AppPlan, Workers, WorkersError};
use crate::alarm::{Alarm, Wake};
use crate::clock::Clock;
use crate::crawl::{CrawlError, CrawlReport, CrawlRequest, Crawler, WhenBusy};
use crate::details::DetailsRefresher;
use crate::lifecycle::{SignalRequests, Stop};
use crate::model::{CrawlStatus, ReasonCode, Trigger, with_causes};

/// Pauses while the database is unreachable. They are short, because an attempt is cheap, and
/// because a crawl should start soon after the database is reachable again.
const DATABASE_BACKOFF: Backoff = Backoff { first: TimeDelta::seconds(5), max: TimeDelta::seconds(20) };
/// Wake-ups that are late by at most this time are not logged. Backward steps of the clock up to
/// this size are ignored.
const CLOCK_STEP_TOLERANCE: TimeDelta = TimeDelta::minutes(1);

pub(super) struct AppLoop {
    plan: Arc<AppPlan>,
    plans: watch::Receiver<Arc<AppPlan>>,
    database: watch::Receiver<Database>,
    alarm: Alarm,
    entry: BoardEntry,
    clock: Clock,
    stop: Stop,
    requests: SignalRequests,
    /// `None` until the database is open, the key was read and the HTTP client was created.
    crawler: Option<Arc<Crawler>>,
    /// Runs between crawls. `None` if the details of groups are not kept.
    details: Option<Arc<DetailsRefresher>>,
    /// Whether the crawler has to be created again, because the plan or the database changed, or
    /// because the API refused its key.
    crawler_outdated: bool,
    /// Whether the time of the last crawl was read from the database.
    last_start_known: bool,
    /// All ticks until this time were crawled or skipped.
    handled_until: DateTime<Utc>,
    /// Ticks until this time may already be in the database as a `due_at`: the later of the newest
    /// tick crawled by this loop and the start of the app's last crawl. Their crawls are recorded
    /// without a `due_at`.
    due_ats_used_until: Option<DateTime<Utc>>,
    retry: Option<Retry>,
    /// Consecutive failures since the last tick or SIGUSR1.
    failures: u32,
    /// The database problem that was logged last.
    database_problem: Option<String>,
}

#[derive(Clone, Copy)]
struct Retry {
    time: RetryTime,
    pause: TimeDelta,
    trigger: Trigger,
}

impl AppLoop {
    pub(super) fn new(
        mut plans: watch::Receiver<Arc<AppPlan>>,
        database: watch::Receiver<Database>,
        alarm: Alarm,
        entry: BoardEntry,
        clock: Clock,
        stop: Stop,
        requests: SignalRequests,
    ) -> Self {
        let plan = Arc::clone(&plans.borrow_and_update());
        let now = clock.now();
        info!(app = entry.app(), schedule = %plan.schedule, next = plan.schedule.next_after(now).map(format_time), "scheduled");
        Self {
            plan,
            plans,
            database,
            alarm,
            entry,
            clock,
            stop,
            requests,
            crawler: None,
            details: None,
            crawler_outdated: true,
            last_start_known: false,
            handled_until: now,
            due_ats_used_until: None,
            retry: None,
            failures: 0,
            database_problem: None,
        }
    }

    pub(super) async fn run(mut self) {
        let mut request = None;
        loop {
            if let Some(crawler) = self.current_crawler(request).await {
                if !self.last_start_known {
                    request = self.first_request(&crawler, request).await;
                }
                if let Some(request) = request
                    && self.crawl(&crawler, request).await.is_break()
                {
                    return;
                }
            }
            match self.next_request().await {
                Some(next) => request = Some(next),
                None => return,
            }
        }
    }

    /// Switches to the new plan, if there is one. If the credentials were refused or the crawler
    /// could not be created, the retry becomes due at once.
    async fn apply_new_plan(&mut self) {
        if !self.plans.has_changed().unwrap_or(false) {
            return;
        }
        let plan = Arc::clone(&self.plans.borrow_and_update());
        let now = self.clock.now();
        if plan.schedule != self.plan.schedule {
            // Past ticks of the new schedule do not count.
            self.handled_until = self.handled_until.max(now);
            info!(app = self.entry.app(), schedule = %plan.schedule, next = plan.schedule.next_after(now).map(format_time), "rescheduled");
            self.entry.update(|state| state.schedule = plan.schedule.clone());
        }
        self.entry.update(|state| state.group_quota = plan.group_quota);
        self.plan = plan;
        self.crawler_outdated = true;
        if let Some(retry) = self.retry.as_mut().filter(|_| self.entry.needs_correction()) {
            retry.time.at = now;
        }
        // Creates the crawler now, so that a problem with its key is reported soon after the reload.
        self.current_crawler(None).await;
    }

    /// Returns the app's crawler, and creates it first if it is outdated. Returns `None` if it
    /// cannot be created and there is no previous crawler, or if a stop is requested before the
    /// database is open. `request` is the crawl to make; if the crawler cannot be created, the retry
    /// gets its trigger.
    async fn current_crawler(&mut self, request: Option<CrawlRequest>) -> Option<Arc<Crawler>> {
        if self.crawler_outdated {
            let store = tokio::select! {
                biased;
                () = self.stop.soft().cancelled() => None,
                store = wait_until_open(&mut self.database) => store,
            }?;
            self.entry.set_starting();
            let plan = Arc::clone(&self.plan);
            // Creating a crawler blocks: it reads the key file and the system's certificates.
            let creating = tokio::task::spawn_blocking(move || (plan.workers)(&store));
            match creating.await.unwrap_or_else(|panicked| panic::resume_unwind(panicked.into_panic())) {
                Ok(Workers { crawler, details }) => {
                    self.crawler_outdated = false;
                    self.entry.set_workers_created(crawler.request_interval());
                    self.crawler = Some(Arc::new(crawler));
                    self.details = details.map(Arc::new);
                }
                Err(error) => self.on_crawler_not_created(&error, request),
            }
        }
        self.crawler.clone()
    }

    /// Drops the crawler of the displaced database, and makes a scheduled retry due at once. The
    /// next crawler is created once a database is open.
    fn use_next_database(&mut self) {
        (self.crawler, self.details, self.crawler_outdated) = (None, None, true);
        self.last_start_known = false;
        if let Some(retry) = &mut self.retry {
            retry.time.at = self.clock.now();
        }
        self.entry.set_waiting_for_database();
    }

    fn on_crawler_not_created(&mut self, why: &WorkersError, request: Option<CrawlRequest>) {
        let app = self.entry.app();
        if self.entry.set_workers_error(why, self.crawler.is_some()) {
            let effect = if self.crawler.is_some() {
                "crawls use the previous key and settings"
            } else {
                "the app is not crawled"
            };
            match why {
                WorkersError::Key(why) => error!(
                    app,
                    "the app's key cannot be used, so {effect}; it is read again before each \
                     attempt: {why}"
                ),
                WorkersError::Client(why) => error!(
                    app,
                    "the API cannot be called, so {effect}; the HTTP client is created again \
                     before each attempt: {why}"
                ),
            }
        } else {
            debug!(app, "the crawler still cannot be created: {why}");
        }
        if self.crawler.is_none() {
            self.retry_with_backoff(
                CRAWL_BACKOFF,
                request.map_or(Trigger::CatchUp, |request| request.trigger),
            );
        }
    }

    /// Reads from the database when the app was last crawled, and returns the first crawl to make:
    /// - With `catch_up`, a crawl for the newest tick, if that tick was missed or the app was never
    ///   crawled.
    /// - Otherwise the requested crawl, unless it was to catch up: then nothing was missed.
    async fn first_request(
        &mut self,
        crawler: &Crawler,
        request: Option<CrawlRequest>,
    ) -> Option<CrawlRequest> {
        let last_start = tokio::select! {
            biased;
            () = self.stop.soft().cancelled() => return None,
            last_start = crawler.last_start() => last_start,
        };
        match last_start {
            Ok(last_start) => {
                self.last_start_known = true;
                self.on_database_recovered();
                self.due_ats_used_until = self.due_ats_used_until.max(last_start);
                let now = self.clock.now();
                // Without a missed tick, catching up makes a crawl only for an app that was never
                // crawled.
                let missed = self.plan.schedule.latest_due(last_start, now);
                if !self.plan.catch_up || (missed.is_none() && last_start.is_some()) {
                    return request.filter(|request| request.trigger != Trigger::CatchUp);
                }
                self.mark_ticks_handled(now);
                self.due_ats_used_until = self.due_ats_used_until.max(missed);
                Some(CrawlRequest { trigger: Trigger::CatchUp, due_at: missed })
            }
            Err(error) => {
                self.on_database_error(&error);
                let trigger = request.map_or(Trigger::CatchUp, |request| request.trigger);
                self.retry_with_backoff(DATABASE_BACKOFF, trigger);
                None
            }
        }
    }

    /// Waits until a crawl is due, and refreshes details meanwhile. Returns `None` if a stop is
    /// requested.
    async fn next_request(&mut self) -> Option<CrawlRequest> {
        let mut woken: Option<(DateTime<Utc>, Wake)> = None;
        let mut refresher = self.details.clone();
        // Dropped when a crawl is due, so that the crawl does not wait for a details request.
        let mut refreshing = Box::pin(refresh(refresher.clone()));
        while !self.stop.soft().is_cancelled() {
            self.apply_new_plan().await;
            // A new plan or database has created another refresher.
            if self.details.as_ref().map(Arc::as_ptr) != refresher.as_ref().map(Arc::as_ptr) {
                refresher = self.details.clone();
                refreshing.set(refresh(refresher.clone()));
            }
            let now = self.clock.now();
            self.adjust_to_clock(now);
            let next = self.next_crawl(now);
            if now >= next {
                if let Some((due, wake)) = woken
                    && now - due > CLOCK_STEP_TOLERANCE
                {
                    let (app, by_alarm) = (self.entry.app(), wake == Wake::Alarm);
                    warn!(app, due = %format_time(due), by_alarm, "woken late: the machine was suspended, its clock was set, or an alarm was lost");
                }
                if let Some(request) = self.take_due(now) {
                    return Some(request);
                }
            }
            self.entry.set_waiting_until(next);
            self.alarm.set(next).await;
            tokio::select! {
                biased;
                () = self.stop.soft().cancelled() => {}
                // `changed` marked the plan as seen. `apply_new_plan` must see it as new.
                Ok(()) = self.plans.changed() => self.plans.mark_changed(),
                Ok(()) = self.database.changed() => {
                    self.use_next_database();
                    return Some(CrawlRequest { trigger: Trigger::CatchUp, due_at: None });
                }
                () = self.requests.next() => {
                    self.failures = 0;
                    return Some(CrawlRequest { trigger: Trigger::Signal, due_at: None });
                }
                wake = self.alarm.wait() => woken = Some((next, wake)),
                () = &mut refreshing => {}
            }
        }
        None
    }

    fn next_crawl(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        let next = next_crawl(&self.plan.schedule, self.handled_until, self.retry.map(|retry| retry.time));
        // A schedule without a further tick (its search ends in the year 5000) is searched again
        // after a day.
        next.unwrap_or(now + TimeDelta::days(1))
    }

    /// Returns the crawl that is due at `now`: that of the newest tick, otherwise the retry.
    fn take_due(&mut self, now: DateTime<Utc>) -> Option<CrawlRequest> {
        let retry = self.retry.take();
        let ticks = self.mark_ticks_handled(now);
        if ticks == 0 {
            return retry.map(|retry| CrawlRequest { trigger: retry.trigger, due_at: None });
        }
        self.record_skipped(ticks - 1);
        self.failures = 0;
        let tick = self.plan.schedule.latest_due(None, now);
        let due_at = tick.filter(|_| tick > self.due_ats_used_until);
        self.due_ats_used_until = self.due_ats_used_until.max(tick);
        Some(CrawlRequest { trigger: Trigger::Schedule, due_at })
    }

    /// If the clock was set back, moves the handled ticks and the retry back too, so that the next
    /// crawl is not delayed.
    fn adjust_to_clock(&mut self, now: DateTime<Utc>) {
        if self.handled_until - now > CLOCK_STEP_TOLERANCE {
            let (app, before) = (self.entry.app(), format_time(self.handled_until));
            warn!(app, before, now = %format_time(now), "the clock was set back; computing the next crawl from the new time");
            self.handled_until = now;
        }
        if let Some(retry) = &mut self.retry {
            retry.time.at = retry.time.at.min(now + retry.pause);
        }
    }

    /// Marks all ticks until `now` as handled, and returns their number.
    fn mark_ticks_handled(&mut self, now: DateTime<Utc>) -> u64 {
        let ticks = self.plan.schedule.missed(self.handled_until, now);
        self.handled_until = self.handled_until.max(now);
        ticks
    }

    fn record_skipped(&self, ticks: u64) {
        if ticks > 0 {
            warn!(
                app = self.entry.app(),
                ticks,
                "skipped ticks of the schedule: a crawl was running, a retry was pending, or the \
                 machine was suspended; if crawls take longer than the interval of the schedule, \
                 set a less frequent `cron`"
            );
            self.entry.update(|state| state.skipped_ticks += ticks);
        }
    }

    /// Crawls the app. Returns `Break` if a hard stop interrupts the crawl.
    async fn crawl(&mut self, crawler: &Crawler, request: CrawlRequest) -> ControlFlow<()> {
        let stop = self.stop.clone();
        self.retry = None;
        self.entry
            .on_crawl_started(self.clock.now(), next_crawl(&self.plan.schedule, self.handled_until, None));
        let mut progress = crawler.progress();
        let mut crawl = pin!(crawler.crawl(request, WhenBusy::Wait, stop.soft()));
        let result = loop {
            tokio::select! {
                biased;
                () = stop.hard().cancelled() => return ControlFlow::Break(()),
                result = &mut crawl => break result,
                Ok(()) = progress.changed() => {
                    let progress = progress.borrow_and_update().clone();
                    self.entry.on_crawl_progressed(progress);
                }
            }
        };
        self.on_crawl_ended(request, result);
        let ticks = self.mark_ticks_handled(self.clock.now());
        self.record_skipped(ticks);
        ControlFlow::Continue(())
    }

    /// Records how a crawl ended, and schedules a retry if it failed.
    fn on_crawl_ended(&mut self, request: CrawlRequest, result: Result<CrawlReport, CrawlError>) {
        match result {
            Ok(report) => {
                let reason = report.reason.as_ref().map(|reason| reason.code);
                let is_refused = reason == Some(ReasonCode::Refused);
                match report.status {
                    CrawlStatus::Failed if is_refused => {
                        self.crawler_outdated = true;
                        let time =
                            RetryTime { at: report.finished_at + CRAWL_BACKOFF.max, delays_ticks: true };
                        self.schedule_retry(Retry {
                            time,
                            pause: CRAWL_BACKOFF.max,
                            trigger: request.trigger,
                        });
                    }
                    CrawlStatus::Failed => {
                        let backoff = backoff_after(reason);
                        self.retry_with_backoff_from(report.finished_at, backoff, request.trigger);
                    }
                    _ => self.failures = 0,
                }
                if reason != Some(ReasonCode::Database) {
                    self.on_database_recovered();
                }
                self.entry.on_crawl_ended(report);
            }
            Err(CrawlError::TickAlreadyCrawled { due_at }) => {
                debug!(app = self.entry.app(), due_at = %format_time(due_at), "another process has crawled this tick");
                self.failures = 0;
                self.on_database_recovered();
            }
            Err(CrawlError::Stopped) => {}
            // Only `WhenBusy::GiveUp` returns this, and the loop waits.
            Err(CrawlError::Busy { .. }) => self.retry_with_backoff(CRAWL_BACKOFF, request.trigger),
            Err(CrawlError::Store(error)) => {
                let backoff = if error.is_transient() { DATABASE_BACKOFF } else { CRAWL_BACKOFF };
                self.on_database_error(&error);
                self.retry_with_backoff(backoff, request.trigger);
            }
        }
    }

    fn retry_with_backoff(&mut self, backoff: Backoff, trigger: Trigger) {
        self.retry_with_backoff_from(self.clock.now(), backoff, trigger);
    }

    fn retry_with_backoff_from(&mut self, failed_at: DateTime<Utc>, backoff: Backoff, trigger: Trigger) {
        self.failures += 1;
        let pause = backoff.after(self.failures);
        let time = RetryTime { at: failed_at + pause, delays_ticks: false };
        self.schedule_retry(Retry { time, pause, trigger });
    }

    fn schedule_retry(&mut self, retry: Retry) {
        info!(app = self.entry.app(), at = %format_time(retry.time.at), "retry scheduled");
        self.retry = Some(retry);
    }

    fn on_database_error(&mut self, error: &dyn Error) {
        let problem = with_causes(error);
        if self.database_problem.as_ref() == Some(&problem) {
            debug!(app = self.entry.app(), "still cannot write to the database: {problem}");
            return;
        }
        error!(app = self.entry.app(), "cannot write to the database, retrying: {problem}");
        self.entry.update(|state| state.database_problem = Some(problem.clone()));
        self.database_problem = Some(problem);
    }

    fn on_database_recovered(&mut self) {
        if self.database_problem.take().is_some() {
            info!(app = self.entry.app(), "writing to the database works again");
            self.entry.update(|state| state.database_problem = None);
        }
    }
}

/// Refreshes details until the future is dropped. Without a refresher, waits forever.
async fn refresh(details: Option<Arc<DetailsRefresher>>) {
    match details {
        Some(details) => details.run().await,
        None => std::future::pending().await,
    }
}
