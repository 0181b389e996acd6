-- Who a session belongs to and what they may see, in one look: every page asks it first. In
-- plpgsql, which keeps the plan; a function in SQL is planned anew each time.

create function signed_in(session_hash bytea)
    returns table (administrator_id uuid, email text, organization_id uuid, slug text, name text,
                   organization_status text, role text, stale boolean)
    language plpgsql stable security definer set search_path = pg_catalog, public, pg_temp
    as $$
    begin
        return query
            select a.id, a.email, o.id, o.slug, o.name, o.status, r.role, s.touched_at < now() - interval '1 minute'
            from public.session s
            join public.administrator a on a.id = s.administrator_id
            join public.administrator_role r on r.administrator_id = a.id
            join public.organization o on o.id = r.organization_id
            where s.id_hash = session_hash and s.expires_at > now() and s.touched_at > now() - interval '30 minutes'
              and a.status = 'active'
            order by o.name, o.slug;
    end
    $$;

revoke execute on function signed_in(bytea) from public;
grant execute on function signed_in(bytea) to outgate_web;
