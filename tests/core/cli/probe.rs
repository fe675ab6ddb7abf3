//! `check --probe`: the answers in its table, the data it must not show, and the number of its
//! requests.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use harness::cli::{CliHarness, CommandOutput};
use tim_group_sync::simulator::{At, Call, Fault, KEY};

const PROBE: [&str; 4] = ["check", "--probe", "--probe-wait", "10ms"];

async fn probe(cli: &CliHarness) -> CommandOutput {
    cli.run(&PROBE).await
}

/// Returns answer and detail by question, of the only app.
async fn probe_json(cli: &CliHarness, code: i32) -> BTreeMap<String, (String, String)> {
    let ended = cli.run(&[&PROBE[..], &["--json"]].concat()).await;
    assert_eq!(ended.code, Some(code), "{ended:?}");
    let text = |value: &serde_json::Value| value.as_str().unwrap().to_owned();
    let rows = ended.result();
    let rows = rows.as_array().unwrap().iter().map(|row| {
        assert_eq!(row["app"], 1);
        (text(&row["question"]), (text(&row["answer"]), text(&row["detail"])))
    });
    rows.collect()
}

/// Returns the line of the table about a question.
fn line<'a>(ended: &'a CommandOutput, question: &str) -> &'a str {
    ended
        .stdout
        .lines()
        .find(|line| line.contains(question))
        .unwrap_or_else(|| panic!("{question}: {ended:?}"))
}

fn with_groups(cli: &CliHarness) {
    cli.api.create_many("Public", 250);
    cli.api.create_many("Private", 30);
    cli.api.create_many("Community", 5);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_answers_every_question() {
    let cli = CliHarness::new().await;
    with_groups(&cli);
    let ended = probe(&cli).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    for (question, answer) in [
        ("unknown id, default form", "code 10010"),
        ("unknown id, Community form", "code 10010"),
        ("unknown id, custom form", "code 10010"),
        ("malformed id, 64 bytes", "code 100"),
        ("malformed id, with a control character", "code 100"),
        ("a listed group of type Public", "code 0, Type Public"),
        ("a listed group of type Community", "code 0, Type Community"),
        ("a listed group of type ChatRoom", "not asked"),
        ("top level of get_group_info, one unknown id", "with its entries"),
        ("top level of get_group_info, listed groups", "agrees with its entries"),
        ("top level of get_group_info, a listed group and an unknown id", "with its entries"),
        ("is the GroupType filter honoured?", "yes: the first pages of 3 types have no group in common"),
        ("is Work accepted as a filter for Private?", "no: refused with code 10004"),
        ("is Meeting accepted as a filter for ChatRoom?", "no: refused with code 10004"),
        ("have the same order twice?", "the same 100 groups in the same order"),
        ("is a Next accepted again later?", "yes, 10ms later: the same 100 groups in the same order"),
        ("undocumented top-level fields of get_appid_group_list", "none"),
        ("undocumented fields of entries of get_appid_group_list", "none"),
        ("undocumented top-level fields of get_group_info", "none"),
        ("undocumented fields of entries of get_group_info", "none"),
        ("HTTP status of the answers", "200: "),
        ("Date header of an answer", "present, "),
    ] {
        assert!(line(&ended, question).contains(answer), "{question}: {}", line(&ended, question));
    }
    assert!(line(&ended, "honoured?").contains("TotalCount: app 285, Public 250, Private 30"), "{ended:?}");
    assert!(ended.stderr.contains("the API accepts the credentials"), "{ended:?}");
    assert!(ended.stderr.contains("waiting 10ms before using the same Next again"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_table_and_the_json_contain_no_ids_names_or_secrets() {
    let cli = CliHarness::new().await;
    with_groups(&cli);
    let signature = cli.run(&["usersig", "--app", "prod"]).await.stdout;
    for ended in [probe(&cli).await, cli.run(&[&PROBE[..], &["--json"]].concat()).await] {
        for shown in [&ended.stdout, &ended.stderr] {
            let hidden = [KEY, "usersig=", "http://", "@TGS#2", "room_", "probe-", signature.trim()];
            hidden.iter().for_each(|hidden| assert!(!shown.contains(hidden), "{hidden}: {shown}"));
            cli.api.truth().keys().for_each(|id| assert!(!shown.contains(id.as_str()), "{id}: {shown}"));
        }
        let address = cli.api.addr().to_string();
        for hidden in ["prod", "groups.db", "1400000000", "administrator", &address] {
            assert!(!ended.stdout.contains(hidden), "{hidden}: {}", ended.stdout);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn list_requests_keep_the_interval_and_the_number_of_requests_is_fixed() {
    let cli = CliHarness::new().await;
    with_groups(&cli);
    assert_eq!(cli.run(&["crawl"]).await.code, Some(0));
    let file = cli.path("config.toml");
    let config = std::fs::read_to_string(&file).unwrap();
    std::fs::write(&file, config.replace("request_interval = \"0s\"", "request_interval = \"100ms\""))
        .unwrap();
    let before = cli.api.requests().len();
    let start = Instant::now();
    assert_eq!(probe(&cli).await.code, Some(0));
    let requests = cli.api.requests().split_off(before);
    let (lists, infos): (Vec<_>, Vec<_>) = requests.iter().partition(|request| request.call == Call::List);
    // Credentials; all types and each type; two aliases; a first page again; a second page twice.
    assert_eq!((lists.len(), infos.len()), (1 + 7 + 2 + 1 + 2, 7));
    // Compares each arrival with the earliest time at which its request may be sent. On a busy
    // machine a request arrives late, and then the next one seems early.
    for (turns, request) in (0..).zip(&lists) {
        assert!(
            request.arrived_at >= start + Duration::from_millis(100) * turns,
            "{turns} turns after the first"
        );
    }
    assert!(lists[1..].iter().all(|request| request.limit == 100), "{lists:?}");
    // The lease was released after the probe.
    assert_eq!(cli.run(&["crawl", "--no-wait"]).await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_question_that_cannot_be_asked_gives_the_reason_and_does_not_prevent_others() {
    let cli = CliHarness::new().await;
    let empty = probe_json(&cli, 0).await;
    let why = |question: &str| empty[question].clone();
    let not_asked = |why: &str| ("not asked".to_owned(), why.to_owned());
    assert_eq!(
        why("get_group_info: a listed group of type Public"),
        not_asked("the list of this type is empty")
    );
    assert_eq!(why("top level of get_group_info, listed groups"), not_asked("no list has a group"));
    assert_eq!(
        why("is a Next accepted again later?"),
        not_asked("no list has a second page at a Limit of 100")
    );
    assert_eq!(
        why("does a first page have the same order twice?"),
        not_asked("no first page has two groups")
    );
    assert_eq!(empty["get_group_info: unknown id, default form"].0, "code 10010");

    with_groups(&cli);
    cli.api.script(At::Info, Fault::ErrorCode(10007));
    cli.api.script(At::Type("Community".to_owned()), Fault::ErrorCode(10004));
    cli.api.script(At::Type("Work".to_owned()), Fault::Status(404));
    let failing = probe_json(&cli, 0).await;
    let unknown = &failing["get_group_info: unknown id, default form"];
    assert_eq!(unknown.0, "no GroupInfo; top-level code 10007");
    let listed = &failing["get_group_info: a listed group of type Community"];
    assert_eq!(listed.1, "the list of this type: refused with code 10004");
    assert_eq!(failing["is Work accepted as a filter for Private?"].0, "no: HTTP status 404");
    assert!(failing["is the GroupType filter honoured?"].0.starts_with("yes"), "{failing:?}");
    assert!(failing["is a Next accepted again later?"].0.starts_with("yes"), "{failing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_ignored_filter_and_contradictory_top_level_codes_are_reported() {
    let cli = CliHarness::new().await;
    with_groups(&cli);
    cli.api.script(At::Every, Fault::IgnoreGroupType);
    cli.api.script(At::Info, Fault::CodeBesideGroups(10010));
    let rows = probe_json(&cli, 0).await;
    let filter = &rows["is the GroupType filter honoured?"].0;
    assert!(filter.starts_with("no: ") && filter.ends_with("have 100 groups in common"), "{filter}");
    assert_eq!(rows["top level of get_group_info, one unknown id"].0, "agrees with its entries");
    let listed = &rows["top level of get_group_info, listed groups"];
    assert_eq!(listed.0, "does not agree with its entries");
    assert!(listed.1.starts_with("ErrorCode 10010, ActionStatus FAIL; codes of entries: 0"), "{listed:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn with_refused_credentials_the_check_fails_and_no_question_is_asked() {
    let cli = CliHarness::new().await;
    cli.write_key("fedcba9876543210fedcba9876543210fedcba9876543210fedcba9876543210");
    let rows = probe_json(&cli, 78).await;
    assert_eq!(rows["all questions"].1, "the check of this app did not succeed");
    assert!(cli.api.requests().iter().all(|request| request.call == Call::List));
    let together = cli.run(&["check", "--probe", "--no-environment"]).await;
    assert_eq!(together.code, Some(2), "{together:?}");
}
