//! Compares a page with the roll, and buffers the ids that have to be written. No I/O.

use super::tally::{PassState, PassTally};
use super::write_buffer::WriteBuffer;
use crate::model::{GroupIds, TypeId};
use crate::roll::{Roll, RollMatch};
use crate::tencent::Page;

/// The maximum number of new ids of a page that are kept as samples. After this number the samples
/// start again, so they are between 1 and this many of the page's last new ids. Samples can become
/// controls, see `Samples` in `confirmation`.
const NEW_SAMPLES: usize = 32;
/// The number of unexpected new ids of a pass that are written before the list ends. New ids are
/// unexpected once their number exceeds both the pass's `TotalCount` and the number of live groups
/// before the crawl. Further new ids are written only after the list has ended, because an endless
/// list may consist of ids that do not exist.
const UNEXPECTED_NEW_IDS: u64 = 1_000;

/// The state that comparing a page with the roll changes.
pub(super) struct PageDiff<'a> {
    pub(super) tally: &'a mut PassTally,
    pub(super) pass_state: &'a mut PassState,
    pub(super) buffer: &'a mut WriteBuffer,
    /// Whether the types that `get_group_info` returns are stored, see
    /// [`CrawlSettings::confirms_types`].
    ///
    /// [`CrawlSettings::confirms_types`]: super::settings::CrawlSettings::confirms_types
    pub(super) confirms_types: bool,
}

impl PageDiff<'_> {
    /// Marks the ids of a page as listed on the roll, counts them in the tally, and buffers the ids
    /// that have to be written.
    pub(super) fn apply(mut self, roll: &mut Roll, page: &Page) {
        let (pass, type_id) = (self.tally.plan.no, self.tally.plan.type_id);
        let listed_before = self.tally.distinct;
        let mut new_samples = GroupIds::new();
        roll.list(pass, type_id, &page.ids, |id, matched| {
            match matched {
                RollMatch::Repeat => {
                    self.tally.repeats += 1;
                    return;
                }
                RollMatch::Earlier => self.on_listed_earlier(id),
                RollMatch::New => {
                    if new_samples.len() == NEW_SAMPLES {
                        new_samples.clear();
                    }
                    new_samples.push(id);
                    self.on_new(id);
                }
                RollMatch::Known { stored_type, missing } => self.on_known(id, stored_type, missing),
            }
            self.tally.distinct += 1;
        });
        self.pass_state.samples.add_page(type_id, &page.ids, &new_samples);
        self.tally.unusable += page.unusable;
        let has_progress = self.tally.distinct > listed_before;
        self.tally.repeated_pages = if has_progress { 0 } else { self.tally.repeated_pages + 1 };
    }

    /// Records an id that an earlier pass of this crawl has listed. Two typed passes that list the
    /// same group contradict each other, so the group's type becomes disputed.
    fn on_listed_earlier(&mut self, id: &str) {
        self.tally.listed_earlier += 1;
        if self.tally.plan.group_type.is_some() {
            self.pass_state.uncertain.dispute(id);
        }
    }

    /// Buffers a group that is not on the roll, unless it is deferred to the end of the crawl.
    fn on_new(&mut self, id: &str) {
        let tally = &mut *self.tally;
        let expected = tally.counts.highest.unwrap_or(0).max(tally.plan.live_before) + UNEXPECTED_NEW_IDS;
        let is_expected = tally.not_on_roll < expected;
        tally.not_on_roll += 1;
        // `defer_new` returns false if its capacity is exhausted. Then the group is written now.
        if tally.plan.defers_new_groups && self.pass_state.uncertain.defer_new(id) {
            return;
        }
        let ids = if is_expected { &mut self.buffer.changed } else { &mut self.buffer.unexpected };
        ids.push(id);
    }

    /// Handles a known live group. It is buffered only if its row has to change. Its type becomes
    /// uncertain if the list contradicts the stored type.
    fn on_known(&mut self, id: &str, stored_type: TypeId, missing: bool) {
        let type_id = self.tally.plan.type_id;
        let PassState { uncertain, history, own_types, .. } = &mut *self.pass_state;
        self.tally.were_missing += u64::from(missing);
        if self.tally.plan.group_type.is_none() {
            if missing {
                self.buffer.changed.push(id);
            }
            // A group whose type has a pass of its own was absent from that pass.
            let is_uncertain = stored_type == TypeId::UNKNOWN || own_types.contains(&stored_type);
            if is_uncertain && self.confirms_types {
                uncertain.add_unfiltered(history, id, stored_type);
            }
        } else if stored_type == TypeId::UNKNOWN || (stored_type == type_id && missing) {
            self.buffer.changed.push(id);
        } else if stored_type != type_id {
            // A list alone does not change the stored type.
            self.tally.stored_as_other_type += 1;
            uncertain.add_listed_as_other_type(history, id, stored_type, type_id);
            if missing {
                self.buffer.returned_elsewhere.push(id);
            }
        }
    }
}
