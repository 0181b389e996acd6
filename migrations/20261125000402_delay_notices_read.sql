-- An organization's pages may read whom it was told that mail is late; until now the policy allowed what no grant did.
grant select on delay_notice to outgate_web;
