-- Outbound Volume names everybody who was noticed of late and why, and who is held for a limit; and an administrator can
-- say that somebody stays slowed down, so that nobody is told of it again until that is over.

-- What was said when administrators were told, and when: a relay of the former version notes the time alone, so the words
-- have a time of their own.
alter table limit_notice
    add column said_at timestamptz,
    add column counted text not null default '',
    add column happens text not null default '';

alter table throttle
    add column kept_at timestamptz,
    add column kept_by text,
    add constraint throttle_kept check ((kept_at is null) = (kept_by is null));
grant update (kept_at, kept_by) on throttle to outgate_web;

create index queued_message_over_limit on queued_message (organization_id, accepted_at) where held_because = 'over-limit';
