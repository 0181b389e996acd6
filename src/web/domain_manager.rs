//! Domain Manager: every mail domain with the gateway that applies to it, and why.
//! The list; what is set for one domain is `domain_outbound_gateway`'s.

use askama::Template;
use axum::{extract::State, response::Response};
use serde::Deserialize;

use super::{
    App, Route, audit_log,
    console::Console,
    error::PageError,
    form::Query,
    link::Link,
    page, pending_gateway,
    session::InOrganization,
    status::{self, Part, StatusLine},
    undo,
    wording::{self, ShownAddress, ShownRoute},
};
use crate::{
    mail::{DomainName, id::ChangeId},
    store::{
        self, OrganizationTransaction,
        change::Subject,
        domain::DomainOverview,
        gateway::PointerScope,
        pending_gateway::{Check, Pending},
        tenant::Access,
    },
};

/// The page's name, in the navigation too.
pub const LABEL: &str = "Domain Manager";

pub fn routes() -> Vec<Route> {
    vec![Route::get("/{organization}/web-mail-cloud/domain-manager", show)]
}

/// The list with this domain marked.
pub fn link_to_row(slug: &str, domain: &DomainName) -> Link {
    Link::to(format!("/{slug}/web-mail-cloud/domain-manager")).with("selected", domain.as_str())
}

/// The Outbound Gateway form of one domain.
pub fn link_to_form(slug: &str, domain: &DomainName) -> Link {
    Link::to(format!("/{slug}/web-mail-cloud/domain-manager/{domain}/outbound-gateway"))
}

#[derive(Template)]
#[template(path = "domain_manager.html")]
struct DomainManager {
    console: Console,
    status: Option<StatusLine>,
    rows: Vec<Row>,
    /// A gateway is being verified that goes live then.
    is_under_way: bool,
}

/// One mail domain as it stands in the table.
struct Row {
    /// In ASCII, which is its key.
    key: String,
    name: String,
    accounts: i64,
    route: ShownRoute,
    /// What goes live when it has passed its verification, and how that goes.
    pending: Option<(ShownAddress, &'static str)>,
    marked: bool,
    form: String,
    /// Where its own gateway is deleted, if there is one and the role allows it.
    delete: Option<String>,
}

impl Row {
    /// Whether it is followed while a gateway is being verified.
    fn is_live(&self) -> bool {
        self.marked || self.pending.is_some()
    }

    /// The ASCII form, where it is not what is shown already.
    fn ascii(&self) -> Option<&str> {
        (self.key != self.name).then_some(self.key.as_str())
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ListQuery {
    /// The marked domain.
    selected: String,
    /// The change that was just saved for it.
    change: String,
    /// The change of its inbound host that was just saved.
    inbound: String,
    /// What the save was of that changed nothing.
    unchanged: String,
    /// Why what was saved is live at once.
    at_once: String,
}

async fn show(
    State(app): State<App>,
    inside: InOrganization,
    Query(query): Query<ListQuery>,
) -> Result<Response, PageError> {
    let mut transaction = app.store.begin(&inside.access).await?;
    let domains = store::domain::overview(&mut transaction, inside.access.organization(), None).await?;
    let pending = store::pending_gateway::list(&mut transaction, inside.access.organization(), None).await?;
    let of = |domain: &DomainOverview| {
        let scope = PointerScope::Domain(domain.name.clone());
        pending.iter().find(|pending| pending.scope == scope)
    };
    let selected = domains.iter().find(|domain| domain.name.as_str() == query.selected);
    let status = match selected {
        Some(domain) => status(&app, &inside.access, &mut transaction, &query, domain, of(domain)).await?,
        None => None,
    };
    drop(transaction);
    page(&DomainManager {
        console: Console::new(&inside, LABEL),
        status,
        rows: domains.iter().map(|domain| row(&app, &inside, &query, domain, of(domain))).collect(),
        is_under_way: pending.iter().any(|pending| matches!(pending.check(), Check::UnderWay | Check::Passed)),
    })
}

fn row(
    app: &App,
    inside: &InOrganization,
    query: &ListQuery,
    domain: &DomainOverview,
    pending: Option<&Pending>,
) -> Row {
    let may_delete = domain.gateways.domain.is_some() && inside.access.role.may_set_organization_gateway();
    let form = link_to_form(&inside.access.slug, &domain.name);
    Row {
        key: domain.name.to_string(),
        name: domain.name.to_unicode(),
        accounts: domain.accounts,
        route: ShownRoute::of(domain.gateways.clone(), &app.settings.platform_default),
        pending: pending.map(|pending| ((&pending.address).into(), pending_gateway::in_brief(pending))),
        marked: query.selected == domain.name.as_str(),
        delete: may_delete.then(|| form.clone().with("delete", "1").build()),
        form: form.build(),
    }
}

/// What was just saved for the marked domain.
async fn status(
    app: &App,
    access: &Access,
    transaction: &mut OrganizationTransaction,
    query: &ListQuery,
    domain: &DomainOverview,
    pending: Option<&Pending>,
) -> Result<Option<StatusLine>, PageError> {
    let organization = transaction.organization();
    let default = &app.settings.platform_default;
    let of_inbound_host = !query.inbound.is_empty();
    let asked = if of_inbound_host { &query.inbound } else { &query.change };
    let Ok(change) = asked.parse::<ChangeId>() else {
        return Ok(match query.unchanged.as_str() {
            "" => None,
            "pending" if let Some(pending) = pending => Some(status::still_pending(pending)),
            "decided" => Some(status::decided_already()),
            "inbound-host" => Some(status::unchanged_inbound_host(domain, default)),
            _ => Some(status::unchanged_domain(domain)),
        });
    };
    let key = domain.name.as_str();
    let Some(change) = store::change::recent(transaction, organization, change, Subject::Domain, key).await? else {
        return Ok(None);
    };
    let scope = PointerScope::Domain(domain.name.clone());
    let (change, passed) = status::as_it_went_on(transaction, &scope, change).await?;
    let progress = store::change::progress(transaction, change.revision).await?;
    let line = match of_inbound_host {
        true => status::of_inbound_host(&change, domain, default, &progress),
        false if let Some(line) = status::of_pending(&change, pending, &progress) => match line.is_warning {
            true => line.leading_to("What to do", link_to_form(&access.slug, &domain.name)),
            false => line,
        },
        false => {
            let messages = status::taking_new_way(transaction, &scope, &change).await?;
            let because = if passed { status::PASSED } else { &query.at_once };
            status::of_domain(&change, domain, default, &progress)
                .because(Some(because))
                .taking(messages)
                .what_left(&access.slug, &scope, &change)
                .leading_to(status::SINCE, audit_log::entry_link(&access.slug, change.id))
        }
    };
    Ok(Some(line.undoable(access.role.may_set_organization_gateway(), undo::link(&access.slug, change.id))))
}
