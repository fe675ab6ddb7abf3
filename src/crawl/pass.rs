//! Runs the passes of a crawl. The next page is fetched while the current page is compared with the
//! roll.

use chrono::{DateTime, Utc};

use super::context::{CrawlContext, check_clock};
use super::error::Interrupted;
use super::page_diff::PageDiff;
use super::tally::{PassEnd, PassPlan, PassResult, PassState, PassTally};
use super::write_buffer::WriteBuffer;
use crate::model::Counts;
use crate::pages::{Caller, FetchedPage, PagesError, Paginator};
use crate::roll::Roll;
use crate::tencent::ApiError;
use crate::verdict::is_nearly_complete;

/// After this many consecutive pages without an id that is new to the pass, the list is treated as
/// endless and the pass fails.
const MAX_REPEATED_PAGES: u32 = 20;

/// Runs the planned passes in order. Appends every started pass to `passes`, including an
/// interrupted one.
pub(super) async fn make_passes(
    context: &CrawlContext<'_>,
    mut fetcher: PageFetcher<'_, '_>,
    roll: &mut Roll,
    pass_state: &mut PassState,
    passes: &mut Vec<PassResult>,
) -> Result<(), Interrupted> {
    let mut processor =
        PageProcessor { context, roll, pass_state, passes, tally: None, buffer: WriteBuffer::new() };
    let mut current = fetcher.next().await;
    while let Some(fetched) = current {
        // The next request is polled first, so that it is in flight while the current page is
        // processed. If it fails, the current page is still processed. If processing fails, the
        // passes end immediately.
        let next = async { Ok(fetcher.next().await) };
        (current, ()) = tokio::try_join!(biased; next, processor.process(fetched))?;
    }
    Ok(())
}

/// The result of one request for a page.
struct Fetched {
    plan: PassPlan,
    result: FetchResult,
    at: DateTime<Utc>,
    /// The `TotalCount`s of the list so far.
    counts: Counts,
    /// The number of pages of the list so far.
    pages: u32,
}

enum FetchResult {
    Page(FetchedPage),
    /// The API does not know the type.
    Rejected(ApiError),
    Failed(Interrupted),
}

/// Fetches all pages of all lists in order, until the first failure.
pub(super) struct PageFetcher<'a, 'c> {
    context: &'a CrawlContext<'a>,
    caller: &'a mut Caller<'c>,
    /// The lists that have not been started.
    lists: std::vec::IntoIter<(PassPlan, Paginator)>,
    current: Option<(PassPlan, Paginator)>,
}

impl<'a, 'c> PageFetcher<'a, 'c> {
    /// Creates a fetcher. `known_groups` is the greatest known count of groups, which limits the
    /// length of a list.
    pub(super) fn new(
        context: &'a CrawlContext<'a>,
        caller: &'a mut Caller<'c>,
        plans: Vec<PassPlan>,
        limit: u32,
        known_groups: Option<u64>,
    ) -> Self {
        let open = |plan: PassPlan| {
            let pages = Paginator::of(plan.group_type.clone(), limit, known_groups);
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
        let result =
            match self.context.requesting(self.caller.in_flight(), pages.fetch_next(self.caller)).await {
                Ok(Ok(page)) => FetchResult::Page(page),
                Ok(Err(PagesError::Api(error))) if pages.is_rejected(&error) => FetchResult::Rejected(error),
                Ok(Err(error)) => FetchResult::Failed(error.into()),
                Err(stopped) => FetchResult::Failed(stopped),
            };
        let requests = self.caller.requests();
        self.context.progress.send_modify(|progress| progress.requests = requests);
        let result = check_clock(self.caller).map_or_else(FetchResult::Failed, |()| result);
        let (plan, counts, pages) = (plan.clone(), pages.counts(), pages.pages());
        match &result {
            FetchResult::Page(FetchedPage { end: None, .. }) => {}
            FetchResult::Page(_) | FetchResult::Rejected(_) => self.current = None,
            FetchResult::Failed(_) => {
                self.current = None;
                self.lists = Vec::new().into_iter();
            }
        }
        Some(Fetched { plan, result, at: self.context.clock.now(), counts, pages })
    }
}

/// Compares pages with the roll, and writes new and changed groups.
struct PageProcessor<'a> {
    context: &'a CrawlContext<'a>,
    roll: &'a mut Roll,
    pass_state: &'a mut PassState,
    passes: &'a mut Vec<PassResult>,
    /// The current pass.
    tally: Option<PassTally>,
    buffer: WriteBuffer,
}

impl PageProcessor<'_> {
    /// Processes the result of one request. Writes the buffer if it is full, at the end of a pass
    /// and after a failure.
    async fn process(&mut self, fetched: Fetched) -> Result<(), Interrupted> {
        let Fetched { plan, result, at, counts, pages } = fetched;
        let mut tally = self.tally.take().unwrap_or_else(|| PassTally::new(plan));
        let processed = match result {
            FetchResult::Page(FetchedPage { page, end }) => {
                (tally.counts, tally.pages) = (counts, pages);
                self.buffer.listed_at = at;
                let diff = PageDiff {
                    tally: &mut tally,
                    pass_state: &mut *self.pass_state,
                    buffer: &mut self.buffer,
                    confirms_types: self.context.settings.confirms_types(),
                };
                diff.apply(self.roll, &page);
                drop(page);
                self.complete_page(&mut tally).await.map(|()| end.map(PassEnd::Complete))
            }
            FetchResult::Rejected(error) => Ok(Some(PassEnd::Rejected(error))),
            FetchResult::Failed(interrupted) => Err(interrupted),
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

    /// Publishes the progress of the pass, and writes the buffer if it is full. Returns an error if
    /// the list seems endless.
    async fn complete_page(&mut self, tally: &mut PassTally) -> Result<(), Interrupted> {
        tally.publish_progress(self.context.progress, self.roll.listed());
        if tally.repeated_pages >= MAX_REPEATED_PAGES {
            let reason = format!(
                "{MAX_REPEATED_PAGES} consecutive pages have only ids that this pass has already \
                 listed"
            );
            return Err(Interrupted::Pages(PagesError::Endless { reason }));
        }
        if self.buffer.is_full(tally.plan.in_baseline) {
            self.buffer.write(self.context, tally).await?;
        }
        Ok(())
    }

    /// Writes the rest of the buffer. Also called for a failed pass, because the groups that it
    /// listed exist.
    async fn flush(&mut self, tally: &mut PassTally, is_complete: bool) -> Result<(), Interrupted> {
        self.buffer.end_pass(is_complete);
        self.buffer.write(self.context, tally).await
    }

    /// Completes the tally of a pass that ended. Ends the baseline if the list is nearly complete.
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
            if tally.plan.defers_new_groups {
                tally.first_listed +=
                    self.context.count_unknown(&self.pass_state.uncertain.deferred_new).await?;
                tally.added_live += self.pass_state.uncertain.deferred_new.len() as u64;
            }
            if tally.plan.in_baseline && is_nearly_complete(&tally.counts, tally.distinct) {
                self.context.end_baseline(tally.plan.type_id).await?;
            }
            tally.warn_about_anomalies();
        }
        Ok(end)
    }
}
