//! Determines which looked-up groups are written at the end of a crawl, and under which types.

use std::collections::{BTreeMap, HashSet};

use super::confirmer::LookupResult;
use super::context::CrawlContext;
use crate::confirmation::Answer;
use crate::model::{GroupIds, GroupType, TypeId};
use crate::reconcile::{Absences, CandidateKind};
use crate::store::{StoreError, TypeState};

/// Groups to write as listed under one type.
pub(super) struct ListedWrite {
    /// [`TypeId::UNKNOWN`] does not change the stored types.
    pub(super) type_id: TypeId,
    pub(super) in_baseline: bool,
    pub(super) ids: GroupIds,
}

/// Collects the groups to write.
pub(super) struct TypeResolver<'a> {
    context: &'a CrawlContext<'a>,
    /// The keys of the types in the answers so far.
    answered_types: BTreeMap<GroupType, TypeId>,
    states_before: &'a [TypeState],
    absences: &'a Absences,
    writes: BTreeMap<(TypeId, bool), GroupIds>,
    /// Types without a pass of their own that have new groups according to the answers. Their
    /// baselines end with this crawl.
    ending_baselines: Vec<TypeId>,
    /// Listed groups whose types are no longer uncertain.
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

    /// Returns whether the types in the answers are stored.
    pub(super) fn confirms_types(&self) -> bool {
        self.context.settings.confirms_types()
    }

    /// Adds a candidate if it exists, and either was missing or has another type than the stored
    /// one.
    pub(super) async fn resolve_candidate(
        &mut self,
        kind: CandidateKind,
        id: &str,
        result: Option<&LookupResult>,
    ) -> Result<(), StoreError> {
        let Some(answered_type) = self.existing(result).await? else { return Ok(()) };
        match answered_type.filter(|type_id| *type_id != kind.type_id) {
            Some(type_id) => self.add(type_id, false, id),
            None if kind.was_missing => self.add(TypeId::UNKNOWN, false, id),
            None => {}
        }
        Ok(())
    }

    /// Adds a listed group if its answered type differs from the stored one.
    pub(super) async fn resolve_listed(
        &mut self,
        id: &str,
        stored_type: TypeId,
        result: &LookupResult,
    ) -> Result<(), StoreError> {
        let answered_type = self.existing(Some(result)).await?.flatten();
        if let Some(type_id) = answered_type.filter(|type_id| *type_id != stored_type) {
            self.add(type_id, false, id);
            self.resolved.insert(id.to_owned());
        }
        Ok(())
    }

    /// Adds groups under the types of the lists that have them.
    pub(super) fn use_listed_types(&mut self, groups: BTreeMap<TypeId, GroupIds>) {
        for (type_id, mut ids) in groups {
            self.writes.entry((type_id, false)).or_default().append(&mut ids);
        }
    }

    /// Adds a new group that only the unfiltered pass listed, under its answered type or as
    /// unknown.
    pub(super) async fn resolve_new(
        &mut self,
        id: &str,
        result: Option<&LookupResult>,
    ) -> Result<(), StoreError> {
        let type_id = self.existing(result).await?.flatten().unwrap_or(TypeId::UNKNOWN);
        if type_id != TypeId::UNKNOWN {
            self.resolved.insert(id.to_owned());
        }
        let in_baseline = self.in_baseline(type_id);
        self.add(type_id, in_baseline, id);
        Ok(())
    }

    /// Adds a held group if it exists. Writing it ends the hold.
    pub(super) async fn resolve_held(&mut self, id: &str, result: &LookupResult) -> Result<(), StoreError> {
        if let Some(answered_type) = self.existing(Some(result)).await? {
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

    /// Returns `None` unless the group was found to exist. Returns `Some(None)` if its type was not
    /// answered or is not stored.
    async fn existing(
        &mut self,
        result: Option<&LookupResult>,
    ) -> Result<Option<Option<TypeId>>, StoreError> {
        let Some(LookupResult::Answered(Answer::Exists(group_type))) = result else { return Ok(None) };
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

    /// Returns whether a new group of this type that only the unfiltered pass listed belongs to a
    /// baseline. The baseline of a type without a pass ends with the app's first concluded
    /// unfiltered pass.
    fn in_baseline(&mut self, type_id: TypeId) -> bool {
        let ended = |id: TypeId| {
            self.states_before.iter().any(|state| state.type_id() == id && state.is_past_baseline())
        };
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
