//! Reads the content of a message after DATA: finds its end, removes transparency dots, and
//! notices what a message may not contain. Part of the [session](super::session).
//!
//! Written here and not taken from a library: smtp-proto's receiver ends a message at CR LF `.` CR CR LF
//! too, which is one of the ways to smuggle a second message past a server that does not.

use memchr::memchr3;

/// What is wrong with a message as a whole. It is read to its end all the same, or what remains of
/// it would be taken for commands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// RFC 5321 §2.3.8: CR and LF occur together only.
    BareCarriageReturn,
    BareLineFeed,
    /// RFC 5322 §3.5 has no NUL in a message.
    Nul,
    TooLarge,
    /// There is no room to keep it.
    NoRoom,
    /// It could not be kept for another reason.
    NotKept,
}

/// Where in a line the reader is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Place {
    /// After CR LF; that which ended the DATA command counts (RFC 5321 §4.1.1.4).
    LineStart,
    InLine,
    /// After a CR that was not yet passed on.
    Cr,
    /// After a dot at the start of a line, which was not passed on.
    Dot,
    /// After a dot at the start of a line, and CR.
    DotCr,
}

/// Takes the bytes after 354 as they come, in pieces of any size.
#[derive(Debug)]
pub struct DataReader {
    place: Place,
    fault: Option<Fault>,
    /// A line feed alone becomes CR LF instead of a fault.
    mends_line_feeds: bool,
    has_dots: bool,
}

impl DataReader {
    pub fn new() -> Self {
        Self { place: Place::LineStart, fault: None, mends_line_feeds: false, has_dots: false }
    }

    /// For a client that was allowed to send line feeds alone. They end lines of the message, never the message.
    pub fn mending_line_feeds() -> Self {
        // Behind a line feed that was mended nobody looks.
        Self { mends_line_feeds: true, has_dots: true, ..Self::new() }
    }

    /// The first thing found wrong.
    pub fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// Whether a line of the content may begin with a dot, which has to be hidden wherever the message goes.
    pub fn has_dots(&self) -> bool {
        self.has_dots
    }

    /// Refuses the message; what was found first stays the reason.
    pub fn refuse(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    /// Takes from `input` what belongs to the message and gives its content to `keep`, unless the message is
    /// refused anyway. True at the end of the message, which is CR LF `.` CR LF and nothing else;
    /// what is left of `input` then are commands.
    pub fn read(&mut self, input: &mut &[u8], mut keep: impl FnMut(&[u8])) -> bool {
        while let Some(&byte) = input.first() {
            match (self.place, byte) {
                (Place::LineStart, b'.') => self.step(input, Place::Dot),
                (Place::LineStart, _) => self.place = Place::InLine,
                (Place::InLine, _) => self.read_text(input, &mut keep),
                (Place::Cr, b'\n') => {
                    self.keep(&mut keep, b"\r\n");
                    self.step(input, Place::LineStart);
                }
                (Place::Dot, b'\r') => self.step(input, Place::DotCr),
                (Place::DotCr, b'\n') => {
                    self.step(input, Place::LineStart);
                    return true;
                }
                // RFC 5321 §4.5.2: a dot that is not alone on its line was put there for transparency.
                (Place::Dot, _) => {
                    self.has_dots = true;
                    self.place = Place::InLine;
                }
                (Place::Cr | Place::DotCr, _) => {
                    self.refuse(Fault::BareCarriageReturn);
                    self.place = Place::InLine;
                }
            }
        }
        false
    }

    /// How many bytes at the beginning of `input` are content as they stand, and are to be kept. They are read then; the
    /// others are for [`read`](Self::read).
    pub fn pass(&mut self, input: &[u8]) -> usize {
        let in_text = match self.place {
            Place::InLine => true,
            Place::LineStart => !input.starts_with(b"."),
            Place::Cr | Place::Dot | Place::DotCr => false,
        };
        if !in_text || self.fault.is_some() {
            return 0;
        }
        let passed = plain(input);
        if passed > 0 {
            self.place = Place::InLine;
        }
        passed
    }

    /// Passes on text up to the next thing that has to be looked at.
    fn read_text(&mut self, input: &mut &[u8], keep: &mut impl FnMut(&[u8])) {
        let (text, rest) = input.split_at(plain(input));
        self.keep(keep, text);
        *input = rest;
        match rest.first() {
            Some(b'\r') => self.step(input, Place::Cr),
            Some(b'\n') if self.mends_line_feeds => {
                self.keep(keep, b"\r\n");
                self.step(input, Place::InLine);
            }
            Some(b'\n') => {
                self.refuse(Fault::BareLineFeed);
                self.step(input, Place::InLine);
            }
            Some(_) => {
                self.refuse(Fault::Nul);
                self.step(input, Place::InLine);
            }
            None => {}
        }
    }

    fn step(&mut self, input: &mut &[u8], place: Place) {
        *input = &input[1..];
        self.place = place;
    }

    fn keep(&self, keep: &mut impl FnMut(&[u8]), bytes: &[u8]) {
        if self.fault.is_none() {
            keep(bytes);
        }
    }
}

impl Default for DataReader {
    fn default() -> Self {
        Self::new()
    }
}

/// How many bytes are content as they stand: whole lines and the beginning of one, until the next
/// NUL, lone CR or LF, line that begins with a dot, or line end whose next byte is not there yet.
fn plain(bytes: &[u8]) -> usize {
    let mut checked = plain_blocks(bytes);
    // The first half of a line end may be the last byte of a block.
    if bytes[..checked].ends_with(b"\r") {
        checked -= 1;
    }
    while let Some(found) = memchr3(b'\r', b'\n', 0, &bytes[checked..]) {
        let at = checked + found;
        match bytes[at..] {
            [b'\r', b'\n', next, ..] if next != b'.' => checked = at + 2,
            _ => return at,
        }
    }
    bytes.len()
}

/// How many bytes at the beginning are content as they stand, in whole blocks: a quick look at each byte and the next,
/// which a processor takes many of at once. Line by line, large messages would take several times as long.
fn plain_blocks(bytes: &[u8]) -> usize {
    const BLOCK: usize = 256;
    if bytes.first() == Some(&b'\n') {
        return 0;
    }
    let mut checked = 0;
    while let Some(pairs) = bytes.get(checked..checked + BLOCK + 1) {
        let is_looked_at = |byte: u8, next: u8| {
            (byte == 0) | ((byte == b'\r') != (next == b'\n')) | ((byte == b'\n') & (next == b'.'))
        };
        let pairs = pairs[..BLOCK].iter().zip(&pairs[1..]);
        if pairs.fold(false, |found, (byte, next)| found | is_looked_at(*byte, *next)) {
            break;
        }
        checked += BLOCK;
    }
    checked
}
