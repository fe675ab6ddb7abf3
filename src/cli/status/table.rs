//! The table of `status` for many apps: one line for each app, at most 80 columns wide.

use std::io::Write;

use super::report::{AppReport, Time};
use crate::cli::text;
use crate::model::CrawlStatus;
use crate::store::Crawl;

/// The maximum number of characters of an app's name.
const NAME_WIDTH: usize = 18;

/// Prints one line for each app, and how many apps need a person.
pub(super) fn print(out: &mut dyn Write, apps: &[AppReport], now: Time) -> std::io::Result<()> {
    let states: Vec<State> = apps.iter().map(State::of).collect();
    let rows: Vec<Vec<String>> =
        apps.iter().zip(&states).map(|(app, state)| row(app, &state.text, now)).collect();
    let header = ["app", "live groups", "TotalCount", "last complete", "state"];
    writeln!(out, "{}", text::table(&header, &rows))?;
    let needing = states.iter().filter(|state| state.needs_attention).count();
    let need = if needing == 1 { "needs" } else { "need" };
    writeln!(
        out,
        "{} of {} {need} attention. Details of one: tim-group-sync status --app NAME",
        text::number(needing as u64),
        text::count(apps.len() as u64, "app")
    )
}

fn row(app: &AppReport, state: &str, now: Time) -> Vec<String> {
    let status = &app.status;
    let age = status.last_complete_crawl.as_ref().and_then(Crawl::finished);
    vec![
        shortened(&status.app),
        text::number(status.live_count),
        status.total_count.map_or_else(|| "?".to_owned(), text::number),
        age.map_or_else(|| "none yet".to_owned(), |at| text::ago(at, now)),
        state.to_owned(),
    ]
}

fn shortened(name: &str) -> String {
    if name.chars().count() <= NAME_WIDTH {
        return name.to_owned();
    }
    name.chars().take(NAME_WIDTH - 1).chain(['…']).collect()
}

/// The most important fact about an app, and whether a person has to act.
struct State {
    text: String,
    needs_attention: bool,
}

impl State {
    fn of(app: &AppReport) -> Self {
        let status = &app.status;
        let last = status.last_crawl.as_ref();
        let last_is = |status: CrawlStatus| last.is_some_and(|crawl| crawl.status == status.as_str());
        let bad = [CrawlStatus::Failed, CrawlStatus::Incomplete, CrawlStatus::Cancelled];
        let attention = |text: String| Self { text, needs_attention: true };
        let fine = |text: &str| Self { text: text.to_owned(), needs_attention: false };
        if !status.configured {
            return fine("not configured");
        }
        if status.held_count > 0 {
            return attention(format!("{} withheld", text::number(status.held_count)));
        }
        if let Some(found) = bad.into_iter().find(|found| last_is(*found)) {
            return Self {
                text: found.as_str().to_owned(),
                needs_attention: found != CrawlStatus::Cancelled,
            };
        }
        if app.overdue_since.is_some() {
            return attention("overdue".to_owned());
        }
        if app.crawled_now {
            return fine("crawling");
        }
        fine(if last.is_none() { "never crawled" } else { "up to date" })
    }
}
