//! What is done to chunks after they were written: small ones are put together, details are left out when their time
//! is over, and the rest is forgotten in the end. By any relay, and by several at once.

use sqlx::PgPool;
use time::{Duration, OffsetDateTime};
use uuid::Uuid;

use super::{
    SLACK, SPAN,
    chunk::{self, Chunk, Gathering},
    first_id,
};
use crate::{
    mail::id::{OrganizationId, RelayId},
    policy::volume,
    store::Result,
};

/// How many of one organization and hour are put together at once.
const AT_ONCE: i64 = 500;
/// As long as their hour is not over, fewer are not worth it.
const WORTH_IT: usize = 8;
/// How far back it is looked for small chunks.
const LOOKED_BACK: Duration = Duration::hours(26);
/// How many chunks are deleted or rewritten in one statement.
const DELETED: i64 = 1000;
const REWRITTEN: i64 = 20;

/// Puts the small chunks of the last hours together, organization by organization. Returns how many there are fewer.
pub async fn put_together_across_tenants(pool: &PgPool, now: OffsetDateTime) -> Result<usize> {
    let (from, below) = (first_id(now - LOOKED_BACK), first_id(now - SLACK));
    let organizations = sqlx::query_scalar!(
        r#"
        select id as "id: OrganizationId" from organization
        where exists (
            select from message_trace
            where organization_id = organization.id and lines < 250 and id >= $1 and id < $2
            offset 1
        )
        "#,
        from,
        below,
    );
    let mut fewer = 0;
    for organization in organizations.fetch_all(pool).await? {
        let mut next = Some(from);
        while let Some(from) = next {
            let (put_together, on) = put_hour_together(pool, organization, (from, below), now).await?;
            fewer += put_together;
            next = on;
        }
    }
    Ok(fewer)
}

/// The same for the first hour that has small chunks. Also returns where the next one begins.
async fn put_hour_together(
    pool: &PgPool,
    organization: OrganizationId,
    (from, below): (Uuid, Uuid),
    now: OffsetDateTime,
) -> Result<(usize, Option<Uuid>)> {
    let mut transaction = pool.begin().await?;
    let rows = sqlx::query!(
        r#"
        select id, relay_id as "relay_id: RelayId", lines, content from message_trace
        where organization_id = $1 and lines < 250 and not without_details and id >= $2 and id < $3
        order by id
        limit $4
        for update skip locked
        "#,
        organization as OrganizationId,
        from,
        below,
        AT_ONCE,
    );
    let rows = rows.fetch_all(&mut *transaction).await?;
    let Some(hour) = rows.first().map(|row| hour_of(row.id)) else { return Ok((0, None)) };
    let next = first_id(hour + SPAN);
    let rows: Vec<_> = rows.into_iter().take_while(|row| row.id < next).collect();
    let is_over = hour + SPAN + SLACK < now;
    if rows.len() < if is_over { 2 } else { WORTH_IT } {
        // At once: who is dropped lets rows go a moment later, and the next hour's are among them.
        transaction.rollback().await?;
        return Ok((0, Some(next)));
    }
    let (mut replaced, mut made) = (Vec::new(), Vec::new());
    let (mut lines, mut last) = (Gathering::default(), None);
    for row in &rows {
        // What a later version wrote is left as it is.
        let Some(read) = chunk::whole(&row.content, row.lines) else { continue };
        for (line, event) in &read {
            lines.add_line(line, event);
        }
        replaced.push(row.id);
        last = Some((row.relay_id, row.id));
        if lines.is_full()
            && let Some((relay, id)) = last.take()
        {
            made.extend(lines.close(organization, relay, id));
        }
    }
    if let Some((relay, id)) = last {
        made.extend(lines.close(organization, relay, id));
    }
    let fewer = replaced.len().saturating_sub(made.len());
    if fewer > 0 {
        replace(&mut transaction, organization, &replaced, &made).await?;
        transaction.commit().await?;
    } else {
        transaction.rollback().await?;
    }
    // Where there were more than could be taken at once, the rest of the hour is the next.
    let has_more = fewer > 0 && rows.len() as i64 == AT_ONCE;
    Ok((fewer, Some(if has_more { rows.last().map_or(next, |row| row.id) } else { next })))
}

async fn replace(
    db: &mut sqlx::PgConnection,
    organization: OrganizationId,
    replaced: &[Uuid],
    made: &[Chunk],
) -> Result<()> {
    sqlx::query!(
        "delete from message_trace where organization_id = $1 and id = any($2)",
        organization as OrganizationId,
        replaced,
    )
    .execute(&mut *db)
    .await?;
    super::insert_across_tenants(db, made).await
}

fn hour_of(id: Uuid) -> OffsetDateTime {
    volume::hour_of(super::moment(id.as_u128() >> 80))
}

/// Leaves recipients, sizes and clients out of lines that are older than this. Returns how many chunks that were.
pub async fn leave_out_details_across_tenants(pool: &PgPool, before: OffsetDateTime) -> Result<usize> {
    let mut done = 0;
    loop {
        let mut transaction = pool.begin().await?;
        let rows = sqlx::query!(
            r#"
            select organization_id as "organization: OrganizationId", id, relay_id as "relay: RelayId", content
            from message_trace
            where last_at < $1 and not without_details
            order by last_at
            limit $2
            for update skip locked
            "#,
            before,
            REWRITTEN,
        );
        let rows = rows.fetch_all(&mut *transaction).await?;
        let count = rows.len();
        for row in rows {
            let mut lines = Gathering::default();
            for event in chunk::lines(&row.content, |_| true) {
                lines.add(&event.without_details());
            }
            let (keys, content, count) = match lines.close(row.organization, row.relay, row.id) {
                Some(chunk) => (chunk.keys, chunk.content, chunk.lines),
                None => (vec![0], Vec::new(), 1),
            };
            sqlx::query!(
                r#"
                update message_trace set keys = $3, content = $4, lines = $5, without_details = true
                where organization_id = $1 and id = $2
                "#,
                row.organization as OrganizationId,
                row.id,
                keys,
                content,
                count,
            )
            .execute(&mut *transaction)
            .await?;
        }
        transaction.commit().await?;
        done += count;
        if (count as i64) < REWRITTEN {
            return Ok(done);
        }
    }
}

/// Forgets what is older than this. Returns how many chunks that were.
pub async fn forget_across_tenants(pool: &PgPool, before: OffsetDateTime) -> Result<u64> {
    sqlx::query!("delete from trace_gap where last_at < $1", before).execute(pool).await?;
    let mut done = 0;
    loop {
        let deleted = sqlx::query!(
            r#"
            delete from message_trace where (organization_id, id) in (
                select organization_id, id from message_trace
                where last_at < $1
                order by last_at
                limit $2
                for update skip locked
            )
            "#,
            before,
            DELETED,
        );
        let deleted = deleted.execute(pool).await?.rows_affected();
        done += deleted;
        if deleted < DELETED.unsigned_abs() {
            return Ok(done);
        }
    }
}
