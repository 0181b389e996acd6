-- Files of accounts on their way in: their rows as they were read, and what importing them would
-- change. Both stay until the import is applied, or for a day.

create table account_import (
    organization_id uuid not null references organization (id),
    id              uuid not null,
    file_name       text not null,
    -- Whether accounts that no row names are removed.
    remove_missing  boolean not null,
    started_by      text not null,
    started_at      timestamptz not null default now(),
    -- How many rows could be read.
    rows            bigint not null default 0,
    -- The first of what is wrong: [{"line": 3, "what": "..."}], and how much there is in all.
    mistakes        jsonb not null default '[]',
    mistake_count   bigint not null default 0,
    -- How many accounts there were when this was computed, and what would become of them.
    accounts        bigint not null default 0,
    added           bigint not null default 0,
    changed         bigint not null default 0,
    removed         bigint not null default 0,
    -- The gateways that would be made.
    new_gateways    text[] not null default '{}',
    -- The change that it became.
    change_id       uuid,
    primary key (organization_id, id)
);

-- Neither this nor the next table has a foreign key to the import: looked up for each row, it would take
-- as long as everything else. They are written and deleted together with it.
create table account_import_row (
    organization_id  uuid not null,
    import_id        uuid not null,
    line             bigint not null,
    user_id          text collate "C" not null,
    -- The account's id, if it is new.
    new_id           uuid not null,
    -- Whether the cell says something; null in it deletes.
    name_said        boolean not null,
    name             text,
    -- Whether addresses that the row does not name are taken away.
    addresses_said   boolean not null,
    -- All that the row names, the User ID included, sorted.
    addresses        text[] collate "C" not null,
    status           text,
    gateway_said     boolean not null,
    -- An address, not yet a gateway.
    gateway          text collate "C",
    external_id_said boolean not null,
    external_id      text,
    primary key (organization_id, import_id, line)
);

-- before and after are those of the change's items, but for outbound_gateway: an address here.
create table account_import_change (
    organization_id uuid not null,
    import_id       uuid not null,
    position        bigint not null,
    kind            text not null check (kind in ('added', 'changed', 'removed')),
    account_id      uuid not null,
    user_id         text collate "C" not null,
    before          jsonb,
    after           jsonb,
    primary key (organization_id, import_id, position)
);

do $$
declare
    tenant_table text;
begin
    foreach tenant_table in array array['account_import', 'account_import_row', 'account_import_change'] loop
        execute format('alter table %I enable row level security, force row level security', tenant_table);
        execute format('create policy owner on %I to current_user using (true) with check (true)', tenant_table);
        execute format('create policy web on %I to outgate_web using (organization_id = (select current_organization()))'
                       ' with check (organization_id = (select current_organization()))', tenant_table);
        execute format('grant select, insert, delete on %I to outgate_web', tenant_table);
    end loop;
end
$$;
grant update on account_import to outgate_web;
