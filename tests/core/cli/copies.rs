//! `backup`, `restore` and `copy`.

use std::fs;
use std::os::unix::fs::{PermissionsExt as _, chown};

use harness::cli::{CliHarness, CommandOutput, rows};
use harness::program::ONCE_A_YEAR;

const LIVE: &str = "SELECT count(*) FROM live_groups";

#[tokio::test(flavor = "multi_thread")]
async fn a_backup_made_beside_the_service_is_restored_after_it_has_stopped() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 10);
    assert_eq!(cli.run(&["crawl"]).await.code, Some(0));
    let config = fs::read_to_string(cli.path("config.toml")).unwrap();
    let schedule = ONCE_A_YEAR.split("[metrics]").next().unwrap();
    fs::write(cli.path("config.toml"), config + schedule).unwrap();
    let service = cli.service().wait_for_log("started").await;

    let made = cli.run(&["backup", "copy.db"]).await;
    assert_eq!(made.code, Some(0), "{made:?}");
    assert!(made.stdout.contains("prod with 10 live groups; the last crawl, 1, ended at "), "{made:?}");
    assert_eq!(rows(&cli.path("copy.db"), LIVE).await, [["10"]]);
    let again = cli.run(&["backup", "copy.db"]).await;
    assert_eq!(again.code, Some(1), "{again:?}");
    assert!(
        again.stderr.contains("copy.db exists already") && again.stderr.contains("--replace"),
        "{again:?}"
    );
    assert_eq!(
        cli.run(&["backup", "copy.db", "--replace", "--json"]).await.result()["contents"]["apps"][0]["name"],
        "prod"
    );

    let refused = cli.run(&["restore", "copy.db"]).await;
    assert_eq!(refused.code, Some(75), "{refused:?}");
    assert!(refused.stderr.contains("stop the service"), "{refused:?}");
    assert_eq!(service.stop().await, Some(0));

    cli.api.create_many("Public", 5);
    assert_eq!(cli.run(&["crawl"]).await.code, Some(0));
    assert_eq!(cli.query(LIVE).await, "15");
    let restored = cli.run(&["restore", "copy.db"]).await;
    assert_eq!(restored.code, Some(0), "{restored:?}");
    assert_eq!(cli.query(LIVE).await, "10");
    let kept = restored.stdout.split("kept as ").nth(1).unwrap().trim();
    assert_eq!(rows(kept.as_ref(), LIVE).await, [["15"]]);
    // The next crawl restores the lost groups, and its events have new ids.
    assert_eq!(cli.run(&["crawl"]).await.code, Some(0));
    assert_eq!(cli.query(LIVE).await, "15");
    assert_eq!(cli.query("SELECT count(*), min(event_id) > 5 FROM group_events").await, "5 1");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_error_names_a_backup_that_cannot_be_read_or_written() {
    let cli = CliHarness::new().await;
    let absent = cli.run(&["backup", "copy.db"]).await;
    assert_eq!(absent.code, Some(75), "{absent:?}");
    cli.run(&["crawl"]).await;
    let nowhere = cli.run(&["backup", "nowhere/copy.db"]).await;
    assert_eq!(nowhere.code, Some(1), "{nowhere:?}");
    assert!(nowhere.stderr.contains("cannot write the backup nowhere/copy.db"), "{nowhere:?}");
    // A path through a file can be neither inspected nor written.
    let nowhere = cli.run(&["backup", "config.toml/copy.db"]).await;
    assert_eq!(nowhere.code, Some(1), "{nowhere:?}");
    assert!(nowhere.stderr.contains("cannot write the backup config.toml/copy.db"), "{nowhere:?}");
    let onto_itself = cli.run(&["backup", "--replace", "groups.db"]).await;
    assert_eq!(onto_itself.code, Some(1), "{onto_itself:?}");
    assert!(onto_itself.stderr.contains("groups.db exists already, is not a backup"), "{onto_itself:?}");
    let missing = cli.run(&["restore", "copy.db"]).await;
    assert_eq!(missing.code, Some(1), "{missing:?}");
    assert!(missing.stderr.contains("cannot read copy.db"), "{missing:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn on_postgresql_backup_and_restore_name_pg_dump_and_pg_restore() {
    let cli = CliHarness::new().await;
    let config = fs::read_to_string(cli.path("config.toml")).unwrap();
    let server = "url = \"postgres://nobody@127.0.0.1:1/nothing\"\nschema = \"groups\"";
    fs::write(cli.path("config.toml"), config.replace("url = \"sqlite:groups.db\"", server)).unwrap();
    for command in [["backup", "copy.db"], ["restore", "config.toml"]] {
        let ended = cli.run(&command).await;
        assert_eq!(ended.code, Some(2), "{ended:?}");
        let programs = ["pg_dump --format=custom --schema=groups --schema=groups_private", "pg_restore"];
        assert!(programs.iter().all(|program| ended.stderr.contains(program)), "{ended:?}");
    }
    assert!(!cli.path("copy.db").exists());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_copy_goes_into_a_new_file_that_the_configuration_can_name() {
    let cli = CliHarness::new().await;
    cli.api.create_many("Public", 10);
    cli.run(&["crawl"]).await;
    let copied = cli.run(&["copy", "--to", "sqlite:moved/../copy.db"]).await;
    assert_eq!(copied.code, Some(1), "{copied:?}");
    let copied = cli.run(&["copy", "--to", "sqlite:copy.db", "--json"]).await;
    assert_eq!(copied.code, Some(0), "{copied:?}");
    let tables = copied.result()["tables"].clone();
    assert_eq!(tables[2], serde_json::json!({ "table": "group_row", "rows": 10 }));
    assert_eq!(rows(&cli.path("copy.db"), LIVE).await, [["10"]]);
    let refused = cli.run(&["copy", "--to", "sqlite:copy.db"]).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(refused.stderr.contains("is not empty"), "{refused:?}");
    let config = fs::read_to_string(cli.path("config.toml")).unwrap();
    fs::write(cli.path("config.toml"), config.replace("sqlite:groups.db", "sqlite:copy.db")).unwrap();
    let crawled = cli.run(&["crawl"]).await;
    assert!(crawled.code == Some(0) && crawled.stdout.contains("nothing changed"), "{crawled:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn copy_refuses_a_target_url_with_a_password_and_does_not_print_it() {
    let cli = CliHarness::new().await;
    cli.run(&["crawl"]).await;
    for url in ["postgres://tim:geheim@db.example/tim", "postgres://tim@db.example/tim?password=geheim"] {
        let refused = cli.run(&["copy", "--to", url]).await;
        assert_eq!(refused.code, Some(2), "{refused:?}");
        let printed = format!("{}{}", refused.stdout, refused.stderr);
        assert!(printed.contains("--password-file") && !printed.contains("geheim"), "{printed}");
    }
    let unknown = cli.run(&["copy", "--to", "mysql://tim:geheim@db.example/tim"]).await;
    assert_eq!(unknown.code, Some(2), "{unknown:?}");
    assert!(!unknown.stderr.contains("geheim"), "{unknown:?}");
    let unread =
        cli.run(&["copy", "--to", "postgres://tim@db.example/tim", "--password-file", "absent"]).await;
    assert_eq!(unread.code, Some(78), "{unread:?}");
    assert!(unread.stderr.contains("absent"), "{unread:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn as_root_copy_reads_the_password_before_it_becomes_the_owner_of_the_database() {
    const NOBODY: u32 = 65534;
    let cli = CliHarness::new().await;
    if !rustix::process::geteuid().is_root() {
        println!("NOT TESTED: that root's password file is read, because this user is not root");
        return;
    }
    chown(cli.folder.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    chown(cli.path("app.key"), Some(NOBODY), Some(NOBODY)).unwrap();
    cli.run(&["crawl"]).await;
    // As root's home folder: only root can enter it.
    let home = tempfile::tempdir().unwrap();
    let private = |name: &str, content: &str| {
        let path = home.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    private(".pgpass", "localhost:*:*:*:other\n");
    let password = private("db-password", "geheim\n");
    fs::set_permissions(home.path(), fs::Permissions::from_mode(0o700)).unwrap();
    let mut command = cli.command(&["copy", "--to", "postgres://tim@localhost:1/tim", "--password-file"]);
    let ended = CommandOutput::from(command.arg(&password).env("HOME", home.path()).output().unwrap());
    // Nothing listens there, so only the connection fails.
    assert_eq!(ended.code, Some(75), "{ended:?}");
    assert!(ended.stderr.contains("continuing as user nobody"), "{ended:?}");
    let other = ["pgpass", "Permission denied", "geheim"].iter().find(|text| ended.stderr.contains(*text));
    assert_eq!(other, None, "{ended:?}");
}
