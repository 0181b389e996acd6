-- Who may submit mail by signing in to the relay, for which organization and within which limits.

-- Revoked ones stay, so that revoking can be taken back and the history keeps their names. The secret is
-- 130 random bits, so a plain hash of it cannot be tried out.
create table relay_credential (
    organization_id        uuid not null references organization (id),
    id                     uuid not null,
    -- What a client signs in with. Made by us, so that nobody can ask by trying which names are taken.
    user_name              text collate "C" not null unique check (user_name ~ '^[a-z0-9-]+$'),
    secret_hash            bytea not null check (octet_length(secret_hash) = 32),
    name                   text not null check (name <> ''),
    -- From which addresses and mail domains it may send; both empty: every one of the organization.
    addresses              text[] collate "C" not null default '{}',
    domains                text[] collate "C" not null default '{}',
    -- From which networks it may be used; empty: from everywhere.
    networks               text[] collate "C" not null default '{}',
    messages_per_minute    integer check (messages_per_minute > 0),
    allow_bare_line_feeds  boolean not null default false,
    revoked                boolean not null default false,
    created_at             timestamptz not null default now(),
    last_used_at           timestamptz,
    last_used_from         text,
    primary key (organization_id, id)
);
alter table relay_credential enable row level security, force row level security;
create policy owner on relay_credential to current_user using (true) with check (true);
create policy web on relay_credential to outgate_web
    using (organization_id = (select current_organization())) with check (organization_id = (select current_organization()));
create policy relay on relay_credential to outgate_relay using (true) with check (true);
grant select, insert on relay_credential to outgate_web;
grant update (name, addresses, domains, networks, messages_per_minute, allow_bare_line_feeds, revoked)
    on relay_credential to outgate_web;
grant select on relay_credential to outgate_relay;
-- Written in batches, at most once a minute.
grant update (last_used_at, last_used_from) on relay_credential to outgate_relay;

alter table change_item drop constraint change_item_subject_check;
alter table change_item add constraint change_item_subject_check
    check (subject in ('organization', 'domain', 'account', 'gateway', 'credential'));

-- Installation-wide: sign-ins that failed, by the client and by what it gave as its name, so that all relays
-- count together. `who` holds no name, only the beginning of its hash.
create table sign_in_failure (
    who      text collate "C" primary key,
    failures integer not null check (failures > 0),
    since    timestamptz not null
);
create index sign_in_failure_since on sign_in_failure (since);
alter table sign_in_failure enable row level security, force row level security;
create policy owner on sign_in_failure to current_user using (true) with check (true);
create policy relay on sign_in_failure to outgate_relay using (true) with check (true);
grant select, insert, update, delete on sign_in_failure to outgate_relay;
