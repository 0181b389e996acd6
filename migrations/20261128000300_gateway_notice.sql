-- Administrators are told once that a gateway does not take mail, and once that it does again: who was told is here,
-- so that no restart and no other relay repeats it.
create table gateway_notice (
    organization_id uuid not null references organization (id),
    gateway_id      uuid not null,
    noticed_at      timestamptz not null,
    primary key (organization_id, gateway_id),
    foreign key (organization_id, gateway_id) references gateway (organization_id, id) on delete cascade
);
alter table gateway_notice enable row level security, force row level security;
create policy owner on gateway_notice to current_user using (true) with check (true);
create policy web on gateway_notice for select to outgate_web using (organization_id = current_organization());
create policy relay on gateway_notice to outgate_relay using (true) with check (true);
grant select on gateway_notice to outgate_web;
grant select, insert, delete on gateway_notice to outgate_relay;

create index gateway_health_failing on gateway_health (failing_since) where failing_since is not null;

-- Whom to tell. Relays know of administrators nothing else.
create function administrators_to_tell(of_organization uuid)
    returns setof text
    language sql stable security definer set search_path = pg_catalog, public, pg_temp
    as $$
        select who.email from public.administrator who
        join public.administrator_role r on r.administrator_id = who.id
        where r.organization_id = of_organization and r.role = 'administrator' and who.status = 'active'
        order by who.email limit 50
    $$;
revoke execute on function administrators_to_tell(uuid) from public;
grant execute on function administrators_to_tell(uuid) to outgate_relay;
