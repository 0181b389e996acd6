//! How a relay's memory follows the store.
