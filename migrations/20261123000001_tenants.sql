-- Who is here: organizations, their mail domains, administrators and sessions.
-- Every tenant table begins its keys with organization_id and forces row level security,
-- so that a forgotten condition shows nothing rather than another tenant's rows.

-- The transaction's organization; null outside one. A setting that was once set in a pooled
-- connection reads as '' afterwards, never as null: hence nullif.
create function current_organization() returns uuid
    language sql stable parallel safe
    as $$ select nullif(current_setting('outgate.organization', true), '')::uuid $$;

-- Installation-wide: the tenants themselves.
create table organization (
    id          uuid primary key,
    slug        text collate "C" not null unique check (slug ~ '^[a-z0-9]([a-z0-9-]{0,38}[a-z0-9])?$'),
    name        text not null check (name <> ''),
    status      text not null default 'active' check (status in ('active', 'suspended')),
    created_at  timestamptz not null default now()
);
alter table organization enable row level security, force row level security;
create policy owner on organization to current_user using (true) with check (true);
create policy web on organization to outgate_web
    using (id = (select current_organization())) with check (id = (select current_organization()));
create policy relay on organization for select to outgate_relay using (true);

-- A mail domain belongs to exactly one organization, hence the installation-wide unique name.
-- Only the operator adds domains, so that nobody can ask by trying which names are taken.
create table mail_domain (
    organization_id uuid not null references organization (id),
    name            text collate "C" not null unique check (name = lower(name) and name <> ''),
    created_at      timestamptz not null default now(),
    primary key (organization_id, name)
);
alter table mail_domain enable row level security, force row level security;
create policy owner on mail_domain to current_user using (true) with check (true);
create policy web on mail_domain to outgate_web
    using (organization_id = (select current_organization())) with check (organization_id = (select current_organization()));
create policy relay on mail_domain for select to outgate_relay using (true);

-- Installation-wide: one administrator may look after several organizations.
create table administrator (
    id            uuid primary key,
    email         text collate "C" not null unique check (email = lower(email)),
    password_hash text not null,
    status        text not null default 'active' check (status in ('active', 'suspended')),
    created_at    timestamptz not null default now()
);
alter table administrator enable row level security, force row level security;
create policy owner on administrator to current_user using (true) with check (true);

-- What an administrator may do where.
create table administrator_role (
    organization_id  uuid not null references organization (id),
    administrator_id uuid not null references administrator (id) on delete cascade,
    role             text not null check (role in ('administrator', 'user-administrator', 'admin-assistant')),
    primary key (organization_id, administrator_id)
);
create index administrator_role_by_administrator on administrator_role (administrator_id);
alter table administrator_role enable row level security, force row level security;
create policy owner on administrator_role to current_user using (true) with check (true);
create policy web on administrator_role to outgate_web
    using (organization_id = (select current_organization())) with check (organization_id = (select current_organization()));

-- Installation-wide: a session belongs to a browser. The id is kept as its hash only, so that
-- who reads this table cannot become anybody.
create table session (
    id_hash          bytea primary key,
    administrator_id uuid references administrator (id) on delete cascade,
    data             jsonb not null,
    touched_at       timestamptz not null,
    expires_at       timestamptz not null
);
create index session_by_administrator on session (administrator_id);
create index session_by_expiry on session (expires_at);
alter table session enable row level security, force row level security;
create policy owner on session to current_user using (true) with check (true);
create policy web on session to outgate_web using (true) with check (true);

-- The two reads that come before an organization is known. They run as the owner and therefore
-- filter by their argument themselves.
create function administrator_signing_in(address text)
    returns table (id uuid, password_hash text, status text)
    language sql stable security definer set search_path = pg_catalog, public, pg_temp
    as $$ select a.id, a.password_hash, a.status from public.administrator a where a.email = address $$;

create function administrator_access(who uuid)
    returns table (email text, organization_id uuid, slug text, name text, organization_status text, role text)
    language sql stable security definer set search_path = pg_catalog, public, pg_temp
    as $$
        select a.email, o.id, o.slug, o.name, o.status, r.role
        from public.administrator a
        join public.administrator_role r on r.administrator_id = a.id
        join public.organization o on o.id = r.organization_id
        where a.id = who and a.status = 'active'
    $$;

revoke execute on function administrator_signing_in(text), administrator_access(uuid) from public;
grant execute on function administrator_signing_in(text), administrator_access(uuid) to outgate_web;

grant usage on schema public to outgate_web, outgate_relay;
grant select on organization, mail_domain, administrator_role to outgate_web;
grant select, insert, update, delete on session to outgate_web;
grant select on organization, mail_domain to outgate_relay;
