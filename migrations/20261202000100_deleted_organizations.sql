-- Organizations that the operator has deleted: what is left of them for who asks later, and how relays hear of it. The
-- changes that made them are gone with them. A relay of the former version does not read this: until it starts anew
-- it knows the organization as it was, suspended.
create table deleted_organization (
    id         uuid primary key,
    slug       text collate "C" not null,
    name       text not null,
    domains    text[] collate "C" not null,
    -- How many rows each table had of it, by table, and how many administrators went with it.
    deleted    jsonb not null,
    actor      text not null,
    revision   bigint not null unique,
    deleted_at timestamptz not null default clock_timestamp()
);
alter table deleted_organization enable row level security, force row level security;
create policy owner on deleted_organization to current_user using (true) with check (true);
create policy relay on deleted_organization for select to outgate_relay using (true);
grant select on deleted_organization to outgate_relay;
