//! A gateway's record in the store: everything reaches the relays, the password only them, and what
//! stands in for another gateway stays.

use outgate::{
    policy::{
        facts::{RoutingFacts, TlsMode},
        gateway_settings::{GatewayLimits, GatewaySettings, OwnDomains, Returning, SignIn, Trust},
    },
    secret::{Context, Password, SealedSecret},
    store::{
        OrganizationTransaction,
        change::{AuditEntry, ChangeItem, Subject},
        gateway::{self, PointerScope, Removed},
        routing_facts,
    },
};
use serde_json::json;
use sha2::{Digest, Sha256};
use sqlx::PgPool;

use crate::support::{Installation, Tenant};

/// Fills in everything that a gateway's page can say, as revision 2.
async fn fill_in(installation: &Installation, acme: &Tenant, address: &str, backup: &str) -> SealedSecret {
    let id = installation.gateway_of(acme, address).await;
    let backup = installation.gateway_of(acme, backup).await;
    let password = Password::new("secret".to_owned()).unwrap();
    let sealed = installation.secret_key().await.public().seal(&password, &Context::new(&[])).unwrap();
    let mut transaction = OrganizationTransaction::begin(&installation.owner, acme.id).await.unwrap();
    let secret = "insert into gateway_secret (organization_id, gateway_id, id, sealed) values ($1, $2, $2, $3)";
    let secret = sqlx::query(secret).bind(acme.id.0).bind(id.0).bind(sealed.as_bytes());
    secret.execute(&mut *transaction).await.unwrap();
    let revision =
        "insert into gateway_revision (organization_id, gateway_id, revision, address, tls, certificate_name,
            fingerprint, sign_in_user, sign_in_secret_id, connections, messages_per_connection, messages_per_minute,
            largest_message, returning_mail, returning_networks, own_domains, backups)
        values ($1, $2, 2, $3, 'verified', 'mx.acme.example', sha256('certificate'), 'acme', $2, 7, 100, 600, 1000000,
            'onward', '{192.0.2.0/24,2001:db8::/32}', 'inbound', array[$4]::uuid[])";
    let revision = sqlx::query(revision).bind(acme.id.0).bind(id.0).bind(address).bind(backup.0);
    revision.execute(&mut *transaction).await.unwrap();
    let used = sqlx::query("update gateway set revision = 2 where organization_id = $1 and id = $2");
    used.bind(acme.id.0).bind(id.0).execute(&mut *transaction).await.unwrap();
    let item = ChangeItem {
        subject: Subject::Gateway,
        key: id.to_string(),
        before: Some(json!({ "revision": 1 })),
        after: Some(json!({ "revision": 2 })),
    };
    let audit = AuditEntry {
        actor: "operator".into(),
        action: "gateway.edit",
        subject: address.into(),
        before: None,
        after: None,
    };
    transaction.commit_change(&[item], audit).await.unwrap();
    sealed
}

#[sqlx::test]
async fn everything_that_a_record_says_reaches_the_relays_and_its_password_nobody_else(owner: PgPool) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    let all = PointerScope::Organization;
    for address in ["backup.example.com", "archive.example.com"] {
        installation.set_gateway(&acme, &all, address).await;
    }
    let backup = installation.gateway_of(&acme, "backup.example.com").await;
    let mut relay = installation.relay_pool().await.acquire().await.unwrap();
    let (before, mut followed) = routing_facts::load_all_across_tenants(&mut relay).await.unwrap();
    let archive = installation.gateway_of(&acme, "archive.example.com").await;
    assert_eq!(*followed.gateway(archive).unwrap().settings, GatewaySettings::default());
    let sealed = fill_in(&installation, &acme, "archive.example.com", "backup.example.com").await;

    let everything = |secret: SealedSecret| GatewaySettings {
        certificate_name: Some("mx.acme.example".parse().unwrap()),
        trust: Trust::Fingerprint(Sha256::digest("certificate").into()),
        sign_in: Some(SignIn { user: "acme".into(), secret }),
        limits: GatewayLimits {
            connections: 7,
            messages_per_connection: Some(100),
            messages_per_minute: Some(600),
            largest_message: Some(1_000_000),
        },
        backups: vec![backup],
        returning: Returning::Onward,
        returning_networks: vec!["192.0.2.0/24".parse().unwrap(), "2001:db8::/32".parse().unwrap()],
        own_domains: OwnDomains::Inbound,
    };
    let check = |facts: &RoutingFacts, secret: SealedSecret| {
        let gateway = facts.gateway(archive).unwrap();
        assert_eq!((gateway.revision, gateway.tls), (2, TlsMode::Verified));
        assert_eq!(*gateway.settings, everything(secret));
    };
    let (_, changes) = routing_facts::load_changes_across_tenants(&mut relay, before).await.unwrap().unwrap();
    changes.apply(&mut followed);
    check(&followed, sealed.clone());
    let (_, loaded) = routing_facts::load_all_across_tenants(&mut relay).await.unwrap();
    check(&loaded, sealed);

    // The pages explain routes and never see what is sealed.
    let web = installation.pool_as("outgate_web").await;
    let mut transaction = OrganizationTransaction::begin(&web, acme.id).await.unwrap();
    let explained = routing_facts::for_sender(&mut transaction, acme.id, "ann@acme.example").await.unwrap();
    check(&explained, SealedSecret::withheld());
    let read = sqlx::query("select sealed from gateway_secret").fetch_all(&mut *transaction).await.unwrap_err();
    assert!(read.to_string().contains("permission denied"), "{read}");
}

#[sqlx::test]
async fn a_gateway_that_stands_in_for_another_is_not_removed_until_it_no_longer_does(owner: PgPool) {
    let installation = Installation::on(owner);
    let acme = installation.organization("acme").await;
    for address in ["backup.example.com", "archive.example.com", ""] {
        installation.set_gateway(&acme, &PointerScope::Organization, address).await;
    }
    fill_in(&installation, &acme, "archive.example.com", "backup.example.com").await;
    let remove = async |address: &str| {
        let id = installation.gateway_of(&acme, address).await;
        let transaction = OrganizationTransaction::begin(&installation.owner, acme.id).await.unwrap();
        gateway::remove(transaction, id, "operator").await.unwrap()
    };
    assert!(matches!(remove("backup.example.com").await, Removed::InUse));
    assert!(matches!(remove("archive.example.com").await, Removed::Removed(..)));
    assert!(matches!(remove("backup.example.com").await, Removed::Removed(..)));
}
