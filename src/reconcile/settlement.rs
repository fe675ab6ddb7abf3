//! Decides about each candidate: it vanished, is missing, is withheld, or stays as it is.

use std::collections::BTreeMap;

use super::absences::Nomination;
use crate::confirmation::Gone;
use crate::model::{CrawlStatus, Deletions, GroupIds, TypeId};

/// Groups of a type, and whether they were missing before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Absent {
    pub type_id: TypeId,
    pub were_missing: bool,
}

/// What was found out about a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It was not asked about, because the budget was spent or the API refused.
    Unasked,
    /// It was asked about without a usable answer.
    Unlearned,
    /// Three crawls asked about it without a usable answer: a person has to decide.
    Unconfirmable,
    /// It exists.
    Stands,
    /// It existed when an earlier crawl asked, and it is not due to be asked about again.
    StoodLately,
    Gone(Gone),
}

/// What decides about candidates.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// The lists (`deletion.confirm = false`).
    Off,
    /// The answers of `get_group_info`.
    On,
    /// The API refuses `get_group_info`: what the lists alone would delete is withheld.
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

/// Decides by the finding, or by the lists where it leaves the decision to them.
fn decide(
    finding: Finding,
    confirmation: Confirmation,
    nomination: Option<Nomination>,
    were_missing: bool,
) -> Decision {
    let by_lists = match nomination {
        Some(Nomination::List(proof)) if proof.by_one_absence() || were_missing => Decision::Vanished,
        Some(Nomination::List(_)) => Decision::Missing,
        Some(Nomination::Totals) | None => Decision::Unchanged,
    };
    match (finding, confirmation) {
        (Finding::Gone(_), _) => Decision::Vanished,
        (Finding::Stands | Finding::StoodLately, _) => Decision::Unchanged,
        (_, Confirmation::Refused) if by_lists == Decision::Vanished => Decision::Withheld,
        (_, Confirmation::Off | Confirmation::Refused) => by_lists,
        (Finding::Unconfirmable, Confirmation::On) => Decision::Withheld,
        (Finding::Unlearned | Finding::Unasked, Confirmation::On) => Decision::Missing,
    }
}

/// How many candidates were asked about, by answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AskedCounts {
    /// Groups that were asked about.
    pub asked: u64,
    /// Groups that are gone.
    pub confirmed: u64,
    /// Groups that exist.
    pub spared: u64,
    /// Groups without a usable answer.
    pub unlearned: u64,
    /// Groups that a later crawl has to ask about.
    pub unasked: u64,
}

/// Groups whose deletion is withheld.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WithheldGroups {
    pub absent: Absent,
    /// The API confirmed that they are gone.
    pub confirmed: bool,
}

/// The decisions of a crawl about the groups that it did not list. Only [`settle`](super::Candidates::settle) makes one that is
/// not empty, from judged lists and answers. So nothing else can delete a group.
#[derive(Debug, Default)]
pub struct Settlement {
    vanished: BTreeMap<Absent, GroupIds>,
    missing: BTreeMap<Absent, GroupIds>,
    withheld: BTreeMap<WithheldGroups, GroupIds>,
    concluded: Vec<TypeId>,
    asked: AskedCounts,
    unconfirmable: u64,
}

impl Settlement {
    /// The empty settlement of a crawl that did not reach its end.
    #[must_use]
    pub fn nothing() -> Self {
        Self::default()
    }

    fn count(&mut self, finding: Finding, confirmation: Confirmation) {
        let AskedCounts { asked, confirmed, spared, unlearned, unasked } = &mut self.asked;
        match finding {
            Finding::Gone(_) => *confirmed += 1,
            Finding::Stands => *spared += 1,
            Finding::Unlearned => *unlearned += 1,
            Finding::Unconfirmable => {
                *unlearned += 1;
                self.unconfirmable += 1;
            }
            Finding::Unasked if confirmation != Confirmation::Off => *unasked += 1,
            Finding::Unasked | Finding::StoodLately => {}
        }
        *asked = *confirmed + *spared + *unlearned;
    }

    /// Starts a settlement that concludes these types.
    pub(super) fn concluding(concluded: Vec<TypeId>) -> Self {
        Self { concluded, ..Self::default() }
    }

    /// Decides about one candidate.
    pub(super) fn settle(
        &mut self,
        absent: Absent,
        id: &str,
        finding: Finding,
        confirmation: Confirmation,
        nomination: Option<Nomination>,
    ) {
        self.count(finding, confirmation);
        match decide(finding, confirmation, nomination, absent.were_missing) {
            Decision::Vanished => self.vanished.entry(absent).or_default().push(id),
            Decision::Missing => self.missing.entry(absent).or_default().push(id),
            Decision::Withheld => {
                self.withheld.entry(WithheldGroups { absent, confirmed: false }).or_default().push(id);
            }
            Decision::Unchanged => {}
        }
    }

    /// By how many groups each type may have shrunk. With [`Confirmation::On`] these are all candidates that were not found to
    /// exist, otherwise the candidates that the lists would delete.
    #[must_use]
    pub fn losses(&self, confirmation: Confirmation) -> BTreeMap<TypeId, u64> {
        let mut losses: BTreeMap<TypeId, u64> = BTreeMap::new();
        let mut add = |absent: &Absent, ids: &GroupIds| {
            *losses.entry(absent.type_id).or_default() += ids.len() as u64;
        };
        self.vanished.iter().for_each(|(absent, ids)| add(absent, ids));
        self.withheld.iter().for_each(|(of, ids)| add(&of.absent, ids));
        if confirmation == Confirmation::On {
            self.missing.iter().for_each(|(absent, ids)| add(absent, ids));
        }
        losses
    }

    /// How many groups of each type would be deleted.
    #[must_use]
    pub fn deletions_by_type(&self) -> BTreeMap<TypeId, u64> {
        let mut deletions: BTreeMap<TypeId, u64> = BTreeMap::new();
        for (absent, ids) in &self.vanished {
            *deletions.entry(absent.type_id).or_default() += ids.len() as u64;
        }
        deletions
    }

    /// Withholds the deletions of these types. With `all` every candidate of theirs that was not found to exist is withheld, so
    /// that the guard's decision covers the loss in full.
    pub fn withhold(&mut self, types: &[TypeId], confirmation: Confirmation, all: bool) {
        let confirmed = confirmation == Confirmation::On || confirmation == Confirmation::Refused;
        let of_types = |absent: &Absent| types.contains(&absent.type_id);
        for (absent, mut ids) in self.vanished.extract_if(.., |absent, _| of_types(absent)) {
            self.withheld.entry(WithheldGroups { absent, confirmed }).or_default().append(&mut ids);
        }
        if all && confirmation == Confirmation::On {
            for (absent, mut ids) in self.missing.extract_if(.., |absent, _| of_types(absent)) {
                self.withheld
                    .entry(WithheldGroups { absent, confirmed: false })
                    .or_default()
                    .append(&mut ids);
            }
        }
    }

    /// Groups whose deletion is withheld: they stay live, missing and held.
    pub fn withheld(&self) -> impl Iterator<Item = (WithheldGroups, &GroupIds)> {
        self.withheld.iter().map(|(of, ids)| (*of, ids))
    }

    /// How many deletions are withheld, and how many of them the API confirmed.
    #[must_use]
    pub fn withheld_counts(&self) -> (u64, u64) {
        let count = |confirmed: bool| {
            let of = self.withheld.iter().filter(|(of, _)| of.confirmed || !confirmed);
            of.map(|(_, ids)| ids.len() as u64).sum()
        };
        (count(false), count(true))
    }

    /// Groups to be marked deleted.
    pub fn vanished(&self) -> impl Iterator<Item = (Absent, &GroupIds)> {
        self.vanished.iter().map(|(absent, ids)| (*absent, ids))
    }

    /// Groups to be marked missing that are not missing yet.
    pub fn missing(&self) -> impl Iterator<Item = (TypeId, &GroupIds)> {
        self.missing
            .iter()
            .filter(|(absent, _)| !absent.were_missing)
            .map(|(absent, ids)| (absent.type_id, ids))
    }

    /// How many groups are marked deleted, missing or held.
    #[must_use]
    pub fn marks(&self) -> u64 {
        let vanished = self.vanished.values().chain(self.withheld.values());
        vanished.chain(self.missing().map(|(_, ids)| ids)).map(|ids| ids.len() as u64).sum()
    }

    /// Groups that are withheld because three crawls got no usable answer about them.
    #[must_use]
    pub fn unconfirmable(&self) -> u64 {
        self.unconfirmable
    }

    #[must_use]
    pub fn asked(&self) -> AskedCounts {
        self.asked
    }

    /// What became of the deletions; `None` unless the crawl is complete.
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

    /// The types of which every live group was listed or is settled by this crawl.
    #[must_use]
    pub fn concluded(&self) -> &[TypeId] {
        &self.concluded
    }
}
