//! The log: one line an event on standard error, for people on a terminal and as JSON otherwise. Set up by `main`
//! before anything else happens.

use std::io::{self, IsTerminal};

use anyhow::anyhow;
use tracing_appender::non_blocking::{NonBlocking, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;

/// What is logged where `RUST_LOG` says nothing. PostgreSQL's notices (“already exists, skipping”, at each
/// start) tell an operator nothing.
const DEFAULT_FILTER: &str = "info,sqlx::postgres::notice=warn";

/// Writes what is still buffered when it is dropped: `main` holds it to its end.
#[must_use = "the log ends when this is dropped"]
#[derive(Debug)]
pub struct Log(#[expect(dead_code, reason = "held for its destructor")] WorkerGuard);

/// Begins to log. Lines are written by a thread of their own, and are dropped rather than waited for if whoever
/// reads standard error stops reading: mail never waits for the log.
///
/// # Errors
/// One sentence if `RUST_LOG` is malformed.
pub fn start() -> anyhow::Result<Log> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.trim().is_empty() => EnvFilter::try_new(&directives).map_err(|error| {
            anyhow!("RUST_LOG is “{directives}”, which is not a filter ({error}): write info or outgate=debug,info.")
        })?,
        _ => EnvFilter::new(DEFAULT_FILTER),
    };
    let (writer, guard): (NonBlocking, _) = NonBlockingBuilder::default().lossy(true).finish(io::stderr());
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(writer);
    if io::stderr().is_terminal() {
        subscriber.with_target(false).init();
    } else {
        subscriber.json().flatten_event(true).with_ansi(false).init();
    }
    Ok(Log(guard))
}
