//! One SMTP session as a state machine without sockets (RFC 5321): bytes go in, replies come out,
//! and in between it says what has to be done. [`connection`](super::connection) feeds it.

use std::{
    net::IpAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Instant,
};

use ipnet::IpNet;
use mail_parser::MessageParser;
use time::OffsetDateTime;

use super::{
    command::{Command, LineReader, MailCommand, Mistake, RcptCommand},
    data::{DataReader, Fault},
    null_sender,
    recipients::Recipients,
    replies::{self, Encryption},
    sign_in::{Exchange, Given, Mechanism, OrganizationPlace, SignIns},
};
use crate::{
    mail::{
        Envelope, Reply,
        id::{AccountId, CredentialId, OrganizationId, QueueId, TestMessageId},
        received::{Received, Trace},
        short_id::{MessageLinks, ShortId},
    },
    policy::{
        distribution_list::Permitted,
        facts::Decision,
        gateway_settings::Returning,
        limit::PART,
        relay_credential::{RelayCredential, SecretHash},
    },
    relay::{
        memory::{BUFFER, Growing, InFlight, Memory, Supply},
        message::Client,
        metrics::{METRICS, RefusedFor},
        routing_table::{Decided, Knowledge, RoutingTable},
        test_message::{self, Recipient, ReturnTokens, Returned},
    },
};

/// How large a message may become that is kept in memory whole, in bytes, while there is plenty.
const WHOLE_IN_MEMORY: usize = 2 * 1024 * 1024;
/// How much is kept of a larger one. It goes to the spool in pieces of this size, and its header has to be in the first.
pub const IN_MEMORY: usize = 4 * BUFFER;
/// The same while the memory for messages is scarce.
const IN_SCARCE_MEMORY: usize = 32 * 1024;
/// Less room than this is not worth another read.
const WORTH_LENDING: usize = 4096;
/// After so many a client gets no further.
const MOST_MISTAKES: u32 = 10;
/// So much memory for replies stays with a connection, in bytes.
const USUAL_OUTPUT: usize = 1024;
/// After so many sign-ins that failed the connection is closed.
const MOST_FAILED_SIGN_INS: u32 = 3;
/// `Username:` and `Password:`, which clients of LOGIN wait for.
const LOGIN_CHALLENGES: [&str; 2] = ["VXNlcm5hbWU6", "UGFzc3dvcmQ6"];

/// What all sessions of a relay share.
#[derive(Debug)]
pub struct Terms {
    pub hostname: String,
    /// How messages are named in refusals.
    pub links: MessageLinks,
    pub trusted_networks: Vec<IpNet>,
    /// In bytes.
    pub max_message_size: u64,
    pub table: Arc<RoutingTable>,
    /// What all messages in flight may take together.
    pub memory: Arc<Memory>,
    /// Room on disk for large messages, in bytes.
    pub spool_room: Arc<AtomicU64>,
    /// Whether there is a certificate, so that clients can encrypt and sign in.
    pub encrypts: bool,
    pub sign_ins: Arc<SignIns>,
    /// How many signed-in connections an organization may have.
    pub connections_of_organization: usize,
    /// Connections at a time, of all clients together.
    pub connections: usize,
    /// What test messages that come back are known by; anybody may bring them.
    pub returns: Option<Arc<ReturnTokens>>,
}

impl Terms {
    /// Whether clients at this address submit without signing in.
    pub fn trusts(&self, client: IpAddr) -> bool {
        self.trusted_networks.iter().any(|network| network.contains(&client))
    }

    /// The credential with this user name and secret. Takes as long where nobody has the user name.
    fn credential_of(&self, user_name: &str, secret: &str) -> Option<Arc<RelayCredential>> {
        const NOBODYS: SecretHash = SecretHash([0; 32]);
        let credential = self.table.credential_named(user_name);
        let hash = credential.as_ref().map_or(NOBODYS, |credential| credential.secret);
        hash.is_of(secret).then_some(credential).flatten()
    }
}

/// What has to be done next.
#[derive(Debug)]
pub enum Action {
    /// Send the output, then read more.
    Read,
    /// Put this piece of the message behind the former ones, then go on.
    Spool(Growing),
    /// Find out what becomes of the message, then say it to [`Session::answer`].
    Accept(Box<Submitted>),
    /// The same of a test message that has come back.
    TakeBack(Box<Returned>),
    /// Send the output, then begin TLS and say so to [`Session::encrypted`].
    StartTls,
    /// Send the output, then close.
    Close,
}

/// A message that was read whole.
#[derive(Debug)]
pub struct Submitted {
    pub id: QueueId,
    pub envelope: Envelope,
    /// The address that decides the route.
    pub sender: String,
    /// Where its mail goes, as far as that was decided at MAIL.
    pub decided: Decided,
    /// As in [`Message`](crate::relay::message::Message).
    pub message_id: Option<String>,
    /// What was not spooled: all of a small message, our `Received` field included.
    pub rest: Growing,
    /// A line may begin with a dot.
    pub has_dots: bool,
    /// Of a large one of a known organization.
    pub in_flight: Option<InFlight>,
    pub client: Client,
}

/// One client's session.
#[derive(Debug)]
pub struct Session {
    terms: Arc<Terms>,
    client: IpAddr,
    /// Whether the client may be taken for one in a trusted network.
    named: bool,
    encrypted: bool,
    signed_in: Option<SignedIn>,
    failed_sign_ins: u32,
    hello: Option<Hello>,
    state: State,
    /// Where mail of the sender goes that was named last.
    decided: Decided,
    line: LineReader,
    output: Vec<u8>,
    mistakes: u32,
    /// How many lines were read to their end.
    lines: u64,
    /// Nobody is told of them where this is `None`.
    refusals: Option<Vec<Refused>>,
}

/// As whom the client has signed in.
#[derive(Debug)]
struct SignedIn {
    credential: CredentialId,
    /// Whose it is, though it may be revoked since.
    organization: OrganizationId,
    _place: OrganizationPlace,
}

#[derive(Debug)]
struct Hello {
    /// The name that the client gave itself.
    name: String,
    /// By EHLO.
    extended: bool,
}

#[derive(Debug)]
enum State {
    /// No message has been begun.
    Waiting,
    /// In the middle of AUTH.
    SigningIn(Exchange),
    /// After the reply to STARTTLS.
    Encrypting,
    /// After MAIL: the envelope so far.
    Envelope(MailCommand, Recipients),
    /// After 354.
    Content(Box<Receiving>),
    /// The message was read; what becomes of it is being found out.
    Deciding,
    Closed,
}

/// A message that was refused before anybody could take it, of an organization that is known for sure.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refused {
    pub organization: OrganizationId,
    /// Whose short form the reply ends with.
    pub id: QueueId,
    pub account: Option<AccountId>,
    pub reverse_path: String,
    /// None at MAIL.
    pub recipients: Vec<String>,
    /// As the client said it, in bytes; 0 where it did not.
    pub size: u64,
    pub client: IpAddr,
    pub reply: String,
}

#[derive(Debug)]
struct Receiving {
    id: QueueId,
    envelope: Envelope,
    reader: DataReader,
    content: Growing,
    /// Once it is larger than one buffer, and it is known whose it is.
    in_flight: Option<InFlight>,
    /// It is a test message that comes back.
    test: Option<TestMessageId>,
    /// The length of our own field, which stands at the start of `content` until that is spooled.
    own_field: usize,
    /// The client has said that it is larger than what is kept in memory whole.
    is_large: bool,
    /// In bytes, our own field included.
    spooled: u64,
    header: Option<HeaderFacts>,
}

/// What is looked at in the header.
#[derive(Debug)]
struct HeaderFacts {
    trace: Trace,
    /// Who may have sent it; only looked for if the reverse-path is null.
    senders: Vec<String>,
    /// Only looked for in what goes to many.
    message_id: Option<String>,
}

impl Session {
    pub fn new(terms: Arc<Terms>, client: IpAddr) -> Self {
        Self {
            terms,
            client,
            named: true,
            encrypted: false,
            signed_in: None,
            failed_sign_ins: 0,
            hello: None,
            state: State::Waiting,
            decided: Decided::default(),
            line: LineReader::default(),
            output: Vec::new(),
            mistakes: 0,
            lines: 0,
            refusals: None,
        }
    }

    /// With refusals that are told of: [`take_refusals`](Self::take_refusals).
    pub fn noting_refusals(self) -> Self {
        Self { refusals: Some(Vec::new()), ..self }
    }

    /// For a connection whose client a proxy did not name: it is trusted with nothing.
    pub fn for_unnamed(terms: Arc<Terms>, proxy: IpAddr) -> Self {
        Self { named: false, ..Self::new(terms, proxy) }
    }

    /// TLS has begun. What was said before it counts no more (RFC 3207 §4.2).
    pub fn encrypted(&mut self) {
        self.encrypted = true;
        self.hello = None;
        // A client that was turned away before it could be told stays so (421 where TLS comes first).
        if !matches!(self.state, State::Closed) {
            self.state = State::Waiting;
        }
        self.line = LineReader::default();
    }

    /// Begins: says who we are, or that we cannot serve yet.
    pub fn greet(&mut self) {
        match self.terms.table.knowledge(Instant::now()) {
            Knowledge::NotLoaded => self.close(&replies::not_loaded(&self.terms.hostname)),
            Knowledge::Usable | Knowledge::Stale => self.say(&replies::greeting(&self.terms.hostname)),
        }
    }

    /// What has to be sent to the client.
    pub fn output(&self) -> &[u8] {
        &self.output
    }

    /// All of it was. What replies to a large group of commands took is given back: the connection may be idle for long.
    pub fn sent(&mut self) {
        self.output.clear();
        self.output.shrink_to(USUAL_OUTPUT);
    }

    /// What was refused since the last time.
    pub fn take_refusals(&mut self) -> Vec<Refused> {
        self.refusals.as_mut().map(std::mem::take).unwrap_or_default()
    }

    /// Whether a message is being read or decided about: it is let finish when the relay stops.
    pub fn has_message_in_flight(&self) -> bool {
        matches!(self.state, State::Content(_) | State::Deciding)
    }

    /// Whether the client has signed in.
    pub fn is_signed_in(&self) -> bool {
        self.signed_in.is_some()
    }

    /// Whose mail it brings, as far as that is known for sure: whoever is refused at MAIL is nobody's client.
    pub fn organization(&self) -> Option<OrganizationId> {
        match &self.signed_in {
            Some(signed_in) => Some(signed_in.organization),
            None if self.in_transaction() => self.decided.organization(),
            None => None,
        }
    }

    /// How many lines outside messages were read to their end: whoever sends none for long is too slow.
    pub fn lines(&self) -> u64 {
        self.lines
    }

    /// Whether MAIL was accepted and the message is not yet read whole.
    pub fn in_transaction(&self) -> bool {
        matches!(self.state, State::Envelope(..) | State::Content(_))
    }

    /// Into what the content of a large message is read, behind what is there; `None` while that does not matter. To be
    /// given back with [`take_in`](Self::take_in).
    pub fn lend(&mut self) -> Option<Vec<u8>> {
        let State::Content(receiving) = &mut self.state else { return None };
        if receiving.reader.fault().is_some() { None } else { receiving.content.lend(WORTH_LENDING) }
    }

    /// What was lent, with what was read into it behind the first `before` bytes. Returns what of that is no content as
    /// it stands: it is input like any other, and comes next.
    pub fn take_in(&mut self, mut lent: Vec<u8>, before: usize) -> Vec<u8> {
        match &mut self.state {
            State::Content(receiving) => receiving.take_in(lent, before),
            _ => lent.split_off(before),
        }
    }

    /// Takes input until there is something to do. To be called again with what is left of the
    /// input, until it says [`Action::Read`] or [`Action::Close`].
    pub fn on(&mut self, input: &mut &[u8], now: OffsetDateTime) -> Action {
        loop {
            match self.state {
                State::Closed => return Action::Close,
                State::Encrypting => return Action::StartTls,
                State::Content(_) => match self.read_content(input) {
                    Some(action) => return action,
                    None if input.is_empty() => return Action::Read,
                    None => {}
                },
                _ if input.is_empty() => return Action::Read,
                State::SigningIn(_) => self.read_answer(input, now),
                _ => self.read_command(input, now),
            }
        }
    }

    /// Says what became of the message.
    pub fn answer(&mut self, reply: &Reply) {
        if reply.is_positive() {
            self.mistakes = 0;
        }
        self.state = State::Waiting;
        self.say(reply);
    }

    /// The spool cannot take the message, for lack of room or for a fault: it is refused when it has been read to
    /// its end.
    pub fn spool_failed(&mut self, is_full: bool) {
        if let State::Content(receiving) = &mut self.state {
            receiving.reader.refuse(if is_full { Fault::NoRoom } else { Fault::NotKept });
        }
    }

    /// The relay stops.
    pub fn stop(&mut self) {
        self.close(&replies::stopping(&self.terms.hostname));
    }

    /// The client took too long.
    pub fn time_out(&mut self) {
        self.close(&replies::timed_out(&self.terms.hostname));
    }

    /// The client spoke before it was greeted: it listens to no reply, so it is no mail client, or an
    /// attempt to send one's commands through another's connection.
    pub fn refuse_early_talker(&mut self) {
        self.close(&replies::talked_early());
    }

    fn say(&mut self, reply: &Reply) {
        self.output.extend_from_slice(reply.to_wire().as_bytes());
    }

    fn close(&mut self, reply: &Reply) {
        self.say(reply);
        self.state = State::Closed;
    }

    fn read_command(&mut self, input: &mut &[u8], now: OffsetDateTime) {
        // A TLS handshake, a wrong port, noise: no line end may ever come.
        let is_text = |byte: &u8| byte.is_ascii_graphic() || matches!(byte, b' ' | b'\r' | b'\n');
        if self.hello.is_none() && self.line.is_empty() && !input.first().is_some_and(is_text) {
            return self.close(&replies::not_mail());
        }
        let line = self.line.read(input);
        self.lines += u64::from(line.is_some());
        match line {
            None => {}
            Some(Ok(command)) => self.obey(command, !input.is_empty(), now),
            Some(Err(Mistake::Closing(reply))) => self.close(&reply),
            // A browser that was made to post to us would go on with commands in the body.
            Some(Err(Mistake::Said(reply))) if self.hello.is_none() && reply == replies::unknown_command() => {
                self.close(&replies::not_mail());
            }
            Some(Err(Mistake::Said(reply))) => {
                let reply = self.noted_mistake(reply);
                self.mistake(&reply);
            }
        }
    }

    /// Of what is no command only a recipient that cannot be one is told of: that a message did not reach somebody is
    /// what people ask about. Everything else says nothing about anybody's mail, a malformed sender included.
    fn noted_mistake(&mut self, reply: Reply) -> Reply {
        let is_recipient = reply == replies::malformed_recipient() || reply == replies::no_mailboxes_here();
        if is_recipient { self.noted_of_message(Vec::new(), reply) } else { reply }
    }

    fn mistake(&mut self, reply: &Reply) {
        self.mistakes += 1;
        self.say(reply);
        if self.mistakes >= MOST_MISTAKES {
            self.close(&replies::too_many_mistakes(&self.terms.hostname));
        }
    }

    fn obey(&mut self, command: Command, more_follows: bool, now: OffsetDateTime) {
        // RFC 2920 §3.1: these end a group of commands; more may come after their reply only.
        // What follows STARTTLS in the clear is somebody else's (RFC 3207 §4.2): it is never obeyed.
        let ends_group = match command {
            Command::Ehlo(_) | Command::Helo(_) | Command::Data => true,
            Command::StartTls => self.encryption() == Encryption::Offered,
            _ => false,
        };
        if more_follows && ends_group {
            return self.close(&replies::talked_early());
        }
        match command {
            Command::Ehlo(name) => self.hello(name, true),
            Command::Helo(name) => self.hello(name, false),
            Command::StartTls => self.start_tls(),
            Command::Auth(mechanism, initial) => self.auth(mechanism, initial, now),
            Command::Mail(mail) => self.mail(mail, now),
            Command::Rcpt(rcpt) => self.rcpt(rcpt),
            Command::Data => self.data(now),
            Command::Rset => {
                self.state = State::Waiting;
                self.say(&replies::reset());
            }
            Command::Noop => self.say(&replies::noop()),
            Command::Vrfy => self.say(&replies::cannot_verify()),
            Command::Help => self.say(&replies::help()),
            Command::Quit => self.close(&replies::goodbye(&self.terms.hostname)),
        }
    }

    /// RFC 5321 §4.1.4: EHLO also ends a message that was begun.
    fn hello(&mut self, name: String, extended: bool) {
        self.state = State::Waiting;
        self.hello = Some(Hello { name, extended });
        let reply = match extended {
            true => replies::ehlo(&self.terms.hostname, self.terms.max_message_size, self.encryption()),
            false => replies::helo(&self.terms.hostname),
        };
        self.say(&reply);
    }

    fn encryption(&self) -> Encryption {
        match (self.encrypted, self.terms.encrypts) {
            (true, _) => Encryption::Active,
            (false, true) => Encryption::Offered,
            (false, false) => Encryption::Unavailable,
        }
    }

    /// RFC 3207 §4.
    fn start_tls(&mut self) {
        match self.encryption() {
            Encryption::Unavailable => self.close(&replies::not_offered("STARTTLS")),
            Encryption::Active => self.mistake(&replies::encrypted_already()),
            Encryption::Offered if self.hello.is_none() => self.mistake(&replies::say_hello_first()),
            Encryption::Offered => {
                self.say(&replies::ready_for_tls());
                self.state = State::Encrypting;
            }
        }
    }

    /// RFC 4954 §4.
    fn auth(&mut self, mechanism: Mechanism, initial: Option<String>, now: OffsetDateTime) {
        match self.encryption() {
            // A password may follow in the same breath: it is not taken for commands.
            Encryption::Unavailable => return self.close(&replies::not_offered("AUTH")),
            Encryption::Offered => return self.mistake(&replies::encrypt_first()),
            Encryption::Active => {}
        }
        if self.hello.as_ref().is_none_or(|hello| !hello.extended) {
            return self.mistake(&replies::say_hello_first());
        }
        if self.signed_in.is_some() {
            return self.mistake(&replies::signed_in_already());
        }
        if !matches!(self.state, State::Waiting) {
            return self.mistake(&replies::not_while_sending());
        }
        let exchange = match mechanism {
            Mechanism::Plain => Exchange::Plain,
            Mechanism::Login => Exchange::LoginName,
            Mechanism::Other => return self.mistake(&replies::mechanism_not_offered()),
        };
        match initial {
            Some(initial) => self.go_on_signing_in(exchange, &initial, now),
            None => self.ask_for(exchange),
        }
    }

    fn ask_for(&mut self, exchange: Exchange) {
        self.say(&replies::challenge(match exchange {
            Exchange::Plain => "",
            Exchange::LoginName => LOGIN_CHALLENGES[0],
            Exchange::LoginPassword(_) => LOGIN_CHALLENGES[1],
        }));
        self.state = State::SigningIn(exchange);
    }

    fn read_answer(&mut self, input: &mut &[u8], now: OffsetDateTime) {
        let Some(answer) = self.line.read_answer(input) else { return };
        self.lines += 1;
        let State::SigningIn(exchange) = std::mem::replace(&mut self.state, State::Waiting) else { return };
        match answer {
            Err(Mistake::Closing(reply)) => self.close(&reply),
            Err(Mistake::Said(reply)) if reply == replies::line_too_long() => {
                self.mistake(&replies::sign_in_too_long());
            }
            Err(Mistake::Said(_)) => self.mistake(&replies::malformed_sign_in()),
            Ok(answer) if answer == "*" => self.mistake(&replies::sign_in_cancelled()),
            Ok(answer) => self.go_on_signing_in(exchange, &answer, now),
        }
    }

    fn go_on_signing_in(&mut self, exchange: Exchange, answer: &str, now: OffsetDateTime) {
        match exchange.take(answer) {
            Given::More(exchange) => self.ask_for(exchange),
            Given::Malformed => self.mistake(&replies::malformed_sign_in()),
            Given::OnBehalf => self.mistake(&replies::on_behalf_of_nobody()),
            Given::Whole { user_name, secret } => self.sign_in(&user_name, &secret, now),
        }
    }

    fn sign_in(&mut self, user_name: &str, secret: &str, now: OffsetDateTime) {
        let terms = Arc::clone(&self.terms);
        if !terms.sign_ins.permit(self.client, user_name, now) {
            METRICS.refused_by_submission(RefusedFor::SignIn);
            return self.close(&replies::too_many_tries(&terms.hostname));
        }
        let Some(credential) = terms.credential_of(user_name, secret) else {
            terms.sign_ins.note_failure(self.client, user_name, now);
            // Not what was typed: people type their password there.
            tracing::info!(client = %self.client, "a sign-in to submit mail was refused");
            return self.sign_in_failed(&replies::wrong_credential());
        };
        if !credential.limits.permit_client(self.client) {
            tracing::info!(client = %self.client, credential = user_name, "a relay credential was used from elsewhere");
            return self.sign_in_failed(&replies::not_from_here(self.client));
        }
        let (most, of_all) = (terms.connections_of_organization, terms.connections);
        let Some(place) = terms.sign_ins.enter(credential.organization, most, of_all) else {
            return self.close(&replies::organization_has_too_many_connections());
        };
        terms.sign_ins.note_use(&credential, self.client, now);
        let (credential, organization) = (credential.id, credential.organization);
        self.signed_in = Some(SignedIn { credential, organization, _place: place });
        self.mistakes = 0;
        self.say(&replies::signed_in());
    }

    fn sign_in_failed(&mut self, reply: &Reply) {
        self.failed_sign_ins += 1;
        METRICS.refused_by_submission(RefusedFor::SignIn);
        self.say(reply);
        if self.failed_sign_ins >= MOST_FAILED_SIGN_INS {
            self.close(&replies::too_many_mistakes(&self.terms.hostname));
        }
    }

    fn mail(&mut self, mail: MailCommand, now: OffsetDateTime) {
        if self.hello.is_none() {
            return self.mistake(&replies::say_hello_first());
        }
        if !matches!(self.state, State::Waiting) {
            return self.mistake(&replies::one_sender());
        }
        match self.refuse_sender(&mail, now) {
            Some((why, refusal)) if refusal.code == 421 => {
                METRICS.refused_by_submission(why);
                let size = mail.size.unwrap_or_default();
                let refusal = self.noted(QueueId::new(), &mail.reverse_path, Vec::new(), size, refusal);
                self.close(&refusal);
            }
            // Whether it is a test message that comes back, its recipient says.
            Some((why, refusal)) if self.may_bring_back(&mail, &refusal) => {
                self.say(&replies::sender_accepted());
                self.state = State::Envelope(mail, Recipients::for_test_alone(why, refusal));
            }
            Some((why, refusal)) => {
                METRICS.refused_by_submission(why);
                let size = mail.size.unwrap_or_default();
                let refusal = self.noted(QueueId::new(), &mail.reverse_path, Vec::new(), size, refusal);
                self.say(&refusal);
            }
            None => {
                self.say(&replies::sender_accepted());
                self.state = State::Envelope(mail, Recipients::default());
            }
        }
    }

    /// Servers on the way have written their own sender into it, perhaps, and nobody has told us of them.
    fn may_bring_back(&self, mail: &MailCommand, refusal: &Reply) -> bool {
        let fits = mail.size.is_none_or(|size| size <= test_message::LARGEST);
        self.terms.returns.is_some() && refusal.is_permanent() && fits
    }

    /// What is said to MAIL if not 250, and why. A null reverse-path is judged when the header is read.
    fn refuse_sender(&self, mail: &MailCommand, now: OffsetDateTime) -> Option<(RefusedFor, Reply)> {
        let terms = &self.terms;
        let credential = match &self.signed_in {
            Some(signed_in) => match self.credential(signed_in) {
                Some(credential) => Some(credential),
                // Not a stranger's 550: the client may have another credential for its mail.
                None => return Some((RefusedFor::SignIn, replies::credential_revoked())),
            },
            None if self.hands_back(&mail.reverse_path) => None,
            None if !self.named || !terms.trusts(self.client) => {
                return Some((RefusedFor::Stranger, replies::not_trusted(self.client, self.encryption())));
            }
            None => None,
        };
        if mail.size.is_some_and(|size| size > terms.max_message_size) {
            return Some((RefusedFor::Size, replies::too_large(terms.max_message_size)));
        }
        if terms.table.knowledge(Instant::now()) != Knowledge::Usable {
            return Some((RefusedFor::ForNow, replies::stale()));
        }
        // What is known to stay in memory needs no room on disk.
        let size = mail.size.unwrap_or(IN_MEMORY as u64 + 1);
        if size > IN_MEMORY as u64 && size > terms.spool_room.load(Ordering::Relaxed) {
            return Some((RefusedFor::ForNow, replies::no_room()));
        }
        if !mail.reverse_path.is_empty() {
            let refusal = credential
                .as_deref()
                .and_then(|credential| self.refuse_sender_to(credential, &mail.reverse_path))
                .or_else(|| self.refuse_reverse_path(&mail.reverse_path));
            if let Some(refusal) = refusal {
                return Some((RefusedFor::Sender, refusal));
            }
        }
        let credential = credential?;
        if !terms.sign_ins.take_allowance(&credential, now) {
            let most = credential.limits.messages_per_minute?;
            return Some((RefusedFor::ForNow, replies::too_fast(most)));
        }
        terms.sign_ins.note_use(&credential, self.client, now);
        None
    }

    /// Whether it is the sender's gateway that hands mail back: known by its address, and by TLS that it is really there. Of
    /// whose mail has no sender is known later whose it is: until then it may be anybody's gateway.
    fn hands_back(&self, sender: &str) -> bool {
        if !self.named || !self.encrypted {
            return false;
        }
        let table = &self.terms.table;
        if sender.is_empty() {
            return table.any_hands_back(self.client);
        }
        let gateway = table.find(sender).and_then(|found| table.hands_back(found.organization, self.client));
        gateway.is_some_and(|gateway| gateway.settings.returning == Returning::Onward)
    }

    /// What the client has signed in with, as long as it may be used here: it may be revoked or limited at any time.
    fn credential(&self, signed_in: &SignedIn) -> Option<Arc<RelayCredential>> {
        let credential = self.terms.table.credential(signed_in.credential)?;
        credential.limits.permit_client(self.client).then_some(credential)
    }

    /// Why somebody with this credential may not send from an address, if so.
    fn refuse_sender_to(&self, credential: &RelayCredential, sender: &str) -> Option<Reply> {
        match self.terms.table.find(sender) {
            Some(found) if found.organization != credential.organization => {
                Some(replies::not_your_organization(sender))
            }
            Some(found) if !credential.limits.permit_sender(sender, &found) => Some(replies::not_within_limits(sender)),
            Some(_) => None,
            None => Some(replies::not_your_organization(sender)),
        }
    }

    fn rcpt(&mut self, rcpt: RcptCommand) {
        let State::Envelope(mail, recipients) = &mut self.state else {
            return self.mistake(&replies::sender_first());
        };
        if !mail.parameters.smtputf8 && !rcpt.is_ascii() {
            METRICS.refused_by_submission(RefusedFor::Recipient);
            let refusal = self.noted_of_message(vec![rcpt.forward_path], replies::needs_smtputf8());
            return self.say(&refusal);
        }
        if let Some(returns) = &self.terms.returns {
            let recipient = returns.recipient(&rcpt.forward_path);
            if recipient != Recipient::Somebody {
                let forward_path = rcpt.forward_path.clone();
                let reply = bring_back(recipients, rcpt, recipient);
                return match (reply.is_permanent(), reply.is_positive()) {
                    (true, _) => {
                        METRICS.refused_by_submission(RefusedFor::Recipient);
                        let reply = self.noted_of_message(vec![forward_path], reply);
                        self.mistake(&reply);
                    }
                    (false, true) => self.say(&reply),
                    // A test message, which has a page of its own.
                    (false, false) => {
                        METRICS.refused_by_submission(RefusedFor::ForNow);
                        self.say(&reply);
                    }
                };
            }
        }
        if recipients.test.is_some() {
            return self.say(&replies::test_message_alone());
        }
        if let Some(refused) = recipients.only_test.clone() {
            let (why, refusal) = *refused;
            METRICS.refused_by_submission(why);
            let refusal = self.noted_of_message(vec![rcpt.forward_path], refusal);
            return self.mistake(&refusal);
        }
        if recipients.forward_paths.len() >= replies::MOST_RECIPIENTS {
            return self.refuse_further(rcpt.forward_path);
        }
        // Who sends with a null reverse-path is known once the header is read.
        let list = match mail.reverse_path.as_str() {
            "" => None,
            reverse_path => self.terms.table.ask_list((reverse_path, false), &rcpt.forward_path),
        };
        match list {
            None | Some(Ok(Permitted { members: None, .. })) => {}
            Some(Ok(Permitted { members: Some(members), .. })) if recipients.have_room_for(members.len()) => {}
            Some(Ok(_)) => return self.refuse_further(rcpt.forward_path),
            Some(Err(refusal)) => {
                METRICS.refused_by_submission(RefusedFor::Recipient);
                let refusal = self.noted_of_message(vec![rcpt.forward_path], replies::list_refuses(&refusal));
                return self.say(&refusal);
            }
        }
        recipients.add(rcpt);
        self.say(&replies::recipient_accepted());
    }

    /// There is no room for a further recipient: told of once a message, though it may be said of thousands.
    fn refuse_further(&mut self, forward_path: String) {
        METRICS.refused_by_submission(RefusedFor::ForNow);
        let told = match &self.state {
            State::Envelope(_, recipients) => recipients.too_many.clone(),
            _ => None,
        };
        let reply = match told {
            Some(told) => told,
            None => Box::new(self.noted_of_message(vec![forward_path], replies::too_many_recipients())),
        };
        self.say(&reply);
        if let State::Envelope(_, recipients) = &mut self.state {
            recipients.too_many = Some(reply);
        }
    }

    fn data(&mut self, now: OffsetDateTime) {
        match std::mem::replace(&mut self.state, State::Waiting) {
            State::Envelope(mail, recipients) if !recipients.forward_paths.is_empty() => {
                let expanded = match mail.reverse_path.as_str() {
                    _ if recipients.test.is_some() => Ok(recipients),
                    "" => Ok(recipients),
                    reverse_path => recipients.expanded(reverse_path, &self.terms.table),
                };
                match expanded {
                    Ok(recipients) => {
                        let receiving = self.begin_content(mail, recipients, now);
                        self.state = State::Content(Box::new(receiving));
                        self.say(&replies::send_message());
                    }
                    // It took the sender's mail until a moment ago.
                    Err((forward_path, refusal)) => {
                        METRICS.refused_by_submission(RefusedFor::Recipient);
                        let (size, reply) = (mail.size.unwrap_or_default(), replies::list_refuses(&refusal));
                        let id = QueueId::new();
                        let reply = self.noted(id, &mail.reverse_path, vec![forward_path], size, reply);
                        self.say(&reply);
                    }
                }
            }
            envelope @ State::Envelope(..) => {
                self.state = envelope;
                self.say(&replies::recipient_first());
            }
            _ => self.mistake(&replies::sender_first()),
        }
    }

    fn begin_content(&self, mail: MailCommand, mut recipients: Recipients, now: OffsetDateTime) -> Receiving {
        let id = QueueId::new();
        let extended = self.hello.as_ref().is_none_or(|hello| hello.extended);
        // RFC 3848 and RFC 6531 §4.3.
        let with = match (mail.parameters.smtputf8, self.encrypted, self.signed_in.is_some()) {
            _ if !extended => "SMTP",
            (false, false, _) => "ESMTP",
            (false, true, false) => "ESMTPS",
            (false, true, true) => "ESMTPSA",
            (true, false, _) => "UTF8SMTP",
            (true, true, false) => "UTF8SMTPS",
            (true, true, true) => "UTF8SMTPSA",
        };
        let mends = self.signed_in.as_ref().and_then(|signed_in| self.credential(signed_in));
        let reader = match mends.is_some_and(|credential| credential.limits.allow_bare_line_feeds) {
            true => DataReader::mending_line_feeds(),
            false => DataReader::new(),
        };
        let own_field = Received {
            helo: self.hello.as_ref().map_or("", |hello| &hello.name),
            client: self.client,
            by: &self.terms.hostname,
            with,
            id: &id.to_string(),
            at: now,
        }
        .to_field();
        let is_large = mail.size.is_some_and(|size| size > WHOLE_IN_MEMORY as u64);
        let expected = mail.size.map_or(4096, |size| usize::try_from(size).unwrap_or(usize::MAX));
        let expected = expected.min(in_memory(self.terms.memory.supply(None), is_large));
        let mut content = Growing::new(&self.terms.memory, own_field.len() + expected);
        content.extend_from_slice(own_field.as_bytes());
        Receiving {
            id,
            test: recipients.test,
            envelope: Envelope {
                reverse_path: mail.reverse_path,
                wishes: recipients.take_wishes(),
                named: recipients.named,
                to_approve: recipients.to_approve,
                forward_paths: recipients.forward_paths,
                parameters: mail.parameters,
            },
            reader,
            content,
            in_flight: None,
            own_field: own_field.len(),
            is_large,
            spooled: 0,
            header: None,
        }
    }

    fn read_content(&mut self, input: &mut &[u8]) -> Option<Action> {
        let whose = match &self.state {
            State::Content(receiving) if receiving.is_uncounted() => self.whose(&receiving.envelope.reverse_path),
            _ => None,
        };
        let State::Content(receiving) = &mut self.state else { return None };
        if let Some((organization, _)) = whose {
            receiving.in_flight = Some(self.terms.memory.in_flight(organization));
        }
        let most = if receiving.test.is_some() { test_message::LARGEST } else { self.terms.max_message_size };
        let ended = receiving.read(input, most);
        if !ended {
            return receiving.piece_to_spool(&self.terms).map(Action::Spool);
        }
        let State::Content(receiving) = std::mem::replace(&mut self.state, State::Deciding) else { return None };
        let mut receiving = *receiving;
        if let Some(id) = receiving.test {
            return self.take_back(id, receiving);
        }
        match self.judge(&mut receiving) {
            Ok((sender, message_id, client)) => {
                let Receiving { id, envelope, reader, content: rest, in_flight, .. } = receiving;
                let has_dots = reader.has_dots();
                let decided = std::mem::take(&mut self.decided);
                let submitted =
                    Submitted { id, envelope, sender, decided, message_id, rest, has_dots, in_flight, client };
                Some(Action::Accept(Box::new(submitted)))
            }
            Err((why, refusal)) => {
                METRICS.refused_by_submission(why);
                if refusal.is_permanent() {
                    METRICS.refused.add(1);
                } else {
                    METRICS.deferred.add(1);
                }
                let Envelope { reverse_path, forward_paths, .. } = receiving.envelope;
                let refusal = self.noted(receiving.id, &reverse_path, forward_paths, 0, refusal);
                self.answer(&refusal);
                None
            }
        }
    }

    /// A test message that was read to its end.
    fn take_back(&mut self, id: TestMessageId, receiving: Receiving) -> Option<Action> {
        if let Some(fault) = receiving.reader.fault() {
            let refusal = match fault {
                Fault::TooLarge => replies::too_large(test_message::LARGEST),
                fault => self.refusal_of(fault),
            };
            self.answer(&refusal);
            return None;
        }
        let client_is_ours = self.named && self.terms.trusts(self.client);
        let returned = Returned { id, content: receiving.content.to_vec(), client: self.client, client_is_ours };
        Some(Action::TakeBack(Box::new(returned)))
    }

    /// Whether a message that was read to its end can be passed on, and for whom; with its Message-ID.
    fn judge(&self, receiving: &mut Receiving) -> Result<(String, Option<String>, Client), (RefusedFor, Reply)> {
        if let Some(fault) = receiving.reader.fault() {
            return Err((why(fault), self.refusal_of(fault)));
        }
        let header = receiving.take_header(&self.terms.hostname);
        if header.trace.hops > replies::MOST_HOPS {
            return Err((RefusedFor::Loop, replies::going_in_circles()));
        }
        if header.trace.own > replies::MOST_OWN_HOPS {
            return Err((RefusedFor::Loop, replies::coming_back()));
        }
        let sender = match receiving.envelope.reverse_path.as_str() {
            "" => {
                let sender = self.sender_of_null(&header.senders).map_err(|refusal| (RefusedFor::Sender, refusal))?;
                let asked = |path: &String| self.terms.table.ask_list((sender.as_str(), true), path);
                if let Some(Err(refusal)) = receiving.envelope.forward_paths.iter().find_map(asked) {
                    return Err((RefusedFor::Recipient, replies::list_refuses(&refusal)));
                }
                sender
            }
            given => given.to_owned(),
        };
        let client = Client {
            address: self.client,
            is_proven: self.named && (self.terms.trusts(self.client) || self.encrypted || self.signed_in.is_some()),
            first_pass: header.trace.first_pass,
        };
        Ok((sender, header.message_id, client))
    }

    /// What is said of a message that was read whole and could not be kept.
    pub fn not_kept(&mut self, id: QueueId, envelope: Envelope, reply: Reply) -> Reply {
        self.noted(id, &envelope.reverse_path, envelope.forward_paths, 0, reply)
    }

    /// The same as [`noted`](Self::noted), of the message that was begun with MAIL.
    fn noted_of_message(&mut self, recipients: Vec<String>, reply: Reply) -> Reply {
        let State::Envelope(mail, _) = &self.state else { return reply };
        let (reverse_path, size) = (mail.reverse_path.clone(), mail.size.unwrap_or_default());
        self.noted(QueueId::new(), &reverse_path, recipients, size, reply)
    }

    /// A refusal with an id at its end, under which it is told of, where it is about mail of an organization that is
    /// known for sure. A stranger can name any sender: such a line would be wrong, and as many could be made as one
    /// likes.
    fn noted(&mut self, id: QueueId, reverse_path: &str, recipients: Vec<String>, size: u64, reply: Reply) -> Reply {
        let whose = self.whose(reverse_path);
        let (Some(refusals), Some((organization, account))) = (&mut self.refusals, whose) else { return reply };
        refusals.push(Refused {
            organization,
            id,
            account,
            reverse_path: reverse_path.to_owned(),
            recipients,
            size,
            client: self.client,
            reply: reply.to_string(),
        });
        reply.known_as(&self.terms.links.of(ShortId::of(id)))
    }

    fn whose(&self, reverse_path: &str) -> Option<(OrganizationId, Option<AccountId>)> {
        let found = self.terms.table.find(reverse_path);
        match &self.signed_in {
            Some(signed_in) => {
                let organization = signed_in.organization;
                let found = found.filter(|found| found.organization == organization);
                Some((organization, found.and_then(|found| found.account)))
            }
            None if self.named && self.terms.trusts(self.client) || self.hands_back(reverse_path) => {
                found.map(|found| (found.organization, found.account))
            }
            None => None,
        }
    }

    fn refusal_of(&self, fault: Fault) -> Reply {
        match fault {
            Fault::BareCarriageReturn => replies::bare_carriage_return(),
            Fault::BareLineFeed => replies::bare_line_feed(),
            Fault::Nul => replies::nul(),
            Fault::TooLarge => replies::too_large(self.terms.max_message_size),
            Fault::NoRoom => replies::no_room(),
            Fault::NotKept => replies::not_kept(),
        }
    }

    /// Why nobody may send with this reverse-path.
    fn refuse_reverse_path(&self, reverse_path: &str) -> Option<Reply> {
        let table = &self.terms.table;
        match table.decide_again(reverse_path, &self.decided) {
            Decision::Route(route) if route.account.is_none() && table.refuses_unknown(reverse_path) => {
                Some(replies::unknown_sender(reverse_path))
            }
            decision => replies::refusal(&decision, reverse_path),
        }
    }

    /// The first candidate of a mail domain that is known here. There is no default: mail that
    /// cannot be told whose it is has no route.
    fn sender_of_null(&self, candidates: &[String]) -> Result<String, Reply> {
        if let Some(signed_in) = &self.signed_in {
            let credential = self.credential(signed_in).ok_or_else(replies::credential_revoked_since)?;
            return self.sender_of_null_of(&credential, candidates);
        }
        let is_trusted = self.named && self.terms.trusts(self.client);
        for candidate in candidates {
            // Who is known as a gateway alone hands back mail of its own organization.
            if !is_trusted && !self.hands_back(candidate) {
                continue;
            }
            match self.terms.table.decide(candidate) {
                Decision::UnknownDomain => {}
                decision => {
                    return match replies::refusal(&decision, candidate) {
                        Some(refusal) => Err(refusal),
                        None => Ok(candidate.clone()),
                    };
                }
            }
        }
        Err(replies::undecidable_sender())
    }

    /// The same for somebody who has signed in: another organization's addresses decide nothing, and if none of
    /// one's own does, the mail goes the organization's way.
    fn sender_of_null_of(&self, credential: &RelayCredential, candidates: &[String]) -> Result<String, Reply> {
        let table = &self.terms.table;
        let is_own = |candidate: &&String| {
            table.find(candidate).is_some_and(|found| found.organization == credential.organization)
        };
        let sender = match candidates.iter().find(is_own) {
            Some(candidate) => match self.refuse_sender_to(credential, candidate) {
                Some(refusal) => return Err(refusal),
                None => candidate.clone(),
            },
            None => {
                let nobody = table.nobody_of(credential.organization, &credential.limits);
                nobody.ok_or_else(replies::undecidable_sender)?.to_string()
            }
        };
        match replies::refusal(&table.decide(&sender), &sender) {
            Some(refusal) => Err(refusal),
            None => Ok(sender),
        }
    }
}

fn why(fault: Fault) -> RefusedFor {
    match fault {
        Fault::BareCarriageReturn | Fault::BareLineFeed | Fault::Nul => RefusedFor::Content,
        Fault::TooLarge => RefusedFor::Size,
        Fault::NoRoom | Fault::NotKept => RefusedFor::ForNow,
    }
}

/// What is said to RCPT of the return address.
fn bring_back(recipients: &mut Recipients, rcpt: RcptCommand, recipient: Recipient) -> Reply {
    match recipient {
        Recipient::NotKnownYet => replies::tests_not_known_yet(),
        Recipient::Test(id) if recipients.forward_paths.is_empty() => {
            recipients.test = Some(id);
            recipients.add(rcpt);
            replies::recipient_accepted()
        }
        Recipient::Test(_) => replies::test_message_alone(),
        Recipient::NoTest | Recipient::Somebody => replies::no_test_message(),
    }
}

/// What the Message-ID field says (RFC 5322 §3.6.4).
fn message_id(content: &[u8]) -> Option<String> {
    MessageParser::new().parse_headers(content)?.message_id().map(str::to_owned)
}

impl Receiving {
    /// True at the end of the message.
    fn read(&mut self, input: &mut &[u8], max_message_size: u64) -> bool {
        let ended = self.reader.read(input, |bytes| self.content.extend_from_slice(bytes));
        let size = self.spooled + self.content.len() as u64 - self.own_field as u64;
        if size > max_message_size {
            self.reader.refuse(Fault::TooLarge);
        }
        if self.reader.fault().is_some() {
            self.content.clear();
            self.own_field = 0;
        }
        if let Some(in_flight) = &mut self.in_flight {
            in_flight.set(self.spooled + self.content.len() as u64);
        }
        ended
    }

    fn take_in(&mut self, mut lent: Vec<u8>, before: usize) -> Vec<u8> {
        let passed = self.reader.pass(&lent[before..]);
        let rest = lent.split_off(before + passed);
        self.content.take_in(lent);
        rest
    }

    /// Whether it is large enough to count in its organization's share, and does not yet.
    fn is_uncounted(&self) -> bool {
        self.in_flight.is_none() && self.test.is_none() && self.spooled + self.content.len() as u64 > BUFFER as u64
    }

    fn piece_to_spool(&mut self, terms: &Terms) -> Option<Growing> {
        let supply = terms.memory.supply(self.in_flight.as_ref());
        // A test message is small, and looked at whole.
        let has_room = self.content.len() < in_memory(supply, self.is_large || self.spooled > 0);
        if has_room || self.test.is_some() {
            return None;
        }
        let of_organization = self.in_flight.as_ref().map_or(0, InFlight::of_organization);
        if of_organization > terms.spool_room.load(Ordering::Relaxed) {
            // One organization leaves as much room as it takes: its flood is its own trouble.
            self.reader.refuse(Fault::NoRoom);
            return None;
        }
        self.look_at_header(&terms.hostname);
        self.spooled += self.content.len() as u64;
        let next = Growing::new(&terms.memory, in_memory(supply, true));
        Some(std::mem::replace(&mut self.content, next))
    }

    fn take_header(&mut self, hostname: &str) -> HeaderFacts {
        self.look_at_header(hostname);
        self.header.take().unwrap_or(HeaderFacts { trace: Trace::default(), senders: Vec::new(), message_id: None })
    }

    fn look_at_header(&mut self, hostname: &str) {
        if self.header.is_some() {
            return;
        }
        let content = self.content.header();
        let as_sent = &content[self.own_field..];
        let senders = match self.envelope.reverse_path.is_empty() {
            true => null_sender::candidates(as_sent),
            false => Vec::new(),
        };
        let goes_to_many = self.envelope.forward_paths.len() >= PART;
        let message_id = if goes_to_many { message_id(as_sent) } else { None };
        self.header = Some(HeaderFacts { trace: Trace::of(as_sent, hostname), senders, message_id });
    }
}

/// How much of one message is kept in memory.
fn in_memory(supply: Supply, is_large: bool) -> usize {
    match (supply, is_large) {
        (Supply::Scarce, _) => IN_SCARCE_MEMORY,
        (Supply::Plenty, false) => WHOLE_IN_MEMORY,
        (Supply::Enough | Supply::Plenty, _) => IN_MEMORY,
    }
}
