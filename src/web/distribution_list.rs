//! One distribution list: edited, filled from a CSV file that is looked at before it is saved, deleted. Opened from
//! `distribution_lists`.

use askama::Template;
use axum::{
    extract::{FromRequest, Multipart, Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    App, Route,
    account_file::refused,
    console::Console,
    distribution_lists::{self, Size, TermsFields, Typed, in_lines, may_manage, own_domains, permit_size, size},
    draft::Draft,
    error::{PageError, see_other},
    form::{Form, Query},
    link::Link,
    named::Named,
    outbound_queue, page,
    session::InOrganization,
    status::{self, Part, StatusLine},
    undo, wording,
};
use crate::{
    mail::{
        Mailbox,
        id::{ChangeId, ListId},
    },
    policy::distribution_list::{self as policy, Approval, MaySend},
    store::{
        self,
        change::LastChange,
        distribution_list::{Edited, List},
    },
};

const PATH: &str = "/{organization}/web-mail-cloud/distribution-list/{list}";
const IMPORT_PATH: &str = "/{organization}/web-mail-cloud/distribution-list/{list}/import";
const DELETE_PATH: &str = "/{organization}/web-mail-cloud/distribution-list/{list}/delete";

pub fn routes() -> Vec<Route> {
    vec![
        Route::get(PATH, show),
        Route::post(PATH, save),
        Route::upload(IMPORT_PATH, import),
        Route::get(DELETE_PATH, ask_to_delete),
        Route::post(DELETE_PATH, delete),
    ]
}

/// The page of one list.
pub fn link(slug: &str, list: ListId) -> Link {
    Link::to(format!("/{slug}/web-mail-cloud/distribution-list/{list}"))
}

#[derive(Template)]
#[template(path = "distribution_list.html")]
struct DistributionListPage {
    console: Console,
    status: Option<StatusLine>,
    list: List,
    size: Size,
    mistakes: Vec<(&'static str, String)>,
    file_mistake: Option<String>,
    fields: TermsFields,
    /// What the fields have that is not saved yet, in a sentence.
    unsaved: Option<String>,
    /// Who has changed it meanwhile, and when.
    conflict: Option<String>,
    seen: String,
    may_manage: bool,
    deleting: bool,
    table: String,
    /// What is held.
    queue: String,
    here: String,
}

impl DistributionListPage {
    fn address(&self) -> String {
        wording::user_id(&self.list.address)
    }

    fn recipients(&self) -> String {
        let recipients = wording::counted(self.size.recipients as i64, "recipient", "recipients");
        match self.size.nested {
            0 => recipients,
            nested => format!("{recipients}, with {} in it", wording::counted(nested as i64, "list", "lists")),
        }
    }

    /// Its control is narrower than what was chosen.
    fn is_narrowed(&self) -> bool {
        self.size.narrows(&self.list.terms)
    }

    fn senders(&self) -> String {
        in_lines(&self.list.terms.senders).replace('\n', ", ")
    }

    fn members(&self) -> Vec<String> {
        self.list.terms.members.iter().map(wording::user_id).collect()
    }
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct PageQuery {
    /// The change that was just saved.
    change: String,
    unchanged: String,
}

async fn show(
    State(app): State<App>,
    inside: InOrganization,
    Named(id): Named<ListId>,
    Query(query): Query<PageQuery>,
    draft: Draft,
) -> Result<Response, PageError> {
    let mut look = look(&app, &inside, id, &query).await?;
    if look.may_manage && look.fields.restore(&draft) {
        look.unsaved = Some("You had been signed out. This is what you typed: nothing is saved yet.".to_owned());
        look.seen = draft.field("seen").unwrap_or_default().to_owned();
    }
    page(&look)
}

async fn look(
    app: &App,
    inside: &InOrganization,
    id: ListId,
    query: &PageQuery,
) -> Result<DistributionListPage, PageError> {
    let (organization, slug) = (inside.access.organization(), &inside.access.slug);
    let mut transaction = app.store.begin(&inside.access).await?;
    let found = store::distribution_list::find(&mut transaction, organization, id).await?;
    let list = found.ok_or(PageError::NotFound)?;
    let status = match query.change.parse::<ChangeId>() {
        Ok(change) => match store::distribution_list::recent(&mut transaction, organization, change, Some(id)).await? {
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
    Ok(DistributionListPage {
        console: Console::new(inside, distribution_lists::LABEL),
        status,
        size: size(app, inside, &list.address, &list.terms).await?,
        mistakes: Vec::new(),
        file_mistake: None,
        fields: TermsFields::of(&list.terms),
        unsaved: None,
        conflict: None,
        seen: list.terms.seen(),
        may_manage: inside.access.role.may_manage_lists(),
        deleting: false,
        table: distribution_lists::link(slug).build(),
        queue: outbound_queue::link_to_held(slug).build(),
        here: link(slug, id).build(),
        list,
    })
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EditForm {
    name: String,
    members: String,
    may_send: String,
    senders: String,
    approval: String,
    expands: Option<String>,
    large_allowed: Option<String>,
    enabled: Option<String>,
    /// The terms that the form was shown with.
    seen: String,
}

async fn save(
    State(app): State<App>,
    inside: InOrganization,
    Named(id): Named<ListId>,
    Form(form): Form<EditForm>,
) -> Result<Response, PageError> {
    let mut look = look(&app, &inside, id, &PageQuery::default()).await?;
    may_manage(&inside)?;
    let (name, members, may_send, senders) = (form.name, form.members, form.may_send, form.senders);
    let (approval, expands) = (form.approval, form.expands);
    let (large_allowed, enabled) = (form.large_allowed, form.enabled);
    let typed = Typed { name, members, may_send, senders, approval, expands, large_allowed, enabled };
    look.seen.clone_from(&form.seen);
    let own_domains = own_domains(&app, &inside).await?;
    let Some(terms) = look.fields.take(&typed, app.settings.list_members, &own_domains) else { return again(look) };
    if !permit_size(&mut look.fields, &terms, &size(&app, &inside, &look.list.address, &terms).await?) {
        return again(look);
    }
    let transaction = app.store.begin(&inside.access).await?;
    match store::distribution_list::edit(transaction, id, &terms, &form.seen, &inside.access.email).await? {
        Edited::NotFound => Err(PageError::NotFound),
        Edited::Unchanged => Ok(see_other(&link(&inside.access.slug, id).with("unchanged", "1").build())),
        Edited::Meanwhile(now, by) => {
            look.fields.set_apart(&now.terms);
            conflict(look, *now, by)
        }
        Edited::FormerRelay(relay) => {
            look.fields.approval_mistake = Some(distribution_lists::former_relay(&relay));
            again(look)
        }
        Edited::Changed(committed) => {
            status::wait_until_live(&app, &inside.access, committed.revision).await;
            Ok(see_other(&link(&inside.access.slug, id).with("change", &committed.id.to_string()).build()))
        }
    }
}

fn again(mut look: DistributionListPage) -> Result<Response, PageError> {
    look.mistakes = look.fields.mistakes();
    Ok((StatusCode::UNPROCESSABLE_ENTITY, page(&look)?).into_response())
}

/// What is sent once more replaces what somebody else has saved, which stands beside the fields.
fn conflict(mut look: DistributionListPage, now: List, by: Option<LastChange>) -> Result<Response, PageError> {
    look.conflict = Some(match by {
        Some(by) => format!("{} has changed it on {}.", by.actor, wording::moment(by.at)),
        None => "Somebody else has changed it.".to_owned(),
    });
    look.seen = now.terms.seen();
    look.list = now;
    Ok((StatusCode::CONFLICT, page(&look)?).into_response())
}

/// In bytes: thousands of addresses.
const LARGEST_FILE: usize = 1024 * 1024;

/// Puts the members of a file into the form, to be looked at and saved.
async fn import(
    State(app): State<App>,
    inside: InOrganization,
    Named(id): Named<ListId>,
    request: Request,
) -> Result<Response, PageError> {
    let mut look = look(&app, &inside, id, &PageQuery::default()).await?;
    may_manage(&inside)?;
    let form = Multipart::from_request(request, &app).await.map_err(|error| PageError::Status(error.status()))?;
    let (file, keeps) = receive(form).await?;
    let read = match file {
        None => Err(format!("The file is larger than {}.", wording::size(LARGEST_FILE as i64))),
        Some(file) => match String::from_utf8(file) {
            Ok(file) => policy::addresses_of_file(&file, app.settings.list_members),
            Err(_) => Err("The file is not in UTF-8. Save it as “CSV UTF-8”.".to_owned()),
        },
    };
    let present = look.list.terms.members.clone();
    let members = read.and_then(|of_file| {
        let kept: &[Mailbox] = if keeps { &present } else { &[] };
        let mut members = kept.to_vec();
        members.extend(of_file.into_iter().filter(|member| !kept.contains(member)));
        match members.len() <= app.settings.list_members {
            true => Ok(members),
            false => Err(format!(
                "With these the list would have {} members: at most {}.",
                members.len(),
                app.settings.list_members
            )),
        }
    });
    match members {
        Err(mistake) => {
            look.mistakes = vec![("file", mistake.clone())];
            look.file_mistake = Some(mistake);
            Ok((StatusCode::UNPROCESSABLE_ENTITY, page(&look)?).into_response())
        }
        Ok(members) => {
            let added: Vec<&Mailbox> = members.iter().filter(|member| !present.contains(member)).collect();
            let removed: Vec<&Mailbox> = present.iter().filter(|member| !members.contains(member)).collect();
            look.unsaved = Some(format!(
                "From the file: {}, {}. Nothing is saved yet: look at the members, then save.",
                told("added", &added),
                told("removed", &removed),
            ));
            look.fields.members.typed = in_lines(&members);
            look.fields.members.lines = members.len().clamp(6, 20);
            page(&look)
        }
    }
}

/// `2 added (ann@example.com, bob@example.com)`.
fn told(what: &str, members: &[&Mailbox]) -> String {
    const NAMED: usize = 5;
    if members.is_empty() {
        return format!("none {what}");
    }
    let mut named: Vec<String> = members.iter().take(NAMED).map(|member| wording::user_id(member)).collect();
    if members.len() > NAMED {
        named.push(format!("{} more", members.len() - NAMED));
    }
    format!("{} {what} ({})", wording::number(members.len() as i64), named.join(", "))
}

/// The file, unless it is too large, and whether members stay that are not in it.
async fn receive(mut form: Multipart) -> Result<(Option<Vec<u8>>, bool), PageError> {
    let (mut file, mut keeps) = (Some(Vec::new()), false);
    while let Some(mut field) = form.next_field().await.map_err(refused)? {
        match field.name() {
            Some("file") => {
                while let Some(chunk) = field.chunk().await.map_err(refused)? {
                    file = file.filter(|read| read.len() + chunk.len() <= LARGEST_FILE);
                    if let Some(read) = &mut file {
                        read.extend_from_slice(&chunk);
                    }
                }
            }
            Some("keep") => keeps = true,
            _ => return Err(PageError::Malformed("a field that the form has not".to_owned())),
        }
    }
    Ok((file, keeps))
}

async fn ask_to_delete(
    State(app): State<App>,
    inside: InOrganization,
    Named(id): Named<ListId>,
) -> Result<Response, PageError> {
    let mut look = look(&app, &inside, id, &PageQuery::default()).await?;
    look.deleting = look.may_manage;
    page(&look)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DeleteForm {
    /// The terms that the question was shown with.
    seen: String,
}

async fn delete(
    State(app): State<App>,
    inside: InOrganization,
    Named(id): Named<ListId>,
    Form(form): Form<DeleteForm>,
) -> Result<Response, PageError> {
    may_manage(&inside)?;
    let transaction = app.store.begin(&inside.access).await?;
    let change = match store::distribution_list::delete(transaction, id, &form.seen, &inside.access.email).await? {
        Edited::Changed(committed) => {
            status::wait_until_live(&app, &inside.access, committed.revision).await;
            committed.id
        }
        // Sent twice: both lead to the same.
        Edited::NotFound => {
            let mut transaction = app.store.begin(&inside.access).await?;
            let thing = ("list", &*id.to_string());
            let last = store::change::last_of(&mut transaction, inside.access.organization(), thing, None).await?;
            last.filter(|last| last.actor == inside.access.email).ok_or(PageError::NotFound)?.change
        }
        // Nothing that is deleted asks for a relay.
        Edited::Unchanged | Edited::FormerRelay(_) => return Err(PageError::NotFound),
        Edited::Meanwhile(now, by) => {
            let mut look = look(&app, &inside, id, &PageQuery::default()).await?;
            look.deleting = true;
            return conflict(look, *now, by);
        }
    };
    Ok(see_other(&distribution_lists::link(&inside.access.slug).with("change", &change.to_string()).build()))
}
