//! How a gateway does, in the words that all pages use: what its mail says.
//! Filled from `store::gateway_health`; shown by `_gateway_state.html`.

use time::OffsetDateTime;

use super::wording::{self, ShownAddress};
use crate::{mail::id::GatewayId, store::gateway_health::Health};

/// What the mail says of a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownState {
    pub is_failing: bool,
    /// Nothing was seen of it.
    pub is_unknown: bool,
    /// `Last accepted mail 12 s ago`, `Failing since 14:02`.
    pub mail: String,
    /// What the gateway said, or what went wrong before it said anything.
    pub because: Option<String>,
    /// Where mail goes meanwhile.
    pub backup: Option<ShownAddress>,
}

impl ShownState {
    /// Of a gateway that was not seen at all since its last change, too.
    pub fn of(health: Option<&Health>, now: OffsetDateTime) -> Self {
        let since = health.and_then(|health| health.failing_since);
        let mail = match (since, health.and_then(|health| health.last_accepted_at)) {
            (Some(since), _) => format!("Failing since {}", wording::moment(since)),
            (None, Some(accepted)) => format!("Last accepted mail {}", wording::ago(accepted, now)),
            (None, None) => "No mail since its last change".to_owned(),
        };
        Self {
            is_failing: since.is_some(),
            is_unknown: since.is_none() && health.and_then(|health| health.last_accepted_at).is_none(),
            mail,
            because: health.and_then(|health| health.last_failure.clone()).filter(|_| since.is_some()),
            backup: health.and_then(|health| health.backup.as_ref()).filter(|_| since.is_some()).map(Into::into),
        }
    }

    /// That of one among those of an organization.
    pub fn among(all: &[Health], gateway: GatewayId, now: OffsetDateTime) -> Self {
        Self::of(all.iter().find(|health| health.gateway == gateway), now)
    }
}
