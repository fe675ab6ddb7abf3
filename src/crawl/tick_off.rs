//! Ticks one page off on the roll. Pure: what has to be written or asked about is only gathered.

use super::pass::PassPlan;
use crate::model::{GroupIds, TypeId};
use crate::roll::{Roll, Sighting};
use crate::tencent::Page;

/// New ids of a page that are looked at for samples.
const NEW_SAMPLES: usize = 32;

/// A page after it was ticked off.
pub(super) struct TickedOff {
    pub(super) page: Page,
    pub(super) changed: GroupIds,
    pub(super) unexpected: GroupIds,
    /// Live again though another type is known: only `missing_since` is to be cleared.
    pub(super) returned_elsewhere: GroupIds,
    /// Some of the new ids, for samples.
    pub(super) new_samples: GroupIds,
    /// New ids that wait for the crawl's end.
    pub(super) kept: Vec<String>,
    /// Listed under this type, and known under another.
    pub(super) claimed: Vec<(String, TypeId)>,
    /// Listed by an earlier pass too.
    pub(super) elsewhere_ids: Vec<String>,
    pub(super) counted: Counted,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counted {
    pub(super) distinct: u64,
    pub(super) elsewhere: u64,
    pub(super) repeats: u64,
    pub(super) new: u64,
    pub(super) returned: u64,
    pub(super) claimed: u64,
}

/// What the closure that ticks a page off has to know.
pub(super) struct TickOff {
    pub(super) plan: PassPlan,
    /// New ids that may still be written before the list has ended.
    pub(super) expected_left: u64,
    pub(super) note_elsewhere: bool,
    pub(super) learns_types: bool,
    pub(super) own_types: Vec<TypeId>,
}

impl TickOff {
    pub(super) fn run(&self, roll: &mut Roll, mut off: TickedOff) -> TickedOff {
        let (type_id, typed) = (self.plan.type_id, self.plan.group_type.is_some());
        let page = std::mem::replace(&mut off.page, Page::empty());
        let mut expected_left = self.expected_left;
        roll.list(self.plan.no, type_id, &page.ids, |id, sighting| {
            let counted = &mut off.counted;
            match sighting {
                Sighting::Repeat => {
                    counted.repeats += 1;
                    return;
                }
                Sighting::Elsewhere => {
                    counted.elsewhere += 1;
                    if self.note_elsewhere && typed {
                        off.elsewhere_ids.push(id.to_owned());
                    }
                }
                Sighting::New => {
                    counted.new += 1;
                    if off.new_samples.len() == NEW_SAMPLES {
                        off.new_samples.clear();
                    }
                    off.new_samples.push(id);
                    if self.plan.keep_new {
                        off.kept.push(id.to_owned());
                    } else if expected_left > 0 {
                        expected_left -= 1;
                        off.changed.push(id);
                    } else {
                        off.unexpected.push(id);
                    }
                }
                Sighting::Known { known_type, missing } => {
                    counted.returned += u64::from(missing);
                    let right_type = !typed || known_type == type_id;
                    let untold = typed && known_type == TypeId::UNKNOWN;
                    if untold || (right_type && missing) {
                        off.changed.push(id);
                    } else if !right_type {
                        counted.claimed += 1;
                        off.claimed.push((id.to_owned(), known_type));
                        if missing {
                            off.returned_elsewhere.push(id);
                        }
                    }
                    let in_doubt = known_type == TypeId::UNKNOWN || self.own_types.contains(&known_type);
                    if !typed && in_doubt && self.learns_types {
                        off.claimed.push((id.to_owned(), known_type));
                    }
                }
            }
            off.counted.distinct += 1;
        });
        off.page = page;
        off
    }
}
