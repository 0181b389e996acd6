//! The queue at work: claims when something is due, renews leases, and gives them back at the end.
//! One loop for each relay, from its start to its stop; tests call the steps instead.

use std::{
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use time::OffsetDateTime;
use tokio::time::{Instant as Moment, MissedTickBehavior, interval, sleep, timeout, timeout_at};
use tokio_util::sync::CancellationToken;

use super::{Jump, Queue, lease::renewal_pause};
use crate::store::{
    self,
    pool::{in_time, within},
    queue::Leased,
};

/// The longest sleep: what another relay committed is found without being told.
const LONGEST: Duration = Duration::from_secs(30);
/// As long as a lane has its share of the attempts.
const WHILE_FULL: Duration = Duration::from_secs(1);
/// As long as a gateway is failing.
const WHILE_FAILING: Duration = Duration::from_secs(5);
/// Between two looks at messages that another relay is just taking.
const SHORTEST: Duration = Duration::from_millis(200);
/// The same while places come free and the store answers at once.
const WHILE_QUICK: Duration = Duration::from_millis(5);
/// After the store could not be asked.
const STORE_AWAY: Duration = Duration::from_secs(1);
/// How long the store may take for all that one turn asks of it: a queue may be large, and a store may be gone without a
/// word.
const TURN_WITHIN: Duration = Duration::from_secs(120);
/// How long attempts under way may take to end when the relay stops.
const GRACE: Duration = Duration::from_secs(25);
/// How long each of the last steps may take then: what does not end ends with the process.
const LAST_STEP: Duration = Duration::from_secs(1);

impl Queue {
    /// Works until `stop`; then ends what is under way, within a bound, and gives the rest back.
    pub async fn run(&self, stop: CancellationToken) {
        self.run_until(&stop, stop.clone(), GRACE).await;
    }

    /// The same. Messages may still be put in after `stop` until all are `received`; from `stop` on everything that
    /// is under way has `grace`.
    pub async fn run_until(&self, stop: &CancellationToken, received: CancellationToken, grace: Duration) {
        let told = async {
            stop.cancelled().await;
            Moment::now() + grace
        };
        let (grace_ends, ..) = tokio::join!(
            told,
            self.deliver(stop.clone()),
            self.keep_count(stop.clone()),
            self.keep_telling_of_gateways(stop.clone()),
            self.keep_telling_of_approvals(stop.clone()),
            self.upkeep(received),
        );
        self.shared.tasks.close();
        if timeout_at(grace_ends.max(Moment::now() + LAST_STEP), self.shared.tasks.wait()).await.is_err() {
            tracing::warn!(attempts = self.shared.tasks.len(), "attempts did not end in time");
        }
        // Only these: should another relay have taken over the name, the others are its own. Who is told to go no further
        // lets go of them.
        let held = self.shared.leases.all();
        // Whose leases are given back is not sent any more here.
        self.shared.abandoned.cancel();
        let _ = timeout(LAST_STEP, self.shared.handover.pool().close()).await;
        let released = store::queue::release_across_tenants(&self.shared.db, &held, OffsetDateTime::now_utc());
        if let Ok(released) = timeout(LAST_STEP, released).await {
            Self::given_back(released);
        }
    }

    /// Begins where the previous life of this relay ended: what it had is nobody's, and what its
    /// failing gateways were is not known. To be awaited before any mail is taken: whatever is leased
    /// to this relay then is not under way. Returns early at `stop`.
    pub async fn take_up(&self, stop: &CancellationToken) {
        self.shared.clock.look(Instant::now(), OffsetDateTime::now_utc());
        while !self.compare_clocks().await
            || !self.release_all().await
            || !self.make_all_due().await
            || !self.make_due_what_is_too_late().await
        {
            if stop.run_until_cancelled(sleep(STORE_AWAY)).await.is_none() {
                return;
            }
        }
    }

    async fn make_all_due(&self) -> bool {
        let due = store::queue::make_all_due_across_tenants(&self.shared.db, OffsetDateTime::now_utc()).await;
        due.inspect_err(|error| tracing::warn!(%error, "waiting mail could not be made due")).is_ok()
    }

    /// A clock that was ahead may have scheduled mail for a time that is far away.
    async fn make_due_what_is_too_late(&self) -> bool {
        self.mind_clock_set_back(OffsetDateTime::now_utc())
            .await
            .inspect_err(|error| tracing::warn!(%error, "mail that waits for too long could not be made due"))
            .is_ok()
    }

    /// Makes due at `now` what waits for longer than anything does whose clock was right.
    pub async fn mind_clock_set_back(&self, now: OffsetDateTime) -> store::Result<()> {
        let latest = self.shared.settings.schedule.latest_attempt(now);
        let messages = store::queue::make_due_what_is_too_late_across_tenants(&self.shared.db, now, latest).await?;
        if messages > 0 {
            tracing::warn!(messages, "mail was scheduled by a clock that was ahead, and is due now");
        }
        Ok(())
    }

    async fn look_at_clock(&self, now: OffsetDateTime) -> store::Result<()> {
        match self.shared.clock.look(Instant::now(), now) {
            None => Ok(()),
            Some(Jump::Forward(by)) => {
                tracing::warn!(%by, "the clock has jumped forward: no mail is given up for a quarter of an hour");
                Ok(())
            }
            Some(Jump::Backward(by)) => {
                tracing::warn!(%by, "the clock was set back");
                self.mind_clock_set_back(now).await
            }
        }
    }

    /// Leases are to end for all relays at the same moment, whatever their clocks say. Returns whether the store has told
    /// the time.
    async fn compare_clocks(&self) -> bool {
        let before = OffsetDateTime::now_utc();
        let told = in_time(store::relay::clock(&self.shared.db)).await;
        let told = told.inspect_err(|error| tracing::warn!(%error, "the store could not be asked what time it is"));
        let Ok(theirs) = told else { return false };
        if let Some(ahead) = self.shared.clock.compare(theirs, (before, OffsetDateTime::now_utc())) {
            tracing::warn!(%ahead, "the store's clock and this machine's differ: keep both by NTP");
        }
        true
    }

    async fn deliver(&self, stop: CancellationToken) {
        let mut facts = self.shared.table.applied();
        while !stop.is_cancelled() {
            facts.mark_unchanged();
            let began = Instant::now();
            let pause = within(TURN_WITHIN, self.turn()).await.unwrap_or_else(|error| {
                tracing::warn!(%error, "the queue could not be asked");
                STORE_AWAY
            });
            let took = began.elapsed();
            tokio::select! {
                () = stop.cancelled() => {}
                () = self.shared.wake.notified() => {}
                () = self.shared.handover.health().recovery() => {}
                // Somebody has changed a route, or chosen what becomes of mail. Many changes are one.
                Ok(()) = facts.changed() => {
                    stop.run_until_cancelled(sleep(SHORTEST)).await;
                }
                () = sleep(pause) => {}
            }
            if !self.shared.permits.full().is_empty() {
                // Whatever ends wakes us. Where much is due in the full lanes, to pass it over takes time, and is done
                // the more seldom.
                stop.run_until_cancelled(sleep((took * 4).clamp(WHILE_QUICK, SHORTEST))).await;
            }
        }
    }

    /// Starts attempts at what is due. Returns how long there is nothing more to do.
    async fn turn(&self) -> store::Result<Duration> {
        let now = OffsetDateTime::now_utc();
        // Until it is known that nothing has to wait for a place: attempts end meanwhile.
        self.shared.wants_places.store(true, Ordering::SeqCst);
        self.look_at_clock(now).await?;
        let permits = &self.shared.permits;
        let free = permits.free();
        if free == 0 {
            return Ok(LONGEST);
        }
        // All of it may be one account's: something is left for the others.
        let limit = free.div_ceil(3);
        let claimed = self.claim(limit, now).await?;
        let is_all = claimed.len() < limit;
        for entry in claimed {
            let permit = permits.take_for_claimed(entry.message.lane(), entry.message.sender_account);
            let held = self.hold(&entry.message, now);
            self.attempt_now(entry, held, permit, now);
        }
        if !is_all {
            return Ok(Duration::ZERO);
        }
        if !permits.full().is_empty() {
            // What is due may be just that which has to wait.
            return Ok(WHILE_FULL);
        }
        self.shared.wants_places.store(false, Ordering::SeqCst);
        let due = store::queue::next_due_across_tenants(&self.shared.db).await?;
        let pause = due.map_or(LONGEST, |due| (due - OffsetDateTime::now_utc()).try_into().unwrap_or(Duration::ZERO));
        let failing = !self.shared.handover.health().failing_gateways().is_empty();
        // What another relay has just committed is free when its lease ends.
        let longest = if failing { WHILE_FAILING } else { LONGEST.min(self.shared.settings.lease / 2) };
        Ok(pause.clamp(SHORTEST, longest.max(SHORTEST)))
    }

    async fn upkeep(&self, stop: CancellationToken) {
        let mut ticks = interval(renewal_pause(self.shared.settings.lease));
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while stop.run_until_cancelled(ticks.tick()).await.is_some() {
            self.shared.handover.pool().sweep(Instant::now(), OffsetDateTime::now_utc()).await;
            self.shared.handover.forget_unused(Instant::now());
            let held = self.shared.leases.all();
            self.compare_clocks().await;
            if let Err(error) = self.renew(&held, OffsetDateTime::now_utc()).await {
                tracing::warn!(%error, leases = held.len(), "leases could not be renewed");
            }
        }
    }

    /// Moves the end of leases. Where somebody else has taken the message meanwhile, nothing happens.
    pub(super) async fn renew(&self, leases: &[Leased], now: OffsetDateTime) -> store::Result<()> {
        if leases.is_empty() {
            return Ok(());
        }
        let until = self.lease_end(now);
        let held = in_time(store::queue::renew_across_tenants(&self.shared.db, leases, until)).await?;
        self.shared.leases.renewed(&held, until, now + self.shared.clock.store_ahead());
        Ok(())
    }

    /// Gives back the leases of this relay's previous life. Returns whether the store has done it.
    async fn release_all(&self) -> bool {
        let (db, relay) = (&self.shared.db, self.shared.settings.relay);
        Self::given_back(store::queue::release_all_across_tenants(db, relay, OffsetDateTime::now_utc()).await)
    }

    fn given_back(released: store::Result<u64>) -> bool {
        match released {
            Ok(messages) => {
                if messages > 0 {
                    tracing::info!(messages, "leases given back");
                }
                true
            }
            Err(error) => {
                tracing::warn!(%error, "leases could not be given back");
                false
            }
        }
    }
}
