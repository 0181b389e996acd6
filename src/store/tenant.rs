//! The only way from a page to rows of a tenant: a transaction that sets the organization. Behind
//! it stands row level security, which shows nothing to a connection without one.

use std::ops::{Deref, DerefMut};

use sqlx::{AssertSqlSafe, PgConnection, PgPool, Postgres, Transaction};

use super::{Result, pool::Quick};
use crate::{
    mail::id::{AdministratorId, OrganizationId},
    policy::Role,
};

/// The store as the pages have it. It connects as a role that owns nothing, and hands out no
/// connection but the two kinds here: for what comes before an organization is known, and for one organization.
#[derive(Debug, Clone)]
pub struct WebStore {
    pool: PgPool,
    quick: Quick,
}

/// One organization that an administrator may see, and as what. Made only by
/// [`WebStore::access`] and [`WebStore::signed_in`], so that having one means having been let in.
#[derive(Debug, Clone)]
pub struct Access {
    organization: OrganizationId,
    pub administrator: AdministratorId,
    pub email: String,
    pub slug: String,
    pub name: String,
    pub role: Role,
    pub suspended: bool,
}

impl Access {
    /// For the two functions that let somebody in.
    pub(super) fn to(
        organization: OrganizationId,
        administrator: AdministratorId,
        email: String,
        slug: String,
        name: String,
        role: Role,
        suspended: bool,
    ) -> Self {
        Self { organization, administrator, email, slug, name, role, suspended }
    }

    pub fn organization(&self) -> OrganizationId {
        self.organization
    }
}

impl WebStore {
    /// Inside a runtime. What waits for nobody gets connections of its own, as `pool` has them.
    pub fn new(pool: PgPool) -> Self {
        let quick = Quick::like(&pool, quick_connections());
        Self { pool, quick }
    }

    /// Every organization of an active administrator, by name; none if the administrator is
    /// unknown or suspended.
    pub async fn access(&self, administrator: AdministratorId) -> Result<Vec<Access>> {
        sqlx::query!(
            r#"
            select email as "email!", organization_id as "organization: OrganizationId", slug as "slug!",
                   name as "name!", role as "role: Role", organization_status = 'suspended' as "suspended!"
            from administrator_access($1)
            order by name, slug
            "#,
            administrator as AdministratorId,
        )
        .try_map(|row| {
            let missing = || sqlx::Error::ColumnNotFound("administrator_access".into());
            Ok(Access {
                organization: row.organization.ok_or_else(missing)?,
                administrator,
                email: row.email,
                slug: row.slug,
                name: row.name,
                role: row.role.ok_or_else(missing)?,
                suspended: row.suspended,
            })
        })
        .fetch_all(&self.pool)
        .await
    }

    /// A transaction in the organization that was given access to.
    pub async fn begin(&self, access: &Access) -> Result<OrganizationTransaction> {
        OrganizationTransaction::begin(&self.pool, access.organization).await
    }

    /// Whether the store answers.
    pub async fn ping(&self) -> Result<()> {
        sqlx::query!("select 1 as one").fetch_one(&self.pool).await.map(drop)
    }

    /// For sessions and sign-in, which belong to no organization.
    pub(super) fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// For single statements that every page makes, and that wait for no lock.
    pub(super) fn quick(&self) -> &Quick {
        &self.quick
    }
}

/// As many as keep the cores busy. With more of them each statement takes up to twice the time: the pool gives the
/// connections out in turn, and what each of their servers has in its caches is gone by the time it has its turn.
fn quick_connections() -> u32 {
    let cores = std::thread::available_parallelism().map_or(2, usize::from);
    2 + 2 * u32::try_from(cores).unwrap_or(2)
}

/// A transaction whose statements see one organization's rows. Dropped without
/// [`commit_change`](Self::commit_change) it changes nothing.
pub struct OrganizationTransaction {
    transaction: Transaction<'static, Postgres>,
    organization: OrganizationId,
}

impl OrganizationTransaction {
    /// For the operator's commands, which connect as the owner; pages go through [`WebStore::begin`].
    pub async fn begin(pool: &PgPool, organization: OrganizationId) -> Result<Self> {
        // Local to the transaction: a pooled connection never carries it to the next one. One round trip
        // for both; a UUID's text has nothing in it that would need quoting.
        let begin = format!("begin; select set_config('outgate.organization', '{organization}', true)");
        // On its own, so that it comes to its end where the caller goes away meanwhile: sqlx would give a
        // connection back with a transaction that was about to begin, for the next statement to be lost in.
        let pool = pool.clone();
        let beginning = tokio::spawn(async move { pool.begin_with(AssertSqlSafe(begin)).await });
        let transaction = beginning.await.map_err(|_| sqlx::Error::WorkerCrashed)??;
        Ok(Self { transaction, organization })
    }

    pub fn organization(&self) -> OrganizationId {
        self.organization
    }

    /// Ends a transaction that wrote no change.
    pub async fn commit(self) -> Result<()> {
        self.transaction.commit().await
    }
}

impl Deref for OrganizationTransaction {
    type Target = PgConnection;

    fn deref(&self) -> &PgConnection {
        &self.transaction
    }
}

impl DerefMut for OrganizationTransaction {
    fn deref_mut(&mut self) -> &mut PgConnection {
        &mut self.transaction
    }
}
