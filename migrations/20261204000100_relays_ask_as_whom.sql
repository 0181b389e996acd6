-- Relays ask a gateway that refuses a recipient whether it takes our mail at all, as a verification would.
grant execute on function probe_sender_of(uuid) to outgate_relay;
