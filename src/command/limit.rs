//! `outgate limit`: how much may be sent within a time, at the three scopes of the page Limits.
//! Called by `main`; what a limit means is `policy::limit`'s.

use clap::{
    Args, Subcommand,
    builder::{PossibleValuesParser, TypedValueParser},
};
use outgate::{
    mail::DomainName,
    policy::{
        limit::{self, Action, BusyDay, Holding, Kind, MOST, OrganizationLimits, SetAt, Window},
        routing::Scope,
        volume::Unit,
    },
    store::{self, OrganizationTransaction, gateway::PointerScope, limit::Set},
    web::wording,
};
use sqlx::PgPool;
use time::OffsetDateTime;

use super::gateway;

#[derive(Debug, Subcommand)]
pub enum Limit {
    /// Limit how much is sent by each account, or by all of the organization or of a mail domain together
    Set {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        whose: WhoseMail,
        /// The time in which is counted; it always ends now. usual: an hour, compared with what is usual at that
        /// time: four times that is allowed (twice for --total), and always as many as the limit says (two fifths
        /// at an hour of the week at which nothing is usual). first-time: a day, in which only those count whom the
        /// account has not written to in 90 days (--external). message: one message, refused beyond it; approval:
        /// one message, held beyond it until an administrator releases it
        #[arg(long, value_parser = window())]
        window: Window,
        #[command(flatten)]
        most: AtMost,
        /// What becomes of mail beyond it [default: hold for a day, alert for first-time, else delay; not for one
        /// message]
        #[arg(long, value_parser = action())]
        action: Option<Action>,
    },
    /// Delete a limit: what a wider scope says holds again, of the platform what is built in
    Delete {
        #[command(flatten)]
        place: Place,
        #[command(flatten)]
        whose: WhoseMail,
        /// The time in which is counted; it always ends now
        #[arg(long, value_parser = window())]
        window: Window,
        #[command(flatten)]
        unit: OfUnit,
    },
    /// Show the limits that hold for all users, for a mail domain or for a user, and which scope has set each
    Show {
        #[command(flatten)]
        place: Place,
    },
}

/// Where a limit is set: in an organization, or for every one.
#[derive(Debug, Args)]
pub struct Place {
    /// The organization's slug
    #[arg(required_unless_present = "platform")]
    slug: Option<String>,
    #[command(flatten)]
    at: gateway::Whose,
    /// For every organization: the figures of the platform itself, which hold where nobody has set another
    #[arg(long, conflicts_with_all = ["slug", "domain", "user"])]
    platform: bool,
}

#[derive(Debug, Args)]
#[group(multiple = false)]
pub struct WhoseMail {
    /// Each account by itself; goes without saying with --user
    #[arg(long)]
    each: bool,
    /// Each service account by itself
    #[arg(long)]
    service: bool,
    /// All of them together
    #[arg(long)]
    total: bool,
}

impl WhoseMail {
    fn said(&self) -> Option<limit::Whose> {
        match (self.each, self.service, self.total) {
            (true, ..) => Some(limit::Whose::Each),
            (_, true, _) => Some(limit::Whose::Service),
            (.., true) => Some(limit::Whose::Total),
            _ => None,
        }
    }

    fn required(&self) -> anyhow::Result<limit::Whose> {
        self.said().ok_or_else(|| anyhow::anyhow!("say whose mail is counted: --each, --service or --total"))
    }

    fn at(&self, at: &SetAt) -> anyhow::Result<limit::Whose> {
        let whose = match (self.said(), at.scope()) {
            (None, Scope::User) => limit::Whose::Each,
            _ => self.required()?,
        };
        anyhow::ensure!(at.takes(whose), "an account is limited by itself: --user goes without --service and --total");
        Ok(whose)
    }
}

#[derive(Debug, Args)]
#[group(required = true, multiple = true)]
pub struct AtMost {
    /// So many messages
    #[arg(long, value_name = "N", num_args = 0..=1, group = "unit", value_parser = most())]
    messages: Option<Option<u32>>,
    /// So many recipients
    #[arg(long, value_name = "N", num_args = 0..=1, group = "unit", value_parser = most())]
    recipients: Option<Option<u32>>,
    /// So many recipients outside the organization
    #[arg(long, value_name = "N", num_args = 0..=1, group = "unit", value_parser = most())]
    external: Option<Option<u32>>,
    /// In place of the number: as many as one likes, whatever a wider scope says
    #[arg(long)]
    unlimited: bool,
}

impl AtMost {
    fn unit_and_number(&self) -> anyhow::Result<(Unit, Option<u32>)> {
        let units = [Unit::Messages, Unit::Recipients, Unit::External];
        let mut said = units.into_iter().zip([self.messages, self.recipients, self.external]);
        let said = said.find_map(|(unit, said)| Some((unit, said?)));
        match (said, self.unlimited) {
            (None, _) => anyhow::bail!("say what is counted: --messages, --recipients or --external"),
            (Some((unit, Some(most))), false) => Ok((unit, Some(most))),
            (Some((unit, None)), true) => Ok((unit, None)),
            (Some((unit, Some(_))), true) => anyhow::bail!("--{unit} goes with a number or with --unlimited"),
            (Some((unit, None)), false) => anyhow::bail!("--{unit} wants a number, or --unlimited beside it"),
        }
    }
}

#[derive(Debug, Args)]
#[group(required = true, multiple = false)]
pub struct OfUnit {
    /// Of messages
    #[arg(long)]
    messages: bool,
    /// Of recipients
    #[arg(long)]
    recipients: bool,
    /// Of recipients outside the organization
    #[arg(long)]
    external: bool,
}

impl OfUnit {
    fn unit(&self) -> Unit {
        match (self.messages, self.recipients) {
            (true, _) => Unit::Messages,
            (_, true) => Unit::Recipients,
            _ => Unit::External,
        }
    }
}

fn window() -> impl TypedValueParser<Value = Window> {
    PossibleValuesParser::new(Window::ALL.map(Window::as_str)).try_map(|word| word.parse::<Window>())
}

fn action() -> impl TypedValueParser<Value = Action> {
    PossibleValuesParser::new(Action::ALL.map(Action::as_str)).try_map(|word| word.parse::<Action>())
}

fn most() -> impl TypedValueParser<Value = u32> {
    clap::value_parser!(u32).range(1..=i64::from(MOST))
}

pub async fn run(command: Limit, owner: &PgPool) -> anyhow::Result<()> {
    match command {
        Limit::Set { place, whose, window, most, action } => {
            let Some(slug) = &place.slug else {
                let (kind, limit) = kind_and_limit(whose.required()?, window, &most, action)?;
                return set_platform(owner, kind, Some(limit)).await;
            };
            let mut transaction = super::begin(owner, slug).await?;
            let at = set_at(&mut transaction, slug, &place.at).await?;
            let (kind, limit) = kind_and_limit(whose.at(&at)?, window, &most, action)?;
            set(transaction, slug, &at, kind, Some(limit)).await
        }
        Limit::Delete { place, whose, window, unit } => {
            let Some(slug) = &place.slug else {
                let kind = Kind { whose: whose.required()?, window, unit: unit.unit() };
                return set_platform(owner, kind, None).await;
            };
            let mut transaction = super::begin(owner, slug).await?;
            let at = set_at(&mut transaction, slug, &place.at).await?;
            let kind = Kind { whose: whose.at(&at)?, window, unit: unit.unit() };
            set(transaction, slug, &at, kind, None).await
        }
        Limit::Show { place } => match &place.slug {
            Some(slug) => show(owner, slug, &place.at).await,
            None => show_platform(owner).await,
        },
    }
}

/// What was asked for.
///
/// # Errors
/// If there is no such limit.
fn kind_and_limit(
    whose: limit::Whose,
    window: Window,
    most: &AtMost,
    action: Option<Action>,
) -> anyhow::Result<(Kind, limit::Limit)> {
    let (unit, most) = most.unit_and_number()?;
    let kind = Kind { whose, window, unit };
    anyhow::ensure!(
        kind.is_possible(),
        "{}",
        match window {
            Window::FirstTime => {
                "--window first-time limits --external of each account: whom all together never wrote to is not known"
                    .to_owned()
            }
            _ => format!(
                "--window {window} limits --recipients or --external of each account: one message is nobody's total"
            ),
        }
    );
    anyhow::ensure!(
        most.is_none_or(|most| most <= kind.most()),
        "--window {window} goes up to {}: of more it is not known whom an account wrote to",
        kind.most()
    );
    anyhow::ensure!(
        !window.is_one_message() || action.is_none_or(|action| action == window.default_action()),
        "--window {window} goes without --action: beyond it a message {}",
        if window == Window::Message { "is refused" } else { "waits for approval" }
    );
    Ok((kind, limit::Limit { most, action: action.unwrap_or(window.default_action()) }))
}

async fn set_platform(owner: &PgPool, kind: Kind, limit: Option<limit::Limit>) -> anyhow::Result<()> {
    match (store::limit::set_platform(owner, kind, limit).await?, limit) {
        (None, _) => println!("Nothing changed: it was so already."),
        (Some(revision), Some(limit)) => {
            let words = store::limit::in_words(kind, limit);
            println!("The platform's limit is set: {words}. Revision {revision}.");
        }
        (Some(revision), None) => {
            println!("The platform's limit is deleted: what is built in holds. Revision {revision}.");
        }
    }
    Ok(())
}

/// What the platform says to an organization where nobody else has said anything.
async fn show_platform(owner: &PgPool) -> anyhow::Result<()> {
    let platform = store::limit::platform(owner).await?;
    for (title, whose) in [
        ("Each account", limit::Whose::Each),
        ("Each service account", limit::Whose::Service),
        ("All of an organization together", limit::Whose::Total),
    ] {
        println!("{title}:");
        for (kind, limit) in platform.iter().filter(|(kind, _)| kind.whose == whose) {
            println!("  {}, set by the operator", store::limit::in_words(*kind, *limit));
        }
        for (kind, limit) in limit::platform(whose, 1).filter(|(kind, _)| !platform.contains_key(kind)) {
            let grows = match (whose, kind.window) {
                (limit::Whose::Total, Window::Day) => " for one account, and more with each",
                _ => "",
            };
            println!("  {}, built in{grows}", store::limit::in_words(kind, limit));
        }
    }
    println!(
        "In an organization that is new they only alert for the first {} days, besides the stop.",
        limit::ONLY_ALERTS
    );
    Ok(())
}

async fn set_at(
    transaction: &mut OrganizationTransaction,
    slug: &str,
    whose: &gateway::Whose,
) -> anyhow::Result<SetAt> {
    Ok(match gateway::scope(transaction, slug, whose).await? {
        PointerScope::Organization => SetAt::Organization,
        PointerScope::Domain(name) => SetAt::Domain(name),
        PointerScope::Account(account) => SetAt::Account(account),
    })
}

async fn set(
    transaction: OrganizationTransaction,
    slug: &str,
    at: &SetAt,
    kind: Kind,
    limit: Option<limit::Limit>,
) -> anyhow::Result<()> {
    match (store::limit::set(transaction, at, kind, limit, super::OPERATOR).await?, limit) {
        (Set::NotFound, _) => match at {
            SetAt::Domain(name) => anyhow::bail!("{slug} has no mail domain {}", name.to_unicode()),
            SetAt::Organization | SetAt::Account(_) => anyhow::bail!("{slug} has no such account any more"),
        },
        (Set::Unchanged, _) => println!("Nothing changed: it was so already."),
        (Set::Changed(committed), Some(limit)) => {
            println!("The limit is set: {}. Revision {}.", store::limit::in_words(kind, limit), committed.revision);
        }
        (Set::Changed(committed), None) => println!("The limit is deleted. Revision {}.", committed.revision),
    }
    Ok(())
}

/// What the limits are shown of.
struct Shown {
    limits: OrganizationLimits,
    /// Of an account.
    busy_day: BusyDay,
    accounts: u64,
    now: OffsetDateTime,
}

async fn show(owner: &PgPool, slug: &str, whose: &gateway::Whose) -> anyhow::Result<()> {
    let mut transaction = super::begin(owner, slug).await?;
    let organization = transaction.organization();
    let at = set_at(&mut transaction, slug, whose).await?;
    let (domain, account) = match &at {
        SetAt::Organization => (None, None),
        SetAt::Domain(name) => {
            let found = store::domain::overview(&mut transaction, organization, Some(name)).await?;
            anyhow::ensure!(!found.is_empty(), "{slug} has no mail domain {}", name.to_unicode());
            (Some(name.clone()), None)
        }
        SetAt::Account(id) => {
            let found = store::account::by_id(&mut transaction, organization, *id).await?;
            (found.map(|account| account.user_id.domain().clone()), Some(*id))
        }
    };
    let limits = store::limit::reaching(&mut transaction, organization, domain.as_ref(), account).await?;
    let accounts = store::limit::accounts(&mut *transaction, organization).await?;
    let now = OffsetDateTime::now_utc();
    let busy_day = match account {
        Some(account) => store::limit::busy_day(&mut transaction, organization, account, now).await?,
        None => BusyDay::default(),
    };
    let shown = Shown { limits, busy_day, accounts, now };
    shown.print(&at, domain.as_ref(), account.map(|account| shown.limits.sender(Some(account))));
    Ok(())
}

impl Shown {
    fn print(&self, at: &SetAt, domain: Option<&DomainName>, control: Option<limit::SenderControl>) {
        if let Some(until) = self.limits.only_alerts_until(self.now) {
            println!("Until {} the platform's limits only alert, besides the stop.", wording::moment(until));
        }
        match control {
            Some(control) => self.print_account(at, domain, control),
            None => {
                self.print_all("Each account", at, domain, limit::Whose::Each);
                self.print_all("Each service account", at, domain, limit::Whose::Service);
            }
        }
        if let Some(domain) = domain {
            let of = SetAt::Domain(domain.clone());
            self.print_all(&format!("All of {} together", domain.to_unicode()), &of, None, limit::Whose::Total);
        }
        self.print_all("All of the organization together", &SetAt::Organization, None, limit::Whose::Total);
    }

    fn print_account(&self, at: &SetAt, domain: Option<&DomainName>, control: limit::SenderControl) {
        if control.is_blocked {
            println!("The account is blocked: new mail is refused.");
        }
        if let Some(until) = control.exempt_until.filter(|until| *until > self.now) {
            println!("No limit of its own holds until {}.", wording::moment(until));
        }
        let (title, whose) = match control.is_service {
            true => ("The account, a service account", limit::Whose::Service),
            false => ("The account", limit::Whose::Each),
        };
        self.print_all(title, at, domain, whose);
    }

    fn print_all(&self, title: &str, at: &SetAt, domain: Option<&DomainName>, whose: limit::Whose) {
        let holding = self.limits.holding(at, domain, whose, self.accounts, self.now);
        if !holding.is_empty() {
            println!("{title}:");
        }
        for holding in holding {
            let Holding { kind, limit, set_by, raised } = holding.raised_by(self.busy_day);
            let by_operator = set_by == Scope::Platform && self.limits.platform.contains_key(&kind);
            let whose = if by_operator { "the operator for every organization".to_owned() } else { set_by.to_string() };
            let raised = raised.map(|raised| format!(", raised from {}: {}", raised.from, raised.words(kind)));
            println!("  {}, set by {whose}{}", store::limit::in_words(kind, limit), raised.unwrap_or_default());
        }
    }
}
