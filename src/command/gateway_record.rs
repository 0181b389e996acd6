//! `outgate gateway show|edit`: what the form on a gateway's page does, for scripts and for the operator.
//! Called by `gateway`; shares fields, mistakes and change with the page.

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Args;
use outgate::{
    mail::{
        GatewayAddress,
        id::{ChangeId, GatewayId},
    },
    policy::{
        gateway_network::AllowedNetworks,
        gateway_record::{GatewayRecord, Typed},
        gateway_settings::secret_context,
    },
    secret::{Password, SealedSecret},
    store::{
        self, OrganizationTransaction,
        gateway_record::{Edit as Change, Saved, Stored},
    },
};
use sqlx::PgPool;

/// What is to change; `-` takes away what was there.
#[derive(Debug, Args)]
#[group(skip)]
pub struct Edit {
    /// Another address: everything that points at the gateway follows
    #[arg(long, value_name = "ADDRESS")]
    new_address: Option<String>,
    /// when-offered, required or verified
    #[arg(long, value_name = "MODE")]
    tls: Option<String>,
    /// The name to expect in the certificate instead of the host
    #[arg(long, value_name = "NAME")]
    certificate_name: Option<String>,
    /// A file with the certificate of the organization's own authority, in PEM
    #[arg(long, value_name = "FILE", conflicts_with_all = ["fingerprint", "public_authorities"])]
    authority: Option<PathBuf>,
    /// The SHA-256 fingerprint of the one certificate to take
    #[arg(long, value_name = "SHA256", conflicts_with = "public_authorities")]
    fingerprint: Option<String>,
    /// Public certificate authorities vouch
    #[arg(long)]
    public_authorities: bool,
    /// The user to sign in as
    #[arg(long, value_name = "USER")]
    user: Option<String>,
    /// Read the password to sign in with from standard input
    #[arg(long)]
    password_stdin: bool,
    /// Connections at once from each relay
    #[arg(long, value_name = "NUMBER")]
    connections: Option<String>,
    #[arg(long, value_name = "NUMBER")]
    messages_per_connection: Option<String>,
    #[arg(long, value_name = "NUMBER")]
    messages_per_minute: Option<String>,
    /// In megabytes
    #[arg(long, value_name = "MB")]
    largest_message: Option<String>,
    /// Other gateways of the organization, separated by commas, the first to be tried first
    #[arg(long, value_name = "ADDRESSES")]
    backups: Option<String>,
    /// refuse or onward
    #[arg(long, value_name = "WHAT")]
    returning_mail: Option<String>,
    /// Networks that mail comes back from, separated by commas
    #[arg(long, value_name = "NETWORKS")]
    returning_networks: Option<String>,
    /// gateway or inbound
    #[arg(long, value_name = "WHERE")]
    own_domains: Option<String>,
    /// Live when the gateway has passed its verification as it is to be, where it works and is that of all users or of a
    /// mail domain; else at once
    #[arg(long)]
    when_verified: bool,
}

impl Edit {
    fn apply(&self, mut typed: Typed) -> anyhow::Result<Typed> {
        let named = [
            (&mut typed.address, &self.new_address),
            (&mut typed.tls, &self.tls),
            (&mut typed.certificate_name, &self.certificate_name),
            (&mut typed.sign_in_user, &self.user),
            (&mut typed.connections, &self.connections),
            (&mut typed.messages_per_connection, &self.messages_per_connection),
            (&mut typed.messages_per_minute, &self.messages_per_minute),
            (&mut typed.largest_message, &self.largest_message),
            (&mut typed.backups, &self.backups),
            (&mut typed.returning_mail, &self.returning_mail),
            (&mut typed.returning_networks, &self.returning_networks),
            (&mut typed.own_domains, &self.own_domains),
        ];
        for (field, new) in named {
            if let Some(new) = new {
                if new == "-" { field.clear() } else { field.clone_from(new) }
            }
        }
        if let Some(file) = &self.authority {
            let pem = std::fs::read_to_string(file).with_context(|| format!("cannot read {}", file.display()))?;
            (typed.trust, typed.authority) = ("authority".to_owned(), pem);
        }
        if let Some(fingerprint) = &self.fingerprint {
            (typed.trust, typed.fingerprint) = ("fingerprint".to_owned(), fingerprint.clone());
        }
        if self.public_authorities {
            typed.trust = "platform".to_owned();
        }
        Ok(typed)
    }
}

async fn find(
    transaction: &mut OrganizationTransaction,
    slug: &str,
    address: &GatewayAddress,
) -> anyhow::Result<(GatewayId, Stored)> {
    let organization = transaction.organization();
    let id = store::gateway::keep(transaction, organization, address).await?;
    let id = id.with_context(|| format!("{slug} has no gateway {}", address.with_port_in_words()))?;
    let stored = store::gateway_record::wanted(transaction, organization, id).await?;
    Ok((id, stored.with_context(|| format!("{slug} has no gateway {}", address.with_port_in_words()))?))
}

pub async fn show(owner: &PgPool, slug: &str, address: &GatewayAddress) -> anyhow::Result<()> {
    let mut transaction = super::begin(owner, slug).await?;
    let (_, stored) = find(&mut transaction, slug, address).await?;
    println!("Revision {} of {}:", stored.revision, stored.record.address.with_port_in_words());
    if stored.is_pending() {
        println!(
            "It goes live when the gateway has passed its verification; until then revision {} holds.",
            stored.live
        );
    }
    for words in stored.record.in_words().into_iter().skip(1) {
        println!("- {words}");
    }
    Ok(())
}

pub async fn edit(
    owner: &PgPool,
    slug: &str,
    address: &GatewayAddress,
    edit: &Edit,
    allowed: &AllowedNetworks,
) -> anyhow::Result<()> {
    let mut transaction = super::begin(owner, slug).await?;
    let allowed = super::allowed_within(&mut transaction, allowed).await?;
    let (id, stored) = find(&mut transaction, slug, address).await?;
    let record = match edit.apply(Typed::of(&stored.record))?.parse(&allowed) {
        Ok(record) => record,
        Err(mistakes) => {
            let sentences: Vec<String> = mistakes
                .into_iter()
                .map(|(field, sentence)| format!("{}: {sentence}", field.replace('_', " ")))
                .collect();
            bail!("{}", sentences.join(" "));
        }
    };
    let sealed = if edit.password_stdin { Some(sealed(&mut transaction, id, &record).await?) } else { None };
    let change = Change {
        change: ChangeId::new(),
        record: &record,
        password: sealed.as_ref(),
        at_once: !edit.when_verified,
        actor: super::OPERATOR,
    };
    match store::gateway_record::save(transaction, id, &change).await? {
        Saved::NotFound => bail!("{slug} has no gateway {}", address.with_port_in_words()),
        Saved::Unchanged | Saved::Already => println!("Nothing changed: it was so already."),
        Saved::AddressTaken => bail!("{slug} has another gateway {}", record.address.with_port_in_words()),
        Saved::NoSuchBackup(backup) => bail!("{slug} has no other gateway {}", backup.with_port_in_words()),
        Saved::PasswordNeeded => {
            bail!(
                "the password is needed again, with --password-stdin: it is kept only for the same address, TLS and user"
            )
        }
        Saved::Changed(committed) => {
            let (was, is) = record.differences(&stored.record, sealed.is_some());
            println!("Changed from {was} to {is}. Revision {}.", committed.revision);
            super::verify_after(owner, slug, committed.id).await?;
        }
        Saved::Pending(_) => {
            let (was, is) = record.differences(&stored.record, sealed.is_some());
            println!(
                "Saved: from {was} to {is}. It goes live when the gateway has passed its verification; until then mail \
                 goes as before."
            );
        }
        Saved::GivenUp(_) => println!("Given up: the record says what is live, and nothing waits any more."),
    }
    Ok(())
}

async fn sealed(
    transaction: &mut OrganizationTransaction,
    gateway: GatewayId,
    record: &GatewayRecord,
) -> anyhow::Result<SealedSecret> {
    let user = record.sign_in_user.as_deref().context("a password needs a user to sign in as: name one with --user")?;
    let password = Password::new(super::administrator::line_of_stdin()?);
    let password = password.context("this cannot be a password: use up to 512 letters, digits and signs")?;
    let key = store::secret_key::newest(transaction).await?;
    let key = key.context("no relay can keep passwords yet: set OUTGATE_SECRET_KEY_FILE on the relays first")?;
    let context = secret_context(transaction.organization(), gateway, &record.address, record.tls, user);
    Ok(key.seal(&password, &context)?)
}
