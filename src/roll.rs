//! The roll of one crawl: an index of the known live groups, which records the groups that the
//! crawl lists. No I/O.
//!
//! Group ids are stored as 60-bit keyed hashes, about nine bytes a group. Every crawl has a new
//! random key, so that app users cannot choose colliding ids. With 10 million groups, two ids
//! collide in 4 of 100,000 crawls. Such a crawl overlooks that one of the two groups is new,
//! changed or unlisted. The next crawl has another key.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use crate::model::{GroupIds, TypeId};

/// The maximum number of passes in a crawl.
pub const MAX_PASSES: usize = 62;

/// The number of ids in one batch of lookups.
const LOOKUP_BATCH: usize = 64;

/// The number of a pass within its crawl, starting at 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PassNo(u8);

impl PassNo {
    /// Returns the number of the pass with this index, which starts at 0.
    ///
    /// # Panics
    /// If `index` is not below [`MAX_PASSES`]. The configuration allows fewer group types.
    #[must_use]
    pub fn nth(index: usize) -> Self {
        assert!(index < MAX_PASSES, "a crawl has at most {MAX_PASSES} passes");
        Self(u8::try_from(index + 1).expect("62 fits a byte"))
    }
}

/// The marks of a live group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// An earlier crawl did not list the group.
    pub missing: bool,
    /// The deletion of the group waits for approval.
    pub held: bool,
}

/// The result of looking up a listed id on the roll.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RollMatch {
    /// A known live group, listed for the first time in this crawl.
    Known {
        /// The stored type.
        stored_type: TypeId,
        /// Whether the group was missing.
        missing: bool,
    },
    /// Not a known live group: it was never listed before, or is deleted.
    New,
    /// Already listed by this pass.
    Repeat,
    /// Already listed by an earlier pass of this crawl.
    Earlier,
}

/// The number of live groups of a type that no pass has listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unlisted {
    pub groups: u64,
    /// How many of these groups are held.
    pub held: u64,
}

/// A group: the hash of its id, with its state in the lowest four bits. 0 is an empty slot.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Entry(u64);

impl Entry {
    const STATE: u64 = 0b1111;
    const LISTED_BEFORE: u64 = 0b0001;
    const LISTED_NOW: u64 = 0b0010;
    const LISTED: u64 = Self::LISTED_BEFORE | Self::LISTED_NOW;
    const MISSING: u64 = 0b0100;
    const HELD: u64 = 0b1000;

    /// Returns the entry of a group that no pass has listed. It is never 0, the empty slot.
    fn of(hash: u64) -> Self {
        Self((hash & !Self::STATE).max(Self::STATE + 1))
    }

    fn has_hash_of(self, other: Self) -> bool {
        (self.0 ^ other.0) <= Self::STATE
    }

    fn mark(&mut self, mark: Mark) {
        self.0 |= u64::from(mark.missing) * Self::MISSING + u64::from(mark.held) * Self::HELD;
    }

    fn is_missing(self) -> bool {
        self.0 & Self::MISSING != 0
    }

    fn is_held(self) -> bool {
        self.0 & Self::HELD != 0
    }

    fn is_listed(self) -> bool {
        self.0 & Self::LISTED != 0
    }

    fn was_listed_before(self) -> bool {
        self.0 & Self::LISTED_BEFORE != 0
    }

    fn set_listed(&mut self) {
        self.0 = self.0 & !Self::LISTED | Self::LISTED_NOW;
    }

    /// Replaces "listed by the current pass" by "listed by an earlier pass".
    fn begin_pass(&mut self) {
        // Subtracting 1 turns 0b0010 into 0b0001.
        self.0 -= (self.0 & Self::LISTED_NOW) / 2;
    }
}

const TABLE_OVERFLOW: &str = "more than 256 entries are displaced past the last home slot";

/// An open-addressing hash table with linear probing, kept in hash order. A lookup touches one or
/// two cache lines. An insertion moves the following entries, up to the next empty slot, by one.
/// The table grows in place.
#[derive(Default)]
struct Table {
    slots: Vec<Entry>,
    /// The number of home slots. A hash maps to one of these. More slots follow, for entries that
    /// are displaced past the last home slot.
    homes: usize,
    groups: usize,
}

impl Table {
    /// Returns the number of home slots for this many groups: a load factor of 7/8.
    fn homes_for(groups: usize) -> usize {
        groups + groups / 7 + 1
    }

    /// Returns the number of all slots for this many home slots. The probability that an entry is
    /// displaced past the last slot is below 10⁻³⁰.
    fn slots_for(homes: usize) -> usize {
        homes + homes.min(256)
    }

    fn allocate(groups: usize) -> Vec<Entry> {
        Vec::with_capacity(Self::slots_for(Self::homes_for(groups)))
    }

    /// Builds a table from entries in any order.
    fn of(mut groups: Vec<Entry>) -> Self {
        groups.sort_unstable();
        groups.dedup();
        let mut table = Self { groups: groups.len(), slots: groups, homes: 0 };
        table.grow(Self::homes_for(table.groups));
        table
    }

    fn home_of(&self, entry: Entry) -> usize {
        let home = (u128::from(entry.0) * self.homes as u128) >> 64;
        usize::try_from(home).expect("a home slot is below `homes`")
    }

    /// Grows the table to this many home slots, not fewer than before. Works in place: moves all
    /// entries to the end of the table, then each entry, in order, back to its slot. The target
    /// index is never greater than the source index, so no entry is overwritten.
    fn grow(&mut self, homes: usize) {
        let before = self.slots.len();
        let slots = Self::slots_for(homes);
        self.slots.reserve_exact(slots.saturating_sub(before));
        self.slots.resize(slots.max(before), Entry::default());
        self.homes = homes;
        let mut first = self.slots.len();
        for at in (0..before).rev() {
            let entry = std::mem::take(&mut self.slots[at]);
            if entry != Entry::default() {
                first -= 1;
                self.slots[first] = entry;
            }
        }
        let mut next = 0;
        for at in first..self.slots.len() {
            let entry = std::mem::take(&mut self.slots[at]);
            let home = self.home_of(entry).max(next);
            assert!(home <= at, "{TABLE_OVERFLOW}");
            self.slots[home] = entry;
            next = home + 1;
        }
    }

    /// Returns the slot of a group. The error is the slot where the group would be inserted.
    fn search(&self, entry: Entry) -> Result<usize, usize> {
        let from = self.home_of(entry);
        // An empty slot or a greater hash ends the search. Minus 1, an empty slot (0) becomes the
        // greatest number and so is never smaller.
        let is_smaller = |other: &Entry| other.0.wrapping_sub(1) < entry.0 - 1;
        let slots = self.slots.get(from..).unwrap_or_default();
        let at = from + slots.iter().position(|other| !is_smaller(other)).unwrap_or(slots.len());
        match self.slots.get(at) {
            Some(other) if other.has_hash_of(entry) => Ok(at),
            _ => Err(at),
        }
    }

    fn find(&self, entry: Entry) -> Option<usize> {
        self.search(entry).ok()
    }

    /// Inserts a group that is not in the table yet.
    fn insert(&mut self, entry: Entry) {
        if Self::homes_for(self.groups + 1) > self.homes {
            // Grows by an eighth. Doubling could waste half of the memory.
            self.grow(Self::homes_for(self.groups + (self.groups / 8).max(64)));
        }
        let at = self.search(entry).unwrap_or_else(|at| at);
        let gap = self.slots[at..].iter().position(|other| *other == Entry::default());
        let gap = at + gap.expect(TABLE_OVERFLOW);
        self.slots.copy_within(at..gap, at + 1);
        self.slots[at] = entry;
        self.groups += 1;
    }

    fn entries(&self) -> impl Iterator<Item = Entry> {
        self.slots.iter().copied().filter(|entry| *entry != Entry::default())
    }
}

/// Returns the entry of an id under the key of a roll. Hashes the bytes with one `write`; hashing a
/// `str` would call it twice.
fn entry_of(key: &RandomState, id: &str) -> Entry {
    let mut hasher = key.build_hasher();
    hasher.write(id.as_bytes());
    Entry::of(hasher.finish())
}

/// Builds a roll from the known live groups of an app.
#[derive(Default)]
pub struct RollBuilder {
    key: RandomState,
    known: BTreeMap<TypeId, Vec<Entry>>,
    /// The groups that have a mark. [`RollBuilder::finish`] sets the marks in the tables.
    marked: Vec<(TypeId, Entry, Mark)>,
}

impl std::fmt::Debug for RollBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RollBuilder").finish_non_exhaustive()
    }
}

impl RollBuilder {
    /// Allocates memory for the expected number of groups of each type. More groups may be added.
    #[must_use]
    pub fn with_capacity(expected: impl IntoIterator<Item = (TypeId, u64)>) -> Self {
        let allocate = |groups| Table::allocate(usize::try_from(groups).unwrap_or(0));
        let known = expected.into_iter().map(|(type_id, groups)| (type_id, allocate(groups))).collect();
        Self { known, ..Self::default() }
    }

    pub fn add(&mut self, type_id: TypeId, id: &str, mark: Mark) {
        let entry = entry_of(&self.key, id);
        self.known.entry(type_id).or_default().push(entry);
        if mark != Mark::default() {
            self.marked.push((type_id, entry, mark));
        }
    }

    #[must_use]
    pub fn finish(self) -> Roll {
        let mut known: BTreeMap<TypeId, Table> =
            self.known.into_iter().map(|(type_id, groups)| (type_id, Table::of(groups))).collect();
        for (type_id, entry, mark) in self.marked {
            if let Some(table) = known.get_mut(&type_id)
                && let Some(at) = table.find(entry)
            {
                table.slots[at].mark(mark);
            }
        }
        Roll { key: self.key, known, new: Table::default(), pass: None, listed: 0 }
    }
}

/// The roll of one crawl, see the module documentation.
pub struct Roll {
    key: RandomState,
    known: BTreeMap<TypeId, Table>,
    /// Listed ids that are not known to be live.
    new: Table,
    /// The current pass.
    pass: Option<PassNo>,
    /// The number of distinct ids that all passes have listed.
    listed: u64,
}

impl std::fmt::Debug for Roll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Roll").field("listed", &self.listed).finish_non_exhaustive()
    }
}

impl Roll {
    /// Marks the ids of a page as listed, and calls `on_match` for each id in order. `pass_type`
    /// is [`TypeId::UNKNOWN`] for the unfiltered pass. The caller finishes one pass before it begins
    /// the next.
    pub fn list(
        &mut self,
        pass: PassNo,
        pass_type: TypeId,
        ids: &GroupIds,
        mut on_match: impl FnMut(&str, RollMatch),
    ) {
        if self.pass != Some(pass) {
            self.pass = Some(pass);
            let tables = self.known.values_mut().chain([&mut self.new]);
            tables.flat_map(|table| &mut table.slots).for_each(Entry::begin_pass);
        }
        // Lookups run in batches, so that the CPU overlaps their cache misses. A batch is small
        // enough that its slots are still cached when they are written.
        let ids: Vec<&str> = ids.iter().collect();
        for ids in ids.chunks(LOOKUP_BATCH) {
            let entries: Vec<Entry> = ids.iter().map(|id| entry_of(&self.key, id)).collect();
            let slots: Vec<Option<usize>> = match self.known.get(&pass_type) {
                Some(table) => entries.iter().map(|entry| table.find(*entry)).collect(),
                None => vec![None; entries.len()],
            };
            for ((id, entry), slot) in ids.iter().zip(entries).zip(slots) {
                on_match(id, self.list_one(pass_type, entry, slot));
            }
        }
    }

    fn list_one(&mut self, pass_type: TypeId, entry: Entry, slot: Option<usize>) -> RollMatch {
        let Some((stored_type, found)) = self.find(pass_type, entry, slot) else {
            let mut entry = entry;
            entry.set_listed();
            self.new.insert(entry);
            self.listed += 1;
            return RollMatch::New;
        };
        let before = *found;
        found.set_listed();
        if before.is_listed() {
            return if before.was_listed_before() { RollMatch::Earlier } else { RollMatch::Repeat };
        }
        self.listed += 1;
        RollMatch::Known { stored_type, missing: before.is_missing() }
    }

    /// Finds a group of any type. `slot` is the group's slot in the table of the `likely` type, if
    /// it is in that table.
    fn find(&mut self, likely: TypeId, entry: Entry, slot: Option<usize>) -> Option<(TypeId, &mut Entry)> {
        let elsewhere = || {
            let mut others = self.known.iter().filter(|(type_id, _)| **type_id != likely);
            others.find_map(|(type_id, table)| table.find(entry).map(|at| (*type_id, at)))
        };
        if let Some((type_id, at)) = slot.map(|at| (likely, at)).or_else(elsewhere) {
            return self.known.get_mut(&type_id).map(|table| (type_id, &mut table.slots[at]));
        }
        self.new.find(entry).map(|at| (likely, &mut self.new.slots[at]))
    }

    /// Returns the number of distinct ids that all passes have listed.
    #[must_use]
    pub fn listed(&self) -> u64 {
        self.listed
    }

    /// Iterates over the types that had live groups when the crawl began.
    pub fn types(&self) -> impl Iterator<Item = TypeId> {
        self.known.keys().copied()
    }

    /// Returns the number of live groups of a type when the crawl began.
    #[must_use]
    pub fn live_before(&self, type_id: TypeId) -> u64 {
        self.known.get(&type_id).map_or(0, |table| table.groups as u64)
    }

    /// Returns the number of live groups of all types when the crawl began.
    #[must_use]
    pub fn live_before_in_all(&self) -> u64 {
        self.known.values().map(|table| table.groups as u64).sum()
    }

    /// Counts the live groups that no pass has listed, by their stored type. Types without such
    /// groups are left out.
    #[must_use]
    pub fn unlisted(&self) -> BTreeMap<TypeId, Unlisted> {
        let count = |table: &Table| {
            table.entries().filter(|entry| !entry.is_listed()).fold(Unlisted::default(), |sum, entry| {
                Unlisted { groups: sum.groups + 1, held: sum.held + u64::from(entry.is_held()) }
            })
        };
        let counted = self.known.iter().map(|(type_id, table)| (*type_id, count(table)));
        counted.filter(|(_, unlisted)| unlisted.groups > 0).collect()
    }

    /// Returns whether the id is a live group of this type that no pass has listed.
    #[must_use]
    pub fn is_unlisted(&self, type_id: TypeId, id: &str) -> bool {
        let entry = entry_of(&self.key, id);
        self.known
            .get(&type_id)
            .and_then(|table| table.find(entry).map(|at| !table.slots[at].is_listed()))
            .unwrap_or(false)
    }

    /// Returns whether any pass has listed the id.
    #[must_use]
    pub fn is_listed(&self, id: &str) -> bool {
        let entry = entry_of(&self.key, id);
        let tables = self.known.values().chain([&self.new]);
        tables.filter_map(|table| table.find(entry).map(|at| &table.slots[at])).any(|found| found.is_listed())
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    const PUBLIC: TypeId = TypeId(1);
    const PRIVATE: TypeId = TypeId(2);

    fn roll(groups: &[(TypeId, &str, Mark)]) -> Roll {
        let mut builder = RollBuilder::default();
        groups.iter().for_each(|(type_id, id, mark)| builder.add(*type_id, id, *mark));
        builder.finish()
    }

    fn known(stored_type: TypeId) -> RollMatch {
        RollMatch::Known { stored_type, missing: false }
    }

    impl Roll {
        fn list_id(&mut self, pass: PassNo, pass_type: TypeId, id: &str) -> RollMatch {
            let mut matches = None;
            self.list(pass, pass_type, &[id].into_iter().collect(), |_, matched| matches = Some(matched));
            matches.unwrap()
        }
    }

    #[test]
    fn a_known_group_is_known_once_and_then_a_repeat() {
        let mut roll = roll(&[(PUBLIC, "a", Mark::default())]);
        assert_eq!(roll.list_id(PassNo::nth(0), PUBLIC, "a"), known(PUBLIC));
        assert_eq!(roll.list_id(PassNo::nth(0), PUBLIC, "a"), RollMatch::Repeat);
        assert_eq!(roll.listed(), 1);
        assert!(roll.unlisted().is_empty());
    }

    #[test]
    fn a_new_group_is_new_once_and_listed_earlier_for_a_later_pass() {
        let mut roll = roll(&[]);
        assert_eq!(roll.list_id(PassNo::nth(0), PUBLIC, "a"), RollMatch::New);
        assert_eq!(roll.list_id(PassNo::nth(0), PUBLIC, "a"), RollMatch::Repeat);
        assert_eq!(roll.list_id(PassNo::nth(1), PRIVATE, "a"), RollMatch::Earlier);
        assert_eq!(roll.list_id(PassNo::nth(1), PRIVATE, "a"), RollMatch::Repeat);
        assert_eq!(roll.listed(), 1);
    }

    #[test]
    fn a_group_listed_under_another_type_is_matched_with_its_known_type() {
        let mut roll = roll(&[(PUBLIC, "a", Mark::default())]);
        assert_eq!(roll.list_id(PassNo::nth(0), PRIVATE, "a"), known(PUBLIC));
        assert_eq!(roll.list_id(PassNo::nth(1), PUBLIC, "a"), RollMatch::Earlier);
        assert!(roll.unlisted().is_empty());
    }

    #[test]
    fn a_missing_group_is_matched_as_missing() {
        let mut roll = roll(&[(PUBLIC, "a", Mark { missing: true, held: true })]);
        let missing = RollMatch::Known { stored_type: PUBLIC, missing: true };
        assert_eq!(roll.list_id(PassNo::nth(0), PUBLIC, "a"), missing);
    }

    #[test]
    fn the_unfiltered_pass_matches_groups_of_every_type() {
        let missing = Mark { missing: true, held: false };
        let mut roll = roll(&[(PUBLIC, "a", Mark::default()), (PRIVATE, "b", missing)]);
        assert_eq!(roll.list_id(PassNo::nth(0), TypeId::UNKNOWN, "a"), known(PUBLIC));
        let was_missing = RollMatch::Known { stored_type: PRIVATE, missing: true };
        assert_eq!(roll.list_id(PassNo::nth(0), TypeId::UNKNOWN, "b"), was_missing);
        assert_eq!(roll.list_id(PassNo::nth(0), TypeId::UNKNOWN, "c"), RollMatch::New);
    }

    #[test]
    fn unlisted_groups_are_counted_by_type() {
        let (plain, held) = (Mark::default(), Mark { missing: true, held: true });
        let mut roll = roll(&[(PUBLIC, "a", plain), (PUBLIC, "b", plain), (PRIVATE, "c", held)]);
        roll.list_id(PassNo::nth(0), PUBLIC, "a");
        roll.list_id(PassNo::nth(0), PUBLIC, "new");
        let (public, private) = (Unlisted { groups: 1, held: 0 }, Unlisted { groups: 1, held: 1 });
        assert_eq!(roll.unlisted(), BTreeMap::from([(PUBLIC, public), (PRIVATE, private)]));
        assert!(roll.is_unlisted(PUBLIC, "b") && !roll.is_unlisted(PUBLIC, "a"));
        assert!(roll.is_listed("a") && roll.is_listed("new") && !roll.is_listed("b") && !roll.is_listed("c"));
        assert!(!roll.is_unlisted(PUBLIC, "unknown"));
    }

    #[test]
    fn ids_are_matched_in_the_order_of_the_page() {
        let mut roll = roll(&[(PUBLIC, "b", Mark::default())]);
        let page: GroupIds = ["a", "b", "a"].into_iter().collect();
        let mut matches = Vec::new();
        roll.list(PassNo::nth(0), PUBLIC, &page, |id, matched| matches.push((id.to_owned(), matched)));
        let expected = [("a", RollMatch::New), ("b", known(PUBLIC)), ("a", RollMatch::Repeat)];
        assert_eq!(matches, expected.map(|(id, matched)| (id.to_owned(), matched)));
    }

    proptest! {
        #[test]
        fn any_sequence_of_listings_agrees_with_a_model_of_sets(
            on_roll in proptest::collection::btree_set(0u16..600, 0..400),
            listed in proptest::collection::vec((0u16..900, prop::bool::weighted(0.01)), 0..1200),
        ) {
            let mut builder = RollBuilder::default();
            on_roll.iter().for_each(|id| builder.add(PUBLIC, &id.to_string(), Mark::default()));
            let mut roll = builder.finish();
            let (mut before, mut seen, mut pass) = (BTreeSet::new(), BTreeSet::new(), 0);
            for (id, next_pass) in listed {
                if next_pass && pass + 1 < MAX_PASSES {
                    pass += 1;
                    before.append(&mut seen);
                }
                let expected = match (before.contains(&id), on_roll.contains(&id)) {
                    _ if seen.contains(&id) => RollMatch::Repeat,
                    (true, _) => RollMatch::Earlier,
                    (false, true) => known(PUBLIC),
                    (false, false) => RollMatch::New,
                };
                seen.insert(id);
                prop_assert_eq!(roll.list_id(PassNo::nth(pass), PUBLIC, &id.to_string()), expected);
            }
            seen.append(&mut before);
            prop_assert_eq!(roll.listed(), seen.len() as u64);
            let unlisted: BTreeSet<_> = on_roll.difference(&seen).copied().collect();
            prop_assert_eq!(roll.unlisted().get(&PUBLIC).copied().unwrap_or_default().groups, unlisted.len() as u64);
            for id in on_roll {
                prop_assert_eq!(roll.is_unlisted(PUBLIC, &id.to_string()), unlisted.contains(&id));
            }
        }

        #[test]
        fn a_table_finds_every_entry_wherever_hashes_cluster(
            hashes in proptest::collection::vec(prop_oneof![
                any::<u64>(), 0u64..4096, u64::MAX - 4096..=u64::MAX, (1u64 << 63)..(1 << 63) + 4096,
            ], 0..300),
            at_first in 0usize..300,
        ) {
            let entries: Vec<Entry> = hashes.into_iter().map(Entry::of).collect();
            let at_first = at_first.min(entries.len());
            let mut table = Table::of(entries[..at_first].to_vec());
            for entry in &entries {
                if table.find(*entry).is_none() {
                    table.insert(*entry);
                }
                prop_assert!(table.find(*entry).is_some());
            }
            let expected: BTreeSet<Entry> = entries.into_iter().collect();
            prop_assert!(table.entries().eq(expected.iter().copied()), "in order, each once");
            prop_assert_eq!(table.groups, expected.len());
            prop_assert!(expected.iter().all(|entry| table.find(*entry).is_some()));
        }
    }
}
