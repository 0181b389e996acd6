//! Organizations: made by the operator, looked at by their administrators.
//! Slugs are checked here; what an administrator may see of one is `tenant`'s.

use ipnet::IpNet;
use serde_json::json;
use sqlx::{PgConnection, PgExecutor, PgPool};

use super::{
    OrganizationTransaction, Result,
    change::{self, AuditEntry, ChangeItem, Committed, LastChange, Subject},
    gateway::Set,
};
use crate::{
    mail::{DomainName, GatewayAddress, Mailbox, id::OrganizationId},
    policy::{
        going_live::VerifyBeforeLive,
        routing::{HeldUntil, SenderGateways},
    },
};

/// What an organization is called in paths and on the command line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Slug(String);

/// First segments of paths that are not organizations.
const RESERVED: [&str; 13] = [
    "administration",
    "api",
    "assets",
    "favicon",
    "healthz",
    "help",
    "message",
    "metrics",
    "readyz",
    "sign-in",
    "sign-out",
    "static",
    "web-mail-cloud",
];

/// Why something cannot be a slug.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SlugError {
    #[error("“{0}” is not a slug: use 1 to 40 small letters, digits and inner hyphens, such as acme")]
    Malformed(String),
    #[error("“{0}” is reserved, use another slug")]
    Reserved(String),
}

impl std::str::FromStr for Slug {
    type Err = SlugError;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        let well_formed = (1..=40).contains(&typed.len())
            && typed.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
            && !typed.starts_with('-')
            && !typed.ends_with('-');
        if !well_formed {
            return Err(SlugError::Malformed(typed.to_owned()));
        }
        if RESERVED.contains(&typed) {
            return Err(SlugError::Reserved(typed.to_owned()));
        }
        Ok(Self(typed.to_owned()))
    }
}

impl std::fmt::Display for Slug {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Why an organization was not made. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum CreateError {
    #[error("the organization “{0}” exists already")]
    SlugTaken(String),
    #[error("the mail domain {0} belongs to an organization already")]
    DomainTaken(DomainName),
    #[error(transparent)]
    Store(#[from] sqlx::Error),
}

/// Makes an organization with its mail domains, as one change. For the operator.
pub async fn create(
    owner: &PgPool,
    slug: &Slug,
    name: &str,
    domains: &[DomainName],
) -> Result<OrganizationId, CreateError> {
    let id = OrganizationId::new();
    let mut transaction = OrganizationTransaction::begin(owner, id).await?;
    sqlx::query!(
        "insert into organization (id, slug, name) values ($1, $2, $3)",
        id as OrganizationId,
        slug.to_string(),
        name,
    )
    .execute(&mut *transaction)
    .await
    .map_err(|error| match is_unique_violation(&error) {
        true => CreateError::SlugTaken(slug.to_string()),
        false => error.into(),
    })?;
    let mut items = vec![ChangeItem {
        subject: Subject::Organization,
        key: id.to_string(),
        before: None,
        after: Some(json!({ "slug": slug.to_string(), "name": name })),
    }];
    for domain in domains {
        super::domain::insert(&mut transaction, id, domain).await.map_err(|error| {
            match is_unique_violation(&error) {
                true => CreateError::DomainTaken(domain.clone()),
                false => error.into(),
            }
        })?;
        items.push(super::domain::added(domain));
    }
    let audit = AuditEntry {
        actor: "operator".to_owned(),
        action: "organization.create",
        subject: slug.to_string(),
        before: None,
        after: Some(name.to_owned()),
    };
    transaction.commit_change(&items, audit).await?;
    Ok(id)
}

/// Suspends an organization, or lets it go on: while it is suspended its mail is refused, what waits is held, and
/// nobody signs in to it. Returns the change, or `None` if it was so already. For the operator.
pub async fn set_suspended(
    mut transaction: OrganizationTransaction,
    suspended: bool,
    actor: &str,
) -> Result<Option<Committed>> {
    let organization = transaction.organization();
    let word = |suspended: bool| if suspended { "suspended" } else { "active" };
    let changed = sqlx::query!(
        "update organization set status = $2 where id = $1 and status <> $2",
        organization as OrganizationId,
        word(suspended),
    )
    .execute(&mut *transaction)
    .await?;
    if changed.rows_affected() == 0 {
        return Ok(None);
    }
    let item = ChangeItem {
        subject: Subject::Organization,
        key: organization.to_string(),
        before: Some(json!({ "status": word(!suspended) })),
        after: Some(json!({ "status": word(suspended) })),
    };
    let audit = AuditEntry {
        actor: actor.to_owned(),
        action: if suspended { "organization.suspend" } else { "organization.resume" },
        subject: "the organization".to_owned(),
        before: Some(word(!suspended).to_owned()),
        after: Some(word(suspended).to_owned()),
    };
    transaction.commit_change(&[item], audit).await.map(Some)
}

/// Private networks that the organization's gateways may be in, besides those that the operator opened to all.
pub async fn gateway_networks(db: &mut PgConnection, organization: OrganizationId) -> Result<Vec<IpNet>> {
    sqlx::query_scalar!("select gateway_networks from organization where id = $1", organization as OrganizationId)
        .fetch_one(db)
        .await
}

/// Opens a private network to the gateways of one organization, or takes it back (not `allowed`), as one change; the
/// network as a whole, as it was given. `NotFound`: it is not there to be taken back. For the operator.
pub async fn allow_network(
    mut transaction: OrganizationTransaction,
    network: IpNet,
    allowed: bool,
    actor: &str,
) -> Result<Set> {
    let organization = transaction.organization();
    let before = sqlx::query_scalar!(
        "select gateway_networks from organization where id = $1 for no key update",
        organization as OrganizationId,
    )
    .fetch_one(&mut *transaction)
    .await?;
    match (before.contains(&network), allowed) {
        (true, true) => return Ok(Set::Unchanged),
        (false, false) => return Ok(Set::NotFound),
        (true, false) | (false, true) => {}
    }
    let mut after = before.clone();
    after.retain(|other| *other != network);
    after.extend(allowed.then_some(network));
    after.sort_unstable();
    sqlx::query!(
        "update organization set gateway_networks = $2 where id = $1",
        organization as OrganizationId,
        &after,
    )
    .execute(&mut *transaction)
    .await?;
    let value = |networks: &[IpNet]| {
        let networks: Vec<String> = networks.iter().map(ToString::to_string).collect();
        Some(json!({ "gateway_networks": networks }))
    };
    let item = ChangeItem {
        subject: Subject::Organization,
        key: organization.to_string(),
        before: value(&before),
        after: value(&after),
    };
    let (is, was) = (allowed.then(|| network.to_string()), (!allowed).then(|| network.to_string()));
    let audit = AuditEntry {
        actor: actor.to_owned(),
        action: if allowed { "network.allow" } else { "network.remove" },
        subject: "the organization".to_owned(),
        before: was,
        after: is,
    };
    transaction.commit_change(&[item], audit).await.map(Set::Changed)
}

/// What the operator is shown of an organization.
#[derive(Debug, Clone)]
pub struct Shown {
    pub name: String,
    pub suspended: bool,
    pub gateway_networks: Vec<IpNet>,
}

/// The organization of the transaction, for the operator.
pub async fn shown(db: &mut PgConnection, organization: OrganizationId) -> Result<Shown> {
    sqlx::query_as!(
        Shown,
        r#"select name, status = 'suspended' as "suspended!", gateway_networks from organization where id = $1"#,
        organization as OrganizationId,
    )
    .fetch_one(db)
    .await
}

/// Says whether mail from addresses that no account has is refused, as one change.
pub async fn set_unknown_senders(mut transaction: OrganizationTransaction, refuse: bool, actor: &str) -> Result<Set> {
    let changed = sqlx::query!(
        "update organization set refuse_unknown_senders = $2 where id = $1 and refuse_unknown_senders <> $2",
        transaction.organization() as OrganizationId,
        refuse,
    );
    let changed = changed.execute(&mut *transaction).await?.rows_affected() > 0;
    chosen(transaction, changed, ("refuse_unknown_senders", refuse), ("senders.unknown", "all users"), actor).await
}

/// Says which gateways have to pass a verification before they go live, as one change. What is pending stays so.
pub async fn set_verify_before_live(
    mut transaction: OrganizationTransaction,
    wanted: VerifyBeforeLive,
    actor: &str,
) -> Result<Set> {
    let organization = transaction.organization();
    let before = sqlx::query_scalar!(
        r#"
        select verify_before_live as "wanted: VerifyBeforeLive" from organization where id = $1 for no key update
        "#,
        organization as OrganizationId,
    )
    .fetch_one(&mut *transaction)
    .await?;
    if before == wanted {
        return Ok(Set::Unchanged);
    }
    sqlx::query!(
        "update organization set verify_before_live = $2 where id = $1",
        organization as OrganizationId,
        wanted as VerifyBeforeLive,
    )
    .execute(&mut *transaction)
    .await?;
    let value = |choice: VerifyBeforeLive| Some(json!({ "verify_before_live": choice.to_string() }));
    let item = ChangeItem {
        subject: Subject::Organization,
        key: organization.to_string(),
        before: value(before),
        after: value(wanted),
    };
    let audit = AuditEntry {
        actor: actor.to_owned(),
        action: "gateway.verify-before-live",
        subject: "all users".to_owned(),
        before: Some(before.to_string()),
        after: Some(wanted.to_string()),
    };
    transaction.commit_change(&[item], audit).await.map(Set::Changed)
}

/// Which gateways of the organization have to pass a verification before they go live: none as long as it has no mail
/// domain to verify for.
pub(super) async fn verify_before_live(transaction: &mut OrganizationTransaction) -> Result<VerifyBeforeLive> {
    let organization = transaction.organization();
    let row = sqlx::query!(
        r#"
        select verify_before_live as "wanted: VerifyBeforeLive", probe_sender_of($1) is not null as "can_be!"
        from organization where id = $1
        "#,
        organization as OrganizationId,
    )
    .fetch_one(&mut **transaction)
    .await?;
    Ok(if row.can_be { row.wanted } else { VerifyBeforeLive::Never })
}

/// What became of saying whom verifications come from.
#[derive(Debug)]
pub enum ProbeSender {
    /// It is an address of this domain, which the organization does not have.
    NotOurs(DomainName),
    /// Somebody else has said something else since the form was shown.
    Meanwhile(Option<LastChange>),
    Unchanged,
    Changed(Committed),
}

/// Says whom verifications come from, `None` for the postmaster of the shortest mail domain, as one change. `seen` is
/// what the form was shown with, empty for none. One's own earlier save is not somebody else's.
pub async fn set_probe_sender(
    mut transaction: OrganizationTransaction,
    sender: Option<&Mailbox>,
    seen: &str,
    actor: &str,
) -> Result<ProbeSender> {
    let organization = transaction.organization();
    let written = |sender: Option<&Mailbox>| sender.map(ToString::to_string);
    let before = sqlx::query_scalar!(
        r#"select probe_sender as "probe_sender: Mailbox" from organization where id = $1 for no key update"#,
        organization as OrganizationId,
    )
    .fetch_one(&mut *transaction)
    .await?;
    let before = before.as_ref();
    if before == sender {
        return Ok(ProbeSender::Unchanged);
    }
    if written(before).unwrap_or_default() != seen {
        let thing = (Subject::Organization.as_str(), &*organization.to_string());
        let by = change::last_of(&mut transaction, organization, thing, None).await?;
        if by.as_ref().is_none_or(|by| by.actor != actor) {
            return Ok(ProbeSender::Meanwhile(by));
        }
    }
    if let Some(sender) = sender
        && super::domain::list(&mut transaction, organization).await?.iter().all(|own| own.name != *sender.domain())
    {
        return Ok(ProbeSender::NotOurs(sender.domain().clone()));
    }
    sqlx::query!(
        "update organization set probe_sender = $2 where id = $1",
        organization as OrganizationId,
        sender as Option<&Mailbox>,
    )
    .execute(&mut *transaction)
    .await?;
    let value = |sender: Option<&Mailbox>| Some(json!({ "probe_sender": written(sender) }));
    let item = ChangeItem {
        subject: Subject::Organization,
        key: organization.to_string(),
        before: value(before),
        after: value(sender),
    };
    let audit = AuditEntry {
        actor: actor.to_owned(),
        action: if sender.is_some() { "probe-sender.set" } else { "probe-sender.delete" },
        subject: "the organization".to_owned(),
        before: written(before),
        after: written(sender),
    };
    transaction.commit_change(&[item], audit).await.map(ProbeSender::Changed)
}

/// Commits a choice of the organization, unless it stood like that already.
pub(super) async fn chosen(
    transaction: OrganizationTransaction,
    changed: bool,
    (field, choice): (&str, bool),
    (action, subject): (&'static str, &str),
    actor: &str,
) -> Result<Set> {
    if !changed {
        return Ok(Set::Unchanged);
    }
    let item = ChangeItem {
        subject: Subject::Organization,
        key: transaction.organization().to_string(),
        before: Some(json!({ field: !choice })),
        after: Some(json!({ field: choice })),
    };
    let in_words = |choice: bool| Some(if choice { "yes" } else { "no" }.to_owned());
    let audit = AuditEntry {
        actor: actor.to_owned(),
        action,
        subject: subject.to_owned(),
        before: in_words(!choice),
        after: in_words(choice),
    };
    transaction.commit_change(&[item], audit).await.map(Set::Changed)
}

/// The organization with this slug. For the operator's commands, which name one.
pub async fn by_slug_across_tenants(db: impl PgExecutor<'_>, slug: &str) -> Result<Option<OrganizationId>> {
    sqlx::query_scalar!(r#"select id as "id: OrganizationId" from organization where slug = $1"#, slug)
        .fetch_optional(db)
        .await
}

/// An organization at a glance: how many accounts there are, and whose gateway they follow.
/// A suspended account sends nothing, so it counts as nobody's follower.
#[derive(Debug, Clone)]
pub struct Summary {
    pub accounts: i64,
    pub suspended: i64,
    /// Active accounts with a gateway of their own.
    pub with_own_gateway: i64,
    /// Active accounts without one of their own whose mail domain has one.
    pub with_domain_gateway: i64,
    /// Active accounts that the organization's gateway applies to, or the platform's default where it has none.
    pub following: i64,
    pub administrators: i64,
    pub gateway: Option<GatewayAddress>,
    /// What is to be the gateway once it has passed its verification.
    pub pending: Option<GatewayAddress>,
    /// Which gateways have to pass one before they go live.
    pub verify_before_live: VerifyBeforeLive,
    /// A sender without a gateway is held, by that choice or because one is pending.
    pub holds_without_gateway: bool,
    /// A sender without a gateway is held instead of following the platform's default.
    pub must_use_gateway: bool,
    /// New mail from an address that no account has is refused.
    pub refuse_unknown_senders: bool,
    /// Whom verifications come from, where somebody has said so.
    pub probe_sender: Option<Mailbox>,
    /// Whom they come from in fact; `None` as long as there is no mail domain.
    pub verifies_as: Option<String>,
}

impl Summary {
    /// What applies to everybody who has nothing nearer.
    pub fn gateways(&self) -> SenderGateways<GatewayAddress> {
        let awaits = self.gateway.is_none() && self.pending.is_some();
        let (organization, held_until) = (self.gateway.clone(), HeldUntil::of(self.holds_without_gateway, awaits));
        SenderGateways { user: None, domain: None, organization, held_until }
    }

    /// Active accounts that have no gateway at any scope.
    pub fn without_gateway(&self) -> i64 {
        if self.gateway.is_none() { self.following } else { 0 }
    }
}

/// The organization of the transaction at a glance, from counts that the schema keeps.
pub async fn summary(db: &mut PgConnection, organization: OrganizationId) -> Result<Summary> {
    sqlx::query_as!(
        Summary,
        r#"
        select coalesce(sum(counted.accounts), 0)::bigint as "accounts!",
               coalesce(sum(counted.suspended), 0)::bigint as "suspended!",
               coalesce(sum(counted.with_own_gateway), 0)::bigint as "with_own_gateway!",
               coalesce(sum(counted.accounts - counted.suspended - counted.with_own_gateway)
                        filter (where domain.outbound_gateway_id is not null), 0)::bigint as "with_domain_gateway!",
               coalesce(sum(counted.accounts - counted.suspended - counted.with_own_gateway)
                        filter (where domain.outbound_gateway_id is null), 0)::bigint as "following!",
               (select count(*) from administrator_role where organization_id = $1) as "administrators!",
               (select gateway.address from organization
                join gateway on gateway.organization_id = organization.id
                            and gateway.id = organization.outbound_gateway_id
                where organization.id = $1) as "gateway: GatewayAddress",
               (select gateway.address from organization
                join gateway on gateway.organization_id = organization.id
                            and gateway.id = organization.pending_gateway_id
                where organization.id = $1) as "pending: GatewayAddress",
               (select verify_before_live from organization where id = $1) as "verify_before_live!: VerifyBeforeLive",
               (select holds_without_gateway from organization where id = $1) as "holds_without_gateway!",
               (select must_use_gateway from organization where id = $1) as "must_use_gateway!",
               (select refuse_unknown_senders from organization where id = $1) as "refuse_unknown_senders!",
               (select probe_sender from organization where id = $1) as "probe_sender: Mailbox",
               probe_sender_of($1) as verifies_as
        from account_count counted
        join mail_domain domain on domain.organization_id = counted.organization_id and domain.name = counted.domain
        where counted.organization_id = $1
        "#,
        organization as OrganizationId,
    )
    .fetch_one(db)
    .await
}

/// Whom verifications come from; `None` as long as there is no mail domain.
pub async fn probe_sender_across_tenants(
    db: impl PgExecutor<'_>,
    organization: OrganizationId,
) -> Result<Option<String>> {
    sqlx::query_scalar!(r#"select probe_sender_of($1)"#, organization as OrganizationId).fetch_one(db).await
}

pub(super) fn is_unique_violation(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.is_unique_violation())
}
