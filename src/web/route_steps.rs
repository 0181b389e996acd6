//! Which gateway applies to one user, scope by scope: what is set at each, and which one decides.
//! Stands beside the user's gateway form and on the account's page, as `_steps.html`.

use super::wording::{ShownAddress, ShownRoute};
use crate::{
    mail::GatewayAddress,
    policy::{
        explanation::Leads,
        routing::{PlatformDefault, Scope},
    },
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
    /// What stands there instead of an address.
    pub words: &'static str,
    pub applies: bool,
    /// What is said of the scope that decides.
    pub verdict: &'static str,
}

/// What is said of the scope that decides, where mail of the sender is taken and where it is refused.
pub fn verdict(is_taken: bool) -> &'static str {
    if is_taken { "applies now" } else { "would apply" }
}

/// All scopes, nearest first.
pub fn steps(account: &ListedAccount, default: &PlatformDefault) -> Vec<Step> {
    let route = ShownRoute::of(account.gateways.clone(), default);
    let held_until = account.gateways.held_until.filter(|_| route.held.is_some());
    let step = |scope: Scope, title, name: String, address: Option<ShownAddress>| Step {
        scope: title,
        name,
        address,
        words: match scope {
            Scope::Platform => "directly to recipients' servers",
            Scope::Organization => held_until.and_then(|until| Leads::Nowhere(until).words()).unwrap_or("none"),
            _ => "none",
        },
        applies: scope == route.set_by,
        verdict: verdict(!account.suspended),
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
