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
use super::types::TypeDoubts;
use super::{CrawlSite, Interrupted};
use crate::confirmation::{History, Samples};
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
/// New ids that a pass may have beyond its TotalCount and the live groups before. Any further ones are written only once the
/// list has ended, because a list that invents ids has no end.
const MOST_UNEXPECTED: u64 = 1_000;
/// New ids of a page that are looked at for samples.
const NEW_SAMPLES: usize = 32;
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
    /// Live groups of the type, or of all types, when the crawl began.
    pub(super) live_before: u64,
    /// New groups wait for the crawl's end, when their types may be known.
    pub(super) keep_new: bool,
}

/// What the passes of a crawl note for its end.
#[derive(Debug, Default)]
pub(super) struct Notes {
    pub(super) history: History,
    pub(super) samples: Samples,
    pub(super) doubts: TypeDoubts,
    /// Types with a pass of their own.
    pub(super) own_types: Vec<TypeId>,
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
    /// Ids that were not live when the crawl began.
    pub(super) new: u64,
    /// Groups that were live and missing.
    pub(super) returned: u64,
    /// Groups that were known under another type.
    pub(super) claimed: u64,
    /// Live groups that this pass added.
    pub(super) gained: u64,
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
            new: 0,
            returned: 0,
            claimed: 0,
            gained: 0,
            ended_at: None,
            pages_without_news: 0,
        }
    }

    /// Whether every listed id was live, known under this type, not missing, and listed once.
    pub(super) fn is_plain(&self) -> bool {
        self.new + self.returned + self.claimed + self.repeats + self.elsewhere + self.unusable == 0
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
    (roll, notes): (&mut RollRead, &mut Notes),
    plans: Vec<PassPlan>,
    known_groups: Option<u64>,
    mut ended: impl FnMut(PassTally, Option<PassEnd>, u64),
) -> Result<(), Interrupted> {
    let ahead = if roll.is_ready() { PAGES_AHEAD } else { PAGES_AHEAD_OF_ROLL };
    let (fetched, mut pages) = mpsc::channel(ahead);
    let lists = plans.iter().map(|plan| Pages::of(plan.group_type.clone(), limit, known_groups)).collect();
    let mut gathered = Gathered::beside(fetched.clone());
    let fetching = fetch(site, caller, lists, fetched);
    let taking = async {
        for plan in plans {
            let mut tally = PassTally::new(plan);
            let end = take_pass(site, &mut pages, (roll, notes), &mut tally, &mut gathered).await;
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
            let outcome = match site.asking(caller.in_flight(), pages.turn(caller)).await {
                Ok(Ok(turned)) => Outcome::Page(turned),
                Ok(Err(PagesError::Api(error))) if pages.is_rejected(&error) => Outcome::Rejected(error),
                Ok(Err(error)) => Outcome::Failed(error.into()),
                Err(stopped) => Outcome::Failed(stopped),
            };
            site.progress.send_modify(|progress| progress.requests = caller.requests());
            let outcome = match site.check_clock(caller) {
                Ok(()) => outcome,
                Err(clock) => Outcome::Failed(clock),
            };
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
    (roll, notes): (&mut RollRead, &mut Notes),
    tally: &mut PassTally,
    gathered: &mut Gathered,
) -> Result<PassEnd, Interrupted> {
    let taken = take_all(site, pages, (roll, notes), tally, gathered).await;
    if matches!(taken, Ok((PassEnd::Complete(_), _))) {
        gathered.changed.append(&mut gathered.unexpected);
    }
    gathered.unexpected.clear();
    // What was listed is true, however the pass ended.
    gathered.write(site, tally).await?;
    let (end, at) = taken?;
    if matches!(end, PassEnd::Complete(_)) {
        tally.ended_at = Some(at);
        if tally.plan.keep_new {
            tally.first_listed += site.count_unknown(&notes.doubts.unfiltered_new).await?;
            tally.gained += notes.doubts.unfiltered_new.len() as u64;
        }
        if tally.plan.in_baseline && is_nearly_whole(&tally.counts, tally.distinct) {
            site.end_baseline(tally.plan.type_id).await?;
        }
        tally.warn_about_anomalies();
    }
    Ok(end)
}

async fn take_all(
    site: &CrawlSite<'_>,
    pages: &mut mpsc::Receiver<Fetched>,
    (roll, notes): (&mut RollRead, &mut Notes),
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
        take(site, roll, notes, tally, gathered, page).await?;
        tally.show(site.progress, roll.listed());
        if let Some(end) = end {
            return Ok((PassEnd::Complete(end), at));
        }
    }
}

/// A page after it was ticked off.
struct TickedOff {
    page: Page,
    changed: GroupIds,
    unexpected: GroupIds,
    /// Live again though another type is known: only `missing_since` is to be cleared.
    returned_elsewhere: GroupIds,
    /// Some of the new ids, for samples.
    new_samples: GroupIds,
    /// New ids that wait for the crawl's end.
    kept: Vec<String>,
    /// Listed under this type, and known under another.
    claimed: Vec<(String, TypeId)>,
    /// Listed by an earlier pass too.
    elsewhere_ids: Vec<String>,
    counted: Counted,
}

#[derive(Clone, Copy, Default)]
struct Counted {
    distinct: u64,
    elsewhere: u64,
    repeats: u64,
    new: u64,
    returned: u64,
    claimed: u64,
}

/// What the closure that ticks a page off has to know.
struct TickOff {
    plan: PassPlan,
    /// New ids that may still be written before the list has ended.
    expected_left: u64,
    note_elsewhere: bool,
    own_types: Vec<TypeId>,
}

impl TickOff {
    fn run(&self, roll: &mut crate::roll::Roll, mut off: TickedOff) -> TickedOff {
        let (type_id, typed) = (self.plan.type_id, self.plan.group_type.is_some());
        let page = std::mem::replace(&mut off.page, Page::empty());
        let mut expected_left = self.expected_left;
        roll.list(self.plan.no, type_id, &page.ids, |id, sighting| {
            let counted = &mut off.counted;
            match sighting {
                Sighting::Repeat => {
                    counted.repeats += 1;
                    return;
                }
                Sighting::Elsewhere => {
                    counted.elsewhere += 1;
                    if self.note_elsewhere && typed {
                        off.elsewhere_ids.push(id.to_owned());
                    }
                }
                Sighting::New => {
                    counted.new += 1;
                    if off.new_samples.len() == NEW_SAMPLES {
                        off.new_samples.clear();
                    }
                    off.new_samples.push(id);
                    if self.plan.keep_new {
                        off.kept.push(id.to_owned());
                    } else if expected_left > 0 {
                        expected_left -= 1;
                        off.changed.push(id);
                    } else {
                        off.unexpected.push(id);
                    }
                }
                Sighting::Known { known_type, missing } => {
                    counted.returned += u64::from(missing);
                    let right_type = !typed || known_type == type_id;
                    let untold = typed && known_type == TypeId::UNKNOWN;
                    if untold || (right_type && missing) {
                        off.changed.push(id);
                    } else if !right_type {
                        counted.claimed += 1;
                        off.claimed.push((id.to_owned(), known_type));
                        if missing {
                            off.returned_elsewhere.push(id);
                        }
                    }
                    let in_doubt = known_type == TypeId::UNKNOWN || self.own_types.contains(&known_type);
                    if !typed && in_doubt {
                        off.claimed.push((id.to_owned(), known_type));
                    }
                }
            }
            off.counted.distinct += 1;
        });
        off.page = page;
        off
    }
}

/// Ticks a page off and gathers what has to be written, writing it when it is enough.
async fn take(
    site: &CrawlSite<'_>,
    roll: &mut RollRead,
    notes: &mut Notes,
    tally: &mut PassTally,
    gathered: &mut Gathered,
    page: Page,
) -> Result<(), Interrupted> {
    let plan = tally.plan.clone();
    let (type_id, typed) = (plan.type_id, plan.group_type.is_some());
    let expected = tally.counts.highest.unwrap_or(0).max(plan.live_before) + MOST_UNEXPECTED;
    let mut expected_left = expected.saturating_sub(tally.new);
    let tick_off = TickOff {
        plan,
        expected_left,
        note_elsewhere: notes.doubts.has_claims(),
        own_types: notes.own_types.clone(),
    };
    let off = TickedOff {
        page,
        changed: std::mem::take(&mut gathered.changed),
        unexpected: std::mem::take(&mut gathered.unexpected),
        returned_elsewhere: std::mem::take(&mut gathered.returned_elsewhere),
        new_samples: GroupIds::new(),
        kept: Vec::new(),
        claimed: Vec::new(),
        elsewhere_ids: Vec::new(),
        counted: Counted::default(),
    };
    let off = roll.work(move |roll| tick_off.run(roll, off)).await?;
    (gathered.changed, gathered.unexpected) = (off.changed, off.unexpected);
    gathered.returned_elsewhere = off.returned_elsewhere;
    notes.samples.take(type_id, &off.page.ids, &off.new_samples);
    for id in &off.kept {
        if notes.doubts.keep_new(id) {
            continue;
        }
        // Too many to wait for the crawl's end: written now, as the new ids of any other pass.
        let unexpected = expected_left == 0;
        expected_left = expected_left.saturating_sub(1);
        if unexpected { gathered.unexpected.push(id) } else { gathered.changed.push(id) }
    }
    for (id, known_type) in &off.claimed {
        if typed {
            notes.doubts.claim(&notes.history, id, *known_type, type_id);
        } else if site.learns_types {
            notes.doubts.listed_without_filter(&notes.history, id, *known_type);
        }
    }
    off.elsewhere_ids.iter().for_each(|id| notes.doubts.dispute(id));
    tally.add(&off.counted, off.page.unusable);
    if tally.pages_without_news >= MAX_PAGES_WITHOUT_NEWS {
        let what =
            format!("{MAX_PAGES_WITHOUT_NEWS} pages in a row list only ids that this pass listed before");
        return Err(Interrupted::Pages(PagesError::Endless { what }));
    }
    if gathered.is_enough(tally.plan.in_baseline) { gathered.write(site, tally).await } else { Ok(()) }
}

impl PassTally {
    fn add(&mut self, page: &Counted, unusable: u64) {
        self.distinct += page.distinct;
        self.elsewhere += page.elsewhere;
        self.repeats += page.repeats;
        self.new += page.new;
        self.returned += page.returned;
        self.claimed += page.claimed;
        self.unusable += unusable;
        self.pages_without_news = if page.distinct > 0 { 0 } else { self.pages_without_news + 1 };
    }
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

    fn warn_about_anomalies(&self) {
        let group_type = self.plan.group_type.as_ref().map(GroupType::as_str);
        if self.elsewhere > 0 && group_type.is_some() {
            warn!(
                group_type,
                groups = self.elsewhere,
                "groups are listed under this type and by an earlier pass too; their types stay as they are"
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

/// New and changed ids on their way to the database. Reused for all passes: reallocating megabytes on changing threads
/// fragments the allocator's arenas.
struct Gathered {
    /// Through which pages come meanwhile.
    fetched: mpsc::Sender<Fetched>,
    /// To be written under the type of the pass.
    changed: GroupIds,
    /// New ids beyond what the counts allow, to be written once the list has ended.
    unexpected: GroupIds,
    /// Missing groups that were listed again, under another type than is known.
    returned_elsewhere: GroupIds,
    since: Option<Instant>,
    /// When the newest of them was listed.
    at: DateTime<Utc>,
}

impl Gathered {
    fn beside(fetched: mpsc::Sender<Fetched>) -> Self {
        Self {
            fetched,
            changed: GroupIds::new(),
            unexpected: GroupIds::new(),
            returned_elsewhere: GroupIds::new(),
            since: None,
            at: DateTime::default(),
        }
    }

    fn is_enough(&mut self, in_baseline: bool) -> bool {
        if self.changed.is_empty() && self.returned_elsewhere.is_empty() {
            return false;
        }
        let since = *self.since.get_or_insert_with(Instant::now);
        let bytes = self.changed.text_len() + self.returned_elsewhere.text_len();
        bytes >= GATHER_BYTES || (!in_baseline && since.elapsed() >= GATHER_FOR)
    }

    async fn write(&mut self, site: &CrawlSite<'_>, tally: &mut PassTally) -> Result<(), Interrupted> {
        if self.changed.is_empty() && self.returned_elsewhere.is_empty() {
            return Ok(());
        }
        let plan = &tally.plan;
        let too_many = self.fetched.capacity().saturating_sub(PAGES_AHEAD_OF_WRITING);
        // In the unlikely case that so many pages came in between, none is held back.
        let _held_back = self.fetched.try_reserve_many(too_many);
        for (type_id, in_baseline, ids) in [
            (plan.type_id, plan.in_baseline, &mut self.changed),
            // The unknown type stands for whatever type each of them has.
            (TypeId::UNKNOWN, false, &mut self.returned_elsewhere),
        ] {
            if !ids.is_empty() {
                let written = site.write_listed(type_id, in_baseline, self.at, ids).await?;
                tally.first_listed += written.first_listed;
                tally.gained += written.first_listed + written.reappeared;
                ids.clear();
            }
        }
        self.since = None;
        Ok(())
    }
}
