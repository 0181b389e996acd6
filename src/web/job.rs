//! Work that takes longer than a page: done behind it, with a page that shows how far it is.
//! Short work leads straight to its result. Used by whatever changes many accounts or messages at once.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use askama::Template;
use axum::{extract::State, response::Response};

use super::{
    App, Route,
    console::Console,
    error::{PageError, see_other},
    link::Link,
    mail_account_manager,
    named::Named,
    outbound_queue, page,
    session::InOrganization,
    wording,
};
use crate::{
    mail::id::JobId,
    store::{
        self,
        job::{self, About},
        tenant::Access,
    },
};

const PATH: &str = "/{organization}/web-mail-cloud/progress/{job}";

pub fn routes() -> Vec<Route> {
    vec![Route::get(PATH, show)]
}

/// How long a browser waits for the result itself before it is shown the progress.
const PATIENCE: Duration = Duration::from_secs(2);

/// How often the progress is written down.
const REPORT: Duration = Duration::from_millis(500);

/// How far the work is, as the work says it.
#[derive(Debug, Clone, Default)]
pub struct Progress(Arc<AtomicI64>);

impl Progress {
    /// So many of the total are done.
    pub fn set(&self, done: i64) {
        self.0.store(done, Ordering::Relaxed);
    }

    fn get(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Why work did not come to its end.
#[derive(Debug)]
pub enum Failed {
    /// In words for who asked for it.
    Because(String),
    Page(PageError),
}

impl<E: Into<PageError>> From<E> for Failed {
    fn from(error: E) -> Self {
        Self::Page(error.into())
    }
}

/// Does some work to the end, whether or not the browser waits for it, and leads to where it says, or to
/// the page that shows how far it is. Work on accounts must be one transaction, so that nothing is ever half done.
pub async fn run<F>(
    app: &App,
    access: &Access,
    (title, about): (String, About),
    total: i64,
    work: impl FnOnce(Progress) -> F,
) -> Result<Response, PageError>
where
    F: Future<Output = Result<Link, Failed>> + Send + 'static,
{
    let id = JobId::new();
    let organization = access.organization();
    let mut transaction = app.store.begin(access).await?;
    job::start(&mut transaction, organization, id, (&title, about), total, &access.email).await?;
    transaction.commit().await?;
    let progress = Progress::default();
    let doing = tokio::spawn(work(progress.clone()));
    let reporting = tokio::spawn(report(app.clone(), access.clone(), id, progress, doing));
    // Dropped, a task goes on.
    if let Ok(Ok(Some(next))) = tokio::time::timeout(PATIENCE, reporting).await {
        return Ok(see_other(&next));
    }
    Ok(see_other(&here(&access.slug, id)))
}

fn here(slug: &str, id: JobId) -> String {
    format!("/{slug}/web-mail-cloud/progress/{id}")
}

/// Writes the progress down until the work has ended, then its end. Returns where to go if it is done.
async fn report(
    app: App,
    access: Access,
    id: JobId,
    progress: Progress,
    mut doing: tokio::task::JoinHandle<Result<Link, Failed>>,
) -> Option<String> {
    let ended = loop {
        match tokio::time::timeout(REPORT, &mut doing).await {
            Ok(ended) => break ended,
            Err(_) => {
                let written = write(&app, &access, Written::Progress(progress.get()), id).await;
                written.unwrap_or_else(|error| tracing::warn!(%error, "progress could not be written down"));
            }
        }
    };
    let (next, written) = match ended {
        Ok(Ok(next)) => {
            let next = next.build();
            (Some(next.clone()), Written::Done(next))
        }
        Ok(Err(Failed::Because(why))) => (None, Written::Failed(why)),
        Ok(Err(Failed::Page(error))) => {
            tracing::error!(%error, "work failed");
            (
                None,
                Written::Failed(
                    "This is our fault, and it was noted. Try again; if it stays, tell the operator.".to_owned(),
                ),
            )
        }
        Err(error) => {
            tracing::error!(%error, "work was cut off");
            (
                None,
                Written::Failed(
                    "This is our fault, and it was noted. Try again; if it stays, tell the operator.".to_owned(),
                ),
            )
        }
    };
    if let Err(error) = write(&app, &access, written, id).await {
        tracing::error!(%error, "the end of some work could not be written down");
    }
    next
}

enum Written {
    Progress(i64),
    Done(String),
    Failed(String),
}

async fn write(app: &App, access: &Access, written: Written, id: JobId) -> store::Result<()> {
    let mut transaction = app.store.begin(access).await?;
    let organization = access.organization();
    match written {
        Written::Progress(done) => job::progress(&mut transaction, organization, id, done).await?,
        Written::Done(next) => job::finish(&mut transaction, organization, id, &next).await?,
        Written::Failed(why) => job::fail(&mut transaction, organization, id, &why).await?,
    }
    transaction.commit().await
}

#[derive(Template)]
#[template(path = "job.html")]
struct JobPage {
    console: Console,
    job: job::Job,
    /// The list that it was asked for on: its name, and where it is.
    list: (&'static str, String),
}

impl JobPage {
    fn is_running(&self) -> bool {
        self.job.state == job::State::Running
    }

    /// Whether a part of it may be done.
    fn is_in_pieces(&self) -> bool {
        self.job.about == About::Queue
    }
}

async fn show(State(app): State<App>, inside: InOrganization, Named(id): Named<JobId>) -> Result<Response, PageError> {
    let mut transaction = app.store.begin(&inside.access).await?;
    let job = job::by_id(&mut transaction, inside.access.organization(), id).await?.ok_or(PageError::NotFound)?;
    drop(transaction);
    if job.state == job::State::Done {
        return Ok(see_other(&job.next));
    }
    let (label, segment) = match job.about {
        About::Accounts => (mail_account_manager::LABEL, "mail-account-manager"),
        About::Queue => (outbound_queue::LABEL, "outbound-queue"),
    };
    let list = (label, format!("/{}/web-mail-cloud/{segment}", inside.access.slug));
    page(&JobPage { console: Console::new(&inside, label), job, list })
}
