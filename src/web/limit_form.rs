//! The form that sets a limit, at whichever scope, and what it says a new limit would have done. Part of the page
//! `limits`.

use super::{draft::Draft, limits, outbound_volume, text_field::TextField, wording};
use crate::{
    policy::{
        limit::{Action, Kind, Limit, Limits, SetAt, Whose, Window},
        limit_trial::{LOOKED_BACK, NAMED, Trial},
        volume::Unit,
        words::number,
    },
    store::{
        self,
        limit_trial::{MOST_TRIED, Sender, Tried},
    },
};

/// A field that offers a few: its name, its label, and each value with its words and whether it is chosen.
#[derive(Debug)]
pub struct Select {
    pub id: &'static str,
    pub label: &'static str,
    pub options: Vec<(&'static str, String, bool)>,
}

impl Select {
    fn choose(&mut self, word: &str) {
        if self.options.iter().any(|(value, ..)| *value == word) {
            self.options.iter_mut().for_each(|(value, _, is_chosen)| *is_chosen = *value == word);
        }
    }
}

/// The form as it is shown.
#[derive(Debug)]
pub struct LimitForm {
    /// `None` for an account, which is limited by itself.
    pub whose: Option<Select>,
    pub selects: [Select; 2],
    pub action: Select,
    pub most: TextField,
    pub is_unlimited: bool,
    pub seen: String,
    /// What the limit in it would have done, where that was asked.
    pub trial: Option<ShownTrial>,
}

/// What stands in the form.
#[derive(Debug, Clone, Default)]
pub struct Typed {
    pub whose: String,
    pub window: String,
    pub unit: String,
    pub most: String,
    pub is_unlimited: bool,
    pub action: String,
}

impl Typed {
    /// What was typed before the session ended.
    pub fn of_draft(draft: &Draft) -> Option<Self> {
        let field = |name| draft.field(name).unwrap_or_default().to_owned();
        draft.field("action").map(|action| Self {
            whose: field("whose"),
            window: field("window"),
            unit: field("unit"),
            most: field("most"),
            is_unlimited: draft.field("unlimited").is_some(),
            action: action.to_owned(),
        })
    }

    /// What the limit is about; `None` if no form of that scope says so.
    pub fn kind(&self, at: &SetAt) -> Option<Kind> {
        let whose = self.whose.parse().ok().filter(|whose| at.takes(*whose))?;
        Some(Kind { whose, window: self.window.parse().ok()?, unit: self.unit.parse().ok()? })
    }

    /// The limit of this kind, or what is wrong with it.
    pub fn limit(&self, kind: Kind) -> Result<Limit, String> {
        if !kind.is_possible() {
            return Err(match kind.window {
                Window::FirstTime => {
                    "For those never written to before, limit the external recipients of each account."
                }
                _ => "For one message, limit the recipients or external recipients of each account.",
            }
            .to_owned());
        }
        let action = match kind.window.is_one_message() {
            true => kind.window.default_action(),
            false => self.action.parse().unwrap_or(kind.window.default_action()),
        };
        if self.is_unlimited {
            return Ok(Limit { most: None, action });
        }
        let digits: String = self.most.chars().filter(|character| !matches!(character, ',' | ' ')).collect();
        match digits.parse() {
            Ok(most) if (1..=kind.most()).contains(&most) => Ok(Limit { most: Some(most), action }),
            _ => Err(format!("Enter a whole number from 1 to {}, or choose Unlimited.", number(kind.most().into()))),
        }
    }
}

impl LimitForm {
    /// For a new limit; `name` is that of the mail domain.
    pub fn of(at: &SetAt, name: &str, own: Option<&Limits>) -> Self {
        let of = if name.is_empty() { "the organization" } else { name };
        let whose = |whose: Whose| match whose {
            Whose::Each => format!("Each account of {of}"),
            Whose::Service => format!("Each service account of {of}"),
            Whose::Total => format!("All of {of} together"),
        };
        let all = [Whose::Each, Whose::Service, Whose::Total];
        let whose = all.map(|one| (one.as_str(), whose(one), one == Whose::Each)).to_vec();
        let whose = Select { id: "whose", label: "Whose mail", options: whose };
        let units = Unit::ALL.map(|one| (one.as_str(), outbound_volume::label(one), one == Unit::Recipients));
        let window = |one: Window| match one {
            Window::Usual => "In an hour, compared with what is usual".to_owned(),
            Window::FirstTime => "In a day, those never written to before".to_owned(),
            Window::Approval => "In one message: more need approval".to_owned(),
            Window::Message => "In one message: more are refused".to_owned(),
            Window::Minute | Window::Hour | Window::Day => format!("In {}", one.words()),
        };
        let windows = Window::ALL.map(|one| (one.as_str(), window(one), one == Window::Hour));
        let actions = Action::ALL.map(|one| (one.as_str(), in_words(one).to_owned(), one == Action::Delay));
        Self {
            whose: at.takes(Whose::Total).then_some(whose),
            selects: [
                Select { id: "unit", label: "Unit", options: units.to_vec() },
                Select { id: "window", label: "Window", options: windows.to_vec() },
            ],
            action: Select { id: "action", label: "Beyond it", options: actions.to_vec() },
            most: TextField {
                id: "most",
                label: "At most",
                hint: "How many in any such time. Compared with what is usual, 4 times the usual are allowed (twice \
                       the usual of all together), and always as many as this; two fifths of it at an hour at which \
                       nothing is usual.",
                lines: 1,
                direction: "ltr",
                ..TextField::default()
            },
            is_unlimited: false,
            seen: Self::seen(own),
            trial: None,
        }
    }

    /// With what was chosen and typed; what it does not offer stays as it is.
    pub fn put(&mut self, typed: &Typed, at: &SetAt) {
        if let Some(whose) = &mut self.whose
            && typed.whose.parse().is_ok_and(|whose| at.takes(whose))
        {
            whose.choose(&typed.whose);
        }
        let [unit, window] = &mut self.selects;
        unit.choose(&typed.unit);
        window.choose(&typed.window);
        self.action.choose(&typed.action);
        self.most.typed.clone_from(&typed.most);
        self.is_unlimited = typed.is_unlimited;
    }

    /// What is set at a scope, in one line: by it a form knows whether it was changed meanwhile.
    pub fn seen(own: Option<&Limits>) -> String {
        let own = own.into_iter().flatten();
        let lines = own.map(|(kind, limit)| format!("{}: {}", kind.whose, store::limit::in_words(*kind, *limit)));
        lines.collect::<Vec<_>>().join("; ")
    }
}

fn in_words(action: Action) -> &'static str {
    match action {
        Action::Alert => "Alert: administrators are told",
        Action::Delay => "Delay: leave at the limit's pace",
        Action::Hold => "Hold: wait for an administrator",
        Action::Defer => "Defer: answer 451, to be tried again",
        Action::Refuse => "Refuse: answer 550",
    }
}

/// What a limit would have done.
#[derive(Debug)]
pub struct ShownTrial {
    pub sentence: String,
    /// How exact that is.
    pub note: String,
    /// Who, where that page is, how often, and how many messages.
    pub rows: Vec<(String, Option<String>, i64, i64)>,
    /// Above the last two.
    pub times: &'static str,
    pub messages: &'static str,
}

/// What a limit would have done, in words; `tried` is `None` for one without a number.
pub fn in_trial(slug: &str, (at, kind, limit): (&SetAt, Kind, Limit), tried: Option<Tried>) -> ShownTrial {
    let Some(Tried { trials, is_all }) = tried else {
        let sentence = "Any number is allowed: nothing would have been beyond it.".to_owned();
        return ShownTrial { sentence, note: String::new(), rows: Vec::new(), times: "", messages: "" };
    };
    let time = match kind.window {
        Window::Minute => "In the last 24 hours".to_owned(),
        _ => format!("In the last {} days", LOOKED_BACK.whole_days()),
    };
    if kind.window.is_one_message() {
        let sentence = "To how many each message went is not counted, so this cannot be tried.".to_owned();
        let note = "Message Trace says it of each.".to_owned();
        return ShownTrial { sentence, note, rows: Vec::new(), times: "", messages: "" };
    }
    let sentence = match trials.senders {
        0 => format!("{time} nobody sent more than this limit allows."),
        senders => format!(
            "{time} {} would have exceeded this limit, {}: {} {}.",
            who(at, kind.whose, senders, is_all),
            when(kind.window, trials.total, senders),
            match kind.window {
                Window::FirstTime =>
                    wording::counted(trials.total.messages, "recipient beyond it", "recipients beyond it"),
                _ => wording::counted(trials.total.messages, "message", "messages"),
            },
            would_have(limit.action),
        ),
    };
    let rows = trials.most.into_iter().filter_map(|(sender, trial)| {
        let (name, page) = match sender {
            Sender::Account(id, user_id) => (wording::user_id(&user_id), Some(limits::account_page(slug, id))),
            Sender::NoAccount(domain) => (format!("senders of {} that no account has", domain.to_unicode()), None),
            Sender::All => return None,
        };
        Some((name, page, trial.times, trial.messages))
    });
    let (times, exactly) = match kind.window {
        Window::Minute => (
            "Minutes in which it was exceeded",
            "What was sent is kept by the minute for one day only, so this is what the last day says.",
        ),
        Window::Hour => ("Hours in which it was exceeded", "By the hours of the clock, in which counts are kept."),
        Window::Usual => (
            "Hours in which it was exceeded",
            "By the hours of the clock, each compared with the same hours of the four weeks before it. Of who had sent \
             for less than two weeks nothing was usual yet.",
        ),
        Window::Day => ("Days on which it was exceeded", "By any 24 hours, to the hour; days are UTC."),
        Window::FirstTime => (
            "Days on which it was exceeded",
            "By the days of the calendar, UTC, as far as it is known to whom an account had written before. Mail to \
             those recipients is meant, whatever else it went to.",
        ),
        Window::Approval | Window::Message => ("", ""),
    };
    let first = if trials.senders > NAMED as i64 { format!(" The first {NAMED} are named.") } else { String::new() };
    ShownTrial {
        sentence,
        note: format!("{exactly}{first}"),
        rows: rows.collect(),
        times,
        messages: match kind.window {
            Window::FirstTime => "Recipients beyond it",
            _ => counted(limit.action),
        },
    }
}

fn who(at: &SetAt, whose: Whose, senders: i64, is_all: bool) -> String {
    match (at, whose) {
        (SetAt::Account(_), _) => "the account".to_owned(),
        (SetAt::Organization, Whose::Total) => "the organization".to_owned(),
        (SetAt::Domain(_), Whose::Total) => "the mail domain".to_owned(),
        (_, Whose::Service) => wording::counted(senders, "sender", "senders"),
        _ if !is_all => format!("{} of the {MOST_TRIED} accounts that sent most", wording::number(senders)),
        _ => wording::counted(senders, "account", "accounts"),
    }
}

fn when(window: Window, total: Trial, senders: i64) -> String {
    let times = match window {
        Window::Minute => format!("in {}", wording::counted(total.times, "minute", "minutes")),
        Window::Approval | Window::Message => String::new(),
        Window::Hour | Window::Usual => format!("in {}", wording::counted(total.times, "hour", "hours")),
        Window::Day | Window::FirstTime => format!("on {}", wording::counted(total.times, "day", "days")),
    };
    if senders > 1 { format!("{times} altogether") } else { times }
}

fn would_have(action: Action) -> &'static str {
    match action {
        Action::Alert => "would have raised an alert and gone their way",
        Action::Delay => "would have been delayed",
        Action::Hold => "would have been held",
        Action::Defer => "would have been put off (451)",
        Action::Refuse => "would have been refused (550)",
    }
}

fn counted(action: Action) -> &'static str {
    match action {
        Action::Alert => "Messages beyond it",
        Action::Delay => "Messages delayed",
        Action::Hold => "Messages held",
        Action::Defer => "Messages put off",
        Action::Refuse => "Messages refused",
    }
}
