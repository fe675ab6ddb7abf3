//! Groups of uncertain type. The type of a group is uncertain if only the unfiltered pass listed
//! the group, or if a list contradicts the stored type.
//!
//! A list is weak evidence of a type, because the API may ignore the type filter. So a list alone
//! does not change a stored type. This module collects the groups while pages arrive. At the end of
//! the crawl, their types are looked up with `get_group_info`.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::confirmation::{LookupHistory, LookupTarget};
use crate::model::{GroupIds, TypeId};
use crate::reconcile::Absences;

/// The maximum number of groups that are kept, separately for known and for new groups. One crawl
/// cannot look up more; the next crawl finds the others again.
const CAPACITY: usize = 50_000;

/// Why the type of a listed group is uncertain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Uncertainty {
    stored: TypeId,
    /// The type of the typed pass that listed the group; `None` if only the unfiltered pass did.
    listed_as: Option<TypeId>,
    /// Whether a second typed pass listed the group.
    is_disputed: bool,
}

/// The groups of uncertain type in one crawl.
#[derive(Debug, Default)]
pub(super) struct UncertainTypes {
    groups: HashMap<String, Uncertainty>,
    /// Groups of uncertain type that are not due to be looked up.
    backed_off: HashSet<String>,
    /// New groups that only the unfiltered pass listed. They are written at the end of the crawl,
    /// under the answered types.
    pub(super) deferred_new: GroupIds,
}

impl UncertainTypes {
    /// Adds a group that the pass of the type `listed_as` listed although another type is stored.
    pub(super) fn add_listed_as_other_type(
        &mut self,
        history: &LookupHistory,
        id: &str,
        stored: TypeId,
        listed_as: TypeId,
    ) {
        let uncertainty = Uncertainty { stored, listed_as: Some(listed_as), is_disputed: false };
        self.add(history, id, uncertainty);
    }

    /// Records that a second typed pass listed a group. Does nothing if its type is not uncertain.
    pub(super) fn dispute(&mut self, id: &str) {
        if let Some(group) = self.groups.get_mut(id) {
            group.is_disputed = true;
        }
    }

    /// Adds a known group that only the unfiltered pass listed.
    pub(super) fn add_unfiltered(&mut self, history: &LookupHistory, id: &str, stored: TypeId) {
        self.add(history, id, Uncertainty { stored, listed_as: None, is_disputed: false });
    }

    /// Keeps a new group of the unfiltered pass until the end of the crawl. Returns false if the
    /// capacity is exhausted, so that the group has to be written at once.
    pub(super) fn defer_new(&mut self, id: &str) -> bool {
        let has_room = self.deferred_new.len() < CAPACITY;
        if has_room {
            self.deferred_new.push(id);
        }
        has_room
    }

    fn add(&mut self, history: &LookupHistory, id: &str, uncertainty: Uncertainty) {
        if !history.is_due(id) {
            self.backed_off.insert(id.to_owned());
        } else if self.groups.len() < CAPACITY {
            self.groups.insert(id.to_owned(), uncertainty);
        }
    }

    /// Drops the groups whose stored type no list contradicts. A stored type is contradicted if a
    /// pass of another type listed the group, or if the pass of the stored type is exact or moving
    /// and did not list it.
    pub(super) fn drop_uncontradicted(&mut self, absences: &Absences) {
        self.groups.retain(|_, group| {
            group.stored == TypeId::UNKNOWN
                || group.listed_as.is_some()
                || absences.can_contradict(group.stored)
        });
    }

    /// Returns the groups whose types are to be looked up. The type of a target selects its batch:
    /// it is the listed type, or the stored one if no typed pass listed the group.
    pub(super) fn targets<'a>(
        &'a self,
        history: &'a LookupHistory,
    ) -> impl Iterator<Item = LookupTarget<'a>> {
        let known =
            self.groups.iter().map(|(id, group)| (id.as_str(), group.listed_as.unwrap_or(group.stored)));
        let new = self.deferred_new.iter().map(|id| (id, TypeId::UNKNOWN));
        known.chain(new).map(|(id, type_id)| LookupTarget { id, type_id, last_round: history.last_round(id) })
    }

    /// Returns whether the type of a group is uncertain in this crawl, even if it is not due to be
    /// looked up.
    pub(super) fn contains(&self, id: &str) -> bool {
        self.groups.contains_key(id) || self.backed_off.contains(id)
    }

    /// Returns the stored type of a group of uncertain type.
    pub(super) fn stored_type(&self, id: &str) -> Option<TypeId> {
        self.groups.get(id).map(|group| group.stored)
    }

    /// Returns the groups that exactly one typed pass listed, by the type of that pass. Leaves out
    /// groups for which `is_answered` returns true.
    pub(super) fn undisputed_listed_types(
        &self,
        is_answered: impl Fn(&str) -> bool,
    ) -> BTreeMap<TypeId, GroupIds> {
        let mut groups_by_type: BTreeMap<TypeId, GroupIds> = BTreeMap::new();
        for (id, group) in &self.groups {
            if let Some(listed_as) = group.listed_as.filter(|_| !group.is_disputed && !is_answered(id)) {
                groups_by_type.entry(listed_as).or_default().push(id);
            }
        }
        groups_by_type
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::confirmation::LookupRecord;
    use crate::reconcile::TotalsEvidence;
    use crate::verdict::judge;
    use crate::verdict::tests::{evidence, pass};

    const PUBLIC: TypeId = TypeId(1);
    const PRIVATE: TypeId = TypeId(2);

    fn looked_up(types: &UncertainTypes, history: &LookupHistory) -> Vec<(String, TypeId)> {
        let mut targets: Vec<_> =
            types.targets(history).map(|target| (target.id.to_owned(), target.type_id)).collect();
        targets.sort();
        targets
    }

    #[test]
    fn a_listed_type_is_looked_up_and_used_without_an_answer_only_if_one_list_has_the_group() {
        let (history, mut types) = (LookupHistory::default(), UncertainTypes::default());
        types.add_listed_as_other_type(&history, "a", PUBLIC, PRIVATE);
        types.add_listed_as_other_type(&history, "b", PUBLIC, PRIVATE);
        types.dispute("b");
        types.dispute("of certain type");
        let expected = [("a".to_owned(), PRIVATE), ("b".to_owned(), PRIVATE)];
        assert_eq!(looked_up(&types, &history), expected);
        let listed_types = types.undisputed_listed_types(|_| false);
        assert_eq!(listed_types, BTreeMap::from([(PRIVATE, ["a"].into_iter().collect())]));
        assert!(types.undisputed_listed_types(|id| id == "a").is_empty());
    }

    #[test]
    fn an_absence_contradicts_the_stored_type_only_if_its_pass_is_exact_or_moving() {
        let (history, mut types) = (LookupHistory::default(), UncertainTypes::default());
        types.add_unfiltered(&history, "of a judged type", PUBLIC);
        types.add_unfiltered(&history, "of a short type", PRIVATE);
        types.add_unfiltered(&history, "of no type", TypeId::UNKNOWN);
        let judgement = judge(evidence(vec![pass(1, &[5, 6], 6), pass(2, &[9], 1)]));
        types.drop_uncontradicted(&Absences::of(&judgement, TotalsEvidence::Inconclusive));
        let expected = [("of a judged type".to_owned(), PUBLIC), ("of no type".to_owned(), TypeId::UNKNOWN)];
        assert_eq!(looked_up(&types, &history), expected);
    }

    #[test]
    fn a_backed_off_group_is_uncertain_and_not_looked_up() {
        let mut history = LookupHistory { round: 3, ..LookupHistory::default() };
        history.records.insert("a".to_owned(), LookupRecord { due_round: 4, ..LookupRecord::default() });
        let mut types = UncertainTypes::default();
        types.add_unfiltered(&history, "a", TypeId::UNKNOWN);
        assert!(types.contains("a") && looked_up(&types, &history).is_empty());
        assert!(!types.contains("b"));
    }

    #[test]
    fn new_groups_of_the_unfiltered_pass_are_deferred_up_to_a_capacity() {
        let mut types = UncertainTypes::default();
        assert!((0..CAPACITY).all(|n| types.defer_new(&n.to_string())));
        assert!(!types.defer_new("one too many"));
        assert_eq!(types.deferred_new.len(), CAPACITY);
    }
}
