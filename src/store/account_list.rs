//! Pages of an organization's mail accounts: all of them, or what a search finds.
//! One account at a time is `account`'s.

use sqlx::PgConnection;

use super::{
    Result,
    account::{ListedAccount, with_gateways},
};
use crate::mail::{
    DomainName,
    id::{AccountId, OrganizationId},
};

/// How many accounts are on one page of the list.
pub const PAGE_SIZE: usize = 50;

/// Where a page of the list begins: by User ID, so that accounts which come or go meanwhile
/// neither repeat a row nor skip one.
#[derive(Debug, Clone, Copy, Default)]
pub enum Position<'a> {
    #[default]
    First,
    /// The rows that follow this User ID.
    After(&'a str),
    /// The rows that come before this User ID.
    Before(&'a str),
}

/// One page of the list.
#[derive(Debug, Clone)]
pub struct AccountPage {
    pub accounts: Vec<ListedAccount>,
    /// How many accounts the search finds, on all pages.
    pub total: i64,
    /// How many of them come before this page; 0 if the page is empty.
    pub preceding: i64,
}

impl AccountPage {
    /// Whether a page follows.
    pub fn has_next(&self) -> bool {
        self.preceding + (self.accounts.len() as i64) < self.total
    }
}

/// One page of the organization's accounts in the order of their User IDs. With a search, those
/// whose User ID, name or further address contains it, whatever the letter case.
pub async fn page(
    db: &mut PgConnection,
    organization: OrganizationId,
    search: Option<&str>,
    position: Position<'_>,
) -> Result<AccountPage> {
    let search = search.map(Search::new);
    let on_page = match position {
        Position::First => following(db, organization, search.as_ref(), "").await?,
        Position::After(user_id) => following(db, organization, search.as_ref(), user_id).await?,
        Position::Before(user_id) => {
            let on_page = preceding(db, organization, search.as_ref(), user_id).await?;
            // So close to the beginning, the first page is meant.
            if on_page.len() < PAGE_SIZE { following(db, organization, search.as_ref(), "").await? } else { on_page }
        }
    };
    let accounts = with_gateways(db, organization, &on_page).await?;
    let first = accounts.first().map(|account| account.user_id.to_string());
    let (total, preceding) = count(db, organization, search.as_ref(), first.as_deref()).await?;
    Ok(AccountPage { accounts, total, preceding })
}

/// What was typed into the search field, in the form in which the store has it.
struct Search {
    /// Part of a name, as it was typed: PostgreSQL makes one lower case of it and of the names.
    name: String,
    /// Part of an address, in lower case and with its domain in ASCII.
    address: String,
}

impl Search {
    fn new(typed: &str) -> Self {
        let lower = typed.to_lowercase();
        let address = match lower.rsplit_once('@') {
            Some((local_part, domain)) => format!("{local_part}@{}", in_ascii(domain)),
            None => in_ascii(&lower),
        };
        Self { name: typed.to_owned(), address }
    }
}

/// A whole domain name in other scripts as the store has it; anything else as it is.
fn in_ascii(typed: &str) -> String {
    match typed.parse::<DomainName>() {
        Ok(domain) if !typed.is_ascii() => domain.to_string(),
        _ => typed.to_owned(),
    }
}

// `strpos` takes what was typed as it is: no character in it is a wildcard. Under row level security
// an index on parts of words would not be used; one organization's addresses are read instead.

/// The accounts with the next User IDs behind this one.
async fn following(
    db: &mut PgConnection,
    organization: OrganizationId,
    search: Option<&Search>,
    user_id: &str,
) -> Result<Vec<AccountId>> {
    sqlx::query_scalar!(
        r#"
        select id as "id: AccountId" from mail_account
        where organization_id = $1
          and user_id > $2
          and ($3::text is null
               or strpos(lower(name), lower($3)) > 0
               or id in (select account_id from mail_address where organization_id = $1 and strpos(address, $4) > 0))
        order by user_id
        limit $5
        "#,
        organization as OrganizationId,
        user_id,
        search.map(|search| search.name.as_str()),
        search.map(|search| search.address.as_str()),
        PAGE_SIZE as i64,
    )
    .fetch_all(db)
    .await
}

/// The accounts with the last User IDs before this one.
async fn preceding(
    db: &mut PgConnection,
    organization: OrganizationId,
    search: Option<&Search>,
    user_id: &str,
) -> Result<Vec<AccountId>> {
    sqlx::query_scalar!(
        r#"
        select id as "id: AccountId" from mail_account
        where organization_id = $1
          and user_id < $2
          and ($3::text is null
               or strpos(lower(name), lower($3)) > 0
               or id in (select account_id from mail_address where organization_id = $1 and strpos(address, $4) > 0))
        order by user_id desc
        limit $5
        "#,
        organization as OrganizationId,
        user_id,
        search.map(|search| search.name.as_str()),
        search.map(|search| search.address.as_str()),
        PAGE_SIZE as i64,
    )
    .fetch_all(db)
    .await
}

/// How many accounts the search finds, and how many of them come before `first`.
async fn count(
    db: &mut PgConnection,
    organization: OrganizationId,
    search: Option<&Search>,
    first: Option<&str>,
) -> Result<(i64, i64)> {
    let counted = sqlx::query!(
        r#"
        select count(*) as "total!", count(*) filter (where user_id < $2) as "preceding!"
        from mail_account
        where organization_id = $1
          and ($3::text is null
               or strpos(lower(name), lower($3)) > 0
               or id in (select account_id from mail_address where organization_id = $1 and strpos(address, $4) > 0))
        "#,
        organization as OrganizationId,
        first,
        search.map(|search| search.name.as_str()),
        search.map(|search| search.address.as_str()),
    )
    .fetch_one(db)
    .await?;
    Ok((counted.total, counted.preceding))
}
