//! Checks the systemd unit with systemd's tools. tests/systemd/run boots a system with it.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

const UNIT: &str = "tim-group-sync.service";

/// Copies the unit to a temporary folder, with an existing program in place of the installed one.
fn folder_with_unit() -> TempDir {
    let unit = std::fs::read_to_string(Path::new("systemd").join(UNIT)).unwrap();
    let changed = unit.replace("/usr/bin/tim-group-sync", env!("CARGO_BIN_EXE_tim-group-sync"));
    assert_ne!(unit, changed);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(UNIT), changed).unwrap();
    folder
}

/// Copies the unit and the drop-in for PostgreSQL.
fn folder_with_drop_in() -> TempDir {
    let folder = folder_with_unit();
    let drop_ins = folder.path().join(format!("{UNIT}.d"));
    std::fs::create_dir(&drop_ins).unwrap();
    std::fs::copy("systemd/postgresql.conf", drop_ins.join("postgresql.conf")).unwrap();
    folder
}

/// Runs systemd-analyze. Returns true if it succeeds, and its output.
fn analyze(folder: &TempDir, arguments: &[&str]) -> (bool, String) {
    let output = Command::new("systemd-analyze")
        .args(arguments)
        .arg(folder.path().join(UNIT))
        // systemd looks for drop-ins in the folders of units.
        .env("SYSTEMD_UNIT_PATH", format!("{}:", folder.path().display()))
        .env("SYSTEMD_COLORS", "0")
        .output()
        .expect("systemd is installed by tests/run");
    let output_text = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(output_text).unwrap())
}

#[test]
#[ignore = "needs systemd-analyze: tests/run"]
fn systemd_analyze_verifies_the_unit_without_a_message() {
    for folder in [folder_with_unit(), folder_with_drop_in()] {
        // Only the package installs the manual page.
        assert_eq!(analyze(&folder, &["verify", "--man=no"]), (true, String::new()));
    }
}

#[test]
#[ignore = "needs systemd-analyze: tests/run"]
fn the_exposure_of_the_service_is_at_most_1_2() {
    for folder in [folder_with_unit(), folder_with_drop_in()] {
        let (is_below, output_text) = analyze(&folder, &["security", "--offline=true", "--threshold=12"]);
        assert!(is_below, "{output_text}");
    }
}

/// Runs the unit's `ExecReload=` with this configuration. Returns whether it succeeds, after
/// checking that the main process gets SIGHUP.
fn reload(config: &str) -> bool {
    use std::io::{BufRead as _, BufReader};
    let folder = folder_with_unit();
    let unit = std::fs::read_to_string(folder.path().join(UNIT)).unwrap();
    let command = unit.lines().find_map(|line| line.strip_prefix("ExecReload=/bin/sh -c '")).unwrap();
    let file = folder.path().join("config.toml");
    std::fs::write(&file, config).unwrap();
    let mut main = Command::new("/bin/sh")
        .args(["-c", "trap 'exit 7' HUP; echo ready; while read -r _; do :; done"])
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    BufReader::new(main.stdout.as_mut().unwrap()).read_line(&mut String::new()).unwrap();
    let reloaded = Command::new("/bin/sh")
        .args(["-c", command.strip_suffix('\'').unwrap()])
        .env("MAINPID", main.id().to_string())
        .env("TIM_GROUP_SYNC_CONFIG", &file)
        .output()
        .unwrap();
    assert_eq!(main.wait().unwrap().code(), Some(7), "the main process got no SIGHUP: {reloaded:?}");
    reloaded.status.success()
}

#[test]
fn a_reload_signals_the_service_and_fails_if_the_file_has_mistakes() {
    let valid =
        "[apps.prod]\nsdk_app_id = 1400000000\nsecret_key_file = \"$CREDENTIALS_DIRECTORY/keys_prod\"\n";
    assert!(reload(valid));
    assert!(!reload(&format!("{valid}nonsense = 1\n")));
}
