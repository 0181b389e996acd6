//! Which account has an address, of every address of the installation: by far the largest of the facts, so
//! the addresses themselves are not kept.

use std::{
    collections::{HashMap, HashSet},
    hash::{BuildHasher, BuildHasherDefault, Hasher, RandomState},
};

use crate::mail::id::AccountId;

/// Canonical addresses to accounts. Of an address 128 bits are kept that nobody outside can compute: two halves by
/// one keyed hash, whose key is drawn when the map is made. That two of a million addresses share them is less
/// likely than one in 10^26, and a look-up touches no memory but the map's own.
#[derive(Debug, Clone, Default)]
pub struct AddressMap {
    key: RandomState,
    accounts: HashMap<Fingerprint, AccountId, BuildHasherDefault<AsItIs>>,
}

type Fingerprint = (u64, u64);

impl AddressMap {
    /// The account that has exactly this address.
    pub fn get(&self, address: &str) -> Option<AccountId> {
        self.accounts.get(&self.fingerprint(address)).copied()
    }

    /// `None` forgets the address.
    pub fn set(&mut self, address: &str, account: Option<AccountId>) {
        let fingerprint = self.fingerprint(address);
        match account {
            Some(account) => self.accounts.insert(fingerprint, account),
            None => self.accounts.remove(&fingerprint),
        };
    }

    /// Forgets every address of these accounts, by looking at all.
    pub fn forget(&mut self, accounts: &HashSet<AccountId>) {
        self.accounts.retain(|_, account| !accounts.contains(account));
    }

    /// How many addresses there are.
    pub fn len(&self) -> usize {
        self.accounts.len()
    }

    pub fn is_empty(&self) -> bool {
        self.accounts.is_empty()
    }

    fn fingerprint(&self, address: &str) -> Fingerprint {
        // Not two keys: those that the standard library makes one after the other are only one apart.
        (self.key.hash_one((0_u8, address)), self.key.hash_one((1_u8, address)))
    }
}

/// Fingerprints are random already: the last half of one finds its place.
#[derive(Debug, Default)]
struct AsItIs(u64);

impl Hasher for AsItIs {
    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, half: u64) {
        self.0 = half;
    }

    fn finish(&self) -> u64 {
        self.0
    }
}
