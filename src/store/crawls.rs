//! A row a crawl, from its start to its end, and everything that becomes visible at its end in one transaction.

use std::collections::BTreeSet;

use chrono::{DateTime, NaiveDate, TimeDelta, Utc};

use super::apps::AppId;
use super::engine::{Store, query, query_as, query_scalar, reading, writing};
use super::error::{Attempted as _, StoreError};
use super::groups::{Tally, keep_tally};
use super::lease::Lease;
use super::questions::{HELD, HELD_CONFIRMED, HistoryChanges, keep_history};
use crate::model::{
    Counts, CrawlId, CrawlStatus, Deletions, GroupType, ReasonCode, Trigger, TypeId, Verdict,
};
use crate::reconcile::{Absent, AskedCounts, Settlement, WithheldGroups};

const IDS_PER_STATEMENT: usize = 20_000;

/// A crawl about to start. Its app's lease must be held.
#[derive(Clone, Debug)]
pub struct NewCrawl {
    pub app: AppId,
    pub trigger: Trigger,
    /// The tick of the schedule that it serves.
    pub due_at: Option<DateTime<Utc>>,
    pub started_at: DateTime<Utc>,
    pub host: String,
    /// The configured ones; none: one pass over everything.
    pub group_types: Vec<GroupType>,
}

/// Why a crawl did not simply complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason {
    pub code: ReasonCode,
    /// The API's error code.
    pub error_code: Option<i64>,
    /// A sentence with its numbers.
    pub text: String,
}

/// One pass, for the record.
#[derive(Clone, Debug)]
pub struct PassRecord {
    pub type_id: TypeId,
    pub recorded_at: DateTime<Utc>,
    /// `None` if the pass did not reach its end.
    pub verdict: Option<Verdict>,
    pub pages: u32,
    pub counts: Counts,
    pub distinct: u64,
    pub repeats: u64,
    pub first_listed: u64,
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
    pub day: NaiveDate,
    pub status: CrawlStatus,
    pub reason: Option<Reason>,
    pub requests: u64,
    pub total_at_start: Option<u64>,
    pub total_at_end: Option<u64>,
    pub leftover: Option<u64>,
    /// The next crawl has to make an unfiltered pass.
    pub unfiltered_next: bool,
    pub listed: u64,
    /// By how much this machine's clock is ahead of the API's, if an answer told.
    pub clock_skew: Option<TimeDelta>,
    pub passes: &'a [PassRecord],
    pub settlement: &'a Settlement,
    /// What the questions of the crawl came to, if it reached its end.
    pub history: Option<&'a HistoryChanges>,
}

/// What earlier crawls of an app tell a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Past {
    /// Some crawl of this app reached its end before.
    pub crawled_before: bool,
    /// The last crawl that could tell saw groups beyond those of the configured types.
    pub leftover_last_time: bool,
    /// The last crawl that reached its end left it to this one to make an unfiltered pass.
    pub unfiltered_wanted: bool,
}

/// The events of a whole crawl.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, sqlx::FromRow)]
pub struct CrawlEvents {
    pub appeared: i64,
    pub vanished: i64,
    pub reappeared: i64,
    pub retyped: i64,
}

const RUNNING: &str =
    "SELECT crawl_id, started_at FROM crawl WHERE app_id = $1 AND status = 'running' ORDER BY crawl_id";
const OPEN: &str = "
INSERT INTO crawl (app_id, trigger, due_at, started_at, status, host, version, group_types)
VALUES ($1, $2, $3, $4, 'running', $5, $6, $7)
ON CONFLICT DO NOTHING
RETURNING crawl_id";
const CRAWLED_BEFORE: &str = "SELECT count(*) FROM (SELECT 1 FROM crawl WHERE app_id = $1 AND status IN ('complete', 'incomplete') LIMIT 1) AS one";
const LAST_LEFTOVER: &str = "
SELECT leftover FROM crawl WHERE app_id = $1 AND leftover IS NOT NULL ORDER BY crawl_id DESC LIMIT 1";
const UNFILTERED_WANTED: &str = "
SELECT unfiltered_next FROM crawl WHERE app_id = $1 AND status IN ('complete', 'incomplete') ORDER BY crawl_id DESC LIMIT 1";
const LAST_START: &str = "
SELECT started_at FROM crawl WHERE app_id = $1 AND status IN ('complete', 'incomplete') ORDER BY crawl_id DESC LIMIT 1";
const CLOSE: &str = "
UPDATE crawl SET finished_at = $2, status = $3, deletions = $4, requests = $5, total_at_start = $6, total_at_end = $7,
    leftover = $8, listed_count = $9, reason_code = $10, error_code = $11, reason = $12, day = $13, clock_skew = $14,
    unfiltered_next = $15
WHERE crawl_id = $1 AND status = 'running'";
const NOTE_ASKED: &str = "
UPDATE crawl SET withheld = $2, withheld_confirmed = $3, asked = $4, confirmed = $5, spared = $6, unlearned = $7, unasked = $8
WHERE crawl_id = $1";
/// In an app whose crawls reached their end on later days than this, because a clock was wrong or the time zone was changed,
/// those days become this one: days follow the newest crawl. Only a crawl that reached its end merges days: one that failed
/// may have failed because, or while, its own clock was wrong.
const LATER_DAYS: &str = "SELECT count(DISTINCT day) FROM daily_count WHERE app_id = $1 AND day > $2";
/// Most later days that are taken for wrong. If there are more, it is this crawl's clock that fell behind, and merging would
/// destroy the history of right days.
const MOST_WRONG_DAYS: i64 = 2;
const MERGE_LATER_DAYS: [&str; 3] = [
    "
INSERT INTO daily_count (app_id, day, type_id, live_groups, total_count, appeared, vanished, reappeared, retyped)
SELECT $1, $2, type_id, 0, NULL, CAST(sum(appeared) AS BIGINT), CAST(sum(vanished) AS BIGINT),
       CAST(sum(reappeared) AS BIGINT), CAST(sum(retyped) AS BIGINT)
FROM daily_count WHERE app_id = $1 AND day > $2 GROUP BY type_id
ON CONFLICT (app_id, day, type_id) DO UPDATE SET
    appeared = daily_count.appeared + excluded.appeared,
    vanished = daily_count.vanished + excluded.vanished,
    reappeared = daily_count.reappeared + excluded.reappeared,
    retyped = daily_count.retyped + excluded.retyped",
    "DELETE FROM daily_count WHERE app_id = $1 AND day > $2",
    "UPDATE crawl SET day = $2 WHERE app_id = $1 AND day > $2",
];
/// Times of live groups that a clock which was ahead has left in the future.
const LATER_SEEN: &str = "
SELECT count(*) FROM type_state WHERE app_id = $1 AND concluded_at > $2";
const SEEN_BY_NOW: &str = "
UPDATE group_row SET last_seen_at = CASE WHEN first_seen_at > $2 THEN first_seen_at ELSE $2 END
WHERE app_id = $1 AND last_seen_at > $2 AND deleted_at IS NULL";
const CLOSED_LIKE_THIS: &str = "
SELECT appeared, vanished, reappeared, retyped FROM crawl
WHERE crawl_id = $1 AND finished_at = $2 AND status = $3 AND started_at = $4";
const SUM_UP: &str = "
UPDATE crawl SET
    appeared = (SELECT CAST(coalesce(sum(appeared), 0) AS BIGINT) FROM crawl_change k WHERE k.crawl_id = $1),
    vanished = (SELECT CAST(coalesce(sum(vanished), 0) AS BIGINT) FROM crawl_change k WHERE k.crawl_id = $1),
    reappeared = (SELECT CAST(coalesce(sum(reappeared), 0) AS BIGINT) FROM crawl_change k WHERE k.crawl_id = $1),
    retyped = (SELECT CAST(coalesce(sum(retyped), 0) AS BIGINT) FROM crawl_change k WHERE k.crawl_id = $1)
WHERE crawl_id = $1
RETURNING appeared, vanished, reappeared, retyped";
const RECORD_PASS: &str = "
INSERT INTO crawl_pass (crawl_id, pass_no, type_id, recorded_at, verdict, pages, total_count, total_lowest, total_highest,
                        listed_count, repeats, first_listed, unusable)
VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)";
// An older crawl that is closed late does not turn the time back; a newer one with an earlier clock does.
const CONCLUDE: &str = "
INSERT INTO type_state (app_id, type_id, concluded_crawl_id, concluded_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (app_id, type_id) DO UPDATE SET
    concluded_crawl_id = excluded.concluded_crawl_id,
    concluded_at = excluded.concluded_at
WHERE coalesce(type_state.concluded_crawl_id, 0) < excluded.concluded_crawl_id";
const KEEP_TOTALS: &str = "
UPDATE type_state SET total_count = (
    SELECT max(p.total_count) FROM crawl_pass p WHERE p.crawl_id = $2 AND p.type_id = type_state.type_id)
WHERE app_id = $1 AND type_id IN (
    SELECT p.type_id FROM crawl_pass p WHERE p.crawl_id = $2 AND p.type_id <> 0 AND p.total_count IS NOT NULL)";
const ADD_TO_DAY: &str = "
INSERT INTO daily_count (app_id, day, type_id, live_groups, total_count, appeared, vanished, reappeared, retyped)
SELECT s.app_id, $2, s.type_id, s.live_count,
       (SELECT max(p.total_count) FROM crawl_pass p WHERE p.crawl_id = $3 AND p.type_id = s.type_id AND p.type_id <> 0),
       coalesce(k.appeared, 0), coalesce(k.vanished, 0), coalesce(k.reappeared, 0), coalesce(k.retyped, 0)
FROM type_state s LEFT JOIN crawl_change k ON k.crawl_id = $3 AND k.type_id = s.type_id
WHERE s.app_id = $1 AND (s.configured = 1 OR s.live_count > 0 OR k.crawl_id IS NOT NULL
    OR EXISTS (SELECT 1 FROM daily_count d WHERE d.app_id = $1 AND d.day = $2 AND d.type_id = s.type_id))
ON CONFLICT (app_id, day, type_id) DO UPDATE SET
    live_groups = excluded.live_groups,
    total_count = coalesce(excluded.total_count, daily_count.total_count),
    appeared = daily_count.appeared + excluded.appeared,
    vanished = daily_count.vanished + excluded.vanished,
    reappeared = daily_count.reappeared + excluded.reappeared,
    retyped = daily_count.retyped + excluded.retyped";

/// Adds deletions that were approved later to the day they were approved on.
pub(super) const ADD_CHANGES_TO_DAY: &str = "
INSERT INTO daily_count (app_id, day, type_id, live_groups, vanished)
SELECT s.app_id, $2, s.type_id, s.live_count, $4 FROM type_state s WHERE s.app_id = $1 AND s.type_id = $3
ON CONFLICT (app_id, day, type_id) DO UPDATE SET
    live_groups = excluded.live_groups, vanished = daily_count.vanished + excluded.vanished";

impl Store {
    /// Records that a crawl starts, after closing those of its app that a dead process left open. `None` if the tick it
    /// was to serve has been served.
    pub async fn open_crawl(
        &self,
        lease: &Lease,
        new: &NewCrawl,
        day: NaiveDate,
    ) -> Result<Option<CrawlId>, StoreError> {
        const DOING: &str = "record the start of a crawl";
        let left_open: Vec<(i64, i64)> =
            reading!(self, on => query_as(RUNNING).bind(new.app.0).fetch_all(on).await).attempted(DOING)?;
        for (crawl, started_at) in left_open {
            let orphan = Closing {
                crawl: CrawlId(crawl),
                app: new.app,
                started_at: DateTime::from_timestamp_millis(started_at).unwrap_or(new.started_at),
                finished_at: new.started_at,
                day,
                status: CrawlStatus::Failed,
                reason: Some(Reason {
                    code: ReasonCode::ProcessEnded,
                    error_code: None,
                    text: "the process ended before the crawl did".to_owned(),
                }),
                requests: 0,
                total_at_start: None,
                total_at_end: None,
                leftover: None,
                unfiltered_next: false,
                listed: 0,
                clock_skew: None,
                passes: &[],
                settlement: &Settlement::nothing(),
                history: None,
            };
            self.close_crawl(lease, &orphan, |_| ()).await?;
        }
        let group_types: BTreeSet<&str> = new.group_types.iter().map(GroupType::as_str).collect();
        let group_types = Vec::from_iter(group_types).join(",");
        writing!(self, DOING, |tx, dialect| {
            // With the lease held and the others closed, a crawl that runs is this one, from an earlier attempt.
            let own: Option<(i64, i64)> =
                query_as(RUNNING).bind(new.app.0).fetch_optional(&mut *tx).await.attempted(DOING)?;
            if let Some((crawl, _)) = own {
                dialect::confirm_lease(&mut tx, lease).await?;
                return Ok(Some(CrawlId(crawl)));
            }
            let crawl: Option<i64> = query_scalar(OPEN)
                .bind(new.app.0)
                .bind(new.trigger.as_str())
                .bind(new.due_at.map(|due_at| due_at.timestamp_millis()))
                .bind(new.started_at.timestamp_millis())
                .bind(&new.host)
                .bind(env!("CARGO_PKG_VERSION"))
                .bind(&group_types)
                .fetch_optional(&mut *tx)
                .await
                .attempted(DOING)?;
            dialect::confirm_lease(&mut tx, lease).await?;
            Ok(crawl.map(CrawlId))
        })
    }

    /// What earlier crawls of an app tell a new one.
    pub async fn past(&self, app: AppId) -> Result<Past, StoreError> {
        const DOING: &str = "read the app's earlier crawls";
        let before: i64 = reading!(self, on => query_scalar(CRAWLED_BEFORE).bind(app.0).fetch_one(on).await)
            .attempted(DOING)?;
        let leftover: Option<i64> =
            reading!(self, on => query_scalar(LAST_LEFTOVER).bind(app.0).fetch_optional(on).await)
                .attempted(DOING)?;
        let wanted: Option<i64> =
            reading!(self, on => query_scalar(UNFILTERED_WANTED).bind(app.0).fetch_optional(on).await)
                .attempted(DOING)?;
        Ok(Past {
            crawled_before: before > 0,
            leftover_last_time: leftover.unwrap_or(0) > 0,
            unfiltered_wanted: wanted.unwrap_or(0) > 0,
        })
    }

    /// When the last crawl of an app started that reached its end.
    pub async fn last_start(&self, app: AppId) -> Result<Option<DateTime<Utc>>, StoreError> {
        let millis: Option<i64> =
            reading!(self, on => query_scalar(LAST_START).bind(app.0).fetch_optional(on).await)
                .attempted("read when the app was crawled last")?;
        Ok(millis.and_then(DateTime::from_timestamp_millis))
    }

    /// Ends a crawl: deletion and missing marks, kept totals, counts and status, all at once or not at all. `each` hears
    /// how many groups are marked: when the transaction has begun, and after every chunk.
    #[expect(clippy::too_many_lines, reason = "one transaction, told in its order")]
    pub async fn close_crawl(
        &self,
        lease: &Lease,
        closing: &Closing<'_>,
        each: impl Fn(u64) + Sync,
    ) -> Result<CrawlEvents, StoreError> {
        const DOING: &str = "conclude a crawl";
        let (app, crawl) = (closing.app, closing.crawl);
        let finished_at = closing.finished_at.timestamp_millis();
        let started_at = closing.started_at.timestamp_millis();
        let mut attempts = 0;
        writing!(self, DOING, |tx, dialect| {
            attempts += 1;
            let mut done = 0;
            each(done);
            // First, so that a crawl that is closed already is left alone.
            let closed = query(CLOSE)
                .bind(crawl.0)
                .bind(finished_at)
                .bind(closing.status.as_str())
                .bind(closing.deletions().map(Deletions::as_str))
                .bind(count(closing.requests))
                .bind(closing.total_at_start.map(count))
                .bind(closing.total_at_end.map(count))
                .bind(closing.leftover.map(count))
                .bind(count(closing.listed))
                .bind(closing.reason.as_ref().map(|reason| reason.code.as_str()))
                .bind(closing.reason.as_ref().and_then(|reason| reason.error_code))
                .bind(closing.reason.as_ref().map(|reason| reason.text.as_str()))
                .bind(closing.day.to_string())
                .bind(closing.clock_skew.map(|skew| skew.num_seconds()))
                .bind(i64::from(closing.unfiltered_next))
                .execute(&mut *tx)
                .await
                .attempted(DOING)?;
            if closed.rows_affected() != 1 {
                let own: Option<CrawlEvents> = query_as(CLOSED_LIKE_THIS)
                    .bind(crawl.0)
                    .bind(finished_at)
                    .bind(closing.status.as_str())
                    .bind(started_at)
                    .fetch_optional(&mut *tx)
                    .await
                    .attempted(DOING)?;
                // Closed like this by an earlier attempt, whose commit nobody heard of.
                return match own {
                    Some(events) if attempts > 1 => Ok(events),
                    _ => Err(StoreError::Superseded { crawl }),
                };
            }
            let mut tally = Tally::default();
            for (Absent { type_id, were_missing }, ids) in closing.settlement.vanished() {
                for chunk in ids.sorted_chunks(IDS_PER_STATEMENT) {
                    let ids = dialect::Ids::of(&chunk);
                    let marked = dialect::mark_vanished(&mut tx, (app, type_id, crawl), finished_at, &ids)
                        .await
                        .attempted(DOING)?
                        .cast_signed();
                    let delta = tally.deltas.entry(type_id).or_default();
                    delta.live -= marked;
                    delta.deleted += marked;
                    delta.missing -= if were_missing { marked } else { 0 };
                    tally.changes.entry(type_id).or_default().vanished += marked;
                    done += chunk.len() as u64;
                    each(done);
                }
            }
            for (type_id, ids) in closing.settlement.missing() {
                for chunk in ids.sorted_chunks(IDS_PER_STATEMENT) {
                    let ids = dialect::Ids::of(&chunk);
                    let marked = dialect::mark_missing(&mut tx, (app, type_id), started_at, &ids)
                        .await
                        .attempted(DOING)?;
                    tally.deltas.entry(type_id).or_default().missing += marked.cast_signed();
                    done += chunk.len() as u64;
                    each(done);
                }
            }
            let (mut withheld, mut withheld_confirmed) = (0, 0);
            for (WithheldGroups { absent, confirmed }, ids) in closing.settlement.withheld() {
                let Absent { type_id, were_missing } = absent;
                for chunk in ids.sorted_chunks(IDS_PER_STATEMENT) {
                    let ids = dialect::Ids::of(&chunk);
                    let held_as = if confirmed { HELD_CONFIRMED } else { HELD };
                    let held =
                        dialect::mark_withheld(&mut tx, (app, type_id, crawl), (started_at, held_as), &ids)
                            .await
                            .attempted(DOING)?
                            .cast_signed();
                    tally.deltas.entry(type_id).or_default().missing += if were_missing { 0 } else { held };
                    withheld += held;
                    withheld_confirmed += if confirmed { held } else { 0 };
                    done += chunk.len() as u64;
                    each(done);
                }
            }
            keep_tally!(tx, app, crawl, tally, DOING);
            if !closing.settlement.concluded().is_empty() {
                let later: i64 = query_scalar(LATER_SEEN)
                    .bind(app.0)
                    .bind(started_at)
                    .fetch_one(&mut *tx)
                    .await
                    .attempted(DOING)?;
                if later > 0 {
                    query(SEEN_BY_NOW)
                        .bind(app.0)
                        .bind(finished_at)
                        .execute(&mut *tx)
                        .await
                        .attempted(DOING)?;
                }
            }
            for type_id in closing.settlement.concluded() {
                query(CONCLUDE)
                    .bind(app.0)
                    .bind(type_id.0)
                    .bind(crawl.0)
                    .bind(started_at)
                    .execute(&mut *tx)
                    .await
                    .attempted(DOING)?;
            }
            for (pass_no, pass) in (1i64..).zip(closing.passes) {
                query(RECORD_PASS)
                    .bind(crawl.0)
                    .bind(pass_no)
                    .bind(pass.type_id.0)
                    .bind(pass.recorded_at.timestamp_millis())
                    .bind(pass.verdict.map(Verdict::as_str))
                    .bind(i64::from(pass.pages))
                    .bind(pass.counts.last.map(count))
                    .bind(pass.counts.lowest.map(count))
                    .bind(pass.counts.highest.map(count))
                    .bind(count(pass.distinct))
                    .bind(count(pass.repeats))
                    .bind(count(pass.first_listed))
                    .bind(count(pass.unusable))
                    .execute(&mut *tx)
                    .await
                    .attempted(DOING)?;
            }
            query(KEEP_TOTALS).bind(app.0).bind(crawl.0).execute(&mut *tx).await.attempted(DOING)?;
            let AskedCounts { asked, confirmed, spared, unlearned, unasked } = closing.settlement.asked();
            if withheld > 0 || asked + unasked > 0 {
                let mut noting = query(NOTE_ASKED).bind(crawl.0).bind(withheld).bind(withheld_confirmed);
                for number in [asked, confirmed, spared, unlearned, unasked] {
                    noting = noting.bind(count(number));
                }
                noting.execute(&mut *tx).await.attempted(DOING)?;
            }
            if let Some(history) = closing.history {
                keep_history!(tx, dialect, app, history, DOING);
            }
            let events: CrawlEvents =
                query_as(SUM_UP).bind(crawl.0).fetch_one(&mut *tx).await.attempted(DOING)?;
            let day = closing.day.to_string();
            if closing.reached_end() {
                let later: i64 = query_scalar(LATER_DAYS)
                    .bind(app.0)
                    .bind(&day)
                    .fetch_one(&mut *tx)
                    .await
                    .attempted(DOING)?;
                if (1..=MOST_WRONG_DAYS).contains(&later) {
                    for statement in MERGE_LATER_DAYS {
                        query(statement).bind(app.0).bind(&day).execute(&mut *tx).await.attempted(DOING)?;
                    }
                }
            }
            if closing.counts_for_its_day(events) {
                query(ADD_TO_DAY)
                    .bind(app.0)
                    .bind(&day)
                    .bind(crawl.0)
                    .execute(&mut *tx)
                    .await
                    .attempted(DOING)?;
            }
            dialect::confirm_lease(&mut tx, lease).await?;
            Ok(events)
        })
    }
}

impl Closing<'_> {
    /// What becomes of the crawl's deletions; only a complete crawl says.
    #[must_use]
    pub fn deletions(&self) -> Option<Deletions> {
        self.settlement.deletions(self.status)
    }

    fn reached_end(&self) -> bool {
        matches!(self.status, CrawlStatus::Complete | CrawlStatus::Incomplete)
    }

    /// Whether the crawl belongs in the counts of its day. A crawl that failed because of a wrong clock does only if it had
    /// changed something before: its day is wrong.
    fn counts_for_its_day(&self, events: CrawlEvents) -> bool {
        let wrong_clock = self.reason.as_ref().is_some_and(|reason| reason.code == ReasonCode::Clock);
        !wrong_clock || events != CrawlEvents::default()
    }
}

/// Both databases count in signed 64-bit numbers; a TotalCount beyond them is a server's nonsense, kept as the largest.
fn count(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
