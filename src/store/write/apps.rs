//! Registers apps and group types.

use std::collections::BTreeMap;

use tracing::warn;

use crate::model::{CrawlId, GroupType, SdkAppId, TypeId};
use crate::store::app::{AppId, AppIdentity};
use crate::store::engine::{Store, StoreError, Tx, values};
use crate::store::lease::Lease;

/// Renames another app that has this name. Such an app exists if the SDKAppID in the configuration
/// was corrected. The new name has parentheses, so it is different from every configured name.
const RENAME_OTHER_APP: &str = "
UPDATE app SET name = name || ' (' || sdk_app_id || ')' WHERE name = $2 AND sdk_app_id <> $1";
// Inserts nothing if the row is up to date, because an insert that ends in a conflict uses up a key
// and locks the row.
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
const TYPES_OF_APP: &str = "SELECT type_id FROM type_state WHERE app_id = $1";
const CONFIGURED_APPS: &str = "SELECT app_id, sdk_app_id FROM app WHERE configured = 1";
const UNCONFIGURE_APP: &str = "UPDATE app SET configured = 0 WHERE app_id = $1";
const END_BASELINE: &str = "
INSERT INTO type_state (app_id, type_id, baseline_crawl_id) VALUES ($1, $2, $3)
ON CONFLICT (app_id, type_id) DO UPDATE SET baseline_crawl_id = excluded.baseline_crawl_id
WHERE type_state.baseline_crawl_id IS NULL";

impl Store {
    /// Returns the key of a group type. Registers the type if it is new.
    pub async fn register_type(&self, lease: &Lease, group_type: &GroupType) -> Result<TypeId, StoreError> {
        let mut write = self.write("register a group type", Some(lease.token()));
        loop {
            let mut tx = write.begin().await?;
            let type_id = upsert_type(&mut tx, group_type).await;
            if let Some(done) = write.end(tx, type_id).await {
                return done;
            }
        }
    }

    /// Registers an app and its group types, or updates their configured names. Returns their keys.
    pub async fn register_app(
        &self,
        app: &AppIdentity,
        group_types: &[GroupType],
    ) -> Result<(AppId, BTreeMap<GroupType, TypeId>), StoreError> {
        let mut write = self.write("register an app", None);
        loop {
            let mut tx = write.begin().await?;
            let registered = upsert_app(&mut tx, app, group_types).await;
            if let Some(done) = write.end(tx, registered).await {
                return done;
            }
        }
    }

    /// Marks the apps that are not in `configured` as no longer configured. Their rows stay.
    pub async fn set_configured(&self, configured: &[SdkAppId]) -> Result<(), StoreError> {
        const ACTION: &str = "record which apps are configured";
        let stored: Vec<(i64, i64)> = self.fetch_all(ACTION, CONFIGURED_APPS, &[]).await?;
        let no_longer_configured: Vec<AppId> = stored
            .into_iter()
            .filter(|(_, sdk_app_id)| !configured.iter().any(|app| app.get() == *sdk_app_id))
            .map(|(app_id, _)| AppId(app_id))
            .collect();
        if no_longer_configured.is_empty() {
            return Ok(());
        }
        let mut write = self.write(ACTION, None);
        loop {
            let mut tx = write.begin().await?;
            let updated = unconfigure(&mut tx, &no_longer_configured).await;
            if let Some(done) = write.end(tx, updated).await {
                return done;
            }
        }
    }

    /// Records that the baseline of a type has ended. From then on, new groups are recorded as
    /// `appeared` events.
    pub async fn end_baseline(
        &self,
        lease: &Lease,
        app: AppId,
        type_id: TypeId,
        crawl: CrawlId,
    ) -> Result<(), StoreError> {
        let mut write = self.write("record a type's first list", Some(lease.token()));
        loop {
            let mut tx = write.begin().await?;
            let ended = tx.execute(END_BASELINE, &values![app.0, type_id.0, crawl.0]).await;
            if let Some(done) = write.end(tx, ended).await {
                return done.map(|_| ());
            }
        }
    }
}

async fn upsert_type(tx: &mut Tx, group_type: &GroupType) -> Result<TypeId, StoreError> {
    tx.execute(UPSERT_TYPE, &values![group_type.as_str()]).await?;
    let (type_id,) = tx.fetch_one(SELECT_TYPE, &values![group_type.as_str()]).await?;
    Ok(TypeId(type_id))
}

async fn upsert_app(
    tx: &mut Tx,
    app: &AppIdentity,
    group_types: &[GroupType],
) -> Result<(AppId, BTreeMap<GroupType, TypeId>), StoreError> {
    let renamed = tx.execute(RENAME_OTHER_APP, &values![app.sdk_app_id.get(), &app.name]).await?;
    if renamed > 0 {
        warn!(
            app = app.name,
            "the database has another SDKAppID under this name; its name now ends in its SDKAppID"
        );
    }
    tx.execute(UPSERT_APP, &values![app.sdk_app_id.get(), &app.name]).await?;
    let (app_id,): (i64,) = tx.fetch_one(SELECT_APP, &values![app.sdk_app_id.get()]).await?;
    let mut type_ids = BTreeMap::new();
    for group_type in group_types {
        let type_id = upsert_type(tx, group_type).await?;
        tx.execute(CONFIGURE_TYPE, &values![app_id, type_id.0]).await?;
        type_ids.insert(group_type.clone(), type_id);
    }
    let stored_types: Vec<(i64,)> = tx.fetch_all(TYPES_OF_APP, &values![app_id]).await?;
    for (type_id,) in stored_types {
        let is_configured = type_ids.values().any(|configured| configured.0 == type_id);
        if !is_configured {
            tx.execute(UNCONFIGURE_TYPE, &values![app_id, type_id]).await?;
        }
    }
    Ok((AppId(app_id), type_ids))
}

async fn unconfigure(tx: &mut Tx, apps: &[AppId]) -> Result<(), StoreError> {
    for app in apps {
        tx.execute(UNCONFIGURE_APP, &values![app.0]).await?;
    }
    Ok(())
}
