//! The candidates for deletion of one crawl.

use std::collections::BTreeMap;

use super::absences::Absences;
use super::settlement::{Absent, Confirmation, Finding, Settlement};
use crate::model::{GroupIds, TypeId};
use crate::roll::{Mark, Unlisted};

/// Live groups that no list has although one should, and what was found out about each.
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

impl<'a> Candidates<'a> {
    /// Starts without candidates.
    #[must_use]
    pub fn new(absences: &'a Absences) -> Self {
        Self { absences, sets: BTreeMap::new() }
    }

    /// Adds an unlisted live group if it is a candidate. A held group is none: it waits for approval.
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

    /// Records what was found out about each candidate. Without a finding it stays [`Finding::Unasked`].
    pub fn apply_confirmations(&mut self, find: impl Fn(&str) -> Option<Finding>) {
        for set in self.sets.values_mut() {
            for (id, finding) in set.ids.iter().zip(&mut set.findings) {
                if let Some(found) = find(id) {
                    *finding = found;
                }
            }
        }
    }

    /// Decides about every candidate. `types` are the types that the database has totals of, `unlisted` the live groups that no
    /// list has.
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
