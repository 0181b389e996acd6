-- The population that the web measurements need, in a migrated and empty store, as its owner:
--   psql DATABASE -v harness=FOLDER -f benches/web_seed.sql
-- One organization (big) with most accounts, and a hundred (d001 …) with 1,000 each. An account's
-- number is the last digits of its id, so that a measurement can name it. Nobody can sign in yet: give
-- admin@big.example a password.
\set ON_ERROR_STOP on
\set common :harness '/seed/common.sql'
begin;
\i :common

insert into organization (id, slug, name)
select ('00000000-0000-7000-9000-' || lpad(idx::text, 12, '0'))::uuid, split_part(name, '.', 1), initcap(split_part(name, '.', 1))
from bench_domain;
insert into mail_domain (organization_id, name)
select ('00000000-0000-7000-9000-' || lpad(idx::text, 12, '0'))::uuid, name from bench_domain;

insert into gateway (organization_id, id, address, revision)
select organization.id, gen_random_uuid(), address, 1
from organization, (select distinct gateway as address from bench_account where gateway is not null) known;
insert into gateway_revision (organization_id, gateway_id, revision, address)
select organization_id, id, revision, address from gateway;
update organization set outbound_gateway_id =
    (select id from gateway where organization_id = organization.id order by address limit 1);

insert into mail_account (organization_id, id, user_id, name, status, outbound_gateway_id)
select organization.id, ('00000000-0000-7000-8000-' || lpad(account.id::text, 12, '0'))::uuid,
       local_part || '@' || domain, full_name, case when active then 'active' else 'suspended' end, gateway.id
from bench_account account
join organization on organization.slug = split_part(account.domain, '.', 1)
left join gateway on gateway.organization_id = organization.id and gateway.address = account.gateway;
insert into mail_address (organization_id, address, account_id) select organization_id, user_id, id from mail_account;

insert into administrator (id, email, password_hash)
select gen_random_uuid(), 'admin@' || name, 'none' from bench_domain;
insert into administrator_role (organization_id, administrator_id, role)
select organization.id, administrator.id, 'administrator'
from administrator join organization on organization.slug = split_part(split_part(email, '@', 2), '.', 1);

drop table bench_account, bench_domain;
commit;
vacuum analyze;
