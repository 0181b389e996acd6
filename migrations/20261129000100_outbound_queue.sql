-- What an administrator may want of waiting mail, beside what becomes of held mail: another attempt now, and that it
-- is removed without a report. Both stand next to the choice, and a relay carries them out with its lease.

-- Only with the choice "return": nobody is told. A relay of the former version does not read it and returns the
-- message with a report, so that in no case it is sent on.
alter table queued_message add column without_report boolean;
-- When somebody wanted it to be tried again; until it was.
alter table queued_message add column retry_wished_at timestamptz;
grant update (without_report, retry_wished_at) on queued_message to outgate_web;

-- What work is about: its page leads back there. Work on the queue is done piece by piece, since the rows that it
-- changes are those that relays work on; other work is one transaction.
alter table job add column about text not null default 'accounts' check (about in ('accounts', 'queue'));
