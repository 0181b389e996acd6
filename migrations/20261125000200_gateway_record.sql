-- What a gateway has besides its address: how its certificate is verified, whom to sign in as, limits,
-- what becomes of mail that it hands back, and which gateways stand in for it.

-- A stored password, sealed to the relays: the pages write it and can never read it. Revisions name it, so that
-- a revision which keeps it has no need to read it either, and one that is brought back has its own.
create table gateway_secret (
    organization_id uuid not null references organization (id),
    gateway_id      uuid not null,
    id              uuid not null,
    sealed          bytea not null,
    set_at          timestamptz not null default now(),
    primary key (organization_id, gateway_id, id)
);

alter table gateway_revision
    -- The name in the certificate, where that is not the host.
    add column certificate_name text collate "C" check (certificate_name <> ''),
    -- What vouches for the certificate: a CA of the organization's own (PEM), or the certificate's SHA-256
    -- fingerprint; neither: the roots that browsers trust.
    add column authority text check (authority <> ''),
    add column fingerprint bytea check (octet_length(fingerprint) = 32),
    add column sign_in_user text check (sign_in_user <> ''),
    add column sign_in_secret_id uuid,
    add column connections smallint not null default 50 check (connections between 1 and 50),
    add column messages_per_connection integer check (messages_per_connection > 0),
    add column messages_per_minute integer check (messages_per_minute > 0),
    -- In bytes.
    add column largest_message bigint check (largest_message > 0),
    -- Mail that comes back from the gateway, and where it comes from.
    add column returning_mail text not null default 'refuse' check (returning_mail in ('refuse', 'onward')),
    add column returning_networks cidr[] not null default '{}',
    -- Mail to the organization's own domains.
    add column own_domains text not null default 'gateway' check (own_domains in ('gateway', 'inbound')),
    -- Other gateways of the organization, the first to be tried first.
    add column backups uuid[] not null default '{}',
    add constraint gateway_revision_trust check (authority is null or fingerprint is null),
    -- A password is only ever sent to whom the certificate says is the gateway.
    add constraint gateway_revision_sign_in
        check ((sign_in_user is null) = (sign_in_secret_id is null) and (sign_in_user is null or tls = 'verified')),
    add constraint gateway_revision_secret foreign key (organization_id, gateway_id, sign_in_secret_id)
        references gateway_secret (organization_id, gateway_id, id);

-- Revisions outlive their gateway: a removal that is taken back brings everything back, and the words of the
-- history are kept.
alter table gateway_revision drop constraint gateway_revision_organization_id_gateway_id_fkey;
alter table gateway_revision add constraint gateway_revision_organization
    foreign key (organization_id) references organization (id);

-- The backups of the revisions in use: a gateway that stands in for another one cannot be removed.
create table gateway_backup (
    organization_id uuid not null,
    gateway_id      uuid not null,
    backup_id       uuid not null check (backup_id <> gateway_id),
    primary key (organization_id, gateway_id, backup_id),
    foreign key (organization_id, gateway_id) references gateway (organization_id, id) on delete cascade,
    foreign key (organization_id, backup_id) references gateway (organization_id, id)
);
create index gateway_backup_by_backup on gateway_backup (organization_id, backup_id);

-- Follows the revision that a gateway names, with the rights of who writes, so that no writer has to remember it.
create function gateway_backup_follow() returns trigger
    language plpgsql set search_path = pg_catalog, public, pg_temp
    as $$
    begin
        delete from public.gateway_backup
        where organization_id = new.organization_id and gateway_id = new.id;
        insert into public.gateway_backup (organization_id, gateway_id, backup_id)
        select new.organization_id, new.id, unnest(used.backups)
        from public.gateway_revision used
        where used.organization_id = new.organization_id and used.gateway_id = new.id and used.revision = new.revision;
        return null;
    end
    $$;
create trigger gateway_backup_update after update of revision on gateway
    for each row when (old.revision <> new.revision) execute function gateway_backup_follow();
-- Where its revision is there already: a removal is taken back.
create trigger gateway_backup_insert after insert on gateway
    for each row when (new.revision > 1) execute function gateway_backup_follow();

do $$
declare
    tenant_table text;
begin
    foreach tenant_table in array array['gateway_secret', 'gateway_backup'] loop
        execute format('alter table %I enable row level security, force row level security', tenant_table);
        execute format('create policy owner on %I to current_user using (true) with check (true)', tenant_table);
        execute format('create policy web on %I to outgate_web using (organization_id = (select current_organization()))'
                       ' with check (organization_id = (select current_organization()))', tenant_table);
        execute format('create policy relay on %I for select to outgate_relay using (true)', tenant_table);
    end loop;
end
$$;
grant insert, select (organization_id, gateway_id, id, set_at) on gateway_secret to outgate_web;
grant select on gateway_secret to outgate_relay;
-- Relays seal anew with a newer key; what was sealed stays the same.
create policy relay_seals_anew on gateway_secret for update to outgate_relay using (true) with check (true);
grant update (sealed) on gateway_secret to outgate_relay;
grant select, insert, delete on gateway_backup to outgate_web;
grant select on gateway_backup to outgate_relay;
grant update (address) on gateway to outgate_web;
