//! Everything that there is to say about where mail of one sender goes, and what would become of it just now: read in one
//! go for the page Explain Route and for `outgate route explain`, which say the same.

use std::collections::HashMap;

use sqlx::{PgConnection, PgPool};
use time::{Duration, OffsetDateTime};

use super::{Result, correspondents, domain, gateway_health, limit, pending_gateway, relay, routing_facts, throttle};
use super::{verification, volume};
use crate::{
    mail::{
        Mailbox,
        id::{GatewayId, OrganizationId},
    },
    policy::{
        correspondents::{Correspondents, Print},
        explanation::{Explanation, of_list},
        facts::{Decision, Found, RoutingFacts},
        limit::{Applied, FirstTime, Judged, Kind, Known, OrganizationLimits, Window, exceeded, judge},
        present::{Check, GatewayState, Present},
        recent::Recent,
        routing::{NextHop, PlatformDefault},
        sender::candidates,
        usual::{self, busy_day, usual},
        volume::{Count, MINUTES_KEPT, Subject},
    },
};

/// The answer about one sender.
#[derive(Debug, Clone)]
pub struct Explained {
    pub explanation: Explanation,
    /// What would become of a message now, sentence by sentence.
    pub now: Vec<String>,
    /// What else there is to know, each in a sentence.
    pub notes: Vec<String>,
    /// The gateway that mail of this sender leaves through, and how it does.
    pub gateway: Option<(GatewayId, GatewayState)>,
}

/// As one organization knows it: what belongs to another is as if it did not exist.
pub async fn explain(
    db: &mut PgConnection,
    organization: OrganizationId,
    (sender, recipient): (&str, Option<&Mailbox>),
    default: &PlatformDefault,
    now: OffsetDateTime,
) -> Result<Explained> {
    let facts = routing_facts::for_sender(&mut *db, organization, sender).await?;
    explain_by(db, facts, (sender, recipient), default, now).await
}

/// The same for the operator, whichever organization's the sender is.
pub async fn explain_across_tenants(
    owner: &PgPool,
    asked: (&str, Option<&Mailbox>),
    default: &PlatformDefault,
    now: OffsetDateTime,
) -> Result<Explained> {
    let facts = routing_facts::for_sender_across_tenants(owner, asked.0).await?;
    explain_by(&mut *owner.acquire().await?, facts, asked, default, now).await
}

async fn explain_by(
    db: &mut PgConnection,
    mut facts: RoutingFacts,
    (sender, recipient): (&str, Option<&Mailbox>),
    default: &PlatformDefault,
    now: OffsetDateTime,
) -> Result<Explained> {
    let explanation = facts.explain(sender, default);
    let mut notes = explanation.notes(recipient);
    notes.extend(pending_gateway::notes(&mut *db, &explanation).await?);
    let Some(found) = explanation.found.clone().filter(|_| explanation.is_taken()) else {
        return Ok(Explained { explanation, now: Vec::new(), notes, gateway: None });
    };
    if let Some(recipient) = recipient {
        let spellings: Vec<String> = candidates(&recipient.to_string()).iter().map(ToString::to_string).collect();
        routing_facts::load_lists_reached_from(&mut *db, found.organization, &spellings, &mut facts).await?;
        notes.extend(of_list(&facts, sender, recipient));
    }
    let decides = match &explanation.decision {
        Decision::Route(decided) => match &decided.route.next_hop {
            NextHop::Gateway(gateway) => Some(gateway.id),
            NextHop::Platform(_) | NextHop::Nowhere => None,
        },
        _ => None,
    };
    let gateway = match decides {
        Some(gateway) => Some((gateway, state(&mut *db, found.organization, gateway).await?)),
        None => None,
    };
    let limits = facts.limits(found.organization).cloned().unwrap_or_default();
    let state = gateway.as_ref().map(|(_, state)| state.clone());
    let present = present(db, (&found, recipient), &limits, state, now).await?;
    Ok(Explained { now: explanation.of_message_now(&present), explanation, notes, gateway })
}

/// How a gateway does.
async fn state(db: &mut PgConnection, organization: OrganizationId, gateway: GatewayId) -> Result<GatewayState> {
    let health = gateway_health::of(&mut *db, organization, Some(gateway)).await?.pop();
    let checked = verification::checked(db, organization, Some(gateway)).await?.pop();
    let check = checked.map(|it| Check { at: it.at, revision: it.revision, accepts: it.accepts, is_over: it.is_over });
    Ok(health.map_or(GatewayState { check, ..GatewayState::default() }, |health| GatewayState {
        last_accepted_at: health.last_accepted_at,
        failing_since: health.failing_since,
        last_failure: health.last_failure,
        backup: health.backup,
        check,
    }))
}

async fn present(
    db: &mut PgConnection,
    (sender, recipient): (&Found, Option<&Mailbox>),
    limits: &OrganizationLimits,
    gateway: Option<GatewayState>,
    now: OffsetDateTime,
) -> Result<Present> {
    let organization = sender.organization;
    let relays = relay::at_work(&mut *db).await?;
    let accounts = limit::accounts(&mut *db, organization).await?;
    let applied = limits.applied(sender, accounts, now);
    let is_outside = match recipient {
        Some(recipient) => !domain::is_own(&mut *db, organization, recipient.domain()).await?,
        None => true,
    };
    let sent = Sent::by(&mut *db, sender, recipient.filter(|_| is_outside), &applied, now).await?;
    let message = Count::of_message(1, usize::from(is_outside));
    let judged = match limits.sender(sender.account).is_blocked {
        true => Judged::Blocked,
        false => judge(&applied, &exceeded(&applied, &sent, (message, Count::default()), now), |_| None),
    };
    let whose = (sender.account, Some(sender.sender.domain()));
    let standing = throttle::standing_across_tenants(db, organization, whose, now).await?;
    let approved = applied.iter().filter(|applied| applied.kind.window == Window::Approval);
    Ok(Present {
        now,
        gateway,
        relays,
        judged,
        slowed_until: standing.map(|standing| standing.until),
        approved_beyond: approved.filter_map(|applied| applied.limit.most).min(),
    })
}

/// What was sent of late by those whose mail is counted with a sender's, as the store knows it.
struct Sent {
    recent: HashMap<Subject, Recent>,
    usual: HashMap<Subject, Count>,
    busy_days: HashMap<Subject, Count>,
    correspondents: Option<(Correspondents, Option<i64>)>,
    /// How many of the message's recipients the account does not know.
    new: i64,
}

impl Sent {
    async fn by(
        db: &mut PgConnection,
        sender: &Found,
        outside: Option<&Mailbox>,
        applied: &[Applied],
        now: OffsetDateTime,
    ) -> Result<Self> {
        let organization = sender.organization;
        let mut sent = Self {
            recent: HashMap::new(),
            usual: HashMap::new(),
            busy_days: HashMap::new(),
            correspondents: None,
            new: 1,
        };
        let hours: Vec<OffsetDateTime> = usual::hours(now).collect();
        for Applied { kind: Kind { window, .. }, subject, .. } in applied {
            let of = [(organization, subject.clone())];
            match window {
                Window::Usual if !sent.usual.contains_key(subject) => {
                    let found = volume::hours_across_tenants(&mut *db, &of, &hours).await?.pop();
                    let usual = found.and_then(|(first, counts)| usual(subject, &counts, first, now));
                    sent.usual.extend(usual.map(|usual| (subject.clone(), usual)));
                }
                Window::Day if !sent.busy_days.contains_key(subject) => {
                    let since = usual::busy_days_since(now);
                    let found = volume::days_across_tenants(&mut *db, &of, since).await?.pop();
                    let busy = found.and_then(|(first, days)| busy_day(&days, first, now));
                    sent.busy_days.extend(busy.map(|busy| (subject.clone(), busy)));
                }
                _ => {}
            }
            if !sent.recent.contains_key(subject) {
                let since = now - MINUTES_KEPT - Duration::HOUR;
                let mut recent = Recent::default();
                for (minute, count) in volume::by_minute(&mut *db, organization, subject, since).await? {
                    // As relays take what others have counted: as late as it can have been sent.
                    recent.add((minute + Duration::seconds(59)).min(now), count);
                }
                sent.recent.insert(subject.clone(), recent);
            }
        }
        if let Some(account) = sender.account {
            let (known, from) = correspondents::of_account(db, organization, account).await?;
            sent.new = outside.map_or(1, |outside| known.new_among(&[Print::of(account, &outside.to_string())]));
            let busy_day = known.busy_day(from, now);
            sent.correspondents = (from <= now).then_some((known, busy_day));
        }
        Ok(sent)
    }
}

impl Known for Sent {
    fn recent(&self, subject: &Subject) -> Option<&Recent> {
        self.recent.get(subject)
    }

    fn usual(&self, subject: &Subject) -> Option<Count> {
        self.usual.get(subject).copied()
    }

    fn busy_day(&self, subject: &Subject) -> Option<Count> {
        self.busy_days.get(subject).copied()
    }

    fn first_time(&self, _: &Applied) -> Option<FirstTime<'_>> {
        let (known, busy_day) = self.correspondents.as_ref()?;
        Some(FirstTime { known, busy_day: *busy_day, wanted: self.new })
    }
}
