//! Details of groups in a running daemon: between crawls, across a kill, and in `status`.

use std::fs::Permissions;
use std::os::unix::fs::PermissionsExt as _;

use harness::cli::CliHarness;
use harness::program::Service;
use rustix::process::Signal;
use tim_group_sync::simulator::{At, Call, Fault};

fn service(cli: &CliHarness) -> Service {
    let mut command = cli.command(&["run"]);
    command.env("TIM_GROUP_SYNC_LOG", "debug");
    Service::spawn(command)
}

async fn with_groups(groups: usize) -> CliHarness {
    let cli = CliHarness::new().await;
    cli.configure("[details]\nrequests_per_second = 40\n");
    cli.api.create_many("Public", groups);
    cli
}

#[tokio::test(flavor = "multi_thread")]
async fn details_are_refreshed_after_a_crawl_and_status_shows_them() {
    let cli = with_groups(120).await;
    let service = service(&cli).wait_for_log("refreshed details").await;
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(cli.query("SELECT count(*) FROM group_details WHERE name LIKE 'Group %'").await, "120");
    let info_requests = cli.api.requests().into_iter().filter(|request| request.call == Call::Info).count();
    assert_eq!(info_requests, 3);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_warning_about_the_key_file_is_logged_once_per_start_and_reload() {
    let cli = with_groups(10).await;
    std::fs::set_permissions(cli.path("app.key"), Permissions::from_mode(0o640)).unwrap();
    let service = service(&cli).wait_for_log("refreshed details").await;
    let warnings = |service: &Service| service.log().matches("(mode 0640)").count();
    assert_eq!(warnings(&service), 1, "{}", service.log());
    service.signal(Signal::HUP);
    let service = service.wait_for_log("(mode 0640)").await;
    service.signal(Signal::USR1);
    let service = service.wait_for_log("crawl complete").await;
    assert_eq!(warnings(&service), 2, "{}", service.log());
    assert_eq!(service.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_crawl_does_not_wait_for_an_unfinished_details_request() {
    let cli = with_groups(10).await;
    let held = cli.api.hold(At::Info);
    let service = service(&cli).wait_for_log("crawl complete").await;
    held.reached().await;
    service.signal(Signal::USR1);
    let service = service.wait_for_log("crawl complete").await;
    drop(held);
    let service = service.wait_for_log("refreshed details").await;
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(cli.query("SELECT count(*) FROM group_details").await, "10");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_problem_with_get_group_info_is_logged_once_and_crawls_continue() {
    let cli = with_groups(10).await;
    cli.api.script(At::Info, Fault::ErrorCode(10007));
    let service = service(&cli).wait_for_log("cannot refresh the details").await;
    service.signal(Signal::USR1);
    let service = service.wait_for_log("crawl complete").await;
    assert_eq!(service.log().matches("cannot refresh the details").count(), 1, "{}", service.log());
    assert_eq!(service.stop().await, Some(0));
}

#[tokio::test(flavor = "multi_thread")]
async fn after_a_kill_the_next_service_refreshes_the_details() {
    let cli = with_groups(10).await;
    let held = cli.api.hold(At::Info);
    let killed = service(&cli).wait_for_log("crawl complete").await;
    held.reached().await;
    killed.kill();
    drop(held);
    // The claim of the killed process expires after a minute.
    harness::store::TestDatabase::execute_in_new(
        &cli.path("groups.db"),
        "UPDATE detail_state SET held_until = 0",
    )
    .await;
    let service = service(&cli).wait_for_log("refreshed details").await;
    assert_eq!(service.stop().await, Some(0));
    assert_eq!(cli.query("SELECT count(*) FROM group_details").await, "10");
    let status = cli.run(&["status"]).await;
    assert!(status.stdout.contains("details "), "{}", status.stdout);
    let status = cli.run(&["status", "--json"]).await.result();
    assert_eq!(status[0]["details"]["groups"], 10, "{status}");
}
