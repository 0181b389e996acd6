//! To whom accounts have written of late: added by relays, read by them and by pages. What it means is
//! `policy::correspondents`'s, when it is written `relay::correspondents`'s.

use std::collections::HashSet;

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
    let (mut all, from): (Vec<_>, Vec<_>) = noted_from(&mut *db, new).await?.into_iter().unzip();
    add(db, new, &mut all, now).await?;
    Ok(all.into_iter().map(Option::unwrap_or_default).zip(from).collect())
}

/// The same where nobody asks to whom they have written altogether.
pub async fn note_across_tenants(db: &mut PgConnection, new: &[New], now: OffsetDateTime) -> Result<()> {
    let mut all = noted(&mut *db, new).await?;
    add(db, new, &mut all, now).await
}

/// Adds to what is known of these, in the store and in `all`, which is as the store had it.
async fn add(
    db: &mut PgConnection,
    new: &[New],
    all: &mut [Option<Correspondents>],
    now: OffsetDateTime,
) -> Result<()> {
    let (mut first, mut more) = (Vec::new(), Vec::new());
    for (place, (known, (_, written))) in all.iter_mut().zip(new).enumerate() {
        let changed = if known.is_some() { &mut more } else { &mut first };
        let known = known.get_or_insert_default();
        known.forget(now);
        if known.write(written.iter().copied()) {
            changed.push(place);
        }
    }
    // In the order of the keys, so that relays wait for one another and never both.
    first.sort_by_key(|place| new[*place].0);
    if !first.is_empty() {
        let inserted = insert(&mut *db, new, all, &first).await?;
        // Another relay has just written of the others.
        more.extend(first.into_iter().filter(|place| !inserted.contains(&new[*place].0)));
    }
    more.sort_by_key(|place| new[*place].0);
    if more.is_empty() {
        return Ok(());
    }
    let changed: Vec<New> = more.iter().map(|place| new[*place].clone()).collect();
    let mut forgotten = Vec::new();
    for (place, known) in more.into_iter().zip(update(db, &changed, now).await?) {
        match known {
            Some(known) => all[place] = Some(known),
            // Since it was looked at.
            None => forgotten.push(place),
        }
    }
    if !forgotten.is_empty() {
        insert(db, new, all, &forgotten).await?;
    }
    Ok(())
}

/// Writes of accounts of which nothing was known. Returns those that there was nothing of still.
async fn insert(
    db: &mut PgConnection,
    new: &[New],
    all: &[Option<Correspondents>],
    first: &[usize],
) -> Result<HashSet<(OrganizationId, AccountId)>> {
    let (organizations, ids) = columns(first.iter().map(|place| new[*place].0));
    let (bytes, days) = stored(first.iter().filter_map(|place| all[*place].as_ref()));
    let rows = sqlx::query!(
        r#"
        insert into correspondents (organization_id, account_id, known, written_on)
        select asked.organization_id, asked.account_id, asked.known, asked.written_on
        from unnest($1::uuid[], $2::uuid[], $3::bytea[], $4::date[])
             as asked (organization_id, account_id, known, written_on)
        join organization on organization.id = asked.organization_id
        order by 1, 2
        on conflict do nothing
        returning organization_id as "organization: OrganizationId", account_id as "account: AccountId"
        "#,
        &organizations,
        &ids,
        &bytes,
        &days,
    );
    rows.map(|row| (row.organization, row.account)).fetch_all(db).await.map(HashSet::from_iter)
}

/// As they stand in the store: what is known, and on which day anybody was written to last.
fn stored<'a>(known: impl Iterator<Item = &'a Correspondents>) -> (Vec<Vec<u8>>, Vec<Date>) {
    known.map(|known| (known.to_bytes(), day(known.last_day()))).unzip()
}

fn columns(accounts: impl Iterator<Item = (OrganizationId, AccountId)>) -> (Vec<Uuid>, Vec<Uuid>) {
    accounts.map(|(organization, account)| (organization.0, account.0)).unzip()
}

fn decoded(known: &[u8]) -> Result<Correspondents> {
    Correspondents::from_bytes(known).map_err(|error| sqlx::Error::Decode(error.into()))
}

/// To whom these have written, in their order.
async fn noted(db: &mut PgConnection, accounts: &[New]) -> Result<Vec<Option<Correspondents>>> {
    let (organizations, ids) = columns(accounts.iter().map(|(account, _)| *account));
    let rows = sqlx::query!(
        r#"
        select asked.position as "position!", found.known
        from unnest($1::uuid[], $2::uuid[]) with ordinality as asked (organization_id, account_id, position)
        join correspondents found
            on found.organization_id = asked.organization_id and found.account_id = asked.account_id
        "#,
        &organizations,
        &ids,
    );
    let mut known = vec![None; accounts.len()];
    for row in rows.fetch_all(db).await? {
        if let Some(place) = usize::try_from(row.position - 1).ok().and_then(|place| known.get_mut(place)) {
            *place = Some(decoded(&row.known)?);
        }
    }
    Ok(known)
}

/// To whom these have written, and from when on that is known, in their order.
pub(super) async fn known(db: &mut PgConnection, accounts: &[New]) -> Result<Vec<Known>> {
    let found = noted_from(db, accounts).await?.into_iter();
    Ok(found.map(|(known, from)| (known.unwrap_or_default(), from)).collect())
}

async fn noted_from(db: &mut PgConnection, accounts: &[New]) -> Result<Vec<(Option<Correspondents>, OffsetDateTime)>> {
    let (organizations, ids) = columns(accounts.iter().map(|(account, _)| *account));
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
    let mut known = vec![(None, OffsetDateTime::UNIX_EPOCH); accounts.len()];
    for row in rows.fetch_all(db).await? {
        if let Some(place) = usize::try_from(row.position - 1).ok().and_then(|place| known.get_mut(place)) {
            *place = (row.known.as_deref().map(decoded).transpose()?, row.known_from);
        }
    }
    Ok(known)
}

/// Adds to what stands there now, which another relay may have added to; forgets what is too old of them. `None` of whom
/// nothing stands there.
async fn update(db: &mut PgConnection, changed: &[New], now: OffsetDateTime) -> Result<Vec<Option<Correspondents>>> {
    let (organizations, ids) = columns(changed.iter().map(|(account, _)| *account));
    let mut transaction = db.begin().await?;
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
    let mut known = vec![None; changed.len()];
    for row in rows.fetch_all(&mut *transaction).await? {
        let account = (row.organization, row.account);
        if let Ok(place) = changed.binary_search_by_key(&account, |(account, _)| *account) {
            known[place] = Some(decoded(&row.known)?);
        }
    }
    for (known, (_, written)) in known.iter_mut().zip(changed) {
        if let Some(known) = known {
            known.forget(now);
            known.write(written.iter().copied());
        }
    }
    let there = changed.iter().zip(&known).filter(|(_, known)| known.is_some());
    let (organizations, ids) = columns(there.map(|((account, _), _)| *account));
    let (bytes, days) = stored(known.iter().flatten());
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
