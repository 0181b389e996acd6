//! Signing in to a gateway (RFC 4954): only on a connection whose certificate was verified, and with a password
//! that opens for exactly this gateway. Called by the dialer once TLS stands.

use base64::{Engine, prelude::BASE64_STANDARD};
use zeroize::{Zeroize, Zeroizing};

use super::{
    connection::Connection,
    reply_reader::SignInMethods,
    trouble::{Failure, Trouble},
};
use crate::{
    mail::Reply,
    policy::{
        facts::{Gateway, TlsMode},
        fault::Stage,
    },
    relay::secret_keys::SecretKeys,
    secret::Password,
};

/// RFC 5321 §4.5.3.1.4: with CRLF. What is longer goes after the server has asked for it.
const LONGEST_LINE: usize = 512;

/// The user and password of a gateway that is signed in to.
pub struct Credential<'a> {
    user: &'a str,
    password: Password,
}

impl<'a> Credential<'a> {
    /// Opened before anything is connected to: what cannot be opened is no reason to bother the server.
    pub fn of(gateway: Option<&'a Gateway>, keys: &SecretKeys) -> Result<Option<Self>, Failure> {
        let Some(gateway) = gateway else { return Ok(None) };
        let (Some(sign_in), Some(context)) = (&gateway.settings.sign_in, gateway.secret_context()) else {
            return Ok(None);
        };
        let password = keys.open(&sign_in.secret, &context).map_err(|error| trouble(Trouble::Secret(error)))?;
        Ok(Some(Self { user: &sign_in.user, password }))
    }

    /// Signs in. PLAIN (RFC 4616) where it is offered, else LOGIN. Returns what the server says to that.
    pub async fn sign_in(&self, connection: &mut Connection, tls: TlsMode) -> Result<Reply, Failure> {
        // Nobody else may ever be asked to take it: not in clear, and not by whoever answers.
        if tls != TlsMode::Verified || !connection.is_encrypted() {
            return Err(trouble(Trouble::TlsNotOffered));
        }
        let SignInMethods { plain, login } = connection.extensions.sign_in;
        let reply = match (plain, login) {
            (true, _) => self.plain(connection).await?,
            (false, true) => self.login(connection).await?,
            (false, false) => return Err(trouble(Trouble::SignInNotOffered)),
        };
        let reply = self.without_secrets(reply);
        if reply.code == 235 { Ok(reply) } else { Err(Failure::reply(Stage::SignIn, reply)) }
    }

    async fn plain(&self, connection: &mut Connection) -> Result<Reply, Failure> {
        let message = Zeroizing::new(format!("\0{}\0{}", self.user, self.password.reveal()));
        let message = Zeroizing::new(BASE64_STANDARD.encode(message.as_bytes()));
        if "AUTH PLAIN \r\n".len() + message.len() <= LONGEST_LINE {
            return say(connection, &["AUTH PLAIN ", &message]).await;
        }
        let ready = say(connection, &["AUTH PLAIN"]).await?;
        if ready.code == 334 { say(connection, &[&message]).await } else { Ok(ready) }
    }

    async fn login(&self, connection: &mut Connection) -> Result<Reply, Failure> {
        let mut reply = say(connection, &["AUTH LOGIN"]).await?;
        for part in [self.user, self.password.reveal()] {
            if reply.code != 334 {
                return Ok(reply);
            }
            reply = say(connection, &[&Zeroizing::new(BASE64_STANDARD.encode(part))]).await?;
        }
        Ok(reply)
    }

    /// What the server says goes into logs and pages: a server that repeats the password does not bring it there.
    fn without_secrets(&self, mut reply: Reply) -> Reply {
        let plain = Zeroizing::new(format!("\0{}\0{}", self.user, self.password.reveal()));
        let plain = Zeroizing::new(BASE64_STANDARD.encode(plain.as_bytes()));
        let password = Zeroizing::new(BASE64_STANDARD.encode(self.password.reveal()));
        let secrets = [self.password.reveal(), password.trim_end_matches('='), plain.trim_end_matches('=')];
        reply.lines.retain(|line| !secrets.iter().any(|secret| line.contains(secret)));
        reply
    }
}

/// Sends a line, and wipes what it was written with.
async fn say(connection: &mut Connection, parts: &[&str]) -> Result<Reply, Failure> {
    let length = parts.iter().map(|part| part.len()).sum::<usize>() + 2;
    let mut line = Vec::with_capacity(length);
    for part in parts {
        line.extend_from_slice(part.as_bytes());
    }
    line.extend_from_slice(b"\r\n");
    let kept = std::mem::replace(&mut connection.output, line);
    let limit = connection.limits.command;
    let sent = connection.flush(limit).await;
    std::mem::replace(&mut connection.output, kept).zeroize();
    sent.map_err(trouble)?;
    connection.reply(limit).await.map_err(trouble)
}

fn trouble(trouble: Trouble) -> Failure {
    Failure::trouble(Stage::SignIn, trouble)
}
