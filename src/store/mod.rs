//! The facts: every SQL statement of Outgate. Functions take the executor first and the
//! organization second; those that read across tenants say so in their names.

pub mod account;
pub mod account_file;
pub mod account_import;
pub mod account_list;
pub mod administrator;
pub mod approval_notice;
pub mod audit_log;
pub mod change;
pub mod columns;
pub mod correspondents;
pub mod delay_notice;
pub mod deleted_organization;
pub mod distribution_list;
pub mod domain;
pub mod explanation;
pub mod gateway;
pub mod gateway_facts;
pub mod gateway_health;
pub mod gateway_notice;
pub mod gateway_record;
pub mod held_mail;
pub mod job;
pub mod limit;
pub mod limit_notice;
pub mod limit_trial;
pub mod message_trace;
pub mod organization;
pub mod outbound_queue;
pub mod pending_gateway;
pub mod pending_record;
pub mod pool;
pub mod queue;
pub mod relay;
pub mod relay_credential;
pub mod roles;
pub mod routing_facts;
pub mod secret_key;
pub mod selected_accounts;
pub mod session;
pub mod tenant;
pub mod test_message;
pub mod throttle;
pub mod undo;
pub mod verification;
pub mod volume;
pub mod webhook;

use std::sync::LazyLock;

use sqlx::migrate::Migrator;

pub use tenant::{OrganizationTransaction, WebStore};

/// All migrations, compiled into the program. Those of a newer version, which this one does not know, are no
/// hindrance: it works on a store that the next version has migrated, so that an upgrade can be taken back.
pub static MIGRATOR: LazyLock<Migrator> = LazyLock::new(|| {
    let mut migrator = sqlx::migrate!();
    migrator.set_ignore_missing(true);
    migrator
});

pub type Result<T, E = sqlx::Error> = std::result::Result<T, E>;
