//! Test messages: which were sent, which have arrived, and what they said then. Sent and taken in by relays, shown by
//! pages and command with the verification that they belong to.

use std::net::IpAddr;

use sqlx::{PgExecutor, PgPool, types::Json};
use time::OffsetDateTime;

use super::{Result, verification::Taken};
use crate::{
    mail::{
        GatewayAddress,
        id::{GatewayId, OrganizationId, TestMessageId, VerificationId},
        return_address::TokenKey,
    },
    policy::arrival::{Arrival, Progress, SenderPolicies},
};

/// Of how many mail domains the SPF records are looked at.
const MOST_DOMAINS: i64 = 50;

/// What tokens are signed with.
pub async fn token_key_across_tenants(db: impl PgExecutor<'_>) -> Result<TokenKey> {
    let key = sqlx::query_scalar!("select key from token_key").fetch_one(db).await?;
    let key = key.try_into().map_err(|_| sqlx::Error::Decode("a token key has 32 bytes".into()))?;
    Ok(TokenKey::new(key))
}

/// Notes a message before it is sent: once it is, it may come back at any time.
pub async fn note_across_tenants(
    db: impl PgExecutor<'_>,
    taken: &Taken,
    id: TestMessageId,
    relay: &str,
    recipient: &str,
    public_key: Option<&[u8]>,
) -> Result<()> {
    sqlx::query!(
        r#"
        insert into test_message (organization_id, id, verification_id, relay, recipient, public_key)
        values ($1, $2, $3, $4, $5, $6)
        "#,
        taken.organization as OrganizationId,
        id as TestMessageId,
        taken.id as VerificationId,
        relay,
        recipient,
        public_key,
    )
    .execute(db)
    .await
    .map(drop)
}

/// The gateway has taken it.
pub async fn taken_across_tenants(
    db: impl PgExecutor<'_>,
    organization: OrganizationId,
    id: TestMessageId,
) -> Result<()> {
    sqlx::query!(
        "update test_message set taken_at = clock_timestamp() where organization_id = $1 and id = $2",
        organization as OrganizationId,
        id as TestMessageId,
    )
    .execute(db)
    .await
    .map(drop)
}

/// A message that was sent, for who takes it in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sent {
    pub organization: OrganizationId,
    /// Whose mail it stands for.
    pub sender: String,
    /// What it was signed with.
    pub public_key: Option<Vec<u8>>,
    pub gateway: Option<GatewayId>,
    pub has_arrived: bool,
}

/// Whichever organization's it is. `None`: nobody waits for it any more.
pub async fn sent_across_tenants(db: impl PgExecutor<'_>, id: TestMessageId) -> Result<Option<Sent>> {
    sqlx::query_as!(
        Sent,
        r#"
        select sent.organization_id as "organization: OrganizationId", asked.sender, sent.public_key,
               asked.gateway_id as "gateway: GatewayId", sent.arrived_at is not null as "has_arrived!"
        from test_message sent
        join verification asked on asked.organization_id = sent.organization_id and asked.id = sent.verification_id
        where sent.id = $1
        "#,
        id as TestMessageId,
    )
    .fetch_optional(db)
    .await
}

/// Notes that it has come back, the first time.
pub async fn arrived_across_tenants(
    db: impl PgExecutor<'_>,
    organization: OrganizationId,
    id: TestMessageId,
    arrival: &Arrival,
) -> Result<bool> {
    let noted = sqlx::query!(
        r#"
        update test_message set arrived_at = clock_timestamp(), arrival = $3
        where organization_id = $1 and id = $2 and arrival is null
        "#,
        organization as OrganizationId,
        id as TestMessageId,
        Json(arrival) as Json<&Arrival>,
    )
    .execute(db)
    .await?;
    Ok(noted.rows_affected() == 1)
}

/// Adds what the DNS has said.
pub async fn add_spf_across_tenants(
    db: impl PgExecutor<'_>,
    organization: OrganizationId,
    id: TestMessageId,
    spf: &SenderPolicies,
) -> Result<()> {
    sqlx::query!(
        r#"
        update test_message set arrival = arrival || $3::jsonb
        where organization_id = $1 and id = $2 and arrival is not null
        "#,
        organization as OrganizationId,
        id as TestMessageId,
        Json(spf) as Json<&SenderPolicies>,
    )
    .execute(db)
    .await
    .map(drop)
}

/// A message whose source somebody has pasted, for who asks the DNS.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ToLookAt {
    pub organization: OrganizationId,
    pub id: TestMessageId,
    pub gateway: Option<GatewayId>,
    pub left_from: Option<IpAddr>,
}

/// Takes so many at most of those that nobody looks at. Another relay may take one up after three minutes.
pub async fn take_pasted_across_tenants(db: &PgPool, most: i64) -> Result<Vec<ToLookAt>> {
    sqlx::query!(
        r#"
        with due as (
            select organization_id, id from test_message where look_at <= now() order by look_at limit $1
            for update skip locked
        )
        update test_message sent set look_at = now() + interval '3 minutes'
        from due, verification asked
        where sent.organization_id = due.organization_id and sent.id = due.id
          and asked.organization_id = sent.organization_id and asked.id = sent.verification_id
        returning sent.organization_id as "organization: OrganizationId", sent.id as "id: TestMessageId",
                  asked.gateway_id as "gateway: GatewayId", sent.pasted as "pasted: Json<Arrival>"
        "#,
        most,
    )
    .map(|row| ToLookAt {
        organization: row.organization,
        id: row.id,
        gateway: row.gateway,
        left_from: row.pasted.and_then(|pasted| pasted.0.left_from),
    })
    .fetch_all(db)
    .await
}

/// Adds what the DNS has said, unless another source was pasted meanwhile.
pub async fn looked_at_across_tenants(db: &PgPool, looked_at: &ToLookAt, spf: &SenderPolicies) -> Result<()> {
    sqlx::query!(
        r#"
        update test_message set pasted = pasted || $4::jsonb, look_at = null
        where organization_id = $1 and id = $2 and pasted ->> 'left_from' is not distinct from $3
        "#,
        looked_at.organization as OrganizationId,
        looked_at.id as TestMessageId,
        looked_at.left_from.map(|ip| ip.to_string()),
        Json(spf) as Json<&SenderPolicies>,
    )
    .execute(db)
    .await
    .map(drop)
}

/// The mail domains from which mail leaves through a gateway: by their own pointer, by that of all users, or by an
/// account's, or will by one that is pending. The first fifty by name, and how many more there are.
pub async fn domains_across_tenants(
    db: impl PgExecutor<'_>,
    organization: OrganizationId,
    gateway: GatewayId,
) -> Result<(Vec<String>, i64)> {
    let domains = sqlx::query!(
        r#"
        select domain.name, count(*) over () as "all!" from mail_domain domain
        join organization on organization.id = domain.organization_id
        where domain.organization_id = $1
          and (coalesce(domain.outbound_gateway_id, organization.outbound_gateway_id) = $2
               or coalesce(domain.pending_gateway_id, organization.pending_gateway_id) = $2
               or exists (select from mail_account account
                          join mail_address address on address.organization_id = $1 and address.account_id = account.id
                          where account.organization_id = $1 and account.outbound_gateway_id = $2
                            and address.domain = domain.name))
        order by domain.name limit $3
        "#,
        organization as OrganizationId,
        gateway as GatewayId,
        MOST_DOMAINS,
    )
    .fetch_all(db)
    .await?;
    let all = domains.first().map_or(0, |domain| domain.all);
    let names: Vec<String> = domains.into_iter().map(|domain| domain.name).collect();
    let more = all.saturating_sub(names.len() as i64);
    Ok((names, more))
}

/// A test message as pages and command show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TestMessage {
    pub id: TestMessageId,
    pub relay: String,
    pub recipient: String,
    pub sent_at: OffsetDateTime,
    /// When the gateway took it; `None`: it has not.
    pub taken_at: Option<OffsetDateTime>,
    pub arrived_at: Option<OffsetDateTime>,
    pub arrival: Option<Arrival>,
    /// What its source has shown that somebody has pasted, and when.
    pub pasted: Option<(Arrival, OffsetDateTime)>,
    /// Who has said that it is there.
    pub seen_by: Option<String>,
}

impl TestMessage {
    /// How far it has come.
    pub fn progress(&self, now: OffsetDateTime) -> Progress<'_> {
        Progress {
            sent_at: self.sent_at,
            arrived_at: self.arrived_at,
            arrival: self.arrival.as_ref(),
            pasted: self.pasted.as_ref().map(|(arrival, at)| (arrival, *at)),
            seen_by: self.seen_by.as_deref(),
            recipient: &self.recipient,
            now,
        }
    }
}

/// Of one verification, by the relays' names.
pub async fn of(
    db: impl PgExecutor<'_>,
    organization: OrganizationId,
    verification: VerificationId,
) -> Result<Vec<TestMessage>> {
    sqlx::query!(
        r#"
        select id as "id: TestMessageId", relay, recipient, sent_at, taken_at, arrived_at,
               arrival as "arrival: Json<Arrival>", pasted as "pasted: Json<Arrival>", pasted_at, seen_by
        from test_message where organization_id = $1 and verification_id = $2 order by relay, id
        "#,
        organization as OrganizationId,
        verification as VerificationId,
    )
    .map(|row| TestMessage {
        id: row.id,
        relay: row.relay,
        recipient: row.recipient,
        sent_at: row.sent_at,
        taken_at: row.taken_at,
        arrived_at: row.arrived_at,
        arrival: row.arrival.map(|arrival| arrival.0),
        pasted: row.pasted.map(|pasted| pasted.0).zip(row.pasted_at),
        seen_by: row.seen_by,
    })
    .fetch_all(db)
    .await
}

/// One that went to somebody's mailbox.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InMailbox {
    pub verification: VerificationId,
    pub address: GatewayAddress,
    pub recipient: String,
    pub sent_at: OffsetDateTime,
    pub arrived_at: Option<OffsetDateTime>,
}

/// For the page at which somebody says that it has arrived.
pub async fn in_mailbox(
    db: impl PgExecutor<'_>,
    organization: OrganizationId,
    id: TestMessageId,
) -> Result<Option<InMailbox>> {
    sqlx::query_as!(
        InMailbox,
        r#"
        select sent.verification_id as "verification: VerificationId", asked.address as "address: GatewayAddress",
               sent.recipient, sent.sent_at, sent.arrived_at
        from test_message sent
        join verification asked on asked.organization_id = $1 and asked.id = sent.verification_id
        where sent.organization_id = $1 and sent.id = $2 and asked.test_message = 'recipient'
        "#,
        organization as OrganizationId,
        id as TestMessageId,
    )
    .fetch_optional(db)
    .await
}

/// Somebody says that it is there, the first time.
pub async fn seen(db: impl PgExecutor<'_>, organization: OrganizationId, id: TestMessageId, by: &str) -> Result<()> {
    sqlx::query!(
        r#"
        update test_message set arrived_at = clock_timestamp(), seen_by = $3
        where organization_id = $1 and id = $2 and arrived_at is null
        "#,
        organization as OrganizationId,
        id as TestMessageId,
        by,
    )
    .execute(db)
    .await
    .map(drop)
}

/// Somebody has pasted its source, which says that it is there as well; in place of what was pasted before.
pub async fn pasted(
    db: impl PgExecutor<'_>,
    organization: OrganizationId,
    id: TestMessageId,
    arrival: &Arrival,
    by: &str,
) -> Result<()> {
    sqlx::query!(
        r#"
        update test_message
        set arrived_at = coalesce(arrived_at, clock_timestamp()), seen_by = coalesce(seen_by, $3),
            pasted = $4, pasted_at = clock_timestamp(), look_at = case when $5 then clock_timestamp() end
        where organization_id = $1 and id = $2
        "#,
        organization as OrganizationId,
        id as TestMessageId,
        by,
        Json(arrival) as Json<&Arrival>,
        arrival.asks_dns(),
    )
    .execute(db)
    .await
    .map(drop)
}
