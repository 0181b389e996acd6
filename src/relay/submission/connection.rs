//! Moves bytes between a client's connection and its [session](super::session), keeps the time
//! limits, and spools large messages.

use std::{fs::File, future::Future, io, path::PathBuf, sync::Arc, time::Duration};

use bytes::BufMut;
use time::OffsetDateTime;
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    time::{Instant, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Place, Takers,
    desk::{Desks, Seat},
    session::{Action, Session, Submitted},
    tls::ServerTls,
};
use crate::{
    mail::{
        Reply,
        short_id::{MessageLinks, ShortId},
    },
    relay::{
        alarm::Alarm,
        memory::{Growing, InFlight},
        message::{Content, Message},
        settings::SubmissionLimits,
        submission::replies,
        test_message::Returned,
    },
};

/// Read at a time, in bytes: at first, so that a client which only holds its connection costs little, and once that has
/// been filled.
const FIRST_BUFFER: usize = 8 * 1024;
const BUFFER: usize = 32 * 1024;
/// How long the last words may take to reach a client that we close on.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// What every connection of a relay needs.
pub(super) struct Surroundings {
    pub takers: Takers,
    /// How messages are named in refusals.
    pub links: MessageLinks,
    pub limits: SubmissionLimits,
    pub spool_dir: PathBuf,
    /// Without it connections stay in the clear.
    pub tls: Option<Arc<ServerTls>>,
    pub desks: Arc<Desks>,
    /// The relay stops: what is in flight may finish.
    pub stop: CancellationToken,
    /// It has waited long enough.
    pub give_up: CancellationToken,
}

/// Serves one client until either side closes, the first part of it in the clear.
pub(super) async fn serve<S>(stream: S, session: Session, place: Place, surroundings: Arc<Surroundings>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let mut connection = Connection::new(stream, session, place, surroundings);
    // A client that vanishes is its own affair: nothing was promised to it.
    match connection.run().await {
        Ok(After::Close) => connection.end().await,
        Ok(After::StartTls) => {
            let Connection { stream, session, place, surroundings, .. } = connection;
            serve_encrypted(stream, session, place, surroundings).await;
        }
        Err(_) => {}
    }
}

/// The same beginning with TLS. Bytes that came in the clear behind STARTTLS are no handshake, and end it.
pub(super) async fn serve_encrypted<S>(stream: S, mut session: Session, place: Place, surroundings: Arc<Surroundings>)
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    let Some(tls) = surroundings.tls.clone() else { return };
    let handshake = timeout(surroundings.limits.handshake, tls.acceptor().accept(stream));
    let Some(Ok(Ok(stream))) = surroundings.stop.clone().run_until_cancelled(handshake).await else { return };
    // Who begins with TLS was not greeted yet; after STARTTLS nobody is (RFC 3207 §4.2).
    session.encrypted();
    let mut connection = Connection::new(stream, session, place, surroundings);
    if connection.run().await.is_ok() {
        connection.end().await;
    }
}

/// Why a connection stops being served as it was.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum After {
    Close,
    StartTls,
}

struct Connection<S> {
    stream: S,
    session: Session,
    place: Place,
    /// Where it waits for its turn.
    seat: Seat,
    surroundings: Arc<Surroundings>,
    /// What has been spooled of the message that is being read.
    spool: Option<Spool>,
    transaction: Option<Transaction>,
    /// For what the client is waited for.
    alarm: Alarm,
    /// How many lines the client has sent, and when the last of them came.
    lines: (u64, Instant),
    /// Until when it has to be known whose connection it is; `None`: it is.
    introduction: Option<Instant>,
}

/// A message that was begun with MAIL.
#[derive(Debug, Clone, Copy)]
struct Transaction {
    began: Instant,
    /// Since when its content is read, and how many bytes have come since then.
    content: Option<(Instant, u64)>,
}

struct Spool {
    file: Arc<File>,
    size: u64,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Connection<S> {
    fn new(stream: S, session: Session, place: Place, surroundings: Arc<Surroundings>) -> Self {
        let now = Instant::now();
        let lines = (session.lines(), now);
        let introduction = place.is_strangers().then(|| now + surroundings.limits.introduction);
        let seat = Seat::new(&surroundings.desks);
        let (spool, transaction, alarm) = (None, None, Alarm::default());
        Self { stream, session, place, seat, surroundings, spool, transaction, alarm, lines, introduction }
    }

    async fn run(&mut self) -> io::Result<After> {
        let mut buffer = vec![0; FIRST_BUFFER];
        if let Some(after) = self.obey(&[]).await? {
            return Ok(after);
        }
        loop {
            let after = match self.session.lend() {
                Some(mut lent) => {
                    let before = lent.len();
                    let input = self.read(&mut lent).await?;
                    let rest = self.session.take_in(lent, before);
                    self.act_on(input, &rest).await?
                }
                None => {
                    let input = self.read(&mut &mut buffer[..]).await?;
                    let read = if let Input::Bytes(read) = input { read } else { 0 };
                    let after = self.act_on(input, &buffer[..read]).await?;
                    if read == FIRST_BUFFER {
                        buffer.resize(BUFFER, 0);
                    }
                    after
                }
            };
            if let Some(after) = after {
                return Ok(after);
            }
        }
    }

    /// Does what the input asks for. `bytes` are those of it that the session has not had yet.
    async fn act_on(&mut self, input: Input, bytes: &[u8]) -> io::Result<Option<After>> {
        match input {
            Input::Bytes(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Input::Bytes(_) => self.seat.turn().await,
            Input::Stopping => self.session.stop(),
            Input::TooSlow => self.session.time_out(),
        }
        let after = self.obey(bytes).await?;
        // Between two messages it stays where it was.
        if let Some(organization) = self.session.organization() {
            self.seat.move_to(organization);
        }
        Ok(after)
    }

    async fn read(&mut self, buffer: &mut impl BufMut) -> io::Result<Input> {
        let deadline = self.deadline(Instant::now());
        let stopping = match self.session.has_message_in_flight() {
            true => &self.surroundings.give_up,
            false => &self.surroundings.stop,
        };
        tokio::select! {
            biased;
            () = stopping.cancelled() => Ok(Input::Stopping),
            read = self.alarm.until(deadline, self.stream.read_buf(buffer)) => {
                let Some(read) = read else { return Ok(Input::TooSlow) };
                let read = read?;
                if let Some(Transaction { content: Some((_, received)), .. }) = &mut self.transaction {
                    *received += read as u64;
                }
                Ok(Input::Bytes(read))
            }
        }
    }

    /// When the client has been too slow: with the next bytes, with a whole command, with the message, or on the
    /// whole, so that a byte now and then holds nothing for long.
    fn deadline(&mut self, now: Instant) -> Instant {
        let limits = &self.surroundings.limits;
        self.transaction = match (self.session.in_transaction(), self.transaction) {
            (false, _) => None,
            (true, None) => Some(Transaction { began: now, content: None }),
            (true, begun) => begun,
        };
        let in_content = self.session.has_message_in_flight();
        if self.session.lines() != self.lines.0 || in_content {
            self.lines = (self.session.lines(), now);
        }
        if self.transaction.is_some() || !self.place.is_strangers() {
            self.introduction = None;
        }
        let next = self.lines.1 + limits.idle;
        let next = self.introduction.map_or(next, |until| next.min(until));
        let Some(transaction) = &mut self.transaction else { return next };
        let whole = next.min(transaction.began + limits.transaction);
        if !in_content {
            return whole;
        }
        let (since, received) = *transaction.content.get_or_insert((now, 0));
        whole.min(since + limits.idle + Duration::from_secs(received / limits.bytes_per_second.max(1)))
    }

    /// Gives input to the session and does what it asks for, until it is to be served otherwise.
    async fn obey(&mut self, mut input: &[u8]) -> io::Result<Option<After>> {
        loop {
            let action = self.session.on(&mut input, OffsetDateTime::now_utc());
            if !self.session.has_message_in_flight() {
                self.spool = None;
            }
            match action {
                // Replies to a group of commands leave together (RFC 2920 §3.2).
                Action::Read => {
                    if self.session.is_signed_in() {
                        self.place.leave_to_others();
                    }
                    return self.flush().await.map(|()| None);
                }
                Action::Close => return self.flush().await.map(|()| Some(After::Close)),
                Action::StartTls => return self.flush().await.map(|()| Some(After::StartTls)),
                Action::Spool(piece) => {
                    if let Err(error) = self.spool(piece).await {
                        tracing::error!(%error, "cannot spool a message");
                        // What is written again on the same file after an error may be lost all the same.
                        self.spool = None;
                        self.session.spool_failed(is_full(&error));
                    }
                }
                Action::Accept(submitted) => {
                    self.flush().await?;
                    let reply = self.accept(*submitted).await;
                    self.session.answer(&reply);
                }
                Action::TakeBack(returned) => {
                    self.flush().await?;
                    let reply = self.take_back(*returned).await;
                    self.session.answer(&reply);
                }
            }
        }
    }

    async fn accept(&mut self, submitted: Submitted) -> Reply {
        let Submitted { id, rest, has_dots, in_flight, .. } = submitted;
        let content = match self.content(rest, has_dots, in_flight).await {
            Ok(content) => content,
            Err(error) => {
                tracing::error!(%error, "cannot spool a message");
                let reply = if is_full(&error) { replies::no_room() } else { replies::not_kept() };
                return self.session.not_kept(submitted.id, submitted.envelope, reply);
            }
        };
        let accepting = (self.surroundings.takers.accept)(Message {
            id,
            envelope: submitted.envelope,
            sender: submitted.sender,
            decided: submitted.decided,
            message_id: submitted.message_id,
            content,
            accepted_at: OffsetDateTime::now_utc(),
            client: submitted.client,
        });
        let accepting = async {
            let reply = accepting.await;
            if reply.is_positive() { reply } else { reply.known_as(&self.surroundings.links.of(ShortId::of(id))) }
        };
        or_given_up(accepting, &self.surroundings.give_up).await
    }

    async fn take_back(&self, returned: Returned) -> Reply {
        match &self.surroundings.takers.returns {
            Some(returns) => or_given_up((returns.take)(returned), &self.surroundings.give_up).await,
            None => replies::no_test_message(),
        }
    }

    async fn content(&mut self, rest: Growing, has_dots: bool, in_flight: Option<InFlight>) -> io::Result<Content> {
        if self.spool.is_none() {
            return Ok(rest.into_content(has_dots, in_flight));
        }
        self.spool(rest).await?;
        match self.spool.take() {
            Some(Spool { file, size }) => Ok(Content::Spooled { file, size, in_flight: in_flight.map(Arc::new) }),
            None => Err(io::ErrorKind::NotFound.into()),
        }
    }

    /// Writes behind what was spooled so far. The file has no name: it is gone with its last reader.
    async fn spool(&mut self, piece: Growing) -> io::Result<()> {
        let size = piece.len() as u64;
        let spool_dir = self.surroundings.spool_dir.clone();
        let file = self.spool.as_ref().map(|spool| spool.file.clone());
        let written = tokio::task::spawn_blocking(move || -> io::Result<Arc<File>> {
            let file = match file {
                Some(file) => file,
                None => Arc::new(tempfile::tempfile_in(spool_dir)?),
            };
            piece.parts().try_for_each(|part| io::Write::write_all(&mut &*file, part))?;
            Ok(file)
        });
        let file = written.await.map_err(io::Error::other)??;
        let before = self.spool.as_ref().map_or(0, |spool| spool.size);
        self.spool = Some(Spool { file, size: before + size });
        Ok(())
    }

    async fn flush(&mut self) -> io::Result<()> {
        if let Some(tell) = &self.surroundings.takers.refused {
            self.session.take_refusals().into_iter().for_each(|refused| tell(refused));
        }
        if self.session.output().is_empty() {
            return Ok(());
        }
        // A client that does not read its replies is as slow as one that does not write.
        let sent = timeout(self.surroundings.limits.idle, async {
            self.stream.write_all(self.session.output()).await?;
            self.stream.flush().await
        });
        sent.await??;
        self.session.sent();
        Ok(())
    }

    /// Closes so that the last reply arrives: were there unread input, closing at once would throw
    /// the reply away on its way.
    async fn end(&mut self) {
        let _ = timeout(LAST_WORDS, async {
            self.stream.shutdown().await?;
            let mut unread = [0; 1024];
            while self.stream.read(&mut unread).await? > 0 {}
            io::Result::Ok(())
        })
        .await;
    }
}

/// Whether there may be room later; everything else is a fault of the disk.
fn is_full(error: &io::Error) -> bool {
    use io::ErrorKind::{NotFound, PermissionDenied, QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), StorageFull | QuotaExceeded | NotFound | PermissionDenied | ReadOnlyFilesystem)
}

#[derive(Debug, Clone, Copy)]
enum Input {
    Bytes(usize),
    Stopping,
    TooSlow,
}

/// What becomes of a message, or that it took too long when the relay stops. The client then tries
/// again; if the message was passed on after all, that is the duplicate that a loss would be worse than.
async fn or_given_up(accepting: impl Future<Output = Reply>, give_up: &CancellationToken) -> Reply {
    tokio::select! {
        biased;
        reply = accepting => reply,
        () = give_up.cancelled() => replies::given_up(),
    }
}
