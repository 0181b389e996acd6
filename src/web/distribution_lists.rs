//! Distribution List: the organization's lists, from which size on a list is large, and the form that makes one. One
//! of them is `distribution_list`'s.

use askama::Template;
use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    App, Route,
    console::Console,
    distribution_list,
    draft::Draft,
    error::{PageError, see_other},
    form::{Form, Query},
    link::Link,
    page,
    session::InOrganization,
    status::{self, Part, StatusLine},
    text_field::{self, TextField},
    undo, wording,
};
use crate::{
    mail::{
        DomainName, Mailbox,
        id::{ChangeId, ListId, OrganizationId},
    },
    policy::{
        distribution_list::{self as policy, Addresses, Approval, DistributionList, Lists, MOST_SENDERS, MaySend},
        facts::RoutingFacts,
    },
    store::{
        self,
        distribution_list::{Large, ListedList, MOST_LISTS, Made, Start, Terms},
    },
};

/// The page's name, in the navigation too.
pub const LABEL: &str = "Distribution List";

const PATH: &str = "/{organization}/web-mail-cloud/distribution-list";
const NEW_PATH: &str = "/{organization}/web-mail-cloud/distribution-list/new";
const LARGE_PATH: &str = "/{organization}/web-mail-cloud/distribution-list/large-list";

pub fn routes() -> Vec<Route> {
    vec![
        Route::get(PATH, show),
        Route::get(NEW_PATH, show_new),
        Route::post(NEW_PATH, create),
        Route::get(LARGE_PATH, lead_to_list),
        Route::post(LARGE_PATH, set_large),
    ]
}

/// The table.
pub fn link(slug: &str) -> Link {
    Link::to(format!("/{slug}/web-mail-cloud/distribution-list"))
}

/// What is said to who may only look.
pub(super) const READ_ONLY: &str =
    "Only an Administrator may make, change and delete distribution lists. Ask one of your organization.";

pub(super) fn may_manage(inside: &InOrganization) -> Result<(), PageError> {
    match inside.access.role.may_manage_lists() {
        true => Ok(()),
        false => Err(PageError::Forbidden(READ_ONLY)),
    }
}

#[derive(Template)]
#[template(path = "distribution_lists.html")]
struct DistributionLists {
    console: Console,
    status: Option<StatusLine>,
    mistakes: Vec<(&'static str, String)>,
    rows: Vec<Row>,
    count: String,
    previous: Option<String>,
    next: Option<String>,
    /// Where a new one is made, for who may.
    new: Option<String>,
    large: TextField,
    large_seen: i32,
    large_in_words: String,
    large_action: String,
}

/// One list as it stands in the table.
struct Row {
    page: String,
    name: String,
    address: String,
    members: i64,
    may_send: String,
    /// Whose messages need approval, where somebody's do.
    approval: Option<&'static str>,
    disabled: bool,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct ListsQuery {
    after: String,
    before: String,
    /// The change that was just saved.
    change: String,
    unchanged: String,
}

async fn show(
    State(app): State<App>,
    inside: InOrganization,
    Query(query): Query<ListsQuery>,
    draft: Draft,
) -> Result<Response, PageError> {
    let mut look = look(&app, &inside, &query).await?;
    if look.new.is_some() {
        let now = look.large.typed.clone();
        look.large.restore(&draft, None, &now);
    }
    page(&look)
}

/// Who comes to the path of the form, after signing in again for example.
async fn lead_to_list(inside: InOrganization) -> Response {
    see_other(&link(&inside.access.slug).build())
}

async fn look(app: &App, inside: &InOrganization, query: &ListsQuery) -> Result<DistributionLists, PageError> {
    let (organization, slug) = (inside.access.organization(), &inside.access.slug);
    let start = match query.before.is_empty() {
        true => Start::After(&query.after),
        false => Start::Before(&query.before),
    };
    let mut transaction = app.store.begin(&inside.access).await?;
    let (lists, more) = store::distribution_list::page(&mut transaction, organization, start).await?;
    let count = store::distribution_list::count(&mut transaction, organization).await?;
    let large = store::distribution_list::large(&mut transaction, organization).await?;
    let addresses: Vec<String> = lists.iter().map(|list| list.address.to_string()).collect();
    let mut facts = RoutingFacts::default();
    store::routing_facts::load_lists_reached_from(&mut transaction, organization, &addresses, &mut facts).await?;
    let status = match query.change.parse::<ChangeId>() {
        Ok(change) => match store::distribution_list::recent(&mut transaction, organization, change, None).await? {
            Some(edit) => {
                let progress = store::change::progress(&mut transaction, edit.revision).await?;
                let undo = undo::link(slug, change);
                let line = status::of_list(&edit.action, &edit.subject, &progress);
                Some(line.undoable(inside.access.role.may_manage_lists(), undo))
            }
            None => None,
        },
        Err(_) => (!query.unchanged.is_empty()).then(status::unchanged_list),
    };
    drop(transaction);
    let end = |list: Option<&ListedList>| list.map(|list| list.address.to_string());
    let (first, last) = (end(lists.first()), end(lists.last()));
    let has_previous = if query.before.is_empty() { !query.after.is_empty() } else { more };
    let has_next = if query.before.is_empty() { more } else { true };
    let may_manage = inside.access.role.may_manage_lists();
    Ok(DistributionLists {
        console: Console::new(inside, LABEL),
        status,
        mistakes: Vec::new(),
        rows: lists.into_iter().map(|list| row(slug, list, facts.lists(), large)).collect(),
        count: wording::counted(count, "list", "lists"),
        previous: first.filter(|_| has_previous).map(|first| link(slug).with("before", &first).build()),
        next: last.filter(|_| has_next).map(|last| link(slug).with("after", &last).build()),
        new: may_manage.then(|| format!("{}/new", link(slug).build())),
        large: TextField {
            id: "large_list",
            label: "Largest list that is not large",
            hint: "To a list with more recipients only named senders may send, unless its own page allows more.",
            lines: 1,
            direction: "ltr",
            typed: large.to_string(),
            ..TextField::default()
        },
        large_seen: large,
        large_in_words: wording::counted(i64::from(large), "recipient", "recipients"),
        large_action: format!("{}/large-list", link(slug).build()),
    })
}

/// By what the list stands for it is large or not, as for relays.
fn row(slug: &str, list: ListedList, lists: &Lists, large: i32) -> Row {
    let known = lists.get(&list.address.to_string());
    let recipients = known.map_or(0, |known| lists.expand(known).members.len());
    let narrowed = policy::is_narrowed(list.may_send, list.large_allowed, recipients, u32::try_from(large).ok());
    Row {
        page: distribution_list::link(slug, list.id).build(),
        address: wording::user_id(&list.address),
        name: list.name,
        members: list.members,
        may_send: match narrowed {
            true => "named senders, as it is large".to_owned(),
            false => list.may_send.in_words().to_owned(),
        },
        approval: (list.approval != Approval::Nobody).then(|| list.approval.in_words()),
        disabled: list.disabled,
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LargeForm {
    large_list: String,
    seen: i32,
}

/// The most that can be typed.
const LARGEST: i32 = 1_000_000;

async fn set_large(
    State(app): State<App>,
    inside: InOrganization,
    Form(form): Form<LargeForm>,
) -> Result<Response, PageError> {
    may_manage(&inside)?;
    let large = match form.large_list.trim().parse::<i32>() {
        Ok(large @ 0..=LARGEST) => large,
        _ => {
            let mistake = format!("“{}” is not a number of recipients. Use one from 0 to 1,000,000.", form.large_list);
            return large_again(&app, &inside, form, mistake, None).await;
        }
    };
    let transaction = app.store.begin(&inside.access).await?;
    match store::distribution_list::set_large(transaction, large, form.seen, &inside.access.email).await? {
        Large::Unchanged => Ok(see_other(&link(&inside.access.slug).with("unchanged", "1").build())),
        Large::Meanwhile(now) => {
            let mistake = "Somebody else has changed it meanwhile. Save again to put yours in its place.".to_owned();
            large_again(&app, &inside, form, mistake, Some(now)).await
        }
        Large::Changed(committed) => {
            status::wait_until_live(&app, &inside.access, committed.revision).await;
            Ok(see_other(&link(&inside.access.slug).with("change", &committed.id.to_string()).build()))
        }
    }
}

async fn large_again(
    app: &App,
    inside: &InOrganization,
    form: LargeForm,
    mistake: String,
    theirs: Option<i32>,
) -> Result<Response, PageError> {
    let mut look = look(app, inside, &ListsQuery::default()).await?;
    look.large.again(form.large_list, mistake);
    look.large.theirs = theirs.map(|now| now.to_string());
    look.large_seen = theirs.unwrap_or(form.seen);
    look.mistakes = text_field::mistakes(&[&look.large]);
    let status = if theirs.is_some() { StatusCode::CONFLICT } else { StatusCode::UNPROCESSABLE_ENTITY };
    Ok((status, page(&look)?).into_response())
}

/// The fields of a list's terms.
pub(super) struct TermsFields {
    pub name: TextField,
    pub members: TextField,
    pub senders: TextField,
    pub may_send: MaySend,
    pub may_send_mistake: Option<String>,
    /// What somebody else has chosen meanwhile.
    pub may_send_theirs: Option<&'static str>,
    pub approval: Approval,
    pub approval_mistake: Option<String>,
    pub approval_theirs: Option<&'static str>,
    pub expands: bool,
    pub large_allowed: bool,
    pub enabled: bool,
    /// The boxes that somebody else has set otherwise meanwhile, in words.
    pub boxes_theirs: Vec<&'static str>,
}

/// What was typed into them.
pub(super) struct Typed {
    pub name: String,
    pub members: String,
    pub may_send: String,
    pub senders: String,
    pub approval: String,
    pub expands: Option<String>,
    pub large_allowed: Option<String>,
    pub enabled: Option<String>,
}

/// One per line.
pub(super) fn in_lines(addresses: &[Mailbox]) -> String {
    addresses.iter().map(wording::user_id).collect::<Vec<_>>().join("\n")
}

impl TermsFields {
    pub fn of(terms: &Terms) -> Self {
        let field = |id, label, hint, lines, direction, typed| TextField {
            id,
            label,
            hint,
            lines,
            direction,
            typed,
            ..TextField::default()
        };
        Self {
            name: field("name", "Name", "At most 64 characters, such as All of Lisbon.", 1, "auto", terms.name.clone()),
            members: field(
                "members",
                "Members",
                "Mail addresses, one per line or with commas between them, inside your organization or not. The address of another list stands for its members.",
                terms.members.len().clamp(6, 20),
                "ltr",
                in_lines(&terms.members),
            ),
            senders: field(
                "senders",
                "Named senders",
                "Mail addresses of your organization, one per line. They count where only named senders may send, or need no approval.",
                terms.senders.len().clamp(2, 12),
                "ltr",
                in_lines(&terms.senders),
            ),
            may_send: terms.may_send,
            may_send_mistake: None,
            may_send_theirs: None,
            approval: terms.approval,
            approval_mistake: None,
            approval_theirs: None,
            expands: terms.expands,
            large_allowed: terms.large_allowed,
            enabled: !terms.disabled,
            boxes_theirs: Vec::new(),
        }
    }

    /// With what was typed before the session ended. Returns whether there was something.
    pub fn restore(&mut self, draft: &Draft) -> bool {
        let Some(name) = draft.field("name") else { return false };
        self.name.typed = name.to_owned();
        for field in [&mut self.members, &mut self.senders] {
            field.restore(draft, None, "");
        }
        self.may_send = draft.field("may_send").and_then(|word| word.parse().ok()).unwrap_or(self.may_send);
        self.approval = draft.field("approval").and_then(|word| word.parse().ok()).unwrap_or(self.approval);
        self.expands = draft.field("expands").is_some();
        self.large_allowed = draft.field("large_allowed").is_some();
        self.enabled = draft.field("enabled").is_some();
        true
    }

    /// The terms that were typed, or `None` with the fields' mistakes. All fields keep what was typed.
    pub fn take(&mut self, typed: &Typed, most_members: usize, own_domains: &[DomainName]) -> Option<Terms> {
        let name = kept(&mut self.name, &typed.name, policy::name);
        let members = kept(&mut self.members, &typed.members, |typed| policy::addresses(typed, most_members));
        self.may_send = typed.may_send.parse().unwrap_or_default();
        self.approval = typed.approval.parse().unwrap_or_default();
        if (self.may_send, self.approval) == (MaySend::Named, Approval::Others) {
            let mistake = "Only named senders may send, and none of them would need approval. Choose another.";
            self.approval_mistake = Some(mistake.to_owned());
        }
        let by_name = self.may_send == MaySend::Named;
        let senders = kept(&mut self.senders, &typed.senders, |typed| {
            let senders = policy::addresses(typed, MOST_SENDERS)?;
            match senders.iter().find(|sender| !own_domains.contains(sender.domain())) {
                Some(foreign) => Err(format!(
                    "{} is not an address at a mail domain of your organization.",
                    wording::user_id(foreign)
                )),
                None if by_name && senders.is_empty() => Err("Name at least one sender.".to_owned()),
                None => Ok(senders),
            }
        });
        self.expands = typed.expands.is_some();
        self.large_allowed = typed.large_allowed.is_some();
        self.enabled = typed.enabled.is_some();
        let mut senders = senders?;
        senders.sort_by_cached_key(ToString::to_string);
        Some(Terms {
            name: name?,
            disabled: !self.enabled,
            may_send: self.may_send,
            senders,
            approval: Some(self.approval).filter(|_| self.approval_mistake.is_none())?,
            expands: self.expands,
            large_allowed: self.large_allowed,
            members: members?,
        })
    }

    /// Sets beside each field what somebody else has saved there meanwhile.
    pub fn set_apart(&mut self, now: &Terms) {
        let now = Self::of(now);
        let fields = [(&mut self.name, now.name), (&mut self.members, now.members), (&mut self.senders, now.senders)];
        for (field, now) in fields {
            let is_same = field.typed.split_whitespace().eq(now.typed.split_whitespace());
            field.theirs = (!is_same).then(|| now.typed.replace('\n', ", "));
        }
        self.may_send_theirs = (self.may_send != now.may_send).then(|| now.may_send.in_words());
        self.approval_theirs = (self.approval != now.approval).then(|| now.approval.in_words());
        for (own, theirs, yes, no) in [
            (self.expands, now.expands, "expanded by the relay", "only checked and passed on"),
            (self.large_allowed, now.large_allowed, "open although it is large", "named senders only if it is large"),
            (self.enabled, now.enabled, "enabled", "disabled"),
        ] {
            if own != theirs {
                self.boxes_theirs.push(if theirs { yes } else { no });
            }
        }
    }

    pub fn mistakes(&self) -> Vec<(&'static str, String)> {
        let mut mistakes = text_field::mistakes(&[&self.name, &self.members]);
        mistakes.extend(self.may_send_mistake.clone().map(|mistake| ("may_send", mistake)));
        mistakes.extend(text_field::mistakes(&[&self.senders]));
        mistakes.extend(self.approval_mistake.clone().map(|mistake| ("approval", mistake)));
        mistakes
    }
}

/// What a field says; the field keeps what was typed, and why that cannot be.
fn kept<T>(field: &mut TextField, typed: &str, parse: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
    // Browsers send lines ended by CRLF.
    field.typed = typed.replace("\r\n", "\n");
    parse(typed).map_err(|mistake| field.mistake = Some(mistake)).ok()
}

/// What a list stands for with these terms: how many recipients, the lists in it, and why it cannot be so.
pub(super) struct Size {
    pub recipients: usize,
    /// The enabled lists in it.
    pub nested: usize,
    large: i32,
    is_cut_off: bool,
}

impl Size {
    /// Whether its control is narrower than what was chosen.
    pub fn narrows(&self, terms: &Terms) -> bool {
        policy::is_narrowed(terms.may_send, terms.large_allowed, self.recipients, u32::try_from(self.large).ok())
    }
}

/// Looks at a list with the lists in it.
pub(super) async fn size(
    app: &App,
    inside: &InOrganization,
    address: &Mailbox,
    terms: &Terms,
) -> Result<Size, PageError> {
    let organization = inside.access.organization();
    let mut transaction = app.store.begin(&inside.access).await?;
    let mut facts = RoutingFacts::default();
    let members: Vec<String> = terms.members.iter().map(ToString::to_string).collect();
    store::routing_facts::load_lists_reached_from(&mut transaction, organization, &members, &mut facts).await?;
    let large = store::distribution_list::large(&mut transaction, organization).await?;
    drop(transaction);
    let list = as_followed(organization, address, terms);
    let expansion = facts.lists().expand(&list);
    Ok(Size {
        recipients: expansion.members.len(),
        nested: expansion.nested.len(),
        large,
        is_cut_off: expansion.is_cut_off,
    })
}

fn as_followed(organization: OrganizationId, address: &Mailbox, terms: &Terms) -> DistributionList {
    DistributionList {
        organization,
        address: address.to_string().into(),
        enabled: !terms.disabled,
        may_send: terms.may_send,
        approval: terms.approval,
        expands: terms.expands,
        large_allowed: terms.large_allowed,
        members: Addresses::new(&terms.members),
        senders: Addresses::new(&terms.senders),
    }
}

/// Whether the size allows what was chosen; the fields get the mistakes otherwise.
pub(super) fn permit_size(fields: &mut TermsFields, terms: &Terms, size: &Size) -> bool {
    if size.is_cut_off {
        fields.members.mistake = Some(format!(
            "With the lists in it this list would stand for more than {} recipients.",
            wording::number(policy::MOST_EXPANDED as i64)
        ));
    } else if size.narrows(terms) {
        fields.may_send_mistake = Some(format!(
            "This list stands for {}, and one of more than {} is large. Choose named senders, or tick “Open although it is large”.",
            wording::counted(size.recipients as i64, "recipient", "recipients"),
            wording::number(i64::from(size.large)),
        ));
    }
    fields.members.mistake.is_none() && fields.may_send_mistake.is_none()
}

/// Why messages cannot need approval yet.
pub(super) fn former_relay(relay: &str) -> String {
    format!(
        "The relay {relay} is of a former version, which would let such messages through. Ask your platform's operator to update it first."
    )
}

/// The organization's mail domains.
pub(super) async fn own_domains(app: &App, inside: &InOrganization) -> Result<Vec<DomainName>, PageError> {
    let mut transaction = app.store.begin(&inside.access).await?;
    let domains = store::domain::list(&mut transaction, inside.access.organization()).await?;
    Ok(domains.into_iter().map(|domain| domain.name).collect())
}

#[derive(Template)]
#[template(path = "new_distribution_list.html")]
struct NewDistributionList {
    console: Console,
    list: String,
    /// Of the change that the form becomes, so that sent twice it makes one list.
    change: ChangeId,
    mistakes: Vec<(&'static str, String)>,
    address: TextField,
    fields: TermsFields,
    is_draft: bool,
}

fn new_look(inside: &InOrganization, change: ChangeId) -> NewDistributionList {
    NewDistributionList {
        console: Console::new(inside, LABEL),
        list: link(&inside.access.slug).build(),
        change,
        mistakes: Vec::new(),
        address: TextField {
            id: "address",
            label: "Address",
            hint: "The list's mail address, in one of your organization's mail domains, such as all@example.com. It stays as it is.",
            lines: 1,
            direction: "ltr",
            ..TextField::default()
        },
        fields: TermsFields::of(&Terms { expands: true, ..Terms::default() }),
        is_draft: false,
    }
}

async fn show_new(inside: InOrganization, draft: Draft) -> Result<Response, PageError> {
    may_manage(&inside)?;
    let mut look = new_look(&inside, ChangeId::new());
    look.is_draft = look.address.restore(&draft, None, "") | look.fields.restore(&draft);
    page(&look)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewForm {
    address: String,
    name: String,
    members: String,
    may_send: String,
    senders: String,
    approval: String,
    expands: Option<String>,
    large_allowed: Option<String>,
    enabled: Option<String>,
    change: String,
}

async fn create(
    State(app): State<App>,
    inside: InOrganization,
    Form(form): Form<NewForm>,
) -> Result<Response, PageError> {
    may_manage(&inside)?;
    let change: ChangeId =
        form.change.parse().map_err(|_| PageError::Malformed("change is not the id of a change".to_owned()))?;
    let mut look = new_look(&inside, change);
    let address = kept(&mut look.address, &form.address, |typed| match policy::addresses(typed, 1)?.pop() {
        Some(address) => Ok(address),
        None => Err("Enter the list's mail address, such as all@example.com.".to_owned()),
    });
    let (name, members, may_send, senders) = (form.name, form.members, form.may_send, form.senders);
    let (approval, expands) = (form.approval, form.expands);
    let (large_allowed, enabled) = (form.large_allowed, form.enabled);
    let typed = Typed { name, members, may_send, senders, approval, expands, large_allowed, enabled };
    let own_domains = own_domains(&app, &inside).await?;
    let terms = look.fields.take(&typed, app.settings.list_members, &own_domains);
    let (Some(address), Some(terms)) = (address, terms) else { return again(look) };
    if !permit_size(&mut look.fields, &terms, &size(&app, &inside, &address, &terms).await?) {
        return again(look);
    }
    let id = ListId(change.0);
    let transaction = app.store.begin(&inside.access).await?;
    match store::distribution_list::create(transaction, id, &address, &terms, &inside.access.email).await? {
        Made::Made(committed) => status::wait_until_live(&app, &inside.access, committed.revision).await,
        // The same form, sent twice: what the first did is the answer to both.
        Made::Already => {}
        Made::Taken(by) => {
            look.address.mistake =
                Some(format!("{} belongs to {by} already. Use another address.", wording::user_id(&address)));
            return again(look);
        }
        Made::ForeignDomain => {
            look.address.mistake =
                Some(format!("{} is not a mail domain of your organization.", address.domain().to_unicode()));
            return again(look);
        }
        Made::FormerRelay(relay) => {
            look.fields.approval_mistake = Some(former_relay(&relay));
            return again(look);
        }
        Made::TooMany => {
            look.address.mistake = Some(format!(
                "Your organization has {} distribution lists, which is the most. Delete one first.",
                wording::number(MOST_LISTS)
            ));
            return again(look);
        }
    }
    let shown_at = distribution_list::link(&inside.access.slug, id).with("change", &change.to_string());
    Ok(see_other(&shown_at.build()))
}

fn again(mut look: NewDistributionList) -> Result<Response, PageError> {
    look.mistakes = text_field::mistakes(&[&look.address]);
    look.mistakes.extend(look.fields.mistakes());
    Ok((StatusCode::UNPROCESSABLE_ENTITY, page(&look)?).into_response())
}
