//! Passwords sealed to the relays: opened by nobody else, for nothing else, and with keys that come and go.

use std::{fs, os::unix::fs::PermissionsExt};

use outgate::{
    mail::{
        GatewayAddress,
        id::{GatewayId, OrganizationId},
    },
    policy::{facts::TlsMode, gateway_settings::secret_context},
    secret::{Context, OpenError, Password, PrivateKey, PrivateKeys, SealedSecret, key_file},
};

const CANARY: &str = "canary Pässword 4711";

fn password() -> Password {
    Password::new(CANARY.to_owned()).unwrap()
}

#[test]
fn a_password_opens_for_what_it_was_sealed_for_and_for_nothing_else() {
    let (organization, gateway) = (OrganizationId::new(), GatewayId::new());
    let of = |organization, gateway, address: &str, tls, user| {
        secret_context(organization, gateway, &address.parse::<GatewayAddress>().unwrap(), tls, user)
    };
    let verified = TlsMode::Verified;
    let context = of(organization, gateway, "mail.example.com:587", verified, "acme");
    let keys = PrivateKeys(vec![PrivateKey::generate()]);
    let sealed = keys.0[0].public().seal(&password(), &context).unwrap();
    assert_eq!(keys.open(&sealed, &context).unwrap().reveal(), CANARY);
    for other in [
        of(OrganizationId::new(), gateway, "mail.example.com:587", verified, "acme"),
        of(organization, GatewayId::new(), "mail.example.com:587", verified, "acme"),
        of(organization, gateway, "evil.example.com:587", verified, "acme"),
        of(organization, gateway, "mail.example.com:25", verified, "acme"),
        of(organization, gateway, "mail.example.com:587", TlsMode::WhenOffered, "acme"),
        of(organization, gateway, "mail.example.com:587", verified, "acm"),
    ] {
        assert_eq!(keys.open(&sealed, &other), Err(OpenError::Refused), "{other:?}");
    }
    assert_ne!(Context::new(&["ab", "c"]), Context::new(&["a", "bc"]));

    let stranger = PrivateKeys(vec![PrivateKey::generate()]);
    let id = keys.0[0].public().id();
    assert_eq!(stranger.open(&sealed, &context), Err(OpenError::UnknownKey(id)));
    assert_eq!(PrivateKeys::default().open(&sealed, &context), Err(OpenError::NoKeys));
    for length in 0..sealed.as_bytes().len() {
        assert!(keys.open(&SealedSecret::new(&sealed.as_bytes()[..length]), &context).is_err(), "cut to {length}");
    }
    for place in 0..sealed.as_bytes().len() {
        let mut bytes = sealed.as_bytes().to_vec();
        bytes[place] ^= 1;
        assert!(keys.open(&SealedSecret::new(&bytes), &context).is_err(), "changed at {place}");
    }
}

#[test]
fn what_is_sealed_tells_nothing_and_no_output_of_ours_shows_a_password() {
    let context = Context::new(&["test"]);
    let key = PrivateKey::generate();
    let seal = |text: &str| key.public().seal(&Password::new(text.to_owned()).unwrap(), &context).unwrap();
    assert_ne!(seal(CANARY), seal(CANARY), "sealed twice, it is not the same");
    assert_eq!(seal("a").as_bytes().len(), seal(CANARY).as_bytes().len(), "not even the length");
    let shown = format!("{:?} {:?} {:?} {:?}", password(), seal(CANARY), key, PrivateKeys(vec![key.clone()]));
    assert!(!shown.contains("canary") && shown.contains("Password(…)"), "{shown}");
    for no_password in ["", "two\r\nlines", "a\0b", &"x".repeat(513)] {
        assert!(Password::new(no_password.to_owned()).is_none(), "{no_password:?}");
    }
}

#[test]
fn the_file_of_keys_is_for_its_owner_alone_and_keys_come_and_go_in_it() {
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let file = folder.path().join("secret-key");
    let sentence = |file| format!("{:#}", key_file::read(file).unwrap_err());
    assert!(sentence(&file).starts_with("OUTGATE_SECRET_KEY_FILE: "), "{}", sentence(&file));
    let first = key_file::create(&file).unwrap();
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(key_file::create(&file).unwrap_err().to_string().contains("is there already"));
    key_file::ensure_there(&file).unwrap();

    let context = Context::new(&["test"]);
    let before = key_file::read(&file).unwrap();
    let sealed = before.0[0].public().seal(&password(), &context).unwrap();
    let second = key_file::rotate(&file).unwrap();
    let both = key_file::read(&file).unwrap();
    assert_eq!(both.0.iter().map(|key| key.public().id()).collect::<Vec<_>>(), [first, second]);
    assert_eq!(both.open(&sealed, &context).unwrap().reveal(), CANARY);
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    assert!(key_file::removable(&file, &second.to_string()).is_err(), "the newest stays");
    let removable = key_file::removable(&file, &first.to_string()).unwrap();
    key_file::remove(&file, &removable).unwrap();
    assert_eq!(key_file::read(&file).unwrap().open(&sealed, &context), Err(OpenError::UnknownKey(first)));

    fs::set_permissions(&file, fs::Permissions::from_mode(0o640)).unwrap();
    assert!(sentence(&file).contains("chmod 600"), "{}", sentence(&file));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    for wrong in ["", "# nothing but this\n", "not base64\n", "c2hvcnQ=\n"] {
        fs::write(&file, wrong).unwrap();
        assert!(sentence(&file).contains("key"), "{wrong:?}");
    }
}
