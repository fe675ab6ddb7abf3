//! Tests of `get_group_info`.

use super::*;

/// Returns the code and the type of each entry.
fn codes_and_types(answer: &Value) -> Vec<(Value, Value)> {
    let groups = answer["GroupInfo"].as_array().unwrap();
    groups.iter().map(|group| (group["ErrorCode"].clone(), group["Type"].clone())).collect()
}

/// Returns the id, the code and the type of each entry.
fn entries(answer: &Value) -> Vec<(&str, i64, Option<&str>)> {
    let groups = answer["GroupInfo"].as_array().unwrap();
    groups
        .iter()
        .map(|group| {
            let id = group["GroupId"].as_str().unwrap();
            (id, group["ErrorCode"].as_i64().unwrap(), group["Type"].as_str())
        })
        .collect()
}

#[tokio::test]
async fn each_group_has_its_own_answer_even_if_it_is_hidden() {
    let (simulator, caller) = start(settings()).await;
    ["a", "b", "c", "d"].iter().for_each(|id| simulator.create("Work", id));
    simulator.hide(&["b", "nobody"]);
    simulator.dissolve("c");
    assert_eq!(caller.crawl(&simulator, Some("Private"), 10).await, [["a", "d"]]);
    assert_eq!(simulator.truth().keys().collect::<Vec<_>>(), ["a", "b", "d"]);
    let ask = async |body| caller.ask_with(&simulator, body).await;
    let types = json!({ "GroupBaseInfoFilter": ["Type"] });
    let request = json!({ "GroupIdList": ["a", "b", "c"], "ResponseFilter": types });
    let private = (json!(0), json!("Private"));
    let answer = ask(request.clone()).await;
    assert_eq!(answer["ErrorCode"], 0);
    assert_eq!(codes_and_types(&answer), [private.clone(), private.clone(), (json!(10010), Value::Null)]);
    simulator.script(At::Info, Fault::GroupCode("a".to_owned(), 10002));
    simulator.script(At::Info, Fault::CodeBesideGroups(10010));
    let answer = ask(request.clone()).await;
    assert_eq!((&answer["ErrorCode"], &codes_and_types(&answer)[0].0), (&json!(10010), &json!(10002)));
    simulator.script(At::Info, Fault::ErrorCode(10007));
    assert_eq!(
        ask(request).await,
        json!({ "ActionStatus": "FAIL", "ErrorCode": 10007, "ErrorInfo": "scripted" })
    );
    for ids in [vec![], vec!["x"; 51]] {
        simulator.clear_faults();
        assert_eq!(ask(json!({ "GroupIdList": ids })).await["ErrorCode"], 10004);
    }
    simulator.show_all();
    assert_eq!(caller.crawl(&simulator, None, 10).await, [["a", "d", "b"]]);
    let ids_by_request: Vec<usize> =
        simulator.requests().iter().filter(|r| r.call == Call::Info).map(|r| r.groups.len()).collect();
    assert_eq!(ids_by_request, [3, 3, 3, 0, 0]);
}

#[tokio::test]
async fn the_code_of_an_absent_group_follows_from_the_form_of_its_id() {
    let ids = ["@TGS#2ABCDEFGH", "@TGS#_ABCDEFGH", "@TGS#_@TGS#cABC", "room_1", "TGS#_", "@TGS", "here"];
    let absent = AbsentCodes { default_form: 10010, community: 10015, custom: 10004 };
    let (simulator, caller) = start(Settings { absent, ..settings() }).await;
    simulator.create("Public", "here");
    simulator.create("Public", "room_1");
    simulator.dissolve("room_1");
    let codes = async |simulator: &Simulator| {
        entries(&caller.ask(simulator, &ids).await).into_iter().map(|(_, code, _)| code).collect::<Vec<_>>()
    };
    assert_eq!(codes(&simulator).await, [10010, 10015, 10015, 10004, 10004, 10004, 0]);
    let (simulator, _) = start(Settings { absent: AbsentCodes::all(10015), ..settings() }).await;
    assert_eq!(codes(&simulator).await, [10015; 7]);
    let (simulator, _) = start(settings()).await;
    assert_eq!(codes(&simulator).await, [10010; 7]);
}

#[tokio::test]
async fn requests_over_the_limit_per_second_are_refused_without_entries() {
    let (simulator, caller) = start(Settings { info_per_second: Some(2), ..settings() }).await;
    let (mut admitted, mut refused) = (0, 0);
    let mut unauthenticated = Caller::of(&settings());
    unauthenticated.parameters.insert("identifier", "mallory".into());
    while refused == 0 {
        assert_eq!(
            unauthenticated.ask(&simulator, &["a"]).await["ErrorCode"],
            70013,
            "a request that fails authentication does not count"
        );
        let answer = caller.ask(&simulator, &["a"]).await;
        match answer["ErrorCode"].as_i64() {
            Some(0) => admitted += 1,
            code => {
                assert_eq!((code, &answer["GroupInfo"]), (Some(60011), &Value::Null));
                refused += 1;
            }
        }
    }
    assert!(admitted >= 2);
    assert_eq!(caller.code(&simulator, json!({})).await, 0, "lists have a separate limit");

    let start = Instant::now();
    let mut traffic = Traffic::default();
    let admitted = [0, 900, 999, 1000, 1001, 1899, 1900, 2000, 2001]
        .map(|t| traffic.admit_info(start + Duration::from_millis(t), 2));
    assert_eq!(admitted, [true, true, false, true, false, false, true, true, false]);
}

#[tokio::test]
async fn answers_are_delayed_and_do_not_wait_for_each_other() {
    let delay = Duration::from_millis(500);
    let (simulator, caller) = start(Settings { info_delay: delay, ..settings() }).await;
    let sent_at = Instant::now();
    let list = async {
        caller.code(&simulator, json!({})).await;
        sent_at.elapsed()
    };
    let ask = async || caller.ask(&simulator, &["a"]).await;
    let (_, _, _, _, listed_within) = tokio::join!(ask(), ask(), ask(), ask(), list);
    assert!((delay..delay * 4).contains(&sent_at.elapsed()), "{:?}", sent_at.elapsed());
    assert!(listed_within < delay, "{listed_within:?}");
}

#[tokio::test]
async fn each_fault_of_an_answer_changes_only_its_entries() {
    let (simulator, caller) = start(Settings { absent: AbsentCodes::all(10015), ..settings() }).await;
    simulator.create("Work", "a");
    simulator.create("Live", "b");
    let faulty = async |faults: &[Fault]| {
        simulator.clear_faults();
        faults.iter().for_each(|fault| simulator.script(At::Info, fault.clone()));
        caller.ask(&simulator, &["a", "x", "b", "y"]).await
    };
    let (a, b) = (("a", 0, Some("Private")), ("b", 0, Some("Live")));
    let (x, y) = (("x", 10015, None), ("y", 10015, None));
    let (x_exists, y_exists) = (("x", 0, Some("Public")), ("y", 0, Some("Public")));
    assert_eq!(entries(&faulty(&[]).await), [a, x, b, y]);
    assert_eq!(entries(&faulty(&[Fault::EveryGroup(0)]).await), [a, x_exists, b, y_exists]);
    let all = |code| ["a", "x", "b", "y"].map(|id| (id, code, None));
    assert_eq!(entries(&faulty(&[Fault::EveryGroup(10010)]).await), all(10010));
    assert_eq!(entries(&faulty(&[Fault::UnknownCodes]).await), all(99999));
    let swapped = [("a", 10015, None), x_exists, ("b", 10015, None), y_exists];
    assert_eq!(entries(&faulty(&[Fault::SwappedCodes]).await), swapped);
    assert_eq!(entries(&faulty(&[Fault::FewerGroups]).await), [a, b]);
    assert_eq!(entries(&faulty(&[Fault::ReverseOrder]).await), [y, b, x, a]);
    assert_eq!(entries(&faulty(&[Fault::ReverseOrder, Fault::FewerGroups]).await), [y, x]);
    let one = Fault::GroupCode("x".to_owned(), 10002);
    assert_eq!(entries(&faulty(&[one, Fault::EveryGroup(0)]).await), [a, ("x", 10002, None), b, y_exists]);
    let untyped = faulty(&[Fault::EveryGroup(0), Fault::NoGroupTypes]).await;
    assert_eq!(entries(&untyped), all(0));
    simulator.clear_faults();
    assert_eq!(caller.code(&simulator, json!({})).await, 0);
}

#[tokio::test]
async fn faults_affect_only_the_requests_of_their_call_and_their_numbers() {
    let (simulator, caller) = start(settings()).await;
    let ask = async || caller.ask(&simulator, &["a"]).await["ErrorCode"].as_i64().unwrap();
    let list = async || caller.code(&simulator, json!({})).await;
    simulator.script(At::List, Fault::ErrorCode(1));
    simulator.script(At::InfoRequest(2), Fault::ErrorCode(2));
    simulator.script(At::InfoRequests(4..=5), Fault::ErrorCode(4));
    let mut answered = Vec::new();
    for _ in 0..6 {
        assert_eq!(list().await, 1);
        answered.push(ask().await);
    }
    assert_eq!(answered, [0, 2, 0, 4, 4, 0]);
    let seen: Vec<u64> = simulator.requests().iter().map(|request| request.nth_of_call).collect();
    assert_eq!(seen, [1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6]);
}

#[tokio::test]
async fn single_groups_are_found_fast_in_a_large_app() {
    let (simulator, caller) = start(Settings { info_per_second: None, ..settings() }).await;
    simulator.create_many("Public", 100_000);
    let ids: Vec<String> = simulator.truth().into_keys().take(5000).collect();
    let sent_at = Instant::now();
    for ids in ids.chunks(50) {
        let ids: Vec<&str> = ids.iter().map(String::as_str).collect();
        let answer = caller.ask(&simulator, &ids).await;
        assert!(entries(&answer).iter().all(|entry| entry.2 == Some("Public")));
    }
    // A linear search for each id takes far longer in a build without optimisations.
    assert!(sent_at.elapsed() < Duration::from_secs(5), "{:?}", sent_at.elapsed());
}
