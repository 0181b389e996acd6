//! Tells administrators of mail that waits for their approval: one message to each, and another for what has come since
//! after a while, queued in the transaction that notes that they were told.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Entry, Queue, commit};
use crate::{
    mail::{
        approval_notice::{ApprovalNotice, Waiting, in_words},
        id::QueueId,
        own_message::OwnMessage,
        short_id::ShortId,
    },
    policy::webhook::{Kind, WebhookNotice},
    store::{self, approval_notice::ToApprove},
};

/// How often it is looked whether there is something to tell.
const EVERY: Duration = Duration::from_secs(5);
/// How long the store may take.
const PATIENCE: Duration = Duration::from_secs(10);

impl Queue {
    /// Until `stop`.
    pub(super) async fn keep_telling_of_approvals(&self, stop: CancellationToken) {
        while stop.run_until_cancelled(sleep(EVERY)).await.is_some() {
            match timeout(PATIENCE, self.tell_of_approvals(OffsetDateTime::now_utc())).await {
                Ok(Ok(_)) | Err(_) => {}
                Ok(Err(error)) => tracing::warn!(%error, "administrators could not be told what waits for approval"),
            }
        }
    }

    /// Tells what there is to tell at `now`. Returns how many messages that takes.
    pub async fn tell_of_approvals(&self, now: OffsetDateTime) -> store::Result<usize> {
        let mut messages = 0;
        for waiting in store::approval_notice::to_tell_across_tenants(&self.shared.db, now).await? {
            messages += self.tell_of_approval(&waiting, now).await?;
        }
        if messages > 0 {
            self.shared.wake.notify_one();
        }
        Ok(messages)
    }

    async fn tell_of_approval(&self, to_approve: &ToApprove, now: OffsetDateTime) -> store::Result<usize> {
        let organization = to_approve.organization;
        let mut transaction = self.shared.db.begin().await?;
        if !store::approval_notice::note_across_tenants(&mut *transaction, organization, now).await? {
            return Ok(0);
        }
        let whom = store::gateway_notice::administrators_across_tenants(&mut *transaction, organization).await?;
        let names = store::limit_notice::names_across_tenants(&mut *transaction, organization, None).await?;
        let latest = store::approval_notice::awaiting_across_tenants(&mut *transaction, organization).await?;
        let latest = latest.into_iter().map(|message| Waiting {
            sender: message.sender,
            why: message.why,
            since: message.accepted_at,
            link: self.shared.settings.links.of(ShortId::of(message.id)),
        });
        let latest: Vec<Waiting> = latest.collect();
        let subject = latest.first().map(|waiting| waiting.sender.clone()).unwrap_or_default();
        let why = latest.first().map(|waiting| waiting.why.clone()).unwrap_or_default();
        let notice = WebhookNotice {
            kind: Kind::ApprovalWanted,
            at: now,
            organization: names.slug,
            text: format!("{}; the latest is of {subject}: {why}.", in_words(to_approve.messages)),
            subject,
        };
        store::webhook::note(&mut *transaction, organization, &notice, now).await?;
        let entry = |whom: &String| {
            let (settings, id) = (&self.shared.settings, QueueId::new());
            let bytes = ApprovalNotice {
                envelope: OwnMessage { hostname: &settings.hostname, own_id: &id.to_string(), to: whom, now },
                organization: &names.organization,
                messages: to_approve.messages,
                latest: &latest,
            }
            .to_bytes();
            let ends = (now, now + settings.schedule.lifetime);
            Entry::of_ours(organization, id, whom.clone(), bytes, !whom.is_ascii(), ends)
        };
        let entries: Vec<Entry> = whom.iter().map(entry).collect();
        if !entries.is_empty() {
            commit::insert_entries(&mut transaction, &entries.iter().collect::<Vec<_>>()).await?;
        }
        transaction.commit().await?;
        Ok(entries.len())
    }
}
