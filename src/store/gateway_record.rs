//! A gateway's record: read with what is stored of its password, and written as a new revision, which is live at once or
//! waits (`pending_record`). The password itself is only ever written here; relays read it with the facts they route by.

use ipnet::IpNet;
use serde_json::json;
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{
    OrganizationTransaction, Result,
    change::{AuditEntry, ChangeItem, Committed, Subject},
    pending_record,
};
use crate::{
    mail::{
        DomainName, GatewayAddress,
        id::{ChangeId, GatewayId, OrganizationId, Revision},
    },
    policy::{
        facts::TlsMode,
        gateway_record::GatewayRecord,
        gateway_settings::{GatewayLimits, OwnDomains, Returning, Trust},
        going_live::GoesLive,
    },
    secret::SealedSecret,
};

/// The record of a revision: of the one in use, or of a change that waits for its verification.
#[derive(Debug, Clone)]
pub struct Stored {
    pub revision: i64,
    /// The revision in use.
    pub live: i64,
    pub record: GatewayRecord,
    /// When the password was set that it signs in with.
    pub password_set_at: Option<OffsetDateTime>,
    secret: Option<Uuid>,
}

impl Stored {
    /// Whether it is a change that goes live when the gateway has passed its verification.
    pub fn is_pending(&self) -> bool {
        self.revision != self.live
    }
}

/// What is to be saved of a record.
#[derive(Debug, Clone, Copy)]
pub struct Edit<'a> {
    /// The change that it becomes: the same form, sent twice, is one.
    pub change: ChangeId,
    pub record: &'a GatewayRecord,
    /// `None`: the stored one is kept, if what it is bound to stays the same.
    pub password: Option<&'a SealedSecret>,
    /// Whatever is to be verified first: every relay has just found that the gateway accepts our mail as this record has it, or
    /// the operator wants it so.
    pub at_once: bool,
    pub actor: &'a str,
}

/// What became of saving a record.
#[derive(Debug)]
pub enum Saved {
    /// The organization has no such gateway.
    NotFound,
    /// It said so already.
    Unchanged,
    /// The same form was sent before: what became of it then.
    Already,
    /// Another gateway of the organization has this address.
    AddressTaken,
    /// The organization has no gateway with this address to stand in.
    NoSuchBackup(GatewayAddress),
    /// What a password is bound to has changed, or there is none yet.
    PasswordNeeded,
    /// It is live at once.
    Changed(Committed),
    /// It goes live when the gateway has passed its verification as it is now to be.
    Pending(Committed),
    /// It says what is live already: a change that was pending is not wanted any more.
    GivenUp(Committed),
}

/// The record in use.
pub async fn stored(db: &mut PgConnection, organization: OrganizationId, gateway: GatewayId) -> Result<Option<Stored>> {
    read(db, organization, gateway, false).await
}

/// The record as it is to be: a change that is pending, or else the one in use.
pub async fn wanted(db: &mut PgConnection, organization: OrganizationId, gateway: GatewayId) -> Result<Option<Stored>> {
    read(db, organization, gateway, true).await
}

async fn read(
    db: &mut PgConnection,
    organization: OrganizationId,
    gateway: GatewayId,
    as_wanted: bool,
) -> Result<Option<Stored>> {
    let row = sqlx::query!(
        r#"
        select used.revision, gateway.revision as live, used.address as "address: GatewayAddress", used.tls as "tls: TlsMode",
               used.certificate_name as "certificate_name: DomainName", used.authority, used.fingerprint,
               used.sign_in_user, used.sign_in_secret_id, used.connections, used.messages_per_connection,
               used.messages_per_minute, used.largest_message, used.returning_mail as "returning: Returning",
               used.returning_networks as "returning_networks: Vec<IpNet>", used.own_domains as "own_domains: OwnDomains",
               secret.set_at as "set_at?",
               array(select backup.address from unnest(used.backups) with ordinality as wanted (id, place)
                     join gateway backup on backup.organization_id = $1 and backup.id = wanted.id
                     order by place) as "backups!: Vec<GatewayAddress>"
        from gateway
        join gateway_revision used on used.organization_id = gateway.organization_id
                                  and used.gateway_id = gateway.id
                                  and used.revision = case when $3 then coalesce(gateway.pending_revision, gateway.revision)
                                                           else gateway.revision end
        left join gateway_secret secret on secret.organization_id = used.organization_id
                                       and secret.gateway_id = used.gateway_id and secret.id = used.sign_in_secret_id
        where gateway.organization_id = $1 and gateway.id = $2
        "#,
        organization as OrganizationId,
        gateway as GatewayId,
        as_wanted,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| Stored {
        revision: row.revision,
        live: row.live,
        password_set_at: row.set_at,
        secret: row.sign_in_secret_id,
        record: GatewayRecord {
            address: row.address,
            tls: row.tls,
            certificate_name: row.certificate_name,
            trust: trust(row.authority, row.fingerprint),
            sign_in_user: row.sign_in_user,
            limits: limits(row.connections, row.messages_per_connection, row.messages_per_minute, row.largest_message),
            backups: row.backups,
            returning: row.returning,
            returning_networks: row.returning_networks,
            own_domains: row.own_domains,
        },
    }))
}

/// Two columns, of which at most one is filled.
pub(super) fn trust(authority: Option<String>, fingerprint: Option<Vec<u8>>) -> Trust {
    match (authority, fingerprint.and_then(|bytes| bytes.try_into().ok())) {
        (Some(authority), _) => Trust::Authority(authority.into()),
        (None, Some(fingerprint)) => Trust::Fingerprint(fingerprint),
        (None, None) => Trust::Platform,
    }
}

/// What the columns' checks allow fits.
pub(super) fn limits(
    connections: i16,
    connection: Option<i32>,
    minute: Option<i32>,
    largest: Option<i64>,
) -> GatewayLimits {
    GatewayLimits {
        connections: connections as u8,
        messages_per_connection: connection.map(|count| count as u32),
        messages_per_minute: minute.map(|count| count as u32),
        largest_message: largest.map(|bytes| bytes as u64),
    }
}

/// The record in use, with the gateway locked, so that two changes of one record come one after the other.
pub async fn stored_for_update(
    transaction: &mut OrganizationTransaction,
    gateway: GatewayId,
) -> Result<Option<Stored>> {
    let organization = transaction.organization();
    lock(transaction, gateway).await?;
    stored(transaction, organization, gateway).await
}

/// The record as it is to be, with the gateway locked.
pub async fn wanted_for_update(
    transaction: &mut OrganizationTransaction,
    gateway: GatewayId,
) -> Result<Option<Stored>> {
    let organization = transaction.organization();
    lock(transaction, gateway).await?;
    wanted(transaction, organization, gateway).await
}

async fn lock(transaction: &mut OrganizationTransaction, gateway: GatewayId) -> Result<()> {
    let organization = transaction.organization();
    sqlx::query_scalar!(
        "select 1 as one from gateway where organization_id = $1 and id = $2 for no key update",
        organization as OrganizationId,
        gateway as GatewayId,
    )
    .fetch_optional(&mut **transaction)
    .await
    .map(drop)
}

/// Writes a record as the gateway's next revision, as one change. Everything that points at the gateway follows: at
/// once, or when it has passed its verification, as [`pending_record::goes_live`] says.
pub async fn save(mut transaction: OrganizationTransaction, gateway: GatewayId, edit: &Edit<'_>) -> Result<Saved> {
    let (organization, record) = (transaction.organization(), edit.record);
    let Some(before) = wanted_for_update(&mut transaction, gateway).await? else { return Ok(Saved::NotFound) };
    if is_saved(&mut transaction, organization, edit.change).await? {
        return Ok(Saved::Already);
    }
    if before.record == *record && edit.password.is_none() {
        return Ok(Saved::Unchanged);
    }
    let live = match before.is_pending() {
        true => stored(&mut transaction, organization, gateway).await?,
        false => None,
    };
    let live = live.unwrap_or_else(|| before.clone());
    if live.record == *record && edit.password.is_none() {
        let change = edit.change;
        return pending_record::forget(transaction, gateway, change, &before, edit.actor).await.map(Saved::GivenUp);
    }
    let mut backups = Vec::with_capacity(record.backups.len());
    for address in &record.backups {
        match super::gateway::keep(&mut transaction, organization, address).await? {
            // Its own former address is no other gateway either.
            Some(backup) if backup != gateway => backups.push(backup),
            _ => return Ok(Saved::NoSuchBackup(address.clone())),
        }
    }
    let secret = match (&record.sign_in_user, edit.password) {
        (None, _) => None,
        (Some(_), Some(sealed)) => Some(store_password(&mut transaction, gateway, sealed).await?),
        (Some(_), None) => match secret_for(record, [&before, &live]) {
            Some(secret) => Some(secret),
            None => return Ok(Saved::PasswordNeeded),
        },
    };
    let revision = write(&mut transaction, gateway, record, &backups, secret).await?;
    if pending_record::goes_live(&mut transaction, gateway, &live, edit).await? == GoesLive::WhenVerified {
        if is_taken(&mut transaction, gateway, &record.address).await? {
            return Ok(Saved::AddressTaken);
        }
        return pending_record::wait(transaction, gateway, &live, revision, edit).await.map(Saved::Pending);
    }
    if !use_revision(&mut transaction, gateway, record, revision).await? {
        return Ok(Saved::AddressTaken);
    }
    let audit = edited("gateway.edit", &live, record, edit.password.is_some(), edit.actor);
    commit(transaction, gateway, edit.change, &live, (record, revision), audit).await.map(Saved::Changed)
}

/// The password of a record that may be used for this one too.
fn secret_for(record: &GatewayRecord, of: [&Stored; 2]) -> Option<Uuid> {
    let shares = |stored: &&Stored| stored.secret.is_some() && stored.record.shares_password_with(record);
    of.into_iter().find(shares).and_then(|stored| stored.secret)
}

/// What is written down of a change from the record in use to this one.
pub(super) fn edited(
    action: &'static str,
    live: &Stored,
    record: &GatewayRecord,
    has_new_password: bool,
    actor: &str,
) -> AuditEntry {
    let (was, is) = record.differences(&live.record, has_new_password);
    AuditEntry {
        actor: actor.to_owned(),
        action,
        subject: live.record.address.to_string(),
        before: Some(was),
        after: Some(is),
    }
}

/// Ends a change by which a gateway has come from one record to another.
pub(super) async fn commit(
    mut transaction: OrganizationTransaction,
    gateway: GatewayId,
    change: ChangeId,
    before: &Stored,
    (record, revision): (&GatewayRecord, i64),
    audit: AuditEntry,
) -> Result<Committed> {
    let said =
        |record: &GatewayRecord, revision| json!({ "address": record.address.to_string(), "revision": revision });
    let item = ChangeItem {
        subject: Subject::Gateway,
        key: gateway.to_string(),
        before: Some(said(&before.record, before.revision)),
        after: Some(said(record, revision)),
    };
    let mut open = transaction.open_change(change, audit).await?;
    transaction.add_items(&mut open, &[item]).await?;
    transaction.finish_change(open, None).await
}

/// Whether another gateway of the organization has this address.
pub(super) async fn is_taken(
    transaction: &mut OrganizationTransaction,
    gateway: GatewayId,
    address: &GatewayAddress,
) -> Result<bool> {
    let organization = transaction.organization();
    sqlx::query_scalar!(
        r#"select exists (select from gateway where organization_id = $1 and address = $3 and id <> $2) as "is_taken!""#,
        organization as OrganizationId,
        gateway as GatewayId,
        address as &GatewayAddress,
    )
    .fetch_one(&mut **transaction)
    .await
}

/// Whether a change with this id was saved: the same form, sent before.
pub async fn is_saved(db: &mut PgConnection, organization: OrganizationId, change: ChangeId) -> Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from audit_entry where organization_id = $1 and change_id = $2) as "is_there!""#,
        organization as OrganizationId,
        change as ChangeId,
    )
    .fetch_one(db)
    .await
}

async fn store_password(
    transaction: &mut OrganizationTransaction,
    gateway: GatewayId,
    sealed: &SealedSecret,
) -> Result<Uuid> {
    let (organization, id) = (transaction.organization(), Uuid::now_v7());
    sqlx::query!(
        "insert into gateway_secret (organization_id, gateway_id, id, sealed) values ($1, $2, $3, $4)",
        organization as OrganizationId,
        gateway as GatewayId,
        id,
        sealed.as_bytes(),
    )
    .execute(&mut **transaction)
    .await?;
    Ok(id)
}

/// Returns the number of the revision. Revisions of a gateway that was removed and came back are still there.
async fn write(
    transaction: &mut OrganizationTransaction,
    gateway: GatewayId,
    record: &GatewayRecord,
    backups: &[GatewayId],
    secret: Option<Uuid>,
) -> Result<i64> {
    let organization = transaction.organization();
    let (authority, fingerprint) = match &record.trust {
        Trust::Platform => (None, None),
        Trust::Authority(authority) => (Some(&**authority), None),
        Trust::Fingerprint(fingerprint) => (None, Some(&fingerprint[..])),
    };
    sqlx::query_scalar!(
        r#"
        insert into gateway_revision (
            organization_id, gateway_id, revision, address, tls, certificate_name, authority, fingerprint, sign_in_user,
            sign_in_secret_id, connections, messages_per_connection, messages_per_minute, largest_message,
            returning_mail, returning_networks, own_domains, backups)
        select $1, $2, max(revision) + 1, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17
        from gateway_revision where organization_id = $1 and gateway_id = $2
        returning revision
        "#,
        organization as OrganizationId,
        gateway as GatewayId,
        &record.address as &GatewayAddress,
        record.tls as TlsMode,
        record.certificate_name.as_ref() as Option<&DomainName>,
        authority,
        fingerprint,
        record.sign_in_user.as_deref(),
        secret,
        i16::from(record.limits.connections),
        record.limits.messages_per_connection.map(|count| count as i32),
        record.limits.messages_per_minute.map(|count| count as i32),
        record.limits.largest_message.map(|bytes| bytes as i64),
        record.returning as Returning,
        &record.returning_networks as &[IpNet],
        record.own_domains as OwnDomains,
        backups as &[GatewayId],
    )
    .fetch_one(&mut **transaction)
    .await
}

/// Returns whether the address was free.
pub(super) async fn use_revision(
    transaction: &mut OrganizationTransaction,
    gateway: GatewayId,
    record: &GatewayRecord,
    revision: i64,
) -> Result<bool> {
    let organization = transaction.organization();
    let used = sqlx::query!(
        "update gateway set revision = $3, address = $4 where organization_id = $1 and id = $2",
        organization as OrganizationId,
        gateway as GatewayId,
        revision,
        &record.address as &GatewayAddress,
    )
    .execute(&mut **transaction)
    .await;
    match used {
        Err(sqlx::Error::Database(error)) if error.is_unique_violation() => Ok(false),
        used => used.map(|_| true),
    }
}

/// What a change did to a record, within the last ten minutes.
#[derive(Debug, Clone)]
pub struct RecentEdit {
    pub action: String,
    pub revision: Revision,
    /// Of the gateway.
    pub to: i64,
    pub is_superseded: bool,
}

/// A change of this gateway's record; `None` if there is no such change.
pub async fn recent_edit(
    db: &mut PgConnection,
    organization: OrganizationId,
    change: ChangeId,
    gateway: GatewayId,
) -> Result<Option<RecentEdit>> {
    sqlx::query_as!(
        RecentEdit,
        r#"
        select audit_entry.action, change.revision as "revision: Revision", (item.after ->> 'revision')::bigint as "to!",
               (item.after ->> 'revision')::bigint <> gateway.revision as "is_superseded!"
        from change
        join audit_entry on audit_entry.organization_id = change.organization_id and audit_entry.change_id = change.id
        join change_item item on item.organization_id = change.organization_id and item.change_id = change.id
                             and item.subject = 'gateway' and item.subject_key = $3::uuid::text
        join gateway on gateway.organization_id = change.organization_id and gateway.id = $3
        where change.organization_id = $1 and change.id = $2 and item.before is not null and item.after is not null
          and change.committed_at > now() - interval '10 minutes'
        "#,
        organization as OrganizationId,
        change as ChangeId,
        gateway as GatewayId,
    )
    .fetch_optional(db)
    .await
}
