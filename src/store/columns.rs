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
            AccountId, AdministratorId, ChangeId, CredentialId, GatewayId, ImportId, JobId, ListId, OrganizationId,
            QueueId, RelayId, Revision, TestMessageId, VerificationId,
        },
    },
    policy::{
        Role,
        distribution_list::{Approval, MaySend},
        facts::TlsMode,
        gateway_settings::{OwnDomains, Returning},
        going_live::VerifyBeforeLive,
        limit::{Action as LimitAction, Level, Whose, Window},
        routing::Scope,
        verification::Destination,
        volume::Unit,
        waiting::{Choice, HeldBecause},
        webhook::WebhookUrl,
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

text_column!(
    Approval,
    Choice,
    Destination,
    DomainName,
    GatewayAddress,
    HeldBecause,
    Level,
    LimitAction,
    Mailbox,
    MaySend,
    OwnDomains,
    Returning,
    Role,
    Scope,
    TlsMode,
    Unit,
    VerifyBeforeLive,
    WebhookUrl,
    Whose,
    Window
);
wrapped_column!(
    AccountId(Uuid),
    AdministratorId(Uuid),
    ChangeId(Uuid),
    CredentialId(Uuid),
    GatewayId(Uuid),
    ImportId(Uuid),
    JobId(Uuid),
    ListId(Uuid),
    VerificationId(Uuid),
    OrganizationId(Uuid),
    QueueId(Uuid),
    RelayId(Uuid),
    TestMessageId(Uuid),
    Revision(i64),
);

/// What a column with a fixed set of words holds instead.
#[derive(Debug, thiserror::Error)]
#[error("“{found}” is not {expected}")]
pub struct WordError {
    found: String,
    expected: &'static str,
}

/// Written and read as one of these words.
macro_rules! words {
    ($type:ident, $expected:literal, $($variant:ident = $word:literal),+) => {
        impl std::fmt::Display for $type {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(match self {
                    $(Self::$variant => $word),+
                })
            }
        }

        impl std::str::FromStr for $type {
            type Err = WordError;

            fn from_str(word: &str) -> Result<Self, Self::Err> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(WordError { found: word.to_owned(), expected: $expected }),
                }
            }
        }
    };
}

words!(TlsMode, "a TLS mode", WhenOffered = "when-offered", Required = "required", Verified = "verified");
words!(Destination, "where a test message goes", Recipient = "recipient", Return = "return");
words!(Returning, "what becomes of mail that comes back", Refuse = "refuse", Onward = "onward");
words!(OwnDomains, "where mail to own domains goes", Gateway = "gateway", Inbound = "inbound");
