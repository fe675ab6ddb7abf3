//! Reads the lists of a crawl: builds the roll, requests the app's `TotalCount`, runs a pass for
//! each type, and makes the checks that follow.

use std::collections::BTreeMap;
use std::sync::PoisonError;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::time::Instant;
use tracing::{info, warn};

use super::context::{CrawlContext, check_clock};
use super::details::LookedUpDetails;
use super::error::Interrupted;
use super::pass::{PageFetcher, make_passes};
use super::progress::{Progress, ReadProgress, Step};
use super::tally::{PassEnd, PassPlan, PassResult, PassState, PassTally};
use crate::model::{GroupType, TypeId, Verdict};
use crate::pages::{Caller, Paginator};
use crate::reconcile::Leftover;
use crate::roll::{PassNo, Roll, RollBuilder};
use crate::store::{PassRecord, TypeState};
use crate::tencent::ApiError;
use crate::verdict::Recheck;

/// The results of a crawl so far. They are filled in while the crawl runs, so that an interrupted
/// crawl can be recorded, too.
#[derive(Debug, Default)]
pub(super) struct Findings {
    pub(super) total_at_start: Option<u64>,
    pub(super) total_at_end: Option<u64>,
    /// The app's `TotalCount` minus the sum of the `TotalCount`s of the configured types; 0 if the
    /// difference is negative. `None` if a total is unknown or no type is configured.
    pub(super) leftover: Option<u64>,
    /// Whether the next crawl has to make an unfiltered pass.
    pub(super) next_needs_unfiltered_pass: bool,
    /// The number of distinct ids that all passes listed.
    pub(super) listed: u64,
    pub(super) passes: Vec<PassResult>,
    pub(super) verdicts: BTreeMap<TypeId, Verdict>,
    /// The details of groups that the crawl looked up.
    pub(super) details: LookedUpDetails,
}

/// The result of reading all lists of a crawl to their ends.
pub(super) struct Lists {
    pub(super) roll: Roll,
    pub(super) pass_state: PassState,
    /// The totals of each type when the crawl began.
    pub(super) states_before: Vec<TypeState>,
    /// One entry for each pass.
    pub(super) rechecks: Vec<Recheck>,
    /// The time that reading the lists took.
    pub(super) listing_duration: Duration,
}

/// Reads all lists of a crawl, and writes new and changed groups.
pub(super) async fn read_lists(
    context: &CrawlContext<'_>,
    caller: &mut Caller<'_>,
    findings: &mut Findings,
) -> Result<Lists, Interrupted> {
    context.progress.send_replace(Progress { step: Step::Starting, ..Progress::default() });
    let states = context.type_states().await?;
    let history = context.store.crawl_history(context.app).await?;
    let live_before: u64 = states.iter().map(TypeState::live).sum();
    let pass_state = PassState {
        history: context.store.history(context.app).await?,
        own_types: context.types.values().copied().collect(),
        ..PassState::default()
    };
    let started = Instant::now();
    let counting = async {
        findings.total_at_start = count_app(context, caller).await?;
        context.progress.send_modify(|progress| progress.total = findings.total_at_start);
        Ok(())
    };
    let ((), roll) = tokio::try_join!(biased; counting, read_roll(context, &states))?;
    // The greatest known number of groups. It limits the length of a list, together with the
    // list's own `TotalCount`. If the app's total is unknown, only the list's `TotalCount` does.
    let known_groups = findings.total_at_start.map(|total| total.max(live_before));
    let mut reader = ListReader { context, caller, findings, roll, pass_state, known_groups };

    reader.make_passes(plan_passes(context, &states, live_before)).await?;
    log_rejected_types(context, reader.findings)?;
    context.progress.send_modify(|progress| progress.step = Step::Checking);
    let mut rechecks = reader.recheck_emptied_types().await?;
    reader.count_again().await?;
    let has_typed_passes = !context.settings.group_types.is_empty();
    let leftover = leftover(reader.findings, has_typed_passes);
    let by_leftover = leftover.calls_for_unfiltered_pass(!history.crawled_before, history.had_leftover);
    if by_leftover || (history.needs_unfiltered_pass && has_typed_passes) {
        let number = reader.findings.passes.len();
        let defers_new_groups = context.settings.confirms_types();
        reader.make_passes(vec![unfiltered_pass(&states, number, live_before, defers_new_groups)]).await?;
        // With a leftover the app has groups that no typed pass listed, so an empty unfiltered list
        // is wrong.
        let is_empty = reader.findings.passes.last().is_some_and(|pass| pass.tally.distinct == 0);
        rechecks.push(if is_empty && by_leftover { Recheck::Contradicted } else { Recheck::NotNeeded });
        // Compare with a new total, because the total from before this pass does not count the
        // groups created during the pass. These groups are listed, and would make up for an equal
        // number of groups that the pass missed.
        reader.count_again().await?;
    }
    let ListReader { roll, pass_state, .. } = reader;
    Ok(Lists { roll, pass_state, states_before: states, rechecks, listing_duration: started.elapsed() })
}

/// Requests the app's `TotalCount`.
async fn count_app(context: &CrawlContext<'_>, caller: &mut Caller<'_>) -> Result<Option<u64>, Interrupted> {
    let counted = context.requesting(caller.in_flight(), caller.count_app()).await?;
    // The clock is checked first, so that a wrong clock is not reported as a refused signature.
    check_clock(caller)?;
    Ok(counted?)
}

/// Reads the known live groups of the app.
async fn read_roll(context: &CrawlContext<'_>, states: &[TypeState]) -> Result<Roll, Interrupted> {
    let begin = || RollBuilder::with_capacity(states.iter().map(|state| (state.type_id(), state.live())));
    if states.iter().all(|state| state.live() == 0) {
        return Ok(begin().finish());
    }
    let mut read = ReadProgress::new(context.progress);
    let each = |builder: &mut RollBuilder, type_id, id: &str, mark| {
        builder.add(type_id, id, mark);
        read.count();
    };
    let reading = context.store.gather_live(context.app, begin, each);
    Ok(context.unless_stopped(reading).await??.finish())
}

/// Runs the passes and the checks that follow.
struct ListReader<'a, 'c> {
    context: &'a CrawlContext<'a>,
    caller: &'a mut Caller<'c>,
    findings: &'a mut Findings,
    roll: Roll,
    pass_state: PassState,
    known_groups: Option<u64>,
}

impl ListReader<'_, '_> {
    async fn make_passes(&mut self, plans: Vec<PassPlan>) -> Result<(), Interrupted> {
        let Self { context, caller, findings, roll, pass_state, known_groups } = self;
        let fetcher = PageFetcher::new(context, caller, plans, context.settings.page_limit, *known_groups);
        let made = make_passes(context, fetcher, roll, pass_state, &mut findings.passes).await;
        findings.listed = roll.listed();
        made
    }

    /// Requests the app's `TotalCount` again, and stores it as the total at the end.
    async fn count_again(&mut self) -> Result<(), Interrupted> {
        self.findings.total_at_end = count_app(self.context, self.caller).await?;
        Ok(())
    }

    /// Requests the first page again for each type that had live groups and was listed as empty.
    /// Returns one entry for each pass.
    async fn recheck_emptied_types(&mut self) -> Result<Vec<Recheck>, Interrupted> {
        let Self { context, caller, findings, roll, .. } = self;
        let mut rechecks = Vec::with_capacity(findings.passes.len());
        for (tally, end) in findings.ended() {
            let had_groups = match tally.plan.group_type {
                Some(_) => roll.live_before(tally.plan.type_id) > 0,
                None => roll.live_before_in_all() > 0,
            };
            if tally.distinct > 0 || !had_groups || matches!(end, PassEnd::Rejected(_)) {
                rechecks.push(Recheck::NotNeeded);
                continue;
            }
            let mut pages = Paginator::of(tally.plan.group_type.clone(), context.settings.page_limit, None);
            let repeated = context.requesting(caller.in_flight(), pages.fetch_next(caller)).await??;
            // `end` is set if this page is the last one.
            let empty = repeated.page.ids.is_empty() && repeated.page.unusable == 0 && repeated.end.is_some();
            let confirmed = empty && repeated.page.total_count == Some(0);
            rechecks.push(if confirmed { Recheck::StillEmpty } else { Recheck::Contradicted });
        }
        Ok(rechecks)
    }
}

/// Logs each type that the API newly rejects or accepts again. Returns an error if it rejects all
/// types.
fn log_rejected_types(context: &CrawlContext<'_>, findings: &Findings) -> Result<(), Interrupted> {
    let rejected: BTreeMap<&GroupType, &ApiError> = findings
        .ended()
        .filter_map(|(tally, end)| match end {
            PassEnd::Rejected(error) => Some((tally.plan.group_type.as_ref()?, error)),
            PassEnd::Complete(_) => None,
        })
        .collect();
    let mut rejected_before = context.rejected_before.lock().unwrap_or_else(PoisonError::into_inner);
    for (group_type, error) in
        rejected.iter().filter(|(group_type, _)| !rejected_before.contains(**group_type))
    {
        warn!(
            %group_type,
            error_code = error.code(),
            "the API rejects this group type; its groups are left unchanged: {error}"
        );
    }
    for group_type in rejected_before.iter().filter(|group_type| !rejected.contains_key(*group_type)) {
        info!(%group_type, "the API accepts this group type again");
    }
    *rejected_before = rejected.keys().map(|group_type| (*group_type).clone()).collect();
    let all_rejected = rejected.len() == findings.passes.len();
    if let Some(error) = rejected.values().next().filter(|_| all_rejected) {
        let names: Vec<&str> = rejected.keys().map(|group_type| group_type.as_str()).collect();
        return Err(Interrupted::AllRejected { names: names.join(", "), error: error.to_string() });
    }
    Ok(())
}

/// Computes the app's `TotalCount` minus the sum of the `TotalCount`s of the typed passes, and
/// stores the difference in `findings`. A pass without a `TotalCount` counts with its listed ids.
fn leftover(findings: &mut Findings, has_typed_passes: bool) -> Leftover {
    if !has_typed_passes {
        return Leftover::Unknown;
    }
    let claimed = findings.tallies().map(|tally| tally.counts.highest.unwrap_or(tally.distinct));
    let leftover = Leftover::of(findings.total_at_start, findings.total_at_end, claimed);
    findings.leftover = match leftover {
        Leftover::Unknown => None,
        Leftover::None => Some(0),
        Leftover::Groups(groups) => Some(groups),
    };
    leftover
}

impl Findings {
    /// Iterates over the passes that ended, each with its end.
    fn ended(&self) -> impl Iterator<Item = (&PassTally, &PassEnd)> {
        self.passes.iter().filter_map(|pass| Some((&pass.tally, pass.end.as_ref()?)))
    }

    pub(super) fn tallies(&self) -> impl Iterator<Item = &PassTally> {
        self.passes.iter().map(|pass| &pass.tally)
    }

    /// Returns the rows of the passes for the crawl's record.
    pub(super) fn records(&self, started_at: DateTime<Utc>) -> Vec<PassRecord> {
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
        self.tallies().map(record).collect()
    }
}

/// Returns the plans of the passes that every crawl makes: one for each configured type, or the
/// unfiltered pass.
fn plan_passes(context: &CrawlContext<'_>, states: &[TypeState], live_before: u64) -> Vec<PassPlan> {
    if context.settings.group_types.is_empty() {
        return vec![unfiltered_pass(states, 0, live_before, false)];
    }
    // The order is that of the configuration, because the first pass that lists a new group
    // determines its type.
    let configured = context.settings.group_types.iter();
    let typed = configured.filter_map(|name| Some((name, *context.types.get(name)?)));
    let live = |type_id| states.iter().find(|state| state.type_id() == type_id).map_or(0, TypeState::live);
    typed
        .enumerate()
        .map(|(index, (name, type_id))| PassPlan {
            no: PassNo::nth(index),
            group_type: Some(name.clone()),
            type_id,
            in_baseline: in_baseline(states, type_id),
            live_before: live(type_id),
            defers_new_groups: false,
        })
        .collect()
}

fn unfiltered_pass(
    states: &[TypeState],
    index: usize,
    live_before: u64,
    defers_new_groups: bool,
) -> PassPlan {
    PassPlan {
        no: PassNo::nth(index),
        group_type: None,
        type_id: TypeId::UNKNOWN,
        in_baseline: in_baseline(states, TypeId::UNKNOWN),
        live_before,
        defers_new_groups,
    }
}

/// Returns whether the baseline of this type has not ended: no list of the type was nearly complete
/// or accepted in an earlier crawl.
fn in_baseline(states: &[TypeState], type_id: TypeId) -> bool {
    !states.iter().any(|state| state.type_id() == type_id && state.is_past_baseline())
}
