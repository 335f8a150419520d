//! Where an export goes: to standard output, or to a file that appears complete or not at all.

use std::fs::{File, OpenOptions};
use std::io::{BufWriter, Stdout, Write};
use std::path::{Path, PathBuf};

use super::written;
use crate::exit::{Exit, Failure};

/// Large enough that writing is rarely a system call.
const BUFFER: usize = 1 << 18;

/// An open output. Dropped without [`Output::commit`], a file is not there.
pub(super) enum Output {
    Standard(BufWriter<Stdout>),
    File { file: BufWriter<File>, temporary: PathBuf, target: PathBuf },
}

impl Output {
    pub(super) fn create(target: &Path) -> Result<Self, Failure> {
        if target == Path::new("-") {
            return Ok(Self::Standard(BufWriter::with_capacity(BUFFER, std::io::stdout())));
        }
        let name = target
            .file_name()
            .ok_or_else(|| Failure::new(Exit::Config, format!("--output {} names no file", target.display())))?;
        // Beside the target, since a rename does not cross file systems.
        let temporary = target.with_file_name(format!(".{}.{}.tmp", name.to_string_lossy(), std::process::id()));
        let file = OpenOptions::new().write(true).create_new(true).open(&temporary);
        let file = file.map_err(|error| {
            Failure::new(Exit::Temporary, format!("cannot create {}: {error}", temporary.display()))
        })?;
        Ok(Self::File { file: BufWriter::with_capacity(BUFFER, file), temporary, target: target.to_owned() })
    }

    /// Everything is written: puts the file in its place.
    pub(super) fn commit(mut self) -> Result<(), Failure> {
        written(self.flush())?;
        if let Self::File { file, temporary, target } = &self {
            written(file.get_ref().sync_all())?;
            written(std::fs::rename(temporary, target))?;
            let parent = target.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
            written(File::open(parent).and_then(|parent| parent.sync_all()))?;
        }
        Ok(())
    }
}

impl Drop for Output {
    fn drop(&mut self) {
        if let Self::File { temporary, .. } = self {
            // Gone already if it was committed.
            let _ = std::fs::remove_file(temporary);
        }
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        match self {
            Self::Standard(out) => out.write(bytes),
            Self::File { file, .. } => file.write(bytes),
        }
    }

    fn flush(&mut self) -> std::io::Result<()> {
        match self {
            Self::Standard(out) => out.flush(),
            Self::File { file, .. } => file.flush(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_appears_complete_or_not_at_all() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("journal.csv");
        std::fs::write(&target, "old").unwrap();
        let mut dropped = Output::create(&target).unwrap();
        dropped.write_all(b"half").unwrap();
        drop(dropped);
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "old");
        let mut kept = Output::create(&target).unwrap();
        kept.write_all(b"new").unwrap();
        kept.commit().unwrap();
        assert_eq!(std::fs::read_to_string(&target).unwrap(), "new");
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
