//! What the lists and the totals of a crawl prove about unlisted groups.

use std::collections::BTreeMap;

use crate::model::{TypeId, Verdict};
use crate::roll::Unlisted;
use crate::verdict::{Judgement, Proof};

/// The maximum number of groups of types without a pass that are looked up one by one. For more
/// groups an unfiltered pass needs fewer requests.
const MAX_WITHOUT_PASS: u64 = 1_000;

/// What the app's totals prove about the live groups of types without a pass, in a crawl without an
/// unfiltered pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TotalsEvidence {
    /// The totals prove nothing. The groups are left unchanged.
    Inconclusive,
    /// The totals count fewer groups than are known to be live, so some of these groups are gone.
    /// Each of them is a candidate.
    SomeAreGone,
    /// Some of these groups are gone, but there are too many of them to look up one by one. The
    /// next crawl makes an unfiltered pass.
    UnfilteredPassNeeded,
}

impl TotalsEvidence {
    /// Compares the number of known live groups with the smaller of the app's totals. The known
    /// live groups are the `listed` groups and the `unlisted` groups of types without a pass.
    #[must_use]
    pub fn compare(listed: u64, unlisted: u64, smaller_total: Option<u64>) -> Self {
        match smaller_total {
            Some(total) if unlisted > 0 && listed + unlisted > total => {
                if unlisted > MAX_WITHOUT_PASS {
                    Self::UnfilteredPassNeeded
                } else {
                    Self::SomeAreGone
                }
            }
            _ => Self::Inconclusive,
        }
    }
}

/// Why a group is a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Nomination {
    /// A list that should contain the group does not.
    List(Proof),
    /// No pass lists the group's type, and the totals show that some groups of such types are gone.
    Totals,
}

/// What the judged lists and the totals of a crawl prove about unlisted groups.
#[derive(Debug)]
pub struct Absences {
    /// The proofs of the types that have a pass of their own; `None` if the pass proves nothing.
    own: BTreeMap<TypeId, Option<Proof>>,
    /// The nomination of the groups of all other types.
    others: Option<Nomination>,
}

impl Absences {
    /// Returns the absences of a crawl that calls `get_group_info`. `totals_evidence` is used only
    /// if no unfiltered pass was made.
    #[must_use]
    pub fn of(judgement: &Judgement, totals_evidence: TotalsEvidence) -> Self {
        let mut own = BTreeMap::new();
        let mut unfiltered = None;
        for judged in &judgement.passes {
            if judged.pass.type_id == TypeId::UNKNOWN {
                unfiltered = Some(judged.proof.map(Nomination::List));
            } else {
                own.insert(judged.pass.type_id, judged.proof);
            }
        }
        let by_totals = (totals_evidence == TotalsEvidence::SomeAreGone).then_some(Nomination::Totals);
        Self { own, others: unfiltered.unwrap_or(by_totals) }
    }

    /// Returns the absences of a crawl with `deletion.confirm = false`. If there is no proof by an
    /// unfiltered pass, `proof_for_others` is used for types without a pass, see
    /// [`proof_for_types_without_pass`].
    #[must_use]
    pub fn of_lists_alone(judgement: &Judgement, proof_for_others: Option<Proof>) -> Self {
        let absences = Self::of(judgement, TotalsEvidence::Inconclusive);
        Self { others: absences.others.or(proof_for_others.map(Nomination::List)), ..absences }
    }

    /// Returns whether a type has a pass of its own in this crawl.
    #[must_use]
    pub fn has_own_pass(&self, type_id: TypeId) -> bool {
        self.own.contains_key(&type_id)
    }

    /// Returns whether an unlisted group of this type contradicts its stored type. This is so if
    /// the pass of the type is exact or moving.
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

    /// Returns the concluded types: those of which every live group was listed or is a candidate,
    /// so that this crawl decides about it.
    pub(super) fn concluded_types(
        &self,
        types: &[TypeId],
        unlisted: &BTreeMap<TypeId, Unlisted>,
    ) -> Vec<TypeId> {
        let mut concluded: Vec<TypeId> = self.own.keys().chain(types).copied().collect();
        concluded.retain(|type_id| {
            // A pass that listed all known groups has seen them all, even if it is short.
            let listed_all = self.has_own_pass(*type_id) && !unlisted.contains_key(type_id);
            self.nomination(*type_id).is_some() || listed_all
        });
        concluded.sort_unstable();
        concluded.dedup();
        concluded
    }
}

/// Returns the proof that the typed lists provide about groups of types without a pass, for
/// `deletion.confirm = false`. It has three conditions: every pass is exact, both totals of the app
/// equal the number of listed ids, and the lists contain only known groups.
#[must_use]
pub fn proof_for_types_without_pass(
    judgement: &Judgement,
    listed: u64,
    totals: [Option<u64>; 2],
    only_known_groups: bool,
) -> Option<Proof> {
    let all_exact = judgement.passes.iter().all(|judged| judged.verdict == Verdict::Exact);
    let totals_match = totals == [Some(listed); 2];
    let proof = judgement.passes.first().and_then(|judged| judged.proof);
    proof.filter(|proof| all_exact && totals_match && only_known_groups && proof.by_one_absence())
}
