//! What a crawl concludes about live groups that none of its lists has. Pure.
//!
//! First the lists *nominate*: [`Absences`] says which unlisted groups are candidates.
//!
//! | the group's type | nominated by |
//! |---|---|
//! | has a pass in this crawl | that pass, if it is exact or moving |
//! | has none, or the API rejected it | the unfiltered pass, if one was made and is exact or moving |
//! | the same, without an unfiltered pass | the app's totals, if they count fewer groups than would stand |
//!
//! Then each candidate is asked about, and [`Candidates::settle`] turns what was learned into a [`Settlement`]. With
//! `deletion.confirm = false` nothing is asked, and the lists alone decide.

use std::collections::BTreeMap;

use crate::confirmation::Gone;
use crate::model::{CrawlStatus, Deletions, GroupIds, TypeId, Verdict};
use crate::roll::{Mark, Unlisted};
use crate::verdict::{Judgement, Proof};

/// Most groups of types without a list that are asked about one by one. If there are more, an unfiltered pass costs less.
pub const MOST_WITHOUT_LIST: u64 = 1_000;

/// How the groups of types without a pass are judged if no unfiltered pass was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WithoutPass {
    /// They stay as they are.
    Unknown,
    /// More groups would stand than the app's totals count, so some of them are gone: each is a candidate.
    TotalsExceeded,
    /// The same, but there are so many that the next crawl makes an unfiltered pass instead.
    UnfilteredPassNeeded,
}

impl WithoutPass {
    /// Compares what the crawl listed and `unlisted` groups of types without a pass with the smaller of the app's totals.
    #[must_use]
    pub fn by_totals(listed: u64, unlisted: u64, smaller_total: Option<u64>) -> Self {
        match smaller_total {
            Some(total) if unlisted > 0 && listed + unlisted > total => {
                if unlisted > MOST_WITHOUT_LIST {
                    Self::UnfilteredPassNeeded
                } else {
                    Self::TotalsExceeded
                }
            }
            _ => Self::Unknown,
        }
    }
}

/// Why a group is a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Nomination {
    /// A list that should have it lacks it.
    List(Proof),
    /// No list could have it, and the totals say that some such group is gone.
    Totals,
}

/// What the judged lists of a crawl say about absence.
#[derive(Debug)]
pub struct Absences {
    /// By type with a pass of its own; `None` if that pass proves nothing.
    own: BTreeMap<TypeId, Option<Proof>>,
    others: Option<Nomination>,
}

impl Absences {
    /// `without_pass` counts only if no unfiltered pass was made.
    #[must_use]
    pub fn of(judgement: &Judgement, without_pass: WithoutPass) -> Self {
        let mut own = BTreeMap::new();
        let mut unfiltered = None;
        for judged in &judgement.passes {
            if judged.pass.type_id == TypeId::UNKNOWN {
                unfiltered = Some(judged.proof.map(Nomination::List));
            } else {
                own.insert(judged.pass.type_id, judged.proof);
            }
        }
        let by_totals = (without_pass == WithoutPass::TotalsExceeded).then_some(Nomination::Totals);
        Self { own, others: unfiltered.unwrap_or(by_totals) }
    }

    /// The same for `deletion.confirm = false`: without an unfiltered pass only lists that account for every group of the
    /// app, and that listed nothing unexpected, speak of types without a pass.
    #[must_use]
    pub fn of_lists_alone(judgement: &Judgement, accounted: Option<Proof>) -> Self {
        let absences = Self::of(judgement, WithoutPass::Unknown);
        Self { others: absences.others.or(accounted.map(Nomination::List)), ..absences }
    }

    /// Whether a type has a pass of its own in this crawl.
    #[must_use]
    pub fn has_own_pass(&self, type_id: TypeId) -> bool {
        self.own.contains_key(&type_id)
    }

    /// Whether an exact or moving pass of its own contradicts that a group is of this type.
    #[must_use]
    pub fn can_contradict(&self, type_id: TypeId) -> bool {
        self.own.get(&type_id).is_some_and(Option::is_some)
    }

    fn nomination(&self, type_id: TypeId) -> Option<Nomination> {
        match self.own.get(&type_id) {
            Some(proof) => proof.map(Nomination::List),
            None => self.others,
        }
    }

    /// Starts to collect candidates.
    #[must_use]
    pub fn candidates(&self) -> Candidates<'_> {
        Candidates { absences: self, sets: BTreeMap::new() }
    }

    /// Types of which every live group is accounted for: listed, or settled by this crawl.
    fn concluded(&self, types: &[TypeId], unlisted: &BTreeMap<TypeId, Unlisted>) -> Vec<TypeId> {
        let mut concluded: Vec<TypeId> = self.own.keys().chain(types).copied().collect();
        concluded.retain(|type_id| {
            // A pass that reached its end and left no known group unlisted has seen them all, whatever its count.
            let listed_all = self.has_own_pass(*type_id) && !unlisted.contains_key(type_id);
            self.nomination(*type_id).is_some() || listed_all
        });
        concluded.sort_unstable();
        concluded.dedup();
        concluded
    }
}

/// Groups of a type, and whether they were missing before.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Absent {
    pub type_id: TypeId,
    pub were_missing: bool,
}

/// What is known of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finding {
    /// It was not asked about: there was no time, or no permission.
    Unasked,
    /// It was asked about, and the answer did not say.
    Unlearned,
    /// The same for so many crawls that a person has to decide.
    Unconfirmable,
    /// It stands.
    Stands,
    /// An earlier crawl found it standing, and it is not due to be asked about again.
    StoodLately,
    Gone(Gone),
}

/// How candidates are decided on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Confirmation {
    /// `deletion.confirm = false`: by the lists.
    Off,
    /// By the answers.
    On,
    /// The API refuses to be asked: what the lists alone would delete is withheld.
    Refused,
}

/// Live groups that no list of this crawl has though one should, and what is known of each.
#[derive(Debug)]
pub struct Candidates<'a> {
    absences: &'a Absences,
    sets: BTreeMap<Absent, CandidateSet>,
}

#[derive(Debug, Default)]
struct CandidateSet {
    ids: GroupIds,
    findings: Vec<Finding>,
}

impl Candidates<'_> {
    /// Takes an unlisted live group in if it is a candidate. A held one is not: it waits for a person.
    pub fn consider(&mut self, type_id: TypeId, id: &str, mark: Mark) {
        if mark.held || self.absences.nomination(type_id).is_none() {
            return;
        }
        let set = self.sets.entry(Absent { type_id, were_missing: mark.missing }).or_default();
        set.ids.push(id);
        set.findings.push(Finding::Unasked);
    }

    /// All candidates, each with its type and whether it was missing before.
    pub fn iter(&self) -> impl Iterator<Item = (Absent, &str)> {
        self.sets.iter().flat_map(|(absent, set)| set.ids.iter().map(|id| (*absent, id)))
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.sets.values().map(|set| set.ids.len()).sum()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sets.is_empty()
    }

    /// Notes what was found out about candidates. What is not told stays [`Finding::Unasked`].
    pub fn note(&mut self, find: impl Fn(&str) -> Option<Finding>) {
        for set in self.sets.values_mut() {
            for (id, finding) in set.ids.iter().zip(&mut set.findings) {
                if let Some(found) = find(id) {
                    *finding = found;
                }
            }
        }
    }

    /// Concludes the crawl. `types` are those of which the database keeps state, `unlisted` the live groups that no list has.
    #[must_use]
    pub fn settle(
        self,
        confirmation: Confirmation,
        types: &[TypeId],
        unlisted: &BTreeMap<TypeId, Unlisted>,
    ) -> Settlement {
        let concluded = self.absences.concluded(types, unlisted);
        let mut settlement = Settlement { concluded, ..Settlement::default() };
        for (absent, set) in &self.sets {
            let nomination = self.absences.nomination(absent.type_id);
            for (id, finding) in set.ids.iter().zip(&set.findings) {
                settlement.count(*finding, confirmation);
                settlement.settle(*absent, id, fate(*finding, confirmation, nomination, absent.were_missing));
            }
        }
        settlement
    }
}

/// What becomes of a candidate.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Fate {
    Vanished,
    Missing,
    Withheld,
    Unchanged,
}

fn fate(
    finding: Finding,
    confirmation: Confirmation,
    nomination: Option<Nomination>,
    were_missing: bool,
) -> Fate {
    let by_lists = match nomination {
        Some(Nomination::List(proof)) if proof.by_one_absence() || were_missing => Fate::Vanished,
        Some(Nomination::List(_)) => Fate::Missing,
        Some(Nomination::Totals) | None => Fate::Unchanged,
    };
    match (finding, confirmation) {
        (Finding::Gone(_), _) => Fate::Vanished,
        (Finding::Stands | Finding::StoodLately, _) => Fate::Unchanged,
        (_, Confirmation::Off) => by_lists,
        (_, Confirmation::Refused) if by_lists == Fate::Vanished => Fate::Withheld,
        (_, Confirmation::Refused) => by_lists,
        (Finding::Unconfirmable, Confirmation::On) => Fate::Withheld,
        (Finding::Unlearned | Finding::Unasked, Confirmation::On) => Fate::Missing,
    }
}

/// How many candidates were asked about, and what came of it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct AskedCounts {
    /// Groups that were asked about.
    pub asked: u64,
    /// Groups that are gone.
    pub confirmed: u64,
    /// Groups that stand.
    pub spared: u64,
    /// Groups that were asked about without an answer that says.
    pub unlearned: u64,
    /// Groups that a later crawl has to ask about.
    pub unasked: u64,
}

/// Groups whose deletion is withheld.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct WithheldGroups {
    pub absent: Absent,
    /// The API said that they are gone.
    pub confirmed: bool,
}

/// What a crawl concludes about the groups it did not list, by name. Made by [`Candidates::settle`] from judged lists and
/// answers, or empty: there is no other way to have something deleted.
#[derive(Debug, Default)]
pub struct Settlement {
    vanished: BTreeMap<Absent, GroupIds>,
    missing: BTreeMap<Absent, GroupIds>,
    withheld: BTreeMap<WithheldGroups, GroupIds>,
    concluded: Vec<TypeId>,
    asked: AskedCounts,
    unconfirmable: u64,
}

impl Settlement {
    /// Nothing is concluded: for a crawl that did not reach its end.
    #[must_use]
    pub fn nothing() -> Self {
        Self::default()
    }

    fn count(&mut self, finding: Finding, confirmation: Confirmation) {
        let AskedCounts { asked, confirmed, spared, unlearned, unasked } = &mut self.asked;
        match finding {
            Finding::Gone(_) => *confirmed += 1,
            Finding::Stands => *spared += 1,
            Finding::Unlearned => *unlearned += 1,
            Finding::Unconfirmable => {
                *unlearned += 1;
                self.unconfirmable += 1;
            }
            Finding::Unasked if confirmation != Confirmation::Off => *unasked += 1,
            Finding::Unasked | Finding::StoodLately => {}
        }
        *asked = *confirmed + *spared + *unlearned;
    }

    fn settle(&mut self, absent: Absent, id: &str, fate: Fate) {
        match fate {
            Fate::Vanished => self.vanished.entry(absent).or_default().push(id),
            Fate::Missing => self.missing.entry(absent).or_default().push(id),
            Fate::Withheld => {
                self.withheld.entry(WithheldGroups { absent, confirmed: false }).or_default().push(id);
            }
            Fate::Unchanged => {}
        }
    }

    /// By how many groups each type may have shrunk: all candidates that were not found standing. Of lists alone, those that
    /// they would delete.
    #[must_use]
    pub fn losses(&self, confirmation: Confirmation) -> BTreeMap<TypeId, u64> {
        let mut losses: BTreeMap<TypeId, u64> = BTreeMap::new();
        let mut add = |absent: &Absent, ids: &GroupIds| {
            *losses.entry(absent.type_id).or_default() += ids.len() as u64;
        };
        self.vanished.iter().for_each(|(absent, ids)| add(absent, ids));
        self.withheld.iter().for_each(|(of, ids)| add(&of.absent, ids));
        if confirmation == Confirmation::On {
            self.missing.iter().for_each(|(absent, ids)| add(absent, ids));
        }
        losses
    }

    /// How many groups of each type would be deleted.
    #[must_use]
    pub fn deletions_by_type(&self) -> BTreeMap<TypeId, u64> {
        let mut deletions: BTreeMap<TypeId, u64> = BTreeMap::new();
        for (absent, ids) in &self.vanished {
            *deletions.entry(absent.type_id).or_default() += ids.len() as u64;
        }
        deletions
    }

    /// Keeps the deletions of these types for a person to decide on. With `all` every candidate of theirs is kept that was
    /// not found standing, so that later crawls need not ask about it before it counts.
    pub fn withhold(&mut self, types: &[TypeId], confirmation: Confirmation, all: bool) {
        let confirmed = confirmation == Confirmation::On || confirmation == Confirmation::Refused;
        let of_types = |absent: &Absent| types.contains(&absent.type_id);
        for (absent, mut ids) in self.vanished.extract_if(.., |absent, _| of_types(absent)) {
            self.withheld.entry(WithheldGroups { absent, confirmed }).or_default().append(&mut ids);
        }
        if all && confirmation == Confirmation::On {
            for (absent, mut ids) in self.missing.extract_if(.., |absent, _| of_types(absent)) {
                self.withheld
                    .entry(WithheldGroups { absent, confirmed: false })
                    .or_default()
                    .append(&mut ids);
            }
        }
    }

    /// Groups that would be deleted, but stay live, missing and held.
    pub fn withheld(&self) -> impl Iterator<Item = (WithheldGroups, &GroupIds)> {
        self.withheld.iter().map(|(of, ids)| (*of, ids))
    }

    /// How many deletions are withheld, and how many of them the API confirmed.
    #[must_use]
    pub fn withheld_counts(&self) -> (u64, u64) {
        let count = |confirmed: bool| {
            let of = self.withheld.iter().filter(|(of, _)| of.confirmed || !confirmed);
            of.map(|(_, ids)| ids.len() as u64).sum()
        };
        (count(false), count(true))
    }

    /// Groups to be marked deleted.
    pub fn vanished(&self) -> impl Iterator<Item = (Absent, &GroupIds)> {
        self.vanished.iter().map(|(absent, ids)| (*absent, ids))
    }

    /// Groups to be marked missing that are not yet.
    pub fn missing(&self) -> impl Iterator<Item = (TypeId, &GroupIds)> {
        self.missing
            .iter()
            .filter(|(absent, _)| !absent.were_missing)
            .map(|(absent, ids)| (absent.type_id, ids))
    }

    /// How many groups it marks, in whatever way.
    #[must_use]
    pub fn marks(&self) -> u64 {
        let vanished = self.vanished.values().chain(self.withheld.values());
        vanished.chain(self.missing().map(|(_, ids)| ids)).map(|ids| ids.len() as u64).sum()
    }

    /// Groups that are withheld because several crawls could not learn whether they exist.
    #[must_use]
    pub fn unconfirmable(&self) -> u64 {
        self.unconfirmable
    }

    #[must_use]
    pub fn asked(&self) -> AskedCounts {
        self.asked
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

    /// Types of which every live group has been accounted for: listed, or settled by this crawl.
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

/// The proof that typed lists give about groups of other types with `deletion.confirm = false`: every pass is exact, both
/// totals of the app are just what was listed, and no list had anything that was not known before.
#[must_use]
pub fn accounted_by_typed_lists(
    judgement: &Judgement,
    listed: u64,
    totals: [Option<u64>; 2],
    all_was_known: bool,
) -> Option<Proof> {
    let all_exact = judgement.passes.iter().all(|judged| judged.verdict == Verdict::Exact);
    let totals_match = totals == [Some(listed); 2];
    let proof = judgement.passes.first().and_then(|judged| judged.proof);
    proof.filter(|proof| all_exact && totals_match && all_was_known && proof.by_one_absence())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::judge;
    use crate::verdict::tests::{evidence, pass, with_totals};

    const PLAIN: Mark = Mark { missing: false, held: false };
    const MISSING: Mark = Mark { missing: true, held: false };
    const HELD: Mark = Mark { missing: true, held: true };
    const PUBLIC: TypeId = TypeId(1);
    const PRIVATE: TypeId = TypeId(2);
    const GONE: fn() -> Finding = || Finding::Gone(Gone::for_test());

    fn exact() -> Absences {
        Absences::of(&judge(with_totals(5, 5, vec![pass(1, &[5], 5)])), WithoutPass::Unknown)
    }

    fn moving() -> Absences {
        Absences::of(&judge(with_totals(6, 6, vec![pass(1, &[5, 6], 6)])), WithoutPass::Unknown)
    }

    /// Groups of these types and marks as candidates, each under its own name, settled with these findings.
    fn settle(
        absences: &Absences,
        confirmation: Confirmation,
        groups: &[(&str, TypeId, Mark, Option<Finding>)],
    ) -> Settlement {
        let mut candidates = absences.candidates();
        groups.iter().for_each(|(id, type_id, mark, _)| candidates.consider(*type_id, id, *mark));
        let finding = |id: &str| groups.iter().find(|group| group.0 == id).and_then(|group| group.3);
        candidates.note(finding);
        let mut unlisted: BTreeMap<TypeId, Unlisted> = BTreeMap::new();
        for (_, type_id, mark, _) in groups {
            let unlisted = unlisted.entry(*type_id).or_default();
            unlisted.groups += 1;
            unlisted.held += u64::from(mark.held);
        }
        candidates.settle(confirmation, &[PUBLIC], &unlisted)
    }

    fn lines(settlement: &Settlement) -> Vec<String> {
        let line =
            |what: &str, ids: &GroupIds| ids.iter().map(|id| format!("{id} {what}")).collect::<Vec<_>>();
        let mut lines: Vec<String> =
            settlement.vanished().flat_map(|(_, ids)| line("vanished", ids)).collect();
        lines.extend(settlement.missing().flat_map(|(_, ids)| line("missing", ids)));
        for (of, ids) in settlement.withheld() {
            lines.extend(line(if of.confirmed { "withheld, confirmed" } else { "withheld" }, ids));
        }
        lines.sort();
        lines
    }

    fn nominated(absences: &Absences, groups: &[(&str, TypeId, Mark)]) -> Vec<String> {
        let mut candidates = absences.candidates();
        groups.iter().for_each(|(id, type_id, mark)| candidates.consider(*type_id, id, *mark));
        let mut ids: Vec<String> = candidates.iter().map(|(_, id)| id.to_owned()).collect();
        ids.sort();
        assert_eq!((candidates.len(), candidates.is_empty()), (ids.len(), ids.is_empty()));
        ids
    }

    const OF_EACH_TYPE: [(&str, TypeId, Mark); 5] = [
        ("missing", PUBLIC, MISSING),
        ("other type", PRIVATE, PLAIN),
        ("plain", PUBLIC, PLAIN),
        ("held", PUBLIC, HELD),
        ("unknown type", TypeId::UNKNOWN, PLAIN),
    ];

    #[test]
    fn a_pass_nominates_groups_of_its_own_type_that_are_not_held() {
        for absences in [exact(), moving()] {
            assert_eq!(nominated(&absences, &OF_EACH_TYPE), ["missing", "plain"]);
        }
    }

    #[test]
    fn a_short_pass_nominates_nothing_even_beside_an_unfiltered_one() {
        let judgement = judge(evidence(vec![pass(1, &[50], 5), pass(0, &[5], 5)]));
        let absences = Absences::of(&judgement, WithoutPass::TotalsExceeded);
        assert_eq!(nominated(&absences, &OF_EACH_TYPE), ["other type", "unknown type"]);
        assert!(absences.has_own_pass(PUBLIC) && !absences.can_contradict(PUBLIC));
        assert!(!absences.has_own_pass(PRIVATE) && !absences.can_contradict(PRIVATE));
        assert!(exact().can_contradict(PUBLIC));
    }

    #[test]
    fn a_short_unfiltered_pass_nominates_nothing_whatever_the_totals_say() {
        let judgement = judge(evidence(vec![pass(1, &[5], 5), pass(0, &[50], 5)]));
        let absences = Absences::of(&judgement, WithoutPass::TotalsExceeded);
        assert_eq!(nominated(&absences, &OF_EACH_TYPE), ["missing", "plain"]);
    }

    #[test]
    fn without_an_unfiltered_pass_totals_that_are_exceeded_nominate_groups_of_types_without_a_pass() {
        let judgement = || judge(with_totals(5, 5, vec![pass(1, &[5], 5)]));
        let all = ["missing", "other type", "plain", "unknown type"];
        assert_eq!(nominated(&Absences::of(&judgement(), WithoutPass::TotalsExceeded), &OF_EACH_TYPE), all);
        for without_pass in [WithoutPass::Unknown, WithoutPass::UnfilteredPassNeeded] {
            let absences = Absences::of(&judgement(), without_pass);
            assert_eq!(nominated(&absences, &OF_EACH_TYPE), ["missing", "plain"]);
        }
    }

    #[test]
    fn totals_are_exceeded_if_more_groups_would_stand_than_the_smaller_one_counts() {
        assert_eq!(WithoutPass::by_totals(45, 3, Some(48)), WithoutPass::Unknown);
        assert_eq!(WithoutPass::by_totals(45, 3, Some(47)), WithoutPass::TotalsExceeded);
        assert_eq!(WithoutPass::by_totals(45, 0, Some(0)), WithoutPass::Unknown);
        assert_eq!(WithoutPass::by_totals(45, 3, None), WithoutPass::Unknown);
        assert_eq!(WithoutPass::by_totals(0, 1_000, Some(999)), WithoutPass::TotalsExceeded);
        assert_eq!(WithoutPass::by_totals(0, 1_001, Some(999)), WithoutPass::UnfilteredPassNeeded);
    }

    #[test]
    fn answers_decide_about_candidates_of_exact_and_moving_passes_alike() {
        for absences in [exact(), moving()] {
            let settlement = settle(
                &absences,
                Confirmation::On,
                &[
                    ("gone", PUBLIC, PLAIN, Some(GONE())),
                    ("gone, missing before", PUBLIC, MISSING, Some(GONE())),
                    ("stands", PUBLIC, PLAIN, Some(Finding::Stands)),
                    ("stood lately", PUBLIC, PLAIN, Some(Finding::StoodLately)),
                    ("unasked", PUBLIC, PLAIN, None),
                    ("unasked, missing before", PUBLIC, MISSING, None),
                    ("unconfirmable", PUBLIC, MISSING, Some(Finding::Unconfirmable)),
                    ("unlearned", PUBLIC, PLAIN, Some(Finding::Unlearned)),
                ],
            );
            let expected = [
                "gone vanished",
                "gone, missing before vanished",
                "unasked missing",
                "unconfirmable withheld",
                "unlearned missing",
            ];
            assert_eq!(lines(&settlement), expected);
            let counts = AskedCounts { asked: 5, confirmed: 2, spared: 1, unlearned: 2, unasked: 2 };
            assert_eq!((settlement.asked(), settlement.unconfirmable()), (counts, 1));
            assert_eq!((settlement.marks(), settlement.withheld_counts()), (5, (1, 0)));
            assert_eq!(settlement.concluded(), [PUBLIC]);
        }
    }

    #[test]
    fn lists_alone_delete_after_one_absence_from_an_exact_pass_and_two_from_a_moving_one() {
        let groups = [("plain", PUBLIC, PLAIN, None), ("was missing", PUBLIC, MISSING, None)];
        let once = settle(&exact(), Confirmation::Off, &groups);
        assert_eq!(lines(&once), ["plain vanished", "was missing vanished"]);
        let twice = settle(&moving(), Confirmation::Off, &groups);
        assert_eq!(lines(&twice), ["plain missing", "was missing vanished"]);
        assert_eq!((twice.asked(), twice.marks()), (AskedCounts::default(), 2));
    }

    #[test]
    fn lists_alone_never_delete_what_only_the_totals_nominate() {
        let judgement = judge(with_totals(5, 5, vec![pass(1, &[5], 5)]));
        let absences = Absences::of(&judgement, WithoutPass::TotalsExceeded);
        let groups = [("a", PRIVATE, PLAIN, None), ("b", PRIVATE, MISSING, None)];
        for confirmation in [Confirmation::Off, Confirmation::Refused] {
            assert!(lines(&settle(&absences, confirmation, &groups)).is_empty());
        }
        assert_eq!(lines(&settle(&absences, Confirmation::On, &groups)), ["a missing"]);
    }

    #[test]
    fn what_lists_alone_would_delete_is_withheld_if_the_api_refuses_to_be_asked() {
        let groups = [
            ("gone", PUBLIC, PLAIN, Some(GONE())),
            ("stands", PUBLIC, PLAIN, Some(Finding::Stands)),
            ("unasked", PUBLIC, PLAIN, None),
            ("unasked, missing before", PUBLIC, MISSING, None),
        ];
        let expected = ["gone vanished", "unasked withheld", "unasked, missing before withheld"];
        let settlement = settle(&exact(), Confirmation::Refused, &groups);
        assert_eq!(lines(&settlement), expected);
        assert_eq!(settlement.asked().unasked, 2);
        let expected = ["gone vanished", "unasked missing", "unasked, missing before withheld"];
        assert_eq!(lines(&settle(&moving(), Confirmation::Refused, &groups)), expected);
    }

    #[test]
    fn typed_lists_account_for_other_types_only_if_everything_is_as_it_was() {
        let exact = || judge(with_totals(5, 5, vec![pass(1, &[5], 5)]));
        let accounted = |totals, plain| accounted_by_typed_lists(&exact(), 5, totals, plain);
        let proof = accounted([Some(5), Some(5)], true);
        let absences = Absences::of_lists_alone(&exact(), proof);
        let groups = [("a", PRIVATE, PLAIN, None), ("b", TypeId::UNKNOWN, PLAIN, None)];
        assert_eq!(lines(&settle(&absences, Confirmation::Off, &groups)), ["a vanished", "b vanished"]);
        assert!(accounted([Some(5), Some(5)], false).is_none(), "a list had something new");
        for totals in [[Some(5), Some(6)], [Some(6), Some(5)], [Some(4), Some(4)], [None, Some(5)], [None; 2]]
        {
            assert!(accounted(totals, true).is_none(), "{totals:?}");
        }
        let moving = judge(with_totals(6, 6, vec![pass(1, &[5, 6], 6)]));
        assert!(accounted_by_typed_lists(&moving, 6, [Some(6); 2], true).is_none());
        let beside_short = judge(with_totals(5, 5, vec![pass(1, &[5], 5), pass(2, &[9], 0)]));
        assert!(accounted_by_typed_lists(&beside_short, 5, [Some(5); 2], true).is_none());
        let nothing = Absences::of_lists_alone(&judge(with_totals(5, 5, vec![pass(1, &[5], 5)])), None);
        assert!(lines(&settle(&nothing, Confirmation::Off, &groups)).is_empty());
    }

    #[test]
    fn the_unfiltered_pass_decides_before_what_typed_lists_account_for() {
        let judgement = judge(with_totals(9, 9, vec![pass(1, &[5], 5), pass(0, &[8, 9], 9)]));
        let proof = judgement.passes[0].proof;
        let absences = Absences::of_lists_alone(&judgement, proof);
        let groups = [("a", PRIVATE, PLAIN, None)];
        assert_eq!(lines(&settle(&absences, Confirmation::Off, &groups)), ["a missing"]);
    }

    #[test]
    fn the_guard_keeps_every_candidate_that_was_not_found_standing_and_marks_the_confirmed_ones() {
        let groups = [
            ("gone", PUBLIC, PLAIN, Some(GONE())),
            ("stands", PUBLIC, PLAIN, Some(Finding::Stands)),
            ("unasked", PUBLIC, PLAIN, None),
            ("unasked, missing before", PUBLIC, MISSING, None),
        ];
        let settled = || settle(&exact(), Confirmation::On, &groups);
        assert_eq!(settled().losses(Confirmation::On), BTreeMap::from([(PUBLIC, 3)]));
        assert_eq!(settled().deletions_by_type(), BTreeMap::from([(PUBLIC, 1)]));
        let mut all = settled();
        all.withhold(&[PUBLIC], Confirmation::On, true);
        let expected = ["gone withheld, confirmed", "unasked withheld", "unasked, missing before withheld"];
        assert_eq!(
            (lines(&all).as_slice(), all.withheld_counts()),
            (&expected.map(str::to_owned)[..], (3, 1))
        );
        let mut deletions = settled();
        deletions.withhold(&[PUBLIC], Confirmation::On, false);
        assert_eq!(lines(&deletions), ["gone withheld, confirmed", "unasked missing"]);
        let mut of_another_type = settled();
        of_another_type.withhold(&[PRIVATE], Confirmation::On, true);
        assert_eq!(lines(&of_another_type), lines(&settled()));
    }

    #[test]
    fn of_lists_alone_the_guard_counts_and_keeps_what_they_would_delete() {
        let groups = [("a", PUBLIC, PLAIN, None), ("b", PUBLIC, MISSING, None)];
        let mut settlement = settle(&moving(), Confirmation::Off, &groups);
        assert_eq!(settlement.losses(Confirmation::Off), BTreeMap::from([(PUBLIC, 1)]));
        settlement.withhold(&[PUBLIC], Confirmation::Off, true);
        assert_eq!(lines(&settlement), ["a missing", "b withheld"]);
        let refused = settle(&exact(), Confirmation::Refused, &groups);
        assert_eq!(refused.losses(Confirmation::Refused), BTreeMap::from([(PUBLIC, 2)]));
    }

    #[test]
    fn only_a_complete_crawl_says_what_became_of_its_deletions() {
        let gone = [("a", PUBLIC, PLAIN, Some(GONE()))];
        let mut settlement = settle(&exact(), Confirmation::On, &gone);
        assert_eq!(settlement.deletions(CrawlStatus::Complete), Some(Deletions::Applied));
        assert_eq!(settlement.deletions(CrawlStatus::Incomplete), None);
        settlement.withhold(&[PUBLIC], Confirmation::On, true);
        assert_eq!(settlement.deletions(CrawlStatus::Complete), Some(Deletions::Withheld));
        assert_eq!(Settlement::nothing().deletions(CrawlStatus::Complete), Some(Deletions::None));
        assert_eq!((Settlement::nothing().marks(), Settlement::nothing().concluded().len()), (0, 0));
    }

    #[test]
    fn a_type_is_concluded_if_its_groups_were_all_listed_or_can_be_judged() {
        let short = judge(evidence(vec![pass(1, &[50], 5), pass(2, &[5, 6], 6)]));
        let absences = Absences::of(&short, WithoutPass::Unknown);
        let unlisted = |type_id| BTreeMap::from([(type_id, Unlisted { groups: 1, held: 0 })]);
        let concluded = |unlisted: &BTreeMap<TypeId, Unlisted>| {
            let settlement = absences.candidates().settle(Confirmation::On, &[PUBLIC, TypeId(9)], unlisted);
            settlement.concluded().to_vec()
        };
        assert_eq!(concluded(&unlisted(PUBLIC)), [PRIVATE], "a short pass that lacks a group says nothing");
        assert_eq!(concluded(&BTreeMap::new()), [PUBLIC, PRIVATE], "all were listed");
        assert_eq!(concluded(&unlisted(PRIVATE)), [PUBLIC, PRIVATE], "its lacking groups are judged");
    }

    #[test]
    fn a_leftover_is_what_the_smaller_total_has_beyond_the_typed_counts() {
        let typed = || [40, 50].into_iter();
        assert_eq!(Leftover::of(Some(100), Some(95), typed()), Leftover::Groups(5));
        assert_eq!(Leftover::of(Some(95), Some(100), typed()), Leftover::Groups(5));
        assert_eq!(Leftover::of(Some(100), Some(90), typed()), Leftover::None);
        assert_eq!(Leftover::of(Some(100), None, typed()), Leftover::Unknown);
        assert_eq!(Leftover::of(None, Some(100), typed()), Leftover::Unknown);
    }

    #[test]
    fn an_unfiltered_pass_follows_in_the_first_crawl_or_when_two_crawls_running_see_more() {
        assert!(Leftover::Groups(1).calls_for_unfiltered_pass(true, false));
        assert!(Leftover::Groups(1).calls_for_unfiltered_pass(false, true));
        assert!(!Leftover::Groups(1).calls_for_unfiltered_pass(false, false));
        assert!(!Leftover::None.calls_for_unfiltered_pass(true, true));
        assert!(!Leftover::Unknown.calls_for_unfiltered_pass(true, true));
    }
}
