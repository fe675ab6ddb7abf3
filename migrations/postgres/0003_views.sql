-- The public views. New columns are only added, at the end. Names and meanings are those of SQLite, types are PostgreSQL's own:
-- timestamptz, boolean, date. The views read the tables with the rights of their owner, so readers need no rights on the tables.

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
    'Every group that was ever listed, one row each. Deleted groups stay, with deleted_at set. To count live groups, read type_status: it needs no scan.';
COMMENT ON COLUMN tim.groups.sdk_app_id IS
    'The SDKAppID of the app, a number that never changes.';
COMMENT ON COLUMN tim.groups.app IS
    'The app''s name in the configuration. It can change; sdk_app_id cannot.';
COMMENT ON COLUMN tim.groups.group_id IS
    'The group''s id. It is compared byte for byte, so case and trailing spaces matter.';
COMMENT ON COLUMN tim.groups.group_type IS
    'The type as the REST API names it (Work is Private, Meeting is ChatRoom). NULL: not known, because only an unfiltered list contained the group.';
COMMENT ON COLUMN tim.groups.first_seen_at IS
    'When a crawl first listed the group. If in_baseline is true, the group is older.';
COMMENT ON COLUMN tim.groups.in_baseline IS
    'Whether the group already existed when its type was first listed completely.';
COMMENT ON COLUMN tim.groups.last_seen_at IS
    'The start of the last complete crawl that listed the group, or the time at which a crawl listed it as new or changed, whichever is later.';
COMMENT ON COLUMN tim.groups.deleted_at IS
    'When the crawl that proved the group gone ended, or when the deletion was approved; NULL: live. The group was dissolved between last_seen_at and this time.';
COMMENT ON COLUMN tim.groups.missing_since IS
    'Set only for live groups: the start of the first crawl whose complete lists did not contain the group. NULL: listed, or deleted.';
COMMENT ON COLUMN tim.groups.held IS
    'Whether the group stays live only because its deletion was withheld or undone. It is held until the API lists it again or a person approves the deletion.';
COMMENT ON COLUMN tim.groups.confirmed IS
    'Whether the group is held and get_group_info has reported that it does not exist.';

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
    'The groups that are not deleted, missing ones included. The columns are those of groups.';
COMMENT ON COLUMN tim.live_groups.sdk_app_id IS
    'The SDKAppID of the app, a number that never changes.';
COMMENT ON COLUMN tim.live_groups.app IS
    'The app''s name in the configuration. It can change; sdk_app_id cannot.';
COMMENT ON COLUMN tim.live_groups.group_id IS
    'The group''s id. It is compared byte for byte, so case and trailing spaces matter.';
COMMENT ON COLUMN tim.live_groups.group_type IS
    'The type as the REST API names it (Work is Private, Meeting is ChatRoom). NULL: not known, because only an unfiltered list contained the group.';
COMMENT ON COLUMN tim.live_groups.first_seen_at IS
    'When a crawl first listed the group. If in_baseline is true, the group is older.';
COMMENT ON COLUMN tim.live_groups.in_baseline IS
    'Whether the group already existed when its type was first listed completely.';
COMMENT ON COLUMN tim.live_groups.last_seen_at IS
    'The start of the last complete crawl that listed the group, or the time at which a crawl listed it as new or changed, whichever is later.';
COMMENT ON COLUMN tim.live_groups.deleted_at IS
    'When the crawl that proved the group gone ended, or when the deletion was approved; NULL: live. The group was dissolved between last_seen_at and this time.';
COMMENT ON COLUMN tim.live_groups.missing_since IS
    'Set only for live groups: the start of the first crawl whose complete lists did not contain the group. NULL: listed, or deleted.';
COMMENT ON COLUMN tim.live_groups.held IS
    'Whether the group stays live only because its deletion was withheld or undone. It is held until the API lists it again or a person approves the deletion.';
COMMENT ON COLUMN tim.live_groups.confirmed IS
    'Whether the group is held and get_group_info has reported that it does not exist.';

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
    'The changes of groups, in the order of event_id. Append only. Rows of a crawl become visible when it has ended.';
COMMENT ON COLUMN tim.group_events.sdk_app_id IS
    'The SDKAppID of the app, a number that never changes.';
COMMENT ON COLUMN tim.group_events.app IS
    'The app''s name in the configuration. It can change; sdk_app_id cannot.';
COMMENT ON COLUMN tim.group_events.event_id IS
    'Increases with time. It has gaps, so it is not a count.';
COMMENT ON COLUMN tim.group_events.occurred_at IS
    'When a crawl noticed the change. The change happened between the previous crawl and this one.';
COMMENT ON COLUMN tim.group_events.group_id IS
    'The group''s id.';
COMMENT ON COLUMN tim.group_events.event IS
    'appeared, vanished, reappeared, retyped or undeleted. A group that returns under another type has one reappeared event and no retyped event. Groups of a baseline have no appeared event.';
COMMENT ON COLUMN tim.group_events.old_type IS
    'The previous type; NULL: none, or not known.';
COMMENT ON COLUMN tim.group_events.new_type IS
    'The new type; NULL: none, or not known.';
COMMENT ON COLUMN tim.group_events.crawl_id IS
    'The crawl that noticed the change.';

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
    'The history of the API''s TotalCount of the app: one row for each crawl, failed crawls included. Rows of a crawl become visible when it has ended.';
COMMENT ON COLUMN tim.app_counts.sdk_app_id IS
    'The SDKAppID of the app, a number that never changes.';
COMMENT ON COLUMN tim.app_counts.app IS
    'The app''s name in the configuration. It can change; sdk_app_id cannot.';
COMMENT ON COLUMN tim.app_counts.recorded_at IS
    'When the crawl ended.';
COMMENT ON COLUMN tim.app_counts.total_count IS
    'The API''s count of groups of all types, at the end of the crawl, or at its start if the crawl did not get that far; NULL: there was no count.';
COMMENT ON COLUMN tim.app_counts.total_count_at_start IS
    'The same count at the start of the crawl.';
COMMENT ON COLUMN tim.app_counts.listed_count IS
    'Distinct groups that the crawl listed; for a failed crawl, until it failed.';
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
    'The history of the API''s TotalCount by group type: one row for each pass over a type. Rows of a crawl become visible when it has ended.';
COMMENT ON COLUMN tim.type_counts.sdk_app_id IS
    'The SDKAppID of the app, a number that never changes.';
COMMENT ON COLUMN tim.type_counts.app IS
    'The app''s name in the configuration. It can change; sdk_app_id cannot.';
COMMENT ON COLUMN tim.type_counts.recorded_at IS
    'When the pass ended; if it was interrupted, when the crawl started.';
COMMENT ON COLUMN tim.type_counts.group_type IS
    'The type that was listed.';
COMMENT ON COLUMN tim.type_counts.total_count IS
    'The API''s count of groups of the type, on the last page of the pass; NULL: no page had a count.';
COMMENT ON COLUMN tim.type_counts.total_count_min IS
    'The smallest TotalCount of the pass.';
COMMENT ON COLUMN tim.type_counts.total_count_max IS
    'The largest TotalCount of the pass. It differs from the smallest if groups were created or dissolved during the pass.';
COMMENT ON COLUMN tim.type_counts.listed_count IS
    'Distinct groups that the pass listed.';
COMMENT ON COLUMN tim.type_counts.verdict IS
    'Whether the list was complete by its numbers: exact, moving or short; rejected: the API does not know the type; NULL: the pass was interrupted.';
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
       d.net_growth,
       d.timezone,
       d.complete_crawls
FROM tim_private.app a
JOIN tim_private.base_daily_counts d ON d.app_id = a.app_id;

COMMENT ON VIEW tim.daily_counts IS
    'One row for each day, app and group type, as of the day''s last crawl. A day without a crawl has no row.';
COMMENT ON COLUMN tim.daily_counts.sdk_app_id IS
    'The SDKAppID of the app, a number that never changes.';
COMMENT ON COLUMN tim.daily_counts.app IS
    'The app''s name in the configuration. It can change; sdk_app_id cannot.';
COMMENT ON COLUMN tim.daily_counts.day IS
    'The day, in the time zone of the app''s schedule, not in UTC.';
COMMENT ON COLUMN tim.daily_counts.group_type IS
    'The type; NULL: groups whose type is not known.';
COMMENT ON COLUMN tim.daily_counts.live_groups IS
    'Live groups at the end of the day''s last crawl, missing ones included.';
COMMENT ON COLUMN tim.daily_counts.total_count IS
    'The day''s last TotalCount of the type; NULL: none.';
COMMENT ON COLUMN tim.daily_counts.appeared IS
    'Events of the day''s crawls. Groups of a baseline are not counted.';
COMMENT ON COLUMN tim.daily_counts.vanished IS
    'Events of the day''s crawls.';
COMMENT ON COLUMN tim.daily_counts.reappeared IS
    'Events of the day''s crawls.';
COMMENT ON COLUMN tim.daily_counts.retyped IS
    'Events of the day''s crawls, counted under the new type.';
COMMENT ON COLUMN tim.daily_counts.live_before IS
    'live_groups of the type on the previous day that has a row; NULL up to and including the day on which the type was first listed completely.';
COMMENT ON COLUMN tim.daily_counts.net_growth IS
    'live_groups minus live_before. It includes retyped and undeleted groups. NULL if live_before is NULL, because a baseline is not growth. It can be summed over days.';
COMMENT ON COLUMN tim.daily_counts.timezone IS
    'The time zone in which the day begins and ends.';
COMMENT ON COLUMN tim.daily_counts.complete_crawls IS
    'Complete crawls of the app on that day. 0: changes of the day may be counted on a later day.';

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
    'One row for each crawl, the running one included. Later crawls have greater ids, even if a clock was set back.';
COMMENT ON COLUMN tim.crawls.sdk_app_id IS
    'The SDKAppID of the app, a number that never changes.';
COMMENT ON COLUMN tim.crawls.app IS
    'The app''s name in the configuration. It can change; sdk_app_id cannot.';
COMMENT ON COLUMN tim.crawls.crawl_id IS
    'Identifies the crawl. Ids have gaps.';
COMMENT ON COLUMN tim.crawls.trigger IS
    'Why the crawl ran: schedule, catch_up, signal or command.';
COMMENT ON COLUMN tim.crawls.due_at IS
    'The tick of the schedule for which the crawl ran; NULL: none.';
COMMENT ON COLUMN tim.crawls.started_at IS
    'When the crawl started.';
COMMENT ON COLUMN tim.crawls.finished_at IS
    'When the crawl ended; NULL: it is running, or its process was killed and no other crawl of the app has started since.';
COMMENT ON COLUMN tim.crawls.status IS
    'running, complete, incomplete (a list was shorter than its TotalCount), failed or cancelled.';
COMMENT ON COLUMN tim.crawls.deletions IS
    'What happened to the deletions: applied, withheld, approved or none; NULL unless complete.';
COMMENT ON COLUMN tim.crawls.requests IS
    'Requests to the API, retries included.';
COMMENT ON COLUMN tim.crawls.groups_listed IS
    'Distinct groups that the crawl listed.';
COMMENT ON COLUMN tim.crawls.appeared IS
    'Events of this crawl. Groups of a baseline are not counted.';
COMMENT ON COLUMN tim.crawls.vanished IS
    'Events of this crawl: deletions of groups. A deletion that was undone and approved again counts again.';
COMMENT ON COLUMN tim.crawls.reappeared IS
    'Events of this crawl.';
COMMENT ON COLUMN tim.crawls.retyped IS
    'Events of this crawl.';
COMMENT ON COLUMN tim.crawls.withheld IS
    'Groups whose deletion was withheld. An undelete of this crawl sets it to the number of groups that are then held because of this crawl.';
COMMENT ON COLUMN tim.crawls.reason_code IS
    'The code of the reason why the crawl did not complete or withheld deletions; NULL: neither. docs/troubleshooting.md lists the codes.';
COMMENT ON COLUMN tim.crawls.error_code IS
    'The API''s error code, if an API error was the reason.';
COMMENT ON COLUMN tim.crawls.reason IS
    'The reason as a sentence, for people. Its wording may change.';
COMMENT ON COLUMN tim.crawls.host IS
    'The host that ran the crawl.';
COMMENT ON COLUMN tim.crawls.version IS
    'The version of tim-group-sync that ran the crawl.';
COMMENT ON COLUMN tim.crawls.undeleted IS
    'Deletions of this crawl that were undone. A group that was deleted again and undeleted again counts again.';
COMMENT ON COLUMN tim.crawls.spared IS
    'Groups that no list of this crawl contained and that get_group_info reported as existing (deletion.confirm). They were kept.';
COMMENT ON COLUMN tim.crawls.purged_groups IS
    'Deleted groups that were removed because of their age after this crawl (retention.deleted_groups).';
COMMENT ON COLUMN tim.crawls.purged_events IS
    'Events that were removed because of their age after this crawl (retention.events).';
COMMENT ON COLUMN tim.crawls.purged_counts IS
    'Rows of counts and crawls that were removed because of their age after this crawl (retention.counts).';
COMMENT ON COLUMN tim.crawls.day IS
    'The day on which daily_counts counts the crawl''s events, in the time zone of the app''s schedule; NULL: running.';
COMMENT ON COLUMN tim.crawls.duration_seconds IS
    'From started_at to finished_at by the clock, with milliseconds; NULL: running.';
COMMENT ON COLUMN tim.crawls.held_count IS
    'Groups that are held because this crawl withheld their deletion, or because its deletion was undone. They wait until the API lists them or a person approves.';
COMMENT ON COLUMN tim.crawls.asked IS
    'Groups that no list contained and that get_group_info was asked about (deletion.confirm).';
COMMENT ON COLUMN tim.crawls.confirmed IS
    'The part of asked that does not exist, according to the answers.';
COMMENT ON COLUMN tim.crawls.unlearned IS
    'The part of asked for which there was no usable answer. These groups are missing, and a later crawl asks again.';
COMMENT ON COLUMN tim.crawls.unasked IS
    'Groups that no list contained and that get_group_info was not asked about: the time for questions had ended, or the API throttled or refused the call. A later crawl asks.';
COMMENT ON COLUMN tim.crawls.withheld_confirmed IS
    'Withheld groups that get_group_info has reported as not existing.';

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
    'How long groups live: one row for each group that appeared while its app was being crawled. Groups of a baseline are not included, because their age is not known.';
COMMENT ON COLUMN tim.group_lifetimes.sdk_app_id IS
    'The SDKAppID of the app, a number that never changes.';
COMMENT ON COLUMN tim.group_lifetimes.app IS
    'The app''s name in the configuration. It can change; sdk_app_id cannot.';
COMMENT ON COLUMN tim.group_lifetimes.group_id IS
    'The group''s id.';
COMMENT ON COLUMN tim.group_lifetimes.group_type IS
    'The type as the REST API names it; NULL: not known.';
COMMENT ON COLUMN tim.group_lifetimes.first_seen_at IS
    'When a crawl first listed the group. It was created between the previous crawl and that one.';
COMMENT ON COLUMN tim.group_lifetimes.deleted_at IS
    'When the group was marked deleted; NULL: live.';
COMMENT ON COLUMN tim.group_lifetimes.lifetime_seconds IS
    'From first_seen_at to deleted_at, or to now for a live group. Accurate to the time between two crawls. If the group vanished and reappeared, the time in between is included.';

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
       c.longest_seconds,
       c.timezone,
       c.complete AS complete_crawls
FROM tim_private.app a
JOIN tim_private.base_daily_crawls c ON c.app_id = a.app_id;

COMMENT ON VIEW tim.daily_crawls IS
    'The health of the crawls: one row for each day and app. Running crawls are not included, and a day without a crawl has no row. All columns except success_rate and longest_seconds can be summed over days.';
COMMENT ON COLUMN tim.daily_crawls.sdk_app_id IS
    'The SDKAppID of the app, a number that never changes.';
COMMENT ON COLUMN tim.daily_crawls.app IS
    'The app''s name in the configuration. It can change; sdk_app_id cannot.';
COMMENT ON COLUMN tim.daily_crawls.day IS
    'The day on which the crawls ended, in the time zone of the app''s schedule.';
COMMENT ON COLUMN tim.daily_crawls.crawls IS
    'Crawls that ended on that day, with any status.';
COMMENT ON COLUMN tim.daily_crawls.complete IS
    'Crawls that were complete.';
COMMENT ON COLUMN tim.daily_crawls.incomplete IS
    'Crawls that reached their end although a list was shorter than its TotalCount.';
COMMENT ON COLUMN tim.daily_crawls.failed IS
    'Crawls that failed.';
COMMENT ON COLUMN tim.daily_crawls.cancelled IS
    'Crawls that were cancelled because the program was stopped.';
COMMENT ON COLUMN tim.daily_crawls.success_rate IS
    'Complete crawls divided by crawls that were not cancelled, from 0 to 1; NULL: there were none. Over several days, divide the sums.';
COMMENT ON COLUMN tim.daily_crawls.requests IS
    'Requests to the API, retries included.';
COMMENT ON COLUMN tim.daily_crawls.total_seconds IS
    'The duration of all crawls together.';
COMMENT ON COLUMN tim.daily_crawls.longest_seconds IS
    'The duration of the longest crawl.';
COMMENT ON COLUMN tim.daily_crawls.timezone IS
    'The time zone in which the day begins and ends.';
COMMENT ON COLUMN tim.daily_crawls.complete_crawls IS
    'The same number as complete, with the name that daily_counts uses.';

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
       s.held_count,
       s.details_known AS details_count,
       to_timestamp(s.details_oldest / 1000::double precision) AS oldest_details_at
FROM tim_private.base_app_status s
LEFT JOIN tim_private.crawl k ON k.crawl_id = s.last_complete_crawl_id
LEFT JOIN tim_private.crawl c ON c.crawl_id = s.last_crawl_id
LEFT JOIN tim_private.crawl n ON n.crawl_id = s.newest_crawl_id;

COMMENT ON VIEW tim.app_status IS
    'The current state of each app, one row each. It comes from maintained totals, so it is cheap to read.';
COMMENT ON COLUMN tim.app_status.sdk_app_id IS
    'The SDKAppID of the app, a number that never changes.';
COMMENT ON COLUMN tim.app_status.app IS
    'The app''s name in the configuration. It can change; sdk_app_id cannot.';
COMMENT ON COLUMN tim.app_status.configured IS
    'Whether the app was in the configuration that a process loaded last. Rows of a removed app are kept unchanged.';
COMMENT ON COLUMN tim.app_status.live_count IS
    'Live groups of all types, missing ones included.';
COMMENT ON COLUMN tim.app_status.missing_count IS
    'Live groups whose missing_since is set. Held groups are included. Spared groups are not: the API said that they exist.';
COMMENT ON COLUMN tim.app_status.last_complete_crawl_at IS
    'When the newest complete crawl ended; NULL: none yet. Alert on the age of this time.';
COMMENT ON COLUMN tim.app_status.last_crawl_status IS
    'The status of the newest crawl that ended.';
COMMENT ON COLUMN tim.app_status.last_crawl_deletions IS
    'What happened to the deletions of that crawl.';
COMMENT ON COLUMN tim.app_status.last_crawl_reason IS
    'Why that crawl did not complete or withheld deletions; NULL: neither.';
COMMENT ON COLUMN tim.app_status.last_crawl_at IS
    'When the newest finished crawl ended; NULL: none yet.';
COMMENT ON COLUMN tim.app_status.running_since IS
    'When the running crawl started; NULL: none is running. If its process was killed, the value stays until the next crawl.';
COMMENT ON COLUMN tim.app_status.total_count IS
    'The API''s latest count of groups of all types; NULL: none yet.';
COMMENT ON COLUMN tim.app_status.held_count IS
    'Live groups whose deletion was withheld or undone. They wait until the API lists them or a person approves.';
COMMENT ON COLUMN tim.app_status.details_count IS
    'The number of live groups whose details are known, counted at most every 5 minutes during a refresh and at its end; NULL: details are not kept.';
COMMENT ON COLUMN tim.app_status.oldest_details_at IS
    'The oldest as_of of the details of a live group, counted at the same time; NULL: none are known.';

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
    'The current number of groups: one row for each app and group type. It comes from maintained totals, so it is cheap to read.';
COMMENT ON COLUMN tim.type_status.sdk_app_id IS
    'The SDKAppID of the app, a number that never changes.';
COMMENT ON COLUMN tim.type_status.app IS
    'The app''s name in the configuration. It can change; sdk_app_id cannot.';
COMMENT ON COLUMN tim.type_status.group_type IS
    'The type as the REST API names it; NULL: groups whose type is not known.';
COMMENT ON COLUMN tim.type_status.sdk_name IS
    'The name of the type in newer SDKs: Work, Meeting and so on; NULL: a custom type.';
COMMENT ON COLUMN tim.type_status.name_zh IS
    'The name of the type in the Chinese documentation; NULL: a custom type.';
COMMENT ON COLUMN tim.type_status.live_count IS
    'Live groups, missing ones included.';
COMMENT ON COLUMN tim.type_status.deleted_count IS
    'Groups that are marked deleted and still have a row.';
COMMENT ON COLUMN tim.type_status.as_of IS
    'The start of the last crawl that accounted for every live group of the type; NULL: none yet.';
COMMENT ON COLUMN tim.type_status.configured IS
    'Whether the type is among the app''s group_types.';
COMMENT ON COLUMN tim.type_status.missing_count IS
    'Live groups whose missing_since is set. Held groups are included. Spared groups are not: the API said that they exist.';
COMMENT ON COLUMN tim.type_status.total_count IS
    'The API''s latest count of groups of the type; NULL: none yet, or the type is not configured.';

CREATE VIEW tim.group_spans AS
SELECT a.sdk_app_id,
       a.name AS app,
       s.group_id,
       t.name AS group_type,
       to_timestamp(s.live_from / 1000::double precision) AS live_from,
       to_timestamp(s.live_until / 1000::double precision) AS live_until,
       s.in_baseline,
       to_timestamp(a.groups_from / 1000::double precision) AS complete_from
FROM tim_private.app a
JOIN tim_private.base_group_spans s ON s.app_id = a.app_id
JOIN tim_private.group_type t ON t.type_id = s.type_id;

COMMENT ON VIEW tim.group_spans IS
    'One row for each unbroken period in which a group was live under one type. A group was live at a time T if live_from is not later than T, and live_until is NULL or later than T. A deletion that was undone does not interrupt a period.';
COMMENT ON COLUMN tim.group_spans.sdk_app_id IS
    'The SDKAppID of the app, a number that never changes.';
COMMENT ON COLUMN tim.group_spans.app IS
    'The app''s name in the configuration. It can change; sdk_app_id cannot.';
COMMENT ON COLUMN tim.group_spans.group_id IS
    'The group''s id.';
COMMENT ON COLUMN tim.group_spans.group_type IS
    'The type of the group in this period; NULL: not known.';
COMMENT ON COLUMN tim.group_spans.live_from IS
    'When a crawl first listed the group in this period. If in_baseline is true, the group is older.';
COMMENT ON COLUMN tim.group_spans.live_until IS
    'When the group was marked deleted or found under another type; NULL: it is still live under this type.';
COMMENT ON COLUMN tim.group_spans.in_baseline IS
    'Whether the group already existed when its type was first listed completely, and this is its first period.';
COMMENT ON COLUMN tim.group_spans.complete_from IS
    'The periods of the app are complete from this time on, because retention has removed groups that were deleted earlier. NULL: nothing was removed.';

CREATE VIEW tim.group_details AS
SELECT a.sdk_app_id,
       a.name AS app,
       d.group_id,
       d.name,
       d.owner,
       to_timestamp(d.created_at / 1000::double precision) AS created_at,
       to_timestamp(d.last_message_at / 1000::double precision) AS last_message_at,
       to_timestamp(d.info_changed_at / 1000::double precision) AS info_changed_at,
       d.member_count,
       d.max_member_count,
       d.introduction,
       to_timestamp(d.as_of / 1000::double precision) AS as_of
FROM tim_private.app a
JOIN tim_private.base_group_details d ON d.app_id = a.app_id;

COMMENT ON VIEW tim.group_details IS
    'The details of groups as get_group_info last returned them, one row for each group with an answer. Filled only with [details] in the configuration; names and owners are personal data. A deleted group keeps its last details until retention removes the group.';
COMMENT ON COLUMN tim.group_details.sdk_app_id IS
    'The SDKAppID of the app, a number that never changes.';
COMMENT ON COLUMN tim.group_details.app IS
    'The app''s name in the configuration. It can change; sdk_app_id cannot.';
COMMENT ON COLUMN tim.group_details.group_id IS
    'The group''s id.';
COMMENT ON COLUMN tim.group_details.name IS
    'The group''s name.';
COMMENT ON COLUMN tim.group_details.owner IS
    'The UserID of the group''s owner; NULL: the group has none.';
COMMENT ON COLUMN tim.group_details.created_at IS
    'When the group was created, according to the API. An import can set an earlier time.';
COMMENT ON COLUMN tim.group_details.last_message_at IS
    'When the last message was sent to the group; NULL: no message is known.';
COMMENT ON COLUMN tim.group_details.info_changed_at IS
    'When the group''s profile last changed, according to the API.';
COMMENT ON COLUMN tim.group_details.member_count IS
    'The number of members; NULL: not known. The API does not count the members of an AVChatRoom.';
COMMENT ON COLUMN tim.group_details.max_member_count IS
    'The greatest number of members that the group may have.';
COMMENT ON COLUMN tim.group_details.introduction IS
    'The group''s introduction.';
COMMENT ON COLUMN tim.group_details.as_of IS
    'The row has the details of this time. They are older than details.refresh if the API did not answer about the group.';

CREATE VIEW tim.monthly_counts AS
SELECT a.sdk_app_id,
       a.name AS app,
       m.month,
       m.timezone,
       m.group_type,
       m.peak_total_count,
       to_timestamp(m.peak_at / 1000::double precision) AS peak_at,
       m.last_total_count,
       m.average_total_count,
       m.snapshots,
       m.net_growth
FROM tim_private.app a
JOIN tim_private.base_monthly_counts m ON m.app_id = a.app_id;

COMMENT ON VIEW tim.monthly_counts IS
    'The API''s TotalCount by month: one row for each type and one for all types (group_type = ''all''). The peak is the greatest count that a crawl received, so it is a lower bound of the true peak. Months without a count have no row.';
COMMENT ON COLUMN tim.monthly_counts.sdk_app_id IS
    'The SDKAppID of the app, a number that never changes.';
COMMENT ON COLUMN tim.monthly_counts.app IS
    'The app''s name in the configuration. It can change; sdk_app_id cannot.';
COMMENT ON COLUMN tim.monthly_counts.month IS
    'The month as YYYY-MM, in the time zone of the app''s schedule.';
COMMENT ON COLUMN tim.monthly_counts.timezone IS
    'The time zone in which the month begins and ends.';
COMMENT ON COLUMN tim.monthly_counts.group_type IS
    'The type; ''all'': all types of the app.';
COMMENT ON COLUMN tim.monthly_counts.peak_total_count IS
    'The greatest TotalCount of the month.';
COMMENT ON COLUMN tim.monthly_counts.peak_at IS
    'When the API first returned that count.';
COMMENT ON COLUMN tim.monthly_counts.last_total_count IS
    'The last TotalCount of the month.';
COMMENT ON COLUMN tim.monthly_counts.average_total_count IS
    'The average TotalCount, with one count for each crawl.';
COMMENT ON COLUMN tim.monthly_counts.snapshots IS
    'The number of crawls with a count in this month.';
COMMENT ON COLUMN tim.monthly_counts.net_growth IS
    'The sum of net_growth in daily_counts over the month; NULL: all its days are baseline days.';

-- live_groups comes from the newest crawl that ended on the same day in Beijing time. crawl.day is in the time zone of the
-- schedule, so it is at most one day earlier or later.
CREATE VIEW tim.app_statistics AS
SELECT a.sdk_app_id,
       a.name AS app,
       CAST(s.day AS DATE) AS day,
       s.groups,
       s.groups_created,
       s.groups_dissolved,
       s.groups_active,
       s.callbacks_sent,
       s.callbacks_answered,
       (SELECT c.live_count FROM tim_private.crawl c
        WHERE c.app_id = s.app_id
          AND c.day BETWEEN to_char(CAST(s.day AS DATE) - 1, 'YYYY-MM-DD') AND to_char(CAST(s.day AS DATE) + 1, 'YYYY-MM-DD')
          AND c.status IN ('complete', 'incomplete')
          AND CAST(to_timestamp(c.finished_at / 1000::double precision) AT TIME ZONE 'UTC' + interval '8 hours' AS DATE)
              = CAST(s.day AS DATE)
        ORDER BY c.crawl_id DESC LIMIT 1) AS live_groups,
       to_timestamp(s.fetched_at / 1000::double precision) AS fetched_at
FROM tim_private.app a
JOIN tim_private.app_statistic s ON s.app_id = a.app_id;

COMMENT ON VIEW tim.app_statistics IS
    'The API''s own figures by day, beside this table''s count of live groups. It has rows only with statistics = true in the section of the app. A day has a row once the API has reported it.';
COMMENT ON COLUMN tim.app_statistics.sdk_app_id IS
    'The SDKAppID of the app, a number that never changes.';
COMMENT ON COLUMN tim.app_statistics.app IS
    'The app''s name in the configuration. It can change; sdk_app_id cannot.';
COMMENT ON COLUMN tim.app_statistics.day IS
    'The day in Beijing time (UTC+8), whatever the time zone of the app''s schedule is.';
COMMENT ON COLUMN tim.app_statistics.groups IS
    'Groups of the app on that day, as the API counted them; NULL: not reported.';
COMMENT ON COLUMN tim.app_statistics.groups_created IS
    'Groups created on that day; NULL: not reported.';
COMMENT ON COLUMN tim.app_statistics.groups_dissolved IS
    'Groups dissolved on that day; NULL: not reported.';
COMMENT ON COLUMN tim.app_statistics.groups_active IS
    'Groups in which messages were sent on that day; NULL: not reported.';
COMMENT ON COLUMN tim.app_statistics.callbacks_sent IS
    'Callbacks that the API sent to the app''s server; NULL: not reported.';
COMMENT ON COLUMN tim.app_statistics.callbacks_answered IS
    'Callbacks that the app''s server answered; NULL: not reported.';
COMMENT ON COLUMN tim.app_statistics.live_groups IS
    'This table''s live groups of all types at the end of the last complete or incomplete crawl that ended on that day in Beijing time; NULL: there was none.';
COMMENT ON COLUMN tim.app_statistics.fetched_at IS
    'When these figures were first fetched. A later fetch with the same figures does not change it.';
