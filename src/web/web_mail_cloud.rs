//! Web Mail Cloud: the pages about mail, each with its present state.
//! Between Manage Organization and the pages that it lists.

use askama::Template;
use axum::{extract::State, response::Response};
use time::OffsetDateTime;

use super::{
    App, Route,
    console::Console,
    error::PageError,
    outbound_queue, outbound_volume, page, pending_gateway,
    session::InOrganization,
    wording::{self, ShownAddress, ShownRoute},
};
use crate::{
    policy::{
        outbound_address::AddressesToAllow,
        volume::{Period, Subject, Unit},
    },
    store::{
        self,
        gateway::PointerScope,
        limit::Numbers,
        organization::Summary,
        outbound_queue::{Filter, Messages},
    },
};

pub fn routes() -> Vec<Route> {
    vec![Route::get("/{organization}/web-mail-cloud", show)]
}

#[derive(Template)]
#[template(path = "web_mail_cloud.html")]
struct WebMailCloud {
    console: Console,
    summary: Summary,
    /// The organization's own gateway, where it has one.
    gateway: Option<ShownAddress>,
    /// What goes live when it has passed its verification, for all users, and how that goes.
    pending: Option<(ShownAddress, &'static str)>,
    /// The same for mail domains: how many.
    pending_domains: i64,
    route: ShownRoute,
    /// Messages that are held and wait for a decision.
    held: i64,
    domains: i64,
    domains_with_gateway: i64,
    gateways: i64,
    unused_gateways: i64,
    failing_gateways: i64,
    lists: i64,
    /// How many messages wait, in words, and how many of those are held.
    queued: Option<String>,
    queued_held: i64,
    /// What was accepted today, in words.
    volume: String,
    limits: Numbers,
    has_webhook: bool,
    credentials: i64,
    /// When a credential was used last.
    credential_used: Option<String>,
    /// What a gateway has to accept.
    to_allow: AddressesToAllow,
}

async fn show(State(app): State<App>, inside: InOrganization) -> Result<Response, PageError> {
    let mut transaction = app.store.begin(&inside.access).await?;
    let organization = inside.access.organization();
    let summary = store::organization::summary(&mut transaction, organization).await?;
    let held = store::held_mail::count(&mut transaction, organization).await?;
    let pending = store::pending_gateway::list(&mut transaction, organization, None).await?;
    let domains = store::domain::list(&mut transaction, organization).await?;
    let (gateways, unused_gateways) = store::gateway::numbers(&mut transaction, organization).await?;
    let failing_gateways = store::gateway_health::failing(&mut transaction, organization).await?;
    let lists = store::distribution_list::count(&mut transaction, organization).await?;
    let all = Messages::Matching(Filter::default());
    let queued = store::outbound_queue::count(&mut transaction, organization, &all).await?;
    let now = OffsetDateTime::now_utc();
    let limits = store::limit::numbers(&mut transaction, organization, now).await?;
    let today = Period::Today.beginning(now);
    let volume = store::volume::total(&mut transaction, organization, &Subject::Organization, today).await?;
    let has_webhook = store::webhook::of(&mut *transaction, organization).await?.is_some();
    let credentials = store::relay_credential::valid(&mut transaction, organization).await?;
    let relays = store::relay::outbound_addresses(&mut *transaction).await?;
    drop(transaction);
    page(&WebMailCloud {
        console: Console::new(&inside, "Web Mail Cloud"),
        route: ShownRoute::of(summary.gateways(), &app.settings.platform_default),
        gateway: summary.gateway.as_ref().map(ShownAddress::from),
        pending: pending
            .iter()
            .find(|pending| pending.scope == PointerScope::Organization)
            .map(|pending| ((&pending.address).into(), pending_gateway::in_brief(pending))),
        pending_domains: count(pending.iter().filter(|pending| pending.scope != PointerScope::Organization).count()),
        held,
        domains: count(domains.len()),
        domains_with_gateway: count(domains.iter().filter(|domain| domain.gateway.is_some()).count()),
        gateways,
        unused_gateways,
        failing_gateways,
        lists,
        queued: (queued.messages > 0).then(|| outbound_queue::count(queued)),
        queued_held: queued.held,
        volume: outbound_volume::in_words(volume.messages, Unit::Messages),
        limits,
        has_webhook,
        credentials: credentials.count,
        credential_used: credentials.last_used_at.map(wording::moment),
        to_allow: AddressesToAllow::of(&relays),
        summary,
    })
}

fn count(things: usize) -> i64 {
    i64::try_from(things).unwrap_or(i64::MAX)
}
