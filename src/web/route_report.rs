//! Route Report: what an auditor asks. Of each account's messages in a period: how many left through a gateway, how
//! many elsewhere, how many not at all. A form, and the answer on its page (`route_totals`) or as a file; opened from
//! `message_trace`.

use std::{
    collections::{HashMap, HashSet},
    sync::{LazyLock, Mutex, PoisonError},
};

use askama::Template;
use axum::{
    extract::{Multipart, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;
use time::{Date, Duration, OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};
use tokio::sync::Semaphore;

use super::{
    App, Route,
    account_file::refused,
    console::Console,
    csv_file,
    error::PageError,
    form::Query,
    link::Link,
    message_trace, page,
    route_totals::Totals,
    session::InOrganization,
    text_field::{self, TextField},
    wording,
};
use crate::{
    mail::{
        GatewayAddress, Mailbox,
        id::{AccountId, OrganizationId},
    },
    policy::account_file::{self, harmless},
    store::{
        self, OrganizationTransaction,
        message_trace::report::{self, Report, Ways},
        tenant::Access,
    },
};

const PATH: &str = "/{organization}/web-mail-cloud/message-trace/report";
const CSV_PATH: &str = "/{organization}/web-mail-cloud/message-trace/report.csv";

/// How long a page waits for its answer. A file takes as long as it takes.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(60);
/// The longest period: reading a day of much mail takes a second.
const LONGEST: Duration = Duration::days(92);
/// The most accounts that can be named.
const MOST_NAMED: usize = 10_000;
/// The largest file that names them, in bytes.
const LARGEST_FILE: usize = 2_000_000;

/// Reports that are made at once, for everybody together: each keeps a core busy. Others wait for their turn.
static MAKING: LazyLock<Semaphore> = LazyLock::new(|| Semaphore::new(1));
/// Those whose report is being made, or has not had its turn yet: one of an organization at a time. No other organization
/// hears of it.
static MAKING_OF: LazyLock<Mutex<HashSet<OrganizationId>>> = LazyLock::new(Mutex::default);

/// An organization's report, until this is dropped.
struct Own(OrganizationId);

impl Own {
    /// `None`: there is one already.
    fn of(organization: OrganizationId) -> Option<Self> {
        let mut making = MAKING_OF.lock().unwrap_or_else(PoisonError::into_inner);
        making.insert(organization).then_some(Self(organization))
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        MAKING_OF.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.0);
    }
}

const DAY: &[BorrowedFormatItem<'_>] = format_description!("[year]-[month]-[day]");

pub fn routes() -> Vec<Route> {
    vec![
        Route::get(PATH, show),
        Route::upload(PATH, answer),
        Route::get(CSV_PATH, make),
        Route::upload(CSV_PATH, make_of_file),
    ]
}

/// The form.
pub fn link(slug: &str) -> Link {
    Link::to(format!("/{slug}/web-mail-cloud/message-trace/report"))
}

#[derive(Template)]
#[template(path = "route_report.html")]
struct RouteReport {
    console: Console,
    trace: String,
    /// The page's own address.
    here: String,
    /// Where the file is.
    file: String,
    gateway: TextField,
    from: TextField,
    to: TextField,
    accounts: TextField,
    /// What is wrong with the file that was sent.
    file_mistake: Option<String>,
    mistakes: Vec<(&'static str, String)>,
    /// Another one of the organization is being made.
    is_busy: bool,
    /// It takes longer than a page waits.
    takes_long: bool,
    totals: Option<Totals>,
}

impl RouteReport {
    fn new(inside: &InOrganization, form: ReportForm) -> Self {
        let field =
            |id, label, hint, typed| TextField { id, label, hint, direction: "ltr", typed, ..TextField::default() };
        Self {
            console: Console::new(inside, message_trace::LABEL),
            trace: message_trace::link(&inside.access.slug).build(),
            here: link(&inside.access.slug).build(),
            file: link(&inside.access.slug).build() + ".csv",
            gateway: field(
                "gateway",
                "Gateway",
                "The address that mail was to leave through, with its port.",
                form.gateway,
            ),
            from: field("from", "First day", "In UTC, such as 2026-11-01.", form.from),
            to: field("to", "Last day", "In UTC. It counts as a whole.", form.to),
            accounts: TextField {
                lines: 4,
                ..field(
                    "accounts",
                    "Accounts",
                    "Their addresses, one per line or apart by commas; at most 10,000. Leave it empty, and choose no file, for all.",
                    form.accounts,
                )
            },
            file_mistake: None,
            mistakes: Vec::new(),
            is_busy: false,
            takes_long: false,
            totals: None,
        }
    }

    fn answer(mut self, status: StatusCode) -> Result<Response, PageError> {
        self.mistakes = text_field::mistakes(&[&self.gateway, &self.from, &self.to, &self.accounts]);
        self.mistakes.extend(self.file_mistake.clone().map(|mistake| ("file", mistake)));
        Ok((status, page(&self)?).into_response())
    }
}

/// What the address of the file asks for.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct ReportForm {
    gateway: String,
    from: String,
    to: String,
    accounts: String,
    /// A file that names the accounts, where one was sent.
    #[serde(skip)]
    file: Option<Named>,
}

/// A file as it came.
#[derive(Debug, Clone)]
enum Named {
    Text(String),
    TooLarge,
    NotUtf8,
}

/// What is asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    pub gateway: GatewayAddress,
    /// The first and the last day.
    pub days: (Date, Date),
    /// `None`: all.
    pub accounts: Option<Vec<Mailbox>>,
}

impl Asked {
    pub fn period(&self) -> (OffsetDateTime, OffsetDateTime) {
        (self.days.0.midnight().assume_utc(), self.days.1.midnight().assume_utc() + Duration::DAY)
    }
}

async fn show(State(app): State<App>, inside: InOrganization) -> Result<Response, PageError> {
    let mut transaction = app.store.begin(&inside.access).await?;
    let summary = store::organization::summary(&mut transaction, inside.access.organization()).await?;
    drop(transaction);
    let today = OffsetDateTime::now_utc().date();
    let day = |day: Date| day.format(DAY).unwrap_or_default();
    let form = ReportForm {
        gateway: summary.gateway.map(|address| address.to_string()).unwrap_or_default(),
        from: day(today - Duration::days(30)),
        to: day(today),
        ..ReportForm::default()
    };
    RouteReport::new(&inside, form).answer(StatusCode::OK)
}

/// Reads what was typed; what is wrong stands at its field.
fn parse(form: &ReportForm, shown: &mut RouteReport) -> Option<Asked> {
    let gateway = form.gateway.parse::<GatewayAddress>().map_err(|mistake| mistake.to_string());
    let day = |typed: &str| Date::parse(typed.trim(), DAY).map_err(|_| "Type a day such as 2026-11-24.".to_owned());
    let (from, mut to) = (day(&form.from), day(&form.to));
    if let (Ok(first), Ok(last)) = (&from, &to) {
        if last < first {
            to = Err("This is before the first day: choose a later one.".to_owned());
        } else if *last - *first >= LONGEST {
            to = Err(format!("A report is of at most {} days: choose an earlier day.", LONGEST.whole_days()));
        }
    }
    let accounts = account_file::named(&form.accounts, MOST_NAMED);
    let of_file = form.file.as_ref().map_or(Ok(Vec::new()), of_file);
    let note = |field: &mut TextField, mistake: Option<&String>| field.mistake = mistake.cloned();
    note(&mut shown.gateway, gateway.as_ref().err());
    note(&mut shown.from, from.as_ref().err());
    note(&mut shown.to, to.as_ref().err());
    note(&mut shown.accounts, accounts.as_ref().err());
    shown.file_mistake = of_file.as_ref().err().cloned();
    let named = [accounts.ok()?, of_file.ok()?].concat();
    let accounts = (!named.is_empty()).then_some(named);
    Some(Asked { gateway: gateway.ok()?, days: (from.ok()?, to.ok()?), accounts })
}

/// The accounts that a file names: nobody gets a report of all for an empty one.
fn of_file(file: &Named) -> Result<Vec<Mailbox>, String> {
    match file {
        Named::TooLarge => Err(format!("The file is larger than {}.", wording::size(LARGEST_FILE as i64))),
        Named::NotUtf8 => Err("The file is not in UTF-8. Save it as “CSV UTF-8”.".to_owned()),
        Named::Text(text) => match account_file::named(text, MOST_NAMED)? {
            named if named.is_empty() => Err("The file has no addresses in it.".to_owned()),
            named => Ok(named),
        },
    }
}

/// The answer on the page.
async fn answer(State(app): State<App>, inside: InOrganization, form: Multipart) -> Result<Response, PageError> {
    let form = receive(form).await?;
    let mut shown = RouteReport::new(&inside, form.clone());
    let Some(asked) = parse(&form, &mut shown) else { return shown.answer(StatusCode::UNPROCESSABLE_ENTITY) };
    // A browser does not send a file twice by itself: whom it names goes with the file that is made of the same report.
    if let (Some(_), Some(named)) = (&form.file, &asked.accounts) {
        shown.accounts.typed = named.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n");
    }
    let Some(own) = Own::of(inside.access.organization()) else {
        shown.is_busy = true;
        return shown.answer(StatusCode::TOO_MANY_REQUESTS);
    };
    let making = async {
        let (mut transaction, ways) = read(&app, &inside.access, &asked, own).await?;
        Totals::of(&mut transaction, &inside.access, &asked, ways).await
    };
    match tokio::time::timeout(PATIENCE, making).await {
        Ok(totals) => {
            shown.totals = Some(totals?);
            shown.answer(StatusCode::OK)
        }
        Err(_) => {
            shown.takes_long = true;
            shown.answer(StatusCode::SERVICE_UNAVAILABLE)
        }
    }
}

/// The same with the accounts in a file.
async fn make_of_file(state: State<App>, inside: InOrganization, form: Multipart) -> Result<Response, PageError> {
    make(state, inside, Query(receive(form).await?)).await
}

async fn receive(mut form: Multipart) -> Result<ReportForm, PageError> {
    let mut received = ReportForm::default();
    while let Some(mut field) = form.next_field().await.map_err(refused)? {
        let name = field.name().unwrap_or_default().to_owned();
        let mut bytes = Some(Vec::new());
        while let Some(chunk) = field.chunk().await.map_err(refused)? {
            bytes = bytes.filter(|read| read.len() + chunk.len() <= LARGEST_FILE);
            if let Some(read) = &mut bytes {
                read.extend_from_slice(&chunk);
            }
        }
        let file = match bytes.map(String::from_utf8) {
            None => Named::TooLarge,
            Some(Err(_)) => Named::NotUtf8,
            Some(Ok(text)) => Named::Text(text),
        };
        match (name.as_str(), file) {
            // A browser sends the field without a file, too.
            ("file", Named::Text(text)) if text.is_empty() => {}
            ("file", file) => received.file = Some(file),
            ("gateway", Named::Text(text)) => received.gateway = text,
            ("from", Named::Text(text)) => received.from = text,
            ("to", Named::Text(text)) => received.to = text,
            ("accounts", Named::Text(text)) => received.accounts = text,
            _ => return Err(PageError::Malformed("a field that the form has not".to_owned())),
        }
    }
    Ok(received)
}

/// The file.
async fn make(
    State(app): State<App>,
    inside: InOrganization,
    Query(form): Query<ReportForm>,
) -> Result<Response, PageError> {
    let mut shown = RouteReport::new(&inside, form.clone());
    let Some(asked) = parse(&form, &mut shown) else { return shown.answer(StatusCode::UNPROCESSABLE_ENTITY) };
    let Some(own) = Own::of(inside.access.organization()) else {
        shown.is_busy = true;
        return shown.answer(StatusCode::TOO_MANY_REQUESTS);
    };
    let day = |day: Date| day.format(DAY).unwrap_or_default();
    let (from, to) = (day(asked.days.0), day(asked.days.1));
    let name = format!("route-report-{}-{from}-{to}.csv", inside.access.slug);
    let begin = Making { app, access: inside.access, asked, step: At::Beginning(own) };
    Ok(csv_file::answer(&name, begin, Making::piece))
}

/// A file while it is made and sent. A failure cuts it off, so that nobody takes it for whole.
struct Making {
    app: App,
    access: Access,
    asked: Asked,
    step: At,
}

/// By account; `None`: senders that no account had.
pub type WaysOf = HashMap<Option<AccountId>, Ways>;

/// What became of whose messages.
#[derive(Debug, Clone)]
pub struct Line {
    /// An account of today.
    pub account: Option<AccountId>,
    /// A User ID, the address that the account was named by, or words in brackets.
    pub whose: String,
    pub ways: Ways,
}

impl Line {
    fn of_nobody(whose: String, ways: Ways) -> Self {
        Self { account: None, whose, ways }
    }
}

enum At {
    Beginning(Own),
    /// Behind the account with this User ID.
    Accounts(WaysOf, String),
}

impl Making {
    async fn piece(mut self) -> anyhow::Result<(Vec<u8>, Option<Self>)> {
        let organization = self.access.organization();
        match self.step {
            At::Beginning(own) => {
                let (mut transaction, ways) = read(&self.app, &self.access, &self.asked, own).await?;
                let header = header_row()?;
                if let Some(named) = &self.asked.accounts {
                    let mut lines = of_named(&mut transaction, organization, named, &ways).await?;
                    lines.extend(lost(&mut transaction, organization, &self.asked).await?);
                    return Ok(([header, self.asked.rows(&lines)?].concat(), None));
                }
                self.step = At::Accounts(ways, String::new());
                Ok((header, Some(self)))
            }
            At::Accounts(mut ways, after) => {
                let mut transaction = self.app.store.begin(&self.access).await?;
                let accounts = report::accounts_after(&mut transaction, organization, &after).await?;
                let mut lines: Vec<Line> = accounts
                    .iter()
                    .map(|(id, user_id)| Line {
                        account: Some(*id),
                        whose: user_id.to_string(),
                        ways: ways.remove(&Some(*id)).unwrap_or_default(),
                    })
                    .collect();
                let last = accounts.last().filter(|_| accounts.len() as i64 == report::ACCOUNTS);
                let last = last.map(|(_, user_id)| user_id.to_string());
                if last.is_none() {
                    lines.extend(without_account(ways.drain()));
                    lines.extend(lost(&mut transaction, organization, &self.asked).await?);
                }
                let piece = self.asked.rows(&lines)?;
                let next = last.map(|after| Self { step: At::Accounts(ways, after), ..self });
                Ok((piece, next))
            }
        }
    }
}

/// Reads the trace, when it is its turn.
async fn read(
    app: &App,
    access: &Access,
    asked: &Asked,
    own: Own,
) -> anyhow::Result<(OrganizationTransaction, WaysOf)> {
    let turn = MAKING.acquire().await?;
    let mut transaction = app.store.begin(access).await?;
    let mut report = Report::new(access.organization(), asked.period(), &asked.gateway);
    report.read(&mut transaction).await?;
    drop((turn, own));
    Ok((transaction, report.finish()))
}

/// Each of the accounts that were named, under the address that it was named by.
pub async fn of_named(
    transaction: &mut OrganizationTransaction,
    organization: OrganizationId,
    named: &[Mailbox],
    ways: &WaysOf,
) -> anyhow::Result<Vec<Line>> {
    let addresses: Vec<String> = named.iter().map(ToString::to_string).collect();
    let found = report::accounts_of(transaction, organization, &addresses).await?;
    let found: HashMap<String, AccountId> = found.into_iter().collect();
    let mut lines = Vec::with_capacity(named.len());
    let mut seen = HashSet::new();
    for whose in addresses {
        if !seen.insert(whose.clone()) {
            continue;
        }
        lines.push(match found.get(&whose).copied() {
            Some(id) => Line { account: Some(id), whose, ways: ways.get(&Some(id)).copied().unwrap_or_default() },
            None => Line::of_nobody(format!("(no account) {whose}"), Ways::default()),
        });
    }
    Ok(lines)
}

/// What no account of today has sent.
pub fn without_account(left: impl Iterator<Item = (Option<AccountId>, Ways)>) -> Vec<Line> {
    let mut lines: Vec<Line> = left
        .map(|(account, ways)| match account {
            Some(account) => Line::of_nobody(format!("(deleted account) {account}"), ways),
            None => Line::of_nobody("(senders without an account)".to_owned(), ways),
        })
        .collect();
    lines.sort_by(|one, other| one.whose.cmp(&other.whose));
    lines
}

/// What is not written down at all, whoever has sent it.
pub async fn lost(
    transaction: &mut OrganizationTransaction,
    organization: OrganizationId,
    asked: &Asked,
) -> anyhow::Result<Option<Line>> {
    let lost = store::message_trace::lost(transaction, organization, asked.period()).await?;
    let words = "(lines that were lost while the store was away)".to_owned();
    Ok((lost > 0).then_some(Line::of_nobody(words, Ways { unknown: lost, ..Ways::default() })))
}

fn header_row() -> anyhow::Result<Vec<u8>> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    writer.write_record([
        "account",
        "first_day",
        "last_day",
        "gateway",
        "messages",
        "through_gateway",
        "elsewhere",
        "not_left",
        "unknown",
    ])?;
    Ok(writer.into_inner()?)
}

impl Asked {
    fn rows(&self, lines: &[Line]) -> anyhow::Result<Vec<u8>> {
        let mut writer = csv::Writer::from_writer(Vec::new());
        let (first, last, gateway) = (self.days.0.format(DAY)?, self.days.1.format(DAY)?, self.gateway.to_string());
        for Line { whose, ways, .. } in lines {
            let [messages, through, elsewhere, not_left, unknown] =
                [ways.messages(), ways.through, ways.elsewhere, ways.not_left, ways.unknown]
                    .map(|count| count.to_string());
            let account = harmless(whose);
            writer.write_record([
                &account, &first, &last, &gateway, &messages, &through, &elsewhere, &not_left, &unknown,
            ])?;
        }
        Ok(writer.into_inner()?)
    }
}
