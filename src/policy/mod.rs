//! The decisions: pure functions of facts, `now` included. The relay acts on the same answers
//! that the pages and the command line explain.

pub mod account_file;
pub mod address_map;
pub mod arrival;
pub mod common_limits;
pub mod connections;
pub mod correspondents;
pub mod distribution_list;
pub mod explanation;
pub mod facts;
pub mod fault;
pub mod gateway_network;
pub mod gateway_record;
pub mod gateway_settings;
pub mod going_live;
pub mod limit;
pub mod limit_trial;
pub mod outbound_address;
pub mod pace;
pub mod present;
pub mod recent;
pub mod relay_credential;
pub mod retry;
pub mod role;
pub mod routing;
pub mod sender;
pub mod sign_in_limit;
pub mod throughput;
pub mod usual;
pub mod verification;
pub mod volume;
pub mod waiting;
pub mod webhook;
pub mod words;

pub use role::Role;
