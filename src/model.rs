//! The domain types that all modules share: apps, group types, group ids, crawl statuses and
//! reasons, and addresses of listeners. No I/O.

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;

use chrono::{DateTime, NaiveDate, Utc};
use chrono_tz::Tz;
use serde::Serialize;

use crate::escape::one_line;

/// The number that Tencent Cloud assigns to an IM application, called `sdkappid` in the URLs of
/// requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct SdkAppId(i64);

impl SdkAppId {
    /// Returns `None` unless the number is positive: 0 and negative numbers are never assigned.
    #[must_use]
    pub fn new(number: i64) -> Option<Self> {
        (number > 0).then_some(Self(number))
    }

    #[must_use]
    pub fn get(self) -> i64 {
        self.0
    }
}

impl fmt::Display for SdkAppId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The details of a group from `get_group_info`. `None` means that the API did not return a usable
/// value. Times are unix milliseconds.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GroupDetails {
    pub name: Option<String>,
    /// The UserID of the owner.
    pub owner: Option<String>,
    pub introduction: Option<String>,
    pub created_at: Option<i64>,
    pub last_message_at: Option<i64>,
    pub info_changed_at: Option<i64>,
    pub member_count: Option<i64>,
    pub max_member_count: Option<i64>,
}

/// A group type by its name in the REST API. The set is open, because an app can have custom types
/// (document 269/3916).
///
/// The SDKs have newer names for two types: `Work` is `Private`, and `Meeting` is `ChatRoom`.
/// [`GroupType::new`] converts them, so that one group is never stored under two types.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct GroupType(String);

impl GroupType {
    /// The maximum length of a name in bytes.
    pub const MAX_BYTES: usize = 64;

    /// The documented names: those of the API, and those of the SDK that differ from them.
    pub const KNOWN_NAMES: [&str; 8] =
        ["Public", "Private", "ChatRoom", "AVChatRoom", "BChatRoom", "Community", "Work", "Meeting"];

    /// Returns `None` unless the name has 1 to [`Self::MAX_BYTES`] ASCII letters, digits, `_` and
    /// `-`.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let is_valid = (1..=Self::MAX_BYTES).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        is_valid.then(|| {
            Self(
                match name {
                    "Work" => "Private",
                    "Meeting" => "ChatRoom",
                    other => other,
                }
                .to_owned(),
            )
        })
    }

    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the six documented types (document 269/1614), which are the default of
    /// `group_types`.
    #[must_use]
    pub fn documented() -> Vec<Self> {
        ["Public", "Private", "ChatRoom", "AVChatRoom", "BChatRoom", "Community"]
            .map(|name| Self(name.to_owned()))
            .to_vec()
    }
}

impl fmt::Display for GroupType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The key of a group type in the database. Groups of unknown type have [`TypeId::UNKNOWN`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct TypeId(pub i64);

impl TypeId {
    pub const UNKNOWN: Self = Self(0);
}

/// Returns whether a group id can be stored: it has 1 to 255 bytes and no control characters.
///
/// Documented ids are printable ASCII of at most 48 bytes; ids of topics are longer (document
/// 269/1615). PostgreSQL cannot store a NUL in a text, so control characters are rejected on both
/// databases.
#[must_use]
pub fn is_group_id(id: &str) -> bool {
    // The ASCII check is a fast path: this runs for every listed id, and nearly all ids are ASCII.
    let is_printable_ascii = id.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    (1..=255).contains(&id.len()) && (is_printable_ascii || !id.chars().any(char::is_control))
}

/// A list of group ids in one string buffer. A page of 10,000 ids takes two allocations instead of
/// 10,000.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct GroupIds {
    text: String,
    ends: Vec<u32>,
}

impl GroupIds {
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Appends an id.
    ///
    /// # Panics
    /// If the total length of the ids exceeds 4 GiB. Callers stop at a few MiB.
    pub fn push(&mut self, id: &str) {
        self.text.push_str(id);
        let end = u32::try_from(self.text.len()).expect("the text of a list of ids is shorter than 4 GiB");
        self.ends.push(end);
    }

    #[must_use]
    pub fn len(&self) -> usize {
        self.ends.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.ends.is_empty()
    }

    /// Returns the total length of the ids in bytes. Callers use it to limit memory.
    #[must_use]
    pub fn text_len(&self) -> usize {
        self.text.len()
    }

    pub fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
    }

    /// Releases unused capacity.
    pub fn shrink_to_fit(&mut self) {
        self.text.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    /// Moves all ids of another list to the end of this one.
    pub fn append(&mut self, other: &mut Self) {
        other.iter().for_each(|id| self.push(id));
        other.clear();
    }

    /// Iterates over the ids in the order in which they were pushed.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let id = &self.text[start..end as usize];
            start = end as usize;
            id
        })
    }

    /// Iterates over the ids in chunks of at most `size`, sorted by bytes as in the indexes of both
    /// databases.
    pub fn sorted_chunks(&self, size: usize) -> impl Iterator<Item = Vec<&str>> {
        let mut order: Vec<u32> = (0u32..).take(self.len()).collect();
        order.sort_unstable_by_key(|&index| self.get(index));
        let mut from = 0;
        std::iter::from_fn(move || {
            let chunk = order.get(from..order.len().min(from + size)).filter(|chunk| !chunk.is_empty())?;
            from += chunk.len();
            Some(chunk.iter().map(|&index| self.get(index)).collect())
        })
    }

    fn get(&self, index: u32) -> &str {
        let index = index as usize;
        let start = if index == 0 { 0 } else { self.ends[index - 1] };
        &self.text[start as usize..self.ends[index] as usize]
    }
}

impl<'a> FromIterator<&'a str> for GroupIds {
    fn from_iter<I: IntoIterator<Item = &'a str>>(ids: I) -> Self {
        let mut list = Self::new();
        ids.into_iter().for_each(|id| list.push(id));
        list
    }
}

impl fmt::Debug for GroupIds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.iter()).finish()
    }
}

/// The last, the lowest and the highest `TotalCount` on the pages of one pass.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub last: Option<u64>,
    pub lowest: Option<u64>,
    pub highest: Option<u64>,
    /// The number of pages without a `TotalCount`.
    pub absent: u64,
}

impl Counts {
    pub fn add(&mut self, total_count: Option<u64>) {
        let Some(count) = total_count else {
            self.absent += 1;
            return;
        };
        self.last = Some(count);
        self.lowest = Some(self.lowest.map_or(count, |lowest| lowest.min(count)));
        self.highest = Some(self.highest.map_or(count, |highest| highest.max(count)));
    }

    /// Returns the `TotalCount` if every page has one and all are equal.
    #[must_use]
    pub fn steady(&self) -> Option<u64> {
        self.lowest.filter(|_| self.absent == 0 && self.lowest == self.highest)
    }
}

/// The id of a crawl. A later crawl has a greater id, even if the clock was set back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct CrawlId(pub i64);

impl fmt::Display for CrawlId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Defines an enum whose variants have the same string in the database, in logs and in JSON.
macro_rules! string_enum {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $string:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $string)] $variant,)+ }

        impl $name {
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $string,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

string_enum! {
    /// What started a crawl.
    Trigger {
        /// A tick of the schedule.
        Schedule = "schedule",
        /// A scheduled crawl was missed while the daemon was down, or the app was never crawled.
        CatchUp = "catch_up",
        /// The daemon received SIGUSR1.
        Signal = "signal",
        /// The command `crawl` or `demo`.
        Command = "command",
    }
}

string_enum! {
    /// The status of a crawl.
    CrawlStatus {
        Running = "running",
        /// The crawl reached its end, and every pass was exact, moving or rejected.
        Complete = "complete",
        /// The crawl reached its end, but at least one pass was short.
        Incomplete = "incomplete",
        Failed = "failed",
        Cancelled = "cancelled",
    }
}

string_enum! {
    /// Whether the deletions of a complete crawl were applied.
    Deletions {
        /// There was nothing to delete.
        None = "none",
        Applied = "applied",
        /// The deletions of at least one type wait for approval.
        Withheld = "withheld",
        /// The deletions were withheld and later approved.
        Approved = "approved",
    }
}

string_enum! {
    /// Why a crawl did not end as `complete` with its deletions applied.
    ReasonCode {
        /// A pass listed fewer ids than its TotalCount.
        ShortListing = "short_listing",
        /// The deletions exceed the limits of `[deletion]`.
        Guard = "guard",
        /// `deletion.mode = "review"`.
        Review = "review",
        /// `deletion.confirm = true`, but the API does not permit the identifier to call
        /// `get_group_info`.
        ConfirmRefused = "confirm_refused",
        /// Three crawls looked a group up with `get_group_info` and got no usable answer.
        Unconfirmable = "unconfirmable",
        /// The API's rate limit was exceeded until the retry budget was used up.
        Throttled = "throttled",
        /// The API refused the key, the identifier, the SDKAppID or the address of this host.
        Refused = "refused",
        /// The API rejected every configured group type.
        RejectedTypes = "rejected_types",
        /// The API answered with another error code; retries did not help.
        ApiError = "api_error",
        /// The API did not answer in time.
        Timeout = "timeout",
        /// No connection, a broken connection, or an HTTP error status.
        Network = "network",
        /// The answer does not conform to the API's documentation.
        MalformedAnswer = "malformed_answer",
        /// A cursor was repeated, many pages in a row had no new ids, or a list had far more
        /// entries than the API counts groups.
        EndlessListing = "endless_listing",
        /// The clocks of this machine and of the API differ by more than an hour.
        Clock = "clock",
        /// A database operation failed.
        Database = "database",
        /// The program was stopped.
        Cancelled = "cancelled",
        /// The process ended without closing the crawl, for example because it was killed.
        ProcessEnded = "process_ended",
    }
}

string_enum! {
    /// Whether the list of a pass is complete, judged by its counts.
    Verdict {
        /// `TotalCount` did not change, and as many ids were listed. One absence proves a deletion.
        Exact = "exact",
        /// The list changed while it was read. Two consecutive absences prove a deletion.
        Moving = "moving",
        /// Too few ids were listed. Absence proves nothing.
        Short = "short",
        /// The API does not know the type.
        Rejected = "rejected",
    }
}

/// The address on which a listener accepts connections.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ListenAddress {
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

impl ListenAddress {
    /// Returns whether two listeners need the same port or the same socket. Port 0 means any free
    /// port, so it never overlaps.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Tcp(one), Self::Tcp(other)) => {
                let is_same_host =
                    one.ip() == other.ip() || one.ip().is_unspecified() || other.ip().is_unspecified();
                one.port() != 0 && one.port() == other.port() && is_same_host
            }
            _ => self == other,
        }
    }

    /// Returns whether only processes on this machine can connect.
    #[must_use]
    pub fn is_local(&self) -> bool {
        match self {
            Self::Tcp(address) => address.ip().is_loopback(),
            Self::Unix(_) => true,
        }
    }
}

impl From<SocketAddr> for ListenAddress {
    fn from(address: SocketAddr) -> Self {
        Self::Tcp(address)
    }
}

impl fmt::Display for ListenAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// Returns whether a name is valid for the PostgreSQL schema of the views. The name must need no
/// quotes in SQL. With the suffix `_private`, which names the schema of the tables, it must fit
/// into PostgreSQL's limit of 63 bytes.
#[must_use]
pub fn is_schema_name(name: &str) -> bool {
    (1..=55).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_')
        && !name.starts_with(|first: char| first.is_ascii_digit())
        && !name.starts_with("pg_")
}

/// Returns the noun, with an `s` appended unless the number is 1.
#[must_use]
pub fn plural(number: u64, noun: &str) -> String {
    if number == 1 { noun.to_owned() } else { format!("{noun}s") }
}

/// Returns the messages of an error and its causes on one line, separated by colons. Escapes unsafe
/// characters, because the messages of servers and drivers are untrusted.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let message = cause.to_string();
        // Some errors already end with the message of their cause.
        if !text.ends_with(&message) {
            text.extend([": ", &message]);
        }
        source = cause.source();
    }
    one_line(&text).into_owned()
}

/// A day in the time zone of an app's schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LocalDay {
    pub date: NaiveDate,
    /// The IANA name of the time zone.
    pub timezone: &'static str,
}

impl LocalDay {
    /// Returns the day of a moment in a time zone.
    #[must_use]
    pub fn new(at: DateTime<Utc>, timezone: Tz) -> Self {
        Self { date: at.with_timezone(&timezone).date_naive(), timezone: timezone.name() }
    }
}

/// The API's own figures of an app for one day in Beijing time. `None`: the API did not report the
/// figure.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AppStatistics {
    pub day: NaiveDate,
    pub groups: Option<i64>,
    pub groups_created: Option<i64>,
    pub groups_dissolved: Option<i64>,
    /// Groups in which messages were sent.
    pub groups_active: Option<i64>,
    pub callbacks_sent: Option<i64>,
    pub callbacks_answered: Option<i64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_the_error_message_contains_is_not_repeated() {
        #[derive(Debug, thiserror::Error)]
        #[error("{0}")]
        struct TestError(&'static str, #[source] Option<Box<TestError>>);
        let cause = |message| Some(Box::new(TestError(message, None)));
        let text = |message, cause| with_causes(&TestError(message, cause));
        assert_eq!(text("cannot read", cause("no such file")), "cannot read: no such file");
        assert_eq!(text("cannot read: no such file", cause("no such file")), "cannot read: no such file");
    }

    #[test]
    fn an_error_stays_on_one_line_whatever_a_server_writes() {
        #[derive(Debug, thiserror::Error)]
        #[error("{0}")]
        struct ServerError(&'static str);
        assert_eq!(with_causes(&ServerError("no\n<3>all is well\u{202e}")), "no\\n<3>all is well\\u{202e}");
    }

    #[test]
    fn the_sdk_names_of_types_are_normalised_to_the_rest_names() {
        assert_eq!(GroupType::new("Work").unwrap().as_str(), "Private");
        assert_eq!(GroupType::new("Meeting").unwrap().as_str(), "ChatRoom");
        assert_eq!(GroupType::new("Live").unwrap().as_str(), "Live");
    }

    #[test]
    fn a_type_name_has_only_plain_ascii_characters() {
        for bad in ["", "a b", "Öffentlich", "x'--", &"x".repeat(65)] {
            assert_eq!(GroupType::new(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn ids_may_contain_quotes_and_spaces_but_no_control_characters() {
        assert!(is_group_id(&"a'\" ".repeat(32)));
        assert!(is_group_id("@TGS#_@TGS#cQVLVHIM62CJ"));
        for bad in ["", "a\0b", "line\nbreak", &"x".repeat(256)] {
            assert!(!is_group_id(bad), "{bad:?}");
        }
    }

    #[test]
    fn group_ids_keep_their_order_and_sort_by_bytes() {
        let ids: GroupIds = ["b", "", "a b", "Z"].into_iter().collect();
        assert_eq!(ids.iter().collect::<Vec<_>>(), ["b", "", "a b", "Z"]);
        assert_eq!(ids.sorted_chunks(3).collect::<Vec<_>>(), [vec!["", "Z", "a b"], vec!["b"]]);
        assert_eq!((ids.len(), ids.text_len()), (4, 5));
    }
}
