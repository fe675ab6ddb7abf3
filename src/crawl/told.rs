//! Turns the types that `get_group_info` told, and groups found standing, into what is to be written.

use std::collections::{BTreeMap, HashSet};

use super::CrawlSite;
use super::conclusion::Answers;
use super::confirm::Answered;
use super::type_doubts::TypeDoubts;
use crate::confirmation::Learned;
use crate::model::{GroupIds, GroupType, TypeId};
use crate::reconcile::{Absences, Candidates, Confirmation};
use crate::store::{StoreError, TypeState};

/// Groups to be written as listed, under a type that was told.
pub(super) struct Write {
    /// [`TypeId::UNKNOWN`] leaves the known types alone.
    pub(super) type_id: TypeId,
    pub(super) in_baseline: bool,
    pub(super) ids: GroupIds,
}

/// Turns the types that were told into what is to be written.
pub(super) struct Told<'a> {
    site: &'a CrawlSite<'a>,
    type_ids: BTreeMap<GroupType, TypeId>,
    states_before: &'a [TypeState],
    absences: &'a Absences,
    /// Types without a pass of their own whose new groups were told: their baseline has ended with the unfiltered pass.
    new_types_without_pass: Vec<TypeId>,
    /// Listed groups whose type is in doubt no more.
    pub(super) resolved: HashSet<String>,
}

impl<'a> Told<'a> {
    pub(super) fn new(
        site: &'a CrawlSite<'a>,
        types: &BTreeMap<GroupType, TypeId>,
        states_before: &'a [TypeState],
        absences: &'a Absences,
    ) -> Self {
        let type_ids = types.clone();
        Self {
            site,
            type_ids,
            states_before,
            absences,
            new_types_without_pass: Vec::new(),
            resolved: HashSet::new(),
        }
    }

    /// Returns what has to be written of the groups that stand, of types that were in doubt and of new groups.
    pub(super) async fn writes(
        &mut self,
        candidates: &Candidates<'_>,
        answers: &Answers,
        doubts: &TypeDoubts,
        confirmation: Confirmation,
    ) -> Result<Vec<Write>, StoreError> {
        let mut writes: BTreeMap<(TypeId, bool), GroupIds> = BTreeMap::new();
        for (absent, id) in candidates.iter() {
            let Some(told) = self.stands(answers.candidates.get(id)).await? else { continue };
            match told.filter(|told| *told != absent.type_id) {
                Some(told) => writes.entry((told, false)).or_default().push(id),
                // Missing until now, and of the type that is known.
                None if absent.were_missing => writes.entry((TypeId::UNKNOWN, false)).or_default().push(id),
                None => {}
            }
        }
        for (id, answered) in &answers.types {
            let Some(known) = doubts.known_type(id) else { continue };
            let told = self.stands(Some(answered)).await?.flatten();
            if let Some(told) = told.filter(|told| *told != known) {
                writes.entry((told, false)).or_default().push(id);
                self.resolved.insert(id.clone());
            }
        }
        if confirmation != Confirmation::On || !self.site.learns_types {
            for (claimed, mut ids) in doubts.undisputed_claims(|id| answers.types.contains_key(id)) {
                writes.entry((claimed, false)).or_default().append(&mut ids);
            }
        }
        for id in doubts.unfiltered_new.iter() {
            let told = self.stands(answers.types.get(id)).await?.flatten().unwrap_or(TypeId::UNKNOWN);
            if told != TypeId::UNKNOWN {
                self.resolved.insert(id.to_owned());
            }
            writes.entry((told, self.in_baseline(told))).or_default().push(id);
        }
        for (id, answered) in &answers.held {
            if let Some(told) = self.stands(Some(answered)).await? {
                writes.entry((told.unwrap_or(TypeId::UNKNOWN), false)).or_default().push(id);
            }
        }
        let write = |((type_id, in_baseline), ids)| Write { type_id, in_baseline, ids };
        Ok(writes.into_iter().map(write).collect())
    }

    /// `Some` if the group stands, with its type if one was told and types are kept.
    async fn stands(&mut self, answered: Option<&Answered>) -> Result<Option<Option<TypeId>>, StoreError> {
        let Some(Answered::Learned(Learned::Stands(group_type))) = answered else { return Ok(None) };
        let Some(group_type) = group_type.as_ref().filter(|_| self.site.learns_types) else {
            return Ok(Some(None));
        };
        if let Some(type_id) = self.type_ids.get(group_type) {
            return Ok(Some(Some(*type_id)));
        }
        let type_id = self.site.type_id(group_type).await?;
        self.type_ids.insert(group_type.clone(), type_id);
        Ok(Some(Some(type_id)))
    }

    /// Whether a new group of this type, which only the unfiltered pass listed, belongs to a baseline. That of a type without
    /// a pass ends with the app's first concluded unfiltered pass.
    fn in_baseline(&mut self, type_id: TypeId) -> bool {
        let past = |of| self.states_before.iter().any(|state| state.type_id() == of && state.past_baseline());
        let own_pass = self.absences.has_own_pass(type_id);
        if type_id != TypeId::UNKNOWN
            && !own_pass
            && !past(type_id)
            && !self.new_types_without_pass.contains(&type_id)
        {
            self.new_types_without_pass.push(type_id);
        }
        !(past(type_id) || (!own_pass && past(TypeId::UNKNOWN)))
    }

    /// Records that the baselines of types without a pass have ended.
    pub(super) async fn end_baselines(&self) -> Result<(), StoreError> {
        for type_id in &self.new_types_without_pass {
            self.site.end_baseline(*type_id).await?;
        }
        Ok(())
    }
}
