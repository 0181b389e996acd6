//! An installation: one test's database, with the pools that the front doors have in production.
//! A superuser bypasses row level security, so web and relay connect as their own roles here too.

use outgate::{
    mail::{
        GatewayAddress, Mailbox,
        envelope::Recipient,
        id::{AccountId, CredentialId, GatewayId, ImportId, ListId, OrganizationId, QueueId, RelayId, Revision},
    },
    policy::{
        Role,
        gateway_network::AllowedNetworks,
        relay_credential::{self, Limits, SecretHash},
        volume::{Count, Subject},
    },
    secret::PrivateKey,
    store::{
        self, OrganizationTransaction, WebStore,
        account::NewAccount,
        account_file::NewImport,
        account_import::{ImportError, Staged},
        gateway::PointerScope,
        relay_credential::{Made, NewCredential, Terms},
        volume::Counted,
    },
};
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};
use time::OffsetDateTime;
use uuid::Uuid;

pub struct Installation {
    pub owner: PgPool,
}

/// A message of the queue with what a test wants of it; the rest is as of one that waits.
#[derive(Debug, Clone)]
pub struct Queued<'a> {
    /// `None`: a report of our own.
    pub sender: Option<&'a str>,
    pub to: &'a [&'a str],
    pub account: Option<AccountId>,
    pub by: Option<&'a str>,
    pub gateway: Option<GatewayId>,
    pub state: &'a str,
    pub held_because: Option<&'a str>,
    pub attempts: i32,
    pub last_reply: Option<&'a str>,
    /// A relay has it.
    pub leased: bool,
}

impl Default for Queued<'_> {
    fn default() -> Self {
        Self {
            sender: Some("ann@acme.example"),
            to: &["bob@elsewhere.example"],
            account: None,
            by: None,
            gateway: None,
            state: "waiting",
            held_because: None,
            attempts: 0,
            last_reply: None,
            leased: false,
        }
    }
}

/// One organization with one mail domain, `{slug}.example`.
#[derive(Debug, Clone)]
pub struct Tenant {
    pub id: OrganizationId,
    pub slug: String,
    pub domain: String,
}

impl Installation {
    /// On the database that `#[sqlx::test]` made.
    pub fn on(owner: PgPool) -> Self {
        Self { owner }
    }

    pub async fn pool_as(&self, role: &str) -> PgPool {
        let options = (*self.owner.connect_options()).clone().username(role);
        PgPoolOptions::new().max_connections(5).connect_with(options).await.unwrap()
    }

    pub async fn web_store(&self) -> WebStore {
        WebStore::new(self.pool_as(store::roles::WEB).await)
    }

    pub async fn relay_pool(&self) -> PgPool {
        self.pool_as(store::roles::RELAY).await
    }

    pub async fn organization(&self, slug: &str) -> Tenant {
        let domain = format!("{slug}.example");
        let id = store::organization::create(&self.owner, &slug.parse().unwrap(), slug, &[domain.parse().unwrap()])
            .await
            .unwrap();
        Tenant { id, slug: slug.to_owned(), domain }
    }

    pub async fn account(&self, tenant: &Tenant, user_id: &str, aliases: &[&str]) -> AccountId {
        let account = NewAccount {
            user_id: user_id.parse().unwrap(),
            name: user_id.split('@').next().unwrap().to_owned(),
            aliases: aliases.iter().map(|alias| alias.parse().unwrap()).collect(),
        };
        let transaction = OrganizationTransaction::begin(&self.owner, tenant.id).await.unwrap();
        store::account::add(transaction, &account, "operator").await.unwrap().0
    }

    /// Imports a CSV file as the operator would; `sync` also removes what it does not name.
    pub async fn import(
        &self,
        tenant: &Tenant,
        file: &str,
        sync: bool,
        removals: Option<i64>,
    ) -> Result<Staged, ImportError> {
        let transaction = OrganizationTransaction::begin(&self.owner, tenant.id).await.unwrap();
        let file = std::io::Cursor::new(file.as_bytes().to_vec());
        store::account_import::import(transaction, &new_import(sync), file, removals).await.map(|(staged, _)| staged)
    }

    /// A file that was uploaded and waits to be looked at.
    pub async fn staged_import(&self, tenant: &Tenant, file: &str) -> ImportId {
        let mut transaction = OrganizationTransaction::begin(&self.owner, tenant.id).await.unwrap();
        let file = std::io::Cursor::new(file.as_bytes().to_vec());
        let staged = store::account_import::stage(&mut transaction, &new_import(false), file, |_| {}).await.unwrap();
        transaction.commit().await.unwrap();
        staged.id
    }

    /// Points a scope at a gateway as the operator would; `""` deletes.
    pub async fn set_gateway(&self, tenant: &Tenant, scope: &PointerScope, address: &str) {
        let address: Option<GatewayAddress> = (!address.is_empty()).then(|| address.parse().unwrap());
        let transaction = OrganizationTransaction::begin(&self.owner, tenant.id).await.unwrap();
        store::gateway::set(transaction, scope, address.as_ref(), "operator").await.unwrap();
    }

    /// The gateway of an organization that has this address.
    pub async fn gateway_of(&self, tenant: &Tenant, address: &str) -> GatewayId {
        let id = sqlx::query_scalar("select id from gateway where organization_id = $1 and address = $2");
        GatewayId(id.bind(tenant.id.0).bind(address).fetch_one(&self.owner).await.unwrap())
    }

    /// A message that waits for the gateway with this address, as the relay would have committed it: by the
    /// scope of its sender `ann@{slug}.example` that says so.
    pub async fn waiting_message(&self, tenant: &Tenant, account: Option<AccountId>, by: &str, address: &str) {
        self.message(tenant, account, Some(by), Some(self.gateway_of(tenant, address).await), None).await;
    }

    /// A message in the queue; held if there is a reason.
    pub async fn message(
        &self,
        tenant: &Tenant,
        account: Option<AccountId>,
        by: Option<&str>,
        gateway: Option<GatewayId>,
        held_because: Option<&str>,
    ) {
        sqlx::query(
            "insert into queued_message (organization_id, id, state, sender, reverse_path, recipients, parameters, size,
                                         accepted_at, next_attempt_at, expires_at, sender_account, sender_domain,
                                         waits_by, waits_for, held_because)
             values ($1, gen_random_uuid(), $2, $3, $3, '[]', '{}', 100, now(), now() + interval '5 days',
                     now() + interval '7 days', $4, $5, $6, $7, $8)",
        )
        .bind(tenant.id.0)
        .bind(if held_because.is_some() { "held" } else { "waiting" })
        .bind(format!("ann@{}", tenant.domain))
        .bind(account.map(|account| account.0))
        .bind(&tenant.domain)
        .bind(by)
        .bind(gateway.map(|gateway| gateway.0))
        .bind(held_because)
        .execute(&self.owner)
        .await
        .unwrap();
    }

    /// A message in the queue as the relay would have committed it, an hour before its next attempt.
    pub async fn queued(&self, tenant: &Tenant, message: Queued<'_>) -> QueueId {
        let id = QueueId::new();
        let recipients: Vec<Recipient> = message.to.iter().map(|to| Recipient::waiting(*to)).collect();
        sqlx::query(
            "insert into queued_message (organization_id, id, state, sender, reverse_path, recipients, parameters, size,
                                         accepted_at, next_attempt_at, expires_at, sender_account, sender_domain,
                                         waits_by, waits_for, held_because, attempts, last_reply,
                                         lease_relay_id, lease_token)
             values ($1, $2, $3, $4, coalesce($4, ''), $5, '{}', 12345, now(), now() + interval '1 hour',
                     now() + interval '5 days', $6, $7, $8, $9, $10, $11, $12,
                     case when $13 then gen_random_uuid() end, case when $13 then gen_random_uuid() end)",
        )
        .bind(tenant.id.0)
        .bind(id.0)
        .bind(message.state)
        .bind(message.sender)
        .bind(sqlx::types::Json(recipients))
        .bind(message.account.map(|account| account.0))
        .bind(message.sender.map(|_| &tenant.domain))
        .bind(message.by)
        .bind(message.gateway.map(|gateway| gateway.0))
        .bind(message.held_because)
        .bind(message.attempts)
        .bind(message.last_reply)
        .bind(message.leased)
        .execute(&self.owner)
        .await
        .unwrap();
        id
    }

    /// What was chosen for each message, and whether it is due.
    pub async fn choices(&self) -> Vec<(Option<String>, bool)> {
        sqlx::query_as("select choice, next_attempt_at <= now() from queued_message order by id")
            .fetch_all(&self.owner)
            .await
            .unwrap()
    }

    /// An administrator with a password hash that the caller made.
    pub async fn administrator(&self, tenant: &Tenant, email: &str, password_hash: &str, role: Role) {
        let email: Mailbox = email.parse().unwrap();
        store::administrator::create(&self.owner, &email, password_hash, tenant.id, role).await.unwrap();
    }

    /// A key that passwords can be sealed with from now on, as a relay publishes it.
    pub async fn secret_key(&self) -> PrivateKey {
        let key = PrivateKey::generate();
        store::secret_key::publish(&self.relay_pool().await, &[key.public()]).await.unwrap();
        key
    }

    /// A relay credential: its user name and its secret.
    pub async fn credential(&self, tenant: &Tenant, limits: Limits) -> (CredentialId, String, String) {
        let secret = relay_credential::secret(&rand::random());
        let new = NewCredential {
            id: CredentialId::new(),
            user_name: relay_credential::user_name(&tenant.slug, &rand::random()),
            secret: SecretHash::of(&secret),
            terms: Terms { name: "a server".to_owned(), limits },
        };
        let transaction = OrganizationTransaction::begin(&self.owner, tenant.id).await.unwrap();
        let made = store::relay_credential::create(transaction, &new, "operator").await.unwrap();
        assert!(matches!(made, Made::Made(_)), "{made:?}");
        (new.id, new.user_name, secret)
    }

    /// A distribution list as an administrator makes it.
    pub async fn list(
        &self,
        tenant: &Tenant,
        address: &str,
        terms: store::distribution_list::Terms,
    ) -> (ListId, Revision) {
        let transaction = OrganizationTransaction::begin(&self.owner, tenant.id).await.unwrap();
        let (id, address) = (ListId::new(), address.parse().unwrap());
        let made = store::distribution_list::create(transaction, id, &address, &terms, "operator").await.unwrap();
        let store::distribution_list::Made::Made(committed) = made else { panic!("{made:?}") };
        (id, committed.revision)
    }

    /// Adds what a relay counted for these subjects and for the whole organization, each: messages, recipients, external
    /// recipients.
    pub async fn sent(
        &self,
        tenant: &Tenant,
        minute: OffsetDateTime,
        subjects: &[Subject],
        (messages, recipients, external): (i64, i64, i64),
    ) {
        let (relay, count) = (RelayId::new(), Count { messages, recipients, external });
        store::relay::sign_on(&self.owner, &relay.to_string(), relay, Revision(0)).await.unwrap();
        let counted: Vec<Counted> = subjects
            .iter()
            .chain([&Subject::Organization])
            .map(|subject| Counted { organization: tenant.id, subject: subject.clone(), minute, count })
            .collect();
        let mut connection = self.owner.acquire().await.unwrap();
        store::volume::add_across_tenants(&mut connection, relay, Uuid::now_v7(), &counted).await.unwrap();
        // Nobody waits for it.
        store::relay::sign_off(&self.owner, relay).await.unwrap();
    }

    /// Every table whose rows belong to organizations.
    pub async fn tenant_tables(&self) -> Vec<String> {
        sqlx::query_scalar(
            "select table_name::text from information_schema.columns join information_schema.tables using (table_schema, table_name)
             where table_schema = 'public' and column_name = 'organization_id' and table_type = 'BASE TABLE' order by 1",
        )
        .fetch_all(&self.owner)
        .await
        .unwrap()
    }

    /// Every row of one organization as text.
    pub async fn everything_of(&self, tenant: &Tenant) -> Vec<String> {
        let mut rows = Vec::new();
        for table in self.tenant_tables().await {
            let statement = format!("select to_jsonb(t)::text from {table} t where organization_id = $1 order by 1");
            let of_table: Vec<String> =
                sqlx::query_scalar(AssertSqlSafe(statement)).bind(tenant.id.0).fetch_all(&self.owner).await.unwrap();
            rows.extend(of_table);
        }
        rows
    }
}

fn new_import(sync: bool) -> NewImport {
    NewImport {
        id: ImportId::new(),
        file_name: "accounts.csv".to_owned(),
        remove_missing: sync,
        started_by: "operator".to_owned(),
        allowed: AllowedNetworks::default(),
    }
}
