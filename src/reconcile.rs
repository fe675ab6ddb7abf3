//! What a crawl may conclude about groups that it did not list. Pure.
//!
//! | the group's type | decided by |
//! |---|---|
//! | has a pass in this crawl | that pass |
//! | has none, or the API rejected it | the unfiltered pass, if one was made |
//! | unknown | the unfiltered pass; without one, typed passes that account for the whole app, as if they had moved |
//!
//! Where nothing decides, nothing changes.

use std::collections::{BTreeMap, BTreeSet};

use crate::model::{CrawlStatus, Deletions, GroupIds, TypeId, Verdict};
use crate::roll::Mark;
use crate::verdict::{Judgement, Proof};

/// What becomes of a live group that no pass listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// Proved gone.
    Vanished,
    /// Not listed once; gone if the next list that proves something misses it too.
    Missing,
    /// Nothing is proved, or only a person may decide.
    Unchanged,
}

/// What a judged crawl says about absence, by type.
#[derive(Debug)]
pub struct Absences {
    own: BTreeMap<TypeId, Option<Proof>>,
    unfiltered: Option<Proof>,
    unknown: Option<Proof>,
}

impl Absences {
    #[must_use]
    pub fn of(judgement: &Judgement, typed_account_for_app: bool) -> Self {
        let mut own = BTreeMap::new();
        let mut unfiltered = None;
        for judged in &judgement.passes {
            if judged.pass.type_id == TypeId::UNKNOWN {
                unfiltered = judged.proof;
            } else {
                own.insert(judged.pass.type_id, judged.proof);
            }
        }
        let all_concluded = !own.is_empty() && own.values().all(Option::is_some);
        let accounted = own.values().flatten().next().filter(|_| typed_account_for_app && all_concluded);
        let unknown = unfiltered.or(accounted.map(|proof| proof.weakened()));
        Self { own, unfiltered, unknown }
    }

    /// The proof that decides for a type, if any.
    #[must_use]
    pub fn proof(&self, type_id: TypeId) -> Option<Proof> {
        if type_id == TypeId::UNKNOWN {
            return self.unknown;
        }
        self.own.get(&type_id).copied().unwrap_or(self.unfiltered)
    }

    /// Starts a settlement. `unlisted` counts the live groups that no pass listed, by type.
    #[must_use]
    pub fn settlement(&self, roll_types: &[TypeId], unlisted: &BTreeMap<TypeId, u64>) -> Settlement {
        let ended = self.own.keys().copied().chain(roll_types.iter().copied());
        let types: BTreeSet<TypeId> = ended
            .filter(|type_id| {
                // A pass that reached its end and left no known group unlisted has seen them all, whatever its count.
                let listed_all = self.own.contains_key(type_id) && !unlisted.contains_key(type_id);
                self.proof(*type_id).is_some() || listed_all
            })
            .collect();
        Settlement { concluded: types.into_iter().collect(), ..Settlement::default() }
    }

    /// The fate of an unlisted group of a type.
    #[must_use]
    pub fn fate(&self, type_id: TypeId, mark: Mark) -> Fate {
        match self.proof(type_id) {
            _ if mark.held => Fate::Unchanged,
            None => Fate::Unchanged,
            Some(proof) if proof.by_one_absence() || mark.missing => Fate::Vanished,
            Some(_) => Fate::Missing,
        }
    }
}

/// Groups of a type, and whether they were missing before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Absent {
    pub type_id: TypeId,
    pub were_missing: bool,
}

/// What was learned about a group that is to be deleted, by asking about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Learned {
    Gone,
    /// It is there: some list skipped it.
    Stands,
    Nothing,
}

/// What a crawl concludes about the groups it did not list, by name. Comes from [`Absences`], and so from judged passes,
/// or is empty: there is no other way to have something deleted.
#[derive(Debug, Default)]
pub struct Settlement {
    vanished: BTreeMap<Absent, GroupIds>,
    missing: BTreeMap<TypeId, GroupIds>,
    withheld: BTreeMap<Absent, GroupIds>,
    concluded: Vec<TypeId>,
    spared: u64,
}

impl Settlement {
    /// Nothing is concluded: for a crawl that did not reach its end.
    #[must_use]
    pub fn nothing() -> Self {
        Self::default()
    }

    /// Takes an unlisted live group into account.
    pub fn consider(&mut self, absences: &Absences, type_id: TypeId, id: &str, mark: Mark) {
        match absences.fate(type_id, mark) {
            Fate::Vanished => {
                let absent = Absent { type_id, were_missing: mark.missing };
                self.vanished.entry(absent).or_default().push(id);
            }
            // Missing since an earlier crawl already: its deletion waits, its mark stands.
            Fate::Missing => self.missing.entry(type_id).or_default().push(id),
            Fate::Unchanged => {}
        }
    }

    /// Keeps the vanished groups of these types for a person to decide on.
    pub fn withhold(&mut self, types: &[TypeId]) {
        let waiting = self.vanished.extract_if(.., |absent, _| types.contains(&absent.type_id));
        self.withheld.extend(waiting);
    }

    /// Keeps every vanished group for a person to decide on.
    pub fn withhold_all(&mut self) {
        self.withheld.append(&mut self.vanished);
    }

    /// Takes groups out of the vanished ones by what was learned about each, in their order: one that stands is no longer
    /// among them, and one of which nothing was learned is missing. Nothing is ever added to them.
    pub fn doubt(&mut self, learned: &[Learned]) {
        let mut learned = learned.iter().copied().chain(std::iter::repeat(Learned::Nothing));
        for (absent, ids) in std::mem::take(&mut self.vanished) {
            let mut gone = GroupIds::new();
            for (id, learned) in ids.iter().zip(&mut learned) {
                match learned {
                    Learned::Gone => gone.push(id),
                    Learned::Stands => self.spared += 1,
                    // What was missing before is so still.
                    Learned::Nothing if absent.were_missing => {}
                    Learned::Nothing => self.missing.entry(absent.type_id).or_default().push(id),
                }
            }
            if !gone.is_empty() {
                self.vanished.insert(absent, gone);
            }
        }
    }

    /// Groups that would be deleted, but stay live, missing and held.
    pub fn withheld(&self) -> impl Iterator<Item = (Absent, &GroupIds)> {
        self.withheld.iter().map(|(absent, ids)| (*absent, ids))
    }

    /// Groups to be marked deleted.
    pub fn vanished(&self) -> impl Iterator<Item = (Absent, &GroupIds)> {
        self.vanished.iter().map(|(absent, ids)| (*absent, ids))
    }

    /// How many groups it marks, in whatever way.
    #[must_use]
    pub fn marks(&self) -> u64 {
        let absent = self.vanished.values().chain(self.withheld.values());
        absent.chain(self.missing.values()).map(|ids| ids.len() as u64).sum()
    }

    /// How many groups were found standing when they were asked about.
    #[must_use]
    pub fn spared(&self) -> u64 {
        self.spared
    }

    /// Groups to be marked missing.
    pub fn missing(&self) -> impl Iterator<Item = (TypeId, &GroupIds)> {
        self.missing.iter().map(|(type_id, ids)| (*type_id, ids))
    }

    /// What becomes of the deletions of a crawl that ends like this; only a complete one says.
    #[must_use]
    pub fn deletions(&self, status: CrawlStatus) -> Option<Deletions> {
        (status == CrawlStatus::Complete).then_some({
            if !self.withheld.is_empty() {
                Deletions::Withheld
            } else if !self.vanished.is_empty() {
                Deletions::Applied
            } else {
                Deletions::None
            }
        })
    }

    /// Types of which every live group has been accounted for: listed, or marked by this settlement.
    #[must_use]
    pub fn concluded(&self) -> &[TypeId] {
        &self.concluded
    }
}

/// How many groups the app has beyond those of the configured types.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leftover {
    /// The totals of the app were not told.
    Unknown,
    /// The typed passes account for every group.
    None,
    /// The app has at least this many more.
    Groups(u64),
}

impl Leftover {
    /// Compares the app's smaller total with what the typed passes claimed at most, one count a pass.
    #[must_use]
    pub fn of(
        total_at_start: Option<u64>,
        total_at_end: Option<u64>,
        typed: impl Iterator<Item = u64>,
    ) -> Self {
        let (Some(start), Some(end)) = (total_at_start, total_at_end) else { return Self::Unknown };
        match start.min(end).saturating_sub(typed.sum()) {
            0 => Self::None,
            more => Self::Groups(more),
        }
    }

    /// Whether an unfiltered pass is worth its requests: not for a difference that one crawl saw in passing.
    #[must_use]
    pub fn calls_for_unfiltered_pass(self, first_crawl: bool, also_last_time: bool) -> bool {
        matches!(self, Self::Groups(_)) && (first_crawl || also_last_time)
    }
}

/// Whether typed passes that leave no leftover by their counts do so by the ids they listed too. A server that states
/// the app's total for every type claims each group several times over; its claims account for nothing.
#[must_use]
pub fn typed_account_for_app(
    leftover: Leftover,
    judgement: &Judgement,
    distinct: u64,
    total: Option<u64>,
) -> bool {
    let passes = judgement.passes.iter().map(|judged| &judged.pass);
    let moved: u64 = passes
        .map(|pass| pass.first_listed + pass.counts.highest.unwrap_or(0) - pass.counts.lowest.unwrap_or(0))
        .sum();
    leftover == Leftover::None
        && judgement.passes.iter().all(|judged| judged.verdict != Verdict::Short)
        && total.is_some_and(|total| distinct + moved >= total)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::judge;
    use crate::verdict::tests::{evidence, pass};

    const PLAIN: Mark = Mark { missing: false, held: false };
    const MISSING: Mark = Mark { missing: true, held: false };
    const HELD: Mark = Mark { missing: true, held: true };
    const PUBLIC: TypeId = TypeId(1);
    const PRIVATE: TypeId = TypeId(2);

    #[test]
    fn an_exact_pass_proves_its_own_type_gone_at_once_and_no_other() {
        let absences = Absences::of(&judge(evidence(vec![pass(1, &[5], 5)])), false);
        assert_eq!(absences.fate(PUBLIC, PLAIN), Fate::Vanished);
        assert_eq!(absences.fate(PRIVATE, PLAIN), Fate::Unchanged);
        assert_eq!(absences.fate(TypeId::UNKNOWN, PLAIN), Fate::Unchanged);
    }

    #[test]
    fn a_moving_pass_makes_a_group_missing_first_and_vanished_the_second_time() {
        let absences = Absences::of(&judge(evidence(vec![pass(1, &[5, 6], 6)])), false);
        assert_eq!(absences.fate(PUBLIC, PLAIN), Fate::Missing);
        assert_eq!(absences.fate(PUBLIC, MISSING), Fate::Vanished);
    }

    #[test]
    fn a_short_pass_changes_nothing_even_for_what_was_missing_before() {
        let absences = Absences::of(&judge(evidence(vec![pass(1, &[50], 5), pass(0, &[5], 5)])), false);
        assert_eq!(absences.fate(PUBLIC, PLAIN), Fate::Unchanged);
        assert_eq!(absences.fate(PUBLIC, MISSING), Fate::Unchanged);
    }

    #[test]
    fn a_held_group_is_left_to_a_person() {
        let absences = Absences::of(&judge(evidence(vec![pass(1, &[5], 5)])), false);
        assert_eq!(absences.fate(PUBLIC, HELD), Fate::Unchanged);
    }

    #[test]
    fn the_unfiltered_pass_decides_for_types_without_a_pass_and_for_the_unknown() {
        let absences = Absences::of(&judge(evidence(vec![pass(1, &[5, 6], 6), pass(0, &[9], 9)])), false);
        assert_eq!(absences.fate(PRIVATE, PLAIN), Fate::Vanished);
        assert_eq!(absences.fate(TypeId::UNKNOWN, PLAIN), Fate::Vanished);
        assert_eq!(absences.fate(PUBLIC, PLAIN), Fate::Missing);
    }

    #[test]
    fn typed_passes_that_account_for_the_app_prove_unknown_groups_gone_the_second_time() {
        let judgement = || judge(evidence(vec![pass(1, &[5], 5)]));
        let absences = Absences::of(&judgement(), true);
        assert_eq!(absences.fate(TypeId::UNKNOWN, PLAIN), Fate::Missing);
        assert_eq!(absences.fate(TypeId::UNKNOWN, MISSING), Fate::Vanished);
        assert_eq!(absences.fate(PRIVATE, PLAIN), Fate::Unchanged);
    }

    #[test]
    fn asking_takes_groups_out_of_the_vanished_ones_and_adds_none() {
        use Learned::{Gone, Nothing, Stands};
        let absences = Absences::of(&judge(evidence(vec![pass(1, &[5], 5)])), false);
        let mut settlement = absences.settlement(&[PUBLIC], &BTreeMap::from([(PUBLIC, 6)]));
        for (id, mark) in
            [("a", PLAIN), ("b", PLAIN), ("c", PLAIN), ("d", MISSING), ("e", MISSING), ("f", MISSING)]
        {
            settlement.consider(&absences, PUBLIC, id, mark);
        }
        let asked: Vec<&str> = settlement.vanished().flat_map(|(_, ids)| ids.iter()).collect();
        assert_eq!(asked, ["a", "b", "c", "d", "e", "f"]);
        settlement.doubt(&[Gone, Stands, Nothing, Gone, Stands]);
        let vanished: Vec<_> = settlement
            .vanished()
            .flat_map(|(of, ids)| ids.iter().map(move |id| (id, of.were_missing)))
            .collect();
        assert_eq!(vanished, [("a", false), ("d", true)]);
        let missing: Vec<&str> = settlement.missing().flat_map(|(_, ids)| ids.iter()).collect();
        assert_eq!((missing, settlement.spared()), (vec!["c"], 2));
        settlement.doubt(&[Stands, Stands]);
        assert!(settlement.vanished().next().is_none());
        assert_eq!(settlement.deletions(CrawlStatus::Complete), Some(Deletions::None));
    }

    #[test]
    fn a_leftover_is_what_the_smaller_total_has_beyond_the_typed_counts() {
        let typed = || [40, 50].into_iter();
        assert_eq!(Leftover::of(Some(100), Some(95), typed()), Leftover::Groups(5));
        assert_eq!(Leftover::of(Some(100), Some(90), typed()), Leftover::None);
        assert_eq!(Leftover::of(Some(100), None, typed()), Leftover::Unknown);
    }

    #[test]
    fn an_unfiltered_pass_follows_in_the_first_crawl_or_when_two_crawls_running_see_more() {
        assert!(Leftover::Groups(1).calls_for_unfiltered_pass(true, false));
        assert!(Leftover::Groups(1).calls_for_unfiltered_pass(false, true));
        assert!(!Leftover::Groups(1).calls_for_unfiltered_pass(false, false));
        assert!(!Leftover::None.calls_for_unfiltered_pass(true, true));
    }

    #[test]
    fn counts_that_claim_each_group_several_times_account_for_nothing() {
        let judgement = judge(evidence(vec![pass(1, &[10], 10), pass(2, &[10], 10)]));
        assert!(typed_account_for_app(Leftover::None, &judgement, 20, Some(20)));
        assert!(!typed_account_for_app(Leftover::None, &judgement, 10, Some(20)));
        assert!(!typed_account_for_app(Leftover::Groups(1), &judgement, 20, Some(20)));
    }
}
