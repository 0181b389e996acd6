//! Changes of a gateway's record that go live when the gateway has passed its verification as the change has it: which
//! are pending, and what becomes of them. The record itself is `gateway_record`'s; who looks is `pending_gateway`.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{
    OrganizationTransaction, Result,
    change::Committed,
    gateway::Set,
    gateway_record::{self, Edit, Stored},
    organization,
    pending_gateway::{self, Check, on_behalf_of},
    verification::{self, Verification, Wanted},
};
use crate::{
    mail::{
        GatewayAddress,
        id::{ChangeId, GatewayId, OrganizationId, VerificationId},
    },
    policy::going_live::{self, Because, GoesLive, VerifyBeforeLive},
};

/// The action of a change after which a record waits for its verification.
pub const PENDING: &str = "gateway.edit-pending";
/// The action of a change by which one went live that has passed.
pub const LIVE: &str = "gateway.edit-live";
/// The action of a change by which one went live that has not passed.
pub const USED_ANYWAY: &str = "gateway.edit-anyway";
/// The action of a change after which one is not wanted any more.
pub const GIVEN_UP: &str = "gateway.edit-given-up";

/// A change of a gateway's record that is pending.
#[derive(Debug, Clone)]
pub struct PendingRecord {
    pub gateway: GatewayId,
    /// The revision that it is to become.
    pub revision: i64,
    /// The address as it is to be.
    pub address: GatewayAddress,
    /// What mail keeps leaving by until then.
    pub live: GatewayAddress,
    pub live_revision: i64,
    pub since: OffsetDateTime,
    pub saved_by: String,
    /// The last verification of it.
    pub verification: Option<(VerificationId, Verification)>,
}

impl PendingRecord {
    pub fn check(&self) -> Check {
        Check::of(self.verification.as_ref())
    }
}

/// When a change of a record goes live: what changes whether the gateway accepts our mail may have to pass first, where
/// the gateway works and is that of all users or of a mail domain.
pub(super) async fn goes_live(
    transaction: &mut OrganizationTransaction,
    gateway: GatewayId,
    live: &Stored,
    edit: &Edit<'_>,
) -> Result<GoesLive> {
    let organization = transaction.organization();
    let is_reached_as_before = edit.password.is_none() && edit.record.is_reached_as(&live.record);
    if edit.at_once || is_reached_as_before {
        return Ok(GoesLive::AtOnce(Because::NotWanted));
    }
    let wanted = organization::verify_before_live(transaction).await?;
    // Users' own are live at once, as ever; of one that nobody uses there is nothing to wait for.
    if wanted == VerifyBeforeLive::Never || !is_of_many(transaction, organization, gateway).await? {
        return Ok(GoesLive::AtOnce(Because::NotWanted));
    }
    let former = pending_gateway::former(transaction, organization, gateway).await?;
    Ok(going_live::goes_live(wanted, Some(former)))
}

async fn is_of_many(db: &mut PgConnection, organization: OrganizationId, gateway: GatewayId) -> Result<bool> {
    sqlx::query_scalar!(
        r#"
        select exists (select from organization where id = $1 and outbound_gateway_id = $2)
            or exists (select from mail_domain where organization_id = $1 and outbound_gateway_id = $2) as "is_of_many!"
        "#,
        organization as OrganizationId,
        gateway as GatewayId,
    )
    .fetch_one(db)
    .await
}

/// Ends a save after which the record waits. It touches nothing that is routed by.
pub(super) async fn wait(
    mut transaction: OrganizationTransaction,
    gateway: GatewayId,
    live: &Stored,
    revision: i64,
    edit: &Edit<'_>,
) -> Result<Committed> {
    point(&mut transaction, gateway, Some((revision, edit.change))).await?;
    let audit = gateway_record::edited(PENDING, live, edit.record, edit.password.is_some(), edit.actor);
    let open = transaction.open_change(edit.change, audit).await?;
    transaction.finish_change(open, None).await
}

/// Ends a change after which the record in use is the one that is wanted. The gateway is locked.
pub(super) async fn forget(
    mut transaction: OrganizationTransaction,
    gateway: GatewayId,
    change: ChangeId,
    pending: &Stored,
    actor: &str,
) -> Result<Committed> {
    let organization = transaction.organization();
    point(&mut transaction, gateway, None).await?;
    let live =
        gateway_record::stored(&mut transaction, organization, gateway).await?.ok_or(sqlx::Error::RowNotFound)?;
    let audit = gateway_record::edited(GIVEN_UP, pending, &live.record, false, actor);
    let open = transaction.open_change(change, audit).await?;
    transaction.finish_change(open, None).await
}

async fn point(
    transaction: &mut OrganizationTransaction,
    gateway: GatewayId,
    to: Option<(i64, ChangeId)>,
) -> Result<()> {
    let organization = transaction.organization();
    sqlx::query!(
        "update gateway set pending_revision = $3, pending_change_id = $4 where organization_id = $1 and id = $2",
        organization as OrganizationId,
        gateway as GatewayId,
        to.map(|(revision, _)| revision),
        to.map(|(_, change)| change) as Option<ChangeId>,
    )
    .execute(&mut **transaction)
    .await
    .map(drop)
}

/// What is pending in the organization, by address; only of one gateway if it is named.
pub async fn list(
    db: &mut PgConnection,
    organization: OrganizationId,
    only: Option<GatewayId>,
) -> Result<Vec<PendingRecord>> {
    let rows = sqlx::query!(
        r#"
        select gateway.id as "gateway: GatewayId", gateway.pending_revision as "revision!", gateway.revision as live_revision,
               wanted.address as "address: GatewayAddress", gateway.address as "live: GatewayAddress",
               gateway.pending_since as "since!",
               coalesce((select actor from audit_entry where organization_id = $1 and change_id = gateway.pending_change_id),
                        'the organization') as "saved_by!",
               (select asked.id from verification asked
                where asked.organization_id = $1 and asked.gateway_id = gateway.id
                  and asked.revision = gateway.pending_revision and asked.requested_at >= gateway.pending_since
                  and asked.recipient is null and asked.test_message is null
                order by asked.requested_at desc limit 1) as "verification: VerificationId"
        from gateway
        join gateway_revision wanted on wanted.organization_id = $1 and wanted.gateway_id = gateway.id
                                    and wanted.revision = gateway.pending_revision
        where gateway.organization_id = $1 and gateway.pending_revision is not null and ($2::uuid is null or gateway.id = $2)
        order by gateway.address
        "#,
        organization as OrganizationId,
        only as Option<GatewayId>,
    )
    .fetch_all(&mut *db)
    .await?;
    let mut found = Vec::with_capacity(rows.len());
    for row in rows {
        let verification = match row.verification {
            Some(id) => verification::by_id(db, organization, id).await?.map(|verification| (id, verification)),
            None => None,
        };
        found.push(PendingRecord {
            gateway: row.gateway,
            revision: row.revision,
            address: row.address,
            live: row.live,
            live_revision: row.live_revision,
            since: row.since,
            saved_by: row.saved_by,
            verification,
        });
    }
    Ok(found)
}

/// Has it verified; where several others are under way nothing is asked, and the next look asks.
pub(super) async fn ask(transaction: &mut OrganizationTransaction, pending: &PendingRecord) -> Result<()> {
    let organization = transaction.organization();
    let wanted = Wanted { is_pending: true, ..Wanted::of(Some(pending.gateway), &pending.address, &pending.saved_by) };
    verification::ask(transaction, organization, &wanted).await.map(drop)
}

/// Makes live what has passed, unless it is not pending any more.
pub(super) async fn has_passed(transaction: OrganizationTransaction, pending: &PendingRecord) -> Result<Set> {
    let actor = on_behalf_of(&pending.saved_by);
    make_live(transaction, pending.gateway, pending.revision, LIVE, &actor).await
}

/// Makes live what has not passed, as an administrator wants it; only this revision, and only while it is pending.
pub async fn use_anyway(
    transaction: OrganizationTransaction,
    gateway: GatewayId,
    revision: i64,
    actor: &str,
) -> Result<Set> {
    make_live(transaction, gateway, revision, USED_ANYWAY, actor).await
}

/// Leaves the record as it is; only this revision, and only while it is pending.
pub async fn give_up(
    mut transaction: OrganizationTransaction,
    gateway: GatewayId,
    revision: i64,
    actor: &str,
) -> Result<Set> {
    match gateway_record::wanted_for_update(&mut transaction, gateway).await? {
        None => Ok(Set::NotFound),
        Some(wanted) if wanted.is_pending() && wanted.revision == revision => {
            forget(transaction, gateway, ChangeId::new(), &wanted, actor).await.map(Set::Changed)
        }
        Some(_) => Ok(Set::Unchanged),
    }
}

async fn make_live(
    mut transaction: OrganizationTransaction,
    gateway: GatewayId,
    revision: i64,
    action: &'static str,
    actor: &str,
) -> Result<Set> {
    let organization = transaction.organization();
    let wanted = gateway_record::wanted_for_update(&mut transaction, gateway).await?;
    let live = gateway_record::stored(&mut transaction, organization, gateway).await?;
    let (Some(wanted), Some(live)) = (wanted, live) else { return Ok(Set::NotFound) };
    if !wanted.is_pending() || wanted.revision != revision {
        return Ok(Set::Unchanged);
    }
    // Somebody has typed that address for a scope meanwhile, which has made a gateway of it.
    if gateway_record::is_taken(&mut transaction, gateway, &wanted.record.address).await? {
        return forget(transaction, gateway, ChangeId::new(), &wanted, actor).await.map(Set::Changed);
    }
    if !gateway_record::use_revision(&mut transaction, gateway, &wanted.record, revision).await? {
        return Ok(Set::Unchanged);
    }
    let audit = gateway_record::edited(action, &live, &wanted.record, false, actor);
    let record = (&wanted.record, revision);
    gateway_record::commit(transaction, gateway, ChangeId::new(), &live, record, audit).await.map(Set::Changed)
}

/// What became of a change that waited, or by which one was given up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WentOn {
    /// It waits still.
    Waits,
    /// It went live by this change.
    Live(ChangeId),
    /// The record was saved anew since.
    Superseded,
    /// It was given up, or it is the change that gave one up.
    GivenUp,
}

/// What became of a change of this gateway's record within the last ten minutes; `None` if it has nothing to do with
/// waiting. The next decision about the record is what counts: a later one is about what was saved later.
pub async fn went_on(
    db: &mut PgConnection,
    organization: OrganizationId,
    saved: ChangeId,
    gateway: GatewayId,
) -> Result<Option<WentOn>> {
    // Until it is decided about the record in use keeps its address, which each of these changes names; but who gives one
    // up is said to come from what it was to be.
    let found = sqlx::query!(
        r#"
        select audit.action, gateway.pending_change_id = saved.id as "waits",
               next.id as "next?: ChangeId", next.action as "next_action?"
        from change saved
        join audit_entry audit on audit.organization_id = $1 and audit.change_id = saved.id
         and audit.action in ($4, $7)
        join gateway on gateway.organization_id = $1 and gateway.id = $3
        left join lateral (
            select change.id, decision.action
            from change
            join audit_entry decision on decision.organization_id = $1 and decision.change_id = change.id
             and (decision.action in ($4, $5, $6) and decision.subject = audit.subject
                  or decision.action = $7 and decision.subject in (
                      select address from gateway_revision where organization_id = $1 and gateway_id = $3))
            where change.organization_id = $1 and change.revision > saved.revision
            order by change.revision limit 1) next on true
        where saved.organization_id = $1 and saved.id = $2 and saved.committed_at > now() - interval '10 minutes'
        "#,
        organization as OrganizationId,
        saved as ChangeId,
        gateway as GatewayId,
        PENDING,
        LIVE,
        USED_ANYWAY,
        GIVEN_UP,
    )
    .fetch_optional(db)
    .await?;
    Ok(found.map(|found| match (found.next, found.next_action.as_deref()) {
        _ if found.waits == Some(true) => WentOn::Waits,
        (_, None) if found.action == GIVEN_UP => WentOn::GivenUp,
        (Some(live), Some(LIVE | USED_ANYWAY)) => WentOn::Live(live),
        (_, Some(GIVEN_UP)) => WentOn::GivenUp,
        _ => WentOn::Superseded,
    }))
}
