//! What administrators are told of a gateway: that it does not take mail, that it does again, that its certificate ends,
//! that it has stopped offering TLS.
//! Text alone; sent by the relay's queue, like notifications.

use std::fmt::Write;

use time::OffsetDateTime;

use super::{
    GatewayAddress,
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
    /// It has stopped offering TLS: mail goes to it in clear, since then.
    InClear { since: OffsetDateTime },
    /// Mail to it is encrypted again.
    Encrypted,
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
            News::InClear { since } => {
                let _ = write!(
                    text,
                    "Mail to the outbound gateway {gateway} of {organization} has not been encrypted since {}. It was \
                     before: the gateway no longer offers TLS, it fails, or somebody on the way hides it. Mail goes on \
                     in clear, as your organization has set it (TLS when offered).\r\n\r\n\
                     What to do: if mail must never go in clear, choose TLS required on the gateway's page, \
                     Administration > Manage Organization > Web Mail Cloud > Gateways; it then waits until the gateway \
                     offers TLS. Verify on that page shows what the gateway offers. You hear from us again when mail \
                     is encrypted.\r\n",
                    rfc2822(since)
                );
            }
            News::Encrypted => {
                let _ =
                    write!(text, "Mail to the outbound gateway {gateway} of {organization} is encrypted again.\r\n");
            }
        }
        text
    }
}
