-- What relays see of gateways while they carry mail: whether each takes it, since when not, and in whose words. A
-- relay writes down what changed, within a second or two; of gateways without traffic there is nothing.
create table gateway_health (
    organization_id  uuid not null references organization (id),
    gateway_id       uuid not null,
    relay_id         uuid not null,
    -- Of the gateway that this was seen of: a change begins anew.
    revision         bigint not null,
    last_accepted_at timestamptz,
    last_failed_at   timestamptz,
    -- In the gateway's words, or what went wrong before it said any.
    last_failure     text,
    -- Null: as far as this relay knows it takes mail.
    failing_since    timestamptz,
    -- The gateway that mail goes to meanwhile.
    backup_id        uuid,
    primary key (organization_id, gateway_id, relay_id),
    foreign key (organization_id, gateway_id) references gateway (organization_id, id) on delete cascade
);
alter table gateway_health enable row level security, force row level security;
create policy owner on gateway_health to current_user using (true) with check (true);
create policy web on gateway_health for select to outgate_web using (organization_id = current_organization());
create policy relay on gateway_health to outgate_relay using (true) with check (true);
grant select on gateway_health to outgate_web;
grant select, insert, update, delete on gateway_health to outgate_relay;
