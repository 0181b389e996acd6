//! What people may type for an address, and what becomes of it.

mod domain_name;
mod gateway_address;
mod gateway_network;
mod mailbox;
