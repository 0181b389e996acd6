//! The statements of an undo: its items are written first, and everything that is then restored is read
//! from them. One statement for each kind of thing.

use sqlx::PgConnection;

use super::{Extent, lists};
use crate::{
    mail::id::{ChangeId, OrganizationId},
    store::{Result, account},
};

/// From how many things on an undo is planned as a large one.
const LARGE: i64 = 100;

/// Takes the lock of all changes of accounts: alone where accounts or lists come, go, or get other addresses, so that no
/// address is given to somebody else meanwhile, and where there are many.
pub(super) async fn lock_list(db: &mut PgConnection, organization: OrganizationId, extent: &Extent) -> Result<()> {
    if !extent.accounts && !extent.lists {
        return Ok(());
    }
    match extent.whole_accounts || extent.lists || extent.things >= LARGE {
        true => account::lock_alone(db, organization).await,
        false => account::lock_shared(db, organization).await,
    }
}

/// The planner takes rows that were written a moment ago for few, and would look through them once for each
/// account. For the rest of the transaction.
pub(super) async fn plan_for(db: &mut PgConnection, extent: &Extent) -> Result<()> {
    if extent.things >= LARGE {
        sqlx::query!("select set_config('enable_nestloop', 'off', true)").fetch_one(&mut *db).await?;
        account::plan_anew(db).await?;
    }
    Ok(())
}

/// Locks what the change touched, in the order of keys, so that nobody changes it meanwhile.
pub(super) async fn lock(
    db: &mut PgConnection,
    organization: OrganizationId,
    change: ChangeId,
    extent: &Extent,
) -> Result<()> {
    if extent.organization || extent.has_limits() {
        sqlx::query!("select from organization where id = $1 for no key update", organization as OrganizationId)
            .execute(&mut *db)
            .await?;
    }
    if extent.has_limits() {
        lock_limited(db, organization, change).await?;
    }
    if extent.gateways {
        lock_gateways(db, organization, change).await?;
    }
    if extent.lists {
        lists::lock(db, organization, change).await?;
    }
    if extent.domains {
        lock_domains(db, organization, change).await?;
    }
    if extent.credentials {
        lock_credentials(db, organization, change).await?;
    }
    if extent.accounts {
        lock_accounts(db, organization, change).await?;
    }
    Ok(())
}

async fn lock_gateways(db: &mut PgConnection, organization: OrganizationId, change: ChangeId) -> Result<()> {
    sqlx::query!(
        r#"
        select from gateway
        where organization_id = $1 and id::text in (
            select subject_key from change_item
            where organization_id = $1 and change_id = $2 and subject = 'gateway'
        )
        order by id for no key update
        "#,
        organization as OrganizationId,
        change as ChangeId,
    )
    .execute(db)
    .await
    .map(drop)
}

async fn lock_domains(db: &mut PgConnection, organization: OrganizationId, change: ChangeId) -> Result<()> {
    sqlx::query!(
        r#"
        select from mail_domain
        where organization_id = $1 and name in (
            select subject_key from change_item
            where organization_id = $1 and change_id = $2 and subject = 'domain'
        )
        order by name for no key update
        "#,
        organization as OrganizationId,
        change as ChangeId,
    )
    .execute(db)
    .await
    .map(drop)
}

async fn lock_credentials(db: &mut PgConnection, organization: OrganizationId, change: ChangeId) -> Result<()> {
    sqlx::query!(
        r#"
        select from relay_credential
        where organization_id = $1 and id in (
            select case when subject = 'credential' then subject_key::uuid end from change_item
            where organization_id = $1 and change_id = $2
        )
        order by id for no key update
        "#,
        organization as OrganizationId,
        change as ChangeId,
    )
    .execute(db)
    .await
    .map(drop)
}

/// This lock keeps addresses from being added too, which a lock that leaves keys alone would not.
async fn lock_accounts(db: &mut PgConnection, organization: OrganizationId, change: ChangeId) -> Result<()> {
    sqlx::query!(
        r#"
        select count(*) from (
            select from mail_account
            where organization_id = $1 and id in (
                select case when subject = 'account' then subject_key::uuid end from change_item
                where organization_id = $1 and change_id = $2
            )
            order by id for update
        ) locked
        "#,
        organization as OrganizationId,
        change as ChangeId,
    )
    .fetch_one(db)
    .await
    .map(drop)
}

/// Locks whom a change has limited, as whoever sets a limit does.
async fn lock_limited(db: &mut PgConnection, organization: OrganizationId, change: ChangeId) -> Result<()> {
    sqlx::query!(
        r#"
        select from mail_domain
        where organization_id = $1 and name in (
            select after -> 'sending_limit' ->> 'subject' from change_item
            where organization_id = $1 and change_id = $2 and after -> 'sending_limit' ->> 'kind' = 'domain'
        )
        order by name for no key update
        "#,
        organization as OrganizationId,
        change as ChangeId,
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        r#"
        select from mail_account
        where organization_id = $1 and id in (
            select case when after -> 'sending_limit' ->> 'kind' = 'account'
                        then (after -> 'sending_limit' ->> 'subject')::uuid
                        else (after -> 'sender_control' ->> 'account')::uuid end
            from change_item where organization_id = $1 and change_id = $2
        )
        order by id for no key update
        "#,
        organization as OrganizationId,
        change as ChangeId,
    )
    .execute(db)
    .await
    .map(drop)
}

/// Writes the items of the undo: as `before` what there is now of the fields that the change set, as
/// `after` what the change found.
pub(super) async fn mirror(
    db: &mut PgConnection,
    organization: OrganizationId,
    change: ChangeId,
    new: ChangeId,
) -> Result<()> {
    sqlx::query!(
        r#"
        insert into change_item (organization_id, change_id, position, subject, subject_key, before, after)
        select $1, $3, position, subject, subject_key,
               (select jsonb_object_agg(field, now_there -> field) from jsonb_object_keys(fields) as field
                where now_there is not null),
               -- The values of an earlier revision come back as a new one.
               case when subject = 'gateway' and stays then before || jsonb_build_object('revision', (
                   select max(revision) + 1 from gateway_revision
                   where organization_id = $1 and gateway_id::text = subject_key))
               else before end
        from (
            select item.position, item.subject, item.subject_key, item.before, item.fields, item.stays,
                   case item.subject
                   when 'organization' then (
                       select jsonb_build_object('outbound_gateway', outbound_gateway_id,
                                                 'pending_gateway', pending_gateway_id,
                                                 'verify_before_live', verify_before_live,
                                                 'must_use_gateway', must_use_gateway,
                                                 'refuse_unknown_senders', refuse_unknown_senders,
                                                 'probe_sender', probe_sender, 'large_list', large_list)
                              || case when item.fields ? 'sending_limit' then jsonb_build_object('sending_limit',
                                  (item.fields -> 'sending_limit') || jsonb_build_object('limit', (
                                      select jsonb_build_object('most', most, 'action', action) from sending_limit said
                                      where said.organization_id = $1
                                        and said.kind = item.fields -> 'sending_limit' ->> 'kind'
                                        and said.subject = item.fields -> 'sending_limit' ->> 'subject'
                                        and said.whose = item.fields -> 'sending_limit' ->> 'whose'
                                        and said.time_window = item.fields -> 'sending_limit' ->> 'window'
                                        and said.unit = item.fields -> 'sending_limit' ->> 'unit')))
                                 else '{}' end
                              || case when item.fields ? 'sender_control' then jsonb_build_object('sender_control', (
                                  select jsonb_build_object(
                                      'account', item.fields -> 'sender_control' -> 'account',
                                      'service', coalesce(bool_or(service), false),
                                      'exempt_until', to_char(max(exempt_until) at time zone 'UTC',
                                                              'YYYY-MM-DD"T"HH24:MI:SS"Z"'),
                                      'blocked', coalesce(bool_or(blocked), false))
                                  from sender_control said
                                  where said.organization_id = $1
                                    and said.account_id = (item.fields -> 'sender_control' ->> 'account')::uuid))
                                 else '{}' end
                       from organization where id = $1 and id::text = item.subject_key)
                   when 'domain' then (
                       select jsonb_build_object('outbound_gateway', outbound_gateway_id,
                                                 'pending_gateway', pending_gateway_id, 'inbound_host', inbound_host)
                       from mail_domain where organization_id = $1 and name = item.subject_key)
                   when 'account' then (
                       select jsonb_build_object('user_id', user_id, 'name', name, 'status', status,
                                                 'external_id', external_id, 'outbound_gateway', outbound_gateway_id)
                              || case when item.fields ? 'addresses' then jsonb_build_object('addresses', (
                                  select coalesce(jsonb_agg(address order by address), '[]') from mail_address
                                  where mail_address.organization_id = $1 and mail_address.account_id = mail_account.id
                              )) else '{}' end
                       from mail_account where organization_id = $1 and id = item.subject_key::uuid)
                   when 'gateway' then (
                       select jsonb_build_object('address', address, 'revision', revision)
                       from gateway where organization_id = $1 and id = item.subject_key::uuid)
                   when 'list' then (
                       select jsonb_build_object(
                           'address', address, 'name', name, 'status', status, 'may_send', may_send,
                           'approval', approval, 'expands', expands, 'large_allowed', large_allowed,
                           'members', (select coalesce(jsonb_agg(member.address order by position), '[]')
                                       from list_member member
                                       where member.organization_id = $1 and member.list_id = list.id),
                           'senders', (select coalesce(jsonb_agg(sender.address order by sender.address), '[]')
                                       from list_sender sender
                                       where sender.organization_id = $1 and sender.list_id = list.id))
                       from distribution_list list where organization_id = $1 and id = item.subject_key::uuid)
                   when 'credential' then (
                       select to_jsonb(credential) from (
                           select name, addresses, domains, networks, messages_per_minute, allow_bare_line_feeds, revoked
                           from relay_credential where organization_id = $1 and id = item.subject_key::uuid
                       ) credential)
                   end as now_there
            from (
                select position, subject, subject_key, before, after is not null as stays,
                       coalesce(before, '{}') || coalesce(after, '{}') as fields
                from change_item
                where organization_id = $1 and change_id = $2 and (subject <> 'gateway' or before is not null)
                offset 0
            ) item
            offset 0
        ) mirrored
        "#,
        organization as OrganizationId,
        change as ChangeId,
        new as ChangeId,
    )
    .execute(db)
    .await
    .map(drop)
}

/// Makes everything as the items' `after` says.
pub(super) async fn restore(
    db: &mut PgConnection,
    organization: OrganizationId,
    change: ChangeId,
    new: ChangeId,
    extent: &Extent,
) -> Result<()> {
    if extent.gateways {
        insert_gateways(db, organization, new).await?;
        records(db, organization, change, new).await?;
    }
    if extent.organization {
        organization_row(db, organization, new).await?;
    }
    if extent.has_limits() {
        limits(db, organization, new).await?;
        senders(db, organization, new).await?;
    }
    if extent.domains {
        domains(db, organization, new).await?;
    }
    if extent.credentials {
        credentials(db, organization, new).await?;
    }
    if extent.lists {
        lists::restore(db, organization, new).await?;
    }
    if extent.whole_accounts {
        delete_accounts(db, organization, new).await?;
    }
    // What is no longer an address of one account may be one of another.
    if extent.addresses {
        delete_addresses(db, organization, new).await?;
    }
    if extent.user_ids {
        free_user_ids(db, organization, new).await?;
    }
    if extent.accounts {
        accounts(db, organization, new).await?;
    }
    if extent.whole_accounts {
        insert_accounts(db, organization, new).await?;
    }
    if extent.addresses {
        if extent.things >= LARGE {
            account::plan_anew(db).await?;
        }
        insert_addresses(db, organization, new).await?;
    }
    Ok(())
}

/// Those that the change had removed, under the id that they had and with the revision that was its last, which
/// is still there unless the gateway was removed by an earlier version.
async fn insert_gateways(db: &mut PgConnection, organization: OrganizationId, new: ChangeId) -> Result<()> {
    sqlx::query!(
        r#"
        with item as (
            select subject_key::uuid as id, after ->> 'address' as address, (after ->> 'revision')::bigint as revision
            from change_item
            where organization_id = $1 and change_id = $2 and subject = 'gateway' and before is null
        ), made as (
            insert into gateway (organization_id, id, address, revision) select $1, id, address, revision from item
        )
        insert into gateway_revision (organization_id, gateway_id, revision, address)
        select $1, id, revision, address from item
        on conflict do nothing
        "#,
        organization as OrganizationId,
        new as ChangeId,
    )
    .execute(db)
    .await
    .map(drop)
}

/// Those whose record the change had set: what the revision before it said is said by a new one, its password included.
async fn records(db: &mut PgConnection, organization: OrganizationId, change: ChangeId, new: ChangeId) -> Result<()> {
    sqlx::query!(
        r#"
        insert into gateway_revision (
            organization_id, gateway_id, revision, address, tls, certificate_name, authority, fingerprint, sign_in_user,
            sign_in_secret_id, connections, messages_per_connection, messages_per_minute, largest_message,
            returning_mail, returning_networks, own_domains, backups)
        select $1, said.gateway_id, (item.after ->> 'revision')::bigint, said.address, said.tls, said.certificate_name,
               said.authority, said.fingerprint, said.sign_in_user, said.sign_in_secret_id, said.connections,
               said.messages_per_connection, said.messages_per_minute, said.largest_message, said.returning_mail,
               said.returning_networks, said.own_domains, said.backups
        from change_item item
        join change_item undone on undone.organization_id = $1 and undone.change_id = $2
                               and undone.position = item.position
        join gateway_revision said on said.organization_id = $1 and said.gateway_id::text = item.subject_key
                                  and said.revision = (undone.before ->> 'revision')::bigint
        where item.organization_id = $1 and item.change_id = $3 and item.subject = 'gateway'
          and item.before is not null and item.after is not null
        "#,
        organization as OrganizationId,
        change as ChangeId,
        new as ChangeId,
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        r#"
        update gateway set revision = (item.after ->> 'revision')::bigint, address = item.after ->> 'address'
        from change_item item
        where item.organization_id = $1 and item.change_id = $2 and item.subject = 'gateway'
          and item.before is not null and item.after is not null
          and gateway.organization_id = $1 and gateway.id::text = item.subject_key
        "#,
        organization as OrganizationId,
        new as ChangeId,
    )
    .execute(db)
    .await
    .map(drop)
}

async fn organization_row(db: &mut PgConnection, organization: OrganizationId, new: ChangeId) -> Result<()> {
    sqlx::query!(
        r#"
        update organization
        set outbound_gateway_id = case when item.after ? 'outbound_gateway' then (item.after ->> 'outbound_gateway')::uuid
                                       else organization.outbound_gateway_id end,
            pending_gateway_id = case when item.after ? 'pending_gateway' then (item.after ->> 'pending_gateway')::uuid
                                      else organization.pending_gateway_id end,
            verify_before_live = case when item.after ? 'verify_before_live' then item.after ->> 'verify_before_live'
                                      else organization.verify_before_live end,
            must_use_gateway = case when item.after ? 'must_use_gateway' then (item.after ->> 'must_use_gateway')::boolean
                                    else organization.must_use_gateway end,
            refuse_unknown_senders = case when item.after ? 'refuse_unknown_senders'
                                          then (item.after ->> 'refuse_unknown_senders')::boolean
                                          else organization.refuse_unknown_senders end,
            probe_sender = case when item.after ? 'probe_sender' then item.after ->> 'probe_sender'
                                else organization.probe_sender end,
            large_list = case when item.after ? 'large_list' then (item.after ->> 'large_list')::integer
                              else organization.large_list end
        from change_item item
        where item.organization_id = $1 and item.change_id = $2 and item.subject = 'organization' and organization.id = $1
        "#,
        organization as OrganizationId,
        new as ChangeId,
    )
    .execute(db)
    .await
    .map(drop)
}

async fn limits(db: &mut PgConnection, organization: OrganizationId, new: ChangeId) -> Result<()> {
    sqlx::query!(
        r#"
        with item as materialized (
            select after -> 'sending_limit' as said from change_item
            where organization_id = $1 and change_id = $2 and after ? 'sending_limit'
        ), gone as (
            delete from sending_limit using item
            where organization_id = $1 and kind = said ->> 'kind' and subject = said ->> 'subject'
              and whose = said ->> 'whose' and time_window = said ->> 'window' and unit = said ->> 'unit'
              and said -> 'limit' = 'null'
        )
        insert into sending_limit (organization_id, kind, subject, whose, time_window, unit, most, action)
        select $1, said ->> 'kind', said ->> 'subject', said ->> 'whose', said ->> 'window', said ->> 'unit',
               (said -> 'limit' ->> 'most')::integer, said -> 'limit' ->> 'action'
        from item where said -> 'limit' <> 'null'
        on conflict (organization_id, kind, subject, whose, time_window, unit) do update
        set most = excluded.most, action = excluded.action
        "#,
        organization as OrganizationId,
        new as ChangeId,
    )
    .execute(db)
    .await
    .map(drop)
}

async fn senders(db: &mut PgConnection, organization: OrganizationId, new: ChangeId) -> Result<()> {
    sqlx::query!(
        r#"
        insert into sender_control (organization_id, account_id, service, exempt_until, blocked)
        select $1, (said ->> 'account')::uuid, (said ->> 'service')::boolean, (said ->> 'exempt_until')::timestamptz,
               (said ->> 'blocked')::boolean
        from (select after -> 'sender_control' as said from change_item
              where organization_id = $1 and change_id = $2 and after ? 'sender_control' offset 0) item
        on conflict (organization_id, account_id) do update
        set service = excluded.service, exempt_until = excluded.exempt_until, blocked = excluded.blocked
        "#,
        organization as OrganizationId,
        new as ChangeId,
    )
    .execute(db)
    .await
    .map(drop)
}

async fn domains(db: &mut PgConnection, organization: OrganizationId, new: ChangeId) -> Result<()> {
    sqlx::query!(
        r#"
        update mail_domain
        set outbound_gateway_id = case when item.after ? 'outbound_gateway' then (item.after ->> 'outbound_gateway')::uuid
                                       else mail_domain.outbound_gateway_id end,
            pending_gateway_id = case when item.after ? 'pending_gateway' then (item.after ->> 'pending_gateway')::uuid
                                      else mail_domain.pending_gateway_id end,
            inbound_host = case when item.after ? 'inbound_host' then item.after ->> 'inbound_host'
                                else mail_domain.inbound_host end
        from change_item item
        where item.organization_id = $1 and item.change_id = $2 and item.subject = 'domain'
          and mail_domain.organization_id = $1 and mail_domain.name = item.subject_key
        "#,
        organization as OrganizationId,
        new as ChangeId,
    )
    .execute(db)
    .await
    .map(drop)
}

/// Their limits, and whether they are revoked; the secret is never part of a change.
async fn credentials(db: &mut PgConnection, organization: OrganizationId, new: ChangeId) -> Result<()> {
    sqlx::query!(
        r#"
        update relay_credential
        set name = restored.name, addresses = restored.addresses, domains = restored.domains,
            networks = restored.networks, messages_per_minute = restored.messages_per_minute,
            allow_bare_line_feeds = restored.allow_bare_line_feeds, revoked = restored.revoked
        from change_item item, relay_credential present,
             jsonb_populate_record(present, item.after) as restored
        where item.organization_id = $1 and item.change_id = $2 and item.subject = 'credential'
          and present.organization_id = $1 and present.id = item.subject_key::uuid
          and relay_credential.organization_id = $1 and relay_credential.id = present.id
        "#,
        organization as OrganizationId,
        new as ChangeId,
    )
    .execute(db)
    .await
    .map(drop)
}

/// Those that the change had added.
async fn delete_accounts(db: &mut PgConnection, organization: OrganizationId, new: ChangeId) -> Result<()> {
    sqlx::query!(
        r#"
        delete from mail_account
        where organization_id = $1 and id in (
            select case when subject = 'account' then subject_key::uuid end from change_item
            where organization_id = $1 and change_id = $2 and after is null
        )
        "#,
        organization as OrganizationId,
        new as ChangeId,
    )
    .execute(db)
    .await
    .map(drop)
}

async fn delete_addresses(db: &mut PgConnection, organization: OrganizationId, new: ChangeId) -> Result<()> {
    sqlx::query!(
        r#"
        delete from mail_address using (
            select case when subject = 'account' then subject_key::uuid end as account, after -> 'addresses' as kept
            from change_item where organization_id = $1 and change_id = $2 and after ? 'addresses'
            offset 0
        ) item
        where mail_address.organization_id = $1 and mail_address.account_id = item.account
          and not item.kept ? mail_address.address
        "#,
        organization as OrganizationId,
        new as ChangeId,
    )
    .execute(db)
    .await
    .map(drop)
}

/// Two accounts may get each other's User ID back: no statement can swap unique values that are checked
/// row by row, so each that changes gets one of its own first.
async fn free_user_ids(db: &mut PgConnection, organization: OrganizationId, new: ChangeId) -> Result<()> {
    sqlx::query!(
        r#"
        update mail_account set user_id = mail_account.id::text || '@' || mail_account.domain
        from (
            select case when subject = 'account' then subject_key::uuid end as account, after ->> 'user_id' as user_id
            from change_item where organization_id = $1 and change_id = $2 and after ? 'user_id'
            offset 0
        ) item
        where mail_account.organization_id = $1 and mail_account.id = item.account
          and mail_account.user_id <> item.user_id
        "#,
        organization as OrganizationId,
        new as ChangeId,
    )
    .execute(db)
    .await
    .map(drop)
}

async fn accounts(db: &mut PgConnection, organization: OrganizationId, new: ChangeId) -> Result<()> {
    sqlx::query!(
        r#"
        update mail_account
        set user_id = case when fields ? 'user_id' then fields ->> 'user_id' else mail_account.user_id end,
            name = case when fields ? 'name' then fields ->> 'name' else mail_account.name end,
            status = case when fields ? 'status' then fields ->> 'status' else mail_account.status end,
            external_id = case when fields ? 'external_id' then fields ->> 'external_id' else mail_account.external_id end,
            outbound_gateway_id = case when fields ? 'outbound_gateway' then (fields ->> 'outbound_gateway')::uuid
                                       else mail_account.outbound_gateway_id end
        from (
            select case when subject = 'account' then subject_key::uuid end as account, after as fields
            from change_item
            where organization_id = $1 and change_id = $2 and before is not null and after is not null
            offset 0
        ) item
        where mail_account.organization_id = $1 and mail_account.id = item.account
        "#,
        organization as OrganizationId,
        new as ChangeId,
    )
    .execute(db)
    .await
    .map(drop)
}

/// Those that the change had deleted, under the id that they had.
async fn insert_accounts(db: &mut PgConnection, organization: OrganizationId, new: ChangeId) -> Result<()> {
    sqlx::query!(
        r#"
        insert into mail_account (organization_id, id, user_id, name, status, external_id, outbound_gateway_id)
        select $1, case when subject = 'account' then subject_key::uuid end, after ->> 'user_id', after ->> 'name',
               after ->> 'status', after ->> 'external_id', (after ->> 'outbound_gateway')::uuid
        from change_item where organization_id = $1 and change_id = $2 and subject = 'account' and before is null
        "#,
        organization as OrganizationId,
        new as ChangeId,
    )
    .execute(db)
    .await
    .map(drop)
}

async fn insert_addresses(db: &mut PgConnection, organization: OrganizationId, new: ChangeId) -> Result<()> {
    sqlx::query!(
        r#"
        insert into mail_address (organization_id, address, account_id)
        select $1, given.address, item.account
        from (
            select case when subject = 'account' then subject_key::uuid end as account, after -> 'addresses' as addresses
            from change_item where organization_id = $1 and change_id = $2 and after ? 'addresses'
            offset 0
        ) item, jsonb_array_elements_text(item.addresses) as given (address)
        where not exists (
            select from mail_address there
            where there.organization_id = $1 and there.address = given.address and there.account_id = item.account
        )
        "#,
        organization as OrganizationId,
        new as ChangeId,
    )
    .execute(db)
    .await
    .map(drop)
}
