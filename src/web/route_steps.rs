//! Which gateway applies to one user, scope by scope: what is set at each, and which one decides.
//! Stands beside the user's gateway form and on the account's page, as `_steps.html`.

use super::wording::{ShownAddress, ShownRoute};
use crate::{
    mail::GatewayAddress,
    policy::routing::{PlatformDefault, Scope},
    store::account::ListedAccount,
};

/// One scope that may decide where the user's mail goes.
#[derive(Debug, Clone)]
pub struct Step {
    pub scope: &'static str,
    /// Whose it is, where that has a name.
    pub name: String,
    /// `None`: nothing is set there, or the platform sends directly.
    pub address: Option<ShownAddress>,
    pub is_platform: bool,
    pub applies: bool,
}

/// All scopes, nearest first.
pub fn steps(account: &ListedAccount, default: &PlatformDefault) -> Vec<Step> {
    let decided = ShownRoute::of(account.gateways.clone(), default).set_by;
    let step = |scope: Scope, title, name: String, address: Option<ShownAddress>| Step {
        scope: title,
        name,
        address,
        is_platform: scope == Scope::Platform,
        applies: scope == decided,
    };
    let shown = |gateway: &Option<GatewayAddress>| gateway.as_ref().map(ShownAddress::from);
    let platform = match default {
        PlatformDefault::Mx => None,
        PlatformDefault::Smarthost(address) => Some(address.into()),
    };
    vec![
        step(Scope::User, "User", String::new(), shown(&account.gateways.user)),
        step(Scope::Domain, "Domain", account.user_id.domain().to_unicode(), shown(&account.gateways.domain)),
        step(Scope::Organization, "Organization", String::new(), shown(&account.gateways.organization)),
        step(Scope::Platform, "Platform", String::new(), platform),
    ]
}
