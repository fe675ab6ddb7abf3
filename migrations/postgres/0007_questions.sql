-- What get_group_info decides: which held groups are confirmed to be gone, and which groups are in doubt.

-- Why a group is held: w its deletion was withheld, c the same and the API has confirmed that it is gone, u a person undid
-- its deletion. NULL unless held.
ALTER TABLE tim_private.group_row ADD COLUMN held_as TEXT COLLATE "C";

-- Rounds count the app's crawls that reached their end.
ALTER TABLE tim_private.app ADD COLUMN round BIGINT NOT NULL DEFAULT 0;

-- Live groups that are in doubt and were asked about: the lists lack them, or contradict their types.
CREATE TABLE tim_private.group_question (
    app_id    BIGINT NOT NULL,
    group_id  TEXT COLLATE "C" NOT NULL,
    stood     BIGINT NOT NULL,          -- how many times running the answer was that it stands
    unlearned BIGINT NOT NULL,          -- how many times running the answer did not say
    round     BIGINT NOT NULL,          -- when it was asked about last
    again_in  BIGINT NOT NULL,          -- the first round in which it is asked about again
    PRIMARY KEY (app_id, group_id)
);

ALTER TABLE tim_private.crawl ADD COLUMN asked BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tim_private.crawl ADD COLUMN confirmed BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tim_private.crawl ADD COLUMN unlearned BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tim_private.crawl ADD COLUMN unasked BIGINT NOT NULL DEFAULT 0;
ALTER TABLE tim_private.crawl ADD COLUMN withheld_confirmed BIGINT NOT NULL DEFAULT 0;
-- By how many seconds the clock of the crawl's machine was ahead of the API's. NULL: no answer had a date.
ALTER TABLE tim_private.crawl ADD COLUMN clock_skew BIGINT;
-- The next crawl has to make an unfiltered pass.
ALTER TABLE tim_private.crawl ADD COLUMN unfiltered_next BIGINT NOT NULL DEFAULT 0;

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
       g.held_crawl_id IS NOT NULL AS held,
       coalesce(g.held_as = 'c', false) AS confirmed
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
       g.held_crawl_id IS NOT NULL AS held,
       coalesce(g.held_as = 'c', false) AS confirmed
FROM tim_private.group_row g
JOIN tim_private.app a ON a.app_id = g.app_id
LEFT JOIN tim_private.group_type t ON t.type_id = g.type_id
LEFT JOIN tim_private.type_state s ON s.app_id = g.app_id AND s.type_id = g.type_id
WHERE g.deleted_at IS NULL;

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
       (SELECT count(*) FROM tim_private.group_row g WHERE g.app_id = c.app_id AND g.held_crawl_id = c.crawl_id) AS held_count,
       c.asked,
       c.confirmed,
       c.unlearned,
       c.unasked,
       c.withheld_confirmed
FROM tim_private.crawl c
JOIN tim_private.app a ON a.app_id = c.app_id;

COMMENT ON COLUMN tim.groups.confirmed IS
    'Whether the group is held and get_group_info has confirmed that it is gone.';
COMMENT ON COLUMN tim.live_groups.confirmed IS
    'Whether the group is held and get_group_info has confirmed that it is gone.';
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
