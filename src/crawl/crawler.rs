//! Runs the crawls of one app, from acquiring the lease to recording the result.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, error_span, info, warn};

use super::clock_skew::{CLOCK_SKEW_WARNING, MAX_CLOCK_SKEW, format_skew};
use super::conclusion::{Conclusion, conclude};
use super::context::CrawlContext;
use super::details::{LookedUpDetails, keep_details, remove_details};
use super::dry_run::{DryRunTypes, WriteTarget};
use super::error::{CrawlError, Interrupted};
use super::listing::{Findings, read_lists};
use super::observer::Observer;
use super::progress::{Progress, Step};
use super::purge::purge;
use super::report::{CrawlReport, DryRun, shortfall_reason, withheld_reason};
use super::settings::{CrawlRequest, CrawlSettings, WhenBusy};
use super::statistics::{LastFailure, fetch_statistics};
use crate::clock::Clock;
use crate::model::{CrawlStatus, GroupType, TypeId, with_causes};
use crate::pace::{Pacer, RetryBudget};
use crate::pages::{Caller, RequestEvent};
use crate::policy::Retention;
use crate::reconcile::Settlement;
use crate::store::{AppId, AppIdentity, Closing, HistoryChanges, Lease, NewCrawl, Reason, Store, StoreError};
use crate::tencent::{ApiError, Client};

/// Crawls one app repeatedly. The rate limit of its requests also applies between crawls.
#[derive(Debug)]
pub struct Crawler {
    settings: CrawlSettings,
    retention: Retention,
    /// The last failed fetch of the app's statistics. `None` if they are not fetched.
    statistics: Option<LastFailure>,
    client: Client,
    store: Store,
    clock: Clock,
    pacer: Pacer,
    progress: watch::Sender<Progress>,
    /// The types that the API rejected in the previous crawl.
    rejected_types: Mutex<BTreeSet<GroupType>>,
    /// Whether the clock skew exceeded [`CLOCK_SKEW_WARNING`] in the previous crawl.
    skew_exceeded_warning: AtomicBool,
    observer: Option<Arc<dyn Observer>>,
}

/// A crawl whose end is recorded.
struct RecordedCrawl {
    app: AppId,
    report: CrawlReport,
    /// The details of groups that the crawl looked up.
    details: LookedUpDetails,
}

impl RecordedCrawl {
    fn reached_its_end(&self) -> bool {
        matches!(self.report.status, CrawlStatus::Complete | CrawlStatus::Incomplete)
    }
}

/// The outcome of a crawl, before it is recorded.
struct CrawlOutcome {
    status: CrawlStatus,
    reason: Option<Reason>,
    settlement: Settlement,
    history: Option<HistoryChanges>,
    findings: Findings,
    requests: u64,
}

impl Crawler {
    #[must_use]
    pub fn new(settings: CrawlSettings, client: Client, store: Store, clock: Clock) -> Self {
        let pacer = Pacer::new(settings.request_interval, Instant::now());
        let (progress, _) = watch::channel(Progress::default());
        Self {
            settings,
            retention: Retention::default(),
            statistics: None,
            client,
            store,
            clock,
            pacer,
            progress,
            rejected_types: Mutex::default(),
            skew_exceeded_warning: AtomicBool::new(false),
            observer: None,
        }
    }

    /// Removes rows that are older than `retention` after crawls. By default all rows are kept.
    #[must_use]
    pub fn with_retention(self, retention: Retention) -> Self {
        Self { retention, ..self }
    }

    /// Fetches the API's own statistics of the app once a day, after a crawl. By default they are
    /// not fetched.
    #[must_use]
    pub fn with_statistics(self, enabled: bool) -> Self {
        Self { statistics: enabled.then(LastFailure::default), ..self }
    }

    /// Reports the events of requests and crawls to this observer.
    #[must_use]
    pub fn with_observer(self, observer: Arc<dyn Observer>) -> Self {
        Self { observer: Some(observer), ..self }
    }

    /// Returns a receiver of the progress of the current crawl.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// Returns the start of the app's last crawl that reached its end. Any process may have run it.
    /// Registers the app in the database.
    pub async fn last_start(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        let (app, _) = self.store.register_app(&self.settings.identity, &self.settings.group_types).await?;
        self.store.last_start(app).await
    }

    /// Returns the minimum time between two list requests.
    #[must_use]
    pub fn request_interval(&self) -> Duration {
        self.settings.request_interval
    }

    #[must_use]
    pub fn identity(&self) -> &AppIdentity {
        &self.settings.identity
    }

    /// Crawls the app once. Returns a report even if the crawl failed or was stopped. Returns an
    /// error if no crawl was started, or if its end could not be recorded.
    pub async fn crawl(
        &self,
        request: CrawlRequest,
        when_busy: WhenBusy,
        stop: &CancellationToken,
    ) -> Result<CrawlReport, CrawlError> {
        let crawling = async {
            let lease = self.acquire_lease(when_busy, stop).await?;
            let recorded = lease.run_while_held(Box::pin(self.crawl_with_lease(&lease, request, stop))).await;
            let recorded = recorded.map_err(CrawlError::from).flatten();
            if let Ok(recorded) = &recorded {
                // This work renews the lease itself. Its failure does not change the result of the
                // crawl.
                self.after_crawl(&lease, recorded, stop).await;
            }
            self.release(lease).await;
            recorded.map(|recorded| recorded.report)
        };
        self.in_crawl_span(crawling).await
    }

    /// Returns the changes that a crawl would make now. Makes the same requests, and writes no
    /// groups.
    pub async fn dry_run(&self, when_busy: WhenBusy, stop: &CancellationToken) -> Result<DryRun, CrawlError> {
        let running = async {
            let lease = self.acquire_lease(when_busy, stop).await?;
            let report = lease.run_while_held(Box::pin(self.dry_run_with_lease(&lease, stop))).await;
            self.release(lease).await;
            report.map_err(CrawlError::from).flatten()
        };
        self.in_crawl_span(running).await
    }

    /// Runs a crawl in a span with the app's name, and resets the progress afterwards.
    async fn in_crawl_span<T>(
        &self,
        crawling: impl Future<Output = Result<T, CrawlError>>,
    ) -> Result<T, CrawlError> {
        let app = self.settings.identity.name.as_str();
        // The span has level error, so that no log filter removes it and the app's name.
        let outcome = crawling.instrument(error_span!("crawl", app)).await;
        self.progress.send_replace(Progress::default());
        outcome
    }

    /// Acquires the app's lease. Delays the next request until the time that the previous holder
    /// recorded, but at most by this process's own request interval.
    async fn acquire_lease(
        &self,
        when_busy: WhenBusy,
        stop: &CancellationToken,
    ) -> Result<Lease, CrawlError> {
        let identity = &self.settings.identity;
        let lease = match when_busy {
            WhenBusy::GiveUp => self
                .store
                .try_lease(identity.sdk_app_id)
                .await?
                .ok_or_else(|| CrawlError::Busy { app: identity.name.clone() })?,
            WhenBusy::Wait => {
                let on_failed_attempt = |failed_attempts| {
                    if failed_attempts == 0 {
                        let holder = self.store.describe_holder(identity.sdk_app_id);
                        warn!(
                            app = identity.name,
                            "{holder} is crawling this app; waiting until it has finished"
                        );
                    }
                    // Each attempt to acquire the lease shows the watchdog that the loop is alive.
                    self.progress.send_modify(|progress| progress.step = Step::WaitingForLease);
                };
                tokio::select! {
                    lease = self.store.lease(identity.sdk_app_id, on_failed_attempt) => lease?,
                    () = stop.cancelled() => return Err(CrawlError::Stopped),
                }
            }
        };
        // The delay is limited, because the clock of the previous holder may have been wrong.
        let pause = lease.pause(self.clock.now());
        if !pause.is_zero() {
            self.pacer.not_before(Instant::now() + pause.min(self.settings.request_interval)).await;
        }
        Ok(lease)
    }

    /// Releases the lease, and records in it when the next request may be sent.
    async fn release(&self, lease: Lease) {
        let wait = self.pacer.next_slot().await.saturating_duration_since(Instant::now());
        lease.release(self.clock.now(), wait).await;
    }

    async fn crawl_with_lease(
        &self,
        lease: &Lease,
        request: CrawlRequest,
        stop: &CancellationToken,
    ) -> Result<RecordedCrawl, CrawlError> {
        let settings = &self.settings;
        let started_at = self.clock.now();
        let (app, types) = self.store.register_app(&settings.identity, &settings.group_types).await?;
        let new = NewCrawl {
            app,
            trigger: request.trigger,
            due_at: request.due_at,
            started_at,
            host: settings.host.clone(),
            group_types: settings.group_types.clone(),
        };
        let Some(crawl) = self.store.open_crawl(lease, &new, settings.day(started_at)).await? else {
            return Err(CrawlError::TickAlreadyCrawled { due_at: request.due_at.unwrap_or(started_at) });
        };
        let target = WriteTarget::Database(crawl);
        let context = self.context(lease, &self.store, (app, types), target, stop);
        let outcome = self.execute(&context).await;
        let finished_at = self.clock.now();
        let passes = outcome.findings.records(started_at);
        let closing = Closing {
            crawl,
            app,
            started_at,
            finished_at,
            day: settings.day(finished_at),
            status: outcome.status,
            reason: outcome.reason,
            requests: outcome.requests,
            total_at_start: outcome.findings.total_at_start,
            total_at_end: outcome.findings.total_at_end,
            leftover: outcome.findings.leftover,
            next_needs_unfiltered_pass: outcome.findings.next_needs_unfiltered_pass,
            listed: outcome.findings.listed,
            clock_skew: self.check_clock_skew(),
            history: outcome.history.as_ref(),
            passes: &passes,
            settlement: &outcome.settlement,
        };
        let report = self.close(lease, closing, &outcome.findings).await?;
        Ok(RecordedCrawl { app, report, details: outcome.findings.details })
    }

    /// Removes old rows, stores the details that the crawl received, and fetches the app's
    /// statistics, after a crawl that reached its end. If details are not kept, removes stored
    /// ones.
    async fn after_crawl(&self, lease: &Lease, recorded: &RecordedCrawl, stop: &CancellationToken) {
        let RecordedCrawl { app, report, details } = recorded;
        if !recorded.reached_its_end() {
            return;
        }
        let target = WriteTarget::Database(report.crawl);
        let context = self.context(lease, &self.store, (*app, BTreeMap::new()), target, stop);
        purge(&context, self.retention, report.crawl, report.finished_at).await;
        if self.settings.details.is_some() {
            keep_details(&context, details).await;
        } else {
            remove_details(&context).await;
        }
        if let Some(last_failure) = &self.statistics {
            let caller = self.caller();
            fetch_statistics(&context, &caller, self.retention, last_failure).await;
        }
    }

    /// Returns a caller with the full retry budget of one crawl.
    fn caller(&self) -> Caller<'_> {
        let retries = RetryBudget::new(self.settings.retry);
        Caller::new(&self.client, &self.pacer, retries, self.settings.info(), |event| self.on_event(event))
    }

    /// Records the end of a crawl in one transaction, logs the crawl, and reports it to the
    /// observer.
    async fn close(
        &self,
        lease: &Lease,
        closing: Closing<'_>,
        findings: &Findings,
    ) -> Result<CrawlReport, CrawlError> {
        let to_mark = closing.settlement.mark_count();
        let report_marked = |marked| {
            self.progress.send_modify(|progress| progress.step = Step::Concluding { marked, to_mark });
        };
        report_marked(0);
        let closing_crawl = self.store.close_crawl(lease, &closing, report_marked);
        let events = Box::pin(closing_crawl).await?;
        let report = CrawlReport::new(closing, findings, events);
        report.log();
        if let Some(observer) = &self.observer {
            observer.on_crawl_recorded(&report);
        }
        Ok(report)
    }

    async fn dry_run_with_lease(
        &self,
        lease: &Lease,
        stop: &CancellationToken,
    ) -> Result<DryRun, CrawlError> {
        let settings = &self.settings;
        let store = self.store.only_reading();
        // An app that is not registered has no groups. The key 0 belongs to no app, so queries with
        // it return no rows.
        let app = store.find_app(settings.identity.sdk_app_id).await?.unwrap_or(AppId(0));
        let mut dry_types = DryRunTypes::read(&store).await?;
        let types = dry_types.ids(&settings.group_types);
        let target = WriteTarget::dry_run(dry_types);
        let context = self.context(lease, &store, (app, types), target, stop);
        let CrawlOutcome { status, reason, settlement, findings, requests, .. } =
            self.execute(&context).await;
        Ok(DryRun {
            status,
            deletions: settlement.deletions(status),
            reason,
            requests,
            listed: findings.listed,
            total: findings.total_at_end.or(findings.total_at_start),
            lookups: settlement.lookup_counts(),
            changes: context.target.into_changes(&settlement),
        })
    }

    fn context<'a>(
        &'a self,
        lease: &'a Lease,
        store: &'a Store,
        (app, types): (AppId, BTreeMap<GroupType, TypeId>),
        target: WriteTarget,
        stop: &'a CancellationToken,
    ) -> CrawlContext<'a> {
        CrawlContext {
            settings: &self.settings,
            store,
            lease,
            clock: &self.clock,
            app,
            types,
            target,
            rejected_before: &self.rejected_types,
            stop,
            progress: &self.progress,
        }
    }

    /// Returns the clock skew. Logs when it begins to exceed [`CLOCK_SKEW_WARNING`], and when it no
    /// longer does.
    fn check_clock_skew(&self) -> Option<TimeDelta> {
        let skew = self.client.clock_skew()?;
        let differs = skew.abs() > CLOCK_SKEW_WARNING;
        if differs != self.skew_exceeded_warning.swap(differs, Ordering::Relaxed) {
            let skew_seconds = skew.num_seconds();
            if differs {
                warn!(
                    skew_seconds,
                    "this machine's clock and the API's differ by {}; correct the clock: if they \
                     differ by more than {}, crawls fail",
                    format_skew(skew),
                    format_skew(MAX_CLOCK_SKEW)
                );
            } else {
                info!(skew_seconds, "this machine's clock and the API's agree again");
            }
        }
        Some(skew)
    }

    fn on_event(&self, event: RequestEvent<'_>) {
        match event {
            RequestEvent::Sent => self.progress.send_modify(|progress| progress.waiting = None),
            RequestEvent::Pausing(waiting) => {
                self.progress.send_modify(|progress| progress.waiting = Some(waiting));
            }
            RequestEvent::AttemptFinished { took } => {
                self.observer.iter().for_each(|observer| observer.on_attempt_finished(took));
            }
            RequestEvent::AttemptClassified { outcome, error } => {
                self.count_failed_attempts(error);
                self.observer.iter().for_each(|observer| observer.on_attempt_classified(outcome, error));
            }
        }
    }

    fn count_failed_attempts(&self, error: Option<&ApiError>) {
        self.progress.send_if_modified(|progress| {
            let changed = error.is_some() || progress.failed_attempts > 0;
            progress.failed_attempts = error.map_or(0, |_| progress.failed_attempts + 1);
            progress.last_failure = error.map(|error| with_causes(error));
            changed
        });
    }

    /// Reads the lists and decides about the unlisted groups. Writes the listed groups; the caller
    /// records the end of the crawl.
    async fn execute(&self, context: &CrawlContext<'_>) -> CrawlOutcome {
        let mut caller = self.caller();
        let mut findings = Findings::default();
        let running = Box::pin(async {
            let lists = read_lists(context, &mut caller, &mut findings).await?;
            conclude(context, &caller, lists, &mut findings).await
        });
        let concluded = running.await;
        let requests = caller.requests();
        match concluded {
            Ok(conclusion) => concluded_outcome(context, conclusion, findings, requests),
            Err(interrupted) => {
                let status = match interrupted {
                    Interrupted::Stopped => CrawlStatus::Cancelled,
                    _ => CrawlStatus::Failed,
                };
                let (reason, settlement) = (Some(interrupted.reason()), Settlement::nothing());
                CrawlOutcome { status, reason, settlement, history: None, findings, requests }
            }
        }
    }
}

/// Returns the outcome of a crawl that reached its end.
fn concluded_outcome(
    context: &CrawlContext<'_>,
    conclusion: Conclusion,
    findings: Findings,
    requests: u64,
) -> CrawlOutcome {
    let Conclusion { settlement, judgement, withholding, refused, history } = conclusion;
    let withheld = withheld_reason(withholding, refused, &settlement, &context.types, context.target.crawl());
    let (status, reason) = if judgement.shortfalls.is_empty() {
        (CrawlStatus::Complete, withheld)
    } else {
        let mut short = shortfall_reason(&judgement, &context.types);
        short.text.extend(withheld.iter().flat_map(|withheld| ["; ", &withheld.text]));
        (CrawlStatus::Incomplete, Some(short))
    };
    CrawlOutcome { status, reason, settlement, history: Some(history), findings, requests }
}
