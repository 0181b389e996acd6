//! The story of every message: written by relays in chunks, searched by pages, kept for as long as the operator
//! says. What waits now stands in `queue`; this is what happened.

use std::collections::HashMap;

use sqlx::{PgConnection, PgExecutor};
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use self::keys::{Key, canonical};
use super::Result;
use crate::{
    mail::{
        id::{AccountId, GatewayId, OrganizationId, QueueId, RelayId},
        short_id::ShortId,
    },
    policy::routing::Scope,
};

pub mod chunk;
pub mod event;
pub mod keys;
pub mod report;
pub mod since;
pub mod upkeep;

pub use chunk::{Chunk, Gathering};
pub use event::{Event, Step, Told};

/// How many chunks are looked into for one page; beyond that the search says where it has come to.
const MOST_CHUNKS: usize = 400;
/// And how many are passed over by their filters: those of some ten million messages.
const MOST_PASSED: i64 = 20_000;
/// Chunks in one statement: the first page of a search without words needs one or two.
const FIRST_CHUNKS: i64 = 4;
const CHUNKS: i64 = 32;
/// How far the clocks of relays may differ, and how long a chunk is gathered.
const SLACK: Duration = Duration::minutes(2);
/// Chunks that are put together are of the same hour.
const SPAN: Duration = Duration::hours(1);
/// How long a message may take from its id to its first line: while it is received.
const LONGEST_RECEIVING: Duration = Duration::hours(1);
/// How many chunks one message's story is looked for in, and the end of one of many.
const MOST_OF_STORY: i64 = 200;
const MOST_PASSED_FOR_END: i64 = 2_000;

/// What is searched for.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Sought {
    /// An address, or `@` and a domain; small letters.
    pub sender: Option<String>,
    pub recipient: Option<String>,
    /// Lines of these kinds; none: the first line of every message.
    pub step: Option<Step>,
    pub gateway: Option<ByGateway>,
    /// Where the pointer was set that decided; [`Platform`](Scope::Platform): nowhere.
    pub scope: Option<Scope>,
    pub account: Option<AccountId>,
    /// From this moment on.
    pub from: Option<OffsetDateTime>,
    /// Before this moment.
    pub to: Option<OffsetDateTime>,
    /// Only what is older than this line: where the page before ended.
    pub before: Option<Position>,
}

/// Lines are searched for by the gateway that they name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ByGateway {
    /// They name none.
    Without,
    OneOf(Vec<GatewayId>),
}

impl ByGateway {
    fn ids(&self) -> Vec<Uuid> {
        match self {
            Self::Without => vec![chunk::WITHOUT],
            Self::OneOf(gateways) => gateways.iter().map(|gateway| gateway.0).collect(),
        }
    }

    fn matches(&self, event: &Event<'_>) -> bool {
        match (self, event.gateway) {
            (Self::Without, gateway) => gateway.is_none(),
            (Self::OneOf(sought), Some(gateway)) => sought.contains(&gateway),
            (Self::OneOf(_), None) => false,
        }
    }

    fn may_match(&self, line: &[u8]) -> bool {
        let has = |gateway: &GatewayId| memchr::memmem::find(line, gateway.to_string().as_bytes()).is_some();
        match self {
            Self::Without => true,
            Self::OneOf(sought) => sought.iter().any(has),
        }
    }
}

/// The place of a line among all, newest first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Position {
    pub at: OffsetDateTime,
    pub message: QueueId,
}

/// One page of what was found, newest first.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Found {
    pub events: Vec<Event<'static>>,
    /// From where the next page goes on; `None`: there is nothing older.
    pub next: Option<Position>,
    /// The search ended because it had looked at enough, not because the page was full.
    pub was_cut_short: bool,
}

impl Sought {
    fn keys(&self) -> [Option<Key>; 3] {
        [
            self.sender.as_deref().map(Key::sender),
            self.recipient.as_deref().map(Key::recipient),
            self.step.map(Key::step),
        ]
    }

    fn matches(&self, event: &Event<'_>) -> bool {
        let is_step = self.step.map_or(event.step.begins(), |step| step == event.step);
        let is_in_time = self.from.is_none_or(|from| from <= event.at) && self.to.is_none_or(|to| event.at < to);
        let is_older = self.before.is_none_or(|before| Position::of(event) < before);
        let is_sender = |sought: &String| {
            is_like(&event.sender, sought) || event.reverse_path.as_deref().is_some_and(|given| is_like(given, sought))
        };
        let is_recipient = |sought: &String| event.recipients.iter().any(|told| is_like(told.address(), sought));
        // Our own notifications go no tenant's way.
        let is_tenants = || !event.sender.is_empty();
        let is_of_scope = |scope: Scope| event.scope.unwrap_or(Scope::Platform) == scope && is_tenants();
        is_step
            && self.gateway.as_ref().is_none_or(|gateway| gateway.matches(event) && is_tenants())
            && self.scope.is_none_or(is_of_scope)
            && self.account.is_none_or(|account| event.account == Some(account))
            && is_in_time
            && is_older
            && self.sender.as_ref().is_none_or(is_sender)
            && self.recipient.as_ref().is_none_or(is_recipient)
    }

    /// Whether a line is worth reading at all.
    fn may_match(&self, line: &[u8]) -> bool {
        // What stands there in another form is compared when it was read.
        let is_plain = || line.is_ascii() && memchr::memchr(b'\\', line).is_none();
        let may_have = |sought: &Option<String>| sought.as_ref().is_none_or(|sought| has_address(line, sought));
        let is_of_account = |account: AccountId| memchr::memmem::find(line, account.to_string().as_bytes()).is_some();
        self.gateway.as_ref().is_none_or(|gateway| gateway.may_match(line))
            && self.scope.is_none_or(|scope| may_be_of_scope(line, scope))
            && self.account.is_none_or(is_of_account)
            && ((may_have(&self.sender) && may_have(&self.recipient)) || !is_plain())
    }

    /// Lines are older than this.
    fn until(&self) -> Option<OffsetDateTime> {
        let before = self.before.map(|before| before.at + Duration::MICROSECOND);
        [self.to, before].into_iter().flatten().min()
    }
}

impl Position {
    fn of(event: &Event<'_>) -> Self {
        Self { at: event.at, message: event.message }
    }
}

/// As [`Event`] writes it down; a quotation mark in what somebody has said is written otherwise.
fn may_be_of_scope(line: &[u8], scope: Scope) -> bool {
    const NAMED: &[u8] = br#""sc":""#;
    match memchr::memmem::find(line, NAMED) {
        Some(place) => line[place + NAMED.len()..].starts_with(scope.to_string().as_bytes()),
        None => scope == Scope::Platform,
    }
}

/// Whether an address, or `@` and a domain, stands in a line, in whichever letters.
fn has_address(line: &[u8], sought: &str) -> bool {
    let sought = sought.as_bytes();
    let Some(at) = memchr::memrchr(b'@', sought) else { return true };
    memchr::memchr_iter(b'@', line).any(|place| {
        let start = place.checked_sub(at);
        let part = start.and_then(|start| line.get(start..start + sought.len()));
        part.is_some_and(|part| part.eq_ignore_ascii_case(sought))
    })
}

/// An address as it was searched for, or one of the domain that was.
fn is_like(address: &str, sought: &str) -> bool {
    let address = canonical(address);
    match sought.starts_with('@') {
        true => address.rfind('@').is_some_and(|at| address[at..] == *sought),
        false => address == *sought,
    }
}

/// Lines of a relay that are nowhere: it could keep no more while the store was away.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gap {
    pub organization: OrganizationId,
    pub id: Uuid,
    pub relay: RelayId,
    pub first_at: OffsetDateTime,
    pub last_at: OffsetDateTime,
    pub lines: i64,
}

/// Notes that lines were lost, so that a story without an end says why. Of an organization that is gone nothing is
/// written down.
pub async fn insert_gaps_across_tenants(db: impl PgExecutor<'_>, gaps: &[Gap]) -> Result<()> {
    sqlx::query!(
        r#"
        insert into trace_gap (organization_id, id, relay_id, first_at, last_at, lines)
        select new.*
        from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::timestamptz[], $5::timestamptz[], $6::bigint[])
             as new (organization, id, relay, first_at, last_at, lines)
        join organization on organization.id = new.organization
        on conflict do nothing
        "#,
        &gaps.iter().map(|gap| gap.organization.0).collect::<Vec<_>>(),
        &gaps.iter().map(|gap| gap.id).collect::<Vec<_>>(),
        &gaps.iter().map(|gap| gap.relay.0).collect::<Vec<_>>(),
        &gaps.iter().map(|gap| gap.first_at).collect::<Vec<_>>(),
        &gaps.iter().map(|gap| gap.last_at).collect::<Vec<_>>(),
        &gaps.iter().map(|gap| gap.lines).collect::<Vec<_>>(),
    )
    .execute(db)
    .await
    .map(drop)
}

/// What is missing in this time, by all relays together: how many lines, from when to when.
pub async fn gaps(
    db: &mut PgConnection,
    organization: OrganizationId,
    (from, to): (OffsetDateTime, OffsetDateTime),
) -> Result<Vec<(OffsetDateTime, OffsetDateTime, i64)>> {
    let rows = sqlx::query!(
        r#"
        select first_at, last_at, lines from trace_gap
        where organization_id = $1 and last_at >= $2 and first_at < $3
        order by first_at desc
        limit 20
        "#,
        organization as OrganizationId,
        from,
        to,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| (row.first_at, row.last_at, row.lines)).collect())
}

/// How many lines of this time are nowhere.
pub async fn lost(
    db: &mut PgConnection,
    organization: OrganizationId,
    (from, to): (OffsetDateTime, OffsetDateTime),
) -> Result<i64> {
    sqlx::query_scalar!(
        r#"select coalesce(sum(lines), 0)::bigint as "lines!" from trace_gap
           where organization_id = $1 and last_at >= $2 and first_at < $3"#,
        organization as OrganizationId,
        from,
        to,
    )
    .fetch_one(db)
    .await
}

/// Writes chunks. One that is there already is left as it is: it was written before the answer was lost.
pub async fn insert_across_tenants(db: impl PgExecutor<'_>, chunks: &[Chunk]) -> Result<()> {
    fn column<'a, T>(chunks: &'a [Chunk], value: impl Fn(&'a Chunk) -> T) -> Vec<T> {
        chunks.iter().map(value).collect()
    }
    sqlx::query!(
        r#"
        insert into message_trace (organization_id, id, relay_id, first_at, last_at, lines, keys, content, ways)
        select new.organization, new.id, new.relay, new.first_at, new.last_at, new.lines, new.keys, new.content,
               new.ways::uuid[]
        from unnest($1::uuid[], $2::uuid[], $3::uuid[], $4::timestamptz[], $5::timestamptz[], $6::integer[],
                    $7::bytea[], $8::bytea[], $9::text[])
             as new (organization, id, relay, first_at, last_at, lines, keys, content, ways)
        join organization on organization.id = new.organization
        on conflict do nothing
        "#,
        &column(chunks, |chunk| chunk.organization.0),
        &column(chunks, |chunk| chunk.id),
        &column(chunks, |chunk| chunk.relay.0),
        &column(chunks, |chunk| chunk.first_at),
        &column(chunks, |chunk| chunk.last_at),
        &column(chunks, |chunk| chunk.lines),
        &column(chunks, |chunk| chunk.keys.as_slice()) as &[&[u8]],
        &column(chunks, |chunk| chunk.content.as_slice()) as &[&[u8]],
        // Arrays in an array have to be of one length.
        &column(chunks, |chunk| chunk.ways.as_ref().map(|ways| array(ways))) as &[Option<String>],
    )
    .execute(db)
    .await
    .map(drop)
}

/// As PostgreSQL writes an array.
fn array(ids: &[Uuid]) -> String {
    format!("{{{}}}", ids.iter().map(Uuid::to_string).collect::<Vec<_>>().join(","))
}

/// A page of at most `most` lines, newest first.
pub async fn search(
    db: &mut PgConnection,
    organization: OrganizationId,
    sought: &Sought,
    most: usize,
) -> Result<Found> {
    let newest = sought.until().map_or(Uuid::max(), |until| first_id(until + SPAN + SLACK));
    let oldest = sought.from.map_or(Uuid::nil(), |from| first_id(from - SLACK));
    let passed = passed_over(db, organization, sought, (newest, oldest)).await?;
    let mut events: Vec<Event<'static>> = Vec::new();
    let (mut below, mut looked_at, mut step) = (newest, 0, FIRST_CHUNKS);
    loop {
        let chunks = chunks_below(db, organization, sought, (below, passed.unwrap_or(oldest)), step).await?;
        let is_last = (chunks.len() as i64) < step;
        for chunk in &chunks {
            let lines = chunk::lines(&chunk.content, |line| sought.may_match(line));
            events.extend(lines.into_iter().filter(|event| sought.matches(event)));
        }
        looked_at += chunks.len();
        below = chunks.last().map_or(below, |chunk| chunk.id);
        // What is newer stands in none of the chunks that follow.
        let bound = if is_last { passed.map(end_of) } else { Some(end_of(below)) };
        let sure = events.iter().filter(|event| bound.is_none_or(|bound| event.at >= bound)).count();
        if sure > most || is_last || looked_at >= MOST_CHUNKS {
            return Ok(page(events, most, bound));
        }
        step = CHUNKS;
    }
}

/// The newest of the lines, and where it goes on. Older ones than `bound` are still to be looked for.
fn page(mut events: Vec<Event<'static>>, most: usize, bound: Option<OffsetDateTime>) -> Found {
    events.retain(|event| bound.is_none_or(|bound| event.at >= bound));
    events.sort_by_key(|event| std::cmp::Reverse((Position::of(event), event.step)));
    // A chunk that was put together from others while they were read comes twice.
    events.dedup_by_key(|event| (event.message, event.at, event.step));
    let has_more = events.len() > most;
    events.truncate(most);
    let next = match bound {
        _ if has_more => events.last().map(Position::of),
        Some(at) => Some(Position { at, message: QueueId(Uuid::nil()) }),
        None => None,
    };
    Found { events, next, was_cut_short: !has_more && bound.is_some() }
}

/// The oldest chunk that a search looks at; `None` if it comes to the end of all.
async fn passed_over(
    db: &mut PgConnection,
    organization: OrganizationId,
    sought: &Sought,
    (below, from): (Uuid, Uuid),
) -> Result<Option<Uuid>> {
    if sought.keys().iter().all(Option::is_none) && sought.gateway.is_none() {
        return Ok(None);
    }
    sqlx::query_scalar!(
        r#"
        select id from message_trace
        where organization_id = $1 and id < $2 and id >= $3 and ($4::timestamptz is null or first_at < $4)
        order by id desc
        offset $5 limit 1
        "#,
        organization as OrganizationId,
        below,
        from,
        sought.until(),
        MOST_PASSED,
    )
    .fetch_optional(db)
    .await
}

struct ChunkRow {
    id: Uuid,
    content: Vec<u8>,
}

async fn chunks_below(
    db: &mut PgConnection,
    organization: OrganizationId,
    sought: &Sought,
    (below, from): (Uuid, Uuid),
    most: i64,
) -> Result<Vec<ChunkRow>> {
    let [sender, recipient, step] = sought.keys().map(halves);
    sqlx::query_as!(
        ChunkRow,
        r#"
        select id, content from message_trace
        where organization_id = $1 and id < $2 and id >= $3
          and ($4::timestamptz is null or first_at < $4) and ($5::timestamptz is null or last_at >= $5)
          and ($6::bigint is null or has_trace_key(keys, $6, $7))
          and ($8::bigint is null or has_trace_key(keys, $8, $9))
          and ($10::bigint is null or has_trace_key(keys, $10, $11))
          and ($12::uuid[] is null or ways is null or ways && $12)
        order by id desc
        limit $13
        "#,
        organization as OrganizationId,
        below,
        from,
        sought.until(),
        sought.from,
        sender.0,
        sender.1,
        recipient.0,
        recipient.1,
        step.0,
        step.1,
        sought.gateway.as_ref().map(ByGateway::ids) as Option<Vec<Uuid>>,
        most,
    )
    .fetch_all(db)
    .await
}

fn halves(key: Option<Key>) -> (Option<i64>, Option<i64>) {
    key.map(Key::halves).unzip()
}

/// The smallest id of a moment (RFC 9562 §5.7).
fn first_id(at: OffsetDateTime) -> Uuid {
    let milliseconds = u128::try_from(at.unix_timestamp_nanos() / 1_000_000).unwrap_or_default();
    Uuid::from_u128(milliseconds << 80)
}

/// The end of the millisecond in which an id was made: the lines of a chunk are older.
fn end_of(id: Uuid) -> OffsetDateTime {
    moment((id.as_u128() >> 80) + 1)
}

fn moment(milliseconds: u128) -> OffsetDateTime {
    let nanoseconds = i128::try_from(milliseconds).unwrap_or_default() * 1_000_000;
    OffsetDateTime::from_unix_timestamp_nanos(nanoseconds).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// What happened to one message.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Story {
    /// In order.
    pub events: Vec<Event<'static>>,
    /// It was not looked further than this.
    pub until: Option<OffsetDateTime>,
}

/// Everything that happened to a message.
pub async fn story(db: &mut PgConnection, organization: OrganizationId, message: QueueId) -> Result<Story> {
    let short = ShortId::of(message);
    let (_, last) = first_lines(short);
    let mut events = of_message(beginnings(db, organization, short).await?, message);
    let mut until = None;
    if events.iter().any(|event| event.step == Step::Queued) {
        let passed = sqlx::query_scalar!(
            "select id from message_trace where organization_id = $1 and id >= $2 order by id offset $3 limit 1",
            organization as OrganizationId,
            last,
            MOST_PASSED,
        );
        let passed = passed.fetch_optional(&mut *db).await?;
        until = passed.map(end_of);
        let (first, step) = Key::message(short).halves();
        let later = sqlx::query_scalar!(
            r#"
            select content from message_trace
            where organization_id = $1 and id >= $2 and id < $3 and has_trace_key(keys, $4, $5)
            order by id
            limit $6
            "#,
            organization as OrganizationId,
            last,
            passed.unwrap_or(Uuid::max()),
            first,
            step,
            MOST_OF_STORY,
        );
        events.extend(of_message(later.fetch_all(&mut *db).await?, message));
    }
    events.sort_by_key(|event| (event.at, event.step));
    events.dedup();
    Ok(Story { events, until })
}

/// Whether something is known of a message.
pub async fn is_known(db: &mut PgConnection, organization: OrganizationId, message: QueueId) -> Result<bool> {
    Ok(!of_message(beginnings(db, organization, ShortId::of(message)).await?, message).is_empty())
}

/// The chunks that may have a message's first lines.
async fn beginnings(db: &mut PgConnection, organization: OrganizationId, short: ShortId) -> Result<Vec<Vec<u8>>> {
    let (from, below) = first_lines(short);
    let (first, step) = Key::message(short).halves();
    sqlx::query_scalar!(
        r#"
        select content from message_trace
        where organization_id = $1 and id >= $2 and id < $3 and has_trace_key(keys, $4, $5)
        order by id
        limit $6
        "#,
        organization as OrganizationId,
        from,
        below,
        first,
        step,
        MOST_OF_STORY,
    )
    .fetch_all(db)
    .await
}

/// The ids of chunks that may have a message's first lines.
fn first_lines(short: ShortId) -> (Uuid, Uuid) {
    let begun = moment(short.milliseconds().into());
    (first_id(begun - SLACK), first_id(begun + LONGEST_RECEIVING + SPAN + SLACK))
}

fn of_message(contents: Vec<Vec<u8>>, message: QueueId) -> Vec<Event<'static>> {
    let text = message.to_string();
    let is_sought = |line: &[u8]| memchr::memmem::find(line, text.as_bytes()).is_some();
    let events = contents.iter().flat_map(|content| chunk::lines(content, is_sought));
    events.filter(|event| event.message == message).collect()
}

/// What has become of messages that were queued.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    Waits,
    Ended(Step),
}

/// What has become of each of these messages, which were queued; who is missing has no end that was written down soon.
pub async fn fates(
    db: &mut PgConnection,
    organization: OrganizationId,
    messages: &[QueueId],
) -> Result<HashMap<QueueId, Fate>> {
    let ids: Vec<Uuid> = messages.iter().map(|message| message.0).collect();
    let waiting = sqlx::query_scalar!(
        r#"select id as "id: QueueId" from queued_message where organization_id = $1 and id = any($2)"#,
        organization as OrganizationId,
        &ids,
    );
    let waiting = waiting.fetch_all(&mut *db).await?;
    let ended: Vec<QueueId> = messages.iter().copied().filter(|message| !waiting.contains(message)).collect();
    let mut fates = ends(db, organization, &ended).await?;
    fates.extend(waiting.into_iter().map(|message| (message, Fate::Waits)));
    Ok(fates)
}

async fn ends(
    db: &mut PgConnection,
    organization: OrganizationId,
    messages: &[QueueId],
) -> Result<HashMap<QueueId, Fate>> {
    let short: Vec<ShortId> = messages.iter().map(|message| ShortId::of(*message)).collect();
    let from: Vec<Uuid> = short.iter().map(|short| first_lines(*short).0).collect();
    let (first, step): (Vec<i64>, Vec<i64>) = short.iter().map(|short| Key::end(*short).halves()).unzip();
    // Two: one may be there by mistake.
    let rows = sqlx::query!(
        r#"
        select sought.id as "id!: QueueId", chunk.content as "content!"
        from unnest($2::uuid[], $3::uuid[], $4::bigint[], $5::bigint[]) as sought (id, from_id, first, step)
        cross join lateral (
            select content from (
                select message_trace.id, keys, content from message_trace
                where organization_id = $1 and message_trace.id >= sought.from_id
                order by message_trace.id
                limit $6
            ) as following
            where has_trace_key(keys, sought.first, sought.step)
            order by following.id
            limit 2
        ) as chunk
        "#,
        organization as OrganizationId,
        &messages.iter().map(|message| message.0).collect::<Vec<_>>(),
        &from,
        &first,
        &step,
        MOST_PASSED_FOR_END,
    )
    .fetch_all(db)
    .await?;
    let mut ends = HashMap::new();
    for row in rows {
        for event in of_message(vec![row.content], row.id) {
            // Who was not reached is what matters of a message that ended both ways.
            if event.step.ends() && (event.step != Step::Delivered || !ends.contains_key(&row.id)) {
                ends.insert(row.id, Fate::Ended(event.step));
            }
        }
    }
    Ok(ends)
}

/// The message whose short id this is, if its organization has it.
pub async fn by_short_id(
    db: &mut PgConnection,
    organization: OrganizationId,
    short: ShortId,
) -> Result<Option<QueueId>> {
    let contents = beginnings(db, organization, short).await?;
    let start = short.start_of_uuid();
    let is_sought = |line: &[u8]| memchr::memmem::find(line, start.as_bytes()).is_some();
    let mut events = contents.iter().flat_map(|content| chunk::lines(content, is_sought));
    Ok(events.find(|event| ShortId::of(event.message) == short).map(|event| event.message))
}
