//! The dots that hide lines beginning with one (RFC 5321 §4.5.2), put in while the bytes stream by.

/// What to write for a message, chunk by chunk; where the chunks end makes no difference.
#[derive(Debug)]
pub struct Transparency {
    state: State,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    LineStart,
    Inside,
    AfterCr,
}

impl Default for Transparency {
    fn default() -> Self {
        Self { state: State::LineStart }
    }
}

impl Transparency {
    /// Appends a chunk of the message in the form for the wire.
    pub fn write(&mut self, chunk: &[u8], wire: &mut Vec<u8>) {
        wire.reserve(chunk.len() + 8);
        let mut written = 0;
        for (index, byte) in chunk.iter().enumerate() {
            if self.state == State::LineStart && *byte == b'.' {
                wire.extend_from_slice(&chunk[written..index]);
                wire.push(b'.');
                written = index;
            }
            // Only CRLF ends a line; a lone CR or LF is a byte like any other.
            self.state = match (self.state, *byte) {
                (_, b'\r') => State::AfterCr,
                (State::AfterCr, b'\n') => State::LineStart,
                _ => State::Inside,
            };
        }
        wire.extend_from_slice(&chunk[written..]);
    }

    /// Appends the end of the message. A last line that has no end gets one.
    pub fn finish(self, wire: &mut Vec<u8>) {
        if self.state != State::LineStart {
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b".\r\n");
    }
}
