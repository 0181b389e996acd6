//! Distribution lists: made, edited and deleted by administrators, followed by the relays.
//! What they mean is `policy::distribution_list`'s; the relays read them with `routing_facts`.

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use sqlx::PgConnection;

use super::{
    OrganizationTransaction, Result, account,
    change::{self, AuditEntry, ChangeItem, Committed, LastChange, Subject},
    relay,
};
use crate::{
    mail::{
        Mailbox,
        id::{ChangeId, ListId, OrganizationId, Revision},
    },
    policy::distribution_list::{Approval, MaySend},
};

/// How many an organization can have.
pub const MOST_LISTS: i64 = 2_000;
/// Rows of one page of the table.
pub const PAGE: i64 = 50;

/// What administrators decide about a list.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    pub name: String,
    pub disabled: bool,
    pub may_send: MaySend,
    pub senders: Vec<Mailbox>,
    pub approval: Approval,
    pub expands: bool,
    pub large_allowed: bool,
    /// In the order in which they were given.
    pub members: Vec<Mailbox>,
}

impl Terms {
    /// The fields of change items.
    fn fields(&self) -> Map<String, Value> {
        let texts = |addresses: &[Mailbox]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
        // As the store gives them back: their order says nothing.
        let mut senders = texts(&self.senders);
        senders.sort_unstable();
        let fields = json!({
            "name": self.name,
            "status": if self.disabled { "disabled" } else { "enabled" },
            "may_send": self.may_send.to_string(),
            "senders": senders,
            "approval": self.approval.to_string(),
            "expands": self.expands,
            "large_allowed": self.large_allowed,
            "members": texts(&self.members),
        });
        match fields {
            Value::Object(fields) => fields,
            _ => Map::new(),
        }
    }

    /// Tells whether a form was shown with these.
    pub fn seen(&self) -> String {
        let digest = Sha256::digest(Value::Object(self.fields()).to_string());
        digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    /// In one line, as audit entries have them.
    fn in_words(&self) -> String {
        let members = self.members.len();
        let state = if self.disabled { ", disabled" } else { "" };
        let approval = match self.approval {
            Approval::Nobody => String::new(),
            approval => format!(", {} need approval", approval.in_words()),
        };
        format!("{}: {members} members, {} may send{approval}{state}", self.name, self.may_send.in_words())
    }
}

/// One list with everything that stands in the store about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct List {
    pub id: ListId,
    pub address: Mailbox,
    pub terms: Terms,
}

/// What became of making one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Made {
    Made(Committed),
    /// There was one with this id already, as when a form is sent twice.
    Already,
    TooMany,
    /// An account or another list has the address: in words, which.
    Taken(String),
    /// The address is at none of the organization's mail domains.
    ForeignDomain,
    /// This relay does not know that messages may need approval.
    FormerRelay(String),
}

/// Makes a list. The change has the same id, so that what is asked for twice is made once.
pub async fn create(
    mut transaction: OrganizationTransaction,
    id: ListId,
    address: &Mailbox,
    terms: &Terms,
    actor: &str,
) -> Result<Made> {
    let organization = transaction.organization();
    // Nobody gives the address to an account meanwhile, and two lists are counted one after the other.
    account::lock_alone(&mut transaction, organization).await?;
    if find(&mut transaction, organization, id).await?.is_some()
        || change::is_there(&mut transaction, organization, ChangeId(id.0)).await?
    {
        return Ok(Made::Already);
    }
    if super::domain::list(&mut transaction, organization).await?.iter().all(|own| own.name != *address.domain()) {
        return Ok(Made::ForeignDomain);
    }
    if let Some(by) = holder(&mut transaction, organization, address).await? {
        return Ok(Made::Taken(by));
    }
    if count(&mut transaction, organization).await? >= MOST_LISTS {
        return Ok(Made::TooMany);
    }
    if let Some(relay) = in_the_way(&mut transaction, terms).await? {
        return Ok(Made::FormerRelay(relay));
    }
    sqlx::query!(
        r#"
        insert into distribution_list (organization_id, id, address, name, status, may_send, expands, large_allowed,
                                       approval)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9)
        "#,
        organization as OrganizationId,
        id as ListId,
        address as &Mailbox,
        terms.name,
        status(terms),
        terms.may_send as MaySend,
        terms.expands,
        terms.large_allowed,
        terms.approval as Approval,
    )
    .execute(&mut *transaction)
    .await?;
    write_addresses(&mut transaction, organization, id, terms).await?;
    let mut after = terms.fields();
    after.insert("address".to_owned(), json!(address.to_string()));
    let item = item(id, None, Some(after));
    let audit = entry(actor, "list.create", address, None, Some(terms.in_words()));
    let mut change = transaction.open_change(ChangeId(id.0), audit).await?;
    transaction.add_items(&mut change, &[item]).await?;
    transaction.finish_change(change, None).await.map(Made::Made)
}

fn status(terms: &Terms) -> &'static str {
    if terms.disabled { "disabled" } else { "enabled" }
}

fn item(id: ListId, before: Option<Map<String, Value>>, after: Option<Map<String, Value>>) -> ChangeItem {
    let (before, after) = (before.map(Value::Object), after.map(Value::Object));
    ChangeItem { subject: Subject::List, key: id.to_string(), before, after }
}

fn entry(
    actor: &str,
    action: &'static str,
    address: &Mailbox,
    before: Option<String>,
    after: Option<String>,
) -> AuditEntry {
    AuditEntry { actor: actor.to_owned(), action, subject: address.to_string(), before, after }
}

/// Who has an address, in words.
async fn holder(db: &mut PgConnection, organization: OrganizationId, address: &Mailbox) -> Result<Option<String>> {
    let account = sqlx::query_scalar!(
        r#"
        select account.user_id
        from mail_address held
        join mail_account account on account.organization_id = $1 and account.id = held.account_id
        where held.organization_id = $1 and held.address = $2
        "#,
        organization as OrganizationId,
        address as &Mailbox,
    )
    .fetch_optional(&mut *db)
    .await?;
    if let Some(user_id) = account {
        return Ok(Some(format!("the account {user_id}")));
    }
    let list = sqlx::query_scalar!(
        "select name from distribution_list where organization_id = $1 and address = $2",
        organization as OrganizationId,
        address as &Mailbox,
    )
    .fetch_optional(db)
    .await?;
    Ok(list.map(|name| format!("the distribution list {name}")))
}

/// The first of these addresses that is a list's.
pub(super) async fn first_among(
    db: &mut PgConnection,
    organization: OrganizationId,
    addresses: &[Mailbox],
) -> Result<Option<Mailbox>> {
    sqlx::query_scalar!(
        r#"
        select address as "address: Mailbox" from distribution_list
        where organization_id = $1 and address = any($2) order by address limit 1
        "#,
        organization as OrganizationId,
        &addresses.iter().map(ToString::to_string).collect::<Vec<_>>(),
    )
    .fetch_optional(db)
    .await
}

/// Members and named senders as the terms have them, in place of those that were there.
async fn write_addresses(db: &mut PgConnection, organization: OrganizationId, id: ListId, terms: &Terms) -> Result<()> {
    let texts = |addresses: &[Mailbox]| addresses.iter().map(ToString::to_string).collect::<Vec<_>>();
    sqlx::query!(
        "delete from list_member where organization_id = $1 and list_id = $2",
        organization as OrganizationId,
        id as ListId,
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        "delete from list_sender where organization_id = $1 and list_id = $2",
        organization as OrganizationId,
        id as ListId,
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        r#"
        insert into list_member (organization_id, list_id, address, position)
        select $1, $2, address, position from unnest($3::text[]) with ordinality as given (address, position)
        "#,
        organization as OrganizationId,
        id as ListId,
        &texts(&terms.members),
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        "insert into list_sender (organization_id, list_id, address) select $1, $2, unnest($3::text[])",
        organization as OrganizationId,
        id as ListId,
        &texts(&terms.senders),
    )
    .execute(db)
    .await
    .map(drop)
}

/// What became of a change of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edited {
    NotFound,
    /// It was so already; nothing was changed.
    Unchanged,
    /// Somebody else has changed it since the form was shown; nothing was changed. The list as it is now.
    Meanwhile(Box<List>, Option<LastChange>),
    /// This relay does not know that messages may need approval; nothing was changed.
    FormerRelay(String),
    Changed(Committed),
}

/// A relay that would let through what is to be approved, if the terms say that something is.
async fn in_the_way(db: &mut PgConnection, terms: &Terms) -> Result<Option<String>> {
    match terms.approval {
        Approval::Nobody => Ok(None),
        Approval::Others | Approval::Everybody => relay::without_approval(db).await,
    }
}

/// Gives a list other terms; `seen` is [`Terms::seen`] of those that the form was shown with.
pub async fn edit(
    mut transaction: OrganizationTransaction,
    id: ListId,
    terms: &Terms,
    seen: &str,
    actor: &str,
) -> Result<Edited> {
    let organization = transaction.organization();
    let Some(present) = find_for_update(&mut transaction, organization, id).await? else {
        return Ok(Edited::NotFound);
    };
    if present.terms.fields() == terms.fields() {
        return Ok(Edited::Unchanged);
    }
    if present.terms.seen() != seen {
        return meanwhile(&mut transaction, organization, present).await;
    }
    if let Some(relay) = in_the_way(&mut transaction, terms).await? {
        return Ok(Edited::FormerRelay(relay));
    }
    sqlx::query!(
        r#"
        update distribution_list
        set name = $3, status = $4, may_send = $5, expands = $6, large_allowed = $7, approval = $8
        where organization_id = $1 and id = $2
        "#,
        organization as OrganizationId,
        id as ListId,
        terms.name,
        status(terms),
        terms.may_send as MaySend,
        terms.expands,
        terms.large_allowed,
        terms.approval as Approval,
    )
    .execute(&mut *transaction)
    .await?;
    write_addresses(&mut transaction, organization, id, terms).await?;
    let (mut before, mut after) = (present.terms.fields(), terms.fields());
    before.retain(|field, value| after.get(field) != Some(&*value));
    after.retain(|field, _| before.contains_key(field));
    let words = (Some(present.terms.in_words()), Some(terms.in_words()));
    let audit = entry(actor, "list.edit", &present.address, words.0, words.1);
    let item = item(id, Some(before), Some(after));
    transaction.commit_change(&[item], audit).await.map(Edited::Changed)
}

async fn meanwhile(db: &mut PgConnection, organization: OrganizationId, present: List) -> Result<Edited> {
    let key = present.id.to_string();
    let by = change::last_of(db, organization, (Subject::List.as_str(), &key), None).await?;
    Ok(Edited::Meanwhile(Box::new(present), by))
}

/// Deletes a list, if it is as it was seen. Mail to its address goes on as to any other from then on.
pub async fn delete(mut transaction: OrganizationTransaction, id: ListId, seen: &str, actor: &str) -> Result<Edited> {
    let organization = transaction.organization();
    let Some(present) = find_for_update(&mut transaction, organization, id).await? else {
        return Ok(Edited::NotFound);
    };
    if present.terms.seen() != seen {
        return meanwhile(&mut transaction, organization, present).await;
    }
    sqlx::query!(
        "delete from distribution_list where organization_id = $1 and id = $2",
        organization as OrganizationId,
        id as ListId,
    )
    .execute(&mut *transaction)
    .await?;
    let mut before = present.terms.fields();
    before.insert("address".to_owned(), json!(present.address.to_string()));
    let audit = entry(actor, "list.delete", &present.address, Some(present.terms.in_words()), None);
    let item = item(id, Some(before), None);
    transaction.commit_change(&[item], audit).await.map(Edited::Changed)
}

async fn find_for_update(db: &mut PgConnection, organization: OrganizationId, id: ListId) -> Result<Option<List>> {
    sqlx::query_scalar!(
        "select 1 as one from distribution_list where organization_id = $1 and id = $2 for update",
        organization as OrganizationId,
        id as ListId,
    )
    .fetch_optional(&mut *db)
    .await?;
    find(db, organization, id).await
}

/// One list. Another tenant's is simply not found.
pub async fn find(db: &mut PgConnection, organization: OrganizationId, id: ListId) -> Result<Option<List>> {
    sqlx::query!(
        r#"
        select id as "id: ListId", address as "address: Mailbox", name, status = 'disabled' as "disabled!",
               may_send as "may_send: MaySend", expands, large_allowed, approval as "approval: Approval",
               array(select member.address from list_member member
                     where member.organization_id = $1 and member.list_id = $2 order by position)
                   as "members!: Vec<Mailbox>",
               array(select sender.address from list_sender sender
                     where sender.organization_id = $1 and sender.list_id = $2 order by sender.address)
                   as "senders!: Vec<Mailbox>"
        from distribution_list where organization_id = $1 and id = $2
        "#,
        organization as OrganizationId,
        id as ListId,
    )
    .map(|row| List {
        id: row.id,
        address: row.address,
        terms: Terms {
            name: row.name,
            disabled: row.disabled,
            may_send: row.may_send,
            senders: row.senders,
            approval: row.approval,
            expands: row.expands,
            large_allowed: row.large_allowed,
            members: row.members,
        },
    })
    .fetch_optional(db)
    .await
}

/// One list as the table has it.
#[derive(Debug, Clone)]
pub struct ListedList {
    pub id: ListId,
    pub address: Mailbox,
    pub name: String,
    pub disabled: bool,
    pub may_send: MaySend,
    pub approval: Approval,
    pub large_allowed: bool,
    pub members: i64,
}

/// Where a page of the table begins or ends.
#[derive(Debug, Clone, Copy)]
pub enum Start<'a> {
    /// Behind this address; behind an empty one are all.
    After(&'a str),
    /// Up to the one before this address.
    Before(&'a str),
}

/// At most [`PAGE`] lists by address, and whether there are more in that direction.
pub async fn page(
    db: &mut PgConnection,
    organization: OrganizationId,
    start: Start<'_>,
) -> Result<(Vec<ListedList>, bool)> {
    let (after, before) = match start {
        Start::After(address) => (Some(address), None),
        Start::Before(address) => (None, Some(address)),
    };
    let mut rows = sqlx::query_as!(
        ListedList,
        r#"
        select list.id as "id: ListId", list.address as "address: Mailbox", list.name,
               list.status = 'disabled' as "disabled!", may_send as "may_send: MaySend",
               approval as "approval: Approval", large_allowed, members.count as "members!"
        from distribution_list list
        cross join lateral (select count(*) from list_member
                            where list_member.organization_id = $1 and list_member.list_id = list.id) members
        where list.organization_id = $1 and ($2::text is null or list.address > $2)
          and ($3::text is null or list.address < $3)
        order by case when $3 is null then list.address end, case when $3 is not null then list.address end desc
        limit $4
        "#,
        organization as OrganizationId,
        after,
        before,
        PAGE + 1,
    )
    .fetch_all(db)
    .await?;
    let more = rows.len() as i64 > PAGE;
    rows.truncate(PAGE as usize);
    if before.is_some() {
        rows.reverse();
    }
    Ok((rows, more))
}

/// How many lists the organization has.
pub async fn count(db: &mut PgConnection, organization: OrganizationId) -> Result<i64> {
    sqlx::query_scalar!(
        r#"select count(*) as "count!" from distribution_list where organization_id = $1"#,
        organization as OrganizationId,
    )
    .fetch_one(db)
    .await
}

/// With more recipients than this a list is large.
pub async fn large(db: &mut PgConnection, organization: OrganizationId) -> Result<i32> {
    sqlx::query_scalar!("select large_list from organization where id = $1", organization as OrganizationId)
        .fetch_one(db)
        .await
}

/// What became of setting it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Large {
    Unchanged,
    /// Somebody else has set it to this since the form was shown.
    Meanwhile(i32),
    Changed(Committed),
}

/// Sets from which size on a list is large, unless it is another than was `seen`.
pub async fn set_large(mut transaction: OrganizationTransaction, large: i32, seen: i32, actor: &str) -> Result<Large> {
    let organization = transaction.organization();
    let before = sqlx::query_scalar!(
        "select large_list from organization where id = $1 for no key update",
        organization as OrganizationId,
    )
    .fetch_one(&mut *transaction)
    .await?;
    if before == large {
        return Ok(Large::Unchanged);
    }
    if before != seen {
        return Ok(Large::Meanwhile(before));
    }
    sqlx::query!("update organization set large_list = $2 where id = $1", organization as OrganizationId, large,)
        .execute(&mut *transaction)
        .await?;
    let item = ChangeItem {
        subject: Subject::Organization,
        key: organization.to_string(),
        before: Some(json!({ "large_list": before })),
        after: Some(json!({ "large_list": large })),
    };
    let audit = AuditEntry {
        actor: actor.to_owned(),
        action: "list.large",
        subject: "all distribution lists".to_owned(),
        before: Some(before.to_string()),
        after: Some(large.to_string()),
    };
    transaction.commit_change(&[item], audit).await.map(Large::Changed)
}

/// What a change did to lists, for the line above their pages.
#[derive(Debug, Clone)]
pub struct RecentEdit {
    pub revision: Revision,
    /// What was done, such as `list.edit`.
    pub action: String,
    /// The address of the list, as it was.
    pub subject: String,
}

/// A change of lists that the organization made within the last ten minutes, of this list where one is given.
pub async fn recent(
    db: &mut PgConnection,
    organization: OrganizationId,
    change: ChangeId,
    list: Option<ListId>,
) -> Result<Option<RecentEdit>> {
    sqlx::query_as!(
        RecentEdit,
        r#"
        select change.revision as "revision: Revision", entry.action, entry.subject
        from change
        join audit_entry entry on entry.organization_id = change.organization_id and entry.change_id = change.id
        where change.organization_id = $1 and change.id = $2
          and change.committed_at > now() - interval '10 minutes'
          and (entry.action like 'list.%' or exists (
              select from change_item item
              where item.organization_id = $1 and item.change_id = $2
                and (item.subject = 'list' or item.after ? 'large_list')))
          and ($3::text is null or exists (
              select from change_item item
              where item.organization_id = $1 and item.change_id = $2 and item.subject = 'list' and item.subject_key = $3))
        "#,
        organization as OrganizationId,
        change as ChangeId,
        list.map(|list| list.to_string()),
    )
    .fetch_optional(db)
    .await
}
