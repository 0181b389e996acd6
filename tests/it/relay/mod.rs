//! What the relay does with mail.

mod following;
mod routing;
mod submission_content;
mod submission_dialogs;
mod submission_listener;
