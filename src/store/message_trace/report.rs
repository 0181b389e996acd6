//! What an auditor asks: of each account's messages in a period, how many left through a gateway, how many elsewhere.
//! Reads the trace from beginning to end; the page is `web::route_report`.

use std::{collections::HashMap, pin::pin};

use futures_util::{StreamExt, TryStreamExt};
use sqlx::PgConnection;
use time::OffsetDateTime;
use uuid::Uuid;

use super::{Event, SLACK, SPAN, Step, chunk, end_of, first_id};
use crate::{
    mail::{
        GatewayAddress, Mailbox,
        id::{AccountId, OrganizationId, QueueId},
    },
    store::Result,
};

/// Chunks in memory at a time.
const AT_ONCE: usize = 16;
/// How many messages are followed at once from the queue to their end. What comes beyond counts as unknown.
const MOST_FOLLOWED: usize = 1_000_000;
/// Accounts in one statement.
pub const ACCOUNTS: i64 = 5_000;

/// What became of messages; each counts once.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ways {
    /// All of it that left went through the gateway.
    pub through: i64,
    /// It left, at least for some recipient, and not through the gateway.
    pub elsewhere: i64,
    /// It was refused, returned, given up or deleted, or it waits.
    pub not_left: i64,
    /// How it ended is not written down.
    pub unknown: i64,
}

impl std::iter::Sum for Ways {
    fn sum<I: Iterator<Item = Self>>(all: I) -> Self {
        all.fold(Self::default(), |sum, one| Self {
            through: sum.through + one.through,
            elsewhere: sum.elsewhere + one.elsewhere,
            not_left: sum.not_left + one.not_left,
            unknown: sum.unknown + one.unknown,
        })
    }
}

impl Ways {
    pub fn messages(&self) -> i64 {
        self.through + self.elsewhere + self.not_left + self.unknown
    }

    fn add(&mut self, left: Left, is_known: bool) {
        match left {
            Left::Elsewhere => self.elsewhere += 1,
            Left::Through => self.through += 1,
            Left::Nowhere if is_known => self.not_left += 1,
            Left::Nowhere => self.unknown += 1,
        }
    }
}

/// How a message left, as far as is known: the worst that is known of it counts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Left {
    Nowhere,
    Through,
    Elsewhere,
}

/// A message that was queued in the period.
#[derive(Debug, Clone, Copy)]
struct Followed {
    account: Option<AccountId>,
    left: Left,
    /// Some of it has ended without leaving.
    has_ended: bool,
}

/// A report while it is made.
#[derive(Debug)]
pub struct Report {
    organization: OrganizationId,
    from: OffsetDateTime,
    to: OffsetDateTime,
    /// As it stands in the trace.
    gateway: String,
    followed: HashMap<QueueId, Followed>,
    /// By account; `None`: senders that no account had.
    ways: HashMap<Option<AccountId>, Ways>,
}

impl Report {
    /// Of messages from `from` on and before `to`.
    pub fn new(
        organization: OrganizationId,
        (from, to): (OffsetDateTime, OffsetDateTime),
        gateway: &GatewayAddress,
    ) -> Self {
        Self { organization, from, to, gateway: gateway.to_string(), followed: HashMap::new(), ways: HashMap::new() }
    }

    /// Reads all that it takes. One statement reads the period, so that lines which are put together meanwhile count
    /// once; what was queued in it is then followed to its end.
    pub async fn read(&mut self, db: &mut PgConnection) -> Result<()> {
        // Chunks are in the order in which they were closed, and those that were put together are of one hour.
        let end = first_id(self.to + SPAN + SLACK);
        self.read_chunks(db, (first_id(self.from - SLACK), end)).await?;
        self.look_into_queue(db).await?;
        if !self.followed.is_empty() {
            self.read_chunks(db, (end, Uuid::max())).await?;
        }
        Ok(())
    }

    async fn read_chunks(&mut self, db: &mut PgConnection, (from, below): (Uuid, Uuid)) -> Result<()> {
        let chunks = sqlx::query_scalar!(
            "select content from message_trace where organization_id = $1 and id >= $2 and id < $3 order by id",
            self.organization as OrganizationId,
            from,
            below,
        );
        let mut chunks = pin!(chunks.fetch(db).try_chunks(AT_ONCE));
        while let Some(contents) = chunks.next().await {
            let contents = contents.map_err(|cut_off| cut_off.1)?;
            // Reading takes longer than fetching: pages are answered meanwhile.
            let read =
                tokio::task::spawn_blocking(move || contents.iter().flat_map(|one| events(one)).collect::<Vec<_>>());
            for event in read.await.map_err(|_| sqlx::Error::WorkerCrashed)? {
                self.take_in(&event);
            }
        }
        Ok(())
    }

    /// What waits now has not left, and nobody need look for its end.
    async fn look_into_queue(&mut self, db: &mut PgConnection) -> Result<()> {
        let followed: Vec<QueueId> = self.followed.keys().copied().collect();
        for ids in followed.chunks(10_000) {
            let waiting = sqlx::query_scalar!(
                r#"select id as "id: QueueId" from queued_message where organization_id = $1 and id = any($2)"#,
                self.organization as OrganizationId,
                ids as &[QueueId],
            )
            .fetch_all(&mut *db)
            .await?;
            for id in waiting {
                if let Some(message) = self.followed.remove(&id) {
                    self.ways.entry(message.account).or_default().add(message.left, true);
                }
            }
        }
        Ok(())
    }

    fn take_in(&mut self, event: &Event<'_>) {
        let is_ours = event.sender.is_empty();
        let is_in_period = self.from <= event.at && event.at < self.to;
        if event.step.begins() && (is_ours || !is_in_period) {
            return;
        }
        let way = if event.address.as_deref() == Some(&*self.gateway) { Left::Through } else { Left::Elsewhere };
        match event.step {
            Step::HandedOver => self.ways.entry(event.account).or_default().add(way, true),
            Step::Refused => self.ways.entry(event.account).or_default().not_left += 1,
            Step::Queued if self.followed.len() >= MOST_FOLLOWED => {
                self.ways.entry(event.account).or_default().unknown += 1;
            }
            Step::Queued => {
                // Some of its recipients may have had it before the rest was queued.
                let has_left =
                    event.recipients.iter().any(|told| told.own_reply().is_some_and(|it| it.starts_with('2')));
                let left = if has_left { way } else { Left::Nowhere };
                self.followed.insert(event.message, Followed { account: event.account, left, has_ended: false });
            }
            Step::Delivered | Step::Returned | Step::GivenUp | Step::Deleted => self.ends(event, way),
            Step::Attempt => {}
        }
    }

    /// A part of a message has ended; another may still wait.
    fn ends(&mut self, event: &Event<'_>, way: Left) {
        let Some(message) = self.followed.get_mut(&event.message) else { return };
        match event.step {
            Step::Delivered => message.left = message.left.max(way),
            _ => message.has_ended = true,
        }
    }

    /// What came of it, by account; `None`: senders that no account had.
    pub fn finish(mut self) -> HashMap<Option<AccountId>, Ways> {
        for message in std::mem::take(&mut self.followed).into_values() {
            self.ways.entry(message.account).or_default().add(message.left, message.has_ended);
        }
        self.ways
    }
}

/// What matters of a chunk: in vain attempts nothing has left.
fn events(content: &[u8]) -> Vec<Event<'static>> {
    chunk::lines(content, |line| memchr::memmem::find(line, br#""s":"attempt""#).is_none())
}

/// The accounts of the organization behind this User ID, in their order.
pub async fn accounts_after(
    db: &mut PgConnection,
    organization: OrganizationId,
    after: &str,
) -> Result<Vec<(AccountId, Mailbox)>> {
    sqlx::query!(
        r#"
        select id as "id: AccountId", user_id as "user_id: Mailbox" from mail_account
        where organization_id = $1 and user_id > $2
        order by user_id
        limit $3
        "#,
        organization as OrganizationId,
        after,
        ACCOUNTS,
    )
    .map(|row| (row.id, row.user_id))
    .fetch_all(db)
    .await
}

/// The accounts that have these addresses of those that were asked for.
pub async fn accounts_of(
    db: &mut PgConnection,
    organization: OrganizationId,
    addresses: &[String],
) -> Result<Vec<(String, AccountId)>> {
    sqlx::query!(
        r#"select address, account_id as "account: AccountId" from mail_address
           where organization_id = $1 and address = any($2)"#,
        organization as OrganizationId,
        addresses,
    )
    .map(|row| (row.address, row.account))
    .fetch_all(db)
    .await
}

/// The User IDs of these accounts; those that are deleted are left out.
pub async fn names_of(
    db: &mut PgConnection,
    organization: OrganizationId,
    accounts: &[AccountId],
) -> Result<Vec<(AccountId, Mailbox)>> {
    sqlx::query!(
        r#"select id as "id: AccountId", user_id as "user_id: Mailbox" from mail_account
           where organization_id = $1 and id = any($2)"#,
        organization as OrganizationId,
        accounts as &[AccountId],
    )
    .map(|row| (row.id, row.user_id))
    .fetch_all(db)
    .await
}

/// When the first was written down of what is not forgotten yet; `None`: nothing is.
pub async fn begins(db: &mut PgConnection, organization: OrganizationId) -> Result<Option<OffsetDateTime>> {
    let first = sqlx::query_scalar!(
        "select id from message_trace where organization_id = $1 order by id limit 1",
        organization as OrganizationId,
    )
    .fetch_optional(db)
    .await?;
    Ok(first.map(end_of))
}
