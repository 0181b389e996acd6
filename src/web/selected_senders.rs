//! What an administrator wants of senders that were ticked in `outbound_volume`: their waiting mail sent now, that they
//! stay slowed down, or that they are blocked. Asked again with the number where something cannot be taken back.

use std::str::FromStr;

use askama::Template;
use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use time::OffsetDateTime;

use super::{
    App, Route,
    console::Console,
    error::{PageError, see_other},
    form::{Form, ticked},
    job,
    link::Link,
    outbound_volume, page,
    session::InOrganization,
    status, wording,
};
use crate::{
    mail::id::AccountId,
    policy::{Role, volume::Subject},
    store::{
        self,
        job::About,
        limit::Set,
        tenant::Access,
        throttle::{Decided, HeldSender, Throttled},
    },
};

const PATH: &str = "/{organization}/web-mail-cloud/outbound-volume/selected";

/// As many as the lists have at most.
const MOST: usize = 200;

pub fn routes() -> Vec<Route> {
    vec![Route::get(PATH, show), Route::post(PATH, decide)]
}

/// Where what was ticked is sent to.
pub fn link(slug: &str) -> Link {
    Link::to(format!("/{slug}/web-mail-cloud/outbound-volume/selected"))
}

/// Whether a role may decide about waiting mail of these: all of a domain or of the organization are more than a sender.
pub(super) fn may_decide(role: Role, subject: &Subject) -> bool {
    match subject {
        Subject::Account(_) => role.may_control_senders(),
        Subject::Organization | Subject::Domain(_) | Subject::NoAccount(_) => role.may_set_limits(),
    }
}

/// By which a tick names a subject.
pub(super) fn tick(subject: &Subject) -> String {
    match subject {
        Subject::Organization => "organization:".to_owned(),
        Subject::Domain(name) => format!("domain:{name}"),
        Subject::Account(account) => format!("account:{account}"),
        Subject::NoAccount(domain) => format!("no-account:{domain}"),
    }
}

/// A subject that was ticked.
#[derive(Debug)]
struct Ticked(Subject);

/// Nothing that can be ticked.
struct NoTick;

impl FromStr for Ticked {
    type Err = NoTick;

    fn from_str(tick: &str) -> Result<Self, NoTick> {
        let (kind, subject) = tick.split_once(':').ok_or(NoTick)?;
        Ok(Self(match kind {
            "organization" if subject.is_empty() => Subject::Organization,
            "domain" => Subject::Domain(subject.parse().map_err(|_| NoTick)?),
            "account" => Subject::Account(subject.parse().map_err(|_| NoTick)?),
            "no-account" => Subject::NoAccount(subject.parse().map_err(|_| NoTick)?),
            _ => return Err(NoTick),
        }))
    }
}

/// What is wanted of senders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    LetGo,
    Keep,
    Block,
}

impl Wish {
    fn as_str(self) -> &'static str {
        match self {
            Self::LetGo => "let-go",
            Self::Keep => "keep",
            Self::Block => "block",
        }
    }
}

/// What is sent by the page and by the confirmation.
struct SelectedForm {
    wish: Wish,
    subjects: Vec<Subject>,
    /// It was asked for already.
    is_confirmed: bool,
}

impl TryFrom<Vec<(String, String)>> for SelectedForm {
    type Error = PageError;

    fn try_from(fields: Vec<(String, String)>) -> Result<Self, PageError> {
        let malformed = |what: &str| PageError::Malformed(format!("{what} in a form for several senders"));
        let (ticked, mut once) = ticked::<Ticked>(fields, MOST, malformed)?;
        let mut subjects: Vec<Subject> = ticked.into_iter().map(|Ticked(subject)| subject).collect();
        // Locks are taken in this order, and somebody may be in both lists.
        subjects.sort();
        subjects.dedup();
        let wish = match once.remove("action").as_deref() {
            Some("let-go") => Wish::LetGo,
            Some("keep") => Wish::Keep,
            Some("block") => Wish::Block,
            _ => return Err(malformed("no action")),
        };
        let is_confirmed = once.remove("confirmed").is_some();
        if once.is_empty() { Ok(Self { wish, subjects, is_confirmed }) } else { Err(malformed("an unknown field")) }
    }
}

#[derive(Template)]
#[template(path = "selected_senders.html")]
struct SelectedSenders {
    console: Console,
    wish: Wish,
    /// Those that are meant: name, and how many of its messages wait.
    senders: Vec<(String, i64)>,
    /// How many were ticked that cannot be meant.
    others: i64,
    fields: Vec<(&'static str, String)>,
    volume: String,
}

impl SelectedSenders {
    /// How many messages wait of all that are meant.
    fn total(&self) -> i64 {
        self.senders.iter().map(|(_, messages)| messages).sum()
    }

    fn messages(&self) -> String {
        wording::counted(self.total(), "message", "messages")
    }

    fn title(&self) -> String {
        let senders = wording::counted(self.senders.len() as i64, "sender", "senders");
        match (self.senders.is_empty(), self.wish) {
            (true, _) => "No sender is selected".to_owned(),
            (_, Wish::LetGo) => format!("Send {} of {senders} now", self.messages()),
            (_, Wish::Keep) => format!("Keep {senders} slowed down"),
            (_, Wish::Block) => format!("Block {senders}"),
        }
    }
}

/// There is nothing to see before senders were selected.
async fn show(inside: InOrganization) -> Response {
    see_other(&outbound_volume::link(&inside.access.slug).build())
}

async fn decide(
    State(app): State<App>,
    inside: InOrganization,
    Form(fields): Form<Vec<(String, String)>>,
) -> Result<Response, PageError> {
    let form = SelectedForm::try_from(fields)?;
    let role = inside.access.role;
    if !role.may_control_senders() {
        return Err(PageError::Forbidden(
            "Your role reads only. Ask an Administrator or a User Administrator of your organization.",
        ));
    }
    if form.subjects.iter().any(|subject| !may_decide(role, subject)) {
        return Err(PageError::Forbidden(
            "Only an Administrator may decide about all of a mail domain or of the organization together.",
        ));
    }
    // That somebody stays slowed down changes nothing but who is told.
    let asks = form.wish != Wish::Keep && !form.is_confirmed;
    if asks || form.subjects.is_empty() {
        let look = look(&app, &inside, &form).await?;
        let status = if look.senders.is_empty() { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
        return Ok((status, page(&look)?).into_response());
    }
    match form.wish {
        Wish::Block => {
            let transaction = app.store.begin(&inside.access).await?;
            let set = store::limit::block(transaction, &accounts(&form.subjects), &inside.access.email).await?;
            answer(&app, &inside.access, set).await
        }
        Wish::Keep => {
            let transaction = app.store.begin(&inside.access).await?;
            let (now, actor) = (OffsetDateTime::now_utc(), &inside.access.email);
            let set = decided(store::throttle::keep(transaction, &form.subjects, now, actor).await?);
            answer(&app, &inside.access, set).await
        }
        Wish::LetGo => let_go(&app, &inside, form).await,
    }
}

/// Very many may wait: with a page that says so.
async fn let_go(app: &App, inside: &InOrganization, form: SelectedForm) -> Result<Response, PageError> {
    let look = look(app, inside, &form).await?;
    let total = look.total();
    if total == 0 {
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, page(&look)?).into_response());
    }
    let (for_work, access) = (app.clone(), inside.access.clone());
    job::run(app, &inside.access, (look.title(), About::Queue), total, move |progress| async move {
        let transaction = for_work.store.begin(&access).await?;
        let (now, actor) = (OffsetDateTime::now_utc(), &access.email);
        let set = decided(store::throttle::let_go(transaction, &form.subjects, now, actor).await?);
        progress.set(total);
        Ok(onward(&for_work, &access, set).await?)
    })
    .await
}

fn decided(decided: Decided) -> Set {
    match decided {
        Decided::NotFound => Set::NotFound,
        Decided::Nothing => Set::Unchanged,
        Decided::Changed(_, committed) => Set::Changed(committed),
    }
}

async fn answer(app: &App, access: &Access, set: Set) -> Result<Response, PageError> {
    Ok(see_other(&onward(app, access, set).await?.build()))
}

/// The page that says what was done.
async fn onward(app: &App, access: &Access, set: Set) -> Result<Link, PageError> {
    let volume = outbound_volume::link(&access.slug);
    match set {
        Set::NotFound => Err(PageError::NotFound),
        Set::Unchanged => Ok(volume.with("unchanged", outbound_volume::SO_ALREADY)),
        Set::Changed(committed) => {
            status::wait_until_live(app, access, committed.revision).await;
            Ok(volume.with("change", &committed.id.to_string()))
        }
    }
}

fn accounts(subjects: &[Subject]) -> Vec<AccountId> {
    let account = |subject: &Subject| match subject {
        Subject::Account(account) => Some(*account),
        Subject::Organization | Subject::Domain(_) | Subject::NoAccount(_) => None,
    };
    subjects.iter().filter_map(account).collect()
}

/// The confirmation with what the store has.
async fn look(app: &App, inside: &InOrganization, form: &SelectedForm) -> Result<SelectedSenders, PageError> {
    let (organization, slug) = (inside.access.organization(), &inside.access.slug);
    let mut transaction = app.store.begin(&inside.access).await?;
    let now = OffsetDateTime::now_utc();
    let throttled = store::throttle::throttled(&mut transaction, organization, now).await?;
    let held = store::throttle::held(&mut transaction, organization).await?;
    drop(transaction);
    let senders: Vec<_> =
        form.subjects.iter().filter_map(|subject| meant(subject, form.wish, &throttled, &held)).collect();
    let mut fields = vec![("action", form.wish.as_str().to_owned()), ("confirmed", "1".to_owned())];
    fields.extend(form.subjects.iter().map(|subject| ("selected", tick(subject))));
    Ok(SelectedSenders {
        console: Console::new(inside, outbound_volume::LABEL),
        wish: form.wish,
        others: (form.subjects.len() - senders.len()) as i64,
        senders,
        fields,
        volume: outbound_volume::link(slug).build(),
    })
}

/// What somebody is called of whom it can be wanted, and how many of its messages that concerns.
fn meant(subject: &Subject, wish: Wish, throttled: &[Throttled], held: &[HeldSender]) -> Option<(String, i64)> {
    let slowed_down = throttled.iter().find(|one| one.subject == *subject);
    let held = held.iter().find(|one| one.subject == *subject);
    let user_id = slowed_down.and_then(|one| one.user_id.as_ref()).or(held.and_then(|one| one.user_id.as_ref()));
    let name = match (subject, user_id) {
        (Subject::Organization, _) => "all of the organization together".to_owned(),
        (Subject::Domain(name), _) => format!("all of {} together", name.to_unicode()),
        (Subject::NoAccount(domain), _) => format!("senders of {} that no account has", domain.to_unicode()),
        (Subject::Account(_), Some(user_id)) => wording::user_id(user_id),
        (Subject::Account(_), None) => return None,
    };
    let waiting = slowed_down.map_or(0, |one| one.messages);
    match wish {
        Wish::LetGo => (waiting > 0).then_some((name, waiting)),
        Wish::Keep => slowed_down.map(|_| (name, waiting)),
        Wish::Block => {
            let is_account = matches!(subject, Subject::Account(_));
            is_account.then(|| (name, waiting + held.map_or(0, |held| held.messages)))
        }
    }
}
