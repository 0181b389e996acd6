-- One organization with :accounts accounts in a migrated store that is empty otherwise, three in ten with a gateway
-- of their own. Run by size.
begin;
insert into organization (id, slug, name) values ('00000000-0000-7000-9000-000000000001', 'big', 'Big');
insert into mail_domain (organization_id, name) values ('00000000-0000-7000-9000-000000000001', 'big.example');
insert into gateway (organization_id, id, address, revision)
select '00000000-0000-7000-9000-000000000001', ('00000000-0000-7000-a000-' || lpad(n::text, 12, '0'))::uuid,
       format('127.0.0.1:%s', 2526 + n), 1
from generate_series(0, 1) n;
insert into gateway_revision (organization_id, gateway_id, revision, address)
select organization_id, id, revision, address from gateway;
update organization set outbound_gateway_id = '00000000-0000-7000-a000-000000000000';
insert into mail_account (organization_id, id, user_id, outbound_gateway_id)
select '00000000-0000-7000-9000-000000000001', gen_random_uuid(), format('user%s@big.example', n),
       case when n % 10 < 3 then '00000000-0000-7000-a000-000000000001'::uuid end
from generate_series(0, :accounts - 1) n;
insert into mail_address (organization_id, address, account_id) select organization_id, user_id, id from mail_account;
commit;
vacuum analyze;
