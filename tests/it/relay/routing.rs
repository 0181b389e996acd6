//! Which route a sender has: every combination of scopes, aliases, domains and letter case, against
//! an expectation that is worked out in another way.
