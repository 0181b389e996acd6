//! Mail domains and host names.
//! Tables of what is typed and what is understood.

use outgate::mail::DomainName;
use proptest::prelude::*;

#[test]
fn a_domain_name_is_kept_in_ascii_and_shown_in_its_script() {
    for (typed, kept, shown) in [
        ("example.com", "example.com", "example.com"),
        ("EXAMPLE.Com", "example.com", "example.com"),
        ("example.com.", "example.com", "example.com"),
        ("bücher.example", "xn--bcher-kva.example", "bücher.example"),
        ("Bücher.Example.", "xn--bcher-kva.example", "bücher.example"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example", "bücher.example"),
        ("почта.рф", "xn--80a1acny.xn--p1ai", "почта.рф"),
        ("例え。テスト", "xn--r8jz45g.xn--zckzah", "例え.テスト"),
        ("r3---sn.example", "r3---sn.example", "r3---sn.example"),
        ("1und1.example", "1und1.example", "1und1.example"),
        ("3.example", "3.example", "3.example"),
    ] {
        let name: DomainName = typed.parse().unwrap();
        assert_eq!((name.as_str(), name.to_unicode().as_str()), (kept, shown), "{typed}");
    }
}

#[test]
fn what_is_no_domain_name_is_refused() {
    let too_long_a_label = format!("{}.example", "a".repeat(64));
    let too_long = "a.".repeat(126) + "ab";
    for typed in [
        "",
        ".",
        "..",
        " ",
        "example..com",
        ".example.com",
        "example.com..",
        "-a.example",
        "a-.example",
        "a_b.example",
        "a b.example",
        "example.com ",
        "a,b",
        "a@b",
        "example.com:25",
        "a/b",
        "*.example",
        "192.0.2.7",
        "example.7",
        "[192.0.2.7]",
        "2001:db8::7",
        "xn--.example",
        "a\0b",
        "a\nb",
        too_long_a_label.as_str(),
        too_long.as_str(),
    ] {
        let answer = typed.parse::<DomainName>().unwrap_err().to_string();
        assert!(answer.contains("is not a domain name. Use "), "{answer}");
    }
}

proptest! {
    #[test]
    fn a_domain_name_keeps_its_form(typed in prop_oneof![any::<String>(), "[a-zA-Z0-9üßκ.-]{0,30}"]) {
        if let Ok(name) = typed.parse::<DomainName>() {
            prop_assert_eq!(name.as_str().parse::<DomainName>(), Ok(name.clone()));
            prop_assert_eq!(name.to_unicode().parse::<DomainName>(), Ok(name));
        }
    }
}
