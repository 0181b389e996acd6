//! What the relay does with mail.

mod handover;
