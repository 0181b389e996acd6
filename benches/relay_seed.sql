-- The relay harness's organizations and users (bench_org, bench_user) as Outgate's, in a migrated store that is
-- empty otherwise, as its owner. Run by relay.sh.
begin;
create temporary table tenant on commit drop as
select *, ('00000000-0000-7000-9000-' || lpad(id::text, 12, '0'))::uuid as organization_id from bench_org;

insert into organization (id, slug, name) select organization_id, split_part(domain, '.', 1), domain from tenant;
insert into mail_domain (organization_id, name) select organization_id, domain from tenant;
insert into gateway (organization_id, id, address, revision)
select organization_id, gen_random_uuid(), address, 1
from (select organization_id, gw_host || ':' || gw_port as address from tenant
      union
      select organization_id, bench_user.gw_host || ':' || bench_user.gw_port
      from bench_user join tenant on tenant.id = org_id where bench_user.gw_host is not null) known;
insert into gateway_revision (organization_id, gateway_id, revision, address)
select organization_id, id, revision, address from gateway;
update organization set outbound_gateway_id = gateway.id
from tenant join gateway on gateway.organization_id = tenant.organization_id and gateway.address = gw_host || ':' || gw_port
where organization.id = tenant.organization_id;

insert into mail_account (organization_id, id, user_id, outbound_gateway_id)
select tenant.organization_id, gen_random_uuid(), bench_user.address, gateway.id
from bench_user
join tenant on tenant.id = org_id
left join gateway on gateway.organization_id = tenant.organization_id
                 and gateway.address = bench_user.gw_host || ':' || bench_user.gw_port;
-- More than five times the platform's figure for an hour: nobody is to be stopped.
insert into sending_limit (organization_id, kind, subject, whose, time_window, unit, most, action)
select organization_id, 'organization', '', 'each', 'hour', 'external', null, 'alert' from tenant;
insert into mail_address (organization_id, address, account_id) select organization_id, user_id, id from mail_account;
drop table bench_org, bench_user;
commit;
vacuum analyze;
