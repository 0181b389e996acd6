//! Writes down what signing in leaves behind: last uses at most once a minute, and failed tries, which all
//! relays of an installation count together. Never in the path of mail; without the store it waits.

use std::time::Duration;

use sqlx::PgPool;
use time::OffsetDateTime;
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use super::submission::sign_in::SignIns;
use crate::store::{self, relay_credential};

/// How often failed tries are told and asked for.
const TRIES: Duration = Duration::from_secs(2);
/// How often last uses are written.
const USES: Duration = Duration::from_secs(60);
/// How long the store may take.
const PATIENCE: Duration = Duration::from_secs(5);

/// Until `stop`; then what is left is written once more.
pub async fn run(pool: &PgPool, sign_ins: &SignIns, stop: CancellationToken) {
    let mut uses_due = Instant::now() + USES;
    let mut store_answers = true;
    loop {
        let goes_on = stop.run_until_cancelled(tokio::time::sleep(TRIES)).await.is_some();
        let with_uses = !goes_on || Instant::now() >= uses_due;
        let written = async {
            share_failures(pool, sign_ins).await?;
            if with_uses { write_uses(pool, sign_ins).await } else { Ok(()) }
        };
        let result = timeout(PATIENCE, written).await.unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut));
        if with_uses {
            uses_due = Instant::now() + USES;
            sign_ins.forget_unused(OffsetDateTime::now_utc());
        }
        if let (Err(error), true) = (&result, store_answers) {
            tracing::warn!(%error, "sign-ins are not written down until the store answers again");
        }
        store_answers = result.is_ok();
        if !goes_on {
            return;
        }
    }
}

/// Tells what failed here, and learns what failed anywhere.
pub async fn share_failures(pool: &PgPool, sign_ins: &SignIns) -> store::Result<()> {
    let failures = sign_ins.take_failures();
    if !failures.is_empty() {
        let told = relay_credential::add_failures_across_tenants(pool, &failures).await;
        if let Err(error) = told {
            sign_ins.give_back_failures(failures);
            return Err(error);
        }
    }
    let counted = relay_credential::failures_across_tenants(&mut *pool.acquire().await?).await?;
    sign_ins.learn_failures(counted);
    Ok(())
}

/// Writes when each credential was used last, all in one statement.
pub async fn write_uses(pool: &PgPool, sign_ins: &SignIns) -> store::Result<()> {
    let uses = sign_ins.take_uses();
    if uses.is_empty() {
        return Ok(());
    }
    let written = relay_credential::note_uses_across_tenants(pool, &uses).await;
    if written.is_err() {
        sign_ins.give_back_uses(uses);
    }
    written
}
