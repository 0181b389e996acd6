-- What waiting mail has to know so that administrators can decide about it, and gateways that nobody
-- uses any more can be removed.

-- Whose mail it was when it was accepted: an account that is removed later leaves its mail held, and a
-- pointer that is emptied is asked about with the mail that waits by it.
alter table queued_message add column sender_account uuid;
alter table queued_message add column sender_domain text collate "C";

-- Why a message is held; the words for people are in last_reply.
alter table queued_message add column held_because text
    check (held_because in ('gateway-taken-away', 'no-gateway', 'account-suspended', 'account-removed',
                            'domain-removed', 'organization-suspended'));

-- Its revisions go with a gateway by their foreign key; whatever still points at it refuses.
grant delete on gateway to outgate_web;
