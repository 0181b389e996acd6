//! What every test stands on: an installation of its own with organizations in it.

pub mod chromium;
pub mod installation;
pub mod world;
pub mod gateway;
pub mod sending;

pub use gateway::Gateway;
pub use installation::{Installation, Tenant};
pub use sending::Sending;
