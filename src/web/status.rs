//! The status line after a save: what now happens, and where it is live.
//! Made anew from the change that the address names, so that loading a page again repeats nothing.

use std::time::Duration;

use time::OffsetDateTime;

use super::{
    App,
    link::Link,
    message_trace,
    pending_gateway::{Until, in_brief},
    wording::{self, ShownAddress, ShownRoute},
};
use crate::{
    mail::{GatewayAddress, id::Revision},
    policy::{
        going_live::{Because, VerifyBeforeLive},
        routing::{HeldUntil, PlatformDefault, Scope},
        waiting::Choice,
    },
    store::{
        self, OrganizationTransaction,
        account::RecentEdit,
        change::{Confirmation, Progress, RecentChange},
        domain::DomainOverview,
        gateway::{PointerScope, RecentRemoval},
        gateway_record::RecentEdit as RecentEditOfGateway,
        held_mail::RecentChoice,
        limit::RecentEdit as RecentEditOfLimit,
        organization::Summary,
        outbound_queue::{COUNTED, RecentWish},
        pending_gateway::{Check, GIVEN_UP, PENDING, Pending},
        relay_credential::Credential,
        selected_accounts::ChangedAccounts,
        tenant::Access,
        undo,
    },
};

/// How long a save waits for the relays before the page says how far they are.
const PATIENCE: Duration = Duration::from_secs(1);
const POLL: Duration = Duration::from_millis(50);

/// Leads to a change's entry in the audit log, which counts the mail that it is about.
pub const SINCE: &str = "How mail goes since then";

/// Leads to the mail that has gone by what a change said before it was taken back.
pub const LEFT: &str = "What left in between";

/// A piece of a sentence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    Words(String),
    /// Something that a tenant named, set apart so that its direction does not turn the sentence around.
    Name(String),
    /// Where mail goes.
    Address(ShownAddress),
    /// A page with more, by what it shows.
    Link(&'static str, String),
}

/// One line above the page.
#[derive(Debug, Clone)]
pub struct StatusLine {
    /// Its first words, in bold.
    pub lead: &'static str,
    pub parts: Vec<Part>,
    /// Whether something is still to come or missing.
    pub is_warning: bool,
    /// When each relay confirmed it, a line each.
    pub confirmations: Vec<String>,
    /// Where the change is taken back, for who may.
    pub undo: Option<String>,
}

impl StatusLine {
    pub(super) fn new(lead: &'static str) -> Self {
        Self { lead, parts: Vec::new(), is_warning: false, confirmations: Vec::new(), undo: None }
    }

    /// With a button that takes the change back, for who may: `link` is [`undo::link`](super::undo::link)'s.
    pub fn undoable(mut self, may: bool, link: Link) -> Self {
        self.undo = may.then(|| link.build());
        self
    }

    pub(super) fn words(mut self, words: impl Into<String>) -> Self {
        self.parts.push(Part::Words(words.into()));
        self
    }

    pub(super) fn name(mut self, name: &str) -> Self {
        self.parts.push(Part::Name(name.to_owned()));
        self
    }

    fn address(mut self, address: impl Into<ShownAddress>) -> Self {
        self.parts.push(Part::Address(address.into()));
        self
    }

    /// Ends the sentence with where mail goes that no gateway is set for.
    fn by_default(self, default: &PlatformDefault) -> Self {
        match default {
            PlatformDefault::Mx => self.words(" directly to recipients' servers."),
            PlatformDefault::Smarthost(address) => {
                self.words(" through the platform's server ").address(address).words(".")
            }
        }
    }

    /// Ends with how many waiting messages now go by what was saved; up to one more than are counted.
    pub(super) fn taking(self, messages: i64) -> Self {
        match messages {
            0 => self,
            1 => self.words(" 1 waiting message now goes this way."),
            _ => self.words(format!(" {} now go this way.", waiting_messages(messages))),
        }
    }

    /// Ends with why what was saved is live, by a word of [`at_once`]; others say nothing.
    pub(super) fn because(self, word: Option<&str>) -> Self {
        match word {
            Some("failing") => self.words(" It is live at once, since the former one does not take mail."),
            Some("untried") => self.words(" It is live at once: nothing has shown that the former one works."),
            Some(PASSED) => self.words(" It has passed its verification."),
            _ => self,
        }
    }

    /// Ends with the way to a page where more is said.
    pub(super) fn leading_to(mut self, label: &'static str, link: Link) -> Self {
        self.parts.push(Part::Words(" ".to_owned()));
        self.parts.push(Part::Link(label, link.build()));
        self
    }

    /// Ends with the way to what left in the time of a change that was taken back.
    pub(super) fn what_left(self, slug: &str, scope: &PointerScope, change: &RecentChange) -> Self {
        match change.undone_from {
            Some(from) => {
                let time = (from, change.committed_at);
                let link = message_trace::link_to_way(slug, time, scope, change.before.as_deref());
                self.leading_to(LEFT, link)
            }
            None => self,
        }
    }

    pub(super) fn live(mut self, progress: &Progress) -> Self {
        self.is_warning = progress.relays == 0 || progress.confirmed < progress.relays;
        self.confirmations = progress.confirmations.iter().map(|one| confirmed(one, progress.saved_at)).collect();
        self.words(format!(" {}", live(progress)))
    }
}

/// `312 waiting messages`, as far as they are counted.
pub fn waiting_messages(messages: i64) -> String {
    match messages > COUNTED {
        true => format!("More than {} waiting messages", wording::number(COUNTED)),
        false => wording::counted(messages, "waiting message", "waiting messages"),
    }
}

/// How many waiting messages take the gateway that a change has set, instead of what they waited for; none if it was
/// changed again since.
pub async fn taking_new_way(
    transaction: &mut OrganizationTransaction,
    scope: &PointerScope,
    change: &RecentChange,
) -> store::Result<i64> {
    let organization = transaction.organization();
    let pointer = store::gateway::pointer(transaction, organization, scope).await?;
    let still = pointer.filter(|pointer| pointer.address.as_ref().map(ToString::to_string) == change.after);
    match still.and_then(|pointer| pointer.gateway) {
        Some(gateway) => store::outbound_queue::following(transaction, organization, scope, Some(gateway)).await,
        None => Ok(0),
    }
}

/// Waits until every relay routes by the change, but not long, and not for one that has vanished.
/// The change is saved, so a store that fails now is for the next page to report.
pub async fn wait_until_live(app: &App, access: &Access, revision: Revision) {
    let settled = async {
        while !is_settled(app, access, revision).await.unwrap_or(true) {
            tokio::time::sleep(POLL).await;
        }
    };
    let _ = tokio::time::timeout(PATIENCE, settled).await;
}

/// In a transaction of its own each time: none is held while waiting.
async fn is_settled(app: &App, access: &Access, revision: Revision) -> store::Result<bool> {
    let mut transaction = app.store.begin(access).await?;
    Ok(store::change::progress(&mut transaction, revision).await?.is_settled())
}

/// `Live on 2 of 2 relays.`, and what there is to know about those that are missing.
fn live(progress: &Progress) -> String {
    if progress.relays == 0 {
        return "No relay is running: it applies as soon as one starts.".to_owned();
    }
    let mut sentence = format!("Live on {} of {} relays.", progress.confirmed, progress.relays);
    for relay in &progress.silent {
        let since = wording::moment(relay.last_seen_at);
        sentence.push_str(&format!(
            " {} has not been heard from since {since}. If it still runs, mail that it takes leaves as before.",
            relay.name
        ));
    }
    for relay in &progress.behind {
        match progress.saved_at {
            Some(saved_at) => sentence.push_str(&format!(" {relay} is behind since {}.", wording::second(saved_at))),
            None => sentence.push_str(&format!(" {relay} is behind.")),
        }
    }
    if !progress.is_settled() {
        sentence.push_str(" It follows within seconds: load this page again to see.");
    }
    sentence
}

/// `relay-1 confirmed 12:03:04 UTC, 0.08 s after the save`.
fn confirmed(confirmation: &Confirmation, saved_at: Option<OffsetDateTime>) -> String {
    let Confirmation { relay, at } = confirmation;
    let confirmed = format!("{relay} confirmed {}", wording::second(*at));
    match saved_at.map(|saved_at| (*at - saved_at).as_seconds_f64()) {
        // By a revision that it had loaded before the commit was recorded.
        Some(seconds) => format!("{confirmed}, {:.2} s after the save", seconds.max(0.0)),
        None => confirmed,
    }
}

/// How a page is told in its address why what was saved is live at once, where that is to be said.
pub fn at_once(because: Because) -> Option<&'static str> {
    match because {
        Because::NotWanted | Because::First => None,
        Because::FormerFails => Some("failing"),
        Because::FormerUntried => Some("untried"),
        Because::HasPassed => Some(PASSED),
    }
}

/// The same of one that has passed its verification.
pub const PASSED: &str = "passed";

/// A change as it went on: where it was of a gateway that has passed its verification since, the change by which that
/// went live, and `true`.
pub async fn as_it_went_on(
    transaction: &mut OrganizationTransaction,
    scope: &PointerScope,
    change: RecentChange,
) -> store::Result<(RecentChange, bool)> {
    let organization = transaction.organization();
    if change.action != PENDING {
        return Ok((change, false));
    }
    let Some(live) = store::pending_gateway::went_live(transaction, organization, scope, change.id).await? else {
        return Ok((change, false));
    };
    let key = scope.key(organization);
    let live = store::change::recent(transaction, organization, live, scope.subject(), &key).await?;
    Ok(live.map_or((change, false), |live| (live, true)))
}

/// After a save of what is to go live when it has passed its verification, and as long as it has not; `None` if the
/// change was about something else.
pub fn of_pending(change: &RecentChange, pending: Option<&Pending>, progress: &Progress) -> Option<StatusLine> {
    if change.action == GIVEN_UP {
        let line = StatusLine::new("Given up.").words("This page shows what applies.");
        return Some(line.live(progress));
    }
    let is_still = |pending: &&Pending| change.after.as_deref() == Some(&pending.address.to_string());
    let pending = pending.filter(is_still)?;
    let line = about_pending(StatusLine::new(lead(&change.action)), pending);
    // Where it waits, relays have to know.
    let is_warning = line.is_warning;
    let line = if Until::of(pending) == Until::Waits { line.live(progress) } else { line };
    Some(StatusLine { is_warning: line.is_warning || is_warning, ..line })
}

/// A save of what is pending already: it is verified once more.
pub fn still_pending(pending: &Pending) -> StatusLine {
    about_pending(StatusLine::new("Nothing changed."), pending)
}

fn about_pending(line: StatusLine, pending: &Pending) -> StatusLine {
    let is_warning = matches!(pending.check(), Check::Refused | Check::NotAnswered);
    let line = line.address(&pending.address).words(format!(" {}. Until it has passed, ", in_brief(pending)));
    let line = match Until::of(pending) {
        Until::Through(address) => line.words("mail keeps leaving through ").address(address).words("."),
        Until::AsNow => line.words("mail goes on as it does now."),
        Until::Waits => line.words("mail without another gateway waits."),
    };
    StatusLine { is_warning, ..line }
}

/// A decision about a pending gateway that is not pending any more.
pub fn decided_already() -> StatusLine {
    StatusLine::new("Nothing changed.").words("It is not waiting for its verification any more.")
}

/// After it was said which gateways have to pass a verification before they go live.
pub fn of_verify_before_live(change: &RecentChange, summary: &Summary) -> StatusLine {
    let line = StatusLine::new(lead(&change.action));
    if change.after != Some(summary.verify_before_live.to_string()) {
        return line.words("It was changed again since: this page shows what applies now.");
    }
    before_live(line, summary)
}

/// It was said so already.
pub fn unchanged_verify_before_live(summary: &Summary) -> StatusLine {
    before_live(StatusLine::new("Nothing changed."), summary)
}

fn before_live(line: StatusLine, summary: &Summary) -> StatusLine {
    line.words(match summary.verify_before_live {
        VerifyBeforeLive::Never => "A gateway that is saved is live at once.",
        VerifyBeforeLive::Replacing => {
            "A gateway that replaces one which works goes live when it has passed its verification."
        }
        VerifyBeforeLive::Always => "Every gateway of all users or a mail domain goes live when it has passed.",
    })
}

/// The first words about a change that is saved.
fn lead(action: &str) -> &'static str {
    match action {
        undo::UNDO => "Taken back.",
        undo::REDO => "Brought back.",
        _ => "Saved.",
    }
}

/// After a change of the gateway of all users.
pub fn of_organization(
    change: &RecentChange,
    summary: &Summary,
    default: &PlatformDefault,
    progress: &Progress,
) -> StatusLine {
    if let Some(superseded) = superseded(change, summary.gateway.as_ref()) {
        return superseded;
    }
    let line = match &summary.gateway {
        Some(gateway) => now_through(lead(&change.action), summary, gateway),
        None if summary.following == 0 => {
            no_gateway(change).words("Accounts without another gateway send").by_default(default)
        }
        None => no_gateway(change).words(now_send(summary.following)).by_default(default),
    };
    line.live(progress)
}

fn no_gateway(change: &RecentChange) -> StatusLine {
    match lead(&change.action) {
        "Saved." => StatusLine::new("No gateway."),
        lead => StatusLine::new(lead).words("No gateway. "),
    }
}

fn now_through(lead: &'static str, summary: &Summary, gateway: &GatewayAddress) -> StatusLine {
    let line = StatusLine::new(lead);
    match (summary.following, summary.accounts) {
        (0, 0) => {
            line.words("There are no accounts yet: those that are added will send through ").address(gateway).words(".")
        }
        (0, _) => line
            .words("No account sends through ")
            .address(gateway)
            .words(" now: each has a nearer gateway or is suspended."),
        _ => line.words(format!("{} through ", now_send(summary.following))).address(gateway).words("."),
    }
}

fn now_send(count: i64) -> String {
    format!("{} now {}", wording::counted(count, "account", "accounts"), if count == 1 { "sends" } else { "send" })
}

/// A save that set what was set already.
pub fn unchanged_organization(summary: &Summary) -> StatusLine {
    let line = StatusLine::new("Nothing changed.");
    match &summary.gateway {
        Some(gateway) => line.words("The gateway is ").address(gateway).words(" already."),
        None => line.words("There is no gateway to delete."),
    }
}

/// After a change of one user's gateway. `own` is the user's gateway now, `route` what now applies.
pub fn of_account(
    change: &RecentChange,
    user_id: &str,
    own: Option<&GatewayAddress>,
    route: ShownRoute,
    progress: &Progress,
) -> StatusLine {
    if let Some(superseded) = superseded(change, own) {
        return superseded;
    }
    let line = StatusLine::new(lead(&change.action));
    let line = match own {
        Some(gateway) => {
            line.words("Mail from ").name(user_id).words(" now leaves through ").address(gateway).words(".")
        }
        None => follows(line.name(user_id).words(" has no gateway of its own any more and "), route),
    };
    line.live(progress)
}

/// Ends the sentence with the gateway that a user follows.
fn follows(line: StatusLine, route: ShownRoute) -> StatusLine {
    match (route.set_by, route.address) {
        (_, None) if let Some(until) = route.held => line.words(format!("its mail is held {until}.")),
        (_, None) => line.words("sends directly to recipients' servers."),
        (Scope::Platform, Some(address)) => {
            line.words("sends through the platform's server ").address(address).words(".")
        }
        (scope, Some(address)) => line.words(format!("follows the {scope}'s gateway ")).address(address).words("."),
    }
}

/// A save of one user's gateway that set what was set already.
pub fn unchanged_account(user_id: &str, own: Option<&GatewayAddress>) -> StatusLine {
    let line = StatusLine::new("Nothing changed.");
    match own {
        Some(gateway) => {
            line.words("Mail from ").name(user_id).words(" leaves through ").address(gateway).words(" already.")
        }
        None => line.name(user_id).words(" has no gateway of its own to delete."),
    }
}

/// The relays were not asked.
pub fn too_many_verifications() -> StatusLine {
    let line = StatusLine::new("Not yet.");
    StatusLine { is_warning: true, ..line }
        .words("Several verifications of your organization are under way, or were within the last minute. Try again in a minute.")
}

/// Somebody has changed it again since: the page below is right, the sentence would not be.
fn superseded(change: &RecentChange, now: Option<&GatewayAddress>) -> Option<StatusLine> {
    (change.after != now.map(ToString::to_string)).then(|| {
        StatusLine::new(lead(&change.action)).words("It was changed again since: this page shows what applies now.")
    })
}

/// After a change of the gateways of many users.
pub fn of_selected(change: &ChangedAccounts, progress: &Progress) -> StatusLine {
    if change.is_superseded {
        return StatusLine::new("Saved.")
            .words("Some of these accounts were changed again since: this page shows what applies now.");
    }
    let line = StatusLine::new("Saved.");
    let line = match &change.gateway {
        Some(gateway) => line.words(format!("{} through ", now_send(change.accounts))).address(gateway).words("."),
        None => line.words(format!(
            "{} no gateway of {} own any more.",
            wording::counted(change.accounts, "account has", "accounts have"),
            if change.accounts == 1 { "its" } else { "their" },
        )),
    };
    line.live(progress)
}

/// A change of the gateways of many users that found all of them as they were to become.
pub fn unchanged_selected() -> StatusLine {
    StatusLine::new("Nothing changed.").words("All of these accounts were so already.")
}

/// After a change of an account itself, or of many.
pub fn of_edit(edit: &RecentEdit, progress: &Progress) -> StatusLine {
    let line = StatusLine::new(lead(&edit.action));
    if edit.superseded {
        return line.words("It was changed again since: this page shows what applies now.");
    }
    let (subject, before, after) = (edit.subject.as_str(), said(&edit.before), said(&edit.after));
    let line = match edit.action.as_str() {
        "account.add" => line.name(&shown(subject)).words(" is added."),
        "account.rename" => line
            .name(&shown(before))
            .words(" is now ")
            .name(&shown(after))
            .words(". The old address stays as a further address."),
        "account.name" if after.is_empty() => line.name(&shown(subject)).words(" has no name any more."),
        "account.name" => line.words("The name of ").name(&shown(subject)).words(" is now ").name(after).words("."),
        "account.suspend" => line.name(&shown(subject)).words(" is suspended: its mail is refused."),
        "account.activate" => line.name(&shown(subject)).words(" is active: it may send mail."),
        "account.addresses" if after.is_empty() => {
            line.name(&shown(subject)).words(" has no further addresses any more.")
        }
        "account.addresses" => line.words("The further addresses of ").name(&shown(subject)).words(" are changed."),
        "account.delete" => {
            line.name(&shown(subject)).words(" is deleted. Mail from its addresses follows their domain.")
        }
        undo::UNDO | undo::REDO => taken_back(edit, line),
        "accounts.import" => line.words(format!("The file is imported: {after}.")),
        _ => line.words("Accounts were changed."),
    };
    line.live(progress)
}

/// What accounts are like after a change of them was taken back, or that was.
fn taken_back(edit: &RecentEdit, line: StatusLine) -> StatusLine {
    let is_undo = edit.action == undo::UNDO;
    match (edit.accounts, &edit.gone) {
        (1, Some(user_id)) => line.name(&shown(user_id)).words(" is not an account any more."),
        (1, None) if is_undo => line.words("The account is as it was before."),
        (1, None) => line.words("The account is as the change had left it."),
        (accounts, _) => line.words(format!(
            "{} are as {}.",
            wording::counted(accounts, "account", "accounts"),
            if is_undo { "they were before" } else { "the change had left them" },
        )),
    }
}

fn said(value: &Option<String>) -> &str {
    value.as_deref().unwrap_or_default()
}

/// A User ID of an audit entry, for people.
fn shown(user_id: &str) -> String {
    user_id.parse().map_or_else(|_| user_id.to_owned(), |mailbox| wording::user_id(&mailbox))
}

/// A save of an account that set what was set already.
pub fn unchanged_edit() -> StatusLine {
    StatusLine::new("Nothing changed.").words("The account was so already.")
}

/// After a change of one mail domain's gateway.
pub fn of_domain(
    change: &RecentChange,
    domain: &DomainOverview,
    default: &PlatformDefault,
    progress: &Progress,
) -> StatusLine {
    let own = domain.gateways.domain.as_ref();
    if let Some(superseded) = superseded(change, own) {
        return superseded;
    }
    let line = StatusLine::new("Saved.");
    let name = domain.name.to_unicode();
    let line = match (own, domain.following) {
        (Some(gateway), 0) => {
            line.words("Mail from ").name(&name).words(" now leaves through ").address(gateway).words(".")
        }
        (Some(gateway), following) => line
            .words(format!("{} of ", wording::counted(following, "account", "accounts")))
            .name(&name)
            .words(format!(" now {} through ", if following == 1 { "sends" } else { "send" }))
            .address(gateway)
            .words("."),
        (None, _) => follows(
            line.name(&name).words(" has no gateway of its own any more and "),
            ShownRoute::of(domain.gateways.clone(), default),
        ),
    };
    line.live(progress)
}

/// A save of one mail domain's gateway that set what was set already.
pub fn unchanged_domain(domain: &DomainOverview) -> StatusLine {
    unchanged_account(&domain.name.to_unicode(), domain.gateways.domain.as_ref())
}

/// After a change of where mail to a mail domain itself is delivered.
pub fn of_inbound_host(
    change: &RecentChange,
    domain: &DomainOverview,
    default: &PlatformDefault,
    progress: &Progress,
) -> StatusLine {
    if let Some(superseded) = superseded(change, domain.inbound_host.as_ref()) {
        return superseded;
    }
    to_inbound_host(StatusLine::new(lead(&change.action)), "now", domain, default).live(progress)
}

/// A save of an inbound host that set what was set already.
pub fn unchanged_inbound_host(domain: &DomainOverview, default: &PlatformDefault) -> StatusLine {
    to_inbound_host(StatusLine::new("Nothing changed."), "already", domain, default)
}

fn to_inbound_host(
    line: StatusLine,
    when: &'static str,
    domain: &DomainOverview,
    default: &PlatformDefault,
) -> StatusLine {
    let line = line.words("Notifications to senders of ").name(&domain.name.to_unicode());
    match (&domain.inbound_host, default) {
        (Some(host), _) => line.words(format!(" {when} go to ")).address(host).words("."),
        (None, PlatformDefault::Mx) => line.words(format!(" {when} go to the servers that its MX records name.")),
        (None, PlatformDefault::Smarthost(server)) => {
            line.words(format!(" {when} go through the platform's server ")).address(server).words(".")
        }
    }
}

/// After the gateway of all users was emptied where mail must leave through one.
pub fn of_organization_that_must_use_one(change: &RecentChange, summary: &Summary, progress: &Progress) -> StatusLine {
    if let Some(superseded) = superseded(change, summary.gateway.as_ref()) {
        return superseded;
    }
    let are = if summary.following == 1 { "is" } else { "are" };
    StatusLine::new("No gateway.")
        .words(format!("Mail from {} {are} held", wording::counted(summary.following, "account", "accounts")))
        .words(format!(" {}.", until(summary)))
        .live(progress)
}

/// Until when mail without a gateway is held.
fn until(summary: &Summary) -> &'static str {
    summary.gateways().held_until.unwrap_or(HeldUntil::OneIsSet).words()
}

/// After mail was told to leave through a gateway, or no longer to.
pub fn of_must_use(
    change: &RecentChange,
    summary: &Summary,
    default: &PlatformDefault,
    progress: &Progress,
) -> StatusLine {
    let line = StatusLine::new(lead(&change.action));
    if (change.after.as_deref() == Some("yes")) != summary.must_use_gateway {
        return line.words("It was changed again since: this page shows what applies now.");
    }
    let without = summary.without_gateway();
    let line = match (summary.must_use_gateway, without) {
        (true, 0) => line.words("Mail must leave through a gateway, and every account has one."),
        (true, _) => line.words(format!(
            "Mail must leave through a gateway. {} none: {} mail is held {}.",
            wording::counted(without, "account has", "accounts have"),
            if without == 1 { "its" } else { "their" },
            until(summary),
        )),
        (false, _) => line.words("Mail without a gateway leaves").by_default(default),
    };
    line.live(progress)
}

/// The choice was so already.
pub fn unchanged_must_use(summary: &Summary) -> StatusLine {
    StatusLine::new("Nothing changed.").words(match summary.must_use_gateway {
        true => "Mail must leave through a gateway already.",
        false => "Mail may leave without a gateway already.",
    })
}

/// After it was said whether senders that no account has are refused.
pub fn of_unknown_senders(change: &RecentChange, summary: &Summary, progress: &Progress) -> StatusLine {
    let line = StatusLine::new(lead(&change.action));
    if (change.after.as_deref() == Some("yes")) != summary.refuse_unknown_senders {
        return line.words("It was changed again since: this page shows what applies now.");
    }
    let words = match summary.refuse_unknown_senders {
        true => "New mail from an address that no account has is refused.",
        false => "Mail from an address that no account has follows its mail domain.",
    };
    line.words(words).live(progress)
}

/// The choice was so already.
pub fn unchanged_unknown_senders(summary: &Summary) -> StatusLine {
    StatusLine::new("Nothing changed.").words(match summary.refuse_unknown_senders {
        true => "Senders that no account has are refused already.",
        false => "Senders that no account has are taken already.",
    })
}

/// After it was said whom verifications come from.
pub fn of_probe_sender(change: &RecentChange, summary: &Summary) -> StatusLine {
    let line = StatusLine::new(lead(&change.action));
    if change.after != summary.probe_sender.as_ref().map(ToString::to_string) {
        return line.words("It was changed again since: this page shows what applies now.");
    }
    verified_as(line, "now", summary)
}

/// It was said so already.
pub fn unchanged_probe_sender(summary: &Summary) -> StatusLine {
    verified_as(StatusLine::new("Nothing changed."), "already", summary)
}

fn verified_as(line: StatusLine, adverb: &str, summary: &Summary) -> StatusLine {
    match &summary.verifies_as {
        Some(sender) => line.words(format!("Verifications {adverb} ask for mail from ")).name(sender).words("."),
        None => line.words("Verifications wait for a mail domain to come from."),
    }
}

/// After a decision about held mail, or one that came too late for any.
pub fn of_held_mail(chosen: Option<&RecentChoice>) -> StatusLine {
    match chosen {
        None => StatusLine::new("Nothing changed.").words("The mail goes on waiting, or there is none of it any more."),
        Some(chosen) => StatusLine::new("Saved.").words(match chosen.choice {
            Choice::Send => format!("{}: on the way by what applies now.", chosen.subject),
            Choice::Return => format!("{}: on the way back to the senders.", chosen.subject),
            Choice::Delete => format!("{}: deleted without a report.", chosen.subject),
        }),
    }
}

/// After something was wanted of waiting mail, or of none that is still there.
pub fn of_queue(wish: Option<&RecentWish>) -> StatusLine {
    match wish {
        None => StatusLine::new("Nothing changed.").words("All of these messages have left meanwhile."),
        Some(wish) => {
            let lead = match wish.action.as_str() {
                "queue.retry" => "Retry.",
                "queue.release" => "Release.",
                "queue.return" => "Return.",
                _ => "Delete.",
            };
            StatusLine::new(lead).words(format!("{}: {}.", wish.subject, wish.after))
        }
    }
}

/// After something was done about the webhook, which is at `url` now.
pub fn of_webhook(done: &str, url: &str) -> Option<StatusLine> {
    let (lead, words) = match done {
        "saved" if url.is_empty() => ("Saved.", "There is no webhook any more: administrators are told by mail alone."),
        "saved" => ("Saved.", "What happens from now on is told there, too."),
        "unchanged" => ("Nothing changed.", "The webhook was so already."),
        "secret" => ("Saved.", "Notices are signed with the new secret from now on: enter it where they are received."),
        "senders" => ("Saved.", "It holds for what is told from now on."),
        "senders-unchanged" => ("Nothing changed.", "Who is told was so already."),
        "secret-unchanged" => ("Nothing changed.", "The secret was replaced before."),
        "test" => ("On its way.", "A relay sends a test notice within seconds: look again to see what came of it."),
        "enough" => ("Not yet.", "There were several test notices within the last minute. Try again in a minute."),
        "none" => ("Nothing changed.", "There is no webhook. Enter its address first."),
        _ => return None,
    };
    Some(StatusLine::new(lead).words(words))
}

/// After a gateway's record was changed.
pub fn of_gateway(edit: &RecentEditOfGateway, address: &GatewayAddress, progress: &Progress) -> StatusLine {
    let line = StatusLine::new(lead(&edit.action));
    if edit.is_superseded {
        return changed_again(line);
    }
    line.words("Mail for ")
        .address(address)
        .words(format!(" leaves by revision {} of its record.", wording::number(edit.to)))
        .live(progress)
}

/// After a save of a record that is to go live when the gateway has passed its verification, and as long as it has not.
pub fn of_pending_record() -> StatusLine {
    StatusLine::new("Saved.")
        .words("It goes live when the gateway has passed its check; until then mail goes as before.")
}

/// After a save of a record that was saved anew before it was live.
pub fn superseded_record() -> StatusLine {
    changed_again(StatusLine::new("Saved."))
}

fn changed_again(line: StatusLine) -> StatusLine {
    line.words("It was changed again since: this page shows what applies now.")
}

/// After a change of a record was given up before it was live.
pub fn given_up_record() -> StatusLine {
    StatusLine::new("Given up.").words("The record says what is live.")
}

/// A save of a record that said what it said already.
pub fn unchanged_gateway() -> StatusLine {
    StatusLine::new("Nothing changed.").words("The record said so already.")
}

/// After a relay credential was made, limited or revoked, or one of these was taken back.
pub fn of_credential(action: &str, credential: &Credential, progress: &Progress) -> StatusLine {
    let line = match action {
        "credential.create" => StatusLine::new("Created."),
        "credential.revoke" => StatusLine::new("Revoked."),
        action => StatusLine::new(lead(action)),
    };
    let words = match (credential.revoked, credential.terms.limits_in_words().is_empty()) {
        (true, _) => " is refused from now on.",
        (false, true) => " may send from every mail domain of your organization.",
        (false, false) => " may send within its limits.",
    };
    line.name(&credential.user_name).words(words).live(progress)
}

/// After a save that changed nothing of a relay credential.
pub fn unchanged_credential(credential: &Credential) -> StatusLine {
    StatusLine::new("Nothing changed.").name(&credential.user_name).words(match credential.revoked {
        true => " is revoked already.",
        false => " has these limits already.",
    })
}

/// After a distribution list was made, changed or deleted, or it was said which are large.
pub fn of_list(action: &str, address: &str, progress: &Progress) -> StatusLine {
    let line = match action {
        "list.create" => StatusLine::new("Created.").words("The relay knows ").name(&shown(address)).words(" now."),
        "list.delete" => StatusLine::new("Deleted.").name(&shown(address)).words(" is no distribution list any more."),
        "list.large" => StatusLine::new("Saved.").words("It holds for all distribution lists."),
        undo::UNDO => StatusLine::new("Taken back.").words("It is as before: ").name(&shown(address)).words("."),
        undo::REDO => StatusLine::new("Brought back.").words("It is as it was set: ").name(&shown(address)).words("."),
        _ => StatusLine::new("Saved.").words("Mail to ").name(&shown(address)).words(" goes by what stands here."),
    };
    line.live(progress)
}

/// After a save that changed nothing of distribution lists.
pub fn unchanged_list() -> StatusLine {
    StatusLine::new("Nothing changed.").words("It was so already.")
}

/// After a limit was set or deleted, what waited for one was let go, or something was said of a sender.
pub fn of_limit(edit: &RecentEditOfLimit, progress: &Progress) -> StatusLine {
    let (subject, before, after) = (shown(&edit.subject), said(&edit.before), said(&edit.after));
    let line = match edit.action.as_str() {
        "limit.set" => StatusLine::new("Saved.").name(&subject).words(format!(": {after}.")),
        "limit.delete" => StatusLine::new("Deleted.").name(&subject).words(format!(": no longer {before}.")),
        "limit.let-go" => {
            return StatusLine::new("Sent now.").name(&subject).words(format!(": {before}. They leave at once."));
        }
        "limit.keep" => {
            return StatusLine::new("Kept.").name(&subject).words(
                ": what is beyond the limit goes on leaving at its pace. You are not told of it again until that is over.",
            );
        }
        "sender.block" => StatusLine::new("Blocked.")
            .words("New mail of ")
            .name(&subject)
            .words(" is refused, and what waits is held for your decision."),
        "sender.unblock" => StatusLine::new("Saved.")
            .name(&subject)
            .words(" may send again. What was held stays so until you decide about it."),
        undo::UNDO | undo::REDO => {
            let lead = if edit.action == undo::UNDO { "Taken back." } else { "Brought back." };
            let now = if after.is_empty() { "what a wider scope says holds again" } else { after };
            StatusLine::new(lead).name(&subject).words(format!(": {now}."))
        }
        _ => StatusLine::new("Saved.").name(&subject).words(format!(": {after}.")),
    };
    line.live(progress)
}

/// A save that changed nothing of limits or senders.
pub fn unchanged_limit() -> StatusLine {
    StatusLine::new("Nothing changed.").words("It was so already.")
}

/// Nothing waited for a limit any more.
pub fn nothing_let_go() -> StatusLine {
    StatusLine::new("Nothing changed.").words("Nothing of this sender waits for a limit any more.")
}

/// After a gateway was removed, or its removal was taken back.
pub fn removed_gateway(removed: &RecentRemoval) -> StatusLine {
    let lead = if removed.is_undo { "Taken back." } else { "Removed." };
    let line = StatusLine::new(lead).words("The gateway ").address(&removed.address);
    match (removed.is_there, removed.is_undo) {
        (true, true) => line.words(" is there again."),
        (true, false) => line.words(" is there again since."),
        (false, _) => line.words(" is not offered any more."),
    }
}
