//! Decides about the unlisted groups of a crawl whose lists have been read. The lists nominate
//! candidates for deletion, `get_group_info` confirms or refutes each of them, and the guard limits
//! the deletions.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::confirmer::{Confirmer, LookupResult};
use super::context::CrawlContext;
use super::error::Interrupted;
use super::listing::{Findings, Lists};
use super::progress::ReadProgress;
use super::resolved_types::{ListedWrite, TypeResolver};
use super::tally::{PassEnd, PassState, PassTally};
use crate::confirmation::{
    Answer, LookupBatch, LookupHistory, LookupRecord, LookupTarget, MAX_UNUSABLE_ANSWERS, batches,
};
use crate::guard::{LiveCounts, Withholding, decide_withholding};
use crate::model::{TypeId, Verdict};
use crate::pages::Caller;
use crate::reconcile::{
    Absences, CandidateKind, CandidateStatus, Candidates, Confirmation, Settlement, TotalsEvidence,
    proof_for_types_without_pass,
};
use crate::roll::{Roll, Unlisted};
use crate::store::{HistoryChanges, StoreError, TypeState};
use crate::tencent::ApiError;
use crate::verdict::{Evidence, Judgement, Recheck, is_nearly_complete, judge};

/// The decisions of a crawl that reached its end.
pub(super) struct Conclusion {
    pub(super) settlement: Settlement,
    pub(super) judgement: Judgement,
    pub(super) withholding: Option<Withholding>,
    /// The error with which the API refuses `get_group_info`. In this case deletions are withheld.
    pub(super) refused: Option<ApiError>,
    pub(super) history: HistoryChanges,
}

/// The results of looking up single groups, by group id.
#[derive(Default)]
struct LookupResults {
    candidates: HashMap<String, LookupResult>,
    /// Listed groups of uncertain type.
    uncertain: HashMap<String, LookupResult>,
    held: HashMap<String, LookupResult>,
    /// The error with which the API refuses `get_group_info`.
    refused: Option<ApiError>,
}

/// Judges the lists, looks up the candidates, the groups of uncertain type and the held groups, and
/// decides about each of them. Writes the groups whose type or state an answer has changed.
pub(super) async fn conclude(
    context: &CrawlContext<'_>,
    caller: &Caller<'_>,
    lists: Lists,
    findings: &mut Findings,
) -> Result<Conclusion, Interrupted> {
    let Lists { roll, mut pass_state, states_before, rechecks, listing_duration } = lists;
    let app_is_empty = app_is_empty(findings, &rechecks);
    let judgement = judge_passes(context, &rechecks, findings);
    context.unless_stopped(end_remaining_baselines(context, &judgement)).await??;
    let unlisted = roll.unlisted();
    let absences = absences(context, &judgement, &unlisted, findings);
    let gathering = gather_candidates(context, &absences, &roll, &unlisted);
    let mut candidates = context.unless_stopped(gathering).await??;
    pass_state.uncertain.drop_uncontradicted(&absences);

    let mut confirmation = Confirmation::Off;
    let mut lookups = LookupResults::default();
    if context.settings.deletion.confirm {
        let mut confirmer =
            Confirmer::new(context, caller, &pass_state.samples, app_is_empty, listing_duration);
        lookups = look_up_all(context, &mut confirmer, &candidates, &pass_state).await?;
        findings.details = confirmer.into_details();
        confirmation = if lookups.refused.is_some() { Confirmation::Refused } else { Confirmation::On };
    }
    candidates.apply_confirmations(|id| candidate_status(id, &lookups.candidates, &pass_state.history));

    let mut resolver = TypeResolver::new(context, &states_before, &absences);
    let writes = listed_writes(&mut resolver, &candidates, &lookups, &pass_state, confirmation).await?;
    let history = history_changes(&lookups, &pass_state, &roll, &resolver.resolved);
    let states = context.unless_stopped(context.type_states()).await??;
    let known: Vec<TypeId> = states.iter().map(TypeState::type_id).collect();
    let mut settlement = candidates.settle(confirmation, &known, &unlisted);
    let withholding = apply_guard(context, &roll, findings, &mut settlement, confirmation);
    for ListedWrite { type_id, in_baseline, ids } in writes {
        context.write_listed(type_id, in_baseline, context.clock.now(), &ids).await?;
    }
    resolver.end_baselines().await?;
    Ok(Conclusion { settlement, judgement, withholding, refused: lookups.refused, history })
}

/// Judges the passes, and stores their verdicts in `findings`.
fn judge_passes(context: &CrawlContext<'_>, rechecks: &[Recheck], findings: &mut Findings) -> Judgement {
    let mut passes = Vec::with_capacity(rechecks.len());
    for (pass, recheck) in findings.passes.iter_mut().zip(rechecks) {
        match pass.end.take() {
            Some(PassEnd::Complete(end)) => passes.push(pass.tally.finished(end, *recheck)),
            Some(PassEnd::Rejected(_)) => {
                findings.verdicts.insert(pass.tally.plan.type_id, Verdict::Rejected);
            }
            None => {}
        }
    }
    let judgement = judge(Evidence {
        passes,
        total_at_start: findings.total_at_start,
        total_at_end: findings.total_at_end,
        distinct: findings.listed,
        max_shortfall: context.settings.deletion.max_shortfall,
    });
    findings.verdicts.extend(judgement.passes.iter().map(|judged| (judged.pass.type_id, judged.verdict)));
    judgement
}

/// Returns what the lists prove about unlisted groups. Stores in `findings` whether the next crawl
/// has to make an unfiltered pass.
fn absences(
    context: &CrawlContext<'_>,
    judgement: &Judgement,
    unlisted: &BTreeMap<TypeId, Unlisted>,
    findings: &mut Findings,
) -> Absences {
    let totals = [findings.total_at_start, findings.total_at_end];
    if !context.settings.deletion.confirm {
        let rejected = findings.verdicts.values().any(|verdict| *verdict == Verdict::Rejected);
        let only_known_groups = !rejected && findings.tallies().all(PassTally::found_only_known_groups);
        let proof = proof_for_types_without_pass(judgement, findings.listed, totals, only_known_groups);
        return Absences::of_lists_alone(judgement, proof);
    }
    // Which types have a pass of their own does not depend on the evidence of the totals, which is
    // computed next.
    let by_lists = Absences::of(judgement, TotalsEvidence::Inconclusive);
    let types_without_pass = unlisted.iter().filter(|(type_id, _)| !by_lists.has_own_pass(**type_id));
    let unlisted_without_pass = types_without_pass.map(|(_, unlisted)| unlisted.groups - unlisted.held).sum();
    let smaller_total = totals[0].zip(totals[1]).map(|(start, end)| start.min(end));
    let totals_evidence = TotalsEvidence::compare(findings.listed, unlisted_without_pass, smaller_total);
    let has_unfiltered_pass = judgement.passes.iter().any(|judged| judged.pass.type_id == TypeId::UNKNOWN);
    findings.next_needs_unfiltered_pass =
        totals_evidence == TotalsEvidence::UnfilteredPassNeeded && !has_unfiltered_pass;
    Absences::of(judgement, totals_evidence)
}

/// Withholds the deletions of the types that exceed the guard's limits.
fn apply_guard(
    context: &CrawlContext<'_>,
    roll: &Roll,
    findings: &Findings,
    settlement: &mut Settlement,
    confirmation: Confirmation,
) -> Option<Withholding> {
    let policy = &context.settings.deletion;
    let losses = if policy.review { settlement.deletions_by_type() } else { settlement.losses(confirmation) };
    let mut gained: BTreeMap<TypeId, u64> = BTreeMap::new();
    for tally in findings.tallies() {
        *gained.entry(tally.plan.type_id).or_default() += tally.added_live;
    }
    let of_types = roll.types().chain(losses.keys().copied()).chain(gained.keys().copied());
    let live_counts = |type_id: TypeId| {
        let count = |counts: &BTreeMap<TypeId, u64>| counts.get(&type_id).copied().unwrap_or(0);
        LiveCounts::of(roll.live_before(type_id), count(&gained), count(&losses))
    };
    let counts = of_types.map(|type_id| (type_id, live_counts(type_id))).collect();
    let withholding = decide_withholding(policy, &max_fractions(context), &counts)?;
    settlement.withhold(&withholding.types, confirmation, !policy.review);
    Some(withholding)
}

/// Returns `deletion.max_fraction_by_type` with the keys of the types.
fn max_fractions(context: &CrawlContext<'_>) -> BTreeMap<TypeId, f64> {
    let by_type = context.settings.deletion.max_fraction_by_type.iter();
    by_type.filter_map(|(name, fraction)| Some((*context.types.get(name)?, *fraction))).collect()
}

/// Returns whether the app has no groups: nothing was listed, both totals are 0, and no second
/// request contradicted an empty list.
fn app_is_empty(findings: &Findings, rechecks: &[Recheck]) -> bool {
    let totals = [findings.total_at_start, findings.total_at_end];
    let unusable: u64 = findings.tallies().map(|tally| tally.unusable).sum();
    findings.listed + unusable == 0
        && totals == [Some(0); 2]
        && rechecks.iter().all(|recheck| *recheck != Recheck::Contradicted)
}

/// Ends the baseline of each type whose first list was accepted although it has less than 95 % of
/// its own `TotalCount`: the app's total confirmed it, or `max_shortfall` allowed it. `finish_pass`
/// has ended the baselines of nearly complete lists. A short first list does not end its baseline;
/// otherwise each group that it lacks would cause an event when it is listed.
async fn end_remaining_baselines(
    context: &CrawlContext<'_>,
    judgement: &Judgement,
) -> Result<(), StoreError> {
    for judged in judgement.passes.iter().filter(|judged| judged.pass.in_baseline) {
        if judged.proof.is_some() && !is_nearly_complete(&judged.pass.counts, judged.pass.distinct) {
            context.end_baseline(judged.pass.type_id).await?;
        }
    }
    Ok(())
}

/// Reads the known live groups again, and collects the candidates among the unlisted ones.
async fn gather_candidates<'a>(
    context: &CrawlContext<'_>,
    absences: &'a Absences,
    roll: &Roll,
    unlisted: &BTreeMap<TypeId, Unlisted>,
) -> Result<Candidates<'a>, StoreError> {
    if unlisted.values().all(|unlisted| unlisted.groups == unlisted.held) {
        return Ok(Candidates::new(absences));
    }
    let mut read = ReadProgress::new(context.progress);
    let each = |candidates: &mut Candidates<'a>, type_id, id: &str, mark| {
        read.count();
        if roll.is_unlisted(type_id, id) {
            candidates.consider(type_id, id, mark);
        }
    };
    context.store.gather_live(context.app, || Candidates::new(absences), each).await
}

/// Looks up the candidates, then the groups of uncertain type, and then held groups as far as the
/// budget lasts.
async fn look_up_all(
    context: &CrawlContext<'_>,
    confirmer: &mut Confirmer<'_>,
    candidates: &Candidates<'_>,
    pass_state: &PassState,
) -> Result<LookupResults, Interrupted> {
    let (history, limit) = (&pass_state.history, confirmer.remaining_lookups());
    let candidates = confirmer.look_up(candidate_batches(candidates, history, limit)).await?;
    let mut lookups = LookupResults { candidates, ..LookupResults::default() };
    if context.settings.confirms_types() {
        let limit = confirmer.remaining_lookups();
        lookups.uncertain = confirmer.look_up(batches(pass_state.uncertain.targets(history), limit)).await?;
    }
    // A dry run does not plan changes of held groups.
    if confirmer.can_look_up() && !context.target.is_dry_run() {
        let limit = confirmer.remaining_lookups();
        let held = context.store.held_to_look_up(context.app, history.round, limit).await?;
        lookups.held = confirmer.look_up(held_batches(&held, history, limit)).await?;
    }
    lookups.refused = confirmer.refused.take();
    Ok(lookups)
}

/// Returns the batches for the candidates that are due. Missing candidates are looked up in every
/// crawl: the back-off is for groups that exist.
fn candidate_batches<'a>(
    candidates: &'a Candidates<'_>,
    history: &LookupHistory,
    limit: usize,
) -> Vec<LookupBatch<'a>> {
    let due = candidates.iter().filter(|(kind, id)| kind.was_missing || history.is_due(id));
    let target = |(kind, id): (CandidateKind, &'a str)| LookupTarget {
        id,
        type_id: kind.type_id,
        last_round: history.last_round(id),
    };
    batches(due.map(target), limit)
}

fn held_batches<'a>(
    held: &'a [(String, TypeId)],
    history: &LookupHistory,
    limit: usize,
) -> Vec<LookupBatch<'a>> {
    let target = |(id, type_id): &'a (String, TypeId)| LookupTarget {
        id,
        type_id: *type_id,
        last_round: history.last_round(id),
    };
    batches(held.iter().map(target), limit)
}

/// Returns what the lookups say about a candidate, or `None` if this crawl did not look it up and
/// no earlier answer counts.
fn candidate_status(
    id: &str,
    results: &HashMap<String, LookupResult>,
    history: &LookupHistory,
) -> Option<CandidateStatus> {
    let earlier = history.records.get(id);
    match results.get(id) {
        Some(LookupResult::Answered(Answer::Gone(gone))) => Some(CandidateStatus::Gone(*gone)),
        Some(LookupResult::Answered(Answer::Exists(_))) => Some(CandidateStatus::Exists),
        Some(LookupResult::Answered(Answer::Unusable)) => {
            let next = LookupRecord::after_unusable_answer(earlier, history.round);
            let is_unconfirmable = next.unusable_streak >= MAX_UNUSABLE_ANSWERS;
            Some(if is_unconfirmable {
                CandidateStatus::Unconfirmable
            } else {
                CandidateStatus::NoUsableAnswer
            })
        }
        Some(LookupResult::NoValidResponse) => Some(CandidateStatus::NoUsableAnswer),
        None => {
            let is_backed_off =
                earlier.is_some_and(|record| record.existed_last() && !record.is_due(history.round));
            is_backed_off.then_some(CandidateStatus::ExistedRecently)
        }
    }
}

/// Returns the groups to write as listed at the end of the crawl:
/// - existing candidates that were missing or have another type,
/// - held groups that exist,
/// - listed groups whose answered type differs from the stored type,
/// - new groups of the unfiltered pass, whose types were not known before the lookups.
async fn listed_writes(
    resolver: &mut TypeResolver<'_>,
    candidates: &Candidates<'_>,
    lookups: &LookupResults,
    pass_state: &PassState,
    confirmation: Confirmation,
) -> Result<Vec<ListedWrite>, StoreError> {
    for (kind, id) in candidates.iter() {
        resolver.resolve_candidate(kind, id, lookups.candidates.get(id)).await?;
    }
    for (id, result) in &lookups.uncertain {
        if let Some(stored_type) = pass_state.uncertain.stored_type(id) {
            resolver.resolve_listed(id, stored_type, result).await?;
        }
    }
    // Without confirmation, a group gets the type of its list if exactly one typed list has it.
    if confirmation != Confirmation::On || !resolver.confirms_types() {
        let listed_types =
            pass_state.uncertain.undisputed_listed_types(|id| lookups.uncertain.contains_key(id));
        resolver.use_listed_types(listed_types);
    }
    for id in pass_state.uncertain.deferred_new.iter() {
        resolver.resolve_new(id, lookups.uncertain.get(id)).await?;
    }
    for (id, result) in &lookups.held {
        resolver.resolve_held(id, result).await?;
    }
    Ok(resolver.take_writes())
}

/// Returns the changes to the lookup history. A group leaves the history once it is listed and its
/// type is certain. `prune` removes the groups that are no longer live. An empty history has none.
fn history_changes(
    lookups: &LookupResults,
    pass_state: &PassState,
    roll: &Roll,
    resolved: &HashSet<String>,
) -> HistoryChanges {
    let history = &pass_state.history;
    let mut changes = HistoryChanges { round: history.round, ..HistoryChanges::default() };
    let mut add = |id: &str, record: LookupRecord| changes.new_records.entry(record).or_default().push(id);
    let all = lookups.candidates.iter().chain(&lookups.uncertain).chain(&lookups.held);
    for (id, result) in all.filter(|(id, _)| !resolved.contains(*id)) {
        let earlier = history.records.get(id);
        match result {
            LookupResult::Answered(Answer::Exists(_)) => {
                add(id, LookupRecord::after_existing(earlier, history.round));
            }
            LookupResult::Answered(Answer::Unusable) => {
                add(id, LookupRecord::after_unusable_answer(earlier, history.round));
            }
            LookupResult::Answered(Answer::Gone(_)) | LookupResult::NoValidResponse => {}
        }
    }
    let keeps_record =
        |id: &String| !resolved.contains(id) && (!roll.is_listed(id) || pass_state.uncertain.contains(id));
    changes.remove = history.records.keys().filter(|id| !keeps_record(id)).map(String::as_str).collect();
    changes.prune = !history.records.is_empty();
    let is_gone = |result: &LookupResult| matches!(result, LookupResult::Answered(Answer::Gone(_)));
    let confirmed_held = lookups.held.iter().filter(|(_, result)| is_gone(result));
    changes.confirmed_held = confirmed_held.map(|(id, _)| id.as_str()).collect();
    changes
}
