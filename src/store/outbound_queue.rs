//! The queue as administrators see it: what waits, for what and why, page by page, and what they want of it. A wish
//! is written next to its message, and relays carry it out with their leases. Groups of held mail are `held_mail`'s.

use sqlx::{PgConnection, types::Json};
use time::OffsetDateTime;

use super::{Result, gateway::PointerScope};
use crate::{
    mail::{
        DomainName, GatewayAddress,
        envelope::Recipient,
        id::{AccountId, ChangeId, GatewayId, OrganizationId, QueueId},
    },
    policy::waiting::{Choice, HeldBecause},
};

/// How many messages are on one page.
pub const PAGE_SIZE: usize = 50;

/// As far as messages are counted where their number is only shown.
pub const COUNTED: i64 = 10_000;

/// How many gateways are offered to filter by.
const OFFERED: i32 = 200;

/// What the organization's messages are asked for; `None` leaves all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Filter {
    /// A part of the sender's address, whatever its case.
    pub sender: Option<String>,
    /// A part of the address of a recipient who still waits.
    pub recipient: Option<String>,
    pub waits_for: Option<WaitsFor>,
    pub why: Option<Why>,
}

/// What a message waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WaitsFor {
    Gateway(GatewayId),
    /// The platform's default, an inbound host, or nothing yet.
    NoGateway,
}

/// Why a message is in the queue.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    /// For its next attempt.
    Waiting,
    /// For an administrator.
    Held,
    /// A server has the whole message and has not answered yet.
    AnswerAwaited,
    /// A relay has it.
    BeingTried,
}

impl Why {
    /// All of them, in the order in which they are offered.
    pub const ALL: [Self; 4] = [Self::Waiting, Self::Held, Self::AnswerAwaited, Self::BeingTried];

    /// The word in the address of the page and in statements.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Held => "held",
            Self::AnswerAwaited => "answer-awaited",
            Self::BeingTried => "being-tried",
        }
    }

    fn of(word: &str) -> Self {
        Self::ALL.into_iter().find(|why| why.as_str() == word).unwrap_or(Self::Waiting)
    }
}

/// Which messages are meant. Those of another tenant, and those that have left, are simply not among them.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Messages {
    Ticked(Vec<QueueId>),
    /// Everything that the list shows, on all pages.
    Matching(Filter),
}

/// A page of the list. Ids are in the order of time, so it begins with what has waited longest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Position {
    First,
    After(QueueId),
    Before(QueueId),
}

/// One message as the list shows it.
#[derive(Debug, Clone)]
pub struct Listed {
    pub id: QueueId,
    /// `None` for our own notifications.
    pub sender: Option<String>,
    /// The first recipient who still waits, and how many do.
    pub recipient: Option<String>,
    pub recipients: i64,
    /// In bytes.
    pub size: i64,
    pub why: Why,
    pub held_because: Option<HeldBecause>,
    /// The gateway of all users or of the sender's domain has not passed its verification yet, and there is no other.
    pub awaits_gateway: bool,
    pub choice: Option<Choice>,
    /// When somebody wanted another attempt, unless there was one since.
    pub retry_wished_at: Option<OffsetDateTime>,
    /// The gateway that it waits for.
    pub gateway: Option<GatewayAddress>,
    /// The host that an administrator set for the recipient's domain, where that is the organization's own.
    pub inbound_host: Option<GatewayAddress>,
    /// Those that count: a gateway's own trouble does not.
    pub attempts: i32,
    pub last_reply: Option<String>,
    pub accepted_at: OffsetDateTime,
    pub next_attempt_at: OffsetDateTime,
    /// Until when it waits because its sender sent more than a limit allows.
    pub throttled_until: Option<OffsetDateTime>,
    /// When it returns to its sender.
    pub expires_at: OffsetDateTime,
}

/// Some messages, the longest waiting first, and whether there are more on either side.
#[derive(Debug, Clone, Default)]
pub struct Page {
    pub rows: Vec<Listed>,
    pub has_previous: bool,
    pub has_next: bool,
}

/// What a statement asks the messages for, in the order of its parameters from $2 on.
#[derive(Default)]
struct Conditions<'a> {
    ticked: Option<&'a [QueueId]>,
    sender: Option<String>,
    recipient: Option<String>,
    gateway: Option<GatewayId>,
    no_gateway: bool,
    why: Option<&'static str>,
}

impl From<&Filter> for Conditions<'_> {
    fn from(filter: &Filter) -> Self {
        Self {
            ticked: None,
            sender: filter.sender.as_ref().map(|part| part.to_lowercase()),
            recipient: filter.recipient.as_ref().map(|part| part.to_lowercase()),
            gateway: match filter.waits_for {
                Some(WaitsFor::Gateway(gateway)) => Some(gateway),
                Some(WaitsFor::NoGateway) | None => None,
            },
            no_gateway: filter.waits_for == Some(WaitsFor::NoGateway),
            why: filter.why.map(Why::as_str),
        }
    }
}

impl<'a> From<&'a Messages> for Conditions<'a> {
    fn from(messages: &'a Messages) -> Self {
        match messages {
            Messages::Ticked(ids) => Self { ticked: Some(ids), ..Self::default() },
            Messages::Matching(filter) => Self::from(filter),
        }
    }
}

/// A statement over the messages that are asked for, with an id that they come after and one that is the last.
macro_rules! over_messages {
    ($query:ident, [$($row:ident)?], $select:tt, $end:tt, $organization:expr, $of:expr, $after:expr, $last:expr, $limit:expr) => {
        sqlx::$query!(
            $($row,)?
            $select + " from queued_message
             where organization_id = $1 and ($2::uuid[] is null or id = any ($2))
               and ($3::text is null or strpos(lower(sender), $3) > 0)
               and ($4::text is null or exists (
                   select from jsonb_array_elements(recipients) recipient
                   where recipient ->> 'state' = 'waiting' and strpos(lower(recipient ->> 'to'), $4) > 0))
               and ($5::uuid is null or waits_for = $5) and (not $6::boolean or waits_for is null)
               and ($7::text is null or $7 = case when state = 'held' then 'held'
                                                  when state = 'answer_awaited' then 'answer-awaited'
                                                  when lease_token is not null and next_attempt_at > now() then 'being-tried'
                                                  else 'waiting' end)
               and ($8::uuid is null or id > $8) and ($9::uuid is null or id <= $9) "
                + $end,
            $organization as OrganizationId,
            $of.ticked as Option<&[QueueId]>,
            $of.sender,
            $of.recipient,
            $of.gateway as Option<GatewayId>,
            $of.no_gateway,
            $of.why,
            $after as Option<QueueId>,
            $last as Option<QueueId>,
            $limit,
        )
    };
}

/// Each question is planned by what it asks for: one plan for all of them could only read everything. Behind row level
/// security its cost is estimated far too high, and compiling it would take ten times as long as the answer.
async fn plan_anew(db: &mut PgConnection) -> Result<()> {
    sqlx::query!("select set_config('plan_cache_mode', 'force_custom_plan', true) as plans, set_config('jit', 'off', true) as jit")
        .fetch_one(db)
        .await
        .map(drop)
}

/// One page of the messages that match.
pub async fn list(
    db: &mut PgConnection,
    organization: OrganizationId,
    filter: &Filter,
    position: Position,
) -> Result<Page> {
    plan_anew(db).await?;
    let of = Conditions::from(filter);
    let limit = PAGE_SIZE as i64 + 1;
    let mut ids = match position {
        Position::First | Position::After(_) => {
            let after = if let Position::After(id) = position { Some(id) } else { None };
            over_messages!(
                query_scalar,
                [],
                "select id as \"id: QueueId\"",
                "order by id limit $10",
                organization,
                of,
                after,
                None::<QueueId>,
                limit
            )
            .fetch_all(&mut *db)
            .await?
        }
        Position::Before(id) => {
            over_messages!(
                query_scalar,
                [],
                "select id as \"id: QueueId\"",
                "and id <> $9 order by id desc limit $10",
                organization,
                of,
                None::<QueueId>,
                Some(id),
                limit
            )
            .fetch_all(&mut *db)
            .await?
        }
    };
    let has_more = ids.len() > PAGE_SIZE;
    ids.truncate(PAGE_SIZE);
    let rows = by_ids(db, organization, &ids).await?;
    Ok(match position {
        Position::First => Page { rows, has_previous: false, has_next: has_more },
        Position::After(_) => Page { rows, has_previous: true, has_next: has_more },
        Position::Before(_) => Page { rows, has_previous: has_more, has_next: true },
    })
}

/// These messages, in the order of their ids.
async fn by_ids(db: &mut PgConnection, organization: OrganizationId, ids: &[QueueId]) -> Result<Vec<Listed>> {
    let rows = sqlx::query!(
        r#"
        select id as "id: QueueId", sender, first.recipient, waiting.number as "recipients!", size,
               case when state = 'held' then 'held' when state = 'answer_awaited' then 'answer-awaited'
                    when lease_token is not null and next_attempt_at > now() then 'being-tried'
                    else 'waiting' end as "why!",
               held_because as "held_because: HeldBecause",
               exists (select from organization where id = $1 and outbound_gateway_id is null
                                                  and pending_gateway_id is not null)
               or exists (select from mail_domain where organization_id = $1 and name = sender_domain
                                                    and outbound_gateway_id is null and pending_gateway_id is not null)
                   as "awaits_gateway!",
               case when without_report then 'delete' else choice end as "choice: Choice", retry_wished_at,
               (select address from gateway where organization_id = $1 and gateway.id = waits_for)
                   as "gateway: GatewayAddress",
               (select inbound_host from mail_domain
                where organization_id = $1 and name = lower(substring(first.recipient from '[^@]*$')))
                   as "inbound_host: GatewayAddress",
               attempts, last_reply, accepted_at, next_attempt_at, throttled_until, expires_at
        from queued_message
        left join lateral (select count(*) as number from jsonb_array_elements(recipients) recipient
                           where recipient ->> 'state' = 'waiting') waiting on true
        left join lateral (select recipient ->> 'to' as recipient
                           from jsonb_array_elements(recipients) with ordinality as one (recipient, place)
                           where recipient ->> 'state' = 'waiting' order by place limit 1) first on true
        where organization_id = $1 and id = any ($2)
        order by id
        "#,
        organization as OrganizationId,
        ids as &[QueueId],
    )
    .fetch_all(db)
    .await?;
    let listed = rows.into_iter().map(|row| Listed {
        id: row.id,
        sender: row.sender,
        recipient: row.recipient,
        recipients: row.recipients,
        size: row.size,
        why: Why::of(&row.why),
        held_because: row.held_because,
        awaits_gateway: row.awaits_gateway,
        choice: row.choice,
        retry_wished_at: row.retry_wished_at,
        gateway: row.gateway,
        inbound_host: row.inbound_host,
        attempts: row.attempts,
        last_reply: row.last_reply,
        accepted_at: row.accepted_at,
        next_attempt_at: row.next_attempt_at,
        throttled_until: row.throttled_until,
        expires_at: row.expires_at,
    });
    Ok(listed.collect())
}

/// One message with all its recipients; another tenant's is simply not found.
pub async fn message(
    db: &mut PgConnection,
    organization: OrganizationId,
    id: QueueId,
) -> Result<Option<(Listed, Vec<Recipient>)>> {
    let Some(listed) = by_ids(db, organization, &[id]).await?.pop() else { return Ok(None) };
    let recipients = sqlx::query_scalar!(
        r#"select recipients as "recipients: Json<Vec<Recipient>>" from queued_message
           where organization_id = $1 and id = $2"#,
        organization as OrganizationId,
        id as QueueId,
    )
    .fetch_optional(db)
    .await?;
    Ok(recipients.map(|recipients| (listed, recipients.0)))
}

/// The gateways that mail waits for, each once, found by jumping from one to the next in an index; the first 200.
pub async fn gateways(db: &mut PgConnection, organization: OrganizationId) -> Result<Vec<(GatewayId, GatewayAddress)>> {
    let rows = sqlx::query!(
        r#"
        with recursive waited_for (id, place) as (
            (select waits_for, 1 from queued_message
             where organization_id = $1 and waits_for is not null order by waits_for limit 1)
            union all
            select (select waits_for from queued_message
                    where organization_id = $1 and waits_for > waited_for.id order by waits_for limit 1), place + 1
            from waited_for where waited_for.id is not null and place < $2
        )
        select gateway.id as "id: GatewayId", gateway.address as "address: GatewayAddress"
        from waited_for join gateway on gateway.organization_id = $1 and gateway.id = waited_for.id
        order by gateway.address
        "#,
        organization as OrganizationId,
        OFFERED,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.id, row.address)).collect())
}

/// The address of one of the organization's gateways.
pub async fn gateway_address(
    db: &mut PgConnection,
    organization: OrganizationId,
    gateway: GatewayId,
) -> Result<Option<GatewayAddress>> {
    sqlx::query_scalar!(
        r#"select address as "address: GatewayAddress" from gateway where organization_id = $1 and id = $2"#,
        organization as OrganizationId,
        gateway as GatewayId,
    )
    .fetch_optional(db)
    .await
}

/// How many messages are meant, and what there is to know about them before somebody decides.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counted {
    pub messages: i64,
    pub held: i64,
    /// A relay has them.
    pub being_tried: i64,
    pub answer_awaited: i64,
    /// Their sender cannot be told of anything: they are reports themselves.
    pub without_sender: i64,
}

impl Counted {
    /// Whether there are more than were counted.
    pub fn is_more(&self) -> bool {
        self.messages > COUNTED
    }
}

/// How many messages are meant, up to one more than [`COUNTED`].
pub async fn count(db: &mut PgConnection, organization: OrganizationId, messages: &Messages) -> Result<Counted> {
    counted(db, organization, messages, None, COUNTED + 1).await
}

/// How many messages are meant of those that were there when `last` was the newest.
pub async fn count_until(
    db: &mut PgConnection,
    organization: OrganizationId,
    messages: &Messages,
    last: QueueId,
) -> Result<Counted> {
    counted(db, organization, messages, Some(last), i64::MAX).await
}

async fn counted(
    db: &mut PgConnection,
    organization: OrganizationId,
    messages: &Messages,
    last: Option<QueueId>,
    limit: i64,
) -> Result<Counted> {
    plan_anew(db).await?;
    let of = Conditions::from(messages);
    over_messages!(
        query_as,
        [Counted],
        "select count(*) as \"messages!\", count(*) filter (where state = 'held') as \"held!\",
                count(*) filter (where lease_token is not null and state <> 'answer_awaited') as \"being_tried!\",
                count(*) filter (where state = 'answer_awaited') as \"answer_awaited!\",
                count(*) filter (where reverse_path = '') as \"without_sender!\"
         from (select state, lease_token, reverse_path",
        "limit $10) as meant",
        organization,
        of,
        None::<QueueId>,
        last,
        limit
    )
    .fetch_one(db)
    .await
}

/// The newest message: what comes later is not meant by whoever decides about those that are there. `None` if nothing
/// waits.
pub async fn newest(db: &mut PgConnection, organization: OrganizationId) -> Result<Option<QueueId>> {
    sqlx::query_scalar!(
        r#"select id as "id: QueueId" from queued_message where organization_id = $1 order by id desc limit 1"#,
        organization as OrganizationId,
    )
    .fetch_optional(db)
    .await
}

/// The next of the messages that are meant, behind `after` and up to `last`.
pub async fn next_meant(
    db: &mut PgConnection,
    organization: OrganizationId,
    messages: &Messages,
    (after, last): (Option<QueueId>, QueueId),
    limit: usize,
) -> Result<Vec<QueueId>> {
    plan_anew(db).await?;
    let of = Conditions::from(messages);
    over_messages!(
        query_scalar,
        [],
        "select id as \"id: QueueId\"",
        "order by id limit $10",
        organization,
        of,
        after,
        Some(last),
        limit as i64
    )
    .fetch_all(db)
    .await
}

/// What an administrator wants of waiting mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wish {
    /// Another attempt now. Where it goes is not changed by it.
    Retry,
    /// It goes on that is held until an administrator lets it go: for a limit, or for approval.
    Release,
    /// Back to its sender, with a report.
    Return,
    /// Removed, and nobody is told.
    Delete,
}

impl Wish {
    /// The word in forms and statements.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Retry => "retry",
            Self::Release => "release",
            Self::Return => "return",
            Self::Delete => "delete",
        }
    }

    /// What audit entries call it.
    pub fn action(self) -> &'static str {
        match self {
            Self::Retry => "queue.retry",
            Self::Release => "queue.release",
            Self::Return => "queue.return",
            Self::Delete => "queue.delete",
        }
    }
}

/// What became of writing a wish.
#[derive(Debug, Clone, Default)]
pub struct Wished {
    /// Messages that have it now.
    pub written: i64,
    /// Those of them that a relay has at this moment: it comes after the attempt, if they are still there.
    pub under_way: i64,
    /// Messages whose rows were just being written by a relay.
    pub busy: Vec<QueueId>,
}

/// Writes what is wanted of these messages. What has left is passed over, and so is what a relay is just writing
/// down: nobody here ever waits for a relay, which waits for others in an order of its own.
pub async fn write_wish(
    db: &mut PgConnection,
    organization: OrganizationId,
    ids: &[QueueId],
    wish: Wish,
) -> Result<Wished> {
    let written = sqlx::query!(
        r#"
        with free as materialized (
            select id from queued_message where organization_id = $1 and id = any ($2)
              and ($3::text <> 'release' or held_because in ('over-limit', 'needs-approval'))
            order by id for no key update skip locked
        )
        update queued_message message
        set choice = case $3::text when 'retry' then choice when 'release' then 'send' else 'return' end,
            without_report = case $3 when 'retry' then without_report
                                     when 'release' then without_report
                                     when 'delete' then true
                                     -- Who could be told is nobody: a report about a report is never made.
                                     else nullif(reverse_path = '', false) end,
            retry_wished_at = case $3 when 'retry' then now() else retry_wished_at end,
            next_attempt_at = case when lease_token is null then least(next_attempt_at, now()) else next_attempt_at end
        from free
        where message.organization_id = $1 and message.id = free.id
        returning message.id as "id: QueueId", message.lease_token is not null as "under_way!"
        "#,
        organization as OrganizationId,
        ids as &[QueueId],
        wish.as_str(),
    )
    .fetch_all(&mut *db)
    .await?;
    let mut wished = Wished::default();
    let mut rest: std::collections::HashSet<QueueId> = ids.iter().copied().collect();
    for row in written {
        rest.remove(&row.id);
        wished.written += 1;
        wished.under_way += i64::from(row.under_way);
    }
    if !rest.is_empty() {
        let rest: Vec<QueueId> = rest.into_iter().collect();
        wished.busy = sqlx::query_scalar!(
            r#"
            select id as "id: QueueId" from queued_message
            where organization_id = $1 and id = any ($2)
              and ($3::text <> 'release' or held_because in ('over-limit', 'needs-approval'))
            "#,
            organization as OrganizationId,
            &rest as &[QueueId],
            wish.as_str(),
        )
        .fetch_all(db)
        .await?;
    }
    Ok(wished)
}

/// What was wanted, as the list reports on it.
#[derive(Debug, Clone)]
pub struct RecentWish {
    /// Such as `queue.retry`.
    pub action: String,
    /// How many messages, in words.
    pub subject: String,
    /// What became of it.
    pub after: String,
}

/// What the organization has wanted of its queue within the last ten minutes.
pub async fn recent(
    db: &mut PgConnection,
    organization: OrganizationId,
    change: ChangeId,
) -> Result<Option<RecentWish>> {
    sqlx::query_as!(
        RecentWish,
        r#"
        select audit_entry.action, audit_entry.subject, coalesce(audit_entry.after, '') as "after!"
        from change
        join audit_entry on audit_entry.organization_id = change.organization_id and audit_entry.change_id = change.id
        where change.organization_id = $1 and change.id = $2
          and change.committed_at > now() - interval '10 minutes'
          and audit_entry.action in ('queue.retry', 'queue.release', 'queue.return', 'queue.delete')
        "#,
        organization as OrganizationId,
        change as ChangeId,
    )
    .fetch_optional(db)
    .await
}

/// How many waiting messages go by what this scope says, up to one more than [`COUNTED`]: by the rules that relays
/// have. Those that wait for the gateway `but_for` already are left out.
pub async fn following(
    db: &mut PgConnection,
    organization: OrganizationId,
    scope: &PointerScope,
    but_for: Option<GatewayId>,
) -> Result<i64> {
    plan_anew(db).await?;
    match scope {
        PointerScope::Account(account) => following_account(db, organization, *account, but_for).await,
        PointerScope::Domain(domain) => following_wider(db, organization, Some(domain), but_for).await,
        PointerScope::Organization => following_wider(db, organization, None, but_for).await,
    }
}

/// Found by the sender's addresses: what nobody was asked about yet is not in that index, and leaves at once.
async fn following_account(
    db: &mut PgConnection,
    organization: OrganizationId,
    account: AccountId,
    but_for: Option<GatewayId>,
) -> Result<i64> {
    sqlx::query_scalar!(
        r#"
        select count(*) as "count!" from (
            select from queued_message
            where organization_id = $1
              and sender = any (array(select address from mail_address where organization_id = $1 and account_id = $2))
              and (state = 'held' or (state = 'waiting' and last_reply is not null))
              and (state = 'waiting' or held_because in ('gateway-taken-away', 'no-gateway')) and choice is null
              and (waits_for is not null or waits_by is null)
              and ($3::uuid is null or waits_for is distinct from $3)
            limit $4) as following
        "#,
        organization as OrganizationId,
        account as AccountId,
        but_for as Option<GatewayId>,
        COUNTED + 1,
    )
    .fetch_one(db)
    .await
}

/// Of one mail domain, or of all where nothing nearer is set. What waits by a nearer pointer is held when that is
/// gone, and does not follow a wider one.
async fn following_wider(
    db: &mut PgConnection,
    organization: OrganizationId,
    domain: Option<&DomainName>,
    but_for: Option<GatewayId>,
) -> Result<i64> {
    sqlx::query_scalar!(
        r#"
        select count(*) as "count!" from (
            select from queued_message message
            where organization_id = $1 and ($2::text is null or sender_domain = $2) and sender is not null
              and (state = 'waiting' or (state = 'held' and held_because in ('gateway-taken-away', 'no-gateway')))
              and choice is null and ($3::uuid is null or waits_for is distinct from $3)
              and case when waits_for is null then waits_by is null
                       else coalesce(waits_by, 'organization') = 'organization'
                            or (waits_by = 'domain' and $2 is not null) end
              and (sender_account is null or exists (
                  select from mail_account account
                  where account.organization_id = $1 and account.id = message.sender_account
                    and account.outbound_gateway_id is null and account.status = 'active'))
              and ($2 is not null or exists (
                  select from mail_domain
                  where mail_domain.organization_id = $1 and mail_domain.name = message.sender_domain
                    and mail_domain.outbound_gateway_id is null))
            limit $4) as following
        "#,
        organization as OrganizationId,
        domain as Option<&DomainName>,
        but_for as Option<GatewayId>,
        COUNTED + 1,
    )
    .fetch_one(db)
    .await
}
