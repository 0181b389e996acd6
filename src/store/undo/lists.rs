//! The statements of an undo that are about distribution lists: made as the items' `after` says, and what stands in the
//! way of one that would be there again.

use sqlx::PgConnection;

use super::{Obstacle, What};
use crate::{
    mail::id::{ChangeId, OrganizationId},
    store::{Result, change, relay},
};

/// Locks those that the change touched, so that nobody changes them meanwhile.
pub(super) async fn lock(db: &mut PgConnection, organization: OrganizationId, change: ChangeId) -> Result<()> {
    sqlx::query!(
        r#"
        select from distribution_list
        where organization_id = $1 and id::text in (
            select subject_key from change_item where organization_id = $1 and change_id = $2 and subject = 'list'
        )
        order by id for update
        "#,
        organization as OrganizationId,
        change as ChangeId,
    )
    .execute(db)
    .await
    .map(drop)
}

/// Makes lists as the items' `after` says: gone, changed, or there again under their former ids.
pub(super) async fn restore(db: &mut PgConnection, organization: OrganizationId, new: ChangeId) -> Result<()> {
    sqlx::query!(
        r#"
        delete from distribution_list list using change_item item
        where item.organization_id = $1 and item.change_id = $2 and item.subject = 'list' and item.after is null
          and list.organization_id = $1 and list.id::text = item.subject_key
        "#,
        organization as OrganizationId,
        new as ChangeId,
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        r#"
        update distribution_list list
        set name = coalesce(item.after ->> 'name', list.name), status = coalesce(item.after ->> 'status', list.status),
            may_send = coalesce(item.after ->> 'may_send', list.may_send),
            approval = coalesce(item.after ->> 'approval', list.approval),
            expands = coalesce((item.after ->> 'expands')::boolean, list.expands),
            large_allowed = coalesce((item.after ->> 'large_allowed')::boolean, list.large_allowed)
        from change_item item
        where item.organization_id = $1 and item.change_id = $2 and item.subject = 'list' and item.before is not null
          and item.after is not null and list.organization_id = $1 and list.id::text = item.subject_key
        "#,
        organization as OrganizationId,
        new as ChangeId,
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        r#"
        insert into distribution_list (organization_id, id, address, name, status, may_send, approval, expands,
                                       large_allowed)
        select $1, subject_key::uuid, after ->> 'address', after ->> 'name', after ->> 'status', after ->> 'may_send',
               -- Of one that the former version has deleted nothing is said.
               coalesce(after ->> 'approval', 'nobody'), (after ->> 'expands')::boolean,
               (after ->> 'large_allowed')::boolean
        from change_item
        where organization_id = $1 and change_id = $2 and subject = 'list' and before is null
        "#,
        organization as OrganizationId,
        new as ChangeId,
    )
    .execute(&mut *db)
    .await?;
    members(db, organization, new).await?;
    senders(db, organization, new).await
}

async fn members(db: &mut PgConnection, organization: OrganizationId, new: ChangeId) -> Result<()> {
    sqlx::query!(
        r#"
        delete from list_member using change_item item
        where item.organization_id = $1 and item.change_id = $2 and item.subject = 'list' and item.after ? 'members'
          and list_member.organization_id = $1 and list_member.list_id::text = item.subject_key
        "#,
        organization as OrganizationId,
        new as ChangeId,
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        r#"
        insert into list_member (organization_id, list_id, address, position)
        select $1, item.subject_key::uuid, given.address, given.position
        from change_item item
        cross join lateral jsonb_array_elements_text(item.after -> 'members') with ordinality as given (address, position)
        where item.organization_id = $1 and item.change_id = $2 and item.subject = 'list' and item.after ? 'members'
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
        delete from list_sender using change_item item
        where item.organization_id = $1 and item.change_id = $2 and item.subject = 'list' and item.after ? 'senders'
          and list_sender.organization_id = $1 and list_sender.list_id::text = item.subject_key
        "#,
        organization as OrganizationId,
        new as ChangeId,
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        r#"
        insert into list_sender (organization_id, list_id, address)
        select $1, item.subject_key::uuid, given.address
        from change_item item
        cross join lateral jsonb_array_elements_text(item.after -> 'senders') as given (address)
        where item.organization_id = $1 and item.change_id = $2 and item.subject = 'list' and item.after ? 'senders'
        "#,
        organization as OrganizationId,
        new as ChangeId,
    )
    .execute(db)
    .await
    .map(drop)
}

/// Why lists cannot be as they were: their address or its mail domain is somebody else's now, or a relay would let
/// through what is to be approved.
pub(super) async fn obstacles(
    db: &mut PgConnection,
    organization: OrganizationId,
    change: ChangeId,
    new: ChangeId,
) -> Result<Vec<Obstacle>> {
    let wanted = sqlx::query!(
        r#"
        select item.subject_key as key, list.address as "there?", item.after ->> 'address' as wanted,
               coalesce(item.after ->> 'approval', 'nobody') <> 'nobody' as "approves!",
               (select account.user_id from mail_address held
                join mail_account account on account.organization_id = $1 and account.id = held.account_id
                where held.organization_id = $1 and held.address = item.after ->> 'address') as account,
               (select name from distribution_list other
                where other.organization_id = $1 and other.address = item.after ->> 'address'
                  and other.id::text <> item.subject_key) as other,
               item.before is null and not exists (
                   select from mail_domain
                   where organization_id = $1 and name = split_part(item.after ->> 'address', '@', -1)) as "homeless!"
        from change_item item
        left join distribution_list list on list.organization_id = $1 and list.id::text = item.subject_key
        where item.organization_id = $1 and item.change_id = $2 and item.subject = 'list' and item.after is not null
        order by item.position
        "#,
        organization as OrganizationId,
        new as ChangeId,
    )
    .fetch_all(&mut *db)
    .await?;
    let mut obstacles = Vec::new();
    for list in wanted {
        let subject = list.wanted.clone().or(list.there).unwrap_or_else(|| list.key.clone());
        let domain = subject.rsplit_once('@').map(|(_, domain)| domain.to_owned()).unwrap_or_default();
        let what = match (list.account, list.other, list.homeless) {
            (Some(by), ..) => What::AddressTaken { address: subject.clone(), by },
            (_, Some(by), _) => {
                What::AddressTaken { address: subject.clone(), by: format!("the distribution list {by}") }
            }
            (.., true) => What::DomainGone(domain),
            _ if list.approves => match relay::without_approval(&mut *db).await? {
                Some(relay) => What::FormerRelay(relay),
                None => continue,
            },
            _ => continue,
        };
        let since = change::last_of(db, organization, ("list", &list.key), Some(change)).await?;
        obstacles.push(Obstacle { subject, what, since });
    }
    Ok(obstacles)
}
