//! The network address of who is asking, for the log. What a request says about it counts only if
//! a proxy of the operator's passed it on.

use std::{convert::Infallible, net::IpAddr};

use axum::{extract::FromRequestParts, http::request::Parts};
use ipnet::IpNet;

use super::App;

/// The other end of the connection.
#[derive(Debug, Clone, Copy)]
pub struct Peer(pub IpAddr);

/// Where a request came from; `None` if it came by no connection, as in a test of the router alone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ClientAddress(pub Option<IpAddr>);

impl FromRequestParts<App> for ClientAddress {
    type Rejection = Infallible;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, Infallible> {
        let Some(Peer(peer)) = parts.extensions.get::<Peer>().copied() else { return Ok(Self(None)) };
        let forwarded = parts.headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok());
        let forwarded: Vec<&str> = forwarded.flat_map(|value| value.split(',')).map(str::trim).collect();
        Ok(Self(Some(client(peer, &forwarded, &app.settings.trusted_proxies))))
    }
}

/// Each proxy adds whom it heard from at the end: from there, the first that is no proxy of ours.
/// A listener for IPv6 and IPv4 sees IPv4 addresses mapped into IPv6 (RFC 4291 §2.5.5.2); they are one.
fn client(peer: IpAddr, forwarded: &[&str], proxies: &[IpNet]) -> IpAddr {
    let trusted = |ip: IpAddr| proxies.iter().any(|network| network.contains(&ip));
    let mut client = peer.to_canonical();
    for address in forwarded.iter().rev() {
        if !trusted(client) {
            break;
        }
        let Ok(before) = address.parse::<IpAddr>() else { break };
        client = before.to_canonical();
    }
    client
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_trusted_proxy_is_believed() {
        let proxies = ["10.0.0.0/8".parse().expect("a network")];
        let ip = |text: &str| text.parse::<IpAddr>().expect("an address");
        for (peer, forwarded, expected) in [
            ("192.0.2.1", vec!["198.51.100.7"], "192.0.2.1"),
            ("10.0.0.1", vec!["198.51.100.7"], "198.51.100.7"),
            ("10.0.0.1", vec!["203.0.113.9", "198.51.100.7", "10.0.0.2"], "198.51.100.7"),
            ("10.0.0.1", vec!["forged", "nonsense"], "10.0.0.1"),
            ("10.0.0.1", vec![], "10.0.0.1"),
            // As a listener on [::] sees an IPv4 address.
            ("::ffff:10.0.0.1", vec!["::ffff:10.0.0.2", "::ffff:198.51.100.7"], "198.51.100.7"),
        ] {
            assert_eq!(client(ip(peer), &forwarded, &proxies), ip(expected), "{peer} {forwarded:?}");
        }
    }
}
