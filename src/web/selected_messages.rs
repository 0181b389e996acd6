//! What an administrator wants of waiting mail: of one message, of those that were ticked in `outbound_queue`, or of
//! all that it shows. Asked again with the number, then written next to the messages; relays carry it out.

use std::time::Duration;

use askama::Template;
use axum::{
    extract::State,
    http::StatusCode,
    response::{IntoResponse, Response},
};

use super::{
    App, Route,
    console::Console,
    error::{PageError, see_other},
    form::{Form, ticked},
    job,
    link::Link,
    outbound_queue::{self, QueueQuery, filter_in_words},
    page,
    session::InOrganization,
    wording,
};
use crate::{
    mail::id::{ChangeId, QueueId},
    store::{
        self, OrganizationTransaction,
        change::AuditEntry,
        job::About,
        outbound_queue::{Counted, Messages, PAGE_SIZE, Wish, Wished},
        tenant::Access,
    },
};

const PATH: &str = "/{organization}/web-mail-cloud/outbound-queue/selected";

/// Messages that are written in one transaction: relays wait for none of them for long.
const BATCH: usize = 1_000;

/// How often it is tried again to write what a relay was just writing, and after which pause.
const TRIES: usize = 50;
const PAUSE: Duration = Duration::from_millis(100);

pub fn routes() -> Vec<Route> {
    vec![Route::get(PATH, show), Route::post(PATH, confirm)]
}

/// There is nothing to see before messages were selected.
async fn show(inside: InOrganization) -> Response {
    see_other(&outbound_queue::list(&inside.access.slug).build())
}

/// What is sent, by the list, by a message's page and by the confirmation. A tick is a field of its own, so that one
/// name comes several times; every other field comes once, and none that is not named here comes at all.
#[derive(Debug)]
struct SelectedForm {
    wish: Wish,
    ticked: Vec<QueueId>,
    /// All that the list shows, whatever is ticked.
    all: bool,
    list: QueueQuery,
    /// The number of messages that was confirmed.
    confirmed: Option<i64>,
    /// The newest message when it was asked: what has come since is not meant.
    last: Option<QueueId>,
    /// Of the audit entry, so that a confirmation that is sent twice is one.
    change: ChangeId,
}

impl TryFrom<Vec<(String, String)>> for SelectedForm {
    type Error = PageError;

    fn try_from(fields: Vec<(String, String)>) -> Result<Self, PageError> {
        let malformed = |what: &str| PageError::Malformed(format!("{what} in a form for several messages"));
        let (ticked, mut once) = ticked::<QueueId>(fields, PAGE_SIZE, malformed)?;
        let wish = match once.remove("action").as_deref() {
            Some("retry") => Wish::Retry,
            Some("release") => Wish::Release,
            Some("return") => Wish::Return,
            Some("delete") => Wish::Delete,
            _ => return Err(malformed("no action")),
        };
        let confirmed = once.remove("confirmed").map(|count| count.parse()).transpose();
        let last = once.remove("last").map(|last| last.parse()).transpose();
        let change = once.remove("change").map(|change| change.parse()).transpose();
        let form = Self {
            wish,
            ticked,
            all: once.remove("all").is_some(),
            confirmed: confirmed.map_err(|_| malformed("no number"))?,
            last: last.map_err(|_| malformed("no id of a message"))?,
            change: change.map_err(|_| malformed("no id of a change"))?.unwrap_or_else(ChangeId::new),
            list: QueueQuery::take(&mut once),
        };
        if once.is_empty() { Ok(form) } else { Err(malformed("an unknown field")) }
    }
}

impl SelectedForm {
    fn messages(&self) -> Messages {
        if self.all { Messages::Matching(self.list.filter()) } else { Messages::Ticked(self.ticked.clone()) }
    }

    /// Which messages are meant, as the audit log says it.
    async fn in_words(&self, transaction: &mut OrganizationTransaction) -> store::Result<String> {
        if self.all {
            return Ok(format!("all that match: {}", filter_in_words(transaction, &self.list.filter()).await?));
        }
        let ids: Vec<String> = self.ticked.iter().map(ToString::to_string).collect();
        Ok(ids.join(", "))
    }
}

#[derive(Template)]
#[template(path = "selected_messages.html")]
struct SelectedMessages {
    console: Console,
    wish: Wish,
    /// How many messages are meant; with none there is nothing to confirm.
    counted: Counted,
    /// Which they are, where the list's filter says it.
    which: Option<String>,
    /// What goes along to the next step.
    fields: Vec<(&'static str, String)>,
    /// The list of messages.
    list: String,
}

impl SelectedMessages {
    fn messages(&self) -> String {
        wording::counted(self.counted.messages, "message", "messages")
    }

    fn title(&self) -> String {
        match self.counted.messages {
            0 => "No message is selected".to_owned(),
            _ => title(self.wish, self.counted.messages),
        }
    }
}

/// What is done to how many messages.
fn title(wish: Wish, messages: i64) -> String {
    let messages = wording::counted(messages, "message", "messages");
    match wish {
        Wish::Retry => format!("Retry {messages} now"),
        Wish::Release => format!("Release {messages}"),
        Wish::Return => format!("Return {messages}"),
        Wish::Delete => format!("Delete {messages}"),
    }
}

async fn confirm(
    State(app): State<App>,
    inside: InOrganization,
    Form(fields): Form<Vec<(String, String)>>,
) -> Result<Response, PageError> {
    let form = SelectedForm::try_from(fields)?;
    let access = &inside.access;
    if !access.role.may_decide_about_mail() {
        return Err(PageError::Forbidden(
            "Only an Administrator may retry, release, return or delete waiting mail. Ask one of your organization.",
        ));
    }
    let (Some(confirmed), Some(last)) = (form.confirmed, form.last) else {
        let look = look(&app, &inside, &form).await?;
        let status = if look.counted.messages == 0 { StatusCode::UNPROCESSABLE_ENTITY } else { StatusCode::OK };
        return Ok((status, page(&look)?).into_response());
    };
    let order = Order { form, last, confirmed };
    let mut transaction = app.store.begin(access).await?;
    if store::change::is_there(&mut transaction, access.organization(), order.form.change).await? {
        return Ok(see_other(&order.decided(&access.slug, order.form.change).build()));
    }
    drop(transaction);
    let about = (title(order.form.wish, confirmed), About::Queue);
    let (for_work, of_access) = (app.clone(), access.clone());
    job::run(&app, access, about, confirmed, move |progress| async move {
        order.carry_out(&for_work, &of_access, progress).await
    })
    .await
}

/// The confirmation with what the store has.
async fn look(app: &App, inside: &InOrganization, form: &SelectedForm) -> Result<SelectedMessages, PageError> {
    let organization = inside.access.organization();
    let mut transaction = app.store.begin(&inside.access).await?;
    let last = store::outbound_queue::newest(&mut transaction, organization).await?;
    let counted = match last {
        Some(last) => {
            store::outbound_queue::count_until(&mut transaction, organization, &form.messages(), last).await?
        }
        None => Counted::default(),
    };
    let which = match form.all {
        true => Some(filter_in_words(&mut transaction, &form.list.filter()).await?),
        false => None,
    };
    drop(transaction);
    let mut fields = vec![("action", form.wish.as_str().to_owned()), ("change", form.change.to_string())];
    fields.extend(last.map(|last| ("last", last.to_string())));
    match form.all {
        true => fields.push(("all", "1".to_owned())),
        false => fields.extend(form.ticked.iter().map(|id| ("selected", id.to_string()))),
    }
    fields.extend(form.list.fields());
    Ok(SelectedMessages {
        console: Console::new(inside, outbound_queue::LABEL),
        wish: form.wish,
        counted,
        which,
        fields,
        list: form.list.link_here(&inside.access.slug).build(),
    })
}

/// What was confirmed.
struct Order {
    form: SelectedForm,
    last: QueueId,
    confirmed: i64,
}

/// What was written so far.
#[derive(Default)]
struct Done {
    written: i64,
    under_way: i64,
    /// What a relay was just writing down.
    busy: Vec<QueueId>,
}

impl Done {
    fn add(&mut self, wished: Wished) {
        self.written += wished.written;
        self.under_way += wished.under_way;
        self.busy.extend(wished.busy);
    }
}

impl Order {
    /// The list, which says what was decided.
    fn decided(&self, slug: &str, change: ChangeId) -> Link {
        self.form.list.link_here(slug).with("decided", &change.to_string())
    }

    /// Batch by batch, each in a transaction of its own: relays work on these rows too, and go on meanwhile. What fits
    /// into one has one audit entry, in that transaction; else one says what was begun and another what came of it.
    async fn carry_out(self, app: &App, access: &Access, progress: job::Progress) -> Result<Link, job::Failed> {
        let (organization, messages) = (access.organization(), self.form.messages());
        let (mut done, mut after, mut is_first) = (Done::default(), None, true);
        loop {
            let mut transaction = app.store.begin(access).await?;
            let place = (after, self.last);
            let ids =
                store::outbound_queue::next_meant(&mut transaction, organization, &messages, place, BATCH).await?;
            let is_last = ids.len() < BATCH;
            done.add(store::outbound_queue::write_wish(&mut transaction, organization, &ids, self.form.wish).await?);
            after = ids.last().copied().or(after);
            let is_whole = is_first && is_last && done.busy.is_empty();
            if is_whole && done.written == 0 {
                return Ok(self.form.list.link_here(&access.slug).with("decided", "nothing"));
            }
            if is_first {
                let became = if is_whole { self.became(&done) } else { "begun".to_owned() };
                let audit = self.audit(&mut transaction, access, self.confirmed, became).await?;
                let change = transaction.open_change(self.form.change, audit).await?;
                transaction.finish_change(change, None).await?;
            } else {
                transaction.commit().await?;
            }
            progress.set(done.written.min(self.confirmed));
            if is_whole {
                return Ok(self.decided(&access.slug, self.form.change));
            }
            is_first = false;
            if is_last {
                break;
            }
        }
        self.write_busy(app, access, &mut done).await?;
        let mut transaction = app.store.begin(access).await?;
        let audit = self.audit(&mut transaction, access, done.written, self.became(&done)).await?;
        let committed = transaction.commit_change(&[], audit).await?;
        Ok(self.decided(&access.slug, committed.id))
    }

    /// What relays were just writing down is free again within moments.
    async fn write_busy(&self, app: &App, access: &Access, done: &mut Done) -> Result<(), job::Failed> {
        for _ in 0..TRIES {
            let busy = std::mem::take(&mut done.busy);
            if busy.is_empty() {
                return Ok(());
            }
            tokio::time::sleep(PAUSE).await;
            for ids in busy.chunks(BATCH) {
                let mut transaction = app.store.begin(access).await?;
                let organization = access.organization();
                done.add(store::outbound_queue::write_wish(&mut transaction, organization, ids, self.form.wish).await?);
                transaction.commit().await?;
            }
        }
        Ok(())
    }

    async fn audit(
        &self,
        transaction: &mut OrganizationTransaction,
        access: &Access,
        messages: i64,
        became: String,
    ) -> store::Result<AuditEntry> {
        Ok(AuditEntry {
            actor: access.email.clone(),
            action: self.form.wish.action(),
            subject: wording::counted(messages, "waiting message", "waiting messages"),
            before: Some(self.form.in_words(transaction).await?),
            after: Some(became),
        })
    }

    /// What became of it, in words.
    fn became(&self, done: &Done) -> String {
        let written = wording::number(done.written);
        let mut words = match self.form.wish {
            Wish::Retry => format!("{written} due now"),
            Wish::Release => format!("{written} released"),
            Wish::Return => format!("{written} on the way back with a report"),
            Wish::Delete => format!("{written} deleted without a report"),
        };
        if done.under_way > 0 {
            let under_way = wording::number(done.under_way);
            words.push_str(&format!(", {under_way} of them when the attempt that is under way has ended"));
        }
        let busy = done.busy.len() as i64;
        let left = self.confirmed - done.written - busy;
        if left > 0 {
            let why = if self.form.wish == Wish::Release { "did not wait for it" } else { "had left meanwhile" };
            words.push_str(&format!("; {} {why}", wording::number(left)));
        }
        if busy > 0 {
            words.push_str(&format!("; {} could not be reached: try again", wording::number(busy)));
        }
        words
    }
}
