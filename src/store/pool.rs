//! How both front doors keep connections to the store.
//! What else a relay's connections need is `relay`'s.

use std::time::Duration;

use sqlx::{Connection, postgres::PgPoolOptions};

/// After how long a connection is asked whether it is still there before it is used.
const IDLE: Duration = Duration::from_secs(1);

/// Without the question before every use: a connection that was in use a moment ago is still there.
pub fn options(connections: u32) -> PgPoolOptions {
    PgPoolOptions::new().max_connections(connections).test_before_acquire(false).before_acquire(|connection, usage| {
        Box::pin(async move {
            if usage.idle_for > IDLE {
                connection.ping().await?;
            }
            Ok(true)
        })
    })
}
