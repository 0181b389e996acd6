//! Front door 1.
