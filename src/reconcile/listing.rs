//! The effect of listing a group on the group's row, on its events, and on the totals of its types.

use crate::model::TypeId;

/// The stored state of a group before it is listed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupBefore {
    pub type_id: TypeId,
    pub deleted: bool,
}

/// The event that a listing causes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListingEvent {
    Appeared,
    Reappeared,
    Retyped,
}

/// The effect of listing a group. In any case the group is live and not missing afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ListingEffect {
    /// `None` if the group was never listed before.
    pub before: Option<GroupBefore>,
    pub new_type: TypeId,
    pub event: Option<ListingEvent>,
}

impl ListingEffect {
    /// Returns the effect of listing a group under this type. [`TypeId::UNKNOWN`] does not change
    /// the stored type.
    ///
    /// A new group appears, unless it belongs to the baseline of its type. A deleted group
    /// reappears, whatever its type. A live group is retyped if another type was stored. Storing a
    /// type for a group of unknown type causes no event.
    #[must_use]
    pub fn of(before: Option<GroupBefore>, listed_as: TypeId, in_baseline: bool) -> Self {
        let Some(GroupBefore { type_id: old_type, deleted }) = before else {
            let event = (!in_baseline).then_some(ListingEvent::Appeared);
            return Self { before, new_type: listed_as, event };
        };
        let new_type = if listed_as == TypeId::UNKNOWN { old_type } else { listed_as };
        let event = if deleted {
            Some(ListingEvent::Reappeared)
        } else if new_type != old_type && old_type != TypeId::UNKNOWN {
            Some(ListingEvent::Retyped)
        } else {
            None
        };
        Self { before, new_type, event }
    }

    /// Returns the type that loses a live group, or `None` if the group was not live.
    /// [`Self::new_type`] gains it. Both may be the same type.
    #[must_use]
    pub fn left_type(&self) -> Option<TypeId> {
        self.before.filter(|before| !before.deleted).map(|before| before.type_id)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLIC: TypeId = TypeId(1);
    const PRIVATE: TypeId = TypeId(2);

    fn effect(
        before: Option<(TypeId, bool)>,
        listed_as: TypeId,
    ) -> (Option<ListingEvent>, TypeId, Option<TypeId>) {
        let before = before.map(|(type_id, deleted)| GroupBefore { type_id, deleted });
        let effect = ListingEffect::of(before, listed_as, false);
        (effect.event, effect.new_type, effect.left_type())
    }

    #[test]
    fn a_new_group_appears_except_in_a_baseline() {
        assert_eq!(effect(None, PUBLIC), (Some(ListingEvent::Appeared), PUBLIC, None));
        assert_eq!(effect(None, TypeId::UNKNOWN), (Some(ListingEvent::Appeared), TypeId::UNKNOWN, None));
        assert_eq!(ListingEffect::of(None, PUBLIC, true).event, None);
    }

    #[test]
    fn a_deleted_group_reappears_whatever_its_type() {
        for (listed_as, new_type) in [(PUBLIC, PUBLIC), (PRIVATE, PRIVATE), (TypeId::UNKNOWN, PUBLIC)] {
            assert_eq!(
                effect(Some((PUBLIC, true)), listed_as),
                (Some(ListingEvent::Reappeared), new_type, None)
            );
        }
    }

    #[test]
    fn a_live_group_is_retyped_only_if_another_type_was_stored() {
        let live = |type_id| Some((type_id, false));
        assert_eq!(effect(live(PUBLIC), PRIVATE), (Some(ListingEvent::Retyped), PRIVATE, Some(PUBLIC)));
        assert_eq!(effect(live(PUBLIC), PUBLIC), (None, PUBLIC, Some(PUBLIC)));
        assert_eq!(effect(live(PUBLIC), TypeId::UNKNOWN), (None, PUBLIC, Some(PUBLIC)));
        assert_eq!(effect(live(TypeId::UNKNOWN), PUBLIC), (None, PUBLIC, Some(TypeId::UNKNOWN)));
    }
}
