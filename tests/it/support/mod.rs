//! What every test stands on: an installation of its own with organizations in it.
//! One file for each thing that tests handle: a browser, a gateway, a mail client, a machine.

pub mod authority;
pub mod browser;
pub mod cases;
pub mod certificate;
pub mod chromium;
pub mod dns;
pub mod exim;
pub mod following;
pub mod gateway;
pub mod installation;
pub mod ledger;
pub mod log;
pub mod outgate;
pub mod postfix;
pub mod relay;
pub mod sending;
pub mod smtp_client;
pub mod standby;
pub mod store_door;
pub mod world;

pub use browser::{Browser, Page, Pages};
pub use certificate::Certificate;
pub use gateway::Gateway;
pub use installation::{Installation, Queued, Tenant};
pub use sending::Sending;
pub use smtp_client::SmtpClient;
