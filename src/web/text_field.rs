//! A field of a form that is not a gateway's: what stands in it and what is wrong with it. Shown by
//! `_text_field.html`, its mistakes once more by `_mistakes.html` at the top of the page.

use super::draft::Draft;
use crate::{mail::Mailbox, policy::account_file};

/// One field as it is shown.
#[derive(Debug, Clone, Default)]
pub struct TextField {
    /// Its name in the form, and its id on the page.
    pub id: &'static str,
    pub label: &'static str,
    pub hint: &'static str,
    /// How many lines it has room for.
    pub lines: usize,
    /// `ltr` for addresses, `auto` for what people are called.
    pub direction: &'static str,
    /// What stands in it.
    pub typed: String,
    pub mistake: Option<String>,
    /// What somebody else has saved meanwhile.
    pub theirs: Option<String>,
}

impl TextField {
    /// The ids of what explains it.
    pub fn described_by(&self) -> String {
        let part = |is_there: bool, name: &str| if is_there { format!(" {}-{name}", self.id) } else { String::new() };
        format!("{}-hint{}{}", self.id, part(self.mistake.is_some(), "mistake"), part(self.theirs.is_some(), "theirs"))
    }

    /// With what was typed before the session ended. `seen` is what stood there then, `now` what is saved: where they
    /// differ, somebody has changed it meanwhile. Returns whether there was something.
    pub fn restore(&mut self, draft: &Draft, seen: Option<&str>, now: &str) -> bool {
        let Some(typed) = draft.field(self.id) else { return false };
        self.typed = typed.to_owned();
        if seen.is_some_and(|seen| seen != now) {
            self.theirs = Some(now.to_owned());
        }
        true
    }

    /// With what was typed and what is wrong with it.
    pub fn again(&mut self, typed: String, mistake: impl Into<String>) {
        self.typed = typed;
        self.mistake = Some(mistake.into());
    }
}

/// The mistakes of these fields with the fields' ids, for the top of the page.
pub fn mistakes(fields: &[&TextField]) -> Vec<(&'static str, String)> {
    fields.iter().filter_map(|field| Some((field.id, field.mistake.clone()?))).collect()
}

/// The most further addresses of one account.
pub const MOST_ADDRESSES: usize = 500;

/// Addresses one per line, or apart by blanks, commas or semicolons; the User ID may stand among them. An error
/// names the first that is none.
pub fn addresses(typed: &str, user_id: Option<&Mailbox>) -> Result<Vec<Mailbox>, String> {
    let mut addresses: Vec<Mailbox> = Vec::new();
    for address in account_file::separate(typed) {
        let address: Mailbox =
            address.parse().map_err(|error: crate::mail::mailbox::MailboxError| error.to_string())?;
        if Some(&address) != user_id && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    if addresses.len() > MOST_ADDRESSES {
        return Err(format!("These are too many addresses: at most {MOST_ADDRESSES}."));
    }
    Ok(addresses)
}
