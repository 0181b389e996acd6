//! What the relay does with mail.

mod delivery;
mod handover;
mod mx;
mod queue;
