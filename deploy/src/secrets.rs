//! Secrets that `up` makes for itself: files of mode 0600 in `DATA_DIR/secrets`, which has mode 0700.

use std::fs::{self, DirBuilder, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use modelfaucet_schema::token::{TokenKind, generate_token};
use secrecy::{ExposeSecret as _, SecretString};

/// The secrets of a data directory.
#[derive(Clone, Debug)]
pub(crate) struct Secrets {
    dir: PathBuf,
}

impl Secrets {
    /// Opens or creates the folder.
    pub(crate) fn open(data_dir: &Path) -> io::Result<Self> {
        let dir = data_dir.join("secrets");
        DirBuilder::new().recursive(true).mode(0o700).create(&dir)?;
        Ok(Self { dir })
    }

    /// Where a secret is kept.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// A secret, if it was kept.
    pub(crate) fn get(&self, name: &str) -> io::Result<Option<SecretString>> {
        match fs::read_to_string(self.path(name)) {
            Ok(text) => Ok(Some(SecretString::from(text.trim_end()))),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Keeps a secret: written beside and renamed, so that a crash leaves the old one or the new one.
    pub(crate) fn put(&self, name: &str, secret: &SecretString) -> io::Result<()> {
        let beside = self.path(&format!(".{name}.new"));
        let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(secret.expose_secret().as_bytes())?;
        file.write_all(b"\n")?;
        file.sync_all()?;
        fs::rename(&beside, self.path(name))?;
        fs::File::open(&self.dir)?.sync_all()
    }

    /// A secret; made and kept on first use.
    pub(crate) fn get_or_make(&self, name: &str, kind: TokenKind) -> io::Result<SecretString> {
        if let Some(secret) = self.get(name)? {
            return Ok(secret);
        }
        let secret = generate_token(kind).map_err(io::Error::other)?;
        self.put(name, &secret)?;
        Ok(secret)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt as _;

    #[test]
    fn a_secret_is_made_once_and_only_its_owner_may_read_it() {
        let dir = tempfile::tempdir().unwrap();
        let secrets = Secrets::open(dir.path()).unwrap();
        let made = secrets.get_or_make("admin_token", TokenKind::Admin).unwrap();
        let again = Secrets::open(dir.path()).unwrap().get_or_make("admin_token", TokenKind::Admin).unwrap();
        assert_eq!(made.expose_secret(), again.expose_secret());
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&secrets.path("admin_token")), mode(&secrets.dir)), (0o600, 0o700));
    }
}
