//! What a crawl concludes once its lists are read: the lists nominate, the API is asked, the guard has its say.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use super::confirm::{Answered, Inquiry};
use super::investigation::Findings;
use super::progress::SignsOfLife;
use super::tally::{PassEnd, PassNotes, PassTally};
use super::told::{Told, Write};
use super::{CrawlSite, Crawler, Interrupted};
use crate::confirmation::{Asked, Batch, History, Learned, MAX_UNLEARNED, Question, batches};
use crate::guard::{Change, Withholding, withhold};
use crate::model::{GroupType, TypeId, Verdict};
use crate::pages::Caller;
use crate::reconcile::{
    Absences, Absent, Candidates, Confirmation, Finding, Settlement, WithoutPass, accounted_by_typed_lists,
};
use crate::roll::{Roll, Unlisted};
use crate::store::{HistoryChanges, StoreError, TypeState};
use crate::tencent::ApiError;
use crate::verdict::{Evidence, Judgement, Recheck, is_nearly_whole, judge};

/// A crawl that reached its end.
pub(super) struct Concluded {
    pub(super) settlement: Settlement,
    pub(super) judgement: Judgement,
    pub(super) withholding: Option<Withholding>,
    /// Why the API may not be asked about groups: then deletions are withheld.
    pub(super) refused: Option<ApiError>,
    pub(super) history: HistoryChanges,
}

/// The lists of a crawl that reached its end.
pub(super) struct Lists<'a> {
    pub(super) roll: &'a Roll,
    /// What the database had of each type when the crawl began.
    pub(super) states_before: &'a [TypeState],
    pub(super) rechecks: Vec<Recheck>,
    pub(super) took: Duration,
}

/// What was learned by asking.
#[derive(Default)]
pub(super) struct Answers {
    pub(super) candidates: HashMap<String, Answered>,
    pub(super) types: HashMap<String, Answered>,
    pub(super) held: HashMap<String, Answered>,
    pub(super) refused: Option<ApiError>,
}

impl Crawler {
    pub(super) async fn conclude(
        &self,
        site: &CrawlSite<'_>,
        types: &BTreeMap<GroupType, TypeId>,
        caller: &Caller<'_>,
        lists: Lists<'_>,
        (findings, mut notes): (&mut Findings, PassNotes),
    ) -> Result<Concluded, Interrupted> {
        let emptied = is_emptied(findings, &lists.rechecks);
        let judgement = self.judge(&lists.rechecks, findings);
        site.unless_stopped(end_late_baselines(site, &judgement)).await??;
        let unlisted = lists.roll.unlisted();
        let absences = self.absences(&judgement, &unlisted, findings);
        let gathering = gather_candidates(site, &absences, lists.roll, &unlisted);
        let mut candidates = site.unless_stopped(gathering).await??;
        notes.doubts.keep_what_lists_contradict(&absences);

        let mut confirmation = Confirmation::Off;
        let mut answers = Answers::default();
        if self.settings.deletion.confirm {
            let mut inquiry =
                Inquiry::new(site, caller, self.settings.retry, &notes.samples, emptied, lists.took);
            answers = ask_all(site, &mut inquiry, &candidates, &notes).await?;
            confirmation = if answers.refused.is_some() { Confirmation::Refused } else { Confirmation::On };
        }
        note_findings(&mut candidates, &answers.candidates, &notes.history);

        let mut told = Told::new(site, types, lists.states_before, &absences);
        let writes = told.writes(&candidates, &answers, &notes.doubts, confirmation).await?;
        let history = history_changes(&answers, &notes, lists.roll, &told.resolved);
        let states = site.unless_stopped(site.type_states()).await??;
        let known: Vec<TypeId> = states.iter().map(TypeState::type_id).collect();
        let mut settlement = candidates.settle(confirmation, &known, &unlisted);
        let withholding = self.apply_guard(types, lists.roll, findings, &mut settlement, confirmation);
        for Write { type_id, in_baseline, ids } in writes {
            site.write_listed(type_id, in_baseline, site.clock.now(), &ids).await?;
        }
        told.end_baselines().await?;
        Ok(Concluded { settlement, judgement, withholding, refused: answers.refused, history })
    }

    fn judge(&self, rechecks: &[Recheck], findings: &mut Findings) -> Judgement {
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
            max_shortfall: self.settings.deletion.max_shortfall,
        });
        findings.verdicts.extend(judgement.passes.iter().map(|judged| (judged.pass.type_id, judged.verdict)));
        judgement
    }

    /// What the lists say about absence, and whether the next crawl has to make an unfiltered pass.
    fn absences(
        &self,
        judgement: &Judgement,
        unlisted: &BTreeMap<TypeId, Unlisted>,
        findings: &mut Findings,
    ) -> Absences {
        let totals = [findings.total_at_start, findings.total_at_end];
        if !self.settings.deletion.confirm {
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

    fn apply_guard(
        &self,
        types: &BTreeMap<GroupType, TypeId>,
        roll: &Roll,
        findings: &Findings,
        settlement: &mut Settlement,
        confirmation: Confirmation,
    ) -> Option<Withholding> {
        let policy = &self.settings.deletion;
        let losses =
            if policy.review { settlement.deletions_by_type() } else { settlement.losses(confirmation) };
        let mut gained: BTreeMap<TypeId, u64> = BTreeMap::new();
        for tally in findings.tallies() {
            *gained.entry(tally.plan.type_id).or_default() += tally.gained;
        }
        let of_types = roll.types().chain(losses.keys().copied()).chain(gained.keys().copied());
        let change = |type_id: TypeId| {
            let of = |counts: &BTreeMap<TypeId, u64>| counts.get(&type_id).copied().unwrap_or(0);
            Change::of(roll.live_before(type_id), of(&gained), of(&losses))
        };
        let changes = of_types.map(|type_id| (type_id, change(type_id))).collect();
        let withholding = withhold(policy, &self.max_fractions(types), &changes)?;
        settlement.withhold(&withholding.types, confirmation, !policy.review);
        Some(withholding)
    }

    /// `deletion.max_fraction_by_type`, by the ids of the types.
    fn max_fractions(&self, types: &BTreeMap<GroupType, TypeId>) -> BTreeMap<TypeId, f64> {
        let by_type = self.settings.deletion.max_fraction_by_type.iter();
        by_type.filter_map(|(name, fraction)| Some((*types.get(name)?, *fraction))).collect()
    }
}

/// Whether the app has no group at all: nothing was listed, both totals are 0, and each list that had groups was empty twice.
fn is_emptied(findings: &Findings, rechecks: &[Recheck]) -> bool {
    let totals = [findings.total_at_start, findings.total_at_end];
    let unusable: u64 = findings.tallies().map(|tally| tally.unusable).sum();
    findings.listed + unusable == 0
        && totals == [Some(0); 2]
        && rechecks.iter().all(|recheck| *recheck != Recheck::Contradicted)
}

/// Ends the baselines of first lists that were judged complete although their own TotalCount says otherwise. A first list that
/// broke off is no baseline: what it lacks would all seem to appear later.
async fn end_late_baselines(site: &CrawlSite<'_>, judgement: &Judgement) -> Result<(), StoreError> {
    for judged in judgement.passes.iter().filter(|judged| judged.pass.in_baseline) {
        if judged.proof.is_some() && !is_nearly_whole(&judged.pass.counts, judged.pass.distinct) {
            site.end_baseline(judged.pass.type_id).await?;
        }
    }
    Ok(())
}

async fn gather_candidates<'a>(
    site: &CrawlSite<'_>,
    absences: &'a Absences,
    roll: &Roll,
    unlisted: &BTreeMap<TypeId, Unlisted>,
) -> Result<Candidates<'a>, StoreError> {
    if unlisted.values().all(|unlisted| unlisted.groups == unlisted.held) {
        return Ok(absences.candidates());
    }
    let mut signs = SignsOfLife::of(site.progress);
    let each = |candidates: &mut Candidates<'a>, type_id, id: &str, mark| {
        signs.count();
        if roll.is_unlisted(type_id, id) {
            candidates.consider(type_id, id, mark);
        }
    };
    site.store.gather_live(site.app, || absences.candidates(), each).await
}

/// Asks about candidates, then about types, and with what is left of the budget about held groups.
async fn ask_all(
    site: &CrawlSite<'_>,
    inquiry: &mut Inquiry<'_>,
    candidates: &Candidates<'_>,
    notes: &PassNotes,
) -> Result<Answers, Interrupted> {
    let (history, room) = (&notes.history, inquiry.room());
    let candidates = inquiry.ask(candidate_batches(candidates, history, room)).await?;
    let mut answers = Answers { candidates, ..Answers::default() };
    if site.learns_types {
        let room = inquiry.room();
        answers.types = inquiry.ask(batches(notes.doubts.questions(history), room)).await?;
    }
    if inquiry.goes_on() && site.ledger.crawl().is_some() {
        let room = inquiry.room();
        let held = site.store.held_to_ask(site.app, history.round, room).await?;
        answers.held = inquiry.ask(held_batches(&held, history, room)).await?;
    }
    answers.refused = inquiry.refused.take();
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

fn note_findings(candidates: &mut Candidates<'_>, answers: &HashMap<String, Answered>, history: &History) {
    candidates.note(|id| match answers.get(id) {
        Some(Answered::Learned(Learned::Gone(gone))) => Some(Finding::Gone(*gone)),
        Some(Answered::Learned(Learned::Stands(_))) => Some(Finding::Stands),
        Some(Answered::Learned(Learned::Unlearned)) => {
            let next = Asked::then_unlearned(history.asked.get(id), history.round);
            let too_often = next.unlearned >= MAX_UNLEARNED;
            Some(if too_often { Finding::Unconfirmable } else { Finding::Unlearned })
        }
        Some(Answered::Nothing) => Some(Finding::Unlearned),
        None => {
            let backed_off =
                history.asked.get(id).is_some_and(|asked| asked.stood_last() && !asked.is_due(history.round));
            backed_off.then_some(Finding::StoodLately)
        }
    });
}

/// What the history of questions becomes. A group stays in it for as long as it is in doubt.
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
    let in_doubt = |id: &String| !resolved.contains(id) && (!roll.is_listed(id) || notes.doubts.contains(id));
    changes.remove = history.asked.keys().filter(|id| !in_doubt(id)).map(String::as_str).collect();
    changes.prune = !history.asked.is_empty();
    let gone = |answered: &Answered| matches!(answered, Answered::Learned(Learned::Gone(_)));
    let confirmed_held = answers.held.iter().filter(|(_, answered)| gone(answered));
    changes.confirmed_held = confirmed_held.map(|(id, _)| id.as_str()).collect();
    changes
}
