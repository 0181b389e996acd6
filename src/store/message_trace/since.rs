//! How mail has gone since a gateway was changed, for one or for all: by the new way, still by the old one, or not at
//! all. Read from the trace; the page is `web::audit_log`'s.

use std::collections::{HashMap, HashSet};

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{Event, SLACK, Step, chunk, first_id};
use crate::{
    mail::{
        DomainName,
        envelope::domain_of,
        id::{AccountId, ChangeId, GatewayId, OrganizationId},
    },
    policy::routing::Scope,
    store::Result,
};

/// How many chunks are looked into: those of some hundred thousand messages.
const MOST_CHUNKS: i64 = 200;

/// What was changed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changed {
    /// Where mail of all users goes who have nothing nearer; the former gateway.
    OfAll(Option<GatewayId>),
    OfDomain(DomainName, Option<GatewayId>),
    OfAccount(AccountId, Option<GatewayId>),
    /// Of many accounts at once, each with its former gateway.
    OfAccounts(HashMap<AccountId, Option<GatewayId>>),
    /// A gateway's own record, and from which revision on it is so.
    Record(GatewayId, i64),
}

/// Of how many accounts a change is looked at.
const MOST_ACCOUNTS: i64 = 100_000;

/// The accounts whose gateway a change has set, each with its former one; `None`: of more than are looked at.
pub async fn accounts_of(
    db: &mut PgConnection,
    organization: OrganizationId,
    change: ChangeId,
) -> Result<Option<Changed>> {
    let rows = sqlx::query!(
        r#"
        select subject_key::uuid as "account!: AccountId", (before ->> 'outbound_gateway')::uuid as "former: GatewayId"
        from change_item
        where organization_id = $1 and change_id = $2 and subject = 'account'
          and before ? 'outbound_gateway' and after ? 'outbound_gateway'
          and before -> 'outbound_gateway' is distinct from after -> 'outbound_gateway'
        limit $3
        "#,
        organization as OrganizationId,
        change as ChangeId,
        MOST_ACCOUNTS + 1,
    )
    .map(|row| (row.account, row.former))
    .fetch_all(db)
    .await?;
    Ok((rows.len() as i64 <= MOST_ACCOUNTS).then(|| Changed::OfAccounts(rows.into_iter().collect())))
}

/// What messages have done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Gone {
    pub new_way: i64,
    /// They were under way already.
    pub old_way: i64,
    /// Refused, or returned to their senders.
    pub refused: i64,
    /// Messages that had waited for the former gateway and are being tried now, by the way that held when that began.
    pub under_way: i64,
    /// There were more than are looked at.
    pub was_cut_short: bool,
}

impl Changed {
    /// Whether a line is about mail that the change is about; if so, whether it went the old way.
    fn went_old_way(&self, event: &Event<'_>) -> Option<bool> {
        // Our own notifications go no tenant's way.
        if event.sender.is_empty() {
            return None;
        }
        let (is_about, former) = match self {
            Self::OfAll(former) => (!matches!(event.scope, Some(Scope::User | Scope::Domain)), former),
            Self::OfDomain(name, former) => {
                let is_of_domain = domain_of(&event.sender).is_some_and(|domain| domain == name.as_str());
                (is_of_domain && event.scope != Some(Scope::User), former)
            }
            Self::OfAccount(account, former) => (event.account == Some(*account), former),
            Self::OfAccounts(formers) => {
                let former = event.account.and_then(|account| formers.get(&account))?;
                return Some(event.gateway == *former);
            }
            Self::Record(gateway, revision) => {
                let is_about = event.gateway == Some(*gateway);
                return is_about.then(|| event.revision.is_some_and(|of| of < *revision));
            }
        };
        is_about.then(|| event.gateway == *former)
    }

    /// What mail went to before.
    fn former(&self) -> Vec<GatewayId> {
        match self {
            Self::OfAll(former) | Self::OfDomain(_, former) | Self::OfAccount(_, former) => Vec::from_iter(*former),
            Self::OfAccounts(formers) => {
                let distinct: HashSet<GatewayId> = formers.values().copied().flatten().collect();
                Vec::from_iter(distinct)
            }
            Self::Record(gateway, _) => vec![*gateway],
        }
    }

    /// Whose mail alone it is about, where that are many.
    fn accounts(&self) -> Option<Vec<AccountId>> {
        match self {
            Self::OfAccounts(formers) => Some(formers.keys().copied().collect()),
            _ => None,
        }
    }
}

impl Gone {
    fn take_in(&mut self, event: &Event<'_>, went_old_way: bool) {
        match event.step {
            Step::HandedOver | Step::Delivered if went_old_way => self.old_way += 1,
            Step::HandedOver | Step::Delivered => self.new_way += 1,
            Step::Refused | Step::Returned => self.refused += 1,
            Step::Queued | Step::Attempt | Step::GivenUp | Step::Deleted => {}
        }
    }
}

/// From the change on and before `to`.
pub async fn since(
    db: &mut PgConnection,
    organization: OrganizationId,
    changed: Changed,
    (from, to): (OffsetDateTime, OffsetDateTime),
) -> Result<Gone> {
    let former = changed.former();
    let under_way = match former.is_empty() {
        false => being_tried(db, organization, (&former, changed.accounts().as_deref()), from).await?,
        true => 0,
    };
    let mut chunks = sqlx::query_scalar!(
        r#"
        select content from message_trace
        where organization_id = $1 and id >= $2 and last_at >= $3 and first_at < $4
        order by id limit $5
        "#,
        organization as OrganizationId,
        first_id(from - SLACK),
        from,
        to,
        MOST_CHUNKS + 1,
    )
    .fetch_all(db)
    .await?;
    let was_cut_short = chunks.len() as i64 > MOST_CHUNKS;
    chunks.truncate(MOST_CHUNKS as usize);
    // Reading takes longer than fetching: pages are answered meanwhile.
    let reading = tokio::task::spawn_blocking(move || {
        let mut gone = Gone { under_way, was_cut_short, ..Gone::default() };
        for event in chunks.iter().flat_map(|content| chunk::lines(content, |_| true)) {
            if from <= event.at
                && event.at < to
                && let Some(went_old_way) = changed.went_old_way(&event)
            {
                gone.take_in(&event, went_old_way);
            }
        }
        gone
    });
    reading.await.map_err(|_| sqlx::Error::WorkerCrashed)
}

async fn being_tried(
    db: &mut PgConnection,
    organization: OrganizationId,
    (former, accounts): (&[GatewayId], Option<&[AccountId]>),
    before: OffsetDateTime,
) -> Result<i64> {
    sqlx::query_scalar!(
        r#"
        select count(*) as "count!" from queued_message
        where organization_id = $1 and waits_for = any($2) and lease_token is not null and accepted_at < $3
          and next_attempt_at > now() and ($4::uuid[] is null or sender_account = any($4))
        "#,
        organization as OrganizationId,
        former as &[GatewayId],
        before,
        accounts as Option<&[AccountId]>,
    )
    .fetch_one(db)
    .await
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::id::QueueId;

    fn event(step: Step, gateway: Option<GatewayId>, scope: Option<Scope>) -> Event<'static> {
        let event = Event::new(step, QueueId::new(), OffsetDateTime::UNIX_EPOCH);
        Event { sender: "ann@acme.example".into(), gateway, scope, revision: Some(3), ..event }
    }

    fn gone(changed: &Changed, events: &[Event<'_>]) -> Gone {
        let mut gone = Gone::default();
        for event in events {
            if let Some(went_old_way) = changed.went_old_way(event) {
                gone.take_in(event, went_old_way);
            }
        }
        gone
    }

    #[test]
    fn mail_counts_that_the_change_is_about_by_the_way_that_it_went() {
        let (former, new) = (Some(GatewayId::new()), Some(GatewayId::new()));
        let events = [
            event(Step::HandedOver, new, Some(Scope::Organization)),
            event(Step::Delivered, new, Some(Scope::Organization)),
            event(Step::HandedOver, former, Some(Scope::Organization)),
            event(Step::Queued, former, Some(Scope::Organization)),
            event(Step::Refused, new, Some(Scope::Organization)),
            event(Step::HandedOver, new, Some(Scope::User)),
            event(Step::HandedOver, new, Some(Scope::Domain)),
            Event { sender: "".into(), ..event(Step::Delivered, new, Some(Scope::Organization)) },
        ];
        let of_all = gone(&Changed::OfAll(former), &events);
        assert_eq!(of_all, Gone { new_way: 2, old_way: 1, refused: 1, ..Gone::default() });
        let of = |name: &str| Changed::OfDomain(name.parse().expect("a name"), former);
        assert_eq!(gone(&of("acme.example"), &events).new_way, 3);
        assert_eq!(gone(&of("other.example"), &events), Gone::default());
        let account = AccountId::new();
        let of_account = Event { account: Some(account), ..event(Step::HandedOver, None, None) };
        assert_eq!(gone(&Changed::OfAccount(account, None), std::slice::from_ref(&of_account)).old_way, 1);
        let many = Changed::OfAccounts([(account, former), (AccountId::new(), None)].into());
        assert_eq!(gone(&many, &[of_account]).new_way, 1, "each account has a former one of its own");
        assert_eq!(gone(&many, &events), Gone::default(), "of others");
    }

    #[test]
    fn of_a_gateways_record_the_revision_says_which_way_it_went() {
        let gateway = GatewayId::new();
        let events =
            [event(Step::HandedOver, Some(gateway), None), event(Step::HandedOver, Some(GatewayId::new()), None)];
        let of = |revision| gone(&Changed::Record(gateway, revision), &events);
        assert_eq!((of(3).new_way, of(3).old_way), (1, 0));
        assert_eq!((of(4).new_way, of(4).old_way), (0, 1));
    }
}
