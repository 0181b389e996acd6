//! The Route Report's answer as its page shows it: what became of all messages, and of those of the first accounts.
//! Asked by `route_report`.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
};

use time::OffsetDateTime;

use super::{
    message_trace,
    route_report::{Asked, Line, WaysOf, lost, of_named, without_account},
    wording::{self, ShownAddress},
};
use crate::{
    mail::id::AccountId,
    store::{
        OrganizationTransaction,
        message_trace::report::{self, Ways},
        tenant::Access,
    },
};

/// Lines on the page; the file has all.
const SHOWN: usize = 50;

pub struct Totals {
    pub gateway: ShownAddress,
    /// The first and the last day.
    pub days: (String, String),
    pub all: Ways,
    /// Those of which most is to be said.
    pub lines: Vec<ShownLine>,
    /// How many there are besides.
    pub more: i64,
    /// Whether it is of all accounts: those that sent nothing are in the file only.
    pub is_of_all: bool,
    /// The day before which nothing is known, where the period begins before it.
    pub known_from: Option<String>,
}

pub struct ShownLine {
    pub whose: String,
    /// What the account sent in this time.
    pub trace: Option<String>,
    pub ways: Ways,
}

impl Totals {
    pub async fn of(
        transaction: &mut OrganizationTransaction,
        access: &Access,
        asked: &Asked,
        ways: WaysOf,
    ) -> anyhow::Result<Self> {
        let organization = access.organization();
        let is_of_all = asked.accounts.is_none();
        let (mut lines, mut all, among) = match &asked.accounts {
            Some(named) => {
                let lines = of_named(transaction, organization, named, &ways).await?;
                let (all, among) = (together(&lines), lines.len());
                (lines, all, among)
            }
            None => {
                let (all, among): (Ways, usize) = (ways.values().copied().sum(), ways.len());
                (first(transaction, access, ways).await?, all, among)
            }
        };
        lines.sort_by_cached_key(|line| (weight(&line.ways), line.whose.clone()));
        lines.truncate(SHOWN);
        let more = (among - lines.len()) as i64;
        if let Some(lost) = lost(transaction, organization, asked).await? {
            all = [all, lost.ways].into_iter().sum();
            lines.push(lost);
        }
        let begins = report::begins(transaction, organization).await?;
        let trace = |account: AccountId| message_trace::link_to_account(&access.slug, asked.period(), account).build();
        let lines = lines.into_iter().map(|line| ShownLine {
            whose: line.whose,
            trace: line.account.map(&trace),
            ways: line.ways,
        });
        Ok(Self {
            gateway: (&asked.gateway).into(),
            days: (asked.days.0.to_string(), asked.days.1.to_string()),
            all,
            lines: lines.collect(),
            more,
            is_of_all,
            known_from: begins.map(OffsetDateTime::date).filter(|day| *day > asked.days.0).map(|day| day.to_string()),
        })
    }

    /// The four answers: what it is called, what it means, and how many.
    pub fn answers(&self) -> [(&'static str, &'static str, String); 4] {
        let Ways { through, elsewhere, not_left, unknown } = self.all;
        [
            ("Through it", "to every recipient who got it", through),
            ("Elsewhere", "at least for some recipient", elsewhere),
            ("Not left", "it waits, was refused, returned or deleted", not_left),
            ("Unknown", "what became of it is not written down", unknown),
        ]
        .map(|(called, meaning, count)| (called, meaning, wording::number(count)))
    }
}

/// An account that was named by two of its addresses counts once.
fn together(lines: &[Line]) -> Ways {
    let mut met = HashSet::new();
    lines.iter().filter(|line| line.account.is_none_or(|account| met.insert(account))).map(|line| line.ways).sum()
}

/// What left elsewhere is what is looked for, then what nobody knows of.
fn weight(ways: &Ways) -> Reverse<[i64; 4]> {
    Reverse([ways.elsewhere, ways.unknown, ways.not_left, ways.through])
}

/// Of all accounts those that come first, with their names: there may be very many.
async fn first(transaction: &mut OrganizationTransaction, access: &Access, ways: WaysOf) -> anyhow::Result<Vec<Line>> {
    let mut most: Vec<_> = ways.into_iter().collect();
    most.sort_by_key(|(account, ways)| (weight(ways), *account));
    most.truncate(SHOWN);
    let ids: Vec<AccountId> = most.iter().filter_map(|(account, _)| *account).collect();
    let names = report::names_of(transaction, access.organization(), &ids).await?;
    let names: HashMap<AccountId, String> = names.into_iter().map(|(id, name)| (id, name.to_string())).collect();
    let (known, others): (Vec<_>, Vec<_>) =
        most.into_iter().partition(|(account, _)| account.is_some_and(|account| names.contains_key(&account)));
    let mut lines = without_account(others.into_iter());
    lines.extend(
        known
            .into_iter()
            .filter_map(|(account, ways)| Some(Line { account, whose: names.get(&account?)?.clone(), ways })),
    );
    Ok(lines)
}
