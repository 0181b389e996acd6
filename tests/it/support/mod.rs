//! What every test stands on: an installation of its own with organizations in it.

pub mod installation;

pub use installation::{Installation, Tenant};
