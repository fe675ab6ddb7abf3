//! Asks `get_group_info` what the lists leave in doubt, in batches with controls, within a budget of time and requests.
//!
//! Asking never fails a crawl. What could not be asked about waits for a later crawl.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use tokio::time::Instant;
use tracing::warn;

use super::progress::Step;
use super::{CrawlSite, Interrupted};
use crate::confirmation::{Batch, Controls, Learned, Samples, judge_controls};
use crate::model::{ReasonCode, with_causes};
use crate::pace::{Disposition, RetryBudget, RetryPolicy};
use crate::pages::Caller;
use crate::tencent::{ApiError, GroupAnswer};

/// Time that asking may take if the lists took less than four times as long.
const LEAST_TIME: Duration = Duration::from_secs(10);
/// Requests a second: the pace of `get_group_info`, which bounds how many questions are worth preparing.
const REQUESTS_A_SECOND: u64 = 50;
/// Requests that wait for their answers at the same time.
const IN_FLIGHT: usize = 4;
/// Time that the retries of all questions of a crawl may take together.
const RETRY_FOR: Duration = Duration::from_secs(30);
/// Listed controls that are tried for one batch: the first, and two in its place.
const LISTED_CONTROLS: usize = 3;
/// Batches running without a valid one, after which a crawl stops asking.
const MAX_INVALID: u32 = 3;

/// What came of asking about one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// A valid batch, or the API itself in place of an answer about single groups.
    Learned(Learned),
    /// No answer, or one whose controls contradict: nothing is known about the group itself.
    Nothing,
}

/// How the questions of one batch fared.
enum BatchOutcome {
    Valid(Vec<Learned>),
    /// The controls contradict what is known of them, by these codes.
    Contradicted {
        absent: Option<i64>,
        listed: Option<i64>,
    },
    Failed(ApiError),
    /// No group was listed that could be a control.
    NoControl,
}

/// Asks questions for one crawl.
pub(super) struct Inquiry<'a> {
    site: &'a CrawlSite<'a>,
    caller: &'a Caller<'a>,
    samples: &'a Samples,
    /// The app listed nothing and its totals are 0, so that no group can be a listed control.
    emptied: bool,
    retries: RetryBudget,
    deadline: Instant,
    /// Listed controls that were found gone.
    gone_controls: Mutex<HashSet<String>>,
    invalid_running: u32,
    /// No more questions are asked.
    ended: bool,
    /// The API refuses this call.
    pub(super) refused: Option<ApiError>,
}

impl<'a> Inquiry<'a> {
    /// `lists_took` is the time that the lists of this crawl took.
    pub(super) fn new(
        site: &'a CrawlSite<'a>,
        caller: &'a Caller<'a>,
        retry: RetryPolicy,
        samples: &'a Samples,
        emptied: bool,
        lists_took: Duration,
    ) -> Self {
        let policy = RetryPolicy { retry_for: RETRY_FOR.min(retry.retry_for), ..retry };
        Self {
            site,
            caller,
            samples,
            emptied,
            retries: RetryBudget::of_total(policy),
            deadline: Instant::now() + LEAST_TIME.max(lists_took / 4),
            gone_controls: Mutex::default(),
            invalid_running: 0,
            ended: false,
            refused: None,
        }
    }

    /// Whether questions can still be asked.
    pub(super) fn goes_on(&self) -> bool {
        !self.ended && self.refused.is_none() && Instant::now() < self.deadline
    }

    /// How many questions there is time for at most.
    pub(super) fn room(&self) -> usize {
        let seconds = self.deadline.saturating_duration_since(Instant::now()).as_secs() + 1;
        usize::try_from(seconds * REQUESTS_A_SECOND).unwrap_or(usize::MAX) * crate::confirmation::BATCH
    }

    /// Asks these batches, as far as time and the API allow. A group without an entry in the result was not asked about.
    pub(super) async fn ask(
        &mut self,
        batches: Vec<Batch<'_>>,
    ) -> Result<HashMap<String, Answered>, Interrupted> {
        let mut answered = HashMap::new();
        if batches.is_empty() || !self.goes_on() {
            return Ok(answered);
        }
        let (site, caller) = (self.site, self.caller);
        let asking = self.ask_in_time(&batches, &mut answered);
        let ending = site.asking(caller.in_flight(), async { Ok::<_, Interrupted>(asking.await) }).await??;
        self.invalid_running = ending.invalid_running;
        self.ended |= ending.ended;
        self.refused = ending.refused;
        Ok(answered)
    }

    /// Keeps some requests in flight and takes their outcomes in order.
    async fn ask_in_time(&self, batches: &[Batch<'_>], answered: &mut HashMap<String, Answered>) -> Ending {
        let of = batches.iter().map(|batch| batch.ids.len() as u64).sum();
        let mut ending = Ending { invalid_running: self.invalid_running, ..Ending::default() };
        let (mut asked, mut waiting) = (0, batches.iter());
        let mut in_flight = FuturesOrdered::new();
        loop {
            while in_flight.len() < IN_FLIGHT && Instant::now() < self.deadline {
                let Some(batch) = waiting.next() else { break };
                in_flight.push_back(async move { (batch, self.ask_batch(batch).await) });
            }
            let Some((batch, outcome)) = in_flight.next().await else { return ending };
            asked += batch.ids.len() as u64;
            self.site.progress.send_modify(|progress| {
                progress.requests = self.caller.requests();
                progress.step = Step::Asking { asked, of };
            });
            ending.take(batch, outcome, answered);
            if ending.ended || ending.refused.is_some() {
                return ending;
            }
        }
    }

    /// Asks about one batch, with other listed controls in place of those that are gone.
    async fn ask_batch(&self, batch: &Batch<'_>) -> BatchOutcome {
        let absent = batch.form.absent_id(rand::random());
        let mut contradicted = BatchOutcome::NoControl;
        for listed in self.listed_controls(batch) {
            let mut ids: Vec<&str> = batch.ids.iter().copied().chain([absent.as_str()]).collect();
            let listed_at = listed.as_deref().map(|listed| {
                ids.iter().position(|id| *id == listed).unwrap_or_else(|| {
                    ids.push(listed);
                    ids.len() - 1
                })
            });
            let answers = match self.caller.group_info(&ids, &self.retries).await {
                Ok(answers) => answers,
                Err(error) => return BatchOutcome::Failed(error),
            };
            let (of_batch, of_absent) = (&answers[..batch.ids.len()], &answers[batch.ids.len()]);
            let of_listed: Option<&GroupAnswer> = listed_at.map(|at| &answers[at]);
            match judge_controls(of_absent, of_listed) {
                Controls::Valid(valid) => {
                    return BatchOutcome::Valid(of_batch.iter().map(|answer| valid.learn(answer)).collect());
                }
                Controls::ListedIsGone => {
                    let listed_code = of_listed.and_then(|answer| answer.code);
                    contradicted = BatchOutcome::Contradicted { absent: of_absent.code, listed: listed_code };
                    self.lock_gone_controls().extend(listed);
                }
                Controls::Contradict { absent, listed } => {
                    return BatchOutcome::Contradicted { absent, listed };
                }
            }
        }
        contradicted
    }

    /// The listed controls that this batch may try, one after the other; `None` where an emptied app needs none. A batch about
    /// types is of listed groups: in a small app it may have all of them, and then one of its own is the control.
    fn listed_controls(&self, batch: &Batch<'_>) -> Vec<Option<String>> {
        if self.emptied {
            return vec![None];
        }
        let gone = self.lock_gone_controls();
        let controls = self.samples.controls(batch.type_id, batch.form);
        let usable = controls.filter(|id| !gone.contains(*id));
        let (own, others): (Vec<&str>, Vec<&str>) = usable.partition(|id| batch.ids.contains(id));
        others.into_iter().chain(own).take(LISTED_CONTROLS).map(|id| Some(id.to_owned())).collect()
    }

    fn lock_gone_controls(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.gone_controls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Whether and why asking ends.
#[derive(Default)]
struct Ending {
    invalid_running: u32,
    ended: bool,
    refused: Option<ApiError>,
}

impl Ending {
    fn take(&mut self, batch: &Batch<'_>, outcome: BatchOutcome, answered: &mut HashMap<String, Answered>) {
        let ids = || batch.ids.iter().map(|id| (*id).to_owned());
        let learned = match outcome {
            BatchOutcome::Valid(learned) => {
                self.invalid_running = 0;
                answered.extend(ids().zip(learned.into_iter().map(Answered::Learned)));
                return;
            }
            BatchOutcome::NoControl => return,
            BatchOutcome::Contradicted { absent, listed } => {
                let shown =
                    |code: Option<i64>| code.map_or_else(|| "no answer".to_owned(), |code| code.to_string());
                warn!(
                    absent_control = absent,
                    listed_control = listed,
                    "get_group_info contradicts what is known: it answered {} for an id that cannot exist and {} for a \
                     listed group; nothing is concluded from it",
                    shown(absent),
                    shown(listed)
                );
                Answered::Nothing
            }
            BatchOutcome::Failed(error) => match error.reason_code() {
                ReasonCode::Refused => {
                    self.refused = Some(error);
                    return;
                }
                ReasonCode::Throttled => {
                    let error_code = error.code();
                    warn!(
                        error_code,
                        "get_group_info was called too often; the next crawl asks about the rest"
                    );
                    self.ended = true;
                    return;
                }
                _ => {
                    let (error_code, why) = (error.code(), with_causes(&error));
                    warn!(error_code, groups = batch.ids.len(), "asking about groups failed: {why}");
                    // A code for the whole request that is no passing failure: asking the same again would get the same.
                    let final_code = error_code.is_some() && error.disposition() != Disposition::Retry;
                    if final_code { Answered::Learned(Learned::Unlearned) } else { Answered::Nothing }
                }
            },
        };
        answered.extend(ids().map(|id| (id, learned.clone())));
        self.invalid_running += 1;
        if self.invalid_running >= MAX_INVALID {
            warn!("{MAX_INVALID} requests running told nothing; the next crawl asks about the rest");
            self.ended = true;
        }
    }
}
