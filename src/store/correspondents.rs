//! To whom accounts have written of late: added by relays, read by them and by pages. What it means is
//! `policy::correspondents`'s, when it is written `relay::correspondents`'s.

use sqlx::{Connection, PgConnection, PgExecutor};
use time::{Date, Duration, OffsetDateTime, macros::date};
use uuid::Uuid;

use super::Result;
use crate::{
    mail::id::{AccountId, OrganizationId},
    policy::{
        correspondents::{Correspondents, KEPT, Written},
        usual::HISTORY,
    },
};

/// An account, and to whom it has written since that was written down.
pub type New = ((OrganizationId, AccountId), Vec<Written>);

/// To whom an account has written, and from when on that is known: for two weeks, of the account and of its
/// organization.
pub type Known = (Correspondents, OffsetDateTime);

/// Adds to whom these have written, and says to whom they have altogether, by all relays; in their order. The same may be
/// added twice. Of most nothing new is said, and nothing is written.
pub async fn add_across_tenants(db: &mut PgConnection, new: &[New], now: OffsetDateTime) -> Result<Vec<Known>> {
    let mut all = known(&mut *db, new).await?;
    let mut changed = Vec::new();
    for ((correspondents, _), (account, written)) in all.iter_mut().zip(new) {
        correspondents.forget(now);
        if correspondents.write(written.iter().copied()) {
            changed.push((*account, written.clone()));
        }
    }
    if changed.is_empty() {
        return Ok(all);
    }
    // In the order of the keys, so that relays wait for one another and never both.
    changed.sort_by_key(|(account, _)| *account);
    let written = write(db, &changed, now).await?;
    for ((correspondents, _), (account, _)) in all.iter_mut().zip(new) {
        if let Ok(place) = changed.binary_search_by_key(account, |(account, _)| *account) {
            correspondents.clone_from(&written[place]);
        }
    }
    Ok(all)
}

fn columns(accounts: &[New]) -> (Vec<Uuid>, Vec<Uuid>) {
    accounts.iter().map(|((organization, account), _)| (organization.0, account.0)).unzip()
}

fn decoded(known: Option<&[u8]>) -> Result<Correspondents> {
    Correspondents::from_bytes(known.unwrap_or_default()).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// To whom these have written, and from when on that is known, in their order.
pub(super) async fn known(db: &mut PgConnection, accounts: &[New]) -> Result<Vec<Known>> {
    let (organizations, ids) = columns(accounts);
    let rows = sqlx::query!(
        r#"
        select asked.position as "position!", found.known as "known?",
               greatest(organization.correspondents_known_from, account.created_at + $3) as "known_from!"
        from unnest($1::uuid[], $2::uuid[]) with ordinality as asked (organization_id, account_id, position)
        join organization on organization.id = asked.organization_id
        left join correspondents found
            on found.organization_id = asked.organization_id and found.account_id = asked.account_id
        left join mail_account account
            on account.organization_id = asked.organization_id and account.id = asked.account_id
        "#,
        &organizations,
        &ids,
        sqlx::postgres::types::PgInterval { months: 0, days: HISTORY.whole_days() as i32, microseconds: 0 },
    );
    // Of an organization that is gone nothing is known.
    let mut known = vec![(Correspondents::default(), OffsetDateTime::UNIX_EPOCH); accounts.len()];
    for row in rows.fetch_all(db).await? {
        if let Some(place) = usize::try_from(row.position - 1).ok().and_then(|place| known.get_mut(place)) {
            *place = (decoded(row.known.as_deref())?, row.known_from);
        }
    }
    Ok(known)
}

/// Adds to what stands there now, which another relay may have added to; forgets what is too old of them.
async fn write(db: &mut PgConnection, changed: &[New], now: OffsetDateTime) -> Result<Vec<Correspondents>> {
    let (organizations, ids) = columns(changed);
    let mut transaction = db.begin().await?;
    sqlx::query!(
        r#"
        insert into correspondents (organization_id, account_id)
        select asked.organization_id, asked.account_id
        from unnest($1::uuid[], $2::uuid[]) as asked (organization_id, account_id)
        join organization on organization.id = asked.organization_id
        order by 1, 2
        on conflict do nothing
        "#,
        &organizations,
        &ids,
    )
    .execute(&mut *transaction)
    .await?;
    let rows = sqlx::query!(
        r#"
        select organization_id as "organization: OrganizationId", account_id as "account: AccountId", known
        from correspondents
        where (organization_id, account_id) in (select * from unnest($1::uuid[], $2::uuid[]))
        order by organization_id, account_id for update
        "#,
        &organizations,
        &ids,
    );
    let mut known = vec![Correspondents::default(); changed.len()];
    for row in rows.fetch_all(&mut *transaction).await? {
        let account = (row.organization, row.account);
        if let Ok(place) = changed.binary_search_by_key(&account, |(account, _)| *account) {
            known[place] = decoded(Some(&row.known))?;
        }
    }
    for (known, (_, written)) in known.iter_mut().zip(changed) {
        known.forget(now);
        known.write(written.iter().copied());
    }
    let bytes: Vec<Vec<u8>> = known.iter().map(Correspondents::to_bytes).collect();
    let days: Vec<Date> = known.iter().map(|known| day(known.last_day())).collect();
    sqlx::query!(
        r#"
        update correspondents set known = new.known, written_on = new.written_on
        from unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::date[]) as new (organization_id, account_id, known, written_on)
        where correspondents.organization_id = new.organization_id and correspondents.account_id = new.account_id
        "#,
        &organizations,
        &ids,
        &bytes,
        &days,
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await?;
    Ok(known)
}

/// So many days after the first of 1970.
fn day(days: i32) -> Date {
    date!(1970 - 01 - 01).saturating_add(Duration::days(days.into()))
}

/// To whom an account has written, and from when on that is known.
pub async fn of_account(db: &mut PgConnection, organization: OrganizationId, account: AccountId) -> Result<Known> {
    let found = known(db, &[((organization, account), Vec::new())]).await?;
    Ok(found.into_iter().next().unwrap_or((Correspondents::default(), OffsetDateTime::UNIX_EPOCH)))
}

/// How many accounts of one organization go in one statement.
const FORGOTTEN_AT_ONCE: i64 = 1000;

/// Forgets accounts that have written to nobody for so long that nobody is known of them any more, some at a time:
/// returns whether more may be left. What another relay is just forgetting is passed over.
pub async fn forget_across_tenants(db: impl PgExecutor<'_>, now: OffsetDateTime) -> Result<bool> {
    // That somebody was written to again may be noted a week late.
    let before = (now - KEPT - Duration::WEEK).date();
    let forgotten = sqlx::query!(
        r#"
        with old as (
            select oldest.* from organization cross join lateral (
                select organization_id, account_id from correspondents
                where organization_id = organization.id and written_on < $1
                order by written_on limit $2 for update skip locked
            ) as oldest
        )
        delete from correspondents using old
        where correspondents.organization_id = old.organization_id and correspondents.account_id = old.account_id
        "#,
        before,
        FORGOTTEN_AT_ONCE,
    );
    forgotten.execute(db).await.map(|forgotten| forgotten.rows_affected() >= FORGOTTEN_AT_ONCE.unsigned_abs())
}
