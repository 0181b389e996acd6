-- Private networks that the gateways of one organization may be in, besides those that the operator opened to all.
-- Only the operator says which: the pages and the relays read them with the organization's row.
-- A relay of the former version does not know of them, and refuses such a gateway as before: its mail waits.
alter table organization add column gateway_networks cidr[] not null default '{}';
