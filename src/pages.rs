//! Cursor pagination through a list of the API: follows `Next` at the allowed rate, with retries,
//! and gives up a list that seems endless.
//!
//! A list ends only with an explicit `Next` of 0. An [`EndOfList`] proves that this happened.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::{debug, info, warn};

use crate::model::{AppStatistics, Counts, GroupType, ReasonCode, plural, with_causes};
use crate::pace::{Attempt, Disposition, Pacer, Pause, RetryBudget};
use crate::tencent::wire::ListRequest;
use crate::tencent::{ApiError, Client, Fields, GroupAnswer, Page};

/// The number of consecutive pages without ids after which a list is treated as endless.
const MAX_EMPTY_PAGES: u32 = 20;
/// The number of pages after which a list is treated as endless: a billion groups at 10,000 a page.
const MAX_PAGES: u32 = 100_000;

/// A list is treated as endless if it has more entries than `MAX_ENTRIES_PER_GROUP` × groups +
/// [`EXTRA_ENTRIES`], where groups is the greatest known count. A list that changes while it is
/// read repeats some entries, but far fewer.
const MAX_ENTRIES_PER_GROUP: u64 = 2;
/// The constant part of the limit for entries, see [`MAX_ENTRIES_PER_GROUP`].
const EXTRA_ENTRIES: u64 = 10_000;

/// Proof that the API ended a list with an explicit `Next` of 0. Only [`Paginator::fetch_next`]
/// creates one.
#[derive(Debug)]
pub struct EndOfList(());

impl EndOfList {
    #[cfg(test)]
    pub(crate) fn for_test() -> Self {
        Self(())
    }
}

/// Why a list could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum PagesError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("the list does not end: {reason}; crawl again, and report the problem if it persists")]
    Endless { reason: String },
}

impl PagesError {
    /// Returns the reason code of a crawl that fails with this error.
    #[must_use]
    pub fn reason_code(&self) -> ReasonCode {
        match self {
            Self::Api(error) => error.reason_code(),
            Self::Endless { .. } => ReasonCode::EndlessListing,
        }
    }

    /// Returns the API's error code, if the API answered with one.
    #[must_use]
    pub fn code(&self) -> Option<i64> {
        match self {
            Self::Api(error) => error.code(),
            Self::Endless { .. } => None,
        }
    }
}

/// A pause before a retry.
#[derive(Clone, Debug)]
pub struct RetryPause {
    pub until: Instant,
    pub why: String,
}

/// The outcome of one attempt at a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestOutcome {
    Ok,
    /// The attempt failed and will be retried.
    Retried,
    /// The API refused the attempt because of its rate limit. It is retried if the retry budget
    /// allows it.
    Throttled,
    /// The attempt failed and will not be retried.
    Failed,
}

/// An event of a request, for progress displays and metrics.
#[derive(Debug)]
pub enum RequestEvent<'a> {
    /// An attempt is sent. A pause before it, see [`RequestEvent::Pausing`], has ended.
    Sent,
    /// The attempt ended with an answer or a failure, after this time.
    AttemptFinished { took: Duration },
    /// It was decided whether the attempt is retried.
    AttemptClassified { outcome: RequestOutcome, error: Option<&'a ApiError> },
    /// A pause before a retry begins.
    Pausing(RetryPause),
}

/// How a crawl calls `get_group_info`.
#[derive(Clone, Copy, Debug)]
pub struct InfoSettings {
    /// The minimum interval between two requests.
    pub interval: Duration,
    pub fields: Fields,
}

/// Requests only the types of groups, without a rate limit.
impl Default for InfoSettings {
    fn default() -> Self {
        Self { interval: Duration::ZERO, fields: Fields::Type }
    }
}

/// Makes the requests of one crawl: limits their rate, retries and counts them.
pub struct Caller<'a> {
    pacer: &'a Pacer,
    /// The retry budget of list requests.
    retries: RetryBudget,
    /// The rate limiter of `get_group_info`, which has a limit of its own.
    info_pacer: Pacer,
    info_fields: Fields,
    attempts: Attempts<'a>,
}

/// Makes attempts. All requests of a crawl share it.
struct Attempts<'a> {
    client: &'a Client,
    requests: AtomicU64,
    /// The number of attempts that wait for their answers.
    in_flight: watch::Sender<usize>,
    on_event: Box<dyn Fn(RequestEvent<'_>) + Send + Sync + 'a>,
}

/// Counts an attempt as in flight until this value is dropped.
struct InFlight<'a>(&'a watch::Sender<usize>);

impl<'a> InFlight<'a> {
    fn new(in_flight: &'a watch::Sender<usize>) -> Self {
        in_flight.send_modify(|requests| *requests += 1);
        Self(in_flight)
    }
}

impl Drop for InFlight<'_> {
    fn drop(&mut self) {
        self.0.send_modify(|requests| *requests -= 1);
    }
}

impl std::fmt::Debug for Caller<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Caller").field("requests", &self.requests()).finish_non_exhaustive()
    }
}

impl<'a> Caller<'a> {
    /// Creates a caller. It calls `on_event` for the events of every request.
    pub fn new(
        client: &'a Client,
        pacer: &'a Pacer,
        retries: RetryBudget,
        info: InfoSettings,
        on_event: impl Fn(RequestEvent<'_>) + Send + Sync + 'a,
    ) -> Self {
        let info_pacer = Pacer::new(info.interval, Instant::now());
        let in_flight = watch::Sender::new(0);
        let attempts =
            Attempts { client, requests: AtomicU64::new(0), in_flight, on_event: Box::new(on_event) };
        Self { pacer, retries, info_pacer, info_fields: info.fields, attempts }
    }

    /// Returns the number of attempts made so far: requests including retries.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.attempts.requests.load(Ordering::Relaxed)
    }

    /// Returns a receiver of the number of requests in flight. A request that waits for the rate
    /// limiter or for a retry is not in flight.
    #[must_use]
    pub fn in_flight(&self) -> watch::Receiver<usize> {
        self.attempts.in_flight.subscribe()
    }

    /// Returns the host of the API, for errors.
    #[must_use]
    pub fn host(&self) -> String {
        self.attempts.client.host()
    }

    /// Returns by how much this machine's clock is ahead of the API's, according to the API's last
    /// answer.
    #[must_use]
    pub fn clock_skew(&self) -> Option<TimeDelta> {
        self.attempts.client.clock_skew()
    }

    /// Requests the app's `TotalCount`, with a page of one group.
    pub async fn count_app(&mut self) -> Result<Option<u64>, ApiError> {
        let request = ListRequest { limit: 1, next: 0, group_type: None };
        Ok(self.list(&request).await?.total_count)
    }

    /// Calls `get_group_info` for at most [`MAX_INFO_IDS`](crate::tencent::info::MAX_INFO_IDS)
    /// groups. The answers are in the order of `ids`. Calls may be concurrent. A throttled call
    /// fails without a retry, because the next crawl can look the groups up.
    pub async fn group_info(
        &self,
        ids: &[&str],
        retries: &RetryBudget,
    ) -> Result<Vec<GroupAnswer>, ApiError> {
        let client = self.attempts.client;
        let disposition = |error: &ApiError| match error.disposition() {
            Disposition::Throttle { .. } => Disposition::Fatal,
            disposition => disposition,
        };
        let send = || client.group_answers(ids, self.info_fields);
        self.attempts.make(retries, &self.info_pacer, None, send, disposition).await
    }

    /// Requests the app's statistics once, without retries, because a later crawl can request them
    /// again.
    pub async fn app_statistics(&self) -> Result<Vec<AppStatistics>, ApiError> {
        let client = self.attempts.client;
        let send = || client.app_statistics();
        self.attempts.make(&self.retries, &self.info_pacer, None, send, |_| Disposition::Fatal).await
    }

    async fn list(&mut self, request: &ListRequest) -> Result<Page, ApiError> {
        let disposition = |error: &ApiError| match error.disposition() {
            // An answer with one group cannot be too large, so this error is retried like a
            // malformed answer.
            Disposition::ReduceLimit if request.limit <= 1 => Disposition::RetryBriefly,
            disposition => disposition,
        };
        let (client, group_type) = (self.attempts.client, request.group_type.as_deref());
        let send = || client.list_groups(request);
        self.attempts.make(&self.retries, self.pacer, group_type, send, disposition).await
    }
}

impl Attempts<'_> {
    /// Makes a request at the rate of `pacer`, retries it within the budget of `retries`, and
    /// reports its events. `group_type` is for log lines.
    async fn make<T, F: Future<Output = Result<T, ApiError>>>(
        &self,
        retries: &RetryBudget,
        pacer: &Pacer,
        group_type: Option<&str>,
        send: impl Fn() -> F,
        disposition: impl Fn(&ApiError) -> Disposition,
    ) -> Result<T, ApiError> {
        let Self { client, requests, in_flight, on_event } = self;
        let attempt = |attempt: Attempt| {
            requests.fetch_add(1, Ordering::Relaxed);
            on_event(RequestEvent::Sent);
            if attempt.renew_signature {
                client.renew_signature();
            }
            let in_flight = InFlight::new(in_flight);
            let (sent, answer) = (Instant::now(), send());
            async move {
                let answer = answer.await;
                drop(in_flight);
                if !answer.as_ref().is_err_and(ApiError::is_without_answer)
                    && let Some(lasted) = client.end_outage()
                {
                    let lasted = humantime::format_duration(Duration::from_secs(lasted.as_secs()));
                    info!("the API at {} answers again, after {lasted}", client.host());
                }
                on_event(RequestEvent::AttemptFinished { took: sent.elapsed() });
                answer
            }
        };
        let on_pause = |pause: Pause<'_, ApiError>| {
            log_retry(client, group_type, &pause);
            let outcome = outcome_of(pause.disposition, true);
            on_event(RequestEvent::AttemptClassified { outcome, error: Some(pause.error) });
            if pause.pause > Duration::ZERO {
                let why = with_causes(pause.error);
                on_event(RequestEvent::Pausing(RetryPause { until: Instant::now() + pause.pause, why }));
            }
        };
        let answer = retries.request(pacer, attempt, &disposition, on_pause).await;
        let (outcome, error) = match &answer {
            Ok(_) => (RequestOutcome::Ok, None),
            Err(error) if matches!(error.disposition(), Disposition::Throttle { .. }) => {
                (RequestOutcome::Throttled, Some(error))
            }
            Err(error) => (outcome_of(disposition(error), false), Some(error)),
        };
        on_event(RequestEvent::AttemptClassified { outcome, error });
        answer
    }
}

/// Logs a retry as a warning, but a persisting outage only once: later attempts are at debug.
fn log_retry(client: &Client, group_type: Option<&str>, pause: &Pause<'_, ApiError>) {
    let error = pause.error;
    let pause_ms = u64::try_from(pause.pause.as_millis()).unwrap_or(u64::MAX);
    if error.is_without_answer() && !client.record_outage(error) {
        debug!(group_type, pause_ms, "request failed again, retrying: {error}");
    } else {
        warn!(group_type, error_code = error.code(), pause_ms, "request failed, retrying: {error}");
    }
}

fn outcome_of(disposition: Disposition, is_retried: bool) -> RequestOutcome {
    match disposition {
        Disposition::Throttle { .. } => RequestOutcome::Throttled,
        // `Paginator` repeats the request with a smaller limit.
        Disposition::ReduceLimit => RequestOutcome::Retried,
        _ if is_retried => RequestOutcome::Retried,
        _ => RequestOutcome::Failed,
    }
}

/// Reads one list page by page.
#[derive(Debug)]
pub struct Paginator {
    group_type: Option<GroupType>,
    limit: u32,
    next: u64,
    /// Every `Next` so far, to detect a repeated one.
    cursors: HashSet<u64>,
    /// The number of pages fetched so far.
    fetched: u32,
    /// The number of consecutive pages without ids.
    consecutive_empty: u32,
    counts: Counts,
    /// The number of ids listed so far, including repeated and unusable ones.
    entries: u64,
    /// The greatest count of groups that is known from elsewhere: the app's total, or the number of
    /// live groups before the crawl.
    known_groups: Option<u64>,
}

/// A page of a list.
#[derive(Debug)]
pub struct FetchedPage {
    pub page: Page,
    /// Set on the last page.
    pub end: Option<EndOfList>,
}

impl Paginator {
    /// Starts at the beginning of the list of a type, or of all types for `None`. The number of
    /// entries is limited by the greater of `TotalCount` and `known_groups`. Without both, only the
    /// number of pages is limited.
    #[must_use]
    pub fn of(group_type: Option<GroupType>, limit: u32, known_groups: Option<u64>) -> Self {
        Self {
            group_type,
            limit,
            known_groups,
            entries: 0,
            next: 0,
            cursors: HashSet::new(),
            fetched: 0,
            consecutive_empty: 0,
            counts: Counts::default(),
        }
    }

    /// Fetches the next page. If the answer is too large, repeats the request with half the limit,
    /// and keeps that limit for the rest of the list.
    pub async fn fetch_next(&mut self, caller: &mut Caller<'_>) -> Result<FetchedPage, PagesError> {
        let page = loop {
            let group_type = self.group_type.as_ref().map(|group_type| group_type.as_str().to_owned());
            let request = ListRequest { limit: self.limit, next: self.next, group_type };
            match caller.list(&request).await {
                Err(error) if error.disposition() == Disposition::ReduceLimit && self.limit > 1 => {
                    self.limit /= 2;
                    warn!(
                        limit = self.limit,
                        error_code = error.code(),
                        "answer too large, requesting fewer groups per page: {error}"
                    );
                }
                answer => break answer?,
            }
        };
        self.fetched += 1;
        self.counts.add(page.total_count);
        self.entries += page.ids.len() as u64 + page.unusable;
        self.check_bounds(&page)?;
        self.next = page.next;
        let end = (page.next == 0).then_some(EndOfList(()));
        Ok(FetchedPage { page, end })
    }

    /// Returns whether this error of the list's first request means that the API does not know the
    /// group type.
    #[must_use]
    pub fn is_rejected(&self, error: &ApiError) -> bool {
        let first_of_a_type = self.fetched == 0 && self.group_type.is_some();
        first_of_a_type && error.disposition() == Disposition::RejectType
    }

    /// Returns an error if the list exceeds a limit or repeats a cursor.
    fn check_bounds(&mut self, page: &Page) -> Result<(), PagesError> {
        let endless = |reason| Err(PagesError::Endless { reason });
        if let Some(groups) = self.counts.highest.max(self.known_groups) {
            let most = groups.saturating_mul(MAX_ENTRIES_PER_GROUP).saturating_add(EXTRA_ENTRIES);
            if self.entries > most {
                return endless(format!(
                    "it has {} entries after {} {}, but at most {groups} {} known",
                    self.entries,
                    self.fetched,
                    plural(self.fetched.into(), "page"),
                    if groups == 1 { "group is" } else { "groups are" }
                ));
            }
        }
        if page.next == 0 {
            return Ok(());
        }
        if !self.cursors.insert(page.next) {
            return endless(format!("page {} repeats the Next of an earlier page", self.fetched));
        }
        self.consecutive_empty = if page.ids.is_empty() { self.consecutive_empty + 1 } else { 0 };
        if self.consecutive_empty >= MAX_EMPTY_PAGES {
            return endless(format!("{MAX_EMPTY_PAGES} consecutive pages are empty, and Next is not 0"));
        }
        if self.fetched >= MAX_PAGES {
            return endless(format!("it has {MAX_PAGES} pages, and Next is not 0"));
        }
        Ok(())
    }

    /// Returns the number of pages fetched so far.
    #[must_use]
    pub fn pages(&self) -> u32 {
        self.fetched
    }

    /// Returns the `TotalCount`s of the pages fetched so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }
}
