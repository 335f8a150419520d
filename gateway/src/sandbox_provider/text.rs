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

/// The word at a place.
pub(super) fn word(index: u64) -> &'static str {
    let at = usize::try_from(index).unwrap_or(usize::MAX) % WORDS.len();
    WORDS.get(at).copied().unwrap_or_default()
}

/// So many words.
pub(super) fn words(count: u64) -> String {
    (0..count).map(word).collect()
}
