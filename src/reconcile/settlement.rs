//! What becomes of each candidate: it vanished, is missing, is withheld, or stays as it is.

use std::collections::BTreeMap;

use super::Nomination;
use crate::confirmation::Gone;
use crate::model::{CrawlStatus, Deletions, GroupIds, TypeId};

/// Groups of a type, and whether they were missing before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Absent {
    pub type_id: TypeId,
    pub were_missing: bool,
}

/// What is known of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It was not asked about: there was no time, or no permission.
    Unasked,
    /// It was asked about, and the answer did not say.
    Unlearned,
    /// Three crawls asked about it without learning anything: a person has to decide.
    Unconfirmable,
    /// It stands.
    Stands,
    /// An earlier crawl found it standing, and it is not due to be asked about again.
    StoodLately,
    Gone(Gone),
}

/// How candidates are decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// `deletion.confirm = false`: by the lists.
    Off,
    /// By the answers.
    On,
    /// The API refuses to be asked: what the lists alone would delete is withheld.
    Refused,
}

/// What becomes of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Vanished,
    Missing,
    Withheld,
    Unchanged,
}

fn fate(
    finding: Finding,
    confirmation: Confirmation,
    nomination: Option<Nomination>,
    were_missing: bool,
) -> Fate {
    let by_lists = match nomination {
        Some(Nomination::List(proof)) if proof.by_one_absence() || were_missing => Fate::Vanished,
        Some(Nomination::List(_)) => Fate::Missing,
        Some(Nomination::Totals) | None => Fate::Unchanged,
    };
    match (finding, confirmation) {
        (Finding::Gone(_), _) => Fate::Vanished,
        (Finding::Stands | Finding::StoodLately, _) => Fate::Unchanged,
        (_, Confirmation::Refused) if by_lists == Fate::Vanished => Fate::Withheld,
        (_, Confirmation::Off | Confirmation::Refused) => by_lists,
        (Finding::Unconfirmable, Confirmation::On) => Fate::Withheld,
        (Finding::Unlearned | Finding::Unasked, Confirmation::On) => Fate::Missing,
    }
}

/// How many candidates were asked about, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AskedCounts {
    /// Groups that were asked about.
    pub asked: u64,
    /// Groups that are gone.
    pub confirmed: u64,
    /// Groups that stand.
    pub spared: u64,
    /// Groups that were asked about without an answer that says.
    pub unlearned: u64,
    /// Groups that a later crawl has to ask about.
    pub unasked: u64,
}

/// Groups whose deletion is withheld.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WithheldGroups {
    pub absent: Absent,
    /// The API said that they are gone.
    pub confirmed: bool,
}

/// What a crawl concludes about the groups it did not list, by name. Made by [`settle`](super::Candidates::settle) from judged lists and
/// answers, or empty: there is no other way to have something deleted.
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
    /// Nothing is concluded: for a crawl that did not reach its end.
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

    /// Starts a settlement that accounts for all groups of these types.
    pub(super) fn concluding(concluded: Vec<TypeId>) -> Self {
        Self { concluded, ..Self::default() }
    }

    /// Settles one candidate.
    pub(super) fn settle(
        &mut self,
        absent: Absent,
        id: &str,
        finding: Finding,
        confirmation: Confirmation,
        nomination: Option<Nomination>,
    ) {
        self.count(finding, confirmation);
        match fate(finding, confirmation, nomination, absent.were_missing) {
            Fate::Vanished => self.vanished.entry(absent).or_default().push(id),
            Fate::Missing => self.missing.entry(absent).or_default().push(id),
            Fate::Withheld => {
                self.withheld.entry(WithheldGroups { absent, confirmed: false }).or_default().push(id);
            }
            Fate::Unchanged => {}
        }
    }

    /// By how many groups each type may have shrunk: all candidates that were not found standing. Of lists alone, those that
    /// they would delete.
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

    /// Keeps the deletions of these types for a person to decide on. With `all` every candidate of theirs is kept that was
    /// not found standing, so that later crawls need not ask about it before it counts.
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

    /// Groups that would be deleted, but stay live, missing and held.
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

    /// Groups to be marked missing that are not yet.
    pub fn missing(&self) -> impl Iterator<Item = (TypeId, &GroupIds)> {
        self.missing
            .iter()
            .filter(|(absent, _)| !absent.were_missing)
            .map(|(absent, ids)| (absent.type_id, ids))
    }

    /// How many groups it marks, in whatever way.
    #[must_use]
    pub fn marks(&self) -> u64 {
        let vanished = self.vanished.values().chain(self.withheld.values());
        vanished.chain(self.missing().map(|(_, ids)| ids)).map(|ids| ids.len() as u64).sum()
    }

    /// Groups that are withheld because several crawls could not learn whether they exist.
    #[must_use]
    pub fn unconfirmable(&self) -> u64 {
        self.unconfirmable
    }

    #[must_use]
    pub fn asked(&self) -> AskedCounts {
        self.asked
    }

    /// What becomes of the deletions of a crawl that ends like this; only a complete one says.
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

    /// Types of which every live group has been accounted for: listed, or settled by this crawl.
    #[must_use]
    pub fn concluded(&self) -> &[TypeId] {
        &self.concluded
    }
}
