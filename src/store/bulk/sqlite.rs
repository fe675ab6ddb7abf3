//! The bulk statements of SQLite. Ids are bound as one JSON array and read with `json_each`.
//!
//! One statement per row would take five times as long, because each statement is handed to the
//! driver's thread.
//!
//! A type of 0 in a parameter is the unknown type of the unfiltered pass, which changes no stored
//! type.

pub(super) const LOOK_UP: &str = "
SELECT g.group_id, g.type_id, g.deleted_at IS NOT NULL
FROM json_each(?2) j CROSS JOIN group_row g ON g.app_id = ?1 AND g.group_id = j.value";

pub(super) const RECORD_APPEARED: &str = "
INSERT INTO group_event (occurred_at, crawl_id, app_id, group_id, kind, new_type)
SELECT ?4, ?5, ?1, j.value, 'a', ?2 FROM json_each(?3) j
WHERE NOT EXISTS (SELECT 1 FROM group_row g WHERE g.app_id = ?1 AND g.group_id = j.value)";

pub(super) const INSERT_UNKNOWN: &str = "
INSERT INTO group_row (app_id, group_id, type_id, in_baseline, first_seen_at, last_seen_at)
SELECT ?1, j.value, ?2, ?4, ?5, ?5 FROM json_each(?3) j WHERE true
ON CONFLICT (app_id, group_id) DO NOTHING";

pub(super) const COUNT_CHANGED: &str = "
SELECT g.type_id, g.deleted_at IS NOT NULL, g.missing_since IS NOT NULL, count(*)
FROM json_each(?3) j CROSS JOIN group_row g ON g.app_id = ?1 AND g.group_id = j.value
WHERE g.deleted_at IS NOT NULL OR g.missing_since IS NOT NULL OR (?2 <> 0 AND g.type_id <> ?2)
GROUP BY 1, 2, 3";

/// Records the past spans of groups that reappear or change from one known type to another. Runs
/// before [`CHANGE_LISTED`], because it reads the old values.
pub(super) const RECORD_PAST_SPANS: &str = "
INSERT INTO past_span (app_id, group_id, type_id, live_from, live_until, in_baseline)
SELECT ?1, g.group_id, g.type_id, ifnull(g.live_since, g.first_seen_at),
       max(ifnull(g.live_since, g.first_seen_at), ifnull(g.deleted_at, ?4)), g.in_baseline AND g.live_since IS NULL
FROM json_each(?3) j CROSS JOIN group_row g ON g.app_id = ?1 AND g.group_id = j.value
WHERE g.deleted_at IS NOT NULL OR (?2 <> 0 AND g.type_id NOT IN (0, ?2))";

/// Records the events of groups that reappear or change from one known type to another. Runs before
/// [`CHANGE_LISTED`], because it reads the old values.
pub(super) const RECORD_CHANGED: &str = "
INSERT INTO group_event (occurred_at, crawl_id, app_id, group_id, kind, old_type, new_type)
SELECT ?4, ?5, ?1, g.group_id, CASE WHEN g.deleted_at IS NULL THEN 't' ELSE 'r' END, g.type_id,
       CASE WHEN ?2 = 0 THEN g.type_id ELSE ?2 END
FROM json_each(?3) j CROSS JOIN group_row g ON g.app_id = ?1 AND g.group_id = j.value
WHERE g.deleted_at IS NOT NULL OR (?2 <> 0 AND g.type_id NOT IN (0, ?2))";

pub(super) const CHANGE_LISTED: &str = "
UPDATE group_row
SET type_id = CASE WHEN ?2 = 0 THEN type_id ELSE ?2 END,
    live_since = CASE WHEN deleted_at IS NOT NULL OR (?2 <> 0 AND type_id NOT IN (0, ?2))
                      THEN max(?4, first_seen_at, ifnull(live_since, 0), ifnull(deleted_at, 0)) ELSE live_since END,
    deleted_at = NULL, missing_since = NULL, held_crawl_id = NULL, held_as = NULL, last_seen_at = max(first_seen_at, ?4)
WHERE app_id = ?1 AND group_id IN (SELECT value FROM json_each(?3))
  AND (deleted_at IS NOT NULL OR missing_since IS NOT NULL OR (?2 <> 0 AND type_id <> ?2))";

/// Runs before [`MARK_VANISHED`], because it reads the old values.
pub(super) const RECORD_VANISHED: &str = "
INSERT INTO group_event (occurred_at, crawl_id, app_id, group_id, kind, old_type)
SELECT ?4, ?5, ?1, g.group_id, 'v', g.type_id
FROM json_each(?3) j CROSS JOIN group_row g ON g.app_id = ?1 AND g.group_id = j.value
WHERE g.deleted_at IS NULL AND g.type_id = ?2";

/// Sets `last_seen_at` of a group that was not missing to the time when its type was last
/// concluded, limited to `deleted_at`, because the clock of an earlier crawl may have been fast.
pub(super) const MARK_VANISHED: &str = "
UPDATE group_row
SET deleted_at = ?4, missing_since = NULL, held_crawl_id = NULL, held_as = NULL,
    last_seen_at = max(first_seen_at, min(?4, CASE WHEN missing_since IS NULL THEN max(last_seen_at, ifnull(
        (SELECT concluded_at FROM type_state s WHERE s.app_id = ?1 AND s.type_id = ?2), 0)) ELSE last_seen_at END))
WHERE app_id = ?1 AND group_id IN (SELECT value FROM json_each(?3)) AND deleted_at IS NULL AND type_id = ?2";

pub(super) const MARK_MISSING: &str = "
UPDATE group_row
SET missing_since = ?4, last_seen_at = max(last_seen_at, ifnull(
        (SELECT concluded_at FROM type_state s WHERE s.app_id = ?1 AND s.type_id = ?2), 0))
WHERE app_id = ?1 AND group_id IN (SELECT value FROM json_each(?3))
  AND deleted_at IS NULL AND missing_since IS NULL AND type_id = ?2";

pub(super) const MARK_WITHHELD: &str = "
UPDATE group_row
SET held_crawl_id = ?5, held_as = ?6, missing_since = ifnull(missing_since, ?4),
    last_seen_at = CASE WHEN missing_since IS NULL THEN max(last_seen_at, ifnull(
        (SELECT concluded_at FROM type_state s WHERE s.app_id = ?1 AND s.type_id = ?2), 0)) ELSE last_seen_at END
WHERE app_id = ?1 AND group_id IN (SELECT value FROM json_each(?3))
  AND deleted_at IS NULL AND held_crawl_id IS NULL AND type_id = ?2";

pub(super) const COUNT_NEWLY_CONFIRMED: &str = "
UPDATE crawl SET withheld_confirmed = withheld_confirmed + newly.confirmed
FROM (SELECT held_crawl_id, count(*) AS confirmed FROM group_row
      WHERE app_id = ?1 AND group_id IN (SELECT value FROM json_each(?2)) AND held_as = 'w' GROUP BY held_crawl_id) newly
WHERE crawl.crawl_id = newly.held_crawl_id";

pub(super) const CONFIRM_HELD: &str = "
UPDATE group_row SET held_as = 'c'
WHERE app_id = ?1 AND group_id IN (SELECT value FROM json_each(?2)) AND held_as = 'w'";

pub(super) const SAVE_LOOKUP_HISTORY: &str = "
INSERT INTO group_question (app_id, group_id, stood, unlearned, round, again_in)
SELECT ?1, j.value, ?3, ?4, ?5, ?6 FROM json_each(?2) j WHERE true
ON CONFLICT (app_id, group_id) DO UPDATE SET
    stood = excluded.stood, unlearned = excluded.unlearned, round = excluded.round, again_in = excluded.again_in";

pub(super) const REMOVE_LOOKUP_HISTORY: &str = "
DELETE FROM group_question WHERE app_id = ?1 AND group_id IN (SELECT value FROM json_each(?2))";

pub(super) const STORED_DETAILS: &str = "
SELECT d.* FROM json_each(?2) j CROSS JOIN base_group_details d ON d.app_id = ?1 AND d.group_id = j.value";

pub(super) const SAVE_DETAILS: &str = "
INSERT INTO group_detail (app_id, group_id, name, owner, introduction, created_at, last_message_at,
    info_changed_at, member_count, max_member_count, fetched_at, is_answered)
SELECT ?1, g.group_id, j.value ->> 'name', j.value ->> 'owner', j.value ->> 'introduction', j.value ->> 'created_at',
    j.value ->> 'last_message_at', j.value ->> 'info_changed_at', j.value ->> 'member_count',
    j.value ->> 'max_member_count', j.value ->> 'fetched_at', j.value ->> 'is_answered'
FROM json_each(?2) j CROSS JOIN group_row g ON g.app_id = ?1 AND g.group_id = j.value ->> 'group_id' WHERE true
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
