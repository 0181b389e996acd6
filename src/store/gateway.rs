//! Gateways and the pointers to them: what the one form at three scopes reads and writes.
//! Pages and the command line change them here and nowhere else.

use serde_json::{Map, Value, json};
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{
    OrganizationTransaction, Result,
    change::{self, AuditEntry, ChangeItem, Committed, LastChange, Subject},
    held_mail, organization,
};
use crate::{
    mail::{
        DomainName, GatewayAddress, Mailbox,
        id::{AccountId, ChangeId, GatewayId, OrganizationId},
    },
    policy::waiting::Choice,
};

/// Where a pointer is set.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PointerScope {
    Organization,
    Domain(DomainName),
    Account(AccountId),
}

/// What a pointer said before a change, and whose it is.
#[derive(Debug, Clone)]
pub struct Pointer {
    /// In words: `all users`, the mail domain, the User ID.
    pub subject: String,
    pub gateway: Option<GatewayId>,
    pub address: Option<GatewayAddress>,
    /// The gateway that it is to point at once that has passed its verification.
    pub pending: Option<(GatewayId, GatewayAddress)>,
}

impl Pointer {
    /// What an administrator wants it to point at: what is pending, else what it says.
    pub fn wanted(&self) -> Option<&GatewayAddress> {
        self.pending.as_ref().map(|(_, address)| address).or(self.address.as_ref())
    }

    pub(super) fn pending_id(&self) -> Option<GatewayId> {
        self.pending.as_ref().map(|(id, _)| *id)
    }
}

/// What became of setting a pointer.
#[derive(Debug, Clone)]
pub enum Set {
    /// The organization has no such domain or account; nothing was changed.
    NotFound,
    /// It already said so; nothing was changed.
    Unchanged,
    Changed(Committed),
}

/// Points a scope at the organization's gateway with this address, made if it is new; `None`
/// deletes the pointer. It is live at once, and a gateway that was pending there is no longer wanted.
/// The gateway itself stays: other scopes may use it, and its history is kept.
/// Mail that waits for it because of this pointer goes on waiting.
pub async fn set(
    transaction: OrganizationTransaction,
    scope: &PointerScope,
    address: Option<&GatewayAddress>,
    actor: &str,
) -> Result<Set> {
    set_choosing(transaction, scope, address, None, actor).await
}

/// The same, with what becomes of mail that waits for the gateway by a pointer that is deleted; `None`: it goes on
/// waiting until this scope has a gateway again, or somebody decides.
pub async fn set_choosing(
    mut transaction: OrganizationTransaction,
    scope: &PointerScope,
    address: Option<&GatewayAddress>,
    waiting: Option<Choice>,
    actor: &str,
) -> Result<Set> {
    let organization = transaction.organization();
    let Some(before) = pointer_for_update(&mut transaction, organization, scope).await? else {
        return Ok(Set::NotFound);
    };
    if before.address.as_ref() == address {
        return super::pending_gateway::forget(transaction, scope, before, actor).await;
    }
    let mut items = Vec::new();
    let gateway = match address {
        Some(address) => Some(find_or_create(&mut transaction, organization, address, &mut items).await?),
        None => None,
    };
    point(&mut transaction, organization, scope, gateway, None).await?;
    let mut decision = None;
    if let (Some(deleted), Some(address), None) = (before.gateway, &before.address, gateway) {
        let messages = held_mail::count_by_pointer(&mut transaction, organization, scope, deleted).await?;
        held_mail::choose_by_pointer(&mut transaction, organization, scope, deleted, waiting).await?;
        decision = (messages > 0).then(|| held_mail::choice_entry(actor, messages, &before.subject, address, waiting));
    }
    let pending = before.pending_id().map(|pending| (Some(pending), None));
    items.push(pointer_item(scope, organization, Some((before.gateway, gateway)), pending));
    let audit = AuditEntry {
        actor: actor.to_owned(),
        action: if address.is_some() { "gateway.set" } else { "gateway.delete" },
        subject: before.subject,
        before: before.address.map(|address| address.to_string()),
        after: address.map(|address| address.to_string()),
    };
    let mut change = transaction.open_change(ChangeId::new(), audit).await?;
    transaction.add_items(&mut change, &items).await?;
    if let Some(decision) = decision {
        transaction.note(decision).await?;
    }
    transaction.finish_change(change, None).await.map(Set::Changed)
}

impl PointerScope {
    /// What it is in the items of changes.
    pub fn subject(&self) -> Subject {
        match self {
            Self::Organization => Subject::Organization,
            Self::Domain(_) => Subject::Domain,
            Self::Account(_) => Subject::Account,
        }
    }

    /// Its key in the items of changes.
    pub fn key(&self, organization: OrganizationId) -> String {
        match self {
            Self::Organization => organization.to_string(),
            Self::Domain(name) => name.to_string(),
            Self::Account(account) => account.to_string(),
        }
    }
}

/// A gateway before and after a change.
type Moved = (Option<GatewayId>, Option<GatewayId>);

/// What a change did to a scope: where it points, and what is pending there.
pub(super) fn pointer_item(
    scope: &PointerScope,
    organization: OrganizationId,
    pointer: Option<Moved>,
    pending: Option<Moved>,
) -> ChangeItem {
    let (mut was, mut is) = (Map::new(), Map::new());
    for (field, moved) in [("outbound_gateway", pointer), ("pending_gateway", pending)] {
        if let Some((before, after)) = moved {
            was.insert(field.to_owned(), json!(before));
            is.insert(field.to_owned(), json!(after));
        }
    }
    let (subject, key) = (scope.subject(), scope.key(organization));
    ChangeItem { subject, key, before: Some(Value::Object(was)), after: Some(Value::Object(is)) }
}

/// What a scope points at now; `None` if the organization has no such domain or account.
pub async fn pointer(
    db: &mut PgConnection,
    organization: OrganizationId,
    scope: &PointerScope,
) -> Result<Option<Pointer>> {
    match scope {
        PointerScope::Organization => of_organization(db, organization).await,
        PointerScope::Domain(name) => of_domain(db, organization, name).await,
        PointerScope::Account(account) => of_account(db, organization, *account).await,
    }
}

/// The same, with the row locked, so that two changes of one pointer come one after the other.
pub async fn pointer_for_update(
    db: &mut PgConnection,
    organization: OrganizationId,
    scope: &PointerScope,
) -> Result<Option<Pointer>> {
    match scope {
        PointerScope::Organization => {
            sqlx::query_scalar!(
                "select 1 as one from organization where id = $1 for no key update",
                organization as OrganizationId
            )
            .fetch_optional(&mut *db)
            .await?
        }
        PointerScope::Domain(name) => {
            sqlx::query_scalar!(
                "select 1 as one from mail_domain where organization_id = $1 and name = $2 for no key update",
                organization as OrganizationId,
                name as &DomainName,
            )
            .fetch_optional(&mut *db)
            .await?
        }
        PointerScope::Account(account) => {
            sqlx::query_scalar!(
                "select 1 as one from mail_account where organization_id = $1 and id = $2 for no key update",
                organization as OrganizationId,
                *account as AccountId,
            )
            .fetch_optional(&mut *db)
            .await?
        }
    };
    pointer(db, organization, scope).await
}

async fn of_organization(db: &mut PgConnection, organization: OrganizationId) -> Result<Option<Pointer>> {
    let row = sqlx::query!(
        r#"
        select organization.outbound_gateway_id as "gateway: GatewayId", gateway.address as "address?: GatewayAddress",
               pending.id as "pending_id?: GatewayId", pending.address as "pending?: GatewayAddress"
        from organization
        left join gateway on gateway.organization_id = organization.id and gateway.id = organization.outbound_gateway_id
        left join gateway pending
               on pending.organization_id = organization.id and pending.id = organization.pending_gateway_id
        where organization.id = $1
        "#,
        organization as OrganizationId,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| Pointer {
        subject: "all users".to_owned(),
        gateway: row.gateway,
        address: row.address,
        pending: row.pending_id.zip(row.pending),
    }))
}

async fn of_domain(db: &mut PgConnection, organization: OrganizationId, name: &DomainName) -> Result<Option<Pointer>> {
    let row = sqlx::query!(
        r#"
        select mail_domain.name, mail_domain.outbound_gateway_id as "gateway: GatewayId",
               gateway.address as "address?: GatewayAddress",
               pending.id as "pending_id?: GatewayId", pending.address as "pending?: GatewayAddress"
        from mail_domain
        left join gateway on gateway.organization_id = mail_domain.organization_id
                         and gateway.id = mail_domain.outbound_gateway_id
        left join gateway pending on pending.organization_id = mail_domain.organization_id
                                 and pending.id = mail_domain.pending_gateway_id
        where mail_domain.organization_id = $1 and mail_domain.name = $2
        "#,
        organization as OrganizationId,
        name as &DomainName,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| Pointer {
        subject: row.name,
        gateway: row.gateway,
        address: row.address,
        pending: row.pending_id.zip(row.pending),
    }))
}

async fn of_account(
    db: &mut PgConnection,
    organization: OrganizationId,
    account: AccountId,
) -> Result<Option<Pointer>> {
    let row = sqlx::query!(
        r#"
        select mail_account.user_id as "user_id: Mailbox", mail_account.outbound_gateway_id as "gateway: GatewayId",
               gateway.address as "address?: GatewayAddress"
        from mail_account
        left join gateway on gateway.organization_id = mail_account.organization_id
                         and gateway.id = mail_account.outbound_gateway_id
        where mail_account.organization_id = $1 and mail_account.id = $2
        "#,
        organization as OrganizationId,
        account as AccountId,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| Pointer {
        subject: row.user_id.to_string(),
        gateway: row.gateway,
        address: row.address,
        pending: None,
    }))
}

/// For an account nothing is ever pending.
pub(super) async fn point(
    db: &mut PgConnection,
    organization: OrganizationId,
    scope: &PointerScope,
    gateway: Option<GatewayId>,
    pending: Option<GatewayId>,
) -> Result<()> {
    match scope {
        PointerScope::Organization => {
            sqlx::query!(
                "update organization set outbound_gateway_id = $2, pending_gateway_id = $3 where id = $1",
                organization as OrganizationId,
                gateway as Option<GatewayId>,
                pending as Option<GatewayId>,
            )
            .execute(db)
            .await?
        }
        PointerScope::Domain(name) => {
            sqlx::query!(
                "update mail_domain set outbound_gateway_id = $3, pending_gateway_id = $4
                 where organization_id = $1 and name = $2",
                organization as OrganizationId,
                name as &DomainName,
                gateway as Option<GatewayId>,
                pending as Option<GatewayId>,
            )
            .execute(db)
            .await?
        }
        PointerScope::Account(account) => {
            sqlx::query!(
                "update mail_account set outbound_gateway_id = $3 where organization_id = $1 and id = $2",
                organization as OrganizationId,
                *account as AccountId,
                gateway as Option<GatewayId>,
            )
            .execute(db)
            .await?
        }
    };
    Ok(())
}

/// The organization's gateway with this address. A new one gets revision 1 and an item in the change.
pub(super) async fn find_or_create(
    db: &mut PgConnection,
    organization: OrganizationId,
    address: &GatewayAddress,
    items: &mut Vec<ChangeItem>,
) -> Result<GatewayId> {
    // Somebody may remove it between the two looks: then it is made anew.
    for _ in 0..LOOKS {
        if let Some(id) = create(db, organization, address, items).await? {
            return Ok(id);
        }
        if let Some(id) = keep(db, organization, address).await? {
            return Ok(id);
        }
    }
    Err(sqlx::Error::RowNotFound)
}

/// How often a gateway is looked for that others make and remove at the same time.
const LOOKS: usize = 10;

/// The gateway with this address, which nobody can remove until the transaction has ended.
pub async fn keep(
    db: &mut PgConnection,
    organization: OrganizationId,
    address: &GatewayAddress,
) -> Result<Option<GatewayId>> {
    sqlx::query_scalar!(
        r#"
        select id as "id: GatewayId" from gateway where organization_id = $1 and address = $2 for key share
        "#,
        organization as OrganizationId,
        address as &GatewayAddress,
    )
    .fetch_optional(db)
    .await
}

/// `None` if there is one with this address already.
async fn create(
    db: &mut PgConnection,
    organization: OrganizationId,
    address: &GatewayAddress,
    items: &mut Vec<ChangeItem>,
) -> Result<Option<GatewayId>> {
    // Two administrators may type the same new address at once: the second waits here for the
    // first and then finds its gateway.
    let created = sqlx::query_scalar!(
        r#"
        insert into gateway (organization_id, id, address, revision) values ($1, $2, $3, 1)
        on conflict (organization_id, address) do nothing
        returning id as "id: GatewayId"
        "#,
        organization as OrganizationId,
        GatewayId::new() as GatewayId,
        address as &GatewayAddress,
    )
    .fetch_optional(&mut *db)
    .await?;
    let Some(id) = created else { return Ok(None) };
    sqlx::query!(
        "insert into gateway_revision (organization_id, gateway_id, revision, address) values ($1, $2, 1, $3)",
        organization as OrganizationId,
        id as GatewayId,
        address as &GatewayAddress,
    )
    .execute(db)
    .await?;
    items.push(ChangeItem {
        subject: Subject::Gateway,
        key: id.to_string(),
        before: None,
        after: Some(json!({ "address": address.to_string(), "revision": 1 })),
    });
    Ok(Some(id))
}

/// Keeps all gateways of the organization from being removed until the transaction has ended.
pub(super) async fn keep_all(db: &mut PgConnection, organization: OrganizationId) -> Result<()> {
    sqlx::query_scalar!(
        r#"
        with kept as (select 1 from gateway where organization_id = $1 order by id for key share)
        select count(*) as "count!" from kept
        "#,
        organization as OrganizationId,
    )
    .fetch_one(db)
    .await
    .map(drop)
}

/// The organization's gateway with this address.
pub async fn with_address(
    db: &mut PgConnection,
    organization: OrganizationId,
    address: &GatewayAddress,
) -> Result<Option<GatewayId>> {
    sqlx::query_scalar!(
        r#"select id as "id: GatewayId" from gateway where organization_id = $1 and address = $2"#,
        organization as OrganizationId,
        address as &GatewayAddress,
    )
    .fetch_optional(db)
    .await
}

/// Every gateway of the organization that has or had this address.
pub async fn ever_with_address(
    db: &mut PgConnection,
    organization: OrganizationId,
    address: &GatewayAddress,
) -> Result<Vec<GatewayId>> {
    sqlx::query_scalar!(
        r#"
        select distinct gateway_id as "id: GatewayId" from gateway_revision
        where organization_id = $1 and address = $2
        "#,
        organization as OrganizationId,
        address as &GatewayAddress,
    )
    .fetch_all(db)
    .await
}

/// The addresses of the organization's gateways, for the field's suggestions.
pub async fn known_addresses(db: &mut PgConnection, organization: OrganizationId) -> Result<Vec<GatewayAddress>> {
    sqlx::query_scalar!(
        r#"
        select address as "address: GatewayAddress" from gateway where organization_id = $1 order by address limit 50
        "#,
        organization as OrganizationId,
    )
    .fetch_all(db)
    .await
}

/// Says whether the organization's mail must leave through a gateway, as one change.
pub async fn set_must_use(mut transaction: OrganizationTransaction, must_use: bool, actor: &str) -> Result<Set> {
    let changed = sqlx::query!(
        "update organization set must_use_gateway = $2 where id = $1 and must_use_gateway <> $2",
        transaction.organization() as OrganizationId,
        must_use,
    );
    let changed = changed.execute(&mut *transaction).await?.rows_affected() > 0;
    organization::chosen(transaction, changed, ("must_use_gateway", must_use), ("gateway.require", "all users"), actor)
        .await
}

/// A gateway of the organization, with what it is there for.
#[derive(Debug, Clone)]
pub struct GatewayOverview {
    pub id: GatewayId,
    pub address: GatewayAddress,
    pub revision: i64,
    /// The organization points at it.
    pub of_all: bool,
    /// The mail domains that point at it, by name.
    pub domains: Vec<String>,
    /// How many accounts have it as their own.
    pub accounts: i64,
    /// How many messages wait for it, held ones included.
    pub waiting: i64,
    /// The gateways that it stands in for, by address.
    pub backup_of: Vec<GatewayAddress>,
    /// It is to be the gateway of all users once it has passed its verification.
    pub pending_of_all: bool,
    /// The mail domains whose gateway it is to be then, by name.
    pub pending_domains: Vec<String>,
}

impl GatewayOverview {
    /// Whether no scope points at it or is to, and it stands in for no other gateway.
    pub fn is_unused(&self) -> bool {
        let is_pending = self.pending_of_all || !self.pending_domains.is_empty();
        !self.of_all && self.domains.is_empty() && self.accounts == 0 && self.backup_of.is_empty() && !is_pending
    }
}

/// The organization's gateways by address; only one of them if it is named.
pub async fn overview(
    db: &mut PgConnection,
    organization: OrganizationId,
    only: Option<GatewayId>,
) -> Result<Vec<GatewayOverview>> {
    sqlx::query_as!(
        GatewayOverview,
        r#"
        select gateway.id as "id: GatewayId", gateway.address as "address: GatewayAddress", gateway.revision,
               coalesce(organization.outbound_gateway_id = gateway.id, false) as "of_all!",
               coalesce(of_domains.names, array[]::text[]) as "domains!",
               coalesce(of_accounts.accounts, 0) as "accounts!", coalesce(queued.messages, 0) as "waiting!",
               array(select other.address from gateway_backup backup
                     join gateway other on other.organization_id = $1 and other.id = backup.gateway_id
                     where backup.organization_id = $1 and backup.backup_id = gateway.id
                     order by other.address) as "backup_of!: Vec<GatewayAddress>",
               coalesce(organization.pending_gateway_id = gateway.id, false) as "pending_of_all!",
               array(select name from mail_domain where organization_id = $1 and pending_gateway_id = gateway.id
                     order by name) as "pending_domains!"
        from gateway
        join organization on organization.id = gateway.organization_id
        left join (select outbound_gateway_id as id, array_agg(name order by name) as names from mail_domain
                   where organization_id = $1 and outbound_gateway_id is not null
                   group by outbound_gateway_id) as of_domains on of_domains.id = gateway.id
        left join (select outbound_gateway_id as id, count(*) as accounts from mail_account
                   where organization_id = $1 and outbound_gateway_id is not null
                     and ($2::uuid is null or outbound_gateway_id = $2)
                   group by outbound_gateway_id) as of_accounts on of_accounts.id = gateway.id
        left join (select waits_for as id, count(*) as messages from queued_message
                   where organization_id = $1 and waits_for is not null and ($2::uuid is null or waits_for = $2)
                   group by waits_for) as queued on queued.id = gateway.id
        where gateway.organization_id = $1 and ($2::uuid is null or gateway.id = $2)
        order by gateway.address
        "#,
        organization as OrganizationId,
        only as Option<GatewayId>,
    )
    .fetch_all(db)
    .await
}

/// How many gateways the organization has, and how many of them no scope points at. Each is asked for
/// one account that points at it: that is read from an index, however many there are.
pub async fn numbers(db: &mut PgConnection, organization: OrganizationId) -> Result<(i64, i64)> {
    let numbers = sqlx::query!(
        r#"
        select count(*) as "gateways!",
               count(*) filter (where not exists (select from organization
                                                  where id = $1 and gateway.id in (outbound_gateway_id, pending_gateway_id))
                                  and not exists (select from mail_domain
                                                  where organization_id = $1 and outbound_gateway_id = gateway.id)
                                  and not exists (select from mail_domain
                                                  where organization_id = $1 and pending_gateway_id = gateway.id)
                                  and not exists (select from mail_account
                                                  where organization_id = $1 and outbound_gateway_id = gateway.id offset 0)
                               ) as "unused!"
        from gateway where organization_id = $1
        "#,
        organization as OrganizationId,
    )
    .fetch_one(db)
    .await?;
    Ok((numbers.gateways, numbers.unused))
}

/// One immutable revision of a gateway.
#[derive(Debug, Clone)]
pub struct Revision {
    pub revision: i64,
    pub address: GatewayAddress,
    pub created_at: OffsetDateTime,
}

/// The revisions of a gateway, the latest first.
pub async fn revisions(
    db: &mut PgConnection,
    organization: OrganizationId,
    gateway: GatewayId,
) -> Result<Vec<Revision>> {
    sqlx::query_as!(
        Revision,
        r#"
        select revision, address as "address: GatewayAddress", created_at from gateway_revision
        where organization_id = $1 and gateway_id = $2
        order by revision desc
        "#,
        organization as OrganizationId,
        gateway as GatewayId,
    )
    .fetch_all(db)
    .await
}

/// The first accounts, by User ID, that have a gateway as their own.
pub async fn first_accounts(
    db: &mut PgConnection,
    organization: OrganizationId,
    gateway: GatewayId,
    limit: i64,
) -> Result<Vec<(AccountId, Mailbox)>> {
    sqlx::query!(
        r#"
        select id as "id: AccountId", user_id as "user_id: Mailbox" from mail_account
        where organization_id = $1 and outbound_gateway_id = $2
        order by user_id
        limit $3
        "#,
        organization as OrganizationId,
        gateway as GatewayId,
        limit,
    )
    .map(|row| (row.id, row.user_id))
    .fetch_all(db)
    .await
}

/// What became of removing a gateway.
#[derive(Debug, Clone)]
pub enum Removed {
    /// The organization has no such gateway.
    NotFound,
    /// A scope points at it, it stands in for another gateway, or mail waits for it; nothing was changed.
    InUse,
    Removed(GatewayAddress, Committed),
}

/// Removes a gateway, as one change, if nobody uses it and no mail waits for it. Its revisions are kept for Undo.
pub async fn remove(mut transaction: OrganizationTransaction, gateway: GatewayId, actor: &str) -> Result<Removed> {
    let organization = transaction.organization();
    let removed = sqlx::query!(
        r#"
        delete from gateway
        where organization_id = $1 and id = $2
          and not exists (select from organization where id = $1 and $2 in (outbound_gateway_id, pending_gateway_id))
          and not exists (select from mail_domain where organization_id = $1 and outbound_gateway_id = $2)
          and not exists (select from mail_domain where organization_id = $1 and pending_gateway_id = $2)
          and not exists (select from mail_account where organization_id = $1 and outbound_gateway_id = $2)
          and not exists (select from queued_message where organization_id = $1 and waits_for = $2)
          and not exists (select from gateway_backup where organization_id = $1 and backup_id = $2)
          and not exists (select from gateway other
                          join gateway_revision wanted on wanted.organization_id = $1 and wanted.gateway_id = other.id
                                                      and wanted.revision = other.pending_revision
                          where other.organization_id = $1 and other.pending_revision is not null
                            and $2 = any (wanted.backups))
        returning address as "address: GatewayAddress", revision
        "#,
        organization as OrganizationId,
        gateway as GatewayId,
    )
    .fetch_optional(&mut *transaction)
    .await;
    let removed = match removed {
        // Somebody has pointed at it in this moment.
        Err(error) if error.as_database_error().is_some_and(|error| error.is_foreign_key_violation()) => {
            return Ok(Removed::InUse);
        }
        removed => removed?,
    };
    let Some(removed) = removed else {
        let is_there = !overview(&mut transaction, organization, Some(gateway)).await?.is_empty();
        return Ok(if is_there { Removed::InUse } else { Removed::NotFound });
    };
    let item = ChangeItem {
        subject: Subject::Gateway,
        key: gateway.to_string(),
        before: Some(json!({ "address": removed.address.to_string(), "revision": removed.revision })),
        after: None,
    };
    let audit = AuditEntry {
        actor: actor.to_owned(),
        action: "gateway.remove",
        subject: removed.address.to_string(),
        before: Some(removed.address.to_string()),
        after: None,
    };
    let committed = transaction.commit_change(&[item], audit).await?;
    Ok(Removed::Removed(removed.address, committed))
}

/// A gateway that was removed, or that is there again because its removal was taken back.
#[derive(Debug, Clone)]
pub struct RecentRemoval {
    pub address: GatewayAddress,
    /// Whether it is there now.
    pub is_there: bool,
    /// Whether this change took the removal back.
    pub is_undo: bool,
}

/// What this change did to a gateway itself within the last ten minutes.
pub async fn recently_removed(
    db: &mut PgConnection,
    organization: OrganizationId,
    change: ChangeId,
) -> Result<Option<RecentRemoval>> {
    sqlx::query_as!(
        RecentRemoval,
        r#"
        select coalesce(item.before ->> 'address', item.after ->> 'address') as "address!: GatewayAddress",
               exists (select from gateway where gateway.organization_id = $1
                       and gateway.address = coalesce(item.before ->> 'address', item.after ->> 'address'))
                   as "is_there!",
               item.before is null as "is_undo!"
        from change
        join audit_entry on audit_entry.organization_id = change.organization_id and audit_entry.change_id = change.id
        join change_item item on item.organization_id = change.organization_id and item.change_id = change.id
                             and item.subject = 'gateway'
        where change.organization_id = $1 and change.id = $2
          and change.committed_at > now() - interval '10 minutes'
          and (audit_entry.action = 'gateway.remove' or change.undoes is not null)
        "#,
        organization as OrganizationId,
        change as ChangeId,
    )
    .fetch_optional(db)
    .await
}

/// What a pointer says or is to say once that is verified, where that is neither what an administrator saw nor what is to be set.
#[derive(Debug, Clone)]
pub struct ChangedMeanwhile {
    pub address: Option<GatewayAddress>,
    /// Who set it, and when, where that is recorded.
    pub by: Option<LastChange>,
}

/// Whether somebody else has changed a pointer since `actor` saw it say `seen`, which is empty for nothing. Locks the
/// pointer, so that it still holds when the pointer is set in the same transaction. `None` too if there is no such
/// pointer.
pub async fn changed_meanwhile(
    transaction: &mut OrganizationTransaction,
    scope: &PointerScope,
    seen: &str,
    address: Option<&GatewayAddress>,
    actor: &str,
) -> Result<Option<ChangedMeanwhile>> {
    let organization = transaction.organization();
    let Some(now) = pointer_for_update(transaction, organization, scope).await? else { return Ok(None) };
    let shown = now.wanted().map(ToString::to_string).unwrap_or_default();
    if shown == seen || now.wanted() == address {
        return Ok(None);
    }
    let by =
        change::last_of(transaction, organization, (scope.subject().as_str(), &scope.key(organization)), None).await?;
    let on_behalf = super::pending_gateway::on_behalf_of(actor);
    let by_themselves = by.as_ref().is_some_and(|by| by.actor == actor || by.actor == on_behalf);
    Ok((!by_themselves).then_some(ChangedMeanwhile { address: now.wanted().cloned(), by }))
}
