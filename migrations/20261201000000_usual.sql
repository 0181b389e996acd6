-- Limits that go by what somebody usually sends in an hour at that time of the week, and for one message: beyond one it
-- is refused, beyond the other an administrator has to approve it. Counts of accounts for relays, which a limit of the
-- platform depends on.
alter table sending_limit drop constraint sending_limit_time_window_check;
alter table sending_limit add constraint sending_limit_time_window_check
    check (time_window in ('minute', 'hour', 'usual', 'day', 'approval', 'message'));
alter table sending_limit add constraint sending_limit_one_message_check
    check (time_window not in ('approval', 'message') or (whose <> 'total' and unit <> 'messages'));
alter table throttle drop constraint throttle_time_window_check;
alter table throttle add constraint throttle_time_window_check
    check (time_window in ('minute', 'hour', 'usual', 'day'));

create policy relay on account_count for select to outgate_relay using (true);
grant select on account_count to outgate_relay;

alter table queued_message drop constraint queued_message_held_because_check;
alter table queued_message add constraint queued_message_held_because_check
    check (held_because in ('gateway-taken-away', 'no-gateway', 'account-suspended', 'account-removed',
                            'domain-removed', 'organization-suspended', 'over-limit', 'sender-blocked',
                            'needs-approval'));
