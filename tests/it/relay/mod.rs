//! What the relay does with mail.
//! One behaviour a file, named for it.

mod curl;
mod delivery;
mod demonstration_gateway;
mod fairness;
mod following;
mod handover;
mod held_mail;
mod live;
mod mx;
mod postfix;
mod queue;
mod record;
mod routing;
mod secret_keys;
mod store_faults;
mod submission_content;
mod submission_dialogs;
mod submission_listener;
mod swaks;
