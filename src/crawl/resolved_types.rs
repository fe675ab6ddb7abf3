//! Turns answers of `get_group_info` into groups that are written as listed, with the types that were answered.

use std::collections::{BTreeMap, HashSet};

use super::confirmer::Answered;
use super::context::CrawlContext;
use crate::confirmation::Learned;
use crate::model::{GroupIds, GroupType, TypeId};
use crate::reconcile::{Absences, Absent};
use crate::store::{StoreError, TypeState};

/// Groups to be written as listed under one type.
pub(super) struct ListedWrite {
    /// [`TypeId::UNKNOWN`] leaves the known types as they are.
    pub(super) type_id: TypeId,
    pub(super) in_baseline: bool,
    pub(super) ids: GroupIds,
}

/// Collects the groups whose answers have to be written.
pub(super) struct TypeResolver<'a> {
    context: &'a CrawlContext<'a>,
    /// The ids of the types that were answered.
    answered_types: BTreeMap<GroupType, TypeId>,
    states_before: &'a [TypeState],
    absences: &'a Absences,
    writes: BTreeMap<(TypeId, bool), GroupIds>,
    /// Types without a pass of their own, of which an answer named a new group. Their baselines end with this crawl.
    ending_baselines: Vec<TypeId>,
    /// Listed groups whose type is not uncertain any more.
    pub(super) resolved: HashSet<String>,
}

impl<'a> TypeResolver<'a> {
    pub(super) fn new(
        context: &'a CrawlContext<'a>,
        states_before: &'a [TypeState],
        absences: &'a Absences,
    ) -> Self {
        Self {
            context,
            answered_types: BTreeMap::new(),
            states_before,
            absences,
            writes: BTreeMap::new(),
            ending_baselines: Vec::new(),
            resolved: HashSet::new(),
        }
    }

    /// Whether answered types are stored.
    pub(super) fn confirms_types(&self) -> bool {
        self.context.settings.confirms_types()
    }

    /// Adds a candidate if it exists and was missing, or has another type.
    pub(super) async fn resolve_candidate(
        &mut self,
        absent: Absent,
        id: &str,
        answered: Option<&Answered>,
    ) -> Result<(), StoreError> {
        let Some(answered_type) = self.existing(answered).await? else { return Ok(()) };
        match answered_type.filter(|type_id| *type_id != absent.type_id) {
            Some(type_id) => self.add(type_id, false, id),
            None if absent.were_missing => self.add(TypeId::UNKNOWN, false, id),
            None => {}
        }
        Ok(())
    }

    /// Adds a listed group if its answered type differs from the known one.
    pub(super) async fn resolve_listed(
        &mut self,
        id: &str,
        known: TypeId,
        answered: &Answered,
    ) -> Result<(), StoreError> {
        let answered_type = self.existing(Some(answered)).await?.flatten();
        if let Some(type_id) = answered_type.filter(|type_id| *type_id != known) {
            self.add(type_id, false, id);
            self.resolved.insert(id.to_owned());
        }
        Ok(())
    }

    /// Adds groups under the types that lists claim for them.
    pub(super) fn accept_claims(&mut self, claims: BTreeMap<TypeId, GroupIds>) {
        for (type_id, mut ids) in claims {
            self.writes.entry((type_id, false)).or_default().append(&mut ids);
        }
    }

    /// Adds a new group that only the unfiltered pass listed, under the type answered if there is one.
    pub(super) async fn resolve_new(
        &mut self,
        id: &str,
        answered: Option<&Answered>,
    ) -> Result<(), StoreError> {
        let type_id = self.existing(answered).await?.flatten().unwrap_or(TypeId::UNKNOWN);
        if type_id != TypeId::UNKNOWN {
            self.resolved.insert(id.to_owned());
        }
        let in_baseline = self.in_baseline(type_id);
        self.add(type_id, in_baseline, id);
        Ok(())
    }

    /// Adds a held group if it exists: it is not held any more.
    pub(super) async fn resolve_held(&mut self, id: &str, answered: &Answered) -> Result<(), StoreError> {
        if let Some(answered_type) = self.existing(Some(answered)).await? {
            self.add(answered_type.unwrap_or(TypeId::UNKNOWN), false, id);
        }
        Ok(())
    }

    fn add(&mut self, type_id: TypeId, in_baseline: bool, id: &str) {
        self.writes.entry((type_id, in_baseline)).or_default().push(id);
    }

    pub(super) fn take_writes(&mut self) -> Vec<ListedWrite> {
        let write = |((type_id, in_baseline), ids)| ListedWrite { type_id, in_baseline, ids };
        std::mem::take(&mut self.writes).into_iter().map(write).collect()
    }

    /// `None` if the group was not found to exist. Otherwise its answered type, if there is one and types are stored.
    async fn existing(&mut self, answered: Option<&Answered>) -> Result<Option<Option<TypeId>>, StoreError> {
        let Some(Answered::Learned(Learned::Stands(group_type))) = answered else { return Ok(None) };
        let Some(group_type) = group_type.as_ref().filter(|_| self.confirms_types()) else {
            return Ok(Some(None));
        };
        if let Some(type_id) = self.answered_types.get(group_type) {
            return Ok(Some(Some(*type_id)));
        }
        let type_id = self.context.type_id(group_type).await?;
        self.answered_types.insert(group_type.clone(), type_id);
        Ok(Some(Some(type_id)))
    }

    /// Whether a new group of this type, which only the unfiltered pass listed, belongs to a baseline. The baseline of a type
    /// without a pass ends with the app's first concluded unfiltered pass.
    fn in_baseline(&mut self, type_id: TypeId) -> bool {
        let ended =
            |of| self.states_before.iter().any(|state| state.type_id() == of && state.past_baseline());
        let has_own_pass = self.absences.has_own_pass(type_id);
        let in_baseline = !(ended(type_id) || (!has_own_pass && ended(TypeId::UNKNOWN)));
        if type_id != TypeId::UNKNOWN
            && !has_own_pass
            && !ended(type_id)
            && !self.ending_baselines.contains(&type_id)
        {
            self.ending_baselines.push(type_id);
        }
        in_baseline
    }

    /// Records the baselines that end with this crawl.
    pub(super) async fn end_baselines(&self) -> Result<(), StoreError> {
        for type_id in &self.ending_baselines {
            self.context.end_baseline(*type_id).await?;
        }
        Ok(())
    }
}
