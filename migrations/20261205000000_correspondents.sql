-- To whom each account has written of late outside its organization: kept by relays beside the mail, so that one that
-- suddenly writes to many strangers is noticed. Of an address 32 bits of a hash are kept that is another one for each
-- account, with when it was written to first and last; who was not written to for 90 days is forgotten. One row an
-- account, since what is asked is always one account's.
--
-- As with counts of volume there is no key to accounts: one that is brought back by Undo has the same id.
create table correspondents (
    organization_id uuid not null references organization (id),
    account_id      uuid not null,
    -- `policy::correspondents` says how they stand in it; empty: none.
    known           bytea not null default '',
    -- On which day anybody was written to last.
    written_on      date not null default current_date,
    primary key (organization_id, account_id)
) with (fillfactor = 70);
-- For forgetting whole accounts.
create index correspondents_by_day on correspondents (organization_id, written_on);
-- What stands in it looks like chance: to compress it would only take time.
alter table correspondents alter column known set storage external;

alter table correspondents enable row level security, force row level security;
create policy owner on correspondents to current_user using (true) with check (true);
create policy web on correspondents for select to outgate_web
    using (organization_id = (select current_organization()));
create policy relay on correspondents to outgate_relay using (true) with check (true);
grant select on correspondents to outgate_web;
grant select, insert, update, delete on correspondents to outgate_relay;

-- From when on the organization's accounts are compared with whom they have written to: before it is known of nobody.
alter table organization add column correspondents_known_from timestamptz not null default now() + interval '14 days';

alter table sending_limit drop constraint sending_limit_time_window_check;
alter table sending_limit add constraint sending_limit_time_window_check
    check (time_window in ('minute', 'hour', 'usual', 'day', 'first-time', 'approval', 'message'));
alter table sending_limit add constraint sending_limit_first_time_check
    check (time_window <> 'first-time' or (whose <> 'total' and unit = 'external'));
alter table throttle drop constraint throttle_time_window_check;
alter table throttle add constraint throttle_time_window_check
    check (time_window in ('minute', 'hour', 'usual', 'day', 'first-time'));
