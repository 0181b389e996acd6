-- A gateway that replaces one which works goes live when it has passed its verification. Until then it stands beside
-- the pointer that relays follow, for the organization or for one mail domain.

alter table organization
    -- When a saved gateway goes live: at once, once verified where it replaces one that works, or always once verified.
    add column verify_before_live text not null default 'replacing'
        check (verify_before_live in ('never', 'replacing', 'always')),
    add column pending_gateway_id uuid,
    add column pending_since timestamptz,
    add constraint organization_pending_gateway
        foreign key (id, pending_gateway_id) references gateway (organization_id, id),
    add constraint organization_pending_since check ((pending_gateway_id is null) = (pending_since is null));
-- What relays ask of an organization without a gateway: one that is not verified yet is not gone around either.
alter table organization
    add column holds_without_gateway boolean not null
        generated always as (must_use_gateway or (outbound_gateway_id is null and pending_gateway_id is not null)) stored;

alter table mail_domain
    add column pending_gateway_id uuid,
    add column pending_since timestamptz,
    add constraint mail_domain_pending_gateway
        foreign key (organization_id, pending_gateway_id) references gateway (organization_id, id),
    add constraint mail_domain_pending_since check ((pending_gateway_id is null) = (pending_since is null));

create index organization_pending on organization (id) where pending_gateway_id is not null;
create index mail_domain_pending on mail_domain (organization_id, pending_gateway_id) where pending_gateway_id is not null;

-- Whoever moves the pointer that is followed, the former version of the program too, has decided anew: what was
-- pending is no longer wanted. A verification counts that was asked for since the gateway is pending.
create function pending_gateway_follows() returns trigger
    language plpgsql set search_path = pg_catalog, public, pg_temp
    as $$
    begin
        if new.outbound_gateway_id is distinct from old.outbound_gateway_id
           and new.pending_gateway_id is not distinct from old.pending_gateway_id then
            new.pending_gateway_id := null;
        end if;
        if new.pending_gateway_id is null then
            new.pending_since := null;
        elsif new.pending_gateway_id is distinct from old.pending_gateway_id then
            new.pending_since := now();
        end if;
        return new;
    end
    $$;
create trigger pending_gateway_follows before update of outbound_gateway_id, pending_gateway_id on organization
    for each row execute function pending_gateway_follows();
create trigger pending_gateway_follows before update of outbound_gateway_id, pending_gateway_id on mail_domain
    for each row execute function pending_gateway_follows();

grant update (verify_before_live, pending_gateway_id) on organization to outgate_web;
grant update (pending_gateway_id) on mail_domain to outgate_web;

-- Whom the pages look after when nobody has one open: which organizations have a gateway that is pending, and no more.
create function organizations_with_pending_gateway() returns setof uuid
    language sql stable security definer set search_path = pg_catalog, public, pg_temp
    as $$
    select id from public.organization where pending_gateway_id is not null
    union
    select organization_id from public.mail_domain where pending_gateway_id is not null
    $$;
revoke execute on function organizations_with_pending_gateway() from public;
grant execute on function organizations_with_pending_gateway() to outgate_web;
