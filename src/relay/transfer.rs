//! What becomes of a message that was read whole: handed over to its gateway while the client still
//! waits, or committed to the queue. 250 means one or the other, never less (RFC 5321 §4.2.5).

use std::{
    borrow::Cow,
    sync::Arc,
    time::{Duration, Instant},
};

use time::OffsetDateTime;

use super::{
    handover::{
        Begun, Failed, Handover, RecipientAnswer, Transaction, connection::Through, peer::Peer, source::Source,
        transaction::Request,
    },
    message::{Client, Message},
    message_log::Line,
    meter::Meter,
    metrics::METRICS,
    notification::notifications,
    queue::{self, Attempted, Entry, Full, Queue, after, of_answers, of_failed, of_transaction},
    routing_table::RoutingTable,
    submission::Refused,
    trace::Trace,
    volume::Volume,
};
use crate::{
    mail::{
        EnhancedStatus, Envelope, Reply,
        envelope::Recipient,
        id::{GatewayId, OrganizationId, QueueId},
        notify::Event,
    },
    policy::{
        facts::{Decision, Found, Gateway, SenderRoute},
        fault::Fault,
        gateway_settings::{OwnDomains, Returning},
        pace::Turn,
        retry,
        routing::{NextHop, PlatformDefault, Route, Scope},
    },
    store::{
        message_trace::{Step, Told},
        queue::{QueuedMessage, State},
    },
};

/// How many times longer than for an answer a client waits while its message is sent. All in all it stays well
/// under the ten minutes after which clients give up and send again (RFC 5321 §4.5.3.2.6).
const SENDING: u32 = 15;

/// Takes responsibility for messages. Clones share everything.
#[derive(Clone)]
pub struct Transfer {
    pub(super) table: Arc<RoutingTable>,
    handover: Arc<Handover>,
    pub(super) queue: Queue,
    trace: Arc<Trace>,
    pub(super) volume: Arc<Volume>,
    pub(super) meter: Arc<Meter>,
    settings: TransferSettings,
}

/// How messages are taken.
#[derive(Debug, Clone, Copy)]
pub struct TransferSettings {
    /// Off: everything is committed to the queue first.
    pub handover: bool,
    /// How long a client waits for its gateway before the queue takes over.
    pub handover_wait: Duration,
}

/// Where a message can go while the client waits, and whose it is.
pub(super) enum Way {
    Peer(SenderRoute, Peer),
    /// Only by way of the queue.
    Queue(SenderRoute, WaitsFor),
    /// Nowhere until a gateway is set.
    Held(SenderRoute),
    Refused(Reply),
}

/// What the client hears, and who said it where that was not us.
pub(super) struct Answer {
    pub(super) reply: Reply,
    of: Option<(Peer, Option<Through>)>,
}

impl From<Reply> for Answer {
    fn from(reply: Reply) -> Self {
        Self { reply, of: None }
    }
}

/// A gateway, and the scope whose pointer led to it; neither for the platform's default.
pub(super) type WaitsFor = (Option<GatewayId>, Option<Scope>);

impl Transfer {
    pub fn new(
        table: Arc<RoutingTable>,
        handover: Arc<Handover>,
        queue: Queue,
        (volume, meter): (Arc<Volume>, Arc<Meter>),
        settings: TransferSettings,
    ) -> Self {
        let trace = queue.trace();
        Self { table, handover, queue, trace, volume, meter, settings }
    }

    /// Hands the message over or queues it; the reply is for the client. 250: the gateway has said so,
    /// or the message is committed. 451: nobody has it, the client is to try again.
    pub async fn accept(&self, message: Message) -> Reply {
        let Answer { reply, of } = match self.counts_for(&message) {
            Some(sender) => self.take_within_limits(&message, &sender).await,
            None => self.take(&message).await,
        };
        if !reply.is_positive() {
            if reply.is_permanent() {
                METRICS.refused.add(1)
            } else {
                METRICS.deferred.add(1)
            }
            if let Decision::Route(whose) = self.table.decide(&message.sender) {
                let (sender, words) = (whose.sender.to_string(), reply.to_string());
                let (gateway, through) = of.as_ref().map(|(peer, through)| (peer, *through)).unzip();
                let (scope, through) =
                    (gateway.map_or(Some(whose.route.set_by), |peer| peer.set_by), through.flatten());
                let line = Line { scope, gateway, through, ..line(&message, &whose, &sender, &words) };
                line.write(&self.trace, Step::Refused);
            }
        }
        reply
    }

    /// Tells of a message that submission has refused.
    pub fn refused(&self, refused: &Refused) {
        let recipients = refused.recipients.iter().map(|recipient| Told::Alike(Cow::Borrowed(recipient.as_str())));
        let sender = self.table.deciding(&refused.reverse_path);
        let line = Line {
            organization: refused.organization,
            queue_id: refused.id,
            sender: &sender,
            reverse_path: &refused.reverse_path,
            account: refused.account,
            recipients: recipients.collect(),
            size: refused.size,
            client: Some(refused.client),
            first_pass: None,
            scope: None,
            gateway: None,
            waits_for: None,
            through: None,
            reply: &refused.reply,
            attempts: None,
            next_attempt: None,
            received: OffsetDateTime::now_utc(),
        };
        line.write(&self.trace, Step::Refused);
    }

    /// In whose volume the message counts if it is accepted. What is handed back to us has counted already.
    fn counts_for(&self, message: &Message) -> Option<Found> {
        let sender = self.table.find_again(&message.sender, &message.decided)?;
        self.handed_back(message, sender.organization).is_none().then_some(sender)
    }

    // Here and below what seldom happens is boxed: what a message takes has room for the largest of its ways.
    pub(super) async fn take(&self, message: &Message) -> Answer {
        let now = message.accepted_at;
        let source = Source::Content(message.content.clone());
        let request = Request {
            reverse_path: &message.envelope.reverse_path,
            recipients: &message.envelope.forward_paths,
            wishes: &message.envelope.wishes,
            parameters: &message.envelope.parameters,
            source: &source,
            turn: Turn::New,
            relays: self.table.relays(),
            sender: None,
        };
        loop {
            let whose = match self.way(message) {
                Way::Peer(whose, peer) if self.handover.pool().is_crowded(&peer) => {
                    return Box::pin(self.queue_for_now(self.entry(message, &whose), waits_for(&peer), now))
                        .await
                        .into();
                }
                Way::Peer(whose, _) => whose,
                Way::Queue(whose, waits) => {
                    return Box::pin(self.queue_for_now(self.entry(message, &whose), waits, now)).await.into();
                }
                Way::Held(whose) => {
                    let entry = self.entry(message, &whose);
                    let until = self.table.held_until(whose.organization, &message.sender);
                    let held = Attempted::without_gateway(&entry.message, until);
                    return Box::pin(self.commit_outcome(entry, &held, now)).await.into();
                }
                Way::Refused(reply) => return reply.into(),
            };
            let route = || match self.way(message) {
                Way::Peer(other, peer) if other.organization == whose.organization => Ok(peer),
                _ => Err(()),
            };
            let request = Request { sender: Some((whose.organization, whose.account)), ..request };
            let begun = self.handover.begin(request, route, self.settings.handover_wait, now).await;
            if let Some(Answer { reply, of }) = self.answer(message, &whose, begun, now).await {
                return Answer { reply: reply.for_client(message.envelope.parameters.smtputf8), of };
            }
        }
    }

    fn handed_over(&self, message: &Message, whose: &SenderRoute, transaction: &Transaction, reply: &Reply) {
        METRICS.handed_over.add(1);
        METRICS.handover.observe((OffsetDateTime::now_utc() - message.accepted_at).try_into().unwrap_or_default());
        let (peer, through) = (&transaction.peer, Some(transaction.through()));
        let (sender, words) = (whose.sender.to_string(), reply.to_string());
        let line = Line { gateway: Some(peer), scope: peer.set_by, through, ..line(message, whose, &sender, &words) };
        line.write(&self.trace, Step::HandedOver);
    }

    /// What the client hears; `None` if the route was changed in these moments.
    async fn answer(
        &self,
        message: &Message,
        whose: &SenderRoute,
        begun: Begun<()>,
        now: OffsetDateTime,
    ) -> Option<Answer> {
        let entry = || self.entry(message, whose);
        let reply = match begun {
            Begun::Detour(()) => return None,
            Begun::Open(transaction) => return Some(self.send(message, whose, *transaction, now).await),
            Begun::Failing(peer, failing) => {
                let places = places(message.envelope.forward_paths.len());
                let attempted = queue::waiting(&peer, &failing.reason, failing.until, &places);
                Box::pin(self.commit_outcome(entry(), &attempted, now)).await
            }
            Begun::Busy(peer) => Box::pin(self.queue_for_now(entry(), waits_for(&peer), now)).await,
            Begun::Paced(peer, turn) => {
                let places = places(message.envelope.forward_paths.len());
                Box::pin(self.commit_outcome(entry(), &queue::paced(&peer, turn, &places), now)).await
            }
            Begun::Answered(peer, through, answers) => {
                let through = Some(through);
                if let Some(reply) = refusal_by_all(&peer, &answers) {
                    return Some(Answer { reply, of: Some((peer, through)) });
                }
                let attempted = of_answers(&peer, &answers, &places(answers.len()));
                Box::pin(self.commit_outcome(entry(), &Attempted { through, ..attempted }, now)).await
            }
            Begun::Failed(failed) => return Some(Box::pin(self.failed(entry(), &failed, now)).await),
        };
        Some(reply.into())
    }

    pub(super) fn way(&self, message: &Message) -> Way {
        let refused = |text| Way::Refused(Reply::new(550, EnhancedStatus(5, 7, 1), text));
        let mut whose = match self.table.decide_again(&message.sender, &message.decided) {
            Decision::Route(route) => route,
            // The client was told at MAIL; these have changed since then.
            Decision::UnknownDomain => return refused("the sender's domain is not one that this relay sends for"),
            Decision::OrganizationSuspended => return refused("the sender's organization is suspended"),
            Decision::AccountSuspended => return refused("the sender's account is suspended"),
        };
        let handed_back = match self.handed_back(message, whose.organization) {
            None => None,
            Some(Ok(route)) => {
                whose.route = route;
                Some(Scope::Platform)
            }
            Some(Err(refusal)) => return Way::Refused(refusal),
        };
        let set_by = whose.route.set_by;
        match (&whose.route.next_hop, self.settings.handover) {
            (NextHop::Gateway(gateway), true) if !self.leads_apart(gateway, message) => {
                let peer = self.table.peer(gateway, set_by);
                Way::Peer(whose, peer)
            }
            (NextHop::Gateway(gateway), _) => {
                let waits = (Some(gateway.id), Some(set_by));
                Way::Queue(whose, waits)
            }
            (NextHop::Platform(PlatformDefault::Smarthost(address)), true) => {
                let peer = Peer { set_by: handed_back, ..Peer::smarthost(address) };
                Way::Peer(whose, peer)
            }
            (NextHop::Platform(_), _) => Way::Queue(whose, (None, handed_back)),
            // Never around a gateway that has to be there: it waits until one is set.
            (NextHop::Nowhere, _) => Way::Held(whose),
        }
    }

    /// Where mail goes that the organization's gateway hands back to us: nowhere, or on by the platform's default. It is
    /// known by where it comes from, never by what it says. `None`: it is none of that.
    fn handed_back(
        &self,
        message: &Message,
        organization: OrganizationId,
    ) -> Option<Result<Route<Arc<Gateway>>, Reply>> {
        let client = Some(&message.client).filter(|client| client.is_proven)?;
        let gateway = self.table.hands_back(organization, client.address)?;
        Some(match gateway.settings.returning {
            Returning::Onward => {
                let next_hop = NextHop::Platform(self.table.default().clone());
                Ok(Route { next_hop, set_by: Scope::Platform })
            }
            Returning::Refuse => {
                let text = format!(
                    "gateway {} hands this message back instead of delivering it; let it deliver by itself, \
                     or allow mail to come back on the gateway's page",
                    gateway.address
                );
                Err(Reply::new(550, EnhancedStatus(5, 7, 1), text))
            }
        })
    }

    /// Whether some of the recipients are reached around the gateway: inside the organization.
    fn leads_apart(&self, gateway: &Gateway, message: &Message) -> bool {
        let is_own = |forward_path: &String| self.table.is_own(gateway.organization, forward_path);
        gateway.settings.own_domains == OwnDomains::Inbound && message.envelope.forward_paths.iter().any(is_own)
    }

    /// The recipients have their answers, at least one is accepted.
    async fn send(
        &self,
        message: &Message,
        whose: &SenderRoute,
        mut transaction: Transaction,
        now: OffsetDateTime,
    ) -> Answer {
        let is_accepted = |answer: &RecipientAnswer| *answer == RecipientAnswer::Accepted;
        if !transaction.recipients.iter().all(is_accepted) {
            return Box::pin(self.send_to_some(self.entry(message, whose), transaction, now)).await.into();
        }
        let source = Source::Content(message.content.clone());
        let limit = self.settings.handover_wait * SENDING;
        if let Err(failed) = transaction.send_within(limit, &source).await {
            return Box::pin(self.failed(self.entry(message, whose), &failed, now)).await;
        }
        match tokio::time::timeout(self.settings.handover_wait, transaction.answer()).await {
            Ok(Ok(reply)) => {
                self.handed_over(message, whose, &transaction, &reply);
                let is_owed = message.envelope.wants(Event::Success) && !transaction.tells_senders();
                let told_of = is_owed.then(|| transaction.peer.clone());
                transaction.finish();
                if let Some(peer) = told_of {
                    Box::pin(self.tell_relayed(self.entry(message, whose), &peer, &reply, now)).await;
                }
                reply.into()
            }
            Ok(Err(failed)) => {
                if failed.is_answer_to_message() {
                    transaction.finish();
                }
                Box::pin(self.failed(self.entry(message, whose), &failed, now)).await
            }
            Err(_) => Box::pin(self.await_answer(self.entry(message, whose), transaction, now)).await.into(),
        }
    }

    /// Some recipients were accepted, others not: each one's state is committed before the message
    /// goes to the accepted ones, so that nobody is forgotten and nobody is asked for twice.
    async fn send_to_some(&self, mut entry: Entry, mut transaction: Transaction, now: OffsetDateTime) -> Reply {
        let places = places(entry.message.recipients.len());
        let so_far = of_answers(&transaction.peer, &transaction.recipients, &places);
        let recorded = self.after(&entry, &so_far, now);
        let notifications = self.notifications(&recorded, &entry, now).await;
        // The attempt that is under way is counted when it ends.
        let attempts = entry.message.attempts;
        entry.message = QueuedMessage { attempts, ..recorded.message };
        let held = self.queue.lease(&mut entry.message, None);
        let entries = std::iter::once(entry.clone()).chain(notifications).collect();
        let by = (Some(&transaction.peer), Some(transaction.through()));
        let reply = match self.store(entries, by).await {
            Ok(reply) => reply,
            // The transaction is given up with its connection: nobody has the message.
            Err(reply) => return reply,
        };
        let source = entry.source.clone();
        let (queue, rest) = (self.queue.clone(), entry.clone());
        self.queue.conclude(entry, held, now, async move {
            let sent = transaction.send(&source).await;
            let attempted = queue::conclude(transaction, sent, &places).await;
            let mut attempted = queue.attempt_those_cut_off(&rest, attempted, now).await;
            // The refused ones have their notification already.
            attempted.verdicts.retain(|verdict| !so_far.is_refused(verdict.0));
            attempted
        });
        reply
    }

    /// The gateway has the whole message and does not answer: it is committed, and the same connection
    /// waits on. Trying again earlier would make duplicates.
    async fn await_answer(&self, mut entry: Entry, transaction: Transaction, now: OffsetDateTime) -> Reply {
        let held = self.queue.lease(&mut entry.message, Some(retry::ANSWER_WAIT));
        entry.message.state = State::AnswerAwaited;
        (entry.message.waits_for, entry.message.waits_by) = waits_for(&transaction.peer);
        entry.message.last_reply = Some(format!("{} has not answered yet", transaction.peer));
        let by = (Some(&transaction.peer), Some(transaction.through()));
        let reply = match self.store(vec![entry.clone()], by).await {
            Ok(reply) => reply,
            Err(reply) => return reply,
        };
        let places = places(entry.message.recipients.len());
        let answer = async move { queue::conclude(transaction, Ok(()), &places).await };
        self.queue.conclude(entry, held, now, answer);
        reply
    }

    /// No success: the message's own fault goes back to the client, everything else waits.
    async fn failed(&self, entry: Entry, failed: &Failed, now: OffsetDateTime) -> Answer {
        if let (Fault::Message | Fault::Recipient, Some(reply)) = (failed.fault, failed.refusal()) {
            return Answer { reply, of: Some((failed.peer.clone(), failed.through)) };
        }
        let attempted = of_failed(failed, &places(entry.message.recipients.len()));
        self.commit_outcome(entry, &attempted, now).await.into()
    }

    /// Commits a message as it is after an attempt while the client waited.
    async fn commit_outcome(&self, mut entry: Entry, attempted: &Attempted, now: OffsetDateTime) -> Reply {
        let recorded = self.after(&entry, attempted, now);
        let notifications = self.notifications(&recorded, &entry, now).await;
        queue::log_if_ambiguous(&recorded.message, attempted);
        entry.message = recorded.message;
        let entries = std::iter::once(entry).chain(notifications).collect();
        self.store(entries, (attempted.peer.as_ref(), attempted.through)).await.unwrap_or_else(|reply| reply)
    }

    /// Commits a message that was not attempted, and attempts it at once if not too many are under way.
    async fn queue_for_now(&self, mut entry: Entry, waits: WaitsFor, now: OffsetDateTime) -> Reply {
        (entry.message.waits_for, entry.message.waits_by) = waits;
        let Some(permit) = self.queue.permit(&entry.message) else {
            return self.store(vec![entry], (None, None)).await.unwrap_or_else(|reply| reply);
        };
        let held = self.queue.lease(&mut entry.message, None);
        match self.store(vec![entry.clone()], (None, None)).await {
            Ok(reply) => {
                self.queue.attempt_now(entry, Some(held), permit, now);
                reply
            }
            Err(reply) => reply,
        }
    }

    /// Commits messages, the client's first, and says so, with the server that was asked. The error is what the client
    /// hears if they cannot be.
    pub(super) async fn store(
        &self,
        entries: Vec<Entry>,
        (gateway, through): (Option<&Peer>, Option<Through>),
    ) -> Result<Reply, Reply> {
        let (message, client, first_pass) = (entries[0].message.clone(), entries[0].client, entries[0].first_pass);
        let room = self.queue.room().take(message.organization, message.size);
        // What its gateway has whole already would only come twice if it were refused.
        if let Err(full) = room
            && message.state != State::AnswerAwaited
        {
            return Err(queue_is_full(full));
        }
        let begun = Instant::now();
        self.queue.commit(entries).await.map_err(|_| not_stored())?;
        METRICS.queued.add(1);
        METRICS.commit.observe(begun.elapsed());
        let reason = message.last_reply.as_deref().unwrap_or_default();
        let recipients = message.recipients.iter().map(|recipient| queue::told_of(recipient, reason)).collect();
        let sender = self.table.deciding(message.sender.as_deref().unwrap_or_default());
        let line = Line { sender: &sender, client, first_pass, ..Line::of(&message, reason) };
        let line = Line { gateway, through, recipients, ..line };
        line.write(&self.trace, Step::Queued);
        Ok(queued_as(&message))
    }

    /// The sender asked to be told of success, and whoever has taken the message tells nobody (RFC 3461 §5.2.2).
    async fn tell_relayed(&self, entry: Entry, peer: &Peer, reply: &Reply, now: OffsetDateTime) {
        let places = places(entry.message.recipients.len());
        let answers = vec![RecipientAnswer::Accepted; places.len()];
        let attempted = of_transaction(peer, false, &answers, &places, &Ok(reply.clone()));
        let recorded = self.after(&entry, &attempted, now);
        let notifications = self.notifications(&recorded, &entry, now).await;
        if !notifications.is_empty() && self.queue.commit(notifications).await.is_err() {
            tracing::error!(queue_id = %entry.message.id, "the sender could not be told that the message was passed on");
        }
    }

    pub(super) fn after(&self, entry: &Entry, attempted: &Attempted, now: OffsetDateTime) -> queue::Recorded {
        after(&entry.message, attempted, &self.queue.settings().schedule, true, now)
    }

    async fn notifications(&self, recorded: &queue::Recorded, entry: &Entry, now: OffsetDateTime) -> Vec<Entry> {
        notifications(self.queue.settings(), &recorded.message, &entry.source, &recorded.reports, now).await
    }

    /// The message as the queue would have it, due now.
    pub(super) fn entry(&self, message: &Message, whose: &SenderRoute) -> Entry {
        entry(message, whose, message.accepted_at + self.queue.settings().schedule.lifetime)
    }
}

pub(super) fn waits_for(peer: &Peer) -> WaitsFor {
    (peer.waits_for, peer.set_by)
}

fn entry(message: &Message, whose: &SenderRoute, expires_at: OffsetDateTime) -> Entry {
    let queued = QueuedMessage {
        organization: whose.organization,
        id: message.id,
        state: State::Waiting,
        sender: Some(message.sender.clone()),
        sender_account: whose.account,
        sender_domain: Some(whose.sender.domain().clone()),
        reverse_path: message.envelope.reverse_path.clone(),
        recipients: recipients(&message.envelope),
        parameters: message.envelope.parameters.clone(),
        size: message.content.size() as i64,
        waits_for: None,
        waits_by: None,
        held_because: None,
        throttled_until: None,
        choice: None,
        retry_wished_at: None,
        attempts: 0,
        last_reply: None,
        delay_noticed: false,
        accepted_at: message.accepted_at,
        next_attempt_at: message.accepted_at,
        expires_at,
        lease: None,
    };
    let (source, client) = (Source::Content(message.content.clone()), &message.client);
    Entry { message: queued, source, client: Some(client.address), first_pass: first_pass(client) }
}

fn recipients(envelope: &Envelope) -> Vec<Recipient> {
    let waiting = envelope.forward_paths.iter().map(Recipient::waiting);
    match envelope.wishes.is_empty() {
        true => waiting.collect(),
        false => waiting.zip(&envelope.wishes).map(|(recipient, wishes)| recipient.wishing(wishes)).collect(),
    }
}

fn places(count: usize) -> Vec<usize> {
    (0..count).collect()
}

/// The first refusal, if every recipient was refused for good.
fn refusal_by_all(peer: &Peer, answers: &[RecipientAnswer]) -> Option<Reply> {
    let refusal = |answer: &RecipientAnswer| match answer {
        RecipientAnswer::Refused(reply) => Some(reply.clone()),
        RecipientAnswer::Accepted | RecipientAnswer::Deferred(_) => None,
    };
    let refusals: Option<Vec<Reply>> = answers.iter().map(refusal).collect();
    refusals?.first().map(|reply| reply.said_by(&peer.to_string()))
}

fn queued_as(message: &QueuedMessage) -> Reply {
    Reply::new(250, EnhancedStatus(2, 0, 0), format!("queued as {}", message.id))
}

pub(super) fn not_stored() -> Reply {
    Reply::new(451, EnhancedStatus(4, 3, 0), "the message could not be stored, try again later")
}

fn queue_is_full(full: Full) -> Reply {
    let text = format!(
        "{} messages of your organization are waiting, and there is no room for more; send it again later, and ask an \
         administrator what they wait for",
        full.messages
    );
    Reply::new(452, EnhancedStatus(4, 3, 1), text)
}

fn first_pass(client: &Client) -> Option<QueueId> {
    client.first_pass.as_ref()?.parse().ok()
}

/// What the log says of a message that its client is still waiting for.
fn line<'a>(message: &'a Message, whose: &SenderRoute, sender: &'a str, reply: &'a str) -> Line<'a> {
    let recipients = message.envelope.forward_paths.iter();
    Line {
        organization: whose.organization,
        queue_id: message.id,
        sender,
        reverse_path: &message.envelope.reverse_path,
        account: whose.account,
        recipients: recipients.map(|forward_path| Told::Alike(Cow::Borrowed(forward_path.as_str()))).collect(),
        size: message.content.size(),
        client: Some(message.client.address),
        first_pass: first_pass(&message.client),
        scope: None,
        gateway: None,
        waits_for: None,
        through: None,
        reply,
        attempts: None,
        next_attempt: None,
        received: message.accepted_at,
    }
}
