//! The tables of Limits: what holds at a place, one table for each whose mail is counted together, and which scope has
//! set it. Part of the page `limits`.

use time::OffsetDateTime;

use super::{
    limits::{Place, link},
    outbound_volume,
};
use crate::{
    mail::{DomainName, id::AccountId},
    policy::{
        limit::{Action, BusyDay, Holding, Kind, Limit, OrganizationLimits, Raised, SetAt, Whose, Window},
        routing::Scope,
        words::number,
    },
    store,
};

/// The limits that count the same mail together, apart from others.
pub(super) struct Group {
    pub id: &'static str,
    pub title: String,
    pub note: String,
    pub rows: Vec<Row>,
    pub may_change: bool,
}

/// One limit as it stands in a table.
pub(super) struct Row {
    pub id: String,
    /// `500 external recipients`.
    pub most: String,
    pub window: &'static str,
    pub beyond: String,
    pub set_by: String,
    /// Why it is more than the platform says.
    pub raised: Option<String>,
    /// The page where it is set, unless that is this one or nobody's.
    pub set_at: Option<String>,
    pub is_own: bool,
    /// This page with the limit in the form.
    pub change: String,
    /// Its words: whose, window, unit.
    pub words: [(&'static str, &'static str); 3],
    /// What is deleted, as it was shown.
    pub seen: String,
}

/// How limits stand at one place.
pub(super) struct Standing<'a> {
    pub place: &'a Place,
    pub limits: &'a OrganizationLimits,
    /// Of an account.
    pub busy_day: BusyDay,
    pub accounts: u64,
    pub now: OffsetDateTime,
    pub slug: &'a str,
}

impl Standing<'_> {
    /// The tables of a page, in their order.
    pub fn groups(&self, may_change: bool) -> Vec<Group> {
        let (at, name) = (&self.place.at, &self.place.name);
        let mut groups = match at {
            SetAt::Account(account) => {
                let is_service = self.limits.sender(Some(*account)).is_service;
                let (title, whose) = match is_service {
                    true => ("This account, a service account", Whose::Service),
                    false => ("This account", Whose::Each),
                };
                let note = "Counted for the account by itself, whatever address of it the mail comes from.";
                vec![self.group("each", title.to_owned(), note, at, whose, may_change)]
            }
            SetAt::Organization | SetAt::Domain(_) => {
                let of = if name.is_empty() { String::new() } else { format!(" of {name}") };
                let each =
                    "Counted for each account by itself. What is set for a mail domain or an account holds instead.";
                let service =
                    "Accounts whose own page says that they are, and all senders that no account has, by mail domain.";
                vec![
                    self.group("each", format!("Each account{of}"), each, at, Whose::Each, may_change),
                    self.group("service", format!("Each service account{of}"), service, at, Whose::Service, may_change),
                ]
            }
        };
        if let Some(domain) = &self.place.domain {
            let title = format!("All of {} together", domain.to_unicode());
            let (of, is_here) = (SetAt::Domain(domain.clone()), matches!(at, SetAt::Domain(_)));
            let note = "Counted for all senders of the mail domain together, besides what each of them may send.";
            let group = self.group("domain", title, note, &of, Whose::Total, may_change && is_here);
            if is_here || !group.rows.is_empty() {
                groups.push(group);
            }
        }
        let note = "Counted for all senders of all mail domains together, besides what each of them may send.";
        let (title, of) = ("All of the organization together".to_owned(), SetAt::Organization);
        groups.push(self.group("total", title, note, &of, Whose::Total, may_change && at == &of));
        groups
    }

    fn group(&self, id: &'static str, title: String, note: &str, at: &SetAt, whose: Whose, may_change: bool) -> Group {
        let holding = self.limits.holding(at, self.place.domain.as_ref(), whose, self.accounts, self.now);
        let raised = holding.into_iter().map(|holding| holding.raised_by(self.busy_day));
        let rows = raised.enumerate().map(|(index, holding)| self.row(format!("{id}-{index}"), &holding));
        Group { id, title, note: note.to_owned(), rows: rows.collect(), may_change }
    }

    fn row(&self, id: String, holding: &Holding) -> Row {
        let Holding { kind, limit, set_by, raised } = *holding;
        let at = &self.place.at;
        // What is set for one account is set for it, of whatever class it is.
        let kind = Kind { whose: if at.takes(kind.whose) { kind.whose } else { Whose::Each }, ..kind };
        let is_of_platform = set_by == Scope::Platform;
        let (set_by, set_at) = self.set_by(holding);
        let words = [("whose", kind.whose.as_str()), ("window", kind.window.as_str()), ("unit", kind.unit.as_str())];
        let change = words.iter().fold(link(self.slug, at), |link, (name, word)| link.with(name, word));
        let change = match limit.most {
            Some(most) => change.with("most", &most.to_string()),
            None => change.with("unlimited", "1"),
        };
        let action = if is_of_platform { self.limits.action_of_platform(holding.kind) } else { limit.action };
        Row {
            id,
            most: most_in_words(kind, limit),
            window: kind.window.words(),
            beyond: self.beyond(holding),
            is_own: set_at.is_none() && !is_of_platform,
            set_by,
            raised: raised.map(|raised| raised_in_words(kind, raised)),
            set_at,
            change: format!("{}#limit", change.with("action", action.as_str()).build()),
            words,
            seen: store::limit::in_words(kind, limit),
        }
    }

    fn beyond(&self, holding: &Holding) -> String {
        if holding.limit.most.is_none() {
            return "nothing is".to_owned();
        }
        if holding.kind.window == Window::Approval {
            return "held for approval".to_owned();
        }
        let later = self.limits.action_of_platform(holding.kind);
        let only_alerts = self.limits.only_alerts_until(self.now).is_some() && holding.set_by == Scope::Platform;
        match only_alerts && later != Action::Alert {
            // Until when stands above the tables.
            true => format!("an alert only, later {}", beyond_in_words(later)),
            false => beyond_in_words(holding.limit.action).to_owned(),
        }
    }

    /// Which scope that is, and its page, unless it is this one.
    fn set_by(&self, holding: &Holding) -> (String, Option<String>) {
        let of = match (holding.set_by, &self.place.domain) {
            (Scope::Platform, _) => return (of_platform(self.limits, holding.kind).to_owned(), None),
            (Scope::Organization, _) => SetAt::Organization,
            (Scope::Domain, Some(domain)) => SetAt::Domain(domain.clone()),
            (Scope::Domain | Scope::User, _) => self.place.at.clone(),
        };
        let name = match &of {
            SetAt::Organization => "the organization".to_owned(),
            SetAt::Domain(name) => name.to_unicode(),
            SetAt::Account(_) => "this account".to_owned(),
        };
        match of == self.place.at {
            true => ("here".to_owned(), None),
            false => (name, Some(link(self.slug, &of).build())),
        }
    }
}

/// Whose figure a limit of the platform has.
fn of_platform(limits: &OrganizationLimits, kind: Kind) -> &'static str {
    if limits.platform.contains_key(&kind) { "the platform's operator" } else { "the platform" }
}

/// `500 external recipients`.
fn most_in_words(kind: Kind, limit: Limit) -> String {
    match (limit.most, kind.window) {
        (Some(floor), Window::Usual) => {
            let factor = kind.factor();
            format!("{factor} times what is usual, or {}", outbound_volume::in_words(floor.into(), kind.unit))
        }
        (Some(most), Window::FirstTime) => {
            format!("{} that it never wrote to before", outbound_volume::in_words(most.into(), kind.unit))
        }
        (None, Window::FirstTime) => format!("any number of {} that it never wrote to before", kind.unit.words().1),
        (None, Window::Usual) => format!("any number of {}, however unusual", kind.unit.words().1),
        (Some(most), _) => outbound_volume::in_words(most.into(), kind.unit),
        (None, _) => format!("any number of {}", kind.unit.words().1),
    }
}

/// What happens to mail beyond a limit.
fn beyond_in_words(action: Action) -> &'static str {
    match action {
        Action::Alert => "an alert only",
        Action::Delay => "delayed",
        Action::Hold => "held",
        Action::Defer => "put off (451)",
        Action::Refuse => "refused (550)",
    }
}

/// Raised from 1,000: it usually sends up to 900 a day.
fn raised_in_words(kind: Kind, raised: Raised) -> String {
    format!("raised from {}: {}", number(raised.from.into()), raised.words(kind))
}

/// The limits that hold for an account itself, as far as what it usually sends raises them.
pub(super) fn holding(
    limits: &OrganizationLimits,
    account: AccountId,
    domain: &DomainName,
    busy_day: BusyDay,
    now: OffsetDateTime,
) -> Vec<Holding> {
    let whose = if limits.sender(Some(account)).is_service { Whose::Service } else { Whose::Each };
    // How many accounts there are is asked for a total only.
    let holding = limits.holding(&SetAt::Account(account), Some(domain), whose, 0, now);
    holding.into_iter().map(|holding| holding.raised_by(busy_day)).collect()
}

/// The same, a line each: for its page.
pub(super) fn of_account(
    limits: &OrganizationLimits,
    account: AccountId,
    domain: &DomainName,
    busy_day: BusyDay,
    now: OffsetDateTime,
) -> Vec<String> {
    let holding = holding(limits, account, domain, busy_day, now);
    let line = |Holding { kind, limit, set_by, raised }: Holding| {
        let set_by = match set_by {
            Scope::User => "set for this account",
            Scope::Domain => "set for the mail domain",
            Scope::Organization => "set for the organization",
            Scope::Platform => of_platform(limits, kind),
        };
        let beyond = match limit.most {
            Some(_) => format!(", beyond it {}", beyond_in_words(limit.action)),
            None => String::new(),
        };
        let raised = raised.map(|raised| format!(", {}", raised_in_words(kind, raised))).unwrap_or_default();
        format!("{} in {}{beyond} ({set_by}{raised})", most_in_words(kind, limit), kind.window.words())
    };
    holding.into_iter().map(line).collect()
}
