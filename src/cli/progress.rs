//! Shows the progress of crawls: bars with an ETA on a terminal, lines elsewhere.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::watch;
use tokio::time::{Instant, interval};

use super::output::message;
use super::text;
use crate::crawl::{Progress, Step};
use crate::telemetry;

/// Interval between two lines about the same step.
const LINE_INTERVAL: Duration = Duration::from_secs(10);

/// Shows the progress of these crawls until the future is dropped.
pub(super) async fn show(crawls: Vec<(String, watch::Receiver<Progress>)>) {
    if io::stderr().is_terminal() {
        bars(crawls).await;
    } else {
        lines(crawls).await;
    }
}

async fn bars(crawls: Vec<(String, watch::Receiver<Progress>)>) {
    let all = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
    telemetry::share_terminal_with(&all);
    let style = |template: &str| {
        ProgressStyle::with_template(template)
            .unwrap_or_else(|_| ProgressStyle::default_bar())
            .progress_chars("━╸─")
    };
    let unknown = style("{prefix:.bold} {spinner} {msg}");
    let known = style("{prefix:.bold} {bar:30} {human_pos}/{human_len} groups, {eta} left  {msg}");
    let mut shown: Vec<(ProgressBar, watch::Receiver<Progress>, bool)> = crawls
        .into_iter()
        .map(|(name, progress)| {
            let bar = all.add(ProgressBar::no_length().with_style(unknown.clone()).with_prefix(name));
            (bar, progress, false)
        })
        .collect();
    let mut tick = interval(Duration::from_millis(100));
    loop {
        tick.tick().await;
        for (bar, progress, has_begun) in &mut shown {
            let progress = progress.borrow_and_update().clone();
            if progress.step == Step::Idle {
                // A finished bar cannot be shown again, so a bar is finished only if its crawl has
                // begun.
                if *has_begun {
                    bar.finish_and_clear();
                }
                continue;
            }
            *has_begun = true;
            if let Some(total) = progress.total
                && bar.length() != Some(total.max(progress.listed))
            {
                bar.set_length(total.max(progress.listed));
                bar.set_style(known.clone());
            }
            bar.set_position(progress.listed);
            bar.set_message(describe(&progress));
            bar.tick();
        }
    }
}

async fn lines(crawls: Vec<(String, watch::Receiver<Progress>)>) {
    let mut shown: Vec<_> =
        crawls.into_iter().map(|(name, progress)| (name, progress, Step::Idle, Instant::now())).collect();
    let mut tick = interval(Duration::from_millis(200));
    loop {
        tick.tick().await;
        for (name, progress, last, since) in &mut shown {
            let now = progress.borrow_and_update().clone();
            let same = std::mem::discriminant(&now.step) == std::mem::discriminant(last)
                && group_type(&now.step) == group_type(last);
            if now.step == Step::Idle || (same && since.elapsed() < LINE_INTERVAL) {
                continue;
            }
            let so_far = match (now.listed, now.total) {
                (0, _) => String::new(),
                (listed, None) => format!(", {} so far", text::count(listed, "group")),
                (listed, Some(total)) => {
                    format!(", {} of {} so far", HumanCount(listed), text::count(total, "group"))
                }
            };
            message(format_args!("{name}: {}{so_far}", describe(&now)));
            *last = now.step;
            *since = Instant::now();
        }
    }
}

fn group_type(step: &Step) -> Option<&str> {
    match step {
        Step::Listing { group_type, .. } => group_type.as_ref().map(crate::model::GroupType::as_str),
        _ => None,
    }
}

fn describe(progress: &Progress) -> String {
    if let Some(waiting) = &progress.waiting {
        let left = waiting.until.saturating_duration_since(Instant::now()).as_secs();
        return format!("retrying in {left} s: {}", waiting.why);
    }
    match &progress.step {
        Step::Idle => "idle".to_owned(),
        Step::WaitingForLease => "waiting for another process to finish crawling this app".to_owned(),
        Step::Starting => "starting".to_owned(),
        Step::Listing { group_type: Some(group_type), .. } => format!("listing {group_type}"),
        Step::Listing { group_type: None, .. } => "listing all types".to_owned(),
        Step::Checking => "checking the lists".to_owned(),
        Step::LookingUp { looked_up, total } => {
            format!("asking about {}, {} done", text::count(*total, "group"), HumanCount(*looked_up))
        }
        Step::Concluding { to_mark: 0, .. } => "writing the result".to_owned(),
        Step::Concluding { marked, to_mark } => {
            format!(
                "writing the result, {} of {} marked",
                HumanCount(*marked),
                text::count(*to_mark, "group")
            )
        }
    }
}
