//! Writes the groups that a crawl lists.

use super::tally::Tally;
use crate::model::TypeId;
use crate::reconcile::{ListingEffect, ListingEvent};
use crate::store::bulk::{self, ChangedGroups, ListedBatch};
use crate::store::engine::{Store, StoreError, Tx};
use crate::store::lease::Lease;

/// The maximum number of ids in one statement. More ids save no time and cost memory.
const IDS_PER_STATEMENT: usize = 20_000;

/// The number of changes that a batch made, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct WrittenCounts {
    /// Groups that were not in the database before.
    pub first_listed: u64,
    pub appeared: u64,
    pub reappeared: u64,
    pub retyped: u64,
}

impl std::ops::AddAssign for WrittenCounts {
    fn add_assign(&mut self, other: Self) {
        self.first_listed += other.first_listed;
        self.appeared += other.appeared;
        self.reappeared += other.reappeared;
        self.retyped += other.retyped;
    }
}

impl Store {
    /// Writes listed groups in one transaction. Inserts the groups that are not in the table yet.
    /// Marks the others live and not missing, and sets their type. Idempotent. `on_chunk` is called
    /// before each chunk of ids.
    pub async fn write_listed(
        &self,
        lease: &Lease,
        batch: &ListedBatch<'_>,
        on_chunk: impl Fn() + Sync,
    ) -> Result<WrittenCounts, StoreError> {
        let mut write = self.write("write listed groups", Some(lease.token()));
        loop {
            let mut tx = write.begin().await?;
            let written = write_batch(&mut tx, batch, &on_chunk).await;
            if let Some(done) = write.end(tx, written).await {
                return done;
            }
        }
    }
}

async fn write_batch(
    tx: &mut Tx,
    batch: &ListedBatch<'_>,
    on_chunk: &(impl Fn() + Sync),
) -> Result<WrittenCounts, StoreError> {
    let mut written = WrittenCounts::default();
    let mut tally = Tally::default();
    for chunk in batch.ids.sorted_chunks(IDS_PER_STATEMENT) {
        on_chunk();
        // Events first, because they are recorded for the ids that are not in the table yet.
        if !batch.in_baseline {
            written.appeared += bulk::record_appeared(tx, batch, &chunk).await?;
        }
        let unknown = bulk::insert_unknown(tx, batch, &chunk).await?;
        written.first_listed += unknown;
        tally.totals(batch.type_id).live += unknown.cast_signed();
        let all_were_unknown = unknown == chunk.len() as u64;
        if all_were_unknown {
            continue;
        }
        let changed = bulk::count_changed(tx, batch, &chunk).await?;
        if !changed.is_empty() {
            bulk::change_listed(tx, batch, &chunk).await?;
        }
        for same_state in changed {
            add_changed(&mut tally, batch.type_id, same_state);
        }
    }
    tally.events(batch.type_id).appeared += written.appeared.cast_signed();
    for events in tally.events.values() {
        written.reappeared += events.reappeared.cast_unsigned();
        written.retyped += events.retyped.cast_unsigned();
    }
    tally.write(tx, batch.app, batch.crawl).await?;
    Ok(written)
}

/// Adds to the tally the effect of listing groups, which all had the same state before, as a type.
fn add_changed(tally: &mut Tally, listed_as: TypeId, changed: ChangedGroups) {
    let ChangedGroups { before, was_missing, group_count } = changed;
    // `false`: the groups are known, so the baseline does not matter.
    let effect = ListingEffect::of(Some(before), listed_as, false);
    match effect.event {
        Some(ListingEvent::Reappeared) => tally.events(effect.new_type).reappeared += group_count,
        Some(ListingEvent::Retyped) => tally.events(effect.new_type).retyped += group_count,
        Some(ListingEvent::Appeared) | None => {}
    }
    match effect.left_type() {
        Some(old_type) => tally.totals(old_type).live -= group_count,
        None => tally.totals(before.type_id).deleted -= group_count,
    }
    if was_missing {
        tally.totals(before.type_id).missing -= group_count;
    }
    tally.totals(effect.new_type).live += group_count;
}
