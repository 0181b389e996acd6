-- How much mail each organization, mail domain and account sends: counted by the relays when the end of DATA is
-- accepted, added up here about once a second. A day is kept by minute, for what is limited within minutes; two years
-- are kept by hour, for pages. Both are written together, so that nothing has to be added up later.
--
-- What an account sent stays when it is deleted, without its name: an account that is brought back by Undo has the same
-- id, and with it its counts. So there is no key to accounts and domains.
create table volume_minute (
    organization_id uuid not null references organization (id),
    -- 'no-account': senders of a mail domain that no account has, together.
    kind            text collate "C" not null check (kind in ('organization', 'domain', 'account', 'no-account')),
    -- The id of an account, the name of a mail domain, '' for the organization.
    subject         text collate "C" not null,
    -- When it begins.
    minute          timestamptz not null,
    messages        bigint not null,
    recipients      bigint not null,
    -- Whose domain is not one of the organization's.
    external        bigint not null,
    primary key (organization_id, kind, subject, minute)
) with (fillfactor = 70);
-- For forgetting the oldest.
create index volume_minute_by_time on volume_minute (organization_id, minute);

create table volume_hour (
    organization_id uuid not null references organization (id),
    kind            text collate "C" not null check (kind in ('organization', 'domain', 'account', 'no-account')),
    subject         text collate "C" not null,
    hour            timestamptz not null,
    messages        bigint not null,
    recipients      bigint not null,
    external        bigint not null,
    primary key (organization_id, kind, subject, hour)
) with (fillfactor = 70);
-- For who sent most in a period, and for forgetting the oldest.
create index volume_hour_by_time on volume_hour (organization_id, hour, kind);

do $$
declare
    tenant_table text;
begin
    foreach tenant_table in array array['volume_minute', 'volume_hour'] loop
        execute format('alter table %I enable row level security, force row level security', tenant_table);
        execute format('create policy owner on %I to current_user using (true) with check (true)', tenant_table);
        execute format('create policy web on %I for select to outgate_web'
                       ' using (organization_id = (select current_organization()))', tenant_table);
        execute format('create policy relay on %I to outgate_relay using (true) with check (true)', tenant_table);
    end loop;
end
$$;
grant select on volume_minute, volume_hour to outgate_web;
grant select, insert, update, delete on volume_minute, volume_hour to outgate_relay;

-- Installation-wide: which counts a relay has written last. When the answer to a COMMIT is lost it looks here before
-- it writes them again, so that nothing counts twice.
create table volume_batch (
    relay_id uuid primary key references relay (id) on delete cascade,
    batch    uuid not null
);
alter table volume_batch enable row level security, force row level security;
create policy owner on volume_batch to current_user using (true) with check (true);
create policy relay on volume_batch to outgate_relay using (true) with check (true);
grant select, insert, update, delete on volume_batch to outgate_relay;
