-- Most mail is in the queue for milliseconds: committed, passed on, removed. What each message costs the store
-- decides how fast that goes, so the queue keeps no key and no index that only rare moments need.

-- Checking them locks the organization's row for each message, and removes bodies by a statement each. Organizations
-- are never deleted while they have mail, and a message and its body come and go in one statement.
alter table queued_message drop constraint queued_message_organization_id_fkey;
alter table queued_body drop constraint queued_body_organization_id_message_id_fkey;

-- A relay asks for all its leases only when it starts; for some, it names the messages.
drop index queued_message_leased;

-- A small message stays in its row instead of being cut into pieces of 2 kB.
alter table queued_body set (toast_tuple_target = 8160);

-- Rows come and go: what they leave behind is taken up early, and where nothing else is to be done.
alter table queued_message set (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 20000,
                                autovacuum_vacuum_insert_threshold = -1, fillfactor = 90);
alter table queued_body set (autovacuum_vacuum_scale_factor = 0.0, autovacuum_vacuum_threshold = 20000,
                             autovacuum_vacuum_insert_threshold = -1);
