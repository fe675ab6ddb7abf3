//! One pass: every page of one group type, ticked off on the roll while the next page is under way.

use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::watch;
use tokio::time::Instant;
use tracing::warn;

use super::progress::{Progress, Step};
use super::{CrawlSite, Interrupted, keeping};
use crate::model::{GroupIds, GroupType, TypeId};
use crate::pace::Disposition;
use crate::pages::{Caller, EndOfList, Pages, PagesError, Turned};
use crate::roll::{PassNo, Roll, Sighting};
use crate::store::Batch;
use crate::tencent::Page;
use crate::verdict::{FinishedPass, Recheck};

/// New and changed ids are written when so many have been gathered …
const GATHER_IDS: usize = 100_000;
/// … or when the first of them has waited this long.
const GATHER_FOR: Duration = Duration::from_secs(10);
/// Pages in a row that list nothing this pass has not listed before.
const MAX_PAGES_WITHOUT_NEWS: u32 = 20;

/// What a pass is about.
#[derive(Clone, Debug)]
pub(super) struct PassPlan {
    pub(super) no: PassNo,
    /// `None` lists all types.
    pub(super) group_type: Option<GroupType>,
    pub(super) type_id: TypeId,
    pub(super) in_baseline: bool,
}

/// How a pass went, as far as it went.
#[derive(Debug)]
pub(super) struct PassTally {
    pub(super) plan: PassPlan,
    pub(super) pages: Pages,
    pub(super) distinct: u64,
    pub(super) repeats: u64,
    /// Ids that an earlier typed pass had listed under its own type.
    pub(super) elsewhere: u64,
    pub(super) unusable: u64,
    pub(super) first_listed: u64,
    pub(super) ended_at: Option<DateTime<Utc>>,
    pages_without_news: u32,
}

/// The end of a pass.
#[derive(Debug)]
pub(super) enum PassEnd {
    /// The API said that the list is complete.
    Complete(EndOfList),
    /// The API does not know the type.
    Rejected,
}

impl PassTally {
    pub(super) fn new(plan: PassPlan, limit: u32) -> Self {
        Self {
            pages: Pages::of(plan.group_type.clone(), limit),
            plan,
            distinct: 0,
            repeats: 0,
            elsewhere: 0,
            unusable: 0,
            first_listed: 0,
            ended_at: None,
            pages_without_news: 0,
        }
    }

    /// The evidence of a pass that reached its end.
    pub(super) fn finished(&self, end: EndOfList, recheck: Recheck) -> FinishedPass {
        FinishedPass {
            type_id: self.plan.type_id,
            end,
            counts: self.pages.counts(),
            distinct: self.distinct,
            repeats: self.repeats,
            first_listed: self.first_listed,
            unusable: self.unusable,
            recheck,
        }
    }
}

/// Runs a pass to its end, or to what interrupts it. The tally is right in either case.
pub(super) async fn run(
    site: &CrawlSite<'_>,
    caller: &mut Caller<'_>,
    roll: &mut Roll,
    tally: &mut PassTally,
) -> Result<PassEnd, Interrupted> {
    let mut gathered = Gathered::default();
    let walked = walk(site, caller, roll, tally, &mut gathered).await;
    // What was listed is true, however the pass ended.
    gathered.write(site, roll, tally).await?;
    let end = walked?;
    if matches!(end, PassEnd::Complete(_)) {
        tally.ended_at = Some(site.clock.now());
        if tally.plan.in_baseline {
            site.store.end_baseline(site.lease, site.app, tally.plan.type_id, site.crawl).await?;
        }
        tally.warn_of_oddities();
    }
    Ok(end)
}

async fn walk(
    site: &CrawlSite<'_>,
    caller: &mut Caller<'_>,
    roll: &mut Roll,
    tally: &mut PassTally,
    gathered: &mut Gathered,
) -> Result<PassEnd, Interrupted> {
    let first = match site.unless_stopped(tally.pages.turn(caller)).await? {
        Err(PagesError::Api(error)) if error.disposition() == Disposition::RejectType => {
            return Ok(PassEnd::Rejected);
        }
        turned => turned?,
    };
    let Turned { mut page, mut end } = first;
    loop {
        let PassTally { pages, .. } = tally;
        if let Some(end) = end {
            take(site, roll, tally, gathered, &page).await?;
            tally.show(site.progress, roll, caller);
            return Ok(PassEnd::Complete(end));
        }
        // The next page is asked for first and on its way while this one is taken in.
        let mut walking = std::mem::replace(pages, Pages::of(None, 1));
        let (turned, taken) = tokio::join!(
            biased;
            site.unless_stopped(walking.turn(caller)),
            take(site, roll, tally, gathered, &page)
        );
        tally.pages = walking;
        taken?;
        tally.show(site.progress, roll, caller);
        Turned { page, end } = turned??;
    }
}

/// Ticks a page off and gathers what has to be written, writing it when it is enough.
async fn take(
    site: &CrawlSite<'_>,
    roll: &mut Roll,
    tally: &mut PassTally,
    gathered: &mut Gathered,
    page: &Page,
) -> Result<(), Interrupted> {
    let distinct_before = tally.distinct;
    tally.unusable += page.unusable;
    for id in page.ids.iter() {
        match roll.list(tally.plan.no, tally.plan.type_id, id) {
            Sighting::Known => tally.distinct += 1,
            Sighting::New | Sighting::Changed => {
                tally.distinct += 1;
                gathered.add(id);
            }
            Sighting::Elsewhere => {
                tally.distinct += 1;
                tally.elsewhere += 1;
            }
            Sighting::Repeat => tally.repeats += 1,
        }
    }
    tally.pages_without_news =
        if tally.distinct > distinct_before { 0 } else { tally.pages_without_news + 1 };
    if tally.pages_without_news >= MAX_PAGES_WITHOUT_NEWS {
        let what =
            format!("{MAX_PAGES_WITHOUT_NEWS} pages in a row list only ids that this pass listed before");
        return Err(Interrupted::Pages(PagesError::Endless { what }));
    }
    if gathered.is_enough() {
        gathered.write(site, roll, tally).await
    } else {
        Ok(site.lease.renew().await?)
    }
}

impl PassTally {
    fn show(&self, progress: &watch::Sender<Progress>, roll: &Roll, caller: &Caller<'_>) {
        progress.send_modify(|progress| {
            progress.listed = roll.listed();
            progress.requests = caller.requests();
            progress.step = Step::Listing {
                group_type: self.plan.group_type.clone(),
                listed: self.distinct,
                total: self.pages.counts().last,
            };
        });
    }

    fn warn_of_oddities(&self) {
        let group_type = self.plan.group_type.as_ref().map(GroupType::as_str);
        if self.elsewhere > 0 && group_type.is_some() {
            warn!(
                group_type,
                groups = self.elsewhere,
                "groups are listed under this type that an earlier pass listed under another; they keep the first"
            );
        }
        if self.unusable > 0 {
            warn!(
                group_type,
                ids = self.unusable,
                "listed ids cannot be group ids (empty, over 255 bytes, or with control characters) and are not kept"
            );
        }
    }
}

/// New and changed ids on their way to the database.
#[derive(Debug, Default)]
struct Gathered {
    ids: GroupIds,
    since: Option<Instant>,
}

impl Gathered {
    fn add(&mut self, id: &str) {
        self.ids.push(id);
    }

    fn is_enough(&mut self) -> bool {
        if self.ids.is_empty() {
            return false;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        self.ids.len() >= GATHER_IDS || since.elapsed() >= GATHER_FOR
    }

    async fn write(
        &mut self,
        site: &CrawlSite<'_>,
        roll: &mut Roll,
        tally: &mut PassTally,
    ) -> Result<(), Interrupted> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let batch = Batch {
            app: site.app,
            crawl: site.crawl,
            type_id: tally.plan.type_id,
            in_baseline: tally.plan.in_baseline,
            at: site.clock.now(),
            ids: self.ids.sorted(),
        };
        let written = keeping(site.lease, site.store.write_listed(site.lease, &batch)).await??;
        tally.first_listed += written.first_listed;
        roll.settle();
        *self = Self::default();
        Ok(())
    }
}
