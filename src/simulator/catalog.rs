//! The groups of the app, their order in lists, and the cursors of pagination.
//!
//! The groups of each type are a `Vec` sorted by rank, a number that is unique among all groups. A
//! cursor is resolved by binary search, a page of one type is a slice, and a page of all types is a
//! merge of slices. Single groups are found with an index from ids to ranks. Adding or removing one
//! group moves the rest of its list in memory; bulk changes traverse each list once. A group takes
//! about 130 bytes. Clones share the ids.

use std::borrow::Borrow;
use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::random::{is_one_in, mask, mixed, permuted, unpermuted};
use super::settings::{Cursor, Listing};
use crate::model::{GroupIds, GroupType};

/// The number of bits of ranks and positions. A simulator can create 2^36 groups.
pub(super) const RANK_BITS: u32 = 36;

/// At least this many new groups are merged into a list. Fewer groups are inserted one by one.
const MERGE_THRESHOLD: usize = 16;

#[derive(Clone)]
pub(super) struct Group {
    pub(super) rank: u64,
    pub(super) id: Arc<str>,
}

#[derive(Clone)]
pub(super) struct Catalog {
    cursor: Cursor,
    seed: u64,
    /// The listed groups by type. A type that had groups keeps its empty list, because the API
    /// still accepts it as a filter.
    lists: BTreeMap<String, Vec<Group>>,
    /// The rank of every listed group.
    ranks: HashMap<Arc<str>, u64>,
    /// Groups that exist but are in no list, with their types.
    hidden: BTreeMap<Arc<str>, String>,
}

/// A request for a page.
#[derive(Clone, Copy)]
pub(super) struct PageRequest<'a> {
    pub(super) request_number: u64,
    pub(super) filter: Option<&'a str>,
    pub(super) next: u64,
    pub(super) limit: usize,
    /// For each of these numbers n, one group in n is left out of the list and the counts.
    pub(super) leave_out_one_in: &'a [u64],
}

/// One page, and alternative values of its fields for faults.
pub(super) struct Page {
    pub(super) ids: GroupIds,
    pub(super) total_count: u64,
    /// All groups of the app, regardless of the filter.
    pub(super) app_total: u64,
    /// 0 at the end.
    pub(super) next: u64,
    /// A cursor to this page. It is the cursor of the request, unless that is 0.
    pub(super) same_page_cursor: u64,
    /// Another cursor to this page.
    pub(super) alternative_cursor: u64,
    /// A cursor that no other request gets, valid for the same filter.
    pub(super) fresh_cursor: u64,
}

impl Catalog {
    pub(super) fn new(listing: Listing, seed: u64) -> Self {
        let lists = GroupType::documented().iter().map(|t| (t.as_str().to_owned(), Vec::new())).collect();
        Self { cursor: listing.cursor, seed, lists, ranks: HashMap::new(), hidden: BTreeMap::new() }
    }

    pub(super) fn knows_type(&self, group_type: &str) -> bool {
        self.lists.contains_key(group_type)
    }

    /// Returns the type of a group, or `None` if there is no such group.
    pub(super) fn type_of(&self, id: &str) -> Option<&str> {
        let listed = || self.find(id).map(|(group_type, _)| group_type);
        self.hidden.get(id).map(String::as_str).or_else(listed)
    }

    /// Returns the number of groups that are not hidden.
    pub(super) fn listed(&self) -> usize {
        self.ranks.len()
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

    pub(super) fn add(&mut self, group_type: &str, mut groups: Vec<Group>) {
        self.ranks.extend(groups.iter().map(|group| (Arc::clone(&group.id), group.rank)));
        let list = self.lists.entry(group_type.to_owned()).or_default();
        if groups.len() < MERGE_THRESHOLD {
            for group in groups {
                list.insert(list.partition_point(|g| g.rank < group.rank), group);
            }
        } else {
            groups.sort_unstable_by_key(|g| g.rank);
            list.append(&mut groups);
            list.sort_by_key(|g| g.rank); // the stable sort merges the two sorted runs
        }
    }

    /// Removes a group. Returns whether it existed.
    pub(super) fn remove(&mut self, id: &str) -> bool {
        self.take_from_list(id).is_some() || self.hidden.remove(id).is_some()
    }

    /// Removes the listed groups for which the predicate returns true. Returns their ids.
    pub(super) fn remove_listed(&mut self, mut is_removed: impl FnMut() -> bool) -> Vec<String> {
        let mut removed = Vec::new();
        for list in self.lists.values_mut() {
            for group in list.extract_if(.., |_| is_removed()) {
                self.ranks.remove(&group.id);
                removed.push(group.id.as_ref().to_owned());
            }
        }
        removed
    }

    /// Removes a group from the lists. The group still exists.
    pub(super) fn hide(&mut self, id: &str) {
        if let Some((group_type, id)) = self.take_from_list(id) {
            self.hidden.insert(id, group_type);
        }
    }

    /// Removes all hidden groups, and returns them with their types.
    pub(super) fn take_hidden(&mut self) -> BTreeMap<Arc<str>, String> {
        std::mem::take(&mut self.hidden)
    }

    fn take_from_list(&mut self, id: &str) -> Option<(String, Arc<str>)> {
        let (group_type, index) = self.find(id)?;
        let group_type = group_type.to_owned();
        let group = self.lists.get_mut(&group_type)?.remove(index);
        self.ranks.remove(id);
        Some((group_type, group.id))
    }

    /// Returns the type of a listed group and its index in the list of that type.
    fn find(&self, id: &str) -> Option<(&str, usize)> {
        let rank = self.ranks.get(id)?;
        self.lists.iter().find_map(|(group_type, list)| {
            let index = list.binary_search_by_key(rank, |group| group.rank).ok()?;
            Some((group_type.as_str(), index))
        })
    }

    /// Returns a page. It is empty for a type without groups, even if the type is unknown. Returns
    /// `None` if the cursor was not issued for this filter.
    pub(super) fn page(&self, request: PageRequest<'_>) -> Option<Page> {
        if request.leave_out_one_in.is_empty() {
            let lists = self.lists.iter().map(|(group_type, list)| (group_type.as_str(), list.as_slice()));
            return self.page_of(&lists.collect(), request);
        }
        let is_kept =
            |group: &&Group| !request.leave_out_one_in.iter().any(|&n| is_one_in(n, &group.id, self.seed));
        let lists: Vec<(&str, Vec<&Group>)> = self
            .lists
            .iter()
            .map(|(group_type, list)| (group_type.as_str(), list.iter().filter(is_kept).collect()))
            .collect();
        let lists = lists.iter().map(|(group_type, list)| (*group_type, list.as_slice()));
        self.page_of(&lists.collect(), request)
    }

    /// Returns a page of these lists, or `None` if the cursor was not issued for the filter.
    fn page_of<G: Borrow<Group>>(
        &self,
        all_lists: &BTreeMap<&str, &[G]>,
        PageRequest { request_number, filter, next, limit, .. }: PageRequest<'_>,
    ) -> Option<Page> {
        let lists: Vec<&[G]> = match filter {
            None => all_lists.values().copied().collect(),
            Some(group_type) => all_lists.get(group_type).copied().into_iter().collect(),
        };
        let cursors = Cursors::new(self.seed, filter);
        let target = if next == 0 { CursorTarget::default() } else { cursors.decode(next)? };
        let first_rank = match self.cursor {
            Cursor::Key => target.start,
            Cursor::Position => rank_at(&lists, target.start),
        };
        let mut tails: Vec<&[G]> =
            lists.iter().map(|list| &list[list.partition_point(|g| rank(g) < first_rank)..]).collect();
        let mut ids = GroupIds::new();
        let mut end = target.start;
        while ids.len() < limit
            && let Some(tail) = tails.iter_mut().filter(|t| !t.is_empty()).min_by_key(|t| rank(&t[0]))
        {
            ids.push(&tail[0].borrow().id);
            end = match self.cursor {
                Cursor::Key => rank(&tail[0]) + 1,
                Cursor::Position => end + 1,
            };
            *tail = &tail[1..];
        }
        let more = tails.iter().any(|tail| !tail.is_empty());
        Some(Page {
            ids,
            total_count: lists.iter().map(|list| list.len() as u64).sum(),
            app_total: all_lists.values().map(|list| list.len() as u64).sum(),
            next: if more { cursors.encode(CursorTarget { start: end, variant: 0 }) } else { 0 },
            same_page_cursor: cursors.encode(target),
            alternative_cursor: cursors.encode(CursorTarget { variant: target.variant + 1, ..target }),
            fresh_cursor: cursors
                .encode(CursorTarget { start: request_number, variant: mask(Cursors::VARIANT_BITS) }),
        })
    }
}

fn rank<G: Borrow<Group>>(group: &G) -> u64 {
    group.borrow().rank
}

/// Returns the rank of the group at a position of the merged lists, or a number above all ranks if
/// the position is past the end.
fn rank_at<G: Borrow<Group>>(lists: &[&[G]], position: u64) -> u64 {
    let (mut low, mut high) = (0, 1 << RANK_BITS);
    while low < high {
        let middle = u64::midpoint(low, high);
        let up_to_middle: usize = lists.iter().map(|list| list.partition_point(|g| rank(g) <= middle)).sum();
        if up_to_middle as u64 > position {
            high = middle;
        } else {
            low = middle + 1;
        }
    }
    low
}

/// The content of a cursor.
#[derive(Clone, Copy, Default)]
struct CursorTarget {
    /// The lowest rank, or the position, at which the page may begin.
    start: u64,
    /// Distinguishes several cursors to the same start.
    variant: u64,
}

/// Encodes and decodes the cursors of one filter. Like the API's cursors, they are above 2^63, have
/// no visible structure and are invalid for other filters.
///
/// A cursor consists of the highest bit and a permutation of three fields: the start, the variant
/// and a hash of the filter.
struct Cursors {
    secret: u64,
    filter_hash: u64,
}

impl Cursors {
    const HIGHEST_BIT: u64 = 1 << 63;
    /// Half of the bits that are permuted.
    const HALF: u32 = 31;
    const VARIANT_BITS: u32 = 10;
    const FILTER_HASH_BITS: u32 = 2 * Self::HALF - RANK_BITS - Self::VARIANT_BITS;

    fn new(seed: u64, filter: Option<&str>) -> Self {
        let secret = mixed(seed);
        let hash =
            filter.unwrap_or_default().bytes().fold(secret, |hash, byte| mixed(hash ^ u64::from(byte)));
        Self { secret, filter_hash: hash & mask(Self::FILTER_HASH_BITS) }
    }

    fn encode(&self, CursorTarget { start, variant }: CursorTarget) -> u64 {
        let target = start << Self::VARIANT_BITS | variant & mask(Self::VARIANT_BITS);
        Self::HIGHEST_BIT
            | permuted(target << Self::FILTER_HASH_BITS | self.filter_hash, Self::HALF, self.secret)
    }

    fn decode(&self, cursor: u64) -> Option<CursorTarget> {
        let bits = cursor.checked_sub(Self::HIGHEST_BIT).filter(|bits| bits >> (2 * Self::HALF) == 0)?;
        let plain = unpermuted(bits, Self::HALF, self.secret);
        let target = plain >> Self::FILTER_HASH_BITS;
        (plain & mask(Self::FILTER_HASH_BITS) == self.filter_hash).then_some(CursorTarget {
            start: target >> Self::VARIANT_BITS,
            variant: target & mask(Self::VARIANT_BITS),
        })
    }
}
