//! Tests of candidates, settlements and leftovers.

use std::collections::BTreeMap;

use super::*;
use crate::confirmation::Gone;
use crate::model::{CrawlStatus, Deletions, GroupIds, TypeId};
use crate::roll::{Mark, Unlisted};
use crate::verdict::judge;
use crate::verdict::tests::{evidence, pass, with_totals};

const PLAIN: Mark = Mark { missing: false, held: false };
const MISSING: Mark = Mark { missing: true, held: false };
const HELD: Mark = Mark { missing: true, held: true };
const PUBLIC: TypeId = TypeId(1);
const PRIVATE: TypeId = TypeId(2);
const GONE: fn() -> CandidateStatus = || CandidateStatus::Gone(Gone::for_test());

fn exact() -> Absences {
    Absences::of(&judge(with_totals(5, 5, vec![pass(1, &[5], 5)])), TotalsEvidence::Inconclusive)
}

fn moving() -> Absences {
    Absences::of(&judge(with_totals(6, 6, vec![pass(1, &[5, 6], 6)])), TotalsEvidence::Inconclusive)
}

/// Settles candidates of these types and marks with these findings.
fn settle(
    absences: &Absences,
    confirmation: Confirmation,
    groups: &[(&str, TypeId, Mark, Option<CandidateStatus>)],
) -> Settlement {
    let mut candidates = Candidates::new(absences);
    groups.iter().for_each(|(id, type_id, mark, _)| candidates.consider(*type_id, id, *mark));
    let finding = |id: &str| groups.iter().find(|group| group.0 == id).and_then(|group| group.3);
    candidates.apply_confirmations(finding);
    let mut unlisted: BTreeMap<TypeId, Unlisted> = BTreeMap::new();
    for (_, type_id, mark, _) in groups {
        let unlisted = unlisted.entry(*type_id).or_default();
        unlisted.groups += 1;
        unlisted.held += u64::from(mark.held);
    }
    candidates.settle(confirmation, &[PUBLIC], &unlisted)
}

fn lines(settlement: &Settlement) -> Vec<String> {
    let line = |what: &str, ids: &GroupIds| ids.iter().map(|id| format!("{id} {what}")).collect::<Vec<_>>();
    let mut lines: Vec<String> = settlement.vanished().flat_map(|(_, ids)| line("vanished", ids)).collect();
    lines.extend(settlement.missing().flat_map(|(_, ids)| line("missing", ids)));
    for (of, ids) in settlement.withheld() {
        lines.extend(line(if of.confirmed { "withheld, confirmed" } else { "withheld" }, ids));
    }
    lines.sort();
    lines
}

fn nominated(absences: &Absences, groups: &[(&str, TypeId, Mark)]) -> Vec<String> {
    let mut candidates = Candidates::new(absences);
    groups.iter().for_each(|(id, type_id, mark)| candidates.consider(*type_id, id, *mark));
    let mut ids: Vec<String> = candidates.iter().map(|(_, id)| id.to_owned()).collect();
    ids.sort();
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
fn a_short_pass_nominates_no_groups_of_its_type_even_with_an_unfiltered_pass() {
    let judgement = judge(evidence(vec![pass(1, &[50], 5), pass(0, &[5], 5)]));
    let absences = Absences::of(&judgement, TotalsEvidence::SomeAreGone);
    assert_eq!(nominated(&absences, &OF_EACH_TYPE), ["other type", "unknown type"]);
    assert!(absences.has_own_pass(PUBLIC) && !absences.can_contradict(PUBLIC));
    assert!(!absences.has_own_pass(PRIVATE) && !absences.can_contradict(PRIVATE));
    assert!(exact().can_contradict(PUBLIC));
}

#[test]
fn a_short_unfiltered_pass_nominates_nothing_whatever_the_totals_say() {
    let judgement = judge(evidence(vec![pass(1, &[5], 5), pass(0, &[50], 5)]));
    let absences = Absences::of(&judgement, TotalsEvidence::SomeAreGone);
    assert_eq!(nominated(&absences, &OF_EACH_TYPE), ["missing", "plain"]);
}

#[test]
fn without_an_unfiltered_pass_the_totals_nominate_groups_of_types_without_a_pass() {
    let judgement = || judge(with_totals(5, 5, vec![pass(1, &[5], 5)]));
    let all = ["missing", "other type", "plain", "unknown type"];
    assert_eq!(nominated(&Absences::of(&judgement(), TotalsEvidence::SomeAreGone), &OF_EACH_TYPE), all);
    for evidence in [TotalsEvidence::Inconclusive, TotalsEvidence::UnfilteredPassNeeded] {
        let absences = Absences::of(&judgement(), evidence);
        assert_eq!(nominated(&absences, &OF_EACH_TYPE), ["missing", "plain"]);
    }
}

#[test]
fn totals_prove_deletions_if_the_smaller_one_is_below_the_known_live_groups() {
    assert_eq!(TotalsEvidence::compare(45, 3, Some(48)), TotalsEvidence::Inconclusive);
    assert_eq!(TotalsEvidence::compare(45, 3, Some(47)), TotalsEvidence::SomeAreGone);
    assert_eq!(TotalsEvidence::compare(45, 0, Some(0)), TotalsEvidence::Inconclusive);
    assert_eq!(TotalsEvidence::compare(45, 3, None), TotalsEvidence::Inconclusive);
    assert_eq!(TotalsEvidence::compare(0, 1_000, Some(999)), TotalsEvidence::SomeAreGone);
    assert_eq!(TotalsEvidence::compare(0, 1_001, Some(999)), TotalsEvidence::UnfilteredPassNeeded);
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
                ("exists", PUBLIC, PLAIN, Some(CandidateStatus::Exists)),
                ("existed recently", PUBLIC, PLAIN, Some(CandidateStatus::ExistedRecently)),
                ("unasked", PUBLIC, PLAIN, None),
                ("unasked, missing before", PUBLIC, MISSING, None),
                ("unconfirmable", PUBLIC, MISSING, Some(CandidateStatus::Unconfirmable)),
                ("no usable answer", PUBLIC, PLAIN, Some(CandidateStatus::NoUsableAnswer)),
            ],
        );
        let expected = [
            "gone vanished",
            "gone, missing before vanished",
            "no usable answer missing",
            "unasked missing",
            "unconfirmable withheld",
        ];
        assert_eq!(lines(&settlement), expected);
        let counts = LookupCounts { asked: 5, confirmed: 2, spared: 1, unlearned: 2, unasked: 2 };
        assert_eq!((settlement.lookup_counts(), settlement.unconfirmable()), (counts, 1));
        assert_eq!(settlement.mark_count(), 5);
        assert_eq!(settlement.withheld_counts(), WithheldCounts { groups: 1, confirmed: 0 });
        assert_eq!(settlement.concluded_types(), [PUBLIC]);
    }
}

#[test]
fn only_unconfirmable_groups_are_counted_as_unconfirmable() {
    let count =
        |finding| settle(&exact(), Confirmation::On, &[("a", PUBLIC, PLAIN, finding)]).unconfirmable();
    assert_eq!(count(Some(CandidateStatus::Unconfirmable)), 1);
    assert_eq!(count(Some(CandidateStatus::NoUsableAnswer)), 0);
    assert_eq!(count(None), 0);
}

#[test]
fn lists_alone_delete_after_one_absence_from_an_exact_pass_and_two_from_a_moving_one() {
    let groups = [("plain", PUBLIC, PLAIN, None), ("was missing", PUBLIC, MISSING, None)];
    let once = settle(&exact(), Confirmation::Off, &groups);
    assert_eq!(lines(&once), ["plain vanished", "was missing vanished"]);
    let twice = settle(&moving(), Confirmation::Off, &groups);
    assert_eq!(lines(&twice), ["plain missing", "was missing vanished"]);
    assert_eq!((twice.lookup_counts(), twice.mark_count()), (LookupCounts::default(), 2));
}

#[test]
fn lists_alone_never_delete_what_only_the_totals_nominate() {
    let judgement = judge(with_totals(5, 5, vec![pass(1, &[5], 5)]));
    let absences = Absences::of(&judgement, TotalsEvidence::SomeAreGone);
    let groups = [("a", PRIVATE, PLAIN, None), ("b", PRIVATE, MISSING, None)];
    for confirmation in [Confirmation::Off, Confirmation::Refused] {
        assert!(lines(&settle(&absences, confirmation, &groups)).is_empty());
    }
    assert_eq!(lines(&settle(&absences, Confirmation::On, &groups)), ["a missing"]);
}

#[test]
fn if_the_api_refuses_lookups_deletions_by_lists_are_withheld() {
    let groups = [
        ("gone", PUBLIC, PLAIN, Some(GONE())),
        ("exists", PUBLIC, PLAIN, Some(CandidateStatus::Exists)),
        ("unasked", PUBLIC, PLAIN, None),
        ("unasked, missing before", PUBLIC, MISSING, None),
    ];
    let expected = ["gone vanished", "unasked withheld", "unasked, missing before withheld"];
    let settlement = settle(&exact(), Confirmation::Refused, &groups);
    assert_eq!(lines(&settlement), expected);
    assert_eq!(settlement.lookup_counts().unasked, 2);
    let expected = ["gone vanished", "unasked missing", "unasked, missing before withheld"];
    assert_eq!(lines(&settle(&moving(), Confirmation::Refused, &groups)), expected);
}

#[test]
fn typed_lists_prove_deletions_of_other_types_only_if_nothing_changed() {
    let exact = || judge(with_totals(5, 5, vec![pass(1, &[5], 5)]));
    let proof_of = |totals, plain| proof_for_types_without_pass(&exact(), 5, totals, plain);
    let proof = proof_of([Some(5), Some(5)], true);
    let absences = Absences::of_lists_alone(&exact(), proof);
    let groups = [("a", PRIVATE, PLAIN, None), ("b", TypeId::UNKNOWN, PLAIN, None)];
    assert_eq!(lines(&settle(&absences, Confirmation::Off, &groups)), ["a vanished", "b vanished"]);
    assert!(proof_of([Some(5), Some(5)], false).is_none(), "a list had something new");
    for totals in [[Some(5), Some(6)], [Some(6), Some(5)], [Some(4), Some(4)], [None, Some(5)], [None; 2]] {
        assert!(proof_of(totals, true).is_none(), "{totals:?}");
    }
    let moving = judge(with_totals(6, 6, vec![pass(1, &[5, 6], 6)]));
    assert!(proof_for_types_without_pass(&moving, 6, [Some(6); 2], true).is_none());
    let beside_short = judge(with_totals(5, 5, vec![pass(1, &[5], 5), pass(2, &[9], 0)]));
    assert!(proof_for_types_without_pass(&beside_short, 5, [Some(5); 2], true).is_none());
    let nothing = Absences::of_lists_alone(&judge(with_totals(5, 5, vec![pass(1, &[5], 5)])), None);
    assert!(lines(&settle(&nothing, Confirmation::Off, &groups)).is_empty());
}

#[test]
fn the_unfiltered_pass_takes_precedence_over_typed_lists_for_other_types() {
    let judgement = judge(with_totals(9, 9, vec![pass(1, &[5], 5), pass(0, &[8, 9], 9)]));
    let proof = judgement.passes[0].proof;
    let absences = Absences::of_lists_alone(&judgement, proof);
    let groups = [("a", PRIVATE, PLAIN, None)];
    assert_eq!(lines(&settle(&absences, Confirmation::Off, &groups)), ["a missing"]);
}

#[test]
fn the_guard_withholds_every_candidate_not_found_to_exist_and_marks_the_confirmed_ones() {
    let groups = [
        ("gone", PUBLIC, PLAIN, Some(GONE())),
        ("exists", PUBLIC, PLAIN, Some(CandidateStatus::Exists)),
        ("unasked", PUBLIC, PLAIN, None),
        ("unasked, missing before", PUBLIC, MISSING, None),
    ];
    let settled = || settle(&exact(), Confirmation::On, &groups);
    assert_eq!(settled().losses(Confirmation::On), BTreeMap::from([(PUBLIC, 3)]));
    assert_eq!(settled().deletions_by_type(), BTreeMap::from([(PUBLIC, 1)]));
    let mut all = settled();
    all.withhold(&[PUBLIC], Confirmation::On, true);
    let expected = ["gone withheld, confirmed", "unasked withheld", "unasked, missing before withheld"];
    assert_eq!(lines(&all), expected);
    assert_eq!(all.withheld_counts(), WithheldCounts { groups: 3, confirmed: 1 });
    let mut deletions = settled();
    deletions.withhold(&[PUBLIC], Confirmation::On, false);
    assert_eq!(lines(&deletions), ["gone withheld, confirmed", "unasked missing"]);
    let mut of_another_type = settled();
    of_another_type.withhold(&[PRIVATE], Confirmation::On, true);
    assert_eq!(lines(&of_another_type), lines(&settled()));
}

#[test]
fn without_confirmation_the_guard_counts_and_withholds_the_deletions_of_the_lists() {
    let groups = [("a", PUBLIC, PLAIN, None), ("b", PUBLIC, MISSING, None)];
    let mut settlement = settle(&moving(), Confirmation::Off, &groups);
    assert_eq!(settlement.losses(Confirmation::Off), BTreeMap::from([(PUBLIC, 1)]));
    settlement.withhold(&[PUBLIC], Confirmation::Off, true);
    assert_eq!(lines(&settlement), ["a missing", "b withheld"]);
    let refused = settle(&exact(), Confirmation::Refused, &groups);
    assert_eq!(refused.losses(Confirmation::Refused), BTreeMap::from([(PUBLIC, 2)]));
}

#[test]
fn only_a_complete_crawl_has_an_outcome_of_its_deletions() {
    let gone = [("a", PUBLIC, PLAIN, Some(GONE()))];
    let mut settlement = settle(&exact(), Confirmation::On, &gone);
    assert_eq!(settlement.deletions(CrawlStatus::Complete), Some(Deletions::Applied));
    assert_eq!(settlement.deletions(CrawlStatus::Incomplete), None);
    settlement.withhold(&[PUBLIC], Confirmation::On, true);
    assert_eq!(settlement.deletions(CrawlStatus::Complete), Some(Deletions::Withheld));
    assert_eq!(Settlement::nothing().deletions(CrawlStatus::Complete), Some(Deletions::None));
    assert_eq!((Settlement::nothing().mark_count(), Settlement::nothing().concluded_types().len()), (0, 0));
}

#[test]
fn a_type_is_concluded_if_all_its_groups_were_listed_or_nominated() {
    let short = judge(evidence(vec![pass(1, &[50], 5), pass(2, &[5, 6], 6)]));
    let absences = Absences::of(&short, TotalsEvidence::Inconclusive);
    let unlisted = |type_id| BTreeMap::from([(type_id, Unlisted { groups: 1, held: 0 })]);
    let concluded = |unlisted: &BTreeMap<TypeId, Unlisted>| {
        let settlement = Candidates::new(&absences).settle(Confirmation::On, &[PUBLIC, TypeId(9)], unlisted);
        settlement.concluded_types().to_vec()
    };
    assert_eq!(
        concluded(&unlisted(PUBLIC)),
        [PRIVATE],
        "a short pass proves nothing about an unlisted group"
    );
    assert_eq!(concluded(&BTreeMap::new()), [PUBLIC, PRIVATE], "all were listed");
    assert_eq!(concluded(&unlisted(PRIVATE)), [PUBLIC, PRIVATE], "its unlisted groups are candidates");
}

#[test]
fn a_leftover_is_the_difference_between_the_smaller_total_and_the_typed_counts() {
    let typed = || [40, 50].into_iter();
    assert_eq!(Leftover::of(Some(100), Some(95), typed()), Leftover::Groups(5));
    assert_eq!(Leftover::of(Some(95), Some(100), typed()), Leftover::Groups(5));
    assert_eq!(Leftover::of(Some(100), Some(90), typed()), Leftover::None);
    assert_eq!(Leftover::of(Some(100), None, typed()), Leftover::Unknown);
    assert_eq!(Leftover::of(None, Some(100), typed()), Leftover::Unknown);
}

#[test]
fn a_leftover_calls_for_an_unfiltered_pass_in_the_first_crawl_or_the_second_time_in_a_row() {
    assert!(Leftover::Groups(1).calls_for_unfiltered_pass(true, false));
    assert!(Leftover::Groups(1).calls_for_unfiltered_pass(false, true));
    assert!(!Leftover::Groups(1).calls_for_unfiltered_pass(false, false));
    assert!(!Leftover::None.calls_for_unfiltered_pass(true, true));
    assert!(!Leftover::Unknown.calls_for_unfiltered_pass(true, true));
}
