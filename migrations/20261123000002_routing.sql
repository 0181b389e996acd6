-- Where mail goes: gateways with immutable revisions, accounts with their addresses, and the
-- pointers at the three scopes that an administrator sets.

-- The organization's record of one external SMTP server. The address stands here for look-up;
-- what a relay uses is the revision, which never changes once written.
create table gateway (
    organization_id uuid not null references organization (id),
    id              uuid not null,
    address         text collate "C" not null,
    revision        bigint not null,
    created_at      timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, address)
);

create table gateway_revision (
    organization_id uuid not null,
    gateway_id      uuid not null,
    revision        bigint not null check (revision > 0),
    address         text collate "C" not null,
    tls             text not null default 'when-offered' check (tls in ('when-offered', 'required', 'verified')),
    created_at      timestamptz not null default now(),
    primary key (organization_id, gateway_id, revision),
    foreign key (organization_id, gateway_id) references gateway (organization_id, id) on delete cascade
);
-- A gateway always has the revision that it names; both are inserted in one transaction.
alter table gateway add constraint gateway_current_revision
    foreign key (organization_id, id, revision) references gateway_revision (organization_id, gateway_id, revision)
    deferrable initially deferred;

alter table organization add column outbound_gateway_id uuid;
alter table organization add constraint organization_outbound_gateway
    foreign key (id, outbound_gateway_id) references gateway (organization_id, id);

alter table mail_domain add column outbound_gateway_id uuid;
alter table mail_domain add constraint mail_domain_outbound_gateway
    foreign key (organization_id, outbound_gateway_id) references gateway (organization_id, id);
create index mail_domain_by_gateway on mail_domain (organization_id, outbound_gateway_id) where outbound_gateway_id is not null;

-- One user. user_id is the primary address in canonical form; its domain is the organization's
-- by foreign key, so that no account can ever claim an address of another tenant.
create table mail_account (
    organization_id     uuid not null references organization (id),
    id                  uuid not null,
    user_id             text collate "C" not null,
    domain              text collate "C" not null generated always as (split_part(user_id, '@', -1)) stored,
    name                text not null default '',
    status              text not null default 'active' check (status in ('active', 'suspended')),
    external_id         text,
    outbound_gateway_id uuid,
    created_at          timestamptz not null default now(),
    primary key (organization_id, id),
    unique (organization_id, user_id),
    foreign key (organization_id, domain) references mail_domain (organization_id, name),
    foreign key (organization_id, outbound_gateway_id) references gateway (organization_id, id)
);
create index mail_account_by_domain on mail_account (organization_id, domain);
create index mail_account_by_gateway on mail_account (organization_id, outbound_gateway_id) where outbound_gateway_id is not null;

-- Every address of every account, the User ID included: an address leads to one account.
create table mail_address (
    organization_id uuid not null,
    address         text collate "C" not null,
    domain          text collate "C" not null generated always as (split_part(address, '@', -1)) stored,
    account_id      uuid not null,
    primary key (organization_id, address),
    foreign key (organization_id, account_id) references mail_account (organization_id, id) on delete cascade,
    foreign key (organization_id, domain) references mail_domain (organization_id, name)
);
create index mail_address_by_account on mail_address (organization_id, account_id);

do $$
declare
    tenant_table text;
begin
    foreach tenant_table in array array['gateway', 'gateway_revision', 'mail_account', 'mail_address'] loop
        execute format('alter table %I enable row level security, force row level security', tenant_table);
        execute format('create policy owner on %I to current_user using (true) with check (true)', tenant_table);
        execute format('create policy web on %I to outgate_web using (organization_id = (select current_organization()))'
                       ' with check (organization_id = (select current_organization()))', tenant_table);
        execute format('create policy relay on %I for select to outgate_relay using (true)', tenant_table);
        execute format('grant select on %I to outgate_web, outgate_relay', tenant_table);
    end loop;
end
$$;

-- Revisions are written once: nobody but the owner may change or delete one.
grant insert on gateway, gateway_revision to outgate_web;
grant update (outbound_gateway_id) on organization, mail_domain, mail_account to outgate_web;
