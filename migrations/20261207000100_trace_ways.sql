-- By which gateways the messages of a chunk have gone, so that a search for one passes over the others: a nil id stands for
-- those without a gateway. Null where that is not known, as a relay of the former version writes it, or too many: such a
-- chunk is read.
alter table message_trace add column ways uuid[];
