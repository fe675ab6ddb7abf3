//! What a crawl concludes about live groups that none of its lists has. Pure.
//!
//! First the lists *nominate*: [`Absences`] says which unlisted groups are candidates.
//!
//! | the group's type | nominated by |
//! |---|---|
//! | has a pass in this crawl | that pass, if it is exact or moving |
//! | has none, or the API rejected it | the unfiltered pass, if one was made and is exact or moving |
//! | the same, without an unfiltered pass | the app's totals, if they count fewer groups than would stand |
//!
//! Then each candidate is asked about, and [`Candidates::settle`] turns what was learned into a [`Settlement`]. With
//! `deletion.confirm = false` nothing is asked, and the lists alone decide.

mod leftover;
mod settlement;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;

pub use self::leftover::Leftover;
pub use self::settlement::{Absent, AskedCounts, Confirmation, Finding, Settlement, WithheldGroups};
use crate::model::{GroupIds, TypeId, Verdict};
use crate::roll::{Mark, Unlisted};
use crate::verdict::{Judgement, Proof};

/// Most groups of types without a list that are asked about one by one. If there are more, an unfiltered pass costs less.
pub const MOST_WITHOUT_LIST: u64 = 1_000;

/// How the groups of types without a pass are judged if no unfiltered pass was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithoutPass {
    /// They stay as they are.
    Unknown,
    /// More groups would stand than the app's totals count, so some of them are gone: each is a candidate.
    TotalsExceeded,
    /// The totals are exceeded by more groups than are asked about one by one: the next crawl makes an unfiltered pass.
    UnfilteredPassNeeded,
}

impl WithoutPass {
    /// Compares what the crawl listed and `unlisted` groups of types without a pass with the smaller of the app's totals.
    #[must_use]
    pub fn by_totals(listed: u64, unlisted: u64, smaller_total: Option<u64>) -> Self {
        match smaller_total {
            Some(total) if unlisted > 0 && listed + unlisted > total => {
                if unlisted > MOST_WITHOUT_LIST {
                    Self::UnfilteredPassNeeded
                } else {
                    Self::TotalsExceeded
                }
            }
            _ => Self::Unknown,
        }
    }
}

/// Why a group is a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nomination {
    /// A list that should have it lacks it.
    List(Proof),
    /// No list could have it, and the totals say that some such group is gone.
    Totals,
}

/// What the judged lists of a crawl say about absence.
#[derive(Debug)]
pub struct Absences {
    /// By type with a pass of its own; `None` if that pass proves nothing.
    own: BTreeMap<TypeId, Option<Proof>>,
    others: Option<Nomination>,
}

impl Absences {
    /// `without_pass` counts only if no unfiltered pass was made.
    #[must_use]
    pub fn of(judgement: &Judgement, without_pass: WithoutPass) -> Self {
        let mut own = BTreeMap::new();
        let mut unfiltered = None;
        for judged in &judgement.passes {
            if judged.pass.type_id == TypeId::UNKNOWN {
                unfiltered = Some(judged.proof.map(Nomination::List));
            } else {
                own.insert(judged.pass.type_id, judged.proof);
            }
        }
        let by_totals = (without_pass == WithoutPass::TotalsExceeded).then_some(Nomination::Totals);
        Self { own, others: unfiltered.unwrap_or(by_totals) }
    }

    /// The same for `deletion.confirm = false`: without an unfiltered pass only lists that account for every group of the
    /// app, and that listed nothing unexpected, speak of types without a pass.
    #[must_use]
    pub fn of_lists_alone(judgement: &Judgement, accounted: Option<Proof>) -> Self {
        let absences = Self::of(judgement, WithoutPass::Unknown);
        Self { others: absences.others.or(accounted.map(Nomination::List)), ..absences }
    }

    /// Whether a type has a pass of its own in this crawl.
    #[must_use]
    pub fn has_own_pass(&self, type_id: TypeId) -> bool {
        self.own.contains_key(&type_id)
    }

    /// Whether an exact or moving pass of its own contradicts that a group is of this type.
    #[must_use]
    pub fn can_contradict(&self, type_id: TypeId) -> bool {
        self.own.get(&type_id).is_some_and(Option::is_some)
    }

    fn nomination(&self, type_id: TypeId) -> Option<Nomination> {
        match self.own.get(&type_id) {
            Some(proof) => proof.map(Nomination::List),
            None => self.others,
        }
    }

    /// Starts to collect candidates.
    #[must_use]
    pub fn candidates(&self) -> Candidates<'_> {
        Candidates { absences: self, sets: BTreeMap::new() }
    }

    /// Types of which every live group is accounted for: listed, or settled by this crawl.
    fn concluded(&self, types: &[TypeId], unlisted: &BTreeMap<TypeId, Unlisted>) -> Vec<TypeId> {
        let mut concluded: Vec<TypeId> = self.own.keys().chain(types).copied().collect();
        concluded.retain(|type_id| {
            // A pass that reached its end and left no known group unlisted has seen them all, whatever its count.
            let listed_all = self.has_own_pass(*type_id) && !unlisted.contains_key(type_id);
            self.nomination(*type_id).is_some() || listed_all
        });
        concluded.sort_unstable();
        concluded.dedup();
        concluded
    }
}

/// Live groups that no list of this crawl has though one should, and what is known of each.
#[derive(Debug)]
pub struct Candidates<'a> {
    absences: &'a Absences,
    sets: BTreeMap<Absent, CandidateSet>,
}

#[derive(Debug, Default)]
struct CandidateSet {
    ids: GroupIds,
    findings: Vec<Finding>,
}

impl Candidates<'_> {
    /// Takes an unlisted live group in if it is a candidate. A held one is not: it waits for a person.
    pub fn consider(&mut self, type_id: TypeId, id: &str, mark: Mark) {
        if mark.held || self.absences.nomination(type_id).is_none() {
            return;
        }
        let set = self.sets.entry(Absent { type_id, were_missing: mark.missing }).or_default();
        set.ids.push(id);
        set.findings.push(Finding::Unasked);
    }

    /// All candidates, each with its type and whether it was missing before.
    pub fn iter(&self) -> impl Iterator<Item = (Absent, &str)> {
        self.sets.iter().flat_map(|(absent, set)| set.ids.iter().map(|id| (*absent, id)))
    }

    /// Notes what was found out about candidates. What is not told stays [`Finding::Unasked`].
    pub fn note(&mut self, find: impl Fn(&str) -> Option<Finding>) {
        for set in self.sets.values_mut() {
            for (id, finding) in set.ids.iter().zip(&mut set.findings) {
                if let Some(found) = find(id) {
                    *finding = found;
                }
            }
        }
    }

    /// Concludes the crawl. `types` are those of which the database keeps state, `unlisted` the live groups that no list has.
    #[must_use]
    pub fn settle(
        self,
        confirmation: Confirmation,
        types: &[TypeId],
        unlisted: &BTreeMap<TypeId, Unlisted>,
    ) -> Settlement {
        let concluded = self.absences.concluded(types, unlisted);
        let mut settlement = Settlement::concluding(concluded);
        for (absent, set) in &self.sets {
            let nomination = self.absences.nomination(absent.type_id);
            for (id, finding) in set.ids.iter().zip(&set.findings) {
                settlement.settle(*absent, id, *finding, confirmation, nomination);
            }
        }
        settlement
    }
}

/// The proof that typed lists give about groups of other types with `deletion.confirm = false`: every pass is exact, both
/// totals of the app are just what was listed, and no list had anything that was not known before.
#[must_use]
pub fn accounted_by_typed_lists(
    judgement: &Judgement,
    listed: u64,
    totals: [Option<u64>; 2],
    all_was_known: bool,
) -> Option<Proof> {
    let all_exact = judgement.passes.iter().all(|judged| judged.verdict == Verdict::Exact);
    let totals_match = totals == [Some(listed); 2];
    let proof = judgement.passes.first().and_then(|judged| judged.proof);
    proof.filter(|proof| all_exact && totals_match && all_was_known && proof.by_one_absence())
}
