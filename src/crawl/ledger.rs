//! Where a crawl writes what it lists: into the database, or, in a dry run, nowhere.

use std::collections::BTreeMap;
use std::sync::{Mutex, MutexGuard, PoisonError};

use chrono::{DateTime, Utc};

use super::CrawlSite;
use crate::model::{CrawlId, GroupIds, GroupType, TypeId};
use crate::reconcile::Settlement;
use crate::store::{Batch, KnownGroup, Store, StoreError, TypeState, Written};

/// Where a crawl's writing goes.
pub(super) enum Ledger {
    /// Into the database, under this crawl's id.
    Real(CrawlId),
    /// Nowhere: it is looked up what it would change.
    Dry(Mutex<Foresight>),
}

/// What a crawl would do to a group.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Listed for the first time, in its type's baseline: no event.
    Baseline,
    Appeared,
    Reappeared,
    Retyped,
    Vanished,
    /// Not listed, and live all the same.
    Missing,
    /// Its deletion would wait for someone's approval.
    Withheld,
}

impl Change {
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
}

/// Groups to which the same would happen.
#[derive(Clone, Debug)]
pub struct Foreseen {
    pub change: Change,
    /// `None`: none, or not known.
    pub old_type: Option<String>,
    pub new_type: Option<String>,
    pub groups: GroupIds,
}

/// A change with the type before it and after it.
type Key = (Change, Option<TypeId>, Option<TypeId>);

/// What a dry run has found out so far.
pub(super) struct Foresight {
    types: DryTypes,
    changes: BTreeMap<Key, GroupIds>,
    /// By how much the live groups of each type would differ.
    live: BTreeMap<TypeId, i64>,
}

impl Ledger {
    pub(super) fn dry(types: DryTypes) -> Self {
        Self::Dry(Mutex::new(Foresight { types, changes: BTreeMap::new(), live: BTreeMap::new() }))
    }

    /// The crawl that the database knows; a dry run is none.
    pub(super) fn crawl(&self) -> Option<CrawlId> {
        match self {
            Self::Real(crawl) => Some(*crawl),
            Self::Dry(_) => None,
        }
    }
}

impl CrawlSite<'_> {
    /// Writes groups of a type that were listed at some time, or finds out what that would change.
    pub(super) async fn write_listed(
        &self,
        type_id: TypeId,
        in_baseline: bool,
        at: DateTime<Utc>,
        ids: &GroupIds,
    ) -> Result<Written, StoreError> {
        match &self.ledger {
            Ledger::Real(crawl) => {
                let batch = Batch { app: self.app, crawl: *crawl, type_id, in_baseline, at, ids };
                self.writing(self.store.write_listed(self.lease, &batch, || self.has_turn())).await
            }
            Ledger::Dry(foresight) => {
                let mut written = Written::default();
                self.store
                    .look_up(self.app, ids, |id, known| {
                        lock(foresight).list(type_id, in_baseline, id, known, &mut written);
                    })
                    .await?;
                Ok(written)
            }
        }
    }

    /// How many of these ids were never listed before.
    pub(super) async fn count_unknown(&self, ids: &GroupIds) -> Result<u64, StoreError> {
        let mut unknown = 0;
        self.store.look_up(self.app, ids, |_, known| unknown += u64::from(known.is_none())).await?;
        Ok(unknown)
    }

    /// Records that a type's pass has reached its end for the first time.
    pub(super) async fn end_baseline(&self, type_id: TypeId) -> Result<(), StoreError> {
        match &self.ledger {
            Ledger::Real(crawl) => {
                self.writing(self.store.end_baseline(self.lease, self.app, type_id, *crawl)).await
            }
            Ledger::Dry(_) => Ok(()),
        }
    }

    /// The number of a type that need not be among the configured ones.
    pub(super) async fn type_id(&self, group_type: &GroupType) -> Result<TypeId, StoreError> {
        match &self.ledger {
            Ledger::Real(_) => self.writing(self.store.register_type(self.lease, group_type)).await,
            Ledger::Dry(foresight) => Ok(lock(foresight).types.number(group_type)),
        }
    }

    /// What is kept of each type, with all that was listed until now.
    pub(super) async fn type_states(&self) -> Result<Vec<TypeState>, StoreError> {
        let mut states = self.store.type_states(self.app).await?;
        if let Ledger::Dry(foresight) = &self.ledger {
            for (type_id, more) in &lock(foresight).live {
                match states.iter_mut().find(|state| state.type_id() == *type_id) {
                    Some(state) => *state = state.with_more(*more),
                    None => states.push(TypeState::of(*type_id).with_more(*more)),
                }
            }
        }
        Ok(states)
    }
}

impl Foresight {
    fn list(
        &mut self,
        listed_as: TypeId,
        in_baseline: bool,
        id: &str,
        known: Option<KnownGroup>,
        written: &mut Written,
    ) {
        let Some(known) = known else {
            written.first_listed += 1;
            written.appeared += u64::from(!in_baseline);
            let change = if in_baseline { Change::Baseline } else { Change::Appeared };
            *self.live.entry(listed_as).or_default() += 1;
            return self.note((change, None, Some(listed_as)), id);
        };
        let old = known.type_id;
        let new = if listed_as == TypeId::UNKNOWN { old } else { listed_as };
        if known.deleted {
            written.reappeared += 1;
            self.note((Change::Reappeared, Some(old), Some(new)), id);
        } else {
            *self.live.entry(old).or_default() -= 1;
            if new != old && old != TypeId::UNKNOWN {
                written.retyped += 1;
                self.note((Change::Retyped, Some(old), Some(new)), id);
            }
        }
        *self.live.entry(new).or_default() += 1;
    }

    fn note(&mut self, key: Key, id: &str) {
        self.changes.entry(key).or_default().push(id);
    }

    fn settle(&mut self, settlement: &Settlement) {
        let vanished = settlement.vanished().map(|(of, ids)| (Change::Vanished, of.type_id, ids));
        let missing = settlement.missing().map(|(type_id, ids)| (Change::Missing, type_id, ids));
        let withheld = settlement.withheld().map(|(of, ids)| (Change::Withheld, of.absent.type_id, ids));
        for (change, type_id, ids) in vanished.chain(missing).chain(withheld) {
            ids.iter().for_each(|id| self.note((change, Some(type_id), None), id));
        }
    }
}

/// What a dry run saw coming, by the names of types.
pub(super) fn foreseen(ledger: Ledger, settlement: &Settlement) -> Vec<Foreseen> {
    let Ledger::Dry(foresight) = ledger else { return Vec::new() };
    let mut foresight = foresight.into_inner().unwrap_or_else(PoisonError::into_inner);
    foresight.settle(settlement);
    let Foresight { types, changes, .. } = foresight;
    let name = |type_id: Option<TypeId>| types.names.get(&type_id?).cloned();
    changes
        .into_iter()
        .map(|((change, old, new), groups)| Foreseen {
            change,
            old_type: name(old),
            new_type: name(new),
            groups,
        })
        .collect()
}

/// The numbers of types for a dry run, which cannot make the database give new ones.
pub(super) struct DryTypes {
    names: BTreeMap<TypeId, String>,
}

impl DryTypes {
    pub(super) async fn read(store: &Store) -> Result<Self, StoreError> {
        Ok(Self { names: store.type_names().await? })
    }

    /// The numbers of these types, made up for those that the database does not know.
    pub(super) fn numbers(&mut self, group_types: &[GroupType]) -> BTreeMap<GroupType, TypeId> {
        group_types.iter().map(|group_type| (group_type.clone(), self.number(group_type))).collect()
    }

    fn number(&mut self, group_type: &GroupType) -> TypeId {
        let known = self.names.iter().find(|(_, name)| *name == group_type.as_str());
        if let Some((type_id, _)) = known {
            return *type_id;
        }
        let type_id = self.unused();
        self.names.insert(type_id, group_type.as_str().to_owned());
        type_id
    }

    fn unused(&self) -> TypeId {
        TypeId(self.names.last_key_value().map_or(1, |(last, _)| last.0 + 1))
    }
}

fn lock(foresight: &Mutex<Foresight>) -> MutexGuard<'_, Foresight> {
    foresight.lock().unwrap_or_else(PoisonError::into_inner)
}
