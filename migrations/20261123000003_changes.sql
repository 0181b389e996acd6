-- What was changed, by whom, and in which order: the relays follow it, the administrators read it.

-- Installation-wide: one row, whose lock puts all changes into one order.
create table installation (
    one      boolean primary key default true check (one),
    revision bigint not null
);
insert into installation (revision) values (0);
alter table installation enable row level security, force row level security;
create policy owner on installation to current_user using (true) with check (true);
create policy web on installation to outgate_web using (true) with check (true);
create policy relay on installation for select to outgate_relay using (true);

-- Who did it, in words, and the first row of every change. The administrator's address is kept as it was, so that
-- the entry outlives the account.
create table audit_entry (
    organization_id  uuid not null references organization (id),
    change_id        uuid not null,
    actor            text not null,
    action           text not null,
    subject          text not null,
    before           text,
    after            text,
    primary key (organization_id, change_id)
);

-- The things that a change touched, with what was before and after. subject_key is the id of an
-- organization, account or gateway, or the name of a mail domain.
create table change_item (
    organization_id uuid not null,
    change_id       uuid not null,
    position        integer not null,
    subject         text not null check (subject in ('organization', 'domain', 'account', 'gateway')),
    subject_key     text not null,
    before          jsonb,
    after           jsonb,
    primary key (organization_id, change_id, position),
    foreign key (organization_id, change_id) references audit_entry (organization_id, change_id)
);

-- The last row of every change. No key of these three is checked at COMMIT only: the lock that orders
-- all changes is held until then, and nobody is to wait while a hundred thousand items are looked at.
create table change (
    organization_id uuid not null,
    id              uuid not null,
    revision        bigint not null unique,
    committed_at    timestamptz not null default clock_timestamp(),
    primary key (organization_id, id),
    foreign key (organization_id, id) references audit_entry (organization_id, change_id)
);

do $$
declare
    tenant_table text;
begin
    foreach tenant_table in array array['change', 'change_item', 'audit_entry'] loop
        execute format('alter table %I enable row level security, force row level security', tenant_table);
        execute format('create policy owner on %I to current_user using (true) with check (true)', tenant_table);
        execute format('create policy web on %I to outgate_web using (organization_id = (select current_organization()))'
                       ' with check (organization_id = (select current_organization()))', tenant_table);
        execute format('grant select, insert on %I to outgate_web', tenant_table);
    end loop;
    foreach tenant_table in array array['change', 'change_item'] loop
        execute format('create policy relay on %I for select to outgate_relay using (true)', tenant_table);
        execute format('grant select on %I to outgate_relay', tenant_table);
    end loop;
end
$$;

grant select, update (revision) on installation to outgate_web;
grant select on installation to outgate_relay;

-- The last statement of every change: takes the next revision under the row's lock, which is
-- held until COMMIT, so that "applied n" means all changes up to n. One notification a change,
-- however much it touches: NOTIFY serializes commits over the whole database.
create function commit_change(organization uuid, change uuid) returns bigint
    language plpgsql set search_path = pg_catalog, public, pg_temp
    as $$
    declare
        taken bigint;
    begin
        update public.installation set revision = revision + 1 returning revision into taken;
        insert into public.change (organization_id, id, revision) values (organization, change, taken);
        perform pg_notify('outgate_change', taken::text);
        return taken;
    end
    $$;
