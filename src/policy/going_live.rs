//! When a gateway that was saved goes live: at once, or when it has passed its verification.
//! What is known of the gateway that it replaces is an argument; who promotes it is `store::pending_gateway`.

use std::{fmt, str::FromStr};

use crate::mail::GatewayAddress;

/// What an organization wants to be verified before mail goes there.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum VerifyBeforeLive {
    /// Nothing: what is saved is live at once.
    Never,
    /// A gateway that replaces one which works.
    #[default]
    Replacing,
    /// Every gateway of the organization and of its mail domains.
    Always,
}

/// Not one of the three choices.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("“{0}” is not one of never, replacing and always")]
pub struct VerifyBeforeLiveError(String);

impl FromStr for VerifyBeforeLive {
    type Err = VerifyBeforeLiveError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "never" => Ok(Self::Never),
            "replacing" => Ok(Self::Replacing),
            "always" => Ok(Self::Always),
            _ => Err(VerifyBeforeLiveError(word.to_owned())),
        }
    }
}

impl fmt::Display for VerifyBeforeLive {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Never => "never",
            Self::Replacing => "replacing",
            Self::Always => "always",
        })
    }
}

/// What is known of the gateway that is replaced, by its present revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Former {
    /// A relay that runs cannot pass mail to it.
    pub is_failing: bool,
    /// It has taken mail.
    pub took_mail: bool,
    /// Its last verification has passed.
    pub passed: bool,
}

/// When a saved gateway goes live.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoesLive {
    AtOnce(Because),
    WhenVerified,
}

/// Why it does not have to pass a verification first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Because {
    /// The organization does not want it.
    NotWanted,
    /// It replaces none.
    First,
    /// The one that it replaces takes no mail: nobody is to wait for that.
    FormerFails,
    /// Neither mail nor a verification has shown that the one which it replaces works.
    FormerUntried,
    /// It has passed a moment ago.
    HasPassed,
}

/// `former` is the gateway that the same scope has now.
pub fn goes_live(wanted: VerifyBeforeLive, former: Option<Former>) -> GoesLive {
    match (wanted, former) {
        (VerifyBeforeLive::Never, _) => GoesLive::AtOnce(Because::NotWanted),
        (VerifyBeforeLive::Always, _) => GoesLive::WhenVerified,
        (VerifyBeforeLive::Replacing, None) => GoesLive::AtOnce(Because::First),
        (VerifyBeforeLive::Replacing, Some(former)) if former.is_failing => GoesLive::AtOnce(Because::FormerFails),
        (VerifyBeforeLive::Replacing, Some(former)) if former.took_mail || former.passed => GoesLive::WhenVerified,
        (VerifyBeforeLive::Replacing, Some(_)) => GoesLive::AtOnce(Because::FormerUntried),
    }
}

/// What somebody has to know who asks where mail of a sender goes, of a gateway that is pending.
pub fn note(address: &GatewayAddress, whose: &str) -> String {
    let address = address.with_port_in_words();
    format!("{address} is to be the gateway of {whose} once it has passed its verification; until then this holds.")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_replaces_a_gateway_that_works_has_to_pass_first_unless_it_is_wanted_otherwise() {
        let former = |is_failing, took_mail, passed| Some(Former { is_failing, took_mail, passed });
        let at_once = GoesLive::AtOnce;
        for (former, expected) in [
            (None, at_once(Because::First)),
            (former(false, true, false), GoesLive::WhenVerified),
            (former(false, false, true), GoesLive::WhenVerified),
            (former(false, false, false), at_once(Because::FormerUntried)),
            (former(true, true, true), at_once(Because::FormerFails)),
            (former(true, false, false), at_once(Because::FormerFails)),
        ] {
            assert_eq!(goes_live(VerifyBeforeLive::Replacing, former), expected, "{former:?}");
            assert_eq!(goes_live(VerifyBeforeLive::Always, former), GoesLive::WhenVerified, "{former:?}");
            assert_eq!(goes_live(VerifyBeforeLive::Never, former), at_once(Because::NotWanted), "{former:?}");
        }
    }
}
