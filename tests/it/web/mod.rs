//! What the pages do.
//! Over HTTP, signed in as an administrator is; what a browser shows is in `browser`.

mod account_file;
mod administration;
mod audit_log;
pub mod distribution_list;
mod domain_manager;
mod draft;
mod every_form;
mod explain_route;
pub mod gateway_record;
mod gateway_state;
mod gateways;
mod held_mail;
mod inbound_host;
mod job;
mod layers;
mod limits;
mod mail_account;
mod mail_account_manager;
pub mod message_trace;
mod must_use_gateway;
mod new_account;
mod notices;
mod organization_networks;
mod outbound_gateway;
mod outbound_mail_gateway;
mod outbound_queue;
mod outbound_volume;
mod pending_gateway;
mod pending_record;
mod probe_sender;
mod relay_credentials;
mod roles;
mod route_report;
mod selected_accounts;
mod selected_senders;
mod sign_in;
mod tenants;
pub mod test_message;
mod two_administrators;
mod undo;
mod unknown_senders;
mod verification;
mod waiting_mail;
mod web_mail_cloud;

use crate::support::Tenant;

/// The path of a page under Web Mail Cloud.
fn page_of(tenant: &Tenant, page: &str) -> String {
    format!("/{}/web-mail-cloud/{page}", tenant.slug)
}
