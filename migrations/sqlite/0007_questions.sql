-- What get_group_info decides: which held groups are confirmed to be gone, and which groups are in doubt.

-- Why a group is held: w its deletion was withheld, c the same and the API has confirmed that it is gone, u a person undid
-- its deletion. NULL unless held.
ALTER TABLE group_row ADD COLUMN held_as TEXT;

-- Rounds count the app's crawls that reached their end.
ALTER TABLE app ADD COLUMN round INTEGER NOT NULL DEFAULT 0;

-- Live groups that are in doubt and were asked about: the lists lack them, or contradict their types.
CREATE TABLE group_question (
    app_id    INTEGER NOT NULL,
    group_id  TEXT    NOT NULL,
    stood     INTEGER NOT NULL,         -- how many times running the answer was that it stands
    unlearned INTEGER NOT NULL,         -- how many times running the answer did not say
    round     INTEGER NOT NULL,         -- when it was asked about last
    again_in  INTEGER NOT NULL,         -- the first round in which it is asked about again
    PRIMARY KEY (app_id, group_id)
) STRICT, WITHOUT ROWID;

ALTER TABLE crawl ADD COLUMN asked INTEGER NOT NULL DEFAULT 0;
ALTER TABLE crawl ADD COLUMN confirmed INTEGER NOT NULL DEFAULT 0;
ALTER TABLE crawl ADD COLUMN unlearned INTEGER NOT NULL DEFAULT 0;
ALTER TABLE crawl ADD COLUMN unasked INTEGER NOT NULL DEFAULT 0;
ALTER TABLE crawl ADD COLUMN withheld_confirmed INTEGER NOT NULL DEFAULT 0;
-- By how many seconds the clock of the crawl's machine was ahead of the API's. NULL: no answer had a date.
ALTER TABLE crawl ADD COLUMN clock_skew INTEGER;
-- The next crawl has to make an unfiltered pass.
ALTER TABLE crawl ADD COLUMN unfiltered_next INTEGER NOT NULL DEFAULT 0;

DROP VIEW live_groups;
DROP VIEW groups;
CREATE VIEW groups AS
SELECT a.sdk_app_id,
       a.name AS app,
       g.group_id,
       t.name AS group_type,
       strftime('%Y-%m-%dT%H:%M:%SZ', g.first_seen_at / 1000, 'unixepoch') AS first_seen_at,
       g.in_baseline,
       strftime('%Y-%m-%dT%H:%M:%SZ',
                CASE WHEN g.deleted_at IS NULL AND g.missing_since IS NULL
                     THEN max(g.last_seen_at, ifnull(s.concluded_at, 0))
                     ELSE g.last_seen_at END / 1000, 'unixepoch') AS last_seen_at,
       strftime('%Y-%m-%dT%H:%M:%SZ', g.deleted_at / 1000, 'unixepoch') AS deleted_at,
       strftime('%Y-%m-%dT%H:%M:%SZ', g.missing_since / 1000, 'unixepoch') AS missing_since,
       g.held_crawl_id IS NOT NULL AS held,
       ifnull(g.held_as = 'c', 0) AS confirmed
FROM app a
CROSS JOIN group_row g ON g.app_id = a.app_id
LEFT JOIN group_type t ON t.type_id = g.type_id
LEFT JOIN type_state s ON s.app_id = g.app_id AND s.type_id = g.type_id;

CREATE VIEW live_groups AS
SELECT a.sdk_app_id,
       a.name AS app,
       g.group_id,
       t.name AS group_type,
       strftime('%Y-%m-%dT%H:%M:%SZ', g.first_seen_at / 1000, 'unixepoch') AS first_seen_at,
       g.in_baseline,
       strftime('%Y-%m-%dT%H:%M:%SZ',
                CASE WHEN g.missing_since IS NULL THEN max(g.last_seen_at, ifnull(s.concluded_at, 0))
                     ELSE g.last_seen_at END / 1000, 'unixepoch') AS last_seen_at,
       NULL AS deleted_at,
       strftime('%Y-%m-%dT%H:%M:%SZ', g.missing_since / 1000, 'unixepoch') AS missing_since,
       g.held_crawl_id IS NOT NULL AS held,
       ifnull(g.held_as = 'c', 0) AS confirmed
FROM app a
CROSS JOIN group_row g ON g.app_id = a.app_id
LEFT JOIN group_type t ON t.type_id = g.type_id
LEFT JOIN type_state s ON s.app_id = g.app_id AND s.type_id = g.type_id
WHERE g.deleted_at IS NULL;

DROP VIEW crawls;
CREATE VIEW crawls AS
SELECT a.sdk_app_id,
       a.name AS app,
       c.crawl_id,
       c.trigger,
       strftime('%Y-%m-%dT%H:%M:%SZ', c.due_at / 1000, 'unixepoch') AS due_at,
       strftime('%Y-%m-%dT%H:%M:%SZ', c.started_at / 1000, 'unixepoch') AS started_at,
       strftime('%Y-%m-%dT%H:%M:%SZ', c.finished_at / 1000, 'unixepoch') AS finished_at,
       c.status,
       c.deletions,
       c.requests,
       c.listed_count AS groups_listed,
       c.appeared,
       c.vanished,
       c.reappeared,
       c.retyped,
       c.withheld,
       c.reason_code,
       c.error_code,
       c.reason,
       c.host,
       c.version,
       c.undeleted,
       c.spared,
       c.purged_groups,
       c.purged_events,
       c.purged_counts,
       c.day,
       (c.finished_at - c.started_at) / 1000.0 AS duration_seconds,
       (SELECT count(*) FROM group_row g WHERE g.app_id = c.app_id AND g.held_crawl_id = c.crawl_id) AS held_count,
       c.asked,
       c.confirmed,
       c.unlearned,
       c.unasked,
       c.withheld_confirmed
FROM crawl c
JOIN app a ON a.app_id = c.app_id;
