//! Looks up single groups with `get_group_info`, in batches with controls, within a time budget.
//!
//! A failed lookup never fails a crawl. A later crawl looks up the remaining groups.

use std::collections::{HashMap, HashSet};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use chrono::{DateTime, Utc};
use futures_util::StreamExt as _;
use futures_util::stream::FuturesOrdered;
use tokio::time::Instant;
use tracing::warn;

use super::context::CrawlContext;
use super::details::LookedUpDetails;
use super::error::Interrupted;
use super::progress::Step;
use crate::confirmation::{Answer, Controls, LookupBatch, MAX_BATCH_IDS, Samples, judge_controls};
use crate::model::{GroupDetails, ReasonCode, with_causes};
use crate::pace::{Disposition, RetryBudget, RetryPolicy};
use crate::pages::Caller;
use crate::tencent::{ApiError, GroupAnswer};

/// The minimum time budget for the lookups of a crawl. The budget is a quarter of the time that
/// reading the lists took, if that is longer.
const MIN_BUDGET: Duration = Duration::from_secs(10);
/// The maximum number of groups whose details a crawl keeps until its end.
const MAX_DETAILS: usize = 10_000;
/// The maximum number of requests in flight.
const MAX_IN_FLIGHT: usize = 4;
/// The time that the retries of all lookups of a crawl may take in total.
const RETRY_BUDGET: Duration = Duration::from_secs(30);
/// The maximum number of listed controls that are tried for one batch: the first one and two
/// replacements.
const MAX_LISTED_CONTROLS: usize = 3;
/// The number of consecutive invalid batches after which a crawl ends its lookups.
const MAX_INVALID_BATCHES: u32 = 3;

/// The result of looking up one group.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum LookupResult {
    /// The answer of a valid batch, or [`Answer::Unusable`] if the API rejected the entire request
    /// with a permanent error code.
    Answered(Answer),
    /// The request failed, or a control of its batch has an unexpected answer. Says nothing about
    /// the group.
    NoValidResponse,
}

/// The result of one batch.
enum BatchOutcome {
    Valid(Vec<Answer>),
    /// A control has an unexpected answer. The fields are the codes of both controls.
    Contradicted {
        absent: Option<i64>,
        listed: Option<i64>,
    },
    Failed(ApiError),
    /// There is no listed group that can be a control.
    NoControl,
}

impl BatchOutcome {
    /// Returns true if the API rejected the entire request, and would reject it again.
    fn is_rejected(&self) -> bool {
        let Self::Failed(error) = self else { return false };
        is_rejection(error)
    }
}

/// Returns true if the API would reject the same request again. Throttled requests are no
/// rejections.
fn is_rejection(error: &ApiError) -> bool {
    error.code().is_some()
        && error.disposition() != Disposition::Retry
        && error.reason_code() != ReasonCode::Throttled
}

/// Performs the lookups of one crawl.
pub(super) struct Confirmer<'a> {
    context: &'a CrawlContext<'a>,
    caller: &'a Caller<'a>,
    samples: &'a Samples,
    /// Whether the app has no groups, so that there are no listed controls.
    app_is_empty: bool,
    retries: RetryBudget,
    deadline: Instant,
    /// The time before the first lookup.
    started_at: DateTime<Utc>,
    /// Listed controls that did not exist when they were looked up.
    gone_controls: Mutex<HashSet<String>>,
    /// The details of groups that exist, if the answers have them.
    details: Mutex<Vec<(String, GroupDetails)>>,
    /// The number of consecutive invalid batches.
    invalid_streak: u32,
    /// Whether this crawl makes no further lookups.
    is_stopped: bool,
    /// The error with which the API refuses `get_group_info`.
    pub(super) refused: Option<ApiError>,
}

impl<'a> Confirmer<'a> {
    /// Creates a confirmer whose time budget depends on `listing_duration`, the time that reading
    /// the lists took.
    pub(super) fn new(
        context: &'a CrawlContext<'a>,
        caller: &'a Caller<'a>,
        samples: &'a Samples,
        app_is_empty: bool,
        listing_duration: Duration,
    ) -> Self {
        let retry = context.settings.retry;
        let policy = RetryPolicy { retry_for: RETRY_BUDGET.min(retry.retry_for), ..retry };
        Self {
            context,
            caller,
            samples,
            app_is_empty,
            retries: RetryBudget::of_total(policy),
            deadline: Instant::now() + MIN_BUDGET.max(listing_duration / 4),
            started_at: context.clock.now(),
            gone_controls: Mutex::default(),
            details: Mutex::default(),
            invalid_streak: 0,
            is_stopped: false,
            refused: None,
        }
    }

    /// Returns the details that the answers of valid batches had.
    pub(super) fn into_details(self) -> LookedUpDetails {
        let groups = self.details.into_inner().unwrap_or_else(PoisonError::into_inner);
        LookedUpDetails { at: self.started_at, groups }
    }

    /// Returns whether more lookups are possible.
    pub(super) fn can_look_up(&self) -> bool {
        !self.is_stopped && self.refused.is_none() && Instant::now() < self.deadline
    }

    /// Returns the maximum number of groups that can be looked up in the rest of the budget.
    pub(super) fn remaining_lookups(&self) -> usize {
        let seconds = self.deadline.saturating_duration_since(Instant::now()).as_secs() + 1;
        let rate = u64::from(self.context.settings.lookups_per_second());
        usize::try_from(seconds * rate).unwrap_or(usize::MAX) * MAX_BATCH_IDS
    }

    /// Looks up these batches, as far as the budget and the API allow. Groups that were not looked
    /// up have no entry in the result.
    pub(super) async fn look_up(
        &mut self,
        batches: Vec<LookupBatch<'_>>,
    ) -> Result<HashMap<String, LookupResult>, Interrupted> {
        let mut results = HashMap::new();
        if batches.is_empty() || !self.can_look_up() {
            return Ok(results);
        }
        let (context, caller) = (self.context, self.caller);
        let looking_up = self.look_up_until_deadline(&batches, &mut results);
        let state = context
            .requesting(caller.in_flight(), async { Ok::<_, Interrupted>(looking_up.await) })
            .await??;
        self.invalid_streak = state.invalid_streak;
        self.is_stopped |= state.is_stopped;
        self.refused = state.refused;
        Ok(results)
    }

    /// Keeps several requests in flight and processes their results in order, until the deadline.
    async fn look_up_until_deadline(
        &self,
        batches: &[LookupBatch<'_>],
        results: &mut HashMap<String, LookupResult>,
    ) -> LookupState {
        let total = batches.iter().map(|batch| batch.ids.len() as u64).sum();
        let mut state = LookupState { invalid_streak: self.invalid_streak, ..LookupState::default() };
        let (mut looked_up, mut waiting) = (0, batches.iter());
        let mut in_flight = FuturesOrdered::new();
        loop {
            while in_flight.len() < MAX_IN_FLIGHT && Instant::now() < self.deadline {
                let Some(batch) = waiting.next() else { break };
                in_flight.push_back(async move { (batch, self.look_up_batch(batch).await) });
            }
            let Some((batch, outcome)) = in_flight.next().await else { return state };
            looked_up += batch.ids.len() as u64;
            self.context.progress.send_modify(|progress| {
                progress.requests = self.caller.requests();
                progress.step = Step::LookingUp { looked_up, total };
            });
            state.add(batch, outcome, results);
            if state.is_stopped || state.refused.is_some() {
                return state;
            }
        }
    }

    /// Looks up one batch. If the API rejects the entire request, a single group may be the cause.
    /// Then the batch is bisected: the groups of each accepted half get their answers, and the
    /// groups that remain in the rejected part get [`Answer::Unusable`]. If both halves are rejected,
    /// the bisection ends.
    async fn look_up_batch(&self, batch: &LookupBatch<'_>) -> BatchOutcome {
        let outcome = self.request_batch(batch).await;
        if !outcome.is_rejected() {
            return outcome;
        }
        let mut answers: Vec<Option<Answer>> = vec![None; batch.ids.len()];
        let mut rejected = 0..batch.ids.len();
        while rejected.len() > 1 {
            let middle = rejected.start + rejected.len() / 2;
            let mut rejected_halves = Vec::new();
            for half in [rejected.start..middle, middle..rejected.end] {
                let ids = batch.ids[half.clone()].to_vec();
                match self.request_batch(&LookupBatch { ids, ..*batch }).await {
                    BatchOutcome::Valid(of_half) => {
                        for (at, answer) in half.zip(of_half) {
                            answers[at] = Some(answer);
                        }
                    }
                    rejection if rejection.is_rejected() => rejected_halves.push(half),
                    other => return other,
                }
            }
            let Ok([half]) = <[_; 1]>::try_from(rejected_halves) else { break };
            rejected = half;
        }
        if answers.iter().all(Option::is_none) {
            return outcome;
        }
        BatchOutcome::Valid(answers.into_iter().map(|answer| answer.unwrap_or(Answer::Unusable)).collect())
    }

    /// Requests the groups of one batch together with its controls. If the listed control is gone,
    /// repeats the request with another one, up to [`MAX_LISTED_CONTROLS`].
    async fn request_batch(&self, batch: &LookupBatch<'_>) -> BatchOutcome {
        let absent = batch.form.absent_id(rand::random());
        let mut outcome = BatchOutcome::NoControl;
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
                    self.keep_details(&ids, &answers);
                    let answers = of_batch.iter().map(|answer| valid.interpret(answer));
                    return BatchOutcome::Valid(answers.collect());
                }
                Controls::ListedIsGone => {
                    let listed_code = of_listed.and_then(|answer| answer.code);
                    outcome = BatchOutcome::Contradicted { absent: of_absent.code, listed: listed_code };
                    self.lock_gone_controls().extend(listed);
                }
                Controls::Contradict { absent, listed } => {
                    return BatchOutcome::Contradicted { absent, listed };
                }
            }
        }
        outcome
    }

    /// Keeps the details in the answers of a valid batch, up to [`MAX_DETAILS`].
    fn keep_details(&self, ids: &[&str], answers: &[GroupAnswer]) {
        let mut details = self.details.lock().unwrap_or_else(PoisonError::into_inner);
        for (id, answer) in ids.iter().zip(answers) {
            if let Some(of_group) = &answer.details
                && details.len() < MAX_DETAILS
            {
                details.push(((*id).to_owned(), of_group.clone()));
            }
        }
    }

    /// Returns the listed controls to try for a batch, in order. Returns a single `None` for an app
    /// without groups. Groups of the batch itself come last: if one batch contains every listed
    /// group of a small app, there are no other controls.
    fn listed_controls(&self, batch: &LookupBatch<'_>) -> Vec<Option<String>> {
        if self.app_is_empty {
            return vec![None];
        }
        let gone = self.lock_gone_controls();
        let controls = self.samples.controls(batch.type_id, batch.form);
        let usable = controls.filter(|id| !gone.contains(*id));
        let (own, others): (Vec<&str>, Vec<&str>) = usable.partition(|id| batch.ids.contains(id));
        others.into_iter().chain(own).take(MAX_LISTED_CONTROLS).map(|id| Some(id.to_owned())).collect()
    }

    fn lock_gone_controls(&self) -> std::sync::MutexGuard<'_, HashSet<String>> {
        self.gone_controls.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The state after some batches. The fields of [`Confirmer`] with the same names describe it.
#[derive(Default)]
struct LookupState {
    invalid_streak: u32,
    is_stopped: bool,
    refused: Option<ApiError>,
}

impl LookupState {
    /// Adds the results of a batch, and decides whether further batches are looked up.
    fn add(
        &mut self,
        batch: &LookupBatch<'_>,
        outcome: BatchOutcome,
        results: &mut HashMap<String, LookupResult>,
    ) {
        let ids = || batch.ids.iter().map(|id| (*id).to_owned());
        let result = match outcome {
            BatchOutcome::Valid(answers) => {
                self.invalid_streak = 0;
                results.extend(ids().zip(answers.into_iter().map(LookupResult::Answered)));
                return;
            }
            BatchOutcome::NoControl => return,
            BatchOutcome::Contradicted { absent, listed } => {
                let shown =
                    |code: Option<i64>| code.map_or_else(|| "none".to_owned(), |code| code.to_string());
                warn!(
                    absent_control = absent,
                    listed_control = listed,
                    "ignoring a get_group_info answer with unexpected codes (id that cannot exist: \
                     {}, listed group: {}); if this persists, run `tim-group-sync check --probe` \
                     and report its table",
                    shown(absent),
                    shown(listed)
                );
                LookupResult::NoValidResponse
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
                        "the API throttles get_group_info; the next crawl looks up the remaining \
                         groups"
                    );
                    self.is_stopped = true;
                    return;
                }
                _ => {
                    let (error_code, why) = (error.code(), with_causes(&error));
                    warn!(error_code, groups = batch.ids.len(), "get_group_info failed: {why}");
                    if is_rejection(&error) {
                        LookupResult::Answered(Answer::Unusable)
                    } else {
                        LookupResult::NoValidResponse
                    }
                }
            },
        };
        results.extend(ids().map(|id| (id, result.clone())));
        self.invalid_streak += 1;
        if self.invalid_streak >= MAX_INVALID_BATCHES {
            warn!(
                "{MAX_INVALID_BATCHES} consecutive get_group_info requests had no usable answer; \
                 the next crawl looks up the remaining groups"
            );
            self.is_stopped = true;
        }
    }
}
