//! The passes of a crawl: the next page is fetched while the one in hand is compared with the roll.

use chrono::{DateTime, Utc};

use super::context::{CrawlContext, check_clock};
use super::error::Interrupted;
use super::page_diff::PageDiff;
use super::tally::{PassEnd, PassNotes, PassPlan, PassResult, PassTally};
use super::write_buffer::WriteBuffer;
use crate::model::Counts;
use crate::pages::{Caller, FetchedPage, Pages, PagesError};
use crate::roll::Roll;
use crate::tencent::ApiError;
use crate::verdict::is_nearly_complete;

/// Pages in a row without an id that is new to the pass, after which its list is called endless.
const MAX_PAGES_WITHOUT_NEWS: u32 = 20;

/// Makes the passes of a fetcher one after the other. Adds each pass that was begun to `passes`, an interrupted one too.
pub(super) async fn make_passes(
    context: &CrawlContext<'_>,
    mut fetcher: PageFetcher<'_, '_>,
    roll: &mut Roll,
    notes: &mut PassNotes,
    passes: &mut Vec<PassResult>,
) -> Result<(), Interrupted> {
    let mut processor =
        PageProcessor { context, roll, notes, passes, tally: None, buffer: WriteBuffer::new() };
    let mut in_hand = fetcher.next().await;
    while let Some(fetched) = in_hand {
        // The request is polled first, so that it is in flight while the page in hand is processed. A failed
        // request ends the passes only after the page in hand, a failed write at once.
        let next = async { Ok(fetcher.next().await) };
        (in_hand, ()) = tokio::try_join!(biased; next, processor.process(fetched))?;
    }
    Ok(())
}

/// The answer to one request for a page.
struct Fetched {
    plan: PassPlan,
    answer: Answer,
    at: DateTime<Utc>,
    /// Counts and pages of the list so far.
    counts: Counts,
    pages: u32,
}

enum Answer {
    Page(FetchedPage),
    /// The API does not know the type.
    Rejected(ApiError),
    Failed(Interrupted),
}

/// Fetches page after page of one list after the other, to the last one or the first failure.
pub(super) struct PageFetcher<'a, 'c> {
    context: &'a CrawlContext<'a>,
    caller: &'a mut Caller<'c>,
    /// The lists that have not been begun.
    lists: std::vec::IntoIter<(PassPlan, Pages)>,
    current: Option<(PassPlan, Pages)>,
}

impl<'a, 'c> PageFetcher<'a, 'c> {
    /// `known_groups` is the greatest known count of groups, which bounds the length of a list.
    pub(super) fn new(
        context: &'a CrawlContext<'a>,
        caller: &'a mut Caller<'c>,
        plans: Vec<PassPlan>,
        limit: u32,
        known_groups: Option<u64>,
    ) -> Self {
        let open = |plan: PassPlan| {
            let pages = Pages::of(plan.group_type.clone(), limit, known_groups);
            (plan, pages)
        };
        let lists: Vec<_> = plans.into_iter().map(open).collect();
        Self { context, caller, lists: lists.into_iter(), current: None }
    }

    /// Returns `None` after the last page of the last list, and after a failure.
    async fn next(&mut self) -> Option<Fetched> {
        if self.current.is_none() {
            self.current = self.lists.next();
        }
        let (plan, pages) = self.current.as_mut()?;
        let answer =
            match self.context.requesting(self.caller.in_flight(), pages.fetch_next(self.caller)).await {
                Ok(Ok(page)) => Answer::Page(page),
                Ok(Err(PagesError::Api(error))) if pages.is_rejected(&error) => Answer::Rejected(error),
                Ok(Err(error)) => Answer::Failed(error.into()),
                Err(stopped) => Answer::Failed(stopped),
            };
        let requests = self.caller.requests();
        self.context.progress.send_modify(|progress| progress.requests = requests);
        let answer = check_clock(self.caller).map_or_else(Answer::Failed, |()| answer);
        let (plan, counts, pages) = (plan.clone(), pages.counts(), pages.pages());
        match &answer {
            Answer::Page(FetchedPage { end: None, .. }) => {}
            Answer::Page(_) | Answer::Rejected(_) => self.current = None,
            Answer::Failed(_) => {
                self.current = None;
                self.lists = Vec::new().into_iter();
            }
        }
        Some(Fetched { plan, answer, at: self.context.clock.now(), counts, pages })
    }
}

/// Compares pages with the roll, and writes what they change.
struct PageProcessor<'a> {
    context: &'a CrawlContext<'a>,
    roll: &'a mut Roll,
    notes: &'a mut PassNotes,
    passes: &'a mut Vec<PassResult>,
    /// The current pass.
    tally: Option<PassTally>,
    buffer: WriteBuffer,
}

impl PageProcessor<'_> {
    /// Processes one answer. At the end of its pass, and at a failure, everything that was listed is written.
    async fn process(&mut self, fetched: Fetched) -> Result<(), Interrupted> {
        let Fetched { plan, answer, at, counts, pages } = fetched;
        let mut tally = self.tally.take().unwrap_or_else(|| PassTally::new(plan));
        let processed = match answer {
            Answer::Page(FetchedPage { page, end }) => {
                (tally.counts, tally.pages) = (counts, pages);
                self.buffer.listed_at = at;
                let diff = PageDiff {
                    tally: &mut tally,
                    notes: &mut *self.notes,
                    buffer: &mut self.buffer,
                    confirms_types: self.context.settings.confirms_types(),
                };
                diff.apply(self.roll, &page);
                drop(page);
                self.complete_page(&mut tally).await.map(|()| end.map(PassEnd::Complete))
            }
            Answer::Rejected(error) => Ok(Some(PassEnd::Rejected(error))),
            Answer::Failed(interrupted) => Err(interrupted),
        };
        let end = match processed {
            Ok(None) => {
                self.tally = Some(tally);
                return Ok(());
            }
            Ok(Some(end)) => self.finish_pass(&mut tally, end, at).await,
            Err(interrupted) => self.flush(&mut tally, false).await.and(Err(interrupted)),
        };
        let (end, outcome) = match end {
            Ok(end) => (Some(end), Ok(())),
            Err(interrupted) => (None, Err(interrupted)),
        };
        self.passes.push(PassResult { tally, end });
        outcome
    }

    /// Shows the progress of the pass, and writes the buffer if it is full. Fails if the list seems endless.
    async fn complete_page(&mut self, tally: &mut PassTally) -> Result<(), Interrupted> {
        tally.show(self.context.progress, self.roll.listed());
        if tally.pages_without_news >= MAX_PAGES_WITHOUT_NEWS {
            let what =
                format!("{MAX_PAGES_WITHOUT_NEWS} pages in a row list only ids that this pass listed before");
            return Err(Interrupted::Pages(PagesError::Endless { what }));
        }
        if self.buffer.is_full(tally.plan.in_baseline) {
            self.buffer.write(self.context, tally).await?;
        }
        Ok(())
    }

    /// Writes what the pass has left in the buffer: what was listed is true, however the pass ended.
    async fn flush(&mut self, tally: &mut PassTally, is_complete: bool) -> Result<(), Interrupted> {
        self.buffer.end_pass(is_complete);
        self.buffer.write(self.context, tally).await
    }

    /// Completes the tally of a pass that ended, and records the end of its baseline.
    async fn finish_pass(
        &mut self,
        tally: &mut PassTally,
        end: PassEnd,
        at: DateTime<Utc>,
    ) -> Result<PassEnd, Interrupted> {
        let is_complete = matches!(end, PassEnd::Complete(_));
        self.flush(tally, is_complete).await?;
        if is_complete {
            tally.ended_at = Some(at);
            if tally.plan.defers_new {
                tally.first_listed += self.context.count_unknown(&self.notes.uncertain.deferred_new).await?;
                tally.gained += self.notes.uncertain.deferred_new.len() as u64;
            }
            if tally.plan.in_baseline && is_nearly_complete(&tally.counts, tally.distinct) {
                self.context.end_baseline(tally.plan.type_id).await?;
            }
            tally.warn_about_anomalies();
        }
        Ok(end)
    }
}
