//! Relay credentials: made, limited and revoked by administrators, followed by the relays, which note in
//! batches when each was used last. Only the hash of a secret is ever here.

use std::net::IpAddr;

use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};
use sqlx::{PgConnection, PgExecutor};
use time::OffsetDateTime;

use super::{
    OrganizationTransaction, Result,
    change::{AuditEntry, ChangeItem, Committed, Subject},
};
use crate::{
    mail::{
        DomainName, Mailbox,
        id::{ChangeId, CredentialId, OrganizationId, Revision},
    },
    policy::{
        relay_credential::{Limits, SecretHash},
        sign_in_limit::{Counted, WINDOW},
    },
};

/// How many valid ones an organization can have.
pub const MOST_VALID: i64 = 200;

/// What administrators decide about a credential.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// What it is for, in the administrators' words.
    pub name: String,
    pub limits: Limits,
}

impl Terms {
    /// The fields of change items.
    fn fields(&self) -> Map<String, Value> {
        let Terms { name, limits } = self;
        let text = |values: &mut dyn Iterator<Item = String>| Value::from_iter(values);
        let fields = [
            ("name", json!(name)),
            ("addresses", text(&mut limits.addresses.iter().map(ToString::to_string))),
            ("domains", text(&mut limits.domains.iter().map(ToString::to_string))),
            ("networks", text(&mut limits.networks.iter().map(ToString::to_string))),
            ("messages_per_minute", json!(limits.messages_per_minute)),
            ("allow_bare_line_feeds", json!(limits.allow_bare_line_feeds)),
        ];
        fields.into_iter().map(|(field, value)| (field.to_owned(), value)).collect()
    }

    /// A short text that is another one for other terms: what a form was shown with.
    pub fn seen(&self) -> String {
        let hash = Sha256::digest(Value::Object(self.fields()).to_string());
        hash[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    /// The limits in one line, for the audit entry and for lists; empty where there are none.
    pub fn limits_in_words(&self) -> String {
        let limits = &self.limits;
        let mut words: Vec<String> = Vec::new();
        words.extend(limits.addresses.iter().map(ToString::to_string));
        words.extend(limits.domains.iter().map(DomainName::to_unicode));
        words.extend(limits.networks.iter().map(|network| format!("from {network}")));
        words.extend(limits.messages_per_minute.map(|rate| format!("{rate} a minute")));
        if limits.allow_bare_line_feeds {
            words.push("bare line feeds allowed".to_owned());
        }
        words.join(", ")
    }
}

/// A credential as pages and commands show it.
#[derive(Debug, Clone)]
pub struct Credential {
    pub id: CredentialId,
    pub user_name: String,
    pub terms: Terms,
    pub revoked: bool,
    pub created_at: OffsetDateTime,
    pub last_used_at: Option<OffsetDateTime>,
    /// The address of the client that used it last.
    pub last_used_from: Option<String>,
}

/// What is needed to make one.
#[derive(Debug, Clone)]
pub struct NewCredential {
    pub id: CredentialId,
    pub user_name: String,
    pub secret: SecretHash,
    pub terms: Terms,
}

/// What became of making one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Made {
    Made(Committed),
    /// There was one with this id already, as when a form is sent twice.
    Already,
    TooMany,
}

/// Makes a credential. The change has the same id, so that what is asked for twice is made once.
pub async fn create(mut transaction: OrganizationTransaction, new: &NewCredential, actor: &str) -> Result<Made> {
    let organization = transaction.organization();
    // Two at once are counted one after the other.
    sqlx::query!("select from organization where id = $1 for no key update", organization as OrganizationId)
        .execute(&mut *transaction)
        .await?;
    if find(&mut transaction, organization, new.id).await?.is_some() {
        return Ok(Made::Already);
    }
    if valid(&mut transaction, organization).await?.count >= MOST_VALID {
        return Ok(Made::TooMany);
    }
    let Terms { name, limits } = &new.terms;
    sqlx::query!(
        r#"
        insert into relay_credential (organization_id, id, user_name, secret_hash, name, addresses, domains, networks,
                                      messages_per_minute, allow_bare_line_feeds)
        values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10)
        "#,
        organization as OrganizationId,
        new.id as CredentialId,
        new.user_name,
        &new.secret.0[..],
        name,
        &texts(&limits.addresses),
        &texts(&limits.domains),
        &texts(&limits.networks),
        limits.messages_per_minute.map(u32::cast_signed),
        limits.allow_bare_line_feeds,
    )
    .execute(&mut *transaction)
    .await?;
    let mut after = new.terms.fields();
    after.insert("revoked".to_owned(), json!(false));
    // The record stays for good; before it was made it was as if revoked, and that is what Undo makes it again.
    let item = item(new.id, json!({ "revoked": true }), Value::Object(after));
    let audit = entry(actor, "credential.create", &new.user_name, None, Some(name.clone()));
    let mut change = transaction.open_change(ChangeId(new.id.0), audit).await?;
    transaction.add_items(&mut change, &[item]).await?;
    transaction.finish_change(change, None).await.map(Made::Made)
}

fn texts(values: &[impl ToString]) -> Vec<String> {
    values.iter().map(ToString::to_string).collect()
}

fn item(id: CredentialId, before: Value, after: Value) -> ChangeItem {
    ChangeItem { subject: Subject::Credential, key: id.to_string(), before: Some(before), after: Some(after) }
}

fn entry(
    actor: &str,
    action: &'static str,
    user_name: &str,
    before: Option<String>,
    after: Option<String>,
) -> AuditEntry {
    AuditEntry { actor: actor.to_owned(), action, subject: user_name.to_owned(), before, after }
}

/// What became of a change of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Edited {
    NotFound,
    /// It was so already, or it is revoked; nothing was changed.
    Unchanged,
    /// Somebody else has changed it since the form was shown.
    ChangedMeanwhile,
    Changed(Committed),
}

/// Gives a valid credential other terms; `seen` is [`Terms::seen`] of those that the form was shown with.
pub async fn set_terms(
    mut transaction: OrganizationTransaction,
    id: CredentialId,
    terms: &Terms,
    seen: &str,
    actor: &str,
) -> Result<Edited> {
    let organization = transaction.organization();
    let Some(present) = find_for_update(&mut transaction, organization, id).await? else {
        return Ok(Edited::NotFound);
    };
    if present.revoked || present.terms == *terms {
        return Ok(Edited::Unchanged);
    }
    if present.terms.seen() != seen {
        return Ok(Edited::ChangedMeanwhile);
    }
    let limits = &terms.limits;
    sqlx::query!(
        r#"
        update relay_credential
        set name = $3, addresses = $4, domains = $5, networks = $6, messages_per_minute = $7, allow_bare_line_feeds = $8
        where organization_id = $1 and id = $2
        "#,
        organization as OrganizationId,
        id as CredentialId,
        terms.name,
        &texts(&limits.addresses),
        &texts(&limits.domains),
        &texts(&limits.networks),
        limits.messages_per_minute.map(u32::cast_signed),
        limits.allow_bare_line_feeds,
    )
    .execute(&mut *transaction)
    .await?;
    let (mut before, mut after) = (present.terms.fields(), terms.fields());
    let same: Vec<String> = before
        .iter()
        .filter(|(field, value)| after.get(*field) == Some(value))
        .map(|(field, _)| field.clone())
        .collect();
    for field in same {
        before.remove(&field);
        after.remove(&field);
    }
    let words = |terms: &Terms| Some(format!("{}: {}", terms.name, terms.limits_in_words()));
    let audit = entry(actor, "credential.limit", &present.user_name, words(&present.terms), words(terms));
    let item = item(id, Value::Object(before), Value::Object(after));
    transaction.commit_change(&[item], audit).await.map(Edited::Changed)
}

/// Revokes a credential: from the moment that the change is live it is refused everywhere.
pub async fn revoke(mut transaction: OrganizationTransaction, id: CredentialId, actor: &str) -> Result<Edited> {
    let organization = transaction.organization();
    let Some(present) = find_for_update(&mut transaction, organization, id).await? else {
        return Ok(Edited::NotFound);
    };
    if present.revoked {
        return Ok(Edited::Unchanged);
    }
    sqlx::query!(
        "update relay_credential set revoked = true where organization_id = $1 and id = $2",
        organization as OrganizationId,
        id as CredentialId,
    )
    .execute(&mut *transaction)
    .await?;
    let audit = entry(actor, "credential.revoke", &present.user_name, Some(present.terms.name), None);
    let item = item(id, json!({ "revoked": false }), json!({ "revoked": true }));
    transaction.commit_change(&[item], audit).await.map(Edited::Changed)
}

async fn find_for_update(
    db: &mut PgConnection,
    organization: OrganizationId,
    id: CredentialId,
) -> Result<Option<Credential>> {
    sqlx::query_scalar!(
        "select 1 as one from relay_credential where organization_id = $1 and id = $2 for no key update",
        organization as OrganizationId,
        id as CredentialId,
    )
    .fetch_optional(&mut *db)
    .await?;
    find(db, organization, id).await
}

/// One credential, valid or revoked. Another tenant's is simply not found.
pub async fn find(db: &mut PgConnection, organization: OrganizationId, id: CredentialId) -> Result<Option<Credential>> {
    Ok(select(db, organization, Some(id), None, true).await?.pop())
}

/// The credential with this user name.
pub async fn by_user_name(
    db: &mut PgConnection,
    organization: OrganizationId,
    user_name: &str,
) -> Result<Option<Credential>> {
    Ok(select(db, organization, None, Some(user_name), true).await?.pop())
}

/// All valid credentials, by name; then, if asked for, the last fifty that were made and are revoked.
pub async fn list(db: &mut PgConnection, organization: OrganizationId, revoked: bool) -> Result<Vec<Credential>> {
    select(db, organization, None, None, revoked).await
}

async fn select(
    db: &mut PgConnection,
    organization: OrganizationId,
    id: Option<CredentialId>,
    user_name: Option<&str>,
    with_revoked: bool,
) -> Result<Vec<Credential>> {
    sqlx::query!(
        r#"
        select id as "id!: CredentialId", user_name as "user_name!", name as "name!",
               addresses as "addresses!: Vec<Mailbox>", domains as "domains!: Vec<DomainName>", networks as "networks!",
               messages_per_minute, allow_bare_line_feeds as "allow_bare_line_feeds!", revoked as "revoked!",
               created_at as "created_at!", last_used_at, last_used_from
        from (
            select * from relay_credential
            where organization_id = $1 and not revoked and ($2::uuid is null or id = $2)
              and ($3::text is null or user_name = $3)
            union all
            select * from (
                select * from relay_credential
                where organization_id = $1 and revoked and $4 and ($2::uuid is null or id = $2)
                  and ($3::text is null or user_name = $3)
                order by id desc limit 50
            ) latest
        ) credential
        order by revoked, lower(name), id
        "#,
        organization as OrganizationId,
        id as Option<CredentialId>,
        user_name,
        with_revoked,
    )
    .try_map(|row| {
        let limits =
            limits(row.addresses, row.domains, &row.networks, row.messages_per_minute, row.allow_bare_line_feeds)?;
        Ok(Credential {
            id: row.id,
            user_name: row.user_name,
            terms: Terms { name: row.name, limits },
            revoked: row.revoked,
            created_at: row.created_at,
            last_used_at: row.last_used_at,
            last_used_from: row.last_used_from,
        })
    })
    .fetch_all(db)
    .await
}

/// The columns of limits as what they mean.
pub(super) fn limits(
    addresses: Vec<Mailbox>,
    domains: Vec<DomainName>,
    networks: &[String],
    messages_per_minute: Option<i32>,
    allow_bare_line_feeds: bool,
) -> Result<Limits> {
    let networks = networks.iter().map(|network| network.parse()).collect::<Result<_, ipnet::AddrParseError>>();
    Ok(Limits {
        addresses,
        domains,
        networks: networks.map_err(|error| sqlx::Error::Decode(error.into()))?,
        messages_per_minute: messages_per_minute.map(i32::cast_unsigned),
        allow_bare_line_feeds,
    })
}

/// How many credentials are valid, and when the last of them was used.
#[derive(Debug, Clone, Copy)]
pub struct Valid {
    pub count: i64,
    pub last_used_at: Option<OffsetDateTime>,
}

/// The organization's valid credentials at a glance.
pub async fn valid(db: &mut PgConnection, organization: OrganizationId) -> Result<Valid> {
    sqlx::query_as!(
        Valid,
        r#"
        select count(*) as "count!", max(last_used_at) as last_used_at
        from relay_credential where organization_id = $1 and not revoked
        "#,
        organization as OrganizationId,
    )
    .fetch_one(db)
    .await
}

/// Whether a credential was made within the last ten minutes and its secret is this one: then it may be shown.
pub async fn is_fresh(
    db: &mut PgConnection,
    organization: OrganizationId,
    id: CredentialId,
    secret: &SecretHash,
) -> Result<bool> {
    sqlx::query_scalar!(
        r#"
        select exists (select from relay_credential
                       where organization_id = $1 and id = $2 and secret_hash = $3 and not revoked
                         and created_at > now() - interval '10 minutes') as "is_fresh!"
        "#,
        organization as OrganizationId,
        id as CredentialId,
        &secret.0[..],
    )
    .fetch_one(db)
    .await
}

/// What a change did to a credential, for the line above its page.
#[derive(Debug, Clone)]
pub struct RecentEdit {
    pub revision: Revision,
    /// What was done, such as `credential.limit`.
    pub action: String,
}

/// A change of this credential within the last ten minutes.
pub async fn recent(
    db: &mut PgConnection,
    organization: OrganizationId,
    change: ChangeId,
    id: CredentialId,
) -> Result<Option<RecentEdit>> {
    let key = id.to_string();
    let recent = super::change::recent(db, organization, change, Subject::Credential, &key).await?;
    Ok(recent.map(|change| RecentEdit { revision: change.revision, action: change.action }))
}

/// When a credential was used last, and by which client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Use {
    pub organization: OrganizationId,
    pub id: CredentialId,
    pub at: OffsetDateTime,
    pub from: IpAddr,
}

/// Notes when credentials were used last. For the relay, in batches.
pub async fn note_uses_across_tenants(db: impl PgExecutor<'_>, uses: &[Use]) -> Result<()> {
    let organizations: Vec<OrganizationId> = uses.iter().map(|used| used.organization).collect();
    let ids: Vec<CredentialId> = uses.iter().map(|used| used.id).collect();
    let times: Vec<OffsetDateTime> = uses.iter().map(|used| used.at).collect();
    let clients: Vec<String> = uses.iter().map(|used| used.from.to_string()).collect();
    sqlx::query!(
        r#"
        update relay_credential credential set last_used_at = used.at, last_used_from = used.client
        from unnest($1::uuid[], $2::uuid[], $3::timestamptz[], $4::text[]) as used (organization_id, id, at, client)
        where credential.organization_id = used.organization_id and credential.id = used.id
          and (credential.last_used_at is null or credential.last_used_at < used.at)
        "#,
        &organizations as &[OrganizationId],
        &ids as &[CredentialId],
        &times,
        &clients,
    )
    .execute(db)
    .await
    .map(drop)
}

/// Adds failed sign-ins to what all relays have counted.
pub async fn add_failures_across_tenants(db: impl PgExecutor<'_>, failures: &[(String, u32)]) -> Result<()> {
    let (who, counts): (Vec<String>, Vec<i32>) =
        failures.iter().map(|(who, count)| (who.clone(), count.cast_signed())).unzip();
    sqlx::query!(
        r#"
        insert into sign_in_failure as known (who, failures, since)
        select who, count, now() from unnest($1::text[], $2::int[]) as failed (who, count) order by who
        on conflict (who) do update
        set failures = case when known.since > now() - make_interval(secs => $3) then known.failures else 0 end + excluded.failures,
            since = case when known.since > now() - make_interval(secs => $3) then known.since else now() end
        "#,
        &who,
        &counts,
        WINDOW.as_seconds_f64(),
    )
    .execute(db)
    .await
    .map(drop)
}

/// What all relays have counted and what still counts; what does not is forgotten.
pub async fn failures_across_tenants(db: &mut PgConnection) -> Result<Vec<Counted>> {
    sqlx::query!(
        "delete from sign_in_failure where since <= now() - make_interval(secs => $1)",
        WINDOW.as_seconds_f64()
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!("select who, failures, since from sign_in_failure order by failures desc limit 50000")
        .map(|row| Counted { who: row.who, failures: row.failures.cast_unsigned(), since: row.since })
        .fetch_all(db)
        .await
}
