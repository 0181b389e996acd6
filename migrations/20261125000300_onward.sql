-- Mail that a gateway has handed back for delivery goes on by the platform's default, whatever points at that
-- gateway: it waits by the platform's scope, for no gateway.
alter table queued_message drop constraint queued_message_waits_by_check;
alter table queued_message add constraint queued_message_waits_by_check
    check (waits_by in ('user', 'domain', 'organization') or (waits_by = 'platform' and waits_for is null));
