//! The one form at every scope: one field, one parser, one partial template.
//! Used by `outbound_mail_gateway` and `outbound_gateway`.

use axum::response::Response;
use serde::Deserialize;
use sqlx::PgConnection;

use crate::{
    mail::{
        GatewayAddress,
        gateway_address::{GatewayAddressError, GatewayHost},
        id::OrganizationId,
    },
    policy::gateway_network::{self, AllowedNetworks, Refusal},
    store::{
        self,
        gateway::{PointerScope, Set},
        tenant::Access,
    },
};

use super::{
    App,
    error::{PageError, see_other},
    link::Link,
    status, waiting_mail,
};

/// What is sent. Nothing else is accepted, so nothing else can be set by it.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct GatewayForm {
    pub outbound_gateway: String,
}

/// Why an address was not taken, in words for who typed it.
#[derive(Debug, thiserror::Error)]
pub enum GatewayMistake {
    #[error(transparent)]
    Address(#[from] GatewayAddressError),
    #[error(transparent)]
    Network(#[from] Refusal),
}

impl GatewayForm {
    /// The address, or `None` for an emptied field, which deletes. An IP address is checked against
    /// the networks here; a name is checked by the relay, on every address that it resolves to.
    pub fn parse(&self, allowed: &AllowedNetworks) -> Result<Option<GatewayAddress>, GatewayMistake> {
        let address = match self.outbound_gateway.parse::<GatewayAddress>() {
            Ok(address) => address,
            Err(GatewayAddressError::Empty) => return Ok(None),
            Err(mistake) => return Err(mistake.into()),
        };
        if let GatewayHost::Ip(ip) = address.host() {
            gateway_network::check(*ip, address.port(), allowed)?;
        }
        Ok(Some(address))
    }
}

/// Points a scope at the address, or at nothing, and leads back to a page that says what became of it.
pub async fn point(
    app: &App,
    access: &Access,
    scope: &PointerScope,
    address: Option<&GatewayAddress>,
    back: Link,
) -> Result<Response, PageError> {
    if let Some(question) = waiting_mail::ask(app, access, scope, address, &back).await? {
        return Ok(question);
    }
    let transaction = app.store.begin(access).await?;
    match store::gateway::set(transaction, scope, address, &access.email).await? {
        Set::NotFound => Err(PageError::NotFound),
        Set::Unchanged => Ok(see_other(&back.with("unchanged", "1").build())),
        Set::Changed(committed) => {
            status::wait_until_live(app, access, committed.revision).await;
            Ok(see_other(&back.with("change", &committed.id.to_string()).build()))
        }
    }
}

/// The form as it is shown.
#[derive(Debug)]
pub struct GatewayField {
    /// What stands in the field: the present address, or what was typed.
    pub typed: String,
    pub mistake: Option<GatewayMistake>,
    /// Gateways that the organization has already, offered below the field. They are links, not a
    /// list of the field's own: that would make the text field a combobox to assistive technology.
    pub offered: Vec<Offered>,
    /// What the field is for, below its label.
    pub hint: &'static str,
    /// Why it cannot be changed, for who may only read.
    pub read_only: Option<&'static str>,
    /// Where to go without saving; empty if there is nowhere to go.
    pub way_back: String,
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
    /// With what the store has. Call [`GatewayField::again`] to show what was typed instead.
    pub async fn of(
        db: &mut PgConnection,
        organization: OrganizationId,
        present: Option<&GatewayAddress>,
        hint: &'static str,
        read_only: Option<&'static str>,
    ) -> store::Result<Self> {
        Ok(Self {
            typed: present.map(ToString::to_string).unwrap_or_default(),
            mistake: None,
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

    /// With what was typed and what is wrong with it.
    pub fn again(self, form: GatewayForm, mistake: GatewayMistake) -> Self {
        Self { typed: form.outbound_gateway, mistake: Some(mistake), ..self }
    }
}
