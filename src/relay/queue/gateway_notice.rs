//! Tells administrators of gateways that do not take mail or have stopped offering TLS, when that is over, of certificates
//! that end and of gateways that do not go live: one message an occasion and administrator, queued in the transaction that
//! notes it.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Entry, Queue, commit};
use crate::{
    mail::{
        gateway_notice::{self, GatewayNotice, NotLive},
        id::QueueId,
        own_message::OwnMessage,
    },
    policy::webhook::{Kind, WebhookNotice},
    store::{
        self,
        gateway::PointerScope,
        gateway_notice::{News, NotPassed, ToTell},
    },
};

/// How often it is looked whether there is something to tell.
const EVERY: Duration = Duration::from_secs(5);
/// How long the store may take.
const PATIENCE: Duration = Duration::from_secs(10);
/// What is over sooner is not told: servers are restarted, and who has saved a gateway sees on the page that it has not
/// passed.
const LASTS: time::Duration = time::Duration::minutes(1);

/// So long after trouble was seen last it has ended, also where nobody saw the gateway take mail: one that is in use is
/// probed more often.
const ENDED: time::Duration = time::Duration::hours(1);

impl Queue {
    /// Until `stop`.
    pub(super) async fn keep_telling_of_gateways(&self, stop: CancellationToken) {
        while stop.run_until_cancelled(sleep(EVERY)).await.is_some() {
            match timeout(PATIENCE, self.tell_of_gateways(OffsetDateTime::now_utc())).await {
                Ok(Ok(_)) | Err(_) => {}
                Ok(Err(error)) => tracing::warn!(%error, "administrators could not be told how gateways do"),
            }
        }
    }

    /// Tells what there is to tell at `now`. Returns how many messages that takes.
    pub async fn tell_of_gateways(&self, now: OffsetDateTime) -> store::Result<usize> {
        let db = &self.shared.db;
        let mut to_tell = store::gateway_notice::failing_across_tenants(db, now - LASTS).await?;
        to_tell.extend(store::gateway_notice::well_across_tenants(db, now - LASTS).await?);
        to_tell.extend(store::gateway_notice::ending_across_tenants(db, now).await?);
        to_tell.extend(store::gateway_notice::not_passed_across_tenants(db, now - LASTS).await?);
        to_tell.extend(store::gateway_notice::in_clear_across_tenants(db, now - LASTS).await?);
        to_tell.extend(store::gateway_notice::encrypted_across_tenants(db).await?);
        let mut messages = 0;
        for told in &to_tell {
            let mut transaction = db.begin().await?;
            if !store::gateway_notice::note_across_tenants(&mut *transaction, told, now).await? {
                continue;
            }
            let whom =
                store::gateway_notice::administrators_across_tenants(&mut *transaction, told.organization).await?;
            let entries: Vec<Entry> = whom.iter().map(|whom| self.notice(told, whom, now)).collect();
            store::webhook::note(&mut *transaction, told.organization, &for_webhook(told, now), now).await?;
            if !entries.is_empty() {
                commit::insert_entries(&mut transaction, &entries.iter().collect::<Vec<_>>()).await?;
            }
            transaction.commit().await?;
            messages += entries.len();
        }
        store::gateway_notice::forget_ended_across_tenants(db, now - ENDED).await?;
        if messages > 0 {
            self.shared.wake.notify_one();
        }
        Ok(messages)
    }

    fn notice(&self, told: &ToTell, whom: &str, now: OffsetDateTime) -> Entry {
        let (settings, id) = (&self.shared.settings, QueueId::new());
        let bytes = GatewayNotice {
            envelope: OwnMessage { hostname: &settings.hostname, own_id: &id.to_string(), to: whom, now },
            organization: &told.name,
            gateway: &told.address,
            news: match &told.news {
                News::Failing(trouble) => gateway_notice::News::Failing {
                    since: trouble.since,
                    words: &trouble.words,
                    backup: trouble.backup.as_ref(),
                },
                News::Well => gateway_notice::News::Well,
                News::Certificate(ending) => gateway_notice::News::Certificate { ends_at: ending.at },
                News::NotPassed(not_passed) => gateway_notice::News::NotPassed(written(not_passed)),
                News::InClear(since) => gateway_notice::News::InClear { since: *since },
                News::Encrypted => gateway_notice::News::Encrypted,
            },
        }
        .to_bytes();
        let ends = (now, now + settings.schedule.lifetime);
        Entry::of_ours(told.organization, id, whom.to_owned(), bytes, !whom.is_ascii(), ends)
    }
}

fn written(not_passed: &NotPassed) -> gateway_notice::NotPassed<'_> {
    let what = match &not_passed.scope {
        Some(PointerScope::Domain(name)) => NotLive::OfDomain(name),
        Some(PointerScope::Organization | PointerScope::Account(_)) => NotLive::OfAll,
        None => NotLive::Record,
    };
    let (failed, instead_of) = (not_passed.failed.as_str(), not_passed.instead_of.as_ref());
    gateway_notice::NotPassed { what, failed, instead_of }
}

/// The same in a sentence for a webhook.
fn for_webhook(told: &ToTell, now: OffsetDateTime) -> WebhookNotice {
    let gateway = told.address.with_port_in_words();
    let (kind, text) = match &told.news {
        News::Failing(trouble) => {
            let meanwhile = match &trouble.backup {
                Some(backup) => format!("Mail goes to its backup {} meanwhile.", backup.with_port_in_words()),
                None => "Mail for it waits and is not sent another way.".to_owned(),
            };
            let words = format!("The gateway {gateway} does not take mail: {}. {meanwhile}", trouble.words);
            (Kind::GatewayFailing, words)
        }
        News::Well => (Kind::GatewayWell, format!("The gateway {gateway} takes mail again.")),
        News::Certificate(ending) => {
            let words = format!("The certificate of the gateway {gateway} is valid until {}.", ending.at.date());
            (Kind::CertificateEnding, words)
        }
        News::NotPassed(not_passed) => (Kind::GatewayNotPassed, written(not_passed).in_brief(&gateway)),
        News::InClear(_) => {
            let words = format!("The gateway {gateway} has stopped offering TLS: mail goes to it in clear.");
            (Kind::GatewayInClear, words)
        }
        News::Encrypted => (Kind::GatewayEncrypted, format!("Mail to the gateway {gateway} is encrypted again.")),
    };
    WebhookNotice { kind, at: now, organization: told.slug.clone(), subject: told.address.to_string(), text }
}
