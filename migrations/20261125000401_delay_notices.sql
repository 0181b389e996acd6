-- Who was told that mail is late. In an outage a sender gets one notice, not one a message, and no restart and no
-- other relay repeats it.

-- waits_for: the id of the gateway, `held` for mail that waits for an administrator and no gateway, `platform` for
-- the platform's own server. Gone when that has taken mail again.
create table delay_notice (
    organization_id uuid not null references organization (id),
    sender          text collate "C" not null,
    waits_for       text collate "C" not null,
    noticed_at      timestamptz not null,
    primary key (organization_id, sender, waits_for)
);
alter table delay_notice enable row level security, force row level security;
create policy owner on delay_notice to current_user using (true) with check (true);
create policy web on delay_notice for select to outgate_web using (organization_id = (select current_organization()));
create policy relay on delay_notice to outgate_relay using (true) with check (true);
grant select, insert, update, delete on delay_notice to outgate_relay;

-- This message needs no notice any more: its sender was told, or does not want to be.
alter table queued_message add column delay_noticed boolean not null default false;
