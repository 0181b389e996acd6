//! Paths of pages, with what stands in their queries.
//! Used wherever a page leads to another with a search or a place in a list.

use std::fmt::Write;

/// A path with a query that grows by the fields that are set.
#[derive(Debug, Clone)]
pub struct Link {
    path: String,
    has_query: bool,
}

impl Link {
    /// `path` stands as it is.
    pub fn to(path: impl Into<String>) -> Self {
        Self { path: path.into(), has_query: false }
    }

    /// Adds a field, unless it is empty.
    pub fn with(mut self, name: &str, value: &str) -> Self {
        if !value.is_empty() {
            self.path.push(if self.has_query { '&' } else { '?' });
            self.path.push_str(name);
            self.path.push('=');
            self.path.push_str(&encode(value));
            self.has_query = true;
        }
        self
    }

    /// The finished link.
    pub fn build(self) -> String {
        self.path
    }
}

/// RFC 3986 §2.1: everything but unreserved characters as percent signs and digits.
fn encode(value: &str) -> String {
    value.bytes().fold(String::with_capacity(value.len()), |mut encoded, byte| {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            // Writing to a String cannot fail.
            _ => drop(write!(encoded, "%{byte:02X}")),
        }
        encoded
    })
}
