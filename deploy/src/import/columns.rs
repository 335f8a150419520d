//! Which column of a file holds what: by its name in the header, without regard to case, blanks and underscores, or as the user says.

use std::fmt::Write as _;

/// What a column can hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field {
    /// When the call happened.
    Time,
    /// Input tokens, those from the cache included.
    Input,
    /// Output tokens.
    Output,
    /// Those of the input tokens that came from the provider's cache.
    Cached,
    /// The model.
    Model,
    /// The app's own id of the user.
    User,
    /// The provider's id of the call.
    RequestId,
}

/// Every field: its name for `--column`, and the header names that are recognised.
const FIELDS: &[(Field, &str, &[&str])] = &[
    (Field::Time, "time", &["time", "timestamp", "occurred_at", "created_at"]),
    (Field::Input, "input", &["input", "prompt_tokens", "input_tokens", "ContextTokens"]),
    (Field::Output, "output", &["output", "completion_tokens", "output_tokens", "GeneratedTokens"]),
    (Field::Cached, "cached", &["cached", "cached_tokens"]),
    (Field::Model, "model", &["model"]),
    (Field::User, "user", &["user", "user_id"]),
    (Field::RequestId, "request_id", &["request_id"]),
];

impl Field {
    /// Its name for `--column` and in messages.
    pub(crate) fn name(self) -> &'static str {
        FIELDS.iter().find(|(field, ..)| *field == self).map_or("", |(_, name, _)| name)
    }
}

/// The places of the columns, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Columns {
    pub(crate) input: usize,
    pub(crate) output: usize,
    pub(crate) time: Option<usize>,
    pub(crate) cached: Option<usize>,
    pub(crate) model: Option<usize>,
    pub(crate) user: Option<usize>,
    pub(crate) request_id: Option<usize>,
}

impl Columns {
    /// Finds the columns; what the user has said wins.
    ///
    /// # Errors
    /// What is missing or ambiguous, and how to say it.
    pub(crate) fn find(header: &[String], said: &[(Field, String)]) -> Result<Self, String> {
        let place = |field| place_of(header, said, field);
        let required = |field: Field| place(field)?.ok_or_else(|| missing(header, field));
        Ok(Self {
            input: required(Field::Input)?,
            output: required(Field::Output)?,
            time: place(Field::Time)?,
            cached: place(Field::Cached)?,
            model: place(Field::Model)?,
            user: place(Field::User)?,
            request_id: place(Field::RequestId)?,
        })
    }

    /// `time=TIMESTAMP, input=ContextTokens, …`, for people.
    pub(crate) fn describe(&self, header: &[String]) -> String {
        let fields = [
            (Field::Time, self.time),
            (Field::Input, Some(self.input)),
            (Field::Cached, self.cached),
            (Field::Output, Some(self.output)),
            (Field::Model, self.model),
            (Field::User, self.user),
            (Field::RequestId, self.request_id),
        ];
        let known = fields.iter().filter_map(|(field, place)| Some((field.name(), header.get((*place)?)?)));
        known.map(|(name, column)| format!("{name}={column}")).collect::<Vec<_>>().join(", ")
    }
}

/// Parses `time=TIMESTAMP`.
///
/// # Errors
/// What is wrong with it, for the command line.
pub(crate) fn parse_choice(text: &str) -> Result<(Field, String), String> {
    let (name, column) = text.split_once('=').ok_or_else(|| format!("{text:?} is not of the form FIELD=COLUMN"))?;
    let field = FIELDS.iter().find(|(_, known, _)| same(known, name)).map(|(field, ..)| *field);
    let field = field.ok_or_else(|| {
        let names: Vec<_> = FIELDS.iter().map(|(_, name, _)| *name).collect();
        format!("{name:?} is none of {}", names.join(", "))
    })?;
    Ok((field, column.to_owned()))
}

fn place_of(header: &[String], said: &[(Field, String)], field: Field) -> Result<Option<usize>, String> {
    if let Some((_, column)) = said.iter().rev().find(|(known, _)| *known == field) {
        let exact = header.iter().position(|name| name == column);
        let found = exact.or_else(|| header.iter().position(|name| same(name, column)));
        return found.map(Some).ok_or_else(|| format!("there is no column {column:?}; {}", columns(header)));
    }
    let synonyms = synonyms(field);
    let is_meant = |name: &String| synonyms.iter().any(|synonym| same(synonym, name));
    let found: Vec<usize> =
        header.iter().enumerate().filter(|(_, name)| is_meant(name)).map(|(place, _)| place).collect();
    match found.as_slice() {
        [] => Ok(None),
        [place] => Ok(Some(*place)),
        several => {
            let names: Vec<_> = several.iter().filter_map(|place| header.get(*place)).map(String::as_str).collect();
            let field = field.name();
            Err(format!("several columns could be {field}: {}; say which with --column {field}=NAME", names.join(", ")))
        }
    }
}

fn missing(header: &[String], field: Field) -> String {
    let name = field.name();
    format!(
        "no column for {name}: its name must be one of {} (in any case), or say --column {name}=NAME; {}",
        synonyms(field).join(", "),
        columns(header)
    )
}

fn columns(header: &[String]) -> String {
    let mut text = String::from("the file has");
    for name in header {
        let _infallible = write!(text, " {name:?}");
    }
    text
}

fn synonyms(field: Field) -> &'static [&'static str] {
    FIELDS.iter().find(|(known, ..)| *known == field).map_or(&[], |(_, _, synonyms)| synonyms)
}

/// The same letters and digits, in any case.
fn same(a: &str, b: &str) -> bool {
    let letters =
        |text: &str| text.chars().filter(|c| c.is_alphanumeric()).flat_map(char::to_lowercase).collect::<String>();
    let (a, b) = (letters(a), letters(b));
    !a.is_empty() && a == b
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header(text: &str) -> Vec<String> {
        text.split(',').map(str::to_owned).collect()
    }

    #[test]
    fn columns_are_found_by_their_names() {
        for (text, expected) in [
            ("TIMESTAMP,ContextTokens,GeneratedTokens", [Some(0), Some(1), Some(2), None, None, None, None]),
            (
                "model,User ID,prompt_tokens,completion_tokens,cached_tokens,created_at,Request-Id",
                [Some(5), Some(2), Some(3), Some(4), Some(0), Some(1), Some(6)],
            ),
            ("output,input", [None, Some(1), Some(0), None, None, None, None]),
            ("OUTPUT_TOKENS,inputTokens,note,user", [None, Some(1), Some(0), None, None, Some(3), None]),
        ] {
            let found = Columns::find(&header(text), &[]).unwrap();
            let places = [
                found.time,
                Some(found.input),
                Some(found.output),
                found.cached,
                found.model,
                found.user,
                found.request_id,
            ];
            assert_eq!(places, expected, "{text}");
        }
    }

    #[test]
    fn the_user_has_the_last_word() {
        let said = ["input=b", "TIME=When", "input=Tokens In"].map(|text| parse_choice(text).unwrap());
        let header = header("input,when,tokens_in,output");
        let found = Columns::find(&header, &said).unwrap();
        assert_eq!((found.input, found.time), (2, Some(1)));
        assert_eq!(found.describe(&header), "time=when, input=tokens_in, output=output");
    }

    #[test]
    fn what_is_missing_is_said_with_its_synonyms() {
        for (text, said, parts) in [
            (
                "time,output",
                &[][..],
                &["no column for input", "prompt_tokens", "ContextTokens", "--column input=", "\"time\" \"output\""][..],
            ),
            ("input", &[], &["no column for output", "completion_tokens"]),
            ("input,output", &["time=when"], &["no column \"when\"", "\"input\" \"output\""]),
            ("input,prompt_tokens,output", &[], &["several", "input, prompt_tokens", "--column input=NAME"]),
        ] {
            let said: Vec<_> = said.iter().map(|text| parse_choice(text).unwrap()).collect();
            let problem = Columns::find(&header(text), &said).unwrap_err();
            for part in parts {
                assert!(problem.contains(part), "{problem} lacks {part}");
            }
        }
        assert!(parse_choice("time").is_err());
        assert!(parse_choice("colour=x").unwrap_err().contains("request_id"));
    }
}
