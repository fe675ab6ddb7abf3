//! Settings that the configuration shares with the crawl and the notifications. No I/O.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use crate::model::GroupType;

/// `[deletion]`: when a crawl may mark groups deleted.
#[derive(Clone, Debug, PartialEq)]
pub struct DeletionPolicy {
    /// True for `mode = "review"`: every deletion waits for approval.
    pub review: bool,
    /// The guard withholds deletions if a type, or the app, would shrink by more than this share of
    /// its live groups and also by more than `min_groups`.
    pub max_fraction: f64,
    /// A type or an app may always shrink by this number of groups.
    pub min_groups: u64,
    /// Replaces `max_fraction` for single types. Such a type does not count towards the limit of
    /// the app.
    pub max_fraction_by_type: BTreeMap<GroupType, f64>,
    /// A list may always lack this share of its `TotalCount` without being judged short.
    pub max_shortfall: f64,
    /// If true, `get_group_info` decides about each candidate. Otherwise the lists alone decide.
    pub confirm: bool,
}

/// Both limits are 0, so every deletion is withheld. Each candidate is looked up with
/// `get_group_info`.
impl Default for DeletionPolicy {
    fn default() -> Self {
        Self {
            review: false,
            max_fraction: 0.0,
            min_groups: 0,
            max_fraction_by_type: BTreeMap::new(),
            max_shortfall: 0.0,
            confirm: true,
        }
    }
}

/// `[retention]`: the number of days for which rows are kept. `None` keeps them forever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    pub deleted_groups: Option<u32>,
    pub events: Option<u32>,
    pub counts: Option<u32>,
}

/// `[details]`: how the details of groups are kept.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DetailsPolicy {
    /// The age at which the details of a group are requested again.
    pub refresh: Duration,
    /// The maximum rate of `get_group_info` requests for details, for one app and over all
    /// processes.
    pub requests_per_second: u32,
}

impl DetailsPolicy {
    /// The greatest configurable rate. The lookups of a crawl get the rest of
    /// [`INFO_REQUESTS_PER_SECOND`].
    pub const MAX_REQUESTS_PER_SECOND: u32 = 40;
}

/// The maximum rate of `get_group_info` requests of one app: the lookups of its crawls and its
/// details together. The API allows 200 a second (document 269/1616).
pub const INFO_REQUESTS_PER_SECOND: u32 = 50;

/// `notify.format`: the form in which the receiver of notifications expects them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NotificationFormat {
    /// A JSON object of this program.
    Json,
    /// An incoming webhook of Slack, or of a program that is compatible with it.
    Slack,
    /// A robot of a WeCom group.
    WeCom,
    /// A custom robot of a DingTalk group.
    DingTalk,
    /// A custom bot of a Feishu or Lark group.
    Feishu,
}

impl NotificationFormat {
    /// All formats by their names in the configuration.
    pub const ALL: [(&'static str, Self); 5] = [
        ("json", Self::Json),
        ("slack", Self::Slack),
        ("wecom", Self::WeCom),
        ("dingtalk", Self::DingTalk),
        ("feishu", Self::Feishu),
    ];

    /// Returns whether receivers of this format can verify a secret. For the others, the URL alone
    /// is the secret.
    #[must_use]
    pub fn has_secret(self) -> bool {
        matches!(self, Self::Json | Self::DingTalk | Self::Feishu)
    }
}

impl fmt::Display for NotificationFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let named = Self::ALL.iter().find(|(_, format)| format == self);
        f.write_str(named.map_or("", |(name, _)| name))
    }
}
