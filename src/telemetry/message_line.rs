//! Lines about messages as JSON, without a serializer: every message has one, and the library's way to it took a fifth
//! of what the relay itself computes for a message. All other lines are the library's.

use std::fmt::{self, Debug, Write};

use time::OffsetDateTime;
use tracing::{
    Event, Subscriber,
    field::{Field, Visit},
};
use tracing_subscriber::{
    fmt::{
        FmtContext, FormatEvent, FormatFields,
        format::{self, Format, Writer},
    },
    registry::LookupSpan,
};

use crate::{
    mail::json_text::{self, escape, quote},
    relay::message_log::TARGET,
};

/// Enough for most lines, in bytes.
const USUAL: usize = 1024;

/// The format of the log where no person reads it as it is written.
#[derive(Debug)]
pub struct JsonLines(Format<format::Json>);

impl Default for JsonLines {
    fn default() -> Self {
        Self(format().json().flatten_event(true).with_ansi(false))
    }
}

fn format() -> Format {
    format::format()
}

impl<S, N> FormatEvent<S, N> for JsonLines
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(&self, context: &FmtContext<'_, S, N>, mut to: Writer<'_>, event: &Event<'_>) -> fmt::Result {
        let about = event.metadata();
        // Within a span there is more to be said.
        if about.target() != TARGET || context.lookup_current().is_some() {
            return self.0.format_event(context, to, event);
        }
        let mut line = Line { text: String::with_capacity(USUAL) };
        line.text.push_str("{\"timestamp\":\"");
        timestamp(&mut line.text, OffsetDateTime::now_utc());
        line.text.push_str("\",\"level\":\"");
        line.text.push_str(about.level().as_str());
        line.text.push('"');
        event.record(&mut line);
        line.key("target");
        quote(&mut line.text, about.target());
        line.text.push_str("}\n");
        to.write_str(&line.text)
    }
}

/// A line that is being put together.
struct Line {
    text: String,
}

impl Line {
    /// The name of a field, which is a word of ours.
    fn key(&mut self, name: &str) {
        self.text.push_str(",\"");
        self.text.push_str(name);
        self.text.push_str("\":");
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.key(field.name());
        quote(&mut self.text, value);
    }

    fn record_u64(&mut self, field: &Field, value: u64) {
        self.key(field.name());
        match i64::try_from(value) {
            Ok(value) => json_text::number(&mut self.text, value),
            Err(_) => self.text.push_str(&value.to_string()),
        }
    }

    fn record_i64(&mut self, field: &Field, value: i64) {
        self.key(field.name());
        json_text::number(&mut self.text, value);
    }

    fn record_bool(&mut self, field: &Field, value: bool) {
        self.key(field.name());
        self.text.push_str(if value { "true" } else { "false" });
    }

    fn record_debug(&mut self, field: &Field, value: &dyn Debug) {
        self.key(field.name());
        self.text.push('"');
        // Writing to memory does not fail.
        let _ = write!(Escaped(&mut self.text), "{value:?}");
        self.text.push('"');
    }
}

/// What is written to it stands in a JSON string.
struct Escaped<'a>(&'a mut String);

impl Write for Escaped<'_> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        escape(self.0, text);
        Ok(())
    }
}

/// RFC 3339, in microseconds.
fn timestamp(to: &mut String, at: OffsetDateTime) {
    let (year, month, day) = at.to_calendar_date();
    let (hour, minute, second, micro) = at.to_hms_micro();
    let parts = [
        (year.unsigned_abs(), 4, '-'),
        (u8::from(month).into(), 2, '-'),
        (day.into(), 2, 'T'),
        (hour.into(), 2, ':'),
        (minute.into(), 2, ':'),
        (second.into(), 2, '.'),
        (micro, 6, 'Z'),
    ];
    for (number, digits, behind) in parts {
        for place in (0..digits).rev() {
            to.push((b'0' + (number / 10_u32.pow(place) % 10) as u8).into());
        }
        to.push(behind);
    }
}

#[cfg(test)]
mod tests {
    use std::{
        io,
        sync::{Arc, Mutex},
    };

    use serde_json::Value;
    use time::format_description::well_known::Rfc3339;
    use tracing::field::display;

    use super::*;

    #[derive(Clone, Default)]
    struct Written(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Written {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// Each line that is logged, without the time of it.
    fn logged(
        format: impl for<'a> FormatEvent<tracing_subscriber::Registry, format::JsonFields> + Send + Sync + 'static,
    ) -> Vec<Value> {
        use tracing_subscriber::layer::SubscriberExt;
        let written = Written::default();
        let writer = written.clone();
        let layer = tracing_subscriber::fmt::layer().json().event_format(format).with_writer(move || writer.clone());
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let reply = "550 5.7.1 \"no\", it said: C:\\x\u{1} caf\u{e9} \u{7f} \u{1f4e7}";
            let none = None::<&str>;
            let some = Some(display("192.0.2.7"));
            tracing::info!(target: TARGET, sender = reply, to = %reply, size = 7_u64, attempts = Some(-3), none, some, is = true, "{}", "handed over");
            tracing::warn!(target: TARGET, "");
            tracing::info!(target: "outgate::other", sender = reply, "other");
            tracing::info_span!("within", id = 7).in_scope(|| tracing::info!(target: TARGET, sender = reply, "told"));
        });
        let text = String::from_utf8(written.0.lock().unwrap().clone()).unwrap();
        let lines = text.lines().map(|line| {
            let mut line: Value = serde_json::from_str(line).unwrap();
            let timestamp = line["timestamp"].take();
            let at = OffsetDateTime::parse(timestamp.as_str().unwrap(), &Rfc3339).unwrap();
            assert!((OffsetDateTime::now_utc() - at).whole_seconds().abs() < 60, "{at}");
            line
        });
        lines.collect()
    }

    #[test]
    fn a_line_says_what_the_library_would_have_said() {
        let lines = logged(JsonLines::default());
        assert_eq!(lines.len(), 4);
        assert_eq!(lines, logged(format().json().flatten_event(true)));
        assert_eq!((&lines[0]["message"], &lines[0]["attempts"]), (&"handed over".into(), &(-3).into()));
    }

    #[test]
    fn times_have_all_their_digits() {
        let at = OffsetDateTime::parse("2026-01-02T03:04:05.000067Z", &Rfc3339).unwrap();
        let mut text = String::new();
        timestamp(&mut text, at);
        assert_eq!(text, "2026-01-02T03:04:05.000067Z");
    }
}
