//! Takes a change back: a new change that restores what was before, if nothing newer stands in the way.
//! Reads the items by the table at [`ChangeItem`](super::change::ChangeItem), a hundred thousand as one.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{
    OrganizationTransaction, Result,
    change::{AuditEntry, Committed},
};
use crate::{
    mail::id::{ChangeId, OrganizationId, Revision},
    policy::limit::SetAt,
};

mod lists;
mod obstacle;
mod restore;

pub use obstacle::{Obstacle, Obstacles, What};

/// A change as who wants to take it back has to know it.
#[derive(Debug, Clone)]
pub struct Entry {
    pub id: ChangeId,
    pub revision: Revision,
    pub committed_at: OffsetDateTime,
    pub actor: String,
    /// What was done, such as `gateway.set`.
    pub action: String,
    pub subject: String,
    pub before: Option<String>,
    pub after: Option<String>,
    /// The change that this one took back.
    pub undoes: Option<ChangeId>,
    pub extent: Extent,
    /// Who has taken it back already.
    pub undone: Option<Undone>,
}

/// What a change touched, as far as its items tell.
#[derive(Debug, Clone, Default)]
pub struct Extent {
    /// How many pointers, accounts, limits, lists, and gateways that were removed or changed; those that were made are not
    /// counted, their records stay.
    pub things: i64,
    /// The organization's own row.
    organization: bool,
    /// Limits of the organization or of mail domains.
    limits_of_many: bool,
    /// Limits of accounts, and what was said of senders.
    senders: bool,
    domains: bool,
    accounts: bool,
    /// More of an account than its pointer.
    whole_accounts: bool,
    addresses: bool,
    user_ids: bool,
    /// Gateways that were removed, or whose record was changed.
    gateways: bool,
    /// Relay credentials.
    pub credentials: bool,
    /// Distribution lists.
    lists: bool,
    /// The only thing, where there is one.
    pub sole: Option<Thing>,
    /// Whether everything that is needed to restore it was written down.
    restorable: bool,
}

/// A thing that can be pointed at a gateway, by its key in the items.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Thing {
    /// `organization`, `domain`, `account`, `gateway`, `credential` or `list`.
    pub subject: String,
    pub key: String,
    /// Whether the change was about its pointer alone.
    pub pointer_only: bool,
    /// Whether it was only about whether mail must leave through a gateway.
    pub requirement_only: bool,
    /// Whether it was only about which gateways have to pass a verification before they go live.
    pub verify_before_live_only: bool,
    /// Whether it was only about senders that no account has.
    pub unknown_senders_only: bool,
    /// Whether it was only about whom verifications come from.
    pub probe_sender_only: bool,
    /// Whether it was only about the inbound host of a mail domain.
    pub inbound_host_only: bool,
    /// Whether it was the record of a gateway that stays.
    pub record_only: bool,
    /// Whether it was only about from which size on lists are large.
    pub large_list_only: bool,
    /// Whose limit it was, or of which sender something was said; `None` where it was neither.
    pub limited: Option<SetAt>,
}

impl Extent {
    /// Whether pointers or limits of the organization or of mail domains are among it, or gateways, credentials or lists
    /// themselves.
    pub fn is_of_organization(&self) -> bool {
        let of_many = self.limits_of_many || self.domains || self.gateways;
        of_many || self.organization || self.credentials || self.lists
    }

    /// Whether limits of accounts are among it, or what was said of senders.
    pub fn is_of_senders(&self) -> bool {
        self.senders
    }

    fn has_limits(&self) -> bool {
        self.limits_of_many || self.senders
    }

    /// Whether accounts are among it and nothing else.
    pub fn is_of_accounts(&self) -> bool {
        self.accounts && !self.is_of_organization()
    }

    /// Whether more of accounts than their pointers is among it.
    pub fn is_of_whole_accounts(&self) -> bool {
        self.whole_accounts
    }
}

/// A change that took another one back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Undone {
    pub change: ChangeId,
    pub by: String,
    pub at: OffsetDateTime,
}

/// Why a change can never be taken back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Impossible {
    /// Which organizations and mail domains there are, and what private networks gateways may be in, is the
    /// operator's to say.
    OfOperator,
    /// It changed no pointer and no account.
    NothingToRestore,
    /// What was there before was not written down.
    NotRecorded,
}

/// What became of taking a change back.
#[derive(Debug)]
pub enum Undo {
    /// The organization has no such change.
    NotFound,
    Impossible(Impossible),
    Already(Undone),
    /// Something newer stands in the way; nothing was changed.
    InTheWay(Obstacles),
    Done(Committed),
}

impl Entry {
    /// Why it cannot be taken back, whatever is there now.
    pub fn impossible(&self) -> Option<Impossible> {
        match self.action.as_str() {
            "organization.create" | "domain.add" | "network.allow" | "network.remove" => Some(Impossible::OfOperator),
            _ if self.extent.things == 0 => Some(Impossible::NothingToRestore),
            _ if !self.extent.restorable => Some(Impossible::NotRecorded),
            _ => None,
        }
    }
}

/// A change of the organization; another tenant's is simply not found.
pub async fn entry(db: &mut PgConnection, organization: OrganizationId, change: ChangeId) -> Result<Option<Entry>> {
    let row = sqlx::query!(
        r#"
        select change.revision as "revision: Revision", change.committed_at, change.undoes as "undoes: ChangeId",
               audit.actor, audit.action, audit.subject, audit.before, audit.after,
               later.id as "undone_by?: ChangeId", later.committed_at as "undone_at?", by_whom.actor as "undone_actor?"
        from change
        join audit_entry audit on audit.organization_id = $1 and audit.change_id = change.id
        left join change later on later.organization_id = $1 and later.undoes = change.id
        left join audit_entry by_whom on by_whom.organization_id = $1 and by_whom.change_id = later.id
        where change.organization_id = $1 and change.id = $2
        "#,
        organization as OrganizationId,
        change as ChangeId,
    )
    .fetch_optional(&mut *db)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let undone = match (row.undone_by, row.undone_at, row.undone_actor) {
        (Some(change), Some(at), Some(by)) => Some(Undone { change, by, at }),
        _ => None,
    };
    Ok(Some(Entry {
        id: change,
        revision: row.revision,
        committed_at: row.committed_at,
        actor: row.actor,
        action: row.action,
        subject: row.subject,
        before: row.before,
        after: row.after,
        undoes: row.undoes,
        extent: extent(db, organization, change).await?,
        undone,
    }))
}

/// Looks through the items once, however many there are.
async fn extent(db: &mut PgConnection, organization: OrganizationId, change: ChangeId) -> Result<Extent> {
    let row = sqlx::query!(
        r#"
        select count(*) filter (where is_thing) as "things!",
               coalesce(bool_or(subject = 'organization'
                                and fields - '{sending_limit,sender_control}'::text[] <> '{}'), false) as "organization!",
               coalesce(bool_or(fields -> 'sending_limit' ->> 'kind' <> 'account'), false) as "limits_of_many!",
               coalesce(bool_or(fields -> 'sending_limit' ->> 'kind' = 'account' or fields ? 'sender_control'),
                        false) as "senders!",
               min(coalesce(fields -> 'sending_limit' ->> 'kind',
                            case when fields ? 'sender_control' then 'account' end)) as limited_kind,
               min(coalesce(fields -> 'sending_limit' ->> 'subject',
                            fields -> 'sender_control' ->> 'account')) as limited_subject,
               coalesce(bool_or(subject = 'domain'), false) as "domains!",
               coalesce(bool_or(subject = 'account'), false) as "accounts!",
               coalesce(bool_or(subject = 'account' and (not both_there or fields - 'outbound_gateway' <> '{}')),
                        false) as "whole_accounts!",
               coalesce(bool_or(is_thing and (not both_there
                                              or fields - '{outbound_gateway,pending_gateway}'::text[] <> '{}')),
                        false) as "more_than_pointers!",
               coalesce(bool_and(both_there and fields - 'verify_before_live' = '{}') filter (where is_thing),
                        false) as "verify_before_live_only!",
               coalesce(bool_and(both_there and fields - 'must_use_gateway' = '{}') filter (where is_thing),
                        false) as "requirement_only!",
               coalesce(bool_and(both_there and fields - 'refuse_unknown_senders' = '{}') filter (where is_thing),
                        false) as "unknown_senders_only!",
               coalesce(bool_and(both_there and fields - 'probe_sender' = '{}') filter (where is_thing),
                        false) as "probe_sender_only!",
               coalesce(bool_and(both_there and fields - 'inbound_host' = '{}') filter (where is_thing),
                        false) as "inbound_host_only!",
               coalesce(bool_or(subject = 'gateway' and is_thing), false) as "gateways!",
               coalesce(bool_and(subject = 'gateway' and both_there) filter (where is_thing), false) as "record_only!",
               coalesce(bool_and(both_there and fields - 'large_list' = '{}') filter (where is_thing),
                        false) as "large_list_only!",
               coalesce(bool_or(subject = 'credential'), false) as "credentials!",
               coalesce(bool_or(subject = 'list'), false) as "lists!",
               coalesce(bool_or(subject = 'account' and fields ? 'addresses'), false) as "addresses!",
               coalesce(bool_or(subject = 'account' and fields ? 'user_id'), false) as "user_ids!",
               coalesce(bool_and(case subject
                   when 'organization' then
                       both_there and fields - '{outbound_gateway,pending_gateway,verify_before_live,must_use_gateway,
                                                 refuse_unknown_senders,probe_sender,large_list,
                                                 sending_limit,sender_control}'::text[] = '{}'
                   when 'domain' then
                       both_there and fields - '{outbound_gateway,pending_gateway,inbound_host}'::text[] = '{}'
                   when 'account' then
                       fields - '{user_id,name,status,external_id,outbound_gateway,addresses}'::text[] = '{}'
                       and (both_there or fields ?& '{user_id,name,status,addresses}')
                   when 'credential' then both_there
                   when 'list' then
                       fields - '{address,name,status,may_send,senders,approval,expands,large_allowed,members}'::text[]
                       = '{}' and (both_there or fields ?& '{address,name,status,may_send,senders,expands,large_allowed,
                                                             members}')
                   else not is_thing or fields ?& '{address,revision}' end), true) as "restorable!",
               min(subject) filter (where is_thing) as subject,
               min(subject_key) filter (where is_thing) as key
        from (
            select subject, subject_key, before, before is not null and after is not null as both_there,
                   subject <> 'gateway' or before is not null as is_thing,
                   coalesce(before, '{}') || coalesce(after, '{}') as fields
            from change_item where organization_id = $1 and change_id = $2
        ) item
        "#,
        organization as OrganizationId,
        change as ChangeId,
    )
    .fetch_one(db)
    .await?;
    let (pointer_only, requirement_only) = (!row.more_than_pointers, row.requirement_only);
    let (inbound_host_only, record_only) = (row.inbound_host_only, row.record_only);
    let sole = row.subject.zip(row.key).filter(|_| row.things == 1);
    let limited = row.limited_kind.zip(row.limited_subject);
    let limited = limited.and_then(|(kind, subject)| super::limit::set_at(&kind, &subject).ok());
    Ok(Extent {
        things: row.things,
        organization: row.organization,
        limits_of_many: row.limits_of_many,
        senders: row.senders,
        domains: row.domains,
        accounts: row.accounts,
        whole_accounts: row.whole_accounts,
        addresses: row.addresses,
        user_ids: row.user_ids,
        gateways: row.gateways,
        credentials: row.credentials,
        lists: row.lists,
        sole: sole.map(|(subject, key)| Thing {
            subject,
            key,
            pointer_only,
            requirement_only,
            verify_before_live_only: row.verify_before_live_only,
            unknown_senders_only: row.unknown_senders_only,
            probe_sender_only: row.probe_sender_only,
            inbound_host_only,
            record_only,
            large_list_only: row.large_list_only,
            limited,
        }),
        restorable: row.restorable,
    })
}

/// Takes a change back, which is a change itself and can be taken back too. Either everything that the
/// change set is as it left it, and all of it is restored, or nothing is changed.
pub async fn undo(mut transaction: OrganizationTransaction, change: ChangeId, actor: &str) -> Result<Undo> {
    let organization = transaction.organization();
    // Of two at once the second waits here, and then sees that it was done.
    sqlx::query!("select pg_advisory_xact_lock(hashtextextended('outgate undo ' || $1::text, 0))", change.to_string())
        .execute(&mut *transaction)
        .await?;
    let Some(entry) = entry(&mut transaction, organization, change).await? else { return Ok(Undo::NotFound) };
    if let Some(undone) = entry.undone {
        return Ok(Undo::Already(undone));
    }
    if let Some(why) = entry.impossible() {
        return Ok(Undo::Impossible(why));
    }
    restore::lock_list(&mut transaction, organization, &entry.extent).await?;
    restore::plan_for(&mut transaction, &entry.extent).await?;
    restore::lock(&mut transaction, organization, change, &entry.extent).await?;
    let audit = AuditEntry {
        actor: actor.to_owned(),
        action: if entry.action == UNDO { REDO } else { UNDO },
        subject: entry.subject,
        before: entry.after,
        after: entry.before,
    };
    let new = transaction.open_change(ChangeId::new(), audit).await?;
    restore::mirror(&mut transaction, organization, change, new.id).await?;
    let obstacles = obstacle::find(&mut transaction, organization, change, new.id).await?;
    if obstacles.count > 0 {
        return Ok(Undo::InTheWay(obstacles));
    }
    restore::restore(&mut transaction, organization, change, new.id, &entry.extent).await?;
    transaction.finish_change(new, Some(change)).await.map(Undo::Done)
}

/// The action of a change that took another one back.
pub const UNDO: &str = "change.undo";
/// The action of a change that took back an undo.
pub const REDO: &str = "change.redo";
