//! Who wants to know how far a connection comes: a verification, which shows it. Mail has nobody watching.
//! Called by the dialer at each step.

use std::net::SocketAddr;

use super::connection::Connection;
use crate::{mail::Reply, policy::fault::Stage};

/// Sees each step of a connection while it is made.
pub trait Witness: Sync {
    fn begins(&self, stage: Stage);
    fn sees(&self, sight: Sight<'_>);
}

/// What there is to see.
#[derive(Debug)]
pub enum Sight<'a> {
    /// What the name leads to, and where a gateway may be.
    Addresses(&'a [SocketAddr]),
    Connected(SocketAddr, &'a Connection),
    Reply(&'a Reply),
    /// The handshake is done.
    Encrypted(&'a Connection),
    /// The handshake failed, and mail would go in clear.
    GoesOnInClear,
}

/// Nobody watches.
#[derive(Debug)]
pub struct Nobody;

impl Witness for Nobody {
    fn begins(&self, _: Stage) {}

    fn sees(&self, _: Sight<'_>) {}
}
