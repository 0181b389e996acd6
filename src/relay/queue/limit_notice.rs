//! Tells administrators of who is near a limit, beyond it, or stopped: one message an hour, subject and administrator,
//! queued in the transaction that notes that they were told.

use std::time::Duration;

use time::OffsetDateTime;
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use super::{Entry, Queue, commit};
use crate::{
    mail::{
        id::QueueId,
        limit_notice::{LimitNotice, Reader},
        own_message::OwnMessage,
    },
    policy::{
        limit::{Action, Level, Window},
        volume::Subject,
        webhook::{Kind, WebhookNotice},
    },
    relay::meter::{Meter, News},
    store,
};

/// How often it is looked whether there is something to tell.
const EVERY: Duration = Duration::from_secs(5);
/// How long the store may take for one of them.
const PATIENCE: Duration = Duration::from_secs(10);

impl Queue {
    /// Until `stop`.
    pub(in crate::relay) async fn keep_telling_of_limits(&self, meter: &Meter, stop: CancellationToken) {
        while stop.run_until_cancelled(sleep(EVERY)).await.is_some() {
            if let Err(error) = self.tell_of_limits(meter, OffsetDateTime::now_utc()).await {
                tracing::warn!(%error, "administrators could not be told who sends much");
            }
        }
    }

    /// Tells what there is to tell at `now`; what cannot be told is kept for the next time. Returns how many messages
    /// that takes.
    pub async fn tell_of_limits(&self, meter: &Meter, now: OffsetDateTime) -> store::Result<usize> {
        let (mut messages, mut news) = (0, meter.take_news().into_iter());
        while let Some(next) = news.next() {
            let telling = timeout(PATIENCE, self.tell_of_limit(&next, now)).await;
            match telling.unwrap_or_else(|_| Err(sqlx::Error::PoolTimedOut)) {
                Ok(told) => messages += told,
                Err(error) => {
                    meter.put_back(std::iter::once(next).chain(news).collect());
                    return Err(error);
                }
            }
        }
        if messages > 0 {
            self.shared.wake.notify_one();
        }
        Ok(messages)
    }

    async fn tell_of_limit(&self, news: &News, now: OffsetDateTime) -> store::Result<usize> {
        let (organization, subject) = (news.organization, &news.exceeded.applied.subject);
        let mut transaction = self.shared.db.begin().await?;
        let (level, counted) = (news.exceeded.level, news.exceeded.words());
        let (about, said) = ((subject, level), (counted.as_str(), happens(news)));
        if !store::limit_notice::note_across_tenants(&mut *transaction, organization, about, said, now).await? {
            return Ok(0);
        }
        let whom = store::gateway_notice::administrators_across_tenants(&mut *transaction, organization).await?;
        let account = if let Subject::Account(account) = subject { Some(*account) } else { None };
        let names = store::limit_notice::names_across_tenants(&mut *transaction, organization, account).await?;
        let (name, user_id) = (&names.organization, &names.user_id);
        let whose = match subject {
            Subject::Organization => "All of the organization together".to_owned(),
            Subject::Domain(name) => format!("The mail domain {name}"),
            Subject::NoAccount(name) => format!("Senders of {name} without an account"),
            Subject::Account(_) => user_id.as_ref().unwrap_or(&news.sender).to_string(),
        };
        let notice = WebhookNotice {
            kind: match level {
                Level::Near => Kind::LimitNear,
                Level::Beyond => Kind::LimitBeyond,
                Level::Stopped => Kind::SenderStopped,
            },
            at: news.at,
            organization: names.slug.clone(),
            subject: whose.clone(),
            text: format!("{whose} {}: {counted}. {}", how(news), happens(news)),
        };
        store::webhook::note(&mut *transaction, organization, &notice, now).await?;
        let page = self.shared.settings.links.page(&format!("/{}/web-mail-cloud/outbound-volume", names.slug));
        let told = Reader::Administrator { whose: &whose, page: page.as_deref() };
        let mut entries: Vec<Entry> =
            whom.iter().map(|whom| self.limit_notice(news, name, (whom, told), happens(news), now)).collect();
        if let (true, Some(user_id), Some(happens)) = (names.tell_senders, user_id, happens_to_sender(news)) {
            entries.push(self.limit_notice(news, name, (&user_id.to_string(), Reader::Sender), happens, now));
        }
        if !entries.is_empty() {
            commit::insert_entries(&mut transaction, &entries.iter().collect::<Vec<_>>()).await?;
        }
        transaction.commit().await?;
        Ok(entries.len())
    }

    fn limit_notice(
        &self,
        news: &News,
        organization: &str,
        (whom, reader): (&str, Reader<'_>),
        happens: &str,
        now: OffsetDateTime,
    ) -> Entry {
        let (settings, id) = (&self.shared.settings, QueueId::new());
        let bytes = LimitNotice {
            envelope: OwnMessage { hostname: &settings.hostname, own_id: &id.to_string(), to: whom, now },
            organization,
            reader,
            how: how(news),
            counted: &news.exceeded.words(),
            happens,
            at: news.at,
        }
        .to_bytes();
        let ends = (now, now + settings.schedule.lifetime);
        Entry::of_ours(news.organization, id, whom.to_owned(), bytes, !whom.is_ascii(), ends)
    }
}

/// What becomes of the sender's mail, in words for it; `None`: nothing does, and nobody need trouble it.
fn happens_to_sender(news: &News) -> Option<&'static str> {
    match (news.exceeded.level, news.exceeded.applied.limit.action) {
        (Level::Stopped, _) => {
            Some("Nothing new is accepted, and what waits is held until an administrator has decided.")
        }
        (_, Action::Alert) => None,
        (Level::Near, Action::Delay) => Some("Beyond the limit mail waits and leaves at the limit's pace."),
        (Level::Beyond, Action::Delay) => Some("Further mail waits and leaves at the limit's pace. None is lost."),
        (Level::Near, Action::Hold) => Some("Beyond the limit mail is held until an administrator releases it."),
        (Level::Beyond, Action::Hold) => Some("Further mail is held until an administrator releases it."),
        (Level::Near, Action::Defer | Action::Refuse) => Some("Beyond the limit mail is not accepted."),
        (Level::Beyond, Action::Defer | Action::Refuse) => Some("Further mail is not accepted for now."),
    }
}

/// What the matter is, behind whose mail it is.
fn how(news: &News) -> &'static str {
    let window = news.exceeded.applied.kind.window;
    match news.exceeded.level {
        Level::Near => "is near a limit",
        Level::Beyond if window == Window::Message => "wants to send to too many at once",
        Level::Beyond if window == Window::FirstTime => "writes to very many for the first time",
        Level::Beyond if news.exceeded.usual.is_some() => "sends much more than usual",
        Level::Beyond => "has sent more than is allowed",
        Level::Stopped => "is stopped",
    }
}

/// What becomes of mail now.
fn happens(news: &News) -> &'static str {
    match (news.exceeded.level, news.exceeded.applied.limit.action) {
        (Level::Beyond, Action::Refuse) if news.exceeded.applied.kind.window == Window::Message => {
            "The message was refused, and its sender told to use a distribution list or to ask you."
        }
        (Level::Stopped, _) => "Nothing new is accepted, and what waits of this sender is held until you decide.",
        (Level::Near, Action::Alert) => "Nothing happens beyond the limit but that you are told.",
        (Level::Beyond, Action::Alert) if news.exceeded.applied.kind.window == Window::FirstTime => {
            "Nothing is delayed: you are told, and mail goes its way. Who has taken an account over writes to strangers: \
             ask its owner whether this is theirs, and block the sender if it is not."
        }
        (Level::Beyond, Action::Alert) => "Nothing is delayed: you are told, and mail goes its way.",
        (Level::Near, Action::Delay) => "Beyond the limit mail waits in the queue and leaves at the limit's pace.",
        (Level::Beyond, Action::Delay) => "What is beyond the limit waits in the queue and leaves at the limit's pace.",
        (Level::Near, Action::Hold) => "Beyond the limit mail is held until you release it.",
        (Level::Beyond, Action::Hold) => "What is beyond the limit is held until you release it.",
        (Level::Near, Action::Defer | Action::Refuse) => "Beyond the limit mail is not accepted.",
        (Level::Beyond, Action::Defer | Action::Refuse) => "What is beyond the limit is not accepted for now.",
    }
}
