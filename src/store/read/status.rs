//! The state of the apps for the `status` command, from the read model.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::lists::{Crawl, Stamp};
use super::overview::{DetailsOverview, HeldDeletions, TypeOverview};
use crate::model::SdkAppId;
use crate::store::engine::{Store, StoreError, values};

/// The state of one app. The dashboard's JSON uses the same names for the same fields.
#[derive(Clone, Debug, Default, Serialize)]
pub struct AppStatus {
    pub app: String,
    pub sdk_app_id: i64,
    pub configured: bool,
    /// Live groups, including missing ones.
    pub live_count: i64,
    pub missing_count: i64,
    pub deleted_count: i64,
    /// Groups whose deletion is held.
    pub held_count: i64,
    /// The API's latest TotalCount of the whole app.
    pub total_count: Option<i64>,
    pub last_complete_crawl_at: Option<Stamp>,
    pub types: Vec<TypeStatus>,
    /// The newest complete crawl.
    pub last_complete_crawl: Option<Crawl>,
    /// The newest crawl that ended.
    pub last_crawl: Option<Crawl>,
    /// A crawl that has not ended.
    pub running_crawl: Option<Crawl>,
    /// The crawls with held groups, newest first.
    pub withheld: Vec<Withheld>,
    /// The configured group types of each host that crawls the app, if they differ between hosts;
    /// otherwise empty. If they differ, some types are not part of every crawl.
    pub differing_group_types: Vec<HostTypes>,
    /// `None` if no details of the app's groups are kept.
    pub details: Option<DetailsOverview>,
}

impl AppStatus {
    /// Returns the state of an app that is not in the database.
    #[must_use]
    pub fn never_crawled(name: &str, sdk_app_id: SdkAppId) -> Self {
        Self { app: name.to_owned(), sdk_app_id: sdk_app_id.get(), configured: true, ..Self::default() }
    }
}

const COUNT_CRAWLED_APPS: &str = "
SELECT count(*) FROM app a WHERE EXISTS (
    SELECT 1 FROM crawl c WHERE c.app_id = a.app_id AND c.status IN ('complete', 'incomplete'))";

impl Store {
    /// Returns how many apps have a crawl that reached its end.
    pub async fn apps_crawled(&self) -> Result<i64, StoreError> {
        let (apps,) = self.fetch_one("count the apps that were crawled", COUNT_CRAWLED_APPS, &[]).await?;
        Ok(apps)
    }
}

/// A crawl with held groups.
#[derive(Clone, Debug, Serialize)]
pub struct Withheld {
    #[serde(flatten)]
    pub held: HeldDeletions,
    /// An earlier name of `held_count`, for programs that read it.
    groups: i64,
    /// An earlier name of `confirmed_count`.
    confirmed: i64,
}

/// The group types of a host's newest crawl.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostTypes {
    pub host: String,
    /// The configured types. Empty if one unfiltered pass lists all types.
    pub group_types: Vec<String>,
}

/// One group type of an app.
#[derive(Clone, Debug, Serialize)]
pub struct TypeStatus {
    #[serde(flatten)]
    pub of_type: TypeOverview,
    /// An earlier name of `live_count`, for programs that read it.
    live: i64,
    /// An earlier name of `missing_count`.
    missing: i64,
    /// An earlier name of `deleted_count`.
    deleted: i64,
}

impl From<TypeOverview> for TypeStatus {
    fn from(of_type: TypeOverview) -> Self {
        Self {
            live: of_type.live_count,
            missing: of_type.missing_count,
            deleted: of_type.deleted_count,
            of_type,
        }
    }
}

impl From<HeldDeletions> for Withheld {
    fn from(held: HeldDeletions) -> Self {
        Self { groups: held.held_count, confirmed: held.confirmed_count, held }
    }
}

// Reads only the newest crawls, so that a host that was removed, or whose configuration was
// corrected, soon no longer counts.
const RECENT_CRAWLS: &str = "
SELECT host, group_types FROM (
    SELECT crawl_id, host, group_types FROM crawl WHERE app_id = $1 ORDER BY crawl_id DESC LIMIT 20
) AS newest ORDER BY crawl_id";

impl Store {
    /// Returns the state of every app in the database, configured or not, ordered by name.
    pub async fn app_statuses(&self) -> Result<Vec<AppStatus>, StoreError> {
        let apps = self.overview().await?;
        let mut statuses = Vec::with_capacity(apps.len());
        for app in apps {
            let recent_crawls =
                self.fetch_all("read the apps' status", RECENT_CRAWLS, &values![app.app_id]).await?;
            let sum = |count: fn(&TypeOverview) -> i64| app.types.iter().map(count).sum();
            statuses.push(AppStatus {
                live_count: sum(|of_type| of_type.live_count),
                missing_count: sum(|of_type| of_type.missing_count),
                deleted_count: sum(|of_type| of_type.deleted_count),
                held_count: app.held_groups(),
                total_count: app.total_count,
                last_complete_crawl_at: app.last_complete_crawl.as_ref().and_then(|crawl| crawl.finished_at),
                types: app.types.into_iter().map(TypeStatus::from).collect(),
                withheld: app.held.into_iter().map(Withheld::from).collect(),
                differing_group_types: differing_types(recent_crawls),
                details: app.details,
                app: app.app,
                sdk_app_id: app.sdk_app_id,
                configured: app.configured,
                last_complete_crawl: app.last_complete_crawl,
                last_crawl: app.last_crawl,
                running_crawl: app.running_crawl,
            });
        }
        Ok(statuses)
    }
}

/// Returns the group types of each host's newest crawl, or nothing if they are the same for all
/// hosts. `crawls` has the host and the comma-separated types of each crawl, the oldest crawl
/// first.
fn differing_types(crawls: Vec<(String, String)>) -> Vec<HostTypes> {
    // A later crawl of a host replaces an earlier one.
    let newest: BTreeMap<String, String> = crawls.into_iter().collect();
    if newest.values().collect::<BTreeSet<_>>().len() < 2 {
        return Vec::new();
    }
    let names = |list: String| list.split_terminator(',').map(str::to_owned).collect();
    newest.into_iter().map(|(host, list)| HostTypes { host, group_types: names(list) }).collect()
}
