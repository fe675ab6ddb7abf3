//! The candidates for deletion of one crawl.

use std::collections::BTreeMap;

use super::absences::Absences;
use super::settlement::{CandidateKind, CandidateStatus, Confirmation, Settlement};
use crate::model::{GroupIds, TypeId};
use crate::roll::{Mark, Unlisted};

/// The candidates: unlisted live groups that were nominated for deletion, each with its status.
#[derive(Debug)]
pub struct Candidates<'a> {
    absences: &'a Absences,
    sets: BTreeMap<CandidateKind, CandidateSet>,
}

#[derive(Debug, Default)]
struct CandidateSet {
    ids: GroupIds,
    /// The statuses of the ids, in the same order.
    statuses: Vec<CandidateStatus>,
}

impl<'a> Candidates<'a> {
    /// Returns an empty set of candidates.
    #[must_use]
    pub fn new(absences: &'a Absences) -> Self {
        Self { absences, sets: BTreeMap::new() }
    }

    /// Adds an unlisted live group if it is nominated and not held. A held group already waits for
    /// approval.
    pub fn consider(&mut self, type_id: TypeId, id: &str, mark: Mark) {
        if mark.held || self.absences.nomination(type_id).is_none() {
            return;
        }
        let set = self.sets.entry(CandidateKind { type_id, was_missing: mark.missing }).or_default();
        set.ids.push(id);
        set.statuses.push(CandidateStatus::Unasked);
    }

    /// Iterates over all candidates.
    pub fn iter(&self) -> impl Iterator<Item = (CandidateKind, &str)> {
        self.sets.iter().flat_map(|(kind, set)| set.ids.iter().map(|id| (*kind, id)))
    }

    /// Sets the status of each candidate for which `status_of` returns one. The others remain
    /// [`CandidateStatus::Unasked`].
    pub fn apply_confirmations(&mut self, status_of: impl Fn(&str) -> Option<CandidateStatus>) {
        for set in self.sets.values_mut() {
            for (id, status) in set.ids.iter().zip(&mut set.statuses) {
                if let Some(new) = status_of(id) {
                    *status = new;
                }
            }
        }
    }

    /// Decides about every candidate. `types` are the types that have totals in the database.
    /// `unlisted` counts the unlisted live groups.
    #[must_use]
    pub fn settle(
        self,
        confirmation: Confirmation,
        types: &[TypeId],
        unlisted: &BTreeMap<TypeId, Unlisted>,
    ) -> Settlement {
        let concluded_types = self.absences.concluded_types(types, unlisted);
        let mut settlement = Settlement::concluding(concluded_types);
        for (kind, set) in &self.sets {
            let nomination = self.absences.nomination(kind.type_id);
            for (id, status) in set.ids.iter().zip(&set.statuses) {
                settlement.settle(*kind, id, *status, confirmation, nomination);
            }
        }
        settlement
    }
}
