//! Looks groups up by their ids.

use std::collections::HashMap;

use crate::model::{GroupIds, TypeId};
use crate::store::app::AppId;
use crate::store::bulk;
use crate::store::engine::{Store, StoreError};

/// The maximum number of ids in one statement.
const IDS_PER_STATEMENT: usize = 50_000;

/// The type and state of a group in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KnownGroup {
    pub type_id: TypeId,
    pub deleted: bool,
}

impl Store {
    /// Calls `for_each` with every id, in byte order, and with its group if the database has one.
    pub async fn look_up(
        &self,
        app: AppId,
        ids: &GroupIds,
        mut for_each: impl FnMut(&str, Option<KnownGroup>),
    ) -> Result<(), StoreError> {
        for chunk in ids.sorted_chunks(IDS_PER_STATEMENT) {
            let known: HashMap<String, KnownGroup> = bulk::look_up(self, app, &chunk)
                .await?
                .into_iter()
                .map(|(id, type_id, deleted)| (id, KnownGroup { type_id: TypeId(type_id), deleted }))
                .collect();
            chunk.iter().for_each(|id| for_each(id, known.get(*id).copied()));
        }
        Ok(())
    }
}
