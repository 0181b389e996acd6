-- How much may be sent within a time, and what an administrator has said of single senders. Relays hold it in memory
-- with the other facts and judge by it; a change of either touches the organization, so that a relay of the former
-- version reads what it knows already and goes on. What was said of an account stays when it is deleted, as its counts
-- do: one that is brought back by Undo has the same id. So there is no key to accounts and domains.

-- The platform's own figures only alert until then, in organizations that are new and in those that are here already.
alter table organization add column limits_act_from timestamptz not null default now() + interval '14 days';

create table sending_limit (
    organization_id uuid not null references organization (id),
    kind            text collate "C" not null check (kind in ('organization', 'domain', 'account')),
    -- The id of an account, the name of a mail domain, '' for the organization.
    subject         text collate "C" not null check ((subject = '') = (kind = 'organization')),
    -- each: each account for itself. service: the same of service accounts. total: all together.
    whose           text collate "C" not null check (whose in ('each', 'service', 'total')),
    time_window     text collate "C" not null check (time_window in ('minute', 'hour', 'day')),
    unit            text collate "C" not null check (unit in ('messages', 'recipients', 'external')),
    -- null: as many as one likes, whatever a wider scope says.
    most            integer check (most between 1 and 100000000),
    action          text collate "C" not null check (action in ('alert', 'delay', 'hold', 'defer', 'refuse')),
    primary key (organization_id, kind, subject, whose, time_window, unit),
    check (kind <> 'account' or whose = 'each')
);

create table sender_control (
    organization_id uuid not null references organization (id),
    account_id      uuid not null,
    -- A program that sends for many: other figures hold.
    service         boolean not null default false,
    -- No limit of its own holds until then.
    exempt_until    timestamptz,
    -- Nothing new is accepted from it.
    blocked         boolean not null default false,
    primary key (organization_id, account_id)
);

-- Who is slowed down: relays give each message beyond a limit its turn here, so that several of them keep one pace.
create table throttle (
    organization_id uuid not null references organization (id),
    kind            text collate "C" not null check (kind in ('organization', 'domain', 'account', 'no-account')),
    subject         text collate "C" not null,
    time_window     text collate "C" not null check (time_window in ('minute', 'hour', 'day')),
    unit            text collate "C" not null check (unit in ('messages', 'recipients', 'external')),
    -- What the limit was when the last turn was given.
    most            integer not null,
    since           timestamptz not null,
    -- The last turn that was given; once it is past nobody is slowed down any more.
    turn_at         timestamptz not null,
    primary key (organization_id, kind, subject, time_window, unit)
);

do $$
declare
    tenant_table text;
begin
    foreach tenant_table in array array['sending_limit', 'sender_control', 'throttle'] loop
        execute format('alter table %I enable row level security, force row level security', tenant_table);
        execute format('create policy owner on %I to current_user using (true) with check (true)', tenant_table);
        execute format('create policy web on %I to outgate_web using (organization_id = (select current_organization()))'
                       ' with check (organization_id = (select current_organization()))', tenant_table);
        execute format('create policy relay on %I to outgate_relay using (true) with check (true)', tenant_table);
        execute format('grant select on %I to outgate_web, outgate_relay', tenant_table);
    end loop;
end
$$;
grant insert, update, delete on sending_limit, sender_control to outgate_web;
grant insert, update, delete on throttle to outgate_relay;
-- An administrator may let go what waits.
grant delete on throttle to outgate_web;

-- Until when a message waits because its sender sent more than a limit allows; null: it does not, or not any more.
alter table queued_message add column throttled_until timestamptz;
grant update (throttled_until) on queued_message to outgate_web;
create index queued_message_throttled on queued_message (organization_id, throttled_until) where throttled_until is not null;

alter table queued_message drop constraint queued_message_held_because_check;
alter table queued_message add constraint queued_message_held_because_check
    check (held_because in ('gateway-taken-away', 'no-gateway', 'account-suspended', 'account-removed',
                            'domain-removed', 'organization-suspended', 'over-limit', 'sender-blocked'));
