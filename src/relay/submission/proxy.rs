//! The PROXY protocol, versions 1 and 2: what a listed proxy says in front of a connection about whose it is.
//! Read byte for byte, since what comes behind it belongs to the client.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

use tokio::io::{AsyncRead, AsyncReadExt};

/// The beginning of a header of version 2.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// The longest header of version 1, its line end included.
const LONGEST_LINE: usize = 107;
/// How much a header of version 2 may say beside the addresses.
const LONGEST_BLOCK: usize = 4096;

/// Whose connection it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    Client(IpAddr),
    /// The proxy itself, as to see whether we answer, or somebody that it does not name.
    Unnamed,
}

/// Reads the header that comes first on a connection from a proxy. An error: there is none, or it is malformed.
pub async fn read_header<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Origin> {
    let mut beginning = [0; SIGNATURE.len()];
    stream.read_exact(&mut beginning).await?;
    match beginning == SIGNATURE {
        true => version_2(stream).await,
        false => version_1(&beginning, stream).await,
    }
}

fn malformed() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "not a PROXY header")
}

async fn version_1<S: AsyncRead + Unpin>(beginning: &[u8], stream: &mut S) -> io::Result<Origin> {
    if !beginning.starts_with(b"PROXY ") {
        return Err(malformed());
    }
    let mut line = beginning.to_vec();
    while !line.ends_with(b"\r\n") {
        if line.len() == LONGEST_LINE {
            return Err(malformed());
        }
        line.push(stream.read_u8().await?);
    }
    let line = std::str::from_utf8(&line).map_err(|_| malformed())?;
    let mut words = line.trim_end().split(' ').skip(1);
    let (family, source, destination) = (words.next(), words.next(), words.next());
    let ports: Vec<Result<u16, _>> = words.map(str::parse).collect();
    let has_two_ports = ports.len() == 2 && ports.iter().all(Result::is_ok);
    let ip = |word: Option<&str>| word.and_then(|word| word.parse::<IpAddr>().ok());
    match (family, ip(source), ip(destination)) {
        (Some("UNKNOWN"), ..) => Ok(Origin::Unnamed),
        (Some("TCP4"), Some(source @ IpAddr::V4(_)), Some(IpAddr::V4(_)))
        | (Some("TCP6"), Some(source @ IpAddr::V6(_)), Some(IpAddr::V6(_)))
            if has_two_ports =>
        {
            Ok(Origin::Client(source.to_canonical()))
        }
        _ => Err(malformed()),
    }
}

async fn version_2<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Origin> {
    let version_and_command = stream.read_u8().await?;
    let family = stream.read_u8().await?;
    let length = usize::from(stream.read_u16().await?);
    if length > LONGEST_BLOCK {
        return Err(malformed());
    }
    let mut block = vec![0; length];
    stream.read_exact(&mut block).await?;
    match (version_and_command, family) {
        // LOCAL: the addresses say nothing.
        (0x20, _) => Ok(Origin::Unnamed),
        (0x21, 0x11) => {
            let source: [u8; 4] =
                block.get(..12).and_then(|addresses| addresses[..4].try_into().ok()).ok_or_else(malformed)?;
            Ok(Origin::Client(Ipv4Addr::from(source).into()))
        }
        (0x21, 0x21) => {
            let source: [u8; 16] =
                block.get(..36).and_then(|addresses| addresses[..16].try_into().ok()).ok_or_else(malformed)?;
            Ok(Origin::Client(IpAddr::from(Ipv6Addr::from(source)).to_canonical()))
        }
        (0x21, 0x00) => Ok(Origin::Unnamed),
        _ => Err(malformed()),
    }
}
