-- The base views: private, the same text on both engines, with app_id and unix milliseconds. The program reads them. The
-- public views only add the app's name and format times.

CREATE VIEW base_groups AS
SELECT g.app_id,
       g.group_id,
       g.type_id,
       t.name AS group_type,
       g.first_seen_at,
       g.in_baseline,
       CASE WHEN g.deleted_at IS NULL AND g.missing_since IS NULL AND s.concluded_at > g.last_seen_at
            THEN s.concluded_at
            ELSE g.last_seen_at END AS last_seen_at,
       g.deleted_at,
       g.missing_since,
       g.held_crawl_id IS NOT NULL AS held,
       g.held_as IS NOT NULL AND g.held_as = 'c' AS confirmed
FROM group_row g
LEFT JOIN group_type t ON t.type_id = g.type_id
LEFT JOIN type_state s ON s.app_id = g.app_id AND s.type_id = g.type_id;

CREATE VIEW base_group_events AS
SELECT e.app_id,
       e.event_id,
       e.occurred_at,
       e.group_id,
       CASE e.kind WHEN 'a' THEN 'appeared' WHEN 'v' THEN 'vanished' WHEN 'r' THEN 'reappeared'
                   WHEN 't' THEN 'retyped' WHEN 'u' THEN 'undeleted' END AS event,
       o.name AS old_type,
       n.name AS new_type,
       e.crawl_id
FROM group_event e
JOIN crawl c ON c.crawl_id = e.crawl_id AND c.status <> 'running'
LEFT JOIN group_type o ON o.type_id = e.old_type
LEFT JOIN group_type n ON n.type_id = e.new_type;

CREATE VIEW base_app_counts AS
SELECT app_id,
       finished_at AS recorded_at,
       coalesce(total_at_end, total_at_start) AS total_count,
       total_at_start AS total_count_at_start,
       listed_count,
       crawl_id
FROM crawl
WHERE status <> 'running';

-- CROSS JOIN makes SQLite's planner start with the crawls instead of the passes.
CREATE VIEW base_type_counts AS
SELECT c.app_id,
       p.recorded_at,
       t.name AS group_type,
       p.total_count,
       p.total_lowest AS total_count_min,
       p.total_highest AS total_count_max,
       p.listed_count,
       p.verdict,
       p.crawl_id,
       p.pass_no
FROM crawl c
CROSS JOIN crawl_pass p
JOIN group_type t ON t.type_id = p.type_id
WHERE p.crawl_id = c.crawl_id AND p.type_id <> 0 AND c.status <> 'running';

CREATE VIEW base_daily_counts AS
SELECT d.*,
       d.live_groups - d.live_before AS net_growth,
       (SELECT count(*) FROM crawl c
        WHERE c.app_id = d.app_id AND c.day = d.day AND c.status = 'complete') AS complete_crawls
FROM (
    SELECT d.app_id,
           d.day,
           d.type_id,
           t.name AS group_type,
           d.timezone,
           d.live_groups,
           d.total_count,
           d.appeared,
           d.vanished,
           d.reappeared,
           d.retyped,
           -- NULL up to the day of the baseline, because a baseline is not growth.
           CASE WHEN d.day > (SELECT b.day FROM type_state s JOIN crawl b ON b.crawl_id = s.baseline_crawl_id
                              WHERE s.app_id = d.app_id AND s.type_id = d.type_id)
                THEN (SELECT p.live_groups FROM daily_count p
                      WHERE p.app_id = d.app_id AND p.type_id = d.type_id AND p.day < d.day
                      ORDER BY p.day DESC LIMIT 1) END AS live_before
    FROM daily_count d
    JOIN group_type t ON t.type_id = d.type_id
) AS d;

CREATE VIEW base_crawls AS
SELECT c.app_id,
       c.crawl_id,
       c.trigger,
       c.due_at,
       c.started_at,
       c.finished_at,
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
       CAST((c.finished_at - c.started_at) / 1000.0 AS DOUBLE PRECISION) AS duration_seconds,
       (SELECT count(*) FROM group_row g WHERE g.app_id = c.app_id AND g.held_crawl_id = c.crawl_id) AS held_count,
       c.asked,
       c.confirmed,
       c.unlearned,
       c.unasked,
       c.withheld_confirmed,
       c.total_at_start,
       c.total_at_end,
       c.clock_skew
FROM crawl c;

CREATE VIEW base_daily_crawls AS
SELECT app_id,
       day,
       count(*) AS crawls,
       count(*) FILTER (WHERE status = 'complete') AS complete,
       count(*) FILTER (WHERE status = 'incomplete') AS incomplete,
       count(*) FILTER (WHERE status = 'failed') AS failed,
       count(*) FILTER (WHERE status = 'cancelled') AS cancelled,
       CAST(count(*) FILTER (WHERE status = 'complete') AS DOUBLE PRECISION)
           / nullif(count(*) FILTER (WHERE status <> 'cancelled'), 0) AS success_rate,
       CAST(sum(requests) AS BIGINT) AS requests,
       CAST(sum(finished_at - started_at) / 1000.0 AS DOUBLE PRECISION) AS total_seconds,
       CAST(max(finished_at - started_at) / 1000.0 AS DOUBLE PRECISION) AS longest_seconds,
       max(timezone) AS timezone
FROM crawl
WHERE status <> 'running'
GROUP BY app_id, day;

-- Held groups are missing, so group_row is not read if no group is missing.
CREATE VIEW base_app_status AS
SELECT a.app_id,
       a.sdk_app_id,
       a.name AS app,
       a.configured <> 0 AS configured,
       (SELECT CAST(coalesce(sum(s.live_count), 0) AS BIGINT) FROM type_state s WHERE s.app_id = a.app_id) AS live_count,
       (SELECT CAST(coalesce(sum(s.missing_count), 0) AS BIGINT) FROM type_state s WHERE s.app_id = a.app_id) AS missing_count,
       (SELECT k.crawl_id FROM crawl k
        WHERE k.app_id = a.app_id AND k.status = 'complete' ORDER BY k.crawl_id DESC LIMIT 1) AS last_complete_crawl_id,
       (SELECT k.crawl_id FROM crawl k
        WHERE k.app_id = a.app_id AND k.status <> 'running' ORDER BY k.crawl_id DESC LIMIT 1) AS last_crawl_id,
       (SELECT k.crawl_id FROM crawl k WHERE k.app_id = a.app_id ORDER BY k.crawl_id DESC LIMIT 1) AS newest_crawl_id,
       (SELECT k.started_at FROM crawl k WHERE k.app_id = a.app_id ORDER BY k.crawl_id LIMIT 1) AS first_crawl_started_at,
       (SELECT k.unasked FROM crawl k
        WHERE k.app_id = a.app_id AND k.status IN ('complete', 'incomplete') ORDER BY k.crawl_id DESC LIMIT 1) AS unasked,
       (SELECT coalesce(k.total_at_end, k.total_at_start) FROM crawl k
        WHERE k.app_id = a.app_id AND k.total_at_start IS NOT NULL ORDER BY k.crawl_id DESC LIMIT 1) AS total_count,
       -- The greatest TotalCount of the month of the newest day.
       (SELECT max(CASE WHEN k.total_at_start > k.total_at_end THEN k.total_at_start
                        ELSE coalesce(k.total_at_end, k.total_at_start) END)
        FROM crawl k
        WHERE k.app_id = a.app_id AND k.day >= substr((SELECT max(m.day) FROM crawl m WHERE m.app_id = a.app_id), 1, 7)
       ) AS month_peak,
       CASE WHEN EXISTS (SELECT 1 FROM type_state s WHERE s.app_id = a.app_id AND s.missing_count > 0)
            THEN (SELECT count(*) FROM group_row g WHERE g.app_id = a.app_id AND g.held_crawl_id IS NOT NULL)
            ELSE 0 END AS held_count,
       d.known_count AS details_known,
       d.fresh_count AS details_fresh,
       d.oldest_as_of AS details_oldest,
       d.counted_at AS details_counted_at
FROM app a
LEFT JOIN detail_state d ON d.app_id = a.app_id;

CREATE VIEW base_type_status AS
SELECT s.app_id,
       s.type_id,
       t.name AS group_type,
       t.sdk_name,
       t.name_zh,
       s.live_count,
       s.deleted_count,
       s.concluded_at AS as_of,
       s.configured <> 0 AS configured,
       s.missing_count,
       CASE WHEN s.configured = 1 THEN s.total_count END AS total_count
FROM type_state s
JOIN group_type t ON t.type_id = s.type_id;

-- A span is a period in which a group was live under one type. If a clock was set back, a group may have been marked deleted
-- before its span began. Such a span has no length.
CREATE VIEW base_group_spans AS
SELECT app_id,
       group_id,
       type_id,
       coalesce(live_since, first_seen_at) AS live_from,
       CASE WHEN deleted_at < coalesce(live_since, first_seen_at)
            THEN coalesce(live_since, first_seen_at)
            ELSE deleted_at END AS live_until,
       in_baseline AND live_since IS NULL AS in_baseline
FROM group_row
UNION ALL
SELECT app_id, group_id, type_id, live_from, live_until, in_baseline
FROM past_span;

-- Every TotalCount with its month. Type -1 means all types. A crawl reads the app's TotalCount twice: total has the greater
-- count, and last_total has the later count.
CREATE VIEW base_monthly_snapshots AS
SELECT app_id,
       crawl_id,
       substr(day, 1, 7) AS month,
       timezone,
       -1 AS type_id,
       coalesce(total_at_end, total_at_start) AS last_total,
       CASE WHEN total_at_start > total_at_end THEN total_at_start
            ELSE coalesce(total_at_end, total_at_start) END AS total,
       CASE WHEN total_at_end IS NULL OR total_at_start > total_at_end THEN started_at ELSE finished_at END AS counted_at
FROM crawl
WHERE status <> 'running' AND coalesce(total_at_end, total_at_start) IS NOT NULL
UNION ALL
SELECT c.app_id,
       c.crawl_id,
       substr(c.day, 1, 7),
       c.timezone,
       p.type_id,
       p.total_count,
       p.total_highest,
       p.recorded_at
FROM crawl c
JOIN crawl_pass p ON p.crawl_id = c.crawl_id
WHERE c.status <> 'running' AND p.type_id <> 0 AND p.total_count IS NOT NULL AND p.total_highest IS NOT NULL;

-- The net growth of each month by type. Type -1 means all types.
CREATE VIEW base_monthly_growth AS
WITH by_type AS (
    SELECT app_id, substr(day, 1, 7) AS month, type_id, CAST(sum(net_growth) AS BIGINT) AS net_growth
    FROM base_daily_counts GROUP BY app_id, substr(day, 1, 7), type_id
)
SELECT app_id, month, type_id, net_growth FROM by_type
UNION ALL
SELECT app_id, month, -1, CAST(sum(net_growth) AS BIGINT) FROM by_type GROUP BY app_id, month;

-- A single scan of the snapshots finds the peak and when it was first reached. The greatest peak_key is the peak: it has the count
-- in the upper bits, and in the lower 30 bits the seconds from the time of the count until 2054 (2651578623). So of two equal
-- counts the earlier one has the greater key. Times before 2020 (1577836800000) count as 2020. 1073741824 is 2^30.
-- Counts of 2^33 (8589934592) groups and more do not fit, and are left out.
CREATE VIEW base_monthly_counts AS
SELECT m.app_id,
       m.month,
       m.type_id,
       CASE WHEN m.type_id = -1 THEN 'all' ELSE t.name END AS group_type,
       m.timezone,
       m.peak_key / 1073741824 AS peak_total_count,
       (2651578623 - m.peak_key % 1073741824) * 1000 AS peak_at,
       CASE WHEN m.type_id = -1
            THEN (SELECT coalesce(c.total_at_end, c.total_at_start) FROM crawl c WHERE c.crawl_id = m.last_crawl_id)
            ELSE (SELECT max(p.total_count) FROM crawl_pass p
                  WHERE p.crawl_id = m.last_crawl_id AND p.type_id = m.type_id) END AS last_total_count,
       m.average_total_count,
       m.snapshots,
       g.net_growth
FROM (
    SELECT app_id, month, type_id,
           max(timezone) AS timezone,
           max(total * 1073741824 + CASE WHEN counted_at < 1577836800000 THEN 1073741823
                                         ELSE 2651578623 - counted_at / 1000 END) AS peak_key,
           CAST(avg(last_total) AS DOUBLE PRECISION) AS average_total_count,
           count(*) AS snapshots,
           max(crawl_id) AS last_crawl_id
    FROM base_monthly_snapshots
    WHERE total < 8589934592
    GROUP BY app_id, month, type_id
) AS m
LEFT JOIN base_monthly_growth g ON g.app_id = m.app_id AND g.month = m.month AND g.type_id = m.type_id
LEFT JOIN group_type t ON t.type_id = m.type_id;

-- as_of is the time of the group's range (detail_range) if that is later than the time of the row. The time of a range applies to
-- groups that were live at that time, unless their last request had no usable answer.
CREATE VIEW base_group_details AS
SELECT d.app_id,
       d.group_id,
       d.name,
       d.owner,
       d.introduction,
       d.created_at,
       d.last_message_at,
       d.info_changed_at,
       d.member_count,
       d.max_member_count,
       d.is_answered,
       g.deleted_at,
       CASE WHEN d.is_answered = 1 AND d.range_at > d.fetched_at
                 AND d.range_at >= coalesce(g.live_since, g.first_seen_at)
                 AND (g.deleted_at IS NULL OR d.range_at < g.deleted_at)
            THEN d.range_at
            ELSE d.fetched_at END AS as_of
FROM (
    SELECT f.*,
           (SELECT r.refreshed_at FROM detail_range r
            WHERE r.app_id = f.app_id AND r.after_id < f.group_id ORDER BY r.after_id DESC LIMIT 1) AS range_at
    FROM group_detail f
) AS d
JOIN group_row g ON g.app_id = d.app_id AND g.group_id = d.group_id;
