//! The systemd unit, as systemd's own tools judge it. tests/systemd/run boots a system with it.

use std::path::Path;
use std::process::Command;

use tempfile::TempDir;

const UNIT: &str = "tim-group-sync.service";

/// The unit in a folder of its own, naming a program that is there.
fn program() -> TempDir {
    let unit = std::fs::read_to_string(Path::new("systemd").join(UNIT)).unwrap();
    let named = unit.replace("/usr/bin/tim-group-sync", env!("CARGO_BIN_EXE_tim-group-sync"));
    assert_ne!(unit, named);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(UNIT), named).unwrap();
    folder
}

fn with_drop_in_for_postgresql() -> TempDir {
    let folder = program();
    let drop_ins = folder.path().join(format!("{UNIT}.d"));
    std::fs::create_dir(&drop_ins).unwrap();
    std::fs::copy("systemd/postgresql.conf", drop_ins.join("postgresql.conf")).unwrap();
    folder
}

/// What systemd-analyze says, and whether it is content.
fn analyzed(folder: &TempDir, arguments: &[&str]) -> (bool, String) {
    let output = Command::new("systemd-analyze")
        .args(arguments)
        .arg(folder.path().join(UNIT))
        // Drop-ins are looked for in the folders of units.
        .env("SYSTEMD_UNIT_PATH", format!("{}:", folder.path().display()))
        .env("SYSTEMD_COLORS", "0")
        .output()
        .expect("tests/run installs systemd");
    let said = [output.stdout, output.stderr].concat();
    (output.status.success(), String::from_utf8(said).unwrap())
}

#[test]
#[ignore = "needs systemd-analyze: tests/run"]
fn systemd_finds_nothing_wrong_with_the_unit() {
    for folder in [program(), with_drop_in_for_postgresql()] {
        // The manual page is installed by the package.
        assert_eq!(analyzed(&folder, &["verify", "--man=no"]), (true, String::new()));
    }
}

#[test]
#[ignore = "needs systemd-analyze: tests/run"]
fn the_exposure_of_the_service_is_at_most_1_2() {
    for folder in [program(), with_drop_in_for_postgresql()] {
        let (low, said) = analyzed(&folder, &["security", "--offline=true", "--threshold=12"]);
        assert!(low, "{said}");
    }
}
