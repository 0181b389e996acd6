//! Verification: whether a gateway accepts our mail, as each relay finds it out, step by step.
//! Asked from `gateway`, from the three forms with what is typed there, and from `mail_account_manager`; the relay's
//! part is `relay::verification`.

use askama::Template;
use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{
    App, Route,
    console::Console,
    domain_manager,
    error::{PageError, see_other},
    form::{Form, Query},
    gateway, gateways,
    link::Link,
    mail_account_manager::ListQuery,
    named::Named,
    outbound_mail_gateway, page,
    session::InOrganization,
    status, test_message,
    wording::{self, ShownAddress},
};
use crate::{
    mail::{
        GatewayAddress,
        id::{AccountId, ChangeId, GatewayId, VerificationId},
    },
    policy::{
        arrival::Finding,
        facts::TlsMode,
        gateway_record::GatewayRecord,
        outbound_address::AddressesToAllow,
        verification::{self, Destination, Outcome, Step},
    },
    store::{
        self,
        gateway::PointerScope,
        gateway_record::{Edit, Saved, Stored},
        tenant::Access,
        test_message::TestMessage,
        verification::{Answer, Asked, Verification, Wanted},
    },
};

const PATH: &str = "/{organization}/web-mail-cloud/verifications/{verification}";
const REQUIRE_TLS: &str = "/{organization}/web-mail-cloud/verifications/{verification}/require-tls";

pub fn routes() -> Vec<Route> {
    vec![
        Route::get(PATH, show),
        Route::get(REQUIRE_TLS, require_tls_first),
        Route::post(REQUIRE_TLS, require_tls),
        Route::get("/{organization}/web-mail-cloud/gateways/{gateway}/verify", gateway::lead_here),
        Route::post("/{organization}/web-mail-cloud/gateways/{gateway}/verify", ask),
        Route::get("/{organization}/web-mail-cloud/mail-account-manager/{account}/verify", list_first),
        Route::post("/{organization}/web-mail-cloud/mail-account-manager/{account}/verify", ask_for_account),
    ]
}

/// The page of what was found.
pub fn link(slug: &str, verification: VerificationId) -> Link {
    Link::to(format!("/{slug}/web-mail-cloud/verifications/{verification}"))
}

/// The same for who has typed the address into the form of a scope, which was shown with the address `seen`: the page
/// leads back there, and can save it.
pub fn link_from_form(slug: &str, verification: VerificationId, scope: &PointerScope, seen: &str) -> Link {
    let of = match scope {
        PointerScope::Organization => ALL.to_owned(),
        PointerScope::Domain(name) => name.to_string(),
        PointerScope::Account(account) => account.to_string(),
    };
    link(slug, verification).with("of", &of).with("seen", seen)
}

/// What the query calls the form of all users. No mail domain is called so.
const ALL: &str = "all";

/// What the list of accounts is told where so many are under way that no more can be asked for.
pub const TOO_MANY: &str = "verifications";

/// How long a save waits until it is asked whether the gateway accepts.
const A_MOMENT: std::time::Duration = std::time::Duration::from_millis(500);

/// Begins to verify what a change has set or changed, unless that was verified already. Who saved waits for a moment, so
/// that the page that comes next knows of it, and not for longer.
pub async fn begin_after(app: &App, access: &Access, change: ChangeId) {
    let (app, access) = (app.clone(), access.clone());
    let asking = tokio::spawn(async move {
        let asked = async {
            let mut transaction = app.store.begin(&access).await?;
            let organization = access.organization();
            store::verification::ask_after_change(&mut transaction, organization, change, &access.email).await?;
            transaction.commit().await
        };
        if let Err(error) = asked.await {
            tracing::warn!(%error, %change, "gateways that were set are not verified");
        }
        app.going_live.ring();
    });
    // Dropped, a task goes on.
    let _ = tokio::time::timeout(A_MOMENT, asking).await;
}

/// Has a gateway verified once more that has to pass before it goes live.
pub async fn again(app: &App, access: &Access, address: &GatewayAddress) -> Result<(), PageError> {
    let organization = access.organization();
    let mut transaction = app.store.begin(access).await?;
    let gateway = store::gateway::with_address(&mut transaction, organization, address).await?;
    let wanted = Wanted::of(gateway, address, &access.email);
    // Where several are under way, or this one, there is nothing to be said about it.
    store::verification::ask(&mut transaction, organization, &wanted).await?;
    transaction.commit().await?;
    app.going_live.ring();
    Ok(())
}

#[derive(Template)]
#[template(path = "verification.html")]
struct VerificationPage {
    console: Console,
    address: ShownAddress,
    asked: Verification,
    at: String,
    /// Of the gateway, where it is saved.
    revision: Option<String>,
    relays: Vec<ShownAnswer>,
    /// What the gateway has to accept.
    to_allow: AddressesToAllow,
    /// Something may still come: a step, or a test message.
    is_live: bool,
    /// The gateway's page, where it is saved.
    gateway: Option<String>,
    /// The form that the address was typed into.
    typed: Option<Typed>,
    /// The list of accounts, for who comes from there.
    accounts: Option<String>,
    list: String,
    may_ask: bool,
    /// One click from verifying the certificate from now on, where that is to be had and the role allows it.
    require_tls: Option<RequireTls>,
    /// That click came too late: the gateway is no longer as it was verified.
    is_outdated: bool,
}

struct RequireTls {
    action: String,
    /// The change that it becomes.
    change: ChangeId,
}

/// An address that stands in a form and is not saved.
struct Typed {
    /// Whose form it is.
    subject: String,
    is_of_all: bool,
    /// It was saved since.
    is_saved: bool,
    /// It goes live when it has passed.
    is_pending: bool,
    /// The form with the address.
    form: String,
    /// The form's own address, where it is sent to, for who may save it.
    save: Option<String>,
    /// What the form was shown with.
    seen: String,
}

#[derive(Default, Deserialize)]
struct PageQuery {
    #[serde(flatten)]
    list: ListQuery,
    /// The form that the address was typed into: `all`, a mail domain or an account's id.
    of: Option<String>,
    /// What that form was shown with.
    seen: Option<String>,
}

impl PageQuery {
    fn scope(&self) -> Option<PointerScope> {
        let of = self.of.as_deref()?;
        match of.parse::<AccountId>() {
            _ if of == ALL => Some(PointerScope::Organization),
            Ok(account) => Some(PointerScope::Account(account)),
            Err(_) => of.parse().ok().map(PointerScope::Domain),
        }
    }

    /// `None` too if the organization has no such form.
    async fn typed(
        &self,
        db: &mut PgConnection,
        access: &Access,
        id: VerificationId,
        address: &GatewayAddress,
    ) -> Result<Option<Typed>, PageError> {
        let Some(scope) = self.scope() else { return Ok(None) };
        let pointer = store::gateway::pointer(db, access.organization(), &scope).await?;
        let Some(pointer) = pointer else { return Ok(None) };
        let (slug, role) = (&access.slug, access.role);
        let (form, may) = match &scope {
            PointerScope::Organization => (outbound_mail_gateway::here(slug), role.may_set_organization_gateway()),
            PointerScope::Domain(name) => {
                (domain_manager::link_to_form(slug, name), role.may_set_organization_gateway())
            }
            PointerScope::Account(account) => (self.list.link_to_form(slug, *account), role.may_set_account_gateway()),
        };
        let is_saved = pointer.wanted() == Some(address);
        Ok(Some(Typed {
            subject: gateways::unicode(&pointer.subject),
            is_of_all: scope == PointerScope::Organization,
            is_saved,
            is_pending: is_saved && pointer.address.as_ref() != Some(address),
            save: (may && !is_saved).then(|| form.clone().build()),
            form: form.with("verified", &id.to_string()).build(),
            seen: self.seen.clone().unwrap_or_default(),
        }))
    }
}

/// What one relay found.
struct ShownAnswer {
    relay: String,
    verdict: &'static str,
    accepts: Option<bool>,
    steps: Vec<ShownStep>,
    /// The page of its message in somebody's mailbox.
    message: Option<String>,
}

struct ShownStep {
    title: &'static str,
    class: &'static str,
    /// With how long it took.
    outcome: String,
    saw: Vec<String>,
    advice: Option<String>,
}

impl From<&Answer> for ShownAnswer {
    fn from(answer: &Answer) -> Self {
        Self {
            relay: answer.relay.clone(),
            verdict: match answer.accepts {
                Some(true) => "It accepts our mail",
                Some(false) => "It does not accept our mail",
                None => "Under way",
            },
            accepts: answer.accepts,
            steps: answer.steps.iter().map(ShownStep::from).collect(),
            message: None,
        }
    }
}

impl From<&Step> for ShownStep {
    fn from(step: &Step) -> Self {
        let (outcome, class) = outcome(step.outcome);
        let took = time::Duration::milliseconds(step.took.into());
        Self {
            title: verification::title(step.stage),
            class,
            outcome: match step.outcome {
                Outcome::UnderWay => outcome.to_owned(),
                Outcome::Passed | Outcome::Failed => format!("{outcome}, {}", wording::took(took)),
            },
            saw: step.saw.clone(),
            advice: step.advice.clone(),
        }
    }
}

impl From<Finding> for ShownStep {
    fn from(finding: Finding) -> Self {
        let (outcome, class) = outcome(finding.outcome);
        Self {
            title: finding.title,
            class,
            outcome: match finding.took {
                Some(took) => format!("{outcome}, after {}", wording::took(took)),
                None => outcome.to_owned(),
            },
            saw: finding.saw,
            advice: finding.advice,
        }
    }
}

/// In a word, and what the styles know it by.
fn outcome(outcome: Outcome) -> (&'static str, &'static str) {
    match outcome {
        Outcome::UnderWay => ("under way", "is-under-way"),
        Outcome::Passed => ("passed", "is-passed"),
        Outcome::Failed => ("failed", "is-failed"),
    }
}

/// What test messages have shown so far, put behind the steps of the relays that have sent them; with a slug, for those
/// that go to a mailbox there. True if something is still awaited.
fn add_tests(relays: &mut [ShownAnswer], tests: &[TestMessage], in_mailbox: Option<&str>, now: OffsetDateTime) -> bool {
    let mut is_awaited = false;
    for test in tests.iter().filter(|test| test.taken_at.is_some()) {
        let Some(answer) = relays.iter_mut().find(|answer| answer.relay == test.relay) else { continue };
        let progress = test.progress(now);
        is_awaited |= progress.is_awaited();
        answer.steps.extend(progress.findings().into_iter().map(ShownStep::from));
        answer.message = in_mailbox.map(|slug| test_message::link(slug, test.id).build());
    }
    is_awaited
}

async fn show(
    State(app): State<App>,
    inside: InOrganization,
    Named(verification): Named<VerificationId>,
    Query(query): Query<PageQuery>,
) -> Result<Response, PageError> {
    page(&look(&app, &inside, verification, &query).await?)
}

async fn look(
    app: &App,
    inside: &InOrganization,
    verification: VerificationId,
    query: &PageQuery,
) -> Result<VerificationPage, PageError> {
    let organization = inside.access.organization();
    let mut transaction = app.store.begin(&inside.access).await?;
    let found = store::verification::by_id(&mut transaction, organization, verification).await?;
    let asked = found.ok_or(PageError::NotFound)?;
    let tests = store::test_message::of(&mut *transaction, organization, verification).await?;
    let typed = query.typed(&mut transaction, &inside.access, verification, &asked.address).await?;
    let stored = match asked.gateway.filter(|_| inside.access.role.may_set_organization_gateway()) {
        Some(gateway) => store::gateway_record::wanted(&mut transaction, organization, gateway).await?,
        None => None,
    };
    let to_allow = asked.to_allow(store::relay::outbound_addresses(&mut *transaction).await?);
    drop(transaction);
    let slug = &inside.access.slug;
    let mut relays: Vec<ShownAnswer> = asked.answers.iter().map(ShownAnswer::from).collect();
    let in_mailbox = (asked.test == Some(Destination::Recipient)).then_some(slug.as_str());
    let is_awaited = add_tests(&mut relays, &tests, in_mailbox, OffsetDateTime::now_utc());
    Ok(VerificationPage {
        console: Console::new(inside, gateways::LABEL),
        address: (&asked.address).into(),
        at: wording::moment(asked.at),
        revision: asked.revision.map(wording::number),
        relays,
        to_allow,
        is_live: is_awaited || !asked.has_ended(),
        gateway: asked.gateway.map(|id| gateway::link(slug, id).build()),
        list: gateways::link(slug).build(),
        accounts: query.list.link_to_selected(slug).filter(|_| typed.is_none()).map(Link::build),
        typed,
        may_ask: inside.access.role.may_set_account_gateway(),
        require_tls: stored.filter(|stored| may_require_tls(&asked, stored)).map(|_| RequireTls {
            action: format!("{}/require-tls", link(slug, verification).build()),
            change: ChangeId::new(),
        }),
        is_outdated: false,
        asked,
    })
}

/// Whether it was found of what is in use now that it offers a certificate which would be verified, and nobody asks
/// for that yet.
fn may_require_tls(asked: &Verification, stored: &Stored) -> bool {
    let is_present = asked.revision == Some(stored.revision) && !stored.is_pending();
    is_present && stored.record.tls == TlsMode::WhenOffered && asked.has_ended() && asked.would_verify()
}

/// The button stands on the verification's page.
async fn require_tls_first(
    State(app): State<App>,
    inside: InOrganization,
    Named(verification): Named<VerificationId>,
) -> Result<Response, PageError> {
    let found = look(&app, &inside, verification, &PageQuery::default()).await;
    found.map(|_| see_other(&link(&inside.access.slug, verification).build()))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RequireTlsForm {
    /// The change that it becomes, once: sent twice it is the same.
    change: String,
}

/// Changes the gateway's record, as its own page would.
async fn require_tls(
    State(app): State<App>,
    inside: InOrganization,
    Named(verification): Named<VerificationId>,
    Form(form): Form<RequireTlsForm>,
) -> Result<Response, PageError> {
    let (access, email) = (&inside.access, &inside.access.email);
    if !access.role.may_set_organization_gateway() {
        return Err(PageError::Forbidden("Only an Administrator may change a gateway. Ask one of your organization."));
    }
    let malformed = |_| PageError::Malformed("change is not what the form was shown with".to_owned());
    let change: ChangeId = form.change.parse().map_err(malformed)?;
    let mut transaction = app.store.begin(access).await?;
    let asked = store::verification::by_id(&mut transaction, access.organization(), verification).await?;
    let asked = asked.ok_or(PageError::NotFound)?;
    let gateway = asked.gateway.ok_or(PageError::NotFound)?;
    let stored = store::gateway_record::wanted_for_update(&mut transaction, gateway).await?;
    let stored = stored.ok_or(PageError::NotFound)?;
    let here = gateway::link(&access.slug, gateway);
    if store::gateway_record::is_saved(&mut transaction, access.organization(), change).await? {
        return Ok(see_other(&here.with("change", &change.to_string()).build()));
    }
    if stored.record.tls == TlsMode::Verified {
        return Ok(see_other(&here.with("unchanged", "1").build()));
    }
    let outdated = async || {
        let look = look(&app, &inside, verification, &PageQuery::default()).await?;
        Ok((StatusCode::CONFLICT, page(&VerificationPage { is_outdated: true, ..look })?).into_response())
    };
    if !may_require_tls(&asked, &stored) {
        drop(transaction);
        return outdated().await;
    }
    let record = GatewayRecord { tls: TlsMode::Verified, ..stored.record };
    // That is what every relay has just found.
    let edit = Edit { change, record: &record, password: None, at_once: true, actor: email };
    match store::gateway_record::save(transaction, gateway, &edit).await? {
        Saved::Changed(committed) => {
            begin_after(&app, access, committed.id).await;
            status::wait_until_live(&app, access, committed.revision).await;
            Ok(see_other(&here.with("change", &committed.id.to_string()).build()))
        }
        Saved::Unchanged | Saved::Already | Saved::Pending(_) | Saved::GivenUp(_) => {
            Ok(see_other(&here.with("change", &change.to_string()).build()))
        }
        Saved::NotFound => Err(PageError::NotFound),
        // Its backups or its password were changed in this very moment.
        Saved::AddressTaken | Saved::NoSuchBackup(_) | Saved::PasswordNeeded => outdated().await,
    }
}

/// Nothing is sent: what is verified stands in the path.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct VerifyForm {}

async fn ask(
    State(app): State<App>,
    inside: InOrganization,
    Named(id): Named<GatewayId>,
    Form(VerifyForm {}): Form<VerifyForm>,
) -> Result<Response, PageError> {
    may_ask(&inside)?;
    let organization = inside.access.organization();
    let mut transaction = app.store.begin(&inside.access).await?;
    let found = store::gateway::overview(&mut transaction, organization, Some(id)).await?.pop();
    let found = found.ok_or(PageError::NotFound)?;
    let by = &inside.access.email;
    let wanted = Wanted::of(Some(id), &found.address, by);
    match store::verification::ask(&mut transaction, organization, &wanted).await? {
        Asked::Asked(verification) => {
            transaction.commit().await?;
            app.going_live.ring();
            Ok(see_other(&link(&inside.access.slug, verification).build()))
        }
        Asked::NotFound => {
            drop(transaction);
            let look = gateway::look(&app, &inside, id).await?.without_domain();
            Ok((StatusCode::UNPROCESSABLE_ENTITY, page(&look)?).into_response())
        }
        Asked::TooMany | Asked::TooManyTests => {
            drop(transaction);
            let look = gateway::look(&app, &inside, id).await?.with_verifications_under_way();
            Ok((StatusCode::TOO_MANY_REQUESTS, page(&look)?).into_response())
        }
    }
}

pub(super) fn may_ask(inside: &InOrganization) -> Result<(), PageError> {
    match inside.access.role.may_set_account_gateway() {
        true => Ok(()),
        false => Err(PageError::Forbidden(
            "Only an Administrator or a User Administrator may verify a gateway. Ask one of your organization.",
        )),
    }
}

/// The button stands in the list.
async fn list_first(
    State(app): State<App>,
    inside: InOrganization,
    Named(id): Named<AccountId>,
    Query(list): Query<ListQuery>,
) -> Result<Response, PageError> {
    let mut transaction = app.store.begin(&inside.access).await?;
    let found = store::account::by_id(&mut transaction, inside.access.organization(), id).await?;
    found.ok_or(PageError::NotFound)?;
    Ok(see_other(&list.link_to_row(&inside.access.slug, id).build()))
}

/// The gateway that applies to an account, for mail from its User ID.
async fn ask_for_account(
    State(app): State<App>,
    inside: InOrganization,
    Named(id): Named<AccountId>,
    Query(list): Query<ListQuery>,
    Form(VerifyForm {}): Form<VerifyForm>,
) -> Result<Response, PageError> {
    may_ask(&inside)?;
    let (organization, slug) = (inside.access.organization(), &inside.access.slug);
    let mut transaction = app.store.begin(&inside.access).await?;
    let account = store::account::by_id(&mut transaction, organization, id).await?.ok_or(PageError::NotFound)?;
    let row = list.link_to_row(slug, id);
    // Somebody may have taken it away since the list was shown: then it says so.
    let Some((address, _)) = account.gateways.nearest() else { return Ok(see_other(&row.build())) };
    let gateway = store::gateway::with_address(&mut transaction, organization, &address).await?;
    // Not every gateway offers SMTPUTF8 (RFC 6531): the organization's own address stands in.
    let sender = Some(account.user_id.to_string()).filter(|_| account.user_id.local_part().is_ascii());
    let (sender, by) = (sender.as_deref(), inside.access.email.as_str());
    let wanted = Wanted { sender, ..Wanted::of(gateway, &address, by) };
    match store::verification::ask(&mut transaction, organization, &wanted).await? {
        Asked::Asked(verification) => {
            transaction.commit().await?;
            app.going_live.ring();
            let page = list.place_below(link(slug, verification)).with("selected", &id.to_string());
            Ok(see_other(&page.build()))
        }
        Asked::NotFound => Err(PageError::NotFound),
        Asked::TooMany | Asked::TooManyTests => Ok(see_other(&row.with("unchanged", TOO_MANY).build())),
    }
}
