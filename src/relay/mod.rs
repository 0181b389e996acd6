//! Front door 2: takes submitted mail, and hands it over to the gateway that its sender's
//! administrators chose, or queues it. Knows nothing of pages.

pub mod demonstration_gateway;
pub mod follow;
pub mod message;
pub mod routing_table;
pub mod settings;
pub mod submission;
