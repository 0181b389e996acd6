//! Who is served next while one organization has many clients: it gets so many turns in a round, and whoever else has
//! something to say comes in between. Asked by each [connection](super::connection) before it does anything with input.

use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicUsize, Ordering},
};

use tokio::{
    sync::{Notify, Semaphore},
    task::yield_now,
};

use crate::mail::id::{OrganizationId, QuickMap};

/// An organization with no more clients than this gets turns as it wants them: they hold nobody up.
const CROWD: usize = 16;
/// How many turns a crowd gets in a round. Its clients are served no slower by that: a round is over as soon as everybody
/// else who was ready has been served.
const TURNS: usize = 4;

/// The desks of all organizations that have clients, and the rounds.
#[derive(Debug, Default)]
pub struct Desks {
    /// A std lock: held for a look-up.
    of: Mutex<QuickMap<OrganizationId, Arc<Desk>>>,
    /// Where turns were taken in this round. A std lock: held to put one in.
    used: Mutex<Vec<Arc<Desk>>>,
    begins: Notify,
}

#[derive(Debug)]
struct Desk {
    clients: AtomicUsize,
    turns: Semaphore,
    /// In this round.
    taken: AtomicUsize,
}

/// A client's place at the desk of the organization whose mail it brings.
#[derive(Debug)]
pub struct Seat {
    desks: Arc<Desks>,
    at: Option<(OrganizationId, Arc<Desk>)>,
}

impl Desks {
    /// Begins one round after the other. Without it crowds wait for ever.
    pub async fn serve(self: Arc<Self>) {
        loop {
            self.begins.notified().await;
            // Comes back when all who are ready now have been served.
            yield_now().await;
            for desk in std::mem::take(&mut *lock(&self.used)) {
                desk.turns.add_permits(desk.taken.swap(0, Ordering::AcqRel));
            }
        }
    }

    fn took(&self, desk: &Arc<Desk>) {
        if desk.taken.fetch_add(1, Ordering::AcqRel) == 0 {
            lock(&self.used).push(Arc::clone(desk));
            self.begins.notify_one();
        }
    }
}

impl Seat {
    /// At nobody's desk yet.
    pub fn new(desks: &Arc<Desks>) -> Self {
        Self { desks: Arc::clone(desks), at: None }
    }

    /// Goes to the desk of this organization, if it is not there already.
    pub fn move_to(&mut self, organization: OrganizationId) {
        if self.at.as_ref().is_some_and(|(at, _)| *at == organization) {
            return;
        }
        self.leave();
        let mut desks = lock(&self.desks.of);
        let desk = desks.entry(organization).or_insert_with(|| Arc::new(Desk::new()));
        desk.clients.fetch_add(1, Ordering::Relaxed);
        self.at = Some((organization, Arc::clone(desk)));
    }

    /// Waits until it is this client's turn.
    pub async fn turn(&self) {
        let Some((_, desk)) = &self.at else { return };
        if desk.clients.load(Ordering::Relaxed) <= CROWD {
            return;
        }
        // It is never closed. The turn comes back with the next round.
        if let Ok(turn) = desk.turns.acquire().await {
            turn.forget();
            self.desks.took(desk);
        }
    }

    fn leave(&mut self) {
        let Some((organization, desk)) = self.at.take() else { return };
        let mut desks = lock(&self.desks.of);
        if desk.clients.fetch_sub(1, Ordering::Relaxed) == 1 {
            desks.remove(&organization);
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Desk {
    fn new() -> Self {
        Self { clients: AtomicUsize::new(0), turns: Semaphore::new(TURNS), taken: AtomicUsize::new(0) }
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::{task::JoinSet, time::timeout};

    use super::*;

    /// So many clients of each organization have something to say at once, in this order; in which they were served.
    async fn served(organizations: &[(OrganizationId, usize)]) -> Vec<OrganizationId> {
        let desks = Arc::new(Desks::default());
        let serving = tokio::spawn(Arc::clone(&desks).serve());
        let order = Arc::new(Mutex::new(Vec::new()));
        let mut clients = JoinSet::new();
        for (organization, clients_of_it) in organizations {
            for _ in 0..*clients_of_it {
                let mut seat = Seat::new(&desks);
                seat.move_to(*organization);
                let (order, organization) = (Arc::clone(&order), *organization);
                clients.spawn(async move {
                    seat.turn().await;
                    lock(&order).push(organization);
                    // Its connection stays open.
                    seat
                });
            }
        }
        let seats = timeout(Duration::from_secs(10), clients.join_all()).await.expect("everybody is served");
        drop(seats);
        assert!(lock(&desks.of).is_empty(), "nobody sits there any more");
        serving.abort();
        Arc::try_unwrap(order).unwrap().into_inner().unwrap()
    }

    #[tokio::test]
    async fn whoever_comes_behind_a_crowd_waits_for_a_few_of_it_and_a_crowd_is_served_to_the_last() {
        let (crowd, other) = (OrganizationId::new(), OrganizationId::new());
        let order = served(&[(crowd, 500), (other, 1)]).await;
        assert_eq!(order.len(), 501);
        assert_eq!(order.iter().position(|it| *it == other), Some(TURNS));
    }

    #[tokio::test]
    async fn a_few_are_served_as_they_come() {
        let (few, other) = (OrganizationId::new(), OrganizationId::new());
        let order = served(&[(few, CROWD), (other, 1)]).await;
        assert_eq!(order.iter().position(|it| *it == other), Some(CROWD));
    }
}
