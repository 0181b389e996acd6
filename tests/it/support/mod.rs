//! What every test stands on: an installation of its own with organizations in it.

pub mod browser;
pub mod installation;

pub use browser::{Browser, Page, Pages};
pub use installation::{Installation, Tenant};
