//! The simulated apps and servers.

use chrono::TimeDelta;
use tim_group_sync::simulator::Cursor::{Key, Position};
use tim_group_sync::simulator::Order::{self, NewestFirst, OldestFirst, Shuffled};
use tim_group_sync::simulator::{AbsentCodes, Cursor, Listing, Settings};

/// A type that the simulated app has and `group_types` does not list.
pub(crate) const UNCONFIGURED: &str = "Chess";

const MINUTE: TimeDelta = TimeDelta::seconds(60);
const HOUR: TimeDelta = TimeDelta::seconds(3600);
/// The pause with which four crawls of 14 seconds take ten minutes.
const PAUSE_FOR_FOUR_IN_TEN_MINUTES: TimeDelta = TimeDelta::seconds(136);

/// The behaviour of the API.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Server {
    /// Every answer is current.
    Current,
    /// `get_group_info` answers 10015, not 10010, for groups that do not exist.
    Absent10015,
    /// Every TotalCount is a minute old.
    LateCounts,
    /// A replica that lags ten minutes behind answers every list request of each fifth crawl.
    StaleLists,
    /// A replica that lags at most ten minutes behind answers one list request in five.
    StalePages,
    /// A replica that lags ten minutes behind answers every `get_group_info` request of each fifth
    /// crawl.
    StaleInfo,
    /// A replica that lags ten minutes behind answers every request of each fifth crawl.
    StaleApi,
}

impl Server {
    /// Returns true if `get_group_info` answers correctly, so that no existing group may be marked
    /// deleted.
    pub(crate) fn is_reliable(self) -> bool {
        self != Self::StaleApi
    }
}

/// An app whose groups are created and dissolved.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    pub(crate) groups: usize,
    /// Groups created per second.
    pub(crate) created: f64,
    /// Groups dissolved per second.
    pub(crate) dissolved: f64,
    /// Whether groups are created and dissolved while the lists are read, and not only between two
    /// crawls.
    pub(crate) moves: bool,
    /// The types, with their fractions of the groups.
    pub(crate) types: &'static [(&'static str, f64)],
    pub(crate) server: Server,
    /// The time between the end of a crawl and the start of the next one.
    pub(crate) pause: TimeDelta,
    pub(crate) crawls: u32,
    pub(crate) listings: &'static [(Order, Cursor)],
}

impl Scenario {
    pub(crate) fn settings(&self, (order, cursor): (Order, Cursor)) -> Settings {
        let absent = match self.server {
            Server::Absent10015 => AbsentCodes::all(10015),
            _ => AbsentCodes::default(),
        };
        Settings { listing: Listing { order, cursor }, absent, ..Settings::default() }
    }
}

const MIXED: &[(&str, f64)] = &[("Public", 0.7), ("Private", 0.25), ("Community", 0.05)];
const WITH_UNCONFIGURED: &[(&str, f64)] =
    &[("Public", 0.7), ("Private", 0.2), ("Community", 0.05), (UNCONFIGURED, 0.05)];
const WITH_FEW_UNCONFIGURED: &[(&str, f64)] =
    &[("Public", 0.7), ("Private", 0.2498), ("Community", 0.05), (UNCONFIGURED, 0.0002)];

/// For scenarios in which the order hardly matters.
const OLDEST: &[(Order, Cursor)] = &[(OldestFirst, Key), (OldestFirst, Position)];
/// All orders. With a key as cursor the order does not matter.
const ALL_ORDERS: &[(Order, Cursor)] =
    &[(OldestFirst, Key), (OldestFirst, Position), (NewestFirst, Position), (Shuffled, Position)];
/// The order in which a list of a million groups loses groups.
const SHUFFLED: &[(Order, Cursor)] = &[(Shuffled, Key), (Shuffled, Position)];

/// The defaults of a scenario: 0.3 groups are created and dissolved per second.
const USUAL: Scenario = Scenario {
    name: "0.3 a second",
    groups: 100_000,
    created: 0.3,
    dissolved: 0.3,
    moves: true,
    types: MIXED,
    server: Server::Current,
    pause: MINUTE,
    crawls: 20,
    listings: OLDEST,
};

pub(crate) const SCENARIOS: [Scenario; 16] = [
    Scenario { name: "quiet while it is listed", moves: false, ..USUAL },
    Scenario { listings: ALL_ORDERS, ..USUAL },
    Scenario { name: "37 a second", created: 37.0, dissolved: 37.0, ..USUAL },
    Scenario { name: "grows, 5 % of an unconfigured type", created: 1.0, types: WITH_UNCONFIGURED, ..USUAL },
    Scenario {
        name: "grows, 0.02 % of an unconfigured type",
        created: 1.0,
        types: WITH_FEW_UNCONFIGURED,
        ..USUAL
    },
    Scenario { name: "grows, counts a minute late", created: 1.0, server: Server::LateCounts, ..USUAL },
    Scenario {
        name: "shrinks, counts a minute late",
        created: 0.1,
        dissolved: 1.0,
        server: Server::LateCounts,
        ..USUAL
    },
    Scenario { name: "counts a minute late", server: Server::LateCounts, ..USUAL },
    Scenario {
        name: "every fifth crawl: stale lists",
        server: Server::StaleLists,
        pause: PAUSE_FOR_FOUR_IN_TEN_MINUTES,
        ..USUAL
    },
    Scenario {
        name: "one page in five is stale",
        server: Server::StalePages,
        pause: PAUSE_FOR_FOUR_IN_TEN_MINUTES,
        ..USUAL
    },
    Scenario { name: "10015 for absent groups", server: Server::Absent10015, ..USUAL },
    Scenario {
        name: "every fifth crawl: stale info",
        server: Server::StaleInfo,
        pause: PAUSE_FOR_FOUR_IN_TEN_MINUTES,
        ..USUAL
    },
    Scenario {
        name: "every fifth crawl: stale lists and info",
        server: Server::StaleApi,
        pause: PAUSE_FOR_FOUR_IN_TEN_MINUTES,
        ..USUAL
    },
    // Every group is replaced within 45 minutes. The list has one page, so its order does not
    // matter.
    Scenario {
        name: "live rooms of 45 minutes",
        groups: 5_000,
        created: 5_000.0 / 2_700.0,
        dissolved: 5_000.0 / 2_700.0,
        types: &[("AVChatRoom", 1.0)],
        pause: HOUR,
        crawls: 48,
        ..USUAL
    },
    // At about this rate, creations and dissolutions between two pages cancel each other out most
    // often.
    Scenario {
        name: "0.1 a second",
        created: 0.1,
        dissolved: 0.1,
        crawls: 200,
        listings: ALL_ORDERS,
        ..USUAL
    },
    Scenario {
        name: "3 a second in a million groups",
        groups: 1_000_000,
        created: 3.0,
        dissolved: 3.0,
        crawls: 10,
        listings: SHUFFLED,
        ..USUAL
    },
];
