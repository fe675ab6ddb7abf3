//! The groups of the simulated app, the order they are listed in, and the cursors that lead through the list.
//!
//! Each type keeps its groups in a `Vec` sorted by rank, a number that is unique among all groups: a cursor is
//! found by binary search, a page is a slice, and a list of all types is a merge of slices. Changing a group costs
//! a walk over the list instead; bulk changes walk once. About 70 bytes a group.

use std::collections::BTreeMap;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::index;

use super::{Cursor, Listing, Order};
use crate::model::{GroupIds, GroupType};

/// Groups created in the life of a simulator: ranks are below 2^36 and so are positions.
const PLACE_BITS: u32 = 36;

/// Fewer new groups than this are inserted one by one, more are merged.
const FEW: usize = 16;

struct Group {
    rank: u64,
    id: Box<str>,
}

pub(super) struct Groups {
    listing: Listing,
    seed: u64,
    rng: StdRng,
    /// Groups ever created: the age of the next one.
    created: u64,
    /// By type. A type that once had a group keeps its list, as the API keeps knowing it.
    lists: BTreeMap<String, Vec<Group>>,
    /// Groups that stand and are in no list, with their types.
    hidden: BTreeMap<Box<str>, String>,
}

/// One page, before it becomes JSON and while a fault may still bend it.
pub(super) struct Page {
    pub(super) ids: GroupIds,
    pub(super) total_count: u64,
    /// All groups of the app, whatever the filter was.
    pub(super) app_total: u64,
    /// 0 at the end.
    pub(super) next: u64,
    /// A cursor to this same page: the one it was asked with, unless that was 0.
    pub(super) again: u64,
    /// Another cursor to this same page.
    pub(super) elsewhere: u64,
}

impl Groups {
    pub(super) fn new(listing: Listing, seed: u64) -> Self {
        let lists = GroupType::documented().iter().map(|t| (t.as_str().to_owned(), Vec::new())).collect();
        Self { listing, seed, rng: StdRng::seed_from_u64(seed), created: 0, lists, hidden: BTreeMap::new() }
    }

    pub(super) fn create(&mut self, group_type: &str, id: &str) -> bool {
        let new = self.type_of(id).is_none();
        if new {
            let group = self.group(id.into());
            self.add(group_type, vec![group]);
        }
        new
    }

    pub(super) fn create_many(&mut self, group_type: &str, n: usize) {
        // Made from the group's age by a permutation, so made ids never repeat; one chosen by hand could only
        // meet them on purpose.
        let community = group_type == "Community";
        let groups = (0..n).map(|_| self.group(made_id(community, self.created, self.seed))).collect();
        self.add(group_type, groups);
    }

    pub(super) fn dissolve(&mut self, id: &str) -> bool {
        let found = self.find(id);
        if let Some((group_type, index)) = &found
            && let Some(list) = self.lists.get_mut(group_type)
        {
            list.remove(*index);
        }
        self.hidden.remove(id).is_some() || found.is_some()
    }

    /// Takes a group out of the lists, though it stands.
    pub(super) fn hide(&mut self, id: &str) {
        if let Some((group_type, _)) = self.find(id) {
            self.dissolve(id);
            self.hidden.insert(id.into(), group_type);
        }
    }

    /// Lists every hidden group again, as the youngest.
    pub(super) fn show_all(&mut self) {
        for (id, group_type) in std::mem::take(&mut self.hidden) {
            self.create(&group_type, &id);
        }
    }

    /// The type of a group that stands.
    pub(super) fn type_of(&self, id: &str) -> Option<String> {
        self.hidden.get(id).cloned().or_else(|| Some(self.find(id)?.0))
    }

    pub(super) fn dissolve_some(&mut self, n: usize) -> Vec<String> {
        let standing = self.lists.values().map(Vec::len).sum();
        let mut doomed = index::sample(&mut self.rng, standing, n.min(standing)).into_vec();
        doomed.sort_unstable();
        let mut doomed = doomed.into_iter().peekable();
        let mut position = 0;
        let mut is_doomed = |_: &mut Group| {
            position += 1;
            doomed.next_if_eq(&(position - 1)).is_some()
        };
        let mut dissolved = Vec::with_capacity(n.min(standing));
        for list in self.lists.values_mut() {
            dissolved.extend(list.extract_if(.., &mut is_doomed).map(|group| String::from(group.id)));
        }
        dissolved
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = (&str, &str)> {
        let listed = self
            .lists
            .iter()
            .flat_map(|(group_type, list)| list.iter().map(|g| (&*g.id, group_type.as_str())));
        listed.chain(self.hidden.iter().map(|(id, group_type)| (&**id, group_type.as_str())))
    }

    pub(super) fn counts(&self) -> BTreeMap<String, usize> {
        self.lists.iter().map(|(group_type, list)| (group_type.clone(), list.len())).collect()
    }

    /// `None` if the API would not know the type, or the cursor was never handed out for this filter.
    pub(super) fn page(&self, filter: Option<&str>, next: u64, limit: usize) -> Option<Page> {
        let lists: Vec<&[Group]> = match filter {
            None => self.lists.values().map(Vec::as_slice).collect(),
            Some(group_type) => vec![self.lists.get(group_type)?.as_slice()],
        };
        let cursors = Cursors::new(self.seed, filter);
        let here = if next == 0 { Place::default() } else { cursors.read(next)? };
        let first_rank = match self.listing.cursor {
            Cursor::Key => here.place,
            Cursor::Position => rank_at(&lists, here.place),
        };
        let mut tails: Vec<&[Group]> =
            lists.iter().map(|list| &list[list.partition_point(|g| g.rank < first_rank)..]).collect();
        let mut ids = GroupIds::new();
        let mut end = here.place;
        while ids.len() < limit
            && let Some(tail) = tails.iter_mut().filter(|t| !t.is_empty()).min_by_key(|t| t[0].rank)
        {
            ids.push(&tail[0].id);
            end = match self.listing.cursor {
                Cursor::Key => tail[0].rank + 1,
                Cursor::Position => end + 1,
            };
            *tail = &tail[1..];
        }
        let more = tails.iter().any(|tail| !tail.is_empty());
        Some(Page {
            ids,
            total_count: lists.iter().map(|list| list.len() as u64).sum(),
            app_total: self.lists.values().map(|list| list.len() as u64).sum(),
            next: if more { cursors.write(Place { place: end, turn: 0 }) } else { 0 },
            again: cursors.write(here),
            elsewhere: cursors.write(Place { turn: here.turn + 1, ..here }),
        })
    }

    fn find(&self, id: &str) -> Option<(String, usize)> {
        self.lists.iter().find_map(|(group_type, list)| {
            list.iter().position(|group| &*group.id == id).map(|index| (group_type.clone(), index))
        })
    }

    fn group(&mut self, id: Box<str>) -> Group {
        let age = self.created;
        self.created += 1;
        let rank = match self.listing.order {
            Order::OldestFirst => age,
            Order::NewestFirst => (1 << PLACE_BITS) - 1 - age,
            Order::Shuffled => permuted(age, PLACE_BITS / 2, self.seed),
        };
        Group { rank, id }
    }

    fn add(&mut self, group_type: &str, mut groups: Vec<Group>) {
        let list = self.lists.entry(group_type.to_owned()).or_default();
        if groups.len() < FEW {
            for group in groups {
                list.insert(list.partition_point(|g| g.rank < group.rank), group);
            }
        } else {
            groups.sort_unstable_by_key(|g| g.rank);
            list.append(&mut groups);
            list.sort_by_key(|g| g.rank); // the stable sort sees two sorted runs and merges them
        }
    }
}

/// The rank of the group that stands at a position of the merged lists; above all ranks if there is none.
fn rank_at(lists: &[&[Group]], position: u64) -> u64 {
    let (mut low, mut high) = (0, 1 << PLACE_BITS);
    while low < high {
        let middle = u64::midpoint(low, high);
        let up_to_middle: usize = lists.iter().map(|list| list.partition_point(|g| g.rank <= middle)).sum();
        if up_to_middle as u64 > position {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

/// What a cursor says: the lowest rank, or the position, that the next page may begin with. The turn only tells
/// apart several cursors to one place.
#[derive(Clone, Copy, Default)]
struct Place {
    place: u64,
    turn: u64,
}

/// The cursors of one filter, as the API's are: above 2^63, without visible structure, and of no use elsewhere.
struct Cursors {
    secret: u64,
    filter_mark: u64,
}

impl Cursors {
    const TOP: u64 = 1 << 63;
    const HALF: u32 = 31;
    const TURN_BITS: u32 = 10;
    const MARK_BITS: u32 = 2 * Self::HALF - PLACE_BITS - Self::TURN_BITS;

    fn new(seed: u64, filter: Option<&str>) -> Self {
        let secret = mixed(seed);
        let mark =
            filter.unwrap_or_default().bytes().fold(secret, |mark, byte| mixed(mark ^ u64::from(byte)));
        Self { secret, filter_mark: mark & mask(Self::MARK_BITS) }
    }

    fn write(&self, Place { place, turn }: Place) -> u64 {
        let place_and_turn = place << Self::TURN_BITS | turn & mask(Self::TURN_BITS);
        Self::TOP | permuted(place_and_turn << Self::MARK_BITS | self.filter_mark, Self::HALF, self.secret)
    }

    fn read(&self, cursor: u64) -> Option<Place> {
        let hidden = cursor.checked_sub(Self::TOP).filter(|hidden| hidden >> (2 * Self::HALF) == 0)?;
        let plain = unpermuted(hidden, Self::HALF, self.secret);
        let place_and_turn = plain >> Self::MARK_BITS;
        (plain & mask(Self::MARK_BITS) == self.filter_mark).then_some(Place {
            place: place_and_turn >> Self::TURN_BITS,
            turn: place_and_turn & mask(Self::TURN_BITS),
        })
    }
}

/// An id as the API makes it, or in one case of five as an app's own server might. Ids of communities begin
/// `@TGS#_`, other ids of one's own must not begin `@TGS#` (269/1502).
fn made_id(community: bool, age: u64, seed: u64) -> Box<str> {
    const BASE32: &[u8; 32] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
    let character =
        |bits: u64| char::from(BASE32[usize::try_from(bits & mask(5)).expect("five bits are an index")]);
    let code = permuted(age, 20, seed);
    let chance = mixed(seed ^ age);
    let own_length = (chance.is_multiple_of(5)).then_some(24 + (chance >> 8) % 21);
    let mut id = String::with_capacity(44);
    id.push_str(if community { "@TGS#_" } else { "" });
    id.push_str(if own_length.is_some() { "room_" } else { "@TGS#2" });
    id.extend((0..8).map(|n| character(code >> (5 * n))));
    let mut filler = chance;
    while (id.len() as u64) < own_length.unwrap_or(0) {
        filler = mixed(filler);
        id.push(character(filler).to_ascii_lowercase());
    }
    id.into_boxed_str()
}

/// A permutation of the numbers of twice `half` bits, chosen by the key: a Feistel network of four rounds.
fn permuted(number: u64, half: u32, key: u64) -> u64 {
    let halves = (number >> half, number & mask(half));
    let (left, right) = (0..4)
        .fold(halves, |(left, right), round| (right, left ^ mixed(right ^ key ^ round << 32) & mask(half)));
    left << half | right
}

fn unpermuted(number: u64, half: u32, key: u64) -> u64 {
    let halves = (number >> half, number & mask(half));
    let (left, right) = (0..4)
        .rev()
        .fold(halves, |(left, right), round| (right ^ mixed(left ^ key ^ round << 32) & mask(half), left));
    left << half | right
}

/// The finaliser of splitmix64: every bit of the result depends on every bit of the number.
pub(super) fn mixed(number: u64) -> u64 {
    let number = number.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let number = (number ^ number >> 30).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let number = (number ^ number >> 27).wrapping_mul(0x94d0_49bb_1331_11eb);
    number ^ number >> 31
}

fn mask(bits: u32) -> u64 {
    (1 << bits) - 1
}
