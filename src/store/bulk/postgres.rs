//! The bulk statements of PostgreSQL. Ids are bound as one array.
//!
//! Each id is looked up in the index, which `OFFSET 0` forces, and rows are updated by their `ctid`
//! (`place` in the statements). Otherwise the planner joins a chunk of 20,000 ids with a scan of
//! the entire table, and marking a chunk takes 1.4 s instead of 0.6 s at two million groups. Only
//! the holder of the app's lease changes these rows, so no `ctid` changes between the lookup and
//! the update.
//!
//! A type of 0 in a parameter is the unknown type of the unfiltered pass, which changes no stored
//! type.

pub(super) const LOOK_UP: &str = "
SELECT j.id, g.type_id, g.deleted
FROM unnest($2::text[]) AS j (id)
CROSS JOIN LATERAL (SELECT type_id, deleted_at IS NOT NULL AS deleted
                    FROM group_row WHERE app_id = $1 AND group_id = j.id OFFSET 0) g";

pub(super) const RECORD_APPEARED: &str = "
INSERT INTO group_event (occurred_at, crawl_id, app_id, group_id, kind, new_type)
SELECT $4, $5, $1, j.id, 'a', $2
FROM unnest($3::text[]) AS j (id)
LEFT JOIN LATERAL (SELECT true AS known FROM group_row WHERE app_id = $1 AND group_id = j.id OFFSET 0) g ON true
WHERE g.known IS NULL";

/// Builds the statement that inserts groups.
macro_rules! insert {
    ($after:literal) => {
        concat!(
            "INSERT INTO group_row (app_id, group_id, type_id, in_baseline, first_seen_at, last_seen_at)
             SELECT $1, j.id, $2, $4, $5, $5 FROM unnest($3::text[]) AS j (id)",
            $after
        )
    };
}
/// Fails if one of the ids is already in the table.
pub(super) const INSERT_ALL: &str = insert!("");
pub(super) const INSERT_UNKNOWN: &str = insert!(" ON CONFLICT (app_id, group_id) DO NOTHING");

pub(super) const COUNT_CHANGED: &str = "
SELECT g.type_id, g.deleted, g.missing, count(*)
FROM unnest($3::text[]) AS j (id)
CROSS JOIN LATERAL (SELECT type_id, deleted_at IS NOT NULL AS deleted, missing_since IS NOT NULL AS missing
                    FROM group_row WHERE app_id = $1 AND group_id = j.id OFFSET 0) g
WHERE g.deleted OR g.missing OR ($2 <> 0 AND g.type_id <> $2)
GROUP BY 1, 2, 3";

/// Marks listed groups live, and records their past spans and events. `new_span` is true for a
/// group that reappears or changes from one known type to another.
pub(super) const CHANGE_LISTED: &str = "
WITH old AS (
    SELECT j.id, g.place, g.type_id, g.deleted_at, g.first_seen_at, g.live_since, g.in_baseline,
           g.deleted_at IS NOT NULL OR ($2 <> 0 AND g.type_id NOT IN (0, $2)) AS new_span
    FROM unnest($3::text[]) AS j (id)
    CROSS JOIN LATERAL (SELECT ctid AS place, type_id, deleted_at, missing_since, first_seen_at, live_since, in_baseline
                        FROM group_row WHERE app_id = $1 AND group_id = j.id OFFSET 0) g
    WHERE g.deleted_at IS NOT NULL OR g.missing_since IS NOT NULL OR ($2 <> 0 AND g.type_id <> $2)
), changed AS (
    UPDATE group_row g
    SET type_id = CASE WHEN $2 = 0 THEN g.type_id ELSE $2 END,
        live_since = CASE WHEN g.deleted_at IS NOT NULL OR ($2 <> 0 AND g.type_id NOT IN (0, $2))
                          THEN greatest($4, g.first_seen_at, g.live_since, g.deleted_at) ELSE g.live_since END,
        deleted_at = NULL, missing_since = NULL, held_crawl_id = NULL, held_as = NULL,
        last_seen_at = greatest(g.first_seen_at, $4)
    WHERE g.ctid = ANY (ARRAY(SELECT old.place FROM old))
), past AS (
    INSERT INTO past_span (app_id, group_id, type_id, live_from, live_until, in_baseline)
    SELECT $1, old.id, old.type_id, coalesce(old.live_since, old.first_seen_at),
           greatest(old.live_since, old.first_seen_at, coalesce(old.deleted_at, $4)),
           old.in_baseline AND old.live_since IS NULL
    FROM old WHERE old.new_span ORDER BY old.id
)
INSERT INTO group_event (occurred_at, crawl_id, app_id, group_id, kind, old_type, new_type)
SELECT $4, $5, $1, old.id, CASE WHEN old.deleted_at IS NULL THEN 't' ELSE 'r' END, old.type_id,
       CASE WHEN $2 = 0 THEN old.type_id ELSE $2 END
FROM old
WHERE old.new_span
ORDER BY old.id";

/// Sets `last_seen_at` of a group that was not missing to the time when its type was last
/// concluded, limited to `deleted_at`, because the clock of an earlier crawl may have been fast.
pub(super) const MARK_VANISHED: &str = "
WITH vanished AS (
    UPDATE group_row g
    SET deleted_at = $4, missing_since = NULL, held_crawl_id = NULL, held_as = NULL,
        last_seen_at = greatest(g.first_seen_at, least($4, CASE WHEN g.missing_since IS NULL THEN greatest(g.last_seen_at,
            (SELECT s.concluded_at FROM type_state s WHERE s.app_id = $1 AND s.type_id = $2)) ELSE g.last_seen_at END))
    WHERE g.ctid = ANY (ARRAY(
        SELECT h.place FROM unnest($3::text[]) AS j (id) CROSS JOIN LATERAL (
            SELECT ctid AS place FROM group_row
            WHERE app_id = $1 AND group_id = j.id AND deleted_at IS NULL AND type_id = $2 OFFSET 0) h))
    RETURNING g.group_id
)
INSERT INTO group_event (occurred_at, crawl_id, app_id, group_id, kind, old_type)
SELECT $4, $5, $1, group_id, 'v', $2 FROM vanished ORDER BY group_id";

pub(super) const MARK_MISSING: &str = "
UPDATE group_row g
SET missing_since = $4, last_seen_at = greatest(g.last_seen_at,
        (SELECT s.concluded_at FROM type_state s WHERE s.app_id = $1 AND s.type_id = $2))
WHERE g.ctid = ANY (ARRAY(
    SELECT h.place FROM unnest($3::text[]) AS j (id) CROSS JOIN LATERAL (
        SELECT ctid AS place FROM group_row
        WHERE app_id = $1 AND group_id = j.id AND deleted_at IS NULL AND missing_since IS NULL AND type_id = $2 OFFSET 0) h))";

pub(super) const MARK_WITHHELD: &str = "
UPDATE group_row g
SET held_crawl_id = $5, held_as = $6, missing_since = coalesce(g.missing_since, $4),
    last_seen_at = CASE WHEN g.missing_since IS NULL THEN greatest(g.last_seen_at,
        (SELECT s.concluded_at FROM type_state s WHERE s.app_id = $1 AND s.type_id = $2)) ELSE g.last_seen_at END
WHERE g.ctid = ANY (ARRAY(
    SELECT h.place FROM unnest($3::text[]) AS j (id) CROSS JOIN LATERAL (
        SELECT ctid AS place FROM group_row
        WHERE app_id = $1 AND group_id = j.id AND deleted_at IS NULL AND held_crawl_id IS NULL AND type_id = $2 OFFSET 0) h))";

pub(super) const COUNT_NEWLY_CONFIRMED: &str = "
UPDATE crawl SET withheld_confirmed = withheld_confirmed + newly.confirmed
FROM (SELECT held_crawl_id, count(*) AS confirmed FROM group_row
      WHERE app_id = $1 AND group_id = ANY ($2::text[]) AND held_as = 'w' GROUP BY held_crawl_id) newly
WHERE crawl.crawl_id = newly.held_crawl_id";

pub(super) const CONFIRM_HELD: &str = "
UPDATE group_row SET held_as = 'c' WHERE app_id = $1 AND group_id = ANY ($2::text[]) AND held_as = 'w'";

pub(super) const SAVE_LOOKUP_HISTORY: &str = "
INSERT INTO group_question (app_id, group_id, stood, unlearned, round, again_in)
SELECT $1, j.id, $3, $4, $5, $6 FROM unnest($2::text[]) AS j (id)
ON CONFLICT (app_id, group_id) DO UPDATE SET
    stood = excluded.stood, unlearned = excluded.unlearned, round = excluded.round, again_in = excluded.again_in";

pub(super) const REMOVE_LOOKUP_HISTORY: &str =
    "DELETE FROM group_question WHERE app_id = $1 AND group_id = ANY ($2::text[])";

pub(super) const STORED_DETAILS: &str = "
SELECT d.* FROM base_group_details d WHERE d.app_id = $1 AND d.group_id = ANY ($2::text[])";

pub(super) const SAVE_DETAILS: &str = "
INSERT INTO group_detail (app_id, group_id, name, owner, introduction, created_at, last_message_at,
    info_changed_at, member_count, max_member_count, fetched_at, is_answered)
SELECT $1, g.group_id, j.name, j.owner, j.introduction, j.created_at, j.last_message_at,
    j.info_changed_at, j.member_count, j.max_member_count, j.fetched_at, j.is_answered
FROM json_to_recordset(CAST($2 AS json)) AS j (
    group_id text, name text, owner text, introduction text, created_at bigint, last_message_at bigint,
    info_changed_at bigint, member_count bigint, max_member_count bigint, fetched_at bigint, is_answered bigint)
JOIN group_row g ON g.app_id = $1 AND g.group_id = j.group_id COLLATE \"C\"
ORDER BY g.group_id
ON CONFLICT (app_id, group_id) DO UPDATE SET
    name = excluded.name,
    owner = excluded.owner,
    introduction = excluded.introduction,
    created_at = excluded.created_at,
    last_message_at = excluded.last_message_at,
    info_changed_at = excluded.info_changed_at,
    member_count = excluded.member_count,
    max_member_count = excluded.max_member_count,
    fetched_at = excluded.fetched_at,
    is_answered = excluded.is_answered";
