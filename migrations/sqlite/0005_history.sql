-- What readers ask next: growth and churn by day, how long groups live, how the crawls fare, what waits for a person.

-- The day of daily_count that a crawl was added to. Of crawls of earlier versions it is UTC's.
ALTER TABLE crawl ADD COLUMN day TEXT;
UPDATE crawl SET day = strftime('%Y-%m-%d', finished_at / 1000, 'unixepoch');

-- The last TotalCount of each type: found again, it would have to be looked for in all crawls.
ALTER TABLE type_state ADD COLUMN total_count INTEGER;
UPDATE type_state SET total_count = (
    SELECT p.total_count FROM crawl c JOIN crawl_pass p ON p.crawl_id = c.crawl_id
    WHERE c.app_id = type_state.app_id AND p.type_id = type_state.type_id AND p.type_id <> 0 AND p.total_count IS NOT NULL
    ORDER BY c.crawl_id DESC LIMIT 1);

-- Few groups wait, or none: nobody shall have to look at all the others to find them.
CREATE INDEX group_row_held ON group_row (app_id, held_crawl_id) WHERE held_crawl_id IS NOT NULL;

-- Times as group_events writes them, so that a condition on that view is a range of this index.
CREATE INDEX group_event_by_time ON group_event (strftime('%Y-%m-%dT%H:%M:%SZ', occurred_at / 1000, 'unixepoch'));

-- A group's events are found by its id alone, with or without its app.
DROP INDEX group_event_by_group;
CREATE INDEX group_event_by_group ON group_event (group_id, app_id);

-- The app leads the key by which a group is found: CROSS JOIN keeps the planner from reading all groups instead when a
-- query names the group and not its app. Names are joined from the left, so that a query without them does not pay.
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
       g.held_crawl_id IS NOT NULL AS held
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
       g.held_crawl_id IS NOT NULL AS held
FROM app a
CROSS JOIN group_row g ON g.app_id = a.app_id
LEFT JOIN group_type t ON t.type_id = g.type_id
LEFT JOIN type_state s ON s.app_id = g.app_id AND s.type_id = g.type_id
WHERE g.deleted_at IS NULL;

CREATE VIEW group_lifetimes AS
SELECT a.sdk_app_id,
       a.name AS app,
       g.group_id,
       t.name AS group_type,
       strftime('%Y-%m-%dT%H:%M:%SZ', g.first_seen_at / 1000, 'unixepoch') AS first_seen_at,
       strftime('%Y-%m-%dT%H:%M:%SZ', g.deleted_at / 1000, 'unixepoch') AS deleted_at,
       ifnull(g.deleted_at / 1000, CAST(strftime('%s', 'now') AS INTEGER)) - g.first_seen_at / 1000 AS lifetime_seconds
FROM app a
CROSS JOIN group_row g ON g.app_id = a.app_id
LEFT JOIN group_type t ON t.type_id = g.type_id
WHERE g.in_baseline = 0;

DROP VIEW type_counts;
CREATE VIEW type_counts AS
SELECT a.sdk_app_id,
       a.name AS app,
       strftime('%Y-%m-%dT%H:%M:%SZ', p.recorded_at / 1000, 'unixepoch') AS recorded_at,
       t.name AS group_type,
       p.total_count,
       p.total_lowest AS total_count_min,
       p.total_highest AS total_count_max,
       p.listed_count,
       p.verdict,
       p.crawl_id
FROM app a
CROSS JOIN crawl c ON c.app_id = a.app_id AND c.status <> 'running'
CROSS JOIN crawl_pass p ON p.crawl_id = c.crawl_id AND p.type_id <> 0
JOIN group_type t ON t.type_id = p.type_id;

DROP VIEW daily_counts;
CREATE VIEW daily_counts AS
SELECT sdk_app_id, app, day, group_type, live_groups, total_count, appeared, vanished, reappeared, retyped, live_before,
       live_groups - live_before AS net_growth
FROM (
    SELECT a.sdk_app_id,
           a.name AS app,
           d.day,
           t.name AS group_type,
           d.live_groups,
           d.total_count,
           d.appeared,
           d.vanished,
           d.reappeared,
           d.retyped,
           -- A baseline is no growth.
           CASE WHEN d.day > (SELECT b.day FROM type_state s JOIN crawl b ON b.crawl_id = s.baseline_crawl_id
                              WHERE s.app_id = d.app_id AND s.type_id = d.type_id)
                THEN (SELECT p.live_groups FROM daily_count p
                      WHERE p.app_id = d.app_id AND p.type_id = d.type_id AND p.day < d.day
                      ORDER BY p.day DESC LIMIT 1) END AS live_before
    FROM daily_count d
    JOIN app a ON a.app_id = d.app_id
    JOIN group_type t ON t.type_id = d.type_id
);

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
       (SELECT count(*) FROM group_row g WHERE g.app_id = c.app_id AND g.held_crawl_id = c.crawl_id) AS held_count
FROM crawl c
JOIN app a ON a.app_id = c.app_id;

CREATE VIEW daily_crawls AS
SELECT a.sdk_app_id,
       a.name AS app,
       c.day,
       count(*) AS crawls,
       sum(c.status = 'complete') AS complete,
       sum(c.status = 'incomplete') AS incomplete,
       sum(c.status = 'failed') AS failed,
       sum(c.status = 'cancelled') AS cancelled,
       sum(c.status = 'complete') * 1.0 / nullif(sum(c.status <> 'cancelled'), 0) AS success_rate,
       sum(c.requests) AS requests,
       sum(c.finished_at - c.started_at) / 1000.0 AS total_seconds,
       max(c.finished_at - c.started_at) / 1000.0 AS longest_seconds
FROM crawl c
JOIN app a ON a.app_id = c.app_id
WHERE c.status <> 'running'
GROUP BY a.sdk_app_id, a.name, c.day;

DROP VIEW app_status;
CREATE VIEW app_status AS
SELECT a.sdk_app_id,
       a.name AS app,
       a.configured,
       (SELECT ifnull(sum(s.live_count), 0) FROM type_state s WHERE s.app_id = a.app_id) AS live_count,
       (SELECT ifnull(sum(s.missing_count), 0) FROM type_state s WHERE s.app_id = a.app_id) AS missing_count,
       (SELECT strftime('%Y-%m-%dT%H:%M:%SZ', k.finished_at / 1000, 'unixepoch') FROM crawl k
        WHERE k.app_id = a.app_id AND k.status = 'complete' ORDER BY k.crawl_id DESC LIMIT 1) AS last_complete_crawl_at,
       c.status AS last_crawl_status,
       c.deletions AS last_crawl_deletions,
       c.reason AS last_crawl_reason,
       strftime('%Y-%m-%dT%H:%M:%SZ', c.finished_at / 1000, 'unixepoch') AS last_crawl_at,
       -- The newest one, or none.
       (SELECT CASE k.status WHEN 'running' THEN strftime('%Y-%m-%dT%H:%M:%SZ', k.started_at / 1000, 'unixepoch') END
        FROM crawl k WHERE k.app_id = a.app_id ORDER BY k.crawl_id DESC LIMIT 1) AS running_since,
       (SELECT ifnull(k.total_at_end, k.total_at_start) FROM crawl k
        WHERE k.app_id = a.app_id AND k.total_at_start IS NOT NULL ORDER BY k.crawl_id DESC LIMIT 1) AS total_count,
       (SELECT count(*) FROM group_row g WHERE g.app_id = a.app_id AND g.held_crawl_id IS NOT NULL) AS held_count
FROM app a
LEFT JOIN crawl c ON c.crawl_id = (SELECT k.crawl_id FROM crawl k
                                   WHERE k.app_id = a.app_id AND k.status <> 'running'
                                   ORDER BY k.crawl_id DESC LIMIT 1);

DROP VIEW type_status;
CREATE VIEW type_status AS
SELECT a.sdk_app_id,
       a.name AS app,
       t.name AS group_type,
       t.sdk_name,
       t.name_zh,
       s.live_count,
       s.deleted_count,
       strftime('%Y-%m-%dT%H:%M:%SZ', s.concluded_at / 1000, 'unixepoch') AS as_of,
       s.configured,
       s.missing_count,
       CASE WHEN s.configured = 1 THEN s.total_count END AS total_count
FROM type_state s
JOIN app a ON a.app_id = s.app_id
JOIN group_type t ON t.type_id = s.type_id;
