//! Checks the documentation against the program:
//! - Code blocks have a known language.
//! - Configurations are valid, queries run, and links resolve.
//! - Lines of prose have at most 100 columns.
//! - The pages have every code and every data centre of the sources.
//!
//! docs_commands.rs runs the commands. docs_in_chinese.rs compares the languages.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use harness::crawl::{Engine, Harness};
use harness::crawl_tests;
use harness::postgres::PostgresServer;
use harness::store::Location;
use tim_group_sync::config::{Config, Environment};
use tim_group_sync::model::ReasonCode;
use tim_group_sync::pace::Disposition;
use tim_group_sync::signals::StopSignal;
use tim_group_sync::tencent::ApiError;
use tim_group_sync::tencent::error::meaning;
use tim_group_sync::tencent::region::Region;

/// A fenced block of a page.
#[derive(Clone, Debug)]
pub(crate) struct Block {
    /// The page and the line of its fence.
    pub at: String,
    pub info: String,
    pub text: String,
}

/// A page of the documentation, with its path from the root of the project.
#[derive(Clone, Debug)]
pub(crate) struct Page {
    pub path: String,
    pub text: String,
}

impl Page {
    fn read(path: &str) -> Self {
        Self { path: path.to_owned(), text: fs::read_to_string(root().join(path)).unwrap() }
    }

    pub(crate) fn blocks(&self) -> Vec<Block> {
        let mut blocks = Vec::new();
        let mut open: Option<Block> = None;
        for (number, line) in self.text.lines().enumerate() {
            let fence = line.trim_start().strip_prefix("```");
            match (open.take(), fence) {
                (None, Some(info)) => {
                    let at = format!("{}:{}", self.path, number + 1);
                    open = Some(Block { at, info: info.trim().to_owned(), text: String::new() });
                }
                (Some(block), Some(_)) => blocks.push(block),
                (Some(mut block), None) => {
                    block.text.extend([line, "\n"]);
                    open = Some(block);
                }
                (None, None) => {}
            }
        }
        assert!(open.is_none(), "{}: a block is not closed", self.path);
        blocks
    }

    /// Returns whether the page is the Chinese version of another page.
    pub(crate) fn is_translation(&self) -> bool {
        self.path.ends_with(".zh-CN.md")
    }

    /// Returns the text of the page without its blocks.
    pub(crate) fn prose(&self) -> String {
        self.text.split("```").step_by(2).collect()
    }

    fn headings(&self) -> Vec<(usize, String)> {
        let prose = self.prose();
        let lines = prose.lines().filter(|line| line.starts_with('#'));
        let level = |line: &str| line.bytes().take_while(|byte| *byte == b'#').count();
        lines.map(|line| (level(line), line.trim_start_matches('#').trim().to_owned())).collect()
    }

    fn chapter(&self, title: &str) -> &str {
        let start = self.text.find(&format!("\n{title}\n")).unwrap_or_else(|| panic!("no chapter {title}"));
        let level = format!("\n{} ", title.split(' ').next().unwrap());
        let rest = &self.text[start + 1 + title.len()..];
        &rest[..rest.find(&level).unwrap_or(rest.len())]
    }
}

fn root() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Returns README.md, README.zh-CN.md and all pages of docs/.
pub(crate) fn pages() -> Vec<Page> {
    let mut paths: Vec<String> = vec!["README.md".to_owned(), "README.zh-CN.md".to_owned()];
    let files =
        fs::read_dir(root().join("docs")).unwrap().map(|entry| PathBuf::from(entry.unwrap().file_name()));
    let pages = files.filter(|file| file.extension().is_some_and(|extension| extension == "md"));
    paths.extend(pages.map(|file| format!("docs/{}", file.display())));
    paths.sort();
    paths.iter().map(|path| Page::read(path)).collect()
}

/// The languages of blocks. Commands, queries and configurations are also run.
const LANGUAGES: [&str; 13] = [
    "sh",
    "console",
    "sql",
    "sql sqlite",
    "sql postgres",
    "toml",
    "json",
    "yaml",
    "ini",
    "promql",
    "python",
    "dockerfile",
    "text",
];

#[test]
fn every_block_has_a_known_language() {
    for block in pages().iter().flat_map(Page::blocks) {
        assert!(LANGUAGES.contains(&block.info.as_str()), "{}: {:?}", block.at, block.info);
        if block.info == "json" {
            let json = serde_json::from_str::<serde_json::Value>(&block.text);
            assert!(json.is_ok(), "{}: {json:?}", block.at);
        }
    }
}

#[test]
fn every_configuration_of_the_pages_is_valid() {
    let blocks =
        pages().iter().flat_map(Page::blocks).filter(|block| block.info == "toml").collect::<Vec<_>>();
    assert!(blocks.len() > 4);
    let service =
        [("STATE_DIRECTORY", "/var/lib/tim-group-sync"), ("CREDENTIALS_DIRECTORY", "/run/credentials")];
    for block in blocks {
        let read = Config::parse(
            &with_an_app(&block.text),
            Path::new("/etc/tim-group-sync/config.toml"),
            &Environment::new(service),
        );
        assert!(read.is_ok(), "{}: {}", block.at, read.unwrap_err());
    }
}

/// Adds an app to a part of a configuration that has none.
fn with_an_app(part: &str) -> String {
    let app = "[apps.prod]\nsdk_app_id = 1400000000\nsecret_key_file = \"prod.key\"\n";
    match part {
        _ if part.contains("sdk_app_id") => part.to_owned(),
        _ if part.contains("[apps.prod]\n") => part.replacen("[apps.prod]\n", app, 1),
        _ => format!("{part}\n{app}"),
    }
}

crawl_tests! {
    every_query_of_the_pages_runs,
}

async fn every_query_of_the_pages_runs(harness: Harness) {
    harness.create("Public", "@TGS#2J4SZEAEL");
    harness.crawl().await;
    // The queries of the Chinese pages are those of the English ones.
    let english = pages().into_iter().filter(|page| !page.is_translation());
    for block in english.flat_map(|page| page.blocks()) {
        let applies = match (block.info.as_str(), harness.engine) {
            ("sql", _) => true,
            ("sql sqlite", engine) => matches!(engine, Engine::Sqlite),
            ("sql postgres", engine) => matches!(engine, Engine::Postgres),
            _ => false,
        };
        if !applies {
            continue;
        }
        match &harness.db.location {
            Location::Sqlite(_) => drop(harness.rows(&block.text).await),
            // As an administrator, because some queries create roles. Everything is rolled back.
            Location::Postgres(database) => {
                let sql = format!(
                    "SET search_path TO tim; BEGIN; {}; ROLLBACK",
                    block.text.trim().trim_end_matches(';')
                );
                let done = PostgresServer::shared().await.execute(&database.name, &sql).await;
                done.unwrap_or_else(|error| panic!("{}: {error}", block.at));
            }
        }
    }
}

/// Returns the anchor of a heading.
fn anchor(heading: &str) -> String {
    let plain = heading.to_lowercase();
    let kept = plain.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}

#[test]
fn every_link_between_files_resolves() {
    let more = ["ARCHITECTURE.md", "CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"].map(Page::read);
    for page in pages().into_iter().chain(more) {
        let prose = page.prose();
        for target in prose.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if target.contains("://") {
                continue;
            }
            let (file, fragment) = target.split_once('#').unwrap_or((target, ""));
            let folder = Path::new(&page.path).parent().unwrap();
            let path = if file.is_empty() { PathBuf::from(&page.path) } else { folder.join(file) };
            assert!(root().join(&path).exists(), "{}: {target}", page.path);
            if !fragment.is_empty() {
                let headings = Page::read(path.to_str().unwrap()).headings();
                let found = headings.iter().any(|(_, heading)| anchor(heading) == fragment);
                assert!(found, "{}: {target}", page.path);
            }
        }
    }
}

#[test]
fn every_data_centre_is_on_the_page_with_its_host() {
    let page = Page::read("docs/operations.md");
    let documented: BTreeSet<(String, String)> = rows(page.chapter("## Let it reach the API"))
        .filter(|row| row.len() == 4 && row[0] != "`region`")
        .map(|row| (row[0].replace('`', ""), row[2].replace('`', "")))
        .collect();
    let known = Region::ALL.iter().map(|(name, region)| ((*name).to_owned(), region.host().to_owned()));
    assert_eq!(documented, known.collect());
    let readme = Page::read("README.md");
    let absent: Vec<&str> = Region::ALL
        .iter()
        .map(|(name, _)| *name)
        .filter(|name| !readme.text.contains(&format!("`{name}`")))
        .collect();
    assert_eq!(absent, [""; 0], "README.md");
}

fn troubleshooting() -> Page {
    Page::read("docs/troubleshooting.md")
}

/// Returns the rows of the tables in a text, as cells.
fn rows(text: &str) -> impl Iterator<Item = Vec<&str>> {
    let lines = text.lines().filter(|line| line.starts_with("| ") && !line.starts_with("| code |"));
    lines.map(|line| line.trim_matches('|').split(" | ").map(str::trim).collect())
}

/// Returns the numbers of five digits in a text.
fn codes(text: &str) -> BTreeSet<i64> {
    let runs = text.split(|c: char| !c.is_ascii_digit()).filter(|run| run.len() == 5);
    runs.map(|run| run.parse().unwrap()).collect()
}

#[test]
fn every_error_code_of_the_sources_is_on_the_page_in_its_class_with_its_meaning() {
    let page = troubleshooting();
    let is_of = |chapter: &str, disposition: Disposition| match chapter {
        "### Errors that need a change" => disposition == Disposition::Fatal,
        "### Signature errors" => disposition == Disposition::RenewSignature,
        "### Calls that come too often" => matches!(disposition, Disposition::Throttle { .. }),
        "### Temporary errors of the API" => disposition == Disposition::Retry,
        _ => matches!(
            disposition,
            Disposition::RejectType | Disposition::ReduceLimit | Disposition::RetryBriefly
        ),
    };
    let mut documented = BTreeSet::new();
    for (level, heading) in page.headings() {
        let chapter = format!("### {heading}");
        if level != 3 || !page.chapter("## Error codes of the API").contains(&format!("\n{chapter}\n")) {
            continue;
        }
        for row in rows(page.chapter(&chapter)).filter(|row| !row[0].contains("other")) {
            for code in codes(row[0]) {
                let error = ApiError::Answered { code, info: String::new(), advice: None };
                assert!(is_of(&chapter, error.disposition()), "{code} is not of {chapter:?}");
                assert!(meaning(code).is_none_or(|meaning| meaning == row[1]), "{code}: {:?}", meaning(code));
                if error.disposition() == Disposition::Fatal {
                    let refused = !row[2].starts_with("`api_error`");
                    assert_eq!(error.reason_code() == ReasonCode::Refused, refused, "{code}");
                }
                assert!(documented.insert(code), "{code} is documented twice");
            }
        }
    }
    let source = fs::read_to_string(root().join("src/tencent/error.rs")).unwrap();
    let mut known = codes(source.split("#[cfg(test)]").next().unwrap());
    // The sources also contain the bounds of ranges, which are not codes.
    known.retain(|code| code % 10_000 != 0);
    assert!(known.len() > 40);
    assert!(known.is_subset(&documented), "{:?}", known.difference(&documented));
    let by_info = codes(page.chapter("## By ErrorInfo"));
    assert!(by_info.is_subset(&documented), "{:?}", by_info.difference(&documented));
}

#[test]
fn every_reason_code_and_exit_code_is_on_the_page() {
    let page = troubleshooting();
    let model = fs::read_to_string(root().join("src/model.rs")).unwrap();
    let reasons = model.split("    ReasonCode {").nth(1).unwrap().split("\n    }").next().unwrap();
    let reasons: Vec<&str> =
        reasons.split(" = \"").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(reasons.len() > 10);
    let documented: BTreeSet<&str> = rows(page.chapter("## Reason codes"))
        .map(|row| row[0].trim_matches('`'))
        .filter(|cell| *cell != "reason_code")
        .collect();
    assert_eq!(documented, reasons.into_iter().collect());

    let exit = fs::read_to_string(root().join("src/cli/exit.rs")).unwrap();
    let exits = exit.split("fn code(self) -> u8 {").nth(1).unwrap().split("\n    }").next().unwrap();
    let exits = exits.split("=> ").skip(1).filter_map(|rest| rest.split(',').next());
    let exits = exits.filter(|exit| *exit != "signal.exit_code()").map(str::to_owned);
    let signals = [StopSignal::Hangup, StopSignal::Interrupt, StopSignal::Terminate];
    let exits = exits.chain(signals.map(|signal| signal.exit_code().to_string()));
    let documented: Vec<&str> = rows(page.chapter("## Exit codes")).map(|row| row[0]).collect();
    exits.for_each(|exit| assert!(documented.contains(&exit.as_str()), "{exit}"));
}

/// Returns how many columns of a terminal a line takes: Chinese characters and punctuation take
/// two.
fn columns(line: &str) -> usize {
    line.chars().map(|c| if ('\u{2e80}'..'\u{fff0}').contains(&c) { 2 } else { 1 }).sum()
}

#[test]
fn lines_of_prose_have_at_most_100_columns() {
    let more = ["CONTRIBUTING.md", "SECURITY.md", "CHANGELOG.md"].map(Page::read);
    let mut longer = Vec::new();
    for page in pages().into_iter().chain(more) {
        let is_schema = page.path == "docs/schema.md";
        let prose = page.prose();
        let mut chapter = "";
        for line in prose.lines() {
            if line.starts_with("## ") {
                chapter = line;
            }
            // Tables, images and link targets cannot be wrapped. The description of a view is one
            // line, which the database repeats.
            let is_target = line.starts_with('[') && line.contains("]: ");
            let exempt = line.starts_with(['|', '!']) || is_target || (is_schema && chapter == "## Views");
            if !exempt && columns(line) > 100 {
                longer.push(format!("{}: {line}", page.path));
            }
        }
    }
    assert!(longer.is_empty(), "{}", longer.join("\n"));
}
