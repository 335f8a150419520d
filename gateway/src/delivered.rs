//! How much of an answer was generated, counted on the bytes that pass: only for estimates and marks, never where the provider
//! names its counts.

use memchr::memmem;

/// The version of this way of counting: rises whenever the same bytes would come to another number of tokens.
pub(crate) const COUNTER: u32 = 1;

/// What was generated so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Delivered {
    characters: u64,
}

/// Members whose texts are generated.
const CHAT: [&[u8]; 5] = [b"\"content\"", b"\"reasoning_content\"", b"\"arguments\"", b"\"refusal\"", b"\"reasoning\""];
/// The same in the events of a response; whole texts come again at its end.
const RESPONSES: [&[u8]; 1] = [b"\"delta\""];
/// The same in a response that comes in one piece.
const RESPONSE: [&[u8]; 2] = [b"\"text\"", b"\"arguments\""];

/// Where to look.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Shape {
    /// Chat completions, whole or in chunks.
    Chat,
    /// Events of a response.
    ResponseEvents,
    /// A whole response.
    Response,
}

impl Delivered {
    /// So many characters.
    pub(crate) const fn of_characters(characters: u64) -> Self {
        Self { characters }
    }

    /// How many characters.
    pub(crate) const fn characters(self) -> u64 {
        self.characters
    }

    /// The tokens that so many characters come to: a quarter of them, rounded up, as ModelFaucet 1.2 estimates.
    pub(crate) const fn tokens(self) -> u64 {
        self.characters.div_ceil(4)
    }

    /// Adds what is generated in a piece of JSON. Member names inside texts are quoted there, so they are not taken for members.
    pub(crate) fn add(&mut self, json: &[u8], shape: Shape) {
        let members = match shape {
            Shape::Chat => CHAT.as_slice(),
            Shape::ResponseEvents => &RESPONSES,
            Shape::Response => &RESPONSE,
        };
        for member in members {
            for at in memmem::find_iter(json, member) {
                let after = json.get(at + member.len()..).unwrap_or_default();
                self.characters = self.characters.saturating_add(text_value(after));
            }
        }
    }
}

/// The characters of a text behind `:`; 0 if the value is no text.
fn text_value(bytes: &[u8]) -> u64 {
    let mut rest = bytes.iter().copied().skip_while(u8::is_ascii_whitespace);
    if rest.next() != Some(b':') {
        return 0;
    }
    let mut rest = rest.skip_while(u8::is_ascii_whitespace);
    if rest.next() != Some(b'"') {
        return 0;
    }
    let mut characters = 0;
    while let Some(byte) = rest.next() {
        match byte {
            b'"' => return characters,
            b'\\' => {
                if rest.next() == Some(b'u') {
                    rest.by_ref().take(4).for_each(drop);
                }
                characters += 1;
            }
            // The later bytes of a character in UTF-8.
            0x80..=0xbf => {}
            _ => characters += 1,
        }
    }
    characters
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_counted_in_characters() {
        for (json, shape, characters) in [
            (r#"{"delta":{"content":"Hi"}}"#, Shape::Chat, 2),
            (r#"{"delta":{"content" : "a\"\u00e9\\ä€"}}"#, Shape::Chat, 6),
            (
                r#"{"delta":{"content":"","tool_calls":[{"function":{"arguments":"{\"content\":\"abc\"}"}}]}}"#,
                Shape::Chat,
                17,
            ),
            (r#"{"content":null,"reasoning_content":"abc"}"#, Shape::Chat, 3),
            (r#"{"type":"response.output_text.delta","delta":"abcd"}"#, Shape::ResponseEvents, 4),
            (r#"{"content":[{"type":"output_text","text":"abc"}]}"#, Shape::Response, 3),
            ("", Shape::Chat, 0),
        ] {
            let mut delivered = Delivered::default();
            delivered.add(json.as_bytes(), shape);
            assert_eq!(delivered, Delivered::of_characters(characters), "{json}");
        }
        assert_eq!(Delivered::of_characters(0).tokens(), 0);
        assert_eq!(Delivered::of_characters(1).tokens(), 1);
        assert_eq!(Delivered::of_characters(8).tokens(), 2);
    }
}
