//! `outgate gateway verify`: asks all relays whether a gateway accepts our mail, and prints each step as it ends.
//! What the page Verification shows; called by `gateway`.

use std::{collections::HashMap, time::Duration};

use anyhow::Context;
use outgate::{
    mail::{
        GatewayAddress, Mailbox,
        id::{GatewayId, OrganizationId, VerificationId},
    },
    policy::{
        arrival::Finding,
        verification::{Outcome, Step, title},
        words,
    },
    store::{
        self, OrganizationTransaction,
        gateway::PointerScope,
        verification::{Asked, TESTS_AN_HOUR, TestMessage, Verification, Wanted},
    },
};
use sqlx::PgPool;
use time::OffsetDateTime;

/// How often it is looked for what is new.
const EVERY: Duration = Duration::from_millis(300);

/// What is asked of the gateway.
#[derive(Debug, Clone, Copy)]
pub struct Question<'a> {
    /// Whose gateway it is, and whose mail the question stands for.
    pub user: Option<&'a Mailbox>,
    pub from: Option<&'a Mailbox>,
    pub to: Option<&'a Mailbox>,
    /// A test message is sent: to `to`, else back to this installation.
    pub send: bool,
}

pub async fn run(
    mut transaction: OrganizationTransaction,
    owner: &PgPool,
    scope: &PointerScope,
    address: Option<GatewayAddress>,
    question: &Question<'_>,
) -> anyhow::Result<()> {
    let organization = transaction.organization();
    let Question { user, from, to, send } = *question;
    let (gateway, address) = gateway(&mut transaction, scope, address, user).await?;
    let (sender, recipient) = (from.or(user).map(ToString::to_string), to.map(ToString::to_string));
    let test = send.then_some(match to {
        Some(_) => TestMessage::ToRecipient { link: None },
        None => TestMessage::ToReturn,
    });
    let (sender, recipient) = (sender.as_deref(), recipient.as_deref());
    let wanted = Wanted { sender, recipient, test, ..Wanted::of(gateway, &address, super::OPERATOR) };
    let id = match store::verification::ask(&mut transaction, organization, &wanted).await? {
        Asked::Asked(id) => id,
        Asked::NotFound => anyhow::bail!("the organization has no mail domain to send from"),
        Asked::TooMany => anyhow::bail!(
            "several verifications of the organization are under way, or were within the last minute: try again in a minute"
        ),
        Asked::TooManyTests => {
            anyhow::bail!("{TESTS_AN_HOUR} test messages were sent within the last hour: try again later")
        }
    };
    transaction.commit().await?;
    let mut printed = HashMap::new();
    loop {
        let mut transaction = OrganizationTransaction::begin(owner, organization).await?;
        let found = store::verification::by_id(&mut transaction, organization, id).await?;
        drop(transaction);
        let found = found.context("the gateway was removed meanwhile")?;
        print(&found, &mut printed);
        if found.has_ended() {
            anyhow::ensure!(!found.answers.is_empty(), "no relay has answered: is one running?");
            if found.refuses() {
                print_addresses(&found, owner).await?;
                anyhow::bail!("{} does not accept our mail", address.with_port_in_words());
            }
            anyhow::ensure!(
                found.accepts(),
                "it is not known whether {} accepts our mail from every relay: {} has not answered in time",
                address.with_port_in_words(),
                found.unanswered().join(", ")
            );
            println!("{} accepts our mail.", address.with_port_in_words());
            return if send && to.is_none() { wait_for_return(owner, organization, id).await } else { Ok(()) };
        }
        tokio::time::sleep(EVERY).await;
    }
}

/// What the gateway has to accept.
async fn print_addresses(found: &Verification, owner: &PgPool) -> anyhow::Result<()> {
    let to_allow = found.to_allow(store::relay::outbound_addresses(owner).await?);
    if !to_allow.lines.is_empty() {
        println!("Addresses to allow at the gateway, and the relays that mail comes from there:");
    }
    for line in &to_allow.lines {
        println!("{}\t{}", line.address, line.relays.join(", "));
    }
    if !to_allow.unsure.is_empty() {
        let relays = to_allow.unsure.join(", ");
        println!("Of its own machine's addresses only: {relays}. Behind NAT set OUTGATE_OUTBOUND_ADDRESSES there.");
    }
    Ok(())
}

/// Until every message has come back, or is not waited for any more; then says what each has shown.
async fn wait_for_return(
    owner: &PgPool,
    organization: OrganizationId,
    verification: VerificationId,
) -> anyhow::Result<()> {
    println!("Waiting for the test messages to come back…");
    loop {
        let mut transaction = OrganizationTransaction::begin(owner, organization).await?;
        let tests = store::test_message::of(&mut *transaction, organization, verification).await?;
        drop(transaction);
        let now = OffsetDateTime::now_utc();
        if tests.iter().any(|test| test.progress(now).is_awaited()) {
            tokio::time::sleep(EVERY).await;
            continue;
        }
        for test in &tests {
            for finding in test.progress(now).findings() {
                print_finding(&test.relay, &finding);
            }
        }
        anyhow::ensure!(tests.iter().all(|test| test.arrived_at.is_some()), "not every test message has come back");
        return Ok(());
    }
}

fn print_finding(relay: &str, finding: &Finding) {
    let outcome = if finding.outcome == Outcome::Failed { "FAILED" } else { "ok" };
    let took = finding.took.map(|took| format!(" (after {})", words::took(took))).unwrap_or_default();
    println!("{relay}: {}: {outcome}{took} {}", finding.title, finding.saw.join("; "));
    if let Some(advice) = &finding.advice {
        println!("{relay}:   {advice}");
    }
}

/// The gateway that is asked about: a saved one wherever there is one.
async fn gateway(
    transaction: &mut OrganizationTransaction,
    scope: &PointerScope,
    address: Option<GatewayAddress>,
    user: Option<&Mailbox>,
) -> anyhow::Result<(Option<GatewayId>, GatewayAddress)> {
    let organization = transaction.organization();
    let all = store::gateway::overview(transaction, organization, None).await?;
    let wanted = match address {
        Some(address) => address,
        None => applying(transaction, scope, user).await?.context("no gateway applies there: name an address")?,
    };
    let saved = all.iter().find(|gateway| gateway.address == wanted);
    Ok((saved.map(|gateway| gateway.id), wanted))
}

/// The address that mail goes to, nearest scope first.
async fn applying(
    transaction: &mut OrganizationTransaction,
    scope: &PointerScope,
    user: Option<&Mailbox>,
) -> anyhow::Result<Option<GatewayAddress>> {
    let organization = transaction.organization();
    let domain = user.map(|user| PointerScope::Domain(user.domain().clone()));
    for scope in [Some(scope), domain.as_ref(), Some(&PointerScope::Organization)].into_iter().flatten() {
        let pointer = store::gateway::pointer(transaction, organization, scope).await?;
        if let Some(address) = pointer.and_then(|pointer| pointer.address) {
            return Ok(Some(address));
        }
    }
    Ok(None)
}

/// What has ended since the last time.
fn print(found: &Verification, printed: &mut HashMap<String, usize>) {
    for answer in &found.answers {
        let ended: Vec<&Step> = answer.steps.iter().filter(|step| step.outcome != Outcome::UnderWay).collect();
        let already = printed.entry(answer.relay.clone()).or_default();
        for step in ended.iter().skip(*already) {
            let outcome = if step.outcome == Outcome::Passed { "ok" } else { "FAILED" };
            let took = words::took(time::Duration::milliseconds(step.took.into()));
            println!("{}: {}: {outcome} ({took}) {}", answer.relay, title(step.stage), step.saw.join("; "));
            if let Some(advice) = &step.advice {
                println!("{}:   {advice}", answer.relay);
            }
        }
        *already = (*already).max(ended.len());
    }
}
