//! Faults of list requests.

use std::error::Error as _;

use super::*;

#[tokio::test]
async fn each_fault_of_the_page_changes_only_its_field() {
    let (simulator, caller) = start(settings()).await;
    simulator.create_many("Live", 4);
    simulator.create_many("Public", 5);
    let request = json!({ "GroupType": "Public", "Limit": 2 });
    let good = caller.call(&simulator, request.clone()).await;
    let faulty = async |fault: Fault| {
        simulator.clear_faults();
        simulator.script(At::Type("Public".to_owned()), fault);
        caller.call(&simulator, request.clone()).await
    };
    let only = |field: &str, value: Value| {
        let mut answer = good.clone();
        answer[field] = value;
        answer
    };
    let without = |field: &str| {
        let mut answer = good.clone();
        answer.as_object_mut().unwrap().remove(field);
        answer
    };
    assert_eq!(faulty(Fault::EarlyEnd).await, only("Next", json!(0)));
    assert_eq!(faulty(Fault::NoNext).await, without("Next"));
    assert_eq!(faulty(Fault::NextAsText).await, only("Next", good["Next"].to_string().into()));
    assert_eq!(faulty(Fault::NextIs("soon".into())).await, only("Next", json!("soon")));
    assert_eq!(faulty(Fault::NoTotalCount).await, without("TotalCount"));
    assert_eq!(faulty(Fault::TotalCount(99)).await, only("TotalCount", json!(99)));
    assert_eq!(faulty(Fault::AppTotalCount).await, only("TotalCount", json!(9)));
    assert_eq!(ids(&faulty(Fault::DuplicateIds).await), [ids(&good), ids(&good)].concat());
    let unusual = vec!["a\0b".to_owned(), "x".repeat(128)];
    assert_eq!(ids(&faulty(Fault::ExtraIds(unusual.clone())).await), [ids(&good), unusual].concat());
    let empty = faulty(Fault::EmptyList).await;
    assert_eq!((&empty["TotalCount"], &empty["Next"], ids(&empty).len()), (&json!(0), &json!(0), 0));
    let unfiltered = faulty(Fault::IgnoreGroupType).await;
    let truth = simulator.truth();
    assert_eq!(unfiltered["TotalCount"], 9);
    assert!(ids(&unfiltered).iter().all(|id| truth[id] == "Live"));
    let refused = faulty(Fault::ErrorCode(70500)).await;
    assert_eq!((&refused["ActionStatus"], &refused["ErrorCode"]), (&json!("FAIL"), &json!(70500)));
    assert_eq!(simulator.requests().last().unwrap().answered, Some(70500));
    simulator.clear_faults();
    assert_eq!(caller.call(&simulator, request.clone()).await, good);
}

#[tokio::test]
async fn a_repeated_cursor_returns_the_same_page_forever() {
    let (simulator, caller) = start(settings()).await;
    simulator.create_many("Public", 5);
    simulator.script(At::Every, Fault::RepeatCursor);
    let first = caller.call(&simulator, json!({ "Limit": 2 })).await;
    let second = caller.call(&simulator, json!({ "Limit": 2, "Next": first["Next"] })).await;
    assert_ne!(first["Next"], 0);
    assert_eq!(first, second);
}

#[tokio::test]
async fn an_empty_page_has_a_new_cursor_to_the_groups_that_it_lacks() {
    let (simulator, caller) = start(settings()).await;
    simulator.create_many("Public", 5);
    simulator.script(At::Requests(2..=4), Fault::EmptyPage);
    let pages = caller.crawl(&simulator, Some("Public"), 2).await;
    assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), [2, 0, 0, 0, 2, 1]);
    assert_eq!(pages.concat().into_iter().collect::<BTreeSet<_>>().len(), 5);
    let cursors: BTreeSet<u64> = simulator.requests().iter().map(|request| request.next).collect();
    assert_eq!(cursors.len(), 6);
}

#[tokio::test]
async fn faults_that_replace_an_answer_look_like_broken_infrastructure() {
    let (simulator, caller) = start(settings()).await;
    simulator.create_many("Public", 100);
    let post_with = async |fault: Fault| {
        simulator.clear_faults();
        simulator.script(At::Every, fault);
        caller.post(&simulator, "{}".to_owned()).await
    };
    let response = post_with(Fault::Status(502)).await.unwrap();
    assert_eq!(response.status(), 502);
    let response = post_with(Fault::HtmlWith200).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &"text/html".parse().unwrap())
    );
    let text = post_with(Fault::NotJson).await.unwrap().text().await.unwrap();
    assert!(serde_json::from_str::<Value>(&text).is_err());
    let response = post_with(Fault::Redirect).await.unwrap();
    assert_eq!(response.status(), 307);
    assert!(response.headers()["location"].to_str().unwrap().starts_with(LIST_GROUPS_PATH));
    let response = post_with(Fault::OversizedBody).await.unwrap();
    assert_eq!(response.content_length(), None);
    assert_eq!(response.bytes().await.unwrap().len(), 64 << 20);
    let error = post_with(Fault::Reset).await.unwrap_err();
    assert!(error.is_request() && !error.is_timeout() && error.source().is_some(), "{error:?}");
    let response = post_with(Fault::TruncatedBody).await.unwrap();
    assert_eq!(response.status(), 200);
    let error = response.bytes().await.unwrap_err();
    assert!(error.is_body() || error.is_decode(), "{error:?}");
    let numbers: Vec<u64> = simulator.requests().iter().map(|request| request.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7], "each call is one request");
    simulator.clear_faults();
    assert_eq!(caller.code(&simulator, json!({})).await, 0);
}

#[tokio::test]
async fn a_delayed_answer_arrives_and_a_timeout_never_answers() {
    let (simulator, caller) = start(settings()).await;
    let delay = Duration::from_millis(50);
    simulator.script(At::Request(1), Fault::Delay(delay));
    simulator.script(At::Request(2), Fault::Timeout);
    let sent_at = Instant::now();
    assert_eq!(caller.code(&simulator, json!({})).await, 0);
    assert!(sent_at.elapsed() >= delay);

    let arrived = Arc::new(tokio::sync::Notify::new());
    simulator.on_request({
        let arrived = Arc::clone(&arrived);
        move |_, _| arrived.notify_one()
    });
    let unanswered = caller.post(&simulator, "{}".to_owned());
    let wait = async {
        arrived.notified().await;
        tokio::time::sleep(delay).await;
    };
    tokio::select! {
        answer = unanswered => panic!("{answer:?}"),
        () = wait => assert_eq!(simulator.requests()[1].answered, None),
    }
}

#[tokio::test]
async fn faults_affect_only_the_selected_page_or_share_of_the_requests() {
    let (simulator, caller) = start(settings()).await;
    simulator.create_many("Public", 6);
    simulator.create_many("Live", 6);
    simulator.script(At::Page("Public".to_owned(), 2), Fault::ErrorCode(10002));
    let page = async |group_type, next: &Value| {
        caller.call(&simulator, json!({ "Limit": 2, "GroupType": group_type, "Next": next })).await
    };
    let zero = json!(0);
    let (public, live) = (page("Public", &zero).await, page("Live", &zero).await);
    assert_eq!(page("Live", &live["Next"]).await["ErrorCode"], 0);
    assert_eq!(page("Public", &public["Next"]).await["ErrorCode"], 10002);
    assert_eq!(page("Public", &public["Next"]).await["ErrorCode"], 10002, "a retry requests the same page");
    simulator.clear_faults();
    let second = page("Public", &public["Next"]).await;
    assert_eq!(page("Public", &second["Next"]).await["Next"], 0);
    let pages: Vec<u64> = simulator.requests().iter().map(|request| request.page).collect();
    assert_eq!(pages, [1, 1, 2, 2, 2, 2, 3]);

    simulator.script(At::OneIn(4), Fault::ErrorCode(10002));
    let mut refused = 0;
    for _ in 0..100 {
        refused += usize::from(caller.code(&simulator, json!({})).await == 10002);
    }
    assert!((10..40).contains(&refused), "{refused}");
}

#[tokio::test]
async fn an_answer_without_a_date_has_none_at_all() {
    let (simulator, caller) = start(settings()).await;
    simulator.script(At::Requests(2..=3), Fault::NoDate);
    simulator.script(At::Request(3), Fault::Status(503));
    let mut dated = Vec::new();
    for _ in 0..4 {
        let response = caller.post(&simulator, "{}".to_owned()).await.unwrap();
        dated.push(response.headers().contains_key("date"));
    }
    assert_eq!(dated, [true, false, false, true]);
}

#[tokio::test]
async fn a_stale_replica_lists_counts_and_answers_from_its_stale_copy() {
    for listing in every_listing() {
        let (simulator, caller) = start(Settings { listing, ..settings() }).await;
        simulator.create_many("Public", 7);
        simulator.create("Work", "dissolved");
        simulator.create("Work", "retyped");
        let before = simulator.truth();
        simulator.script(At::Every, Fault::Stale);
        simulator.create("Public", "between");
        assert_eq!(caller.crawl(&simulator, None, 3).await.concat().len(), 10, "there is no copy yet");
        simulator.dissolve("between");
        simulator.save_stale_copy();
        simulator.dissolve("dissolved");
        simulator.retype("retyped", "Public");
        simulator.create_many("Public", 5);
        simulator.create("Live", "new");
        let listed = caller.crawl(&simulator, None, 2).await.concat();
        assert_eq!(listed.iter().collect::<BTreeSet<_>>(), before.keys().collect::<BTreeSet<_>>());
        assert_eq!(listed.len(), before.len());
        let count = async |body| caller.call(&simulator, body).await["TotalCount"].clone();
        assert_eq!(count(json!({ "Limit": 1 })).await, 9);
        assert_eq!(count(json!({ "GroupType": "Private" })).await, 2);
        assert_eq!(count(json!({ "GroupType": "Live" })).await, 0, "the type is younger than the copy");
        let types = async || -> Vec<Value> {
            let answer = caller.ask(&simulator, &["dissolved", "retyped", "new"]).await;
            answer["GroupInfo"].as_array().unwrap().iter().map(|group| group["Type"].clone()).collect()
        };
        assert_eq!(types().await, [json!("Private"), json!("Private"), Value::Null]);
        simulator.clear_faults();
        assert_eq!(types().await, [Value::Null, json!("Public"), json!("Live")]);
        assert_eq!(count(json!({})).await, 14);
    }
}

#[tokio::test]
async fn a_pass_answered_partly_by_a_stale_replica_reaches_the_end() {
    for order in [Order::OldestFirst, Order::NewestFirst, Order::Shuffled] {
        let listing = Listing { order, cursor: Cursor::Key };
        let (simulator, caller) = start(Settings { listing, ..settings() }).await;
        simulator.create_many("Public", 40);
        simulator.save_stale_copy();
        simulator.dissolve_some(20);
        simulator.create_many("Public", 20);
        simulator.create_many("Live", 20);
        simulator.script(At::OneIn(2), Fault::Stale);
        for filter in [None, Some("Public"), Some("Live")] {
            let listed = caller.crawl(&simulator, filter, 2).await.concat();
            assert_eq!(listed.iter().collect::<BTreeSet<_>>().len(), listed.len());
        }
    }
}

#[tokio::test]
async fn a_partial_list_is_consistent_and_always_leaves_out_the_same_groups() {
    for listing in every_listing() {
        let (simulator, caller) = start(Settings { listing, ..settings() }).await;
        simulator.create_many("Public", 60);
        simulator.create_many("Live", 40);
        let truth = simulator.truth();
        let total = async |body| -> usize {
            serde_json::from_value(caller.call(&simulator, body).await["TotalCount"].clone()).unwrap()
        };
        simulator.script(At::Requests(2..=u64::MAX), Fault::Partial(4));
        assert_eq!(total(json!({ "Limit": 1 })).await, 100);
        let listed = caller.crawl(&simulator, None, 7).await.concat();
        let distinct: BTreeSet<String> = listed.iter().cloned().collect();
        assert_eq!(distinct.len(), listed.len());
        assert!((60..90).contains(&listed.len()), "{}", listed.len());
        assert_eq!(total(json!({ "Limit": 1 })).await, listed.len());
        let mut of_types = BTreeSet::new();
        for group_type in ["Public", "Live"] {
            let listed = caller.crawl(&simulator, Some(group_type), 10).await.concat();
            assert_eq!(total(json!({ "Limit": 3, "GroupType": group_type })).await, listed.len());
            assert!(listed.iter().all(|id| truth[id] == group_type));
            of_types.extend(listed);
        }
        assert_eq!(of_types, distinct);
        simulator.script(At::Every, Fault::AppTotalCount);
        assert_eq!(total(json!({ "GroupType": "Live" })).await, distinct.len());
        simulator.clear_faults();
        simulator.script(At::Every, Fault::Partial(1));
        let nothing = caller.call(&simulator, json!({})).await;
        assert_eq!(
            (&nothing["TotalCount"], &nothing["Next"], ids(&nothing).len()),
            (&json!(0), &json!(0), 0)
        );
    }
}

#[tokio::test]
async fn broken_ids_are_not_valid_text_and_do_not_count() {
    let (simulator, caller) = start(settings()).await;
    let fetch = async || caller.post(&simulator, "{}".to_owned()).await.unwrap().bytes().await.unwrap();
    for groups in [&[][..], &["a", "b"]] {
        groups.iter().for_each(|id| simulator.create("Public", id));
        simulator.clear_faults();
        let good = fetch().await;
        simulator.script(At::Every, Fault::BrokenIds);
        let body = fetch().await;
        assert!(serde_json::from_slice::<Value>(&body).is_err());
        let high: &[u8] = br#"{"GroupId":"\ud800x"}"#;
        let low: &[u8] = br#"{"GroupId":"\udc00"}"#;
        let raw: &[u8] = b"{\"GroupId\":\"\xFF\xFE\"}";
        for entry in [high, low, raw] {
            assert_eq!(body.windows(entry.len()).filter(|bytes| *bytes == entry).count(), 1);
        }
        let count = format!("\"TotalCount\":{}", groups.len());
        let text = String::from_utf8_lossy(&body);
        assert!(text.contains(&count));
        let repaired = text.replace(r"\ud800", "1").replace(r"\udc00", "2");
        let repaired: Value = serde_json::from_str(&repaired).unwrap();
        assert_eq!(ids(&repaired)[3..], groups.iter().map(ToString::to_string).collect::<Vec<_>>());
        assert_eq!(repaired["Next"], serde_json::from_slice::<Value>(&good).unwrap()["Next"]);
    }
}

#[tokio::test]
async fn an_endless_list_never_repeats_an_id_or_a_cursor() {
    for listing in every_listing() {
        let (simulator, caller) = start(Settings { listing, ..settings() }).await;
        simulator.create_many("Public", 30);
        let first = caller.call(&simulator, json!({ "Limit": 5, "GroupType": "Public" })).await;
        let real = simulator.truth();
        simulator.script(At::Every, Fault::InventIds);
        let (mut seen, mut cursors) = (BTreeSet::new(), BTreeSet::from([first["Next"].as_u64().unwrap()]));
        let mut next = first["Next"].clone();
        for page in 1..=100 {
            let request = json!({ "Limit": 5, "GroupType": "Public", "Next": next });
            let answer = caller.call(&simulator, request).await;
            assert_eq!((&answer["ErrorCode"], &answer["TotalCount"]), (&json!(0), &json!(2)));
            seen.extend(ids(&answer));
            assert_eq!(seen.len(), 5 * page);
            next = if page % 30 == 0 { json!(0) } else { answer["Next"].clone() };
            assert!(answer["Next"] != 0 && cursors.insert(answer["Next"].as_u64().unwrap()));
        }
        assert!(seen.iter().all(|id| !real.contains_key(id)));
        simulator.clear_faults();
        simulator.create_many("Public", 100);
        let later = simulator.truth();
        assert!(seen.iter().all(|id| !later.contains_key(id)));
    }
}
