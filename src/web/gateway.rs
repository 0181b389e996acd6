//! One gateway: its address and revisions, who uses it, what waits for it; removed when nobody does.
//! Opened from `gateways`.

use askama::Template;
use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use time::OffsetDateTime;

use super::{
    App, Route, audit_log,
    console::Console,
    domain_manager,
    draft::Draft,
    error::{PageError, see_other},
    form::{Form, Query},
    gateway_record::RecordView,
    gateway_state::{ShownCheck, ShownState},
    gateways::{self, unicode},
    link::Link,
    named::Named,
    outbound_queue, page,
    pending_record::ShownPendingRecord,
    session::InOrganization,
    status::{self, Part, StatusLine},
    undo,
    wording::{self, ShownAddress},
};
use crate::{
    mail::{
        DomainName, GatewayAddress,
        id::{ChangeId, GatewayId},
    },
    policy::outbound_address::AddressesToAllow,
    store::{
        self,
        gateway::{GatewayOverview, Removed, Revision},
        held_mail::WaitingForGateway,
        outbound_queue::{Filter, Messages, WaitsFor, Why},
        pending_record::WentOn,
    },
};

const PATH: &str = "/{organization}/web-mail-cloud/gateways/{gateway}";

pub fn routes() -> Vec<Route> {
    vec![Route::get(PATH, show), Route::post(PATH, remove)]
}

/// The page of one gateway.
pub fn link(slug: &str, gateway: GatewayId) -> Link {
    Link::to(format!("/{slug}/web-mail-cloud/gateways/{gateway}"))
}

/// How many accounts are named before the rest are only counted.
const NAMED_ACCOUNTS: i64 = 50;

#[derive(Template)]
#[template(path = "gateway.html")]
pub(super) struct GatewayPage {
    console: Console,
    status: Option<StatusLine>,
    /// A change of its record that is not live yet.
    pending_record: Option<ShownPendingRecord>,
    /// The record as it is to be.
    pub(super) record: RecordView,
    pub(super) mistakes: Vec<(&'static str, String)>,
    address: ShownAddress,
    gateway: GatewayOverview,
    revisions: Vec<Revision>,
    /// Name and form of each mail domain that points at it.
    domains: Vec<(String, String)>,
    /// User ID and form of the first accounts that have it as their own.
    accounts: Vec<(String, String)>,
    /// What its mail says.
    state: ShownState,
    /// What the last verification said.
    check: ShownCheck,
    may_verify: bool,
    /// What it has to accept.
    to_allow: AddressesToAllow,
    /// So many are under way that no more can be asked for.
    verifications_under_way: bool,
    /// There is no mail domain to send from.
    no_domain: bool,
    /// So many test messages were sent within the hour that no more are.
    too_many_tests: bool,
    /// Whether test messages can come back.
    returns: bool,
    /// Who looks at the page: where a test message can go.
    email: String,
    waiting: WaitingForGateway,
    /// When the oldest of it was accepted.
    since: Option<String>,
    may_edit: bool,
    /// Whether to ask for the removal to be confirmed.
    removing: bool,
    /// It is in use after all.
    refused: bool,
    list: String,
    here: String,
    /// The queue with the mail that waits for it.
    queue: String,
}

impl GatewayPage {
    pub(super) fn with_verifications_under_way(self) -> Self {
        Self { verifications_under_way: true, ..self }
    }

    pub(super) fn without_domain(self) -> Self {
        Self { no_domain: true, ..self }
    }

    pub(super) fn with_too_many_tests(self) -> Self {
        Self { too_many_tests: true, ..self }
    }

    fn shown(&self, address: &GatewayAddress) -> ShownAddress {
        address.into()
    }

    fn can_be_removed(&self) -> bool {
        self.gateway.is_unused() && self.waiting.messages == 0
    }

    /// Whether the page is to be looked at again soon.
    fn is_being_checked(&self) -> bool {
        self.check.is_under_way || self.pending_record.as_ref().is_some_and(|pending| pending.is_under_way)
    }

    fn made(&self, revision: &Revision) -> String {
        wording::moment(revision.created_at)
    }

    fn more_accounts(&self) -> i64 {
        (self.gateway.accounts - NAMED_ACCOUNTS).max(0)
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PageQuery {
    remove: String,
    /// The change that was just saved.
    change: String,
    /// Whether the save changed nothing.
    unchanged: String,
}

async fn show(
    State(app): State<App>,
    inside: InOrganization,
    Named(gateway): Named<GatewayId>,
    Query(query): Query<PageQuery>,
    draft: Draft,
) -> Result<Response, PageError> {
    let mut look = look(&app, &inside, gateway).await?;
    look.removing = !query.remove.is_empty() && look.may_edit && look.can_be_removed();
    look.status = match query.change.parse::<ChangeId>() {
        Ok(change) => after_change(&app, &inside, gateway, change, &look.gateway.address).await?,
        Err(_) if query.unchanged == "decided" => Some(status::decided_already()),
        Err(_) => (!query.unchanged.is_empty()).then(status::unchanged_gateway),
    };
    if look.may_edit {
        look.record.restore(&draft);
    }
    page(&look)
}

/// What was just saved, for as long as it is worth saying.
async fn after_change(
    app: &App,
    inside: &InOrganization,
    gateway: GatewayId,
    change: ChangeId,
    address: &GatewayAddress,
) -> Result<Option<StatusLine>, PageError> {
    let organization = inside.access.organization();
    let mut transaction = app.store.begin(&inside.access).await?;
    let change = match store::pending_record::went_on(&mut transaction, organization, change, gateway).await? {
        None => change,
        Some(WentOn::Live(live)) => live,
        // The page says it by itself, for as long as it is so.
        Some(WentOn::Waits) => return Ok(Some(status::of_pending_record())),
        Some(WentOn::Superseded) => return Ok(Some(status::superseded_record())),
        Some(WentOn::GivenUp) => return Ok(Some(status::given_up_record())),
    };
    let edit = store::gateway_record::recent_edit(&mut transaction, organization, change, gateway).await?;
    let Some(edit) = edit else { return Ok(None) };
    let progress = store::change::progress(&mut transaction, edit.revision).await?;
    let only = Filter { waits_for: Some(WaitsFor::Gateway(gateway)), why: Some(Why::Waiting), ..Filter::default() };
    let waiting = store::outbound_queue::count(&mut transaction, organization, &Messages::Matching(only)).await?;
    let line = status::of_gateway(&edit, address, &progress).taking(waiting.messages);
    let line = line.leading_to(status::SINCE, audit_log::entry_link(&inside.access.slug, change));
    let line = match audit_log::left_in_between(&mut transaction, &inside.access, change).await? {
        Some(left) => line.leading_to(status::LEFT, left),
        None => line,
    };
    let may = inside.access.role.may_set_organization_gateway();
    Ok(Some(line.undoable(may, undo::link(&inside.access.slug, change))))
}

/// Buttons of other files stand on this page: who comes to where one of them sends its form, after signing in again for
/// example, is led here.
pub(super) async fn lead_here(
    State(app): State<App>,
    inside: InOrganization,
    Named(id): Named<GatewayId>,
) -> Result<Response, PageError> {
    let mut transaction = app.store.begin(&inside.access).await?;
    let found = store::gateway::overview(&mut transaction, inside.access.organization(), Some(id)).await?.pop();
    found.ok_or(PageError::NotFound)?;
    Ok(see_other(&link(&inside.access.slug, id).build()))
}

pub(super) async fn look(app: &App, inside: &InOrganization, id: GatewayId) -> Result<GatewayPage, PageError> {
    let organization = inside.access.organization();
    let slug = &inside.access.slug;
    let mut transaction = app.store.begin(&inside.access).await?;
    let found = store::gateway::overview(&mut transaction, organization, Some(id)).await?.pop();
    let gateway = found.ok_or(PageError::NotFound)?;
    let stored = store::gateway_record::wanted(&mut transaction, organization, id).await?.ok_or(PageError::NotFound)?;
    let pending_record = store::pending_record::list(&mut transaction, organization, Some(id)).await?.pop();
    let revisions = store::gateway::revisions(&mut transaction, organization, id).await?;
    let accounts = store::gateway::first_accounts(&mut transaction, organization, id, NAMED_ACCOUNTS).await?;
    let waiting = store::held_mail::waiting_for(&mut transaction, organization, id).await?;
    let health = store::gateway_health::of(&mut transaction, organization, Some(id)).await?;
    let checked = store::verification::checked(&mut transaction, organization, Some(id)).await?;
    let relays = store::relay::outbound_addresses(&mut *transaction).await?;
    drop(transaction);
    let of_account = |account| format!("/{slug}/web-mail-cloud/mail-account-manager/{account}/outbound-gateway");
    let of_domain = |name: &String| {
        let form = name.parse::<DomainName>().map(|name| domain_manager::link_to_form(slug, &name).build());
        (unicode(name), form.unwrap_or_default())
    };
    Ok(GatewayPage {
        console: Console::new(inside, gateways::LABEL),
        status: None,
        pending_record: pending_record.map(|pending| ShownPendingRecord::of(&pending, slug)),
        record: RecordView::of(&stored),
        mistakes: Vec::new(),
        address: (&gateway.address).into(),
        revisions,
        domains: gateway.domains.iter().map(of_domain).collect(),
        accounts: accounts.iter().map(|(account, user_id)| (wording::user_id(user_id), of_account(account))).collect(),
        state: ShownState::of(health.first(), OffsetDateTime::now_utc()),
        check: ShownCheck::of(checked.first(), slug),
        may_verify: inside.access.role.may_set_account_gateway(),
        to_allow: AddressesToAllow::of(&relays),
        verifications_under_way: false,
        no_domain: false,
        too_many_tests: false,
        returns: app.settings.return_address.is_some(),
        email: inside.access.email.clone(),
        since: waiting.since.map(wording::moment),
        waiting,
        gateway,
        may_edit: inside.access.role.may_set_organization_gateway(),
        removing: false,
        refused: false,
        list: gateways::link(slug).build(),
        here: link(slug, id).build(),
        queue: outbound_queue::list(slug).with("gateway", &id.to_string()).build(),
    })
}

/// Nothing is sent: what is removed stands in the path.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RemoveForm {}

async fn remove(
    State(app): State<App>,
    inside: InOrganization,
    Named(gateway): Named<GatewayId>,
    Form(RemoveForm {}): Form<RemoveForm>,
) -> Result<Response, PageError> {
    if !inside.access.role.may_set_organization_gateway() {
        return Err(PageError::Forbidden("Only an Administrator may remove a gateway. Ask one of your organization."));
    }
    let transaction = app.store.begin(&inside.access).await?;
    match store::gateway::remove(transaction, gateway, &inside.access.email).await? {
        // Sent twice: both lead to the same.
        Removed::NotFound => {
            let organization = inside.access.organization();
            let mut transaction = app.store.begin(&inside.access).await?;
            let thing = ("gateway", &*gateway.to_string());
            let last = store::change::last_of(&mut transaction, organization, thing, None).await?;
            let own = last.filter(|last| last.actor == inside.access.email).ok_or(PageError::NotFound)?;
            Ok(see_other(&gateways::link(&inside.access.slug).with("removed", &own.change.to_string()).build()))
        }
        Removed::Removed(_, change) => {
            Ok(see_other(&gateways::link(&inside.access.slug).with("removed", &change.id.to_string()).build()))
        }
        Removed::InUse => {
            let look = GatewayPage { refused: true, ..look(&app, &inside, gateway).await? };
            Ok((StatusCode::CONFLICT, page(&look)?).into_response())
        }
    }
}
