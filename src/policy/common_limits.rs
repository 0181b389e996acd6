//! The limits of those senders of whom nothing is set apart, which are nearly all: found once for many messages. A message
//! is judged by those only that it is not far from, and of most messages that is none.

use std::sync::Arc;

use time::OffsetDateTime;

use super::{
    facts::Found,
    limit::{Applied, Holding, Kind, OrganizationLimits, SetAt, Whose, is_half_way},
    recent::Recent,
    volume::{Count, Subject, Unit},
};

/// What holds in one organization.
#[derive(Debug)]
pub struct CommonLimits {
    limits: Arc<OrganizationLimits>,
    accounts: u64,
    /// Whether there are narrower scopes of which anything is set.
    any_apart: bool,
    /// Whether the platform's own figures act.
    act: bool,
    each: Together,
    service: Together,
    total: Together,
}

/// Limits that hold for the same senders.
#[derive(Debug, Default)]
struct Together {
    all: Vec<Holding>,
    /// By unit, the least that any of them allows within a time: who has not sent half of it within a day is far from all.
    within: [Option<u32>; 3],
    /// The same of those that look at one message.
    in_one: [Option<u32>; 3],
}

/// A message that is to be judged.
#[derive(Debug, Clone, Copy)]
pub struct ToJudge<'a> {
    pub sender: &'a Found,
    pub subject: &'a Subject,
    /// What the sender has sent, and all of its organization.
    pub recent: [Option<&'a Recent>; 2],
    pub message: Count,
    /// Of the same message in other parts.
    pub earlier: Count,
    pub now: OffsetDateTime,
}

impl CommonLimits {
    /// Those that hold at `now` in an organization of so many accounts.
    pub fn of(limits: &Arc<OrganizationLimits>, accounts: u64, now: OffsetDateTime) -> Self {
        let of = |whose| limits.holding(&SetAt::Organization, None, whose, accounts, now);
        let [each, service, total] = [Whose::Each, Whose::Service, Whose::Total].map(|whose| Together::of(of(whose)));
        let any_apart = limits.set.keys().any(|at| *at != SetAt::Organization);
        let act = now >= limits.default_acts_from;
        Self { limits: Arc::clone(limits), accounts, any_apart, act, each, service, total }
    }

    /// Whether [`of`](Self::of) would find the same again.
    pub fn are_of(&self, limits: &Arc<OrganizationLimits>, accounts: u64, now: OffsetDateTime) -> bool {
        let act = now >= limits.default_acts_from;
        Arc::ptr_eq(&self.limits, limits) && (self.accounts, self.act) == (accounts, act)
    }

    /// The limits by which a message is judged: of those that hold for it, what it is not far from, and what something
    /// is noted of that its sender has sent before.
    pub fn near(&self, to_judge: ToJudge<'_>, is_noted: impl Fn(&Subject, Kind) -> bool) -> Vec<Applied> {
        let ToJudge { sender, subject, recent: [of_sender, of_all], now, .. } = to_judge;
        if self.any_apart && self.limits.is_set_apart(sender) {
            return self.limits.applied(sender, self.accounts, now);
        }
        let own = match self.limits.class_of(sender, now) {
            None => None,
            Some(Whose::Each) => Some((&self.each, subject, of_sender)),
            Some(_) => Some((&self.service, subject, of_sender)),
        };
        let mut near = Vec::new();
        for (limits, subject, recent) in own.into_iter().chain([(&self.total, &Subject::Organization, of_all)]) {
            let in_a_day = recent.map(|recent| recent.within_a_day(now)).unwrap_or_default();
            let are_far = to_judge.is_far_from_all(limits, in_a_day);
            let is_near = |holding: &&Holding| {
                !(are_far || to_judge.is_far_from(holding, recent, in_a_day)) || is_noted(subject, holding.kind)
            };
            near.extend(limits.all.iter().filter(is_near).map(|holding| holding.applied(subject)));
        }
        near
    }
}

impl Together {
    fn of(all: Vec<Holding>) -> Self {
        let mut together = Self { all, ..Self::default() };
        for holding in &together.all {
            let Kind { window, unit, .. } = holding.kind;
            let least = if window.is_one_message() { &mut together.in_one } else { &mut together.within };
            let least = &mut least[unit.place()];
            *least = [*least, holding.least()].into_iter().flatten().min();
        }
        together
    }
}

impl ToJudge<'_> {
    /// Whether it is [far](Self::is_far_from) from each of them, by the least of them alone.
    fn is_far_from_all(&self, limits: &Together, in_a_day: Count) -> bool {
        Unit::ALL.into_iter().all(|unit| {
            let is_far = |before: i64, least: [Option<u32>; 3]| {
                let counted = before.saturating_add(self.message.get(unit));
                least[unit.place()].is_none_or(|least| !is_half_way(counted, least))
            };
            is_far(in_a_day.get(unit), limits.within) && is_far(self.earlier.get(unit), limits.in_one)
        })
    }

    fn is_far_from(&self, holding: &Holding, recent: Option<&Recent>, in_a_day: Count) -> bool {
        let Kind { window, unit, .. } = holding.kind;
        let is_far = |before: i64| holding.is_far(before.saturating_add(self.message.get(unit)));
        if window.is_one_message() {
            return is_far(self.earlier.get(unit));
        }
        // No window is longer than a day: most are far by what was sent in all of it.
        is_far(in_a_day.get(unit)) || is_far(recent.map_or(0, |recent| recent.within(window, unit, self.now)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use time::{Duration, macros::datetime};
    use uuid::Uuid;

    use super::*;
    use crate::{
        cases::cases,
        mail::id::{AccountId, OrganizationId},
        policy::{
            correspondents::Correspondents,
            limit::{self, Action, FirstTime, Known, Limit, Limits, SenderControl, exceeded},
        },
    };

    const NOW: OffsetDateTime = datetime!(2026-05-04 10:00 UTC);

    /// An account and its organization, which have both sent the same.
    struct Sent {
        recent: Recent,
        usual: Option<Count>,
        nobody: Correspondents,
        external: i64,
    }

    impl Known for Sent {
        fn recent(&self, _: &Subject) -> Option<&Recent> {
            Some(&self.recent)
        }

        fn usual(&self, _: &Subject) -> Option<Count> {
            self.usual
        }

        fn busy_day(&self, _: &Subject) -> Option<Count> {
            self.usual
        }

        fn first_time(&self, _: &Applied) -> Option<FirstTime<'_>> {
            Some(FirstTime { known: &self.nobody, busy_day: None, wanted: self.external })
        }
    }

    fn count() -> impl Strategy<Value = Count> {
        let counted = || prop_oneof![0..5_usize, 0..700_usize];
        (counted(), counted()).prop_map(|(recipients, external)| Count::of_message(recipients, external))
    }

    fn limits() -> impl Strategy<Value = OrganizationLimits> {
        let kinds: Vec<Kind> = [Whose::Each, Whose::Service, Whose::Total]
            .into_iter()
            .flat_map(|whose| limit::platform(whose, 1000).map(|(kind, _)| kind))
            .collect();
        let most = prop_oneof![Just(None), Just(Some(0)), Just(Some(1)), (0..3000_u32).prop_map(Some)];
        let set = prop::collection::btree_map(prop::sample::select(kinds), most, 0..4);
        let scope = prop_oneof![Just(SetAt::Organization), Just(SetAt::Account(account()))];
        (set, scope, any::<bool>(), any::<bool>()).prop_map(|(set, scope, is_service, is_exempt)| {
            let set: Limits =
                set.into_iter().map(|(kind, most)| (kind, Limit { most, action: Action::Refuse })).collect();
            let control =
                SenderControl { is_service, exempt_until: is_exempt.then(|| NOW + Duration::HOUR), is_blocked: false };
            let mut limits = OrganizationLimits::new(NOW - Duration::DAY);
            limits.set.insert(scope, set);
            limits.senders.insert(account(), control);
            limits
        })
    }

    fn account() -> AccountId {
        AccountId(Uuid::from_u128(7))
    }

    proptest! {
        #![proptest_config(cases(2000))]

        #[test]
        fn what_a_message_is_far_from_is_neither_exceeded_nor_nearly(
            limits in limits(),
            before in prop::collection::vec((0..100_000_i64, count()), 0..6),
            (message, earlier) in (count(), count()),
            usual in prop::option::of(count()),
            has_account in any::<bool>(),
        ) {
            let mut recent = Recent::default();
            let mut before = before;
            before.sort_by_key(|(ago, _)| -*ago);
            before.into_iter().for_each(|(ago, count)| recent.add(NOW - Duration::seconds(ago), count));
            let sent = Sent { recent, usual, nobody: Correspondents::default(), external: message.external };
            let sender = Found {
                organization: OrganizationId(Uuid::from_u128(1)),
                sender: Arc::new("anna@acme.example".parse().unwrap()),
                account: has_account.then(account),
            };
            let limits = Arc::new(limits);
            let (subject, recent) = (sender.subject(), [Some(&sent.recent); 2]);
            let to_judge = ToJudge { sender: &sender, subject: &subject, recent, message, earlier, now: NOW };
            let near = CommonLimits::of(&limits, 1000, NOW).near(to_judge, |_, _| false);
            let sorted = |applied: &[Applied]| {
                let mut exceeded = exceeded(applied, &sent, (message, earlier), NOW);
                exceeded.sort_by_key(|exceeded| exceeded.applied.kind);
                exceeded
            };
            prop_assert_eq!(sorted(&near), sorted(&limits.applied(&sender, 1000, NOW)));
        }
    }
}
