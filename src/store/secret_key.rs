//! The public keys that passwords of gateways are sealed with, and sealing anew with a newer one. The pages read the
//! newest, relays publish theirs.

use sqlx::{PgConnection, PgPool};
use time::OffsetDateTime;
use uuid::Uuid;

use super::Result;
use crate::{
    mail::{
        GatewayAddress,
        id::{GatewayId, OrganizationId},
    },
    policy::{facts::TlsMode, gateway_settings::secret_context},
    secret::{Context, KeyId, PublicKey, SealedSecret},
};

/// Makes keys known, in this order. One that is known already, or retired, stays as it is.
pub async fn publish(db: &PgPool, keys: &[PublicKey]) -> Result<()> {
    for key in keys {
        sqlx::query!(
            "insert into secret_key (id, public_key) values ($1, $2) on conflict do nothing",
            &key.id().0[..],
            &key.0[..],
        )
        .execute(db)
        .await?;
    }
    Ok(())
}

/// The key that seals now; `None` while no relay has published one.
pub async fn newest(db: &mut PgConnection) -> Result<Option<PublicKey>> {
    let found =
        sqlx::query_scalar!("select public_key from secret_key where retired_at is null order by number desc limit 1")
            .fetch_optional(db)
            .await?;
    Ok(found.and_then(|bytes| bytes.try_into().ok()).map(PublicKey))
}

/// A key as the operator sees it.
#[derive(Debug, Clone)]
pub struct Listed {
    pub id: String,
    pub published_at: OffsetDateTime,
    pub retired_at: Option<OffsetDateTime>,
    /// How many passwords are sealed with it.
    pub passwords: i64,
}

/// Every key that was ever published, the newest last. As the owner.
pub async fn list(owner: &PgPool) -> Result<Vec<Listed>> {
    sqlx::query_as!(
        Listed,
        r#"
        select encode(id, 'hex') as "id!", published_at, retired_at,
               (select count(*) from gateway_secret where key_id = secret_key.id) as "passwords!"
        from secret_key order by number
        "#,
    )
    .fetch_all(owner)
    .await
}

/// Takes a key out of use, as the owner. Returns how many passwords still need it: then it was not.
pub async fn retire(owner: &PgPool, id: &KeyId) -> Result<i64> {
    let retired = sqlx::query!(
        r#"
        update secret_key set retired_at = now()
        where id = $1 and retired_at is null and not exists (select from gateway_secret where key_id = $1)
        "#,
        &id.0[..],
    )
    .execute(owner)
    .await?;
    if retired.rows_affected() == 1 {
        return Ok(0);
    }
    sqlx::query_scalar!(r#"select count(*) as "count!" from gateway_secret where key_id = $1"#, &id.0[..])
        .fetch_one(owner)
        .await
}

/// A password that is sealed with an older key.
#[derive(Debug, Clone)]
pub struct Outdated {
    organization: OrganizationId,
    gateway: GatewayId,
    id: Uuid,
    pub sealed: SealedSecret,
    pub context: Context,
}

/// The next passwords, behind `after`, that are sealed with another key than this one.
pub async fn outdated_across_tenants(
    relay: &PgPool,
    newest: &PublicKey,
    after: Option<&Outdated>,
    limit: i64,
) -> Result<Vec<Outdated>> {
    // All revisions that share a password are the same in what it is bound to.
    sqlx::query!(
        r#"
        select secret.organization_id as "organization: OrganizationId", secret.gateway_id as "gateway: GatewayId",
               secret.id, secret.sealed, used.address as "address: GatewayAddress", used.tls as "tls: TlsMode",
               used.sign_in_user as "user!"
        from gateway_secret secret
        cross join lateral (
            select address, tls, sign_in_user from gateway_revision
            where organization_id = secret.organization_id and gateway_id = secret.gateway_id
              and sign_in_secret_id = secret.id
            limit 1
        ) used
        where secret.key_id <> $1 and secret.id > $2
        order by secret.id limit $3
        "#,
        &newest.id().0[..],
        after.map_or(Uuid::nil(), |after| after.id),
        limit,
    )
    .map(|row| Outdated {
        organization: row.organization,
        gateway: row.gateway,
        id: row.id,
        sealed: SealedSecret::new(&row.sealed),
        context: secret_context(row.organization, row.gateway, &row.address, row.tls, &row.user),
    })
    .fetch_all(relay)
    .await
}

/// Replaces what was sealed with an older key, unless another relay has done so.
pub async fn replace_across_tenants(relay: &PgPool, outdated: &Outdated, anew: &SealedSecret) -> Result<bool> {
    let done = sqlx::query!(
        "update gateway_secret set sealed = $5
         where organization_id = $1 and gateway_id = $2 and id = $3 and sealed = $4",
        outdated.organization as OrganizationId,
        outdated.gateway as GatewayId,
        outdated.id,
        outdated.sealed.as_bytes(),
        anew.as_bytes(),
    )
    .execute(relay)
    .await?;
    Ok(done.rows_affected() == 1)
}
