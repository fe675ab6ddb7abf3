//! Judges whether the lists of a crawl are complete, by their counts. No I/O.
//!
//! A deletion needs a [`Proof`] for the list that lacks the group. Only [`judge`] creates proofs,
//! and only for a pass that has an [`EndOfList`] and is not short. So a truncated list cannot
//! delete a group.

use std::fmt;

use crate::model::{Counts, ReasonCode, TypeId, Verdict};
use crate::pages::EndOfList;

/// The largest `deletion.max_shortfall` that a message suggests. A larger setting would also accept
/// truncated lists.
const LARGEST_SUGGESTED_SHORTFALL: f64 = 0.05;

/// In a type's first list, the maximum share of `TotalCount` that is attributed to groups created
/// while the list was read. Every group of a first list is new to the database, so the number of
/// new groups says nothing about creations.
const MAX_CREATED_SHARE_IN_FIRST_LIST: f64 = 0.05;

/// A list that lacks at most this share of its `TotalCount` is nearly complete.
const NEARLY_COMPLETE_GAP: f64 = 0.05;

/// The result of requesting the list of a type again. This is done if the list was empty although
/// the type had live groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recheck {
    /// The pass listed groups, or the type had no live groups.
    NotNeeded,
    /// The list was empty again, with a `TotalCount` of 0.
    StillEmpty,
    /// The list was not empty, or its `TotalCount` was not 0. Also used for an empty unfiltered
    /// list of an app that has groups.
    Contradicted,
}

/// The numbers of a pass that reached the end of its list.
#[derive(Debug)]
pub struct FinishedPass {
    /// [`TypeId::UNKNOWN`] for the unfiltered pass.
    pub type_id: TypeId,
    pub end: EndOfList,
    pub counts: Counts,
    /// The number of distinct ids that this pass listed.
    pub distinct: u64,
    /// The number of entries that repeat an id of this pass.
    pub repeats: u64,
    /// The number of groups that no crawl had listed before.
    pub first_listed: u64,
    /// Whether the baseline of the type has not ended yet.
    pub in_baseline: bool,
    /// The number of listed ids that are not valid group ids. `distinct` does not count them.
    pub unusable: u64,
    pub recheck: Recheck,
}

/// The numbers of a crawl.
#[derive(Debug)]
pub struct Evidence {
    pub passes: Vec<FinishedPass>,
    /// The app's `TotalCount` before the first pass.
    pub total_at_start: Option<u64>,
    /// The app's `TotalCount` after the last pass.
    pub total_at_end: Option<u64>,
    /// The number of distinct ids that all passes together listed.
    pub distinct: u64,
    /// `deletion.max_shortfall`.
    pub max_shortfall: f64,
}

/// The strength of the evidence that a group which a pass did not list is gone. Only [`judge`]
/// creates one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof(Strength);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strength {
    /// One absence proves a deletion.
    Once,
    /// Two consecutive absences prove a deletion.
    Twice,
}

impl Proof {
    /// Returns whether a single absence proves that a group is gone.
    #[must_use]
    pub fn by_one_absence(self) -> bool {
        self.0 == Strength::Once
    }
}

/// A judged pass.
#[derive(Debug)]
pub struct JudgedPass {
    pub pass: FinishedPass,
    pub verdict: Verdict,
    pub proof: Option<Proof>,
}

/// Why a pass is short. `Display` writes the numbers, and the setting that would accept them.
#[derive(Clone, Debug, PartialEq)]
pub struct Shortfall {
    pub type_id: TypeId,
    pub code: ReasonCode,
    cause: ShortfallCause,
    unusable: u64,
}

#[derive(Clone, Debug, PartialEq)]
enum ShortfallCause {
    TooFewIds { distinct: u64, lowest: u64, allowed: u64, setting: f64 },
    NoTotalCount { distinct: u64 },
    ContradictedEmptyList,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            ShortfallCause::TooFewIds { distinct, lowest, allowed, setting } => {
                write!(
                    f,
                    "listed {distinct} distinct ids, which is {} below its TotalCount of {lowest}; \
                     allowed: {allowed} (changes during the crawl and deletion.max_shortfall)",
                    lowest - distinct
                )?;
                if *setting <= LARGEST_SUGGESTED_SHORTFALL {
                    write!(
                        f,
                        "; deletion.max_shortfall = {setting} would accept the list: set it only \
                         if every crawl is short by this much"
                    )?;
                }
            }
            ShortfallCause::NoTotalCount { distinct } => {
                write!(
                    f,
                    "listed {distinct} distinct ids, but no TotalCount to compare them with \
                     (report this to Tencent Cloud's support)"
                )?;
            }
            ShortfallCause::ContradictedEmptyList => {
                write!(f, "listed no ids, which a second request or the app's TotalCount contradicts")?;
            }
        }
        if self.unusable > 0 {
            let verb = if self.unusable == 1 { "id is" } else { "ids are" };
            write!(f, "; {} listed {verb} not counted, because no group can have such an id", self.unusable)?;
        }
        Ok(())
    }
}

/// The judged passes of a crawl.
#[derive(Debug)]
pub struct Judgement {
    pub passes: Vec<JudgedPass>,
    pub shortfalls: Vec<Shortfall>,
}

/// Judges the passes of a crawl that read all its lists to their ends.
#[must_use]
pub fn judge(evidence: Evidence) -> Judgement {
    let first_listed: u64 = evidence.passes.iter().map(|pass| pass.first_listed).sum();
    // The total is used only if it did not change and is consistent with the lists: they have at
    // least as many ids as the total, and at most as many as the total and the new groups together.
    let consistent_total = evidence.total_at_start.filter(|total| {
        evidence.total_at_end == Some(*total) && (*total..=total + first_listed).contains(&evidence.distinct)
    });
    let totals_reached = reach_totals(&evidence);
    let judged: Vec<_> = evidence
        .passes
        .into_iter()
        .map(|pass| (confirmed_by_app_total(&pass, consistent_total), pass))
        .map(|(confirmed, pass)| match shortfall(&pass, confirmed, evidence.max_shortfall) {
            Some(shortfall) => (pass, Err(shortfall)),
            None if is_exact(&pass, confirmed) => (pass, Ok(Verdict::Exact)),
            None => (pass, Ok(Verdict::Moving)),
        })
        .collect();
    let shortfalls: Vec<_> = judged.iter().filter_map(|(_, outcome)| outcome.clone().err()).collect();
    let passes = judged
        .into_iter()
        .map(|(pass, outcome)| {
            let verdict = outcome.unwrap_or(Verdict::Short);
            let proof = match verdict {
                // One absence is a proof only if no list is short, and the lists together reach the
                // app's totals.
                Verdict::Exact if shortfalls.is_empty() && totals_reached => Some(Proof(Strength::Once)),
                Verdict::Exact | Verdict::Moving => Some(Proof(Strength::Twice)),
                Verdict::Short | Verdict::Rejected => None,
            };
            JudgedPass { pass, verdict, proof }
        })
        .collect();
    Judgement { passes, shortfalls }
}

/// Returns whether all lists together have at least as many ids as the smaller of the app's two
/// totals. A list can end early with a `TotalCount` that matches its ids. Only the app's totals
/// reveal that.
fn reach_totals(evidence: &Evidence) -> bool {
    match (evidence.total_at_start, evidence.total_at_end) {
        (Some(start), Some(end)) => evidence.distinct >= start.min(end),
        _ => false,
    }
}

/// Returns whether the app's total confirms that a pass is complete. This is possible only for a
/// pass without a `TotalCount`, or whose `TotalCount` equals the app's total: the API may answer a
/// typed list with the `TotalCount` of the entire app, and then the pass has no count of its own. A
/// pass with another `TotalCount` is judged by that count. Otherwise new groups of one type could
/// hide that groups of another type were not listed.
fn confirmed_by_app_total(pass: &FinishedPass, consistent_total: Option<u64>) -> bool {
    consistent_total.is_some_and(|total| pass.counts.highest.is_none_or(|count| count == total))
}

/// Returns whether a pass that is not short is exact. A list that changed while it was read is
/// never exact, even if the counts match: a new group can compensate for a group that the pass
/// missed.
fn is_exact(pass: &FinishedPass, confirmed_by_total: bool) -> bool {
    // Also true if no page had a `TotalCount`. Then only the app's total can confirm the pass.
    let never_changed = pass.counts.lowest == pass.counts.highest;
    let reached = pass.counts.steady().is_some_and(|total| pass.distinct >= total);
    pass.repeats == 0 && never_changed && (reached || confirmed_by_total)
}

/// Returns why a pass is short, or `None` if it is not.
fn shortfall(pass: &FinishedPass, confirmed_by_total: bool, max_shortfall: f64) -> Option<Shortfall> {
    let short = |cause| {
        Some(Shortfall {
            type_id: pass.type_id,
            code: ReasonCode::ShortListing,
            cause,
            unusable: pass.unusable,
        })
    };
    if pass.recheck == Recheck::Contradicted {
        return short(ShortfallCause::ContradictedEmptyList);
    }
    if confirmed_by_total {
        return None;
    }
    let (Some(lowest), Some(highest)) = (pass.counts.lowest, pass.counts.highest) else {
        return short(ShortfallCause::NoTotalCount { distinct: pass.distinct });
    };
    let changed = (highest - lowest) + created_meanwhile(pass, highest);
    let allowed = changed + share(max_shortfall, highest);
    let missing = lowest.saturating_sub(pass.distinct);
    if missing <= allowed {
        return None;
    }
    let setting = setting_that_accepts(missing - changed, highest);
    short(ShortfallCause::TooFewIds { distinct: pass.distinct, lowest, allowed, setting })
}

/// Returns how many groups may have been created while the list was read. The count may include
/// them although no page does.
fn created_meanwhile(pass: &FinishedPass, highest: u64) -> u64 {
    let most = if pass.in_baseline { share(MAX_CREATED_SHARE_IN_FIRST_LIST, highest) } else { u64::MAX };
    pass.first_listed.min(most)
}

/// Returns whether a list has at least 95 % of its own `TotalCount`. Such a list is treated as not
/// truncated, because a `TotalCount` can be slightly too high. Returns true if there is no
/// `TotalCount`.
#[must_use]
pub fn is_nearly_complete(counts: &Counts, distinct: u64) -> bool {
    counts.lowest.is_none_or(|lowest| distinct + share(NEARLY_COMPLETE_GAP, lowest) >= lowest)
}

/// Returns a fraction of a count, rounded down. The factor corrects the rounding errors of the
/// fraction and of the product: `0.0048 * 625.0` is slightly less than 3.
#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts are far below 2^52, and the fraction is between 0 and 1"
)]
fn share(fraction: f64, count: u64) -> u64 {
    (fraction * count as f64 * (1.0 + 4.0 * f64::EPSILON)).floor() as u64
}

/// Returns the smallest `deletion.max_shortfall`, to four digits, that accepts this many missing
/// ids.
fn setting_that_accepts(missing: u64, total_count: u64) -> f64 {
    let ten_thousandths = (u128::from(missing) * 10_000).div_ceil(u128::from(total_count.max(1)));
    f64::from(u16::try_from(ten_thousandths).unwrap_or(10_000).min(10_000)) / 10_000.0
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Returns a pass of one type that listed `distinct` ids on pages with these `TotalCount`s.
    pub(crate) fn pass(type_id: i64, counts: &[u64], distinct: u64) -> FinishedPass {
        let mut total_counts = Counts::default();
        counts.iter().for_each(|count| total_counts.add(Some(*count)));
        FinishedPass {
            type_id: TypeId(type_id),
            end: EndOfList::for_test(),
            counts: total_counts,
            distinct,
            repeats: 0,
            first_listed: 0,
            in_baseline: false,
            unusable: 0,
            recheck: Recheck::NotNeeded,
        }
    }

    pub(crate) fn evidence(passes: Vec<FinishedPass>) -> Evidence {
        let distinct = passes.iter().map(|pass| pass.distinct).sum();
        Evidence { passes, total_at_start: None, total_at_end: None, distinct, max_shortfall: 0.0 }
    }

    /// Returns the evidence of an app with these totals before and after the passes.
    pub(crate) fn with_totals(start: u64, end: u64, passes: Vec<FinishedPass>) -> Evidence {
        Evidence { total_at_start: Some(start), total_at_end: Some(end), ..evidence(passes) }
    }

    fn proves_by_one_absence(evidence: Evidence) -> bool {
        judge(evidence).passes[0].proof.is_some_and(Proof::by_one_absence)
    }

    fn verdicts(evidence: Evidence) -> Vec<Verdict> {
        judge(evidence).passes.iter().map(|judged| judged.verdict).collect()
    }

    #[test]
    fn a_pass_that_reaches_a_steady_count_is_exact() {
        assert_eq!(verdicts(evidence(vec![pass(1, &[5, 5, 5], 5)])), [Verdict::Exact]);
        assert_eq!(verdicts(evidence(vec![pass(1, &[5], 6)])), [Verdict::Exact]);
        assert_eq!(verdicts(evidence(vec![pass(1, &[0], 0)])), [Verdict::Exact]);
    }

    #[test]
    fn a_list_that_ends_early_is_short_and_proves_nothing() {
        let judgement = judge(evidence(vec![pass(1, &[100_000], 10_000)]));
        assert_eq!(judgement.passes[0].verdict, Verdict::Short);
        assert_eq!(judgement.passes[0].proof, None);
    }

    #[test]
    fn a_repeated_id_or_a_count_that_changed_or_was_absent_makes_a_pass_moving() {
        let repeated = FinishedPass { repeats: 1, ..pass(1, &[5, 5], 5) };
        assert_eq!(verdicts(evidence(vec![repeated])), [Verdict::Moving]);
        assert_eq!(verdicts(evidence(vec![pass(1, &[5, 6], 6)])), [Verdict::Moving]);
        let mut lacking = pass(1, &[5], 5);
        lacking.counts.add(None);
        assert_eq!(verdicts(evidence(vec![lacking])), [Verdict::Moving]);
    }

    #[test]
    fn a_pass_may_lack_the_change_of_its_count_and_the_new_groups_and_no_more() {
        let allowed = FinishedPass { first_listed: 2, ..pass(1, &[100, 103], 95) };
        assert_eq!(verdicts(evidence(vec![allowed])), [Verdict::Moving]);
        let short = FinishedPass { first_listed: 2, ..pass(1, &[100, 103], 94) };
        assert_eq!(verdicts(evidence(vec![short])), [Verdict::Short]);
    }

    #[test]
    fn half_a_first_list_is_short_although_all_its_groups_are_new() {
        let first = |distinct| FinishedPass {
            first_listed: distinct,
            in_baseline: true,
            ..pass(1, &[1000], distinct)
        };
        assert_eq!(verdicts(evidence(vec![first(500)])), [Verdict::Short]);
        assert_eq!(verdicts(evidence(vec![first(949)])), [Verdict::Short]);
        assert_eq!(verdicts(evidence(vec![first(950)])), [Verdict::Moving]);
        assert_eq!(verdicts(evidence(vec![first(1000)])), [Verdict::Exact]);
        let moved = FinishedPass { counts: pass(1, &[1000, 1100], 0).counts, ..first(846) };
        assert_eq!(verdicts(evidence(vec![moved])), [Verdict::Moving]);
    }

    #[test]
    fn a_pass_without_any_count_is_short() {
        assert_eq!(verdicts(evidence(vec![pass(1, &[], 5)])), [Verdict::Short]);
    }

    #[test]
    fn every_pass_is_exact_if_all_ids_reach_the_steady_totals_of_the_app() {
        let passes = || vec![pass(1, &[30], 10), pass(2, &[], 20)];
        let with = |start, end| Evidence { total_at_start: start, total_at_end: end, ..evidence(passes()) };
        assert_eq!(verdicts(with(Some(30), Some(30))), [Verdict::Exact; 2]);
        assert_eq!(verdicts(with(Some(30), Some(31))), [Verdict::Short; 2]);
        assert_eq!(verdicts(with(Some(31), Some(31))), [Verdict::Short; 2]);
        assert_eq!(verdicts(with(None, None)), [Verdict::Short; 2]);
    }

    #[test]
    fn steady_totals_of_the_app_do_not_make_a_pass_exact_whose_list_changed() {
        let moved = || vec![pass(1, &[10, 11], 10), pass(2, &[20], 20)];
        let repeated = || vec![FinishedPass { repeats: 1, ..pass(1, &[10], 10) }, pass(2, &[20], 20)];
        let with = |passes| Evidence { total_at_start: Some(30), total_at_end: Some(30), ..evidence(passes) };
        assert_eq!(verdicts(with(moved())), [Verdict::Moving, Verdict::Exact]);
        assert_eq!(verdicts(with(repeated())), [Verdict::Moving, Verdict::Exact]);
    }

    #[test]
    fn a_total_below_the_listed_ids_proves_nothing() {
        let passes = || vec![pass(1, &[400], 300), pass(2, &[200], 200)];
        let with =
            |passes| Evidence { total_at_start: Some(400), total_at_end: Some(400), ..evidence(passes) };
        assert_eq!(verdicts(with(passes())), [Verdict::Short, Verdict::Exact]);
    }

    #[test]
    fn new_groups_of_one_type_do_not_hide_missed_groups_of_another() {
        let passes = || vec![pass(1, &[400], 350), FinishedPass { first_listed: 50, ..pass(2, &[650], 650) }];
        let with =
            |passes| Evidence { total_at_start: Some(1000), total_at_end: Some(1000), ..evidence(passes) };
        assert_eq!(verdicts(with(passes())), [Verdict::Short, Verdict::Exact]);
    }

    #[test]
    fn an_emptied_type_that_the_recheck_contradicts_is_short_whatever_the_totals() {
        let emptied = FinishedPass { recheck: Recheck::Contradicted, ..pass(1, &[0], 0) };
        let evidence = Evidence { total_at_start: Some(0), total_at_end: Some(0), ..evidence(vec![emptied]) };
        assert_eq!(verdicts(evidence), [Verdict::Short]);
        let empty = FinishedPass { recheck: Recheck::StillEmpty, ..pass(1, &[0], 0) };
        assert_eq!(verdicts(super::tests::evidence(vec![empty])), [Verdict::Exact]);
    }

    #[test]
    fn exact_passes_prove_by_one_absence_only_if_all_lists_reach_the_smaller_total() {
        let passes = || vec![pass(1, &[60], 60), pass(2, &[40], 40)];
        assert!(proves_by_one_absence(with_totals(100, 100, passes())));
        assert!(
            proves_by_one_absence(with_totals(100, 120, passes()))
                && proves_by_one_absence(with_totals(120, 100, passes()))
        );
        assert!(
            !proves_by_one_absence(with_totals(101, 101, passes())),
            "a list may lack a group that exists"
        );
        assert!(!proves_by_one_absence(evidence(passes())), "no total");
        for (start, end) in [(Some(100), None), (None, Some(100))] {
            let one_total = Evidence { total_at_start: start, total_at_end: end, ..evidence(passes()) };
            assert!(!proves_by_one_absence(one_total));
        }
        let judgement = judge(with_totals(120, 120, passes()));
        assert_eq!(judgement.passes[0].verdict, Verdict::Exact, "the verdict depends on the pass alone");
        assert!(judgement.passes[0].proof.is_some());
    }

    #[test]
    fn a_short_pass_weakens_the_proofs_of_exact_passes() {
        assert!(proves_by_one_absence(with_totals(5, 5, vec![pass(1, &[5], 5)])));
        let judgement = judge(with_totals(6, 6, vec![pass(1, &[5], 5), pass(2, &[9], 1)]));
        assert_eq!(judgement.passes[0].verdict, Verdict::Exact);
        assert!(!judgement.passes[0].proof.unwrap().by_one_absence());
    }

    #[test]
    fn a_moving_pass_proves_only_by_two_absences() {
        let judgement = judge(with_totals(6, 6, vec![pass(1, &[5, 6], 6)]));
        assert!(!judgement.passes[0].proof.unwrap().by_one_absence());
    }

    #[test]
    fn the_totals_of_the_app_may_be_exceeded_by_new_groups() {
        let uncounted = |first_listed| {
            let mut new = FinishedPass { first_listed, ..pass(1, &[], 16) };
            new.counts.add(None);
            with_totals(30, 30, vec![new, pass(2, &[30], 15)])
        };
        assert_eq!(verdicts(uncounted(1))[0], Verdict::Exact);
        assert_eq!(verdicts(uncounted(0))[0], Verdict::Short);
    }

    #[test]
    fn the_suggested_max_shortfall_excludes_changes_during_the_crawl() {
        let moved = Evidence { max_shortfall: 0.05, ..evidence(vec![pass(1, &[100, 102], 80)]) };
        let judgement = judge(moved);
        let ShortfallCause::TooFewIds { allowed, setting, .. } = &judgement.shortfalls[0].cause else {
            panic!("{judgement:?}")
        };
        // 2 for the change of the count, 5 for the setting.
        assert_eq!(*allowed, 7);
        assert!((setting - setting_that_accepts(18, 102)).abs() < f64::EPSILON, "{setting}");
    }

    #[test]
    fn a_shortfall_mentions_ids_that_are_not_valid() {
        let text = |unusable| {
            let short = FinishedPass { unusable, ..pass(1, &[100], 50) };
            judge(evidence(vec![short])).shortfalls[0].to_string()
        };
        let one = "; 1 listed id is not counted, because no group can have such an id";
        assert!(text(1).ends_with(one), "{}", text(1));
        let three = "; 3 listed ids are not counted, because no group can have such an id";
        assert!(text(3).ends_with(three), "{}", text(3));
        assert!(!text(0).contains("not counted"), "{}", text(0));
    }

    #[test]
    fn a_list_is_nearly_complete_if_it_lacks_at_most_a_twentieth_of_its_count() {
        let counts = |count| {
            let mut counts = Counts::default();
            counts.add(count);
            counts
        };
        assert!(is_nearly_complete(&counts(Some(100)), 95) && is_nearly_complete(&counts(Some(100)), 120));
        assert!(!is_nearly_complete(&counts(Some(100)), 94));
        assert!(is_nearly_complete(&counts(None), 0));
    }

    #[test]
    fn a_shortfall_names_its_numbers_and_the_setting_that_would_accept_it() {
        let short = || pass(1, &[100_000], 99_000);
        let judgement = judge(evidence(vec![short()]));
        assert_eq!(
            judgement.shortfalls[0].to_string(),
            "listed 99000 distinct ids, which is 1000 below its TotalCount of 100000; allowed: 0 \
             (changes during the crawl and deletion.max_shortfall); deletion.max_shortfall = 0.01 \
             would accept the list: set it only if every crawl is short by this much"
        );
        let large = judge(evidence(vec![pass(1, &[100], 94)]));
        assert!(!large.shortfalls[0].to_string().contains("would accept"), "no advice to accept a large gap");
        let small = judge(evidence(vec![pass(1, &[100], 95)]));
        assert!(small.shortfalls[0].to_string().contains("max_shortfall = 0.05"));
        let accepted = Evidence { max_shortfall: 0.01, ..evidence(vec![short()]) };
        assert_eq!(verdicts(accepted), [Verdict::Moving]);
    }

    /// Returns the setting that the judgement of a list suggests, if the list is short.
    fn suggested_setting(total: u64, distinct: u64) -> Option<f64> {
        match &judge(evidence(vec![pass(1, &[total], distinct)])).shortfalls.first()?.cause {
            ShortfallCause::TooFewIds { setting, .. } => Some(*setting),
            cause => panic!("{cause:?}"),
        }
    }

    #[test]
    fn the_suggested_max_shortfall_accepts_every_small_list() {
        let suggested = suggested_setting(625, 622).unwrap();
        assert!((suggested - 0.0048).abs() < f64::EPSILON, "{suggested}");
        for total in 1..1500 {
            for missing in 1..=share(LARGEST_SUGGESTED_SHORTFALL, total) {
                let setting = suggested_setting(total, total - missing).unwrap();
                let short = pass(1, &[total], total - missing);
                let accepted = Evidence { max_shortfall: setting, ..evidence(vec![short]) };
                assert_eq!(verdicts(accepted), [Verdict::Moving], "{missing} of {total}: {setting}");
            }
        }
    }

    #[test]
    fn a_share_is_rounded_down_and_a_rounding_error_loses_no_group() {
        assert_eq!([share(0.0048, 625), share(0.0048, 624), share(0.05, 99)], [3, 2, 4]);
        assert_eq!([share(0.0, 1000), share(1.0, 1 << 40)], [0, 1 << 40]);
    }

    proptest::proptest! {
        #[test]
        fn the_suggested_max_shortfall_accepts_the_list(total in 1u64..1_000_000, share in 0.0f64..1.0, first in 0u64..50) {
            let distinct = super::share(share, total);
            let short = || FinishedPass { first_listed: first, ..pass(1, &[total], distinct) };
            let judgement = judge(evidence(vec![short()]));
            if let Some(Shortfall { cause: ShortfallCause::TooFewIds { setting, .. }, .. }) = judgement.shortfalls.first() {
                let accepted = Evidence { max_shortfall: *setting, ..evidence(vec![short()]) };
                proptest::prop_assert_eq!(verdicts(accepted), [Verdict::Moving]);
            }
        }
    }
}
