-- An organization can say that only its accounts send: mail from an address that no account has is refused then,
-- instead of following its domain.
alter table organization add column refuse_unknown_senders boolean not null default false;
grant update (refuse_unknown_senders) on organization to outgate_web;
