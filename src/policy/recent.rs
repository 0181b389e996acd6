//! What one sender has sent of late, as exactly as limits need it and no more: a number for each ten seconds of the last
//! minutes, for each five minutes of the last hour and for each hour of the last day.

use time::{Duration, OffsetDateTime};

use super::{
    limit::Window,
    volume::{Count, Unit},
};

/// The time by which everything here is counted, in seconds.
const TICK: i64 = 10;
/// Ticks in one number, and how many have to be over since its end before what is sent is put together to such a number.
const STEPS: [(u32, u32); 2] = [(30, 7), (360, 361)];
/// What is older is forgotten, in ticks: a day, and the hour that it began in.
const FORGOTTEN: u32 = 9000;

/// What was sent within one time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Slot {
    /// When it begins, in ticks.
    start: u32,
    /// In ticks.
    length: u16,
    /// By unit: messages, recipients, external recipients.
    counts: [u32; 3],
}

/// What was sent within a day. What stands in one number is taken to be sent at the end of its time: so a limit is
/// never exceeded, and somebody may have to wait for a number's time too long: ten seconds, five minutes or an hour.
#[derive(Debug, Clone, Default)]
pub struct Recent {
    /// The oldest first, without gaps for the times when nothing was sent.
    slots: Vec<Slot>,
}

fn tick_of(moment: OffsetDateTime) -> u32 {
    tick_of_second(moment.unix_timestamp())
}

fn tick_of_second(second: i64) -> u32 {
    u32::try_from(second.div_euclid(TICK)).unwrap_or_default()
}

impl Slot {
    fn end(&self) -> u32 {
        self.start.saturating_add(self.length.into())
    }

    fn add(&mut self, count: Count) {
        for unit in Unit::ALL {
            let counted = &mut self.counts[unit.place()];
            // Taken back may be what another slot has by now.
            let sum = i64::from(*counted).saturating_add(count.get(unit));
            *counted = sum.clamp(0, u32::MAX.into()) as u32;
        }
    }
}

impl Recent {
    /// Counts what was sent at `at`; less than nothing takes back what was not sent after all.
    pub fn add(&mut self, at: OffsetDateTime, count: Count) {
        let tick = tick_of(at);
        let next = self.slots.partition_point(|slot| slot.start <= tick);
        match next.checked_sub(1).map(|last| &mut self.slots[last]) {
            Some(slot) if tick < slot.end() => slot.add(count),
            _ => {
                let mut slot = Slot { start: tick, length: 1, counts: [0; 3] };
                slot.add(count);
                if slot.counts != [0; 3] {
                    self.slots.insert(next, slot);
                    self.put_together();
                }
            }
        }
    }

    /// Numbers that nobody needs apart any more become one.
    fn put_together(&mut self) {
        let Some(now) = self.slots.last().map(Slot::end) else { return };
        let mut kept: Vec<Slot> = Vec::with_capacity(self.slots.len());
        for slot in self.slots.drain(..) {
            if now - slot.end() > FORGOTTEN {
                continue;
            }
            let is_over = |(length, over): &&(u32, u32)| slot.start - slot.start % length + length + over <= now;
            let (start, length) = match STEPS.iter().rev().find(is_over) {
                Some((length, _)) => (slot.start - slot.start % length, *length as u16),
                None => (slot.start, slot.length),
            };
            match kept.last_mut() {
                Some(last) if start < last.end() => {
                    for (counted, more) in last.counts.iter_mut().zip(slot.counts) {
                        *counted = counted.saturating_add(more);
                    }
                }
                _ => kept.push(Slot { start, length, ..slot }),
            }
        }
        self.slots = kept;
    }

    /// How many were sent within the time that ends at `now`.
    pub fn within(&self, window: Window, unit: Unit, now: OffsetDateTime) -> i64 {
        // In seconds: this is asked eight times for a message, and a date takes longer to reckon with.
        let since = tick_of_second(now.unix_timestamp() - window.length().whole_seconds());
        let counted = self.slots.iter().rev().take_while(|slot| slot.end() > since);
        counted.map(|slot| i64::from(slot.counts[unit.place()])).sum()
    }

    /// How much was sent within the day that ends at `now`.
    pub fn within_a_day(&self, now: OffsetDateTime) -> Count {
        let since = tick_of_second(now.unix_timestamp() - Window::Day.length().whole_seconds());
        let mut counts = [0; 3];
        for slot in self.slots.iter().rev().take_while(|slot| slot.end() > since) {
            counts.iter_mut().zip(slot.counts).for_each(|(sum, count)| *sum += i64::from(count));
        }
        let [messages, recipients, external] = counts;
        Count { messages, recipients, external }
    }

    /// When at most `most` are left within that time, if nothing is sent meanwhile.
    pub fn falls_to(&self, window: Window, unit: Unit, most: i64, now: OffsetDateTime) -> OffsetDateTime {
        let since = tick_of_second(now.unix_timestamp() - window.length().whole_seconds());
        let mut left = self.within(window, unit, now);
        let mut counted = self.slots.iter().filter(|slot| slot.end() > since);
        let mut last = None;
        while left > most {
            let Some(slot) = counted.next() else { break };
            left -= i64::from(slot.counts[unit.place()]);
            last = Some(slot.end());
        }
        let end_of = |tick: u32| OffsetDateTime::UNIX_EPOCH + Duration::seconds(i64::from(tick) * TICK);
        last.map_or(now, |tick| now.max(end_of(tick) + window.length()))
    }

    /// Whether nothing of it counts any more at `now`.
    pub fn is_over(&self, now: OffsetDateTime) -> bool {
        let since = tick_of(now - Duration::DAY);
        self.slots.last().is_none_or(|slot| slot.end() <= since)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: OffsetDateTime = time::macros::datetime!(2026-11-30 09:00 UTC);

    fn recipients(recipients: i64) -> Count {
        Count { messages: 1, recipients, external: recipients / 2 }
    }

    #[test]
    fn what_was_sent_counts_until_its_time_is_over_and_never_too_short() {
        let mut recent = Recent::default();
        recent.add(START + Duration::seconds(3), recipients(40));
        recent.add(START + Duration::seconds(55), recipients(30));
        let within = |seconds, window| recent.within(window, Unit::Recipients, START + Duration::seconds(seconds));
        assert_eq!(within(59, Window::Minute), 70);
        assert_eq!(within(63, Window::Minute), 70, "the first ten seconds are not over for a minute");
        assert_eq!(within(70, Window::Minute), 30);
        assert_eq!(within(120, Window::Minute), 0);
        assert_eq!(within(120, Window::Hour), 70);
        assert_eq!(recent.within(Window::Hour, Unit::External, START + Duration::MINUTE), 35);
        let at = START + Duration::MINUTE;
        assert_eq!(recent.falls_to(Window::Minute, Unit::Recipients, 30, at), START + Duration::seconds(70));
        assert_eq!(recent.falls_to(Window::Minute, Unit::Recipients, 0, at), START + Duration::seconds(120));
        assert_eq!(recent.falls_to(Window::Minute, Unit::Recipients, 70, at), at);
    }

    #[test]
    fn a_day_of_steady_mail_is_kept_in_few_numbers_and_counted_right() {
        let mut recent = Recent::default();
        let mut now = START;
        for _ in 0..2 * 24 * 360 {
            recent.add(now, recipients(1));
            now += Duration::seconds(10);
        }
        assert!(recent.slots.len() <= 100, "{} numbers", recent.slots.len());
        now -= Duration::seconds(10);
        assert_eq!(recent.within(Window::Minute, Unit::Recipients, now), 7);
        let hour = recent.within(Window::Hour, Unit::Recipients, now);
        assert!((360..=390).contains(&hour), "{hour} within the hour");
        let day = recent.within(Window::Day, Unit::Recipients, now);
        assert!((8640..=9000).contains(&day), "{day} within the day");
        assert!(!recent.is_over(now + Duration::hours(23)));
        assert!(recent.is_over(now + Duration::hours(25)));
    }

    #[test]
    fn what_was_not_sent_after_all_is_taken_back() {
        let mut recent = Recent::default();
        recent.add(START, recipients(5));
        recent.add(START, Count { messages: -1, recipients: -5, external: -2 });
        assert_eq!(recent.within(Window::Day, Unit::Messages, START), 0);
        recent.add(START - Duration::HOUR, recipients(2));
        assert_eq!(recent.within(Window::Hour, Unit::Recipients, START), 2, "what comes late is put in its place");
        assert_eq!(recent.within(Window::Minute, Unit::Recipients, START), 0);
    }
}
