-- That a gateway has stopped offering TLS, though mail still goes to it: each relay says when it last spoke with it
-- encrypted and since when it does in clear. Administrators are told once, and once when mail is encrypted again; who
-- was told is here, so that no restart and no other relay repeats it. A relay of the former version says none of it.
alter table gateway_health
    add column encrypted_at timestamptz,
    add column clear_since timestamptz;
-- Those only: most gateways that are spoken to in clear have never offered anything else.
create index gateway_health_in_clear on gateway_health (clear_since) where clear_since > encrypted_at;

create table encryption_notice (
    organization_id uuid not null references organization (id),
    gateway_id      uuid not null,
    noticed_at      timestamptz not null,
    primary key (organization_id, gateway_id),
    foreign key (organization_id, gateway_id) references gateway (organization_id, id) on delete cascade
);
alter table encryption_notice enable row level security, force row level security;
create policy owner on encryption_notice to current_user using (true) with check (true);
create policy web on encryption_notice for select to outgate_web using (organization_id = current_organization());
create policy relay on encryption_notice to outgate_relay using (true) with check (true);
grant select on encryption_notice to outgate_web;
grant select, insert, delete on encryption_notice to outgate_relay;
