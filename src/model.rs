//! The words of the project as types: what an app, a group type, a group id and a crawl's outcome are.
//! No I/O, no database, no API: everything here can be built in a test with a literal.

use std::fmt;

use serde::Serialize;

/// The number Tencent Cloud gives an IM application (269/32688 calls it `sdkappid`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct SdkAppId(i64);

impl SdkAppId {
    /// `None` unless the number is positive: 0 and negative numbers are never assigned.
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

/// A group type as the REST API names it. An open set: apps can be given types of their own (269/3916).
///
/// The SDKs call two types by newer names; both names become the REST name here, so that one group is
/// never kept under two types.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct GroupType(String);

impl GroupType {
    /// Longest accepted name, in bytes.
    pub const MAX_BYTES: usize = 64;

    /// `None` if the name is empty, longer than [`Self::MAX_BYTES`] or has other than ASCII letters, digits, `_` and `-`.
    #[must_use]
    pub fn new(name: &str) -> Option<Self> {
        let lawful = (1..=Self::MAX_BYTES).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'_' || b == b'-');
        lawful.then(|| {
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

    /// The six types of the documentation (269/1614), the default of `group_types`.
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

/// The number under which the database keeps a group type. [`TypeId::UNKNOWN`] stands for groups whose type no pass
/// has told yet.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct TypeId(pub i64);

impl TypeId {
    pub const UNKNOWN: Self = Self(0);
}

/// Whether the project can keep this group id: 1 to 255 bytes without control characters.
///
/// Documented ids are printable ASCII of at most 48 bytes, longer for topics (269/1615). A NUL would be
/// refused by PostgreSQL and kept by SQLite, so it is refused before either.
#[must_use]
pub fn is_group_id(id: &str) -> bool {
    // Nearly all ids are ASCII, and this is asked of every listed one.
    let printable = id.bytes().all(|byte| (0x20..0x7f).contains(&byte));
    (1..=255).contains(&id.len()) && (printable || !id.chars().any(char::is_control))
}

/// A list of group ids packed into one text: two allocations for a page of 10,000 ids instead of 10,000.
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

    /// Adds an id at the end.
    ///
    /// # Panics
    /// If the list outgrows 4 GiB of text; its users stop at a few MiB.
    pub fn push(&mut self, id: &str) {
        self.text.push_str(id);
        let end = u32::try_from(self.text.len()).expect("a list of ids stays far below 4 GiB");
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

    /// Bytes of text held: what a memory bound is measured in.
    #[must_use]
    pub fn text_len(&self) -> usize {
        self.text.len()
    }

    pub fn clear(&mut self) {
        self.text.clear();
        self.ends.clear();
    }

    /// Gives back the room that growing has left over.
    pub fn shrink_to_fit(&mut self) {
        self.text.shrink_to_fit();
        self.ends.shrink_to_fit();
    }

    /// Moves all ids of another list to the end of this one.
    pub fn append(&mut self, other: &mut Self) {
        other.iter().for_each(|id| self.push(id));
        other.clear();
    }

    /// The ids in the order they were pushed.
    #[must_use]
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &str> {
        let mut start = 0;
        self.ends.iter().map(move |&end| {
            let id = &self.text[start..end as usize];
            start = end as usize;
            id
        })
    }

    /// The same ids in byte order, the order of both databases' indexes, in lists of at most so many.
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

/// The TotalCounts that the pages of one pass stated.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub last: Option<u64>,
    pub lowest: Option<u64>,
    pub highest: Option<u64>,
    /// Pages without a TotalCount.
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

    /// The count, if every page stated it and it never moved.
    #[must_use]
    pub fn steady(&self) -> Option<u64> {
        self.lowest.filter(|_| self.absent == 0 && self.lowest == self.highest)
    }
}

/// Names a crawl; a later crawl has a greater id, whatever the clock said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct CrawlId(pub i64);

impl fmt::Display for CrawlId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A closed set of words that stands in a column, a log field and a JSON answer alike.
macro_rules! words {
    ($(#[$meta:meta])* $name:ident { $($(#[$vmeta:meta])* $variant:ident = $word:literal,)+ }) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize)]
        pub enum $name { $($(#[$vmeta])* #[serde(rename = $word)] $variant,)+ }

        impl $name {
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ }
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(self.as_str())
            }
        }
    };
}

words! {
    /// Why a crawl was started.
    Trigger {
        /// Its cron expression was due.
        Schedule = "schedule",
        /// A tick was missed while the daemon was down, or the app was never crawled.
        CatchUp = "catch_up",
        /// Someone sent SIGUSR1.
        Signal = "signal",
        /// Someone ran `crawl` or `demo`.
        Command = "command",
    }
}

words! {
    /// How a crawl stands or ended.
    CrawlStatus {
        Running = "running",
        /// Every pass was proved exact or moving.
        Complete = "complete",
        /// The crawl reached its end, but at least one pass was short.
        Incomplete = "incomplete",
        Failed = "failed",
        Cancelled = "cancelled",
    }
}

words! {
    /// What became of a complete crawl's deletions.
    Deletions {
        /// There was nothing to delete.
        None = "none",
        Applied = "applied",
        /// A guard kept at least one type's deletions back.
        Withheld = "withheld",
        /// Withheld first, then approved.
        Approved = "approved",
    }
}

words! {
    /// Why a crawl did not end as `complete` with its deletions applied.
    ReasonCode {
        /// A pass listed fewer ids than its TotalCount.
        ShortListing = "short_listing",
        /// Deletions beyond what `[deletion]` lets pass unseen.
        Guard = "guard",
        /// `deletion.mode = "review"`.
        Review = "review",
        /// `deletion.confirm = true`, but the API does not let the identifier ask about groups.
        ConfirmRefused = "confirm_refused",
        /// Three crawls asked about a group and could not learn whether it still exists.
        Unconfirmable = "unconfirmable",
        /// The API kept answering that calls come too often.
        Throttled = "throttled",
        /// The API refused the key, the identifier, the SDKAppID or this host's address.
        Refused = "refused",
        /// The API rejected every configured group type.
        RejectedTypes = "rejected_types",
        /// The API answered another error code for good.
        ApiError = "api_error",
        /// No answer in time.
        Timeout = "timeout",
        /// No connection, or a broken one, or an HTTP error status.
        Network = "network",
        /// An answer that is not what the documentation describes.
        MalformedAnswer = "malformed_answer",
        /// A cursor came twice, pages went on without a new id, or a list has far more entries than its counts allow.
        EndlessListing = "endless_listing",
        /// The clock of this machine and the API's are more than an hour apart.
        Clock = "clock",
        /// The database failed.
        Database = "database",
        /// The program was asked to stop.
        Cancelled = "cancelled",
        /// The program ended without closing the crawl (killed, power loss).
        ProcessEnded = "process_ended",
    }
}

words! {
    /// What the numbers of a pass that reached its end prove.
    Verdict {
        /// TotalCount stood still and every id of it was listed: absence is proof.
        Exact = "exact",
        /// The list moved while it was read: absence twice running is proof.
        Moving = "moving",
        /// Too few ids: absence proves nothing.
        Short = "short",
        /// The API does not know the type.
        Rejected = "rejected",
    }
}

/// An error and what caused it, in one line: how every reason is told.
#[must_use]
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let said = cause.to_string();
        // Some errors' own words end with their cause's.
        if !text.ends_with(&said) {
            text.extend([": ", &said]);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cause_that_an_error_tells_itself_is_told_once() {
        #[derive(Debug, thiserror::Error)]
        #[error("{0}")]
        struct Words(&'static str, #[source] Option<Box<Words>>);
        let cause = |words| Some(Box::new(Words(words, None)));
        let said = |words, cause| with_causes(&Words(words, cause));
        assert_eq!(said("cannot read", cause("no such file")), "cannot read: no such file");
        assert_eq!(said("cannot read: no such file", cause("no such file")), "cannot read: no such file");
    }

    #[test]
    fn newer_names_of_a_type_become_the_names_of_the_rest_api() {
        assert_eq!(GroupType::new("Work").unwrap().as_str(), "Private");
        assert_eq!(GroupType::new("Meeting").unwrap().as_str(), "ChatRoom");
        assert_eq!(GroupType::new("Live").unwrap().as_str(), "Live");
    }

    #[test]
    fn a_type_name_is_a_plain_word() {
        for bad in ["", "a b", "Öffentlich", "x'--", &"x".repeat(65)] {
            assert_eq!(GroupType::new(bad), None, "{bad:?}");
        }
    }

    #[test]
    fn ids_with_quotes_and_spaces_are_ids_and_control_characters_are_not() {
        assert!(is_group_id(&"a'\" ".repeat(32)));
        assert!(is_group_id("@TGS#_@TGS#cQVLVHIM62CJ"));
        for bad in ["", "a\0b", "line\nbreak", &"x".repeat(256)] {
            assert!(!is_group_id(bad), "{bad:?}");
        }
    }

    #[test]
    fn packed_ids_come_back_as_they_were_pushed_and_sort_by_bytes() {
        let ids: GroupIds = ["b", "", "a b", "Z"].into_iter().collect();
        assert_eq!(ids.iter().collect::<Vec<_>>(), ["b", "", "a b", "Z"]);
        assert_eq!(ids.sorted_chunks(3).collect::<Vec<_>>(), [vec!["", "Z", "a b"], vec!["b"]]);
        assert_eq!((ids.len(), ids.text_len()), (4, 5));
    }
}
