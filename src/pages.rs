//! Follows `Next` from page to page, politely and for as long as it makes sense.
//!
//! Only an explicit `Next` of 0 ends a list, and only here is the [`EndOfList`] made that says so.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use chrono::TimeDelta;
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use crate::model::{Counts, GroupType, ReasonCode};
use crate::pace::{Attempt, Disposition, Pacer, Patience, Pause};
use crate::tencent::wire::ListRequest;
use crate::tencent::{ApiError, Client, GroupAnswer, Page};

/// Pages in a row without an id, `Next` not 0, after which a list is called endless.
const MAX_EMPTY_PAGES: u32 = 20;
/// Pages of one pass: a billion groups at 10,000 a page, ten million even at 100.
const MAX_PAGES: u32 = 100_000;

/// Least time between two calls of `get_group_info` for one app, details included. The API allows 200 a second.
const INFO_INTERVAL: Duration = Duration::from_millis(20);

/// Entries, as a multiple of the greatest known count of groups, and more, after which a list is called endless. A list that
/// shifts under its cursor repeats entries, but far fewer.
const MAX_ENTRIES_PER_GROUP: u64 = 2;
const MAX_FURTHER_ENTRIES: u64 = 10_000;

/// The API said explicitly that a list is complete. It cannot be made anywhere else.
#[derive(Debug)]
pub struct EndOfList(());

impl EndOfList {
    #[cfg(test)]
    pub(crate) fn for_test() -> Self {
        Self(())
    }
}

/// Why a list could not be followed to its end.
#[derive(Debug, thiserror::Error)]
pub enum PagesError {
    #[error(transparent)]
    Api(#[from] ApiError),
    #[error("the list does not end: {what}")]
    Endless { what: String },
}

impl PagesError {
    /// The word under which a crawl that fails on this is recorded.
    #[must_use]
    pub fn reason_code(&self) -> ReasonCode {
        match self {
            Self::Api(error) => error.reason_code(),
            Self::Endless { .. } => ReasonCode::EndlessListing,
        }
    }

    /// The API's error code, when it answered one.
    #[must_use]
    pub fn code(&self) -> Option<i64> {
        match self {
            Self::Api(error) => error.code(),
            Self::Endless { .. } => None,
        }
    }
}

/// A pause before another attempt, for whoever shows what is going on.
#[derive(Clone, Debug)]
pub struct Waiting {
    pub until: Instant,
    pub why: String,
}

/// What becomes of a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    Ok,
    /// It failed, and is made again.
    Retried,
    /// The API said that calls come too often; it is made again, unless patience is at its end.
    Throttled,
    /// It failed for good.
    Failed,
}

/// What happens while requests are made, for whoever shows or counts it.
#[derive(Debug)]
pub enum News<'a> {
    /// A request is sent. A pause before it is over.
    Asking,
    /// The answer to a request, or its failure, came after so long.
    Answered { took: Duration },
    /// What is to become of a request whose answer has come.
    Became { outcome: Outcome, error: Option<&'a ApiError> },
    /// Before another attempt is a pause.
    Pausing(Waiting),
}

/// Makes the requests of one crawl: in turn, again where that may help, counted.
pub struct Caller<'a> {
    pacer: &'a Pacer,
    /// Retry budget of the requests for lists.
    patience: Patience,
    /// Turns of the calls about single groups, which have a limit of their own.
    info_pacer: Pacer,
    attempts: Attempts<'a>,
}

/// What all calls of a crawl share.
struct Attempts<'a> {
    client: &'a Client,
    requests: AtomicU64,
    /// Requests that wait for their answers.
    in_flight: watch::Sender<usize>,
    on_news: Box<dyn Fn(News<'_>) + Send + Sync + 'a>,
}

/// Counts a request as in flight until it is dropped.
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
    /// `on_news` hears of every request.
    pub fn new(
        client: &'a Client,
        pacer: &'a Pacer,
        patience: Patience,
        on_news: impl Fn(News<'_>) + Send + Sync + 'a,
    ) -> Self {
        let info_pacer = Pacer::new(INFO_INTERVAL, Instant::now());
        let in_flight = watch::Sender::new(0);
        let attempts =
            Attempts { client, requests: AtomicU64::new(0), in_flight, on_news: Box::new(on_news) };
        Self { pacer, patience, info_pacer, attempts }
    }

    /// Requests made so far, retries included.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.attempts.requests.load(Ordering::Relaxed)
    }

    /// How many requests wait for their answers, as opposed to their turn or another attempt.
    #[must_use]
    pub fn in_flight(&self) -> watch::Receiver<usize> {
        self.attempts.in_flight.subscribe()
    }

    /// By how much this machine's clock is ahead of the API's, as far as its answers have told.
    #[must_use]
    pub fn clock_skew(&self) -> Option<TimeDelta> {
        self.attempts.client.clock_skew()
    }

    /// The number of groups in the whole app, from a request for a single one.
    pub async fn count_app(&mut self) -> Result<Option<u64>, ApiError> {
        let request = ListRequest { limit: 1, next: 0, group_type: None };
        Ok(self.ask(&request).await?.total_count)
    }

    /// Asks `get_group_info` about these groups, [`MAX_INFO_IDS`](crate::tencent::wire::MAX_INFO_IDS) at most; the answers
    /// are in their order. Several calls may be in flight. An answer that calls come too often is not waited out: questions
    /// can wait for the next crawl.
    pub async fn ask_about(&self, ids: &[&str], patience: &Patience) -> Result<Vec<GroupAnswer>, ApiError> {
        let client = self.attempts.client;
        let disposition = |error: &ApiError| match error.disposition() {
            Disposition::Throttle { .. } => Disposition::Fatal,
            disposition => disposition,
        };
        let send = || client.group_answers(ids);
        self.attempts.make(patience, &self.info_pacer, None, send, disposition).await
    }

    async fn ask(&mut self, request: &ListRequest) -> Result<Page, ApiError> {
        let disposition = |error: &ApiError| match error.disposition() {
            // One group cannot be too large an answer: this is nonsense, and may pass as other nonsense does.
            Disposition::ReduceLimit if request.limit <= 1 => Disposition::RetryBriefly,
            disposition => disposition,
        };
        let (client, group_type) = (self.attempts.client, request.group_type.as_deref());
        let send = || client.list_groups(request);
        self.attempts.make(&self.patience, self.pacer, group_type, send, disposition).await
    }
}

impl Attempts<'_> {
    async fn make<T, F: Future<Output = Result<T, ApiError>>>(
        &self,
        patience: &Patience,
        pacer: &Pacer,
        group_type: Option<&str>,
        send: impl Fn() -> F,
        disposition: impl Fn(&ApiError) -> Disposition,
    ) -> Result<T, ApiError> {
        let Self { client, requests, in_flight, on_news } = self;
        let attempt = |attempt: Attempt| {
            requests.fetch_add(1, Ordering::Relaxed);
            on_news(News::Asking);
            if attempt.renew_signature {
                client.renew_signature();
            }
            let in_flight = InFlight::new(in_flight);
            let (asked, answer) = (Instant::now(), send());
            async move {
                let answer = answer.await;
                drop(in_flight);
                on_news(News::Answered { took: asked.elapsed() });
                answer
            }
        };
        let on_pause = |pause: Pause<'_, ApiError>| {
            warn!(
                group_type,
                error_code = pause.error.code(),
                pause_ms = u64::try_from(pause.pause.as_millis()).unwrap_or(u64::MAX),
                "trying again: {}",
                pause.error
            );
            on_news(News::Became { outcome: became(pause.disposition, true), error: Some(pause.error) });
            if pause.pause > Duration::ZERO {
                let why = pause.error.to_string();
                on_news(News::Pausing(Waiting { until: Instant::now() + pause.pause, why }));
            }
        };
        let answer = patience.request(pacer, attempt, &disposition, on_pause).await;
        on_news(match &answer {
            Ok(_) => News::Became { outcome: Outcome::Ok, error: None },
            Err(error) if matches!(error.disposition(), Disposition::Throttle { .. }) => {
                News::Became { outcome: Outcome::Throttled, error: Some(error) }
            }
            Err(error) => News::Became { outcome: became(disposition(error), false), error: Some(error) },
        });
        answer
    }
}

fn became(disposition: Disposition, made_again: bool) -> Outcome {
    match disposition {
        Disposition::Throttle { .. } => Outcome::Throttled,
        // For fewer groups.
        Disposition::ReduceLimit => Outcome::Retried,
        _ if made_again => Outcome::Retried,
        _ => Outcome::Failed,
    }
}

/// The pages of one list, from its first.
#[derive(Debug)]
pub struct Pages {
    group_type: Option<GroupType>,
    limit: u32,
    next: u64,
    cursors: HashSet<u64>,
    turned: u32,
    empty_in_a_row: u32,
    counts: Counts,
    /// Ids listed so far, repeated and unusable ones included.
    entries: u64,
    /// The greatest count of groups that is known from elsewhere: the app's total, the live groups before the crawl.
    known_groups: Option<u64>,
}

/// A page, and whether it was the last.
#[derive(Debug)]
pub struct Turned {
    pub page: Page,
    pub end: Option<EndOfList>,
}

impl Pages {
    /// `None` lists all types. `known_groups` bounds the list together with its own TotalCount; without any count only the
    /// number of pages is bounded.
    #[must_use]
    pub fn of(group_type: Option<GroupType>, limit: u32, known_groups: Option<u64>) -> Self {
        Self {
            group_type,
            limit,
            known_groups,
            entries: 0,
            next: 0,
            cursors: HashSet::new(),
            turned: 0,
            empty_in_a_row: 0,
            counts: Counts::default(),
        }
    }

    /// Fetches the next page. An answer that would be too large is asked for again at half the limit, from the same
    /// cursor; the smaller limit stays for the rest of the list.
    pub async fn turn(&mut self, caller: &mut Caller<'_>) -> Result<Turned, PagesError> {
        let page = loop {
            let group_type = self.group_type.as_ref().map(|group_type| group_type.as_str().to_owned());
            let request = ListRequest { limit: self.limit, next: self.next, group_type };
            match caller.ask(&request).await {
                Err(error) if error.disposition() == Disposition::ReduceLimit && self.limit > 1 => {
                    self.limit /= 2;
                    warn!(
                        limit = self.limit,
                        error_code = error.code(),
                        "asking for fewer groups a page: {error}"
                    );
                }
                answer => break answer?,
            }
        };
        self.turned += 1;
        self.counts.add(page.total_count);
        self.entries += page.ids.len() as u64 + page.unusable;
        self.guard_against_endlessness(&page)?;
        self.next = page.next;
        let end = (page.next == 0).then_some(EndOfList(()));
        Ok(Turned { page, end })
    }

    /// Whether the failure of the first request means that the API does not know the type.
    #[must_use]
    pub fn is_rejected(&self, error: &ApiError) -> bool {
        let first_of_a_type = self.turned == 0 && self.group_type.is_some();
        first_of_a_type && error.disposition() == Disposition::RejectType
    }

    fn guard_against_endlessness(&mut self, page: &Page) -> Result<(), PagesError> {
        let endless = |what| Err(PagesError::Endless { what });
        if let Some(groups) = self.counts.highest.max(self.known_groups) {
            let most = groups.saturating_mul(MAX_ENTRIES_PER_GROUP).saturating_add(MAX_FURTHER_ENTRIES);
            if self.entries > most {
                return endless(format!(
                    "it has {} entries after {} pages, and no count of groups is above {groups}",
                    self.entries, self.turned
                ));
            }
        }
        if page.next == 0 {
            return Ok(());
        }
        if !self.cursors.insert(page.next) {
            return endless(format!("page {} has a Next that an earlier page had", self.turned));
        }
        self.empty_in_a_row = if page.ids.is_empty() { self.empty_in_a_row + 1 } else { 0 };
        if self.empty_in_a_row >= MAX_EMPTY_PAGES {
            return endless(format!("{MAX_EMPTY_PAGES} pages in a row are empty, and Next is not 0"));
        }
        if self.turned >= MAX_PAGES {
            return endless(format!("it has {MAX_PAGES} pages, and Next is not 0"));
        }
        Ok(())
    }

    /// Pages fetched so far.
    #[must_use]
    pub fn pages(&self) -> u32 {
        self.turned
    }

    /// The TotalCounts stated so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }
}
