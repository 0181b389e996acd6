//! Questions whether a gateway accepts our mail: asked by pages and command, answered by every relay.
//! What is found is `policy::verification`'s.

use sqlx::{PgConnection, PgExecutor, types::Json};
use time::OffsetDateTime;

use super::Result;
use crate::{
    mail::{
        GatewayAddress,
        id::{ChangeId, GatewayId, OrganizationId, RelayId, VerificationId},
    },
    policy::{
        outbound_address::{AddressesToAllow, OutboundAddresses},
        verification::{Destination, Step},
    },
};

/// How many questions of one organization may be unanswered at a time.
pub const AT_A_TIME: usize = 5;

/// How many of them in a minute: each has every relay connect to whatever address somebody types.
const A_MINUTE: i64 = 10;

/// How often an organization may have test messages sent in an hour: by each relay one.
pub const TESTS_AN_HOUR: i64 = 12;

/// What is to be verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted<'a> {
    /// A saved gateway, or else an address alone.
    pub gateway: Option<GatewayId>,
    /// Whether its record is meant as it is to be, where a change of it is pending.
    pub is_pending: bool,
    pub address: &'a GatewayAddress,
    /// `None`: as the organization said, or else the postmaster of its shortest mail domain.
    pub sender: Option<&'a str>,
    /// `None`: as the operator set.
    pub recipient: Option<&'a str>,
    /// Whether a message is sent when the gateway accepts the recipient, and where it goes.
    pub test: Option<TestMessage<'a>>,
    pub by: &'a str,
}

impl<'a> Wanted<'a> {
    /// As the organization and the operator have set it, and without a message.
    pub fn of(gateway: Option<GatewayId>, address: &'a GatewayAddress, by: &'a str) -> Self {
        Self { gateway, is_pending: false, address, sender: None, recipient: None, test: None, by }
    }
}

/// A message that shows whether mail arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TestMessage<'a> {
    /// It goes to the recipient, who says at this page that it has arrived.
    ToRecipient { link: Option<&'a str> },
    /// It comes back to this installation.
    ToReturn,
}

impl<'a> TestMessage<'a> {
    fn link(self) -> Option<&'a str> {
        match self {
            Self::ToRecipient { link } => link,
            Self::ToReturn => None,
        }
    }
}

impl From<TestMessage<'_>> for Destination {
    fn from(test: TestMessage<'_>) -> Self {
        match test {
            TestMessage::ToRecipient { .. } => Self::Recipient,
            TestMessage::ToReturn => Self::Return,
        }
    }
}

/// What became of asking.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Asked {
    Asked(VerificationId),
    /// There is no such gateway, or no mail domain to send from.
    NotFound,
    /// Others are under way, or were asked within the last minute.
    TooMany,
    /// Of test messages, within the last hour.
    TooManyTests,
}

/// Asks every relay. Of a gateway that is saved the revision counts that is in use now, or that is to be.
pub async fn ask(db: &mut PgConnection, organization: OrganizationId, wanted: &Wanted<'_>) -> Result<Asked> {
    forget_old(&mut *db, organization).await?;
    one_at_a_time(db, organization).await?;
    let under_way = sqlx::query!(
        r#"
        select id as "id: VerificationId", recipient is not distinct from $4 and sender = coalesce($3, probe_sender_of($1))
               and test_message is not distinct from $6
               and (gateway_id is not distinct from $2 and (gateway_id is null or revision = (
                        select case when $7 then pending_revision else revision end
                        from gateway where organization_id = $1 and id = $2))) and address = $5
               as "is_same!"
        from verification asked
        where organization_id = $1 and requested_at > now() - interval '40 seconds'
          and not exists (select from verification_result result
                          where result.organization_id = asked.organization_id and result.verification_id = asked.id
                            and ended_at is not null)
        "#,
        organization as OrganizationId,
        wanted.gateway as Option<GatewayId>,
        wanted.sender,
        wanted.recipient,
        wanted.address as &GatewayAddress,
        wanted.test.map(Destination::from) as Option<Destination>,
        wanted.is_pending,
    )
    .fetch_all(&mut *db)
    .await?;
    // Asked twice, as by two clicks: both hear the same answer.
    if let Some(same) = under_way.iter().find(|asked| asked.is_same) {
        return Ok(Asked::Asked(same.id));
    }
    if under_way.len() >= AT_A_TIME || of_the_last_minute(db, organization).await? >= A_MINUTE {
        return Ok(Asked::TooMany);
    }
    if wanted.test.is_some() && tests_of_the_last_hour(db, organization).await? >= TESTS_AN_HOUR {
        return Ok(Asked::TooManyTests);
    }
    let id = VerificationId::new();
    let asked = sqlx::query!(
        r#"
        insert into verification
            (organization_id, id, gateway_id, revision, address, sender, recipient, requested_by, test_message, link)
        select $1, $2, meant.gateway_id, meant.revision, coalesce(meant.address, $4),
               coalesce($5, probe.sender), $6, $7, $8, $9
        from (select probe_sender_of($1) as sender) probe
        left join (select used.gateway_id, used.revision, used.address
                   from gateway
                   join gateway_revision used on used.organization_id = $1 and used.gateway_id = gateway.id
                        and used.revision = case when $10 then gateway.pending_revision else gateway.revision end
                   where gateway.organization_id = $1 and gateway.id = $3) meant on true
        where ($3::uuid is null or meant.gateway_id is not null) and probe.sender is not null
        "#,
        organization as OrganizationId,
        id as VerificationId,
        wanted.gateway as Option<GatewayId>,
        wanted.address as &GatewayAddress,
        wanted.sender,
        wanted.recipient,
        wanted.by,
        wanted.test.map(Destination::from) as Option<Destination>,
        wanted.test.and_then(TestMessage::link),
        wanted.is_pending,
    )
    .execute(db)
    .await?;
    Ok(if asked.rows_affected() == 1 { Asked::Asked(id) } else { Asked::NotFound })
}

/// What is older than 30 days is forgotten, but for the last one that counts (see [`checked`]) about a gateway as it is now
/// or is to be: pages say what it has found.
async fn forget_old(db: &mut PgConnection, organization: OrganizationId) -> Result<()> {
    sqlx::query!(
        r#"
        delete from verification old
        where organization_id = $1 and requested_at < now() - interval '30 days'
          and (gateway_id is null or recipient is not null or test_message is not null
               or exists (select from verification newer
                          where newer.organization_id = $1 and newer.gateway_id = old.gateway_id
                            and newer.revision = old.revision and newer.requested_at > old.requested_at
                            and newer.recipient is null and newer.test_message is null)
               or not exists (select from gateway where gateway.organization_id = $1 and gateway.id = old.gateway_id
                                                    and old.revision in (gateway.revision, gateway.pending_revision)))
        "#,
        organization as OrganizationId,
    )
    .execute(db)
    .await
    .map(drop)
}

async fn of_the_last_minute(db: &mut PgConnection, organization: OrganizationId) -> Result<i64> {
    sqlx::query_scalar!(
        r#"
        select count(*) as "count!" from verification
        where organization_id = $1 and requested_at > now() - interval '1 minute'
        "#,
        organization as OrganizationId,
    )
    .fetch_one(db)
    .await
}

async fn tests_of_the_last_hour(db: &mut PgConnection, organization: OrganizationId) -> Result<i64> {
    sqlx::query_scalar!(
        r#"
        select count(*) as "count!" from verification
        where organization_id = $1 and test_message is not null and requested_at > now() - interval '1 hour'
        "#,
        organization as OrganizationId,
    )
    .fetch_one(db)
    .await
}

/// Asks about the gateways that a change has set for somebody, or whose record it has changed, as far as the present
/// revision of each was not asked about yet and not several are under way: many at once are seen by their mail, and by
/// the probe where there is none.
pub async fn ask_after_change(
    db: &mut PgConnection,
    organization: OrganizationId,
    change: ChangeId,
    by: &str,
) -> Result<()> {
    one_at_a_time(&mut *db, organization).await?;
    if of_the_last_minute(&mut *db, organization).await? >= A_MINUTE {
        return Ok(());
    }
    sqlx::query!(
        r#"
        insert into verification (organization_id, id, gateway_id, revision, address, sender, requested_by)
        select $1, gen_random_uuid(), gateway.id, gateway.revision, gateway.address, probe.sender, $3
        from (select distinct case when subject = 'gateway' then subject_key
                                   else after ->> 'outbound_gateway' end::uuid as id
              from change_item
              where organization_id = $1 and change_id = $2 and after is not null
                and subject in ('organization', 'domain', 'account', 'gateway')) touched
        join gateway on gateway.organization_id = $1 and gateway.id = touched.id
        cross join (select probe_sender_of($1) as sender) probe
        where probe.sender is not null
          and not exists (select from verification other
                          where other.organization_id = $1 and other.gateway_id = gateway.id
                            and other.revision = gateway.revision)
        limit greatest(0, $4 - (select count(*) from verification other
                                where other.organization_id = $1 and other.requested_at > now() - interval '40 seconds'
                                  and not exists (select from verification_result result
                                                  where result.organization_id = $1 and result.verification_id = other.id
                                                    and result.ended_at is not null)))
        "#,
        organization as OrganizationId,
        change as ChangeId,
        by,
        AT_A_TIME as i64,
    )
    .execute(db)
    .await
    .map(drop)
}

/// Of several who ask at once each sees what the others have asked: until the end of the transaction.
async fn one_at_a_time(db: &mut PgConnection, organization: OrganizationId) -> Result<()> {
    sqlx::query!(
        "select pg_advisory_xact_lock(hashtextextended('outgate verification ' || $1::text, 0))",
        organization.to_string(),
    )
    .execute(db)
    .await
    .map(drop)
}

/// A question that a relay has taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Taken {
    pub organization: OrganizationId,
    pub id: VerificationId,
    pub gateway: Option<GatewayId>,
    /// Of the gateway, when it was asked.
    pub revision: Option<i64>,
    /// Whether that is a change of its record that is not live yet.
    pub is_pending: bool,
    pub address: GatewayAddress,
    pub sender: String,
    pub recipient: Option<String>,
    /// Where a message goes, if one is to be sent.
    pub test: Option<Destination>,
    /// Where the recipient says that it has arrived, but for the message's id.
    pub link: Option<String>,
    pub by: String,
    /// The organization's name.
    pub name: String,
}

/// Takes what this relay has not yet been asked. What is older than a minute nobody waits for.
pub async fn take_across_tenants(db: impl PgExecutor<'_>, relay: RelayId, name: &str) -> Result<Vec<Taken>> {
    sqlx::query_as!(
        Taken,
        r#"
        with taken as (
            insert into verification_result (organization_id, verification_id, relay_id, relay)
            select organization_id, id, $1, $2 from verification where requested_at > now() - interval '1 minute'
            on conflict do nothing
            returning organization_id, verification_id
        )
        select asked.organization_id as "organization: OrganizationId", asked.id as "id: VerificationId",
               asked.gateway_id as "gateway: GatewayId", asked.revision,
               coalesce(gateway.pending_revision = asked.revision, false) as "is_pending!",
               asked.address as "address: GatewayAddress", asked.sender,
               asked.recipient, asked.test_message as "test: Destination", asked.link, asked.requested_by as by,
               organization.name
        from taken
        join verification asked on asked.organization_id = taken.organization_id and asked.id = taken.verification_id
        join organization on organization.id = taken.organization_id
        left join gateway on gateway.organization_id = taken.organization_id and gateway.id = asked.gateway_id
        "#,
        relay as RelayId,
        name,
    )
    .fetch_all(db)
    .await
}

/// Tells how far a relay is; with `accepts` that it has ended.
pub async fn report_across_tenants(
    db: impl PgExecutor<'_>,
    relay: RelayId,
    taken: &Taken,
    steps: &[Step],
    accepts: Option<bool>,
) -> Result<()> {
    sqlx::query!(
        r#"
        update verification_result
        set steps = $4, accepts = $5::boolean, ended_at = case when $5::boolean is not null then clock_timestamp() end
        where organization_id = $1 and verification_id = $2 and relay_id = $3 and ended_at is null
        "#,
        taken.organization as OrganizationId,
        taken.id as VerificationId,
        relay as RelayId,
        Json(steps) as Json<&[Step]>,
        accepts,
    )
    .execute(db)
    .await
    .map(drop)
}

/// A question and its answers.
#[derive(Debug, Clone)]
pub struct Verification {
    pub gateway: Option<GatewayId>,
    pub revision: Option<i64>,
    pub address: GatewayAddress,
    pub sender: String,
    pub by: String,
    pub at: OffsetDateTime,
    /// Where test messages go, if any are sent.
    pub test: Option<Destination>,
    /// By the relays' names.
    pub answers: Vec<Answer>,
    /// The names of the relays that run and have not taken it.
    pub silent: Vec<String>,
    /// Nobody waits any more for those that have not answered.
    pub is_over: bool,
}

/// What one relay found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    pub relay: String,
    pub steps: Vec<Step>,
    /// `None`: it has not ended.
    pub accepts: Option<bool>,
}

impl Verification {
    /// What the gateway has to accept of these relays.
    pub fn to_allow(&self, relays: Vec<OutboundAddresses>) -> AddressesToAllow {
        AddressesToAllow::as_seen(relays, |name| {
            let answer = self.answers.iter().find(|answer| answer.relay == name)?;
            answer.steps.iter().rev().find_map(|step| step.from)
        })
    }

    /// Whether there is nothing more to come.
    pub fn has_ended(&self) -> bool {
        self.is_over
            || (self.silent.is_empty()
                && !self.answers.is_empty()
                && self.answers.iter().all(|answer| answer.accepts.is_some()))
    }

    /// The names of the relays that have not said what they found.
    pub fn unanswered(&self) -> Vec<&str> {
        let under_way = self.answers.iter().filter(|answer| answer.accepts.is_none()).map(|answer| &answer.relay);
        self.silent.iter().chain(under_way).map(String::as_str).collect()
    }

    /// Whether a relay has found that it does not.
    pub fn refuses(&self) -> bool {
        self.answers.iter().any(|answer| answer.accepts == Some(false))
    }

    /// Whether every relay that runs has found that it accepts, and that its certificate would be verified.
    pub fn would_verify(&self) -> bool {
        self.accepts() && self.answers.iter().all(|answer| answer.steps.iter().any(|step| step.would_verify))
    }

    /// Whether every relay that runs has found that the gateway accepts.
    pub fn accepts(&self) -> bool {
        self.silent.is_empty()
            && !self.answers.is_empty()
            && self.answers.iter().all(|answer| answer.accepts == Some(true))
    }
}

/// What a question of the organization is about.
pub async fn address_of(
    db: impl PgExecutor<'_>,
    organization: OrganizationId,
    id: VerificationId,
) -> Result<Option<GatewayAddress>> {
    sqlx::query_scalar!(
        r#"select address as "address: GatewayAddress" from verification where organization_id = $1 and id = $2"#,
        organization as OrganizationId,
        id as VerificationId,
    )
    .fetch_optional(db)
    .await
}

/// One question of the organization.
pub async fn by_id(
    db: &mut PgConnection,
    organization: OrganizationId,
    id: VerificationId,
) -> Result<Option<Verification>> {
    let asked = sqlx::query!(
        r#"
        select gateway_id as "gateway: GatewayId", revision, address as "address: GatewayAddress", sender, requested_by,
               test_message as "test: Destination", requested_at, requested_at < now() - interval '45 seconds' as "is_over!",
               array(select name from relay
                     where signed_off_at is null and last_seen_at > now() - interval '60 seconds'
                       and not exists (select from verification_result taken
                                       where taken.organization_id = $1 and taken.verification_id = $2
                                         and taken.relay_id = relay.id)
                     order by name) as "silent!"
        from verification where organization_id = $1 and id = $2
        "#,
        organization as OrganizationId,
        id as VerificationId,
    )
    .fetch_optional(&mut *db)
    .await?;
    let Some(asked) = asked else { return Ok(None) };
    let answers = sqlx::query!(
        r#"
        select relay, steps as "steps: Json<Vec<Step>>", accepts from verification_result
        where organization_id = $1 and verification_id = $2 order by relay
        "#,
        organization as OrganizationId,
        id as VerificationId,
    )
    .map(|row| Answer { relay: row.relay, steps: row.steps.0, accepts: row.accepts })
    .fetch_all(db)
    .await?;
    Ok(Some(Verification {
        gateway: asked.gateway,
        revision: asked.revision,
        address: asked.address,
        sender: asked.sender,
        by: asked.requested_by,
        at: asked.requested_at,
        test: asked.test,
        answers,
        silent: asked.silent,
        is_over: asked.is_over,
    }))
}

/// The last verification of a gateway's present revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Checked {
    pub gateway: GatewayId,
    pub id: VerificationId,
    pub revision: i64,
    pub at: OffsetDateTime,
    /// What all relays found together that were there when it was asked; `None`: not all of them have answered, and none has
    /// been refused.
    pub accepts: Option<bool>,
    /// Nobody waits any more for those that have not answered.
    pub is_over: bool,
}

/// Of each gateway of the organization, or of one, that was verified since its last change as mail would find it: with the
/// operator's recipient, and without a message of which anything else may be wrong.
pub async fn checked(
    db: &mut PgConnection,
    organization: OrganizationId,
    only: Option<GatewayId>,
) -> Result<Vec<Checked>> {
    sqlx::query_as!(
        Checked,
        r#"
        select distinct on (asked.gateway_id) asked.gateway_id as "gateway!: GatewayId", asked.id as "id: VerificationId",
               asked.revision as "revision!", asked.requested_at as at,
               verdict($1, asked.id, asked.requested_at) as accepts,
               asked.requested_at < now() - interval '45 seconds' as "is_over!"
        from verification asked
        join gateway on gateway.organization_id = $1 and gateway.id = asked.gateway_id
                    and gateway.revision = asked.revision
        where asked.organization_id = $1 and ($2::uuid is null or asked.gateway_id = $2)
          and asked.recipient is null and asked.test_message is null
        order by asked.gateway_id, asked.requested_at desc
        "#,
        organization as OrganizationId,
        only as Option<GatewayId>,
    )
    .fetch_all(db)
    .await
}
