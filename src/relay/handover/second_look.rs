//! Whether a gateway that refuses a message's recipients still takes our mail at all: asked on the same connection, with
//! the sender and the recipient of a verification. Between the answers to RCPT and whose fault they are.

use sqlx::PgPool;

use super::connection::Connection;
use crate::{
    mail::{Reply, id::OrganizationId},
    store,
};

/// What a gateway is asked for the second time.
#[derive(Debug, Clone)]
pub struct SecondLook {
    /// Where an organization's probe sender stands.
    pub pool: PgPool,
    /// As of a verification that names none.
    pub recipient: String,
}

impl SecondLook {
    /// Whether the gateway takes mail of this organization for somebody else, though it has refused a recipient.
    /// `None` if that cannot be told: the store is away, or the gateway says something that is neither yes nor no.
    pub async fn takes_others(&self, connection: &mut Connection, organization: OrganizationId) -> Option<bool> {
        let sender = store::organization::probe_sender_across_tenants(&self.pool, organization).await.ok()??;
        let (mail, rcpt) = (format!("MAIL FROM:<{sender}>"), format!("RCPT TO:<{}>", self.recipient));
        // What was asked before is over, and so is this, whatever comes of it: nothing is sent.
        connection.ask("RSET").await.ok()?;
        let mut answer = connection.ask(&mail).await.ok()?;
        if answer.is_positive() {
            answer = connection.ask(&rcpt).await.ok()?;
        }
        connection.ask("RSET").await.ok()?;
        connection.in_transaction = false;
        yes_or_no(&answer)
    }
}

fn yes_or_no(answer: &Reply) -> Option<bool> {
    let is_final = answer.is_positive() || answer.is_permanent();
    is_final.then(|| answer.is_positive())
}
