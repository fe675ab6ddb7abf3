//! Asks `get_group_info` about single groups, in batches with controls, within a budget of time and requests.
//!
//! A failure to ask never fails a crawl. Groups that could not be asked about wait for a later crawl.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use tokio::time::Instant;
use tracing::warn;

use super::context::CrawlContext;
use super::error::Interrupted;
use super::progress::Step;
use crate::confirmation::{Batch, Controls, Learned, Samples, judge_controls};
use crate::model::{ReasonCode, with_causes};
use crate::pace::{Disposition, RetryBudget, RetryPolicy};
use crate::pages::Caller;
use crate::tencent::{ApiError, GroupAnswer};

/// Least time budget for all questions of a crawl. A quarter of the time that the lists took is the other bound; the
/// longer one counts.
const MIN_BUDGET: Duration = Duration::from_secs(10);
/// The pace of `get_group_info`. It bounds how many questions are worth preparing.
const REQUESTS_PER_SECOND: u64 = 50;
/// Requests in flight at the same time.
const MAX_IN_FLIGHT: usize = 4;
/// Time that the retries of all questions of a crawl may take together.
const RETRY_BUDGET: Duration = Duration::from_secs(30);
/// Listed controls that are tried for one batch: the first one and two replacements.
const LISTED_CONTROLS: usize = 3;
/// Invalid batches in a row after which a crawl stops asking.
const MAX_INVALID_BATCHES: u32 = 3;

/// The result of asking about one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Answered {
    /// A valid batch answered, or the API refused the whole request with a final error code.
    Learned(Learned),
    /// The request failed, or the controls of its batch contradict: nothing is known about the group itself.
    Nothing,
}

/// The result of one batch.
enum BatchOutcome {
    Valid(Vec<Learned>),
    /// The controls contradict what is known of them. These are their codes.
    Contradicted {
        absent: Option<i64>,
        listed: Option<i64>,
    },
    Failed(ApiError),
    /// No listed group can be a control.
    NoControl,
}

/// Asks the questions of one crawl.
pub(super) struct Confirmer<'a> {
    context: &'a CrawlContext<'a>,
    caller: &'a Caller<'a>,
    samples: &'a Samples,
    /// The app has no groups, so that there is no listed control.
    emptied: bool,
    retries: RetryBudget,
    deadline: Instant,
    /// Listed controls that were gone when they were asked about.
    gone_controls: Mutex<HashSet<String>>,
    invalid_in_a_row: u32,
    /// The crawl stops asking.
    ended: bool,
    /// The API refuses `get_group_info`.
    pub(super) refused: Option<ApiError>,
}

impl<'a> Confirmer<'a> {
    /// `lists_took` is how long the lists of this crawl took, which bounds the budget.
    pub(super) fn new(
        context: &'a CrawlContext<'a>,
        caller: &'a Caller<'a>,
        samples: &'a Samples,
        emptied: bool,
        lists_took: Duration,
    ) -> Self {
        let retry = context.settings.retry;
        let policy = RetryPolicy { retry_for: RETRY_BUDGET.min(retry.retry_for), ..retry };
        Self {
            context,
            caller,
            samples,
            emptied,
            retries: RetryBudget::of_total(policy),
            deadline: Instant::now() + MIN_BUDGET.max(lists_took / 4),
            gone_controls: Mutex::default(),
            invalid_in_a_row: 0,
            ended: false,
            refused: None,
        }
    }

    /// Whether more questions can be asked.
    pub(super) fn can_ask(&self) -> bool {
        !self.ended && self.refused.is_none() && Instant::now() < self.deadline
    }

    /// Most questions that the rest of the budget allows.
    pub(super) fn room(&self) -> usize {
        let seconds = self.deadline.saturating_duration_since(Instant::now()).as_secs() + 1;
        usize::try_from(seconds * REQUESTS_PER_SECOND).unwrap_or(usize::MAX) * crate::confirmation::BATCH
    }

    /// Asks these batches as far as the budget and the API allow. A group without an entry in the result was not asked
    /// about.
    pub(super) async fn ask(
        &mut self,
        batches: Vec<Batch<'_>>,
    ) -> Result<HashMap<String, Answered>, Interrupted> {
        let mut answered = HashMap::new();
        if batches.is_empty() || !self.can_ask() {
            return Ok(answered);
        }
        let (context, caller) = (self.context, self.caller);
        let asking = self.ask_until_deadline(&batches, &mut answered);
        let state =
            context.requesting(caller.in_flight(), async { Ok::<_, Interrupted>(asking.await) }).await??;
        self.invalid_in_a_row = state.invalid_in_a_row;
        self.ended |= state.ended;
        self.refused = state.refused;
        Ok(answered)
    }

    /// Keeps several requests in flight and processes their results in order, until the deadline.
    async fn ask_until_deadline(
        &self,
        batches: &[Batch<'_>],
        answered: &mut HashMap<String, Answered>,
    ) -> AskingState {
        let of = batches.iter().map(|batch| batch.ids.len() as u64).sum();
        let mut state = AskingState { invalid_in_a_row: self.invalid_in_a_row, ..AskingState::default() };
        let (mut asked, mut waiting) = (0, batches.iter());
        let mut in_flight = FuturesOrdered::new();
        loop {
            while in_flight.len() < MAX_IN_FLIGHT && Instant::now() < self.deadline {
                let Some(batch) = waiting.next() else { break };
                in_flight.push_back(async move { (batch, self.ask_batch(batch).await) });
            }
            let Some((batch, outcome)) = in_flight.next().await else { return state };
            asked += batch.ids.len() as u64;
            self.context.progress.send_modify(|progress| {
                progress.requests = self.caller.requests();
                progress.step = Step::Asking { asked, of };
            });
            state.add(batch, outcome, answered);
            if state.ended || state.refused.is_some() {
                return state;
            }
        }
    }

    /// Asks one batch. Replaces the listed control if it is gone.
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

    /// The listed controls to try for a batch, in order; a single `None` if an emptied app needs none. A batch about types
    /// consists of listed groups. In a small app it may contain all of them: then one of its own groups is the control.
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

/// The state of asking after some batches.
#[derive(Default)]
struct AskingState {
    invalid_in_a_row: u32,
    ended: bool,
    refused: Option<ApiError>,
}

impl AskingState {
    /// Adds the result of a batch. Decides whether the crawl goes on asking.
    fn add(&mut self, batch: &Batch<'_>, outcome: BatchOutcome, answered: &mut HashMap<String, Answered>) {
        let ids = || batch.ids.iter().map(|id| (*id).to_owned());
        let learned = match outcome {
            BatchOutcome::Valid(learned) => {
                self.invalid_in_a_row = 0;
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
                     listed group; the answers of this request are ignored; if this persists, run `tim-group-sync check \
                     --probe` and report its table",
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
                    // A final error code for the whole request: asking the same again would get the same answer.
                    let final_code = error_code.is_some() && error.disposition() != Disposition::Retry;
                    if final_code { Answered::Learned(Learned::Unlearned) } else { Answered::Nothing }
                }
            },
        };
        answered.extend(ids().map(|id| (id, learned.clone())));
        self.invalid_in_a_row += 1;
        if self.invalid_in_a_row >= MAX_INVALID_BATCHES {
            warn!(
                "{MAX_INVALID_BATCHES} requests in a row had no usable answer; the next crawl asks about the rest"
            );
            self.ended = true;
        }
    }
}
