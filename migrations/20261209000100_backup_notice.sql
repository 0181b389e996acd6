-- A gateway's mail may fall to a backup when administrators know of the trouble already: that is told, too, once
-- an outage.
alter table gateway_notice add column backup_id uuid;
grant update on gateway_notice to outgate_relay;
