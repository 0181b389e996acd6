//! Accounts in from a CSV file, looked at before anything is changed, and out to one.
//! Opened from `mail_account_manager`; the long part is done by `job`.

use askama::Template;
use axum::{
    body::{Body, Bytes},
    extract::{Multipart, State, multipart::MultipartError},
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use futures_util::{TryStreamExt, stream};
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncSeekExt, AsyncWriteExt};

use super::{
    App, Route,
    console::Console,
    error::{PageError, see_other},
    form::{Form, Query, came_too_slowly},
    gateway_form,
    job::{self, Failed},
    link::Link,
    mail_account::READ_ONLY,
    mail_account_manager,
    named::Named,
    page,
    session::InOrganization,
    status,
    text_field::TextField,
    verification, wording,
};
use crate::{
    mail::id::{ChangeId, ImportId},
    policy::account_file::{COLUMNS, RowMistake},
    store::{
        self, OrganizationTransaction,
        account_file::NewImport,
        account_import::{self, Applied, Consent, Counts, Kind, PlannedChange, Staged},
        job::About,
        tenant::Access,
    },
};

const IMPORT: &str = "/{organization}/web-mail-cloud/mail-account-manager/import";
const PREVIEW: &str = "/{organization}/web-mail-cloud/mail-account-manager/import/{import}";
const EXPORT: &str = "/{organization}/web-mail-cloud/mail-account-manager/export.csv";

pub fn routes() -> Vec<Route> {
    vec![
        Route::get(IMPORT, choose),
        Route::upload(IMPORT, upload),
        Route::get(PREVIEW, preview),
        Route::post(PREVIEW, apply),
        Route::get(EXPORT, export),
    ]
}

/// How many accounts of each kind the preview shows.
const SHOWN: i64 = 20;

fn may_import(inside: &InOrganization) -> Result<(), PageError> {
    if inside.access.role.may_manage_accounts() { Ok(()) } else { Err(PageError::Forbidden(READ_ONLY)) }
}

fn list(slug: &str) -> Link {
    Link::to(format!("/{slug}/web-mail-cloud/mail-account-manager"))
}

#[derive(Template)]
#[template(path = "account_file.html")]
struct ChooseFile {
    console: Console,
    list: String,
    /// What is wrong with what was sent.
    mistake: Option<&'static str>,
}

async fn choose(inside: InOrganization) -> Result<Response, PageError> {
    may_import(&inside)?;
    page(&ChooseFile::new(&inside, None))
}

impl ChooseFile {
    fn new(inside: &InOrganization, mistake: Option<&'static str>) -> Self {
        let console = Console::new(inside, mail_account_manager::LABEL);
        Self { console, list: list(&inside.access.slug).build(), mistake }
    }
}

/// What the form brought: the file, spooled, so that it is never whole in memory.
struct Upload {
    file: std::fs::File,
    file_name: String,
    size: u64,
    lines: i64,
    remove_missing: bool,
}

async fn upload(State(app): State<App>, inside: InOrganization, form: Multipart) -> Result<Response, PageError> {
    may_import(&inside)?;
    let upload = receive(form).await?;
    let Some(upload) = upload.filter(|upload| upload.size > 0) else {
        let again = ChooseFile::new(&inside, Some("Choose a CSV file that is not empty."));
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, page(&again)?).into_response());
    };
    let import = NewImport {
        id: ImportId::new(),
        file_name: upload.file_name,
        remove_missing: upload.remove_missing,
        started_by: inside.access.email.clone(),
        allowed: gateway_form::allowed_networks(&app, &inside.access).await?,
    };
    let (store, access) = (app.store.clone(), inside.access.clone());
    let title = "Reading the file".to_owned();
    job::run(&app, &inside.access, (title, About::Accounts), upload.lines, move |progress| async move {
        let mut transaction = store.begin(&access).await?;
        let report = |rows| progress.set(rows);
        account_import::stage(&mut transaction, &import, upload.file, report).await?;
        transaction.commit().await?;
        Ok(preview_link(&access.slug, import.id))
    })
    .await
}

fn preview_link(slug: &str, import: ImportId) -> Link {
    Link::to(format!("/{slug}/web-mail-cloud/mail-account-manager/import/{import}"))
}

/// Reads the form. `None`: there is no file in it.
async fn receive(mut form: Multipart) -> Result<Option<Upload>, PageError> {
    let (mut upload, mut remove_missing) = (None, false);
    while let Some(mut field) = form.next_field().await.map_err(refused)? {
        match field.name() {
            Some("file") if upload.is_none() => {
                let file_name = field.file_name().unwrap_or_default().chars().take(255).filter(|c| !c.is_control());
                let file_name = file_name.collect();
                let mut file = tokio::fs::File::from_std(tempfile::tempfile().map_err(anyhow::Error::from)?);
                let (mut size, mut lines) = (0, 0);
                while let Some(chunk) = field.chunk().await.map_err(refused)? {
                    size += chunk.len() as u64;
                    lines += memchr::memchr_iter(b'\n', &chunk).count() as i64;
                    file.write_all(&chunk).await.map_err(anyhow::Error::from)?;
                }
                file.flush().await.map_err(anyhow::Error::from)?;
                file.rewind().await.map_err(anyhow::Error::from)?;
                let file = file.into_std().await;
                upload = Some(Upload { file, file_name, size, lines: lines.max(1), remove_missing: false });
            }
            Some("remove_missing") => remove_missing = true,
            _ => return Err(PageError::Malformed("a field that the form has not".to_owned())),
        }
    }
    Ok(upload.map(|upload| Upload { remove_missing, ..upload }))
}

/// Why a file could not be received.
pub(super) fn refused(error: MultipartError) -> PageError {
    if came_too_slowly(&error) {
        PageError::Status(StatusCode::REQUEST_TIMEOUT)
    } else {
        PageError::Status(error.status())
    }
}

#[derive(Template)]
#[template(path = "account_import.html")]
struct Preview {
    console: Console,
    list: String,
    /// The form that it came from.
    choose: String,
    import: Staged,
    /// Whether it is shown again because the accounts have changed.
    is_different: bool,
    groups: Vec<Group>,
    new_gateways: Vec<String>,
    more_gateways: usize,
    removals: TextField,
}

impl Preview {
    fn mistakes(&self) -> &[RowMistake] {
        &self.import.findings.mistakes
    }

    /// How many mistakes are not named.
    fn more_mistakes(&self) -> i64 {
        self.import.findings.mistake_count - self.mistakes().len() as i64
    }

    fn changes_nothing(&self) -> bool {
        self.import.counts == Counts::default()
    }
}

/// The accounts that one thing happens to.
struct Group {
    title: &'static str,
    count: i64,
    accounts: Vec<Planned>,
}

struct Planned {
    user_id: String,
    differences: Vec<Difference>,
}

/// One field of an account.
struct Difference {
    label: &'static str,
    /// `None`: the account is new.
    before: Option<String>,
    /// `None`: it is removed.
    after: Option<String>,
}

#[derive(Default, Deserialize)]
struct PreviewQuery {
    /// Whether the accounts have changed since it was looked at.
    different: Option<String>,
}

async fn preview(
    State(app): State<App>,
    inside: InOrganization,
    Named(id): Named<ImportId>,
    Query(query): Query<PreviewQuery>,
) -> Result<Response, PageError> {
    let mut transaction = app.store.begin(&inside.access).await?;
    let import = account_import::staged(&mut transaction, inside.access.organization(), id).await?;
    let import = import.ok_or(PageError::NotFound)?;
    may_import(&inside)?;
    if let Some(change) = import.change {
        return Ok(see_other(&after(&inside.access.slug, change).build()));
    }
    let status = if import.findings.mistake_count > 0 { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
    let look = look(&mut transaction, &inside, import, query.different.is_some()).await?;
    Ok((status, page(&look)?).into_response())
}

/// The list, which says what was imported.
fn after(slug: &str, change: ChangeId) -> Link {
    list(slug).with("change", &change.to_string())
}

/// How many new gateways are named.
const NAMED_GATEWAYS: usize = 10;

async fn look(
    transaction: &mut OrganizationTransaction,
    inside: &InOrganization,
    import: Staged,
    is_different: bool,
) -> Result<Preview, PageError> {
    let organization = inside.access.organization();
    let mut groups = Vec::new();
    for (kind, title, count) in [
        (Kind::Removed, "Removed", import.counts.removed),
        (Kind::Changed, "Changed", import.counts.changed),
        (Kind::Added, "Added", import.counts.added),
    ] {
        if count > 0 {
            let planned = account_import::first_planned(transaction, organization, import.id, kind, SHOWN).await?;
            groups.push(Group { title, count, accounts: planned.iter().map(shown).collect() });
        }
    }
    let slug = &inside.access.slug;
    Ok(Preview {
        console: Console::new(inside, mail_account_manager::LABEL),
        list: list(slug).build(),
        choose: format!("/{slug}/web-mail-cloud/mail-account-manager/import"),
        is_different,
        groups,
        more_gateways: import.new_gateways.len().saturating_sub(NAMED_GATEWAYS),
        new_gateways: import.new_gateways.iter().take(NAMED_GATEWAYS).cloned().collect(),
        removals: TextField {
            id: "removals",
            label: "How many accounts are removed",
            hint: "These are more than one in twenty. If they are meant, type how many they are.",
            lines: 1,
            direction: "ltr",
            ..TextField::default()
        },
        import,
    })
}

/// The labels of an item's fields, in the order in which they are shown.
const LABELS: [(&str, &str); 5] = [
    ("name", "Name"),
    ("addresses", "Addresses"),
    ("status", "Status"),
    ("outbound_gateway", "Outbound Gateway"),
    ("external_id", "External ID"),
];

fn shown(planned: &PlannedChange) -> Planned {
    let field = |item: &Option<Value>, name: &str| item.as_ref().and_then(|item| item.get(name)).map(in_words);
    let differences = LABELS.into_iter().filter_map(|(name, label)| {
        let (before, after) = (field(&planned.before, name), field(&planned.after, name));
        // Of an account that comes or goes, only what there is.
        let is_told = match (&before, &after) {
            (Some(_), Some(_)) => true,
            (Some(one), None) | (None, Some(one)) => {
                one != NONE && *one != planned.user_id && !(name == "status" && one == "active")
            }
            (None, None) => false,
        };
        is_told.then_some(Difference { label, before, after })
    });
    let user_id =
        planned.user_id.parse().map_or_else(|_| planned.user_id.clone(), |mailbox| wording::user_id(&mailbox));
    Planned { user_id, differences: differences.collect() }
}

const NONE: &str = "none";

fn in_words(value: &Value) -> String {
    match value {
        Value::String(text) if text.is_empty() => NONE.to_owned(),
        Value::String(text) => text.clone(),
        Value::Array(addresses) => addresses.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
        _ => NONE.to_owned(),
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ApplyForm {
    /// The counts that the form was shown with.
    added: i64,
    changed: i64,
    removed: i64,
    /// How many removals are meant, where it was asked.
    removals: Option<String>,
}

async fn apply(
    State(app): State<App>,
    inside: InOrganization,
    Named(id): Named<ImportId>,
    Form(form): Form<ApplyForm>,
) -> Result<Response, PageError> {
    let mut transaction = app.store.begin(&inside.access).await?;
    let import = account_import::staged(&mut transaction, inside.access.organization(), id).await?;
    let import = import.ok_or(PageError::NotFound)?;
    may_import(&inside)?;
    if let Some(change) = import.change {
        return Ok(see_other(&after(&inside.access.slug, change).build()));
    }
    if import.findings.mistake_count > 0 {
        return Ok(see_other(&preview_link(&inside.access.slug, id).build()));
    }
    let removals = form.removals.as_deref().map(|typed| typed.trim().replace(',', ""));
    let meant = removals.as_deref().and_then(|typed| typed.parse::<i64>().ok());
    if import.removes_many() && meant != Some(import.counts.removed) {
        let mut look = look(&mut transaction, &inside, import, false).await?;
        let count = wording::number(look.import.counts.removed);
        let mistake = format!("Type {count} if these accounts are to be removed. Otherwise choose another file.");
        look.removals.again(form.removals.unwrap_or_default(), mistake);
        return Ok((StatusCode::UNPROCESSABLE_ENTITY, page(&look)?).into_response());
    }
    drop(transaction);
    let shown = Counts { added: form.added, changed: form.changed, removed: form.removed };
    let consent = Consent { shown: Some(shown), removals: meant };
    let (doing, access, rows) = (app.clone(), inside.access.clone(), import.findings.rows);
    let title = "Importing accounts".to_owned();
    job::run(&app, &inside.access, (title, About::Accounts), rows, move |progress| async move {
        let report = move |step: i64| progress.set(rows * step / STEPS);
        import_staged(&doing, &access, id, consent, report).await
    })
    .await
}

/// As many as an import reports.
const STEPS: i64 = 7;

async fn import_staged(
    app: &App,
    access: &Access,
    id: ImportId,
    consent: Consent,
    report: impl Fn(i64),
) -> Result<Link, Failed> {
    let transaction = app.store.begin(access).await?;
    match account_import::apply(transaction, id, consent, &access.email, report).await? {
        Applied::Done(_, committed) => {
            verification::begin_after(app, access, committed.id).await;
            status::wait_until_live(app, access, committed.revision).await;
            Ok(after(&access.slug, committed.id))
        }
        Applied::Before(change) => Ok(after(&access.slug, change)),
        Applied::Unchanged(_) => Ok(list(&access.slug)),
        Applied::Different(_) | Applied::TooManyRemovals(_) => {
            Ok(preview_link(&access.slug, id).with("different", "1"))
        }
        Applied::NotFound => Err(Failed::Because("The file is not there any more. Choose it once more.".to_owned())),
    }
}

/// In bytes: what of an export is in memory at a time.
const PIECE: usize = 64 * 1024;

/// Spreadsheets take a file for UTF-8 if it begins with this.
const UTF_8_MARK: &[u8] = b"\xef\xbb\xbf";

async fn export(State(app): State<App>, inside: InOrganization) -> Result<Response, PageError> {
    let transaction = app.store.begin(&inside.access).await?;
    // Spooled first: a slow browser holds no connection to the store, and a file that ends early looks like a whole one.
    let (file, size) = spooled(transaction).await?;
    let pieces = stream::try_unfold(file, |mut file| async move {
        let mut piece = vec![0; PIECE];
        let read = file.read(&mut piece).await?;
        piece.truncate(read);
        Ok::<_, std::io::Error>((read > 0).then(|| (Bytes::from(piece), file)))
    });
    let name = format!("attachment; filename=\"accounts-{}.csv\"", inside.access.slug);
    let headers = [
        (header::CONTENT_TYPE, HeaderValue::from_static("text/csv; charset=utf-8")),
        (header::CONTENT_DISPOSITION, HeaderValue::from_str(&name).map_err(anyhow::Error::from)?),
        (header::CONTENT_LENGTH, HeaderValue::from(size)),
    ];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

async fn spooled(mut transaction: OrganizationTransaction) -> Result<(tokio::fs::File, u64), PageError> {
    let organization = transaction.organization();
    let mut file = tokio::fs::File::from_std(tempfile::tempfile().map_err(anyhow::Error::from)?);
    let mut piece = Vec::with_capacity(PIECE);
    piece.extend_from_slice(UTF_8_MARK);
    write_record(&mut piece, COLUMNS)?;
    let mut accounts = std::pin::pin!(store::account_file::export(&mut transaction, organization));
    while let Some(account) = accounts.try_next().await? {
        write_record(&mut piece, account.cells())?;
        if piece.len() > PIECE - 4096 {
            file.write_all(&piece).await.map_err(anyhow::Error::from)?;
            piece.clear();
        }
    }
    file.write_all(&piece).await.map_err(anyhow::Error::from)?;
    file.flush().await.map_err(anyhow::Error::from)?;
    let size = file.stream_position().await.map_err(anyhow::Error::from)?;
    file.rewind().await.map_err(anyhow::Error::from)?;
    Ok((file, size))
}

fn write_record(piece: &mut Vec<u8>, cells: impl IntoIterator<Item = impl AsRef<[u8]>>) -> Result<(), PageError> {
    let mut writer = csv::Writer::from_writer(piece);
    writer.write_record(cells).and_then(|()| Ok(writer.flush()?)).map_err(anyhow::Error::from)?;
    Ok(())
}
