//! Mail that waits for a gateway, as administrators see it and decide about it. What relays do with it is
//! `queue`'s; a choice that is written here is carried out at their next look.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{
    OrganizationTransaction, Result,
    change::{AuditEntry, Committed},
    gateway::PointerScope,
};
use crate::{
    mail::{
        DomainName, GatewayAddress,
        id::{AccountId, ChangeId, GatewayId, OrganizationId},
    },
    policy::{
        routing::Scope,
        waiting::{Choice, HeldBecause},
    },
};

/// The columns by which a message knows the pointer that it waits by.
struct Columns<'a> {
    scope: Scope,
    account: Option<AccountId>,
    domain: Option<&'a DomainName>,
}

impl<'a> Columns<'a> {
    fn of(scope: &'a PointerScope) -> Self {
        match scope {
            PointerScope::Organization => Self { scope: Scope::Organization, account: None, domain: None },
            PointerScope::Domain(name) => Self { scope: Scope::Domain, account: None, domain: Some(name) },
            PointerScope::Account(account) => Self { scope: Scope::User, account: Some(*account), domain: None },
        }
    }
}

/// How many messages wait for a gateway because this scope points at it, but for those that wait for an administrator
/// first.
pub async fn count_by_pointer(
    db: &mut PgConnection,
    organization: OrganizationId,
    scope: &PointerScope,
    gateway: GatewayId,
) -> Result<i64> {
    let columns = Columns::of(scope);
    sqlx::query_scalar!(
        r#"
        select count(*) as "count!" from queued_message
        where organization_id = $1 and waits_for = $2 and waits_by = $3
          and ($4::uuid is null or sender_account = $4) and ($5::text is null or sender_domain = $5)
          and coalesce(held_because, '') not in ('over-limit', 'needs-approval')
        "#,
        organization as OrganizationId,
        gateway as GatewayId,
        columns.scope as Scope,
        columns.account as Option<AccountId>,
        columns.domain as Option<&DomainName>,
    )
    .fetch_one(db)
    .await
}

/// Writes what becomes of those messages; `None`: they go on waiting. What a relay has at this moment it looks at
/// again when it is through.
pub(super) async fn choose_by_pointer(
    db: &mut PgConnection,
    organization: OrganizationId,
    scope: &PointerScope,
    gateway: GatewayId,
    choice: Option<Choice>,
) -> Result<()> {
    let columns = Columns::of(scope);
    sqlx::query!(
        r#"
        update queued_message
        set choice = $6,
            next_attempt_at = case when lease_token is null and $6::text is not null then now() else next_attempt_at end
        where organization_id = $1 and waits_for = $2 and waits_by = $3
          and ($4::uuid is null or sender_account = $4) and ($5::text is null or sender_domain = $5)
          and choice is distinct from $6
          -- About that an administrator decides by itself, whatever becomes of the gateway.
          and coalesce(held_because, '') not in ('over-limit', 'needs-approval')
        "#,
        organization as OrganizationId,
        gateway as GatewayId,
        columns.scope as Scope,
        columns.account as Option<AccountId>,
        columns.domain as Option<&DomainName>,
        choice as Option<Choice>,
    )
    .execute(db)
    .await
    .map(drop)
}

/// What an audit entry says about a choice that was made when a gateway was deleted.
pub(super) fn choice_entry(
    actor: &str,
    messages: i64,
    whose: &str,
    gateway: &GatewayAddress,
    choice: Option<Choice>,
) -> AuditEntry {
    let (action, after) = in_words(choice);
    let messages = match messages {
        1 => "1 waiting message".to_owned(),
        _ => format!("{messages} waiting messages"),
    };
    AuditEntry {
        actor: actor.to_owned(),
        action,
        subject: messages,
        before: Some(format!("waiting for {gateway}, the gateway of {whose}")),
        after: Some(after.to_owned()),
    }
}

/// The action of an audit entry, and what became of the mail.
fn in_words(choice: Option<Choice>) -> (&'static str, &'static str) {
    match choice {
        Some(Choice::Send) => ("mail.release", "sent by what applies"),
        Some(Choice::Return) => ("mail.return", "returned to the senders"),
        Some(Choice::Delete) => ("queue.delete", "deleted without a report"),
        None => ("mail.keep", "kept waiting"),
    }
}

/// What a group of held messages has in common.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeldFor {
    pub because: HeldBecause,
    pub waits_by: Option<Scope>,
    pub waits_for: Option<GatewayId>,
}

/// Held mail that is decided about together.
#[derive(Debug, Clone)]
pub struct HeldGroup {
    pub held_for: HeldFor,
    /// The gateway that it waits for, as long as the organization has it.
    pub address: Option<GatewayAddress>,
    pub messages: i64,
    pub senders: i64,
    /// When the oldest was accepted, and when it returns to its sender.
    pub since: OffsetDateTime,
    pub until: OffsetDateTime,
    /// Some of the senders, in the order of their addresses.
    pub first_senders: Vec<String>,
    /// Some of their mail domains that have no gateway yet and one that goes live when it has passed, in the order of
    /// their names.
    pub awaiting_domains: Vec<DomainName>,
}

/// How many senders of a group are named.
pub const NAMED_SENDERS: usize = 3;

/// All held mail about which nobody has decided yet, the largest group first.
pub async fn groups(db: &mut PgConnection, organization: OrganizationId) -> Result<Vec<HeldGroup>> {
    sqlx::query!(
        r#"
        select held_because as "because!: HeldBecause", waits_by as "waits_by: Scope",
               waits_for as "waits_for: GatewayId",
               (select address from gateway where gateway.organization_id = $1 and gateway.id = waits_for)
                   as "address: GatewayAddress",
               sum(messages)::bigint as "messages!", count(*) as "senders!", min(since) as "since!",
               min(until) as "until!",
               (array_agg(sender order by sender) filter (where place <= $2)) as "first_senders!: Vec<String>",
               array(select name from mail_domain
                     where organization_id = $1 and name = any(array_agg(by_sender.domain))
                       and outbound_gateway_id is null and pending_gateway_id is not null
                     order by name limit $2) as "awaiting_domains!: Vec<DomainName>"
        from (select held_because, waits_by, waits_for, sender, min(sender_domain) as domain, count(*) as messages,
                     min(accepted_at) as since, min(expires_at) as until,
                     row_number() over (partition by held_because, waits_by, waits_for order by sender) as place
              from queued_message
              where organization_id = $1 and state = 'held' and choice is null and held_because is not null
                and sender is not null
              group by held_because, waits_by, waits_for, sender) as by_sender
        group by held_because, waits_by, waits_for
        order by sum(messages) desc, held_because, waits_by, waits_for
        "#,
        organization as OrganizationId,
        NAMED_SENDERS as i64,
    )
    .map(|row| HeldGroup {
        held_for: HeldFor { because: row.because, waits_by: row.waits_by, waits_for: row.waits_for },
        address: row.address,
        messages: row.messages,
        senders: row.senders,
        since: row.since,
        until: row.until,
        first_senders: row.first_senders,
        awaiting_domains: row.awaiting_domains,
    })
    .fetch_all(db)
    .await
}

/// Decides about held mail of one group, as one change without items: nothing that routes is another. `None`
/// if there is none of it any more; nothing was changed.
pub async fn choose(
    mut transaction: OrganizationTransaction,
    held_for: HeldFor,
    choice: Choice,
    actor: &str,
) -> Result<Option<(i64, Committed)>> {
    let organization = transaction.organization();
    let done = sqlx::query!(
        r#"
        update queued_message
        set choice = $5, next_attempt_at = case when lease_token is null then now() else next_attempt_at end
        where organization_id = $1 and state = 'held' and choice is null and held_because = $2
          and waits_by is not distinct from $3 and waits_for is not distinct from $4
        "#,
        organization as OrganizationId,
        held_for.because as HeldBecause,
        held_for.waits_by as Option<Scope>,
        held_for.waits_for as Option<GatewayId>,
        choice as Choice,
    )
    .execute(&mut *transaction)
    .await?;
    let messages = i64::try_from(done.rows_affected()).unwrap_or(i64::MAX);
    if messages == 0 {
        return Ok(None);
    }
    let (action, after) = in_words(Some(choice));
    let audit = AuditEntry {
        actor: actor.to_owned(),
        action,
        subject: match messages {
            1 => "1 held message".to_owned(),
            _ => format!("{messages} held messages"),
        },
        before: Some(format!("held because {}", held_for.because.words())),
        after: Some(after.to_owned()),
    };
    let committed = transaction.commit_change(&[], audit).await?;
    Ok(Some((messages, committed)))
}

/// How many messages are held about which nobody has decided yet, but for those that leave by themselves once the
/// gateway of all users or of the sender's domain has passed its verification.
pub async fn count(db: &mut PgConnection, organization: OrganizationId) -> Result<i64> {
    sqlx::query_scalar!(
        r#"select count(*) as "count!" from queued_message
           where organization_id = $1 and state = 'held' and choice is null
             and (held_because is distinct from 'no-gateway'
                  or not exists (select from organization where id = $1 and outbound_gateway_id is null
                                                            and pending_gateway_id is not null)
                     and not exists (select from mail_domain
                                     where organization_id = $1 and name = sender_domain
                                       and outbound_gateway_id is null and pending_gateway_id is not null))"#,
        organization as OrganizationId,
    )
    .fetch_one(db)
    .await
}

/// A decision about held mail, as the page that made it reports on it.
#[derive(Debug, Clone)]
pub struct RecentChoice {
    /// How many messages, in words.
    pub subject: String,
    pub choice: Choice,
}

/// A decision that the organization made within the last ten minutes.
pub async fn recent(
    db: &mut PgConnection,
    organization: OrganizationId,
    change: ChangeId,
) -> Result<Option<RecentChoice>> {
    let found = sqlx::query!(
        r#"
        select audit_entry.subject, audit_entry.action = 'mail.return' as "is_return!"
        from change
        join audit_entry on audit_entry.organization_id = change.organization_id and audit_entry.change_id = change.id
        where change.organization_id = $1 and change.id = $2
          and change.committed_at > now() - interval '10 minutes'
          and audit_entry.action in ('mail.release', 'mail.return')
        "#,
        organization as OrganizationId,
        change as ChangeId,
    )
    .fetch_optional(db)
    .await?;
    Ok(found.map(|row| RecentChoice {
        subject: row.subject,
        choice: if row.is_return { Choice::Return } else { Choice::Send },
    }))
}

/// The mail that waits for one gateway.
#[derive(Debug, Clone)]
pub struct WaitingForGateway {
    pub messages: i64,
    /// Those of them that are held.
    pub held: i64,
    /// When the oldest was accepted; `None` if there is none.
    pub since: Option<OffsetDateTime>,
    /// What was last said of the newest of them.
    pub last_reply: Option<String>,
}

/// What waits for one gateway, whoever points at it.
pub async fn waiting_for(
    db: &mut PgConnection,
    organization: OrganizationId,
    gateway: GatewayId,
) -> Result<WaitingForGateway> {
    sqlx::query_as!(
        WaitingForGateway,
        r#"
        select count(*) as "messages!", count(*) filter (where state = 'held') as "held!", min(accepted_at) as since,
               (array_agg(last_reply order by accepted_at desc) filter (where last_reply is not null))[1] as last_reply
        from queued_message where organization_id = $1 and waits_for = $2
        "#,
        organization as OrganizationId,
        gateway as GatewayId,
    )
    .fetch_one(db)
    .await
}
