//! What administrators are told of a gateway: that it does not take mail, that it does again, that its certificate ends,
//! that it has stopped offering TLS, that it has not passed its verification. Text alone; sent by the relay's queue, like
//! notifications.

use std::fmt::{Display, Write};

use time::OffsetDateTime;

use super::{
    DomainName, GatewayAddress,
    dsn::{one_line, rfc2822},
    own_message::{OwnMessage, own_message},
};

/// One message to one administrator.
#[derive(Debug, Clone)]
pub struct GatewayNotice<'a> {
    pub envelope: OwnMessage<'a>,
    /// The organization's name.
    pub organization: &'a str,
    pub gateway: &'a GatewayAddress,
    pub news: News<'a>,
}

/// What is told.
#[derive(Debug, Clone, Copy)]
pub enum News<'a> {
    /// Since when it does not take mail, in whose words, and where mail goes meanwhile.
    Failing { since: OffsetDateTime, words: &'a str, backup: Option<&'a GatewayAddress> },
    /// It takes mail again.
    Well,
    /// Its certificate ends, and mail will wait from then on.
    Certificate { ends_at: OffsetDateTime },
    /// It was to go live once it had passed its verification.
    NotPassed(NotPassed<'a>),
    /// It has stopped offering TLS: mail goes to it in clear, since then.
    InClear { since: OffsetDateTime },
    /// Mail to it is encrypted again.
    Encrypted,
}

/// What does not go live yet.
#[derive(Debug, Clone, Copy)]
pub enum NotLive<'a> {
    /// The gateway of all users.
    OfAll,
    /// The gateway of a mail domain.
    OfDomain(&'a DomainName),
    /// A change of the record of a gateway that is in use.
    Record,
}

/// A gateway that does not go live yet.
#[derive(Debug, Clone, Copy)]
pub struct NotPassed<'a> {
    pub what: NotLive<'a>,
    /// Which step failed, and what to do.
    pub failed: &'a str,
    /// What mail leaves through meanwhile.
    pub instead_of: Option<&'a GatewayAddress>,
}

impl NotPassed<'_> {
    /// What of the gateway has not passed, as words behind its address; `of` is what stands behind them.
    fn what(&self, of: &str) -> String {
        match self.what {
            NotLive::OfAll => format!(", which is to be the outbound gateway of all users{of},"),
            NotLive::OfDomain(name) => {
                format!(", which is to be the outbound gateway of the mail domain {}{of},", name.to_unicode())
            }
            NotLive::Record => format!(" as a change of the record of an outbound gateway{of} has it"),
        }
    }

    /// The whole of it in three sentences.
    pub fn in_brief(&self, gateway: impl Display) -> String {
        let (what, meanwhile) = (self.what(""), self.meanwhile());
        format!("{gateway}{what} has not passed its verification. {} {meanwhile}", self.failed)
    }

    /// What becomes of mail until it has passed, in a sentence.
    fn meanwhile(&self) -> String {
        match (self.instead_of, self.what) {
            (Some(address), _) => format!("Mail keeps leaving through {} meanwhile.", address.with_port_in_words()),
            (None, NotLive::OfDomain(_) | NotLive::Record) => "Mail goes on as before meanwhile.".to_owned(),
            (None, NotLive::OfAll) => "Mail without another gateway waits meanwhile and is not lost.".to_owned(),
        }
    }

    fn text(&self, gateway: impl Display, organization: &str) -> String {
        let page = match self.what {
            NotLive::OfDomain(_) => "Domain Manager, and there the domain's Outbound Gateway",
            NotLive::OfAll => "Outbound Mail Gateway",
            NotLive::Record => "Gateways, and there the gateway",
        };
        format!(
            "{gateway}{} has not passed its verification and is not live.\r\n\r\n    {}\r\n\r\n{}\r\n\r\n\
             What to do: put it right, then open Administration > Manage Organization > Web Mail Cloud > {page}, and \
             press Check again: it goes live by itself when it has passed. There it is given up, too, or used anyway. \
             You do not hear of this change again.\r\n",
            self.what(&format!(" of {organization}")),
            one_line(self.failed),
            self.meanwhile(),
        )
    }
}

impl GatewayNotice<'_> {
    /// The message, ready to be sent with a null reverse-path.
    pub fn to_bytes(&self) -> Vec<u8> {
        own_message(&self.envelope, self.subject(), self.text())
    }

    fn subject(&self) -> String {
        match self.news {
            News::Failing { .. } => format!("Gateway {} does not take mail", self.gateway),
            News::Well => format!("Gateway {} takes mail again", self.gateway),
            News::Certificate { .. } => format!("The certificate of gateway {} is about to end", self.gateway),
            News::NotPassed(_) => format!("Gateway {} has not passed its verification", self.gateway),
            News::InClear { .. } => format!("Gateway {} has stopped offering TLS", self.gateway),
            News::Encrypted => format!("Mail to gateway {} is encrypted again", self.gateway),
        }
    }

    fn text(&self) -> String {
        let (gateway, organization) = (self.gateway.with_port_in_words(), one_line(self.organization));
        let mut text = String::new();
        match self.news {
            News::Failing { since, words, backup } => {
                let _ = write!(
                    text,
                    "The outbound gateway {gateway} of {organization} has not taken mail since {}.\r\n\r\n    {}\r\n\r\n",
                    rfc2822(since),
                    one_line(words)
                );
                let _ = match backup {
                    Some(backup) => write!(
                        text,
                        "Mail goes to its backup {} meanwhile; what the backup cannot take waits.\r\n\r\n",
                        backup.with_port_in_words()
                    ),
                    None => write!(text, "Mail for it waits and is not lost. It is not sent another way.\r\n\r\n"),
                };
                text.push_str(
                    "What to do: open Administration > Manage Organization > Web Mail Cloud > Gateways, and press \
                     Verify on the gateway's page: each step says what is wrong. You hear from us again when the \
                     gateway takes mail.\r\n",
                );
            }
            News::Well => {
                let _ = write!(
                    text,
                    "The outbound gateway {gateway} of {organization} takes mail again. What has waited for it is on \
                     its way.\r\n"
                );
            }
            News::Certificate { ends_at } => {
                let _ = write!(
                    text,
                    "The certificate of the outbound gateway {gateway} of {organization} is valid until {}. Your \
                     organization has chosen that certificates are verified: from then on mail waits.\r\n\r\n\
                     What to do: renew the certificate at the gateway. Nothing need be changed here, unless the \
                     new one comes from another authority.\r\n",
                    rfc2822(ends_at)
                );
            }
            News::NotPassed(not_passed) => text = not_passed.text(gateway, &organization),
            News::InClear { since } => text = in_clear(gateway, &organization, since),
            News::Encrypted => {
                let _ =
                    write!(text, "Mail to the outbound gateway {gateway} of {organization} is encrypted again.\r\n");
            }
        }
        text
    }
}

fn in_clear(gateway: impl Display, organization: &str, since: OffsetDateTime) -> String {
    format!(
        "Mail to the outbound gateway {gateway} of {organization} has not been encrypted since {}. It was before: the \
         gateway no longer offers TLS, it fails, or somebody on the way hides it. Mail goes on in clear, as your \
         organization has set it (TLS when offered).\r\n\r\n\
         What to do: if mail must never go in clear, choose TLS required on the gateway's page, Administration > Manage \
         Organization > Web Mail Cloud > Gateways; it then waits until the gateway offers TLS. Verify on that page shows \
         what the gateway offers. You hear from us again when mail is encrypted.\r\n",
        rfc2822(since)
    )
}
