//! What the pages do.
