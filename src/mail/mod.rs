//! The words of mail: addresses, envelopes, replies. Pure values that every other module shares;
//! nothing here reads a socket, a clock or the store.

pub mod approval_notice;
pub mod domain_name;
pub mod dsn;
pub mod envelope;
pub mod gateway_address;
pub mod gateway_notice;
pub mod id;
pub mod json_text;
pub mod limit_notice;
pub mod mailbox;
pub mod notify;
pub mod own_message;
pub mod received;
pub mod reply;
pub mod return_address;
pub mod short_id;
pub mod short_text;
pub mod test_message;

pub use domain_name::DomainName;
pub use envelope::Envelope;
pub use gateway_address::{GatewayAddress, GatewayHost};
pub use mailbox::Mailbox;
pub use reply::{EnhancedStatus, Reply};
pub use return_address::ReturnAddress;
pub use short_text::ShortText;
