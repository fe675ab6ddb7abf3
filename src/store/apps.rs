//! Apps and group types, and what is kept of each type beside its groups.

use std::collections::BTreeMap;

use super::engine::{Store, query, query_as, query_scalar, reading, writing};
use super::error::{Attempted as _, StoreError};
use super::lease::Lease;
use crate::model::{CrawlId, GroupType, SdkAppId, TypeId};

/// The number under which the database keeps an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AppId(pub i64);

/// An app as the configuration names it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppIdentity {
    pub sdk_app_id: SdkAppId,
    pub name: String,
}

/// What is kept of one group type of an app.
#[derive(Clone, Copy, Debug, PartialEq, Eq, sqlx::FromRow)]
pub struct TypeState {
    type_id: i64,
    live_count: i64,
    baseline_crawl_id: Option<i64>,
}

impl TypeState {
    /// A type of which nothing is kept yet.
    #[must_use]
    pub fn of(type_id: TypeId) -> Self {
        Self { type_id: type_id.0, live_count: 0, baseline_crawl_id: None }
    }

    /// The same with so many more live groups.
    #[must_use]
    pub fn with_more(self, live: i64) -> Self {
        Self { live_count: self.live_count + live, ..self }
    }

    #[must_use]
    pub fn type_id(&self) -> TypeId {
        TypeId(self.type_id)
    }

    /// Live groups, missing ones included.
    #[must_use]
    pub fn live(&self) -> u64 {
        u64::try_from(self.live_count).unwrap_or(0)
    }

    /// Whether some pass of this type has reached its end already.
    #[must_use]
    pub fn past_baseline(&self) -> bool {
        self.baseline_crawl_id.is_some()
    }
}

// What stands already is looked for first: an insert that only finds a conflict uses up a number and locks a row.
const UPSERT_APP: &str = "
INSERT INTO app (sdk_app_id, name)
SELECT $1, $2 WHERE NOT EXISTS (SELECT 1 FROM app WHERE sdk_app_id = $1 AND name = $2 AND configured = 1)
ON CONFLICT (sdk_app_id) DO UPDATE SET name = excluded.name, configured = 1";
const SELECT_APP: &str = "SELECT app_id FROM app WHERE sdk_app_id = $1";
const UPSERT_TYPE: &str = "
INSERT INTO group_type (name) SELECT $1 WHERE NOT EXISTS (SELECT 1 FROM group_type WHERE name = $1)
ON CONFLICT (name) DO NOTHING";
const SELECT_TYPE: &str = "SELECT type_id FROM group_type WHERE name = $1";
const CONFIGURE_TYPE: &str = "
INSERT INTO type_state (app_id, type_id, configured)
SELECT $1, $2, 1 WHERE NOT EXISTS (SELECT 1 FROM type_state WHERE app_id = $1 AND type_id = $2 AND configured = 1)
ON CONFLICT (app_id, type_id) DO UPDATE SET configured = 1";
const UNCONFIGURE_TYPE: &str =
    "UPDATE type_state SET configured = 0 WHERE app_id = $1 AND type_id = $2 AND configured <> 0";
const TYPE_STATES: &str = "SELECT type_id, live_count, baseline_crawl_id FROM type_state WHERE app_id = $1";
const CONFIGURED_APPS: &str = "SELECT app_id, sdk_app_id FROM app WHERE configured = 1";
const UNCONFIGURE_APP: &str = "UPDATE app SET configured = 0 WHERE app_id = $1";
const END_BASELINE: &str = "
INSERT INTO type_state (app_id, type_id, baseline_crawl_id) VALUES ($1, $2, $3)
ON CONFLICT (app_id, type_id) DO UPDATE SET baseline_crawl_id = excluded.baseline_crawl_id
WHERE type_state.baseline_crawl_id IS NULL";

const TYPE_NAMES: &str = "SELECT type_id, name FROM group_type WHERE name IS NOT NULL";

impl Store {
    /// The number of an app, if it is known.
    pub async fn find_app(&self, app: SdkAppId) -> Result<Option<AppId>, StoreError> {
        let app_id: Option<i64> =
            reading!(self, on => query_scalar(SELECT_APP).bind(app.get()).fetch_optional(on).await)
                .attempted("look an app up")?;
        Ok(app_id.map(AppId))
    }

    /// Every group type that is known, whichever apps have it.
    pub async fn type_names(&self) -> Result<BTreeMap<TypeId, String>, StoreError> {
        let names: Vec<(i64, String)> = reading!(self, on => query_as(TYPE_NAMES).fetch_all(on).await)
            .attempted("read the group types")?;
        Ok(names.into_iter().map(|(type_id, name)| (TypeId(type_id), name)).collect())
    }

    /// The number of a group type, which becomes known by that. The app's lease must be held.
    pub async fn register_type(&self, lease: &Lease, group_type: &GroupType) -> Result<TypeId, StoreError> {
        const DOING: &str = "register a group type";
        writing!(self, DOING, |tx, dialect| {
            query(UPSERT_TYPE).bind(group_type.as_str()).execute(&mut *tx).await.attempted(DOING)?;
            let type_id: i64 = query_scalar(SELECT_TYPE)
                .bind(group_type.as_str())
                .fetch_one(&mut *tx)
                .await
                .attempted(DOING)?;
            dialect::confirm_lease(&mut tx, lease).await?;
            Ok(TypeId(type_id))
        })
    }

    /// Makes an app and its group types known, under their configured names, and returns their numbers.
    pub async fn register_app(
        &self,
        app: &AppIdentity,
        group_types: &[GroupType],
    ) -> Result<(AppId, BTreeMap<GroupType, TypeId>), StoreError> {
        const DOING: &str = "register an app";
        writing!(self, DOING, |tx, dialect| {
            query(UPSERT_APP)
                .bind(app.sdk_app_id.get())
                .bind(&app.name)
                .execute(&mut *tx)
                .await
                .attempted(DOING)?;
            let app_id: i64 = query_scalar(SELECT_APP)
                .bind(app.sdk_app_id.get())
                .fetch_one(&mut *tx)
                .await
                .attempted(DOING)?;
            let mut type_ids = BTreeMap::new();
            for group_type in group_types {
                query(UPSERT_TYPE).bind(group_type.as_str()).execute(&mut *tx).await.attempted(DOING)?;
                let type_id: i64 = query_scalar(SELECT_TYPE)
                    .bind(group_type.as_str())
                    .fetch_one(&mut *tx)
                    .await
                    .attempted(DOING)?;
                query(CONFIGURE_TYPE).bind(app_id).bind(type_id).execute(&mut *tx).await.attempted(DOING)?;
                type_ids.insert(group_type.clone(), TypeId(type_id));
            }
            let states: Vec<TypeState> =
                query_as(TYPE_STATES).bind(app_id).fetch_all(&mut *tx).await.attempted(DOING)?;
            for state in states {
                if !type_ids.values().any(|type_id| *type_id == state.type_id()) {
                    query(UNCONFIGURE_TYPE)
                        .bind(app_id)
                        .bind(state.type_id)
                        .execute(&mut *tx)
                        .await
                        .attempted(DOING)?;
                }
            }
            Ok((AppId(app_id), type_ids))
        })
    }

    /// Shows apps that are not among these as no longer configured. Their rows stay.
    pub async fn set_configured(&self, configured: &[SdkAppId]) -> Result<(), StoreError> {
        const DOING: &str = "record which apps are configured";
        let known: Vec<(i64, i64)> =
            reading!(self, on => query_as(CONFIGURED_APPS).fetch_all(on).await).attempted(DOING)?;
        let gone: Vec<i64> = known
            .into_iter()
            .filter(|(_, sdk_app_id)| !configured.iter().any(|app| app.get() == *sdk_app_id))
            .map(|(app_id, _)| app_id)
            .collect();
        if gone.is_empty() {
            return Ok(());
        }
        writing!(self, DOING, |tx, dialect| {
            for app_id in &gone {
                query(UNCONFIGURE_APP).bind(app_id).execute(&mut *tx).await.attempted(DOING)?;
            }
            Ok(())
        })
    }

    /// What is kept of each type of an app.
    pub async fn type_states(&self, app: AppId) -> Result<Vec<TypeState>, StoreError> {
        reading!(self, on => query_as(TYPE_STATES).bind(app.0).fetch_all(on).await)
            .attempted("read the kept totals")
    }

    /// Records that a type's pass has reached its end for the first time: from now on new groups are events.
    pub async fn end_baseline(
        &self,
        lease: &Lease,
        app: AppId,
        type_id: TypeId,
        crawl: CrawlId,
    ) -> Result<(), StoreError> {
        const DOING: &str = "record a type's first list";
        writing!(self, DOING, |tx, dialect| {
            query(END_BASELINE)
                .bind(app.0)
                .bind(type_id.0)
                .bind(crawl.0)
                .execute(&mut *tx)
                .await
                .attempted(DOING)?;
            dialect::confirm_lease(&mut tx, lease).await?;
            Ok(())
        })
    }
}
