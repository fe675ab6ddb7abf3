//! The guard: withholds deletions if there are too many to apply without approval. No I/O.
//!
//! The guard protects against lists that are wrong although their counts agree. It compares the
//! numbers of live groups before and after the crawl, of each type and of the app. So new groups
//! offset deleted ones. Every candidate counts as lost unless it was found to exist, so that a
//! large loss counts before all candidates have been looked up.

use std::collections::BTreeMap;

use crate::model::{ReasonCode, TypeId};
use crate::policy::DeletionPolicy;

/// The numbers of live groups of a type before and after a crawl.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LiveCounts {
    /// The number of live groups when the crawl began.
    pub before: u64,
    /// The number of live groups afterwards if all losses are real. A group that changes its type
    /// counts neither as lost nor as gained.
    pub after: u64,
    /// The number of candidates for deletion that were not found to exist.
    pub lost: u64,
}

impl LiveCounts {
    /// Returns the counts of a type that had `before` live groups, gained `gained` groups and lost
    /// `lost` candidates.
    #[must_use]
    pub fn of(before: u64, gained: u64, lost: u64) -> Self {
        Self { before, after: (before + gained).saturating_sub(lost), lost }
    }
}

/// The types whose deletions are withheld, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withholding {
    pub types: Vec<TypeId>,
    pub code: ReasonCode,
    /// The types that exceed their limits; `None` stands for the app. Empty in review mode.
    pub exceeded: Vec<(Option<TypeId>, LiveCounts)>,
}

/// Decides which types' deletions are withheld. Returns `None` if all deletions are applied.
/// `max_fractions` is `policy.max_fraction_by_type` by type id. Its types do not count towards the
/// limit of the app.
#[must_use]
pub fn decide_withholding(
    policy: &DeletionPolicy,
    max_fractions: &BTreeMap<TypeId, f64>,
    counts_by_type: &BTreeMap<TypeId, LiveCounts>,
) -> Option<Withholding> {
    let deleting =
        || counts_by_type.iter().filter(|(_, counts)| counts.lost > 0).map(|(type_id, _)| *type_id);
    if policy.review {
        let types: Vec<TypeId> = deleting().collect();
        return (!types.is_empty()).then(|| Withholding {
            types,
            code: ReasonCode::Review,
            exceeded: Vec::new(),
        });
    }
    let own_fraction = |type_id: &TypeId| max_fractions.get(type_id).copied();
    let mut exceeded: Vec<(Option<TypeId>, LiveCounts)> = counts_by_type
        .iter()
        .filter(|(type_id, counts)| {
            exceeds(counts, own_fraction(type_id).unwrap_or(policy.max_fraction), policy.min_groups)
        })
        .map(|(type_id, counts)| (Some(*type_id), *counts))
        .collect();
    let mut types: Vec<TypeId> = exceeded.iter().filter_map(|(type_id, _)| *type_id).collect();
    let pooled = counts_by_type.iter().filter(|(type_id, _)| own_fraction(type_id).is_none());
    let app = pooled.fold(LiveCounts::default(), |sum, (_, counts)| LiveCounts {
        before: sum.before + counts.before,
        after: sum.after + counts.after,
        lost: sum.lost + counts.lost,
    });
    if exceeds(&app, policy.max_fraction, policy.min_groups) {
        exceeded.push((None, app));
        types =
            deleting().filter(|type_id| own_fraction(type_id).is_none() || types.contains(type_id)).collect();
    }
    (!types.is_empty()).then_some(Withholding { types, code: ReasonCode::Guard, exceeded })
}

/// Returns whether more groups are gone than both limits allow. The factor corrects the rounding
/// errors of the fraction and of the product: `0.29 * 200.0` is slightly less than 58.
#[expect(clippy::cast_precision_loss, reason = "counts are far below 2^52")]
fn exceeds(counts: &LiveCounts, max_fraction: f64, min_groups: u64) -> bool {
    let shrinks_by = counts.before.saturating_sub(counts.after);
    let max_loss = max_fraction * counts.before as f64 * (1.0 + 4.0 * f64::EPSILON);
    shrinks_by > min_groups && shrinks_by as f64 > max_loss
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: TypeId = TypeId(1);
    const ROOMS: TypeId = TypeId(4);

    fn policy() -> DeletionPolicy {
        DeletionPolicy { max_fraction: 0.2, min_groups: 100, ..DeletionPolicy::default() }
    }

    fn max_fractions() -> BTreeMap<TypeId, f64> {
        BTreeMap::from([(ROOMS, 1.0)])
    }

    fn counts(before: u64, gained: u64, lost: u64) -> LiveCounts {
        LiveCounts::of(before, gained, lost)
    }

    fn withheld(counts: &[(TypeId, LiveCounts)]) -> Vec<TypeId> {
        let counts = counts.iter().copied().collect();
        decide_withholding(&policy(), &max_fractions(), &counts)
            .map(|withholding| withholding.types)
            .unwrap_or_default()
    }

    #[test]
    fn a_type_may_lose_a_fifth_and_no_more() {
        assert_eq!(withheld(&[(PUBLIC, counts(1000, 0, 200))]), []);
        assert_eq!(withheld(&[(PUBLIC, counts(1000, 0, 201))]), [PUBLIC]);
    }

    #[test]
    fn a_rounding_error_does_not_lower_the_limit() {
        let policy = DeletionPolicy { max_fraction: 0.29, min_groups: 0, ..DeletionPolicy::default() };
        let is_withheld = |lost| {
            let counts = BTreeMap::from([(PUBLIC, counts(200, 0, lost))]);
            decide_withholding(&policy, &BTreeMap::new(), &counts).is_some()
        };
        assert!(!is_withheld(58) && is_withheld(59));
    }

    #[test]
    fn a_type_may_always_lose_min_groups() {
        assert_eq!(withheld(&[(PUBLIC, counts(100, 0, 100))]), []);
        assert_eq!(withheld(&[(PUBLIC, counts(101, 0, 101))]), [PUBLIC]);
    }

    #[test]
    fn new_groups_offset_lost_ones() {
        assert_eq!(withheld(&[(PUBLIC, counts(1000, 900, 1000))]), []);
    }

    #[test]
    fn a_type_with_its_own_limit_does_not_count_towards_the_limit_of_the_app() {
        assert_eq!(withheld(&[(ROOMS, counts(5000, 0, 5000)), (PUBLIC, counts(1000, 0, 10))]), []);
        assert_eq!(withheld(&[(ROOMS, counts(5000, 0, 5000)), (PUBLIC, counts(1000, 0, 500))]), [PUBLIC]);
    }

    #[test]
    fn if_the_app_exceeds_its_limit_all_types_without_their_own_limit_are_withheld() {
        let small = TypeId(2);
        let shrinking = [(PUBLIC, counts(1000, 0, 900)), (small, counts(60, 0, 60))];
        assert_eq!(withheld(&shrinking), [PUBLIC, small]);
    }

    #[test]
    fn types_within_their_limits_are_withheld_if_they_exceed_the_limit_of_the_app_together() {
        let small = TypeId(2);
        assert_eq!(withheld(&[(PUBLIC, counts(60, 0, 60)), (small, counts(60, 0, 60))]), [PUBLIC, small]);
        assert_eq!(withheld(&[(PUBLIC, counts(50, 0, 50)), (small, counts(50, 0, 50))]), []);
    }

    #[test]
    fn the_counts_of_the_app_are_the_sum_of_the_types_without_their_own_limit() {
        let losing = [(PUBLIC, counts(60, 5, 60)), (TypeId(2), counts(70, 1, 60)), (ROOMS, counts(9, 0, 9))];
        let withholding = decide_withholding(&policy(), &max_fractions(), &BTreeMap::from(losing)).unwrap();
        assert_eq!(withholding.exceeded, [(None, counts(130, 6, 120))]);
    }

    #[test]
    fn in_review_mode_every_deletion_is_withheld_and_nothing_else() {
        let review = DeletionPolicy { review: true, ..policy() };
        let losing = BTreeMap::from([(PUBLIC, counts(1000, 0, 1)), (ROOMS, counts(5, 1, 0))]);
        let withholding = decide_withholding(&review, &max_fractions(), &losing).unwrap();
        assert_eq!((withholding.types, withholding.code), (vec![PUBLIC], ReasonCode::Review));
        let nothing = BTreeMap::from([(PUBLIC, counts(1000, 5, 0))]);
        assert_eq!(decide_withholding(&review, &max_fractions(), &nothing), None);
    }
}
