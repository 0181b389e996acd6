//! Words by which the values of a fixed set are kept, typed and put into addresses, and figures as people read them.
//! For the decisions that have such.

use time::{Duration, OffsetDateTime, UtcOffset, macros::format_description};

/// `1240` → `1,240`.
pub fn number(count: i64) -> String {
    let digits = count.unsigned_abs().to_string();
    let mut grouped = String::from(if count < 0 { "-" } else { "" });
    for (position, digit) in digits.chars().enumerate() {
        if position > 0 && (digits.len() - position).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// How long something took: `under 1 ms`, `12 ms`, `6.2 s`, `3 min 20 s`.
pub fn took(length: Duration) -> String {
    match length.whole_milliseconds() {
        ..1 => "under 1 ms".to_owned(),
        milliseconds @ 1..1000 => format!("{milliseconds} ms"),
        1000..60_000 => format!("{:.1} s", length.as_seconds_f64()),
        _ => format!("{} min {} s", length.whole_minutes(), length.whole_seconds() % 60),
    }
}

/// A moment with its zone, to the minute: `23 November 2026, 14:02 UTC`.
pub fn moment(moment: OffsetDateTime) -> String {
    let format = format_description!("[day padding:none] [month repr:long] [year], [hour]:[minute] UTC");
    moment.to_offset(UtcOffset::UTC).format(format).unwrap_or_else(|_| moment.to_string())
}

/// How long ago something was, as long as that says more than when: `12 s ago`, `5 min ago`, `3 h ago`; then the moment.
pub fn ago(moment_then: OffsetDateTime, now: OffsetDateTime) -> String {
    match (now - moment_then).whole_seconds() {
        ..1 => "just now".to_owned(),
        seconds @ 1..60 => format!("{seconds} s ago"),
        seconds @ 60..3600 => format!("{} min ago", seconds / 60),
        seconds @ 3600..86_400 => format!("{} h ago", seconds / 3600),
        _ => moment(moment_then),
    }
}

/// Not one of the words of a fixed set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("“{0}” is not known here")]
pub struct WordError(pub String);

/// Gives each value of a type its word.
macro_rules! words {
    ($type:ident: $($word:literal = $variant:ident),+ $(,)?) => {
        impl $type {
            /// The word that stands for it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word),+
                }
            }
        }

        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $type {
            type Err = $crate::policy::words::WordError;

            fn from_str(word: &str) -> Result<Self, Self::Err> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err($crate::policy::words::WordError(word.to_owned())),
                }
            }
        }
    };
}
pub(super) use words;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_something_took_is_said_as_exactly_as_matters() {
        for (microseconds, expected) in [
            (0, "under 1 ms"),
            (999, "under 1 ms"),
            (1_000, "1 ms"),
            (999_999, "999 ms"),
            (6_240_000, "6.2 s"),
            (200_000_000, "3 min 20 s"),
        ] {
            assert_eq!(took(Duration::microseconds(microseconds)), expected);
        }
    }
}
