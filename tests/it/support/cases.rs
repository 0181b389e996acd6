//! How many random cases a property test tries: as many as `OUTGATE_TEST_CASES` says, else few enough to be quick.
//! The crate's own tests ask here, too.

use proptest::test_runner::Config;

/// `few` cases, or as many as somebody wants.
pub fn cases(few: u32) -> Config {
    let wanted = std::env::var("OUTGATE_TEST_CASES").ok().and_then(|cases| cases.parse().ok());
    Config { cases: wanted.unwrap_or(few), failure_persistence: None, max_shrink_iters: 500, ..Config::default() }
}
