//! The facts that routing decides from, read from the store: all of them for a relay that starts,
//! what changes touched for one that follows, one sender's for `outgate route explain`.

use std::collections::{HashMap, HashSet};

use futures_util::{TryStreamExt, stream::BoxStream};
use ipnet::IpNet;
use serde_json::Value;
use sqlx::{Connection, PgConnection, PgPool};

use super::{Result, change::Subject, deleted_organization, gateway_record, limit};
use crate::{
    mail::{
        DomainName, GatewayAddress, Mailbox,
        id::{AccountId, CredentialId, GatewayId, ListId, OrganizationId, Revision},
    },
    policy::{
        distribution_list::{Addresses, Approval, DistributionList, MaySend},
        facts::{AccountFacts, DomainFacts, Gateway, OrganizationFacts, RoutingFacts, TlsMode},
        gateway_settings::{GatewaySettings, OwnDomains, Returning, SignIn},
        limit::OrganizationLimits,
        relay_credential::{RelayCredential, SecretHash},
        sender,
    },
    secret::SealedSecret,
};

/// Every statement of the transaction sees the store as it was at the first of them.
const SNAPSHOT: &str = "begin isolation level repeatable read read only";

/// All facts, as they were at the revision that is returned with them: one snapshot, read row by row.
pub async fn load_all_across_tenants(db: &mut PgConnection) -> Result<(Revision, RoutingFacts)> {
    let mut snapshot = db.begin_with(SNAPSHOT).await?;
    let loaded = load_all(&mut snapshot).await?;
    snapshot.commit().await?;
    Ok(loaded)
}

async fn load_all(db: &mut PgConnection) -> Result<(Revision, RoutingFacts)> {
    let revision = latest_revision(db).await?;
    let mut facts = RoutingFacts::default();
    load_organizations(db, &mut facts).await?;
    load_domains(db, &mut facts).await?;
    load_gateways(db, &mut facts).await?;
    load_accounts(db, &mut facts).await?;
    load_addresses(db, &mut facts).await?;
    load_credentials(db, &mut facts).await?;
    load_lists(db, &mut facts).await?;
    for (organization, limits) in limit::facts_across_tenants(db, None).await? {
        facts.set_limits(organization, Some(limits));
    }
    Ok((revision, facts))
}

async fn latest_revision(db: &mut PgConnection) -> Result<Revision> {
    sqlx::query_scalar!(r#"select revision as "revision: Revision" from installation"#).fetch_one(db).await
}

async fn load_organizations(db: &mut PgConnection, facts: &mut RoutingFacts) -> Result<()> {
    let mut rows = sqlx::query!(
        r#"
        select id as "id: OrganizationId", status = 'suspended' as "suspended!",
               outbound_gateway_id as "gateway: GatewayId", holds_without_gateway, refuse_unknown_senders, large_list,
               outbound_gateway_id is null and pending_gateway_id is not null as "awaits_gateway!", gateway_networks
        from organization
        "#,
    )
    .fetch(db);
    while let Some(row) = rows.try_next().await? {
        let of_organization = OrganizationFacts {
            suspended: row.suspended,
            gateway: row.gateway,
            must_use_gateway: row.holds_without_gateway,
            awaits_gateway: row.awaits_gateway,
            refuse_unknown_senders: row.refuse_unknown_senders,
            large_list: Some(row.large_list.cast_unsigned()),
            gateway_networks: row.gateway_networks.into(),
        };
        facts.set_organization(row.id, Some(of_organization));
    }
    Ok(())
}

async fn load_domains(db: &mut PgConnection, facts: &mut RoutingFacts) -> Result<()> {
    let mut rows = sqlx::query!(
        r#"
        select organization_id as "organization: OrganizationId", name as "name: DomainName",
               outbound_gateway_id as "gateway: GatewayId", inbound_host as "inbound_host: GatewayAddress",
               outbound_gateway_id is null and pending_gateway_id is not null as "awaits_gateway!"
        from mail_domain
        "#,
    )
    .fetch(db);
    while let Some(row) = rows.try_next().await? {
        let of_domain = DomainFacts {
            organization: row.organization,
            gateway: row.gateway,
            awaits_gateway: row.awaits_gateway,
            inbound_host: row.inbound_host,
        };
        facts.set_domain(row.name, Some(of_domain));
    }
    Ok(())
}

/// A gateway with the revision that is in use.
struct GatewayRow {
    organization: OrganizationId,
    id: GatewayId,
    revision: i64,
    address: GatewayAddress,
    tls: TlsMode,
    certificate_name: Option<DomainName>,
    authority: Option<String>,
    fingerprint: Option<Vec<u8>>,
    sign_in_user: Option<String>,
    connections: i16,
    messages_per_connection: Option<i32>,
    messages_per_minute: Option<i32>,
    largest_message: Option<i64>,
    backups: Vec<GatewayId>,
    returning: Returning,
    returning_networks: Vec<IpNet>,
    own_domains: OwnDomains,
}

impl GatewayRow {
    fn into_gateway(self, secret: Option<SealedSecret>) -> Gateway {
        let secret = secret.unwrap_or_else(SealedSecret::withheld);
        let settings = GatewaySettings {
            certificate_name: self.certificate_name,
            trust: gateway_record::trust(self.authority, self.fingerprint),
            sign_in: self.sign_in_user.map(|user| SignIn { user, secret }),
            limits: gateway_record::limits(
                self.connections,
                self.messages_per_connection,
                self.messages_per_minute,
                self.largest_message,
            ),
            backups: self.backups,
            returning: self.returning,
            returning_networks: self.returning_networks,
            own_domains: self.own_domains,
        };
        Gateway {
            organization: self.organization,
            id: self.id,
            revision: self.revision,
            address: self.address,
            tls: self.tls,
            settings: settings.shared(),
        }
    }
}

/// Gateways, each with the revision that the rest of the statement calls `used`.
macro_rules! gateway_rows {
    ($of:tt $(, $argument:expr)* $(,)?) => {
        sqlx::query_as!(
            GatewayRow,
            r#"
            select used.organization_id as "organization: OrganizationId", used.gateway_id as "id: GatewayId",
                   used.revision, used.address as "address: GatewayAddress", used.tls as "tls: TlsMode",
                   used.certificate_name as "certificate_name: DomainName", used.authority, used.fingerprint,
                   used.sign_in_user, used.connections, used.messages_per_connection, used.messages_per_minute,
                   used.largest_message, used.backups as "backups: Vec<GatewayId>",
                   used.returning_mail as "returning: Returning", used.returning_networks,
                   used.own_domains as "own_domains: OwnDomains"
            "# + $of
            $(, $argument)*
        )
    };
}

type Secrets = HashMap<(OrganizationId, GatewayId), SealedSecret>;

/// The passwords that gateways sign in with, of all or of these. Only relays and the owner may read them.
async fn secrets(db: &mut PgConnection, only: Option<&HashSet<(OrganizationId, GatewayId)>>) -> Result<Secrets> {
    let ids: Option<Vec<GatewayId>> = only.map(|touched| touched.iter().map(|(_, gateway)| *gateway).collect());
    let rows = sqlx::query!(
        r#"
        select secret.organization_id as "organization: OrganizationId", gateway_id as "gateway: GatewayId", secret.sealed
        from gateway_secret secret
        join gateway_revision used using (organization_id, gateway_id)
        join gateway on gateway.organization_id = secret.organization_id and gateway.id = secret.gateway_id
                    and gateway.revision = used.revision
        where used.sign_in_secret_id = secret.id and ($1::uuid[] is null or gateway_id = any($1))
        "#,
        ids.as_deref() as Option<&[GatewayId]>,
    )
    .fetch_all(db)
    .await?;
    Ok(rows.into_iter().map(|row| ((row.organization, row.gateway), SealedSecret::new(&row.sealed))).collect())
}

async fn load_gateways(db: &mut PgConnection, facts: &mut RoutingFacts) -> Result<()> {
    let mut secrets = secrets(&mut *db, None).await?;
    let mut rows = gateway_rows!(
        r#"
        from gateway
        join gateway_revision used on used.organization_id = gateway.organization_id
                                  and used.gateway_id = gateway.id and used.revision = gateway.revision
        "#,
    )
    .fetch(db);
    while let Some(row) = rows.try_next().await? {
        let secret = secrets.remove(&(row.organization, row.id));
        facts.set_gateway(row.id, Some(row.into_gateway(secret)));
    }
    Ok(())
}

/// A gateway as this revision of its record has it, for a verification of a change that is not live.
pub async fn gateway_as_of_across_tenants(
    db: &mut PgConnection,
    organization: OrganizationId,
    gateway: GatewayId,
    revision: i64,
) -> Result<Option<Gateway>> {
    let row = gateway_rows!(
        r#"
        from gateway_revision used
        where used.organization_id = $1 and used.gateway_id = $2 and used.revision = $3
        "#,
        organization as OrganizationId,
        gateway as GatewayId,
        revision,
    )
    .fetch_optional(&mut *db)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let secret = sqlx::query_scalar!(
        r#"
        select secret.sealed
        from gateway_revision used
        join gateway_secret secret on secret.organization_id = $1 and secret.gateway_id = $2
                                  and secret.id = used.sign_in_secret_id
        where used.organization_id = $1 and used.gateway_id = $2 and used.revision = $3
        "#,
        organization as OrganizationId,
        gateway as GatewayId,
        revision,
    )
    .fetch_optional(db)
    .await?;
    Ok(Some(row.into_gateway(secret.map(|sealed| SealedSecret::new(&sealed)))))
}

async fn load_accounts(db: &mut PgConnection, facts: &mut RoutingFacts) -> Result<()> {
    let mut rows = sqlx::query!(
        r#"
        select id as "id: AccountId", status = 'suspended' as "suspended!", outbound_gateway_id as "gateway: GatewayId"
        from mail_account
        where outbound_gateway_id is not null or status = 'suspended'
        "#,
    )
    .fetch(db);
    while let Some(row) = rows.try_next().await? {
        facts.set_account(row.id, Some(AccountFacts { suspended: row.suspended, gateway: row.gateway }));
    }
    Ok(())
}

async fn load_addresses(db: &mut PgConnection, facts: &mut RoutingFacts) -> Result<()> {
    let mut rows = sqlx::query!(r#"select address, account_id as "account: AccountId" from mail_address"#).fetch(db);
    while let Some(row) = rows.try_next().await? {
        facts.set_address(&row.address, Some(row.account));
    }
    Ok(())
}

async fn load_credentials(db: &mut PgConnection, facts: &mut RoutingFacts) -> Result<()> {
    for credential in read_valid_credentials(db, None).await? {
        facts.set_credential(credential.id, Some(credential));
    }
    Ok(())
}

/// What some things are now. `None`: gone.
#[derive(Debug, Default)]
pub struct Changes {
    organizations: Vec<(OrganizationId, Option<OrganizationFacts>)>,
    domains: Vec<(DomainName, Option<DomainFacts>)>,
    gateways: Vec<(GatewayId, Option<Gateway>)>,
    accounts: Vec<(AccountId, Option<AccountFacts>)>,
    former_addresses: Vec<String>,
    /// Whose former addresses nobody wrote down.
    of_unknown_addresses: HashSet<AccountId>,
    addresses: Vec<(String, AccountId)>,
    credentials: Vec<(CredentialId, Option<RelayCredential>)>,
    lists: Vec<(ListId, Option<DistributionList>)>,
    limits: Vec<(OrganizationId, OrganizationLimits)>,
}

impl Changes {
    /// Brings facts up to date.
    pub fn apply(self, facts: &mut RoutingFacts) {
        for (id, organization) in self.organizations {
            facts.set_organization(id, organization);
        }
        for (name, domain) in self.domains {
            facts.set_domain(name, domain);
        }
        for (id, gateway) in self.gateways {
            facts.set_gateway(id, gateway);
        }
        for (id, account) in self.accounts {
            facts.set_account(id, account);
        }
        if !self.of_unknown_addresses.is_empty() {
            facts.forget_addresses_of(&self.of_unknown_addresses);
        }
        for address in self.former_addresses {
            facts.set_address(&address, None);
        }
        for (address, account) in self.addresses {
            facts.set_address(&address, Some(account));
        }
        for (id, credential) in self.credentials {
            facts.set_credential(id, credential);
        }
        for (id, list) in self.lists {
            facts.set_list(id, list);
        }
        for (id, limits) in self.limits {
            facts.set_limits(id, Some(limits));
        }
    }
}

/// What all changes after a revision touched, as it is at the revision that is returned with it.
///
/// An account's item whose addresses changed names those that it lost, or all former ones, in
/// `before.addresses`. Where one does not, they are looked for among all addresses when the changes are applied.
///
/// `None`: an organization was deleted since, and what touched it with it: all facts have to be read anew.
pub async fn load_changes_across_tenants(
    db: &mut PgConnection,
    after: Revision,
) -> Result<Option<(Revision, Changes)>> {
    let mut snapshot = db.begin_with(SNAPSHOT).await?;
    let loaded = match deleted_organization::is_any_since(&mut *snapshot, after).await? {
        true => None,
        false => Some(load_changes(&mut snapshot, after).await?),
    };
    snapshot.commit().await?;
    Ok(loaded)
}

async fn load_changes(db: &mut PgConnection, after: Revision) -> Result<(Revision, Changes)> {
    let revision = latest_revision(db).await?;
    let touched = touched_after(db, after).await?;
    let secrets = match touched.gateways.is_empty() {
        true => Secrets::new(),
        false => secrets(db, Some(&touched.gateways)).await?,
    };
    let mut changes = read(db, &touched, secrets).await?;
    changes.former_addresses = touched.former_addresses;
    changes.of_unknown_addresses = touched.of_unknown_addresses;
    if limit::is_platform_changed_since(&mut *db, after).await? {
        changes.limits = limit::facts_across_tenants(db, None).await?;
    }
    Ok((revision, changes))
}

/// Keys of things to be read.
#[derive(Debug, Default)]
struct Touched {
    organizations: HashSet<OrganizationId>,
    domains: HashSet<DomainName>,
    gateways: HashSet<(OrganizationId, GatewayId)>,
    accounts: HashSet<(OrganizationId, AccountId)>,
    former_addresses: Vec<String>,
    of_unknown_addresses: HashSet<AccountId>,
    credentials: HashSet<CredentialId>,
    lists: HashSet<ListId>,
}

async fn touched_after(db: &mut PgConnection, after: Revision) -> Result<Touched> {
    let mut rows = sqlx::query!(
        r#"
        select item.organization_id as "organization: OrganizationId", item.subject, item.subject_key as key, item.before
        from change
        join change_item item on item.organization_id = change.organization_id and item.change_id = change.id
        where change.revision > $1
        "#,
        after as Revision,
    )
    .fetch(db);
    let mut touched = Touched::default();
    while let Some(row) = rows.try_next().await? {
        touched.add(row.organization, &row.subject, &row.key, row.before.as_ref())?;
    }
    Ok(touched)
}

impl Touched {
    fn add(&mut self, organization: OrganizationId, subject: &str, key: &str, before: Option<&Value>) -> Result<()> {
        let unreadable = |error: String| sqlx::Error::Decode(format!("change item {subject} {key}: {error}").into());
        match subject {
            _ if subject == Subject::Organization.as_str() => {
                self.organizations.insert(organization);
            }
            _ if subject == Subject::Domain.as_str() => {
                self.domains.insert(key.parse().map_err(|error| unreadable(format!("{error}")))?);
            }
            _ if subject == Subject::Gateway.as_str() => {
                let id = key.parse().map_err(|error| unreadable(format!("{error}")))?;
                self.gateways.insert((organization, id));
            }
            _ if subject == Subject::Account.as_str() => {
                let id = key.parse().map_err(|error| unreadable(format!("{error}")))?;
                self.accounts.insert((organization, id));
                match former_addresses(before) {
                    Former::These(addresses) => self.former_addresses.extend(addresses),
                    Former::Unknown => {
                        self.of_unknown_addresses.insert(id);
                    }
                }
            }
            _ if subject == Subject::Credential.as_str() => {
                self.credentials.insert(key.parse().map_err(|error| unreadable(format!("{error}")))?);
            }
            _ if subject == Subject::List.as_str() => {
                self.lists.insert(key.parse().map_err(|error| unreadable(format!("{error}")))?);
            }
            _ => return Err(unreadable("no such subject".to_owned())),
        }
        Ok(())
    }
}

enum Former {
    These(Vec<String>),
    Unknown,
}

/// The addresses that a change may have taken from an account: none if it was added, or if the
/// change was about other things only.
fn former_addresses(before: Option<&Value>) -> Former {
    const ABOUT_OTHER_THINGS: [&str; 5] = ["outbound_gateway", "status", "name", "external_id", "user_id"];
    match before {
        None | Some(Value::Null) => Former::These(Vec::new()),
        Some(Value::Object(before)) => match before.get("addresses") {
            Some(Value::Array(addresses)) => {
                Former::These(addresses.iter().filter_map(Value::as_str).map(str::to_owned).collect())
            }
            None if before.keys().all(|key| ABOUT_OTHER_THINGS.contains(&key.as_str())) => Former::These(Vec::new()),
            Some(_) | None => Former::Unknown,
        },
        Some(_) => Former::Unknown,
    }
}

/// Reads what the touched things are now, each kind in one statement. Secrets that are not given are withheld.
async fn read(db: &mut PgConnection, touched: &Touched, secrets: Secrets) -> Result<Changes> {
    Ok(Changes {
        organizations: read_organizations(db, touched).await?,
        domains: read_domains(db, touched).await?,
        gateways: read_gateways(db, touched, secrets).await?,
        accounts: read_accounts(db, touched).await?,
        addresses: read_addresses(db, touched).await?,
        credentials: read_credentials(db, touched).await?,
        lists: read_lists(db, touched).await?,
        limits: read_limits(db, touched).await?,
        ..Changes::default()
    })
}

async fn read_organizations(
    db: &mut PgConnection,
    touched: &Touched,
) -> Result<Vec<(OrganizationId, Option<OrganizationFacts>)>> {
    if touched.organizations.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<OrganizationId> = touched.organizations.iter().copied().collect();
    sqlx::query!(
        r#"
        select touched.id as "touched!: OrganizationId", organization.id as "found?: OrganizationId",
               status = 'suspended' as suspended, outbound_gateway_id as "gateway?: GatewayId",
               holds_without_gateway as "holds_without_gateway?",
               outbound_gateway_id is null and pending_gateway_id is not null as awaits_gateway,
               refuse_unknown_senders as "refuse_unknown_senders?",
               large_list as "large_list?", gateway_networks as "gateway_networks?"
        from unnest($1::uuid[]) as touched (id) left join organization using (id)
        "#,
        &ids as &[OrganizationId],
    )
    .map(|row| {
        let of_organization = OrganizationFacts {
            suspended: row.suspended.unwrap_or_default(),
            gateway: row.gateway,
            must_use_gateway: row.holds_without_gateway.unwrap_or_default(),
            awaits_gateway: row.awaits_gateway.unwrap_or_default(),
            refuse_unknown_senders: row.refuse_unknown_senders.unwrap_or_default(),
            large_list: row.large_list.map(i32::cast_unsigned),
            gateway_networks: row.gateway_networks.unwrap_or_default().into(),
        };
        (row.touched, row.found.map(|_| of_organization))
    })
    .fetch_all(db)
    .await
}

async fn read_domains(db: &mut PgConnection, touched: &Touched) -> Result<Vec<(DomainName, Option<DomainFacts>)>> {
    if touched.domains.is_empty() {
        return Ok(Vec::new());
    }
    let names: Vec<String> = touched.domains.iter().map(ToString::to_string).collect();
    sqlx::query!(
        r#"
        select touched.name as "name!: DomainName", organization_id as "organization?: OrganizationId",
               outbound_gateway_id as "gateway?: GatewayId", inbound_host as "inbound_host?: GatewayAddress",
               outbound_gateway_id is null and pending_gateway_id is not null as "awaits_gateway!"
        from unnest($1::text[]) as touched (name) left join mail_domain using (name)
        "#,
        &names,
    )
    .map(|row| {
        let of_domain = row.organization.map(|organization| DomainFacts {
            organization,
            gateway: row.gateway,
            awaits_gateway: row.awaits_gateway,
            inbound_host: row.inbound_host,
        });
        (row.name, of_domain)
    })
    .fetch_all(db)
    .await
}

async fn read_gateways(
    db: &mut PgConnection,
    touched: &Touched,
    mut secrets: Secrets,
) -> Result<Vec<(GatewayId, Option<Gateway>)>> {
    if touched.gateways.is_empty() {
        return Ok(Vec::new());
    }
    let (organizations, ids): (Vec<OrganizationId>, Vec<GatewayId>) = touched.gateways.iter().copied().unzip();
    let found = gateway_rows!(
        r#"
        from unnest($1::uuid[], $2::uuid[]) as touched (organization_id, id)
        join gateway using (organization_id, id)
        join gateway_revision used on used.organization_id = gateway.organization_id
                                  and used.gateway_id = gateway.id and used.revision = gateway.revision
        "#,
        &organizations as &[OrganizationId],
        &ids as &[GatewayId],
    )
    .fetch_all(db)
    .await?;
    let gone = ids.into_iter().map(|id| (id, None));
    // Later entries replace earlier ones when applied: first everything is gone, then what was found is not.
    let found = found.into_iter().map(|row| {
        let secret = secrets.remove(&(row.organization, row.id));
        (row.id, Some(row.into_gateway(secret)))
    });
    Ok(gone.chain(found).collect())
}

async fn read_accounts(db: &mut PgConnection, touched: &Touched) -> Result<Vec<(AccountId, Option<AccountFacts>)>> {
    if touched.accounts.is_empty() {
        return Ok(Vec::new());
    }
    let (organizations, ids): (Vec<OrganizationId>, Vec<AccountId>) = touched.accounts.iter().copied().unzip();
    sqlx::query!(
        r#"
        select touched.id as "touched!: AccountId", account.id as "found?: AccountId",
               account.status = 'suspended' as suspended, account.outbound_gateway_id as "gateway?: GatewayId"
        from unnest($1::uuid[], $2::uuid[]) as touched (organization_id, id)
        left join mail_account account using (organization_id, id)
        "#,
        &organizations as &[OrganizationId],
        &ids as &[AccountId],
    )
    .map(|row| {
        let suspended = row.suspended.unwrap_or_default();
        (row.touched, row.found.map(|_| AccountFacts { suspended, gateway: row.gateway }))
    })
    .fetch_all(db)
    .await
}

async fn read_addresses(db: &mut PgConnection, touched: &Touched) -> Result<Vec<(String, AccountId)>> {
    if touched.accounts.is_empty() {
        return Ok(Vec::new());
    }
    let (organizations, ids): (Vec<OrganizationId>, Vec<AccountId>) = touched.accounts.iter().copied().unzip();
    sqlx::query!(
        r#"
        select address, account_id as "account!: AccountId"
        from unnest($1::uuid[], $2::uuid[]) as touched (organization_id, account_id)
        join mail_address using (organization_id, account_id)
        "#,
        &organizations as &[OrganizationId],
        &ids as &[AccountId],
    )
    .map(|row| (row.address, row.account))
    .fetch_all(db)
    .await
}

/// Those that are revoked are gone.
async fn read_credentials(
    db: &mut PgConnection,
    touched: &Touched,
) -> Result<Vec<(CredentialId, Option<RelayCredential>)>> {
    if touched.credentials.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<CredentialId> = touched.credentials.iter().copied().collect();
    let valid = read_valid_credentials(db, Some(&ids)).await?;
    let gone = ids.into_iter().map(|id| (id, None));
    Ok(gone.chain(valid.into_iter().map(|credential| (credential.id, Some(credential)))).collect())
}

async fn read_valid_credentials(db: &mut PgConnection, only: Option<&[CredentialId]>) -> Result<Vec<RelayCredential>> {
    sqlx::query!(
        r#"
        select organization_id as "organization: OrganizationId", id as "id: CredentialId", user_name, secret_hash,
               addresses as "addresses: Vec<Mailbox>", domains as "domains: Vec<DomainName>", networks,
               messages_per_minute, allow_bare_line_feeds
        from relay_credential
        where not revoked and ($1::uuid[] is null or id = any($1))
        "#,
        only as Option<&[CredentialId]>,
    )
    .try_map(|row| {
        let hash = row.secret_hash.try_into().map_err(|_| sqlx::Error::Decode("secret_hash is not a hash".into()))?;
        let limits = super::relay_credential::limits(
            row.addresses,
            row.domains,
            &row.networks,
            row.messages_per_minute,
            row.allow_bare_line_feeds,
        )?;
        let (organization, id, user_name) = (row.organization, row.id, row.user_name);
        Ok(RelayCredential { organization, id, user_name, secret: SecretHash(hash), limits })
    })
    .fetch_all(db)
    .await
}

async fn read_limits(db: &mut PgConnection, touched: &Touched) -> Result<Vec<(OrganizationId, OrganizationLimits)>> {
    if touched.organizations.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<OrganizationId> = touched.organizations.iter().copied().collect();
    limit::facts_across_tenants(db, Some(&ids)).await
}

async fn read_lists(db: &mut PgConnection, touched: &Touched) -> Result<Vec<(ListId, Option<DistributionList>)>> {
    if touched.lists.is_empty() {
        return Ok(Vec::new());
    }
    let ids: Vec<ListId> = touched.lists.iter().copied().collect();
    let mut rows = list_rows(db, Some(&ids));
    let mut lists: Vec<_> = ids.iter().map(|id| (*id, None)).collect();
    while let Some(row) = rows.try_next().await? {
        lists.push((row.id, Some(row.into())));
    }
    Ok(lists)
}

/// The organization's lists that have these addresses, and those in them. An organization may have so many that not
/// every page can look at all.
pub async fn load_lists_reached_from(
    db: &mut PgConnection,
    organization: OrganizationId,
    addresses: &[String],
    facts: &mut RoutingFacts,
) -> Result<()> {
    let ids = sqlx::query_scalar!(
        r#"
        with recursive reached (address) as (
            select unnest($2::text[]) collate "C"
            union
            select member.address
            from reached
            join distribution_list list on list.organization_id = $1 and list.address = reached.address
            join list_member member on member.organization_id = $1 and member.list_id = list.id
        )
        select list.id as "id: ListId"
        from reached join distribution_list list on list.organization_id = $1 and list.address = reached.address
        "#,
        organization as OrganizationId,
        addresses,
    )
    .fetch_all(&mut *db)
    .await?;
    let mut rows = list_rows(db, Some(&ids));
    while let Some(row) = rows.try_next().await? {
        facts.set_list(row.id, Some(row.into()));
    }
    Ok(())
}

async fn load_lists(db: &mut PgConnection, facts: &mut RoutingFacts) -> Result<()> {
    let mut rows = list_rows(db, None);
    while let Some(row) = rows.try_next().await? {
        facts.set_list(row.id, Some(row.into()));
    }
    Ok(())
}

struct ListRow {
    organization: OrganizationId,
    id: ListId,
    address: String,
    enabled: bool,
    may_send: MaySend,
    approval: Approval,
    expands: bool,
    large_allowed: bool,
    members: Vec<Mailbox>,
    senders: Vec<Mailbox>,
}

impl From<ListRow> for DistributionList {
    fn from(row: ListRow) -> Self {
        Self {
            organization: row.organization,
            address: row.address.into(),
            enabled: row.enabled,
            may_send: row.may_send,
            approval: row.approval,
            expands: row.expands,
            large_allowed: row.large_allowed,
            members: Addresses::new(&row.members),
            senders: Addresses::new(&row.senders),
        }
    }
}

fn list_rows<'a>(db: &'a mut PgConnection, only: Option<&'a [ListId]>) -> BoxStream<'a, Result<ListRow>> {
    sqlx::query_as!(
        ListRow,
        r#"
        select organization_id as "organization: OrganizationId", id as "id: ListId", address,
               status = 'enabled' as "enabled!", may_send as "may_send: MaySend", approval as "approval: Approval", expands,
               large_allowed,
               array(select member.address from list_member member
                     where member.organization_id = list.organization_id and member.list_id = list.id
                     order by position) as "members!: Vec<Mailbox>",
               array(select sender.address from list_sender sender
                     where sender.organization_id = list.organization_id and sender.list_id = list.id
                     order by sender.address) as "senders!: Vec<Mailbox>"
        from distribution_list list
        where $1::uuid[] is null or id = any($1)
        "#,
        only as Option<&[ListId]>,
    )
    .fetch(db)
}

/// The facts that decide about one reverse-path, and no others. For the operator's `route explain`,
/// which asks as the owner.
pub async fn for_sender_across_tenants(owner: &PgPool, reverse_path: &str) -> Result<RoutingFacts> {
    let mut snapshot = owner.begin_with(SNAPSHOT).await?;
    let facts = load_for_sender(&mut snapshot, None, reverse_path).await?;
    snapshot.commit().await?;
    Ok(facts)
}

/// The same as one organization knows it: what belongs to another is as if it did not exist.
pub async fn for_sender(
    db: &mut PgConnection,
    organization: OrganizationId,
    reverse_path: &str,
) -> Result<RoutingFacts> {
    load_for_sender(db, Some(organization), reverse_path).await
}

async fn load_for_sender(
    db: &mut PgConnection,
    organization: Option<OrganizationId>,
    reverse_path: &str,
) -> Result<RoutingFacts> {
    let candidates = sender::candidates(reverse_path);
    let addresses: Vec<String> = candidates.iter().map(ToString::to_string).collect();
    let names: Vec<String> = candidates.iter().map(|candidate| candidate.domain().to_string()).collect();
    let (owners, domains): (Vec<OrganizationId>, HashSet<DomainName>) = sqlx::query!(
        r#"
        select organization_id as "organization: OrganizationId", name as "name: DomainName" from mail_domain
        where name = any($1) and ($2::uuid is null or organization_id = $2)
        "#,
        &names,
        organization as Option<OrganizationId>,
    )
    .map(|row| (row.organization, row.name))
    .fetch_all(&mut *db)
    .await?
    .into_iter()
    .unzip();
    let accounts = sqlx::query!(
        r#"
        select organization_id as "organization: OrganizationId", account_id as "account: AccountId"
        from mail_address where organization_id = any($1) and address = any($2)
        "#,
        &owners as &[OrganizationId],
        &addresses,
    )
    .map(|row| (row.organization, row.account))
    .fetch_all(&mut *db)
    .await?;
    let gateways = sqlx::query!(
        r#"select organization_id as "organization: OrganizationId", id as "id: GatewayId"
           from gateway where organization_id = any($1)"#,
        &owners as &[OrganizationId],
    )
    .map(|row| (row.organization, row.id))
    .fetch_all(&mut *db)
    .await?;
    let touched = Touched {
        organizations: owners.into_iter().collect(),
        domains,
        gateways: gateways.into_iter().collect(),
        accounts: accounts.into_iter().collect(),
        ..Touched::default()
    };
    let mut facts = RoutingFacts::default();
    read(db, &touched, Secrets::new()).await?.apply(&mut facts);
    Ok(facts)
}
