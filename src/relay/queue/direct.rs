//! Delivery to the recipients' own servers: by domain, in the order of their MX records, each server
//! tried until one has an answer.

use std::{collections::BTreeMap, sync::Arc};

use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::task::JoinSet;

use super::{
    Entry, Queue,
    target::Target,
    verdict::{Attempted, Verdict},
};
use crate::{
    mail::{
        GatewayAddress, GatewayHost,
        envelope::{Recipient, RecipientState, domain_of},
        id::OrganizationId,
    },
    policy::gateway_settings::OwnDomains,
    relay::{
        handover::peer::Peer,
        resolver::{Exchange, Exchanges, LookUpError},
    },
    store::{self, pool::in_time, queue::QueuedMessage},
};

/// Domains of one message that are asked at once.
const DOMAINS: usize = 4;

/// Where a domain's mail can go.
enum Servers {
    /// In the order in which they are tried.
    Hosts(Vec<Peer>),
    Refused(&'static str),
    Unavailable(String),
}

impl Queue {
    /// One transaction for each domain, several at a time, so that a domain's trouble holds up no other.
    pub(super) async fn attempt_directly(&self, entry: &Entry, places: &[usize], now: OffsetDateTime) -> Attempted {
        let mut attempted = Attempted { charged: true, is_tried: true, ..Attempted::default() };
        let mut domains = by_domain(entry, places).into_iter();
        let mut delivered = Delivered::of(entry);
        let (entry, mut under_way) = (Arc::new(entry.clone()), JoinSet::new());
        loop {
            while under_way.len() < DOMAINS
                && let Some((domain, places)) = domains.next()
            {
                let (queue, entry) = (self.clone(), entry.clone());
                under_way.spawn(async move { queue.attempt_domain(&entry, &domain, &places, now).await });
            }
            // A domain whose attempt broke off has no verdict: it is tried again.
            match under_way.join_next().await {
                None => break,
                Some(Err(error)) => tracing::error!(queue_id = %entry.message.id, %error, "an attempt broke off"),
                Some(Ok(verdicts)) => {
                    delivered.add(&verdicts);
                    if !under_way.is_empty() {
                        delivered.write_down(&self.shared.db, &entry.message).await;
                    }
                    attempted.verdicts.extend(verdicts);
                }
            }
        }
        attempted.verdicts.sort_by_key(|(place, _)| *place);
        attempted
    }

    async fn attempt_domain(
        &self,
        entry: &Entry,
        domain: &str,
        places: &[usize],
        now: OffsetDateTime,
    ) -> Vec<(usize, Verdict)> {
        let same = |verdict: Verdict| places.iter().map(|place| (*place, verdict.clone())).collect::<Vec<_>>();
        let hosts = match self.servers(entry.message.organization, domain).await {
            Servers::Hosts(hosts) => hosts,
            Servers::Refused(reason) => return same(Verdict::Refused(reason.to_owned())),
            Servers::Unavailable(reason) => return same(Verdict::Waiting(reason)),
        };
        let mut verdicts = same(Verdict::Waiting(format!("no server of {domain} was found")));
        for (place, peer) in hosts.into_iter().enumerate() {
            let Some(attempted) = self.attempt_by(entry, places, self.route_to(entry, &peer, now), now).await else {
                return same(Verdict::Waiting("the route was changed".to_owned()));
            };
            if attempted.is_loop && place > 0 {
                // RFC 5321 §5.1: the servers before us are waited for, those behind us would hand it to us again.
                break;
            }
            verdicts = attempted.verdicts;
            // RFC 5321 §5.1: the next server, as long as there is no answer about the message.
            if attempted.is_answered || attempted.is_loop {
                break;
            }
        }
        verdicts
    }

    /// The peer, as long as the message still goes directly.
    fn route_to<'a>(
        &'a self,
        entry: &'a Entry,
        peer: &'a Peer,
        now: OffsetDateTime,
    ) -> impl FnMut() -> Result<Peer, ()> + 'a {
        move || match self.target(&entry.message, now) {
            Target::Mx => Ok(self.shared.table.within_networks(peer.clone())),
            Target::Peer(gateway) if gateway.own_domains == OwnDomains::Inbound => {
                Ok(self.shared.table.within_networks(peer.clone()))
            }
            _ => Err(()),
        }
    }

    async fn servers(&self, organization: OrganizationId, domain: &str) -> Servers {
        let port = self.shared.settings.mx_port;
        if domain.starts_with('[') {
            // RFC 5321 §4.1.3: an address literal is the server itself.
            return match domain.parse::<GatewayAddress>() {
                Ok(address) => Servers::Hosts(vec![Peer::recipients_server(address.host().clone(), port)]),
                Err(_) => Servers::Refused("5.1.3 the recipient's domain is not a domain name"),
            };
        }
        let Ok(name) = domain.parse::<crate::mail::DomainName>() else {
            return Servers::Refused("5.1.3 the recipient's domain is not a domain name");
        };
        // Only the organization's own mail goes where its administrators say.
        let inbound = self.shared.table.inbound(&name).filter(|inbound| inbound.organization == organization);
        if let Some(host) = inbound.and_then(|inbound| inbound.host) {
            return Servers::Hosts(vec![Peer::inbound_host(organization, &host)]);
        }
        let resolver = &self.shared.handover.dialer().resolver;
        let hosts = match resolver.exchanges(name.as_str()).await {
            Ok(Exchanges::Null) => {
                // RFC 7505 §4.1.
                return Servers::Refused("556 5.1.10 the recipient's domain accepts no mail (null MX)");
            }
            Ok(Exchanges::Hosts(hosts)) => match before(hosts, &self.shared.settings.hostname) {
                hosts if hosts.is_empty() => {
                    return Servers::Refused("554 5.4.6 the recipient's domain names this relay as its mail server");
                }
                hosts => hosts,
            },
            Err(error) => return Servers::Unavailable(error.to_string()),
        };
        // Without an MX record the domain has to be a host; if it is not, nobody is there.
        if hosts == [name.as_str()]
            && let Err(LookUpError::NotFound(_)) = resolver.addresses(name.as_str()).await
        {
            return Servers::Refused("550 5.1.2 the recipient's domain does not exist or has no mail server");
        }
        let hosts = hosts.iter().filter_map(|host| host.parse().ok().map(GatewayHost::Name));
        Servers::Hosts(hosts.map(|host| Peer::recipients_server(host, port)).collect())
    }
}

/// The servers that are preferred to ourselves (RFC 5321 §5.1): the others would hand the mail to us again.
fn before(mut hosts: Vec<Exchange>, ourselves: &str) -> Vec<String> {
    if let Some(own) = hosts.iter().find(|exchange| exchange.host.eq_ignore_ascii_case(ourselves)) {
        let own = own.preference;
        hosts.retain(|exchange| exchange.preference < own);
    }
    hosts.into_iter().map(|exchange| exchange.host).collect()
}

/// Who has the message already while others are still being asked. Should this relay be killed, nobody of
/// them gets it twice.
pub(super) struct Delivered {
    recipients: Vec<Recipient>,
    is_written_down: bool,
}

impl Delivered {
    pub fn of(entry: &Entry) -> Self {
        Self { recipients: entry.message.recipients.clone(), is_written_down: true }
    }

    pub fn add(&mut self, verdicts: &[(usize, Verdict)]) {
        for (place, verdict) in verdicts {
            if verdict.is_delivered()
                && let Some(recipient) = self.recipients.get_mut(*place)
            {
                recipient.state = RecipientState::Delivered;
                self.is_written_down = false;
            }
        }
    }

    pub async fn write_down(&mut self, db: &PgPool, message: &QueuedMessage) {
        let Some(lease) = message.lease.filter(|_| !self.is_written_down) else { return };
        let recording = store::queue::record_delivered_across_tenants(db, message, &self.recipients, lease.token);
        match in_time(recording).await {
            Ok(_) => self.is_written_down = true,
            // At the end everything is written down.
            Err(error) => {
                tracing::warn!(queue_id = %message.id, %error, "what is delivered could not be written down yet")
            }
        }
    }
}

/// The places of recipients by their domain in lower case.
fn by_domain(entry: &Entry, places: &[usize]) -> BTreeMap<String, Vec<usize>> {
    let mut domains: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for place in places {
        let domain = domain_of(&entry.message.recipients[*place].to).unwrap_or_default();
        domains.entry(domain.to_lowercase()).or_default().push(*place);
    }
    domains
}
