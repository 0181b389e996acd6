//! The address of a gateway, as people type it: on a page, on the command line, in a setting.
//! One table for all doors, since they share the parser.

use outgate::mail::{
    DomainName, GatewayAddress, GatewayHost,
    gateway_address::GatewayAddressError::{self as Mistake, *},
};
use proptest::prelude::*;

/// What is typed, and the canonical form that is stored.
#[rustfmt::skip]
const ACCEPTED: &[(&str, &str)] = &[
    // Host names.
    ("mail.example.com", "mail.example.com"),
    ("archive", "archive"),
    ("localhost", "localhost"),
    ("MAIL.EXAMPLE.COM", "mail.example.com"),
    ("Mail.Example.Com", "mail.example.com"),
    ("mail.example.com.", "mail.example.com"),
    ("MAIL.EXAMPLE.COM.", "mail.example.com"),
    ("m", "m"),
    ("1mail.example.com", "1mail.example.com"),
    ("mail1.example.com", "mail1.example.com"),
    ("1.example.com", "1.example.com"),
    ("192.0.2.7.example.com", "192.0.2.7.example.com"),
    ("mail-1.eu-west.example.com", "mail-1.eu-west.example.com"),
    ("r3---sn.example.com", "r3---sn.example.com"),
    ("a.b.c.d.e.f.g.example.com", "a.b.c.d.e.f.g.example.com"),
    ("0xmail.example", "0xmail.example"),
    ("mail.0xyz", "mail.0xyz"),
    ("mail.example.c0m", "mail.example.c0m"),
    ("cafe", "cafe"),
    ("smtp", "smtp"),
    ("relay.example.com", "relay.example.com"),
    // Host names with a port.
    ("mail.example.com:587", "mail.example.com:587"),
    ("mail.example.com:25", "mail.example.com"),
    ("mail.example.com:1", "mail.example.com:1"),
    ("mail.example.com:465", "mail.example.com:465"),
    ("mail.example.com:2525", "mail.example.com:2525"),
    ("mail.example.com:65535", "mail.example.com:65535"),
    ("mail.example.com:0587", "mail.example.com:587"),
    ("mail.example.com:00025", "mail.example.com"),
    ("mail.example.com.:587", "mail.example.com:587"),
    ("MAIL.example.com.:25", "mail.example.com"),
    ("archive:2525", "archive:2525"),
    ("cafe:25", "cafe"),
    ("cafe:2525", "cafe:2525"),
    ("smtp:25", "smtp"),
    ("smtp:2525", "smtp:2525"),
    ("relay:587", "relay:587"),
    // Surrounding blanks, seen and unseen.
    (" mail.example.com", "mail.example.com"),
    ("mail.example.com ", "mail.example.com"),
    ("  mail.example.com:587  ", "mail.example.com:587"),
    ("\tmail.example.com\t", "mail.example.com"),
    ("mail.example.com\n", "mail.example.com"),
    ("mail.example.com\r\n", "mail.example.com"),
    ("\u{a0}mail.example.com\u{a0}", "mail.example.com"),
    ("\u{3000}mail.example.com", "mail.example.com"),
    ("\u{2009}mail.example.com", "mail.example.com"),
    ("\u{200b}mail.example.com", "mail.example.com"),
    ("mail.example.com\u{200b}", "mail.example.com"),
    ("\u{feff}mail.example.com", "mail.example.com"),
    ("\u{200e}mail.example.com\u{200f}", "mail.example.com"),
    ("\u{202a}mail.example.com\u{202c}", "mail.example.com"),
    ("\u{2068}mail.example.com\u{2069}", "mail.example.com"),
    (" \u{200b} \u{feff}192.0.2.7\u{a0}", "192.0.2.7"),
    (" [2001:db8::7]:587 ", "[2001:db8::7]:587"),
    // Names in other scripts.
    ("bücher.example", "xn--bcher-kva.example"),
    ("BÜCHER.example", "xn--bcher-kva.example"),
    ("bu\u{308}cher.example", "xn--bcher-kva.example"),
    ("bücher.example:587", "xn--bcher-kva.example:587"),
    ("xn--bcher-kva.example", "xn--bcher-kva.example"),
    ("XN--BCHER-KVA.example", "xn--bcher-kva.example"),
    ("faß.example", "xn--fa-hia.example"),
    ("почта.рф", "xn--80a1acny.xn--p1ai"),
    ("例え.テスト", "xn--r8jz45g.xn--zckzah"),
    ("例え。テスト", "xn--r8jz45g.xn--zckzah"),
    ("mail。example。com", "mail.example.com"),
    ("mail．example．com", "mail.example.com"),
    ("ｍａｉｌ.example.com", "mail.example.com"),
    ("ＭＡＩＬ.example.com:25", "mail.example.com"),
    ("\u{212a}elvin.example", "kelvin.example"),
    // IPv4.
    ("192.0.2.7", "192.0.2.7"),
    ("192.0.2.7:25", "192.0.2.7"),
    ("192.0.2.7:587", "192.0.2.7:587"),
    ("192.0.2.7:65535", "192.0.2.7:65535"),
    ("0.0.0.0", "0.0.0.0"),
    ("255.255.255.255", "255.255.255.255"),
    ("127.0.0.1", "127.0.0.1"),
    ("127.0.0.1:2526", "127.0.0.1:2526"),
    ("10.0.0.1", "10.0.0.1"),
    (" 192.0.2.7 ", "192.0.2.7"),
    ("[192.0.2.7]", "192.0.2.7"),
    ("[192.0.2.7]:25", "192.0.2.7"),
    ("[192.0.2.7]:587", "192.0.2.7:587"),
    // IPv6.
    ("2001:db8::7", "2001:db8::7"),
    ("2001:DB8::7", "2001:db8::7"),
    ("2001:0db8:0000:0000:0000:0000:0000:0007", "2001:db8::7"),
    ("2001:db8:0:0:0:0:0:7", "2001:db8::7"),
    ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2:3:4:5:6"),
    ("2001:db8::7:25", "2001:db8::7:25"),
    ("2001:db8::", "2001:db8::"),
    ("::1", "::1"),
    ("::", "::"),
    ("[::]", "::"),
    ("[::1]", "::1"),
    ("[2001:db8::7]", "2001:db8::7"),
    ("[2001:db8::7]:25", "2001:db8::7"),
    ("[2001:db8::7]:587", "[2001:db8::7]:587"),
    ("[2001:DB8::7]:0587", "[2001:db8::7]:587"),
    ("[2001:db8::7]:65535", "[2001:db8::7]:65535"),
    ("[IPv6:2001:db8::7]", "2001:db8::7"),
    ("[ipv6:2001:db8::7]", "2001:db8::7"),
    ("[IPV6:2001:db8::7]:587", "[2001:db8::7]:587"),
    ("[IPv6:::1]", "::1"),
    ("64:ff9b::192.0.2.7", "64:ff9b::c000:207"),
    ("fe80::1", "fe80::1"),
    // IPv4 in the clothes of IPv6 is IPv4, so that no rule for it can be walked around.
    ("::ffff:192.0.2.7", "192.0.2.7"),
    ("::ffff:c000:207", "192.0.2.7"),
    ("[::ffff:192.0.2.7]:587", "192.0.2.7:587"),
    ("[IPv6:::ffff:192.0.2.7]", "192.0.2.7"),
    ("0:0:0:0:0:ffff:192.0.2.7", "192.0.2.7"),
    ("::FFFF:192.0.2.7", "192.0.2.7"),
];

/// What is typed, and the kind of answer with what it repeats of it.
#[rustfmt::skip]
const REFUSED: &[(&str, Kind, &str)] = &[
    ("", NOTHING, ""),
    (" ", NOTHING, ""),
    ("\t\r\n", NOTHING, ""),
    ("\u{200b}\u{feff}", NOTHING, ""),
    ("\u{a0}\u{3000}", NOTHING, ""),
    // Not names.
    ("mail_host", NAME, "mail_host"),
    ("mail_1.example.com", NAME, "mail_1.example.com"),
    ("-mail.example.com", NAME, "-mail.example.com"),
    ("mail-.example.com", NAME, "mail-.example.com"),
    ("mail.example.com-", NAME, "mail.example.com-"),
    (".", NAME, "."),
    ("..", NAME, ".."),
    (".example.com", NAME, ".example.com"),
    ("mail..example.com", NAME, "mail..example.com"),
    ("mail.example.com..", NAME, "mail.example.com.."),
    ("-", NAME, "-"),
    ("mail.example.com,", NAME, "mail.example.com,"),
    ("a.example,b.example", NAME, "a.example,b.example"),
    ("a.example;b.example", NAME, "a.example;b.example"),
    ("mail.example.com?x=1", NAME, "mail.example.com?x=1"),
    ("mail.example.com#25", NAME, "mail.example.com#25"),
    ("<mail.example.com>", NAME, "<mail.example.com>"),
    ("\"mail.example.com\"", NAME, "\"mail.example.com\""),
    ("'mail.example.com'", NAME, "'mail.example.com'"),
    ("“mail.example.com”", NAME, "“mail.example.com”"),
    ("(mail.example.com)", NAME, "(mail.example.com)"),
    ("mail.example.com)", NAME, "mail.example.com)"),
    ("mail.example.com]", NAME, "mail.example.com]"),
    ("]", NAME, "]"),
    ("*.example.com", NAME, "*.example.com"),
    ("mail.example.com;25", NAME, "mail.example.com;25"),
    ("mail.example.com：587", NAME, "mail.example.com：587"),
    ("ann＠example.com", NAME, "ann＠example.com"),
    ("mail!example", NAME, "mail!example"),
    ("$(reboot)", NAME, "$(reboot)"),
    ("mail%example.com", NAME, "mail%example.com"),
    ("mail\0.example.com", NAME, "mail.example.com"),
    ("mail\u{1b}[31m.example", NAME, "mail[31m.example"),
    ("xn--.example", NAME, "xn--.example"),
    ("xn--a\u{308}.example", NAME, "xn--a\u{308}.example"),
    ("xn--99999999.example", NAME, "xn--99999999.example"),
    (":", NAME, ":"),
    (":25", NAME, ":25"),
    ("mail_host:25", NAME, "mail_host"),
    (LABEL_OF_64, NAME, "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa…"),
    // Not ports.
    ("mail.example.com:", PORT, ""),
    ("192.0.2.7:", PORT, ""),
    ("mail.example.com:0", PORT, "0"),
    ("mail.example.com:00", PORT, "00"),
    ("mail.example.com:65536", PORT, "65536"),
    ("mail.example.com:99999999999999999999", PORT, "99999999999999999999"),
    ("mail.example.com:-25", PORT, "-25"),
    ("mail.example.com:+25", PORT, "+25"),
    ("mail.example.com:25a", PORT, "25a"),
    ("mail.example.com:2.5", PORT, "2.5"),
    ("mail.example.com:0x19", PORT, "0x19"),
    ("mail.example.com:smtp", PORT, "smtp"),
    ("mail.example.com:５８７", PORT, "５８７"),
    ("mail.example.com:٥٨٧", PORT, "٥٨٧"),
    ("mail.example.com:587:25", PORT, "587:25"),
    ("mail.example.com::25", PORT, ":25"),
    ("192.0.2.7:587:25", PORT, "587:25"),
    ("192.0.2.7:0", PORT, "0"),
    ("[192.0.2.7]:0", PORT, "0"),
    ("[2001:db8::7]:", PORT, ""),
    ("[2001:db8::7]:0", PORT, "0"),
    ("[2001:db8::7]:65536", PORT, "65536"),
    ("[2001:db8::7]:25:26", PORT, "25:26"),
    ("[2001:db8::7]:smtp", PORT, "smtp"),
    ("[IPv6:2001:db8::7]:x", PORT, "x"),
    // Web addresses and the like.
    ("smtp://mail.example.com", SCHEME, "smtp://mail.example.com"),
    ("SMTP://mail.example.com:25", SCHEME, "SMTP://mail.example.com:25"),
    ("smtps://mail.example.com:465", SCHEME, "smtps://mail.example.com:465"),
    ("https://mail.example.com/admin", SCHEME, "https://mail.example.com/admin"),
    ("http://192.0.2.7", SCHEME, "http://192.0.2.7"),
    ("ldap://[2001:db8::7]", SCHEME, "ldap://[2001:db8::7]"),
    ("://mail.example.com", SCHEME, "://mail.example.com"),
    ("smtp://ann:secret@mail.example.com", SCHEME, "smtp://ann:secret@mail.example.com"),
    ("smtp:mail.example.com", SCHEME, "smtp:mail.example.com"),
    ("smtp:[mail.example.com]:587", SCHEME, "smtp:[mail.example.com]:587"),
    ("relay:[192.0.2.7]", SCHEME, "relay:[192.0.2.7]"),
    ("SMTPS:mail.example.com:465", SCHEME, "SMTPS:mail.example.com:465"),
    // Paths.
    ("mail.example.com/", PATH, "mail.example.com/"),
    ("mail.example.com/mail", PATH, "mail.example.com/mail"),
    ("mail.example.com:25/tcp", PATH, "mail.example.com:25/tcp"),
    ("//mail.example.com", PATH, "//mail.example.com"),
    ("\\\\mail\\spool", PATH, "\\\\mail\\spool"),
    ("192.0.2.0/24", PATH, "192.0.2.0/24"),
    ("2001:db8::/32", PATH, "2001:db8::/32"),
    ("../../etc/passwd", PATH, "../../etc/passwd"),
    // Mail addresses.
    ("ann@example.com", MAILBOX, "ann@example.com"),
    ("ann@example.com:25", MAILBOX, "ann@example.com:25"),
    ("Ann <ann@example.com>", MAILBOX, "Ann <ann@example.com>"),
    ("mailto:ann@example.com", MAILBOX, "mailto:ann@example.com"),
    ("ann:secret@mail.example.com", MAILBOX, "ann:secret@mail.example.com"),
    ("ann@[192.0.2.7]", MAILBOX, "ann@[192.0.2.7]"),
    ("@mail.example.com", MAILBOX, "@mail.example.com"),
    ("ann@", MAILBOX, "ann@"),
    // IPv4 addresses that some resolvers would find in them.
    ("127.1", IPV4, "127.1"),
    ("127.0.1", IPV4, "127.0.1"),
    ("10.1", IPV4, "10.1"),
    ("2130706433", IPV4, "2130706433"),
    ("0", IPV4, "0"),
    ("25", IPV4, "25"),
    ("017700000001", IPV4, "017700000001"),
    ("0177.0.0.1", IPV4, "0177.0.0.1"),
    ("127.0.0.01", IPV4, "127.0.0.01"),
    ("192.000.002.007", IPV4, "192.000.002.007"),
    ("0x7f000001", IPV4, "0x7f000001"),
    ("0X7F000001", IPV4, "0X7F000001"),
    ("0x7f.0.0.1", IPV4, "0x7f.0.0.1"),
    ("0x7f.1", IPV4, "0x7f.1"),
    ("127.0.0.0x1", IPV4, "127.0.0.0x1"),
    ("0x", IPV4, "0x"),
    ("1.2.3", IPV4, "1.2.3"),
    ("1.2.3.4.5", IPV4, "1.2.3.4.5"),
    ("256.0.0.1", IPV4, "256.0.0.1"),
    ("192.0.2.256", IPV4, "192.0.2.256"),
    ("192.0.2.7.", IPV4, "192.0.2.7."),
    ("192.0.2.", IPV4, "192.0.2."),
    ("192.0.2.7:25.", PORT, "25."),
    ("999999999999", IPV4, "999999999999"),
    ("mail.example.1", IPV4, "mail.example.1"),
    ("１２７.0.0.1", IPV4, "１２７.0.0.1"),
    ("１２７．０．０．１", IPV4, "１２７．０．０．１"),
    ("127。0。0。1", IPV4, "127。0。0。1"),
    ("①②⑦.0.0.1", IPV4, "①②⑦.0.0.1"),
    ("127.0.0.１:25", IPV4, "127.0.0.１"),
    ("0x7f.1:587", IPV4, "0x7f.1"),
    ("[127.1]", IPV4, "127.1"),
    ("[0x7f.1]:25", IPV4, "0x7f.1"),
    ("[2130706433]", IPV4, "2130706433"),
    ("[192.0.2.256]", IPV4, "192.0.2.256"),
    ("-127.0.0.1", IPV4, "-127.0.0.1"),
    // Not IPv6.
    ("2001:db8:::7", IPV6, "2001:db8:::7"),
    ("2001:db8::7::1", IPV6, "2001:db8::7::1"),
    ("2001:db8::g", IPV6, "2001:db8::g"),
    ("12345::", IPV6, "12345::"),
    ("1:2:3:4:5:6:7", IPV6, "1:2:3:4:5:6:7"),
    ("1:2:3:4:5:6:7:8:25", IPV6, "1:2:3:4:5:6:7:8:25"),
    ("::25000", IPV6, "::25000"),
    (":::", IPV6, ":::"),
    ("::ffff:192.0.2", IPV6, "::ffff:192.0.2"),
    ("::ffff:192.0.2.256", IPV6, "::ffff:192.0.2.256"),
    ("::ffff:0x7f.1", IPV6, "::ffff:0x7f.1"),
    ("２００１:db8::7", IPV6, "２００１:db8::7"),
    ("IPv6:2001:db8::7", IPV6, "IPv6:2001:db8::7"),
    ("[2001:db8::7", IPV6, "[2001:db8::7"),
    ("2001:db8::7]", IPV6, "2001:db8::7]"),
    ("2001:db8::7]:25", IPV6, "2001:db8::7]:25"),
    ("[2001:db8::7]587", IPV6, "[2001:db8::7]587"),
    ("[2001:db8::7].", IPV6, "[2001:db8::7]."),
    ("[[2001:db8::7]]", IPV6, "[[2001:db8::7]]"),
    ("[", IPV6, "["),
    ("[]", IPV6, "[]"),
    ("[]:25", IPV6, "[]:25"),
    ("[:25]", IPV6, ":25"),
    ("[IPv6:]", IPV6, ""),
    ("[IPv6:mail.example.com]", IPV6, "mail.example.com"),
    ("[IPv6:192.0.2.7]", IPV6, "192.0.2.7"),
    ("[192.0.2.7", IPV6, "[192.0.2.7"),
    ("[mail.example.com:25]", IPV6, "mail.example.com:25"),
    // Zones.
    ("fe80::1%eth0", ZONE, "fe80::1%eth0"),
    ("[fe80::1%eth0]:25", ZONE, "[fe80::1%eth0]:25"),
    ("[fe80::1%25eth0]", ZONE, "[fe80::1%25eth0]"),
    ("2001:db8::7%1", ZONE, "2001:db8::7%1"),
    // Brackets around names.
    ("[mail.example.com]", BRACKETS, "[mail.example.com]"),
    ("[mail.example.com]:587", BRACKETS, "[mail.example.com]:587"),
    ("[bücher.example]", BRACKETS, "[bücher.example]"),
    // Blanks and what cannot be seen, inside.
    ("mail example.com", BLANK, "mail example.com"),
    ("mail.example.com 587", BLANK, "mail.example.com 587"),
    ("mail.example.com :587", BLANK, "mail.example.com :587"),
    ("mail.example.com: 587", BLANK, "mail.example.com: 587"),
    ("a.example, b.example", BLANK, "a.example, b.example"),
    ("mail.example.com\tbackup.example.com", BLANK, "mail.example.combackup.example.com"),
    ("mail.example.com\r\nRCPT TO:x", BLANK, "mail.example.comRCPT TO:x"),
    ("192.0.2.7 587", BLANK, "192.0.2.7 587"),
    ("mail\u{a0}example.com", BLANK, "mail\u{a0}example.com"),
    ("mail\u{200b}.example.com", INVISIBLE, "mail.example.com"),
    ("mail\u{ad}.example.com", INVISIBLE, "mail.example.com"),
    ("mail.example.com\u{2060}:587", INVISIBLE, "mail.example.com:587"),
    ("\u{feff}ma\u{feff}il.example.com", INVISIBLE, "mail.example.com"),
    ("mail.\u{202e}moc.elpmaxe", INVISIBLE, "mail.moc.elpmaxe"),
];

const LABEL_OF_64: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa.example";

type Kind = fn(String) -> Mistake;
const NOTHING: Kind = |_| Empty;
const NAME: Kind = HostName;
const PORT: Kind = Port;
const SCHEME: Kind = Scheme;
const PATH: Kind = Path;
const MAILBOX: Kind = MailAddress;
const IPV4: Kind = Ipv4;
const IPV6: Kind = Ipv6;
const ZONE: Kind = Zone;
const BRACKETS: Kind = Brackets;
const BLANK: Kind = Blank;
const INVISIBLE: Kind = Invisible;

#[test]
fn a_gateway_address_may_be_typed_in_many_ways_and_is_stored_in_one() {
    let mut wrong = Vec::new();
    for (typed, canonical) in ACCEPTED {
        let parsed = typed.parse::<GatewayAddress>();
        if parsed.as_ref().map(ToString::to_string).as_deref() != Ok(canonical) {
            wrong.push(format!("{typed:?} is {parsed:?}, not {canonical}"));
        }
        if canonical.parse() != parsed {
            wrong.push(format!("{canonical} does not parse back to what {typed:?} is"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn what_is_no_gateway_address_is_answered_by_what_to_type_instead() {
    let mut wrong = Vec::new();
    for (typed, kind, repeated) in REFUSED {
        let (parsed, expected) = (typed.parse::<GatewayAddress>(), kind((*repeated).to_owned()));
        if parsed.as_ref() != Err(&expected) {
            wrong.push(format!("{typed:?} is {parsed:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn the_tables_hold_more_than_two_hundred_different_cases() {
    let mut cases: Vec<&str> = ACCEPTED.iter().map(|case| case.0).chain(REFUSED.iter().map(|case| case.0)).collect();
    let written = cases.len();
    cases.sort_unstable();
    cases.dedup();
    assert_eq!(cases.len(), written, "a case is there twice");
    assert!(written > 200, "{written}");
}

#[test]
fn names_may_be_as_long_as_dns_allows_and_no_longer() {
    let name = |length: usize| {
        let labels = format!("{0}.{0}.{0}.", "a".repeat(63));
        labels.clone() + &"b".repeat(length - labels.len())
    };
    for typed in [name(253), name(253) + ".", name(253) + ":65535", name(253) + ".:65535"] {
        assert!(typed.parse::<GatewayAddress>().is_ok(), "{typed}");
    }
    let in_many_labels = "a.".repeat(126) + "ab";
    for typed in [in_many_labels, "a.".repeat(200), "a".repeat(300), "ü.".repeat(60) + "example", "9".repeat(10_000)] {
        assert_eq!(typed.parse::<GatewayAddress>(), Err(TooLong), "{typed}");
    }
}

#[test]
fn every_answer_says_what_to_type() {
    for (typed, _, _) in REFUSED {
        let answer = typed.parse::<GatewayAddress>().unwrap_err().to_string();
        assert!(["Enter", "Use", "Type"].iter().any(|word| answer.contains(word)), "{answer}");
        assert!(!answer.chars().any(char::is_control), "{answer:?}");
    }
}

#[test]
fn pages_always_show_the_port_that_is_used() {
    let shown = |typed: &str| typed.parse::<GatewayAddress>().unwrap().with_port_in_words();
    assert_eq!(shown("mail.example.com"), "mail.example.com port 25");
    assert_eq!(shown("[2001:db8::7]:587"), "2001:db8::7 port 587");
}

fn host() -> impl Strategy<Value = GatewayHost> {
    prop_oneof![
        "([a-z0-9]([a-z0-9-]{0,20}[a-z0-9])?\\.){0,3}[a-z]{2,10}"
            .prop_filter_map("a name", |name| name.parse::<DomainName>().ok().map(GatewayHost::Name)),
        any::<std::net::Ipv4Addr>().prop_map(|ip| GatewayHost::Ip(ip.into())),
        any::<std::net::Ipv6Addr>().prop_map(|ip| GatewayHost::Ip(ip.into())),
    ]
}

proptest! {
    #[test]
    fn the_canonical_form_parses_back_to_the_same_address(host in host(), port in 1..=u16::MAX) {
        let address = GatewayAddress::new(host, port);
        prop_assert_eq!(address.to_string().parse::<GatewayAddress>(), Ok(address.clone()));
        let typed = format!("\t {}\u{200b} ", address.to_string().to_uppercase());
        prop_assert_eq!(typed.parse::<GatewayAddress>(), Ok(address));
    }

    #[test]
    fn whatever_is_typed_is_an_address_that_keeps_its_form_or_a_mistake(
        typed in prop_oneof![any::<String>(), "[a-z0-9.:@/%\\[\\] x-]{0,24}", "[0-9a-f:.\\[\\]]{0,40}"]
    ) {
        if let Ok(address) = typed.parse::<GatewayAddress>() {
            prop_assert_eq!(address.to_string().parse::<GatewayAddress>(), Ok(address));
        }
    }
}
