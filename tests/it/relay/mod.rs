//! What the relay does with mail.
