//! One crawl of one app: lease, count, a pass for each type, the verdict, and everything concluded from it at once.

mod conclusion;
mod confirm;
mod investigation;
mod ledger;
mod page_diff;
mod pass;
mod progress;
mod report;
mod retention;
mod settings;
mod site;
mod tally;
mod told;
mod type_doubts;
mod write_buffer;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, error_span, info, warn};

use self::conclusion::Concluded;
use self::investigation::Findings;
pub use self::ledger::{Change, Foreseen};
use self::ledger::{DryTypes, Ledger, foreseen};
pub use self::progress::{Progress, RetryPause, Step};
pub use self::report::{CrawlReport, DryRun};
use self::report::{shortfall_reason, withheld_reason};
pub use self::settings::{CrawlSettings, Occasion, WhenBusy};
use self::site::CrawlSite;
use crate::clock::Clock;
use crate::model::{CrawlStatus, GroupType, ReasonCode, TypeId, with_causes};
use crate::pace::{Pacer, RetryBudget};
pub use crate::pages::RequestOutcome;
use crate::pages::{Caller, PagesError, RequestEvent};
use crate::policy::Retention;
use crate::reconcile::Settlement;
use crate::store::{AppId, AppIdentity, Closing, HistoryChanges, Lease, NewCrawl, Reason, Store, StoreError};
use crate::tencent::{ApiError, Client};

/// A difference between this machine's clock and the API's above which it is logged and shown.
pub const NOTED_SKEW: TimeDelta = TimeDelta::minutes(5);

/// A crawl that could not be recorded.
#[derive(Debug, thiserror::Error)]
pub enum CrawlError {
    #[error("{app} is being crawled by another process")]
    Busy { app: String },
    #[error("the tick of {due_at} has been served already")]
    Served { due_at: DateTime<Utc> },
    #[error("stopped before the crawl began")]
    Stopped,
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// Hears what the crawls of an app come to, to count it.
pub trait Observer: std::fmt::Debug + Send + Sync {
    /// The answer to a request, or its failure, came after so long.
    fn answered(&self, took: Duration);
    /// What is to become of that request.
    fn request(&self, outcome: RequestOutcome, error: Option<&ApiError>);
    /// A crawl ended and is recorded.
    fn crawl(&self, report: &CrawlReport);
}

/// Crawls one app, again and again. Keeps the pace between crawls.
#[derive(Debug)]
pub struct Crawler {
    settings: CrawlSettings,
    retention: Retention,
    client: Client,
    store: Store,
    clock: Clock,
    pacer: Pacer,
    progress: watch::Sender<Progress>,
    /// Types that the API rejected last time: a change is news, the state is not.
    rejected: Mutex<BTreeSet<GroupType>>,
    /// Whether the clocks differed last time.
    clock_differs: AtomicBool,
    observer: Option<Arc<dyn Observer>>,
}

/// How a crawl ended, before that is recorded.
struct Ended {
    status: CrawlStatus,
    reason: Option<Reason>,
    settlement: Settlement,
    history: Option<HistoryChanges>,
    findings: Findings,
    requests: u64,
}

/// Why a crawl did not reach its end.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error("the program was asked to stop")]
    Stopped,
    #[error(transparent)]
    Pages(#[from] PagesError),
    #[error("the API rejects every configured group type ({names}): {error}")]
    AllRejected { names: String, error: String },
    #[error(
        "this machine's clock is {} {} the API's, so that every time would be wrong; set it right (`timedatectl` shows \
         whether it is synchronised)",
        shown_skew(*.skew),
        if *.skew > TimeDelta::zero() { "ahead of" } else { "behind" }
    )]
    Clock { skew: TimeDelta },
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<ApiError> for Interrupted {
    fn from(error: ApiError) -> Self {
        Self::Pages(error.into())
    }
}

impl Crawler {
    #[must_use]
    pub fn new(settings: CrawlSettings, client: Client, store: Store, clock: Clock) -> Self {
        let pacer = Pacer::new(settings.request_interval, Instant::now());
        let (progress, _) = watch::channel(Progress::default());
        let (retention, rejected) = (Retention::default(), Mutex::default());
        let clock_differs = AtomicBool::new(false);
        Self {
            settings,
            retention,
            client,
            store,
            clock,
            pacer,
            progress,
            rejected,
            clock_differs,
            observer: None,
        }
    }

    /// Removes rows once they are older than this; without, all are kept.
    #[must_use]
    pub fn with_retention(self, retention: Retention) -> Self {
        Self { retention, ..self }
    }

    /// Tells this one what crawls come to.
    #[must_use]
    pub fn with_observer(self, observer: Arc<dyn Observer>) -> Self {
        Self { observer: Some(observer), ..self }
    }

    /// How far the current crawl has come.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.subscribe()
    }

    /// When the last crawl of the app started, whichever process made it. Makes the app known to the database.
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

    /// Crawls the app once. A crawl that fails at the API or is stopped is a report; an error means that there was no
    /// crawl, or that its end could not be recorded.
    pub async fn crawl(
        &self,
        occasion: Occasion,
        when_busy: WhenBusy,
        stop: &CancellationToken,
    ) -> Result<CrawlReport, CrawlError> {
        let crawling = async {
            let lease = self.lease(when_busy, stop).await?;
            let report = self.crawl_with_lease(&lease, occasion, stop).await;
            self.release(lease).await;
            report
        };
        self.shown(crawling).await
    }

    /// Finds out what a crawl would do now, by the same requests, and writes nothing.
    pub async fn dry_run(&self, when_busy: WhenBusy, stop: &CancellationToken) -> Result<DryRun, CrawlError> {
        let running = async {
            let lease = self.lease(when_busy, stop).await?;
            let report = self.dry_run_with_lease(&lease, stop).await;
            self.release(lease).await;
            report
        };
        self.shown(running).await
    }

    /// Crawls with the app's name on every line of the log, and without progress when it has ended.
    async fn shown<T>(&self, crawling: impl Future<Output = Result<T, CrawlError>>) -> Result<T, CrawlError> {
        let app = self.settings.identity.name.as_str();
        // At every level: a filter leaves out spans too, and the name with them.
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
                    // Each wait is a sign of life.
                    self.progress.send_modify(|progress| progress.step = Step::WaitingForLease);
                };
                tokio::select! {
                    lease = self.store.lease(identity.sdk_app_id, waiting) => lease?,
                    () = stop.cancelled() => return Err(CrawlError::Stopped),
                }
            }
        };
        if let Some(not_before) = lease.not_before() {
            // Bounded, because the note may come from a clock that was wrong.
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
        occasion: Occasion,
        stop: &CancellationToken,
    ) -> Result<CrawlReport, CrawlError> {
        let settings = &self.settings;
        let started_at = self.clock.now();
        let (app, types) = self.store.register_app(&settings.identity, &settings.group_types).await?;
        let new = NewCrawl {
            app,
            trigger: occasion.trigger,
            due_at: occasion.due_at,
            started_at,
            host: settings.host.clone(),
            group_types: settings.group_types.clone(),
        };
        let day = |at: DateTime<Utc>| at.with_timezone(&settings.timezone).date_naive();
        let Some(crawl) = self.store.open_crawl(lease, &new, day(started_at)).await? else {
            return Err(CrawlError::Served { due_at: occasion.due_at.unwrap_or(started_at) });
        };
        let site = self.site(lease, &self.store, app, Ledger::Real(crawl), stop);
        let ended = self.find_out(&site, &types).await;
        let Ended { status, reason, settlement, history, findings, requests } = ended;
        let clock_skew = self.note_clock_skew();
        let finished_at = self.clock.now();
        let closing = Closing {
            crawl,
            app,
            started_at,
            finished_at,
            day: day(finished_at),
            status,
            reason,
            requests,
            total_at_start: findings.total_at_start,
            total_at_end: findings.total_at_end,
            leftover: findings.leftover,
            unfiltered_next: findings.unfiltered_next,
            listed: findings.listed,
            clock_skew,
            history: history.as_ref(),
            passes: &findings.records(started_at),
            settlement: &settlement,
        };
        let to_mark = settlement.marks();
        let show = |queued, marked| {
            self.progress.send_modify(|progress| {
                progress.queued = queued;
                progress.step = Step::Concluding { marked, to_mark };
            });
        };
        show(true, 0);
        let closing_it = self.store.close_crawl(lease, &closing, |marked| show(false, marked));
        let events = lease.keeping(Box::pin(closing_it)).await??;
        let report = CrawlReport {
            crawl,
            status,
            deletions: closing.deletions(),
            reason: closing.reason,
            started_at,
            finished_at,
            requests: closing.requests,
            listed: closing.listed,
            first_listed: findings.tallies().map(|tally| tally.first_listed).sum(),
            total: closing.total_at_end.or(closing.total_at_start),
            events,
            missing: settlement.missing().map(|(_, ids)| ids.len() as u64).sum(),
            withheld: settlement.withheld_counts().0,
            withheld_confirmed: settlement.withheld_counts().1,
            asked: settlement.asked(),
        };
        report.log();
        if let Some(observer) = &self.observer {
            observer.crawl(&report);
        }
        if matches!(status, CrawlStatus::Complete | CrawlStatus::Incomplete) {
            self.purge(lease, (app, crawl), finished_at, stop).await;
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
        // No app has this number: one that is not known yet has no groups.
        let app = store.find_app(settings.identity.sdk_app_id).await?.unwrap_or(AppId(0));
        let mut dry_types = DryTypes::read(&store).await?;
        let types = dry_types.numbers(&settings.group_types);
        let site = self.site(lease, &store, app, Ledger::dry(dry_types), stop);
        let ended = self.find_out(&site, &types).await;
        let Ended { status, reason, settlement, findings, requests, .. } = ended;
        Ok(DryRun {
            status,
            deletions: settlement.deletions(status),
            reason,
            requests,
            listed: findings.listed,
            total: findings.total_at_end.or(findings.total_at_start),
            asked: settlement.asked(),
            changes: foreseen(site.ledger, &settlement),
        })
    }

    fn site<'a>(
        &'a self,
        lease: &'a Lease,
        store: &'a Store,
        app: AppId,
        ledger: Ledger,
        stop: &'a CancellationToken,
    ) -> CrawlSite<'a> {
        let learns_types = self.settings.deletion.confirm && !self.settings.group_types.is_empty();
        CrawlSite {
            store,
            lease,
            clock: &self.clock,
            app,
            ledger,
            learns_types,
            stop,
            progress: &self.progress,
        }
    }

    /// Says when the clocks begin or cease to differ by minutes, and returns by how much they differ.
    fn note_clock_skew(&self) -> Option<TimeDelta> {
        let skew = self.client.clock_skew()?;
        let differs = skew.abs() > NOTED_SKEW;
        if differs != self.clock_differs.swap(differs, Ordering::Relaxed) {
            let skew_seconds = skew.num_seconds();
            if differs {
                warn!(skew_seconds, "this machine's clock and the API's differ by {}", shown_skew(skew));
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

    /// Makes a crawl, up to what is to be concluded from it.
    async fn find_out(&self, site: &CrawlSite<'_>, types: &BTreeMap<GroupType, TypeId>) -> Ended {
        let retries = RetryBudget::new(self.settings.retry);
        let mut caller = Caller::new(&self.client, &self.pacer, retries, |event| self.on_event(event));
        let mut findings = Findings::default();
        let investigating = Box::pin(self.investigate(site, types, &mut caller, &mut findings));
        let concluded = site.lease.keeping(investigating).await.unwrap_or_else(|lost| Err(lost.into()));
        let mut history = None;
        let (status, reason, settlement) = match concluded {
            Ok(concluded) => {
                let Concluded { settlement, judgement, withholding, refused, history: changes } = concluded;
                history = Some(changes);
                let crawl = site.ledger.crawl();
                let withheld = withheld_reason(withholding, refused, &settlement, types, crawl);
                if judgement.shortfalls.is_empty() {
                    (CrawlStatus::Complete, withheld, settlement)
                } else {
                    let mut short = shortfall_reason(&judgement, types);
                    short.text.extend(withheld.iter().flat_map(|withheld| ["; ", &withheld.text]));
                    (CrawlStatus::Incomplete, Some(short), settlement)
                }
            }
            Err(interrupted) => {
                let status = match interrupted {
                    Interrupted::Stopped => CrawlStatus::Cancelled,
                    _ => CrawlStatus::Failed,
                };
                (status, Some(interrupted.reason()), Settlement::nothing())
            }
        };
        let requests = caller.requests();
        Ended { status, reason, settlement, history, findings, requests }
    }
}

impl Interrupted {
    fn reason(&self) -> Reason {
        let (code, error_code) = match self {
            Self::Stopped => (ReasonCode::Cancelled, None),
            Self::Pages(error) => (error.reason_code(), error.code()),
            Self::AllRejected { .. } => (ReasonCode::RejectedTypes, Some(10004)),
            Self::Clock { .. } => (ReasonCode::Clock, None),
            Self::Store(_) => (ReasonCode::Database, None),
        };
        Reason { code, error_code, text: with_causes(self) }
    }
}

/// A difference between clocks, without its sign, to the second.
fn shown_skew(skew: TimeDelta) -> humantime::FormattedDuration {
    humantime::format_duration(Duration::from_secs(skew.num_seconds().unsigned_abs()))
}
