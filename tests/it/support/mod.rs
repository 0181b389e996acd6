//! What every test stands on: an installation of its own with organizations in it.

pub mod following;
pub mod installation;
pub mod relay;
pub mod smtp_client;

pub use installation::{Installation, Tenant};
pub use smtp_client::SmtpClient;
