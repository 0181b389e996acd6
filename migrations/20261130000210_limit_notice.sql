-- Administrators are told once an hour that somebody is near a limit, beyond it, or stopped: when they were told is here,
-- so that no restart and no other relay repeats it.
create table limit_notice (
    organization_id uuid not null references organization (id),
    kind            text collate "C" not null check (kind in ('organization', 'domain', 'account', 'no-account')),
    subject         text collate "C" not null,
    level           text collate "C" not null check (level in ('near', 'beyond', 'stopped')),
    noticed_at      timestamptz not null,
    primary key (organization_id, kind, subject, level)
);
alter table limit_notice enable row level security, force row level security;
create policy owner on limit_notice to current_user using (true) with check (true);
create policy web on limit_notice for select to outgate_web using (organization_id = (select current_organization()));
create policy relay on limit_notice to outgate_relay using (true) with check (true);
grant select on limit_notice to outgate_web;
grant select, insert, update, delete on limit_notice to outgate_relay;
