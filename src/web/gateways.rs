//! Gateways: every external server that the organization's mail may leave through, and who uses it.
//! The list; one of them is `gateway`'s.

use std::collections::HashMap;

use askama::Template;
use axum::{extract::State, response::Response};
use serde::Deserialize;
use time::OffsetDateTime;

use super::{
    App, Route,
    console::Console,
    error::PageError,
    form::Query,
    gateway_state::{ShownCheck, ShownState},
    link::Link,
    outbound_queue, page,
    session::InOrganization,
    status::{self, Part, StatusLine},
    undo,
    wording::{self, ShownAddress},
};
use crate::{
    mail::{DomainName, id::ChangeId},
    store::{self, gateway::GatewayOverview, pending_gateway::Check},
};

/// The page's name, in the navigation too.
pub const LABEL: &str = "Gateways";

pub fn routes() -> Vec<Route> {
    vec![Route::get("/{organization}/web-mail-cloud/gateways", show)]
}

/// The list.
pub fn link(slug: &str) -> Link {
    Link::to(format!("/{slug}/web-mail-cloud/gateways"))
}

#[derive(Template)]
#[template(path = "gateways.html")]
struct Gateways {
    console: Console,
    status: Option<StatusLine>,
    rows: Vec<Row>,
}

/// One gateway as it stands in the table.
struct Row {
    address: ShownAddress,
    page: String,
    state: ShownState,
    check: ShownCheck,
    /// How it goes with a change of its record that is not live yet.
    pending: Option<&'static str>,
    used_by: String,
    waiting: i64,
    /// The queue with what waits for it.
    queue: String,
}

/// How many mail domains are named before the rest are only counted.
const NAMED_DOMAINS: usize = 2;

/// Who points at a gateway, in words: `all users, acme.example and 12 accounts`.
pub fn used_by(gateway: &GatewayOverview) -> String {
    let mut users = Vec::new();
    if gateway.of_all {
        users.push("all users".to_owned());
    }
    users.extend(gateway.domains.iter().take(NAMED_DOMAINS).map(|name| unicode(name)));
    match gateway.domains.len().saturating_sub(NAMED_DOMAINS) {
        0 => {}
        1 => users.push("1 more domain".to_owned()),
        more => users.push(format!("{more} more domains")),
    }
    if gateway.accounts > 0 {
        users.push(wording::counted(gateway.accounts, "account", "accounts"));
    }
    if gateway.pending_of_all {
        users.push("all users once it is verified".to_owned());
    }
    users.extend(gateway.pending_domains.iter().map(|name| format!("{} once it is verified", unicode(name))));
    match users.split_last() {
        None => "nobody".to_owned(),
        Some((last, [])) => last.clone(),
        Some((last, others)) => format!("{} and {last}", others.join(", ")),
    }
}

/// A mail domain in its own script.
pub fn unicode(name: &str) -> String {
    name.parse::<DomainName>().map_or_else(|_| name.to_owned(), |name| name.to_unicode())
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct AfterRemoval {
    /// The change that removed one.
    removed: String,
}

async fn show(
    State(app): State<App>,
    inside: InOrganization,
    Query(after): Query<AfterRemoval>,
) -> Result<Response, PageError> {
    let organization = inside.access.organization();
    let mut transaction = app.store.begin(&inside.access).await?;
    let gateways = store::gateway::overview(&mut transaction, organization, None).await?;
    let health = store::gateway_health::of(&mut transaction, organization, None).await?;
    let health: HashMap<_, _> = health.iter().map(|health| (health.gateway, health)).collect();
    let checked = store::verification::checked(&mut transaction, organization, None).await?;
    let checked: HashMap<_, _> = checked.iter().map(|checked| (checked.gateway, checked)).collect();
    let pending = store::pending_record::list(&mut transaction, organization, None).await?;
    let pending: HashMap<_, _> = pending.iter().map(|pending| (pending.gateway, pending.check())).collect();
    let now = OffsetDateTime::now_utc();
    let status = match after.removed.parse::<ChangeId>() {
        Ok(change) => store::gateway::recently_removed(&mut transaction, organization, change).await?.map(|removed| {
            let may_undo = inside.access.role.may_set_organization_gateway() && !removed.is_undo && !removed.is_there;
            status::removed_gateway(&removed).undoable(may_undo, undo::link(&inside.access.slug, change))
        }),
        Err(_) => None,
    };
    drop(transaction);
    page(&Gateways {
        console: Console::new(&inside, LABEL),
        status,
        rows: gateways
            .iter()
            .map(|gateway| Row {
                address: (&gateway.address).into(),
                page: super::gateway::link(&inside.access.slug, gateway.id).build(),
                state: ShownState::of(health.get(&gateway.id).copied(), now),
                check: ShownCheck::of(checked.get(&gateway.id).copied(), &inside.access.slug),
                pending: pending.get(&gateway.id).map(|check| match check {
                    Check::UnderWay | Check::Passed => "A change of it is being checked",
                    Check::Refused => "A change of it has not passed its check",
                    Check::NotAnswered => "A change of it was not checked by every relay",
                }),
                used_by: used_by(gateway),
                waiting: gateway.waiting,
                queue: outbound_queue::list(&inside.access.slug).with("gateway", &gateway.id.to_string()).build(),
            })
            .collect(),
    })
}
