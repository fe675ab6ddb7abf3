//! Compares one page with the roll and sorts its ids by what has to be done about them. No I/O.

use super::tally::{PassNotes, PassTally};
use super::write_buffer::WriteBuffer;
use crate::model::{GroupIds, TypeId};
use crate::roll::{Roll, Sighting};
use crate::tencent::Page;

/// New ids of a page that may become samples.
const NEW_SAMPLES: usize = 32;
/// New ids that a pass may write beyond its TotalCount and the live groups before the crawl. Further ones are written only
/// once the list has ended, because a list that invents ids may never end.
const UNEXPECTED_NEW_IDS: u64 = 1_000;

/// What comparing a page changes.
pub(super) struct PageDiff<'a> {
    pub(super) tally: &'a mut PassTally,
    pub(super) notes: &'a mut PassNotes,
    pub(super) buffer: &'a mut WriteBuffer,
    /// The types of groups are asked about and stored.
    pub(super) learns_types: bool,
}

impl PageDiff<'_> {
    /// Marks the ids of a page as listed on the roll. Counts them in the tally, and buffers those that have to be written.
    pub(super) fn apply(mut self, roll: &mut Roll, page: &Page) {
        let (pass, type_id) = (self.tally.plan.no, self.tally.plan.type_id);
        let listed_before = self.tally.distinct;
        let mut new_samples = GroupIds::new();
        roll.list(pass, type_id, &page.ids, |id, sighting| {
            match sighting {
                Sighting::Repeat => {
                    self.tally.repeats += 1;
                    return;
                }
                Sighting::Elsewhere => self.listed_by_earlier_pass(id),
                Sighting::New => {
                    if new_samples.len() == NEW_SAMPLES {
                        new_samples.clear();
                    }
                    new_samples.push(id);
                    self.new(id);
                }
                Sighting::Known { known_type, missing } => self.known(id, known_type, missing),
            }
            self.tally.distinct += 1;
        });
        self.notes.samples.take(type_id, &page.ids, &new_samples);
        self.tally.unusable += page.unusable;
        let has_news = self.tally.distinct > listed_before;
        self.tally.pages_without_news = if has_news { 0 } else { self.tally.pages_without_news + 1 };
    }

    fn listed_by_earlier_pass(&mut self, id: &str) {
        self.tally.elsewhere += 1;
        if self.tally.plan.group_type.is_some() {
            self.notes.doubts.dispute(id);
        }
    }

    fn new(&mut self, id: &str) {
        let tally = &mut *self.tally;
        let expected = tally.counts.highest.unwrap_or(0).max(tally.plan.live_before) + UNEXPECTED_NEW_IDS;
        let is_expected = tally.new < expected;
        tally.new += 1;
        if tally.plan.keep_new && self.notes.doubts.keep_new(id) {
            return;
        }
        let ids = if is_expected { &mut self.buffer.changed } else { &mut self.buffer.unexpected };
        ids.push(id);
    }

    fn known(&mut self, id: &str, known_type: TypeId, missing: bool) {
        let type_id = self.tally.plan.type_id;
        let PassNotes { doubts, history, own_types, .. } = &mut *self.notes;
        self.tally.returned += u64::from(missing);
        if self.tally.plan.group_type.is_none() {
            if missing {
                self.buffer.changed.push(id);
            }
            let in_doubt = known_type == TypeId::UNKNOWN || own_types.contains(&known_type);
            if in_doubt && self.learns_types {
                doubts.listed_without_filter(history, id, known_type);
            }
        } else if known_type == TypeId::UNKNOWN || (known_type == type_id && missing) {
            self.buffer.changed.push(id);
        } else if known_type != type_id {
            self.tally.claimed += 1;
            doubts.claim(history, id, known_type, type_id);
            if missing {
                self.buffer.returned_elsewhere.push(id);
            }
        }
    }
}
