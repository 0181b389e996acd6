//! The queue: waiting mail, who has it now, and what became of it. Relays come here for all tenants; whatever
//! they record is fenced by the token of their claim. What pages see and choose is `held_mail`'s and `outbound_queue`'s.

use std::collections::HashSet;

use futures_core::Stream;
use serde_json::Value;
use sqlx::{PgExecutor, PgPool, types::Json};
use time::OffsetDateTime;
use uuid::Uuid;

use super::Result;
use crate::{
    mail::{
        DomainName,
        envelope::{MailParameters, Recipient},
        id::{AccountId, GatewayId, OrganizationId, QueueId, RelayId},
    },
    policy::{
        routing::Scope,
        waiting::{Choice, HeldBecause, Waits, throttled},
    },
};

/// The largest piece in which a body is stored, in bytes: a row that fills its page. What is larger is cut into
/// pieces of 2 kB by PostgreSQL itself, at three times the cost.
pub const PIECE: usize = 8000;

/// Pieces that are read at a time: each connection and each attempt has room for so much.
const PIECES: i64 = 8;

/// A part of a body; the first is number 0.
#[derive(Debug, Clone, Copy)]
pub struct Piece<'a> {
    pub organization: OrganizationId,
    pub id: QueueId,
    pub number: i32,
    pub content: &'a [u8],
}

impl<'a> Piece<'a> {
    /// A body, or a part of one that begins with piece `first`, cut to pieces.
    pub fn cut(
        (organization, id): (OrganizationId, QueueId),
        first: i32,
        content: &'a [u8],
    ) -> impl Iterator<Item = Self> {
        let numbered = (first..).zip(content.chunks(PIECE));
        numbered.map(move |(number, content)| Self { organization, id, number, content })
    }
}

/// One message in the queue, without its body.
#[derive(Debug, Clone)]
pub struct QueuedMessage {
    pub organization: OrganizationId,
    pub id: QueueId,
    pub state: State,
    /// The address that decides the route; `None` for our own notifications.
    pub sender: Option<String>,
    /// The account that had this address when the message was accepted, and the mail domain of the address that decided.
    pub sender_account: Option<AccountId>,
    pub sender_domain: Option<DomainName>,
    pub reverse_path: String,
    pub recipients: Vec<Recipient>,
    pub parameters: MailParameters,
    /// In bytes.
    pub size: i64,
    /// The gateway that it last waited for; `None`: the platform's default, or nothing yet.
    pub waits_for: Option<GatewayId>,
    /// The scope whose pointer led to that gateway.
    pub waits_by: Option<Scope>,
    /// Why it is held; `None` unless it is.
    pub held_because: Option<HeldBecause>,
    /// Until when it waits because its sender sent more than a limit allows.
    pub throttled_until: Option<OffsetDateTime>,
    /// What an administrator chose for it.
    pub choice: Option<Choice>,
    /// When an administrator wanted another attempt, unless there was one since.
    pub retry_wished_at: Option<OffsetDateTime>,
    /// Those that count: a gateway's own trouble does not.
    pub attempts: i32,
    /// Why it still waits, in one line.
    pub last_reply: Option<String>,
    /// Its sender need not be told any more that it waits.
    pub delay_noticed: bool,
    pub accepted_at: OffsetDateTime,
    pub next_attempt_at: OffsetDateTime,
    pub expires_at: OffsetDateTime,
    pub lease: Option<Lease>,
}

impl QueuedMessage {
    /// By the token of its claim, if somebody has it.
    pub fn leased(&self) -> Option<Leased> {
        self.lease.map(|lease| Leased { organization: self.organization, id: self.id, token: lease.token })
    }

    /// See [`throttled`].
    pub fn throttled(&self, now: OffsetDateTime) -> Option<OffsetDateTime> {
        throttled(self.throttled_until, self.choice, self.retry_wished_at, now)
    }

    /// Whether an administrator has let it go that was held for one: that says nothing of where it goes, and holds once.
    pub fn is_released(&self) -> bool {
        self.choice == Some(Choice::Send) && self.held_because.is_some_and(HeldBecause::is_for_an_administrator)
    }

    /// What it waits for, with others.
    pub fn lane(&self) -> Lane {
        (self.organization, self.waits_for)
    }

    /// Whose turn it is when it is sent.
    pub fn taking_turns(&self) -> Sender {
        (self.organization, self.sender_account)
    }

    /// What its route is decided from; `None` for our own notifications, which follow nobody's.
    pub fn waits(&self) -> Option<Waits<'_>> {
        Some(Waits {
            organization: self.organization,
            sender: self.sender.as_deref()?,
            account: self.sender_account,
            gateway: self.waits_for,
            by: self.waits_by,
            choice: self.choice.filter(|_| !self.is_released()),
            is_held: self.state == State::Held,
        })
    }
}

/// What a message waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its next attempt.
    Waiting,
    /// An administrator.
    Held,
    /// The gateway's answer to a message that it has whole.
    AnswerAwaited,
}

impl State {
    fn as_str(self) -> &'static str {
        match self {
            Self::Waiting => "waiting",
            Self::Held => "held",
            Self::AnswerAwaited => "answer_awaited",
        }
    }
}

/// Who has a message now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Lease {
    pub relay: RelayId,
    /// Made anew by every claim.
    pub token: Uuid,
}

/// Mail of one organization that waits for the same: a gateway, or the platform's default (`None`).
pub type Lane = (OrganizationId, Option<GatewayId>);

/// Whose messages take turns with others': an account's, or all of an organization's that no account has sent.
pub type Sender = (OrganizationId, Option<AccountId>);

/// Whose mail a claim leaves where it is.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct PassedOver {
    pub lanes: Vec<Lane>,
    pub accounts: Vec<AccountId>,
    /// With all their lanes.
    pub organizations: Vec<OrganizationId>,
}

impl PassedOver {
    pub fn is_empty(&self) -> bool {
        self.lanes.is_empty() && self.accounts.is_empty() && self.organizations.is_empty()
    }

    pub fn contains(&self, lane: &Lane) -> bool {
        self.lanes.contains(lane) || self.organizations.contains(&lane.0)
    }
}

/// A message that a relay has, by the token of its claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Leased {
    pub organization: OrganizationId,
    pub id: QueueId,
    pub token: Uuid,
}

/// What changes in the queue together, in one statement and so in one transaction: nothing is paid for more
/// often than it has to be.
#[derive(Debug, Default)]
pub struct Written<'a> {
    /// New messages.
    pub messages: Vec<&'a QueuedMessage>,
    /// Their bodies. Those that are not in memory follow with [`insert_pieces_across_tenants`] in the same transaction.
    pub pieces: Vec<Piece<'a>>,
    /// Removed with their bodies, unless somebody else has them now.
    pub done: &'a [Leased],
}

/// Messages as a statement takes them: the values of each column together.
struct MessageColumns<'a> {
    organizations: Vec<Uuid>,
    ids: Vec<Uuid>,
    states: Vec<&'a str>,
    senders: Vec<Option<&'a str>>,
    accounts: Vec<Option<Uuid>>,
    domains: Vec<Option<&'a str>>,
    waits_by: Vec<Option<String>>,
    held_because: Vec<Option<String>>,
    reverse_paths: Vec<&'a str>,
    recipients: Vec<Value>,
    parameters: Vec<Value>,
    sizes: Vec<i64>,
    waits_for: Vec<Option<Uuid>>,
    attempts: Vec<i32>,
    last_replies: Vec<Option<&'a str>>,
    accepted_at: Vec<OffsetDateTime>,
    next_attempt_at: Vec<OffsetDateTime>,
    expires_at: Vec<OffsetDateTime>,
    relays: Vec<Option<Uuid>>,
    tokens: Vec<Option<Uuid>>,
    throttled_until: Vec<Option<OffsetDateTime>>,
}

impl<'a> MessageColumns<'a> {
    fn of(messages: &[&'a QueuedMessage]) -> Self {
        fn column<'a, T>(messages: &[&'a QueuedMessage], value: impl Fn(&'a QueuedMessage) -> T) -> Vec<T> {
            messages.iter().map(|message| value(message)).collect()
        }
        Self {
            organizations: column(messages, |message| message.organization.0),
            ids: column(messages, |message| message.id.0),
            states: column(messages, |message| message.state.as_str()),
            senders: column(messages, |message| message.sender.as_deref()),
            accounts: column(messages, |message| message.sender_account.map(|id| id.0)),
            domains: column(messages, |message| message.sender_domain.as_ref().map(DomainName::as_str)),
            waits_by: column(messages, |message| message.waits_by.map(|scope| scope.to_string())),
            held_because: column(messages, |message| message.held_because.map(|because| because.to_string())),
            reverse_paths: column(messages, |message| message.reverse_path.as_str()),
            recipients: column(messages, |message| serde_json::to_value(&message.recipients).unwrap_or_default()),
            parameters: column(messages, |message| serde_json::to_value(&message.parameters).unwrap_or_default()),
            sizes: column(messages, |message| message.size),
            waits_for: column(messages, |message| message.waits_for.map(|id| id.0)),
            attempts: column(messages, |message| message.attempts),
            last_replies: column(messages, |message| message.last_reply.as_deref()),
            accepted_at: column(messages, |message| message.accepted_at),
            next_attempt_at: column(messages, |message| message.next_attempt_at),
            expires_at: column(messages, |message| message.expires_at),
            relays: column(messages, |message| message.lease.map(|lease| lease.relay.0)),
            tokens: column(messages, |message| message.lease.map(|lease| lease.token)),
            throttled_until: column(messages, |message| message.throttled_until),
        }
    }
}

/// Pieces of bodies in the same way.
struct PieceColumns<'a> {
    organizations: Vec<Uuid>,
    ids: Vec<Uuid>,
    numbers: Vec<i32>,
    contents: Vec<&'a [u8]>,
}

impl<'a> PieceColumns<'a> {
    fn of(pieces: &[Piece<'a>]) -> Self {
        Self {
            organizations: pieces.iter().map(|piece| piece.organization.0).collect(),
            ids: pieces.iter().map(|piece| piece.id.0).collect(),
            numbers: pieces.iter().map(|piece| piece.number).collect(),
            contents: pieces.iter().map(|piece| piece.content).collect(),
        }
    }
}

/// Rows of new messages, with their columns in the order of the first parameters, and whatever else is in the statement.
macro_rules! insert_messages {
    ($query:ident, $rows:tt, $then:tt, $($arguments:tt)*) => {
        sqlx::$query!(
            r#"
            with message as (
                insert into queued_message (organization_id, id, state, sender, reverse_path, recipients, parameters,
                                            size, waits_for, attempts, last_reply, accepted_at, next_attempt_at,
                                            expires_at, lease_relay_id, lease_token, sender_account, sender_domain,
                                            waits_by, held_because, throttled_until)
            "# + $rows + $then,
            $($arguments)*
        )
    };
}

/// New messages and bodies, and in the same statement whatever follows.
macro_rules! write_and {
    ($then:tt, $messages:expr, $pieces:expr $(, $argument:expr)*) => {
        insert_messages!(
            query_scalar,
            r#"
                select * from unnest($1::uuid[], $2::uuid[], $3::text[], $4::text[], $5::text[], $6::jsonb[],
                                     $7::jsonb[], $8::bigint[], $9::uuid[], $10::integer[], $11::text[],
                                     $12::timestamptz[], $13::timestamptz[], $14::timestamptz[], $15::uuid[],
                                     $16::uuid[], $17::uuid[], $18::text[], $19::text[], $20::text[],
                                     $21::timestamptz[])
            ), body as (
                insert into queued_body (organization_id, message_id, piece, content)
                select * from unnest($22::uuid[], $23::uuid[], $24::integer[], $25::bytea[])
            )"#,
            $then,
            &$messages.organizations,
            &$messages.ids,
            &$messages.states as &[&str],
            &$messages.senders as &[Option<&str>],
            &$messages.reverse_paths as &[&str],
            &$messages.recipients,
            &$messages.parameters,
            &$messages.sizes,
            &$messages.waits_for as &[Option<Uuid>],
            &$messages.attempts,
            &$messages.last_replies as &[Option<&str>],
            &$messages.accepted_at,
            &$messages.next_attempt_at,
            &$messages.expires_at,
            &$messages.relays as &[Option<Uuid>],
            &$messages.tokens as &[Option<Uuid>],
            &$messages.accounts as &[Option<Uuid>],
            &$messages.domains as &[Option<&str>],
            &$messages.waits_by as &[Option<String>],
            &$messages.held_because as &[Option<String>],
            &$messages.throttled_until as &[Option<OffsetDateTime>],
            &$pieces.organizations,
            &$pieces.ids,
            &$pieces.numbers,
            &$pieces.contents as &[&[u8]]
            $(, $argument)*
        )
    };
}

/// One new message with its body, which takes a third less of the store than what many come by: most messages come alone.
async fn write_one(db: impl PgExecutor<'_>, message: &QueuedMessage, pieces: &[Piece<'_>]) -> Result<()> {
    let (columns, pieces) = (MessageColumns::of(&[message]), PieceColumns::of(pieces));
    insert_messages!(
        query,
        r#"
            values ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15, $16, $17, $18, $19, $20, $21)
        )"#,
        r#"
        insert into queued_body (organization_id, message_id, piece, content)
        select $1, $2, * from unnest($22::integer[], $23::bytea[])
        "#,
        columns.organizations[0],
        columns.ids[0],
        columns.states[0],
        columns.senders[0],
        columns.reverse_paths[0],
        &columns.recipients[0],
        &columns.parameters[0],
        columns.sizes[0],
        columns.waits_for[0],
        columns.attempts[0],
        columns.last_replies[0],
        columns.accepted_at[0],
        columns.next_attempt_at[0],
        columns.expires_at[0],
        columns.relays[0],
        columns.tokens[0],
        columns.accounts[0],
        columns.domains[0],
        columns.waits_by[0].as_deref(),
        columns.held_because[0].as_deref(),
        columns.throttled_until[0],
        &pieces.numbers,
        &pieces.contents as &[&[u8]],
    )
    .execute(db)
    .await
    .map(drop)
}

/// Writes what changed. Returns which of the messages that are done with were removed: where the lease
/// did not hold any more, nothing was.
pub async fn write_across_tenants(db: impl PgExecutor<'_>, written: &Written<'_>) -> Result<Vec<QueueId>> {
    if let ([message], true) = (written.messages.as_slice(), written.done.is_empty()) {
        return write_one(db, message, &written.pieces).await.map(|()| Vec::new());
    }
    let (messages, pieces) = (MessageColumns::of(&written.messages), PieceColumns::of(&written.pieces));
    if written.done.is_empty() {
        // What a statement has in it is made ready each time, also for nothing.
        return write_and!(
            r#"select id as "id!: QueueId" from (values (null::uuid)) as removed (id) where false"#,
            messages,
            pieces
        )
        .fetch_all(db)
        .await;
    }
    let (done_organizations, done_ids, done_tokens) = columns(written.done);
    write_and!(
        r#", removed as (
            delete from queued_message message
            using unnest($26::uuid[], $27::uuid[], $28::uuid[]) as done (organization_id, id, token)
            where message.organization_id = done.organization_id and message.id = done.id
              and message.lease_token = done.token
            returning message.organization_id, message.id
        ), removed_body as (
            delete from queued_body body using removed
            where body.organization_id = removed.organization_id and body.message_id = removed.id
        )
        select id as "id!: QueueId" from removed
        "#,
        messages,
        pieces,
        &done_organizations,
        &done_ids,
        &done_tokens
    )
    .fetch_all(db)
    .await
}

/// Whether any of these messages is in the store.
pub async fn is_any_stored_across_tenants(
    db: impl PgExecutor<'_>,
    messages: &[(OrganizationId, QueueId)],
) -> Result<bool> {
    let organizations: Vec<Uuid> = messages.iter().map(|(organization, _)| organization.0).collect();
    let ids: Vec<Uuid> = messages.iter().map(|(_, id)| id.0).collect();
    sqlx::query_scalar!(
        r#"
        select exists (
            select from unnest($1::uuid[], $2::uuid[]) as sought (organization_id, id)
            join queued_message using (organization_id, id)
        ) as "stored!"
        "#,
        &organizations,
        &ids,
    )
    .fetch_one(db)
    .await
}

/// Adds pieces of bodies.
pub async fn insert_pieces_across_tenants(db: impl PgExecutor<'_>, pieces: &[Piece<'_>]) -> Result<()> {
    let pieces = PieceColumns::of(pieces);
    sqlx::query!(
        r#"
        insert into queued_body (organization_id, message_id, piece, content)
        select * from unnest($1::uuid[], $2::uuid[], $3::integer[], $4::bytea[])
        "#,
        &pieces.organizations,
        &pieces.ids,
        &pieces.numbers,
        &pieces.contents as &[&[u8]],
    )
    .execute(db)
    .await
    .map(drop)
}

/// The next pieces of a body from piece `first` on, joined, and how many there were; none at its end.
pub async fn pieces_across_tenants(
    db: impl PgExecutor<'_>,
    organization: OrganizationId,
    id: QueueId,
    first: i32,
) -> Result<(Vec<u8>, i64)> {
    let read = sqlx::query!(
        r#"
        select coalesce(string_agg(content, ''::bytea order by piece), ''::bytea) as "content!", count(*) as "pieces!"
        from (select piece, content from queued_body
              where organization_id = $1 and message_id = $2 and piece >= $3
              order by piece limit $4) as next
        "#,
        organization as OrganizationId,
        id as QueueId,
        first,
        PIECES,
    )
    .fetch_one(db)
    .await?;
    Ok((read.content, read.pieces))
}

/// Takes the rows that the first part selects for a relay (`$1`) until a time (`$2`). Each is taken by one relay only.
macro_rules! claim {
    ($wanted:tt, $db:expr, $relay:expr, $until:expr, $($argument:expr),+) => {
        sqlx::query_as!(
            Claimed,
            "with wanted as (" + $wanted + " for update skip locked)" + r#"
            update queued_message as message
            set lease_relay_id = $1, lease_token = gen_random_uuid(), next_attempt_at = $2
            from wanted
            where message.organization_id = wanted.organization_id and message.id = wanted.id
            returning message.organization_id as "organization: OrganizationId", message.id as "id: QueueId",
                      message.state = 'held' as "held!", message.sender, message.reverse_path, message.size,
                      message.recipients as "recipients: Json<Vec<Recipient>>",
                      message.parameters as "parameters: Json<MailParameters>", message.attempts, message.last_reply,
                      message.delay_noticed,
                      message.waits_for as "waits_for: GatewayId", message.waits_by as "waits_by: Scope",
                      message.sender_account as "sender_account: AccountId",
                      message.sender_domain as "sender_domain: DomainName",
                      message.held_because as "held_because: HeldBecause",
                      case when message.without_report then 'delete' else message.choice end as "choice: Choice",
                      message.retry_wished_at, message.throttled_until,
                      message.accepted_at, message.next_attempt_at,
                      message.expires_at, message.lease_relay_id as "relay!: RelayId", message.lease_token as "token!"
            "#,
            $relay as RelayId,
            $until,
            $($argument),+
        )
        .fetch_all($db)
        .await
        .map(|rows| rows.into_iter().map(QueuedMessage::from).collect())
    };
}

/// Takes up to `limit` messages that are due at `now` until `until`, the longest due first. What
/// another relay has is passed over unless its lease has ended and one `takes_over`, and so are others.
pub async fn claim_due_across_tenants(
    db: impl PgExecutor<'_>,
    relay: RelayId,
    limit: i64,
    passed_over: &PassedOver,
    now: OffsetDateTime,
    until: OffsetDateTime,
    takes_over: bool,
) -> Result<Vec<QueuedMessage>> {
    let (gateways, defaults) = split(&passed_over.lanes);
    claim!(
        "select organization_id, id from queued_message
         where next_attempt_at <= $3 and ($7 or lease_relay_id is null or lease_relay_id = $1)
           and case when waits_for is null then organization_id <> all($5) else waits_for <> all($4) end
           and (sender_account is null or sender_account <> all($9))
           and organization_id <> all($8)
         order by next_attempt_at
         limit $6",
        db,
        relay,
        until,
        now,
        &gateways as &[GatewayId],
        &defaults as &[OrganizationId],
        limit,
        takes_over,
        &passed_over.organizations as &[OrganizationId],
        &passed_over.accounts as &[AccountId]
    )
}

/// Takes one message that waits for a gateway, due or not: to see whether the gateway takes mail again. What
/// another relay has is passed over unless its lease has ended and one `takes_over`.
pub async fn claim_probe_across_tenants(
    db: impl PgExecutor<'_>,
    relay: RelayId,
    (organization, gateway): (OrganizationId, GatewayId),
    now: OffsetDateTime,
    until: OffsetDateTime,
    takes_over: bool,
) -> Result<Vec<QueuedMessage>> {
    claim!(
        "select organization_id, id from queued_message
         where organization_id = $3 and waits_for = $4 and state = 'waiting'
           and (throttled_until is null or throttled_until <= $5)
           and (lease_token is null or (next_attempt_at <= $5 and ($6 or lease_relay_id = $1)))
         order by next_attempt_at
         limit 1",
        db,
        relay,
        until,
        organization as OrganizationId,
        gateway as GatewayId,
        now,
        takes_over
    )
}

/// A gateway has an id that no other organization's has; the platform's default is everybody's.
fn split(lanes: &[Lane]) -> (Vec<GatewayId>, Vec<OrganizationId>) {
    let defaults = lanes.iter().filter(|(_, gateway)| gateway.is_none()).map(|(organization, _)| *organization);
    (lanes.iter().filter_map(|(_, gateway)| *gateway).collect(), defaults.collect())
}

/// A row as a claim returns it.
struct Claimed {
    organization: OrganizationId,
    id: QueueId,
    held: bool,
    sender: Option<String>,
    reverse_path: String,
    recipients: Json<Vec<Recipient>>,
    parameters: Json<MailParameters>,
    size: i64,
    waits_for: Option<GatewayId>,
    waits_by: Option<Scope>,
    sender_account: Option<AccountId>,
    sender_domain: Option<DomainName>,
    held_because: Option<HeldBecause>,
    choice: Option<Choice>,
    retry_wished_at: Option<OffsetDateTime>,
    throttled_until: Option<OffsetDateTime>,
    attempts: i32,
    last_reply: Option<String>,
    delay_noticed: bool,
    accepted_at: OffsetDateTime,
    next_attempt_at: OffsetDateTime,
    expires_at: OffsetDateTime,
    relay: RelayId,
    token: Uuid,
}

impl From<Claimed> for QueuedMessage {
    fn from(row: Claimed) -> Self {
        Self {
            organization: row.organization,
            id: row.id,
            // An answer that its relay awaited is not coming any more.
            state: if row.held { State::Held } else { State::Waiting },
            sender: row.sender,
            reverse_path: row.reverse_path,
            recipients: row.recipients.0,
            parameters: row.parameters.0,
            size: row.size,
            waits_for: row.waits_for,
            waits_by: row.waits_by,
            sender_account: row.sender_account,
            sender_domain: row.sender_domain,
            held_because: row.held_because,
            choice: row.choice,
            retry_wished_at: row.retry_wished_at,
            throttled_until: row.throttled_until,
            attempts: row.attempts,
            last_reply: row.last_reply,
            delay_noticed: row.delay_noticed,
            accepted_at: row.accepted_at,
            next_attempt_at: row.next_attempt_at,
            expires_at: row.expires_at,
            lease: Some(Lease { relay: row.relay, token: row.token }),
        }
    }
}

/// Writes what became of a message and gives its lease back. Returns whether the lease still held:
/// if not, somebody else has the message and nothing was written.
///
/// `known_choice` is the one under which the message was attempted. One that was made meanwhile stays, and
/// makes the message due; so does another attempt that was wanted only meanwhile.
pub async fn record_across_tenants(
    db: impl PgExecutor<'_>,
    message: &QueuedMessage,
    token: Uuid,
    known_choice: Option<Choice>,
) -> Result<bool> {
    let done = sqlx::query!(
        r#"
        update queued_message
        set state = $4, recipients = $5, waits_for = $6, attempts = $7, last_reply = $8,
            next_attempt_at = case when case when without_report then 'delete' else choice end is distinct from $11::text
                                     or retry_wished_at is distinct from $17::timestamptz
                              then $14::timestamptz else $9::timestamptz end,
            expires_at = $10, lease_relay_id = null, lease_token = null,
            choice = case when without_report or choice is distinct from $11 then choice else $12::text end,
            waits_by = $13, held_because = $15, delay_noticed = $16, sender_account = $18,
            retry_wished_at = nullif(retry_wished_at, $17::timestamptz)
        where organization_id = $1 and id = $2 and lease_token = $3
        "#,
        message.organization as OrganizationId,
        message.id as QueueId,
        token,
        message.state.as_str(),
        Json(&message.recipients) as Json<&Vec<Recipient>>,
        message.waits_for as Option<GatewayId>,
        message.attempts,
        message.last_reply,
        message.next_attempt_at,
        message.expires_at,
        known_choice as Option<Choice>,
        message.choice as Option<Choice>,
        message.waits_by as Option<Scope>,
        message.accepted_at,
        message.held_because as Option<HeldBecause>,
        message.delay_noticed,
        message.retry_wished_at,
        message.sender_account as Option<AccountId>,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Writes down who has a message already, while the attempt at the others goes on. Returns whether the lease still held.
pub async fn record_delivered_across_tenants(
    db: impl PgExecutor<'_>,
    message: &QueuedMessage,
    recipients: &[Recipient],
    token: Uuid,
) -> Result<bool> {
    let done = sqlx::query!(
        "update queued_message set recipients = $4 where organization_id = $1 and id = $2 and lease_token = $3",
        message.organization as OrganizationId,
        message.id as QueueId,
        token,
        Json(recipients) as Json<&[Recipient]>,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// Moves the end of leases, for attempts that are still under way. Returns those that still held.
pub async fn renew_across_tenants(
    db: impl PgExecutor<'_>,
    leases: &[Leased],
    until: OffsetDateTime,
) -> Result<Vec<Leased>> {
    let (organizations, ids, tokens) = columns(leases);
    sqlx::query_as!(
        Leased,
        r#"
        update queued_message message set next_attempt_at = $4
        from unnest($1::uuid[], $2::uuid[], $3::uuid[]) as leased (organization_id, id, token)
        where message.organization_id = leased.organization_id and message.id = leased.id
          and message.lease_token = leased.token
        returning message.organization_id as "organization: OrganizationId", message.id as "id: QueueId",
                  leased.token as "token!"
        "#,
        &organizations,
        &ids,
        &tokens,
        until,
    )
    .fetch_all(db)
    .await
}

fn columns(leases: &[Leased]) -> (Vec<Uuid>, Vec<Uuid>, Vec<Uuid>) {
    let organizations = leases.iter().map(|leased| leased.organization.0).collect();
    (
        organizations,
        leases.iter().map(|leased| leased.id.0).collect(),
        leases.iter().map(|leased| leased.token).collect(),
    )
}

/// Gives back all leases of a relay, so that its messages are due: when it starts, they are of its own previous life.
/// Looks at the whole queue.
pub async fn release_all_across_tenants(db: impl PgExecutor<'_>, relay: RelayId, now: OffsetDateTime) -> Result<u64> {
    let done = sqlx::query!(
        r#"
        update queued_message
        set lease_relay_id = null, lease_token = null,
            state = case state when 'answer_awaited' then 'waiting' else state end,
            next_attempt_at = $2
        where lease_relay_id = $1
        "#,
        relay as RelayId,
        now,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Gives back some leases, so that these messages are due.
pub async fn release_across_tenants(db: impl PgExecutor<'_>, leases: &[Leased], now: OffsetDateTime) -> Result<u64> {
    let (organizations, ids, tokens) = columns(leases);
    let done = sqlx::query!(
        r#"
        update queued_message message
        set lease_relay_id = null, lease_token = null,
            state = case state when 'answer_awaited' then 'waiting' else state end,
            next_attempt_at = $4
        from unnest($1::uuid[], $2::uuid[], $3::uuid[]) as leased (organization_id, id, token)
        where message.organization_id = leased.organization_id and message.id = leased.id
          and message.lease_token = leased.token
        "#,
        &organizations,
        &ids,
        &tokens,
        now,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// Those of these gateways that any message waits for.
pub async fn waited_for_across_tenants(
    db: impl PgExecutor<'_>,
    gateways: &[(OrganizationId, GatewayId)],
) -> Result<HashSet<(OrganizationId, GatewayId)>> {
    let (organizations, ids): (Vec<OrganizationId>, Vec<GatewayId>) = gateways.iter().copied().unzip();
    let waited_for = sqlx::query!(
        r#"
        select asked.organization_id as "organization!: OrganizationId", asked.gateway_id as "gateway!: GatewayId"
        from unnest($1::uuid[], $2::uuid[]) as asked (organization_id, gateway_id)
        where exists (select from queued_message
                      where organization_id = asked.organization_id and waits_for = asked.gateway_id)
        "#,
        &organizations as &[OrganizationId],
        &ids as &[GatewayId],
    )
    .map(|row| (row.organization, row.gateway))
    .fetch_all(db)
    .await?;
    Ok(waited_for.into_iter().collect())
}

/// Makes everything due that waits for any gateway: a relay that starts knows of no failing one, and
/// one message of each gateway tells.
pub async fn make_all_due_across_tenants(db: impl PgExecutor<'_>, now: OffsetDateTime) -> Result<u64> {
    let done = sqlx::query!(
        r#"
        update queued_message set next_attempt_at = $1
        where waits_for is not null and state = 'waiting' and lease_token is null and attempts = 0
          and next_attempt_at > $1 and (throttled_until is null or throttled_until <= $1)
        "#,
        now,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// The senders whose mail waits for a gateway, one after the other: there may be very many.
pub fn senders_waiting_for(
    db: &PgPool,
    organization: OrganizationId,
    gateway: GatewayId,
) -> impl Stream<Item = Result<String>> {
    sqlx::query_scalar!(
        r#"
        select distinct sender as "sender!" from queued_message
        where organization_id = $1 and waits_for = $2 and state = 'waiting' and sender is not null
        "#,
        organization as OrganizationId,
        gateway as GatewayId,
    )
    .fetch(db)
}

/// Makes mail due that waits for a gateway, the longest waiting first: of all senders or of some,
/// up to `limit` messages. Returns how many there were.
pub async fn make_due(
    db: impl PgExecutor<'_>,
    organization: OrganizationId,
    gateway: GatewayId,
    senders: Option<&[String]>,
    limit: i64,
    now: OffsetDateTime,
) -> Result<u64> {
    let done = sqlx::query!(
        r#"
        with by_turns as (
            select organization_id, id, next_attempt_at,
                   row_number() over (partition by sender_account order by next_attempt_at) as turn
            from queued_message
            where organization_id = $1 and waits_for = $2 and state = 'waiting' and lease_token is null
              and next_attempt_at > $4 and ($3::text[] is null or sender = any($3))
              and (throttled_until is null or throttled_until <= $4)
        ), soon as (
            select organization_id, id from queued_message
            where (organization_id, id) in (select organization_id, id from by_turns
                                            order by turn, next_attempt_at limit $5)
              and state = 'waiting' and lease_token is null
            for update skip locked
        )
        update queued_message as message set next_attempt_at = $4
        from soon where message.organization_id = soon.organization_id and message.id = soon.id
        "#,
        organization as OrganizationId,
        gateway as GatewayId,
        senders,
        now,
        limit,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// How much one organization has in the queue in one state.
#[derive(Debug, Clone)]
pub struct Total {
    pub organization: OrganizationId,
    pub state: State,
    pub messages: i64,
    pub bytes: i64,
    /// When the oldest was accepted.
    pub oldest: OffsetDateTime,
}

/// What is in the queue, by organization and state. Reads all of it: not to be asked for a message.
pub async fn totals_across_tenants(db: impl PgExecutor<'_>) -> Result<Vec<Total>> {
    let rows = sqlx::query!(
        r#"
        select organization_id as "organization: OrganizationId", state = 'held' as "held!", count(*) as "messages!",
               sum(size)::bigint as "bytes!", min(accepted_at) as "oldest!"
        from queued_message
        group by organization_id, state = 'held'
        "#,
    );
    let total = |held| if held { State::Held } else { State::Waiting };
    let totals = rows.map(|row| Total {
        organization: row.organization,
        state: total(row.held),
        messages: row.messages,
        bytes: row.bytes,
        oldest: row.oldest,
    });
    totals.fetch_all(db).await
}

/// Makes mail due that waits for its next attempt until after `latest`: a clock that was ahead has scheduled it.
/// Held mail waits for somebody, and mail that a relay has for its lease.
pub async fn make_due_what_is_too_late_across_tenants(
    db: impl PgExecutor<'_>,
    now: OffsetDateTime,
    latest: OffsetDateTime,
) -> Result<u64> {
    let done = sqlx::query!(
        r#"
        update queued_message set next_attempt_at = $1
        where next_attempt_at > $2 and state <> 'held' and lease_token is null
          and (throttled_until is null or throttled_until < next_attempt_at)
        "#,
        now,
        latest,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}

/// When the next message is due; `None` if the queue is empty.
pub async fn next_due_across_tenants(db: impl PgExecutor<'_>) -> Result<Option<OffsetDateTime>> {
    sqlx::query_scalar!("select min(next_attempt_at) from queued_message").fetch_one(db).await
}

/// Messages that are held for the same: what decides whether they still should be.
#[derive(Debug, Clone)]
pub struct HeldAlike {
    pub organization: OrganizationId,
    pub sender: String,
    pub sender_account: Option<AccountId>,
    pub waits_for: Option<GatewayId>,
    pub waits_by: Option<Scope>,
    pub choice: Option<Choice>,
}

impl HeldAlike {
    /// What decides where they go.
    pub fn waits(&self) -> Waits<'_> {
        Waits {
            organization: self.organization,
            sender: &self.sender,
            account: self.sender_account,
            gateway: self.waits_for,
            by: self.waits_by,
            choice: self.choice,
            is_held: true,
        }
    }
}

/// All that is held and nobody has at this moment, each kind once: there may be very many.
pub fn held_alike_across_tenants(db: &PgPool) -> impl Stream<Item = Result<HeldAlike>> {
    sqlx::query_as!(
        HeldAlike,
        r#"
        select distinct organization_id as "organization: OrganizationId", sender as "sender!",
                        sender_account as "sender_account: AccountId", waits_for as "waits_for: GatewayId",
                        waits_by as "waits_by: Scope", choice as "choice: Choice"
        from queued_message
        where state = 'held' and lease_token is null and sender is not null
          -- Of this only an administrator lets go.
          and coalesce(held_because, '') not in ('over-limit', 'needs-approval')
        "#,
    )
    .fetch(db)
}

/// Makes held mail of one kind due: what it was held for is no more.
pub async fn let_go(db: impl PgExecutor<'_>, alike: &HeldAlike, now: OffsetDateTime) -> Result<u64> {
    let done = sqlx::query!(
        r#"
        update queued_message set next_attempt_at = $6
        where organization_id = $1 and state = 'held' and lease_token is null and sender = $2
          and sender_account is not distinct from $3 and waits_for is not distinct from $4
          and waits_by is not distinct from $5 and choice is not distinct from $7
          and coalesce(held_because, '') not in ('over-limit', 'needs-approval')
        "#,
        alike.organization as OrganizationId,
        alike.sender,
        alike.sender_account as Option<AccountId>,
        alike.waits_for as Option<GatewayId>,
        alike.waits_by as Option<Scope>,
        now,
        alike.choice as Option<Choice>,
    )
    .execute(db)
    .await?;
    Ok(done.rows_affected())
}
