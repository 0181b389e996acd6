//! The page of one account: its addresses, name, status and route, and the forms that change them.
//! Opened from `mail_account_manager`; its gateway is `outbound_gateway`'s.

use askama::Template;
use axum::{
    extract::{RawQuery, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use time::OffsetDateTime;

use super::{
    App, Route,
    console::Console,
    draft::Draft,
    error::{PageError, see_other},
    form::{Form, Query},
    limit_table, limits,
    mail_account_manager::{self, ListQuery},
    named::Named,
    outbound_volume, page,
    route_steps::{Step, steps},
    session::InOrganization,
    status::{self, Part, StatusLine},
    text_field::{self, TextField},
    volume_chart::Charted,
    wording,
};
use crate::{
    mail::{
        DomainName, Mailbox,
        id::{AccountId, ChangeId},
    },
    policy::{
        account_file,
        limit::{BusyDay, OrganizationLimits, SenderControl, SetAt},
        usual,
        volume::{Count, Period, Subject, Unit, by_day, usual_day},
    },
    store::{
        self, OrganizationTransaction,
        account::{Account, AccountError, Edited},
    },
};

const PATH: &str = "/{organization}/web-mail-cloud/mail-account-manager/{account}";

pub fn routes() -> Vec<Route> {
    vec![
        Route::get(PATH, show),
        Route::get("/{organization}/web-mail-cloud/mail-account-manager/{account}/name", back),
        Route::post("/{organization}/web-mail-cloud/mail-account-manager/{account}/name", save_name),
        Route::get("/{organization}/web-mail-cloud/mail-account-manager/{account}/user-id", back),
        Route::post("/{organization}/web-mail-cloud/mail-account-manager/{account}/user-id", save_user_id),
        Route::get("/{organization}/web-mail-cloud/mail-account-manager/{account}/addresses", back),
        Route::post("/{organization}/web-mail-cloud/mail-account-manager/{account}/addresses", save_addresses),
        Route::get("/{organization}/web-mail-cloud/mail-account-manager/{account}/status", back),
        Route::post("/{organization}/web-mail-cloud/mail-account-manager/{account}/status", save_status),
        Route::get("/{organization}/web-mail-cloud/mail-account-manager/{account}/delete", back),
        Route::post("/{organization}/web-mail-cloud/mail-account-manager/{account}/delete", delete),
    ]
}

/// What may be saved for accounts, and by whom.
pub(super) const READ_ONLY: &str =
    "Your role reads only. Ask an Administrator or a User Administrator of your organization.";

#[derive(Template)]
#[template(path = "mail_account.html")]
struct MailAccount {
    console: Console,
    status: Option<StatusLine>,
    /// The list with this account's row marked.
    list: String,
    /// This page, from where the paths of the forms begin.
    here: String,
    gateway_form: String,
    account: Account,
    /// As people read it.
    user_id: String,
    further: Vec<String>,
    steps: Vec<Step>,
    /// What it sent today, on a usual day and in the last four weeks.
    volume: [String; 3],
    /// What it sent today by hour, beside what is usual for it and what it may; `None` where it sent nothing of late.
    charted: Option<Charted>,
    /// To how many it has written for the first time within a day.
    first_time: String,
    volume_page: String,
    /// The limits that hold for it, a line each, and what was said of it besides.
    limits: Vec<String>,
    control: SenderControl,
    limits_page: String,
    may_manage: bool,
    /// Whether to ask for the deletion to be confirmed.
    deleting: bool,
    mistakes: Vec<(&'static str, String)>,
    name_field: TextField,
    user_id_field: TextField,
    addresses_field: TextField,
    /// Whether a field holds what was typed before the session ended.
    is_draft: bool,
}

impl MailAccount {
    /// The path of one of the forms.
    fn form(&self, segment: &str) -> String {
        match self.here.split_once('?') {
            Some((path, query)) => format!("{path}/{segment}?{query}"),
            None => format!("{}/{segment}", self.here),
        }
    }

    /// The question before the deletion.
    fn delete_link(&self) -> String {
        format!("{}{}delete=1", self.here, if self.here.contains('?') { '&' } else { '?' })
    }
}

#[derive(Default, Deserialize)]
struct AccountQuery {
    #[serde(flatten)]
    list: ListQuery,
    /// Whether to ask for the deletion to be confirmed.
    delete: Option<String>,
    /// The change that was just saved.
    change: Option<String>,
    /// Whether the save changed nothing.
    unchanged: Option<String>,
}

async fn show(
    State(app): State<App>,
    inside: InOrganization,
    Named(account): Named<AccountId>,
    Query(query): Query<AccountQuery>,
    draft: Draft,
) -> Result<Response, PageError> {
    let mut look = look(&app, &inside, account, &query).await?;
    if look.may_manage {
        let (user_id, addresses) = (look.account.user_id.to_string(), look.account.further_addresses());
        let seen = draft.field("seen");
        look.is_draft |= look.name_field.restore(&draft, seen, &look.account.name);
        look.is_draft |= look.user_id_field.restore(&draft, seen, &user_id);
        look.is_draft |= look.addresses_field.restore(&draft, seen, &store::account::in_one_line(&addresses));
    }
    page(&look)
}

/// Who comes to the path of a form, after signing in again for example, is led to the page.
async fn back(
    State(app): State<App>,
    inside: InOrganization,
    Named(account): Named<AccountId>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    let organization = inside.access.organization();
    let mut transaction = app.store.begin(&inside.access).await?;
    store::account::by_id(&mut transaction, organization, account).await?.ok_or(PageError::NotFound)?;
    drop(transaction);
    let page = format!("/{}/web-mail-cloud/mail-account-manager/{account}", inside.access.slug);
    Ok(see_other(&match query {
        Some(query) if !query.is_empty() => format!("{page}?{query}"),
        _ => page,
    }))
}

/// The page with what the store has.
async fn look(
    app: &App,
    inside: &InOrganization,
    account: AccountId,
    query: &AccountQuery,
) -> Result<MailAccount, PageError> {
    let organization = inside.access.organization();
    let slug = &inside.access.slug;
    let mut transaction = app.store.begin(&inside.access).await?;
    let listed = store::account::by_id(&mut transaction, organization, account).await?.ok_or(PageError::NotFound)?;
    let details = store::account::details(&mut transaction, organization, account).await?.ok_or(PageError::NotFound)?;
    let mut status = query.unchanged.is_some().then(status::unchanged_edit);
    if let Some(change) = query.change.as_deref().and_then(|change| change.parse::<ChangeId>().ok()) {
        let undo = query.list.link_to_undo(slug, change);
        status = after_change(&mut transaction, change, Some(account))
            .await?
            .map(|line| line.undoable(inside.access.role.may_manage_accounts(), undo));
    }
    let domain = details.user_id.domain();
    let reaching = store::limit::reaching(&mut transaction, organization, Some(domain), Some(account)).await?;
    let volume = volume(&mut transaction, account, (&reaching, domain)).await?;
    drop(transaction);
    let may_manage = inside.access.role.may_manage_accounts();
    let further = details.further_addresses();
    let (now, control) = (OffsetDateTime::now_utc(), reaching.sender(Some(account)));
    Ok(MailAccount {
        console: Console::new(inside, mail_account_manager::LABEL),
        status,
        list: query.list.link_to_row(slug, account).build(),
        here: query.list.link_to_account(slug, account).build(),
        gateway_form: query.list.link_to_form(slug, account).build(),
        user_id: wording::user_id(&details.user_id),
        steps: steps(&listed, &app.settings.platform_default),
        limits: limit_table::of_account(&reaching, account, domain, volume.busy_day, now),
        control: SenderControl { exempt_until: control.exempt_until.filter(|until| *until > now), ..control },
        limits_page: limits::link(slug, &SetAt::Account(account)).build(),
        volume: volume.words,
        charted: volume.charted,
        first_time: volume.first_time,
        volume_page: outbound_volume::link_to_account(slug, account).build(),
        may_manage,
        is_draft: false,
        deleting: query.delete.is_some() && may_manage,
        mistakes: Vec::new(),
        name_field: name_field(&details.name),
        user_id_field: user_id_field(&wording::user_id(&details.user_id)),
        addresses_field: addresses_field(&one_per_line(&further)),
        further: further.iter().map(wording::user_id).collect(),
        account: details,
    })
}

/// What an account has sent.
struct Volume {
    /// Today, on a usual day and in the last four weeks.
    words: [String; 3],
    /// To how many of those outside for the first time within a day.
    first_time: String,
    /// What it sends on busy days.
    busy_day: BusyDay,
    /// Today by hour, in recipients, which its limits are about.
    charted: Option<Charted>,
}

async fn volume(
    transaction: &mut OrganizationTransaction,
    account: AccountId,
    (limits, domain): (&OrganizationLimits, &DomainName),
) -> store::Result<Volume> {
    let (organization, subject, now) =
        (transaction.organization(), Subject::Account(account), OffsetDateTime::now_utc());
    let [today, four_weeks] = [Period::Today, Period::FourWeeks].map(|period| period.beginning(now));
    let looked_back = four_weeks.min(today - Charted::looks_back()).min(usual::busy_days_since(now));
    let hours = store::volume::by_hour(transaction, organization, &subject, looked_back).await?;
    let first = store::volume::first(transaction, organization, &subject).await?;
    let (known, known_from) = store::correspondents::of_account(transaction, organization, account).await?;
    let since = |since: OffsetDateTime| hours.iter().copied().filter(move |(at, _)| *at >= since);
    let total = |from| since(from).map(|(_, count)| count).sum();
    let [messages, recipients, external] = Unit::ALL.map(|unit| usual_day(since(four_weeks), unit, now));
    let usual_day = messages.map(|messages| {
        let (recipients, external) = (recipients.unwrap_or_default(), external.unwrap_or_default());
        outbound_volume::all_in_words(&Count { messages, recipients, external })
    });
    let busy_day = BusyDay {
        count: usual::busy_day(&by_day(since(usual::busy_days_since(now))), first, now),
        first_time: known.busy_day(known_from, now),
    };
    let holding = limit_table::holding(limits, account, domain, busy_day, now);
    let shown = (Unit::Recipients, Period::Today);
    let charted = (!hours.is_empty()).then(|| Charted::of(&subject, (&hours, first), &holding, shown, now));
    let words = [
        outbound_volume::all_in_words(&total(today)),
        usual_day.unwrap_or_else(|| "not known yet".to_owned()),
        outbound_volume::all_in_words(&total(four_weeks)),
    ];
    let first_time = outbound_volume::in_words(known.first_within_day(now), Unit::External);
    Ok(Volume { words, first_time, busy_day, charted })
}

/// What was just saved for an account, or for several.
pub(super) async fn after_change(
    transaction: &mut OrganizationTransaction,
    change: ChangeId,
    account: Option<AccountId>,
) -> Result<Option<StatusLine>, PageError> {
    let organization = transaction.organization();
    let Some(edit) = store::account::recent_edit(transaction, organization, change, account).await? else {
        return Ok(None);
    };
    let progress = store::change::progress(transaction, edit.revision).await?;
    Ok(Some(status::of_edit(&edit, &progress)))
}

fn one_per_line(addresses: &[Mailbox]) -> String {
    addresses.iter().map(wording::user_id).collect::<Vec<_>>().join("\n")
}

pub(super) fn name_field(present: &str) -> TextField {
    TextField {
        id: "name",
        label: "Name",
        hint: "What the user is called, as your other pages and lists have it.",
        lines: 1,
        direction: "auto",
        typed: present.to_owned(),
        ..TextField::default()
    }
}

fn user_id_field(present: &str) -> TextField {
    TextField {
        id: "user_id",
        label: "User ID",
        hint: "The primary mail address. The old one stays as a further address; gateway and history stay as they are.",
        lines: 1,
        direction: "ltr",
        typed: present.to_owned(),
        ..TextField::default()
    }
}

pub(super) fn addresses_field(present: &str) -> TextField {
    TextField {
        id: "addresses",
        label: "Further addresses",
        hint: "One per line. Mail from each of them leaves as the account's own does.",
        lines: present.lines().count().clamp(3, 12),
        direction: "ltr",
        typed: present.to_owned(),
        ..TextField::default()
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NameForm {
    name: String,
    /// The name that the form was shown with.
    seen: String,
}

async fn save_name(
    State(app): State<App>,
    inside: InOrganization,
    Named(account): Named<AccountId>,
    Query(query): Query<AccountQuery>,
    Form(form): Form<NameForm>,
) -> Result<Response, PageError> {
    may_manage(&inside)?;
    let name = match account_file::name(&form.name) {
        Ok(name) => name,
        Err(mistake) => {
            return again(&app, &inside, account, &query, Attempt::mistaken(Name, form.name, mistake)).await;
        }
    };
    let transaction = app.store.begin(&inside.access).await?;
    let edited = store::account::set_name(transaction, account, &name, Some(&form.seen), &inside.access.email).await;
    answer(&app, &inside, account, &query, edited, Name, form.name).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UserIdForm {
    user_id: String,
    /// The User ID that the form was shown with.
    seen: String,
}

async fn save_user_id(
    State(app): State<App>,
    inside: InOrganization,
    Named(account): Named<AccountId>,
    Query(query): Query<AccountQuery>,
    Form(form): Form<UserIdForm>,
) -> Result<Response, PageError> {
    may_manage(&inside)?;
    let seen = seen(&form.seen)?;
    let user_id = match form.user_id.parse::<Mailbox>() {
        Ok(user_id) => user_id,
        Err(mistake) => {
            let attempt = Attempt::mistaken(UserId, form.user_id, mistake.to_string());
            return again(&app, &inside, account, &query, attempt).await;
        }
    };
    let transaction = app.store.begin(&inside.access).await?;
    let edited = store::account::rename(transaction, account, &user_id, Some(&seen), &inside.access.email).await;
    answer(&app, &inside, account, &query, edited, UserId, form.user_id).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct AddressesForm {
    addresses: String,
    /// The further addresses that the form was shown with.
    seen: String,
}

async fn save_addresses(
    State(app): State<App>,
    inside: InOrganization,
    Named(account): Named<AccountId>,
    Query(query): Query<AccountQuery>,
    Form(form): Form<AddressesForm>,
) -> Result<Response, PageError> {
    may_manage(&inside)?;
    let addresses = match text_field::addresses(&form.addresses, None) {
        Ok(addresses) => addresses,
        Err(mistake) => {
            let attempt = Attempt::mistaken(Addresses, form.addresses, mistake);
            return again(&app, &inside, account, &query, attempt).await;
        }
    };
    let transaction = app.store.begin(&inside.access).await?;
    let edited =
        store::account::set_addresses(transaction, account, &addresses, Some(&form.seen), &inside.access.email).await;
    answer(&app, &inside, account, &query, edited, Addresses, form.addresses).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct StatusForm {
    status: Wish,
}

#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Wish {
    Active,
    Suspended,
}

async fn save_status(
    State(app): State<App>,
    inside: InOrganization,
    Named(account): Named<AccountId>,
    Query(query): Query<AccountQuery>,
    Form(form): Form<StatusForm>,
) -> Result<Response, PageError> {
    may_manage(&inside)?;
    let transaction = app.store.begin(&inside.access).await?;
    let suspended = matches!(form.status, Wish::Suspended);
    let edited = store::account::set_status(transaction, account, suspended, &inside.access.email).await;
    answer(&app, &inside, account, &query, edited, Name, String::new()).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteForm {
    /// The User ID that was asked about.
    seen: String,
}

async fn delete(
    State(app): State<App>,
    inside: InOrganization,
    Named(account): Named<AccountId>,
    Query(query): Query<AccountQuery>,
    Form(form): Form<DeleteForm>,
) -> Result<Response, PageError> {
    may_manage(&inside)?;
    let seen = seen(&form.seen)?;
    let transaction = app.store.begin(&inside.access).await?;
    match store::account::delete(transaction, account, Some(&seen), &inside.access.email).await {
        Ok(Edited::Changed(committed)) => {
            status::wait_until_live(&app, &inside.access, committed.revision).await;
            let list = query.list.link_here(&inside.access.slug).with("change", &committed.id.to_string());
            Ok(see_other(&list.build()))
        }
        Ok(Edited::Conflict(_)) => {
            let mut look =
                look(&app, &inside, account, &AccountQuery { delete: Some("1".to_owned()), ..query }).await?;
            look.mistakes.push((
                "delete",
                format!("The account's User ID is {} now. Is it still the one to delete?", look.user_id),
            ));
            Ok((StatusCode::CONFLICT, page(&look)?).into_response())
        }
        // Sent twice: both lead to the same.
        Ok(Edited::NotFound) => {
            let organization = inside.access.organization();
            let mut transaction = app.store.begin(&inside.access).await?;
            let thing = ("account", &*account.to_string());
            let last = store::change::last_of(&mut transaction, organization, thing, None).await?;
            let own = last.filter(|last| last.actor == inside.access.email).ok_or(PageError::NotFound)?;
            let list = query.list.link_here(&inside.access.slug).with("change", &own.change.to_string());
            Ok(see_other(&list.build()))
        }
        edited => answer(&app, &inside, account, &query, edited, Name, String::new()).await,
    }
}

fn may_manage(inside: &InOrganization) -> Result<(), PageError> {
    if inside.access.role.may_manage_accounts() { Ok(()) } else { Err(PageError::Forbidden(READ_ONLY)) }
}

/// What a hidden field of ours says.
fn seen(typed: &str) -> Result<Mailbox, PageError> {
    typed.parse().map_err(|_| PageError::Malformed("seen is not a User ID".to_owned()))
}

/// Which of the fields somebody tried to save.
#[derive(Debug, Clone, Copy)]
enum Tried {
    Name,
    UserId,
    Addresses,
}

use Tried::{Addresses, Name, UserId};

/// A save that did not happen: the field, what was typed, and why.
struct Attempt {
    tried: Tried,
    typed: String,
    mistake: String,
    /// What somebody else has saved meanwhile.
    theirs: Option<String>,
}

impl Attempt {
    fn mistaken(tried: Tried, typed: String, mistake: String) -> Self {
        Self { tried, typed, mistake, theirs: None }
    }

    fn overtaken(tried: Tried, typed: String, now: &Account) -> Self {
        let theirs = match tried {
            Name => now.name.clone(),
            UserId => wording::user_id(&now.user_id),
            Addresses => now.further_addresses().iter().map(wording::user_id).collect::<Vec<_>>().join(", "),
        };
        let mistake =
            "Somebody else has changed this since you opened the page. Save again to replace theirs by yours."
                .to_owned();
        Self { tried, typed, mistake, theirs: Some(theirs) }
    }
}

/// On to what became of a save.
async fn answer(
    app: &App,
    inside: &InOrganization,
    account: AccountId,
    query: &AccountQuery,
    edited: Result<Edited, AccountError>,
    tried: Tried,
    typed: String,
) -> Result<Response, PageError> {
    let here = query.list.link_to_account(&inside.access.slug, account);
    match edited {
        Ok(Edited::NotFound) => Err(PageError::NotFound),
        Ok(Edited::Unchanged) => Ok(see_other(&here.with("unchanged", "1").build())),
        Ok(Edited::Changed(committed)) => {
            status::wait_until_live(app, &inside.access, committed.revision).await;
            Ok(see_other(&here.with("change", &committed.id.to_string()).build()))
        }
        Ok(Edited::Conflict(now)) => again(app, inside, account, query, Attempt::overtaken(tried, typed, &now)).await,
        Err(AccountError::Store(error)) => Err(error.into()),
        Err(mistake) => again(app, inside, account, query, Attempt::mistaken(tried, typed, mistake.to_string())).await,
    }
}

/// The page again, with what was typed. The hidden fields have what is stored now, so that saving once more is a
/// decision made knowingly.
async fn again(
    app: &App,
    inside: &InOrganization,
    account: AccountId,
    query: &AccountQuery,
    attempt: Attempt,
) -> Result<Response, PageError> {
    let plain = AccountQuery { list: query.list.clone(), ..AccountQuery::default() };
    let mut look = look(app, inside, account, &plain).await?;
    let status = if attempt.theirs.is_some() { StatusCode::CONFLICT } else { StatusCode::UNPROCESSABLE_ENTITY };
    let field = match attempt.tried {
        Name => &mut look.name_field,
        UserId => &mut look.user_id_field,
        Addresses => &mut look.addresses_field,
    };
    field.theirs = attempt.theirs;
    field.again(attempt.typed, attempt.mistake);
    look.mistakes = text_field::mistakes(&[&look.name_field, &look.user_id_field, &look.addresses_field]);
    Ok((status, page(&look)?).into_response())
}
