//! What an organization chooses on a card of Outbound Mail Gateway: saved as a change, or found to be so already.
//! The forms are `must_use_gateway`, `unknown_senders` and `verify_before_live`.

use axum::response::Response;

use super::{
    App,
    error::{PageError, see_other},
    outbound_mail_gateway,
    session::InOrganization,
    status,
};
use crate::store::{self, OrganizationTransaction, gateway::Set};

/// One of the choices.
pub struct Choice {
    /// Said to who may not make it.
    pub forbidden: &'static str,
    /// What the page is told where nothing changed.
    pub unchanged: &'static str,
    /// By which name the page is told the change.
    pub changed: &'static str,
}

impl Choice {
    /// Saves what was chosen, unless it was left as it was seen: who did not touch it does not undo what another has
    /// changed since.
    pub async fn save<T>(
        &self,
        app: &App,
        inside: &InOrganization,
        (wanted, is_untouched): (T, bool),
        set: impl AsyncFnOnce(OrganizationTransaction, T, &str) -> store::Result<Set>,
    ) -> Result<Response, PageError> {
        if !inside.access.role.may_set_organization_gateway() {
            return Err(PageError::Forbidden(self.forbidden));
        }
        let back = outbound_mail_gateway::here(&inside.access.slug);
        if is_untouched {
            return Ok(see_other(&back.with("unchanged", self.unchanged).build()));
        }
        let transaction = app.store.begin(&inside.access).await?;
        match set(transaction, wanted, &inside.access.email).await? {
            Set::NotFound => Err(PageError::NotFound),
            Set::Unchanged => Ok(see_other(&back.with("unchanged", self.unchanged).build())),
            Set::Changed(committed) => {
                status::wait_until_live(app, &inside.access, committed.revision).await;
                Ok(see_other(&back.with(self.changed, &committed.id.to_string()).build()))
            }
        }
    }
}
