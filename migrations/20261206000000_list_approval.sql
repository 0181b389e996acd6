-- Messages to a distribution list may need an administrator's approval: nobody's, those of all but the senders that are
-- named for it, or everybody's. They are held as any mail that needs approval is, so a relay of the former version keeps
-- what waits, and carries out what an administrator decides about it. But it does not ask for approval itself: so a list
-- gets this only while no such relay is at work, which shows from when each has signed on.
alter table distribution_list add column approval text not null default 'nobody'
    check (approval in ('nobody', 'others', 'everybody'));
grant update (approval) on distribution_list to outgate_web;

-- The start of the last relay of this name that knows of it: another than started_at where one of the former version has
-- signed on since.
alter table relay add column approving_since timestamptz;

-- Administrators are told that mail waits for approval, and not of each message: when they were told last is here, so
-- that of several relays one tells.
create table approval_notice (
    organization_id uuid primary key references organization (id),
    noticed_at      timestamptz not null
);
alter table approval_notice enable row level security, force row level security;
create policy owner on approval_notice to current_user using (true) with check (true);
create policy web on approval_notice for select to outgate_web using (organization_id = (select current_organization()));
create policy relay on approval_notice to outgate_relay using (true) with check (true);
grant select on approval_notice to outgate_web;
grant select, insert, update on approval_notice to outgate_relay;
create index queued_message_to_approve on queued_message (organization_id, accepted_at)
    where held_because = 'needs-approval';
