//! Shows crawls under way: a bar with an ETA on a terminal, plain lines elsewhere.

use std::io::{self, IsTerminal as _};
use std::time::Duration;

use indicatif::{HumanCount, MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::sync::watch;
use tokio::time::{Instant, interval};

use crate::crawl::{Progress, Step};
use crate::telemetry;

/// Pause between plain lines about the same step.
const LINE_EVERY: Duration = Duration::from_secs(10);

/// Shows these crawls until it is dropped.
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
        for (bar, progress, begun) in &mut shown {
            let progress = progress.borrow_and_update().clone();
            if progress.step == Step::Idle {
                // A finished bar never shows again, so a crawl that has not begun must not finish it.
                if *begun {
                    bar.finish_and_clear();
                }
                continue;
            }
            *begun = true;
            if let Some(total) = progress.total
                && bar.length() != Some(total.max(progress.listed))
            {
                bar.set_length(total.max(progress.listed));
                bar.set_style(known.clone());
            }
            bar.set_position(progress.listed);
            bar.set_message(words(&progress));
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
            if now.step == Step::Idle || (same && since.elapsed() < LINE_EVERY) {
                continue;
            }
            let total = now.total.map_or_else(String::new, |total| format!(" of {}", HumanCount(total)));
            let so_far = match now.listed {
                0 => String::new(),
                listed => format!(", {}{total} groups so far", HumanCount(listed)),
            };
            eprintln!("{name}: {}{so_far}", words(&now));
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

fn words(progress: &Progress) -> String {
    if let Some(waiting) = &progress.waiting {
        let left = waiting.until.saturating_duration_since(Instant::now()).as_secs();
        return format!("retrying in {left}s: {}", waiting.why);
    }
    match &progress.step {
        Step::Idle => "idle".to_owned(),
        Step::WaitingForLease => "another process crawls this app; waiting for it".to_owned(),
        Step::Starting => "starting".to_owned(),
        Step::Listing { group_type: Some(group_type), .. } => format!("listing {group_type}"),
        Step::Listing { group_type: None, .. } => "listing all types".to_owned(),
        Step::Checking => "checking".to_owned(),
        Step::Asking { asked, of } => {
            format!("asking about {} groups, {} so far", HumanCount(*of), HumanCount(*asked))
        }
        Step::Concluding { to_mark: 0, .. } => "concluding".to_owned(),
        Step::Concluding { marked, to_mark } => {
            format!("concluding, {} of {} groups marked", HumanCount(*marked), HumanCount(*to_mark))
        }
    }
}
