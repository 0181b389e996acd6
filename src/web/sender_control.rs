//! What is said of one sender besides its limits: whether it is a service account, until when no limit of its own holds,
//! whether it is blocked; and mail of it that waits for a limit, sent now. The forms stand on the account's page of
//! `limits`, the last on `outbound_volume`.

use axum::{extract::State, http::StatusCode, response::Response};
use serde::Deserialize;
use time::{Duration, OffsetDateTime, UtcOffset, macros::format_description};

use super::{
    App, Route,
    draft::Draft,
    error::{PageError, see_other},
    form::Form,
    limits::{LimitsQuery, again, answer, back, look},
    message_trace,
    named::Named,
    outbound_queue, outbound_volume,
    session::InOrganization,
    status,
    text_field::TextField,
    wording,
};
use crate::{
    mail::{Mailbox, id::AccountId},
    policy::{
        limit::{OrganizationLimits, SenderControl, SetAt, exempt_until},
        volume::Subject,
    },
    store::{self, OrganizationTransaction, throttle::Decided},
};

const SERVICE: &str = "/{organization}/web-mail-cloud/mail-account-manager/{account}/limits/service-account";
const EXEMPT: &str = "/{organization}/web-mail-cloud/mail-account-manager/{account}/limits/exempt";
const BLOCK: &str = "/{organization}/web-mail-cloud/mail-account-manager/{account}/limits/block";
const LET_GO: &str = "/{organization}/web-mail-cloud/mail-account-manager/{account}/limits/let-go";

pub fn routes() -> Vec<Route> {
    vec![
        Route::get(SERVICE, back),
        Route::post(SERVICE, save_class),
        Route::get(EXEMPT, back),
        Route::post(EXEMPT, save_exemption),
        Route::get(BLOCK, back),
        Route::post(BLOCK, save_block),
        Route::get(LET_GO, back),
        Route::post(LET_GO, let_go),
    ]
}

/// How far back is shown what a blocked sender has sent.
const SENT: Duration = Duration::DAY;

/// The forms about one sender as they are shown.
#[derive(Debug)]
pub struct SenderCard {
    pub control: SenderControl,
    pub user_id: String,
    pub may_change: bool,
    /// Whether to ask for the block to be confirmed.
    pub is_blocking: bool,
    pub until: TextField,
    /// The day until whose end the sender is exempt; empty for none.
    pub seen: String,
    /// The same in words.
    pub exempt_until: Option<String>,
    /// Each of its addresses, with what was sent from it of late.
    pub sent: Vec<(String, String)>,
    /// What of it waits or is held.
    pub queue: String,
}

impl SenderCard {
    pub(super) async fn of(
        transaction: &mut OrganizationTransaction,
        inside: &InOrganization,
        account: AccountId,
        limits: &OrganizationLimits,
        query: &LimitsQuery,
    ) -> Result<Self, PageError> {
        let (organization, slug) = (transaction.organization(), &inside.access.slug);
        let found = store::account::details(transaction, organization, account).await?.ok_or(PageError::NotFound)?;
        let (control, now) = (limits.sender(Some(account)), OffsetDateTime::now_utc());
        let exempt_until = control.exempt_until.filter(|until| *until > now);
        let seen = exempt_until.map(last_day).unwrap_or_default();
        let sent = |address: &Mailbox| {
            (wording::user_id(address), message_trace::link_to_sender(slug, &address.to_string(), now - SENT).build())
        };
        let may_change = inside.access.role.may_control_senders();
        Ok(Self {
            control,
            user_id: wording::user_id(&found.user_id),
            may_change,
            is_blocking: !query.block.is_empty() && may_change && !control.is_blocked,
            until: TextField {
                id: "until",
                label: "Exempt until the end of",
                hint: "A day (UTC), at most a year from now. Leave it empty to end the exemption.",
                typed: seen.clone(),
                ..TextField::default()
            },
            seen,
            exempt_until: exempt_until.map(wording::moment),
            sent: found.addresses.iter().map(sent).collect(),
            queue: outbound_queue::link_to_sender(slug, &found.user_id.to_string()).build(),
        })
    }

    /// With what was typed before the session ended.
    pub(super) fn restore(&mut self, draft: &Draft) -> bool {
        let now = self.seen.clone();
        self.may_change && self.until.restore(draft, draft.field("seen"), &now)
    }
}

/// The day until whose end that is.
fn last_day(until: OffsetDateTime) -> String {
    let day = (until.to_offset(UtcOffset::UTC) - Duration::nanoseconds(1)).date();
    day.format(format_description!("[year]-[month]-[day]")).unwrap_or_default()
}

fn may_change(inside: &InOrganization) -> Result<(), PageError> {
    match inside.access.role.may_control_senders() {
        true => Ok(()),
        false => Err(PageError::Forbidden(
            "Your role reads only. Ask an Administrator or a User Administrator of your organization.",
        )),
    }
}

/// Saves what was said of a sender, and on to its page.
async fn save(
    app: &App,
    inside: &InOrganization,
    account: AccountId,
    action: &'static str,
    change: impl FnOnce(&mut SenderControl),
) -> Result<Response, PageError> {
    let transaction = app.store.begin(&inside.access).await?;
    let set = store::limit::set_control(transaction, account, action, change, &inside.access.email).await?;
    answer(app, inside, &SetAt::Account(account), set).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ClassForm {
    service: Option<String>,
    /// How it stood when the form was shown.
    seen: String,
}

async fn save_class(
    State(app): State<App>,
    inside: InOrganization,
    Named(account): Named<AccountId>,
    Form(form): Form<ClassForm>,
) -> Result<Response, PageError> {
    may_change(&inside)?;
    let (wanted, was) = (form.service.is_some(), form.seen == "yes");
    let change = |control: &mut SenderControl| {
        // Who did not touch the box does not undo what another has changed since.
        if wanted != was {
            control.is_service = wanted;
        }
    };
    save(&app, &inside, account, "sender.class", change).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct ExemptForm {
    until: String,
    /// The day that the form was shown with.
    seen: String,
}

async fn save_exemption(
    State(app): State<App>,
    inside: InOrganization,
    Named(account): Named<AccountId>,
    Form(form): Form<ExemptForm>,
) -> Result<Response, PageError> {
    may_change(&inside)?;
    match exempt_until(&form.until, OffsetDateTime::now_utc()) {
        Ok(until) => {
            let is_touched = form.until.trim() != form.seen;
            let change = |control: &mut SenderControl| {
                if is_touched {
                    control.exempt_until = until;
                }
            };
            save(&app, &inside, account, "sender.exempt", change).await
        }
        Err(mistake) => {
            let mut look = look(&app, &inside, &SetAt::Account(account), &LimitsQuery::default()).await?;
            if let Some(sender) = &mut look.sender {
                sender.until.again(form.until, mistake);
            }
            look.mistakes = vec![("until", mistake.to_owned())];
            again(look, StatusCode::UNPROCESSABLE_ENTITY)
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BlockForm {
    blocked: Blocked,
}

#[derive(Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
enum Blocked {
    Yes,
    No,
}

async fn save_block(
    State(app): State<App>,
    inside: InOrganization,
    Named(account): Named<AccountId>,
    Form(form): Form<BlockForm>,
) -> Result<Response, PageError> {
    may_change(&inside)?;
    let is_blocked = form.blocked == Blocked::Yes;
    let action = if is_blocked { "sender.block" } else { "sender.unblock" };
    save(&app, &inside, account, action, |control| control.is_blocked = is_blocked).await
}

/// Nothing is sent: whose mail it is stands in the path.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LetGoForm {}

async fn let_go(
    State(app): State<App>,
    inside: InOrganization,
    Named(account): Named<AccountId>,
    Form(LetGoForm {}): Form<LetGoForm>,
) -> Result<Response, PageError> {
    may_change(&inside)?;
    let transaction = app.store.begin(&inside.access).await?;
    let volume = outbound_volume::link(&inside.access.slug);
    let of = [Subject::Account(account)];
    match store::throttle::let_go(transaction, &of, OffsetDateTime::now_utc(), &inside.access.email).await? {
        Decided::NotFound => Err(PageError::NotFound),
        Decided::Nothing => Ok(see_other(&volume.with("unchanged", "1").build())),
        Decided::Changed(_, committed) => {
            status::wait_until_live(&app, &inside.access, committed.revision).await;
            Ok(see_other(&volume.with("change", &committed.id.to_string()).build()))
        }
    }
}
