//! The report that proves that an incident is over: any file, known by its SHA-256 and size.

use std::fmt::{self, Write as _};
use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use sha2::{Digest as _, Sha256};

use crate::exit::{Exit, Failure};

/// What the log keeps of a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Report {
    /// SHA-256, 64 hexadecimal digits.
    pub(super) digest: String,
    pub(super) bytes: u64,
}

impl Report {
    /// Reads a file of any size, piece by piece.
    ///
    /// # Errors
    /// Exit 78 if it cannot be read, or is empty.
    pub(super) fn read(path: &Path) -> Result<Self, Failure> {
        let wrong = |problem: String| Failure::new(Exit::Config, format!("{}: {problem}", path.display()));
        let mut file = File::open(path).map_err(|error| wrong(error.to_string()))?;
        let (mut hash, mut bytes, mut piece) = (Sha256::new(), 0_u64, vec![0; 64 << 10]);
        loop {
            let read = file.read(&mut piece).map_err(|error| wrong(error.to_string()))?;
            if read == 0 {
                break;
            }
            hash.update(piece.get(..read).unwrap_or_default());
            bytes = bytes.saturating_add(u64::try_from(read).unwrap_or(u64::MAX));
        }
        if bytes == 0 {
            return Err(wrong("is empty, which proves nothing".to_owned()));
        }
        let digest = hash.finalize().iter().fold(String::with_capacity(64), |mut text, byte| {
            let _infallible = write!(text, "{byte:02x}");
            text
        });
        Ok(Self { digest, bytes })
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "sha256 {} · {} bytes", self.digest, self.bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_is_hashed_whole_and_an_empty_one_is_none() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("report.json");
        std::fs::write(&path, "abc").unwrap();
        // The first example of FIPS 180-2.
        let digest = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad".to_owned();
        assert_eq!(Report::read(&path).unwrap(), Report { digest, bytes: 3 });
        // Its third one: longer than one piece.
        std::fs::write(&path, "a".repeat(1_000_000)).unwrap();
        let digest = "cdc76e5c9914fb9281a1c7e284d73e67f1809a48a497200e046d39ccc7112cd0".to_owned();
        assert_eq!(Report::read(&path).unwrap(), Report { digest, bytes: 1_000_000 });
        std::fs::write(&path, "").unwrap();
        for (path, problem) in
            [(path.as_path(), "is empty"), (dir.path(), "directory"), (Path::new("/none"), "No such")]
        {
            let failure = Report::read(path).unwrap_err();
            assert!(failure.exit == Exit::Config && failure.message.contains(problem), "{}", failure.message);
        }
    }
}
