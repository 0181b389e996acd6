-- Searching for one account among very many costs little more than the page that shows it, and the policies of the
-- small tables that this page reads cost less.

-- As find_accounts before, with the part in lower case, with its pieces where they have been chosen already, and what
-- is found as an array. A long part that stands in no mail domain, which very many addresses have, is likely to be
-- rare: those that begin with it and those that have its pieces are looked up in one statement. Where many have it
-- after all, they are looked for like those of a short one.
create function accounts_found(
        organization uuid, part text, address text, pieces tsquery, cursor_id text, backwards boolean, own boolean,
        most integer)
    returns uuid[]
    language plpgsql stable security definer set search_path = pg_catalog, public, pg_temp
    set plan_cache_mode = force_generic_plan
    as $$
    declare
        beginning uuid[] := '{}';
        found     uuid[] := '{}';
        -- How many accounts are looked through one by one, and how many that have the pieces are sorted.
        reach     integer := 2000;
        sorted    integer := 6000;
        hits      bigint;
        by_piece  record;
    begin
        if organization is distinct from public.current_organization() then
            return '{}';
        end if;
        if pieces is null then
            pieces := public.search_query(organization, part);
        end if;
        if address <> part then
            pieces := pieces || public.search_query(organization, address);
        end if;
        if not own and not backwards and cursor_id = '' and char_length(split_part(address, '@', 1)) >= 12 then
            select start.accounts,
                   case when cardinality(start.accounts) < most
                             and not exists (select from public.mail_domain d
                                             where d.organization_id = organization and strpos(d.name, address) > 0)
                   then array(
                       select hit.account_id
                       from (select s.account_id, s.user_id from public.mail_account_search s
                             where search_pieces(s.organization_id, s.haystack) @@ pieces
                               -- As it is: with the pieces the organization would be looked up in an index of its own.
                               and (s.organization_id = organization) is true
                               and (strpos(s.haystack, part) > 0 or address <> part and strpos(s.haystack, address) > 0)
                               and not starts_with(s.user_id, address)
                             limit 301) hit
                       order by hit.user_id)
                   end
            from (select array(
                      select a.id from public.mail_account a
                      where a.organization_id = organization and a.user_id >= address and a.user_id < address || chr(1114111)
                      order by a.user_id limit most) as accounts
                  offset 0) start
            into beginning, found;
            if cardinality(beginning) = most or cardinality(found) <= 300 then
                return (beginning || found)[1:most];
            end if;
            beginning := '{}';
            found := '{}';
        end if;
        if cursor_id = '' or starts_with(cursor_id, address) then
            beginning := public.find_beginning(organization, address, cursor_id, backwards, own, most);
            if backwards or cardinality(beginning) = most then
                return beginning;
            end if;
            cursor_id := '';
            most := most - cardinality(beginning);
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
        if not backwards then
            return beginning || found;
        end if;
        if cardinality(found) < most then
            beginning := public.find_beginning(organization, address, chr(1114111), true, own, most - cardinality(found));
        end if;
        return found || beginning;
    end
    $$;
revoke execute on function accounts_found(uuid, text, text, tsquery, text, boolean, boolean, integer) from public;
grant execute on function accounts_found(uuid, text, text, tsquery, text, boolean, boolean, integer) to outgate_web;

-- For pages of the versions before, as long as they run beside the new ones.
create or replace function find_accounts(
        organization uuid, part text, address text, cursor_id text, backwards boolean, own boolean, most integer)
    returns table (account_id uuid)
    language sql stable
    as $$ select unnest(accounts_found(organization, lower(part), address, null, cursor_id, backwards, own, most)) $$;

-- Tables with few rows of an organization, of which every page of accounts reads some by their key: without a subquery
-- of its own for each of them the organization becomes part of what is looked up in the index. As before it is asked
-- for once a look; only where a whole table is read, and these are small, it is asked for with every row.
alter policy web on organization using (id = current_organization());
do $$
declare
    tenant_table text;
begin
    foreach tenant_table in array array['mail_domain', 'gateway', 'account_count'] loop
        execute format('alter policy web on %I using (organization_id = current_organization())', tenant_table);
    end loop;
end
$$;
