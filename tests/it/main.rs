//! The one test binary: sentences about the product, driven through its doors.
//! What they stand on is in `support`.

#![allow(clippy::unwrap_used)]

mod browser;
mod canary;
mod command_line;
mod config;
mod journeys;
mod mail;
mod private_postgres;
mod relay;
mod secret;
mod store;
mod support;
mod web;
