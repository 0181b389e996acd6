//! The CSV file of mail accounts: what its columns and cells mean, for import and export alike.
//! Pure: text in, rows or mistakes out; what is done with them is the store's.

use std::{collections::HashMap, io::Read};

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
    pub fn new(line: u64, what: impl Into<String>) -> Self {
        Self { line, what: what.into() }
    }
}

/// Reads a whole file. Either every row is well-formed and no address stands in two of them, or
/// all mistakes come back.
pub fn read(file: impl Read) -> Result<Vec<AccountRow>, Vec<RowMistake>> {
    let mut reader = csv::ReaderBuilder::new().trim(csv::Trim::All).from_reader(file);
    let header = reader.headers().map_err(|error| vec![unreadable(&error, 1)])?.clone();
    let columns = Columns::from_header(&header).map_err(|what| vec![RowMistake::new(1, what)])?;
    let mut rows = Vec::new();
    let mut mistakes = Vec::new();
    for record in reader.records() {
        let line = rows.len() as u64 + mistakes.len() as u64 + 2;
        let record = match record {
            Ok(record) => record,
            Err(error) => {
                mistakes.push(unreadable(&error, line));
                // What follows a row that cannot be read would only be guessed at.
                break;
            }
        };
        let line = record.position().map_or(line, csv::Position::line);
        match columns.row(&record, line) {
            Ok(row) => rows.push(row),
            Err(what) => mistakes.push(RowMistake::new(line, what)),
        }
        if rows.len() > MAX_ROWS {
            mistakes.push(RowMistake::new(line, format!("a file may have at most {MAX_ROWS} rows")));
            break;
        }
    }
    mistakes.extend(addresses_that_stand_twice(&rows));
    if mistakes.is_empty() { Ok(rows) } else { Err(mistakes) }
}

/// A cell that a spreadsheet would run as a formula gets a quotation mark in front; reading takes it off again.
pub fn harmless(cell: &str) -> String {
    if cell.starts_with(FORMULA_STARTS) { format!("'{cell}") } else { cell.to_owned() }
}

const FORMULA_STARTS: [char; 6] = ['=', '+', '-', '@', '\t', '\r'];

fn unreadable(error: &csv::Error, line: u64) -> RowMistake {
    let line = error.position().map_or(line, csv::Position::line);
    match error.kind() {
        csv::ErrorKind::UnequalLengths { expected_len, len, .. } => {
            RowMistake::new(line, format!("this row has {len} cells, the header has {expected_len}"))
        }
        csv::ErrorKind::Utf8 { .. } => RowMistake::new(line, "this row is not UTF-8 text, save the file as CSV UTF-8"),
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
        let mut places = HashMap::new();
        for (index, name) in header.iter().enumerate() {
            let name = name.trim_start_matches('\u{feff}').to_lowercase();
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
        if record.iter().any(|cell| cell.contains('\0')) {
            return Err("a cell contains a NUL character".to_owned());
        }
        let user_id = cell(Some(self.user_id)).parse::<Mailbox>().map_err(|error| error.to_string())?;
        Ok(AccountRow {
            line,
            name: text(cell(self.name), "the name")?,
            aliases: match cell(self.aliases) {
                "" => Cell::Leave,
                "-" => Cell::Delete,
                list => Cell::Set(aliases(list, &user_id)?),
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
    if cell.chars().count() > 255 {
        return Err(format!("{what} is longer than 255 characters"));
    }
    Ok(match cell {
        "" => Cell::Leave,
        "-" => Cell::Delete,
        cell => match cell.strip_prefix('\'') {
            Some(rest) if rest.starts_with(FORMULA_STARTS) => Cell::Set(rest.to_owned()),
            _ => Cell::Set(cell.to_owned()),
        },
    })
}

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

fn addresses_that_stand_twice(rows: &[AccountRow]) -> Vec<RowMistake> {
    let mut first_lines: HashMap<&Mailbox, u64> = HashMap::with_capacity(rows.len());
    let mut mistakes = Vec::new();
    for row in rows {
        let aliases = match &row.aliases {
            Cell::Set(aliases) => aliases.as_slice(),
            Cell::Leave | Cell::Delete => &[],
        };
        for address in std::iter::once(&row.user_id).chain(aliases) {
            if let Some(first) = first_lines.insert(address, row.line) {
                mistakes.push(RowMistake::new(row.line, format!("{address} stands in line {first} already")));
            }
        }
    }
    mistakes
}
