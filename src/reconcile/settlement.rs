//! Decides about each candidate: its deletion is applied or withheld, or it becomes missing, or it
//! is left unchanged.

use std::collections::BTreeMap;

use super::absences::Nomination;
use crate::confirmation::Gone;
use crate::model::{CrawlStatus, Deletions, GroupIds, TypeId};

/// The stored type and state of a candidate. Candidates of the same kind are kept together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct CandidateKind {
    pub type_id: TypeId,
    pub was_missing: bool,
}

/// What the lookups say about a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CandidateStatus {
    /// The candidate was not looked up: the budget was spent, the API throttled or refused the
    /// request, or there are no lookups.
    Unasked,
    /// The lookup gave no usable answer.
    NoUsableAnswer,
    /// The lookups of three crawls gave no usable answer, so a person has to decide.
    Unconfirmable,
    /// The candidate exists.
    Exists,
    /// The candidate existed at the last lookup, and the next one is not due yet.
    ExistedRecently,
    /// The candidate is gone.
    Gone(Gone),
}

/// Whether `get_group_info` confirms deletions.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// No: `deletion.confirm` is false, and the lists alone decide.
    Off,
    /// Yes.
    On,
    /// The API refuses `get_group_info`. Deletions that the lists alone would apply are withheld.
    Refused,
}

/// The decision about a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Decision {
    Vanished,
    Missing,
    Withheld,
    Unchanged,
}

/// Decides by the API's answer if there is one. Otherwise decides as follows:
/// - `Off`: by the lists.
/// - `Refused`: by the lists, but withholds deletions.
/// - `On`: the group becomes missing; the deletion of an unconfirmable group is withheld.
fn decide(
    status: CandidateStatus,
    confirmation: Confirmation,
    nomination: Option<Nomination>,
    was_missing: bool,
) -> Decision {
    let by_lists = match nomination {
        Some(Nomination::List(proof)) if proof.by_one_absence() || was_missing => Decision::Vanished,
        Some(Nomination::List(_)) => Decision::Missing,
        Some(Nomination::Totals) | None => Decision::Unchanged,
    };
    match (status, confirmation) {
        (CandidateStatus::Gone(_), _) => Decision::Vanished,
        (CandidateStatus::Exists | CandidateStatus::ExistedRecently, _) => Decision::Unchanged,
        (_, Confirmation::Refused) if by_lists == Decision::Vanished => Decision::Withheld,
        (_, Confirmation::Off | Confirmation::Refused) => by_lists,
        (CandidateStatus::Unconfirmable, Confirmation::On) => Decision::Withheld,
        (CandidateStatus::NoUsableAnswer | CandidateStatus::Unasked, Confirmation::On) => Decision::Missing,
    }
}

/// The numbers of candidates by the results of their lookups.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LookupCounts {
    /// The candidates that were looked up: the sum of `confirmed`, `spared` and `unlearned`.
    pub asked: u64,
    /// The candidates that are gone.
    pub confirmed: u64,
    /// The candidates that exist.
    pub spared: u64,
    /// The candidates without a usable answer.
    pub unlearned: u64,
    /// The candidates that were not looked up. A later crawl has to look them up.
    pub unasked: u64,
}

/// The kind of a candidate whose deletion is withheld.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WithheldKind {
    pub candidate: CandidateKind,
    /// Whether `get_group_info` confirmed that the group is gone.
    pub confirmed: bool,
}

/// The number of withheld deletions.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WithheldCounts {
    /// All withheld deletions.
    pub groups: u64,
    /// The withheld deletions that `get_group_info` confirmed.
    pub confirmed: u64,
}

/// The decisions of a crawl about its unlisted groups. Only
/// [`Candidates::settle`](super::Candidates::settle) creates a settlement that is not empty, from
/// judged lists and answers. So nothing else can delete a group.
#[derive(Debug, Default)]
pub struct Settlement {
    vanished: BTreeMap<CandidateKind, GroupIds>,
    missing: BTreeMap<CandidateKind, GroupIds>,
    withheld: BTreeMap<WithheldKind, GroupIds>,
    concluded_types: Vec<TypeId>,
    lookup_counts: LookupCounts,
    unconfirmable: u64,
}

impl Settlement {
    /// Returns the empty settlement of a crawl that did not reach its end.
    #[must_use]
    pub fn nothing() -> Self {
        Self::default()
    }

    fn count(&mut self, status: CandidateStatus, confirmation: Confirmation) {
        let LookupCounts { asked, confirmed, spared, unlearned, unasked } = &mut self.lookup_counts;
        match status {
            CandidateStatus::Gone(_) => *confirmed += 1,
            CandidateStatus::Exists => *spared += 1,
            CandidateStatus::NoUsableAnswer => *unlearned += 1,
            CandidateStatus::Unconfirmable => {
                *unlearned += 1;
                self.unconfirmable += 1;
            }
            CandidateStatus::Unasked if confirmation != Confirmation::Off => *unasked += 1,
            CandidateStatus::Unasked | CandidateStatus::ExistedRecently => {}
        }
        *asked = *confirmed + *spared + *unlearned;
    }

    /// Returns a settlement without decisions, with these concluded types.
    pub(super) fn concluding(concluded_types: Vec<TypeId>) -> Self {
        Self { concluded_types, ..Self::default() }
    }

    /// Decides about one candidate.
    pub(super) fn settle(
        &mut self,
        kind: CandidateKind,
        id: &str,
        status: CandidateStatus,
        confirmation: Confirmation,
        nomination: Option<Nomination>,
    ) {
        self.count(status, confirmation);
        match decide(status, confirmation, nomination, kind.was_missing) {
            Decision::Vanished => self.vanished.entry(kind).or_default().push(id),
            Decision::Missing => self.missing.entry(kind).or_default().push(id),
            Decision::Withheld => {
                let withheld = WithheldKind { candidate: kind, confirmed: false };
                self.withheld.entry(withheld).or_default().push(id);
            }
            Decision::Unchanged => {}
        }
    }

    /// Returns by how many groups each type may have shrunk. With [`Confirmation::On`] these are
    /// all candidates that were not found to exist, otherwise the candidates that the lists would
    /// delete.
    #[must_use]
    pub fn losses(&self, confirmation: Confirmation) -> BTreeMap<TypeId, u64> {
        let mut losses: BTreeMap<TypeId, u64> = BTreeMap::new();
        let mut add = |kind: &CandidateKind, ids: &GroupIds| {
            *losses.entry(kind.type_id).or_default() += ids.len() as u64;
        };
        self.vanished.iter().for_each(|(kind, ids)| add(kind, ids));
        self.withheld.iter().for_each(|(kind, ids)| add(&kind.candidate, ids));
        if confirmation == Confirmation::On {
            self.missing.iter().for_each(|(kind, ids)| add(kind, ids));
        }
        losses
    }

    /// Returns how many groups of each type are to be marked deleted.
    #[must_use]
    pub fn deletions_by_type(&self) -> BTreeMap<TypeId, u64> {
        let mut deletions: BTreeMap<TypeId, u64> = BTreeMap::new();
        for (kind, ids) in &self.vanished {
            *deletions.entry(kind.type_id).or_default() += ids.len() as u64;
        }
        deletions
    }

    /// Withholds the deletions of these types. If `with_missing` is true and confirmation is on,
    /// also withholds the missing candidates of these types, because [`Self::losses`] counts them.
    pub fn withhold(&mut self, types: &[TypeId], confirmation: Confirmation, with_missing: bool) {
        // Unless confirmation is off, only a `Gone` answer makes a candidate vanish.
        let confirmed = confirmation != Confirmation::Off;
        let is_of_types = |kind: &CandidateKind| types.contains(&kind.type_id);
        for (candidate, mut ids) in self.vanished.extract_if(.., |kind, _| is_of_types(kind)) {
            self.withheld.entry(WithheldKind { candidate, confirmed }).or_default().append(&mut ids);
        }
        if with_missing && confirmation == Confirmation::On {
            for (candidate, mut ids) in self.missing.extract_if(.., |kind, _| is_of_types(kind)) {
                let kind = WithheldKind { candidate, confirmed: false };
                self.withheld.entry(kind).or_default().append(&mut ids);
            }
        }
    }

    /// Returns the groups to be marked held. They stay live and missing.
    pub fn withheld(&self) -> impl Iterator<Item = (WithheldKind, &GroupIds)> {
        self.withheld.iter().map(|(kind, ids)| (*kind, ids))
    }

    /// Returns how many deletions are withheld.
    #[must_use]
    pub fn withheld_counts(&self) -> WithheldCounts {
        let mut counts = WithheldCounts::default();
        for (kind, ids) in &self.withheld {
            counts.groups += ids.len() as u64;
            counts.confirmed += if kind.confirmed { ids.len() as u64 } else { 0 };
        }
        counts
    }

    /// Returns the groups to be marked deleted.
    pub fn vanished(&self) -> impl Iterator<Item = (CandidateKind, &GroupIds)> {
        self.vanished.iter().map(|(kind, ids)| (*kind, ids))
    }

    /// Returns the groups to be marked missing, without those that already are.
    pub fn missing(&self) -> impl Iterator<Item = (TypeId, &GroupIds)> {
        self.missing.iter().filter(|(kind, _)| !kind.was_missing).map(|(kind, ids)| (kind.type_id, ids))
    }

    /// Returns how many groups are to be marked deleted, missing or held.
    #[must_use]
    pub fn mark_count(&self) -> u64 {
        let vanished = self.vanished.values().chain(self.withheld.values());
        vanished.chain(self.missing().map(|(_, ids)| ids)).map(|ids| ids.len() as u64).sum()
    }

    /// Returns the number of candidates about which three crawls got no usable answer.
    #[must_use]
    pub fn unconfirmable(&self) -> u64 {
        self.unconfirmable
    }

    /// Returns the numbers of candidates by the results of their lookups.
    #[must_use]
    pub fn lookup_counts(&self) -> LookupCounts {
        self.lookup_counts
    }

    /// Returns whether the deletions are applied or withheld. Returns `None` unless the crawl is
    /// complete.
    #[must_use]
    pub fn deletions(&self, status: CrawlStatus) -> Option<Deletions> {
        (status == CrawlStatus::Complete).then_some({
            if !self.withheld.is_empty() {
                Deletions::Withheld
            } else if !self.vanished.is_empty() {
                Deletions::Applied
            } else {
                Deletions::None
            }
        })
    }

    /// Returns the types of which every live group was listed or is a candidate.
    #[must_use]
    pub fn concluded_types(&self) -> &[TypeId] {
        &self.concluded_types
    }
}
