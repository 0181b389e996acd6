//! What every test stands on: an installation of its own with organizations in it.

pub mod chromium;
pub mod installation;
pub mod world;

pub use installation::{Installation, Tenant};
