//! Closes a crawl: one transaction writes everything that becomes visible at the end of the crawl.

use chrono::{DateTime, TimeDelta, Utc};

use super::lookup_history::{self, HELD, HELD_CONFIRMED, HistoryChanges};
use super::tally::{Tally, stored_groups};
use crate::model::{Counts, CrawlId, CrawlStatus, Deletions, LocalDay, ReasonCode, TypeId, Verdict};
use crate::reconcile::{CandidateKind, LookupCounts, Settlement, WithheldKind};
use crate::store::app::AppId;
use crate::store::bulk::{self, MarkScope};
use crate::store::engine::{Store, StoreError, Tx, values};
use crate::store::lease::Lease;

/// The maximum number of ids in one statement. Progress is reported after each statement.
const IDS_PER_STATEMENT: usize = 20_000;

/// Why a crawl is not complete, or why it withheld deletions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    pub code: ReasonCode,
    /// The API's error code, if an API error was the reason.
    pub error_code: Option<i64>,
    /// A sentence with the relevant numbers.
    pub text: String,
}

/// The record of one pass.
#[derive(Clone, Debug)]
pub struct PassRecord {
    /// [`TypeId::UNKNOWN`] for the unfiltered pass.
    pub type_id: TypeId,
    /// When the pass reached its end, or the start of the crawl if it did not.
    pub recorded_at: DateTime<Utc>,
    /// `None` if the pass did not reach its end.
    pub verdict: Option<Verdict>,
    pub pages: u32,
    /// The `TotalCount`s on the pages.
    pub counts: Counts,
    /// The number of distinct ids.
    pub distinct: u64,
    /// The number of entries whose id this pass had already listed.
    pub repeats: u64,
    /// The number of groups that no crawl had listed before.
    pub first_listed: u64,
    /// The number of entries without a usable id.
    pub unusable: u64,
}

/// How a crawl ended.
#[derive(Debug)]
pub struct Closing<'a> {
    pub crawl: CrawlId,
    pub app: AppId,
    pub started_at: DateTime<Utc>,
    pub finished_at: DateTime<Utc>,
    /// `finished_at` in the time zone of the app's schedule.
    pub day: LocalDay,
    pub status: CrawlStatus,
    pub reason: Option<Reason>,
    pub requests: u64,
    pub total_at_start: Option<u64>,
    pub total_at_end: Option<u64>,
    /// The number of the app's groups beyond those of the configured types. `None` if it was not
    /// computed.
    pub leftover: Option<u64>,
    /// Whether the next crawl must make an unfiltered pass.
    pub next_needs_unfiltered_pass: bool,
    /// The number of distinct ids that all passes listed.
    pub listed: u64,
    /// By how much this host's clock is ahead of the API's. `None` if no answer had a date.
    pub clock_skew: Option<TimeDelta>,
    pub passes: &'a [PassRecord],
    pub settlement: &'a Settlement,
    /// The changes to the lookup history, if the crawl reached its end.
    pub history: Option<&'a HistoryChanges>,
}

/// The number of events of a crawl, by kind.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, sqlx_macros::FromRow)]
pub struct CrawlEvents {
    pub appeared: i64,
    pub vanished: i64,
    pub reappeared: i64,
    pub retyped: i64,
}

const CLOSE: &str = "
UPDATE crawl SET finished_at = $2, status = $3, deletions = $4, requests = $5, total_at_start = $6, total_at_end = $7,
    leftover = $8, listed_count = $9, reason_code = $10, error_code = $11, reason = $12, day = $13, clock_skew = $14,
    unfiltered_next = $15, timezone = $16
WHERE crawl_id = $1 AND status = 'running'";
const RECORD_LOOKUPS: &str = "
UPDATE crawl SET withheld = $2, withheld_confirmed = $3, asked = $4, confirmed = $5, spared = $6, unlearned = $7, unasked = $8
WHERE crawl_id = $1";
/// Counts the days after the day of this crawl. Such days exist if a clock was fast, or if the time
/// zone was changed. They are merged into the day of this crawl, because the newest crawl
/// determines the newest day. A failed crawl merges no days, because its own clock may be wrong.
const COUNT_LATER_DAYS: &str = "SELECT count(DISTINCT day) FROM daily_count WHERE app_id = $1 AND day > $2";
/// The maximum number of later days that are merged. If there are more, the clock of this crawl is
/// probably slow, and merging would destroy correct days.
const MAX_WRONG_DAYS: i64 = 2;
/// Adds the events of the later days to the day of this crawl. Its live groups and `TotalCount`s
/// are set by [`ADD_TO_DAY`].
const MERGE_LATER_DAYS: &str = "
INSERT INTO daily_count (app_id, day, timezone, type_id, live_groups, total_count, appeared, vanished, reappeared, retyped)
SELECT $1, $2, $3, type_id, 0, NULL, CAST(sum(appeared) AS BIGINT), CAST(sum(vanished) AS BIGINT),
       CAST(sum(reappeared) AS BIGINT), CAST(sum(retyped) AS BIGINT)
FROM daily_count WHERE app_id = $1 AND day > $2 GROUP BY type_id
ON CONFLICT (app_id, day, type_id) DO UPDATE SET
    appeared = daily_count.appeared + excluded.appeared,
    vanished = daily_count.vanished + excluded.vanished,
    reappeared = daily_count.reappeared + excluded.reappeared,
    retyped = daily_count.retyped + excluded.retyped";
const REMOVE_LATER_DAYS: &str = "DELETE FROM daily_count WHERE app_id = $1 AND day > $2";
const MOVE_CRAWLS_OF_LATER_DAYS: &str =
    "UPDATE crawl SET day = $2, timezone = $3 WHERE app_id = $1 AND day > $2";
/// Counts the types that an earlier crawl concluded at a time after the start of this crawl. Then
/// the clock of the earlier crawl was fast.
const COUNT_LATER_CONCLUSIONS: &str = "
SELECT count(*) FROM type_state WHERE app_id = $1 AND concluded_at > $2";
/// Limits `last_seen_at` to the end of this crawl. A crawl with a fast clock wrote later values.
const LIMIT_LAST_SEEN: &str = "
UPDATE group_row SET last_seen_at = CASE WHEN first_seen_at > $2 THEN first_seen_at ELSE $2 END
WHERE app_id = $1 AND last_seen_at > $2 AND deleted_at IS NULL";
/// Limits `concluded_at` to the start of this crawl, for the types that it does not conclude.
const LIMIT_CONCLUDED_AT: &str = "
UPDATE type_state SET concluded_at = $2 WHERE app_id = $1 AND concluded_at > $2";
/// Adds up the crawl's events over all types. Stores the sums and the number of the app's live
/// groups in the record of the crawl.
const ADD_UP_EVENTS: &str = "
UPDATE crawl SET
    appeared = (SELECT CAST(coalesce(sum(appeared), 0) AS BIGINT) FROM crawl_change k WHERE k.crawl_id = $1),
    vanished = (SELECT CAST(coalesce(sum(vanished), 0) AS BIGINT) FROM crawl_change k WHERE k.crawl_id = $1),
    reappeared = (SELECT CAST(coalesce(sum(reappeared), 0) AS BIGINT) FROM crawl_change k WHERE k.crawl_id = $1),
    retyped = (SELECT CAST(coalesce(sum(retyped), 0) AS BIGINT) FROM crawl_change k WHERE k.crawl_id = $1),
    live_count = (SELECT CAST(coalesce(sum(s.live_count), 0) AS BIGINT) FROM type_state s WHERE s.app_id = crawl.app_id)
WHERE crawl_id = $1
RETURNING appeared, vanished, reappeared, retyped";
const RECORD_PASS: &str = "
INSERT INTO crawl_pass (crawl_id, pass_no, type_id, recorded_at, verdict, pages, total_count, total_lowest, total_highest,
                        listed_count, repeats, first_listed, unusable)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";
/// Records the newest crawl that concluded a type. The newest crawl is the one with the greatest
/// id, whatever its time. An older crawl that is closed late changes nothing.
const CONCLUDE: &str = "
INSERT INTO type_state (app_id, type_id, concluded_crawl_id, concluded_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (app_id, type_id) DO UPDATE SET
    concluded_crawl_id = excluded.concluded_crawl_id,
    concluded_at = excluded.concluded_at
WHERE coalesce(type_state.concluded_crawl_id, 0) < excluded.concluded_crawl_id";
/// Stores the latest TotalCount of each type that a pass of this crawl counted.
const UPDATE_TOTAL_COUNTS: &str = "
UPDATE type_state SET total_count = (
    SELECT max(p.total_count) FROM crawl_pass p WHERE p.crawl_id = $2 AND p.type_id = type_state.type_id)
WHERE app_id = $1 AND type_id IN (
    SELECT p.type_id FROM crawl_pass p WHERE p.crawl_id = $2 AND p.type_id <> 0 AND p.total_count IS NOT NULL)";
/// Adds a crawl's events to the counts of its day, and sets the day's live groups and TotalCounts.
const ADD_TO_DAY: &str = "
INSERT INTO daily_count (app_id, day, timezone, type_id, live_groups, total_count, appeared, vanished, reappeared, retyped)
SELECT s.app_id, $2, $4, s.type_id, s.live_count,
       (SELECT max(p.total_count) FROM crawl_pass p WHERE p.crawl_id = $3 AND p.type_id = s.type_id AND p.type_id <> 0),
       coalesce(k.appeared, 0), coalesce(k.vanished, 0), coalesce(k.reappeared, 0), coalesce(k.retyped, 0)
FROM type_state s LEFT JOIN crawl_change k ON k.crawl_id = $3 AND k.type_id = s.type_id
WHERE s.app_id = $1 AND (s.configured = 1 OR s.live_count > 0 OR k.crawl_id IS NOT NULL
    OR EXISTS (SELECT 1 FROM daily_count d WHERE d.app_id = $1 AND d.day = $2 AND d.type_id = s.type_id))
ON CONFLICT (app_id, day, type_id) DO UPDATE SET
    timezone = excluded.timezone,
    live_groups = excluded.live_groups,
    total_count = coalesce(excluded.total_count, daily_count.total_count),
    appeared = daily_count.appeared + excluded.appeared,
    vanished = daily_count.vanished + excluded.vanished,
    reappeared = daily_count.reappeared + excluded.reappeared,
    retyped = daily_count.retyped + excluded.retyped";

impl Store {
    /// Closes a crawl in one transaction, which writes the deletion and missing marks, the totals,
    /// the counts and the status. `on_progress` receives the number of groups marked so far. It is
    /// called when an attempt of the transaction begins, and after each statement on groups.
    pub async fn close_crawl(
        &self,
        lease: &Lease,
        closing: &Closing<'_>,
        on_progress: impl Fn(u64) + Sync,
    ) -> Result<CrawlEvents, StoreError> {
        let mut write = self.write("close a crawl", Some(lease.token()));
        loop {
            let mut tx = write.begin().await?;
            on_progress(0);
            let events = close(&mut tx, closing, &on_progress).await;
            if let Some(done) = write.end(tx, events).await {
                if done.is_ok() {
                    lease.record_closed(closing.crawl);
                }
                return done;
            }
        }
    }
}

async fn close(
    tx: &mut Tx,
    closing: &Closing<'_>,
    on_progress: &(impl Fn(u64) + Sync),
) -> Result<CrawlEvents, StoreError> {
    // Runs first, because it fails if the crawl is already closed, and then nothing may change.
    record_end(tx, closing).await?;
    let withheld = apply_settlement(tx, closing, on_progress).await?;
    conclude_types(tx, closing).await?;
    record_passes(tx, closing).await?;
    record_lookups(tx, closing, withheld).await?;
    if let Some(history) = closing.history {
        lookup_history::write_history(tx, closing.app, history).await?;
    }
    let events: CrawlEvents = tx.fetch_one(ADD_UP_EVENTS, &values![closing.crawl.0]).await?;
    add_to_day(tx, closing, events).await?;
    Ok(events)
}

/// Writes the status and the figures of the crawl. Fails if the crawl is already closed.
async fn record_end(tx: &mut Tx, closing: &Closing<'_>) -> Result<(), StoreError> {
    let reason = closing.reason.as_ref();
    let day = closing.day.date.to_string();
    let values = values![
        closing.crawl.0,
        closing.finished_at.timestamp_millis(),
        closing.status.as_str(),
        closing.deletions().map(Deletions::as_str),
        to_i64(closing.requests),
        closing.total_at_start.map(to_i64),
        closing.total_at_end.map(to_i64),
        closing.leftover.map(to_i64),
        to_i64(closing.listed),
        reason.map(|reason| reason.code.as_str()),
        reason.and_then(|reason| reason.error_code),
        reason.map(|reason| reason.text.as_str()),
        &day,
        closing.clock_skew.map(|skew| skew.num_seconds()),
        i64::from(closing.next_needs_unfiltered_pass),
        closing.day.timezone,
    ];
    match tx.execute(CLOSE, &values).await? {
        1 => Ok(()),
        _ => Err(StoreError::CrawlAlreadyClosed { crawl: closing.crawl }),
    }
}

/// The number of groups that this transaction has marked as withheld.
#[derive(Clone, Copy, Default)]
struct WithheldMarks {
    groups: i64,
    /// Those of them that `get_group_info` confirmed to be gone.
    confirmed: i64,
}

/// Marks vanished, missing and withheld groups.
async fn apply_settlement(
    tx: &mut Tx,
    closing: &Closing<'_>,
    on_progress: &(impl Fn(u64) + Sync),
) -> Result<WithheldMarks, StoreError> {
    let finished_at = closing.finished_at.timestamp_millis();
    let started_at = closing.started_at.timestamp_millis();
    let scope = |type_id| MarkScope { app: closing.app, type_id, crawl: closing.crawl };
    let mut tally = Tally::default();
    let mut withheld = WithheldMarks::default();
    let mut marked_so_far = 0;
    let mut report_progress = |chunk: &[&str]| {
        marked_so_far += chunk.len() as u64;
        on_progress(marked_so_far);
    };
    for (CandidateKind { type_id, was_missing }, ids) in closing.settlement.vanished() {
        for chunk in ids.sorted_chunks(IDS_PER_STATEMENT) {
            let marked = bulk::mark_vanished(tx, scope(type_id), finished_at, &chunk).await?.cast_signed();
            let totals = tally.totals(type_id);
            totals.live -= marked;
            totals.deleted += marked;
            totals.missing -= if was_missing { marked } else { 0 };
            tally.events(type_id).vanished += marked;
            report_progress(&chunk);
        }
    }
    for (type_id, ids) in closing.settlement.missing() {
        for chunk in ids.sorted_chunks(IDS_PER_STATEMENT) {
            let marked = bulk::mark_missing(tx, scope(type_id), started_at, &chunk).await?;
            tally.totals(type_id).missing += marked.cast_signed();
            report_progress(&chunk);
        }
    }
    for (WithheldKind { candidate: CandidateKind { type_id, was_missing }, confirmed }, ids) in
        closing.settlement.withheld()
    {
        let held_as = if confirmed { HELD_CONFIRMED } else { HELD };
        for chunk in ids.sorted_chunks(IDS_PER_STATEMENT) {
            let marked = bulk::mark_withheld(tx, scope(type_id), (started_at, held_as), &chunk).await?;
            let marked = marked.cast_signed();
            tally.totals(type_id).missing += if was_missing { 0 } else { marked };
            withheld.groups += marked;
            withheld.confirmed += if confirmed { marked } else { 0 };
            report_progress(&chunk);
        }
    }
    tally.write(tx, closing.app, closing.crawl).await?;
    Ok(withheld)
}

/// Records which types this crawl concluded. A crawl concludes a type if it has accounted for each
/// of the type's live groups: the group was listed, an answer says that it exists, or it is marked
/// missing. Corrects the times that an earlier crawl with a fast clock wrote, also those of types
/// that this crawl does not conclude.
async fn conclude_types(tx: &mut Tx, closing: &Closing<'_>) -> Result<(), StoreError> {
    let Closing { app, crawl, settlement, .. } = closing;
    let started_at = closing.started_at.timestamp_millis();
    // The clock of a crawl that failed may be wrong.
    if !closing.reached_end() {
        return Ok(());
    }
    let (later_conclusions,): (i64,) =
        tx.fetch_one(COUNT_LATER_CONCLUSIONS, &values![app.0, started_at]).await?;
    if later_conclusions > 0 {
        let groups = stored_groups(tx, *app).await?;
        tx.expect_rows(groups).await?;
        tx.execute(LIMIT_LAST_SEEN, &values![app.0, closing.finished_at.timestamp_millis()]).await?;
        tx.execute(LIMIT_CONCLUDED_AT, &values![app.0, started_at]).await?;
    }
    for type_id in settlement.concluded_types() {
        tx.execute(CONCLUDE, &values![app.0, type_id.0, crawl.0, started_at]).await?;
    }
    Ok(())
}

async fn record_passes(tx: &mut Tx, closing: &Closing<'_>) -> Result<(), StoreError> {
    for (pass_no, pass) in (1i64..).zip(closing.passes) {
        let values = values![
            closing.crawl.0,
            pass_no,
            pass.type_id.0,
            pass.recorded_at.timestamp_millis(),
            pass.verdict.map(Verdict::as_str),
            i64::from(pass.pages),
            pass.counts.last.map(to_i64),
            pass.counts.lowest.map(to_i64),
            pass.counts.highest.map(to_i64),
            to_i64(pass.distinct),
            to_i64(pass.repeats),
            to_i64(pass.first_listed),
            to_i64(pass.unusable),
        ];
        tx.execute(RECORD_PASS, &values).await?;
    }
    tx.execute(UPDATE_TOTAL_COUNTS, &values![closing.app.0, closing.crawl.0]).await?;
    Ok(())
}

/// Records how many candidates were looked up, the answers, and the withheld deletions.
async fn record_lookups(
    tx: &mut Tx,
    closing: &Closing<'_>,
    withheld: WithheldMarks,
) -> Result<(), StoreError> {
    let LookupCounts { asked, confirmed, spared, unlearned, unasked } = closing.settlement.lookup_counts();
    let nothing_to_record = withheld.groups == 0 && asked + unasked == 0;
    if nothing_to_record {
        // The columns are 0 already.
        return Ok(());
    }
    let values = values![
        closing.crawl.0,
        withheld.groups,
        withheld.confirmed,
        to_i64(asked),
        to_i64(confirmed),
        to_i64(spared),
        to_i64(unlearned),
        to_i64(unasked),
    ];
    tx.execute(RECORD_LOOKUPS, &values).await?;
    Ok(())
}

/// Adds the crawl to the counts of its day, after later days were merged into that day.
async fn add_to_day(tx: &mut Tx, closing: &Closing<'_>, events: CrawlEvents) -> Result<(), StoreError> {
    let app = closing.app.0;
    let day = closing.day.date.to_string();
    let timezone = closing.day.timezone;
    if closing.reached_end() {
        let (later_days,): (i64,) = tx.fetch_one(COUNT_LATER_DAYS, &values![app, &day]).await?;
        if (1..=MAX_WRONG_DAYS).contains(&later_days) {
            tx.execute(MERGE_LATER_DAYS, &values![app, &day, timezone]).await?;
            tx.execute(REMOVE_LATER_DAYS, &values![app, &day]).await?;
            tx.execute(MOVE_CRAWLS_OF_LATER_DAYS, &values![app, &day, timezone]).await?;
        }
    }
    if closing.counts_for_its_day(events) {
        tx.execute(ADD_TO_DAY, &values![app, &day, closing.crawl.0, timezone]).await?;
    }
    Ok(())
}

impl Closing<'_> {
    /// Returns what happened to the crawl's deletions. Returns `None` if the crawl is not complete.
    #[must_use]
    pub fn deletions(&self) -> Option<Deletions> {
        self.settlement.deletions(self.status)
    }

    fn reached_end(&self) -> bool {
        matches!(self.status, CrawlStatus::Complete | CrawlStatus::Incomplete)
    }

    /// Returns true if the crawl is added to the counts of its day. If it failed because of a wrong
    /// clock, its day is wrong, so it is added only if it changed something.
    fn counts_for_its_day(&self, events: CrawlEvents) -> bool {
        let failed_by_clock = self.reason.as_ref().is_some_and(|reason| reason.code == ReasonCode::Clock);
        !failed_by_clock || events != CrawlEvents::default()
    }
}

/// Converts a number to the signed type of the databases. Larger numbers become `i64::MAX`.
fn to_i64(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
