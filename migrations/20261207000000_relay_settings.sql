-- What pages and commands have to know of how a relay is set up.
-- From which addresses its connections are seen: those that the operator has set, who knows them where the relay is behind
-- address translation, or else its machine's own. They are shown to who has to let a gateway accept them.
-- And whether it hands mail over while clients wait, so that Explain Route says what becomes of a message.
-- A relay of the former version writes none of it, and leaves what stands under its name.
alter table relay
    add column outbound_addresses cidr[] not null default '{}',
    add column outbound_addresses_are_set boolean not null default false,
    add column hands_over boolean not null default true;
