//! Who is next where many wait for a connection to one server: organizations take turns, and in each of them its
//! senders. Between whoever waits and the connections that `pool` gives out in the order of their coming.

use std::{
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::{
    mail::id::{OrganizationId, QuickMap},
    store::queue::Sender,
};

/// How many of one sender stand in front, with all others' first ones. One would be fairest, and would leave
/// connections unused for the moment in which the next comes forward.
const OF_SENDER: usize = 4;
/// The same of one organization.
const OF_ORGANIZATION: usize = 16;

/// The lines behind those who stand in front.
#[derive(Debug, Default)]
pub struct Turns {
    senders: Lines<Sender>,
    organizations: Lines<OrganizationId>,
}

/// A place in front, given up when dropped: whoever has got a connection has had a turn.
#[derive(Debug)]
pub struct Turn<'a> {
    _of_sender: Place<'a, Sender>,
    _of_organization: Place<'a, OrganizationId>,
}

impl Turns {
    /// Waits until this sender may stand in front once more.
    pub async fn come_forward(&self, sender: Sender) -> Turn<'_> {
        let of_sender = self.senders.enter(sender, OF_SENDER).await;
        let of_organization = self.organizations.enter(sender.0, OF_ORGANIZATION).await;
        Turn { _of_sender: of_sender, _of_organization: of_organization }
    }
}

/// Those lines that somebody stands in. A std lock: held for a look-up.
#[derive(Debug)]
struct Lines<K>(Mutex<QuickMap<K, Arc<Semaphore>>>);

impl<K> Default for Lines<K> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

/// A place in a line or, with its permit, in front of it.
#[derive(Debug)]
struct Place<'a, K: Hash + Eq + Copy> {
    lines: &'a Lines<K>,
    key: K,
    line: Arc<Semaphore>,
    permit: Option<OwnedSemaphorePermit>,
}

impl<K: Hash + Eq + Copy> Lines<K> {
    fn lock(&self) -> MutexGuard<'_, QuickMap<K, Arc<Semaphore>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn enter(&self, key: K, in_front: usize) -> Place<'_, K> {
        let line = self.lock().entry(key).or_insert_with(|| Arc::new(Semaphore::new(in_front))).clone();
        // Whoever gives up while it waits leaves the line as well.
        let mut place = Place { lines: self, key, line, permit: None };
        // The semaphore is never closed.
        place.permit = place.line.clone().acquire_owned().await.ok();
        place
    }
}

impl<K: Hash + Eq + Copy> Drop for Place<'_, K> {
    fn drop(&mut self) {
        let mut lines = self.lines.lock();
        self.permit = None;
        // The one in the map and ours: nobody else stands there.
        if Arc::strong_count(&self.line) == 2 {
            lines.remove(&self.key);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use tokio::task::yield_now;

    use super::*;
    use crate::mail::id::AccountId;

    fn sender(organization: OrganizationId) -> Sender {
        (organization, Some(AccountId::new()))
    }

    /// A server with one connection, and who has had it, by number.
    struct Server {
        turns: Turns,
        connection: Arc<Semaphore>,
        order: Mutex<Vec<usize>>,
    }

    impl Server {
        /// So many messages of a sender come.
        async fn gets(self: &Arc<Self>, (sender, number): (Sender, usize), messages: usize) {
            for _ in 0..messages {
                let server = Arc::clone(self);
                tokio::spawn(async move {
                    let turn = server.turns.come_forward(sender).await;
                    let permit = server.connection.clone().acquire_owned().await;
                    drop(turn);
                    server.order().push(number);
                    yield_now().await;
                    drop(permit);
                });
            }
            for _ in 0..10 {
                yield_now().await;
            }
        }

        fn order(&self) -> MutexGuard<'_, Vec<usize>> {
            self.order.lock().unwrap_or_else(PoisonError::into_inner)
        }
    }

    #[tokio::test]
    async fn whoever_has_one_message_does_not_wait_for_all_of_another_sender_or_organization() {
        let (turns, connection, order) = (Turns::default(), Arc::new(Semaphore::new(1)), Mutex::default());
        let server = Arc::new(Server { turns, connection, order });
        let (one, other) = (OrganizationId::new(), OrganizationId::new());
        let taken = server.connection.clone().acquire_owned().await;
        server.gets((sender(one), 0), 100).await;
        server.gets((sender(one), 1), 1).await;
        for _ in 0..10 {
            server.gets((sender(one), 2), 10).await;
        }
        server.gets((sender(other), 3), 1).await;
        drop(taken);
        let all = async {
            while server.order().len() < 202 {
                yield_now().await;
            }
        };
        tokio::time::timeout(Duration::from_secs(10), all).await.expect("everybody gets a connection");

        let order = server.order();
        let place = |number| order.iter().position(|it| *it == number);
        assert_eq!(place(1), Some(OF_SENDER), "{order:?}");
        assert!(place(3) <= Some(OF_ORGANIZATION), "{order:?}");
        assert!(server.turns.senders.lock().is_empty() && server.turns.organizations.lock().is_empty());
    }
}
