//! How many messages a server has taken in the last minutes, and how soon: counted by minute, so that it costs a few
//! numbers a server. Pure; `handover::health` counts, pages show.

use std::time::Duration;

/// Over how many minutes is looked, the present one included.
pub const MINUTES: usize = 5;

/// Of one server.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throughput {
    minutes: [Minute; MINUTES],
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Minute {
    number: u64,
    messages: u32,
    milliseconds: u64,
}

/// What it comes to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Figures {
    pub messages: u32,
    /// From the first byte of a message to the answer to its dot, on average.
    pub taken_after: Duration,
}

impl Throughput {
    /// A message was taken in this minute, counted from anywhere.
    pub fn note(&mut self, minute: u64, took: Duration) {
        let place = &mut self.minutes[(minute % MINUTES as u64) as usize];
        if place.number != minute {
            *place = Minute { number: minute, ..Minute::default() };
        }
        place.messages = place.messages.saturating_add(1);
        place.milliseconds = place.milliseconds.saturating_add(u64::try_from(took.as_millis()).unwrap_or(u64::MAX));
    }

    /// Of the last minutes; `None`: there was no message.
    pub fn figures(&self, minute: u64) -> Option<Figures> {
        let is_recent =
            |place: &&Minute| minute.saturating_sub(place.number) < MINUTES as u64 && place.number <= minute;
        let (messages, milliseconds) = self.minutes.iter().filter(is_recent).fold((0_u32, 0_u64), |sum, place| {
            (sum.0.saturating_add(place.messages), sum.1.saturating_add(place.milliseconds))
        });
        let taken_after = Duration::from_millis(milliseconds.checked_div(u64::from(messages))?);
        Some(Figures { messages, taken_after })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_older_than_five_minutes_does_not_count() {
        let (mut throughput, ms) = (Throughput::default(), Duration::from_millis);
        assert_eq!(throughput.figures(7), None);
        throughput.note(10, ms(10));
        throughput.note(10, ms(20));
        throughput.note(12, ms(60));
        let of = |minute| throughput.figures(minute).map(|figures| (figures.messages, figures.taken_after));
        assert_eq!(of(12), Some((3, ms(30))));
        assert_eq!((of(14), of(15), of(16), of(17)), (Some((3, ms(30))), Some((1, ms(60))), Some((1, ms(60))), None));
        throughput.note(15, ms(0));
        assert_eq!(
            throughput.figures(15),
            Some(Figures { messages: 2, taken_after: ms(30) }),
            "in the place of the tenth"
        );
    }
}
