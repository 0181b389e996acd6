-- What passwords of gateways are sealed with.

-- Installation-wide: the public keys of the relays, published by whoever has the private ones. The one with the
-- highest number seals. A row stays when its key is retired: a relay that still has the key does not bring it back.
create table secret_key (
    id           bytea primary key check (octet_length(id) = 8),
    number       bigint not null generated always as identity,
    public_key   bytea not null check (octet_length(public_key) = 32),
    published_at timestamptz not null default now(),
    retired_at   timestamptz
);
alter table secret_key enable row level security, force row level security;
create policy owner on secret_key to current_user using (true) with check (true);
create policy web on secret_key for select to outgate_web using (true);
create policy relay on secret_key for select to outgate_relay using (true);
create policy relay_publishes on secret_key for insert to outgate_relay with check (true);
grant select on secret_key to outgate_web, outgate_relay;
grant insert (id, public_key) on secret_key to outgate_relay;

-- The key's id stands in what was sealed with it. One that was never published seals nothing.
alter table gateway_secret add column key_id bytea not null
    generated always as (substring(sealed from 2 for 8)) stored references secret_key (id);
create index gateway_secret_by_key on gateway_secret (key_id);
