-- Where an organization is told of its gateways and limits besides by mail, and what is to be told there. A relay of the
-- former version tells by mail alone.
create table webhook (
    organization_id uuid primary key references organization (id),
    url             text not null check (octet_length(url) <= 500),
    -- What notices are signed with. Administrators give it to whoever receives them.
    secret          bytea not null check (octet_length(secret) = 32),
    set_at          timestamptz not null default now()
);

-- One notice, until it is taken or given up, and for a while afterwards for people to see.
create table webhook_notice (
    organization_id uuid not null references organization (id),
    id              uuid not null,
    kind            text not null,
    -- Every byte as it is signed and sent.
    body            text not null,
    noted_at        timestamptz not null default now(),
    -- When it is tried next; while it is under way, when another relay may take it up.
    next_at         timestamptz not null default now(),
    attempts        integer not null default 0,
    -- What came of the last attempt, in words.
    outcome         text,
    ended_at        timestamptz,
    taken           boolean not null default false,
    primary key (organization_id, id)
);
create index webhook_notice_due on webhook_notice (next_at) where ended_at is null;

do $$
declare
    tenant_table text;
begin
    foreach tenant_table in array array['webhook', 'webhook_notice'] loop
        execute format('alter table %I enable row level security, force row level security', tenant_table);
        execute format('create policy owner on %I to current_user using (true) with check (true)', tenant_table);
        execute format('create policy web on %I to outgate_web using (organization_id = current_organization())'
                       ' with check (organization_id = current_organization())', tenant_table);
        execute format('create policy relay on %I to outgate_relay using (true) with check (true)', tenant_table);
    end loop;
end
$$;
grant select, insert, update, delete on webhook to outgate_web;
grant select, insert on webhook_notice to outgate_web;
grant select on webhook to outgate_relay;
grant select, insert, update, delete on webhook_notice to outgate_relay;
