//! How many connections a server is given at once: few at first, more while mail waits for one, fewer
//! as soon as the server says that it has too much. The pool keeps a window for each server and asks here.

use std::time::{Duration, Instant};

use super::fault::Stage;
use crate::mail::{EnhancedStatus, Reply};

/// What a server is given before anything is known of it.
const FIRST: usize = 4;

/// A server that has too much says so on several connections in the same moment: that counts once.
const ONE_MOMENT: Duration = Duration::from_secs(1);

/// How many connections a server is given now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Window {
    limit: usize,
    most: usize,
    /// Up to here it grows fast. Above it has been too much before.
    known_good: usize,
    /// Messages taken since it last grew.
    taken: usize,
    shrunk_at: Option<Instant>,
}

impl Window {
    pub fn new(most: usize) -> Self {
        let most = most.max(1);
        Self { limit: FIRST.min(most), most, known_good: most, taken: 0, shrunk_at: None }
    }

    pub fn limit(&self) -> usize {
        self.limit
    }

    /// After the server took a message while others waited for a connection. How many wait is how fast
    /// mail comes times how long the server takes for it, so both make it grow: twofold in the time
    /// of one message, and by one in that time where it has been too much before.
    #[must_use]
    pub fn taken_while_others_wait(self) -> Self {
        let step = if self.limit < self.known_good { 1 } else { self.limit };
        match self.taken + 1 {
            taken if taken < step => Self { taken, ..self },
            _ => Self { taken: 0, limit: (self.limit + 1).min(self.most), ..self },
        }
    }

    /// After the server said that it has too much, with so many connections open.
    #[must_use]
    pub fn pushed_back(self, open: usize, now: Instant) -> Self {
        if self.shrunk_at.is_some_and(|at| now.saturating_duration_since(at) < ONE_MOMENT) {
            // What was just refused is not tried again in that moment.
            return Self { limit: self.limit.min(open.saturating_sub(1).max(1)), ..self };
        }
        let half = (self.limit.min(open.max(1)) / 2).max(1);
        Self { limit: half, known_good: half, taken: 0, shrunk_at: Some(now), ..self }
    }
}

/// Whether a reply asks for fewer connections: 421 and 45x, unless they are about a recipient.
pub fn asks_for_fewer(stage: Stage, reply: &Reply) -> bool {
    match (reply.code, stage) {
        (421, _) => true,
        (450..=459, Stage::Recipient) => {
            // RFC 3463 §3.2, §3.3: an address or a mailbox. 4.5.3: too many recipients of one message.
            let is_about_recipients =
                matches!(reply.enhanced, None | Some(EnhancedStatus(_, 1 | 2, _) | EnhancedStatus(_, 5, 3)));
            !is_about_recipients
        }
        (450..=459, _) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MOST: usize = 50;

    fn grown(mut window: Window, messages: usize) -> Window {
        for _ in 0..messages {
            window = window.taken_while_others_wait();
        }
        window
    }

    #[test]
    fn a_window_doubles_in_the_time_of_one_message_up_to_what_the_record_says() {
        let window = Window::new(MOST);
        assert_eq!(window.limit(), 4);
        assert_eq!(grown(window, 4).limit(), 8);
        assert_eq!(grown(window, 12).limit(), 16);
        assert_eq!(grown(window, 1_000).limit(), 50);
        assert_eq!(grown(Window::new(2), 1_000).limit(), 2);
        assert_eq!(Window::new(0).limit(), 1, "nobody is given nothing");
    }

    #[test]
    fn a_window_halves_once_for_what_is_said_in_one_moment_and_grows_slowly_from_there() {
        let start = Instant::now();
        let window = grown(Window::new(MOST), 36).pushed_back(40, start).pushed_back(40, start);
        assert_eq!(window.limit(), 20);
        assert_eq!(grown(window, 19).limit(), 20);
        assert_eq!(grown(window, 20).limit(), 21);
        assert_eq!(window.pushed_back(8, start).limit(), 7);
        let again = window.pushed_back(20, start + Duration::from_secs(2));
        assert_eq!(again.limit(), 10);
        let few = grown(Window::new(MOST), 36).pushed_back(6, start);
        assert_eq!(few.limit(), 3, "what counts is how many were open");
        assert_eq!(Window::new(1).pushed_back(1, start).limit(), 1);
    }

    #[test]
    fn only_what_is_about_the_server_asks_for_fewer() {
        let reply = |code, enhanced| Reply { code, enhanced, lines: vec![String::new()] };
        let cases = [
            (Stage::Greeting, reply(421, None), true),
            (Stage::Greeting, reply(450, None), true),
            (Stage::Mail, reply(452, Some(EnhancedStatus(4, 3, 1))), true),
            (Stage::Dot, reply(451, None), true),
            (Stage::Recipient, reply(451, Some(EnhancedStatus(4, 3, 2))), true),
            (Stage::Recipient, reply(450, Some(EnhancedStatus(4, 2, 1))), false),
            (Stage::Recipient, reply(452, Some(EnhancedStatus(4, 5, 3))), false),
            (Stage::Recipient, reply(450, None), false),
            (Stage::Recipient, reply(421, None), true),
            (Stage::Mail, reply(550, None), false),
            (Stage::Dot, reply(250, None), false),
        ];
        for (stage, reply, expected) in cases {
            assert_eq!(asks_for_fewer(stage, &reply), expected, "{stage:?} {reply}");
        }
    }
}
