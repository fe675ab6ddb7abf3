//! Tests of `getappinfo`.

use super::*;

#[tokio::test]
async fn the_figures_of_the_last_30_days_follow_from_the_history_and_are_strings() {
    let clock = Clock::fixed_at("2023-11-13T15:59:59Z".parse().unwrap());
    let (simulator, caller) = start(Settings { clock: clock.clone(), ..settings() }).await;
    simulator.create_many("Public", 5);
    simulator.create("Work", "a");
    simulator.create("Work", "a"); // the id is in use
    clock.set("2023-11-13T16:00:00Z".parse().unwrap()); // the next day in Beijing
    simulator.dissolve("a");
    simulator.dissolve("a");
    simulator.dissolve_some(2);
    clock.set(DateTime::from_timestamp(NOW, 0).unwrap()); // 15 November in Beijing
    simulator.create("Work", "b"); // the current day is not reported
    let answer = caller.statistics(&simulator, json!({})).await;
    assert_eq!((&answer["ErrorCode"], &answer["ActionStatus"]), (&json!(0), &Value::Null));
    let days = answer["Result"].as_array().unwrap();
    let fields = ["Date", "GroupAllGroupNum", "GroupNewGroupNum", "GroupDestroyGroupNum", "CallBackReq"];
    let last: Vec<_> = days.iter().rev().take(3).map(|day| fields.map(|field| day[field].clone())).collect();
    let expected = [
        ["20231114", "3", "0", "3", "3"],
        ["20231113", "6", "6", "0", "6"],
        ["20231112", "0", "0", "0", "0"],
    ];
    assert_eq!((days.len(), last), (30, expected.map(|day| day.map(Value::from)).to_vec()));
}

#[tokio::test]
async fn only_the_requested_fields_are_sent_and_faults_apply() {
    let (simulator, caller) = start(settings()).await;
    let request = json!({ "RequestField": ["Date", "CallBackReq"] });
    let fields = async || {
        let answer = caller.statistics(&simulator, request.clone()).await;
        answer["Result"][0].as_object().map(|day| day.keys().cloned().collect::<Vec<_>>())
    };
    assert_eq!(fields().await.unwrap(), ["CallBackReq", "Date"]);
    simulator.script(At::Statistics, Fault::NoStatistic("CallBackReq".to_owned()));
    assert_eq!(fields().await.unwrap(), ["Date"]);
    simulator.script(At::Statistics, Fault::ErrorCode(60006));
    assert_eq!(caller.statistics(&simulator, request.clone()).await["ErrorCode"], 60006);
    simulator.clear_faults();
    simulator.script(At::Statistics, Fault::Body("{}".to_owned()));
    assert_eq!(caller.statistics(&simulator, request.clone()).await, json!({}));
    assert_eq!(caller.code(&simulator, json!({})).await, 0, "faults of other calls do not apply");
    let seen: Vec<_> =
        simulator.requests().iter().map(|request| (request.call, request.nth_of_call)).collect();
    assert_eq!(seen[3..], [(Call::Statistics, 4), (Call::List, 1)]);
}
