//! What is fixed about a simulated app.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::clock::Clock;
use crate::model::SdkAppId;
use crate::tencent::usersig::SecretKey;

/// What is fixed about a simulated app. The default is unpaced, listens on a free loopback port, and lists the oldest
/// groups first by cursors that are stable under churn.
#[derive(Clone, Debug)]
pub struct Settings {
    pub listen: SocketAddr,
    pub sdk_app_id: SdkAppId,
    /// The only administrator.
    pub identifier: String,
    pub secret_key: SecretKey,
    /// A call that arrives sooner than this after the last admitted one is refused with 10006. The API's is a second.
    pub min_interval: Option<Duration>,
    /// Most `get_group_info` calls admitted within any second; others are refused with 60011.
    pub info_per_second: Option<u32>,
    /// How long each `get_group_info` answer takes.
    pub info_delay: Duration,
    /// What `get_group_info` answers for a group that does not exist.
    pub absent: AbsentCodes,
    pub listing: Listing,
    /// A longer answer is replaced by error 10018.
    pub max_answer_bytes: usize,
    /// Decides whether a signature has expired, and sets the `Date` of every answer.
    pub clock: Clock,
    /// Ids, shuffles, cursors and random choices follow from it.
    pub seed: u64,
}

/// The key of the simulated app, unless its settings have another. It opens nothing but the simulation.
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

/// How the app lists its groups: the documentation does not say.
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
    /// An order that stands still but has nothing to do with age, as by a hash of the id.
    Shuffled,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Cursor {
    /// `Next` names the last listed group: no standing group is ever skipped.
    #[default]
    Key,
    /// `Next` is an index: the list shifts under it, so that groups are skipped or come twice.
    Position,
}

/// The codes that `get_group_info` answers for an id that does not exist, because it never did or because its group
/// was dissolved. The documentation does not say which of 10010 and 10015 that is, nor whether it depends on the form
/// of the id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AbsentCodes {
    /// For ids that begin `@TGS#` and not `@TGS#_`.
    pub default_form: i64,
    /// For ids that begin `@TGS#_`.
    pub community: i64,
    /// For all other ids.
    pub custom: i64,
}

impl AbsentCodes {
    /// The same code for every form.
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
