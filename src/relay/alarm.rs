//! A time limit for one wait after the other, with a single timer. For connections, clients' and gateways', whose waits
//! are many and nearly always short.

use std::{
    future::{Future, poll_fn},
    pin::{Pin, pin},
    task::Poll,
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep};

/// Longer than any wait.
const NEVER: Duration = Duration::from_secs(24 * 60 * 60);

/// Rings too early rather than being set for each wait: then it is looked how late it is, and it is set anew. To set a
/// timer and to take it away again costs more than most waits for a command or a reply.
#[derive(Debug)]
pub struct Alarm(Pin<Box<Sleep>>);

impl Default for Alarm {
    fn default() -> Self {
        Self(Box::pin(sleep(NEVER)))
    }
}

impl Alarm {
    /// What came of it; `None` if nothing has by then.
    pub async fn until<T>(&mut self, deadline: Instant, waited_for: impl Future<Output = T>) -> Option<T> {
        if self.0.deadline() > deadline {
            self.0.as_mut().reset(deadline);
        }
        let mut waited_for = pin!(waited_for);
        poll_fn(|context| {
            if let Poll::Ready(came) = waited_for.as_mut().poll(context) {
                return Poll::Ready(Some(came));
            }
            while self.0.as_mut().poll(context).is_ready() {
                if Instant::now() >= deadline {
                    return Poll::Ready(None);
                }
                self.0.as_mut().reset(deadline);
            }
            Poll::Pending
        })
        .await
    }

    /// The same for so long.
    pub async fn within<T>(&mut self, limit: Duration, waited_for: impl Future<Output = T>) -> Option<T> {
        self.until(Instant::now() + limit, waited_for).await
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use super::*;

    /// Waits in vain; for how long.
    async fn in_vain(alarm: &mut Alarm, limit: Duration) -> Duration {
        let begun = Instant::now();
        assert_eq!(alarm.within(limit, pending::<()>()).await, None);
        begun.elapsed()
    }

    #[tokio::test]
    async fn each_wait_has_its_own_limit_whatever_came_before() {
        let [short, long, very_long] = [2, 20, 60_000].map(Duration::from_millis);
        let mut alarm = Alarm::default();
        assert_eq!(alarm.within(short, async { 1 }).await, Some(1));
        // Set for a short wait, it rings in the middle of a long one, which then goes on.
        assert!(in_vain(&mut alarm, long).await >= long);
        // It has rung.
        assert_eq!(alarm.within(very_long, sleep(short)).await, Some(()));
        // Set for a very long wait, it is early enough for a shorter one.
        let waited = in_vain(&mut alarm, long).await;
        assert!(waited >= long && waited < very_long, "{waited:?}");
    }
}
