//! How many attempts may be under way, and how they are shared out: one slow server must not have them
//! all, and while few ask nothing is left unused.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::store::queue::Lane;

/// The places for attempts. A lane may take one as long as it has fewer than are left for all the
/// others: alone it gets half of them, each of two gets a third, and there is always a place for the next.
#[derive(Debug)]
pub struct Permits {
    /// A std lock: held for counting only, never across an await.
    places: Mutex<Places>,
}

#[derive(Debug)]
struct Places {
    free: usize,
    taken: HashMap<Lane, usize>,
}

/// The right to one attempt, given back when dropped.
#[derive(Debug)]
pub struct AttemptPermit {
    permits: Arc<Permits>,
    lane: Lane,
}

impl Permits {
    pub fn new(places: usize) -> Self {
        Self { places: Mutex::new(Places { free: places, taken: HashMap::new() }) }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are left.
    pub fn free(&self) -> usize {
        self.places().free
    }

    /// The lanes that get no more for now.
    pub fn full(&self) -> Vec<Lane> {
        let places = self.places();
        places.taken.iter().filter(|(_, taken)| **taken >= places.free).map(|(lane, _)| *lane).collect()
    }

    /// Takes one, if the lane has not got its share.
    pub fn take(self: &Arc<Self>, lane: Lane) -> Option<AttemptPermit> {
        let mut places = self.places();
        let taken = places.taken.get(&lane).copied().unwrap_or_default();
        (taken < places.free).then(|| self.give(&mut places, lane))
    }

    /// Takes one for a message that is claimed already: its lane had not got its share before that.
    pub fn take_for_claimed(self: &Arc<Self>, lane: Lane) -> AttemptPermit {
        self.give(&mut self.places(), lane)
    }

    fn give(self: &Arc<Self>, places: &mut Places, lane: Lane) -> AttemptPermit {
        places.free = places.free.saturating_sub(1);
        *places.taken.entry(lane).or_default() += 1;
        AttemptPermit { permits: self.clone(), lane }
    }
}

impl Drop for AttemptPermit {
    fn drop(&mut self) {
        let mut places = self.permits.places();
        places.free += 1;
        if let Some(taken) = places.taken.get_mut(&self.lane) {
            *taken -= 1;
            if *taken == 0 {
                places.taken.remove(&self.lane);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::id::OrganizationId;

    #[test]
    fn one_lane_leaves_half_of_the_places_and_two_a_third() {
        let permits = Arc::new(Permits::new(60));
        let (one, other) = ((OrganizationId::new(), None), (OrganizationId::new(), None));
        let mut taken: Vec<_> = std::iter::from_fn(|| permits.take(one)).collect();
        assert_eq!((taken.len(), permits.free(), permits.full()), (30, 30, vec![one]));

        taken.extend(std::iter::from_fn(|| permits.take(other)));
        assert_eq!((taken.len(), permits.free()), (45, 15));
        taken.clear();
        assert_eq!((permits.free(), permits.full()), (60, vec![]));
    }
}
