//! The passes of a crawl: every page of each group type, ticked off on the roll while the next page is under way.

use std::convert::Infallible;
use std::future::pending;
use std::time::Duration;

use chrono::{DateTime, Utc};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tracing::warn;

use super::progress::{Progress, Step};
use super::roll_read::RollRead;
use super::{CrawlSite, Interrupted};
use crate::model::{Counts, GroupIds, GroupType, TypeId};
use crate::pages::{Caller, EndOfList, Pages, PagesError, Turned};
use crate::roll::{PassNo, Sighting};
use crate::tencent::{ApiError, Page};
use crate::verdict::{FinishedPass, Recheck, is_nearly_whole};

/// New and changed ids are written when so much text of them has been gathered: some 400,000 ids. They are spread over the
/// whole table, so that twice as many at once cost little more …
const GATHER_BYTES: usize = 8 * 1024 * 1024;
/// … or when the first of them has waited this long, unless the whole type is new.
const GATHER_FOR: Duration = Duration::from_secs(10);
/// Pages in a row that list nothing this pass has not listed before.
const MAX_PAGES_WITHOUT_NEWS: u32 = 20;
/// Pages fetched ahead of the one in hand …
const PAGES_AHEAD: usize = 1;
/// … in a crawl that begins before its roll is read: some 20 MB …
const PAGES_AHEAD_OF_ROLL: usize = 80;
/// … and while that crawl writes, which needs memory of its own.
const PAGES_AHEAD_OF_WRITING: usize = 8;

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
    pub(super) pages: u32,
    pub(super) counts: Counts,
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
    Rejected(ApiError),
}

impl PassTally {
    pub(super) fn new(plan: PassPlan) -> Self {
        Self {
            plan,
            pages: 0,
            counts: Counts::default(),
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
            counts: self.counts,
            distinct: self.distinct,
            repeats: self.repeats,
            first_listed: self.first_listed,
            in_baseline: self.plan.in_baseline,
            unusable: self.unusable,
            recheck,
        }
    }
}

/// Runs these passes one after the other, to their end or to what interrupts them, and tells `ended` of each, the
/// interrupted one too: its tally is right, as far as it went.
pub(super) async fn run(
    site: &CrawlSite<'_>,
    caller: &mut Caller<'_>,
    limit: u32,
    roll: &mut RollRead,
    plans: Vec<PassPlan>,
    mut ended: impl FnMut(PassTally, Option<PassEnd>, u64),
) -> Result<(), Interrupted> {
    let ahead = if roll.is_ready() { PAGES_AHEAD } else { PAGES_AHEAD_OF_ROLL };
    let (fetched, mut pages) = mpsc::channel(ahead);
    let lists = plans.iter().map(|plan| Pages::of(plan.group_type.clone(), limit)).collect();
    let mut gathered = Gathered::beside(fetched.clone());
    let fetching = fetch(site, caller, lists, fetched);
    let taking = async {
        for plan in plans {
            let mut tally = PassTally::new(plan);
            let end = take_pass(site, &mut pages, roll, &mut tally, &mut gathered).await;
            let (end, interrupted) = match end {
                Ok(end) => (Some(end), Ok(())),
                Err(interrupted) => (None, Err(interrupted)),
            };
            ended(tally, end, roll.listed());
            interrupted?;
        }
        Ok(())
    };
    // The next page is asked for first and under way while the one in hand is taken in.
    tokio::select! {
        biased;
        never = fetching => match never {},
        taken = taking => taken,
    }
}

/// What became of asking for a page, when, and what its pass had been told until then.
struct Fetched {
    outcome: Outcome,
    at: DateTime<Utc>,
    counts: Counts,
    pages: u32,
}

enum Outcome {
    Page(Turned),
    /// The API does not know the type.
    Rejected(ApiError),
    Failed(Interrupted),
}

/// Fetches page after page of one list after the other, to the last one or the first failure, and then waits to be
/// dropped.
async fn fetch(
    site: &CrawlSite<'_>,
    caller: &mut Caller<'_>,
    lists: Vec<Pages>,
    fetched: mpsc::Sender<Fetched>,
) -> Infallible {
    for mut pages in lists {
        loop {
            let outcome = match site.asking(caller.in_hand(), pages.turn(caller)).await {
                Ok(Ok(turned)) => Outcome::Page(turned),
                Ok(Err(PagesError::Api(error))) if pages.is_rejected(&error) => Outcome::Rejected(error),
                Ok(Err(error)) => Outcome::Failed(error.into()),
                Err(stopped) => Outcome::Failed(stopped),
            };
            site.progress.send_modify(|progress| progress.requests = caller.requests());
            let (more, failed) = match &outcome {
                Outcome::Page(turned) => (turned.end.is_none(), false),
                Outcome::Rejected(_) => (false, false),
                Outcome::Failed(_) => (false, true),
            };
            let at = site.clock.now();
            let page = Fetched { outcome, at, counts: pages.counts(), pages: pages.pages() };
            if fetched.send(page).await.is_err() || failed {
                return pending().await;
            }
            if !more {
                break;
            }
        }
    }
    pending().await
}

/// Takes in the pages of one pass.
async fn take_pass(
    site: &CrawlSite<'_>,
    pages: &mut mpsc::Receiver<Fetched>,
    roll: &mut RollRead,
    tally: &mut PassTally,
    gathered: &mut Gathered,
) -> Result<PassEnd, Interrupted> {
    let taken = take_all(site, pages, roll, tally, gathered).await;
    // What was listed is true, however the pass ended.
    gathered.write(site, tally).await?;
    let (end, at) = taken?;
    if matches!(end, PassEnd::Complete(_)) {
        tally.ended_at = Some(at);
        if tally.plan.in_baseline && is_nearly_whole(&tally.counts, tally.distinct) {
            site.end_baseline(tally.plan.type_id).await?;
        }
        tally.warn_of_oddities();
    }
    Ok(end)
}

async fn take_all(
    site: &CrawlSite<'_>,
    pages: &mut mpsc::Receiver<Fetched>,
    roll: &mut RollRead,
    tally: &mut PassTally,
    gathered: &mut Gathered,
) -> Result<(PassEnd, DateTime<Utc>), Interrupted> {
    loop {
        // The fetching side keeps its end of the channel for as long as this runs.
        let Fetched { outcome, at, counts, pages } = pages.recv().await.ok_or(Interrupted::Stopped)?;
        let Turned { page, end } = match outcome {
            Outcome::Page(turned) => turned,
            Outcome::Rejected(error) => return Ok((PassEnd::Rejected(error), at)),
            Outcome::Failed(interrupted) => return Err(interrupted),
        };
        (tally.counts, tally.pages) = (counts, pages);
        site.unless_stopped(roll.ready()).await??;
        gathered.at = at;
        take(site, roll, tally, gathered, page).await?;
        tally.show(site.progress, roll.listed());
        if let Some(end) = end {
            return Ok((PassEnd::Complete(end), at));
        }
    }
}

/// Ticks a page off and gathers what has to be written, writing it when it is enough.
async fn take(
    site: &CrawlSite<'_>,
    roll: &mut RollRead,
    tally: &mut PassTally,
    gathered: &mut Gathered,
    page: Page,
) -> Result<(), Interrupted> {
    let (no, type_id) = (tally.plan.no, tally.plan.type_id);
    let mut ids = std::mem::take(&mut gathered.ids);
    let ticked_off = roll.work(move |roll| {
        let (mut distinct, mut elsewhere, mut repeats) = (0, 0, 0);
        roll.list(no, type_id, &page.ids, |id, sighting| match sighting {
            Sighting::Known => distinct += 1,
            Sighting::New | Sighting::Changed => {
                distinct += 1;
                ids.push(id);
            }
            Sighting::Elsewhere => {
                distinct += 1;
                elsewhere += 1;
            }
            Sighting::Repeat => repeats += 1,
        });
        (ids, page.unusable, distinct, elsewhere, repeats)
    });
    let (ids, unusable, distinct, elsewhere, repeats) = ticked_off.await?;
    gathered.ids = ids;
    tally.distinct += distinct;
    tally.elsewhere += elsewhere;
    tally.repeats += repeats;
    tally.unusable += unusable;
    tally.pages_without_news = if distinct > 0 { 0 } else { tally.pages_without_news + 1 };
    if tally.pages_without_news >= MAX_PAGES_WITHOUT_NEWS {
        let what =
            format!("{MAX_PAGES_WITHOUT_NEWS} pages in a row list only ids that this pass listed before");
        return Err(Interrupted::Pages(PagesError::Endless { what }));
    }
    if gathered.is_enough(tally.plan.in_baseline) { gathered.write(site, tally).await } else { Ok(()) }
}

impl PassTally {
    fn show(&self, progress: &watch::Sender<Progress>, listed: u64) {
        progress.send_modify(|progress| {
            progress.listed = listed;
            progress.step = Step::Listing {
                group_type: self.plan.group_type.clone(),
                listed: self.distinct,
                total: self.counts.last,
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

/// New and changed ids on their way to the database. One for all passes: a buffer of megabytes that is made anew each
/// time, now on this thread and now on that, leaves a hole of its size with each of them.
struct Gathered {
    /// Through which pages come meanwhile.
    fetched: mpsc::Sender<Fetched>,
    ids: GroupIds,
    since: Option<Instant>,
    /// When the newest of them was listed.
    at: DateTime<Utc>,
}

impl Gathered {
    fn beside(fetched: mpsc::Sender<Fetched>) -> Self {
        Self { fetched, ids: GroupIds::new(), since: None, at: DateTime::default() }
    }

    fn is_enough(&mut self, in_baseline: bool) -> bool {
        if self.ids.is_empty() {
            return false;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        self.ids.text_len() >= GATHER_BYTES || (!in_baseline && since.elapsed() >= GATHER_FOR)
    }

    async fn write(&mut self, site: &CrawlSite<'_>, tally: &mut PassTally) -> Result<(), Interrupted> {
        if self.ids.is_empty() {
            return Ok(());
        }
        let plan = &tally.plan;
        let too_many = self.fetched.capacity().saturating_sub(PAGES_AHEAD_OF_WRITING);
        // In the unlikely case that so many pages came in between, none is held back.
        let _held_back = self.fetched.try_reserve_many(too_many);
        let written = site.write_listed(plan.type_id, plan.in_baseline, self.at, &self.ids).await?;
        tally.first_listed += written.first_listed;
        self.ids.clear();
        self.since = None;
        Ok(())
    }
}
