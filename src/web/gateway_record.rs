//! A gateway's record: everything that it has besides who uses it, in one form on the gateway's page. Each save is a
//! new revision; what fields mean is `policy::gateway_record`'s.

use axum::{
    extract::{RawQuery, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::Deserialize;

use super::{
    App, Route,
    draft::Draft,
    error::{PageError, see_other},
    form::Form,
    gateway, gateway_form,
    named::Named,
    page,
    session::InOrganization,
    status,
    text_field::TextField,
    verification, wording,
};
use crate::{
    mail::id::{ChangeId, GatewayId},
    policy::{
        gateway_network::AllowedNetworks,
        gateway_record::{GatewayRecord, Mistakes, Typed},
        gateway_settings::secret_context,
    },
    secret::{Password, SealedSecret, TypedPassword},
    store::{
        self, OrganizationTransaction,
        gateway_record::{Edit, Saved, Stored},
    },
};

const PATH: &str = "/{organization}/web-mail-cloud/gateways/{gateway}/record";

pub fn routes() -> Vec<Route> {
    vec![Route::get(PATH, show), Route::post(PATH, save)]
}

/// What is sent.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
struct RecordForm {
    address: String,
    tls: String,
    certificate_name: String,
    trust: String,
    authority: String,
    fingerprint: String,
    sign_in_user: String,
    /// Empty: the stored one is kept, if there is one that may be.
    password: TypedPassword,
    connections: String,
    messages_per_connection: String,
    messages_per_minute: String,
    largest_message: String,
    backups: String,
    returning_mail: String,
    returning_networks: String,
    own_domains: String,
    /// The revision that the form was shown with: what somebody else has saved meanwhile is not overwritten.
    seen: String,
    /// Of the change that the form becomes, so that sent twice it is one.
    change: String,
}

impl RecordForm {
    fn typed(&self) -> Typed {
        Typed {
            address: self.address.clone(),
            tls: self.tls.clone(),
            certificate_name: self.certificate_name.clone(),
            trust: self.trust.clone(),
            authority: self.authority.clone(),
            fingerprint: self.fingerprint.clone(),
            sign_in_user: self.sign_in_user.clone(),
            connections: self.connections.clone(),
            messages_per_connection: self.messages_per_connection.clone(),
            messages_per_minute: self.messages_per_minute.clone(),
            largest_message: self.largest_message.clone(),
            backups: self.backups.clone(),
            returning_mail: self.returning_mail.clone(),
            returning_networks: self.returning_networks.clone(),
            own_domains: self.own_domains.clone(),
        }
    }

    /// The record and, if one was typed, its new password.
    fn parse(&self, allowed: &AllowedNetworks) -> Result<(GatewayRecord, Option<Password>), Mistakes> {
        let mut mistakes = Mistakes::new();
        let password = match (self.password.is_empty(), self.password.password()) {
            (true, _) => None,
            (false, None) => {
                mistakes
                    .push(("password", "This cannot be a password: use up to 512 letters, digits and signs.".into()));
                None
            }
            (false, Some(_)) if self.sign_in_user.trim().is_empty() => {
                mistakes.push(("sign_in_user", "Enter the user name that the password belongs to.".into()));
                None
            }
            (false, password) => password,
        };
        match self.typed().parse(allowed) {
            Ok(record) if mistakes.is_empty() => Ok((record, password)),
            Ok(_) => Err(mistakes),
            Err(mut others) => {
                others.append(&mut mistakes);
                Err(others)
            }
        }
    }
}

/// A choice of which one is made, as it is shown.
#[derive(Debug, Clone, Default)]
pub struct Choice {
    pub chosen: String,
    pub mistake: Option<String>,
    /// Whether somebody else has chosen otherwise meanwhile.
    pub theirs: Option<&'static str>,
}

/// The form as it is shown.
pub struct RecordView {
    /// The revision that it is shown with.
    pub seen: i64,
    pub change: ChangeId,
    /// Whether it is what was typed before a session ended.
    pub is_draft: bool,
    /// Who has saved something else meanwhile, and when.
    pub conflict: Option<(String, String)>,
    pub address: TextField,
    pub tls: Choice,
    pub certificate_name: TextField,
    pub trust: Choice,
    pub authority: TextField,
    pub fingerprint: TextField,
    pub sign_in_user: TextField,
    pub password_mistake: Option<String>,
    /// When the password was set that is stored now.
    pub password_set_at: Option<String>,
    pub connections: TextField,
    pub messages_per_connection: TextField,
    pub messages_per_minute: TextField,
    pub largest_message: TextField,
    pub backups: TextField,
    pub returning_mail: Choice,
    pub returning_networks: TextField,
    pub own_domains: Choice,
    /// The record in words, for who may only read.
    pub in_words: Vec<String>,
}

fn field(id: &'static str, label: &'static str, hint: &'static str, typed: &str) -> TextField {
    TextField { id, label, hint, lines: 1, direction: "ltr", typed: typed.to_owned(), ..TextField::default() }
}

impl RecordView {
    /// With what the store has.
    pub fn of(stored: &Stored) -> Self {
        let typed = Typed::of(&stored.record);
        let lines = |text: &str, least: usize| text.lines().count().clamp(least, 12);
        let choice = |chosen: &str| Choice { chosen: chosen.to_owned(), ..Choice::default() };
        Self {
            seen: stored.revision,
            change: ChangeId::new(),
            is_draft: false,
            conflict: None,
            address: field(
                "address",
                "Address",
                "Everything that points at this gateway follows a new address.",
                &typed.address,
            ),
            tls: choice(&typed.tls),
            certificate_name: field(
                "certificate_name",
                "Name in the certificate",
                "Only if it is not the host's own name. Needed where the address is a number.",
                &typed.certificate_name,
            ),
            trust: choice(&typed.trust),
            authority: TextField {
                lines: lines(&typed.authority, 4),
                ..field(
                    "authority",
                    "Certificate of your authority",
                    "In PEM: the lines from BEGIN CERTIFICATE to END CERTIFICATE.",
                    &typed.authority,
                )
            },
            fingerprint: field(
                "fingerprint",
                "SHA-256 fingerprint",
                "64 hexadecimal digits. Mail waits when the gateway gets another certificate, until you enter its fingerprint.",
                &typed.fingerprint,
            ),
            sign_in_user: field(
                "sign_in_user",
                "User name",
                "Only if the gateway asks us to sign in. Then TLS has to be required and verified.",
                &typed.sign_in_user,
            ),
            password_mistake: None,
            password_set_at: stored.password_set_at.map(wording::moment),
            connections: field("connections", "Connections at once", "From each relay, 1 to 50.", &typed.connections),
            messages_per_connection: field(
                "messages_per_connection",
                "Messages per connection",
                "Empty for no limit.",
                &typed.messages_per_connection,
            ),
            messages_per_minute: field(
                "messages_per_minute",
                "Messages per minute",
                "From all relays together, each of which has the same part. Empty for no limit. More wait in the queue.",
                &typed.messages_per_minute,
            ),
            largest_message: field(
                "largest_message",
                "Largest message (MB)",
                "Larger ones return to their sender at once. Empty: as the gateway itself says.",
                &typed.largest_message,
            ),
            backups: TextField {
                lines: lines(&typed.backups, 3),
                ..field(
                    "backups",
                    "Backups",
                    "Other gateways of your organization, one per line, the first to be tried first. Mail takes them while this gateway is out of reach, with their own address, TLS and sign-in.",
                    &typed.backups,
                )
            },
            returning_mail: choice(&typed.returning_mail),
            returning_networks: TextField {
                lines: lines(&typed.returning_networks, 3),
                ..field(
                    "returning_networks",
                    "Networks that it sends from",
                    "One per line, such as 192.0.2.0/24. Mail that comes back is known by them: name only the gateway's own servers, what else sends from there would pass it by.",
                    &typed.returning_networks,
                )
            },
            own_domains: choice(&typed.own_domains),
            in_words: stored.record.in_words().into(),
        }
    }

    fn fields(&mut self) -> [&mut TextField; 11] {
        [
            &mut self.address,
            &mut self.certificate_name,
            &mut self.authority,
            &mut self.fingerprint,
            &mut self.sign_in_user,
            &mut self.connections,
            &mut self.messages_per_connection,
            &mut self.messages_per_minute,
            &mut self.largest_message,
            &mut self.backups,
            &mut self.returning_networks,
        ]
    }

    fn choices(&mut self) -> [(&'static str, &mut Choice); 4] {
        [
            ("tls", &mut self.tls),
            ("trust", &mut self.trust),
            ("returning_mail", &mut self.returning_mail),
            ("own_domains", &mut self.own_domains),
        ]
    }

    /// With what was typed. Where that is not what is saved now, and it was shown with something older, both stand there.
    fn again(&mut self, typed: impl Fn(&str) -> Option<String>, is_outdated: bool) {
        for field in self.fields() {
            let Some(typed) = typed(field.id) else { continue };
            // Browsers send lines ended by CRLF.
            let typed = typed.replace("\r\n", "\n");
            if is_outdated && typed.trim() != field.typed.trim() {
                field.theirs = Some(field.typed.clone());
            }
            field.typed = typed;
        }
        for (name, choice) in self.choices() {
            let Some(typed) = typed(name) else { continue };
            if is_outdated && typed != choice.chosen {
                choice.theirs = Some(in_words(&choice.chosen));
            }
            choice.chosen = typed;
        }
    }

    /// With what was typed before the session ended; a password is never kept.
    pub fn restore(&mut self, draft: &Draft) {
        let Some(seen) = draft.field("seen").filter(|_| draft.field("own_domains").is_some()) else { return };
        let is_outdated = seen != self.seen.to_string();
        self.again(|name| draft.field(name).map(str::to_owned), is_outdated);
        self.is_draft = true;
    }

    fn mistaken(&mut self, mistakes: &Mistakes) {
        let of = |id: &str| mistakes.iter().find(|(field, _)| *field == id).map(|(_, mistake)| mistake.clone());
        for field in self.fields() {
            field.mistake = of(field.id);
        }
        for (name, choice) in self.choices() {
            choice.mistake = of(name);
        }
        self.password_mistake = of("password");
    }
}

/// A choice as its label says it.
fn in_words(choice: &str) -> &'static str {
    match choice {
        "when-offered" => "When offered",
        "required" => "Required",
        "verified" => "Required and verified",
        "platform" => "Public certificate authorities",
        "authority" => "Your organization's own authority",
        "fingerprint" => "Only this certificate",
        "refuse" => "Refuse it",
        "onward" => "Deliver it onward by the platform's default",
        "gateway" => "Through the gateway, as all other mail",
        "inbound" => "To the domain's inbound host",
        _ => "something else",
    }
}

/// The form stands on the gateway's page: who comes here, after signing in again for example, is led there.
async fn show(
    State(app): State<App>,
    inside: InOrganization,
    Named(gateway): Named<GatewayId>,
    RawQuery(query): RawQuery,
) -> Result<Response, PageError> {
    let mut transaction = app.store.begin(&inside.access).await?;
    let stored = store::gateway_record::stored(&mut transaction, inside.access.organization(), gateway).await?;
    stored.ok_or(PageError::NotFound)?;
    let page = gateway::link(&inside.access.slug, gateway).build();
    Ok(see_other(&match query {
        Some(query) if !query.is_empty() => format!("{page}?{query}"),
        _ => page,
    }))
}

async fn save(
    State(app): State<App>,
    inside: InOrganization,
    Named(gateway): Named<GatewayId>,
    Form(form): Form<RecordForm>,
) -> Result<Response, PageError> {
    if !inside.access.role.may_set_organization_gateway() {
        return Err(PageError::Forbidden("Only an Administrator may change a gateway. Ask one of your organization."));
    }
    let malformed = |what: &str| PageError::Malformed(format!("{what} is not what the form was shown with"));
    let change: ChangeId = form.change.parse().map_err(|_| malformed("change"))?;
    let seen: i64 = form.seen.parse().map_err(|_| malformed("seen"))?;
    let (record, password) = match form.parse(&gateway_form::allowed_networks(&app, &inside.access).await?) {
        Ok(parsed) => parsed,
        Err(mistakes) => return again(&app, &inside, gateway, &form, &mistakes).await,
    };
    let mut transaction = app.store.begin(&inside.access).await?;
    if let Some(by) = changed_meanwhile(&mut transaction, gateway, change, seen, &inside.access.email).await? {
        drop(transaction);
        return conflict(&app, &inside, gateway, &form, by).await;
    }
    let sealed = match password.zip(record.sign_in_user.as_deref()) {
        None => None,
        Some((password, user)) => match seal(&mut transaction, gateway, &record, user, &password).await? {
            Some(sealed) => Some(sealed),
            None => {
                const SENTENCE: &str =
                    "No relay can keep passwords yet. Ask the operator to set OUTGATE_SECRET_KEY_FILE on the relays.";
                drop(transaction);
                return again(&app, &inside, gateway, &form, &vec![("password", SENTENCE.to_owned())]).await;
            }
        },
    };
    let here = gateway::link(&inside.access.slug, gateway);
    let email = &inside.access.email;
    let edit = Edit { change, record: &record, password: sealed.as_ref(), at_once: false, actor: email };
    let mistake = match store::gateway_record::save(transaction, gateway, &edit).await? {
        Saved::NotFound => return Err(PageError::NotFound),
        Saved::Unchanged => return Ok(see_other(&here.with("unchanged", "1").build())),
        Saved::Already | Saved::GivenUp(_) => {
            return Ok(see_other(&here.with("change", &change.to_string()).build()));
        }
        Saved::Pending(_) => {
            app.going_live.ring();
            return Ok(see_other(&here.with("change", &change.to_string()).build()));
        }
        Saved::Changed(committed) => {
            verification::begin_after(&app, &inside.access, committed.id).await;
            status::wait_until_live(&app, &inside.access, committed.revision).await;
            return Ok(see_other(&here.with("change", &committed.id.to_string()).build()));
        }
        Saved::AddressTaken => (
            "address",
            "Another gateway of your organization has this address. Point users and domains at that one.".to_owned(),
        ),
        Saved::NoSuchBackup(address) => (
            "backups",
            format!("{address} is no other gateway of your organization. Set it for a domain or a user first."),
        ),
        Saved::PasswordNeeded => (
            "password",
            "Enter the password. A stored one is kept only for the same address, TLS and user name.".to_owned(),
        ),
    };
    again(&app, &inside, gateway, &form, &vec![mistake]).await
}

/// Who else has saved another revision than the one that was seen, unless this very form was saved before.
async fn changed_meanwhile(
    transaction: &mut OrganizationTransaction,
    gateway: GatewayId,
    change: ChangeId,
    seen: i64,
    actor: &str,
) -> Result<Option<(String, String)>, PageError> {
    let organization = transaction.organization();
    let stored = store::gateway_record::wanted_for_update(transaction, gateway).await?.ok_or(PageError::NotFound)?;
    if stored.revision == seen || store::gateway_record::is_saved(transaction, organization, change).await? {
        return Ok(None);
    }
    let by = store::change::last_of(transaction, organization, ("gateway", &gateway.to_string()), None).await?;
    Ok(by.filter(|by| by.actor != actor).map(|by| (by.actor, wording::moment(by.at))))
}

/// The password for exactly this record; `None` if there is no key to seal with.
async fn seal(
    transaction: &mut OrganizationTransaction,
    gateway: GatewayId,
    record: &GatewayRecord,
    user: &str,
    password: &Password,
) -> Result<Option<SealedSecret>, PageError> {
    let organization = transaction.organization();
    let Some(key) = store::secret_key::newest(transaction).await? else { return Ok(None) };
    let context = secret_context(organization, gateway, &record.address, record.tls, user);
    Ok(Some(key.seal(password, &context).map_err(anyhow::Error::from)?))
}

async fn again(
    app: &App,
    inside: &InOrganization,
    gateway: GatewayId,
    form: &RecordForm,
    mistakes: &Mistakes,
) -> Result<Response, PageError> {
    let mut look = gateway::look(app, inside, gateway).await?;
    look.mistakes.clone_from(mistakes);
    // What was seen stays what it was: a save of somebody else is still to be noticed.
    look.record.seen = form.seen.parse().unwrap_or(look.record.seen);
    look.record.again(of(form.typed()), false);
    look.record.mistaken(mistakes);
    Ok((StatusCode::UNPROCESSABLE_ENTITY, page(&look)?).into_response())
}

async fn conflict(
    app: &App,
    inside: &InOrganization,
    gateway: GatewayId,
    form: &RecordForm,
    by: (String, String),
) -> Result<Response, PageError> {
    let mut look = gateway::look(app, inside, gateway).await?;
    look.record.again(of(form.typed()), true);
    look.record.conflict = Some(by);
    Ok((StatusCode::CONFLICT, page(&look)?).into_response())
}

/// What was typed, by the fields' names.
fn of(typed: Typed) -> impl Fn(&str) -> Option<String> {
    move |name| {
        Some(match name {
            "address" => typed.address.clone(),
            "tls" => typed.tls.clone(),
            "certificate_name" => typed.certificate_name.clone(),
            "trust" => typed.trust.clone(),
            "authority" => typed.authority.clone(),
            "fingerprint" => typed.fingerprint.clone(),
            "sign_in_user" => typed.sign_in_user.clone(),
            "connections" => typed.connections.clone(),
            "messages_per_connection" => typed.messages_per_connection.clone(),
            "messages_per_minute" => typed.messages_per_minute.clone(),
            "largest_message" => typed.largest_message.clone(),
            "backups" => typed.backups.clone(),
            "returning_mail" => typed.returning_mail.clone(),
            "returning_networks" => typed.returning_networks.clone(),
            "own_domains" => typed.own_domains.clone(),
            _ => return None,
        })
    }
}
