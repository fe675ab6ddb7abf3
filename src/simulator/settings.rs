//! The fixed settings of a simulated app.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::clock::Clock;
use crate::model::SdkAppId;
use crate::tencent::usersig::SecretKey;

/// The fixed settings of a simulated app. By default, list requests are not limited, the server
/// listens on a free loopback port, and lists begin with the oldest group and have keyset cursors.
#[derive(Clone, Debug)]
pub struct Settings {
    pub listen: SocketAddr,
    pub sdk_app_id: SdkAppId,
    /// The only administrator.
    pub identifier: String,
    pub secret_key: SecretKey,
    /// The minimum time between two admitted list requests. Earlier requests are refused with
    /// 10006. The API's interval is one second.
    pub min_interval: Option<Duration>,
    /// The maximum number of `get_group_info` requests within any second. Others are refused with
    /// 60011.
    pub info_per_second: Option<u32>,
    /// The delay of each `get_group_info` answer.
    pub info_delay: Duration,
    /// The codes of `get_group_info` for groups that do not exist.
    pub absent: AbsentCodes,
    pub listing: Listing,
    /// The maximum size of an answer. A larger one is replaced by error 10018.
    pub max_answer_bytes: usize,
    /// The clock for the expiry of signatures and the `Date` of answers.
    pub clock: Clock,
    /// The seed of all ids, orders, cursors and random choices.
    pub seed: u64,
}

/// The default secret key of the simulated app.
pub const KEY: &str = "0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";

impl Default for Settings {
    fn default() -> Self {
        Self {
            listen: (Ipv4Addr::LOCALHOST, 0).into(),
            sdk_app_id: SdkAppId::new(1_400_000_000).expect("the number is positive"),
            identifier: "administrator".to_owned(),
            secret_key: SecretKey::new(KEY),
            min_interval: None,
            info_per_second: Some(200),
            info_delay: Duration::ZERO,
            absent: AbsentCodes::default(),
            listing: Listing::default(),
            max_answer_bytes: 1 << 20,
            clock: Clock::system(),
            seed: 1,
        }
    }
}

/// The order and the cursors of lists, which the documentation does not specify.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Listing {
    pub order: Order,
    pub cursor: Cursor,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Order {
    #[default]
    OldestFirst,
    NewestFirst,
    /// A fixed order that is independent of age, as if sorted by a hash of the id.
    Shuffled,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cursor {
    /// Keyset pagination: `Next` identifies the last listed group. No existing group is skipped.
    #[default]
    Key,
    /// Offset pagination: `Next` is a position. If the list changes, groups are skipped or listed
    /// twice.
    Position,
}

/// The codes of `get_group_info` for groups that do not exist. The documentation does not say
/// whether this is 10010 or 10015, or whether it depends on the form of the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbsentCodes {
    /// For ids that begin with `@TGS#` but not with `@TGS#_`.
    pub default_form: i64,
    /// For ids that begin with `@TGS#_`.
    pub community: i64,
    /// For all other ids.
    pub custom: i64,
}

impl AbsentCodes {
    /// Returns the same code for every form.
    #[must_use]
    pub const fn all(code: i64) -> Self {
        Self { default_form: code, community: code, custom: code }
    }

    pub(super) fn of(&self, id: &str) -> i64 {
        match id.strip_prefix("@TGS#") {
            Some(rest) if rest.starts_with('_') => self.community,
            Some(_) => self.default_form,
            None => self.custom,
        }
    }
}

/// 10010 for every form.
impl Default for AbsentCodes {
    fn default() -> Self {
        Self::all(10010)
    }
}
