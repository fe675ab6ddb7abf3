//! The settings that both the configuration and the crawl work with. No I/O.

use std::collections::BTreeMap;

use crate::model::GroupType;

/// `[deletion]`: when a crawl may mark groups deleted.
#[derive(Clone, Debug, PartialEq)]
pub struct DeletionPolicy {
    /// `mode = "review"`: every deletion waits for approval.
    pub review: bool,
    /// Deletions are withheld if a type, or the app, would shrink by more than both limits: this share of its live groups,
    /// and `min_groups`.
    pub max_fraction: f64,
    pub min_groups: u64,
    /// Replaces `max_fraction` for these types, which then do not count towards the limit of the app.
    pub max_fraction_by_type: BTreeMap<GroupType, f64>,
    /// The share of its TotalCount by which a pass may always fall short.
    pub max_shortfall: f64,
    /// Whether `get_group_info` decides about each candidate. Otherwise the lists alone decide.
    pub confirm: bool,
}

/// Both limits are 0, so every loss is withheld. Each candidate is asked about.
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

/// `[retention]`: for how many days rows are kept. `None` keeps them forever.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retention {
    pub deleted_groups: Option<u32>,
    pub events: Option<u32>,
    pub counts: Option<u32>,
}
