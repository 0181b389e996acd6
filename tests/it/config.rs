//! What the operator sets, by flag or environment.
//! Each wrong value is answered in one sentence that names its setting.

use std::time::Duration;

use clap::{CommandFactory, Parser};
use outgate::{
    config::{PlatformSettings, RelaySettings, StoreSettings, WebSettings, wrong_setting},
    policy::{
        gateway_network::Ports,
        retry::{BackOff, Schedule},
        routing::PlatformDefault,
    },
};

#[derive(Debug, Parser)]
struct All {
    #[command(flatten)]
    store: StoreSettings,
    #[command(flatten)]
    platform: PlatformSettings,
    #[command(flatten)]
    web: WebSettings,
    #[command(flatten)]
    relay: RelaySettings,
}

fn with(flags: &[&str]) -> Result<All, String> {
    let all = All::try_parse_from([&["outgate"], flags].concat());
    all.map_err(|error| wrong_setting(&error, &All::command()).unwrap_or_else(|| error.to_string()))
}

#[test]
fn without_any_setting_everything_listens_on_loopback_only() {
    let all = with(&[]).unwrap();
    assert_eq!(all.web.http_listen, "127.0.0.1:8080".parse().unwrap());
    assert_eq!(all.web.public_url(&all.platform).as_str(), "http://127.0.0.1:8080");
    assert_eq!(all.relay.smtp_listen.0, ["127.0.0.1:2525".parse().unwrap()]);
    assert!(all.relay.trusted_networks.contain("127.9.9.9".parse().unwrap()));
    assert!(all.relay.trusted_networks.contain("::1".parse().unwrap()));
    assert!(all.relay.trusted_networks.contain("::ffff:127.0.0.1".parse().unwrap()));
    assert!(!all.relay.trusted_networks.contain("192.0.2.1".parse().unwrap()));
    assert!(all.platform.allowed_gateway_networks.0.is_empty());
    assert_eq!(all.platform.gateway_ports, Ports::default());
    assert!(all.relay.smtps_listen.0.is_empty() && all.relay.proxy_networks.0.is_empty());
    assert!(all.relay.outbound_addresses.0.is_empty());
    assert!(all.relay.handover);
    assert_eq!(all.relay.handover_wait, Duration::from_secs(20));
    assert_eq!(all.relay.max_staleness, Duration::from_secs(86_400));
}

#[test]
fn the_default_route_has_no_default() {
    let unset = with(&[]).unwrap().platform.required_default_route().unwrap_err().to_string();
    assert!(unset.starts_with("OUTGATE_DEFAULT_ROUTE is not set"), "{unset}");
    let route = |typed| with(&["--default-route", typed]).unwrap().platform.required_default_route().unwrap();
    assert_eq!(route("mx"), PlatformDefault::Mx);
    assert_eq!(route("MX"), PlatformDefault::Mx);
    assert_eq!(route("Mail.Example.com:587"), PlatformDefault::Smarthost("mail.example.com:587".parse().unwrap()));
}

#[test]
fn lists_are_separated_by_commas_or_blanks_and_may_be_empty() {
    let networks = |typed| with(&["--trusted-networks", typed]).unwrap().relay.trusted_networks.0;
    assert_eq!(networks(""), []);
    assert_eq!(
        networks("10.1.2.3/8, 2001:db8::7"),
        ["10.0.0.0/8".parse().unwrap(), "2001:db8::7/128".parse().unwrap()]
    );
    let outbound = with(&["--outbound-addresses", "203.0.113.7 2001:db8::/64"]).unwrap().relay.outbound_addresses.0;
    assert_eq!(outbound, ["203.0.113.7/32".parse().unwrap(), "2001:db8::/64".parse().unwrap()]);
    let listeners = with(&["--smtp-listen", "127.0.0.1:25,[::1]:25"]).unwrap().relay.smtp_listen.0;
    assert_eq!(listeners, ["127.0.0.1:25".parse().unwrap(), "[::1]:25".parse().unwrap()]);
}

#[test]
fn lengths_of_time_have_a_unit_or_are_seconds() {
    let staleness = |typed| with(&["--max-staleness", typed]).unwrap().relay.max_staleness.as_secs();
    assert_eq!(["20", "20s", "1m", "24h", "7d"].map(staleness), [20, 20, 60, 86_400, 604_800]);
    assert_eq!(with(&["--handover-wait", "35s"]).unwrap().relay.handover_wait.as_secs(), 35);
    for too_long in [["--handover-wait", "36s"], ["--max-staleness", "3651d"]] {
        assert!(with(&too_long).is_err(), "{too_long:?}");
    }
}

#[test]
fn how_long_mail_waits_is_the_operators_to_say() {
    assert_eq!(with(&[]).unwrap().relay.schedule().unwrap(), Schedule::default());
    let all = [
        "--queue-lifetime=36h",
        "--held-lifetime=30d",
        "--delay-notice=never",
        "--retry-first=5m",
        "--retry-longest=2h",
    ];
    let expected = Schedule {
        lifetime: time::Duration::hours(36),
        held_lifetime: time::Duration::days(30),
        delay_notice: None,
        first_retry: time::Duration::minutes(5),
        longest_retry: time::Duration::hours(2),
    };
    assert_eq!(with(&all).unwrap().relay.schedule().unwrap(), expected);
    let contradiction = with(&["--retry-first=2h"]).unwrap().relay.schedule().unwrap_err().to_string();
    assert_eq!(contradiction, "OUTGATE_RETRY_FIRST is longer than OUTGATE_RETRY_LONGEST: make it shorter.");
}

#[test]
fn how_long_a_failing_gateway_is_left_alone_is_the_operators_to_say() {
    assert_eq!(with(&[]).unwrap().relay.back_off().unwrap(), BackOff::default());
    let set = with(&["--gateway-retry-first=1s", "--gateway-retry-longest=1h"]).unwrap().relay.back_off().unwrap();
    assert_eq!(set, BackOff { first: time::Duration::SECOND, longest: time::Duration::HOUR });
    let contradiction = with(&["--gateway-retry-first=10m"]).unwrap().relay.back_off().unwrap_err().to_string();
    let words = "OUTGATE_GATEWAY_RETRY_FIRST is longer than OUTGATE_GATEWAY_RETRY_LONGEST: make it shorter.";
    assert_eq!(contradiction, words);
}

#[test]
fn the_public_url_is_a_server_and_nothing_more() {
    let url = |typed| {
        let all = with(&["--public-url", typed]).unwrap();
        all.web.public_url(&all.platform).to_string()
    };
    assert_eq!(url("https://Outgate.Example.com/"), "https://outgate.example.com");
    assert_eq!(url("http://192.0.2.7:8080"), "http://192.0.2.7:8080");
    assert_eq!(url("https://[2001:db8::7]:8443"), "https://[2001:db8::7]:8443");
    let everywhere = with(&["--http-listen", "0.0.0.0:9000"]).unwrap();
    assert_eq!(everywhere.web.public_url(&everywhere.platform).as_str(), "http://127.0.0.1:9000");
}

#[test]
fn a_wrong_setting_is_named_in_one_sentence() {
    for (flag, value, reason) in [
        ("--database-url", "mysql://root:secret@db/x", "not the URL of a PostgreSQL database"),
        ("--web-database-url", "db", "not the URL of a PostgreSQL database"),
        ("--relay-database-url", "postgres://u:secret@h:port/x", "not the URL of a PostgreSQL database"),
        ("--gateway-retry-longest", "2d", "“2d” is more than 1d"),
        ("--default-route", "a b", "contains a blank"),
        ("--allowed-gateway-networks", "10.0.0.0/33", "“10.0.0.0/33” is not a network"),
        ("--gateway-ports", "25,smtp", "“smtp” is neither a port nor a range of ports"),
        ("--http-listen", "8080", "“8080” is not an address to listen on"),
        ("--http-listen", "localhost:8080", "is not an address to listen on"),
        ("--public-url", "outgate.example.com", "is not the URL of a server"),
        ("--public-url", "ftp://outgate.example.com", "is not the URL of a server"),
        ("--public-url", "https://outgate.example.com/admin", "is not the URL of a server"),
        ("--public-url", "https://ann@outgate.example.com", "is not the URL of a server"),
        ("--trusted-proxies", "proxy.example.com", "“proxy.example.com” is not a network"),
        ("--outbound-addresses", "nat.example.com", "“nat.example.com” is not an address"),
        ("--outbound-addresses", "203.0.113.7,0.0.0.0", "“0.0.0.0” is not an address that a connection comes from"),
        ("--outbound-addresses", "203.0.0.0/8", "“203.0.0.0/8” is larger than a network of one's own"),
        ("--outbound-addresses", "::1", "“::1” is not an address that a connection comes from"),
        ("--list-members", "501", "501 is not in 1..=500"),
        ("--smtp-listen", "127.0.0.1:2525,25", "“25” is not an address to listen on"),
        ("--smtp-listen", "", "is not an address to listen on"),
        ("--smtps-listen", "465", "“465” is not an address to listen on"),
        ("--proxy-networks", "balancer", "“balancer” is not a network"),
        ("--hostname", "mail_1", "is not a domain name"),
        ("--relay-name", " ", "is not a name"),
        ("--trusted-networks", "all", "“all” is not a network"),
        ("--handover", "yes", "“yes” is neither on nor off"),
        ("--handover-wait", "20x", "“20x” is not a length of time"),
        ("--handover-wait", "0", "“0” is not a length of time"),
        ("--handover-wait", "-1s", "is not a length of time"),
        ("--queue-lifetime", "never", "“never” is not a length of time"),
        ("--delay-notice", "soon", "“soon” is not a length of time"),
        ("--retry-longest", "366d", "“366d” is more than 365d."),
        ("--max-staleness", "99999999999999999999d", "is not a length of time"),
    ] {
        let variable = match flag {
            "--database-url" => "DATABASE_URL".to_owned(),
            flag => format!("OUTGATE_{}", flag[2..].replace('-', "_").to_uppercase()),
        };
        let said = with(&[&format!("{flag}={value}")]).unwrap_err();
        assert!(said.starts_with(&format!("{variable}: ")), "{flag} {value}: {said}");
        assert!(said.contains(reason), "{flag} {value}: {said}");
        assert!(!said.contains("secret") && !said.contains('\n'), "{flag} {value}: {said}");
    }
}
