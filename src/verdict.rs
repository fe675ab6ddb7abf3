//! What the numbers of a crawl prove. Pure: numbers in, verdicts and proofs out.
//!
//! A deletion needs a [`Proof`], and only [`judge`] makes one, from passes that can show an [`EndOfList`]. A listing
//! that broke off, or that falls short of its own count, therefore cannot delete: there is no value to do it with.

use std::fmt;

use crate::model::{Counts, ReasonCode, TypeId, Verdict};
use crate::pages::EndOfList;

/// The largest `deletion.max_shortfall` that an error message suggests. A larger gap is no steady inaccuracy of TotalCount,
/// and a setting that accepts it would accept a list that broke off.
const LARGEST_SUGGESTED_SHORTFALL: f64 = 0.05;

/// In a type's first list every group is listed for the first time, most of them long after they were made: there, new
/// groups explain no more than this share of TotalCount, or half a list would pass for a whole one. An app's fastest turnover
/// during one list is a small part of it.
const EXPLAINED_IN_FIRST_LIST: f64 = 0.05;

/// What became of a type that had live groups and was listed as empty: it is asked once more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recheck {
    /// The pass listed groups, or there were none before.
    NotNeeded,
    /// Empty again, with TotalCount 0.
    StillEmpty,
    /// Not empty any more, or the count contradicts the empty list.
    Contradicted,
}

/// A pass that reached its end, in numbers.
#[derive(Debug)]
pub struct FinishedPass {
    /// [`TypeId::UNKNOWN`] for the unfiltered pass.
    pub type_id: TypeId,
    pub end: EndOfList,
    pub counts: Counts,
    /// Different ids listed by this pass.
    pub distinct: u64,
    /// Ids that this pass listed more than once.
    pub repeats: u64,
    /// Ids listed for the first time ever.
    pub first_listed: u64,
    /// No pass of this type has listed it whole before.
    pub in_baseline: bool,
    /// Ids that cannot be kept; they are not among the distinct ones.
    pub unusable: u64,
    pub recheck: Recheck,
}

/// A whole crawl, in numbers.
#[derive(Debug)]
pub struct Evidence {
    pub passes: Vec<FinishedPass>,
    /// TotalCount of the whole app before the first pass and after the last.
    pub total_at_start: Option<u64>,
    pub total_at_end: Option<u64>,
    /// Different ids listed by all passes together.
    pub distinct: u64,
    /// `deletion.max_shortfall`.
    pub max_shortfall: f64,
}

/// How much absence from a pass proves. Made by [`judge`] alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Proof(Strength);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Strength {
    /// One absence is proof.
    Once,
    /// It takes two absences running: the list moved while it was read.
    Twice,
}

impl Proof {
    /// Whether a group that was listed until now is proved gone by this one absence.
    #[must_use]
    pub fn by_one_absence(self) -> bool {
        self.0 == Strength::Once
    }

    /// The weaker proof, for groups that other passes only account for.
    #[must_use]
    pub fn weakened(self) -> Self {
        Self(Strength::Twice)
    }
}

/// A judged pass.
#[derive(Debug)]
pub struct JudgedPass {
    pub pass: FinishedPass,
    pub verdict: Verdict,
    pub proof: Option<Proof>,
}

/// Why a pass is short, as a sentence with its numbers and the setting that would accept them.
#[derive(Clone, Debug, PartialEq)]
pub struct Shortfall {
    pub type_id: TypeId,
    pub code: ReasonCode,
    cause: ShortfallCause,
    unusable: u64,
}

#[derive(Clone, Debug, PartialEq)]
enum ShortfallCause {
    Fewer { distinct: u64, lowest: u64, allowed: u64, setting: f64 },
    NoCount { distinct: u64 },
    EmptyOnce,
}

impl fmt::Display for Shortfall {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.cause {
            ShortfallCause::Fewer { distinct, lowest, allowed, setting } => {
                write!(
                    f,
                    "listed {distinct} different ids of a TotalCount of {lowest}, {} fewer, where {allowed} are explained \
                     by changes during the crawl",
                    lowest - distinct
                )?;
                if *setting <= LARGEST_SUGGESTED_SHORTFALL {
                    write!(f, " (deletion.max_shortfall = {setting} would accept it)")?;
                }
            }
            ShortfallCause::NoCount { distinct } => {
                write!(f, "listed {distinct} different ids without any TotalCount to compare them with")?;
            }
            ShortfallCause::EmptyOnce => {
                write!(
                    f,
                    "listed nothing, and when asked again it was not empty or its TotalCount was not 0"
                )?;
            }
        }
        if self.unusable > 0 {
            write!(f, "; {} listed ids cannot be group ids and do not count", self.unusable)?;
        }
        Ok(())
    }
}

/// The outcome for the whole crawl.
#[derive(Debug)]
pub struct Judgement {
    pub passes: Vec<JudgedPass>,
    pub shortfalls: Vec<Shortfall>,
}

/// Judges the passes of a crawl that reached its end.
#[must_use]
pub fn judge(evidence: Evidence) -> Judgement {
    let first_listed: u64 = evidence.passes.iter().map(|pass| pass.first_listed).sum();
    // More ids than the app claims to have, new ones aside, and its total counts something else than the lists do.
    let whole_app = evidence.total_at_start.filter(|total| {
        evidence.total_at_end == Some(*total) && (*total..=total + first_listed).contains(&evidence.distinct)
    });
    let totals_reached = reach_totals(&evidence);
    let judged: Vec<_> = evidence
        .passes
        .into_iter()
        .map(|pass| (told_by_app(&pass, whole_app), pass))
        .map(|(told, pass)| match shortfall(&pass, told, evidence.max_shortfall) {
            Some(shortfall) => (pass, Err(shortfall)),
            None if is_exact(&pass, told) => (pass, Ok(Verdict::Exact)),
            None => (pass, Ok(Verdict::Moving)),
        })
        .collect();
    let shortfalls: Vec<_> = judged.iter().filter_map(|(_, outcome)| outcome.clone().err()).collect();
    let passes = judged
        .into_iter()
        .map(|(pass, outcome)| {
            let verdict = outcome.unwrap_or(Verdict::Short);
            let proof = match verdict {
                // If the API was short on one type, or the lists lack groups that the app's totals count, no list is
                // believed at once.
                Verdict::Exact if shortfalls.is_empty() && totals_reached => Some(Proof(Strength::Once)),
                Verdict::Exact | Verdict::Moving => Some(Proof(Strength::Twice)),
                Verdict::Short | Verdict::Rejected => None,
            };
            JudgedPass { pass, verdict, proof }
        })
        .collect();
    Judgement { passes, shortfalls }
}

/// Whether all lists together have as many ids as the smaller of the app's two totals. A list that ended early with a
/// TotalCount to match is exact by its own numbers; only the totals contradict it.
fn reach_totals(evidence: &Evidence) -> bool {
    match (evidence.total_at_start, evidence.total_at_end) {
        (Some(start), Some(end)) => evidence.distinct >= start.min(end),
        _ => false,
    }
}

/// Whether the totals of the whole app, all of whose groups were listed, say what a pass's own count does not: it states
/// none, or the app's. A count of its own stands, or new groups of one type could stand for missed ones of another.
fn told_by_app(pass: &FinishedPass, whole_app: Option<u64>) -> bool {
    whole_app.is_some_and(|total| pass.counts.highest.is_none_or(|count| count == total))
}

/// A list that moved under the cursor is never exact, whatever the totals say: a new group can stand in the count for
/// one that slipped past.
fn is_exact(pass: &FinishedPass, whole_app_listed: bool) -> bool {
    let steady = pass.counts.lowest == pass.counts.highest;
    let reached = pass.counts.steady().is_some_and(|total| pass.distinct >= total);
    pass.repeats == 0 && steady && (reached || whole_app_listed)
}

fn shortfall(pass: &FinishedPass, whole_app_listed: bool, max_shortfall: f64) -> Option<Shortfall> {
    let short = |cause| {
        Some(Shortfall {
            type_id: pass.type_id,
            code: ReasonCode::ShortListing,
            cause,
            unusable: pass.unusable,
        })
    };
    if pass.recheck == Recheck::Contradicted {
        return short(ShortfallCause::EmptyOnce);
    }
    if whole_app_listed {
        return None;
    }
    let (Some(lowest), Some(highest)) = (pass.counts.lowest, pass.counts.highest) else {
        return short(ShortfallCause::NoCount { distinct: pass.distinct });
    };
    let allowed = (highest - lowest) + explained_by_new(pass, highest) + share(max_shortfall, highest);
    let missing = lowest.saturating_sub(pass.distinct);
    if missing <= allowed {
        return None;
    }
    let setting = setting_that_accepts(missing - (allowed - share(max_shortfall, highest)), highest);
    short(ShortfallCause::Fewer { distinct: pass.distinct, lowest, allowed, setting })
}

/// How many groups may have come while the list was read, and stand in its count without being in it.
fn explained_by_new(pass: &FinishedPass, highest: u64) -> u64 {
    let most = if pass.in_baseline { share(EXPLAINED_IN_FIRST_LIST, highest) } else { u64::MAX };
    pass.first_listed.min(most)
}

/// Whether a list is, by its own count, no fragment: it may be that its count is a little too high, but not that it broke
/// off. Without a count nothing speaks against it.
#[must_use]
pub fn is_nearly_whole(counts: &Counts, distinct: u64) -> bool {
    counts.lowest.is_none_or(|lowest| distinct + share(EXPLAINED_IN_FIRST_LIST, lowest) >= lowest)
}

#[expect(
    clippy::cast_precision_loss,
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "counts stay far below 2^52 and the share is between 0 and 1"
)]
fn share(fraction: f64, of: u64) -> u64 {
    (fraction * of as f64).floor() as u64
}

/// The smallest setting, to four digits, under which this many may be missing.
#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn setting_that_accepts(missing: u64, of: u64) -> f64 {
    let exact = missing as f64 / of.max(1) as f64;
    ((exact * 10_000.0).ceil() / 10_000.0).min(1.0)
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A pass of one type that listed `distinct` ids on pages that stated these counts.
    pub(crate) fn pass(type_id: i64, counts: &[u64], distinct: u64) -> FinishedPass {
        let mut stated = Counts::default();
        counts.iter().for_each(|count| stated.add(Some(*count)));
        FinishedPass {
            type_id: TypeId(type_id),
            end: EndOfList::for_test(),
            counts: stated,
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

    /// The same, of an app whose totals are these before and after.
    pub(crate) fn with_totals(start: u64, end: u64, passes: Vec<FinishedPass>) -> Evidence {
        Evidence { total_at_start: Some(start), total_at_end: Some(end), ..evidence(passes) }
    }

    fn proves_at_once(evidence: Evidence) -> bool {
        judge(evidence).passes[0].proof.is_some_and(Proof::by_one_absence)
    }

    fn verdicts(evidence: Evidence) -> Vec<Verdict> {
        judge(evidence).passes.iter().map(|judged| judged.verdict).collect()
    }

    #[test]
    fn a_count_that_stood_still_and_was_reached_is_exact() {
        assert_eq!(verdicts(evidence(vec![pass(1, &[5, 5, 5], 5)])), [Verdict::Exact]);
        assert_eq!(verdicts(evidence(vec![pass(1, &[5], 6)])), [Verdict::Exact]);
        assert_eq!(verdicts(evidence(vec![pass(1, &[0], 0)])), [Verdict::Exact]);
    }

    #[test]
    fn a_listing_that_ends_early_is_short_and_proves_nothing() {
        let judgement = judge(evidence(vec![pass(1, &[100_000], 10_000)]));
        assert_eq!(judgement.passes[0].verdict, Verdict::Short);
        assert_eq!(judgement.passes[0].proof, None);
    }

    #[test]
    fn a_repeated_id_or_a_count_that_moved_or_lacked_makes_a_pass_moving() {
        let repeated = FinishedPass { repeats: 1, ..pass(1, &[5, 5], 5) };
        assert_eq!(verdicts(evidence(vec![repeated])), [Verdict::Moving]);
        assert_eq!(verdicts(evidence(vec![pass(1, &[5, 6], 6)])), [Verdict::Moving]);
        let mut lacking = pass(1, &[5], 5);
        lacking.counts.add(None);
        assert_eq!(verdicts(evidence(vec![lacking])), [Verdict::Moving]);
    }

    #[test]
    fn what_moved_and_what_is_new_explains_a_shortfall_and_no_more() {
        let explained = FinishedPass { first_listed: 2, ..pass(1, &[100, 103], 95) };
        assert_eq!(verdicts(evidence(vec![explained])), [Verdict::Moving]);
        let unexplained = FinishedPass { first_listed: 2, ..pass(1, &[100, 103], 94) };
        assert_eq!(verdicts(evidence(vec![unexplained])), [Verdict::Short]);
    }

    #[test]
    fn half_a_first_list_is_short_though_all_of_it_is_new() {
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
    fn no_count_at_all_is_short() {
        assert_eq!(verdicts(evidence(vec![pass(1, &[], 5)])), [Verdict::Short]);
    }

    #[test]
    fn ids_that_reach_both_steady_totals_of_the_app_make_every_pass_exact() {
        let passes = || vec![pass(1, &[30], 10), pass(2, &[], 20)];
        let with = |start, end| Evidence { total_at_start: start, total_at_end: end, ..evidence(passes()) };
        assert_eq!(verdicts(with(Some(30), Some(30))), [Verdict::Exact; 2]);
        assert_eq!(verdicts(with(Some(30), Some(31))), [Verdict::Short; 2]);
        assert_eq!(verdicts(with(Some(31), Some(31))), [Verdict::Short; 2]);
        assert_eq!(verdicts(with(None, None)), [Verdict::Short; 2]);
    }

    #[test]
    fn steady_totals_of_the_app_do_not_make_a_pass_exact_whose_own_list_moved() {
        let moved = || vec![pass(1, &[10, 11], 10), pass(2, &[20], 20)];
        let repeated = || vec![FinishedPass { repeats: 1, ..pass(1, &[10], 10) }, pass(2, &[20], 20)];
        let with = |passes| Evidence { total_at_start: Some(30), total_at_end: Some(30), ..evidence(passes) };
        assert_eq!(verdicts(with(moved())), [Verdict::Moving, Verdict::Exact]);
        assert_eq!(verdicts(with(repeated())), [Verdict::Moving, Verdict::Exact]);
    }

    #[test]
    fn a_total_below_the_listed_ids_counts_something_else_and_proves_nothing() {
        let passes = || vec![pass(1, &[400], 300), pass(2, &[200], 200)];
        let with =
            |passes| Evidence { total_at_start: Some(400), total_at_end: Some(400), ..evidence(passes) };
        assert_eq!(verdicts(with(passes())), [Verdict::Short, Verdict::Exact]);
    }

    #[test]
    fn new_groups_of_one_type_do_not_stand_for_missed_ones_of_another() {
        let passes = || vec![pass(1, &[400], 350), FinishedPass { first_listed: 50, ..pass(2, &[650], 650) }];
        let with =
            |passes| Evidence { total_at_start: Some(1000), total_at_end: Some(1000), ..evidence(passes) };
        assert_eq!(verdicts(with(passes())), [Verdict::Short, Verdict::Exact]);
    }

    #[test]
    fn an_empty_type_that_is_not_empty_when_asked_again_is_short_whatever_the_totals_say() {
        let emptied = FinishedPass { recheck: Recheck::Contradicted, ..pass(1, &[0], 0) };
        let evidence = Evidence { total_at_start: Some(0), total_at_end: Some(0), ..evidence(vec![emptied]) };
        assert_eq!(verdicts(evidence), [Verdict::Short]);
        let empty = FinishedPass { recheck: Recheck::StillEmpty, ..pass(1, &[0], 0) };
        assert_eq!(verdicts(super::tests::evidence(vec![empty])), [Verdict::Exact]);
    }

    #[test]
    fn exact_passes_prove_at_once_only_if_all_lists_together_reach_the_smaller_total_of_the_app() {
        let passes = || vec![pass(1, &[60], 60), pass(2, &[40], 40)];
        assert!(proves_at_once(with_totals(100, 100, passes())));
        assert!(
            proves_at_once(with_totals(100, 120, passes()))
                && proves_at_once(with_totals(120, 100, passes()))
        );
        assert!(!proves_at_once(with_totals(101, 101, passes())), "a list may lack a standing group");
        assert!(!proves_at_once(evidence(passes())), "no total");
        for (start, end) in [(Some(100), None), (None, Some(100))] {
            let one_total = Evidence { total_at_start: start, total_at_end: end, ..evidence(passes()) };
            assert!(!proves_at_once(one_total));
        }
        let judgement = judge(with_totals(120, 120, passes()));
        assert_eq!(judgement.passes[0].verdict, Verdict::Exact, "the verdict is of the pass's own numbers");
        assert!(judgement.passes[0].proof.is_some());
    }

    #[test]
    fn one_short_pass_weakens_the_exact_ones_beside_it() {
        assert!(proves_at_once(with_totals(5, 5, vec![pass(1, &[5], 5)])));
        let beside = judge(with_totals(6, 6, vec![pass(1, &[5], 5), pass(2, &[9], 1)]));
        assert_eq!(beside.passes[0].verdict, Verdict::Exact);
        assert!(!beside.passes[0].proof.unwrap().by_one_absence());
    }

    #[test]
    fn a_moving_pass_proves_only_what_it_misses_twice() {
        let judgement = judge(with_totals(6, 6, vec![pass(1, &[5, 6], 6)]));
        assert!(!judgement.passes[0].proof.unwrap().by_one_absence());
    }

    #[test]
    fn a_shortfall_names_its_numbers_and_the_setting_that_would_accept_it() {
        let short = || pass(1, &[100_000], 99_000);
        let judgement = judge(evidence(vec![short()]));
        assert_eq!(
            judgement.shortfalls[0].to_string(),
            "listed 99000 different ids of a TotalCount of 100000, 1000 fewer, where 0 are explained by changes during the \
             crawl (deletion.max_shortfall = 0.01 would accept it)"
        );
        let large = judge(evidence(vec![pass(1, &[100], 94)]));
        assert!(
            !large.shortfalls[0].to_string().contains("max_shortfall"),
            "no advice to accept a large gap"
        );
        let small = judge(evidence(vec![pass(1, &[100], 95)]));
        assert!(small.shortfalls[0].to_string().contains("max_shortfall = 0.05"));
        let accepted = Evidence { max_shortfall: 0.01, ..evidence(vec![short()]) };
        assert_eq!(verdicts(accepted), [Verdict::Moving]);
    }

    proptest::proptest! {
        #[test]
        fn the_setting_a_shortfall_names_does_accept_it(total in 1u64..1_000_000, share in 0.0f64..1.0, first in 0u64..50) {
            let distinct = super::share(share, total);
            let short = || FinishedPass { first_listed: first, ..pass(1, &[total], distinct) };
            let judgement = judge(evidence(vec![short()]));
            if let Some(Shortfall { cause: ShortfallCause::Fewer { setting, .. }, .. }) = judgement.shortfalls.first() {
                let accepted = Evidence { max_shortfall: *setting, ..evidence(vec![short()]) };
                proptest::prop_assert_eq!(verdicts(accepted), [Verdict::Moving]);
            }
        }
    }
}
