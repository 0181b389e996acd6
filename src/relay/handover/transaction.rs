//! One message on one connection: MAIL, RCPT and DATA in as few round trips as the server allows,
//! then the bytes, then the answer to the final dot.

use super::{
    connection::Connection,
    source::Source,
    transparency::Transparency,
    trouble::{Answer, Failure, Trouble},
};
use crate::{
    mail::{EnhancedStatus, Reply, envelope::MailParameters, notify::Wishes},
    policy::{fault::Stage, pace::Turn},
    relay::memory,
    store::queue::Sender,
};

/// Recipients in one write: their answers always fit into what the network buffers, so that neither
/// side waits for the other to read (RFC 2920 §3.1).
const GROUP: usize = 100;

/// Bytes of a message in one write: what it stands in, in memory, so that nothing is left over for a write of its own.
const BLOCK: usize = memory::BUFFER;

/// Headers that are searched for characters beyond ASCII.
const MAX_HEADER: usize = 1024 * 1024;

/// The part of an envelope that goes in one transaction.
#[derive(Debug, Clone, Copy)]
pub struct Request<'a> {
    pub reverse_path: &'a str,
    pub recipients: &'a [String],
    /// For each recipient, or empty.
    pub wishes: &'a [Wishes],
    pub parameters: &'a MailParameters,
    pub source: &'a Source,
    /// Where a server gets so many messages a minute: whether this one has waited for its turn.
    pub turn: Turn,
    /// How many relays share such turns.
    pub relays: u32,
    /// With whom others take turns; `None`: with nobody.
    pub sender: Option<Sender>,
}

impl Request<'_> {
    /// Nobody has tried the message before.
    pub fn is_first(&self) -> bool {
        matches!(self.turn, Turn::New)
    }
}

impl Connection {
    /// Asks for the recipients, and if any is accepted for the message. `Ok` holds the answer to each
    /// RCPT; if one of them is positive, the server waits for [`send`](Self::send).
    pub async fn envelope(&mut self, request: Request<'_>) -> Result<Vec<Reply>, Failure> {
        if let Some(most) = self.largest_message() {
            fits(request.source.size(), most).map_err(|reply| ours(Stage::Mail, reply))?;
        }
        let mail = self.mail_command(request).await?;
        self.output.clear();
        let pipelining = self.extensions.pipelining;
        let mut before_mail = self.reset(pipelining).await?;
        self.command(&[&mail]);
        self.in_transaction = true;
        if !pipelining {
            self.mail_answer(before_mail).await?;
        }
        let mut answers = Vec::with_capacity(request.recipients.len());
        let group = if pipelining { GROUP } else { 1 };
        let mut wishes = request.wishes.iter();
        let mut groups = request.recipients.chunks(group).peekable();
        let mut first = pipelining;
        while let Some(recipients) = groups.next() {
            for recipient in recipients {
                self.command(&["RCPT TO:<", recipient, ">"]);
                if let Some(wishes) = wishes.next() {
                    self.pass_on(wishes);
                }
                self.command(&["\r\n"]);
            }
            if pipelining && groups.peek().is_none() {
                self.command(&["DATA\r\n"]);
            }
            self.flush_at(Stage::Recipient).await?;
            if std::mem::take(&mut first) {
                self.mail_answer(std::mem::take(&mut before_mail)).await?;
            }
            for _ in recipients {
                answers.push(self.answer_at(Stage::Recipient).await?);
            }
        }
        self.go_ahead(&answers).await?;
        Ok(answers)
    }

    fn command(&mut self, parts: &[&str]) {
        for part in parts {
            self.output.extend_from_slice(part.as_bytes());
        }
    }

    /// RFC 3461 §5.2.1: whoever offers DSN gets what the sender wants to be told, and is responsible from then on.
    fn pass_on(&mut self, wishes: &Wishes) {
        if !self.extensions.dsn {
            return;
        }
        if let Some(notify) = wishes.notify {
            self.command(&[" NOTIFY=", &notify.to_string()]);
        }
        if let Some(original) = &wishes.original {
            let original = if self.extensions.smtputf8 { original.to_string() } else { original.in_ascii() };
            self.command(&[" ORCPT=", &original]);
        }
    }

    /// MAIL with what this server understands of what the message needs.
    async fn mail_command(&self, request: Request<'_>) -> Result<String, Failure> {
        let offered = self.extensions;
        let parameters = request.parameters;
        let ours = |detail, text: &str| ours(Stage::Mail, Reply::new(554, EnhancedStatus(5, 6, detail), text));
        let unreadable = |error| Failure::trouble(Stage::Mail, Trouble::Unreadable(error));
        if parameters.smtputf8 && !offered.smtputf8 && needs_smtputf8(request).await.map_err(unreadable)? {
            return Err(ours(7, "it does not take internationalized mail (SMTPUTF8), which this message is"));
        }
        if !offered.eight_bit_mime && request.source.has_eight_bit_bytes().await.map_err(unreadable)? {
            return Err(ours(3, "it does not take 8-bit content (8BITMIME), which this message has"));
        }
        let mut mail = ["MAIL FROM:<", request.reverse_path, ">"].concat();
        if offered.size.is_some() {
            mail.push_str(" SIZE=");
            mail.push_str(&request.source.size().to_string());
        }
        if offered.eight_bit_mime && parameters.eight_bit {
            mail.push_str(" BODY=8BITMIME");
        }
        if offered.smtputf8 && parameters.smtputf8 {
            mail.push_str(" SMTPUTF8");
        }
        if offered.dsn {
            if let Some(ret) = parameters.ret {
                mail.push_str(&format!(" RET={ret}"));
            }
            if let Some(envid) = &parameters.envid {
                mail.push_str(&format!(" ENVID={envid}"));
            }
        }
        mail.push_str("\r\n");
        Ok(mail)
    }

    /// Ends a transaction that came to nothing. Returns how many answers come before the one to MAIL.
    async fn reset(&mut self, pipelining: bool) -> Result<usize, Failure> {
        if !self.in_transaction {
            return Ok(0);
        }
        self.command(&["RSET\r\n"]);
        if pipelining {
            return Ok(1);
        }
        self.flush_at(Stage::Mail).await?;
        self.answer_at(Stage::Mail).await?;
        Ok(0)
    }

    async fn mail_answer(&mut self, before: usize) -> Result<(), Failure> {
        if !self.output.is_empty() {
            self.flush_at(Stage::Mail).await?;
        }
        for _ in 0..before {
            self.answer_at(Stage::Mail).await?;
        }
        let reply = self.answer_at(Stage::Mail).await?;
        if reply.is_positive() { Ok(()) } else { Err(Failure::reply(Stage::Mail, reply)) }
    }

    /// The answer to DATA: with an accepted recipient it must be to go ahead, without one it must not.
    async fn go_ahead(&mut self, answers: &[Reply]) -> Result<(), Failure> {
        let accepted = answers.iter().any(Reply::is_positive);
        if !self.extensions.pipelining {
            if !accepted {
                return Ok(());
            }
            self.command(&["DATA\r\n"]);
            self.flush_at(Stage::Data).await?;
        }
        let limit = self.limits.data;
        let reply = self.reply(limit).await.map_err(|trouble| Failure::trouble(Stage::Data, trouble))?;
        match (accepted, reply.is_intermediate()) {
            (true, true) | (false, false) => Ok(()),
            (true, false) => Err(Failure::reply(Stage::Data, reply)),
            // It wants a message for nobody. Only leaving is sure to send none.
            (false, true) => {
                self.close();
                Ok(())
            }
        }
    }

    /// Sends the message and the final dot.
    pub async fn send(&mut self, source: &Source) -> Result<(), Failure> {
        let mut transparency = Transparency::default();
        let mut reader = source.reader();
        self.output.clear();
        loop {
            let chunk = reader.next().await;
            let chunk = chunk.map_err(|error| Failure::trouble(Stage::Content, Trouble::Unreadable(error)))?;
            let Some(chunk) = chunk else { break };
            if source.has_no_dots() {
                transparency.pass(&chunk);
                self.flush_bytes(&chunk).await?;
                continue;
            }
            for block in chunk.chunks(BLOCK) {
                transparency.write(block, &mut self.output);
                if self.output.len() >= BLOCK {
                    self.flush_content().await?;
                }
            }
        }
        transparency.finish(&mut self.output);
        self.flush_content().await
    }

    async fn flush_content(&mut self) -> Result<(), Failure> {
        let flushed = self.flush(self.limits.block).await;
        self.content_flushed(flushed).await
    }

    async fn flush_bytes(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        let flushed = self.write(bytes, self.limits.block).await;
        self.content_flushed(flushed).await
    }

    async fn content_flushed(&mut self, flushed: Result<(), Trouble>) -> Result<(), Failure> {
        let Err(trouble) = flushed else { return Ok(()) };
        // Servers that have seen enough say why before they close.
        if matches!(trouble, Trouble::Broken(_) | Trouble::Closed)
            && let Ok(reply) = self.reply(std::time::Duration::from_secs(1)).await
            && (reply.is_permanent() || reply.is_transient())
        {
            return Err(Failure::reply(Stage::Content, reply));
        }
        Err(Failure::trouble(Stage::Content, trouble))
    }

    /// The answer to the final dot. May be dropped while it waits and called again.
    pub async fn answer(&mut self) -> Result<Reply, Failure> {
        let reply = self.reply(self.limits.dot).await;
        let reply = reply.map_err(|trouble| Failure::trouble(Stage::Dot, trouble))?;
        self.in_transaction = false;
        self.messages = self.messages.saturating_add(1);
        if reply.is_positive() { Ok(reply) } else { Err(Failure::reply(Stage::Dot, reply)) }
    }

    async fn flush_at(&mut self, stage: Stage) -> Result<(), Failure> {
        self.flush(self.limits.command).await.map_err(|trouble| Failure::trouble(stage, trouble))
    }

    async fn answer_at(&mut self, stage: Stage) -> Result<Reply, Failure> {
        let reply = self.reply(self.limits.command).await.map_err(|trouble| Failure::trouble(stage, trouble))?;
        // RFC 5321 §3.8: the server closes after it, whatever was asked.
        if reply.code == 421 { Err(Failure::reply(stage, reply)) } else { Ok(reply) }
    }
}

fn ours(stage: Stage, reply: Reply) -> Failure {
    Failure { stage, answer: Answer::Ours(reply) }
}

/// Whether a message is not larger than a server takes; else what its sender hears.
pub fn fits(size: u64, most: u64) -> Result<(), Reply> {
    if size <= most {
        return Ok(());
    }
    let amount = |bytes: u64| match bytes {
        1_000_000.. => format!("{:.2} MB", bytes as f64 / 1e6),
        1_000.. => format!("{:.2} kB", bytes as f64 / 1e3),
        _ => format!("{bytes} bytes"),
    };
    let (most, size) = (amount(most), amount(size));
    let text = format!("it takes messages of at most {most}, and this one has {size}; send less at a time, or a link");
    Err(Reply::new(552, EnhancedStatus(5, 3, 4), text))
}

/// RFC 6531 §3.5: an address or a header field has characters beyond ASCII.
async fn needs_smtputf8(request: Request<'_>) -> std::io::Result<bool> {
    if !request.reverse_path.is_ascii() || !request.recipients.iter().all(|recipient| recipient.is_ascii()) {
        return Ok(true);
    }
    Ok(!request.source.header(MAX_HEADER).await?.is_ascii())
}
