//! Changes: what was touched, the audit entry, the revision and the one notification, all in the
//! transaction that made the change.

use serde_json::Value;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{OrganizationTransaction, Result};
use crate::mail::id::{ChangeId, OrganizationId, Revision};

/// Something that routing knows, by the key under which it knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    Organization,
    Domain,
    Account,
    Gateway,
    Credential,
    List,
}

impl Subject {
    /// The word in the column `change_item.subject`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Organization => "organization",
            Self::Domain => "domain",
            Self::Account => "account",
            Self::Gateway => "gateway",
            Self::Credential => "credential",
            Self::List => "list",
        }
    }
}

/// One thing that a change touched. `before` and `after` are objects with the fields that the change
/// set, so that it can be taken back: `before` is `None` for what was added, `after` for what was deleted.
///
/// | subject | fields |
/// |---|---|
/// | organization | `outbound_gateway`, `pending_gateway`, `verify_before_live`, `must_use_gateway`, `refuse_unknown_senders`, `probe_sender`, `large_list`, `gateway_networks`; `sending_limit` or `sender_control`, with whose it is |
/// | domain | `outbound_gateway`, `pending_gateway`, `inbound_host` |
/// | account | `user_id`, `name`, `status`, `external_id`, `outbound_gateway`, `addresses` (all of them, the User ID included, sorted) |
/// | gateway | `address`, `revision`: what else it says stands in the revision |
/// | credential | `name`, `addresses`, `domains`, `networks`, `messages_per_minute`, `allow_bare_line_feeds`, `revoked`. One that is made was revoked before: its record stays |
/// | list | `address`, `name`, `status`, `may_send`, `senders`, `approval`, `expands`, `large_allowed`, `members` |
///
/// `outbound_gateway` and `pending_gateway` are a gateway's id or null.
#[derive(Debug, Clone)]
pub struct ChangeItem {
    pub subject: Subject,
    /// The id of an organization, account, gateway, credential or list, or the name of a mail domain.
    pub key: String,
    pub before: Option<Value>,
    pub after: Option<Value>,
}

/// What an audit entry says, in words.
#[derive(Debug, Clone)]
pub struct AuditEntry {
    /// The administrator's address, or `operator`.
    pub actor: String,
    /// What was done, such as `gateway.set`.
    pub action: &'static str,
    /// To what: a User ID, a domain, `all users`.
    pub subject: String,
    pub before: Option<String>,
    pub after: Option<String>,
}

/// A change that is live as soon as every relay has confirmed its revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    pub id: ChangeId,
    pub revision: Revision,
}

/// A change that is being made: its audit entry is written, its items follow, and
/// [`finish_change`](OrganizationTransaction::finish_change) ends it. Dropped with its transaction it never was.
#[derive(Debug)]
#[must_use = "a change that is not finished never happens"]
pub struct OpenChange {
    pub id: ChangeId,
    items: usize,
}

impl OrganizationTransaction {
    /// Writes audit entry and items, takes the revision under its lock as the last statement,
    /// notifies the relays, and commits: all or nothing.
    pub async fn commit_change(mut self, items: &[ChangeItem], audit: AuditEntry) -> Result<Committed> {
        let mut change = self.open_change(ChangeId::new(), audit).await?;
        self.add_items(&mut change, items).await?;
        self.finish_change(change, None).await
    }

    /// Begins a change with its audit entry. For changes too large for their items to be held in
    /// memory: they are added piece by piece, or by a statement of the caller's own.
    pub async fn open_change(&mut self, id: ChangeId, audit: AuditEntry) -> Result<OpenChange> {
        let organization = self.organization();
        sqlx::query!(
            r#"
            insert into audit_entry (organization_id, change_id, actor, action, subject, before, after)
            values ($1, $2, $3, $4, $5, $6, $7)
            "#,
            organization as OrganizationId,
            id as ChangeId,
            audit.actor,
            audit.action,
            audit.subject,
            audit.before,
            audit.after,
        )
        .execute(&mut **self)
        .await?;
        Ok(OpenChange { id, items: 0 })
    }

    /// Adds items to a change, behind those that it has.
    pub async fn add_items(&mut self, change: &mut OpenChange, items: &[ChangeItem]) -> Result<()> {
        let organization = self.organization();
        for items in items.chunks(BATCH) {
            insert_batch(self, organization, change.id, change.items as i64, items).await?;
            change.items += items.len();
        }
        Ok(())
    }

    /// Takes the revision under its lock as the last statement, notifies the relays, and commits.
    /// `undoes` names the change that this one takes back.
    pub async fn finish_change(mut self, change: OpenChange, undoes: Option<ChangeId>) -> Result<Committed> {
        let committed = self.take_revision(change, undoes).await?;
        self.commit().await?;
        Ok(committed)
    }

    /// Writes down a decision that is made together with a change and that touches nothing which is routed by: a
    /// change of its own, in the same transaction. Nothing but the end of the other one comes after it.
    pub(super) async fn note(&mut self, audit: AuditEntry) -> Result<()> {
        let change = self.open_change(ChangeId::new(), audit).await?;
        self.take_revision(change, None).await.map(drop)
    }

    async fn take_revision(&mut self, change: OpenChange, undoes: Option<ChangeId>) -> Result<Committed> {
        let organization = self.organization();
        let revision = sqlx::query_scalar!(
            r#"select commit_change($1, $2, $3) as "revision!: Revision""#,
            organization as OrganizationId,
            change.id as ChangeId,
            undoes as Option<ChangeId>,
        )
        .fetch_one(&mut **self)
        .await?;
        Ok(Committed { id: change.id, revision })
    }
}

/// Items that are written with one statement.
const BATCH: usize = 10_000;

async fn insert_batch(
    transaction: &mut OrganizationTransaction,
    organization: OrganizationId,
    change: ChangeId,
    preceding: i64,
    items: &[ChangeItem],
) -> Result<()> {
    let subjects: Vec<String> = items.iter().map(|item| item.subject.as_str().to_owned()).collect();
    let keys: Vec<String> = items.iter().map(|item| item.key.clone()).collect();
    let before: Vec<Option<Value>> = items.iter().map(|item| item.before.clone()).collect();
    let after: Vec<Option<Value>> = items.iter().map(|item| item.after.clone()).collect();
    sqlx::query!(
        r#"
        insert into change_item (organization_id, change_id, position, subject, subject_key, before, after)
        select $1, $2, $7 + item.position, item.subject, item.key, item.before, item.after
        from unnest($3::text[], $4::text[], $5::jsonb[], $6::jsonb[])
             with ordinality as item (subject, key, before, after, position)
        "#,
        organization as OrganizationId,
        change as ChangeId,
        &subjects,
        &keys,
        &before as &[Option<Value>],
        &after as &[Option<Value>],
        preceding,
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}

/// Which relays have a change.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// How many relays are counted: all that have not signed off.
    pub relays: usize,
    /// How many of them route by the change.
    pub confirmed: usize,
    /// When each of those said so first, where that is still known: for a day.
    pub confirmations: Vec<Confirmation>,
    /// Those that are heard from and have not confirmed it yet.
    pub behind: Vec<String>,
    /// Those that have neither confirmed it nor been heard from for 60 s.
    pub silent: Vec<SilentRelay>,
    /// When the change was committed, if it is the organization's.
    pub saved_at: Option<OffsetDateTime>,
}

/// When a relay confirmed a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Confirmation {
    pub relay: String,
    pub at: OffsetDateTime,
}

/// A relay that may have vanished.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SilentRelay {
    pub name: String,
    pub last_seen_at: OffsetDateTime,
}

impl Progress {
    /// Whether waiting any longer would change nothing: every relay has confirmed or is silent.
    pub fn is_settled(&self) -> bool {
        self.confirmed + self.silent.len() == self.relays
    }
}

/// How far the relays are with a revision.
pub async fn progress(db: &mut PgConnection, revision: Revision) -> Result<Progress> {
    let relays = sqlx::query!(
        r#"
        select name, last_seen_at, confirmed_revision >= $1 as "confirmed!",
               last_seen_at < now() - interval '60 seconds' as "silent!",
               (select confirmed_at from relay_confirmation
                where relay_id = relay.id and relay_confirmation.revision >= $1
                order by relay_confirmation.revision limit 1) as confirmed_at,
               (select committed_at from change where change.revision = $1) as saved_at
        from relay where signed_off_at is null order by name
        "#,
        revision as Revision,
    )
    .fetch_all(db)
    .await?;
    let mut progress = Progress { relays: relays.len(), ..Progress::default() };
    for relay in relays {
        progress.saved_at = relay.saved_at;
        if relay.confirmed {
            progress.confirmed += 1;
            progress.confirmations.extend(relay.confirmed_at.map(|at| Confirmation { relay: relay.name, at }));
        } else if relay.silent {
            progress.silent.push(SilentRelay { name: relay.name, last_seen_at: relay.last_seen_at });
        } else {
            progress.behind.push(relay.name);
        }
    }
    Ok(progress)
}

/// A change of one pointer, as the page that made it reports on it.
#[derive(Debug, Clone)]
pub struct RecentChange {
    pub id: ChangeId,
    pub revision: Revision,
    /// What was done, such as `gateway.set`.
    pub action: String,
    /// The gateway address that was set; `None` if it was deleted.
    pub after: Option<String>,
    /// The one that was set before; `None`: there was none.
    pub before: Option<String>,
    pub committed_at: OffsetDateTime,
    /// When the change was made that this one takes back.
    pub undone_from: Option<OffsetDateTime>,
}

/// A change of this subject that the organization made within the last ten minutes: later, a page
/// that is opened again has nothing to report. Another tenant's change is simply not found.
pub async fn recent(
    db: &mut PgConnection,
    organization: OrganizationId,
    change: ChangeId,
    subject: Subject,
    key: &str,
) -> Result<Option<RecentChange>> {
    sqlx::query_as!(
        RecentChange,
        r#"
        select change.id as "id: ChangeId", change.revision as "revision: Revision", audit_entry.action, audit_entry.after,
               audit_entry.before, change.committed_at, undone.committed_at as "undone_from?"
        from change
        join audit_entry on audit_entry.organization_id = change.organization_id and audit_entry.change_id = change.id
        left join change undone on undone.organization_id = change.organization_id and undone.id = change.undoes
        where change.organization_id = $1 and change.id = $2
          and change.committed_at > now() - interval '10 minutes'
          and exists (select from change_item
                      where change_item.organization_id = $1 and change_item.change_id = $2
                        and change_item.subject = $3 and change_item.subject_key = $4)
        "#,
        organization as OrganizationId,
        change as ChangeId,
        subject.as_str(),
        key,
    )
    .fetch_optional(db)
    .await
}

/// Whether the organization has made a change with this id.
pub async fn is_there(db: &mut PgConnection, organization: OrganizationId, change: ChangeId) -> Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from audit_entry where organization_id = $1 and change_id = $2) as "is_there!""#,
        organization as OrganizationId,
        change as ChangeId,
    )
    .fetch_one(db)
    .await
}

/// Who changed something last, and when.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LastChange {
    pub change: ChangeId,
    pub actor: String,
    pub at: OffsetDateTime,
}

/// The last change of a thing, named as in the items; with `since`, the last that is newer than that one.
pub async fn last_of(
    db: &mut PgConnection,
    organization: OrganizationId,
    (subject, key): (&str, &str),
    since: Option<ChangeId>,
) -> Result<Option<LastChange>> {
    // Ids are in the order of time to within the clocks of machines; revisions decide among the latest.
    sqlx::query_as!(
        LastChange,
        r#"
        select change.id as "change: ChangeId", audit_entry.actor, change.committed_at as at
        from (
            select change_id from change_item
            where organization_id = $1 and subject = $2 and subject_key = $3
            order by change_id desc limit 20
        ) latest
        join change on change.organization_id = $1 and change.id = latest.change_id
        join audit_entry on audit_entry.organization_id = $1 and audit_entry.change_id = latest.change_id
        where change.revision > coalesce(
            (select since.revision from change since where since.organization_id = $1 and since.id = $4), 0)
        order by change.revision desc limit 1
        "#,
        organization as OrganizationId,
        subject,
        key,
        since as Option<ChangeId>,
    )
    .fetch_optional(db)
    .await
}

/// The last change of a limit, or of what was said of a sender, that is newer than `since`. `like` is the object of such a
/// change's item.
pub(super) async fn last_of_limit(
    db: &mut PgConnection,
    organization: OrganizationId,
    like: &Value,
    since: ChangeId,
) -> Result<Option<LastChange>> {
    sqlx::query_as!(
        LastChange,
        r#"
        select change.id as "change: ChangeId", audit_entry.actor, change.committed_at as at
        from change_item item
        join change on change.organization_id = $1 and change.id = item.change_id
        join audit_entry on audit_entry.organization_id = $1 and audit_entry.change_id = item.change_id
        where item.organization_id = $1 and item.subject = 'organization'
          and ((item.after -> 'sending_limit') - 'limit' = ($2::jsonb -> 'sending_limit') - 'limit'
               or item.after -> 'sender_control' -> 'account' = $2 -> 'sender_control' -> 'account')
          and change.revision > coalesce(
              (select since.revision from change since where since.organization_id = $1 and since.id = $3), 0)
        order by change.revision desc limit 1
        "#,
        organization as OrganizationId,
        like,
        since as ChangeId,
    )
    .fetch_optional(db)
    .await
}

/// The User ID of the account with this key in the items, if there is one now.
pub async fn user_id_of(db: &mut PgConnection, organization: OrganizationId, key: &str) -> Result<Option<String>> {
    sqlx::query_scalar!(
        "select user_id from mail_account where organization_id = $1 and id = $2::text::uuid",
        organization as OrganizationId,
        key,
    )
    .fetch_optional(db)
    .await
}

/// The revision of the last change of any organization.
pub async fn current_revision(db: impl sqlx::PgExecutor<'_>) -> Result<Revision> {
    sqlx::query_scalar!(r#"select revision as "revision: Revision" from installation"#).fetch_one(db).await
}
