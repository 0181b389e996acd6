//! A gateway that takes everything as fast as it can: `tls_sink PORT` without TLS on PORT, with STARTTLS on the next.
//! What `benches/tls` measures the relay with; in Rust, since it must not be the slower end.

use std::{error::Error, sync::Arc};

use rustls::{
    ServerConfig,
    crypto::ring,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // cargo calls every bench with --bench.
    let Some(port) = std::env::args().nth(1).and_then(|port| port.parse::<u16>().ok()) else { return Ok(()) };
    let made = rcgen::generate_simple_self_signed(["gateway.example".to_owned()])?;
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()?
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.into()], key)?;
    let tls = TlsAcceptor::from(Arc::new(config));
    let plain = TcpListener::bind(("127.0.0.1", port)).await?;
    let encrypted = TcpListener::bind(("127.0.0.1", port + 1)).await?;
    tokio::try_join!(serve(plain, None), serve(encrypted, Some(tls)))?;
    Ok(())
}

async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>) -> std::io::Result<()> {
    loop {
        let (stream, _) = listener.accept().await?;
        stream.set_nodelay(true)?;
        tokio::spawn(session(stream, tls.clone()));
    }
}

async fn session(mut stream: TcpStream, tls: Option<TlsAcceptor>) -> std::io::Result<()> {
    stream.write_all(b"220 gateway.example ESMTP\r\n").await?;
    let Some(tls) = tls else { return converse(stream).await };
    // What comes before STARTTLS comes a line at a time.
    let mut line = [0; 512];
    loop {
        let length = stream.read(&mut line).await?;
        match line[..length].get(..4) {
            Some(b"STAR") => break,
            Some(_) => stream.write_all(b"250-gateway.example\r\n250-PIPELINING\r\n250 STARTTLS\r\n").await?,
            None => return Ok(()),
        }
    }
    stream.write_all(b"220 begin\r\n").await?;
    converse(tls.accept(stream).await?).await
}

/// Lines are commands until DATA has come, and then text until the dot.
async fn converse(mut stream: impl AsyncRead + AsyncWrite + Unpin) -> std::io::Result<()> {
    let (mut input, mut answers, mut inside) = (Vec::with_capacity(64 * 1024), Vec::new(), false);
    loop {
        if stream.read_buf(&mut input).await? == 0 {
            return Ok(());
        }
        let mut taken = 0;
        while let Some(end) = memchr::memchr(b'\n', &input[taken..]) {
            let line = &input[taken..taken + end + 1];
            taken += end + 1;
            match (inside, line.get(..4)) {
                (true, _) if line == b".\r\n" => {
                    inside = false;
                    answers.extend_from_slice(b"250 taken\r\n");
                }
                (true, _) => {}
                (false, Some(b"DATA")) => {
                    inside = true;
                    answers.extend_from_slice(b"354 go on\r\n");
                }
                (false, Some(b"EHLO")) => answers.extend_from_slice(b"250-gateway.example\r\n250 PIPELINING\r\n"),
                (false, _) => answers.extend_from_slice(b"250 fine\r\n"),
            }
        }
        input.drain(..taken);
        stream.write_all(&answers).await?;
        stream.flush().await?;
        answers.clear();
    }
}
