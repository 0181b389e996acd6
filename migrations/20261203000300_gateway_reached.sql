-- How gateways do between and beside their mail: when one was last reached without any, how many messages each relay
-- has passed to it in the five minutes before it was written down, and after how long they were taken. A relay of the
-- former version says none of it.
alter table gateway_health
    add column last_reached_at timestamptz,
    add column messages integer,
    add column taken_after_ms integer;
