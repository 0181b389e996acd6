//! How our own types are read from and written to columns, so that the types themselves know
//! nothing of the database. Text is parsed when read: a bad row fails here, not later.

use sqlx::{
    Postgres,
    encode::IsNull,
    error::BoxDynError,
    postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueRef},
};
use uuid::Uuid;

use crate::{
    mail::{
        DomainName, GatewayAddress, Mailbox,
        id::{
            AccountId, AdministratorId, ChangeId, CredentialId, GatewayId, ImportId, JobId, OrganizationId, QueueId,
            RelayId, Revision,
        },
    },
    policy::{
        Role,
        facts::TlsMode,
        routing::Scope,
        waiting::{Choice, HeldBecause},
    },
};

/// Written by `Display`, read by `FromStr`.
macro_rules! text_column {
    ($($type:ty),+ $(,)?) => {$(
        impl sqlx::Type<Postgres> for $type {
            fn type_info() -> PgTypeInfo {
                <str as sqlx::Type<Postgres>>::type_info()
            }

            fn compatible(ty: &PgTypeInfo) -> bool {
                <str as sqlx::Type<Postgres>>::compatible(ty)
            }
        }

        impl PgHasArrayType for $type {
            fn array_type_info() -> PgTypeInfo {
                <String as PgHasArrayType>::array_type_info()
            }
        }

        impl sqlx::Encode<'_, Postgres> for $type {
            fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
                <String as sqlx::Encode<Postgres>>::encode(self.to_string(), buffer)
            }
        }

        impl<'r> sqlx::Decode<'r, Postgres> for $type {
            fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
                Ok(<&str as sqlx::Decode<Postgres>>::decode(value)?.parse()?)
            }
        }
    )+};
}

/// A wrapper around one column type.
macro_rules! wrapped_column {
    ($($type:ident($inner:ty)),+ $(,)?) => {$(
        impl sqlx::Type<Postgres> for $type {
            fn type_info() -> PgTypeInfo {
                <$inner as sqlx::Type<Postgres>>::type_info()
            }
        }

        impl PgHasArrayType for $type {
            fn array_type_info() -> PgTypeInfo {
                <$inner as PgHasArrayType>::array_type_info()
            }
        }

        impl sqlx::Encode<'_, Postgres> for $type {
            fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
                <$inner as sqlx::Encode<Postgres>>::encode_by_ref(&self.0, buffer)
            }
        }

        impl<'r> sqlx::Decode<'r, Postgres> for $type {
            fn decode(value: PgValueRef<'r>) -> Result<Self, BoxDynError> {
                <$inner as sqlx::Decode<Postgres>>::decode(value).map($type)
            }
        }
    )+};
}

text_column!(Choice, DomainName, GatewayAddress, HeldBecause, Mailbox, Role, Scope, TlsMode);
wrapped_column!(
    AccountId(Uuid),
    AdministratorId(Uuid),
    ChangeId(Uuid),
    CredentialId(Uuid),
    GatewayId(Uuid),
    ImportId(Uuid),
    JobId(Uuid),
    OrganizationId(Uuid),
    QueueId(Uuid),
    RelayId(Uuid),
    Revision(i64),
);

/// What a column with a fixed set of words holds instead.
#[derive(Debug, thiserror::Error)]
#[error("“{0}” is not a TLS mode")]
pub struct TlsModeError(String);

impl std::fmt::Display for TlsMode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::WhenOffered => "when-offered",
            Self::Required => "required",
            Self::Verified => "verified",
        })
    }
}

impl std::str::FromStr for TlsMode {
    type Err = TlsModeError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "when-offered" => Ok(Self::WhenOffered),
            "required" => Ok(Self::Required),
            "verified" => Ok(Self::Verified),
            _ => Err(TlsModeError(word.to_owned())),
        }
    }
}
