//! Creation and dissolution of the groups of the simulated app.

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rand::seq::index;

use super::catalog::{Catalog, Group, RANK_BITS};
use super::random::{generated_id, permuted};
use super::settings::{Listing, Order};

pub(super) struct Groups {
    order: Order,
    seed: u64,
    rng: StdRng,
    /// The number of groups created so far, from which the rank of the next group is computed.
    created: u64,
    /// The number of operations that changed which groups exist.
    revision: u64,
    catalog: Catalog,
}

impl Groups {
    pub(super) fn new(listing: Listing, seed: u64) -> Self {
        let catalog = Catalog::new(listing, seed);
        let rng = StdRng::seed_from_u64(seed);
        Self { order: listing.order, seed, rng, created: 0, revision: 0, catalog }
    }

    pub(super) fn catalog(&self) -> &Catalog {
        &self.catalog
    }

    pub(super) fn revision(&self) -> u64 {
        self.revision
    }

    /// Creates a group. Returns false if the id is in use.
    pub(super) fn create(&mut self, group_type: &str, id: &str) -> bool {
        let is_free = self.catalog.type_of(id).is_none();
        if is_free {
            self.revision += 1;
            let group = self.group(id.into());
            self.catalog.add(group_type, vec![group]);
        }
        is_free
    }

    pub(super) fn create_many(&mut self, group_type: &str, n: usize) {
        self.revision += 1;
        // Generated ids are a permutation of the numbers of creation, so they never repeat. They
        // are not checked against ids passed to `create`.
        let community = group_type == "Community";
        let groups = (0..n).map(|_| self.group(generated_id(community, self.created, self.seed))).collect();
        self.catalog.add(group_type, groups);
    }

    pub(super) fn dissolve(&mut self, id: &str) -> bool {
        self.revision += 1;
        self.catalog.remove(id)
    }

    /// Removes a group from the lists. The group still exists.
    pub(super) fn hide(&mut self, id: &str) {
        self.catalog.hide(id);
    }

    /// Lists every hidden group again, as if it were newly created.
    pub(super) fn show_all(&mut self) {
        for (id, group_type) in self.catalog.take_hidden() {
            self.create(&group_type, &id);
        }
    }

    pub(super) fn dissolve_some(&mut self, n: usize) -> Vec<String> {
        self.revision += 1;
        let listed = self.catalog.listed();
        let mut chosen = index::sample(&mut self.rng, listed, n.min(listed)).into_vec();
        chosen.sort_unstable();
        let mut chosen = chosen.into_iter().peekable();
        let mut position = 0;
        self.catalog.remove_listed(|| {
            position += 1;
            chosen.next_if_eq(&(position - 1)).is_some()
        })
    }

    fn group(&mut self, id: Box<str>) -> Group {
        let number = self.created;
        self.created += 1;
        let rank = match self.order {
            Order::OldestFirst => number,
            Order::NewestFirst => (1 << RANK_BITS) - 1 - number,
            Order::Shuffled => permuted(number, RANK_BITS / 2, self.seed),
        };
        Group { rank, id: id.into() }
    }
}
