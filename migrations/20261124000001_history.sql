-- What administrators come back to: changes that take others back, work that takes longer than a
-- page, when each relay confirmed a change, and whether mail must leave through a gateway.

-- The change that this one took back. One change is taken back once; that in turn may be taken back.
alter table change add column undoes uuid;
alter table change add constraint change_undoes
    foreign key (organization_id, undoes) references change (organization_id, id);
alter table change add constraint change_undone_once unique (organization_id, undoes);
create index change_by_revision on change (organization_id, revision);
create index change_item_by_subject on change_item (organization_id, subject, subject_key);

drop function commit_change(uuid, uuid);
create function commit_change(organization uuid, change uuid, undone uuid) returns bigint
    language plpgsql set search_path = pg_catalog, public, pg_temp
    as $$
    declare
        taken bigint;
    begin
        update public.installation set revision = revision + 1 returning revision into taken;
        insert into public.change (organization_id, id, revision, undoes) values (organization, change, taken, undone);
        perform pg_notify('outgate_change', taken::text);
        return taken;
    end
    $$;

-- Work that an administrator waits for and whose progress is shown. The work itself is one
-- transaction: it is done as a whole or not at all, whatever becomes of the process that does it.
create table job (
    organization_id uuid not null references organization (id),
    id              uuid not null,
    -- What it does, in words.
    title           text not null,
    started_by      text not null,
    started_at      timestamptz not null default now(),
    -- Moves while the work goes on: one that stands still belongs to a process that is gone.
    seen_at         timestamptz not null default now(),
    done            bigint not null default 0,
    total           bigint not null,
    state           text not null default 'running' check (state in ('running', 'done', 'failed')),
    -- Where to go when it is done: a path of the pages.
    next            text not null default '',
    -- What went wrong, in words.
    failure         text not null default '',
    primary key (organization_id, id)
);
alter table job enable row level security, force row level security;
create policy owner on job to current_user using (true) with check (true);
create policy web on job to outgate_web
    using (organization_id = (select current_organization())) with check (organization_id = (select current_organization()));
grant select, insert, update, delete on job to outgate_web;

-- Pages add, change and delete accounts; an address never moves to another domain's organization,
-- which the foreign keys see to.
grant insert, delete on mail_account to outgate_web;
grant update (user_id, name, status, external_id) on mail_account to outgate_web;
grant insert, delete on mail_address to outgate_web;

-- Installation-wide: when each relay confirmed what, for a day.
create table relay_confirmation (
    relay_id     uuid not null references relay (id) on delete cascade,
    revision     bigint not null,
    confirmed_at timestamptz not null default now(),
    primary key (relay_id, revision)
);
alter table relay_confirmation enable row level security, force row level security;
create policy owner on relay_confirmation to current_user using (true) with check (true);
create policy web on relay_confirmation for select to outgate_web using (true);
create policy relay on relay_confirmation to outgate_relay using (true) with check (true);
grant select on relay_confirmation to outgate_web;
grant select, insert, delete on relay_confirmation to outgate_relay;

-- Whether a sender without a gateway is held instead of following the platform's default.
alter table organization add column must_use_gateway boolean not null default false;
grant update (must_use_gateway) on organization to outgate_web;

-- The scope whose pointer led to the gateway that a message waits for; null where it waits for the
-- platform's default. Mail never leaves by a wider scope because its own was emptied.
alter table queued_message add column waits_by text check (waits_by in ('user', 'domain', 'organization'));
-- What an administrator chose for a held message: by whatever route applies now, or back to the sender.
alter table queued_message add column choice text check (choice in ('send', 'return'));
create policy web_chooses on queued_message for update to outgate_web
    using (organization_id = (select current_organization())) with check (organization_id = (select current_organization()));
grant update (choice, next_attempt_at) on queued_message to outgate_web;
create index queued_message_held on queued_message (organization_id, waits_for) where state = 'held';
