//! A gateway's name that leads to several addresses, and to others the next time.

use std::net::SocketAddr;

use sqlx::PgPool;
use tokio::net::{TcpSocket, TcpStream};

use crate::support::{
    Gateway, Sending,
    dns::Dns,
    gateway::{At, Fault},
    sending::{Options, names},
};

const NAME: &str = "gateway.elsewhere.example";

/// The same port at three addresses of this machine.
async fn gateway_at(address: &str, port: u16) -> Gateway {
    Gateway::start_on(format!("{address}:{port}").parse().unwrap()).await
}

#[sqlx::test]
async fn the_next_address_is_tried_where_one_does_not_take_mail_and_remembered(db: PgPool) {
    let second = Gateway::start().await;
    let port = second.address.port();
    let first = gateway_at("127.0.0.2", port).await;
    first.fails(At::Greeting, Fault::Says("554 5.3.2 out of order".into()));
    let names = names(&[(NAME, "127.0.0.2"), (NAME, "127.0.0.1")], &[]);
    let sending = Sending::with(db, Options { names, ..Options::default() }).await;
    sending.set_gateway(Some(&format!("{NAME}:{port}")));

    assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
    assert_eq!((first.connections(), second.so_far().len()), (1, 1));

    // A new connection goes straight to where it worked, and back only when that fails.
    sending.handover.pool().close().await;
    assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
    assert_eq!((first.connections(), second.so_far().len()), (1, 2));
    first.works_again();
    second.fails(At::Greeting, Fault::Closes);
    sending.handover.pool().close().await;
    assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
    assert_eq!(first.so_far().len(), 1);
}

#[sqlx::test]
async fn an_address_that_does_not_answer_costs_the_next_one_a_moment_only(db: PgPool) {
    let second = Gateway::start().await;
    let port = second.address.port();
    // Its queue of connections is full: a packet that gets lost looks the same.
    let socket = TcpSocket::new_v4().unwrap();
    let silent: SocketAddr = format!("127.0.0.2:{port}").parse().unwrap();
    socket.bind(silent).unwrap();
    let _listener = socket.listen(0).unwrap();
    let _in_queue = TcpStream::connect(silent).await.unwrap();
    let names = names(&[(NAME, "127.0.0.2"), (NAME, "127.0.0.1")], &[]);
    let sending = Sending::with(db, Options { names, ..Options::default() }).await;
    sending.set_gateway(Some(&format!("{NAME}:{port}")));

    // It would be given up after 30 seconds, and the client waits for 20.
    assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
    assert_eq!(second.so_far().len(), 1);
}

#[sqlx::test]
async fn a_name_that_leads_into_our_own_network_the_next_time_is_not_followed_there(db: PgPool) {
    let public = Gateway::start_on("127.0.0.2:0".parse().unwrap()).await;
    let port = public.address.port();
    let private = gateway_at("127.0.0.3", port).await;
    let dns = Dns::start(&[(NAME, "A 127.0.0.2")]).await;
    let options = Options { dns: Some(dns.address), allowed: "127.0.0.2/32", ..Options::default() };
    let sending = Sending::with(db, options).await;
    sending.set_gateway(Some(&format!("{NAME}:{port}")));
    assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");

    dns.set(NAME, "A 127.0.0.3");
    sending.handover.pool().close().await;
    assert!(sending.send().await.to_string().starts_with("250 2.0.0 queued as "));

    assert_eq!(private.connections(), 0);
    let reason = sending.waiting().await[0].last_reply.clone().unwrap();
    assert!(reason.contains("The name leads to where no gateway may be.") && !reason.contains("127.0.0.3"), "{reason}");

    // Of several addresses those are used that may be.
    dns.add(NAME, "A 127.0.0.2");
    sending.step_after(5).await;
    assert_eq!((public.received(2).await.len(), private.connections()), (2, 0));
}

#[sqlx::test]
async fn a_gateway_whose_name_is_mistyped_or_cannot_be_looked_up_is_waited_for(db: PgPool) {
    let gateway = Gateway::start().await;
    let dns = Dns::start(&[]).await;
    let sending = Sending::with(db, Options { dns: Some(dns.address), ..Options::default() }).await;
    sending.set_gateway(Some(&format!("{NAME}:{}", gateway.address.port())));
    for _ in 0..3 {
        assert!(sending.send().await.to_string().starts_with("250 2.0.0 queued as "));
    }
    let waiting = sending.waiting().await.remove(0);
    assert_eq!(waiting.attempts, 0, "nobody's message pays for a typing mistake");

    assert!(
        waiting.last_reply.as_deref().is_some_and(|words| words.ends_with("does not exist or has no address")),
        "{waiting:?}"
    );

    dns.add(NAME, "A 127.0.0.1");
    sending.step_after(5).await;
    sending.step_after(6).await;
    assert_eq!(gateway.received(3).await.len(), 3);
}

#[sqlx::test]
async fn a_gateway_is_reached_over_ipv6_by_its_address_and_by_a_name_that_has_both_kinds(db: PgPool) {
    let gateway = Gateway::start_on("[::1]:0".parse().unwrap()).await;
    let port = gateway.address.port();
    let names = names(&[(NAME, "::1"), (NAME, "127.0.0.1")], &[]);
    let options = Options { names, allowed: "127.0.0.0/8 ::1/128", ..Options::default() };
    let sending = Sending::with(db, options).await;

    sending.set_gateway(Some(&format!("[::1]:{port}")));
    assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
    sending.set_gateway(Some(&format!("{NAME}:{port}")));
    assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
    assert_eq!(gateway.so_far().len(), 2);

    // Where nobody answers over the one, mail goes over the other.
    gateway.stop().await;
    sending.handover.pool().close().await;
    let over_ipv4 = gateway_at("127.0.0.1", port).await;
    assert_eq!(sending.send().await.to_string(), "250 2.0.0 kept as 4711");
    assert_eq!(over_ipv4.so_far().len(), 1);
}

#[sqlx::test]
async fn an_ipv6_address_of_this_machine_is_no_gateway_unless_it_is_allowed(db: PgPool) {
    let gateway = Gateway::start_on("[::1]:0".parse().unwrap()).await;
    let sending = Sending::on(db).await;
    for typed in [format!("[::1]:{}", gateway.address.port()), format!("[::ffff:127.0.0.1]:{}", gateway.address.port())]
    {
        sending.set_gateway(Some(&typed));
        assert!(sending.send().await.to_string().starts_with("250 2.0.0 queued as "), "{typed}");
    }
    assert_eq!(gateway.connections(), 0);
}
