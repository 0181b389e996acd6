//! Distribution lists: who may send to one, and whom it stands for. Pure functions of the lists that the relays hold
//! in memory and the pages read from the store.

use std::{
    collections::{HashMap, HashSet},
    fmt,
    str::FromStr,
    sync::Arc,
};

use super::{account_file, facts::RoutingFacts, sender, words::words};
use crate::mail::{
    Mailbox,
    envelope::domain_of,
    id::{ListId, OrganizationId},
};

/// The longest name, in characters.
pub const LONGEST_NAME: usize = 64;
/// How many recipients a list stands for at most, with the lists in it, and a message has after all its lists were
/// expanded. More than a client may name: it names a list once.
pub const MOST_EXPANDED: usize = 2_000;
/// How many senders can be named for one list.
pub const MOST_SENDERS: usize = 500;

/// Who may send to a list, of the senders of its organization. Senders of others never reach it here: their mail
/// leaves as if the list were not there.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum MaySend {
    /// Everybody inside the organization.
    #[default]
    Inside,
    /// Those who are named for it.
    Named,
    /// Whoever is on it, by a list in it too.
    Members,
    /// Nobody: it is there to be part of other lists.
    Nobody,
}

impl MaySend {
    /// In the order in which they are offered.
    pub const ALL: [Self; 4] = [Self::Inside, Self::Named, Self::Members, Self::Nobody];

    /// For people.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Inside => "anyone inside",
            Self::Named => "named senders",
            Self::Members => "members",
            Self::Nobody => "nobody",
        }
    }
}

impl fmt::Display for MaySend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Inside => "inside",
            Self::Named => "named",
            Self::Members => "members",
            Self::Nobody => "nobody",
        })
    }
}

/// Whose messages to a list wait until an administrator has approved them, of those who may send to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub enum Approval {
    #[default]
    Nobody,
    /// Of all but the senders that are named for it.
    Others,
    Everybody,
}

impl Approval {
    /// In the order in which they are offered.
    pub const ALL: [Self; 3] = [Self::Nobody, Self::Others, Self::Everybody];

    /// For people.
    pub fn in_words(self) -> &'static str {
        match self {
            Self::Nobody => "nobody's messages",
            Self::Others => "messages of all but named senders",
            Self::Everybody => "everybody's messages",
        }
    }
}

words!(Approval: "nobody" = Nobody, "others" = Others, "everybody" = Everybody);

/// Not one of the words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("“{0}” is not who may send to a list")]
pub struct MaySendError(String);

impl FromStr for MaySend {
    type Err = MaySendError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        Self::ALL.into_iter().find(|may_send| may_send.to_string() == word).ok_or_else(|| MaySendError(word.to_owned()))
    }
}

/// Canonical addresses in the order given, in one piece of memory: there may be very many of them in all.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Addresses(Box<str>);

impl Addresses {
    /// Each as it is given.
    pub fn new(addresses: &[Mailbox]) -> Self {
        Self(addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n").into())
    }

    /// One after the other.
    pub fn iter(&self) -> std::str::Lines<'_> {
        self.0.lines()
    }
}

/// What has to be known of a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DistributionList {
    pub organization: OrganizationId,
    /// In canonical form.
    pub address: Box<str>,
    pub enabled: bool,
    pub may_send: MaySend,
    pub approval: Approval,
    /// Its members get the message in its place; otherwise it is only checked, and whoever has the list expands it.
    pub expands: bool,
    /// Others than named senders may send to it even if it is large.
    pub large_allowed: bool,
    pub members: Addresses,
    pub senders: Addresses,
}

/// All lists. A list is found by its address, which nothing else has.
#[derive(Debug, Clone, Default)]
pub struct Lists {
    addresses: HashMap<ListId, Box<str>>,
    lists: HashMap<Box<str>, Arc<DistributionList>>,
    /// How many there are at each mail domain.
    domains: HashMap<Box<str>, usize>,
}

/// What becomes of a message to a list of somebody who may send to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Permitted {
    /// Whom it goes to instead; `None`: on to the list itself.
    pub members: Option<Vec<String>>,
    /// The list for which an administrator has to approve it first: this one, or one in it.
    pub to_approve: Option<String>,
}

/// Why a sender cannot send to a list.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The address of the list.
    pub list: String,
    /// The list that was written to, where it is one in it that refuses.
    pub within: Option<String>,
    pub why: Why,
}

/// What stands in the way.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Why {
    Disabled,
    OnlyNamed,
    /// Because it is large.
    OnlyNamedOfLarge,
    OnlyMembers,
    Nobody,
    /// Who sends is not known: the reverse-path is null, as that of reports.
    NoSender,
    NoMembers,
    /// More than [`MOST_EXPANDED`].
    TooMany,
}

impl fmt::Display for Refusal {
    /// In words for who sends, in ASCII as long as the addresses are.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if let Some(outer) = &self.within {
            write!(f, "{outer} has another list in it: ")?;
        }
        let list = &self.list;
        match self.why {
            Why::Disabled => write!(f, "the distribution list {list} is disabled"),
            Why::OnlyNamed => write!(f, "only the senders named for it may send to the distribution list {list}"),
            Why::OnlyNamedOfLarge => {
                write!(f, "the distribution list {list} is large: only the senders named for it may send to it")
            }
            Why::OnlyMembers => write!(f, "only its members may send to the distribution list {list}"),
            Why::Nobody => write!(f, "nobody may send to the distribution list {list} itself"),
            Why::NoSender => {
                write!(f, "the distribution list {list} takes no mail with a null reverse-path, such as reports")
            }
            Why::NoMembers => write!(f, "the distribution list {list} has no members"),
            Why::TooMany => write!(f, "the distribution list {list} stands for more than {MOST_EXPANDED} recipients"),
        }?;
        f.write_str("; ask an administrator of your organization")
    }
}

/// What a list stands for.
#[derive(Debug, Default)]
pub struct Expansion<'a> {
    /// Each once, in order; lists that are only passed on stand for themselves.
    pub members: Vec<&'a str>,
    /// The enabled lists in it, at any depth.
    pub nested: Vec<&'a DistributionList>,
    /// There are more members than may be: the rest is missing.
    pub is_cut_off: bool,
}

impl Lists {
    /// `None` forgets the list.
    pub fn set(&mut self, id: ListId, list: Option<DistributionList>) {
        if let Some(former) = self.addresses.remove(&id) {
            self.lists.remove(&former);
            let domain = domain_of(&former).unwrap_or_default();
            if let Some(count) = self.domains.get_mut(domain) {
                *count -= 1;
            }
        }
        if let Some(list) = list {
            *self.domains.entry(domain_of(&list.address).unwrap_or_default().into()).or_default() += 1;
            self.addresses.insert(id, list.address.clone());
            self.lists.insert(list.address.clone(), Arc::new(list));
        }
    }

    /// Whether no list can be meant by an address as it was given, at the least cost: most mail is to none.
    fn is_none_of(&self, forward_path: &str) -> bool {
        let Some(domain) = domain_of(forward_path).filter(|_| !self.lists.is_empty()) else { return true };
        let domain = domain.trim_end_matches('.').to_ascii_lowercase();
        domain.is_ascii() && self.domains.get(domain.as_str()).is_none_or(|count| *count == 0)
    }

    /// The list with this address, in canonical form.
    pub fn get(&self, address: &str) -> Option<&Arc<DistributionList>> {
        self.lists.get(address)
    }

    /// The members of a list, with those of the lists in it in their places. A list that is met again, as in a loop,
    /// adds nothing; a disabled one in it adds nobody.
    pub fn expand<'a>(&'a self, list: &'a DistributionList) -> Expansion<'a> {
        let mut expansion = Expansion::default();
        let mut met = HashSet::from([&*list.address]);
        let mut open = vec![list.members.iter()];
        while let Some(members) = open.last_mut() {
            let Some(address) = members.next() else {
                open.pop();
                continue;
            };
            if !met.insert(address) {
                continue;
            }
            if expansion.members.len() >= MOST_EXPANDED || met.len() > 2 * MOST_EXPANDED {
                expansion.is_cut_off = true;
                return expansion;
            }
            match self.get(address).filter(|nested| nested.organization == list.organization) {
                Some(nested) if !nested.enabled => {}
                Some(nested) => {
                    expansion.nested.push(nested);
                    if nested.expands {
                        open.push(nested.members.iter());
                    } else {
                        expansion.members.push(address);
                    }
                }
                None => expansion.members.push(address),
            }
        }
        expansion
    }

    /// What becomes of a message to a list. `is_sender` says of an address whether it is one of the sender's.
    ///
    /// A list in it is asked too: who keeps senders off a list, or wants to approve what they send, must not find it
    /// open by way of another one. That nobody may send to a list itself does not keep it from being part of others:
    /// that is what it is then for.
    pub fn ask(
        &self,
        list: &DistributionList,
        large: Option<u32>,
        is_sender: Option<&dyn Fn(&str) -> bool>,
    ) -> Result<Permitted, Refusal> {
        let refused = |of: &DistributionList, why| {
            let within = (of.address != list.address).then(|| list.address.to_string());
            Refusal { list: of.address.to_string(), within, why }
        };
        if !list.enabled {
            return Err(refused(list, Why::Disabled));
        }
        let Some(is_sender) = is_sender else { return Err(refused(list, Why::NoSender)) };
        let expansion = self.expand(list);
        if expansion.is_cut_off {
            return Err(refused(list, Why::TooMany));
        }
        let of_list = control(list, expansion.members.len(), large);
        permit(of_list, list, &expansion.members, is_sender).map_err(|why| refused(list, why))?;
        for nested in &expansion.nested {
            let of_nested = control(nested, nested.members.iter().count(), large);
            if of_nested.0 != MaySend::Nobody {
                // By its own expansion only where that is asked for.
                let within = match of_nested.0 {
                    MaySend::Members => self.expand(nested).members,
                    _ => Vec::new(),
                };
                permit(of_nested, nested, &within, is_sender).map_err(|why| refused(nested, why))?;
            }
        }
        let mut asked = std::iter::once(list).chain(expansion.nested.iter().copied());
        let to_approve = asked.find(|list| needs_approval(list, is_sender)).map(|list| list.address.to_string());
        if !list.expands {
            return Ok(Permitted { members: None, to_approve });
        }
        if expansion.members.is_empty() {
            return Err(refused(list, Why::NoMembers));
        }
        let members = expansion.members.into_iter().map(str::to_owned).collect();
        Ok(Permitted { members: Some(members), to_approve })
    }
}

/// Whether only named senders may send to a list because it is large, though others were chosen. `size` is in
/// recipients, `large` as [`OrganizationFacts::large_list`](super::facts::OrganizationFacts::large_list).
pub fn is_narrowed(may_send: MaySend, large_allowed: bool, size: usize, large: Option<u32>) -> bool {
    let is_large = large.is_some_and(|large| size > large as usize);
    is_large && !large_allowed && matches!(may_send, MaySend::Inside | MaySend::Members)
}

/// Who may send to a list of this size, and whether that is so because it is large.
fn control(list: &DistributionList, size: usize, large: Option<u32>) -> (MaySend, bool) {
    match is_narrowed(list.may_send, list.large_allowed, size, large) {
        true => (MaySend::Named, true),
        false => (list.may_send, false),
    }
}

/// Whether a message of this sender to a list waits for an administrator.
fn needs_approval(list: &DistributionList, is_sender: &dyn Fn(&str) -> bool) -> bool {
    match list.approval {
        Approval::Nobody => false,
        Approval::Others => !list.senders.iter().any(is_sender),
        Approval::Everybody => true,
    }
}

fn permit(
    (may_send, is_large): (MaySend, bool),
    list: &DistributionList,
    members: &[&str],
    is_sender: &dyn Fn(&str) -> bool,
) -> Result<(), Why> {
    let (may, otherwise) = match may_send {
        MaySend::Inside => (true, Why::Nobody),
        MaySend::Named => {
            let otherwise = if is_large { Why::OnlyNamedOfLarge } else { Why::OnlyNamed };
            (list.senders.iter().any(is_sender), otherwise)
        }
        MaySend::Members => (members.iter().any(|member| is_sender(member)), Why::OnlyMembers),
        MaySend::Nobody => (false, Why::Nobody),
    };
    if may { Ok(()) } else { Err(otherwise) }
}

impl RoutingFacts {
    /// What becomes of mail of this sender to this address: `None` if that is no list of the sender's
    /// organization, else what [`Lists::ask`] says. A list is found by the spellings under which a user is: what is
    /// written behind a plus sign is no way around its control. `sender` is the reverse-path, or whoever decides the
    /// route where that `is_null`: reports are nothing for a list.
    pub fn ask_list(&self, (sender, is_null): (&str, bool), forward_path: &str) -> Option<Result<Permitted, Refusal>> {
        if self.lists().is_none_of(forward_path) {
            return None;
        }
        let list = sender::candidates(forward_path)
            .iter()
            .find_map(|candidate| match self.account_of(candidate) {
                Some(_) => Some(None),
                None => self.lists().get(&candidate.to_string()).map(Some),
            })
            .flatten()?;
        let large = self.large_list(list.organization);
        let found = self.find(sender).filter(|found| found.organization == list.organization)?;
        let own = found.sender.to_string();
        let is_sender =
            |address: &str| address == own || found.account.is_some() && self.account_with(address) == found.account;
        Some(self.lists().ask(list, large, (!is_null).then_some(&is_sender as &dyn Fn(&str) -> bool)))
    }
}

/// Addresses as people type them: one per line, or apart by blanks, commas or semicolons; each once, in order. An
/// error names the first that is none.
///
/// Only letters from a to z before the @: a list must not depend on what its members' servers offer (RFC 6531).
pub fn addresses(typed: &str, most: usize) -> Result<Vec<Mailbox>, String> {
    let mut addresses = Vec::new();
    let mut met = HashSet::new();
    for entry in account_file::separate(typed) {
        let address: Mailbox = entry.parse().map_err(|error: crate::mail::mailbox::MailboxError| error.to_string())?;
        if !address.local_part().is_ascii() {
            return Err(format!("“{address}” is not for every server. Use letters from a to z before the @."));
        }
        if met.insert(address.clone()) {
            addresses.push(address);
        }
    }
    match addresses.len() <= most {
        true => Ok(addresses),
        false => {
            Err(format!("These are {} addresses: at most {most}. Put some into a list of their own.", addresses.len()))
        }
    }
}

/// The addresses of a CSV file: those of its column `address`. An error says in which line what is wrong.
pub fn addresses_of_file(file: &str, most: usize) -> Result<Vec<Mailbox>, String> {
    let file = file.strip_prefix('\u{feff}').unwrap_or(file);
    let mut records = csv::ReaderBuilder::new().trim(csv::Trim::All).flexible(true).from_reader(file.as_bytes());
    let header = records.headers().map_err(|error| format!("This is not a CSV file: {error}."))?;
    let column = header.iter().position(|name| name.eq_ignore_ascii_case("address"));
    let column = column.ok_or("The first line has to name a column address.")?;
    let (mut addresses, mut met) = (Vec::new(), HashSet::new());
    for record in records.records() {
        let record = record.map_err(|error| format!("This is not a CSV file: {error}."))?;
        let line = record.position().map_or(0, csv::Position::line);
        let cell = record.get(column).unwrap_or_default();
        if cell.is_empty() {
            continue;
        }
        let mut of_cell = self::addresses(cell, usize::MAX).map_err(|mistake| format!("Line {line}: {mistake}"))?;
        of_cell.retain(|address| met.insert(address.clone()));
        addresses.append(&mut of_cell);
    }
    match addresses.len() {
        0 => Err("The file has no addresses in it.".to_owned()),
        count if count > most => Err(format!("These are {count} addresses: at most {most}.")),
        _ => Ok(addresses),
    }
}

/// A name as people type it.
pub fn name(typed: &str) -> Result<String, String> {
    let name = account_file::name(typed)?;
    match name.chars().count() {
        0 => Err("Enter a name, such as All of Lisbon.".to_owned()),
        1..=LONGEST_NAME => Ok(name),
        _ => Err(format!("The name is too long: at most {LONGEST_NAME} characters.")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(address: &str, members: &str) -> DistributionList {
        DistributionList {
            organization: OrganizationId(uuid::Uuid::nil()),
            address: address.into(),
            enabled: true,
            may_send: MaySend::Inside,
            approval: Approval::Nobody,
            expands: true,
            large_allowed: false,
            members: Addresses::new(&addresses(members, usize::MAX).expect("addresses")),
            senders: Addresses::default(),
        }
    }

    fn lists(all: Vec<DistributionList>) -> Lists {
        let mut lists = Lists::default();
        for list in all {
            lists.set(ListId::new(), Some(list));
        }
        lists
    }

    fn permitted(lists: &Lists, list: &str, sender: &str, large: u32) -> Result<Permitted, Why> {
        let list = lists.get(list).expect("the list").clone();
        let is_sender = |address: &str| address == sender;
        let asked = lists.ask(&list, Some(large), (!sender.is_empty()).then_some(&is_sender as &dyn Fn(&str) -> bool));
        asked.map_err(|refusal| refusal.why)
    }

    fn ask(lists: &Lists, list: &str, sender: &str, large: u32) -> Result<Option<String>, Why> {
        permitted(lists, list, sender, large).map(|asked| asked.members.map(|members| members.join(" ")))
    }

    #[test]
    fn a_list_stands_for_each_member_once_in_order_and_loops_end() {
        let lists = lists(vec![
            list("all@a.example", "ann@a.example team@a.example zoe@b.example off@a.example raw@a.example"),
            list("team@a.example", "bob@a.example ann@a.example all@a.example team@a.example carl@a.example"),
            DistributionList { enabled: false, ..list("off@a.example", "hid@a.example") },
            DistributionList { expands: false, ..list("raw@a.example", "dan@a.example") },
            DistributionList { organization: OrganizationId::new(), ..list("zoe@b.example", "eve@b.example") },
        ]);
        let expected = "ann@a.example bob@a.example carl@a.example zoe@b.example raw@a.example";
        assert_eq!(ask(&lists, "all@a.example", "x@a.example", 100), Ok(Some(expected.to_owned())));
        assert_eq!(ask(&lists, "raw@a.example", "x@a.example", 100), Ok(None));
        assert_eq!(ask(&lists, "off@a.example", "x@a.example", 100), Err(Why::Disabled));
    }

    #[test]
    fn who_may_send_is_asked_of_the_list_and_of_those_in_it() {
        let (ann, bob) = ("ann@a.example", "bob@a.example");
        let of = |may_send, large_allowed| DistributionList {
            may_send,
            large_allowed,
            senders: Addresses::new(&addresses(bob, 1).expect("an address")),
            ..list("list@a.example", "ann@a.example eve@b.example")
        };
        let table = [
            // Who may send, whether a large one may, what counts as large; what ann, bob and nobody hear.
            (MaySend::Inside, false, 2, None, None),
            (MaySend::Named, false, 2, Some(Why::OnlyNamed), None),
            (MaySend::Members, false, 2, None, Some(Why::OnlyMembers)),
            (MaySend::Nobody, false, 2, Some(Why::Nobody), Some(Why::Nobody)),
            (MaySend::Inside, false, 1, Some(Why::OnlyNamedOfLarge), None),
            (MaySend::Members, false, 1, Some(Why::OnlyNamedOfLarge), None),
            (MaySend::Inside, true, 1, None, None),
            (MaySend::Members, true, 1, None, Some(Why::OnlyMembers)),
            (MaySend::Nobody, false, 1, Some(Why::Nobody), Some(Why::Nobody)),
        ];
        for (may_send, allowed, large, of_ann, of_bob) in table {
            let outer = DistributionList { large_allowed: true, ..list("outer@a.example", "list@a.example") };
            let lists = lists(vec![of(may_send, allowed), outer]);
            let refused = |list: &str, sender: &str| ask(&lists, list, sender, large).err();
            let case = format!("{may_send:?} {allowed} {large}");
            assert_eq!(refused("list@a.example", ann), of_ann, "{case}");
            assert_eq!(refused("list@a.example", bob), of_bob, "{case}");
            assert_eq!(refused("list@a.example", ""), Some(Why::NoSender), "{case}");
            // One that nobody may send to is there for this.
            let open = may_send == MaySend::Nobody;
            assert_eq!(refused("outer@a.example", ann), of_ann.filter(|_| !open), "{case} within another");
            assert_eq!(refused("outer@a.example", bob), of_bob.filter(|_| !open), "{case} within another");
        }
    }

    #[test]
    fn whose_messages_need_approval_is_asked_of_the_list_and_of_those_in_it() {
        let (ann, bob) = ("ann@a.example", "bob@a.example");
        let of = |approval, may_send| DistributionList {
            approval,
            may_send,
            senders: Addresses::new(&addresses(bob, 1).expect("an address")),
            ..list("list@a.example", "zoe@b.example")
        };
        let outer = || list("outer@a.example", "list@a.example");
        let raw = || DistributionList { expands: false, ..list("raw@a.example", "list@a.example") };
        for (approval, of_ann, of_bob) in
            [(Approval::Nobody, false, false), (Approval::Others, true, false), (Approval::Everybody, true, true)]
        {
            for may_send in [MaySend::Inside, MaySend::Nobody] {
                let lists = lists(vec![of(approval, may_send), outer(), raw()]);
                for (sender, expected) in [(ann, of_ann), (bob, of_bob)] {
                    let case = format!("{approval:?} {may_send:?} {sender}");
                    let expected = expected.then(|| "list@a.example".to_owned());
                    let to_approve = |list: &str| permitted(&lists, list, sender, 100).map(|asked| asked.to_approve);
                    if may_send == MaySend::Inside {
                        assert_eq!(to_approve("list@a.example"), Ok(expected.clone()), "{case}");
                    }
                    assert_eq!(to_approve("outer@a.example"), Ok(expected.clone()), "{case} within another");
                    assert_eq!(to_approve("raw@a.example"), Ok(expected), "{case} within one that is passed on");
                }
            }
        }
        // The one that was written to is named first.
        let both = DistributionList { approval: Approval::Everybody, ..outer() };
        let lists = lists(vec![of(Approval::Everybody, MaySend::Inside), both]);
        let asked = permitted(&lists, "outer@a.example", ann, 100).expect("it may be sent");
        assert_eq!(asked.to_approve.as_deref(), Some("outer@a.example"));
        // A disabled list in it stands for nobody, and asks for nothing.
        let off = DistributionList { enabled: false, ..of(Approval::Everybody, MaySend::Inside) };
        let lists = self::lists(vec![off, list("outer@a.example", "list@a.example carl@a.example")]);
        assert_eq!(permitted(&lists, "outer@a.example", ann, 100).map(|asked| asked.to_approve), Ok(None));
    }

    #[test]
    fn an_empty_list_and_one_that_is_too_large_are_refused() {
        let many: Vec<String> = (0..=MOST_EXPANDED).map(|number| format!("u{number}@a.example")).collect();
        let lists = lists(vec![
            list("none@a.example", ""),
            list("round@a.example", "round@a.example"),
            DistributionList { large_allowed: true, ..list("many@a.example", &many.join(" ")) },
        ]);
        assert_eq!(ask(&lists, "none@a.example", "x@a.example", 100), Err(Why::NoMembers));
        assert_eq!(ask(&lists, "round@a.example", "x@a.example", 100), Err(Why::NoMembers));
        assert_eq!(ask(&lists, "many@a.example", "x@a.example", 100), Err(Why::TooMany));
    }

    #[test]
    fn a_file_has_a_column_of_addresses_and_says_which_line_is_wrong() {
        let read = |file: &str| {
            addresses_of_file(file, 3).map(|all| all.iter().map(ToString::to_string).collect::<Vec<_>>().join(" "))
        };
        assert_eq!(
            read("\u{feff}name,Address\r\nAnn,ANN@a.example\r\n\"B, b\",bob@b.example\r\nAnn,ann@a.example\r\n,\r\n"),
            Ok("ann@a.example bob@b.example".to_owned())
        );
        for (file, words) in [
            ("", "column address"),
            ("user\nann@a.example\n", "column address"),
            ("address\n", "no addresses"),
            ("address\nann@a.example\nnobody\n", "Line 3: “nobody” is not a mail address."),
            ("address\na@a.example\nb@a.example\nc@a.example\nd@a.example\n", "at most 3"),
        ] {
            let mistake = read(file).expect_err(file);
            assert!(mistake.contains(words), "{mistake}");
        }
    }
}
