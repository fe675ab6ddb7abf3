//! The views as docs/schema.md describes them, and a database in which every column has a value
//! that is not NULL.

use std::time::Duration;

use chrono_tz::Tz;
use tim_group_sync::crawl::{CrawlRequest, WhenBusy};
use tim_group_sync::model::Trigger;
use tim_group_sync::policy::DetailsPolicy;
use tim_group_sync::simulator::Fault;
use tokio_util::sync::CancellationToken;

use crate::crawl::Harness;

const DOCUMENT: &str = include_str!("../../../docs/schema.md");

/// A view as the document describes it.
pub struct View {
    pub name: &'static str,
    pub meaning: &'static str,
    pub columns: Vec<Column>,
}

pub struct Column {
    pub name: &'static str,
    pub kind: &'static str,
    pub meaning: &'static str,
}

/// Returns the views that the document describes.
pub fn views() -> Vec<View> {
    let mut views: Vec<View> = Vec::new();
    for section in chapter("## Views").split("\n### ").skip(1) {
        let (name, text) = section.split_once("\n\n").unwrap();
        let meaning = text.lines().next().unwrap();
        let rows = text.lines().filter(|line| line.starts_with("| `"));
        let columns: Vec<Column> = rows
            .map(|row| {
                let cells: Vec<&str> = row.trim_matches('|').split(" | ").map(str::trim).collect();
                let [name, kind, meaning] = cells[..] else { panic!("three columns: {row}") };
                Column { name: name.trim_matches('`'), kind, meaning }
            })
            .collect();
        if let Some((_, other)) = text.split_once("Its columns are those of [") {
            let other = other.split(']').next().unwrap();
            let of_other = &views.iter().find(|view| view.name == other).unwrap().columns;
            let same = of_other.iter().map(|column| Column { ..*column }).collect();
            views.push(View { name, meaning, columns: same });
        } else {
            views.push(View { name, meaning, columns });
        }
    }
    views
}

/// Returns the text of a chapter of the document.
pub fn chapter(title: &str) -> &'static str {
    let (_, text) = DOCUMENT.split_once(&format!("\n{title}\n")).unwrap();
    text.split("\n## ").next().unwrap()
}

/// Makes crawls from 1 to 3 March, Shanghai time, that together give every column a value.
pub async fn fill_every_column(mut harness: Harness) -> Harness {
    harness.timezone = Tz::Asia__Shanghai;
    harness.statistics = true;
    harness.details = Some(DetailsPolicy { refresh: Duration::from_hours(24), requests_per_second: 40 });
    harness.create("Public", "@TGS#2J4SZEAEL a b c d");
    let fields = [("Introduction".to_owned(), "Every Monday".into()), ("MemberNum".to_owned(), 1.into())];
    let fields = serde_json::Map::from_iter(fields);
    harness.api.set_details("d", fields);
    harness.create("Private", "p");
    harness.crawl().await;
    harness.create("Public", "short long");
    harness.api.retype("p", "Public");
    let due_at = Some("2026-03-01T09:00:00Z".parse().unwrap());
    let request = CrawlRequest { trigger: Trigger::Schedule, due_at };
    harness.prepare_crawl();
    harness.crawler().crawl(request, WhenBusy::GiveUp, &CancellationToken::new()).await.unwrap();
    harness.dissolve("short a @TGS#2J4SZEAEL");
    harness.crawl().await;
    harness.move_clock_by_hours(24);
    harness.create("Private", "@TGS#2J4SZEAEL");
    harness.crawl().await;
    harness.fault_at_request(3, Fault::ErrorCode(60021));
    harness.crawl().await;
    harness.deletion.review = true;
    harness.dissolve("b c");
    harness.crawl().await;
    harness.details_refresher().refresh_due().await.unwrap();
    harness
}
