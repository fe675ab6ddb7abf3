//! Compares a page with the roll. No I/O: ids that have to be written are buffered.

use super::tally::{PassNotes, PassTally};
use super::write_buffer::WriteBuffer;
use crate::model::{GroupIds, TypeId};
use crate::roll::{Roll, RollMatch};
use crate::tencent::Page;

/// New ids of a page that may become samples.
const NEW_SAMPLES: usize = 32;
/// New ids that a pass may write beyond its TotalCount and the live groups before the crawl. Further ones are written only
/// once the list has ended, because a list that invents ids may never end.
const UNEXPECTED_NEW_IDS: u64 = 1_000;

/// What comparing a page with the roll changes.
pub(super) struct PageDiff<'a> {
    pub(super) tally: &'a mut PassTally,
    pub(super) notes: &'a mut PassNotes,
    pub(super) buffer: &'a mut WriteBuffer,
    /// Whether `get_group_info` is asked about types.
    pub(super) confirms_types: bool,
}

impl PageDiff<'_> {
    /// Ticks the ids of a page off on the roll, counts them in the tally, and buffers those that have to be written.
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
                RollMatch::Known { known_type, missing } => self.on_known(id, known_type, missing),
            }
            self.tally.distinct += 1;
        });
        self.notes.samples.take(type_id, &page.ids, &new_samples);
        self.tally.unusable += page.unusable;
        let has_news = self.tally.distinct > listed_before;
        self.tally.pages_without_news = if has_news { 0 } else { self.tally.pages_without_news + 1 };
    }

    fn on_listed_earlier(&mut self, id: &str) {
        self.tally.elsewhere += 1;
        if self.tally.plan.group_type.is_some() {
            self.notes.uncertain.dispute(id);
        }
    }

    fn on_new(&mut self, id: &str) {
        let tally = &mut *self.tally;
        let expected = tally.counts.highest.unwrap_or(0).max(tally.plan.live_before) + UNEXPECTED_NEW_IDS;
        let is_expected = tally.new < expected;
        tally.new += 1;
        if tally.plan.defers_new && self.notes.uncertain.defer_new(id) {
            return;
        }
        let ids = if is_expected { &mut self.buffer.changed } else { &mut self.buffer.unexpected };
        ids.push(id);
    }

    fn on_known(&mut self, id: &str, known_type: TypeId, missing: bool) {
        let type_id = self.tally.plan.type_id;
        let PassNotes { uncertain, history, own_types, .. } = &mut *self.notes;
        self.tally.returned += u64::from(missing);
        if self.tally.plan.group_type.is_none() {
            if missing {
                self.buffer.changed.push(id);
            }
            let is_uncertain = known_type == TypeId::UNKNOWN || own_types.contains(&known_type);
            if is_uncertain && self.confirms_types {
                uncertain.add_unfiltered(history, id, known_type);
            }
        } else if known_type == TypeId::UNKNOWN || (known_type == type_id && missing) {
            self.buffer.changed.push(id);
        } else if known_type != type_id {
            self.tally.claimed += 1;
            uncertain.add_claim(history, id, known_type, type_id);
            if missing {
                self.buffer.returned_elsewhere.push(id);
            }
        }
    }
}
