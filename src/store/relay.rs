//! Relays: who signed on, what each has confirmed, and the lock that keeps two running relays
//! from having one name.

use ipnet::IpNet;
use sqlx::{PgExecutor, PgPool, postgres::PgConnectOptions};
use time::OffsetDateTime;

use super::{Result, pool};
use crate::{
    mail::id::{RelayId, Revision},
    policy::outbound_address::OutboundAddresses,
};

/// A relay as pages and `outgate relay list` show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relay {
    pub name: String,
    pub confirmed: Revision,
    pub last_seen_at: OffsetDateTime,
    pub signed_off_at: Option<OffsetDateTime>,
    /// Has not signed off, and was not heard from for 60 seconds.
    pub silent: bool,
}

/// Takes the name for as long as the connection lives; false if another running relay has it.
pub async fn try_lock_name(db: impl PgExecutor<'_>, name: &str) -> Result<bool> {
    sqlx::query_scalar!(r#"select pg_try_advisory_lock(hashtextextended('outgate relay ' || $1, 0)) as "taken!""#, name)
        .fetch_one(db)
        .await
}

/// Connections for a relay, made when they are needed. A queued message is answered 250, so on each of them a commit
/// is on disk before it is answered, and on the synchronous standbys where there are any, whatever is set for the
/// server, the database or the role.
pub fn pool(connections: u32, options: PgConnectOptions) -> PgPool {
    pool::options(connections)
        .after_connect(|connection, _| Box::pin(prepare(connection)))
        .after_release(|connection, _| Box::pin(pool::is_of_use(connection)))
        .connect_lazy_with(options)
}

/// A commit waits for the disk; a setting that waits for more stays as it is. Statements are planned once for a
/// connection and find their rows by an index, whatever the queue holds when they are planned: it is nearly empty at
/// one moment and full at the next.
async fn prepare(db: impl PgExecutor<'_>) -> Result<()> {
    sqlx::query!(
        r#"
        select set_config('plan_cache_mode', 'force_generic_plan', false) as plans,
               set_config('enable_seqscan', 'off', false) as scans,
               set_config('jit', 'off', false) as jit,
               case when current_setting('synchronous_commit') not in ('on', 'remote_apply')
                    then set_config('synchronous_commit', 'on', false) end as synchronous_commit
        "#
    )
    .fetch_one(db)
    .await
    .map(drop)
}

/// What time it is for the store.
pub async fn clock(db: impl PgExecutor<'_>) -> Result<OffsetDateTime> {
    sqlx::query_scalar!(r#"select clock_timestamp() as "now!""#).fetch_one(db).await
}

/// Whether what a commit has answered for is on disk: `synchronous_commit` may be set for a database or a role.
pub async fn keeps_commits(db: impl PgExecutor<'_>) -> Result<bool> {
    sqlx::query_scalar!(r#"select current_setting('synchronous_commit') <> 'off' as "keeps!""#).fetch_one(db).await
}

/// Whether the server writes to disk at all. Without it a loss of power loses mail, whatever a commit says.
pub async fn survives_power_loss(db: impl PgExecutor<'_>) -> Result<bool> {
    sqlx::query_scalar!(r#"select current_setting('fsync') = 'on' as "survives!""#).fetch_one(db).await
}

/// As what a relay is signed on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SignedOn {
    pub id: RelayId,
    pub started_at: OffsetDateTime,
}

/// Signs on under a name, with what the relay has applied so far. A relay that was here before
/// under that name gets its former id back, and with it the mail that it had leased; else `new` is its id.
pub async fn sign_on(db: impl PgExecutor<'_>, name: &str, new: RelayId, applied: Revision) -> Result<SignedOn> {
    sqlx::query_as!(
        SignedOn,
        r#"
        insert into relay (id, name, started_at, last_seen_at, confirmed_revision, approving_since)
        values ($1, $2, now(), now(), $3, now())
        on conflict (name) do update
        set started_at = now(), last_seen_at = now(), confirmed_revision = $3, signed_off_at = null,
            approving_since = now()
        returning id as "id: RelayId", started_at
        "#,
        new as RelayId,
        name,
        applied as Revision,
    )
    .fetch_one(db)
    .await
}

/// What others have to know of how a relay is set up.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SetUp {
    /// Where its connections are seen to come from.
    pub outbound_addresses: Vec<IpNet>,
    /// The operator has named them; else they are its machine's own.
    pub addresses_are_set: bool,
    /// It passes messages on while their client waits; else all are queued first.
    pub hands_over: bool,
}

/// Says how the relay is set up.
pub async fn tell_set_up(db: impl PgExecutor<'_>, relay: RelayId, set_up: &SetUp) -> Result<()> {
    sqlx::query!(
        r#"
        update relay set outbound_addresses = $2, outbound_addresses_are_set = $3, hands_over = $4 where id = $1
        "#,
        relay as RelayId,
        &set_up.outbound_addresses as &[IpNet],
        set_up.addresses_are_set,
        set_up.hands_over,
    )
    .execute(db)
    .await
    .map(drop)
}

/// Where the connections of the relays are seen to come from, by name. One that signed off within a day counts: it was
/// most likely stopped for an upgrade.
pub async fn outbound_addresses(db: impl PgExecutor<'_>) -> Result<Vec<OutboundAddresses>> {
    sqlx::query_as!(
        OutboundAddresses,
        r#"
        select name as relay, outbound_addresses as "addresses: Vec<IpNet>", outbound_addresses_are_set as are_set
        from relay
        where signed_off_at is null or signed_off_at > now() - interval '1 day'
        order by name
        "#,
    )
    .fetch_all(db)
    .await
}

/// The relays at work, by name, and whether each passes messages on while their client waits.
pub(super) async fn at_work(db: impl PgExecutor<'_>) -> Result<Vec<(String, bool)>> {
    sqlx::query!(
        r#"
        select name, hands_over from relay
        where signed_off_at is null and last_seen_at > now() - interval '60 seconds'
        order by name
        "#,
    )
    .map(|row| (row.name, row.hands_over))
    .fetch_all(db)
    .await
}

/// Whether somebody has signed on under the name since then, and speaks for it now.
pub async fn is_superseded(db: impl PgExecutor<'_>, name: &str, signed_on: SignedOn) -> Result<bool> {
    sqlx::query_scalar!(
        r#"select exists (select from relay where name = $1 and started_at <> $2) as "superseded!""#,
        name,
        signed_on.started_at,
    )
    .fetch_one(db)
    .await
}

/// Says that no new attempt of this relay uses facts older than `revision`, and keeps when it said so first.
/// False if the operator has forgotten the relay: then it has to sign on again, or nobody would wait for it.
pub async fn confirm(db: impl PgExecutor<'_>, relay: RelayId, revision: Revision) -> Result<bool> {
    sqlx::query_scalar!(
        r#"
        with known as (
            update relay set confirmed_revision = greatest(confirmed_revision, $2), last_seen_at = now()
            where id = $1 and signed_off_at is null
            returning id
        ), kept as (
            insert into relay_confirmation (relay_id, revision) select id, $2 from known on conflict do nothing
        )
        select exists (select from known) as "known!"
        "#,
        relay as RelayId,
        revision as Revision,
    )
    .fetch_one(db)
    .await
}

/// Forgets confirmations that are older than a day. The oldest come first in the key, so that nothing is read
/// that stays.
pub async fn forget_confirmations(db: impl PgExecutor<'_>, relay: RelayId) -> Result<()> {
    sqlx::query!(
        r#"
        delete from relay_confirmation
        where relay_id = $1 and confirmed_at < now() - interval '1 day' and revision in (
            select revision from relay_confirmation where relay_id = $1 order by revision limit 1000
        )
        "#,
        relay as RelayId,
    )
    .execute(db)
    .await
    .map(drop)
}

/// What a relay hears when it says that it is alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Heard {
    /// The latest.
    pub revision: Revision,
    /// How many relays are at work, with this one.
    pub relays: i64,
}

/// Says that the relay is alive, and asks how the installation is in the same round trip.
/// `None` if the operator has forgotten the relay.
pub async fn heartbeat(db: impl PgExecutor<'_>, relay: RelayId) -> Result<Option<Heard>> {
    sqlx::query_as!(
        Heard,
        r#"
        update relay set last_seen_at = now() where id = $1 and signed_off_at is null
        returning (select revision from installation) as "revision!: Revision",
                  (select count(*) from relay
                   where id = $1 or signed_off_at is null and last_seen_at > now() - interval '60 seconds') as "relays!"
        "#,
        relay as RelayId,
    )
    .fetch_optional(db)
    .await
}

/// Whether another relay than this one is at work.
pub async fn are_others_heard_across_tenants(db: impl PgExecutor<'_>, relay: RelayId) -> Result<bool> {
    sqlx::query_scalar!(
        r#"
        select exists (
            select from relay
            where id <> $1 and signed_off_at is null and last_seen_at > now() - interval '60 seconds'
        ) as "exists!"
        "#,
        relay as RelayId,
    )
    .fetch_one(db)
    .await
}

/// A relay that has not signed off and is of the former version, which does not know that messages to a distribution list
/// may need approval.
pub(super) async fn without_approval(db: impl PgExecutor<'_>) -> Result<Option<String>> {
    sqlx::query_scalar!(
        r#"
        select name from relay where signed_off_at is null and approving_since is distinct from started_at
        order by name limit 1
        "#,
    )
    .fetch_optional(db)
    .await
}

/// A relay that stopped in good order is not waited for.
pub async fn sign_off(db: impl PgExecutor<'_>, relay: RelayId) -> Result<()> {
    sqlx::query!("update relay set signed_off_at = now(), last_seen_at = now() where id = $1", relay as RelayId)
        .execute(db)
        .await
        .map(drop)
}

/// All relays that ever signed on and were not forgotten, by name.
pub async fn list(db: impl PgExecutor<'_>) -> Result<Vec<Relay>> {
    sqlx::query_as!(
        Relay,
        r#"
        select name, confirmed_revision as "confirmed: Revision", last_seen_at, signed_off_at,
               (signed_off_at is null and last_seen_at < now() - interval '60 seconds') as "silent!"
        from relay order by name
        "#,
    )
    .fetch_all(db)
    .await
}

/// Stops waiting for a relay that will not come back. One that runs after all signs on again with
/// its next heartbeat. Returns whether there was one. For the operator.
pub async fn forget(owner: impl PgExecutor<'_>, name: &str) -> Result<bool> {
    let done = sqlx::query!("delete from relay where name = $1", name).execute(owner).await?;
    Ok(done.rows_affected() == 1)
}
