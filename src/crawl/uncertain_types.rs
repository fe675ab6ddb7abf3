//! Groups whose type is uncertain: no list tells it, or a list contradicts the type that the database has.
//!
//! A list is weak evidence of a type, because the API may ignore its type filter. So a list by itself changes no known type.
//! The groups are collected here while pages come in, and resolved at the crawl's end by what `get_group_info` answers.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::confirmation::{History, Question};
use crate::model::{GroupIds, TypeId};
use crate::reconcile::Absences;

/// Most groups of each kind that are kept. One crawl cannot ask about more; the next one finds the others again.
const CAPACITY: usize = 50_000;

/// Why the type of a listed group is uncertain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Uncertainty {
    /// The type that the database has; [`TypeId::UNKNOWN`] if it has none.
    known: TypeId,
    /// The other type under which a typed pass listed the group.
    claimed: Option<TypeId>,
    /// A second typed pass listed the group too.
    disputed: bool,
}

/// The groups of one crawl whose types are uncertain.
#[derive(Debug, Default)]
pub(super) struct UncertainTypes {
    groups: HashMap<String, Uncertainty>,
    /// Groups whose type is uncertain but that are not due to be asked about.
    backed_off: HashSet<String>,
    /// New groups that only the unfiltered pass listed. They are written at the crawl's end, with the type answered.
    pub(super) deferred_new: GroupIds,
}

impl UncertainTypes {
    /// Adds a group that a typed pass listed although the database has another type.
    pub(super) fn add_claim(&mut self, history: &History, id: &str, known: TypeId, claimed: TypeId) {
        self.add(history, id, Uncertainty { known, claimed: Some(claimed), disputed: false });
    }

    /// Marks a group, if it is uncertain, as listed by a second typed pass.
    pub(super) fn dispute(&mut self, id: &str) {
        if let Some(group) = self.groups.get_mut(id) {
            group.disputed = true;
        }
    }

    /// Adds a known group that the unfiltered pass listed and no typed pass.
    pub(super) fn add_unfiltered(&mut self, history: &History, id: &str, known: TypeId) {
        self.add(history, id, Uncertainty { known, claimed: None, disputed: false });
    }

    /// Keeps a new group of the unfiltered pass for the crawl's end. Returns false at capacity: then the group has to be
    /// written at once.
    pub(super) fn defer_new(&mut self, id: &str) -> bool {
        let has_room = self.deferred_new.len() < CAPACITY;
        if has_room {
            self.deferred_new.push(id);
        }
        has_room
    }

    fn add(&mut self, history: &History, id: &str, uncertainty: Uncertainty) {
        if !history.is_due(id) {
            self.backed_off.insert(id.to_owned());
        } else if self.groups.len() < CAPACITY {
            self.groups.insert(id.to_owned(), uncertainty);
        }
    }

    /// Drops groups of a known type that no judged list contradicts. Without a claim, only an exact or moving pass of that
    /// type contradicts it.
    pub(super) fn retain_contradicted(&mut self, absences: &Absences) {
        self.groups.retain(|_, group| {
            group.known == TypeId::UNKNOWN || group.claimed.is_some() || absences.can_contradict(group.known)
        });
    }

    /// The questions about types.
    pub(super) fn questions<'a>(&'a self, history: &'a History) -> impl Iterator<Item = Question<'a>> {
        let known = self.groups.iter().map(|(id, group)| (id.as_str(), group.claimed.unwrap_or(group.known)));
        let new = self.deferred_new.iter().map(|id| (id, TypeId::UNKNOWN));
        known.chain(new).map(|(id, type_id)| Question { id, type_id, last_round: history.last_round(id) })
    }

    /// Whether the type of a group is uncertain in this crawl, asked about or not.
    pub(super) fn contains(&self, id: &str) -> bool {
        self.groups.contains_key(id) || self.backed_off.contains(id)
    }

    /// The type that the database has of a group whose type is uncertain.
    pub(super) fn known_type(&self, id: &str) -> Option<TypeId> {
        self.groups.get(id).map(|group| group.known)
    }

    /// The groups that exactly one typed pass listed under another type than the known one, by that type. Groups that
    /// `is_answered` returns true for are left out.
    pub(super) fn undisputed_claims(&self, is_answered: impl Fn(&str) -> bool) -> BTreeMap<TypeId, GroupIds> {
        let mut claims: BTreeMap<TypeId, GroupIds> = BTreeMap::new();
        for (id, group) in &self.groups {
            if let Some(claimed) = group.claimed.filter(|_| !group.disputed && !is_answered(id)) {
                claims.entry(claimed).or_default().push(id);
            }
        }
        claims
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::confirmation::Asked;
    use crate::reconcile::WithoutPass;
    use crate::verdict::judge;
    use crate::verdict::tests::{evidence, pass};

    const PUBLIC: TypeId = TypeId(1);
    const PRIVATE: TypeId = TypeId(2);

    fn asked(types: &UncertainTypes, history: &History) -> Vec<(String, TypeId)> {
        let mut asked: Vec<_> = types.questions(history).map(|of| (of.id.to_owned(), of.type_id)).collect();
        asked.sort();
        asked
    }

    #[test]
    fn a_claim_is_asked_about_and_counts_without_an_answer_only_if_one_list_makes_it() {
        let (history, mut types) = (History::default(), UncertainTypes::default());
        types.add_claim(&history, "a", PUBLIC, PRIVATE);
        types.add_claim(&history, "b", PUBLIC, PRIVATE);
        types.dispute("b");
        types.dispute("never claimed");
        let expected = [("a".to_owned(), PRIVATE), ("b".to_owned(), PRIVATE)];
        assert_eq!(asked(&types, &history), expected);
        let claims = types.undisputed_claims(|_| false);
        assert_eq!(claims, BTreeMap::from([(PRIVATE, ["a"].into_iter().collect())]));
        assert!(types.undisputed_claims(|id| id == "a").is_empty());
    }

    #[test]
    fn without_a_claim_only_an_exact_or_moving_pass_contradicts_a_type() {
        let (history, mut types) = (History::default(), UncertainTypes::default());
        types.add_unfiltered(&history, "of a judged type", PUBLIC);
        types.add_unfiltered(&history, "of a short type", PRIVATE);
        types.add_unfiltered(&history, "of no type", TypeId::UNKNOWN);
        let judgement = judge(evidence(vec![pass(1, &[5, 6], 6), pass(2, &[9], 1)]));
        types.retain_contradicted(&Absences::of(&judgement, WithoutPass::Unknown));
        let expected = [("of a judged type".to_owned(), PUBLIC), ("of no type".to_owned(), TypeId::UNKNOWN)];
        assert_eq!(asked(&types, &history), expected);
    }

    #[test]
    fn a_backed_off_group_is_uncertain_and_not_asked_about() {
        let mut history = History { round: 3, ..History::default() };
        history.asked.insert("a".to_owned(), Asked { again_in: 4, ..Asked::default() });
        let mut types = UncertainTypes::default();
        types.add_unfiltered(&history, "a", TypeId::UNKNOWN);
        assert!(types.contains("a") && asked(&types, &history).is_empty());
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
