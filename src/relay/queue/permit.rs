//! How many attempts may be under way, and how they are shared out: one slow server must not have them
//! all, and while few ask nothing is left unused.

use std::{
    collections::{HashMap, hash_map::Entry},
    hash::Hash,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use crate::{
    mail::id::{AccountId, OrganizationId},
    store::queue::{Lane, PassedOver},
};

/// The places for attempts. A lane may take one as long as it has fewer than are left for all the
/// others: alone it gets half of them, each of two gets a third, and there is always a place for the next. All lanes of
/// an organization together may have twice as many as are left, so that many slow gateways of one are no worse for the
/// others than one. An account may have half as many as are left: alone in a lane it leaves a third of that to the next.
#[derive(Debug)]
pub struct Permits {
    /// A std lock: held for counting only, never across an await.
    places: Mutex<Places>,
}

#[derive(Debug)]
struct Places {
    free: usize,
    by_lane: HashMap<Lane, usize>,
    by_account: HashMap<AccountId, usize>,
    by_organization: HashMap<OrganizationId, usize>,
}

impl Places {
    fn of(free: usize) -> Self {
        Self { free, by_lane: HashMap::new(), by_account: HashMap::new(), by_organization: HashMap::new() }
    }

    fn is_full_account(&self, taken: usize) -> bool {
        2 * taken >= self.free
    }

    fn is_full_lane(&self, taken: usize) -> bool {
        taken >= self.free
    }

    fn is_full_organization(&self, taken: usize) -> bool {
        taken >= 2 * self.free
    }

    fn is_full(&self, lane: &Lane, account: Option<AccountId>) -> bool {
        let in_lane = self.by_lane.get(lane).copied().unwrap_or_default();
        let of_account = account.and_then(|account| self.by_account.get(&account)).copied().unwrap_or_default();
        let in_organization = self.by_organization.get(&lane.0).copied().unwrap_or_default();
        self.is_full_lane(in_lane) || self.is_full_account(of_account) || self.is_full_organization(in_organization)
    }
}

fn take_one<K: Hash + Eq>(taken: &mut HashMap<K, usize>, key: K) {
    *taken.entry(key).or_default() += 1;
}

fn give_one_back<K: Hash + Eq>(taken: &mut HashMap<K, usize>, key: K) {
    if let Entry::Occupied(mut entry) = taken.entry(key) {
        *entry.get_mut() -= 1;
        if *entry.get() == 0 {
            entry.remove();
        }
    }
}

/// The right to one attempt, given back when dropped.
#[derive(Debug)]
pub struct AttemptPermit {
    permits: Arc<Permits>,
    lane: Lane,
    account: Option<AccountId>,
}

impl Permits {
    pub fn new(places: usize) -> Self {
        Self { places: Mutex::new(Places::of(places)) }
    }

    fn places(&self) -> MutexGuard<'_, Places> {
        self.places.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many are left.
    pub fn free(&self) -> usize {
        self.places().free
    }

    /// Who gets no more for now.
    pub fn full(&self) -> PassedOver {
        let places = self.places();
        let lanes = places.by_lane.iter().filter(|(_, taken)| places.is_full_lane(**taken));
        let accounts = places.by_account.iter().filter(|(_, taken)| places.is_full_account(**taken));
        let organizations = places.by_organization.iter().filter(|(_, taken)| places.is_full_organization(**taken));
        PassedOver {
            lanes: lanes.map(|(lane, _)| *lane).collect(),
            accounts: accounts.map(|(account, _)| *account).collect(),
            organizations: organizations.map(|(it, _)| *it).collect(),
        }
    }

    /// Takes one, if neither the lane nor the account nor their organization has got its share.
    pub fn take(self: &Arc<Self>, lane: Lane, account: Option<AccountId>) -> Option<AttemptPermit> {
        let mut places = self.places();
        (!places.is_full(&lane, account)).then(|| self.give(&mut places, lane, account))
    }

    /// Takes one for a message that is claimed already: nobody of these had got its share before that.
    pub fn take_for_claimed(self: &Arc<Self>, lane: Lane, account: Option<AccountId>) -> AttemptPermit {
        self.give(&mut self.places(), lane, account)
    }

    fn give(self: &Arc<Self>, places: &mut Places, lane: Lane, account: Option<AccountId>) -> AttemptPermit {
        places.free = places.free.saturating_sub(1);
        take_one(&mut places.by_lane, lane);
        if let Some(account) = account {
            take_one(&mut places.by_account, account);
        }
        take_one(&mut places.by_organization, lane.0);
        AttemptPermit { permits: self.clone(), lane, account }
    }
}

impl Drop for AttemptPermit {
    fn drop(&mut self) {
        let mut places = self.permits.places();
        places.free += 1;
        give_one_back(&mut places.by_lane, self.lane);
        if let Some(account) = self.account {
            give_one_back(&mut places.by_account, account);
        }
        give_one_back(&mut places.by_organization, self.lane.0);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mail::id::GatewayId;

    #[test]
    fn one_lane_leaves_half_of_the_places_and_two_a_third() {
        let permits = Arc::new(Permits::new(60));
        let (one, other) = ((OrganizationId::new(), None), (OrganizationId::new(), None));
        let mut taken: Vec<_> = std::iter::from_fn(|| permits.take(one, None)).collect();
        assert_eq!(
            (taken.len(), permits.free(), permits.full()),
            (30, 30, PassedOver { lanes: vec![one], ..PassedOver::default() })
        );

        taken.extend(std::iter::from_fn(|| permits.take(other, None)));
        assert_eq!((taken.len(), permits.free()), (45, 15));
        taken.clear();
        assert_eq!((permits.free(), permits.full()), (60, PassedOver::default()));
    }

    #[test]
    fn one_account_leaves_places_for_others_in_its_lane_and_everywhere() {
        let permits = Arc::new(Permits::new(60));
        let lane = (OrganizationId::new(), Some(GatewayId::new()));
        let (one, other) = (AccountId::new(), AccountId::new());
        let mut taken: Vec<_> = std::iter::from_fn(|| permits.take(lane, Some(one))).collect();
        assert_eq!((taken.len(), permits.full()), (20, PassedOver { accounts: vec![one], ..PassedOver::default() }));

        taken.extend(std::iter::from_fn(|| permits.take(lane, Some(other))));
        assert_eq!(taken.len(), 30, "the lane has its share");
        taken.clear();
        assert_eq!((permits.free(), permits.full()), (60, PassedOver::default()));
    }

    #[test]
    fn an_organization_with_very_many_lanes_leaves_a_third_of_the_places() {
        let permits = Arc::new(Permits::new(60));
        let (many, other) = (OrganizationId::new(), (OrganizationId::new(), None));
        let lanes = std::iter::repeat_with(|| (many, Some(GatewayId::new())));
        let taken: Vec<_> = lanes.map_while(|lane| permits.take(lane, Some(AccountId::new()))).collect();
        assert_eq!((taken.len(), permits.free()), (40, 20));
        assert_eq!(permits.full(), PassedOver { organizations: vec![many], ..PassedOver::default() });
        assert!(permits.full().contains(&(many, None)));

        assert_eq!(std::iter::from_fn(|| permits.take(other, None)).collect::<Vec<_>>().len(), 10);
    }
}
