//! An installation: one test's database, with the pools that the front doors have in production.
//! A superuser bypasses row level security, so web and relay connect as their own roles here too.

use outgate::{
    mail::{
        GatewayAddress, Mailbox,
        id::{AccountId, OrganizationId},
    },
    policy::Role,
    store::{self, OrganizationTransaction, WebStore, account::NewAccount, gateway::PointerScope},
};
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};

pub struct Installation {
    pub owner: PgPool,
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

    /// Points a scope at a gateway as the operator would; `""` deletes.
    pub async fn set_gateway(&self, tenant: &Tenant, scope: &PointerScope, address: &str) {
        let address: Option<GatewayAddress> = (!address.is_empty()).then(|| address.parse().unwrap());
        let transaction = OrganizationTransaction::begin(&self.owner, tenant.id).await.unwrap();
        store::gateway::set(transaction, scope, address.as_ref(), "operator").await.unwrap();
    }

    /// An administrator with a password hash that the caller made.
    pub async fn administrator(&self, tenant: &Tenant, email: &str, password_hash: &str, role: Role) {
        let email: Mailbox = email.parse().unwrap();
        store::administrator::create(&self.owner, &email, password_hash, tenant.id, role).await.unwrap();
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
