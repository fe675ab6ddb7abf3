-- What people read. Columns are only ever added, at the end. Times are text, UTC, of fixed width: they sort as times.

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
FROM group_row g
JOIN app a ON a.app_id = g.app_id
JOIN group_type t ON t.type_id = g.type_id
LEFT JOIN type_state s ON s.app_id = g.app_id AND s.type_id = g.type_id;

CREATE VIEW live_groups AS
SELECT * FROM groups WHERE deleted_at IS NULL;

CREATE VIEW group_events AS
SELECT a.sdk_app_id,
       a.name AS app,
       e.event_id,
       strftime('%Y-%m-%dT%H:%M:%SZ', e.occurred_at / 1000, 'unixepoch') AS occurred_at,
       e.group_id,
       CASE e.kind WHEN 'a' THEN 'appeared' WHEN 'v' THEN 'vanished' WHEN 'r' THEN 'reappeared'
                   WHEN 't' THEN 'retyped' WHEN 'u' THEN 'undeleted' END AS event,
       o.name AS old_type,
       n.name AS new_type,
       e.crawl_id
FROM group_event e
JOIN crawl c ON c.crawl_id = e.crawl_id AND c.status <> 'running'
JOIN app a ON a.app_id = e.app_id
LEFT JOIN group_type o ON o.type_id = e.old_type
LEFT JOIN group_type n ON n.type_id = e.new_type;

CREATE VIEW app_counts AS
SELECT a.sdk_app_id,
       a.name AS app,
       strftime('%Y-%m-%dT%H:%M:%SZ', c.finished_at / 1000, 'unixepoch') AS recorded_at,
       ifnull(c.total_at_end, c.total_at_start) AS total_count,
       c.total_at_start AS total_count_at_start,
       c.listed_count,
       c.crawl_id
FROM crawl c
JOIN app a ON a.app_id = c.app_id
WHERE c.status <> 'running';

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
FROM crawl_pass p
JOIN crawl c ON c.crawl_id = p.crawl_id AND c.status <> 'running'
JOIN app a ON a.app_id = c.app_id
JOIN group_type t ON t.type_id = p.type_id
WHERE p.type_id <> 0;

CREATE VIEW daily_counts AS
SELECT a.sdk_app_id,
       a.name AS app,
       d.day,
       t.name AS group_type,
       d.live_groups,
       d.total_count,
       d.appeared,
       d.vanished,
       d.reappeared,
       d.retyped
FROM daily_count d
JOIN app a ON a.app_id = d.app_id
JOIN group_type t ON t.type_id = d.type_id;

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
       c.version
FROM crawl c
JOIN app a ON a.app_id = c.app_id;

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
       c.reason AS last_crawl_reason
FROM app a
LEFT JOIN crawl c ON c.crawl_id = (SELECT k.crawl_id FROM crawl k
                                   WHERE k.app_id = a.app_id AND k.status <> 'running'
                                   ORDER BY k.crawl_id DESC LIMIT 1);

CREATE VIEW type_status AS
SELECT a.sdk_app_id,
       a.name AS app,
       t.name AS group_type,
       t.sdk_name,
       t.name_zh,
       s.live_count,
       s.deleted_count,
       strftime('%Y-%m-%dT%H:%M:%SZ', s.concluded_at / 1000, 'unixepoch') AS as_of,
       s.configured
FROM type_state s
JOIN app a ON a.app_id = s.app_id
JOIN group_type t ON t.type_id = s.type_id;
