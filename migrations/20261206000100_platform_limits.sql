-- What the operator has set of the platform's own limits, in place of the figures that are built in. Relays hear of it by
-- the revision that it was changed with; those of the former version go on with what is built in.
create table platform_limit (
    whose       text collate "C" not null check (whose in ('each', 'service', 'total')),
    time_window text collate "C" not null,
    unit        text collate "C" not null check (unit in ('messages', 'recipients', 'external')),
    -- null: as many as one likes.
    most        integer check (most between 1 and 100000000),
    action      text collate "C" not null check (action in ('alert', 'delay', 'hold', 'defer', 'refuse')),
    primary key (whose, time_window, unit)
);
alter table platform_limit enable row level security, force row level security;
create policy owner on platform_limit to current_user using (true) with check (true);
create policy web on platform_limit for select to outgate_web using (true);
create policy relay on platform_limit for select to outgate_relay using (true);
grant select on platform_limit to outgate_web, outgate_relay;

alter table installation add column platform_limits_revision bigint not null default 0;
