//! Concludes a crawl whose lists were read: the lists nominate candidates, the API is asked about them, and the guard limits
//! the deletions.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::confirmer::{Answered, Confirmer};
use super::context::CrawlContext;
use super::error::Interrupted;
use super::listing::{Findings, Lists};
use super::progress::ReadProgress;
use super::resolved_types::{ListedWrite, TypeResolver};
use super::tally::{PassEnd, PassNotes, PassTally};
use crate::confirmation::{Asked, Batch, History, Learned, MAX_UNLEARNED, Question, batches};
use crate::guard::{LiveCounts, Withholding, withhold};
use crate::model::{TypeId, Verdict};
use crate::pages::Caller;
use crate::reconcile::{
    Absences, Absent, Candidates, Confirmation, Finding, Settlement, WithoutPass, accounted_by_typed_lists,
};
use crate::roll::{Roll, Unlisted};
use crate::store::{HistoryChanges, StoreError, TypeState};
use crate::tencent::ApiError;
use crate::verdict::{Evidence, Judgement, Recheck, is_nearly_complete, judge};

/// What a crawl that reached its end concludes.
pub(super) struct Conclusion {
    pub(super) settlement: Settlement,
    pub(super) judgement: Judgement,
    pub(super) withholding: Option<Withholding>,
    /// Why `get_group_info` may not be called: then deletions are withheld.
    pub(super) refused: Option<ApiError>,
    pub(super) history: HistoryChanges,
}

/// Answers about single groups.
#[derive(Default)]
struct Answers {
    candidates: HashMap<String, Answered>,
    types: HashMap<String, Answered>,
    held: HashMap<String, Answered>,
    refused: Option<ApiError>,
}

/// Judges the lists, asks about the groups that they leave open, and decides what becomes of each.
pub(super) async fn conclude(
    context: &CrawlContext<'_>,
    caller: &Caller<'_>,
    lists: Lists,
    findings: &mut Findings,
) -> Result<Conclusion, Interrupted> {
    let Lists { roll, mut notes, states_before, rechecks, took } = lists;
    let emptied = is_emptied(findings, &rechecks);
    let judgement = judge_passes(context, &rechecks, findings);
    context.unless_stopped(end_late_baselines(context, &judgement)).await??;
    let unlisted = roll.unlisted();
    let absences = absences(context, &judgement, &unlisted, findings);
    let gathering = gather_candidates(context, &absences, &roll, &unlisted);
    let mut candidates = context.unless_stopped(gathering).await??;
    notes.uncertain.retain_contradicted(&absences);

    let mut confirmation = Confirmation::Off;
    let mut answers = Answers::default();
    if context.settings.deletion.confirm {
        let mut confirmer = Confirmer::new(context, caller, &notes.samples, emptied, took);
        answers = ask_all(context, &mut confirmer, &candidates, &notes).await?;
        confirmation = if answers.refused.is_some() { Confirmation::Refused } else { Confirmation::On };
    }
    candidates.apply_confirmations(|id| finding(id, &answers.candidates, &notes.history));

    let mut resolver = TypeResolver::new(context, &states_before, &absences);
    let writes = listed_writes(&mut resolver, &candidates, &answers, &notes, confirmation).await?;
    let history = history_changes(&answers, &notes, &roll, &resolver.resolved);
    let states = context.unless_stopped(context.type_states()).await??;
    let known: Vec<TypeId> = states.iter().map(TypeState::type_id).collect();
    let mut settlement = candidates.settle(confirmation, &known, &unlisted);
    let withholding = apply_guard(context, &roll, findings, &mut settlement, confirmation);
    for ListedWrite { type_id, in_baseline, ids } in writes {
        context.write_listed(type_id, in_baseline, context.clock.now(), &ids).await?;
    }
    resolver.end_baselines().await?;
    Ok(Conclusion { settlement, judgement, withholding, refused: answers.refused, history })
}

/// Judges the passes, and records their verdicts.
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

/// What the lists prove about absence. Records whether the next crawl has to make an unfiltered pass.
fn absences(
    context: &CrawlContext<'_>,
    judgement: &Judgement,
    unlisted: &BTreeMap<TypeId, Unlisted>,
    findings: &mut Findings,
) -> Absences {
    let totals = [findings.total_at_start, findings.total_at_end];
    if !context.settings.deletion.confirm {
        let rejected = findings.verdicts.values().any(|verdict| *verdict == Verdict::Rejected);
        let all_was_known = !rejected && findings.tallies().all(PassTally::is_plain);
        let accounted = accounted_by_typed_lists(judgement, findings.listed, totals, all_was_known);
        return Absences::of_lists_alone(judgement, accounted);
    }
    let lists = Absences::of(judgement, WithoutPass::Unknown);
    let others = unlisted.iter().filter(|(type_id, _)| !lists.has_own_pass(**type_id));
    let others = others.map(|(_, unlisted)| unlisted.groups - unlisted.held).sum();
    let smaller_total = totals[0].zip(totals[1]).map(|(start, end)| start.min(end));
    let without_pass = WithoutPass::by_totals(findings.listed, others, smaller_total);
    let unfiltered_made = judgement.passes.iter().any(|judged| judged.pass.type_id == TypeId::UNKNOWN);
    findings.unfiltered_next = without_pass == WithoutPass::UnfilteredPassNeeded && !unfiltered_made;
    Absences::of(judgement, without_pass)
}

/// Withholds the deletions that exceed the guard's limits.
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
        *gained.entry(tally.plan.type_id).or_default() += tally.gained;
    }
    let of_types = roll.types().chain(losses.keys().copied()).chain(gained.keys().copied());
    let live_counts = |type_id: TypeId| {
        let of = |counts: &BTreeMap<TypeId, u64>| counts.get(&type_id).copied().unwrap_or(0);
        LiveCounts::of(roll.live_before(type_id), of(&gained), of(&losses))
    };
    let counts = of_types.map(|type_id| (type_id, live_counts(type_id))).collect();
    let withholding = withhold(policy, &max_fractions(context), &counts)?;
    settlement.withhold(&withholding.types, confirmation, !policy.review);
    Some(withholding)
}

/// `deletion.max_fraction_by_type`, by the ids of the types.
fn max_fractions(context: &CrawlContext<'_>) -> BTreeMap<TypeId, f64> {
    let by_type = context.settings.deletion.max_fraction_by_type.iter();
    by_type.filter_map(|(name, fraction)| Some((*context.types.get(name)?, *fraction))).collect()
}

/// Whether the app has no groups at all: nothing was listed, both totals are 0, and each emptied list was empty twice.
fn is_emptied(findings: &Findings, rechecks: &[Recheck]) -> bool {
    let totals = [findings.total_at_start, findings.total_at_end];
    let unusable: u64 = findings.tallies().map(|tally| tally.unusable).sum();
    findings.listed + unusable == 0
        && totals == [Some(0); 2]
        && rechecks.iter().all(|recheck| *recheck != Recheck::Contradicted)
}

/// Ends the baselines of first lists that were judged complete although their own TotalCount says otherwise. A first list
/// that broke off does not end its baseline, because the groups that it lacks would all seem to appear later.
async fn end_late_baselines(context: &CrawlContext<'_>, judgement: &Judgement) -> Result<(), StoreError> {
    for judged in judgement.passes.iter().filter(|judged| judged.pass.in_baseline) {
        if judged.proof.is_some() && !is_nearly_complete(&judged.pass.counts, judged.pass.distinct) {
            context.end_baseline(judged.pass.type_id).await?;
        }
    }
    Ok(())
}

/// Reads the known live groups again, and collects the candidates among those that no pass listed.
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

/// Asks about candidates, then about types, and with the rest of the budget about held groups.
async fn ask_all(
    context: &CrawlContext<'_>,
    confirmer: &mut Confirmer<'_>,
    candidates: &Candidates<'_>,
    notes: &PassNotes,
) -> Result<Answers, Interrupted> {
    let (history, room) = (&notes.history, confirmer.room());
    let candidates = confirmer.ask(candidate_batches(candidates, history, room)).await?;
    let mut answers = Answers { candidates, ..Answers::default() };
    if context.settings.confirms_types() {
        let room = confirmer.room();
        answers.types = confirmer.ask(batches(notes.uncertain.questions(history), room)).await?;
    }
    if confirmer.can_ask() && context.target.crawl().is_some() {
        let room = confirmer.room();
        let held = context.store.held_to_ask(context.app, history.round, room).await?;
        answers.held = confirmer.ask(held_batches(&held, history, room)).await?;
    }
    answers.refused = confirmer.refused.take();
    Ok(answers)
}

fn candidate_batches<'a>(candidates: &'a Candidates<'_>, history: &History, room: usize) -> Vec<Batch<'a>> {
    let due = candidates.iter().filter(|(absent, id)| absent.were_missing || history.is_due(id));
    let question = |(absent, id): (Absent, &'a str)| Question {
        id,
        type_id: absent.type_id,
        last_round: history.last_round(id),
    };
    batches(due.map(question), room)
}

fn held_batches<'a>(held: &'a [(String, TypeId)], history: &History, room: usize) -> Vec<Batch<'a>> {
    let question = |(id, type_id): &'a (String, TypeId)| Question {
        id,
        type_id: *type_id,
        last_round: history.last_round(id),
    };
    batches(held.iter().map(question), room)
}

/// What was found out about a candidate; `None` if it was not asked about.
fn finding(id: &str, answers: &HashMap<String, Answered>, history: &History) -> Option<Finding> {
    let asked_before = history.asked.get(id);
    match answers.get(id) {
        Some(Answered::Learned(Learned::Gone(gone))) => Some(Finding::Gone(*gone)),
        Some(Answered::Learned(Learned::Stands(_))) => Some(Finding::Stands),
        Some(Answered::Learned(Learned::Unlearned)) => {
            let next = Asked::then_unlearned(asked_before, history.round);
            let too_often = next.unlearned >= MAX_UNLEARNED;
            Some(if too_often { Finding::Unconfirmable } else { Finding::Unlearned })
        }
        Some(Answered::Nothing) => Some(Finding::Unlearned),
        None => {
            let backed_off =
                asked_before.is_some_and(|asked| asked.stood_last() && !asked.is_due(history.round));
            backed_off.then_some(Finding::StoodLately)
        }
    }
}

/// The groups that exist by the answers, have another type than the database has, or are new and were deferred.
async fn listed_writes(
    resolver: &mut TypeResolver<'_>,
    candidates: &Candidates<'_>,
    answers: &Answers,
    notes: &PassNotes,
    confirmation: Confirmation,
) -> Result<Vec<ListedWrite>, StoreError> {
    for (absent, id) in candidates.iter() {
        resolver.resolve_candidate(absent, id, answers.candidates.get(id)).await?;
    }
    for (id, answered) in &answers.types {
        if let Some(known) = notes.uncertain.known_type(id) {
            resolver.resolve_listed(id, known, answered).await?;
        }
    }
    if confirmation != Confirmation::On || !resolver.confirms_types() {
        resolver.accept_claims(notes.uncertain.undisputed_claims(|id| answers.types.contains_key(id)));
    }
    for id in notes.uncertain.deferred_new.iter() {
        resolver.resolve_new(id, answers.types.get(id)).await?;
    }
    for (id, answered) in &answers.held {
        resolver.resolve_held(id, answered).await?;
    }
    Ok(resolver.take_writes())
}

/// The changes to the history of questions. A group stays in it while lists lack it or its type is uncertain.
fn history_changes(
    answers: &Answers,
    notes: &PassNotes,
    roll: &Roll,
    resolved: &HashSet<String>,
) -> HistoryChanges {
    let history = &notes.history;
    let mut changes = HistoryChanges { round: history.round, ..HistoryChanges::default() };
    let mut set = |id: &str, asked: Asked| changes.set.entry(asked).or_default().push(id);
    let all = answers.candidates.iter().chain(&answers.types).chain(&answers.held);
    for (id, answered) in all.filter(|(id, _)| !resolved.contains(*id)) {
        let before = history.asked.get(id);
        match answered {
            Answered::Learned(Learned::Stands(_)) => set(id, Asked::then_stood(before, history.round)),
            Answered::Learned(Learned::Unlearned) => set(id, Asked::then_unlearned(before, history.round)),
            Answered::Learned(Learned::Gone(_)) | Answered::Nothing => {}
        }
    }
    let is_open =
        |id: &String| !resolved.contains(id) && (!roll.is_listed(id) || notes.uncertain.contains(id));
    changes.remove = history.asked.keys().filter(|id| !is_open(id)).map(String::as_str).collect();
    changes.prune = !history.asked.is_empty();
    let gone = |answered: &Answered| matches!(answered, Answered::Learned(Learned::Gone(_)));
    let confirmed_held = answers.held.iter().filter(|(_, answered)| gone(answered));
    changes.confirmed_held = confirmed_held.map(|(id, _)| id.as_str()).collect();
    changes
}
