//! The database roles of the two front doors. Roles belong to the whole cluster, so they are made
//! once, before migrations, and not by one.

use sqlx::PgPool;

use super::Result;

/// The role that `outgate web` connects as, or that its login role is a member of.
pub const WEB: &str = "outgate_web";
/// The role that `outgate relay` connects as, or that its login role is a member of.
pub const RELAY: &str = "outgate_relay";

/// Makes the roles where they are missing. Safe to run at the same time from several places: the
/// lock orders those on one database, the exception those on different ones.
pub async fn provision(owner: &PgPool) -> Result<()> {
    let mut transaction = owner.begin().await?;
    sqlx::query!("select pg_advisory_xact_lock(hashtext('outgate roles'))").execute(&mut *transaction).await?;
    // Utility statements take no parameters; the names are the constants above.
    sqlx::raw_sql(
        r#"
        do $$
        begin
            if not exists (select from pg_roles where rolname = 'outgate_web') then
                create role outgate_web login;
            end if;
            if not exists (select from pg_roles where rolname = 'outgate_relay') then
                create role outgate_relay login;
            end if;
        exception when duplicate_object or unique_violation then
            null;
        end
        $$
        "#,
    )
    .execute(&mut *transaction)
    .await?;
    transaction.commit().await
}

/// Provisions the roles, then applies the migrations that are missing.
pub async fn migrate(owner: &PgPool) -> anyhow::Result<()> {
    provision(owner).await?;
    super::MIGRATOR.run(owner).await?;
    Ok(())
}

/// Whether the tables are those of this version. The table that says so is sqlx's own, so these two
/// statements are the only ones that are not checked against the schema at compile time.
pub async fn is_migrated(owner: &PgPool) -> Result<bool> {
    let there: bool =
        sqlx::query_scalar("select to_regclass('public._sqlx_migrations') is not null").fetch_one(owner).await?;
    if !there {
        return Ok(false);
    }
    let latest: Option<i64> =
        sqlx::query_scalar("select max(version) from public._sqlx_migrations where success").fetch_one(owner).await?;
    Ok(latest >= super::MIGRATOR.iter().map(|migration| migration.version).max())
}
