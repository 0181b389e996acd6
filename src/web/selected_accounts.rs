//! The gateway of many users: what was ticked in `mail_account_manager`, or all that it shows, after a confirmation.
//! The number of accounts stands in the confirmation, and holds when it is done.

use askama::Template;
use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::{
    App, Route,
    console::Console,
    error::{PageError, see_other},
    form::{Form, ticked},
    gateway_form::{self, GatewayField, GatewayForm, GatewayMistake},
    job,
    link::Link,
    mail_account_manager::{self, ListQuery},
    page,
    session::InOrganization,
    status, verification, wording,
};
use crate::{
    mail::{
        GatewayAddress,
        gateway_address::GatewayAddressError,
        id::{AccountId, ChangeId},
    },
    policy::gateway_network::AllowedNetworks,
    store::{
        self,
        account_list::PAGE_SIZE,
        job::About,
        selected_accounts::{Accounts, Counted, Order, Set},
        tenant::Access,
    },
};

const PATH: &str = "/{organization}/web-mail-cloud/mail-account-manager/selected";

pub fn routes() -> Vec<Route> {
    vec![Route::get(PATH, show), Route::post(PATH, confirm)]
}

/// There is nothing to see before accounts were selected: who comes here by a link or after signing in again
/// selects them in the list.
async fn show(inside: InOrganization) -> Response {
    see_other(&ListQuery::default().link_here(&inside.access.slug).build())
}

/// What is to be done with the accounts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Action {
    Set,
    Delete,
}

impl Action {
    fn word(self) -> &'static str {
        match self {
            Self::Set => "set",
            Self::Delete => "delete",
        }
    }
}

/// What is sent, by the list and by the confirmation. A tick is a field of its own, so that one name comes several
/// times; every other field comes once, and none that is not named here comes at all.
#[derive(Debug)]
struct SelectedForm {
    action: Action,
    ticked: Vec<AccountId>,
    /// All that the list shows, whatever is ticked.
    all: bool,
    list: ListQuery,
    /// What stands in the field; only in the confirmation.
    outbound_gateway: Option<String>,
    /// One of the offered gateways, to stand in the field.
    gateway: Option<String>,
    /// The number of accounts that was confirmed.
    confirmed: Option<i64>,
    /// Of the change that the confirmation becomes, so that sent twice it is one.
    change: ChangeId,
}

impl TryFrom<Vec<(String, String)>> for SelectedForm {
    type Error = PageError;

    fn try_from(fields: Vec<(String, String)>) -> Result<Self, PageError> {
        let malformed = |what: &str| PageError::Malformed(format!("{what} in a form for several accounts"));
        let (ticked, mut once) = ticked::<AccountId>(fields, PAGE_SIZE, malformed)?;
        let action = match once.remove("action").as_deref() {
            Some("set") => Action::Set,
            Some("delete") => Action::Delete,
            _ => return Err(malformed("no action")),
        };
        let confirmed = once.remove("confirmed").map(|count| count.parse()).transpose();
        let change = once.remove("change").map(|change| change.parse()).transpose();
        let form = Self {
            action,
            ticked,
            all: once.remove("all").is_some(),
            outbound_gateway: once.remove("outbound_gateway"),
            gateway: once.remove("gateway"),
            confirmed: confirmed.map_err(|_| malformed("no number"))?,
            change: change.map_err(|_| malformed("no id of a change"))?.unwrap_or_else(ChangeId::new),
            list: ListQuery::take(&mut once),
        };
        if once.is_empty() { Ok(form) } else { Err(malformed("an unknown field")) }
    }
}

impl SelectedForm {
    fn accounts(&self) -> Accounts {
        if self.all {
            Accounts::Matching { search: self.list.search(), show: self.list.show() }
        } else {
            Accounts::Ticked(self.ticked.clone())
        }
    }

    /// What was typed, or why it cannot be: here an empty field deletes nothing.
    fn address(&self, allowed: &AllowedNetworks) -> Result<Option<GatewayAddress>, GatewayMistake> {
        if self.action == Action::Delete {
            return Ok(None);
        }
        let typed = GatewayForm {
            outbound_gateway: self.outbound_gateway.clone().unwrap_or_default(),
            seen: None,
            verify: None,
        };
        match typed.parse(allowed)? {
            Some(address) => Ok(Some(address)),
            None => Err(GatewayAddressError::Empty.into()),
        }
    }
}

#[derive(Template)]
#[template(path = "selected_accounts.html")]
struct SelectedAccounts {
    console: Console,
    action: Action,
    field: GatewayField,
    /// How many accounts are meant; with none there is nothing to confirm.
    counted: Counted,
    /// How many were confirmed, if that is another number.
    confirmed: Option<i64>,
    /// What goes along to the next step.
    fields: Vec<(&'static str, String)>,
    /// The list of accounts.
    list: String,
}

impl SelectedAccounts {
    fn accounts(&self) -> String {
        wording::counted(self.counted.accounts, "account", "accounts")
    }

    fn title(&self) -> String {
        match (self.counted.accounts, self.action) {
            (0, _) => "No account is selected".to_owned(),
            (_, Action::Set) => format!("Set gateway of {}", self.accounts()),
            (_, Action::Delete) => format!("Delete gateway of {}", self.accounts()),
        }
    }
}

async fn confirm(
    State(app): State<App>,
    inside: InOrganization,
    Form(fields): Form<Vec<(String, String)>>,
) -> Result<Response, PageError> {
    let form = SelectedForm::try_from(fields)?;
    if !inside.access.role.may_set_account_gateway() {
        return Err(PageError::Forbidden(
            "Your role reads only. Ask an Administrator or a User Administrator of your organization.",
        ));
    }
    if form.confirmed.is_some() && was_done(&app, &inside.access, form.change).await? {
        return Ok(see_other(&done(&inside.access.slug, &form.list, form.change).build()));
    }
    let mut look = look(&app, &inside, &form).await?;
    if look.counted.accounts == 0 {
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, page(&look)?).into_response());
    }
    let Some(confirmed) = form.confirmed else { return page(&look) };
    let allowed = gateway_form::allowed_networks(&app, &inside.access).await?;
    let address = match form.address(&allowed) {
        Ok(address) => address,
        Err(mistake) => {
            let typed =
                GatewayForm { outbound_gateway: form.outbound_gateway.unwrap_or_default(), seen: None, verify: None };
            look.field = look.field.again(typed, mistake);
            return Ok((StatusCode::UNPROCESSABLE_ENTITY, page(&look)?).into_response());
        }
    };
    if confirmed != look.counted.accounts {
        look.confirmed = Some(confirmed);
        return Ok((StatusCode::CONFLICT, page(&look)?).into_response());
    }
    let title = look.title();
    set(&app, &inside.access, &form, confirmed, address, title).await
}

/// Whether the same confirmation was sent before.
async fn was_done(app: &App, access: &Access, change: ChangeId) -> Result<bool, PageError> {
    let mut transaction = app.store.begin(access).await?;
    Ok(store::change::is_there(&mut transaction, access.organization(), change).await?)
}

/// The list, which says what was done.
fn done(slug: &str, list: &ListQuery, change: ChangeId) -> Link {
    list.link_here(slug).with("change", &change.to_string())
}

/// The confirmation with what the store has.
async fn look(app: &App, inside: &InOrganization, form: &SelectedForm) -> Result<SelectedAccounts, PageError> {
    let (organization, slug) = (inside.access.organization(), &inside.access.slug);
    let mut transaction = app.store.begin(&inside.access).await?;
    let counted = store::selected_accounts::count(&mut transaction, organization, &form.accounts()).await?;
    let mut field = GatewayField::of(
        &mut transaction,
        organization,
        None,
        "Host name or IP address of the server that these users' mail leaves through.",
        None,
        &inside.access.slug,
    )
    .await?;
    drop(transaction);
    let chosen = field.offered.iter().map(|offered| offered.address.to_string());
    let chosen = chosen.into_iter().find(|known| Some(known) == form.gateway.as_ref());
    field.typed = chosen.or_else(|| form.outbound_gateway.clone()).unwrap_or_default();
    let mut fields = vec![("action", form.action.word().to_owned()), ("change", form.change.to_string())];
    if form.all {
        fields.push(("all", "1".to_owned()));
    } else {
        fields.extend(form.ticked.iter().map(|account| ("selected", account.to_string())));
    }
    fields.extend(form.list.fields());
    Ok(SelectedAccounts {
        console: Console::new(inside, mail_account_manager::LABEL),
        action: form.action,
        field,
        counted,
        confirmed: None,
        fields,
        list: form.list.link_here(slug).build(),
    })
}

/// Does it, behind a page that shows how far it is where that takes long.
async fn set(
    app: &App,
    access: &Access,
    form: &SelectedForm,
    expected: i64,
    address: Option<GatewayAddress>,
    title: String,
) -> Result<Response, PageError> {
    let order = Order {
        accounts: form.accounts(),
        change: form.change,
        expected,
        address,
        actor: access.email.clone(),
        in_words: |count| wording::counted(count, "account", "accounts"),
    };
    let back = form.list.link_here(&access.slug);
    let (for_work, of_access) = (app.clone(), access.clone());
    job::run(app, access, (title, About::Accounts), expected, move |progress| async move {
        work(&for_work, &of_access, &order, back, |done| progress.set(done)).await
    })
    .await
}

async fn work(
    app: &App,
    access: &Access,
    order: &Order,
    back: Link,
    written: impl Fn(i64),
) -> Result<Link, job::Failed> {
    let transaction = app.store.begin(access).await?;
    match store::selected_accounts::set(transaction, order, written).await? {
        Set::Unchanged => Ok(back.with("unchanged", "1")),
        Set::Before => Ok(back.with("change", &order.change.to_string())),
        Set::Changed(committed) => {
            verification::begin_after(app, access, committed.id).await;
            status::wait_until_live(app, access, committed.revision).await;
            Ok(back.with("change", &committed.id.to_string()))
        }
        Set::OtherNumber(count) => Err(job::Failed::Because(format!(
            "While this began, the number of accounts changed: {} are meant now, not {}. Select them again.",
            wording::number(count),
            wording::number(order.expected),
        ))),
    }
}
