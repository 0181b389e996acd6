-- The relays, what each has confirmed, and the mail that waits.

-- Installation-wide: the workers. One that stopped in good order has signed off and is not
-- waited for; one that vanished counts until the operator forgets it.
create table relay (
    id                 uuid primary key,
    name               text collate "C" not null unique,
    started_at         timestamptz not null,
    last_seen_at       timestamptz not null,
    confirmed_revision bigint not null,
    signed_off_at      timestamptz
);
alter table relay enable row level security, force row level security;
create policy owner on relay to current_user using (true) with check (true);
create policy web on relay for select to outgate_web using (true);
create policy relay on relay to outgate_relay using (true) with check (true);
grant select on relay to outgate_web;
grant select, insert, update on relay to outgate_relay;

-- One waiting message: its state. Recipients stand in the row, since they are only ever read
-- and written with it: [{"to": "...", "state": "waiting" | "delivered" | "refused", "reply": "..."}].
create table queued_message (
    organization_id  uuid not null references organization (id),
    id               uuid not null,
    -- waiting: due at next_attempt_at. held: what it waited for was taken away. answer_awaited: the
    -- gateway has the whole message and has not answered yet.
    state            text not null check (state in ('waiting', 'held', 'answer_awaited')),
    -- The address that decides the route; null for our own notifications, which go to the inbound
    -- host of their recipient's domain.
    sender           text collate "C",
    reverse_path     text not null,
    recipients       jsonb not null,
    -- 8BITMIME, SMTPUTF8 and the other MAIL parameters that go on with the message.
    parameters       jsonb not null,
    size             bigint not null,
    -- The gateway that this message last waited for; null: the platform's default.
    waits_for        uuid,
    attempts         integer not null default 0,
    last_reply       text,
    accepted_at      timestamptz not null,
    -- While a relay has the message: when its lease ends. While it is held: when it expires. So one
    -- comparison finds everything that somebody has to look at.
    next_attempt_at  timestamptz not null,
    expires_at       timestamptz not null,
    -- Which relay has it now. The token changes with every claim, so that a relay that was paused
    -- beyond its lease cannot record over another's result.
    lease_relay_id   uuid,
    lease_token      uuid,
    primary key (organization_id, id),
    check ((lease_relay_id is null) = (lease_token is null))
);
create index queued_message_due on queued_message (next_attempt_at);
create index queued_message_leased on queued_message (lease_relay_id) where lease_relay_id is not null;
create index queued_message_by_gateway on queued_message (organization_id, waits_for, next_attempt_at) where waits_for is not null;

-- The bytes, apart from the state that changes with every attempt, and in pieces, so that a
-- large message is never whole in memory.
create table queued_body (
    organization_id uuid not null,
    message_id      uuid not null,
    piece           integer not null,
    content         bytea not null,
    primary key (organization_id, message_id, piece),
    foreign key (organization_id, message_id) references queued_message (organization_id, id) on delete cascade
);
-- Mail hardly shrinks, and what is compressed has to be read whole.
alter table queued_body alter column content set storage external;

do $$
declare
    tenant_table text;
begin
    foreach tenant_table in array array['queued_message', 'queued_body'] loop
        execute format('alter table %I enable row level security, force row level security', tenant_table);
        execute format('create policy owner on %I to current_user using (true) with check (true)', tenant_table);
        execute format('create policy web on %I for select to outgate_web using (organization_id = (select current_organization()))', tenant_table);
        execute format('create policy relay on %I to outgate_relay using (true) with check (true)', tenant_table);
        execute format('grant select, insert, update, delete on %I to outgate_relay', tenant_table);
    end loop;
end
$$;
-- Pages show the state of waiting mail, never its content.
grant select on queued_message to outgate_web;
