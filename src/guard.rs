//! How many deletions are too many to apply unseen. Pure.
//!
//! What counts is by how much a type, or the app, would shrink in all: a thousand groups that go while a thousand come
//! are turnover. Every candidate counts that was not found standing, so that a loss is seen whole before all of it has been
//! asked about. A list that is complete by its own numbers can still be absurd, and then a person decides.

use std::collections::BTreeMap;

use crate::model::{ReasonCode, TypeId};
use crate::policy::DeletionPolicy;

/// What a crawl would do to the live groups of a type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Change {
    /// Live when the crawl began.
    pub before: u64,
    /// Live if all its losses are real. A group that changes its type counts as neither loss nor gain.
    pub after: u64,
    /// Candidates for deletion that were not found standing.
    pub lost: u64,
}

impl Change {
    /// The change of a type with `before` live groups when the crawl began, `gained` new ones and `lost` candidates.
    #[must_use]
    pub fn of(before: u64, gained: u64, lost: u64) -> Self {
        Self { before, after: (before + gained).saturating_sub(lost), lost }
    }
}

/// Deletions that are not applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Withholding {
    pub types: Vec<TypeId>,
    pub code: ReasonCode,
    /// Where the limit is exceeded; `None` is the app as a whole. Empty in review.
    pub exceeded: Vec<(Option<TypeId>, Change)>,
}

/// Decides which types' deletions are withheld; `None` if all are applied. `max_fractions` is
/// `policy.max_fraction_by_type` by the ids of the types. The limit of the app does not count these types.
#[must_use]
pub fn withhold(
    policy: &DeletionPolicy,
    max_fractions: &BTreeMap<TypeId, f64>,
    changes: &BTreeMap<TypeId, Change>,
) -> Option<Withholding> {
    let deleting = || changes.iter().filter(|(_, change)| change.lost > 0).map(|(type_id, _)| *type_id);
    if policy.review {
        let types: Vec<TypeId> = deleting().collect();
        return (!types.is_empty()).then(|| Withholding {
            types,
            code: ReasonCode::Review,
            exceeded: Vec::new(),
        });
    }
    let own = |type_id: &TypeId| max_fractions.get(type_id).copied();
    let mut exceeded: Vec<(Option<TypeId>, Change)> = changes
        .iter()
        .filter(|(type_id, change)| {
            exceeds(change, own(type_id).unwrap_or(policy.max_fraction), policy.min_groups)
        })
        .map(|(type_id, change)| (Some(*type_id), *change))
        .collect();
    let mut types: Vec<TypeId> = exceeded.iter().filter_map(|(type_id, _)| *type_id).collect();
    let guarded = changes.iter().filter(|(type_id, _)| own(type_id).is_none());
    let app = guarded.fold(Change::default(), |sum, (_, change)| Change {
        before: sum.before + change.before,
        after: sum.after + change.after,
        lost: sum.lost + change.lost,
    });
    if exceeds(&app, policy.max_fraction, policy.min_groups) {
        exceeded.push((None, app));
        types = deleting().filter(|type_id| own(type_id).is_none() || types.contains(type_id)).collect();
    }
    (!types.is_empty()).then_some(Withholding { types, code: ReasonCode::Guard, exceeded })
}

#[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
fn exceeds(change: &Change, max_fraction: f64, min_groups: u64) -> bool {
    let shrinks_by = change.before.saturating_sub(change.after);
    shrinks_by > min_groups && shrinks_by as f64 > max_fraction * change.before as f64
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

    fn change(before: u64, appeared: u64, vanished: u64) -> Change {
        Change::of(before, appeared, vanished)
    }

    fn withheld(changes: &[(TypeId, Change)]) -> Vec<TypeId> {
        let changes = changes.iter().copied().collect();
        withhold(&policy(), &max_fractions(), &changes)
            .map(|withholding| withholding.types)
            .unwrap_or_default()
    }

    #[test]
    fn a_type_may_lose_a_fifth_and_no_more() {
        assert_eq!(withheld(&[(PUBLIC, change(1000, 0, 200))]), []);
        assert_eq!(withheld(&[(PUBLIC, change(1000, 0, 201))]), [PUBLIC]);
    }

    #[test]
    fn a_hundred_groups_may_always_go() {
        assert_eq!(withheld(&[(PUBLIC, change(100, 0, 100))]), []);
        assert_eq!(withheld(&[(PUBLIC, change(101, 0, 101))]), [PUBLIC]);
    }

    #[test]
    fn turnover_is_no_shrinkage() {
        assert_eq!(withheld(&[(PUBLIC, change(1000, 900, 1000))]), []);
    }

    #[test]
    fn a_type_with_a_share_of_its_own_is_not_counted_for_the_app() {
        assert_eq!(withheld(&[(ROOMS, change(5000, 0, 5000)), (PUBLIC, change(1000, 0, 10))]), []);
        assert_eq!(withheld(&[(ROOMS, change(5000, 0, 5000)), (PUBLIC, change(1000, 0, 500))]), [PUBLIC]);
    }

    #[test]
    fn an_app_that_shrinks_too_much_keeps_all_its_guarded_types() {
        let small = TypeId(2);
        let changes = [(PUBLIC, change(1000, 0, 900)), (small, change(60, 0, 60))];
        assert_eq!(withheld(&changes), [PUBLIC, small]);
    }

    #[test]
    fn in_review_every_deletion_waits_and_nothing_else_does() {
        let review = DeletionPolicy { review: true, ..policy() };
        let changes = BTreeMap::from([(PUBLIC, change(1000, 0, 1)), (ROOMS, change(5, 1, 0))]);
        let withholding = withhold(&review, &max_fractions(), &changes).unwrap();
        assert_eq!((withholding.types, withholding.code), (vec![PUBLIC], ReasonCode::Review));
        let nothing = BTreeMap::from([(PUBLIC, change(1000, 5, 0))]);
        assert_eq!(withhold(&review, &max_fractions(), &nothing), None);
    }
}
