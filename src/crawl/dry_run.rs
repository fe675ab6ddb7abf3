//! A dry run collects the changes that a crawl would write.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::{CrawlId, GroupIds, GroupType, TypeId};
use crate::reconcile::{GroupBefore, ListingEffect, ListingEvent, Settlement};
use crate::store::{KnownGroup, Store, StoreError, TypeState, Written};

/// Where a crawl writes.
pub(super) enum WriteTarget {
    /// Into the database, under the id of the crawl.
    Database(CrawlId),
    /// Nowhere: the changes are collected.
    DryRun(Mutex<PlannedChanges>),
}

/// What a crawl does to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// Listed for the first time, in its type's baseline: no event.
    Baseline,
    Appeared,
    Reappeared,
    Retyped,
    Vanished,
    /// Not listed, and not deleted either.
    Missing,
    /// Its deletion waits for approval.
    Withheld,
}

impl ChangeKind {
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Baseline => "baseline",
            Self::Appeared => "appeared",
            Self::Reappeared => "reappeared",
            Self::Retyped => "retyped",
            Self::Vanished => "vanished",
            Self::Missing => "missing",
            Self::Withheld => "withheld",
        }
    }

    /// The change that listing a group makes, if it is one.
    fn of_listing(effect: &ListingEffect) -> Option<Self> {
        match effect.event {
            Some(ListingEvent::Appeared) => Some(Self::Appeared),
            Some(ListingEvent::Reappeared) => Some(Self::Reappeared),
            Some(ListingEvent::Retyped) => Some(Self::Retyped),
            None if effect.before.is_none() => Some(Self::Baseline),
            None => None,
        }
    }
}

/// Groups that a crawl would change in the same way.
#[derive(Clone, Debug)]
pub struct PlannedChange {
    pub kind: ChangeKind,
    /// `None`: the group had no type, or none is known.
    pub old_type: Option<String>,
    pub new_type: Option<String>,
    pub groups: GroupIds,
}

/// A kind of change, the type before it and the type after it.
type ChangeKey = (ChangeKind, Option<TypeId>, Option<TypeId>);

/// The changes that a dry run has collected so far.
pub(super) struct PlannedChanges {
    types: DryRunTypes,
    changes: BTreeMap<ChangeKey, GroupIds>,
    /// The difference to the live groups of each type.
    live: BTreeMap<TypeId, i64>,
}

impl WriteTarget {
    pub(super) fn dry_run(types: DryRunTypes) -> Self {
        Self::DryRun(Mutex::new(PlannedChanges { types, changes: BTreeMap::new(), live: BTreeMap::new() }))
    }

    /// The id under which the crawl is recorded; a dry run has none.
    pub(super) fn crawl(&self) -> Option<CrawlId> {
        match self {
            Self::Database(crawl) => Some(*crawl),
            Self::DryRun(_) => None,
        }
    }

    /// All changes of a dry run that ended with this settlement.
    pub(super) fn into_changes(self, settlement: &Settlement) -> Vec<PlannedChange> {
        let Self::DryRun(planned) = self else { return Vec::new() };
        let mut planned = planned.into_inner().unwrap_or_else(PoisonError::into_inner);
        planned.settle(settlement);
        planned.by_type_name()
    }
}

impl PlannedChanges {
    /// Adds the effect of listing a group.
    pub(super) fn list(
        &mut self,
        id: &str,
        known: Option<KnownGroup>,
        (listed_as, in_baseline): (TypeId, bool),
        written: &mut Written,
    ) {
        let before = known.map(|KnownGroup { type_id, deleted }| GroupBefore { type_id, deleted });
        let effect = ListingEffect::of(before, listed_as, in_baseline);
        written.first_listed += u64::from(effect.before.is_none());
        match effect.event {
            Some(ListingEvent::Appeared) => written.appeared += 1,
            Some(ListingEvent::Reappeared) => written.reappeared += 1,
            Some(ListingEvent::Retyped) => written.retyped += 1,
            None => {}
        }
        if let Some(kind) = ChangeKind::of_listing(&effect) {
            let old_type = effect.before.map(|before| before.type_id);
            self.add((kind, old_type, Some(effect.new_type)), id);
        }
        if let Some(type_id) = effect.left_type() {
            *self.live.entry(type_id).or_default() -= 1;
        }
        *self.live.entry(effect.new_type).or_default() += 1;
    }

    /// Adds what the end of the crawl does to the groups that were not listed.
    fn settle(&mut self, settlement: &Settlement) {
        let vanished = settlement.vanished().map(|(of, ids)| (ChangeKind::Vanished, of.type_id, ids));
        let missing = settlement.missing().map(|(type_id, ids)| (ChangeKind::Missing, type_id, ids));
        let withheld = settlement.withheld().map(|(of, ids)| (ChangeKind::Withheld, of.absent.type_id, ids));
        for (kind, type_id, ids) in vanished.chain(missing).chain(withheld) {
            ids.iter().for_each(|id| self.add((kind, Some(type_id), None), id));
        }
    }

    fn add(&mut self, key: ChangeKey, id: &str) {
        self.changes.entry(key).or_default().push(id);
    }

    /// Adds the changes so far to the totals that the database has.
    pub(super) fn add_to(&self, states: &mut Vec<TypeState>) {
        for (type_id, more) in &self.live {
            match states.iter_mut().find(|state| state.type_id() == *type_id) {
                Some(state) => *state = state.with_more(*more),
                None => states.push(TypeState::of(*type_id).with_more(*more)),
            }
        }
    }

    /// The id of a type, a made-up one if the database does not know the type.
    pub(super) fn type_id(&mut self, group_type: &GroupType) -> TypeId {
        self.types.id(group_type)
    }

    fn by_type_name(self) -> Vec<PlannedChange> {
        let Self { types, changes, .. } = self;
        let name = |type_id: Option<TypeId>| types.names.get(&type_id?).cloned();
        let planned = |((kind, old, new), groups): (ChangeKey, GroupIds)| PlannedChange {
            kind,
            old_type: name(old),
            new_type: name(new),
            groups,
        };
        changes.into_iter().map(planned).collect()
    }
}

/// The ids of types in a dry run, which cannot register new types in the database.
pub(super) struct DryRunTypes {
    names: BTreeMap<TypeId, String>,
}

impl DryRunTypes {
    pub(super) async fn read(store: &Store) -> Result<Self, StoreError> {
        Ok(Self { names: store.type_names().await? })
    }

    /// The ids of these types, made-up ones for types that the database does not know.
    pub(super) fn ids(&mut self, group_types: &[GroupType]) -> BTreeMap<GroupType, TypeId> {
        group_types.iter().map(|group_type| (group_type.clone(), self.id(group_type))).collect()
    }

    fn id(&mut self, group_type: &GroupType) -> TypeId {
        let known = self.names.iter().find(|(_, name)| *name == group_type.as_str());
        if let Some((type_id, _)) = known {
            return *type_id;
        }
        let type_id = TypeId(self.names.last_key_value().map_or(1, |(last, _)| last.0 + 1));
        self.names.insert(type_id, group_type.as_str().to_owned());
        type_id
    }
}

pub(super) fn lock(planned: &Mutex<PlannedChanges>) -> MutexGuard<'_, PlannedChanges> {
    planned.lock().unwrap_or_else(PoisonError::into_inner)
}
