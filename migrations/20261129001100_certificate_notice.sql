-- Until when the certificates are valid that gateways show, where mail stops once they are not; and of which
-- administrators were told, so that each is told 30 days before the end, 7 and 1, and of a new one anew.
alter table gateway_health add column certificate_ends_at timestamptz;
create index gateway_health_certificate on gateway_health (certificate_ends_at) where certificate_ends_at is not null;

create table certificate_notice (
    organization_id uuid not null references organization (id),
    gateway_id      uuid not null,
    ends_at         timestamptz not null,
    -- Before the end; the last time that was told.
    days            integer not null check (days in (1, 7, 30)),
    primary key (organization_id, gateway_id),
    foreign key (organization_id, gateway_id) references gateway (organization_id, id) on delete cascade
);
alter table certificate_notice enable row level security, force row level security;
create policy owner on certificate_notice to current_user using (true) with check (true);
create policy web on certificate_notice for select to outgate_web using (organization_id = current_organization());
create policy relay on certificate_notice to outgate_relay using (true) with check (true);
grant select on certificate_notice to outgate_web;
grant select, insert, update, delete on certificate_notice to outgate_relay;
