//! What the relay does with mail.

mod demonstration_gateway;
mod following;
mod handover;
mod routing;
mod submission_content;
mod submission_dialogs;
mod submission_listener;
mod delivery;
mod mx;
mod queue;
