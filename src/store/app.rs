//! How the store identifies an app.

use crate::model::SdkAppId;

/// The key of an app in the database.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct AppId(pub i64);

/// An app's SDKAppID and its name in the configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AppIdentity {
    pub sdk_app_id: SdkAppId,
    pub name: String,
}
