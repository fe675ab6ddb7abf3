//! The roll of one crawl: which groups are known to be live, and which of them this crawl has listed.
//!
//! Pure and in memory: nine bytes a group and half a byte for the index. Group ids are kept as 64-bit keyed hashes. The
//! key is random and new for every crawl, so that nobody can choose colliding ids, and a chance collision (3 in a
//! million at 10 million groups) hides one group from one crawl and not from the next.

use std::collections::{BTreeMap, HashMap};
use std::hash::{BuildHasher as _, Hasher as _, RandomState};

use crate::model::{GroupIds, TypeId};

/// Most passes a crawl can have: a pass is six bits of a group's state.
pub const MAX_PASSES: usize = 62;

/// New ids are filed when there are so many: each filing moves all that were filed before.
const PENDING_LEAST: usize = 20_000;
const PENDING_MOST: usize = 250_000;

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
    /// On the roll, of the right type, not missing: nothing to write.
    Known,
    /// On the roll, but of another type or missing: to be written.
    Changed,
    /// Not on the roll: unknown, or deleted before.
    New,
    /// This pass listed it already.
    Repeat,
    /// An earlier pass of this crawl listed it.
    Elsewhere,
}

/// One group's state in a byte: the last pass that listed it (0: none), missing, held.
#[derive(Clone, Copy, Default)]
struct State(u8);

impl State {
    const PASS: u8 = 0b0011_1111;
    const MISSING: u8 = 0b0100_0000;
    const HELD: u8 = 0b1000_0000;

    fn marked(mark: Mark) -> Self {
        Self(u8::from(mark.missing) * Self::MISSING + u8::from(mark.held) * Self::HELD)
    }

    fn mark(self) -> Mark {
        Mark { missing: self.0 & Self::MISSING != 0, held: self.0 & Self::HELD != 0 }
    }

    fn pass(self) -> u8 {
        self.0 & Self::PASS
    }

    fn listed_by(&mut self, pass: PassNo) {
        self.0 = self.0 & !Self::PASS | pass.0;
    }
}

/// Hashes in order, with their states beside them and an index of where each leading bit pattern starts.
#[derive(Default)]
struct Run {
    hashes: Vec<u64>,
    states: Vec<State>,
    starts: Vec<u32>,
    shift: u32,
}

impl Run {
    fn of(mut hashes: Vec<u64>) -> Self {
        hashes.sort_unstable();
        hashes.dedup();
        let mut run = Self { states: vec![State::default(); hashes.len()], hashes, ..Self::default() };
        run.index();
        run
    }

    /// Rebuilds the index: about eight hashes a slot, so that a search touches two or three cache lines.
    fn index(&mut self) {
        let slots = (self.hashes.len() / 8).next_power_of_two().max(2);
        self.shift = 64 - slots.trailing_zeros();
        self.starts.clear();
        self.starts.reserve_exact(slots + 1);
        for (at, &hash) in self.hashes.iter().enumerate() {
            let slot = slot_of(hash, self.shift);
            while self.starts.len() <= slot {
                self.starts.push(position(at));
            }
        }
        self.starts.resize(slots + 1, position(self.hashes.len()));
    }

    fn find(&self, hash: u64) -> Option<usize> {
        if self.hashes.is_empty() {
            return None;
        }
        let slot = slot_of(hash, self.shift);
        let (from, to) = (self.starts[slot] as usize, self.starts[slot + 1] as usize);
        self.hashes[from..to].binary_search(&hash).ok().map(|at| from + at)
    }

    /// Adds hashes that are not in it, in place: from the back, so that nothing is moved twice.
    fn merge(&mut self, mut added: Vec<(u64, State)>) {
        added.sort_unstable_by_key(|entry| entry.0);
        let (mut old, mut new) = (self.hashes.len(), added.len());
        let total = old + new;
        if total > self.hashes.capacity() {
            // Doubling would cost twice the memory at the end; an eighth more is seldom enough to copy.
            let room = new.max(old / 8);
            self.hashes.reserve_exact(room);
            self.states.reserve_exact(room);
        }
        self.hashes.resize(total, 0);
        self.states.resize(total, State::default());
        for at in (0..total).rev() {
            let take_old = new == 0 || (old > 0 && self.hashes[old - 1] > added[new - 1].0);
            if take_old {
                old -= 1;
                self.hashes[at] = self.hashes[old];
                self.states[at] = self.states[old];
            } else {
                new -= 1;
                (self.hashes[at], self.states[at]) = added[new];
            }
            if new == 0 {
                break;
            }
        }
        self.index();
    }
}

/// The hash of an id under a roll's key. One write; hashing a `str` would make two.
fn hash_of(key: &RandomState, id: &str) -> u64 {
    let mut hasher = key.build_hasher();
    hasher.write(id.as_bytes());
    hasher.finish()
}

fn slot_of(hash: u64, shift: u32) -> usize {
    usize::try_from(hash >> shift).expect("a slot number is smaller than the number of hashes")
}

fn position(at: usize) -> u32 {
    u32::try_from(at).expect("an app has fewer than four billion groups")
}

/// Collects the live groups of an app, as the database names them.
#[derive(Default)]
pub struct RollBuilder {
    key: RandomState,
    known: BTreeMap<TypeId, Vec<u64>>,
    marked: Vec<(TypeId, u64, Mark)>,
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
        let room = |groups| Vec::with_capacity(usize::try_from(groups).unwrap_or(0));
        let known = expected.into_iter().map(|(type_id, groups)| (type_id, room(groups))).collect();
        Self { known, ..Self::default() }
    }

    pub fn add(&mut self, type_id: TypeId, id: &str, mark: Mark) {
        let hash = hash_of(&self.key, id);
        self.known.entry(type_id).or_default().push(hash);
        if mark != Mark::default() {
            self.marked.push((type_id, hash, mark));
        }
    }

    #[must_use]
    pub fn finish(self) -> Roll {
        let mut known: BTreeMap<TypeId, Run> =
            self.known.into_iter().map(|(type_id, hashes)| (type_id, Run::of(hashes))).collect();
        for (type_id, hash, mark) in self.marked {
            if let Some(run) = known.get_mut(&type_id)
                && let Some(at) = run.find(hash)
            {
                run.states[at] = State::marked(mark);
            }
        }
        Roll { key: self.key, known, fresh: Run::default(), pending: HashMap::new(), listed: 0 }
    }
}

/// The roll. See the module's documentation.
pub struct Roll {
    key: RandomState,
    known: BTreeMap<TypeId, Run>,
    /// Ids that this crawl listed first.
    fresh: Run,
    /// The same, not filed yet.
    pending: HashMap<u64, State>,
    listed: u64,
}

impl std::fmt::Debug for Roll {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Roll").field("listed", &self.listed).finish_non_exhaustive()
    }
}

impl Roll {
    /// Ticks a page off as listed by a pass, telling what each id means. `of` is the pass's type;
    /// [`TypeId::UNKNOWN`] stands for the unfiltered pass, which says nothing of types.
    pub fn list(&mut self, pass: PassNo, of: TypeId, ids: &GroupIds, mut tell: impl FnMut(&str, Sighting)) {
        // Step by step over the whole page, so that the processor fetches many places of the roll at once: one id after
        // the other, each waits for memory.
        let hashes: Vec<u64> = ids.iter().map(|id| hash_of(&self.key, id)).collect();
        let places: Vec<Option<usize>> = match self.known.get(&of) {
            Some(run) => hashes.iter().map(|hash| run.find(*hash)).collect(),
            None => vec![None; hashes.len()],
        };
        for ((id, hash), place) in ids.iter().zip(hashes).zip(places) {
            tell(id, self.list_one(pass, of, hash, place));
        }
    }

    fn list_one(&mut self, pass: PassNo, of: TypeId, hash: u64, place: Option<usize>) -> Sighting {
        let Some((known_type, state)) = self.find(of, hash, place) else {
            let mut state = State::default();
            state.listed_by(pass);
            self.pending.insert(hash, state);
            self.listed += 1;
            if self.pending.len() >= (self.fresh.hashes.len() / 8).clamp(PENDING_LEAST, PENDING_MOST) {
                self.settle();
            }
            return Sighting::New;
        };
        let listed_by = state.pass();
        state.listed_by(pass);
        if listed_by == pass.0 {
            return Sighting::Repeat;
        }
        if listed_by != 0 {
            return Sighting::Elsewhere;
        }
        let right_type = of == TypeId::UNKNOWN || known_type == of;
        let sighting = if right_type && !state.mark().missing { Sighting::Known } else { Sighting::Changed };
        self.listed += 1;
        sighting
    }

    /// Finds a group wherever it is; `place` is where it is among those of the likely type.
    fn find(&mut self, likely: TypeId, hash: u64, place: Option<usize>) -> Option<(TypeId, &mut State)> {
        let elsewhere = || {
            let mut others = self.known.iter().filter(|(type_id, _)| **type_id != likely);
            others.find_map(|(type_id, run)| run.find(hash).map(|at| (*type_id, at)))
        };
        if let Some((type_id, at)) = place.map(|at| (likely, at)).or_else(elsewhere) {
            return self.known.get_mut(&type_id).map(|run| (type_id, &mut run.states[at]));
        }
        if let Some(at) = self.fresh.find(hash) {
            return Some((likely, &mut self.fresh.states[at]));
        }
        self.pending.get_mut(&hash).map(|state| (likely, state))
    }

    /// Files the ids that were new lately, so that they cost nine bytes each like the others.
    fn settle(&mut self) {
        self.fresh.merge(std::mem::take(&mut self.pending).into_iter().collect());
    }

    /// Distinct ids that all passes together have listed.
    #[must_use]
    pub fn listed(&self) -> u64 {
        self.listed
    }

    /// Live groups of a type when the crawl began.
    #[must_use]
    pub fn live_before(&self, type_id: TypeId) -> u64 {
        self.known.get(&type_id).map_or(0, |run| run.hashes.len() as u64)
    }

    /// Live groups of all types when the crawl began.
    #[must_use]
    pub fn live_before_in_all(&self) -> u64 {
        self.known.values().map(|run| run.hashes.len() as u64).sum()
    }

    /// Live groups that no pass has listed, by the type they are known under; types without any are left out.
    #[must_use]
    pub fn unlisted(&self) -> BTreeMap<TypeId, u64> {
        self.known
            .iter()
            .map(|(type_id, run)| {
                (*type_id, run.states.iter().filter(|state| state.pass() == 0).count() as u64)
            })
            .filter(|(_, groups)| *groups > 0)
            .collect()
    }

    /// Whether a live group was listed by no pass.
    #[must_use]
    pub fn is_unlisted(&self, type_id: TypeId, id: &str) -> bool {
        let hash = hash_of(&self.key, id);
        self.known
            .get(&type_id)
            .and_then(|run| run.find(hash).map(|at| run.states[at].pass() == 0))
            .unwrap_or(false)
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
        assert_eq!(roll.list_id(PassNo::nth(0), PUBLIC, "a"), Sighting::Known);
        assert_eq!(roll.list_id(PassNo::nth(0), PUBLIC, "a"), Sighting::Repeat);
        assert_eq!(roll.listed(), 1);
        assert!(roll.unlisted().is_empty());
    }

    #[test]
    fn a_new_group_is_new_once_before_and_after_it_was_settled() {
        let mut roll = roll(&[]);
        assert_eq!(roll.list_id(PassNo::nth(0), PUBLIC, "a"), Sighting::New);
        assert_eq!(roll.list_id(PassNo::nth(0), PUBLIC, "a"), Sighting::Repeat);
        roll.settle();
        assert_eq!(roll.list_id(PassNo::nth(0), PUBLIC, "a"), Sighting::Repeat);
        assert_eq!(roll.list_id(PassNo::nth(1), PRIVATE, "a"), Sighting::Elsewhere);
        assert_eq!(roll.list_id(PassNo::nth(1), PRIVATE, "a"), Sighting::Repeat);
        assert_eq!(roll.listed(), 1);
    }

    #[test]
    fn another_type_is_a_change_and_the_first_pass_that_lists_a_group_wins() {
        let mut roll = roll(&[(PUBLIC, "a", Mark::default())]);
        assert_eq!(roll.list_id(PassNo::nth(0), PRIVATE, "a"), Sighting::Changed);
        assert_eq!(roll.list_id(PassNo::nth(1), PUBLIC, "a"), Sighting::Elsewhere);
        assert!(roll.unlisted().is_empty());
    }

    #[test]
    fn a_missing_group_that_is_listed_again_is_a_change() {
        let mut roll = roll(&[(PUBLIC, "a", Mark { missing: true, held: true })]);
        assert_eq!(roll.list_id(PassNo::nth(0), PUBLIC, "a"), Sighting::Changed);
    }

    #[test]
    fn the_unfiltered_pass_says_nothing_of_types_but_brings_missing_groups_back() {
        let missing = Mark { missing: true, held: false };
        let mut roll = roll(&[(PUBLIC, "a", Mark::default()), (PUBLIC, "b", missing)]);
        assert_eq!(roll.list_id(PassNo::nth(0), TypeId::UNKNOWN, "a"), Sighting::Known);
        assert_eq!(roll.list_id(PassNo::nth(0), TypeId::UNKNOWN, "b"), Sighting::Changed);
        assert_eq!(roll.list_id(PassNo::nth(0), TypeId::UNKNOWN, "c"), Sighting::New);
    }

    #[test]
    fn what_no_pass_listed_is_counted_by_type_and_can_be_named() {
        let plain = Mark::default();
        let mut roll = roll(&[(PUBLIC, "a", plain), (PUBLIC, "b", plain), (PRIVATE, "c", plain)]);
        roll.list_id(PassNo::nth(0), PUBLIC, "a");
        assert_eq!(roll.unlisted(), BTreeMap::from([(PUBLIC, 1), (PRIVATE, 1)]));
        assert!(roll.is_unlisted(PUBLIC, "b") && !roll.is_unlisted(PUBLIC, "a"));
        assert!(!roll.is_unlisted(PUBLIC, "never heard of"));
    }

    #[test]
    fn a_page_is_told_id_by_id_in_its_order() {
        let mut roll = roll(&[(PUBLIC, "b", Mark::default())]);
        let page: GroupIds = ["a", "b", "a"].into_iter().collect();
        let mut told = Vec::new();
        roll.list(PassNo::nth(0), PUBLIC, &page, |id, sighting| told.push((id.to_owned(), sighting)));
        let expected = [("a", Sighting::New), ("b", Sighting::Known), ("a", Sighting::Repeat)];
        assert_eq!(told, expected.map(|(id, sighting)| (id.to_owned(), sighting)));
    }

    proptest! {
        #[test]
        fn any_sequence_of_listings_agrees_with_sets(
            known in proptest::collection::btree_set(0u16..600, 0..400),
            listed in proptest::collection::vec((0u16..900, any::<bool>()), 0..600),
        ) {
            let mut builder = RollBuilder::default();
            known.iter().for_each(|id| builder.add(PUBLIC, &id.to_string(), Mark::default()));
            let mut roll = builder.finish();
            let mut seen = BTreeSet::new();
            for (id, settle) in listed {
                let expected = match (seen.insert(id), known.contains(&id)) {
                    (false, _) => Sighting::Repeat,
                    (true, true) => Sighting::Known,
                    (true, false) => Sighting::New,
                };
                prop_assert_eq!(roll.list_id(PassNo::nth(0), PUBLIC, &id.to_string()), expected);
                if settle {
                    roll.settle();
                }
            }
            let unlisted: BTreeSet<_> = known.difference(&seen).copied().collect();
            prop_assert_eq!(roll.unlisted().get(&PUBLIC).copied().unwrap_or(0), unlisted.len() as u64);
            for id in known {
                prop_assert_eq!(roll.is_unlisted(PUBLIC, &id.to_string()), unlisted.contains(&id));
            }
        }
    }
}
