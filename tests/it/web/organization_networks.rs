//! Private networks that the operator opened to one organization, on every form that takes a gateway's address.
//! No page shows or changes them: each asks what may be saved.

use outgate::{
    mail::id::ChangeId,
    policy::Role,
    store::{self, OrganizationTransaction, gateway::PointerScope},
};
use sqlx::PgPool;

use super::{gateway_record, page_of};
use crate::support::{Browser, Installation, Pages, Tenant};

/// What is typed on each form.
const TYPED: &str = "10.1.2.3:2525";
/// For the record of a gateway: no two have one address.
const ANOTHER: &str = "10.1.2.4";

/// Whether each form of an organization with one account takes the address.
async fn taken(installation: &Installation, admin: &Browser, tenant: &Tenant) -> Vec<(&'static str, bool)> {
    let domain = &tenant.domain;
    let user = installation.account(tenant, &format!("user@{domain}"), &[]).await;
    installation.set_gateway(tenant, &PointerScope::Organization, "mail.example.com").await;
    let gateway = installation.gateway_of(tenant, "mail.example.com").await;
    let shown = admin.get(&page_of(tenant, &format!("gateways/{gateway}"))).await;
    let (seen, of_record) = (shown.field("seen"), shown.field("change"));
    let mut record: Vec<_> = gateway_record::FIELDS.into_iter().filter(|(name, _)| *name != "address").collect();
    record.extend([("address", ANOTHER), ("seen", &*seen), ("change", &*of_record)]);
    let (new, change) = (format!("new@{domain}"), ChangeId::new().to_string());
    let pointer = [("outbound_gateway", TYPED)];
    let mut taken = Vec::new();
    for (form, path, fields) in [
        ("verify", "outbound-mail-gateway".to_owned(), &[("outbound_gateway", TYPED), ("verify", "1")][..]),
        ("mail domain", format!("domain-manager/{domain}/outbound-gateway"), &pointer),
        ("user", format!("mail-account-manager/{user}/outbound-gateway"), &pointer),
        ("inbound host", format!("domain-manager/{domain}/inbound-host"), &[("inbound_host", TYPED), ("seen", "")]),
        (
            "new account",
            "mail-account-manager/new".to_owned(),
            &[("user_id", &*new), ("name", ""), ("addresses", ""), ("outbound_gateway", TYPED), ("change", &*change)],
        ),
        (
            "several accounts",
            "mail-account-manager/selected".to_owned(),
            &[("action", "set"), ("all", "1"), ("outbound_gateway", TYPED), ("confirmed", "2")],
        ),
        ("record", format!("gateways/{gateway}/record"), &record),
        ("all users", "outbound-mail-gateway".to_owned(), &pointer),
    ] {
        let page = admin.submit(&page_of(tenant, &path), fields).await;
        let is_refused = page.text().contains(" is a private address.");
        assert!(is_refused || page.status.is_success(), "{form}: {} {}", page.status, page.text());
        taken.push((form, !is_refused));
    }
    let file = format!("user_id,outbound_gateway\nuser@{domain},{TYPED}\n");
    let read = admin.upload(&page_of(tenant, "mail-account-manager/import"), file.as_bytes(), &[]).await;
    taken.push(("file", !read.text().contains(" is a private address.")));
    taken
}

#[sqlx::test]
async fn every_form_takes_an_address_in_a_network_of_the_organization_and_nobody_elses_form_does(db: PgPool) {
    let installation = Installation::on(db);
    let (acme, birch) = (installation.organization("acme").await, installation.organization("birch").await);
    let transaction = OrganizationTransaction::begin(&installation.owner, acme.id).await.unwrap();
    let network = "10.1.0.0/16".parse().unwrap();
    store::organization::allow_network(transaction, network, true, "operator").await.unwrap();
    let pages = Pages::of(&installation).await;
    for (tenant, expected) in [(&acme, true), (&birch, false)] {
        let admin = pages.signed_in(&installation, tenant, Role::Administrator).await;
        for (form, is_taken) in taken(&installation, &admin, tenant).await {
            assert_eq!(is_taken, expected, "{} {form}", tenant.slug);
        }
        let log = admin.get(&format!("/{}/administration/audit-log", tenant.slug)).await;
        let words = "opened a private network to gateways of the organization";
        assert_eq!(log.text().contains(words), expected, "{}", log.text());
    }
}

#[sqlx::test]
async fn what_the_operator_opened_is_not_for_administrators_to_take_back(db: PgPool) {
    let installation = Installation::on(db);
    let acme = installation.organization("acme").await;
    let pages = Pages::of(&installation).await;
    let admin = pages.signed_in(&installation, &acme, Role::Administrator).await;
    let transaction = OrganizationTransaction::begin(&installation.owner, acme.id).await.unwrap();
    let network = "10.1.0.0/16".parse().unwrap();
    store::organization::allow_network(transaction, network, true, "operator").await.unwrap();
    let change: uuid::Uuid = sqlx::query_scalar("select id from change order by revision desc limit 1")
        .fetch_one(&installation.owner)
        .await
        .unwrap();
    let page = admin.submit(&page_of(&acme, &format!("undo/{change}")), &[]).await;
    assert!(page.text().contains("private networks there are is the operator's to say"), "{}", page.text());
    let mut transaction = OrganizationTransaction::begin(&installation.owner, acme.id).await.unwrap();
    assert_eq!(store::organization::gateway_networks(&mut transaction, acme.id).await.unwrap(), [network]);
    let entry = admin.get(&format!("/acme/administration/audit-log/{change}")).await;
    assert!(entry.text().contains("Private networks of gateways"), "{}", entry.text());
}
