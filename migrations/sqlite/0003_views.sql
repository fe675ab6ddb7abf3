-- The public views. New columns are only added, at the end. Times are UTC, as text of fixed width that sorts like the times.
-- CAST gives computed columns a declared type, which SQLite 3.42 and newer report. CROSS JOIN keeps the planner from reading
-- all groups when a query has a condition on the group but not on the app.

CREATE VIEW groups AS
SELECT a.sdk_app_id,
       a.name AS app,
       g.group_id,
       g.group_type,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', g.first_seen_at / 1000, 'unixepoch') AS TEXT) AS first_seen_at,
       g.in_baseline,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', g.last_seen_at / 1000, 'unixepoch') AS TEXT) AS last_seen_at,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', g.deleted_at / 1000, 'unixepoch') AS TEXT) AS deleted_at,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', g.missing_since / 1000, 'unixepoch') AS TEXT) AS missing_since,
       CAST(g.held AS INTEGER) AS held,
       CAST(g.confirmed AS INTEGER) AS confirmed
FROM app a
CROSS JOIN base_groups g ON g.app_id = a.app_id;

CREATE VIEW live_groups AS
SELECT a.sdk_app_id,
       a.name AS app,
       g.group_id,
       g.group_type,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', g.first_seen_at / 1000, 'unixepoch') AS TEXT) AS first_seen_at,
       g.in_baseline,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', g.last_seen_at / 1000, 'unixepoch') AS TEXT) AS last_seen_at,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', g.deleted_at / 1000, 'unixepoch') AS TEXT) AS deleted_at,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', g.missing_since / 1000, 'unixepoch') AS TEXT) AS missing_since,
       CAST(g.held AS INTEGER) AS held,
       CAST(g.confirmed AS INTEGER) AS confirmed
FROM app a
CROSS JOIN base_groups g ON g.app_id = a.app_id
WHERE g.deleted_at IS NULL;

CREATE VIEW group_events AS
SELECT a.sdk_app_id,
       a.name AS app,
       e.event_id,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', e.occurred_at / 1000, 'unixepoch') AS TEXT) AS occurred_at,
       e.group_id,
       CAST(e.event AS TEXT) AS event,
       e.old_type,
       e.new_type,
       e.crawl_id
FROM base_group_events e
JOIN app a ON a.app_id = e.app_id;

CREATE VIEW app_counts AS
SELECT a.sdk_app_id,
       a.name AS app,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', c.recorded_at / 1000, 'unixepoch') AS TEXT) AS recorded_at,
       CAST(c.total_count AS INTEGER) AS total_count,
       c.total_count_at_start,
       c.listed_count,
       c.crawl_id
FROM base_app_counts c
JOIN app a ON a.app_id = c.app_id;

CREATE VIEW type_counts AS
SELECT a.sdk_app_id,
       a.name AS app,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', c.recorded_at / 1000, 'unixepoch') AS TEXT) AS recorded_at,
       c.group_type,
       c.total_count,
       c.total_count_min,
       c.total_count_max,
       c.listed_count,
       c.verdict,
       c.crawl_id
FROM app a
CROSS JOIN base_type_counts c ON c.app_id = a.app_id;

CREATE VIEW daily_counts AS
SELECT a.sdk_app_id,
       a.name AS app,
       d.day,
       d.group_type,
       d.live_groups,
       d.total_count,
       d.appeared,
       d.vanished,
       d.reappeared,
       d.retyped,
       CAST(d.live_before AS INTEGER) AS live_before,
       CAST(d.net_growth AS INTEGER) AS net_growth,
       d.timezone,
       CAST(d.complete_crawls AS INTEGER) AS complete_crawls
FROM base_daily_counts d
JOIN app a ON a.app_id = d.app_id;

CREATE VIEW crawls AS
SELECT a.sdk_app_id,
       a.name AS app,
       c.crawl_id,
       c.trigger,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', c.due_at / 1000, 'unixepoch') AS TEXT) AS due_at,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', c.started_at / 1000, 'unixepoch') AS TEXT) AS started_at,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', c.finished_at / 1000, 'unixepoch') AS TEXT) AS finished_at,
       c.status,
       c.deletions,
       c.requests,
       c.groups_listed,
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
       c.duration_seconds,
       CAST(c.held_count AS INTEGER) AS held_count,
       c.asked,
       c.confirmed,
       c.unlearned,
       c.unasked,
       c.withheld_confirmed
FROM base_crawls c
JOIN app a ON a.app_id = c.app_id;

CREATE VIEW group_lifetimes AS
SELECT a.sdk_app_id,
       a.name AS app,
       g.group_id,
       g.group_type,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', g.first_seen_at / 1000, 'unixepoch') AS TEXT) AS first_seen_at,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', g.deleted_at / 1000, 'unixepoch') AS TEXT) AS deleted_at,
       CAST(ifnull(g.deleted_at / 1000, CAST(strftime('%s', 'now') AS INTEGER)) - g.first_seen_at / 1000 AS INTEGER) AS lifetime_seconds
FROM app a
CROSS JOIN base_groups g ON g.app_id = a.app_id
WHERE g.in_baseline = 0;

CREATE VIEW daily_crawls AS
SELECT a.sdk_app_id,
       a.name AS app,
       c.day,
       CAST(c.crawls AS INTEGER) AS crawls,
       CAST(c.complete AS INTEGER) AS complete,
       CAST(c.incomplete AS INTEGER) AS incomplete,
       CAST(c.failed AS INTEGER) AS failed,
       CAST(c.cancelled AS INTEGER) AS cancelled,
       CAST(c.success_rate AS REAL) AS success_rate,
       c.requests,
       c.total_seconds,
       c.longest_seconds,
       CAST(c.timezone AS TEXT) AS timezone,
       CAST(c.complete AS INTEGER) AS complete_crawls
FROM app a
JOIN base_daily_crawls c ON c.app_id = a.app_id;

CREATE VIEW group_spans AS
SELECT a.sdk_app_id,
       a.name AS app,
       s.group_id,
       t.name AS group_type,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', s.live_from / 1000, 'unixepoch') AS TEXT) AS live_from,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', s.live_until / 1000, 'unixepoch') AS TEXT) AS live_until,
       CAST(s.in_baseline AS INTEGER) AS in_baseline,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', a.groups_from / 1000, 'unixepoch') AS TEXT) AS complete_from
FROM app a
CROSS JOIN base_group_spans s ON s.app_id = a.app_id
JOIN group_type t ON t.type_id = s.type_id;

CREATE VIEW group_details AS
SELECT a.sdk_app_id,
       a.name AS app,
       d.group_id,
       d.name,
       d.owner,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', d.created_at / 1000, 'unixepoch') AS TEXT) AS created_at,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', d.last_message_at / 1000, 'unixepoch') AS TEXT) AS last_message_at,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', d.info_changed_at / 1000, 'unixepoch') AS TEXT) AS info_changed_at,
       d.member_count,
       d.max_member_count,
       d.introduction,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', d.as_of / 1000, 'unixepoch') AS TEXT) AS as_of
FROM app a
CROSS JOIN base_group_details d ON d.app_id = a.app_id;

CREATE VIEW monthly_counts AS
SELECT a.sdk_app_id,
       a.name AS app,
       CAST(m.month AS TEXT) AS month,
       CAST(m.timezone AS TEXT) AS timezone,
       CAST(m.group_type AS TEXT) AS group_type,
       CAST(m.peak_total_count AS INTEGER) AS peak_total_count,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', m.peak_at / 1000, 'unixepoch') AS TEXT) AS peak_at,
       CAST(m.last_total_count AS INTEGER) AS last_total_count,
       CAST(m.average_total_count AS REAL) AS average_total_count,
       CAST(m.snapshots AS INTEGER) AS snapshots,
       CAST(m.net_growth AS INTEGER) AS net_growth
FROM app a
JOIN base_monthly_counts m ON m.app_id = a.app_id;

CREATE VIEW app_status AS
SELECT s.sdk_app_id,
       s.app,
       CAST(s.configured AS INTEGER) AS configured,
       CAST(s.live_count AS INTEGER) AS live_count,
       CAST(s.missing_count AS INTEGER) AS missing_count,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', k.finished_at / 1000, 'unixepoch') AS TEXT) AS last_complete_crawl_at,
       c.status AS last_crawl_status,
       c.deletions AS last_crawl_deletions,
       c.reason AS last_crawl_reason,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', c.finished_at / 1000, 'unixepoch') AS TEXT) AS last_crawl_at,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', CASE WHEN n.status = 'running' THEN n.started_at END / 1000, 'unixepoch') AS TEXT) AS running_since,
       CAST(s.total_count AS INTEGER) AS total_count,
       CAST(s.held_count AS INTEGER) AS held_count,
       CAST(s.details_known AS INTEGER) AS details_count,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', s.details_oldest / 1000, 'unixepoch') AS TEXT) AS oldest_details_at
FROM base_app_status s
LEFT JOIN crawl k ON k.crawl_id = s.last_complete_crawl_id
LEFT JOIN crawl c ON c.crawl_id = s.last_crawl_id
LEFT JOIN crawl n ON n.crawl_id = s.newest_crawl_id;

CREATE VIEW type_status AS
SELECT a.sdk_app_id,
       a.name AS app,
       s.group_type,
       s.sdk_name,
       s.name_zh,
       s.live_count,
       s.deleted_count,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', s.as_of / 1000, 'unixepoch') AS TEXT) AS as_of,
       CAST(s.configured AS INTEGER) AS configured,
       s.missing_count,
       CAST(s.total_count AS INTEGER) AS total_count
FROM app a
JOIN base_type_status s ON s.app_id = a.app_id;

-- live_groups comes from the newest crawl that ended on the same day in Beijing time. crawl.day is in the time zone of the
-- schedule, so it is at most one day earlier or later. The unary plus makes the planner search by day.
CREATE VIEW app_statistics AS
SELECT a.sdk_app_id,
       a.name AS app,
       s.day,
       s.groups,
       s.groups_created,
       s.groups_dissolved,
       s.groups_active,
       s.callbacks_sent,
       s.callbacks_answered,
       CAST((SELECT c.live_count FROM crawl c
             WHERE c.app_id = s.app_id AND c.day BETWEEN date(s.day, '-1 day') AND date(s.day, '+1 day')
               AND c.status IN ('complete', 'incomplete')
               AND date(c.finished_at / 1000 + 28800, 'unixepoch') = s.day
             ORDER BY +c.crawl_id DESC LIMIT 1) AS INTEGER) AS live_groups,
       CAST(strftime('%Y-%m-%dT%H:%M:%SZ', s.fetched_at / 1000, 'unixepoch') AS TEXT) AS fetched_at
FROM app a
JOIN app_statistic s ON s.app_id = a.app_id;
