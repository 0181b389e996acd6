//! Front door 2: takes submitted mail, and hands it over to the gateway that its sender's
//! administrators chose, or queues it. Knows nothing of pages.

pub mod handover;
pub mod message;
pub mod notification;
pub mod queue;
pub mod resolver;
pub mod routing_table;
pub mod transfer;
