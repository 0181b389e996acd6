//! From a line that a client sent to a command, by smtp-proto's grammar and what it leaves open.
//! Part of the [session](super::session).

use std::str::FromStr;

use smtp_proto::{AUTH_LOGIN, AUTH_PLAIN, Error, Request};

use super::{replies, sign_in::Mechanism};
use crate::mail::{DomainName, Mailbox, Reply, envelope::MailParameters, notify::Wishes};

/// The longest command line in bytes, its end included. RFC 5321 §4.5.3.1.4 asks for 512, and each
/// extension adds what its parameters need.
const LONGEST_LINE: usize = 1024;
/// The same of AUTH and of what a client answers in it (RFC 4954 §4).
const LONGEST_SIGN_IN: usize = 12 * 1024;
/// How much of a line without an end is read before the client is given up.
const LONGEST_GARBAGE: usize = 64 * 1024;

/// A command that the session can act upon.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Command {
    Ehlo(String),
    Helo(String),
    StartTls,
    Auth(Mechanism, Option<String>),
    Mail(MailCommand),
    Rcpt(RcptCommand),
    Data,
    Rset,
    Noop,
    Vrfy,
    Help,
    Quit,
}

/// RFC 5321 §4.1.1.2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MailCommand {
    /// Without angle brackets and source route; empty for the null reverse-path.
    pub reverse_path: String,
    /// SIZE (RFC 1870), in bytes.
    pub size: Option<u64>,
    pub parameters: MailParameters,
}

/// RFC 5321 §4.1.1.3.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RcptCommand {
    /// Without angle brackets and source route.
    pub forward_path: String,
    /// NOTIFY and ORCPT (RFC 3461).
    pub wishes: Wishes,
}

impl RcptCommand {
    /// Whether it needs nothing beyond ASCII.
    pub fn is_ascii(&self) -> bool {
        self.forward_path.is_ascii()
            && self.wishes.original.as_ref().is_none_or(|original| original.to_string().is_ascii())
    }
}

/// What is said to a line that is no command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mistake {
    /// The client may go on.
    Said(Reply),
    /// What follows cannot be trusted to be commands.
    Closing(Reply),
}

impl From<Reply> for Mistake {
    fn from(reply: Reply) -> Self {
        Self::Said(reply)
    }
}

/// Collects the bytes of one command line.
#[derive(Debug, Default)]
pub struct LineReader {
    line: Vec<u8>,
    /// How much of a line that is too long was dropped.
    dropped: usize,
}

impl LineReader {
    /// Nothing of a line has come yet.
    pub fn is_empty(&self) -> bool {
        self.line.is_empty() && self.dropped == 0
    }

    /// Takes bytes up to the end of a line. `None`: there is none yet.
    pub fn read(&mut self, input: &mut &[u8]) -> Option<Result<Command, Mistake>> {
        if let Err(mistake) = self.line(input, LONGEST_LINE)? {
            return Some(Err(mistake));
        }
        let parsed = parse(&self.line);
        self.line.clear();
        Some(parsed)
    }

    /// The same for what a client answers while it signs in: a line that is no command.
    pub fn read_answer(&mut self, input: &mut &[u8]) -> Option<Result<String, Mistake>> {
        if let Err(mistake) = self.line(input, LONGEST_SIGN_IN)? {
            return Some(Err(mistake));
        }
        let answer = text(&self.line).map(str::to_owned);
        self.line.clear();
        Some(answer)
    }

    /// Collects a whole line, its end included.
    fn line(&mut self, input: &mut &[u8], longest: usize) -> Option<Result<(), Mistake>> {
        let end = memchr::memchr(b'\n', input).map(|at| at + 1);
        let (piece, rest) = input.split_at(end.unwrap_or(input.len()));
        *input = rest;
        let begins = |line: &[u8]| line.get(..5).is_some_and(|word| word.eq_ignore_ascii_case(b"AUTH "));
        let longest =
            if begins(if self.line.len() < 5 { piece } else { &self.line }) { LONGEST_SIGN_IN } else { longest };
        if self.dropped > 0 || self.line.len() + piece.len() > longest {
            self.dropped += self.line.len() + piece.len();
            self.line.clear();
        } else {
            self.line.extend_from_slice(piece);
        }
        if self.dropped > LONGEST_GARBAGE {
            return Some(Err(Mistake::Closing(replies::line_too_long())));
        }
        end?;
        if std::mem::take(&mut self.dropped) > 0 {
            return Some(Err(replies::line_too_long().into()));
        }
        Some(Ok(()))
    }
}

/// `line` ends with LF.
fn text(line: &[u8]) -> Result<&str, Mistake> {
    // Whoever sends bare CR or LF may be the half of a pair that was led to send another's
    // bytes as commands: nothing that follows is taken for a command.
    let text = line.strip_suffix(b"\r\n").ok_or_else(|| Mistake::Closing(replies::bare_line_end()))?;
    if text.contains(&b'\r') {
        return Err(Mistake::Closing(replies::bare_line_end()));
    }
    let text = std::str::from_utf8(text).map_err(|_| replies::not_text())?;
    if text.chars().any(char::is_control) {
        return Err(replies::not_text().into());
    }
    Ok(text)
}

fn parse(line: &[u8]) -> Result<Command, Mistake> {
    let text = text(line)?;
    let known = without_orcpt(text);
    let with_name = literal_as_name(known.unwrap_or(text));
    let known = with_name.or_else(|| known.map(|known| format!("{known}\r\n")));
    let checked = known.as_ref().map_or(line, String::as_bytes);
    let request = Request::parse(&mut checked.iter()).map_err(|error| mistake(&error))?;
    match request {
        Request::Ehlo { host } => Ok(Command::Ehlo(host.into_owned())),
        Request::Helo { host } => Ok(Command::Helo(host.into_owned())),
        Request::Mail { .. } => Ok(Command::Mail(mail(text)?)),
        Request::Rcpt { .. } => Ok(Command::Rcpt(rcpt(text)?)),
        Request::Data => alone(text, Command::Data),
        Request::Rset => alone(text, Command::Rset),
        Request::Quit => alone(text, Command::Quit),
        Request::Noop { .. } => Ok(Command::Noop),
        Request::Vrfy { .. } => Ok(Command::Vrfy),
        Request::Help { .. } => Ok(Command::Help),
        // What follows these in the same breath is not commands.
        Request::StartTls if text.trim_ascii_end().len() == 8 => Ok(Command::StartTls),
        Request::StartTls => Err(replies::takes_no_argument().into()),
        Request::Auth { mechanism, .. } => Ok(auth(text, mechanism)),
        Request::Bdat { .. } | Request::Burl { .. } => Err(Mistake::Closing(replies::not_offered(request.name()))),
        Request::Lhlo { .. } | Request::Expn { .. } | Request::Etrn { .. } | Request::Atrn { .. } => {
            Err(replies::not_offered(request.name()).into())
        }
    }
}

/// smtp-proto knows of ORCPT one type of address only: it is shown the command without its parameters, which are
/// looked at below.
fn without_orcpt(text: &str) -> Option<&str> {
    let is_rcpt = text.get(..4).is_some_and(|verb| verb.eq_ignore_ascii_case("RCPT"));
    let (_, parameters) = path(text).filter(|_| is_rcpt)?;
    let has_one = parameters.split(' ').any(|one| one.get(..6).is_some_and(|name| name.eq_ignore_ascii_case("ORCPT=")));
    has_one.then(|| &text[..text.len() - parameters.len()])
}

/// smtp-proto knows no address literals: a well-formed one is shown to it as a name.
fn literal_as_name(text: &str) -> Option<String> {
    // ORCPT may have one, too.
    let path = &text[..text.find("]>")?];
    let start = path.rfind("@[")? + 1;
    let end = start + text[start..].find(']')? + 1;
    is_address_literal(&text[start..end]).then(|| format!("{}literal.invalid{}\r\n", &text[..start], &text[end..]))
}

fn mistake(error: &Error) -> Mistake {
    Mistake::Said(match error {
        Error::InvalidSenderAddress => replies::malformed_sender(),
        Error::InvalidRecipientAddress => replies::malformed_recipient(),
        Error::SyntaxError { syntax } => replies::syntax(syntax),
        Error::InvalidParameter { param } => replies::parameter_value(param),
        Error::UnsupportedParameter { param } => replies::parameter_not_offered(param),
        Error::UnknownCommand
        | Error::NeedsMoreData { .. }
        | Error::ResponseTooLong
        | Error::InvalidResponse { .. } => replies::unknown_command(),
    })
}

/// RFC 4954 §4: `=` stands for an initial response that is empty.
fn auth(text: &str, mechanism: u64) -> Command {
    let mechanism = match mechanism {
        AUTH_PLAIN => Mechanism::Plain,
        AUTH_LOGIN => Mechanism::Login,
        _ => Mechanism::Other,
    };
    let initial = text.split_ascii_whitespace().nth(2).map(|initial| if initial == "=" { "" } else { initial });
    Command::Auth(mechanism, initial.map(str::to_owned))
}

fn alone(text: &str, command: Command) -> Result<Command, Mistake> {
    if text.trim_ascii().len() == 4 { Ok(command) } else { Err(replies::takes_no_argument().into()) }
}

fn mail(text: &str) -> Result<MailCommand, Reply> {
    let (reverse_path, parameters) = path(text).ok_or_else(replies::malformed_sender)?;
    let mut command =
        MailCommand { reverse_path: reverse_path.to_owned(), size: None, parameters: MailParameters::default() };
    for parameter in parameters.split_ascii_whitespace() {
        let (keyword, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match (keyword.to_ascii_uppercase().as_str(), value.to_ascii_uppercase().as_str()) {
            ("SIZE", size) => {
                command.size = Some(size.parse().map_err(|_| replies::parameter_value("SIZE"))?);
            }
            ("BODY", "8BITMIME") => command.parameters.eight_bit = true,
            ("BODY", "7BIT") => {}
            ("BODY", _) => return Err(replies::parameter_value("BODY")),
            ("SMTPUTF8", "") => command.parameters.smtputf8 = true,
            ("RET", _) => once(&mut command.parameters.ret, "RET", value)?,
            ("ENVID", _) => once(&mut command.parameters.envid, "ENVID", value)?,
            // RFC 4954 §5: who the message is from is for us to find out.
            ("AUTH", _) => {}
            (keyword, _) => return Err(replies::parameter_not_offered(keyword)),
        }
    }
    if !command.parameters.smtputf8 && !reverse_path.is_ascii() {
        return Err(replies::needs_smtputf8());
    }
    // Whoever types an address may leave blanks around it, a client may not.
    let is_mailbox = reverse_path.parse::<Mailbox>().is_ok() && reverse_path.trim() == reverse_path;
    if !reverse_path.is_empty() && !is_mailbox {
        return Err(replies::malformed_sender());
    }
    Ok(command)
}

/// A parameter of RFC 3461, which may be given once.
fn once<T: FromStr>(known: &mut Option<T>, keyword: &str, value: &str) -> Result<(), Reply> {
    let mistake = || replies::parameter_value(keyword);
    let value = value.parse().map_err(|_| mistake())?;
    if known.replace(value).is_some() { Err(mistake()) } else { Ok(()) }
}

fn rcpt(text: &str) -> Result<RcptCommand, Reply> {
    let (forward_path, parameters) = path(text).ok_or_else(replies::malformed_recipient)?;
    let mut wishes = Wishes::default();
    for parameter in parameters.split_ascii_whitespace() {
        let (keyword, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        match keyword.to_ascii_uppercase().as_str() {
            "NOTIFY" => once(&mut wishes.notify, "NOTIFY", value)?,
            "ORCPT" => once(&mut wishes.original, "ORCPT", value)?,
            keyword => return Err(replies::parameter_not_offered(keyword)),
        }
    }
    if forward_path.eq_ignore_ascii_case("postmaster") {
        return Err(replies::no_mailboxes_here());
    }
    let (_, domain) = forward_path.rsplit_once('@').ok_or_else(replies::malformed_recipient)?;
    if domain.parse::<DomainName>().is_err() && !is_address_literal(domain) {
        return Err(replies::malformed_recipient());
    }
    Ok(RcptCommand { forward_path: forward_path.to_owned(), wishes })
}

/// RFC 5321 §4.1.3: `[192.0.2.7]`, `[IPv6:2001:db8::7]`.
fn is_address_literal(domain: &str) -> bool {
    let Some(literal) = domain.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')) else { return false };
    match literal.get(..5) {
        Some(tag) if tag.eq_ignore_ascii_case("ipv6:") => literal[5..].parse::<std::net::Ipv6Addr>().is_ok(),
        _ => literal.parse::<std::net::Ipv4Addr>().is_ok(),
    }
}

/// What stands between the angle brackets, and what comes after them. smtp-proto gives the path
/// with its quotation marks removed, but it has to reach the next server as it came.
fn path(text: &str) -> Option<(&str, &str)> {
    let (_, rest) = text.split_once('<')?;
    let mut quoted = false;
    let mut escaped = false;
    let end = rest.bytes().position(|byte| {
        let ends = byte == b'>' && !quoted;
        if byte == b'"' && !escaped {
            quoted = !quoted;
        }
        escaped = quoted && byte == b'\\' && !escaped;
        ends
    })?;
    let (path, after) = (&rest[..end], &rest[end + 1..]);
    if !after.is_empty() && !after.starts_with(' ') {
        return None;
    }
    // RFC 5321 §4.1.2: a source route is accepted and ignored.
    let path = match path.strip_prefix('@') {
        Some(route) => route.split_once(':')?.1,
        None => path,
    };
    // smtp-proto skips blanks inside a path; the next server may not.
    (path.starts_with('"') || !path.contains(' ')).then_some((path, after))
}
