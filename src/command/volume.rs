//! `outgate volume`: how much an organization, a mail domain or a user sends, in the figures of the page Outbound Volume.
//! Called by `main`; what is counted is `policy::volume`'s.

use clap::Subcommand;
use outgate::{
    policy::volume::{Period, Subject},
    store::{self, gateway::PointerScope},
    web::outbound_volume::all_in_words,
};
use sqlx::PgPool;
use time::{OffsetDateTime, macros::format_description};

use super::gateway::{Whose, scope};

#[derive(Debug, Subcommand)]
pub enum Volume {
    /// Show what was accepted today, by hour, and in the last four weeks, by day. Times are UTC
    Show {
        /// The organization's slug
        slug: String,
        #[command(flatten)]
        whose: Whose,
    },
}

pub async fn run(command: Volume, owner: &PgPool) -> anyhow::Result<()> {
    let Volume::Show { slug, whose } = command;
    let mut transaction = super::begin(owner, &slug).await?;
    let organization = transaction.organization();
    let subject = match scope(&mut transaction, &slug, &whose).await? {
        PointerScope::Organization => Subject::Organization,
        PointerScope::Account(account) => Subject::Account(account),
        PointerScope::Domain(name) => {
            let found = store::domain::overview(&mut transaction, organization, Some(&name)).await?;
            anyhow::ensure!(!found.is_empty(), "{slug} has no mail domain {}", name.to_unicode());
            Subject::Domain(name)
        }
    };
    let now = OffsetDateTime::now_utc();
    for (period, words, format) in [
        (Period::Today, "Today", format_description!("[hour]:00 UTC")),
        (Period::FourWeeks, "Last four weeks", format_description!("[year]-[month]-[day]")),
    ] {
        let hours = store::volume::by_hour(&mut transaction, organization, &subject, period.beginning(now)).await?;
        let steps = period.by_step(now, hours);
        println!("{words}: {}", all_in_words(&steps.iter().map(|(_, count)| *count).sum()));
        for (at, count) in steps.iter().filter(|(_, count)| count.messages > 0) {
            println!("  {}  {}", at.format(format)?, all_in_words(count));
        }
    }
    Ok(())
}
