//! The addresses of users and senders.
//! Two spellings of one mailbox must be one mailbox.

use outgate::mail::Mailbox;
use proptest::prelude::*;

#[test]
fn one_mailbox_has_one_form_however_it_is_written() {
    for (typed, form) in [
        ("ann@example.com", "ann@example.com"),
        ("Ann@Example.COM", "ann@example.com"),
        (" ann@example.com ", "ann@example.com"),
        ("ann@example.com.", "ann@example.com"),
        ("ann.lee+news@example.com", "ann.lee+news@example.com"),
        ("o'neill@example.com", "o'neill@example.com"),
        ("prvs=0123=ann@example.com", "prvs=0123=ann@example.com"),
        ("ann/sales=x@example.com", "ann/sales=x@example.com"),
        ("Änne@bücher.example", "änne@xn--bcher-kva.example"),
        ("用户@例え.テスト", "用户@xn--r8jz45g.xn--zckzah"),
        // RFC 5321 §4.1.2: quoting and escaping what needs neither does not make it another mailbox.
        ("\"ann\"@example.com", "ann@example.com"),
        ("\"Ann.Lee\"@example.com", "ann.lee@example.com"),
        ("\"a\\nn\"@example.com", "ann@example.com"),
        ("\"ann lee\"@example.com", "\"ann lee\"@example.com"),
        ("\"a\\ nn\"@example.com", "\"a nn\"@example.com"),
        ("\"a@b\"@example.com", "\"a@b\"@example.com"),
        ("\"a\\\"b\"@example.com", "\"a\\\"b\"@example.com"),
        ("\"a\\\\b\"@example.com", "\"a\\\\b\"@example.com"),
        ("\".ann\"@example.com", "\".ann\"@example.com"),
        ("\"\"@example.com", "\"\"@example.com"),
    ] {
        let mailbox: Mailbox = typed.parse().unwrap_or_else(|mistake| panic!("{typed}: {mistake}"));
        assert_eq!(mailbox.to_string(), form, "{typed}");
        assert_eq!(form.parse(), Ok(mailbox), "{typed}");
    }
}

#[test]
fn what_is_no_mail_address_is_refused() {
    for typed in [
        "ann",
        "@example.com",
        "ann@",
        "ann@@example.com",
        "ann lee@example.com",
        ".ann@example.com",
        "ann.@example.com",
        "an..n@example.com",
        "<ann@example.com>",
        "Ann <ann@example.com>",
        "ann@example_com",
        "ann@192.0.2.7",
        "ann@[192.0.2.7]",
        "ann,bob@example.com",
        "a(b)@example.com",
        "\"ann@example.com",
        "ann\"@example.com",
        "\"a\"b\"@example.com",
        "\"a\\\"@example.com",
        "an\0n@example.com",
        "ann\r\n@example.com",
        "ann@exa mple.com",
        "ann\u{200b}@example.com",
        "an\u{a0}n@example.com",
        "\"an\u{7f}n\"@example.com",
    ] {
        let answer = typed.parse::<Mailbox>().unwrap_err().to_string();
        assert!(answer.contains("is not a mail address. Use "), "{typed:?}: {answer}");
    }
    assert_eq!(" ".parse::<Mailbox>().unwrap_err().to_string(), "Enter a mail address, such as ann@example.com.");
}

#[test]
fn a_mail_address_has_at_most_64_octets_before_the_at_and_254_in_all() {
    let domain = |length: usize| format!("{0}.{0}.{1}", "d".repeat(63), "e".repeat(length - 128));
    let address =
        |local_part: usize, domain_length: usize| format!("{}@{}", "a".repeat(local_part), domain(domain_length));
    assert!(address(64, 189).parse::<Mailbox>().is_ok());
    assert!(format!("{}@example.com", "ä".repeat(32)).parse::<Mailbox>().is_ok());
    for too_long in [address(65, 180), address(64, 190), format!("{}@example.com", "ä".repeat(33))] {
        let answer = too_long.parse::<Mailbox>().unwrap_err().to_string();
        assert!(answer.contains("is too long for a mail address"), "{answer}");
    }
}

proptest! {
    #[test]
    fn a_mailbox_keeps_its_form(
        local_part in prop_oneof!["[a-zA-Z0-9.+=äßΣ]{1,12}", "\"[a-zA-Z .@\\\\\"]{0,12}\"", any::<String>()]
    ) {
        if let Ok(mailbox) = format!("{local_part}@example.com").parse::<Mailbox>() {
            prop_assert_eq!(mailbox.to_string().parse(), Ok(mailbox));
        }
    }
}
