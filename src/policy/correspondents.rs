//! To whom an account has written of late, outside its organization: by it limits of
//! [`Window::FirstTime`](super::limit::Window::FirstTime) go. Relays keep it beside the mail, pages show it.

use std::collections::BTreeMap;

use time::{Duration, OffsetDateTime};
use xxhash_rust::xxh3::xxh3_64_with_seed;

use super::{
    usual::{WEEKS, in_most_weeks},
    volume::start_of,
};
use crate::mail::id::AccountId;

/// For how long a recipient is known after it was written to last; up to [`SPARED`] longer.
pub const KEPT: Duration = Duration::days(90);
/// How many an account is known to have written to at most. Of more, those are forgotten first that it has not written
/// to for longest.
pub const MOST: usize = 5000;
/// That somebody was written to again is noted after so many days only: so most mail changes nothing.
const SPARED: i64 = 7;
/// So few are put in one by one.
const FEW: usize = 8;

/// What is kept of a recipient's address: 32 bits of a hash that is another one for each account. That somebody is taken
/// for another whom the account knows happens to one new recipient in 860,000 where it knows [`MOST`]. It is kept in
/// the store, so it never changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Print(u32);

impl Print {
    /// Of a recipient of this account's mail. Capital letters make no difference.
    pub fn of(account: AccountId, forward_path: &str) -> Self {
        let (_, seed) = account.0.as_u64_pair();
        let hash = match forward_path.bytes().any(|byte| byte.is_ascii_uppercase()) {
            true => xxh3_64_with_seed(forward_path.to_ascii_lowercase().as_bytes(), seed),
            false => xxh3_64_with_seed(forward_path.as_bytes(), seed),
        };
        Self(hash as u32)
    }
}

/// A recipient who was written to at a time.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    pub to: Print,
    minute: u32,
}

impl Written {
    pub fn new(to: Print, at: OffsetDateTime) -> Self {
        Self { to, minute: minute_of(at) }
    }

    /// When, in minutes since 1970.
    pub fn minute(&self) -> u32 {
        self.minute
    }
}

/// Somebody whom an account has written to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Known {
    print: Print,
    /// When for the first time, in minutes since 1970.
    first: u32,
    /// On which day last, since 1970; or up to [`SPARED`] before that.
    last: u16,
}

/// Everybody whom an account has written to of late.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Correspondents {
    /// By [`Print`], each once.
    known: Vec<Known>,
}

fn minute_of(at: OffsetDateTime) -> u32 {
    u32::try_from(at.unix_timestamp().div_euclid(60)).unwrap_or_default()
}

fn day_of(minute: u32) -> u16 {
    u16::try_from(minute / (24 * 60)).unwrap_or(u16::MAX)
}

fn time_of(minute: u32) -> OffsetDateTime {
    OffsetDateTime::UNIX_EPOCH + Duration::minutes(minute.into())
}

impl Correspondents {
    fn place(&self, print: Print) -> Result<usize, usize> {
        self.known.binary_search_by_key(&print, |known| known.print)
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.known.len()
    }

    pub fn is_empty(&self) -> bool {
        self.known.is_empty()
    }

    /// How many of these recipients of one message the account has not written to before.
    pub fn new_among(&self, prints: &[Print]) -> i64 {
        let is_new =
            |(place, print): &(usize, &Print)| self.place(**print).is_err() && !prints[..*place].contains(print);
        prints.iter().enumerate().filter(is_new).count() as i64
    }

    /// Notes that these were written to. Returns whether that says anything new.
    pub fn write(&mut self, written: impl IntoIterator<Item = Written>) -> bool {
        let mut new = Vec::new();
        let mut says_new = false;
        for Written { to, minute } in written {
            let day = day_of(minute);
            match self.place(to) {
                Ok(place) => {
                    let known = &mut self.known[place];
                    let is_earlier = minute < known.first;
                    known.first = known.first.min(minute);
                    let is_later = i64::from(day) >= i64::from(known.last) + SPARED;
                    known.last = if is_later { day } else { known.last };
                    says_new |= is_earlier || is_later;
                }
                Err(_) => new.push(Known { print: to, first: minute, last: day }),
            }
        }
        if new.is_empty() {
            return says_new;
        }
        new.sort_unstable_by_key(|known| (known.print, known.first));
        new.dedup_by_key(|known| known.print);
        match new.len() {
            // Most mail goes to few: to move the others up is less than to copy all.
            ..FEW => self.put_in(new),
            _ => self.take_in(&Self { known: new }),
        }
        true
    }

    /// Puts in some that are not there yet.
    fn put_in(&mut self, new: Vec<Known>) {
        for known in new {
            if let Err(place) = self.place(known.print) {
                self.known.insert(place, known);
            }
        }
        self.keep_most();
    }

    /// Takes in what is known elsewhere of the same account.
    pub fn take_in(&mut self, other: &Self) {
        let mut own = std::mem::take(&mut self.known).into_iter().peekable();
        self.known = Vec::with_capacity(own.len() + other.known.len());
        for known in &other.known {
            while let Some(before) = own.next_if(|own| own.print < known.print) {
                self.known.push(before);
            }
            self.known.push(match own.next_if(|own| own.print == known.print) {
                Some(own) => Known { first: own.first.min(known.first), last: own.last.max(known.last), ..own },
                None => *known,
            });
        }
        self.known.extend(own);
        self.keep_most();
    }

    /// Of too many keeps those who were written to last; a tenth more are let stand, so that it is not each time.
    fn keep_most(&mut self) {
        if self.known.len() > MOST + MOST / 10 {
            self.known.sort_unstable_by_key(|known| std::cmp::Reverse((known.last, known.first)));
            self.known.truncate(MOST);
            self.known.sort_unstable_by_key(|known| known.print);
        }
    }

    /// Takes back what was not sent after all at `at`.
    pub fn take_back(&mut self, prints: &[Print], at: OffsetDateTime) {
        let minute = minute_of(at);
        self.known.retain(|known| known.first != minute || !prints.contains(&known.print));
    }

    /// Forgets who was not written to for [`KEPT`]. Returns whether there was somebody.
    pub fn forget(&mut self, now: OffsetDateTime) -> bool {
        let before = self.known.len();
        let kept = KEPT.whole_days() + SPARED;
        let today = i64::from(day_of(minute_of(now)));
        self.known.retain(|known| i64::from(known.last) + kept >= today);
        self.known.len() < before
    }

    /// How many were written to for the first time within the day that ends at `now`.
    pub fn first_within_day(&self, now: OffsetDateTime) -> i64 {
        let since = minute_of(now - Duration::DAY);
        self.known.iter().filter(|known| known.first > since).count() as i64
    }

    /// When at most `most` are left within that day, if nobody else is written to meanwhile.
    pub fn falls_to(&self, most: i64, now: OffsetDateTime) -> OffsetDateTime {
        let since = minute_of(now - Duration::DAY);
        let mut firsts: Vec<u32> = self.known.iter().map(|known| known.first).filter(|first| *first > since).collect();
        let surplus = usize::try_from(firsts.len() as i64 - most).unwrap_or_default().min(firsts.len());
        firsts.sort_unstable();
        match surplus.checked_sub(1).map(|last| firsts[last]) {
            Some(first) => (time_of(first) + Duration::DAY).max(now),
            None => now,
        }
    }

    /// How many are written to for the first time on the account's busy days, see [`in_most_weeks`]. `from` is from when
    /// on it is known whom the account writes to. `None` before two weeks of it are.
    pub fn busy_day(&self, from: OffsetDateTime, now: OffsetDateTime) -> Option<i64> {
        let today = start_of(Duration::DAY, now);
        let mut days = vec![0_i64; usize::from(WEEKS) * 7];
        for known in &self.known {
            let ago = (today - start_of(Duration::DAY, time_of(known.first))).whole_days() - 1;
            if let Some(day) = usize::try_from(ago).ok().and_then(|ago| days.get_mut(ago)) {
                *day += 1;
            }
        }
        let is_known = |week: &usize| today - Duration::weeks(*week as i64 + 1) >= from;
        let busiest = |week: usize| days[week * 7..(week + 1) * 7].iter().copied().max().unwrap_or_default();
        in_most_weeks((0..usize::from(WEEKS)).filter(is_known).map(busiest).collect())
    }

    /// How many were written to for the first time on each day (UTC) from that of `since` on; days without any are not
    /// there.
    pub fn first_by_day(&self, since: OffsetDateTime) -> BTreeMap<OffsetDateTime, i64> {
        let since = start_of(Duration::DAY, since);
        let mut days = BTreeMap::new();
        for day in self.known.iter().map(|known| start_of(Duration::DAY, time_of(known.first))) {
            if day >= since {
                *days.entry(day).or_default() += 1;
            }
        }
        days
    }

    /// On which day anybody was written to last, since 1970.
    pub fn last_day(&self) -> i32 {
        self.known.iter().map(|known| i32::from(known.last)).max().unwrap_or_default()
    }

    /// How many bytes [as many](Self::to_bytes) take.
    pub fn bytes_of(many: u32) -> usize {
        1 + many as usize * LENGTH
    }

    /// As it is kept.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(1 + self.known.len() * LENGTH);
        bytes.push(VERSION);
        for Known { print, first, last } in &self.known {
            bytes.extend(print.0.to_be_bytes());
            bytes.extend(first.to_be_bytes());
            bytes.extend(last.to_be_bytes());
        }
        bytes
    }

    /// What was kept.
    ///
    /// # Errors
    /// If it is none of these.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NotCorrespondents> {
        let Some((VERSION, kept)) = bytes.split_first().map(|(version, kept)| (*version, kept)) else {
            return if bytes.is_empty() { Ok(Self::default()) } else { Err(NotCorrespondents) };
        };
        let (one_by_one, []) = kept.as_chunks::<LENGTH>() else { return Err(NotCorrespondents) };
        let known = one_by_one.iter().map(|[a, b, c, d, e, f, g, h, i, j]| Known {
            print: Print(u32::from_be_bytes([*a, *b, *c, *d])),
            first: u32::from_be_bytes([*e, *f, *g, *h]),
            last: u16::from_be_bytes([*i, *j]),
        });
        let mut known: Vec<Known> = known.collect();
        known.sort_unstable_by_key(|known| known.print);
        known.dedup_by_key(|known| known.print);
        Ok(Self { known })
    }
}

/// The form in which they are kept.
const VERSION: u8 = 1;
/// Of one of them, in bytes.
const LENGTH: usize = 10;

/// What was kept cannot be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("these are no correspondents of an account")]
pub struct NotCorrespondents;

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    const NOW: OffsetDateTime = datetime!(2026-11-30 14:25 UTC);

    fn print(number: u32) -> Print {
        Print(number)
    }

    fn prints(numbers: std::ops::Range<u32>) -> Vec<Print> {
        numbers.map(print).collect()
    }

    fn write(correspondents: &mut Correspondents, numbers: std::ops::Range<u32>, at: OffsetDateTime) -> bool {
        correspondents.write(numbers.map(|number| Written::new(print(number), at)))
    }

    #[test]
    fn who_was_written_to_is_known_however_it_is_spelt_and_to_that_account_alone() {
        let (ann, ben) = (AccountId::new(), AccountId::new());
        assert_eq!(Print::of(ann, "Bob@Elsewhere.Example"), Print::of(ann, "bob@elsewhere.example"));
        assert_ne!(Print::of(ann, "bob@elsewhere.example"), Print::of(ben, "bob@elsewhere.example"));
        assert_ne!(Print::of(ann, "bob@elsewhere.example"), Print::of(ann, "rob@elsewhere.example"));
        let mut known = Correspondents::default();
        assert!(write(&mut known, 0..10, NOW));
        assert_eq!(known.new_among(&[print(3), print(11), print(12), print(11)]), 2, "each once");
    }

    #[test]
    fn the_first_time_counts_for_a_day_and_not_the_second_one() {
        let mut known = Correspondents::default();
        write(&mut known, 0..30, NOW - Duration::hours(25));
        write(&mut known, 20..50, NOW - Duration::hours(23));
        write(&mut known, 50..60, NOW - Duration::HOUR);
        assert!(!write(&mut known, 0..60, NOW), "nothing of it is new");
        assert_eq!(known.first_within_day(NOW), 30);
        assert_eq!(known.falls_to(30, NOW), NOW);
        assert_eq!(known.falls_to(29, NOW), datetime!(2026-11-30 15:25 UTC));
        assert_eq!(known.falls_to(9, NOW), datetime!(2026-12-01 13:25 UTC));
        assert_eq!(known.falls_to(-5, NOW), datetime!(2026-12-01 13:25 UTC), "more than there are");
    }

    #[test]
    fn who_is_written_to_now_and_then_stays_known_and_others_are_forgotten_after_three_months() {
        let mut known = Correspondents::default();
        write(&mut known, 0..10, NOW);
        assert!(!write(&mut known, 0..5, NOW + Duration::days(6)), "a few days make no difference");
        assert!(write(&mut known, 0..5, NOW + Duration::days(50)));
        assert!(!known.forget(NOW + KEPT));
        assert!(known.forget(NOW + KEPT + Duration::days(8)));
        assert_eq!(known.new_among(&prints(0..10)), 5);
    }

    #[test]
    fn of_very_many_those_are_kept_who_were_written_to_last() {
        let mut known = Correspondents::default();
        write(&mut known, 0..4000, NOW - Duration::days(9));
        write(&mut known, 10_000..12_000, NOW);
        assert_eq!((known.len(), known.new_among(&prints(0..4000))), (MOST, 1000));
        write(&mut known, 0..100, NOW);
        assert_eq!(known.new_among(&prints(10_000..12_000)), 0);
        assert_eq!(known.new_among(&prints(0..100)), 0);
        write(&mut known, 20_000..23_000, NOW + Duration::DAY);
        assert_eq!((known.len(), known.new_among(&prints(10_000..12_000))), (MOST, 0));
        assert!(known.new_among(&prints(100..4000)) > 3000);
    }

    #[test]
    fn what_was_not_sent_after_all_is_not_known() {
        let mut known = Correspondents::default();
        write(&mut known, 0..10, NOW - Duration::HOUR);
        write(&mut known, 5..15, NOW);
        known.take_back(&prints(5..15), NOW);
        assert_eq!(known.new_among(&prints(0..15)), 5);
    }

    #[test]
    fn what_is_kept_is_read_again_and_nothing_else_is() {
        let mut known = Correspondents::default();
        write(&mut known, 7..300, NOW);
        assert_eq!(Correspondents::from_bytes(&known.to_bytes()), Ok(known.clone()));
        assert_eq!(Correspondents::from_bytes(&[]), Ok(Correspondents::default()));
        assert_eq!(Correspondents::from_bytes(&[9, 0]), Err(NotCorrespondents));
        assert_eq!(Correspondents::from_bytes(&known.to_bytes()[..20]), Err(NotCorrespondents));
        let mut other = Correspondents::default();
        write(&mut other, 0..20, NOW - Duration::DAY * 2);
        known.take_in(&other);
        assert_eq!((known.len(), known.first_within_day(NOW)), (300, 280));
    }

    #[test]
    fn busy_days_are_those_of_three_weeks_in_four() {
        let mut known = Correspondents::default();
        // A Monday each: 400, 30, 50 and 40.
        for (week, numbers) in [(1, 0..400), (2, 1000..1030), (3, 2000..2050), (4, 3000..3040)] {
            write(&mut known, numbers, NOW - Duration::weeks(week));
        }
        write(&mut known, 5000..5900, NOW);
        let from = NOW - Duration::weeks(5);
        assert_eq!(
            known.busy_day(from, NOW),
            Some(40),
            "one week that was not as usual raises nothing, nor does today"
        );
        assert_eq!(known.busy_day(NOW - Duration::weeks(3), NOW), Some(30));
        assert_eq!(known.busy_day(NOW - Duration::days(13), NOW), None);
    }
}
