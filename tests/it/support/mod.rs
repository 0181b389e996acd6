//! What every test stands on: an installation of its own with organizations in it.

pub mod gateway;
pub mod installation;
pub mod sending;

pub use gateway::Gateway;
pub use installation::Installation;
pub use sending::Sending;
