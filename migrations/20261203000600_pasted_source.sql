-- What the source of a test message shows that somebody has found in their mailbox and pasted: kept as what was read in
-- it (policy::arrival), never as it is. Whom a relay has to ask about it stands beside it. The former version shows such a
-- message as one that somebody has said is there.
alter table test_message
    add column pasted    jsonb,
    add column pasted_at timestamptz,
    -- When a relay is to look up what SPF says of it; while one does, when another may. Null: there is nothing to look up.
    add column look_at   timestamptz,
    add check ((pasted is null) = (pasted_at is null));
create index test_message_to_look_at on test_message (look_at) where look_at is not null;
grant update (pasted, pasted_at, look_at) on test_message to outgate_web;
