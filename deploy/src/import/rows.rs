//! The file as rows. It is read twice: once to check the header, count the rows and hash the content, once to send them; at no time
//! is more than a row in memory.

use std::fmt::Write as _;
use std::fs::File;
use std::io::{self, BufReader, Read, Seek as _, Take};
use std::path::Path;

use csv::{ByteRecord, Reader, ReaderBuilder};
use modelfaucet_schema::time::Timestamp;
use modelfaucet_schema::usage::{MAX_COUNT, Usage};
use sha2::{Digest as _, Sha256};

use super::columns::{Columns, Field};
use crate::exit::{Exit, Failure};

/// How the file is read at a time, in bytes.
const BUFFER: usize = 256 << 10;
/// The longest texts that the API takes, in characters: a user's id, a model, a provider's id.
const LONGEST: (usize, usize, usize) = (512, 256, 256);

/// A file that was looked through.
pub(crate) struct Source {
    file: File,
    /// Length when it was opened; what is appended later is not read.
    length: u64,
    /// Its name without folders, which names the users where no column does.
    pub(crate) name: String,
    /// The first 16 hex digits of its SHA-256.
    pub(crate) digest: String,
    pub(crate) rows: u64,
    pub(crate) header: Vec<String>,
    pub(crate) columns: Columns,
}

type CsvReader = Reader<Hashing<Take<BufReader<File>>>>;

impl Source {
    /// Opens a file, finds its columns, and reads it to the end for its hash and its number of rows.
    ///
    /// # Errors
    /// What is wrong, if there is no such file or a column is missing.
    pub(crate) fn open(path: &Path, said: &[(Field, String)]) -> Result<Self, String> {
        let wrong = |problem: String| format!("{}: {problem}", path.display());
        let cannot = |error: io::Error| wrong(format!("cannot be read: {error}"));
        let file = File::open(path).map_err(cannot)?;
        let facts = file.metadata().map_err(cannot)?;
        if !facts.is_file() {
            return Err(wrong("is not a file; a stream cannot be read twice, so save it first".to_owned()));
        }
        let mut reader = reader(&file, facts.len()).map_err(cannot)?;
        let header = reader.byte_headers().map_err(|error| wrong(error.to_string()))?;
        let header: Vec<String> =
            header.iter().map(|name| cell_text(name).trim_start_matches('\u{feff}').trim().to_owned()).collect();
        let columns = Columns::find(&header, said).map_err(wrong)?;
        let mut record = ByteRecord::new();
        let mut rows = 0;
        while reader.read_byte_record(&mut record).map_err(|error| wrong(error.to_string()))? {
            rows += 1;
        }
        let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let digest = reader.into_inner().digest();
        Ok(Self { length: facts.len(), file, name, digest, rows, header, columns })
    }

    /// The rows from `from` on, the first being 1.
    ///
    /// # Errors
    /// [`io::Error`] if the file cannot be read again.
    pub(crate) fn rows(&self, from: u64, plan: Plan) -> io::Result<Rows<'_>> {
        Ok(Rows {
            source: self,
            reader: Some(reader(&self.file, self.length)?),
            record: ByteRecord::new(),
            number: 0,
            from,
            plan,
        })
    }
}

fn reader(file: &File, length: u64) -> io::Result<CsvReader> {
    let mut file = file.try_clone()?;
    file.rewind()?;
    let hashing = Hashing { inner: BufReader::with_capacity(BUFFER, file).take(length), hash: Sha256::new() };
    // A row that is too short or too long is that row's fault only.
    Ok(ReaderBuilder::new().flexible(true).buffer_capacity(BUFFER).from_reader(hashing))
}

/// What the rows do not say.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    /// The model where no column names one.
    pub(crate) model: String,
    /// How many users share the rows where no column names them.
    pub(crate) users: u64,
}

/// A call that has happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Row {
    /// Its place, the first after the header being 1.
    pub(crate) number: u64,
    pub(crate) user: String,
    pub(crate) model: String,
    pub(crate) usage: Usage,
    pub(crate) occurred_at: Option<Timestamp>,
    pub(crate) provider_request_id: Option<String>,
}

/// A row that makes no sense.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct BadRow {
    pub(crate) number: u64,
    pub(crate) problem: String,
}

/// The rows of a file, one after the other.
pub(crate) struct Rows<'a> {
    source: &'a Source,
    /// Absent after the end.
    reader: Option<CsvReader>,
    record: ByteRecord,
    number: u64,
    from: u64,
    plan: Plan,
}

impl Rows<'_> {
    /// The next row, good or bad; `None` at the end.
    ///
    /// # Errors
    /// A [`Failure`] if the file cannot be read or was changed since it was opened.
    pub(crate) fn next(&mut self) -> Result<Option<Result<Row, BadRow>>, Failure> {
        while let Some(reader) = &mut self.reader {
            let more = reader.read_byte_record(&mut self.record);
            if !more.map_err(|error| Failure::new(Exit::Incomplete, format!("{}: {error}", self.source.name)))? {
                return self.end().map(|()| None);
            }
            self.number += 1;
            if self.number >= self.from {
                let row = self.row().map_err(|problem| BadRow { number: self.number, problem });
                return Ok(Some(row));
            }
        }
        Ok(None)
    }

    /// Row numbers are keys only as long as the content is what was hashed.
    fn end(&mut self) -> Result<(), Failure> {
        let digest = self.reader.take().map(|reader| reader.into_inner().digest());
        if digest.is_none_or(|digest| digest == self.source.digest) {
            return Ok(());
        }
        let message = format!(
            "{} was changed while it was read; restore it and import it again, or undo by hand",
            self.source.name
        );
        Err(Failure::new(Exit::Differences, message))
    }

    fn row(&self) -> Result<Row, String> {
        let columns = &self.source.columns;
        let input = self.count(Field::Input, columns.input)?;
        let output = self.count(Field::Output, columns.output)?;
        let cached = match columns.cached {
            Some(place) if !self.cell(place).is_empty() => self.count(Field::Cached, place)?,
            _ => 0,
        };
        let uncached =
            input.checked_sub(cached).ok_or_else(|| format!("cached is {cached}, more than the input of {input}"))?;
        let (longest_user, longest_model, longest_id) = LONGEST;
        let user = match columns.user {
            Some(place) => self.text(Field::User, place, longest_user)?.ok_or("user is empty")?,
            None => user(&self.source.name, self.number, self.plan.users),
        };
        let model = columns.model.map_or(Ok(None), |place| self.text(Field::Model, place, longest_model))?;
        Ok(Row {
            number: self.number,
            user,
            model: model.unwrap_or_else(|| self.plan.model.clone()),
            usage: Usage { input_uncached: uncached, cache_read: cached, output_text: output, ..Usage::default() },
            occurred_at: columns.time.map(|place| time(&self.cell(place))).transpose()?,
            provider_request_id: columns
                .request_id
                .map_or(Ok(None), |place| self.text(Field::RequestId, place, longest_id))?,
        })
    }

    fn cell(&self, place: usize) -> String {
        self.record.get(place).map(cell_text).unwrap_or_default().trim().to_owned()
    }

    fn count(&self, field: Field, place: usize) -> Result<u64, String> {
        count(&self.cell(place)).map_err(|problem| format!("{} {problem}", field.name()))
    }

    /// A text that may be absent.
    fn text(&self, field: Field, place: usize, longest: usize) -> Result<Option<String>, String> {
        let text = self.cell(place);
        if text.chars().any(char::is_control) || text.chars().count() > longest {
            return Err(format!("{} must have at most {longest} characters and no control characters", field.name()));
        }
        Ok((!text.is_empty()).then_some(text))
    }
}

fn cell_text(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    String::from_utf8_lossy(bytes)
}

/// A number of tokens: digits, at most [`MAX_COUNT`].
fn count(text: &str) -> Result<u64, String> {
    if text.is_empty() {
        return Err("is missing".to_owned());
    }
    if let Some(digits) = text.strip_prefix('-')
        && digits.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.')
    {
        return Err(format!("{text} is negative"));
    }
    if !text.bytes().all(|byte| byte.is_ascii_digit()) {
        let start: String = text.chars().take(40).collect();
        return Err(format!("{start:?} is not a whole number"));
    }
    text.parse().ok().filter(|count| *count <= MAX_COUNT).ok_or_else(|| format!("is above {MAX_COUNT}"))
}

/// A time: RFC 3339, or date and time without zone, which is UTC, or seconds, milliseconds or microseconds since 1970 (10, 13, 16
/// digits). Kept to the microsecond.
fn time(text: &str) -> Result<Timestamp, String> {
    if text.is_empty() {
        return Err("time is missing".to_owned());
    }
    let wrong = || {
        let start: String = text.chars().take(40).collect();
        format!("time {start:?} is not a time such as 2026-11-23 10:00:00.5 (UTC) or 2026-11-23T10:00:00+01:00")
    };
    let micros = if text.bytes().all(|byte| byte.is_ascii_digit()) {
        let number: i64 = text.parse().map_err(|_| wrong())?;
        match text.len() {
            10 => number.saturating_mul(1_000_000),
            13 => number.saturating_mul(1_000),
            16 => number,
            _ => return Err(wrong()),
        }
    } else {
        let stamp = match text.parse::<jiff::Timestamp>() {
            Ok(stamp) => stamp,
            // A date alone would put a day's calls at midnight.
            Err(_) if !text.contains(':') => return Err(wrong()),
            Err(_) => {
                let utc = text.parse::<jiff::civil::DateTime>().map(|time| time.to_zoned(jiff::tz::TimeZone::UTC));
                utc.ok().and_then(Result::ok).ok_or_else(wrong)?.timestamp()
            }
        };
        // Floor, also before 1970.
        i64::try_from(stamp.as_nanosecond().div_euclid(1_000)).map_err(|_| wrong())?
    };
    let time = Timestamp::from_micros(micros);
    if time.micros() == micros { Ok(time) } else { Err(wrong()) }
}

/// The user of a row where no column names one: the rows go round.
fn user(file: &str, number: u64, users: u64) -> String {
    let file: String = file.chars().filter(|c| !c.is_control()).collect();
    let turn = number.saturating_sub(1).checked_rem(users).unwrap_or_default();
    format!("{file}-user-{:04}", turn + 1)
}

/// Hashes what is read.
struct Hashing<R> {
    inner: R,
    hash: Sha256,
}

impl<R> Hashing<R> {
    /// The first 16 hex digits.
    fn digest(self) -> String {
        let mut text = String::new();
        for byte in self.hash.finalize().iter().take(8) {
            let _infallible = write!(text, "{byte:02x}");
        }
        text
    }
}

impl<R: Read> Read for Hashing<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = self.inner.read(buffer)?;
        self.hash.update(buffer.get(..length).unwrap_or_default());
        Ok(length)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write as _;

    fn source(content: &str) -> (tempfile::TempDir, Source) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("trace.csv");
        std::fs::write(&path, content).unwrap();
        let source = Source::open(&path, &[]).unwrap();
        (dir, source)
    }

    fn all(source: &Source, from: u64, users: u64) -> Vec<Result<Row, BadRow>> {
        let mut rows = source.rows(from, Plan { model: "gpt-4o-mini".to_owned(), users }).unwrap();
        let mut all = Vec::new();
        while let Some(row) = rows.next().map_err(|failure| failure.message).unwrap() {
            all.push(row);
        }
        all
    }

    #[test]
    fn times_without_zone_are_utc() {
        for (text, expected) in [
            ("2023-11-16 18:15:46.6805900", "2023-11-16T18:15:46.680590Z"),
            ("2023-11-16 18:15:46", "2023-11-16T18:15:46.000000Z"),
            ("2023-11-16T18:15:46.1234567+02:00", "2023-11-16T16:15:46.123456Z"),
            ("2023-11-16 18:15:46Z", "2023-11-16T18:15:46.000000Z"),
            ("1969-12-31T23:59:59.9999999Z", "1969-12-31T23:59:59.999999Z"),
            ("1700158546", "2023-11-16T18:15:46.000000Z"),
            ("1700158546680", "2023-11-16T18:15:46.680000Z"),
            ("1700158546680590", "2023-11-16T18:15:46.680590Z"),
        ] {
            assert_eq!(time(text).map(|time| time.to_string()).as_deref(), Ok(expected), "{text}");
        }
        for text in [
            "",
            "yesterday",
            "2023-11-16",
            "20231116",
            "16.11.2023 18:15",
            "2023-02-30 10:00:00",
            "9999-12-31T00:00:00Z",
            "-1",
        ] {
            assert!(time(text).is_err(), "{text}");
        }
    }

    #[test]
    fn counts_are_whole_numbers() {
        assert_eq!((count("0"), count("1000000000")), (Ok(0), Ok(1_000_000_000)));
        for (text, part) in [
            ("", "missing"),
            ("-3", "negative"),
            ("-3.5", "negative"),
            ("3.0", "whole"),
            ("+3", "whole"),
            ("1e3", "whole"),
            ("a few", "whole"),
            ("1000000001", "above"),
            ("99999999999999999999", "above"),
        ] {
            assert!(count(text).unwrap_err().contains(part), "{text}");
        }
    }

    #[test]
    fn rows_go_round_the_users_wherever_the_import_begins() {
        let (_dir, source) = source("input,output\n1,1\n2,2\n3,3\n4,4\n");
        let users = |from| all(&source, from, 3).into_iter().map(|row| row.unwrap().user).collect::<Vec<_>>();
        assert_eq!(
            users(1),
            ["trace.csv-user-0001", "trace.csv-user-0002", "trace.csv-user-0003", "trace.csv-user-0001"]
        );
        assert_eq!(users(3), users(1)[2..]);
        assert_eq!(source.rows, 4);
    }

    #[test]
    fn one_bad_row_is_one_bad_row() {
        let (_dir, source) = source(
            "\u{feff}time,input,output,cached,model,user,request_id\r\n\
             2023-11-16 18:15:46.6805900,374,44,74,gpt-4o,ann,req-1\r\n\
             2023-11-16 18:15:47,x,44,,,ann,\r\n\
             2023-11-16 18:15:47,10\r\n\
             ,10,1,,,ann,\r\n\
             2023-11-16 18:15:47,10,1,11,,ann,\r\n\
             2023-11-16 18:15:47,10,1,,,,\r\n\
             \r\n\
             2023-11-16 18:15:48,10,1,,,\"b, c\",\r\n",
        );
        let rows = all(&source, 1, 1);
        let usage = |input, cached, output| Usage { cache_read: cached, ..Usage::text(input, output) };
        let first = Row {
            number: 1,
            user: "ann".to_owned(),
            model: "gpt-4o".to_owned(),
            usage: usage(300, 74, 44),
            occurred_at: Some("2023-11-16T18:15:46.680590Z".parse().unwrap()),
            provider_request_id: Some("req-1".to_owned()),
        };
        assert_eq!(rows[0], Ok(first));
        for (index, part) in [
            (1, "input \"x\""),
            (2, "output is missing"),
            (3, "time is missing"),
            (4, "cached is 11"),
            (5, "user is empty"),
        ] {
            let bad = rows[index].as_ref().unwrap_err();
            assert_eq!(bad.number, index as u64 + 1);
            assert!(bad.problem.contains(part), "{}", bad.problem);
        }
        let last = rows[6].as_ref().unwrap();
        assert_eq!(
            (last.number, last.user.as_str(), last.model.as_str(), last.usage),
            (7, "b, c", "gpt-4o-mini", usage(10, 0, 1))
        );
        assert_eq!((rows.len(), source.rows), (7, 7));
    }

    #[test]
    fn the_hash_is_of_the_content_and_a_change_is_noticed() {
        let (dir, source) = source("input,output\n1,1\n");
        // printf 'input,output\n1,1\n' | sha256sum
        assert_eq!(source.digest, "947ea3c77d802b0d");
        let path = dir.path().join("trace.csv");
        let mut file = std::fs::OpenOptions::new().append(true).open(&path).unwrap();
        file.write_all(b"2,2\n").unwrap();
        assert_eq!(all(&source, 1, 1).len(), 1, "what is appended is another file");
        std::fs::write(&path, "input,output\n1,2\n").unwrap();
        let mut rows = source.rows(1, Plan { model: String::new(), users: 1 }).unwrap();
        assert!(matches!(rows.next(), Ok(Some(Ok(_)))));
        assert_eq!(rows.next().unwrap_err().exit, Exit::Differences);
    }

    #[test]
    fn a_file_that_cannot_be_imported_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let open = |path: &Path| Source::open(path, &[]).err().unwrap();
        assert!(open(&dir.path().join("none.csv")).contains("none.csv: cannot be read"));
        assert!(open(dir.path()).contains("is not a file"));
        let empty = dir.path().join("empty.csv");
        std::fs::write(&empty, "").unwrap();
        assert!(open(&empty).contains("no column for input"));
    }
}
