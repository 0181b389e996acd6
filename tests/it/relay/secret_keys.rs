//! Keys that open passwords come and go while mail flows, and a password stays with whom it was set for.
//! Signing in with them is `record`'s.

use outgate::{
    mail::id::ChangeId,
    policy::{
        facts::{Gateway, RoutingFacts, TlsMode},
        gateway_record::GatewayRecord,
        gateway_settings::secret_context,
    },
    relay::secret_keys::SecretKeys,
    secret::{OpenError, Password, key_file},
    store::{
        self, OrganizationTransaction,
        gateway::PointerScope,
        gateway_record::{self, Saved},
        routing_facts,
    },
};
use sqlx::PgPool;

use crate::support::{Installation, Tenant};

const PASSWORD: &str = "canary-4711";

/// Has a gateway sign in, as the pages' role saves it.
async fn sign_in(installation: &Installation, tenant: &Tenant, address: &str) {
    let web = installation.pool_as("outgate_web").await;
    installation.set_gateway(tenant, &PointerScope::Organization, address).await;
    let id = installation.gateway_of(tenant, address).await;
    let mut transaction = OrganizationTransaction::begin(&web, tenant.id).await.unwrap();
    let before = gateway_record::stored(&mut transaction, tenant.id, id).await.unwrap().unwrap();
    let record =
        GatewayRecord { tls: TlsMode::Verified, sign_in_user: Some("acme".to_owned()), ..before.record.clone() };
    let key = store::secret_key::newest(&mut transaction).await.unwrap().unwrap();
    let context = secret_context(tenant.id, id, &record.address, record.tls, "acme");
    let sealed = key.seal(&Password::new(PASSWORD.to_owned()).unwrap(), &context).unwrap();
    let (change, at_once) = (ChangeId::new(), true);
    let edit = gateway_record::Edit { change, record: &record, password: Some(&sealed), at_once, actor: "ann" };
    let saved = gateway_record::save(transaction, id, &edit).await.unwrap();
    assert!(matches!(saved, Saved::Changed(_)), "{saved:?}");
}

async fn facts(relay: &PgPool) -> RoutingFacts {
    routing_facts::load_all_across_tenants(&mut relay.acquire().await.unwrap()).await.unwrap().1
}

fn open(keys: &SecretKeys, gateway: &Gateway) -> Result<String, OpenError> {
    let secret = &gateway.settings.sign_in.as_ref().unwrap().secret;
    keys.open(secret, &gateway.secret_context().unwrap()).map(|password| password.reveal().to_owned())
}

#[sqlx::test]
async fn a_new_key_takes_over_every_password_and_the_old_one_can_go(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let relay = installation.relay_pool().await;
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let file = folder.path().join("secret-key");
    let first = key_file::create(&file).unwrap();
    let keys = SecretKeys::from_file(Some(file.clone())).unwrap();
    assert_eq!(keys.seal_anew(&relay).await.unwrap(), 0);
    sign_in(&installation, &acme, "mail.acme.example").await;
    let id = installation.gateway_of(&acme, "mail.acme.example").await;
    let before = facts(&relay).await;
    assert_eq!(open(&keys, before.gateway(id).unwrap()).as_deref(), Ok(PASSWORD));

    // While it is in use it cannot go.
    assert_eq!(store::secret_key::retire(&installation.owner, &first).await.unwrap(), 1);
    let second = key_file::rotate(&file).unwrap();
    assert_eq!(keys.seal_anew(&relay).await.unwrap(), 1);
    assert_eq!(keys.seal_anew(&relay).await.unwrap(), 0, "once");
    let listed = store::secret_key::list(&installation.owner).await.unwrap();
    let listed: Vec<_> = listed.iter().map(|key| (key.id.clone(), key.passwords)).collect();
    assert_eq!(listed, [(first.to_string(), 0), (second.to_string(), 1)]);
    assert_eq!(store::secret_key::retire(&installation.owner, &first).await.unwrap(), 0);
    key_file::remove(&file, &first).unwrap();

    // A relay that was there before goes on with what it remembers, one that starts reads what is there now.
    assert_eq!(keys.seal_anew(&relay).await.unwrap(), 0);
    assert_eq!(open(&keys, before.gateway(id).unwrap()).as_deref(), Ok(PASSWORD));
    let new = SecretKeys::from_file(Some(file)).unwrap();
    assert_eq!(open(&new, before.gateway(id).unwrap()), Err(OpenError::UnknownKey(first)));
    let after = facts(&relay).await;
    assert_eq!(open(&new, after.gateway(id).unwrap()).as_deref(), Ok(PASSWORD));
    // The first relay still has the old key, and does not bring it back.
    sign_in(&installation, &acme, "other.acme.example").await;
    let listed = store::secret_key::list(&installation.owner).await.unwrap();
    assert_eq!(listed.iter().map(|key| key.passwords).collect::<Vec<_>>(), [0, 2]);
}

#[sqlx::test]
async fn a_password_that_is_put_into_another_organizations_row_never_opens(db: PgPool) {
    let installation = Installation::on(db);
    let (acme, birch) = (installation.organization("acme").await, installation.organization("birch").await);
    let relay = installation.relay_pool().await;
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let file = folder.path().join("secret-key");
    key_file::create(&file).unwrap();
    let keys = SecretKeys::from_file(Some(file)).unwrap();
    keys.seal_anew(&relay).await.unwrap();
    for tenant in [&acme, &birch] {
        // The same address, TLS mode and user name.
        sign_in(&installation, tenant, "mail.shared.example").await;
    }
    sqlx::query(
        "update gateway_secret set sealed = theirs.sealed from gateway_secret theirs
                 where gateway_secret.organization_id = $1 and theirs.organization_id = $2",
    )
    .bind(birch.id.0)
    .bind(acme.id.0)
    .execute(&installation.owner)
    .await
    .unwrap();
    let facts = facts(&relay).await;
    let of = async |tenant| installation.gateway_of(tenant, "mail.shared.example").await;
    assert_eq!(open(&keys, facts.gateway(of(&acme).await).unwrap()).as_deref(), Ok(PASSWORD));
    assert_eq!(open(&keys, facts.gateway(of(&birch).await).unwrap()), Err(OpenError::Refused));

    // Relays seal anew, and may change nothing else; the pages may not even do that.
    for (role, statement) in [
        ("outgate_relay", "update gateway_secret set set_at = now()"),
        ("outgate_relay", "update gateway_revision set address = 'evil.example'"),
        ("outgate_relay", "delete from gateway_secret"),
        ("outgate_web", "update gateway_secret set sealed = sealed"),
        ("outgate_web", "select sealed from gateway_secret"),
        ("outgate_web", "insert into secret_key (id, public_key) values ('12345678', sha256(''))"),
    ] {
        let refused = sqlx::query(statement).execute(&installation.pool_as(role).await).await.unwrap_err();
        assert!(refused.to_string().contains("permission denied"), "{role}: {statement}: {refused}");
    }
}
