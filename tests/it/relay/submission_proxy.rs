//! The PROXY protocol: whom a listed proxy names, and what becomes of everything else.
//! What others send with it is asked for in `submission_dialogs`.

use std::net::{IpAddr, SocketAddr};

use outgate::relay::{
    settings::Settings,
    submission::proxy::{Origin, read_header},
};
use proptest::prelude::*;
use tokio::{io::AsyncReadExt, net::TcpSocket};

use crate::support::{
    Certificate, SmtpClient,
    cases::cases,
    relay::{Reception, known_table, queued},
};

/// 127.0.0.9 is a proxy; 192.0.2.7 is trusted, and so is the proxy's own address.
async fn reception(certificate: Option<&Certificate>) -> Reception {
    let tls = certificate.map(Certificate::server);
    let adjust = |settings: &mut Settings| {
        settings.proxy_networks = vec!["127.0.0.9/32".parse().unwrap()];
        settings.trusted_networks = vec!["192.0.2.7/32".parse().unwrap(), "127.0.0.9/32".parse().unwrap()];
        settings.limits.connections_of_other_client = 1;
        settings.limits.handshake = std::time::Duration::from_millis(200);
        settings.tls = tls;
    };
    Reception::with(known_table(), adjust, || async { queued() }).await
}

async fn from_proxy(to: SocketAddr, header: &[u8]) -> SmtpClient {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.9:0".parse().unwrap()).unwrap();
    let mut client = SmtpClient::over(socket.connect(to).await.unwrap());
    client.send(header).await;
    client
}

fn version_2(command: u8, family: u8, addresses: &[u8]) -> Vec<u8> {
    let mut header = b"\r\n\r\n\0\r\nQUIT\n".to_vec();
    header.extend([command, family]);
    header.extend((addresses.len() as u16).to_be_bytes());
    header.extend(addresses);
    header
}

#[tokio::test]
async fn whom_a_proxy_names_is_trusted_traced_and_counted_by_that_address() {
    let reception = reception(None).await;
    let trusted = b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 25\r\n".to_vec();
    let in_version_2 = version_2(0x21, 0x11, &[192, 0, 2, 7, 198, 51, 100, 1, 1, 2, 0, 25, 4, 0, 1, 0]);
    for header in [trusted, in_version_2] {
        let mut client = from_proxy(reception.address, &header).await;
        assert!(client.reply().await.starts_with("220 "));
        client.say("EHLO client.example").await;
        assert_eq!(client.submit("ann@acme.example", "bob@far.example", "x").await, "250 2.0.0 queued\r\n");
        let received = &reception.accepted().pop().unwrap().received;
        assert!(received.starts_with("Received: from client.example ([192.0.2.7])\r\n"), "{received}");
    }
    let stranger = b"PROXY TCP6 2001:db8::9 2001:db8::1 40000 25\r\n";
    let mut client = from_proxy(reception.address, stranger).await;
    assert!(client.reply().await.starts_with("220 "));
    client.say("EHLO client.example").await;
    assert!(client.say("MAIL FROM:<ann@acme.example>").await.starts_with("550 5.7.1 2001:db8::9 may not "));
    let mut second = from_proxy(reception.address, stranger).await;
    assert!(second.reply().await.starts_with("421 4.7.0 "), "a stranger's limit is his own, not the proxy's");
}

#[tokio::test]
async fn who_is_not_named_is_served_and_trusted_with_nothing() {
    let reception = reception(None).await;
    for header in [b"PROXY UNKNOWN\r\n".to_vec(), version_2(0x20, 0, &[])] {
        let mut client = from_proxy(reception.address, &header).await;
        assert!(client.reply().await.starts_with("220 "));
        client.say("EHLO client.example").await;
        assert!(client.say("MAIL FROM:<ann@acme.example>").await.starts_with("550 5.7.1 127.0.0.9 may not "));
        client.say("QUIT").await;
        assert_eq!(client.reply().await, "");
    }
}

#[tokio::test]
async fn a_listed_proxy_that_sends_no_header_is_refused() {
    let reception = reception(None).await;
    for beginning in [&b""[..], b"EHLO client.example\r\n", b"PROXY TCP4 192.0.2.7\r\n", b"PROXY TCP4 x y 1 2\r\n"] {
        let mut client = from_proxy(reception.address, beginning).await;
        let said = client.reply().await;
        assert_eq!(said, "554 5.5.0 A PROXY header is expected from this address first\r\n", "{beginning:?}");
        assert_eq!(client.reply().await, "");
    }
}

#[tokio::test]
async fn a_header_comes_before_tls_where_a_connection_begins_with_it() {
    let certificate = Certificate::new();
    let reception = reception(Some(&certificate)).await;
    let client = from_proxy(reception.encrypted.unwrap(), b"PROXY TCP4 192.0.2.7 198.51.100.1 40000 465\r\n").await;
    let mut client = client.encrypt(&certificate.client()).await.unwrap();
    assert!(client.reply().await.starts_with("220 "));
    client.say("EHLO client.example").await;
    assert_eq!(client.submit("ann@acme.example", "bob@far.example", "x").await, "250 2.0.0 queued\r\n");
    assert!(reception.accepted()[0].received.contains(" ([192.0.2.7])\r\n\tby relay.example with ESMTPS id "));
}

#[tokio::test]
async fn a_header_is_read_to_its_end_and_not_a_byte_further() {
    let client = |text: &str| Origin::Client(text.parse::<IpAddr>().unwrap());
    let v6 = [[0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 9]; 2].concat();
    for (header, expected) in [
        (b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2\r\n".to_vec(), client("192.0.2.7")),
        (b"PROXY TCP6 ::ffff:192.0.2.7 ::1 1 2\r\n".to_vec(), client("192.0.2.7")),
        (b"PROXY UNKNOWN and whatever\r\n".to_vec(), Origin::Unnamed),
        (version_2(0x21, 0x21, &[&v6[..], &[0, 1, 0, 2]].concat()), client("2001:db8::9")),
        (version_2(0x21, 0, &[]), Origin::Unnamed),
    ] {
        let bytes = [&header[..], b"EHLO"].concat();
        let mut rest = &bytes[..];
        assert_eq!(read_header(&mut rest).await.unwrap(), expected, "{header:?}");
        assert_eq!(rest, b"EHLO");
    }
    for header in [
        b"PROXY TCP4 2001:db8::1 ::1 1 2\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1 70000\r\n".to_vec(),
        b"PROXY TCP4 192.0.2.7 198.51.100.1 1 2 3\r\n".to_vec(),
        [b"PROXY UNKNOWN ".to_vec(), vec![b'x'; 200], b"\r\n".to_vec()].concat(),
        version_2(0x21, 0x11, &[192, 0, 2]),
        version_2(0x11, 0x11, &[0; 12]),
        version_2(0x21, 0x11, &[0; 5000]),
        b"PROXY".to_vec(),
    ] {
        assert!(read_header(&mut &header[..]).await.is_err(), "{header:?}");
    }
}

proptest! {
    #![proptest_config(cases(500))]

    #[test]
    fn no_bytes_break_the_reading_of_a_header(
        version_2 in any::<bool>(), bytes in prop::collection::vec(any::<u8>(), 0..200),
    ) {
        let beginning: &[u8] = if version_2 { b"\r\n\r\n\0\r\nQUIT\n" } else { b"PROXY " };
        let bytes = [beginning, &bytes[..]].concat();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let mut rest = &bytes[..];
            let _ = read_header(&mut rest).await;
            let _ = rest.read_u8().await;
        });
    }
}
