//! Gateways that were saved and go live when they have passed their verification: which are pending, and what becomes
//! of them. When one has to pass first is `policy::going_live`'s; relays follow what is live and know nothing of this.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{
    OrganizationTransaction, Result, WebStore,
    change::{AuditEntry, Committed},
    gateway::{self, Pointer, PointerScope, Set},
    gateway_health, organization, pending_record,
    verification::{self, Verification, Wanted},
};
use crate::{
    mail::{
        DomainName, GatewayAddress,
        id::{ChangeId, GatewayId, OrganizationId, VerificationId},
    },
    policy::{
        explanation::Explanation,
        facts::Decision,
        going_live::{self, Because, Former, GoesLive, VerifyBeforeLive, goes_live},
        routing::Scope,
    },
};

/// The action of a change after which a gateway waits for its verification.
pub const PENDING: &str = "gateway.pending";
/// The action of a change by which one went live that has passed.
pub const LIVE: &str = "gateway.live";
/// The action of a change by which one went live that has not passed.
pub const USED_ANYWAY: &str = "gateway.use-anyway";
/// The action of a change after which one is not wanted any more.
pub const GIVEN_UP: &str = "gateway.give-up";

/// The actor of what happens by itself after somebody's save.
pub(super) fn on_behalf_of(actor: &str) -> String {
    format!("Outgate for {actor}")
}

/// What became of saving a gateway.
#[derive(Debug, Clone)]
pub enum Saved {
    /// It is live at once, if anything was changed at all; why.
    AtOnce(Set, Because),
    /// It goes live when it has passed its verification.
    Pending(Committed),
    /// It was pending there already.
    Already,
}

/// Points a scope at the organization's gateway with this address, as [`gateway::set`] does: at once, or when it has
/// passed its verification, as the organization wants it. Somebody has to [`look`] after it then.
pub async fn set(
    mut transaction: OrganizationTransaction,
    scope: &PointerScope,
    address: Option<&GatewayAddress>,
    actor: &str,
) -> Result<Saved> {
    let organization = transaction.organization();
    let Some(before) = gateway::pointer_for_update(&mut transaction, organization, scope).await? else {
        return Ok(Saved::AtOnce(Set::NotFound, Because::NotWanted));
    };
    let goes_live = match address {
        Some(address) if before.wanted() == Some(address) && before.pending.is_some() => return Ok(Saved::Already),
        Some(address) if before.address.as_ref() != Some(address) => {
            decide(&mut transaction, scope, &before, address).await?
        }
        Some(_) | None => GoesLive::AtOnce(Because::NotWanted),
    };
    let address = match (goes_live, address) {
        (GoesLive::WhenVerified, Some(address)) => address,
        (GoesLive::AtOnce(because), _) => {
            let set = gateway::set(transaction, scope, address, actor).await?;
            return Ok(Saved::AtOnce(set, because));
        }
        (GoesLive::WhenVerified, None) => return Ok(Saved::AtOnce(Set::Unchanged, Because::NotWanted)),
    };
    let mut items = Vec::new();
    let pending = gateway::find_or_create(&mut transaction, organization, address, &mut items).await?;
    gateway::point(&mut transaction, organization, scope, before.gateway, Some(pending)).await?;
    items.push(gateway::pointer_item(scope, organization, None, Some((before.pending_id(), Some(pending)))));
    let audit = audit(PENDING, actor, before.subject, before.address.as_ref(), Some(address));
    transaction.commit_change(&items, audit).await.map(Saved::Pending)
}

async fn decide(
    transaction: &mut OrganizationTransaction,
    scope: &PointerScope,
    before: &Pointer,
    address: &GatewayAddress,
) -> Result<GoesLive> {
    let organization = transaction.organization();
    let wanted = match scope {
        PointerScope::Organization | PointerScope::Domain(_) => organization::verify_before_live(transaction).await?,
        // There is one for each of many thousands, and bulk changes and files set them: at once, as ever.
        PointerScope::Account(_) => VerifyBeforeLive::Never,
    };
    let former = match before.gateway {
        Some(gateway) => Some(former(transaction, organization, gateway).await?),
        None => None,
    };
    let goes_live = goes_live(wanted, former);
    if goes_live == GoesLive::WhenVerified && has_just_passed(transaction, organization, address).await? {
        return Ok(GoesLive::AtOnce(Because::HasPassed));
    }
    Ok(goes_live)
}

/// What is known of the gateway by its present revision.
pub(super) async fn former(db: &mut PgConnection, organization: OrganizationId, gateway: GatewayId) -> Result<Former> {
    let health = gateway_health::of(&mut *db, organization, Some(gateway)).await?.pop();
    // Of those that have ended: one that is under way says nothing yet.
    let passed = sqlx::query_scalar!(
        r#"
        select found.accepts as "accepts!"
        from verification asked
        join gateway on gateway.organization_id = $1 and gateway.id = asked.gateway_id
                    and gateway.revision = asked.revision
        cross join lateral verdict($1, asked.id, asked.requested_at) found (accepts)
        where asked.organization_id = $1 and asked.gateway_id = $2 and found.accepts is not null
          and asked.recipient is null and asked.test_message is null
        order by asked.requested_at desc limit 1
        "#,
        organization as OrganizationId,
        gateway as GatewayId,
    )
    .fetch_optional(&mut *db)
    .await?;
    Ok(Former {
        is_failing: health.as_ref().is_some_and(|health| health.failing_since.is_some()),
        took_mail: health.as_ref().is_some_and(|health| health.last_accepted_at.is_some()),
        passed: passed == Some(true),
    })
}

/// Whether what would be saved was verified a moment ago, as the form offers, and has passed at every relay. An
/// address that no gateway had was verified with the record that a new one gets.
async fn has_just_passed(
    db: &mut PgConnection,
    organization: OrganizationId,
    address: &GatewayAddress,
) -> Result<bool> {
    let asked = sqlx::query_scalar!(
        r#"
        select asked.id as "id: VerificationId"
        from verification asked
        left join gateway on gateway.organization_id = $1 and gateway.address = $2
        where asked.organization_id = $1 and asked.requested_at > now() - interval '5 minutes' and asked.recipient is null
          and asked.test_message is null and asked.address = $2
          and case when asked.gateway_id is null then coalesce(gateway.revision, 1) = 1
                   else asked.gateway_id = gateway.id and asked.revision = gateway.revision end
        order by asked.requested_at desc limit 1
        "#,
        organization as OrganizationId,
        address as &GatewayAddress,
    )
    .fetch_optional(&mut *db)
    .await?;
    let Some(asked) = asked else { return Ok(false) };
    let verification = verification::by_id(db, organization, asked).await?;
    Ok(verification.is_some_and(|verification| verification.accepts()))
}

fn audit(
    action: &'static str,
    actor: &str,
    subject: String,
    before: Option<&GatewayAddress>,
    after: Option<&GatewayAddress>,
) -> AuditEntry {
    let written = |address: Option<&GatewayAddress>| address.map(ToString::to_string);
    AuditEntry { actor: actor.to_owned(), action, subject, before: written(before), after: written(after) }
}

/// A gateway that is pending for all users or for a mail domain.
#[derive(Debug, Clone)]
pub struct Pending {
    /// Never an account.
    pub scope: PointerScope,
    pub gateway: GatewayId,
    pub address: GatewayAddress,
    /// The present one: a verification counts that is about it.
    pub revision: i64,
    /// What the scope points at until then.
    pub instead_of: Option<GatewayAddress>,
    pub since: OffsetDateTime,
    pub saved_by: Option<String>,
    /// The last verification since then.
    pub verification: Option<(VerificationId, Verification)>,
}

/// How its verification goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Check {
    UnderWay,
    /// By every relay that runs.
    Passed,
    /// A relay has found that the gateway does not accept our mail.
    Refused,
    /// Not every relay has answered in time.
    NotAnswered,
}

impl Check {
    /// `None`: nobody has asked yet.
    pub(super) fn of(verification: Option<&(VerificationId, Verification)>) -> Self {
        match verification {
            None => Self::UnderWay,
            Some((_, verification)) if verification.accepts() => Self::Passed,
            Some((_, verification)) if verification.refuses() => Self::Refused,
            Some((_, verification)) if verification.has_ended() => Self::NotAnswered,
            Some(_) => Self::UnderWay,
        }
    }
}

impl Pending {
    pub fn check(&self) -> Check {
        Check::of(self.verification.as_ref())
    }
}

/// What is to be done about something that is pending.
enum Next {
    MakeLive,
    /// It was not asked for yet, or a relay has come since.
    Ask,
    Wait,
    /// Somebody has it verified again, uses it anyway, or gives it up.
    Nothing,
}

impl Next {
    fn of(verification: Option<&(VerificationId, Verification)>) -> Self {
        // Relays run that were not there when it was asked, or were too late.
        let has_new_relays = verification.is_some_and(|(_, verification)| !verification.silent.is_empty());
        match Check::of(verification) {
            Check::Passed => Self::MakeLive,
            Check::UnderWay if verification.is_none() => Self::Ask,
            Check::UnderWay => Self::Wait,
            Check::NotAnswered if has_new_relays => Self::Ask,
            Check::Refused | Check::NotAnswered => Self::Nothing,
        }
    }
}

/// What is pending in the organization, first for all users, then by mail domain; only of one scope if it is named.
pub async fn list(
    db: &mut PgConnection,
    organization: OrganizationId,
    only: Option<&PointerScope>,
) -> Result<Vec<Pending>> {
    let (scope, domain) = match only {
        None => (None, None),
        Some(PointerScope::Organization) => (Some("organization"), None),
        Some(PointerScope::Domain(name)) => (Some("domain"), Some(name)),
        Some(PointerScope::Account(_)) => return Ok(Vec::new()),
    };
    let rows = sqlx::query!(
        r#"
        select pending.domain as "domain: DomainName", gateway.id as "gateway: GatewayId",
               gateway.address as "address: GatewayAddress", gateway.revision, pending.since as "since!",
               live.address as "instead_of?: GatewayAddress",
               (select audit.actor from change_item item
                join audit_entry audit on audit.organization_id = $1 and audit.change_id = item.change_id
                where item.organization_id = $1 and item.subject = pending.subject and item.subject_key = pending.key
                  and item.after ->> 'pending_gateway' = gateway.id::text
                order by item.change_id desc limit 1) as saved_by,
               (select asked.id from verification asked
                where asked.organization_id = $1 and asked.gateway_id = gateway.id and asked.revision = gateway.revision
                  and asked.recipient is null and asked.test_message is null and asked.requested_at >= pending.since
                order by asked.requested_at desc limit 1) as "verification: VerificationId"
        from (select 'organization' as subject, id::text as key, null::text as domain, pending_gateway_id as gateway,
                     outbound_gateway_id as live, pending_since as since
              from organization where id = $1 and pending_gateway_id is not null
              union all
              select 'domain', name, name, pending_gateway_id, outbound_gateway_id, pending_since
              from mail_domain where organization_id = $1 and pending_gateway_id is not null) pending
        join gateway on gateway.organization_id = $1 and gateway.id = pending.gateway
        left join gateway live on live.organization_id = $1 and live.id = pending.live
        where ($2::text is null or pending.subject = $2) and ($3::text is null or pending.domain = $3)
        order by pending.domain nulls first
        "#,
        organization as OrganizationId,
        scope,
        domain as Option<&DomainName>,
    )
    .fetch_all(&mut *db)
    .await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        let verification = match row.verification {
            Some(id) => verification::by_id(db, organization, id).await?.map(|verification| (id, verification)),
            None => None,
        };
        found.push(Pending {
            scope: row.domain.map_or(PointerScope::Organization, PointerScope::Domain),
            gateway: row.gateway,
            address: row.address,
            revision: row.revision,
            instead_of: row.instead_of,
            since: row.since,
            saved_by: row.saved_by,
            verification,
        });
    }
    Ok(found)
}

/// What is pending and would decide about the sender that is explained, each in a sentence.
pub async fn notes(db: &mut PgConnection, explanation: &Explanation) -> Result<Vec<String>> {
    let (Some(found), Decision::Route(decided)) = (&explanation.found, &explanation.decision) else {
        return Ok(Vec::new());
    };
    let of_domain = found.sender.domain();
    let scopes = [
        (Scope::Domain, PointerScope::Domain(of_domain.clone()), format!("the mail domain {}", of_domain.to_unicode())),
        (Scope::Organization, PointerScope::Organization, "all users".to_owned()),
    ];
    let mut notes = Vec::new();
    for (scope, pointer, whose) in scopes {
        // A nearer one decides, whatever goes live here.
        if decided.route.set_by >= scope {
            let pending = list(db, found.organization, Some(&pointer)).await?;
            notes.extend(pending.iter().map(|pending| going_live::note(&pending.address, &whose)));
        }
    }
    Ok(notes)
}

/// Looks after everything that is pending: has verified what is not, and makes live what has passed. Several processes
/// may look at once. Returns whether there is something to be looked after again soon.
pub async fn look(store: &WebStore) -> Result<bool> {
    let organizations =
        sqlx::query_scalar!(r#"select organizations_with_pending_gateway() as "organization!: OrganizationId""#)
            .fetch_all(store.pool())
            .await?;
    let (mut is_under_way, mut failed) = (false, None);
    for organization in organizations {
        // What is wrong with one is not to keep the others waiting.
        match look_at(store, organization).await {
            Ok(still) => is_under_way |= still,
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(is_under_way), Err)
}

async fn look_at(store: &WebStore, organization: OrganizationId) -> Result<bool> {
    let begin = || OrganizationTransaction::begin(store.pool(), organization);
    let mut transaction = begin().await?;
    let gateways = list(&mut transaction, organization, None).await?;
    let records = pending_record::list(&mut transaction, organization, None).await?;
    drop(transaction);
    let mut is_under_way = false;
    for pending in &gateways {
        let next = Next::of(pending.verification.as_ref());
        is_under_way |= matches!(next, Next::Ask | Next::Wait);
        match next {
            Next::MakeLive => {
                has_passed(begin().await?, pending).await?;
            }
            Next::Ask => {
                let mut transaction = begin().await?;
                ask(&mut transaction, pending).await?;
                transaction.commit().await?;
            }
            Next::Wait | Next::Nothing => {}
        }
    }
    for pending in &records {
        let next = Next::of(pending.verification.as_ref());
        is_under_way |= matches!(next, Next::Ask | Next::Wait);
        match next {
            Next::MakeLive => {
                pending_record::has_passed(begin().await?, pending).await?;
            }
            Next::Ask => {
                let mut transaction = begin().await?;
                pending_record::ask(&mut transaction, pending).await?;
                transaction.commit().await?;
            }
            Next::Wait | Next::Nothing => {}
        }
    }
    Ok(is_under_way)
}

async fn ask(transaction: &mut OrganizationTransaction, pending: &Pending) -> Result<()> {
    let organization = transaction.organization();
    let by = pending.saved_by.as_deref().unwrap_or("Outgate");
    let wanted = Wanted::of(Some(pending.gateway), &pending.address, by);
    // Where several others are under way it is asked at the next look.
    verification::ask(transaction, organization, &wanted).await.map(drop)
}

/// Makes live what has passed, unless it is not pending any more, or is no longer what was verified.
async fn has_passed(mut transaction: OrganizationTransaction, pending: &Pending) -> Result<Set> {
    let organization = transaction.organization();
    let Some(before) = still_pending(&mut transaction, &pending.scope, pending.gateway).await? else {
        return Ok(Set::Unchanged);
    };
    // Locked, so that its record stays what was verified until it is live.
    let revision = sqlx::query_scalar!(
        "select revision from gateway where organization_id = $1 and id = $2 for share",
        organization as OrganizationId,
        pending.gateway as GatewayId,
    )
    .fetch_one(&mut *transaction)
    .await?;
    if revision != pending.revision {
        return Ok(Set::Unchanged);
    }
    let actor = on_behalf_of(pending.saved_by.as_deref().unwrap_or("the organization"));
    make_live(transaction, &pending.scope, before, LIVE, &actor).await
}

/// The pointer, locked, if this gateway is pending there.
async fn still_pending(
    transaction: &mut OrganizationTransaction,
    scope: &PointerScope,
    gateway: GatewayId,
) -> Result<Option<Pointer>> {
    let organization = transaction.organization();
    let pointer = gateway::pointer_for_update(transaction, organization, scope).await?;
    Ok(pointer.filter(|pointer| pointer.pending_id() == Some(gateway)))
}

/// That it is not pending any more is no part of the change: taken back, the former gateway is used, and nothing pends.
async fn make_live(
    mut transaction: OrganizationTransaction,
    scope: &PointerScope,
    before: Pointer,
    action: &'static str,
    actor: &str,
) -> Result<Set> {
    let organization = transaction.organization();
    let Some((gateway, address)) = before.pending else { return Ok(Set::Unchanged) };
    gateway::point(&mut transaction, organization, scope, Some(gateway), None).await?;
    let item = gateway::pointer_item(scope, organization, Some((before.gateway, Some(gateway))), None);
    let audit = audit(action, actor, before.subject, before.address.as_ref(), Some(&address));
    transaction.commit_change(&[item], audit).await.map(Set::Changed)
}

/// Makes live what has not passed, as an administrator wants it; only this gateway, and only while it is pending.
pub async fn use_anyway(
    mut transaction: OrganizationTransaction,
    scope: &PointerScope,
    gateway: GatewayId,
    actor: &str,
) -> Result<Set> {
    match still_pending(&mut transaction, scope, gateway).await? {
        Some(before) => make_live(transaction, scope, before, USED_ANYWAY, actor).await,
        None => Ok(Set::Unchanged),
    }
}

/// Leaves the scope as it is; only this gateway, and only while it is pending.
pub async fn give_up(
    mut transaction: OrganizationTransaction,
    scope: &PointerScope,
    gateway: GatewayId,
    actor: &str,
) -> Result<Set> {
    match still_pending(&mut transaction, scope, gateway).await? {
        Some(before) => forget(transaction, scope, before, actor).await,
        None => Ok(Set::Unchanged),
    }
}

/// Leaves the scope as it is, and nothing pends there any more. The pointer is locked.
pub(super) async fn forget(
    mut transaction: OrganizationTransaction,
    scope: &PointerScope,
    before: Pointer,
    actor: &str,
) -> Result<Set> {
    let organization = transaction.organization();
    let Some((pending, address)) = &before.pending else { return Ok(Set::Unchanged) };
    gateway::point(&mut transaction, organization, scope, before.gateway, None).await?;
    let item = gateway::pointer_item(scope, organization, None, Some((Some(*pending), None)));
    let audit = audit(GIVEN_UP, actor, before.subject, Some(address), before.address.as_ref());
    transaction.commit_change(&[item], audit).await.map(Set::Changed)
}

/// The change by which the gateway went live that was saved by this change, once it has passed.
pub async fn went_live(
    db: &mut PgConnection,
    organization: OrganizationId,
    scope: &PointerScope,
    saved: ChangeId,
) -> Result<Option<ChangeId>> {
    sqlx::query_scalar!(
        r#"
        select change.id as "id: ChangeId"
        from change saved
        join audit_entry wanted on wanted.organization_id = $1 and wanted.change_id = saved.id
        join change_item item on item.organization_id = $1 and item.subject = $3 and item.subject_key = $4
        join change on change.organization_id = $1 and change.id = item.change_id and change.revision > saved.revision
        join audit_entry audit on audit.organization_id = $1 and audit.change_id = change.id
        where saved.organization_id = $1 and saved.id = $2 and audit.action = $5 and audit.after = wanted.after
        order by change.revision limit 1
        "#,
        organization as OrganizationId,
        saved as ChangeId,
        scope.subject().as_str(),
        scope.key(organization),
        LIVE,
    )
    .fetch_optional(db)
    .await
}
