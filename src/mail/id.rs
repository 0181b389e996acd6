//! Identifiers of the things that facts are about. UUIDs of version 7: sortable, and telling one
//! tenant nothing about how many things the others have.

use std::collections::HashMap;

use uuid::Uuid;

/// A map of what is looked up for each message. Its keys are ids and names that stand in the store: nobody outside can
/// choose many of them, so that they need no hash that withstands that.
pub type QuickMap<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

macro_rules! id {
    ($($(#[$meta:meta])* $name:ident)+) => {$(
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub Uuid);

        impl $name {
            /// A new id; later ones sort behind earlier ones.
            pub fn new() -> Self {
                Self(Uuid::now_v7())
            }
        }

        impl Default for $name {
            fn default() -> Self {
                Self::new()
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = uuid::Error;

            fn from_str(typed: &str) -> Result<Self, Self::Err> {
                typed.parse().map(Self)
            }
        }
    )+};
}

id! {
    /// A tenant.
    OrganizationId
    /// One user's account.
    AccountId
    /// An organization's record of an external SMTP server.
    GatewayId
    /// What a client signs in to the relay with.
    CredentialId
    /// A distribution list.
    ListId
    /// Someone who signs in to the pages.
    AdministratorId
    /// One change with everything that it touched.
    ChangeId
    /// Work whose progress is shown.
    JobId
    /// A file of accounts on its way in.
    ImportId
    /// One question whether a gateway accepts our mail.
    VerificationId
    /// One test message that a relay sends to see it arrive.
    TestMessageId
    /// One relay worker.
    RelayId
    /// One waiting message. What `250 2.0.0 queued as …` says.
    QueueId
}

/// The installation-wide number of a change: "applied n" means all changes up to n.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Revision(pub i64);

impl std::fmt::Display for Revision {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}
