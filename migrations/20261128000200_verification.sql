-- "Is the server properly configured?": an administrator asks, and every relay tries the gateway with the code that
-- carries the mail, since every relay's address has to be accepted.

create table verification (
    organization_id uuid not null references organization (id),
    id              uuid not null,
    -- The saved gateway and its revision; both null for an address that is only typed.
    gateway_id      uuid,
    revision        bigint,
    address         text collate "C" not null,
    -- Who the probe says that it is from, and for; the relay's own choice where nobody is named.
    sender          text not null,
    recipient       text,
    requested_by    text not null,
    requested_at    timestamptz not null default now(),
    primary key (organization_id, id),
    foreign key (organization_id, gateway_id) references gateway (organization_id, id) on delete cascade,
    check ((gateway_id is null) = (revision is null))
);
create index verification_by_gateway on verification (organization_id, gateway_id, requested_at);
create index verification_by_time on verification (requested_at);

-- What one relay found: its steps as they end, and whether the gateway accepts once all have.
create table verification_result (
    organization_id uuid not null,
    verification_id uuid not null,
    relay_id        uuid not null,
    -- By name: a relay may be forgotten.
    relay           text not null,
    steps           jsonb not null default '[]',
    accepts         boolean,
    ended_at        timestamptz,
    primary key (organization_id, verification_id, relay_id),
    foreign key (organization_id, verification_id) references verification (organization_id, id) on delete cascade,
    check ((accepts is null) = (ended_at is null))
);

do $$
declare
    tenant_table text;
begin
    foreach tenant_table in array array['verification', 'verification_result'] loop
        execute format('alter table %I enable row level security, force row level security', tenant_table);
        execute format('create policy owner on %I to current_user using (true) with check (true)', tenant_table);
        execute format('create policy web on %I to outgate_web using (organization_id = current_organization())'
                       ' with check (organization_id = current_organization())', tenant_table);
        execute format('create policy relay on %I to outgate_relay using (true) with check (true)', tenant_table);
    end loop;
end
$$;
grant select, insert, delete on verification to outgate_web;
grant select on verification_result to outgate_web;
grant select on verification to outgate_relay;
grant select, insert, update on verification_result to outgate_relay;
