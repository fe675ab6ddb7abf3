//! The state of the apps as `status` prints it, from the read model.

use std::collections::{BTreeMap, BTreeSet};

use serde::Serialize;

use super::lists::Crawl;
use super::overview::{HeldDeletions, TypeOverview};
use crate::model::SdkAppId;
use crate::store::engine::{Store, StoreError, values};

/// The state of one app.
#[derive(Clone, Debug, Serialize)]
pub struct AppStatus {
    pub app: String,
    pub sdk_app_id: i64,
    pub configured: bool,
    pub types: Vec<TypeStatus>,
    /// The newest complete crawl.
    pub last_complete_crawl: Option<Crawl>,
    /// The newest crawl that ended.
    pub last_crawl: Option<Crawl>,
    /// A crawl that has not ended.
    pub running_crawl: Option<Crawl>,
    /// The crawls with held groups, newest first.
    pub withheld: Vec<Withheld>,
    /// The configured group types of each host that crawls the app, if they differ: then some types are crawled only
    /// alternately. Empty if they agree.
    pub differing_group_types: Vec<HostTypes>,
}

impl AppStatus {
    /// Returns the state of an app that is not in the database.
    #[must_use]
    pub fn never_crawled(name: &str, sdk_app_id: SdkAppId) -> Self {
        Self {
            app: name.to_owned(),
            sdk_app_id: sdk_app_id.get(),
            configured: true,
            types: Vec::new(),
            last_complete_crawl: None,
            last_crawl: None,
            running_crawl: None,
            withheld: Vec::new(),
            differing_group_types: Vec::new(),
        }
    }
}

const APPS_CRAWLED: &str = "
SELECT count(*) FROM app a WHERE EXISTS (
    SELECT 1 FROM crawl c WHERE c.app_id = a.app_id AND c.status IN ('complete', 'incomplete'))";

impl Store {
    /// Returns how many apps have a crawl that reached its end.
    pub async fn apps_crawled(&self) -> Result<i64, StoreError> {
        let (apps,) = self.fetch_one("count the apps that were crawled", APPS_CRAWLED, &[]).await?;
        Ok(apps)
    }
}

/// A crawl with held groups.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Withheld {
    pub crawl_id: i64,
    /// Groups that are still held.
    pub groups: i64,
    /// How many of these the API has confirmed to be gone.
    pub confirmed: i64,
}

/// The group types of a host's newest crawl.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HostTypes {
    pub host: String,
    /// Empty: one pass over everything.
    pub group_types: Vec<String>,
}

/// One group type of an app.
#[derive(Clone, Debug, Serialize)]
pub struct TypeStatus {
    /// `None`: groups whose type is not known.
    pub group_type: Option<String>,
    pub configured: i64,
    /// Live groups, missing ones included.
    pub live: i64,
    pub missing: i64,
    pub deleted: i64,
}

impl From<TypeOverview> for TypeStatus {
    fn from(of_type: TypeOverview) -> Self {
        Self {
            group_type: of_type.group_type,
            configured: of_type.configured.into(),
            live: of_type.live_count,
            missing: of_type.missing_count,
            deleted: of_type.deleted_count,
        }
    }
}

impl From<HeldDeletions> for Withheld {
    fn from(held: HeldDeletions) -> Self {
        Self { crawl_id: held.crawl_id, groups: held.held_count, confirmed: held.confirmed_count }
    }
}

// Only the newest crawls, so that a host whose configuration was corrected, or that was removed, is soon left out.
const LATELY_CRAWLED: &str = "
SELECT host, group_types FROM (
    SELECT crawl_id, host, group_types FROM crawl WHERE app_id = $1 ORDER BY crawl_id DESC LIMIT 20
) AS newest ORDER BY crawl_id";

impl Store {
    /// Returns the state of every app in the database, configured or not, by name.
    pub async fn app_statuses(&self) -> Result<Vec<AppStatus>, StoreError> {
        let overview = self.overview().await?;
        let mut statuses = Vec::with_capacity(overview.len());
        for app in overview {
            let lately =
                self.fetch_all("read the apps' status", LATELY_CRAWLED, &values![app.app_id]).await?;
            statuses.push(AppStatus {
                types: app.types.into_iter().map(TypeStatus::from).collect(),
                withheld: app.held.into_iter().map(Withheld::from).collect(),
                differing_group_types: differing(lately),
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

/// Returns the group types of each host's newest crawl, unless they are the same for all. Expects the oldest crawl first.
fn differing(crawls: Vec<(String, String)>) -> Vec<HostTypes> {
    let newest: BTreeMap<String, String> = crawls.into_iter().collect();
    if newest.values().collect::<BTreeSet<_>>().len() < 2 {
        return Vec::new();
    }
    let names = |list: String| list.split_terminator(',').map(str::to_owned).collect();
    newest.into_iter().map(|(host, list)| HostTypes { host, group_types: names(list) }).collect()
}
