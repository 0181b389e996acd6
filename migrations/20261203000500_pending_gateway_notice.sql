-- Administrators are told once that a gateway which is to go live has not passed its verification: for which change they
-- were is here, so that no further attempt, no restart and no other relay repeats it.
create table pending_gateway_notice (
    organization_id uuid not null references organization (id),
    -- Whose gateway it is to be: 'organization', or 'domain' and its name.
    subject         text not null check (subject in ('organization', 'domain')),
    subject_key     text not null,
    gateway_id      uuid not null,
    -- Since when it is pending there: when it is so anew, that is another change.
    since           timestamptz not null,
    noticed_at      timestamptz not null,
    primary key (organization_id, subject, subject_key),
    foreign key (organization_id, gateway_id) references gateway (organization_id, id) on delete cascade
);
alter table pending_gateway_notice enable row level security, force row level security;
create policy owner on pending_gateway_notice to current_user using (true) with check (true);
create policy web on pending_gateway_notice for select to outgate_web using (organization_id = current_organization());
create policy relay on pending_gateway_notice to outgate_relay using (true) with check (true);
grant select on pending_gateway_notice to outgate_web;
grant select, insert, update on pending_gateway_notice to outgate_relay;
