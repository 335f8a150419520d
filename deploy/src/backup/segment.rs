//! Names of WAL segments: 8 hexadecimal digits each for timeline, block of 4 GiB, and segment in it.

use crate::heads::Lsn;

/// What a segment holds unless the server was made otherwise, in bytes.
pub(super) const USUAL_SIZE: u64 = 16 << 20;
/// What the middle part of a name counts, in bytes.
const BLOCK: u64 = 1 << 32;

/// A segment by its number from the beginning of the WAL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Segment {
    pub(crate) timeline: u32,
    pub(crate) number: u64,
}

impl Segment {
    /// The segment that holds a place.
    pub(crate) fn of(timeline: u32, lsn: Lsn, size: u64) -> Self {
        Self { timeline, number: lsn.0 / size }
    }

    /// Reads a file name, without `.partial`.
    pub(crate) fn parse(name: &str, size: u64) -> Option<Self> {
        if name.len() != 24 || !name.bytes().all(|byte| byte.is_ascii_digit() || (b'A'..=b'F').contains(&byte)) {
            return None;
        }
        let part = |at: usize| u64::from_str_radix(&name[at..at + 8], 16).ok();
        let timeline = u32::try_from(part(0)?).ok()?;
        Some(Self { timeline, number: part(8)? * (BLOCK / size) + part(16)? })
    }

    /// The file name.
    pub(crate) fn name(self, size: u64) -> String {
        let per_block = BLOCK / size;
        format!("{:08X}{:08X}{:08X}", self.timeline, self.number / per_block, self.number % per_block)
    }

    /// The first place that it holds.
    pub(crate) fn start(self, size: u64) -> Lsn {
        Lsn(self.number * size)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_those_of_postgresql() {
        let segment = Segment::of(1, "1/FF000028".parse().unwrap(), USUAL_SIZE);
        assert_eq!(segment.name(USUAL_SIZE), "0000000100000001000000FF");
        let next = Segment { number: segment.number + 1, ..segment };
        assert_eq!(next.name(USUAL_SIZE), "000000010000000200000000");
        assert_eq!(next.start(USUAL_SIZE).to_string(), "2/0");
        assert_eq!(Segment::parse("000000010000000200000000", USUAL_SIZE), Some(next));
        for wrong in ["", "00000001.history", "00000001000000020000000G", "0000000100000002000000001"] {
            assert_eq!(Segment::parse(wrong, USUAL_SIZE), None, "{wrong}");
        }
    }
}
