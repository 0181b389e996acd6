-- A page of accounts in one statement, and a search that costs less than the page around it.

-- Sets the organization of this transaction, which is the statement's own where no other was begun, and returns it.
-- Whoever reads from tables of a tenant in the same statement asks them for what is returned, in subqueries that stay
-- where they stand (offset 0), so that row level security knows the organization by then; else it shows nothing.
create function in_organization(organization uuid) returns uuid
    language plpgsql
    as $$
    begin
        perform set_config('outgate.organization', organization::text, true);
        return organization;
    end
    $$;
revoke execute on function in_organization(uuid) from public;
grant execute on function in_organization(uuid) to outgate_web;

-- As before: three pieces that are likely to be rare. In a loop, and with an end where a part is long: as a query it
-- took longer than to find the accounts.
create or replace function search_query(organization uuid, part text) returns tsquery
    language plpgsql immutable strict parallel safe
    as $$
    declare
        searched text := case when strpos(part, '@') > 3 then left(part, strpos(part, '@')) else part end;
        shortest integer := least(4, char_length(searched));
        mark     text := '''' || right(organization::text, 8);
        past     text := case when shortest < 4 then ''':*' else '''' end;
        piece    text;
        common   integer;
        pieces   text[] := array['', '', ''];
        -- How many of the letters that most names have are in each of these.
        commons  integer[] := array[9, 9, 9];
        quoted   text[] := '{}';
    begin
        for at in reverse least(40, 1 + char_length(searched) - shortest)..1 loop
            piece := substr(searched, at, 4);
            common := char_length(translate(piece, 'jqxzwvkypbfug0123456789@', ''));
            if common < commons[1] then
                commons := array[common, commons[1], commons[2]];
                pieces := array[piece, pieces[1], pieces[2]];
            elsif common < commons[2] then
                commons := array[commons[1], common, commons[2]];
                pieces := array[pieces[1], piece, pieces[2]];
            elsif common < commons[3] then
                commons[3] := common;
                pieces[3] := piece;
            end if;
            exit when commons[3] = 0;
        end loop;
        for at in 1..3 loop
            if commons[at] < 9 then
                quoted[at] := mark || replace(replace(pieces[at], '\', '\\'), '''', '''''') || past;
            end if;
        end loop;
        return array_to_string(quoted, ' & ')::tsquery;
    end
    $$;

-- The settings of the search are made once, by the function that is called from outside: each costs what a look
-- into an index does.
alter function find_beginning(uuid, text, text, boolean, boolean, integer) reset all;
alter function find_next(uuid, text, text, text, boolean, integer) reset all;
alter function find_by_piece(uuid, text, text, tsquery, text, boolean, boolean, integer, integer) reset all;
alter function is_long_and_no_domain(uuid, text) reset all;
-- Planned for each call: how far to look decides which index is read.
alter function find_near(uuid, text, text, text, boolean, boolean, integer, integer) reset search_path;
alter function find_near(uuid, text, text, text, boolean, boolean, integer, integer) set plan_cache_mode = force_custom_plan;

-- As before, for an organization that is given, which has to be the transaction's.
create function find_accounts(
        organization uuid, part text, address text, cursor_id text, backwards boolean, own boolean, most integer)
    returns table (account_id uuid)
    language plpgsql stable security definer set search_path = pg_catalog, public, pg_temp
    set plan_cache_mode = force_generic_plan set max_parallel_workers_per_gather = 0 set jit = off
    as $$
    declare
        pieces    tsquery;
        beginning uuid[] := '{}';
        found     uuid[] := '{}';
        -- How many accounts are looked through one by one, and how many that have the pieces are sorted.
        reach     integer := 2000;
        sorted    integer := 6000;
        hits      bigint;
        by_piece  record;
    begin
        if organization is distinct from public.current_organization() then
            return;
        end if;
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
            if not public.is_long_and_no_domain(organization, address) then
                found := public.find_next(organization, part, address, cursor_id, backwards, most);
                if cardinality(found) >= 4 then
                    reach := 26000;
                    sorted := null;
                end if;
            end if;
        end if;
        loop
            if reach > 0 and (own or cardinality(found) < most) then
                found := public.find_near(organization, part, address, cursor_id, backwards, own, most, reach);
            end if;
            exit when cardinality(found) = most;
            by_piece := public.find_by_piece(organization, part, address, pieces, cursor_id, backwards, own, most, sorted);
            found := by_piece.accounts;
            hits := by_piece.hits;
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
revoke execute on function find_accounts(uuid, text, text, text, boolean, boolean, integer) from public;
grant execute on function find_accounts(uuid, text, text, text, boolean, boolean, integer) to outgate_web;

-- For pages of the version before, as long as they run beside the new ones.
create or replace function find_accounts(part text, address text, cursor_id text, backwards boolean, own boolean, most integer)
    returns table (account_id uuid)
    language sql stable
    as $$ select find_accounts(current_organization(), part, address, cursor_id, backwards, own, most) $$;
