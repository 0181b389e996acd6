//! Test messages: a verification sends one through a gateway, and it comes back to this installation or arrives at
//! somebody's mailbox. What `submission` lets in by its recipient alone is taken in here.

mod arrivals;
mod pasted;
pub mod seal;
pub mod spf;

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use bytes::Bytes;
use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    mail::{
        GatewayAddress, ReturnAddress,
        envelope::domain_of,
        id::TestMessageId,
        return_address::{Token, TokenKey},
        test_message::TestMessage,
    },
    policy::verification::Destination,
    store::{self, verification::Taken},
};

pub use arrivals::{Arrivals, Returned};
pub use pasted::Pasted;

/// The largest that comes back, in bytes: servers on the way add fields and footers, and nothing else.
pub const LARGEST: u64 = 256 * 1024;
/// How long the store may take.
const PATIENCE: Duration = Duration::from_secs(5);
/// How long the DNS may take for all domains of an organization.
const LOOKING: Duration = Duration::from_secs(120);
/// Between two tries to read the key.
const EVERY: Duration = Duration::from_secs(5);

/// The return address, and the key of its tokens once the store has said it.
#[derive(Debug)]
pub struct ReturnTokens {
    address: ReturnAddress,
    key: OnceLock<TokenKey>,
}

/// Whom a forward-path is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Recipient {
    /// Somebody, as any other.
    Somebody,
    Test(TestMessageId),
    /// Nobody: it is the return address without a token of ours.
    NoTest,
    /// The key is not there yet.
    NotKnownYet,
}

impl ReturnTokens {
    pub fn of(address: ReturnAddress) -> Self {
        Self { address, key: OnceLock::new() }
    }

    /// The same with a key that is known.
    pub fn with_key(address: ReturnAddress, key: TokenKey) -> Self {
        Self { address, key: OnceLock::from(key) }
    }

    /// Reads the key, as often as it takes until `stop`.
    pub async fn load(&self, db: &PgPool, stop: CancellationToken) {
        let reading = async {
            loop {
                match timeout(PATIENCE, store::test_message::token_key_across_tenants(db)).await {
                    Ok(Ok(key)) => return self.key.set(key),
                    Ok(Err(_)) | Err(_) => sleep(EVERY).await,
                }
            }
        };
        stop.run_until_cancelled(reading).await;
    }

    /// Whom a forward-path is for.
    pub fn recipient(&self, forward_path: &str) -> Recipient {
        // Nearly all mail is for another domain.
        let is_ours = |domain: &str| domain.eq_ignore_ascii_case(self.address.domain().as_str());
        if !domain_of(forward_path).is_some_and(is_ours) {
            return Recipient::Somebody;
        }
        let Some(key) = self.key.get() else { return Recipient::NotKnownYet };
        match self.address.token(forward_path, key) {
            None => Recipient::Somebody,
            Some(Token::Unknown) => Recipient::NoTest,
            Some(Token::Genuine(id)) => Recipient::Test(id),
        }
    }

    fn address_of(&self, id: TestMessageId) -> Option<String> {
        Some(self.address.of(id, self.key.get()?))
    }
}

/// A test message that is noted and ready to be sent.
#[derive(Debug, Clone)]
pub struct Prepared {
    pub id: TestMessageId,
    pub recipient: String,
    pub content: Bytes,
}

/// Who sends it.
#[derive(Debug, Clone, Copy)]
pub struct From<'a> {
    pub hostname: &'a str,
    pub relay: &'a str,
    pub returns: Option<&'a Arc<ReturnTokens>>,
}

/// Writes the message that is asked for and notes it. The error says what to do.
pub async fn prepare(db: &PgPool, taken: &Taken, destination: Destination, from: From<'_>) -> Result<Prepared, String> {
    let (id, now) = (TestMessageId::new(), OffsetDateTime::now_utc());
    let recipient = match (destination, &taken.recipient) {
        (Destination::Recipient, Some(recipient)) => recipient.clone(),
        _ => match from.returns.map(|returns| returns.address_of(id)) {
            Some(Some(address)) => address,
            Some(None) => return Err("This relay has just started: try again in a moment.".to_owned()),
            None => {
                return Err("This relay has no address that mail comes back to: the operator sets \
                            OUTGATE_RETURN_ADDRESS at every relay."
                    .to_owned());
            }
        },
    };
    let link = taken.link.as_ref().map(|link| format!("{link}{id}"));
    let message = written(taken, id, &recipient, link.as_deref(), from.hostname, &taken.address, now);
    // A mailbox's server would find no such key in the DNS, and hold the signature against the message.
    let (content, public_key) = match destination {
        Destination::Recipient => (message, None),
        Destination::Return => match domain_of(&taken.sender).and_then(|domain| seal::sign(&message, domain)) {
            Some((signed, key)) => (signed, Some(key)),
            None => (message, None),
        },
    };
    let noting = store::test_message::note_across_tenants(db, taken, id, from.relay, &recipient, public_key.as_deref());
    match timeout(PATIENCE, noting).await {
        Ok(Ok(())) => Ok(Prepared { id, recipient, content: content.into() }),
        Ok(Err(error)) => {
            tracing::warn!(%error, "a test message could not be noted");
            Err("The message could not be noted, so it was not sent: try again.".to_owned())
        }
        Err(_) => Err("The store takes too long to note the message, so it was not sent: try again.".to_owned()),
    }
}

fn written(
    taken: &Taken,
    id: TestMessageId,
    recipient: &str,
    link: Option<&str>,
    hostname: &str,
    gateway: &GatewayAddress,
    now: OffsetDateTime,
) -> Vec<u8> {
    let (sender, by, organization) = (&taken.sender, &taken.by, &taken.name);
    TestMessage { id, hostname, sender, recipient, organization, gateway, by, link, now }.to_bytes()
}

/// The gateway has taken it.
pub async fn taken(db: &PgPool, asked: &Taken, message: &Prepared) {
    let noting = store::test_message::taken_across_tenants(db, asked.organization, message.id);
    if !matches!(timeout(PATIENCE, noting).await, Ok(Ok(()))) {
        tracing::warn!("that a gateway has taken a test message could not be noted");
    }
}
