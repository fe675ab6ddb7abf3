//! The loop that keeps the details of one app's groups up to date.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use backon::{BackoffBuilder as _, ExponentialBackoff, ExponentialBuilder};
use chrono::{DateTime, TimeDelta, Utc};
use tokio::time::{Instant, sleep, timeout};
use tracing::{Instrument as _, debug, error_span, info, warn};

use super::requests::Requests;
use crate::clock::Clock;
use crate::crawl::Observer;
use crate::model::{SdkAppId, with_causes};
use crate::pace::RetryPolicy;
use crate::policy::DetailsPolicy;
use crate::store::{AnsweredDetails, AppId, DetailsHolder, DueDetails, Store, StoreError};
use crate::tencent::info::MAX_INFO_IDS;
use crate::tencent::{ApiError, Client};

/// The number of seconds of requests whose answers are written in one transaction.
const SECONDS_PER_WRITE: u32 = 4;
/// The maximum number of requests between two writes, which bounds the memory.
const MAX_REQUESTS_PER_WRITE: u32 = 40;
/// The time after which requests are abandoned, so that they end before the claim expires.
const REQUESTS_TIMEOUT: Duration = Duration::from_secs(40);
/// The age at which a claim is renewed before requests are sent. A younger claim lasts for another
/// 45 s at least, because claims expire after 60 s. That is longer than [`REQUESTS_TIMEOUT`].
const CLAIM_RENEWAL: Duration = Duration::from_secs(15);
/// The longest pause before the next search for new groups, and the pause before the next attempt
/// to claim the details.
const POLL_INTERVAL: Duration = Duration::from_secs(60);
/// The minimum interval between two counts of the groups with details during a long refresh.
const COUNT_INTERVAL: Duration = Duration::from_secs(300);
/// The pauses after failures.
const FIRST_PAUSE: Duration = Duration::from_secs(10);
const LONGEST_PAUSE: Duration = Duration::from_secs(3600);

/// The app and how its details are kept.
#[derive(Clone, Debug)]
pub struct DetailsSettings {
    pub sdk_app_id: SdkAppId,
    /// The name of the app, for log lines.
    pub app: String,
    /// The name of this machine.
    pub host: String,
    pub policy: DetailsPolicy,
    /// The retries of the requests between two writes.
    pub retry: RetryPolicy,
}

/// Keeps the details of one app's groups up to date.
#[derive(Debug)]
pub struct DetailsRefresher {
    settings: DetailsSettings,
    requests: Requests,
    store: Store,
    clock: Clock,
    /// The name with which this process claims the details.
    holder: DetailsHolder,
    /// Kept between runs, so that a problem is logged once.
    problem: Mutex<Option<Problem>>,
}

/// The failures since the last success.
#[derive(Debug)]
struct Problem {
    text: String,
    pauses: ExponentialBackoff,
    retry_at: Instant,
}

/// Why details could not be refreshed.
#[derive(Debug, thiserror::Error)]
pub enum RefreshError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error(transparent)]
    Store(#[from] StoreError),
    #[error("no answers within {} seconds", REQUESTS_TIMEOUT.as_secs())]
    Timeout,
}

/// What to do after a step.
enum Next {
    Continue,
    Wait(Duration),
}

impl DetailsRefresher {
    #[must_use]
    pub fn new(settings: DetailsSettings, client: Client, store: Store, clock: Clock) -> Self {
        let holder = DetailsHolder(format!("{}/{:016x}", settings.host, rand::random::<u64>()));
        let requests = Requests::new(client, settings.policy.requests_per_second, settings.retry);
        Self { settings, requests, store, clock, holder, problem: Mutex::default() }
    }

    /// Sets the observer that receives the events of requests.
    #[must_use]
    pub fn with_observer(mut self, observer: Arc<dyn Observer>) -> Self {
        self.requests.set_observer(observer);
        self
    }

    /// Refreshes details until the future is dropped. It may be dropped at any time: groups that
    /// were requested and not stored yet are requested again.
    pub async fn run(&self) {
        let app = self.settings.app.as_str();
        // The level is error, because a log filter that disables the span would also remove the
        // app's name from its log lines.
        self.run_in_span().instrument(error_span!("details", app)).await;
    }

    /// Refreshes all details that are due. Returns the time after which more may be due.
    ///
    /// # Errors
    /// Stops at the first failure. What was stored stays.
    pub async fn refresh_due(&self) -> Result<Duration, RefreshError> {
        self.refresh_due_with(&mut RunState::default()).await
    }

    async fn run_in_span(&self) {
        let mut state = RunState::default();
        loop {
            let pause = self.pause_after_problem();
            if !pause.is_zero() {
                sleep(pause).await;
            }
            match self.refresh_due_with(&mut state).await {
                Ok(wait) => sleep(wait).await,
                Err(error) => self.on_failure(&error),
            }
        }
    }

    async fn refresh_due_with(&self, state: &mut RunState) -> Result<Duration, RefreshError> {
        loop {
            let next = self.step(state).await?;
            self.on_success();
            if let Next::Wait(wait) = next {
                return Ok(wait);
            }
        }
    }

    /// Requests and stores the details that are due next.
    async fn step(&self, state: &mut RunState) -> Result<Next, RefreshError> {
        let Some(app) = self.store.find_app(self.settings.sdk_app_id).await? else {
            return Ok(Next::Wait(POLL_INTERVAL));
        };
        let policy = self.settings.policy;
        let requests = (policy.requests_per_second * SECONDS_PER_WRITE).clamp(1, MAX_REQUESTS_PER_WRITE);
        let limit = usize::try_from(requests).unwrap_or(1) * MAX_INFO_IDS;
        let due = self.store.due_details(app, self.clock.now(), self.max_age(), limit).await?;
        match due {
            DueDetails::Nothing { until } => {
                if state.counts_are_outdated() {
                    self.count(app, state).await?;
                }
                let wait = (until - self.clock.now()).to_std().unwrap_or_default();
                Ok(Next::Wait(wait.clamp(Duration::from_secs(1), POLL_INTERVAL)))
            }
            // The first claim creates the state, so that the next step finds groups that are due.
            DueDetails::NotStarted if self.claim(app, state).await? => Ok(Next::Continue),
            DueDetails::NotStarted => Ok(Next::Wait(POLL_INTERVAL)),
            DueDetails::New { .. } | DueDetails::Range { .. } => self.refresh(app, due, state).await,
        }
    }

    async fn refresh(&self, app: AppId, due: DueDetails, state: &mut RunState) -> Result<Next, RefreshError> {
        if !self.claim(app, state).await? {
            debug!("another process refreshes the details");
            return Ok(Next::Wait(POLL_INTERVAL));
        }
        let at = self.clock.now();
        let answers = timeout(REQUESTS_TIMEOUT, self.requests.details_of(due.ids())).await;
        let answers = answers.map_err(|_elapsed| RefreshError::Timeout)??;
        let answered = AnsweredDetails { due, at, answers };
        // Read before the write, because the claim is renewed during the write.
        let now = Instant::now();
        let Some(written) = self.store.write_details(app, &self.holder, &answered).await? else {
            warn!("another process has claimed the details, because the claim of this process expired");
            state.claimed_at = None;
            return Ok(Next::Wait(POLL_INTERVAL));
        };
        state.claimed_at = Some(now);
        state.refreshed += answered.answers.len();
        if state.count_is_due() {
            self.count(app, state).await?;
        }
        debug!(groups = answered.answers.len(), written, "refreshed details");
        Ok(Next::Continue)
    }

    /// Claims the app's details for this process, unless its claim is recent. Returns false if
    /// another process has claimed them.
    async fn claim(&self, app: AppId, state: &mut RunState) -> Result<bool, StoreError> {
        if state.claimed_at.is_some_and(|claimed_at| claimed_at.elapsed() < CLAIM_RENEWAL) {
            return Ok(true);
        }
        let now = Instant::now();
        let claimed = self.store.claim_details(app, &self.holder).await?;
        state.claimed_at = claimed.then_some(now);
        Ok(claimed)
    }

    /// Returns the age at which details are due.
    fn max_age(&self) -> TimeDelta {
        TimeDelta::from_std(self.settings.policy.refresh).unwrap_or(TimeDelta::MAX)
    }

    /// Counts the groups with details, and those whose details are not due, and stores the counts
    /// for readers.
    async fn count(&self, app: AppId, state: &mut RunState) -> Result<(), StoreError> {
        let now = self.clock.now();
        let since = now.checked_sub_signed(self.max_age()).unwrap_or(DateTime::<Utc>::MIN_UTC);
        self.store.count_details(app, since.max(DateTime::UNIX_EPOCH), now).await?;
        (state.counted_at, state.refreshed) = (Some(Instant::now()), 0);
        Ok(())
    }

    fn pause_after_problem(&self) -> Duration {
        let problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        problem
            .as_ref()
            .map_or(Duration::ZERO, |problem| problem.retry_at.saturating_duration_since(Instant::now()))
    }

    fn on_success(&self) {
        let problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner).take();
        if problem.is_some() {
            info!("details of groups are refreshed again");
        }
    }

    /// Schedules a retry with exponential back-off. Logs the problem if it differs from the
    /// previous one.
    fn on_failure(&self, error: &RefreshError) {
        let text = with_causes(error);
        let mut problem = self.problem.lock().unwrap_or_else(PoisonError::into_inner);
        let is_known = problem.as_ref().is_some_and(|problem| problem.text == text);
        let mut pauses = problem.take().map_or_else(pauses, |problem| problem.pauses);
        let pause = pauses.next().unwrap_or(LONGEST_PAUSE);
        if is_known {
            debug!(pause_seconds = pause.as_secs(), "details are still not refreshed: {text}");
        } else {
            warn!(
                "cannot refresh the details of groups, retrying after 10 s to 1 h; crawls \
                 continue: {text}"
            );
        }
        *problem = Some(Problem { text, pauses, retry_at: Instant::now() + pause });
    }
}

fn pauses() -> ExponentialBackoff {
    ExponentialBuilder::default()
        .with_min_delay(FIRST_PAUSE)
        .with_max_delay(LONGEST_PAUSE)
        .without_max_times()
        .build()
}

/// The state of one run.
struct RunState {
    /// When the claim was renewed last. Each write renews it.
    claimed_at: Option<Instant>,
    counted_at: Option<Instant>,
    /// The number of groups refreshed since the last count.
    refreshed: usize,
}

impl Default for RunState {
    /// Starts with outdated counts (`refreshed` is not 0), because a crawl may have changed the
    /// groups since the counts were stored.
    fn default() -> Self {
        Self { claimed_at: None, counted_at: None, refreshed: 1 }
    }
}

impl RunState {
    fn counts_are_outdated(&self) -> bool {
        self.refreshed > 0
    }

    /// Returns whether the counts are outdated and older than [`COUNT_INTERVAL`].
    fn count_is_due(&self) -> bool {
        let is_recent = |at: Instant| at.elapsed() < COUNT_INTERVAL;
        self.counts_are_outdated() && !self.counted_at.is_some_and(is_recent)
    }
}
