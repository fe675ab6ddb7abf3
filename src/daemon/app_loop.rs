//! The loop of one app.
//!
//! It waits for its alarm, for SIGUSR1, for another plan or for the stop; whatever woke it, it looks at the clock and
//! decides anew.
//! - A tick is served once: its time is the crawl's `due_at`, of which the database keeps one. Of several ticks that
//!   passed (a long crawl, a suspended machine) the newest is served, or the next to come; the others are counted.
//! - A failed crawl is tried again with growing pauses until the next tick. Refused credentials are tried so seldom
//!   that ticks do not hurry them, each time with the key that is in the file then.
//! - A clock that is set back is followed: the next tick is the first after the new time, so it is never further away
//!   than a period. Ticks that come again are crawled again, but without their `due_at`, which is taken; until the clock
//!   is where it was, replicas may therefore both crawl the same tick.
//! - All waits are alarms at times of day, pauses too, so that suspends and steps of the clock are handled alike.
//! - Another plan is taken over between crawls. If its key cannot be read, the crawler of the plan before goes on, and
//!   the key is tried again before each crawl.

use std::error::Error;
use std::ops::ControlFlow;
use std::panic;
use std::pin::pin;
use std::sync::Arc;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;
use tracing::{debug, error, info, warn};

use super::board::{BoardEntry, text};
use super::database::{Database, opened};
use super::plan::AppPlan;
use crate::alarm::{Alarm, Wake};
use crate::clock::Clock;
use crate::crawl::{CrawlError, CrawlReport, CrawlRequest, Crawler, WhenBusy};
use crate::lifecycle::{Requests, Stop};
use crate::model::{CrawlStatus, ReasonCode, Trigger, with_causes};

/// Backoff after failed crawls.
const CRAWL_AGAIN: Backoff = Backoff { first: TimeDelta::minutes(1), max: TimeDelta::minutes(30) };
/// Backoff at the start, while the database does not tell when the app was crawled last. Asking costs next to nothing.
const DATABASE_AGAIN: Backoff = Backoff { first: TimeDelta::seconds(5), max: TimeDelta::minutes(1) };
/// A wake-up this late, or a clock set back this far, is worth a warning. Clocks are corrected by less all the time.
const NOTABLE: TimeDelta = TimeDelta::minutes(1);

/// Growing pauses between attempts.
#[derive(Clone, Copy)]
struct Backoff {
    first: TimeDelta,
    max: TimeDelta,
}

impl Backoff {
    /// Returns the pause after this number of failures in a row.
    fn after(self, failures: u32) -> TimeDelta {
        // The exponent is bounded against overflow: 2^10 exceeds all maxima here.
        self.max.min(self.first * (1 << failures.saturating_sub(1).min(10)))
    }
}

pub(super) struct AppLoop {
    plan: Arc<AppPlan>,
    plans: watch::Receiver<Arc<AppPlan>>,
    database: watch::Receiver<Database>,
    alarm: Alarm,
    entry: BoardEntry,
    clock: Clock,
    stop: Stop,
    requests: Requests,
    /// `None` until the database is there and the key was read.
    crawler: Option<Arc<Crawler>>,
    /// The crawler is not of this plan, or its key is no longer accepted.
    outdated: bool,
    /// Whether the database has told when the app was crawled last.
    started: bool,
    /// Ticks up to here are served or skipped.
    passed: DateTime<Utc>,
    /// The newest time whose ticks are taken in the database, as far as known here.
    newest: Option<DateTime<Utc>>,
    retry: Option<Retry>,
    /// Failures in a row since the last tick.
    failures: u32,
    /// What is wrong with the database, as it was logged.
    trouble: Option<String>,
}

/// An attempt to come.
#[derive(Clone, Copy)]
struct Retry {
    at: DateTime<Utc>,
    pause: TimeDelta,
    trigger: Trigger,
    /// Ticks wait for it too.
    holds_ticks: bool,
}

impl AppLoop {
    pub(super) fn new(
        mut plans: watch::Receiver<Arc<AppPlan>>,
        database: watch::Receiver<Database>,
        alarm: Alarm,
        entry: BoardEntry,
        clock: Clock,
        stop: Stop,
        requests: Requests,
    ) -> Self {
        let plan = Arc::clone(&plans.borrow_and_update());
        let passed = clock.now();
        info!(app = entry.app(), schedule = %plan.schedule, next = plan.schedule.next_after(passed).map(text), "scheduled");
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
            outdated: true,
            started: false,
            passed,
            newest: None,
            retry: None,
            failures: 0,
            trouble: None,
        }
    }

    pub(super) async fn run(mut self) {
        let mut occasion = None;
        loop {
            if let Some(crawler) = self.crawler(occasion).await {
                if !self.started {
                    occasion = self.begin(&crawler, occasion).await;
                }
                if let Some(occasion) = occasion
                    && self.crawl(&crawler, occasion).await.is_break()
                {
                    return;
                }
            }
            match self.next_occasion().await {
                Some(next) => occasion = Some(next),
                None => return,
            }
        }
    }

    /// Goes over to another plan, if there is one. An app that could not be crawled for its key is tried at once.
    async fn take_over_plan(&mut self) {
        if !self.plans.has_changed().unwrap_or(false) {
            return;
        }
        let plan = Arc::clone(&self.plans.borrow_and_update());
        let now = self.clock.now();
        if plan.schedule != self.plan.schedule {
            // Ticks of the new schedule that have passed are nobody's.
            self.passed = self.passed.max(now);
            info!(app = self.entry.app(), schedule = %plan.schedule, next = plan.schedule.next_after(now).map(text), "scheduled anew");
            self.entry.update(|state| state.schedule = plan.schedule.clone());
        }
        self.plan = plan;
        self.outdated = true;
        if let Some(retry) = self.retry.filter(|_| self.entry.is_refused()) {
            self.retry = Some(Retry { at: now, ..retry });
        }
        // Now, so that a key that cannot be read is told to whoever asked for the reload.
        self.crawler(None).await;
    }

    /// The app's crawler, made anew if it is outdated. `None` if there is none: the key cannot be read, or the program
    /// is to stop while it waits for the database.
    async fn crawler(&mut self, asked: Option<CrawlRequest>) -> Option<Arc<Crawler>> {
        if self.outdated {
            let store = tokio::select! {
                biased;
                () = self.stop.soft().cancelled() => None,
                store = opened(&mut self.database) => store,
            }?;
            self.entry.starting();
            let plan = Arc::clone(&self.plan);
            // A file may be slow to read, and the system's certificates are read with it.
            let making = tokio::task::spawn_blocking(move || (plan.crawler)(&store));
            match making.await.unwrap_or_else(|broken| panic::resume_unwind(broken.into_panic())) {
                Ok(crawler) => {
                    self.outdated = false;
                    self.entry.key_read(crawler.request_interval());
                    self.crawler = Some(Arc::new(crawler));
                }
                Err(why) => self.key_fails(&why, asked),
            }
        }
        self.crawler.clone()
    }

    fn key_fails(&mut self, why: &str, asked: Option<CrawlRequest>) {
        let app = self.entry.app();
        let goes_on = if self.crawler.is_some() {
            "it goes on with the settings and the key it has"
        } else {
            "it waits"
        };
        if self.entry.key_unreadable(why, self.crawler.is_some()) {
            error!(
                app,
                "the app's key cannot be used, and is read again before each crawl; {goes_on}: {why}"
            );
        } else {
            debug!(app, "the app's key still cannot be used: {why}");
        }
        if self.crawler.is_none() {
            self.fail(CRAWL_AGAIN, asked.map_or(Trigger::CatchUp, |asked| asked.trigger));
        }
    }

    /// Asks the database when the app was crawled last. Returns what is to be crawled now: what was missed, or else
    /// what was asked for.
    async fn begin(&mut self, crawler: &Crawler, asked: Option<CrawlRequest>) -> Option<CrawlRequest> {
        let last_start = tokio::select! {
            biased;
            () = self.stop.soft().cancelled() => return None,
            last_start = crawler.last_start() => last_start,
        };
        match last_start {
            Ok(last_start) => {
                self.started = true;
                self.recovered();
                self.newest = self.newest.max(last_start);
                let now = self.clock.now();
                let missed = self.plan.schedule.latest_due(last_start, now);
                if !self.plan.catch_up || (missed.is_none() && last_start.is_some()) {
                    return asked.filter(|asked| asked.trigger != Trigger::CatchUp);
                }
                self.pass_ticks(now);
                self.newest = self.newest.max(missed);
                Some(CrawlRequest { trigger: Trigger::CatchUp, due_at: missed })
            }
            Err(error) => {
                self.database_fails(&error);
                self.fail(DATABASE_AGAIN, asked.map_or(Trigger::CatchUp, |asked| asked.trigger));
                None
            }
        }
    }

    /// Waits until there is a reason to crawl; `None` if the program is to stop.
    async fn next_occasion(&mut self) -> Option<CrawlRequest> {
        let mut armed: Option<(DateTime<Utc>, Wake)> = None;
        while !self.stop.soft().is_cancelled() {
            self.take_over_plan().await;
            let now = self.clock.now();
            self.follow_clock(now);
            let next = self.next_attempt(now);
            if now >= next {
                if let Some((due, woken)) = armed
                    && now - due > NOTABLE
                {
                    let (app, rang) = (self.entry.app(), woken == Wake::Alarm);
                    warn!(app, due = %text(due), rang, "woken late: the machine slept, its clock was set, or an alarm was lost");
                }
                if let Some(occasion) = self.take_due(now) {
                    return Some(occasion);
                }
            }
            self.entry.waiting_until(next);
            self.alarm.set(next).await;
            tokio::select! {
                biased;
                () = self.stop.soft().cancelled() => {}
                Ok(()) = self.plans.changed() => self.plans.mark_changed(),
                () = self.requests.next() => {
                    self.failures = 0;
                    return Some(CrawlRequest { trigger: Trigger::Signal, due_at: None });
                }
                woken = self.alarm.wait() => armed = Some((next, woken)),
            }
        }
        None
    }

    fn next_attempt(&self, now: DateTime<Utc>) -> DateTime<Utc> {
        // A schedule without another tick before the year 5000 is looked at daily.
        let tick = self.plan.schedule.next_after(self.passed).unwrap_or(now + TimeDelta::days(1));
        match self.retry {
            Some(retry) if retry.holds_ticks => retry.at,
            Some(retry) => retry.at.min(tick),
            None => tick,
        }
    }

    /// What is due at `now`: the newest tick, or another attempt.
    fn take_due(&mut self, now: DateTime<Utc>) -> Option<CrawlRequest> {
        let retry = self.retry.take();
        let ticks = self.pass_ticks(now);
        if ticks == 0 {
            return retry.map(|retry| CrawlRequest { trigger: retry.trigger, due_at: None });
        }
        self.skip(ticks - 1);
        self.failures = 0;
        let tick = self.plan.schedule.latest_due(None, now);
        let due_at = tick.filter(|_| tick > self.newest);
        self.newest = self.newest.max(tick);
        Some(CrawlRequest { trigger: Trigger::Schedule, due_at })
    }

    /// Goes back with a clock that was set back, instead of waiting for it to catch up.
    fn follow_clock(&mut self, now: DateTime<Utc>) {
        if self.passed - now > NOTABLE {
            let (app, before) = (self.entry.app(), text(self.passed));
            warn!(app, before, now = %text(now), "the clock was set back; the schedule follows it");
            self.passed = now;
        }
        if let Some(retry) = &mut self.retry {
            retry.at = retry.at.min(now + retry.pause);
        }
    }

    /// Counts the ticks since the last time.
    fn pass_ticks(&mut self, now: DateTime<Utc>) -> u64 {
        let ticks = self.plan.schedule.missed(self.passed, now);
        self.passed = self.passed.max(now);
        ticks
    }

    fn skip(&self, ticks: u64) {
        if ticks > 0 {
            warn!(app = self.entry.app(), ticks, "ticks of the schedule passed without a crawl of their own");
            self.entry.update(|state| state.skipped_ticks += ticks);
        }
    }

    /// Crawls to the end, unless interrupted: then nobody is left to be told.
    async fn crawl(&mut self, crawler: &Crawler, occasion: CrawlRequest) -> ControlFlow<()> {
        let stop = self.stop.clone();
        self.retry = None;
        self.entry.crawl_started(self.clock.now(), self.plan.schedule.next_after(self.passed));
        let mut progress = crawler.progress();
        let mut crawl = pin!(crawler.crawl(occasion, WhenBusy::Wait, stop.soft()));
        let result = loop {
            tokio::select! {
                biased;
                () = stop.hard().cancelled() => return ControlFlow::Break(()),
                result = &mut crawl => break result,
                Ok(()) = progress.changed() => {
                    let progress = progress.borrow_and_update().clone();
                    self.entry.crawl_progressed(progress);
                }
            }
        };
        self.settle(occasion, result);
        let ticks = self.pass_ticks(self.clock.now());
        self.skip(ticks);
        ControlFlow::Continue(())
    }

    /// Decides what follows from a crawl.
    fn settle(&mut self, occasion: CrawlRequest, result: Result<CrawlReport, CrawlError>) {
        match result {
            Ok(report) => {
                let reason = report.reason.as_ref().map(|reason| reason.code);
                let refused = reason == Some(ReasonCode::Refused);
                match report.status {
                    CrawlStatus::Failed if refused => {
                        self.outdated = true;
                        self.fail_for(CRAWL_AGAIN.max, occasion.trigger, true);
                    }
                    CrawlStatus::Failed => self.fail(CRAWL_AGAIN, occasion.trigger),
                    _ => self.failures = 0,
                }
                if reason != Some(ReasonCode::Database) {
                    self.recovered();
                }
                self.entry.crawl_ended(report);
            }
            Err(CrawlError::Served { due_at }) => {
                debug!(app = self.entry.app(), due_at = %text(due_at), "this tick has been served already");
                self.failures = 0;
                self.recovered();
            }
            Err(CrawlError::Stopped) => {}
            Err(error @ (CrawlError::Store(_) | CrawlError::Busy { .. })) => {
                self.database_fails(&error);
                self.fail(CRAWL_AGAIN, occasion.trigger);
            }
        }
    }

    fn fail(&mut self, pauses: Backoff, trigger: Trigger) {
        self.failures += 1;
        self.fail_for(pauses.after(self.failures), trigger, false);
    }

    fn fail_for(&mut self, pause: TimeDelta, trigger: Trigger, holds_ticks: bool) {
        let at = self.clock.now() + pause;
        info!(app = self.entry.app(), at = %text(at), "trying again then, unless something earlier asks for it");
        self.retry = Some(Retry { at, pause, trigger, holds_ticks });
    }

    fn database_fails(&mut self, error: &dyn Error) {
        let trouble = with_causes(error);
        if self.trouble.as_ref() == Some(&trouble) {
            debug!(app = self.entry.app(), "the database still fails: {trouble}");
            return;
        }
        error!(app = self.entry.app(), "the database fails; waiting for it: {trouble}");
        self.entry.update(|state| state.database_problem = Some(trouble.clone()));
        self.trouble = Some(trouble);
    }

    fn recovered(&mut self) {
        if self.trouble.take().is_some() {
            info!(app = self.entry.app(), "the database works again");
            self.entry.update(|state| state.database_problem = None);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_half_an_hour() {
        let minutes: Vec<i64> = (1..=7).map(|failures| CRAWL_AGAIN.after(failures).num_minutes()).collect();
        assert_eq!(minutes, [1, 2, 4, 8, 16, 30, 30]);
        assert_eq!(CRAWL_AGAIN.after(u32::MAX), CRAWL_AGAIN.max);
    }
}
