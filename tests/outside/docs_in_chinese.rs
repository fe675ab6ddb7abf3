//! Compares the pages that exist in English and in Chinese, section by section.
//!
//! Both pages of a pair have the same headings, blocks and tables. Commands, queries, the code in a
//! sentence or a row, and the linked pages are not translated, so they are equal. Every number of
//! the English page is on the Chinese page. The test reports all differences at once.

use std::collections::BTreeSet;

use crate::docs::{Block, Page, pages};

/// The pages that exist in both languages. The Chinese page of `NAME.md` is `NAME.zh-CN.md`.
const TRANSLATED: [&str; 6] = [
    "README.md",
    "docs/costs.md",
    "docs/deletions.md",
    "docs/operations.md",
    "docs/schema.md",
    "docs/troubleshooting.md",
];

/// A chapter whose tables are not translated: the database and Datasette repeat the descriptions of
/// the columns. Only its headings, which are the names of the views, are compared.
const NAMES_ONLY: (&str, &str) = ("docs/schema.md", "Views");

/// A heading and what follows until the next heading.
#[derive(Debug)]
struct Section {
    /// The page, line and text of the heading.
    at: String,
    level: usize,
    heading: String,
    /// The heading of level 2 above this section, or this one.
    chapter: String,
    blocks: Vec<Block>,
    tables: Vec<Vec<Vec<String>>>,
    /// The text without blocks and tables.
    prose: String,
}

fn sections(page: &Page) -> Vec<Section> {
    let mut sections: Vec<(String, usize, String, String)> = Vec::new();
    let mut is_in_block = false;
    for (number, line) in page.text.lines().enumerate() {
        is_in_block ^= line.trim_start().starts_with("```");
        if !is_in_block && line.starts_with('#') {
            let heading = line.trim_start_matches('#');
            let at = format!("{}:{} {line:?}", page.path, number + 1);
            let level = line.len() - heading.len();
            sections.push((at, level, heading.trim().to_owned(), String::new()));
        } else {
            let (_, _, _, text) = sections.last_mut().unwrap_or_else(|| panic!("{}: no title", page.path));
            text.extend([line, "\n"]);
        }
    }
    let mut chapter = String::new();
    let section = |(at, level, heading, text): (String, usize, String, String)| {
        if level <= 2 {
            chapter.clone_from(&heading);
        }
        let text = Page { path: page.path.clone(), text };
        let (tables, prose) = tables_and_prose(&text.prose());
        Section { at, level, heading, chapter: chapter.clone(), blocks: text.blocks(), tables, prose }
    };
    sections.into_iter().map(section).collect()
}

/// Returns the tables of a text, each as rows of cells, and the other lines.
fn tables_and_prose(text: &str) -> (Vec<Vec<Vec<String>>>, String) {
    let (mut tables, mut prose) = (Vec::new(), String::new());
    let mut is_in_table = false;
    for line in text.lines() {
        let is_row = line.starts_with('|');
        if is_row && !is_in_table {
            tables.push(Vec::new());
        }
        is_in_table = is_row;
        match tables.last_mut().filter(|_| is_row) {
            Some(table) if !line.starts_with("|--") => table.push(cells(line)),
            Some(_) => {}
            None => prose.extend([line, "\n"]),
        }
    }
    (tables, prose)
}

fn cells(row: &str) -> Vec<String> {
    let row = row.trim().trim_start_matches('|').trim_end_matches('|');
    row.split('|').map(|cell| cell.trim().to_owned()).collect()
}

/// Returns the code in a text: what is between backticks.
fn code(text: &str) -> BTreeSet<String> {
    let one_line = |code: &str| code.split_whitespace().collect::<Vec<_>>().join(" ");
    text.split('`').skip(1).step_by(2).map(one_line).collect()
}

fn without_code(text: &str) -> String {
    text.split('`').step_by(2).collect()
}

/// Returns the pages and files to which a text links, without anchors and languages.
fn links(text: &str) -> BTreeSet<String> {
    let targets = text.split("](").skip(1).filter_map(|rest| rest.split(')').next());
    let page = |target: &str| match target.split_once('#') {
        Some((page, _)) => page.to_owned(),
        None => target.to_owned(),
    };
    targets.map(|target| page(target).replace(".zh-CN.md", ".md").replace("-zh.png", ".png")).collect()
}

/// Returns the numbers of a text, without those in code and in the targets of links.
fn numbers(text: &str) -> BTreeSet<String> {
    let text = without_code(text);
    let visible = text.split("](").enumerate().map(|(nth, part)| match nth {
        0 => part,
        _ => part.split_once(')').map_or("", |(_, rest)| rest),
    });
    let visible = visible.collect::<Vec<_>>().join(" ");
    let runs = visible.split(|c: char| !(c.is_ascii_digit() || matches!(c, ',' | '.')));
    let numbers = runs.map(|run| run.trim_matches([',', '.']).to_owned());
    numbers.filter(|number| !number.is_empty()).collect()
}

/// Returns whether a cell has nothing to translate: it has only code, numbers and names of signals.
fn is_untranslatable(cell: &str) -> bool {
    without_code(cell).chars().all(|c| c.is_ascii() && !c.is_ascii_lowercase())
}

/// Returns a block's lines without comments, which are translated.
fn without_comments(block: &Block) -> Vec<String> {
    let mark = if block.info.starts_with("sql") { "--" } else { "#" };
    let code = |line: &str| {
        let comment =
            line.match_indices(mark).map(|(at, _)| at).find(|at| *at == 0 || line[..*at].ends_with(' '));
        line[..comment.unwrap_or(line.len())].trim_end().to_owned()
    };
    block.text.lines().map(code).filter(|line| !line.is_empty()).collect()
}

/// Describes the difference between two sets, or returns `None` if they are equal.
fn difference(english: &BTreeSet<String>, chinese: &BTreeSet<String>) -> Option<String> {
    let list = |one: &BTreeSet<String>, other: &BTreeSet<String>| {
        one.difference(other).cloned().collect::<Vec<_>>().join(" and ")
    };
    match (list(english, chinese), list(chinese, english)) {
        (missing, extra) if missing.is_empty() && extra.is_empty() => None,
        (missing, extra) if extra.is_empty() => Some(format!("lacks {missing}")),
        (missing, extra) if missing.is_empty() => Some(format!("has {extra}, which is not in English")),
        (missing, extra) => Some(format!("has {extra} instead of {missing}")),
    }
}

/// Describes the differences between two texts that are not tables and not blocks.
fn text_differences(english: &str, chinese: &str) -> Vec<String> {
    let absent: Vec<String> = numbers(english).difference(&numbers(chinese)).cloned().collect();
    [
        difference(&code(english), &code(chinese)).map(|which| format!("code: {which}")),
        difference(&links(english), &links(chinese)).map(|which| format!("links: {which}")),
        (!absent.is_empty()).then(|| format!("numbers: lacks {}", absent.join(" and "))),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn block_differences(english: &[Block], chinese: &[Block]) -> Vec<String> {
    let first = |block: &Block| format!("{} {:?}", block.info, block.text.lines().next().unwrap_or(""));
    let mut differences = Vec::new();
    for (one, other) in english.iter().zip(chinese) {
        let (english_lines, chinese_lines) = (without_comments(one), without_comments(other));
        let line = english_lines.iter().find(|line| !chinese_lines.contains(line));
        let line = line.or_else(|| chinese_lines.iter().find(|line| !english_lines.contains(line)));
        if one.info != other.info || english_lines != chinese_lines {
            differences.push(format!("the block {} differs: {:?}", first(one), line.unwrap_or(&one.info)));
        }
    }
    let (missing, extra) = (english.iter().skip(chinese.len()), chinese.iter().skip(english.len()));
    differences.extend(missing.map(|block| format!("lacks the block {}", first(block))));
    differences.extend(extra.map(|block| format!("has the block {}, which is not in English", first(block))));
    differences
}

fn table_differences(english: &[Vec<String>], chinese: &[Vec<String>]) -> Vec<String> {
    let names = |rows: &[Vec<String>]| -> BTreeSet<String> {
        rows.iter().map(|row| row[0].clone()).filter(|cell| is_untranslatable(cell)).collect()
    };
    let mut differences: Vec<String> = difference(&names(english), &names(chinese)).into_iter().collect();
    if english.len() != chinese.len() {
        differences.push(format!("has {} rows, in English {}", chinese.len(), english.len()));
        return differences;
    }
    for (one, other) in english.iter().zip(chinese) {
        let what = &one[0];
        if one.len() != other.len() {
            differences.push(format!("row {what:?}: {} columns, in English {}", other.len(), one.len()));
        } else if is_untranslatable(what) && *what != other[0] {
            differences.push(format!("row {what:?}: begins with {:?}", other[0]));
        }
        let row = text_differences(&one.join("\n"), &other.join("\n"));
        differences.extend(row.into_iter().map(|difference| format!("row {what:?}: {difference}")));
    }
    differences
}

fn section_differences(english: &Section, chinese: &Section) -> Vec<String> {
    let mut differences = text_differences(&english.prose, &chinese.prose);
    differences.extend(block_differences(&english.blocks, &chinese.blocks));
    for (one, other) in english.tables.iter().zip(&chinese.tables) {
        let table = table_differences(one, other);
        differences.extend(table.into_iter().map(|which| format!("the table {:?}: {which}", one[0])));
    }
    if english.tables.len() != chinese.tables.len() {
        differences.push(format!("{} tables, in English {}", chinese.tables.len(), english.tables.len()));
    }
    let at = |difference: String| format!("{} and {}: {difference}", english.at, chinese.at);
    differences.into_iter().map(at).collect()
}

/// Pairs the sections of two pages. First pairs the longest common subsequence of equal sections.
/// Then pairs the sections between two such pairs if their levels are equal. Sections without a
/// partner are `Err`.
fn pairs<'a>(
    english: &'a [Section],
    chinese: &'a [Section],
) -> Vec<Result<(&'a Section, &'a Section), &'a Section>> {
    let levels = |sections: &[Section]| sections.iter().map(|section| section.level).collect::<Vec<_>>();
    if levels(english) == levels(chinese) {
        return english.iter().zip(chinese).map(Ok).collect();
    }
    let is_pair = |i: usize, j: usize| {
        english[i].level == chinese[j].level && section_differences(&english[i], &chinese[j]).is_empty()
    };
    let mut longest = vec![vec![0; chinese.len() + 1]; english.len() + 1];
    for i in (0..english.len()).rev() {
        for j in (0..chinese.len()).rev() {
            let skipped = longest[i + 1][j].max(longest[i][j + 1]);
            longest[i][j] = if is_pair(i, j) { skipped.max(longest[i + 1][j + 1] + 1) } else { skipped };
        }
    }
    let (mut found, mut i, mut j) = (Vec::new(), 0, 0);
    while i < english.len() && j < chinese.len() {
        let (start_i, start_j) = (i, j);
        while i < english.len()
            && j < chinese.len()
            && !(is_pair(i, j) && longest[i][j] == longest[i + 1][j + 1] + 1)
        {
            if longest[i + 1][j] >= longest[i][j + 1] { i += 1 } else { j += 1 }
        }
        if i == english.len() || j == chinese.len() {
            (i, j) = (english.len(), chinese.len());
        }
        let (unpaired_english, unpaired_chinese) = (&english[start_i..i], &chinese[start_j..j]);
        if levels(unpaired_english) == levels(unpaired_chinese) {
            found.extend(unpaired_english.iter().zip(unpaired_chinese).map(Ok));
        } else {
            found.extend(unpaired_english.iter().chain(unpaired_chinese).map(Err));
        }
        if i < english.len() {
            found.push(Ok((&english[i], &chinese[j])));
            (i, j) = (i + 1, j + 1);
        }
    }
    found.extend(english[i..].iter().chain(&chinese[j..]).map(Err));
    found
}

fn page_differences(english: &Page, chinese: &Page) -> Vec<String> {
    let mut differences = Vec::new();
    let top = |page: &Page| page.text.lines().nth(2).unwrap_or_default().to_owned();
    let name = |page: &Page| page.path.rsplit('/').next().unwrap().to_owned();
    let tops = [
        (english, format!("English · [简体中文]({})", name(chinese))),
        (chinese, format!("[English]({}) · 简体中文", name(english))),
    ];
    for (page, expected) in tops {
        if top(page) != expected {
            differences.push(format!("{}:3 is not {expected:?}", page.path));
        }
    }
    let (english_sections, chinese_sections) = (sections(english), sections(chinese));
    for pair in pairs(&english_sections, &chinese_sections) {
        match pair {
            Ok((one, _)) if one.chapter == NAMES_ONLY.1 && one.level == 2 && english.path == NAMES_ONLY.0 => {
            }
            Ok((one, other)) if one.chapter == NAMES_ONLY.1 && english.path == NAMES_ONLY.0 => {
                if one.heading != other.heading {
                    differences.push(format!("{} has another name in {}", one.at, other.at));
                }
            }
            Ok((one, other)) => differences.extend(section_differences(one, other)),
            Err(alone) => differences.push(format!("{} has no counterpart in the other language", alone.at)),
        }
    }
    differences
}

#[test]
fn the_chinese_pages_have_the_headings_blocks_tables_and_links_of_the_english_ones() {
    let pages = pages();
    let page = |path: &str| {
        let found = pages.iter().find(|page| page.path == path);
        found.unwrap_or_else(|| panic!("there is no {path}"))
    };
    let mut differences = Vec::new();
    for path in TRANSLATED {
        let chinese = path.replace(".md", ".zh-CN.md");
        differences.extend(page_differences(page(path), page(&chinese)));
    }
    assert!(differences.is_empty(), "{} differences:\n{}", differences.len(), differences.join("\n"));
    let chinese = pages.iter().filter(|page| page.is_translation()).count();
    assert_eq!(chinese, TRANSLATED.len(), "TRANSLATED lacks a page");
}

#[test]
fn links_in_chinese_pages_lead_to_chinese_pages_if_they_exist() {
    for page in pages().iter().filter(|page| page.is_translation()) {
        for section in sections(page) {
            let is_names_only = page.path == "docs/schema.zh-CN.md" && section.level == 2;
            let text = section
                .tables
                .iter()
                .flatten()
                .flatten()
                .fold(section.prose, |text, cell| text + cell + "\n");
            for line in text.lines().filter(|line| !line.starts_with("[English](")) {
                for path in TRANSLATED {
                    let target = format!("]({}", path.trim_start_matches("docs/"));
                    let target_from_the_root = format!("]({path}");
                    let is_english = line.contains(&target) || line.contains(&target_from_the_root);
                    assert!(!is_english || is_names_only, "{}: {line}", section.at);
                }
            }
        }
    }
}
