-- What readers ask next: growth and churn by day, how long groups live, how the crawls fare, what waits for a person.

-- The day of daily_count that a crawl was added to. Of crawls of earlier versions it is UTC's.
ALTER TABLE tim_private.crawl ADD COLUMN day TEXT COLLATE "C";
UPDATE tim_private.crawl SET day = to_char(to_timestamp(finished_at / 1000::double precision) AT TIME ZONE 'UTC', 'YYYY-MM-DD');

-- The last TotalCount of each type: found again, it would have to be looked for in all crawls.
ALTER TABLE tim_private.type_state ADD COLUMN total_count BIGINT;
UPDATE tim_private.type_state SET total_count = (
    SELECT p.total_count FROM tim_private.crawl c JOIN tim_private.crawl_pass p ON p.crawl_id = c.crawl_id
    WHERE c.app_id = type_state.app_id AND p.type_id = type_state.type_id AND p.type_id <> 0 AND p.total_count IS NOT NULL
    ORDER BY c.crawl_id DESC LIMIT 1);

-- Few groups wait, or none: nobody shall have to look at all the others to find them.
CREATE INDEX group_row_held ON tim_private.group_row (app_id, held_crawl_id) WHERE held_crawl_id IS NOT NULL;

-- Times as group_events writes them, so that a condition on that view is a range of this index.
CREATE INDEX group_event_by_time ON tim_private.group_event (to_timestamp(occurred_at / 1000::double precision));

-- A group's events are found by its id alone, with or without its app.
DROP INDEX tim_private.group_event_by_group;
CREATE INDEX group_event_by_group ON tim_private.group_event (group_id, app_id);

-- Names are joined from the left, so that a query without them does not pay for them. The app is not: it leads the key
-- by which a group is found.
CREATE OR REPLACE VIEW tim.groups AS
SELECT a.sdk_app_id,
       a.name AS app,
       g.group_id,
       t.name AS group_type,
       to_timestamp(g.first_seen_at / 1000::double precision) AS first_seen_at,
       g.in_baseline,
       to_timestamp(CASE WHEN g.deleted_at IS NULL AND g.missing_since IS NULL
                         THEN greatest(g.last_seen_at, s.concluded_at)
                         ELSE g.last_seen_at END / 1000::double precision) AS last_seen_at,
       to_timestamp(g.deleted_at / 1000::double precision) AS deleted_at,
       to_timestamp(g.missing_since / 1000::double precision) AS missing_since,
       g.held_crawl_id IS NOT NULL AS held
FROM tim_private.group_row g
JOIN tim_private.app a ON a.app_id = g.app_id
LEFT JOIN tim_private.group_type t ON t.type_id = g.type_id
LEFT JOIN tim_private.type_state s ON s.app_id = g.app_id AND s.type_id = g.type_id;

CREATE OR REPLACE VIEW tim.live_groups AS
SELECT a.sdk_app_id,
       a.name AS app,
       g.group_id,
       t.name AS group_type,
       to_timestamp(g.first_seen_at / 1000::double precision) AS first_seen_at,
       g.in_baseline,
       to_timestamp(CASE WHEN g.missing_since IS NULL THEN greatest(g.last_seen_at, s.concluded_at)
                         ELSE g.last_seen_at END / 1000::double precision) AS last_seen_at,
       NULL::timestamptz AS deleted_at,
       to_timestamp(g.missing_since / 1000::double precision) AS missing_since,
       g.held_crawl_id IS NOT NULL AS held
FROM tim_private.group_row g
JOIN tim_private.app a ON a.app_id = g.app_id
LEFT JOIN tim_private.group_type t ON t.type_id = g.type_id
LEFT JOIN tim_private.type_state s ON s.app_id = g.app_id AND s.type_id = g.type_id
WHERE g.deleted_at IS NULL;

CREATE VIEW tim.group_lifetimes AS
SELECT a.sdk_app_id,
       a.name AS app,
       g.group_id,
       t.name AS group_type,
       to_timestamp(g.first_seen_at / 1000::double precision) AS first_seen_at,
       to_timestamp(g.deleted_at / 1000::double precision) AS deleted_at,
       coalesce(g.deleted_at / 1000, CAST(floor(extract(epoch FROM now())) AS BIGINT)) - g.first_seen_at / 1000 AS lifetime_seconds
FROM tim_private.group_row g
JOIN tim_private.app a ON a.app_id = g.app_id
LEFT JOIN tim_private.group_type t ON t.type_id = g.type_id
WHERE NOT g.in_baseline;

CREATE OR REPLACE VIEW tim.daily_counts AS
SELECT sdk_app_id, app, day, group_type, live_groups, total_count, appeared, vanished, reappeared, retyped, live_before,
       live_groups - live_before AS net_growth
FROM (
    SELECT a.sdk_app_id,
           a.name AS app,
           d.day::date AS day,
           t.name AS group_type,
           d.live_groups,
           d.total_count,
           d.appeared,
           d.vanished,
           d.reappeared,
           d.retyped,
           -- A baseline is no growth.
           CASE WHEN d.day > (SELECT b.day FROM tim_private.type_state s
                              JOIN tim_private.crawl b ON b.crawl_id = s.baseline_crawl_id
                              WHERE s.app_id = d.app_id AND s.type_id = d.type_id)
                THEN (SELECT p.live_groups FROM tim_private.daily_count p
                      WHERE p.app_id = d.app_id AND p.type_id = d.type_id AND p.day < d.day
                      ORDER BY p.day DESC LIMIT 1) END AS live_before
    FROM tim_private.daily_count d
    JOIN tim_private.app a ON a.app_id = d.app_id
    JOIN tim_private.group_type t ON t.type_id = d.type_id
) AS days;

CREATE OR REPLACE VIEW tim.crawls AS
SELECT a.sdk_app_id,
       a.name AS app,
       c.crawl_id,
       c.trigger,
       to_timestamp(c.due_at / 1000::double precision) AS due_at,
       to_timestamp(c.started_at / 1000::double precision) AS started_at,
       to_timestamp(c.finished_at / 1000::double precision) AS finished_at,
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
       c.day::date AS day,
       (c.finished_at - c.started_at) / 1000::double precision AS duration_seconds,
       (SELECT count(*) FROM tim_private.group_row g WHERE g.app_id = c.app_id AND g.held_crawl_id = c.crawl_id) AS held_count
FROM tim_private.crawl c
JOIN tim_private.app a ON a.app_id = c.app_id;

CREATE VIEW tim.daily_crawls AS
SELECT a.sdk_app_id,
       a.name AS app,
       c.day::date AS day,
       count(*) AS crawls,
       count(*) FILTER (WHERE c.status = 'complete') AS complete,
       count(*) FILTER (WHERE c.status = 'incomplete') AS incomplete,
       count(*) FILTER (WHERE c.status = 'failed') AS failed,
       count(*) FILTER (WHERE c.status = 'cancelled') AS cancelled,
       count(*) FILTER (WHERE c.status = 'complete')
           / nullif(count(*) FILTER (WHERE c.status <> 'cancelled'), 0)::double precision AS success_rate,
       CAST(sum(c.requests) AS BIGINT) AS requests,
       CAST(sum(c.finished_at - c.started_at) AS BIGINT) / 1000::double precision AS total_seconds,
       max(c.finished_at - c.started_at) / 1000::double precision AS longest_seconds
FROM tim_private.crawl c
JOIN tim_private.app a ON a.app_id = c.app_id
WHERE c.status <> 'running'
GROUP BY a.sdk_app_id, a.name, c.day::date;

CREATE OR REPLACE VIEW tim.app_status AS
SELECT a.sdk_app_id,
       a.name AS app,
       a.configured <> 0 AS configured,
       (SELECT coalesce(sum(s.live_count), 0)::bigint FROM tim_private.type_state s WHERE s.app_id = a.app_id) AS live_count,
       (SELECT coalesce(sum(s.missing_count), 0)::bigint FROM tim_private.type_state s WHERE s.app_id = a.app_id) AS missing_count,
       (SELECT to_timestamp(k.finished_at / 1000::double precision) FROM tim_private.crawl k
        WHERE k.app_id = a.app_id AND k.status = 'complete' ORDER BY k.crawl_id DESC LIMIT 1) AS last_complete_crawl_at,
       c.status AS last_crawl_status,
       c.deletions AS last_crawl_deletions,
       c.reason AS last_crawl_reason,
       to_timestamp(c.finished_at / 1000::double precision) AS last_crawl_at,
       -- The newest one, or none.
       (SELECT CASE k.status WHEN 'running' THEN to_timestamp(k.started_at / 1000::double precision) END
        FROM tim_private.crawl k WHERE k.app_id = a.app_id ORDER BY k.crawl_id DESC LIMIT 1) AS running_since,
       (SELECT coalesce(k.total_at_end, k.total_at_start) FROM tim_private.crawl k
        WHERE k.app_id = a.app_id AND k.total_at_start IS NOT NULL ORDER BY k.crawl_id DESC LIMIT 1) AS total_count,
       (SELECT count(*) FROM tim_private.group_row g WHERE g.app_id = a.app_id AND g.held_crawl_id IS NOT NULL) AS held_count
FROM tim_private.app a
LEFT JOIN LATERAL (SELECT k.status, k.deletions, k.reason, k.finished_at FROM tim_private.crawl k
                   WHERE k.app_id = a.app_id AND k.status <> 'running'
                   ORDER BY k.crawl_id DESC LIMIT 1) c ON true;

CREATE OR REPLACE VIEW tim.type_status AS
SELECT a.sdk_app_id,
       a.name AS app,
       t.name AS group_type,
       t.sdk_name,
       t.name_zh,
       s.live_count,
       s.deleted_count,
       to_timestamp(s.concluded_at / 1000::double precision) AS as_of,
       s.configured <> 0 AS configured,
       s.missing_count,
       CASE WHEN s.configured = 1 THEN s.total_count END AS total_count
FROM tim_private.type_state s
JOIN tim_private.app a ON a.app_id = s.app_id
JOIN tim_private.group_type t ON t.type_id = s.type_id;

COMMENT ON VIEW tim.group_lifetimes IS
    'How long groups live: one row a group that appeared while its app was being crawled. Groups of a baseline are left out, because nobody knows how old they are.';
COMMENT ON COLUMN tim.group_lifetimes.sdk_app_id IS
    'The SDKAppID of the app, a number that never changes.';
COMMENT ON COLUMN tim.group_lifetimes.app IS
    'The app''s name in the configuration. It can be renamed; sdk_app_id stays.';
COMMENT ON COLUMN tim.group_lifetimes.group_id IS
    'The group''s id.';
COMMENT ON COLUMN tim.group_lifetimes.group_type IS
    'The type as the REST API names it; NULL: not known.';
COMMENT ON COLUMN tim.group_lifetimes.first_seen_at IS
    'When a crawl first listed the group. It was created some time since the crawl before.';
COMMENT ON COLUMN tim.group_lifetimes.deleted_at IS
    'When the group was marked deleted; NULL: it lives.';
COMMENT ON COLUMN tim.group_lifetimes.lifetime_seconds IS
    'From first_seen_at to deleted_at, or to now for a group that lives: right to within the time between two crawls. Of a group that vanished and reappeared, the whole span.';
COMMENT ON COLUMN tim.daily_counts.live_before IS
    'live_groups of the type''s recorded day before; NULL up to the day of the type''s baseline.';
COMMENT ON COLUMN tim.daily_counts.net_growth IS
    'live_groups less live_before: all that came and went since then, whether as an event of that day, retyped or undeleted. NULL where live_before is: a baseline is no growth. Days can be added up.';
COMMENT ON COLUMN tim.crawls.day IS
    'The day that the crawl''s events are counted on in daily_counts, in the time zone of the app''s schedule; NULL: running. Of crawls before this column came to be, the day in UTC.';
COMMENT ON COLUMN tim.crawls.duration_seconds IS
    'From started_at to finished_at by the clock, with milliseconds; NULL: running.';
COMMENT ON COLUMN tim.crawls.held_count IS
    'Groups whose deletion this crawl withheld, or which was undone, and which still wait: until the API lists them or someone approves.';
COMMENT ON VIEW tim.daily_crawls IS
    'The health of the crawls: one row a day and app. Running crawls are left out, and a day without a crawl has no row. All but success_rate and longest_seconds can be added up over days.';
COMMENT ON COLUMN tim.daily_crawls.sdk_app_id IS
    'The SDKAppID of the app, a number that never changes.';
COMMENT ON COLUMN tim.daily_crawls.app IS
    'The app''s name in the configuration. It can be renamed; sdk_app_id stays.';
COMMENT ON COLUMN tim.daily_crawls.day IS
    'The day on which the crawls ended, in the time zone of the app''s schedule.';
COMMENT ON COLUMN tim.daily_crawls.crawls IS
    'Crawls that ended that day, however they did.';
COMMENT ON COLUMN tim.daily_crawls.complete IS
    'Those that are complete.';
COMMENT ON COLUMN tim.daily_crawls.incomplete IS
    'Those that reached their end, but some list was shorter than its TotalCount.';
COMMENT ON COLUMN tim.daily_crawls.failed IS
    'Those that failed.';
COMMENT ON COLUMN tim.daily_crawls.cancelled IS
    'Those that were cancelled because the program was stopped.';
COMMENT ON COLUMN tim.daily_crawls.success_rate IS
    'The share of complete crawls among those that were not cancelled, from 0 to 1; NULL: there were none. Over several days divide the sums.';
COMMENT ON COLUMN tim.daily_crawls.requests IS
    'Requests to the API, retries included.';
COMMENT ON COLUMN tim.daily_crawls.total_seconds IS
    'How long all of them took together.';
COMMENT ON COLUMN tim.daily_crawls.longest_seconds IS
    'How long the longest took.';
COMMENT ON COLUMN tim.app_status.last_crawl_at IS
    'When the newest crawl that ended did so; NULL: none yet.';
COMMENT ON COLUMN tim.app_status.running_since IS
    'When the crawl that is running started; NULL: none is. Stays after its process was killed, until the next crawl.';
COMMENT ON COLUMN tim.app_status.total_count IS
    'Groups of all types as the API counted them last; NULL: it has not yet.';
COMMENT ON COLUMN tim.app_status.held_count IS
    'Live groups whose deletion was withheld or undone and which wait: until the API lists them or someone approves.';
COMMENT ON COLUMN tim.type_status.missing_count IS
    'Live groups that the last complete crawl did not list.';
COMMENT ON COLUMN tim.type_status.total_count IS
    'Groups of the type as the API counted them last; NULL: it has not, or the type is not configured.';
