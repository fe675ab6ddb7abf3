-- What people read. Columns are only ever added, at the end. The same names and meanings as in SQLite, in PostgreSQL's
-- own types: timestamptz, boolean, date. The views read the tables with their owner's rights, so that readers need none
-- on the tables.

CREATE VIEW tim.groups AS
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
JOIN tim_private.group_type t ON t.type_id = g.type_id
LEFT JOIN tim_private.type_state s ON s.app_id = g.app_id AND s.type_id = g.type_id;

COMMENT ON VIEW tim.groups IS
    'Every group that was ever listed, one row each. Deleted groups stay, with deleted_at set: count live ones in live_groups, or better in type_status, which need not count.';
COMMENT ON COLUMN tim.groups.sdk_app_id IS
    'The SDKAppID of the app, a number that never changes.';
COMMENT ON COLUMN tim.groups.app IS
    'The app''s name in the configuration. It can be renamed; sdk_app_id stays.';
COMMENT ON COLUMN tim.groups.group_id IS
    'The group''s id, compared byte for byte: case and trailing spaces count.';
COMMENT ON COLUMN tim.groups.group_type IS
    'The type as the REST API names it (Work is Private, Meeting is ChatRoom). NULL: not known, only an unfiltered list has shown the group.';
COMMENT ON COLUMN tim.groups.first_seen_at IS
    'When a crawl first listed the group. Says nothing of its creation where in_baseline is true.';
COMMENT ON COLUMN tim.groups.in_baseline IS
    'Whether the group was there already when its type was first listed to the end.';
COMMENT ON COLUMN tim.groups.last_seen_at IS
    'The start of the last complete crawl that listed the group, or later. For live groups it moves with every such crawl.';
COMMENT ON COLUMN tim.groups.deleted_at IS
    'When the crawl that proved the group gone was concluded, or the deletion approved; NULL: live. The group was dissolved some time between last_seen_at and this.';
COMMENT ON COLUMN tim.groups.missing_since IS
    'The start of the first complete crawl that did not list the group, for groups that are live all the same; NULL: listed, or deleted.';
COMMENT ON COLUMN tim.groups.held IS
    'Whether the group stays live only because its deletion was withheld or undone: until the API lists it again or someone approves.';

CREATE VIEW tim.live_groups AS
SELECT * FROM tim.groups WHERE deleted_at IS NULL;

COMMENT ON VIEW tim.live_groups IS
    'The groups that are not deleted, missing ones included: the columns of groups.';
COMMENT ON COLUMN tim.live_groups.sdk_app_id IS
    'The SDKAppID of the app, a number that never changes.';
COMMENT ON COLUMN tim.live_groups.app IS
    'The app''s name in the configuration. It can be renamed; sdk_app_id stays.';
COMMENT ON COLUMN tim.live_groups.group_id IS
    'The group''s id, compared byte for byte: case and trailing spaces count.';
COMMENT ON COLUMN tim.live_groups.group_type IS
    'The type as the REST API names it (Work is Private, Meeting is ChatRoom). NULL: not known, only an unfiltered list has shown the group.';
COMMENT ON COLUMN tim.live_groups.first_seen_at IS
    'When a crawl first listed the group. Says nothing of its creation where in_baseline is true.';
COMMENT ON COLUMN tim.live_groups.in_baseline IS
    'Whether the group was there already when its type was first listed to the end.';
COMMENT ON COLUMN tim.live_groups.last_seen_at IS
    'The start of the last complete crawl that listed the group, or later. For live groups it moves with every such crawl.';
COMMENT ON COLUMN tim.live_groups.deleted_at IS
    'When the crawl that proved the group gone was concluded, or the deletion approved; NULL: live. The group was dissolved some time between last_seen_at and this.';
COMMENT ON COLUMN tim.live_groups.missing_since IS
    'The start of the first complete crawl that did not list the group, for groups that are live all the same; NULL: listed, or deleted.';
COMMENT ON COLUMN tim.live_groups.held IS
    'Whether the group stays live only because its deletion was withheld or undone: until the API lists it again or someone approves.';

CREATE VIEW tim.group_events AS
SELECT a.sdk_app_id,
       a.name AS app,
       e.event_id,
       to_timestamp(e.occurred_at / 1000::double precision) AS occurred_at,
       e.group_id,
       CASE e.kind WHEN 'a' THEN 'appeared' WHEN 'v' THEN 'vanished' WHEN 'r' THEN 'reappeared'
                   WHEN 't' THEN 'retyped' WHEN 'u' THEN 'undeleted' END AS event,
       o.name AS old_type,
       n.name AS new_type,
       e.crawl_id
FROM tim_private.group_event e
JOIN tim_private.crawl c ON c.crawl_id = e.crawl_id AND c.status <> 'running'
JOIN tim_private.app a ON a.app_id = e.app_id
LEFT JOIN tim_private.group_type o ON o.type_id = e.old_type
LEFT JOIN tim_private.group_type n ON n.type_id = e.new_type;

COMMENT ON VIEW tim.group_events IS
    'What happened to groups, in the order of event_id. Append only. Rows of a crawl show once it is no longer running.';
COMMENT ON COLUMN tim.group_events.sdk_app_id IS
    'The SDKAppID of the app, a number that never changes.';
COMMENT ON COLUMN tim.group_events.app IS
    'The app''s name in the configuration. It can be renamed; sdk_app_id stays.';
COMMENT ON COLUMN tim.group_events.event_id IS
    'Grows with time. Has gaps, and is no count.';
COMMENT ON COLUMN tim.group_events.occurred_at IS
    'When the crawl noticed it, not when it happened: that was some time since the crawl before.';
COMMENT ON COLUMN tim.group_events.group_id IS
    'The group''s id.';
COMMENT ON COLUMN tim.group_events.event IS
    'appeared, vanished, reappeared, retyped or undeleted. A return under another type is one reappeared. Groups of a type''s first list have no appeared.';
COMMENT ON COLUMN tim.group_events.old_type IS
    'The type before; NULL: none, or not known.';
COMMENT ON COLUMN tim.group_events.new_type IS
    'The type since; NULL: none, or not known.';
COMMENT ON COLUMN tim.group_events.crawl_id IS
    'The crawl that noticed it.';

CREATE VIEW tim.app_counts AS
SELECT a.sdk_app_id,
       a.name AS app,
       to_timestamp(c.finished_at / 1000::double precision) AS recorded_at,
       coalesce(c.total_at_end, c.total_at_start) AS total_count,
       c.total_at_start AS total_count_at_start,
       c.listed_count,
       c.crawl_id
FROM tim_private.crawl c
JOIN tim_private.app a ON a.app_id = c.app_id
WHERE c.status <> 'running';

COMMENT ON VIEW tim.app_counts IS
    'The history of the API''s TotalCount of the whole app, one row a crawl, failed ones too. Rows of a crawl show once it is no longer running.';
COMMENT ON COLUMN tim.app_counts.sdk_app_id IS
    'The SDKAppID of the app, a number that never changes.';
COMMENT ON COLUMN tim.app_counts.app IS
    'The app''s name in the configuration. It can be renamed; sdk_app_id stays.';
COMMENT ON COLUMN tim.app_counts.recorded_at IS
    'When the crawl ended.';
COMMENT ON COLUMN tim.app_counts.total_count IS
    'Groups of all types as the API counts them, at the end of the crawl, or at its start if it got no further; NULL: it got no count.';
COMMENT ON COLUMN tim.app_counts.total_count_at_start IS
    'The same count at the start of the crawl.';
COMMENT ON COLUMN tim.app_counts.listed_count IS
    'Different groups that the crawl listed. Of a crawl that failed: until then.';
COMMENT ON COLUMN tim.app_counts.crawl_id IS
    'The crawl.';

CREATE VIEW tim.type_counts AS
SELECT a.sdk_app_id,
       a.name AS app,
       to_timestamp(p.recorded_at / 1000::double precision) AS recorded_at,
       t.name AS group_type,
       p.total_count,
       p.total_lowest AS total_count_min,
       p.total_highest AS total_count_max,
       p.listed_count,
       p.verdict,
       p.crawl_id
FROM tim_private.crawl_pass p
JOIN tim_private.crawl c ON c.crawl_id = p.crawl_id AND c.status <> 'running'
JOIN tim_private.app a ON a.app_id = c.app_id
JOIN tim_private.group_type t ON t.type_id = p.type_id
WHERE p.type_id <> 0;

COMMENT ON VIEW tim.type_counts IS
    'The history of the API''s TotalCount by group type, one row a pass over a type. Rows of a crawl show once it is no longer running.';
COMMENT ON COLUMN tim.type_counts.sdk_app_id IS
    'The SDKAppID of the app, a number that never changes.';
COMMENT ON COLUMN tim.type_counts.app IS
    'The app''s name in the configuration. It can be renamed; sdk_app_id stays.';
COMMENT ON COLUMN tim.type_counts.recorded_at IS
    'When the pass ended; if it did not, when the crawl started.';
COMMENT ON COLUMN tim.type_counts.group_type IS
    'The type that was listed.';
COMMENT ON COLUMN tim.type_counts.total_count IS
    'Groups of the type as the API counts them, on the last page of the pass; NULL: no page said.';
COMMENT ON COLUMN tim.type_counts.total_count_min IS
    'The smallest TotalCount of the pass.';
COMMENT ON COLUMN tim.type_counts.total_count_max IS
    'The largest TotalCount of the pass. Differs from the smallest if groups came or went meanwhile.';
COMMENT ON COLUMN tim.type_counts.listed_count IS
    'Different groups that the pass listed.';
COMMENT ON COLUMN tim.type_counts.verdict IS
    'What the numbers prove: exact, moving, short, or rejected (the API does not know the type); NULL: the pass did not reach its end.';
COMMENT ON COLUMN tim.type_counts.crawl_id IS
    'The crawl.';

CREATE VIEW tim.daily_counts AS
SELECT a.sdk_app_id,
       a.name AS app,
       d.day::date AS day,
       t.name AS group_type,
       d.live_groups,
       d.total_count,
       d.appeared,
       d.vanished,
       d.reappeared,
       d.retyped
FROM tim_private.daily_count d
JOIN tim_private.app a ON a.app_id = d.app_id
JOIN tim_private.group_type t ON t.type_id = d.type_id;

COMMENT ON VIEW tim.daily_counts IS
    'One row a day, app and group type, as of the day''s last crawl. A day without a crawl has no row.';
COMMENT ON COLUMN tim.daily_counts.sdk_app_id IS
    'The SDKAppID of the app, a number that never changes.';
COMMENT ON COLUMN tim.daily_counts.app IS
    'The app''s name in the configuration. It can be renamed; sdk_app_id stays.';
COMMENT ON COLUMN tim.daily_counts.day IS
    'The day, in the time zone of the app''s schedule and not in UTC.';
COMMENT ON COLUMN tim.daily_counts.group_type IS
    'The type; NULL: groups whose type is not known.';
COMMENT ON COLUMN tim.daily_counts.live_groups IS
    'Live groups at the end of the day''s last crawl, missing ones included.';
COMMENT ON COLUMN tim.daily_counts.total_count IS
    'The day''s last TotalCount of the type; NULL: none.';
COMMENT ON COLUMN tim.daily_counts.appeared IS
    'Events of the day''s crawls. Groups of a type''s first list are none.';
COMMENT ON COLUMN tim.daily_counts.vanished IS
    'Events of the day''s crawls.';
COMMENT ON COLUMN tim.daily_counts.reappeared IS
    'Events of the day''s crawls.';
COMMENT ON COLUMN tim.daily_counts.retyped IS
    'Events of the day''s crawls, under the new type.';

CREATE VIEW tim.crawls AS
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
       c.version
FROM tim_private.crawl c
JOIN tim_private.app a ON a.app_id = c.app_id;

COMMENT ON VIEW tim.crawls IS
    'One row a crawl, the running one included. Later crawls have greater ids, whatever the clock said.';
COMMENT ON COLUMN tim.crawls.sdk_app_id IS
    'The SDKAppID of the app, a number that never changes.';
COMMENT ON COLUMN tim.crawls.app IS
    'The app''s name in the configuration. It can be renamed; sdk_app_id stays.';
COMMENT ON COLUMN tim.crawls.crawl_id IS
    'Names the crawl. Has gaps.';
COMMENT ON COLUMN tim.crawls.trigger IS
    'Why it ran: schedule, catch_up, signal or command.';
COMMENT ON COLUMN tim.crawls.due_at IS
    'The tick of the schedule that it served; NULL: none.';
COMMENT ON COLUMN tim.crawls.started_at IS
    'When it started.';
COMMENT ON COLUMN tim.crawls.finished_at IS
    'When it ended; NULL: running, or its process was killed and nobody has crawled the app since.';
COMMENT ON COLUMN tim.crawls.status IS
    'running, complete, incomplete (some list was shorter than its TotalCount), failed or cancelled.';
COMMENT ON COLUMN tim.crawls.deletions IS
    'What became of the deletions: applied, withheld, approved or none; NULL unless complete.';
COMMENT ON COLUMN tim.crawls.requests IS
    'Requests to the API, retries included.';
COMMENT ON COLUMN tim.crawls.groups_listed IS
    'Different groups listed.';
COMMENT ON COLUMN tim.crawls.appeared IS
    'Events of this crawl. Groups of a type''s first list are none.';
COMMENT ON COLUMN tim.crawls.vanished IS
    'Events of this crawl: groups marked deleted.';
COMMENT ON COLUMN tim.crawls.reappeared IS
    'Events of this crawl.';
COMMENT ON COLUMN tim.crawls.retyped IS
    'Events of this crawl.';
COMMENT ON COLUMN tim.crawls.withheld IS
    'Groups whose deletion a guard withheld.';
COMMENT ON COLUMN tim.crawls.reason_code IS
    'Why it did not simply complete, as a word of a closed list; NULL: it did.';
COMMENT ON COLUMN tim.crawls.error_code IS
    'The API''s error code, if that was the reason.';
COMMENT ON COLUMN tim.crawls.reason IS
    'The reason as a sentence, for people: its wording may change.';
COMMENT ON COLUMN tim.crawls.host IS
    'The machine that crawled.';
COMMENT ON COLUMN tim.crawls.version IS
    'The version of tim-group-sync that crawled.';

CREATE VIEW tim.app_status AS
SELECT a.sdk_app_id,
       a.name AS app,
       a.configured <> 0 AS configured,
       (SELECT coalesce(sum(s.live_count), 0)::bigint FROM tim_private.type_state s WHERE s.app_id = a.app_id) AS live_count,
       (SELECT coalesce(sum(s.missing_count), 0)::bigint FROM tim_private.type_state s WHERE s.app_id = a.app_id) AS missing_count,
       (SELECT to_timestamp(k.finished_at / 1000::double precision) FROM tim_private.crawl k
        WHERE k.app_id = a.app_id AND k.status = 'complete' ORDER BY k.crawl_id DESC LIMIT 1) AS last_complete_crawl_at,
       c.status AS last_crawl_status,
       c.deletions AS last_crawl_deletions,
       c.reason AS last_crawl_reason
FROM tim_private.app a
LEFT JOIN tim_private.crawl c ON c.crawl_id = (SELECT k.crawl_id FROM tim_private.crawl k
                                               WHERE k.app_id = a.app_id AND k.status <> 'running'
                                               ORDER BY k.crawl_id DESC LIMIT 1);

COMMENT ON VIEW tim.app_status IS
    'One row an app: how it stands now. From kept totals, so it costs nothing to read.';
COMMENT ON COLUMN tim.app_status.sdk_app_id IS
    'The SDKAppID of the app, a number that never changes.';
COMMENT ON COLUMN tim.app_status.app IS
    'The app''s name in the configuration. It can be renamed; sdk_app_id stays.';
COMMENT ON COLUMN tim.app_status.configured IS
    'Whether the app was in the configuration when it was last read. Rows of one that is not stay as they were.';
COMMENT ON COLUMN tim.app_status.live_count IS
    'Live groups of all types, missing ones included.';
COMMENT ON COLUMN tim.app_status.missing_count IS
    'Live groups that the last complete crawl did not list.';
COMMENT ON COLUMN tim.app_status.last_complete_crawl_at IS
    'When the newest complete crawl ended; NULL: none yet. The age to alert on.';
COMMENT ON COLUMN tim.app_status.last_crawl_status IS
    'The status of the newest crawl that ended.';
COMMENT ON COLUMN tim.app_status.last_crawl_deletions IS
    'What became of its deletions.';
COMMENT ON COLUMN tim.app_status.last_crawl_reason IS
    'Why it did not simply complete; NULL: it did.';

CREATE VIEW tim.type_status AS
SELECT a.sdk_app_id,
       a.name AS app,
       t.name AS group_type,
       t.sdk_name,
       t.name_zh,
       s.live_count,
       s.deleted_count,
       to_timestamp(s.concluded_at / 1000::double precision) AS as_of,
       s.configured <> 0 AS configured
FROM tim_private.type_state s
JOIN tim_private.app a ON a.app_id = s.app_id
JOIN tim_private.group_type t ON t.type_id = s.type_id;

COMMENT ON VIEW tim.type_status IS
    'One row an app and group type: how many groups there are now. From kept totals, so it costs nothing to read.';
COMMENT ON COLUMN tim.type_status.sdk_app_id IS
    'The SDKAppID of the app, a number that never changes.';
COMMENT ON COLUMN tim.type_status.app IS
    'The app''s name in the configuration. It can be renamed; sdk_app_id stays.';
COMMENT ON COLUMN tim.type_status.group_type IS
    'The type as the REST API names it; NULL: groups whose type is not known.';
COMMENT ON COLUMN tim.type_status.sdk_name IS
    'What newer SDKs call the type: Work, Meeting and so on; NULL: a type of the app''s own.';
COMMENT ON COLUMN tim.type_status.name_zh IS
    'The type''s name in the Chinese documentation; NULL: a type of the app''s own.';
COMMENT ON COLUMN tim.type_status.live_count IS
    'Live groups, missing ones included.';
COMMENT ON COLUMN tim.type_status.deleted_count IS
    'Groups marked deleted and kept.';
COMMENT ON COLUMN tim.type_status.as_of IS
    'The start of the last crawl that accounted for every live group of the type; NULL: none yet.';
COMMENT ON COLUMN tim.type_status.configured IS
    'Whether the type is among the app''s group_types.';
