//! Work that takes longer than a page, as the page that waits for it sees it.
//! Written by `web::job`, outside the transaction that does the work.

use sqlx::PgConnection;

use super::Result;
use crate::mail::id::{JobId, OrganizationId};

/// How far some work is.
#[derive(Debug, Clone)]
pub struct Job {
    pub id: JobId,
    /// What it does, in words.
    pub title: String,
    pub about: About,
    pub done: i64,
    pub total: i64,
    pub state: State,
    /// Where to go when it is done: a path of the pages.
    pub next: String,
    /// What went wrong, in words.
    pub failure: String,
}

/// What some work is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum About {
    /// All of it happens at once, at its end.
    Accounts,
    /// Done piece by piece: what is done stays done.
    Queue,
}

/// Whether there is something to wait for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    Running,
    /// Nothing was heard of it for 30 seconds: its process is gone, and with it everything that it had begun.
    Interrupted,
    Done,
    Failed,
}

/// Work that begins now. That of former days is forgotten.
pub async fn start(
    db: &mut PgConnection,
    organization: OrganizationId,
    id: JobId,
    (title, about): (&str, About),
    total: i64,
    by: &str,
) -> Result<()> {
    sqlx::query!(
        "delete from job where organization_id = $1 and started_at < now() - interval '1 day'",
        organization as OrganizationId,
    )
    .execute(&mut *db)
    .await?;
    sqlx::query!(
        "insert into job (organization_id, id, title, started_by, total, about) values ($1, $2, $3, $4, $5, $6)",
        organization as OrganizationId,
        id as JobId,
        title,
        by,
        total,
        match about {
            About::Accounts => "accounts",
            About::Queue => "queue",
        },
    )
    .execute(db)
    .await
    .map(drop)
}

/// How far it is. Also says that it goes on.
pub async fn progress(db: &mut PgConnection, organization: OrganizationId, id: JobId, done: i64) -> Result<()> {
    sqlx::query!(
        "update job set done = $3, seen_at = clock_timestamp() where organization_id = $1 and id = $2",
        organization as OrganizationId,
        id as JobId,
        done,
    )
    .execute(db)
    .await
    .map(drop)
}

/// It is done, and `next` shows what came of it.
pub async fn finish(db: &mut PgConnection, organization: OrganizationId, id: JobId, next: &str) -> Result<()> {
    sqlx::query!(
        "update job set state = 'done', done = total, next = $3 where organization_id = $1 and id = $2",
        organization as OrganizationId,
        id as JobId,
        next,
    )
    .execute(db)
    .await
    .map(drop)
}

/// It ended before its end, and why.
pub async fn fail(db: &mut PgConnection, organization: OrganizationId, id: JobId, failure: &str) -> Result<()> {
    sqlx::query!(
        "update job set state = 'failed', failure = $3 where organization_id = $1 and id = $2",
        organization as OrganizationId,
        id as JobId,
        failure,
    )
    .execute(db)
    .await
    .map(drop)
}

/// One job of the organization; another tenant's is simply not found.
pub async fn by_id(db: &mut PgConnection, organization: OrganizationId, id: JobId) -> Result<Option<Job>> {
    let row = sqlx::query!(
        r#"
        select title, about, done, total, state, next, failure,
               state = 'running' and seen_at < now() - interval '30 seconds' as "interrupted!"
        from job where organization_id = $1 and id = $2
        "#,
        organization as OrganizationId,
        id as JobId,
    )
    .fetch_optional(db)
    .await?;
    Ok(row.map(|row| Job {
        id,
        title: row.title,
        about: if row.about == "queue" { About::Queue } else { About::Accounts },
        done: row.done,
        total: row.total,
        state: match row.state.as_str() {
            "done" => State::Done,
            "failed" => State::Failed,
            _ if row.interrupted => State::Interrupted,
            _ => State::Running,
        },
        next: row.next,
        failure: row.failure,
    }))
}
