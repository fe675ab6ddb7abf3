//! Follows `Next` from page to page, politely and for as long as it makes sense.
//!
//! Only an explicit `Next` of 0 ends a list, and only here is the [`EndOfList`] made that says so.

use std::collections::HashSet;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use crate::model::{Counts, GroupType, ReasonCode};
use crate::pace::{Attempt, Disposition, Pacer, Patience, Pause};
use crate::tencent::wire::ListRequest;
use crate::tencent::{ApiError, Client, GroupState, Page};

/// Pages in a row without an id, `Next` not 0, after which a list is called endless.
const MAX_EMPTY_PAGES: u32 = 20;
/// Pages of one pass: a billion groups at 10,000 a page, ten million even at 100.
const MAX_PAGES: u32 = 100_000;

/// Least time between two calls about single groups, of which the API allows 200 a second.
const INFO_INTERVAL: Duration = Duration::from_millis(20);

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
    /// Turns of the calls about single groups, which have a limit of their own.
    info_pacer: Pacer,
    attempts: Attempts<'a>,
}

/// What all calls of a crawl share.
struct Attempts<'a> {
    client: &'a Client,
    patience: Patience,
    requests: u64,
    /// Whether a request waits for its answer.
    in_hand: watch::Sender<bool>,
    on_news: Box<dyn Fn(News<'_>) + Send + Sync + 'a>,
}

/// Shows that a request waits for its answer, for as long as it does.
struct InHand<'a>(&'a watch::Sender<bool>);

impl<'a> InHand<'a> {
    fn new(in_hand: &'a watch::Sender<bool>) -> Self {
        in_hand.send_replace(true);
        Self(in_hand)
    }
}

impl Drop for InHand<'_> {
    fn drop(&mut self) {
        self.0.send_replace(false);
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
        let in_hand = watch::Sender::new(false);
        let attempts = Attempts { client, patience, requests: 0, in_hand, on_news: Box::new(on_news) };
        Self { pacer, info_pacer, attempts }
    }

    /// Requests made so far, retries included.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.attempts.requests
    }

    /// Whether a request waits for its answer, as opposed to its turn or another attempt.
    #[must_use]
    pub fn in_hand(&self) -> watch::Receiver<bool> {
        self.attempts.in_hand.subscribe()
    }

    /// The number of groups in the whole app, from a request for a single one.
    pub async fn count_app(&mut self) -> Result<Option<u64>, ApiError> {
        let request = ListRequest { limit: 1, next: 0, group_type: None };
        Ok(self.ask(&request).await?.total_count)
    }

    /// What the API says of single groups, in their order: [`MAX_INFO_IDS`](crate::tencent::wire::MAX_INFO_IDS) at most.
    pub async fn ask_about(&mut self, ids: &[&str]) -> Result<Vec<GroupState>, ApiError> {
        let client = self.attempts.client;
        let disposition = ApiError::disposition;
        self.attempts.make(&self.info_pacer, None, || client.group_states(ids), disposition).await
    }

    async fn ask(&mut self, request: &ListRequest) -> Result<Page, ApiError> {
        let disposition = |error: &ApiError| match error.disposition() {
            // One group cannot be too large an answer: this is nonsense, and may pass as other nonsense does.
            Disposition::ReduceLimit if request.limit <= 1 => Disposition::RetryBriefly,
            disposition => disposition,
        };
        let (client, group_type) = (self.attempts.client, request.group_type.as_deref());
        self.attempts.make(self.pacer, group_type, || client.list_groups(request), disposition).await
    }
}

impl Attempts<'_> {
    async fn make<T, F: Future<Output = Result<T, ApiError>>>(
        &mut self,
        pacer: &Pacer,
        group_type: Option<&str>,
        send: impl Fn() -> F,
        disposition: impl Fn(&ApiError) -> Disposition,
    ) -> Result<T, ApiError> {
        let Self { client, patience, requests, in_hand, on_news } = self;
        let (client, in_hand, on_news) = (*client, &*in_hand, &*on_news);
        let attempt = |attempt: Attempt| {
            *requests += 1;
            on_news(News::Asking);
            if attempt.renew_signature {
                client.renew_signature();
            }
            let in_hand = InHand::new(in_hand);
            let (asked, answer) = (Instant::now(), send());
            async move {
                let answer = answer.await;
                drop(in_hand);
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
}

/// A page, and whether it was the last.
#[derive(Debug)]
pub struct Turned {
    pub page: Page,
    pub end: Option<EndOfList>,
}

impl Pages {
    /// `None` lists all types.
    #[must_use]
    pub fn of(group_type: Option<GroupType>, limit: u32) -> Self {
        Self {
            group_type,
            limit,
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
