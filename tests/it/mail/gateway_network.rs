//! Where a tenant's gateway may be, so that its address is no way into the platform's own network.
//! A table of literals, with the disguises that addresses can wear.

use std::net::IpAddr;

use outgate::policy::gateway_network::{self, AllowedNetworks, Ports, Refusal, check, check_address, check_port};

/// `None`: a tenant's gateway may be there.
#[rustfmt::skip]
const ADDRESSES: &[(&str, Option<Kind>)] = &[
    // Public.
    ("192.0.2.7", None),
    ("198.51.100.7", None),
    ("203.0.113.7", None),
    ("8.8.8.8", None),
    ("1.0.0.1", None),
    ("9.255.255.255", None),
    ("11.0.0.0", None),
    ("100.63.255.255", None),
    ("100.128.0.0", None),
    ("126.255.255.255", None),
    ("128.0.0.0", None),
    ("169.253.255.255", None),
    ("169.255.0.0", None),
    ("172.15.255.255", None),
    ("172.32.0.0", None),
    ("192.0.1.0", None),
    ("192.167.255.255", None),
    ("192.169.0.0", None),
    ("198.17.255.255", None),
    ("198.20.0.0", None),
    ("223.255.255.255", None),
    ("2001:db8::7", None),
    ("2606:4700::1111", None),
    ("::ffff:192.0.2.7", None),
    ("64:ff9b::192.0.2.7", None),
    ("2002:c000:207::1", None),
    // This machine.
    ("127.0.0.1", Some(Refusal::Loopback)),
    ("127.255.255.255", Some(Refusal::Loopback)),
    ("0.0.0.0", Some(Refusal::Loopback)),
    ("0.0.0.1", Some(Refusal::Loopback)),
    ("0.255.255.255", Some(Refusal::Loopback)),
    ("::1", Some(Refusal::Loopback)),
    ("::", Some(Refusal::Loopback)),
    ("::2", Some(Refusal::Loopback)),
    ("::127.0.0.1", Some(Refusal::Loopback)),
    ("::ffff:127.0.0.1", Some(Refusal::Loopback)),
    ("::ffff:7f00:1", Some(Refusal::Loopback)),
    ("::ffff:0:127.0.0.1", Some(Refusal::Loopback)),
    ("::ffff:0.0.0.0", Some(Refusal::Loopback)),
    ("64:ff9b::7f00:1", Some(Refusal::Loopback)),
    ("2002:7f00:1::", Some(Refusal::Loopback)),
    ("2002:7f00:1::1", Some(Refusal::Loopback)),
    ("2001:0:c000:207:0:0:80ff:fffe", Some(Refusal::Loopback)),
    ("2001:db8::5efe:127.0.0.1", Some(Refusal::Loopback)),
    ("2001:db8::200:5efe:127.0.0.1", Some(Refusal::Loopback)),
    // The platform's network.
    ("10.0.0.0", Some(Refusal::Private)),
    ("10.255.255.255", Some(Refusal::Private)),
    ("172.16.0.0", Some(Refusal::Private)),
    ("172.31.255.255", Some(Refusal::Private)),
    ("192.168.0.0", Some(Refusal::Private)),
    ("192.168.255.255", Some(Refusal::Private)),
    ("100.64.0.0", Some(Refusal::Private)),
    ("100.127.255.255", Some(Refusal::Private)),
    ("192.0.0.1", Some(Refusal::Private)),
    ("198.18.0.0", Some(Refusal::Private)),
    ("198.19.255.255", Some(Refusal::Private)),
    ("fc00::1", Some(Refusal::Private)),
    ("fdff:ffff::1", Some(Refusal::Private)),
    ("fec0::1", Some(Refusal::Private)),
    ("feff::1", Some(Refusal::Private)),
    ("::10.0.0.1", Some(Refusal::Private)),
    ("::ffff:10.0.0.1", Some(Refusal::Private)),
    ("::ffff:192.168.1.1", Some(Refusal::Private)),
    ("::ffff:0:10.0.0.1", Some(Refusal::Private)),
    ("64:ff9b::a00:1", Some(Refusal::Private)),
    ("64:ff9b:1::a00:1", Some(Refusal::Private)),
    ("64:ff9b:1::c000:207", Some(Refusal::Private)),
    ("2002:a00:1::", Some(Refusal::Private)),
    ("2002:c0a8:101::1", Some(Refusal::Private)),
    ("2001:0:c000:207:0:0:f5ff:fffe", Some(Refusal::Private)),
    ("2001:db8::5efe:10.0.0.1", Some(Refusal::Private)),
    // One link.
    ("169.254.0.1", Some(Refusal::LinkLocal)),
    ("169.254.255.255", Some(Refusal::LinkLocal)),
    ("fe80::1", Some(Refusal::LinkLocal)),
    ("febf::1", Some(Refusal::LinkLocal)),
    ("::ffff:169.254.0.1", Some(Refusal::LinkLocal)),
    ("64:ff9b::169.254.0.1", Some(Refusal::LinkLocal)),
    // A cloud platform's own services.
    ("169.254.169.254", Some(Refusal::Metadata)),
    ("169.254.170.2", Some(Refusal::Metadata)),
    ("169.254.170.23", Some(Refusal::Metadata)),
    ("169.254.42.42", Some(Refusal::Metadata)),
    ("100.100.100.200", Some(Refusal::Metadata)),
    ("168.63.129.16", Some(Refusal::Metadata)),
    ("192.0.0.192", Some(Refusal::Metadata)),
    ("fd00:ec2::254", Some(Refusal::Metadata)),
    ("fd00:ec2::23", Some(Refusal::Metadata)),
    ("fd20:ce::254", Some(Refusal::Metadata)),
    ("fd00:42::42", Some(Refusal::Metadata)),
    ("::ffff:169.254.169.254", Some(Refusal::Metadata)),
    ("::ffff:a9fe:a9fe", Some(Refusal::Metadata)),
    ("::169.254.169.254", Some(Refusal::Metadata)),
    ("64:ff9b::169.254.169.254", Some(Refusal::Metadata)),
    ("2002:a9fe:a9fe::1", Some(Refusal::Metadata)),
    // Nobody's.
    ("224.0.0.1", Some(Refusal::NotAServer)),
    ("239.255.255.255", Some(Refusal::NotAServer)),
    ("240.0.0.1", Some(Refusal::NotAServer)),
    ("255.255.255.255", Some(Refusal::NotAServer)),
    ("ff02::1", Some(Refusal::NotAServer)),
    ("ff05::2", Some(Refusal::NotAServer)),
    ("::ffff:255.255.255.255", Some(Refusal::NotAServer)),
    ("2002:e000:1::", Some(Refusal::NotAServer)),
];

type Kind = fn(IpAddr) -> Refusal;

fn ip(address: &str) -> IpAddr {
    address.parse().unwrap()
}

/// What kind of refusal, whichever address it names.
fn kind(refusal: Refusal) -> std::mem::Discriminant<Refusal> {
    std::mem::discriminant(&refusal)
}

fn allowed(networks: &[&str]) -> AllowedNetworks {
    AllowedNetworks {
        networks: networks.iter().map(|network| network.parse().unwrap()).collect(),
        listeners: vec![],
        ..Default::default()
    }
}

#[test]
fn a_gateway_may_be_at_public_addresses_only() {
    let mut wrong = Vec::new();
    for (address, refusal) in ADDRESSES {
        let answer = check(ip(address), 25, &AllowedNetworks::default());
        if answer.clone().err().map(kind) != refusal.map(|refusal| kind(refusal(ip(address)))) {
            wrong.push(format!("{address}: {answer:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn whatever_the_operator_allows_a_cloud_platforms_services_are_never_gateways() {
    let everything = allowed(&["0.0.0.0/0", "::/0"]);
    for (address, refusal) in ADDRESSES {
        let never = refusal.is_some_and(|refusal| kind(refusal(ip(address))) == kind(Refusal::Metadata(ip(address))));
        assert_eq!(check(ip(address), 25, &everything).is_err(), never, "{address}");
    }
}

#[test]
fn an_allowed_network_is_open_in_whatever_form_it_is_written_and_its_neighbours_are_not() {
    let office = allowed(&["10.1.0.0/16", "fd12:3456::/32"]);
    for open in ["10.1.2.3", "::ffff:10.1.2.3", "64:ff9b::10.1.2.3", "fd12:3456::1"] {
        assert_eq!(check(ip(open), 25, &office), Ok(()), "{open}");
    }
    for closed in ["10.2.0.1", "::ffff:10.2.0.1", "fd12:3457::1", "127.0.0.1"] {
        assert!(check(ip(closed), 25, &office).is_err(), "{closed}");
    }
}

#[test]
fn what_is_open_to_one_organization_is_open_beside_what_is_open_to_all_and_no_cloud_service_with_it() {
    let all = allowed(&["10.1.0.0/16"]);
    let everything: [ipnet::IpNet; 2] = ["172.16.0.0/12".parse().unwrap(), "169.254.0.0/16".parse().unwrap()];
    let own = all.with(&everything);
    for open in ["10.1.2.3", "172.16.0.9", "169.254.1.1", "64:ff9b::172.16.0.9"] {
        assert_eq!(check(ip(open), 25, &own), Ok(()), "{open}");
    }
    for closed in ["10.2.0.1", "192.168.0.1", "169.254.169.254"] {
        assert!(check(ip(closed), 25, &own).is_err(), "{closed}");
    }
    assert!(check(ip("172.16.0.9"), 25, &all).is_err(), "those of all stay what they were");
    for (network, may_be) in [("10.0.0.0/8", true), ("169.254.169.254/32", false), ("fd00:ec2::254/128", false)] {
        assert_eq!(gateway_network::check_network(&network.parse().unwrap()).is_ok(), may_be, "{network}");
    }
}

#[test]
fn an_allowed_listener_is_one_port_and_nothing_beside_it() {
    let demonstration = AllowedNetworks {
        networks: vec![],
        listeners: vec!["127.0.0.1:2526".parse().unwrap(), "[::1]:2526".parse().unwrap()],
        ..Default::default()
    };
    for open in ["127.0.0.1", "::ffff:127.0.0.1", "::1"] {
        assert_eq!(check(ip(open), 2526, &demonstration), Ok(()), "{open}");
        assert!(check(ip(open), 2525, &demonstration).is_err(), "{open}");
    }
    assert!(check(ip("127.0.0.2"), 2526, &demonstration).is_err());
}

#[test]
fn our_own_listeners_are_known_in_whatever_form_they_are_written() {
    let local = |ip: IpAddr| ip == "192.0.2.10".parse::<IpAddr>().unwrap();
    let is_ourselves = |listener: &str, gateway: &str, port| {
        gateway_network::is_ourselves(ip(gateway), port, &[listener.parse().unwrap()], local)
    };
    for gateway in ["127.0.0.1", "::ffff:127.0.0.1", "0.0.0.0", "::", "64:ff9b::7f00:1"] {
        assert!(is_ourselves("127.0.0.1:2525", gateway, 2525), "{gateway}");
        assert!(!is_ourselves("127.0.0.1:2525", gateway, 2526), "{gateway}");
    }
    // A listener for all addresses of the machine.
    for gateway in ["127.0.0.1", "127.0.0.9", "192.0.2.10", "::ffff:192.0.2.10", "0.0.0.0"] {
        assert!(is_ourselves("0.0.0.0:25", gateway, 25), "{gateway}");
        assert!(is_ourselves("[::]:25", gateway, 25), "{gateway}");
    }
    assert!(is_ourselves("[::]:25", "::1", 25));
    for others in ["192.0.2.11", "2001:db8::7"] {
        assert!(!is_ourselves("0.0.0.0:25", others, 25), "{others}");
    }
    assert!(!is_ourselves("127.0.0.1:25", "127.0.0.2", 25));
}

#[test]
fn a_gateway_may_use_the_ports_of_mail_and_those_that_no_service_of_a_system_has() {
    let usual = AllowedNetworks::default();
    for (port, is_open) in [
        (25, true),
        (465, true),
        (587, true),
        (1024, true),
        (2525, true),
        (65535, true),
        (1, false),
        (22, false),
        (26, false),
        (80, false),
        (443, false),
        (1023, false),
    ] {
        assert_eq!(check_port(port, &usual).is_ok(), is_open, "{port}");
        // A name is not looked up for it, and an address is not enough.
        for host in ["mail.example.com", "192.0.2.7", "[2001:db8::7]"] {
            let address = format!("{host}:{port}").parse().unwrap();
            assert_eq!(check_address(&address, &usual).is_ok(), is_open, "{address}");
        }
    }
    let refusal = check_port(22, &usual).unwrap_err().to_string();
    assert_eq!(
        refusal,
        "Port 22 is not one that gateways may use. Enter another, usually 25 or 587; allowed are 25, 465, 587, \
         1024–65535."
    );
    assert_eq!(Ports::USUAL.parse::<Ports>().unwrap(), Ports::default());
}

#[test]
fn the_operator_lists_ports_and_ranges() {
    let ports: Ports = " 25, 2525-2530 ".parse().unwrap();
    let allowed = AllowedNetworks { ports: ports.clone(), ..AllowedNetworks::default() };
    for (port, is_open) in [(25, true), (2524, false), (2525, true), (2530, true), (2531, false), (587, false)] {
        assert_eq!(check_port(port, &allowed).is_ok(), is_open, "{port}");
    }
    assert_eq!(ports.to_string(), "25, 2525–2530");
    for wrong in ["", "25,", "mail", "0", "70000", "30-20", "1-", "-5", "25;26"] {
        let mistake = wrong.parse::<Ports>().unwrap_err();
        assert!(mistake.contains("is neither a port nor a range of ports"), "{wrong}: {mistake}");
    }
}
