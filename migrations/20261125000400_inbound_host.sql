-- Where mail to a mail domain itself is delivered: notifications to its senders, and mail of the
-- organization to its own domains. Null: the servers that the domain's MX records name.
alter table mail_domain add column inbound_host text collate "C" check (inbound_host <> '');
grant update (inbound_host) on mail_domain to outgate_web;
