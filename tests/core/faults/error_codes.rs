//! Every error code of the API: which ones are retried, and what the errors say.

use harness::crawl::{Harness, outcome, reason_text};
use harness::crawl_tests;
use tim_group_sync::simulator::{Fault, Settings};
use tim_group_sync::tencent::usersig::SecretKey;

use crate::campaigns::{FaultCampaign, LAST_INFO_REQUEST, MIDDLE_PAGE, SINGLE_FAULT_RETRIES};

crawl_tests! {
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
    let short = std::mem::replace(&mut campaign.harness.retry_for, SINGLE_FAULT_RETRIES);
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
    campaign.harness.retry_for = short;
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
    // The number of attempts ends the retries, not the time.
    campaign.harness.retry_for = SINGLE_FAULT_RETRIES;
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
    campaign.harness.retry_for = SINGLE_FAULT_RETRIES;
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

async fn throttled_calls_are_retried_until_they_succeed(harness: Harness) {
    let mut campaign = FaultCampaign::begin(harness).await;
    // The number of faults ends the retries, not the time.
    campaign.harness.retry_for = SINGLE_FAULT_RETRIES;
    campaign.harness.fault_at_requests(MIDDLE_PAGE..=MIDDLE_PAGE + 3, Fault::ErrorCode(10006));
    let report = campaign.crawl().await;
    assert_eq!((outcome(&report).as_str(), report.requests), ("complete", LAST_INFO_REQUEST + 4));
    campaign.harness.assert_table_matches_api().await;
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
