//! The commands of the program: effects, output and exit codes.

use std::io::{BufRead as _, BufReader};
use std::process::Stdio;
use std::time::Duration;

use chrono::{DateTime, TimeDelta};
use harness::cli::{CliHarness, CommandOutput, get, rows};
use harness::postgres::PostgresServer;
use harness::store::TestDatabase;
use rustix::process::{Pid, Signal, kill_process};
use tim_group_sync::simulator::{At, Fault, KEY};
use tim_group_sync::store::DatabaseLocation;
use tim_group_sync::tencent::usersig::{SecretKey, verify};

#[tokio::test(flavor = "multi_thread")]
async fn a_crawl_prints_one_line_and_fills_the_table() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 30);
    let ended = cli.run(&["crawl"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(
        ended.stdout.starts_with("prod: crawl 1 complete: 30 groups listed, 30 listed for the first time;"),
        "{ended:?}"
    );
    assert_eq!(cli.query("SELECT count(*) FROM live_groups").await, "30");
    let again = cli.run(&["sync", "--json"]).await;
    let report = again.result();
    assert_eq!(report[0]["status"], "complete");
    assert_eq!(report[0]["groups_listed"], 30);
    assert_eq!(report[0]["first_listed"], 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_short_list_exits_with_4_and_the_message_names_the_setting_that_accepts_it() {
    let cli = CliHarness::new().await;
    cli.configure("page_limit = 29\n");
    cli.api.create_many("Public", 30);
    cli.run(&["crawl"]).await;
    cli.api.script(At::Type("Public".to_owned()), Fault::EarlyEnd);
    let ended = cli.run(&["crawl"]).await;
    assert_eq!(ended.code, Some(4), "{ended:?}");
    assert!(ended.stdout.contains("deletion.max_shortfall = 0.0334"), "{ended:?}");
    assert_eq!(cli.query("SELECT count(*) FROM live_groups").await, "30");
}

#[tokio::test(flavor = "multi_thread")]
async fn withheld_deletions_exit_with_3_and_approve_applies_them() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 400);
    cli.run(&["crawl"]).await;
    cli.api.dissolve_some(300);
    let ended = cli.run(&["crawl"]).await;
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert!(ended.stdout.contains("tim-group-sync approve --crawl 2"), "{ended:?}");
    let state = "SELECT count(*), sum(held), sum(missing_since IS NOT NULL) FROM live_groups";
    assert_eq!(cli.query(state).await, "400 300 300");
    assert!(cli.run(&["status"]).await.stdout.contains("approve --crawl 2"));
    let listed = cli.run(&["approve", "--crawl", "2", "--dry-run"]).await;
    assert_eq!((listed.code, listed.stdout.lines().count()), (Some(0), 300), "{listed:?}");
    assert_eq!(cli.query(state).await, "400 300 300");
    let approved = cli.run(&["approve", "--crawl", "2"]).await;
    assert_eq!(approved.code, Some(0), "{approved:?}");
    let settled = cli.run(&["status"]).await.stdout;
    assert!(settled.contains("were approved") && !settled.contains("approve --crawl"), "{settled}");
    assert_eq!(cli.query("SELECT count(*) FROM live_groups").await, "100");
    assert_eq!(
        cli.query("SELECT deletions, vanished, withheld FROM crawls WHERE crawl_id = 2").await,
        "approved 300 300"
    );
    assert_eq!(cli.query("SELECT event, count(*) FROM group_events GROUP BY 1").await, "vanished 300");
    assert_eq!(cli.query("SELECT sum(live_groups), sum(vanished) FROM daily_counts").await, "100 300");
    assert_eq!(cli.query("SELECT live_count, missing_count FROM app_status").await, "100 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn approve_reports_the_confirmed_deletions_and_can_apply_only_those() {
    let cli = CliHarness::new().await;
    cli.configure("[apps.prod.deletion]\nmax_fraction = 0.1\nmin_groups = 0\n");
    ["a", "b", "c", "d", "e"].iter().for_each(|id| cli.api.create("Public", id));
    cli.run(&["crawl"]).await;
    ["a", "b", "c"].iter().for_each(|id| assert!(cli.api.dissolve(id)));
    cli.api.script(At::Info, Fault::GroupCode("c".to_owned(), 10002));
    let crawled = cli.run(&["crawl"]).await;
    assert_eq!(crawled.code, Some(3), "{crawled:?}");
    let summary = "3 deletions are withheld (2 confirmed by get_group_info, 1 without a usable answer)";
    assert!(crawled.stdout.contains(summary), "{crawled:?}");
    let waiting = async || cli.run(&["status"]).await.stdout;
    let status = waiting().await;
    assert!(status.contains("3 deletions of crawl 2, 2 of them confirmed by get_group_info"), "{status}");
    let listed = cli.run(&["approve", "--crawl", "2", "--confirmed", "--dry-run"]).await;
    assert_eq!((listed.code, listed.stdout.as_str()), (Some(0), "a\nb\n"), "{listed:?}");
    let summary = "2 groups would be marked deleted, 2 of them confirmed by get_group_info";
    assert!(listed.stderr.contains(summary), "{listed:?}");

    let approved = cli.run(&["approve", "--crawl", "2", "--confirmed", "--json"]).await.result();
    assert_eq!((&approved["groups"], &approved["confirmed"]), (&2.into(), &2.into()), "{approved}");
    let crawl = "SELECT deletions, vanished, withheld, withheld_confirmed FROM crawls WHERE crawl_id = 2";
    assert_eq!(cli.query(crawl).await, "withheld 2 3 2");
    let status = waiting().await;
    assert!(status.contains("1 deletion of crawl 2, 0 of them confirmed by get_group_info"), "{status}");
    let none = cli.run(&["approve", "--crawl", "2", "--confirmed"]).await;
    assert!(
        none.code == Some(1) && none.stderr.contains("no withheld deletion of crawl 2 is confirmed"),
        "{none:?}"
    );
    let approved = cli.run(&["approve", "--crawl", "2"]).await;
    assert_eq!(approved.code, Some(0), "{approved:?}");
    let summary = "prod: 1 group marked deleted, 0 of them confirmed by get_group_info\n";
    assert_eq!(approved.stdout, summary);
    assert_eq!(cli.query(crawl).await, "approved 3 3 2");
    assert_eq!(cli.query("SELECT group_id FROM live_groups ORDER BY 1").await, "d\ne");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crawl_reports_the_answers_about_candidates_and_status_the_undecided_groups() {
    let cli = CliHarness::new().await;
    ["a", "b", "c", "d"].iter().for_each(|id| cli.api.create("Public", id));
    cli.run(&["crawl"]).await;
    assert!(!cli.run(&["status"]).await.stdout.contains("undecided"));
    cli.api.hide(&["a"]);
    ["b", "c"].iter().for_each(|id| assert!(cli.api.dissolve(id)));
    // The API throttles the requests, so all candidates are left to the next crawl.
    cli.api.script(At::Info, Fault::ErrorCode(60011));
    let counts = |crawl: &serde_json::Value| {
        ["asked", "confirmed", "spared", "unlearned", "unasked"].map(|key| crawl[key].as_i64().unwrap())
    };
    let dry_run = cli.run(&["crawl", "--dry-run", "--json"]).await.result();
    assert_eq!(counts(&dry_run[0]), [0, 0, 0, 0, 3], "{dry_run}");
    let crawl = cli.run(&["crawl", "--json"]).await.result();
    assert_eq!(counts(&crawl[0]), [0, 0, 0, 0, 3], "{crawl}");
    assert_eq!((&crawl[0]["missing"], &crawl[0]["withheld_confirmed"]), (&3.into(), &0.into()), "{crawl}");
    let status = cli.run(&["status"]).await.stdout;
    let summary = "3 groups not listed: 3 not asked about yet, 0 without a usable answer";
    assert!(status.contains("undecided") && status.contains(summary), "{status}");

    cli.api.clear_faults();
    cli.api.script(At::Info, Fault::GroupCode("c".to_owned(), 10002));
    let dry_run = cli.run(&["crawl", "--dry-run", "--json"]).await.result();
    assert_eq!(counts(&dry_run[0]), [3, 1, 1, 1, 0], "{dry_run}");
    let crawl = cli.run(&["crawl", "--json"]).await.result();
    assert_eq!(counts(&crawl[0]), [3, 1, 1, 1, 0], "{crawl}");
    let status = cli.run(&["status"]).await.stdout;
    assert!(status.contains("0 not asked about yet, 1 without a usable answer"), "{status}");
    cli.api.clear_faults();
    cli.run(&["crawl"]).await;
    assert!(!cli.run(&["status"]).await.stdout.contains("undecided"));
    let recorded = "SELECT asked, confirmed, spared, unlearned, unasked FROM crawls WHERE crawl_id IN (2, 3) ORDER BY crawl_id";
    assert_eq!(cli.query(recorded).await, "0 0 0 0 3\n3 1 1 1 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_skew_is_reported_and_fails_the_crawl_if_it_is_large() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 3);
    let status_after_crawl = async |minutes: i64, code: i32| {
        cli.api.set_date_offset(TimeDelta::minutes(minutes));
        let crawled = cli.run(&["crawl"]).await;
        assert_eq!(crawled.code, Some(code), "{crawled:?}");
        cli.run(&["status"]).await.stdout
    };
    for near in [0, 3, -3] {
        let status = status_after_crawl(near, 0).await;
        assert!(!status.contains("clock"), "{status}");
    }
    for (minutes, side) in [(20, "behind the API's: correct it"), (-20, "ahead of the API's: correct it")] {
        let status = status_after_crawl(minutes, 0).await;
        assert!(status.contains("  clock ") && status.contains(side), "{status}");
    }
    let status = status_after_crawl(90, 1).await;
    assert!(status.contains("behind the API's: correct it") && status.contains("failed"), "{status}");
    let last = "SELECT status, reason_code FROM crawls ORDER BY crawl_id DESC LIMIT 1";
    assert_eq!(cli.query(last).await, "failed clock");
}

#[tokio::test(flavor = "multi_thread")]
async fn approve_of_an_unknown_or_settled_crawl_changes_nothing_and_reports_it() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 400);
    cli.run(&["crawl"]).await;
    for (crawl, sentence) in [("7", "there is no crawl 7"), ("1", "withheld no deletions")] {
        let ended = cli.run(&["approve", "--crawl", crawl]).await;
        assert_eq!(ended.code, Some(1), "{ended:?}");
        assert!(ended.stderr.contains(sentence), "{ended:?}");
    }
    cli.api.dissolve_some(300);
    cli.run(&["crawl"]).await;
    cli.run(&["approve", "--crawl", "2"]).await;
    let ended = cli.run(&["approve", "--crawl", "2"]).await;
    assert!(ended.code == Some(1) && ended.stderr.contains("nothing to approve"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_deletions_can_be_undone_and_later_crawls_keep_the_groups() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 40);
    cli.run(&["crawl"]).await;
    cli.api.dissolve_some(30);
    assert_eq!(cli.run(&["crawl"]).await.code, Some(0));
    let listed = cli.run(&["undelete", "--crawl", "2", "--dry-run"]).await;
    assert_eq!((listed.code, listed.stdout.lines().count()), (Some(0), 30), "{listed:?}");
    let state = "SELECT count(*), coalesce(sum(held), 0), count(missing_since) FROM live_groups";
    assert_eq!(cli.query(state).await, "10 0 0");
    let undone = cli.run(&["undelete", "--crawl", "2", "--json"]).await;
    assert_eq!(undone.code, Some(0), "{undone:?}");
    let result = undone.result();
    assert_eq!((result["crawl_id"].as_i64(), result["group_ids"].as_array().unwrap().len()), (Some(2), 30));
    assert_eq!(cli.run(&["crawl"]).await.code, Some(0));
    assert_eq!(cli.query(state).await, "40 30 30");
    let crawl = "SELECT deletions, vanished, withheld, undeleted FROM crawls WHERE crawl_id = 2";
    assert_eq!(cli.query(crawl).await, "withheld 30 30 30");
    assert_eq!(cli.run(&["approve", "--crawl", "2"]).await.code, Some(0));
    assert_eq!(cli.query(state).await, "10 0 0");
}

#[tokio::test(flavor = "multi_thread")]
async fn undelete_of_an_unknown_or_undone_crawl_changes_nothing_and_reports_it() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 40);
    let none = cli.run(&["undelete", "--crawl", "1"]).await;
    assert!(none.code == Some(75) && none.stderr.contains("there is no database"), "{none:?}");
    cli.run(&["crawl"]).await;
    cli.api.dissolve_some(1);
    cli.run(&["crawl"]).await;
    let refused = async |crawl: &str, sentence: &str| {
        let all = "SELECT * FROM group_row UNION ALL SELECT event_id, kind, 1, 1, 1, 1, 1, 1, 1, 1, 1 FROM group_event";
        let before = cli.query(all).await;
        let ended = cli.run(&["undelete", "--crawl", crawl]).await;
        assert!(ended.code == Some(1) && ended.stderr.contains(sentence), "{ended:?}");
        assert_eq!(cli.query(all).await, before);
    };
    refused("7", "there is no crawl 7").await;
    refused("1", "crawl 1 of prod marked no group deleted").await;
    cli.run(&["undelete", "--crawl", "2"]).await;
    refused("2", "the deletions of crawl 2 are already undone (1 group)").await;
    let held = cli.api.hold(At::Request(cli.api.requests().len() as u64 + 2));
    let mut running = cli.command(&["crawl"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    held.reached().await;
    refused("3", "crawl 3 of prod is still running").await;
    running.kill().unwrap();
    tokio::task::spawn_blocking(move || running.wait().unwrap()).await.unwrap();
    held.release();
    refused("3", "crawl 3 of prod was interrupted").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn forget_removes_an_app_that_is_no_longer_configured() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 30);
    cli.run(&["crawl"]).await;
    let apps = "SELECT app FROM app_status";
    let refused = async |app: &str, arguments: &[&str], code: i32, sentence: &str| {
        let ended = cli.run(&[&["forget", "--app", app], arguments].concat()).await;
        assert!(ended.code == Some(code) && ended.stderr.contains(sentence), "{ended:?}");
        assert_eq!(cli.query("SELECT count(*) FROM groups").await, "30");
    };
    let help = cli.run(&["forget", "--help"]).await.stdout;
    assert!(help.contains("The app's name in the database, or its SDKAppID"), "{help}");
    refused("prod", &["--yes"], 1, "\"prod\" is configured").await;
    refused("nobody", &["--yes"], 1, "the database has no app \"nobody\"").await;
    let config = std::fs::read_to_string(cli.path("config.toml")).unwrap();
    let config = config.replace("apps.prod", "apps.prod2").replace("1400000000", "1400000001");
    std::fs::write(cli.path("config.toml"), config).unwrap();
    refused("prod", &[], 2, "--yes").await;
    let shown = cli.run(&["forget", "--app", "prod", "--dry-run"]).await;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    let expected = "prod (SDKAppID 1400000000): 30 groups, 0 events, 1 crawl, 1 day of counts\n";
    assert_eq!((shown.stdout.as_str(), cli.query(apps).await.as_str()), (expected, "prod"));
    let removed = cli.run(&["forget", "--app", "prod", "--yes", "--json"]).await;
    assert_eq!(removed.code, Some(0), "{removed:?}");
    let result = removed.result();
    assert_eq!((result["groups"].as_i64(), result["dry_run"].as_bool()), (Some(30), Some(false)));
    assert_eq!(cli.query(apps).await, "");
    assert_eq!(cli.query("SELECT count(*) FROM group_row").await, "0");
    let again = cli.run(&["forget", "--app", "prod", "--yes"]).await;
    assert_eq!(again.code, Some(1), "{again:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn candidates_are_deleted_only_if_get_group_info_says_that_they_are_gone() {
    let cli = CliHarness::new().await;
    ["a", "b", "c"].iter().for_each(|id| cli.api.create("Public", id));
    cli.run(&["crawl"]).await;
    cli.api.hide(&["a"]);
    cli.api.dissolve("b");
    let asked = cli.run(&["crawl"]).await;
    assert_eq!(asked.code, Some(0), "{asked:?}");
    assert!(asked.stdout.contains("1 vanished, 1 not listed but existing"), "{asked:?}");
    cli.api.script(At::Info, Fault::ErrorCode(10007));
    for command in [&["crawl", "--dry-run"][..], &["crawl"]] {
        let refused = cli.run(command).await;
        assert_eq!(refused.code, Some(3), "{refused:?}");
        assert!(refused.stdout.contains("the API refuses get_group_info"), "{refused:?}");
    }
    assert_eq!(
        cli.query("SELECT reason_code, error_code, withheld, spared FROM crawls WHERE crawl_id = 3").await,
        "confirm_refused 10007 1 0"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn old_rows_are_removed_if_configured() {
    let cli = CliHarness::new().await;
    cli.configure("[retention]\ndeleted_groups = 365\n");
    ["a", "b", "c"].iter().for_each(|id| cli.api.create("Public", id));
    cli.run(&["crawl"]).await;
    ["a", "b"].iter().for_each(|id| assert!(cli.api.dissolve(id)));
    cli.run(&["crawl"]).await;
    let long_ago = "UPDATE group_row SET deleted_at = 1 WHERE group_id = 'a'; UPDATE crawl SET finished_at = finished_at - 172800000";
    TestDatabase::execute(&DatabaseLocation::Sqlite(cli.path("groups.db")), long_ago).await;
    assert_eq!(cli.run(&["crawl"]).await.code, Some(0));
    assert_eq!(cli.query("SELECT group_id FROM groups ORDER BY 1").await, "b\nc");
    assert_eq!(cli.query("SELECT purged_groups FROM crawls WHERE crawl_id = 3").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_dry_run_prints_the_changes_of_a_crawl_and_has_its_exit_code() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 400);
    let files = || {
        let entries = std::fs::read_dir(cli.folder.path()).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect::<std::collections::BTreeSet<_>>()
    };
    let before = files();
    for has_file in [false, true] {
        // A file without tables is as empty as none.
        if has_file {
            std::fs::write(cli.path("groups.db"), "").unwrap();
        }
        let first = cli.run(&["crawl", "--dry-run"]).await;
        assert_eq!(first.code, Some(0), "{first:?}");
        let expected = "prod: dry run, the crawl would be complete: 400 groups listed, 400 listed for the first time (Public); ";
        assert!(first.stdout.starts_with(expected) && first.stdout.lines().count() == 1, "{first:?}");
        if !has_file {
            assert_eq!(files(), before);
        }
    }
    std::fs::remove_file(cli.path("groups.db")).unwrap();
    cli.run(&["migrate"]).await;
    let first = cli.run(&["crawl", "--dry-run"]).await;
    assert_eq!(first.code, Some(0), "{first:?}");
    assert_eq!(cli.query("SELECT count(*) FROM app").await, "0");
    cli.run(&["crawl"]).await;
    let gone = cli.api.dissolve_some(1).remove(0);
    let dry = cli.run(&["crawl", "--dry-run"]).await;
    assert!(
        dry.code == Some(0) && dry.stdout.starts_with(&format!("prod: vanished {gone} (Public)\n")),
        "{dry:?}"
    );
    cli.api.dissolve_some(300);
    let json = cli.run(&["crawl", "--dry-run", "--json"]).await;
    assert_eq!(json.code, Some(3), "{json:?}");
    let result = json.result();
    assert_eq!(
        (&result[0]["deletions"], &result[0]["changes"][0]["change"]),
        (&"withheld".into(), &"withheld".into())
    );
    assert_eq!(result[0]["changes"][0]["group_ids"].as_array().unwrap().len(), 301);
    cli.api.script(At::Type("Public".to_owned()), Fault::TotalCount(1000));
    assert_eq!(cli.run(&["crawl", "--dry-run"]).await.code, Some(4));
    let left = "SELECT (SELECT count(*) FROM live_groups), (SELECT count(*) FROM crawls)";
    assert_eq!(cli.query(left).await, "400 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn withheld_groups_that_are_listed_again_are_released() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 400);
    cli.run(&["crawl"]).await;
    cli.api.script(At::Type("Public".to_owned()), Fault::EmptyList);
    assert_eq!(cli.run(&["crawl"]).await.code, Some(3));
    cli.api.clear_faults();
    assert_eq!(cli.run(&["crawl"]).await.code, Some(0));
    assert_eq!(cli.query("SELECT count(*), sum(held) FROM live_groups").await, "400 0");
    assert_eq!(cli.query("SELECT count(*) FROM group_events").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn in_review_mode_a_single_deletion_is_withheld() {
    let cli = CliHarness::new().await;
    cli.configure("[apps.prod.deletion]\nmode = \"review\"\n");
    cli.api.create_many("Public", 3);
    cli.run(&["crawl"]).await;
    cli.api.dissolve_some(1);
    let ended = cli.run(&["crawl"]).await;
    assert_eq!(ended.code, Some(3), "{ended:?}");
    assert_eq!(
        cli.query("SELECT status, deletions, reason_code, withheld FROM crawls WHERE crawl_id = 2").await,
        "complete withheld review 1"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wrong_key_exits_with_78_and_names_the_setting() {
    let cli = CliHarness::new().await;
    cli.write_key(&KEY.replace('0', "1"));
    for command in ["crawl", "check"] {
        let ended = cli.run(&[command]).await;
        assert_eq!(ended.code, Some(78), "{ended:?}");
        assert!(ended.stdout.contains("secret_key_file"), "{ended:?}");
    }
    cli.write_key("AKIDnotanimkey");
    let ended = cli.run(&["check"]).await;
    assert!(ended.stdout.contains("64 hexadecimal digits"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_for_an_app_of_another_data_centre_names_the_others() {
    let cli = CliHarness::new().await;
    cli.api.script(At::Every, Fault::ErrorCode(70020));
    let ended = cli.run(&["check"]).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(ended.stdout.contains("base_url is http://127.0.0.1"), "{ended:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_app_that_fails_does_not_prevent_the_crawls_of_others() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 3);
    cli.configure(&format!(
        "[apps.other]\nsdk_app_id = 1400000001\nsecret_key_file = \"app.key\"\nbase_url = \"{}\"\nrequest_interval = \"0s\"\n",
        cli.api.base_url()
    ));
    let ended = cli.run(&["crawl"]).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(ended.stdout.contains("prod: crawl") && ended.stdout.contains("3 groups listed"), "{ended:?}");
    assert_eq!(
        cli.query("SELECT app, status, reason_code FROM crawls ORDER BY app").await,
        "other failed refused\nprod complete "
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn all_mistakes_in_the_configuration_are_reported_at_once() {
    let cli = CliHarness::new().await;
    cli.configure("page_limit = 0\nidentifier = \"\"\nregoin = \"china\"\n");
    let ended = cli.run(&["crawl"]).await;
    assert_eq!(ended.code, Some(78), "{ended:?}");
    for key in ["page_limit", "identifier", "regoin"] {
        assert!(ended.stderr.contains(&format!("apps.prod.{key}")), "{key}: {ended:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_configuration_the_error_lists_the_searched_paths() {
    let cli = CliHarness::new().await;
    let mut command = cli.command(&["crawl"]);
    command.env_clear().env("HOME", cli.folder.path()).env("XDG_CONFIG_HOME", cli.path("nowhere"));
    let ended =
        CommandOutput::from(tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap());
    assert_eq!(ended.code, Some(78), "{ended:?}");
    assert!(
        ended.stderr.contains("/etc/tim-group-sync/config.toml") && ended.stderr.contains("demo"),
        "{ended:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_usage_exits_with_2_and_help_with_0() {
    let cli = CliHarness::new().await;
    assert_eq!(cli.run(&["crawl", "--fast"]).await.code, Some(2));
    assert_eq!(cli.run(&["crawl", "--app", "nobody"]).await.code, Some(2));
    assert_eq!(cli.run(&["--help"]).await.code, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn with_no_wait_an_app_that_is_being_crawled_exits_with_75() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 3);
    let held = cli.api.hold(At::Request(2));
    let mut first = cli.command(&["crawl"]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    held.reached().await;
    let ended = cli.run(&["crawl", "--no-wait"]).await;
    assert_eq!(ended.code, Some(75), "{ended:?}");
    assert!(ended.stdout.contains("another process"), "{ended:?}");
    held.release();
    assert!(tokio::task::spawn_blocking(move || first.wait().unwrap()).await.unwrap().success());
}

#[tokio::test(flavor = "multi_thread")]
async fn check_creates_no_database_and_prints_the_next_runs() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 3);
    let ended = cli.run(&["check"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("3 groups") && ended.stdout.contains("next runs"), "{ended:?}");
    assert!(!cli.path("groups.db").exists());
    let json = cli.run(&["check", "--json"]).await.result();
    let next_runs = json[2]["next_runs"].as_array().unwrap();
    assert_eq!(next_runs.len(), 5);
    for time in next_runs {
        DateTime::parse_from_rfc3339(time.as_str().unwrap()).unwrap();
    }
    let shown = cli.run(&["check", "--show-config"]).await;
    assert!(
        shown.stdout.contains("apps.prod.page_limit = 10000") && !shown.stdout.contains(KEY),
        "{shown:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn status_distinguishes_a_fresh_table_a_stale_one_and_a_missing_database() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 3);
    let none = cli.run(&["status"]).await;
    assert!(none.code == Some(75) && none.stderr.contains("there is no database"), "{none:?}");
    cli.run(&["crawl"]).await;
    let fresh = cli.run(&["status", "--max-age", "1h"]).await;
    assert_eq!(fresh.code, Some(0), "{fresh:?}");
    assert!(fresh.stdout.contains("Public"), "{fresh:?}");
    let stale = cli.run(&["status", "--max-age", "0s"]).await;
    assert_eq!(stale.code, Some(1), "{stale:?}");
    let json = cli.run(&["status", "--json"]).await.result();
    assert_eq!(json[0]["types"][0]["live"], 3);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: tests/run"]
async fn status_shows_the_holder_of_the_lease_and_that_replicas_crawl_different_types() {
    let cli = CliHarness::new().await;
    let server = PostgresServer::shared().await;
    let database = server.empty_database().await;
    let run = async |arguments: &[&str]| {
        let mut command = cli.command(arguments);
        command.env("TIM_GROUP_SYNC_DATABASE_URL", server.url(&database.name));
        CommandOutput::from(tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap())
    };
    cli.api.create_many("Public", 3);
    assert_eq!(run(&["crawl"]).await.code, Some(0));
    let other = "UPDATE tim_private.crawl SET host = 'host-a', group_types = 'Private,Public'";
    server.execute(&database.name, other).await.unwrap();
    cli.configure("group_types = [\"Public\"]\n");
    assert_eq!(run(&["crawl"]).await.code, Some(0));
    let apart = "UPDATE tim_private.crawl SET host = 'host-b' WHERE host <> 'host-a';
                 UPDATE tim_private.lease SET holder = 'x', host = 'host-c', taken_at = 1772323200000,
                     expires_at = extract(epoch FROM clock_timestamp()) * 1000 + 20000";
    server.execute(&database.name, apart).await.unwrap();
    let status = run(&["status"]).await;
    assert_eq!(status.code, Some(0), "{status:?}");
    let sentence = "hosts are configured with different group types: host-a Private, Public; host-b Public. Use the same group_types on all hosts";
    assert!(status.stdout.contains(sentence), "{status:?}");
    assert!(status.stdout.contains("held by host-c since 2026-03-01T00:00:00Z"), "{status:?}");
    let json = run(&["status", "--json"]).await.result();
    assert_eq!(json[0]["crawled_now"], true);
    assert_eq!(
        json[0]["lease_holder"],
        serde_json::json!({ "host": "host-c", "since": "2026-03-01T00:00:00Z" })
    );
    assert_eq!(
        json[0]["differing_group_types"],
        serde_json::json!([
            { "host": "host-a", "group_types": ["Private", "Public"] },
            { "host": "host-b", "group_types": ["Public"] }
        ])
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_printed_usersig_verifies_and_comes_with_a_warning() {
    let cli = CliHarness::new().await;
    let ended = cli.run(&["usersig", "--app", "prod", "--expires", "5m"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stderr.contains("full admin rights"), "{ended:?}");
    let claims = verify(ended.stdout.trim(), &SecretKey::new(KEY), 0).unwrap();
    assert_eq!((claims.identifier.as_str(), claims.lifetime), ("administrator", Duration::from_secs(300)));
    assert_eq!(cli.run(&["usersig", "--app", "prod", "--expires", "10y"]).await.code, Some(0));
    let refused = cli.run(&["usersig", "--app", "prod", "--expires", "11y"]).await;
    assert!(refused.code == Some(2) && refused.stderr.contains("between 1s and 10 years"), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn migrate_creates_the_tables_and_print_only_shows_the_sql() {
    let cli = CliHarness::new().await;
    let printed = cli.run(&["migrate", "--print"]).await;
    assert!(printed.stdout.contains("CREATE VIEW groups"), "{printed:?}");
    assert!(!cli.path("groups.db").exists());
    assert_eq!(cli.run(&["migrate"]).await.code, Some(0));
    assert_eq!(cli.query("SELECT count(*) FROM groups").await, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_crawls_and_its_printed_queries_return_rows() {
    let cli = CliHarness::new().await;
    let ended = cli.run(&["demo", "--groups", "1000"]).await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("10 appeared, 10 vanished"), "{ended:?}");
    assert!(ended.stdout.contains("nothing changed"), "{ended:?}");
    let database = cli.path("tim-group-sync-demo.db");
    let counts = "SELECT (SELECT count(*) FROM groups), (SELECT count(*) FROM live_groups), (SELECT count(*) FROM crawls)";
    assert_eq!(rows(&database, counts).await, [["1010", "999", "4"]]);
    // The database of an earlier demo is replaced, any other file is not. The demo also succeeds if
    // its output is closed early, as `head` does.
    let mut demo = cli.command(&["demo", "--groups", "100"]);
    let mut process = demo.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(process.stdout.take());
    let output = tokio::task::spawn_blocking(move || process.wait_with_output().unwrap()).await.unwrap();
    assert!(output.status.success(), "{output:?}");
    std::fs::write(cli.path("other.db"), "precious").unwrap();
    let refused = cli.run(&["demo", "--database", "sqlite:other.db"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert_eq!(std::fs::read_to_string(cli.path("other.db")).unwrap(), "precious");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_serves_the_dashboard_until_it_is_interrupted() {
    let cli = CliHarness::new().await;
    let arguments = ["demo", "--groups", "100", "--serve", "--listen", "127.0.0.1:0"];
    let mut process = cli.command(&arguments).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(process.stdout.take().unwrap()).lines().map(Result::unwrap);
    let line = lines.find(|line| line.starts_with("The dashboard is at ")).unwrap();
    let address = line.split_once("http://").and_then(|(_, rest)| rest.split_once('/')).unwrap().0;
    let (_, _, answer) = get(address, "/api/apps").await;
    let app = &serde_json::from_str::<serde_json::Value>(&answer).unwrap()["apps"][0];
    assert_eq!((&app["app"], &app["live_count"]), (&"demo".into(), &99.into()), "{app}");
    kill_process(Pid::from_child(&process), Signal::INT).unwrap();
    assert_eq!(tokio::task::spawn_blocking(move || process.wait().unwrap().code()).await.unwrap(), Some(0));

    let refused = cli.run(&["demo", "--serve", "--listen", "0.0.0.0:0"]).await;
    assert!(refused.code == Some(2) && refused.stderr.contains("127.0.0.1"), "{refused:?}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().to_string();
    let refused = cli.run(&["demo", "--serve", "--listen", &port]).await;
    assert!(
        refused.code == Some(1) && refused.stderr.contains("another program listens there"),
        "{refused:?}"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_demo_refuses_the_database_of_an_app_that_is_called_demo() {
    let cli = CliHarness::new().await;
    let config = std::fs::read_to_string(cli.path("config.toml")).unwrap();
    std::fs::write(cli.path("config.toml"), config.replace("apps.prod", "apps.demo")).unwrap();
    cli.run(&["crawl"]).await;
    let refused = cli.run(&["demo", "--database", "sqlite:groups.db"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert_eq!(cli.query("SELECT count(*) FROM crawls").await, "1");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: tests/run"]
async fn on_a_server_the_demo_uses_only_its_own_schema_and_its_printed_queries_run() {
    let cli = CliHarness::new().await;
    let server = PostgresServer::shared().await;
    let database = server.database().await;
    let mut url = reqwest::Url::parse(&server.url(&database.name)).unwrap();
    // A server that trusts local connections ignores the password.
    let password = url.password().unwrap_or("geheim").to_owned();
    url.set_password(None).unwrap();
    let demo = async |groups: &str| {
        let mut command = cli.command(&["demo", "--groups", groups, "--database", url.as_str()]);
        command.env("PGPASSWORD", &password);
        let ended = tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap();
        let ended = CommandOutput::from(ended);
        assert!(!format!("{}{}", ended.stdout, ended.stderr).contains(&password), "{ended:?}");
        ended
    };
    let holds = async |sql: &str| {
        let assertion = format!("DO $$ BEGIN ASSERT ({sql}), '{}'; END $$", sql.replace('\'', "''"));
        server.execute(&database.name, &assertion).await.unwrap();
    };
    let ended = demo("1000").await;
    assert_eq!(ended.code, Some(0), "{ended:?}");
    assert!(ended.stdout.contains("10 appeared, 10 vanished"), "{ended:?}");
    holds("SELECT count(*) = 1010 FROM tim_demo.groups").await;
    holds("SELECT count(*) = 4 FROM tim_demo.crawls").await;
    holds("SELECT count(*) = 0 FROM tim.app_status").await;
    let printed = ended.stdout.split("\n\n").filter(|part| part.ends_with(';'));
    let printed: Vec<&str> =
        printed.filter(|part| part.starts_with("SET") || part.starts_with("SELECT")).collect();
    assert_eq!(printed.len(), 4, "{ended:?}");
    server.execute(&database.name, &printed.join("\n")).await.unwrap();
    let removal = ended.stdout.lines().find_map(|line| line.strip_prefix("To remove it: ")).unwrap();

    // The schema of an earlier demo is replaced, a schema with other data is not.
    assert_eq!(demo("100").await.code, Some(0));
    holds("SELECT count(*) = 101 FROM tim_demo.groups").await;
    // A second demo does not touch the schema of a running one.
    let arguments =
        ["demo", "--groups", "100", "--serve", "--listen", "127.0.0.1:0", "--database", url.as_str()];
    let mut command = cli.command(&arguments);
    let mut running = command.env("PGPASSWORD", &password).stdout(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(running.stdout.take().unwrap()).lines().map(Result::unwrap);
    assert!(lines.any(|line| line.starts_with("The dashboard is at ")));
    let refused = demo("200").await;
    assert!(
        refused.code == Some(75) && refused.stderr.contains("another demo is using the schema"),
        "{refused:?}"
    );
    holds("SELECT count(*) < 150 FROM tim_demo.groups").await;
    running.kill().unwrap();
    running.wait().unwrap();
    assert_eq!(demo("100").await.code, Some(0));
    for (other_data, undo) in [
        ("CREATE TABLE tim_demo.mine (x int)", "DROP TABLE tim_demo.mine"),
        (
            "INSERT INTO tim_demo_private.app VALUES (9, 9, 'prod')",
            "DELETE FROM tim_demo_private.app WHERE app_id = 9",
        ),
        ("CREATE VIEW public.mine AS SELECT * FROM tim_demo.groups", "DROP VIEW public.mine"),
        ("UPDATE tim_demo_private.crawl SET host = 'real'", "SELECT 1"),
    ] {
        server.execute(&database.name, other_data).await.unwrap();
        let refused = demo("100").await;
        assert!(
            refused.code == Some(1) && refused.stderr.contains("contain data that is not of an earlier demo"),
            "{refused:?}"
        );
        holds("SELECT count(*) = 101 FROM tim_demo.groups").await;
        server.execute(&database.name, undo).await.unwrap();
    }
    server.execute(&database.name, removal).await.unwrap();
    holds("SELECT count(*) = 0 FROM pg_namespace WHERE nspname LIKE 'tim_demo%'").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_for_a_wrong_demo_database_does_not_contain_the_url() {
    let cli = CliHarness::new().await;
    for url in [
        "postgre://u:geheim@localhost/d",
        "postgres://u:geheim@localhost:port/d",
        // A password in an argument is visible to every process on the machine.
        "postgres://u:geheim@localhost/d",
    ] {
        let refused = cli.run(&["demo", "--database", url]).await;
        assert_eq!(refused.code, Some(2), "{refused:?}");
        assert!(!format!("{refused:?}").contains("geheim"), "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: tests/run"]
async fn the_commands_work_on_a_server_with_an_empty_database() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 30);
    let server = PostgresServer::shared().await;
    let database = server.empty_database().await;
    let run = async |arguments: &[&str]| {
        let mut command = cli.command(arguments);
        command.env("TIM_GROUP_SYNC_DATABASE_URL", server.url(&database.name));
        CommandOutput::from(tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap())
    };
    let checked = run(&["check"]).await;
    assert_eq!(checked.code, Some(0), "{checked:?}");
    assert!(checked.stdout.contains("30 groups"), "{checked:?}");
    let dry = run(&["crawl", "--dry-run"]).await;
    assert!(dry.code == Some(0) && dry.stdout.contains("30 listed for the first time (Public)"), "{dry:?}");
    let schemas =
        "DO $$ BEGIN ASSERT (SELECT count(*) = 0 FROM pg_namespace WHERE nspname LIKE 'tim%'); END $$";
    server.execute(&database.name, schemas).await.unwrap();
    let crawled = run(&["crawl"]).await;
    assert_eq!(crawled.code, Some(0), "{crawled:?}");
    let status = run(&["status"]).await;
    assert!(status.code == Some(0) && status.stdout.contains("30"), "{status:?}");
    let checked = run(&["check"]).await;
    assert!(checked.code == Some(0) && checked.stdout.contains("tables up to date"), "{checked:?}");
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "needs PostgreSQL: tests/run"]
async fn before_the_tables_exist_check_names_the_missing_grant() {
    let cli = CliHarness::new().await;
    let server = PostgresServer::shared().await;
    let database = server.empty_database().await;
    let role = format!("checking_{}", std::process::id());
    server.administer(&format!("CREATE ROLE {role} LOGIN")).await;
    let check = async || {
        let mut command = cli.command(&["check"]);
        command.env("TIM_GROUP_SYNC_DATABASE_URL", server.url_as(&role, &database.name));
        CommandOutput::from(tokio::task::spawn_blocking(move || command.output().unwrap()).await.unwrap())
    };
    let grant = format!("GRANT CREATE ON DATABASE \"{}\" TO \"{role}\"", database.name);
    let refused = check().await;
    assert!(refused.code == Some(78) && refused.stdout.contains(&grant), "{refused:?}");
    server.administer(&grant).await;
    let checked = check().await;
    assert!(checked.code == Some(0) && checked.stdout.contains("at the next start"), "{checked:?}");
    let schemas =
        "DO $$ BEGIN ASSERT NOT EXISTS (SELECT 1 FROM pg_namespace WHERE nspname LIKE 'tim%'); END $$";
    server.execute(&database.name, schemas).await.unwrap();
    server.execute(&database.name, &format!("DROP OWNED BY {role}; DROP ROLE {role}")).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_crawls_at_its_first_start_and_on_a_signal_and_stops_on_a_signal() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 3);
    let daemon = cli.service().wait_for_log("crawl complete").await;
    daemon.signal(Signal::USR1);
    let daemon = daemon.wait_for_log("crawl complete").await;
    assert_eq!(daemon.stop().await, Some(0));
    assert_eq!(cli.query("SELECT trigger, status FROM crawls").await, "catch_up complete\nsignal complete");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crawl_that_a_stop_cancels_is_caught_up_at_the_next_start() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 3);
    let held = cli.api.hold(At::Request(2));
    let daemon = cli.service();
    held.reached().await;
    assert_eq!(daemon.stop().await, Some(0));
    held.release();
    assert_eq!(cli.query("SELECT status, reason_code FROM crawls").await, "cancelled cancelled");
    let daemon = cli.service().wait_for_log("crawl complete").await;
    assert_eq!(daemon.stop().await, Some(0));
    assert_eq!(
        cli.query("SELECT trigger, status FROM crawls").await,
        "catch_up cancelled\ncatch_up complete"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn the_crawl_of_a_killed_daemon_is_closed_by_the_next_crawl() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 3);
    let held = cli.api.hold(At::Request(3));
    let daemon = cli.service();
    held.reached().await;
    daemon.signal(Signal::KILL);
    assert_eq!(daemon.wait_for_exit().await, None);
    held.release();
    assert!(cli.run(&["status"]).await.stdout.contains("its process ended"));
    assert_eq!(cli.run(&["crawl"]).await.code, Some(0));
    assert_eq!(cli.query("SELECT status, reason_code FROM crawls").await, "failed process_ended\ncomplete ");
    assert_eq!(cli.query("SELECT count(*) FROM live_groups").await, "3");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_daemon_crawls_the_other_apps_if_the_credentials_of_one_are_refused() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 3);
    cli.configure(&format!(
        "[apps.other]\nsdk_app_id = 1400000001\nsecret_key_file = \"app.key\"\nbase_url = \"{}\"\nrequest_interval = \"0s\"\n",
        cli.api.base_url()
    ));
    let daemon = cli.service().wait_for_log("crawl complete").await;
    assert_eq!(daemon.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn simulators_that_run_at_the_same_time_print_configurations_with_separate_databases() {
    let cli = CliHarness::new().await;
    std::fs::write(cli.path("groups.db"), "precious").unwrap();
    std::fs::write(cli.path("simulated.key"), KEY).unwrap();
    let mut simulators = Vec::new();
    for (id, groups) in [("1400000000", "100"), ("1400000001", "200")] {
        let arguments = ["--listen", "127.0.0.1:0", "--groups", groups, "--rate", "0s", "--sdk-app-id", id];
        let mut simulator =
            cli.command(&[&["simulate"], &arguments[..]].concat()).stdout(Stdio::piped()).spawn().unwrap();
        let mut output = BufReader::new(simulator.stdout.take().unwrap());
        let mut configuration = String::new();
        while !configuration.contains("request_interval") {
            assert_ne!(output.read_line(&mut configuration).unwrap(), 0, "{configuration}");
        }
        let (_, toml) = configuration.split_once("configuration:").unwrap();
        std::fs::write(cli.path(id), toml).unwrap();
        simulators.push(simulator);
    }
    for (id, groups) in [("1400000000", "100"), ("1400000001", "200")] {
        let ended = cli.run(&["--config", id, "crawl"]).await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        assert!(ended.stdout.contains(&format!("{groups} groups listed")), "{ended:?}");
    }
    for mut simulator in simulators {
        simulator.kill().unwrap();
        simulator.wait().unwrap();
    }
    assert_eq!(std::fs::read_to_string(cli.path("groups.db")).unwrap(), "precious");
    for database in ["simulated.db", "simulated-1400000001.db"] {
        assert_eq!(rows(&cli.path(database), "SELECT count(*) FROM app_status").await, [["1"]]);
    }
}
