//! The groups themselves: read once a crawl, written only where something changed.

use std::collections::{BTreeMap, HashMap};

use chrono::{DateTime, Utc};

use super::apps::AppId;
use super::engine::{Engine, Store, writing};
use super::error::{Attempted as _, StoreError};
use super::lease::Lease;
use super::server::Retries;
use super::{postgres, sqlite};
use crate::model::{CrawlId, GroupIds, TypeId};
use crate::roll::Mark;

/// Ids in one statement: more make no statement faster, but the process bigger.
const IDS_PER_STATEMENT: usize = 50_000;

/// Listed groups of one type that the roll does not know, or knows otherwise.
#[derive(Debug)]
pub struct Batch<'a> {
    pub app: AppId,
    pub crawl: CrawlId,
    /// [`TypeId::UNKNOWN`] for the unfiltered pass, which leaves known types alone.
    pub type_id: TypeId,
    /// No pass of this type has reached its end before: new groups are no events.
    pub in_baseline: bool,
    pub at: DateTime<Utc>,
    /// Different ids.
    pub ids: &'a GroupIds,
}

impl Batch<'_> {
    pub(super) fn at_millis(&self) -> i64 {
        self.at.timestamp_millis()
    }
}

/// What a listed group was before it was listed.
#[derive(Clone, Copy, Debug)]
pub(super) struct ListedBefore {
    pub(super) type_id: TypeId,
    pub(super) deleted: bool,
    pub(super) missing: bool,
}

/// A group as the database knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownGroup {
    pub type_id: TypeId,
    pub deleted: bool,
}

/// So many listed groups have to change.
#[derive(Clone, Copy, Debug)]
pub(super) struct Census {
    pub(super) before: ListedBefore,
    pub(super) groups: i64,
}

/// What a batch changed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Written {
    /// Groups never listed before.
    pub first_listed: u64,
    pub appeared: u64,
    pub reappeared: u64,
    pub retyped: u64,
}

impl std::ops::AddAssign for Written {
    fn add_assign(&mut self, other: Self) {
        self.first_listed += other.first_listed;
        self.appeared += other.appeared;
        self.reappeared += other.reappeared;
        self.retyped += other.retyped;
    }
}

/// How the kept totals of one type change.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Delta {
    pub(super) live: i64,
    pub(super) missing: i64,
    pub(super) deleted: i64,
}

/// How many events of each kind a transaction wrote, for one type.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Changes {
    pub(super) appeared: i64,
    pub(super) vanished: i64,
    pub(super) reappeared: i64,
    pub(super) retyped: i64,
}

/// What a transaction changed, by type: for the kept totals and the crawl's record.
#[derive(Debug, Default)]
pub(super) struct Tally {
    pub(super) deltas: BTreeMap<TypeId, Delta>,
    pub(super) changes: BTreeMap<TypeId, Changes>,
}

impl Tally {
    fn listed(&mut self, listed_as: TypeId, census: &Census) {
        let ListedBefore { type_id: old, deleted, missing } = census.before;
        let new = if listed_as == TypeId::UNKNOWN { old } else { listed_as };
        let groups = census.groups;
        if deleted {
            self.deltas.entry(old).or_default().deleted -= groups;
            self.changes.entry(new).or_default().reappeared += groups;
        } else {
            self.deltas.entry(old).or_default().live -= groups;
            if new != old && old != TypeId::UNKNOWN {
                self.changes.entry(new).or_default().retyped += groups;
            }
        }
        if missing {
            self.deltas.entry(old).or_default().missing -= groups;
        }
        self.deltas.entry(new).or_default().live += groups;
    }
}

pub(super) const ADD_TO_STATE: &str = "
INSERT INTO type_state (app_id, type_id, live_count, missing_count, deleted_count) VALUES ($1, $2, $3, $4, $5)
ON CONFLICT (app_id, type_id) DO UPDATE SET
    live_count = type_state.live_count + excluded.live_count,
    missing_count = type_state.missing_count + excluded.missing_count,
    deleted_count = type_state.deleted_count + excluded.deleted_count";
pub(super) const ADD_TO_CHANGES: &str = "
INSERT INTO crawl_change (crawl_id, type_id, appeared, vanished, reappeared, retyped) VALUES ($1, $2, $3, $4, $5, $6)
ON CONFLICT (crawl_id, type_id) DO UPDATE SET
    appeared = crawl_change.appeared + excluded.appeared,
    vanished = crawl_change.vanished + excluded.vanished,
    reappeared = crawl_change.reappeared + excluded.reappeared,
    retyped = crawl_change.retyped + excluded.retyped";

/// Writes a tally in the transaction that made it.
macro_rules! keep_tally {
    ($tx:expr, $app:expr, $crawl:expr, $tally:expr, $doing:expr) => {
        for (type_id, delta) in &$tally.deltas {
            if *delta != Default::default() {
                crate::store::error::Attempted::attempted(
                    crate::store::engine::query(crate::store::groups::ADD_TO_STATE)
                        .bind($app.0)
                        .bind(type_id.0)
                        .bind(delta.live)
                        .bind(delta.missing)
                        .bind(delta.deleted)
                        .execute(&mut *$tx)
                        .await,
                    $doing,
                )?;
            }
        }
        for (type_id, changes) in &$tally.changes {
            if *changes != Default::default() {
                crate::store::error::Attempted::attempted(
                    crate::store::engine::query(crate::store::groups::ADD_TO_CHANGES)
                        .bind($crawl.0)
                        .bind(type_id.0)
                        .bind(changes.appeared)
                        .bind(changes.vanished)
                        .bind(changes.reappeared)
                        .bind(changes.retyped)
                        .execute(&mut *$tx)
                        .await,
                    $doing,
                )?;
            }
        }
    };
}
pub(super) use keep_tally;

impl Store {
    /// Names every live group of an app once, in no order: sorting ten million ids takes PostgreSQL longer than reading
    /// them. `begin` makes what they are gathered in, and makes it anew when a broken connection has left half of it.
    pub async fn gather_live<G>(
        &self,
        app: AppId,
        begin: impl Fn() -> G,
        mut each: impl FnMut(&mut G, TypeId, &str, Mark),
    ) -> Result<G, StoreError> {
        let read = match &self.engine {
            Engine::Sqlite(file) => {
                let mut gathered = begin();
                let each = |type_id, id: &str, mark| each(&mut gathered, type_id, id, mark);
                sqlite::live_groups(file, app, each).await.map(|()| gathered)
            }
            Engine::Postgres(server) => {
                let mut retries = Retries::default();
                loop {
                    let mut gathered = begin();
                    let each = |type_id, id: &str, mark| each(&mut gathered, type_id, id, mark);
                    match postgres::live_groups(server, app, each).await {
                        Err(error) if retries.again(&error).await => {}
                        read => break read.map(|()| gathered),
                    }
                }
            }
        };
        read.attempted("read the live groups")
    }

    /// Tells of each of these ids, in no order, whether and how it is known.
    pub async fn look_up(
        &self,
        app: AppId,
        ids: &GroupIds,
        mut each: impl FnMut(&str, Option<KnownGroup>),
    ) -> Result<(), StoreError> {
        const DOING: &str = "look groups up";
        for chunk in ids.sorted_chunks(IDS_PER_STATEMENT) {
            let known = match &self.engine {
                Engine::Sqlite(file) => sqlite::known(file, app, &sqlite::Ids::of(&chunk)).await,
                Engine::Postgres(server) => postgres::known(server, app, &postgres::Ids::of(&chunk)).await,
            };
            let known: HashMap<String, KnownGroup> = known
                .attempted(DOING)?
                .into_iter()
                .map(|(id, type_id, deleted)| (id, KnownGroup { type_id: TypeId(type_id), deleted }))
                .collect();
            chunk.iter().for_each(|id| each(id, known.get(*id).copied()));
        }
        Ok(())
    }

    /// Writes listed groups: adds the unknown ones, makes the others live, of this type and not missing.
    ///
    /// One transaction. Doing it twice changes nothing the second time. `each` hears that it has begun, and of every chunk.
    pub async fn write_listed(
        &self,
        lease: &Lease,
        batch: &Batch<'_>,
        each: impl Fn() + Sync,
    ) -> Result<Written, StoreError> {
        const DOING: &str = "write listed groups";
        let listed_as = batch.type_id;
        let mut most = Written::default();
        writing!(self, DOING, |tx, dialect| {
            let mut written = Written::default();
            let mut tally = Tally::default();
            for chunk in batch.ids.sorted_chunks(IDS_PER_STATEMENT) {
                each();
                let ids = dialect::Ids::of(&chunk);
                if !batch.in_baseline {
                    written.appeared +=
                        dialect::record_appeared(&mut tx, batch, &ids).await.attempted(DOING)?;
                }
                let unknown = dialect::insert_unknown(&mut tx, batch, &ids).await.attempted(DOING)?;
                written.first_listed += unknown;
                tally.deltas.entry(listed_as).or_default().live += unknown.cast_signed();
                if unknown == chunk.len() as u64 {
                    continue;
                }
                let changed = dialect::census(&mut tx, batch, &ids).await.attempted(DOING)?;
                if !changed.is_empty() {
                    dialect::change_listed(&mut tx, batch, &ids).await.attempted(DOING)?;
                }
                for census in &changed {
                    tally.listed(listed_as, census);
                }
            }
            tally.changes.entry(listed_as).or_default().appeared += written.appeared.cast_signed();
            for changes in tally.changes.values() {
                written.reappeared += changes.reappeared.cast_unsigned();
                written.retyped += changes.retyped.cast_unsigned();
            }
            keep_tally!(tx, batch.app, batch.crawl, tally, DOING);
            dialect::confirm_lease(&mut tx, lease).await?;
            // Another attempt after a commit that nobody heard of finds nothing left to do.
            most = written.max(most);
            Ok(most)
        })
    }
}
