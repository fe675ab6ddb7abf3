//! Collects the changes that a crawl would write, for a dry run.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use crate::model::{CrawlId, GroupIds, GroupType, TypeId};
use crate::reconcile::{GroupBefore, ListingEffect, ListingEvent, Settlement};
use crate::store::{KnownGroup, Store, StoreError, TypeState, WrittenCounts};

/// The destination of a crawl's writes.
pub(super) enum WriteTarget {
    /// The database, under this id of the crawl.
    Database(CrawlId),
    /// A list of planned changes. Nothing is written.
    DryRun(Mutex<PlannedChanges>),
}

/// A change that a crawl makes to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum ChangeKind {
    /// Listed for the first time, in the baseline of its type. This records no event.
    Baseline,
    Appeared,
    Reappeared,
    Retyped,
    Vanished,
    /// Not listed; not decided yet.
    Missing,
    /// Not listed; the deletion waits for approval.
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

    /// Returns the kind of change, or `None` if listing the group changes nothing.
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

/// Groups to which a crawl would make the same change.
#[derive(Clone, Debug)]
pub struct PlannedChange {
    pub kind: ChangeKind,
    /// `None` if the groups are new or their type is unknown.
    pub old_type: Option<String>,
    pub new_type: Option<String>,
    pub groups: GroupIds,
}

/// The kind of a change, the type before the change and the type after it.
type ChangeKey = (ChangeKind, Option<TypeId>, Option<TypeId>);

/// The changes that a dry run has collected so far.
pub(super) struct PlannedChanges {
    types: DryRunTypes,
    changes: BTreeMap<ChangeKey, GroupIds>,
    /// The change of the number of live groups of each type.
    live: BTreeMap<TypeId, i64>,
}

impl WriteTarget {
    pub(super) fn dry_run(types: DryRunTypes) -> Self {
        Self::DryRun(Mutex::new(PlannedChanges { types, changes: BTreeMap::new(), live: BTreeMap::new() }))
    }

    pub(super) fn is_dry_run(&self) -> bool {
        matches!(self, Self::DryRun(_))
    }

    /// Returns the id of the crawl, or `None` for a dry run.
    pub(super) fn crawl(&self) -> Option<CrawlId> {
        match self {
            Self::Database(crawl) => Some(*crawl),
            Self::DryRun(_) => None,
        }
    }

    /// Returns all changes of a dry run, including those of its settlement.
    pub(super) fn into_changes(self, settlement: &Settlement) -> Vec<PlannedChange> {
        let Self::DryRun(planned) = self else { return Vec::new() };
        let mut planned = planned.into_inner().unwrap_or_else(PoisonError::into_inner);
        planned.settle(settlement);
        planned.with_type_names()
    }
}

impl PlannedChanges {
    /// Adds the change that listing a group makes.
    pub(super) fn list(
        &mut self,
        id: &str,
        known: Option<KnownGroup>,
        (listed_as, in_baseline): (TypeId, bool),
        written: &mut WrittenCounts,
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

    /// Adds the changes that the settlement makes to unlisted groups.
    fn settle(&mut self, settlement: &Settlement) {
        let vanished = settlement.vanished().map(|(kind, ids)| (ChangeKind::Vanished, kind.type_id, ids));
        let missing = settlement.missing().map(|(type_id, ids)| (ChangeKind::Missing, type_id, ids));
        let withheld =
            settlement.withheld().map(|(kind, ids)| (ChangeKind::Withheld, kind.candidate.type_id, ids));
        for (kind, type_id, ids) in vanished.chain(missing).chain(withheld) {
            ids.iter().for_each(|id| self.add((kind, Some(type_id), None), id));
        }
    }

    fn add(&mut self, key: ChangeKey, id: &str) {
        self.changes.entry(key).or_default().push(id);
    }

    /// Adds the changes so far to the totals from the database.
    pub(super) fn add_to(&self, states: &mut Vec<TypeState>) {
        for (type_id, more) in &self.live {
            match states.iter_mut().find(|state| state.type_id() == *type_id) {
                Some(state) => *state = state.with_more(*more),
                None => states.push(TypeState::unstored(*type_id).with_more(*more)),
            }
        }
    }

    /// Returns the id of a type, or a provisional id if the database does not have the type.
    pub(super) fn type_id(&mut self, group_type: &GroupType) -> TypeId {
        self.types.id(group_type)
    }

    fn with_type_names(self) -> Vec<PlannedChange> {
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

/// The keys of types. A dry run cannot register types in the database, so it assigns provisional
/// keys to new ones.
pub(super) struct DryRunTypes {
    names: BTreeMap<TypeId, String>,
}

impl DryRunTypes {
    pub(super) async fn read(store: &Store) -> Result<Self, StoreError> {
        Ok(Self { names: store.type_names().await? })
    }

    /// Returns the keys of these types, with provisional keys for types that the database does not
    /// have.
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
