//! Types that are in doubt: groups whose type no list tells, or whose lists contradict the type that the database has.
//!
//! A list is a weak witness of a type: the API may ignore its filter. So a list changes no known type by itself. What the
//! lists contradict is collected here while pages come in, and settled at the crawl's end by what `get_group_info` says.

use std::collections::{BTreeMap, HashMap, HashSet};

use crate::confirmation::{History, Question};
use crate::model::{GroupIds, TypeId};
use crate::reconcile::Absences;

/// Most groups of each kind that are kept for the crawl's end. More than that cannot be asked about by one crawl; the next
/// one meets the others again.
const MOST: usize = 50_000;

/// Why the type of a listed group is in doubt.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Doubt {
    /// The type that the database has; [`TypeId::UNKNOWN`] if none was told yet.
    known: TypeId,
    /// The other type under which a typed pass listed it.
    claimed: Option<TypeId>,
    /// Another typed pass listed it too.
    disputed: bool,
}

/// The doubts of one crawl.
#[derive(Debug, Default)]
pub(super) struct TypeDoubts {
    doubts: HashMap<String, Doubt>,
    /// Groups in doubt that are not due to be asked about again.
    backed_off: HashSet<String>,
    /// New groups that only the unfiltered pass listed. They are written at the crawl's end, with the type told.
    pub(super) unfiltered_new: GroupIds,
}

impl TypeDoubts {
    /// A typed pass listed a group of another known type.
    pub(super) fn claim(&mut self, history: &History, id: &str, known: TypeId, claimed: TypeId) {
        self.add(history, id, Doubt { known, claimed: Some(claimed), disputed: false });
    }

    /// A typed pass listed a group that an earlier typed pass had listed.
    pub(super) fn dispute(&mut self, id: &str) {
        if let Some(doubt) = self.doubts.get_mut(id) {
            doubt.disputed = true;
        }
    }

    /// The unfiltered pass listed a group of this known type that no typed pass had.
    pub(super) fn listed_without_filter(&mut self, history: &History, id: &str, known: TypeId) {
        self.add(history, id, Doubt { known, claimed: None, disputed: false });
    }

    /// Keeps a new group of the unfiltered pass for the crawl's end. Returns false if there are too many: then it is
    /// written at once.
    pub(super) fn keep_new(&mut self, id: &str) -> bool {
        let room = self.unfiltered_new.len() < MOST;
        if room {
            self.unfiltered_new.push(id);
        }
        room
    }

    fn add(&mut self, history: &History, id: &str, doubt: Doubt) {
        if !history.is_due(id) {
            self.backed_off.insert(id.to_owned());
        } else if self.doubts.len() < MOST {
            self.doubts.insert(id.to_owned(), doubt);
        }
    }

    /// Drops the doubts that the judged lists do not bear out: without a claim, only an exact or moving pass contradicts the
    /// type of a group.
    pub(super) fn keep_what_lists_contradict(&mut self, absences: &Absences) {
        self.doubts.retain(|_, doubt| {
            doubt.known == TypeId::UNKNOWN || doubt.claimed.is_some() || absences.can_contradict(doubt.known)
        });
    }

    /// The questions to be asked about types.
    pub(super) fn questions<'a>(&'a self, history: &'a History) -> impl Iterator<Item = Question<'a>> {
        let known = self.doubts.iter().map(|(id, doubt)| (id.as_str(), doubt.claimed.unwrap_or(doubt.known)));
        let new = self.unfiltered_new.iter().map(|id| (id, TypeId::UNKNOWN));
        known.chain(new).map(|(id, type_id)| Question { id, type_id, last_round: history.last_round(id) })
    }

    /// Whether a group is in doubt in this crawl, asked about or not.
    pub(super) fn contains(&self, id: &str) -> bool {
        self.doubts.contains_key(id) || self.backed_off.contains(id)
    }

    /// The type that the database has of a group in doubt.
    pub(super) fn known_type(&self, id: &str) -> Option<TypeId> {
        self.doubts.get(id).map(|doubt| doubt.known)
    }

    /// The groups that typed passes listed under another type than the known one, by that type: without those that two
    /// passes listed, and those about which `answered` knows better.
    pub(super) fn undisputed_claims(&self, answered: impl Fn(&str) -> bool) -> BTreeMap<TypeId, GroupIds> {
        let mut claims: BTreeMap<TypeId, GroupIds> = BTreeMap::new();
        for (id, doubt) in &self.doubts {
            if let Some(claimed) = doubt.claimed.filter(|_| !doubt.disputed && !answered(id)) {
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

    fn asked(doubts: &TypeDoubts, history: &History) -> Vec<(String, TypeId)> {
        let mut asked: Vec<_> = doubts.questions(history).map(|of| (of.id.to_owned(), of.type_id)).collect();
        asked.sort();
        asked
    }

    #[test]
    fn a_claim_is_asked_about_and_counts_alone_only_if_one_list_makes_it() {
        let (history, mut doubts) = (History::default(), TypeDoubts::default());
        doubts.claim(&history, "a", PUBLIC, PRIVATE);
        doubts.claim(&history, "b", PUBLIC, PRIVATE);
        doubts.dispute("b");
        doubts.dispute("never claimed");
        let expected = [("a".to_owned(), PRIVATE), ("b".to_owned(), PRIVATE)];
        assert_eq!(asked(&doubts, &history), expected);
        let claims = doubts.undisputed_claims(|_| false);
        assert_eq!(claims, BTreeMap::from([(PRIVATE, ["a"].into_iter().collect())]));
        assert!(doubts.undisputed_claims(|id| id == "a").is_empty());
    }

    #[test]
    fn only_a_pass_that_proves_something_contradicts_a_type_without_a_claim() {
        let (history, mut doubts) = (History::default(), TypeDoubts::default());
        doubts.listed_without_filter(&history, "of a judged type", PUBLIC);
        doubts.listed_without_filter(&history, "of a short type", PRIVATE);
        doubts.listed_without_filter(&history, "of no type", TypeId::UNKNOWN);
        let judgement = judge(evidence(vec![pass(1, &[5, 6], 6), pass(2, &[9], 1)]));
        doubts.keep_what_lists_contradict(&Absences::of(&judgement, WithoutPass::Unknown));
        let expected = [("of a judged type".to_owned(), PUBLIC), ("of no type".to_owned(), TypeId::UNKNOWN)];
        assert_eq!(asked(&doubts, &history), expected);
    }

    #[test]
    fn a_group_that_is_backed_off_is_in_doubt_and_not_asked_about() {
        let mut history = History { round: 3, ..History::default() };
        history.asked.insert("a".to_owned(), Asked { again_in: 4, ..Asked::default() });
        let mut doubts = TypeDoubts::default();
        doubts.listed_without_filter(&history, "a", TypeId::UNKNOWN);
        assert!(doubts.contains("a") && asked(&doubts, &history).is_empty());
        assert!(!doubts.contains("b"));
    }

    #[test]
    fn new_groups_of_the_unfiltered_pass_are_kept_up_to_a_bound() {
        let mut doubts = TypeDoubts::default();
        assert!((0..MOST).all(|n| doubts.keep_new(&n.to_string())));
        assert!(!doubts.keep_new("one too many"));
        assert_eq!(doubts.unfiltered_new.len(), MOST);
    }
}
