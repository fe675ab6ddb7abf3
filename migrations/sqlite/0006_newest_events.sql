-- The newest events of one app, whoever else has events. The event's id stands at the end of every index.
CREATE INDEX group_event_by_app ON group_event (app_id);
