//! Pages of an organization's mail accounts: in one of four orders, all of them or what a filter or a search finds.
//! One account at a time is `account`'s; the orders, the totals and the search are kept by the schema's triggers.

use sqlx::PgConnection;

use super::{
    Result, WebStore,
    account::ListedAccount,
    gateway_facts::{self, GatewayFacts},
    tenant::Access,
};
use crate::{
    mail::{
        DomainName, GatewayAddress, Mailbox,
        id::{AccountId, OrganizationId},
    },
    policy::routing::{HeldUntil, SenderGateways},
};

/// How many accounts are on one page of the list.
pub const PAGE_SIZE: usize = 50;

/// Comes after every User ID and every name: the last code point there is.
const END: &str = "\u{10FFFF}";

/// Which accounts are listed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Show {
    #[default]
    All,
    /// With a gateway of their own.
    Own,
    /// Whose mail is held or waits for a gateway that did not take it, or that need a gateway and have none.
    Attention,
}

/// In which order. What needs attention is always in the order of the User IDs, and so is what a search finds, but
/// for those first whose User ID begins with it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Sort {
    #[default]
    UserId,
    UserIdDescending,
    /// By name without regard to letter case; equal names by User ID.
    Name,
    NameDescending,
}

/// Where one row stands in the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place<'a> {
    pub user_id: &'a str,
    /// Only asked for in the orders by name.
    pub name: &'a str,
}

/// Where a page of the list begins: by what it is sorted by, so that accounts which come or go meanwhile
/// neither repeat a row nor skip one.
#[derive(Debug, Clone, Copy, Default)]
pub enum Position<'a> {
    #[default]
    First,
    /// The rows that follow this one.
    After(Place<'a>),
    /// The rows that come before this one.
    Before(Place<'a>),
}

/// Which part of the list is asked for.
#[derive(Debug, Clone, Copy, Default)]
pub struct Selection<'a> {
    /// Part of a User ID, name or further address, whatever the letter case.
    pub search: Option<&'a str>,
    pub show: Show,
    pub sort: Sort,
    pub position: Position<'a>,
}

/// One row of the list.
#[derive(Debug, Clone)]
pub struct Row {
    pub account: ListedAccount,
    pub trouble: Trouble,
}

/// What needs attention about one account.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Trouble {
    /// Messages that wait for a gateway which did not take them.
    pub waiting: i64,
    /// Messages whose gateway was taken away.
    pub held: i64,
    /// The organization's mail must leave through a gateway, and none applies.
    pub needs_gateway: bool,
}

/// One page of the list.
#[derive(Debug, Clone)]
pub struct AccountPage {
    pub rows: Vec<Row>,
    /// Whether a page comes before this one; not known if this one is empty.
    pub has_previous: bool,
    /// Whether a page follows.
    pub has_next: bool,
    /// How many accounts the organization has.
    pub accounts: i64,
}

impl WebStore {
    /// One page of the organization's accounts, and how the gateways do that apply to them.
    pub async fn accounts(
        &self,
        access: &Access,
        selection: &Selection<'_>,
    ) -> Result<(AccountPage, Vec<GatewayFacts>)> {
        let mut db = self.quick().acquire().await?;
        let page = page(&mut db, access.organization(), selection).await?;
        let mut gateways: Vec<GatewayAddress> = Vec::new();
        for (gateway, _) in page.rows.iter().filter_map(|row| row.account.gateways.clone().nearest()) {
            if !gateways.contains(&gateway) {
                gateways.push(gateway);
            }
        }
        let facts = match gateways.is_empty() {
            true => Vec::new(),
            false => gateway_facts::of(&mut db, access.organization(), &gateways).await?,
        };
        db.keep();
        Ok((page, facts))
    }
}

/// One page of the organization's accounts. It is looked at so often that its statements set the organization by
/// themselves: they need no transaction around them.
pub async fn page(
    db: &mut PgConnection,
    organization: OrganizationId,
    selection: &Selection<'_>,
) -> Result<AccountPage> {
    let turned = Turned::of(selection);
    let mut page = turned.read(db, organization, selection).await?;
    // So close to the beginning, the first page is meant.
    if turned.backwards && page.rows.len() < PAGE_SIZE {
        let selection = Selection { position: Position::First, ..*selection };
        page = Turned::of(&selection).read(db, organization, &selection).await?;
    }
    Ok(page)
}

/// What holds for every row.
#[derive(Clone, Copy)]
struct State {
    accounts: i64,
    /// Whether any message of the organization is held or waits for a gateway that did not take it.
    in_trouble: bool,
    /// Whether an account without a gateway of its own or its domain's needs one.
    needs_gateway: bool,
}

/// The same where there is no row to say it.
async fn state(db: &mut PgConnection, organization: OrganizationId) -> Result<State> {
    sqlx::query_as!(
        State,
        r#"
        select (select coalesce(sum(accounts), 0)::bigint from account_count where organization_id = o.id) as "accounts!",
               exists (select from queued_message
                       where organization_id = o.id and (state = 'held' or (state = 'waiting' and last_reply is not null))
                      ) as "in_trouble!",
               one.holds_without_gateway and one.outbound_gateway_id is null as "needs_gateway!"
        from in_organization($1) o (id)
        cross join lateral (select holds_without_gateway, outbound_gateway_id from organization where id = o.id offset 0) one
        "#,
        organization as OrganizationId,
    )
    .fetch_one(db)
    .await
}

/// A page as it is read: along an order, away from a row. What comes before that row is turned around afterwards.
struct Turned<'a> {
    order: Sort,
    user_id: &'a str,
    name: &'a str,
    backwards: bool,
}

impl<'a> Turned<'a> {
    fn of(selection: &Selection<'a>) -> Self {
        let sort = match (selection.search, selection.show) {
            (None, Show::All | Show::Own) => selection.sort,
            _ => Sort::UserId,
        };
        let (place, backwards) = match selection.position {
            Position::First => (None, false),
            Position::After(place) => (Some(place), false),
            Position::Before(place) => (Some(place), true),
        };
        let order = if backwards { sort.reversed() } else { sort };
        let start = if order.is_descending() { END } else { "" };
        let place = place.unwrap_or(Place { user_id: start, name: start });
        Self { order, user_id: place.user_id, name: place.name, backwards }
    }

    async fn read(
        &self,
        db: &mut PgConnection,
        organization: OrganizationId,
        selection: &Selection<'_>,
    ) -> Result<AccountPage> {
        let search = selection.search.map(Search::new);
        let read = match (selection.show, &search) {
            (Show::Attention, search) => {
                let needs_gateway = state(db, organization).await?.needs_gateway;
                self.in_need(db, organization, search.as_ref(), needs_gateway).await?
            }
            (show, Some(search)) => self.found(db, organization, search, show == Show::Own).await?,
            (Show::All, None) => self.all(db, organization).await?,
            (Show::Own, None) => self.own(db, organization).await?,
        };
        let state = match read.first() {
            Some(first) => first.state(),
            None => state(db, organization).await?,
        };
        let is_more = read.len() > PAGE_SIZE;
        // What a search finds on the other side is asked for apart, and only where there is another side.
        let is_beyond = match (&search, read.first()) {
            (Some(search), Some(first)) if !self.user_id.is_empty() && selection.show != Show::Attention => {
                self.is_found_beyond(db, organization, search, selection.show == Show::Own, first).await?
            }
            (_, first) => first.is_some_and(|first| first.is_beyond),
        };
        let mut rows: Vec<Row> =
            read.into_iter().take(PAGE_SIZE).map(|read| read.into_row(state.needs_gateway)).collect();
        let (has_previous, has_next) = if self.backwards { (is_more, is_beyond) } else { (is_beyond, is_more) };
        if self.backwards {
            rows.reverse();
        }
        if state.in_trouble {
            add_trouble(db, organization, &mut rows).await?;
        }
        Ok(AccountPage { rows, has_previous, has_next, accounts: state.accounts })
    }
}

impl Sort {
    fn is_descending(self) -> bool {
        matches!(self, Self::UserIdDescending | Self::NameDescending)
    }

    fn reversed(self) -> Self {
        match self {
            Self::UserId => Self::UserIdDescending,
            Self::UserIdDescending => Self::UserId,
            Self::Name => Self::NameDescending,
            Self::NameDescending => Self::Name,
        }
    }
}

/// A row as it is read.
struct Read {
    id: AccountId,
    user_id: Mailbox,
    name: String,
    suspended: bool,
    user_gateway: Option<GatewayAddress>,
    domain_gateway: Option<GatewayAddress>,
    organization_gateway: Option<GatewayAddress>,
    holds_without_gateway: bool,
    /// One of all users or of the domain is pending, and there is no other.
    awaits_gateway: bool,
    /// How many accounts the organization has.
    accounts: i64,
    /// Whether any of its mail is held or waits for a gateway that did not take it.
    in_trouble: bool,
    /// Whether a row stands on the other side of where the page begins.
    is_beyond: bool,
}

impl Read {
    fn state(&self) -> State {
        let needs_gateway = self.holds_without_gateway && self.organization_gateway.is_none();
        State { accounts: self.accounts, in_trouble: self.in_trouble, needs_gateway }
    }

    fn into_row(self, needs_gateway: bool) -> Row {
        let gateways = SenderGateways {
            user: self.user_gateway,
            domain: self.domain_gateway,
            organization: self.organization_gateway,
            held_until: HeldUntil::of(self.holds_without_gateway, self.awaits_gateway),
        };
        let needs_gateway = needs_gateway && !self.suspended && gateways.user.is_none() && gateways.domain.is_none();
        Row {
            account: ListedAccount {
                id: self.id,
                user_id: self.user_id,
                name: self.name,
                suspended: self.suspended,
                gateways,
            },
            trouble: Trouble { needs_gateway, ..Trouble::default() },
        }
    }
}

/// One row more than a page has, of the accounts that a query gives, with the three gateways that may apply to each.
/// `o` is the organization. It is known, and so row level security shows something, when `in_organization` has been
/// carried out: that each table is asked for `o.id` sees to it that this comes first, together with a limit or an
/// `offset 0`, without which a join could begin with the table. It would then find nothing.
macro_rules! page_of {
    ([$($accounts:tt)+], [$($beyond:tt)+], $order:tt, $($argument:expr),+ $(,)?) => {
        sqlx::query_as!(
            Read,
            "with account as materialized (
                 select o.id as organization_id, listed.* from in_organization($1) o (id)
                 cross join lateral (" + $($accounts)+ + ") listed),
             -- Of the few domains on the page, and once for all: not for each row again.
             domain as materialized (
                 select one.name, one.outbound_gateway_id is null and one.pending_gateway_id is not null as awaits,
                        (select address from gateway
                                   where organization_id = o.id and id = one.outbound_gateway_id) as address
                 from (select distinct organization_id as id, domain from account) o
                 cross join lateral (select name, outbound_gateway_id, pending_gateway_id from mail_domain
                                     where organization_id = o.id and name = o.domain offset 0) one),
             of_all as materialized (
                 select one.holds_without_gateway,
                        one.outbound_gateway_id is null and one.pending_gateway_id is not null as awaits_gateway,
                        (select address from gateway
                                               where organization_id = o.id and id = one.outbound_gateway_id) as address,
                        (select coalesce(sum(accounts), 0)::bigint from account_count where organization_id = o.id) as accounts,
                        exists (select from queued_message
                                where organization_id = o.id
                                  and (state = 'held' or (state = 'waiting' and last_reply is not null))) as in_trouble,
                        " + $($beyond)+ + " as is_beyond
                 from (select organization_id as id from account limit 1) o
                 cross join lateral (select holds_without_gateway, outbound_gateway_id, pending_gateway_id from organization
                                     where id = o.id offset 0) one)
             select account.id as \"id!: AccountId\", account.user_id as \"user_id!: Mailbox\", account.name as \"name!\",
                    account.status = 'suspended' as \"suspended!\",
                    case when account.outbound_gateway_id is not null then
                        (select address from gateway where organization_id = account.organization_id
                                                       and id = account.outbound_gateway_id)
                    end as \"user_gateway?: GatewayAddress\",
                    domain.address as \"domain_gateway?: GatewayAddress\",
                    of_all.address as \"organization_gateway?: GatewayAddress\", of_all.holds_without_gateway as \"holds_without_gateway!\",
                    of_all.awaits_gateway or of_all.holds_without_gateway and of_all.address is null and domain.awaits
                        as \"awaits_gateway!\",
                    of_all.accounts as \"accounts!\", of_all.in_trouble as \"in_trouble!\", of_all.is_beyond as \"is_beyond!\"
             from account
             cross join of_all
             join domain on domain.name = account.domain
             order by " + $order,
            $($argument),+
        )
    };
}

/// The same, of the accounts behind a row in an order.
macro_rules! page_behind {
    ([$($filter:tt)+], $behind:tt, $not_behind:tt, $order:tt, $back:tt, $($argument:expr),+ $(,)?) => {
        page_of!(
            ["select id, user_id, name, sort_name, domain, status, outbound_gateway_id from mail_account
              where organization_id = o.id and " + $($filter)+ + " and " + $behind + " order by " + $order + " limit 51"],
            ["coalesce((select true from mail_account where organization_id = o.id and " + $($filter)+ + " and " + $not_behind
              + " order by " + $back + " limit 1), false)"],
            $order,
            $($argument),+
        )
    };
}

impl Turned<'_> {
    async fn all(&self, db: &mut PgConnection, organization: OrganizationId) -> Result<Vec<Read>> {
        macro_rules! all {
            ($($of:tt)+) => { page_behind!(["true"], $($of)+).fetch_all(db).await };
        }
        let (id, name) = (self.user_id, self.name);
        match self.order {
            Sort::UserId => {
                all!("user_id > $2", "user_id <= $2", "user_id", "user_id desc", organization as OrganizationId, id)
            }
            Sort::UserIdDescending => {
                all!("user_id < $2", "user_id >= $2", "user_id desc", "user_id", organization as OrganizationId, id)
            }
            Sort::Name => all!(
                "(sort_name, user_id) > (lower($3), $2)",
                "(sort_name, user_id) <= (lower($3), $2)",
                "sort_name, user_id",
                "sort_name desc, user_id desc",
                organization as OrganizationId,
                id,
                name,
            ),
            Sort::NameDescending => all!(
                "(sort_name, user_id) < (lower($3), $2)",
                "(sort_name, user_id) >= (lower($3), $2)",
                "sort_name desc, user_id desc",
                "sort_name, user_id",
                organization as OrganizationId,
                id,
                name,
            ),
        }
    }

    async fn own(&self, db: &mut PgConnection, organization: OrganizationId) -> Result<Vec<Read>> {
        macro_rules! own {
            ($($of:tt)+) => { page_behind!(["outbound_gateway_id is not null"], $($of)+).fetch_all(db).await };
        }
        let (id, name) = (self.user_id, self.name);
        match self.order {
            Sort::UserId => {
                own!("user_id > $2", "user_id <= $2", "user_id", "user_id desc", organization as OrganizationId, id)
            }
            Sort::UserIdDescending => {
                own!("user_id < $2", "user_id >= $2", "user_id desc", "user_id", organization as OrganizationId, id)
            }
            Sort::Name => own!(
                "(sort_name, user_id) > (lower($3), $2)",
                "(sort_name, user_id) <= (lower($3), $2)",
                "sort_name, user_id",
                "sort_name desc, user_id desc",
                organization as OrganizationId,
                id,
                name,
            ),
            Sort::NameDescending => own!(
                "(sort_name, user_id) < (lower($3), $2)",
                "(sort_name, user_id) >= (lower($3), $2)",
                "sort_name desc, user_id desc",
                "sort_name, user_id",
                organization as OrganizationId,
                id,
                name,
            ),
        }
    }

    /// Those that need attention, and of these what a search finds. Whose mail is in trouble are few, and found
    /// from their mail; where accounts need a gateway, all are gone through.
    async fn in_need(
        &self,
        db: &mut PgConnection,
        organization: OrganizationId,
        search: Option<&Search>,
        needs_gateway: bool,
    ) -> Result<Vec<Read>> {
        macro_rules! in_need {
            ($who:literal, $($of:tt)+) => {
                page_behind!(
                    [$who + " and ($3 = '' or exists (select from mail_account_search searched
                         where searched.organization_id = o.id and searched.account_id = mail_account.id
                           and (strpos(searched.haystack, lower($3)) > 0 or strpos(searched.haystack, $4) > 0)))"],
                    $($of)+,
                    organization as OrganizationId,
                    self.user_id,
                    search.map_or("", |search| search.part.as_str()),
                    search.map_or("", |search| search.address.as_str()),
                )
                .fetch_all(db)
                .await
            };
        }
        macro_rules! in_trouble {
            ($($of:tt)+) => {
                in_need!("id in (select account_id from mail_in_trouble where organization_id = o.id)", $($of)+)
            };
        }
        macro_rules! in_trouble_or_without {
            ($($of:tt)+) => {
                in_need!(
                    "(id in (select account_id from mail_in_trouble where organization_id = o.id)
                      or status = 'active' and outbound_gateway_id is null
                         and domain in (select name from mail_domain
                                        where organization_id = o.id and outbound_gateway_id is null))",
                    $($of)+
                )
            };
        }
        match (needs_gateway, self.order.is_descending()) {
            (false, false) => in_trouble!("user_id > $2", "user_id <= $2", "user_id", "user_id desc"),
            (false, true) => in_trouble!("user_id < $2", "user_id >= $2", "user_id desc", "user_id"),
            (true, false) => in_trouble_or_without!("user_id > $2", "user_id <= $2", "user_id", "user_id desc"),
            (true, true) => in_trouble_or_without!("user_id < $2", "user_id >= $2", "user_id desc", "user_id"),
        }
    }

    /// What a search finds among all accounts, or among those with a gateway of their own: first those whose User ID
    /// begins with it.
    async fn found(
        &self,
        db: &mut PgConnection,
        organization: OrganizationId,
        search: &Search,
        own: bool,
    ) -> Result<Vec<Read>> {
        macro_rules! found {
            ($order:tt) => {
                page_of!(
                    // One by one: as a join it would be planned for a thousand accounts, in an organization that is
                    // taken for a small one.
                    ["select one.* from unnest(accounts_found(o.id, lower($2), $3, lower($7)::tsquery, $4, $5, $6, 51)) found (account_id)
                      cross join lateral (select id, user_id, name, domain, status, outbound_gateway_id from mail_account
                                          where organization_id = o.id and id = found.account_id offset 0) one"],
                    ["false"],
                    $order,
                    organization as OrganizationId,
                    search.part,
                    search.address,
                    self.user_id,
                    self.order.is_descending(),
                    own,
                    search.pieces(organization),
                )
                .fetch_all(db)
                .await
            };
        }
        if self.order.is_descending() {
            found!("starts_with(account.user_id, $3), user_id desc")
        } else {
            found!("not starts_with(account.user_id, $3), user_id")
        }
    }

    /// Whether a search finds something on the other side of the first row that was read.
    async fn is_found_beyond(
        &self,
        db: &mut PgConnection,
        organization: OrganizationId,
        search: &Search,
        own: bool,
        first: &Read,
    ) -> Result<bool> {
        sqlx::query_scalar!(
            r#"
            select cardinality(accounts_found(o.id, lower($2), $3, lower($7)::tsquery, $4, $5, $6, 1)) > 0 as "found!"
            from in_organization($1) o (id)
            "#,
            organization as OrganizationId,
            search.part,
            search.address,
            first.user_id.to_string(),
            !self.order.is_descending(),
            own,
            search.pieces(organization),
        )
        .fetch_one(db)
        .await
    }
}

/// Adds what the waiting mail says about these accounts.
async fn add_trouble(db: &mut PgConnection, organization: OrganizationId, rows: &mut [Row]) -> Result<()> {
    let accounts: Vec<AccountId> = rows.iter().map(|row| row.account.id).collect();
    let troubles = sqlx::query!(
        r#"
        select account_id as "account!: AccountId",
               count(*) filter (where state = 'waiting') as "waiting!", count(*) filter (where state = 'held') as "held!"
        from in_organization($1) o (id)
        cross join lateral (select account_id, state from mail_in_trouble
                            where organization_id = o.id and account_id = any ($2) offset 0) one
        group by account_id
        "#,
        organization as OrganizationId,
        &accounts as &[AccountId],
    )
    .fetch_all(db)
    .await?;
    for trouble in troubles {
        if let Some(row) = rows.iter_mut().find(|row| row.account.id == trouble.account) {
            row.trouble = Trouble { waiting: trouble.waiting, held: trouble.held, ..row.trouble };
        }
    }
    Ok(())
}

/// What was typed into the search field, in the form in which the store has it.
#[derive(Debug)]
pub(super) struct Search {
    /// As it was typed: PostgreSQL makes one lower case of it and of what is searched.
    pub(super) part: String,
    /// As it would stand in an address: in lower case and with its domain in ASCII.
    pub(super) address: String,
}

impl Search {
    pub(super) fn new(typed: &str) -> Self {
        let lower = typed.to_lowercase();
        let address = match lower.rsplit_once('@') {
            Some((local_part, domain)) => format!("{local_part}@{}", in_ascii(domain)),
            None => in_ascii(&lower),
        };
        Self { part: typed.to_owned(), address }
    }

    /// Three pieces of four characters, as a `tsquery`, that whatever has the part has too: those that are likely to
    /// be rare, with figures and rare letters, and of an address not those of its domain, which most accounts have.
    /// Only for ASCII, of which PostgreSQL makes the same lower case piece by piece as at once; for other texts its
    /// function `search_query` does the same, in more time than it takes to find the accounts.
    fn pieces(&self, organization: OrganizationId) -> Option<String> {
        const SIZE: usize = 4;
        let local_part = match self.part.find('@') {
            Some(at) if at + 1 >= SIZE => &self.part[..=at],
            _ => &self.part,
        };
        if !local_part.is_ascii() || local_part.len() < SIZE {
            return None;
        }
        let is_common = |letter: &u8| !b"jqxzwvkypbfug0123456789@".contains(&letter.to_ascii_lowercase());
        let pieces = local_part.as_bytes().windows(SIZE).rev().take(40);
        let mut pieces: Vec<&[u8]> = pieces.collect();
        pieces.sort_by_key(|piece| piece.iter().filter(|letter| is_common(letter)).count());
        // As the function `search_pieces` marks them.
        let id = organization.to_string();
        let mark = &id[id.len() - 8..];
        let quoted = |piece: &&[u8]| {
            let piece = String::from_utf8_lossy(piece).replace('\\', r"\\").replace('\'', "''");
            format!("'{mark}{piece}'")
        };
        Some(pieces.iter().take(3).map(quoted).collect::<Vec<_>>().join(" & "))
    }
}

/// A whole domain name in other scripts as the store has it; anything else as it is.
fn in_ascii(typed: &str) -> String {
    match typed.parse::<DomainName>() {
        Ok(domain) if !typed.is_ascii() => domain.to_string(),
        _ => typed.to_owned(),
    }
}
