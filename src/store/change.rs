//! Changes: what was touched, the audit entry, the revision and the one notification, all in the
//! transaction that made the change.

use serde_json::Value;

use super::{OrganizationTransaction, Result};
use crate::mail::id::{ChangeId, OrganizationId, Revision};

/// Something that routing knows, by the key under which it knows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Subject {
    Organization,
    Domain,
    Account,
    Gateway,
}

impl Subject {
    /// The word in the column `change_item.subject`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Organization => "organization",
            Self::Domain => "domain",
            Self::Account => "account",
            Self::Gateway => "gateway",
        }
    }
}

/// One thing that a change touched.
#[derive(Debug, Clone)]
pub struct ChangeItem {
    pub subject: Subject,
    /// The id of an organization, account or gateway, or the name of a mail domain.
    pub key: String,
    pub before: Option<Value>,
    pub after: Option<Value>,
}

/// What an audit entry says, in words.
#[derive(Debug, Clone)]
pub struct AuditEntry {
    /// The administrator's address, or `operator`.
    pub actor: String,
    /// What was done, such as `gateway.set`.
    pub action: &'static str,
    /// To what: a User ID, a domain, `all users`.
    pub subject: String,
    pub before: Option<String>,
    pub after: Option<String>,
}

/// A change that is live as soon as every relay has confirmed its revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Committed {
    pub id: ChangeId,
    pub revision: Revision,
}

impl OrganizationTransaction {
    /// Writes items and audit entry, takes the revision under its lock as the last statement,
    /// notifies the relays, and commits: all or nothing.
    pub async fn commit_change(mut self, items: &[ChangeItem], audit: AuditEntry) -> Result<Committed> {
        let id = ChangeId::new();
        let organization = self.organization();
        insert_items(&mut self, organization, id, items).await?;
        sqlx::query!(
            r#"
            insert into audit_entry (organization_id, change_id, actor, action, subject, before, after)
            values ($1, $2, $3, $4, $5, $6, $7)
            "#,
            organization as OrganizationId,
            id as ChangeId,
            audit.actor,
            audit.action,
            audit.subject,
            audit.before,
            audit.after,
        )
        .execute(&mut *self)
        .await?;
        let revision = sqlx::query_scalar!(
            r#"select commit_change($1, $2) as "revision!: Revision""#,
            organization as OrganizationId,
            id as ChangeId,
        )
        .fetch_one(&mut *self)
        .await?;
        self.commit().await?;
        Ok(Committed { id, revision })
    }
}

async fn insert_items(
    transaction: &mut OrganizationTransaction,
    organization: OrganizationId,
    change: ChangeId,
    items: &[ChangeItem],
) -> Result<()> {
    let subjects: Vec<String> = items.iter().map(|item| item.subject.as_str().to_owned()).collect();
    let keys: Vec<String> = items.iter().map(|item| item.key.clone()).collect();
    let before: Vec<Option<Value>> = items.iter().map(|item| item.before.clone()).collect();
    let after: Vec<Option<Value>> = items.iter().map(|item| item.after.clone()).collect();
    sqlx::query!(
        r#"
        insert into change_item (organization_id, change_id, position, subject, subject_key, before, after)
        select $1, $2, item.position, item.subject, item.key, item.before, item.after
        from unnest($3::text[], $4::text[], $5::jsonb[], $6::jsonb[])
             with ordinality as item (subject, key, before, after, position)
        "#,
        organization as OrganizationId,
        change as ChangeId,
        &subjects,
        &keys,
        &before as &[Option<Value>],
        &after as &[Option<Value>],
    )
    .execute(&mut **transaction)
    .await?;
    Ok(())
}
