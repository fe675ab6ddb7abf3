//! Every fault of the API at every request of a crawl.

use harness::campaign::Sample;
use harness::crawl::{Harness, ids, outcome, reason_text};
use harness::crawl_tests;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tim_group_sync::crawl::CrawlReport;
use tim_group_sync::model::CrawlStatus;
use tim_group_sync::simulator::{AbsentCodes, At, Call, Fault, Settings};

crawl_tests! {
    crawls_recover_from_a_fault_at_any_request,
    crawls_recover_from_a_fault_that_lasts_from_any_request_on,
    crawls_recover_from_a_fault_at_any_info_request,
    crawls_recover_from_a_fault_that_lasts_from_any_info_request_on,
}

const FAULTY_REQUESTS: [u64; 4] = [OPENING_COUNT, MIDDLE_PAGE, LAST_PAGE, CLOSING_COUNT];

const OPENING_COUNT: u64 = 1;

/// The second of the three pages of the first type.
pub(crate) const MIDDLE_PAGE: u64 = 3;

/// The last page of the last type.
const LAST_PAGE: u64 = 6;

pub(crate) const CLOSING_COUNT: u64 = 7;

/// The last request of a crawl with candidates: after the closing count, one `get_group_info`
/// request looks up those of Public and one those of Private.
pub(crate) const LAST_INFO_REQUEST: u64 = CLOSING_COUNT + 2;

/// An app with seven groups of Public and four of Private. Before each crawl one group of each type
/// is created and another is dissolved.
pub(crate) struct FaultCampaign {
    pub(crate) harness: Harness,
    /// The number of crawls so far, without the first one. It numbers the replaced groups.
    pub(crate) round: u32,
    /// `retry_for` while a fault lasts. The crawl fails after it.
    lasting_fault_retries: Duration,
}

/// `retry_for` for a fault at one request. Long enough for a busy machine.
pub(crate) const SINGLE_FAULT_RETRIES: Duration = Duration::from_secs(60);

impl FaultCampaign {
    /// Creates the groups, and makes the first crawl.
    pub(crate) async fn begin(harness: Harness) -> Self {
        let (public, private) = (0..7, 0..4);
        public.for_each(|n| harness.create("Public", &format!("public-{n}")));
        private.for_each(|n| harness.create("Private", &format!("private-{n}")));
        let report = harness.crawl().await;
        assert_eq!((outcome(&report).as_str(), report.requests), ("complete", CLOSING_COUNT));
        Self::with(harness)
    }

    fn with(harness: Harness) -> Self {
        let lasting_fault_retries = harness.retry_for;
        Self { harness, round: 0, lasting_fault_retries }
    }

    /// Replaces one group of each type and crawls.
    pub(crate) async fn crawl(&mut self) -> CrawlReport {
        let n = self.round;
        self.round += 1;
        self.harness.dissolve(&format!("public-{n} private-{n}"));
        self.harness.create("Public", &format!("public-{}", n + 7));
        self.harness.create("Private", &format!("private-{}", n + 4));
        self.harness.crawl().await
    }

    /// Runs a fault at each of the four requests: first at this request only, then at this request
    /// and all later ones.
    ///
    /// `once` and `lasting` have the expected outcome of the crawl for each request. After a
    /// complete crawl the table must match the API, unless the outcome ends with one of these:
    /// - `(ids)`: the ids are right, but the types are not.
    /// - `(new)`: new groups are not in the table yet, because no list had them.
    ///
    /// Afterwards the next crawl without faults must make the table match the API.
    pub(crate) async fn run(harness: Harness, fault: Fault, once: [&str; 4], lasting: [&str; 4]) {
        let mut campaign = Self::begin(harness).await;
        for (is_lasting, expected) in [(false, once), (true, lasting)] {
            for (request, expected) in FAULTY_REQUESTS.into_iter().zip(expected) {
                campaign.assert_outcome(&fault, request, is_lasting, expected).await;
            }
        }
    }

    /// Scripts a fault, and returns a description of it for assertion messages.
    fn script_fault(&mut self, fault: &Fault, request: u64, lasting: bool) -> String {
        self.harness.retry_for = if lasting { self.lasting_fault_retries } else { SINGLE_FAULT_RETRIES };
        if lasting {
            self.harness.fault_from_request(request, fault.clone());
        } else {
            self.harness.fault_at_request(request, fault.clone());
        }
        format!("{fault:?} at request {request}, lasting: {lasting}")
    }

    /// Runs a fault at any request, and checks what holds for every outcome of the crawl:
    /// - No existing group is lost.
    /// - If the crawl is complete and has no missing, withheld or spared groups, the ids in the
    ///   table are right. Exceptions are rejected types and lists from another server.
    /// - The next crawl makes the groups of every type with a pass match the API, and at most two
    ///   more crawls do so for the others.
    async fn assert_recovery(&mut self, fault: &Fault, request: u64, lasting: bool) {
        let what = self.script_fault(fault, request, lasting);
        let before = ids(&self.harness.live().await);
        self.harness.api.save_stale_copy();
        let report = self.crawl().await;
        let (live, truth) = (ids(&self.harness.live().await), ids(&self.harness.api.truth()));
        assert!(before.intersection(&truth).all(|id| live.contains(id)), "{what}: {live:?}");
        let unsettled = report.missing + report.withheld + report.lookups.spared;
        let proven = report.status == CrawlStatus::Complete && unsettled == 0;
        let other_server = matches!(fault, Fault::Stale | Fault::Partial(_) | Fault::EmptyList);
        if proven && !other_server && *fault != Fault::ErrorCode(10004) {
            assert_eq!(live, truth, "{what}");
        }
        self.harness.api.clear_faults();
        let with_pass = |groups: &BTreeMap<String, String>| {
            let mut groups = groups.clone();
            groups.retain(|id, _| !id.starts_with("room"));
            groups
        };
        let report = self.crawl().await;
        assert_eq!(outcome(&report), "complete", "after {what}: {}", reason_text(&report));
        let (live, truth) = (self.harness.live().await, self.harness.api.truth());
        if self.harness.approve_all_withheld().await == 0 {
            assert_eq!(with_pass(&live), with_pass(&truth), "after {what}");
        }
        // Groups of types without a pass are found by the unfiltered pass, which needs a total that
        // exceeds the typed lists in two consecutive crawls. After an ignored filter these groups
        // must first vanish from the type under which they were listed.
        let max_crawls = if *fault == Fault::IgnoreGroupType { 2 } else { 1 };
        for _ in 0..max_crawls {
            if ids(&self.harness.live().await) != ids(&self.harness.api.truth())
                || self.has_missing_groups().await
            {
                let report = self.crawl().await;
                assert_eq!(outcome(&report), "complete", "after {what}: {}", reason_text(&report));
            }
        }
        assert_eq!(ids(&self.harness.live().await), ids(&self.harness.api.truth()), "after {what}");
        assert!(!self.has_missing_groups().await, "after {what}");
    }

    async fn has_missing_groups(&self) -> bool {
        self.harness.value("SELECT missing_count FROM app_status").await != "0"
    }

    async fn assert_outcome(&mut self, fault: &Fault, request: u64, lasting: bool, expected: &str) {
        let what = self.script_fault(fault, request, lasting);
        let before = ids(&self.harness.live().await);
        let report = self.crawl().await;
        let (ending, qualifier) = expected.split_once(" (").unwrap_or((expected, ""));
        assert_eq!(outcome(&report), ending, "{what}: {}", reason_text(&report));
        let (live, truth) = (self.harness.live().await, self.harness.api.truth());
        match (ending, qualifier) {
            ("complete", "") => self.harness.assert_table_matches_api().await,
            ("complete", "ids)") => assert_eq!(ids(&live), ids(&truth), "{what}"),
            ("complete", _) => {
                let (live, truth) = (ids(&live), ids(&truth));
                let known: BTreeSet<String> = truth.intersection(&before).cloned().collect();
                assert!(live.is_subset(&truth) && known.is_subset(&live) && live != truth, "{what}");
            }
            // A list that is not short may still nominate a dissolved group of its type.
            _ => {
                let most = i64::from(ending.starts_with("incomplete"));
                assert!(report.events.vanished <= most, "{what}");
            }
        }
        self.harness.api.clear_faults();
        let report = self.crawl().await;
        assert_eq!(outcome(&report), "complete", "after {what}: {}", reason_text(&report));
        self.harness.assert_table_matches_api().await;
    }
}

/// Every fault of a list request, except bodies of many megabytes, which are too slow for every
/// request.
fn all_faults() -> Vec<Fault> {
    let codes = [10002, 10004, 10006, 10018, 60021, 70001, 79999].map(Fault::ErrorCode);
    let others = [
        Fault::Status(502),
        Fault::Status(403),
        Fault::Timeout,
        Fault::Reset,
        Fault::TruncatedBody,
        Fault::NotJson,
        Fault::HtmlWith200,
        Fault::Redirect,
        Fault::IgnoreGroupType,
        Fault::EarlyEnd,
        Fault::RepeatCursor,
        Fault::NoNext,
        Fault::NextAsText,
        Fault::NextIs("soon".to_owned()),
        Fault::EmptyPage,
        Fault::EmptyList,
        Fault::DuplicateIds,
        Fault::ExtraIds(vec!["a\0b".to_owned(), String::new()]),
        Fault::NoTotalCount,
        Fault::TotalCount(0),
        Fault::TotalCount(2),
        Fault::TotalCount(1000),
        Fault::AppTotalCount,
        Fault::NoDate,
        Fault::Stale,
        Fault::Partial(2),
        Fault::Partial(3),
        Fault::Partial(10),
        Fault::BrokenIds,
    ];
    codes.into_iter().chain(others).collect()
}

/// Runs each fault at each request of a crawl of an app that has, besides seven and four groups of
/// the configured types, two of a type without a pass.
///
/// Such a crawl requests the app's total, lists both types, and requests the total again. The
/// total exceeds the typed lists, so an unfiltered pass and a third request of the total follow.
/// Then the first crawl looks up the types of these two groups. Later crawls look up the dissolved
/// group of each configured type.
#[expect(clippy::print_stdout, reason = "docs/faults.md gives the number of crawls")]
async fn assert_recovery_from_every_fault(harness: Harness, lasting: bool) {
    /// The number of list requests of a crawl.
    const LISTS: u64 = 13;
    let (mut crawls, mut sample) = (0, Sample::of_one_in(43));
    for fault in all_faults() {
        let requests: Vec<u64> = (1..=LISTS + 2).filter(|_| sample.takes_next()).collect();
        if requests.is_empty() {
            continue;
        }
        // A new harness for each fault, because the checks after a crawl read all earlier crawls.
        let mut harness = harness.fresh().await;
        if fault == Fault::Timeout {
            harness.request_timeout = Duration::from_secs(1);
        }
        harness.create("ChatRoom", "room-1 room-2");
        (0..7).for_each(|n| harness.create("Public", &format!("public-{n}")));
        (0..4).for_each(|n| harness.create("Private", &format!("private-{n}")));
        let mut campaign = FaultCampaign::with(harness);
        let report = campaign.harness.crawl().await;
        assert_eq!((outcome(&report).as_str(), report.requests), ("complete", LISTS + 1));
        for request in requests {
            campaign.assert_recovery(&fault, request, lasting).await;
            crawls += 1;
        }
    }
    println!("{crawls} crawls with a fault, lasting: {lasting}");
}

/// Every fault of a `get_group_info` request. `absent` is the code for a group that does not exist.
fn info_faults(absent: i64) -> Vec<Fault> {
    let codes =
        [10002, 10004, 10007, 10010, 10015, 10018, 60011, 60021, 70001, 79999, 99999].map(Fault::ErrorCode);
    let other_code = if absent == 10010 { 10015 } else { 10004 };
    let others = [
        Fault::Status(502),
        Fault::Status(429),
        Fault::Timeout,
        Fault::Reset,
        Fault::TruncatedBody,
        Fault::NotJson,
        Fault::HtmlWith200,
        Fault::Redirect,
        Fault::NoDate,
        Fault::EveryGroup(0),
        Fault::EveryGroup(10010),
        Fault::EveryGroup(10015),
        Fault::EveryGroup(10002),
        Fault::FewerGroups,
        Fault::ReverseOrder,
        Fault::UnknownCodes,
        Fault::SwappedCodes,
        Fault::NoGroupTypes,
        Fault::CodeBesideGroups(10015),
        Fault::CodeBesideGroups(10007),
        Fault::GroupCode("claimed".to_owned(), other_code),
        Fault::GroupCode("strange".to_owned(), other_code),
        Fault::GroupCode("held".to_owned(), other_code),
    ];
    codes.into_iter().chain(others).collect()
}

/// An app whose crawl makes five `get_group_info` requests: about candidates of two types, about
/// groups listed under another type or without a configured type, and about a held group.
struct InfoCampaign {
    harness: Harness,
    /// The number of crawls with a fault so far. It numbers the replaced groups.
    round: u32,
}

impl InfoCampaign {
    const REQUESTS: u64 = 5;

    /// Creates the groups, and makes the first crawl.
    async fn begin(harness: Harness) -> Self {
        harness.create("Public", "public-0 public-a public-b held claimed");
        harness.create("Private", "private-0 private-a strange");
        let campaign = Self { harness, round: 0 };
        campaign.crawl_without_faults("the beginning").await;
        campaign
    }

    async fn crawl_without_faults(&self, after: &str) {
        let report = self.harness.crawl().await;
        assert_eq!(report.status, CrawlStatus::Complete, "after {after}: {}", reason_text(&report));
    }

    async fn assert_recovery(&mut self, fault: &Fault, nth: u64, lasting: bool) {
        let (harness, n) = (&self.harness, self.round);
        let what = format!("{fault:?} at info request {nth}, lasting: {lasting}");
        self.round += 1;
        // An existing group is held, because the API refuses to answer about it.
        harness.api.hide(&["held"]);
        harness.api.script(At::Info, Fault::ErrorCode(10007));
        let report = harness.crawl().await;
        assert_eq!((report.status, report.withheld), (CrawlStatus::Complete, 1), "before {what}");
        harness.api.clear_faults();

        harness.dissolve(&format!("public-{n} private-{n}"));
        harness.create("Public", &format!("public-{}", n + 1));
        harness.create("Private", &format!("private-{}", n + 1));
        harness.api.retype("claimed", if n % 2 == 0 { "Private" } else { "Public" });
        harness.api.retype("strange", if n % 2 == 0 { "Own" } else { "Private" });
        let earlier =
            harness.api.requests().iter().filter(|request| request.call == Call::Info).count() as u64;
        let at =
            if lasting { At::InfoRequests(earlier + nth..=u64::MAX) } else { At::InfoRequest(earlier + nth) };
        harness.api.script(at, fault.clone());
        let report = harness.crawl().await;
        assert_eq!(report.status, CrawlStatus::Complete, "{what}: {}", reason_text(&report));
        assert!(ids(&harness.api.truth()).is_subset(&ids(&harness.live().await)), "{what}");

        harness.api.clear_faults();
        harness.api.show_all();
        self.crawl_without_faults(&what).await;
        self.harness.approve_all_withheld().await;
        self.crawl_without_faults(&what).await;
        assert_eq!(harness.live().await, harness.api.truth(), "after {what}");
    }
}

#[expect(clippy::print_stdout, reason = "docs/faults.md gives the number of crawls")]
async fn assert_recovery_from_every_info_fault(harness: Harness, lasting: bool) {
    let (mut crawls, mut sample) = (0, Sample::of_one_in(37));
    for code in [10010, 10015] {
        for fault in info_faults(code) {
            let requests: Vec<u64> = (1..=InfoCampaign::REQUESTS).filter(|_| sample.takes_next()).collect();
            if requests.is_empty() {
                continue;
            }
            let settings = Settings { absent: AbsentCodes::all(code), ..Settings::default() };
            let mut harness = harness.fresh().await.with_api(settings).await;
            harness.page_limit = 100;
            if fault == Fault::Timeout {
                harness.request_timeout = Duration::from_secs(1);
            }
            let mut campaign = InfoCampaign::begin(harness).await;
            for nth in requests {
                campaign.assert_recovery(&fault, nth, lasting).await;
                crawls += 1;
            }
        }
    }
    println!("{crawls} crawls with a faulty get_group_info answer, lasting: {lasting}");
}

async fn crawls_recover_from_a_fault_at_any_info_request(harness: Harness) {
    Box::pin(assert_recovery_from_every_info_fault(harness, false)).await;
}

async fn crawls_recover_from_a_fault_that_lasts_from_any_info_request_on(harness: Harness) {
    Box::pin(assert_recovery_from_every_info_fault(harness, true)).await;
}

async fn crawls_recover_from_a_fault_at_any_request(harness: Harness) {
    assert_recovery_from_every_fault(harness, false).await;
}

async fn crawls_recover_from_a_fault_that_lasts_from_any_request_on(harness: Harness) {
    assert_recovery_from_every_fault(harness, true).await;
}
