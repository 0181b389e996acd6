//! What stands around every page of an organization: the bar, the navigation and who is signed in.
//! Part of the template of each of them, `_console.html`.

use super::session::InOrganization;
use crate::store::session::Failing;

/// The pages under Web Mail Cloud: label and last segment of the path, in the order of the navigation.
pub const PAGES: [(&str, &str); 12] = [
    (super::outbound_mail_gateway::LABEL, "outbound-mail-gateway"),
    (super::mail_account_manager::LABEL, "mail-account-manager"),
    (super::domain_manager::LABEL, "domain-manager"),
    (super::gateways::LABEL, "gateways"),
    (super::distribution_lists::LABEL, "distribution-list"),
    (super::outbound_volume::LABEL, "outbound-volume"),
    (super::limits::LABEL, "limits"),
    (super::outbound_queue::LABEL, "outbound-queue"),
    (super::message_trace::LABEL, "message-trace"),
    (super::notices::LABEL, "notices"),
    (super::relay_credentials::LABEL, "relay-credentials"),
    (super::explain_route::LABEL, "explain-route"),
];

/// The frame of one page.
#[derive(Debug, Clone)]
pub struct Console {
    pub slug: String,
    pub organization: String,
    pub email: String,
    pub role: &'static str,
    /// Whether there are other organizations to go to.
    pub several: bool,
    /// The label of the page in the navigation that this one is or belongs to.
    pub here: &'static str,
    /// The gateways that fail, if administrators were told of any.
    pub failing: Option<Failing>,
}

impl Console {
    pub fn new(inside: &InOrganization, here: &'static str) -> Self {
        Self {
            slug: inside.access.slug.clone(),
            organization: inside.access.name.clone(),
            email: inside.access.email.clone(),
            role: inside.access.role.label(),
            several: inside.organizations > 1,
            here,
            failing: inside.failing.clone(),
        }
    }

    /// Whether this is the page with that label, or one that belongs to it.
    pub fn is_at(&self, label: &str) -> bool {
        self.here == label
    }

    /// The path of a page under Web Mail Cloud.
    pub fn path(&self, segment: &str) -> String {
        format!("/{}/web-mail-cloud/{segment}", self.slug)
    }
}
