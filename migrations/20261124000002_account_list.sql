-- The list of accounts at any size: totals that are kept instead of counted, orders and filters that are read
-- from an index, and a search by any part of a name or address. Triggers keep all of it, statement by statement
-- and with the rights of who writes, so that no writer has to remember it.

-- How many accounts there are, as the sum of the rows of an organization and mail domain. Every statement adds a
-- row of its own and takes up those that nobody else holds: a counter that all writers share would make them wait
-- for each other, and an import would stop every save for as long as it takes.
create table account_count (
    organization_id  uuid not null,
    domain           text collate "C" not null,
    part             bigint not null generated always as identity,
    accounts         bigint not null,
    suspended        bigint not null,
    -- Active accounts with a gateway of their own.
    with_own_gateway bigint not null,
    primary key (organization_id, domain, part),
    foreign key (organization_id, domain) references mail_domain (organization_id, name) on delete cascade
);

-- What is searched: the name and all addresses of an account in lower case, one a line.
create table mail_account_search (
    organization_id uuid not null,
    account_id      uuid not null,
    user_id         text collate "C" not null,
    haystack        text collate "C" not null,
    -- The same where it fits into an index, which is nearly always: what is looked through one by one is read from there.
    short           text collate "C" generated always as (case when octet_length(haystack) <= 500 then haystack end) stored,
    primary key (organization_id, account_id),
    foreign key (organization_id, account_id) references mail_account (organization_id, id) on delete cascade
);

do $$
declare
    tenant_table text;
begin
    foreach tenant_table in array array['account_count', 'mail_account_search'] loop
        execute format('alter table %I enable row level security, force row level security', tenant_table);
        execute format('create policy owner on %I to current_user using (true) with check (true)', tenant_table);
        execute format('create policy web on %I to outgate_web using (organization_id = (select current_organization()))'
                       ' with check (organization_id = (select current_organization()))', tenant_table);
        execute format('grant select, insert, update, delete on %I to outgate_web', tenant_table);
    end loop;
end
$$;

-- Adds what a statement did to the counts. Old and new rows are set against each other by grouping, never by a
-- join: its plan, once made for one row, would be kept for a hundred thousand.
create function account_count_follow() returns trigger
    language plpgsql set search_path = pg_catalog, public, pg_temp
    as $$
    declare
        done public.account_count[];
    begin
        if tg_op = 'INSERT' then
            done := array(
                select row(organization_id, domain, 0, count(*), count(*) filter (where status = 'suspended'),
                           count(*) filter (where status = 'active' and outbound_gateway_id is not null))
                from new_rows group by organization_id, domain);
        elsif tg_op = 'DELETE' then
            done := array(
                select row(organization_id, domain, 0, -count(*), -count(*) filter (where status = 'suspended'),
                           -count(*) filter (where status = 'active' and outbound_gateway_id is not null))
                from old_rows group by organization_id, domain);
        else
            done := array(
                select row(organization_id, domain, 0, sum(step), sum(step * suspended), sum(step * own))
                from (select organization_id, domain, 1 as step, (status = 'suspended')::int as suspended,
                             (status = 'active' and outbound_gateway_id is not null)::int as own from new_rows
                      union all
                      select organization_id, domain, -1, (status = 'suspended')::int,
                             (status = 'active' and outbound_gateway_id is not null)::int from old_rows) step
                group by organization_id, domain
                having sum(step) <> 0 or sum(step * suspended) <> 0 or sum(step * own) <> 0);
        end if;
        if cardinality(done) = 0 then
            return null;
        end if;
        with added as (
            select organization_id, domain, accounts, suspended, with_own_gateway from unnest(done)
        ), taken_up as (
            delete from public.account_count c
            where (c.organization_id, c.domain, c.part) in (
                select free.organization_id, free.domain, free.part
                from public.account_count free join added using (organization_id, domain)
                for update of free skip locked)
            returning c.organization_id, c.domain, c.accounts, c.suspended, c.with_own_gateway
        )
        insert into public.account_count (organization_id, domain, accounts, suspended, with_own_gateway)
        select organization_id, domain, sum(accounts), sum(suspended), sum(with_own_gateway)
        from (select * from added union all select * from taken_up) parts
        group by organization_id, domain;
        return null;
    end
    $$;

create trigger account_count_insert after insert on mail_account
    referencing new table as new_rows for each statement execute function account_count_follow();
create trigger account_count_update after update on mail_account
    referencing old table as old_rows new table as new_rows for each statement execute function account_count_follow();
create trigger account_count_delete after delete on mail_account
    referencing old table as old_rows for each statement execute function account_count_follow();

insert into account_count (organization_id, domain, accounts, suspended, with_own_gateway)
select organization_id, domain, count(*), count(*) filter (where status = 'suspended'),
       count(*) filter (where status = 'active' and outbound_gateway_id is not null)
from mail_account group by organization_id, domain;

-- Orders and filters of the list. A function is not leakproof, so that no index on lower(name) would be used
-- behind row level security: the name in the form that is sorted by is a column.
alter table mail_account add column sort_name text collate "C" not null generated always as (lower(name)) stored;
create index mail_account_by_name on mail_account (organization_id, sort_name, user_id);
create index mail_account_with_gateway on mail_account (organization_id, user_id) where outbound_gateway_id is not null;
create index mail_account_with_gateway_by_name on mail_account (organization_id, sort_name, user_id)
    where outbound_gateway_id is not null;
create index queued_message_in_trouble on queued_message (organization_id, sender)
    where state = 'held' or (state = 'waiting' and last_reply is not null);

-- Mail that is held, or that waits for a gateway which did not take it, and whose it is.
create view mail_in_trouble with (security_invoker = true) as
    select message.organization_id, address.account_id, message.state
    from queued_message message
    join mail_address address on address.organization_id = message.organization_id and address.address = message.sender
    where message.state = 'held' or (message.state = 'waiting' and message.last_reply is not null);
grant select on mail_in_trouble to outgate_web;

-- Every piece of three characters of a text, and the shorter ones at its end, each behind a mark of its
-- organization. So a part of three or more characters is found by its pieces, a shorter one by their beginnings.
create function search_pieces(organization uuid, searched text) returns tsvector
    language plpgsql immutable strict parallel safe cost 10000000
    as $$
    declare
        mark  text := right(organization::text, 8);
        chars text[] := string_to_array(searched, null);
        found text[] := '{}';
    begin
        for i in 1..cardinality(chars) loop
            found[i] := mark || chars[i] || coalesce(chars[i + 1], '') || coalesce(chars[i + 2], '');
        end loop;
        return array_to_tsvector(found);
    end
    $$;

-- What a text must have among its pieces for this part to be in it.
create function search_query(organization uuid, part text) returns tsquery
    language sql immutable strict parallel safe
    as $$
        select string_agg(
            '''' || replace(replace(right(organization::text, 8) || substr(part, at, 3), '\', '\\'), '''', '''''')
                 || case when char_length(part) < 3 then ''':*' else '''' end, ' & ')::tsquery
        from generate_series(1, greatest(1, char_length(part) - 2)) at
    $$;

-- What waits to be sorted into the index is read by every search, hence the small limit (in kB).
create index mail_account_search_by_piece on mail_account_search
    using gin (search_pieces(organization_id, haystack)) with (gin_pending_list_limit = 256);
create index mail_account_search_by_user_id on mail_account_search (organization_id, user_id) include (account_id, short);

-- Writes anew what is searched of these accounts. One without any address is about to get its first. What is
-- there is locked before the rest is read, so that of two who add an address at once the second sees the first's.
-- Each account is looked up by its key, planned for whichever organization: statistics that do not know yet how an
-- organization has just grown would make of it a join of all its accounts with all its accounts.
create function mail_account_search_write(organization uuid, accounts uuid[]) returns void
    language plpgsql set search_path = pg_catalog, public, pg_temp set plan_cache_mode = force_generic_plan
    as $$
    begin
        perform from public.mail_account_search s
            where s.organization_id = organization and s.account_id = any (accounts) order by s.account_id for update;
        insert into public.mail_account_search (organization_id, account_id, user_id, haystack)
        select organization, touched.id, account.user_id, account.sort_name || e'\n' || addresses.lines
        from unnest(accounts) as touched (id)
        cross join lateral (
            select user_id, sort_name from public.mail_account
            where organization_id = organization and id = touched.id offset 0) account
        cross join lateral (
            select string_agg(address, e'\n' order by address) as lines from public.mail_address
            where organization_id = organization and account_id = touched.id) addresses
        where addresses.lines is not null
        on conflict (organization_id, account_id) do update
            set user_id = excluded.user_id, haystack = excluded.haystack
            where (mail_account_search.user_id, mail_account_search.haystack) <> (excluded.user_id, excluded.haystack);
    end
    $$;

-- A change of anything but User ID and name leaves nothing to write.
create function mail_account_search_follow() returns trigger
    language plpgsql set search_path = pg_catalog, public, pg_temp
    as $$
    begin
        perform public.mail_account_search_write(organization_id, array_agg(id))
        from (select organization_id, id, user_id, sort_name from new_rows
              except
              select organization_id, id, user_id, sort_name from old_rows) changed
        group by organization_id;
        return null;
    end
    $$;

create function mail_address_search_follow() returns trigger
    language plpgsql set search_path = pg_catalog, public, pg_temp
    as $$
    begin
        if tg_op <> 'DELETE' then
            perform public.mail_account_search_write(organization_id, array_agg(distinct account_id))
            from new_rows group by organization_id;
        end if;
        if tg_op <> 'INSERT' then
            perform public.mail_account_search_write(organization_id, array_agg(distinct account_id))
            from old_rows group by organization_id;
        end if;
        return null;
    end
    $$;

create trigger mail_account_search_update after update on mail_account
    referencing old table as old_rows new table as new_rows for each statement execute function mail_account_search_follow();
create trigger mail_account_search_insert after insert on mail_address
    referencing new table as new_rows for each statement execute function mail_address_search_follow();
create trigger mail_account_search_update after update on mail_address
    referencing old table as old_rows new table as new_rows for each statement execute function mail_address_search_follow();
create trigger mail_account_search_delete after delete on mail_address
    referencing old table as old_rows for each statement execute function mail_address_search_follow();

insert into mail_account_search (organization_id, account_id, user_id, haystack)
select account.organization_id, account.id, account.user_id,
       account.sort_name || e'\n' || string_agg(a.address, e'\n' order by a.address)
from mail_account account
join mail_address a on a.organization_id = account.organization_id and a.account_id = account.id
group by account.organization_id, account.id;

-- The three functions below find accounts by a part of their name or addresses; `address` is the part as it would
-- stand in an address. They give the ones that come next behind a User ID, or before it.

-- Those whose User ID begins with the part: a range of User IDs. The last code point there is ends it.
create function find_beginning(organization uuid, address text, cursor_id text, backwards boolean, own boolean, most integer)
    returns uuid[]
    language plpgsql stable set search_path = pg_catalog, public, pg_temp set plan_cache_mode = force_generic_plan
    as $$
    declare
        past text := address || chr(1114111);
    begin
        if backwards then
            return array(
                select a.id from public.mail_account a
                where a.organization_id = organization and a.user_id >= address and a.user_id < least(cursor_id, past)
                  and (not own or a.outbound_gateway_id is not null)
                order by a.user_id desc limit most);
        end if;
        return array(
            select a.id from public.mail_account a
            where a.organization_id = organization and a.user_id > cursor_id and a.user_id >= address and a.user_id < past
              and (not own or a.outbound_gateway_id is not null)
            order by a.user_id limit most);
    end
    $$;

-- The others that have it, among the `reach` accounts that come next.
create function find_near(
        organization uuid, part text, address text, cursor_id text, backwards boolean, own boolean, most integer, reach integer)
    returns uuid[]
    language plpgsql stable set search_path = pg_catalog, public, pg_temp
    as $$
    begin
        if own and backwards then
            return array(
                select near.id
                from (select a.id, a.user_id from public.mail_account a
                      where a.organization_id = organization and a.outbound_gateway_id is not null and a.user_id < cursor_id
                      order by a.user_id desc limit reach) near
                join public.mail_account_search s on s.organization_id = organization and s.account_id = near.id
                where (strpos(s.haystack, part) > 0 or strpos(s.haystack, address) > 0)
                  and not starts_with(near.user_id, address)
                order by near.user_id desc limit most);
        elsif own then
            return array(
                select near.id
                from (select a.id, a.user_id from public.mail_account a
                      where a.organization_id = organization and a.outbound_gateway_id is not null and a.user_id > cursor_id
                      order by a.user_id limit reach) near
                join public.mail_account_search s on s.organization_id = organization and s.account_id = near.id
                where (strpos(s.haystack, part) > 0 or strpos(s.haystack, address) > 0)
                  and not starts_with(near.user_id, address)
                order by near.user_id limit most);
        elsif backwards then
            return array(
                select near.account_id
                from (select s.account_id, s.user_id, s.short from public.mail_account_search s
                      where s.organization_id = organization and s.user_id < cursor_id
                      order by s.user_id desc limit reach) near
                where case when near.short is not null
                           then strpos(near.short, part) > 0 or address <> part and strpos(near.short, address) > 0
                           else exists (select from public.mail_account_search s
                                        where s.organization_id = organization and s.account_id = near.account_id
                                          and (strpos(s.haystack, part) > 0 or strpos(s.haystack, address) > 0)) end
                  and not starts_with(near.user_id, address)
                order by near.user_id desc limit most);
        end if;
        return array(
            select near.account_id
            from (select s.account_id, s.user_id, s.short from public.mail_account_search s
                  where s.organization_id = organization and s.user_id > cursor_id
                  order by s.user_id limit reach) near
            where case when near.short is not null
                       then strpos(near.short, part) > 0 or address <> part and strpos(near.short, address) > 0
                       else exists (select from public.mail_account_search s
                                    where s.organization_id = organization and s.account_id = near.account_id
                                      and (strpos(s.haystack, part) > 0 or strpos(s.haystack, address) > 0)) end
              and not starts_with(near.user_id, address)
            order by near.user_id limit most);
    end
    $$;

-- The same among the few that come next, which costs next to nothing: what most have is found here, and how often it
-- is found here says how to look for the rest. Planned once: so few are always read from the index.
create function find_next(organization uuid, part text, address text, cursor_id text, backwards boolean, most integer)
    returns uuid[]
    language plpgsql stable set search_path = pg_catalog, public, pg_temp set plan_cache_mode = force_generic_plan
    as $$
    begin
        if backwards then
            return array(
                select near.account_id
                from (select s.account_id, s.user_id, s.short from public.mail_account_search s
                      where s.organization_id = organization and s.user_id < cursor_id
                      order by s.user_id desc limit 250) near
                where case when near.short is not null
                           then strpos(near.short, part) > 0 or strpos(near.short, address) > 0
                           else exists (select from public.mail_account_search s
                                        where s.organization_id = organization and s.account_id = near.account_id
                                          and (strpos(s.haystack, part) > 0 or strpos(s.haystack, address) > 0)) end
                  and not starts_with(near.user_id, address)
                order by near.user_id desc limit most);
        end if;
        return array(
            select near.account_id
            from (select s.account_id, s.user_id, s.short from public.mail_account_search s
                  where s.organization_id = organization and s.user_id > cursor_id
                  order by s.user_id limit 250) near
            where case when near.short is not null
                       then strpos(near.short, part) > 0 or strpos(near.short, address) > 0
                       else exists (select from public.mail_account_search s
                                    where s.organization_id = organization and s.account_id = near.account_id
                                      and (strpos(s.haystack, part) > 0 or strpos(s.haystack, address) > 0)) end
              and not starts_with(near.user_id, address)
            order by near.user_id limit most);
    end
    $$;

-- The accounts of the transaction's organization that have the part: first those whose User ID begins with it, then
-- the others, each in the order of their User IDs.
-- It runs as the owner, since behind row level security no index on pieces is used, and so asks for the organization
-- itself. Most parts are soon found in the accounts that come next; a rare one is looked up by its pieces. Planned
-- for each call: how far to look decides which index is read.
create function find_accounts(part text, address text, cursor_id text, backwards boolean, own boolean, most integer)
    returns table (account_id uuid)
    language plpgsql stable security definer set search_path = pg_catalog, public, pg_temp
    set plan_cache_mode = force_custom_plan set max_parallel_workers_per_gather = 0 set jit = off
    as $$
    declare
        organization uuid := public.current_organization();
        pieces       tsquery;
        beginning    uuid[] := '{}';
        found        uuid[];
        -- How many accounts are looked through one by one, and how many that have the pieces are sorted.
        reach        integer := 2000;
        sorted       integer := 6000;
        hits         bigint;
    begin
        part := lower(part);
        if cursor_id = '' or starts_with(cursor_id, address) then
            beginning := public.find_beginning(organization, address, cursor_id, backwards, own, most);
            if backwards or cardinality(beginning) = most then
                return query select unnest(beginning);
                return;
            end if;
            cursor_id := '';
            most := most - cardinality(beginning);
        end if;
        pieces := public.search_query(organization, part);
        if address <> part then
            pieces := pieces || public.search_query(organization, address);
        end if;
        if not own then
            reach := 0;
            found := public.find_next(organization, part, address, cursor_id, backwards, most);
            if cardinality(found) >= 4 then
                reach := 26000;
                sorted := null;
            end if;
        end if;
        loop
            if reach > 0 and (own or cardinality(found) < most) then
                found := public.find_near(organization, part, address, cursor_id, backwards, own, most, reach);
            end if;
            exit when cardinality(found) = most;
            -- The organization is asked for outside: with the pieces it would be looked up in an index of its own.
            with hit as materialized (
                select s.organization_id, s.account_id, s.user_id from public.mail_account_search s
                where search_pieces(s.organization_id, s.haystack) @@ pieces
                  and (strpos(s.haystack, part) > 0 or strpos(s.haystack, address) > 0)
                  and not starts_with(s.user_id, address)
                  and case when backwards then s.user_id < cursor_id else s.user_id > cursor_id end
                limit sorted
            )
            select array(
                       select hit.account_id from hit
                       where hit.organization_id = organization
                         and (not own or exists (
                             select from public.mail_account a
                             where a.organization_id = organization and a.id = hit.account_id
                               and a.outbound_gateway_id is not null))
                       order by case when backwards then hit.user_id end desc, hit.user_id limit most),
                   (select count(*) from hit)
            into found, hits;
            exit when hits is distinct from sorted;
            -- Where many have it, the next ones are soon found one by one, unless all stand far behind.
            reach := 100000;
            sorted := null;
        end loop;
        if backwards and cardinality(found) < most then
            beginning := public.find_beginning(organization, address, chr(1114111), true, own, most - cardinality(found));
            found := found || beginning;
        elsif not backwards then
            found := beginning || found;
        end if;
        return query select unnest(found);
    end
    $$;
revoke execute on function find_beginning(uuid, text, text, boolean, boolean, integer),
    find_next(uuid, text, text, text, boolean, integer),
    find_near(uuid, text, text, text, boolean, boolean, integer, integer),
    find_accounts(text, text, text, boolean, boolean, integer) from public;
grant execute on function find_accounts(text, text, text, boolean, boolean, integer) to outgate_web;
