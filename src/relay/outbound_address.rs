//! The addresses that this machine's connections come from, as its operating system chooses them. Where the operator names
//! others (`OUTGATE_OUTBOUND_ADDRESSES`), those count.

use std::net::{IpAddr, SocketAddr, UdpSocket};

use ipnet::IpNet;

/// Somewhere in the Internet, of either version of IP: root servers of the DNS, whose addresses stay. Nothing is sent there.
const AFAR: [(&str, &str); 2] = [("0.0.0.0:0", "198.41.0.4:53"), ("[::]:0", "[2001:503:ba3e::2:30]:53")];

/// Of either version of IP that leads out of this machine. A datagram socket that is connected sends nothing: it only
/// chooses its own address.
pub fn of_this_machine() -> Vec<IpNet> {
    AFAR.iter().filter_map(|(any, afar)| towards(any, afar)).map(IpNet::from).collect()
}

fn towards(any: &str, afar: &str) -> Option<IpAddr> {
    let socket = UdpSocket::bind(any).ok()?;
    socket.connect(afar).ok()?;
    let own = socket.local_addr().as_ref().map(SocketAddr::ip).ok()?;
    (!own.is_unspecified() && !own.is_loopback()).then_some(own)
}
