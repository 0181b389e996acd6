//! The CSV file of mail accounts: what its columns and cells mean, for import and export alike.
//! Text in, rows or mistakes out; what is done with them is the store's.

use std::{
    collections::{HashMap, HashSet},
    io::{self, Read},
};

use super::words::number;
use crate::mail::{GatewayAddress, Mailbox};

/// The columns, in the order of an export.
pub const COLUMNS: [&str; 6] = ["user_id", "name", "aliases", "status", "outbound_gateway", "external_id"];

/// The longest file that is read, in rows. More is surely a mistake, or belongs in several files.
pub const MAX_ROWS: usize = 1_000_000;

/// What a cell says about a value that there may be or not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Cell<T> {
    /// Empty, or a column that the file has not: as it was.
    Leave,
    /// `-`.
    Delete,
    Set(T),
}

/// One account as a file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct AccountRow {
    /// Where it stands in the file, counted from 1, the header included.
    pub line: u64,
    pub user_id: Mailbox,
    pub name: Cell<String>,
    /// Further addresses; all of them, those that are not named are removed.
    pub aliases: Cell<Vec<Mailbox>>,
    pub suspended: Option<bool>,
    pub outbound_gateway: Cell<GatewayAddress>,
    pub external_id: Cell<String>,
}

/// What is wrong with a file, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct RowMistake {
    pub line: u64,
    pub what: String,
}

impl RowMistake {
    /// What was typed stands in the words, so they are cut where nobody reads on.
    pub fn new(line: u64, what: impl Into<String>) -> Self {
        let what = what.into();
        let what = match what.char_indices().nth(LONGEST_WORDS) {
            Some((end, _)) => format!("{}…", &what[..end]),
            None => what,
        };
        Self { line, what }
    }
}

/// In characters.
const LONGEST_WORDS: usize = 300;

/// In bytes: the longest row. Beyond it a quotation mark is missing, and the rest of the file would be one cell.
pub const LONGEST_ROW: usize = 64 * 1024;

/// A file that is read row by row, so that memory stays flat however long it is. Every row is well-formed or a
/// mistake; what the rows mean together is the store's to say.
pub struct AccountFile<R> {
    records: csv::Reader<WithinRow<Unmarked<R>>>,
    columns: Columns,
    rows: usize,
    /// What follows a row that cannot be read would only be guessed at.
    ended: bool,
}

impl<R: Read> AccountFile<R> {
    /// Reads the header. An error says what is wrong with the file as a whole.
    pub fn open(file: R) -> Result<Self, RowMistake> {
        let file = unmarked(file)?;
        let bounded = WithinRow { file, since: 0 };
        let mut records = csv::ReaderBuilder::new().trim(csv::Trim::All).buffer_capacity(BUFFER).from_reader(bounded);
        let header = records.headers().map_err(|error| unreadable(&error, 1))?;
        let columns = Columns::from_header(header).map_err(|what| RowMistake::new(1, what))?;
        Ok(Self { records, columns, rows: 0, ended: false })
    }
}

impl<R: Read> Iterator for AccountFile<R> {
    type Item = Result<AccountRow, RowMistake>;

    fn next(&mut self) -> Option<Self::Item> {
        let mut record = csv::StringRecord::new();
        while !self.ended {
            self.records.get_mut().since = 0;
            let line = self.records.position().line();
            match self.records.read_record(&mut record) {
                Ok(false) => return None,
                // What spreadsheets leave below the last row.
                Ok(true) if record.iter().all(str::is_empty) => {}
                Ok(true) => {
                    let line = record.position().map_or(line, csv::Position::line);
                    self.rows += 1;
                    if self.rows > MAX_ROWS {
                        self.ended = true;
                        return Some(Err(RowMistake::new(line, format!("a file may have at most {MAX_ROWS} rows"))));
                    }
                    return Some(self.columns.row(&record, line).map_err(|what| RowMistake::new(line, what)));
                }
                Err(error) => {
                    self.ended = error.is_io_error();
                    return Some(Err(unreadable(&error, line)));
                }
            }
        }
        None
    }
}

/// In bytes: what is read at once.
const BUFFER: usize = 8 * 1024;

/// Stops a row that does not end.
struct WithinRow<R> {
    file: R,
    /// Bytes since the row began.
    since: usize,
}

impl<R: Read> Read for WithinRow<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if self.since > LONGEST_ROW {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "the row does not end"));
        }
        let read = self.file.read(buffer)?;
        self.since += read;
        Ok(read)
    }
}

/// A file without the mark that some programs put in front of UTF-8.
type Unmarked<R> = io::Chain<io::Cursor<Vec<u8>>, R>;

/// An error if the file's first bytes show that it is no UTF-8 text.
fn unmarked<R: Read>(mut file: R) -> Result<Unmarked<R>, RowMistake> {
    let mut first = Vec::with_capacity(4);
    file.by_ref()
        .take(4)
        .read_to_end(&mut first)
        .map_err(|error| RowMistake::new(1, format!("the file cannot be read: {error}")))?;
    match first.as_slice() {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, _, 0, _] | [_, 0, _, 0] => {
            return Err(RowMistake::new(1, "this file is UTF-16 text, save it as CSV UTF-8"));
        }
        [b'P', b'K', 3, 4] => return Err(RowMistake::new(1, "this file is a workbook, save it as CSV UTF-8")),
        [0xef, 0xbb, 0xbf, ..] => drop(first.drain(..3)),
        _ => {}
    }
    Ok(io::Cursor::new(first).chain(file))
}

/// The longest name, in characters.
pub const LONGEST_NAME: usize = 255;

/// A name as it is kept: without blanks around it. An error says what is wrong with it.
pub fn name(typed: &str) -> Result<String, String> {
    let name = typed.trim();
    if name.chars().count() > LONGEST_NAME {
        return Err(format!("The name is too long: at most {LONGEST_NAME} characters."));
    }
    if name.chars().any(char::is_control) {
        return Err("The name contains a character that cannot be seen. Type it without.".to_owned());
    }
    Ok(name.to_owned())
}

/// A cell that a spreadsheet would run as a formula gets a quotation mark in front; reading takes it off again.
pub fn harmless(cell: &str) -> String {
    if is_formula(cell) { format!("'{cell}") } else { cell.to_owned() }
}

/// The cell as it was before [`harmless`].
fn as_it_was(cell: &str) -> &str {
    cell.strip_prefix('\'').filter(|rest| is_formula(rest)).unwrap_or(cell)
}

/// Marks in front of it count as part of it, so that taking one off gives back what was there.
fn is_formula(cell: &str) -> bool {
    cell.trim_start_matches('\'').starts_with(FORMULA_STARTS)
}

const FORMULA_STARTS: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

fn unreadable(error: &csv::Error, line: u64) -> RowMistake {
    let line = error.position().map_or(line, csv::Position::line);
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            RowMistake::new(line, format!("this row has {len} cells, the header has {expected_len}"))
        }
        csv::ErrorKind::Utf8 { .. } => RowMistake::new(line, "this row is not UTF-8 text, save the file as CSV UTF-8"),
        csv::ErrorKind::Io(error) if error.kind() == io::ErrorKind::FileTooLarge => {
            let what =
                format!("the row that begins here is longer than {LONGEST_ROW} bytes, a quotation mark is missing");
            RowMistake::new(line, what)
        }
        _ => RowMistake::new(line, format!("this row cannot be read: {error}")),
    }
}

/// Where each column stands in the file at hand.
struct Columns {
    user_id: usize,
    name: Option<usize>,
    aliases: Option<usize>,
    status: Option<usize>,
    outbound_gateway: Option<usize>,
    external_id: Option<usize>,
}

impl Columns {
    fn from_header(header: &csv::StringRecord) -> Result<Self, String> {
        for (separator, name) in [(';', "semicolons"), ('\t', "tabs")] {
            if header.len() == 1 && header.iter().any(|cell| cell.contains(separator)) {
                return Err(format!(
                    "the cells are separated by {name}, separate them by commas (in Excel set the region to English)"
                ));
            }
        }
        let mut places = HashMap::new();
        for (index, name) in header.iter().enumerate() {
            let name = name.to_lowercase();
            if !COLUMNS.contains(&name.as_str()) {
                return Err(format!("“{name}” is not a column, use {}", COLUMNS.join(", ")));
            }
            if places.insert(name.clone(), index).is_some() {
                return Err(format!("the column {name} stands in the header twice"));
            }
        }
        Ok(Self {
            user_id: *places.get("user_id").ok_or("the header has no column user_id")?,
            name: places.get("name").copied(),
            aliases: places.get("aliases").copied(),
            status: places.get("status").copied(),
            outbound_gateway: places.get("outbound_gateway").copied(),
            external_id: places.get("external_id").copied(),
        })
    }

    fn row(&self, record: &csv::StringRecord, line: u64) -> Result<AccountRow, String> {
        let cell = |column: Option<usize>| column.and_then(|column| record.get(column)).unwrap_or_default();
        if record.iter().any(|cell| cell.chars().any(char::is_control)) {
            return Err("a cell contains a line end or another character that cannot be seen".to_owned());
        }
        let user_id = as_it_was(cell(Some(self.user_id))).parse::<Mailbox>().map_err(|error| error.to_string())?;
        Ok(AccountRow {
            line,
            name: text(cell(self.name), "the name")?,
            aliases: match cell(self.aliases) {
                "" => Cell::Leave,
                "-" => Cell::Delete,
                list => Cell::Set(aliases(as_it_was(list), &user_id)?),
            },
            suspended: match cell(self.status) {
                "" => None,
                "active" => Some(false),
                "suspended" => Some(true),
                other => return Err(format!("“{other}” is not a status, use active or suspended")),
            },
            outbound_gateway: match cell(self.outbound_gateway) {
                "" => Cell::Leave,
                "-" => Cell::Delete,
                address => Cell::Set(address.parse::<GatewayAddress>().map_err(|error| error.to_string())?),
            },
            external_id: text(cell(self.external_id), "the external id")?,
            user_id,
        })
    }
}

fn text(cell: &str, what: &str) -> Result<Cell<String>, String> {
    if cell.chars().count() > LONGEST_NAME {
        return Err(format!("{what} is longer than {LONGEST_NAME} characters"));
    }
    Ok(match cell {
        "" => Cell::Leave,
        "-" => Cell::Delete,
        cell => Cell::Set(as_it_was(cell).to_owned()),
    })
}

/// The accounts that a text names by an address of theirs, each once and `most` at most: as a CSV file does in its column
/// `user_id`, `address` or `account`, such as an export; or else one per line, or apart as in [`separate`].
///
/// # Errors
/// In which line what is wrong, or that there are too many.
pub fn named(text: &str, most: usize) -> Result<Vec<Mailbox>, String> {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut records =
        csv::ReaderBuilder::new().has_headers(false).flexible(true).trim(csv::Trim::All).from_reader(text.as_bytes());
    let mut first = csv::StringRecord::new();
    let has_first = records.read_record(&mut first).unwrap_or(false);
    let is_of_accounts = |name: &str| NAMING.iter().any(|naming| naming.eq_ignore_ascii_case(name));
    let column = first.iter().position(is_of_accounts).filter(|_| has_first);
    let (mut addresses, mut met) = (Vec::new(), HashSet::new());
    let mut add = |line: u64, list: &str| {
        for part in separate(list) {
            let address: Mailbox = part.parse().map_err(|mistake| format!("Line {line}: {mistake}"))?;
            if met.insert(address.clone()) {
                addresses.push(address);
            }
            if addresses.len() > most {
                return Err(format!("These are too many addresses: at most {}.", number(most as i64)));
            }
        }
        Ok(())
    };
    match column {
        Some(column) => {
            for record in records.records() {
                let record = record.map_err(|error| format!("This is not a CSV file: {error}."))?;
                let line = record.position().map_or(0, csv::Position::line);
                add(line, record.get(column).unwrap_or_default())?;
            }
        }
        None => {
            for (line, list) in (1..).zip(text.lines()) {
                add(line, list)?;
            }
        }
    }
    Ok(addresses)
}

/// The columns that name an account.
const NAMING: [&str; 3] = ["user_id", "address", "account"];

/// Addresses apart by blanks, line ends, semicolons or commas, none of which counts within quotation marks.
pub fn separate(list: &str) -> Vec<&str> {
    let (mut quoted, mut escaped) = (false, false);
    let parts = list.split(move |character: char| {
        let within = quoted;
        match character {
            _ if escaped => escaped = false,
            '\\' if quoted => escaped = true,
            '"' => quoted = !quoted,
            _ => {}
        }
        !within && (character.is_whitespace() || matches!(character, ';' | ','))
    });
    parts.filter(|part| !part.is_empty()).collect()
}

/// The User ID itself may stand among them.
fn aliases(list: &str, user_id: &Mailbox) -> Result<Vec<Mailbox>, String> {
    let mut aliases = Vec::new();
    for typed in separate(list) {
        let alias: Mailbox = typed.parse().map_err(|error: crate::mail::mailbox::MailboxError| error.to_string())?;
        if alias != *user_id && !aliases.contains(&alias) {
            aliases.push(alias);
        }
    }
    Ok(aliases)
}
