//! Sessions of browsers. The statements behind the pages' session layer; a session's id is hashed
//! here, so that no caller can keep the id itself.

use serde_json::Value;
use sha2::{Digest, Sha256};

use super::{Result, WebStore, tenant::Access};
use crate::{
    mail::{
        GatewayAddress,
        id::{AdministratorId, OrganizationId},
    },
    policy::Role,
};

/// Which gateways of an organization fail, where administrators were told so: for longer than a flap, and as a relay
/// that runs sees it now.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Failing {
    One(GatewayAddress),
    /// How many, where it is more than one.
    Several(i64),
}

/// A session as the browser's cookie names it: 128 random bits.
#[derive(Clone, Copy)]
pub struct SessionId(pub [u8; 16]);

impl SessionId {
    /// What the store keeps. The id has 128 random bits, so a plain hash cannot be tried out.
    fn hash(self) -> Vec<u8> {
        Sha256::digest(self.0).to_vec()
    }
}

impl WebStore {
    /// Starts a session, which ends twelve hours later however much it is used. Returns `false`, and
    /// changes nothing, if a session has this id already.
    pub async fn create_session(
        &self,
        id: SessionId,
        administrator: Option<AdministratorId>,
        data: &Value,
    ) -> Result<bool> {
        // Sign-ins are rare and this has an index: no other broom is needed.
        sqlx::query!("delete from session where expires_at < now()").execute(self.pool()).await?;
        let created = sqlx::query!(
            r#"
            insert into session (id_hash, administrator_id, data, touched_at, expires_at)
            values ($1, $2, $3, now(), now() + interval '12 hours')
            on conflict (id_hash) do nothing
            "#,
            id.hash(),
            administrator as Option<AdministratorId>,
            data,
        )
        .execute(self.pool())
        .await?;
        Ok(created.rows_affected() == 1)
    }

    /// What a session holds. `None` if there is none with this id, if it is twelve hours old, or if
    /// it was not used for thirty minutes. Loading is using; it is written down at most once a minute.
    pub async fn load_session(&self, id: SessionId) -> Result<Option<Value>> {
        let found = sqlx::query!(
            r#"
            select data, touched_at < now() - interval '1 minute' as "stale!"
            from session
            where id_hash = $1 and expires_at > now() and touched_at > now() - interval '30 minutes'
            "#,
            id.hash(),
        )
        .fetch_optional(self.pool())
        .await?;
        let Some(session) = found else { return Ok(None) };
        if session.stale {
            sqlx::query!("update session set touched_at = now() where id_hash = $1", id.hash())
                .execute(self.pool())
                .await?;
        }
        Ok(Some(session.data))
    }

    /// Whoever the session belongs to, as each of their organizations sees them, by name; none if the
    /// session has ended, or if its administrator is suspended or has nothing to see. Counts as use. With each comes
    /// which of its gateways fail, as far as administrators were told.
    pub async fn signed_in(&self, id: SessionId) -> Result<Vec<(Access, Option<Failing>)>> {
        let hash = id.hash();
        let mut stale = false;
        let mut db = self.quick().acquire().await?;
        let found = sqlx::query!(
            r#"
            select administrator_id as "administrator!: AdministratorId", email as "email!",
                   organization_id as "organization!: OrganizationId", slug as "slug!", name as "name!",
                   organization_status = 'suspended' as "suspended!", role as "role!: Role", stale as "stale!",
                   failing as "failing!", failing_address as "failing_address: GatewayAddress"
            from signed_in_and_failing($1)
            "#,
            hash,
        )
        .map(|row| {
            stale |= row.stale;
            let failing = match (row.failing, row.failing_address) {
                (1, Some(address)) => Some(Failing::One(address)),
                (gateways, Some(_)) => Some(Failing::Several(gateways)),
                (_, None) => None,
            };
            let (email, slug, name) = (row.email, row.slug, row.name);
            let access = Access::to(row.organization, row.administrator, email, slug, name, row.role, row.suspended);
            (access, failing)
        })
        .fetch_all(&mut *db)
        .await?;
        db.keep();
        if stale {
            sqlx::query!("update session set touched_at = now() where id_hash = $1", hash).execute(self.pool()).await?;
        }
        Ok(found)
    }

    /// Replaces what a session holds. Its end stays where it was; one that is gone stays gone.
    pub async fn save_session(
        &self,
        id: SessionId,
        administrator: Option<AdministratorId>,
        data: &Value,
    ) -> Result<()> {
        sqlx::query!(
            "update session set administrator_id = $2, data = $3, touched_at = now() where id_hash = $1",
            id.hash(),
            administrator as Option<AdministratorId>,
            data,
        )
        .execute(self.pool())
        .await
        .map(drop)
    }

    /// Ends a session. Ending one that has ended is no error.
    pub async fn delete_session(&self, id: SessionId) -> Result<()> {
        sqlx::query!("delete from session where id_hash = $1", id.hash()).execute(self.pool()).await.map(drop)
    }
}
