//! Hand-over while the client waits: what the gateway says is what the client hears.

use sqlx::PgPool;

use crate::support::{
    Gateway, Sending,
    gateway::{At, Fault},
};

#[sqlx::test]
async fn a_message_is_handed_over_while_the_client_waits(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));

    let reply = sending.send().await;

    assert_eq!(reply.to_string(), "250 2.0.0 kept as 4711");
    let received = gateway.received(1).await.remove(0);
    assert_eq!(received.reverse_path, "ann@acme.example");
    assert_eq!(received.recipients, ["bob@elsewhere.example"]);
    assert_eq!(received.content, b"Subject: hello\r\n\r\nHello.\r\n");
    assert!(sending.waiting().await.is_empty());
}

#[sqlx::test]
async fn a_refused_message_goes_back_to_the_client_in_the_gateways_words(db: PgPool) {
    let gateway = Gateway::start().await;
    let sending = Sending::on(db).await;
    sending.set_gateway(Some(&gateway.address.to_string()));
    for (at, said) in [(At::Dot, "554 5.7.1 spam"), (At::Data, "554 5.6.0 no"), (At::Mail, "552 5.3.4 too big")] {
        gateway.says(at, said);
        let reply = sending.send().await;
        let (code, words) = said.split_at(said.rfind(' ').unwrap());
        let words = words.trim();
        let expected = match at {
            At::Mail => format!("552 5.3.4 gateway {} said: too big", gateway.address),
            _ => format!("{code} gateway {} said: {words}", gateway.address),
        };
        assert_eq!(reply.to_string(), expected, "{at:?}");
    }
    assert!(sending.waiting().await.is_empty());
    assert!(gateway.so_far().is_empty());
}

#[sqlx::test]
async fn a_gateway_that_cannot_take_mail_is_waited_for(db: PgPool) {
    let faults = [
        (At::Greeting, Fault::Says("554 5.7.1 go away".into())),
        (At::Greeting, Fault::Closes),
        (At::Ehlo, Fault::Says("421 4.3.2 shutting down".into())),
        (At::Ehlo, Fault::Says("garbage".into())),
        (At::Mail, Fault::Says("550 5.7.1 who are you".into())),
        (At::Mail, Fault::Closes),
        (At::Rcpt, Fault::Says("550 5.7.1 relaying denied".into())),
        (At::Rcpt, Fault::Says("450 4.2.1 later".into())),
        (At::Data, Fault::Says("451 4.3.0 later".into())),
        (At::Content, Fault::Closes),
        (At::Dot, Fault::Says("451 4.3.0 later".into())),
        (At::Dot, Fault::Closes),
    ];
    let sending = Sending::on(db).await;
    for (index, (at, fault)) in faults.into_iter().enumerate() {
        let gateway = Gateway::start().await;
        sending.set_gateway(Some(&gateway.address.to_string()));
        gateway.fails(at, fault.clone());
        let reply = sending.send().await;
        assert!(reply.to_string().starts_with("250 2.0.0 queued as "), "{at:?} {fault:?}: {reply}");
        assert_eq!(sending.waiting().await.len(), index + 1, "{at:?} {fault:?}");
    }
    assert!(sending.waiting().await.iter().all(|row| row.state == "waiting" && !row.leased));
}
