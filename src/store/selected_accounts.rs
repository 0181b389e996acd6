//! The gateways of many accounts, set or deleted as one change.
//! Which accounts: some that were ticked, or all that the list shows with a search and a filter.

use sqlx::PgConnection;

use super::{
    OrganizationTransaction, Result,
    account_list::{Search, Show},
    change::{self, AuditEntry, Committed, Subject},
    gateway,
};
use crate::mail::{
    GatewayAddress,
    id::{AccountId, ChangeId, GatewayId, OrganizationId, Revision},
};

/// Accounts that are written with one statement; the progress moves with each.
const BATCH: usize = 5_000;

/// Which accounts are meant. Those of another tenant, and those that are gone, are simply not among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Accounts {
    Ticked(Vec<AccountId>),
    /// Everything that the list shows, on all pages.
    Matching {
        search: String,
        show: Show,
    },
}

/// How many accounts are meant.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    pub accounts: i64,
    /// How many of them have a gateway of their own.
    pub with_own_gateway: i64,
}

/// What became of setting many pointers.
#[derive(Debug, Clone, Copy)]
pub enum Set {
    /// Another number of accounts is meant by now; nothing was changed.
    OtherNumber(i64),
    /// All of them said so already; nothing was changed.
    Unchanged,
    /// The same order was carried out before; nothing was changed now.
    Before,
    Changed(Committed),
}

/// What a statement asks the accounts for, in the order of its parameters from $2 on.
struct Conditions<'a> {
    ticked: Option<&'a [AccountId]>,
    search: Search,
    show: Show,
}

impl<'a> From<&'a Accounts> for Conditions<'a> {
    fn from(accounts: &'a Accounts) -> Self {
        match accounts {
            Accounts::Ticked(ticked) => Self { ticked: Some(ticked), search: Search::new(""), show: Show::All },
            Accounts::Matching { search, show } => Self { ticked: None, search: Search::new(search), show: *show },
        }
    }
}

/// A statement over the accounts that are meant.
macro_rules! over_accounts {
    ($query:ident, [$($row:ident)?], $select:tt, $end:tt, $organization:expr, $of:expr) => {
        sqlx::$query!(
            $($row,)?
            $select + " from mail_account account
             where organization_id = $1 and ($2::uuid[] is null or id = any ($2))
               and ($3 = '' or id in (select account_id from mail_account_search
                    where organization_id = $1 and (strpos(haystack, lower($3)) > 0 or strpos(haystack, $4) > 0)))
               and (not $5 or outbound_gateway_id is not null)
               and (not $6 or id in (select account_id from mail_in_trouble where organization_id = $1)
                    or status = 'active' and outbound_gateway_id is null
                       and domain in (select name from mail_domain where organization_id = $1 and outbound_gateway_id is null)
                       and (select holds_without_gateway and outbound_gateway_id is null from organization where id = $1)) "
                + $end,
            $organization as OrganizationId,
            $of.ticked as Option<&[AccountId]>,
            $of.search.part,
            $of.search.address,
            $of.show == Show::Own,
            $of.show == Show::Attention,
        )
    };
}

/// How many accounts are meant.
pub async fn count(db: &mut PgConnection, organization: OrganizationId, accounts: &Accounts) -> Result<Counted> {
    let of = Conditions::from(accounts);
    let counted = over_accounts!(
        query,
        [],
        "select count(*) as \"accounts!\", count(*) filter (where outbound_gateway_id is not null) as \"own!\"",
        "",
        organization,
        of
    )
    .fetch_one(db)
    .await?;
    Ok(Counted { accounts: counted.accounts, with_own_gateway: counted.own })
}

/// What is to be done, by whom.
#[derive(Debug, Clone)]
pub struct Order {
    pub accounts: Accounts,
    /// The change that it becomes, so that the same order given twice is one.
    pub change: ChangeId,
    /// How many accounts whoever confirmed it was told of.
    pub expected: i64,
    /// `None` deletes the accounts' own gateways.
    pub address: Option<GatewayAddress>,
    pub actor: String,
    /// So many accounts in words, for the audit entry.
    pub in_words: fn(i64) -> String,
}

/// Points all of these accounts at the organization's gateway with this address, made if it is new, or at none, as
/// one change. `written` is told how many of them are done.
pub async fn set(mut transaction: OrganizationTransaction, order: &Order, written: impl Fn(i64)) -> Result<Set> {
    let organization = transaction.organization();
    let mut pointers = pointers_for_update(&mut transaction, organization, &order.accounts).await?;
    if change::is_there(&mut transaction, organization, order.change).await? {
        return Ok(Set::Before);
    }
    let total = number_of(&pointers);
    if total != order.expected {
        return Ok(Set::OtherNumber(total));
    }
    let mut items = Vec::new();
    let gateway = match &order.address {
        Some(address) => Some(gateway::find_or_create(&mut transaction, organization, address, &mut items).await?),
        None => None,
    };
    pointers.retain(|pointer| pointer.gateway != gateway);
    if pointers.is_empty() {
        return Ok(Set::Unchanged);
    }
    let audit = AuditEntry {
        actor: order.actor.clone(),
        action: if gateway.is_some() { "gateway.set" } else { "gateway.delete" },
        subject: (order.in_words)(number_of(&pointers)),
        before: None,
        after: order.address.as_ref().map(ToString::to_string),
    };
    let mut change = transaction.open_change(order.change, audit).await?;
    transaction.add_items(&mut change, &items).await?;
    let (mut position, so_already) = (number_of(&items), total - number_of(&pointers));
    for batch in pointers.chunks(BATCH) {
        write(&mut transaction, organization, batch, gateway, change.id, position).await?;
        position += number_of(batch);
        written(so_already + position - number_of(&items));
    }
    transaction.finish_change(change, None).await.map(Set::Changed)
}

fn number_of<T>(of: &[T]) -> i64 {
    i64::try_from(of.len()).unwrap_or(i64::MAX)
}

/// What one account points at.
struct Pointer {
    account: AccountId,
    gateway: Option<GatewayId>,
}

/// What the accounts point at, with their rows locked, so that two changes of one come one after the other.
async fn pointers_for_update(
    db: &mut PgConnection,
    organization: OrganizationId,
    accounts: &Accounts,
) -> Result<Vec<Pointer>> {
    let of = Conditions::from(accounts);
    over_accounts!(
        query_as,
        [Pointer],
        "select id as \"account: AccountId\", outbound_gateway_id as \"gateway: GatewayId\"",
        "order by id for no key update of account",
        organization,
        of
    )
    .fetch_all(db)
    .await
}

/// Writes pointers and their items.
async fn write(
    db: &mut PgConnection,
    organization: OrganizationId,
    pointers: &[Pointer],
    gateway: Option<GatewayId>,
    change: ChangeId,
    preceding: i64,
) -> Result<()> {
    let accounts: Vec<AccountId> = pointers.iter().map(|pointer| pointer.account).collect();
    let before: Vec<Option<GatewayId>> = pointers.iter().map(|pointer| pointer.gateway).collect();
    sqlx::query!(
        r#"
        with pointer as (
            select * from unnest($2::uuid[], $3::uuid[]) with ordinality as pointer (account, before, position)
        ), item as (
            insert into change_item (organization_id, change_id, position, subject, subject_key, before, after)
            select $1, $4, $5 + position, $6, account::text,
                   jsonb_build_object('outbound_gateway', before), jsonb_build_object('outbound_gateway', $7::uuid)
            from pointer
        )
        update mail_account set outbound_gateway_id = $7
        from pointer where mail_account.organization_id = $1 and mail_account.id = pointer.account
        "#,
        organization as OrganizationId,
        &accounts as &[AccountId],
        &before as &[Option<GatewayId>],
        change as ChangeId,
        preceding,
        Subject::Account.as_str(),
        gateway as Option<GatewayId>,
    )
    .execute(db)
    .await
    .map(drop)
}

/// A change of many pointers, as the list reports on it.
#[derive(Debug, Clone)]
pub struct ChangedAccounts {
    pub revision: Revision,
    pub accounts: i64,
    /// The gateway that was set; `None` if they were deleted.
    pub gateway: Option<GatewayAddress>,
    /// Whether one of the accounts was changed again since.
    pub is_superseded: bool,
}

/// A change of many pointers that the organization made within the last ten minutes: later, a page that is opened
/// again has nothing to report. Another tenant's change is simply not found.
pub async fn recent(
    db: &mut PgConnection,
    organization: OrganizationId,
    change: ChangeId,
) -> Result<Option<ChangedAccounts>> {
    // The items of accounts come last and without a gap, so that their number need not be counted.
    let found = sqlx::query!(
        r#"
        select change.revision as "revision: Revision", entry.after as "gateway: GatewayAddress",
               1 + last.position - (select min(position) from change_item
                                    where organization_id = $1 and change_id = $2 and position <= 2
                                      and subject = 'account') as "accounts!",
               exists (select from change later
                       where later.organization_id = $1 and later.revision > change.revision) as "is_followed!"
        from change
        join audit_entry entry on entry.organization_id = change.organization_id and entry.change_id = change.id
        join lateral (select position, subject from change_item
                      where organization_id = $1 and change_id = $2 order by position desc limit 1) last
             on last.subject = 'account'
        where change.organization_id = $1 and change.id = $2 and entry.action in ('gateway.set', 'gateway.delete')
          and change.committed_at > now() - interval '10 minutes'
        "#,
        organization as OrganizationId,
        change as ChangeId,
    )
    .fetch_optional(&mut *db)
    .await?;
    let Some(found) = found else { return Ok(None) };
    let is_superseded = found.is_followed && is_superseded(db, organization, change, found.revision).await?;
    let accounts = i64::from(found.accounts);
    Ok(Some(ChangedAccounts { revision: found.revision, accounts, gateway: found.gateway, is_superseded }))
}

/// Whether a later change touched one of the same accounts.
async fn is_superseded(
    db: &mut PgConnection,
    organization: OrganizationId,
    change: ChangeId,
    revision: Revision,
) -> Result<bool> {
    sqlx::query_scalar!(
        r#"
        select exists (
            select from change later
            join change_item again on again.organization_id = $1 and again.change_id = later.id
                                  and again.subject = 'account'
            join change_item item on item.organization_id = $1 and item.change_id = $2
                                 and item.subject = 'account' and item.subject_key = again.subject_key
            where later.organization_id = $1 and later.revision > $3) as "is_superseded!"
        "#,
        organization as OrganizationId,
        change as ChangeId,
        revision as Revision,
    )
    .fetch_one(db)
    .await
}
