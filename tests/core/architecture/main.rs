//! Checks that ARCHITECTURE.md describes the source files.

#![expect(clippy::unwrap_used, reason = "a failed test is a panic")]

mod import_cycles;

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

fn text(file: &str) -> String {
    fs::read_to_string(root().join(file)).unwrap()
}

fn files_under(folder: &Path, ending: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            files.extend(files_under(&path, ending));
        } else if path.extension().is_some_and(|extension| extension == ending) {
            files.push(path);
        }
    }
    files
}

/// Returns the table of allowed imports of ARCHITECTURE.md: for each module, the modules that it
/// may import. `None` means all modules.
fn allowed_imports() -> BTreeMap<String, Option<BTreeSet<String>>> {
    let document = text("ARCHITECTURE.md");
    let rows = document.lines().skip_while(|line| *line != "| module | may import |").skip(2);
    let names = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<BTreeSet<_>>();
    rows.take_while(|line| line.starts_with('|'))
        .map(|line| {
            let cells: Vec<&str> = line.trim_matches('|').split('|').collect();
            let module = names(cells[0]).pop_first().unwrap();
            let everything = cells[1].trim() == "everything";
            (module, (!everything).then(|| names(cells[1])))
        })
        .collect()
}

/// Returns the code of a file up to its unit tests.
fn without_tests(text: &str) -> &str {
    let tests = ["#[cfg(test)]\nmod tests {", "#[cfg(test)]\npub(crate) mod tests {"];
    &text[..tests.iter().filter_map(|start| text.find(start)).min().unwrap_or(text.len())]
}

/// Returns the modules that each top-level module imports outside its tests, by its `crate::`
/// paths.
fn actual_imports() -> BTreeMap<String, BTreeSet<String>> {
    let source = root().join("src");
    let mut imports: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for file in files_under(&source, "rs") {
        let inside = file.strip_prefix(&source).unwrap();
        let module = inside.iter().next().unwrap().to_str().unwrap().trim_end_matches(".rs").to_owned();
        if matches!(module.as_str(), "main" | "lib") || file.ends_with("tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&file).unwrap();
        let code = without_tests(&text);
        let own = imports.entry(module.clone()).or_default();
        for line in code.lines().filter(|line| !line.trim_start().starts_with("//")) {
            for path in line.split("crate::").skip(1) {
                let name: String =
                    path.chars().take_while(|c| c.is_ascii_alphanumeric() || *c == '_').collect();
                if name != module && !name.is_empty() {
                    own.insert(name);
                }
            }
        }
    }
    imports
}

#[test]
fn modules_import_only_what_the_table_allows() {
    let allowed = allowed_imports();
    for (module, imports) in actual_imports() {
        let Some(may) = allowed.get(&module) else {
            panic!("{module} is not in the table of ARCHITECTURE.md")
        };
        if let Some(may) = may {
            let forbidden: Vec<_> = imports.difference(may).collect();
            assert!(forbidden.is_empty(), "{module} imports {forbidden:?}");
        }
    }
}

#[test]
fn the_import_table_names_only_existing_modules_and_imports() {
    let actual = actual_imports();
    for (module, may) in allowed_imports() {
        let Some(imports) = actual.get(&module) else { panic!("there is no module {module}") };
        let unused: Vec<_> = may.iter().flatten().filter(|name| !imports.contains(*name)).collect();
        assert!(unused.is_empty(), "{module} does not import {unused:?}");
    }
}

#[test]
fn the_map_names_every_module() {
    let document = text("ARCHITECTURE.md");
    for module in actual_imports().keys() {
        let named =
            document.contains(&format!("  {module}.rs ")) || document.contains(&format!("  {module}/ "));
        assert!(named, "{module} is not on the map of ARCHITECTURE.md");
    }
}

#[test]
fn both_engines_have_the_same_migrations() {
    let names = |engine: &str| -> BTreeSet<String> {
        files_under(&root().join("migrations").join(engine), "sql")
            .iter()
            .map(|file| file.file_name().unwrap().to_str().unwrap().to_owned())
            .collect()
    };
    assert_eq!(names("sqlite"), names("postgres"));
}

#[test]
fn no_module_has_a_catch_all_name() {
    for file in files_under(&root().join("src"), "rs") {
        let name = file.file_stem().unwrap().to_str().unwrap();
        assert!(
            !["util", "utils", "common", "helpers", "misc", "types"].contains(&name),
            "{}",
            file.display()
        );
    }
}

#[test]
fn every_link_in_the_documents_resolves() {
    let documents = files_under(&root().join("docs"), "md");
    let top =
        ["README.md", "ARCHITECTURE.md", "CONTRIBUTING.md", "CHANGELOG.md"].map(|name| root().join(name));
    for document in top.into_iter().chain(documents) {
        let text = fs::read_to_string(&document).unwrap();
        for target in text.split("](").skip(1).map(|rest| rest.split(')').next().unwrap()) {
            let file = target.split('#').next().unwrap();
            if file.is_empty() || file.contains("://") {
                continue;
            }
            assert!(
                document.parent().unwrap().join(file).exists(),
                "{} links to {target}",
                document.display()
            );
        }
    }
}

#[test]
fn both_packages_contain_the_same_files_each_of_them_once() {
    let cargo: toml::Table = text("Cargo.toml").parse().unwrap();
    let metadata = &cargo["package"]["metadata"];
    let deb = metadata["deb"]["assets"].as_array().unwrap().iter().map(|asset| asset[0].as_str().unwrap());
    let rpm = metadata["generate-rpm"]["assets"].as_array().unwrap().iter();
    let rpm = rpm.map(|asset| asset["source"].as_str().unwrap());
    // Each format of package stores licences in its own way.
    let licences = ["packaging/debian/copyright", "LICENSE*"];
    let once = |sources: Vec<&str>| {
        let set: BTreeSet<String> = sources.iter().map(ToString::to_string).collect();
        assert_eq!(set.len(), sources.len(), "{sources:?}");
        set.into_iter().filter(|source| !licences.contains(&source.as_str())).collect::<Vec<_>>()
    };
    assert_eq!(once(deb.collect()), once(rpm.collect()));
}
