-- Test messages: what is sent through a gateway to see it arrive, at an administrator's mailbox or back here. A relay
-- of the former version takes such a question as one that only wants to know whether the recipient is accepted.
alter table verification
    -- Where the message goes: to the recipient, or to the return address of whichever relay sends it.
    add column test_message text check (test_message in ('recipient', 'return')),
    -- The page at which the recipient says that it has arrived; the test message's id is put behind it.
    add column link text,
    add check (test_message is distinct from 'recipient' or recipient is not null);

create table test_message (
    organization_id uuid not null,
    id              uuid not null,
    verification_id uuid not null,
    -- By name: a relay may be forgotten.
    relay           text not null,
    recipient       text not null,
    -- What it was signed with (DKIM, Ed25519); null where it goes to somebody's mailbox, whose server knows no such key.
    public_key      bytea check (octet_length(public_key) = 32),
    -- The gateway has answered 250 for it.
    taken_at        timestamptz,
    arrived_at      timestamptz,
    -- What it said when it came back (policy::arrival), or who has said that it is there.
    arrival         jsonb,
    seen_by         text,
    sent_at         timestamptz not null default clock_timestamp(),
    primary key (organization_id, id),
    foreign key (organization_id, verification_id) references verification (organization_id, id) on delete cascade
);
create index test_message_by_verification on test_message (organization_id, verification_id);
-- Of what comes back only the id is known.
create index test_message_by_id on test_message (id);

alter table test_message enable row level security, force row level security;
create policy owner on test_message to current_user using (true) with check (true);
create policy web on test_message to outgate_web using (organization_id = current_organization())
    with check (organization_id = current_organization());
create policy relay on test_message to outgate_relay using (true) with check (true);
grant select, update (arrived_at, seen_by) on test_message to outgate_web;
grant select, insert, update on test_message to outgate_relay;

-- What relays sign the tokens of test messages with. The pages have no need of it.
create table token_key (
    is_only boolean primary key default true check (is_only),
    key     bytea not null check (octet_length(key) = 32)
);
-- Each of these is 122 bits of the system's chance.
insert into token_key (key)
values (sha256(decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex')));
alter table token_key enable row level security, force row level security;
create policy owner on token_key to current_user using (true) with check (true);
create policy relay on token_key for select to outgate_relay using (true);
grant select on token_key to outgate_relay;
