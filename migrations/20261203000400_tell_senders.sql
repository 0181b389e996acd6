-- Whether an organization's senders are told, too, when they are near a limit of their own or beyond it. A relay of the
-- former version tells administrators alone.
alter table organization add column tell_senders boolean not null default false;
grant update (tell_senders) on organization to outgate_web;
