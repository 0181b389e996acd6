-- A change of the record of a gateway that works, for all users or a mail domain, goes live when the gateway has passed
-- its verification as the change has it. Until then that revision stands beside the one that relays follow.

alter table gateway
    add column pending_revision bigint,
    add column pending_since timestamptz,
    -- By which it was saved.
    add column pending_change_id uuid,
    add constraint gateway_pending_revision
        foreign key (organization_id, id, pending_revision)
        references gateway_revision (organization_id, gateway_id, revision),
    add constraint gateway_pending_since
        check ((pending_revision is null) = (pending_since is null)
               and (pending_revision is null) = (pending_change_id is null));
create index gateway_pending on gateway (organization_id, id) where pending_revision is not null;

-- Whoever changes the revision that is followed, the former version of the program too, has decided anew. A
-- verification counts that was asked for since the change is pending.
create function pending_record_follows() returns trigger
    language plpgsql set search_path = pg_catalog, public, pg_temp
    as $$
    begin
        if new.revision is distinct from old.revision
           and new.pending_revision is not distinct from old.pending_revision then
            new.pending_revision := null;
        end if;
        if new.pending_revision is null then
            new.pending_since := null;
            new.pending_change_id := null;
        elsif new.pending_revision is distinct from old.pending_revision then
            new.pending_since := now();
        end if;
        return new;
    end
    $$;
create trigger pending_record_follows before update of revision, pending_revision on gateway
    for each row execute function pending_record_follows();
grant update (pending_revision, pending_change_id) on gateway to outgate_web;

create or replace function organizations_with_pending_gateway() returns setof uuid
    language sql stable security definer set search_path = pg_catalog, public, pg_temp
    as $$
    select id from public.organization where pending_gateway_id is not null
    union
    select organization_id from public.mail_domain where pending_gateway_id is not null
    union
    select organization_id from public.gateway where pending_revision is not null
    $$;

-- Administrators are told once of such a change, too; its key is the gateway's id.
alter table pending_gateway_notice
    drop constraint pending_gateway_notice_subject_check,
    add constraint pending_gateway_notice_subject_check check (subject in ('organization', 'domain', 'gateway'));

-- What the relays found together: a refusal by one is a refusal; that it accepts was found only if each relay has found
-- it that was running when it was asked and runs still. Null: not all of them have answered.
create function verdict(of_organization uuid, of_verification uuid, asked_at timestamptz) returns boolean
    language sql stable set search_path = pg_catalog, public, pg_temp
    as $$
    select case
        when bool_or(not result.accepts) then false
        when bool_or(result.accepts is null) then null
        when exists (select from public.relay
                     where relay.signed_off_at is null and relay.last_seen_at > now() - interval '60 seconds'
                       and relay.started_at <= asked_at
                       and not exists (select from public.verification_result taken
                                       where taken.organization_id = of_organization
                                         and taken.verification_id = of_verification
                                         and taken.relay_id = relay.id)) then null
        else bool_and(result.accepts)
    end
    from public.verification_result result
    where result.organization_id = of_organization and result.verification_id = of_verification
    $$;
