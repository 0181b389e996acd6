//! How a gateway does, in the words that all pages use: what its mail says, and what the last check.
//! Filled from `store::gateway_health` and `store::verification`; shown by `_gateway_state.html`.

use sqlx::PgConnection;
use time::OffsetDateTime;

use super::{
    verification,
    wording::{self, ShownAddress},
};
use crate::{
    mail::{
        GatewayAddress,
        id::{GatewayId, OrganizationId},
    },
    policy::present::{self, Check},
    store::{self, gateway_facts::GatewayFacts, gateway_health::Health, verification::Checked},
};

/// One of the two facts as a row of a list has room for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Brief {
    pub words: String,
    /// What the styles know the mark before the words by, unless nothing is known.
    pub class: Option<&'static str>,
}

const GOOD: Option<&str> = Some("is-good");
const FAILING: Option<&str> = Some("is-failing");

/// How much is said of why a gateway fails, in characters: its own page says all of it.
const REASON: usize = 60;

fn cut(reason: &str) -> String {
    match reason.char_indices().nth(REASON) {
        Some((end, _)) => format!("{}…", reason[..end].trim_end()),
        None => reason.to_owned(),
    }
}

/// The check and the mail; first what somebody should look after.
pub fn in_brief(facts: &GatewayFacts, now: OffsetDateTime) -> [Brief; 2] {
    let (check, class) = match &facts.checked {
        Some(Checked { accepts: Some(accepts), at, revision, .. }) => {
            let lead = if *accepts { "Checked" } else { "Check failed" };
            let words = format!("{lead} {}, revision {}", wording::day(*at, now), wording::number(*revision));
            (words, if *accepts { GOOD } else { FAILING })
        }
        Some(Checked { is_over: false, .. }) => ("A check is under way".to_owned(), None),
        Some(_) => ("Not checked by every relay".to_owned(), None),
        None => ("Not checked since its change".to_owned(), None),
    };
    let check = Brief { words: check, class };
    let Health { failing_since, last_accepted_at, last_failure, .. } = &facts.health;
    let (mail, class) = match (failing_since, last_accepted_at) {
        (Some(since), _) => {
            let reason = last_failure.as_deref().map(|reason| format!(": {}", cut(reason))).unwrap_or_default();
            (format!("Failing since {}{reason}", wording::brief(*since, now)), FAILING)
        }
        (None, Some(accepted)) if now - *accepted < time::Duration::DAY => {
            (format!("Took mail {}", wording::ago(*accepted, now)), GOOD)
        }
        (None, Some(accepted)) => (format!("Took mail {}", wording::day(*accepted, now)), GOOD),
        (None, None) => ("No mail yet".to_owned(), None),
    };
    let mail = Brief { words: mail, class };
    if failing_since.is_some() { [mail, check] } else { [check, mail] }
}

/// What the mail says of a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownState {
    pub is_failing: bool,
    /// Nothing was seen of it.
    pub is_unknown: bool,
    /// `Last accepted mail 12 s ago`, `Failing since 14:02`.
    pub mail: String,
    /// What the gateway said, or what went wrong before it said anything.
    pub because: Option<String>,
    /// What is not said by `mail`: while it fails, when it last took mail; else its last failure, with its words.
    pub other_side: Option<String>,
    /// Where mail goes meanwhile.
    pub backup: Option<ShownAddress>,
    /// What is to be done about its certificate soon.
    pub certificate: Option<String>,
    /// That mail goes to it in clear which was encrypted before.
    pub in_clear: Option<String>,
    /// How much it takes, and how soon; or when it was reached without mail.
    pub figures: Option<String>,
}

/// From when on before its end a certificate is spoken of.
const ENDS_SOON: time::Duration = time::Duration::days(30);

impl ShownState {
    /// Of a gateway that was not seen at all since its last change, too.
    pub fn of(health: Option<&Health>, now: OffsetDateTime) -> Self {
        let since = health.and_then(|health| health.failing_since);
        let other_side = health.and_then(|health| other_side(health, now));
        let mail = present::mail_in_words(since, health.and_then(|health| health.last_accepted_at), now);
        Self {
            is_failing: since.is_some(),
            is_unknown: since.is_none() && health.and_then(|health| health.last_accepted_at).is_none(),
            mail,
            other_side,
            figures: health.filter(|_| since.is_none()).and_then(|health| figures(health, now)),
            because: health.and_then(|health| health.last_failure.clone()).filter(|_| since.is_some()),
            backup: health.and_then(|health| health.backup.as_ref()).filter(|_| since.is_some()).map(Into::into),
            in_clear: health.and_then(|health| health.in_clear_since).map(|since| {
                let since = wording::moment(since);
                format!("It has stopped offering TLS: mail goes to it in clear since {since}.")
            }),
            certificate: health
                .and_then(|health| health.certificate_ends_at)
                .filter(|ends_at| *ends_at - now <= ENDS_SOON)
                .map(|ends_at| {
                    format!("Its certificate is valid until {}: then mail waits.", wording::moment(ends_at))
                }),
        }
    }
}

fn other_side(health: &Health, now: OffsetDateTime) -> Option<String> {
    if health.failing_since.is_some() {
        return Some(match health.last_accepted_at {
            Some(accepted) => format!("Last accepted mail {}.", wording::ago(accepted, now)),
            None => "It has accepted no mail since its last change.".to_owned(),
        });
    }
    let (at, why) = (health.last_failed_at?, health.last_failure.as_deref()?);
    Some(format!("Last failure {}: {why}", wording::moment(at)))
}

fn figures(health: &Health, now: OffsetDateTime) -> Option<String> {
    if let (Some(messages), Some(taken_after)) =
        (health.messages.filter(|messages| *messages > 0), health.taken_after_ms)
    {
        let messages = wording::counted(messages, "message", "messages");
        let taken_after = wording::took(time::Duration::milliseconds(taken_after));
        return Some(format!("{messages} in five minutes, each taken after {taken_after} on average"));
    }
    let reached =
        health.last_reached_at.filter(|reached| health.last_accepted_at.is_none_or(|taken| taken < *reached))?;
    Some(format!("Reached {}, without mail", wording::ago(reached, now)))
}

/// Both facts of a gateway that a form is about.
pub async fn facts(
    db: &mut PgConnection,
    organization: OrganizationId,
    address: &GatewayAddress,
    slug: &str,
) -> store::Result<Option<(ShownState, ShownCheck)>> {
    match store::gateway::with_address(db, organization, address).await? {
        Some(id) => of(db, organization, id, slug).await.map(Some),
        None => Ok(None),
    }
}

/// Both facts of a gateway.
pub async fn of(
    db: &mut PgConnection,
    organization: OrganizationId,
    id: GatewayId,
    slug: &str,
) -> store::Result<(ShownState, ShownCheck)> {
    let health = store::gateway_health::of(db, organization, Some(id)).await?;
    let checked = store::verification::checked(db, organization, Some(id)).await?;
    Ok((ShownState::of(health.first(), OffsetDateTime::now_utc()), ShownCheck::of(checked.first(), slug)))
}

/// What the last verification says of a gateway.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ShownCheck {
    /// `Checked 3 November 2026, 14:02 UTC, revision 12`.
    pub words: String,
    /// Whether it was found that the gateway does not accept.
    pub is_failed: bool,
    pub is_passed: bool,
    /// Something may still come.
    pub is_under_way: bool,
    /// The page of what was found.
    pub page: Option<String>,
}

impl ShownCheck {
    pub fn of(checked: Option<&Checked>, slug: &str) -> Self {
        let accepts = checked.and_then(|checked| checked.accepts);
        Self {
            words: present::check_in_words(checked.map(|it| Check {
                at: it.at,
                revision: it.revision,
                accepts: it.accepts,
                is_over: it.is_over,
            })),
            is_failed: accepts == Some(false),
            is_passed: accepts == Some(true),
            is_under_way: checked.is_some_and(|checked| accepts.is_none() && !checked.is_over),
            page: checked.map(|checked| verification::link(slug, checked.id).build()),
        }
    }
}
