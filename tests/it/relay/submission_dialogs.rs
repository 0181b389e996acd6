//! Walks the scripts in `tests/it/dialogs`: what a client says, what the relay answers, and what
//! it then has accepted. Every script is walked twice: as it stands, and byte by byte.
//!
//! `C:` a line that the client sends, CR LF added; several in a row are sent together. `C>` the same
//! without CR LF. `\r`, `\n`, `\t`, `\0`, `\\` and `\xNN` stand for bytes. `S:` a line of the answer; with
//! ` ...` at its end only its beginning counts. `M:` what the accepted message says: `sender`, `from`,
//! `to`, `asks` (what is said about notifications), `content`, `received`. `closed`: the relay closes here. `#` a
//! comment. First lines: `client ADDRESS` (else 127.0.0.1), `tls` (there is a certificate; a handshake takes no time
//! here), `whole only` (the script is about what comes at once).

use std::{fs, path::Path};

use crate::support::relay::{Desk, known_table};

#[test]
fn every_dialog_goes_as_its_script_says() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/it/dialogs");
    let mut walked = 0;
    for entry in fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap().to_string_lossy().into_owned();
        let script = fs::read_to_string(&path).unwrap();
        Dialog::walk(&name, &script, usize::MAX);
        if !script.lines().any(|line| line == "whole only") {
            Dialog::walk(&name, &script, 1);
        }
        walked += 1;
    }
    assert!(walked >= 15, "only {walked} dialogs were found");
}

struct Dialog<'a> {
    name: &'a str,
    desk: Desk,
    piece: usize,
    unsent: Vec<u8>,
    /// Lines of the answer that the script has not named yet.
    said: Vec<String>,
}

impl<'a> Dialog<'a> {
    fn walk(name: &'a str, script: &str, piece: usize) {
        let client = script.lines().find_map(|line| line.strip_prefix("client ")).unwrap_or("127.0.0.1");
        let encrypts = script.lines().any(|line| line == "tls");
        let (desk, greeting) = Desk::with(known_table(), client.parse().unwrap(), encrypts);
        let mut dialog = Self { name, desk, piece, unsent: Vec::new(), said: lines(&greeting) };
        for (number, line) in script.lines().enumerate() {
            dialog.step(number + 1, line);
        }
        dialog.send();
        assert!(dialog.said.is_empty(), "{name}: the script does not name {:?}", dialog.said);
    }

    fn step(&mut self, number: usize, line: &str) {
        let here = format!("{}:{number}: {line} (pieces of {})", self.name, self.piece);
        if let Some(text) = line.strip_prefix("C: ") {
            self.unsent.extend(bytes(text));
            self.unsent.extend(b"\r\n");
            return;
        }
        if line == "C:" {
            return self.unsent.extend(b"\r\n");
        }
        if let Some(text) = line.strip_prefix("C> ") {
            return self.unsent.extend(bytes(text));
        }
        if line.is_empty()
            || line.starts_with('#')
            || line.starts_with("client ")
            || matches!(line, "whole only" | "tls")
        {
            return;
        }
        self.send();
        if let Some(expected) = line.strip_prefix("S: ") {
            assert!(!self.said.is_empty(), "{here}: nothing more was said");
            let said = self.said.remove(0);
            match expected.strip_suffix(" ...") {
                Some(beginning) => assert!(said.starts_with(beginning), "{here}: said {said}"),
                None => assert_eq!(said, expected, "{here}"),
            }
        } else if let Some(expected) = line.strip_prefix("M: ") {
            self.check_message(expected, &here);
        } else if line == "closed" {
            assert!(self.desk.closed, "{here}: still open");
        } else {
            panic!("{here}: not a line of a dialog");
        }
    }

    fn send(&mut self) {
        let unsent = std::mem::take(&mut self.unsent);
        let said = match self.piece {
            usize::MAX => self.desk.feed(&unsent),
            size => self.desk.feed_in_pieces(&unsent, size),
        };
        self.said.extend(lines(&said));
    }

    fn check_message(&self, expected: &str, here: &str) {
        let message = self.desk.accepted.last().unwrap_or_else(|| panic!("{here}: nothing was accepted"));
        let (what, expected) = expected.split_once(' ').unwrap_or((expected, ""));
        let expected = String::from_utf8(bytes(expected)).unwrap();
        match what {
            "sender" => assert_eq!(message.sender, expected, "{here}"),
            "from" => assert_eq!(message.reverse_path, expected, "{here}"),
            "to" => assert!(message.forward_paths.contains(&expected), "{here}: {:?}", message.forward_paths),
            "asks" => assert!(message.asks.contains(&expected), "{here}: {:?}", message.asks),
            "content" => assert_eq!(String::from_utf8_lossy(&message.content), expected, "{here}"),
            "received" => assert!(message.received.contains(&expected), "{here}: {}", message.received),
            _ => panic!("{here}: not something that a message says"),
        }
    }
}

fn lines(said: &str) -> Vec<String> {
    said.split_terminator("\r\n").map(str::to_owned).collect()
}

fn bytes(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        if *first != b'\\' {
            bytes.push(*first);
            continue;
        }
        let [kind, tail @ ..] = rest else { panic!("{text} ends with a backslash") };
        rest = tail;
        match kind {
            b'r' => bytes.push(b'\r'),
            b'n' => bytes.push(b'\n'),
            b't' => bytes.push(b'\t'),
            b'0' => bytes.push(0),
            b'\\' => bytes.push(b'\\'),
            b'x' => {
                let (digits, tail) = rest.split_at(2);
                bytes.push(u8::from_str_radix(std::str::from_utf8(digits).unwrap(), 16).unwrap());
                rest = tail;
            }
            _ => panic!("{text} has an unknown escape"),
        }
    }
    bytes
}
