//! What the relay does with mail.
//! One behaviour a file, named for it.

mod addresses;
mod backups;
mod curl;
mod delay_notice;
mod delivery;
mod demonstration_gateway;
mod fairness;
mod following;
mod grid;
mod handed_back;
mod handover;
mod held_mail;
mod limits;
mod live;
mod mx;
mod notification;
mod own_domains;
mod postfix;
mod queue;
mod record;
mod relay_credentials;
mod routing;
mod schedule;
mod secret_keys;
mod store_faults;
mod submission_content;
mod submission_dialogs;
mod submission_listener;
mod submission_proxy;
mod submission_session;
mod submission_tls;
mod swaks;
