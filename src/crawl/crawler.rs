//! Makes the crawls of one app, from the lease to the record.

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
use super::dry_run::{DryRunTypes, WriteTarget};
use super::error::{CrawlError, Interrupted};
use super::listing::{Findings, read_lists};
use super::observer::Observer;
use super::progress::{Progress, Step};
use super::purge::purge;
use super::report::{CrawlReport, DryRun, shortfall_reason, withheld_reason};
use super::settings::{CrawlRequest, CrawlSettings, WhenBusy};
use crate::clock::Clock;
use crate::model::{CrawlStatus, GroupType, TypeId};
use crate::pace::{Pacer, RetryBudget};
use crate::pages::{Caller, RequestEvent};
use crate::policy::Retention;
use crate::reconcile::Settlement;
use crate::store::{AppId, AppIdentity, Closing, HistoryChanges, Lease, NewCrawl, Reason, Store, StoreError};
use crate::tencent::Client;

/// Crawls one app repeatedly, and keeps the pace of its requests between crawls.
#[derive(Debug)]
pub struct Crawler {
    settings: CrawlSettings,
    retention: Retention,
    client: Client,
    store: Store,
    clock: Clock,
    pacer: Pacer,
    progress: watch::Sender<Progress>,
    /// Types that the API rejected in the previous crawl.
    rejected_types: Mutex<BTreeSet<GroupType>>,
    /// Whether the clocks differed in the previous crawl.
    clock_differs: AtomicBool,
    observer: Option<Arc<dyn Observer>>,
}

/// The end of a crawl, before it is recorded.
struct CrawlEnd {
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
            client,
            store,
            clock,
            pacer,
            progress,
            rejected_types: Mutex::default(),
            clock_differs: AtomicBool::new(false),
            observer: None,
        }
    }

    /// Removes rows that are older than this after crawls. By default all rows are kept.
    #[must_use]
    pub fn with_retention(self, retention: Retention) -> Self {
        Self { retention, ..self }
    }

    /// Reports requests and crawls to this observer.
    #[must_use]
    pub fn with_observer(self, observer: Arc<dyn Observer>) -> Self {
        Self { observer: Some(observer), ..self }
    }

    /// The progress of the current crawl.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// When the last crawl of the app by any process started. Registers the app in the database.
    pub async fn last_start(&self) -> Result<Option<DateTime<Utc>>, StoreError> {
        let (app, _) = self.store.register_app(&self.settings.identity, &self.settings.group_types).await?;
        self.store.last_start(app).await
    }

    /// Least time between two requests.
    #[must_use]
    pub fn request_interval(&self) -> Duration {
        self.settings.request_interval
    }

    #[must_use]
    pub fn identity(&self) -> &AppIdentity {
        &self.settings.identity
    }

    /// Crawls the app once. Returns a report also for a crawl that failed at the API or was stopped. An error means that no
    /// crawl was made, or that its end could not be recorded.
    pub async fn crawl(
        &self,
        request: CrawlRequest,
        when_busy: WhenBusy,
        stop: &CancellationToken,
    ) -> Result<CrawlReport, CrawlError> {
        let crawling = async {
            let lease = self.lease(when_busy, stop).await?;
            let report = self.crawl_with_lease(&lease, request, stop).await;
            self.release(lease).await;
            report
        };
        self.in_crawl_span(crawling).await
    }

    /// Returns what a crawl would do now. Makes the same requests and writes nothing.
    pub async fn dry_run(&self, when_busy: WhenBusy, stop: &CancellationToken) -> Result<DryRun, CrawlError> {
        let running = async {
            let lease = self.lease(when_busy, stop).await?;
            let report = self.dry_run_with_lease(&lease, stop).await;
            self.release(lease).await;
            report
        };
        self.in_crawl_span(running).await
    }

    /// Runs a crawl in a span with the app's name, and resets the progress afterwards.
    async fn in_crawl_span<T>(
        &self,
        crawling: impl Future<Output = Result<T, CrawlError>>,
    ) -> Result<T, CrawlError> {
        let app = self.settings.identity.name.as_str();
        // At level error, so that no log filter removes the span, and the app's name with it.
        let outcome = crawling.instrument(error_span!("crawl", app)).await;
        self.progress.send_replace(Progress::default());
        outcome
    }

    async fn lease(&self, when_busy: WhenBusy, stop: &CancellationToken) -> Result<Lease, CrawlError> {
        let identity = &self.settings.identity;
        let lease = match when_busy {
            WhenBusy::GiveUp => self
                .store
                .try_lease(identity.sdk_app_id)
                .await?
                .ok_or_else(|| CrawlError::Busy { app: identity.name.clone() })?,
            WhenBusy::Wait => {
                let waiting = |waits| {
                    if waits == 0 {
                        warn!(
                            app = identity.name,
                            "another process crawls this app; waiting for it to finish"
                        );
                    }
                    // Each attempt is a sign of life for the watchdog.
                    self.progress.send_modify(|progress| progress.step = Step::WaitingForLease);
                };
                tokio::select! {
                    lease = self.store.lease(identity.sdk_app_id, waiting) => lease?,
                    () = stop.cancelled() => return Err(CrawlError::Stopped),
                }
            }
        };
        if let Some(not_before) = lease.not_before() {
            // Bounded, because the clock of the previous holder may have been wrong.
            let wait = (not_before - self.clock.now()).to_std().unwrap_or_default();
            self.pacer.not_before(Instant::now() + wait.min(self.settings.request_interval)).await;
        }
        Ok(lease)
    }

    async fn release(&self, lease: Lease) {
        let wait = self.pacer.next_slot().await.saturating_duration_since(Instant::now());
        lease.release(self.clock.now(), wait).await;
    }

    async fn crawl_with_lease(
        &self,
        lease: &Lease,
        request: CrawlRequest,
        stop: &CancellationToken,
    ) -> Result<CrawlReport, CrawlError> {
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
            return Err(CrawlError::Served { due_at: request.due_at.unwrap_or(started_at) });
        };
        let target = WriteTarget::Database(crawl);
        let context = self.context(lease, &self.store, (app, types), target, stop);
        let end = self.execute(&context).await;
        let finished_at = self.clock.now();
        let passes = end.findings.records(started_at);
        let closing = Closing {
            crawl,
            app,
            started_at,
            finished_at,
            day: settings.day(finished_at),
            status: end.status,
            reason: end.reason,
            requests: end.requests,
            total_at_start: end.findings.total_at_start,
            total_at_end: end.findings.total_at_end,
            leftover: end.findings.leftover,
            unfiltered_next: end.findings.unfiltered_next,
            listed: end.findings.listed,
            clock_skew: self.check_clock_skew(),
            history: end.history.as_ref(),
            passes: &passes,
            settlement: &end.settlement,
        };
        let report = self.close(lease, closing, &end.findings).await?;
        if matches!(report.status, CrawlStatus::Complete | CrawlStatus::Incomplete) {
            purge(&context, self.retention, crawl, finished_at).await;
        }
        Ok(report)
    }

    /// Records the end of a crawl in one transaction, logs it, and reports it to the observer.
    async fn close(
        &self,
        lease: &Lease,
        closing: Closing<'_>,
        findings: &Findings,
    ) -> Result<CrawlReport, CrawlError> {
        let to_mark = closing.settlement.marks();
        let show = |queued, marked| {
            self.progress.send_modify(|progress| {
                progress.queued = queued;
                progress.step = Step::Concluding { marked, to_mark };
            });
        };
        show(true, 0);
        let closing_crawl = self.store.close_crawl(lease, &closing, |marked| show(false, marked));
        let events = lease.keeping(Box::pin(closing_crawl)).await??;
        let report = CrawlReport::new(closing, findings, events);
        report.log();
        if let Some(observer) = &self.observer {
            observer.crawl(&report);
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
        // No app has the id 0: an app that is not known yet has no groups.
        let app = store.find_app(settings.identity.sdk_app_id).await?.unwrap_or(AppId(0));
        let mut dry_types = DryRunTypes::read(&store).await?;
        let types = dry_types.ids(&settings.group_types);
        let target = WriteTarget::dry_run(dry_types);
        let context = self.context(lease, &store, (app, types), target, stop);
        let CrawlEnd { status, reason, settlement, findings, requests, .. } = self.execute(&context).await;
        Ok(DryRun {
            status,
            deletions: settlement.deletions(status),
            reason,
            requests,
            listed: findings.listed,
            total: findings.total_at_end.or(findings.total_at_start),
            asked: settlement.asked(),
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

    /// Returns the difference between the clocks. Logs when the clocks begin to differ by minutes, and when they agree again.
    fn check_clock_skew(&self) -> Option<TimeDelta> {
        let skew = self.client.clock_skew()?;
        let differs = skew.abs() > CLOCK_SKEW_WARNING;
        if differs != self.clock_differs.swap(differs, Ordering::Relaxed) {
            let skew_seconds = skew.num_seconds();
            if differs {
                warn!(
                    skew_seconds,
                    "this machine's clock and the API's differ by {}; correct the clock, because crawls fail beyond {}",
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
        match (event, &self.observer) {
            (RequestEvent::Sent, _) => self.progress.send_modify(|progress| progress.waiting = None),
            (RequestEvent::Pausing(waiting), _) => {
                self.progress.send_modify(|progress| progress.waiting = Some(waiting));
            }
            (RequestEvent::Answered { took }, Some(observer)) => observer.answered(took),
            (RequestEvent::Resolved { outcome, error }, Some(observer)) => observer.request(outcome, error),
            (RequestEvent::Answered { .. } | RequestEvent::Resolved { .. }, None) => {}
        }
    }

    /// Reads the lists and concludes, and keeps the lease meanwhile. Nothing is recorded yet.
    async fn execute(&self, context: &CrawlContext<'_>) -> CrawlEnd {
        let retries = RetryBudget::new(self.settings.retry);
        let mut caller = Caller::new(&self.client, &self.pacer, retries, |event| self.on_event(event));
        let mut findings = Findings::default();
        let running = Box::pin(async {
            let lists = read_lists(context, &mut caller, &mut findings).await?;
            conclude(context, &caller, lists, &mut findings).await
        });
        let concluded = context.lease.keeping(running).await.unwrap_or_else(|lost| Err(lost.into()));
        let requests = caller.requests();
        match concluded {
            Ok(conclusion) => concluded_end(context, conclusion, findings, requests),
            Err(interrupted) => {
                let status = match interrupted {
                    Interrupted::Stopped => CrawlStatus::Cancelled,
                    _ => CrawlStatus::Failed,
                };
                let (reason, settlement) = (Some(interrupted.reason()), Settlement::nothing());
                CrawlEnd { status, reason, settlement, history: None, findings, requests }
            }
        }
    }
}

/// The end of a crawl that reached a conclusion.
fn concluded_end(
    context: &CrawlContext<'_>,
    conclusion: Conclusion,
    findings: Findings,
    requests: u64,
) -> CrawlEnd {
    let Conclusion { settlement, judgement, withholding, refused, history } = conclusion;
    let withheld = withheld_reason(withholding, refused, &settlement, &context.types, context.target.crawl());
    let (status, reason) = if judgement.shortfalls.is_empty() {
        (CrawlStatus::Complete, withheld)
    } else {
        let mut short = shortfall_reason(&judgement, &context.types);
        short.text.extend(withheld.iter().flat_map(|withheld| ["; ", &withheld.text]));
        (CrawlStatus::Incomplete, Some(short))
    };
    CrawlEnd { status, reason, settlement, history: Some(history), findings, requests }
}
