//! The roll of one crawl: which groups are known to be live, and which of them this crawl has listed.
//!
//! Pure and in memory: some nine bytes a group. Group ids are kept as 60-bit keyed hashes. The key is random and new for
//! every crawl, so that nobody can choose colliding ids, and a chance collision (4 in 100,000 crawls of 10 million groups)
//! costs one crawl its proof, or hides one group from it, and not from the next.

use std::collections::BTreeMap;
use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use crate::model::{GroupIds, TypeId};

/// Most passes a crawl can have.
pub const MAX_PASSES: usize = 62;

/// Ids looked for at once.
const AT_A_TIME: usize = 64;

/// The number of a pass within its crawl, from 1.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct PassNo(u8);

impl PassNo {
    /// # Panics
    /// If a crawl has more than [`MAX_PASSES`] passes; the configuration allows fewer types.
    #[must_use]
    pub fn nth(index: usize) -> Self {
        assert!(index < MAX_PASSES, "a crawl has at most {MAX_PASSES} passes");
        Self(u8::try_from(index + 1).expect("62 fits a byte"))
    }
}

/// Why a live group is on the roll with a mark.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Mark {
    /// An earlier crawl did not list it.
    pub missing: bool,
    /// Its deletion waits for someone's approval.
    pub held: bool,
}

/// What listing an id means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sighting {
    /// On the roll, and listed for the first time in this crawl.
    Known {
        /// The type that the database has.
        known_type: TypeId,
        /// An earlier crawl did not list it.
        missing: bool,
    },
    /// Not on the roll: unknown, or deleted before.
    New,
    /// This pass listed it already.
    Repeat,
    /// An earlier pass of this crawl listed it.
    Elsewhere,
}

/// Live groups of a type that no pass has listed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Unlisted {
    pub groups: u64,
    /// How many of them are held.
    pub held: u64,
}

/// A group: its hash, and in the last four bits its state. 0 is no group.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
struct Entry(u64);

impl Entry {
    const STATE: u64 = 0b1111;
    const BEFORE: u64 = 0b0001;
    const NOW: u64 = 0b0010;
    const LISTED: u64 = Self::BEFORE | Self::NOW;
    const MISSING: u64 = 0b0100;
    const HELD: u64 = 0b1000;

    /// A group that no pass has listed.
    fn of(hash: u64) -> Self {
        Self((hash & !Self::STATE).max(Self::STATE + 1))
    }

    fn is(self, other: Self) -> bool {
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
        self.0 & Self::BEFORE != 0
    }

    fn list(&mut self) {
        self.0 = self.0 & !Self::LISTED | Self::NOW;
    }

    /// What the current pass listed, an earlier one did once the next pass begins.
    fn begin_pass(&mut self) {
        self.0 -= (self.0 & Self::NOW) / 2;
    }
}

/// Groups in the order of their hashes, with gaps: as hashes are spread evenly, each stands near the place its own hash
/// tells, and without a gap in between. So a search costs one access to memory, another group is put in by moving a few
/// along, and the table grows where it is.
#[derive(Default)]
struct Table {
    slots: Vec<Entry>,
    /// Places that hashes tell. A few more slots follow, for what the last ones have to push along.
    places: usize,
    groups: usize,
}

impl Table {
    /// Of eight places, seven are taken at most.
    fn places_for(groups: usize) -> usize {
        groups + groups / 7 + 1
    }

    /// So many slots more than places. That more are pushed beyond the last place is less likely than 10⁻³⁰.
    fn slots_for(places: usize) -> usize {
        places + places.min(256)
    }

    fn with_room(groups: usize) -> Vec<Entry> {
        Vec::with_capacity(Self::slots_for(Self::places_for(groups)))
    }

    /// Takes groups in any order.
    fn of(mut groups: Vec<Entry>) -> Self {
        groups.sort_unstable();
        groups.dedup();
        let mut table = Self { groups: groups.len(), slots: groups, places: 0 };
        table.spread(Self::places_for(table.groups));
        table
    }

    fn place_of(&self, entry: Entry) -> usize {
        let place = (u128::from(entry.0) * self.places as u128) >> 64;
        usize::try_from(place).expect("a place is smaller than their number")
    }

    /// Gives the groups as many places, at least as many as before. In place: they are pushed together at the end, and
    /// from there each comes forward to where it belongs, which is never behind it.
    fn spread(&mut self, places: usize) {
        let before = self.slots.len();
        let slots = Self::slots_for(places);
        self.slots.reserve_exact(slots.saturating_sub(before));
        self.slots.resize(slots.max(before), Entry::default());
        self.places = places;
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
            let place = self.place_of(entry).max(next);
            assert!(place <= at, "hundreds of groups share the last places");
            self.slots[place] = entry;
            next = place + 1;
        }
    }

    /// Where a group is, or where it would be.
    fn search(&self, entry: Entry) -> Result<usize, usize> {
        let from = self.place_of(entry);
        // An empty slot ends the search, like a group with a greater hash.
        let comes_first = |other: &Entry| other.0.wrapping_sub(1) < entry.0 - 1;
        let slots = self.slots.get(from..).unwrap_or_default();
        let at = from + slots.iter().position(|other| !comes_first(other)).unwrap_or(slots.len());
        match self.slots.get(at) {
            Some(other) if other.is(entry) => Ok(at),
            _ => Err(at),
        }
    }

    fn find(&self, entry: Entry) -> Option<usize> {
        self.search(entry).ok()
    }

    /// Puts in a group that is not there yet.
    fn insert(&mut self, entry: Entry) {
        if Self::places_for(self.groups + 1) > self.places {
            // Doubling would cost twice the memory at the end; an eighth more is seldom enough to move.
            self.spread(Self::places_for(self.groups + (self.groups / 8).max(64)));
        }
        let at = self.search(entry).unwrap_or_else(|at| at);
        let gap = self.slots[at..].iter().position(|other| *other == Entry::default());
        let gap = at + gap.expect("hundreds of groups share the last places");
        self.slots.copy_within(at..gap, at + 1);
        self.slots[at] = entry;
        self.groups += 1;
    }

    fn entries(&self) -> impl Iterator<Item = Entry> {
        self.slots.iter().copied().filter(|entry| *entry != Entry::default())
    }
}

/// The hash of an id under a roll's key. One write; hashing a `str` would make two.
fn entry_of(key: &RandomState, id: &str) -> Entry {
    let mut hasher = key.build_hasher();
    hasher.write(id.as_bytes());
    Entry::of(hasher.finish())
}

/// Collects the live groups of an app, as the database names them.
#[derive(Default)]
pub struct RollBuilder {
    key: RandomState,
    known: BTreeMap<TypeId, Vec<Entry>>,
    marked: Vec<(TypeId, Entry, Mark)>,
}

impl std::fmt::Debug for RollBuilder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RollBuilder").finish_non_exhaustive()
    }
}

impl RollBuilder {
    /// Takes room for as many groups of each type as the kept totals promise; more are welcome.
    #[must_use]
    pub fn with_room(expected: impl IntoIterator<Item = (TypeId, u64)>) -> Self {
        let room = |groups| Table::with_room(usize::try_from(groups).unwrap_or(0));
        let known = expected.into_iter().map(|(type_id, groups)| (type_id, room(groups))).collect();
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
        Roll { key: self.key, known, fresh: Table::default(), pass: None, listed: 0 }
    }
}

/// The roll. See the module's documentation.
pub struct Roll {
    key: RandomState,
    known: BTreeMap<TypeId, Table>,
    /// Ids that this crawl listed first.
    fresh: Table,
    /// The pass that lists.
    pass: Option<PassNo>,
    listed: u64,
}

impl std::fmt::Debug for Roll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Roll").field("listed", &self.listed).finish_non_exhaustive()
    }
}

impl Roll {
    /// Ticks a page off as listed by a pass, telling what each id means. `of` is the pass's type;
    /// [`TypeId::UNKNOWN`] stands for the unfiltered pass, which says nothing of types. A pass that another one has
    /// followed lists no more.
    pub fn list(&mut self, pass: PassNo, of: TypeId, ids: &GroupIds, mut tell: impl FnMut(&str, Sighting)) {
        if self.pass != Some(pass) {
            self.pass = Some(pass);
            let tables = self.known.values_mut().chain([&mut self.fresh]);
            tables.flat_map(|table| &mut table.slots).for_each(Entry::begin_pass);
        }
        // Some at a time, so that the processor fetches many places of the roll at once: one id after the other, each waits
        // for memory. Few enough that a place is still at hand when it is written to.
        let ids: Vec<&str> = ids.iter().collect();
        for ids in ids.chunks(AT_A_TIME) {
            let entries: Vec<Entry> = ids.iter().map(|id| entry_of(&self.key, id)).collect();
            let places: Vec<Option<usize>> = match self.known.get(&of) {
                Some(table) => entries.iter().map(|entry| table.find(*entry)).collect(),
                None => vec![None; entries.len()],
            };
            for ((id, entry), place) in ids.iter().zip(entries).zip(places) {
                tell(id, self.list_one(of, entry, place));
            }
        }
    }

    fn list_one(&mut self, of: TypeId, entry: Entry, place: Option<usize>) -> Sighting {
        let Some((known_type, found)) = self.find(of, entry, place) else {
            let mut entry = entry;
            entry.list();
            self.fresh.insert(entry);
            self.listed += 1;
            return Sighting::New;
        };
        let before = *found;
        found.list();
        if before.is_listed() {
            return if before.was_listed_before() { Sighting::Elsewhere } else { Sighting::Repeat };
        }
        self.listed += 1;
        Sighting::Known { known_type, missing: before.is_missing() }
    }

    /// Finds a group wherever it is; `place` is where it is among those of the likely type.
    fn find(&mut self, likely: TypeId, entry: Entry, place: Option<usize>) -> Option<(TypeId, &mut Entry)> {
        let elsewhere = || {
            let mut others = self.known.iter().filter(|(type_id, _)| **type_id != likely);
            others.find_map(|(type_id, table)| table.find(entry).map(|at| (*type_id, at)))
        };
        if let Some((type_id, at)) = place.map(|at| (likely, at)).or_else(elsewhere) {
            return self.known.get_mut(&type_id).map(|table| (type_id, &mut table.slots[at]));
        }
        self.fresh.find(entry).map(|at| (likely, &mut self.fresh.slots[at]))
    }

    /// Distinct ids that all passes together have listed.
    #[must_use]
    pub fn listed(&self) -> u64 {
        self.listed
    }

    /// The types of which there were live groups when the crawl began.
    pub fn types(&self) -> impl Iterator<Item = TypeId> {
        self.known.keys().copied()
    }

    /// Live groups of a type when the crawl began.
    #[must_use]
    pub fn live_before(&self, type_id: TypeId) -> u64 {
        self.known.get(&type_id).map_or(0, |table| table.groups as u64)
    }

    /// Live groups of all types when the crawl began.
    #[must_use]
    pub fn live_before_in_all(&self) -> u64 {
        self.known.values().map(|table| table.groups as u64).sum()
    }

    /// Live groups that no pass has listed, by the type they are known under; types without any are left out.
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

    /// Whether a live group was listed by no pass.
    #[must_use]
    pub fn is_unlisted(&self, type_id: TypeId, id: &str) -> bool {
        let entry = entry_of(&self.key, id);
        self.known
            .get(&type_id)
            .and_then(|table| table.find(entry).map(|at| !table.slots[at].is_listed()))
            .unwrap_or(false)
    }

    /// Whether some pass of this crawl listed an id, of whatever type.
    #[must_use]
    pub fn is_listed(&self, id: &str) -> bool {
        let entry = entry_of(&self.key, id);
        let tables = self.known.values().chain([&self.fresh]);
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

    fn known(known_type: TypeId) -> Sighting {
        Sighting::Known { known_type, missing: false }
    }

    impl Roll {
        fn list_id(&mut self, pass: PassNo, of: TypeId, id: &str) -> Sighting {
            let mut told = None;
            self.list(pass, of, &[id].into_iter().collect(), |_, sighting| told = Some(sighting));
            told.unwrap()
        }
    }

    #[test]
    fn a_known_group_is_ticked_off_and_a_second_listing_is_a_repeat() {
        let mut roll = roll(&[(PUBLIC, "a", Mark::default())]);
        assert_eq!(roll.list_id(PassNo::nth(0), PUBLIC, "a"), known(PUBLIC));
        assert_eq!(roll.list_id(PassNo::nth(0), PUBLIC, "a"), Sighting::Repeat);
        assert_eq!(roll.listed(), 1);
        assert!(roll.unlisted().is_empty());
    }

    #[test]
    fn a_new_group_is_new_once_and_a_later_pass_finds_it_elsewhere() {
        let mut roll = roll(&[]);
        assert_eq!(roll.list_id(PassNo::nth(0), PUBLIC, "a"), Sighting::New);
        assert_eq!(roll.list_id(PassNo::nth(0), PUBLIC, "a"), Sighting::Repeat);
        assert_eq!(roll.list_id(PassNo::nth(1), PRIVATE, "a"), Sighting::Elsewhere);
        assert_eq!(roll.list_id(PassNo::nth(1), PRIVATE, "a"), Sighting::Repeat);
        assert_eq!(roll.listed(), 1);
    }

    #[test]
    fn a_group_that_is_listed_under_another_type_is_told_with_the_known_one() {
        let mut roll = roll(&[(PUBLIC, "a", Mark::default())]);
        assert_eq!(roll.list_id(PassNo::nth(0), PRIVATE, "a"), known(PUBLIC));
        assert_eq!(roll.list_id(PassNo::nth(1), PUBLIC, "a"), Sighting::Elsewhere);
        assert!(roll.unlisted().is_empty());
    }

    #[test]
    fn a_missing_group_that_is_listed_again_is_told_as_missing() {
        let mut roll = roll(&[(PUBLIC, "a", Mark { missing: true, held: true })]);
        let missing = Sighting::Known { known_type: PUBLIC, missing: true };
        assert_eq!(roll.list_id(PassNo::nth(0), PUBLIC, "a"), missing);
    }

    #[test]
    fn the_unfiltered_pass_knows_every_type() {
        let missing = Mark { missing: true, held: false };
        let mut roll = roll(&[(PUBLIC, "a", Mark::default()), (PRIVATE, "b", missing)]);
        assert_eq!(roll.list_id(PassNo::nth(0), TypeId::UNKNOWN, "a"), known(PUBLIC));
        let was_missing = Sighting::Known { known_type: PRIVATE, missing: true };
        assert_eq!(roll.list_id(PassNo::nth(0), TypeId::UNKNOWN, "b"), was_missing);
        assert_eq!(roll.list_id(PassNo::nth(0), TypeId::UNKNOWN, "c"), Sighting::New);
    }

    #[test]
    fn what_no_pass_listed_is_counted_by_type_and_can_be_named() {
        let (plain, held) = (Mark::default(), Mark { missing: true, held: true });
        let mut roll = roll(&[(PUBLIC, "a", plain), (PUBLIC, "b", plain), (PRIVATE, "c", held)]);
        roll.list_id(PassNo::nth(0), PUBLIC, "a");
        roll.list_id(PassNo::nth(0), PUBLIC, "new");
        let (public, private) = (Unlisted { groups: 1, held: 0 }, Unlisted { groups: 1, held: 1 });
        assert_eq!(roll.unlisted(), BTreeMap::from([(PUBLIC, public), (PRIVATE, private)]));
        assert!(roll.is_unlisted(PUBLIC, "b") && !roll.is_unlisted(PUBLIC, "a"));
        assert!(roll.is_listed("a") && roll.is_listed("new") && !roll.is_listed("b") && !roll.is_listed("c"));
        assert!(!roll.is_unlisted(PUBLIC, "never heard of"));
    }

    #[test]
    fn a_page_is_told_id_by_id_in_its_order() {
        let mut roll = roll(&[(PUBLIC, "b", Mark::default())]);
        let page: GroupIds = ["a", "b", "a"].into_iter().collect();
        let mut told = Vec::new();
        roll.list(PassNo::nth(0), PUBLIC, &page, |id, sighting| told.push((id.to_owned(), sighting)));
        let expected = [("a", Sighting::New), ("b", known(PUBLIC)), ("a", Sighting::Repeat)];
        assert_eq!(told, expected.map(|(id, sighting)| (id.to_owned(), sighting)));
    }

    proptest! {
        #[test]
        fn any_sequence_of_listings_agrees_with_sets(
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
                    _ if seen.contains(&id) => Sighting::Repeat,
                    (true, _) => Sighting::Elsewhere,
                    (false, true) => known(PUBLIC),
                    (false, false) => Sighting::New,
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
        fn a_table_finds_what_was_put_in_wherever_hashes_crowd(
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
