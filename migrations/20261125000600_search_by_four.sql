-- Searching in an organization of a million accounts costs what it costs in one of a thousand, as far as that can
-- be had: pieces of four characters instead of three, of which most are rare, so that what stands with each of them
-- in the index is short. A part of three characters is found by the beginning of a piece, like shorter ones before.

drop index mail_account_search_by_piece;

create or replace function search_pieces(organization uuid, searched text) returns tsvector
    language plpgsql immutable strict parallel safe cost 10000000
    as $$
    declare
        mark  text := right(organization::text, 8);
        chars text[] := string_to_array(searched, null);
        found text[] := '{}';
    begin
        for i in 1..cardinality(chars) loop
            found[i] := mark || chars[i] || coalesce(chars[i + 1], '') || coalesce(chars[i + 2], '')
                             || coalesce(chars[i + 3], '');
        end loop;
        return array_to_tsvector(found);
    end
    $$;

-- What a text must have among its pieces for this part to be in it: three of them, since each is looked up, and what
-- has these is compared anyway. Those that are likely to be rare, with figures and rare letters; of an address not
-- those of the domain, which most accounts have.
create or replace function search_query(organization uuid, part text) returns tsquery
    language sql immutable strict parallel safe
    as $$
        select string_agg(
            '''' || replace(replace(right(organization::text, 8) || piece, '\', '\\'), '''', '''''')
                 || case when char_length(piece) < 4 then ''':*' else '''' end, ' & ')::tsquery
        from (select substr(searched, at, 4) as piece
              from (select case when strpos(part, '@') > 3 then left(part, strpos(part, '@')) else part end) as local (searched),
                   generate_series(1, greatest(1, char_length(searched) - 3)) at
              order by char_length(translate(substr(searched, at, 4), 'jqxzwvkypbfug0123456789@', '')),
                       char_length(translate(substr(searched, at, 4), '0123456789@', '')), at desc
              limit 3) rarest
    $$;

create index mail_account_search_by_piece on mail_account_search
    using gin (search_pieces(organization_id, haystack)) with (gin_pending_list_limit = 256);

-- Those that have all pieces of the part, and how many were looked at, which are at most `sorted`. Planned once: the
-- index of the pieces is the only way, however many there are.
-- The organization is asked for outside: with the pieces it would be looked up in an index of its own.
create function find_by_piece(
        organization uuid, part text, address text, pieces tsquery, cursor_id text, backwards boolean, own boolean,
        most integer, sorted integer, out accounts uuid[], out hits bigint)
    language plpgsql stable set search_path = pg_catalog, public, pg_temp set plan_cache_mode = force_generic_plan
    as $$
    begin
        with hit as materialized (
            select s.organization_id, s.account_id, s.user_id from public.mail_account_search s
            where search_pieces(s.organization_id, s.haystack) @@ pieces
              and (strpos(s.haystack, part) > 0 or address <> part and strpos(s.haystack, address) > 0)
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
        into accounts, hits;
    end
    $$;

-- As before, but a long part is taken to be rare at once, unless it stands in a mail domain, which very many
-- addresses have: the accounts that come next need not be looked through to know it.
create or replace function find_accounts(part text, address text, cursor_id text, backwards boolean, own boolean, most integer)
    returns table (account_id uuid)
    language plpgsql stable security definer set search_path = pg_catalog, public, pg_temp
    set plan_cache_mode = force_custom_plan set max_parallel_workers_per_gather = 0 set jit = off
    as $$
    declare
        organization uuid := public.current_organization();
        pieces       tsquery;
        beginning    uuid[] := '{}';
        found        uuid[] := '{}';
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
            select by_piece.accounts, by_piece.hits into found, hits
            from public.find_by_piece(organization, part, address, pieces, cursor_id, backwards, own, most, sorted) by_piece;
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

-- Of an address what stands before its domain.
create function is_long_and_no_domain(organization uuid, address text) returns boolean
    language plpgsql stable set search_path = pg_catalog, public, pg_temp set plan_cache_mode = force_generic_plan
    as $$
    begin
        return char_length(split_part(address, '@', 1)) >= 12
           and not exists (select from public.mail_domain d
                           where d.organization_id = organization and strpos(d.name, address) > 0);
    end
    $$;

revoke execute on function find_by_piece(uuid, text, text, tsquery, text, boolean, boolean, integer, integer),
    is_long_and_no_domain(uuid, text) from public;
