//! Whom a client has named so far, and the members of distribution lists in the places of these (RFC 5321 §3.9.1:
//! in the envelope only). [`session`](super::session) asks for it.

use std::collections::HashSet;

use super::command::RcptCommand;
use crate::{
    mail::{Mailbox, Reply, id::TestMessageId, notify::Wishes},
    policy::distribution_list::{MOST_EXPANDED, Permitted, Refusal},
    relay::{metrics::RefusedFor, routing_table::RoutingTable},
};

/// The forward-paths of a message.
#[derive(Debug, Default)]
pub(super) struct Recipients {
    pub forward_paths: Vec<String>,
    /// For each forward-path up to the last that anything was said about.
    wishes: Vec<Wishes>,
    /// How many members the lists among them stand for.
    members: usize,
    /// How many were named, once lists among them have given way to their members.
    pub named: Option<usize>,
    /// Lists for which an administrator has to approve the message, each once.
    pub to_approve: Vec<String>,
    /// It is a test message that comes back. It has no other recipient.
    pub test: Option<TestMessageId>,
    /// What everybody else hears than the recipient of a test message.
    pub only_test: Option<Box<(RefusedFor, Reply)>>,
    /// What was said to the first for whom there was no room.
    pub too_many: Option<Box<Reply>>,
}

/// A list that refuses, as it was named.
pub(super) type Refused = (String, Refusal);

impl Recipients {
    /// Of a client that may send nothing, unless it brings a test message back.
    pub fn for_test_alone(why: RefusedFor, refusal: Reply) -> Self {
        Self { only_test: Some(Box::new((why, refusal))), ..Self::default() }
    }

    pub fn add(&mut self, RcptCommand { forward_path, wishes }: RcptCommand) {
        if !wishes.is_empty() {
            self.wishes.resize(self.forward_paths.len(), Wishes::default());
            self.wishes.push(wishes);
        }
        self.forward_paths.push(forward_path);
    }

    /// Empty, or one for each forward-path.
    pub fn take_wishes(&mut self) -> Vec<Wishes> {
        let mut wishes = std::mem::take(&mut self.wishes);
        if !wishes.is_empty() {
            wishes.resize(self.forward_paths.len(), Wishes::default());
        }
        wishes
    }

    /// Counts the members of one more list. False if the message would get too many recipients.
    pub fn have_room_for(&mut self, members: usize) -> bool {
        let has_room = self.forward_paths.len() + self.members + members <= MOST_EXPANDED;
        if has_room {
            self.members += members;
        }
        has_room
    }

    /// The members in the places of the lists, each address once; whoever the client named by itself stays as named.
    /// What was said about notifications of a list holds for each of its members, ORCPT included (RFC 3461 §5.2.7):
    /// so reports name the address that was written to. Without a list everything stays as it came.
    pub fn expanded(mut self, reverse_path: &str, table: &RoutingTable) -> Result<Self, Refused> {
        let mut of_lists = Vec::with_capacity(self.forward_paths.len());
        for forward_path in &self.forward_paths {
            of_lists.push(match table.ask_list((reverse_path, false), forward_path) {
                Some(Ok(Permitted { members, to_approve })) => {
                    self.to_approve.extend(to_approve.filter(|list| !self.to_approve.contains(list)));
                    members
                }
                Some(Err(refusal)) => return Err((forward_path.clone(), refusal)),
                None => None,
            });
        }
        if of_lists.iter().all(Option::is_none) {
            return Ok(self);
        }
        let named = self.forward_paths.iter().zip(&of_lists).filter(|(_, members)| members.is_none());
        let mut met: HashSet<String> = named.map(|(forward_path, _)| canonical(forward_path)).collect();
        let mut wishes = self.take_wishes().into_iter();
        let (named, to_approve) = (Some(self.forward_paths.len()), self.to_approve);
        let mut expanded = Self { named, to_approve, ..Self::default() };
        for (forward_path, members) in self.forward_paths.into_iter().zip(of_lists) {
            let wishes = wishes.next().unwrap_or_default();
            match members {
                None => expanded.add(RcptCommand { forward_path, wishes }),
                Some(members) => {
                    for member in members.into_iter().filter(|member| met.insert(member.clone())) {
                        expanded.add(RcptCommand { forward_path: member, wishes: wishes.clone() });
                    }
                }
            }
        }
        Ok(expanded)
    }
}

fn canonical(forward_path: &str) -> String {
    forward_path.parse::<Mailbox>().map_or_else(|_| forward_path.to_owned(), |mailbox| mailbox.to_string())
}
