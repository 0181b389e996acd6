//! Signing in (RFC 4954): what clients say in AUTH, and what all sessions of a relay remember about it:
//! failures, rates, last uses, and how many connections each organization has.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use base64::{Engine, prelude::BASE64_STANDARD};
use time::OffsetDateTime;

use crate::{
    mail::id::{CredentialId, OrganizationId},
    policy::{
        relay_credential::{Allowance, RelayCredential},
        sign_in_limit::{Counted, Failures},
    },
    store::relay_credential::Use,
};

/// How a client signs in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mechanism {
    /// RFC 4616.
    Plain,
    /// A user name, then a password; written down nowhere, spoken by everything.
    Login,
    /// One that is not offered here.
    Other,
}

/// Where a sign-in stands that the client is in the middle of.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Exchange {
    Plain,
    LoginName,
    LoginPassword(String),
}

/// What a client answered, taken apart.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Given {
    /// The user name is canonical.
    Whole {
        user_name: String,
        secret: String,
    },
    More(Exchange),
    Malformed,
    /// On behalf of somebody else, which nobody may here.
    OnBehalf,
}

impl Exchange {
    /// Takes one answer in base64.
    pub fn take(self, answer: &str) -> Given {
        let Ok(decoded) = BASE64_STANDARD.decode(answer) else { return Given::Malformed };
        let Ok(text) = String::from_utf8(decoded) else { return Given::Malformed };
        match self {
            Self::Plain => plain(&text),
            Self::LoginName if text.contains('\0') => Given::Malformed,
            Self::LoginName => Given::More(Self::LoginPassword(text)),
            Self::LoginPassword(name) => whole(&name, &text),
        }
    }
}

/// RFC 4616 §2: whom to act for, a user name and a password, with NUL between them.
fn plain(message: &str) -> Given {
    let mut parts = message.split('\0');
    let (Some(acting_for), Some(name), Some(password), None) = (parts.next(), parts.next(), parts.next(), parts.next())
    else {
        return Given::Malformed;
    };
    if acting_for.is_empty() || acting_for == name { whole(name, password) } else { Given::OnBehalf }
}

fn whole(name: &str, password: &str) -> Given {
    if name.is_empty() || password.is_empty() || password.contains('\0') {
        return Given::Malformed;
    }
    let user_name = crate::policy::relay_credential::canonical_user_name(name);
    Given::Whole { user_name, secret: password.to_owned() }
}

/// What all sessions of a relay share. Std locks: held for look-ups, never across an await.
#[derive(Debug, Default)]
pub struct SignIns {
    failures: Mutex<Failures>,
    uses: Mutex<HashMap<CredentialId, Use>>,
    allowances: Mutex<HashMap<CredentialId, Allowance>>,
    connections: Mutex<HashMap<OrganizationId, usize>>,
}

impl SignIns {
    /// Whether a sign-in is looked at.
    pub fn permit(&self, client: IpAddr, user_name: &str, now: OffsetDateTime) -> bool {
        lock(&self.failures).permit(client, user_name, now)
    }

    pub fn note_failure(&self, client: IpAddr, user_name: &str, now: OffsetDateTime) {
        lock(&self.failures).add(client, user_name, now);
    }

    /// Notes that a credential was used.
    pub fn note_use(&self, credential: &RelayCredential, from: IpAddr, at: OffsetDateTime) {
        let (organization, id) = (credential.organization, credential.id);
        lock(&self.uses).insert(id, Use { organization, id, at, from });
    }

    /// Whether a credential may send one more message now; then that one is counted. A rate is each relay's own.
    pub fn take_allowance(&self, credential: &RelayCredential, now: OffsetDateTime) -> bool {
        let Some(rate) = credential.limits.messages_per_minute else { return true };
        let mut allowances = lock(&self.allowances);
        allowances.entry(credential.id).or_insert_with(|| Allowance::full(rate, now)).take(rate, now)
    }

    /// Forgets the rates of credentials that were not used for a day: theirs are full again.
    pub fn forget_unused(&self, now: OffsetDateTime) {
        let mut allowances = lock(&self.allowances);
        allowances.retain(|_, allowance| !allowance.is_unused(now));
        allowances.shrink_to_fit();
    }

    /// Of how many credentials the rate is counted.
    pub fn rates(&self) -> usize {
        lock(&self.allowances).len()
    }

    /// A place among the connections of an organization's credentials; `None` if it has `most` already, or as many as are
    /// left of those `of_all`: however many organizations take all they can get, there is room for another one.
    pub fn enter(
        self: &Arc<Self>,
        organization: OrganizationId,
        most: usize,
        of_all: usize,
    ) -> Option<OrganizationPlace> {
        let mut connections = lock(&self.connections);
        let left = of_all.saturating_sub(connections.values().sum());
        let own = connections.entry(organization).or_default();
        if *own >= most.min(left) {
            return None;
        }
        *own += 1;
        drop(connections);
        Some(OrganizationPlace { organization, sign_ins: Arc::clone(self) })
    }

    /// The uses since the last time.
    pub fn take_uses(&self) -> Vec<Use> {
        std::mem::take(&mut *lock(&self.uses)).into_values().collect()
    }

    /// Uses that could not be written; newer ones stay.
    pub fn give_back_uses(&self, uses: Vec<Use>) {
        let mut newer = lock(&self.uses);
        for used in uses {
            newer.entry(used.id).or_insert(used);
        }
    }

    pub fn take_failures(&self) -> Vec<(String, u32)> {
        lock(&self.failures).take_unreported()
    }

    pub fn give_back_failures(&self, failures: Vec<(String, u32)>) {
        lock(&self.failures).give_back(failures);
    }

    pub fn learn_failures(&self, counted: Vec<Counted>) {
        lock(&self.failures).learn(counted);
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One of an organization's connections, given back when it is dropped.
#[derive(Debug)]
pub struct OrganizationPlace {
    organization: OrganizationId,
    sign_ins: Arc<SignIns>,
}

impl Drop for OrganizationPlace {
    fn drop(&mut self) {
        let mut connections = lock(&self.sign_ins.connections);
        if let Some(own) = connections.get_mut(&self.organization) {
            *own -= 1;
            if *own == 0 {
                connections.remove(&self.organization);
            }
        }
    }
}
