//! The one form at every scope: one field, one parser, one partial template.
//! Used by `outbound_mail_gateway`, `domain_outbound_gateway` and `outbound_gateway`; what is typed can be verified first.

use axum::{http::StatusCode, response::Response};
use serde::Deserialize;
use sqlx::PgConnection;

use crate::{
    mail::{
        GatewayAddress,
        gateway_address::GatewayAddressError,
        id::{OrganizationId, VerificationId},
    },
    policy::gateway_network::{self, AllowedNetworks, Refusal},
    store::{
        self,
        gateway::{ChangedMeanwhile, PointerScope, Set},
        pending_gateway::Saved,
        tenant::Access,
        verification::{Asked, Wanted},
    },
};

use super::{
    App,
    draft::Draft,
    error::{PageError, see_other},
    gateway_state::{self, ShownCheck, ShownState},
    link::Link,
    pending_gateway::ShownPending,
    status, verification, waiting_mail,
    wording::{self, ShownAddress},
};

/// What is sent. Nothing else is accepted, so nothing else can be set by it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayForm {
    pub outbound_gateway: String,
    /// The address that the form was shown with, empty for none: what somebody else has set meanwhile is not
    /// overwritten. Every form of ours has it.
    pub seen: Option<String>,
    /// Which button was pressed: what was typed is verified and not saved.
    pub verify: Option<String>,
}

/// Why an address was not taken, in words for who typed it.
#[derive(Debug, thiserror::Error)]
pub enum GatewayMistake {
    #[error(transparent)]
    Address(#[from] GatewayAddressError),
    #[error(transparent)]
    Network(#[from] Refusal),
    #[error("Enter the address that is to be verified.")]
    NothingToVerify,
    #[error(
        "Several verifications of your organization are under way, or were within the last minute. Try again in a minute."
    )]
    TooManyVerifications,
    #[error("Your organization has no mail domain to verify for. Ask the operator to assign one.")]
    NoDomain,
}

impl GatewayMistake {
    /// How the form that is shown again is answered.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::TooManyVerifications => StatusCode::TOO_MANY_REQUESTS,
            _ => StatusCode::UNPROCESSABLE_ENTITY,
        }
    }
}

impl GatewayForm {
    /// The address, or `None` for an emptied field, which deletes. Its port and an IP address are checked
    /// here; a name is checked by the relay, on every address that it resolves to.
    pub fn parse(&self, allowed: &AllowedNetworks) -> Result<Option<GatewayAddress>, GatewayMistake> {
        let address = match self.outbound_gateway.parse::<GatewayAddress>() {
            Ok(address) => address,
            Err(GatewayAddressError::Empty) => return Ok(None),
            Err(mistake) => return Err(mistake.into()),
        };
        gateway_network::check_address(&address, allowed)?;
        Ok(Some(address))
    }
}

/// The networks and ports that gateways and inbound hosts of the organization may have: those of all, and its own.
pub async fn allowed_networks(app: &App, access: &Access) -> Result<AllowedNetworks, PageError> {
    let mut transaction = app.store.begin(access).await?;
    let own = store::organization::gateway_networks(&mut transaction, access.organization()).await?;
    Ok(app.settings.allowed_networks.with(&own).into_owned())
}

/// Asks the relays about the address that was typed, and saves nothing. A gateway that the organization has already is
/// verified with its record. `page` makes the page of a verification from its link.
pub async fn verify(
    app: &App,
    access: &Access,
    scope: &PointerScope,
    form: &GatewayForm,
    address: Option<&GatewayAddress>,
    page: impl FnOnce(Link) -> Link,
) -> Result<Result<Response, GatewayMistake>, PageError> {
    let organization = access.organization();
    let mut transaction = app.store.begin(access).await?;
    let pointer = store::gateway::pointer(&mut transaction, organization, scope).await?.ok_or(PageError::NotFound)?;
    let Some(address) = address else { return Ok(Err(GatewayMistake::NothingToVerify)) };
    let gateway = store::gateway::with_address(&mut transaction, organization, address).await?;
    let wanted = Wanted::of(gateway, address, &access.email);
    match store::verification::ask(&mut transaction, organization, &wanted).await? {
        Asked::Asked(verification) => {
            transaction.commit().await?;
            app.going_live.ring();
            let shown = pointer.wanted().map(ToString::to_string).unwrap_or_default();
            let seen = form.seen.clone().unwrap_or(shown);
            let link = verification::link_from_form(&access.slug, verification, scope, &seen);
            Ok(Ok(see_other(&page(link).build())))
        }
        Asked::TooMany | Asked::TooManyTests => Ok(Err(GatewayMistake::TooManyVerifications)),
        Asked::NotFound => Ok(Err(GatewayMistake::NoDomain)),
    }
}

/// What came of sending the form.
pub enum Pointed {
    /// On to the page that says so.
    Answer(Response),
    /// Somebody else has changed it meanwhile, and nothing was saved: show the form with it.
    Conflict(Conflict),
}

/// Points a scope at the address, at once or when it has passed its verification, or at nothing, and leads back to a
/// page that says what became of it.
pub async fn point(
    app: &App,
    access: &Access,
    scope: &PointerScope,
    form: &GatewayForm,
    address: Option<&GatewayAddress>,
    back: Link,
) -> Result<Pointed, PageError> {
    let mut transaction = app.store.begin(access).await?;
    if let Some(seen) = &form.seen
        && let Some(theirs) =
            store::gateway::changed_meanwhile(&mut transaction, scope, seen.trim(), address, &access.email).await?
    {
        return Ok(Pointed::Conflict(Conflict::new(&theirs, address)));
    }
    if address.is_none()
        && let Some(question) = waiting_mail::ask(&mut transaction, access, scope, &back).await?
    {
        return Ok(Pointed::Answer(question));
    }
    let next = match store::pending_gateway::set(transaction, scope, address, &access.email).await? {
        Saved::AtOnce(Set::NotFound, _) => return Err(PageError::NotFound),
        Saved::AtOnce(Set::Unchanged, _) => back.with("unchanged", "1"),
        Saved::AtOnce(Set::Changed(committed), because) => {
            verification::begin_after(app, access, committed.id).await;
            status::wait_until_live(app, access, committed.revision).await;
            let back = back.with("change", &committed.id.to_string());
            match status::at_once(because) {
                Some(word) => back.with("at_once", word),
                None => back,
            }
        }
        Saved::Pending(committed) => {
            app.going_live.ring();
            status::wait_until_live(app, access, committed.revision).await;
            back.with("change", &committed.id.to_string())
        }
        Saved::Already => {
            if let Some(address) = address {
                verification::again(app, access, address).await?;
            }
            back.with("unchanged", "pending")
        }
    };
    Ok(Pointed::Answer(see_other(&next.build())))
}

/// Two administrators want different things: what there is now, what was sent, and who came first.
#[derive(Debug)]
pub struct Conflict {
    /// `None`: they deleted it.
    pub theirs: Option<ShownAddress>,
    /// `None`: it was to be deleted.
    pub yours: Option<ShownAddress>,
    /// Yours as the field has it.
    pub typed: String,
    /// Theirs as the field has it.
    pub seen: String,
    /// Who set theirs, and when.
    pub by: Option<(String, String)>,
}

impl Conflict {
    fn new(theirs: &ChangedMeanwhile, yours: Option<&GatewayAddress>) -> Self {
        let written = |address: Option<&GatewayAddress>| address.map(ToString::to_string).unwrap_or_default();
        Self {
            theirs: theirs.address.as_ref().map(ShownAddress::from),
            yours: yours.map(ShownAddress::from),
            typed: written(yours),
            seen: written(theirs.address.as_ref()),
            by: theirs.by.as_ref().map(|by| (by.actor.clone(), wording::moment(by.at))),
        }
    }
}

/// The form as it is shown.
#[derive(Debug)]
pub struct GatewayField {
    /// What stands in the field: the present address, or what was typed.
    pub typed: String,
    /// The address that it is shown with, empty for none.
    pub seen: String,
    pub mistake: Option<GatewayMistake>,
    /// Whether it is what was typed before a session ended.
    pub is_draft: bool,
    /// What somebody else has set meanwhile.
    pub conflict: Option<Conflict>,
    /// Gateways that the organization has already, offered below the field. They are links, not a
    /// list of the field's own: that would make the text field a combobox to assistive technology.
    pub offered: Vec<Offered>,
    /// What the field is for, below its label.
    pub hint: &'static str,
    /// Why it cannot be changed, for who may only read.
    pub read_only: Option<&'static str>,
    /// Where to go without saving; empty if there is nowhere to go.
    pub way_back: String,
    /// What its mail and the last check say of the gateway that is set.
    pub facts: Option<(ShownState, ShownCheck)>,
    /// How many waiting messages take the way that is saved, in words; `None` if there are none.
    pub waiting: Option<String>,
    /// What stands in the field is not live yet.
    pub pending: Option<ShownPending>,
}

/// A gateway that is one click away from standing in the field.
#[derive(Debug)]
pub struct Offered {
    pub address: GatewayAddress,
    /// This page with the address in the field, not saved yet.
    pub link: String,
}

/// How many gateways are offered at most.
const MOST_OFFERED: usize = 8;

impl GatewayField {
    /// With what the store has: `present` is what is set, or pending. Call [`GatewayField::again`] to show what was typed instead.
    pub async fn of(
        db: &mut PgConnection,
        organization: OrganizationId,
        present: Option<&GatewayAddress>,
        hint: &'static str,
        read_only: Option<&'static str>,
        slug: &str,
    ) -> store::Result<Self> {
        let facts = match present {
            Some(address) => gateway_state::facts(db, organization, address, slug).await?,
            None => None,
        };
        Ok(Self {
            facts,
            waiting: None,
            pending: None,
            typed: present.map(ToString::to_string).unwrap_or_default(),
            seen: present.map(ToString::to_string).unwrap_or_default(),
            mistake: None,
            is_draft: false,
            conflict: None,
            offered: store::gateway::known_addresses(db, organization)
                .await?
                .into_iter()
                .filter(|known| Some(known) != present)
                .take(MOST_OFFERED)
                .map(|address| Offered { address, link: String::new() })
                .collect(),
            hint,
            read_only,
            way_back: String::new(),
        })
    }

    /// Links the offered gateways to the form at `here`, and puts the chosen one into the field.
    /// Only what is offered can be chosen: a link from elsewhere cannot fill in an address of its own.
    pub fn offering(mut self, here: &Link, chosen: Option<&str>) -> Self {
        for offered in &mut self.offered {
            offered.link = here.clone().with("gateway", &offered.address.to_string()).build();
        }
        let chosen =
            self.offered.iter().map(|offered| offered.address.to_string()).find(|known| Some(known.as_str()) == chosen);
        if let Some(chosen) = chosen {
            self.typed = chosen;
        }
        self
    }

    /// With what is pending where it is set.
    pub fn with_pending(self, pending: Option<ShownPending>) -> Self {
        Self { pending, ..self }
    }

    /// Whether the page is to be looked at again soon.
    pub fn is_being_checked(&self) -> bool {
        self.pending.as_ref().is_some_and(|pending| pending.is_under_way)
    }

    /// With the mail that waits and goes by what this form sets, for who may save it.
    pub async fn with_waiting(
        self,
        db: &mut PgConnection,
        organization: OrganizationId,
        scope: &PointerScope,
    ) -> store::Result<Self> {
        if self.read_only.is_some() {
            return Ok(self);
        }
        let messages = store::outbound_queue::following(db, organization, scope, None).await?;
        let waiting = (messages > 0).then(|| status::waiting_messages(messages));
        Ok(Self { waiting, ..self })
    }

    /// With the address that a verification was about, for who comes back from its page and may save it.
    pub async fn back_from(
        self,
        db: &mut PgConnection,
        organization: OrganizationId,
        verification: Option<&str>,
    ) -> store::Result<Self> {
        let id = verification.and_then(|id| id.parse::<VerificationId>().ok()).filter(|_| self.read_only.is_none());
        let Some(id) = id else { return Ok(self) };
        let verified = store::verification::address_of(db, organization, id).await?;
        Ok(Self { typed: verified.map_or(self.typed, |address| address.to_string()), ..self })
    }

    /// With what was typed and what is wrong with it. What was seen stays what it was.
    pub fn again(self, form: GatewayForm, mistake: GatewayMistake) -> Self {
        let seen = form.seen.unwrap_or_else(|| self.seen.clone());
        Self { typed: form.outbound_gateway, seen, mistake: Some(mistake), ..self }
    }

    /// With what was typed before the session ended, for who may save it.
    pub fn restored(self, draft: &Draft) -> Self {
        match draft.field("outbound_gateway") {
            Some(typed) if self.read_only.is_none() => Self {
                typed: typed.to_owned(),
                seen: draft.field("seen").unwrap_or(&self.seen).to_owned(),
                is_draft: true,
                ..self
            },
            _ => self,
        }
    }

    /// With what somebody else has set meanwhile, to choose.
    pub fn in_conflict(self, conflict: Conflict) -> Self {
        Self { typed: conflict.typed.clone(), conflict: Some(conflict), ..self }
    }
}
