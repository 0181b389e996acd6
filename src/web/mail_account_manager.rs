//! Mail Account Manager: every user with the gateway that applies to them, and why.
//! The list; what is set for one user is `outbound_gateway`'s.

use std::collections::HashMap;

use askama::Template;
use axum::{extract::State, response::Response};
use serde::Deserialize;
use time::OffsetDateTime;

use super::{
    App, Route, audit_log,
    console::Console,
    error::PageError,
    form::Query,
    gateway_state::{Brief, in_brief},
    link::Link,
    mail_account, page,
    session::InOrganization,
    status::{self, Part, StatusLine},
    undo, verification,
    wording::{self, ShownRoute},
};
use crate::{
    mail::id::{AccountId, ChangeId},
    policy::routing::HeldUntil,
    store::{
        self, OrganizationTransaction,
        account_list::{self, AccountPage, PAGE_SIZE, Place, Position, Selection, Show, Sort, Trouble},
        change::Subject,
        gateway::PointerScope,
        gateway_facts::GatewayFacts,
        selected_accounts,
        tenant::Access,
    },
};

/// The page's name, in the navigation too.
pub const LABEL: &str = "Mail Account Manager";

/// The last segment of the page's path.
const LIST: &str = "mail-account-manager";

pub fn routes() -> Vec<Route> {
    vec![Route::get("/{organization}/web-mail-cloud/mail-account-manager", show)]
}

/// What the address of the page says: which part of the list, and which row is marked.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct ListQuery {
    /// The search.
    q: String,
    /// The filter: `own` or `attention`; all accounts without.
    show: String,
    /// The order: `name`, `-name` or `-user-id`; by User ID without.
    sort: String,
    /// A User ID: the page behind it.
    after: String,
    /// A User ID: the page before it.
    before: String,
    /// The name that goes with that User ID, in the orders by name.
    name: String,
    /// The marked account.
    selected: String,
    /// The change that was just saved for it, or for many accounts.
    change: String,
    /// Whether the save changed nothing.
    unchanged: String,
}

impl ListQuery {
    /// The list with this search and filter.
    fn matching(search: String, show: Show) -> Self {
        Self { q: search, show: word_of(show).to_owned(), ..Self::default() }
    }

    /// The place in the list that a form brought along, as [`fields`](Self::fields) gave it to it.
    pub fn take(fields: &mut HashMap<String, String>) -> Self {
        let mut field = |name| fields.remove(name).unwrap_or_default();
        Self {
            q: field("q"),
            show: field("show"),
            sort: field("sort"),
            after: field("after"),
            before: field("before"),
            name: field("name"),
            ..Self::default()
        }
    }

    /// What was typed, without what cannot be part of an address or a name.
    pub fn search(&self) -> String {
        printable(&self.q).trim().chars().take(254).collect()
    }

    /// The filter; what is none of them filters nothing.
    pub fn show(&self) -> Show {
        match self.show.as_str() {
            "own" => Show::Own,
            "attention" => Show::Attention,
            _ => Show::All,
        }
    }

    /// The order. What a search finds and what needs attention is in the order of the User IDs.
    fn sort(&self) -> Sort {
        match self.sort.as_str() {
            _ if !self.is_sortable() => Sort::UserId,
            "-user-id" => Sort::UserIdDescending,
            "name" => Sort::Name,
            "-name" => Sort::NameDescending,
            _ => Sort::UserId,
        }
    }

    fn is_sortable(&self) -> bool {
        self.search().is_empty() && self.show() != Show::Attention
    }

    /// The list with the same search, filter and order, from its beginning.
    fn link(&self, slug: &str) -> Link {
        list(slug).with("q", &self.search()).with("show", word_of(self.show())).with("sort", word_of_order(self.sort()))
    }

    fn place_on(&self, link: Link) -> Link {
        let name = if self.after.is_empty() && self.before.is_empty() { String::new() } else { printable(&self.name) };
        link.with("after", &printable(&self.after)).with("before", &printable(&self.before)).with("name", &name)
    }

    /// The same part of the list.
    pub fn link_here(&self, slug: &str) -> Link {
        self.place_on(self.link(slug))
    }

    /// The same part of the list with this row marked.
    pub fn link_to_row(&self, slug: &str, account: AccountId) -> Link {
        self.link_here(slug).with("selected", &account.to_string())
    }

    /// The page of one account, which leads back here.
    pub fn link_to_account(&self, slug: &str, account: AccountId) -> Link {
        self.place_below(Link::to(format!("/{slug}/web-mail-cloud/mail-account-manager/{account}")))
    }

    /// The Outbound Gateway form of one account, which leads back here.
    pub fn link_to_form(&self, slug: &str, account: AccountId) -> Link {
        let path = format!("/{slug}/web-mail-cloud/mail-account-manager/{account}/outbound-gateway");
        self.place_below(Link::to(path))
    }

    /// A path with this place in the list in its query.
    pub fn place_below(&self, path: Link) -> Link {
        self.place_on(
            path.with("q", &self.search()).with("show", word_of(self.show())).with("sort", word_of_order(self.sort())),
        )
    }

    /// The marked row, in this part of the list.
    pub fn link_to_selected(&self, slug: &str) -> Option<Link> {
        Some(self.link_to_row(slug, self.selected.parse().ok()?))
    }

    /// This place in the list as the fields of a form.
    pub fn fields(&self) -> Vec<(&'static str, String)> {
        [
            ("q", self.search()),
            ("show", word_of(self.show()).to_owned()),
            ("sort", word_of_order(self.sort()).to_owned()),
            ("after", printable(&self.after)),
            ("before", printable(&self.before)),
            ("name", printable(&self.name)),
        ]
        .into_iter()
        .filter(|(_, value)| !value.is_empty())
        .collect()
    }
}

/// The list as it is opened.
fn list(slug: &str) -> Link {
    Link::to(format!("/{slug}/web-mail-cloud/mail-account-manager"))
}

fn word_of(show: Show) -> &'static str {
    match show {
        Show::All => "",
        Show::Own => "own",
        Show::Attention => "attention",
    }
}

fn word_of_order(sort: Sort) -> &'static str {
    match sort {
        Sort::UserId => "",
        Sort::UserIdDescending => "-user-id",
        Sort::Name => "name",
        Sort::NameDescending => "-name",
    }
}

impl ListQuery {
    /// Takes a change back, and leads back here.
    pub fn link_to_undo(&self, slug: &str, change: ChangeId) -> Link {
        self.place_below(undo::link(slug, change))
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
    may_manage: bool,
    status: Option<StatusLine>,
    search: String,
    show: Show,
    tabs: Vec<Tab>,
    /// The columns that can be sorted by; `None` where what is found has an order of its own.
    headings: Option<[Heading; 2]>,
    rows: Vec<Row>,
    /// Whether the list is shown from its beginning.
    is_first: bool,
    /// How many accounts there are, or how many were found, in words.
    count: String,
    accounts: i64,
    /// The list without search and filter.
    everything: String,
    /// The first page with the same search and filter.
    beginning: String,
    previous: Option<String>,
    next: Option<String>,
    /// What can be done with many accounts, for who may.
    bulk: Option<Bulk>,
}

impl MailAccountManager {
    fn can_verify(&self) -> bool {
        self.rows.iter().any(|row| row.verify.is_some())
    }
}

/// One filter of the list.
struct Tab {
    label: &'static str,
    link: String,
    is_here: bool,
}

/// The heading of a column that can be sorted by.
struct Heading {
    label: &'static str,
    class: &'static str,
    /// The list sorted by it, or the other way around.
    link: String,
    /// How it is sorted by now, as `aria-sort` says it.
    sorted: Option<&'static str>,
}

/// The form around the table.
struct Bulk {
    action: String,
    /// What of the list is meant by all.
    fields: Vec<(&'static str, String)>,
    all: String,
}

/// One account as it stands in the table.
struct Row {
    id: AccountId,
    user_id: String,
    name: String,
    route: ShownRoute,
    /// What is known of the gateway that applies, where there is one of the organization's.
    facts: Option<[Brief; 2]>,
    /// What is to be said about it, in words.
    status: String,
    /// What the dot before these words is known by, unless all is well.
    mark: Option<&'static str>,
    marked: bool,
    account: String,
    form: String,
    /// Where its own gateway is deleted, if there is one and the role allows it.
    delete: Option<String>,
    /// Where the gateway that applies is verified, if there is one and the role allows it.
    verify: Option<String>,
}

impl Row {
    /// What the styles know the row by.
    fn class(&self) -> Option<&'static str> {
        match (self.marked, self.mark.is_none()) {
            (true, true) => Some("marked"),
            (true, false) => Some("marked is-notable"),
            (false, false) => Some("is-notable"),
            (false, true) => None,
        }
    }
}

async fn show(
    State(app): State<App>,
    inside: InOrganization,
    Query(query): Query<ListQuery>,
) -> Result<Response, PageError> {
    let search = query.search();
    let (after, before, name) = (printable(&query.after), printable(&query.before), printable(&query.name));
    let selection = Selection {
        search: Some(search.as_str()).filter(|search| !search.is_empty()),
        show: query.show(),
        sort: query.sort(),
        position: match (after.as_str(), before.as_str()) {
            ("", "") => Position::First,
            ("", before) => Position::Before(Place { user_id: before, name: &name }),
            (after, _) => Position::After(Place { user_id: after, name: &name }),
        },
    };
    let (found, gateways) = app.store.accounts(&inside.access, &selection).await?;
    let status = status(&app, &inside.access, &query).await?;
    page(&table(&app, &inside, &query, (found, &gateways), status))
}

fn table(
    app: &App,
    inside: &InOrganization,
    query: &ListQuery,
    (found, gateways): (AccountPage, &[GatewayFacts]),
    status: Option<StatusLine>,
) -> MailAccountManager {
    let slug = &inside.access.slug;
    let turn = |to: &str, row: Option<&account_list::Row>| {
        let row = row?;
        let name =
            if matches!(query.sort(), Sort::Name | Sort::NameDescending) { row.account.name.as_str() } else { "" };
        Some(query.link(slug).with(to, &row.account.user_id.to_string()).with("name", name).build())
    };
    let previous = turn("before", found.rows.first().filter(|_| found.has_previous));
    let next = turn("after", found.rows.last().filter(|_| found.has_next));
    let count = count(query, &found);
    let now = OffsetDateTime::now_utc();
    let facts = |found: &account_list::Row| {
        let (applies, _) = found.account.gateways.clone().nearest()?;
        Some(in_brief(gateways.iter().find(|facts| facts.address == applies)?, now))
    };
    // The same for every row.
    let place = query.place_below(Link::to("")).build();
    MailAccountManager {
        console: Console::new(inside, LABEL),
        status,
        search: query.search(),
        show: query.show(),
        tabs: tabs(slug, query),
        headings: query.is_sortable().then(|| headings(slug, query)),
        may_manage: inside.access.role.may_manage_accounts(),
        bulk: inside.access.role.may_set_account_gateway().then(|| Bulk {
            action: format!("/{slug}/web-mail-cloud/mail-account-manager/selected"),
            fields: query.fields(),
            all: all(query, &found),
        }),
        count,
        accounts: found.accounts,
        is_first: query.after.is_empty(),
        everything: list(slug).build(),
        beginning: query.link(slug).build(),
        previous,
        next,
        rows: found
            .rows
            .into_iter()
            .map(|found| Row { facts: facts(&found), ..row(app, inside, query, &place, found) })
            .collect(),
    }
}

/// How many accounts there are. What a search or a filter finds is only counted as far as it was read.
fn count(query: &ListQuery, found: &AccountPage) -> String {
    if query.search().is_empty() && query.show() == Show::All {
        return wording::counted(found.accounts, "account", "accounts");
    }
    if found.has_previous || found.has_next {
        return format!("More than {PAGE_SIZE} found");
    }
    format!("{} found", found.rows.len())
}

/// What is meant by all accounts.
fn all(query: &ListQuery, found: &AccountPage) -> String {
    if query.search().is_empty() && query.show() == Show::All {
        return format!("All {}", wording::counted(found.accounts, "account", "accounts"));
    }
    if found.has_previous || found.has_next {
        return "All that match, on all pages".to_owned();
    }
    match found.rows.len() {
        1 => "The one that matches".to_owned(),
        count => format!("All {count} that match"),
    }
}

fn tabs(slug: &str, query: &ListQuery) -> Vec<Tab> {
    [("All accounts", Show::All), ("Own gateway", Show::Own), ("Needs attention", Show::Attention)]
        .into_iter()
        .map(|(label, show)| Tab {
            label,
            link: ListQuery { sort: query.sort.clone(), ..ListQuery::matching(query.search(), show) }
                .link(slug)
                .build(),
            is_here: query.show() == show,
        })
        .collect()
}

/// Sorted by first upwards, then downwards.
fn headings(slug: &str, query: &ListQuery) -> [Heading; 2] {
    let heading = |label, class, up, down| {
        let sorted = match query.sort() {
            sort if sort == up => Some("ascending"),
            sort if sort == down => Some("descending"),
            _ => None,
        };
        let next = if sorted == Some("ascending") { down } else { up };
        let sorted_by =
            ListQuery { sort: word_of_order(next).to_owned(), ..ListQuery::matching(String::new(), query.show()) };
        Heading { label, class, link: sorted_by.link(slug).build(), sorted }
    };
    [
        heading("User ID", "of-id", Sort::UserId, Sort::UserIdDescending),
        heading("Name", "of-name", Sort::Name, Sort::NameDescending),
    ]
}

/// `place` is the place in the list, as the query that leads back to it.
fn row(app: &App, inside: &InOrganization, query: &ListQuery, place: &str, found: account_list::Row) -> Row {
    let account = found.account;
    let may_set = inside.access.role.may_set_account_gateway();
    let may_delete = may_set && account.gateways.user.is_some();
    let may_verify = may_set && account.gateways.clone().nearest().is_some();
    // From the list on: the page's own address says the rest, and not a hundred times.
    let page = format!("{LIST}/{}", account.id);
    let form = format!("{page}/outbound-gateway{place}");
    let delete = if place.is_empty() { "?delete=1" } else { "&delete=1" };
    let (mark, status) = in_words(account.suspended, found.trouble, account.gateways.held_until);
    Row {
        id: account.id,
        user_id: wording::user_id(&account.user_id),
        name: account.name,
        status,
        mark,
        marked: !query.selected.is_empty() && query.selected == account.id.to_string(),
        delete: may_delete.then(|| format!("{form}{delete}")),
        verify: may_verify.then(|| format!("{page}/verify{place}")),
        account: page + place,
        form,
        facts: None,
        route: ShownRoute::of(account.gateways, &app.settings.platform_default),
    }
}

/// The state of an account: a mark, and what it means.
fn in_words(suspended: bool, trouble: Trouble, held_until: Option<HeldUntil>) -> (Option<&'static str>, String) {
    let mut words = Vec::new();
    if suspended {
        words.push("Suspended".to_owned());
    }
    if trouble.held > 0 {
        words.push(format!("{} held", wording::counted(trouble.held, "message", "messages")));
    }
    if trouble.waiting > 0 {
        let verb = if trouble.waiting == 1 { "waits" } else { "wait" };
        words.push(format!("{} {verb}", wording::counted(trouble.waiting, "message", "messages")));
    }
    if trouble.needs_gateway {
        words.push(match held_until {
            Some(HeldUntil::OneHasPassed) => "Waits for the new gateway".to_owned(),
            Some(HeldUntil::OneIsSet) | None => "Needs a gateway".to_owned(),
        });
    }
    match words.len() {
        0 => (None, "Active".to_owned()),
        1 if suspended => (Some("is-off"), words.concat()),
        _ => (Some("is-warning"), words.join(", ")),
    }
}

/// What was just saved for the marked account, or for many.
async fn status(app: &App, access: &Access, query: &ListQuery) -> Result<Option<StatusLine>, PageError> {
    if query.change.is_empty() && query.unchanged.is_empty() {
        return Ok(None);
    }
    let transaction = &mut app.store.begin(access).await?;
    let organization = transaction.organization();
    let change = query.change.parse::<ChangeId>().ok();
    let Ok(selected) = query.selected.parse::<AccountId>() else {
        return of_selected(access, transaction, query, change).await;
    };
    let Some(account) = store::account::by_id(transaction, organization, selected).await? else { return Ok(None) };
    let user_id = wording::user_id(&account.user_id);
    let own = account.gateways.user.clone();
    if query.unchanged == verification::TOO_MANY {
        return Ok(Some(status::too_many_verifications()));
    }
    let Some(change) = change else {
        return Ok(Some(status::unchanged_account(&user_id, own.as_ref())));
    };
    let key = selected.to_string();
    let Some(change) = store::change::recent(transaction, organization, change, Subject::Account, &key).await? else {
        return Ok(None);
    };
    let progress = store::change::progress(transaction, change.revision).await?;
    let route = ShownRoute::of(account.gateways, &app.settings.platform_default);
    let undo = query.link_to_undo(&access.slug, change.id);
    let scope = PointerScope::Account(selected);
    let messages = status::taking_new_way(transaction, &scope, &change).await?;
    let line = status::of_account(&change, &user_id, own.as_ref(), route, &progress)
        .taking(messages)
        .what_left(&access.slug, &scope, &change)
        .leading_to(status::SINCE, audit_log::entry_link(&access.slug, change.id));
    Ok(Some(line.undoable(access.role.may_set_account_gateway(), undo)))
}

/// What was just saved for many accounts, or for one that is not on the list any more.
async fn of_selected(
    access: &Access,
    transaction: &mut OrganizationTransaction,
    query: &ListQuery,
    change: Option<ChangeId>,
) -> Result<Option<StatusLine>, PageError> {
    let organization = transaction.organization();
    let Some(change) = change else { return Ok(Some(status::unchanged_selected())) };
    let undo = query.link_to_undo(&access.slug, change);
    let Some(selected) = selected_accounts::recent(transaction, organization, change).await? else {
        let edit = mail_account::after_change(transaction, change, None).await?;
        return Ok(edit.map(|line| line.undoable(access.role.may_manage_accounts(), undo)));
    };
    let progress = store::change::progress(transaction, selected.revision).await?;
    Ok(Some(status::of_selected(&selected, &progress).undoable(access.role.may_set_account_gateway(), undo)))
}
