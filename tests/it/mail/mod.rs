//! The words of mail: what people may type for an address, and what we write ourselves.
//! Pure values: no store and no sockets here.

mod domain_name;
mod gateway_address;
mod gateway_network;
mod mailbox;
mod notification;
