//! Keeps what is written of messages small: chunks are put together every minute, and what is too old is left out or
//! forgotten every hour. Never in the path of mail; several relays may do so at once.

use std::time::Duration;

use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::store::{self, message_trace::upkeep};

/// How often small chunks are put together.
const EVERY: Duration = Duration::from_secs(60);
/// How often it is looked for what is too old.
const RETENTION: Duration = Duration::from_secs(60 * 60);

/// How long what happened to messages is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Who sent by which way, and how it ended.
    pub decisions: Duration,
    /// Recipients, sizes and clients.
    pub details: Duration,
}

impl Default for Kept {
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 60 * 60);
        Self { decisions: 400 * DAY, details: 90 * DAY }
    }
}

/// Until `stop`.
pub async fn run(pool: &PgPool, kept: Kept, stop: CancellationToken) {
    let (mut retention_due, mut store_answers) = (Instant::now(), true);
    while stop.run_until_cancelled(tokio::time::sleep(EVERY)).await.is_some() {
        let now = OffsetDateTime::now_utc();
        let with_retention = Instant::now() >= retention_due;
        let work = async {
            upkeep::put_together_across_tenants(pool, now).await?;
            if with_retention { forget(pool, kept, now).await } else { Ok(()) }
        };
        let Some(done) = stop.run_until_cancelled(work).await else { return };
        if let (Err(error), true) = (&done, store_answers) {
            tracing::warn!(%error, "what is kept of messages is not tidied up until the store answers again");
        }
        store_answers = done.is_ok();
        if with_retention && store_answers {
            retention_due = Instant::now() + RETENTION;
        }
    }
}

/// Leaves out and forgets what is too old.
///
/// # Errors
/// If the store does not answer.
pub async fn forget(pool: &PgPool, kept: Kept, now: OffsetDateTime) -> store::Result<()> {
    let chunks = upkeep::forget_across_tenants(pool, now - kept.decisions).await?;
    let without_details = upkeep::leave_out_details_across_tenants(pool, now - kept.details).await?;
    if chunks > 0 || without_details > 0 {
        tracing::info!(chunks, without_details, "what happened to messages long ago is forgotten");
    }
    Ok(())
}
