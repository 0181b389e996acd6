-- Every page says that a gateway is failing of which administrators were told; so what every page asks first says it
-- too. The former function stays for pages of the version before.

-- Told of, and still seen to fail by a relay that runs: a gateway that nobody uses any more is not. Without a notice,
-- which is nearly always, nothing else is looked at.
create function failing_gateways(of_organization uuid)
    returns table (gateways bigint, address text)
    language plpgsql stable set search_path = pg_catalog, public, pg_temp
    as $$
    begin
        if not exists (select from public.gateway_notice told where told.organization_id = of_organization) then
            return query select 0::bigint, null::text;
            return;
        end if;
        return query
            select count(*), min(gateway.address)
            from public.gateway_notice told
            join public.gateway on gateway.organization_id = of_organization and gateway.id = told.gateway_id
            where told.organization_id = of_organization
              and exists (select from public.gateway_health seen
                          join public.relay on relay.id = seen.relay_id and relay.signed_off_at is null
                                   and relay.last_seen_at > now() - interval '60 seconds'
                          where seen.organization_id = of_organization and seen.gateway_id = told.gateway_id
                            and seen.revision = gateway.revision and seen.failing_since is not null);
    end
    $$;
revoke execute on function failing_gateways(uuid) from public;

create function signed_in_and_failing(session_hash bytea)
    returns table (administrator_id uuid, email text, organization_id uuid, slug text, name text,
                   organization_status text, role text, stale boolean, failing bigint, failing_address text)
    language plpgsql stable security definer set search_path = pg_catalog, public, pg_temp
    as $$
    begin
        return query
            select a.id, a.email, o.id, o.slug, o.name, o.status, r.role, s.touched_at < now() - interval '1 minute',
                   trouble.gateways, trouble.address
            from public.session s
            join public.administrator a on a.id = s.administrator_id
            join public.administrator_role r on r.administrator_id = a.id
            join public.organization o on o.id = r.organization_id
            cross join lateral public.failing_gateways(o.id) trouble
            where s.id_hash = session_hash and s.expires_at > now() and s.touched_at > now() - interval '30 minutes'
              and a.status = 'active'
            order by o.name, o.slug;
    end
    $$;

revoke execute on function signed_in_and_failing(bytea) from public;
grant execute on function signed_in_and_failing(bytea) to outgate_web;
