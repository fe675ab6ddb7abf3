//! What the lists of a crawl prove about absence.

use std::collections::BTreeMap;

use crate::model::{TypeId, Verdict};
use crate::roll::Unlisted;
use crate::verdict::{Judgement, Proof};

/// Most groups of types without a pass that are asked about one by one. For more groups an unfiltered pass costs less.
const MAX_WITHOUT_PASS: u64 = 1_000;

/// What the app's totals say about groups of types without a pass, if no unfiltered pass was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithoutPass {
    /// Nothing: the groups stay as they are.
    Unknown,
    /// The totals count fewer groups than would be live, so some of these groups are gone: each is a candidate.
    TotalsExceeded,
    /// The same, with too many groups to ask about one by one: the next crawl makes an unfiltered pass.
    UnfilteredPassNeeded,
}

impl WithoutPass {
    /// Compares the `listed` groups and the `unlisted` groups of types without a pass with the smaller of the app's totals.
    #[must_use]
    pub fn by_totals(listed: u64, unlisted: u64, smaller_total: Option<u64>) -> Self {
        match smaller_total {
            Some(total) if unlisted > 0 && listed + unlisted > total => {
                if unlisted > MAX_WITHOUT_PASS {
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
pub(super) enum Nomination {
    /// A list lacks it that should contain it.
    List(Proof),
    /// No list could contain it, and the totals show that some of these groups are gone.
    Totals,
}

/// What the judged lists of a crawl prove about absence.
#[derive(Debug)]
pub struct Absences {
    /// The proofs of types with a pass of their own; `None` if that pass proves nothing.
    own: BTreeMap<TypeId, Option<Proof>>,
    /// The nomination of groups of all other types.
    others: Option<Nomination>,
}

impl Absences {
    /// The absences of a crawl that asks `get_group_info`. `without_pass` is used only if no unfiltered pass was made.
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

    /// The absences of a crawl with `deletion.confirm = false`. Without an unfiltered pass, `accounted` is the proof about types
    /// without a pass (see [`accounted_by_typed_lists`]).
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

    /// Whether a pass of this type can contradict that a group has it, because the pass is exact or moving.
    #[must_use]
    pub fn can_contradict(&self, type_id: TypeId) -> bool {
        self.own.get(&type_id).is_some_and(Option::is_some)
    }

    pub(super) fn nomination(&self, type_id: TypeId) -> Option<Nomination> {
        match self.own.get(&type_id) {
            Some(proof) => proof.map(Nomination::List),
            None => self.others,
        }
    }

    /// The types of which every live group was listed or is settled by this crawl.
    pub(super) fn concluded(&self, types: &[TypeId], unlisted: &BTreeMap<TypeId, Unlisted>) -> Vec<TypeId> {
        let mut concluded: Vec<TypeId> = self.own.keys().chain(types).copied().collect();
        concluded.retain(|type_id| {
            // A pass that left no known group unlisted has seen them all, whatever its count says.
            let listed_all = self.has_own_pass(*type_id) && !unlisted.contains_key(type_id);
            self.nomination(*type_id).is_some() || listed_all
        });
        concluded.sort_unstable();
        concluded.dedup();
        concluded
    }
}

/// The proof that typed lists give about groups of other types with `deletion.confirm = false`. It takes three conditions:
/// every pass is exact, both totals of the app equal the listed ids, and the lists contained nothing that was not known before.
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
