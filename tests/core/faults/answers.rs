//! Answers that are late, wrong, invalid or incomplete, and unusual ids and cursors in them.

use harness::crawl::{Harness, outcome, reason_text};
use harness::crawl_tests;
use std::collections::BTreeSet;
use std::time::Duration;
use tim_group_sync::simulator::{At, Cursor, Fault, Listing, Order, Settings};

use crate::campaigns::{FaultCampaign, SINGLE_FAULT_RETRIES};

crawl_tests! {
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
    an_id_with_a_nul_byte_is_not_stored_and_nothing_is_deleted,
    an_id_of_128_bytes_with_quotes_and_spaces_is_stored_exactly,
    cursors_of_64_bits_are_sent_back_exactly,
    pages_that_keep_listing_the_same_ids_fail_the_crawl,
    a_group_that_an_answer_lists_by_mistake_vanishes_again,
    a_redirect_is_not_followed,
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
    harness.request_timeout = Duration::from_secs(1);
    harness.retry_for = Duration::from_millis(1_200);
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

async fn a_redirect_is_not_followed(mut harness: Harness) {
    // The number of attempts ends the retries, not the time.
    harness.retry_for = SINGLE_FAULT_RETRIES;
    harness.create("Public", "a");
    harness.fault_from_request(2, Fault::Redirect);
    let report = harness.crawl().await;
    assert_eq!(outcome(&report), "failed network");
    // A client that followed the redirect would have made more requests than it counts.
    assert_eq!((report.requests, harness.requests_so_far()), (4, 4));
}
