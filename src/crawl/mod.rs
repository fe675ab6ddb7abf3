//! One crawl of one app: lease, count, a pass for each type, the verdict, and everything concluded from it at once.

mod pass;
mod progress;
mod report;
mod roll_read;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use chrono_tz::Tz;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tracing::{Instrument as _, info, info_span, warn};

use self::pass::{PassEnd, PassPlan, PassTally};
pub use self::progress::{Progress, Step, Waiting};
pub use self::report::CrawlReport;
use self::report::{shortfall_reason, withheld_reason};
use self::roll_read::RollRead;
use crate::clock::Clock;
use crate::guard::{Change, GuardSettings, Withholding, withhold};
use crate::model::{CrawlId, CrawlStatus, GroupType, ReasonCode, Trigger, TypeId, Verdict};
use crate::pace::{Pacer, Patience, RetryPolicy};
use crate::pages::{Caller, Pages, PagesError};
use crate::reconcile::{Absences, Leftover, Settlement, typed_account_for_app};
use crate::roll::{PassNo, Roll};
use crate::store::{
    AppId, AppIdentity, Closing, Lease, NewCrawl, PassRecord, RENEW_EVERY, Reason, Store, StoreError,
    TypeState,
};
use crate::tencent::{ApiError, Client};
use crate::verdict::{Evidence, Judgement, Recheck, judge};

/// How an app is to be crawled.
#[derive(Clone, Debug)]
pub struct CrawlSettings {
    pub identity: AppIdentity,
    /// A pass each, in this order. None: one pass over everything, and no types.
    pub group_types: Vec<GroupType>,
    /// Groups a page.
    pub page_limit: u32,
    /// Least time between two requests.
    pub request_interval: Duration,
    pub retry: RetryPolicy,
    /// `deletion.max_shortfall`.
    pub max_shortfall: f64,
    /// When deletions are withheld.
    pub guard: GuardPolicy,
    /// Whose days the daily counts are of.
    pub timezone: Tz,
    /// The name of this machine.
    pub host: String,
}

/// `[deletion]`, by the names of types.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct GuardPolicy {
    /// `mode = "review"`.
    pub review: bool,
    pub max_fraction: f64,
    pub min_groups: u64,
    pub max_fraction_by_type: BTreeMap<GroupType, f64>,
}

/// What a crawl is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Occasion {
    pub trigger: Trigger,
    /// The tick of the schedule it serves.
    pub due_at: Option<DateTime<Utc>>,
}

/// What to do when the app is being crawled already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WhenBusy {
    Wait,
    GiveUp,
}

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

/// Crawls one app, again and again. Keeps the pace between crawls.
#[derive(Debug)]
pub struct Crawler {
    settings: CrawlSettings,
    client: Client,
    store: Store,
    clock: Clock,
    pacer: Pacer,
    progress: watch::Sender<Progress>,
    /// Types that the API rejected last time: a change is news, the state is not.
    rejected: Mutex<BTreeSet<GroupType>>,
}

/// Where a crawl takes place: what every pass needs and none changes.
struct CrawlSite<'a> {
    store: &'a Store,
    lease: &'a Lease,
    clock: &'a Clock,
    app: AppId,
    crawl: CrawlId,
    stop: &'a CancellationToken,
    progress: &'a watch::Sender<Progress>,
}

/// Why a crawl did not reach its end.
#[derive(Debug, thiserror::Error)]
enum Interrupted {
    #[error("the program was asked to stop")]
    Stopped,
    #[error(transparent)]
    Pages(#[from] PagesError),
    #[error("the API rejects every configured group type ({0})")]
    AllRejected(String),
    #[error("reading the known groups broke off: {0}")]
    Panicked(String),
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<ApiError> for Interrupted {
    fn from(error: ApiError) -> Self {
        Self::Pages(error.into())
    }
}

/// A crawl as far as it has come. Filled while it runs, so that a crawl that is interrupted is recorded too.
#[derive(Debug, Default)]
struct Findings {
    total_at_start: Option<u64>,
    total_at_end: Option<u64>,
    leftover: Option<u64>,
    listed: u64,
    tallies: Vec<PassTally>,
    ends: Vec<Option<PassEnd>>,
    verdicts: BTreeMap<TypeId, Verdict>,
}

/// A crawl that reached its end.
struct Concluded {
    settlement: Settlement,
    judgement: Judgement,
    withholding: Option<Withholding>,
}

impl Crawler {
    #[must_use]
    pub fn new(settings: CrawlSettings, client: Client, store: Store, clock: Clock) -> Self {
        let pacer = Pacer::new(settings.request_interval, Instant::now());
        let (progress, _) = watch::channel(Progress::default());
        Self { settings, client, store, clock, pacer, progress, rejected: Mutex::default() }
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
        let app = self.settings.identity.name.as_str();
        let outcome = async {
            let lease = self.lease(when_busy, stop).await?;
            let report = self.crawl_with_lease(&lease, occasion, stop).await;
            self.release(lease).await;
            report
        }
        .instrument(info_span!("crawl", app))
        .await;
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
                let waiting = || {
                    warn!(app = identity.name, "another process crawls this app; waiting for it to finish");
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
        let wait = self.pacer.next_turn().await.saturating_duration_since(Instant::now());
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
        };
        let day = |at: DateTime<Utc>| at.with_timezone(&settings.timezone).date_naive();
        let Some(crawl) = self.store.open_crawl(lease, &new, day(started_at)).await? else {
            return Err(CrawlError::Served { due_at: occasion.due_at.unwrap_or(started_at) });
        };
        let site = CrawlSite {
            store: &self.store,
            lease,
            clock: &self.clock,
            app,
            crawl,
            stop,
            progress: &self.progress,
        };
        let patience = Patience::new(settings.retry);
        let mut caller = Caller::new(&self.client, &self.pacer, patience, |waiting| {
            self.progress.send_modify(|progress| progress.waiting = waiting);
        });
        let mut findings = Findings::default();
        let investigating = Box::pin(self.investigate(&site, &types, &mut caller, &mut findings));
        let concluded = keeping(lease, investigating).await.unwrap_or_else(|lost| Err(lost.into()));
        self.progress.send_modify(|progress| progress.step = Step::Concluding);
        let (status, reason, settlement) = match concluded {
            Ok(Concluded { settlement, judgement, withholding }) => {
                let withheld =
                    withholding.map(|withholding| withheld_reason(&withholding, &settlement, &types, crawl));
                if judgement.shortfalls.is_empty() {
                    (CrawlStatus::Complete, withheld, settlement)
                } else {
                    let mut short = shortfall_reason(&judgement, &types);
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
        let finished_at = self.clock.now();
        let closing = Closing {
            crawl,
            app,
            started_at,
            finished_at,
            day: day(finished_at),
            status,
            reason,
            requests: caller.requests(),
            total_at_start: findings.total_at_start,
            total_at_end: findings.total_at_end,
            leftover: findings.leftover,
            listed: findings.listed,
            passes: &findings.records(started_at),
            settlement: &settlement,
        };
        let events = keeping(lease, Box::pin(self.store.close_crawl(lease, &closing))).await??;
        let report = CrawlReport {
            crawl,
            status,
            deletions: closing.deletions(),
            reason: closing.reason,
            started_at,
            finished_at,
            requests: closing.requests,
            listed: closing.listed,
            first_listed: findings.tallies.iter().map(|tally| tally.first_listed).sum(),
            total: closing.total_at_end.or(closing.total_at_start),
            events,
            missing: settlement.missing().map(|(_, ids)| ids.len() as u64).sum(),
            withheld: settlement.withheld().map(|(_, ids)| ids.len() as u64).sum(),
        };
        report.log();
        Ok(report)
    }

    /// Makes all requests of a crawl and writes what they list; concludes nothing about what they do not.
    async fn investigate(
        &self,
        site: &CrawlSite<'_>,
        types: &BTreeMap<GroupType, TypeId>,
        caller: &mut Caller<'_>,
        findings: &mut Findings,
    ) -> Result<Concluded, Interrupted> {
        self.progress.send_replace(Progress { step: Step::Starting, ..Progress::default() });
        let states = site.store.type_states(site.app).await?;
        let past = site.store.past(site.app).await?;
        // The roll is read while the first pages come in.
        let mut roll = RollRead::begin(site, &states);
        findings.total_at_start = site.unless_stopped(caller.count_app()).await??;
        self.progress.send_modify(|progress| progress.total = findings.total_at_start);

        let plans = self.plans(types, &states);
        for plan in plans {
            self.pass(site, plan, caller, &mut roll, findings).await?;
        }
        self.note_rejected(findings)?;
        self.progress.send_modify(|progress| progress.step = Step::Checking);
        let mut rechecks = self.ask_emptied_types_again(site, caller, &mut roll, findings).await?;
        findings.total_at_end = site.unless_stopped(caller.count_app()).await??;
        let leftover = self.leftover(findings);
        if leftover.calls_for_unfiltered_pass(!past.crawled_before, past.leftover_last_time) {
            let plan = unfiltered(&states, findings.tallies.len());
            self.pass(site, plan, caller, &mut roll, findings).await?;
            // There were more groups than the typed passes listed: a list without any contradicts that.
            let empty = findings.tallies.last().is_some_and(|tally| tally.distinct == 0);
            rechecks.push(if empty { Recheck::Contradicted } else { Recheck::NotNeeded });
            // What came while this pass ran may stand in the earlier count for what it missed.
            findings.total_at_end = site.unless_stopped(caller.count_app()).await??;
        }
        let roll = site.unless_stopped(roll.ready()).await??;
        let concluding = self.conclude(site, types, roll, leftover, rechecks, findings);
        Ok(site.unless_stopped(concluding).await??)
    }

    fn plans(&self, types: &BTreeMap<GroupType, TypeId>, states: &[TypeState]) -> Vec<PassPlan> {
        if self.settings.group_types.is_empty() {
            return vec![unfiltered(states, 0)];
        }
        // In the order of the configuration: the first pass that lists a group decides its type.
        let typed = self.settings.group_types.iter().filter_map(|name| Some((name, *types.get(name)?)));
        typed
            .enumerate()
            .map(|(index, (name, type_id))| PassPlan {
                no: PassNo::nth(index),
                group_type: Some(name.clone()),
                type_id,
                in_baseline: in_baseline(states, type_id),
            })
            .collect()
    }

    async fn pass(
        &self,
        site: &CrawlSite<'_>,
        plan: PassPlan,
        caller: &mut Caller<'_>,
        roll: &mut RollRead,
        findings: &mut Findings,
    ) -> Result<(), Interrupted> {
        let mut tally = PassTally::new(plan);
        let end = pass::run(site, caller, self.settings.page_limit, roll, &mut tally).await;
        findings.listed = roll.listed();
        findings.tallies.push(tally);
        findings.ends.push(Some(end?));
        Ok(())
    }

    /// Says which types the API rejects when that changes; all of them are a failure.
    fn note_rejected(&self, findings: &Findings) -> Result<(), Interrupted> {
        let rejected: BTreeSet<GroupType> = findings
            .ended()
            .filter(|(_, end)| matches!(end, PassEnd::Rejected))
            .filter_map(|(tally, _)| tally.plan.group_type.clone())
            .collect();
        let mut before = self.rejected.lock().unwrap_or_else(PoisonError::into_inner);
        for group_type in rejected.difference(&before) {
            warn!(%group_type, error_code = 10004, "the API rejects this group type; its groups stay as they are");
        }
        for group_type in before.difference(&rejected) {
            info!(%group_type, "the API accepts this group type again");
        }
        let all = !rejected.is_empty() && rejected.len() == findings.tallies.len();
        before.clone_from(&rejected);
        if all {
            let names: Vec<&str> = rejected.iter().map(GroupType::as_str).collect();
            return Err(Interrupted::AllRejected(names.join(", ")));
        }
        Ok(())
    }

    /// Asks each type that had live groups and was listed as empty for its first page once more.
    async fn ask_emptied_types_again(
        &self,
        site: &CrawlSite<'_>,
        caller: &mut Caller<'_>,
        roll: &mut RollRead,
        findings: &Findings,
    ) -> Result<Vec<Recheck>, Interrupted> {
        let roll = site.unless_stopped(roll.ready()).await??;
        let mut rechecks = Vec::with_capacity(findings.tallies.len());
        for (tally, end) in findings.ended() {
            let had_groups = match tally.plan.group_type {
                Some(_) => roll.live_before(tally.plan.type_id) > 0,
                None => roll.live_before_in_all() > 0,
            };
            if tally.distinct > 0 || !had_groups || matches!(end, PassEnd::Rejected) {
                rechecks.push(Recheck::NotNeeded);
                continue;
            }
            let mut pages = Pages::of(tally.plan.group_type.clone(), self.settings.page_limit);
            let again = site.unless_stopped(pages.turn(caller)).await??;
            let empty = again.page.ids.is_empty() && again.page.unusable == 0 && again.end.is_some();
            let confirmed = empty && again.page.total_count == Some(0);
            rechecks.push(if confirmed { Recheck::StillEmpty } else { Recheck::Contradicted });
        }
        Ok(rechecks)
    }

    fn leftover(&self, findings: &mut Findings) -> Leftover {
        if self.settings.group_types.is_empty() {
            return Leftover::Unknown;
        }
        let claimed = findings.tallies.iter().map(|tally| tally.counts.highest.unwrap_or(tally.distinct));
        let leftover = Leftover::of(findings.total_at_start, findings.total_at_end, claimed);
        findings.leftover = match leftover {
            Leftover::Unknown => None,
            Leftover::None => Some(0),
            Leftover::Groups(groups) => Some(groups),
        };
        leftover
    }

    /// Judges the passes and names what they prove gone.
    async fn conclude(
        &self,
        site: &CrawlSite<'_>,
        types: &BTreeMap<GroupType, TypeId>,
        roll: &Roll,
        leftover: Leftover,
        rechecks: Vec<Recheck>,
        findings: &mut Findings,
    ) -> Result<Concluded, StoreError> {
        let mut passes = Vec::with_capacity(rechecks.len());
        for ((tally, end), recheck) in findings.tallies.iter().zip(&mut findings.ends).zip(rechecks) {
            match end.take() {
                Some(PassEnd::Complete(end)) => passes.push(tally.finished(end, recheck)),
                Some(PassEnd::Rejected) => {
                    findings.verdicts.insert(tally.plan.type_id, Verdict::Rejected);
                }
                None => {}
            }
        }
        let judgement = judge(Evidence {
            passes,
            total_at_start: findings.total_at_start,
            total_at_end: findings.total_at_end,
            distinct: findings.listed,
            max_shortfall: self.settings.max_shortfall,
        });
        findings.verdicts.extend(judgement.passes.iter().map(|judged| (judged.pass.type_id, judged.verdict)));
        let total = findings.total_at_start.min(findings.total_at_end);
        let accounted = typed_account_for_app(leftover, &judgement, findings.listed, total);
        let absences = Absences::of(&judgement, accounted);
        let unlisted = roll.unlisted();
        let states = site.store.type_states(site.app).await?;
        let known: Vec<TypeId> = states.iter().map(TypeState::type_id).collect();
        let mut settlement = absences.settlement(&known, &unlisted);
        if !unlisted.is_empty() {
            site.store
                .for_each_live(site.app, |type_id, id, mark| {
                    if roll.is_unlisted(type_id, id) {
                        settlement.consider(&absences, type_id, id, mark);
                    }
                })
                .await?;
        }
        let withholding = withhold(&self.guard(types), &changes(roll, &states, &settlement));
        if let Some(withholding) = &withholding {
            settlement.withhold(&withholding.types);
        }
        Ok(Concluded { settlement, judgement, withholding })
    }

    fn guard(&self, types: &BTreeMap<GroupType, TypeId>) -> GuardSettings {
        let policy = &self.settings.guard;
        let own = policy.max_fraction_by_type.iter();
        GuardSettings {
            review: policy.review,
            max_fraction: policy.max_fraction,
            min_groups: policy.min_groups,
            max_fraction_by_type: own.filter_map(|(name, share)| Some((*types.get(name)?, *share))).collect(),
        }
    }
}

/// What the settlement would do to each type. `states` has what this crawl listed already.
fn changes(roll: &Roll, states: &[TypeState], settlement: &Settlement) -> BTreeMap<TypeId, Change> {
    let mut changes: BTreeMap<TypeId, Change> = states
        .iter()
        .map(|state| {
            let type_id = state.type_id();
            (type_id, Change { before: roll.live_before(type_id), after: state.live(), vanished: 0 })
        })
        .collect();
    for (type_id, ids) in settlement.vanished() {
        let change = changes.entry(type_id).or_default();
        change.vanished = ids.len() as u64;
        change.after = change.after.saturating_sub(change.vanished);
    }
    changes
}

fn in_baseline(states: &[TypeState], type_id: TypeId) -> bool {
    !states.iter().any(|state| state.type_id() == type_id && state.past_baseline())
}

fn unfiltered(states: &[TypeState], index: usize) -> PassPlan {
    PassPlan {
        no: PassNo::nth(index),
        group_type: None,
        type_id: TypeId::UNKNOWN,
        in_baseline: in_baseline(states, TypeId::UNKNOWN),
    }
}

/// Runs something, and keeps the lease meanwhile. What runs is abandoned if the lease was lost all the same.
async fn keeping<T>(lease: &Lease, run: impl Future<Output = T>) -> Result<T, StoreError> {
    let renewing = async {
        loop {
            tokio::time::sleep(RENEW_EVERY).await;
            if let Err(lost) = lease.renew().await {
                break lost;
            }
        }
    };
    tokio::select! {
        biased;
        outcome = run => Ok(outcome),
        lost = renewing => Err(lost),
    }
}

impl CrawlSite<'_> {
    /// Runs something that may be abandoned at any point, unless the program is to stop.
    async fn unless_stopped<T>(&self, run: impl Future<Output = T>) -> Result<T, Interrupted> {
        tokio::select! {
            biased;
            () = self.stop.cancelled() => Err(Interrupted::Stopped),
            outcome = run => Ok(outcome),
        }
    }
}

impl Findings {
    /// The passes that ended, with how.
    fn ended(&self) -> impl Iterator<Item = (&PassTally, &PassEnd)> {
        self.tallies.iter().zip(&self.ends).filter_map(|(tally, end)| Some((tally, end.as_ref()?)))
    }

    fn records(&self, started_at: DateTime<Utc>) -> Vec<PassRecord> {
        let record = |tally: &PassTally| PassRecord {
            type_id: tally.plan.type_id,
            recorded_at: tally.ended_at.unwrap_or(started_at),
            verdict: self.verdicts.get(&tally.plan.type_id).copied(),
            pages: tally.pages,
            counts: tally.counts,
            distinct: tally.distinct,
            repeats: tally.repeats,
            first_listed: tally.first_listed,
            unusable: tally.unusable,
        };
        self.tallies.iter().map(record).collect()
    }
}

impl Interrupted {
    fn reason(&self) -> Reason {
        let (code, error_code) = match self {
            Self::Stopped => (ReasonCode::Cancelled, None),
            Self::Pages(error) => (error.reason_code(), error.code()),
            Self::AllRejected(_) => (ReasonCode::RejectedTypes, Some(10004)),
            Self::Store(_) | Self::Panicked(_) => (ReasonCode::Database, None),
        };
        let mut text = self.to_string();
        let mut cause = std::error::Error::source(self);
        while let Some(error) = cause {
            text.extend([": ", &error.to_string()]);
            cause = error.source();
        }
        Reason { code, error_code, text }
    }
}
