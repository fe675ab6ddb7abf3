-- The newest events of one app, whoever else has events.
CREATE INDEX group_event_by_app ON tim_private.group_event (app_id, event_id);
