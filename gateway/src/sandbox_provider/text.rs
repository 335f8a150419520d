//! Words to answer with. One word is one token.

const WORDS: &[&str] = &[
    "This",
    " is",
    " a",
    " made-up",
    " answer",
    " of",
    " the",
    " sandbox",
    " provider",
    ":",
    " every",
    " word",
    " counts",
    " as",
    " one",
    " token",
    ",",
    " and",
    " nothing",
    " left",
    " this",
    " machine",
    ".",
];

/// The word at a place; of four characters, if words are to be even: then a count of characters is a count of tokens.
pub(super) fn word(index: u64, even: bool) -> &'static str {
    if even {
        return " one";
    }
    let at = usize::try_from(index).unwrap_or(usize::MAX) % WORDS.len();
    WORDS.get(at).copied().unwrap_or_default()
}

/// So many words.
pub(super) fn words(count: u64, even: bool) -> String {
    (0..count).map(|index| word(index, even)).collect()
}
