//! What the relay does with mail.

mod demonstration_gateway;
mod handover;
