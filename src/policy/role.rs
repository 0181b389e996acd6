//! What an administrator may do in an organization.
//! Asked by the pages before anything is changed; kept by the store for each organization.

use std::{fmt, str::FromStr};

/// The three roles, from everything to reading only.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// Everything in the organization.
    Administrator,
    /// Mail accounts and their gateways only.
    UserAdministrator,
    /// Reads everything, changes nothing.
    AdminAssistant,
}

impl Role {
    /// May set the gateway of the organization and of its mail domains.
    pub fn may_set_organization_gateway(self) -> bool {
        self == Self::Administrator
    }

    /// May set the gateway of a mail account.
    pub fn may_set_account_gateway(self) -> bool {
        matches!(self, Self::Administrator | Self::UserAdministrator)
    }

    /// May add, rename, suspend and delete mail accounts, one by one and from a file.
    pub fn may_manage_accounts(self) -> bool {
        matches!(self, Self::Administrator | Self::UserAdministrator)
    }

    /// May have waiting mail tried now, returned and deleted.
    pub fn may_decide_about_mail(self) -> bool {
        self == Self::Administrator
    }

    /// May make, limit and revoke relay credentials.
    pub fn may_manage_relay_credentials(self) -> bool {
        self == Self::Administrator
    }

    /// May make, change and delete distribution lists.
    pub fn may_manage_lists(self) -> bool {
        self == Self::Administrator
    }

    /// May limit what the organization and its mail domains send.
    pub fn may_set_limits(self) -> bool {
        self == Self::Administrator
    }

    /// May limit a single account, block it, exempt it and send what waits for its limit.
    pub fn may_control_senders(self) -> bool {
        matches!(self, Self::Administrator | Self::UserAdministrator)
    }

    /// The name for people.
    pub fn label(self) -> &'static str {
        match self {
            Self::Administrator => "Administrator",
            Self::UserAdministrator => "User Administrator",
            Self::AdminAssistant => "Admin Assistant",
        }
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Administrator => "administrator",
            Self::UserAdministrator => "user-administrator",
            Self::AdminAssistant => "admin-assistant",
        })
    }
}

/// Not one of the three roles.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("“{0}” is not a role: use administrator, user-administrator or admin-assistant")]
pub struct RoleError(String);

impl FromStr for Role {
    type Err = RoleError;

    fn from_str(typed: &str) -> Result<Self, Self::Err> {
        match typed {
            "administrator" => Ok(Self::Administrator),
            "user-administrator" => Ok(Self::UserAdministrator),
            "admin-assistant" => Ok(Self::AdminAssistant),
            _ => Err(RoleError(typed.to_owned())),
        }
    }
}
