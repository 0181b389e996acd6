//! Outgate: administrators say where their organization's outbound mail leaves, and a relay
//! sends it there.
//!
//! # The map
//!
//! | module | what it holds |
//! |---|---|
//! | [`mail`] | the words of mail: pure values, no input or output |
//! | [`secret`] | passwords that only relays can open |
//! | [`policy`] | the decisions: pure functions of facts |
//! | [`store`] | the facts: every SQL statement |
//! | [`web`] | front door 1: the administrators' pages |
//! | [`relay`] | front door 2: receiving, handing over, queueing |
//!
//! # Architecture invariants
//!
//! - { `mail`, `secret` } ← `policy` ← `store` ← { `web`, `relay` } ← `main`; an arrow points at who may import.
//! - `web` and `relay` never import each other: they meet in PostgreSQL.
//! - axum and askama appear in `web` only, SMTP sockets and DNS in `relay` only, SQL in `store` only.
//! - `mail` and `policy` read no clock, no random number, no setting: what they need is an argument.
//! - There are no repository traits, no service layer and no `utils`.

// How many random cases a test tries is said in one place, for unit tests as for the others.
#[cfg(test)]
#[path = "../tests/it/support/cases.rs"]
mod cases;
pub mod config;
pub mod mail;
pub mod policy;
pub mod private_postgres;
pub mod relay;
pub mod secret;
pub mod store;
pub mod telemetry;
pub mod web;
