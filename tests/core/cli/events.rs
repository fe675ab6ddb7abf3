//! `events`: the change feed as a command.

use harness::cli::CliHarness;

/// Returns an app with a baseline of three groups, one deletion and one new group.
async fn with_events() -> CliHarness {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 3);
    cli.run(&["crawl"]).await;
    cli.api.dissolve_some(1);
    cli.run(&["crawl"]).await;
    cli.api.create("Public", "quoted \"new\", group");
    cli.run(&["crawl"]).await;
    cli
}

#[tokio::test]
async fn events_are_one_json_object_a_line_and_continue_after_the_last_one() {
    let cli = with_events().await;
    let all = cli.run(&["events", "--app", "prod"]).await;
    assert_eq!(all.code, Some(0), "{all:?}");
    let events: Vec<serde_json::Value> =
        all.stdout.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let names: Vec<&str> = events.iter().map(|event| event["event"].as_str().unwrap()).collect();
    assert_eq!(names, ["vanished", "appeared"]);
    assert_eq!(
        (&events[1]["app"], &events[1]["group_id"]),
        (&"prod".into(), &"quoted \"new\", group".into())
    );
    let after = events[0]["event_id"].to_string();
    let rest = cli.run(&["events", "--app", "1400000000", "--after", &after]).await;
    assert_eq!(rest.stdout.lines().collect::<Vec<_>>(), [all.stdout.lines().nth(1).unwrap()]);
    let none = cli.run(&["events", "--app", "prod", "--after", &events[1]["event_id"].to_string()]).await;
    assert_eq!((none.code, none.stdout.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn csv_has_a_header_and_quotes_values_with_special_characters() {
    let cli = with_events().await;
    let csv = cli.run(&["events", "--app", "prod", "--format", "csv", "--limit", "10"]).await;
    let lines: Vec<&str> = csv.stdout.lines().collect();
    assert_eq!(lines[0], "sdk_app_id,app,event_id,occurred_at,group_id,event,old_type,new_type,crawl_id");
    assert_eq!(lines.len(), 3);
    assert!(lines[2].contains(",\"quoted \"\"new\"\", group\",appeared,,Public,"), "{}", lines[2]);
}

#[tokio::test]
async fn a_limit_ends_the_output_and_an_unknown_app_or_cursor_is_an_error() {
    let cli = with_events().await;
    let one = cli.run(&["events", "--app", "prod", "--limit", "1"]).await;
    assert_eq!(one.stdout.lines().count(), 1);
    let unknown = cli.run(&["events", "--app", "nobody"]).await;
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.stderr.contains("no app \"nobody\"") && unknown.stderr.contains("status"), "{unknown:?}");
    for cursor in ["-1", "x", "9223372036854775808"] {
        let malformed = cli.run(&["events", "--app", "prod", &format!("--after={cursor}")]).await;
        assert_eq!(malformed.code, Some(2), "{cursor}: {malformed:?}");
    }
}
