//! The log: one line an event on standard error, for people on a terminal and as JSON otherwise. Set up by `main`
//! before anything else happens.

use std::{
    io::{self, IsTerminal, Write},
    mem,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    thread,
    time::Duration,
};

use anyhow::{Context, anyhow};
use tracing_subscriber::{EnvFilter, fmt::MakeWriter};

use self::message_line::JsonLines;

mod message_line;

/// What is logged where `RUST_LOG` says nothing. PostgreSQL's notices (“already exists, skipping”, at each
/// start) tell an operator nothing.
const DEFAULT_FILTER: &str = "info,sqlx::postgres::notice=warn";

/// How long lines are gathered before they are written together. Each message has two or three: written one by one,
/// with a thread woken for each, they took an eighth of the relay's processor time.
const GATHERED_FOR: Duration = Duration::from_millis(20);
/// So much is written at once, in bytes.
const FULL: usize = 64 * 1024;
/// What waits while nobody reads, in bytes; lines beyond it are left out.
const MOST: usize = 4 * 1024 * 1024;
/// How long the end of the program waits for the last lines.
const LAST_LINES: Duration = Duration::from_secs(1);

/// Writes what is still gathered when it is dropped: `main` holds it to its end.
#[must_use = "the log ends when this is dropped"]
#[derive(Debug)]
pub struct Log(Arc<Lines>);

/// Begins to log. Lines are written by a thread of their own, and are left out rather than waited for if whoever
/// reads standard error stops reading: mail never waits for the log. A killed program loses those of its last
/// 20 milliseconds.
///
/// # Errors
/// One sentence if `RUST_LOG` is malformed, or if there can be no thread.
pub fn start() -> anyhow::Result<Log> {
    let filter = match std::env::var("RUST_LOG") {
        Ok(directives) if !directives.trim().is_empty() => EnvFilter::try_new(&directives).map_err(|error| {
            anyhow!("RUST_LOG is “{directives}”, which is not a filter ({error}): write info or outgate=debug,info.")
        })?,
        _ => EnvFilter::new(DEFAULT_FILTER),
    };
    let lines = Arc::new(Lines::default());
    let written = Arc::clone(&lines);
    let writing = thread::Builder::new().name("log".to_owned()).spawn(move || written.write_to(io::stderr()));
    writing.context("no thread can be started for the log")?;
    let subscriber = tracing_subscriber::fmt().with_env_filter(filter).with_writer(ToLines(Arc::clone(&lines)));
    if io::stderr().is_terminal() {
        subscriber.with_target(false).init();
    } else {
        subscriber.json().event_format(JsonLines::default()).init();
    }
    Ok(Log(lines))
}

impl Drop for Log {
    fn drop(&mut self) {
        let mut gathered = self.0.lock();
        gathered.is_ending = true;
        self.0.changed.notify_all();
        let ended = self.0.ended.wait_timeout_while(gathered, LAST_LINES, |gathered| !gathered.has_ended);
        drop(ended);
    }
}

/// Lines on their way to whoever reads the log.
#[derive(Debug, Default)]
struct Lines {
    gathered: Mutex<Gathered>,
    /// There is a first line, or enough of them, or the end is near.
    changed: Condvar,
    ended: Condvar,
}

#[derive(Debug, Default)]
struct Gathered {
    text: Vec<u8>,
    /// Lines for which there was no room.
    left_out: u64,
    is_ending: bool,
    has_ended: bool,
}

impl Lines {
    fn lock(&self) -> MutexGuard<'_, Gathered> {
        self.gathered.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Never waits for the log's reader.
    fn add(&self, line: &[u8]) {
        let mut gathered = self.lock();
        let before = gathered.text.len();
        if before + line.len() > MOST {
            gathered.left_out += 1;
            return;
        }
        gathered.text.extend_from_slice(line);
        let (is_first, is_full) = (before == 0, before < FULL && gathered.text.len() >= FULL);
        drop(gathered);
        if is_first || is_full {
            self.changed.notify_one();
        }
    }

    /// Until the end.
    fn write_to(&self, mut log: impl Write) {
        let mut text = Vec::new();
        while let Some(left_out) = self.take(&mut text) {
            // There is nowhere to say that the log cannot be written.
            let _ = log.write_all(&text).and_then(|()| log.flush());
            text.clear();
            text.shrink_to(FULL);
            if left_out > 0 {
                tracing::warn!(lines = left_out, "the log was not read fast enough, lines were left out");
            }
        }
        self.lock().has_ended = true;
        self.ended.notify_all();
    }

    /// Waits for the next lines, and swaps them in. Returns how many were left out meanwhile; `None` at the end.
    fn take(&self, text: &mut Vec<u8>) -> Option<u64> {
        let wait = |gathered, for_what: fn(&mut Gathered) -> bool| {
            self.changed.wait_while(gathered, for_what).unwrap_or_else(PoisonError::into_inner)
        };
        let gathered = wait(self.lock(), |gathered| gathered.text.is_empty() && !gathered.is_ending);
        let is_too_early = |gathered: &mut Gathered| gathered.text.len() < FULL && !gathered.is_ending;
        let waited = self.changed.wait_timeout_while(gathered, GATHERED_FOR, is_too_early);
        let (mut gathered, _) = waited.unwrap_or_else(PoisonError::into_inner);
        if gathered.text.is_empty() {
            return None;
        }
        mem::swap(&mut gathered.text, text);
        Some(mem::take(&mut gathered.left_out))
    }
}

/// What the subscriber writes its lines to, each in one piece.
#[derive(Debug)]
struct ToLines(Arc<Lines>);

impl<'a> MakeWriter<'a> for ToLines {
    type Writer = &'a Self;

    fn make_writer(&'a self) -> &'a Self {
        self
    }
}

impl Write for &ToLines {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.0.add(line);
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
