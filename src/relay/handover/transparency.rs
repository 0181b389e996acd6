//! The dots that hide lines beginning with one (RFC 5321 §4.5.2), put in while the bytes stream by.
//! Between a message's source and the connection that it is written to.

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
        let mut rest = self.finish_line_end(chunk, wire);
        // From here on only dots behind a whole line end within the chunk remain.
        while let Some(found) = memchr::memmem::find(rest, b"\r\n.") {
            let (line, next) = rest.split_at(found + 2);
            wire.extend_from_slice(line);
            wire.push(b'.');
            rest = next;
        }
        wire.extend_from_slice(rest);
        self.pass(chunk);
    }

    /// Notes a chunk that goes out as it is, because no line begins with a dot.
    pub fn pass(&mut self, chunk: &[u8]) {
        self.state = match chunk {
            [] => self.state,
            [.., b'\r', b'\n'] => State::LineStart,
            [b'\n'] if self.state == State::AfterCr => State::LineStart,
            [.., b'\r'] => State::AfterCr,
            _ => State::Inside,
        };
    }

    /// Hides a dot at the start of a line whose beginning was in an earlier chunk. Returns what is still to be written.
    fn finish_line_end<'a>(&self, chunk: &'a [u8], wire: &mut Vec<u8>) -> &'a [u8] {
        match (self.state, chunk) {
            (State::LineStart, [b'.', ..]) => wire.push(b'.'),
            (State::AfterCr, [b'\n', b'.', ..]) => {
                wire.extend_from_slice(b"\n.");
                return &chunk[1..];
            }
            _ => {}
        }
        chunk
    }

    /// Appends the end of the message. A last line that has no end gets one.
    pub fn finish(self, wire: &mut Vec<u8>) {
        if self.state != State::LineStart {
            wire.extend_from_slice(b"\r\n");
        }
        wire.extend_from_slice(b".\r\n");
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::cases::cases;

    fn wire(content: &[u8], borders: &[usize]) -> Vec<u8> {
        let mut transparency = Transparency::default();
        let mut wire = Vec::new();
        let mut start = 0;
        for border in borders {
            let end = start.max((*border).min(content.len()));
            transparency.write(&content[start..end], &mut wire);
            start = end;
        }
        transparency.write(&content[start..], &mut wire);
        transparency.finish(&mut wire);
        wire
    }

    /// What a receiver makes of it (RFC 5321 §4.5.2): the first line that is a single dot ends it.
    fn received(wire: &[u8]) -> Option<Vec<u8>> {
        let mut content = Vec::new();
        let mut rest = wire;
        loop {
            if rest == b".\r\n" {
                return Some(content);
            }
            if rest.starts_with(b".\r\n") {
                return None;
            }
            let line = rest.windows(2).position(|bytes| bytes == b"\r\n")? + 2;
            content.extend_from_slice(rest[..line].strip_prefix(b".").unwrap_or(&rest[..line]));
            rest = &rest[line..];
        }
    }

    #[test]
    fn a_message_without_a_last_line_end_gets_one() {
        assert_eq!(wire(b"", &[]), b".\r\n");
        assert_eq!(wire(b"a", &[]), b"a\r\n.\r\n");
        assert_eq!(wire(b"a\r", &[]), b"a\r\r\n.\r\n");
    }

    #[test]
    fn a_dot_behind_a_lone_line_feed_or_return_is_left_alone() {
        assert_eq!(wire(b"a\n.\r\nb\r.\r\n", &[]), b"a\n.\r\nb\r.\r\n.\r\n");
    }

    /// Whoever reads a large message has a buffer that ends somewhere: here in the middle of a line that is a dot.
    #[test]
    fn a_dot_line_across_the_border_of_two_buffers_is_hidden_at_every_position() {
        let lines = b"\r\n..\r\n.\r\n.x\r\n\r\n.\r\r\n.\n.\r\n";
        for buffer in [64_000, 64 * 1024, 32 * 1024] {
            for before in 0..=lines.len() {
                let filler = vec![b'x'; buffer - before];
                let content = [&filler[..], lines, &filler[..], lines].concat();
                let borders: Vec<usize> = (1..=content.len() / buffer).map(|number| number * buffer).collect();
                let sent = wire(&content, &borders);
                assert!(sent == wire(&content, &[]), "{before} bytes before the border of {buffer}");
                assert!(received(&sent) == Some(content), "{before} bytes before the border of {buffer}");
            }
        }
    }

    proptest! {
        #![proptest_config(cases(1_000))]

        #[test]
        fn every_byte_arrives_wherever_the_chunks_end(
            content in proptest::collection::vec(prop_oneof![Just(b'.'), Just(b'\r'), Just(b'\n'), Just(b'a')], 0..60),
            mut borders in proptest::collection::vec(0_usize..60, 0..6),
        ) {
            borders.sort_unstable();
            let sent = wire(&content, &borders);
            prop_assert_eq!(&sent, &wire(&content, &[]));
            let mut expected = content.clone();
            if !expected.is_empty() && !expected.ends_with(b"\r\n") {
                expected.extend_from_slice(b"\r\n");
            }
            prop_assert_eq!(received(&sent), Some(expected));
        }
    }
}
