//! Whether the SPF records of mail domains have the address that a test message left from (RFC 7208).
//! Asked when one has come back; the verdicts are `policy::arrival`'s.

use std::{net::IpAddr, time::Duration};

use mail_auth::{MessageAuthenticator, SpfResult, spf::verify::SpfParameters};
use sqlx::PgPool;
use tokio::time::timeout;

use crate::{
    mail::id::{GatewayId, OrganizationId},
    policy::arrival::{SenderPolicies, Spf, SpfOf},
    relay::resolver::Resolver,
    store,
};

/// How long the look-ups for one domain may take.
const PATIENCE: Duration = Duration::from_secs(10);

/// Of the mail domains of the organization whose mail leaves through its gateway, for mail from there.
pub async fn of_gateway(
    db: &PgPool,
    resolver: &Resolver,
    (organization, gateway): (OrganizationId, GatewayId),
    left_from: IpAddr,
) -> store::Result<SenderPolicies> {
    let (domains, spf_more) = store::test_message::domains_across_tenants(db, organization, gateway).await?;
    Ok(SenderPolicies { spf: look(resolver, domains, left_from).await, spf_more })
}

/// Of each domain, for mail from there.
pub async fn look(resolver: &Resolver, domains: Vec<String>, left_from: IpAddr) -> Vec<SpfOf> {
    let Some(authenticator) = resolver.authenticator() else { return Vec::new() };
    let mut found = Vec::with_capacity(domains.len());
    for domain in domains {
        let looking = look_at(resolver, &authenticator, &domain, left_from);
        let (verdict, record) = timeout(PATIENCE, looking).await.unwrap_or((Spf::NoAnswer, None));
        found.push(SpfOf { domain, verdict, record });
    }
    found
}

async fn look_at(
    resolver: &Resolver,
    authenticator: &MessageAuthenticator,
    domain: &str,
    left_from: IpAddr,
) -> (Spf, Option<String>) {
    let Ok(texts) = resolver.texts(domain).await else { return (Spf::NoAnswer, None) };
    let mut records = texts.into_iter().filter(|text| is_spf(text));
    let record = records.next();
    // RFC 7208 §4.5: two are as good as none that can be followed.
    if records.next().is_some() {
        return (Spf::Invalid, record);
    }
    let sender = format!("postmaster@{domain}");
    let parameters = SpfParameters::verify_mail_from(left_from, domain, domain, &sender);
    let verdict = match authenticator.verify_spf(parameters).await.result() {
        SpfResult::Pass => Spf::Covers,
        SpfResult::Fail | SpfResult::SoftFail | SpfResult::Neutral => Spf::DoesNotCover,
        SpfResult::None => Spf::NoRecord,
        SpfResult::PermError => Spf::Invalid,
        SpfResult::TempError => Spf::NoAnswer,
    };
    (verdict, record)
}

/// RFC 7208 §4.5: it begins with the version.
fn is_spf(text: &str) -> bool {
    text.split(' ').next().is_some_and(|version| version.eq_ignore_ascii_case("v=spf1"))
}
