//! Over real HTTP, with a client that knows the API's documentation and nothing of the crate's own client.

use std::collections::BTreeSet;
use std::error::Error as _;

use chrono::DateTime;
use serde_json::{Value, json};

use super::*;
use crate::tencent::usersig::{self, Claims};
use crate::tencent::wire::{GROUP_INFO_PATH, LIST_GROUPS_PATH};

const NOW: i64 = 1_700_000_000;

fn settings() -> Settings {
    Settings { clock: Clock::standing_at(DateTime::from_timestamp(NOW, 0).unwrap()), ..Settings::default() }
}

async fn start(settings: Settings) -> (Simulator, Caller) {
    let caller = Caller::of(&settings);
    let simulator = Simulator::start(settings).await.unwrap();
    (simulator, caller)
}

/// The claims of a good signature and the parameters of a good request, to be spoilt.
struct Caller {
    http: reqwest::Client,
    claims: Claims,
    key: SecretKey,
    parameters: BTreeMap<&'static str, String>,
}

impl Caller {
    #[expect(clippy::disallowed_methods, reason = "a client apart from the one under test")]
    fn of(settings: &Settings) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default(); // another test may have been first
        let no_redirects = reqwest::redirect::Policy::none();
        let claims = Claims {
            sdk_app_id: settings.sdk_app_id,
            identifier: settings.identifier.clone(),
            issued_at: NOW,
            lifetime: Duration::from_mins(10),
        };
        Self {
            http: reqwest::Client::builder().no_proxy().redirect(no_redirects).build().unwrap(),
            parameters: BTreeMap::from([
                ("sdkappid", settings.sdk_app_id.to_string()),
                ("identifier", settings.identifier.clone()),
                ("usersig", usersig::sign(&claims, &settings.secret_key).expose().to_owned()),
                ("random", u32::MAX.to_string()),
                ("contenttype", "json".to_owned()),
            ]),
            claims,
            key: settings.secret_key.clone(),
        }
    }

    fn sign(&mut self) {
        self.parameters.insert("usersig", usersig::sign(&self.claims, &self.key).expose().to_owned());
    }

    async fn post(&self, simulator: &Simulator, body: String) -> reqwest::Result<reqwest::Response> {
        self.post_to(simulator, LIST_GROUPS_PATH, body).await
    }

    async fn post_to(
        &self,
        simulator: &Simulator,
        path: &str,
        body: String,
    ) -> reqwest::Result<reqwest::Response> {
        let url = simulator.base_url() + path;
        self.http.post(url).query(&self.parameters).body(body).send().await
    }

    async fn call(&self, simulator: &Simulator, body: Value) -> Value {
        let response = self.post(simulator, body.to_string()).await.unwrap();
        assert_eq!(response.status(), 200);
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
    }

    async fn code(&self, simulator: &Simulator, body: Value) -> i64 {
        self.call(simulator, body).await["ErrorCode"].as_i64().unwrap()
    }

    /// Pages to the end: the ids of each page.
    async fn crawl(&self, simulator: &Simulator, filter: Option<&str>, limit: usize) -> Vec<Vec<String>> {
        let mut request = json!({ "Limit": limit, "Next": 0 });
        if let Some(group_type) = filter {
            request["GroupType"] = group_type.into();
        }
        let mut pages = Vec::new();
        loop {
            let answer = self.call(simulator, request.clone()).await;
            assert_eq!(answer["ErrorCode"], 0, "{answer}");
            pages.push(ids(&answer));
            request["Next"] = answer["Next"].clone();
            if request["Next"] == 0 {
                return pages;
            }
        }
    }
}

fn ids(answer: &Value) -> Vec<String> {
    let entries = answer["GroupIdList"].as_array().unwrap();
    entries.iter().map(|entry| entry["GroupId"].as_str().unwrap().to_owned()).collect()
}

fn every_listing() -> impl Iterator<Item = Listing> {
    let orders = [Order::OldestFirst, Order::NewestFirst, Order::Shuffled];
    orders
        .into_iter()
        .flat_map(|order| [Cursor::Key, Cursor::Position].map(|cursor| Listing { order, cursor }))
}

#[tokio::test]
async fn a_standing_list_is_read_exactly_once_in_every_order_by_every_cursor() {
    for listing in every_listing() {
        let (simulator, caller) = start(Settings { listing, ..settings() }).await;
        simulator.create_many("Public", 30);
        simulator.create_many("Live", 25);
        simulator.create_many("Public", 10);
        simulator.create("Community", "@TGS#_mine");
        let truth = simulator.truth();
        for filter in [None, Some("Public"), Some("Live"), Some("Community")] {
            let expected: BTreeSet<&String> =
                truth.iter().filter(|(_, t)| filter.is_none_or(|f| f == *t)).map(|(id, _)| id).collect();
            for limit in [1, 7, expected.len(), 10_000] {
                let pages = caller.crawl(&simulator, filter, limit).await;
                assert_eq!(pages.len(), expected.len().div_ceil(limit), "{listing:?} {filter:?} {limit}");
                let listed = pages.concat();
                assert_eq!(listed.len(), expected.len());
                assert_eq!(listed.iter().collect::<BTreeSet<_>>(), expected);
            }
        }
    }
}

#[tokio::test]
async fn groups_come_oldest_first_newest_first_or_in_an_order_that_does_not_follow_age() {
    let names: Vec<String> = (0..50).map(|n| format!("group {n:02}")).collect();
    for order in [Order::OldestFirst, Order::NewestFirst, Order::Shuffled] {
        let listing = Listing { order, ..Listing::default() };
        let (simulator, caller) = start(Settings { listing, ..settings() }).await;
        for name in &names {
            simulator.create("Public", name);
        }
        let listed = caller.crawl(&simulator, None, 20).await.concat();
        match order {
            Order::OldestFirst => assert!(listed.is_sorted()),
            Order::NewestFirst => assert!(listed.is_sorted_by(|a, b| a > b)),
            Order::Shuffled => assert!(!listed.is_sorted() && !listed.is_sorted_by(|a, b| a > b)),
        }
    }
}

/// Lists 60 groups by tens while, before every page, three of them are dissolved and three others created.
/// Returns how many of the groups that stood all the time were skipped, and how many ids came twice.
async fn crawl_under_churn(listing: Listing, seed: u64) -> (usize, usize) {
    let (simulator, caller) = start(Settings { listing, seed, ..settings() }).await;
    simulator.create_many("Public", 60);
    let mut standing = simulator.truth();
    simulator.on_request(|app, _| {
        app.dissolve_some(3);
        app.create_many("Public", 3);
    });
    let listed = caller.crawl(&simulator, Some("Public"), 10).await.concat();
    let truth = simulator.truth();
    standing.retain(|id, _| truth.contains_key(id));
    let distinct: BTreeSet<&String> = listed.iter().collect();
    (standing.keys().filter(|id| !distinct.contains(id)).count(), listed.len() - distinct.len())
}

#[tokio::test]
async fn a_key_cursor_never_skips_a_standing_group_and_never_repeats_one() {
    for listing in every_listing().filter(|listing| listing.cursor == Cursor::Key) {
        for seed in 0..5 {
            assert_eq!(crawl_under_churn(listing, seed).await, (0, 0), "{listing:?} {seed}");
        }
    }
}

#[tokio::test]
async fn positions_shift_under_churn_and_skip_or_repeat_standing_groups() {
    let crawl = async |order| crawl_under_churn(Listing { order, cursor: Cursor::Position }, 1).await;
    let (skipped, repeated) = crawl(Order::OldestFirst).await;
    assert!(skipped > 0 && repeated == 0, "only dissolving shifts this list, to the front");
    let (skipped, repeated) = crawl(Order::NewestFirst).await;
    assert!(
        skipped == 0 && repeated > 0,
        "creating always shifts this list to the back, dissolving not always"
    );
    let (skipped, repeated) = crawl(Order::Shuffled).await;
    assert!(skipped > 0 && repeated > 0, "this list shifts both ways");
}

#[tokio::test]
async fn a_cursor_is_beyond_63_bits_and_good_for_its_own_filter_only() {
    for listing in every_listing() {
        let (simulator, caller) = start(Settings { listing, ..settings() }).await;
        simulator.create_many("Public", 3);
        simulator.create_many("Live", 3);
        let first = caller.call(&simulator, json!({ "Limit": 1, "GroupType": "Public" })).await;
        let next = first["Next"].as_u64().unwrap();
        assert!(next > 1 << 63);
        let code = async |next: u64, group_type| {
            caller.code(&simulator, json!({ "Next": next, "GroupType": group_type })).await
        };
        assert_eq!(code(next, "Public").await, 0);
        assert_eq!(code(next, "Live").await, 10004);
        for unknown in [1, next - 1, next + 1, next ^ 1 << 63, u64::MAX] {
            assert_eq!(code(unknown, "Public").await, 10004, "{unknown}");
        }
    }
}

#[tokio::test]
async fn an_empty_documented_type_is_empty_and_an_unknown_one_an_error_until_it_had_a_group() {
    let (simulator, caller) = start(settings()).await;
    simulator.create("Work", "a");
    simulator.create("Meeting", "b");
    let call = async |group_type: &str| caller.call(&simulator, json!({ "GroupType": group_type })).await;
    let empty = call("Community").await;
    assert_eq!((&empty["TotalCount"], &empty["Next"], ids(&empty).len()), (&json!(0), &json!(0), 0));
    assert_eq!(ids(&call("Private").await), ["a"]);
    assert_eq!(ids(&call("ChatRoom").await), ["b"]);
    for unknown in ["Work", "Meeting", "Live", "public", ""] {
        assert_eq!(call(unknown).await["ErrorCode"], 10004, "{unknown}");
    }
    simulator.create("Live", "c");
    assert!(simulator.dissolve("c") && !simulator.dissolve("c"));
    assert_eq!(call("Live").await["TotalCount"], 0);
    simulator.retype("a", "ChatRoom");
    assert_eq!(ids(&call("ChatRoom").await), ["b", "a"], "a retyped group is a new one");
    assert_eq!(call("Private").await["TotalCount"], 0);
    assert_eq!(caller.call(&simulator, json!({})).await["TotalCount"], 2);
}

#[tokio::test]
async fn made_ids_follow_from_the_seed_and_random_dissolving_spares_the_rest() {
    let truth_of = async |seed| {
        let (simulator, _) = start(Settings { seed, ..settings() }).await;
        simulator.create_many("Public", 1000);
        simulator.create_many("Community", 100);
        let before = simulator.truth();
        let dissolved = simulator.dissolve_some(300);
        let mut after = simulator.truth();
        assert_eq!((before.len(), dissolved.len(), after.len()), (1100, 300, 800));
        assert_eq!(simulator.counts().values().sum::<usize>(), 800);
        after.extend(dissolved.into_iter().map(|id| (id.clone(), before[&id].clone())));
        assert_eq!(after, before);
        assert_eq!(simulator.dissolve_some(usize::MAX).len(), 800);
        before
    };
    let truth = truth_of(1).await;
    assert_eq!(truth, truth_of(1).await);
    assert_ne!(truth, truth_of(2).await);
    assert!(truth.iter().all(|(id, t)| id.starts_with("@TGS#_") == (t == "Community")));
    let own = truth.keys().filter(|id| id.contains("room_")).collect::<Vec<_>>();
    assert!((150..300).contains(&own.len()), "{}", own.len());
    assert!(own.iter().all(|id| (24..=44).contains(&id.len())));
}

#[tokio::test]
async fn a_request_that_is_not_as_documented_is_refused_with_the_documented_code() {
    let (simulator, good) = start(settings()).await;
    let spoilt = async |spoil: &dyn Fn(&mut Caller)| {
        let mut caller = Caller { http: good.http.clone(), ..Caller::of(&settings()) };
        spoil(&mut caller);
        caller.code(&simulator, json!({})).await
    };
    let other = SdkAppId::new(1_400_000_001).unwrap();
    assert_eq!(spoilt(&|_| {}).await, 0);
    assert_eq!(spoilt(&|c| drop(c.parameters.remove("sdkappid"))).await, 60012);
    assert_eq!(spoilt(&|c| drop(c.parameters.insert("sdkappid", "x".into()))).await, 60006);
    assert_eq!(spoilt(&|c| drop(c.parameters.insert("sdkappid", other.to_string()))).await, 70020);
    assert_eq!(spoilt(&|c| drop(c.parameters.remove("identifier"))).await, 60004);
    assert_eq!(spoilt(&|c| drop(c.parameters.insert("identifier", "mallory".into()))).await, 70013);
    assert_eq!(spoilt(&|c| drop(c.parameters.remove("usersig"))).await, 70002);
    assert_eq!(spoilt(&|c| drop(c.parameters.insert("usersig", "eJyrVg__".into()))).await, 70003);
    assert_eq!(spoilt(&|c| drop(c.parameters.remove("random"))).await, 60002);
    assert_eq!(spoilt(&|c| drop(c.parameters.insert("random", "4294967296".into()))).await, 60002);
    assert_eq!(spoilt(&|c| drop(c.parameters.insert("contenttype", "JSON".into()))).await, 60002);
    let signed = async |spoil: &dyn Fn(&mut Caller)| {
        spoilt(&|caller| {
            spoil(caller);
            caller.sign();
        })
        .await
    };
    assert_eq!(signed(&|c| c.claims.sdk_app_id = other).await, 70014);
    assert_eq!(signed(&|c| c.claims.identifier = "mallory".into()).await, 70013);
    assert_eq!(signed(&|c| c.key = SecretKey::new("another")).await, 70009);
    assert_eq!(signed(&|c| c.claims.issued_at = NOW - 601).await, 70001);
    let ordinary_user = |c: &mut Caller| {
        c.claims.identifier = "user".into();
        c.parameters.insert("identifier", "user".into());
    };
    assert_eq!(signed(&ordinary_user).await, 10007);
    for (body, code) in [
        (json!({ "Limit": 10_001 }), 10004),
        (json!({ "Limit": 0 }), 10004),
        (json!({ "Next": "0" }), 10004),
        (json!({ "GroupType": 7 }), 10004),
    ] {
        assert_eq!(good.code(&simulator, body.clone()).await, code, "{body}");
    }
    for body in ["", "{\"Limit\":"] {
        let answer = good.post(&simulator, body.to_owned()).await.unwrap().text().await.unwrap();
        assert!(answer.contains("60003"), "{answer}");
    }
    let log = simulator.requests();
    assert_eq!((log[0].answered, log[1].answered, log[0].limit), (Some(0), Some(60012), 10_000));
}

#[tokio::test]
async fn the_api_takes_posts_on_its_path_only() {
    let (simulator, caller) = start(settings()).await;
    let got = caller.http.get(simulator.base_url() + LIST_GROUPS_PATH).send().await.unwrap();
    assert!(got.text().await.unwrap().contains("60002"));
    let lost = caller.http.post(simulator.base_url() + "/v4/elsewhere").send().await.unwrap();
    assert!(lost.text().await.unwrap().contains("60009"));
    assert_eq!(simulator.requests().len(), 0);
}

#[tokio::test]
async fn calls_that_arrive_too_early_are_refused_and_do_not_put_off_the_next() {
    let hour = Duration::from_hours(1);
    let (simulator, mut caller) = start(Settings { min_interval: Some(hour), ..settings() }).await;
    caller.claims.issued_at = 0;
    let good = caller.parameters.clone();
    caller.sign();
    assert_eq!(caller.code(&simulator, json!({})).await, 70001, "a stranger's calls do not count");
    caller.parameters = good;
    assert_eq!(caller.code(&simulator, json!({})).await, 0);
    assert_eq!(caller.code(&simulator, json!({})).await, 10006);

    let start = Instant::now();
    let mut traffic = Traffic::default();
    let admitted = [0, 900, 1000, 1999, 2000]
        .map(|t| traffic.admit(start + Duration::from_millis(t), Duration::from_secs(1)));
    assert_eq!(admitted, [true, false, true, false, true]);
}

#[tokio::test]
async fn an_answer_over_the_size_limit_is_refused_and_a_smaller_limit_helps() {
    let (simulator, caller) = start(Settings { max_answer_bytes: 1000, ..settings() }).await;
    simulator.create_many("Public", 50);
    assert_eq!(caller.code(&simulator, json!({})).await, 10018);
    assert_eq!(caller.crawl(&simulator, None, 10).await.len(), 5);
}

#[tokio::test]
async fn each_fault_of_the_page_bends_just_what_it_says() {
    let (simulator, caller) = start(settings()).await;
    simulator.create_many("Live", 4);
    simulator.create_many("Public", 5);
    let request = json!({ "GroupType": "Public", "Limit": 2 });
    let good = caller.call(&simulator, request.clone()).await;
    let bent = async |fault: Fault| {
        simulator.heal();
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
    assert_eq!(bent(Fault::EarlyEnd).await, only("Next", json!(0)));
    assert_eq!(bent(Fault::NoNext).await, without("Next"));
    assert_eq!(bent(Fault::NextAsText).await, only("Next", good["Next"].to_string().into()));
    assert_eq!(bent(Fault::NextIs("soon".into())).await, only("Next", json!("soon")));
    assert_eq!(bent(Fault::NoTotalCount).await, without("TotalCount"));
    assert_eq!(bent(Fault::TotalCount(99)).await, only("TotalCount", json!(99)));
    assert_eq!(bent(Fault::AppTotalCount).await, only("TotalCount", json!(9)));
    assert_eq!(ids(&bent(Fault::DuplicateIds).await), [ids(&good), ids(&good)].concat());
    let strange = vec!["a\0b".to_owned(), "x".repeat(128)];
    assert_eq!(ids(&bent(Fault::ExtraIds(strange.clone())).await), [ids(&good), strange].concat());
    let empty = bent(Fault::EmptyList).await;
    assert_eq!((&empty["TotalCount"], &empty["Next"], ids(&empty).len()), (&json!(0), &json!(0), 0));
    let unfiltered = bent(Fault::IgnoreGroupType).await;
    let truth = simulator.truth();
    assert_eq!(unfiltered["TotalCount"], 9);
    assert!(ids(&unfiltered).iter().all(|id| truth[id] == "Live"));
    let refused = bent(Fault::ErrorCode(70500)).await;
    assert_eq!((&refused["ActionStatus"], &refused["ErrorCode"]), (&json!("FAIL"), &json!(70500)));
    assert_eq!(simulator.requests().last().unwrap().answered, Some(70500));
    simulator.heal();
    assert_eq!(caller.call(&simulator, request.clone()).await, good);
}

#[tokio::test]
async fn a_repeated_cursor_leads_back_to_its_page_for_ever() {
    let (simulator, caller) = start(settings()).await;
    simulator.create_many("Public", 5);
    simulator.script(At::Every, Fault::RepeatCursor);
    let first = caller.call(&simulator, json!({ "Limit": 2 })).await;
    let second = caller.call(&simulator, json!({ "Limit": 2, "Next": first["Next"] })).await;
    assert_ne!(first["Next"], 0);
    assert_eq!(first, second);
}

#[tokio::test]
async fn an_empty_page_goes_on_to_the_groups_it_did_not_list_and_never_by_the_same_cursor() {
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
async fn faults_instead_of_an_answer_look_like_broken_infrastructure() {
    let (simulator, caller) = start(settings()).await;
    simulator.create_many("Public", 100);
    let meet = async |fault: Fault| {
        simulator.heal();
        simulator.script(At::Every, fault);
        caller.post(&simulator, "{}".to_owned()).await
    };
    let response = meet(Fault::Status(502)).await.unwrap();
    assert_eq!(response.status(), 502);
    let response = meet(Fault::HtmlWith200).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["content-type"]),
        (200, &"text/html".parse().unwrap())
    );
    let text = meet(Fault::NotJson).await.unwrap().text().await.unwrap();
    assert!(serde_json::from_str::<Value>(&text).is_err());
    let response = meet(Fault::Redirect).await.unwrap();
    assert_eq!(response.status(), 307);
    assert!(response.headers()["location"].to_str().unwrap().starts_with(LIST_GROUPS_PATH));
    let response = meet(Fault::OversizedBody).await.unwrap();
    assert_eq!(response.content_length(), None);
    assert_eq!(response.bytes().await.unwrap().len(), 64 << 20);
    let error = meet(Fault::Reset).await.unwrap_err();
    assert!(error.is_request() && !error.is_timeout() && error.source().is_some(), "{error:?}");
    let response = meet(Fault::TruncatedBody).await.unwrap();
    assert_eq!(response.status(), 200);
    let error = response.bytes().await.unwrap_err();
    assert!(error.is_body() || error.is_decode(), "{error:?}");
    let numbers: Vec<u64> = simulator.requests().iter().map(|request| request.number).collect();
    assert_eq!(numbers, [1, 2, 3, 4, 5, 6, 7], "each was one request");
    simulator.heal();
    assert_eq!(caller.code(&simulator, json!({})).await, 0);
}

#[tokio::test]
async fn a_late_answer_comes_and_a_missing_one_does_not() {
    let (simulator, caller) = start(settings()).await;
    let pause = Duration::from_millis(50);
    simulator.script(At::Request(1), Fault::Delay(pause));
    simulator.script(At::Request(2), Fault::Timeout);
    let asked_at = Instant::now();
    assert_eq!(caller.code(&simulator, json!({})).await, 0);
    assert!(asked_at.elapsed() >= pause);

    let arrived = Arc::new(tokio::sync::Notify::new());
    simulator.on_request({
        let arrived = Arc::clone(&arrived);
        move |_, _| arrived.notify_one()
    });
    let unanswered = caller.post(&simulator, "{}".to_owned());
    let patience = async {
        arrived.notified().await;
        tokio::time::sleep(pause).await;
    };
    tokio::select! {
        answer = unanswered => panic!("{answer:?}"),
        () = patience => assert_eq!(simulator.requests()[1].answered, None),
    }
}

#[tokio::test]
async fn faults_meet_the_page_the_share_and_the_numbers_they_are_for() {
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
    assert_eq!(page("Public", &public["Next"]).await["ErrorCode"], 10002, "tried again, it is the same page");
    simulator.heal();
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
async fn a_held_request_is_received_and_answered_after_release_with_what_holds_then() {
    let (simulator, caller) = start(settings()).await;
    let held = simulator.hold(At::Request(2));
    assert_eq!(caller.code(&simulator, json!({})).await, 0);
    let meanwhile = async {
        held.reached().await;
        assert_eq!(simulator.requests()[1].answered, None);
        simulator.create("Public", "made while the request was held");
        held.release();
    };
    let (answer, ()) = tokio::join!(caller.call(&simulator, json!({})), meanwhile);
    assert_eq!(ids(&answer), ["made while the request was held"]);
}

#[tokio::test]
async fn a_dropped_simulator_ends_the_requests_it_holds_and_takes_no_more() {
    let (simulator, caller) = start(settings()).await;
    let url = simulator.base_url();
    let held = simulator.hold(At::Every);
    let request = tokio::spawn(caller.http.post(url.clone() + LIST_GROUPS_PATH).send());
    held.reached().await;
    drop(simulator);
    assert!(request.await.unwrap().is_err());
    while caller.http.post(&url).send().await.is_ok() {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn single_groups_are_told_one_by_one_hidden_ones_too() {
    let (simulator, caller) = start(settings()).await;
    ["a", "b", "c", "d"].iter().for_each(|id| simulator.create("Work", id));
    simulator.hide(&["b", "nobody"]);
    simulator.dissolve("c");
    assert_eq!(caller.crawl(&simulator, Some("Private"), 10).await, [["a", "d"]]);
    assert_eq!(simulator.truth().keys().collect::<Vec<_>>(), ["a", "b", "d"]);
    let ask = async |body: Value| -> Value {
        let response = caller.post_to(&simulator, GROUP_INFO_PATH, body.to_string()).await.unwrap();
        serde_json::from_slice(&response.bytes().await.unwrap()).unwrap()
    };
    let types = json!({ "GroupBaseInfoFilter": ["Type"] });
    let question = json!({ "GroupIdList": ["a", "b", "c"], "ResponseFilter": types });
    let told = |answer: &Value| -> Vec<(Value, Value)> {
        let groups = answer["GroupInfo"].as_array().unwrap();
        groups.iter().map(|group| (group["ErrorCode"].clone(), group["Type"].clone())).collect()
    };
    let private = (json!(0), json!("Private"));
    let answer = ask(question.clone()).await;
    assert_eq!(answer["ErrorCode"], 0);
    assert_eq!(told(&answer), [private.clone(), private.clone(), (json!(10010), Value::Null)]);
    simulator.script(At::Info, Fault::GroupCode("a".to_owned(), 10002));
    simulator.script(At::Info, Fault::CodeBesideGroups(10010));
    let answer = ask(question.clone()).await;
    assert_eq!((&answer["ErrorCode"], &told(&answer)[0].0), (&json!(10010), &json!(10002)));
    simulator.script(At::Info, Fault::ErrorCode(10007));
    assert_eq!(
        ask(question).await,
        json!({ "ActionStatus": "FAIL", "ErrorCode": 10007, "ErrorInfo": "scripted" })
    );
    for ids in [vec![], vec!["x"; 51]] {
        simulator.heal();
        assert_eq!(ask(json!({ "GroupIdList": ids })).await["ErrorCode"], 10004);
    }
    simulator.show_all();
    assert_eq!(caller.crawl(&simulator, None, 10).await, [["a", "d", "b"]]);
    let asked: Vec<usize> =
        simulator.requests().iter().filter(|r| r.call == Call::Info).map(|r| r.groups.len()).collect();
    assert_eq!(asked, [3, 3, 3, 0, 0]);
}
