//! Server-sent events, cut out of bytes that come in pieces of any size. Pure; frames keep their bytes, so what is not touched
//! goes on exactly as it came.

use std::borrow::Cow;

use bytes::{Bytes, BytesMut};
use memchr::memchr2;

/// The largest event: 4 MiB (previews of images are that large).
pub(crate) const MAX_EVENT: usize = 4 << 20;
const BOM: &[u8] = b"\xef\xbb\xbf";

/// An event that is larger than any should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("an event of the stream is larger than {MAX_EVENT} bytes")]
pub(crate) struct EventTooLarge;

/// One event (or a run of comments) with its closing blank line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Frame(Bytes);

impl Frame {
    /// The bytes as they came.
    pub(crate) fn into_bytes(self) -> Bytes {
        self.0
    }

    /// The `data` lines, joined by line feeds; `None` for a frame without any.
    pub(crate) fn data(&self) -> Option<Cow<'_, [u8]>> {
        let mut values = lines(&self.0).filter_map(|line| field(line, b"data"));
        let first = values.next()?;
        let Some(second) = values.next() else { return Some(Cow::Borrowed(first)) };
        let mut joined = first.to_vec();
        for value in std::iter::once(second).chain(values) {
            joined.push(b'\n');
            joined.extend_from_slice(value);
        }
        Some(Cow::Owned(joined))
    }

    /// The same frame with other data: further fields stay, comments go.
    pub(crate) fn with_data(&self, data: &[u8]) -> Bytes {
        let mut bytes = Vec::with_capacity(data.len() + 64);
        for name in [b"event".as_slice(), b"id", b"retry"] {
            for value in lines(&self.0).filter_map(|line| field(line, name)) {
                bytes.extend_from_slice(name);
                bytes.extend_from_slice(b": ");
                bytes.extend_from_slice(value);
                bytes.push(b'\n');
            }
        }
        bytes.extend_from_slice(b"data: ");
        bytes.extend_from_slice(data);
        bytes.extend_from_slice(b"\n\n");
        bytes.into()
    }
}

/// The lines of a frame, whatever ends them.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    bytes.strip_prefix(BOM).unwrap_or(bytes).split(|byte| matches!(byte, b'\n' | b'\r'))
}

/// The value of a line if it is the named field.
fn field<'a>(line: &'a [u8], name: &[u8]) -> Option<&'a [u8]> {
    match line.strip_prefix(name)? {
        [] => Some(b""),
        [b':', b' ', value @ ..] | [b':', value @ ..] => Some(value),
        _ => None,
    }
}

/// Cuts a stream into frames. Cuts depend on the bytes only, never on the pieces that they come in: a carriage return at the end
/// of a piece waits for the next byte, which may belong to it.
#[derive(Debug, Default)]
pub(crate) struct Splitter {
    buffer: BytesMut,
    /// How far the buffer was looked through.
    scanned: usize,
    /// Does the line at `scanned` have bytes before it?
    in_line: bool,
    /// Did the event have a line that is not blank?
    in_event: bool,
    /// Was the byte before `scanned` a carriage return?
    after_return: bool,
}

impl Splitter {
    /// Takes in the next piece.
    pub(crate) fn push(&mut self, piece: &[u8]) {
        self.buffer.extend_from_slice(piece);
    }

    /// Bytes of a frame that is not whole yet.
    pub(crate) fn waiting(&self) -> usize {
        self.buffer.len()
    }

    /// The next whole frame, if there is one.
    ///
    /// # Errors
    /// [`EventTooLarge`]; the stream cannot be read any further.
    pub(crate) fn next(&mut self) -> Result<Option<Frame>, EventTooLarge> {
        while let Some(byte) = self.buffer.get(self.scanned).copied() {
            if self.after_return {
                self.after_return = false;
                if byte == b'\n' {
                    self.scanned += 1;
                }
                if let Some(frame) = self.end_line() {
                    return Ok(Some(frame));
                }
                continue;
            }
            let rest = self.buffer.get(self.scanned..).unwrap_or_default();
            match memchr2(b'\n', b'\r', rest) {
                None => {
                    self.in_line = true;
                    self.scanned = self.buffer.len();
                }
                Some(length) => {
                    self.in_line |= length > 0;
                    self.after_return = rest.get(length) == Some(&b'\r');
                    self.scanned += length + 1;
                    if !self.after_return
                        && let Some(frame) = self.end_line()
                    {
                        return Ok(Some(frame));
                    }
                }
            }
        }
        if self.buffer.len() > MAX_EVENT { Err(EventTooLarge) } else { Ok(None) }
    }

    /// The line before `scanned` has ended; a blank one behind others ends the event.
    fn end_line(&mut self) -> Option<Frame> {
        let blank = !std::mem::take(&mut self.in_line);
        if blank && std::mem::take(&mut self.in_event) {
            let frame = self.buffer.split_to(std::mem::take(&mut self.scanned)).freeze();
            return Some(Frame(frame));
        }
        self.in_event |= !blank;
        None
    }

    /// What is left at the end of the stream: some servers leave the last blank line out. It is added here.
    pub(crate) fn finish(self) -> Option<Frame> {
        if !self.in_line && !self.in_event {
            return None;
        }
        let mut rest = self.buffer;
        rest.extend_from_slice(b"\n\n");
        Some(Frame(rest.freeze()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn split(pieces: &[&[u8]]) -> Vec<Vec<u8>> {
        let mut splitter = Splitter::default();
        let mut frames = Vec::new();
        for piece in pieces {
            splitter.push(piece);
            while let Some(frame) = splitter.next().unwrap() {
                frames.push(frame.into_bytes().to_vec());
            }
        }
        frames.extend(splitter.finish().map(|frame| frame.into_bytes().to_vec()));
        frames
    }

    fn data(bytes: &[u8]) -> Option<String> {
        Frame(Bytes::copy_from_slice(bytes)).data().map(|data| String::from_utf8(data.into_owned()).unwrap())
    }

    #[test]
    fn frames_end_with_a_blank_line_of_any_kind() {
        let frames = split(&[b"data: a\n\ndata: b\r\n\r\ndata: c\r\r: comment\n\n\n\nevent: x\ndata:d\n\ndata: e"]);
        let data: Vec<_> = frames.iter().map(|frame| data(frame)).collect();
        let expected = [Some("a"), Some("b"), Some("c"), None, Some("d"), Some("e")];
        assert_eq!(data, expected.map(|data| data.map(str::to_owned)));
    }

    #[test]
    fn fields_are_read_as_the_standard_says() {
        assert_eq!(data(b"data: a\ndata:  b\ndata\ndata:c\n\n").as_deref(), Some("a\n b\n\nc"));
        assert_eq!(data(b"\xef\xbb\xbfdata: a\n\n").as_deref(), Some("a"));
        assert_eq!(data(b"dat: a\ndatax: b\n:data: c\n\n"), None);
        let frame = Frame(Bytes::from_static(b": c\nevent: response.completed\r\ndata: {}\r\n\r\n"));
        assert_eq!(frame.with_data(b"{\"a\":1}"), "event: response.completed\ndata: {\"a\":1}\n\n");
    }

    #[test]
    fn an_endless_event_is_cut_off() {
        let mut splitter = Splitter::default();
        splitter.push(b"data: ");
        splitter.push(&vec![b'x'; MAX_EVENT]);
        assert_eq!(splitter.next(), Err(EventTooLarge));
    }

    fn line() -> impl Strategy<Value = Vec<u8>> {
        prop_oneof![
            Just(Vec::new()),
            "data: ?[a-zäß€😀\"{}:]{0,12}".prop_map(String::into_bytes),
            ":[a-z ]{0,5}".prop_map(String::into_bytes),
            "event: [a-z.]{1,9}".prop_map(String::into_bytes),
        ]
    }

    fn stream() -> impl Strategy<Value = Vec<u8>> {
        let end = prop_oneof![Just(b"\n".to_vec()), Just(b"\r\n".to_vec()), Just(b"\r".to_vec())];
        proptest::collection::vec((line(), end), 0..24)
            .prop_map(|lines| lines.into_iter().flat_map(|(line, end)| [line, end].concat()).collect())
    }

    proptest! {
        #[test]
        fn the_pieces_do_not_matter(stream in stream(), cuts in proptest::collection::vec(any::<prop::sample::Index>(), 0..8)) {
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
            cuts.extend([0, stream.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &stream[pair[0]..pair[1]]).collect();
            let whole = split(&[&stream]);
            prop_assert_eq!(&split(&pieces), &whole);
            let bytes: Vec<&[u8]> = stream.chunks(1).collect();
            prop_assert_eq!(&split(&bytes), &whole);
        }

        #[test]
        fn no_byte_is_lost(stream in stream()) {
            let joined = split(&[&stream]).concat();
            let joined = joined.strip_suffix(b"\n\n").unwrap_or(&joined);
            prop_assert!(stream.starts_with(joined));
            prop_assert!(stream[joined.len()..].iter().all(|byte| matches!(byte, b'\n' | b'\r')));
        }
    }
}
