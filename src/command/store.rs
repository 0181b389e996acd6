//! Where a command finds the store: `DATABASE_URL`, else the private cluster in the data
//! directory, started if need be and stopped by its last user.

use std::time::Duration;

use anyhow::{Context, ensure};
use outgate::{
    config::StoreSettings,
    private_postgres::{OWNER, PrivateCluster, become_service_user},
    store::{self, roles},
};
use sqlx::{
    PgPool,
    postgres::{PgConnectOptions, PgPoolOptions},
};

/// How long a page waits for a connection before it says that the store does not answer.
const PATIENCE_OF_PAGES: Duration = Duration::from_secs(5);

/// A store that can be connected to as each of its three roles.
#[derive(Debug)]
pub struct Store {
    settings: StoreSettings,
    private: Option<PrivateCluster>,
}

impl Store {
    /// To be called before any thread is started: with a private cluster, root becomes an unprivileged user here.
    pub fn find(settings: StoreSettings) -> anyhow::Result<Self> {
        let private = match settings.database_url {
            Some(_) => None,
            // Who runs only one front door needs only that door's role.
            None if settings.web_database_url.is_some() || settings.relay_database_url.is_some() => None,
            None => {
                let data_dir = settings.data_dir()?;
                become_service_user(&data_dir)?;
                Some(PrivateCluster::start(&data_dir, settings.pg_bin.as_deref())?)
            }
        };
        Ok(Self { settings, private })
    }

    /// The private cluster, where that is the store.
    pub fn private(&self) -> Option<&PrivateCluster> {
        self.private.as_ref()
    }

    /// Leaves the private cluster; its last user stops it.
    pub fn leave(self) -> anyhow::Result<()> {
        self.private.map_or(Ok(()), PrivateCluster::stop)
    }

    /// As the owner, for the operator's commands, which need the tables of this version.
    pub async fn owner(&self) -> anyhow::Result<PgPool> {
        let owner = self.owner_before_migration().await?;
        ensure!(
            store::roles::is_migrated(&owner).await?,
            "the store's tables are not those of this version: run outgate migrate"
        );
        Ok(owner)
    }

    /// As the owner, whatever is in the store.
    pub async fn owner_before_migration(&self) -> anyhow::Result<PgPool> {
        let options = match (&self.private, &self.settings.database_url) {
            (Some(cluster), _) => cluster.connect_options(OWNER),
            (None, Some(url)) => url.clone(),
            (None, None) => anyhow::bail!("DATABASE_URL is not set: this command needs the store as its owner"),
        };
        connect(PgPoolOptions::new().max_connections(5), options, "DATABASE_URL").await
    }

    /// As the role of the pages.
    pub async fn web(&self) -> anyhow::Result<PgPool> {
        let options = self.role(roles::WEB, &self.settings.web_database_url, "OUTGATE_WEB_DATABASE_URL")?;
        let pool = store::pool::options(20).acquire_timeout(PATIENCE_OF_PAGES);
        connect(pool, options, "OUTGATE_WEB_DATABASE_URL").await
    }

    /// As the role of the relay. Not connected yet: a relay starts without the store, too.
    pub fn relay(&self) -> anyhow::Result<PgPool> {
        let options = self.role(roles::RELAY, &self.settings.relay_database_url, "OUTGATE_RELAY_DATABASE_URL")?;
        Ok(store::relay::pool(20, options))
    }

    fn role(&self, role: &str, url: &Option<PgConnectOptions>, variable: &str) -> anyhow::Result<PgConnectOptions> {
        match (&self.private, url) {
            (Some(cluster), _) => Ok(cluster.connect_options(role)),
            (None, Some(url)) => Ok(url.clone()),
            (None, None) => anyhow::bail!(
                "{variable} is not set: with DATABASE_URL it is needed too, with a user that is a member of {role}"
            ),
        }
    }
}

async fn connect(pool: PgPoolOptions, options: PgConnectOptions, variable: &str) -> anyhow::Result<PgPool> {
    pool.connect_with(options).await.with_context(|| format!("the store does not answer at {variable}"))
}
