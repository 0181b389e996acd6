//! The demonstration of `outgate up --demo`: a sample organization whose mail leaves through two
//! local gateways that print what they receive, and a third one that stands in for the world.

use std::{io, net::SocketAddr};

use anyhow::Context;
use outgate::{
    mail::{DomainName, GatewayAddress, GatewayHost, Mailbox, id::ImportId},
    policy::{Role, gateway_network::AllowedNetworks},
    store::{self, OrganizationTransaction, account_file::NewImport, gateway::PointerScope},
    web::password,
};
use rand::distr::{Alphanumeric, SampleString};
use sqlx::PgPool;

/// The sample organization's slug.
pub const SLUG: &str = "harbour";
/// Who signs in.
pub const ADMINISTRATOR: &str = "ada@harbour.example";
/// A user who follows the organization's gateway.
pub const FOLLOWER: &str = "ben.okoro@harbour.example";
/// A user with a gateway of their own.
pub const OWNER_OF_ONE: &str = "clara.lind@harbour.example";

/// Where test messages come back to: the demonstration's servers bring them here.
pub const RETURN_ADDRESS: &str = "return@probe.example";

const DOMAINS: [&str; 2] = ["harbour.example", "asia.harbour.example"];
const FIRST_NAMES: [&str; 14] = [
    "Amir", "Bea", "Chidi", "Dora", "Emil", "Farah", "Goran", "Hana", "Ines", "Jonas", "Keiko", "Lars", "Mina", "Nuno",
];
const LAST_NAMES: [&str; 10] =
    ["Abel", "Brandt", "Castro", "Dubois", "Eklund", "Ferrari", "Gupta", "Horvat", "Ito", "Jansen"];

/// Where the demonstration's three servers listen.
#[derive(Debug, Clone, Copy)]
pub struct Gateways {
    pub archive: SocketAddr,
    pub screen: SocketAddr,
    /// Takes what has no gateway, so that a demonstration never sends mail to strangers.
    pub world: SocketAddr,
}

impl Gateways {
    /// The three ports above the one that mail is submitted to, so that two demonstrations with
    /// ports of their own do not meet.
    pub fn beside(submission: SocketAddr) -> anyhow::Result<Self> {
        let port = |above: u16| {
            let port = submission.port().checked_add(above);
            port.context("OUTGATE_SMTP_LISTEN leaves no room for the demonstration's gateways on the next three ports")
        };
        let at = |port: u16| SocketAddr::from(([127, 0, 0, 1], port));
        Ok(Self { archive: at(port(1)?), screen: at(port(2)?), world: at(port(3)?) })
    }
}

/// A listener's address as a gateway address.
pub fn as_gateway(listener: SocketAddr) -> GatewayAddress {
    GatewayAddress::new(GatewayHost::Ip(listener.ip()), listener.port())
}

/// Makes the sample organization where it is missing, and returns the password to sign in with;
/// `None` where it was made by an earlier start and nobody chose one now. The administrator comes
/// last, so that a start that was cut short is made up for by the next.
pub async fn seed(owner: &PgPool, gateways: Gateways, chosen_password: Option<&str>) -> anyhow::Result<Option<String>> {
    let email: Mailbox = ADMINISTRATOR.parse()?;
    if store::administrator::exists_across_tenants(owner, &email).await? {
        if let Some(password) = chosen_password {
            store::administrator::set_password(owner, &email, &password::hash(password)?).await?;
        }
        return Ok(chosen_password.map(str::to_owned));
    }
    let organization = match store::organization::by_slug_across_tenants(owner, SLUG).await? {
        Some(organization) => organization,
        None => {
            let domains: Vec<DomainName> = DOMAINS.iter().map(|name| name.parse()).collect::<Result<_, _>>()?;
            store::organization::create(owner, &SLUG.parse()?, "Harbour Books", &domains).await?
        }
    };

    let transaction = OrganizationTransaction::begin(owner, organization).await?;
    let import = NewImport {
        id: ImportId::new(),
        file_name: String::new(),
        remove_missing: false,
        started_by: super::OPERATOR.to_owned(),
        allowed: AllowedNetworks::default(),
    };
    store::account_import::import(transaction, &import, io::Cursor::new(sample_accounts()), None).await?;
    set(owner, &PointerScope::Organization, gateways.archive).await?;
    let mut transaction = OrganizationTransaction::begin(owner, organization).await?;
    let account = store::account::by_address(&mut transaction, organization, &OWNER_OF_ONE.parse()?).await?;
    drop(transaction);
    let account = account.context("the sample user is missing")?;
    set(owner, &PointerScope::Account(account), gateways.screen).await?;

    let password = chosen_password.map_or_else(generated_password, str::to_owned);
    store::administrator::create(owner, &email, &password::hash(&password)?, organization, Role::Administrator).await?;
    Ok(Some(password))
}

async fn set(owner: &PgPool, scope: &PointerScope, listener: SocketAddr) -> anyhow::Result<()> {
    let transaction = super::begin(owner, SLUG).await?;
    store::gateway::set(transaction, scope, Some(&as_gateway(listener)), super::OPERATOR).await?;
    Ok(())
}

fn generated_password() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), 16)
}

/// Enough accounts for the table to have several pages.
fn sample_accounts() -> String {
    let mut file = format!(
        "user_id,name,aliases\n{ADMINISTRATOR},Ada Moreau,\n{FOLLOWER},Ben Okoro,sales@harbour.example\n{OWNER_OF_ONE},Clara Lind,\n"
    );
    for (index, (first, last)) in
        LAST_NAMES.iter().flat_map(|last| FIRST_NAMES.iter().map(move |first| (first, last))).enumerate()
    {
        let domain = DOMAINS[usize::from(index % 7 == 0)];
        let user = format!("{first}.{last}").to_lowercase();
        file.push_str(&format!("{user}@{domain},{first} {last},\n"));
    }
    file
}

/// What a new user reads first: where to sign in, with what, and two messages to send.
pub fn welcome(pages: &str, password: Option<&str>, submission: SocketAddr, gateways: Gateways) -> String {
    let password = password.unwrap_or("as printed at the first start, or set OUTGATE_DEMO_PASSWORD to choose one");
    let send = |sender: &str| {
        format!(
            "  printf 'From: {sender}\\r\\nTo: someone@elsewhere.example\\r\\nSubject: Hello\\r\\n\\r\\nHello from {sender}.\\r\\n' \\\n    \
             | curl -sS smtp://{submission} --mail-from {sender} --mail-rcpt someone@elsewhere.example --upload-file -"
        )
    };
    format!(
        "\nOutgate is running.\n\n\
         Sign in at   {pages}/sign-in\n\
         with         {ADMINISTRATOR}\n\
         password     {password}\n\n\
         Three demonstration servers print what reaches them:\n\
         the archive at {}, the screen at {}, and {} for mail that has no gateway.\n\n\
         Send a message as two users; the first follows the organization's gateway, the second has an own one:\n\n{}\n\n{}\n\n\
         Change a gateway on the pages and send again. Ctrl-C stops everything.\n",
        gateways.archive,
        gateways.screen,
        gateways.world,
        send(FOLLOWER),
        send(OWNER_OF_ONE),
    )
}
