//! Mail Account Manager: every user with the gateway that applies to them, and why.
//! The list; what is set for one user is `outbound_gateway`'s.

use askama::Template;
use axum::{extract::State, response::Response};
use serde::Deserialize;

use super::{
    App, Route,
    console::Console,
    error::PageError,
    form::Query,
    link::Link,
    page,
    session::InOrganization,
    status::{self, Part, StatusLine},
    undo,
    wording::{self, ShownRoute},
};
use crate::{
    mail::id::{AccountId, ChangeId},
    store::{
        self, OrganizationTransaction,
        account::ListedAccount,
        account_list::{self, AccountPage, Position},
        change::Subject,
        tenant::Access,
    },
};

/// The page's name, in the navigation too.
pub const LABEL: &str = "Mail Account Manager";

pub fn routes() -> Vec<Route> {
    vec![Route::get("/{organization}/web-mail-cloud/mail-account-manager", show)]
}

/// What the address of the page says: which part of the list, and which row is marked.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ListQuery {
    /// The search.
    q: String,
    /// A User ID: the page behind it.
    after: String,
    /// A User ID: the page before it.
    before: String,
    /// The marked account.
    selected: String,
    /// The change that was just saved for it.
    change: String,
    /// Whether the save changed nothing.
    unchanged: String,
}

impl ListQuery {
    /// What was typed, without what cannot be part of an address or a name.
    fn search(&self) -> String {
        printable(&self.q).trim().chars().take(254).collect()
    }

    fn position<'a>(after: &'a str, before: &'a str) -> Position<'a> {
        match (after, before) {
            ("", "") => Position::First,
            ("", before) => Position::Before(before),
            (after, _) => Position::After(after),
        }
    }

    /// The list with the same search, from its beginning.
    fn link(&self, slug: &str) -> Link {
        Link::to(format!("/{slug}/web-mail-cloud/mail-account-manager")).with("q", &self.search())
    }

    /// The same part of the list.
    fn link_here(&self, slug: &str) -> Link {
        self.link(slug).with("after", &printable(&self.after)).with("before", &printable(&self.before))
    }

    /// The same part of the list with this row marked.
    pub fn link_to_row(&self, slug: &str, account: AccountId) -> Link {
        self.link_here(slug).with("selected", &account.to_string())
    }

    /// The Outbound Gateway form of one account, which leads back here.
    pub fn link_to_form(&self, slug: &str, account: AccountId) -> Link {
        Link::to(format!("/{slug}/web-mail-cloud/mail-account-manager/{account}/outbound-gateway"))
            .with("q", &self.search())
            .with("after", &printable(&self.after))
            .with("before", &printable(&self.before))
    }
}

impl ListQuery {
    /// Takes a change back, and leads back here.
    pub fn link_to_undo(&self, slug: &str, change: ChangeId) -> Link {
        undo::link(slug, change)
            .with("q", &self.search())
            .with("after", &printable(&self.after))
            .with("before", &printable(&self.before))
    }
}

/// PostgreSQL text holds no NUL, and nothing that is searched for holds a control character.
fn printable(typed: &str) -> String {
    typed.chars().filter(|character| !character.is_control()).collect()
}

#[derive(Template)]
#[template(path = "mail_account_manager.html")]
struct MailAccountManager {
    console: Console,
    status: Option<StatusLine>,
    search: String,
    rows: Vec<Row>,
    total: i64,
    /// The number of the first row on the page, counted from 1.
    first: i64,
    last: i64,
    /// The list without a search.
    everything: String,
    /// The first page with the same search.
    beginning: String,
    previous: Option<String>,
    next: Option<String>,
}

/// One account as it stands in the table.
struct Row {
    id: AccountId,
    user_id: String,
    name: String,
    route: ShownRoute,
    suspended: bool,
    marked: bool,
    select: String,
    form: String,
    /// Where its own gateway is deleted, if there is one and the role allows it.
    delete: Option<String>,
}

impl Row {
    /// What the styles know the row by.
    fn class(&self) -> Option<&'static str> {
        match (self.marked, self.suspended) {
            (true, true) => Some("marked is-suspended"),
            (true, false) => Some("marked"),
            (false, true) => Some("is-suspended"),
            (false, false) => None,
        }
    }
}

async fn show(
    State(app): State<App>,
    inside: InOrganization,
    Query(query): Query<ListQuery>,
) -> Result<Response, PageError> {
    let search = query.search();
    let (after, before) = (printable(&query.after), printable(&query.before));
    let mut transaction = app.store.begin(&inside.access).await?;
    let found = account_list::page(
        &mut transaction,
        inside.access.organization(),
        Some(search.as_str()).filter(|search| !search.is_empty()),
        ListQuery::position(&after, &before),
    )
    .await?;
    let status = status(&app, &inside.access, &mut transaction, &query).await?;
    drop(transaction);
    page(&table(&app, &inside, &query, found, status))
}

fn table(
    app: &App,
    inside: &InOrganization,
    query: &ListQuery,
    found: AccountPage,
    status: Option<StatusLine>,
) -> MailAccountManager {
    let slug = &inside.access.slug;
    let user_id = |account: Option<&ListedAccount>| account.map(|account| account.user_id.to_string());
    let previous = (found.preceding > 0).then(|| user_id(found.accounts.first())).flatten();
    let next = found.has_next().then(|| user_id(found.accounts.last())).flatten();
    let count = i64::try_from(found.accounts.len()).unwrap_or(i64::MAX);
    MailAccountManager {
        console: Console::new(inside, LABEL),
        status,
        search: query.search(),
        total: found.total,
        first: found.preceding + 1,
        last: found.preceding + count,
        everything: Link::to(format!("/{slug}/web-mail-cloud/mail-account-manager")).build(),
        beginning: query.link(slug).build(),
        previous: previous.map(|first| query.link(slug).with("before", &first).build()),
        next: next.map(|last| query.link(slug).with("after", &last).build()),
        rows: found.accounts.into_iter().map(|account| row(app, inside, query, account)).collect(),
    }
}

fn row(app: &App, inside: &InOrganization, query: &ListQuery, account: ListedAccount) -> Row {
    let slug = &inside.access.slug;
    let may_delete = account.gateways.user.is_some() && inside.access.role.may_set_account_gateway();
    let form = query.link_to_form(slug, account.id);
    Row {
        id: account.id,
        user_id: wording::user_id(&account.user_id),
        name: account.name,
        suspended: account.suspended,
        marked: query.selected == account.id.to_string(),
        select: format!("{}#account-{}", query.link_to_row(slug, account.id).build(), account.id),
        delete: may_delete.then(|| form.clone().with("delete", "1").build()),
        form: form.build(),
        route: ShownRoute::of(account.gateways, &app.settings.platform_default),
    }
}

/// What was just saved for the marked account.
async fn status(
    app: &App,
    access: &Access,
    transaction: &mut OrganizationTransaction,
    query: &ListQuery,
) -> Result<Option<StatusLine>, PageError> {
    let organization = transaction.organization();
    let Ok(selected) = query.selected.parse::<AccountId>() else { return Ok(None) };
    if query.change.is_empty() && query.unchanged.is_empty() {
        return Ok(None);
    }
    let Some(account) = store::account::by_id(transaction, organization, selected).await? else { return Ok(None) };
    let user_id = wording::user_id(&account.user_id);
    let own = account.gateways.user.clone();
    let Ok(change) = query.change.parse::<ChangeId>() else {
        return Ok(Some(status::unchanged_account(&user_id, own.as_ref())));
    };
    let key = selected.to_string();
    let Some(change) = store::change::recent(transaction, organization, change, Subject::Account, &key).await? else {
        return Ok(None);
    };
    let progress = store::change::progress(transaction, change.revision).await?;
    let route = ShownRoute::of(account.gateways, &app.settings.platform_default);
    let undo = query.link_to_undo(&access.slug, change.id);
    let line = status::of_account(&change, &user_id, own.as_ref(), route, &progress);
    Ok(Some(line.undoable(access.role.may_set_account_gateway(), undo)))
}
