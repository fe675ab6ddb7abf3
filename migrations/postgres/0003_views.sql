-- What readers use. Columns are only ever added, at the end. The same names and meanings as in SQLite, in PostgreSQL's own
-- types: timestamptz, boolean, date. The views read the tables with their owner's rights, so that readers need no rights on
-- the tables.

CREATE VIEW tim.groups AS
SELECT a.sdk_app_id,
       a.name AS app,
       g.group_id,
       g.group_type,
       to_timestamp(g.first_seen_at / 1000::double precision) AS first_seen_at,
       g.in_baseline,
       to_timestamp(g.last_seen_at / 1000::double precision) AS last_seen_at,
       to_timestamp(g.deleted_at / 1000::double precision) AS deleted_at,
       to_timestamp(g.missing_since / 1000::double precision) AS missing_since,
       g.held,
       g.confirmed
FROM tim_private.app a
JOIN tim_private.base_groups g ON g.app_id = a.app_id;

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
COMMENT ON COLUMN tim.groups.confirmed IS
    'Whether the group is held and get_group_info has confirmed that it is gone.';

CREATE VIEW tim.live_groups AS
SELECT a.sdk_app_id,
       a.name AS app,
       g.group_id,
       g.group_type,
       to_timestamp(g.first_seen_at / 1000::double precision) AS first_seen_at,
       g.in_baseline,
       to_timestamp(g.last_seen_at / 1000::double precision) AS last_seen_at,
       to_timestamp(g.deleted_at / 1000::double precision) AS deleted_at,
       to_timestamp(g.missing_since / 1000::double precision) AS missing_since,
       g.held,
       g.confirmed
FROM tim_private.app a
JOIN tim_private.base_groups g ON g.app_id = a.app_id
WHERE g.deleted_at IS NULL;

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
COMMENT ON COLUMN tim.live_groups.confirmed IS
    'Whether the group is held and get_group_info has confirmed that it is gone.';

CREATE VIEW tim.group_events AS
SELECT a.sdk_app_id,
       a.name AS app,
       e.event_id,
       to_timestamp(e.occurred_at / 1000::double precision) AS occurred_at,
       e.group_id,
       e.event,
       e.old_type,
       e.new_type,
       e.crawl_id
FROM tim_private.app a
JOIN tim_private.base_group_events e ON e.app_id = a.app_id;

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
       to_timestamp(c.recorded_at / 1000::double precision) AS recorded_at,
       c.total_count,
       c.total_count_at_start,
       c.listed_count,
       c.crawl_id
FROM tim_private.app a
JOIN tim_private.base_app_counts c ON c.app_id = a.app_id;

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
       to_timestamp(c.recorded_at / 1000::double precision) AS recorded_at,
       c.group_type,
       c.total_count,
       c.total_count_min,
       c.total_count_max,
       c.listed_count,
       c.verdict,
       c.crawl_id
FROM tim_private.app a
JOIN tim_private.base_type_counts c ON c.app_id = a.app_id;

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
       CAST(d.day AS DATE) AS day,
       d.group_type,
       d.live_groups,
       d.total_count,
       d.appeared,
       d.vanished,
       d.reappeared,
       d.retyped,
       d.live_before,
       d.net_growth
FROM tim_private.app a
JOIN tim_private.base_daily_counts d ON d.app_id = a.app_id;

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
COMMENT ON COLUMN tim.daily_counts.live_before IS
    'live_groups of the type''s recorded day before; NULL up to the day of the type''s baseline.';
COMMENT ON COLUMN tim.daily_counts.net_growth IS
    'live_groups less live_before: all that came and went since then, whether as an event of that day, retyped or undeleted. NULL where live_before is: a baseline is no growth. Days can be added up.';

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
       CAST(c.day AS DATE) AS day,
       c.duration_seconds,
       c.held_count,
       c.asked,
       c.confirmed,
       c.unlearned,
       c.unasked,
       c.withheld_confirmed
FROM tim_private.app a
JOIN tim_private.base_crawls c ON c.app_id = a.app_id;

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
COMMENT ON COLUMN tim.crawls.undeleted IS
    'Groups that this crawl had marked deleted and someone made live again.';
COMMENT ON COLUMN tim.crawls.spared IS
    'Groups that no list of this crawl had, but get_group_info found standing (deletion.confirm): they were kept.';
COMMENT ON COLUMN tim.crawls.purged_groups IS
    'Deleted groups that were removed for their age after this crawl (retention.deleted_groups).';
COMMENT ON COLUMN tim.crawls.purged_events IS
    'Events that were removed for their age after this crawl (retention.events).';
COMMENT ON COLUMN tim.crawls.purged_counts IS
    'Rows of counts and crawls that were removed for their age after this crawl (retention.counts).';
COMMENT ON COLUMN tim.crawls.day IS
    'The day that the crawl''s events are counted on in daily_counts, in the time zone of the app''s schedule; NULL: running. Of crawls before this column came to be, the day in UTC.';
COMMENT ON COLUMN tim.crawls.duration_seconds IS
    'From started_at to finished_at by the clock, with milliseconds; NULL: running.';
COMMENT ON COLUMN tim.crawls.held_count IS
    'Groups whose deletion this crawl withheld, or which was undone, and which still wait: until the API lists them or someone approves.';
COMMENT ON COLUMN tim.crawls.asked IS
    'Groups that the lists lacked and that get_group_info was asked about (deletion.confirm).';
COMMENT ON COLUMN tim.crawls.confirmed IS
    'How many of these are gone, as the answers confirm.';
COMMENT ON COLUMN tim.crawls.unlearned IS
    'How many of these the answers did not tell: they are missing, and a later crawl asks again.';
COMMENT ON COLUMN tim.crawls.unasked IS
    'Groups that the lists lacked and that were not asked about, for lack of time or permission: they are missing, and a later crawl asks.';
COMMENT ON COLUMN tim.crawls.withheld_confirmed IS
    'How many of the withheld deletions get_group_info has confirmed.';

CREATE VIEW tim.group_lifetimes AS
SELECT a.sdk_app_id,
       a.name AS app,
       g.group_id,
       g.group_type,
       to_timestamp(g.first_seen_at / 1000::double precision) AS first_seen_at,
       to_timestamp(g.deleted_at / 1000::double precision) AS deleted_at,
       coalesce(g.deleted_at / 1000, CAST(floor(extract(epoch FROM now())) AS BIGINT)) - g.first_seen_at / 1000 AS lifetime_seconds
FROM tim_private.app a
JOIN tim_private.base_groups g ON g.app_id = a.app_id
WHERE NOT g.in_baseline;

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

CREATE VIEW tim.daily_crawls AS
SELECT a.sdk_app_id,
       a.name AS app,
       CAST(c.day AS DATE) AS day,
       c.crawls,
       c.complete,
       c.incomplete,
       c.failed,
       c.cancelled,
       c.success_rate,
       c.requests,
       c.total_seconds,
       c.longest_seconds
FROM tim_private.app a
JOIN tim_private.base_daily_crawls c ON c.app_id = a.app_id;

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

CREATE VIEW tim.app_status AS
SELECT s.sdk_app_id,
       s.app,
       s.configured,
       s.live_count,
       s.missing_count,
       to_timestamp(k.finished_at / 1000::double precision) AS last_complete_crawl_at,
       c.status AS last_crawl_status,
       c.deletions AS last_crawl_deletions,
       c.reason AS last_crawl_reason,
       to_timestamp(c.finished_at / 1000::double precision) AS last_crawl_at,
       to_timestamp(CASE WHEN n.status = 'running' THEN n.started_at END / 1000::double precision) AS running_since,
       s.total_count,
       s.held_count
FROM tim_private.base_app_status s
LEFT JOIN tim_private.crawl k ON k.crawl_id = s.last_complete_crawl_id
LEFT JOIN tim_private.crawl c ON c.crawl_id = s.last_crawl_id
LEFT JOIN tim_private.crawl n ON n.crawl_id = s.newest_crawl_id;

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
COMMENT ON COLUMN tim.app_status.last_crawl_at IS
    'When the newest crawl that ended did so; NULL: none yet.';
COMMENT ON COLUMN tim.app_status.running_since IS
    'When the crawl that is running started; NULL: none is. Stays after its process was killed, until the next crawl.';
COMMENT ON COLUMN tim.app_status.total_count IS
    'Groups of all types as the API counted them last; NULL: it has not yet.';
COMMENT ON COLUMN tim.app_status.held_count IS
    'Live groups whose deletion was withheld or undone and which wait: until the API lists them or someone approves.';

CREATE VIEW tim.type_status AS
SELECT a.sdk_app_id,
       a.name AS app,
       s.group_type,
       s.sdk_name,
       s.name_zh,
       s.live_count,
       s.deleted_count,
       to_timestamp(s.as_of / 1000::double precision) AS as_of,
       s.configured,
       s.missing_count,
       s.total_count
FROM tim_private.app a
JOIN tim_private.base_type_status s ON s.app_id = a.app_id;

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
COMMENT ON COLUMN tim.type_status.missing_count IS
    'Live groups that the last complete crawl did not list.';
COMMENT ON COLUMN tim.type_status.total_count IS
    'Groups of the type as the API counted them last; NULL: it has not, or the type is not configured.';
