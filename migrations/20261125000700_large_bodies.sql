-- A large message is a hundred rows of its body: counted in rows, the table of bodies would be vacuumed every second,
-- and cut short each time only to grow again at once.
alter table queued_body set (autovacuum_vacuum_threshold = 500000, vacuum_truncate = off);
alter table queued_message set (vacuum_truncate = off);
