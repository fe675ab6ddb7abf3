//! Faults of the API at every request of a crawl, every error code, invalid input, and crawls that
//! are interrupted.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::pin;
use std::task::Poll;
use std::time::{Duration, Instant};

use harness::campaign::{Sample, number};
use harness::crawl::{Harness, ON_COMMAND, group_types, ids, outcome, reason_text};
use harness::crawl_tests;
use harness::log::capture_log;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use tim_group_sync::crawl::{CrawlError, CrawlReport, Step, WhenBusy};
use tim_group_sync::model::CrawlStatus;
use tim_group_sync::simulator::{
    AbsentCodes, At, Call, Cursor, Fault, Listing, Order, Settings, SimulatedApp,
};
use tim_group_sync::tencent::usersig::SecretKey;
use tokio_util::sync::CancellationToken;

crawl_tests! {
    // Each fault at the opening count, a middle page, a last page and the closing count.
    a_server_error_is_retried,
    another_http_error_status_is_retried,
    a_late_answer_is_waited_for,
    a_request_without_an_answer_times_out_and_is_retried,
    a_reset_connection_is_retried,
    a_truncated_body_is_retried,
    a_body_that_is_not_json_is_retried,
    the_page_of_a_captive_portal_is_not_an_answer,
    an_oversized_body_is_not_read_to_its_end,
    a_redirect_is_not_an_answer,
    an_ignored_type_filter_still_yields_the_right_ids,
    a_list_that_ends_early_makes_the_crawl_incomplete,
    a_repeated_cursor_fails_the_crawl,
    a_page_without_next_does_not_end_the_list,
    a_next_written_as_text_is_followed,
    a_next_that_is_not_a_number_fails_the_crawl,
    an_empty_page_does_not_end_the_list,
    an_empty_list_deletes_nothing,
    an_id_listed_twice_is_one_group,
    an_invalid_id_is_ignored_and_the_others_are_stored,
    a_single_missing_total_count_does_not_make_the_crawl_incomplete,
    a_total_count_that_is_too_high_makes_the_crawl_incomplete,
    a_total_count_that_is_too_low_does_not_matter,
    the_apps_total_count_in_place_of_each_types_is_reached_by_all_types_together,
    a_type_listed_as_empty_twice_with_a_count_of_zero_is_deleted_only_without_confirmation,

    // Each fault at every request, of whatever call.
    crawls_recover_from_a_fault_at_any_request,
    crawls_recover_from_a_fault_that_lasts_from_any_request_on,
    crawls_recover_from_a_fault_at_any_info_request,
    crawls_recover_from_a_fault_that_lasts_from_any_info_request_on,
    random_faulty_crawls_never_delete_an_existing_group,

    // Groups and clocks that change at any request of a crawl.
    no_group_that_moves_during_a_crawl_is_lost,
    a_clock_that_is_set_during_a_crawl_does_no_harm,

    // Error codes.
    every_temporary_error_code_is_retried,
    every_other_error_code_fails_the_crawl_at_once,
    an_undocumented_error_code_is_retried_twice,
    a_rejected_signature_is_renewed_once,
    throttled_calls_are_retried_until_they_succeed,
    a_page_that_is_too_large_is_requested_with_half_the_limit_from_the_same_cursor,
    the_error_for_a_wrong_key_names_the_setting,
    the_error_for_an_identifier_without_admin_rights_names_it,
    the_error_for_a_wrong_data_centre_names_the_configured_one_and_the_others,
    the_error_for_a_refused_ip_address_or_package_says_what_to_do,
    a_refused_app_is_crawled_once_its_credentials_are_accepted_again,

    // Invalid input, endless lists and request intervals.
    an_id_with_a_nul_byte_is_not_stored_and_nothing_is_deleted,
    an_id_of_128_bytes_with_quotes_and_spaces_is_stored_exactly,
    cursors_of_64_bits_are_sent_back_exactly,
    pages_that_keep_listing_the_same_ids_fail_the_crawl,
    a_group_that_an_answer_lists_by_mistake_vanishes_again,
    a_redirect_is_not_followed,
    no_request_is_sent_before_the_interval_allows,

    // Interruptions.
    a_cancelled_crawl_keeps_what_it_listed_and_deletes_nothing,
    a_crawl_cancelled_before_it_begins_lists_nothing,
    a_second_crawler_of_the_same_app_gives_up_or_waits,
    waiting_for_another_crawler_can_be_cancelled,
    the_next_process_keeps_the_request_interval,
    a_database_that_refuses_a_write_fails_the_crawl,
    a_crawl_killed_at_any_request_is_closed_and_corrected_by_the_next,
    a_crawl_killed_at_any_await_point_is_closed_and_corrected_by_the_next,
    a_crawl_after_a_kill_starts_from_the_first_page,

    // Secrets.
    neither_the_key_nor_a_signature_is_ever_logged,
    an_outage_is_logged_when_it_begins_and_ends_and_its_errors_name_the_host,
}

const FAULTY_REQUESTS: [u64; 4] = [OPENING_COUNT, MIDDLE_PAGE, LAST_PAGE, CLOSING_COUNT];
const OPENING_COUNT: u64 = 1;
/// The second of the three pages of the first type.
const MIDDLE_PAGE: u64 = 3;
/// The last page of the last type.
const LAST_PAGE: u64 = 6;
const CLOSING_COUNT: u64 = 7;

/// The last request of a crawl with candidates: after the closing count, one `get_group_info`
/// request asks about those of Public and one about those of Private.
const LAST_INFO_REQUEST: u64 = CLOSING_COUNT + 2;

/// An app with seven groups of Public and four of Private. Before each crawl one group of each type
/// is created and another is dissolved.
struct FaultCampaign {
    harness: Harness,
    round: u32,
}

impl FaultCampaign {
    async fn begin(harness: Harness) -> Self {
        let (public, private) = (0..7, 0..4);
        public.for_each(|n| harness.create("Public", &format!("public-{n}")));
        private.for_each(|n| harness.create("Private", &format!("private-{n}")));
        let report = harness.crawl().await;
        assert_eq!((outcome(&report).as_str(), report.requests), ("complete", CLOSING_COUNT));
        Self { harness, round: 0 }
    }

    /// Replaces one group of each type and crawls.
    async fn crawl(&mut self) -> CrawlReport {
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
    async fn run(harness: Harness, fault: Fault, once: [&str; 4], lasting: [&str; 4]) {
        let mut campaign = Self::begin(harness).await;
        for (is_lasting, expected) in [(false, once), (true, lasting)] {
            for (request, expected) in FAULTY_REQUESTS.into_iter().zip(expected) {
                campaign.assert_outcome(&fault, request, is_lasting, expected).await;
            }
        }
    }

    fn script_fault(&self, fault: &Fault, request: u64, lasting: bool) -> String {
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
        let unsettled = report.missing + report.withheld + report.asked.spared;
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
        let at_most = if *fault == Fault::IgnoreGroupType { 2 } else { 1 };
        for _ in 0..at_most {
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
        let (ending, proviso) = expected.split_once(" (").unwrap_or((expected, ""));
        assert_eq!(outcome(&report), ending, "{what}: {}", reason_text(&report));
        let (live, truth) = (self.harness.live().await, self.harness.api.truth());
        match (ending, proviso) {
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
/// Such a crawl counts the app, lists both types, and counts again. The total exceeds the typed
/// lists, so an unfiltered pass and another count follow. Then it asks about the types of these two
/// groups, or, in later crawls, about the dissolved group of each configured type.
#[expect(clippy::print_stdout, reason = "docs/faults.md gives the number of crawls")]
async fn assert_recovery_from_every_fault(harness: Harness, lasting: bool) {
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
            harness.request_timeout = Duration::from_millis(300);
        }
        harness.create("ChatRoom", "room-1 room-2");
        (0..7).for_each(|n| harness.create("Public", &format!("public-{n}")));
        (0..4).for_each(|n| harness.create("Private", &format!("private-{n}")));
        let mut campaign = FaultCampaign { harness, round: 0 };
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
        Fault::OtherOrder,
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
    round: u32,
}

impl InfoCampaign {
    const REQUESTS: u64 = 5;

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
        let asked = harness.api.requests().iter().filter(|request| request.call == Call::Info).count() as u64;
        let at =
            if lasting { At::InfoRequests(asked + nth..=u64::MAX) } else { At::InfoRequest(asked + nth) };
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
                harness.request_timeout = Duration::from_millis(300);
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

/// One app and its crawls, with random changes of its groups and random faults.
struct RandomApp {
    harness: Harness,
    rng: StdRng,
    created: u64,
    /// True if a stale replica may also answer `get_group_info` requests.
    stale_info: bool,
    /// The latest actions and outcomes, for the message of a failure.
    latest_steps: Vec<String>,
}

/// Types of the random groups. An app configures the first zero to three of them. The last one is
/// never configured.
const RANDOM_TYPES: [&str; 4] = ["Public", "Private", "Community", "Own"];

impl RandomApp {
    async fn begin(harness: &Harness, seed: u64, stale_info: bool) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let order = [Order::OldestFirst, Order::NewestFirst, Order::Shuffled];
        let listing = Listing {
            order: *order.choose(&mut rng).unwrap(),
            cursor: if rng.random() { Cursor::Key } else { Cursor::Position },
        };
        let mut code = || if rng.random() { 10010 } else { 10015 };
        let absent = AbsentCodes { default_form: code(), community: code(), custom: code() };
        let mut harness =
            harness.fresh().await.with_api(Settings { listing, absent, seed, ..Settings::default() }).await;
        let configured = [&RANDOM_TYPES[..1], &RANDOM_TYPES[..2], &RANDOM_TYPES[..3], &[]];
        harness.group_types = group_types(configured.choose(&mut rng).unwrap());
        harness.page_limit = rng.random_range(2..12);
        harness.request_timeout = Duration::from_millis(500);
        if rng.random_bool(0.3) {
            (harness.deletion.max_fraction, harness.deletion.min_groups) = (0.2, 3);
        }
        let mut app = Self { harness, rng, created: 0, stale_info, latest_steps: Vec::new() };
        if stale_info {
            app.harness.expect_deletions_by_wrong_info();
        }
        for group_type in RANDOM_TYPES {
            let groups = app.rng.random_range(0..12);
            app.harness.api.create_many(group_type, groups);
        }
        app.harness.api.save_stale_copy();
        app
    }

    /// Returns a random change of a random group.
    fn change(&mut self) -> impl FnOnce(&SimulatedApp) + Send + 'static {
        self.created += 1;
        let (kind, created, choice) =
            (self.rng.random_range(0..100), self.created, self.rng.random_range(0..1 << 20));
        let group_type = *RANDOM_TYPES.choose(&mut self.rng).unwrap();
        move |api: &SimulatedApp| {
            let groups: Vec<String> = api.truth().into_keys().collect();
            let chosen = groups.get(choice % groups.len().max(1)).map(String::as_str);
            match (kind, chosen) {
                (0..35, _) | (_, None) => {
                    if choice % 2 == 0 {
                        api.create_many(group_type, 1);
                    } else {
                        api.create(group_type, &format!("created-{created}"));
                    }
                }
                (35..70, Some(id)) => {
                    api.dissolve(id);
                }
                (70..80, Some(id)) => api.retype(id, group_type),
                (80..90, Some(id)) => api.hide(&[id]),
                (90..95, _) => api.show_all(),
                (95.., _) => api.save_stale_copy(),
                (_, Some(_)) => {}
            }
        }
    }

    /// Returns a fault that any request may have.
    fn any_fault(&mut self) -> Fault {
        let faults = [
            Fault::Status(502),
            Fault::Status(403),
            Fault::Reset,
            Fault::TruncatedBody,
            Fault::NotJson,
            Fault::HtmlWith200,
            Fault::NoDate,
            Fault::ErrorCode(10002),
            Fault::ErrorCode(10004),
            Fault::ErrorCode(10007),
            Fault::ErrorCode(10018),
            Fault::ErrorCode(60011),
            Fault::ErrorCode(60021),
            Fault::ErrorCode(70001),
            Fault::ErrorCode(99999),
        ];
        faults.choose(&mut self.rng).unwrap().clone()
    }

    fn list_fault(&mut self) -> Fault {
        let total = self.rng.random_range(0..40);
        let faults = [
            Fault::Stale,
            Fault::Partial(2),
            Fault::Partial(3),
            Fault::Partial(10),
            Fault::IgnoreGroupType,
            Fault::EarlyEnd,
            Fault::RepeatCursor,
            Fault::NoNext,
            Fault::NextAsText,
            Fault::EmptyPage,
            Fault::EmptyList,
            Fault::DuplicateIds,
            Fault::ExtraIds(vec!["ghost".to_owned(), "a\0b".to_owned()]),
            Fault::NoTotalCount,
            Fault::TotalCount(total),
            Fault::AppTotalCount,
            Fault::BrokenIds,
        ];
        faults.choose(&mut self.rng).unwrap().clone()
    }

    /// Returns a fault of a `get_group_info` answer that the controls detect, or that leaves groups
    /// without a usable answer.
    fn info_fault(&mut self) -> Fault {
        if self.stale_info && self.rng.random_bool(0.5) {
            return Fault::Stale;
        }
        let groups: Vec<String> = self.harness.api.truth().into_keys().collect();
        let group = groups.choose(&mut self.rng).cloned().unwrap_or_default();
        let faults = [
            Fault::EveryGroup(0),
            Fault::EveryGroup(10010),
            Fault::EveryGroup(10015),
            Fault::FewerGroups,
            Fault::OtherOrder,
            Fault::UnknownCodes,
            Fault::SwappedCodes,
            Fault::NoGroupTypes,
            Fault::CodeBesideGroups(10015),
            Fault::GroupCode(group.clone(), 10004),
            Fault::GroupCode(group, 10002),
        ];
        faults.choose(&mut self.rng).unwrap().clone()
    }

    /// Scripts up to three faults for the next crawl.
    ///
    /// Leaves out exception (b) of invariant 11: all lists are empty, and the API reports every
    /// group as gone. Such an app is indistinguishable
    /// from one that was emptied.
    fn script_faults(&mut self) {
        let (mut empties_lists, mut denies_groups) = (false, false);
        for _ in 0..self.rng.random_range(0..4) {
            let n = self.harness.request(self.rng.random_range(1..16));
            let asked =
                self.harness.api.requests().iter().filter(|request| request.call == Call::Info).count()
                    as u64;
            let nth = asked + self.rng.random_range(1..5);
            let group_type = (*RANDOM_TYPES.choose(&mut self.rng).unwrap()).to_owned();
            let page = self.rng.random_range(1..4);
            let (at, fault) = match self.rng.random_range(0..10) {
                0 => (At::Request(n), self.any_fault()),
                1 => (At::Requests(n..=u64::MAX), self.any_fault()),
                2 => (At::Info, self.info_fault()),
                3 => (At::InfoRequest(nth), self.info_fault()),
                4 => (At::InfoRequest(nth), self.any_fault()),
                5 => (At::Info, self.any_fault()),
                6 => (At::List, self.list_fault()),
                7 => (At::Type(group_type), self.list_fault()),
                8 => (At::Page(group_type, page), self.list_fault()),
                // Other faults of lists do not change `get_group_info` answers. A stale replica
                // would.
                _ => match self.list_fault() {
                    Fault::Stale => (At::List, Fault::Stale),
                    fault => (At::OneIn(3), fault),
                },
            };
            empties_lists |= matches!((&at, &fault), (At::List, Fault::EmptyList));
            denies_groups |= matches!(fault, Fault::EveryGroup(code) if code != 0);
            if empties_lists && denies_groups {
                break;
            }
            self.latest_steps.push(format!("{at:?} {fault:?}"));
            self.harness.api.script(at, fault);
        }
    }

    /// Makes one crawl with random changes and faults. It may be killed.
    async fn crawl(&mut self) {
        for _ in 0..self.rng.random_range(0..5) {
            let change = self.change();
            change(&self.harness.api);
        }
        for _ in 0..self.rng.random_range(0..5) {
            let (n, change) = (self.rng.random_range(1..16), self.change());
            self.harness.during_request(n, change);
        }
        self.script_faults();
        if self.rng.random_bool(0.1) {
            let n = self.rng.random_range(1..16);
            self.latest_steps.push(format!("kill at {n}"));
            let held = self.harness.api.hold(At::Request(self.harness.request(n)));
            self.harness.crawl_killed_by(held.reached()).await;
        } else {
            let report = self.harness.crawl().await;
            self.latest_steps.push(format!("{} {} asked {:?}", report.crawl, outcome(&report), report.asked));
        }
        self.harness.clear_faults_and_actions();
    }

    /// Removes all faults and limits, approves what is withheld, and crawls until the table matches
    /// the API. This may take 26 crawls: the back-off after repeated answers that a group exists
    /// delays the question that finds it gone.
    async fn end(&mut self) {
        let harness = &mut self.harness;
        harness.api.show_all();
        harness.deletion.max_fraction = 1.0;
        for crawl in 1.. {
            let report = harness.crawl().await;
            assert_eq!(report.status, CrawlStatus::Complete, "{}", reason_text(&report));
            harness.approve_all_withheld().await;
            let (mut live, mut truth) = (harness.live().await, harness.api.truth());
            let configured = harness.group_types.clone();
            let has_pass = |group_type: &str| configured.iter().any(|of| of.as_str() == group_type);
            // No list contradicts the stored type of a group that moved between two types without a
            // pass.
            for groups in [&mut live, &mut truth] {
                groups.values_mut().filter(|of| !has_pass(of)).for_each(|of| "no pass".clone_into(of));
            }
            if live == truth && harness.value("SELECT missing_count FROM app_status").await == "0" {
                return;
            }
            assert!(crawl < 26, "{live:?} {truth:?}");
        }
    }
}

/// `FAULTY_CRAWLS=5000 FAULTY_SEED=7` makes more crawls from another seed. With
/// `FAULTY_STALE_INFO=1` a stale replica may also answer `get_group_info` requests. Then existing
/// groups that are marked deleted are counted and do not fail the test.
#[expect(clippy::print_stdout, reason = "docs/faults.md gives the counts; the seed repeats a failure")]
async fn random_faulty_crawls_never_delete_an_existing_group(harness: Harness) {
    const CRAWLS_PER_APP: u64 = 25;
    let (most, first_seed) =
        (number("FAULTY_CRAWLS", 150, 25), number("FAULTY_SEED", 20_261_130, 20_261_130));
    let stale_info = number("FAULTY_STALE_INFO", 0, 0) > 0;
    let (mut crawls, mut apps, mut wrong_deletions, mut vanished) = (0, 0, 0, 0u64);
    for seed in first_seed.. {
        if crawls >= most {
            break;
        }
        println!("seed {seed}");
        let mut app = RandomApp::begin(&harness, seed, stale_info).await;
        for _ in 0..CRAWLS_PER_APP {
            app.crawl().await;
            crawls += 1;
            if app.latest_steps.len() > 6 {
                app.latest_steps.drain(..app.latest_steps.len() - 6);
            }
        }
        app.end().await;
        apps += 1;
        wrong_deletions += app.harness.wrong_deletions();
        vanished += app.harness.value("SELECT sum(vanished) FROM crawls").await.parse::<u64>().unwrap();
    }
    println!(
        "{crawls} faulty crawls of {apps} apps: {vanished} groups marked deleted, {wrong_deletions} of them wrongly; \
         stale get_group_info answers: {stale_info}"
    );
}

/// One group is created, dissolved or retyped, or moves in the list, at each request of a crawl. A
/// list with position cursors may then skip an existing group, so there each candidate is asked
/// about before it is deleted.
async fn no_group_that_moves_during_a_crawl_is_lost(harness: Harness) {
    const REQUESTS: u64 = LAST_INFO_REQUEST;
    type Move = fn(&SimulatedApp);
    const MOVES: [Move; 7] = [
        |api| api.retype("public-1", "Private"),
        |api| api.retype("private-2", "Public"),
        // Recreating a group moves it to the end of the list, or to the beginning.
        |api| api.retype("public-0", "Public"),
        |api| api.retype("public-6", "Public"),
        |api| assert!(api.dissolve("public-0")),
        |api| api.create("Public", "new"),
        |api| {
            assert!(api.dissolve("public-1"));
            api.create("Public", "new");
        },
    ];
    let mut sample = Sample::of_one_in(21);
    for (order, cursor) in [Order::OldestFirst, Order::NewestFirst, Order::Shuffled]
        .into_iter()
        .flat_map(|order| [Cursor::Key, Cursor::Position].map(|cursor| (order, cursor)))
    {
        let listing = Listing { order, cursor };
        for (number, change) in MOVES.into_iter().enumerate() {
            let mut harness =
                harness.fresh().await.with_api(Settings { listing, ..Settings::default() }).await;
            // A list with key cursors skips no existing group, so half of its cases run without
            // confirmation.
            harness.deletion.confirm = cursor == Cursor::Position || number % 2 == 0;
            for request in (1..=REQUESTS).filter(|_| sample.takes_next()) {
                let known: Vec<String> = harness.api.truth().into_keys().collect();
                known.iter().for_each(|id| harness.dissolve(id));
                (0..7).for_each(|n| harness.create("Public", &format!("public-{n}")));
                (0..4).for_each(|n| harness.create("Private", &format!("private-{n}")));
                assert_eq!(outcome(&harness.crawl().await), "complete");
                harness.during_request(request, change);
                harness.crawl().await;
                assert_eq!(outcome(&harness.crawl().await), "complete");
                harness.crawl().await;
                let (live, truth) = (harness.live().await, harness.api.truth());
                assert_eq!(live, truth, "{order:?} {cursor:?} {number} at {request}");
                harness.clear_faults_and_actions();
            }
        }
    }
}

async fn a_clock_that_is_set_during_a_crawl_does_no_harm(harness: Harness) {
    let mut campaign = FaultCampaign::begin(harness).await;
    for hours in [-30, 30, 2000, -2000] {
        for request in 1..=CLOSING_COUNT {
            campaign.harness.set_clock_during_request(request, hours);
            let report = campaign.crawl().await;
            assert_eq!(outcome(&report), "complete", "{hours} h at {request}: {}", reason_text(&report));
            campaign.harness.assert_table_matches_api().await;
        }
    }
}

async fn a_server_error_is_retried(harness: Harness) {
    FaultCampaign::run(harness, Fault::Status(502), ["complete"; 4], ["failed network"; 4]).await;
}

async fn another_http_error_status_is_retried(harness: Harness) {
    FaultCampaign::run(harness.fresh().await, Fault::Status(403), ["complete"; 4], ["failed network"; 4])
        .await;
    FaultCampaign::run(harness, Fault::Status(429), ["complete"; 4], ["failed network"; 4]).await;
}

async fn a_late_answer_is_waited_for(harness: Harness) {
    let late = Fault::Delay(Duration::from_millis(20));
    FaultCampaign::run(harness, late, ["complete"; 4], ["complete"; 4]).await;
}

async fn a_request_without_an_answer_times_out_and_is_retried(mut harness: Harness) {
    harness.request_timeout = Duration::from_millis(200);
    harness.retry_for = Duration::from_millis(300);
    FaultCampaign::run(harness, Fault::Timeout, ["complete"; 4], ["failed timeout"; 4]).await;
}

async fn a_reset_connection_is_retried(harness: Harness) {
    FaultCampaign::run(harness, Fault::Reset, ["complete"; 4], ["failed network"; 4]).await;
}

async fn a_truncated_body_is_retried(harness: Harness) {
    FaultCampaign::run(harness, Fault::TruncatedBody, ["complete"; 4], ["failed network"; 4]).await;
}

async fn a_body_that_is_not_json_is_retried(harness: Harness) {
    FaultCampaign::run(harness, Fault::NotJson, ["complete"; 4], ["failed malformed_answer"; 4]).await;
}

async fn the_page_of_a_captive_portal_is_not_an_answer(harness: Harness) {
    FaultCampaign::run(harness, Fault::HtmlWith200, ["complete"; 4], ["failed malformed_answer"; 4]).await;
}

async fn an_oversized_body_is_not_read_to_its_end(harness: Harness) {
    FaultCampaign::run(harness, Fault::OversizedBody, ["complete"; 4], ["failed malformed_answer"; 4]).await;
}

async fn a_redirect_is_not_an_answer(harness: Harness) {
    FaultCampaign::run(harness, Fault::Redirect, ["complete"; 4], ["failed network"; 4]).await;
}

async fn an_ignored_type_filter_still_yields_the_right_ids(harness: Harness) {
    // If the filter is ignored in the middle of a list, the API does not know the cursor.
    let unknown_cursor = "failed api_error 10004";
    FaultCampaign::run(
        harness,
        Fault::IgnoreGroupType,
        ["complete", unknown_cursor, unknown_cursor, "complete"],
        ["complete (ids)", unknown_cursor, unknown_cursor, "complete"],
    )
    .await;
}

async fn a_list_that_ends_early_makes_the_crawl_incomplete(harness: Harness) {
    let short = "incomplete short_listing";
    FaultCampaign::run(
        harness,
        Fault::EarlyEnd,
        ["complete", short, "complete", "complete"],
        [short, short, "complete", "complete"],
    )
    .await;
}

async fn a_repeated_cursor_fails_the_crawl(harness: Harness) {
    let endless = "failed endless_listing";
    FaultCampaign::run(
        harness,
        Fault::RepeatCursor,
        ["complete", endless, endless, "complete"],
        [endless, endless, endless, "complete"],
    )
    .await;
}

async fn a_page_without_next_does_not_end_the_list(harness: Harness) {
    FaultCampaign::run(harness, Fault::NoNext, ["complete"; 4], ["failed malformed_answer"; 4]).await;
}

async fn a_next_written_as_text_is_followed(harness: Harness) {
    FaultCampaign::run(harness, Fault::NextAsText, ["complete"; 4], ["complete"; 4]).await;
}

async fn a_next_that_is_not_a_number_fails_the_crawl(harness: Harness) {
    let soon = Fault::NextIs("soon".to_owned());
    FaultCampaign::run(harness, soon, ["complete"; 4], ["failed malformed_answer"; 4]).await;
}

async fn an_empty_page_does_not_end_the_list(harness: Harness) {
    let endless = "failed endless_listing";
    FaultCampaign::run(harness, Fault::EmptyPage, ["complete"; 4], [endless, endless, endless, "complete"])
        .await;
}

async fn an_empty_list_deletes_nothing(harness: Harness) {
    let new = "complete (new)";
    FaultCampaign::run(
        harness,
        Fault::EmptyList,
        ["complete", new, new, "complete"],
        [new, new, new, "complete"],
    )
    .await;
}

async fn an_id_listed_twice_is_one_group(harness: Harness) {
    FaultCampaign::run(harness, Fault::DuplicateIds, ["complete"; 4], ["complete"; 4]).await;
}

async fn an_invalid_id_is_ignored_and_the_others_are_stored(harness: Harness) {
    let extra = Fault::ExtraIds(vec!["a\0b".to_owned(), String::new(), "x".repeat(256)]);
    FaultCampaign::run(harness, extra, ["complete"; 4], ["complete"; 4]).await;
}

async fn a_single_missing_total_count_does_not_make_the_crawl_incomplete(harness: Harness) {
    let short = "incomplete short_listing";
    let lasting = [short, short, "complete", "complete"];
    FaultCampaign::run(harness, Fault::NoTotalCount, ["complete"; 4], lasting).await;
}

async fn a_total_count_that_is_too_high_makes_the_crawl_incomplete(harness: Harness) {
    let short = "incomplete short_listing";
    let lasting = [short, short, "complete", "complete"];
    FaultCampaign::run(harness, Fault::TotalCount(1000), ["complete"; 4], lasting).await;
}

async fn a_total_count_that_is_too_low_does_not_matter(harness: Harness) {
    FaultCampaign::run(harness, Fault::TotalCount(2), ["complete"; 4], ["complete"; 4]).await;
}

async fn the_apps_total_count_in_place_of_each_types_is_reached_by_all_types_together(harness: Harness) {
    FaultCampaign::run(harness, Fault::AppTotalCount, ["complete"; 4], ["complete"; 4]).await;
}

async fn a_type_listed_as_empty_twice_with_a_count_of_zero_is_deleted_only_without_confirmation(
    harness: Harness,
) {
    for confirm in [true, false] {
        let mut harness = harness.fresh().await;
        harness.deletion.confirm = confirm;
        harness.create("Public", "a");
        harness.create("Private", "b c");
        harness.crawl().await;
        harness.expect_deletions_by_wrong_lists();
        // The app's totals must not exceed the typed lists, or an unfiltered pass would list the
        // groups.
        harness.api.script(At::Every, Fault::TotalCount(1));
        harness.api.script(At::Type("Private".to_owned()), Fault::EmptyList);
        assert_eq!(outcome(&harness.crawl().await), "complete");
        let deleted = if confirm { "" } else { " deleted" };
        let table = ["a Public".to_owned(), format!("b Private{deleted}"), format!("c Private{deleted}")];
        assert_eq!(harness.table().await, table);
        harness.api.clear_faults();
        harness.crawl().await;
        harness.assert_table_matches_api().await;
    }
}

/// Codes of temporary failures, which are retried for as long as `retry_for`.
const RETRIED: [i64; 17] = [
    10002, 60008, 60013, 60014, 70169, 70202, 70500, 90992, 90994, 90995, 91000, 10006, 60007, 60011, 60018,
    60019, 70050,
];
/// Codes that reject the UserSig, which is then signed again once.
const SIGNATURE: [i64; 7] = [10008, 60004, 60005, 70001, 70002, 70003, 70005];
/// Codes that refuse the app's credentials or the machine.
const REFUSALS: [i64; 19] = [
    10007, 10012, 10026, 60006, 60010, 60012, 60016, 60017, 60020, 60021, 70009, 70013, 70014, 70016, 70020,
    70051, 70107, 70114, 70403,
];
/// Other codes that are not retried.
const FATAL: [i64; 9] = [10003, 10011, 60002, 60003, 60009, 60015, 70402, 60999, 79999];

async fn every_temporary_error_code_is_retried(harness: Harness) {
    let mut campaign = FaultCampaign::begin(harness).await;
    for code in RETRIED.into_iter().chain(SIGNATURE) {
        campaign.harness.fault_at_request(MIDDLE_PAGE, Fault::ErrorCode(code));
        let report = campaign.crawl().await;
        assert_eq!(
            (outcome(&report).as_str(), report.requests),
            ("complete", LAST_INFO_REQUEST + 1),
            "{code}"
        );
        campaign.harness.assert_table_matches_api().await;
    }
    let throttled = [10006, 60007, 60011, 60018, 60019, 70050];
    for code in RETRIED {
        campaign.harness.fault_from_request(MIDDLE_PAGE, Fault::ErrorCode(code));
        let report = campaign.crawl().await;
        let reason = if throttled.contains(&code) { "throttled" } else { "api_error" };
        assert_eq!(outcome(&report), format!("failed {reason} {code}"));
        assert_eq!(report.events.vanished, 0);
        campaign.harness.api.clear_faults();
    }
    campaign.crawl().await;
    campaign.harness.assert_table_matches_api().await;
}

async fn every_other_error_code_fails_the_crawl_at_once(harness: Harness) {
    let mut campaign = FaultCampaign::begin(harness).await;
    for (code, reason) in
        REFUSALS.map(|code| (code, "refused")).into_iter().chain(FATAL.map(|code| (code, "api_error")))
    {
        campaign.harness.fault_at_request(MIDDLE_PAGE, Fault::ErrorCode(code));
        let report = campaign.crawl().await;
        assert_eq!(outcome(&report), format!("failed {reason} {code}"));
        assert_eq!((report.requests, report.events.vanished), (MIDDLE_PAGE, 0), "{code}");
        let row = format!(
            "SELECT status, deletions, reason_code, error_code FROM crawls WHERE crawl_id = {}",
            report.crawl
        );
        assert_eq!(campaign.harness.lines(&row).await, [format!("failed NULL {reason} {code}")]);
    }
    campaign.crawl().await;
    campaign.harness.assert_table_matches_api().await;
}

async fn an_undocumented_error_code_is_retried_twice(harness: Harness) {
    let mut campaign = FaultCampaign::begin(harness).await;
    for code in [1, -1, 10015, 30000, 80001] {
        campaign.harness.fault_from_request(MIDDLE_PAGE, Fault::ErrorCode(code));
        let report = campaign.crawl().await;
        assert_eq!(outcome(&report), format!("failed api_error {code}"));
        assert_eq!(report.requests, MIDDLE_PAGE + 2, "{code}");
        campaign.harness.api.clear_faults();
    }
}

async fn a_rejected_signature_is_renewed_once(harness: Harness) {
    let mut campaign = FaultCampaign::begin(harness).await;
    for code in SIGNATURE {
        campaign.harness.fault_from_request(MIDDLE_PAGE, Fault::ErrorCode(code));
        let report = campaign.crawl().await;
        assert_eq!(outcome(&report), format!("failed refused {code}"));
        assert_eq!(report.requests, MIDDLE_PAGE + 1, "{code}");
        campaign.harness.api.clear_faults();
    }
    campaign.harness.fault_from_request(1, Fault::ErrorCode(70001));
    let report = campaign.crawl().await;
    assert!(reason_text(&report).ends_with("check this machine's clock"), "{}", reason_text(&report));
}

async fn throttled_calls_are_retried_until_they_succeed(mut harness: Harness) {
    harness.retry_for = Duration::from_secs(30);
    let min_interval = Some(Duration::from_millis(10));
    let harness = harness.with_api(Settings { min_interval, ..Settings::default() }).await;
    harness.create("Public", "a b c d e f g");
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "complete");
    let throttled = harness.api.requests().iter().filter(|request| request.answered == Some(10006)).count();
    assert!(throttled > 0);
    assert_eq!(report.requests, 6 + throttled as u64);
    harness.assert_table_matches_api().await;
}

async fn a_page_that_is_too_large_is_requested_with_half_the_limit_from_the_same_cursor(
    mut harness: Harness,
) {
    // Enough for two short ids.
    let settings = Settings { max_answer_bytes: 200, ..Settings::default() };
    harness.page_limit = 8;
    let harness = harness.with_api(settings).await;
    let id = |n: u32| format!("{n:0>20}");
    (0..3).for_each(|n| harness.create("Public", &n.to_string()));
    (3..5).for_each(|n| harness.create("Public", &id(n)));
    (5..7).for_each(|n| harness.create("Public", &format!("{n}{}", id(n).repeat(3))));
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "complete");
    harness.assert_table_matches_api().await;
    let requests = harness.api.requests();
    let refused: Vec<_> = requests.iter().filter(|request| request.answered == Some(10018)).collect();
    assert!(refused.len() > 2);
    for request in refused {
        let next = requests.iter().find(|other| other.number == request.number + 1).unwrap();
        assert_eq!((next.limit, next.next), (request.limit / 2, request.next));
    }
    // The smaller limit is kept until the end of this list. The next list starts with the
    // configured limit again.
    let limits: Vec<u32> = requests.iter().map(|request| request.limit).collect();
    assert!(limits[1..limits.len() - 2].is_sorted_by(|a, b| a >= b), "{limits:?}");
    assert_eq!(limits[limits.len() - 2..], [8, 1]);
}

async fn the_error_for_a_wrong_key_names_the_setting(mut harness: Harness) {
    harness.credentials.secret_key = SecretKey::new(&"f".repeat(64));
    let report = harness.crawl().await;
    assert_eq!((outcome(&report).as_str(), report.requests), ("failed refused 70009", 1));
    for word in ["secret_key_file", "sdk_app_id", "CAM"] {
        assert!(reason_text(&report).contains(word), "{}", reason_text(&report));
    }
}

async fn the_error_for_an_identifier_without_admin_rights_names_it(mut harness: Harness) {
    "somebody".clone_into(&mut harness.credentials.identifier);
    let report = harness.crawl().await;
    assert_eq!((outcome(&report).as_str(), report.requests), ("failed refused 10007", 1));
    assert!(
        reason_text(&report).contains("`identifier`") && reason_text(&report).contains("\"somebody\""),
        "{}",
        reason_text(&report)
    );
}

async fn the_error_for_a_wrong_data_centre_names_the_configured_one_and_the_others(harness: Harness) {
    for code in [70016, 70020] {
        harness.fault_at_request(1, Fault::ErrorCode(code));
        let report = harness.crawl().await;
        assert_eq!(outcome(&report), format!("failed refused {code}"));
        let advice = "check `sdk_app_id` and the data centre it was created in: china; the others are singapore and seoul";
        assert!(reason_text(&report).ends_with(advice), "{}", reason_text(&report));
    }
}

async fn the_error_for_a_refused_ip_address_or_package_says_what_to_do(harness: Harness) {
    for (code, advice) in [(60021, "IP allow-list"), (60020, "renew the package")] {
        harness.fault_at_request(1, Fault::ErrorCode(code));
        let report = harness.crawl().await;
        assert_eq!(outcome(&report), format!("failed refused {code}"));
        assert!(reason_text(&report).contains(advice), "{}", reason_text(&report));
    }
}

async fn a_refused_app_is_crawled_once_its_credentials_are_accepted_again(mut harness: Harness) {
    let right = harness.credentials.secret_key.clone();
    harness.create("Public", "a b");
    harness.credentials.secret_key = SecretKey::new("wrong");
    harness.crawl().await;
    assert_eq!(harness.table().await, [""; 0]);
    harness.credentials.secret_key = right;
    assert_eq!(outcome(&harness.crawl().await), "complete");
    harness.assert_table_matches_api().await;
    // The refused crawl listed nothing, so the second crawl is the baseline.
    assert_eq!(harness.events().await, [""; 0]);
}

async fn an_id_with_a_nul_byte_is_not_stored_and_nothing_is_deleted(harness: Harness) {
    harness.create("Public", "a b c");
    harness.crawl().await;
    harness.dissolve("b");
    harness.api.create("Public", "x\0y");
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "incomplete short_listing");
    assert!(reason_text(&report).contains("1 listed id is not counted"), "{}", reason_text(&report));
    assert_eq!(harness.table().await, ["a Public", "b Public", "c Public"]);
    harness.dissolve("x\0y");
    harness.crawl().await;
    harness.assert_table_matches_api().await;
}

async fn an_id_of_128_bytes_with_quotes_and_spaces_is_stored_exactly(harness: Harness) {
    let long = format!("it's \"quoted\" \\n {{\\u0041}} %_?$1; -- {}", "' \" ".repeat(32));
    let long = format!("{}.", &long[..127]);
    assert_eq!(long.len(), 128);
    let ids = [long.as_str(), " a ", "a", "A", "a ", "m:h:0", "群组", "\u{1f600}"];
    ids.iter().for_each(|id| harness.api.create("Public", id));
    harness.crawl().await;
    harness.assert_table_matches_api().await;
    harness.api.retype(&long, "Private");
    harness.crawl().await;
    let vanishing: Vec<&str> = ids.into_iter().filter(|id| *id != "a" && *id != long).collect();
    vanishing.iter().for_each(|id| assert!(harness.api.dissolve(id)));
    harness.crawl().await;
    harness.assert_table_matches_api().await;
    let events: BTreeSet<Vec<String>> =
        harness.rows("SELECT group_id, event FROM group_events").await.into_iter().collect();
    let mut expected: BTreeSet<Vec<String>> =
        vanishing.iter().map(|id| vec![(*id).to_owned(), "vanished".to_owned()]).collect();
    expected.insert(vec![long, "retyped".to_owned()]);
    assert_eq!(events, expected);
}

async fn cursors_of_64_bits_are_sent_back_exactly(harness: Harness) {
    for cursor in [Cursor::Key, Cursor::Position] {
        for order in [Order::OldestFirst, Order::NewestFirst, Order::Shuffled] {
            let harness = harness.fresh().await;
            let mut harness = harness
                .with_api(Settings { listing: Listing { order, cursor }, ..Settings::default() })
                .await;
            harness.page_limit = 7;
            harness.api.create_many("Public", 50);
            // The simulator rejects any cursor that it did not return.
            assert_eq!(outcome(&harness.crawl().await), "complete");
            harness.assert_table_matches_api().await;
            assert!(harness.api.requests().iter().filter(|request| request.next > 1 << 63).count() == 7);
        }
    }
}

async fn pages_that_keep_listing_the_same_ids_fail_the_crawl(harness: Harness) {
    let listing = Listing { order: Order::NewestFirst, cursor: Cursor::Position };
    let mut harness = harness.with_api(Settings { listing, ..Settings::default() }).await;
    harness.page_limit = 1;
    harness.create("Public", "a b");
    harness.crawl().await;
    // Each page creates a group at the front, so the next page lists the same group again.
    harness.api.on_request(|api, request| {
        if request.group_type.as_deref() == Some("Public") {
            api.create("Public", &format!("new-{}", request.number));
        }
    });
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "failed endless_listing");
    assert!(reason_text(&report).contains("20 consecutive pages"), "{}", reason_text(&report));
    // The pages up to the limit, the other requests of the crawl, and prefetched pages.
    assert!(report.requests < 120, "{}", report.requests);
}

async fn a_group_that_an_answer_lists_by_mistake_vanishes_again(harness: Harness) {
    harness.create("Public", "a");
    harness.crawl().await;
    harness.fault_at_request(2, Fault::ExtraIds(vec!["ghost".to_owned()]));
    harness.crawl().await;
    harness.crawl().await;
    assert_eq!(harness.events().await, ["2 ghost appeared NULL>Public", "3 ghost vanished Public>NULL"]);
    harness.assert_table_matches_api().await;
}

async fn a_redirect_is_not_followed(harness: Harness) {
    harness.create("Public", "a");
    harness.fault_from_request(2, Fault::Redirect);
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "failed network");
    // A client that followed the redirect would have made more requests than it counts.
    assert_eq!((report.requests, harness.requests_so_far()), (4, 4));
}

/// Compares each arrival with the earliest time at which its request may be sent, not with other
/// arrivals. On a busy machine a request arrives late, and then the next one seems early.
async fn no_request_is_sent_before_the_interval_allows(mut harness: Harness) {
    const INTERVAL: Duration = Duration::from_millis(20);
    const DELAY: Duration = Duration::from_millis(100);
    harness.request_interval = INTERVAL;
    harness.retry_for = Duration::from_secs(30);
    harness.create("Public", "a b c d e f g");
    harness.create("Private", "h i j k");
    harness.create("ChatRoom", "x");
    // Eight attempts at one page. If retries ignored the interval, they would take hardly longer
    // than one attempt.
    (3..=10).for_each(|n| harness.fault_at_request(n, Fault::ErrorCode(10002)));
    harness.fault_at_request(11, Fault::ErrorCode(70001));
    harness.fault_at_request(13, Fault::Reset);
    harness.fault_at_request(15, Fault::Delay(DELAY));
    harness.fault_at_request(17, Fault::NotJson);
    let start = Instant::now();
    assert_eq!(outcome(&harness.crawl().await), "complete");
    harness.crawl().await;
    // `get_group_info` requests have their own rate limit.
    let listings = harness.api.requests().into_iter().filter(|request| request.call == Call::List);
    let arrivals: Vec<Instant> = listings.map(|request| request.arrived_at).collect();
    assert!(arrivals.len() > 20, "{}", arrivals.len());
    let assert_paced = |arrivals: &[Instant], first_turn: Instant| {
        for (turns, arrival) in (0..).zip(arrivals) {
            assert!(*arrival >= first_turn + INTERVAL * turns, "{turns} turns after the first");
        }
    };
    assert_paced(&arrivals, start);
    // The delayed answer to request 15 postpones the later requests. They do not catch up.
    assert_paced(&arrivals[15..], arrivals[14] + DELAY);
}

async fn a_cancelled_crawl_keeps_what_it_listed_and_deletes_nothing(harness: Harness) {
    harness.create("Public", "a b c d e f");
    harness.create("Private", "g");
    harness.crawl().await;
    harness.dissolve("a f g");
    harness.create("Public", "x");
    harness.create("Public", "y z");
    let held = harness.api.hold(At::Request(harness.request(4)));
    let (crawler, stop) = (harness.crawler(), CancellationToken::new());
    let (report, ()) = tokio::join!(harness.crawl_until_cancelled(&stop), async {
        held.reached().await;
        // The crawl compares the pages only after it has read the known groups.
        crawler.progress().wait_for(|progress| progress.listed == 6).await.unwrap();
        stop.cancel();
    });
    assert_eq!(outcome(&report), "cancelled cancelled");
    assert_eq!((report.requests, report.listed), (4, 6));
    // The crawl listed two pages: b c d, and e x y.
    let listed = ["a Public", "b Public", "c Public", "d Public", "e Public", "f Public", "g Private"];
    assert_eq!(harness.table().await, [&listed[..], &["x Public", "y Public"]].concat());
    assert_eq!(harness.events().await, ["2 x appeared NULL>Public", "2 y appeared NULL>Public"]);
    held.release();
    assert_eq!(outcome(&harness.crawl().await), "complete");
    harness.assert_table_matches_api().await;
}

async fn a_crawl_cancelled_before_it_begins_lists_nothing(harness: Harness) {
    harness.create("Public", "a");
    let stop = CancellationToken::new();
    stop.cancel();
    let report = harness.crawl_until_cancelled(&stop).await;
    assert_eq!(outcome(&report), "cancelled cancelled");
    assert_eq!(harness.requests_so_far(), 0);
    assert_eq!(harness.table().await, [""; 0]);
}

async fn a_second_crawler_of_the_same_app_gives_up_or_waits(harness: Harness) {
    harness.create("Public", "a b c d");
    harness.prepare_crawl();
    let held = harness.api.hold(At::Request(2));
    let (first, second, stop) = (harness.crawler(), harness.new_crawler(), CancellationToken::new());
    let crawl = first.crawl(ON_COMMAND, WhenBusy::GiveUp, &stop);
    let meanwhile = async {
        held.reached().await;
        let busy = second.crawl(ON_COMMAND, WhenBusy::GiveUp, &stop).await;
        assert!(matches!(busy, Err(CrawlError::Busy { app }) if app == "prod"));
        let mut progress = second.progress();
        let waiting = async {
            progress.wait_for(|progress| progress.step == Step::WaitingForLease).await.unwrap();
            assert_eq!(harness.requests_so_far(), 2);
            held.release();
        };
        tokio::join!(second.crawl(ON_COMMAND, WhenBusy::Wait, &stop), waiting).0
    };
    let (first, second) = tokio::join!(crawl, meanwhile);
    let (first, second) = (first.unwrap(), second.unwrap());
    assert_eq!((outcome(&first).as_str(), outcome(&second).as_str()), ("complete", "complete"));
    assert!(first.crawl < second.crawl && first.finished_at <= second.started_at);
    harness.assert_invariants().await;
    harness.assert_table_matches_api().await;
}

async fn waiting_for_another_crawler_can_be_cancelled(harness: Harness) {
    harness.prepare_crawl();
    let held = harness.api.hold(At::Request(1));
    let (first, second) = (harness.crawler(), harness.new_crawler());
    let (go_on, stop) = (CancellationToken::new(), CancellationToken::new());
    let meanwhile = async {
        held.reached().await;
        let mut progress = second.progress();
        let waiting = async {
            progress.wait_for(|progress| progress.step == Step::WaitingForLease).await.unwrap();
            stop.cancel();
        };
        let (stopped, ()) = tokio::join!(second.crawl(ON_COMMAND, WhenBusy::Wait, &stop), waiting);
        assert!(matches!(stopped, Err(CrawlError::Stopped)));
        held.release();
    };
    let (report, ()) = tokio::join!(first.crawl(ON_COMMAND, WhenBusy::GiveUp, &go_on), meanwhile);
    assert_eq!(outcome(&report.unwrap()), "complete");
    assert_eq!(harness.value("SELECT count(*) FROM crawls").await, "1");
}

async fn the_next_process_keeps_the_request_interval(mut harness: Harness) {
    const INTERVAL: Duration = Duration::from_millis(100);
    harness.request_interval = INTERVAL;
    let (first, second, stop) = (harness.crawler(), harness.new_crawler(), CancellationToken::new());
    harness.prepare_crawl();
    let start = Instant::now();
    first.crawl(ON_COMMAND, WhenBusy::GiveUp, &stop).await.unwrap();
    let turns = u32::try_from(harness.requests_so_far()).unwrap();
    second.crawl(ON_COMMAND, WhenBusy::GiveUp, &stop).await.unwrap();
    let requests = harness.api.requests();
    assert!(requests[turns as usize].arrived_at >= start + INTERVAL * turns);
    harness.assert_invariants().await;
}

async fn a_database_that_refuses_a_write_fails_the_crawl(harness: Harness) {
    harness.create("Public", "a b");
    harness.crawl().await;
    harness.dissolve("a");
    harness.create("Public", "c");
    harness.forbid_changes_to_groups().await;
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "failed database");
    assert_eq!(harness.table().await, ["a Public", "b Public"]);
    harness.allow_changes_to_groups().await;
    harness.crawl().await;
    harness.assert_table_matches_api().await;
    assert_eq!(harness.events().await, ["3 a vanished Public>NULL", "3 c appeared NULL>Public"]);
}

async fn a_crawl_killed_at_any_request_is_closed_and_corrected_by_the_next(harness: Harness) {
    let mut campaign = FaultCampaign::begin(harness).await;
    for request in 1..=LAST_INFO_REQUEST {
        let harness = &campaign.harness;
        harness.dissolve(&format!("public-{} private-{}", campaign.round, campaign.round));
        harness.create("Public", &format!("public-{}", campaign.round + 7));
        harness.create("Private", &format!("private-{}", campaign.round + 4));
        campaign.round += 1;
        let held = harness.api.hold(At::Request(harness.request(request)));
        assert!(harness.crawl_killed_by(held.reached()).await.is_none());
        drop(held);
        let last = "SELECT status, reason_code FROM crawls ORDER BY crawl_id DESC LIMIT 1";
        assert_eq!(harness.lines(last).await, ["running NULL"]);
        let killed = harness.value("SELECT max(crawl_id) FROM crawls").await;
        let report = campaign.crawl().await;
        let harness = &campaign.harness;
        assert_eq!(outcome(&report), "complete");
        harness.assert_table_matches_api().await;
        let closed =
            format!("SELECT status, reason_code, deletions, vanished FROM crawls WHERE crawl_id = {killed}");
        assert_eq!(harness.lines(&closed).await, ["failed process_ended NULL 0"]);
        // Every group that the killed crawl wrote has an event, of this crawl or of the next one.
        let new = "SELECT count(*) FROM group_events WHERE event = 'appeared'";
        assert_eq!(harness.value(new).await, (2 * campaign.round).to_string());
    }
}

/// Polls a future at most `times` times, then drops it.
async fn poll_at_most<F: Future>(future: F, times: u32) -> Option<F::Output> {
    let (mut future, mut left) = (pin!(future), times);
    std::future::poll_fn(|context| {
        if left == 0 {
            return Poll::Ready(None);
        }
        left -= 1;
        future.as_mut().poll(context).map(Some)
    })
    .await
}

async fn a_crawl_killed_at_any_await_point_is_closed_and_corrected_by_the_next(harness: Harness) {
    let mut campaign = FaultCampaign::begin(harness).await;
    let mut polls = 1;
    loop {
        campaign.harness.dissolve(&format!("public-{} private-{}", campaign.round, campaign.round));
        campaign.harness.create("Public", &format!("public-{}", campaign.round + 7));
        campaign.harness.create("Private", &format!("private-{}", campaign.round + 4));
        campaign.round += 1;
        campaign.harness.prepare_crawl();
        let (crawler, stop) = (campaign.harness.crawler(), CancellationToken::new());
        let crawl = poll_at_most(Box::pin(crawler.crawl(ON_COMMAND, WhenBusy::GiveUp, &stop)), polls).await;
        if let Some(report) = crawl {
            assert_eq!(outcome(&report.unwrap()), "complete");
            break;
        }
        campaign.harness.db.expire_leases().await;
        assert_eq!(outcome(&campaign.crawl().await), "complete", "after {polls} polls");
        campaign.harness.assert_table_matches_api().await;
        polls += 3;
    }
    assert!(polls > 20, "{polls}");
}

async fn a_crawl_after_a_kill_starts_from_the_first_page(harness: Harness) {
    harness.create("Public", "a b c d e f g");
    let held = harness.api.hold(At::Request(4));
    assert!(harness.crawl_killed_by(held.reached()).await.is_none());
    drop(held);
    let before = harness.requests_so_far();
    harness.crawl().await;
    assert_eq!(
        harness.requests_after(before),
        ["count", "Public 1", "Public 2", "Public 3", "Private 1", "count"]
    );
    // The first list that reaches its end is the baseline, so there are no events.
    assert_eq!(harness.events().await, [""; 0]);
    harness.assert_table_matches_api().await;
}

async fn an_outage_is_logged_when_it_begins_and_ends_and_its_errors_name_the_host(mut harness: Harness) {
    let (log, _guard) = capture_log();
    harness.group_types = group_types(&["Public"]);
    harness.create("Public", "a b c d");
    harness.crawl().await;
    for fault in [Fault::Status(503), Fault::Reset] {
        harness.api.script(At::Every, fault);
        for _ in 0..2 {
            let report = harness.crawl().await;
            assert_eq!(report.status, CrawlStatus::Failed);
            assert!(reason_text(&report).contains("the API at 127.0.0.1"), "{report:?}");
        }
        harness.api.clear_faults();
        harness.crawl().await;
    }
    let text = log.text();
    let count = |level: &str, message: &str| {
        text.lines().filter(|line| line.contains(level) && line.contains(message)).count()
    };
    assert_eq!(count("WARN", "retrying: "), 2, "{text}");
    assert_eq!(count("INFO", "the API at 127.0.0.1 answers again, after "), 2, "{text}");
    assert!(count("DEBUG", "request failed again, retrying: ") > 2, "{text}");
}

async fn neither_the_key_nor_a_signature_is_ever_logged(mut harness: Harness) {
    let (log, _guard) = capture_log();
    let key = "0123456789abcdef".repeat(4);
    harness.credentials.secret_key = SecretKey::new(&key);
    harness.request_timeout = Duration::from_millis(200);
    harness.group_types = group_types(&["Public", "Private"]);
    harness.create("Public", "a b c d");
    let mut signatures = Vec::new();
    for fault in [
        None,
        Some(Fault::ErrorCode(70001)),
        Some(Fault::ErrorCode(60021)),
        Some(Fault::Status(500)),
        Some(Fault::Redirect),
        Some(Fault::Reset),
        Some(Fault::Timeout),
        Some(Fault::TruncatedBody),
        Some(Fault::HtmlWith200),
        Some(Fault::EarlyEnd),
    ] {
        if let Some(fault) = fault {
            harness.fault_from_request(2, fault);
        }
        tracing::info!("{:?}", harness.crawler());
        let report = harness.crawl().await;
        signatures.extend(report.started_at.timestamp()..=report.finished_at.timestamp());
        harness.api.clear_faults();
    }
    let log = log.text();
    for expected in ["crawl complete", "request failed, retrying", "DEBUG", "error 60021", "ERROR"] {
        assert!(log.contains(expected), "the log was not captured: no {expected:?}");
    }
    for secret in [key.as_str(), "usersig=", "eJyrVg", "eJw"] {
        assert!(!log.contains(secret), "{secret:?} was logged");
    }
    for issued_at in signatures {
        let signature = harness.signature(issued_at);
        assert!(!log.contains(signature.expose()) && !log.contains(&signature.expose()[8..40]));
    }
}
