//! The pace at which a gateway gets messages where its record says how many a minute: whoever comes too
//! soon is told when it is its turn. Never more than that in any minute. The pool keeps one for each gateway.

use time::{Duration, OffsetDateTime};

/// When the next message may go.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    /// When it would be the next one's turn if all came evenly.
    next: Option<OffsetDateTime>,
    /// The last turn that somebody who waits was promised.
    promised: Option<OffsetDateTime>,
}

/// Who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Turn {
    /// A message that has just come: it does not pass those that wait.
    New,
    /// A message that has waited until it was its turn.
    Waited,
}

impl Pace {
    /// Takes a turn at `now`, or says when there is one.
    pub fn take(&mut self, per_minute: u32, turn: Turn, now: OffsetDateTime) -> Result<(), OffsetDateTime> {
        let (between, ahead) = steps(per_minute);
        let next = self.next.map_or(now, |next| next.max(now));
        let earliest = next - ahead;
        let somebody_waits = turn == Turn::New && self.promised.is_some_and(|promised| promised > now);
        if earliest <= now && !somebody_waits {
            self.next = Some(next + between);
            return Ok(());
        }
        let turn = self.promised.map_or(earliest, |promised| earliest.max(promised + between)).max(now);
        self.promised = Some(turn);
        Err(turn)
    }

    /// Forgets what was promised: whoever waits is to ask anew, and before the turn that it was promised.
    pub fn promise_anew(&mut self) {
        self.promised = None;
    }

    /// Whether nobody has to wait at `now`: then there is nothing to remember.
    pub fn is_over(&self, now: OffsetDateTime) -> bool {
        let is_past = |at: Option<OffsetDateTime>| at.is_none_or(|at| at <= now);
        is_past(self.next) && is_past(self.promised)
    }
}

/// The time between two messages, and by how much a message may come before its time: what makes up a
/// second, so that nothing is lost because the queue looks a moment late. A burst of b messages and then
/// one every t make at most b + (minute / t) in a minute, hence the difference.
fn steps(per_minute: u32) -> (Duration, Duration) {
    let per_minute = per_minute.max(1);
    let burst = per_minute.div_ceil(60);
    let between = Duration::MINUTE / f64::from(per_minute - burst + 1);
    (between, between * f64::from(burst - 1))
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: OffsetDateTime = OffsetDateTime::UNIX_EPOCH;

    fn seconds(seconds: i64) -> OffsetDateTime {
        START + Duration::seconds(seconds)
    }

    #[test]
    fn the_surplus_gets_turns_one_after_the_other() {
        let mut pace = Pace::default();
        assert_eq!(pace.take(60, Turn::New, START), Ok(()));
        assert_eq!(pace.take(60, Turn::New, START), Err(seconds(1)));
        assert_eq!(pace.take(60, Turn::New, START), Err(seconds(2)));
        assert_eq!(pace.take(60, Turn::Waited, seconds(1)), Ok(()));
        assert_eq!(pace.take(60, Turn::New, seconds(1)), Err(seconds(3)), "nobody passes those that wait");
        assert_eq!(pace.take(60, Turn::Waited, seconds(2)), Ok(()));
        assert_eq!(pace.take(60, Turn::Waited, seconds(3)), Ok(()));
        assert_eq!(pace.take(60, Turn::New, seconds(4)), Ok(()));
        assert!(!pace.is_over(seconds(4)));
        assert!(pace.is_over(seconds(5)));
    }

    #[test]
    fn in_no_minute_are_there_more_than_the_record_says() {
        for per_minute in [1, 2, 59, 60, 61, 600] {
            let mut pace = Pace::default();
            let mut taken = Vec::new();
            let mut now = START;
            while now < seconds(200) {
                if pace.take(per_minute, Turn::Waited, now).is_ok() {
                    taken.push(now);
                }
                now += Duration::milliseconds(19);
            }
            for (index, first) in taken.iter().enumerate() {
                let in_minute = taken[index..].partition_point(|at| *at < *first + Duration::MINUTE);
                assert!(in_minute <= per_minute as usize, "{in_minute} of {per_minute}");
            }
            let all = f64::from(per_minute) * 200.0 / 60.0;
            assert!(taken.len() as f64 > all * 0.9 - 1.0, "{} of {all}", taken.len());
        }
    }
}
