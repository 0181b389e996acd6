-- Whom verifications come from: some gateways take mail from a few addresses only. Null: the postmaster of the
-- organization's shortest mail domain, as before.
alter table organization add column probe_sender text collate "C";
grant update (probe_sender) on organization to outgate_web;

-- An address of a domain that was taken away since is not used any more. Null if there is no mail domain at all.
create function probe_sender_of(organization uuid) returns text
    language sql stable
    as $$
    select coalesce(
        (select probe_sender from organization chosen
         where chosen.id = $1 and exists (
             select from mail_domain
             where organization_id = $1 and name = regexp_replace(chosen.probe_sender, '^.*@', ''))),
        (select 'postmaster@' || name from mail_domain where organization_id = $1 order by length(name), name limit 1))
    $$;
revoke execute on function probe_sender_of(uuid) from public;
grant execute on function probe_sender_of(uuid) to outgate_web;
